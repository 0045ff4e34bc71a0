"""The plan of the house: which wing of lib may import which, what lies where, how large classes are."""

import ast
import pathlib

import pytest
from conftest import ROOT

LIB = ROOT / "lib"
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
# what each place of lib may import of lib, besides itself
GROUND = {"files", "rng", "dist", "figure", "run", "process", "cli"}
ALLOWED = {
    "files": set(),
    "rng": set(),
    "dist": set(),
    "loss": set(),
    "figure": {"files"},
    "process": {"files"},
    "run": {"files", "rng", "dist", "process", "cli"},
    "cli": {"files"},
    "data": {*GROUND, "model"},
    "model": {*GROUND, "data"},
    "search": {*GROUND, "model", "data"},
    "negatives": {*GROUND, "search", "model", "data", "loss"},
    "evaluation": {*GROUND, "negatives", "search", "model", "data", "loss"},
    "rag": {*GROUND, "search", "model", "data", "evaluation"},
}
# of evaluation, only what looks at negatives or runs arms of them
SEE_NEGATIVES = {"plan.py", "diagnostics.py", "monitor.py", "experiment.py", "comparison.py", "training.py"}
FILES = sorted(LIB.rglob("*.py"))
MODULES = [path for path in FILES if path.name != "__init__.py"]


def name_of(path):
    """A file's path below the root, for the names of tests."""
    return path.relative_to(ROOT).as_posix()


def imported(tree, package):
    """The names that a module of `package` imports, at its top or inside functions: ("lib", "data", "beir")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            yield from ((*base, alias.name) for alias in node.names)


def wrong_imports(source, path):
    """The imports that the module at `path`, relative to lib, may not have."""
    path = pathlib.PurePosixPath(path)
    place = path.parts[0].removesuffix(".py")
    allowed = ALLOWED[place] | {place}
    if place == "evaluation" and path.name not in SEE_NEGATIVES:
        allowed = allowed - {"negatives"}
    return [
        ".".join(name)
        for name in imported(ast.parse(source), ("lib", *path.parts[:-1]))
        if name[0] in SCRIPTS or (name[0] == "lib" and (len(name) == 1 or name[1] not in allowed))
    ]


def code(source):
    """The statements of a module, its docstring left out."""
    body = ast.parse(source).body
    return body[ast.get_docstring(ast.parse(source)) is not None :]


def entries(folder):
    """The names of the packages and modules that a reader of the folder sees."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(("_", ".")))


