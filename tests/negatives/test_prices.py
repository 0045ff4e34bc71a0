"""Where a filter breaks even, by hand, and a planted truth that the audit's sentence has to agree with."""

import json

import numpy as np
import pytest

from lib.negatives import audit, prices
from lib.negatives.candidates import Candidates
from lib.negatives.prices import Price, Prices

PRICES = Prices("somewhere", Price(0.10, 0.08, 0.12), Price(0.02, 0.01, 0.03))
N, C, SHARE = 600, 4, 0.5


def test_the_share_at_which_gains_and_costs_are_equal_by_hand():
    even = prices.break_even(0.8, 0.2, PRICES)
    assert even.mean == pytest.approx(0.2 * 0.02 / (0.8 * 0.10 + 0.2 * 0.02))
    assert even.low == pytest.approx(0.2 * 0.01 / (0.8 * 0.12 + 0.2 * 0.01))
    assert even.high == pytest.approx(0.2 * 0.03 / (0.8 * 0.08 + 0.2 * 0.03))
    free = prices.break_even(0.8, 0.0, PRICES)
    assert free == (0, 0, 0), "what loses nothing pays at any share"
    assert prices.break_even(0.0, 0.2, PRICES) == (1, 1, 1), "what catches nothing never pays"
    unknown = prices.break_even(0.8, 0.2, PRICES._replace(false=Price(0.0, -0.01, 0.01)))
    assert unknown.high == 1 and unknown.low > 0


def lists(*, false):
    """(Candidates of N queries, (N, C) which of them are hidden positives): a share `false` of all are positives.

    Positives score about 1 and others about 0; each query has one hidden positive, if it has any in its list.
    """
    rng = np.random.default_rng(0)
    positive = np.zeros((N, C), dtype=bool)
    positive[rng.random(N) < false * C, 0] = True
    scores = np.where(positive, rng.normal(1.0, 0.1, (N, C)), rng.normal(0.0, 0.1, (N, C))).astype(np.float32)
    docs = np.arange(N * C).reshape(N, C)
    ranks = np.tile(np.arange(1, C + 1), (N, 1)).astype(np.int32)
    best = np.ones(N, dtype=np.float32)
    hidden = positive & (rng.random(N) < SHARE)[:, None]
    return Candidates("bm25", np.arange(N), docs, scores, best, ranks=ranks), hidden


def said(candidates, hidden):
    """The sentence on a filter that drops what scores above .5, and a tenth of the rest."""
    first = audit.estimate(candidates, hidden, share=SHARE)
    keep = (candidates.scores < 0.5) & (np.random.default_rng(1).random((N, C)) > 0.1)
    kept = Candidates("bm25", candidates.queries, np.where(keep, candidates.docs, -1), candidates.scores,
                      candidates.positive, ranks=candidates.ranks)  # fmt: skip
    row = audit.estimate(kept, hidden & keep, share=SHARE, before=first)
    return prices.verdict(row, first, PRICES, by_score=False)


def test_a_planted_truth():
    assert said(*lists(false=0.25)).startswith(
        "pays if every query has an unlabelled positive: it pays where more than"
    )
    candidates, hidden = lists(false=0.05)
    beside = Candidates("bm25", candidates.queries, candidates.docs, candidates.scores, candidates.positive,
                        ranks=candidates.ranks)  # fmt: skip
    dear = PRICES._replace(lost=Price(0.9, 0.8, 1.0))
    first = audit.estimate(beside, hidden, share=SHARE)
    row = first | {"caught": 0.9, "cost": 0.3}
    for by_score in (False, True):
        how = {"by_score": by_score}
        assert prices.verdict(row, first, dear, **how).startswith("does not pay: it pays where more than 75.0%")
        wide = PRICES._replace(lost=Price(0.1, -0.1, 3.0))
        assert prices.verdict(row | {"cost": 0.01}, first, wide, **how).startswith("open")
    many = first | {"per_unlabelled": 0.3, "at_most": 0.3}
    assert prices.verdict(row, many, PRICES, by_score=False).startswith("pays if every query")
    assert "it drops the same hard docs" in prices.verdict(row, many, PRICES, by_score=True)


def test_the_prices_are_those_of_collections_of_the_same_kind(tiny, monkeypatch, tmp_path):
    rows = [
        {"collection": "a", "positives": 1.0, "false": [0.1, 0.05, 0.2], "lost": [0.0, -0.1, 0.1]},
        {"collection": "b", "positives": 2.0, "false": [0.3, 0.1, 0.4], "lost": [0.2, 0.1, 0.3]},
        {"collection": "c", "positives": 100.0, "false": [0.0, -0.1, 0.1], "lost": [0.0, -0.1, 0.1]},
    ]
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(rows))
    monkeypatch.setattr(prices, "PATH", path)
    found = prices.nearest(tiny, "train")
    assert found.collection == "a, b" and found.false == pytest.approx((0.2, 0.05, 0.4))
    path.write_text(json.dumps(rows[2:]))
    assert prices.nearest(tiny, "train") is None


def test_the_shipped_prices_are_read(tiny):
    found = prices.nearest(tiny, "train")
    assert found.false.low <= found.false.mean <= found.false.high and found.collection


def test_with_the_shipped_prices_a_filter_pays_only_where_something_is_false(tiny):
    measured = prices.nearest(tiny, "train")
    row = {"caught": 0.9, "cost": 0.1}
    for share, begins in ((0.0, "does not pay"), (0.004, "does not pay"), (0.05, "open"), (0.5, "pays")):
        first = {"at_most": share, "per_unlabelled": share}
        assert prices.verdict(row, first, measured, by_score=False).startswith(begins), share
    assert "gains 0.0000 MRR@10" in prices.verdict(row, first | dict.fromkeys(first, 0.0), measured, by_score=False)
    few = {"at_most": 0.4, "per_unlabelled": 0.005}
    assert prices.verdict(row, few, measured, by_score=True).startswith("does not pay unless queries have several")


def test_what_a_share_of_false_negatives_costs():
    assert prices.cost(0.1, PRICES).startswith("10.0% false negatives cost 0.0100 [0.0080, 0.0120] MRR@10")
    nothing = PRICES._replace(false=Price(-0.01, -0.02, 0.03))
    assert "cost 0.0000 [0.0000, 0.0030]" in prices.cost(0.1, nothing)


def test_the_audit_says_it(tiny, launch, tmp_path, capsys):
    flags = "--data", tiny.docs.path.parent, "--audit", "0.9", "--filters", "near_copy:0.5", "--name", "a"
    assert launch("mine_negatives.py", *flags, cwd=tmp_path) == 0
    assert "**bm25, near_copy:0.5**: " in (printed := capsys.readouterr().out)
    assert "docs/false-negatives.md" in printed
