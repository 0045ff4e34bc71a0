"""Comparisons by train.py: arms that differ in one thing, grids, budgets, controls, continuing, reruns, clusters."""

import hashlib
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT, TINY

import evaluate
import mine_negatives
import train
from lib import process, run
from lib.data.collection import load_collection
from lib.data.tokens import tokenize
from lib.evaluation import comparison, experiment, measures
from lib.files import read_json, write_json
from lib.model.encoder import embed
from lib.negatives.arms import Arm

SMALL = ("--data", "tiny", "--dim", 16, "--vocab_size", 400, "--log_every", 1)


def in_this_process(jobs, *, at_once, output):
    """experiment.run_jobs() without processes, each of which takes seconds to start."""
    for job in jobs:
        assert job.command[0] == sys.executable
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", job.command[1:])
            train.main()


def start(script, desk, *flags, code=0, run_jobs=in_this_process):
    """Run a script in this process from the folder `desk`; its exit code must be `code`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.setattr(experiment, "run_jobs", run_jobs)
        patch.setattr(sys, "argv", [str(ROOT / f"{script.__name__}.py"), *map(str, flags)])
        try:
            process.cli(script.main)
        except SystemExit as stopped:
            assert stopped.code == code
        else:
            assert code == 0


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder to work in: the collection at tiny/, runs at runs/."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(TINY, folder / "tiny")
    return folder


ARMS = ("in_batch", "in_batch temperature=.1", "in_batch seed_shift=1000")
COMPARED = (*SMALL, "--batch_size", 9, "--steps", 3, "--negatives", *ARMS[:2], "--control", "--seeds", 0, 1)


@pytest.fixture(scope="module")
def compared(desk):
    """The folder of a comparison: an arm, the same with another temperature, the first on other seeds."""
    start(train, desk, *COMPARED, "--name", "compared")
    return desk / "runs/compared"


@pytest.fixture
def copy(compared):
    """A copy of it that a test may spoil."""
    folder = compared.with_name("copy")
    shutil.copytree(compared, folder)
    yield folder
    shutil.rmtree(folder)


def one(folder, arm, seed):
    """The folder of one run."""
    return comparison.run_folder(folder, arm, seed)


def written(folder):
    """{file: (when it was written, its bytes)} of all runs of a comparison."""
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, hashlib.sha1(path.read_bytes()).digest())
        for path in folder.glob("*-s?/**/*")
        if path.is_file()
    }


def without_clock(result):
    """A comparison's ablation.json without what the clock says."""
    timed = {"train_s", "mine_s", "seconds", "gain_per_minute"}
    assert all(timed <= set(row) for row in result["arms"])
    return result | {"arms": [{k: v for k, v in row.items() if k not in timed} for row in result["arms"]]}


# ------------------------------------------------------------------------------------------------------- arms


def test_arms_start_alike_and_see_the_same_queries(compared):
    config = {(arm, seed): run.recorded(one(compared, arm, seed)) for arm in ARMS for seed in (0, 1)}
    for key in ("initial_weights", "query_order"):
        found = {run_of: found["derived"][key] for run_of, found in config.items()}
        for seed in (0, 1):
            assert found["in_batch", seed] == found["in_batch temperature=.1", seed]
        assert len(set(found.values())) == 4  # two seeds, and two others for the first arm once more


def differing(a, b):
    return {key for key in a | b if a.get(key) != b.get(key)}


def test_an_arm_changes_what_it_names_alone(compared):
    plain, warm = (run.recorded(one(compared, arm, 0)) for arm in ARMS[:2])
    assert differing(plain["args"], warm["args"]) == {"negatives", "temperature", "name"}
    assert differing(plain["derived"], warm["derived"]) == {"arm", "overrides"}
    assert (plain["derived"]["overrides"], warm["derived"]["overrides"]) == ({}, {"temperature": 0.1})
    for arm, temperature in zip(ARMS[:2], (0.06, 0.1)):
        lines = [x for x in run.Run(one(compared, arm, 0)).read_log() if x["event"] == "step"]
        assert len(lines) == 3 and all(line["temperature"] == pytest.approx(temperature) for line in lines)


