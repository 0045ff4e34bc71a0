"""Transformer encoders on a small BERT: vectors by hand, what is saved, what is refused."""

import numpy as np
import pytest
import torch
import transformers
from conftest import embed_texts

from lib.data.tokens import TokenBatch, Tokens
from lib.evaluation.diagnostics import cosines
from lib.files import BadInput, read_json, write_json
from lib.model import encoder as model
from lib.model.transformer import Int8Linear, quantize

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
        {"projection": 5},
        {"separate_towers": True},
        {"separate_towers": True, "projection": 6, "overrides": {"pooling": "last"}},
    ],
    ids=str,
)
def test_saved_and_loaded_encoders_give_the_same_vectors(bert, tmp_path, options):
    encoder = model.load_encoder(bert, **options)
    if options.get("separate_towers"):
        torch.nn.init.normal_(encoder.query_tower.backbone.embeddings.word_embeddings.weight)
    wanted = {kind: embed_texts(encoder, TEXTS, kind) for kind in ("query", "doc")}
    assert not options or not np.allclose(wanted["query"], wanted["doc"]) or "projection" in options
    model.save_encoder(encoder, tmp_path / "encoder")
    loaded = model.load_encoder(tmp_path / "encoder")
    assert loaded.settings == encoder.settings and loaded.dim == encoder.dim == options.get("projection", 16)
    for kind, vectors in wanted.items():
        np.testing.assert_allclose(embed_texts(loaded, TEXTS, kind), vectors, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"overrides": {"pooling": "cls", "normalize": False, "query_prefix": "Sun : "}},
        {"projection": 5},
        {"overrides": {"pooling": "last"}},
        {"separate_towers": True, "projection": 6},
    ],
    ids=str,
)
def test_sentence_transformers_gives_the_same_vectors(bert, tmp_path, options):
    library = pytest.importorskip("sentence_transformers")
    encoder = model.load_encoder(bert, **options)
    model.save_encoder(encoder, tmp_path / "encoder")
    theirs = library.SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    np.testing.assert_allclose(theirs.encode_query(TEXTS), embed_texts(encoder, TEXTS, "query"), atol=1e-5)
    np.testing.assert_allclose(theirs.encode_document(TEXTS), embed_texts(encoder, TEXTS, "doc"), atol=1e-5)


def test_random_weights_follow_the_seed(bert):
    first, again, other = (model.load_encoder(bert, from_config=True, projection=4, seed=seed) for seed in (0, 0, 1))
    vectors = [embed_texts(encoder, TEXTS) for encoder in (first, again, other)]
    assert (vectors[0] == vectors[1]).all() and not np.allclose(vectors[0], vectors[2])


def test_separate_towers_begin_equal_and_part_in_training(bert):
    encoder = model.load_encoder(bert, separate_towers=True)
    count = sum(p.numel() for p in load(bert).parameters())
    assert sum(p.numel() for p in encoder.parameters()) == 2 * count
    batch = batch_of(encoder, TEXTS)
    assert torch.equal(encoder(batch._replace(kind="query")), encoder(batch._replace(kind="doc")))
    encoder(batch._replace(kind="query")).sum().backward()
    assert all(p.grad is None for p in encoder.doc_tower.parameters())


def test_a_folder_that_was_changed_is_refused(bert, tmp_path):
    model.save_encoder(load(bert), tmp_path / "encoder")
    settings = read_json(tmp_path / "encoder/settings.json")
    write_json(tmp_path / "encoder/settings.json", settings | {"doc_length": 9})
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


def test_int8_is_near_and_does_not_depend_on_the_batch(bert):
    exact, quantized = load(bert), quantize(load(bert))
    tokens = Tokens(*exact.tokenize(TEXTS))
    a, b = model.embed(exact, tokens), model.embed(quantized, tokens)
    assert cosines(a, b).min() > 0.995
    assert (a != b).any(), "nothing was quantised"
    alone = np.concatenate([model.embed(quantized, tokens, [row]) for row in range(len(tokens))])
    assert np.allclose(alone, b, atol=2e-2)  # a last bit of float32 may tip an integer
    assert not [m for m in quantized.doc_tower.backbone.modules() if isinstance(m, torch.nn.Linear)]


def test_int8_keeps_an_outlying_token_to_itself():
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 32)
    x = torch.randn(8, 64)
    x[0] *= 1000
    with torch.no_grad():
        wanted, found = linear(x), Int8Linear(linear)(x)
    assert (wanted - found)[1:].abs().max() < 0.06


def test_int8_sums_do_not_overflow():
    linear = torch.nn.Linear(512, 4, bias=False)
    linear.weight.data.fill_(1.0)
    with torch.no_grad():
        found = Int8Linear(linear)(torch.ones(3, 512))
    assert torch.allclose(found, torch.full((3, 4), 512.0), rtol=1e-3)


def test_set_dropout_reaches_attention_too(bert):
    encoder = load(bert).train()
    batch = batch_of(encoder, TEXTS)
    assert not torch.equal(encoder(batch), encoder(batch))
    encoder.set_dropout(0.0)
    assert torch.equal(encoder(batch), encoder(batch))
    assert torch.equal(encoder(batch), encoder.eval()(batch))
