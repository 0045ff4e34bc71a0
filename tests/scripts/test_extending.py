"""What README.md says can be added is added here from outside, in a few lines each, and trained with."""

import re
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY, embed_texts, write_collection

from lib import loss, run
from lib.data.collection import load_collection
from lib.files import BadInput, read_json
from lib.model import encoder as model
from lib.model.pooling import POOLINGS
from lib.negatives.candidates import Candidates, overfetch
from lib.negatives.files import read_negatives
from lib.negatives.filters import FILTERS, Filter
from lib.negatives.pool import held_out
from lib.negatives.sampler import IN_BATCH, NegativeSampler
from lib.negatives.sampling import SAMPLING, Sampling
from lib.negatives.sources import SOURCES, Source
from lib.search.hits import Hits

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder to work in: the collection at tiny/, runs at runs/."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(TINY, folder / "tiny")
    return folder


@pytest.fixture
def train(launch, desk, monkeypatch):
    """A function that trains for 3 steps in this process; {event: lines of the log}."""

    def start(*flags):
        shape = () if "--encoder" in flags else ("--dim", 16, "--vocab_size", 400)
        flags = ("--data", "tiny", "--batch_size", 8, "--steps", 3, "--log_every", 1, *shape, *flags)
        assert launch("train.py", *flags, "--name", "extended", "--overwrite", cwd=desk) == 0
        events = {}
        for line in run.Run(desk / "runs/extended").read_log():
            events.setdefault(line["event"], []).append(line)
        return events

    return start


def losses(log):
    """The loss of each step."""
    return [line["loss"] for line in log["step"]]


def mine_longest(miner, positions, count, last, encoder):
    """The longest docs, the same for every query."""
    lengths = np.array([len(text) for text in miner.collection.docs.texts()], dtype=np.float32)
    queries = miner.collection.split("train").queries[positions]
    rows = np.tile(np.argsort(-lengths)[: count + overfetch(miner.collection)], (len(queries), 1))
    hits = Hits(lengths[rows], rows, lengths[miner.collection.known_docs(queries)])
    return Candidates.from_hits(miner.collection, queries, hits, source="longest", count=count)


def draw_first(collection, query_rows, count, *, pool, seed, epoch):
    """The first docs of the pool."""
    return np.tile(pool.draw(np.zeros(1), collection) + np.arange(count, dtype=np.int32), (len(query_rows), 1))


@pytest.mark.parametrize(
    "source",
    [
        Source("K of the longest docs", mine=mine_longest),
        Source("K of the longest docs, again and again", mine=mine_longest, every="refresh"),
        Source("the first K docs", draw=draw_first),
    ],
    ids=["mined once", "refreshed", "drawn"],
)
def test_a_source(train, monkeypatch, source):
    monkeypatch.setitem(SOURCES, "longest", source)
    log = train("--negatives", "longest:2+bm25:1", "--depth", 5, "--refresh_every", 2)
    for line in log["step"]:
        rows = [row for row in line["ledger"] if row["source"] == "longest"]
        assert sum(row["negatives"] for row in rows) > 0 and {row["source"] for row in line["ledger"]} == {
            "in_batch", "longest", "bm25",
        }  # fmt: skip
    mined = [(line["step"], line["mined"]) for line in log["mining"] if line["mined"] == "longest"]
    wanted = [] if source.draw else [0, 2] if source.every == "refresh" else [0]
    assert mined == [(step, "longest") for step in wanted]


def mine_nearest(miner, positions, count, last, encoder):
    """The encoder's own best, by whatever encoder there is."""
    q_emb, d_emb = miner.embed_queries(encoder, positions), miner.embed_docs(encoder)
    return miner.search("nearest", positions, count, last, q_emb, d_emb)


def test_a_source_mines_without_training(train, launch, refused, desk, monkeypatch, capsys):
    for name, row in (
        ("longest", Source("K of the longest docs", mine=mine_longest)),
        ("first", Source("the first K docs", draw=draw_first)),
        ("nearest", Source("K of the encoder's best", mine=mine_nearest, every="refresh")),
    ):
        monkeypatch.setitem(SOURCES, name, row)
    train("--negatives", "in_batch")

    def mine(sources, *flags):
        flags = ("--data", "tiny", "--depth", 4, "--name", "offline", "--overwrite", *flags)
        assert launch("mine_negatives.py", "--sources", *sources, *flags, cwd=desk) == 0
        _, rows = read_negatives(desk / f"runs/offline/negatives/tiny-train-{'+'.join(sources)}.jsonl")
        return [(record["qid"], record["doc_id"], record["score"]) for _, record in rows]

    lengths = {len(text) for text in load_collection(TINY).docs.texts()}
    assert {score for *_, score in mine(["longest"])} <= lengths and mine(["first"])
    run_flags = ("--run", "runs/extended", "--negative_docs", "all")
    by_function, by_search = (mine([name], *run_flags) for name in ("nearest", "dense"))
    assert [found[:2] for found in by_function] == [found[:2] for found in by_search]
    flags = ("--data", "tiny", "--overwrite", "--name", "offline")
    capsys.readouterr()
    assert "--run R" in refused("mine_negatives.py", *flags, "--sources", "nearest", cwd=desk)
    said = refused("mine_negatives.py", *flags, "--sources", "longest", "--split", "dev", cwd=desk)
    assert "the source longest proposes for other queries than those of dev" in said


