"""The tables and figures of a comparison of arms, from hand-made runs and from folders read back."""

import csv
import io
import json

import numpy as np
import pytest
from test_comparison_statistics import (
    BASE,
    LATE,
    analyse,
    evaluated,
    harmed,
    harmless,
    leave,
    made,
    noise,
    ordered,
    other_measure,
    seeded,
    three_arms,
    write,
)

from lib import files
from lib.evaluation import analysis, comparison, comparison_plots, drawing, measures, report, retrieval
from lib.evaluation.measures import MEASURES
from lib.evaluation.retrieval import verdict_of_run
from lib.files import BadInput

PNG = b"\x89PNG\r\n\x1a\n"


def table(result):
    """The Markdown of a comparison of the collection `made`."""
    return report.to_table(result | {"name": "made"})


def compare(folder, **flags):
    """Write a comparison's tables and figures again; the table."""
    return report.write(folder, comparison.read_comparison(folder, **flags), measure="mrr@10")


# ------------------------------------------------------------------------------------------------------------ tables


def test_the_table():
    runs = three_arms()
    result = analyse(runs)
    text = table(result)
    tables = [part.splitlines() for part in text.split("\n\n")]
    rows = {}
    for line in (line for part in tables for line in part if line.startswith("| ")):
        name, *cells = [cell.strip() for cell in line.split("|")[1:-1]]
        rows.setdefault(name, []).append(cells)
    assert list(rows) == ["negatives", "---", "*bm25*", "*untrained*", "a", "b", "c"]
    for number in (0, 1):
        assert len({len(found[number]) for found in rows.values() if len(found) > number}) == 1
    assert rows["*bm25*"][0][:4] == ["0.2500"] * 4 and rows["*untrained*"][0][:4] == ["0.1250"] * 4
    assert rows["a"][0][0] == f"{BASE.mean():.4f} ± 0.0283"  # 0.02 * sqrt(2)
    assert rows["a"][0][4:] == ["", "", "", "b", "", ""]
    test = result["arms"][1]["against_first"]
    assert rows["b"][0][4:] == [
        f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]",
        "<.0001 (<.0001)", "better", "a", f"{test['effect']:+.2f}", f"{test['detectable']:.4f}",
    ]  # fmt: skip
    assert rows["a"][1] == ["7", "900", "100", "60.0", "0.0", f"{BASE.mean() - 0.125:+.3f}", "0.500",
                            "-2.000", "30", "9.0", "40 (all)", "20.0%", "10.0%", ""]  # fmt: skip
    assert "made, seeds 0 1, 60 queries" in text and "p over queries and seeds (Holm)" in text


def test_one_seed_says_nothing_of_others():
    """Two runs of one arm differ by as much: no order is claimed, no arm hurts, and the table says why."""
    text = table(analyse([made("a", BASE), made("b", BASE - 0.3 + noise(1))]))
    assert "p over queries (Holm)" in text and "no arm is said to differ" in text
    assert "| open | a |" in text and "hurts" not in text


def test_arms_have_the_letters_of_their_tie_groups():
    text = table(analyse(ordered()))
    for arm, letter in {"low": "c", "top": "a", "middle": "b", "same": "b"}.items():
        cells = next(line for line in text.splitlines() if line.startswith(f"| {arm} |")).split(" | ")
        assert cells[8] == letter


@pytest.mark.parametrize("late", [late for late, _ in LATE], ids=str)
def test_an_arm_that_hurts_is_told_with_what_may_explain_it(late):
    result = analyse(harmed(**late))
    text = table(result)
    assert "**b hurts**: mrr@10 -0." in text and f"What its runs say: {result['arms'][1]['why'][0]}" in text


def test_nothing_is_said_of_an_arm_that_is_no_worse():
    for runs in harmless():
        assert "hurts" not in table(analyse(runs))


def test_warnings_have_a_column():
    text = table(analyse(three_arms(b={"warnings": ("no learning", "collapse")})))
    assert "| collapse, no learning |" in text


