"""Folders of Markdown, HTML, reStructuredText, text and notebooks: sections as docs, and queries made from them.

Files are cut at their headings, and long sections into pieces of WORDS words that share OVERLAP. A doc's title is the
path of its headings, below the title that a front matter gives; other fields of the front matter are metadata. Nobody
has asked these docs anything: the queries of all splits are made from the docs themselves (the heading and the first
sentence, which served better than crops: docs/own-data.md), so that measures on them say how well a retriever finds a
section by its own words, and not how well it answers people.
"""

import codecs
import collections
import itertools
import os
import pathlib
import re
import urllib.parse

from tqdm import tqdm

from lib.data import beir, made_queries
from lib.data.formats import front_matter, rst
from lib.files import BadInput, fingerprint_file

RECIPE = 6  # raise it when the rules below change, so that cached folders are made again
WORDS, OVERLAP, SHORTEST = 200, 40, 5  # words of a piece; shared by two; of a section that is kept
MOST_BYTES = 50_000_000  # of a file
MOST_FAULTS = 20  # that one message names
MOST_HEADING = 500  # characters of a heading: every piece below it repeats them
HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(\S.*)$")
NAMED = re.compile(r"\{#[^{}]*+\}$")  # {#name} behind a heading, to which links lead
FENCE = re.compile(r"^ {0,3}(`{3,}+(?=[^`]*$)|~{3,})")  # ```one line``` is code between words
FENCE_END = re.compile(r"^ {0,3}(`{3,}|~{3,})\s*$")
HTML = re.compile(r"^ {0,3}<(!--|(?:pre|script|style|textarea)(?=[\s>]|$))", re.I)  # up to its end nothing is Markdown
UNDERLINE = re.compile(r"^ {0,3}(=+|-{2,})\s*$")  # below lines that it makes a heading
RULE = re.compile(r"^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$")
NO_TITLE = re.compile(r"^( {4}|\t| {0,3}([>|<]|[*+-]\s|\d{1,9}[.)]\s))")  # code, quotes, tables, HTML, lists


def sections_of_markdown(text):
    """[(line, (headings above, outermost first), text)] of a Markdown text; in code and comments is no heading."""
    return _sections(_markdown(front_matter.without_imports(text).splitlines()))


def _markdown(lines):
    """[(number, line, (depth, title) or None)] of lines of Markdown; comments are empty, underlined lines are one."""
    found, fence, html_end = [], "", ""
    above = None  # where in `found` the paragraph begins that a line continues; -1: in a block that is no title
    for number, line in enumerate(lines, 1):
        heading, before, above = None, above, None
        if fence:
            closing = FENCE_END.match(line)
            if closing and closing[1].startswith(fence):  # as long as the one that it closes, or longer
                fence = ""
        elif html_end or (html := HTML.match(line)):
            html_end = html_end or ("-->" if html[1] == "!--" else f"</{html[1]}>")
            _, end, rest = line.partition(html_end)
            line, html_end = rest if html_end == "-->" else line, "" if end else html_end
        elif opening := FENCE.match(line):
            fence = opening[1]
        elif before not in (None, -1) and (under := UNDERLINE.match(line)):
            if title := _underlined(found[before:]):
                number, heading = found[before][0], (1 if under[1][0] == "=" else 2, title)
                del found[before:]
        elif not RULE.match(line):
            heading = _heading(line)
            if line.strip() and not heading:
                other = before == -1 or NO_TITLE.match(line) and not (before is not None and line[:1] in " \t")
                above = -1 if other else len(found) if before is None else before
        found.append((number, line, heading))
    return found


def _underlined(paragraph):
    """The heading that is made of (number, line, None) above an underline, or "": long paragraphs stay text."""
    title = " ".join(line.strip() for _, line, _ in paragraph)
    return NAMED.sub("", title).rstrip() if len(title) <= MOST_HEADING else ""


def _heading(line):
    """(depth, title) of a line that is a heading, or None; the signs behind a title are no part of it."""
    found = HEADING.match(line)
    return found and (len(found[1]), NAMED.sub("", found[2].rstrip()).rstrip().rstrip("#").rstrip() or "#")


def sections_of_text(text):
    """One section without headings."""
    return [(1, (), text)]


def _sections(lines):
    """The sections of (number, line, (depth, title) or None), as sections_of_markdown() gives them."""
    found, path, begin, body = [], [], 1, []

    def close():
        if "".join(body).strip():
            found.append((begin, tuple(title for _, title in path), "\n".join(body).strip()))

    for number, line, heading in lines:
        if heading:
            close()
            depth, title = heading
            path = [each for each in path if each[0] < depth] + [(depth, title[:MOST_HEADING])]
            begin, body = number, []
        elif path or body or line.strip():  # a page begins where its text does
            begin = begin if path or body else number
            body.append(line)
    close()
    return found


