"""Negatives files of other systems: what is written, what comes back, what is lost, what is refused."""

import json

import numpy as np
import pytest
from conftest import known_by_text, write_collection

from lib.data import collection as collection_
from lib.data.collection import load_collection
from lib.files import BadInput
from lib.negatives.formats import exchange

FIELDS = "qid doc_id source rank score positive_score teacher_score teacher_positive_score".split()
# a fact of each format, written down apart from the module's own table
SCORED = {"st-triplet", "st-ntuple", "flagembedding", "dpr"}
WITH_DOC_IDS = {"tevatron", "tevatron-ids", "dpr", "msmarco-ids"}
WITH_QUERY_IDS = WITH_DOC_IDS - {"dpr"}
DISTILLATION = {"distillation", "distillation-parquet"}  # which tests/negatives/test_distillation.py looks at
every_format = pytest.mark.parametrize("format", [name for name in exchange.FORMATS if name not in DISTILLATION])


def record(qid, doc_id, rank=1, score=None, positive_score=None, **more):
    """A record as a miner writes it."""
    return {
        "qid": qid,
        "doc_id": doc_id,
        "source": "bm25",
        "rank": rank,
        "score": score,
        "positive_score": positive_score,
    } | more


def read(path, format, collection):
    """The records of a file, without the numbers of their lines."""
    return [found for _, found in exchange.read(path, format, collection)]