def test_one_arm_is_a_table_without_tests():
    assert "better" not in table(analyse([made("a", BASE, seed=seed) for seed in (0, 1)]))


def test_the_table_names_another_measure():
    found = analysis.analyse(other_measure(), measure="ndcg@10")
    assert "ndcg@10 against a [95 %]" in table(found)


# ----------------------------------------------------------------------------------------------------------- folders


def test_an_unfinished_comparison_has_no_table(tmp_path):
    folder = write(tmp_path / "ab", three_arms()[:3], arms=("a", "b", "c"))
    with pytest.raises(BadInput, match="not finished"):
        compare(folder)
    assert not (folder / "ablation.md").exists()


def test_a_comparison_is_written_and_written_again_alike(tmp_path):
    folder = write(tmp_path / "ab", three_arms(), arms=("a", "b", "c"))
    features = {f"q{i}": {"rank": i % 7, "same": 1, "share": i / 60} for i in range(60)}
    table = compare(folder)
    figures = {"arms.png", "curves.png", "sources.png", "geometry.png"}
    assert {path.name for path in (folder / "plots").glob("*.png")} == figures  # nothing is known of the queries
    files.write_json(folder / "queries.json", features)
    before = (folder / "ablation.md").read_bytes()
    assert before.decode("utf-8") == table
    assert compare(folder) == table
    assert (folder / "ablation.md").read_bytes() == before
    assert {path.name for path in (folder / "plots").glob("*.png")} == figures | {"gains.png"}
    assert all(path.read_bytes().startswith(PNG) for path in (folder / "plots").iterdir())
    json.loads((folder / "ablation.json").read_text("utf-8"), parse_constant=pytest.fail)
    result = analyse(comparison.read_comparison(folder)) | {"name": "made"}
    assert files.read_json(folder / "ablation.json") == json.loads(json.dumps(result))


def test_audits_of_its_runs_are_drawn_together(tmp_path):
    folder = write(tmp_path / "ab", three_arms(), arms=("a", "b", "c"))
    rows = {"a-s0": "bm25", "b-s0": "dense"}
    for name, source in rows.items():
        row = {"source": source, "after": "none", "ranks": "all", "rate": 0.01, "interval": [0.005, 0.02]}
        files.write_json(folder / name / "audit/made-train.json", {"rows": [row]})
    labels = [(label, after, ranks) for label, after, ranks, _ in comparison.read_audits(folder)]
    assert labels == [("bm25, a-s0", "none", "all"), ("dense, b-s0", "none", "all")]
    compare(folder)
    assert (folder / "plots/audit.png").read_bytes().startswith(PNG)


def test_another_arm_to_compare_with(tmp_path):
    folder = write(tmp_path / "ab", three_arms(), arms=("a", "b", "c"))
    assert "| mrr@10 against b [95 %] |" in compare(folder, against="b")
    b, a, c = files.read_json(folder / "ablation.json")["arms"]
    assert [row["arm"] for row in (b, a, c)] == ["b", "a", "c"] and "against_first" not in b
    assert a["against_first"]["difference"] == pytest.approx(-0.1 - noise(1).mean()) and "hurts" in a
    with pytest.raises(BadInput, match="--against 'd': no such arm; the comparison has a, b, c"):
        compare(folder, against="d")


@pytest.mark.parametrize("against", [None, "b"])
def test_a_comparison_is_tested_again_without_its_runs(tmp_path, against):
    folder = write(tmp_path / "ab", three_arms(), arms=("a", "b", "c"))
    compare(folder)
    table = report.of_comparison(folder, measure="mrr@10", against=against)
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("ablation.json", analysis.KEPT):
        (kept / name).write_bytes((folder / name).read_bytes())
    assert report.of_comparison(kept, measure="mrr@10", against=against) == table
    assert files.read_json(kept / "ablation.json") == files.read_json(folder / "ablation.json")
    assert report.of_comparison(kept, measure="recall@100", against=against) != table
    (kept / analysis.KEPT).write_bytes(b"PK")
    with pytest.raises(BadInput, match="per_query.npz: cannot be read"):
        report.of_comparison(kept, measure="mrr@10")