def test_the_control_is_the_first_arm_on_other_seeds(compared):
    result = read_json(compared / "ablation.json")
    assert [row["arm"] for row in result["arms"]] == list(ARMS)
    assert "| in_batch seed_shift=1000 |" in (compared / "ablation.md").read_text(encoding="utf-8")
    plain, other = (run.recorded(one(compared, ARMS[n], 0)) for n in (0, 2))
    assert differing(plain["args"], other["args"]) == {"negatives", "seed_shift", "name"}
    assert other["args"]["seed_shift"] == 1000 and other["derived"]["seed"] == 0
    logs = [(one(compared, ARMS[n], 0) / "metrics.jsonl").read_bytes() for n in (0, 2)]
    assert logs[0] != logs[1]


@pytest.mark.parametrize(
    "arm, wanted",
    [
        ("in_batch seed_shift", "seed_shift= is no flag=value"),
        ("in_batch batch_size=3", "batch_size=3 is no flag=value"),
        ("in_batch budget=seconds", "budget=seconds is no flag=value"),
        ("in_batch temperature=-1", "--temperature -1: must be above 0"),
        ("random:1 filters=percpos:1.5", "percpos:1.5: 1.5: must be at most 1"),
        ("in_batch masks=guide:.1", "--guide MODEL and --masks guide:X"),
    ],
)
def test_bad_flags_of_an_arm(desk, capsys, arm, wanted):
    start(train, desk, *SMALL, "--negatives", "in_batch", arm, "--name", "refused", code=2)
    assert wanted in capsys.readouterr().err and not (desk / "runs/refused").exists()


def test_a_grid_is_trained_and_drawn(desk):
    flags = ("--batch_size", 9, "--steps", 2, "--negatives", "in_batch", "random:1", "--seeds", 3)
    start(train, desk, *SMALL, *flags, "--grid", "temperature=.05,.5", "--name", "grid")
    folder = desk / "runs/grid"
    arms = [f"{arm} temperature={t}" for arm in ("in_batch", "random:1") for t in (".05", ".5")]
    assert [row["arm"] for row in read_json(folder / "ablation.json")["arms"]] == arms
    for arm in arms:
        assert run.recorded(one(folder, arm, 3))["args"]["temperature"] == float(arm.partition("=")[2])
    assert (folder / "plots/grid.png").exists()
    start(evaluate, desk, "--compare", "runs/grid", "--against", arms[2])
    found = read_json(folder / "mrr@10_against_random-1_temperature=.05/ablation.json")
    assert [row["arm"] for row in found["arms"]] == [arms[2], *arms[:2], arms[3]]
    assert [row["arm"] for row in read_json(folder / "ablation.json")["arms"]] == arms, "train.py's table stays"


def test_each_arm_is_tuned_on_dev_with_the_first_seed(desk, capsys):
    flags = ("--batch_size", 9, "--steps", 3, "--negatives", "in_batch", "random:1", "--seeds", 3, 4, "--control")
    start(train, desk, *SMALL, *flags, "--tune", "temperature=.05,5", "--name", "tuned")
    folder = desk / "runs/tuned"
    found = read_json(folder / "tuning.json")
    dev = {path.parent.name: read_json(path)["dev"]["mrr@10"] for path in folder.glob("*/summary.json")}
    chosen = []
    for arm in ("in_batch", "random:1"):
        scores = {text: dev[one(folder, text, 3).name] for text in (f"{arm} temperature={t}" for t in (".05", "5"))}
        assert found["tried"][arm] == scores
        chosen.append(max(scores, key=scores.get))
    chosen.append(f"{chosen[0]} seed_shift=1000")
    assert found["chosen"] == chosen == [row["arm"] for row in read_json(folder / "ablation.json")["arms"]]
    together = read_json(folder / "one_setting" / "ablation.json")["arms"]
    assert [row["arm"] for row in together] == ["in_batch", "random:1", "in_batch seed_shift=1000"]
    assert len(dev) == 4 + 2 + 2 + 2 * 3  # settings with seed 3, chosen with seed 4, control, untuned
    table = (folder / "ablation.md").read_text()
    assert "Each arm at its own setting:" in table and "One setting for all:" in table
    capsys.readouterr()
    start(evaluate, desk, "--compare", "runs/tuned")
    assert capsys.readouterr().out.startswith(table[:200])


