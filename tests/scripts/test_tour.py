"""The commands of docs/tour.md, one after the other, on a small collection in place of the embedded one."""

import shlex
import shutil

from conftest import ROOT, TINY
from test_comparison import in_this_process
from test_readme import commands_of

from lib.data import readers
from lib.evaluation import experiment

SMALL = ("--dim", "16", "--vocab_size", "300", "--steps", "2", "--seeds", "0")  # of what is trained


def test_every_command_of_the_tour_runs(launch, monkeypatch, tmp_path, capsys):
    shutil.copytree(TINY, tmp_path / "python")
    small = (lambda spec: ("python", tmp_path / "python"), "a small one")
    monkeypatch.setitem(readers.EMBEDDED, "python", small)
    monkeypatch.setattr(experiment, "run_jobs", in_this_process)
    commands, printed = commands_of((ROOT / "docs/tour.md").read_text(encoding="utf-8")), []
    for command in commands:
        script, *flags = shlex.split(command, comments=True)[1:]
        assert launch(script, *flags, *(SMALL if script == "train.py" else ()), cwd=tmp_path) == 0, command
        printed.append(capsys.readouterr().out)
    for figure in ("training", "ledger"):
        assert (tmp_path / f"runs/python-refresh-4-s0/plots/{figure}.png").exists()
    following = [
        line[8:].partition("     # ")[0] for out in printed for line in out.splitlines() if line[:8] == "next    "
    ]
    assert len(commands) >= 10 and set(following) & set(commands)  # a step says what the next one is
