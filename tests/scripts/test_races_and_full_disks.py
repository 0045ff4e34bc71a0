"""Races, full disks and signals: what is written is whole or absent, and the same command then ends as if alone.

Short forms run always; the long ones (200 rounds, 20 moments in each script) by
`pytest -m slow tests/scripts/test_races_and_full_disks.py`.
"""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY, make_encoder

from lib.data.collection import load_collection
from lib.data.tokens import tokenize
from lib.files import cache_dir, cached, cached_array, fingerprint
from lib.negatives.near_copies import minhash
from lib.search.bm25 import BM25

# ---------------------------------------------------------------------------------------------------- races


def use_cache(folder, data, barrier, answers):
    """Fill one empty cache after another at the same moment as others do; answer what was read."""
    while True:
        number = barrier.wait(120) and 0  # all begin together
        number = folder.get()
        if number is None:
            return
        barrier.wait(120)
        os.environ["HARDNEG_CACHE"] = str(number)
        try:
            collection = load_collection(data)
            tokens = tokenize(collection.docs, make_encoder(collection, dim=4), "doc")
            hits = BM25.load(collection.docs).search(["how long should meat rest"], 5)
            parts = [collection.fingerprint, collection.docs.ids, tokens.ids, minhash(collection.queries), hits.rows]
            answers.put(fingerprint(*(list(x) if isinstance(x, list) else x for x in parts)))
        except Exception as error:  # told to the test, which fails
            answers.put(f"{type(error).__name__}: {error}")


