"""Folders of Markdown, HTML, reStructuredText, text and notebooks: sections as docs, and queries made from them.

Files are cut at their headings, and long sections into pieces of WORDS words that share OVERLAP. A doc's title is the
path of its headings, below the title that a front matter gives; other fields of the front matter are metadata. Nobody
has asked these docs anything: the queries of all splits are made from the docs themselves (the heading and the first
sentence, which served better than crops: docs/own-data.md), so that measures on them say how well a retriever finds a
section by its own words, and not how well it answers people.
"""

import codecs
import collections
import functools
import json
import os
import pathlib
import re
import urllib.parse
from typing import NamedTuple

from tqdm import tqdm

from lib import rng
from lib.data import beir, made_queries
from lib.data.formats import front_matter, rst
from lib.data.formats.html_pages import sections_of_html
from lib.data.formats.markdown_pages import sections_of_markdown
from lib.data.words import UNIT
from lib.files import BadInput, cache_dir, cached, fingerprint, fingerprint_file, write_text

RECIPE = 14  # raise it when the rules below change, so that cached folders are made again
WORDS, OVERLAP, SHORTEST = 200, 40, 5  # words of a piece; shared by two; of a section that is kept
MOST_BYTES = 50_000_000  # of a file
ENOUGH_FILES = 10  # from so many on a split is made of whole files


def sections_of_text(text):
    """One section without headings."""
    return [(1, (), text)]


# suffix -> function that cuts a file of it into sections: (line, headings above, text, perhaps its first paragraph)
KINDS = dict.fromkeys((".md", ".markdown", ".qmd"), sections_of_markdown) | {".txt": sections_of_text}
KINDS |= {".mdx": functools.partial(sections_of_markdown, mdx=True)}
KINDS |= dict.fromkeys((".html", ".htm"), sections_of_html)
KINDS |= {".rst": rst.sections_of_rst, ".ipynb": lambda text: sections_of_markdown(rst.markdown_of_notebook(text))}
BLANK = re.compile(r"\n\s*\n")
BARE = {".txt", ".rst", ".ipynb"}  # of KINDS, those that have no front matter
OTHERS = {".adoc", ".asciidoc", ".doc", ".docx", ".epub", ".odt", ".org", ".pdf", ".ppt", ".pptx", ".rmd"}
OTHERS |= {".rtf", ".tex", ".textile", ".xhtml"}  # suffixes of pages that nothing here reads
ABOUT = {"readme", "license", "licence", "changelog", "citation", "datasheet", "requirements"}
TOOLS = {
    "node_modules",
    "_templates",
    "_static",
    "_build",
    "__pycache__",
    "site-packages",
}  # hold no pages of anybody's
CHARSET = re.compile(rb"""<(?:meta\b[^>]*?\bcharset|\?xml\b[^>]*?\bencoding)\s*=\s*["']?\s*([a-z0-9_:-]+)""", re.I)
# Charsets of pages (Python's other codecs, as punycode and hex, are none), and what browsers read in place of some
CHARSETS = re.compile(
    r"iso-?8859-\d+|windows-\d+|koi8-[ru]|gbk|gb18030|big5(-hkscs)?|euc-jp|euc-kr|iso-2022-jp|cp\d+|latin[2-9]"
)
ALIASES = dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "latin-1", "us-ascii", "ascii"), "windows-1252")
ALIASES |= {"iso-8859-9": "windows-1254", "gb2312": "gb18030", "shift-jis": "cp932"}
ALIASES |= dict.fromkeys(("sjis", "windows-31j", "ms-kanji", "csshiftjis"), "cp932") | {
    "x-gbk": "gbk",
    "ibm866": "cp866",
}
ALIASES |= dict.fromkeys(("ks-c-5601-1987", "windows-949", "ksc5601", "korean"), "cp949") | {"x-euc-jp": "euc-jp"}
ALIASES |= dict.fromkeys(("tis-620", "windows-874", "iso-8859-11"), "cp874") | {"koi8": "koi8-r", "x-sjis": "cp932"}
ALIASES |= {"euc-kr": "cp949", "big5": "big5hkscs", "macintosh": "mac_roman"}


