"""Sections of reStructuredText, read by docutils with what it has no directive or role of as text; and of notebooks."""

import functools
import re

from lib.data.formats import front_matter
from lib.files import BadInput, parse_json

TARGET = re.compile(r"\s+<[^<>]*>$")  # of `title <target>`
# directives that hold no text of the page, and those whose argument is none
SILENT = {"toctree", "index", "currentmodule", "module", "py:module", "highlight", "literalinclude", "image", "include"}
SILENT |= {"raw", "contents", "tabularcolumns"}
CODE = {"code-block", "sourcecode", "code"}
WITHOUT_ARGUMENT = {"only", "figure", "automodule"}
KEPT = {"note", "warning", "tip", "hint", "important", "caution", "danger", "attention", "error", "admonition", "table"}
KEPT |= {"list-table", "csv-table", "topic", "sidebar", "epigraph", "container", "rubric", "math", "replace", "unicode"}
QUIET = {"report_level": 5, "halt_level": 5, "file_insertion_enabled": False, "raw_enabled": False}
QUIET |= {"_disable_config": True, "doctitle_xform": False, "line_length_limit": 10**7, "warning_stream": False}


@functools.cache
def _docutils():
    """docutils, taught to read any directive as its text and any role as its title."""
    import docutils.core
    from docutils import nodes, utils
    from docutils.parsers.rst import Directive, directives, roles

    class Any(dict):
        """Options of a directive: those that are not known are texts."""

        def __missing__(self, name):
            return str

    class Text(Directive):
        has_content, optional_arguments, final_argument_whitespace = True, 1, True
        option_spec = Any({"class": str})  # empty, it would mean that there are none

        def run(self):
            """The nodes of argument and content."""
            name, (first, *below) = self.name.lower(), [*self.arguments, ""][0].split("\n")
            if name in SILENT:
                return []
            if name in CODE:  # whose text may begin below the language without an empty line
                return [nodes.literal_block(text="\n".join([*below, *self.content]))]
            box = nodes.container()
            if self.arguments and name not in WITHOUT_ARGUMENT:
                box += nodes.paragraph("", "", *self.state.inline_text(" ".join([first, *below]), self.lineno)[0])
            self.state.nested_parse(self.content, self.content_offset, box)
            return [box]

    def role(name, raw, text, number, inliner, options=None, content=()):
        return [nodes.inline(text=TARGET.sub("", re.sub(r"^[~!](?=\w)", "", utils.unescape(text, True))))], []

    known_directive, known_role = directives.directive, roles.role

    def directive(name, *how):
        found = known_directive(name.lower(), *how)[0] if name.lower() in KEPT else None
        if found is None:
            return Text, []
        return type(found.__name__, (found,), {"option_spec": Any(found.option_spec or {"class": str})}), []

    def any_role(name, *how):
        found = known_role(name, *how) if name in ("emphasis", "strong", "literal", "title-reference") else None
        return found if found and found[0] else (role, [])

    directives.directive, roles.role = directive, any_role
    return docutils.core, nodes


def sections_of_rst(text):
    """[(line, (headings above, outermost first), text)] of a reStructuredText page."""
    core, nodes = _docutils()
    try:
        tree = core.publish_doctree(text, settings_overrides=QUIET)
    except Exception as error:  # of a library that reads what it was not made for
        raise BadInput(f"no reStructuredText ({type(error).__name__}: {str(error)[:100]})") from None
    left_out, found = (nodes.section, nodes.target, nodes.title), []

    def walk(node, path):
        body = [each for each in node.children if not isinstance(each, left_out)]
        body = [each for each in body if path or not isinstance(each, (nodes.field_list, nodes.docinfo))]
        if shown := "\n\n".join(part for each in body if (part := _text(each, nodes).strip())):
            found.append((_line(node), path, shown))
        for section in (each for each in node.children if isinstance(each, nodes.section)):
            walk(section, (*path, " ".join(section[0].astext().split())[:500]))

    walk(tree, ())
    return found


def _text(node, nodes):
    """The text of a node without what docutils says of it."""
    if isinstance(node, (nodes.comment, nodes.substitution_definition)):
        return ""
    if isinstance(node, nodes.system_message):  # what docutils could not read, as it stands
        return "\n".join(child.astext() for child in node.children if isinstance(child, nodes.literal_block))
    if isinstance(node, nodes.Text):
        return node.astext()
    inline = isinstance(node, nodes.TextElement)
    shown = ("" if inline else "\n").join(_text(child, nodes) for child in node.children)
    if isinstance(node, nodes.list_item):
        of, number = node.parent, node.parent.get("start", 1) + node.parent.index(node)
        shown = f"{f'{number}.' if of.get('enumtype') == 'arabic' else '-'} {shown.strip()}".replace("\n", "\n  ")
    return shown


def _line(node):
    return next((each.line for each in [node, *node.children] if getattr(each, "line", None)), 1)


def markdown_of_notebook(text):
    """The cells of a Jupyter notebook as Markdown: text as it stands, code in fences, without outputs."""
    try:
        found = parse_json(text)
        cells = (
            found["cells"] if "cells" in found else [cell for sheet in found["worksheets"] for cell in sheet["cells"]]
        )
        parts = []
        for cell in cells:
            source = cell.get("source", cell.get("input", ""))
            source = source if isinstance(source, str) else "".join(source)
            if cell["cell_type"] == "raw" and not parts:  # what stands above a page for the programs that make it
                source = f"# {title}" if (title := front_matter.split(source)[0]) else ""
            elif cell["cell_type"] == "heading":  # of older notebooks
                source = f"{'#' * int(cell.get('level', 1))} {source.strip()}"
            longest = max(map(len, re.findall(r"^[ ]*(~{3,}|`{3,})", source, re.MULTILINE)), default=0)
            fence = "~" * max(6, longest + 1)
            if cell["cell_type"] == "code" and source.strip():
                source = f"{fence}\n{source}\n{fence}"
            elif len(opened := re.findall(r"^[ ]{0,3}(~{3,}|`{3,})", source, re.MULTILINE)) % 2:
                source = f"{source}\n{opened[-1]}"  # a fence that is left open ends with its cell
            parts.append(source)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"no notebook ({type(error).__name__}: {str(error)[:100]})") from None
    return "\n\n".join(parts)
