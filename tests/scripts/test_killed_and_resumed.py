"""SIGKILL at random steps, resumed: the bytes of the run that was left alone. Slow: pytest -m slow."""

import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY

FLAGS = [
    "--data", str(TINY), "--batch_size", "8", "--dim", "16", "--vocab_size", "400", "--steps", "60",
    "--eval_every", "3", "--log_every", "1", "--refresh_every", "4",
    "--negatives", "random:1+refresh:2,refresh:2+queue:20@0.5",
]  # fmt: skip


def start(folder, name, *flags):
    command = [sys.executable, str(ROOT / "train.py"), *FLAGS, "--name", name, *flags]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_killed_twenty_times_and_resumed(tmp_path):
    assert start(tmp_path, "whole").wait() == 0
    log, kills = tmp_path / "runs" / "cut" / "metrics.jsonl", 0
    choose = random.Random(0)
    while not (tmp_path / "runs" / "cut" / "summary.json").exists():
        process = start(tmp_path, "cut", "--resume")
        lines = 0 if not log.exists() else len(log.read_bytes().splitlines())
        wanted = lines + choose.randint(2, 6)  # kill once this many lines stand there
        while process.poll() is None and kills < 20:
            if log.exists() and len(log.read_bytes().splitlines()) >= wanted:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        process.wait()
    assert kills >= 10
    for file in ("metrics.jsonl", "encoder/model.safetensors", "eval/tiny-test/per_query.jsonl"):
        whole, cut = (tmp_path / "runs" / name / file for name in ("whole", "cut"))
        assert cut.read_bytes() == whole.read_bytes(), file


@pytest.mark.slow
def test_a_race_that_was_killed_three_times_ends_alike(tmp_path):
    race = [sys.executable, str(ROOT / "train.py"), "--data", str(TINY), "--race", "--batch_size", "8", "--dim", "16",
            "--vocab_size", "400", "--steps", "20", "--seeds", "0", "1",
            "--negatives", "in_batch", "random:2"]  # fmt: skip
    quiet = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert subprocess.Popen([*race, "--name", "whole"], **quiet).wait() == 0
    for looks in (1, 3, 4):  # values of dev that are there when it is killed
        process = subprocess.Popen([*race, "--name", "cut", "--resume"], **quiet)
        while process.poll() is None and len(list((tmp_path / "runs/cut").glob("*/dev/*.npy"))) < looks:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(2)  # the run that it had started ends with it
    assert subprocess.Popen([*race, "--name", "cut", "--resume"], **quiet).wait() == 0
    whole, cut = ((tmp_path / "runs" / name / "race.json").read_bytes() for name in ("whole", "cut"))
    assert cut == whole
