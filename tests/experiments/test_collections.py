"""Makers of public collections: each from a clone of a few records, whole and broken."""

import io
import itertools
import json
import re
import tarfile

import pytest
from conftest import ROOT

from experiments import makers_to_train
from experiments.clones import Kin, near_copies
from experiments.public_collections import COLLECTIONS, make
from lib.data.beir import metadata_of, split_by_hash
from lib.data.check import LEAK, leaks

SCRIPT = "experiments.public_collections"


def named(split, form="name {}", begin=0):
    """A name that split_by_hash() puts into a split."""
    return next(name for i in itertools.count(begin) if split_by_hash(name := form.format(i)) == split)


def write(path, value):
    """Write a text, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")


# ------------------------------------------------------------------------------------------------- stand-ins


def jaquad(clone):
    """Two train articles, one of them for dev, and one of the official dev side, each with a paragraph."""
    titles = named("train"), named("dev"), named("train", begin=1000)
    for number, (side, title) in enumerate(zip(("train", "train", "dev"), titles)):
        question = {"id": f"q-{number}", "question": f"誰が{number}ですか", "question_type": "Logical reasoning"}
        question["answers"] = [{"text": "手塚", "answer_start": 0, "answer_type": "Person"}]
        article = {"title": title, "paragraphs": [{"context": f"手塚治虫は{number}。\n漫画家。", "qas": [question]}]}
        place = number if side == "train" else 0
        write(clone / f"data/{side}/jaquad_{side}_{place:04}.json", {"version": "0.1", "data": [article]})
    return clone / "data/train/jaquad_train_0000.json"


COMMANDS = {
    "Find all text files": 'find . -name "*.txt"',
    "Search for text  files": 'find . -name "*.txt"',
    "Find all core files below /tmp": 'find /tmp -name "core*"',
    "Show the last 5 lines of log": "sudo tail -n 5 log",
    "Print the working directory": "pwd",
    "print the working directory!": "echo $PWD",
    "Count lines": "wc -l file",
}


def nl2bash(clone):
    """Seven pairs, some of them kin."""
    for kind, texts in (("nl", COMMANDS), ("cm", COMMANDS.values())):
        write(clone / f"data/bash/all.{kind}", "".join(f"{text}\n" for text in texts))
    return clone / "data/bash/all.cm"


PAGE = "# {}\n\n> About {}.\n> More information: <https://example.org>.\n\n{}"


def tldr(clone):
    """Five pages: two share a sentence, four ask for help, one has a template's marks, one is another's name."""
    for name in ("ls", "dir", "rm", "cat"):
        own = (
            f"- [{name[0]}]o what {name} does:\n\n`{name} {{{{path/to/file}}}}`\n\n- Display help:\n\n`{name} --help`\n"
        )
        shared = f"\n- Show all files:\n\n`{name} -a`\n" if name in ("ls", "dir") else ""
        write(clone / f"pages/common/{name}.md", PAGE.format(name, name, own + shared))
    alias = "# ll\n\n> This command is an alias of `ls`.\n\n- View documentation:\n\n`tldr ls`\n"
    write(clone / "pages/linux/ll.md", alias)
    return clone / "pages/common/ls.md"


SENTENCES = [f"Sentence {i} says {' '.join(['something'] * 37)}." for i in range(12)]  # of 40 words


def covidqa(clone):
    """Three articles of twelve sentences; the offset of an answer is wrong, and an answer stands in two chunks."""
    articles = []
    for number in range(3):
        whole = f"Title {number}\n\n" + " ".join(SENTENCES)
        answers = ["Sentence 1 says", " ".join(SENTENCES[2:4])]
        questions = [
            {"id": 10 * number + i, "question": f"Question {i} of {number}?", "is_impossible": False,
             "answers": [{"text": text, "answer_start": whole.index(text) - i}]}
            for i, text in enumerate(answers)
        ]  # fmt: skip
        articles.append({"paragraphs": [{"context": whole, "document_id": number, "qas": questions}]})
    path = clone / "data/question-answering/200423_covidQA.json"
    write(path, {"data": articles})
    return path


def wordnet(clone):
    """An animal, a pest, a dog and a tracking dog, one verb, an adjective and another like it, an adverb."""
    nouns = {
        "1-n": (["animal"], ["a living thing"], None, []),
        "2-n": (["pest"], ["an unwanted animal"], "1-n", ["he sprayed against pests"]),
        "3-n": (["dog", "hound"], ["a domestic animal", "it barks"], "1-n", ["the dog barked"]),
        "4-n": (["dog"], ["a person who follows"], "3-n", []),
    }
    text = ""
    for ident, (members, definitions, above, examples) in nouns.items():
        text += f"{ident}:\n  definition:\n" + "".join(f"  - {line}\n" for line in definitions)
        text += "  example:\n" * bool(examples) + "".join(f"  - {line}\n" for line in examples)
        text += f"  hypernym:\n  - {above}\n" if above else ""
        text += "  members:\n" + "".join(f"  - {line}\n" for line in members) + "  partOfSpeech: n\n"
    write(clone / "src/yaml/noun.animal.yaml", text)
    one = "{}:\n  definition:\n  - {}\n  example:\n  - source: A. Writer\n    text: {}\n{}  members:\n  - {}\n"
    like = "  similar:\n  - 6-a\n"
    write(clone / "src/yaml/verb.body.yaml", one.format("5-v", "to breathe", "he breathed", "", "breathe") + POS["v"])
    able = one.format("6-a", "having the means", "able to swim", "", "able") + POS["a"]
    write(clone / "src/yaml/adj.all.yaml", able + one.format("7-s", "skilled", "a fit man", like, "'no'") + POS["s"])
    write(clone / "src/yaml/adv.all.yaml", one.format("8-r", "with speed", "run fast", "", "fast") + POS["r"])
    return clone / "src/yaml/noun.animal.yaml"


POS = {letter: f"  partOfSpeech: {letter}\n" for letter in "vasr"}


def banking77(clone):
    """Two intents with four train questions each: one for dev, one there twice, one that is also a test question."""
    rows = {"train": [], "test": []}
    for intent in ("card_arrival", "lost_card"):
        form = intent.replace("_", " ") + " {} please"  # as its words are compared, without case and punctuation
        texts = [named("train", form), named("train", form, 50), "Same " + intent, named("dev", form)]
        rows["train"] += [(text, intent) for text in (*texts, texts[0].upper() + "!")]
        rows["test"] += [(f'is "{intent}"\nhere?', intent), (f"same {intent}!", intent)]
    for side, found in rows.items():
        lines = ['"{}",{}\n'.format(text.replace('"', '""'), intent) for text, intent in found]
        write(clone / f"banking_data/{side}.csv", "text,category\n" + "".join(lines))
    write(clone / "banking_data/categories.json", ["card_arrival", "lost_card"])
    return clone / "banking_data/train.csv"


def mediqa(clone):
    """A question for each part, with answers of the scores 1 to 4, and one without a correct answer."""
    for number, name in enumerate(("TrainingSet2-Alexa", "ValidationSet", "TestSet-wLabels", "TrainingSet1-LiveQAMed")):
        text = '<?xml version="1.0" encoding="UTF-8"?>\n<Set>\n'
        for asked, scores in ((f"What is flu {number}?", (2, 4, 3, 1)), (f"Nothing {number}?", (1, 2))):
            text += f'<Question QID="1">\n<QuestionText>{asked}</QuestionText>\n<AnswerList>\n'
            for score in scores:
                said = "shared &amp; good" if score == 4 else f"answer {score} of {number} to {asked}"
                text += f'<Answer AID="a{score}" ReferenceScore="{score}">\n<AnswerURL>http://h/</AnswerURL>\n'
                text += f"<AnswerText>{said}</AnswerText>\n</Answer>\n"
            text += "</AnswerList>\n</Question>\n"
        write(clone / f"MEDIQA_Task3_QA/MEDIQA2019-Task3-QA-{name}.xml", text + "</Set>\n")
    return clone / "MEDIQA_Task3_QA/MEDIQA2019-Task3-QA-ValidationSet.xml"


def smart(folder, stem, judgements):
    """Two docs and two queries in SMART's format, of which one is judged."""
    doc = ".I {0}\n.T\nTitle {0}\n.A\nWriter, A.\n.W\nThe text\nof {0}.\n.X\n1\t5\t1\n"
    write(folder / f"{stem}.ALL", doc.format(1) + doc.format(2).replace("\n", "\r\n"))
    write(
        folder / f"{stem}.QRY", ".I 1\n.W\n what is\n text?\n.I 2\n.T\nTitle\n.A\nB.\n.W\nAnd this?\n.B\n(a paper)\n\n"
    )
    write(folder / f"{stem}.REL", judgements)


