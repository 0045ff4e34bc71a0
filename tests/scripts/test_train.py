"""The training loop: gradients in chunks and over two processes, interruption, encoders, losses."""

import contextlib
import json
import multiprocessing
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from conftest import OF_RUN, ROOT, TINY, unrendered
from matplotlib.figure import Figure

import train as script
from lib import cli, dist, process, run
from lib.evaluation import plots
from lib.files import BadInput, read_json
from lib.model import encoder as model
from lib.model.static import new_static

SMALL = ("--data", "tiny", "--batch_size", 7, "--log_every", 1)
STATIC = ("--dim", 16, "--vocab_size", 400)
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder to work in: the collection at tiny/, runs at runs/."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(TINY, folder / "tiny")
    return folder


def start(desk, name, *flags, steps=6, code=0):
    """Train in this process from the folder `desk`, check the exit code, and return the run folder."""
    flags = (*SMALL, *(() if "--encoder" in flags else STATIC), *flags, "--steps", steps, "--name", name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.setattr(sys, "argv", ["train.py", *map(str, flags)])
        try:
            process.cli(script.main)
            found = 0
        except SystemExit as stopped:
            found = stopped.code
    assert found == code
    return desk / "runs" / name


@pytest.fixture
def train(desk):
    """start() in the folder to work in."""
    return lambda name, *flags, **rest: start(desk, name, *flags, **rest)


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


def of_event(folder, event):
    """The lines of a run's log that tell of an event."""
    return [line for line in run.Run(folder).read_log() if line["event"] == event]


def losses(folder):
    """The loss of every step of a run."""
    return [line["loss"] for line in of_event(folder, "step")]


class Seen(Exception):
    """Ends a training whose first gradients are all that is wanted."""


def first_gradients(main, *, stop=False):
    """Run `main`; the gradients that AdamW got at its first step, one tensor per parameter. stop: not further."""
    seen, original = [], torch.optim.AdamW.step

    def step(self, *rest, **kwargs):
        seen.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
        if stop:
            raise Seen
        return original(self, *rest, **kwargs)

    torch.optim.AdamW.step = step
    try:
        main()
    except Seen:
        dist.stop()
    finally:
        torch.optim.AdamW.step = original
    return seen[0]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_training_learns_what_it_is_shown(train, launch, desk, ema):
    folder = train(
        "learns", "--negatives", "random:1", "--ema", ema, "--lr", 0.03, "--eval_every", 60, "--overwrite", steps=60
    )
    found = losses(folder)
    assert sum(found[-5:]) < 0.2 * sum(found[:5])
    assert launch("build_index.py", "--run", "runs/learns", cwd=desk) == 0
    assert launch("evaluate.py", "--run", "runs/learns", "--split", "train", cwd=desk) == 0
    assert read_json(folder / "eval/tiny-train/metrics.json")["mean"]["mrr@10"] > 0.9


# ---------------------------------------------------------------------------------- chunks and processes

ARM = ("--negatives", "bm25:1+refresh:2", "--learn_temperature")


def test_chunks_give_the_same_gradients(train):
    whole, *chunks = (
        first_gradients(lambda size=size: train(f"chunks-{size}", *ARM, "--chunk_size", size, steps=1))
        for size in (100, 1, 3)
    )
    for found in chunks:
        torch.testing.assert_close(found, whole)


@pytest.fixture(scope="module")
def pair(desk):
    """Two processes have trained twice, as torchrun would start them: as they are, to runs/pair, and for a step
    with a sum_gradients() that does nothing. Each left its first gradients in the folder."""
    ports = []
    with contextlib.ExitStack() as sockets:
        for _ in range(2):
            free = sockets.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    command, env = (
        [sys.executable, __file__, *map(str, ports)],
        os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )
    assert subprocess.run(command, cwd=desk, env=env, timeout=240).returncode == 0
    return desk / "runs/pair"


def be_a_pair(ports):
    """What the process that pair() starts does: it forks, so that both have imported at once."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=be_one_of_two, args=(rank, ports), daemon=True) for rank in (0, 1)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    return int(any(one.exitcode for one in processes))


def be_one_of_two(rank, ports):
    """What each of the two processes does."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, steps, port in zip(("pair", "broken"), (3, 1), ports):
        os.environ["MASTER_PORT"] = port
        if name == "broken":
            dist.sum_gradients = lambda parameters: None
        flags = (*SMALL, *STATIC, *ARM, "--steps", steps, "--name", name)
        sys.argv = ["train.py", *map(str, flags)]
        Figure.savefig = unrendered
        found = first_gradients(lambda: process.cli(script.main), stop=name == "broken")  # weights would part
        torch.save(found, pathlib.Path(f"{name}-{rank}.pt"))


def test_two_processes_train_like_one(train, desk, pair):
    wanted = first_gradients(lambda: train("single", *ARM, steps=3))
    for rank in (0, 1):
        found = torch.load(desk / f"pair-{rank}.pt")
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)
    logs = [run.Run(folder).read_log() for folder in (pair, desk / "runs/single")]
    assert [line.keys() for line in logs[0]] == [line.keys() for line in logs[1]]
    assert losses(pair) == pytest.approx(losses(desk / "runs/single"), rel=1e-3)
    assert (pair / "summary.json").exists()


