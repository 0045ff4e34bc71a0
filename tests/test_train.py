"""The training loop: gradients in chunks and over two processes, interruption, encoders, losses."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TINY

from lib import dist, options, run

SMALL = ("--data", "tiny", "--batch_size", 7, "--log_every", 1)
STATIC = ("--dim", 16, "--vocab_size", 400)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder to work in: the collection at tiny/, runs at runs/."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(TINY, folder / "tiny")
    return folder


@pytest.fixture
def train(launch, desk):
    """A function that trains in this process, checks the exit code, and returns the run folder."""

    def start(name, *flags, steps=6, code=0):
        flags = (*SMALL, *(() if "--encoder" in flags else STATIC), *flags)
        assert launch("train.py", *flags, "--steps", steps, "--name", name, cwd=desk) == code
        return desk / "runs" / name

    return start


@pytest.fixture(scope="module")
def taught(tiny, tmp_path_factory):
    """A negatives file with the scores of a teacher: for each train query the docs c01 and c02."""
    path = tmp_path_factory.mktemp("taught") / "negatives.jsonl"
    scores = {"score": 1.0, "teacher_score": 1.5, "teacher_positive_score": 9.5}
    lines = [{"header": {"collection_fingerprint": tiny.fingerprint}}]
    for qid, judged in tiny.qrels_dict("train").items():
        lines += [
            {"qid": qid, "doc_id": doc_id, "source": "made"} | scores
            for doc_id in ("c01", "c02")
            if judged.get(doc_id, 0) < 1
        ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def losses(folder):
    """The loss of every step of a run."""
    return [line["loss"] for line in run.Run(folder).read_log() if "loss" in line]


def first_gradients(main):
    """Run `main`; the gradients that AdamW got at its first step, one tensor per parameter."""
    seen, original = [], torch.optim.AdamW.step

    def step(self, *rest, **kwargs):
        seen.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
        return original(self, *rest, **kwargs)

    torch.optim.AdamW.step = step
    try:
        main()
    finally:
        torch.optim.AdamW.step = original
    return seen[0]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_training_learns_what_it_is_shown(train, launch, desk, ema):
    folder = train(
        "learns",
        "--negatives",
        "random:1",
        "--ema",
        ema,
        "--lr",
        0.03,
        "--eval_every",
        60,
        "--overwrite",
        steps=60,
    )
    found = losses(folder)
    assert sum(found[-5:]) < 0.2 * sum(found[:5])
    assert launch("build_index.py", "--run", "runs/learns", cwd=desk) == 0
    assert launch("evaluate.py", "--run", "runs/learns", "--split", "train", cwd=desk) == 0
    assert run.read_json(folder / "eval/tiny-train/metrics.json")["mean"]["mrr@10"] > 0.9


# ---------------------------------------------------------------------------------- chunks and processes

ARM = ("--negatives", "bm25:1+refresh:2", "--learn_temperature")


def test_chunks_give_the_same_gradients(train):
    whole, *chunks = (
        first_gradients(lambda size=size: train(f"chunks-{size}", *ARM, "--chunk_size", size, steps=1))
        for size in (100, 1, 3)
    )
    for found in chunks:
        torch.testing.assert_close(found, whole)


def run_pair(flags, desk, *, broken=""):
    """Train with two processes as torchrun would start them; each leaves its gradients in the folder.

    broken: a function of lib.dist that does nothing there.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    pair = []
    for rank in ("0", "1"):
        variables = address | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        variables |= {"PYTHONPATH": str(ROOT), "BROKEN": broken}
        command = [sys.executable, __file__, *map(str, flags)]
        pair.append(subprocess.Popen(command, cwd=desk, env=os.environ | variables))
    try:
        return [process.wait(timeout=120) for process in pair]
    finally:
        for process in pair:
            process.kill()


def test_two_processes_train_like_one(train, desk):
    assert run_pair([*SMALL, *STATIC, "--steps", 3, "--name", "pair", *ARM], desk) == [0, 0]
    wanted = first_gradients(lambda: train("single", *ARM, steps=3))
    for rank in (0, 1):
        found = torch.load(desk / f"gradients-{rank}.pt")
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)
    logs = [run.Run(desk / "runs" / name).read_log() for name in ("pair", "single")]
    assert [line.keys() for line in logs[0]] == [line.keys() for line in logs[1]]
    assert losses(desk / "runs/pair") == pytest.approx(losses(desk / "runs/single"), rel=1e-3)
    assert (desk / "runs/pair/summary.json").exists()


