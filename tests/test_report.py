"""The comparison of arms: its statistics, tables and figures from hand-made runs, and folders read back."""

import json

import numpy as np
import pytest

from lib import files
from lib.evaluation import comparison, measures, report, significance
from lib.evaluation.comparison import Measured
from lib.evaluation.measures import MEASURES
from lib.files import BadInput
from lib.run import Run

PNG = b"\x89PNG\r\n\x1a\n"
BASE = np.random.default_rng(0).random(60) / 2


def made(arm, values, *, seed=0, forecast=None, warnings=(), overrides=None, **costs):
    """One Measured run: per-query values (Q,), alike for every measure."""
    per_query = {f"q{i}": dict.fromkeys(MEASURES, float(value)) for i, value in enumerate(values)}
    summary = {
        "name": f"{comparison.slug(arm)}-s{seed}", "negatives": arm, "seed": seed, "data": "some/made",
        "encoder": "static", "steps": 7, "bm25": dict.fromkeys(MEASURES, 0.25),
        "untrained": dict.fromkeys(MEASURES, 0.125), "test": measures.mean(per_query), "train_s": 60.0,
        "mine_s": 0.0, "denominators": 900, "docs_encoded": 100,
        "geometry": {"alignment": 0.5, "uniformity": -2.0, "effective_rank": 30.0},
        "best_step": 7, "near_copies": {},
    } | costs  # fmt: skip
    sources = {name: {"negatives": 4.0, "above": 0.1, "gradient": 0.5} for name in ("in_batch", "bm25")}
    log = [{"event": "evaluation", "step": 0, "dev": dict.fromkeys(MEASURES, 0.1)}]
    log += [{"event": "forecast", "step": 0, "forecast": forecast}] if forecast else []
    log += [
        {"event": "step", "step": step, "loss": 1.0, "effective": 3.0 + step, "sources": sources} for step in (0, 6)
    ]
    log += [{"event": "warning", "step": 6, "warning": warning, "advice": "do"} for warning in warnings]
    log += [{"event": "evaluation", "step": 7, "dev": dict.fromkeys(MEASURES, 0.3)}]
    timing = [{"event": "evaluation", "step": 7, "dev_seconds": 1.5}]
    return Measured(arm, arm.split()[0], seed, per_query, summary, log, timing, overrides or {})


def noise(seed, spread=0.05):
    """Differences between queries."""
    return spread * np.random.default_rng(seed).standard_normal(60)


def three_arms(**changes):
    """a, b and c with two seeds each: b beats a by .1 or so, c is like a."""
    arms = {"a": BASE, "b": BASE + 0.1 + noise(1), "c": BASE + noise(2)}
    return [
        made(arm, values + shift, seed=seed, **changes.get(arm, {}))
        for arm, values in arms.items()
        for seed, shift in ((0, -0.02), (1, 0.02))
    ]


def analyse(runs):
    return comparison.analyse(runs, measure="mrr@10")


def table(result):
    """The Markdown of a comparison of the collection `made`."""
    return report.to_table(result | {"name": "made"})


def compare(folder, **flags):
    """Write a comparison's tables and figures again; the table."""
    return report.write(folder, comparison.read_comparison(folder, **flags), measure="mrr@10")


def test_arms_are_averaged_over_seeds_and_tested_against_the_first():
    result = analyse(three_arms(b={"train_s": 30.0, "mine_s": 15.0}))
    a, b, c = result["arms"]
    assert [row["arm"] for row in result["arms"]] == ["a", "b", "c"]
    assert (result["seeds"], result["queries"], result["measure"]) == ([0, 1], 60, "mrr@10")
    assert a["test"]["mrr@10"] == pytest.approx([BASE.mean() - 0.02, BASE.mean() + 0.02])
    assert "against_first" not in a and b["seeds"] == [0, 1]
    difference = 0.1 + noise(1).mean()
    found = b["against_first"]
    assert found["difference"] == pytest.approx(difference) and found["p"] < 0.001
    assert found["low"] < difference < found["high"] and found["queries"] == 60
    assert found["effect"] == pytest.approx(difference / (noise(1)).std(ddof=1))
    assert (a["seconds"], b["seconds"], b["mine_s"]) == (60, 45, 15)
    gain = np.mean(b["test"]["mrr@10"]) - 0.125
    assert b["gain_per_minute"] == pytest.approx(gain / 0.75)
    assert a["geometry"] == {"alignment": 0.5, "uniformity": -2.0, "effective_rank": 30.0,
                             "effective_negatives": 9.0}  # fmt: skip
    assert result["references"]["untrained"] == dict.fromkeys(MEASURES, 0.125) and c["warnings"] == []


