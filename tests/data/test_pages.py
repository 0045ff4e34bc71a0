"""Folders of pages: front matter, fences, tables and charsets, as the pages of documentation have them."""

import json

import pytest

from lib.data.collection import load_collection
from lib.data.formats import front_matter, pages
from lib.data.formats.html_pages import MOST_HEADING
from lib.data.made_queries import first_sentence
from lib.files import BadInput

WORDS = "Plug the cable into the wall."
YAML = """---
id: install-router
title: "Install: the \\"router\\""
date: 2024-01-02
weight: 010 # octal elsewhere
# a note to ourselves
keywords: [router, cable]
tags:
- setup
summary: >-
  two lines
  of it
authors:
  name: Ann
draft:
---
"""


def write(folder, **files):
    """The folder, with the files {name: text or bytes}; __ in a name is its point."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def docs_of(folder):
    """{id: record} of a folder's docs."""
    return {
        each: found.docs.record(i) for found in [load_collection(str(folder))] for i, each in enumerate(found.docs.ids)
    }


def test_a_front_matter_gives_the_title_and_metadata_and_no_text(tmp_path):
    toml = '+++\ntitle = "Second page"\ndate = 2024-01-02\ndraft = true\ntags = ["a"]\n[more]\na = 1\n+++\n'
    page = f"{YAML}{WORDS}\n\n## Reset\n\nHold the button for ten seconds.\n"
    folder = write(tmp_path / "notes", a__md=page, b__mdx=f"{toml}# second page\n\n{WORDS}\n")
    write(
        folder, c__html=f"---\r\ntitle: 'It''s a page'\r\n---\r\n<p>{WORDS}</p>", d__txt=f"---\ntitle: x\n---\n{WORDS}"
    )
    docs = docs_of(folder)
    fields = {"id": "install-router", "date": "2024-01-02", "weight": "010", "summary": "two lines of it"}
    title = 'Install: the "router"'
    assert docs["a.md#1"]["metadata"] == fields | {"name": title, "file": "a.md", "line": 17}
    assert docs["a.md#1"]["text"] == WORDS and docs["a.md#1"]["title"] == title
    assert docs["a.md#2"]["title"] == f"{title} > Reset" and docs["a.md#2"]["metadata"]["line"] == 19
    assert docs["b.mdx#1"]["title"] == "second page" and docs["b.mdx#1"]["text"] == WORDS
    assert {"date": "2024-01-02", "draft": "true"}.items() <= docs["b.mdx#1"]["metadata"].items()
    assert docs["c.html#1"]["title"] == "It's a page" and docs["c.html#1"]["text"] == WORDS
    assert docs["d.txt#1"]["text"].startswith("---\ntitle: x")


@pytest.mark.parametrize(
    "text",
    [
        "---\ntitle: never closed\n\nwords\n",
        f"---\n{WORDS}\n---\nmore words\n",
        "---\n\nNote: words below a rule\n\n---\n",
        "+++\nno toml at all\n+++\n",
        "+++\ntitle = 'a'\n---\n",
        "words\n---\ntitle: x\n---\n",
        "---\n" + "a: b\n" * front_matter.MOST_LINES + "---\n",
        "--- \n- a list\n---\n",
        "+++\na = " + "[" * 100_000 + "\n+++\n",
    ],
    ids=range(9),
)
def test_what_is_no_front_matter_stays_text(text):
    assert front_matter.split(text) == ("", {}, text)


@pytest.mark.parametrize(
    "text",
    [
        "---\ntitle: A\nog:title: B\n$schema: x\n---\n",
        "---\n@type: x\n  more\nhttp://x.y/z: 1\ntitle: A\n<<: *d\n---\n",
        "\n\n---\ntitle: A\n---\n",
        "<!-- a licence\n-- of two lines -->\n\n---\ntitle: A\n---\n",
        "---\n\ntitle: A\n\n---\n",
        '{\n  "title": "A",\n  "tags": ["x"],\n  "none": null\n}\n',
    ],
)
def test_front_matters_that_others_write(text):
    assert front_matter.split(text + WORDS) == ("A", {}, "\n" * text.count("\n") + WORDS)


@pytest.mark.parametrize("text", ["{\nno JSON\n}\n", "<!-- open\n---\ntitle: A\n---\n", "---\n**Note**: x\n---\n"])
def test_what_only_looks_like_a_front_matter_stays_text(text):
    assert front_matter.split(text) == ("", {}, text)