@pytest.fixture(scope="module")
def words(desk):
    """A collection at words/ whose docs begin with one of three words: labelled, held out, a copy, and unjudged."""
    docs = {f"d{i}": f"{'red green blue'.split()[i % 3]} thing number {i}" for i in range(60)}
    docs["copy"] = docs["d3"]
    queries = {f"q{i}": f"which thing is {i}" for i in range(48)} | {"own": docs["d6"]}
    splits = {"train": range(24), "dev": range(24, 36), "test": range(36, 48)}
    qrels = {split: [(f"q{i}", f"d{i}", 1) for i in rows] for split, rows in splits.items()}
    qrels["train"].append(("own", "d9", 1))
    return load_collection(write_collection(desk / "words", docs, queries, qrels))


def mine_first_word(miner, positions, count, last, encoder):
    """Docs that begin with the first word of the query's positive, as the README says: nothing is looked after."""
    collection, qrels = miner.collection, miner.collection.split("train")
    first = np.array([text.split()[0] for text in collection.docs.texts()])
    docs = np.full((len(positions), len(first)), -1)
    for i, position in enumerate(positions):
        found = np.flatnonzero(first == first[qrels.positives(position)[0]])
        docs[i, : len(found)] = found
    return Candidates("first_word", qrels.queries[positions], docs)


@pytest.mark.parametrize("every", ["stage", "refresh", "step"])
def test_a_source_cannot_make_a_negative_of_what_may_not_be_one(train, monkeypatch, words, capsys, every):
    monkeypatch.setitem(SOURCES, "first_word", Source("K docs with the first word", mine=mine_first_word, every=every))
    original, drawn = NegativeSampler.sample, []

    def sample(self, positions, **how):
        drawn.append((words.split("train").queries[positions], original(self, positions, **how)))
        return drawn[-1][1]

    monkeypatch.setattr(NegativeSampler, "sample", sample)
    flags = ("--data", "words", "--negatives", "first_word:12", "--depth", 30, "--candidates", 30)
    log, hidden = train(*flags), held_out(words)
    pairs = [(rows, docs) for rows, parts in drawn for docs in parts.values()]
    assert sum((docs >= 0).sum() for _, docs in pairs) > 100
    for rows, docs in pairs:
        assert not hidden[docs[docs >= 0]].any() and not words.no_negative(rows, docs).any()
    assert all(row["held_out"] == row["unlabelled"] == 0 for line in log["step"] for row in line["ledger"])
    printed = capsys.readouterr().out
    if every == "stage":  # what was left out is counted: each query's positive, the copy of d3, d6 of the query `own`
        (line,) = log["mining"]
        assert line["dropped"]["positive"] == 26 and line["dropped"]["the query itself"] == 1
        assert line["dropped"]["outside the pool"] == 25 * 12 and "300 outside the pool left out" in printed
    # a pool that is declared to be the whole corpus has held-out docs, and nobody stops it
    ledgers = [row for line in train(*flags, "--negative_docs", "all")["step"] for row in line["ledger"]]
    assert any(row["held_out"] > 0 for row in ledgers if row["source"] == "first_word")


def test_a_source_that_draws_outside_the_pool_stops_the_run(refused, desk, monkeypatch, words):
    def draw_anywhere(collection, query_rows, count, *, pool, seed, epoch):
        return np.tile(np.arange(len(collection.docs)), (len(query_rows), 1))

    monkeypatch.setitem(SOURCES, "anywhere", Source("docs of the whole corpus", draw=draw_anywhere))
    flags = ("--data", "words", "--batch_size", 8, "--steps", 3, "--dim", 16, "--vocab_size", 400, "--name", "stopped")
    said = refused("train.py", *flags, "--negatives", "anywhere:2", cwd=desk)
    assert re.search(
        r"the source anywhere drew \d+ docs outside the pool labelled, \d+ of which only dev or test", said
    )


