"""Hugging Face models and tokenizers of a folder: loaded whole, or refused with what is wrong."""

import json
import math
import re

import tokenizers
import torch
import transformers

from lib.files import BadInput, first_line

UNUSED = ("pooler.", "decoder.")  # parts of a backbone that nothing here computes with, as far as a file lacks them
# buffers that old files hold and new models compute
DERIVED = ("position_ids", "token_type_ids", "inv_freq", "masked_bias")
NO_LIMIT = 1 << 30
MOST_IDS_UNUSED = 1_000_000  # numbers without a token that a vocabulary may leave; real ones leave thousands


def strictly(load, *, from_config=False):
    """transformers' from_pretrained(), `load`, with float32 weights that are complete, or random ones from_config.

    BadInput if the files lack weights or hold more of the backbone than it has places for. Of DPR's encoders the BERT
    inside is what every reader of the saved folder knows.
    """

    def from_pretrained(cls, folder, *args, config, **how):
        how = {name: value for name, value in how.items() if name != "torch_dtype"} | {"dtype": torch.float32}
        dpr = config.model_type == "dpr"
        if dpr and (cls := getattr(transformers, (config.architectures or ["DPRQuestionEncoder"])[0])) not in (
            transformers.DPRQuestionEncoder, transformers.DPRContextEncoder,
        ):  # fmt: skip
            raise BadInput(f"{cls.__name__} of DPR encodes no texts; its question or context encoder is wanted")
        if from_config:
            attention = how.get("attn_implementation")
            model = cls._from_config(config, dtype=torch.float32, attn_implementation=attention)
        else:
            how |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # to say itself what is mismatched
            model, loading = load(cls, folder, *args, config=config, **how)
            _check_loading(model, loading)
            for name, weights in model.named_parameters():
                if name in loading["missing_keys"]:  # what nothing computes with: equal for every seed, not random
                    torch.nn.init.zeros_(weights)
        return _bert_of_dpr(model) if dpr else model

    return classmethod(from_pretrained)


def _bert_of_dpr(model):
    """The BERT inside of a DPR encoder."""
    inner = getattr(model, model.base_model_prefix)
    if inner.projection_dim:
        raise BadInput("a DPR encoder with a projection is not supported")
    known = transformers.BertConfig().to_dict().keys() - {"model_type", "architectures"}
    config = transformers.BertConfig(**{name: value for name, value in model.config.to_dict().items() if name in known})
    bert = transformers.BertModel._from_config(config, attn_implementation=model.config._attn_implementation)
    bert.load_state_dict(inner.bert_model.state_dict(), strict=False)  # all but the pooler, which plays no part
    return bert


def _check_loading(model, loading):
    """BadInput if weights of the backbone are missing or left over."""
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith(UNUSED))
    if missing:
        raise BadInput(
            f"the files lack {len(missing)} weights of {type(model).__name__}, the first is {missing[0]}: "
            "they would be random; other names in the file mean that it was saved from inside another module"
        )
    parts, prefix = {name for name, _ in model.named_children()}, f"{model.base_model_prefix}."
    left = [key.removeprefix(prefix) for key in loading["unexpected_keys"]]
    left = [key for key in left if key.partition(".")[0] in parts and not key.endswith(DERIVED)]
    left = sorted(key for key in left if not key.startswith(UNUSED))
    if left:
        raise BadInput(f"the files hold {len(left)} weights that config.json has no place for, the first is {left[0]}")
    if loading["mismatched_keys"]:
        name, of_file, of_config = list(loading["mismatched_keys"])[0]
        raise BadInput(f"{name} is {list(of_file)} in the files, and {list(of_config)} by config.json")


