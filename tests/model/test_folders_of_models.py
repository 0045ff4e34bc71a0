"""Models of many architectures, made from configurations: read, trained, saved, and equal to sentence-transformers.

The reference is sentence-transformers where it is installed, and the architecture itself everywhere.
"""

import json
import re
import shutil

import numpy as np
import pytest
import safetensors.torch
import tokenizers
import torch
import transformers
from conftest import embed_texts, slowly

from lib.data.tokens import TokenBatch
from lib.evaluation.diagnostics import cosines
from lib.files import BadInput, read_json, write_json
from lib.loss import contrastive_loss
from lib.model import encoder as model
from lib.model.backbone import NO_LIMIT
from lib.model.pooling import POOLINGS

TEXTS = [
    "Which spice is the most expensive by weight?",
    "Tides",
    "The Moon's gravity raises two bulges in the oceans of the Earth.",
    "unheard-of words, mostly, the moon",
    "Sun and Moon and Earth " * 9,
]
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
OLD = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "mean_sqrt_length": "mean_sqrt_len_tokens",
       "weighted_mean": "weightedmean_tokens", "last": "lasttoken"}  # fmt: skip
ROPE = SMALL | {"num_key_value_heads": 1, "head_dim": 8}
# architecture: (class of the configuration, its arguments, class of the model)
ZOO = {
    "bert": ("BertConfig", SMALL | {"max_position_embeddings": 64}, "BertModel"),
    "roberta": ("RobertaConfig", SMALL | {"max_position_embeddings": 66}, "RobertaModel"),
    "xlm-roberta": ("XLMRobertaConfig", SMALL | {"max_position_embeddings": 66}, "XLMRobertaModel"),
    "mpnet": ("MPNetConfig", SMALL | {"max_position_embeddings": 66}, "MPNetModel"),
    "distilbert": ("DistilBertConfig", {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32,
                                        "max_position_embeddings": 64}, "DistilBertModel"),
    "albert": ("AlbertConfig", SMALL | {"embedding_size": 8, "max_position_embeddings": 64}, "AlbertModel"),
    "electra": ("ElectraConfig", SMALL | {"embedding_size": 8, "max_position_embeddings": 64}, "ElectraModel"),
    "deberta-v2": ("DebertaV2Config", SMALL | {"max_position_embeddings": 64, "relative_attention": True,
                                               "pos_att_type": ["p2c", "c2p"]}, "DebertaV2Model"),
    "modernbert": ("ModernBertConfig", SMALL | {"max_position_embeddings": 64, "cls_token_id": 2, "sep_token_id": 3,
                                                "bos_token_id": 2, "eos_token_id": 3}, "ModernBertModel"),
    "t5": ("T5Config", T5, "T5ForConditionalGeneration"),
    "mt5 encoder": ("MT5Config", T5, "MT5EncoderModel"),
    "gpt2": ("GPT2Config", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}, "GPT2LMHeadModel"),
    "qwen3": ("Qwen3Config", ROPE, "Qwen3Model"),
    "llama": ("LlamaConfig", ROPE, "LlamaForCausalLM"),
    "gemma3": ("Gemma3TextConfig", ROPE, "Gemma3TextModel"),
    "xlnet": ("XLNetConfig", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}, "XLNetModel"),
}  # fmt: skip


@pytest.fixture(scope="module")
def zoo(bert, tmp_path_factory):
    """folder(name): the folder of a bare Hugging Face model of ZOO, with random weights and the words of `bert`."""
    place = tmp_path_factory.mktemp("zoo")

    def folder(name):
        if not (place / name).exists():
            config, arguments, kind = ZOO[name]
            tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
            torch.manual_seed(0)
            config = getattr(transformers, config)(vocab_size=len(tokenizer), pad_token_id=0, **arguments)
            made = getattr(transformers, kind)(config).eval()
            with torch.no_grad():
                for parameter in made.parameters():  # so that attention and position matter
                    parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
            made.save_pretrained(place / name)
            tokenizer.save_pretrained(place / name)
        return place / name

    return folder


