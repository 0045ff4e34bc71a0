"""Collections good and bad, tokens, the order of queries, and batches."""

import dataclasses
import gzip
import json
import re

import numpy as np
import pytest
import torch
from conftest import known_by_text, make_encoder, write_collection

from lib import files
from lib.data import batches, readers
from lib.data import collection as collection_
from lib.data import tokens as tokens_
from lib.evaluation import measures
from lib.files import BadInput
from lib.search.hits import Hits


def line_replaced(number, text):
    """A function of a file's bytes that puts `text` (str or bytes) in place of line `number`."""

    def change(content):
        lines = content.split(b"\n")
        lines[number - 1] = text if isinstance(text, bytes) else text.encode()
        return b"\n".join(lines)

    return change


def appended(text):
    """A function of a file's bytes that puts a line behind them."""
    return lambda content: content + text.encode() + b"\n"


def document(ident, text="some text"):
    """One line of corpus.jsonl."""
    return json.dumps({"_id": ident, "title": "", "text": text})


CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels/train.tsv"
BAD = {
    "no corpus": (CORPUS, None, ["no such file"]),
    "no queries": (QUERIES, None, ["no such file"]),
    "empty corpus": (CORPUS, lambda content: b"", ["is empty"]),
    "empty queries": (QUERIES, lambda content: b"", ["is empty"]),
    "empty qrels": (QRELS, lambda content: b"", ["no judgements"]),
    "only a header": (QRELS, lambda content: b"query-id\tcorpus-id\tscore\n", ["no judgements"]),
    "bad JSON": (CORPUS, line_replaced(5, '{"_id": "c05", "text": '), [":5:", "JSON", "c05"]),
    "bad JSON in queries": (QUERIES, line_replaced(7, "how long?"), [":7:", "JSON", "how long?"]),
    "a list": (CORPUS, line_replaced(5, '["c05", "text"]'), [":5:", "object", '["c05", "text"]']),
    "a string": (QUERIES, line_replaced(1, '"q01"'), [":1:", "object", "q01"]),
    "duplicate id": (CORPUS, line_replaced(9, document("c03")), [":9:", "c03", "line 3"]),
    "duplicate query id": (QUERIES, appended(document("q07")), [":61:", "q07", "line 7"]),
    "numeric id": (CORPUS, line_replaced(12, document(7)), [":12:", " 7", '"7"']),
    "null id": (CORPUS, line_replaced(12, document(None)), [":12:", "null"]),
    "no id": (CORPUS, line_replaced(2, '{"id": "c02", "text": "x"}'), [":2:", "_id", "id, text"]),
    "id with a space": (CORPUS, line_replaced(2, document("c 02")), [":2:", "c 02", "white space"]),
    "id with a tab": (QUERIES, line_replaced(2, document("q\t2")), [":2:", "white space"]),
    "empty id": (CORPUS, line_replaced(2, document("")), [":2:", "''"]),
    "text is a number": (CORPUS, line_replaced(4, document("c04", 12)), [":4:", "c04", "12"]),
    "title is a list": (
        CORPUS,
        line_replaced(4, '{"_id": "c04", "title": ["Bread"], "text": "x"}'),
        [":4:", "c04", "title", "Bread"],
    ),
    "half a surrogate pair": (CORPUS, line_replaced(4, document("c04", "\ud83d")), [":4:", "c04"]),
    "corpus in Latin-1": (
        CORPUS,
        line_replaced(7, '{"_id": "c07", "text": "140 °C"}'.encode("latin-1")),
        [":7:", "UTF-8", "0xb0"],
    ),
    "qrels in Latin-1": (QRELS, line_replaced(3, "q02\tcafé\t1".encode("latin-1")), [":3:", "UTF-8", "0xe9"]),
    "no positive": (QRELS, line_replaced(2, "q01\tc01\t0"), [":2:", "q01", "no positive"]),
    "no header": (QRELS, lambda content: content.split(b"\n", 1)[1], [":1:", "header", "q01"]),
    "TREC qrels": (QRELS, line_replaced(4, "q03 0 c03 1"), [":4:", "fields", "q03 0 c03 1"]),
    "four fields": (QRELS, line_replaced(4, "q03\t0\tc03\t1"), [":4:", "found 4", "q03"]),
    "score is a word": (QRELS, line_replaced(4, "q03\tc03\tyes"), [":4:", "'yes'"]),
    "score is a fraction": (QRELS, line_replaced(4, "q03\tc03\t0.5"), [":4:", "'0.5'"]),
    "judged twice": (QRELS, appended("q03\tc03\t2"), [":46:", "q03", "c03", "line 4"]),
}


