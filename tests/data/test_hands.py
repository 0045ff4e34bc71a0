"""What people have in their hands: labelled pairs, files that bring their negatives, spreadsheets, other names."""

import gzip
import json
import shlex

import numpy as np
import pytest
from conftest import write_collection

from lib.data import beir, check, readers
from lib.data.collection import load_collection
from lib.data.formats import table_files
from lib.files import BadInput, read_json
from lib.negatives.formats import exchange
from lib.negatives.sources import Miner

SPLIT = ("train", "train", "dev", "test")


def put(path, rows):
    """Write rows as JSON lines, or a text as it is; the path as a spec."""
    text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return str(path)


def texts_of(collection):
    """{question: {text of a doc: grade}} of all splits."""
    found = {}
    for split in collection.qrels:
        for qid, grades in collection.qrels_dict(split).items():
            docs = {collection.docs.text(collection.docs.row_of[doc]): grade for doc, grade in grades.items()}
            found[collection.queries.text(collection.queries.row_of[qid])] = docs
    return found


def mined(collection, source):
    """{question: texts of the docs that a source proposes for the train split}."""
    found = Miner(collection=collection).mine(source, np.arange(len(collection.split("train"))), None)
    return {
        collection.queries.text(row): [collection.docs.text(doc) for doc in docs if doc >= 0]
        for row, docs in zip(found.queries, found.docs)
    }


# -------------------------------------------------------------------------------------------- labelled pairs

LABELS = {
    "question, answer, label": """question,answer,label,split
how do I cancel?,press cancel twice,1,train
how do I cancel?,it was invented long ago,0,train
how do I clean?,use soap,1,train
how do I clean?,it was invented long ago,0,train
""",
    "query, document, score": """query,document,score,split
how do I cancel?,press cancel twice,2.0,train
how do I cancel?,it was invented long ago,0.0,train
how do I clean?,use soap,1.0,train
how do I clean?,it was invented long ago,0.0,train
""",
    "words": """question,answer,is_relevant,split
how do I cancel?,press cancel twice,True,train
how do I cancel?,it was invented long ago,False,train
how do I clean?,use soap,yes,train
how do I clean?,it was invented long ago,no,train
how do I clean?,never judged,,train
""",
}


@pytest.mark.parametrize("name", LABELS)
def test_a_label_of_0_is_judged_and_not_relevant(tmp_path, name, capsys):
    collection = load_collection(put(tmp_path / "pairs.csv", LABELS[name]))
    best = 2 if "score" in name else 1
    assert texts_of(collection) == {
        "how do I cancel?": {"press cancel twice": best, "it was invented long ago": 0},
        "how do I clean?": {"use soap": 1, "it was invented long ago": 0},
    }
    assert check.numbers(collection)["docs judged and not relevant, train"] == 2
    printed = capsys.readouterr()
    said = printed.out + printed.err
    assert "columns taken: question: " in said and f"label: {name.split(', ')[-1].replace('words', 'is_rel')}" in said
    assert ("rows without a label, left out: 1 (line 6)" in said) == (name == "words")
    for source in ("judged", "file"):
        assert mined(collection, source) == dict.fromkeys(texts_of(collection), ["it was invented long ago"])


def test_the_reported_measure_is_the_true_one(launch, tmp_path):
    rows = [{"question": f"what is thing{i}?", "answer": f"thing{i} is of kind{i % 7}", "label": 1} for i in range(60)]
    for i, row in enumerate(rows[:]):
        wrong = [{"answer": f"{end} thing{i}, what is what?", "label": 0} for end in ("ah", "oh", "uh")]
        rows += [row | each for each in wrong]
    spec = put(tmp_path / "pairs.jsonl", rows)
    assert launch("evaluate.py", "--data", spec, "--retriever", "bm25", cwd=tmp_path) == 0
    collection, total = load_collection(spec), []
    run = [line.split() for line in next((tmp_path / "runs").rglob("run.trec")).read_text().splitlines()]
    for qid in collection.qrels_dict("test"):
        right = collection.queries.text(collection.queries.row_of[qid])
        right = next(row["answer"] for row in rows if row["question"] == right and row["label"])
        ranks = [int(rank) for of, _, doc, rank, *_ in run
                 if of == qid and collection.docs.text(collection.docs.row_of[doc]) == right]  # fmt: skip
        total.append(1 / ranks[0] if ranks and ranks[0] <= 10 else 0)
    found = read_json(next((tmp_path / "runs").rglob("metrics.json")), mean=dict)["mean"]["mrr@10"]
    assert found == pytest.approx(np.mean(total), abs=1e-6) and 0 < found < 0.5  # the wrong ones stand before it


