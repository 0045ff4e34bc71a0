"""Sections of HTML pages: their visible text, without the furniture that stands on every page of a site."""

import itertools
import re

from lib.data import beir

MOST_HEADING = 500  # characters of a heading: every piece below it repeats them

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
KEPT, BACK = {10: "\ue000", 32: "\ue001", 9: "\ue001" * 4, 13: ""}, {0xE000: "\n", 0xE001: " "}
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
# blocks that are furniture or unseen by what their tag says
ASIDE = re.compile(
    r"""<(div|section|aside|ul|form|span)(?=\s)(?=(?:[^<>"']|"[^"<>]*"|'[^'<>]*')*?
    (?:\srole\s*=\s*["']?(?:navigation|contentinfo|search|banner)\b
    |\shidden(?=[\s>=])|\sstyle\s*=\s*["'][^"'<>]*\bdisplay\s*:\s*none))[^<>]*>""",
    re.I | re.X,
)
MOST_ASIDES = 100  # of a page
PERMALINK = re.compile(r"""headerlink|anchor|permalink|hash-link|href\s*=\s*["']?\#""", re.I)  # in a link's tag


def sections_of_html(text):
    """[(line, (headings above, outermost first), text)] of the visible text of a page, without what every page has."""
    lines, hidden, number, place = [(1, 0, [])], [], 1, 0  # lines: (number, depth of a heading or 0, pieces of text)
    ends = {found[1].lower(): found.start() for found in FURNITURE_END.finditer(text)}  # the last of each
    asides = _asides(text)
    heading_end = 0  # up to where blocks are part of a heading: its end tag, if no other heading begins before
    pre = False  # within code, whose lines and blanks stay
    link = None  # where in the pieces of a heading a link begins that may be a mark
    for markup in itertools.chain(MARKUP.finditer(text), [None]):
        begin, end = markup.span() if markup else (len(text), len(text))
        if not hidden and not any(low <= place < high for low, high in asides):
            piece = beir.unescape(text[place:begin])
            lines[-1][2].append(piece.translate(KEPT) if pre else piece if piece != "¶" else "")
        number, place = number + text.count("\n", place, begin), end
        tag, opens = (markup and markup["tag"] or "").lower(), markup and not markup["end"]
        pre = opens if tag == "pre" else pre
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
    shown = [(n, " ".join("".join(pieces).split()).translate(BACK).strip("\n"), depth) for n, depth, pieces in lines]
    if not any(depth == 1 and line for _, line, depth in shown):  # then the title of the page is its first heading
        title = TITLE.search(NO_HEAD.split(text, maxsplit=1)[0])
        shown = [(1, " ".join(beir.unescape(title[1]).split()) if title else "", 1), *shown]
    return cut((number, line, (depth, line) if depth and line else None) for number, line, depth in shown)


def _asides(text):
    """[(begin, end)] of the blocks of a page that ASIDE knows and that end."""
    found = []
    for opening in itertools.islice(ASIDE.finditer(text), MOST_ASIDES):
        if found and opening.start() < found[-1][1]:
            continue
        depth = 0
        for tag in re.finditer(rf"<(/?){opening[1]}(?=[\s>])", text[opening.start() :], re.I):
            depth += -1 if tag[1] else 1
            if not depth:
                found.append((opening.start(), opening.start() + tag.end()))
                break
    return found


def _without_mark(pieces, link, markup):
    """Where a link in a heading begins, or None; at its end, a link to the heading itself that has no word is cut."""
    if not markup["end"]:
        return len(pieces) if PERMALINK.search(markup[0]) else None
    if link is not None and not re.search(r"\w", "".join(pieces[link:])):
        del pieces[link:]
    return None


def cut(lines):
    """The sections of (number, line, (depth, title) or None)."""
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
