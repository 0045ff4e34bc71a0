"""What tests share: a cache of their own, collections, encoders, and calls of the scripts."""

import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# read once, on import: no network, and no threads that wait for one another over such small work
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from lib import cli, process, rng  # noqa: E402
from lib.data.collection import load_collection  # noqa: E402
from lib.data.words import words as words_of  # noqa: E402
from lib.evaluation import plots  # noqa: E402
from lib.files import write_json  # noqa: E402
from lib.model import encoder as model  # noqa: E402
from lib.model.static import StaticEncoder, train_wordpiece  # noqa: E402

TINY = pathlib.Path(__file__).parent / "tiny"


def slowly(value):
    """The case of this value, which runs only with -m slow."""
    return pytest.param(value, marks=pytest.mark.slow)


LONGEST = (
    "test_scripts.py",
    "test_train.py",
    "test_folders_of_models.py",
    "test_bench.py",
    "test_comparison.py",
)  # files that begin first, so that none is left last


def pytest_collection_modifyitems(items):
    """The files that take longest come first: two workers then end at about the same time."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The cache folder of this session."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARDNEG_CACHE", str(folder))
        yield folder


PNG = b"\x89PNG\r\n\x1a\n"
SAVEFIG = Figure.savefig


def unrendered(figure, path, **kwargs):
    """In place of Figure.savefig: rendering would take most of a short run."""
    path.write_bytes(PNG)


@pytest.fixture(scope="session", autouse=True)
def figures():
    """Figures are drawn but not rendered, except for tests that ask for `rendered`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", unrendered)
        yield


OF_RUN = plots.of_run


@pytest.fixture(scope="module")
def undrawn():
    """Runs of this file draw no figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "of_run", lambda *args, **kwargs: None)
        yield


@pytest.fixture
def rendered(monkeypatch):
    """Figures of this test are rendered."""
    monkeypatch.setattr(Figure, "savefig", SAVEFIG)


@pytest.fixture
def folder(tmp_path):
    """A copy of tests/tiny that a test may spoil."""
    return pathlib.Path(shutil.copytree(TINY, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The collection tests/tiny, loaded from a copy."""
    return load_collection(shutil.copytree(TINY, tmp_path_factory.mktemp("data") / "tiny"))


def write_collection(folder, docs, queries, qrels):
    """Write docs {id: text}, queries {id: text} and qrels {split: [(qid, doc_id, grade)]} in BEIR layout."""
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", docs), ("queries", queries)):
        lines = [json.dumps({"_id": ident, "text": text}) + "\n" for ident, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    for split, judged in qrels.items():
        lines = ["query-id\tcorpus-id\tscore\n"] + [f"{q}\t{d}\t{grade}\n" for q, d, grade in judged]
        (folder / "qrels" / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def crowded(tmp_path_factory):
    """50 docs with 20 texts, 30 queries with 18: many copies, 0 to 5 positives a query, grades 0 to 2."""
    random = np.random.default_rng(5)
    docs = {f"d{i}": f"doc text {random.integers(20)}" for i in range(50)}
    queries = {f"q{i}": f"query text {random.integers(18)}" for i in range(30)}
    qrels = {"train": [], "dev": []}
    for i in range(28):  # q28 and q29 are judged nowhere
        judged = random.choice(50, size=random.integers(1, 6), replace=False)
        grades = [1, *random.integers(0, 3, size=len(judged) - 1)]
        qrels["train" if i % 3 else "dev"] += [(f"q{i}", f"d{d}", g) for d, g in zip(judged, grades)]
    return load_collection(write_collection(tmp_path_factory.mktemp("data") / "crowded", docs, queries, qrels))


@pytest.fixture(params=["tiny", "crowded"])
def collection(request):
    """Each of the two collections in turn."""
    return request.getfixturevalue(request.param)


def known_by_text(collection):
    """{query text: {texts of its positives in any split}}, from the string ids."""
    known = {}
    for split in collection.qrels:
        for qid, judged in collection.qrels_dict(split).items():
            for doc_id, grade in judged.items():
                if grade >= 1:
                    query = collection.queries.text(collection.queries.row_of[qid])
                    known.setdefault(query, set()).add(collection.docs.text(collection.docs.row_of[doc_id]))
    return known


def make_encoder(collection, *, dim=16, vocab_size=400, seed=0):
    """An untrained static encoder whose vocabulary comes from the collection's docs."""
    encoder = StaticEncoder(train_wordpiece(collection.docs.texts, vocab_size=vocab_size), dim=dim)
    weights = 0.5 + rng.uniform("idf", np.arange(len(encoder.table)))
    encoder.init_weights(seed=seed, idf=weights)
    return encoder


def embed_texts(encoder, texts, kind="doc"):
    """Vectors (n, D) of texts that belong to no collection."""
    return model.embed_texts(encoder, texts, kind)


@pytest.fixture(scope="session")
def bert(tiny, tmp_path_factory):
    """The folder of a bare Hugging Face model: a BERT of two small layers with random weights and dropout."""
    import transformers  # here: it takes seconds, and the process that hands out the tests needs none of it

    place = tmp_path_factory.mktemp("bert")
    words = sorted({word for text in tiny.docs.texts() for word in words_of(text)})
    (place / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]), encoding="utf-8"
    )
    tokenizer = transformers.BertTokenizerFast(str(place / "vocab.txt"), model_max_length=64)
    torch.manual_seed(0)
    backbone = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        )
    )
    tokenizer.save_pretrained(place)
    backbone.save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def judges(bert, tmp_path_factory):
    """{number of outputs: folder of a cross-encoder}: as small as `bert`, with random weights."""
    import transformers

    folders = {}
    for outputs in (1, 2):
        folders[outputs] = tmp_path_factory.mktemp("judge")
        config = transformers.AutoConfig.from_pretrained(
            bert, num_labels=outputs, max_position_embeddings=256, initializer_range=0.5
        )
        torch.manual_seed(outputs)
        transformers.BertForSequenceClassification(config).save_pretrained(folders[outputs])
        transformers.AutoTokenizer.from_pretrained(bert).save_pretrained(folders[outputs])
    return folders