def test_a_score_that_is_no_grade_is_asked_about(tmp_path):
    rows = [{"query": "q1", "answer": f"a{i}", "score": score} for i, score in enumerate((0.9, 0.4, 0.5))]
    spec = put(tmp_path / "scored.jsonl", [row | {"split": "train"} for row in rows])
    with pytest.raises(BadInput, match=r"scored.jsonl:1: score is 0.9, which is no grade .*:relevant_from=.5, or that"):
        load_collection(spec)
    assert texts_of(load_collection(spec + ":relevant_from=.5")) == {"q1": {"a0": 1, "a1": 0, "a2": 1}}
    assert texts_of(load_collection(spec + ":label=")) == {"q1": {"a0": 1, "a1": 1, "a2": 1}}
    for tail, message in (
        ("relevant_from=half", "the least number"),
        ("label=,relevant_from=1", "no column of labels"),
    ):
        with pytest.raises(BadInput, match=message):
            load_collection(f"{spec}:{tail}")
    rows = [{"question": "q1", "answer": f"a{i}", "relevance": i, "split": "train"} for i in range(4)]
    spec = put(tmp_path / "graded.jsonl", rows)
    assert texts_of(load_collection(spec)) == {"q1": {"a0": 0, "a1": 1, "a2": 2, "a3": 3}}
    assert texts_of(load_collection(spec + ":relevant_from=2")) == {"q1": {"a0": 0, "a1": 0, "a2": 1, "a3": 2}}
    votes = put(tmp_path / "votes.csv", "question,answer,score\nq,a,512\nq,b,-3\n")
    with pytest.raises(BadInput, match="votes.csv:2: score is 512, which is no grade"):
        load_collection(votes)


def test_labels_that_are_words_or_contradict(tmp_path, capsys):
    spec = put(tmp_path / "topics.csv", "question,answer,label,split\nq1,a1,billing,train\nq2,a2,shipping,train\n")
    collection = load_collection(spec)
    assert texts_of(collection) == {"q1": {"a1": 1}, "q2": {"a2": 1}}
    assert collection.queries.record(0)["metadata"]["label"] == "billing" and not collection.negatives
    spec = put(tmp_path / "both.csv", "question,answer,label,split\nq1,a1,0,train\nq1,a1,1,train\nq1,a2,0,train\n")
    assert texts_of(load_collection(spec)) == {"q1": {"a1": 1, "a2": 0}}
    assert "judgements that are lower than another of the same" in capsys.readouterr().out
    spec = put(tmp_path / "odd.csv", "question,answer,label\nq1,a1,1\nq1,a2,maybe\n")
    with pytest.raises(BadInput, match="odd.csv:3: label is 'maybe': a number for each doc is wanted"):
        load_collection(spec)


def test_texts_in_brackets_places_and_titles(tmp_path):
    rows = [{"question": "q1", "answer": '[{"a": 1}]', "pos": 3}, {"question": "q2", "answer": "[1]", "pos": 4}]
    found = texts_of(load_collection(put(tmp_path / "t.jsonl", [row | {"split": "train"} for row in rows])))
    assert found == {"q1": {'[{"a": 1}]': 1}, "q2": {"[1]": 1}}
    rows = [{"query": "q", "title": "T", "positive": "p", "negative": "n", "split": "train"}]
    assert texts_of(load_collection(put(tmp_path / "n.jsonl", rows))) == {"q": {"T p": 1, "n": 0}}


def test_a_folder_without_judged_negatives_has_none_to_draw(tmp_path):
    folder = write_collection(tmp_path / "f", {"a": "x", "b": "y"}, {"q": "z"}, {"train": [("q", "a", 1)]})
    with pytest.raises(BadInput, match="--data brings no negatives"):
        mined(load_collection(folder), "file")


def test_a_later_stage_without_judged_negatives_is_refused_before_training(tmp_path, refused):
    docs, queries = ({f"{kind}{i}": f"word{i}" for i in range(9)} for kind in "dq")
    judged = {s: [(f"q{i}", f"d{i}", 1) for i in range(n, n + 3)] for n, s in ((0, "train"), (3, "dev"), (6, "test"))}
    folder = write_collection(tmp_path / "f", docs, queries, judged)
    flags = ("--data", folder, "--dim", 8, "--vocab_size", 300, "--negatives", "in_batch,judged:2@0.9")
    assert "no doc of the train split was judged as not relevant" in refused("train.py", *flags, cwd=tmp_path)
    assert not list((tmp_path / "runs").glob("*"))


# ------------------------------------------------------------------------------- files that bring their negatives

