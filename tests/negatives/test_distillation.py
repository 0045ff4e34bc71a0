"""Files for distillation by ids: what is written, that it comes back, and that its readers elsewhere read it."""

import json

import numpy as np
import pytest

from lib.files import BadInput
from lib.negatives.files import load_candidates
from lib.negatives.formats import exchange


@pytest.fixture
def records(tiny):
    """Two train queries' records with a miner's and a teacher's scores."""
    (qid, own), (other, _) = [item for item in tiny.qrels_dict("train").items() if len(item[1]) > 0][:2]
    docs = [doc for doc in tiny.docs.ids if doc not in own][20:23]
    shared = {"source": "dense", "positive_score": 0.9, "teacher_positive_score": 0.75}
    return [
        {"qid": q, "doc_id": doc, "rank": i, "score": 0.8 - i / 10, "teacher_score": 0.5 - i / 8} | shared
        for q in (qid, other)
        for i, doc in enumerate(docs, 1)
    ]


@pytest.mark.parametrize("format", ["distillation", "distillation-parquet"])
def test_what_is_written_comes_back(tiny, tmp_path, records, format):
    if format.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / "deep" / f"file.{format}"
    lines = exchange.write(path, format, iter(records), tiny, "train")
    found = [record for _, record in exchange.read(path, format, tiny)]
    assert lines >= 2 and [(r["qid"], r["doc_id"], r["rank"]) for r in found] == [
        (r["qid"], r["doc_id"], r["rank"]) for r in records
    ]
    for got, want in zip(found, records):
        assert got["teacher_score"] == want["teacher_score"] and got["teacher_positive_score"] == 0.75
    candidates = load_candidates(path, tiny, tiny.split("train"), rows=exchange.read(path, format, tiny))
    assert np.nanmax(candidates.teacher_positive) == 0.75 and (candidates.teacher == candidates.teacher).sum() == 6
    texts = [json.loads(line) for line in (path.parent / f"{path.name}.documents.jsonl").read_text().splitlines()]
    assert [text["document_id"] for text in texts] == tiny.docs.ids and texts[3]["text"] == tiny.docs.text(3)


def test_lines_begin_with_a_positive(tiny, tmp_path, records):
    path = tmp_path / "file"
    exchange.write(path, "distillation", iter(records), tiny, "train")
    for line in map(json.loads, path.read_text().splitlines()):
        assert tiny.qrels_dict("train")[line["query_id"]][line["document_ids"][0]] >= 1
        assert line["scores"] == [0.75, 0.375, 0.25, 0.125]


def test_without_a_teacher_the_miners_scores_are_written(tiny, tmp_path, records):
    for record in records:
        del record["teacher_score"]
    exchange.write(tmp_path / "file", "distillation", iter(records), tiny, "train")
    line = json.loads((tmp_path / "file").read_text().splitlines()[0])
    assert line["scores"] == pytest.approx([0.9, 0.7, 0.6, 0.5])
    del records[0]["score"]
    with pytest.raises(BadInput, match="has docs without a score"):
        exchange.write(tmp_path / "none", "distillation", iter(records), tiny, "train")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"query_id": "q1"}', ':1: no "document_ids"; the keys are query_id'),
        ('{"query_id": "Q", "document_ids": ["D"], "scores": [1, 2]}', ':1: "scores" has 2 numbers for 1 docs'),
        ('{"query_id": "Q", "document_ids": [3], "scores": [1]}', ':1: "document_ids[0]" must be a string'),
        ('{"query_id": "Q", "document_ids": ["D"], "scores": ["1"]}', ':1: "scores[0]" must be a number'),
        ('{"query_id": "Q", "document_ids": ["D"], "scores": [1e39]}', ':1: "scores[0]" must be a number'),
        ('{"query_id": "Q", "document_ids": ["nowhere"], "scores": [1]}', ":1: doc 'nowhere' is not in the collection"),
        ('{"query_id": "nobody", "document_ids": ["D"], "scores": [1]}', ":1: query 'nobody' is not in the collection"),
        ("[1]", ":1: a JSON object is wanted"),
    ],
)
def test_broken_lines_are_named(tiny, tmp_path, line, message):
    line = line.replace('"Q"', f'"{tiny.queries.ids[0]}"').replace('"D"', f'"{tiny.docs.ids[0]}"')
    (tmp_path / "file").write_text(line + "\n")
    with pytest.raises(BadInput) as error:
        list(exchange.read(tmp_path / "file", "distillation", tiny))
    assert message in str(error.value)


def test_sentence_transformers_resolves_the_ids(tiny, tmp_path, records):
    util, datasets = (pytest.importorskip(name) for name in ("sentence_transformers.util", "datasets"))
    path = tmp_path / "file.jsonl"
    exchange.write(path, "distillation", iter(records), tiny, "train")
    train, queries, documents = (
        datasets.load_dataset("json", data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache"))
        for name in ("file.jsonl", "file.jsonl.queries.jsonl", "file.jsonl.documents.jsonl")
    )
    train.set_transform(util.resolve_ids({"query_id": queries, "document_ids": documents}))
    row = train[0]
    assert row["query"] == tiny.queries.text(tiny.queries.row_of[records[0]["qid"]])
    assert row["document_2"] == tiny.docs.text(tiny.docs.row_of[records[0]["doc_id"]])
    assert row["scores"] == [0.75, 0.375, 0.25, 0.125]


def test_a_miner_that_teaches(untrained, launch):
    flags = ("--run", "runs/R", "--own_teacher", "--depth", 3, "--name", "T")
    assert launch("mine_negatives.py", *flags, cwd=untrained) == 0
    assert launch("mine_negatives.py", *flags, "--format", "distillation", cwd=untrained) == 0
    own = [json.loads(line) for line in (untrained / "runs/T/negatives/tiny-train-dense.jsonl").open()]
    assert all(record["teacher_score"] == record["score"] for record in own if "score" in record)
    file = "runs/T/negatives/tiny-train-dense.jsonl"
    taught = ("--negatives", "file:2", "--negatives_file", file, "--terms", "kl:.5:.05")
    small = ("--dim", 16, "--vocab_size", 300, "--steps", 3, "--batch_size", 8)
    assert launch("train.py", "--data", "tiny", *taught, *small, "--name", "student", cwd=untrained) == 0


def test_a_parquet_file_is_read_by_the_name_that_a_flag_gives(tiny, tmp_path, records):
    pytest.importorskip("pyarrow")
    exchange.write(tmp_path / "f", "distillation-parquet", iter(records), tiny, "train")
    assert len(list(exchange.read(str(tmp_path / "f"), "distillation-parquet", tiny))) == len(records)
