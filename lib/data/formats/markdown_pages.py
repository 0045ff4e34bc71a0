"""Sections of Markdown pages, read by a CommonMark parser: their words as a reader sees them, code with its lines.

Marks of the programs that make sites from pages (admonitions, tabs, includes, templates, the tags and comments of MDX)
are no text; what stands inside of them is.
"""

import functools
import re

from lib.data.formats import front_matter
from lib.data.formats.html_pages import MOST_HEADING, sections_of_html

DEEPEST = 100  # quotes and lists within one another
NAMED = re.compile(r"\{:?[ ]?[#.][^{}]*+\}$|\[#[^\[\]]*+\]$")  # {#name}, {: .class}, [#name] behind a heading
FENCE = re.compile(r"^(`{3,}+(?=[^`]*$)|~{3,})")
# a box that opens: /// tip | Title, :::tip Title, !!! tip "Title", === "Title"; its title is text
BOX = re.compile(
    r"""(?:/{3,}[ ]*[\w-]+(?:[ ]*\|[ ]*(?P<slashed>.*?))? | :{3,}[ ]*\{?[\w-]+\}?\[?(?P<title>.*?)\]?)
      (?:[ ]*\{[^{}]*\})?$
    | :{3,}[ ]*\{[^{}]*?(?:\btitle="(?P<titled>[^"{}]*)"[^{}]*)?\}$
    | (?:!!!|\?\?\?\+?)[ ]+[a-z][\w-]*+(?:[ ](?:inline|end))*(?:[ ]+"(?P<quoted>[^"]*)")?$
    | ===[!+]?[ ]+"(?P<tab>[^"]*)"$""",
    re.X,
)
MARKS = {"/", ":", "!", "?", "="}  # with which a box begins
BOX_END = re.compile(r"(?:/{3,}|:{3,})$")
INDENTS = ("!!!", "???", "===")  # whose lines stand four blanks further right
# below the name of a box: what it is to look like; the target of a link; {role}`text` and {role}`text <target>`
DIRECTIVE = re.compile(r"[:`~]{3,}+[ ]*\{[A-Za-z][\w:+-]*\}")
# three of them are text; others have a few words: :warning: and a sentence is an emoji
OPTION = re.compile(r":(?:caption|alt|title):\s+(\S.*)$|:[A-Za-z][\w-]*+:(?:\s+\S+){0,4}\s*$")
TARGET = re.compile(r"\([^()\s]++\)=$")
ROLE = re.compile(r"(?<!`)(`++)[^`]++\1(?!`)|(?<![\w$])\{([a-z][\w:+.-]*+)\}`(?!`)([^`]++)`(?!`)")
LINKS = {"ref", "doc", "term", "numref", "eq", "download", "any", "abbr"}  # roles whose text may name a target
EXPORT = re.compile(r"export\s+(?:default|const|let|var|function|async|class|type|interface|\{|\*)")
MARGIN = re.compile(r"[^\s})\];/]")  # how a line of text begins, and not one within an export
# docs of an object, which a program writes below its name; files to be put in; statements of a template
GENERATED = re.compile(r":::[ ]*[A-Za-z_]\w*+(?:\.\w++)++$")
INCLUDED = re.compile(r"\{[*!].*[*!]\}$|-+8<-+.*$|\{:[^{}]*\}$|!\[\[[^\[\]]*\]\]$|\[\[?_?toc_?\]\]?$", re.IGNORECASE)
TEMPLATE = re.compile(r"\{%(?:[^{}%]|%(?!\}))*+%\}|\{\{[<%](?:(?!\{\{|[%>]\}\}).)*+[%>]\}\}")
ALERT = re.compile(r"^(\s*>\s*)\[!\w+\][+-]?\s*")  # > [!NOTE] of GitHub and Obsidian
WIKI = re.compile(
    r"(`+)(?!`)[^`]++\1(?!`)|(?<!\S)%%\s[^%\n]*+%%(?!\S)|(?<=\))\{:?[ ]?[.#][^{}]*+\}|"
    r"\[\[(?!\s)(?:[^\[\]|]*+\|)?([^\[\]|]++)\]\]"
)
# statements around what is code, and around what nobody sees
HIGHLIGHT = re.compile(r"\{%-?\s*highlight\b"), re.compile(r"\{%-?\s*endhighlight\b")
COMMENT = re.compile(r"\{%-?\s*comment\b"), re.compile(r".*\{%-?\s*endcomment\s*-?%\}")
HTML_HEADING = re.compile(r"(<h[1-6](?=[\s>])(?:(?!<h[1-6]).)*?</h[1-6]\s*>)", re.IGNORECASE | re.DOTALL)
OUTSIDE = re.compile(rf"(`+)(?!`)[^`]++\1(?!`)|{TEMPLATE.pattern}")  # code between words, or a statement
VALUE = re.compile(r"\{\{[^{}]*+\}\}")
BRACES = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+\}"
# code between words, which stays; a tag or comment of MDX
JSX = re.compile(
    rf"""(`+)(?!`)[^`]++\1(?!`)
    | </?(?:[A-Za-z][\w.:-]*+(?:\s++[\w:-]++(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|{BRACES}))?+|\s++{BRACES})*+\s*+)?/?>
    | \{{/\*(?:[^*]|\*(?!/\}}))*+(?:\*/\}}|\Z)""",
    re.X | re.S,
)