@pytest.mark.parametrize("flags", [("--seeds", 0, 1), ("--control",), ("--grid", "temperature=.1,.2")])
def test_a_comparison_under_torchrun_is_refused(desk, monkeypatch, capsys, flags):
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))
    start(train, desk, *SMALL, *flags, "--name", "refused", code=2)
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert "python train.py --jobs N" in message and not (desk / "runs/refused").exists()


# ------------------------------------------------------------------------------------- continued, drawn again


def test_a_finished_comparison_is_not_trained_again(compared):
    before, table = written(compared), (compared / "ablation.md").read_bytes()
    assert len(before) > 60
    start(train, compared.parent.parent, *COMPARED, "--name", "compared", "--resume")
    assert written(compared) == before and (compared / "ablation.md").read_bytes() == table


def test_a_comparison_is_continued_to_the_same_table(copy, desk, capsys):
    result, before = read_json(copy / "ablation.json"), written(copy)
    last = one(copy, ARMS[2], 1)
    shutil.rmtree(last)
    start(evaluate, desk, "--compare", "runs/copy", code=2)
    message = capsys.readouterr().err
    assert "1 of 6 runs are not finished, the first is in_batch seed_shift=1000, seed 1" in message
    start(train, desk, *COMPARED, "--name", "copy", "--resume")
    after = written(copy)
    assert after.keys() == before.keys()
    for path, (when, content) in before.items():
        if path.parts[0] != last.name:
            assert after[path] == (when, content), path
    for file in ("metrics.jsonl", "encoder/model.safetensors", "eval/tiny-test/per_query.jsonl"):
        path = last.relative_to(copy) / file
        assert after[path][1] == before[path][1] and after[path][0] != before[path][0]
    assert without_clock(read_json(copy / "ablation.json")) == without_clock(result)


def test_a_comparison_is_continued_by_other_code_only_if_that_is_wanted(copy, desk, capsys, monkeypatch):
    before, last = written(copy), one(copy, ARMS[2], 1)
    (last / "summary.json").unlink()
    code = run.code() | {"lib/loss.py": "edited"}
    monkeypatch.setattr(run, "code", lambda: code)
    start(train, desk, *COMPARED, "--name", "copy", "--resume", code=2)
    assert "copy was begun with other code (lib/loss.py): --changed_code" in capsys.readouterr().err
    start(train, desk, *COMPARED, "--name", "copy", "--resume", "--changed_code")
    changed = {folder.name for folder in copy.iterdir() if (folder / "config.json").exists()
               if "resumed_with" in read_json(folder / "config.json")}  # fmt: skip
    assert changed == {last.name} and read_json(copy / "config.json")["resumed_with"][0]["code"] == code
    after = written(copy)
    assert all(after[path] == was for path, was in before.items() if path.parts[0] != last.name)
    start(train, desk, *COMPARED, "--name", "new", "--changed_code", code=2)
    assert "--changed_code needs --resume" in capsys.readouterr().err


def test_evaluate_writes_the_tables_and_figures_again(copy, desk, capsys):
    before, runs = (copy / "ablation.md").read_bytes(), written(copy)
    result = read_json(copy / "ablation.json")
    for path in (copy / "ablation.md", copy / "ablation.json"):
        path.unlink()
    figures = {path.name for path in (copy / "plots").glob("*.png")}
    shutil.rmtree(copy / "plots")
    start(evaluate, desk, "--compare", "runs/copy")
    assert (copy / "ablation.md").read_bytes() == before and before.decode() in capsys.readouterr().out
    assert read_json(copy / "ablation.json") == result and written(copy) == runs
    assert {path.name for path in (copy / "plots").glob("*.png")} == figures
    start(evaluate, desk, "--compare", "runs/copy", "--measure", "recall@100")
    assert read_json(copy / "ablation.json") == result, "the table of another measure lies beside it"
    assert read_json(copy / "recall@100/ablation.json")["measure"] == "recall@100"
    assert "recall@100 against in_batch" in (copy / "recall@100/ablation.md").read_text(encoding="utf-8")


def test_more_seeds_of_a_comparison_are_in_its_table(copy, desk):
    start(train, desk, *COMPARED, 2, "--name", "copy", "--resume")  # --seeds 0 1 2
    assert one(copy, "in_batch", 2).exists()
    assert [row["seeds"] for row in read_json(copy / "ablation.json")["arms"]] == [[0, 1, 2]] * 3