def test_imports_at_the_top_of_a_page_are_no_text():
    imports = "\nimport Tabs from '@theme/Tabs';\nimport {\n\nimport \"a.css\"\n"
    assert pages.sections_of_markdown(imports.replace("import {\n", "") + WORDS) == [(5, (), WORDS, WORDS)]
    assert pages.sections_of_markdown(imports + WORDS)[0][2].startswith("import {")
    for text in ("Import 'x'", "import it's a word", f"{WORDS}\nimport 'x'"):
        assert pages.sections_of_markdown(text)[0][2] == " ".join(text.split())


def test_fields_take_no_place_of_ours_and_hold_what_can_be_written(tmp_path):
    page = f'---\nname: x\nfile: y\nline: z\ntitle: "\\ud800"\nlong: {"w" * 9999}\n---\n{WORDS}\n'
    (doc,) = docs_of(write(tmp_path / "notes", a__md=page)).values()
    assert doc["metadata"]["file"] == "a.md" and doc["metadata"]["line"] == 8 and doc["title"] == "\\ud800"
    assert len(doc["metadata"]["long"]) == front_matter.MOST_VALUE


MARKDOWN = """```kettle install --driver```

# Cleaning
Pour it.
```sh
x
---
``` no end
# no heading in code
```
Next.
<!-- a note

# no heading in a comment
--> rest

The heading
of two lines
------------
Words.

- an item
goes on
---
One <!-- # kept --> two
"""


def paths(text):
    """[(line, last heading)] of a Markdown text."""
    return [(line, path[-1] if path else "") for line, path, *_ in pages.sections_of_markdown(text)]


def test_fences_comments_and_underlines_are_those_of_commonmark():
    assert paths(MARKDOWN) == [(1, ""), (3, "Cleaning"), (17, "The heading of two lines")]
    code = pages.sections_of_markdown(MARKDOWN)[1][2]
    assert "\n\nx\n---\n``` no end\n# no heading in code\n\nNext." in code  # its lines, without the fence
    assert "a note" not in code and "in a comment" not in code and code.endswith("rest")
    assert paths("## Reset {#reset}\nwords\n\nBelow {#x}\n=====\nwords") == [(1, "Reset"), (4, "Below")]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("a\n---\nb", [(1, "a")]),
        ("a\n    b\n---\nc", [(1, "a b")]),
        ("> a\nb\n---\nc", [(1, "")]),
        ("    a\n---\nc", [(1, "")]),
        ("***\na\n---\nb", [(2, "a")]),
        ("# A\nb\n===\nc", [(2, "b")]),
        ("<!-- a --> # b\nc", [(1, "")]),
        ("<pre>\n# a\n</pre>\n# b\nc", [(1, ""), (4, "b")]),
        ("<pre># a</pre>\n# b\nc", [(1, ""), (2, "b")]),
        ("<present>\n# b\n\n# c\nd", [(1, ""), (4, "c")]),
        ("~~~ a`b\n# a\n~~~~\n# b\nc", [(1, ""), (4, "b")]),
        ("w " * MOST_HEADING + "\n---\nb", [(1, "")]),
    ],
)
def test_what_an_underline_makes_a_heading(text, wanted):
    assert paths(text) == wanted


SITE = """---
title: Guide
---

# Start { #start }

Text *em* [link](http://x.y), `code`, <abbr title="t">API</abbr> ![a cable](i.png)
goes on.<br>New line.

- one
- two
  1. deep

| key | does |
|-----|------|
| F1  | `help` |

!!! note "Take care"
    Indented **text**.

    ```python hl_lines="1"
    def f():
        return 1
    ```

/// tip | Hint

inside {% raw %}

///

{* ../x.py hl[1] *}

::: package.Thing
    options:
        members: no

:::warning
a box
:::

<p align="center"><em>shown</em><script>no()</script></p>

## Below [#below]

{% for x in y %} {{ x.z }}
"""