def test_holm_is_over_the_arms():
    others = [BASE + 0.0145 + noise(i) - noise(i).mean() for i in range(2, 6)]
    runs = [made("a", BASE)] + [made(f"b{i}", values) for i, values in enumerate(others)]
    tests = [row["against_first"] for row in analyse(runs)["arms"][1:]]
    assert [t["p_holm"] for t in tests] == significance.holm([t["p"] for t in tests])
    assert any(t["p_holm"] > 0.05 > t["p"] for t in tests)  # what one test alone would have found


def test_the_order_chain_is_of_neighbours_by_mean():
    runs = [made(arm, BASE + gain + noise(i)) for i, (arm, gain) in
            enumerate({"low": 0.0, "top": 0.3, "middle": 0.15, "same": 0.15}.items())]  # fmt: skip
    order = analyse(runs)["order"]
    means = {one.arm: one.summary["test"]["mrr@10"] for one in runs}
    names = [order[0]["above"], *(test["below"] for test in order)]
    assert names == sorted(means, key=means.get, reverse=True) and names[0] == "top" and names[-1] == "low"
    for test in order:
        assert test["difference"] == pytest.approx(means[test["above"]] - means[test["below"]])
    assert [t["p_holm"] for t in order] == significance.holm([t["p"] for t in order])
    assert [t["p_holm"] < 0.05 for t in order] == [True, False, True]
    text = table(analyse(runs))
    chain = next(line for line in text.splitlines() if line.startswith("Order by mean"))
    assert [word for word in chain.split() if word in (">", "≈")] == [">", "≈", ">"]
    assert chain.index("top") < chain.index("middle") < chain.index("low")


@pytest.mark.parametrize("sign", [1, -1])
def test_the_forecasts_rank_correlation_has_its_sign(sign):
    runs = []
    for number, gain in enumerate((0.0, 0.1, 0.2, 0.3)):
        told = {"loss": sign * 10.0**number, "above": 0.1 * (number % 2), "explicit": 0.0}
        runs.append(made(f"arm{number}", BASE + gain, forecast=told))
    result = analyse(runs)
    assert result["forecast"]["loss"] == pytest.approx(sign)
    assert result["forecast"]["above"] == pytest.approx(0.4472, abs=1e-4)
    assert result["forecast"]["explicit"] is None  # it said the same of all
    assert [row["forecast"]["loss"] for row in result["arms"]] == [sign * 10.0**n for n in range(4)]
    json.dumps(result, allow_nan=False)
    text = table(result)
    assert f"initial loss {sign:+.2f}" in text and "above the positive +0.45" in text and "negatives n/a" in text
    for few in (runs[:2], runs[:3] + [made("other", BASE)]):  # too few; not of all
        assert "forecast" not in analyse(few) and "Predicting" not in table(analyse(few))


def harmed(**late):
    """a, and b that is .1 worse; late: what differs in the runs of b."""
    runs = [made("a", BASE + 0.1), made("b", BASE + noise(1, 0.01), best_step=late.get("best_step", 7))]
    summary, log = runs[1].summary, runs[1].log
    summary["near_copies"] = {"bm25": late.get("copies", 0.0)}
    summary["geometry"] = summary["geometry"] | {"uniformity": late.get("uniformity", -2.0)}
    source = {"negatives": 4.0, "above": late.get("above", 0.0), "gradient": late.get("gradient", 0.5)}
    log[2] |= {"effective": late.get("effective", 9.0), "sources": log[2]["sources"] | {"bm25": source}}
    return runs