def test_a_filter(train, monkeypatch, tiny):
    def shorter(candidates, collection, length):
        """Docs of fewer characters."""
        lengths = np.array([len(text) for text in collection.docs.texts()])
        return lengths[candidates.docs] < length

    monkeypatch.setitem(FILTERS, "shorter", Filter(shorter, {"LENGTH": {"kind": int, "least": 1}}))
    middle = int(np.median([len(text) for text in tiny.docs.texts()]))
    (plain,) = train("--negatives", "bm25:1", "--candidates", 20, "--depth", 20)["mining"]
    (line,) = train("--negatives", "bm25:1", "--candidates", 20, "--depth", 20, "--filters", f"shorter:{middle}")[
        "mining"
    ]
    dropped = line["dropped"][f"shorter:{middle}"]
    assert 0 < dropped == plain["candidates"] - line["candidates"]


def test_a_way_of_sampling(train, desk, monkeypatch):
    def deep(candidates, progress, power):
        """The deeper in the list, the likelier: rank ** power."""
        return power * np.log(np.maximum(candidates.ranks, 1))

    monkeypatch.setitem(SAMPLING, "deep", Sampling(deep, {"P": {}}))
    below = {}  # negatives per query that stood below rank 10
    for sampling in ("uniform", "deep:50"):
        log = train("--negatives", "bm25:1", "--sampling", sampling)
        rows = [row for line in log["step"] for row in line["ledger"] if row["ranks"] == "11-30"]
        below[sampling] = sum(row["negatives"] for row in rows) / 3
    assert below["uniform"] < 0.7 < below["deep:50"]
    assert read_json(desk / "runs/extended/config.json")["args"]["sampling"] == "deep:50"


def test_a_way_of_sampling_that_gets_harder_and_draws_as_many_as_there_are(train, monkeypatch):
    def up_to(candidates, progress, first, last):
        """Evenly among the best FIRST of a list, at the end among LAST."""
        return np.where(candidates.ranks <= first + progress * (last - first), 0.0, -np.inf)

    whole = {"kind": int, "least": 1}
    monkeypatch.setitem(SAMPLING, "up_to", Sampling(up_to, {"FIRST": whole, "LAST": whole}))
    ledgers = [line["ledger"] for line in train("--negatives", "bm25:9", "--sampling", "up_to:1:7")["step"]]
    found = [sum(row["negatives"] for row in own if row["source"] == "bm25") for own in ledgers]
    assert 0 < found[0] <= 1 < found[1] <= 3 < found[2] <= 5  # of steps 0, 1 and 2 out of 3, at ranks up to 1, 3 and 5


def test_a_pooling(train, desk, monkeypatch, bert):
    def second(hidden, mask):
        """The second token's vector, which sentence-transformers has no name for."""
        return hidden[:, 1]

    monkeypatch.setitem(POOLINGS, "second", second)
    flags = ("--negatives", "in_batch", "--encoder", bert, "--dropout", 0)
    assert losses(train(*flags)) != losses(train(*flags, "--pooling", "second"))
    saved, texts = desk / "runs/extended/encoder", ["a red thing", "the Moon's gravity"]
    for pooling in ("second", "second+mean"):
        encoder = model.load_encoder(saved, overrides={"pooling": pooling})
        model.save_encoder(encoder, desk / pooling)
        assert read_json(desk / pooling / "1_OwnPooling/config.json")["pooling_mode"] == pooling
        loaded = model.load_encoder(desk / pooling)
        assert loaded.settings["pooling"] == pooling
        np.testing.assert_array_equal(embed_texts(loaded, texts), embed_texts(encoder, texts))
    assert "does not know the pooling second and refuses" in (saved / "README.md").read_text()
    monkeypatch.delitem(POOLINGS, "second")
    with pytest.raises(BadInput, match="pooling second: 'second' is none of"):
        model.load_encoder(saved)
    library = pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match="OwnPooling"):
        library.SentenceTransformer(str(saved), device="cpu")


