"""The structure: which wing may import which, how large classes are, what lies where."""

import ast

import pytest
from conftest import ROOT

GROUND = {"files", "rng", "dist", "loss", "run"}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
# what a place of lib may import of lib
ALLOWED = {
    "files": set(),
    "rng": set(),
    "dist": set(),
    "loss": set(),
    "run": {"files"},
    "data": GROUND | {"model"},
    "model": GROUND | {"data"},
    "search": GROUND | {"model", "data"},
    "negatives": GROUND | {"search", "model", "data"},
    "evaluation": GROUND | {"negatives", "search", "model", "data"},
    "rag": GROUND | {"search", "model", "data", "evaluation"},
}
# of evaluation, only what looks at negatives imports them
DIAGNOSTIC = {"diagnostics.py", "monitor.py", "experiment.py"}
MODULES = sorted((ROOT / "lib").rglob("*.py"))


def imported(tree):
    """The names of modules that a syntax tree imports, lib.X.Y as ("lib", "X", "Y")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((*node.module.split("."), alias.name) for alias in node.names)


def wrong_arrows(tree, place):
    """The imports that a module of `place`, a wing or a module of lib, may not have."""
    return [
        name
        for name in imported(tree)
        if name[0] in SCRIPTS or (name[0] == "lib" and name[1] not in ALLOWED[place] | {place})
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_run_one_way(path):
    place = path.relative_to(ROOT / "lib").parts[0].removesuffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name == "__init__.py":
        assert not tree.body
    else:
        assert wrong_arrows(tree, place) == []
    if place == "evaluation" and path.name not in DIAGNOSTIC:
        assert not [name for name in imported(tree) if name[:2] == ("lib", "negatives")]


@pytest.mark.parametrize(
    "line, place",
    [
        ("import train", "evaluation"),
        ("from lib.rag import generators", "search"),
        ("from lib import run", "files"),
        ("from lib.evaluation.plots import figure", "negatives"),
        ("def f():\n    from lib.search import exact", "model"),
    ],
)
def test_an_arrow_against_the_plan_is_seen(line, place):
    assert wrong_arrows(ast.parse(line), place)


def test_lib_shows_a_dozen_entries():
    entries = [path for path in (ROOT / "lib").iterdir() if not path.name.startswith(("_", "."))]
    assert len(entries) <= 12
    for wing in filter(lambda path: path.is_dir(), entries):
        assert len([path for path in wing.glob("*.py") if path.name != "__init__.py"]) <= 14


def test_no_class_has_a_dozen_public_methods():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods = [child.name for child in node.body if isinstance(child, ast.FunctionDef)]
                public = [name for name in methods if not name.startswith("_")]
                assert len(public) < 12, f"{path}: {node.name} has {public}"
