"""Marks that the programs which make sites put around text: they are no text, and what stands inside of them is."""

import json

import pytest

from lib.data.formats import front_matter, pages
from lib.data.formats.html_pages import sections_of_html
from lib.data.formats.markdown_pages import sections_of_markdown
from lib.data.formats.rst import markdown_of_notebook


def read(text, **how):
    """[(the last heading or "", text)] of a page."""
    return [(path[-1] if path else "", body) for _, path, body, *_ in sections_of_markdown(text, **how)]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("{{< note >}}Keep it dry.{{< /note >}}", "Keep it dry."),
        ("{{% notice tip %}}Keep it dry.{{% /notice %}}", "Keep it dry."),
        ('See [the page]({{< ref "p.md" >}}) {{< figure src="x.png" >}}now.', "See the page now."),
        ("> [!NOTE]\n> Hold the button.", "Hold the button."),
        ("> [!warning]- Hot\n> Hold the button.", "Hot Hold the button."),
        ('::: {.callout-note title="Good to know"}\nHold it.\n:::', "Good to know\n\nHold it."),
        (":::: {.columns}\nHold it.\n::::", "Hold it."),
        ("[TOC]\n\n[[_TOC_]]\n\nHold it.", "Hold it."),
        ("See [[Page one|the page]] and [[Page two]]. %% hidden %%", "See the page and Page two."),
        ("Use `[[x|y]]` and `{{< x >}}`.", "Use [[x|y]] and {{< x >}}."),
        ("[Go](x.md){ .md-button }", "Go"),
        ("Run:\n\n    [[ -f x ]] && echo [[a]]", "Run: [[ -f x ]] && echo [[a]]"),
        ("Of 50%% and 20%% take [[ -f x ]].", "Of 50%% and 20%% take [[ -f x ]]."),
        ("{% comment %}\nHas no end.", "Has no end."),
        ("Hold it.\n{: .note }", "Hold it."),
        ("{% comment %}hidden{% endcomment %}\nHold it.", "Hold it."),
        ("{% comment %}\nhidden\n{% endcomment %}\nHold it.", "Hold it."),
        ("{% highlight ruby %}\n# a comment\nputs 1\n{% endhighlight %}", "# a comment\nputs 1"),
    ],
)
def test_marks_are_no_text(text, wanted):
    assert [(title, " ".join(body.split())) for title, body in read(text)] == [("", " ".join(wanted.split()))]


def test_headings_in_html_are_headings():
    text = '<h1 align="center">My project</h1>\n<p align="center">It is small.</p>\n\n<h2>Usage</h2>\n\nRun it.'
    assert read(text) == [("My project", "It is small."), ("Usage", "Run it.")]


def test_an_export_without_a_semicolon_is_no_text():
    assert read("export const meta = { a: 1 }\n\n# T\n\nText.", mdx=True) == [("T", "Text.")]


def test_a_key_of_front_matter_may_stand_before_a_blank():
    assert front_matter.split("---\ntitle : My post\nlayout : post\n---\nText.")[:2] == ("My post", {"layout": "post"})


def test_cells_of_a_notebook_do_not_run_into_one_another():
    cells = [
        {"cell_type": "raw", "source": "---\ntitle: The book\n---"},
        {"cell_type": "markdown", "source": "```\nleft open"},
        {"cell_type": "heading", "level": 2, "source": "Part"},
        {"cell_type": "code", "source": ["x = '''\n", "~~~~~~\n", "# no heading\n", "'''"]},
        {"cell_type": "markdown", "source": "The end."},
    ]
    found = read(markdown_of_notebook(json.dumps({"cells": cells})))
    assert found[0] == ("The book", "left open")
    assert found[1][0] == "Part" and found[1][1].split() == "x = ''' ~~~~~~ # no heading ''' The end.".split()


def test_code_of_html_keeps_its_lines():
    found = sections_of_html("<h1>T</h1><p>Run  it:</p><pre><code>def f():\n    return 1\n</code></pre><p>Done.</p>")
    assert [line for line in found[0][2].split("\n") if line] == ["Run it:", "def f():", "    return 1", "Done."]


@pytest.mark.parametrize(
    "tag", ['div role="navigation"', "div class='x' role=search", 'div style="display: none"', "section hidden"]
)
def test_furniture_by_role_is_no_text(tag):
    name = tag.split()[0]
    page = f"<body><{tag}><h3>Quick</h3><{name}>search</{name}></{name}><h1>T</h1><p>Text.</p></body>"
    assert [body for *_, body in sections_of_html(page)] == ["Text."]
    assert "Seen." in sections_of_html('<div class="flex hidden md:block"><p>Seen.</p></div>')[0][2]
    assert "Text." in sections_of_html(f"<{tag}>never closed<p>Text.</p>")[0][2]


