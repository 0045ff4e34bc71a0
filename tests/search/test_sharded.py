"""Files made one by one: search over them, work that was cut off, several processes, what the cache keeps."""

import ast
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch.distributed.run
from conftest import ROOT

from lib import dist, process, rng
from lib.data import tokens
from lib.files import fingerprint
from lib.model import encoder as model
from lib.search import exact, sharded
from mine_negatives import main

ROWS = 7  # rows a file in these tests


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Files of few rows, so that little data makes many of them."""
    monkeypatch.setattr(sharded, "ROWS", ROWS)


def stored(folder, vectors):
    """Vectors on disk with the rows of an array."""
    return sharded.ShardedVectors(folder, *vectors.shape, lambda rows: vectors[rows], desc="x")


class Rows:
    """Queries that stand for the rows of an array: what a view of texts is to a search."""

    def __init__(self, rows):
        self.rows = np.asarray(rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, part):
        return Rows(self.rows[part])

    @property
    def fingerprint(self):
        return fingerprint(self.rows)


def search(folder, q, d, known, k, *, max_ram):
    """cached_search() of all rows of q among d; what is kept is the folder's own."""
    key = fingerprint(q, d, str(folder))
    retriever = sharded.Sharded(
        stored(folder / "d", d), lambda rows: q[rows.rows], key=key, query_key=key, max_ram=max_ram
    )
    return sharded.cached_search(retriever, Rows(np.arange(len(q))), k, known, desc="x")


def problem(queries=23, docs=61, dim=5, seed=0):
    """Queries, docs and (Q, 3) known docs with gaps."""
    random = np.random.default_rng(seed)
    q, d = (random.normal(size=(n, dim)).astype(np.float32) for n in (queries, docs))
    return q, d, np.maximum(random.integers(-20, docs, size=(queries, 3)), -1).astype(np.int32)


# ----------------------------------------------------------------------------------------------------- search


@pytest.mark.parametrize("max_ram", [1, 16 * 5 * 13, 16 * 5 * 28, 1e9])
@pytest.mark.parametrize("rows, k", [(1, 11), (7, 1), (7, 11), (7, 100), (64, 11)])
def test_search_is_exact(tmp_path, monkeypatch, max_ram, rows, k):
    monkeypatch.setattr(sharded, "ROWS", rows)
    q, d, known = problem()
    wanted = exact.top_k(q, d, k)
    found = search(tmp_path, q, d, known, k, max_ram=max_ram)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_allclose(found[2], exact.pair_scores(q, d, known), rtol=1e-5, atol=1e-6)
    assert np.isnan(found[2]).sum() == (known < 0).sum() > 0


def test_memory_bounds_the_docs_at_a_time(tmp_path, monkeypatch):
    q, d, known = problem(docs=150)
    sizes, top_k = [], exact.top_k
    monkeypatch.setattr(sharded, "top_k", lambda q, d, k, **how: sizes.append(d.nbytes) or top_k(q, d, k, **how))
    for max_ram in (2_000, 6_000):
        sizes.clear()
        search(tmp_path / str(max_ram), q, d, known, 3, max_ram=max_ram)
        assert 0.15 * max_ram < max(sizes) <= max_ram / 4


def test_equal_scores_do_not_depend_on_memory(tmp_path):
    """Copies of a doc score alike: which of them comes first must not follow from --max_ram."""
    q, d, known = problem()
    d = d[np.arange(len(d)) % 6]
    small, large = (search(tmp_path / str(max_ram), q, d, known, 9, max_ram=max_ram) for max_ram in (1, 1e9))
    np.testing.assert_array_equal(small[1], large[1])


def test_merge():
    a = np.array([[9.0, 5, 1], [3, 2, -4]]), np.array([[10, 11, 12], [13, 14, 15]])
    b = np.array([[7.0, 5, 0], [8, 3, 2]]), np.array([[20, 21, 22], [23, 24, 25]])
    scores, rows = exact.merge(a, b, 4)
    assert scores.tolist() == [[9, 7, 5, 5], [8, 3, 3, 2]]
    assert rows.tolist() == [[10, 20, 11, 21], [23, 13, 24, 14]]  # of equal ones a's comes first
    assert [part.shape for part in exact.merge(a, b, 9)] == [(2, 6), (2, 6)]


# ---------------------------------------------------------------------------------------------------- vectors