BRING = {
    "triplet": [{"anchor": "q", "positive": "p", "negative": n} for n in ("n1", "n2")],
    "n-tuple": [{"query": "q", "answer": "p", "negative_1": "n1", "negative_2": "n2", "scores": [0.9, 0.5, 0.25]}],
    "lists": [{"query": "q", "positive": ["p"], "negatives": ["n1", "n2"]}],
    "flagembedding": [
        {"query": "q", "pos": ["p"], "neg": ["n1", "n2"], "prompt": "Represent", "type": "normal",
         "pos_scores": [0.9], "neg_scores": [0.5, 0.25]}
    ],
    "dpr": [
        {"question": "q", "answers": [], "positive_ctxs": [{"title": "", "text": "p"}], "negative_ctxs": [],
         "hard_negative_ctxs": [{"title": "", "text": "n1", "passage_id": 7}, {"title": "", "text": "n2"}]}
    ],
    "cornstack": [{"query": "q", "document": "p", "negatives": ["n1", "n2"], "negative_scores": ["0.5", "0.25"]}],
    "tevatron": [
        {"query_id": "1", "query": "q", "positive_passages": [{"docid": "1", "title": "", "text": "p"}],
         "negative_passages": [{"docid": "2", "text": "n1"}, {"docid": "3", "text": "n2"}]}
    ],
    "miner, labelled lists": [{"query": "q", "answer": ["p", "n1", "n2"], "labels": [1, 0, 0]}],
    "miner, labelled pairs": [{"anchor": "q", "positive": t, "label": n} for t, n in (("p", 1), ("n1", 0), ("n2", 0))],
}  # fmt: skip


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("name", BRING)
def test_a_file_that_brings_its_negatives_is_a_collection_with_negatives(tmp_path, name, array):
    rows = [row | {"split": "train"} for row in BRING[name]]
    spec = put(tmp_path / "train.json", json.dumps(rows)) if array else put(tmp_path / "train.jsonl", rows)
    collection = load_collection(spec)
    assert texts_of(collection) == {"q": {"p": 1, "n1": 0, "n2": 0}} and len(collection.docs) == 3
    assert mined(collection, "file") == mined(collection, "judged") == {"q": ["n1", "n2"]}
    assert "negative" not in collection.queries.record(0).get("metadata", {})
    scored = name in ("n-tuple", "flagembedding", "cornstack")
    found = Miner(collection=collection).mine("file", np.arange(1), None)
    np.testing.assert_allclose(found.scores[0], [0.5, 0.25] if scored else [np.nan, np.nan])
    assert (found.positive[0] == np.float32(0.9)) == (name in ("n-tuple", "flagembedding"))
    with pytest.raises(BadInput, match="no row with a question and an answer"):
        load_collection(put(tmp_path / "none.jsonl", [{key: [] for key in rows[0] if key != "split"}]))


def test_scores_that_a_file_brings_teach(tmp_path, capsys):
    found = {}
    for name in ("flagembedding", "triplet"):
        spec = put(tmp_path / f"{name}.jsonl", [row | {"split": "train"} for row in BRING[name]])
        found[name] = Miner(collection=load_collection(spec), needs_teacher=True)
    taught = found["flagembedding"].mine("file", np.arange(1), None)
    np.testing.assert_allclose(taught.teacher[0], [0.5, 0.25])
    np.testing.assert_allclose(taught.teacher_positive, [0.9])
    assert "the scores that --data brings are taken as a teacher's" in capsys.readouterr().out
    with pytest.raises(BadInput, match="--data brings none .pos_scores and neg_scores"):
        found["triplet"].mine("file", np.arange(1), None)


@pytest.mark.parametrize("given", [{"neg_scores": [0.5]}, {"neg_scores": [0.5, "?"]}, {"pos_scores": [0.9, 0.8]}])
def test_scores_that_do_not_fit_their_docs_are_counted(tmp_path, capsys, given):
    row = BRING["flagembedding"][0] | {"split": "train"} | given
    load_collection(put(tmp_path / "train.jsonl", [row]))
    said = "".join(capsys.readouterr())
    assert "scores that are no numbers, or another number than their docs, left out: 1 (line 1)" in said


def test_a_negative_that_is_a_positive_of_its_question_is_none(tmp_path):
    rows = [{"query": "q", "pos": ["p"], "neg": ["n", "p2", "q"]}, {"query": "q", "pos": ["p2"], "neg": []}]
    rows.append({"query": "none", "pos": [], "neg": ["n3"]})
    collection = load_collection(put(tmp_path / "train.jsonl", [row | {"split": "train"} for row in rows]))
    assert texts_of(collection)["q"] == {"p": 1, "n": 0, "p2": 1, "q": 0}
    assert mined(collection, "file") == {"q": ["n"]}  # nor is the question itself
    with pytest.raises(BadInput, match="label is"):
        load_collection(put(tmp_path / "short.jsonl", [{"query": "q", "answer": ["p", "n"], "label": [1, 0, 0]}]))


def test_what_was_mined_from_judgements_is_trained_with_by_the_command_that_is_printed(launch, tmp_path, capsys):
    rows = [{"query": f"q{i} w{i}", "pos": [f"p{i} w{i}"], "neg": [f"n{i} w{i}"]} for i in range(60)]
    assert (
        launch("mine_negatives.py", "--data", put(tmp_path / "t.jsonl", rows), "--sources", "judged", cwd=tmp_path) == 0
    )
    command = shlex.split(capsys.readouterr().out.split("next    python ")[1])
    assert launch(*command, "--dim", 8, "--vocab_size", 200, "--batch_size", 8, "--steps", 3, cwd=tmp_path) == 0
    log = (tmp_path / "runs/t-mined-negatives/metrics.jsonl").read_text().splitlines()
    drawn = next(line["sources"] for line in map(json.loads, log) if line["event"] == "step")
    assert sum(of["negatives"] for name, of in drawn.items() if "file" in name) > 0


