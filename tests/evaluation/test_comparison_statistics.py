"""The statistics of a comparison of arms, from hand-made runs and from folders read back."""

import numpy as np
import pytest

from lib import files
from lib.evaluation import analysis, comparison, measures, significance
from lib.evaluation.comparison import Measured
from lib.evaluation.measures import MEASURES
from lib.files import BadInput
from lib.run import Run

BASE = np.random.default_rng(0).random(60) / 2


def made(arm, values, *, seed=0, warnings=(), overrides=None, **costs):
    """One Measured run: per-query values (Q,), alike for every measure."""
    per_query = {f"q{i}": dict.fromkeys(MEASURES, float(value)) for i, value in enumerate(values)}
    summary = {
        "name": f"{comparison.slug(arm)}-s{seed}", "negatives": arm, "seed": seed, "data": "some/made",
        "encoder": "static", "steps": 7, "bm25": dict.fromkeys(MEASURES, 0.25),
        "untrained": dict.fromkeys(MEASURES, 0.125), "test": measures.mean(per_query), "train_s": 60.0,
        "mine_s": 0.0, "denominators": 900, "docs_encoded": 100,
        "geometry": {"alignment": 0.5, "uniformity": -2.0, "effective_rank": 30.0},
        "best_step": 7, "near_copies": {}, "pool": {"name": "all", "docs": 40, "leaks": False},
    } | costs  # fmt: skip
    sources = {
        name: {"negatives": 4.0, "above": 0.1, "gradient": 0.5, "unlabelled": 0.2, "held_out": 0.1}
        for name in ("in_batch", "bm25")
    }
    log = [{"event": "evaluation", "step": 0, "dev": dict.fromkeys(MEASURES, 0.1)}]
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


def seeded(arm, values, **costs):
    """An arm's runs with three seeds, which do nothing."""
    return [made(arm, values, seed=seed, **costs) for seed in range(3)]


def three_arms(**changes):
    """a, b and c with two seeds each: b beats a by .1 or so, c is like a."""
    arms = {"a": BASE, "b": BASE + 0.1 + noise(1), "c": BASE + noise(2)}
    return [
        made(arm, values + shift, seed=seed, **changes.get(arm, {}))
        for arm, values in arms.items()
        for seed, shift in ((0, -0.02), (1, 0.02))
    ]


def ordered():
    """Four arms: one clearly best, two that are alike, one clearly worst."""
    gains = {"low": 0.0, "top": 0.3, "middle": 0.15, "same": 0.15}
    return [run for i, (arm, gain) in enumerate(gains.items()) for run in seeded(arm, BASE + gain + noise(i))]


def other_measure():
    """Two seeds each of a, b and c, where b's nDCG is 0."""
    runs = three_arms()
    for one in runs[2:4]:
        for found in one.values.values():
            found["ndcg@10"] = 0.0
    return runs


def harmed(**late):
    """a, and b that is .1 worse; late: what differs in the runs of b."""
    of_b = seeded("b", BASE + noise(1, 0.01), best_step=late.get("best_step", 7))
    for run in of_b:
        run.summary["near_copies"] = {"bm25": late.get("copies", 0.0)}
        run.summary["geometry"] = run.summary["geometry"] | {"uniformity": late.get("uniformity", -2.0)}
        source = {"negatives": 4.0, "above": late.get("above", 0.0), "gradient": late.get("gradient", 0.5)}
        source |= {"unlabelled": 0.2, "held_out": 0.1}
        run.log[2] |= {"effective": late.get("effective", 9.0), "sources": run.log[2]["sources"] | {"bm25": source}}
    return seeded("a", BASE + 0.1) + of_b


def analyse(runs):
    return analysis.analyse(runs, measure="mrr@10")


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
    assert (found["over"], found["differs"]) == ("queries and seeds", True)
    assert (a["seconds"], b["seconds"], b["mine_s"]) == (60, 45, 15)
    gain = np.mean(b["test"]["mrr@10"]) - 0.125
    assert b["gain_per_minute"] == pytest.approx(gain / 0.75)
    assert a["geometry"] == {"alignment": 0.5, "uniformity": -2.0, "effective_rank": 30.0,
                             "effective_negatives": 9.0}  # fmt: skip
    assert result["references"]["untrained"] == dict.fromkeys(MEASURES, 0.125) and c["warnings"] == []


def test_holm_is_over_the_arms():
    others = [BASE + 0.0145 + noise(i) - noise(i).mean() for i in range(2, 6)]
    runs = seeded("a", BASE) + [run for i, values in enumerate(others) for run in seeded(f"b{i}", values)]
    tests = [row["against_first"] for row in analyse(runs)["arms"][1:]]
    assert [t["p_holm"] for t in tests] == significance.holm([t["p"] for t in tests])
    assert any(t["p_holm"] > 0.05 > t["p"] for t in tests)  # what one test alone would have found


