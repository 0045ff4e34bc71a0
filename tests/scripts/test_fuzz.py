"""Damaged files and odd flags: exit codes 0 and 2 only, no traceback, and after a 2 nothing is changed.

Some files are damaged in a few ways here; each one that a script reads back in 200, by `FUZZ=200 python -m pytest -m
slow tests/scripts/test_fuzz.py`, which takes hours on two cores (a second a damage).
"""

import importlib
import json
import math
import os
import shutil
import sys

import hypothesis
import hypothesis.strategies as st
import pytest
from conftest import ROOT, TINY, make_encoder

from lib import cli, process, run
from lib.data.collection import load_collection
from lib.model import encoder as model

SHORT = ("--batch_size", 9, "--negatives", "bm25:1", "--log_every", 1, "--eval_every", 1)
STATIC = (*SHORT, "--dim", 8, "--vocab_size", 300)
ODD = [None, True, -1, 0, 1, 10**400, 1e308, math.nan, math.inf, "", "\0", "\ud800", "x" * 300, "../../x", [], {}]
ODD += [[[]], [1, "a"], {"a": {}}, "$x_1 < \\frac{a}{b}$", "\x1b[31m", "1", -(2**31), 2**31 - 1, 2**64]


# ------------------------------------------------------------------------------------------------- damages


def places(value, path=()):
    """Every path to a value inside of a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def changed_json(text, draw):
    """A JSON text with one value replaced or left out."""
    value = json.loads(text)
    path = draw(st.sampled_from(list(places(value))))
    odd = draw(st.sampled_from([*ODD, "leave out", "nest"]))
    if isinstance(odd, str) and odd == "nest":
        return text[:-1] + ',"deep":' * bool(text.endswith("}")) + "[" * 100_000
    if not path:
        return json.dumps(None if odd == "leave out" else odd)
    owner = value
    for key in path[:-1]:
        owner = owner[key]
    if odd == "leave out":
        del owner[path[-1]]
    else:
        owner[path[-1]] = odd
    return json.dumps(value)


def damaged(content, name, draw):
    """The bytes of a file after some damage; None to delete it, "folder" to put a folder in its place."""
    kinds = ["cut", "flip", "insert", "empty", "delete", "folder", "repeat", "swap"]
    if name.endswith((".json", ".jsonl", ".md")):
        kinds += ["json"] * 8
    if name.endswith((".tsv", ".txt", ".trec")):
        kinds += ["field"] * 6
    kind = draw(st.sampled_from(kinds))
    at = draw(st.integers(0, max(0, len(content) - 1)))
    lines = content.split(b"\n")
    row = draw(st.integers(0, len(lines) - 1))
    match kind:
        case "cut":
            return content[:at]
        case "flip":
            return (
                content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :] if content else b""
            )
        case "insert":
            return content[:at] + draw(st.binary(min_size=1, max_size=20)) + content[at:]
        case "empty":
            return b""
        case "delete":
            return None
        case "repeat":
            return b"\n".join([*lines[: row + 1], *lines[row:]])
        case "swap":
            return b"\n".join([*lines[:row], *lines[row + 1 :], lines[row]])
        case "json" if name.endswith(".jsonl"):
            if lines[row].strip():
                lines[row] = changed_json(lines[row].decode(), draw).encode()
            return b"\n".join(lines)
        case "json" if name.endswith(".json"):
            return changed_json(content.decode(), draw).encode("utf-8", "surrogatepass")
        case "field":
            sep = b"\t" if b"\t" in lines[row] else b" "
            fields = lines[row].split(sep)
            fields[draw(st.integers(0, len(fields) - 1))] = str(draw(st.sampled_from(ODD))).encode("utf-8", "replace")
            lines[row] = sep.join(fields)
            return b"\n".join(lines)
    return "folder"


# -------------------------------------------------------------------------------------------------- the desk


def started(folder, script, *flags):
    """The exit code of a script run in this process from a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [str(ROOT / f"{script}.py"), *map(str, flags)])
        try:
            process.cli(__import__(script).main)
        except SystemExit as stopped:
            return stopped.code
        return 0


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with the collection, a run with its index and evaluation, and a file of negatives."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(TINY, folder / "tiny")
    ok = [started(folder, "train", "--data", "tiny", *STATIC, "--steps", 2, "--name", "R")]
    ok.append(started(folder, "build_index", "--run", "runs/R", "--index", "Flat"))
    ok.append(started(folder, "evaluate", "--run", "runs/R"))
    ok.append(started(folder, "mine_negatives", "--data", "tiny", "--depth", 3, "--name", "M"))
    (folder / "docs.txt").write_text("c01\nc02\n")
    (folder / "generated.jsonl").write_text('{"doc_id": "c01", "query": "one"}\n{"doc_id": "c02", "query": "two"}\n')
    assert ok == [0] * len(ok)
    return folder


