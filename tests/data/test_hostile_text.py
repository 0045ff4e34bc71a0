"""Texts from outside that are made to take long: what reads them needs a time that grows with their length, not faster.

Each text is so long that a pattern which reads it again and again takes minutes; here it has seconds.
"""

import contextlib
import pathlib
import signal

import pytest
from conftest import slowly

from lib.data import beir, words
from lib.data.formats import cells, front_matter, medquad, pages, tables, trec
from lib.data.formats.html_pages import MOST_HEADING
from lib.files import BadInput
from lib.rag import prompts

FILE = pathlib.Path("file")
LENGTH = 200_000  # characters


@contextlib.contextmanager
def seconds(most=10):
    """Fail if the block takes longer; what is linear takes well below one."""

    def stop(*_):
        raise AssertionError(f"took more than {most} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(most)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def repeated(unit):
    """`unit` as often as fits into LENGTH."""
    return unit * (LENGTH // len(unit))


@pytest.mark.parametrize(
    "unit",
    ["<!--", "<a ", "<a b ", "<a b='", '<a b="', "</a ", "</", "<!", "<?", "<![CDATA[", "<!--a--!", "<!doctype ", "<p/",
     "<script ", "<script>", "<style/", "<svg>", "<b>a", "<h1>", "<p>", "&amp", "&#", "<", "< ", "=", "<a ='\"",
     '<div role="navigation" ', "<div hidden>", "<div style='", '<div "', "<pre>"],
)  # fmt: skip
@pytest.mark.parametrize("before", ["<h1>a</h1>", *map(slowly, ("", "<a "))])
def test_html_of_which_nothing_is_closed(unit, before):
    with seconds():
        pages.sections_of_html(before + repeated(unit))


@pytest.mark.parametrize(
    "unit", ["<nav><h1>", *map(slowly, ("<nav>", "<h1><a class=anchor>", "<td>", "</footer>", "class=", "<option>"))]
)
def test_furniture_and_marks_of_which_few_are_closed(unit):
    for before, after in (("", "</footer></nav>"), (repeated("<nav>") + "<footer>" + repeated("<h1>"), "</footer>")):
        with seconds():
            pages.sections_of_html(before + repeated(unit) + after)


@pytest.mark.parametrize(
    "text",
    [
        "# a" + " " * LENGTH + "b",
        "#" + " " * LENGTH,
        "# " + repeated("# ") + "x",
        "# a" + repeated("#") + " x",
        "a\n" + "=" * LENGTH + " " * LENGTH + "b",
        " " * LENGTH + "1" * LENGTH + "\n==",
        repeated("a\n=\n\n")[: LENGTH // 10],
        repeated("```\n"),
        repeated("# a\n")[: LENGTH // 10],
        "a" * 1000 + repeated("\n=="),
        repeated("<!--\n"),
        "# " + repeated("{#"),
        repeated("- ") + "x",
        repeated("a\n")[: LENGTH // 10],
        ":::a" + " " * LENGTH + "b",
        "/// a |" + " " * LENGTH + "b",
        repeated("{%"),
        repeated("{% a "),
        repeated("{{<")[: LENGTH // 2],
        repeated("%% "),
        repeated("<h1>"),
        repeated("{% comment %}\n"),
        repeated("> [!a] ")[: LENGTH // 4],
    ],
    ids=range(23),
)
def test_markdown_with_endless_runs_of_one_sign(text):
    with seconds():
        pages.sections_of_markdown(text)


@pytest.mark.parametrize("unit", ["{/*", "<a {", "<a b={", "<a b='", "`a", "``a`", "<", "{{", "</a", "<a "])
def test_mdx_of_which_nothing_is_closed(unit):
    with seconds():
        pages.KINDS[".mdx"](repeated(unit)[: LENGTH // 4])


@pytest.mark.parametrize("unit", ["a: b\n", 'a: "', "a:\n- b\n", " ", "- ", "a: >\n", "\\"])
def test_a_front_matter_that_goes_on_without_an_end(unit):
    for begin, end in (("---\n", ""), ("---\n", "\n---\n"), ('---\na: "', "\n---\n"), ("+++\na = '", "'\n+++\n")):
        with seconds():
            front_matter.split(begin + repeated(unit) + end)


def test_what_stands_behind_spaces_belongs_to_the_heading():
    found = pages.sections_of_markdown("# a" + " " * 1000 + "b  ##  \nwords\n## C# ##\nmore")
    assert [(number, path[-1], body) for number, path, body, _ in found] == [
        (1, "a".ljust(MOST_HEADING), "words"),
        (3, "C#", "more"),
    ]


def test_a_heading_is_not_repeated_at_its_full_length_in_every_piece_below_it():
    for read, text in (
        (pages.sections_of_markdown, "# " + "h" * LENGTH + "\n" + "## s\nwords\n" * 1000),
        (pages.sections_of_html, "<h1>" + "h" * LENGTH + "</h1>" + "<h2>s</h2>words" * 1000),
    ):
        found = read(text)
        assert len(found) == 1000 and all(len(" > ".join(path)) < 1000 for _, path, *_ in found)


@pytest.mark.parametrize("unit", ["<text>", "<docno>", "<docno>\n", "<title>", "<headline>", "<hl>", "<", "<text", " "])
@pytest.mark.parametrize("before", ["", "<docno>d1</docno>"])
def test_a_trec_doc_of_which_nothing_is_closed(unit, before):
    with seconds(), contextlib.suppress(BadInput):
        trec._sgml_doc(FILE, 1, "<doc>" + before + repeated(unit))


@pytest.mark.parametrize("unit", ["<top>", "<num>", "<top><num>", "<top>\n<num> 1\n<title> a ", "<title> "])
def test_trec_topics_of_which_nothing_is_closed(unit):
    with seconds(), contextlib.suppress(BadInput):
        trec._old_topics(FILE, "<top><num>1<title>b</top>" + repeated(unit))


def test_elements_are_those_from_the_first_tag_to_the_next_end():
    assert trec._elements("a<T>b<t>c</t>d</T>e<t>f</t>g<t>h", "t") == (["b<t>c", "f"], "a d e g<t>h")


@pytest.mark.parametrize("tag", ["topic", "QAPair", "a"])
def test_xml_that_is_nested_deeply_is_refused_in_a_line(tag, tmp_path):
    text = f"<topic>{f'<{tag}>' * 50_000}x{f'</{tag}>' * 50_000}</topic>"
    (tmp_path / "a.xml").write_text(text)
    with seconds():
        for read in (lambda: trec._xml_topics(FILE, text), lambda: list(medquad._pairs(tmp_path / "a.xml"))):
            with pytest.raises(BadInput, match="nested more than"):
                read()


def test_xml_that_never_ends_a_tag(tmp_path):
    (tmp_path / "a.xml").write_text('<Document id="' + "x" * 50 * LENGTH)
    with seconds(), pytest.raises(BadInput, match="cannot be read as XML"):
        list(medquad._pairs(tmp_path / "a.xml"))


def test_numbers_of_characters_that_python_refuses_to_read():
    assert beir.unescape("a&#" + "1" * 10_000 + ";b &amp; &#65;&#0000000066;") == "a\N{REPLACEMENT CHARACTER}b & AB"
    assert pages.sections_of_html("words &#" + "1" * 10_000)[0][2].startswith("words")
    assert trec._plain("words &#" + "1" * 10_000).startswith("words")


def test_answers_whose_citations_have_spaces_before_them():
    for text, bare in (("a" + " " * LENGTH + "b", "a b"), ("a [1]" + "\n" * LENGTH + "[2] b [3, 4].", "a b.")):
        with seconds():
            assert prompts.bare(text) == bare


def test_letters_with_more_marks_than_any_language_has():
    with seconds():
        for read in (words.words, words.normalise):
            read("a" + "\u0301\u0327" * (LENGTH // 2) + " b")
    assert words.words("e\u0301" * 40) == ["é" * 40]


def test_a_question_with_very_many_answers(tmp_path):
    row = {"question": "which?", "doc": "this and that"}
    with seconds():
        rows = ((i, row | {"answer": f"answer {i // 2}"}) for i in range(1, 40_000))
        docs, queries, judged, *_ = tables.read("t.jsonl", {}, rows)
        beir.write_collection(tmp_path / "out", docs, queries, judged)
    assert '"answers": ["answer 0", "answer 1", "answer 2"' in (tmp_path / "out/queries.jsonl").read_text()


@pytest.mark.parametrize(
    "text", ["[" + repeated("'a' "), "['" + repeated("a' '"), "[" + repeated("'a"), "<p>" + repeated("<b>a")]
)
def test_cells_of_which_nothing_is_closed(text):
    with seconds():
        cells.listed(text)
        cells.without_markup(text + "</p>", code=True)
