"""Transformer encoders on a small BERT: vectors by hand, what is saved, what is refused."""

import importlib.util

import numpy as np
import pytest
import torch
import transformers
from conftest import embed_texts

from lib.data.tokens import TokenBatch
from lib.evaluation.diagnostics import cosines
from lib.files import BadInput, read_json, write_json
from lib.model import attention
from lib.model import encoder as model

TEXTS = [
    "Which spice is the most expensive by weight?",
    "Tides",
    "The Moon's gravity raises two bulges in the oceans of the Earth.",
    "unheard-of words, mostly",
    "Sun and Moon " * 60,
]


def load(bert, **overrides):
    """The encoder of a folder with other settings."""
    return model.load_encoder(bert, overrides=overrides)


def twice_or_once(bert, options):
    """The encoder of a folder, with a tower for each side if `twice` is among the options."""
    options = dict(options)
    return model.load_encoder(bert, query_source=bert if options.pop("twice", False) else None, **options)


def batch_of(encoder, texts, kind="doc"):
    """The TokenBatch of some texts."""
    ids, offsets, _ = encoder.tokenize(texts, kind)
    return TokenBatch(torch.from_numpy(ids), torch.from_numpy(offsets), None, kind)


def by_hand(bert, text, *, pooling="mean", length=256, normalize=True):
    """The vector of one text, alone in its batch."""
    tokenizer, backbone = (
        transformers.AutoTokenizer.from_pretrained(bert),
        transformers.AutoModel.from_pretrained(bert).eval(),
    )
    encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=min(64, length))
    with torch.no_grad():
        hidden = backbone(**encoded).last_hidden_state[0]  # (L, H)
    vector = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
    return (vector / vector.norm() if normalize else vector).numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_do_not_depend_on_their_batch(bert, pooling, normalize):
    encoder = load(bert, pooling=pooling, normalize=normalize)
    wanted = [by_hand(bert, text, pooling=pooling, normalize=normalize) for text in TEXTS]
    np.testing.assert_allclose(embed_texts(encoder, TEXTS), wanted, atol=1e-5)


@pytest.mark.parametrize("block_tokens", [1, 20, 10_000])
def test_the_block_changes_nothing(bert, block_tokens):
    encoder = load(bert)
    wanted = embed_texts(encoder, TEXTS)
    encoder.block_tokens = block_tokens
    np.testing.assert_allclose(embed_texts(encoder, TEXTS[::-1])[::-1], wanted, atol=1e-5)


def test_forward_keeps_the_order_of_its_texts(bert):
    encoder = load(bert)
    found = encoder(batch_of(encoder, TEXTS)).detach()
    np.testing.assert_allclose(found, [by_hand(bert, text) for text in TEXTS], atol=1e-5)


def test_prefixes_and_lengths_belong_to_their_kind(bert):
    encoder = load(bert, query_prefix="Sun : ", doc_prefix="Moon : ", query_length=8, doc_length=5)
    for kind, prefix, length in (("query", "Sun : ", 8), ("doc", "Moon : ", 5)):
        wanted = [by_hand(bert, prefix + text, length=length) for text in TEXTS]
        np.testing.assert_allclose(embed_texts(encoder, TEXTS, kind), wanted, atol=1e-5)


def test_the_key_of_tokens_follows_prefix_and_length(bert):
    keys = [
        load(bert, **settings).token_key("doc")
        for settings in (
            {},
            {"doc_prefix": "Moon : "},
            {"doc_length": 5},
            {"query_prefix": "Moon : "},
            {"query_length": 5, "pooling": "cls"},
        )
    ]
    assert keys[0] == keys[3] == keys[4] and len(set(keys)) == 3


