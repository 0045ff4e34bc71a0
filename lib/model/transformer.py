"""Transformer encoders: modules that sentence-transformers reads and writes, called here in blocks of cached tokens."""

import contextlib
import copy
import logging
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn
from transformers import PreTrainedModel

from lib.files import BadInput, fingerprint, read_json
from lib.model.backbone import (
    NO_LIMIT,
    append_eos,
    check_tokenizer,
    first_line,
    positions,
    quiet,
    strictly,
    token_types,
    tokens_state,
)  # fmt: skip
from lib.model.pooling import POOLINGS, parse_pooling

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


class TransformerEncoder(nn.Module):
    """Queries and docs through a shared tower or through one each, with prefixes and lengths of their own.

    A tower is a list of sentence-transformers' modules: a Transformer, a Pooling, and whatever stands behind it.
    """

    kind = "transformer"

    def __init__(self, query_tower, doc_tower, *, settings):
        super().__init__()
        self.doc_tower = nn.ModuleList(doc_tower)  # the same module when shared: its parameters are counted once
        self.query_tower = self.doc_tower if query_tower is doc_tower else nn.ModuleList(query_tower)
        self.settings = settings
        self.token_types, self.prefix_tokens = {}, {}
        for kind in TASKS:
            tokenizer, prefix = self._tower(kind)[0].tokenizer, settings[f"{kind}_prefix"]
            self.token_types[kind] = token_types(tokenizer)
            self.prefix_tokens[kind] = self._preprocess(["a"], kind).get("prompt_length", 0) if prefix else 0
        self.dtype = None  # of autocast; None computes in the weights' own precision
        self.block_tokens = 2048  # per forward pass: small enough for a CPU's cache; set_device() raises it

    @property
    def dim(self):
        """D, the length of the vectors."""
        return _dim(self.doc_tower)

    @property
    def tokenizer(self):
        """That of the docs."""
        return self.doc_tower[0].tokenizer

    def _tower(self, kind):
        return self.query_tower if kind == "query" else self.doc_tower

    def set_device(self, device, dtype=None):
        """Move to a device and choose autocast's dtype; on a GPU a forward pass takes more tokens at once."""
        self.to(device)
        self.dtype = dtype
        if torch.device(device).type == "cuda":
            self.block_tokens = 1 << 16
        return self

    def backbones(self):
        """The Hugging Face model of each tower, each once, in a fixed order."""
        return [tower[0].model for tower in dict.fromkeys((self.query_tower, self.doc_tower))]

    def compile_backbone(self):
        """torch.compile, in place: parameters keep their names. The modules call forward() and not the model."""
        for backbone in self.backbones():
            backbone.forward = torch.compile(backbone.forward, dynamic=True)

    def set_dropout(self, rate):
        """The rate of every dropout, whatever each architecture calls it."""
        for module in self.modules():
            for name, value in list(vars(module).items()):
                rated = name == "p" if isinstance(module, nn.Dropout) else "dropout" in name
                if rated and isinstance(value, float):
                    setattr(module, name, rate)

    def checkpoint_activations(self):
        """Recompute activations in the backward pass."""
        for backbone in self.backbones():
            backbone.activation_checkpointing_enable()
            backbone.enable_input_require_grads()  # with LoRA the embeddings would ask for none

    def forward(self, batch):
        """A TokenBatch of n texts -> (n, D). Texts are grouped by length, to spend little on padding."""
        ids, offsets = batch.ids, batch.offsets
        tower = self._tower(batch.kind)
        device = next(tower.parameters()).device
        lengths = offsets.diff().long()
        if not len(lengths):  # a process without texts: no rows, but part of the graph
            return next(tower.parameters()).sum() * torch.zeros(0, self.dim, device=device)
        texts = ids.long().split(lengths.tolist())
        padding = tower[0].tokenizer.pad_token_id  # what it is plays no part: it is masked
        if not lengths.all():  # an empty text without special tokens
            texts, lengths = [x if len(x) else x.new_tensor([padding]) for x in texts], lengths.clamp(min=1)
        by_length = torch.argsort(lengths, descending=True, stable=True)
        pooled = []
        for part in _blocks(lengths[by_length].tolist(), self.block_tokens):
            rows = by_length[part]
            padded = nn.utils.rnn.pad_sequence(
                [texts[i] for i in rows.tolist()], batch_first=True, padding_value=padding
            )
            pooled.append(self._vectors(padded.to(device), lengths[rows].to(device), batch.kind))
        vectors = torch.cat(pooled)[torch.argsort(by_length).to(device)]
        return F.normalize(vectors, dim=-1) if self.settings["normalize"] else vectors

    def _vectors(self, ids, lengths, kind):
        """ids (n, L) padded on the right, lengths (n,) -> (n, D) float32."""
        features = {"input_ids": ids, "prompt_length": self.prefix_tokens[kind]}
        if int(lengths.min()) < ids.shape[1]:  # without padding attention takes its fastest path
            features["attention_mask"] = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
        if self.token_types[kind] is not None:
            features["token_type_ids"] = torch.zeros_like(ids)
            for ident, type_id in self.token_types[kind].items():
                features["token_type_ids"][ids == ident] = type_id
        transformer, *others = self._tower(kind)
        with torch.autocast(ids.device.type, self.dtype) if self.dtype else contextlib.nullcontext():
            features = transformer(features)
        name = transformer.module_output_name
        features[name] = features[name].float()  # what follows costs little and sums much
        for module in others:
            features = module(features)
        return features["sentence_embedding"]

    def token_key(self, kind):
        """Identifies how texts become tokens: equal keys, equal tokens."""
        prefix, length = self.settings[f"{kind}_prefix"], self.settings[f"{kind}_length"]
        transformer = self._tower(kind)[0]
        return fingerprint("transformer", tokens_state(transformer.tokenizer), prefix, length,
                           transformer.processing_kwargs)  # fmt: skip

    def vector_key(self):
        """Identifies what turns tokens into vectors, the weights aside."""
        towers = [
            [{name: value for name, value in tower[0].config.to_dict().items() if name != "_name_or_path"}, repr(tower)]
            for tower in (self.query_tower, self.doc_tower)
        ]
        return fingerprint("transformer", self.settings, str(self.dtype), towers)

    def _preprocess(self, texts, kind):
        transformer = self._tower(kind)[0]
        features = transformer.preprocess(texts, prompt=self.settings[f"{kind}_prefix"], task=TASKS[kind])
        transformer.tokenizer.backend_tokenizer.no_truncation()  # or they would be saved with the encoder
        transformer.tokenizer.backend_tokenizer.no_padding()
        return features

    def tokenize(self, texts, kind="doc"):
        """(ids (T,) int32, offsets (n + 1,) int64, None): prefix and text, cut at the length of this kind."""
        if not len(texts):
            return np.empty(0, dtype=np.int32), np.zeros(1, dtype=np.int64), None
        features = self._preprocess(list(texts), kind)
        mask = features["attention_mask"].bool()
        return features["input_ids"][mask].int().numpy(), np.cumsum([0, *mask.sum(1).tolist()]), None

    def write(self, folder):
        """Write the encoder's files, as sentence-transformers does: two towers are a Router over both."""
        encoder = self
        if any(hasattr(backbone, "merge_and_unload") for backbone in self.backbones()):
            encoder = copy.deepcopy(self)  # LoRA: plain weights are saved, which every reader takes
            for tower in {encoder.query_tower, encoder.doc_tower}:
                tower[0].model = tower[0].model.merge_and_unload()
        query, doc = list(encoder.query_tower), list(encoder.doc_tower)
        modules = doc if encoder.query_tower is encoder.doc_tower else [Router.for_query_document(query, doc)]
        normalize = self.settings["normalize"]
        library = SentenceTransformer(
            modules=modules + [Normalize()] * normalize,
            device=str(next(self.parameters()).device),
            prompts={task: self.settings[f"{kind}_prefix"] for kind, task in TASKS.items()},
        )
        library.similarity_fn_name = "cosine" if normalize else "dot"
        library.save(str(folder), create_model_card=False)

    @classmethod
    def read(cls, source, *, query_source=None, overrides=None, from_config=False, dim=None, lora=None,
             attention=None, seed=0):  # fmt: skip
        """The encoder of a folder: ours, a sentence-transformers model, or a bare Hugging Face one.

        query_source: a folder whose weights are the query tower's, as with DPR; the same folder again gives each side
        weights of its own. overrides {setting: value} replaces what the folder says; from_config takes random weights
        drawn from `seed`; dim adds a linear layer of that many outputs; lora trains low-rank updates of that rank
        (needs peft).
        """
        torch.manual_seed(seed)
        overrides = overrides or {}
        how = {"from_config": from_config, "attention": attention}
        towers, settings = _open(pathlib.Path(source), **how)
        twice = query_source and pathlib.Path(query_source) == pathlib.Path(source)
        if query_source and not twice:
            of_query, theirs = _open(pathlib.Path(query_source), **how)
            if theirs["normalize"] != settings["normalize"]:
                raise BadInput(f"{source} and {query_source}: one compares by cosine, the other by inner product")
            towers["query"] = of_query["query"]
            settings |= {name: theirs[name] for name in ("query_prefix", "query_length")}
        for tower in {id(tower): tower for tower in towers.values()}.values():
            _change(tower, pooling=overrides.get("pooling"), dim=dim, lora=lora)
        if twice and towers["query"] is towers["doc"]:  # after `dim`: both begin in one space
            towers["query"] = copy.deepcopy(towers["doc"])
        settings |= {name: value for name, value in overrides.items() if not name.endswith("_length")}
        for kind, task in TASKS.items():
            name, transformer = f"{kind}_length", towers[kind][0]
            limit, asked = positions(transformer.model), overrides.get(name)
            if asked and asked > limit:
                raise BadInput(f"--{name} {asked}: {source} takes at most {limit} tokens")
            settings[name] = asked or min(settings[name], limit)
            setattr(transformer, f"{task}_length", settings[name])
        settings["pooling"] = _pooling_of(towers["doc"][1:])
        query_dim, doc_dim = _dim(towers["query"]), _dim(towers["doc"])
        if query_dim != doc_dim:
            raise BadInput(f"{source}: vectors of queries have {query_dim} dimensions, of docs {doc_dim}")
        return cls(towers["query"], towers["doc"], settings=settings)