def files_in(folder):
    """(files of KINDS below a folder, links that are not followed, files of OTHERS, folders of TOOLS), by their names,
    no hidden ones.

    A link is followed to a file in the same folder only: what lies elsewhere is not the folder's to give away, and
    folders that hold one another have no end.
    """
    found, links, others, tools, root = [], [], [], [], pathlib.Path(os.path.realpath(folder))
    for base, folders, names in os.walk(folder):
        tools += [pathlib.Path(base) / name for name in folders if name in TOOLS]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in TOOLS)
        for path in (pathlib.Path(base) / name for name in [*folders, *names] if not name.startswith(".")):
            kind = path.suffix.lower() in KINDS
            inside = path.is_file() and pathlib.Path(os.path.realpath(path)).is_relative_to(root)
            if path.is_symlink() and not inside and (kind or not path.is_file()):
                links.append(path)
            elif kind and inside:
                found.append(path)
            elif inside and path.suffix.lower() in OTHERS:
                others.append(path)
    return sorted(found), sorted(links), sorted(others), sorted(tools)


def are_in(folder):
    """Whether pages are in a folder besides those at its top that say what it is."""
    return any(path.stem.lower() not in ABOUT or path.parent != pathlib.Path(folder) for path in files_in(folder)[0])


def build(folder):
    """(name, folder in BEIR layout) of a folder of files; BadInput if there is nothing to read."""
    root = pathlib.Path(folder).resolve()
    files, links, others, tools = files_in(root)
    counts = collections.Counter(path.suffix.lower() for path in others)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    if not files:
        tail = f"; files of kinds that are not read: {kinds}" if kinds else ""
        raise BadInput(f"--data {folder}: neither corpus.jsonl nor a file of {', '.join(KINDS)} is in it{tail}")
    contents = [(os.fsencode(path.relative_to(root)).hex(), fingerprint_file(path)) for path in files]
    left_out = {
        "links to what is not a file of this folder": links,
        f"files of kinds that are not read ({kinds})": others,
        "folders of programs": tools,
    }
    left_out = {what: [_shown(path.relative_to(root)) for path in paths] for what, paths in left_out.items() if paths}
    key = [contents, left_out, RECIPE, WORDS, OVERLAP]
    return beir.build("pages", root.name, key, lambda: _read(folder, root, files, left_out))


def _shown(name):
    """A file's name as a text: file systems allow names that no text can hold."""
    return str(name).encode("utf-8", "replace").decode()


def _read(folder, root, files, dropped):
    """(docs, queries, judgements, dropped) of files; BadInput names all that cannot be read, or says that none is."""
    docs, faults = [], []
    for path in tqdm(files, unit="file", desc=f"reading {root.name}", delay=2):
        try:
            docs += _docs(path, path.relative_to(root), dropped)
        except BadInput as error:
            faults.append(str(error))
    if faults:
        raise beir.Malformed(faults)
    if not docs:
        raise BadInput(f"--data {folder}: {len(files)} files, and no section of {SHORTEST} words or more")
    return [section.doc for section in docs], *_queries(docs), dropped


def _decoded(path):
    """The text of a file: UTF-8, or for HTML the charset that its head names; BadInput if it is neither."""
    content = path.read_bytes()
    named = path.suffix.lower() in (".html", ".htm") and CHARSET.search(content[:4096])
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return content.decode("utf-16", "replace")
    name = named[1].decode().lower().replace("_", "-") if named and not content.startswith(codecs.BOM_UTF8) else ""
    name = ALIASES.get(name, name if CHARSETS.fullmatch(name) else "")
    try:
        return content.decode(name) if name else beir.decode_line(content, path=path, number=1)
    except LookupError:  # a number that no charset has
        return beir.decode_line(content, path=path, number=1)
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}:1: not {name}, the charset that it names ({error}); convert it to UTF-8") from None


def _sections(kind, text):
    """What KINDS[kind] makes of a text, kept: a folder of which one file changes is read in the time of that file."""

    def make(temporary):
        write_text(temporary, json.dumps(KINDS[kind](text)))

    path = cache_dir("sections", fingerprint(RECIPE, kind, text) + ".json")
    found = cached(path, make, lambda path: json.loads(path.read_bytes()))
    return [(line, tuple(headings), *texts) for line, headings, *texts in found]