def as_modules(source, target, *, pooling="mean", length=20, own=(), **config):
    """Copy a bare model into sentence-transformers' layout. own: [(type, config, weights)] behind the pooling."""
    shutil.copytree(source, target)
    types = ["Transformer", "Pooling", *(kind for kind, _, _ in own)]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(types)
    ]
    write_json(target / "modules.json", modules)
    if length:
        write_json(target / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    modes = pooling.split("+")
    for module, (_, settings, weights) in zip(modules[1:], [("", {}, None), *own]):
        (target / module["path"]).mkdir()
        if settings or module["path"] == "1_Pooling":
            write_json(target / module["path"] / "config.json", settings)
        if weights:
            safetensors.torch.save_file(weights, target / module["path"] / "model.safetensors")
    hidden = transformers.AutoConfig.from_pretrained(source).hidden_size
    old = {f"pooling_mode_{OLD.get(ours, ours)}": ours in modes for ours in POOLINGS}
    write_json(target / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden} | old)
    write_json(
        target / "config_sentence_transformers.json",
        {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"} | config,
    )
    return target


def dense(inside, outside, *, bias, activation, seed=0):
    """A Dense module for as_modules()."""
    generator = torch.Generator().manual_seed(seed)
    weights = {"linear.weight": torch.randn(outside, inside, generator=generator)}
    if bias:
        weights["linear.bias"] = torch.randn(outside, generator=generator)
    config = {"in_features": inside, "out_features": outside, "bias": bias}
    return "Dense", config | {"activation_function": f"torch.nn.modules.{activation}"}, weights


def own_activation():
    """A Dense module whose activation is code from elsewhere."""
    kind, config, weights = dense(16, 8, bias=True, activation="linear.Identity")
    return kind, config | {"activation_function": "own.Tanh"}, weights


def by_sentence_transformers(folder, kind):
    """Vectors of TEXTS, scaled to length 1 if the model compares by cosine."""
    library = pytest.importorskip("sentence_transformers")
    loaded = library.SentenceTransformer(str(folder), device="cpu")
    encode = {"query": loaded.encode_query, "doc": loaded.encode_document}[kind]
    vectors = encode(TEXTS)
    return (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if loaded.similarity_fn_name == "cosine" else vectors
    )


def assert_same(folder, encoder):
    """Both libraries give the same vectors of queries and docs."""
    for kind in ("query", "doc"):
        found, wanted = embed_texts(encoder, TEXTS, kind), by_sentence_transformers(folder, kind)
        assert cosines(found, wanted).min() > 0.99999
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(wanted, axis=1), rtol=1e-4)


def train_two_steps(encoder):
    """Two steps of Adam on two pairs."""
    encoder.train()
    optimizer = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        sides = []
        for kind in ("query", "doc"):
            ids, offsets, _ = encoder.tokenize(TEXTS[:2] if kind == "query" else TEXTS[2:4], kind)
            sides.append(encoder(TokenBatch(torch.from_numpy(ids), torch.from_numpy(offsets), None, kind)))
        value, *_ = contrastive_loss(*sides, torch.arange(2), torch.zeros(2, 2, dtype=bool), temperature=0.5)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return encoder.eval()


FIRST = ("bert", "deberta-v2", "modernbert", "t5", "qwen3", "xlnet")  # of a kind each; the others with -m slow


@pytest.mark.parametrize("name", [name if name in FIRST else slowly(name) for name in ZOO])
def test_every_architecture_is_read_trained_and_saved(zoo, tmp_path, name):
    folder = as_modules(zoo(name), tmp_path / "model", pooling="last" if name in ("gpt2", "qwen3", "llama") else "mean")
    encoder = model.load_encoder(folder)
    before = embed_texts(encoder, TEXTS)
    assert encoder.dim == 16 and encoder.settings["doc_length"] == 20
    train_two_steps(encoder)
    after = embed_texts(encoder, TEXTS)
    assert np.isfinite(after).all() and not np.allclose(before, after)
    model.save_encoder(encoder, tmp_path / "saved")
    np.testing.assert_allclose(embed_texts(model.load_encoder(tmp_path / "saved"), TEXTS), after, atol=1e-5)


@pytest.mark.parametrize("name", [name if name in FIRST else slowly(name) for name in ZOO])
def test_every_architecture_equals_sentence_transformers(zoo, tmp_path, name):
    pytest.importorskip("sentence_transformers")
    folder = as_modules(zoo(name), tmp_path / "model", pooling="last" if name in ("gpt2", "qwen3", "llama") else "mean")
    encoder = model.load_encoder(folder)
    assert_same(folder, encoder)
    train_two_steps(encoder)
    model.save_encoder(encoder, tmp_path / "saved")
    assert_same(tmp_path / "saved", encoder)


LAYOUTS = {
    **{f"pooling {name}": {"pooling": name} for name in POOLINGS},
    "cls and mean": {"pooling": "cls+mean"},
    "three poolings": {"pooling": "cls+max+mean"},
    "two Dense": {"own": [dense(16, 12, bias=True, activation="activation.Tanh"),
                          dense(12, 12, bias=False, activation="linear.Identity", seed=1)]},
    "Dense, Normalize": {"own": [dense(16, 8, bias=False, activation="linear.Identity"), ("Normalize", {}, None)]},
    "Normalize, Dense": {"own": [("Normalize", {}, None), dense(16, 8, bias=True, activation="activation.GELU")],
                         "similarity_fn_name": "dot"},
    "Dense of two poolings": {"pooling": "cls+mean", "own": [dense(32, 8, bias=True, activation="activation.Tanh")]},
    "LayerNorm": {"own": [("LayerNorm", {"dimension": 16}, {"norm.weight": torch.linspace(0.5, 2, 16),
                                                            "norm.bias": torch.linspace(-1, 1, 16)})]},
    "Dropout": {"own": [("Dropout", {"dropout": 0.3}, None)]},
    "no Normalize, cosine": {},
    "no Normalize, similarity not said": {"similarity_fn_name": None},
    "no Normalize, dot": {"similarity_fn_name": "dot"},
    "Normalize, dot": {"own": [("Normalize", {}, None)], "similarity_fn_name": "dot"},
    "prompts": {"prompts": {"query": "Sun : ", "document": "Moon : "}},
    "a passage prompt": {"prompts": {"query": "Sun : ", "passage": "Moon : "}},
    "a default prompt": {"prompts": {"web": "Sun : "}, "default_prompt_name": "web"},
    "a short length": {"length": 6},
    "no length": {"length": None},
}  # fmt: skip