def test_take_and_blocks(tmp_path, monkeypatch):
    _, d, _ = problem()
    vectors = stored(tmp_path / "d", d)
    assert len(vectors) == 61 and vectors.shape == (61, 5)
    opened, one_file = [], sharded.ShardedVectors.file
    monkeypatch.setattr(
        sharded.ShardedVectors, "file", lambda self, number: opened.append(number) or one_file(self, number)
    )
    rows = np.array([60, 3, 3, 0, 59, 14, 6, 7])
    np.testing.assert_array_equal(vectors.take(rows), d[rows])
    assert sorted(opened) == [0, 1, 2, 8]
    assert vectors.take(np.empty(0, dtype=np.int64)).shape == (0, 5)
    for size in (1, 7, 15, 1000):
        begins, parts = zip(*vectors.blocks(size))
        np.testing.assert_array_equal(np.concatenate(parts), d)
        assert list(begins) == np.cumsum([0, *map(len, parts)])[:-1].tolist()
        assert all(len(part) <= max(size, ROWS) for part in parts)


# -------------------------------------------------------------------------------------------------- cut short


def stamps(folder):
    """{name: time of the last change} of the files in a folder."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_embedding_goes_on_where_it_was_cut(tmp_path):
    _, d, _ = problem()
    asked = []

    def embed(rows, limit):
        asked.append(rows[0] // ROWS)
        if len(asked) > limit:
            raise KeyboardInterrupt
        return d[rows]

    with pytest.raises(KeyboardInterrupt):
        sharded.ShardedVectors(tmp_path / "d", *d.shape, lambda rows: embed(rows, 3), desc="x")
    done = stamps(tmp_path / "d")
    assert sorted(done) == ["000000.npz", "000001.npz", "000002.npz"]
    asked.clear()
    vectors = sharded.ShardedVectors(tmp_path / "d", *d.shape, lambda rows: embed(rows, 99), desc="x")
    assert asked == [3, 4, 5, 6, 7, 8]
    assert done.items() <= stamps(tmp_path / "d").items()
    np.testing.assert_array_equal(vectors.take(np.arange(61)), d)


def test_a_corpus_that_grew_embeds_what_is_new(tmp_path):
    """Texts that another folder has are not made again; a file that is damaged is no reason to stop."""
    _, d, _ = problem()
    made, names = [], rng.hashed("text", np.arange(61))

    def stored(folder, rows):
        rows = np.asarray(rows)
        embed = lambda own: made.extend(rows[own]) or d[rows[own]]  # noqa: E731
        return sharded.ShardedVectors(tmp_path / folder, len(rows), 5, embed, desc="x", texts=lambda: names[rows])

    assert stored("first", range(40)).embedded == 40
    made.clear()
    grown = [50, *range(3, 40), 51, 1, 50]  # one goes, two come, in another order
    vectors = stored("second", grown)
    assert made == [50, 51, 50] and vectors.embedded == 3  # 50 stands in two files
    np.testing.assert_array_equal(vectors.take(np.arange(len(grown))), d[grown])
    (tmp_path / "first/000000.npz").write_bytes(b"PK cut")
    (tmp_path / "second/000000.npz").unlink()
    made.clear()
    np.testing.assert_array_equal(stored("third", range(14)).take(np.arange(14)), d[:14])
    assert made == [0, 2, 3, 4, 5, 6]  # 1 is at the end of the second


def test_equal_tokens_have_equal_fingerprints_and_others_do_not():
    ids, offsets = np.array([3, 5, 7, 5, 3, 3, 5, 3, 3, 7], np.int32), np.array([0, 2, 2, 5, 7, 9, 10])
    texts = tokens.Tokens(ids, offsets).fingerprints()  # [3 5] [] [7 5 3] [3 5] [3 3] [7]
    assert texts[0] == texts[3] and len(set(texts.tolist())) == 5
    counts = np.array([1, 1, 1, 1, 1, 2, 1, 1, 1, 1])
    assert len(set(tokens.Tokens(ids, offsets, counts).fingerprints().tolist())) == 6
    many = tokens.Tokens(np.arange(300_000) % 97, np.arange(0, 300_001, 3)).fingerprints()
    assert len(set(many.tolist())) == 97 and (many[:97] == many[97:194]).all() and many[66_000] == many[66_000 % 97]


def test_searching_goes_on_where_it_was_cut(tmp_path, monkeypatch, cache):
    q, d, known = problem(seed=9)
    calls, top_k = [], exact.top_k
    blocks = 9  # of docs; a file of queries sees each

    def cut(q_emb, d_emb, k, **how):
        calls.append(len(q_emb))
        if len(calls) == 2 * blocks + 4:
            raise RuntimeError("killed")
        return top_k(q_emb, d_emb, k, **how)

    def kept():
        return set((cache / "hits").glob("*"))

    before = kept()
    monkeypatch.setattr(sharded, "top_k", cut)
    with pytest.raises(RuntimeError, match="killed"):
        search(tmp_path / "found", q, d, known, 6, max_ram=1)
    (one,) = kept() - before
    done = stamps(one)
    assert sorted(done) == ["000000.npz", "000001.npz"]
    calls.clear()
    monkeypatch.setattr(sharded, "top_k", lambda q, d, k, **how: calls.append(len(q)) or top_k(q, d, k, **how))
    found = search(tmp_path / "found", q, d, known, 6, max_ram=1)
    assert calls == [7] * blocks + [2] * blocks  # 23 queries: two files are left
    assert done.items() <= stamps(one).items()
    whole = search(tmp_path / "whole", q, d, known, 6, max_ram=1)
    for a, b in zip(found, whole):
        np.testing.assert_array_equal(a, b)
    (other,) = kept() - before - {one}
    assert (one / "000003.npz").read_bytes() == (other / "000003.npz").read_bytes()


def test_processes_share_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(dist, "world", lambda: 3)
    monkeypatch.setattr(dist, "barrier", lambda: None)
    made, rows = [], 8 * sharded.ROWS - 1
    for rank in range(3):
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        paths = sharded.make(tmp_path, rows, lambda n: made.append((rank, n)) or {"n": np.array(n)}, desc="x")  # noqa: B023
    assert made == [(0, 0), (0, 3), (0, 6), (1, 1), (1, 4), (1, 7), (2, 2), (2, 5)]
    assert [int(np.load(path)["n"]) for path in paths] == list(range(8))


# ------------------------------------------------------------------------------------------------- the script

SOURCES = ("--sources", "dense", "bm25", "random")
DRAWN = ("--run", "runs/R", "--candidates", 20, "--depth", 6, "--sampling", "uniform", "--filters", "near_copy:0.9")


@pytest.fixture
def mine(launch, untrained, monkeypatch, tmp_path):
    """A function that mines in this process, with a cache of the test's own, and returns the file."""
    monkeypatch.setenv("HARDNEG_CACHE", str(tmp_path / "cache"))

    def start(*flags, name="mined", cwd=untrained):
        assert launch("mine_negatives.py", *flags, "--name", name, "--overwrite", cwd=cwd) == 0
        return max((cwd / "runs" / name / "negatives").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)

    return start


