"""What the makers of collections share: files of a clone read strictly, and groups that stay in one split."""

import re

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from lib.data.beir import decode_line, parse_xml, shorten, split_by_hash
from lib.data.words import normalise
from lib.files import BadInput, parse_json, reading


def content(path, *, whole=True):
    """The bytes of a file that has some; whole: its last line has an end, or else the file was cut."""
    with reading(path):
        found = path.read_bytes()
    if not found.strip():
        raise BadInput(f"{path}: the file is empty; is the clone whole?")
    if whole and not found.endswith(b"\n"):
        last = shorten(found.rsplit(b"\n", 1)[-1].decode("utf-8", "replace"))
        raise BadInput(f"{path}: the last line has no end, the file was cut: {last}")
    return found


def lines(path):
    """[text] of the lines of a UTF-8 file; those that are blank are kept, so that places stay what they are."""
    parts = content(path).split(b"\n")[:-1]
    return [decode_line(part, path=path, number=number) for number, part in enumerate(parts, 1)]


def text(path):
    """The text of a UTF-8 file, with single newlines."""
    return "\n".join(lines(path)) + "\n"


def decoded(raw, path):
    """The text of a UTF-8 file's bytes."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 ({error}); is this the right file?") from None


def read_json(path):
    """The value of a JSON file."""
    raw = content(path, whole=False)
    try:
        return parse_json(raw.decode("utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: not valid JSON ({error}); is the file whole?") from None


def read_xml(path):
    """The root element of an XML file."""
    return parse_xml(content(path, whole=False), path)


def read_yaml(path):
    """The value of a YAML file."""
    try:
        import yaml
    except ImportError:
        raise BadInput(f"{path}: YAML needs a reader: pip install pyyaml") from None
    with reading(path, " as YAML"):  # the loader in C: the one in Python takes ten times as long
        return yaml.load(content(path), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def numbered(folder, name):
    """The files of a folder that are called name.format(0), (1) and so on; BadInput if there is none or a gap."""
    there = len(list(folder.glob(re.sub(r"{.*}", "*", name))))
    paths = [folder / name.format(number) for number in range(max(1, there))]
    for path in paths:
        if not path.is_file():
            raise BadInput(f"{path}: no such file; is the clone whole?")
    return paths


class Kin:
    """Names that belong together: whatever is tied, directly or over others, falls into one split."""

    def __init__(self):
        self._above, self._smallest = {}, {}

    def root(self, name):
        """One name that stands for all that are tied to this one."""
        self._above.setdefault(name, name)
        while self._above[name] != name:
            self._above[name] = self._above[self._above[name]]
            name = self._above[name]
        return name

    def tie(self, *names):
        """Tie names to one another."""
        first = self.root(names[0])
        for name in names[1:]:
            self._above[self.root(name)] = first
        self._smallest = {}

    def split(self, name):
        """The split of a name: a hash of the smallest name it is tied to, so that the order of tying plays no part."""
        if not self._smallest:
            for each in list(self._above):
                top = self.root(each)
                self._smallest[top] = min(each, self._smallest.get(top, each))
        return split_by_hash(self._smallest[self.root(name)])


def near_copies(texts, share):
    """Pairs of texts that have more than this share of their pieces of five characters in common (Jaccard).

    Pieces end where words end, so that the order of the words plays no part.
    """
    pieces = CountVectorizer(analyzer="char_wb", ngram_range=(5, 5), binary=True).fit_transform(texts).tocsr()
    counts = np.asarray(pieces.sum(1)).ravel()
    for begin in range(0, len(texts), 500):
        common = (pieces[begin : begin + 500] @ pieces.T).tocoo()
        first, second = common.row + begin, common.col
        alike = common.data > share * (counts[first] + counts[second] - common.data)
        for i, j in zip(first[alike].tolist(), second[alike].tolist()):
            if i < j:
                yield texts[i], texts[j]


def plain(value):
    """A text without its case, punctuation and white space; what has no letters stays itself."""
    return normalise(value) or " ".join(value.split())


def asked(queries, judged, question, doc_ids, split, grade=1, **metadata):
    """Note that docs answer a question: one that is asked again is the same query, and keeps the higher grade.

    queries: {text: record}; judged: {qid: (split, {doc_id: grade})}.
    """
    qid = queries.setdefault(question, {"_id": f"q{len(queries) + 1}", "text": question, "metadata": metadata})["_id"]
    grades = judged.setdefault(qid, (split, {}))[1]
    for doc_id in doc_ids:
        grades[doc_id] = max(grade, grades.get(doc_id, grade))


def made(docs, queries, judged):
    """(docs, queries, judged) as lib.data.beir.write_collection() takes them, of what asked() has filled."""
    return list(docs.values()), list(queries.values()), [(qid, *rest) for qid, rest in judged.items()]
