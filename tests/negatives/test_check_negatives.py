"""mine_negatives.py --check: each fault that is put into a file is found, and nothing else."""

import json
import shutil

import numpy as np
import pytest
from conftest import TINY

from lib.data.collection import load_collection
from lib.files import BadInput, read_json
from lib.negatives import check
from lib.negatives.candidates import drawn_candidates, random_docs
from lib.negatives.files import records_of, write_negatives
from lib.negatives.formats import exchange
from lib.negatives.pool import open_pool


@pytest.fixture
def made(tmp_path):
    """(collection, its records of 4 negatives a query, a function that writes records and looks at them)."""
    folder = shutil.copytree(TINY, tmp_path / "tiny")
    corpus = (folder / "corpus.jsonl").read_text(encoding="utf-8")
    first = json.loads(corpus.splitlines()[0])
    copies = [first | {"_id": "copy"}, first | {"_id": "near", "text": first["text"] + " Tonight."}]
    copies.append({"_id": "held", "text": "Only a test query looks for this doc about the tides of the moon."})
    last = (folder / "qrels/test.tsv").read_text(encoding="utf-8").splitlines()[-1]
    with open(folder / "qrels/test.tsv", "a", encoding="utf-8") as out:
        out.write(f"{last.split(chr(9))[0]}\theld\t1\n")
    (folder / "corpus.jsonl").write_text(corpus + "".join(json.dumps(doc) + "\n" for doc in copies), encoding="utf-8")
    collection = load_collection(str(folder))
    rows = collection.split("train").queries
    candidates = drawn_candidates(
        "random", random_docs, collection, rows, 4, pool=open_pool("labelled", collection), seed=0
    )
    records = list(records_of(candidates, collection))
    plain = []
    for qid in dict.fromkeys(record["qid"] for record in records):
        own = [record for record in records if record["qid"] == qid]
        plain += [r | {"score": 0.5 - 0.1 * i, "positive_score": 0.9, "rank": i + 1} for i, r in enumerate(own)]

    def look(changed):
        path = tmp_path / "negatives.jsonl"
        write_negatives(path, {"collection_fingerprint": collection.fingerprint}, changed)
        return check.look(check.read_any(path, "own", collection), collection, "train")[0]

    return collection, plain, look


def counts(found):
    return {name: one.count for name, one in found.items() if one.count}


def positive_of(collection, qid):
    qrels = collection.qrels_dict("train")[qid]
    return next(doc for doc, grade in qrels.items() if grade >= 1)


def test_a_good_file_has_no_fault(made):
    _, records, look = made
    assert not set(counts(look(records))) & {
        *check.WRONG,
        "copies",
        "rising",
        "no_score",
        "above_positive",
        "unlabelled",
    }


def faults(collection, records):
    """{finding: (records with one fault of that kind, how often it is found)}."""
    queries, docs = list(dict.fromkeys(r["qid"] for r in records)), collection.docs.ids
    first = next(qid for qid in queries if positive_of(collection, qid) == docs[0])  # its positive has two copies
    at = next(i for i, r in enumerate(records) if r["qid"] == first)

    def change(**fields):
        return [r | fields if i == at else r for i, r in enumerate(records)]

    other = collection.queries.ids[collection.split("test").queries[0]]
    return {
        "unknown": change(doc_id="nowhere"),
        "other_queries": change(qid=other),
        "known_positives": change(doc_id=positive_of(collection, first)),
        "copies": change(doc_id="copy"),
        "near_copies": change(doc_id="near"),
        "duplicates": change(doc_id=records[at + 1]["doc_id"]),
        "held_out": change(doc_id="held"),
        "unlabelled": change(doc_id="held"),
        "above_positive": change(score=0.95),
        "rising": change(score=0.35),  # the next one has .4
        "no_score": change(score=None),
        "short_lists": [r for i, r in enumerate(records) if i not in (at, at + 1, at + 2)],
        "no_list": [r for r in records if r["qid"] != first],
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name in check.FINDINGS if name not in ("itself", "hubs")])
def test_each_fault_is_found(made, name):
    collection, records, look = made
    usual = look(records)
    found = look(faults(collection, records)[name])
    assert found[name].count == usual[name].count + 1
    if name in ("known_positives", "copies", "near_copies", "duplicates", "unknown"):
        (line,) = set(found[name].lines) - set(usual[name].lines)
        assert line >= 2  # below the header
    wrong = {"unlabelled": "held_out"}.get(name, name)
    for other in set(check.WRONG) - {wrong}:
        assert found[other].count == usual[other].count, other


def test_a_doc_that_is_everybodys_negative(made, monkeypatch):
    collection, records, look = made
    queries = list(dict.fromkeys(r["qid"] for r in records))
    far = "held"  # which is drawn for nobody
    everywhere = [r | {"doc_id": far} if r["rank"] == 1 else r for r in records]
    assert look(records)["hubs"].count == 0
    mean = len(everywhere) / len({r["doc_id"] for r in everywhere})
    monkeypatch.setattr(check, "HUB", 0.9 * len(queries) / mean)  # the corpus is too small for the real one
    assert look(everywhere)["hubs"].count == len(queries)