def race(tmp_path, *, rounds, processes):
    """The answers of all processes of all rounds, each round on an empty cache."""
    context = multiprocessing.get_context("spawn")
    barrier, answers, jobs = context.Barrier(processes), context.Queue(), context.Queue()
    workers = [context.Process(target=use_cache, args=(jobs, str(TINY), barrier, answers)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    found = []
    for number in range(rounds):
        for _ in workers:
            jobs.put(tmp_path / f"cache-{number}")
        found += [answers.get(timeout=120) for _ in workers]
        assert not list((tmp_path / f"cache-{number}").rglob(".*")), "temporary files or locks are left"
        shutil.rmtree(tmp_path / f"cache-{number}")
    for _ in workers:
        jobs.put(None)
    for worker in workers:
        worker.join(60)
    return found


@pytest.mark.slow
def test_six_processes_on_one_empty_cache(tmp_path):
    found = race(tmp_path, rounds=200, processes=6)
    assert len(found) == 1200 and len(set(found)) == 1 and ":" not in found[0], set(found)


@pytest.mark.slow
def test_two_processes_on_one_empty_cache(tmp_path):
    found = race(tmp_path, rounds=3, processes=2)
    assert len(found) == 6 and len(set(found)) == 1 and ":" not in found[0], set(found)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00" + b" " * 40])
def test_an_entry_of_the_cache_that_cannot_be_read_is_made_again(damage):
    import numpy as np

    path = cache_dir("test", f"{len(damage)}.npy")
    made = [cached_array(path, lambda: np.arange(5)) for _ in range(2)]
    path.write_bytes(damage)
    assert cached_array(path, lambda: np.arange(5)).tolist() == made[0].tolist() == made[1].tolist()


def test_a_folder_of_the_cache_that_lacks_a_file_is_made_again():
    def make(folder):
        folder.mkdir()
        (folder / "a").write_text("a")

    path = cache_dir("test", "folder")
    assert cached(path, make, lambda folder: (folder / "a").read_text()) == "a"
    (path / "a").unlink()
    assert cached(path, make, lambda folder: (folder / "a").read_text()) == "a"


@pytest.mark.slow
def test_two_runs_of_one_name(tmp_path):
    for number in range(20):
        both = [start(tmp_path, "train", "--name", f"r{number}", stderr=subprocess.PIPE) for _ in range(2)]
        told = [process.communicate()[1].decode().splitlines() for process in both]
        codes = sorted(process.returncode for process in both)
        assert codes == [0, 2], told
        refusal = next(lines[-1] for process, lines in zip(both, told) if process.returncode)
        assert "another process is writing there" in refusal or "is not empty" in refusal, refusal
        assert (tmp_path / f"runs/r{number}/summary.json").exists()


# -------------------------------------------------------------------------------------- signals and full disks

TRAIN = ("--data", str(TINY), "--batch_size", 8, "--dim", 16, "--vocab_size", 400, "--steps", 40, "--eval_every", 4,
         "--log_every", 1, "--negatives", "bm25:1+refresh:1", "--refresh_every", 5)  # fmt: skip
# script: (flags, what it writes below runs/, flags of the second try)
SCRIPTS = {
    "train": ((*TRAIN, "--name", "R"), ["R/summary.json"], ["--resume"]),
    "mine_negatives": (("--data", str(TINY), "--name", "M"), ["M/negatives/tiny-train-bm25.jsonl"], ["--overwrite"]),
    "build_index": (("--run", "runs/R"), ["R/index/tiny/meta.json", "R/index/tiny/index.faiss"], ["--overwrite"]),
    "evaluate": (
        ("--run", "runs/R"),
        ["R/eval/tiny-test/metrics.json", "R/eval/tiny-test/run.trec", "R/eval/tiny-test/per_query.jsonl"],
        ["--overwrite"],
    ),
    "rag_demo": (("--run", "runs/R", "how long should meat rest?"), [], []),
}
# the encoder and what is measured with it; metrics.jsonl too
OF_TRAINING = ["R/encoder/model.safetensors", "R/metrics.jsonl", "R/eval/tiny-test/per_query.jsonl"]


def start(folder, script, *flags, **how):
    """A script as a process, its output thrown away unless `how` says otherwise."""
    flags = (*TRAIN, *flags) if script == "train" else flags
    how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | how
    return subprocess.Popen([sys.executable, str(ROOT / f"{script}.py"), *map(str, flags)], cwd=folder, **how)


def bytes_of(folder, names):
    """{name: bytes} of files below runs/, None for one that is absent."""
    paths = {name: folder / "runs" / name for name in names}
    return {name: path.read_bytes() if path.exists() else None for name, path in paths.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which each script has run undisturbed; the seconds that each took."""
    folder, seconds = tmp_path_factory.mktemp("whole"), {}
    for script, (flags, _, _) in SCRIPTS.items():
        begin = time.monotonic()
        assert start(folder, script, *(flags if script != "train" else ("--name", "R"))).wait() == 0
        seconds[script] = time.monotonic() - begin
    return folder, seconds


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_signals_at_twenty_moments(whole, tmp_path, script):
    folder, seconds = whole
    flags, outputs, again = SCRIPTS[script]
    flags = ("--name", "R") if script == "train" else flags
    wanted = bytes_of(folder, outputs[1:] if script in ("train", "evaluate") else outputs)
    wanted |= bytes_of(folder, OF_TRAINING if script == "train" else [])
    choose, stopped = random.Random(script), 0
    for number in range(20):
        desk = tmp_path / str(number)
        shutil.copytree(folder, desk)
        for name in outputs:
            shutil.rmtree(desk / "runs" / name.split("/")[0]) if script == "train" else (desk / "runs" / name).unlink()
        if script == "build_index":
            shutil.rmtree(desk / "runs/R/index/tiny")
        process = start(desk, script, *flags)
        time.sleep(choose.uniform(0.2, 1) * seconds[script])
        sent = choose.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
        process.send_signal(sent)
        code = process.wait()
        assert code in (0, 130, 143, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL), (code, sent)
        stopped += code != 0
        if script != "train":
            for name, found in bytes_of(desk, wanted).items():
                assert found in (None, wanted[name]), name
        flags_again = again if code or script == "train" else []
        if code or script == "train":
            assert start(desk, script, *flags, *flags_again).wait() == 0
        assert bytes_of(desk, wanted) == wanted
        assert not [path for path in (desk / "runs").rglob(".*.tmp") if script == "train"]
        shutil.rmtree(desk)
    assert stopped >= 10


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many KiB, or makes it larger; skips where one may not."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size, *, again=False):
        how = f"{'remount,' * again}size={size}k"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(place)], capture_output=True).returncode:
            pytest.skip("may not mount a file system")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 8, 40, 90, 200])
@pytest.mark.parametrize("script", ["train", "mine_negatives", "build_index", "evaluate"])
def test_a_full_disk_is_one_line_and_loses_nothing(whole, small_disk, script, free):
    folder, _ = whole
    flags, outputs, again = SCRIPTS[script]
    flags = ("--name", "R") if script == "train" else flags
    disk = small_disk(100_000)
    shutil.copytree(folder / "runs", disk / "runs")
    if script == "train":
        shutil.rmtree(disk / "runs/R")
    else:
        for name in outputs:
            (disk / "runs" / name).unlink()
    if script == "build_index":
        shutil.rmtree(disk / "runs/R/index/tiny")
    used = shutil.disk_usage(disk).used // 1024
    before = {path: path.read_bytes() for path in (disk / "runs").rglob("*") if path.is_file()}
    small_disk(used + free, again=True)
    process = start(disk, script, *flags, stderr=subprocess.PIPE)
    errors = process.communicate()[1].decode().splitlines()
    assert process.returncode in (0, 2), errors[-3:]
    if process.returncode:
        assert "error: " in errors[-1] and "Traceback" not in "".join(errors), errors
        assert {path: path.read_bytes() for path in before} == before
    small_disk(100_000, again=True)
    if process.returncode:
        assert start(disk, script, *flags, *again).wait() == 0
    names = OF_TRAINING if script == "train" else outputs[1:] or outputs
    assert bytes_of(disk, names) == bytes_of(folder, names)