def cisi(clone):
    """Two docs, two queries."""
    smart(clone, "CISI", "     1      1\t0\t0.000000\n     1      2\t0\t0.000000\n")
    return clone / "CISI.ALL"


def med(clone):
    """Two docs, two queries."""
    smart(clone / "data/med", "MED", "2 0 1 1\n")
    return clone / "data/med/MED.ALL"


def cacm(clone):
    """Two cards, and at more/ two topics, of which one is judged with a number without its zero."""
    path = clone / "src/main/resources/cacm/cacm.tar.gz"
    path.parent.mkdir(parents=True)
    card = "<html>\n<pre>\n\n\nA Title\nof two lines\n\nText &amp; more.\n\nCACM July, 1966\n\nPerlis, A. J.\n\n"
    with tarfile.open(path, "w:gz") as archive:
        for number in (756, 1410):
            raw = (card + "CA660704 JB March 2, 1978  9:45 PM\n\n1410\t5\t1410\n\n</pre>\n</html>\n").encode()
            info = tarfile.TarInfo(f"CACM-{number:04}.html")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    topic = "<DOC>\n<DOCNO> {} </DOCNO>\n\n\n What is written by Perlis {}?\n\n \n</DOC>\n"
    write(clone / "more/topics/topics.cacm.txt", topic.format(1, "A") + topic.format(2, "B"))
    write(clone / "more/qrels/qrels.cacm.txt", "1 Q0 CACM-1410 1\n1 Q0 CACM-756 1\n")
    return path