def test_a_source_that_teaches(train, monkeypatch):
    def mine_taught(miner, positions, count, last, encoder):
        """The longest docs, with a teacher for whom each is worth half of the positive."""
        found = mine_longest(miner, positions, count, last, encoder)
        found.teacher = np.where(found.docs >= 0, 0.5, np.nan).astype(np.float32)
        found.teacher_positive = np.ones(len(found.docs), dtype=np.float32)
        return found

    flags = ("--negatives", "longest:2", "--terms", "margin_mse:0.5")
    monkeypatch.setitem(SOURCES, "longest", Source("K of the longest docs", mine=mine_taught, teaches=True))
    taught, plain = train(*flags), train(*flags[:2])
    assert taught["step"][0]["info_nce"] == plain["step"][0]["info_nce"] and losses(taught) != losses(plain)
    # random weights give all pairs about the same score, and the teacher wants the positive .5 above the others
    assert losses(taught)[0] == pytest.approx(0.5 * losses(plain)[0] + 0.5 * 0.5**2, abs=0.1)


def test_a_source_without_a_teacher_is_refused_where_one_is_wanted(refused, desk, monkeypatch):
    monkeypatch.setitem(SOURCES, "longest", Source("K of the longest docs", mine=mine_longest))
    said = refused("train.py", "--data", "tiny", "--negatives", "longest:2", "--terms", "margin_mse:0.5", cwd=desk)
    assert "--terms margin_mse and kl need" in said


def test_a_rule_for_docs_of_other_queries(train, monkeypatch, tiny):
    def short(collection, batch):
        """They count, but for short ones."""
        lengths = np.array([len(text) for text in collection.docs.texts()])
        return (batch.source == 0) & (lengths[batch.columns] < middle)

    middle = np.median([len(text) for text in tiny.docs.texts()])
    monkeypatch.setitem(IN_BATCH, "long", short)
    found = {}
    for rule in ("on", "long", "off"):
        log = train("--negatives", "random:1", "--in_batch", rule)
        rows = [row for line in log["step"] for row in line["ledger"]]
        found[rule] = {
            name: sum(row["negatives"] for row in rows if row["source"] == name) for name in ("in_batch", "random")
        }
    assert found["on"]["in_batch"] > found["long"]["in_batch"] > found["off"]["in_batch"] == 0
    assert found["on"]["random"] == found["long"]["random"] == found["off"]["random"] > 0


@pytest.mark.parametrize("chunk_size", [100, 3])
def test_a_term_of_the_loss(train, monkeypatch, chunk_size):
    def closeness(s, value, weight):
        """Adds this times the mean similarity of the docs of a batch, so that they spread."""
        return value + weight * s.similarity(s.d, s.d).mean()

    monkeypatch.setitem(loss.TERMS, "closeness", loss.Row(closeness, {"WEIGHT": {"least": 0}}, at="whole"))
    flags = ("--negatives", "random:1", "--chunk_size", chunk_size)
    plain, found = train(*flags), train(*flags, "--terms", "closeness:5")
    assert all(a > b for a, b in zip(losses(found), losses(plain)))
    assert found["step"][0]["info_nce"] == plain["step"][0]["info_nce"]  # of the same batch and weights
    assert found["step"][2]["info_nce"] != plain["step"][2]["info_nce"]  # the term has moved them


def test_a_base_and_a_mask_of_the_loss(train, desk, monkeypatch, refused, capsys):
    def sigmoid(s, bias):
        """Each pair on its own, as in SigLIP (Zhai et al. 2023) -> (B,)."""
        sign = 2.0 * s.is_positive - 1
        found = -torch.nn.functional.logsigmoid(sign * (s.plain / s.temperature + bias))
        return torch.where(s.mask & ~s.is_positive, 0.0, found).sum(1)

    def hardest(s, count):
        """All but the hardest N negatives."""
        scores = s.plain.detach().masked_fill(s.invalid | s.is_positive, -torch.inf)
        return scores < scores.topk(count, dim=1).values[:, -1:]

    monkeypatch.setitem(loss.BASES, "sigmoid", loss.Row(sigmoid, {"BIAS": {}}, takes="whole"))
    monkeypatch.setitem(loss.MASKS, "hardest", loss.Row(hardest, {"N": {"kind": int, "least": 1}}))
    flags = ("--negatives", "in_batch", "--base", "sigmoid:-10")
    plain, few = train(*flags), train(*flags, "--masks", "hardest:2", "--terms", "spread:0")
    for log, least, most in ((plain, 6, 7), (few, 2, 2)):
        for line in log["step"]:
            assert least <= sum(row["negatives"] for row in line["ledger"]) <= most
    assert losses(few)[0] < losses(plain)[0]
    warnings = [line["warning"] for log in (plain, few) for line in log.get("warning", ())]
    assert "no learning" not in warnings  # that InfoNCE stays high says nothing of such a base
    capsys.readouterr()
    said = refused("train.py", "--data", "tiny", *flags[2:], "--terms", "focal:1", cwd=desk)
    assert "--terms focal:1 plays no part with --base sigmoid:-10" in said