class _Strict(logging.Handler):
    """Refuses what sentence-transformers' modules only warn of while they are read: nothing is passed over."""

    def emit(self, record):
        if ".modules" in record.name or record.msg.startswith("Converting"):
            raise BadInput(record.getMessage())


def _open(folder, *, from_config, attention):
    """({"query": modules, "doc": modules}, settings) of a folder; a Normalize at the end is a setting."""
    if not any((folder / name).exists() for name in ("config.json", "modules.json", "adapter_config.json")):
        raise BadInput(
            f"{folder}: neither config.json nor modules.json: not a Hugging Face or sentence-transformers model"
        )
    quiet()
    strict, logger = _Strict(logging.WARNING), logging.getLogger("sentence_transformers")
    logger.addHandler(strict)
    load = strictly(PreTrainedModel.from_pretrained.__func__, from_config=from_config)
    original = PreTrainedModel.__dict__["from_pretrained"]
    try:
        PreTrainedModel.from_pretrained = load
        library = SentenceTransformer._load_with_module_classes(
            str(folder), {OWN: OwnPooling}, device="cpu", trust_remote_code=False,
            model_kwargs={"attn_implementation": attention} if attention else None,
        )  # fmt: skip
        towers = {kind: _route(library, task) for kind, task in TASKS.items()}
    except Exception as error:  # the libraries raise all kinds over files that are cut or foreign
        raise BadInput(f"{folder}: cannot be loaded ({first_line(error)})") from None
    finally:
        PreTrainedModel.from_pretrained = original
        logger.removeHandler(strict)
    bare = not (folder / "modules.json").exists()
    config = folder / "config.json"  # of an adapter there is none
    dpr = (
        bare and config.exists() and read_json(config).get("model_type") == "dpr"
    )  # Karpukhin et al. 2020, section 3.1
    return _checked(folder, library, towers, bare=bare, dpr=dpr)