def cosqa(clone):
    """Three functions, one of them relevant on both sides."""
    codes = {f'def f{i}():\n    """Do {i}."""': i for i in range(3)}
    for split, numbers in (("dev", (0, 1)), ("test", (1,))):
        pairs = [
            {"idx": f"cosqa-{split}-{n}", "doc": f"how to {split} {n}", "code": list(codes)[n], "retrieval_idx": n}
            for n in numbers
        ]
        write(clone / f"data/search/cosqa-retrieval-{split}-500.json", pairs)
    write(clone / "data/search/code_idx_map.txt", codes)
    return clone / "data/search/cosqa-retrieval-test-500.json"


# name -> (writes a clone and returns the file to break, docs, queries by split)
STAND_INS = {
    "jaquad": (jaquad, 3, {"train": 1, "dev": 1, "test": 1}),
    "nl2bash": (nl2bash, 6, None),
    "tldr": (tldr, 4, None),
    "covidqa": (covidqa, 12, None),
    "wordnet": (wordnet, 8, None),
    "wordnet-examples": (wordnet, 8, None),
    "banking77": (banking77, 4, {"train": 4, "dev": 2, "test": 4}),
    "mediqa": (mediqa, 16, {"test": 3}),
    "cisi": (cisi, 2, {"test": 1}),
    "med": (med, 2, {"test": 1}),
    "cacm": (cacm, 2, {"test": 1}),
    "cosqa": (cosqa, 3, {"dev": 2, "test": 1}),
}


def more(name, clone):
    """The second clone, where there is one."""
    return clone / "more" if name == "cacm" else None


