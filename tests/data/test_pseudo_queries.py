"""Pseudo-queries: docs without a label are given a query of their own, and training pulls them."""

import json
import shutil

import numpy as np
import pytest

from lib.data import made_queries
from lib.data.batches import QueryOrder
from lib.data.collection import load_collection
from lib.data.made_queries import KINDS, add_pseudo_queries
from lib.files import BadInput
from lib.negatives.pool import labelled, unlabelled_docs


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_doc_without_a_label_gets_a_query_made_from_it(tiny, kind):
    rows = unlabelled_docs(tiny)
    more = add_pseudo_queries(tiny, kind, rows)
    before, train = tiny.split("train"), more.split("train")
    assert len(rows) and len(train) == len(before) + len(rows)
    np.testing.assert_array_equal(train.queries[: len(before)], before.queries)
    for i, row in enumerate(rows, len(before)):
        assert train.positives(i).tolist() == [row]
        words = more.queries.text(train.queries[i]).split()
        assert 0 < len(words) <= made_queries.LONGEST
        of_doc = iter(tiny.docs.text(row).split())
        assert all(word in of_doc for word in words)  # in the doc's order
        if kind != "dropped":
            assert " ".join(words) in " ".join(tiny.docs.text(row).split())
    assert labelled(more).all() and not labelled(tiny).all()
    for split in ("dev", "test"):
        assert more.qrels_dict(split) == tiny.qrels_dict(split)
    assert more.fingerprint != tiny.fingerprint


def test_what_is_made_is_the_same_again(tiny):
    first, again = (add_pseudo_queries(tiny, "crop", unlabelled_docs(tiny)) for _ in range(2))
    assert first.queries.texts() == again.queries.texts() and first.fingerprint == again.fingerprint
    assert add_pseudo_queries(tiny, "title", unlabelled_docs(tiny)).fingerprint != first.fingerprint


def test_a_doc_without_a_title_is_left_alone(tiny, tmp_path):
    tiny_folder = shutil.copytree(tiny.docs.path.parent, tmp_path / "tiny")
    path = tiny_folder / "corpus.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1]["title"] = ""
    path.write_text("".join(json.dumps(record) + "\n" for record in records).rstrip("\n"))
    collection = load_collection(tiny_folder)
    more = add_pseudo_queries(collection, "title", np.arange(3))
    assert more.split("train").docs[-2:].tolist() == [0, 2]
    assert len(more.split("train")) == len(collection.split("train")) + 2


def test_a_file_may_hold_several_queries_of_a_doc(tiny, tmp_path):
    rows = unlabelled_docs(tiny)
    lines = [{"doc_id": tiny.docs.ids[rows[0]], "query": text} for text in ("what is it", "and why")]
    (tmp_path / "made.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = add_pseudo_queries(tiny, str(tmp_path / "made.jsonl"), rows)
    new = more.split("train").queries[len(tiny.split("train")) :]
    assert more.queries.texts(new) == ["what is it", "and why"]


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"doc_id": "none", "query": "x"}', ":1: doc 'none' is not in the collection"),
        ('{"doc_id": "none"}', ":1: .*is wanted, found"),
        ("[]", ":1: a JSON object is wanted"),
    ],
)
def test_broken_files_are_refused(tiny, tmp_path, line, message):
    (tmp_path / "made.jsonl").write_text(line + "\n")
    with pytest.raises(BadInput, match=message):
        add_pseudo_queries(tiny, str(tmp_path / "made.jsonl"), unlabelled_docs(tiny))


def test_no_query_at_all_is_refused(tiny, tmp_path):
    (tmp_path / "made.jsonl").write_text(json.dumps({"doc_id": tiny.docs.ids[0], "query": "labelled already"}) + "\n")
    if labelled(tiny)[0]:
        with pytest.raises(BadInput, match="no doc without a label has one"):
            add_pseudo_queries(tiny, str(tmp_path / "made.jsonl"), unlabelled_docs(tiny))


def test_every_step_has_its_share_and_every_doc_its_turn():
    plain, order = (QueryOrder(20, batch_size=5, seed=1, pulled=pulled) for pulled in ((0, 0), (7, 3)))
    assert order.batch_size == 8 and order.steps_per_epoch == plain.steps_per_epoch == 4
    seen = []
    for step in range(14):
        positions = order.positions(step)
        np.testing.assert_array_equal(positions[:5], plain.positions(step))  # the same real queries as without
        assert len(positions) == 8 and (positions[5:] >= 20).all()
        seen += (positions[5:] - 20).tolist()
    assert np.bincount(seen).tolist() == [6] * 7
    assert len(set(order.upcoming(0, 14))) == 27