@pytest.fixture(scope="module")
def plays(tmp_path_factory):
    """q1 has two positives; q2 and q3 have equal texts, d1 and d5, d3 and d6, too; d4 has a tab."""
    folder = tmp_path_factory.mktemp("data") / "plays"
    (folder / "qrels").mkdir(parents=True)
    docs = [
        {"_id": "d1", "title": "Hamlet", "text": "A tragedy."},
        {"_id": "d2", "title": "Macbeth", "text": "A Scottish “play”."},
        {"_id": "d3", "text": "Othello"},
        {"_id": "d4", "title": "", "text": "Lear\tis\r\nold"},
        {"_id": "d5", "title": "Hamlet", "text": "A tragedy."},
        {"_id": "d6", "title": "", "text": "Othello"},
        {"_id": "d7", "title": "", "text": "Lear is old"},
    ]
    queries = [
        {"_id": "q1", "text": "who dies?", "metadata": {"answers": ["Hamlet", "Lear"]}},
        {"_id": "q2", "text": "which\nplay?", "answers": ["Macbeth"]},
        {"_id": "q3", "text": "which\nplay?", "answers": "Macbeth", "metadata": "none"},
    ]
    for name, lines in (("corpus", docs), ("queries", queries)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    judged = "q1\td1\t1\nq1\td4\t2\nq1\td2\t0\nq2\td2\t1\nq3\td2\t1\n"
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td2\t1\n")
    return collection_.load_collection(folder)


RECORDS = [  # q1's records do not stand together
    record("q1", "d3", 1, 1.5, 2.5),
    record("q2", "d1", 1),
    record("q1", "d2", 2, 0.25, 2.5),
]
HAMLET = "Hamlet A tragedy."
LINES = {
    "st-triplet": [
        '{"anchor": "who dies?", "positive": "Hamlet A tragedy.", "negative": "Othello", "scores": [2.5, 1.5]}',
        '{"anchor": "who dies?", "positive": "Hamlet A tragedy.", "negative": "Macbeth A Scottish “play”.", '
        '"scores": [2.5, 0.25]}',
        r'{"anchor": "who dies?", "positive": "Lear\tis\r\nold", "negative": "Othello", '
        '"scores": [2.5, 1.5]}',
        r'{"anchor": "who dies?", "positive": "Lear\tis\r\nold", "negative": "Macbeth A Scottish “play”.", '
        '"scores": [2.5, 0.25]}',
        r'{"anchor": "which\nplay?", "positive": "Macbeth A Scottish “play”.", '
        '"negative": "Hamlet A tragedy."}',
    ],
    "st-ntuple": [
        '{"anchor": "who dies?", "positive": "Hamlet A tragedy.", "negative_1": "Othello", '
        '"negative_2": "Macbeth A Scottish “play”.", "scores": [2.5, 1.5, 0.25]}',
        r'{"anchor": "who dies?", "positive": "Lear\tis\r\nold", "negative_1": "Othello", '
        '"negative_2": "Macbeth A Scottish “play”.", "scores": [2.5, 1.5, 0.25]}',
        r'{"anchor": "which\nplay?", "positive": "Macbeth A Scottish “play”.", '
        '"negative_1": "Hamlet A tragedy."}',
    ],
    "st-pair": [
        '{"anchor": "who dies?", "positive": "Hamlet A tragedy.", "label": 1}',
        r'{"anchor": "who dies?", "positive": "Lear\tis\r\nold", "label": 1}',
        '{"anchor": "who dies?", "positive": "Othello", "label": 0}',
        '{"anchor": "who dies?", "positive": "Macbeth A Scottish “play”.", "label": 0}',
        r'{"anchor": "which\nplay?", "positive": "Macbeth A Scottish “play”.", "label": 1}',
        r'{"anchor": "which\nplay?", "positive": "Hamlet A tragedy.", "label": 0}',
    ],
    "st-list": [
        r'{"anchor": "who dies?", "positive": ["Hamlet A tragedy.", "Lear\tis\r\nold", "Othello", '
        '"Macbeth A Scottish “play”."], "labels": [1, 1, 0, 0]}',
        r'{"anchor": "which\nplay?", "positive": ["Macbeth A Scottish “play”.", "Hamlet A tragedy."], '
        '"labels": [1, 0]}',
    ],
    "flagembedding": [
        r'{"query": "who dies?", "pos": ["Hamlet A tragedy.", "Lear\tis\r\nold"], '
        '"neg": ["Othello", "Macbeth A Scottish “play”."], "pos_scores": [2.5, 2.5], '
        '"neg_scores": [1.5, 0.25]}',
        r'{"query": "which\nplay?", "pos": ["Macbeth A Scottish “play”."], "neg": ["Hamlet A tragedy."]}',
    ],
    "tevatron": [
        '{"query_id": "q1", "query": "who dies?", "positive_passages": '
        r'[{"docid": "d1", "title": "Hamlet", "text": "A tragedy."}, '
        r'{"docid": "d4", "title": "", "text": "Lear\tis\r\nold"}], "negative_passages": '
        '[{"docid": "d3", "title": "", "text": "Othello"}, '
        '{"docid": "d2", "title": "Macbeth", "text": "A Scottish “play”."}]}',
        r'{"query_id": "q2", "query": "which\nplay?", "positive_passages": '
        '[{"docid": "d2", "title": "Macbeth", "text": "A Scottish “play”."}], "negative_passages": '
        '[{"docid": "d1", "title": "Hamlet", "text": "A tragedy."}]}',
    ],
    "tevatron-ids": [
        '{"query_id": "q1", "query_text": "who dies?", "positive_document_ids": ["d1", "d4"], '
        '"negative_document_ids": ["d3", "d2"]}',
        r'{"query_id": "q2", "query_text": "which\nplay?", "positive_document_ids": ["d2"], '
        '"negative_document_ids": ["d1"]}',
    ],
    "dpr": [
        '[{"question": "who dies?", "answers": ["Hamlet", "Lear"], "positive_ctxs": '
        '[{"title": "Hamlet", "text": "A tragedy.", "score": 2.5, "passage_id": "d1"}, '
        r'{"title": "", "text": "Lear\tis\r\nold", "score": 2.5, "passage_id": "d4"}], "negative_ctxs": [], '
        '"hard_negative_ctxs": [{"title": "", "text": "Othello", "score": 1.5, "passage_id": "d3"}, '
        '{"title": "Macbeth", "text": "A Scottish “play”.", "score": 0.25, "passage_id": "d2"}]},',
        r'{"question": "which\nplay?", "answers": ["Macbeth"], "positive_ctxs": '
        '[{"title": "Macbeth", "text": "A Scottish “play”.", "passage_id": "d2"}], "negative_ctxs": [], '
        '"hard_negative_ctxs": [{"title": "Hamlet", "text": "A tragedy.", "passage_id": "d1"}]}]',
    ],
    "msmarco-ids": ["q1\td1\td3", "q1\td1\td2", "q1\td4\td3", "q1\td4\td2", "q2\td2\td1"],
    "msmarco-text": [
        "who dies?\tHamlet A tragedy.\tOthello",
        "who dies?\tHamlet A tragedy.\tMacbeth A Scottish “play”.",
        "who dies?\tLear is  old\tOthello",
        "who dies?\tLear is  old\tMacbeth A Scottish “play”.",
        "which play?\tMacbeth A Scottish “play”.\tHamlet A tragedy.",
    ],
}


@every_format
def test_what_is_written(plays, tmp_path, format):
    path = tmp_path / "deep" / "file"
    assert exchange.write(path, format, iter(RECORDS), plays, "train") == len(LINES[format])
    assert path.read_bytes().decode() == "\n".join(LINES[format]) + "\n"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@every_format
def test_what_is_read(plays, tmp_path, format):
    path = tmp_path / "file"
    path.write_bytes(("\ufeff" + "\r\n".join(LINES[format]) + "\r\n").encode())
    first, second = (2.5, (1.5, 0.25)) if format in SCORED else (None, (None, None))
    last = len(LINES[format])  # q2's negative stands on the last line
    one, two = {"st-triplet": (1, 2), "st-pair": (3, 4), "msmarco-ids": (1, 2), "msmarco-text": (1, 2)}.get(
        format, (1, 1)
    )
    assert list(exchange.read(path, format, plays)) == [
        (one, record("q1", "d3", 1, second[0], first, source=format)),
        (two, record("q1", "d2", 2, second[1], first, source=format)),
        (last, record("q2", "d1", 1, source=format)),
    ]


def test_every_format_is_described_on_one_line():
    assert set(exchange.FORMATS) == set(LINES) | DISTILLATION
    assert all(text and "\n" not in text and len(text) < 110 for text in exchange.FORMATS.values())


# -------------------------------------------------------------------------------------------- what is lost


@every_format
def test_lost_fields_are_exactly_those_that_change(tiny, tmp_path, format):
    more = {"teacher_score": 0.5, "teacher_positive_score": 0.75}
    train = [
        record("q14", "a12", 1, 7.5, 9.25, **more),  # three positives; a12 is a copy of a08
        record("q12", "h04", 1, 1e-7, -2.0, **more),
        record("q14", "c10", 2, -3.25, 9.25, **more),
        record("q12", "007", 2, -1 / 3, -2.0, **more),
    ]
    dev = [record("q40", "c01", 1, 4.0, 5.0, **more)]  # q18 of the split train has the same text
    changed = set()
    for split, records in (("train", train), ("dev", dev)):
        exchange.write(tmp_path / split, format, records, tiny, split)
        found = read(tmp_path / split, format, tiny)
        wanted = sorted(records, key=lambda r: -int(r["qid"][1:])) if split == "train" else records
        assert [r["rank"] for r in found] == [r["rank"] for r in wanted]
        for got, want in zip(found, wanted):
            assert set(got) == set(FIELDS[:6])
            changed |= {field for field in FIELDS if got.get(field) != want.get(field)}
    assert exchange.lost(format) == tuple(field for field in FIELDS if field in changed)


@pytest.mark.parametrize(
    "format, fields",
    [
        ("st-pair", "qid doc_id source score positive_score teacher_score teacher_positive_score"),
        ("flagembedding", "qid doc_id source teacher_score teacher_positive_score"),
        ("dpr", "qid source teacher_score teacher_positive_score"),
        ("msmarco-ids", "source score positive_score teacher_score teacher_positive_score"),
    ],
)
def test_lost_fields_by_name(format, fields):
    assert exchange.lost(format) == tuple(fields.split())


def held(records, collection, format):
    """What must be left of records: texts in the place of ids, lists of equal queries joined."""

    def first(texts, ident, by_id):
        return ident if by_id else texts.ids[texts.texts().index(texts.text(texts.row_of[ident]))]

    lists = {}
    for r in records:
        qid = first(collection.queries, r["qid"], format in WITH_QUERY_IDS)
        doc_id = first(collection.docs, r["doc_id"], format in WITH_DOC_IDS)
        lists.setdefault(qid, {}).setdefault(doc_id, r)
    return {
        qid: [
            (doc_id, rank) + ((r["score"], r["positive_score"]) if format in SCORED else (None, None))
            for rank, (doc_id, r) in enumerate(docs.items(), 1)
        ]
        for qid, docs in lists.items()
    }


@every_format
def test_many_records_come_back(collection, tmp_path, format):
    random, known = np.random.default_rng(3), known_by_text(collection)
    texts, records = collection.docs.texts(), []
    for row in collection.split("train").queries.tolist():
        qid, positive_score = collection.queries.ids[row], round(random.normal(), 6)
        listed = set(known[collection.queries.text(row)])
        for doc in random.permutation(len(texts))[:8].tolist():
            if texts[doc] not in listed:  # no positive, no text twice
                listed.add(texts[doc])
                place = 1 + sum(r["qid"] == qid for r in records)
                score = round(random.normal(), 6)
                records.append(record(qid, collection.docs.ids[doc], place, score, positive_score))
    exchange.write(tmp_path / "f", format, records, collection, "train")
    lists = {}
    for r in read(tmp_path / "f", format, collection):
        lists.setdefault(r["qid"], []).append((r["doc_id"], r["rank"], r["score"], r["positive_score"]))
    assert len(lists) > 10 and lists == held(records, collection, format)


@pytest.mark.parametrize(
    "format, second, wanted",
    [
        ("st-triplet", (4.0, None), [(1.0, 2.0), (None, None)]),
        ("st-ntuple", (4.0, None), [(None, None), (None, None)]),
        ("flagembedding", (4.0, None), [(1.0, None), (4.0, None)]),
        ("dpr", (4.0, None), [(1.0, None), (4.0, None)]),
        ("st-triplet", (None, 2.0), [(1.0, 2.0), (None, None)]),
        ("st-ntuple", (None, 2.0), [(None, None), (None, None)]),
        ("flagembedding", (None, 2.0), [(None, 2.0), (None, 2.0)]),
        ("dpr", (None, 2.0), [(1.0, 2.0), (None, 2.0)]),
    ],
)
def test_scores_that_are_not_all_known(plays, tmp_path, format, second, wanted):
    records = [record("q1", "d3", 1, 1.0, 2.0), record("q1", "d2", 2, *second)]
    exchange.write(tmp_path / "f", format, records, plays, "train")
    found = read(tmp_path / "f", format, plays)
    assert [(r["score"], r["positive_score"]) for r in found] == wanted


@every_format
def test_a_doc_that_two_sources_propose_is_written_once(plays, tmp_path, format):
    dense = record("q1", "d3", 1, 0.9, 2.0, source="dense")
    copy = record("q1", "d6", 2, 0.8, 2.0, source="dense")
    exchange.write(tmp_path / "f", format, [record("q1", "d3", 1, 3.0, 2.0), dense, copy], plays, "train")
    (found,) = read(tmp_path / "f", format, plays)
    assert found["doc_id"] == "d3" and found["score"] == (3.0 if format in SCORED else None)


@every_format
def test_no_records(plays, tmp_path, format):
    assert exchange.write(tmp_path / "f", format, [], plays, "train") == 0
    assert read(tmp_path / "f", format, plays) == []
    assert (tmp_path / "f").read_text() == ("[]\n" if format == "dpr" else "")


# ------------------------------------------------------------------------------------------ others' files


def passage(ident, **more):
    return {"title": "t", "text": "x", "passage_id": ident} | more


def item(**changes):
    """An item of DPR's array."""
    wanted = {"question": "who dies?", "answers": [], "positive_ctxs": [passage("d1")]}
    return wanted | {"hard_negative_ctxs": [passage("d2", score=3)]} | changes


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("array", [True, False])
def test_dpr_as_array_and_as_lines(plays, tmp_path, array, indent):
    old = {"psg_id": "d3", "title": "", "text": "", "score": None}
    items = [item(), item(question="which\nplay?", positive_ctxs=[], negative_ctxs=[passage("d4")])]
    items[1]["hard_negative_ctxs"] = [old]
    items[0]["positive_ctxs"] = [passage("d1", score=1000), passage("d4", score=7.5), passage("d5", score=2)]
    lines = [json.dumps(i) for i in items]
    (tmp_path / "f").write_text(json.dumps(items, indent=indent) if array else "\n".join(lines))
    assert list(exchange.read(tmp_path / "f", "dpr", plays)) == [
        (1, record("q1", "d2", 1, 3, 7.5, source="dpr")),  # 1000 marks a gold passage, it is no score
        (2, record("q2", "d3", 1, source="dpr")),
        (2, record("q2", "d4", 2, source="dpr")),
    ]


def test_lines_of_one_query_need_not_stand_together(plays, tmp_path):
    (tmp_path / "f").write_text("q1\td1\td3\nq2\td2\td3\nq1\td4\td3\n\n q1 \td4\td6\n")
    rows = exchange.read(tmp_path / "f", "msmarco-ids", plays)
    found = [(number, r["qid"], r["doc_id"], r["rank"]) for number, r in rows]
    assert found == [(1, "q1", "d3", 1), (2, "q2", "d3", 1), (5, "q1", "d6", 2)]


def test_white_space_counts_in_json_and_not_in_tsv(plays, tmp_path):
    (tmp_path / "t").write_text("who  dies? \tLear is old\tOthello\n")
    assert [r["doc_id"] for r in read(tmp_path / "t", "msmarco-text", plays)] == ["d3"]
    line = {"anchor": "who  dies?", "positive": HAMLET, "negative": "Othello"}
    (tmp_path / "j").write_text(json.dumps(line))
    with pytest.raises(BadInput, match=r"j:1: query 'who  dies\?' is not in the collection"):
        read(tmp_path / "j", "st-triplet", plays)


def triplet(**changes):
    return {"anchor": "who dies?", "positive": HAMLET, "negative": "Othello"} | changes


def flag(**changes):
    return {"query": "who dies?", "pos": [HAMLET], "neg": ["Othello"]} | changes


def listed(**changes):
    return {"anchor": "who dies?", "positive": [HAMLET, "Othello"], "labels": [1, 0]} | changes


def tevatron(**changes):
    wanted = {"query_id": "q1", "query": "who dies?", "positive_passages": [{"docid": "d1"}]}
    return wanted | {"negative_passages": [{"docid": "d3"}]} | changes


def ids(**changes):
    wanted = {"query_id": "q1", "query_text": "", "positive_document_ids": ["d1"]}
    return wanted | {"negative_document_ids": ["d3"]} | changes


BAD = [
    ("flagembedding", flag(pos=HAMLET), r'"pos" is a string, a list is wanted: put brackets around .*Hamlet'),
    ("flagembedding", flag(neg="Othello"), '"neg" is a string, a list is wanted'),
    ("flagembedding", flag(neg=None), "\"neg\" must be a list, found 'null'"),
    ("flagembedding", flag(neg=["Othello", 5]), r'"neg\[1\]" must be a string, found \'5\''),
    ("flagembedding", {"query": "who dies?", "neg": []}, 'no "pos"; the keys are query, neg'),
    ("flagembedding", flag(pos_scores=[1, 2]), '"pos_scores" has 2 numbers for 1 docs'),
    ("flagembedding", flag(pos_scores=[]), '"pos_scores" has 0 numbers for 1 docs'),
    ("flagembedding", flag(neg_scores=[1, 2]), '"neg_scores" has 2 numbers for 1 docs'),
    ("flagembedding", flag(neg_scores=["high"]), r'"neg_scores\[0\]" must be a number, found .*high'),
    (
        "flagembedding",
        {"query": "who dies?", "document": HAMLET, "negatives": ["Othello"], "negative_scores": ["high"]},
        r'"neg_scores\[0\]" must be a number',
    ),  # fmt: skip
    ("flagembedding", flag(neg_scores=[float("nan")]), r'"neg_scores\[0\]" must be a number, found .*NaN'),
    ("flagembedding", flag(query="who wins?"), r"query 'who wins\?' is not in the collection; texts"),
    ("flagembedding", flag(neg=["Othello", "x" * 90]), r"doc 'xxxx.*\.\.\.' is not in the collection"),
    ("flagembedding", flag(neg=["half \ud800"]), "not valid JSON .half a surrogate pair"),
    ("flagembedding", flag(pos=["Timon"]), "doc 'Timon' is not in the collection"),
    (
        "flagembedding",
        flag(neg=["Othello", "Lear\tis\r\nold"]),
        "d4 is a positive of q1, or that query itself, and stands among",
    ),
    ("flagembedding", flag(pos=["Othello"]), "d3 is a positive of q1"),  # though the qrels do not know it
    ("flagembedding", [], "a JSON object is wanted"),
    ("st-triplet", triplet(scores=[1.0]), '"scores" has 1 numbers for 2 docs'),
    ("st-triplet", triplet(scores=0.5), "\"scores\" must be a list, found '0.5'"),
    ("st-triplet", triplet(negative=["Othello"]), '"negative" must be a string'),
    ("st-triplet", {"anchor": "", "positive": HAMLET}, 'no "negative"; the keys are anchor, positive'),
    ("st-triplet", triplet(negative=HAMLET), "d1 is a positive of q1"),
    ("st-ntuple", triplet(), 'no "negative_1"; the keys are anchor, positive, negative'),
    ("st-ntuple", triplet(negative_1="Othello", negative_3="Othello"), 'no "negative_2"'),
    ("st-ntuple", triplet(negative_1="Othello", scores=[1]), '"scores" has 1 numbers for 2 docs'),
    ("st-pair", triplet(), 'no "label"'),
    ("st-pair", triplet(label=2), "label 2 must be 1"),
    ("st-pair", triplet(label="0"), '"label" must be a number'),
    ("st-pair", triplet(label=0), "d1 is a positive of q1"),
    ("st-list", listed(labels=[1]), '"labels" has 1 numbers for 2 docs'),
    ("st-list", listed(labels=[1, 0.5]), "label 0.5 must be 1"),
    ("st-list", listed(labels=None), '"labels" must be a list'),
    ("st-list", {"anchor": "who dies?", "positive": []}, 'no "labels"'),
    ("st-list", {"anchor": "who dies?", "positive": [HAMLET, "Othello"], "scores": None}, '"scores" must be a list'),
    ("st-list", listed(positive="Othello"), '"positive" is a string, a list is wanted'),
    ("st-list", listed(labels=[0, 0]), "d1 is a positive of q1"),
    ("tevatron", tevatron(query_id=1), "query '1' is not in the collection$"),
    ("tevatron", tevatron(query_id=None), "\"query_id\" must be a string, found 'null'"),
    ("tevatron", tevatron(query_id=True), "\"query_id\" must be a string, found 'true'"),
    ("tevatron-ids", ids(query_id=7), "query '7' is not in the collection$"),
    ("tevatron", tevatron(query_id="q9"), "query 'q9' is not in the collection$"),
    ("tevatron", tevatron(negative_passages=[{"title": "Othello"}]), 'no "docid"; the keys are title'),
    ("tevatron", tevatron(negative_passages=["d3"]), r'"negative_passages\[0\]" must be a JSON object'),
    ("tevatron", tevatron(negative_passages=[{"docid": "d9"}]), "doc 'd9' is not in the collection"),
    ("tevatron", tevatron(negative_passages=[{"docid": "d5"}]), "d5 is a positive of q1"),  # a copy of d1
    ("tevatron-ids", ids(negative_document_ids="d3"), '"negative_document_ids" is a string, a list is'),
    ("tevatron-ids", ids(negative_document_ids=[3]), r'"negative_document_ids\[0\]" must be a string'),
    ("tevatron-ids", ids(negative_document_ids=["d4"]), "d4 is a positive of q1"),
    ("dpr", {"question": "who dies?", "positive_ctxs": []}, 'no "hard_negative_ctxs"; the keys are quest'),
    ("dpr", item(hard_negative_ctxs=[{"title": "", "text": ""}]), 'no "passage_id"; the keys are title, '),
    ("dpr", item(hard_negative_ctxs=[passage(3.5)]), '"passage_id" must be a string'),
    ("dpr", item(hard_negative_ctxs=[passage("d3", score="high")]), '"score" must be a number'),
    ("dpr", item(negative_ctxs=[passage("d1")]), "d1 is a positive of q1"),
    ("dpr", item(question="who?"), r"query 'who\?' is not in the collection; texts"),
    ("msmarco-ids", "q1\td1", r"3 fields with tabs between .* are wanted, found 2: 'q1\\td1'"),
    ("msmarco-ids", "q1\td1\td3\t0", "found 4"),
    ("msmarco-ids", "q1 d1 d3", "found 1"),
    ("msmarco-ids", "q1\td1\td4", "d4 is a positive of q1"),
    ("msmarco-ids", "q1\td1\td9", "doc 'd9' is not in the collection"),
    ("msmarco-text", "who dies?\tOthello", "found 2"),
    ("msmarco-text", "who dies?\tHamlet A tragedy.\tLear is old", "d4 is a positive of q1"),
]


@pytest.mark.parametrize("format, line, message", BAD)
def test_bad_lines_are_named(plays, tmp_path, format, line, message):
    path = tmp_path / "f"
    line = line if isinstance(line, str) else json.dumps(line)
    good = LINES[format][-1]
    path.write_text("\n".join([good[:-1] if format == "dpr" else good, "", line]), encoding="utf-8")
    rows = exchange.read(path, format, plays)
    assert next(rows)[0] == 1  # what stands before is read
    with pytest.raises(BadInput, match=rf"f:3: .*{message}") as refused:
        list(rows)
    assert "\n" not in str(refused.value) and "\t" not in str(refused.value)


def test_whole_numbers_as_ids_scores_as_strings_and_gaps_among_scores(tmp_path, plays):
    numbers = collection_.load_collection(
        write_collection(tmp_path / "n", {"1": "a", "2": "b"}, {"7": "q"}, {"train": [("7", "1", 1)]})
    )
    path = tmp_path / "f"
    line = tevatron(query_id=7, positive_passages=[{"docid": 1}], negative_passages=[{"docid": 2}])
    path.write_text(json.dumps(line))
    assert read(path, "tevatron", numbers) == [record("7", "2", source="tevatron")]
    own = item(positive_ctxs=[passage("d1", score="7.5")], negative_ctxs=[passage("d2", score="1e1")])
    del own["hard_negative_ctxs"]
    path.write_text(json.dumps([own]))
    assert read(path, "dpr", plays) == [record("q1", "d2", 1, 10, 7.5, source="dpr")]
    path.write_text(json.dumps(flag(neg=["Othello", "Macbeth A Scottish “play”."], neg_scores=[None, 0.5])))
    assert [r["score"] for r in read(path, "flagembedding", plays)] == [None, 0.5]


def test_bad_items_of_an_array_are_named_by_number(plays, tmp_path):
    path = tmp_path / "f"
    path.write_text(json.dumps([item(), item(hard_negative_ctxs=[passage("d9")])], indent=2))
    with pytest.raises(BadInput, match="f:2: doc 'd9' is not in the collection"):
        read(path, "dpr", plays)
    path.write_text(json.dumps([item(), [item()]]))
    with pytest.raises(BadInput, match="f:2: a JSON object is wanted"):
        read(path, "dpr", plays)
    path.write_text(json.dumps([item()])[:-1])
    with pytest.raises(BadInput, match="f: not valid JSON"):
        read(path, "dpr", plays)
    with pytest.raises(BadInput, match="g: cannot be read"):
        read(tmp_path / "g", "dpr", plays)


@pytest.mark.parametrize(
    "bad, split, message",
    [
        (record("q9", "d3"), "train", "query 'q9' is not in the collection"),
        (record("q1", "d9"), "train", "doc 'd9' is not in the collection"),
        (record("q1", "d3"), "dev", "query 'q1' is not in the split dev; name the split"),
        (record("q2", "d3"), "test", "no split 'test'"),
        (record("q1", "d4"), "train", "d4 is a positive of q1"),
        (record("q1", "d5"), "train", "d5 is a positive of q1"),  # a copy of d1
    ],
)
def test_bad_records_leave_the_file_as_it_was(plays, tmp_path, bad, split, message):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(BadInput, match=f"f: not written: .*{message}"):
        exchange.write(path, "st-pair", [record("q2", "d1"), bad], plays, split)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["f"]


def test_queries_of_equal_text_become_the_first(plays, tmp_path):
    records = [record("q3", "d3"), record("q2", "d4"), record("q2", "d3", 2)]
    exchange.write(tmp_path / "f", "flagembedding", records, plays, "train")
    found = [(r["qid"], r["doc_id"], r["rank"]) for r in read(tmp_path / "f", "flagembedding", plays)]
    assert found == [("q2", "d3", 1), ("q2", "d4", 2)]
    exchange.write(tmp_path / "f", "dpr", [record("q3", "d3")], plays, "train")
    assert json.loads((tmp_path / "f").read_text())[0]["answers"] == []  # a string is no list of answers


def test_queries_without_a_negative_are_counted(folder, launch, capsys, tmp_path):
    flags = ("--data", folder, "--name", "few", "--overwrite", "--depth", 5)
    assert launch("mine_negatives.py", *flags, cwd=tmp_path) == 0
    assert "have no negative" not in capsys.readouterr().out
    assert launch("mine_negatives.py", *flags, "--filters", "percpos:0.2", cwd=tmp_path) == 0
    said = capsys.readouterr().out
    (path,) = (tmp_path / "runs/few/negatives").glob("*.jsonl")
    there = {json.loads(line)["qid"] for line in path.read_text().splitlines()[1:]}
    queries = len(load_collection(folder).split("train"))
    assert 0 < len(there) < queries
    assert f"note: {queries - len(there)} of {queries} queries have no negative and are not in the file: loosen" in said


def test_the_next_step_of_an_export_is_the_other_librarys(folder, launch, capsys, tmp_path):
    flags = ("--data", folder, "--name", "st", "--depth", 3, "--format", "st-ntuple")
    assert launch("mine_negatives.py", *flags, cwd=tmp_path) == 0
    said = capsys.readouterr().out
    (path,) = (tmp_path / "runs/st/negatives").glob("*.st-ntuple.jsonl")
    assert 'next    st-ntuple is read by datasets.load_dataset("json", data_files="' in said and path.name in said
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "hub"))
    assert {"anchor", "positive", "negative_1"} <= set(rows.column_names) and len(rows)


