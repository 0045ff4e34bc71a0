"""Folders as TREC and MS MARCO give them out: docs, topics and judgements (qrels) in files of their formats.

docs:       collection.tsv (id, text), or with a title (id, title, text), or msmarco-docs.tsv (id, url, title, text);
            JSONL with an id and a text; SGML with <DOC> and <DOCNO>
topics:     queries*.tsv (id, text), JSONL, SGML with <top> and <num>, XML with <topic number="...">
judgements: *qrels*, four columns with white space between: id of the topic, a number, id of the doc, grade

Any of them may be compressed (.gz). Whose judgements a file holds stands in its name: train, dev, val; otherwise it is
the test split; of a split with a small file, that one is taken. Topics are matched by their ids, whatever their file
is called.
"""

import pathlib
import re

from lib.data import beir
from lib.files import BadInput, fingerprint_file

RECIPE = 1  # raise it when the rules below change, so that cached folders are made again
# role -> (what the names of its files or folders hold, such names); the first that fits decides
ROLES = {
    "qrels": (re.compile(r"qrels?", re.I), "qrels.train.tsv, qrels.dev.tsv, qrels.txt"),
    "topics": (re.compile(r"topics|queries", re.I), "queries.dev.tsv, topics.txt, topics.xml"),
    "docs": (
        re.compile(
            r"^(collection|corpus|docs|documents|passages|msmarco[-_]docs(?![-_]lookup))\b|\.(trec|sgml?)$", re.I
        ),
        "collection.tsv, corpus.jsonl, docs.trec",
    ),
}
SPLIT = re.compile(r"(?<![a-z])(?:doc)?(train|dev|val)", re.I)  # in the name of a file of judgements; else test
SUFFIXES = ("", ".tsv", ".txt", ".jsonl", ".json", ".xml", ".trec", ".sgml", ".sgm", ".qrels", ".qrel", ".topics")
IDS = ("_id", "id", "docid", "doc_id", "pid", "qid", "query_id")  # keys of JSONL
TEXTS = ("text", "contents", "body", "passage", "segment", "query", "question")
TITLES = ("title", "headline", "hl")  # elements of a doc


def build(folder):
    """(name, folder in BEIR layout) of a folder of TREC's or MS MARCO's files; BadInput if something is missing."""
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise BadInput(f"--data trec:{folder}: no such folder")
    roles = {role: [] for role in ROLES}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        inside = path.relative_to(root)
        if not any(part.startswith(".") for part in inside.parts) and (role := _role(inside)):
            roles[role].append(path)
    for role, paths in roles.items():
        if not paths:
            raise BadInput(f"--data trec:{folder}: no file of {role} is in it, named as {ROLES[role][1]}")
    key = [(role, str(p.relative_to(root)), fingerprint_file(p)) for role in roles for p in roles[role]]
    return beir.build("trec", root.resolve().name, [key, RECIPE], lambda: _read(folder, root, roles))


def _read(folder, root, roles):
    queries = _queries([path for paths in _by_split(roles["topics"], root).values() for path in paths])
    dropped, judged = {}, []
    for split, paths in _by_split(roles["qrels"], root).items():
        grades = _judgements([path for path in paths if "small" in path.name] or paths)
        if missing := sorted(grades.keys() - queries.keys()):
            dropped[f"topics of {split} without a text"] = missing
        judged += [(qid, split, own) for qid, own in grades.items() if qid in queries]
    if not judged:
        some = [min(ids, default="none") for ids in (queries, dropped.get("topics of test without a text", []))]
        raise BadInput(f"--data trec:{folder}: no topic has judgements (ids such as {some[0]} and {some[1]})")
    return _docs(roles["docs"]), queries.values(), judged, dropped


def _role(path):
    """docs, topics, qrels or None, by the name of a file, or of the folder that it lies in."""
    name = path.name.removesuffix(".gz")
    if pathlib.PurePath(name).suffix.lower() not in SUFFIXES and not re.search(r"\d$", name):
        return None
    for part in (name, *reversed(path.parent.parts)):
        if role := next((role for role, (pattern, _) in ROLES.items() if pattern.search(part)), None):
            return role
    return None