def test_the_query_itself(tmp_path):
    from conftest import write_collection

    docs = {"a": "text a", "b": "text b", "c": "a question?"}
    queries = {"q": "a question?", "a": "other?"}
    small = load_collection(write_collection(tmp_path / "s", docs, queries, {"train": [("q", "b", 1), ("a", "b", 1)]}))
    rows = [(2, 0, 2, 0.5, 0.9), (3, 1, 0, 0.5, 0.9)]  # by its text, and by its id
    found, _ = check.look(rows, small, "train")
    assert found["itself"].count == 2 and found["itself"].lines == (2, 3)


def test_files_of_other_systems_are_looked_at(made, tmp_path):
    collection, records, _ = made
    for format in ("st-triplet", "flagembedding", "tevatron"):
        path = tmp_path / f"f.{format}"
        exchange.write(path, format, records, collection, "train")
        lines = path.read_text(encoding="utf-8").splitlines()
        found, _ = check.look(check.read_any(path, format, collection), collection, "train")
        assert found["unknown"].count == found["known_positives"].count == found["duplicates"].count == 0
        # a positive among its own negatives, which reading for training would refuse
        item = json.loads(lines[0])
        if format == "st-triplet":
            item["negative"] = item["positive"]
        elif format == "flagembedding":
            item["neg"][0] = item["pos"][0]
        else:
            item["negative_passages"][0] = item["positive_passages"][0]
        path.write_text("\n".join([json.dumps(item), *lines[1:]]) + "\n", encoding="utf-8")
        found, _ = check.look(check.read_any(path, format, collection), collection, "train")
        assert found["known_positives"].count + found["copies"].count == 1


def test_the_script_says_it_and_limits_decide(launch, refused, made, tmp_path, capsys):
    collection, records, _ = made
    write_negatives(tmp_path / "f.jsonl", {}, faults(collection, records)["copies"])
    flags = ("--check", "f.jsonl", "--data", "tiny")
    assert launch("mine_negatives.py", *flags, cwd=tmp_path) == 0
    printed = capsys.readouterr().out
    assert "| copies: " in printed and "warning: copies" in printed
    report = read_json(tmp_path / "runs/tiny-check/f.jsonl/check.json")
    assert report["copies"]["count"] == 1 and (tmp_path / "runs/tiny-check/f.jsonl/check.png").exists()
    assert launch("mine_negatives.py", *flags, "--limits", "copies=0", cwd=tmp_path) == 1
    assert launch("mine_negatives.py", *flags, "--limits", "copies=.5", "unknown=0", cwd=tmp_path) == 0
    capsys.readouterr()
    assert "a limit is one of" in refused("mine_negatives.py", *flags, "--limits", "copy=0", cwd=tmp_path)
    assert "--depth plays no part" in refused("mine_negatives.py", *flags, "--depth", 3, cwd=tmp_path)
    assert "--limits needs" in refused("mine_negatives.py", "--limits", "copies=0", cwd=tmp_path)
    (tmp_path / "f.jsonl").write_text('{"header": {}}\n')
    assert "no negatives" in refused("mine_negatives.py", *flags, cwd=tmp_path)


def test_a_limit_is_parsed():
    assert check.parse_limit("hubs=.25") == ("hubs", 0.25)
    for text in ("hubs", "hubs=", "hubs=2", "hubs=nan", "nothing=0"):
        with pytest.raises(BadInput):
            check.parse_limit(text)
    assert np.isnan(check.Found(0, 0, ()).share) or check.Found(0, 0, ()).share == 0


def test_what_is_unknown_is_like_nothing_else(made):
    collection, records, look = made
    first = collection.docs.ids[0]
    own = [r for r in records if r["qid"] == records[0]["qid"] and r["doc_id"] != first]
    found = counts(look([*own, own[0] | {"doc_id": "nowhere", "rank": 9}, own[0] | {"doc_id": "lost", "rank": 9}]))
    assert found["unknown"] == 2 and "duplicates" not in found


def test_each_line_of_an_unknown_query_counts_and_each_doc_that_nobody_knows(made, tmp_path):
    collection, records, _ = made
    path = tmp_path / "f.jsonl"
    bare = [record | {"score": None} for record in records]
    exchange.write(path, "flagembedding", bare, collection, "train")
    good = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    foreign = [line | {"query": f"query: {line['query']}", "neg": [f"other {i}" for i in range(3)]} for line in good]
    mixed = good[0] | {"neg": ["another corpus", "and another"], "pos": good[1]["pos"]}
    path.write_text("".join(json.dumps(line) + "\n" for line in [*good, *foreign, mixed]), encoding="utf-8")
    found, _ = check.look(check.read_any(path, "flagembedding", collection), collection, "train")
    assert found["unknown"].count == 3 * len(good) + 2
    assert found["unknown"].of == sum(len(line["neg"]) for line in good) + found["unknown"].count


def test_a_file_for_distillation_is_looked_at_as_it_stands(made, tmp_path):
    collection, records, _ = made
    qid = records[0]["qid"]
    positive, wrong = positive_of(collection, qid), next(r["doc_id"] for r in records if r["qid"] == qid)
    line = {"query_id": qid, "document_ids": [positive, wrong, "nowhere"], "scores": [0.5, 0.9, 0.1]}
    path = tmp_path / "file.jsonl"
    lines = [line, line | {"query_id": "nobody"}]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    found = counts(check.look(check.read_any(path, "distillation", collection), collection, "train")[0])
    assert found["unknown"] == 4 and found["above_positive"] == 1 and "no_score" not in found
