"""The benchmarks run: our side on tests/tiny, the peer's where sentence-transformers is installed."""

import contextlib
import importlib.metadata
import io
import json
import os
import re
import runpy
import sys

import numpy as np
import pytest
from conftest import ROOT

from lib import run
from lib.data.collection import load_collection
from lib.files import BadInput, read_json, write_json
from lib.negatives.pool import doc_states

MINE = "tests/bench/mine_vs_sentence_transformers.py"
SCALE = "tests/bench/mining_scale.py"
STATIC = "tests/bench/static_vs_sentence_transformers.py"
TRANSFORMER = "tests/bench/transformer_vs_sentence_transformers.py"
OF_STATIC = ("--data", "tiny", "--dim", 16, "--depth", 5, "--repeats", 1, "--lrs", 0.02, "--peer_lrs", 0.05)
PARSED = []  # the parser of train.py, once it was imported
OF_MINE = ("--data", "tiny", "--encoder", "runs/R/encoder", "--repeats", 1)


def of_transformer(bert):
    short = ("--doc_length", 64, "--train_length", 64)
    return ("--model", bert, "--data", "tiny", "--docs", 12, "--batch_size", 4, "--steps", 1, "--repeats", 1, *short)


def bench(script, *flags, cwd):
    """What a benchmark printed, in this process: to import what it needs takes longer than to run it."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [str(ROOT / script), *map(str, flags)])
        patch.setenv("HARDNEG_CACHE", os.environ["HARDNEG_CACHE"])  # put back where a benchmark changes it
        runpy.run_path(str(ROOT / script))["main"]()
    return printed.getvalue()


def test_nothing_reaches_into_private_names():
    for path in sorted((ROOT / "tests/bench").glob("*.py")):
        assert not re.findall(r"\w\._[a-z]\w*|import _\w+", path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize("script", [MINE, STATIC, TRANSFORMER])
def test_without_the_peer_one_line_names_it(script, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    flags = ("--model", "M", "--data", "D") if script == TRANSFORMER else ()
    main = runpy.run_path(str(ROOT / script))["main"]
    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(sys, "argv", [script, *flags])
    with pytest.raises(BadInput, match="pip install .*sentence-transformers.* --ours_only$"):
        main()
    run.versions.cache_clear()  # it may have looked while nothing was there


def test_a_made_collection_of_ms_marcos_layout_is_read(tmp_path):
    bench_of = runpy.run_path(str(ROOT / "tests/bench/scale.py"))
    bench_of["make"](tmp_path / "marco", 3000)
    collection = load_collection(f"trec:{tmp_path}/marco")
    assert len(collection.docs) == 3000 and len(collection.split("train")) == 3000 // 17
    lengths = [len(text.split()) for text in collection.docs.texts()]
    assert 45 < np.mean(lengths) < 65 and min(lengths) >= 8
    for split in ("train", "dev", "test"):
        qrels = collection.split(split)
        for i, row in enumerate(qrels.queries):
            own = set(collection.queries.text(row).split())
            shared = [len(own & set(collection.docs.text(doc).split())) for doc in qrels.positives(i)]
            assert max(shared) >= 2  # a query has words of its doc
    before = (tmp_path / "marco/collection.tsv").read_bytes()
    bench_of["make"](tmp_path / "again", 3000)
    assert (tmp_path / "again/collection.tsv").read_bytes() == before
    spent = bench_of["measure"](["-c", "print(1)"], cwd=tmp_path, env=os.environ)
    assert 0 <= spent["seconds"] < 60 and 0 <= spent["cpu_s"] < 60 and spent["peak_mb"] > 1
    with pytest.raises(BadInput, match="failed: see"):
        bench_of["measure"](["-c", "1 / 0"], cwd=tmp_path, env=os.environ)


def test_a_collection_without_its_questions(untrained):
    out = bench("experiments/without_questions.py", "--data", "tiny", "--kind", "dropped", "--out", "h", cwd=untrained)
    found, whole = load_collection(untrained / "h"), load_collection(untrained / "tiny")
    assert "wrote   h" in out and found.qrels_dict("test") == whole.qrels_dict("test")
    assert found.docs.texts() == whole.docs.texts()
    asked = {qid for split in ("train", "dev") for qid in found.qrels_dict(split)}
    assert asked == {f"made:{ident}" for ident in whole.docs.ids}


# ------------------------------------------------------------------------------------------------ mining


def test_mining_from_vectors(untrained):
    out = bench(MINE, *OF_MINE, "--ours_only", "--out", "mine.json", cwd=untrained)
    found = json.loads((untrained / "mine.json").read_text(encoding="utf-8"))
    assert found["settings"]["docs"] == 40 and found["agreement"] is None
    options = [row["option"] for row in found["rows"]]
    assert len(options) == 6 and all(f"\n{option:18}ours " in out for option in options)
    assert all(0 < row["ours"]["seconds"] <= row["ours"]["file_seconds"] for row in found["rows"])


def test_mining_beside_the_peer(untrained):
    pytest.importorskip("sentence_transformers"), pytest.importorskip("datasets")
    flags = ("--options", "relative_margin", "--peers", "faiss", "--out", "both.json")
    bench(MINE, *OF_MINE, *flags, cwd=untrained)
    found = json.loads((untrained / "both.json").read_text(encoding="utf-8"))
    assert all(row[side]["own_mb"] > 0 for row in found["rows"] for side in ("ours", "faiss"))
    assert found["agreement"].keys() == {"relative_margin"}
    for agreement in found["agreement"].values():
        assert agreement["same"] + sum(agreement["reasons"].values()) == agreement["queries"]
        assert agreement["reasons"]["unexplained"] == 0


# ------------------------------------------------------------------------------------------------- scale


def test_exact_search(tmp_path):
    flags = ("--docs", 500, "--queries", 20, "--dims", 8, "--k", 5, "--repeats", 1)
    out = bench("tests/bench/exact_search.py", *flags, cwd=tmp_path)
    assert [line.split()[2] for line in out.splitlines()[3:]] == ["product", "ours", "faiss", "torch"]
    assert all(line.endswith("100.0000%") for line in out.splitlines()[4:])


def test_growing_collections(tmp_path):
    out = bench(SCALE, "--docs", 400, "--dim", 8, "--candidates", 7, "--out", "scale.png", cwd=tmp_path)
    assert "400 docs: 100.0% of the positives were found and dropped; the shortest list holds 7 of 7" in out
    assert (tmp_path / "scale.png").stat().st_size > 0


@pytest.mark.slow
def test_a_killed_mining_leaves_the_same_files(tmp_path):
    out = bench(SCALE, "--docs", 100_000, "--dim", 32, "--kill", 5, 14, cwd=tmp_path)
    assert "all 19 equal byte for byte" in out


# ------------------------------------------------------------------------------------------------ static


def rows_of(out):
    """{task: (seconds of ours, of the peer, ratio)} of the static encoder's table, as printed."""
    table = out[out.index("\ntask ") :].splitlines()[2:]
    return {line[:24].strip(): line[24:].split()[:3] for line in table if line.strip()}


