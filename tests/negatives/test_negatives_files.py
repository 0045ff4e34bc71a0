"""Negatives files: what is written comes back, and what is wrong is refused."""

import json

import numpy as np
import pytest

from lib.files import BadInput
from lib.negatives import candidates as candidates_
from lib.negatives import files as negatives_files
from lib.negatives.candidates import Candidates
from lib.negatives.filters import apply, parse_filter
from lib.search import bm25


def write(path, collection, *mined, **changes):
    """A negatives file of the candidates, its header as mine_negatives.py writes it."""
    header = {"collection": collection.name, "collection_fingerprint": collection.fingerprint} | changes
    return negatives_files.write_negatives(
        path, header, (r for c in mined for r in negatives_files.records_of(c, collection))
    )


@pytest.fixture
def mined(tiny):
    """BM25's and random candidates for the train queries of tests/tiny."""
    rows = tiny.split("train").queries
    hits = bm25.BM25.load(tiny.docs).search(tiny.queries.view(rows), 12, tiny.known_docs(rows))
    return (
        Candidates.from_hits(tiny, rows, hits, source="bm25", count=8),
        candidates_.drawn_candidates("random", candidates_.random_docs, tiny, rows, 5, seed=0),
    )


def test_a_file_gives_back_what_was_written(tiny, mined, tmp_path):
    path, qrels = tmp_path / "n.jsonl", tiny.split("train")
    bm25, random = mined
    assert write(path, tiny, bm25) == (bm25.docs >= 0).sum()
    loaded = negatives_files.load_candidates(path, tiny, qrels)
    width = loaded.docs.shape[1]
    assert loaded.source == "file" and (loaded.queries == qrels.queries).all()
    assert (loaded.docs == bm25.docs[:, :width]).all() and (bm25.docs[:, width:] == -1).all()
    np.testing.assert_allclose(loaded.scores, bm25.scores[:, :width], rtol=1e-5)
    np.testing.assert_allclose(loaded.positive, bm25.positive, rtol=1e-5)
    assert (loaded.ranks == bm25.ranks[:, :width]).all() and bm25.ranks.max() == 8
    assert loaded.origins == ("bm25",) and not loaded.origin.any()
    write(path, tiny, bm25, random)
    both = negatives_files.load_candidates(path, tiny, qrels)
    for i, listed in enumerate(both.docs):
        wanted = list(dict.fromkeys([d for part in (bm25, random) for d in part.docs[i].tolist() if d >= 0]))
        assert listed[listed >= 0].tolist() == wanted
        own = (bm25.docs[i] >= 0).sum()  # the first source that proposed a doc counts
        names = [both.origins[number] for number in both.origin[i][: len(wanted)]]
        assert names == ["bm25"] * own + ["random"] * (len(wanted) - own)
        assert (both.ranks[i] > 0).sum() == own
        assert np.isfinite(both.scores[i]).sum() == (bm25.docs[i] >= 0).sum()  # a doc of both keeps BM25's score


def test_records_hold_what_the_format_says(tiny, mined, tmp_path):
    path, bm25 = tmp_path / "n.jsonl", mined[0]
    write(path, tiny, *mined)
    header, rows = negatives_files.read_negatives(path)
    records = [record for _, record in rows]
    assert header["collection_fingerprint"] == tiny.fingerprint
    assert set(records[0]) == {"qid", "doc_id", "source", "rank", "score", "positive_score"}
    assert records[0]["qid"] == tiny.queries.ids[bm25.queries[0]] and records[0]["rank"] == 1
    assert records[0]["doc_id"] == tiny.docs.ids[bm25.docs[0, 0]]
    assert {record["rank"] for record in records if record["source"] == "random"} == {0}
    window = apply(bm25, [parse_filter("window:3:5")], tiny)  # ranks are those of the mining
    ranks = [record["rank"] for record in negatives_files.records_of(window, tiny)]
    assert ranks[:3] == [3, 4, 5] and set(ranks) == {3, 4, 5}
    assert {record["source"] for record in records} == {"bm25", "random"}
    assert all(record["score"] is None for record in records if record["source"] == "random")


def spoiled(path, number, **changes):
    """Change keys of one line of a JSONL file; None deletes a key."""
    lines = path.read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[number - 1]) | changes
    lines[number - 1] = json.dumps({key: value for key, value in record.items() if value is not None})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"doc_id": "c99"}, [":5:", "c99"]),
        ({"qid": "q99"}, [":5:", "q99"]),
        ({"doc_id": None}, [":5:", "doc_id"]),
        ({"qid": ["q01"]}, [":5:", "q01"]),
        ({"score": "high"}, [":5:", "high"]),
        ({"rank": "high"}, [":5:", "high"]),
        ({"positive_score": "high"}, [":5:", "high"]),
        ({"source": ["bm25"]}, [":5:", "source"]),
        ({"qid": "q01", "doc_id": "c01"}, ["c01", "q01", "positive"]),
        ({"qid": "q14", "doc_id": "a09"}, ["a09", "q14", "positive"]),
    ],
)
def test_a_wrong_record_is_refused(tiny, mined, tmp_path, changes, wanted):
    path = tmp_path / "n.jsonl"
    write(path, tiny, *mined)
    spoiled(path, 5, **changes)
    with pytest.raises(BadInput) as refused:
        negatives_files.load_candidates(path, tiny, tiny.split("train"))
    for part in ["n.jsonl", *wanted]:
        assert part in str(refused.value)


def test_a_file_of_another_collection_is_refused(tiny, mined, tmp_path):
    path = tmp_path / "n.jsonl"
    write(path, tiny, *mined, collection_fingerprint="0123456789abcdef")
    with pytest.raises(BadInput, match=f"0123456789abcdef.*{tiny.fingerprint}"):
        negatives_files.load_candidates(path, tiny, tiny.split("train"))


@pytest.mark.parametrize(
    "content, wanted",
    [
        (b"", "header"),
        (b'{"qid": "q01", "doc_id": "c02", "source": "bm25", "score": 1.0}\n', "header"),
        (b"[]\n", "object"),
    ],
)
def test_a_file_without_a_header_is_refused(tiny, tmp_path, content, wanted):
    path = tmp_path / "n.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"n\.jsonl:1: .*{wanted}"):
        negatives_files.load_candidates(path, tiny, tiny.split("train"))


def test_files_without_use_are_refused(tiny, mined, tmp_path):
    with pytest.raises(BadInput, match=r"none\.jsonl: .*[Nn]o such file"):
        negatives_files.load_candidates(tmp_path / "none.jsonl", tiny, tiny.split("train"))
    write(tmp_path / "n.jsonl", tiny, *mined)
    with pytest.raises(BadInput, match="no negatives for the queries"):
        negatives_files.load_candidates(tmp_path / "n.jsonl", tiny, tiny.split("test"))