def test_what_a_reader_sees_of_a_page_of_a_site():
    ((line, path, text, lead),) = pages.sections_of_markdown(front_matter.split(SITE)[2])
    assert (line, path) == (5, ("Start",)) and lead == "Text em link, code, API a cable goes on.\nNew line."
    parts = [
        lead, "- one\n- two\n  1. deep", "key | does\nF1 | help", "Take care Indented text.",
        "def f():\n    return 1", "Hint", "inside", "a box", "shown",
    ]  # fmt: skip
    assert text.split("\n\n") == parts


@pytest.mark.parametrize(
    "text",
    [
        "Use `{% for %}` and `{{ x }}` in a page.",
        "=== is strict equality",
        "!!! wow, this is a lot",
        "/// Returns the sum of both.",
        "??? is what nobody knows",
        "{% raw %}\n\nWrite `{% if %}` here.",
    ],
)
def test_what_only_looks_like_a_mark_of_a_site_stays(text):
    ((_, _, found, _),) = pages.sections_of_markdown(text)
    assert found == text.removeprefix("{% raw %}\n\n").replace("`", "")


MDX = """import X from 'y'

# What's new [#new]

<Callout emoji="!">
  **Bold** in a <Link href={`/a/${b}`}>link</Link>, `<Kept>`
</Callout>

{/* a comment
over lines */}
<Video
  src="x" style={{ width: '100%' }}
/>

```jsx
<Kept a={b}/>
```

## 数据 [#data]

当你设置了选项时，它会在请求完成之前更新本地数据。 在那之后。
"""


def test_tags_of_mdx_are_no_text_outside_of_code(tmp_path):
    (_, path, text, _), (line, below, *_) = pages.KINDS[".mdx"](MDX)
    assert path == ("What's new",) and text == "Bold in a link, <Kept>\n\n<Kept a={b}/>"
    assert line == 19 and below == ("What's new", "数据")
    found = load_collection(str(write(tmp_path / "site", a__mdx=MDX, b__md=WORDS)))
    texts = {found.queries.text(row) for row in range(len(found.queries))}
    assert "当你设置了选项时，它会在请求完成之前更新本地数据。" in texts and found.docs.ids[1] == "a.mdx#2"


def test_queries_of_pages_are_asked_once_and_begin_where_a_sentence_does(tmp_path):
    long = " ".join(f"w{i}" for i in range(300))
    release = "# v{0}\n\n## Fixes\n\nThis fixes number {0} of all.\n\n## Same\n\nThe same words stand everywhere.\n"
    files = {f"r{i}__md": release.format(i) for i in range(12)}
    found = load_collection(str(write(tmp_path / "site", **files, long__md=f"# Long\n\n{long}")))
    asked = {found.queries.text(row): found.queries.ids[row] for row in range(len(found.queries))}
    assert len(asked) == len(found.queries) and {"v3 Fixes", "v3 Same", "Long"} <= asked.keys()
    judged = {qid: set(grades) for split in found.qrels for qid, grades in found.qrels_dict(split).items()}
    assert judged[asked["The same words stand everywhere."]] == {f"r{i}.md#2" for i in range(12)}
    assert judged[asked["Long"]] == {"long.md#1", "long.md#2"}
    assert sum(text.startswith("w") for text in asked) == 1  # the second piece begins with no sentence
    assert all(len(found.split(split)) for split in ("train", "dev", "test"))


def test_abbreviations_end_no_sentence():
    def first(text):
        return first_sentence({"text": text}, 0)

    assert first("Use apt, i.e. the tool. Then go.") == "Use apt, i.e. the tool."
    assert first("See Fig. 2 by Dr. Who vs. all? Yes.") == "See Fig. 2 by Dr. Who vs. all?"
    assert first("Say no. Then go.") == "Say no."


@pytest.mark.parametrize("count", [3, 10, 11, 12, 13])
def test_no_split_of_a_folder_is_empty(tmp_path, count):
    files = {f"p{i}__md": f"# P{i}\n\nPage number {i} has these words.\n" for i in range(count)}
    found = load_collection(str(write(tmp_path / "site", **files)))
    assert all(len(found.split(split)) for split in ("train", "dev", "test"))
    of_file = {}
    for split in found.qrels:
        for grades in found.qrels_dict(split).values():
            of_file.setdefault(next(iter(grades)), set()).add(split)
    assert count < 10 or all(len(splits) == 1 for splits in of_file.values())