def test_two_processes_that_do_not_add_up_are_found_out(train, desk, pair):
    wanted = first_gradients(lambda: train("single-1", *ARM, steps=1))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(torch.load(desk / "broken-0.pt"), wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_one_process_owns_everything(n):
    part = torch.randn(n, 3, requires_grad=True)
    assert dist.own(n).tolist() == list(range(n)) and dist.gather(part, n) is part
    assert dist.rank() == 0 and dist.world() == 1 and dist.is_main()
    assert dist.map_rows(lambda rows: rows * 2, dist.own(n)).tolist() == [2 * i for i in range(n)]


# ---------------------------------------------------------------------------------------------- interrupt


@contextlib.contextmanager
def interrupted(at):
    """A key is pressed during the step `at`."""
    steps = iter(range(100))

    def interrupt(parameters):
        if next(steps) == at:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "sum_gradients", interrupt)
        yield


@pytest.mark.parametrize(
    "arm, at",
    [
        ("in_batch", 3),
        ("random:1,bm25:1+refresh:2@0.3", 3),
        ("dense:2", 3),
        ("queue:20", 3),
        ("adore:2", 3),
        ("bm25:1+refresh:2 filters=near_copy:0.9,percpos:0.99 sampling=simans:2:0 candidates=12 depth=4", 3),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bytes(train, arm, at):
    name = "".join(c if c.isalnum() else "-" for c in arm)
    flags = ("--negatives", arm, "--eval_every", 2, "--refresh_every", 2, "--lr", 0.05)
    whole = train(f"{name}-whole", *flags)
    with interrupted(at):
        cut = train(f"{name}-cut", *flags, code=130)
    assert (cut / "state.pt").exists() and not (cut / "summary.json").exists()
    train(f"{name}-cut", *flags, "--resume")
    for file in ("metrics.jsonl", "encoder/model.safetensors", "eval/tiny-test/per_query.jsonl"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file
    assert (cut / "summary.json").exists() and not (cut / "state.pt").exists()


FORGETFUL = ("--negatives", "adore:1+dense:1+queue:20", "--eval_every", 2, "--lr", 0.05, "--log_every", 4)


@pytest.fixture(scope="module")
def whole_and_cut(desk):
    """The folders of a run and of the same run interrupted."""
    whole = start(desk, "remembers", *FORGETFUL)
    with interrupted(3):
        return whole, start(desk, "cut", *FORGETFUL, code=130)


@pytest.mark.parametrize(
    "forgotten", [None, "encoder", "averaged", "optimizer", "sampler", "queue", "miner", "averages"]
)
def test_a_run_that_forgets_one_part_ends_in_other_bytes(train, whole_and_cut, monkeypatch, forgotten):
    whole, cut = whole_and_cut
    resumed = shutil.copytree(cut, cut.with_name("forgets"), dirs_exist_ok=True)
    load = run.Run.load_state

    def load_all_but_one(self, parts):
        assert forgotten in (None, *parts)
        return load(self, {name: part for name, part in parts.items() if name != forgotten})

    monkeypatch.setattr(run.Run, "load_state", load_all_but_one)
    train("forgets", *FORGETFUL, "--resume")
    names = ("metrics.jsonl", "encoder/model.safetensors")
    same = all((resumed / file).read_bytes() == (whole / file).read_bytes() for file in names)
    shutil.rmtree(resumed)
    assert same == (forgotten is None)


def test_a_run_that_was_cut_after_its_last_step_is_finished(train, monkeypatch):
    flags = ("--negatives", "refresh:2", "--refresh_every", 2)
    whole = train("end-whole", *flags)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lib.evaluation.diagnostics.geometry", interrupt)  # the last state is saved by then
        cut = train("end-cut", *flags, code=130)
    assert (cut / "state.pt").exists() and not (cut / "summary.json").exists()
    train("end-cut", *flags, "--resume")
    for file in ("metrics.jsonl", "encoder/model.safetensors", "eval/tiny-test/per_query.jsonl", "map.json"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file


def test_warnings_of_a_resumed_run_are_those_of_a_whole_one(train):
    flags = ("--negatives", "bm25:2", "--temperature", 5, "--lr", 1e-9, "--eval_every", 2)
    whole = train("warnings-whole", *flags, steps=10)
    warnings = [(line["step"], line["warning"]) for line in of_event(whole, "warning")]
    assert (3, "no learning") in warnings and len({name for _, name in warnings}) == len(warnings)
    with interrupted(7):
        cut = train("warnings-cut", *flags, steps=10, code=130)
    train("warnings-cut", *flags, "--resume", steps=10)
    assert [(line["step"], line["warning"]) for line in of_event(cut, "warning")] == warnings


def test_lists_that_are_refreshed_tell_their_age_and_overlap(train):
    folder = train("ages", "--negatives", "refresh:2", "--refresh_every", 2, "--lr", 0.05)
    reports = {line["step"]: line for line in of_event(folder, "mining")}
    ledgers = [line["ledger"] for line in of_event(folder, "step")]
    assert [{row["age"] for row in own if row["source"] == "refresh"} for own in ledgers] == [{0}, {1}] * 3
    assert {step: line["age"] for step, line in reports.items()} == {0: None, 2: 2, 4: 2}
    first, _, third = reports.values()
    assert first["overlap"] is None and 0 <= third["overlap"] <= 1  # step 5 visits queries once more


@pytest.mark.parametrize("arm", ["bm25:1", "random:1", "refresh:2", "file:1"])
def test_a_source_that_teaches_nothing_ends_the_run(train, taught, capsys, arm):
    file = ("--negatives_file", taught) if arm == "file:1" else ()
    train("masked", "--negatives", arm, *file, "--masks", "margin:-3", "--overwrite", code=2)
    assert f"no doc of {arm[:-2]} stands in the denominator" in capsys.readouterr().err


def test_a_batch_without_negatives_ends_the_run(train, capsys):
    train("lonely", "--negatives", "in_batch", "--batch_size", 1, steps=2, code=2)
    assert "no query of a batch has a negative" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- flags of an arm


@pytest.fixture
def parsed(monkeypatch):
    """A function that reads the command line: the arguments of each arm."""

    def read(*flags):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, flags)])
        args, _ = script.parse_args()
        return [script.of_arm(args, arm) for arm in args.negatives]

    return read


def test_an_arm_changes_its_own_flags_alone(parsed):
    first, second, third = parsed(
        "--temperature",
        0.1,
        "--filters",
        "window:2:9",
        "--negatives",
        "in_batch",
        "refresh:4 temperature=.03 filters=percpos:.95,near_copy:.8 refresh_every=3 masks=margin:-0.5",
        "bm25:2 base=debiased:.1 terms=doc_to_query,hardness:3 dims=8,16 sampling=simans:1:0",
    )
    assert (first.temperature, first.terms, first.refresh_every, first.base.name) == (0.1, [], None, "infonce")
    assert cli.plain(first.filters) == ["window:2:9"]
    assert (second.temperature, cli.plain(second.filters)) == (0.03, ["percpos:.95", "near_copy:.8"])
    assert (second.refresh_every, cli.plain(second.masks)) == (3, ["margin:-0.5"])
    assert (third.temperature, third.dims) == (0.1, [8, 16])
    assert script.loss_of(third) == (("debiased", 0.1), [], [("doc_to_query",), ("hardness", 3.0)])
    assert third.sampling.text == "simans:1:0" and second.sampling == first.sampling
    assert first.sampling.text == "uniform"


@pytest.mark.parametrize("first", ["file:1", "bm25:1"])
def test_one_arm_of_several_may_distill(parsed, first):
    plain, pupil = parsed("--negatives_file", "f", "--negatives", first, "file:1 terms=kl:.5:.05")
    assert script.loss_of(plain) == (("infonce",), [], [])
    assert script.loss_of(pupil) == (("infonce",), [], [("kl", 0.5, 0.05)])


@pytest.mark.parametrize(
    "arm, wanted",
    [
        ("bm25:1 temperature", "temperature= is no flag=value"),
        ("bm25:1 temperature=", "temperature= is no flag=value"),
        ("bm25:1 batch_size=4", "batch_size=4 is no flag=value"),
        ("bm25:1 steps=4", "it may change seed_shift, query_clusters, batch_by, batches, lr"),
        ("bm25:1 temperature=0", "--temperature 0: must be above 0"),
        ("bm25:1 filters=percpos", "write percpos:SHARE, with a number"),
        ("bm25:1 sampling=best", "--sampling best"),
        ("bm25:1 terms=focal:-1", "--terms focal:-1: -1: must be at least 0"),
        ("bm25:1 base=triplet", "--base triplet: write triplet:MARGIN"),
        ("bm25:1 base=triplet:.1 terms=focal:1", "--terms focal:1 plays no part with --base triplet:.1"),
        ("bm25:1 in_batch=off terms=query_to_query", "--terms query_to_query adds to the docs of other queries"),
        ("bm25:1 terms=kl:.5", "--terms margin_mse and kl need a source with a teacher"),
        ("bm25:1 candidates=0", "--candidates 0: must be at least 1"),
    ],
)
def test_wrong_flags_of_an_arm_are_refused(parsed, arm, wanted):
    with pytest.raises(BadInput) as refused:
        parsed("--negatives", "in_batch", arm)
    assert wanted in str(refused.value)


@pytest.mark.parametrize("flag", [("--dropout", ".1"), ("--compile",), ("--vocab_size", "500"), ("--lora", "4")])
def test_a_trained_static_encoder_takes_no_flags_of_others(parsed, tmp_path, tiny, flag):
    model.save_encoder(new_static(tiny, dim=8, vocab_size=300, seed=0), tmp_path / "encoder")
    with pytest.raises(BadInput, match=f"{flag[0]} is for a .* encoder, and this is a trained static one"):
        parsed("--encoder", tmp_path / "encoder", *flag)
    assert parsed("--encoder", tmp_path / "encoder")


def test_a_grid_gives_each_arm_every_value(parsed):
    flags = ("--negatives", "in_batch", "refresh:4 lr=.1", "--temperature", 0.5)
    arms = parsed(*flags, "--grid", "temperature=.01,.1", "filters=percpos:.9,window:2:9", "--control")
    found = [(arm.negatives[0].text, arm.temperature, cli.plain(arm.filters), arm.lr, arm.seed_shift) for arm in arms]
    wanted = [
        (f"{arm} temperature={t} filters={f}", float(t), [f], lr, 0)
        for arm, lr in (("in_batch", None), ("refresh:4 lr=.1", 0.1))
        for t in (".01", ".1")
        for f in ("percpos:.9", "window:2:9")
    ]
    control = "in_batch temperature=.01 filters=percpos:.9 seed_shift=1000"
    assert found == [*wanted, (control, 0.01, ["percpos:.9"], None, 1000)]
    assert [arm.grid for arm in arms] == [[]] * 9  # it is spent: the arms are the record


@pytest.mark.parametrize(
    "axis, wanted",
    [
        ("temperature", "temperature= is no flag=value"),
        ("temperature=.1,", "temperature= is no flag=value"),
        ("temperature=.1,0", "--temperature 0: must be above 0"),
        ("batch_size=4,8", "batch_size=4 is no flag=value"),
    ],
)
def test_wrong_grids_are_refused(parsed, axis, wanted):
    with pytest.raises(BadInput) as refused:
        parsed("--negatives", "in_batch", "--grid", axis)
    assert wanted in str(refused.value)


@pytest.mark.parametrize(
    "arm, flags",
    [
        ("in_batch temperature=.2", ("--grid", "temperature=.1,.3")),
        ("in_batch", ("--grid", "temperature=.1", "temperature=.3")),
        ("in_batch seed_shift=5", ("--control",)),
    ],
    ids=["grid", "grid twice", "control"],
)
def test_a_flag_that_an_arm_has_is_not_set_again(parsed, arm, flags):
    with pytest.raises(BadInput) as refused:
        parsed("--negatives", arm, *flags)
    assert "twice" in str(refused.value)


def test_a_finished_run_is_not_trained_again(train):
    folder = train("finished", "--negatives", "in_batch")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    train("finished", "--negatives", "in_batch", "--resume")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("measure", ["mrr@10", "recall@10", "recall@100"])
def test_the_measure_of_select_chooses_the_checkpoint_and_is_drawn(train, monkeypatch, measure):
    drawn, training = [], plots.training
    monkeypatch.setattr(plots, "of_run", OF_RUN)

    def note(path, log, *, measure, title):
        drawn.append((measure, path.name))
        training(path, log, measure=measure, title=title)

    monkeypatch.setattr(plots, "training", note)
    flags = ("--negatives", "in_batch", "--lr", 0.05, "--eval_every", 2, "--select", measure)
    folder = train("selects", *flags, "--overwrite", steps=16)
    summary = read_json(folder / "summary.json")
    values = {line["step"]: line["dev"] for line in of_event(folder, "evaluation") if line["step"]}
    best = max(values, key=lambda step: values[step][measure])  # the first of several that are as good
    assert (summary["best_step"], summary["dev"]) == (best, values[best])
    assert {"mrr@10": best > 2, "recall@10": best > 2, "recall@100": best == 2}[measure]  # there are 40 docs
    assert drawn == [(measure, "training.png")]


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
            ["--encoder", "MODEL", "MODEL", "--dim", 8, "--pooling", "cls", "--normalize", "off", "--dropout", 0],
            {"pooling": "cls", "normalize": False},
        ),
        (["--from_config", "--gradient_checkpointing", "--max_grad_norm", 1.0, "--weight_decay", 0.1], {}),
        (
            ["--precision", "fp32", "--attention", "eager", "--doc_prefix", "Moon : ", "--query_length", 7],
            {"doc_prefix": "Moon : ", "query_length": 7},
        ),
    ],
    ids=str,
)
def test_train_a_transformer(train, launch, desk, bert, flags, settings, capsys):
    flags = [
        bert if flag == "MODEL" else flag for flag in (flags if "MODEL" in flags else ["--encoder", "MODEL", *flags])
    ]
    folder = train("bert", "--negatives", "refresh:1", *flags, "--overwrite", steps=2)
    summary = read_json(folder / "summary.json")
    assert len(losses(folder)) == summary["steps"] == 2
    assert settings.items() <= model.load_encoder(folder / "encoder").settings.items()
    config = read_json(folder / "config.json")
    wanted = "fp32" if "fp32" in flags else model.pick_precision(torch.device("cpu"), "auto")
    assert config["args"]["precision"] == config["derived"]["precision"] == wanted
    assert config["derived"]["model"]["attention"] == ("eager" if "eager" in flags else "sdpa_or_products")
    assert launch("build_index.py", "--run", "runs/bert", cwd=desk) == 0
    assert launch("evaluate.py", "--run", "runs/bert", cwd=desk) == 0
    evaluated = read_json(folder / "eval/tiny-test/metrics.json")["mean"]
    assert evaluated == pytest.approx(summary["test"])
    cut = capsys.readouterr().out.count("fill the 16 tokens that this encoder reads of a doc: what follows is lost")
    assert cut == (3 if settings.get("doc_length") == 16 else 0)  # in training, with the index, in evaluation


