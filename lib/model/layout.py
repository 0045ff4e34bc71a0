"""Transformer encoders as folders: sentence-transformers' layout, read as it reads it, and written.

One tower is Transformer, Pooling, ... in modules.json; two are a Router over both. docs/models.md says what is read.
"""

import copy
import pathlib
from typing import NamedTuple

from lib.files import BadInput, check_keys, read_json, write_json
from lib.model.backbone import NO_LIMIT, load_tokenizer
from lib.model.head import MODULES, Normalize, read_modules
from lib.model.pooling import POOLINGS, saved_name

ST_TYPE = "sentence_transformers.models."
SETTINGS = {"query_prefix": str, "doc_prefix": str, "normalize": bool, "query_length": int, "doc_length": int}
LENGTH_FILES = [f"sentence_{name}_config.json" for name in (
    "bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")]  # fmt: skip


class TowerFiles(NamedTuple):
    """What a folder says of one tower."""

    backbone: pathlib.Path  # folder of the Hugging Face model
    tokenizer: object
    length: int  # most tokens of a text
    pooling: str = "mean"
    pools_prefix: bool = True  # whether the prefix's tokens count in the pooling
    head: tuple = ()  # modules behind the pooling


def read(source):
    """(towers {"doc": TowerFiles, maybe "query": ...}, settings), from a folder's configuration files."""
    try:
        return _read(source)
    except (KeyError, TypeError, AttributeError) as error:  # JSON of another shape than the libraries write
        raise BadInput(f"{source}: the model's configuration is not as its library writes it ({error!r})") from None


def _read(source):
    settings = {"query_prefix": "", "doc_prefix": "", "normalize": True, "unused_prompts": []}
    modules = read_modules(source)
    if modules is None:
        if not (source / "config.json").exists():
            raise BadInput(
                f"{source}: neither config.json nor modules.json: not a Hugging Face or sentence-transformers model"
            )
        bare = TowerFiles(source, load_tokenizer(source), NO_LIMIT)
        if read_json(source / "config.json").get("model_type") == "dpr":  # Karpukhin et al. 2020, section 3.1
            return {"doc": bare._replace(pooling="cls")}, settings | {"normalize": False}
        return {"doc": bare}, settings
    config = _config_of(source)
    if modules[0][1] == "Router":
        routed = read_json(source / "router_config.json")
        names = {"query": "query", "document": "doc"}
        if routed["structure"].keys() != names.keys():
            raise BadInput(f"{source}/router_config.json: routes {', '.join(routed['structure'])}; "
                           "query and document are wanted")  # fmt: skip
        tail = modules[1:]
        towers = {
            names[route]: _read_tower(
                [(source / path, routed["types"][path].rsplit(".", 1)[-1]) for path in paths] + tail
            )
            for route, paths in routed["structure"].items()
        }
    else:
        towers = {"doc": _read_tower(modules)}
    prompts = config.get("prompts") or {}
    settings |= {"query_prefix": prompts.get("query") or "", "doc_prefix": prompts.get("document") or ""}
    check_keys(settings, source / "config_sentence_transformers.json", query_prefix=str, doc_prefix=str)
    settings["unused_prompts"] = sorted(name for name, text in prompts.items() if name not in ("query", "document"))
    settings["normalize"] = _normalizes(source, config, towers)
    if settings["normalize"]:  # the encoder does it, or does not, as it is asked to
        towers = {name: tower._replace(head=_without_normalize(tower.head)) for name, tower in towers.items()}
    for kind in ("query", "doc"):
        settings[f"{kind}_length"] = towers.get(kind, towers["doc"]).length
    if (source / "settings.json").exists():  # ours: what the layout has no place for
        settings |= read_json(source / "settings.json", **SETTINGS)
    return towers, settings