RST = """:orphan:

The *Router*
============

Plug the :ref:`red cable <cable>` into the wall; see :func:`~os.path.join`, |it| and ``x = 1``.

.. |it| replace:: the manual
.. a comment
.. toctree::
   :maxdepth: 2

   other

Reset
-----

.. function:: reset(seconds)
   :noindex:

   Hold the button for ten seconds.

.. versionadded:: 3.2
   A longer press.

.. code-block:: python
   :linenos:

   # no heading
   reset(10)

==== ====
key  does
==== ====
F1   help
==== ====
"""


def test_restructured_text_is_read_with_the_directives_and_roles_of_sphinx():
    (_, path, text), (line, deeper, below) = pages.KINDS[".rst"](RST)
    assert path == ("The Router",) and deeper == ("The Router", "Reset") and 15 <= line <= 20
    assert text == "Plug the red cable into the wall; see os.path.join, the manual and x = 1."
    assert (
        pages.KINDS[".rst"]("A\\ |b| \\*c\n")[0][2].startswith("A")
        and "\0" not in pages.KINDS[".rst"]("a\\ b \\*c")[0][2]
    )
    lines = [line for line in below.splitlines() if line.strip()]
    assert lines == ["reset(seconds)", "Hold the button for ten seconds.", "3.2 A longer press.", "# no heading",
                     "reset(10)", "key", "does", "F1", "help"]  # fmt: skip


def test_lists_of_restructured_text_keep_their_marks():
    text = "T\n=\n\n3. a\n#. b\n\n   more\n\n* c\n\n  - d\n"
    assert pages.KINDS[".rst"](text)[0][2] == "3. a\n4. b\n  more\n\n- c\n  - d"


def test_broken_restructured_text_is_text():
    text = "Title\n===\n\n.. nosuch:: a\n   :x: y\n\n   body\n\n:norole:`b` `open *c\n\nDeep\n~~~\n\n- d\n e\n"
    found = " ".join(part for _, _, part in pages.KINDS[".rst"](text))
    assert {"a", "body", "b", "d", "e"} <= set(found.split()) and "system" not in found.lower()


def test_notebooks_are_their_cells_without_outputs(tmp_path, capsys):
    cells = [
        {"cell_type": "markdown", "source": ["# Setup\n", "\n", f"{WORDS}"]},
        {"cell_type": "code", "source": "# no heading\nimport os", "outputs": [{"text": ["secret"]}]},
        {"cell_type": "markdown", "source": f"## Use\n{WORDS}"},
    ]
    folder = write(tmp_path / "notes", a__ipynb=json.dumps({"cells": cells, "nbformat": 4}), b__md=WORDS)
    found = docs_of(folder)
    assert [doc["title"] for doc in found.values()] == ["Setup", "Setup > Use", "b"]
    assert "import os" in found["a.ipynb#1"]["text"] and not any("secret" in doc["text"] for doc in found.values())
    write(folder, c__ipynb="[1]")
    with pytest.raises(BadInput, match="c.ipynb: no notebook"):
        load_collection(str(folder))


def test_pages_of_other_kinds_are_counted_and_named(tmp_path, capsys):
    folder = write(tmp_path / "notes", a__md=f"# A\n\n{WORDS}\n", b__adoc="B\n=\n", c__PDF="x", d__adoc="D", e__png="x")
    (folder / "node_modules/x").mkdir(parents=True)
    (folder / "node_modules/x/README.md").write_text(f"# X\n\n{WORDS}\n")
    assert list(docs_of(folder)) == ["a.md#1"]
    printed = capsys.readouterr()
    assert "folders of programs, left out: 1 (node_modules)" in printed.out + printed.err
    wanted = "files of kinds that are not read (2 .adoc, 1 .pdf), left out: 3 (b.adoc, c.PDF, d.adoc)"
    assert (printed.out + printed.err).count(wanted) == 1
    (folder / "a.md").unlink()
    with pytest.raises(BadInput, match="is in it; files of kinds that are not read: 2 .adoc, 1 .pdf"):
        load_collection(str(folder))


def html(charset, word="café", codec=None):
    """A page in a charset that names it, or in another codec."""
    return f'<html><head><meta charset="{charset}"></head><p>the {word} opens at eight</p>'.encode(codec or charset)