def test_what_was_tokenised_before_plays_no_part(bert, tmp_path):
    """Calls of a tokenizer change its state; neither cached tokens nor saved encoders may depend on it."""
    fresh, used = load(bert, query_length=8, doc_length=5), load(bert, query_length=8, doc_length=5)
    used.tokenize(TEXTS, "doc")
    for kind in ("query", "doc"):
        assert used.token_key(kind) == fresh.token_key(kind)
    for name, encoder in (("fresh", fresh), ("used", used)):
        model.save_encoder(encoder, tmp_path / name)
    assert model.load_encoder(tmp_path / "fresh").fingerprint == model.load_encoder(tmp_path / "used").fingerprint


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"overrides": {"pooling": "cls", "normalize": False, "query_prefix": "Sun : ", "query_length": 9}},
        {"dim": 5},
        {"twice": True},
        {"twice": True, "dim": 6, "overrides": {"pooling": "last"}},
    ],
    ids=str,
)
def test_saved_and_loaded_encoders_give_the_same_vectors(bert, tmp_path, options):
    encoder = twice_or_once(bert, options)
    if options.get("twice"):
        torch.nn.init.normal_(encoder.query_tower[0].model.embeddings.word_embeddings.weight)
    wanted = {kind: embed_texts(encoder, TEXTS, kind) for kind in ("query", "doc")}
    assert not options or not np.allclose(wanted["query"], wanted["doc"]) or "dim" in options
    model.save_encoder(encoder, tmp_path / "encoder")
    loaded = model.load_encoder(tmp_path / "encoder")
    assert loaded.settings == encoder.settings and loaded.dim == encoder.dim == options.get("dim", 16)
    for kind, vectors in wanted.items():
        np.testing.assert_allclose(embed_texts(loaded, TEXTS, kind), vectors, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"overrides": {"pooling": "cls", "normalize": False, "query_prefix": "Sun : "}},
        {"dim": 5},
        {"overrides": {"pooling": "last"}},
        {"twice": True, "dim": 6},
    ],
    ids=str,
)
def test_sentence_transformers_gives_the_same_vectors(bert, tmp_path, options):
    library = pytest.importorskip("sentence_transformers")
    encoder = twice_or_once(bert, options)
    model.save_encoder(encoder, tmp_path / "encoder")
    theirs = library.SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    np.testing.assert_allclose(theirs.encode_query(TEXTS), embed_texts(encoder, TEXTS, "query"), atol=1e-5)
    np.testing.assert_allclose(theirs.encode_document(TEXTS), embed_texts(encoder, TEXTS, "doc"), atol=1e-5)


def test_random_weights_follow_the_seed(bert):
    first, again, other = (model.load_encoder(bert, from_config=True, dim=4, seed=seed) for seed in (0, 0, 1))
    vectors = [embed_texts(encoder, TEXTS) for encoder in (first, again, other)]
    assert (vectors[0] == vectors[1]).all() and not np.allclose(vectors[0], vectors[2])


def test_separate_towers_begin_equal_and_part_in_training(bert):
    encoder = model.load_encoder(bert, query_source=bert)
    count = sum(p.numel() for p in load(bert).parameters())
    assert sum(p.numel() for p in encoder.parameters()) == 2 * count
    batch = batch_of(encoder, TEXTS)
    assert torch.equal(encoder(batch._replace(kind="query")), encoder(batch._replace(kind="doc")))
    encoder(batch._replace(kind="query")).sum().backward()
    assert all(p.grad is None for p in encoder.doc_tower.parameters())


def test_a_folder_that_was_changed_is_refused(bert, tmp_path):
    model.save_encoder(load(bert), tmp_path / "encoder")
    path = tmp_path / "encoder/sentence_bert_config.json"
    write_json(path, read_json(path) | {"document_length": 9})
    with pytest.raises(BadInput, match="changed after training"):
        model.load_encoder(tmp_path / "encoder")


@pytest.mark.parametrize(
    "broken, value",
    [
        ({"config.json": None}, "neither config.json nor modules.json"),
        ({"config.json": "{}"}, "cannot be loaded"),
        ({"model.safetensors": None}, "cannot be loaded"),
        (
            {"modules.json": '[{"path": "", "type": "x.Transformer"}, {"path": "1", "type": "x.LayerNorm"}]'},
            "module x.Transformer is code of the model's own",
        ),
    ],
)
def test_what_is_no_encoder_is_refused(bert, tmp_path, broken, value):
    for path in bert.iterdir():
        if broken.get(path.name, "") is not None:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    for name, content in broken.items():
        if content is not None:
            (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=value) as refused:
        model.load_encoder(tmp_path)
    assert "\n" not in str(refused.value)


def test_low_rank_updates_are_trained_and_saved_as_plain_weights(bert, tmp_path):
    if importlib.util.find_spec("peft") is None:
        with pytest.raises(BadInput, match="^--lora needs the package peft: pip install peft$"):
            model.load_encoder(bert, lora=2)
        return
    encoder = model.load_encoder(bert, lora=2)
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    assert 0 < sum(p.numel() for p in trained) < 0.3 * sum(p.numel() for p in encoder.parameters())
    with torch.no_grad():
        for parameter in trained:
            parameter.normal_()
    vectors = embed_texts(encoder, TEXTS)
    model.save_encoder(encoder, tmp_path / "encoder")
    np.testing.assert_allclose(embed_texts(model.load_encoder(tmp_path / "encoder"), TEXTS), vectors, atol=1e-5)
    assert np.array_equal(embed_texts(encoder, TEXTS), vectors) and not np.allclose(
        embed_texts(load(bert), TEXTS), vectors
    )