def test_the_arm_of_control_has_other_seeds():
    arms = ["in_batch", "in_batch seed_shift=1000", "refresh:4 seed_shift=7 lr=.1", "bm25:4 lr=1"]
    assert analysis.other_seeds(arms) == {arms[1]: ("1000",), arms[2]: ("7",)}
    runs = [made(arm, BASE + 0.3 * seed, seed=seed) for arm in ("a", "b") for seed in (0, 1, 2)]
    runs += [made("a seed_shift=1000", BASE + 0.3 * shift, seed=seed) for seed, shift in enumerate((1, 2, 3))]
    b, control = (row["against_first"] for row in analyse(runs)["arms"][1:])
    assert b["decision"] == "equal" and control["decision"] == "open" and control["high"] > 0.9


def test_arms_that_are_not_shown_to_differ_share_a_letter():
    rows = analyse(ordered())["arms"]
    assert {row["arm"]: row["group"] for row in rows} == {"low": "c", "top": "a", "middle": "b", "same": "b"}


LATE = [
    ({}, ["nothing in its logs stands out"]),
    ({"copies": 0.25}, ["25% of what bm25 mined are near-copies"]),
    ({"above": 0.3}, ["30% of bm25's negatives still stood above"]),
    ({"effective": 3.0}, ["from 3.0 negatives, not 9.0"]),
    ({"best_step": 3}, ["dev was best at 43% of the steps"]),
    ({"uniformity": -1.8}, ["uniformity -1.80 against -2.00"]),
    ({"copies": 0.03, "above": 0.11}, ["3% of what bm25", "11% of bm25's"]),
    ({"copies": 0.01, "above": 0.09, "effective": 5.0, "best_step": 4}, ["nothing in its logs"]),
    ({"uniformity": -1.95}, ["nothing in its logs"]),
]


@pytest.mark.parametrize("late, wanted", LATE, ids=str)
def test_an_arm_that_hurts_is_named_with_what_may_explain_it(late, wanted):
    result = analyse(harmed(**late))
    a, b = result["arms"]
    assert "hurts" not in a and set(b["hurts"]) == {"mrr@10", "recall@100"}
    assert len(b["why"]) == len(wanted) and all(part in found for part, found in zip(wanted, b["why"]))
    found = b["hurts"]["mrr@10"]
    assert found["difference"] == b["against_first"]["difference"] and found["p_holm"] < 0.05


def harmless():
    """Comparisons whose arms are no worse than the first: not at all, or not beyond chance."""
    one_seed = [made("a", BASE), made("b", BASE - 0.3)]  # of which nothing is said
    return three_arms(), seeded("a", BASE) + seeded("b", BASE - 0.0001 + noise(1)), one_seed


def test_an_arm_that_is_no_worse_does_not_hurt():
    for runs in harmless():
        assert not any("hurts" in row for row in analyse(runs)["arms"])


def test_an_arm_that_gains_above_and_loses_below():
    runs = seeded("a", BASE) + seeded("b", BASE + 0.1)
    for run in runs[3:]:
        for values in run.values.values():
            values["recall@100"] -= 0.2
    b = analyse(runs)["arms"][1]
    assert b["against_first"]["difference"] == pytest.approx(0.1) and list(b["hurts"]) == ["recall@100"]
    assert b["hurts"]["recall@100"]["difference"] == pytest.approx(-0.1)


def test_late_negatives_are_those_of_the_second_half():
    runs = harmed(above=0.3, gradient=0.8, copies=0.1)
    row = analysis.late_negatives(runs[3:4])
    assert row == {"bm25": {"above": 0.3, "gradient": 0.8, "near_copies": 0.1}}  # step 0 says .1 and .5
    runs[3].summary["near_copies"] = {}  # random draws from no list
    assert analysis.late_negatives(runs[3:4])["bm25"]["near_copies"] is None


def test_warnings_are_listed_once():
    runs = three_arms(b={"warnings": ("no learning", "collapse")})
    assert [row["warnings"] for row in analyse(runs)["arms"]] == [[], ["collapse", "no learning"], []]


def test_one_arm_is_tested_against_nothing():
    result = analyse([made("a", BASE, seed=seed) for seed in (0, 1)])
    assert result["arms"][0]["group"] == "a" and "against_first" not in result["arms"][0]


def test_runs_on_other_queries_are_refused():
    runs = [made("a", BASE), made("b", BASE[:50])]
    with pytest.raises(BadInput, match="b, seed 0, was measured on other queries than a"):
        analyse(runs)


def test_another_measure():
    runs = other_measure()
    found = analysis.analyse(runs, measure="ndcg@10")
    assert found["measure"] == "ndcg@10" and found["arms"][1]["against_first"]["difference"] < 0
    assert analyse(runs)["arms"][1]["against_first"]["difference"] > 0


# ----------------------------------------------------------------------------------------------------------- folders


