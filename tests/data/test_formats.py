"""Collections in the formats of others: MedQuAD's XML, TREC and MS MARCO, ir_datasets, the hub."""

import collections
import gzip
import json

import pytest

from lib import files
from lib.data import readers
from lib.data.collection import load_collection
from lib.files import BadInput

DOCS = [{"_id": f"D-{i}", "title": f"Title {i}", "text": f"The {i}th doc says {i * i}."} for i in range(30)]
QUERIES = [{"_id": f"{100 + i}", "text": f"what does doc {i} say"} for i in range(30)]
SPLIT = {"train": range(20), "dev": range(20, 25), "test": range(25, 30)}
JUDGED = {
    split: {QUERIES[i]["_id"]: {f"D-{i}": 2, f"D-{(i + 1) % 30}": 0} for i in rows} for split, rows in SPLIT.items()
}


def write_beir(folder):
    (folder / "qrels").mkdir(parents=True)
    for name, records in (("corpus", DOCS), ("queries", QUERIES)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    for split, judged in JUDGED.items():
        lines = [f"{qid}\t{doc}\t{grade}\n" for qid, own in judged.items() for doc, grade in own.items()]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return str(folder)


def qrels_lines(judged):
    return "".join(f"{qid} 0 {doc} {grade}\n" for qid, own in judged.items() for doc, grade in own.items())


def test_a_compressed_line_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_UNPACKED", 1_000_000)
    write_msmarco(tmp_path / "ms")
    with gzip.open(tmp_path / "ms/collection.tsv.gz", "wb") as out:
        for _ in range(30):
            out.write(b"1" * 1_000_000)
    with pytest.raises(BadInput, match=r"collection.tsv.gz: unpacks to more than [\d,]+ bytes, which is more than 200"):
        load_collection(f"trec:{tmp_path}/ms")


def write_msmarco(folder):
    folder.mkdir()
    with gzip.open(folder / "collection.tsv.gz", "wt") as out:
        out.writelines(f"{doc['_id']}\t{doc['title']}\t{doc['text']}\n" for doc in DOCS)
    for split, rows in SPLIT.items():
        own = [QUERIES[i] for i in rows]
        (folder / f"queries.{split}.tsv").write_text("".join(f"{q['_id']}\t{q['text']}\n" for q in own))
        (folder / f"qrels.{split}.tsv").write_text(qrels_lines(JUDGED[split]))
    return f"trec:{folder}"


def write_hub(folder):
    """A repository of the hub as mteb lays it out, with parts by configs."""
    folder.mkdir()
    configs = [("corpus", {"corpus": DOCS}), ("queries", {"queries": QUERIES})]
    rows = {
        split: [{"query-id": q, "corpus-id": d, "score": g} for q, own in judged.items() for d, g in own.items()]
        for split, judged in JUDGED.items()
    }
    card = ["---", "configs:"]
    for config, parts in [*configs, ("default", rows)]:
        card += [f"- config_name: {config}", "  data_files:"]
        for split, records in parts.items():
            (folder / f"{config}-{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
            card += [f"  - split: {split}", f"    path: {config}-{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return f"hf:{folder}"


def write_irds(folder):
    """Datasets of ir_datasets over files in TREC's formats, under an id of their own."""
    package = pytest.importorskip("ir_datasets")
    write_msmarco(folder)
    formats = pytest.importorskip("ir_datasets.formats")

    doc_type = collections.namedtuple("doc_type", "doc_id title text")

    class Records(formats.BaseDocs):
        def docs_iter(self):
            return iter(doc_type(*doc.values()) for doc in DOCS)

    name = f"small-{folder.parent.name}"
    package.registry.register(name, package.Dataset(Records()))
    for split in SPLIT:
        own = package.create_dataset(
            queries_tsv=str(folder / f"queries.{split}.tsv"), qrels_trec=str(folder / f"qrels.{split}.tsv")
        )
        package.registry.register(f"{name}/{split}", own)
    return f"irds:{name}"


@pytest.mark.parametrize("write, package", [(write_msmarco, "json"), (write_hub, "datasets"), (write_irds, "json")])
def test_the_same_collection_through_every_reader_that_can_hold_it(tmp_path, write, package):
    pytest.importorskip(package)
    wanted, found = load_collection(write_beir(tmp_path / "beir")), load_collection(write(tmp_path / "theirs"))
    assert found.docs.fingerprint == wanted.docs.fingerprint
    assert found.queries.ids == wanted.queries.ids and found.queries.texts() == wanted.queries.texts()
    for split in SPLIT:
        assert found.qrels_dict(split) == JUDGED[split]
        assert found.judgements(split) == wanted.judgements(split)


def test_pairs_of_the_hub_are_a_table(tmp_path):
    pytest.importorskip("datasets")
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = [{"anchor": f"question {i}", "positive": f"answer {i // 2}"} for i in range(40)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pairs.jsonl").write_text((folder / "train.jsonl").read_text())
    found, wanted = load_collection(f"hf:{folder}"), load_collection(str(tmp_path / "pairs.jsonl"))
    assert found.fingerprint == wanted.fingerprint and found.name == "pairs"
    said = load_collection(f"hf:{folder}:question=positive,doc=anchor")
    assert said.docs.text(0) == "question 0" and said.queries.text(0) == "answer 0"


OLD = """<top>
<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations that participate in crime.

<narr> Narrative:
A relevant document must name them.

</top>
"""
NEW = '<?xml version="1.0"?><topics task="x"><topic number="301"><title>International Organized Crime</title></topic>'
NEW += "</topics>"
BARE = '<topics><topic number="301">International\nOrganized Crime</topic></topics>'


@pytest.mark.parametrize("text", [OLD, NEW, BARE, "301\tInternational Organized Crime\n"])
@pytest.mark.parametrize("docs", ["sgml", "jsonl", "tsv"])
def test_topics_and_docs_of_every_format(tmp_path, text, docs):
    (tmp_path / "topics.301.txt").write_text(text)
    (tmp_path / "qrels.txt").write_text("301 0 FT-1 1\n301 0 FT-2 0\n")
    if docs == "sgml":
        records = (
            "<DOC>\n<DOCNO> FT-1 </DOCNO>\n<HEADLINE>Crime</HEADLINE>\n<TEXT>\nOne &lt;b&gt; text.\n</TEXT>\n</DOC>\n"
        )
        records += "<DOC>\n<DOCNO>FT-2</DOCNO>\n<F P=100>Two</F> texts\n</DOC>\n"
        (tmp_path / "docs.trec").write_text(records)
    elif docs == "jsonl":
        lines = [{"docid": "FT-1", "title": "Crime", "body": "One text."}, {"id": "FT-2", "contents": "Two texts"}]
        (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    else:
        (tmp_path / "msmarco-docs.tsv").write_text("FT-1\thttp://a\tCrime\tOne text.\nFT-2\t\t\tTwo texts\n")
    found = load_collection(f"trec:{tmp_path}")
    assert found.docs.ids == ["FT-1", "FT-2"] and found.docs.text(1) == "Two texts"
    assert found.docs.text(0).startswith("Crime One")
    assert found.queries.texts() == ["International Organized Crime"]
    assert found.qrels_dict("test") == {"301": {"FT-1": 1, "FT-2": 0}}
    if text == OLD:
        assert found.queries.record(0)["metadata"]["description"] == "Identify organizations that participate in crime."


def test_small_judgements_are_taken_where_there_are_both(tmp_path):
    write_msmarco(tmp_path / "m")
    small = dict(list(JUDGED["dev"].items())[:2])
    (tmp_path / "m" / "qrels.dev.small.tsv").write_text(qrels_lines(small))
    assert load_collection(f"trec:{tmp_path / 'm'}").qrels_dict("dev") == small


def test_grades_may_be_written_with_a_point(tmp_path):
    write_msmarco(tmp_path / "m")
    wanted = load_collection(f"trec:{tmp_path / 'm'}").qrels_dict("dev")
    for path in (tmp_path / "m").glob("qrels*"):
        path.write_text("".join(f"{line}.0\n" for line in path.read_text().splitlines()))
    assert load_collection(f"trec:{tmp_path / 'm'}").qrels_dict("dev") == wanted


BROKEN = {
    "half a grade": ({"qrels.txt": "1 0 1 1.5\n"}, "qrels.txt:1: topic, a number, doc and a whole grade"),
    "no topics": ({"collection.tsv": "1\ta\n", "qrels.txt": "1 0 1 1\n"}, "no file of topics"),
    "no docs": ({"queries.tsv": "1\ta\n", "qrels.txt": "1 0 1 1\n"}, "no file of docs"),
    "no judgements": ({"queries.tsv": "1\ta\n", "collection.tsv": "1\ta\n"}, "no file of qrels"),
    "one column": ({"collection.tsv": "1\n"}, "collection.tsv:1: 1 columns"),
    "twice": ({"collection.tsv": "1\ta\n1\tb\n"}, "collection.tsv:2: the id 1 was used at "),
    "topic without a tab": ({"queries.tsv": "1 a\n"}, "queries.tsv:1: an id, a tab and a text"),
    "topic without a number": ({"topics.xml": "<topics><topic>a</topic></topics>"}, "a <topic> without a number"),
    "no topic": ({"topics.xml": "<a/>"}, "neither <top> nor <topic"),
    "broken xml": ({"topics.xml": "<topics><topic number='1'>"}, "cannot be read as XML"),
    "grade": ({"qrels.txt": "1 0 1 high\n"}, "qrels.txt:1: topic, a number, doc and a whole grade"),
    "two grades": ({"qrels.txt": "1 0 1 1\n1 0 1 2\n"}, "qrels.txt:2: 1 1 was judged otherwise"),
    "not gzip": ({"collection.tsv": None, "collection.tsv.gz": "nothing"}, "cannot be unpacked"),
    "latin-1": ({"collection.tsv": "1\tcaf\xe9\n".encode("latin-1")}, "not UTF-8"),
    "two texts": ({"queries.b.tsv": "1\tanother question\n"}, "the topic 1 has another text here than in"),
    "two docs": ({"collection.b.tsv": "1\ta text\n"}, "the id 1 was used at "),
    "other ids": ({"qrels.txt": "01 0 1 1\n"}, "no topic has judgements (ids such as 1 and 01)"),
    "a grade with two signs": ({"qrels.txt": "1 0 1 --1\n"}, "qrels.txt:1: topic, a number, doc and a whole grade"),
    "a doc that is open": (
        {"collection.tsv": "<DOC><DOCNO>1</DOCNO>\n<DOC><DOCNO>2</DOCNO></DOC>\n"},
        ":1: a doc that does",
    ),
    "no docno": ({"collection.tsv": "<DOC>\n<TEXT>a</TEXT>\n</DOC>\n"}, "collection.tsv:1: a doc without <DOCNO>"),
    "open doc": ({"collection.tsv": "<DOC>\n<DOCNO>1</DOCNO>\na\n"}, "does not end with </DOC>"),
    "empty": ({"collection.tsv": ""}, "the file is empty"),
    "json": ({"collection.tsv": '{"id": "1", "text": 3}\n'}, "an id (_id, id, docid, doc_id) and a text"),
    "white space": ({"collection.tsv": "a b\tc\n"}, "holds white space"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_one_line(tmp_path, name):
    files, message = BROKEN[name]
    whole = {"collection.tsv": "1\ta text\n", "queries.tsv": "1\ta question\n", "qrels.txt": "1 0 1 1\n"}
    if name.startswith("no ") and len(files) == 2:
        whole = {}
    if "topics.xml" in files:
        del whole["queries.tsv"]
    for path, text in (whole | files).items():
        if text is not None:
            (tmp_path / path).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput) as error:
        readers.find(f"trec:{tmp_path}")
    assert message in str(error.value) and "\n" not in str(error.value)


def medquad_file(number, focus, pairs):
    asked = "".join(
        f'<QAPair pid="{i}"><Question qid="{number}-{i}" qtype="symptoms">{q}</Question><Answer>{a}</Answer></QAPair>'
        for i, (q, a) in enumerate(pairs)
    )
    return f'<?xml version="1.0"?><Document id="{number}"><Focus>{focus}</Focus><QAPairs>{asked}</QAPairs></Document>'


def test_medquad_as_it_is_cloned(tmp_path):
    folder = tmp_path / "1_Somewhere_QA"
    folder.mkdir()
    for number in range(20):
        pairs = [
            (f"What is  disease {number} ?", f"It is\n  number {number}."),
            (f"Who has {number}?", "Everybody &amp; me."),
        ]
        pairs += [(f"What about {number}?", "")]
        (folder / f"{number:07}.xml").write_text(medquad_file(number, f"Disease {number}", pairs))
    found = load_collection(f"medquad:{tmp_path}")
    assert found.name == "medquad" and len(found.queries) == 40 and len(found.docs) == 21
    assert found.queries.record(0) == {
        "_id": "q0",
        "text": "What is disease 0 ?",
        "metadata": {"focus": "Disease 0", "qtype": "symptoms"},
    }
    assert found.docs.texts([0, 1]) == ["It is number 0.", "Everybody & me."]
    assert [len(found.split(split)) for split in ("train", "dev", "test")] == [32, 4, 4]
    of = {split: {found.queries.record(r)["metadata"]["focus"] for r in found.split(split).queries} for split in SPLIT}
    assert not of["train"] & of["test"] and not of["train"] & of["dev"]


def test_medquad_that_is_none(tmp_path):
    with pytest.raises(BadInput, match="a clone of MedQuAD is wanted"):
        readers.find(f"medquad:{tmp_path}")
    (tmp_path / "1_A").mkdir()
    (tmp_path / "1_A" / "1.xml").write_text("<Document>")
    with pytest.raises(BadInput, match=r"1\.xml: cannot be read as XML"):
        readers.find(f"medquad:{tmp_path}")


@pytest.mark.parametrize("name, package", [("irds:cranfield", "ir_datasets"), ("hf:mteb/nfcorpus", "datasets")])
def test_what_a_missing_package_says(monkeypatch, name, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(BadInput, match=f"needs the package {package}: pip install"):
        readers.find(name)


def test_ms_marcos_document_files_are_in_the_splits_of_their_names(tmp_path):
    (tmp_path / "msmarco-docs.tsv").write_text("D1\thttp://a\tOne\ttext one\nD2\thttp://b\tTwo\ttext two\n")
    (tmp_path / "msmarco-docs-lookup.tsv").write_text("D1\t0\t0\n")
    for number, part in enumerate(("train", "dev"), 1):
        (tmp_path / f"msmarco-doc{part}-queries.tsv").write_text(f"{number}\ta {part} question\r\n")
        (tmp_path / f"msmarco-doc{part}-qrels.tsv").write_text(f"{number} 0 D{number} 1\n")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "qrels-checkpoint.txt").write_text("1 0 D2 1\n")
    found = load_collection(f"trec:{tmp_path}")
    assert found.qrels_dict("train") == {"1": {"D1": 1}} and found.qrels_dict("dev") == {"2": {"D2": 1}}
    assert set(found.qrels) == {"train", "dev"} and len(found.docs) == 2


def test_train_topics_without_a_positive_are_left_out(tmp_path):
    write_msmarco(tmp_path / "m")
    path = tmp_path / "m" / "qrels.train.tsv"
    path.write_text(path.read_text().replace("100 0 D-0 2", "100 0 D-0 0"))
    found = load_collection(f"trec:{tmp_path / 'm'}")
    assert "100" not in found.qrels_dict("train") and len(found.split("train")) == 19
    dropped = json.loads((found.docs.path.parent / "dropped.json").read_text())
    assert dropped == {"train queries without a positive": ["100"]}


def test_a_repository_with_several_configurations_is_asked_for_one(tmp_path):
    pytest.importorskip("datasets")
    folder = tmp_path / "several"
    folder.mkdir()
    card = ["---", "configs:"]
    for name in ("one", "two"):
        rows = [{"anchor": f"{name} question {i}", "positive": f"{name} answer {i}"} for i in range(40)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        card += [f"- config_name: {name}", "  data_files:", "  - split: train", f"    path: {name}.jsonl"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    with pytest.raises(BadInput, match="which of one, two"):
        readers.find(f"hf:{folder}")
    assert load_collection(f"hf:{folder}:config=two").queries.text(0) == "two question 0"