def test_a_page_of_html_is_read_by_the_charset_that_it_names(tmp_path):
    folder = write(tmp_path / "notes", a__html=html("ISO-8859-1"), b__html=html("utf-8"), f__md=WORDS)
    write(folder, c__htm=html("koi8-r", "чай"), d__html=html("iso-8859-1", "“café”", "cp1252"))
    write(folder, e__html=html("punycode", codec="utf-8"), g__html=html("cp99999", codec="utf-8"))
    http = '<meta http-equiv="Content-Type" content="text/html; charset=gb2312"><p>the 茶 opens at eight'
    write(folder, h__html=http.encode("gb2312"), i__html=b"\xef\xbb\xbf" + html("latin1", codec="utf-8"))
    texts = [doc["text"].split()[1] for doc in docs_of(folder).values()]
    assert texts == ["café", "café", "чай", "“café”", "café", "the", "café", "茶", "café"]


def test_all_files_that_cannot_be_read_are_in_one_message(tmp_path):
    folder = write(
        tmp_path / "notes", a__md=b"caf\xe9", b__md=WORDS, c__html=html("gbk", "caf") + b"\xff", d__txt=b"\xff"
    )
    with pytest.raises(BadInput) as error:
        load_collection(str(folder))
    message = str(error.value)
    assert "a.md:1: not UTF-8" in message and "c.html:1: not gbk" in message and "d.txt:1" in message
    assert "\n" not in message and "b.md" not in message
    write(folder, **{f"x{i}__md": b"\xff" for i in range(30)})
    with pytest.raises(BadInput, match="; and 23 more: python -m lib.data.check names all$"):
        load_collection(str(folder))


PAGE = """<html><head><title>T</title></head><body><header><a href="/">Home</a><a href="/shop">Shop</a></header>
<nav><h2>Menu</h2><a href="/a">Other page</a></nav><h1>Lights<a class="headerlink" href="#l" title="Link">¶</a></h1>
<table><tr><th>Light</th><th>Meaning</th></tr><tr><td>green</td><td>online</td></tr></table>
<h2><a class="anchor" href="#o">#</a> Options</h2><dl><dt>--fast</dt><dd>no self test</dd></dl><label>Country</label>
<select><option>Albania</option><option>Belgium</option></select><figure>f<figcaption>A picture</figcaption></figure>
<h3><a class="anchor" href="#c">C#</a> and <a href="/plus">+</a></h3><p>words</p>
<footer><h4>Legal</h4>Copyright nobody.</footer></body></html>"""


def test_html_without_furniture_and_marks_and_with_cells_apart():
    found = [(headings[-1], " ".join(body.split())) for _, headings, body in pages.sections_of_html(PAGE)]
    assert found == [
        ("Lights", "Light Meaning green online"),
        ("Options", "--fast no self test Country Albania Belgium f A picture"),
        ("C# and +", "words"),
    ]


def test_a_heading_of_html_holds_blocks_and_the_page_s_title_stands_in_for_it():
    deep = f"<h1>Foo<br>Bar</h1><p>a</p><h2><div>Deep</div> <p>down</p></h2><p>{WORDS}</p><h2>Open<p>b<h2>Next</h2>c"
    found = [(path[-1], body) for _, path, body in pages.sections_of_html(deep)]
    assert found == [("Foo Bar", "a"), ("Deep down", WORDS), ("Open", "b"), ("Next", "c")]
    head = "<html><head>\n<title>How to\n cancel &amp; leave</title></head><body>"
    title = "How to cancel & leave"
    assert [path for _, path, _ in pages.sections_of_html(f"{head}a<h2>Now</h2>b")] == [(title,), (title, "Now")]
    assert [path for _, path, _ in pages.sections_of_html(f"{head}<h1>Own</h1>a<h2>Now</h2>b")] == [
        ("Own",),
        ("Own", "Now"),
    ]
    assert pages.sections_of_html("<svg><title>An icon</title></svg>some words")[0][1] == ()


def test_a_heading_in_a_header_and_below_furniture_that_is_left_open_is_shown():
    for text in (
        "<header><h1>Top</h1></header><p>some words",
        "<footer>menu<h1>Top</h1>some words",
        "<h1>Top<a href=#>",
    ):
        assert [path for _, path, _ in pages.sections_of_html(text + "</a></h1> words")] == [("Top",)]
    assert pages.sections_of_html("<header>menu<main>some words") == [(1, (), "some words")]