def test_static_encoder(untrained, rendered):
    out = bench(STATIC, *OF_STATIC, "--ours_only", "--out", "static.json", cwd=untrained)
    drawn = ("static.json", "--point", "a peer", 9999, 0.01, "--out", "pareto.png")
    front = bench("tests/bench/pareto.py", *drawn, cwd=untrained)
    assert re.search(r"ours   .* epochs? .* s  0\.\d{4}  on the front\n", front) and "0.0100\n" in front
    assert (untrained / "pareto.png").stat().st_size > 1000
    rows = rows_of(out.split("\n\nwrote")[0] + "\n")
    assert rows.keys() == {"train, 3 steps", "encode the corpus", "mine 5 negatives", "+ tokenise"}
    assert all(float(seconds) >= 0 and peer == ratio == "-" for seconds, peer, ratio in rows.values())
    assert "ours lr 0.02 dev 0." in out


def test_static_encoder_beside_the_peer(untrained):
    pytest.importorskip("sentence_transformers"), pytest.importorskip("datasets")
    out = bench(STATIC, *OF_STATIC, cwd=untrained)
    assert all(float(peer) > 0 for _, peer, _ in rows_of(out).values())
    assert "lowest cosine 1.0000" in out and "negatives in common 1.0000" in out


# ------------------------------------------------------------------------------------------- transformer


def test_transformer(untrained, bert):
    out = bench(TRANSFORMER, *of_transformer(bert), "--batch_sizes", 40, "--ours_only", cwd=untrained)
    assert re.search(r"\nencode : 12 docs\n  ours .*docs/s.*", out)
    assert re.search(r"\n  ours  nDCG@10 0\.\d{4} \(\d+ queries\)", out)
    assert re.search(r"\ntrain : 4 queries\n  ours .*queries/s", out) and "\ntrain --dropout 0: 4 queries\n" in out
    assert re.search(r"\n  B =    40 ours  .* queries/s  .*% of the matrix product\n", out) and "peer" not in out


def test_transformer_of_random_weights_in_half_precision(untrained, tmp_path):
    write_model = runpy.run_path(str(ROOT / TRANSFORMER))["write_model"]
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = write_model(tmp_path / "model", load_collection(untrained / "tiny"), **shape)
    flags = [*of_transformer(model), "--batch_sizes", 6, "--precision", "bf16", "--cached_chunk", 4, "--ours_only"]
    out = bench(TRANSFORMER, *flags, cwd=untrained)
    assert out.startswith("matrix product in bf16: ") and "\n  B =     6 ours" in out