def test_lists_are_filled_up_with_random_docs(folder, launch, refused, capsys, tmp_path):
    flags = ("--data", folder, "--name", "full", "--overwrite", "--depth", 5, "--filters", "percpos:0.2")
    assert launch("mine_negatives.py", *flags, "--fill", cwd=tmp_path) == 0
    said = capsys.readouterr().out
    assert "have no negative" not in said and "end short" not in said
    (path,) = (tmp_path / "runs/full/negatives").glob("*.jsonl")
    lists, collection = {}, load_collection(folder)
    for record in map(json.loads, path.read_text().splitlines()[1:]):
        lists.setdefault(record["qid"], []).append((record["doc_id"], record["source"]))
    known = collection.qrels_dict("train")
    assert lists.keys() == known.keys()
    for qid, docs in lists.items():
        assert len({doc for doc, _ in docs}) == len(docs) == 5 and not known[qid].keys() & {doc for doc, _ in docs}
    assert {source for docs in lists.values() for _, source in docs} == {"bm25", "random"}
    assert "leave the source random out" in refused(
        "mine_negatives.py", *flags, "--fill", "--sources", "bm25", "random", cwd=tmp_path
    )


@pytest.mark.parametrize("format", ["st-triplet", "st-ntuple"])
@pytest.mark.parametrize("fill", [(), ("--fill",)])
def test_rows_for_a_table_have_the_same_columns(folder, launch, capsys, tmp_path, format, fill):
    """A gap would become None there, which no trainer takes."""
    flags = ("--data", folder, "--name", "even", "--overwrite", "--depth", 5, "--filters", "percpos:0.5", *fill)
    assert launch("mine_negatives.py", *flags, "--format", format, cwd=tmp_path) == 0
    said = capsys.readouterr().out
    (path,) = (tmp_path / "runs/even/negatives").glob(f"*.{format}.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows and len({tuple(row) for row in rows}) == 1 and ("scores" in rows[0]) == (not fill)
    assert ("rows with fewer than" in said) == (format == "st-ntuple" and not fill)
    if "scores" in rows[0]:
        assert {len(row["scores"]) for row in rows} == {len(rows[0]) - 2}


@every_format
def test_one_score_for_several_positives_is_said(collection, tmp_path, format, capsys):
    split = collection.split("train")
    several = [i for i in range(len(split)) if len(split.positives(i)) > 1]
    records = []
    for i in several[:1] or [0]:
        row = split.queries[i]
        free = ~collection.no_negative(np.array([row]), np.arange(len(collection.docs))[None])[0]
        records.append(
            record(collection.queries.ids[row], collection.docs.ids[int(np.flatnonzero(free)[0])], 1, 1.0, 2.0)
        )
    exchange.write(tmp_path / "f", format, records, collection, "train")
    said = "of 1 queries with several" in capsys.readouterr().out
    assert said == bool(several and format in SCORED | {"distillation", "distillation-parquet"})