@pytest.mark.parametrize("name", [slowly(name) if n % 2 else name for n, name in enumerate(LAYOUTS)])
def test_every_layout_equals_sentence_transformers(zoo, tmp_path, name):
    folder = as_modules(zoo("bert"), tmp_path / "model", **LAYOUTS[name])
    encoder = model.load_encoder(folder)
    model.save_encoder(encoder, tmp_path / "saved")
    loaded = model.load_encoder(tmp_path / "saved")
    for kind in ("query", "doc"):
        np.testing.assert_allclose(embed_texts(loaded, TEXTS, kind), embed_texts(encoder, TEXTS, kind), atol=1e-6)
    pytest.importorskip("sentence_transformers")
    assert_same(folder, encoder)
    assert_same(tmp_path / "saved", encoder)


def test_a_prefix_may_stay_out_of_the_pooling(zoo, tmp_path):
    folder = as_modules(zoo("bert"), tmp_path / "model", prompts={"query": "Sun and Moon : ", "document": "Earth : "})
    with_prefix = embed_texts(model.load_encoder(folder), TEXTS)
    config = read_json(folder / "1_Pooling" / "config.json")
    write_json(folder / "1_Pooling" / "config.json", config | {"include_prompt": False})
    encoder = model.load_encoder(folder)
    assert not np.allclose(embed_texts(encoder, TEXTS), with_prefix, atol=1e-3)
    model.save_encoder(encoder, tmp_path / "saved")
    np.testing.assert_allclose(
        embed_texts(model.load_encoder(tmp_path / "saved"), TEXTS), embed_texts(encoder, TEXTS), atol=1e-6
    )
    assert_same(folder, encoder)
    assert_same(tmp_path / "saved", encoder)


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_roberta_config.json"])
def test_lower_case_and_old_names_of_the_length_file(zoo, tmp_path, name):
    folder = as_modules(zoo("bert"), tmp_path / "model", length=None)
    state = json.loads((folder / "tokenizer.json").read_text())
    state["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(state))
    write_json(folder / name, {"max_seq_length": 7, "do_lower_case": True})
    encoder = model.load_encoder(folder)
    assert encoder.settings["doc_length"] == 7
    assert encoder.tokenize(["SUN"])[0].tolist() == encoder.tokenize(["sun"])[0].tolist()
    model.save_encoder(encoder, tmp_path / "saved")
    assert_same(folder, encoder)
    assert_same(tmp_path / "saved", encoder)


@pytest.mark.parametrize(
    "own",
    [
        {"query_length": 5, "document_length": 9},
        {"config_kwargs": {"hidden_act": "relu"}},
        {"model_kwargs": {"attn_implementation": "eager"}},
    ],
    ids=str,
)
def test_lengths_and_arguments_of_the_folder_are_heard(zoo, tmp_path, own):
    folder = as_modules(zoo("bert"), tmp_path / "model", length=None)
    plain = embed_texts(model.load_encoder(folder), TEXTS)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 20} | own)
    encoder = model.load_encoder(folder)
    assert_same(folder, encoder)
    assert "model_kwargs" in own or not np.allclose(plain, embed_texts(encoder, TEXTS), atol=1e-3)
    assert model.describe(encoder)["attention"] == ("eager" if "model_kwargs" in own else "sdpa_or_products")


@pytest.mark.parametrize("tail", [[], [dense(16, 8, bias=True, activation="activation.Tanh")]], ids=["bare", "Dense"])
def test_a_router_of_another_shape_is_read(zoo, tmp_path, tail):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Router, Transformer

    parts = [Transformer(str(zoo(name)), max_seq_length=20) for name in ("bert", "distilbert")]
    routes = {"short": [parts[0], Pooling(16, "cls")], "long": [parts[1], Pooling(16, "mean")]}
    ways = {("query", None): "short", (None, None): "long"}
    modules = [Router(routes, route_mappings=ways)] + [Dense(16, 8) for _ in tail]
    library.SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    encoder = model.load_encoder(tmp_path / "model")
    assert encoder.dim == (8 if tail else 16)
    assert_same(tmp_path / "model", encoder)
    model.save_encoder(train_two_steps(encoder), tmp_path / "saved")
    assert_same(tmp_path / "saved", encoder)