# Of a page, what is no text. Each pattern ends at the end of the page where its own end is missing, and gives nothing
# back (++, *+): however many tags are left open, a page is read once.
MARKUP = re.compile(
    r"""<!--.*?(?:-->|\Z)
    | <(script|style)(?=[\s/>])[^>]*+(?<!["'\s]/)>.*?(?:</\1(?=[\s/>])[^>]*+>?|\Z)
    | <(?P<end>/?)(?P<tag>[a-z][^\s/>]*+)(?:[^>=]++|=\s*+(?:"[^"]*+"?|'[^']*+'?)?+)*+>?
    | <[!?/][^>]*+>?""",
    re.I | re.S | re.X,
)
HIDDEN = {"head", "template", "noscript", "nav", "svg", "header", "footer"}
SHOWN = {"body", "main", "article"}  # what was left open above them has ended
BLOCKS = {*"p div li br tr section article pre ul ol table blockquote dd dt dl".split()}
BLOCKS |= {"header", "footer", "nav", "main", "aside", "figure", "figcaption", "caption", "form", "select", "hr"}
BLOCKS |= {"details", "summary", "address", "fieldset", "legend"}
CELLS = {"td", "th", "option", "label", "button"}  # apart from their neighbours in a line
HEADINGS = {f"h{depth}": depth for depth in range(1, 7)}
HEADING_TAG = re.compile(r"<(/?h[1-6])(?=[\s/>])", re.I)
TITLE = re.compile(r"<title(?=[\s>])[^<>]*+>([^<]++)</title", re.I)
NO_HEAD = re.compile(r"<(?:body|main|svg)(?=[\s/>])", re.I)  # behind which a <title> is none of the page
FURNITURE_END = re.compile(r"</(nav|footer)(?=[\s/>])", re.I)
PERMALINK = re.compile(r"""headerlink|anchor|permalink|hash-link|href\s*=\s*["']?\#""", re.I)  # in a link's tag


def sections_of_html(text):
    """sections_of_markdown() of a page's visible text, without the furniture that stands on every page of a site."""
    lines, hidden, number, place = [(1, 0, [])], [], 1, 0  # lines: (number, depth of a heading or 0, pieces of text)
    ends = {found[1].lower(): found.start() for found in FURNITURE_END.finditer(text)}  # the last of each
    heading_end = 0  # up to where blocks are part of a heading: its end tag, if no other heading begins before
    link = None  # where in the pieces of a heading a link begins that may be a mark
    for markup in itertools.chain(MARKUP.finditer(text), [None]):
        begin, end = markup.span() if markup else (len(text), len(text))
        if not hidden:
            lines[-1][2].append(beir.unescape(text[place:begin]))
        number, place = number + text.count("\n", place, begin), end
        tag, opens = (markup and markup["tag"] or "").lower(), markup and not markup["end"]
        if tag == "a" and lines[-1][1]:
            link = _without_mark(lines[-1][2], link, markup)
        elif tag in HEADINGS or tag in BLOCKS and begin >= heading_end:
            lines.append((number, HEADINGS.get(tag, 0) if opens else 0, []))
            link = None
            if tag in HEADINGS and opens:
                after = HEADING_TAG.search(text, end)
                heading_end = after.start() if after and after[1].lower() == f"/{tag}" else 0
        elif tag in CELLS or tag in BLOCKS:
            lines[-1][2].append(" ")
        closed = hidden and ends.get(hidden[-1], 0) > begin
        if opens and (tag in SHOWN or tag in HEADINGS and not closed):  # a heading is shown, save in closed furniture
            hidden.clear()
        if tag in HIDDEN and opens and not markup[0].endswith("/>"):
            hidden.append(tag)
        elif tag in HIDDEN and not opens and hidden:
            hidden.pop()
        number += text.count("\n", begin, end)
    shown = [(number, " ".join("".join(pieces).split()), depth) for number, depth, pieces in lines]
    if not any(depth == 1 and line for _, line, depth in shown):  # then the title of the page is its first heading
        title = TITLE.search(NO_HEAD.split(text, maxsplit=1)[0])
        shown = [(1, " ".join(beir.unescape(title[1]).split()) if title else "", 1), *shown]
    return _sections((number, line, (depth, line) if depth and line else None) for number, line, depth in shown)


def _without_mark(pieces, link, markup):
    """Where a link in a heading begins, or None; at its end, a link to the heading itself that has no word is cut."""
    if not markup["end"]:
        return len(pieces) if PERMALINK.search(markup[0]) else None
    if link is not None and not re.search(r"\w", "".join(pieces[link:])):
        del pieces[link:]
    return None