def test_of_a_page_with_a_main_part_only_that_is_text():
    words = " ".join(["one two three four five"] * 5)
    around = "<title>T</title><h2>Keyboard shortcuts</h2><p>Press ?</p><h1>The book</h1>{}<p>out"
    for part in (f"<main><h1>Own</h1>{words}</main>", f"<div role=main><h1>Own</h1>{words}</div>"):
        assert [each[1:] for each in pages.sections_of_html(around.format(part))] == [(("Own",), words)]
    assert [path for _, path, _ in pages.sections_of_html(around.format(f"<main>{words}</main>"))] == [("The book",)]
    assert "Press ?" in str(pages.sections_of_html("<p>Press ?<main>too few words"))


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("<header><h1>npm</h1><p>Clean install.</p><ul><li>Menu</ul></header><p>More.", "Clean install. More."),
        ("<table><tr><td>a</td><td>b</td><p>before</table>after", "before a b after"),  # as browsers mend it
        ("<tr><td>a</td><td>b</td></tr>", "a b"),  # a piece of a page, as Markdown gives it
        ("<?xml version='1.0'?><!DOCTYPE html><p>a<?php echo 1 ?>b</p><!-- </nav> --><!--> c", "ab c"),
        ("<div role=tabpanel hidden>pnpm add x</div><div role=tab hidden>no</div>", "pnpm add x"),
        ("<p hidden=until-found>shown when searched</p><p hidden>never</p>", "shown when searched"),
        ("<script>if (a < b) '</p>'</script><textarea><b></textarea><iframe src=x>no</iframe>a", "<b>a"),
        ("<p><b>bold<p>still</b> not", "bold still not"),
        ("<ol><li>a<li><p>b</p><ul><li>c</ul><li></ol><ol start=7><li>d</ol><li>e", "1. a 2. b - c 7. d - e"),
        ("<body hidden style='display: none'>until it is loaded", "until it is loaded"),
        (f"<p>out<main style='display: none'>{'all of it ' * 20}</main>", ("all of it " * 20).strip()),
        (f"<p>外<main>{'正文' * 40}</main>", "正文" * 40),
    ],
)
def test_html_is_what_a_browser_makes_of_it(text, wanted):
    assert " ".join(" ".join(body for *_, body in pages.sections_of_html(text)).split()) == wanted


@pytest.mark.parametrize(
    "code, left",
    [
        ("import A from 'a';\nexport const meta = {\n  title: 'x {',\n};\n", ""),
        ("export default function Page(props) {\n  return <A>{props}</A>;\n}\n", ""),
        ("import {\n  A,\n  B\n} from 'y'\nimport C, { D,\n  E } from 'z';\nexport const x = {\n  a: 1\n}\n", ""),
        ("import A from 'a';\nimport {\n  never closed\n", "import {\n  never closed\n"),
        ("import {", "import {"),
        ("export const x = [\n  never closed\n", "export const x = [\n  never closed\n"),
        ("export your data as CSV (see below)\n", "export your data as CSV (see below)\n"),
    ],
)
def test_exports_of_mdx_are_no_text(code, left):
    found = front_matter.without_imports(code + "\nThe text.\n")
    assert found.strip() == (left + "\nThe text.").strip() and found.count("\n") == (code + "\nThe text.\n").count("\n")


def test_keys_of_several_words():
    title, fields, _ = front_matter.split("---\ntitle: A\nlast updated by: Ann\n---\nText: of the page\n")
    assert title == "A" and fields == {"last updated by": "Ann"}


@pytest.mark.parametrize(
    "text, wanted",
    [
        (":file:`~/.bashrc` and :code:`List<int>` and :c:type:`vector <v>`", "~/.bashrc and List<int> and vector"),
        (".. note::\n   :collapsible:\n\n   Kept text.", "Kept text."),
        (".. math::\n   :label: eq1\n\n   a = b", "a = b"),
        (".. Code-Block:: python\n   x = 1\n   y = 2", "x = 1\ny = 2"),
        (".. versionadded:: 3.5 The ``foo`` of :ref:`it <x>`", "3.5 The foo of it"),
    ],
)
def test_what_docutils_does_not_know_loses_no_text(text, wanted):
    ((_, _, found),) = pages.KINDS[".rst"](text + "\n")
    assert wanted in found and "\x00" not in found
