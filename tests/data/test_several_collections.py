"""Several collections trained on together: ids, splits, batches of one collection each."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, write_collection

from lib.data.batches import QueryOrder
from lib.data.collection import load_collection
from lib.data.readers import JOIN
from lib.files import BadInput


@pytest.fixture
def joined(folder, tmp_path):
    """Two collections and both as one."""
    docs = {f"d{i}": f"doc number {i}" for i in range(30)}
    queries = {f"q{i}": f"which doc has number {i}?" for i in range(30)}
    splits = {"train": range(20), "dev": range(20, 25), "test": range(25, 30)}
    qrels = {split: [(f"q{i}", f"d{i}", 1) for i in rows] for split, rows in splits.items()}
    second = write_collection(tmp_path / "two", docs, queries, qrels)
    return [load_collection(spec) for spec in (folder, second, JOIN.join((str(folder), str(second))))]


def test_ids_texts_and_judgements_are_those_of_the_parts(joined):
    one, two, both = joined
    assert both.name == "tiny-and-two" and both.parts == {"tiny": 0, "two": len(one.queries)}
    assert both.docs.ids == [f"tiny/{i}" for i in one.docs.ids] + [f"two/{i}" for i in two.docs.ids]
    assert both.docs.texts() == one.docs.texts() + two.docs.texts()
    for split in one.qrels:
        wanted = {
            f"{part.name}/{qid}": {f"{part.name}/{doc}": grade for doc, grade in own.items()}
            for part in (one, two)
            for qid, own in part.qrels_dict(split).items()
        }
        assert both.qrels_dict(split) == wanted
    assert both.queries.record(len(one.queries))["metadata"]["collection"] == "two"
    rows = both.split("train").queries
    assert np.array_equal(both.part_of(rows), [both.queries.ids[row].startswith("two/") for row in rows])


def test_each_batch_is_of_one_part_and_a_part_goes_round_evenly():
    parts = np.repeat([0, 1, 2], [64, 200, 36])
    order = QueryOrder(300, batch_size=8, seed=0, parts=parts)
    assert order.steps_per_epoch == 8 + 25 + 4
    seen = [parts[order.positions(step)] for step in range(order.steps_per_epoch)]
    assert all(len(set(own)) == 1 for own in seen)
    counts = np.bincount(
        np.concatenate([order.positions(step) for step in range(order.steps_per_epoch)]), minlength=300
    )
    assert counts[:264].tolist() == [1] * 264 and counts[264:].sum() == 32 and counts.max() == 1
    visits = np.bincount(np.concatenate([order.positions(step) for step in range(37 * 10)]), minlength=300)
    assert np.ptp(visits[264:]) <= 1 and np.ptp(visits[:264]) == 0  # what an epoch leaves out comes in the next


def test_what_does_not_fit_is_one_line(joined, folder, tmp_path, refused):
    same = shutil.copytree(folder, tmp_path / "elsewhere" / "tiny")
    with pytest.raises(BadInput, match="two collections are called tiny"):
        load_collection(JOIN.join((str(folder), str(same))))
    data = ("--data", str(folder), str(tmp_path / "two"))
    assert "two has 20 train queries, fewer than --batch_size 32" in refused("train.py", *data, "--batch_size", 32)


def test_a_training_on_both_is_evaluated_on_each(joined, folder, tmp_path, launch):
    data = (str(folder), str(tmp_path / "two"))
    small = ("--batch_size", 8, "--epochs", 2, "--dim", 16, "--vocab_size", 300)
    assert launch("train.py", "--data", *data, *small, "--name", "both", cwd=tmp_path) == 0
    assert json.loads((tmp_path / "runs/both/config.json").read_text())["args"]["data"] == JOIN.join(data)
    assert launch("evaluate.py", "--run", "runs/both", "--by", "collection", cwd=tmp_path) == 0
    assert launch("evaluate.py", "--run", "runs/both", "--data", *data, cwd=tmp_path) == 0
    for name in ("tiny-and-two", "tiny", "two"):
        assert (tmp_path / "runs/both/eval" / f"{name}-test" / "metrics.json").exists()


def test_names_with_spaces_and_folders_with_a_plus_are_names(folder, tmp_path):
    spaced, plus = (pathlib.Path(shutil.copytree(folder, tmp_path / name)) for name in ("my data", "c + d"))
    both = load_collection(JOIN.join((str(folder), str(spaced))))
    assert both.name == "tiny-and-my_data" and both.docs.ids[-1].startswith("my_data/")
    assert load_collection(str(plus)).name == "c + d"


def call_module(name, *flags, cwd):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", name, *flags], cwd=cwd, capture_output=True, text=True, env=env)


def test_the_check_of_a_collection_sees_what_train_and_test_share(folder, tmp_path, launch, capsys):
    other = pathlib.Path(shutil.copytree(folder, tmp_path / "other"))
    train, test = ((other / "qrels" / f"{split}.tsv").read_text() for split in ("train", "test"))
    (other / "qrels" / "test.tsv").write_text(train)
    (other / "qrels" / "train.tsv").write_text(test)
    done = call_module("lib.data.check", JOIN.join((str(folder), str(other))), cwd=tmp_path)
    assert done.returncode == 1 and "queries that are train queries with the same relevant doc" in done.stdout
    small = ("--batch_size", 4, "--steps", 1, "--dim", 16, "--vocab_size", 300, "--name", "leaky")
    assert launch("train.py", "--data", folder, other, *small, cwd=tmp_path) == 0
    assert "warning: test queries that are train queries with the same relevant doc" in capsys.readouterr().out
