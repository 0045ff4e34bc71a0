"""Sections of HTML pages: their visible text, without the furniture that stands on every page of a site."""

import collections
import itertools
import re

from justhtml import JustHTML

LEAST_MAIN = 80  # characters of a page's main part: with so many, what stands outside of it is no text
MOST_HEADING = 500  # characters of a heading: every piece below it repeats them

KEPT, BACK = {10: "\ue000", 32: "\ue001", 9: "\ue001" * 4, 13: ""}, {0xE000: "\n", 0xE001: " "}
UNSEEN = {"head", "script", "style", "template", "noscript", "svg", "iframe"}
FURNITURE = {"nav", "header", "footer"}
BLOCKS = {*"p div li br tr section article pre ul ol table blockquote dd dt dl main aside figure figcaption".split()}
BLOCKS |= {*"caption form select hr details summary address fieldset legend".split()} | FURNITURE
ITEMS = {"li", "tr", "dt", "dd"}  # behind which there is no empty line
CELLS = {"td", "th", "option", "label", "button"}  # apart from their neighbours in a line
HEADINGS = {f"h{depth}": depth for depth in range(1, 7)}
ROLES = {"navigation", "contentinfo", "search", "banner"}
TAG = re.compile(r"<(/?)(nav|header|footer|div|section|aside|ul|form|span)(?=[\s/>])", re.I)
HEADING = re.compile(r"<(/?h[1-6])(?=[\s/>])", re.I)
CELL = re.compile(r"<(table|t[dhr])(?=[\s/>])", re.I)
MARK = re.compile(r"headerlink|anchor|permalink|hash-link")  # in the class of a link


def sections_of_html(text):
    """[(line, (headings above, outermost first), text)] of the visible text of a page, without what every page has."""
    if (cell := CELL.search(text)) and cell[1].lower() != "table":  # cells of a piece of a page
        text = f"{text[: cell.start()]}<table>{text[cell.start() :]}"
    page = JustHTML(_with_lines(text), sanitize=False)
    # end tags that each kind of element lacks: one without holds all that stands behind it
    missing = collections.Counter()
    for end, name in TAG.findall(text):
        missing[name.lower()] += -1 if end else 1
    lines = [(1, 0, [])]  # (number, depth of a heading or 0, pieces of text)
    hider = heading = None  # the element in which text is hidden; the heading in which blocks are no lines of their own
    header = None  # the one around: its lists are menus
    main = page.query("main, [role=main]")
    root = main[0] if len(main) == 1 and len("".join(main[0].to_text().split())) >= LEAST_MAIN else page.root
    preformatted, todo = 0, [(root, True)]
    mark, numbers = "", {}  # of an item of a list, before its first word; of the next item of each list
    while todo:
        node, opens = todo.pop()
        name, depth = node.name, HEADINGS.get(node.name, 0)
        if name == "#text":
            if node.data != "¶" and not hider:
                if mark and node.data.strip():
                    lines[-1][2].append(mark)
                    mark = ""
                lines[-1][2].append(node.data.translate(KEPT) if preformatted else node.data)
            continue
        if node.attrs is None or opens and (name in UNSEEN or heading and _is_mark(node)):  # or a comment
            continue
        if opens and not hider and _is_furniture(node):
            if name != "header" and missing[name] <= 0:
                continue
            hider = node if name in FURNITURE else None
            header = node if name == "header" and missing[name] <= 0 else None
        elif opens and header and name in ("ul", "ol", "details"):
            continue
        elif opens and hider and (depth or name in ("main", "article")):
            hider = None  # from its heading on a header is text; other furniture was left open, and has ended
        if depth and heading in (None, node):
            heading = node if opens and "ends" in node.attrs else None
            lines.append((int(node.attrs["line"]), depth if opens else 0, []))
        elif name in BLOCKS and not heading and (opens or name not in ITEMS):
            lines.append((lines[-1][0], 0, []))
        elif name in CELLS or name in BLOCKS:
            lines[-1][2].append(" ")
        if name == "li":
            of, first = node.parent, node.parent.attrs.get("start") or ""
            numbers.setdefault(of, int(first) if first.isdecimal() and len(first) < 10 else 1)
            mark = "" if not opens else f"{numbers[of]}. " if of.name == "ol" else "- "
            numbers[of] += opens
        preformatted += (name == "pre") * (1 if opens else -1)
        if not opens:
            hider, header = (None if each is node else each for each in (hider, header))
        if opens and node.children:
            todo += [(node, False), *((child, True) for child in reversed(node.children))]
    shown = [(n, " ".join("".join(pieces).split()).translate(BACK).strip("\n"), depth) for n, depth, pieces in lines]
    if not any(depth == 1 and line for _, line, depth in shown):  # then the title of the page is its first heading
        titles = page.query("h1")  # or the only one that stands outside of the main part
        title = titles[0] if len(titles) == 1 and root is not page.root else page.query_one("head > title")
        shown = [(1, " ".join(title.to_text().split()) if title else "", 1), *shown]
    return cut((number, line, (depth, line) if depth and line else None) for number, line, depth in shown)


def _with_lines(text):
    """The page with attributes for each heading: its line, and `ends` where the next tag of a heading is its end."""
    parts, number, place = [], 1, 0
    for tag, after in itertools.pairwise([*HEADING.finditer(text), None]):
        number += text.count("\n", place, tag.start())
        parts.append(text[place : tag.end()])
        place, name = tag.end(), tag[1].lower()
        if name[0] != "/":
            parts.append(f" line={number}{' ends' * bool(after and after[1].lower() == f'/{name}')} ")
    return "".join([*parts, text[place:]])


def _is_furniture(node):
    """Whether a page shows the element everywhere, as a menu, or nowhere; a tab that waits to be chosen is text."""
    if node.name in ("html", "body", "main", "#document") or node.attrs.get("role") == "main":
        return False  # a page may hide all of it until its programs have run
    role, style = node.attrs.get("role"), node.attrs.get("style") or ""
    unseen = node.attrs.get("hidden", "no") in ("", None, "hidden") or re.search(r"display\s*:\s*none", style)
    return node.name in FURNITURE or role in ROLES or bool(unseen) and role != "tabpanel"


def _is_mark(node):
    """Whether a link in a heading leads to the heading itself, and has no word."""
    href = node.attrs.get("href") or ""
    named = href.startswith("#") or MARK.search(node.attrs.get("class") or "")
    return node.name == "a" and bool(named) and not re.search(r"\w", node.to_text())


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
