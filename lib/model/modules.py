"""The modules of a folder, as sentence-transformers reads them, or refused with what is wrong."""

import contextlib
import logging
import pathlib
import tempfile

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers import PreTrainedModel

from lib.files import BadInput, read_json, read_object, write_json
from lib.model.backbone import NO_LIMIT, append_eos, check_ids, check_tokenizer, quiet, strictly, why
from lib.model.pooling import POOLINGS, parse_pooling

LEAST = 3  # tokens of a text: one, between the marks of its begin and end
LENGTHS = {"query": 64, "doc": 256}  # tokens, where neither the user nor the model's files say
TASKS = {"query": "query", "doc": "document"}  # sentence-transformers' names of the kinds


class OwnPooling(Module):
    """Poolings of which one or more are functions in POOLINGS: sentence-transformers does not know them."""

    config_keys = ["embedding_dimension", "pooling_mode", "include_prompt"]

    def __init__(self, embedding_dimension, pooling_mode, include_prompt=True):
        super().__init__()
        self.embedding_dimension, self.pooling_mode = embedding_dimension, pooling_mode
        self.include_prompt, self._names = include_prompt, parse_pooling(pooling_mode)

    def forward(self, features):
        """token_embeddings (n, L, H) -> sentence_embedding (n, H), or (n, sum of H) of several."""
        hidden, parts = features["token_embeddings"], []
        mask = features.get("attention_mask", torch.ones(hidden.shape[:2], device=hidden.device)).bool()
        if not self.include_prompt:
            mask = mask & (torch.arange(mask.shape[1], device=mask.device) >= features["prompt_length"])
        for name in map(POOLINGS.get, self._names):
            library = None if callable(name) else Pooling(hidden.shape[-1], name, self.include_prompt)
            parts.append(library(dict(features))["sentence_embedding"] if library else name(hidden, mask))
        return features | {"sentence_embedding": torch.cat(parts, dim=1)}

    def get_embedding_dimension(self):
        """The length of the vectors."""
        return self.embedding_dimension * len(self._names)

    def save(self, output_path, *args, **kwargs):
        """Write the configuration: there are no weights."""
        self.save_config(output_path)


OWN = f"{OwnPooling.__module__}.OwnPooling"  # its type in modules.json


class _Strict(logging.Handler):
    """Refuses what sentence-transformers' modules only warn of while they are read: nothing is passed over."""

    def emit(self, record):
        if ".modules" in record.name or record.msg.startswith("Converting"):
            raise BadInput(record.getMessage())


def open_modules(folder, *, from_config, attention):
    """({"query": modules, "doc": modules}, settings) of a folder; a Normalize at the end is a setting."""
    if not any((folder / name).exists() for name in ("config.json", "modules.json", "adapter_config.json")):
        raise BadInput(
            f"{folder}: neither config.json nor modules.json: not a Hugging Face or sentence-transformers model"
        )
    own, stack = folder / "config_sentence_transformers.json", contextlib.ExitStack()
    if own.exists() and not isinstance(read_object(own).get("prompts", {}), dict):
        raise BadInput(f'{own}: "prompts" must be an object, as {{"query": "query: "}} or {{}}')
    quiet()
    strict, logger = _Strict(logging.WARNING), logging.getLogger("sentence_transformers")
    logger.addHandler(strict)
    load = strictly(PreTrainedModel.from_pretrained.__func__, from_config=from_config)
    original = PreTrainedModel.__dict__["from_pretrained"]
    try:
        PreTrainedModel.from_pretrained = load
        place = stack.enter_context(_beside_its_base(folder))
        library = SentenceTransformer._load_with_module_classes(
            str(place), {OWN: OwnPooling}, device="cpu", trust_remote_code=False,
            model_kwargs={"attn_implementation": attention} if attention else None,
        )  # fmt: skip
        towers = {kind: _route(library, task) for kind, task in TASKS.items()}
    except Exception as error:  # the libraries raise all kinds over files that are cut or foreign
        raise BadInput(f"{folder}: cannot be loaded ({why(error)})") from None
    finally:
        stack.close()
        PreTrainedModel.from_pretrained = original
        logger.removeHandler(strict)
    bare = not (folder / "modules.json").exists()
    config = folder / "config.json"  # of an adapter there is none
    dpr = (
        bare and config.exists() and read_object(config).get("model_type") == "dpr"
    )  # Karpukhin et al. 2020, section 3.1
    return _checked(folder, library, towers, bare=bare, dpr=dpr)


@contextlib.contextmanager
def _beside_its_base(folder):
    """The folder, or for an adapter whose base is named from there, as ../base, one that names it from anywhere."""
    path = folder / "adapter_config.json"
    config = read_object(path) if path.exists() else {}
    named = str(config.get("base_model_name_or_path") or "")
    base = folder / named
    if config and (not named or named.startswith((".", "/")) and not base.is_dir()):
        raise BadInput(f"adapter_config.json names no base that is there: base_model_name_or_path is {named or None}")
    if not config or not base.is_dir() or base == folder:
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        for each in folder.iterdir():
            if each != path:
                (pathlib.Path(place) / each.name).symlink_to(each.resolve())
        config |= {"base_model_name_or_path": str(base.resolve())}
        write_json(pathlib.Path(place) / path.name, config)
        yield pathlib.Path(place)