@pytest.mark.parametrize("file, change, wanted", BAD.values(), ids=BAD)
def test_bad_collections_are_refused_with_place_and_value(folder, file, change, wanted):
    path = folder / file
    path.unlink() if change is None else path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BadInput) as refused:
        collection_.load_collection(folder).split("train")
    message = str(refused.value)
    assert "\n" not in message and path.name in message
    for part in wanted:
        assert part in message


def test_a_fault_of_one_split_does_not_stop_another(folder):
    (folder / QRELS).write_text("not a header\n")
    collection = collection_.load_collection(folder)
    assert len(collection.split("test"))
    with pytest.raises(BadInput, match="train.tsv:1: no header"):
        collection.split("train")


def compress(path):
    """Put path.gz in its place."""
    with gzip.open(f"{path}.gz", "wb") as out:
        out.write(path.read_bytes())
    path.unlink()


ODD = {
    "an empty doc": (CORPUS, line_replaced(4, document("c04", " ")), "1 docs have neither title nor text: kept.* 4"),
    "a null text": (CORPUS, line_replaced(4, '{"_id": "c04", "text": null}'), "1 docs have neither title nor text"),
    "an empty query": (QUERIES, line_replaced(2, document("q02", "")), "1 queries have neither title nor text"),
    "an unknown query": (QRELS, appended("q99\tc01\t1"), "1 judged queries are not in queries.jsonl: skipped .line 46"),
    "an unknown doc": (QRELS, line_replaced(2, "q01\tc99\t1"), "1 judged docs are not in corpus.jsonl: skipped"),
    "the same twice": (QRELS, appended("q03\tc03\t1"), "1 judgements stand there twice: skipped .line 46"),
}


@pytest.mark.parametrize("file, change, said", ODD.values(), ids=ODD)
def test_what_is_odd_is_used_and_said_once(folder, capsys, file, change, said):
    (folder / file).write_bytes(change((folder / file).read_bytes()))
    for _ in range(2):  # whether checked or from the cache
        collection = collection_.load_collection(folder)
        notes = capsys.readouterr().err.splitlines()
        assert re.search(said, notes[0]) and [f"note: {note}" for note in collection.notes] == notes
    assert len(collection.docs) == 40 and len(collection.split("train")) in (35, 36)
    with pytest.raises(BadInput, match="--strict refuses that"):
        collection_.load_collection(folder, strict=True)


def test_compressed_files_are_read_as_they_are(folder, tiny):
    for path in (folder / CORPUS, folder / QUERIES, folder / QRELS):
        compress(path)
    loaded = collection_.load_collection(folder)
    assert loaded.fingerprint == tiny.fingerprint and loaded.docs.texts() == tiny.docs.texts() and not loaded.notes
    (folder / f"{CORPUS}.gz").write_bytes(b"no gzip")
    with pytest.raises(BadInput, match="corpus.jsonl.gz: cannot be unpacked"):
        collection_.load_collection(folder)


def test_a_compressed_file_that_unpacks_to_more_than_texts_do_is_refused(folder, monkeypatch, cache):
    monkeypatch.setattr(files, "MOST_UNPACKED", 1_000_000)
    text = b"".join(b'{"_id": "d%d", "text": "%s"}\n' % (i, b"x" * 1_000_000) for i in range(30))
    (folder / CORPUS).unlink()
    (folder / f"{CORPUS}.gz").write_bytes(gzip.compress(text))
    with pytest.raises(BadInput, match=r"corpus.jsonl.gz: unpacks to more than [\d,]+ bytes"):
        collection_.load_collection(folder)
    assert not [path for path in cache.rglob("*corpus.jsonl*") if path.stat().st_size > 10_000_000]
    monkeypatch.setattr(files, "MOST_UNPACKED", 40_000_000)  # below it, whatever the ratio
    assert collection_.Texts.load(folder / CORPUS).ids[:2] == ["d0", "d1"]


@pytest.mark.parametrize("score, grade", [("1.0", 1), ("2", 2), ("1e0", 1), ("-1.0", -1)])
def test_whole_scores_may_have_a_point(folder, score, grade):
    path = folder / QRELS.replace("train", "test")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, f"{lines[1].split(chr(9))[0]}\tc39\t{score}"]) + "\n")
    judged = collection_.load_collection(folder).qrels_dict("test")
    assert judged[lines[1].split("\t")[0]]["c39"] == grade