@pytest.fixture(scope="module")
def desk(small, bert, tmp_path_factory):
    """A folder with one of everything that a script reads."""
    folder = tmp_path_factory.mktemp("whole") / "desk"
    shutil.copytree(small, folder)
    shutil.copytree(bert, folder / "bert")
    model.save_encoder(make_encoder(load_collection(TINY), dim=8), folder / "static")
    (folder / "static/encoder.json").unlink()  # so that nobody can tell by the fingerprint that it was changed
    ok = [started(folder, "evaluate", "--retriever", "bm25", "--data", "tiny", "--name", "B")]
    ok.append(started(folder, "train", "--data", "tiny", "--encoder", "bert", *SHORT, "--steps", 1, "--name", "T"))
    arms = [*STATIC[:2], "--negatives", "in_batch", "bm25:1", *STATIC[4:]]
    ok.append(started(folder, "train", "--data", "tiny", *arms, "--steps", 2, "--tune", "lr=.01,.02", "--name", "C"))
    assert ok == [0] * len(ok)
    interrupted(folder)
    return folder


def interrupted(folder):
    """A run at runs/I that was stopped after its first checkpoint."""
    finish = run.Run.finish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Run, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert started(folder, "train", "--data", "tiny", *STATIC, "--steps", 2, "--name", "I") == 130
    assert run.Run.finish is finish and (folder / "runs/I/state.pt").exists()


NEW = ("--name", "new")
MINE = ("mine_negatives", "--data", "tiny", "--sources", "random", "--depth", 2, *NEW)
RESUME = ("train", "--data", "tiny", *STATIC, "--steps", 2, "--name", "I", "--resume")
FILE = ("--batch_size", 9, "--dim", 8, "--vocab_size", 300, "--steps", 1, "--negatives", "file:1")
FINE_TUNE = ("train", "--data", "tiny", *SHORT, "--steps", 1, *NEW)
COMPARE = ("evaluate", "--compare", "runs/C")
AGAIN = ("evaluate", "--run", "runs/R", "--overwrite")
C0 = "runs/C/in_batch_lr=.01-s0"
# file -> the command that reads it
ARTEFACTS = {
    "tiny/corpus.jsonl": MINE,
    "tiny/queries.jsonl": MINE,
    "tiny/qrels/train.tsv": MINE,
    "tiny/qrels/test.tsv": ("evaluate", "--retriever", "bm25", "--data", "tiny", *NEW),
    "docs.txt": (*MINE, "--negative_docs", "docs.txt"),
    "generated.jsonl": (*FINE_TUNE, "--dim", 8, "--vocab_size", 300, "--pull", "generated.jsonl"),
    "runs/M/negatives/tiny-train-bm25.jsonl": (
        "train", "--data", "tiny", *FILE, "--negatives_file", "runs/M/negatives/tiny-train-bm25.jsonl", *NEW),
    "runs/R/config.json": AGAIN,
    "runs/R/encoder/encoder.json": AGAIN,
    "runs/R/encoder/model.safetensors": AGAIN,
    "runs/R/index/tiny/meta.json": AGAIN,
    "runs/R/index/tiny/index.faiss": AGAIN,
    "runs/R/summary.json": ("train", "--config", "runs/R/config.json", "--name", "R", "--resume"),
    "runs/I/config.json": RESUME,
    "runs/I/state.pt": RESUME,
    "runs/I/metrics.jsonl": RESUME,
    "runs/I/timing.jsonl": RESUME,
    "runs/C/config.json": COMPARE,
    "runs/C/tuning.json": COMPARE,
    f"{C0}/summary.json": COMPARE,
    f"{C0}/config.json": COMPARE,
    f"{C0}/metrics.jsonl": COMPARE,
    f"{C0}/timing.jsonl": COMPARE,
    f"{C0}/eval/tiny-test/per_query.jsonl": COMPARE,
    "runs/R/eval/tiny-test/metrics.json": ("evaluate", "--compare", "runs/R", "runs/B"),
    "runs/R/eval/tiny-test/per_query.jsonl": ("evaluate", "--compare", "runs/R", "runs/B"),
    "static/modules.json": (*FINE_TUNE, "--encoder", "static_"),
    "static/model.safetensors": (*FINE_TUNE, "--encoder", "static_"),
    "static/tokenizer.json": (*FINE_TUNE, "--encoder", "static_"),
    "static/config_sentence_transformers.json": (*FINE_TUNE, "--encoder", "static_"),
    "bert/config.json": (*FINE_TUNE, "--encoder", "bert"),
    "bert/model.safetensors": (*FINE_TUNE, "--encoder", "bert"),
    "bert/tokenizer.json": (*FINE_TUNE, "--encoder", "bert"),
    "bert/tokenizer_config.json": (*FINE_TUNE, "--encoder", "bert"),
    "runs/T/encoder/modules.json": (*FINE_TUNE, "--encoder", "runs/T/encoder"),
    "runs/T/encoder/1_Pooling/config.json": (*FINE_TUNE, "--encoder", "runs/T/encoder"),
    "runs/T/encoder/config_sentence_transformers.json": (*FINE_TUNE, "--encoder", "runs/T/encoder"),
    "runs/T/encoder/sentence_bert_config.json": (*FINE_TUNE, "--encoder", "runs/T/encoder"),
}  # fmt: skip


