"""Every script through the shell on tests/tiny, once for each thing that it can do; bad input; flags."""

import ast
import contextlib
import gzip
import importlib
import io
import json
import re
import shutil
import sys

import ir_measures
import numpy as np
import pytest
from conftest import ROOT, TINY, call
from test_comparison import in_this_process

from lib import cli, process
from lib.data.collection import load_collection
from lib.evaluation import experiment, measures
from lib.files import read_json
from lib.model.cross_encoder import CrossEncoder
from lib.negatives.files import load_candidates, read_negatives
from lib.negatives.pool import open_pool
from lib.negatives.sources import SOURCES

SCRIPTS = ("train.py", "mine_negatives.py", "build_index.py", "evaluate.py", "rag_demo.py")
SMALL = ("--steps", 4, "--batch_size", 8, "--dim", 32, "--vocab_size", 500, "--log_every", 1)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder to work in: the collection at tiny/, runs at runs/."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(TINY, folder / "tiny")
    return folder


def done(desk, script, *flags, stdin=""):
    """Run a script that must succeed; its stdout."""
    result = call(script, *flags, cwd=desk, stdin=stdin)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


def here(desk, script, *flags, code=0):
    """Run a script in this process, which must end with `code`; what it printed, errors included."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        patch.chdir(desk)
        patch.setattr(sys, "argv", [str(ROOT / script), *map(str, flags)])
        try:
            process.cli(importlib.import_module(script.removesuffix(".py")).main)
        except SystemExit as stopped:
            assert stopped.code == code, out.getvalue()
        else:
            assert code == 0
    return out.getvalue()


def read_run(path):
    """{qid: {doc_id: score}} of a file in TREC's format."""
    found = {}
    for line in ir_measures.read_trec_run(str(path)):
        found.setdefault(line.query_id, {})[line.doc_id] = line.score
    return found


STAGES = "random:2,bm25:1+refresh:2@0.5"
STAGED = ("--data", "tiny", "--negatives", STAGES, *SMALL, "--refresh_every", 1, "--eval_every", 2)


@pytest.fixture(scope="module")
def trained(desk):
    """Stdout of a run that mines with the encoder itself, in two stages: runs/staged."""
    return done(desk, "train.py", *STAGED, "--name", "staged")


@pytest.fixture(scope="module")
def indexed(desk, trained):
    """Stdout of build_index.py on runs/staged."""
    return done(desk, "build_index.py", "--run", "runs/staged")


@pytest.fixture(scope="module")
def evaluated(desk, indexed):
    """Stdout of evaluate.py on runs/staged and on BM25."""
    dense = done(desk, "evaluate.py", "--run", "runs/staged")
    return dense, here(desk, "evaluate.py", "--retriever", "bm25", "--data", "tiny")


@pytest.fixture(scope="module")
def mined(desk):
    """Stdout of mine_negatives.py with BM25 and random on tiny."""
    return done(desk, "mine_negatives.py", "--data", "tiny", "--sources", "bm25", "random", "--depth", 10)


def json_lines(path):
    """The objects of a JSONL file; NaN and infinity are no JSON."""

    def no_constant(name):
        raise AssertionError(f"{path.name} holds {name}")

    return [json.loads(line, parse_constant=no_constant) for line in path.read_text(encoding="utf-8").splitlines()]


def of_event(lines, event):
    """The lines of a log that tell of an event."""
    return [line for line in lines if line["event"] == event]


def check_run(folder, arm, *, sources, seed=0):
    """All that one training must leave in its folder."""
    summary, config = (read_json(folder / name) for name in ("summary.json", "config.json"))
    assert {
        "name",
        "data",
        "encoder",
        "negatives",
        "seed",
        "steps",
        "wall_s",
        "train_s",
        "mine_s",
        "queries_per_s",
        "peak_rss_mb",
        "denominators",
        "docs_encoded",
        "geometry",
        "dev",
        "test",
        "bm25",
    } <= set(summary)
    assert (summary["name"], summary["negatives"], summary["seed"], summary["steps"]) == (folder.name, arm, seed, 4)
    for split in ("dev", "test", "bm25"):
        assert set(summary[split]) == set(measures.MEASURES) and all(
            0 <= value <= 1 for value in summary[split].values()
        )
    assert {"args", "non_default", "derived", "inputs", "versions", "argv"} <= set(config)
    assert config["derived"]["steps_per_epoch"] == 4 and config["args"]["batch_size"] == 8
    assert config["non_default"]["dim"] == 32 and "lr" not in config["non_default"]
    lines = json_lines(folder / "metrics.jsonl")
    losses = of_event(lines, "step")
    assert [line["step"] for line in losses] == [0, 1, 2, 3]
    for line in losses:  # a source is listed from its first draw on
        assert "in_batch" in line["sources"] and set(line["sources"]) <= {"in_batch", *sources}
        assert sum(found["gradient"] for found in line["sources"].values()) == pytest.approx(1, abs=1e-5)
        assert 1 <= line["effective"] <= sum(found["negatives"] for found in line["sources"].values())
        for name, found in line["sources"].items():
            rows = [row for row in line["ledger"] if row["source"] == name]
            assert {key for row in rows for key in row} == {
                "source", "ranks", "negatives", "above", "gradient", "age", "unlabelled", "held_out",
            }  # fmt: skip
            for key in ("negatives", "gradient"):
                assert sum(row[key] for row in rows) == pytest.approx(found[key])
    assert set(losses[-1]["sources"]) == {"in_batch", *sources}
    assert {line["event"] for line in lines} <= {"step", "evaluation", "mining", "warning"}
    assert of_event(lines, "evaluation")[-1]["step"] == 4
    per_query = measures.read_per_query(folder / "eval" / "tiny-test" / "per_query.jsonl")
    assert measures.mean(per_query) == pytest.approx(summary["test"])
    names = {name.partition(" (")[2].rstrip(")") or name for name in sources}
    mined = {name for name in names if SOURCES[name].mine}
    assert set(summary["near_copies"]) == mined and all(0 <= s <= 1 for s in summary["near_copies"].values())
    assert set(summary["geometry"]) == {"alignment", "uniformity", "effective_rank"}
    assert 1 <= summary["geometry"]["effective_rank"] <= 32 and 0 <= summary["geometry"]["alignment"] <= 4
    counted = sum(found["negatives"] for line in losses for found in line["sources"].values())
    assert summary["denominators"] == round(counted)
    assert summary["docs_encoded"] >= 4 * 8  # as many docs as queries at least
    points = read_json(folder / "map.json")
    assert [label for label, _, _ in points].count("query") == 1
    assert {label for label, _, _ in points} <= {"query", "positive", "other docs", *sources}
    for plot in ("training.png", "ledger.png", "map.png"):
        assert (folder / "plots" / plot).read_bytes().startswith(PNG)
    assert {"encoder.json", "model.safetensors", "tokenizer.json", "modules.json"} <= {
        path.name for path in (folder / "encoder").iterdir()
    }
    assert not list(folder.rglob("*.tmp"))
    return config, lines