@functools.cache
def _parser():
    from markdown_it import MarkdownIt  # here: who reads no pages needs none

    return MarkdownIt("commonmark", {"maxNesting": DEEPEST}).enable(["table", "strikethrough"])


def sections_of_markdown(text, *, mdx=False):
    """[(line, (headings above, outermost first), text, its first paragraph or "")] of a Markdown text."""
    lines = _without_marks(front_matter.without_imports(text).splitlines(), mdx=mdx)
    tokens = _parser().parse("\n".join(lines))
    found, path, parts, lead, begin = [], [], [], "", None

    def close():
        if body := "\n".join(parts).strip("\n"):
            found.append((begin, tuple(title for _, title in path), body, lead))

    for depth, title, line, block, is_prose in _blocks(tokens):
        if depth:
            close()
            path = [each for each in path if each[0] < depth] + [(depth, title[:MOST_HEADING] or "#")]
            parts, lead, begin = [], "", line
        else:
            begin = begin or line
            lead = lead or (block.strip() if is_prose else "")
            parts.append(block)
    close()
    return found


def _blocks(tokens):
    """(depth of a heading or 0, its title, line, text, whether it is a paragraph of the page) of each block."""
    lists, cells, item, title_of = [], [], "", None
    for token, after in zip(tokens, [*tokens[1:], None]):
        line = token.map[0] + 1 if token.map else 1
        kind, text = token.type, None
        if kind == "heading_open":
            title = NAMED.sub("", _plain(after.children)).strip()
            underlined = token.markup in ("=", "-")
            if token.level == 0 and not (underlined and len(title) > MOST_HEADING):
                yield int(token.tag[1]), title, line, "", False
                title_of = after
        elif kind in ("bullet_list_open", "ordered_list_open"):
            lists.append(token.attrs.get("start", 1) if kind[0] == "o" else None)
        elif kind in ("bullet_list_close", "ordered_list_close"):
            lists.pop()
            item, text = "", None if lists else ""  # a line apart from what follows
        elif kind == "list_item_open":
            item = "- " if lists[-1] is None else f"{lists[-1]}. "
            lists[-1] = lists[-1] and lists[-1] + 1
        elif kind in ("th_open", "td_open"):
            cells.append(_plain(after.children))
            title_of = after
        elif kind == "tr_close":
            text, cells = " | ".join(cells), []
        elif kind == "table_close":
            text = ""  # the same
        elif kind == "inline" and token is not title_of:
            text = _plain(token.children)
        elif kind in ("fence", "code_block"):
            text = token.content.rstrip("\n")
        elif kind == "html_block":
            for piece in HTML_HEADING.split(token.content):
                if HTML_HEADING.fullmatch(piece) and token.level == 0:
                    yield int(piece[2]), _shown(re.sub(r"</?h\d", "<p", piece)), line, "", False
                elif shown := _shown(piece):
                    yield 0, "", line, shown + "\n", False
        if text == "" and kind.endswith("_close"):
            yield 0, "", line, "", False
        elif text and text.strip():
            inside = bool(lists) or kind == "tr_close"
            shown = "  " * (len(lists) - 1) + item + text if inside else text + "\n"
            item = "  " if lists else ""
            yield 0, "", line, shown, kind == "inline" and not lists


def _shown(html):
    """The visible text of a piece of HTML."""
    return "\n".join(body for *_, body in sections_of_html(html)).strip()


def _plain(children):
    """The text of inline tokens as a reader sees it."""
    parts = []
    for child in children or ():
        if child.type == "softbreak" or child.type == "hardbreak":
            parts.append(" " if child.type == "softbreak" else "\n")
        elif child.type == "html_inline":
            parts.append("\n" if child.content.lower().startswith("<br") else "")
        elif child.type == "image":
            parts.append(_plain(child.children))
        else:
            parts.append(child.content)
    return "".join(parts).strip()