def test_a_static_run_imports_no_library_of_transformers(desk):
    flags = [*SMALL, *STATIC, "--steps", 2, "--negatives", "refresh:1", "--name", "light", "--overwrite"]
    code = """
import atexit, matplotlib.figure, runpy, sys
matplotlib.figure.Figure.savefig = lambda figure, path, **kwargs: path.write_bytes(b"")
atexit.register(lambda: print("imported", {"transformers", "sentence_transformers", "peft"} & sys.modules.keys()))
sys.path.insert(0, sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = [sys.executable, "-c", code, ROOT, ROOT / "train.py", *flags]
    done = subprocess.run([*map(str, command)], cwd=desk, capture_output=True, text=True)
    assert done.stdout.endswith("imported set()\n"), done.stdout[-300:] + done.stderr[-300:]


@pytest.mark.parametrize("seed", [0, 1])
def test_train_a_trained_static_encoder_further(train, seed):
    first = train("first", "--negatives", "in_batch", "--overwrite")
    second = train("second", "--encoder", first / "encoder", "--seed", seed, "--overwrite")
    untrained = read_json(second / "summary.json")["untrained"]
    assert untrained == pytest.approx(read_json(first / "summary.json")["test"])


@pytest.mark.parametrize(
    "flags",
    [
        ["--terms", "doc_to_query", "hardness_explicit:2", "focal:1", "spread:1"],
        ["--base", "debiased:.1"],
        ["--base", "triplet:.2"],
        ["--masks", "margin:.1"],
        ["--dims", 4, 16],
        ["--temperature", 0.5],
        ["--guide", "runs/guide/encoder", "--masks", "guide:.1"],
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
    found = losses(train("pupil", *flags, "--terms", f"{kind}:.5"))
    assert len(found) == 6 and all(a != b for a, b in zip(found, plain))
    # the distance from a teacher is no loss of guessing
    folder = train("pupil", *flags, "--terms", f"{kind}:1", "--overwrite")
    assert "no learning" not in {line["warning"] for line in of_event(folder, "warning")}


if __name__ == "__main__":
    sys.exit(be_a_pair(sys.argv[1:]))