@pytest.fixture
def made(tmp_path):
    """A function that makes the collection of a name from its stand-in."""

    def do(name):
        STAND_INS[name][0](tmp_path / "clone")
        return make(name, tmp_path / "clone", more(name, tmp_path / "clone"), tmp_path / "made" / name)

    return do


def answers(collection):
    """{text of a query: texts of its relevant docs}."""
    found = {}
    for split in collection.qrels:
        for qid, grades in collection.qrels_dict(split).items():
            docs = [collection.docs.text(collection.docs.row_of[doc]) for doc, grade in grades.items() if grade]
            found[collection.queries.text(collection.queries.row_of[qid])] = sorted(docs)
    return found


def split_of(collection):
    """{text of a query: its split}."""
    rows = {split: qrels.queries for split, qrels in collection.qrels.items()}
    return {collection.queries.text(row): split for split, found in rows.items() for row in found}


# ------------------------------------------------------------------------------------------------- whole clones


@pytest.mark.parametrize("name", COLLECTIONS)
def test_from_a_whole_clone(name, made):
    collection, (_, docs, counts) = made(name), STAND_INS[name]
    assert len(collection.docs) == docs
    assert counts is None or {split: len(qrels) for split, qrels in collection.qrels.items()} == counts
    if name != "banking77":  # there a train question is a doc, under the same id
        assert not {*collection.queries.ids} & {*collection.docs.ids}
    assert not collection.notes and not any(LEAK in what for what in leaks(collection))


def test_the_row_that_is_printed(launch, tmp_path, capsys):
    cosqa(tmp_path / "clone")
    assert launch(SCRIPT, "cosqa", "clone", "out", cwd=tmp_path) == 0
    wrote, row, note = capsys.readouterr().out.splitlines()
    assert wrote == "wrote   out/" and re.fullmatch(r"\| cosqa \| 3 \| 0 / 2 / 1 \| `[0-9a-f]{16}` \|", row)
    assert note.startswith("note    not the fingerprint")


def test_every_collection_has_a_docstring_and_rows_in_the_docs():
    page = (ROOT / "docs/collections.md").read_text(encoding="utf-8")
    assert COLLECTIONS.keys() == STAND_INS.keys()
    for name, row in COLLECTIONS.items():
        assert row.function.__doc__ and row.source in page
        assert re.search(rf"^\| {name}( \(kept aside\))? \| [\d,]+ \| .* \| `[0-9a-f]{{16}}` \|$", page, re.M)
        assert f"| {name} | {row.source}, {row.licence} |" in page


def test_jaquad_keeps_answers_and_titles(made):
    record = made("jaquad").queries.record(0)
    assert record["metadata"] == {"title": named("train"), "type": "Logical reasoning", "answers": ["手塚"]}


def test_commands_that_are_alike_are_kin(made):
    collection = made("nl2bash")
    found, split = answers(collection), split_of(collection)
    assert found["Find all text files"] == found["Search for text files"] == ['find . -name "*.txt"']
    assert split["Find all text files"] == split["Search for text files"] == split["Find all core files below /tmp"]
    assert split["Print the working directory"] == split["print the working directory!"]
    utilities = {metadata_of(collection.docs.record(row))["utility"] for row in range(len(collection.docs))}
    assert utilities == {"find", "tail", "pwd", "echo", "wc"}


def test_pages_of_commands(made):
    collection = made("tldr")
    found, split = answers(collection), split_of(collection)
    assert found["ro what rm does"] == ["rm About rm.\nrm path/to/file\nrm --help"]
    assert len(found["Show all files"]) == 2 and "Display help" not in found and "View documentation" not in found
    assert split["lo what ls does"] == split["Show all files"] == split["do what dir does"]


def test_chunks_of_an_article(made):
    collection = made("covidqa")
    found = answers(collection)
    texts = collection.docs.texts()[:4]
    assert [len(text.split()) for text in texts] == [122, 120, 120, 120]
    assert " ".join(texts) == "Title 0 " + " ".join(SENTENCES)
    assert found["Question 0 of 0?"] == [texts[0]] and found["Question 1 of 0?"] == sorted(texts[:2])
    assert metadata_of(collection.docs.record(5)) == {"article": "1", "title": "Title 1", "place": 1}