def test_it_trains_in_one_step_and_joined(launch, tmp_path):
    rows = [{"query": f"q{i} w{i}", "pos": [f"p{i} w{i}"], "neg": [f"n{i} w{i}", f"m{i}"]} for i in range(60)]
    specs = [put(tmp_path / f"{name}.jsonl", rows) for name in ("one", "two")]
    flags = ("--dim", 8, "--vocab_size", 200, "--batch_size", 8, "--steps", 3)
    for name, data in (("one", specs[:1]), ("both", specs)):
        given = (*flags, "--data", *data, "--negatives", "file:2+judged:1", "--name", name)
        assert launch("train.py", *given, cwd=tmp_path) == 0
        lines = [json.loads(line) for line in (tmp_path / f"runs/{name}/metrics.jsonl").read_text().splitlines()]
        drawn = next(line["sources"] for line in lines if line["event"] == "step")
        assert {"in_batch", "given (file)"} <= set(drawn) and drawn["given (file)"]["negatives"] > 0
    collection = load_collection(readers.JOIN.join(specs))
    assert set(mined(collection, "file")) == set(mined(collection, "judged"))


THEIRS = {
    "dpr": [item | {"hard_negative_ctxs": [{"text": "n1", "passage_id": None}, {"text": "n2", "passage_id": 3}]}
            for item in BRING["dpr"]],
    "dpr, no positive": [
        BRING["dpr"][0] | {"positive_ctxs": [], "hard_negative_ctxs": [{"text": "n1"}, {"text": "n2"}]}
    ],
    "flagembedding": BRING["cornstack"],
    "tevatron": [BRING["tevatron"][0] | {"query_id": "q1", "negative_passages": [{"text": "n1"}, {"docid": 3}]}],
    "tevatron-ids": [{"qid": "q1", "pos": [1], "neg": {"bm25": [2], "dense": [3, 1]}}],
    "st-triplet": [{"query": "q", "answer": "p", "negative": n, "scores": [0.9, 0.5]} for n in ("n1", "n2")],
    "st-ntuple": BRING["n-tuple"],
    "st-pair": BRING["miner, labelled pairs"],
    "st-pair, scores": [{"query": "q", "answer": t, "score": n} for t, n in (("p", 0.9), ("n1", 0.5), ("n2", 0.4))],
    "st-list": BRING["miner, labelled lists"],
    "st-list, scores": [{"query": "q", "answer": ["p", "n1", "n2"], "scores": [0.9, 0.5, 0.25]}],
}  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_negatives_files_without_ids_with_numbers_and_by_place(tmp_path, name):
    docs = {"1": "p", "2": "n1", "3": "n2"}
    collection = load_collection(write_collection(tmp_path / "f", docs, {"q1": "q"}, {"train": [("q1", "1", 1)]}))
    spec, format = put(tmp_path / "theirs.jsonl", THEIRS[name]), name.partition(",")[0]
    found = list(exchange.read(spec, format, collection))
    assert [(record["qid"], record["doc_id"]) for _, record in found] == [("q1", "2"), ("q1", "3")]
    if name in ("flagembedding", "st-triplet", "st-ntuple") or "scores" in name:
        assert found[0][1]["score"] == 0.5


# ------------------------------------------------------------------------------------- splits and odd lines


@pytest.mark.parametrize("name", beir.DEV)
def test_another_name_of_dev(tmp_path, name):
    docs = {f"d{i}": f"doc {i}" for i in range(40)}
    rows = [(f"q{i}", f"d{i}", 1) for i in range(40)]
    qrels = {"train": rows[:30], "test": rows[30:35]}
    folder = write_collection(tmp_path / "f", docs, {f"q{i}": f"query {i}" for i in range(40)}, qrels)
    beir.write_qrels(folder / "qrels" / f"{name}.tsv", {"q36": {"d36": 1}})
    collection = load_collection(folder, cut=("dev", "test"))
    assert list(collection.qrels_dict("dev")) == ["q36"] and len(collection.split("train")) == 30
    beir.write_qrels(folder / "qrels" / "dev.tsv", {"q37": {"d37": 1}})
    with pytest.raises(BadInput, match="are both the dev split"):
        load_collection(folder)
    table = put(tmp_path / "t.csv", f"question,answer,split\nq1,a1,train\nq2,a2,{name}\n")
    assert set(load_collection(table).qrels) == {"train", "dev"}


