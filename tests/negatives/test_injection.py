"""Injection: known positives among the negatives, in the share that was asked for, and nothing else changed."""

import numpy as np
import pytest
from conftest import write_collection
from test_sampler import make_sampler

from lib.data.collection import load_collection
from lib.evaluation.comparison import mark_of
from lib.files import BadInput, read_json
from lib.negatives.injection import Injection, keep_aside, parse_injected
from lib.negatives.sampler import Label

DOCS = 60


@pytest.fixture
def twofold(tmp_path):
    """Forty queries with two positives and twenty with one; doc 0 has a copy of its text."""
    docs = {f"d{i}": f"doc {i if i != 59 else 0} of several" for i in range(DOCS)}
    queries = {f"q{i}": f"query {i}" for i in range(60)}
    judged = [(f"q{i}", f"d{i % 40}", 1) for i in range(60)] + [(f"q{i}", f"d{i + 1}", 1) for i in range(40)]
    write_collection(tmp_path / "twofold", docs, queries, {"train": judged, "dev": judged[:2], "test": judged[:2]})
    return load_collection(str(tmp_path / "twofold"), quiet=True)


def test_one_positive_of_two_is_kept_aside_and_stays_known(twofold):
    own, kept = keep_aside(twofold, seed=3)
    before, after = twofold.split("train"), own.split("train")
    assert len(after) == len(before) and (kept[:40] >= 0).all() and (kept[40:] == -1).all()
    for i, doc in enumerate(kept.tolist()):
        left = twofold.docs.groups[after.positives(i)]
        gone = {doc} if doc >= 0 else set()
        assert set(twofold.docs.groups[before.positives(i)]) - set(left) == gone, "the doc and all its copies"
        assert len(left), "no query loses its last positive"
    assert own.known_positive(after.queries[:40], kept[:40, None]).all(), "mining leaves it alone"
    assert (keep_aside(twofold, seed=3)[1] == kept).all() and (keep_aside(twofold, seed=4)[1] != kept).any()


def test_a_collection_without_second_positives_is_refused(twofold):
    own, kept = keep_aside(twofold, seed=0)
    with pytest.raises(BadInput, match="no train query of .* has two positives"):
        keep_aside(own, seed=0)


def injected(twofold, text, share, *, epochs=40, arm="random:4"):
    own, kept = keep_aside(twofold, seed=0)
    made, order, miner = make_sampler(arm, own, injection=Injection(parse_injected(f"{text}:{share}"), kept))
    made.refresh(0)
    positions = np.arange(60)
    for epoch in range(epochs):
        yield own, kept, made, made.batch(positions, step=0, epoch=epoch)


def test_a_share_of_the_negatives_are_positives_that_count(twofold):
    counts = []
    for own, kept, made, batch in injected(twofold, "positives", 0.1):
        code = 1 + made.labels.index(Label("injected", "", ""))
        rows, columns = np.nonzero(batch.source == code)
        assert not batch.invalid[rows, columns].any(), "they count as negatives"
        assert (batch.docs[columns] == own.docs.groups[kept[rows]]).all() and (rows < 40).all()
        named = (batch.source > 0) & ~batch.invalid
        assert (named.sum(1) == 4).all(), "as many as without"
        other = batch.source != code
        known = own.known_positive(batch.queries, np.tile(batch.docs, (60, 1)))
        known[np.arange(60), batch.labels] = False
        assert batch.invalid[known & other].all(), "where none is injected, a positive is no negative"
        assert (batch.docs[batch.labels][:40] != own.docs.groups[kept[:40]]).all(), "it is never the positive"
        counts.append(len(rows) / 40)
    assert np.mean(counts) == pytest.approx(0.4, abs=0.04)  # of four negatives, a tenth: 1600 draws, sd .012


def test_easy_ones_take_the_place_of_as_many(twofold):
    seen = []
    for own, _, made, batch in injected(twofold, "easy", 0.25, arm="bm25:3", epochs=10):
        code = 1 + made.labels.index(Label("injected", "", ""))
        rows, columns = np.nonzero(batch.source == code)
        assert not own.known_positive(batch.queries[rows], batch.docs[columns][:, None]).any()
        assert (rows < 40).all(), "the same queries as with positives"
        seen += batch.docs[columns].tolist()
    assert len(set(seen)) > 20 and len(seen) / 400 == pytest.approx(0.75, abs=0.08)


def test_the_hardest_one_of_those_that_are_drawn_is_lost(twofold):
    for own, _, made, _ in injected(twofold, "hardest", 1, arm="bm25:2", epochs=3):
        (drawn,), mined = made.sample(np.arange(40), step=0, epoch=0).values(), made.lists["bm25"].candidates
        place = [[row.tolist().index(doc) for doc in docs if doc >= 0] for docs, row in zip(drawn, mined.docs)]
        assert all(slots == sorted(slots) for slots in place) and len({tuple(slots) for slots in place}) == 3
        how = {"pool": made.config.pool, "seed": 0, "epoch": 0}
        left, injection = made.config.injection.replace({1: drawn}, np.arange(40), np.arange(40), own, **how)
        assert (left[1][:, 0] == -1).all() and (left[1][:, 1:] == drawn[:, 1:]).all() and (injection >= 0).all()


def test_a_share_of_none_changes_no_negative(twofold):
    own, kept = keep_aside(twofold, seed=0)
    plain = make_sampler("random:4", own)[0].batch(np.arange(60), step=0, epoch=2)
    batch = list(injected(twofold, "positives", 0, epochs=3))[2][-1]
    assert (batch.docs == plain.docs).all() and (batch.invalid == plain.invalid).all()


def test_train_says_that_it_injects(twofold, launch, tmp_path, refused):
    flags = "--data", "twofold", "--negatives", "random:4", "--inject", "positives:.5"
    assert "SHARE is 1/K at most" in refused("train.py", *flags)
    assert "no negatives of its own" in refused("train.py", "--data", "twofold", "--negatives", "in_batch", *flags[-2:])
    assert "--inject and --pull exclude" in refused("train.py", *flags[:-1], "positives:.25", "--pull", "crop")
    arm = "random:2,in_batch@.5 inject=positives:.1"  # in a later stage nothing could be replaced
    assert "no negatives of its own" in refused("train.py", *flags[:3], arm)
    shape = "--dim", "8", "--vocab_size", "60", "--batch_size", "8", "--steps", "2", "--name", "one"
    assert launch("train.py", *flags[:-1], "positives:.25", *shape, cwd=tmp_path) == 0
    pool = read_json(tmp_path / "runs/one/summary.json")["pool"]
    assert mark_of(pool) == "injected" and pool["kept_aside"] == 40 and pool["injected"] == "positives:.25"
