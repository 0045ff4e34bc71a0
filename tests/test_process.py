"""Scripts as processes: how they end, what they print and what they never show."""

import contextlib
import errno
import json
import os
import signal
import sys
import time

import pytest
from tqdm import tqdm

from lib import cli, process, run
from lib.files import BadInput


@pytest.mark.parametrize(
    "error, code, message",
    [(BadInput("a.tsv:3: wrong"), 2, "error: a.tsv:3: wrong\n"), (KeyboardInterrupt(), 130, "interrupted")],
)
def test_exit_codes(error, code, message, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as stopped:
        process.cli(fail)
    assert stopped.value.code == code and capsys.readouterr().err.startswith(message)


def test_programmers_errors_keep_their_traceback():
    def fail():
        raise IndexError("programmer")

    with pytest.raises(IndexError):
        process.cli(fail)
    process.cli(lambda: None)


def test_errors_are_one_line_without_escape_sequences(capsys):
    def fail():
        raise BadInput("doc \x1b[31mred\x07\nsecond line " + "x" * 9999)

    with pytest.raises(SystemExit):
        process.cli(fail)
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "\x1b" not in message and "\x07" not in message and len(message) < 2100


@pytest.mark.parametrize("number", ["ENOSPC", "EACCES", "EROFS", "ENAMETOOLONG"])
def test_what_the_disk_refuses_is_one_line(capsys, number):
    def fail():
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)), "runs/x/state.pt")

    with pytest.raises(SystemExit) as stopped:
        process.cli(fail)
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and message.startswith("error: runs/x/state.pt: ") and message.count("\n") == 1


def test_progress_in_a_log_is_whole_lines_and_none_for_what_is_quick(monkeypatch, capsys):
    def work():
        for _ in tqdm(range(5), desc="quick", delay=0):
            pass
        monkeypatch.setattr(process, "EVERY", 0.05)
        for _ in tqdm(range(6), desc="slow", unit="doc"):
            time.sleep(0.03)

    process.cli(work)
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert 1 <= len(lines) <= 4 and all(line.startswith("slow: ") and line.endswith("\n") for line in lines)
    assert "doc" in lines[0] and not any("\r" in line for line in lines)
    for _ in tqdm(range(2), desc="afterwards"):  # as it was
        pass
    assert "afterwards: 100%" in capsys.readouterr().err


def test_secrets_are_not_printed_and_not_recorded(monkeypatch, capsys):
    key = "sk-Secret-of-this-test"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    parser = cli.Parser("doc")
    parser.add_argument("--data")
    flags = ["--data", f"https://me:pass@host/{key}"]
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])

    def main():
        args = parser.parse_args(flags)
        cli.print_header("title", args, parser, {"key": key})
        print(json.dumps(run.record(args, parser, derived={}, inputs={})["args"]))
        print(run.record(args, parser, derived={}, inputs={})["argv"])
        raise BadInput("x" * (2000 - len(key) // 2) + f" {key}")  # where a long message is cut

    with pytest.raises(SystemExit):
        process.cli(main)
    told = "".join(capsys.readouterr())
    assert key[:5] not in told and "me:pass" not in told and told.count("https://***@host/***") == 3
    monkeypatch.setenv("OPENAI_API_KEY", "test")  # what a server is given that wants none
    assert process.hidden("test mrr@10") == "test mrr@10"


@pytest.mark.parametrize("error", [None, BadInput("wrong"), IndexError("ours")], ids=repr)
def test_what_is_asked_for_happens_at_the_end_however_a_script_ends(error):
    happened = []

    def main():
        process.at_end(lambda: happened.append("first"))
        process.at_end(lambda: happened.append("second"))
        assert happened == []
        if error:
            raise error

    with contextlib.suppress(SystemExit, IndexError):
        process.cli(main)
    assert happened == ["second", "first"]


def test_what_is_printed_outlives_its_reader_and_leaves_no_handler(monkeypatch):
    before = sys.stdout, signal.getsignal(signal.SIGTERM)
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", buffering=1) as gone, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", gone)
        process.cli(lambda: print("to nobody"))
    assert (sys.stdout, signal.getsignal(signal.SIGTERM)) == before
