"""Folders of Markdown, text and HTML files as collections: sections as docs, and queries that are made from them.

Files are cut at their headings, and long sections into pieces of WORDS words that share OVERLAP. A doc's title is the
path of its headings. Nobody has asked these docs anything: the queries of all splits are made from the docs themselves
(the heading and the first sentence, which served better than crops: docs/own-data.md), so that measures on them say how
well a retriever finds a section by its own words, and not how well it answers people.
"""

import html.parser
import os
import pathlib
import re
import urllib.parse

from tqdm import tqdm

from lib.data import beir, made_queries
from lib.data.formats import tables
from lib.files import BadInput, cache_dir, cached, fingerprint, fingerprint_file, write_json

RECIPE = 2  # raise it when the rules below change, so that cached folders are made again
WORDS, OVERLAP, SHORTEST = 200, 40, 5  # words of a piece; shared by two; of a section that is kept
MOST_BYTES = 50_000_000  # of a file
HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.+?)\s*#*\s*$")
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
UNDERLINE = re.compile(r"^ {0,3}(=+|-{2,})\s*$")  # below a line that it makes a heading
NO_TITLE = re.compile(r"^\s*([#>|*+-]|\d+[.)]|$)")


def sections_of_markdown(text):
    """[(line, (headings above, outermost first), text)] of a Markdown text; in code nothing is a heading."""
    lines = text.splitlines()
    for i in range(1, len(lines)):
        under = UNDERLINE.match(lines[i])
        if under and not NO_TITLE.match(lines[i - 1]) and (i == 1 or not lines[i - 2].strip()):
            lines[i - 1 : i + 1] = ["#" * (1 + (under[1][0] == "-")) + " " + lines[i - 1].strip(), ""]
    return _sections(((number, line, HEADING.match(line)) for number, line in enumerate(lines, 1)), fenced=True)


def sections_of_text(text):
    """One section without headings."""
    return [(1, (), text)]


def _sections(lines, *, fenced):
    found, path, begin, body, inside = [], [], 1, [], None

    def close():
        if "".join(body).strip():
            found.append((begin, tuple(title for _, title in path), "\n".join(body).strip()))

    for number, line, heading in lines:
        fence = FENCE.match(line) if fenced else None
        if fence and inside is None:
            inside = fence[1]
        elif fence and fence[1].startswith(inside):  # as long as the one that it closes, or longer
            inside = None
        if heading and not inside:
            close()
            depth = len(heading[1])
            path = [each for each in path if each[0] < depth] + [(depth, heading[2])]
            begin, body = number, []
        else:
            body.append(line)
    close()
    return found


class _Html(html.parser.HTMLParser):
    """The visible text of a page, a heading as a line that begins with # signs."""

    HIDDEN = {"script", "style", "head", "template", "noscript", "nav", "svg"}
    BLOCKS = {"p", "div", "li", "br", "tr", "section", "article", "pre", "ul", "ol", "table", "blockquote", "dd", "dt"}

    def __init__(self):
        super().__init__()
        self.lines, self._hidden, self._heading = [[1, ""]], 0, 0

    def handle_starttag(self, tag, attributes):
        if tag == "body" or re.fullmatch("h[1-6]", tag):  # what was left open above has ended
            self._hidden = 0
        self._hidden += tag in self.HIDDEN
        if re.fullmatch("h[1-6]", tag):
            self._heading = int(tag[1])
            self.lines.append([self.getpos()[0], "\0" * self._heading])
        elif tag in self.BLOCKS:
            self.lines.append([self.getpos()[0], ""])

    def handle_endtag(self, tag):
        self._hidden = max(0, self._hidden - (tag in self.HIDDEN))
        if re.fullmatch("h[1-6]", tag) or tag in self.BLOCKS:
            self.lines.append([self.getpos()[0], ""])

    def handle_data(self, data):
        if not self._hidden:
            self.lines[-1][1] += re.sub(r"\s+", " ", data.replace("\0", ""))


def sections_of_html(text):
    """sections_of_markdown() of a page's visible text."""
    page = _Html()
    page.feed(text)
    page.close()
    mark = re.compile("^(\0{1,6})(.*\\S)")
    lines = ((number, line.replace("\0", ""), mark.match(line)) for number, line in page.lines)
    return [
        (number, tuple(" ".join(title.split()) for title in path), body)
        for number, path, body in _sections(lines, fenced=False)
    ]