@pytest.fixture(scope="session")
def untrained(tiny, tmp_path_factory):
    """A folder to work in: the collection at tiny/, at runs/R a run whose static encoder was not trained."""
    folder = tmp_path_factory.mktemp("untrained")
    shutil.copytree(TINY, folder / "tiny")
    model.save_encoder(make_encoder(tiny), folder / "runs/R/encoder")
    write_json(folder / "runs/R/config.json", {"args": {"data": "tiny"}})
    return folder


class Row(NamedTuple):
    """A row of a table whose rows flags choose among, see cli.choice()."""

    numbers: dict


@pytest.fixture
def parser():
    """A command line of our own with every kind of flag."""
    made = cli.Parser("test")
    add = made.group("one")
    add("--batch_size", "--b", type=cli.COUNT, default=8, help="a count")
    add("--ema", type=cli.BELOW_1, default=0.5, help="a share")
    add("--margin", type=cli.number(float), help="any number")
    add("--names", nargs="+", default=[], help="a list")
    add("--prefix", help="a text")
    add("--fast", action="store_true", help="a switch")
    arm = cli.choice({"a": Row({"X": {}}), "b": Row({"N": {"kind": int, "least": 1}}), "c": Row({})})
    add("--arms", nargs="+", type=arm, default=[arm("a:1")], help="rows of a table")
    add("--kind", type=arm, default=arm("c"), help="a row of a table")
    add = made.group("two", per_arm=True, only="static")
    add("--lr", type=cli.ABOVE_0, default=0.1, help="an arm's")
    add("--dims", nargs="+", type=cli.COUNT, default=[], help="an arm's list")
    add("--steps", type=cli.COUNT, per_arm=False, help="of such an encoder, but no arm's")
    return made


def call(script, *flags, cwd, stdin=""):
    """Run a script of the project in the folder `cwd`; its return code, stdout and stderr."""
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    return subprocess.run(
        command,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )


@pytest.fixture
def launch(monkeypatch):
    """A function that runs a script in this process from the folder `cwd`; returns its exit code."""

    def start(script, *flags, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *map(str, flags)])
        try:
            process.cli(importlib.import_module(script.removesuffix(".py")).main)
        except SystemExit as stopped:
            return stopped.code
        return 0

    return start


@pytest.fixture
def refused(launch, tmp_path, capsys):
    """A function that runs a script, wants exit code 2, and returns the one line on stderr."""

    def check(script, *flags, cwd=tmp_path):
        code = launch(script, *flags, cwd=cwd)
        errors = capsys.readouterr().err
        assert code == 2
        assert errors.startswith("error: ") and errors.count("\n") == 1 and "Traceback" not in errors, errors
        return errors

    return check