def test_a_folder_to_test_on_says_how_it_trains_and_does(launch, tmp_path, capsys):
    docs = {f"d{i}": f"doc{i} is about w{i % 9}. It has more." for i in range(60)}
    queries = {f"q{i}": f"what of w{i} doc{i}" for i in range(8)}
    folder = write_collection(tmp_path / "f", docs, queries, {"test": [(f"q{i}", f"d{i}", 1) for i in range(8)]})
    flags = ("--dim", 8, "--vocab_size", 200, "--batch_size", 8, "--steps", 2, "--name", "r")
    assert launch("train.py", "--data", folder, *flags, cwd=tmp_path) == 2
    assert "it has test; --data made:FOLDER trains on queries that are made from its docs" in capsys.readouterr().err
    assert launch("train.py", "--data", f"made:{folder}", *flags, cwd=tmp_path) == 0
    made, own = load_collection(f"made:{folder}"), load_collection(folder)
    assert made.docs.fingerprint == own.docs.fingerprint and made.qrels_dict("test") == own.qrels_dict("test")
    assert len(made.split("train")) + len(made.split("dev")) == 60 and len(made.split("dev")) > 1
    assert made.queries.text(made.queries.row_of["made:d3"]) == "doc3 is about w3."
    with pytest.raises(BadInput, match="without train.tsv is wanted"):
        load_collection(f"made:{tmp_path}")
    judged = (folder / "qrels/test.tsv").rename(folder / "qrels/val.tsv")  # a dev split alone, by another name
    assert load_collection(f"made:{folder}").qrels_dict("dev") == own.qrels_dict("test")
    (folder / "qrels/dev.tsv").write_text(judged.read_text())
    with pytest.raises(BadInput, match="dev.tsv and val.tsv are both the dev split; keep one"):
        load_collection(f"made:{folder}")


def test_a_question_in_two_splits_stays_in_the_first(tmp_path, capsys, monkeypatch):
    lines = ["question,answer,split", "again?,other,test", *(f"q{i},a{i},{SPLIT[i % 4]}" for i in range(20))]
    spec = put(tmp_path / "splits.csv", "\n".join([*lines, "again?,first,train", "q19,x,validation"]) + "\n")
    monkeypatch.setattr("sys.argv", ["check", spec])
    check.main()
    printed = capsys.readouterr().out
    assert "odd     splits: questions of test that are in train too, left out: 1 (line 2, 'again?')" in printed
    assert "odd     splits: questions of test that are in dev too, left out: 1 (line 22, 'q19')" in printed
    found = texts_of(load_collection(spec))
    assert found["again?"] == {"first": 1} and found["q19"] == {"x": 1} and len(load_collection(spec).docs) == 23