# ------------------------------------------------------------------------------------------------------ rerun


def same_bytes(a, b):
    for file in ("metrics.jsonl", "encoder/model.safetensors", "eval/tiny-test/per_query.jsonl"):
        assert (a / file).read_bytes() == (b / file).read_bytes(), file


@pytest.mark.parametrize("arm, seed", [(ARMS[1], 0), (ARMS[2], 1)])
def test_a_run_of_a_comparison_is_repeated_from_its_config(compared, desk, arm, seed):
    config = one(compared, arm, seed) / "config.json"
    start(train, desk, "--config", config, "--name", "repeated", "--overwrite")
    same_bytes(desk / "runs/repeated", one(compared, arm, seed))


@pytest.mark.parametrize(
    "flags",
    [
        ("--negatives", "random:1,refresh:2@0.5", "--refresh_every", 1, "--sampling", "top", "--dims", 8),
        ("--seed", 2, "--seed_shift", 3, "--epochs", 0.6),
    ],
    ids=["arm", "seed"],
)
def test_a_single_run_is_repeated_from_its_config(desk, flags):
    start(train, desk, *SMALL, "--batch_size", 9, *flags, "--name", "first", "--overwrite")
    start(train, desk, "--config", "runs/first/config.json", "--name", "repeated", "--overwrite")
    same_bytes(desk / "runs/repeated", desk / "runs/first")


def test_a_flag_beside_a_config_counts(compared, desk):
    config = one(compared, ARMS[0], 0) / "config.json"
    start(train, desk, "--config", config, "--temperature", 0.2, "--name", "repeated", "--overwrite")
    then, now = (run.recorded(folder)["args"] for folder in (config.parent, desk / "runs/repeated"))
    assert differing(then, now) <= {"temperature", "name", "config", "overwrite", "control", "seeds"}
    assert now["temperature"] == 0.2


def test_what_is_no_config_is_refused(desk, tmp_path, capsys):
    write_json(tmp_path / "config.json", {"args": {}})
    start(train, desk, "--config", tmp_path / "config.json", code=2)
    assert "derived is missing" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- budgets, processes


@pytest.fixture
def planned(tmp_path):
    """A function: the jobs of a comparison of arms, none of which is run."""
    shutil.copytree(TINY, tmp_path / "tiny")

    def plan(*flags):
        found = []

        def note(jobs, *, at_once, output):
            found.extend(jobs)
            raise KeyboardInterrupt

        start(train, tmp_path, *SMALL, *flags, "--name", "planned", "--overwrite", run_jobs=note, code=130)
        return found

    return plan


@pytest.fixture
def matched(planned):
    """A function: the steps of each arm beside a first one of 40 steps with 4 queries each."""

    def steps(budget, *arms):
        flags = ("--batch_size", 4, "--steps", 40, "--refresh_every", 4, "--budget", budget)
        jobs = planned(*flags, "--negatives", *arms)
        assert [f"--steps={job.steps}" in job.command for job in jobs] == [True] * len(arms)
        return [job.steps for job in jobs]

    return steps


def test_without_a_budget_steps_are_what_is_given(matched):
    assert matched("steps", "in_batch", "random:4", "dense:9") == [40, 40, 40]


def test_without_steps_a_run_reckons_them_itself(planned):
    jobs = planned("--batch_size", 9, "--epochs", 1.5, "--negatives", "in_batch", "random:4")
    assert [job.steps for job in jobs] == [6, 6]  # of 36 queries, for the progress line
    assert not any("--steps" in part for job in jobs for part in job.command)


def test_a_run_is_this_script_with_an_arm_and_a_seed_of_its_own(planned):
    flags = ("--seeds", 0, 1, "--batch_size", 4, "--jobs", 2)
    for seed, job in enumerate(planned(*flags)):
        assert job.command[:2] == [sys.executable, str(ROOT / "train.py")] and job.label == f"refresh:4, seed {seed}"
        assert "--batch_size=4" in job.command and not any(part.startswith("--jobs") for part in job.command)
        assert job.command[job.command.index("--seeds") + 1] == str(seed)