def _dim(modules):
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
    """_open()'s towers and settings of what was read; BadInput if it is no bi-encoder of texts."""
    if [*map(id, towers["query"])] == [*map(id, towers["doc"])]:
        towers["query"] = towers["doc"]
    if library.truncate_dim is not None or library.similarity_fn_name not in ("cosine", "dot"):
        raise BadInput(f"{folder}: similarity {library.similarity_fn_name} is not supported, only cosine and dot are, "
                       "without truncate_dim")  # fmt: skip
    prompts = {name: text for name, text in library.prompts.items() if text}
    settings = {"normalize": not dpr and library.similarity_fn_name == "cosine"}
    settings["normalize"] |= all(isinstance(tower[-1], Normalize) for tower in towers.values())
    settings["unused_prompts"] = sorted(prompts.keys() - set(TASKS.values()))
    for kind, task in TASKS.items():
        tower = towers[kind]
        if not isinstance(tower[0], Transformer) or _pooling_of(tower) is None:
            names = " ".join(type(module).__name__ for module in tower)
            raise BadInput(f"{folder}: {names}: a Transformer for texts with a Pooling behind it is expected")
        if tower[0].query_expansion or "message" in tower[0].modality_config:
            raise BadInput(f"{folder}: queries that are expanded, or texts in a chat template, are not supported")
        if settings["normalize"] and isinstance(tower[-1], Normalize):  # the encoder does it, or not, as it is asked
            tower.pop()
        if dpr:
            tower[-1] = Pooling(tower[-1].get_embedding_dimension(), "cls")
        tokenizer = tower[0].tokenizer
        check_tokenizer(folder, tokenizer)
        if tokenizer.pad_token is None:  # as in many decoders: any token will do, since it is masked
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        own = getattr(tower[0], f"{task}_length") or tokenizer.model_max_length
        settings[f"{kind}_prefix"] = prompts.get(task, "")
        settings[f"{kind}_length"] = min(own, LENGTHS[kind] if bare else NO_LIMIT)
        for name, parameter in nn.ModuleList(tower).named_parameters():
            if not torch.isfinite(parameter).all():
                raise BadInput(f"{folder}: {name} holds values that are not finite")
    if (folder / "settings.json").exists():  # of our folders from before the library kept two lengths
        settings |= {f"{kind}_length": read_json(folder / "settings.json")[f"{kind}_length"] for kind in TASKS}
    return towers, settings


def _pooling_of(modules):
    """The names of the first pooling among modules, as in cls+mean; None if there is none."""
    names = {known: ours for ours, known in POOLINGS.items()}
    for module in modules:
        if isinstance(module, OwnPooling):
            return module.pooling_mode
        if isinstance(module, Pooling):
            modes = [module.pooling_mode] if isinstance(module.pooling_mode, str) else module.pooling_mode
            return "+".join(names.get(mode, mode) for mode in modes)
    return None


def _change(tower, *, pooling, dim, lora):
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
        tower.append(Dense(_dim(tower), dim, bias=False, activation_function=nn.Identity()))
    if lora:
        try:
            import peft
        except ImportError:
            raise BadInput("--lora needs the package peft: pip install peft") from None
        config = peft.LoraConfig(r=lora, lora_alpha=2 * lora, target_modules="all-linear")
        tower[0].model = peft.get_peft_model(tower[0].model, config)


def _blocks(lengths, budget):
    """Slices over texts sorted by falling length, each of at most `budget` padded tokens, or of one text."""
    begin = 0
    while begin < len(lengths):
        count = max(1, budget // max(1, lengths[begin]))
        yield slice(begin, begin + count)
        begin += count
