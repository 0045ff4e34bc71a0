"""What the doc alone says about being a positive: nothing where each is pushed as often as pulled, all where not."""

import numpy as np
import pytest
from conftest import write_collection

from lib.data.collection import load_collection
from lib.files import read_json
from lib.negatives.query_blind import query_blind

N = 60


@pytest.fixture
def rotating(tmp_path):
    """N queries with the doc of their number, and as many docs again that none is labelled with."""
    docs = {f"d{i}": f"{'good' if i < N else 'bad'} doc w{i * 7 % 50} w{i * 11 % 50}" for i in range(2 * N)}
    queries = {f"q{i}": f"query {i}" for i in range(N)}
    judged = [(f"q{i}", f"d{i}", 1) for i in range(N)]
    folder = write_collection(tmp_path / "rotating", docs, queries, {"train": judged, "dev": judged[:2]})
    return load_collection(str(folder), quiet=True)


def blind(collection, docs):
    queries = collection.split("train").queries
    return query_blind(collection, "train", np.repeat(queries, docs.shape[1]), docs.ravel())


def test_each_doc_pushed_as_often_as_pulled_says_nothing(rotating):
    found = blind(rotating, (np.arange(N)[:, None] + [1, 2, 3]) % N)
    assert found.identity == pytest.approx(0.5) and found.words == pytest.approx(0.5, abs=0.1)


def test_docs_that_are_only_pushed_are_known_by_heart_and_by_their_words(rotating):
    found = blind(rotating, N + (np.arange(N)[:, None] + [1, 2, 3]) % N)
    assert found.identity == 1 and found.words > 0.95 and "AUC of 1.00" in found.said


def test_half_of_the_docs_only_pushed(rotating):
    """Each labelled doc is pulled once and pushed half as much: by hand, the AUC over a half of ties is 3/4."""
    docs = np.stack([(np.arange(N) + 1) % N, N + np.arange(N)], axis=1)
    assert blind(rotating, docs).identity == pytest.approx(0.75)


def test_a_query_weighs_the_same_whatever_the_length_of_its_list(rotating):
    queries, shift = rotating.split("train").queries, (np.arange(N) + 1) % N
    short = query_blind(rotating, "train", queries, shift)
    twice = query_blind(
        rotating, "train", np.repeat(queries, 1 + np.arange(N) % 3), np.repeat(shift, 1 + np.arange(N) % 3)
    )
    assert short.identity == twice.identity == pytest.approx(0.5)


def test_nothing_to_tell_apart_is_nothing(rotating):
    assert query_blind(rotating, "train", np.array([], dtype=int), np.array([], dtype=int)) is None
    assert blind(rotating, (np.arange(N)[:, None] + [1]) % N)[1] is not None
    few = query_blind(rotating, "train", rotating.split("train").queries[:2], np.array([30, 31]))
    assert few.words is None and few.identity == 1


def test_the_check_of_a_file_says_it(rotating, launch, tmp_path, capsys):
    assert launch("mine_negatives.py", "--data", "rotating", "--depth", "2", "--name", "m", cwd=tmp_path) == 0
    made = next((tmp_path / "runs/m/negatives").glob("*.jsonl"))
    assert launch("mine_negatives.py", "--data", "rotating", "--check", made, "--name", "c", cwd=tmp_path) == 0
    assert "query_blind: without reading the query" in capsys.readouterr().out
    numbers = read_json(tmp_path / "runs/c" / made.name / "check.json")["query_blind"]
    assert 0 <= numbers["identity"] <= 1