def test_steps_are_inverse_to_the_denominators(matched):
    costs = {"random:1": 7, "in_batch": 3, "random:2": 11, "bm25:1+random:1": 11, "queue:9": 12}
    assert matched("denominators", *costs) == [round(40 * 7 / cost) for cost in costs.values()]
    assert matched("denominators", "in_batch", "random:30")[1] == round(40 * 3 / 39)  # there are 40 docs


def test_steps_are_inverse_to_the_docs_encoded(matched):
    arms = ("in_batch", "bm25:1", "queue:9", "refresh:1", "refresh:1 refresh_every=8", "dense:1", "adore:1")
    costs = [(0, 4), (0, 8), (0, 8), (0, 8 + 40 / 4), (0, 8 + 40 / 8), (40, 8), (40, 8)]
    assert matched("docs_encoded", *arms) == [round((160 - fixed) / each) for fixed, each in costs]


def test_a_stage_costs_as_long_as_it_lasts(matched):
    wanted = 40 * 3 / ((3 + 11) / 2)
    assert matched("denominators", "in_batch", "in_batch,random:2@0.5")[1] == pytest.approx(wanted, abs=1)
    half = matched("denominators", "random:2", "random:2,bm25:2@0.5")[1]
    assert half == 40  # both stages cost the same as the first arm


def test_matched_arms_get_as_much(desk):
    flags = (*SMALL, "--batch_size", 4, "--steps", 20, "--budget", "denominators")
    start(train, desk, *flags, "--negatives", "in_batch", "random:2", "--name", "matched")
    folders = [one(desk / "runs/matched", arm, 0) for arm in ("in_batch", "random:2")]
    first, second = (read_json(folder / "summary.json") for folder in folders)
    assert (first["steps"], second["steps"]) == (20, round(20 * 3 / 11))
    assert second["denominators"] == pytest.approx(first["denominators"], rel=0.2)
    assert second["docs_encoded"] != first["docs_encoded"]


def test_steps_are_inverse_to_the_seconds_of_a_pilot():
    seconds = {  # training and mining of experiment.PILOT = 30 steps
        "in_batch": (3.0, 0.0),
        "random:2": (6.0, 0.0),
        "dense:2": (3.0, 6.0),  # mines once, however many steps there are
        "refresh:2": (3.0, 6.0),  # mines again and again
        "random:9": (9000.0, 0.0),
    }
    asked = []

    def pilot(arm):
        asked.append(arm.text)
        return dict(zip(("train_s", "mine_s"), seconds[arm.text]))

    found = experiment.matched_steps(
        list(map(Arm.parse, seconds)),
        budget="seconds",
        steps=100,
        batch_size=lambda arm: 4,
        docs=lambda arm: 40,
        refresh_every=lambda arm: 4,
        pilot=pilot,
    )
    assert [(arm.text, steps) for arm, steps in found.items()] == [
        ("in_batch", 100), ("random:2", 50), ("dense:2", 40), ("refresh:2", 35), ("random:9", 1),
    ]  # fmt: skip
    assert asked == list(seconds)


def test_seconds_are_measured_once(desk, monkeypatch):
    flags = (*SMALL, "--batch_size", 4, "--steps", 20, "--budget", "seconds", "--name", "timed")
    flags += ("--negatives", "in_batch", "random:2", "--seeds", 0, 1)
    start(train, desk, *flags)
    folder = desk / "runs/timed"
    steps = read_json(folder / "matched_steps.json")
    assert steps["in_batch"] == 20 and steps["random:2"] > 0 and not (folder / "pilot").exists()
    for arm, count in steps.items():  # alike for all seeds
        assert [read_json(one(folder, arm, s) / "summary.json")["steps"] for s in (0, 1)] == [count] * 2
    (one(folder, "random:2", 1) / "summary.json").unlink()  # as if it had been killed
    shutil.rmtree(one(folder, "random:2", 1) / "encoder")
    monkeypatch.setattr(experiment, "matched_steps", pytest.fail)
    start(train, desk, *flags, "--resume")
    assert read_json(one(folder, "random:2", 1) / "summary.json")["steps"] == steps["random:2"]