def test_a_doc_that_the_corpus_lacks_is_relevant_and_never_found(folder):
    path = folder / QRELS.replace("train", "test")
    qid, doc, _ = path.read_text().splitlines()[1].split("\t")
    path.write_text(path.read_text() + f"{qid}\tgone\t1\n")
    collection = collection_.load_collection(folder)
    assert collection.qrels_dict("test")[qid] == {doc: 1, "gone": 1}
    row = collection.docs.row_of[doc]
    hits = Hits(np.array([[1.0]] * len(collection.split("test"))), np.array([[row]] * len(collection.split("test"))))
    assert measures.score(collection, "test", hits)[qid]["recall@10"] == 0.5


def test_queries_without_a_relevant_doc_are_left_out_of_means(folder):
    path = folder / QRELS.replace("train", "test")
    qid, doc, _ = path.read_text().splitlines()[1].split("\t")
    before = collection_.load_collection(folder)
    path.write_text(path.read_text().replace(f"{qid}\t{doc}\t1", f"{qid}\t{doc}\t0"))
    after = collection_.load_collection(folder)
    assert len(after.split("test")) == len(before.split("test")) - 1 and qid not in after.qrels_dict("test")
    assert "1 queries have no relevant doc: left out" in after.notes[0]


@pytest.mark.parametrize("missing", [["dev"], ["dev", "test"]])
def test_missing_splits_are_cut_off_the_train_split(folder, tiny, missing):
    for split in missing:
        (folder / "qrels" / f"{split}.tsv").unlink()
    assert not set(missing) & collection_.load_collection(folder).qrels.keys()
    collection, again = (collection_.load_collection(folder, cut=("dev", "test")) for _ in range(2))
    parts = [collection.split(split).queries.tolist() for split in ("train", *missing)]
    assert sorted(sum(parts, [])) == tiny.split("train").queries.tolist() and all(parts)
    for split in ("train", *missing):
        np.testing.assert_array_equal(collection.split(split).queries, again.split(split).queries)
        for i, row in enumerate(collection.split(split).queries):
            at = tiny.split("train").queries.tolist().index(row)
            np.testing.assert_array_equal(collection.split(split).positives(i), tiny.split("train").positives(at))
    assert all(f"no {split}.tsv" in note for split, note in zip(missing, collection.notes))


def test_blank_lines_count_in_line_numbers(folder):
    path = folder / CORPUS
    path.write_bytes(b"\n\n" + line_replaced(5, document("c01"))(path.read_bytes()))
    with pytest.raises(BadInput, match=r"corpus\.jsonl:7: .*c01.* line 3"):
        collection_.load_collection(folder)


@pytest.mark.parametrize("split", ["train", "test"])
def test_judgements_of_other_ids_name_one_of_each_side(folder, split):
    for path in (folder / "qrels").iterdir():
        path.unlink()
    (folder / f"qrels/{split}.tsv").write_text("query-id\tcorpus-id\tscore\n1.0\t2.0\t1\n")
    with pytest.raises(BadInput, match=rf"{split}.tsv: no query has a relevant doc; .* such as 1.0 2.0, .* such as q"):
        collection_.load_collection(folder)


def test_a_folder_without_qrels_is_refused(folder, tmp_path):
    for path in (folder / "qrels").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match="qrels"):
        collection_.load_collection(folder)
    with pytest.raises(BadInput, match="nowhere: no such folder"):
        collection_.load_collection(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda content: b"\xef\xbb\xbf" + content, id="byte order mark"),
        pytest.param(lambda content: content.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"), id="both"),
        pytest.param(lambda content: content.replace(b"\n", b"\n\n"), id="blank lines"),
        pytest.param(lambda content: content.rstrip(b"\n"), id="no newline at the end"),
    ],
)
def test_line_ends_and_marks_are_no_part_of_the_text(folder, tiny, change):
    for path in folder.rglob("*.*"):
        path.write_bytes(change(path.read_bytes()))
    loaded = collection_.load_collection(folder)
    for found, wanted in ((loaded.docs, tiny.docs), (loaded.queries, tiny.queries)):
        assert found.ids == wanted.ids and found.texts() == wanted.texts()
        assert found.record(0) == wanted.record(0)
    for split in collection_.SPLITS:
        assert loaded.qrels_dict(split) == tiny.qrels_dict(split)


def test_tiny_as_it_is(tiny):
    assert (tiny.name, len(tiny.docs), len(tiny.queries)) == ("tiny", 40, 60)
    assert {split: len(tiny.split(split)) for split in collection_.SPLITS} == {"train": 36, "dev": 12, "test": 12}
    assert tiny.docs.text(tiny.docs.row_of["c05"]).startswith("Mayonnaise Mayonnaise is an emulsion")
    assert tiny.docs.text(tiny.docs.row_of["c10"]).startswith("Egg whites")  # no title, no space
    assert tiny.qrels_dict("train")["q04"] == {"c04": 1, "c06": 0}
    with pytest.raises(BadInput, match="no split 'all'"):
        tiny.split("all")


