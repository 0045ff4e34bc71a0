"""The embedded collection's parts, on a folder of made-up source files."""

import ast
import types

import pytest

from lib import files
from lib.data import beir
from lib.data import collection as collection_
from lib.data.formats import python_code

SOURCE = '''"""A module."""
import os


def visible(path, *, mode="r"):
    """Open the file at :func:`path` and ``return`` its content.  It is closed again.

    A second paragraph.
    """
    with open(path, mode) as file:
        return file.read()


class Reader:
    """A class is no doc."""

    @property
    def size(self):
        """Number of bytes that were read so far"""
        return self._size

    def __len__(self):
        """Number of lines that were read so far"""
        return self._lines

    async def fetch(self):
        "Fetch the next block of the stream."
        def inner():
            """Do what the outer function asks for."""
            return 1
        return inner()


if os.name:
    def guarded(x):
        """Say whether the value is above zero."""
        return x > 0

try:
    import missing
except ImportError:
    pass


def too_short():
    """Two words."""
    return 1


def only_a_docstring(self):
    """Nothing but words about what a subclass does."""


def without():
    return 2
'''


@pytest.fixture
def parsed(tmp_path):
    (tmp_path / "m.py").write_text(SOURCE, encoding="utf-8")
    return {record[0]: record for record in python_code._parse((tmp_path / "m.py", "pkg/sub/m.py", "code"))}


def test_functions_that_take_part(parsed):
    assert set(parsed) == {"pkg.sub.m.visible", "pkg.sub.m.Reader.size", "pkg.sub.m.Reader.fetch", "pkg.sub.m.guarded"}


def test_queries_are_first_sentences(parsed):
    assert {name.rsplit(".", 1)[1]: record[1] for name, record in parsed.items()} == {
        "visible": "Open the file at path and return its content",
        "size": "Number of bytes that were read so far",
        "fetch": "Fetch the next block of the stream",
        "guarded": "Say whether the value is above zero",
    }


def test_bodies_hold_the_code_without_the_docstring(parsed):
    assert parsed["pkg.sub.m.visible"][2] == (
        'def visible(path, *, mode="r"):\n    with open(path, mode) as file:\n        return file.read()'
    )
    assert parsed["pkg.sub.m.guarded"][2] == "def guarded(x):\n    return x > 0"
    for _, query, body, docstring, _, _ in parsed.values():
        tree = ast.parse(body)
        assert ast.get_docstring(tree.body[0]) is None and query not in body and docstring not in body


def test_records_say_where_they_come_from(parsed):
    _, _, _, docstring, file, line = parsed["pkg.sub.m.visible"]
    assert file == "pkg/sub/m.py" and SOURCE.splitlines()[line - 1].startswith("def visible")
    assert docstring.startswith("Open the file") and docstring.endswith("A second paragraph.")


def test_the_module_of_a_package_is_the_package(tmp_path):
    (tmp_path / "__init__.py").write_text('def f(x):\n    """Give back what was put in."""\n    return x\n')
    found = python_code._parse((tmp_path / "__init__.py", "pkg/__init__.py", "code"))
    assert [record[0] for record in found] == ["pkg.f"]


@pytest.mark.parametrize("content", [b"def f(:\n", b"x = '\xff'\n", b"x = '\x00'\n"])
def test_unreadable_files_give_none(tmp_path, content):
    (tmp_path / "m.py").write_bytes(content)
    assert python_code._parse((tmp_path / "m.py", "m.py", "code")) is None


@pytest.mark.parametrize(
    "docstring, first, rest",
    [
        ("Return the sum.", "Return the sum", ""),
        ("Return the sum. Of all numbers.", "Return the sum", "Of all numbers."),
        ("Return the sum, e.g. of numbers, of all.", "Return the sum, e.g. of numbers, of all", ""),
        ("\n    Return the\n    sum of x.\n\n    Parameters\n", "Return the sum of x", "Parameters"),
        ("Like :class:`~torch.nn.Linear`, but ``lazy``.", "Like torch.nn.Linear, but lazy", ""),
        ("Is it there? Yes or no.", "Is it there?", "Yes or no."),
        (
            "Sum up. With\n  care.\n\nA ``list``\nof lines.\n\n    An example.",
            "Sum up",
            "With care.\n\nA list\nof lines.\n\n    An example.",
        ),
    ],
)
def test_docstrings_are_split_behind_their_first_sentence(docstring, first, rest):
    assert python_code._split_docstring(docstring) == (first, rest)


DOCUMENTED = '''
def long(x):
    """Turn the value into words. The words are English, in lower case, and joined by dashes.

    Numbers below zero begin with minus.
    """
    return str(x)


def short(x):
    """Turn the words into a value. See long."""
    return int(x)
'''


def test_docs_of_the_other_task_are_the_rest_of_docstrings(tmp_path):
    (tmp_path / "m.py").write_text(DOCUMENTED, encoding="utf-8")
    (record,) = python_code._parse((tmp_path / "m.py", "pkg/m.py", "docs"))  # two words say too little
    assert record[:3] == (
        "pkg.m.long",
        "Turn the value into words",
        "The words are English, in lower case, and joined by dashes.\n\nNumbers below zero begin with minus.",
    )
    assert len(python_code._parse((tmp_path / "m.py", "pkg/m.py", "code"))) == 2