def _by_split(paths, root):
    """{split: its files}, by their names or those of the folders below root that they lie in."""
    found = {split: [] for split in beir.SPLITS}
    for path in paths:
        named = SPLIT.search(path.name) or SPLIT.search("/".join(path.relative_to(root).parts[:-1]))
        split = named[1].lower() if named else "test"
        found["dev" if split == "val" else split].append(path)
    return {split: paths for split, paths in found.items() if paths}


# ------------------------------------------------------------------------------------------------- reading


def _kind(path):
    """jsonl, tags or tsv, by a file's first line."""
    first = next(beir.read_lines(path), None)
    if first is None:
        raise BadInput(f"{path}: the file is empty")
    return {"{": "jsonl", "<": "tags"}.get(first[1].lstrip()[:1], "tsv")


def _record(path, number, ident, title, text):
    record = {"_id": ident.strip(), "title": " ".join(title.split()), "text": text.strip()}
    beir.check_text(record, path=path, number=number)
    return record


def _from_json(path, number, line):
    found = beir.parse_object(line, path=path, number=number)
    ident, text = (next((found[key] for key in keys if key in found), None) for keys in (IDS, TEXTS))
    title = found.get("title") or ""
    if isinstance(ident, int) and not isinstance(ident, bool):
        ident = str(ident)
    if not isinstance(ident, str) or not isinstance(text or title, str) or not isinstance(title, str):
        raise BadInput(f"{path}:{number}: an id ({', '.join(IDS[:4])}) and a text ({', '.join(TEXTS[:3])}) are wanted")
    return _record(path, number, ident, title, text or "")


def _docs(paths):
    """A record of each doc of the files."""
    seen = {}
    for path in paths:
        for number, record in _sgml_docs(path) if (kind := _kind(path)) == "tags" else _line_docs(path, kind):
            place = f"{path}:{number}"
            if (first := seen.setdefault(record["_id"], place)) != place:
                raise BadInput(f"{place}: the id {record['_id']} was used at {first} already")
            yield record
    if not seen:
        raise BadInput(f"{paths[0]}: no doc is in it")


def _line_docs(path, kind):
    for number, line in beir.read_lines(path):
        if kind == "jsonl":
            yield number, _from_json(path, number, line)
            continue
        fields = line.split("\t")
        if not 2 <= len(fields) <= 4:
            raise BadInput(
                f"{path}:{number}: {len(fields)} columns with tabs between; id and text, or id, title and text, or id, "
                "url, title and text are wanted"
            )
        yield number, _record(path, number, fields[0], fields[-2] if len(fields) > 2 else "", fields[-1])


def _sgml_docs(path):
    lines, begin = [], 0
    for number, line in beir.read_lines(path):
        for part in re.split(r"(?<=</doc>)", line, flags=re.I):
            if re.match(r"\s*<doc>", part, re.I):
                if begin:
                    raise BadInput(f"{path}:{begin}: a doc that does not end with </DOC>")
                begin = number
            if begin:
                lines.append(part)
            if begin and re.search(r"</doc>$", part, re.I):
                yield begin, _sgml_doc(path, begin, "\n".join(lines))
                lines, begin = [], 0
    if begin:
        raise BadInput(f"{path}:{begin}: a doc that does not end with </DOC>")


def _sgml_doc(path, begin, body):
    idents, others = _elements(body, "docno")
    if not idents or not idents[0].strip():
        raise BadInput(f"{path}:{begin}: a doc without <DOCNO>")
    texts = {tag: "\n".join(map(_plain, _elements(body, tag)[0])).strip() for tag in (*TITLES, "text")}
    title = next((texts[tag] for tag in TITLES if texts[tag]), "")
    return _record(path, begin, idents[0], title, texts["text"] or _plain(others))


def _elements(text, tag):
    """([what is inside of each element of one name], what is outside), each from its first tag to the next end tag.

    Not one pattern for both tags: that would read to the end of the text once more for each tag that is left open.
    """
    inside, outside = [], []
    *closed, rest = re.split(f"</{tag}>", text, flags=re.I)
    for part in closed:
        before, *after = re.split(f"<{tag}>", part, maxsplit=1, flags=re.I)
        inside += after
        outside.append(before)
    return inside, " ".join([*outside, rest])


def _plain(markup):
    return " ".join(beir.unescape(re.sub(r"<[^>]{0,200}>", " ", markup)).split())


# ------------------------------------------------------------------------------------- topics and judgements