def _without_marks(lines, *, mdx):
    """The lines with those that are marks emptied, and what stands in a box where it would stand without one."""
    found, code, fence, boxes, template, generated, until, options = [], [], "", [], False, False, None, False
    last = max((i for i, line in enumerate(lines) if "endcomment" in line and COMMENT[1].match(line)), default=-1)
    for at, line in enumerate(lines):
        shown = line.expandtabs(4) if boxes or generated else line
        indent = len(shown) - len(shown.lstrip(" "))
        if shown.strip() and not fence:
            boxes = [box for box in boxes if indent >= box + 4]
            generated = generated and indent > 0
        line = shown[min(indent, 4 * len(boxes)) :] if boxes else line
        bare = line.strip()
        code.append(bool(fence))
        if options := options and OPTION.match(bare):
            line = options[1] or ""
        elif until:  # within a comment, up to its end
            line, until = (until.sub("", line), None) if until.match(line) else ("", until)
        elif HIGHLIGHT[0].match(bare) and not fence:
            line, fence, code[-1] = "~" * 9, HIGHLIGHT[1], True
        elif fence is HIGHLIGHT[1]:
            line, fence = ("~" * 9, "") if fence.match(bare) else (line, fence)
        elif COMMENT[0].match(bare) and not fence and at <= last:  # one without an end hides nothing
            line, until = (COMMENT[1].sub("", line), None) if COMMENT[1].match(line) else ("", COMMENT[1])
        elif fence:
            fence = "" if bare.startswith(fence) and not bare.strip(fence[0]) else fence
        elif opening := FENCE.match(bare):
            fence, code[-1] = opening[1], True
            options = bool(DIRECTIVE.match(bare))
        elif generated or INCLUDED.match(bare) or BOX_END.match(bare) or TARGET.match(bare):
            line = ""
        elif GENERATED.match(bare):
            line, generated = "", True
        elif bare[:1] in MARKS and len(bare) <= MOST_HEADING and (box := BOX.match(bare)):
            if bare.startswith(INDENTS):
                boxes.append(indent)
            line = next((title.strip() for title in box.groups() if title), "")
            options = bool(DIRECTIVE.match(bare))
        elif ALERT.match(line):
            line = ALERT.sub(r"\1", line)
        elif ("{%" in line or "{{" in line) and (
            rest := OUTSIDE.sub(lambda found: found[0] if found[1] else "", line)
        ) != line:
            line, template = rest, True
        if not fence and not line.startswith("    ") and ("[[" in line or "%%" in line or "){" in line):
            line = WIKI.sub(lambda mark: mark[0] if mark[1] else mark[2] or "", line)
        if not fence and not line.startswith("    ") and "}`" in line:
            line = ROLE.sub(_of_role, line)
        found.append("" if template and not fence and not VALUE.sub("", line).strip() else line)
    return _without_tags(_without_exports(found, code), code) if mdx else found


def _of_role(mark):
    """What is seen of {role}`text`, and of one that links without its target, {ref}`text <target>`."""
    if mark[1]:
        return mark[0]
    text = mark[3]
    if mark[2] in LINKS or ":" in mark[2]:
        text = re.sub(r"(?<=\S)\s*+<[^<>]*>$", "", text).strip("<>")
    return f"`{text}`"


def _without_exports(lines, code):
    """The lines of MDX, those of its exports emptied: each up to a blank line behind its last bracket, or one behind
    which the text goes on at the margin: brackets in strings and comments may not close."""
    found, begin, depth, after, below = list(lines), None, 0, "", []
    for line in reversed(lines):  # the next line of each that is not blank
        below.append(after)
        after = line if line.strip() else after
    for i, (line, after) in enumerate(zip(lines, reversed(below))):
        if begin is None and not code[i] and EXPORT.match(line) and not "".join(lines[max(0, i - 1) : i]).strip():
            begin, depth = i, 0
        if begin is not None:
            depth += front_matter.opened(line)
            found[i] = ""
            begin = begin if line.strip() or depth > 0 and not MARGIN.match(after) else None
    if begin is not None and depth > 0:  # no code after all
        found[begin:] = lines[begin:]
    return found


def _without_tags(lines, code):
    """The lines of MDX without tags and comments, which may be longer than a line; not those of code."""
    parts, begin = [], 0
    for end in range(1, len(lines) + 1):
        if end == len(lines) or code[end] != code[begin]:
            part = "\n".join(lines[begin:end])
            parts.append(
                part if code[begin] else JSX.sub(lambda tag: tag[0] if tag[1] else "\n" * tag[0].count("\n"), part)
            )
            begin = end
    return "\n".join(parts).split("\n")