@pytest.mark.parametrize(
    "name, split",
    [
        ("json.loads", "train"),
        ("os.path.join", "train"),
        ("statistics.median", "train"),
        ("shutil.copytree", "dev"),
        ("torch.nn.functional.softmax", "test"),
        ("numpy.argsort", "test"),
    ],
)
def test_splits_are_fixed_by_the_name(name, split):
    assert beir.split_by_hash(name, dev=8) == split


def test_splits_are_80_10_10():
    splits = [beir.split_by_hash(f"module{i}.function", dev=8) for i in range(5000)]
    assert splits.count("train") == pytest.approx(4000, abs=150)
    assert splits.count("dev") == pytest.approx(500, abs=100)
    assert splits.count("test") == pytest.approx(500, abs=100)


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """A made-up standard library and a package, with files that take part and files that do not."""
    files = [
        "std/a.py",
        "std/test/b.py",
        "std/test_c.py",
        "std/site-packages/d.py",
        "lib/pkg/__init__.py",
        "lib/pkg/z.py",
        "lib/pkg/sub/y.py",
        "lib/pkg/tests/x.py",
        "lib/pkg/generated/w.py",
        "lib/pkg/note.txt",
    ]
    for number, name in enumerate(files):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            SOURCE
            if name == "lib/pkg/z.py"
            else f'def f{number}(x):\n    """Add {number} to the value of x."""\n    return x + {number}\n'
        )
    (tmp_path / "std/many.py").write_text(
        "\n".join(f'def many{i}(x):\n    """Add {i} thousand to x."""\n    return x + {i}000\n' for i in range(30))
    )
    (tmp_path / "std/copy.py").write_text('def g(x):\n    """add 0 to the value of X."""\n    return 5 * x\n')
    (tmp_path / "std/broken.py").write_text("def f(:\n")

    def find_spec(name):
        return types.SimpleNamespace(submodule_search_locations=[str(tmp_path / "lib/pkg")]) if name == "pkg" else None

    monkeypatch.setattr(python_code, "MODULES", {"pkg": "pkg", "absent": "absent"})
    monkeypatch.setattr(python_code, "GENERATED", ("pkg/generated/",))
    monkeypatch.setattr(python_code, "sysconfig", types.SimpleNamespace(get_path=lambda name: str(tmp_path / "std")))
    monkeypatch.setattr(
        python_code,
        "importlib",
        types.SimpleNamespace(util=types.SimpleNamespace(find_spec=find_spec), metadata=python_code.importlib.metadata),
    )
    return tmp_path


@pytest.mark.parametrize("task, generated", [("code", []), ("docs", ["pkg/generated/w.py"])])
def test_files_that_take_part(roots, task, generated):
    assert [inside for _, inside, _ in python_code._files(task)] == [
        "a.py",
        "broken.py",
        "copy.py",
        "many.py",
        "pkg/__init__.py",
        *generated,
        "pkg/sub/y.py",
        "pkg/z.py",
    ]
    assert all(path.is_file() and named == task for path, _, named in python_code._files(task))


class SameProcess:
    """Stands in for the pool of processes, which would not see what the test has patched."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, jobs, chunksize):
        return map(function, jobs)


def test_the_collection_as_built(roots, monkeypatch):
    monkeypatch.setenv("HARDNEG_CACHE", str(roots / "cache"))
    monkeypatch.setattr(python_code, "ProcessPoolExecutor", SameProcess)
    built = collection_.load_collection("python")
    names = [built.docs.record(row)["metadata"]["name"] for row in range(len(built.docs))]
    assert names == sorted(names)
    assert {name for name in names if "many" not in name} == {
        "a.f0",
        "pkg.f4",
        "pkg.sub.y.f6",
        "pkg.z.visible",
        "pkg.z.Reader.size",
        "pkg.z.Reader.fetch",
        "pkg.z.guarded",
    }
    assert built.name == "python" and len(built.queries) == len(names) == 37  # copy.g asks what a.f0 asks
    for split, qrels in built.qrels.items():
        for i, query in enumerate(qrels.queries):
            (doc,) = qrels.positives(i)
            meta = built.docs.record(doc)["metadata"]
            assert beir.split_by_hash(meta["name"], dev=8) == split and meta["line"] >= 1
            assert python_code._split_docstring(meta["docstring"])[0] == built.queries.text(query)
            assert meta["docstring"] not in built.docs.text(doc)
    made = python_code.build()
    assert files.read_json(made[1] / "dropped.json") == {"files that cannot be read": ["broken.py"]}
    monkeypatch.setattr(python_code, "_files", lambda task: pytest.fail("built again"))
    assert python_code.build() == made


def test_the_collection_of_docstrings_as_built(roots, monkeypatch):
    monkeypatch.setenv("HARDNEG_CACHE", str(roots / "cache"))
    monkeypatch.setattr(python_code, "ProcessPoolExecutor", SameProcess)
    text = "The words are English, in lower case, and joined by number {}."
    (roots / "std/documented.py").write_text(
        "\n".join(
            f'def f{i}(x):\n    """Turn {i} into words. {text.format(i // 2)}"""\n    return {i}\n' for i in range(60)
        )
    )
    built = collection_.load_collection("python:docs")
    assert built.name == "python-docs"
    texts = built.docs.texts()
    assert len(texts) == len(set(texts)) == 30  # two functions with one description: the first by name
    for row, found in enumerate(texts):
        number = int(built.docs.record(row)["metadata"]["name"].removeprefix("documented.f"))
        assert found == text.format(number // 2)
        assert built.queries.text(row) == f"Turn {number} into words"
    assert python_code.build("python:docs") != python_code.build("python") == python_code.build()
