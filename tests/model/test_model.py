"""The static encoder: its vectors by hand, the embed loop, and what is saved."""

import numpy as np
import pytest
import safetensors.torch
import tokenizers
import torch
from conftest import embed_texts, make_encoder

from lib.data.tokens import tokenize
from lib.files import BadInput, read_json, write_json
from lib.model import encoder as model
from lib.model.distil import token_vectors, vocabulary_of
from lib.model.static import load_or_train_wordpiece, new_static, train_wordpiece


@pytest.fixture(scope="module")
def encoder(tiny):
    return make_encoder(tiny)


@pytest.fixture
def saved(encoder, tmp_path):
    """A folder that holds the encoder."""
    model.save_encoder(encoder, tmp_path / "encoder")
    return tmp_path / "encoder"


def by_hand(encoder, text):
    """The vector of a text: the sum over all its tokens of their vectors, scaled to length 1."""
    ids = encoder.tokenizer.encode(text, add_special_tokens=False).ids
    total = sum(encoder.table[i].detach().numpy().astype(np.float64) for i in ids)
    return total / np.linalg.norm(total)


def test_vectors_equal_a_sum_by_hand(encoder, tiny):
    texts = [*tiny.docs.texts(), "the the the Sun of the Sun"]
    found = embed_texts(encoder, texts)
    np.testing.assert_allclose(found, [by_hand(encoder, text) for text in texts], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("block_tokens", [1, 7, 100, 1 << 18])
def test_embed_gives_the_order_asked_for_whatever_the_block(encoder, tiny, block_tokens, monkeypatch):
    monkeypatch.setattr(encoder, "block_tokens", block_tokens)
    tokens = tokenize(tiny.docs, encoder, "doc")
    one_by_one = np.concatenate([encoder(tokens.select(np.array([row]))).detach().numpy() for row in range(40)])
    np.testing.assert_allclose(model.embed(encoder, tokens), one_by_one, atol=1e-6)
    rows = np.array([7, 3, 39, 3, 0])
    np.testing.assert_allclose(model.embed(encoder, tokens, rows), one_by_one[rows], atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_embed_leaves_the_encoder_as_it_was(tiny, training):
    encoder = make_encoder(tiny).train(training)
    vectors = embed_texts(encoder, tiny.docs.texts())
    assert encoder.training == training and isinstance(vectors, np.ndarray) and vectors.dtype == np.float32
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_initial_weights_follow_the_seed(tiny):
    first, again, other = (make_encoder(tiny, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.table, again.table) and not torch.equal(first.table, other.table)
    idf = torch.linspace(0.5, 9.0, len(first.table))
    lengths = []
    for seed in range(20):
        first.init_weights(seed=seed, idf=idf)
        lengths.append(first.table.detach().norm(dim=1))
    assert torch.allclose(torch.stack(lengths).mean(0), idf, rtol=0.2)


@pytest.mark.parametrize("text", ["", "   ", "...", "\u2603", "ω", "αβγ δεζ", "αβγ αβγ, ω?"])
def test_texts_without_a_known_word_have_no_vector(encoder, text):
    found = embed_texts(encoder, [text, "the Sun", text, f"the {text} Sun"])
    assert np.linalg.norm(found, axis=1).round(5).tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(found[1], by_hand(encoder, "the Sun"), atol=1e-6)


def test_gradients_reach_the_vectors_of_the_tokens_alone(encoder, tiny):
    tokens = tokenize(tiny.docs, encoder, "doc")
    batch = tokens.select(np.array([0, 5]))
    vectors = encoder(batch)
    (grad,) = torch.autograd.grad((vectors * torch.arange(16)).sum(), [encoder.table])
    assert set(torch.nonzero(grad.abs().sum(1)).flatten().tolist()) == set(batch.ids.tolist())


@pytest.mark.parametrize(
    "text, same",
    [
        ("getHTTPResponse", "get http response"),
        ("snake_case_name", "snake case name"),
        ("Café-au-LAIT!", "cafe au lait"),
        ("a  b\tc\n", "a b c"),
    ],
)
def test_words_of_the_tokenizer(encoder, text, same):
    tokens = [encoder.tokenizer.encode(t, add_special_tokens=False).ids for t in (text, same)]
    assert tokens[0] == tokens[1] != []


def test_the_same_texts_give_the_same_vocabulary(tiny):
    texts = tiny.docs.texts()
    trained = {train_wordpiece(lambda: texts, vocab_size=400).to_str() for _ in range(5)}
    assert len(trained) == 1


def test_the_vocabulary_is_trained_once_for_a_key(tiny):
    texts = tiny.docs.texts()
    first = load_or_train_wordpiece(lambda: texts, vocab_size=300, key="test")
    again = load_or_train_wordpiece(lambda: iter(()), vocab_size=300, key="test")
    other = load_or_train_wordpiece(lambda: texts, vocab_size=200, key="test")
    assert first.to_str() == again.to_str() != other.to_str()
    assert first.get_vocab_size() <= 300 and other.get_vocab_size() <= 200


def test_saved_and_loaded_encoders_give_the_same_vectors(encoder, saved, tiny):
    loaded = model.load_encoder(saved)
    np.testing.assert_allclose(
        embed_texts(loaded, tiny.docs.texts()), embed_texts(encoder, tiny.docs.texts()), atol=1e-6
    )
    assert loaded.dim == 16 and not loaded.training
    assert loaded.fingerprint == read_json(saved / "encoder.json")["fingerprint"]
    assert loaded.token_key("doc") == encoder.token_key("doc")


def test_saving_twice_gives_the_same_fingerprint(encoder, saved, tmp_path):
    model.save_encoder(encoder, tmp_path / "again")
    assert model.load_encoder(tmp_path / "again").fingerprint == model.load_encoder(saved).fingerprint
    model.save_encoder(model.load_encoder(saved), saved)  # over itself
    assert model.load_encoder(saved).fingerprint == model.load_encoder(tmp_path / "again").fingerprint


def test_saved_files_mean_what_sentence_transformers_reads(saved, encoder, tiny):
    modules = read_json(saved / "modules.json")
    assert [m["type"].rsplit(".", 1)[1] for m in modules] == ["StaticEmbedding", "Normalize"]
    assert all((saved / m["path"]).is_dir() for m in modules)
    table = safetensors.torch.load_file(saved / "model.safetensors")["embedding.weight"]
    tokenizer = tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))
    texts = tiny.queries.texts()
    means = torch.stack([table[tokenizer.encode(text, add_special_tokens=False).ids].mean(0) for text in texts])
    wanted = torch.nn.functional.normalize(means, dim=1)
    np.testing.assert_allclose(embed_texts(encoder, texts), wanted, atol=1e-5)


def test_sentence_transformers_gives_the_same_vectors(saved, encoder, tiny):
    library = pytest.importorskip("sentence_transformers")
    texts = [*tiny.docs.texts(), *tiny.queries.texts()]
    found = library.SentenceTransformer(str(saved), device="cpu").encode(texts)
    np.testing.assert_allclose(found, embed_texts(encoder, texts), atol=1e-5)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "modules.json"])