def _docs(path, name, dropped):
    """The docs of one file."""
    if path.stat().st_size > MOST_BYTES:
        dropped.setdefault(f"files above {MOST_BYTES // 10**6} MB", []).append(str(name))
        return []
    text = _decoded(path)
    above, fields = (), {}
    if path.suffix.lower() not in BARE:
        title, fields, text = front_matter.split(text)
        above = (title,) if title else ()
    found = []
    shown = _shown(name)
    ident = re.sub(r"[\s%]", lambda found: urllib.parse.quote(found[0]), shown)
    if str(name) != shown:
        ident = urllib.parse.quote(os.fsencode(name), safe="/")
    try:
        sections = _sections(path.suffix.lower(), text)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    if not sections:
        dropped.setdefault("files without a text", []).append(shown)
    for line, headings, body, *lead in sections:
        if above and [each.casefold() for each in headings[:1]] != [above[0].casefold()]:
            headings = above + headings
        spans = [unit.span() for unit in UNIT.finditer(body)]
        if len(spans) < SHORTEST:
            dropped.setdefault(f"sections of fewer than {SHORTEST} words", []).append(f"{name}:{line}")
            continue
        headings = headings or (pathlib.PurePath(shown).stem,)
        for begin in range(0, max(1, len(spans) - OVERLAP), WORDS - OVERLAP):
            title, ends = " > ".join(headings), spans[begin : begin + WORDS]
            meta = fields | {"name": title, "file": shown, "line": line}
            doc = {"_id": f"{ident}#{len(found) + 1}", "title": title, "text": body[ends[0][0] : ends[-1][1]]}
            lead = lead if begin == 0 else [""]  # a later piece begins where no sentence does
            found.append(Section(doc | {"metadata": meta}, headings, lead[0] if lead else BLANK.split(doc["text"])[0]))
    return found


class Section(NamedTuple):
    """A doc, the headings above it, and the paragraph whose first sentence is a query for it, "" for none."""

    doc: dict
    path: tuple
    lead: str


def _queries(sections):
    """(records of queries, [(qid, split, {doc_id: 1})]): headings and first sentences, each text once, with all docs
    that it is of. A file's queries fall into one split; what is asked in two splits is asked in the first.
    """
    of_path, leaves, asked = {}, collections.Counter(), {}
    for row, section in enumerate(sections):
        of_path.setdefault(section.path, []).append(row)
    for path in of_path:
        leaves.update({path[-n:] for n in range(1, len(path) + 1)})

    def ask(kind, text, rows):
        if text.strip():
            asked.setdefault(text.casefold(), (kind, text, []))[2].extend(rows)

    for row, (_, path, lead) in enumerate(sections):
        if of_path[path][0] == row:  # a heading is asked once, and every piece below it answers
            tail = next(path[-n:] for n in range(1, len(path) + 1) if leaves[path[-n:]] == 1 or n == len(path))
            ask("heading", " ".join(tail), of_path[path])
        ask("first_sentence", made_queries.first_sentence({"text": lead}, row), [row])
    split_of, queries, judged = _splits(sections), [], []
    for kind, text, rows in asked.values():
        qid = f"{kind}:{sections[rows[0]].doc['_id']}"
        queries.append({"_id": qid, "text": text, "metadata": {"kind": kind}})
        split = min((split_of(sections[row].doc) for row in rows), key=beir.SPLITS.index)
        judged.append((qid, split, {sections[row].doc["_id"]: 1 for row in rows}))
    return queries, judged


def _splits(sections):
    """A function of a doc: the split of its file; where there are few, of its own."""
    files = {section.doc["metadata"]["file"] for section in sections}
    by_file = len(files) >= ENOUGH_FILES
    of = (lambda doc: doc["metadata"]["file"]) if by_file else (lambda doc: doc["_id"])
    found = splits([of(section.doc) for section in sections])
    return lambda doc: found[of(doc)]


def splits(names):
    """{name: its split, by a hash}; no split is empty if there are enough of them."""
    found = {name: beir.split_by_hash(name) for name in names}
    for split in beir.SPLITS[1:]:
        if len(found) > 2 and split not in found.values():
            train = [each for each, own in found.items() if own == "train"]
            found[min(train, key=lambda each: rng.uniform(split, each))] = split
    return found