@pytest.mark.parametrize("arm", ["dense:1", "adore:1", "refresh:1"])
def test_docs_encoded_holds_those_of_the_mining(desk, tiny, arm):
    flags = ("--batch_size", 8, "--steps", 2, "--refresh_every", 9, "--negatives", arm)
    start(train, desk, *SMALL, *flags, "--name", "encoded", "--overwrite")
    found = read_json(desk / "runs/encoded/summary.json")["docs_encoded"]
    assert 40 + 2 * 8 <= found <= 40 + 2 * 16  # the corpus once, and in each batch 8 positives and negatives


# --------------------------------------------------------------------------------------------------- clusters


def test_clusters_change_the_order_alone(desk, monkeypatch):
    found = {}
    for name, flags in {"plain": (), "clusters": ("--query_clusters", 4), "again": ("--query_clusters", 4)}.items():
        if name == "again":  # what the run before computed is not there
            monkeypatch.setenv("HARDNEG_CACHE", str(desk / "other-cache"))
        start(train, desk, *SMALL, "--batch_size", 6, "--steps", 6, *flags, "--name", name)
        found[name] = run.recorded(desk / "runs" / name)["derived"]
    assert found["plain"]["initial_weights"] == found["clusters"]["initial_weights"]
    assert found["plain"]["query_order"] != found["clusters"]["query_order"]
    same_bytes(desk / "runs/clusters", desk / "runs/again")


def test_batches_of_a_cluster_have_queries_that_are_alike(desk, monkeypatch):
    """Of the untrained encoder's vectors: the mean cosine within a batch."""
    seen, original = {}, train.derive

    def derive(args, encoder, order, device):
        tokens = tokenize(collection.queries, encoder, "query")
        q_emb = embed(encoder, tokens, collection.split("train").queries)
        cosines = [np.mean((x := q_emb[order.positions(step)]) @ x.T) for step in range(order.steps_per_epoch)]
        seen[args.query_clusters] = np.mean(cosines)
        return original(args, encoder, order, device)

    monkeypatch.chdir(desk)
    collection = load_collection("tiny")
    monkeypatch.setattr(train, "derive", derive)
    for clusters in ((), ("--query_clusters", 6)):
        flags = ("--batch_size", 6, "--steps", 1, "--name", "alike", "--overwrite")
        start(train, desk, *SMALL, *flags, *clusters, "--negatives", "in_batch")
    assert seen[6] > seen[None] + 0.02


@pytest.mark.parametrize("clusters", [0, 37])
def test_a_number_of_clusters_that_cannot_be_is_refused(desk, capsys, clusters):
    start(train, desk, *SMALL, "--query_clusters", clusters, "--name", "refused", code=2)  # of 36 train queries
    assert f"--query_clusters {clusters}" in capsys.readouterr().err and not (desk / "runs/refused").exists()


def test_measures_of_the_table_are_those_of_the_runs(compared):
    result = read_json(compared / "ablation.json")
    for row in result["arms"]:
        for number, seed in enumerate((0, 1)):
            summary = read_json(one(compared, row["arm"], seed) / "summary.json")
            assert {name: row["test"][name][number] for name in measures.MEASURES} == summary["test"]
        assert row["denominators"] == pytest.approx(3 * 8, rel=0.1)


@pytest.mark.parametrize(
    "slot, visible, count, wanted", [(0, None, 1, None), (1, None, 4, "1"), (2, None, 2, "0"), (1, "5,7", 2, "7")]
)
def test_each_run_has_a_gpu(slot, visible, count, wanted):
    assert experiment.gpu_of(slot, visible, count) == wanted


def test_an_arm_that_draws_from_a_file_is_compared_with_one_that_does_not(desk):
    start(mine_negatives, desk, "--data", "tiny", "--depth", 4, "--name", "mined")
    (path,) = (desk / "runs/mined/negatives").glob("*.jsonl")
    flags = ("--batch_size", 9, "--steps", 2, "--seeds", 3, "--negatives_file", path, "--name", "with-file")
    start(train, desk, *SMALL, *flags, "--negatives", "in_batch", "file:2")
    rows = read_json(desk / "runs/with-file/ablation.json")["arms"]
    assert [row["arm"] for row in rows] == ["in_batch", "file:2"]
    known = [run.recorded(one(desk / "runs/with-file", row["arm"], 3))["args"]["negatives_file"] for row in rows]
    assert known == [None, str(path)]