def load_tokenizer(folder):
    """The fast tokenizer of a folder."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise BadInput(f"{folder}: no usable tokenizer ({why(error)})") from None
    check_tokenizer(folder, tokenizer)
    return tokenizer


def check_tokenizer(folder, tokenizer):
    """BadInput if it is a slow tokenizer, or one without its vocabulary."""
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(f"{folder}: a fast tokenizer (tokenizer.json) is needed")
    vocab = tokenizer.get_vocab()
    if set(vocab) <= set(tokenizer.all_special_tokens):
        raise BadInput(f"{folder}: no tokenizer (tokenizer.json, vocab.txt ...): every word would be unknown")
    token, largest = max(vocab.items(), key=lambda item: item[1])
    if largest > len(vocab) + MOST_IDS_UNUSED:  # to write it out would walk through every number up to that
        raise BadInput(f"{folder}: the token {token!r} has the id {largest}, in a vocabulary of {len(vocab)}")


def check_ids(folder, tokenizer, model):
    """BadInput if a token has no vector, over which training would end in the middle."""
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    rows = len(model.get_input_embeddings().weight)
    if largest >= rows:
        raise BadInput(f"{folder}: {rows} vectors, and the token {token!r} has the id {largest}; "
                       "the tokenizer is not the model's, or the model was not resized to it")  # fmt: skip


def tokens_state(tokenizer):
    """All that decides how a tokenizer cuts texts into tokens, as plain values."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.update(truncation=None, padding=None)  # what the last call left there
    return state | {"truncation_side": tokenizer.truncation_side}


def append_eos(tokenizer):
    """Let each text end with the end-of-sequence token, if there is one that it does not end with yet."""
    if tokenizer.eos_token is None or tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id:
        return
    print(f"note: texts end with {tokenizer.eos_token}, which the pooling `last` reads")
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


def load_with_head(folder, kind, *, named, wanted, dtype=torch.float32):
    """(model, tokenizer) of a folder whose model has a trained head; BadInput if its weights are not whole.

    kind: a class of transformers.AutoModelFor...; named: how the user named the folder; wanted: what it should be.
    """
    quiet()
    tokenizer = load_tokenizer(folder)
    try:
        model, loading = kind.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=False
        )
    except Exception as error:  # the library raises all kinds over files that are cut or foreign
        raise BadInput(f"{named}: {why(error)}") from None
    if loading["missing_keys"]:
        raise BadInput(f"{named}: no weights for {sorted(loading['missing_keys'])[0]}; {wanted} is wanted")
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None) or math.inf
    numbers = {key: [int(found) for found in re.findall(r"\.(\d+)\.", key)] for key in loading["unexpected_keys"]}
    if left := sorted(key for key, found in numbers.items() if found and found[0] >= layers):
        raise BadInput(f"{named}: config.json has no place for {len(left)} weights, the first is {left[0]}")
    if loading["mismatched_keys"]:
        raise BadInput(f"{named}: {list(loading['mismatched_keys'])[0][0]} has another size than config.json says")
    known = (torch.float16, torch.bfloat16, torch.float32)  # others are codes of some kind
    if odd := [name for name, x in model.named_parameters() if x.dtype in known and not torch.isfinite(x).all()]:
        raise BadInput(f"{named}: {odd[0]} holds values that are not finite")
    check_ids(folder, tokenizer, model)
    return model, tokenizer


def longest(backbone, tokenizer):
    """Tokens that a text may have at most: position embeddings and the tokenizer say so; NO_LIMIT for none."""
    return min(positions(backbone), tokenizer.model_max_length)


def positions(backbone):
    """Tokens for which a model has position embeddings; NO_LIMIT where they are not counted."""
    limit = getattr(backbone.config, "max_position_embeddings", None) or NO_LIMIT
    for module in backbone.modules():
        if hasattr(module, "position_embeddings") and isinstance(getattr(module, "padding_idx", None), int):
            limit -= module.padding_idx + 1  # RoBERTa counts from there on
    return limit if limit > 0 else NO_LIMIT


def quiet():
    """Let transformers keep its reports and bars to itself: what matters of them is checked here."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def why(error):
    """The first line of an error's message, or that the folder wants code of its own to be run."""
    if "custom code" in str(error):
        return "it asks to run code of the model's own (auto_map), which is refused"
    return first_line(error)