def test_ids_that_look_like_numbers_stay_strings(tiny):
    assert "007" in tiny.docs.ids and "007" in tiny.queries.ids
    assert tiny.docs.record(tiny.docs.row_of["007"])["title"] == "Saffron"
    assert tiny.qrels_dict("test")["007"] == {"h04": 1} and tiny.qrels_dict("test")["q49"] == {"007": 1}


def test_copies_share_a_group(collection):
    for texts in (collection.docs, collection.queries):
        all_texts = texts.texts()
        assert [all_texts.index(text) for text in all_texts] == texts.groups.tolist()
        assert len(set(all_texts)) < len(all_texts)


def test_positives_have_a_grade_of_one_or_more(collection):
    for split, qrels in collection.qrels.items():
        judged = collection.qrels_dict(split)
        for i, row in enumerate(qrels.queries):
            wanted = {doc_id for doc_id, grade in judged[collection.queries.ids[row]].items() if grade >= 1}
            assert {collection.docs.ids[doc] for doc in qrels.positives(i)} == wanted != set()


def test_known_positive_equals_brute_force(collection):
    known = known_by_text(collection)
    random = np.random.default_rng(0)
    queries = random.integers(len(collection.queries), size=200)
    docs = random.integers(-1, len(collection.docs), size=(200, 15))
    wanted = [
        [doc >= 0 and collection.docs.text(doc) in known.get(collection.queries.text(query), ()) for doc in row]
        for query, row in zip(queries, docs)
    ]
    assert (collection.known_positive(queries, docs) == wanted).all() and np.any(wanted)


def test_a_positive_of_another_split_and_a_copy_are_known(tiny):
    asked_in_train = tiny.queries.row_of["q18"]  # q40 asks the same in dev, judged on a12
    rows = np.array([[tiny.docs.row_of["a08"], tiny.docs.row_of["a12"], tiny.docs.row_of["a01"], -1]])
    assert tiny.known_positive(np.array([asked_in_train]), rows).tolist() == [[True, True, False, False]]


def test_the_fingerprint_follows_the_content(folder, tiny):
    assert collection_.load_collection(folder).fingerprint == tiny.fingerprint
    path = folder / "qrels" / "dev.tsv"
    path.write_bytes(path.read_bytes().replace(b"q48\th02", b"q48\th03"))
    assert collection_.load_collection(folder).fingerprint != tiny.fingerprint


# ------------------------------------------------------------------------------------- where they come from


def test_a_view_is_a_sequence_of_some_texts(tiny):
    rows = [7, 3, 3, 39, 0]
    view, wanted = tiny.docs.view(rows), tiny.docs.texts(rows)
    assert len(view) == 5 and list(view) == wanted and view[3] == view[-2] == tiny.docs.text(39)
    for part in (slice(1, 4), slice(None), slice(4, 2), slice(None, None, -2)):
        assert list(view[part]) == wanted[part] and len(view[part]) == len(wanted[part])
    assert list(view[1:][1:]) == wanted[2:]
    assert list(tiny.docs.view([])) == []
    with pytest.raises(IndexError):
        view[5]


def test_a_view_reads_only_what_is_asked_for(tiny, monkeypatch):
    read = []
    monkeypatch.setattr(collection_.Texts, "text", lambda texts, row: read.append(int(row)) or "text")
    view = tiny.docs.view(np.arange(30))[10:20]
    assert len(view) == 10 and view.fingerprint and read == []
    assert view[2] == "text" and read == [12]


def test_the_fingerprint_of_a_view_is_that_of_texts_and_order(tiny):
    view = tiny.docs.view([1, 2, 3])
    same = [tiny.docs.view(np.array([1, 2, 3], dtype=np.int32)), tiny.docs.view(range(10))[1:4], view[:]]
    others = [tiny.docs.view([1, 3, 2]), tiny.docs.view([1, 2]), tiny.queries.view([1, 2, 3])]
    assert {found.fingerprint for found in same} == {view.fingerprint}
    assert len({found.fingerprint for found in (view, *others)}) == 4


def test_a_reader_or_a_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(readers.EMBEDDED, "made:small", (lambda spec: ("small", spec), "made up"))
    assert readers.find("made:small") == ("small", "made:small")
    folder = tmp_path / "scifact"
    folder.mkdir()
    (folder / "qrels").mkdir()
    monkeypatch.chdir(folder)
    for spec in (folder, str(folder), f"{folder}/", "."):
        name, found = readers.find(spec)
        assert name == "scifact" and found.resolve() == folder.resolve()