@pytest.mark.parametrize(
    "named, codec",
    [("tis-620", "cp874"), ("windows-31j", "cp932"), ("ks_c_5601-1987", "cp949"), ("latin2", "iso8859-2")],
)
def test_charsets_by_the_names_of_browsers(tmp_path, named, codec):
    text = {"cp874": "สวัสดี", "cp932": "東京", "cp949": "한국", "iso8859-2": "żółty"}[codec]
    path = tmp_path / "p.html"
    path.write_bytes(f'<meta charset="{named}"><p>{text}</p>'.encode(codec))
    assert text in pages._decoded(path)
    path.write_text(f"<p>{text}</p>", encoding="utf-16")
    assert text in pages._decoded(path)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("```{figure} a.png\n:name: fig\n:width: 200px\n\nA caption.\n```", "A caption."),
        (":::{note}\n:class: dropdown\nHold it.\n:::", "Hold it."),
        ("```{code-block} sh\n:caption: How to\n:linenos:\n\nrun\n```", "How to run"),
        ("```{code-block} python\n:linenos:\nx = {':a:': 1}\n:kept:\n```", "x = {':a:': 1} :kept:"),
        ("(a-target)=\nSee {ref}`the page <a-target>`, {term}`word` and {doc}`<b>`.", "See the page, word and b."),
        ("`{a}` and `x {b}`, (y)= z", "{a} and x {b}, (y)= z"),
    ],
)
def test_marks_of_myst(text, wanted):
    assert " ".join(read(text)[0][1].split()) == wanted


@pytest.mark.parametrize(
    "end",
    [
        "export default ({children}) => <Layout meta={meta}>{children}</Layout>",
        "export default function Page(props) {\n  const a = [1,\n\n 2];\n  return <A {...props} />;\n}",
        "export const meta = {\n  a: 1,\n\n  b: 2,\n};",
    ],
)
def test_exports_at_the_end_of_mdx(end):
    text = f"# Top\n\nText.\n\n```js\n\nexport default a\n```\n\n{end}\n\nMore."
    assert " ".join(read(text, mdx=True)[0][1].split()) == "Text. export default a More."
    assert "never" in read("Text.\n\nexport const a = {\n\nnever closed", mdx=True)[0][1]
    assert "export default" in read(f"Text.\n\n{end}" if "default" in end else "export default")[0][1]


def test_fields_without_lines_around_them():
    text = "Title: A page\nDate: 2010-12-03 10:20\nTags: a, b\n    c\n\nThe text.\n"
    assert front_matter.split(text) == (
        "A page",
        {"date": "2010-12-03 10:20", "tags": "a, b c"},
        "\n" * 4 + "\nThe text.\n",
    )
    for other in (
        "Title: A page\nwithout a second field\n\nText",
        "Title: a\nNote: b\n\nText",
        "Note: a\nDate: b\n\nText",
    ):
        assert front_matter.split(other) == ("", {}, other)


@pytest.mark.parametrize(
    "text, wanted",
    [
        (":::tip\n:warning: Do not delete the folder.\nMore.\n:::", ":warning: Do not delete the folder. More."),
        (":::{note}\n:warning: Do not delete the folder of it.\n:::", ":warning: Do not delete the folder of it."),
        ("```{.rst}\n:Author: Someone\n```", ":Author: Someone"),
        ("Use {code}``a `b` c`` and {command}`git add <file>`.", "Use {code}a `b` c and git add <file>."),
        ("Use {ref}`<there>`, {py:func}`open <io.open>` and ${x}`y`.", "Use there, open and ${x}y."),
        ("Text.\n\n    x = {a}`b <c>`", "Text. x = {a}`b <c>`"),
    ],
)
def test_what_only_looks_like_myst_stays(text, wanted):
    assert " ".join(read(text)[0][1].split()) == wanted


@pytest.mark.parametrize(
    "code", ["export const a = /\\(/", "export const a = {\n  b: 1, // don't (\n}", "export const s = `(`"]
)
def test_an_export_that_does_not_close_swallows_no_text(code):
    found = read(f"# T\n\n{code}\n\nText one here.\n\n## Next\n\nText two ) end.", mdx=True)
    assert found == [("T", "Text one here."), ("Next", "Text two ) end.")]


@pytest.mark.parametrize(
    "title", ["[Solved] How to fix it", "*args and you", "null", "Issue #5 is fixed", "C #1: a start"]
)
def test_bare_fields_are_taken_as_they_stand(title):
    text = f"Title: {title}\nDate: 2020-01-01\nSummary: [link](http://a) more\n\nBody\n"
    assert front_matter.split(text)[:2] == (title, {"date": "2020-01-01", "summary": "[link](http://a) more"})
