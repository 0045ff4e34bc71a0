"""Processes end with the one that started them, however it ends; at length by `pytest -m slow`."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY, slowly

from lib.files import read_json
from lib.process import PARENT

CHILD = """
import pathlib, sys, time
from lib import process
def main():
    pathlib.Path(sys.argv[1]).touch()
    time.sleep(300)
process.cli(main)
"""
BETWEEN = "import subprocess, sys; subprocess.run(sys.argv[1:])"  # as torchrun stands between us and a worker
COMPARISON = """
import sys, time
from lib import process
def main():
    child = [sys.executable, "-c", {child!r}]
    own = process.start([*child, "own"])
    process.start([sys.executable, "-c", {between!r}, *child, "below"])
    own.wait()
process.cli(main)
"""


def marked(name):
    """{pid: its parent} of the processes that work in a folder of this name, the dead left out."""
    found = {}
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            state = (place / "stat").read_text().rpartition(")")[2].split()
            if os.readlink(place / "cwd") == str(name) and state[0] not in "ZX":
                found[int(place.name)] = int(state[1])
        except OSError:
            pass
    return found


def until(holds, seconds=90):
    """Wait until holds() is true; what it returned."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)
    return found


def start(folder, *command):
    """Python in a folder, whose parent is no process of ours."""
    env = {name: value for name, value in os.environ.items() if name != PARENT} | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=folder, env=env, stderr=subprocess.PIPE)


needs_proc = pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@needs_proc
@pytest.mark.parametrize("sent", [*map(slowly, (signal.SIGTERM, signal.SIGHUP)), signal.SIGKILL])
def test_children_end_with_their_parent(tmp_path, sent):
    process = start(tmp_path, "-c", COMPARISON.format(child=CHILD, between=BETWEEN))
    until(lambda: (tmp_path / "own").exists() and (tmp_path / "below").exists())
    assert len(marked(tmp_path)) == 4
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == (-sent if sent == signal.SIGKILL else 128 + sent)
    until(lambda: not marked(tmp_path), 20)


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    code = CHILD.replace("time.sleep(300)", "signal.raise_signal(signal.SIGHUP)").replace("import", "import signal,", 1)
    process = start(tmp_path, "-c", f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{code}", "there")
    process.communicate(timeout=60)
    assert process.returncode == 0  # nohup python train.py


FLAGS = [
    "--data", TINY, "--batch_size", 8, "--dim", 16, "--vocab_size", 400, "--negatives", "in_batch", "random:1",
    "--jobs", 2, "--name", "c", "--log_every", 1, "--eval_every", 20,
]  # fmt: skip


def logged(folder, steps):
    """Whether both runs have come this far."""
    logs = [folder / "runs/c" / name / "metrics.jsonl" for name in ("in_batch-s0", "random-1-s0")]
    return all(log.exists() and log.read_bytes().count(b'"event": "step"') >= steps for log in logs)


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("steps", [None, 5, 190], ids=["start", "during", "near the end"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_comparison_leaves_no_orphans_and_goes_on(tmp_path, sent, steps):
    flags = [*FLAGS, "--steps", 200]
    process = start(tmp_path, ROOT / "train.py", *flags)
    until(lambda: len(marked(tmp_path)) >= 3 if steps is None else logged(tmp_path, steps))
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == (-sent if sent == signal.SIGKILL else 128 + sent)
    until(lambda: not marked(tmp_path), 30)
    again = start(tmp_path, ROOT / "train.py", *flags, "--resume")
    errors = again.communicate(timeout=240)[1].decode()
    assert again.returncode == 0, errors[-500:]
    assert read_json(tmp_path / "runs/c/in_batch-s0/summary.json")["steps"] == 200
    shutil.rmtree(tmp_path / "runs")