@pytest.mark.parametrize(
    "late, wanted",
    [
        ({}, ["nothing in its logs stands out"]),
        ({"copies": 0.25}, ["25% of what bm25 mined are near-copies"]),
        ({"above": 0.3}, ["30% of bm25's negatives still stood above"]),
        ({"effective": 3.0}, ["from 3.0 negatives, not 9.0"]),
        ({"best_step": 3}, ["dev was best at 43% of the steps"]),
        ({"uniformity": -1.8}, ["uniformity -1.80 against -2.00"]),
        ({"copies": 0.03, "above": 0.11}, ["3% of what bm25", "11% of bm25's"]),
        ({"copies": 0.01, "above": 0.09, "effective": 5.0, "best_step": 4}, ["nothing in its logs"]),
        ({"uniformity": -1.95}, ["nothing in its logs"]),
    ],
    ids=str,
)
def test_an_arm_that_hurts_is_named_with_what_may_explain_it(late, wanted):
    result = analyse(harmed(**late))
    a, b = result["arms"]
    assert "hurts" not in a and set(b["hurts"]) == {"mrr@10", "recall@100"}
    assert len(b["why"]) == len(wanted) and all(part in found for part, found in zip(wanted, b["why"]))
    found = b["hurts"]["mrr@10"]
    assert found["difference"] == b["against_first"]["difference"] and found["p_seeds_holm"] < 0.05
    text = table(result)
    assert "**b hurts**: mrr@10 -0." in text and f"What its runs say: {b['why'][0]}" in text


def test_an_arm_that_is_no_worse_does_not_hurt():
    for runs in (three_arms(), [made("a", BASE), made("b", BASE - 0.0001 + noise(1))]):
        result = analyse(runs)
        assert not any("hurts" in row for row in result["arms"]) and "hurts" not in table(result)


def test_an_arm_that_gains_above_and_loses_below():
    runs = [made("a", BASE), made("b", BASE + 0.1)]
    for values in runs[1].values.values():
        values["recall@100"] -= 0.2
    b = analyse(runs)["arms"][1]
    assert b["against_first"]["difference"] == pytest.approx(0.1) and list(b["hurts"]) == ["recall@100"]
    assert b["hurts"]["recall@100"]["difference"] == pytest.approx(-0.1)


def test_late_negatives_are_those_of_the_second_half():
    runs = harmed(above=0.3, gradient=0.8, copies=0.1)
    row = comparison.late_negatives(runs[1:])
    assert row == {"bm25": {"above": 0.3, "gradient": 0.8, "near_copies": 0.1}}  # step 0 says .1 and .5
    runs[1].summary["near_copies"] = {}  # random draws from no list
    assert comparison.late_negatives(runs[1:])["bm25"]["near_copies"] is None


def test_warnings_are_listed_once():
    runs = three_arms(b={"warnings": ("no learning", "collapse")})
    assert [row["warnings"] for row in analyse(runs)["arms"]] == [[], ["collapse", "no learning"], []]
    assert "| collapse, no learning |" in table(analyse(runs))


def test_one_arm_is_a_table_without_tests():
    result = analyse([made("a", BASE, seed=seed) for seed in (0, 1)])
    assert result["order"] == [] and "against_first" not in result["arms"][0]
    assert "Order by mean" not in table(result)


def test_runs_on_other_queries_are_refused():
    runs = [made("a", BASE), made("b", BASE[:50])]
    with pytest.raises(BadInput, match="b, seed 0, was measured on other queries than a"):
        analyse(runs)


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
    assert rows["a"][0][4:] == [""] * 5
    test = result["arms"][1]["against_first"]
    assert rows["b"][0][4:] == [
        f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]",
        f"{test['p']:.4f} ({test['p_holm']:.4f})", "<.0001 (<.0001)",
        f"{test['effect']:+.2f}", f"{test['detectable']:.4f}",
    ]  # fmt: skip
    assert rows["a"][1] == ["7", "900", "100", "60.0", "0.0", f"{BASE.mean() - 0.125:+.3f}", "0.500",
                            "-2.000", "30", "9.0", ""]  # fmt: skip
    assert "made, seeds 0 1, 60 queries" in text


def test_another_measure(tmp_path):
    runs = three_arms()
    for one in runs[2:4]:
        for found in one.values.values():
            found["ndcg@10"] = 0.0
    found = comparison.analyse(runs, measure="ndcg@10")
    assert found["measure"] == "ndcg@10" and found["arms"][1]["against_first"]["difference"] < 0
    assert analyse(runs)["arms"][1]["against_first"]["difference"] > 0
    assert "ndcg@10 against a [95 %]" in table(found)


