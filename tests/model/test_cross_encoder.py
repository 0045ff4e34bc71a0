"""A cross-encoder's scores: what they are made of, and that only the pair decides them."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import torch
import transformers

from lib.data.collection import load_collection
from lib.files import BadInput
from lib.model.cross_encoder import ASKED, PAIR, CrossEncoder
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


# ------------------------------------------------------------------------------- a language model that is asked

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if not enable_thinking %} <think> </think>{% endif %}{% endif %}"
)


def language_model(tiny, folder, *, template, words=("yes", "no")):
    """The folder of a causal language model of random weights whose tokens are words."""
    import tokenizers

    text = " ".join([ASKED, PAIR, *tiny.docs.texts(), *tiny.queries.texts()])
    every = dict.fromkeys(
        ["[UNK]", "[PAD]", *words, *(w for w in re.findall(r"\w+|[^\w\s]", text) if w not in ("yes", "no"))]
    )
    own = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(every)}, unk_token="[UNK]")
    )
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=own, unk_token="[UNK]", pad_token="[PAD]")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=len(every), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, pad_token_id=1,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.lm_head.weight.data *= 60  # far from one half
    model.save_pretrained(folder)
    return folder


NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + (TEMPLATE.partition("%}")[2])
)


@pytest.mark.parametrize("template", [None, TEMPLATE, NO_SYSTEM], ids=["plain", "chat", "without a system"])
def test_a_language_model_is_asked_yes_or_no(tiny, tmp_path, template):
    folder = language_model(tiny, tmp_path / "lm", template=template)
    queries, docs = pairs(tiny)
    judge = CrossEncoder(str(folder), device=torch.device("cpu"))
    scores = judge.score(queries, docs, block=5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    wanted = []
    for query, doc in zip(queries, docs):
        asked = PAIR.format(query, doc)
        text = f"{ASKED}\n\n{asked}\n\n"
        if template == NO_SYSTEM:
            text = f"<user> {ASKED}\n\n{asked} <end> <assistant> <think> </think>"
        elif template:
            text = f"<system> {ASKED} <end> <user> {asked} <end> <assistant> <think> </think>"
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0, -1]
        wanted.append(torch.sigmoid(logits[yes] - logits[no]).item())
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    assert np.std(scores) > 0.003
    short = CrossEncoder(str(folder), device=torch.device("cpu"), length=40)
    assert short.score([queries[0]], [docs[0] + " more" * 200]).shape == (1,)


def test_a_language_model_without_the_words_is_refused(tiny, tmp_path):
    folder = language_model(tiny, tmp_path / "lm", template=None, words=("yes",))
    with pytest.raises(BadInput, match="yes and no are no tokens of this language model"):
        CrossEncoder(str(folder), device=torch.device("cpu"))