def state(folder):
    """{file: bytes}, hidden ones such as locks left out."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def put_back(folder, pristine):
    """Make `folder` equal to `pristine` again."""
    shutil.rmtree(folder)
    shutil.copytree(pristine, folder, copy_function=shutil.copy2, symlinks=True)


def settings(examples):
    """Of hypothesis: the same inputs each time."""
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )


def attack(desk, tmp_path_factory, capsys, name, examples):
    """Damage one file in `examples` ways; each time run the command that reads it."""
    script, *flags = ARTEFACTS[name]
    flags = [str(flag).replace("static_", "static") for flag in flags]
    pristine = tmp_path_factory.mktemp("pristine") / "desk"
    shutil.copytree(desk, pristine, symlinks=True)
    content = (desk / name).read_bytes()
    seen = {0: 0, 2: 0}

    @settings(examples)
    @hypothesis.given(st.data())
    def once(data):
        new = damaged(content, name, data.draw)
        path = desk / name
        path.unlink()
        if new == "folder":
            path.mkdir()
        elif new is not None:
            path.write_bytes(new)
        if "encoder/" in name and name.startswith("runs/T"):
            (desk / "runs/T/encoder/encoder.json").unlink()
        before = state(desk)
        capsys.readouterr()
        try:
            code = started(desk, script, *flags)
            errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            assert code in seen, code
            seen[code] += 1
            assert len(errors) == (code == 2), errors
            assert not code or state(desk) == before
        finally:
            put_back(desk, pristine)

    try:
        once()
    finally:
        shutil.rmtree(pristine.parent)
        print(name, seen)


# quick ones, one of each way to read a file: a few damages each time
SOME = ("tiny/qrels/train.tsv", "runs/M/negatives/tiny-train-bm25.jsonl", "runs/R/index/tiny/meta.json")


@pytest.mark.parametrize("name", SOME)
def test_damaged_files_are_refused_or_used(small, tmp_path_factory, capsys, name):
    attack(small, tmp_path_factory, capsys, name, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARTEFACTS)
def test_files_damaged_in_two_hundred_ways(desk, tmp_path_factory, capsys, name):
    attack(desk, tmp_path_factory, capsys, name, int(os.environ.get("FUZZ", 200)))


# ------------------------------------------------------------------------------------------------------ flags

NEEDED = {"build_index": ["--run", "R"], "evaluate": ["--run", "R"], "rag_demo": ["--run", "R"]}
WORDS = ["", "0", "-1", "1", "nan", "inf", "-inf", "1e400", "1" * 400, "0x10", "1_000", "\u0661", "1,2", "a", "a b"]
WORDS += ["a=b", "lr=nan", "refresh:4", "refresh:-1", "bm25:99999999999", "in_batch,in_batch", "x" * 5000, "../.."]
WORDS += [
    "$(touch x)",
    "$x_1 < \\frac{a}{b}$",
    "\x1b[31m",
    "\udcff",
    "\0",
    ":",
    ":::",
    "percpos:nan",
    "simans:1",
    "nDCG@",
]
VALUES = st.one_of(st.sampled_from(WORDS), st.text(max_size=8), st.floats().map(str))


@pytest.mark.parametrize("script", ["train", "mine_negatives", "build_index", "evaluate", "rag_demo"])
def test_flags_are_read_or_refused(script, examples=None):
    """Every flag with odd values: a value, or BadInput in one line; argparse never ends the process."""
    parse, parsers, seen = importlib.import_module(script).parse_args, [], {"read": 0, "refused": 0}
    with pytest.MonkeyPatch.context() as patch:
        real = cli.Parser.parse_args
        patch.setattr(cli.Parser, "parse_args", lambda self, *a, **k: (parsers.append(self), real(self, *a, **k))[1])
        patch.setattr(sys, "argv", [f"{script}.py", *NEEDED.get(script, [])])
        parse()
    names = [action.option_strings[0] for action in parsers[0].flags().values() if action.option_strings]
    names = [name for name in names if name not in ("-h", "--help", "--config")]
    count = examples or 2 * len(names)

    @settings(count)
    @hypothesis.given(st.sampled_from(names), VALUES)
    def once(name, value):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [f"{script}.py", *NEEDED.get(script, []), f"{name}={value}"])
            try:
                parse()
                seen["read"] += 1
            except run.BadInput as error:
                seen["refused"] += 1
                assert len(process.one_line(error).splitlines()) == 1

    once()
    assert seen["read"] and seen["refused"], seen


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train", "mine_negatives", "build_index", "evaluate", "rag_demo"])
def test_flags_with_two_hundred_values_each(script):
    test_flags_are_read_or_refused(script, examples=200 * 60)