def test_two_processes_that_do_not_add_up_are_found_out(train, desk):
    flags = [*SMALL, *STATIC, "--steps", 1, "--name", "broken", "--overwrite", *ARM]
    assert run_pair(flags, desk, broken="sum_gradients") == [0, 0]
    wanted = first_gradients(lambda: train("single-1", *ARM, steps=1))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(torch.load(desk / "gradients-0.pt"), wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_one_process_owns_everything(n):
    part = torch.randn(n, 3, requires_grad=True)
    assert dist.own(n).tolist() == list(range(n)) and dist.gather(part, n) is part
    assert dist.rank() == 0 and dist.world() == 1 and dist.is_main()
    assert dist.map_rows(lambda rows: rows * 2, dist.own(n)).tolist() == [2 * i for i in range(n)]


# ---------------------------------------------------------------------------------------------- interrupt


@pytest.mark.parametrize(
    "arm, at",
    [
        ("in_batch", 3),
        ("random:1,bm25:1+refresh:2@0.3", 3),
        ("dense:2", 3),
        ("queue:20", 3),
        ("adore:2", 3),
        ("refresh:2 refresh_every=3 refresh_lag=2", 4),  # a mining is under way then
        ("refresh:2 refresh_every=1 refresh_overlap=.97", 3),
        ("bm25:1+refresh:2 filters=near_copy:0.9,percpos:0.99 choice=simans:2:0 pool=12 depth=4", 3),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bytes(train, monkeypatch, arm, at):
    name = "".join(c if c.isalnum() else "-" for c in arm)
    flags = ("--negatives", arm, "--eval_every", 2, "--refresh_every", 2, "--lr", 0.05)
    whole = train(f"{name}-whole", *flags)
    with monkeypatch.context() as patch:
        steps = iter(range(100))

        def interrupt(parameters):
            if next(steps) == at:
                raise KeyboardInterrupt

        patch.setattr(dist, "sum_gradients", interrupt)
        cut = train(f"{name}-cut", *flags, code=130)
    assert (cut / "state.pt").exists() and not (cut / "summary.json").exists()
    train(f"{name}-cut", *flags, "--resume")
    for file in ("metrics.jsonl", "encoder/model.safetensors", "eval/tiny-test/per_query.jsonl"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file
    assert (cut / "summary.json").exists() and not (cut / "state.pt").exists()


@pytest.mark.parametrize("forgotten", ["encoder", "averaged", "optimizer", "supply", "queue", "retriever"])
def test_a_run_that_forgets_one_part_ends_in_other_bytes(train, monkeypatch, forgotten):
    flags = ("--negatives", "adore:1+dense:1+queue:20", "--eval_every", 2, "--lr", 0.05, "--overwrite")
    whole = train("remembers", *flags)
    with monkeypatch.context() as patch:
        steps = iter(range(100))

        def interrupt(parameters):
            if next(steps) == 3:
                raise KeyboardInterrupt

        patch.setattr(dist, "sum_gradients", interrupt)
        cut = train("forgets", *flags, code=130)
    load = run.Run.load_state
    monkeypatch.setattr(run.Run, "load_state", lambda self, parts: load(
        self, {name: part for name, part in parts.items() if name != forgotten}))
    train("forgets", *flags[:-1], "--resume")
    names = ("metrics.jsonl", "encoder/model.safetensors")
    assert any((cut / file).read_bytes() != (whole / file).read_bytes() for file in names)


def test_a_run_that_was_cut_after_its_last_step_is_finished(train, monkeypatch):
    flags = ("--negatives", "refresh:2", "--refresh_every", 2)
    whole = train("end-whole", *flags)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lib.retriever.Retriever.geometry", interrupt)  # the last state is saved by then
        cut = train("end-cut", *flags, code=130)
    assert (cut / "state.pt").exists() and not (cut / "summary.json").exists()
    train("end-cut", *flags, "--resume")
    for file in ("metrics.jsonl", "encoder/model.safetensors", "eval/tiny-test/per_query.jsonl", "map.json"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file


def test_alarms_of_a_resumed_run_are_those_of_a_whole_one(train, monkeypatch):
    flags = ("--negatives", "bm25:2", "--temperature", 5, "--lr", 1e-9, "--eval_every", 2)
    whole = train("alarm-whole", *flags, steps=10)
    alarms = [(line["step"], line["alarm"]) for line in run.Run(whole).read_log() if "alarm" in line]
    assert (3, "no learning") in alarms and len({name for _, name in alarms}) == len(alarms)
    with monkeypatch.context() as patch:
        steps = iter(range(100))

        def interrupt(parameters):
            if next(steps) == 7:
                raise KeyboardInterrupt

        patch.setattr(dist, "sum_gradients", interrupt)
        cut = train("alarm-cut", *flags, steps=10, code=130)
    train("alarm-cut", *flags, "--resume", steps=10)
    found = [(line["step"], line["alarm"]) for line in run.Run(cut).read_log() if "alarm" in line]
    assert found == alarms


def test_a_lag_is_used_with_the_weights_of_its_step(train):
    flags = ("--negatives", "refresh:2", "--refresh_every", 2, "--lr", 0.05)
    reports = {}
    for lag in (0, 1):
        folder = train(f"lag-{lag}", *flags, "--refresh_lag", lag)
        log = run.Run(folder).read_log()
        reports[lag] = {line["step"]: line for line in log if "mined" in line}
        lines = [line for line in log if "ledger" in line]
        ages = [{r["age"] for r in line["ledger"] if r["source"] == "refresh"} for line in lines]
        wanted = [0, 1, 0, 1, 0, 1] if lag == 0 else [0, 1, 2, 1, 2, 1]
        assert ages == [{age} for age in wanted]
    assert list(reports[0]) == [0, 2, 4] and list(reports[1]) == [0, 3, 5]
    assert [line["age"] for line in reports[0].values()] == [None, 2, 2]
    assert [line["age"] for line in reports[1].values()] == [None, 3, 3]
    for first, _, third in (list(lines.values()) for lines in reports.values()):
        assert first["overlap"] is None and 0 <= third["overlap"] <= 1  # step 5 visits queries once more


@pytest.mark.parametrize("arm", ["bm25:1", "random:1", "refresh:2", "file:1"])
def test_a_source_that_teaches_nothing_ends_the_run(train, taught, capsys, arm):
    file = ("--negatives_file", taught) if arm == "file:1" else ()
    train("masked", "--negatives", arm, *file, "--mask_margin=-3", "--overwrite", code=2)
    assert f"no doc of {arm[:-2]} stands in the denominator" in capsys.readouterr().err


def test_a_batch_without_negatives_is_logged(train):
    folder = train("lonely", "--negatives", "in_batch", "--batch_size", 1, steps=2)
    lines = [line for line in run.Run(folder).read_log() if "loss" in line]
    assert [(line["loss"], line["hardest"]) for line in lines] == [(0, None)] * 2


# -------------------------------------------------------------------------------------------- flags of an arm


@pytest.fixture
def parsed(monkeypatch):
    """A function that reads the command line: the arguments of each arm."""

    def read(*flags):
        import train as script

        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, flags)])
        args, parser = script.parse_args()
        return [options.arm_args(args, parser, arm) for arm in args.negatives]

    return read


def test_an_arm_changes_its_own_flags_alone(parsed):
    first, second, third = parsed(
        "--temperature",
        0.1,
        "--filters",
        "window:2:9",
        "--negatives",
        "in_batch",
        "refresh:4 temperature=.03 filters=percpos:.95,near_copy:.8 refresh_lag=3 mask_margin=-0.5",
        "bm25:2 terms=d2q,q2q dims=8,16 choice=simans:1:0",
    )
    assert (first.temperature, first.filters, first.terms, first.refresh_lag) == (0.1, ["window:2:9"], [], 0)
    assert (second.temperature, second.filters) == (0.03, ["percpos:.95", "near_copy:.8"])
    assert (second.refresh_lag, second.mask_margin) == (3, -0.5)
    assert (third.temperature, third.terms, third.dims) == (0.1, ["d2q", "q2q"], [8, 16])
    assert third.choice == "simans:1:0" and second.choice == first.choice == "uniform"


def test_one_arm_of_several_may_distill(parsed):
    plain, pupil = parsed("--negatives_file", "f", "--negatives", "file:1", "file:1 distill_weight=.5")
    assert (plain.distill_weight, pupil.distill_weight) == (0, 0.5)
    plain, pupil = parsed("--negatives_file", "f", "--negatives", "bm25:1", "file:1 distill_weight=.5")
    assert (plain.distill_weight, pupil.distill_weight) == (0, 0.5)


@pytest.mark.parametrize(
    "arm, wanted",
    [
        ("bm25:1 temperature", "temperature is no flag=value"),
        ("bm25:1 temperature=", "temperature= is no flag=value"),
        ("bm25:1 batch_size=4", "batch_size=4 is no flag=value"),
        ("bm25:1 steps=4", "it may change lr, temperature"),
        ("bm25:1 temperature=0", "--temperature 0.0: must be above 0"),
        ("bm25:1 filters=percpos", "percpos takes 1 number"),
        ("bm25:1 choice=best", "--choice best"),
        ("bm25:1 pool=0", "--pool 0: must be above 0"),
        ("refresh:1 refresh_lag=-1", "--refresh_lag -1"),
        ("refresh:1 refresh_overlap=0", "--refresh_overlap 0.0"),
        ("refresh:1 refresh_overlap=1.5", "--refresh_overlap 1.5"),
    ],
)
def test_wrong_flags_of_an_arm_are_refused(parsed, arm, wanted):
    with pytest.raises(run.BadInput) as refused:
        parsed("--negatives", "in_batch", arm)
    assert wanted in str(refused.value)


def test_a_finished_run_is_not_trained_again(train):
    folder = train("finished", "--negatives", "in_batch")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    train("finished", "--negatives", "in_batch", "--resume")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_resuming_with_other_settings_is_refused(train, capsys):
    folder = train("settings", "--negatives", "in_batch")
    (folder / "summary.json").unlink()
    train("settings", "--negatives", "in_batch", "--lr", 0.5, "--resume", code=2)
    assert "settings was begun with lr None, now it is 0.5" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- encoders, losses


@pytest.mark.parametrize(
    "flags, settings",
    [
        (
            ["--chunk_size", 3, "--query_prefix", "ask: ", "--doc_length", 16],
            {"query_prefix": "ask: ", "doc_length": 16},
        ),
        (
            ["--separate_towers", "--projection", 8, "--pooling", "cls", "--normalize", "off"],
            {"pooling": "cls", "normalize": False},
        ),
        (["--from_config", "--gradient_checkpointing", "--max_grad_norm", 1.0, "--weight_decay", 0.1], {}),
    ],
    ids=str,
)
def test_train_a_transformer(train, launch, desk, bert, flags, settings):
    folder = train("bert", "--negatives", "refresh:1", "--encoder", bert, *flags, "--overwrite", steps=2)
    summary = run.read_json(folder / "summary.json")
    assert len(losses(folder)) == summary["steps"] == 2
    assert settings.items() <= run.read_json(folder / "encoder/settings.json").items()
    assert launch("build_index.py", "--run", "runs/bert", cwd=desk) == 0
    assert launch("evaluate.py", "--run", "runs/bert", cwd=desk) == 0
    evaluated = run.read_json(folder / "eval/tiny-test/metrics.json")["mean"]
    assert evaluated == pytest.approx(summary["test"])


@pytest.mark.parametrize("seed", [0, 1])
def test_train_a_trained_static_encoder_further(train, seed):
    first = train("first", "--negatives", "in_batch", "--overwrite")
    second = train("second", "--encoder", first / "encoder", "--seed", seed, "--overwrite")
    untrained = run.read_json(second / "summary.json")["untrained"]
    assert untrained == pytest.approx(run.read_json(first / "summary.json")["test"])


@pytest.mark.parametrize(
    "flags",
    [
        ["--terms", "d2q", "q2q", "d2d"],
        ["--hardness", 2.0],
        ["--debias", 0.1],
        ["--label_smoothing", 0.1],
        ["--mask_margin", 0.1],
        ["--triplet_margin", 0.2],
        ["--dims", 4, 16],
        ["--temperature", 0.5],
        ["--guide", "runs/guide/encoder", "--guide_margin", 0.1],
    ],
    ids=str,
)
def test_options_of_the_loss_reach_it(train, flags):
    if "--guide" in flags:
        train("guide", "--negatives", "in_batch", steps=1)
    arm = ("--negatives", "queue:9+random:1", "--overwrite")
    plain = losses(train("plain", *arm, steps=2))
    found = losses(train("option", *arm, *flags, steps=2))
    assert all(a != b for a, b in zip(found, plain)) and len(found) == 2


@pytest.mark.parametrize("kind", ["margin_mse", "kl"])
def test_distillation_from_a_file(train, taught, kind):
    flags = ("--negatives", "file:1", "--negatives_file", taught, "--overwrite")
    plain = losses(train("alone", *flags))
    found = losses(train("pupil", *flags, "--distill", kind, "--distill_weight", 0.5))
    assert len(found) == 6 and all(a != b for a, b in zip(found, plain))
    # the distance from a teacher is no loss of guessing
    log = run.Run(train("pupil", *flags, "--distill", kind, "--distill_weight", 1, "--overwrite")).read_log()
    assert "no learning" not in {line.get("alarm") for line in log}


if __name__ == "__main__":
    from train import main

    if os.environ["BROKEN"]:
        setattr(dist, os.environ["BROKEN"], lambda *rest: None)
    torch.save(first_gradients(lambda: run.cli(main)), pathlib.Path(f"gradients-{os.environ['RANK']}.pt"))