def public_methods(source):
    """{class: names of its public methods and properties}."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name: {child.name for child in node.body if isinstance(child, functions) and child.name[0] != "_"}
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_run_one_way(path):
    assert wrong_imports(path.read_text(encoding="utf-8"), path.relative_to(LIB).as_posix()) == []


@pytest.mark.parametrize("path", [path for path in FILES if path not in MODULES], ids=name_of)
def test_init_files_hold_no_code(path):
    assert not code(path.read_text(encoding="utf-8"))


def test_lib_shows_few_entries():
    assert len(entries(LIB)) <= 14
    assert {name.removesuffix(".py") for name in entries(LIB)} == set(ALLOWED)  # the plan leaves none out
    for wing in ALLOWED:
        assert len(list((LIB / wing).glob("[!_]*.py"))) <= 17


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_class_has_more_than_a_dozen_public_methods(path):
    for name, methods in public_methods(path.read_text(encoding="utf-8")).items():
        assert len(methods) <= 12, f"{name} has {sorted(methods)}"


# ------------------------------------------------------------------------------- what these checks would catch


@pytest.mark.parametrize("script", ["train", "mine_negatives", "build_index", "evaluate", "rag_demo"])
@pytest.mark.parametrize("line", ["import {}", "import os, {} as other", "from {} import main", "from {}.a import b"])
def test_an_import_of_a_script_is_caught(script, line):
    for path in ("run.py", "evaluation/experiment.py"):
        assert wrong_imports(line.format(script), path)


@pytest.mark.parametrize(
    "path, line, wrong",
    [
        ("files.py", "from lib import run", "lib.run"),
        ("rng.py", "from lib.files import BadInput", "lib.files.BadInput"),
        ("dist.py", "from lib import rng", "lib.rng"),
        ("loss.py", "import lib.dist", "lib.dist"),
        ("cli.py", "from lib import run", "lib.run"),
        ("process.py", "from lib.cli import quoted", "lib.cli.quoted"),
        ("run.py", "from lib.data import collection", "lib.data.collection"),
        ("run.py", "from .data import collection", "lib.data.collection"),
        ("run.py", "from . import files, loss", "lib.loss"),
        ("data/tokens.py", "from lib import search", "lib.search"),
        ("data/tokens.py", "from lib import loss", "lib.loss"),
        ("model/encoder.py", "def f():\n    from lib.search import exact", "lib.search.exact"),
        ("search/exact.py", "from ..negatives import pool", "lib.negatives.pool"),
        ("search/exact.py", "if True:\n    import lib.rag.generators as g", "lib.rag.generators"),
        ("negatives/files.py", "from lib.evaluation.plots import audit", "lib.evaluation.plots.audit"),
        ("evaluation/report.py", "from lib.rag import generators", "lib.rag.generators"),
        ("evaluation/report.py", "from lib.negatives import arms", "lib.negatives.arms"),
        ("evaluation/plots.py", "from lib import negatives", "lib.negatives"),
        ("rag/generators.py", "from lib.negatives.arms import Arm", "lib.negatives.arms.Arm"),
        ("rag/generators.py", "from lib import loss", "lib.loss"),
        ("data/beir.py", "import lib", "lib"),
        ("data/beir.py", "from lib import *", "lib.*"),
    ],
)
def test_an_arrow_against_the_plan_is_caught(path, line, wrong):
    assert wrong_imports(
        f'"""Doc."""\n\nimport json\n\nfrom lib.{path.split("/")[0].removesuffix(".py")} import a\n\n{line}\n', path
    ) == [wrong]


@pytest.mark.parametrize(
    "path, line",
    [
        ("run.py", "from lib.files import BadInput"),
        ("data/batches.py", "from . import beir"),
        ("data/batches.py", "from .. import rng"),
        ("evaluation/monitor.py", "from lib.negatives.sources import SOURCES"),
        ("evaluation/comparison.py", "from lib.negatives.arms import Arm"),
        ("evaluation/report.py", "from lib.evaluation.comparison import train"),  # no script: a name of lib's
        ("rag/generators.py", "from lib.evaluation import evaluate"),
        ("files.py", "import numpy.lib, trainers"),
    ],
)
def test_an_arrow_of_the_plan_may_stand(path, line):
    assert wrong_imports(line, path) == []


def test_code_in_an_init_file_is_caught():
    for line in ("from lib.data.collection import Texts", "__all__ = []", "def f(): pass", "3", '"""Doc."""\nx = 1'):
        assert code(line)
    assert not code("") and not code("# a comment\n") and not code('"""Doc."""\n')


def test_entries_are_packages_and_modules(tmp_path):
    for name in ("__init__.py", "_private.py", ".hidden", "a.py"):
        (tmp_path / name).touch()
    for name in ("b", "__pycache__", ".cache"):
        (tmp_path / name).mkdir()
    assert entries(tmp_path) == ["a.py", "b"]


def test_public_methods_are_counted():
    methods = [f"    def m{i}(self): pass\n" for i in range(8)]
    found = public_methods(
        f"""class A:
    def __init__(self): pass
    def _private(self): pass
    @property
    def p(self): pass
    @p.setter
    def p(self, value): pass
    @functools.cached_property
    def c(self): pass
    @classmethod
    def d(cls): pass
    async def e(self): pass
{"".join(methods)}
def f():
    class B:
        @staticmethod
        def only(): pass
        def __call__(self): pass
"""
    )
    assert {name: len(names) for name, names in found.items()} == {"A": 12, "B": 1}
