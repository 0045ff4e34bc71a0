"""What README.md and docs/ say runs: every script is there, every flag is known, every page and heading exists."""

import importlib
import re
import shlex
import sys

import pytest
from conftest import ROOT

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md")}
PAGES |= {"README.md": (ROOT / "README.md").read_text(encoding="utf-8")}


def commands_of(text):
    """The commands of a page's blocks that begin with python."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.S | re.M)
    fences = "\n".join(block for language, block in blocks if language in ("", "bash")).replace("\\\n", " ")
    parts = (part.strip().removeprefix("$ ") for line in fences.splitlines() for part in line.split("&&"))
    return [part for part in parts if part.startswith("python ") and not part.startswith("python -m")]


def anchors_of(text):
    """The headings of a page as a link names them."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


COMMANDS = dict.fromkeys(command for text in PAGES.values() for command in commands_of(text))


def test_the_pipeline_is_there():
    started = {command.split()[1] for page in ("README.md", "docs/tour.md") for command in commands_of(PAGES[page])}
    scripts = {path.name for path in ROOT.glob("*.py")}
    assert scripts <= started and len(COMMANDS) > 3 * len(scripts)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, monkeypatch):
    script, *flags = shlex.split(command, comments=True)[1:]
    assert (ROOT / script).is_file()
    if "/" not in script:
        monkeypatch.setattr(sys, "argv", [script, *(flag for flag in flags if flag not in ("...", "|"))])
        if "--config" not in flags:
            importlib.import_module(script.removesuffix(".py")).parse_args()


@pytest.mark.parametrize("page", PAGES)
def test_what_is_linked_is_there(page):
    for link in re.findall(r"\]\((?!http)([^)]+)\)", PAGES[page]):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target.read_text(encoding="utf-8")), link


def test_the_requirements_are_pinned():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in lines if line and not line.startswith("#"))


def test_each_finding_names_tables_that_are_there():
    text = PAGES["docs/README.md"].partition("| finding |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    found = re.findall(r"^(\d)\. \*\*", PAGES["README.md"], re.MULTILINE)
    assert {number for number, *_ in rows} == set(found)
    for *_, tables in rows:
        for name in re.findall(r"`(.+?)`", tables):
            assert list((ROOT / "docs" / "results").glob(f"{name}/*")), name