def _queries(paths):
    """{id: record} of the topics of all files; BadInput if two differ."""
    found, place = {}, {}
    for path in paths:
        for qid, record in _topics(path):
            if found.setdefault(qid, record)["text"] != record["text"]:
                raise BadInput(f"{path}: the topic {qid} has another text here than in {place[qid]}")
            place.setdefault(qid, path)
    return found


def _topics(path):
    """(id, record) of each topic of a file; description and narrative are metadata."""
    kind = _kind(path)
    if kind == "tags":
        text = "\n".join(line for _, line in beir.read_lines(path))
        topics = _old_topics(path, text) if re.search(r"<top>", text, re.I) else _xml_topics(path, text)
    elif kind == "jsonl":
        docs = _line_docs(path, kind)
        topics = [(record["_id"], f"{record['title']} {record['text']}", {"line": number}) for number, record in docs]
    else:
        topics = []
        for number, line in beir.read_lines(path):
            ident, tab, text = line.partition("\t")
            if not tab or not text.strip():
                raise BadInput(f"{path}:{number}: an id, a tab and a text are wanted, found {beir.shorten(line)}")
            topics.append((ident, text, {"line": number}))
    for ident, text, meta in topics:
        record = _record(path, meta.pop("line", 1), ident, "", " ".join(text.split()))
        meta = {name: value for name, value in meta.items() if value}
        yield record["_id"], {"_id": record["_id"], "text": record["text"]} | ({"metadata": meta} if meta else {})


LABELS = {"num": "Number", "title": "Topic", "desc": "Description", "narr": "Narrative"}


def _old_topics(path, text):
    """Of the ad hoc tracks: elements end where the next one begins."""
    found = []
    for top in _elements(text, "top")[0]:
        parts = {}
        for name, value in re.findall(r"<(num|title|desc|narr)>(.*?)(?=<|\Z)", top, re.I | re.S):
            name = name.lower()
            parts[name] = " ".join(re.sub(rf"^\s*{LABELS[name]}\s*:", "", value, flags=re.I).split())
        if not parts.get("num") or not (parts.get("title") or parts.get("desc")):
            raise BadInput(f"{path}: a <top> without <num> or without <title>: {beir.shorten(' '.join(top.split()))}")
        meta = {"description": parts.get("desc"), "narrative": parts.get("narr")}
        found.append((parts["num"].split()[0], parts.get("title") or parts["desc"], meta))
    return found


def _xml_topics(path, text):
    """Of later tracks: <topic number="1"> with a query or title, or the text itself."""
    root, found = beir.parse_xml(re.sub(r"^\s*<\?xml[^>]*\?>", "", text), path), []
    for topic in root.iter("topic"):
        parts = {part.tag.lower(): " ".join("".join(part.itertext()).split()) for part in topic}
        ident = topic.get("number") or topic.get("id") or parts.get("number")
        names = ("query", "title", "question", "description")
        asked = next((parts[name] for name in names if parts.get(name)), " ".join((topic.text or "").split()))
        if not ident or not asked:
            raise BadInput(f"{path}: a <topic> without a number or a text: {beir.shorten(''.join(topic.itertext()))}")
        found.append((ident, asked, {name: parts.get(name) for name in ("description", "narrative")}))
    if not found:
        raise BadInput(f'{path}: neither <top> nor <topic number="..."> is in it')
    return found


def _judgements(paths):
    """{qid: {doc_id: grade}} of files of judgements."""
    found = {}
    for path in paths:
        for number, line in beir.read_lines(path):
            fields = line.split()
            if number == 1 and fields[:2] == list(beir.QRELS_HEADER[:2]):  # BEIR's, with a header
                continue
            if len(fields) == 3:
                fields.insert(1, "0")
            if len(fields) != 4 or not re.fullmatch(r"-?[0-9]{1,9}(\.0+)?", fields[3]):
                raise BadInput(
                    f"{path}:{number}: topic, a number, doc and a whole grade are wanted, found {beir.shorten(line)}"
                )
            qid, doc_id, grade = fields[0], fields[2], int(fields[3].partition(".")[0])
            if found.setdefault(qid, {}).setdefault(doc_id, grade) != grade:
                raise BadInput(f"{path}:{number}: {qid} {doc_id} was judged otherwise already; keep one")
    return found
