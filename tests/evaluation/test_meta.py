"""Effects over collections: a published worked example, properties, and the table."""

import numpy as np
import pytest

from lib.evaluation import meta, report
from lib.files import BadInput

# Colditz et al. (1994), trials of the BCG vaccine: cases and others, vaccinated and not. The standard example of the
# field; the pooled values are those that Viechtbauer (J. Stat. Software 36(3), 2010) prints for DerSimonian-Laird.
BCG = [
    (4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619), (33, 5036, 47, 5761),
    (180, 1361, 372, 1079), (8, 2537, 10, 619), (505, 87886, 499, 87892), (29, 7470, 45, 7232), (17, 1699, 65, 1600),
    (186, 50448, 141, 27197), (5, 2493, 3, 2338), (27, 16886, 29, 17825),
]  # fmt: skip


def test_a_published_example():
    a, b, c, d = np.array(BCG, float).T
    effects = np.log(a / (a + b) * (c + d) / c)
    found = meta.pool(effects, np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)))
    assert found["mean"] == pytest.approx(-0.7141, abs=5e-5)
    assert found["tau"] ** 2 == pytest.approx(0.3088, abs=5e-5) and found["i2"] == pytest.approx(0.9212, abs=5e-5)
    assert found["low"] < -1.0644 and found["high"] > -0.3638  # wider than the normal interval that is printed there


def test_collections_that_agree_are_the_weighted_mean():
    found = meta.pool([0.02, 0.03], [0.01, 0.02])
    assert found["mean"] == pytest.approx((0.02 / 0.01**2 + 0.03 / 0.02**2) / (1 / 0.01**2 + 1 / 0.02**2))
    assert (found["tau"], found["i2"], found["predicted"]) == (0, 0, None)
    assert found["high"] - found["mean"] == pytest.approx(12.7062 / (1 / 0.01**2 + 1 / 0.02**2) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("collections, tau", [(3, 0.0), (3, 0.02), (9, 0.0), (9, 0.02)])
def test_the_interval_holds_the_mean_and_the_prediction_the_next_collection(collections, tau):
    rng, rounds = np.random.default_rng(1), 2000
    missed = beyond = 0
    for _ in range(rounds):
        errors = rng.uniform(0.003, 0.008, collections)
        true = 0.02 + tau * rng.standard_normal(collections + 1)
        found = meta.pool(true[:-1] + errors * rng.standard_normal(collections), errors)
        missed += not found["low"] <= 0.02 <= found["high"]
        beyond += not found["predicted"][0] <= true[-1] <= found["predicted"][1]
    assert missed / rounds <= 0.06 and beyond / rounds <= 0.08


def result(name, gains, *, seeds=3, first="in_batch"):
    """What analyse() returns of a comparison: as much of it as is read here."""
    arms = [{"arm": first, "test": {"mrr@10": [0.4] * seeds}}]
    for arm, (difference, decision) in gains.items():
        test = {"difference": difference, "error": 0.004, "low": difference - 0.008, "high": difference + 0.008}
        test |= {"wins": 400 * (decision != "same"), "losses": 300 * (decision != "same")}
        arms.append(
            {"arm": arm, "test": {"mrr@10": [0.4 + difference] * seeds}, "against_first": test | {"decision": decision}}
        )
    references = {"bm25": {"mrr@10": 0.3}}
    return {
        "name": name,
        "measure": "mrr@10",
        "queries": 1000,
        "seeds": [*range(seeds)],
        "references": references,
        "arms": arms,
    }


def test_arms_are_pooled_over_the_collections_that_have_them(tmp_path, rendered):
    found = meta.over([
        result("x", {"refresh:4": (0.03, "better"), "queue:9": (0.01, "open"), "all:4": (0.0, "same")}),
        result("y", {"refresh:4": (0.04, "better"), "rare:1": (0.0, "equal")}),
        result("z", {"refresh:4": (0.035, "better"), "queue:9": (-0.02, "worse")}),
    ])  # fmt: skip
    rows = {row["arm"]: row for row in found["arms"]}
    assert rows["refresh:4"]["counts"] == {"better": 3} and rows["queue:9"]["counts"] == {"open": 1, "worse": 1}
    assert rows["rare:1"]["pooled"] is rows["queue:9"]["pooled"] is None
    assert rows["refresh:4"]["pooled"]["mean"] == pytest.approx(0.035)
    assert rows["refresh:4"]["pooled"]["p_holm"] == rows["refresh:4"]["pooled"]["p"]
    text = meta.to_table(found)
    assert "**refresh:4 gains +0.0350 [+0.02" in text and "most on average: better in 3 of 3 collections. A new" in text
    assert "| all:4 | 0 |" in text and "| all:4 | the same |  |  |" in text
    assert "| rare:1 |  | +0.0000 equal |  |" in text and "| *bm25* | 0.3000 | 0.3000 | 0.3000 |" in text
    from lib.evaluation import comparison_plots

    comparison_plots.forest(tmp_path / "forest.png", found)
    assert (tmp_path / "forest.png").stat().st_size > 10_000


def test_comparisons_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="y is tested against bm25:4 and x against in_batch: --against"):
        meta.over([result("x", {}), result("y", {}, first="bm25:4")])
    with pytest.raises(BadInput, match="two comparisons are called x"):
        meta.over([result("x", {}), result("x", {})])


def test_published_comparisons_are_pooled_without_their_runs(tmp_path):
    text = report.over_collections(["docs/results/medquad", "docs/results/python"], tmp_path, measure="recall@100")
    assert "| random:4 | 2 |  |" in text and "too few for a mean" in text and (tmp_path / "forest.png").exists()
    text = report.over_collections(
        ["docs/results/medquad", "docs/results/python"], tmp_path, measure="mrr@10", against="refresh:4"
    )
    assert "mrr@10 against refresh:4 [95 %]" in text and "| adore:4 | -0.0172 worse |" in text