# suffix -> function that cuts a file of it into sections
KINDS = dict.fromkeys((".md", ".markdown", ".mdx", ".qmd"), sections_of_markdown) | {".txt": sections_of_text}
KINDS |= dict.fromkeys((".html", ".htm"), sections_of_html)
KINDS |= {".rst": rst.sections_of_rst, ".ipynb": lambda text: sections_of_markdown(rst.markdown_of_notebook(text))}
BARE = {".txt", ".rst", ".ipynb"}  # of KINDS, those that have no front matter
OTHERS = {".adoc", ".asciidoc", ".doc", ".docx", ".epub", ".odt", ".org", ".pdf", ".ppt", ".pptx", ".rmd"}
OTHERS |= {".rtf", ".tex", ".textile", ".xhtml"}  # suffixes of pages that nothing here reads
CHARSET = re.compile(rb"""<(?:meta\b[^>]*?\bcharset|\?xml\b[^>]*?\bencoding)\s*=\s*["']?\s*([a-z0-9_:-]+)""", re.I)
# Charsets of pages (Python's other codecs, as punycode and hex, are none), and what browsers read in place of some
CHARSETS = re.compile(r"iso-8859-\d+|windows-\d+|koi8-[ru]|gbk|gb18030|big5(-hkscs)?|euc-jp|euc-kr|iso-2022-jp|cp\d+")
ALIASES = dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "latin-1", "us-ascii", "ascii"), "windows-1252")
ALIASES |= {"iso-8859-9": "windows-1254", "gb2312": "gb18030", "shift_jis": "cp932", "shift-jis": "cp932"}
ALIASES |= {"x-sjis": "cp932", "euc-kr": "cp949", "big5": "big5hkscs", "macintosh": "mac_roman"}


def files_in(folder):
    """(files of KINDS below a folder, links that are not followed, files of OTHERS), by their names, no hidden ones.

    A link is followed to a file in the same folder only: what lies elsewhere is not the folder's to give away, and
    folders that hold one another have no end.
    """
    found, links, others, root = [], [], [], pathlib.Path(os.path.realpath(folder))
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (pathlib.Path(base) / name for name in [*folders, *names] if not name.startswith(".")):
            kind = path.suffix.lower() in KINDS
            inside = path.is_file() and pathlib.Path(os.path.realpath(path)).is_relative_to(root)
            if path.is_symlink() and not inside and (kind or not path.is_file()):
                links.append(path)
            elif kind and inside:
                found.append(path)
            elif inside and path.suffix.lower() in OTHERS:
                others.append(path)
    return sorted(found), sorted(links), sorted(others)


def build(folder):
    """(name, folder in BEIR layout) of a folder of files; BadInput if there is nothing to read."""
    root = pathlib.Path(folder).resolve()
    files, links, others = files_in(root)
    counts = collections.Counter(path.suffix.lower() for path in others)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    if not files:
        tail = f"; files of kinds that are not read: {kinds}" if kinds else ""
        raise BadInput(f"--data {folder}: neither corpus.jsonl nor a file of {', '.join(KINDS)} is in it{tail}")
    contents = [(os.fsencode(path.relative_to(root)).hex(), fingerprint_file(path)) for path in files]
    left_out = {
        "links to what is not a file of this folder": links,
        f"files of kinds that are not read ({kinds})": others,
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
        more = [f"{len(faults) - MOST_FAULTS:,} more files"] if len(faults) > MOST_FAULTS else []
        raise BadInput("; ".join(faults[:MOST_FAULTS] + more))
    if not docs:
        raise BadInput(f"--data {folder}: {len(files)} files, and no section of {SHORTEST} words or more")
    return docs, *_queries(docs), dropped


def _decoded(path):
    """The text of a file: UTF-8, or for HTML the charset that its head names; BadInput if it is neither."""
    content = path.read_bytes()
    named = path.suffix.lower() in (".html", ".htm") and CHARSET.search(content[:4096])
    name = named[1].decode().lower() if named and not content.startswith(codecs.BOM_UTF8) else ""
    name = ALIASES.get(name, name if CHARSETS.fullmatch(name) else "")
    try:
        return content.decode(name) if name else beir.decode_line(content, path=path, number=1)
    except LookupError:  # a number that no charset has
        return beir.decode_line(content, path=path, number=1)
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}:1: not {name}, the charset that it names ({error}); convert it to UTF-8") from None


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
        sections = KINDS[path.suffix.lower()](text)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    if not sections:
        dropped.setdefault("files without a text", []).append(shown)
    for line, headings, body in sections:
        if above and [each.casefold() for each in headings[:1]] != [above[0].casefold()]:
            headings = above + headings
        words = body.split()
        if len(words) < SHORTEST:
            dropped.setdefault(f"sections of fewer than {SHORTEST} words", []).append(f"{name}:{line}")
            continue
        for begin in range(0, max(1, len(words) - OVERLAP), WORDS - OVERLAP):
            title, piece = " > ".join(headings) or pathlib.PurePath(shown).stem, " ".join(words[begin : begin + WORDS])
            meta = fields | {"name": title, "file": shown, "line": line}
            found.append({"_id": f"{ident}#{len(found) + 1}", "title": title, "text": piece, "metadata": meta})
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
        split = beir.split_by_hash(doc["metadata"]["file"] if by_file else doc["_id"])
        made = {"first_sentence": made_queries.first_sentence(doc, row)}
        if titles[doc["title"]][0] == row:  # a heading is asked once, and every piece below it answers
            made["heading"] = doc["title"].split(" > ")[-1]
        for kind, text in made.items():
            qid = f"{kind}:{doc['_id']}"
            queries.append({"_id": qid, "text": text, "metadata": {"kind": kind}})
            answers = titles[doc["title"]] if kind == "heading" else [row]
            judged.append((qid, split, {docs[i]["_id"]: 1 for i in answers}))
    return queries, judged
