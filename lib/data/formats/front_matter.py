"""What stands above a page's text for the programs that make it: YAML between ---, TOML between +++, or JSON in {}."""

import re
import tomllib

from lib.data import beir

MOST_LINES = 500  # of a front matter: one that is longer is taken for text, and a page is not searched to its end
MOST_VALUE = 500  # characters of a value: every piece of the page repeats it
KEY = re.compile(r"""^(["']?)([A-Za-z_][\w.-]*(?: [\w.-]+){0,3})\1[ ]?:(?:\s+(.*))?$""")
OTHER_KEY = re.compile(r"""^(?:<<|["'$@\w][^\s*`()\[\]]*):(?:\s|$)""")  # og:title: x; a field that is not kept
QUOTED = re.compile(r"""^(?:("(?:[^"\\]|\\.)*+")|'((?:[^']|'')*+)')\s*(?:#.*)?$""")
FOLDED = re.compile(r"^[>|][0-9+-]{0,2}\s*(#.*)?$")  # the value is the lines below
IMPORT = re.compile(r"""^(?:import|export)\s[^"']*+(["'])[^"']+\1;?\s*$""")  # import Tabs from '@theme/Tabs';
# export const meta = {; or an import of names in braces, which is open at the line's end
EXPORT = re.compile(r"^(?:export\s+(?:const|let|var|default|function)\b.*[{(\[;})\]]\s*|import\b[\w$\s,*]*+\{[^{}]*+)$")
# a page of Pelican or MultiMarkdown: its fields stand bare above its first blank line
BARE = {"author", "authors", "category", "date", "lang", "modified", "slug", "status", "summary", "tags", "template"}
ABOVE = re.compile(r"(?:[ \t]*\r?\n|<!--(?:[^-]|-(?!->))*+-->)*+")  # may stand above: blank lines and comments
NOTHING = {"", "~", "null", "Null", "NULL"}


def split(text):
    """(title or "", {name: value}, rest) of a page; all values are strings, dates and numbers as they are written.

    The lines of the front matter are empty ones in `rest`, so that numbers of lines stay right. Only scalars are kept,
    lists and tables are not. Without a closing line, or where a line in between is no field (a page may begin with a
    rule), there is no front matter: ("", {}, text).
    """
    above = ABOVE.match(text)[0]
    first, _, after = text[len(above) :].partition("\n")
    if first.rstrip() not in KINDS:
        return _bare(text, above + first)
    ends, read = KINDS[first.rstrip()]
    lines = after.split("\n", MOST_LINES)
    end = next((i for i, line in enumerate(lines[:MOST_LINES]) if line.rstrip() in ends), None)
    fields = None if end is None else read([line.rstrip() for line in lines[:end]])
    if fields is None:
        return "", {}, text
    fields = {name: value[:MOST_VALUE] for name, value in fields.items() if value}
    return fields.pop("title", ""), fields, "\n" * (above.count("\n") + end + 2) + "\n".join(lines[end + 1 :])


def _bare(text, above):
    """The same of a page that may begin with fields without a line around them: Title: and one of BARE."""
    begin = above.count("\n")
    lines = text.split("\n", begin + MOST_LINES)[begin:]
    end = next((i for i, line in enumerate(lines[:MOST_LINES]) if not line.strip()), 0)
    fields, name = {}, None
    for line in lines[:end]:
        if key := KEY.match(line):
            name = key[2].lower()
            fields[name] = (key[3] or "").strip()
        elif name and line[0] in " \t":
            fields[name] += f" {line.strip()}"
        else:
            return "", {}, text
    if next(iter(fields), "") != "title" or not BARE & fields.keys():
        return "", {}, text
    return fields.pop("title"), fields, "\n" * (begin + end) + "\n".join(lines[end:])


def opened(line):
    """How many brackets a line of code opens, less those that it closes."""
    code = re.sub(r"""(["'`])(?:\\.|(?!\1).)*+\1""", "", line)
    return sum(code.count(sign) for sign in "{[(") - sum(code.count(sign) for sign in "}])")


def without_imports(text):
    """A Markdown text in which imports and exports of MDX at its top are empty lines; those further down stay."""
    lines, open_brackets, begin = text.split("\n"), 0, 0
    for i, line in enumerate(lines):
        if open_brackets or IMPORT.match(line) or EXPORT.match(line):  # an export ends where its brackets close
            begin = begin if open_brackets else i
            open_brackets += opened(line)
            if open_brackets < 0:
                break
            lines[i] = ""
        elif line.strip():
            break
    if open_brackets > 0:  # no code after all
        lines[begin:] = text.split("\n")[begin:]
    return "\n".join(lines)


def _toml(lines):
    """{name: string} of the scalars at the top of a TOML text, or None if it is none."""
    try:
        return _scalars(tomllib.loads("\n".join(lines)))
    except (ValueError, RecursionError):
        return None


def _json(lines):
    """The same of the lines of a JSON object, without its braces."""
    try:
        return _scalars(beir.parse_json("\n".join(["{", *lines, "}"])))
    except ValueError:
        return None


def _scalars(values):
    """{name: string} of what is neither a list nor a table."""
    values = {name: value for name, value in values.items() if value is not None}
    values = {name: str(value).lower() if isinstance(value, bool) else value for name, value in values.items()}
    return {name: " ".join(str(value).split()) for name, value in values.items() if not isinstance(value, dict | list)}


def _yaml(lines):
    """{name: string} of the scalars at the top of a YAML text, or None if a line at its edge is no field of it.

    Not all of YAML, and more than it: pages use keys, strings and lists, and such titles as `a: b` or `{{ x }}`, which
    a parser of YAML refuses with all that stands around them.
    """
    found, name = {}, None  # found: {name: [its value's first line, lines below]}; None: of keys that are not kept
    for line in lines:
        if key := KEY.match(line):
            name = key[2]
            found[name] = [(key[3] or "").strip()]
        elif OTHER_KEY.match(line):
            name, found[None] = None, [""]
        elif line and line[0] in " \t-]}" and found:  # belongs to the key above; a list may stand at the edge
            found[name].append(line.strip() if line[0] != "-" else line)
        elif line and line[0] != "#":
            return None
    if lines and not lines[0] and "title" not in found:  # a rule, and text below it
        return None
    found.pop(None, None)
    return {name: value for name, lines in found.items() if (value := _scalar(lines)) is not None}


def _scalar(lines):
    """The text of a YAML value, given as its lines, or None if it is a list, a table or nothing."""
    first, *below = lines
    if FOLDED.match(first):
        return " ".join(" ".join(below).split())
    if first[:1] in tuple("[{&*!") or below and not first and (below[0][:1] in tuple("-[{") or KEY.match(below[0])):
        return None
    value = " ".join([first, *below]).strip()
    if quoted := QUOTED.match(value):
        value = quoted[2].replace("''", "'") if quoted[1] is None else _double(quoted[1])
    else:
        value = "" if value[:1] == "#" else value.split(" #", 1)[0].rstrip()
        value = "" if value in NOTHING else value
    return " ".join(value.split()) or None


def _double(quoted):
    """The text in double quotes; what JSON does not know of YAML's escapes stays as it is written."""
    try:
        return beir.parse_json(quoted)
    except ValueError:
        return quoted[1:-1]


# the line above -> (lines that end it, what reads those between)
KINDS = {"---": (("---", "..."), _yaml), "+++": (("+++",), _toml), "{": (("}",), _json)}
