"""Kinds of negatives, filters, sampling and losses that are chosen by name: what each does, in a plain case."""

import json

import numpy as np
import pytest
import tokenizers
import torch
from conftest import make_encoder, write_collection

from lib import run
from lib.data.batches import QueryOrder, by_chance, log_drawn, make_batch
from lib.data.collection import load_collection, without
from lib.files import BadInput
from lib.loss import contrastive_loss
from lib.model import embedder, merge
from lib.model.encoder import load_encoder, save_encoder
from lib.negatives.candidates import Candidates
from lib.negatives.filters import apply, inconsistent, parse_filter, parse_positive_filter
from lib.negatives.pool import held_out, labelled, open_pool
from lib.negatives.sampler import NegativeSampler
from lib.negatives.sampling import parse_sampling
from lib.negatives.sampling import slots as slots_of
from lib.negatives.sources import Miner

FILES = 8  # of three sections each
SHAPE = ("--batch_size", 8, "--steps", 4, "--log_every", 1, "--dim", 16, "--vocab_size", 400, "--negative_docs", "all")
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the collection sections/: docs of eight files, a query for each; one file has a single section."""
    folder = tmp_path_factory.mktemp("desk")
    docs = {f"d{i}": f"section {i} of file {i // 3} tells of matter number {i}" for i in range(3 * FILES)}
    docs["alone"] = "a file with a single section"
    queries = {f"q{i}": f"what is matter number {i}" for i in range(3 * FILES)} | {"lonely": "which file is alone"}
    qrels = {"train": [(f"q{i}", f"d{i}", 1) for i in range(18)] + [("lonely", "alone", 1)]}
    qrels |= {"dev": [(f"q{i}", f"d{i}", 1) for i in range(18, 21)], "test": [("q21", "d21", 1), ("q22", "d22", 1)]}
    write_collection(folder / "sections", docs, queries, qrels)
    write_collection(folder / "asked", docs, queries, qrels)
    for name, file in (("sections", "corpus.jsonl"), ("asked", "queries.jsonl")):  # who has the field
        path, lines = folder / name / file, []
        for line in path.read_text().splitlines():
            record = json.loads(line)
            number = int(record["_id"][1:]) // 3 if record["_id"][1:].isdigit() else FILES
            lines.append(json.dumps(record | {"metadata": {"file": f"f{number}.md"}}) + "\n")
        path.write_text("".join(lines))
    return folder


@pytest.fixture
def train(launch, desk, monkeypatch):
    """A function that trains on a collection of the desk; (lines of the log by event, the run's folder)."""

    def start(*flags, data="sections", name="run"):
        assert launch("train.py", "--data", data, *SHAPE, *flags, "--name", name, "--overwrite", cwd=desk) == 0
        events = {}
        for line in run.Run(desk / "runs" / name).read_log():
            events.setdefault(line["event"], []).append(line)
        return events, desk / "runs" / name

    return start


def ids(collection, rows):
    """The ids of doc rows, -1 left out."""
    return {collection.docs.ids[row] for row in rows if row >= 0}


@pytest.mark.parametrize("name, pool", [("sections", "all"), ("asked", "all"), ("sections", "labelled")])
def test_siblings_share_the_field_of_the_positive(desk, name, pool):
    collection = load_collection(desk / name)
    for seed in (0, 1):
        miner = Miner(collection=collection, by="file", seed=seed, pool=open_pool(pool, collection))
        found = miner.mine("sibling", np.arange(19), 5)
        for i in range(18):
            assert ids(collection, found.docs[i]) == {f"d{j}" for j in range(18) if j // 3 == i // 3 and j != i}
        assert not ids(collection, found.docs[18])  # of the file with one section
    assert found.describe()["empty_lists"] == 1 and found.dropped["positive"] == 19
    other = Miner(collection=collection, by="file", seed=0).mine("sibling", np.arange(19), 5)
    assert (other.docs != found.docs).any()  # another seed, another order


def test_a_query_of_dev_has_siblings_of_its_positive_where_docs_have_the_field(desk):
    for name, wanted in (("sections", {"d19", "d20"}), ("asked", set())):  # no label of dev says which docs are theirs
        collection = load_collection(desk / name)
        found = Miner(collection=collection, split="dev", by="file").mine("sibling", np.arange(3), 5)
        assert ids(collection, found.docs[0]) == wanted


def test_an_arm_of_siblings(train, launch, refused, desk, capsys):
    log, _ = train("--negatives", "sibling:4 by=file")
    (line,) = log["mining"]
    assert line["empty_lists"] == 1 and line["mined"] == "sibling"
    assert 0 < sum(r["negatives"] for step in log["step"] for r in step["ledger"] if r["source"] == "sibling") <= 8
    assert launch("mine_negatives.py", "--data", "sections", "--sources", "sibling", "--by", "file", cwd=desk) == 0
    capsys.readouterr()
    for flags in (["--negatives", "sibling:4"], ["--negatives", "bm25:4 by=file"]):
        assert "sibling:K and --by FIELD come together" in refused("train.py", "--data", "sections", *flags, cwd=desk)
    said = refused("train.py", "--data", "sections", *SHAPE, "--negatives", "sibling:4 by=author", cwd=desk)
    assert "no doc has the field author in its metadata" in said and "there are: file" in said


def test_not_same_drops_what_shares_the_field(desk):
    for name in ("sections", "asked"):
        collection = load_collection(desk / name)
        everything = np.tile(np.arange(18), (18, 1))
        found = apply(Candidates("all", np.arange(18), everything), [parse_filter("not_same:file")], collection)
        for i in range(18):
            assert ids(collection, found.docs[i]) == {f"d{j}" for j in range(18) if j // 3 != i // 3}
        assert found.dropped == {"not_same:file": 18 * 3}
    for text in ("not_same", "not_same:", "not_same:a:b"):
        with pytest.raises(BadInput, match=text):
            parse_filter(text)


def drawn_scores(sampling, candidates, progress, *, draws=2000):
    """The mean score of one draw, over many epochs."""
    choice = parse_sampling(sampling)
    slots = [slots_of(choice, candidates, 1, seed=0, epoch=e, progress=progress)[0, 0] for e in range(draws)]
    return candidates.scores[0, slots].mean()


@pytest.mark.parametrize("sampling", ["softmax:1:.02", "simans:10:-.5:10:0"])
def test_negatives_grow_harder_within_a_run(sampling):
    scores, positive = np.linspace(0.9, 0.1, 30, dtype=np.float32)[None], np.array([0.95], dtype=np.float32)
    candidates = Candidates("dense", np.zeros(1, dtype=int), np.arange(30)[None], scores, positive)
    means = [drawn_scores(sampling, candidates, progress) for progress in (0, 0.5, 1)]
    assert means == sorted(means) and means[2] > means[0] + 0.2
    name, *numbers = sampling.split(":")
    ends = [":".join([name, *part]) for part in (numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :])]
    for end, progress in zip(ends, (0, 1)):  # the ends are what is written with those numbers alone, draw by draw
        assert drawn_scores(end, candidates, 0.3) == drawn_scores(sampling, candidates, progress)


def test_an_arm_that_grows_harder(train):
    flags = ("--negatives", "bm25:2", "--depth", 20)
    (log, _), (same, _), (plain, _) = (
        train(*flags, "--sampling", sampling) for sampling in ("softmax:50:.01", "softmax:1:1", "softmax:1")
    )
    assert same["step"] == plain["step"] != log["step"]


def test_positives_are_filtered_by_rank_and_by_score(desk):
    collection = load_collection(desk / "sections")
    found, rows = Miner(collection=collection).propose("bm25", "all", 25), collection.split("train").queries
    ranks = 1 + (found.scores > found.positive[:, None]).sum(1)
    middle = float(np.median(found.positive))
    for text, wanted in (("rank:1", ranks > 1), ("rank", ranks > 2), (f"score:{middle}", found.positive < middle)):
        drop, scores = inconsistent(parse_positive_filter(text), Miner(collection=collection), "bm25")
        np.testing.assert_array_equal(drop, wanted)
        np.testing.assert_array_equal(scores, found.positive)
    with pytest.raises(BadInput, match="score:1000: by bm25 it drops every training pair"):
        inconsistent(parse_positive_filter("score:1000"), Miner(collection=collection), "bm25")
    smaller = without(collection, np.arange(len(rows)) < 5)
    assert smaller.split("train").queries.tolist() == rows[5:].tolist()
    for before, after in zip(collection.known, smaller.known):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(labelled(collection), labelled(smaller))
    np.testing.assert_array_equal(held_out(collection), held_out(smaller))


def test_an_arm_without_inconsistent_pairs(train, refused, desk, capsys):
    _, folder = train("--negatives", "bm25:2", name="whole")
    start = json.loads((folder / "config.json").read_text())["derived"]
    assert not (folder / "dropped_pairs.tsv").exists() and "dropped_pairs" not in start
    least = float(np.median(Miner(collection=load_collection(desk / "sections")).propose("bm25", "all", 1).positive))
    _, folder = train("--negatives", f"bm25:2 positive_filter=score:{least}")
    derived = json.loads((folder / "config.json").read_text())["derived"]
    header, *lines = (folder / "dropped_pairs.tsv").read_text().splitlines()
    assert header == "query-id\tcorpus-id\tscore" and 0 < len(lines) == derived["dropped_pairs"] < 19
    assert derived["train_queries"] == 19 - len(lines) and derived["initial_weights"] == start["initial_weights"]
    assert all(float(line.split("\t")[2]) < least for line in lines)
    assert f"leaves out {len(lines)} training pairs" in capsys.readouterr().out
    train("--negatives", "bm25:2", "--positive_filter", "rank:3", "--miner", "runs/whole")
    capsys.readouterr()
    said = refused("train.py", "--data", "sections", "--negatives", "bm25:2", "--miner", "bm25", cwd=desk)
    assert "miner:K and --miner M come together" in said


def test_spread_draws_docs_that_differ():
    scores = np.array([[0.9, 0.9, 0.9, 0.9, 0.5, 0.1, 0.7], [0.3] * 4 + [np.nan] * 3], dtype=np.float32)
    docs = np.array([[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, -1, -1, -1]])
    candidates = Candidates("file", np.arange(2), docs, scores)  # in no order of scores, as a file may be
    counts, copies = np.zeros(7), 0
    for epoch in range(300):
        drawn = slots_of(parse_sampling("spread"), candidates, 3, seed=0, epoch=epoch)
        assert len(set(drawn[0])) == 3 and len(set(drawn[1])) == 3 and drawn[1].max() < 4  # equal scores: any of them
        counts += np.bincount(drawn[0], minlength=7)
        copies += (drawn[0] < 4).sum() > 1
    assert copies < 3 and counts[4] > counts[3] > 0  # of four copies hardly ever two
    full = slots_of(parse_sampling("spread"), candidates, 7, seed=0, epoch=0)
    assert sorted(full[0]) == list(range(7)) and (full[1] >= 0).sum() == 4


def test_logq_is_how_often_a_batch_holds_a_doc(crowded):
    qrels, groups = crowded.split("train"), crowded.docs.groups
    order = QueryOrder(len(qrels), batch_size=4, seed=0)
    times = np.zeros(len(groups))
    for i in range(len(qrels)):
        for doc in (positives := qrels.positives(i)):
            times[groups[doc]] += 4 / len(qrels) / len(positives)
    wanted = np.array([np.log(min(1, times[group])) if times[group] else 0 for group in groups])
    found = log_drawn(crowded, order)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert found.min() < -1 and (found == 0).any()
    rows = qrels.queries[:4]
    positives = np.array([qrels.positives(i)[0] for i in range(4)])
    named = np.array([[qrels.positives(5)[0]], [-1], [-1], [-1]])
    batch = make_batch(crowded, rows, positives, {1: named})
    array = by_chance(batch, found)
    for i in range(4):
        for j, doc in enumerate(batch.docs):
            kept = j == batch.labels[i] or batch.source[i, j] > 0
            assert array[i, j] == (0 if kept else found[doc])


def test_logq_moves_the_logits_of_other_queries_docs_alone():
    torch.manual_seed(0)
    q_emb, d_emb = (torch.nn.functional.normalize(torch.randn(n, 6, dtype=torch.double), dim=1) for n in (3, 5))
    labels, invalid = torch.arange(3), torch.zeros(3, 5, dtype=torch.bool)
    log_q = torch.log(torch.rand(3, 5, dtype=torch.double)) * (1 - torch.nn.functional.one_hot(labels, 5))
    value, _, _ = contrastive_loss(
        q_emb, d_emb, labels, invalid, temperature=0.1, terms=[("logq",), ("query_to_query",)], logq=log_q
    )
    logits = torch.cat([q_emb @ d_emb.T / 0.1 - log_q, (q_emb @ q_emb.T / 0.1).fill_diagonal_(-torch.inf)], 1)
    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(logits, labels))


def test_an_arm_with_logq(train):
    (plain, _), (log, _) = (
        train("--negatives", f"bm25:1 pull=first_sentence negative_docs=labelled{terms}")
        for terms in ("", " terms=logq")
    )
    assert log["step"][0]["loss"] > plain["step"][0]["loss"]  # the same batch, its docs weighing more


def merged(monkeypatch, *flags):
    """Call lib.model.merge with these flags."""
    monkeypatch.setattr("sys.argv", ["merge", *map(str, flags)])
    merge.main()


@pytest.mark.parametrize("kind", ["static", "bert"])
def test_weights_are_merged(kind, tiny, bert, tmp_path, monkeypatch):
    start = make_encoder(tiny) if kind == "static" else load_encoder(bert)
    trained = make_encoder(tiny, seed=1) if kind == "static" else load_encoder(bert)
    with torch.no_grad():
        for weight in trained.parameters():
            weight.add_(torch.randn_like(weight) / 10)
    (tmp_path / "run").mkdir()
    save_encoder(start, tmp_path / "start")
    save_encoder(trained, tmp_path / "run/encoder")
    for alpha in (0, 0.25, 1):
        merged(monkeypatch, tmp_path / "start", tmp_path / "run", "--alpha", alpha, "--out", tmp_path / f"{alpha}")
        found = dict(load_encoder(tmp_path / f"{alpha}").named_parameters())
        for (name, a), b in zip(start.named_parameters(), trained.parameters()):
            torch.testing.assert_close(found[name], alpha * b + (1 - alpha) * a)
    with pytest.raises(BadInput, match="exists"):
        merged(monkeypatch, tmp_path / "start", tmp_path / "run", "--out", tmp_path / "1")


def test_weights_that_do_not_fit_are_not_merged(tiny, bert, tmp_path, monkeypatch):
    names = {"a": make_encoder(tiny), "wide": make_encoder(tiny, dim=17), "bert": load_encoder(bert)}
    names["other"] = make_encoder(tiny)
    vocabulary = names["other"].tokenizer.get_vocab()
    first, second = sorted(vocabulary)[-2:]
    vocabulary |= {first: vocabulary[second], second: vocabulary[first]}
    names["other"].tokenizer.model = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")
    for name, encoder in names.items():
        save_encoder(encoder, tmp_path / name)
    for name, said in (("wide", "differ in shape, table first"), ("bert", "differ in shape"), ("other", "vocabular")):
        with pytest.raises(BadInput, match=said):
            merged(monkeypatch, tmp_path / name, tmp_path / "a", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [[], ["--chunk_size", "3"]], ids=["whole", "cached"])
def test_frozen_docs_are_encoded_once(launch, refused, desk, bert, monkeypatch, capsys, more):
    embedded, original = [], embedder.embed

    def embed(encoder, tokens, *args, **kwargs):
        embedded.append(tokens.kind)
        return original(encoder, tokens, *args, **kwargs)

    monkeypatch.setattr(embedder, "embed", embed)
    flags = [
        "--data",
        "sections",
        "--batch_size",
        8,
        "--steps",
        4,
        "--refresh_every",
        2,
        "--lr",
        ".001",
        "--freeze_docs",
    ]
    flags += ["--negatives", "refresh:2", *more, "--name", "frozen", "--overwrite"]
    monkeypatch.setenv("HARDNEG_CACHE", str(desk / "-".join(["cache", *more])))
    assert launch("train.py", *flags, "--encoder", bert, bert, cwd=desk) == 0
    assert embedded.count("doc") == 1 and embedded.count("query") > 4
    start, trained = load_encoder(bert), load_encoder(desk / "runs/frozen/encoder")
    for tower, moved in ((trained.doc_tower, False), (trained.query_tower, True)):
        pairs = list(zip(start.doc_tower.parameters(), tower.parameters(), strict=True))
        assert any(not torch.equal(a, b) for a, b in pairs) == moved
    assert json.loads((desk / "runs/frozen/summary.json").read_text())["docs_encoded"] == 0
    capsys.readouterr()
    for encoder in ([bert], ["static"]):
        assert "--freeze_docs" in refused("train.py", *flags, "--encoder", *encoder, cwd=desk).splitlines()[-1]


@pytest.fixture
def visited(monkeypatch):
    """A list that each step of training adds the ids of its queries to."""
    found, original = [], NegativeSampler.batch

    def batch(self, positions, **how):
        rows = self.qrels.queries[positions]
        found.append([self.collection.queries.ids[row] for row in rows])
        return original(self, positions, **how)

    monkeypatch.setattr(NegativeSampler, "batch", batch)
    return found


@pytest.mark.parametrize("data", ["sections", "asked"])
def test_batches_by_a_field(train, refused, desk, visited, capsys, data):
    train("--negatives", "in_batch batch_by=file", "--batch_size", 3, data=data)
    steps = visited[-4:]
    of_file = [{int(name[1:]) // 3 if name != "lonely" else FILES for name in step} for step in steps]
    assert all(len(files) <= 3 for files in of_file) and np.mean([len(files) for files in of_file]) < 2.5
    capsys.readouterr()
    for flags in (["--batch_by", "author"], ["--batch_by", "file", "--query_clusters", 2]):
        said = refused("train.py", "--data", data, *SHAPE, *flags, "--name", "x", cwd=desk)
        assert "author" in said or "exclude each other" in said


def test_batches_of_a_file(train, refused, desk, visited, capsys):
    lines = ["q3 q1 q2", "q9 q8 q17", "q3 q9 lonely"]
    (desk / "batches.txt").write_text("\n".join(lines) + "\n")
    flags = ("--negatives", "in_batch", "--batch_size", 3)
    train(*flags, "--batches", "batches.txt")
    assert [" ".join(step) for step in visited[-4:]] == [*lines, lines[0]]
    capsys.readouterr()
    for text, wanted in (
        ("q3 q1", ":1: 2 different queries among 2, and --batch_size is 3"),
        ("q3 q1 q2\nq3 q3 q1", ":2: 2 different queries among 3"),
        ("q3 q1 q20", ":1: 'q20' is no train query"),
        ("\n", "no batch in it"),
    ):
        (desk / "batches.txt").write_text(text)
        said = refused("train.py", "--data", "sections", *SHAPE, *flags, "--batches", "batches.txt", cwd=desk)
        assert wanted in said