# ------------------------------------------------------------------------------------------------------ train


def test_train_in_stages(desk, trained):
    _, lines = check_run(desk / "runs/staged", STAGES, sources=["random", "bm25", "refresh"])
    assert [(line["step"], line["mined"]) for line in of_event(lines, "mining")] == [
        (2, "bm25"),
        (2, "refresh"),
        (3, "refresh"),
    ]
    assert [line["step"] for line in of_event(lines, "evaluation")] == [0, 2, 4]
    counts = [{name: found["negatives"] for name, found in line["sources"].items()} for line in of_event(lines, "step")]
    assert all(count["random"] > 0 and not {"bm25", "refresh"} & set(count) for count in counts[:2])
    assert all(count["random"] == 0 and count["bm25"] > 0 and count["refresh"] > 0 for count in counts[2:])
    ages = [
        {row["source"]: row["age"] for row in line["ledger"] if row["negatives"]} for line in of_event(lines, "step")
    ]
    assert [age.get("refresh") for age in ages] == [None, None, 0, 0]
    assert [age.get("bm25") for age in ages] == [None, None, 0, 1]
    assert all(age["in_batch"] is None for age in ages)
    assert "verdict" in trained and "runs/staged" in trained[trained.rindex("\nnext    python ") :]


def test_train_again_gives_the_same_bytes(launch, desk, trained, monkeypatch, tmp_path):
    """In another process, this one."""
    monkeypatch.setenv("HARDNEG_CACHE", str(tmp_path))  # nothing that the first run computed is there
    assert launch("train.py", *STAGED, "--name", "again", cwd=desk) == 0
    for file in (
        "metrics.jsonl",
        "encoder/model.safetensors",
        "encoder/tokenizer.json",
        "eval/tiny-test/per_query.jsonl",
    ):
        assert (desk / "runs/again" / file).read_bytes() == (desk / "runs/staged" / file).read_bytes(), file


