"""Scripts as processes: how they end, what they print and what they never show."""

import errno
import json
import os
import sys

import pytest

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