def test_a_compiled_backbone_is_what_is_called(bert, monkeypatch):
    called = []
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: lambda **given: called.append(1) or forward(**given))
    encoder = load(bert)
    wanted = embed_texts(encoder, TEXTS)
    encoder.compile_backbone()
    assert np.array_equal(embed_texts(encoder, TEXTS), wanted) and called


@pytest.mark.parametrize(
    "device, able, gain, wanted",
    [
        ("cuda", {}, None, "bf16"),
        ("cpu", {"avx512_bf16": True, "amx_bf16": True}, 6.0, "bf16"),
        ("cpu", {"avx512_bf16": True, "amx_bf16": False}, 4.2, "bf16"),
        ("cpu", {"avx512_bf16": True, "amx_bf16": False}, 0.55, "fp32"),
        ("cpu", {}, None, "fp32"),  # not measured: it would take long
        ("mps", {"amx_bf16": True}, None, "fp32"),
    ],
)
def test_the_precision_is_that_of_the_processor(monkeypatch, device, able, gain, wanted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(model, "bf16_gain", lambda: gain)
    device = torch.device(device)
    assert model.pick_precision(device, "auto", "transformer") == wanted
    assert model.pick_precision(device, "auto", "static") == "fp32"
    assert model.pick_precision(device, "fp32", "transformer") == "fp32"


def test_bf16_is_near_and_does_not_depend_on_the_batch(bert):
    exact, narrow = load(bert), load(bert).set_device("cpu", torch.bfloat16)
    wanted, found = embed_texts(exact, TEXTS), embed_texts(narrow, TEXTS)
    assert cosines(wanted, found).min() > 0.999 and (wanted != found).any()
    assert cosines(np.concatenate([embed_texts(narrow, [text]) for text in TEXTS]), found).min() > 0.9999
    assert exact.vector_key() != narrow.vector_key()


@pytest.mark.parametrize("length", [7, attention.SHORT + 1])
def test_attention_by_products_is_that_of_the_kernel(length):
    torch.manual_seed(0)
    given = [torch.randn(3, 2, length, 8, requires_grad=True) for _ in range(3)]
    mask = (torch.arange(length) < torch.tensor([length, 2, 5])[:, None])[:, None, None].expand(-1, 1, length, -1)
    module = torch.nn.Module()
    module.is_causal = False
    exact, narrow = [], []
    for found, dtype in ((exact, torch.float32), (narrow, torch.bfloat16)):
        out, _ = attention.sdpa_or_products(module, *(x.to(dtype) for x in given), mask, scaling=0.3)
        found += [out, *torch.autograd.grad(out.float().square().sum(), given)]
    for wanted, got in zip(exact, narrow):
        assert torch.allclose(wanted, got.float(), atol=0.03 * wanted.abs().max().item())
    assert not torch.equal(exact[0], narrow[0].float())


def test_attention_by_products_leaves_biases_and_causal_models_to_the_kernel(monkeypatch):
    x, called = torch.randn(1, 2, 4, 8).bfloat16(), []
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *args, **more: called.append(more) or (None, None))
    module = torch.nn.Module()  # whose attention is causal, where it does not say
    attention.sdpa_or_products(module, x, x, x, None)
    attention.sdpa_or_products(module, x, x, x, None, is_causal=False, position_bias=torch.zeros(4, 4))
    attention.sdpa_or_products(module, x, x[:, :1], x[:, :1], None, is_causal=False)
    assert len(called) == 3
    assert (
        attention.sdpa_or_products(module, x, x, x, None, is_causal=False)[0].shape == (1, 4, 2, 8) and len(called) == 3
    )


def test_the_gradient_of_words_is_dense_and_that_of_a_plain_table(bert):
    encoder, plain = load(bert).set_device("cpu"), load(bert)
    for each in (encoder, plain):
        for _ in range(2):  # as with cached gradients
            each(batch_of(each, TEXTS))[:, 0].sum().backward()
    words, wanted = (each.doc_tower[0].model.get_input_embeddings() for each in (encoder, plain))
    assert words.sparse and not wanted.sparse and words.weight.grad.layout == torch.strided
    assert torch.allclose(words.weight.grad, wanted.weight.grad, atol=1e-6) and wanted.weight.grad.abs().sum() > 0


def test_set_dropout_reaches_attention_too(bert):
    encoder = load(bert).train()
    batch = batch_of(encoder, TEXTS)
    assert not torch.equal(encoder(batch), encoder(batch))
    encoder.set_dropout(0.0)
    assert torch.equal(encoder(batch), encoder(batch))
    assert torch.equal(encoder(batch), encoder.eval()(batch))
