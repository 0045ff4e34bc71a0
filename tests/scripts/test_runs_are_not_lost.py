"""Runs that cannot be lost: by a reader that leaves, a figure or an --overwrite that fails, two writers, quotas."""

import fcntl
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, TINY

import train
from lib import process, run
from lib.evaluation import experiment, plots
from lib.files import BadInput, atomic_path, read_json

FLAGS = ("--data", "tiny", "--dim", 16, "--vocab_size", 400, "--batch_size", 9, "--negatives", "bm25:1")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the collection at tiny/."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(TINY, folder / "tiny")
    return folder


def start(desk, *flags, **how):
    """train.py as a process."""
    command = [sys.executable, str(ROOT / "train.py"), *map(str, FLAGS), *map(str, flags)]
    return subprocess.Popen(command, cwd=desk, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}, **how)


def test_a_reader_that_leaves_ends_no_training(desk):
    training = start(desk, "--steps", 4, "--name", "read", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    training.stdout.readline()
    training.stdout.close()
    assert training.wait(120) == 0
    assert read_json(desk / "runs/read/summary.json")["steps"] == 4
    assert (desk / "runs/read/plots/training.png").exists()


@pytest.mark.parametrize("text", [r"costs $5 or $x_1 < \frac{a}{b}$", "50% of $ and \\", "a $ b"])
def test_text_in_figures_is_literal(tmp_path, rendered, text):
    with plots.figure(tmp_path / "figure.png") as ax:
        ax.set_title(text)
        ax.plot([1, 2], label=text)
        plots.legend_beside(ax)
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_a_figure_that_fails_is_a_warning(tmp_path, capsys):
    with plots.optional(tmp_path):
        raise RuntimeError("no such font")
    assert "figures could not be drawn (RuntimeError: no such font)" in capsys.readouterr().out


class Writer:
    """A part of a run with a state."""

    def state_dict(self):
        """Nothing."""
        return {}

    def load_state_dict(self, state):
        """Nothing."""


def config(**args):
    """A config.json."""
    return {"args": args, "inputs": {}, "derived": {}}


@pytest.fixture
def finished(tmp_path):
    """A finished run, its process gone."""
    made = run.Run.create(tmp_path / "r", overwrite=False, config=config(lr=1))
    made.log("step", {"step": 0})
    made.finish({"done": True})
    let_go()
    return made.path


def let_go():
    """What the end of a process does."""
    for held in run._LOCKS.values():
        held.release()
    run._LOCKS.clear()
    process._AT_END.clear()


def contents(folder):
    """{name: bytes} of a folder's files."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != run.LOCK}


@pytest.mark.parametrize("killed", [True, False])
def test_what_overwrite_replaces_stays_until_there_is_a_checkpoint(finished, killed):
    before = contents(finished)

    def fail():
        run.Run.create(finished, overwrite=True, config=config(lr=2)).log("step", {"step": 0})
        assert contents(finished) != before
        raise BadInput("found out late")

    if killed:
        with pytest.raises(BadInput):
            fail()
        let_go()
        with pytest.raises(BadInput, match="is not empty"):  # the next command finds it again
            run.Run.create(finished, overwrite=False, config=config(lr=3))
    else:
        with pytest.raises(SystemExit):
            process.cli(fail)
    assert contents(finished) == before and [p.name for p in finished.parent.iterdir()] == ["r"]


def test_a_checkpoint_ends_what_was_set_aside(finished):
    new = run.Run.create(finished, overwrite=True, config=config(lr=2))
    assert len(list(finished.parent.iterdir())) == 2
    new.save_state({"part": Writer()}, {"step": 1})
    assert [p.name for p in finished.parent.iterdir()] == ["r"] and not (finished / "summary.json").exists()


def test_finished_runs_of_a_comparison_are_not_undone(finished):
    run.Run.create(finished, overwrite=True, config=config(lr=2))  # a comparison: its runs have folders of their own
    inner = run.Run.create(finished / "in_batch-s0", overwrite=False, config=config(lr=2))
    inner.finish({"done": True})
    with pytest.raises(SystemExit) as stopped:  # and then it is interrupted
        process.cli(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert stopped.value.code == 130
    assert (finished / "in_batch-s0/summary.json").exists() and [p.name for p in finished.parent.iterdir()] == ["r"]


def test_a_second_command_leaves_alone_what_the_first_has_set_aside(finished):
    with open(finished / run.LOCK, "w") as other:
        shutil.copytree(finished, finished.with_name(".r.replaced"))
        (finished / "summary.json").unlink()
        fcntl.flock(other, fcntl.LOCK_EX)
        before = contents(finished)
        with pytest.raises(BadInput, match="another process is writing there"):
            run.Run.create(finished, overwrite=False, config=config(lr=1))
        assert contents(finished) == before


def test_two_processes_cannot_write_one_run(tmp_path):
    (tmp_path / "r").mkdir()
    with open(tmp_path / "r" / run.LOCK, "w") as other:  # as another process holds it: a lock belongs to an open file
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="r: another process is writing there"):
            run.Run.create(tmp_path / "r", overwrite=False, config=config(lr=1))
        assert [path.name for path in (tmp_path / "r").iterdir()] == [run.LOCK]
    made = run.Run.create(tmp_path / "r", overwrite=False, config=config(lr=1))  # it is gone, whatever it died of
    with open(made.path / run.LOCK) as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_resume_cuts_its_own_logs_and_no_other_file(tmp_path):
    made = run.Run.create(tmp_path / "r", overwrite=False, config=config(lr=1))
    made.log("step", {"step": 0})
    made.save_state({"part": Writer()}, {"step": 1})
    made.log("step", {"step": 1})
    (made.path / "notes.jsonl").write_text('{"mine": 1}\n')
    assert made.load_state({"part": Writer()}) == {"step": 1}
    assert [line["step"] for line in made.read_log()] == [0]
    assert json.loads((made.path / "notes.jsonl").read_text()) == {"mine": 1}
    os.truncate(made.path / "metrics.jsonl", 3)
    with pytest.raises(BadInput, match="metrics.jsonl has 3 bytes and had .* lines are missing"):
        made.load_state({"part": Writer()})


def refused_in(desk, *flags):
    """What train.py says in its last line, from this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.setattr(sys, "argv", ["train.py", *map(str, FLAGS), *map(str, flags)])
        with pytest.raises(SystemExit) as stopped:
            process.cli(train.main)
    assert stopped.value.code == 2 and not (desk / "runs/refused").exists()


def test_dims_beyond_the_vectors_are_refused_before_anything_is_written(desk, capsys):
    refused_in(desk, "--steps", 1, "--dims", 99, "--name", "refused")
    assert capsys.readouterr().err.splitlines()[-1] == "error: --dims 99: the vectors have 16 dimensions"


# --------------------------------------------------------------------------------------------------- the disk


def test_a_cache_that_cannot_be_made_is_one_line(desk, capsys, monkeypatch):
    (desk / "file").write_text("no folder")
    monkeypatch.setenv("HARDNEG_CACHE", str(desk / "file/below"))
    refused_in(desk, "--steps", 1, "--name", "refused")
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


WRITERS = {
    "torch": "torch.save(torch.zeros(1 << 18), path)",
    "safetensors": "path.mkdir(); safetensors.torch.save_file({'x': torch.zeros(1 << 18)}, path / 'x')",
    "faiss": "faiss.write_index(index, str(path))",
    "npy": "np.save(open(path, 'wb'), np.zeros(1 << 17))",
    "npz": "np.savez(open(path, 'wb'), x=np.zeros(1 << 17))",
    "bytes": "path.write_bytes(bytes(1 << 20))",
}


def test_a_quota_in_the_middle_of_a_file_is_one_line_and_leaves_the_old_one(tmp_path):
    for name in WRITERS:
        (tmp_path / name).write_text("old")
    code = f"""
import resource, sys, faiss, numpy as np, safetensors.torch, torch
from lib import process
from lib.files import atomic_path

def main():
    with atomic_path(name) as path:
        exec(write)

index = faiss.IndexFlatIP(64)
index.add(np.zeros((4096, 64), dtype="float32"))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # as a quota: a file ends where it may not grow
for name, write in {WRITERS}.items():
    try:
        process.cli(main)
    except SystemExit as stopped:
        print(name, stopped.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ROOT},
    )
    assert done.stdout == "".join(f"{name} 2\n" for name in WRITERS)
    assert done.stderr == "".join(f"error: {name}: File too large\n" for name in WRITERS)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(WRITERS, "old")


def test_what_fails_for_another_reason_than_the_disk_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="of its own"), atomic_path(tmp_path / "it") as path:
        path.mkdir()
        (path / "part").write_text("x")
        raise RuntimeError("of its own")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [".r.replaced", "a/.b", ".", "..", "a//b", "/a", "a/../b"])
def test_names_of_our_own_are_refused(name):
    with pytest.raises(BadInput, match="begins with a dot"):
        run.run_path(name)


def test_a_comparison_leaves_the_output_of_a_run_at_work_alone(tmp_path):
    folder, output = tmp_path / "c" / "in_batch-s0", tmp_path / "c" / "output"
    folder.mkdir(parents=True)
    output.mkdir()
    (output / "in_batch-s0.txt").write_text("step 1")
    job = experiment.Job("in_batch", folder, ["false"], 1)
    with open(folder / run.LOCK, "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="another process is writing there"):
            experiment.run_jobs([job], at_once=1, output=output)
    assert (output / "in_batch-s0.txt").read_text() == "step 1"
