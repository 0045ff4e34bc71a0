"""The Hugging Face model and tokenizer of a folder: loaded whole, or refused with what is wrong."""

import json

import tokenizers
import torch
import transformers

from lib.files import BadInput, read_json

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.bpe", "tekken.json")
UNUSED = ("pooler.", "decoder.")  # parts of a backbone that nothing here computes with, as far as a file lacks them
DERIVED = ("position_ids", "token_type_ids", "inv_freq")  # buffers that old files hold and new models compute
NO_LIMIT = 1 << 30


def load_backbone(folder, *, from_config=False, attention=None):
    """The Hugging Face model of a folder, with its weights or, from_config, with random ones.

    attention: one of encoder.ATTENTION, None for the fastest that the architecture has. BadInput if the files lack
    weights, hold more of the backbone than it has places for, or ask for code of their own.
    """
    config = _load_config(folder)
    how = {"attn_implementation": attention, "dtype": torch.float32}
    kind = _class_of(folder, config)
    quiet()
    try:
        if from_config:
            return (kind.from_config if kind is transformers.AutoModel else kind._from_config)(config, **how)
        model, loading = kind.from_pretrained(
            folder, config=config, output_loading_info=True, trust_remote_code=False, **how
        )
    except Exception as error:  # the libraries raise all kinds over files that are cut or foreign
        raise BadInput(f"{folder}: cannot be loaded ({first_line(error)})") from None
    _check_loading(folder, model, loading)
    return _bert_of_dpr(folder, model) if config.model_type == "dpr" else model


def _bert_of_dpr(folder, model):
    """The BERT inside of a DPR encoder: what every reader of the saved folder knows."""
    inner = getattr(model, model.base_model_prefix)
    if inner.projection_dim:
        raise BadInput(f"{folder}: a DPR encoder with a projection is not supported")
    known = transformers.BertConfig().to_dict().keys() - {"model_type", "architectures"}
    config = transformers.BertConfig(**{name: value for name, value in model.config.to_dict().items() if name in known})
    bert = transformers.BertModel._from_config(config, attn_implementation=model.config._attn_implementation)
    bert.load_state_dict(inner.bert_model.state_dict(), strict=False)  # all but the pooler, which plays no part
    return bert


def _load_config(folder):
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise BadInput(f"{folder}: cannot be loaded ({_why(folder, error)})") from None


def _class_of(folder, config):
    """The class that loads a backbone: of an encoder-decoder its encoder, of DPR the encoder that was saved."""
    name = type(config).__name__.removesuffix("Config")
    if name == "DPR":
        name = (config.architectures or ["DPRQuestionEncoder"])[0]
        if name not in ("DPRQuestionEncoder", "DPRContextEncoder"):
            raise BadInput(f"{folder}: {name} of DPR encodes no texts; its question or context encoder is wanted")
        return getattr(transformers, name)
    if hasattr(transformers, f"{name}EncoderModel"):
        return getattr(transformers, f"{name}EncoderModel")
    if getattr(config, "is_encoder_decoder", False):
        raise BadInput(f"{folder}: {name} has an encoder and a decoder, and its encoder alone cannot be loaded")
    return transformers.AutoModel


def _check_loading(folder, model, loading):
    """BadInput if weights of the backbone are missing or left over."""
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith(UNUSED))
    if missing:
        raise BadInput(
            f"{folder}: the files lack {len(missing)} weights of {type(model).__name__}, the first is {missing[0]}: "
            "they would be random; other names in the file mean that it was saved from inside another module"
        )
    parts, prefix = {name for name, _ in model.named_children()}, f"{model.base_model_prefix}."
    left = [key.removeprefix(prefix) for key in loading["unexpected_keys"]]
    left = [key for key in left if key.partition(".")[0] in parts and not key.endswith(DERIVED)]
    left = sorted(key for key in left if not key.startswith(UNUSED))
    if left:
        raise BadInput(
            f"{folder}: the files hold {len(left)} weights that config.json has no place for, the first is {left[0]}"
        )
    if loading["mismatched_keys"]:
        raise BadInput(f"{folder}: the size of {list(loading['mismatched_keys'])[0][0]} is not that of config.json")
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise BadInput(f"{folder}: {name} holds values that are not finite")