# ---------------------------------------------------------------------------------------------------- folders


def write(folder, runs, *, arms, seeds=(0, 1)):
    """A comparison's folder as train.py leaves it, of the runs that are finished."""
    files.write_json(folder / "config.json", {
        "args": {"negatives": list(arms), "seeds": list(seeds)}, "derived": {},
        "inputs": {"collection": "made"},
    })  # fmt: skip
    for run in runs:
        one = folder / run.summary["name"]
        measures.write_per_query(one / "eval/made-test/per_query.jsonl", run.values)
        for name, lines in (("metrics.jsonl", run.log), ("timing.jsonl", run.timing)):
            for line in lines:
                Run(one).log(line["event"], line, file=name)
        derived = {"arm": run.arm, "base": run.base, "overrides": run.overrides}
        files.write_json(one / "config.json", {"derived": derived})
        files.write_json(one / "summary.json", run.summary)
    return folder


def test_runs_are_read_in_the_order_of_the_command(tmp_path):
    runs = three_arms()
    folder = write(tmp_path / "ab", runs, arms=("c", "a", "b"), seeds=(1, 0))
    found = comparison.read_comparison(folder)
    assert [(one.arm, one.seed) for one in found] == [(arm, seed) for arm in "cab" for seed in (1, 0)]
    by_name = {one.summary["name"]: one for one in runs}
    assert all(one == by_name[one.summary["name"]] for one in found)


def test_an_unfinished_comparison_names_the_run(tmp_path):
    folder = write(tmp_path / "ab", three_arms()[:3], arms=("a", "b", "c"))
    with pytest.raises(BadInput) as refused:
        comparison.read_comparison(folder)
    message = str(refused.value)
    assert message.startswith(f"{folder}: 3 of 6 runs are not finished, the first is b, seed 1; ")
    assert "--resume" in message and "\n" not in message
    with pytest.raises(BadInput, match="not finished"):
        compare(folder)
    assert not (folder / "ablation.md").exists()
    with pytest.raises(BadInput, match="no config.json"):
        comparison.read_comparison(tmp_path)


def test_a_comparison_is_written_and_written_again_alike(tmp_path):
    told = {"loss": 1.0, "above": 0.1}
    folder = write(tmp_path / "ab", three_arms(a={"forecast": told}), arms=("a", "b", "c"))
    features = {f"q{i}": {"rank": i % 7, "same": 1, "share": i / 60} for i in range(60)}
    table = compare(folder)
    figures = {"arms.png", "curves.png", "sources.png", "geometry.png"}
    assert {path.name for path in (folder / "plots").iterdir()} == figures  # nothing is known of the queries
    files.write_json(folder / "queries.json", features)
    before = (folder / "ablation.md").read_bytes()
    assert before.decode("utf-8") == table
    assert compare(folder) == table
    assert (folder / "ablation.md").read_bytes() == before
    assert {path.name for path in (folder / "plots").iterdir()} == figures | {"gains.png"}
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
    with pytest.raises(BadInput, match="--against 'd': no arm of .*; it has a, b, c"):
        compare(folder, against="d")


def test_a_run_that_was_measured_on_another_collection_too(tmp_path):
    folder = write(tmp_path / "ab", three_arms(), arms=("a", "b", "c"))
    table = compare(folder)
    for one in folder.glob("*-s*"):  # as build_index.py and evaluate.py --data OTHER leave it
        for other in ("a-test", "other-test", "zz-test"):
            values = {"x": dict.fromkeys(MEASURES, 1.0)}
            measures.write_per_query(one / f"eval/{other}/per_query.jsonl", values)
    assert compare(folder) == table


def test_a_grid_of_one_flag_has_a_figure(tmp_path):
    gains = {"a temperature=.1": 0.0, "a temperature=.02": 0.1, "b temperature=.1": 0.2,
             "b temperature=.02": 0.3}  # fmt: skip
    runs = [
        made(arm, BASE + gain, overrides={"temperature": float(arm.partition("=")[2])}) for arm, gain in gains.items()
    ]
    flag, rows, columns, values = report._grid(runs, "mrr@10")
    assert flag == "temperature"
    assert (rows, columns) == (["a", "b"], [0.02, 0.1])
    np.testing.assert_allclose(values - BASE.mean(), [[0.1, 0.0], [0.3, 0.2]])
    assert report._grid(runs[:3], "mrr@10") is None and report._grid(runs[:1], "mrr@10") is None
    assert report._grid([*runs, made("c", BASE)], "mrr@10") is None
    assert report._grid([*runs, made("c lr=.1", BASE, overrides={"lr": 0.1})], "mrr@10") is None
    result = analyse(runs) | {"name": "made"}
    report.draw(tmp_path, result, runs, None)
    assert (tmp_path / "grid.png").read_bytes().startswith(PNG)