def _config_of(source):
    path = source / "config_sentence_transformers.json"
    config = read_json(path) if path.exists() else {}
    if (kind := config.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise BadInput(f"{path}: a {kind} is no bi-encoder with one vector a text")
    return config


def _normalizes(source, config, towers):
    """Whether vectors end with length 1: sentence-transformers compares by cosine where nothing is said."""
    similarity = config.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot"):
        raise BadInput(f"{source}: similarity {similarity} is not supported, only cosine and dot are")
    ends = [bool(tower.head) and isinstance(tower.head[-1], Normalize) for tower in towers.values()]
    return similarity == "cosine" or all(ends)


def _without_normalize(head):
    """The modules of a head without a Normalize that ends it."""
    return head[:-1] if head and isinstance(head[-1], Normalize) else head


def _read_tower(modules):
    """The TowerFiles of [(folder, kind)]: a Transformer, a Pooling, modules of MODULES."""
    (place, first), *others = modules
    if first != "Transformer":
        raise BadInput(f"{place}: modules of type {first} are not supported where a Transformer is expected")
    if not others or others[0][1] != "Pooling":
        raise BadInput(f"{place}: {others[0][1] if others else 'nothing'} behind the Transformer is not supported, "
                       "only a Pooling")  # fmt: skip
    own = next((read_json(place / name) for name in LENGTH_FILES if (place / name).exists()), {})
    if (task := own.get("transformer_task", "feature-extraction")) != "feature-extraction":
        raise BadInput(f"{place}: a Transformer for {task} is not supported")
    if own.get("processing_kwargs"):
        raise BadInput(f"{place}: processing_kwargs {own['processing_kwargs']} are not supported")
    arguments = own.get("processor_kwargs") or own.get("tokenizer_args") or {}
    tokenizer = load_tokenizer(place, lower_case=bool(own.get("do_lower_case")), arguments=arguments)
    length = arguments.get("model_max_length") or own.get("max_seq_length") or NO_LIMIT
    tokenizer.model_max_length = min(tokenizer.model_max_length, NO_LIMIT)
    pooling, pools_prefix = _read_pooling(others[0][0])
    head = []
    for path, kind in others[1:]:
        if kind not in MODULES:
            raise BadInput(f"{path}: modules of type {kind} are not supported, only {', '.join(MODULES)}")
        head.append(MODULES[kind].read(path))
    return TowerFiles(place, tokenizer, min(length, NO_LIMIT), pooling, pools_prefix, tuple(head))


def _read_pooling(folder):
    """(pooling, whether the prefix takes part) of a Pooling's folder, in today's format or yesterday's."""
    config = read_json(folder / "config.json")
    if "pooling_mode" in config:
        modes = config["pooling_mode"]
        today = {saved_name(ours): ours for ours in POOLINGS}
        modes = [modes] if isinstance(modes, str) else modes
        if unknown := [mode for mode in modes if mode not in today]:
            raise BadInput(f"{folder}/config.json: pooling {unknown[0]!r} is not supported")
        names = [today[mode] for mode in modes]
    else:  # several are joined in this order
        names = [ours for ours, (_, _, key) in POOLINGS.items() if config.get(key)] or ["mean"]
    return "+".join(names), config.get("include_prompt", True)


# ---------------------------------------------------------------------------------------------------- writing


def write(encoder, folder):
    """Write the encoder's files: one tower as Transformer, Pooling, ..., two as a Router over both."""
    if encoder.query_tower is encoder.doc_tower:
        lengths = [encoder.settings[f"{kind}_length"] for kind in ("query", "doc")]
        parts = _write_tower(encoder, encoder.doc_tower, folder, length=max(lengths))
        modules = [(path, kind) for path, kind in parts]
    else:
        routes = {"query": ("query", encoder.query_tower), "document": ("doc", encoder.doc_tower)}
        parts = {
            name: _write_tower(encoder, tower, folder, length=encoder.settings[f"{kind}_length"], prefix=f"{name}_")
            for name, (kind, tower) in routes.items()
        }
        write_json(
            folder / "router_config.json",
            {
                "types": {path: ST_TYPE + kind for route in parts.values() for path, kind in route},
                "structure": {name: [path for path, _ in route] for name, route in parts.items()},
                "parameters": {},
            },
        )
        modules = [("", "Router")]
    if encoder.settings["normalize"]:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    write_json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": ST_TYPE + kind} for i, (path, kind) in enumerate(modules)],
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


def _write_tower(encoder, tower, folder, *, length, prefix=""):
    """Write one tower below `folder`; returns [(path, type)] of its modules."""
    first = f"{prefix}0_Transformer" if prefix else ""
    place = folder / first
    backbone = tower.backbone
    if hasattr(backbone, "merge_and_unload"):  # LoRA: plain weights are saved, which every reader takes
        backbone = copy.deepcopy(backbone).merge_and_unload()
    backbone.save_pretrained(place)
    encoder.tokenizer.save_pretrained(place)
    write_json(place / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    parts = [(first, "Transformer"), (f"{prefix}1_Pooling", "Pooling")]
    modes = [saved_name(name) for name in tower.pooling.split("+")]
    write_json(
        folder / parts[1][0] / "config.json",
        {
            "word_embedding_dimension": backbone.config.hidden_size,
            "pooling_mode": modes[0] if len(modes) == 1 else modes,
            "include_prompt": tower.pools_prefix,
        },
    )
    for module in tower.head:
        parts.append((f"{prefix}{len(parts)}_{type(module).__name__}", type(module).__name__))
        module.write(folder / parts[-1][0])
    return parts