def load_tokenizer(folder, *, lower_case=False, arguments=None):
    """The fast tokenizer of a folder.

    lower_case: texts are lower-cased first, as sentence-transformers' flag asks; arguments {name: value} are those
    with which it opens the tokenizer.
    """
    if not any(any(folder.glob(pattern)) for pattern in VOCABULARIES):
        raise BadInput(f"{folder}: no tokenizer ({', '.join(VOCABULARIES[:3])} ...): every word would be unknown")
    try:
        how = (arguments or {}) | {"trust_remote_code": False}
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **how)
    except Exception as error:
        raise BadInput(f"{folder}: no usable tokenizer ({_why(folder, error)})") from None
    if not tokenizer.is_fast:
        raise BadInput(f"{folder}: a fast tokenizer (tokenizer.json) is needed")
    if lower_case and not _lowers(tokenizer.backend_tokenizer):
        steps = [tokenizers.normalizers.Lowercase()]
        steps += [tokenizer.backend_tokenizer.normalizer] if tokenizer.backend_tokenizer.normalizer else []
        tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Sequence(steps)
    return tokenizer


def _lowers(backend):
    """Whether a tokenizer's normalizer makes lower case."""
    steps = json.loads(backend.to_str())["normalizer"] or {}
    steps = steps.get("normalizers", [steps])
    return any(step.get("type") == "Lowercase" or step.get("lowercase") for step in steps)


def tokens_state(tokenizer):
    """All that decides how a tokenizer cuts texts into tokens, as plain values."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.update(truncation=None, padding=None)  # what the last call left there
    return state | {"truncation_side": tokenizer.truncation_side}


def append_eos(tokenizer):
    """Let each text end with the end-of-sequence token, if it does not yet; the saved tokenizer does so too."""
    if tokenizer.eos_token is None:
        raise BadInput("--append_eos: the tokenizer has no end-of-sequence token")
    if tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id:
        return
    eos = tokenizers.processors.TemplateProcessing(
        single=f"$A {tokenizer.eos_token}", special_tokens=[(tokenizer.eos_token, tokenizer.eos_token_id)]
    )
    steps = [step for step in (tokenizer.backend_tokenizer.post_processor, eos) if step]
    tokenizer.backend_tokenizer.post_processor = tokenizers.processors.Sequence(steps)


def token_types(tokenizer):
    """{id of a special token: its type, where it is not 0}, as of XLNet; None if the model is given no types."""
    if "token_type_ids" not in tokenizer.model_input_names:
        return None
    encoded = tokenizer("a", return_token_type_ids=True)
    return {ident: kind for ident, kind in zip(encoded["input_ids"], encoded["token_type_ids"]) if kind}


def load_with_head(folder, kind, *, named, wanted):
    """(model, tokenizer) of a folder whose model has a trained head; BadInput if its weights are missing.

    kind: a class of transformers.AutoModelFor...; named: how the user named the folder; wanted: what it should be.
    """
    quiet()
    tokenizer = load_tokenizer(folder)
    try:
        model, loading = kind.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:  # the library raises all kinds over files that are cut or foreign
        raise BadInput(f"{named}: {first_line(error)}") from None
    if loading["missing_keys"]:
        raise BadInput(f"{named}: no weights for {sorted(loading['missing_keys'])[0]}; {wanted} is wanted")
    return model, tokenizer


def longest(backbone, tokenizer):
    """Tokens that a text may have at most: position embeddings and the tokenizer say so; NO_LIMIT for none."""
    limit = getattr(backbone.config, "max_position_embeddings", None) or NO_LIMIT
    embeddings = getattr(backbone, "embeddings", None)
    if hasattr(
        embeddings, "create_position_ids_from_inputs_embeds"
    ):  # RoBERTa counts positions from padding_idx + 1 on
        limit -= embeddings.padding_idx + 1
    return min(limit if limit > 0 else NO_LIMIT, tokenizer.model_max_length)


def quiet():
    """Let transformers keep its reports and bars to itself: what matters of them is checked here."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def first_line(error):
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _why(folder, error):
    """An error's first line, or that the folder wants code of its own to be run."""
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).exists() and "auto_map" in read_json(folder / name) and "remote" in str(error):
            return f"{name} asks to run code of the model's own (auto_map), which is refused"
    return first_line(error)