def dim_of(modules):
    """The length of the vectors that modules give."""
    return next(m.get_embedding_dimension() for m in [*modules][::-1] if hasattr(m, "get_embedding_dimension"))


def _route(library, task):
    """The modules that texts of a task go through; the same list for both where there is no Router."""
    found = []
    for module in library:
        routed = isinstance(module, Router)
        found += module.sub_modules[module._resolve_route(task=task, modality="text")] if routed else [module]
    return found


def _checked(folder, library, towers, *, bare, dpr):
    """open_modules()'s towers and settings of what was read; BadInput if it is no bi-encoder of texts."""
    if [*map(id, towers["query"])] == [*map(id, towers["doc"])]:
        towers["query"] = towers["doc"]
    if library.truncate_dim is not None:
        raise BadInput(f"{folder}: truncate_dim is not supported; delete it in config_sentence_transformers.json, and "
                       f"cut vectors where they are searched, as by --dim {library.truncate_dim}")  # fmt: skip
    if library.similarity_fn_name not in ("cosine", "dot"):
        raise BadInput(f"{folder}: similarity {library.similarity_fn_name} is not supported, only cosine and dot are")
    prompts = {name: text for name, text in library.prompts.items() if text}
    settings = {"normalize": not dpr and library.similarity_fn_name == "cosine"}
    settings["normalize"] |= all(isinstance(tower[-1], Normalize) for tower in towers.values())
    settings["unused_prompts"] = sorted(prompts.keys() - set(TASKS.values()))
    for kind, task in TASKS.items():
        tower = towers[kind]
        if not isinstance(tower[0], Transformer) or pooling_of(tower) is None:
            names = " ".join(type(module).__name__ for module in tower)
            raise BadInput(f"{folder}: {names}: a Transformer for texts with a Pooling behind it is expected")
        if bare:  # a decoder that can also chat: its texts are plain texts here, and in what is saved
            tower[0].modality_config.pop("message", None)
        if tower[0].query_expansion or "message" in tower[0].modality_config:
            raise BadInput(f"{folder}: queries that are expanded, or texts in a chat template, are not supported")
        if settings["normalize"] and isinstance(tower[-1], Normalize):  # the encoder does it, or not, as it is asked
            tower.pop()
        if dpr:
            tower[-1] = Pooling(tower[-1].get_embedding_dimension(), "cls")
        tokenizer = tower[0].tokenizer
        check_tokenizer(folder, tokenizer)
        check_ids(folder, tokenizer, tower[0].model)
        if tokenizer.pad_token is None:  # as in many decoders: any token will do, since it is masked
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        own = getattr(tower[0], f"{task}_length") or tokenizer.model_max_length
        if not isinstance(own, int) or own < LEAST:
            raise BadInput(f"{folder}: max_seq_length is {own!r}, and a whole number from {LEAST} on is wanted")
        settings[f"{kind}_prefix"] = prompts.get(task, "")
        settings[f"{kind}_length"] = min(own, LENGTHS[kind] if bare else NO_LIMIT)
        for name, parameter in nn.ModuleList(tower).named_parameters():
            if not torch.isfinite(parameter).all():
                raise BadInput(f"{folder}: {name} holds values that are not finite")
    if (folder / "settings.json").exists():  # of our folders from before the library kept two lengths
        kept = read_json(folder / "settings.json", **{f"{kind}_length": int for kind in TASKS})
        settings |= {f"{kind}_length": kept[f"{kind}_length"] for kind in TASKS}
    return towers, settings


def pooling_of(modules):
    """The names of the first pooling among modules, as in cls+mean; None if there is none."""
    names = {known: ours for ours, known in POOLINGS.items()}
    for module in modules:
        if isinstance(module, OwnPooling):
            return module.pooling_mode
        if isinstance(module, Pooling):
            modes = [module.pooling_mode] if isinstance(module.pooling_mode, str) else module.pooling_mode
            return "+".join(names.get(mode, mode) for mode in modes)
    return None


def change(tower, *, pooling, dim, lora):
    """Change the modules of a tower in place, as read() is asked to."""
    at = next(i for i, module in enumerate(tower) if isinstance(module, (Pooling, OwnPooling)))
    if pooling:
        names, size = parse_pooling(pooling), tower[0].get_embedding_dimension()
        if any(callable(POOLINGS[name]) for name in names):
            tower[at] = OwnPooling(size, pooling, tower[at].include_prompt)
        else:
            tower[at] = Pooling(size, [POOLINGS[name] for name in names], tower[at].include_prompt)
        if "last" in names:
            append_eos(tower[0].tokenizer)
    if dim:
        tower.append(Dense(dim_of(tower), dim, bias=False, activation_function=nn.Identity()))
    if lora:
        try:
            import peft
        except ImportError:
            raise BadInput("--lora needs the package peft: pip install peft") from None
        config = peft.LoraConfig(r=lora, lora_alpha=2 * lora, target_modules="all-linear")
        tower[0].model = peft.get_peft_model(tower[0].model, config)