def leave(folder, run):
    """A run's folder as train.py leaves it."""
    measures.write_per_query(folder / "eval/made-test/per_query.jsonl", run.values)
    for name, lines in (("metrics.jsonl", run.log), ("timing.jsonl", run.timing)):
        for line in lines:
            Run(folder).log(line["event"], line, file=name)
    derived = {"arm": run.arm, "base": run.base, "overrides": run.overrides}
    inputs = {"collection": "made", "judgements": {"test": "the same"}}
    files.write_json(folder / "config.json", {"derived": derived, "inputs": inputs, "args": {"self_match": "drop"}})
    files.write_json(folder / "summary.json", run.summary)
    return folder


def write(folder, runs, *, arms, seeds=(0, 1)):
    """A comparison's folder as train.py leaves it, of the runs that are finished."""
    files.write_json(folder / "config.json", {
        "args": {"negatives": list(arms), "seeds": list(seeds)}, "derived": {},
        "inputs": {"collection": "made"},
    })  # fmt: skip
    for run in runs:
        leave(folder / run.summary["name"], run)
    return folder


def evaluated(folder, values, *, judgements="the same", depth=100, self_match="drop"):
    """A folder as evaluate.py leaves it: measured on made-test, and not trained here."""
    per_query = {f"q{i}": dict.fromkeys(MEASURES, float(value)) for i, value in enumerate(values)}
    place = folder / "eval/made-test"
    measures.write_per_query(place / "per_query.jsonl", per_query)
    found = {"judgements": judgements, "depth": depth, "self_match": {"policy": self_match, "found": 0}}
    files.write_json(place / "metrics.json", found)
    return folder


@pytest.mark.parametrize(
    "other, said",
    [
        ({"judgements": "others"}, "labels .their fingerprint. is others and the same"),
        ({"depth": 1000}, "depth is 1000 and 100"),
        ({"self_match": "keep"}, "self_match is keep and drop"),
    ],
    ids=str,
)
def test_runs_that_were_measured_otherwise_are_not_compared(tmp_path, other, said):
    folders = [evaluated(tmp_path / name, [0.1, 0.2]) for name in ("a", "b")]
    folders.append(leave(tmp_path / "trained", three_arms()[0]))
    assert len(comparison.read_evaluations(folders[:2])["made-test"]) == 2
    folders.append(evaluated(tmp_path / "c", [0.1, 0.2], **other))
    with pytest.raises(BadInput, match=f"c and .*a were measured on made-test under other conditions: .*{said}"):
        comparison.read_evaluations(folders)
    with pytest.raises(BadInput, match=said.replace(" and ", ".*")):
        comparison.read_evaluations([folders[2], folders[3]])


def test_runs_are_read_in_the_order_of_the_command(tmp_path):
    runs = three_arms()
    folder = write(tmp_path / "ab", runs, arms=("c", "a", "b"), seeds=(1, 0))
    found = comparison.read_comparison(folder)
    assert [(one.arm, one.seed) for one in found] == [(arm, seed) for arm in "cab" for seed in (1, 0)]
    by_name = {one.summary["name"]: one for one in runs}
    assert all(one == by_name[one.summary["name"]]._replace(place=one.place) for one in found)


def test_an_unfinished_comparison_names_the_run(tmp_path):
    folder = write(tmp_path / "ab", three_arms()[:3], arms=("a", "b", "c"))
    with pytest.raises(BadInput) as refused:
        comparison.read_comparison(folder)
    message = str(refused.value)
    assert message.startswith(f"{folder}: 3 of 6 runs are not finished, the first is b, seed 1; ")
    assert "--resume" in message and "\n" not in message
    with pytest.raises(BadInput, match="no config.json"):
        comparison.read_comparison(tmp_path)


def test_every_evaluation_that_all_have_is_read(tmp_path):
    folders = [evaluated(tmp_path / name, BASE + gain) for name, gain in (("x", 0.0), ("y", 0.1))]
    for folder, name in ((folders[0], "z-dev"), (folders[0], "alone-test"), (folders[1], "z-dev")):
        measures.write_per_query(folder / f"eval/{name}/per_query.jsonl", {"q": dict.fromkeys(MEASURES, 0.5)})
    found = comparison.read_evaluations(folders)
    assert list(found) == ["made-test", "z-dev"]
    assert [[one.arm for one in runs] for runs in found.values()] == [["x", "y"]] * 2
    assert [len(runs[0].values) for runs in found.values()] == [60, 1]
    assert all(one.summary == {} and one.log == one.timing == [] for runs in found.values() for one in runs)


def test_runs_without_an_evaluation_in_common_are_refused(tmp_path):
    folders = [evaluated(tmp_path / "a", BASE), tmp_path / "nothing"]
    with pytest.raises(BadInput, match="no such folder"):
        comparison.read_evaluations(folders)