def test_engines_that_encode(untrained, bert):
    flags = ("--model", bert, "--data", "tiny", "--docs", 8, "--repeats", 1)
    out = bench("tests/bench/encoding_engines.py", *flags, cwd=untrained)
    assert re.search(r"\ntorch +\d+\.\d .* 1\.00x  (1\.0|0\.9)", out)
    for name, package in (("openvino", "openvino"), ("openvino int8", "nncf")):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        assert re.search(rf"\n{name} +\d+\.\d .*x  (0\.9|1\.0)", out)


def test_transformer_beside_the_peer(untrained, bert):
    pytest.importorskip("sentence_transformers"), pytest.importorskip("datasets")
    out = bench(TRANSFORMER, *of_transformer(bert), "--parts", "encode", "train", cwd=untrained)
    assert len(re.findall(r"\n  peer .* 1\.00x the peer  peak ", out)) == 3  # encode, train, train without dropout
    assert re.search(r"\n  ours  nDCG@10 .* lowest cosine with the peer (1\.0000|0\.9999)", out)


# ------------------------------------------------------------------------------------------------- experiments


def test_parts_of_the_pool_differ_in_what_is_held_out(tmp_path, untrained):
    """Pools with as many other docs, with the held-out ones, and with all but those; of a share of the queries."""
    out = bench("experiments/parts_of_the_pool.py", "--data", "tiny", "--share", 0.4, "--out", "part", cwd=untrained)
    part, whole = load_collection(str(untrained / "part")), load_collection(str(untrained / "tiny"))
    assert 0 < len(part.split("train")) < len(whole.split("train"))
    assert part.qrels_dict("test") == whole.qrels_dict("test")
    pools = {path.stem: set(path.read_text("utf-8").split()) for path in (untrained / "part").glob("*.txt")}
    lost = doc_states(part)["held_out"]
    held_out = {ident for ident, is_out in zip(part.docs.ids, lost) if is_out}
    assert held_out & pools["labelled-and-held-out"] and not held_out & pools["labelled-and-others"]
    assert len(pools["labelled-and-others"]) == len(pools["labelled-and-held-out"])
    assert pools["all-but-held-out"] == set(part.docs.ids) - held_out
    assert "--allow_leak" in out and out.count("negative_docs=part/") == 3


def test_tables_of_the_docs_are_what_the_results_say():
    assert bench("experiments/tables.py", "--check", cwd=ROOT) == ""


def test_a_table_that_says_something_else_is_renewed():
    tables = runpy.run_path(str(ROOT / "experiments/tables.py"))
    text = "a\n<!-- table medquad: mrr@10 mrr@10:gain -->\n| what |\n<!-- end -->\nb\n"
    new = tables["renewed"](text)
    assert new == tables["renewed"](new) != text and "| `refresh:4` | 0." in new and new.endswith("<!-- end -->\nb\n")


def test_a_comparison_is_published_without_paths(tmp_path, monkeypatch):
    main = runpy.run_path(str(ROOT / "experiments/publish.py"))["main"]
    folder = tmp_path / "runs/C"
    write_json(folder / "ablation.json", {"data": "/home/me/faq", "arms": []})
    record = {"args": {"data": "/home/me/faq"}, "argv": "train.py --data /home/me/faq", "source": None, "code": {}}
    write_json(folder / "config.json", record)
    (folder / "per_query.npz").write_bytes(b"numbers")
    monkeypatch.setitem(main.__globals__, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["publish.py", str(folder), "faq", "--data", "faq"])
    main()
    kept = {path.name: path.read_text("utf-8") for path in (tmp_path / "results/faq").iterdir()}
    assert set(kept) == {"ablation.json", "config.json", "per_query.npz"} and "/home/me" not in "".join(kept.values())


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ROOT.glob("docs/results/*/config.json")))
def test_what_was_published_can_be_trained_again(name, monkeypatch):
    """Flags and arms of every published comparison are those of today."""
    parse_args = runpy.run_path(str(ROOT / "train.py"))["parse_args"] if not PARSED else PARSED[0]
    PARSED[:] = [parse_args]
    path = ROOT / "docs/results" / name / "config.json"
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(path)])
    args, _ = parse_args()
    recorded = json.loads(path.read_text("utf-8"))["args"]
    assert [arm.text for arm in args.negatives] == recorded["negatives"] and args.seeds == recorded["seeds"]


@pytest.mark.slow
def test_merging_is_measured_by_the_share_of_the_trained_weights(untrained, launch):
    """An encoder averaged with itself stays what it is, and is measured as evaluate.py measures it."""
    flags = ("--data", "tiny", "--shares", 0.5, "--out", "merged")
    out = bench("experiments/merging.py", "runs/R", "runs/R", *flags, cwd=untrained)
    assert launch("evaluate.py", "--run", "runs/R", "--overwrite", cwd=untrained) == 0
    (expected,) = (untrained / "runs/R/eval").glob("*/metrics.json")
    assert f"| 0.5 | {read_json(expected)['mean']['mrr@10']:.4f} |" in out
    assert (untrained / "merged/merging.png").exists()