def test_an_adapter_is_read_with_the_model_that_it_changes(zoo, tmp_path):
    peft = pytest.importorskip("peft")
    base = transformers.AutoModel.from_pretrained(zoo("bert"))
    changed = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    changed.save_pretrained(tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(zoo("bert")).save_pretrained(tmp_path / "model")
    encoder = model.load_encoder(tmp_path / "model")
    assert not np.allclose(embed_texts(encoder, TEXTS), embed_texts(model.load_encoder(zoo("bert")), TEXTS), atol=1e-3)
    assert_same(tmp_path / "model", encoder)
    model.save_encoder(encoder, tmp_path / "saved")
    assert_same(tmp_path / "saved", encoder)
    shutil.copytree(zoo("bert"), tmp_path / "base")  # named from the adapter's own folder, wherever we are
    path = tmp_path / "model" / "adapter_config.json"
    write_json(path, read_json(path) | {"base_model_name_or_path": "../base"})
    again = model.load_encoder(tmp_path / "model")
    np.testing.assert_array_equal(embed_texts(again, TEXTS), embed_texts(encoder, TEXTS))


def test_arguments_of_the_tokenizer_are_the_folder_s(zoo, tmp_path):
    folder = as_modules(zoo("bert"), tmp_path / "model", length=None)
    own = {"max_seq_length": 30, "tokenizer_args": {"model_max_length": 8, "truncation_side": "left"}}
    write_json(folder / "sentence_bert_config.json", own)
    encoder = model.load_encoder(folder)
    assert encoder.settings["doc_length"] == 8 and encoder.tokenizer.truncation_side == "left"
    assert_same(folder, encoder)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_that_is_cut_is_the_tokenizer_s(zoo, tmp_path, side):
    folder = as_modules(zoo("bert"), tmp_path / "model", length=6)
    config = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", config | {"truncation_side": side})
    encoder = model.load_encoder(folder)
    words = encoder.tokenizer.convert_ids_to_tokens(encoder.tokenize([TEXTS[2]])[0].tolist())
    assert ("earth" in words) == (side == "left")
    assert_same(folder, encoder)


def test_lengths_of_two_towers_are_their_own(zoo, tmp_path):
    lengths = {"query_length": 6, "doc_length": 30}
    encoder = model.load_encoder(zoo("bert"), query_source=zoo("bert"), overrides=lengths)
    model.save_encoder(encoder, tmp_path / "saved")
    for kind, length in (("query", 6), ("document", 30)):
        written = read_json(tmp_path / "saved" / f"{kind}_0_Transformer" / "sentence_bert_config.json")
        assert written[f"{kind}_length"] == length
    assert_same(tmp_path / "saved", encoder)


def test_lengths_of_one_tower_are_kept_by_the_library(zoo, tmp_path):
    encoder = model.load_encoder(zoo("bert"), overrides={"query_length": 6, "doc_length": 30})
    model.save_encoder(encoder, tmp_path / "saved")
    assert_same(tmp_path / "saved", encoder)


@pytest.mark.parametrize("name, limit", [("bert", 64), ("roberta", 65), ("mpnet", 64), ("distilbert", 64)])
def test_a_length_that_cannot_be_had_is_refused(zoo, name, limit):
    assert model.load_encoder(zoo(name), overrides={"doc_length": limit}).settings["doc_length"] == limit
    with pytest.raises(BadInput, match=f"^--doc_length {limit + 1}: .* takes at most {limit} tokens$"):
        model.load_encoder(zoo(name), overrides={"doc_length": limit + 1})


@pytest.mark.parametrize("side", ["DPRQuestionEncoder", "DPRContextEncoder"])
def test_dpr_is_read_as_the_bert_that_it_holds(bert, tmp_path, side):
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    config = transformers.DPRConfig(vocab_size=len(tokenizer), **SMALL, max_position_embeddings=64)
    dpr = getattr(transformers, side)(config).eval()
    dpr.save_pretrained(tmp_path / "dpr")
    tokenizer.save_pretrained(tmp_path / "dpr")
    encoder = model.load_encoder(tmp_path / "dpr")
    with torch.no_grad():
        wanted = [dpr(**tokenizer(t, return_tensors="pt")).pooler_output[0].numpy() for t in TEXTS[:4]]
    np.testing.assert_allclose(embed_texts(encoder, TEXTS[:4]), wanted, atol=1e-5)
    model.save_encoder(encoder, tmp_path / "saved")
    np.testing.assert_allclose(embed_texts(model.load_encoder(tmp_path / "saved"), TEXTS[:4]), wanted, atol=1e-5)
    assert_same(tmp_path / "saved", encoder)


def test_queries_may_have_a_model_of_their_own(zoo, bert, tmp_path):
    encoder = model.load_encoder(zoo("bert"), query_source=bert)
    np.testing.assert_allclose(
        embed_texts(encoder, TEXTS, "query"), embed_texts(model.load_encoder(bert), TEXTS), atol=1e-6
    )
    np.testing.assert_allclose(
        embed_texts(encoder, TEXTS), embed_texts(model.load_encoder(zoo("bert")), TEXTS), atol=1e-6
    )
    model.save_encoder(encoder, tmp_path / "saved")
    assert_same(tmp_path / "saved", encoder)
    pooled = as_modules(bert, tmp_path / "pooled", pooling="cls", prompts={"query": "Sun : "}, length=9)
    own = as_modules(zoo("bert"), tmp_path / "own", length=12)
    both = model.load_encoder(own, query_source=pooled)
    alone = model.load_encoder(pooled)
    assert (both.settings["query_prefix"], both.settings["query_length"], both.settings["doc_length"]) == (
        "Sun : ",
        9,
        12,
    )
    np.testing.assert_allclose(embed_texts(both, TEXTS, "query"), embed_texts(alone, TEXTS, "query"), atol=1e-6)
    model.save_encoder(both, tmp_path / "both")
    again = model.load_encoder(tmp_path / "both")
    np.testing.assert_allclose(embed_texts(again, TEXTS, "query"), embed_texts(alone, TEXTS, "query"), atol=1e-6)
    np.testing.assert_allclose(embed_texts(again, TEXTS), embed_texts(model.load_encoder(own), TEXTS), atol=1e-6)
    with pytest.raises(BadInput, match="one compares by cosine, the other by inner product"):
        dot = as_modules(bert, tmp_path / "dot", similarity_fn_name="dot")
        model.load_encoder(own, query_source=dot)
    other = shutil.copytree(bert, tmp_path / "other")
    state = json.loads((other / "tokenizer.json").read_text())
    state["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(state))
    both = model.load_encoder(own, query_source=other)  # a tokenizer of their own too
    alone = model.load_encoder(other)
    np.testing.assert_allclose(embed_texts(both, TEXTS, "query"), embed_texts(alone, TEXTS, "query"), atol=1e-6)
    model.save_encoder(both, tmp_path / "two")
    assert_same(tmp_path / "two", both)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_eos_is_appended_once_where_the_last_token_is_read(zoo, tmp_path, capsys, name):
    folder = shutil.copytree(zoo(name), tmp_path / "model")
    config = read_json(folder / "tokenizer_config.json") | {"eos_token": "[SEP]"}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(folder / "tokenizer_config.json", config)
    if name == "gpt2":
        state = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
        (folder / "tokenizer.json").write_text(json.dumps(state))
    plain, ending = (
        model.load_encoder(folder, overrides={"query_length": 5, "doc_length": 5} | own)
        for own in ({}, {"pooling": "last"})
    )
    assert ("note: texts end with [SEP]" in capsys.readouterr().out) == (name == "gpt2")
    for text in ("Sun", TEXTS[2]):
        without, ids = (encoder.tokenize([text])[0].tolist() for encoder in (plain, ending))
        assert ids[-1] == ending.tokenizer.eos_token_id and ids.count(ids[-1]) == 1 and len(ids) <= 5
        assert (ids == without) == (name == "bert")
    model.save_encoder(ending, tmp_path / "saved")
    assert_same(tmp_path / "saved", ending)


def test_attention_is_chosen_and_told(zoo):
    for name, asked, told in (("bert", None, "sdpa_or_products"), ("bert", "eager", "eager"), ("mpnet", None, "eager")):
        assert model.describe(model.load_encoder(zoo(name), attention=asked))["attention"] == told
    for asked in ("sdpa", "sdpa_or_products"):
        with pytest.raises(BadInput, match="cannot be loaded"):
            model.load_encoder(zoo("deberta-v2"), attention=asked)


# ---------------------------------------------------------------------------------------- what is refused


def renamed(folder, change):
    """Rewrite the weights of a folder with other names: change(name) -> name, or None to drop it."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    changed = {change(name): value for name, value in weights.items() if change(name)}
    safetensors.torch.save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda name: f"module.{name}", "the files lack .* weights of BertModel, the first is embeddings"),
        (
            lambda name: None if "layer.1.output" in name else name,
            "the files lack 4 weights of BertModel, the first is",
        ),
        (lambda name: name.replace("layer.1.", "layer.7."), "the files lack 16 weights"),
    ],
    ids=["prefix", "missing", "moved"],
)
def test_missing_weights_are_refused(zoo, tmp_path, change, message):
    folder = renamed(shutil.copytree(zoo("bert"), tmp_path / "model"), change)
    with pytest.raises(BadInput, match=message) as refused:
        model.load_encoder(folder)
    assert "\n" not in str(refused.value)


def test_too_many_weights_are_refused_but_heads_are_not(zoo, tmp_path):
    folder = shutil.copytree(zoo("bert"), tmp_path / "model")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    head = {"cls.predictions.bias": torch.zeros(3), "embeddings.position_ids": torch.arange(64)}
    without = {name: value for name, value in weights.items() if not name.startswith("pooler")}
    safetensors.torch.save_file(without | head, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = model.load_encoder(folder)  # a head of another task, an old buffer, no pooler: nothing is lost
    torch.manual_seed(9)
    again = model.load_encoder(folder)  # and what the file lacks does not depend on the seed
    assert encoder.dim == 16 and model.weights_fingerprint(encoder) == model.weights_fingerprint(again)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"num_hidden_layers": 1})
    with pytest.raises(
        BadInput, match="hold 16 weights that config.json has no place for, the first is encoder.layer.1"
    ):
        model.load_encoder(folder)


def test_a_model_without_a_tokenizer_is_refused(zoo, tmp_path):
    folder = shutil.copytree(zoo("bert"), tmp_path / "model")
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(BadInput, match="no tokenizer .*every word would be unknown"):
        model.load_encoder(folder)


def test_a_token_with_an_id_of_billions_is_refused(zoo, tmp_path):
    folder = shutil.copytree(zoo("bert"), tmp_path / "model")
    state = read_json(folder / "tokenizer.json")
    words = state["model"]["vocab"]
    word = max(words, key=words.get)
    words[word] = 4_000_000_000
    write_json(folder / "tokenizer.json", state)
    with pytest.raises(BadInput, match=f"the token '{re.escape(word)}' has the id 4000000000, in a vocabulary of"):
        model.load_encoder(folder)


def test_texts_are_plain_texts_to_a_decoder_that_can_chat(zoo, tmp_path):
    """With a template in the tokenizer the library would encode turns of a conversation, as no training did."""
    folder = shutil.copytree(zoo("qwen3"), tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for message in messages %}user {{ message.content }} end{% endfor %}"
    tokenizer.save_pretrained(folder)
    plain, chatting = model.load_encoder(zoo("qwen3")), model.load_encoder(folder)
    model.save_encoder(chatting, tmp_path / "saved")
    expected = embed_texts(plain, TEXTS)
    for encoder in (chatting, model.load_encoder(tmp_path / "saved")):
        np.testing.assert_allclose(embed_texts(encoder, TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize("text", ["null", "[]", "3", '"bert"'])
def test_a_configuration_that_is_no_object_is_refused(zoo, tmp_path, text):
    folder = shutil.copytree(zoo("bert"), tmp_path / "model")
    (folder / "config.json").write_text(text)
    with pytest.raises(BadInput, match="config.json: no JSON object"):
        model.load_encoder(folder)


def test_a_token_without_a_vector_is_refused(zoo, tmp_path):
    """A word was added to the tokenizer, and the model was not resized: training ended with an IndexError."""
    folder = shutil.copytree(zoo("bert"), tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["XR-9000"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadInput, match="vectors, and the token 'XR-9000' has the id"):
        model.load_encoder(folder)


def test_weights_that_are_not_finite_are_refused(zoo, tmp_path):
    folder = shutil.copytree(zoo("bert"), tmp_path / "model")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="encoder.layer.1.output.dense.weight holds values that are not finite"):
        model.load_encoder(folder)


def test_code_of_a_model_s_own_is_refused_without_a_question(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the terminal"))
    folder = shutil.copytree(zoo("bert"), tmp_path / "model")
    config = read_json(folder / "config.json")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    write_json(folder / "config.json", config | own)
    (folder / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(BadInput, match="auto_map"):
        model.load_encoder(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"own": [dense(16, 8, bias=True, activation="activation.Nothing")]}, "Nothing"),
        ({"own": [own_activation()]}, "Activation function path 'own.Tanh' is not trusted"),
        ({"own": [dense(16, 8, bias=True, activation="linear.Linear")]}, "cannot be loaded .Linear"),
        ({"own": [("LayerNorm", {"size": 16}, None)]}, "unexpected keyword argument 'size'"),
        ({"similarity_fn_name": "euclidean"}, "similarity euclidean is not supported"),
        ({"truncate_dim": 8}, "truncate_dim is not supported; delete it in .*--dim 8"),
        ({"model_type": "SparseEncoder"}, "Converting SparseEncoder"),
        ({"prompts": ["query: "]}, 'config_sentence_transformers.json: "prompts" must be an object'),
        ({"prompts": None}, 'config_sentence_transformers.json: "prompts" must be an object'),
    ],
)
def test_layouts_that_cannot_be_read_exactly_are_refused(zoo, tmp_path, changes, message):
    folder = as_modules(zoo("bert"), tmp_path / "model", **changes)
    with pytest.raises(BadInput, match=message):
        model.load_encoder(folder)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '[{"path": 3}]', '[{"type": "x"}]', "[1]", "null", '[{"path": "", "type": 7}]']
)
def test_a_list_of_modules_of_another_shape_is_refused(zoo, tmp_path, content):
    folder = shutil.copytree(zoo("bert"), tmp_path / "model")
    (folder / "modules.json").write_text(content)
    with pytest.raises(BadInput, match="modules.json: a list of modules, each with path and type, is wanted"):
        model.load_encoder(folder)


def test_weights_may_be_in_a_pickle_of_tensors_only(zoo, tmp_path):
    layer = dense(16, 8, bias=True, activation="activation.Tanh")
    folder = as_modules(zoo("bert"), tmp_path / "model", own=[layer])
    wanted = embed_texts(model.load_encoder(folder), TEXTS)
    for place in (folder, folder / "2_Dense"):
        torch.save(safetensors.torch.load_file(place / "model.safetensors"), place / "pytorch_model.bin")
        (place / "model.safetensors").unlink()
    encoder = model.load_encoder(folder)
    np.testing.assert_allclose(embed_texts(encoder, TEXTS), wanted, atol=1e-6)
    torch.save({"linear.weight": shutil.rmtree}, folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(BadInput, match="cannot be loaded .Weights only load failed"):
        model.load_encoder(folder)


# ------------------------------------------------------------------------------------------------- static


def static_folder(target, *, padding=False, layout="sentence_transformers", similarity="cosine", normalize=True):
    """A static model of another library."""
    target.mkdir()
    words = ["[PAD]", "[UNK]", *"which spice is the most expensive by weight tides sun and moon earth".split()]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if padding:
        tokenizer.enable_padding(length=32, pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(target / "tokenizer.json"))
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(len(words), 8, generator=generator)
    if layout == "model2vec":
        weights = {
            "embeddings": table[:5],
            "mapping": torch.arange(len(words)) % 5,
            "weights": torch.rand(len(words), generator=generator),
        }
        write_json(target / "config.json", {"model_type": "model2vec", "normalize": True})
    else:
        weights = {"embedding.weight": table}
    if layout != "model2vec" or normalize:
        names = ["StaticEmbedding"] + ["Normalize"] * normalize
        paths = ["", "1_Normalize"]
        modules = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in zip(paths, names)]
        modules = [{"idx": i, "name": str(i)} | module for i, module in enumerate(modules)]
        write_json(target / "modules.json", modules)
        write_json(target / "config_sentence_transformers.json", {"similarity_fn_name": similarity})
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in weights.items()}, target / "model.safetensors"
    )
    return target


@pytest.mark.parametrize(
    "changes",
    [{}, {"padding": True}, {"layout": "model2vec"}, {"normalize": False}],
    ids=["st", "padding", "model2vec", "bare"],
)
def test_static_models_of_others_are_read(tmp_path, changes):
    folder = static_folder(tmp_path / "static", **changes)
    encoder = model.load_encoder(folder)
    model.save_encoder(encoder, tmp_path / "saved")
    texts = embed_texts(encoder, TEXTS)
    np.testing.assert_allclose(embed_texts(model.load_encoder(tmp_path / "saved"), TEXTS), texts, atol=1e-6)
    short = embed_texts(encoder, ["Tides"])[0]
    np.testing.assert_allclose(short, texts[1], atol=1e-6)  # whatever it stands beside
    assert_same(folder, encoder)
    assert_same(tmp_path / "saved", encoder)


def test_a_model2vec_folder_needs_no_modules(tmp_path):
    with_modules = static_folder(tmp_path / "a", layout="model2vec")
    without = static_folder(tmp_path / "b", layout="model2vec", normalize=False)
    found = [embed_texts(model.load_encoder(folder), TEXTS) for folder in (with_modules, without)]
    np.testing.assert_allclose(*found, atol=1e-6)


def test_static_vectors_by_inner_product_are_refused(tmp_path):
    with pytest.raises(BadInput, match="compared by dot is not supported"):
        model.load_encoder(static_folder(tmp_path / "static", normalize=False, similarity="dot"))


def test_no_limit_is_a_number_that_files_can_hold(zoo):
    assert NO_LIMIT < 2**31 and model.load_encoder(zoo("qwen3")).settings["doc_length"] == 64


# --------------------------------------------------------------------------------------- asked for otherwise


def test_vectors_that_are_not_normalised_where_that_is_asked(zoo, tmp_path):
    folder = as_modules(zoo("bert"), tmp_path / "model", own=[("Normalize", {}, None)])
    encoder = model.load_encoder(folder, overrides={"normalize": False})
    assert np.ptp(np.linalg.norm(embed_texts(encoder, TEXTS), axis=1)) > 0.01
    model.save_encoder(encoder, tmp_path / "dot")
    again = model.load_encoder(tmp_path / "dot")
    np.testing.assert_allclose(embed_texts(again, TEXTS), embed_texts(encoder, TEXTS), atol=1e-6)
    assert not again.settings["normalize"]


def test_one_module_normalises_however_often_an_encoder_is_saved(zoo, tmp_path):
    folder = as_modules(zoo("bert"), tmp_path / "0", own=[("Normalize", {}, None)])
    for number in (1, 2):
        encoder = model.load_encoder(folder)
        folder = tmp_path / str(number)
        model.save_encoder(encoder, folder)
        types = [module["type"].rsplit(".", 1)[-1] for module in read_json(folder / "modules.json")]
        assert types == ["Transformer", "Pooling", "Normalize"]


def test_what_stands_behind_the_pooling_is_part_of_the_key(zoo, tmp_path):
    keys = set()
    for activation in ("linear.Identity", "activation.Tanh"):
        own = [dense(16, 8, bias=False, activation=activation)]
        keys.add(model.load_encoder(as_modules(zoo("bert"), tmp_path / activation, own=own)).vector_key())
    shutil.copytree(tmp_path / "linear.Identity", tmp_path / "elsewhere")
    assert len(keys) == 2 and model.load_encoder(tmp_path / "elsewhere").vector_key() in keys


@pytest.mark.parametrize("name", ["qwen3", "bert"])
def test_empty_texts_have_a_vector(zoo, name):
    encoder = model.load_encoder(zoo(name))
    encoder.tokenizer.backend_tokenizer.post_processor = tokenizers.processors.Sequence([])  # no special tokens
    found = embed_texts(encoder, ["", "Tides", ""])
    assert np.isfinite(found).all() and (found[0] == found[2]).all() and (found[0] != found[1]).any()
    assert np.isfinite(embed_texts(encoder, ["", ""])).all()


@pytest.mark.parametrize(
    "files, wanted",
    [
        (["model.safetensors", "pytorch_model.bin"], False),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], False),
        (["0_Transformer/model.safetensors", "0_Transformer/pytorch_model.bin"], False),
        (["pytorch_model.bin", "2_Dense/model.safetensors"], True),
        (["pytorch_model.bin"], True),
    ],
)
def test_of_a_hub_repository_pickles_are_fetched_where_they_are_all(monkeypatch, tmp_path, files, wanted):
    asked = []

    def download(name, allow_patterns):
        asked.extend(allow_patterns)
        return tmp_path

    monkeypatch.setattr(model.huggingface_hub, "list_repo_files", lambda name: files)
    monkeypatch.setattr(model.huggingface_hub, "snapshot_download", download)
    assert model.local_folder("owner/name") == tmp_path
    assert ("*.bin" in asked) == wanted and "*.safetensors" in asked


def test_ids_of_tokens_may_have_gaps(tmp_path):
    words = {"[UNK]": 0, "moon": 1, "sun": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = static_folder(tmp_path / "static")
    tokenizer.save(str(folder / "tokenizer.json"))
    table = torch.eye(6, 8)
    safetensors.torch.save_file({"embedding.weight": table}, folder / "model.safetensors")
    found = embed_texts(model.load_encoder(folder), ["sun", "moon"])
    np.testing.assert_allclose(found, table[[5, 1]])
    safetensors.torch.save_file({"embedding.weight": table[:5].clone()}, folder / "model.safetensors")
    with pytest.raises(BadInput, match="5 vectors for tokens up to id 5"):
        model.load_encoder(folder)


def test_what_lies_behind_a_link_or_an_adapter_is_part_of_a_fingerprint(tmp_path):
    (tmp_path / "pooling").mkdir()
    (tmp_path / "pooling" / "config.json").write_text("{}")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "1_Pooling").symlink_to(tmp_path / "pooling")
    (tmp_path / "adapter").mkdir()
    write_json(tmp_path / "adapter" / "adapter_config.json", {"base_model_name_or_path": "../pooling"})
    before = {name: model.fingerprint_folder(tmp_path / name) for name in ("linked", "adapter")}
    (tmp_path / "pooling" / "config.json").write_text('{"a": 1}')
    assert all(model.fingerprint_folder(tmp_path / name) != old for name, old in before.items())


def test_links_that_loop_and_places_of_adapters_make_no_difference(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "w.bin").write_text("w")
        write_json(tmp_path / name / "adapter_config.json", {"base_model_name_or_path": "bert-base-uncased"})
        for link in ("up", "again"):
            (tmp_path / name / "deep" / link).symlink_to("..")
    assert model.fingerprint_folder(tmp_path / "a") == model.fingerprint_folder(tmp_path / "b")


@pytest.mark.parametrize("length", [1, -1, 64.0, "64"])
def test_a_length_that_is_none_is_refused(zoo, tmp_path, length):
    folder = as_modules(zoo("bert"), tmp_path / "model", length=length)
    with pytest.raises(BadInput, match="max_seq_length|cannot be loaded"):
        model.load_encoder(folder)


def test_modules_that_do_not_fit_together_are_refused(zoo, tmp_path):
    folder = as_modules(zoo("bert"), tmp_path / "model", own=[dense(9, 4, bias=True, activation="linear.Identity")])
    with pytest.raises(BadInput, match="encodes no query"):
        model.load_encoder(folder)
    folder = shutil.copytree(zoo("bert"), tmp_path / "sizes")
    write_json(folder / "config.json", read_json(folder / "config.json") | {"intermediate_size": 7})
    with pytest.raises(BadInput, match=r"dense.* is \[.*\] in the files, and \[.*\] by config.json"):
        model.load_encoder(folder)
