"""A cross-encoder's scores: what they are made of, and that only the pair decides them."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import torch
import transformers

from lib.data.collection import load_collection
from lib.files import BadInput
from lib.model.cross_encoder import CrossEncoder
from lib.negatives.candidates import Candidates, taught


@pytest.fixture(params=[1, 2])
def outputs(request):
    """How many outputs the classifier has."""
    return request.param


@pytest.fixture
def judge(judges, outputs):
    """A cross-encoder with that many outputs."""
    return CrossEncoder(judges[outputs], device="cpu")


def pairs(tiny, count=23):
    """Texts of queries and docs, of very different lengths."""
    docs = [tiny.docs.text(i % len(tiny.docs)) for i in range(count)]
    docs = [doc[: 20 + 37 * i % 180] for i, doc in enumerate(docs)]
    return [tiny.queries.text(i) for i in range(count)], docs


def one_by_one(folder, queries, docs):
    """The scores of pairs that never share a batch, straight from the library."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    scores = []
    for query, doc in zip(queries, docs):
        with torch.no_grad():
            logits = classifier(**tokenizer(query, doc, return_tensors="pt")).logits[0]
        scores.append(
            1 / (1 + np.exp(-logits[0].item()))
            if len(logits) == 1
            else np.exp(logits[1].item()) / np.exp(logits.numpy()).sum()
        )
    return np.array(scores)


def test_scores_are_the_sigmoid_or_the_softmax(judge, judges, outputs, tiny):
    queries, docs = pairs(tiny)
    scores = judge.score(queries, docs)
    assert scores.shape == (23,) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, one_by_one(judges[outputs], queries, docs), atol=1e-5)
    assert scores.std() > 0.01 and (scores > 0).all() and (scores < 1).all()


@pytest.mark.parametrize("block", [1, 2, 7, 100])
def test_neither_order_nor_batch_changes_a_score(judge, tiny, block):
    queries, docs = pairs(tiny)
    wanted = judge.score(queries, docs)
    order = np.random.default_rng(block).permutation(len(queries))
    found = judge.score([queries[i] for i in order], [docs[i] for i in order], block=block)
    np.testing.assert_allclose(found, wanted[order], atol=1e-5)
    assert not np.allclose(judge.score(queries, docs[::-1]), wanted, atol=1e-3)  # the doc matters
    assert not np.allclose(judge.score(queries[::-1], docs), wanted, atol=1e-3)  # and so does the query


def test_what_lies_behind_the_length_is_cut_off(judges, tiny):
    short = CrossEncoder(judges[1], device="cpu", length=24)
    query, doc = tiny.queries.text(0), tiny.docs.text(0)
    a, b = short.score([query] * 2, [f"{doc} {doc}", f"{doc} {tiny.docs.text(1)}"])
    assert a == pytest.approx(b, abs=1e-6)
    a, b = CrossEncoder(judges[1], device="cpu").score([query] * 2, [f"{doc} {doc}", f"{doc} {tiny.docs.text(1)}"])
    assert a != pytest.approx(b, abs=1e-3)


def test_no_pairs_no_scores(judge):
    assert judge.score([], []).shape == (0,)


def test_candidates_get_a_teacher(judge, judges, outputs, collection):
    rows = collection.split("train").queries[:9]
    random = np.random.default_rng(0)
    docs = random.integers(0, len(collection.docs), size=(len(rows), 4)).astype(np.int32)
    docs[np.arange(4) >= np.array([4, 0, 1, 2, 3, 4, 4, 4, 4])[:, None]] = -1
    nothing = np.full(docs.shape, np.nan, dtype=np.float32)
    before = Candidates("made", rows, docs, nothing, nothing[:, 0], {"x": 1}, np.zeros_like(docs))
    after = taught(before, collection, judge.score)
    for name in ("queries", "docs", "scores", "positive", "ranks"):
        assert getattr(after, name) is getattr(before, name)
    assert after.source == "made" and after.dropped == {"x": 1}
    assert (np.isnan(after.teacher) == (docs < 0)).all()
    i, j = np.nonzero(docs >= 0)
    texts = [collection.docs.text(row) for row in docs[i, j]]
    queries = collection.queries.texts(rows)
    np.testing.assert_allclose(
        after.teacher[i, j], one_by_one(judges[outputs], [queries[k] for k in i], texts), atol=1e-5
    )
    for query, known, best in zip(queries, collection.known_docs(rows), after.teacher_positive):
        positives = [collection.docs.text(row) for row in known[known >= 0]]
        assert best == pytest.approx(max(one_by_one(judges[outputs], [query] * len(positives), positives)), abs=1e-5)


