"""The commands of README.md: every script is there, every flag is known, every file that is linked exists."""

import importlib
import re
import shlex
import sys

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.S | re.M)
FENCES = "\n".join(text for language, text in BLOCKS if language in ("", "bash")).replace("\\\n", " ")
COMMANDS = [
    part.strip().removeprefix("$ ")
    for line in FENCES.splitlines()
    for part in line.split("&&")
    if part.strip().removeprefix("$ ").startswith("python ")
]


def test_the_pipeline_is_there():
    started = {command.split()[1] for command in COMMANDS}
    scripts = {path.name for path in ROOT.glob("*.py")}
    assert scripts <= started and len(COMMANDS) > len(scripts)


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("python -m")])
def test_commands_parse(command, monkeypatch):
    script, *flags = shlex.split(command, comments=True)[1:]
    assert (ROOT / script).is_file()
    if "/" not in script:
        monkeypatch.setattr(sys, "argv", [script, *flags])
        importlib.import_module(script.removesuffix(".py")).parse_args()


def test_what_is_linked_is_there():
    linked = re.findall(r"\]\((?!http)([^)]+)\)", README)
    headings = re.findall(r"^#+ (.*)$", README, flags=re.M)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert len(linked) > 5
    for path in linked:
        assert path in anchors or (ROOT / path).exists(), path


def test_the_requirements_are_pinned():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in lines if line and not line.startswith("#"))