def in_processes(count, folder, cache, name):
    """The file that this many processes mine, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = subprocess.run(
        [*map(str, [sys.executable, __file__, count, port, *SOURCES, *DRAWN, "--name", name])],
        cwd=folder,
        env=os.environ | {"HARDNEG_CACHE": str(cache), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("wrote ") == 1
    return next((folder / "runs" / name / "negatives").glob("*.jsonl"))


def test_one_and_three_processes_mine_the_same_bytes(mine, untrained, tmp_path):
    wanted = mine(*SOURCES, *DRAWN, name="p1")
    assert len(wanted.read_text(encoding="utf-8").splitlines()) > 3 * 36 * 3
    cache = tmp_path / "cache3"
    found = in_processes(3, untrained, cache, "p3")
    assert found.name == wanted.name and found.read_bytes() == wanted.read_bytes()
    assert len(list((cache / "vectors").rglob("*.npz"))) == 6 + 6  # of 36 queries and of 40 docs
    assert len(list((cache / "hits").rglob("*.npz"))) == 6 + 6  # by dense and by BM25


@pytest.mark.parametrize("script", ["mine_negatives.py", "train.py"])
def test_torchrun_takes_the_commands_as_the_docstring_has_them(script):
    """Its own --run-path is another flag that --run may stand for, unless -- comes before the script."""
    docstring = ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8")))
    commands = [line.split("#")[0].split() for line in docstring.splitlines() if "torchrun" in line]
    for command in commands:
        parsed = torch.distributed.run.parse_args(command[1:])
        assert parsed.training_script == script
        assert parsed.training_script_args == command[command.index(script) + 1 :]


def folders(tmp_path, kind):
    """The entries of one kind in the test's cache."""
    return {path.name for path in (tmp_path / "cache" / kind).iterdir()}


