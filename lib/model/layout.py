"""Transformer encoders as folders: sentence-transformers' layout, read and written.

One tower is Transformer, Pooling, ... in modules.json; two are a Router over both.
"""

import copy

import safetensors.torch
import torch
import transformers
from torch import nn

from lib.files import BadInput, read_json, write_json
from lib.model.pooling import POOLINGS

ST_TYPE = "sentence_transformers.models."


def read(source):
    """(towers {"doc": ..., maybe "query": ...}, settings, tokenizer), from a folder's configuration files."""
    settings = {"query_prefix": "", "doc_prefix": "", "normalize": True}
    if not (source / "config.json").exists() and not (source / "modules.json").exists():
        raise BadInput(
            f"{source}: neither config.json nor modules.json: not a Hugging Face or sentence-transformers model"
        )
    if not (source / "modules.json").exists():
        bare = {"backbone": source, "pooling": "mean", "projection": None}
        return {"doc": bare}, settings, _load_tokenizer(source)
    modules = [(source / m["path"], m["type"].rsplit(".", 1)[-1]) for m in read_json(source / "modules.json")]
    settings["normalize"] = any(kind == "Normalize" for _, kind in modules)
    if modules[0][1] == "Router":
        config = read_json(source / "router_config.json")
        routes = {
            {"query": "query", "document": "doc"}[name]: _read_tower(
                [(source / path, config["types"][path].rsplit(".", 1)[-1]) for path in paths]
            )
            for name, paths in config["structure"].items()
        }
    else:
        routes = {"doc": _read_tower([m for m in modules if m[1] != "Normalize"])}
    prompts_file = source / "config_sentence_transformers.json"
    prompts = (read_json(prompts_file).get("prompts") or {}) if prompts_file.exists() else {}
    settings["query_prefix"] = prompts.get("query") or ""
    settings["doc_prefix"] = prompts.get("document") or prompts.get("passage") or ""
    backbone = routes["doc"]["backbone"]
    tokenizer = _load_tokenizer(backbone)
    sbert = backbone / "sentence_bert_config.json"
    length = read_json(sbert).get("max_seq_length") if sbert.exists() else None
    settings["query_length"] = settings["doc_length"] = length or min(tokenizer.model_max_length, 512)
    if (source / "settings.json").exists():  # ours: separate lengths, which the layout has no place for
        settings |= read_json(source / "settings.json")
    return routes, settings, tokenizer


def _read_tower(modules):
    layout = {"backbone": modules[0][0], "pooling": "mean", "projection": None}
    for path, kind in modules:
        if kind == "Pooling":
            config = read_json(path / "config.json")
            modes = [
                name
                for name, (_, today, yesterday) in POOLINGS.items()
                if ("pooling_mode" in config and config["pooling_mode"] == today)
                or ("pooling_mode" not in config and config.get(yesterday))
            ]
            if len(modes) != 1:
                raise BadInput(
                    f"{path}/config.json: a single pooling of {', '.join(POOLINGS)} is supported, found {config}"
                )
            if not config.get("include_prompt", True):
                raise BadInput(
                    f"{path}/config.json: include_prompt false (prompt left out of the pooling) is not supported"
                )
            layout["pooling"] = modes[0]
        elif kind == "Dense":
            layout["projection"] = path
        elif kind != "Transformer":
            raise BadInput(f"{path}: modules of type {kind} are not supported")
    return layout


def _load_tokenizer(folder):
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder}: no usable tokenizer ({str(error).splitlines()[0]})") from None
    if not tokenizer.is_fast:
        raise BadInput(f"{folder}: a fast tokenizer (tokenizer.json) is needed")
    return tokenizer


def load_backbone(folder, *, from_config, attention):
    """The Hugging Face model of a folder, with its weights or, from_config, with random ones."""
    try:
        if from_config:
            config = transformers.AutoConfig.from_pretrained(folder)
            return transformers.AutoModel.from_config(config, attn_implementation=attention, dtype=torch.float32)
        return transformers.AutoModel.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder}: cannot be loaded ({str(error).splitlines()[0]})") from None


def load_projection(folder):
    """The linear layer of a sentence-transformers Dense module."""
    config = read_json(folder / "config.json")
    if not config["activation_function"].endswith("Identity") or config.get("bias", True):
        raise BadInput(f"{folder}: a projection with bias or activation is not supported")
    layer = nn.Linear(config["in_features"], config["out_features"], bias=False)
    layer.weight.data.copy_(safetensors.torch.load_file(folder / "model.safetensors")["linear.weight"])
    return layer


def write(encoder, folder):
    """Write the encoder's files: one tower as Transformer, Pooling, ..., two as a Router over both."""
    tail = [("Normalize", "Normalize")] if encoder.settings["normalize"] else []
    if encoder.query_tower is encoder.doc_tower:
        parts = _write_tower(encoder, encoder.doc_tower, folder, first="", prefix="")
        write_json(
            folder / "modules.json",
            [
                {"idx": i, "name": str(i), "path": path, "type": ST_TYPE + kind}
                for i, (path, kind) in enumerate(parts + [(f"{len(parts)}_{name}", kind) for name, kind in tail])
            ],
        )
    else:
        routes = {"query": encoder.query_tower, "document": encoder.doc_tower}
        parts = {
            name: _write_tower(encoder, tower, folder, first=f"{name}_0_Transformer", prefix=f"{name}_")
            for name, tower in routes.items()
        }
        write_json(
            folder / "router_config.json",
            {
                "types": {path: ST_TYPE + kind for route in parts.values() for path, kind in route},
                "structure": {name: [path for path, _ in route] for name, route in parts.items()},
                "parameters": {},
            },
        )
        write_json(
            folder / "modules.json",
            [
                {"idx": i, "name": str(i), "path": path, "type": ST_TYPE + kind}
                for i, (path, kind) in enumerate([("", "Router")] + [("1_Normalize", "Normalize")] * len(tail))
            ],
        )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {"query": encoder.settings["query_prefix"], "document": encoder.settings["doc_prefix"]},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if encoder.settings["normalize"] else "dot",
        },
    )
    write_json(folder / "settings.json", encoder.settings)


def _write_tower(encoder, tower, folder, *, first, prefix):
    """Write one tower below `folder`; returns [(path, type)] of its modules."""
    place = folder / first
    backbone = tower.backbone
    if hasattr(backbone, "merge_and_unload"):  # LoRA: plain weights are saved, which every reader takes
        backbone = copy.deepcopy(backbone).merge_and_unload()
    backbone.save_pretrained(place)
    encoder.tokenizer.save_pretrained(place)
    longest = max(encoder.settings["query_length"], encoder.settings["doc_length"])
    write_json(place / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    parts = [(first, "Transformer"), (f"{prefix}1_Pooling", "Pooling")]
    write_json(
        folder / parts[1][0] / "config.json",
        {
            "word_embedding_dimension": backbone.config.hidden_size,
            "pooling_mode": POOLINGS[tower.pooling][1],
            "include_prompt": True,
        },
    )
    if tower.projection:
        parts.append((f"{prefix}2_Dense", "Dense"))
        place = folder / parts[2][0]
        write_json(
            place / "config.json",
            {
                "in_features": tower.projection.in_features,
                "out_features": tower.projection.out_features,
                "bias": False,
                "activation_function": "torch.nn.modules.linear.Identity",
            },
        )
        weight = tower.projection.weight.detach().float().cpu().contiguous()
        safetensors.torch.save_file({"linear.weight": weight}, place / "model.safetensors")
    return parts