# suffix -> function that cuts a file of it into sections
KINDS = {
    ".md": sections_of_markdown,
    ".markdown": sections_of_markdown,
    ".txt": sections_of_text,
    ".html": sections_of_html,
    ".htm": sections_of_html,
}


def files_in(folder):
    """The files of KINDS below a folder, in order of their names; hidden ones are left out."""
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            pathlib.Path(base) / n for n in sorted(names) if pathlib.Path(n).suffix.lower() in KINDS and n[0] != "."
        ]
    return sorted(path for path in found if path.is_file())


def build(folder):
    """(name, folder in BEIR layout) of a folder of files; BadInput if there is nothing to read."""
    root = pathlib.Path(folder).resolve()
    files = files_in(root)
    if not files:
        raise BadInput(f"--data {folder}: neither corpus.jsonl nor a file of {', '.join(KINDS)} is in it")
    contents = [(os.fsencode(path.relative_to(root)).hex(), fingerprint_file(path)) for path in files]
    key = fingerprint(contents, RECIPE, WORDS, OVERLAP)

    def make(target):
        docs, dropped = [], {}
        for path in tqdm(files, unit="file", desc=f"reading {root.name}", delay=2):
            docs += _docs(path, path.relative_to(root), dropped)
        if not docs:
            raise BadInput(f"--data {folder}: {len(files)} files, and no section of {SHORTEST} words or more")
        for what, names in dropped.items():
            tqdm.write(
                f"note: {folder}: {what}, left out: {len(names):,} ({', '.join(names[:5])}{' ...' * (len(names) > 5)})"
            )
        queries, judged = _queries(docs)
        beir.write_collection(target, docs, queries, judged)
        write_json(target / "dropped.json", dropped)

    return root.name, cached(cache_dir("pages", key) / root.name, make, beir.there)


def _percent(match):
    return urllib.parse.quote(match[0])


def _docs(path, name, dropped):
    """The docs of one file."""
    if path.stat().st_size > MOST_BYTES:
        dropped.setdefault(f"files above {MOST_BYTES // 10**6} MB", []).append(str(name))
        return []
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 ({error}); convert it, as with iconv -t utf-8") from None
    found = []
    shown = str(name).encode("utf-8", "replace").decode()  # file systems allow names that no text can hold
    ident = urllib.parse.quote(os.fsencode(name), safe="/") if str(name) != shown else re.sub(r"[\s%]", _percent, shown)
    sections = KINDS[path.suffix.lower()](text)
    if not sections:
        dropped.setdefault("files without a text", []).append(shown)
    for line, headings, body in sections:
        words = body.split()
        if len(words) < SHORTEST:
            dropped.setdefault(f"sections of fewer than {SHORTEST} words", []).append(f"{name}:{line}")
            continue
        for begin in range(0, max(1, len(words) - OVERLAP), WORDS - OVERLAP):
            title = " > ".join(headings) or pathlib.PurePath(shown).stem
            found.append(
                {
                    "_id": f"{ident}#{len(found) + 1}",
                    "title": title,
                    "text": " ".join(words[begin : begin + WORDS]),
                    "metadata": {"name": title, "file": shown, "line": line},
                }
            )
    return found


def _queries(docs):
    """(records of queries, [(qid, split, {doc_id: 1})]): heading and first sentence of each doc; one split a file."""
    queries, judged = [], []
    titles = {}
    for row, doc in enumerate(docs):
        titles.setdefault(doc["title"], []).append(row)
    files = sorted({doc["metadata"]["file"] for doc in docs})
    by_file = len(files) >= 10  # or a split would stay empty
    for row, doc in enumerate(docs):
        split = tables.split_by_hash(doc["metadata"]["file"] if by_file else doc["_id"])
        made = {"first_sentence": made_queries.first_sentence(doc, row)}
        if titles[doc["title"]][0] == row:  # a heading is asked once, and every piece below it answers
            made["heading"] = doc["title"].split(" > ")[-1]
        for kind, text in made.items():
            qid = f"{kind}:{doc['_id']}"
            queries.append({"_id": qid, "text": text, "metadata": {"kind": kind}})
            answers = titles[doc["title"]] if kind == "heading" else [row]
            judged.append((qid, split, {docs[i]["_id"]: 1 for i in answers}))
    return queries, judged