def test_one_changed_weight_misses_the_cache(mine, untrained, tmp_path):
    shutil.copytree(untrained / "tiny", tmp_path / "tiny")
    shutil.copytree(untrained / "runs/R", tmp_path / "runs/R")
    first = mine("--run", "runs/R", "--depth", 4, cwd=tmp_path)
    header = json.loads(first.read_text(encoding="utf-8").splitlines()[0])["header"]
    vectors, hits = folders(tmp_path, "vectors"), folders(tmp_path, "hits")
    assert len(vectors) == 1 + 6 and len(hits) == 1  # the docs' folder and six files of queries
    mine("--run", "runs/R", "--depth", 4, "--filters", "percpos:0.9", "--candidates", 4, cwd=tmp_path)
    # filters cost nothing
    assert (folders(tmp_path, "vectors"), folders(tmp_path, "hits")) == (vectors, hits)
    encoder = model.load_encoder(tmp_path / "runs/R/encoder")
    used = encoder.tokenize(["Caramelising onions"])[0][0]
    encoder.table.data[used, 0] += 1e-3
    model.save_encoder(encoder, tmp_path / "runs/R/encoder")
    again = mine("--run", "runs/R", "--depth", 4, cwd=tmp_path)
    now = json.loads(again.read_text(encoding="utf-8").splitlines()[0])["header"]
    assert now["encoder_fingerprint"] != header["encoder_fingerprint"]
    assert len(folders(tmp_path, "vectors") - vectors) == 1 + 6
    assert len(folders(tmp_path, "hits") - hits) == 1


def test_a_second_look_encodes_nothing(mine, monkeypatch):
    first = mine("--run", "runs/R", "--depth", 4).read_bytes()

    def refuse(*rest, **kwargs):
        raise AssertionError("computed again")

    for module, name in (
        (model, "embed"),
        (exact, "top_k"),
        *((sharded, x) for x in ("embed", "embed_texts", "top_k")),
    ):
        monkeypatch.setattr(module, name, refuse)
    assert mine("--run", "runs/R", "--depth", 4).read_bytes() == first


def test_a_source_changes_its_own_records_alone(mine):
    def by_source(*sources):
        path = mine("--sources", *sources, *DRAWN, name="-".join(sources))
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        return {name: [line for line in lines if line["source"] == name] for name in sources}

    whole = by_source("dense", "bm25", "random")
    assert all(len(lines) > 100 for lines in whole.values())
    for left in (("dense", "random"), ("bm25", "dense"), ("random",)):
        found = by_source(*left)
        assert found == {name: whole[name] for name in left}


def test_a_file_of_vectors_that_cannot_be_read_is_made_again(tmp_path):
    vectors = sharded.ShardedVectors(tmp_path, 5, 2, lambda rows: np.ones((len(rows), 2), np.float32), desc="test")
    (tmp_path / "000000.npz").write_bytes(b"PK cut")
    assert vectors.take(np.array([0, 4])).tolist() == [[1, 1], [1, 1]]


def test_found_lists_that_were_damaged_are_made_again(tmp_path, cache):
    q, d, known = problem(seed=11)
    before = set((cache / "hits").glob("*"))
    wanted = search(tmp_path / "x", q, d, known, 6, max_ram=1)
    (folder,) = set((cache / "hits").glob("*")) - before
    (folder / "000001.npz").write_bytes(b"damaged")
    for a, b in zip(search(tmp_path / "x", q, d, known, 6, max_ram=1), wanted):
        np.testing.assert_array_equal(a, b)


def be_one(rank, count, port):
    """What each of several processes does."""
    os.environ |= {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    process.cli(main)


def be_several(count, port, *flags):
    """They fork, so that all have imported at once."""
    sharded.ROWS, sys.argv = ROWS, ["mine_negatives.py", *flags]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=be_one, args=(str(rank), count, port)) for rank in range(int(count))]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    return max(one.exitcode for one in processes)


if __name__ == "__main__":
    sys.exit(be_several(*sys.argv[1:]))
