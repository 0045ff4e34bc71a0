"""Retrievers in scripts: mixes of two, reranked ones, several collections, slices, dev among a pool of docs."""

import json
import re
import runpy
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, embed_texts, make_encoder, slowly, write_collection

from lib.data.collection import load_collection
from lib.evaluation import diagnostics, measures, retrieval
from lib.files import BadInput, read_json, write_json
from lib.model import encoder as model
from lib.model.embedder import Embedder
from lib.search import faiss_index, fusion
from lib.search.bm25 import BM25
from lib.search.hits import Hits
from lib.search.rerank import Reranker
from lib.search.retriever import open_retriever

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def desk(tiny, judges, tmp_path_factory):
    """A folder with the collection twice, an untrained run at runs/R, and one with a + in its name."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("tiny", "again"):
        shutil.copytree(TINY, folder / name)
    for name in ("R", "bm25-2+refresh-2-s0"):
        model.save_encoder(make_encoder(tiny), folder / "runs" / name / "encoder")
        write_json(folder / "runs" / name / "config.json", {"args": {"data": "tiny", "encoder": "static"}})
    shutil.copytree(judges[1], folder / "judge")
    return folder


def test_the_first_numbers_of_each_vector_are_indexed_and_measured(desk, launch, tiny):
    """As --dims trains them: cut, of length 1 again, and the same by an index as by exact search."""
    run_folder = desk / "runs" / "short"
    shutil.copytree(desk / "runs" / "R", run_folder)
    launch("build_index.py", "--run", run_folder, "--data", TINY, "--dim", 8, cwd=desk)
    assert read_json(run_folder / "index/tiny/meta.json")["dim"] == 8
    queries = tiny.queries.view(tiny.split("test").queries)
    indexed, exact = open_retriever(run_folder, tiny, device=CPU), open_retriever(run_folder, tiny, device=CPU, dim=8)
    found, wanted = indexed.search(queries, 5), exact.search(queries, 5)
    assert (found.rows == wanted.rows).mean() > 0.95 and indexed.encoder.dim == exact.encoder.dim == 8
    whole = model.load_encoder(run_folder / "encoder")
    of_whole = embed_texts(whole, tiny.queries.texts([0]))[0]
    by_hand = of_whole[:8] / np.linalg.norm(of_whole[:8])
    np.testing.assert_allclose(embed_texts(exact.encoder, tiny.queries.texts([0]))[0], by_hand, atol=1e-6)
    for spec, dim, message in ((run_folder, 999, "the vectors have 16"), ("bm25", 8, "--dim is for a model's")):
        with pytest.raises(BadInput, match=message):
            open_retriever(spec, tiny, device=CPU, dim=dim)


def test_a_mix_of_weight_one_is_the_first_retriever(tiny, desk):
    queries = tiny.queries.view(tiny.split("test").queries)
    mixed = open_retriever(f"{desk}/runs/R+bm25", tiny, device=CPU)
    dense, bm25 = mixed.retrievers
    assert isinstance(bm25, BM25) and mixed.encoder is dense.encoder
    both = mixed.both(queries, 100)
    for weight, own in ((1.0, dense), (0.0, bm25)):
        found, wanted = mixed.mix(both, 5, weight=weight), own.search(queries, 5)
        there = wanted.rows >= 0
        assert (found.rows[there] == wanted.rows[there]).mean() > 0.95  # equal scores may be many


def test_normalised_scores_do_not_depend_on_scale():
    random = np.random.default_rng(0)
    scores, there = random.standard_normal((4, 9)), random.uniform(size=(4, 9)) < 0.8
    for function in fusion.NORMALISE.values():
        np.testing.assert_allclose(function(scores, there), function(7 * scores + 3, there), atol=1e-9)
    found = fusion.min_max(scores, there)
    assert found[there].min() == 0 and found.max() == 1 and (found[~there] == 0).all()


def test_reciprocal_ranks(tiny, desk):
    mixed = open_retriever(f"{desk}/runs/R+bm25", tiny, device=CPU)
    mixed.how = "rrf"
    queries = tiny.queries.view(tiny.split("test").queries[:3])
    hits, lists = mixed.search(queries, 7), [r.search(queries, 100).rows.tolist() for r in mixed.retrievers]
    for i, row in enumerate(hits.rows.tolist()):
        for doc, score in zip(row, hits.scores[i]):
            wanted = sum(1 / (61 + own[i].index(doc)) for own in lists if doc in own[i])
            assert score == pytest.approx(wanted, abs=1e-6)


def test_a_run_with_a_plus_in_its_name(tiny, desk, monkeypatch):
    monkeypatch.chdir(desk)
    single = open_retriever("runs/bm25-2+refresh-2-s0", tiny, device=CPU)
    mixed = open_retriever("runs/bm25-2+refresh-2-s0+bm25", tiny, device=CPU)
    assert not isinstance(single, fusion.Fusion) and mixed.names == ("runs/bm25-2+refresh-2-s0", "bm25")


class Judge:
    """A cross-encoder that likes short docs."""

    fingerprint = "short"

    def score(self, queries, docs, *, desc):
        """(n,) in 0 ... 1."""
        return np.array([1 / len(doc) for doc in docs], dtype=np.float32)


def test_reranking_orders_the_first_and_keeps_the_rest(tiny):
    bm25, queries = BM25.load(tiny.docs), tiny.queries.view(tiny.split("test").queries)
    before = bm25.search(queries, 12)
    after = Reranker(bm25, Judge(), tiny.docs, depth=5).search(queries, 12)
    assert isinstance(after, Hits) and (np.diff(after.scores, axis=1)[after.rows[:, 1:] >= 0] <= 0).all()
    for old, new in zip(before.rows, after.rows):
        front = old[:5][old[:5] >= 0].tolist()
        assert new[: len(front)].tolist() == sorted(front, key=lambda row: len(tiny.docs.text(row)))
        assert new[5:].tolist() == old[5:].tolist()


def test_a_pool_for_dev_holds_its_positives_and_the_best(tiny):
    hits = [diagnostics.bm25_hits(tiny, "dev")]
    qrels = tiny.split("dev")
    positives = set(qrels.docs[qrels.grades >= 1].tolist())
    for count in (1, 12, 25, 1000):
        pool = diagnostics.dev_pool(tiny, count, hits)
        assert positives <= set(pool.tolist()) and len(pool) == len(set(pool.tolist()))
        assert len(pool) >= min(count, len(tiny.docs)) and (np.diff(pool) > 0).all()
        assert (pool == diagnostics.dev_pool(tiny, count, hits)).all()
    assert set(hits[0].rows[:, 0].tolist()) <= set(diagnostics.dev_pool(tiny, 25, hits).tolist())


def test_dev_among_all_docs_is_dev(tiny, monkeypatch):
    encoder = make_encoder(tiny)
    embedder = Embedder(tiny, encoder)
    whole = diagnostics.evaluate(embedder, encoder, "dev")
    retriever, queries = diagnostics.AsItStands(embedder, encoder), tiny.queries.view(tiny.split("dev").queries)
    known = np.array([[5, -1, 39]] * len(queries))
    at_once = retriever.search(queries, 10, known)
    with monkeypatch.context() as patch:  # a corpus that is too large to be held
        patch.setattr(diagnostics, "MOST_BYTES", 0)
        patch.setattr(diagnostics, "PART", 7)
        patch.setattr(Embedder, "embed_docs", pytest.fail)
        apart = diagnostics.AsItStands(Embedder(tiny, encoder), encoder).search(queries, 10, known)
    for one, other in zip(at_once, apart):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert diagnostics.evaluate(embedder, encoder, "dev", docs=np.arange(len(tiny.docs))) == whole
    some = diagnostics.evaluate(
        embedder, encoder, "dev", docs=diagnostics.dev_pool(tiny, 1, [diagnostics.bm25_hits(tiny, "dev")])
    )
    assert measures.mean(some)["recall@10"] >= measures.mean(whole)["recall@10"]


# ----------------------------------------------------------------------------------------------------- scripts


def test_evaluate_without_an_index_and_with_one_agree(launch, desk, capsys):
    assert launch("evaluate.py", "--run", "runs/R", "--overwrite", cwd=desk) == 0
    exact = read_json(desk / "runs/R/eval/tiny-test/metrics.json")["mean"]
    assert launch("build_index.py", "--run", "runs/R", "--index", "HNSW8", "--target_recall", 1, cwd=desk) == 0
    assert launch("evaluate.py", "--run", "runs/R", "--overwrite", "--error_split", cwd=desk) == 0
    found = read_json(desk / "runs/R/eval/tiny-test/metrics.json")
    assert found["mean"] == pytest.approx(exact) and sum(found["error_split"].values()) == pytest.approx(
        1 - found["mean"]["ndcg@10"]
    )
    curve = read_json(desk / "runs/R/index/tiny/curve.json")
    assert curve["factory"] == "HNSW8" and curve["chosen"] in curve["points"]
    assert (desk / "runs/R/index/tiny/curve.png").exists()
    assert "lost by: model" in capsys.readouterr().out
    shutil.rmtree(desk / "runs/R/index")


def test_an_error_is_split_where_queries_are_docs(launch, desk):
    docs = {f"d{i}": f"w{i} w{i + 1} w{i + 2} meat" for i in range(30)}
    pairs = [(f"d{i}", f"d{i + 1}", 1) for i in range(20)]
    write_collection(desk / "own", docs, {q: docs[q] for q, *_ in pairs}, {"test": pairs})
    assert launch("build_index.py", "--run", "runs/R", "--data", "own", "--index", "Flat", cwd=desk) == 0
    assert launch("evaluate.py", "--run", "runs/R", "--data", "own", "--error_split", cwd=desk) == 0
    found = read_json(desk / "runs/R/eval/own-test/metrics.json")
    assert found["self_match"] == {"policy": "drop", "found": 20}
    assert sum(found["error_split"].values()) == pytest.approx(1 - found["mean"]["ndcg@10"])
    shutil.rmtree(desk / "runs/R/index")


def test_a_folder_of_an_encoder_alone_is_measured(launch, desk):
    shutil.copytree(desk / "runs/R/encoder", desk / "runs/bare/encoder")
    assert launch("evaluate.py", "--run", "runs/bare", "--data", "tiny", cwd=desk) == 0
    whole, bare = (read_json(desk / f"runs/{name}/eval/tiny-test/metrics.json") for name in ("R", "bare"))
    assert bare["mean"] == pytest.approx(whole["mean"])


def test_evaluate_on_several_collections(launch, desk, capsys):
    flags = ("--retriever", "bm25", "--data", "tiny", "again", "--measures", "AP P@5")
    assert launch("evaluate.py", *flags, cwd=desk) == 0
    printed = capsys.readouterr().out
    assert "\nmean " in printed and (desk / "runs/again-bm25/eval/again-test/metrics.json").exists()
    assert {"AP", "P@5"} < read_json(desk / "runs/tiny-bm25/eval/tiny-test/metrics.json")["mean"].keys()


def test_evaluate_mixes_reranks_and_reads_its_own_run_file(launch, desk, capsys):
    flags = ("--retriever", "runs/R+bm25", "--data", "tiny")
    assert launch("evaluate.py", *flags, cwd=desk) == 0
    mixed = read_json(desk / "runs/tiny-R+bm25/eval/tiny-test/metrics.json")
    assert 0 <= mixed["weight"] <= 1 and mixed["weight_from"] == "dev"
    assert launch("evaluate.py", *flags, "--rerank", "judge", "--rerank_depth", 5, cwd=desk) == 0
    run_file = "runs/tiny-R+bm25/eval/tiny-test/run.trec"
    assert launch("evaluate.py", "--run_file", run_file, "--data", "tiny", "--name", "theirs", cwd=desk) == 0
    theirs = read_json(desk / "runs/theirs/eval/tiny-test/metrics.json")
    assert theirs["mean"] == pytest.approx(mixed["mean"])
    capsys.readouterr()


def test_rag_demo_asks_any_retriever(launch, desk, capsys):
    for spec in ("bm25", "runs/R+bm25", "runs/R"):
        flags = ("--retriever", spec, "--data", "tiny", "how long should meat rest?")
        assert launch("rag_demo.py", *flags, cwd=desk) == 0
        assert "[1]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--run", "runs/R", "--by", "kind"), "--by kind: no test query has it"),
        (("--run", "runs/R", "--error_split"), "has no index of tiny"),
        (("--run_file", "F", "--rerank", "judge"), "--rerank plays no part with --run_file"),
        (("--retriever", "bm25", "--weight", ".5", "--data", "tiny"), "--weight is for two retrievers"),
        (("--retriever", "bm25", "--forgetting"), "--forgetting needs --run"),
        (("--run", "runs/R", "--measures", "NoSuch"), "--measures NoSuch"),
    ],
)
def test_what_cannot_be_measured_is_one_line(refused, desk, flags, message):
    shutil.rmtree(desk / "runs/R/eval", ignore_errors=True)
    shutil.rmtree(desk / "runs/tiny-bm25", ignore_errors=True)
    assert message in refused("evaluate.py", *flags, cwd=desk)


def test_train_with_a_pool_for_dev_and_without_the_untrained_row(launch, desk, capsys):
    flags = (
        "--data",
        "tiny",
        "--dim",
        8,
        "--vocab_size",
        300,
        "--batch_size",
        9,
        "--steps",
        2,
        "--negatives",
        "bm25:1",
    )
    for name, more in (("pool", ["--dev_docs", 20]), ("less", ["--dev_docs", 20, "--no_untrained"])):
        assert launch("train.py", *flags, "--name", name, *more, cwd=desk) == 0
    summaries = [read_json(desk / "runs" / name / "summary.json") for name in ("pool", "less")]
    assert summaries[0]["test"] == summaries[1]["test"]
    assert "untrained" in summaries[0] and "untrained" not in summaries[1]
    for name in ("pool", "less"):
        assert launch("evaluate.py", "--run", f"runs/{name}", "--overwrite", cwd=desk) == 0
    assert launch("evaluate.py", "--compare", "runs/pool", "runs/less", cwd=desk) == 0
    capsys.readouterr()


def bench(monkeypatch, desk, script, *flags):
    """Run a script of tests/bench in this process, from the desk."""
    monkeypatch.chdir(desk)
    monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
    runpy.run_path(str(ROOT / script))["main"]()


def test_the_benches_of_search(launch, desk, monkeypatch, capsys):
    bench(monkeypatch, desk, "tests/bench/latency.py", "--run", "runs/R", "--data", "tiny", "--queries", 3)
    assert "one at a time: p50" in capsys.readouterr().out
    flags = ("--run", "runs/R", "--data", "tiny", "--vectors", 300, "--index", "IVF4,SQ8", "--folder", desk / "scale")
    for part in ("index", "exact"):
        bench(monkeypatch, desk, "tests/bench/index_scale.py", *flags, "--part", part)
        assert json.loads(capsys.readouterr().out.splitlines()[-1])
    flags = (
        "--data",
        "tiny",
        "--dim",
        8,
        "--vocab_size",
        300,
        "--batch_size",
        9,
        "--steps",
        1,
        "--negatives",
        "bm25:1",
    )
    assert launch("train.py", *flags, "--name", "C/bm25-1-s0", cwd=desk) == 0
    bench(monkeypatch, desk, "tests/bench/dev_pool.py", "--comparison", "runs/C", "--data", "tiny", "--pools", 20)
    assert "Kendall's tau of the arms" in capsys.readouterr().out


def test_a_collection_without_dev_has_no_weight(tiny, desk, tmp_path):
    shutil.copytree(TINY, tmp_path / "c")
    (tmp_path / "c/qrels/dev.tsv").unlink()
    other = load_collection(str(tmp_path / "c"))
    with pytest.raises(BadInput, match="no dev split to choose the weight on"):
        retrieval.tuned_weight(open_retriever(f"{desk}/runs/R+bm25", other, device=CPU), other)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--retriever", "bm25", "--data", "tiny", "--fusion", "rrf"), "--fusion is for two retrievers"),
        (("--retriever", "bm25", "--data", "tiny", "--rerank_depth", 5), "--rerank_depth needs --rerank"),
        (("--retriever", "runs/R+bm25", "--fusion", "rrf", "--weight", 0.5), "--weight plays no part"),
        (("--run_file", "F", "--ranked", 200), "--ranked plays no part with --run_file"),
        (("--run", "runs/R", "--mteb", "own", "--by", "x"), "--by plays no part with --mteb"),
        (("--run", "runs/R", "--against", "x"), "--against needs --compare"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(refused, desk, flags, message):
    shutil.rmtree(desk / "runs/tiny-bm25", ignore_errors=True)
    shutil.rmtree(desk / "runs/tiny-R+bm25", ignore_errors=True)
    assert message in refused("evaluate.py", *flags, cwd=desk)


def test_a_mix_is_asked_of_the_collection_of_its_run(launch, desk, capsys):
    shutil.rmtree(desk / "runs/tiny-R+bm25", ignore_errors=True)
    assert launch("evaluate.py", "--retriever", "runs/R+bm25", cwd=desk) == 0
    assert "\ntiny: mrr@10" in capsys.readouterr().out


@pytest.mark.parametrize(
    "script, flags, message",
    [
        ("train.py", ("--negatives", "refresh:1", "--mine_index", "nonsense"), "index nonsense: .*could not parse"),
        ("train.py", ("--negatives", "refresh:1", "--mine_index", "Flat:nprobe=3"), "nprobe=3: no parameters"),
        ("mine_negatives.py", ("--sources", "bm25", "--mine_index", "Flat"), "--mine_index changes nothing"),
    ],
)
def test_mining_by_an_index_that_cannot_be_is_one_line(launch, desk, capsys, script, flags, message):
    flags = ("--data", "tiny", *flags, "--name", "refused")
    assert launch(script, *flags, cwd=desk) == 2
    assert re.search(f"error: .*{message}", capsys.readouterr().err)
    assert not (desk / "runs/refused").exists()


CRASHES = ["HNSW1", "HNSW0", "IVF0,Flat", "IDMap,Flat", "Flat,IDMap2", "RR0,Flat", "IVF4(HNSW1),Flat", "RQ4x0",
           "RQ4x30", "IVF4,PQ4x0", "PQ2x4fs_0", "PCA4,HNSW1", "IVF4,FlatPanorama0", ""]  # fmt: skip
TOO_LARGE = [
    "HNSW1000000",
    "NSG99999",
    "IVF4_HNSW99999,Flat",
    "IVF2000000000,Flat",
    "IVF99999999999,Flat",
    "PQ4x99999999",
]


@pytest.mark.parametrize("factory", [CRASHES[0], TOO_LARGE[0], *map(slowly, CRASHES[1:] + TOO_LARGE[1:])])
def test_an_index_over_which_faiss_ends_the_process_is_one_line(factory):
    with pytest.raises(BadInput, match=re.escape(f"index {factory}: ")) as error:
        faiss_index.empty_index(16, factory)
    assert "\n" not in str(error.value) and ("cannot build" in str(error.value)) == (factory in CRASHES)


TRIED = ("OPQ4,IVF500,PQ4x4fs,RFlat", "NSG8,Flat", "IVF256_HNSW8,Flat")


@pytest.mark.parametrize("factory", ["PCA8,IVF2,SQ8", *map(slowly, TRIED)])
def test_an_index_that_is_tried_first_is_made(factory):
    assert faiss_index.empty_index(16, factory).d == 16


def test_well_known_indexes_are_not_tried_first(monkeypatch):
    monkeypatch.setattr(faiss_index, "_try", None)
    for factory in ("Flat", "HNSW32", "HNSW32_SQ8", "HNSW2,Flat", "IVF4096,Flat", "IVF64,SQ8", "IVF64,RaBitQ", "SQ8",
                    "IVF4096,PQ8x4fs,RFlat", "PQ8,RFlat"):  # fmt: skip
        assert faiss_index.empty_index(16, factory).d == 16


@pytest.mark.parametrize("script", ["build_index.py", slowly("mine_negatives.py")])
def test_scripts_refuse_an_index_over_which_faiss_ends_the_process(launch, desk, capsys, script):
    flags = ("--index", "HNSW1", "--overwrite") if script == "build_index.py" else ("--mine_index", "HNSW1")
    more = () if script == "build_index.py" else ("--sources", "dense", "--overwrite")
    assert launch(script, "--run", "runs/R", *flags, *more, cwd=desk) == 2
    assert "error: index HNSW1: FAISS cannot build and search it" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["IVF4,SQ8", "IVF4,PQ4x4fs,RFlat", "HNSW8_SQ8"])
def test_docs_that_are_known_are_scored_by_an_index_read_from_disk(launch, desk, capsys, kind):
    flags = ("--run", "runs/R", "--index", kind, "--overwrite")
    assert launch("build_index.py", *flags, cwd=desk) == 0
    assert launch("evaluate.py", "--retriever", "runs/R+bm25", "--overwrite", cwd=desk) == 0
    shutil.rmtree(desk / "runs/R/index")
    capsys.readouterr()


# -------------------------------------------------------------------------------------------- vectors from files


@pytest.fixture
def vectors(tiny, tmp_path):
    """A folder with the vectors of an untrained encoder, and that encoder."""
    encoder = make_encoder(tiny, seed=3)
    for side, kind in (("queries", "query"), ("docs", "doc")):
        texts = getattr(tiny, side)
        np.save(tmp_path / f"{side}.npy", model.embed_texts(encoder, texts.texts(), kind))
        write_json(tmp_path / f"{side}.ids.json", texts.ids)
    return tmp_path, encoder


def test_vectors_from_files_search_as_their_encoder_does(tiny, vectors):
    folder, encoder = vectors
    model.save_encoder(encoder, folder / "model")
    queries = tiny.queries.view(tiny.split("test").queries)
    known = tiny.known_docs(tiny.split("test").queries)
    found, wanted = (open_retriever(str(spec), tiny, device=CPU, exact_in=1e9).search(queries, 7, known, np.arange(30))
                     for spec in (folder, folder / "model"))  # fmt: skip
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_allclose(found.known, wanted.known, atol=1e-6)
    order = np.random.default_rng(1).permutation(len(tiny.docs))  # ids beside the vectors say which is whose
    np.save(folder / "docs.npy", np.load(folder / "docs.npy")[order])
    write_json(folder / "docs.ids.json", [tiny.docs.ids[row] for row in order])
    again = open_retriever(str(folder), tiny, device=CPU).search(queries, 7, known, np.arange(30))
    np.testing.assert_array_equal(again.rows, wanted.rows)
    with pytest.raises(BadInput, match="the collection's own queries only"):
        open_retriever(str(folder), tiny, device=CPU).search(["typed"], 3)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: np.save(f / "docs.npy", np.zeros((3, 16), np.float32)), "docs.npy: 3 rows, and tiny has 40 docs"),
        (lambda f: np.save(f / "docs.npy", np.zeros((40, 16), np.int32)), "of floats is wanted"),
        (lambda f: np.save(f / "docs.npy", np.zeros(40, np.float32)), "of floats is wanted"),
        (lambda f: np.save(f / "docs.npy", np.zeros((40, 8), np.float32)), "queries have 16 dimensions, docs 8"),
        (lambda f: np.save(f / "docs.npy", np.full((40, 16), np.nan, np.float32)), "not finite"),
        (lambda f: (f / "docs.npy").write_bytes(b"no array"), "docs.npy: cannot be read"),
        (
            lambda f: np.save(f / "docs.npy", np.array([{}] * 40, dtype=object), allow_pickle=True),
            "docs.npy: cannot be read",
        ),
        (lambda f: write_json(f / "docs.ids.json", ["c02", "c01"]), "the first that differs is row 0"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(tiny, vectors, spoil, message):
    folder, _ = vectors
    spoil(folder)
    with pytest.raises(BadInput, match=re.escape(message)):
        open_retriever(str(folder), tiny, device=CPU)


def test_the_encoder_inside_of_a_run_is_a_model(tiny, desk, monkeypatch):
    monkeypatch.chdir(desk)
    queries = tiny.queries.view(tiny.split("test").queries)
    inner, run = (open_retriever(spec, tiny, device=CPU, exact_in=1e9) for spec in ("runs/R/encoder", "runs/R"))
    np.testing.assert_array_equal(inner.search(queries, 5).rows, run.search(queries, 5).rows)


def test_any_miner_in_training_and_alone(launch, refused, desk, vectors, capsys):
    folder, _ = vectors
    small = ("--data", "tiny", "--dim", 8, "--vocab_size", 200, "--batch_size", 6, "--steps", 4)
    for name, spec in (("by-bm25", "bm25"), ("by-run", "runs/R"), ("by-vectors", str(folder))):
        assert launch("train.py", *small, "--negatives", "miner:2", "--miner", spec, "--name", name, cwd=desk) == 0
        config = read_json(desk / f"runs/{name}/config.json")
        assert config["inputs"]["miner"] == ("bm25" if spec == "bm25" else config["inputs"]["miner"])
        card = (desk / f"runs/{name}/encoder/README.md").read_text(encoding="utf-8")
        summary = read_json(desk / f"runs/{name}/summary.json")
        assert (
            "| negatives | miner:2 |" in card
            and f"{summary['test']['mrr@10']:.4f}" in card.split("## Results")[1]
            and "Verdict: " in card
        )
        assert launch("evaluate.py", "--retriever", f"runs/{name}+bm25", "--overwrite", cwd=desk) == 0
        again = read_json(desk / f"runs/tiny-{name}+bm25/eval/tiny-test/metrics.json")
        assert summary["mixed"]["weight"] == again["weight"]  # what a run says of the mix is what evaluate.py finds
        assert summary["mixed"]["test"] == pytest.approx({of: again["mean"][of] for of in summary["test"]})
        flags = ("--data", "tiny", "--miner", spec, "--depth", 5, "--name", f"lists-{name}")
        assert launch("mine_negatives.py", *flags, cwd=desk) == 0
    records = {}
    for name, sources in (("lists-by-bm25", "miner"), ("of-bm25", "bm25")):
        if name == "of-bm25":
            assert launch("mine_negatives.py", "--data", "tiny", "--depth", 5, "--name", name, cwd=desk) == 0
        lines = (
            (desk / f"runs/{name}/negatives/tiny-train-{sources}.jsonl").read_text(encoding="utf-8").splitlines()[1:]
        )
        records[name] = [json.loads(line) | {"source": ""} for line in lines]
    assert records["lists-by-bm25"] == records["of-bm25"]
    capsys.readouterr()
    assert "come together" in refused("train.py", *small, "--negatives", "miner:2", cwd=desk)
    assert "come together" in refused("train.py", *small, "--negatives", "bm25:2", "--miner", "bm25", cwd=desk)
    assert "joined by +" in refused("train.py", *small, "--negatives", "miner:2", "--miner", "runs/R+bm25", cwd=desk)
    assert "in_batch off" in refused("train.py", *small, "--negatives", "in_batch", "--in_batch", "off", cwd=desk)


@pytest.mark.parametrize(
    "difference, said",
    [
        ((-0.2, -0.3, -0.1), "BM25 is ahead of runs/R (-0.2000 [-0.3000, -0.1000] mrr@10, BM25 0.5000): search with"),
        ((0.2, 0.1, 0.3), "runs/R is ahead of BM25 (+0.2000 [+0.1000, +0.3000] mrr@10, BM25 0.5000): use it"),
        ((0.0, -0.1, 0.1), "runs/R and BM25 are not told apart by these queries"),
    ],
)
@pytest.mark.parametrize("mixed", [None, (False, "mix them", "R+bm25"), (True, "mix them", "R+bm25")])
def test_a_verdict_says_what_to_search_with(difference, said, mixed):
    test = dict(zip(("difference", "low", "high"), difference)) | {"mean": 0.5, "queries": 100, "p": 0.01}
    found, use = retrieval.verdict(test, "mrr@10", spec="runs/R", mixed=mixed)
    gains = mixed is not None and mixed[0]
    assert found.startswith(said if not gains else said.partition("):")[0]) and found.endswith("mix them") == bool(
        mixed
    )
    assert use == ("R+bm25" if gains else "bm25" if difference[0] < 0 else "runs/R")
    assert ("use it" in found) == (difference[0] > 0 and not gains)
    unsure, _ = retrieval.verdict(test | {"p": 0.06}, "mrr@10", spec="runs/R", mixed=mixed)
    assert "are not told apart" in unsure  # an interval that leaves 0 out is not enough


def test_evaluate_compares_with_bm25(launch, untrained, monkeypatch, capsys):
    assert launch("evaluate.py", "--run", "runs/R", "--overwrite", cwd=untrained) == 0
    out = capsys.readouterr().out
    assert "\nverdict: 12 queries are too few to say" in out and "\nnext    python rag_demo.py --run runs/R " in out
    monkeypatch.setattr(retrieval, "FEW", 12)
    assert launch("evaluate.py", "--run", "runs/R", "--overwrite", cwd=untrained) == 0
    out = capsys.readouterr().out
    assert "\nverdict: BM25 is ahead of runs/R" in out and "\nnext    python rag_demo.py --retriever bm25 " in out
    assert launch("evaluate.py", "--retriever", "bm25", "--data", "tiny", "--overwrite", cwd=untrained) == 0
    assert "verdict" not in capsys.readouterr().out
    dense, bm25 = (
        read_json(untrained / place / "eval/tiny-test/metrics.json") for place in ("runs/R", "runs/tiny-bm25")
    )
    test = dense["against_bm25"]
    assert test["mean"] == pytest.approx(bm25["mean"]["mrr@10"])
    assert test["difference"] == pytest.approx(dense["mean"]["mrr@10"] - bm25["mean"]["mrr@10"])
    assert test["low"] <= test["difference"] <= test["high"] and "against_bm25" not in bm25