@pytest.fixture(scope="module")
def two(desk):
    """A comparison of two arms at runs/two. Its runs with one seed are made in this process; it is continued with
    another in processes of their own, while the folder of in_batch-s1 holds something else, and again without that.

    Returns what was printed each time, and by the process of in_batch-s1 when it failed.
    """
    flags = ("--data", "tiny", "--negatives", "in_batch", "refresh:2", *SMALL, "--refresh_every", 2, "--name", "two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "run_jobs", in_this_process)
        begun = here(desk, "train.py", *flags, "--seeds", 0)
    taken = desk / "runs/two/in_batch-s1"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    failed = here(desk, "train.py", *flags, "--resume", "--jobs", 2, "--seeds", 0, 1, code=2)
    assert [path.name for path in taken.iterdir()] == ["notes.txt"]
    shutil.rmtree(taken)
    of_failed = (taken.parent / "output/in_batch-s1.txt").read_text(encoding="utf-8")
    continued = here(desk, "train.py", *flags, "--resume", "--seeds", 0, 1)
    return begun, failed, continued, of_failed


def test_a_run_that_fails_does_not_stop_the_others_and_is_continued_alone(desk, two):
    begun, failed, continued, _ = two
    for printed, runs, before in ((begun, 2, 0), (failed, 4, 2), (continued, 4, 3)):
        assert f"   runs = {runs}\n   finished before = {before}\n" in printed
    assert "run 1 of 2: in_batch, seed 1: failed with exit code 2" in failed
    assert "run 2 of 2: refresh:2, seed 1: test mrr@10 0." in failed
    last = failed.splitlines()[-1]
    assert last.startswith(
        "error: 1 of 2 runs failed, the first is in_batch, seed 1: runs/two/in_batch-s1 has no config.json"
    )
    assert "runs/two/output/" in last and "--resume" in last and "Traceback" not in failed
    assert "run 1 of 1: in_batch, seed 1: test mrr@10 0." in continued
    outputs = {path.stem: path.read_text(encoding="utf-8") for path in (desk / "runs/two/output").iterdir()}
    assert sorted(outputs) == ["in_batch-s1", "refresh-2-s1"]
    for name, text in outputs.items():
        assert "verdict" in text and f"runs/two/{name}" in text[text.rindex("\nnext    python ") :]


def test_an_ablation(launch, desk, two, capsys):
    printed, folder = two[2], desk / "runs/two"
    result = read_json(folder / "ablation.json")
    assert [row["arm"] for row in result["arms"]] == ["in_batch", "refresh:2"]
    configs = {}
    for row in result["arms"]:
        assert row["seeds"] == [0, 1]
        for number, seed in enumerate(row["seeds"]):
            one = folder / f"{row['arm'].replace(':', '-')}-s{seed}"
            explicit = [] if row["arm"] == "in_batch" else ["refresh"]
            configs[row["arm"], seed], lines = check_run(one, row["arm"], sources=explicit, seed=seed)
            assert [line["step"] for line in of_event(lines, "mining")] == ([0, 2] if explicit else [])
            summary = read_json(one / "summary.json")
            assert {name: values[number] for name, values in row["test"].items()} == summary["test"]
    assert {"difference", "low", "high", "p", "p_holm", "effect", "detectable"} <= set(
        result["arms"][1]["against_first"]
    )
    table = (folder / "ablation.md").read_text(encoding="utf-8")
    assert table.strip() in printed and "| in_batch |" in table and "| refresh:2 |" in table
    dev = {path.parent: read_json(path)["dev"]["mrr@10"] for path in folder.glob("*-s?/summary.json")}
    next_run = printed.split("build_index.py --run ")[1].split()[0]
    assert dev[desk / next_run] == max(dev.values())
    figures = {"arms.png", "curves.png", "sources.png", "geometry.png", "gains.png", "differences.png"}
    assert {path.name for path in (folder / "plots").glob("*.png")} == figures
    assert all((folder / "plots" / name).read_bytes().startswith(PNG) for name in figures)
    features = read_json(folder / "queries.json")
    assert len(features) == 12 and len({tuple(values) for values in features.values()}) == 1
    before = (folder / "ablation.md").read_bytes()
    assert launch("evaluate.py", "--compare", "runs/two", cwd=desk) == 0
    assert table.strip() in capsys.readouterr().out
    assert (folder / "ablation.md").read_bytes() == before
    for key in ("initial_weights", "query_order"):  # arms differ in their negatives alone, seeds in all
        found = {run_of: config["derived"][key] for run_of, config in configs.items()}
        assert found["in_batch", 0] == found["refresh:2", 0] != found["in_batch", 1] == found["refresh:2", 1]


# ------------------------------------------------------------------------------------------------------- mine


def test_mine_and_train_on_what_was_mined(launch, desk, mined, tiny):
    path = desk / "runs/tiny-mined/negatives/tiny-train-bm25+random.jsonl"
    header, records = read_negatives(path)
    records = [record for _, record in records]
    assert header["collection_fingerprint"] == tiny.fingerprint and set(header["sources"]) == {"bm25", "random"}
    assert (header["split"], header["depth"], header["seed"]) == ("train", 10, 0)
    assert {record["qid"] for record in records if record["source"] == "random"} == set(tiny.qrels_dict("train"))
    assert max(record["rank"] for record in records) == 10
    for record in records:
        assert tiny.qrels_dict("train")[record["qid"]].get(record["doc_id"], 0) < 1
    assert path.with_suffix(".png").read_bytes().startswith(PNG)
    assert f"--negatives_file {path.relative_to(desk)}" in mined
    flags = ("--data", "tiny", "--negatives", "file:3", "--negatives_file", path, *SMALL)
    assert launch("train.py", *flags, "--name", "from-file", cwd=desk) == 0
    check_run(desk / "runs/from-file", "file:3", sources=["bm25 (file)", "random (file)"])


def test_mine_with_an_encoder(launch, desk, trained, tiny):
    flags = ("--run", "runs/staged", "--split", "dev", "--depth", 5)
    assert launch("mine_negatives.py", *flags, cwd=desk) == 0
    path = desk / "runs/staged/negatives/tiny-dev-dense.jsonl"
    header, _ = read_negatives(path)
    assert header["encoder_fingerprint"] == read_json(desk / "runs/staged/encoder/encoder.json")["fingerprint"]
    loaded = load_candidates(path, tiny, tiny.split("dev"))
    assert loaded.docs.shape == (12, 5) and (loaded.docs >= 0).all()
    assert (loaded.scores[:, :-1] >= loaded.scores[:, 1:]).all()


@pytest.fixture
def mine(launch, desk, capsys):
    """A function that mines in this process to runs/NAME; (path of the file, header, records, stdout)."""

    def start(name, *flags, data="tiny"):
        capsys.readouterr()
        code = launch("mine_negatives.py", "--data", data, *flags, "--name", name, "--overwrite", cwd=desk)
        printed = capsys.readouterr()
        assert code == 0, printed.err
        files = [path for path in (desk / "runs" / name / "negatives").glob("*.*") if path.suffix != ".png"]
        (path,) = [path for path in files if path.is_file()]
        header, records = read_negatives(path) if len(path.suffixes) == 1 else (None, [])
        return path, header, [record for _, record in records], printed.out

    return start


def by_query(records):
    """{qid: [record, ...]}."""
    found = {}
    for record in records:
        found.setdefault(record["qid"], []).append(record)
    return found


def test_shares_of_the_depth(mine):
    flags = ("--sources", "bm25", "random", "--depth", 10)
    _, header, records, _ = mine("shares", *flags, "--shares", 0.3, 0.7)
    assert header["shares"] == [0.3, 0.7] and header["depth"] == 10
    _, header, alone, _ = mine("no-shares", *flags)
    assert header["shares"] is None
    for source, count in (("bm25", 3), ("random", 7)):
        wanted = by_query(record for record in alone if record["source"] == source)
        found = by_query(record for record in records if record["source"] == source)
        assert found == {qid: records[:count] for qid, records in wanted.items()}
        assert max(map(len, found.values())) == count


def test_filters_say_what_they_dropped(mine):
    filters = ["window:2:8", "percpos:0.8", "near_copy:0.9"]
    _, header, whole, _ = mine("unfiltered", "--depth", 12)
    assert header["filters"] == [] and not {*filters} & set(header["sources"]["bm25"]["dropped"])
    path, header, records, printed = mine("filtered", "--depth", 3, "--candidates", 12, "--filters", *filters)
    dropped = header["sources"]["bm25"]["dropped"]
    assert header["filters"] == filters and list(dropped)[-4:] == [*filters, "not chosen"]
    inside = [record for record in whole if 2 <= record["rank"] <= 8]
    assert dropped["window:2:8"] == len(whole) - len(inside) > 0
    passed = [record for record in inside if record["score"] < 0.8 * record["positive_score"]]
    assert dropped["percpos:0.8"] == len(inside) - len(passed) > 0
    assert dropped["near_copy:0.9"] == 0  # no two docs of tiny are alike
    wanted = [record for found in by_query(passed).values() for record in found[:3]]
    assert records == wanted and header["sources"]["bm25"]["candidates"] == len(records)
    assert dropped["not chosen"] == len(passed) - len(wanted) > 0
    assert all(f"{name} {count:,}" in printed for name, count in dropped.items() if count)
    assert path.with_suffix(".png").read_bytes().startswith(PNG)


def test_drawn_candidates_follow_the_seed(mine):
    flags = ("--depth", 3, "--candidates", 12, "--sampling", "simans:0.5:0")
    _, header, first, _ = mine("drawn", *flags)
    assert header["sampling"] == "simans:0.5:0"
    assert mine("drawn", *flags)[2] == first != mine("drawn", *flags, "--seed", 1)[2]
    top = mine("drawn", "--depth", 3)[2]
    assert [len(found) for found in by_query(first).values()] == [len(found) for found in by_query(top).values()]
    assert max(record["rank"] for record in first) > 3 == max(record["rank"] for record in top)
    for found in by_query(first).values():
        assert [record["rank"] for record in found] == sorted(record["rank"] for record in found)


def test_a_file_mined_elsewhere_passes_the_gate_when_it_is_filtered_and_when_it_is_trained_on(mine, launch, desk, tiny):
    path, _, _, _ = mine("everywhere", "--depth", 12, "--negative_docs", "all")
    own = ("--sources", "file", "--negatives_file", path, "--depth", 12)
    _, header, records, printed = mine("within", *own)
    inside = open_pool("labelled", tiny).holds([tiny.docs.row_of[record["doc_id"]] for record in records])
    outside = header["sources"]["file"]["dropped"]["outside the pool"]
    assert inside.all() and outside > 0 and f"outside the pool {outside:,}" in printed
    flags = ("--data", "tiny", "--negatives", "file:3", "--negatives_file", path, *SMALL)
    assert launch("train.py", *flags, "--name", "gated", "--overwrite", cwd=desk) == 0
    lines = json_lines(desk / "runs/gated/metrics.jsonl")
    assert of_event(lines, "mining")[0]["dropped"]["outside the pool"] == outside
    assert all(row["held_out"] == 0 for line in of_event(lines, "step") for row in line["ledger"])


def test_another_systems_file_and_back(mine, desk, tiny):
    _, _, records, _ = mine("own", "--depth", 6)
    path, _, _, printed = mine("foreign", "--depth", 6, "--format", "flagembedding")
    assert path.name == "tiny-train-bm25.flagembedding.jsonl" and "has no place for" in printed
    assert "next    flagembedding is read by --train_data runs/foreign" in printed and "train.py" not in printed
    lines = {line["query"]: line for line in json_lines(path)}
    found = by_query(records)
    assert set(lines) == {tiny.queries.text(tiny.queries.row_of[qid]) for qid in found}
    for qid, own in found.items():
        line = lines[tiny.queries.text(tiny.queries.row_of[qid])]
        assert line["neg"] == [tiny.docs.text(tiny.docs.row_of[record["doc_id"]]) for record in own]
        assert line["neg_scores"] == [record["score"] for record in own]
        assert set(line["pos_scores"]) == {own[0]["positive_score"]}
    flags = ("--sources", "file", "--negatives_file", path.relative_to(desk))
    path, header, back, _ = mine("back", *flags, "--negatives_format", "flagembedding", "--depth", 6)
    assert path.name == "tiny-train-file.jsonl" and list(header["sources"]) == ["file"]
    kept = ("qid", "doc_id", "score", "positive_score")
    assert [[record[key] for key in kept] for record in back] == [[record[key] for key in kept] for record in records]
    assert {record["source"] for record in back} == {"flagembedding"}
    # and again: a file of ours can be filtered
    flags = ("--sources", "file", "--negatives_file", path, "--filters", "percpos:0.5", "--depth", 6)
    _, _, filtered, _ = mine("back-again", *flags)
    assert filtered == [record for record in back if record["score"] < 0.5 * record["positive_score"]] != []


def taught(mine, judges, name, *flags):
    """What mine() returns where a cross-encoder scores 5 candidates of BM25."""
    return mine(name, "--depth", 5, "--cross_encoder", judges[1], *flags)


def threshold(records, share=0.7):
    """A number that this share of the teacher's scores lies below, none close to it."""
    scores = sorted(record["teacher_score"] for record in records)
    at = max(range(int(share * len(scores)), len(scores) - 1), key=lambda i: scores[i + 1] - scores[i])
    return round((scores[at] + scores[at + 1]) / 2, 5)


def test_a_cross_encoder_teaches_and_denoises(mine, judges, tiny):
    _, header, records, _ = taught(mine, judges, "taught")
    assert header["cross_encoder"] == str(judges[1])
    judge = CrossEncoder(judges[1], device="cpu")
    queries = [tiny.queries.text(tiny.queries.row_of[record["qid"]]) for record in records]
    docs = [tiny.docs.text(tiny.docs.row_of[record["doc_id"]]) for record in records]
    assert [record["teacher_score"] for record in records] == pytest.approx(
        judge.score(queries, docs).tolist(), abs=1e-4
    )
    assert all(0 < record["teacher_positive_score"] < 1 for record in records)
    limit = threshold(records)
    _, header, denoised, _ = taught(mine, judges, "denoised", "--candidates", 5, "--filters", f"denoise:{limit}")
    assert denoised == [record for record in records if record["teacher_score"] <= limit]
    assert header["sources"]["bm25"]["dropped"][f"denoise:{limit}"] == len(records) - len(denoised) > 0


def added_to(collection, other, split):
    """{(qid, doc id)} of the positives that the other collection has beside this one's."""
    before, after = (
        {(q, d) for q, judged in c.qrels_dict(split).items() for d, grade in judged.items() if grade >= 1}
        for c in (collection, other)
    )
    assert before <= after
    return after - before


def test_relabelled_candidates_become_positives(mine, judges, tiny, desk):
    _, _, records, _ = taught(mine, judges, "before", "--split", "dev")
    limit = threshold(records)
    flags = ("--split", "dev", "--relabel", limit)
    path, header, left, printed = taught(mine, judges, "relabelled", *flags)
    folder = path.parent / "tiny-dev-relabelled"
    collection = load_collection(str(folder))
    new = {(record["qid"], record["doc_id"]) for record in records if record["teacher_score"] > limit}
    assert added_to(tiny, collection, "dev") == new != set()
    assert not added_to(tiny, collection, "train") and not added_to(tiny, collection, "test")
    assert collection.docs.fingerprint == tiny.docs.fingerprint
    for qid, doc_id in new:
        row, doc = collection.queries.row_of[qid], collection.docs.row_of[doc_id]
        assert collection.known_positive(np.array([row]), np.array([[doc]])).all()
    assert left == [record for record in records if record["teacher_score"] <= limit]
    assert header["sources"]["bm25"]["dropped"]["relabelled"] == len(new)
    place = folder.relative_to(desk)
    assert f"{len(new)} candidates became positives: train with --data {place}\n" in printed


def test_a_doc_that_was_judged_irrelevant_can_be_relabelled(mine, judges, tiny):
    """A second line on it would make the new collection unreadable."""
    path, _, left, _ = taught(mine, judges, "all-relabelled", "--relabel", 0)
    judged = {(q, d): g for q, found in tiny.qrels_dict("train").items() for d, g in found.items()}
    new = added_to(tiny, load_collection(str(path.parent / "tiny-train-relabelled")), "train")
    assert any(judged.get(pair) == 0 for pair in new) and not left


def test_relabelling_comes_before_denoising(mine, judges):
    """What is certain to be positive (above 0.9) is no noise to be dropped (above 0.1) first."""
    _, _, records, _ = taught(mine, judges, "both-before", "--split", "dev")
    limit = threshold(records)
    flags = ("--split", "dev", "--relabel", limit, "--candidates", 5, "--filters", f"denoise:{limit}")
    _, header, _, _ = taught(mine, judges, "both", *flags)
    assert header["sources"]["bm25"]["dropped"]["relabelled"] == sum(
        record["teacher_score"] > limit for record in records
    )


def test_what_was_relabelled_can_be_trained_on_with_the_file(mine, judges, desk):
    _, _, records, _ = taught(mine, judges, "pair-before", "--split", "dev")
    path, *_ = taught(mine, judges, "pair", "--split", "dev", "--relabel", threshold(records))
    collection = load_collection(str(path.parent / "tiny-dev-relabelled"))
    assert (load_candidates(path, collection, collection.split("dev")).docs >= 0).any()


def test_an_audit(launch, desk, capsys):
    flags = ("--data", "tiny", "--sources", "bm25", "random", "--filters", "near_copy:0.5", "--candidates", 15)
    assert launch("mine_negatives.py", *flags, "--audit", 0.8, "--name", "audited", cwd=desk) == 0
    printed = capsys.readouterr().out
    folder = desk / "runs/audited"
    stem = "tiny-train-bm25+random"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        f"audit/{stem}.{suffix}" for suffix in ("md", "json", "png")
    }
    assert (folder / f"audit/{stem}.png").read_bytes().startswith(PNG)
    text = (folder / f"audit/{stem}.json").read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text
    report = json.loads(text)
    assert report["share"] == 0.8 and 20 <= report["hidden"] <= 36
    rows = {(row["source"], row["after"]): row for row in report["rows"] if row["ranks"] == "all"}
    assert list(rows) == [(s, after) for s in ("bm25", "random") for after in ("none", "near_copy:0.5")]
    for source in ("bm25", "random"):
        before, after = rows[source, "none"], rows[source, "near_copy:0.5"]
        assert {"negatives", "hidden", "rate", "interval", "per_unlabelled", "at_most"} <= set(before)
        assert after["hidden"] <= before["hidden"] and after["negatives"] <= before["negatives"]
        assert after["caught"] == pytest.approx(1 - after["hidden"] / before["hidden"])
        parts = [row for row in report["rows"] if row["source"] == source and row["ranks"] != "all"]
        # docs drawn at random have no rank
        assert sum(row["negatives"] for row in parts) == (after["negatives"] if source == "bm25" else 0)
    # BM25 finds nearly every planted copy, random docs hold some of them, the filter most of them
    assert rows["bm25", "none"]["hidden"] > 0.8 * report["hidden"]
    assert rows["bm25", "none"]["hidden"] > rows["random", "none"]["hidden"]
    assert rows["bm25", "near_copy:0.5"]["caught"] > 0.3 and rows["bm25", "near_copy:0.5"]["cost"] < 0.1
    page = (folder / f"audit/{stem}.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(table) == 2 + len(report["rows"]) and all(line in printed for line in table)
    assert page.count("## The 30 hardest negatives by") == 2


# ----------------------------------------------------------------------------------------- index and evaluate


def test_build_index(desk, indexed):
    meta = read_json(desk / "runs/staged/index/tiny/meta.json")
    assert (meta["docs"], meta["dim"], meta["collection"]) == (40, 32, "tiny")
    assert meta["encoder_fingerprint"] == read_json(desk / "runs/staged/encoder/encoder.json")["fingerprint"]
    assert indexed.rstrip().endswith("python evaluate.py --run runs/staged")


@pytest.mark.parametrize("number, folder", [(0, "runs/staged"), (1, "runs/tiny-bm25")])
def test_evaluate(desk, evaluated, tiny, number, folder):
    target = desk / folder / "eval/tiny-test"
    result = read_json(target / "metrics.json")
    assert {"mean", "queries", "self_match", "unjudged@10"} <= set(result)
    assert result["queries"] == 12 and result["collection_fingerprint"] == tiny.fingerprint
    values = measures.read_per_query(target / "per_query.jsonl")
    assert measures.mean(values) == result["mean"] and set(values) == set(tiny.qrels_dict("test"))
    assert measures.per_query(read_run(target / "run.trec"), tiny.qrels_dict("test")) == values
    assert (target / "ranks.png").read_bytes().startswith(PNG)
    assert f"{result['mean']['mrr@10']:.4f}" in evaluated[number]


def test_evaluate_agrees_with_the_look_at_test_after_training(desk, evaluated):
    summary = read_json(desk / "runs/staged/summary.json")
    bm25 = read_json(desk / "runs/tiny-bm25/eval/tiny-test/metrics.json")
    dense = read_json(desk / "runs/staged/eval/tiny-test/metrics.json")
    assert bm25["mean"] == pytest.approx(summary["bm25"])
    assert dense["mean"] == pytest.approx(summary["test"])


def test_a_doc_with_the_querys_own_id_is_dropped(desk, evaluated):
    result = read_json(desk / "runs/staged/eval/tiny-test/metrics.json")
    assert result["self_match"] == {"policy": "drop", "found": 1}
    assert "007" not in read_run(desk / "runs/staged/eval/tiny-test/run.trec")["007"]


def mean_of(desk, name):
    """{measure: mean} of what a run or BM25 was measured at on tiny's test split."""
    return measures.mean(measures.read_per_query(desk / "runs" / name / "eval/tiny-test/per_query.jsonl"))


@pytest.fixture
def compare(launch, desk, capsys):
    """A function that compares runs; ({title: cell} of each line of the table, the ablation.json, its folder)."""

    def start(*names, measure="ndcg@10"):
        capsys.readouterr()
        flags = ("--compare", *(f"runs/{name}" for name in names), "--measure", measure)
        assert launch("evaluate.py", *flags, cwd=desk) == 0
        printed = capsys.readouterr().out
        folder = desk / "runs" / "-vs-".join(names) / "tiny-test"
        text = (folder / "ablation.md").read_text(encoding="utf-8")
        said, rows, *_ = text.split("\n\n")
        assert "too few seeds" in said or "No arm" in said or "the most of the arms" in said
        head, _, *lines = [line.strip("| ").split(" | ") for line in rows.splitlines()]
        table = {line[0]: dict(zip(head, line)) for line in lines}
        assert text.strip() in printed
        assert f"wrote   {folder.parent.relative_to(desk)}/" in printed
        return table, read_json(folder / "ablation.json"), folder

    return start


def test_compare(compare, desk, evaluated):
    names = ("staged", "tiny-bm25")
    table, result, folder = compare(*names)
    assert list(table) == list(names)
    means = {name: mean_of(desk, name) for name in names}
    for name, line in table.items():
        for measure in measures.MEASURES:
            assert float(line[f"test {measure}"]) == pytest.approx(means[name][measure], abs=5e-5)
    difference = means["tiny-bm25"]["ndcg@10"] - means["staged"]["ndcg@10"]
    test = result["arms"][1]["against_first"]
    assert result["measure"] == "ndcg@10" and test["difference"] == pytest.approx(difference)
    cell = table["tiny-bm25"]["ndcg@10 against staged [95 %]"]
    assert cell == f"{difference:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]"
    counts = [int(table["tiny-bm25"][key]) for key in ("wins", "ties", "losses")]
    assert counts == [test[key] for key in ("wins", "ties", "losses")] and sum(counts) == 12
    assert {path.name for path in (folder / "plots").glob("*.png")} == {"arms.png", "differences.png"}
    assert (folder / "plots/differences.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("names, run_file", [(("staged", "tiny-bm25"), "run.trec"), (("two",), "run.trec.gz")])
def test_compare_by_a_measure_that_was_not_asked_for(launch, desk, evaluated, two, tiny, capsys, names, run_file):
    """From what the runs ranked, by evaluate.py or at the end of a training."""
    folder = desk / "runs" / "-vs-".join(names) / ("tiny-test" if names[1:] else "AP")
    flags = ("--compare", *(f"runs/{name}" for name in names), "--measure", "AP")
    assert launch("evaluate.py", *flags, cwd=desk) == 0
    result, place = read_json(folder / "ablation.json"), desk / f"runs/{'staged' if names[1:] else 'two/in_batch-s0'}"
    with (gzip.open if run_file.endswith("gz") else open)(place / "eval/tiny-test" / run_file, "rt") as file:
        ranked = list(ir_measures.read_trec_run(file.read()))
    qrels = [
        ir_measures.Qrel(q, doc, grade) for q, own in tiny.qrels_dict("test").items() for doc, grade in own.items()
    ]
    wanted = ir_measures.calc_aggregate([ir_measures.AP], qrels, ranked)[ir_measures.AP]
    assert result["measure"] == "AP" and result["arms"][0]["test"]["AP"][0] == pytest.approx(wanted)
    text = (folder / "wins.md").read_text(encoding="utf-8")
    gained, _, lost = text.partition("## Lost")
    assert text.startswith(f"# {result['arms'][1]['arm']} against {result['arms'][0]['arm']}: where it gained and lost")
    for part, sign in ((gained, 1), (lost, -1)):
        found = [float(line[4:10]) for line in part.splitlines() if line.startswith("### ")]
        assert all(sign * gain > 0 for gain in found) and found == sorted(found, reverse=sign > 0)
    assert launch("evaluate.py", *flags[:-1], "mrr@10", cwd=desk) == 0  # as it was


def test_measures_that_are_not_there(refused, desk, evaluated, two):
    both = ("--compare", "runs/staged", "runs/tiny-bm25", "--measure")
    assert "--measure 'AP P@5': one measure" in refused("evaluate.py", *both, "AP P@5", cwd=desk)
    several = ("--compare", "runs/two", "runs/two")
    for flags, said in (
        (("--measure", "AP"), "has mrr@10"),
        (("--by", "x"), "--by plays no part"),
        (("--data", "tiny"), "--data plays"),
    ):
        assert said in refused("evaluate.py", *several, *flags, cwd=desk)
    assert "--measure X@1: " in refused("evaluate.py", *both, "X@1", cwd=desk)
    assert "--measures adds others" in refused("evaluate.py", "--run", "runs/staged", "--measure", "AP", cwd=desk)
    shutil.copytree(desk / "runs/staged", desk / "runs/unranked")
    (desk / "runs/unranked/eval/tiny-test/run.trec").unlink()
    said = refused("evaluate.py", "--compare", "runs/unranked", "runs/staged", "--measure", "AP", cwd=desk)
    assert "has neither AP nor run.trec: evaluate.py --run runs/unranked --measures AP --overwrite" in said
    shutil.copytree(desk / "tiny", desk / "other")
    other = ("--data", "other", "--by", "x")
    assert "tiny-test is not of other" in refused("evaluate.py", *both, "mrr@10", *other, cwd=desk)


@pytest.mark.parametrize("measure", ["mrr@10", "recall@10"])
def test_compare_three(compare, desk, evaluated, measure):
    if not (desk / "runs/copied").exists():
        shutil.copytree(desk / "runs/staged", desk / "runs/copied")
    names = ("tiny-bm25", "staged", "copied")
    table, result, folder = compare(*names, measure=measure)
    assert list(table) == list(names) and result["queries"] == 12 and result["name"] == "tiny-test"
    first, second, third = result["arms"]
    assert second["against_first"] == third["against_first"] and "against_first" not in first
    difference = mean_of(desk, "staged")[measure] - mean_of(desk, "tiny-bm25")[measure]
    assert second["against_first"]["difference"] == pytest.approx(difference)
    assert second["against_first"]["p_holm"] == min(1, 2 * second["against_first"]["p"])
    assert second["against_first"]["decision"] == "open" and second["group"] == third["group"] == "a"  # one run each
    assert {path.name for path in (folder / "plots").glob("*.png")} == {"arms.png"}


def test_compare_runs_whose_folders_have_one_name(launch, desk, evaluated):
    if not (desk / "runs/elsewhere/staged").exists():
        shutil.copytree(desk / "runs/staged", desk / "runs/elsewhere/staged")
    flags = ("--compare", "runs/staged", "runs/elsewhere/staged", "--name", "namesakes")
    assert launch("evaluate.py", *flags, cwd=desk) == 0
    first, second = read_json(desk / "runs/namesakes/tiny-test/ablation.json")["arms"]
    assert first["arm"] != second["arm"] and first["test"] == second["test"]


# -------------------------------------------------------------------------------------------------------- ask


def check_answer(desk, tiny, printed, qid, *, count):
    """The docs shown are the best ones of evaluate.py for this query; the answer cites some of them."""
    ranking = read_run(desk / "runs/staged/eval/tiny-test/run.trec")[qid]
    best = sorted(ranking, key=ranking.get, reverse=True)[:count]
    shown = re.findall(r"^\[(\d+)\] (-?[\d.]+)  (\S+)  (.*)$", printed, flags=re.MULTILINE)
    assert [(number, doc_id) for number, _, doc_id, _ in shown] == [
        (str(i), doc_id) for i, doc_id in enumerate(best, 1)
    ]
    for _, score, doc_id, place in shown:
        assert float(score) == pytest.approx(ranking[doc_id], abs=6e-4)
        assert place.strip() == tiny.docs.record(tiny.docs.row_of[doc_id])["title"]
    cited = {int(number) for number in re.findall(r"\[(\d+)\]\.", printed)}
    assert cited and cited <= set(range(1, count + 1))


def test_ask_one_question(launch, desk, evaluated, tiny, capsys):
    question = tiny.queries.text(tiny.queries.row_of["q49"])
    assert launch("rag_demo.py", "--run", "runs/staged", "--docs", 3, question, cwd=desk) == 0
    check_answer(desk, tiny, capsys.readouterr().out, "q49", count=3)


def test_ask_at_the_prompt(desk, evaluated, tiny):
    questions = [tiny.queries.text(tiny.queries.row_of[qid]) for qid in ("q53", "q56")]
    printed = done(desk, "rag_demo.py", "--run", "runs/staged", stdin="\n".join(questions) + "\n\nnot asked\n")
    greeting, first, second, rest = printed.split("> ")
    assert "40 docs of tiny" in greeting and not rest.strip()
    check_answer(desk, tiny, first, "q53", count=5)
    check_answer(desk, tiny, second, "q56", count=5)


# -------------------------------------------------------------------------------------------------- bad input

BAD = [
    ("train.py", ["--data", "tiny", "--negatives", "bm24:4"], ["--negatives bm24:4"]),
    ("train.py", ["--data", "tiny", "--negatives", "file:4"], ["file:K", "--negatives_file"]),
    ("train.py", ["--data", "tiny", "--negatives", "bm25:4", "--negatives_file", "x"], ["file:K", "--negatives_file"]),
    (
        "train.py",
        ["--data", "tiny", "--negatives", "file:4", "--negatives_file", "none.jsonl"],
        ["none.jsonl", "o such file"],
    ),
    ("train.py", ["--data", "tiny", "--negatives", "in_batch", "in_batch"], ["twice"]),
    ("train.py", ["--data", "tiny", "--pooling", "cls"], ["--pooling", "static"]),
    ("train.py", ["--data", "tiny", "--encoder", "x", "--vocab_size", "80"], ["--vocab_size", "static"]),
    ("train.py", ["--data", "tiny", "--encoder", "static", "x"], ["--encoder takes static, one model, or two"]),
    ("train.py", ["--data", "tiny", "--guide", "x"], ["--guide MODEL and --masks guide:X"]),
    ("train.py", ["--data", "tiny", "--masks", "guide:0.1"], ["--guide MODEL and --masks guide:X"]),
    (
        "train.py",
        ["--data", "tiny", "--terms", "smoothing:0.1", "--base", "debiased:0.1"],
        ["--terms smoothing:0.1 plays no part with --base debiased:0.1"],
    ),
    ("train.py", ["--data", "tiny", "--terms", "margin_mse:0.5"], ["margin_mse", "a source with a teacher"]),
    ("train.py", ["--data", "tiny", "--terms", "kl:2"], ["--terms kl:2: 2: must be at most 1"]),
    (
        "train.py",
        ["--data", "tiny", "--negatives", "in_batch,file:1@0.5", "--negatives_file", "x", "--terms", "kl:0.5"],
        ["a source with a teacher"],
    ),
    ("train.py", ["--data", "tiny", "--ema", "1"], ["--ema 1"]),
    ("train.py", ["--data", "nowhere"], ["--data nowhere"]),
    ("train.py", ["--data", "tiny", "--encoder", "nowhere"], ["nowhere"]),
    ("train.py", ["--data", "tiny", "--name", "taken"], ["runs/taken is not empty", "--overwrite"]),
    ("train.py", ["--data", "tiny", "--batch_size", "0"], ["--batch_size 0"]),
    ("train.py", ["--data", "tiny", "--temperature", "-1"], ["--temperature -1"]),
    ("train.py", ["--data", "tiny", "--steps", "0"], ["--steps 0"]),
    ("train.py", ["--data", "tiny", "--steps", "-3"], ["--steps -3"]),
    ("train.py", ["--data", "tiny", "--warmup", "1"], ["--warmup 1"]),
    ("train.py", ["--data", "tiny", "--eval_every", "-1"], ["--eval_every -1"]),
    ("train.py", ["--data", "tiny", "--refresh_every", "0"], ["--refresh_every 0"]),
    ("train.py", ["--data", "tiny", "--vocab_size", "0"], ["--vocab_size 0"]),
    ("train.py", ["--data", "tiny", "--name", "../../elsewhere"], ["--name ../../elsewhere"]),
    ("train.py", ["--data", "tiny", "--name", ".", "--overwrite"], ["--name ."]),
    ("train.py", ["--data", "no-train"], ["no split 'train'"]),
    ("train.py", ["--data", "tiny", "--aim", "high"], ["unrecognized arguments: --aim high"]),
    ("train.py", ["--data", "tiny", "--temp", "0.1"], ["unrecognized arguments: --temp 0.1"]),
    ("train.py", ["--data", "tiny", "--steps", "many"], ["--steps many: must be a whole number"]),
    ("train.py", ["--data", "tiny", "--steps"], ["--steps: expected one argument"]),
    ("train.py", ["--data", "tiny", "--jobs", "0"], ["--jobs 0"]),
    ("train.py", ["--data", "tiny", "--jobs", "2"], ["--jobs", "single run"]),
    ("train.py", ["--data", "tiny", "--pull", "title", "--pull_rate", "1e9"], ["--pull_rate 1e9: must be at most 100"]),
    ("train.py", ["--data", "tiny", "--epochs", "1e300"], ["--epochs 1e300: must be at most 1e+06"]),
    ("mine_negatives.py", ["--data", "tiny", "--max_ram", "1e300"], ["--max_ram 1e300: must be at most 1e+06"]),
    ("build_index.py", ["--run", "runs/R", "--max_ram", "1e300"], ["--max_ram 1e300: must be at most 1e+06"]),
    ("rag_demo.py", ["--run", "runs/R", "--timeout", "1e300"], ["--timeout 1e300: must be at most 86400"]),
    ("train.py", ["--data", "tiny", "--budget", "money"], ["--budget", "money", "docs_encoded"]),
    ("train.py", ["--data", "tiny", "--select", "mrr"], ["--select", "mrr@10"]),
    ("train.py", ["--data", "tiny", "--grid", "batch_size=4,8"], ["batch_size=4", "flag=value"]),
    ("mine_negatives.py", ["--data", "tiny", "--sources", "dense"], ["--run"]),
    ("mine_negatives.py", ["--data", "tiny", "--depth", "0"], ["--depth 0"]),
    ("mine_negatives.py", ["--data", "tiny", "--candidates", "0"], ["--candidates 0: must be at least 1"]),
    ("mine_negatives.py", ["--data", "tiny", "--max_ram", "-1"], ["--max_ram -1"]),
    ("mine_negatives.py", ["--data", "tiny", "--split", "all"], ["no split 'all'"]),
    ("mine_negatives.py", ["--data", "tiny", "--sources", "file"], ["file", "--negatives_file"]),
    ("mine_negatives.py", ["--data", "tiny", "--negatives_file", "x"], ["file", "--negatives_file"]),
    (
        "mine_negatives.py",
        ["--data", "tiny", "--sources", "file", "--negatives_file", "none.jsonl"],
        ["none.jsonl", "o such file"],
    ),
    ("mine_negatives.py", ["--data", "tiny", "--shares", "0.5", "0.5"], ["--shares [0.5, 0.5]", "bm25"]),
    (
        "mine_negatives.py",
        ["--data", "tiny", "--sources", "bm25", "random", "--shares", "0.5", "0.4"],
        ["--shares [0.5, 0.4]", "bm25, random"],
    ),
    (
        "mine_negatives.py",
        ["--data", "tiny", "--sources", "bm25", "random", "--shares", "1.5", "-0.5"],
        ["--shares -0.5: must be above 0"],
    ),
    ("mine_negatives.py", ["--data", "tiny", "--sources", "bm25", "bm25"], ["twice"]),
    ("mine_negatives.py", ["--data", "tiny", "--relabel", "0.5"], ["--relabel", "--cross_encoder"]),
    ("mine_negatives.py", ["--data", "tiny", "--cross_encoder", "a/b/c"], ["a/b/c"]),
    ("mine_negatives.py", ["--data", "tiny", "--filters", "percpot:0.9"], ["percpot:0.9", "percpos"]),
    ("mine_negatives.py", ["--data", "tiny", "--filters", "percpos"], ["--filters percpos: write percpos:SHARE"]),
    ("mine_negatives.py", ["--data", "tiny", "--filters", "denoise:0.1"], ["denoise", "--cross_encoder"]),
    (
        "mine_negatives.py",
        ["--data", "tiny", "--sources", "random", "--filters", "percpos:0.9"],
        ["percpos:0.9", "random"],
    ),
    ("mine_negatives.py", ["--data", "tiny", "--sampling", "best"], ["--sampling best"]),
    ("mine_negatives.py", ["--data", "tiny", "--audit", "0"], ["--audit 0"]),
    ("mine_negatives.py", ["--data", "tiny", "--name", "../elsewhere"], ["--name ../elsewhere"]),
    ("mine_negatives.py", ["--run", "runs/none"], ["runs/none"]),
    ("build_index.py", ["--run", "runs/none"], ["runs/none", "config.json"]),
    ("evaluate.py", [], ["--run", "--retriever", "--compare"]),
    ("evaluate.py", ["--run", "runs/none"], ["runs/none", "config.json"]),
    ("evaluate.py", ["--retriever", "bm25", "--data", "tiny", "--split", "all"], ["no split 'all'"]),
    ("evaluate.py", ["--retriever", "bm25", "--data", "tiny", "--ranked", "10"], ["--ranked 10"]),
    ("evaluate.py", ["--compare", "runs/taken", "runs/none"], ["runs/none: no such folder"]),
    ("evaluate.py", ["--compare", "runs/taken", "runs/none", "--split", "dev"], ["--split", "--compare"]),
    ("evaluate.py", ["--compare", "runs/taken", "runs/none", "--ranked", "200"], ["--ranked", "--compare"]),
    ("evaluate.py", ["--compare", "runs/taken", "--overwrite"], ["--overwrite", "--compare"]),
    ("evaluate.py", ["--compare", "runs/taken", "--run", "runs/none"], ["--run", "--compare"]),
    ("evaluate.py", ["--compare", "runs/taken", "--retriever", "bm25"], ["--retriever", "--compare"]),
    ("evaluate.py", ["--compare", "runs/taken", "runs/none", "--against", "taken"], ["--against"]),
    ("evaluate.py", ["--run", "runs/none", "--retriever", "bm25"], ["--run", "--retriever"]),
    ("evaluate.py", ["--retriever", "runs/none", "--data", "tiny"], ["runs/none", "bm25"]),
    ("rag_demo.py", ["--run", "runs/none"], ["runs/none", "config.json"]),
    ("rag_demo.py", ["--run", "runs/none", "--docs", "0"], ["--docs 0"]),
]


@pytest.mark.parametrize("script, flags, wanted", BAD, ids=[" ".join([script, *flags]) for script, flags, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(refused, tmp_path, folder, script, flags, wanted):
    shutil.copytree(folder, tmp_path / "no-train")
    (tmp_path / "no-train/qrels/train.tsv").unlink()
    (tmp_path / "runs/taken").mkdir(parents=True)
    (tmp_path / "runs/taken/notes.txt").write_text("mine")
    message = refused(script, *flags)
    for part in wanted:
        assert part in message
    assert [path.name for path in (tmp_path / "runs").rglob("*")] == ["taken", "notes.txt"]
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "no-train", "runs"}


@pytest.mark.parametrize(
    "script, flags, wanted",
    [
        ("train.py", ["--data", "tiny", "--name", "staged"], "runs/staged is not empty"),
        ("mine_negatives.py", ["--data", "tiny", "--sources", "bm25", "random"], "bm25+random.jsonl exists"),
        ("build_index.py", ["--run", "runs/staged"], "runs/staged/index/tiny exists"),
        ("evaluate.py", ["--run", "runs/staged"], "runs/staged/eval/tiny-test exists"),
        ("evaluate.py", ["--retriever", "bm25", "--data", "tiny"], "runs/tiny-bm25/eval/tiny-test exists"),
    ],
)
def test_what_exists_is_kept(refused, desk, evaluated, mined, script, flags, wanted):
    if not (desk / "other").exists():
        shutil.copytree(desk / "tiny", desk / "other")
    before = {path: path.stat().st_mtime_ns for path in (desk / "runs").rglob("*") if path.is_file()}
    assert wanted in refused(script, *flags, cwd=desk)
    assert {path: path.stat().st_mtime_ns for path in (desk / "runs").rglob("*") if path.is_file()} == before


def test_bad_input_of_a_process_of_its_own(two):
    _, failed, _, printed = two
    assert "in_batch, seed 1: failed with exit code 2" in failed
    warned, error = printed.splitlines()  # of the collection, whose dev query stands in train
    assert warned.startswith("warning: dev queries that are train") and error.startswith(
        "error: runs/two/in_batch-s1 has"
    )


# ------------------------------------------------------------------------------------------------------ flags


class Made(Exception):
    """A parser, and nothing is parsed."""


@pytest.fixture
def parser_of(monkeypatch):
    """A function: the argument parser of a script."""

    def parse_args(parser, *rest):
        raise Made(parser)

    def make(script):
        with monkeypatch.context() as patch, pytest.raises(Made) as made:
            patch.setattr(cli.Parser, "parse_args", parse_args)
            importlib.import_module(script.removesuffix(".py")).parse_args()
        return made.value.args[0]

    return make


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_read_and_has_help(parser_of, script):
    source, parser = (ROOT / script).read_text(encoding="utf-8"), parser_of(script)
    if "retrieval.add_flags" in source:  # flags that several scripts have, read where they are defined
        source += (ROOT / "lib/evaluation/retrieval.py").read_text(encoding="utf-8")
    found = {name: action for name, action in parser.flags().items() if name != "help"}
    assert len(found) >= 3
    tree = ast.parse(source)
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "args"
    }
    for function in ast.walk(tree):  # getattr(args, name) over a tuple of names
        if isinstance(function, ast.FunctionDef) and "getattr(args, name)" in ast.unparse(function):
            tuples = [node.elts for node in ast.walk(function) if isinstance(node, ast.Tuple)]
            read |= {each.value for elements in tuples for each in elements if isinstance(each, ast.Constant)}
    for name, action in found.items():
        assert name in read, f"{script} never reads --{name}"
        assert action.help, f"{script}: --{name} has no help"
        assert all("-" not in option.lstrip("-") for option in action.option_strings)
    words = parser.format_help().split()
    assert all(f"--{name}" in words for name, action in found.items() if action.option_strings)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_docstring_is_the_runbook(parser_of, script):
    docstring = ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8")))
    names = {option for action in parser_of(script).flags().values() for option in action.option_strings}
    own = [line for line in docstring.splitlines() if f"python {script}" in line]
    assert own
    for line in own:
        assert {word for word in line.split("#")[0].split() if word.startswith("--")} <= names