def test_sources_are_followed_as_means_over_seeds():
    runs = three_arms()
    runs[3].log[1]["sources"] = {"bm25": {"negatives": 4.0, "above": 0.3, "gradient": 0.7}}  # seed 1 of b
    found = report._by_source(runs)
    assert list(found) == ["a", "b", "c"] and list(found["b"]) == ["bm25"]
    np.testing.assert_allclose(found["b"]["bm25"], [(0, 0.2, 0.6), (6, 0.1, 0.5)])
    for one in runs[:2]:
        for line in (x for x in one.log if "sources" in x):
            line["sources"] = {"in_batch": line["sources"]["in_batch"]}
    assert report._by_source(runs)["a"] == {}


def test_gains_are_means_over_quarters_of_the_queries():
    runs = [made("a", BASE), made("b", BASE + np.repeat([0.0, 0.1, 0.2, 0.3], 15))]
    features = {f"q{i}": {"place": i, "same": 5} for i in range(60)}
    found = report._gains(runs, features, "mrr@10")
    assert list(found) == ["place", "same"] and list(found["place"]) == ["b"]
    assert [mean for _, mean, _ in found["place"]["b"]] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert [label for label, _, _ in found["place"]["b"]] == ["0-14", "15-29", "30-44", "45-59"]
    ((label, mean, error),) = found["same"]["b"]
    assert label == "5" and mean == pytest.approx(0.15)
    assert error == pytest.approx(np.repeat([0.0, 0.1, 0.2, 0.3], 15).std() / np.sqrt(60))


# ------------------------------------------------------------------------------------- runs measured apart


def evaluated(folder, values):
    """A folder as evaluate.py leaves it: measured on made-test, and not trained here."""
    per_query = {f"q{i}": dict.fromkeys(MEASURES, float(value)) for i, value in enumerate(values)}
    measures.write_per_query(folder / "eval/made-test/per_query.jsonl", per_query)
    return folder


def test_any_number_of_measured_runs_are_compared_with_the_first(tmp_path):
    folders = [evaluated(tmp_path / name, BASE + gain) for name, gain in (("bm25", 0.0), ("x", 0.1), ("y", -0.1))]
    ((evaluation, runs),) = comparison.read_evaluations(folders).items()
    assert evaluation == "made-test" and [one.arm for one in runs] == ["bm25", "x", "y"]
    text = report.write(tmp_path / "out", runs, measure="mrr@10", name=evaluation)
    first, x, y = files.read_json(tmp_path / "out/ablation.json")["arms"]
    assert x["against_first"]["difference"] == pytest.approx(0.1) and y["against_first"]["difference"] < 0
    assert "| mrr@10 against bm25 [95 %] |" in text and "| wins | ties | losses |" in text and "| 60 | 0 | 0 |" in text
    assert "steps" not in first and "**y hurts**" in text and "its training was not recorded" in text
    assert (tmp_path / "out/plots/arms.png").read_bytes().startswith(PNG)


def test_two_runs_have_a_figure_of_their_differences(tmp_path):
    folders = [evaluated(tmp_path / name, BASE + gain) for name, gain in (("a", 0.0), ("b", noise(3)))]
    (runs,) = comparison.read_evaluations(folders).values()
    report.write(tmp_path / "out", runs, measure="mrr@10", name="made-test")
    assert (tmp_path / "out/plots/differences.png").read_bytes().startswith(PNG)


def test_runs_without_an_evaluation_in_common_are_refused(tmp_path):
    folders = [evaluated(tmp_path / "a", BASE), tmp_path / "nothing"]
    with pytest.raises(BadInput, match="no evaluation in common"):
        comparison.read_evaluations(folders)