def test_a_run_that_was_measured_on_another_collection_too(tmp_path):
    folder = write(tmp_path / "ab", three_arms(), arms=("a", "b", "c"))
    table = compare(folder)
    for one in folder.glob("*-s*"):  # as build_index.py and evaluate.py --data OTHER leave it
        for other in ("a-test", "other-test", "zz-test"):
            values = {"x": dict.fromkeys(MEASURES, 1.0)}
            measures.write_per_query(one / f"eval/{other}/per_query.jsonl", values)
    assert compare(folder) == table


# ----------------------------------------------------------------------------------------------------------- figures


def test_a_grid_of_one_flag_has_a_figure(tmp_path):
    gains = {"a temperature=.1": 0.0, "a temperature=.02": 0.1, "b temperature=.1": 0.2,
             "b temperature=.02": 0.3}  # fmt: skip
    runs = [
        made(arm, BASE + gain, overrides={"temperature": float(arm.partition("=")[2])}) for arm, gain in gains.items()
    ]
    flag, rows, columns, values = drawing._grid(runs, "mrr@10")
    assert flag == "temperature"
    assert (rows, columns) == (["a", "b"], [0.02, 0.1])
    np.testing.assert_allclose(values - BASE.mean(), [[0.1, 0.0], [0.3, 0.2]])
    assert drawing._grid(runs[:3], "mrr@10") is None and drawing._grid(runs[:1], "mrr@10") is None
    assert drawing._grid([*runs, made("c", BASE)], "mrr@10") is None
    assert drawing._grid([*runs, made("c lr=.1", BASE, overrides={"lr": 0.1})], "mrr@10") is None
    result = analyse(runs) | {"name": "made"}
    drawing.draw(tmp_path, result, runs, None)
    assert (tmp_path / "grid.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    "flag, low, high", [("temperature", 0.02, 0.1), ("batch_size", 9, 128), ("lr", 1e-4, 0.01), ("ema", 0, 0.999)]
)
def test_a_grid_is_of_the_values_in_config_json(tmp_path, monkeypatch, flag, low, high):
    """What an arm is called says nothing of the values: other numbers, or none at all."""
    drawn = []
    monkeypatch.setattr(comparison_plots, "grid", lambda path, *cells, **rest: drawn.append((path, cells, rest)))
    arms = {"a seed=3": (high, 0.0), "a seed=4": (low, 0.1), "b": (low, 0.2), "b x": (high, 0.3)}
    runs = [made(arm, BASE + gain, overrides={flag: value}) for arm, (value, gain) in arms.items()]
    folder = write(tmp_path / "ab", runs, arms=arms, seeds=[0])
    compare(folder)
    ((path, (rows, columns, values), rest),) = drawn
    assert path == folder / "plots/grid.png" and rest["flag"] == flag
    assert (rows, columns) == (["a", "b"], [low, high])
    np.testing.assert_allclose(values - BASE.mean(), [[0.1, 0.0], [0.2, 0.3]])


def test_a_grid_of_a_flag_that_is_no_number_has_no_figure(tmp_path):
    arms = {f"{base} filters={text}": [text] for base in "ab" for text in ("percpos:0.9", "near_copy:0.8")}
    runs = [made(arm, BASE, overrides={"filters": value}) for arm, value in arms.items()]
    folder = write(tmp_path / "ab", runs, arms=arms, seeds=[0])
    compare(folder)
    assert (folder / "plots/arms.png").exists() and not (folder / "plots/grid.png").exists()


def test_sources_are_followed_as_means_over_seeds():
    runs = three_arms()
    runs[3].log[1]["sources"] = {"bm25": {"negatives": 4.0, "above": 0.3, "gradient": 0.7}}  # seed 1 of b
    found = drawing._by_source(runs)
    assert list(found) == ["a", "b", "c"] and list(found["b"]) == ["bm25"]
    np.testing.assert_allclose(found["b"]["bm25"], [(0, 0.2, 0.6), (6, 0.1, 0.5)])
    for one in runs[:2]:
        for line in (x for x in one.log if "sources" in x):
            line["sources"] = {"in_batch": line["sources"]["in_batch"]}
    assert drawing._by_source(runs)["a"] == {}