MALFORMED = {
    "bad.csv": ('question,answer\nq1,a1,x\nq2,a2\nq3,a,3\nq4,"a" 4\nq5,a5\n', (2, 4, 5)),
    "bad.jsonl": ('{"question": "q", "answer": "a"}\nnothing\n{"question": "q2", "answer": {"a": 1}}\n[]\n', (2, 3, 4)),
    "bad.json": ('[{"question": "q", "answer": "a"}, 3, {"question": "q", "answer": {"a": 1}}]', (2, 3)),
    "split.tsv": ("question\tanswer\tsplit\nq\ta\ttrain\nq\ta\tx\nq\ta\ty\n", (3, 4)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_all_malformed_lines_are_in_one_report(tmp_path, name, capsys, monkeypatch):
    text, wanted = MALFORMED[name]
    spec = put(tmp_path / name, text)
    with pytest.raises(beir.Malformed) as error:
        readers.find(spec)
    assert [int(each.split(":")[1]) for each in sorted(error.value.all)] == list(wanted)
    monkeypatch.setattr("sys.argv", ["check", spec])
    with pytest.raises(SystemExit):
        check.main()
    assert capsys.readouterr().out.count("wrong   ") == len(wanted)
    with pytest.raises(BadInput, match="and 5 more: python -m lib.data.check names all"):
        readers.find(put(tmp_path / "many.csv", "question,answer\n" + "a,b,c\n" * 15))


# ------------------------------------------------------------------------------------------------ other layouts

PAIRS = {"q1": {"a one": 1}, "q2": {"a two": 1}}
TABLE = [("question", "answer", "split"), ("q1", "a one", "train"), ("q2", "a two", "train")]


def as_lines(separator, rows=TABLE, end=""):
    return "".join(separator.join(row) + end + "\r\n" for row in rows)


FILES = {
    "array.json": json.dumps([dict(zip(TABLE[0], row)) for row in TABLE[1:]], indent=1).encode(),
    "packed.csv.gz": gzip.compress(as_lines(",").encode()),
    "packed.json.gz": gzip.compress(json.dumps([dict(zip(TABLE[0], row)) for row in TABLE[1:]]).encode()),
    "sep.csv": ("sep=;\r\n" + as_lines(";")).encode(),
    "sep16.csv": ("\ufeffsep=|\r\n" + as_lines("|")).encode("utf-16-le"),
    "utf16.csv": as_lines("\t").encode("utf-16"),
    "utf16be.tsv": ("\ufeff" + as_lines("\t")).encode("utf-16-be"),
    "comma.csv": as_lines(",", end=",").encode(),
    "commas.csv": as_lines(",", end=",,,").encode(),
    "short.csv": as_lines(",", [(*TABLE[0], "note", "by whom"), *TABLE[1:]]).encode(),
    "quoted.tsv": as_lines("\t", [[f'"{cell}"' for cell in row] for row in TABLE]).encode(),
    "notes.tsv": b'question\tanswer\tsplit\tnote\nq1\ta one\ttrain\t"two\nlines"\nq2\ta two\ttrain\t\n',
    "pandas.csv": as_lines(",", [("", *TABLE[0]), *((str(i), *row) for i, row in enumerate(TABLE[1:]))]).encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_tables_as_programs_write_them(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    collection = load_collection(str(tmp_path / name))
    assert texts_of(collection) == PAIRS and collection.name == name.split(".")[0]


def test_quotes_in_a_tsv_are_letters(tmp_path):
    rows = [TABLE[0], ("q1", '"Open the page first.', "train"), ("q2", 'Always ask the desk"', "train"),
            ('"why" q3', 'say ""no""', "train")]  # fmt: skip
    found = texts_of(load_collection(put(tmp_path / "t.tsv", as_lines("\t", rows))))
    assert found == {
        "q1": {'"Open the page first.': 1},
        "q2": {'Always ask the desk"': 1},
        '"why" q3': {'say ""no""': 1},
    }


def test_squad_and_alpaca(tmp_path):
    answers = {"text": ["308", "three hundred and eight"], "answer_start": [34, 50]}
    rows = [{"id": "5", "title": "Bowl", "context": "gave up 308 points", "question": "how many?", "answers": answers}]
    rows.append({"id": "6", "title": "Bowl", "context": "gave up 308 points", "question": "who?",
                 "answers": {"text": [], "answer_start": []}})  # fmt: skip
    collection = load_collection(put(tmp_path / "squad.jsonl", [row | {"split": "train"} for row in rows]))
    wanted = {"Bowl gave up 308 points": 1}
    assert texts_of(collection) == {"how many?": wanted}, "a passage that answers nothing is no positive"
    assert collection.queries.record(0)["metadata"]["answers"] == answers["text"]
    rows = [{"instruction": "Reply.", "input": f"how {i}?", "output": f"so {i}", "split": "train"} for i in range(3)]
    rows.append({"instruction": "Say hello.", "input": "", "output": "hello", "split": "train"})
    found = texts_of(load_collection(put(tmp_path / "alpaca.jsonl", rows)))
    assert found == {f"Reply. how {i}?": {f"so {i}": 1} for i in range(3)} | {"Say hello.": {"hello": 1}}


# ---------------------------------------------------------------------------------------------------- the hub


def hub(folder, configs):
    """A repository of the hub: {config: {split: rows}}."""
    card = ["---", "configs:"]
    folder.mkdir()
    for config, parts in configs.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in parts.items():
            put(folder / f"{config}-{split}.jsonl", rows)
            card += [f"  - split: {split}", f"    path: {config}-{split}.jsonl"]
    put(folder / "README.md", "\n".join([*card, "---", ""]))
    return f"hf:{folder}"


def test_grades_and_languages_of_the_hub(tmp_path):
    pytest.importorskip("datasets")
    docs, queries = ([{"_id": f"{kind}{i}", "text": f"{kind} {i}"} for i in range(3)] for kind in "dq")

    def judged(*grades):
        return {"train": [{"query-id": "q0", "corpus-id": f"d{i}", "score": g} for i, g in enumerate(grades)]}

    parts = {"corpus": {"corpus": docs}, "queries": {"queries": queries}}
    spec = hub(tmp_path / "floats", parts | {"default": judged(1.0, 0.7, 0.5)})
    with pytest.raises(BadInput, match=r"floats:2: score is 0.7, which is no grade .*relevant_from=.5"):
        load_collection(spec)
    assert load_collection(f"{spec}:relevant_from=.6").qrels_dict("train") == {"q0": {"d0": 1, "d1": 1, "d2": 0}}
    spec = hub(tmp_path / "whole", parts | {"default": judged(2.0, 1.0, 0.0)})
    assert load_collection(spec).qrels_dict("train") == {"q0": {"d0": 2, "d1": 1, "d2": 0}}
    configs = {f"{name}-{part}": rows for name in ("de", "en") for part, rows in parts.items()}
    spec = hub(tmp_path / "multi", configs | {"de-qrels": judged(1), "en-qrels": judged(0, 1)})
    with pytest.raises(BadInput, match="which of de, en. Say hf:.*:config=de"):
        load_collection(spec)
    assert load_collection(f"{spec}:config=de").qrels_dict("train") == {"q0": {"d0": 1}}
    assert load_collection(f"{spec}:config=en").qrels_dict("train") == {"q0": {"d0": 0, "d1": 1}}
    rows = [{"id": "5", "title": "B", "context": "c", "question": "q", "answers": {"text": ["x"], "answer_start": [1]}}]
    (tmp_path / "squad").mkdir()
    put(tmp_path / "squad/train.jsonl", rows)
    put(tmp_path / "squad/validation.jsonl", [rows[0] | {"question": "other"}])
    collection = load_collection(f"hf:{tmp_path}/squad")
    assert set(collection.qrels) == {"train", "dev"} and collection.queries.record(0)["metadata"]["answers"] == ["x"]


def test_a_file_in_squads_own_layout(tmp_path):
    asked = [{"question": f"What is {n}?", "answers": [{"text": f"number {n}", "answer_start": 4}]} for n in range(30)]
    asked.append({"question": "Unanswerable?", "is_impossible": True, "answers": []})
    paragraphs = [{"context": f"The doc number {n} of many.", "qas": [asked[n]]} for n in range(30)]
    paragraphs[3]["qas"].append(asked[30])
    articles = {"version": "2.0", "data": [{"title": "Numbers", "paragraphs": paragraphs}]}
    spec = put(tmp_path / "squad.json", json.dumps(articles, indent=1))
    collection = load_collection(spec, quiet=True)
    assert len(collection.docs) == len(collection.queries) == 30
    record = collection.queries.record(0)
    assert record["text"] == "What is 0?" and record["metadata"]["answers"] == ["number 0"]
    doc = collection.docs.record(0)
    assert (doc["title"], doc["text"]) == ("Numbers", "The doc number 0 of many.")


# ------------------------------------------------------------------------- columns that change what is relevant


def csv_of(tmp_path, header, *rows, name="t.csv"):
    path = tmp_path / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)


LABELLED = {"q one": {"right": 1, "wrong": 0}, "q two": {"good": 1, "wrong": 0}}


@pytest.mark.parametrize("header", ["label", "is_correct", "is_duplicate", "relevance_label", "gold_label", "rel"])
@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("y", "N"), ("pos", "neg"), ("Good", "Bad"), ("100%", "0%"),
                                         ("relevant", "not_relevant")])  # fmt: skip
def test_labels_in_other_words_and_other_columns(tmp_path, header, yes, no):
    rows = [f"q one,right,{yes},train", f"q one,wrong,{no},train", f"q two,good,{yes},train", f"q two,wrong,{no},train"]
    assert texts_of(load_collection(csv_of(tmp_path, f"question,answer,{header},split", *rows))) == LABELLED


def test_a_decimal_comma_is_a_number(tmp_path):
    rows = ["q one;right;1,0;train", "q one;wrong;0,0;train", "q two;good;1,0;train", "q two;wrong;0,0;train"]
    assert texts_of(load_collection(csv_of(tmp_path, "question;answer;score;split", *rows))) == LABELLED
    path = csv_of(
        tmp_path, "question;answer;score;split", "q one;right;0,9;train", "q one;wrong;0,1;train", name="u.csv"
    )
    with pytest.raises(BadInput, match="score is 0.9, which is no grade"):
        load_collection(path)
    assert texts_of(load_collection(f"{path}:relevant_from=.5")) == {"q one": {"right": 1, "wrong": 0}}


def test_words_that_differ_between_the_docs_of_a_question_are_refused(tmp_path):
    path = csv_of(tmp_path, "question,answer,label,split", "q,right,E,train", "q,wrong,I,train", "r,other,E,train")
    with pytest.raises(BadInput, match="t.csv:3: label is 'e' and 'i' for docs of one question.*t.csv:label="):
        load_collection(path)
    assert len(load_collection(f"{path}:label=").queries) == 2
    topic = csv_of(
        tmp_path, "question,answer,label,split", "q,right,billing,train", "r,other,orders,train", name="u.csv"
    )
    assert load_collection(topic).queries.record(0)["metadata"]["label"] == "billing"


def test_a_column_that_looks_like_labels_is_not_passed_over(tmp_path):
    path = csv_of(tmp_path, "question,answer,ok,split", "q,right,1,train", "q,wrong,0,train", "r,other,1,train")
    with pytest.raises(BadInput, match="t.csv:3: ok is 0 and 1 for docs of one question.*say .*:label=ok"):
        load_collection(path)
    assert texts_of(load_collection(f"{path}:label=ok"))["q"] == {"right": 1, "wrong": 0}
    assert texts_of(load_collection(f"{path}:label="))["q"] == {"right": 1, "wrong": 1}
    flag = csv_of(
        tmp_path, "question,answer,vip,split", "q,right,1,train", "q,more,1,train", "r,other,0,train", name="v.csv"
    )
    assert load_collection(flag).queries.record(0)["metadata"]["vip"] == "1"


def test_words_in_label_do_not_hide_the_grades_beside_them(tmp_path):
    path = csv_of(tmp_path, "question,answer,label,relevance,split", "q,a,billing,0,train", "q,b,billing,2,train")
    assert texts_of(load_collection(path)) == {"q": {"a": 0, "b": 2}}


NAMES = "negative1 neg_1 hard_negative_1 negative_passage neg_passages negative_document rejected negative_2".split()


@pytest.mark.parametrize("name", [*NAMES, "negative 1"])
def test_negatives_by_other_names(tmp_path, name):
    rows = [{"query": "q", "positive": "right", name: "wrong", "split": "train"}]
    assert texts_of(load_collection(put(tmp_path / "n.jsonl", rows))) == {"q": {"right": 1, "wrong": 0}}


def test_several_columns_of_positives(tmp_path):
    rows = [{"query": "q", "positive_1": "right", "positive_2": "also", "split": "train"}]
    assert texts_of(load_collection(put(tmp_path / "n.jsonl", rows))) == {"q": {"right": 1, "also": 1}}
    rows = [{"query": "q", "passage": "right", "positive": "another", "split": "train"}]
    assert texts_of(load_collection(put(tmp_path / "m.jsonl", rows))) == {"q": {"right": 1}}


def test_lists_and_objects_as_python_writes_them(tmp_path):
    row = """q one,"['good one', 'good two']","['bad one', ""bad 'two'""]",train"""
    found = texts_of(load_collection(csv_of(tmp_path, "query,pos,neg,split", row)))
    assert found == {"q one": {"good one": 1, "good two": 1, "bad one": 0, "bad 'two'": 0}}
    row = """who?,the passage,"{'text': ['Normandy'], 'answer_start': [3]}",train"""
    found = load_collection(csv_of(tmp_path, "question,context,answers,split", row, name="s.csv"))
    assert found.queries.record(0)["metadata"]["answers"] == ["Normandy"]


def test_cells_that_hold_nothing_are_no_docs(tmp_path):
    rows = [f"q {i},{text},train" for i, text in enumerate(["nan", "None", "#N/A", "right"])]
    assert texts_of(load_collection(csv_of(tmp_path, "question,answer,split", *rows))) == {"q 3": {"right": 1}}


def test_a_text_under_another_key_is_refused(tmp_path):
    folder = write_collection(tmp_path / "b", {"d": "x"}, {"q": "y"}, {"train": [("q", "d", 1)]})
    (folder / "corpus.jsonl").write_text('{"_id": "d", "title": "a page", "body": "its text"}\n')
    with pytest.raises(BadInput, match=r'corpus.jsonl:1: no "text"; the keys are _id, title, body'):
        load_collection(str(folder))


def test_test_queries_that_are_train_queries_are_named(tmp_path, capsys):
    judged = [(f"q{i}", f"d{i}", 1) for i in range(4)]
    texts = [{f"{kind}{i}": f"{kind} of number {i}" for i in range(4)} for kind in "dq"]
    leaking = write_collection(tmp_path / "leak", *texts, {"train": judged, "dev": judged[:1], "test": judged[:3]})
    check.check_parts(load_collection(str(leaking), quiet=True), batch_size=2)
    assert "warning: test" in (said := capsys.readouterr().out) and ": 3 (q0, q1, q2)" in said
    apart = write_collection(tmp_path / "fine", *texts, {"train": judged[2:], "dev": judged[:1], "test": judged[1:2]})
    check.check_parts(load_collection(str(apart), quiet=True), batch_size=2)
    assert "warning" not in capsys.readouterr().out


def test_several_wordings_of_a_question_are_queries_of_their_own(tmp_path):
    rows = [{"question": ["how cancel?", "cancel my order"], "answer": "press it", "split": "train"}]
    found = texts_of(load_collection(put(tmp_path / "p.jsonl", rows)))
    assert found == {"how cancel?": {"press it": 1}, "cancel my order": {"press it": 1}}


def test_passages_in_the_plural_are_the_docs(tmp_path):
    rows = [{"question": "q", "contexts": ["first passage", "second"], "answer": "short", "split": "train"}]
    found = load_collection(put(tmp_path / "p.jsonl", rows))
    assert texts_of(found) == {"q": {"first passage": 1, "second": 1}}
    assert found.queries.record(0)["metadata"]["answers"] == ["short"]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_quotes_behind_backslashes_as_databases_write_them(tmp_path, ending):
    mark = "," if ending == "csv" else "\t"
    lines = [f'"question"{mark}"answer"']
    lines += [f'"what is \\"{i}\\", or a{mark} b?"{mark}"a number\\\\ {i}"' for i in range(30)]
    path = tmp_path / f"f.{ending}"
    path.write_text("\n".join(lines) + "\n")
    wrong = []
    found = [row for _, row in table_files.rows(path, wrong)]
    assert not wrong and len(found) == 30
    assert found[3] == {"question": f'what is "3", or a{mark} b?', "answer": "a number\\ 3"}
