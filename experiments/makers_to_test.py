"""Collections to test on, from clones of public repositories: a function for each, for public_collections.py.

A maker takes the folder of the clone, and of a second one where it needs that, and returns docs, queries and
judgements. None has a train split.
"""

import html
import re
import tarfile

from experiments.clones import asked, content, decoded, lines, made, read_json, read_xml, text
from lib.files import BadInput, reading

MEDIQA = {"train-alexa": "TrainingSet2-Alexa", "validation": "ValidationSet", "test": "TestSet-wLabels"}
CITED = re.compile(r"^CA\d{6}\b.*\Z", re.M | re.S)  # the card's own number, and behind it numbers of cited cards


def mediqa(clone, more):
    """Medical questions and answers of web pages, graded by physicians.

    An excellent answer has grade 2, a correct and incomplete one 1, a related or wrong one 0: judged and not relevant,
    which are the hard negatives. Three parts of the source share answers, and are therefore one split, test; each
    query's metadata says which part it is of. The part of LiveQA is left out.
    """
    docs, queries, judged = {}, {}, {}
    for part, name in MEDIQA.items():
        path = clone / "MEDIQA_Task3_QA" / f"MEDIQA2019-Task3-QA-{name}.xml"
        root = read_xml(path)
        with reading(path):
            for question in root.iter("Question"):
                asked_for = " ".join(question.findtext("QuestionText").split())
                for answer in question.iter("Answer"):
                    said, score = " ".join(answer.findtext("AnswerText").split()), int(answer.get("ReferenceScore"))
                    if not asked_for or not said or not 1 <= score <= 4:
                        raise BadInput(f"{path}: {answer.get('AID')} has no question, no text or no score from 1 to 4")
                    meta = {"url": answer.findtext("AnswerURL").strip()}
                    doc = docs.setdefault(said, {"_id": f"d{len(docs) + 1}", "text": said, "metadata": meta})
                    asked(queries, judged, asked_for, [doc["_id"]], "test", max(0, score - 2), part=part)
        if not docs:
            raise BadInput(f"{path}: no question with an answer is in it")
    return answered(*made(docs, queries, judged))


def cisi(clone, more):
    """Abstracts of library science, and what 76 of 112 questions were judged to want of them."""
    return _smart(clone / "CISI.ALL", clone / "CISI.QRY", clone / "CISI.REL", doc_column=1)


def med(clone, more):
    """Abstracts of MEDLINE, and 30 questions."""
    folder = clone / "data" / "med"
    return _smart(folder / "MED.ALL", folder / "MED.QRY", folder / "MED.REL", doc_column=2)


def cacm(clone, more):
    """Titles and abstracts of the Communications of the ACM, and 52 of 64 questions, some of them for authors.

    The folder is a clone of anserini, which holds the docs; --more is one of anserini-tools, which holds the rest.
    """
    if more is None:
        raise BadInput("cacm: questions and judgements are in a second repository: --more CLONE_OF_ANSERINI_TOOLS")
    path, docs = clone / "src" / "main" / "resources" / "cacm" / "cacm.tar.gz", []
    content(path, whole=False)
    with reading(path, " as .tar.gz"), tarfile.open(path) as archive:
        for member in archive:
            if not (named := re.fullmatch(r"(CACM-\d+)\.html", member.name)):
                raise BadInput(f"{path}: holds {member.name}, where CACM-NUMBER.html is wanted")
            page = decoded(archive.extractfile(member).read(), path)
            if not (found := re.search(r"<pre>(.*)</pre>", page, re.S)):
                raise BadInput(f"{path}: {member.name} has no <pre> and </pre>: it was cut")
            title, _, rest = html.unescape(CITED.sub("", found[1])).strip().partition("\n\n")
            docs.append({"_id": named[1], "title": " ".join(title.split()), "text": " ".join(rest.split())})
    path = more / "topics" / "topics.cacm.txt"
    topics = text(path)
    found = re.findall(r"<DOC>\s*<DOCNO>\s*(\d+)\s*</DOCNO>(.*?)</DOC>", topics, re.S)
    if not found or topics.count("<DOC>") != len(found):
        raise BadInput(f"{path}: {topics.count('<DOC>')} <DOC>, {len(found)} of them whole: the file was cut")
    queries = [{"_id": ident, "text": " ".join(html.unescape(body).split())} for ident, body in found]
    # judgements write CACM-756 for the doc CACM-0756: without the zero these relevant docs could never be found
    path = more / "qrels" / "qrels.cacm.txt"
    return _judged(docs, queries, path, doc_column=2, named=lambda ident: re.sub(r"(?<=-)\d+", _four_digits, ident))