def test_changed_files_are_refused(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[-3] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(BadInput, match="encoder: .*fingerprint.*changed"):
        model.load_encoder(saved)


def test_weights_of_another_tokenizer_are_refused(saved):
    safetensors.torch.save_file({"embedding.weight": torch.zeros(5, 16)}, saved / "model.safetensors")
    info = read_json(saved / "encoder.json")
    write_json(saved / "encoder.json", info | {"fingerprint": model.fingerprint_folder(saved)})
    with pytest.raises(BadInput, match="5 vectors for"):
        model.load_encoder(saved)


def test_a_missing_encoder_is_refused(tmp_path):
    with pytest.raises(BadInput, match=tmp_path.name):
        model.load_encoder(tmp_path)
    with pytest.raises(BadInput, match="runs/none/encoder"):
        model.load_encoder("runs/none/encoder")


def test_vectors_that_are_not_finite_are_refused_with_the_ids_of_their_texts(tiny):
    encoder = make_encoder(tiny)
    tokens = tokenize(tiny.docs, encoder, "doc")
    with torch.no_grad():
        encoder.table[tokens.select(np.array([7])).ids[0]] = float("nan")
    with pytest.raises(BadInput, match=r"the vectors of \d+ of 40 texts .doc. are not finite: '.*'") as refused:
        model.embed(encoder, tokens)
    bad = [row for row in range(40) if tokens.select(np.array([7])).ids[0] in tokens.select(np.array([row])).ids]
    assert repr(tiny.docs.ids[bad[0]]) in str(refused.value) and f"of {len(bad)} of" in str(refused.value)
    with pytest.raises(BadInput, match="number 0"):
        embed_texts(encoder, [tiny.docs.text(7)])


# ------------------------------------------------------------------------------------ a start that knows words


def test_vectors_of_tokens_keep_the_angles_of_the_model(tiny, bert):
    tokenizer = train_wordpiece(tiny.docs.texts, vocab_size=120)
    found = token_vectors(str(bert), tokenizer, dim=16)
    teacher = model.load_encoder(bert)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    wanted = model.embed_texts(teacher, [token.removeprefix("##") for token in tokens], "doc")
    wanted = wanted - wanted.mean(0)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-4)  # as many components as dimensions
    short = token_vectors(str(bert), tokenizer, dim=3)
    assert short.shape == (len(tokens), 3) and np.abs(np.linalg.norm(short, axis=1) - 1).max() < 1e-5
    with pytest.raises(BadInput, match="--dim 17: --init .* has vectors of 16"):
        token_vectors(str(bert), tokenizer, dim=17)
    few = tokenizers.Tokenizer(tokenizers.models.WordLevel({"moon": 0, "sun": 1}, "moon"))
    with pytest.raises(BadInput, match="--dim 8: the vocabulary has 2 tokens"):
        token_vectors(str(bert), few, dim=8)


def test_a_start_is_the_models_vectors_times_idf(tiny, bert):
    tokenizer = vocabulary_of(str(bert))
    start = new_static(
        tiny, dim=8, vocab_size=0, seed=0, tokenizer=tokenizer,
        directions=lambda given: token_vectors(str(bert), given, dim=8),
    )  # fmt: skip
    lengths = start.table.detach().norm(dim=1)
    common, rare = (start.tokenizer.token_to_id(word) for word in ("the", "roast"))
    assert lengths[common] < lengths[rare]
    vectors = torch.nn.functional.normalize(start.table.detach(), dim=1).numpy()
    np.testing.assert_allclose(vectors[rare], token_vectors(str(bert), tokenizer, dim=8)[rare], atol=1e-5)
    ids, _, _ = start.tokenize(["the onions"], "query")
    assert len(ids) == 2  # no special tokens


def test_a_static_encoder_is_no_start(encoder, tmp_path):
    model.save_encoder(encoder, tmp_path / "static")
    with pytest.raises(BadInput, match="is a static encoder"):
        vocabulary_of(str(tmp_path / "static"))