def test_a_text_without_ends_of_sentences_is_cut():
    spans = makers_to_train.chunks(" ".join(["word"] * 500))
    assert [(end - begin + 1) // 5 for begin, end in spans] == [240, 240, 20]


def test_paths_of_wordnet(made):
    collection = made("wordnet")
    found = answers(collection)
    assert found["a domestic animal; it barks"] == ["dog, hound"] and found["a person who follows"] == ["dog"]
    paths = {
        ident: metadata_of(collection.queries.record(row))["path"] for ident, row in collection.queries.row_of.items()
    }
    assert paths["4-n"] == ["1-n", "3-n", "4-n"] and paths["7-s"] == ["6-a", "7-s"] and paths["8-r"] == ["8-r"]


def test_examples_of_wordnet(made):
    collection = made("wordnet-examples")
    found, split = answers(collection), split_of(collection)
    assert found["he breathed"] == ["to breathe"] and found["the dog barked"] == ["a domestic animal; it barks"]
    assert split["he sprayed against pests"] == split["the dog barked"]  # both stand below the animal


def test_intents(made):
    collection = made("banking77")
    found, split = answers(collection), split_of(collection)
    assert all(len(docs) == (1 if split[text] == "train" else 2) for text, docs in found.items())
    assert all(text not in docs for text, docs in found.items())
    assert "Same lost_card" not in collection.docs.texts() and split["same lost_card!"] == "test"
    assert found['is "lost_card" here?'] == sorted(d for d in collection.docs.texts() if "lost card" in d)


def test_grades_of_physicians(made):
    collection = made("mediqa")
    graded = collection.qrels_dict("test")
    assert [sorted(grades.values()) for grades in graded.values()] == [[0, 0, 1, 2]] * 3
    parts = [metadata_of(collection.queries.record(row))["part"] for row in range(3)]
    assert parts == ["train-alexa", "validation", "test"]
    assert not any("flu 3" in text for text in collection.docs.texts())  # LiveQA's


def test_records_of_smart(made):
    collection = made("cisi")
    assert collection.docs.texts() == ["Title 1 The text of 1.", "Title 2 The text of 2."]
    assert collection.queries.texts() == ["what is text?"]
    assert made("med").queries.texts() == ["Title And this?"]


def test_cards_of_the_acm(made):
    collection = made("cacm")
    assert collection.docs.text(0) == "A Title of two lines Text & more. CACM July, 1966 Perlis, A. J."
    assert collection.qrels_dict("test") == {"1": {"CACM-1410": 1, "CACM-0756": 1}}


# ------------------------------------------------------------------------------------------------- broken ones


def cut(path):
    """Leave two thirds of a file, up to the middle of a line."""
    path.write_bytes(path.read_bytes()[: 2 * path.stat().st_size // 3].rstrip() + b"x")


BREAKS = {"missing": lambda path: path.unlink(), "empty": lambda path: path.write_bytes(b""), "cut": cut}
# of what else a clone consists: it is broken as well
OTHERS = {
    "jaquad": ["data/dev/jaquad_dev_0000.json"],
    "nl2bash": ["data/bash/all.nl"],
    "wordnet": ["src/yaml/adj.all.yaml", "src/yaml/adv.all.yaml"],
    "banking77": ["banking_data/test.csv", "banking_data/categories.json"],
    "cisi": ["CISI.QRY", "CISI.REL"],
    "med": ["data/med/MED.QRY", "data/med/MED.REL"],
    "cacm": ["more/topics/topics.cacm.txt", "more/qrels/qrels.cacm.txt"],
    "cosqa": ["data/search/code_idx_map.txt", "data/search/cosqa-retrieval-dev-500.json"],
}


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_broken_clone_ends_in_one_line(name, how, tmp_path, refused):
    if (name, how) == ("tldr", "missing"):
        pytest.skip("one page of thousands: the fingerprint tells")
    whole = STAND_INS[name][0](tmp_path / "whole")
    for number, other in enumerate([whole.relative_to(tmp_path / "whole"), *OTHERS.get(name, ())]):
        clone = tmp_path / f"clone{number}"
        STAND_INS[name][0](clone)
        BREAKS[how](clone / other)
        flags = ("--more", more(name, clone)) if more(name, clone) else ()
        error = refused(SCRIPT, name, clone, "out", *flags)
        place = (clone / other).parent if name.startswith("wordnet") and how == "missing" else clone / other
        assert str(place) in error, error
        assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "out"))]