def cosqa(clone, more):
    """Questions that people typed into a search engine, and the Python function that answers them, docstring and all.

    Dev and test are the official ones, one judged function a question: others may answer it as well. 70 functions are
    relevant on both sides.
    """
    folder, queries, judged = clone / "data" / "search", [], []
    path = folder / "code_idx_map.txt"
    codes = read_json(path)
    with reading(path):
        docs = [{"_id": f"c{number}", "text": code} for code, number in codes.items()]
    for split in ("dev", "test"):
        path = folder / f"cosqa-retrieval-{split}-500.json"
        pairs = read_json(path)
        with reading(path):
            for pair in pairs:
                if codes.get(pair["code"]) != pair["retrieval_idx"]:
                    raise BadInput(f"{path}: the function of {pair['idx']} has another number in code_idx_map.txt")
                queries.append({"_id": pair["idx"], "text": pair["doc"]})
                judged.append((pair["idx"], split, {f"c{pair['retrieval_idx']}": 1}))
    return docs, queries, judged


# ------------------------------------------------------------------------------------------------- what they share


def answered(docs, queries, judged):
    """A collection without the questions of which no doc is relevant: no measure can be taken with them."""
    judged = [row for row in judged if max(row[2].values()) >= 1]
    kept = {qid for qid, _, _ in judged}
    return docs, [query for query in queries if query["_id"] in kept], judged


def _smart(docs, queries, judgements, *, doc_column):
    """A collection in the format of the SMART system: .I begins a record, .T its title, .W its text."""
    # queries and docs are both numbered from 1, and a doc with a query's id would count as the query itself
    found = [
        [
            {"_id": f"{kind}{ident}", "title": fields.get("T", ""), "text": fields["W"]}
            | ({"metadata": {"authors": fields["A"]}} if fields.get("A") else {})
            for ident, fields in _records(path)
        ]
        for kind, path in (("", docs), ("q", queries))
    ]
    return _judged(*found, judgements, doc_column=doc_column, asked_as="q{}".format)


def _records(path):
    """(id, {letter: text}) of each record of a file."""
    found, fields, letter = {}, None, None
    for number, line in enumerate(lines(path), 1):
        if begin := re.fullmatch(r"\.I\s+(\S+)\s*", line):
            fields, letter = {}, None
            if found.setdefault(begin[1], fields) is not fields:
                raise BadInput(f"{path}:{number}: the record {begin[1]} was there already")
        elif fields is not None and re.fullmatch(r"\.[A-Z]\s*", line):
            letter = line[1]
        elif letter:
            fields[letter] = f"{fields.get(letter, '')} {line}"
        elif line.strip():
            raise BadInput(f"{path}:{number}: .I and a number, or . and a letter, are wanted, found {line[:40]!r}")
    for ident, fields in found.items():
        if not fields.get("W", "").strip():
            raise BadInput(f"{path}: the record {ident} has no text (.W): the file was cut")
        yield ident, {letter: " ".join(value.split()) for letter, value in fields.items()}


def _four_digits(found):
    return found[0].zfill(4)


def _judged(docs, queries, path, *, doc_column, named=str, asked_as=str):
    """(docs, queries, judged) by a file with a query's number first and a doc's in another of four columns.

    named, asked_as: the ids of the doc and of the query that the file calls so.
    """
    grades, there, known = {}, {doc["_id"] for doc in docs}, {query["_id"] for query in queries}
    for number, line in enumerate(lines(path), 1):
        fields = line.split()
        if len(fields) != 4 or asked_as(fields[0]) not in known or named(fields[doc_column]) not in there:
            raise BadInput(f"{path}:{number}: a query, a doc and two more columns are wanted, found {line[:60]!r}")
        grades.setdefault(asked_as(fields[0]), {})[named(fields[doc_column])] = 1
    return docs, [q for q in queries if q["_id"] in grades], [(qid, "test", found) for qid, found in grades.items()]