@pytest.mark.parametrize("lacks", ["everything", "config.json", "model.safetensors", "itself"])
def test_a_bad_folder_is_refused(judges, tmp_path, lacks):
    folder = tmp_path / "judge"
    if lacks == "everything":
        folder.mkdir()
    elif lacks != "itself":
        shutil.copytree(judges[1], folder)
        (folder / lacks).unlink()
    with pytest.raises(BadInput) as refused:
        CrossEncoder(str(folder), device="cpu")
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_of_more_labels_than_two_is_refused(bert, tmp_path):
    """Of entailment, neutral and contradiction, none says that a doc is relevant."""
    labels = dict(enumerate(("contradiction", "entailment", "neutral")))
    config = transformers.AutoConfig.from_pretrained(bert, num_labels=3, id2label=labels)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="3 labels .contradiction, entailment, neutral.; one for relevance"):
        CrossEncoder(str(tmp_path), device="cpu")


def test_an_encoder_is_no_cross_encoder(bert):
    """Without a trained head the library makes up a random one: no judge of anything."""
    with pytest.raises(BadInput, match="cross_encoder"):
        CrossEncoder(str(bert), device="cpu")


def test_a_file_that_was_judged_once_is_filtered_and_relabelled_again(untrained, judges, launch, capsys):
    flags = ("--run", "runs/R", "--depth", 5, "--cross_encoder", judges[1], "--name", "J")
    assert launch("mine_negatives.py", *flags, cwd=untrained) == 0
    file = untrained / "runs/J/negatives/tiny-train-dense.jsonl"
    scores = [json.loads(line)["teacher_score"] for line in file.read_text().splitlines()[1:]]
    limit = sorted(scores)[len(scores) // 2]
    again = ("--sources", "file", "--negatives_file", file, "--data", "tiny", "--filters", f"denoise:{limit}")
    assert launch("mine_negatives.py", *again, "--name", "J2", cwd=untrained) == 0
    left = (untrained / "runs/J2/negatives/tiny-train-file.jsonl").read_text().splitlines()[1:]
    assert 0 < len(left) < len(scores) and all(json.loads(line)["teacher_score"] <= limit for line in left)
    assert launch("mine_negatives.py", *again[:6], "--relabel", limit, "--name", "J3", cwd=untrained) == 0
    assert f"{sum(score > limit for score in scores):,} candidates became positives" in capsys.readouterr().out
    plain = ("--run", "runs/R", "--depth", 5, "--name", "J4")
    assert launch("mine_negatives.py", *plain, cwd=untrained) == 0
    file = "runs/J4/negatives/tiny-train-dense.jsonl"
    wrong = ("--sources", "file", "--negatives_file", file, "--data", "tiny", "--relabel", 0.5, "--name", "J5")
    assert launch("mine_negatives.py", *wrong, cwd=untrained) == 2
    assert "has no teacher scores" in capsys.readouterr().err


def test_scores_of_another_scale_relabel_nothing(untrained, launch, capsys):
    flags = ("--data", "tiny", "--sources", "bm25", "--own_teacher", "--depth", 5, "--name", "B")
    assert launch("mine_negatives.py", *flags, cwd=untrained) == 0
    file = "runs/B/negatives/tiny-train-bm25.jsonl"
    again = ("--data", "tiny", "--sources", "file", "--negatives_file", file, "--name", "B2")
    for wrong in (("--relabel", 0.9), ("--filters", "denoise:0.5")):
        assert launch("mine_negatives.py", *again, *wrong, cwd=untrained) == 2
        assert "want those of a cross-encoder, from 0 to 1" in capsys.readouterr().err
    assert not (untrained / "runs/B2").exists()
    wrong = ("--data", "tiny", "--sources", "random", "--own_teacher", "--name", "B3")
    assert launch("mine_negatives.py", *wrong, cwd=untrained) == 2
    assert "--own_teacher is for one source that searches" in capsys.readouterr().err


def test_a_relabelled_copy_is_not_replaced_and_has_the_splits_that_would_be_cut(untrained, judges, launch, capsys):
    alone = pathlib.Path(shutil.copytree(untrained / "tiny", untrained / "alone"))
    for split in ("dev", "test"):
        (alone / "qrels" / f"{split}.tsv").unlink()
    whole = load_collection(alone, cut=("dev", "test"))
    flags = ("--data", "alone", "--depth", 5, "--cross_encoder", judges[1], "--relabel", 0, "--name", "L")
    assert launch("mine_negatives.py", *flags, cwd=untrained) == 0
    copy = load_collection(untrained / "runs/L/negatives/alone-train-relabelled")
    assert copy.qrels_dict("test") == whole.qrels_dict("test") and copy.qrels_dict("dev") == whole.qrels_dict("dev")
    assert sum(map(len, copy.qrels_dict("train").values())) > sum(map(len, whole.qrels_dict("train").values()))
    assert launch("mine_negatives.py", *flags, "--format", "tevatron-ids", cwd=untrained) == 2
    assert "alone-train-relabelled exists: choose another --name, or --overwrite it" in capsys.readouterr().err