def test_files_that_do_not_fit_together(tmp_path, refused):
    nl2bash(tmp_path / "a")
    write(tmp_path / "a/data/bash/all.nl", "one line\n")
    assert "all.nl has 1 lines and all.cm 7" in refused(SCRIPT, "nl2bash", "a", "out")
    path = covidqa(tmp_path / "b")
    write(path, path.read_text(encoding="utf-8").replace('"Sentence 1 says"', '"Nobody says"'))
    assert "the answer 'Nobody says' does not stand in its article" in refused(SCRIPT, "covidqa", "b", "out")
    path = wordnet(tmp_path / "c")
    write(path, path.read_text(encoding="utf-8").replace("  - 1-n\n", "  - 9-n\n", 1))
    assert "2-n stands below 9-n, which no file holds" in refused(SCRIPT, "wordnet", "c", "out")
    write(path, path.read_text(encoding="utf-8").replace("- pest\n", "- no\n"))
    assert "2-n holds False, which YAML does not read as a text" in refused(SCRIPT, "wordnet", "c", "out")
    banking77(tmp_path / "d")
    write(tmp_path / "d/banking_data/categories.json", ["card_arrival"])
    assert "a question and one of the intents are wanted" in refused(SCRIPT, "banking77", "d", "out")
    cosqa(tmp_path / "e")
    write(tmp_path / "e/data/search/code_idx_map.txt", {"def g(): pass": 0})
    assert "has another number in code_idx_map.txt" in refused(SCRIPT, "cosqa", "e", "out")
    cisi(tmp_path / "f")
    write(tmp_path / "f/CISI.REL", "1 3 0 0.0\n")
    assert "CISI.REL:1: a query, a doc and two more columns are wanted" in refused(SCRIPT, "cisi", "f", "out")


def test_what_is_asked_for_wrongly(tmp_path, refused):
    assert "no such folder; a clone of TellinaTool/nl2bash" in refused(SCRIPT, "nl2bash", "nowhere", "out")
    cacm(tmp_path / "clone")
    assert "--more CLONE_OF_ANSERINI_TOOLS" in refused(SCRIPT, "cacm", "clone", "out")
    assert "made from one repository" in refused(SCRIPT, "cosqa", "clone", "out", "--more", "clone")
    assert "is there already" in refused(SCRIPT, "cacm", "clone", "clone")
    assert "jaquad" in refused(SCRIPT, "squad", "clone", "out")


# ------------------------------------------------------------------------------------------------- groups


def test_the_order_of_ties_plays_no_part():
    ties = [("a", "b"), ("c", "d"), ("b", "d"), ("e", "f")]
    found = set()
    for order in itertools.permutations(ties):
        kin = Kin()
        for tie in order:
            kin.tie(*reversed(tie))
        assert kin.root("a") == kin.root("d") != kin.root("e")
        found.add(tuple(kin.split(name) for name in "abcdef"))
    assert found == {(split_by_hash("a"),) * 4 + (split_by_hash("e"),) * 2}


def test_near_copies_share_pieces_whatever_their_order():
    texts = ["find . -mindepth 1 -maxdepth 1", "find . -maxdepth 1 -mindepth 1", "tail the longest logfile", "ls"]
    assert list(near_copies(texts, 0.8)) == [(texts[0], texts[1])]