def test_arms_that_are_the_same_are_named(tmp_path):
    report.write(
        tmp_path,
        [made(arm, BASE + gain) for arm, gain in (("a", 0.0), ("b", 0.1), ("b x=1", 0.1))],
        measure="mrr@10",
        name="n",
    )
    text = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert "**b x=1 and b gave the very same values for every query and seed**" in text and text.count("very same") == 1


def test_gains_are_means_over_quarters_of_the_queries():
    runs = [made("a", BASE), made("b", BASE + np.repeat([0.0, 0.1, 0.2, 0.3], 15))]
    features = {f"q{i}": {"place": i, "same": 5, "is": i // 30} for i in range(60)}
    found = drawing._gains(runs, features, "mrr@10")
    assert list(found) == ["place, quarters", "is"]  # what is the same for all tells nothing
    ((arm, quarters),) = found["place, quarters"].items()
    assert arm == "b" and [mean for _, mean, _ in quarters] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert [label for label, _, _ in quarters] == ["0-14", "15-29", "30-44", "45-59"]
    (no, mean, error), (yes, *_) = found["is"]["b"]
    assert (no, yes) == ("no", "yes") and mean == pytest.approx(0.05)
    assert error == pytest.approx(np.repeat([0.0, 0.1], 15).std() / np.sqrt(30))


# ------------------------------------------------------------------------------------------------ runs measured apart


def test_any_number_of_measured_runs_are_compared_with_the_first(tmp_path):
    folders = [evaluated(tmp_path / name, BASE + gain) for name, gain in (("bm25", 0.0), ("x", 0.1), ("y", -0.1))]
    ((evaluation, runs),) = comparison.read_evaluations(folders).items()
    assert evaluation == "made-test" and [one.arm for one in runs] == ["bm25", "x", "y"]
    text = report.write(tmp_path / "out", runs, measure="mrr@10", name=evaluation)
    first, x, y = files.read_json(tmp_path / "out/ablation.json")["arms"]
    assert x["against_first"]["difference"] == pytest.approx(0.1) and y["against_first"]["difference"] < 0
    assert "| mrr@10 against bm25 [95 %] |" in text and "| wins | ties | losses |" in text and "| 60 | 0 | 0 |" in text
    assert "| 0 | 0 | 60 |" in text
    assert "steps" not in first and "hurts" not in text
    assert (tmp_path / "out/plots/arms.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("names", [("bm25", "b-s0"), ("b-s0", "bm25")], ids=" then ".join)
def test_a_run_without_a_summary_beside_a_trained_one(tmp_path, names):
    evaluated(tmp_path / "bm25", BASE)
    leave(tmp_path / "b-s0", made("b", BASE + 0.1 + noise(1)))
    (runs,) = comparison.read_evaluations([tmp_path / name for name in names]).values()
    text = report.write(tmp_path / "out", runs, measure="mrr@10", name="made-test")
    result = json.loads((tmp_path / "out/ablation.json").read_text("utf-8"), parse_constant=pytest.fail)
    rows = {row["arm"]: row for row in result["arms"]}
    assert list(rows) == list(names) and result["references"] == {}
    assert [rows[name]["trained"] for name in ("bm25", "b-s0")] == [False, True]
    assert "steps" not in rows["bm25"] and rows["b-s0"]["steps"] == 7
    difference = (0.1 + noise(1).mean()) * (1 if names[0] == "bm25" else -1)
    assert rows[names[1]]["against_first"]["difference"] == pytest.approx(difference)
    results, costs = ([x for x in text.splitlines() if x.startswith(f"| {name} |")] for name in ("bm25", "b-s0"))
    assert len(results) == 1 and len(costs) == 2 and costs[1].startswith("| b-s0 | 7 | 900 | 100 | 60.0 | 0.0 |")
    assert f"| mrr@10 against {names[0]} [95 %] |" in text
    assert {path.name for path in (tmp_path / "out/plots").glob("*.png")} == {"arms.png", "differences.png"}


def test_two_runs_have_a_figure_of_their_differences(tmp_path):
    folders = [evaluated(tmp_path / name, BASE + gain) for name, gain in (("a", 0.0), ("b", noise(3)))]
    (runs,) = comparison.read_evaluations(folders).values()
    report.write(tmp_path / "out", runs, measure="mrr@10", name="made-test")
    assert (tmp_path / "out/plots/differences.png").read_bytes().startswith(PNG)


def test_a_table_for_a_spreadsheet():
    result = analyse(three_arms())
    rows = list(csv.DictReader(io.StringIO(report.to_csv(result))))
    assert [row["arm"] for row in rows][-3:] == ["a", "b", "c"]
    b, test = rows[-2], next(row for row in result["arms"] if row["arm"] == "b")["against_first"]
    assert float(b["mrr@10 difference"]) == test["difference"] and b["mrr@10 decision"] == test["decision"]
    assert b["seeds"] == "2" and rows[-3]["mrr@10 p"] == ""


@pytest.mark.parametrize(
    "data, name",
    [
        ("faq.csv:question=a,answer=b", "faq"),
        ("x/faq.jsonl.gz", "faq"),
        ("python", "python"),
        ("made/debian.d", "debian.d"),
    ],
)
def test_short_names_of_collections(data, name):
    assert report.short(data) == name


def test_a_table_by_a_field():
    runs = three_arms()
    qids = list(runs[0].values)
    value_of = {qid: "rare" if i < 3 else "often" for i, qid in enumerate(qids[:-1])}
    lines = analysis.by_field(runs, "kind", value_of, "mrr@10").splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| kind", "| ---", "| often", "| rare", "| (none)"]
    of_a = np.mean([[one.values[qid]["mrr@10"] for qid in qids[:3]] for one in runs if one.arm == "a"])
    assert lines[3].startswith(f"| rare | 3 | {of_a:.4f} |")


# ------------------------------------------------------------------------------------------------------- a verdict

LESS, LEVEL, MORE = (
    {"difference": difference, "low": difference - 0.02, "high": difference + 0.02, "queries": 20, "p": p}
    for difference, p in ((-0.1, 0.001), (0.01, 0.3), (0.05, 0.001))
)
OF_A_RUN = [  # against BM25, against the start
    (MORE, MORE, "this encoder is ahead of BM25 (+0.0500 [+0.0300, +0.0700] mrr@10): use it", "build_index.py --run R"),
    (
        LESS,
        MORE,
        "BM25 is ahead of this encoder (-0.1000 [-0.1200, -0.0800] mrr@10): search with",
        "--retriever R+bm25",
    ),
    (LESS, LESS, "; training lost against its start (-0.1000 [-0.1200, -0.0800] mrr@10): search", "--retriever R+bm25"),
    (
        MORE,
        LESS,
        "training lost against its start (-0.1000 ",
        "train.py --config R/config.json --lr 0.01 --name r-lower-lr",
    ),
    (MORE, LEVEL | {"difference": -0.01}, "this encoder is ahead of BM25", "build_index.py --run R"),  # by chance
    (LEVEL, MORE, "not told apart by these test queries (+0.0100 [-0.0100, +0.0300] mrr@10)", "--retriever R+bm25"),
    (MORE, None, "this encoder is ahead of BM25", "build_index.py --run R"),
]


def ended(against, start=None, **more):
    dev = {"dev": {"mrr@10": against["difference"]}, "bm25_dev": {"mrr@10": 0.0}}  # on dev as on test
    summary = {"name": "r", "against_bm25": against, "steps": 30, "best_step": 30} | dev | more
    return summary | ({"against_untrained": start} if start else {})


@pytest.mark.parametrize("against, start, said, command", OF_A_RUN, ids=range(len(OF_A_RUN)))
def test_a_run_ends_with_what_to_use(against, start, said, command):
    found, following = verdict_of_run(ended(against, start), "mrr@10", run="R", lr=0.03)
    assert said in found and command in following and "fell after" not in found and "on dev" not in found


@pytest.mark.parametrize("against", [LESS, LEVEL, MORE])
def test_a_run_says_what_mixing_gains(against):
    def said(better):
        summary = ended(against, mixed={"weight": 0.5, "against_better": better})
        return verdict_of_run(summary, "mrr@10", run="R", lr=0.03)

    found, following = said(MORE)
    assert "mixed with BM25 it gains +0.0500" in found and "--retriever R+bm25" in found and "build_index" in following
    found, following = said(LEVEL)
    assert "not shown to gain (+0.0100 [-0.0100, +0.0300] mrr@10, p 0.3)" in found and "R+bm25" not in following
    assert ("search with --retriever bm25" in found) == (against is LESS)
    assert ("rag_demo.py --run R --retriever bm25 " if against is not MORE else "build_index.py --run R") in following


def test_what_a_verdict_does_not_advise():
    encoder = ended(LESS, mixed={"weight": 0.0, "against_better": LEVEL}, init="M")
    found, following = verdict_of_run(encoder, "mrr@10", run="R", lr=0.03)
    assert "pretrained" not in found and "dev chooses BM25 alone" in found and "rag_demo.py --run R" in following
    level = ended(LEVEL, mixed={"weight": 0.5, "against_better": LEVEL})
    assert "BM25, which needs no training, will do" in verdict_of_run(level, "mrr@10", run="R", lr=0.03)[0]
    never = ended(LEVEL, untrained_dev={"mrr@10": 0.5}, steps=300, best_step=19)
    said = verdict_of_run(never, "mrr@10", run="R", lr=0.03)[0]
    assert "on dev no step was above the start" in said and "fell after" not in said


def test_of_few_queries_nothing_is_said():
    few = ended(MORE | {"queries": 19}, mixed={"weight": 0.5, "against_better": MORE})
    assert verdict_of_run(few, "mrr@10", run="R", lr=0.03)[0].startswith("19 queries are too few to say what to")
    assert "ahead" not in retrieval.verdict(LESS | {"queries": 1, "mean": 0.5}, "mrr@10", spec="R")[0]


def test_a_run_says_where_dev_and_test_differ():
    summary = ended(LESS, dev={"mrr@10": 0.3}, bm25_dev={"mrr@10": 0.29})
    assert "on dev it is +0.0100, so that" in verdict_of_run(summary, "mrr@10", run="R", lr=0.03)[0]


@pytest.mark.parametrize("against", [LESS, LEVEL, MORE])
def test_a_run_whose_dev_fell_early_says_so(against):
    said = verdict_of_run(ended(against, steps=300, best_step=19), "mrr@10", run="R", lr=0.03)[0]
    assert "dev was best at step 19 of 300 and fell after that (fewer --epochs, or --init MODEL)" in said


def test_a_comparison_begins_with_what_it_says():
    text = table(analyse(three_arms())).splitlines()[0]
    assert text.startswith("**b gains +0.0") and "mrr@10 over a, the most of the arms. b is above BM25 (0." in text
    level = [*seeded("a", BASE), *seeded("b", BASE + noise(1) - noise(1).mean())]
    assert "No arm is better than a beyond chance" in table(analyse(level))
    result = analyse(three_arms())
    next(row for row in result["arms"] if row["arm"] == "b")["pool"] = {"leaks": True}  # b knew the test's docs
    assert not report.conclusion(result).startswith("b gains") and "b is above" not in report.conclusion(result)
    one_seed = [made("a", BASE - 0.4), made("b", BASE - 0.4)]
    assert table(analyse(one_seed)).startswith(
        "**a has the highest mrr@10 of these runs: +0.0000 [-0.0000, -0.0000] on other queries; too few seeds to test "
        "whether other seeds would give the same. No arm reaches BM25"
    )