@pytest.mark.parametrize("spec", ["nowhere", "Python"])
def test_what_is_no_collection_is_refused(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as refused:
        readers.find(spec)
    message = str(refused.value)
    assert message.startswith(f"--data {spec}: no such folder") and "\n" not in message
    assert all(name in message for name in readers.EMBEDDED)


# -------------------------------------------------------------------------------------------------- tokens


class CountingEncoder:
    """Tokens are the lengths of words; counts how often it is asked."""

    def __init__(self, key, counts=True):
        self.key, self.counts, self.calls = key, counts, 0

    def token_key(self, kind):
        return self.key

    def tokenize(self, texts, kind):
        self.calls += 1
        ids = [np.array([len(word) for word in text.split()], dtype=np.int32) for text in texts]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in ids])])
        counts = np.arange(offsets[-1], dtype=np.uint16) % 7 if self.counts else None
        return np.concatenate(ids), offsets, counts


@pytest.mark.parametrize("counts", [True, False])
def test_select_equals_slicing_by_hand(counts):
    random = np.random.default_rng(1)
    lengths = random.integers(0, 6, size=30)
    ids = random.integers(1000, size=lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    numbers = random.integers(1, 9, size=len(ids)).astype(np.uint16) if counts else None
    tokens = tokens_.Tokens(ids, offsets, numbers, kind="query")
    assert len(tokens) == 30 and tokens.lengths.tolist() == lengths.tolist()
    for rows in (np.arange(30), np.array([4, 4, 0, 29]), np.array([7]), random.integers(30, size=50)):
        found_ids, found_offsets, found_counts, kind = tokens.select(rows)
        slices = [slice(offsets[row], offsets[row + 1]) for row in rows]
        assert found_ids.tolist() == [i for s in slices for i in ids[s]]
        assert found_offsets.tolist() == [0, *np.cumsum(lengths[rows]).tolist()]
        assert found_ids.dtype == found_offsets.dtype == torch.int32 and kind == "query"
        if counts:
            assert found_counts.tolist() == [n for s in slices for n in numbers[s]]
            assert found_counts.dtype == torch.float32
        else:
            assert found_counts is None


@pytest.mark.parametrize("counts", [True, False])
def test_tokens_are_made_once(tiny, counts):
    encoder = CountingEncoder(f"once {counts}", counts)
    first = tokens_.tokenize(tiny.docs, encoder, "doc")
    assert encoder.calls == 1
    second = tokens_.tokenize(tiny.docs, encoder, "doc")
    assert encoder.calls == 1
    assert first.kind == second.kind == "doc"
    assert (first.ids == second.ids).all() and (first.offsets == second.offsets).all()
    assert (first.counts is None and second.counts is None) if not counts else (first.counts == second.counts).all()
    words = tiny.docs.text(3).split()
    assert second.select(np.array([3]))[0].tolist() == [len(word) for word in words]


def test_another_tokenizer_or_text_makes_other_tokens(tiny):
    encoder = CountingEncoder("first")
    docs = tokens_.tokenize(tiny.docs, encoder, "doc")
    assert len(tokens_.tokenize(tiny.queries, encoder, "query")) == 60 != len(docs)
    encoder.key = "second"
    tokens_.tokenize(tiny.docs, encoder, "doc")
    assert encoder.calls == 3


def test_the_block_of_tokenising_changes_nothing(tiny):
    whole = tokens_.tokenize(tiny.docs, CountingEncoder("whole", counts=False), "doc")
    parts = tokens_.tokenize(tiny.docs, CountingEncoder("parts", counts=False), "doc", block=7)
    assert (whole.ids == parts.ids).all() and (whole.offsets == parts.offsets).all()


def test_static_tokens_are_the_different_tokens_with_counts(tiny):
    encoder = make_encoder(tiny)
    tokens = tokens_.tokenize(tiny.docs, encoder, "doc")
    for row in range(len(tiny.docs)):
        ids, _, counts, _ = tokens.select(np.array([row]))
        encoded = encoder.tokenizer.encode(tiny.docs.text(row), add_special_tokens=False).ids
        assert dict(zip(ids.tolist(), counts.tolist())) == {i: encoded.count(i) for i in encoded}


def test_known_docs_are_a_row_for_each_text_of_a_positive(collection):
    known, text = known_by_text(collection), collection.docs.text
    rows = np.random.default_rng(0).permutation(len(collection.queries))
    for part in (rows, rows[:1], rows[:0], rows[3:9]):
        found = collection.known_docs(part)
        assert found.dtype == np.int32 and found.shape[0] == len(part) and found.shape[1] >= 1
        for row, docs in zip(part, found):
            texts = [text(doc) for doc in docs if doc >= 0]
            assert set(texts) == known.get(collection.queries.text(row), set())
            assert len(texts) == len(set(texts)) and (docs[len(texts) :] == -1).all()


# ------------------------------------------------------------------------------------------------- batches


def test_order_is_a_function_of_seed_and_step():
    order = batches.QueryOrder(36, batch_size=8, seed=3)
    forward = [order.positions(step).tolist() for step in range(12)]
    again = batches.QueryOrder(36, batch_size=8, seed=3)
    assert [again.positions(step).tolist() for step in reversed(range(12))] == forward[::-1]
    other = batches.QueryOrder(36, batch_size=8, seed=4)
    assert [other.positions(step).tolist() for step in range(12)] != forward


@pytest.mark.parametrize("n, batch_size", [(36, 6), (36, 36), (10, 3), (5, 8), (1, 1)])
def test_an_epoch_visits_queries_once(n, batch_size):
    order = batches.QueryOrder(n, batch_size=batch_size, seed=0)
    epochs = []
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        assert {order.epoch(step) for step in steps} == {epoch}
        picks = np.concatenate([order.positions(step) for step in steps])
        assert all(len(order.positions(step)) == min(n, batch_size) for step in steps)
        assert len(set(picks)) == len(picks) == n - n % order.batch_size
        assert set(picks) <= set(range(n))
        epochs.append(picks.tolist())
    if n > 1:
        assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("step, count", [(0, 1), (0, 4), (3, 9), (11, 2)])
def test_upcoming_is_what_the_steps_visit(step, count):
    order = batches.QueryOrder(36, batch_size=5, seed=1)
    wanted = sorted({pick for s in range(step, step + count) for pick in order.positions(s).tolist()})
    assert order.upcoming(step, count).tolist() == wanted


CLUSTERS = np.random.default_rng(0).permutation(np.repeat(np.arange(8), 25))  # of 200 queries


def clustered(**changes):
    return batches.QueryOrder(**({"n": 200, "batch_size": 11, "seed": 3, "clusters": CLUSTERS} | changes))


@pytest.mark.parametrize("epoch", range(4))
def test_batches_are_nearly_of_one_cluster(epoch):
    counts, plain = (
        [
            len(set(CLUSTERS[order.positions(step)].tolist()))
            for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        ]
        for order in (clustered(), clustered(clusters=None))
    )
    assert len(counts) == 18 and max(counts) <= 2 and 1 in counts and min(plain) > 2


def test_clusters_visit_a_query_once_an_epoch_at_most():
    order, seen, whole = clustered(), [], []
    for epoch in range(6):
        picks = [order.positions(step).tolist() for step in range(epoch * 18, epoch * 18 + 18)]
        flat = [pick for batch in picks for pick in batch]
        assert len(set(flat)) == len(flat) == 198 and set(flat) <= set(range(200))
        seen.append({pick for pick in range(200) if pick not in flat})
        whole.append(picks)
    assert len(set(map(frozenset, seen))) > 3  # what is left out changes
    clusters = [[CLUSTERS[batch[0]] for batch in picks] for picks in whole]
    assert clusters[0] != sorted(clusters[0]) and clusters[0] != clusters[1]  # clusters come in no order
    assert order.upcoming(0, 18).tolist() == sorted(pick for batch in whole[0] for pick in batch)


def test_clusters_are_a_function_of_seed_and_epoch():
    forward = [clustered().positions(step).tolist() for step in range(40)]
    again = clustered()
    assert [again.positions(step).tolist() for step in reversed(range(40))] == forward[::-1]
    assert [clustered(seed=4).positions(step).tolist() for step in range(40)] != forward
    longer = clustered(clusters=CLUSTERS.copy())
    assert longer.positions(39).tolist() == forward[39]


def test_one_cluster_is_any_order():
    order = clustered(clusters=np.zeros(200, dtype=np.int32))
    picks = [order.positions(step).tolist() for step in range(18)]
    assert len({pick for batch in picks for pick in batch}) == 198
    assert [sorted(batch) for batch in picks] != [list(range(i * 11, i * 11 + 11)) for i in range(18)]


def test_clusters_of_vectors():
    centres = np.eye(4, 16) * 5
    wanted = np.random.default_rng(0).integers(4, size=60)
    vectors = (centres[wanted] + np.random.default_rng(1).normal(0, 0.1, (60, 16))).astype(np.float32)
    found = batches.cluster_queries(vectors, 4, key="made")
    assert found.shape == (60,) and len(set(zip(found.tolist(), wanted.tolist()))) == 4  # but for their names
    assert batches.cluster_queries(vectors[::-1].copy(), 4, key="made").tolist() == found.tolist()  # it is kept
    assert len(set(batches.cluster_queries(vectors, 2, key="made").tolist())) == 2


def test_drawn_positives(crowded):
    qrels = crowded.split("train")
    picks, seen = np.arange(len(qrels)), [set() for _ in range(len(qrels))]
    for epoch in range(60):
        drawn = batches.draw_positives(qrels, picks, seed=0, epoch=epoch)
        assert (drawn == batches.draw_positives(qrels, picks, seed=0, epoch=epoch)).all()
        assert batches.draw_positives(qrels, picks[4:6], seed=0, epoch=epoch).tolist() == drawn[4:6].tolist()
        for i, doc in enumerate(drawn):
            seen[i].add(int(doc))
    assert seen == [set(qrels.positives(i).tolist()) for i in range(len(qrels))]


def check_batch(collection, query_rows, positives, negatives, queue=None):
    """Make a batch and compare all of it with loops over texts; returns it."""
    whole = batches.make_batch(collection, query_rows, positives, negatives, queue=queue)
    own = len(whole.docs)
    batch = dataclasses.replace(whole, invalid=whole.invalid[:, :own], source=whole.source[:, :own])
    if queue:
        check_queued(collection, whole, *queue)
    known, text = known_by_text(collection), collection.docs.text
    columns = [text(doc) for doc in batch.docs]
    named = [[text(doc) for part in negatives.values() for doc in part[i] if doc >= 0] for i in range(len(query_rows))]
    assert batch.queries.tolist() == query_rows.tolist()
    assert len(columns) == len(set(columns))
    assert set(columns) == {text(doc) for doc in positives}.union(*named)
    assert batch.invalid.shape == batch.source.shape == (len(query_rows), len(columns))
    for i, query in enumerate(query_rows):
        assert columns[batch.labels[i]] == text(positives[i])
        for j, column in enumerate(columns):
            is_known = column in known.get(collection.queries.text(query), ())
            assert batch.invalid[i, j] == (is_known and j != batch.labels[i])
            by = {code for code, part in negatives.items() if any(doc >= 0 and text(doc) == column for doc in part[i])}
            assert batch.source[i, j] in (by or {0})
    return whole


def check_queued(collection, batch, code, queued):
    """The last columns are the queue's: invalid where known to be positive or in the batch itself."""
    known, text, own = known_by_text(collection), collection.docs.text, len(batch.docs)
    assert batch.invalid.shape == batch.source.shape == (len(batch.queries), own + len(queued))
    assert (batch.source[:, own:] == code).all()
    here = {text(doc) for doc in batch.docs}
    for i, query in enumerate(batch.queries):
        suits = known.get(collection.queries.text(query), set())
        assert batch.invalid[i, own:].tolist() == [text(doc) in suits | here for doc in queued]


@pytest.mark.parametrize("seed", range(12))
def test_batches_equal_brute_force(collection, seed):
    random = np.random.default_rng(seed)
    qrels = collection.split("train")
    picks = random.permutation(len(qrels))[: random.integers(1, 14)]
    positives = batches.draw_positives(qrels, picks, seed=seed, epoch=0)
    negatives = {
        code: random.integers(-1, len(collection.docs), size=(len(picks), random.integers(0, 5)))
        for code in random.permutation(np.arange(1, 9))[:2].tolist()
    }
    check_batch(collection, qrels.queries[picks], positives, negatives)
    queued = np.unique(collection.docs.groups[random.integers(len(collection.docs), size=9)])
    check_batch(collection, qrels.queries[picks], positives, negatives, queue=(9, random.permutation(queued)))


def test_the_doc_of_two_sources_is_the_laters(tiny):
    qrels, first, second = tiny.split("train"), np.array([[20, 21]]), np.array([[22, 20]])
    positives = batches.draw_positives(qrels, np.array([0]), seed=0, epoch=0)
    for parts, wanted in (({3: first, 5: second}, 5), ({5: second, 3: first}, 3)):
        batch = check_batch(tiny, qrels.queries[:1], positives, parts)
        codes = {int(doc): int(code) for doc, code in zip(batch.docs, batch.source[0])}
        assert codes == {int(positives[0]): 0, 20: wanted, 21: 3, 22: 5}


def test_in_batch_positives_of_the_same_query_text_are_masked(tiny):
    queries = np.array([tiny.queries.row_of[qid] for qid in ("q18", "q40", "q12")])
    positives = np.array([tiny.docs.row_of[doc_id] for doc_id in ("a08", "a12", "a01")])
    batch = check_batch(tiny, queries, positives, {})
    assert len(batch.docs) == 2 and batch.labels[0] == batch.labels[1] != batch.labels[2]
    assert not batch.invalid.any()  # the shared column is the label of both, a01 is free


def test_other_positives_of_a_query_are_masked(tiny):
    queries = np.array([tiny.queries.row_of[qid] for qid in ("q14", "q19", "q12")])  # a09 answers q14 and q19
    positives = np.array([tiny.docs.row_of[doc_id] for doc_id in ("a03", "a09", "a01")])
    batch = check_batch(tiny, queries, positives, {})
    assert batch.invalid.sum() == 1 and batch.invalid[0, batch.labels[1]]


def test_a_doc_named_twice_is_one_column(tiny):
    row = tiny.docs.row_of
    negatives = {1: np.array([[row["b01"], row["b01"], row["a08"]], [row["a01"], row["a12"], -1]])}
    queries = np.array([tiny.queries.row_of["q01"], tiny.queries.row_of["q12"]])
    batch = check_batch(tiny, queries, np.array([row["c01"], row["a01"]]), negatives)
    assert sorted(batch.docs.tolist()) == sorted(row[doc_id] for doc_id in ("b01", "a08", "c01", "a01"))


def test_missing_negatives_are_ignored(tiny):
    qrels = tiny.split("train")
    positives = batches.draw_positives(qrels, np.arange(4), seed=0, epoch=0)
    nothing = np.full((4, 3), -1)
    batch = check_batch(tiny, qrels.queries[:4], positives, {1: nothing, 2: np.empty((4, 0), dtype=np.int32)})
    bare = batches.make_batch(tiny, qrels.queries[:4], positives, {})
    assert batch.docs.tolist() == bare.docs.tolist() and not batch.source.any()
    assert (batch.labels == bare.labels).all() and (batch.invalid == bare.invalid).all()


def test_a_batch_of_one_query(tiny):
    qrels = tiny.split("train")
    positives = batches.draw_positives(qrels, np.array([0]), seed=0, epoch=0)
    batch = check_batch(tiny, qrels.queries[:1], positives, {1: np.array([[5, 6]])})
    assert batch.invalid.shape == (1, 3) and batch.source.sum() == 2
    assert check_batch(tiny, qrels.queries[:1], positives, {}).docs.tolist() == positives.tolist()


def test_a_known_positive_among_the_negatives_is_masked(tmp_path):
    folder = write_collection(
        tmp_path / "made",
        {"a": "one", "b": "two", "c": "three", "d": "two"},
        {"q": "which?", "r": "what?"},
        {"train": [("q", "a", 1), ("q", "b", 2), ("r", "c", 1)]},
    )
    made = collection_.load_collection(folder)
    batch = check_batch(made, np.array([0, 1]), np.array([0, 2]), {4: np.array([[3], [1]])})  # d copies b
    assert batch.docs.tolist() == [0, 1, 2]
    assert batch.invalid.tolist() == [[False, True, False], [False, False, False]]


def test_grades_below_that_of_a_relevant_doc_are_judged_and_not_relevant(folder):
    lines = ["query-id\tcorpus-id\tscore", "q1\tc01\t1", "q1\tc02\t2", "q1\tc03\t3", "q2\tc04\t1"]
    queries = collection_.load_collection(folder).queries.ids[:2]
    text = "\n".join(lines).replace("q1", queries[0]).replace("q2", queries[1]) + "\n"
    for split in ("train", "test"):
        (folder / "qrels" / f"{split}.tsv").write_text(text)
    found = collection_.load_collection(f"{folder}:relevant_from=2", quiet=True)
    for split in ("train", "test"):
        assert found.qrels_dict(split) == {queries[0]: {"c01": 0, "c02": 2, "c03": 3}}
    assert any("no relevant doc: left out" in note for note in found.notes)
    assert (
        found.fingerprint
        != collection_.load_collection(folder).fingerprint
        == collection_.load_collection(f"{folder}:relevant_from=1").fingerprint
    )
    assert readers.find(f"{folder}:relevant_from=2") == readers.find(folder)  # what evaluate.py and the check ask
    for wrong in ("0", "x", "1.5", ""):
        with pytest.raises(BadInput, match="relevant_from is the least grade"):
            collection_.load_collection(f"{folder}:relevant_from={wrong}")
