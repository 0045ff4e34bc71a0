"""Transformer encoders: any Hugging Face backbone, pooled, projected and normalised.

Folders are in sentence-transformers layout.
"""
import contextlib
import copy
import json
import pathlib

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from lib.run import BadInput, fingerprint, read_json, write_json

POOLINGS = ("mean", "cls", "last")
# sentence-transformers' names of the poolings, in today's and in yesterday's config files
LEGACY_POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls",
                  "pooling_mode_lasttoken": "last"}
ST_POOLING = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
ST_TYPE = "sentence_transformers.models."


class Tower(nn.Module):
    """A backbone, a pooling and, if wanted, a linear projection: padded token ids -> one vector per text."""

    def __init__(self, backbone, *, pooling, projection=None):
        super().__init__()
        self.backbone, self.pooling, self.projection = backbone, pooling, projection

    @property
    def dim(self):
        """D, the length of the vectors."""
        return self.projection.out_features if self.projection else self.backbone.config.hidden_size

    def forward(self, ids, lengths):
        """ids (n, L) padded on the right, lengths (n,) -> (n, D)."""
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]              # (n, L)
        # without padding no mask is needed, and attention takes its fastest path
        attention_mask = None if int(lengths.min()) == ids.shape[1] else mask.long()
        hidden = self.backbone(input_ids=ids, attention_mask=attention_mask).last_hidden_state  # (n, L, H)
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        elif self.pooling == "last":
            pooled = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]
        else:
            pooled = (hidden.float() * mask[..., None]).sum(1) / lengths[:, None]
        return self.projection(pooled) if self.projection else pooled


class Int8Linear(nn.Module):
    """A linear layer in 8-bit integers on the CPU: weights scaled per output, activations per token.

    One scale for a whole activation matrix, as in torch's dynamic quantisation, lets one outlying token cost
    all others their precision. Weights use 7 of the 8 bits: on processors without VNNI the kernel adds pairs
    of products in 16 bits, and 2 * 63 * 255 still fits.
    """

    def __init__(self, linear):
        super().__init__()
        weight = linear.weight.detach()                                                 # (out, in)
        self.scale = (weight.abs().amax(1) / 63).clamp(min=1e-12)
        self.weight = torch.ops.onednn.qlinear_prepack((weight / self.scale[:, None]).round().char(), None)
        self.zero = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach()

    def forward(self, x):
        """x (..., in) float32 -> (..., out) float32."""
        flat = x.reshape(-1, x.shape[-1])                                               # (T, in)
        scale = torch.linalg.vector_norm(flat, torch.inf, 1, True).clamp_(1e-12).div_(127)  # (T, 1)
        product = torch.ops.onednn.qlinear_pointwise(
            (flat * scale.reciprocal()).round_().char(), 1.0, 0, self.weight, self.scale, self.zero, None,
            1.0, 0, torch.float32, "none", [], "")                                              # (T, out)
        return torch.addcmul(self.bias, product, scale).view(*x.shape[:-1], -1)


class TransformerEncoder(nn.Module):
    """Queries and docs through a shared tower or through one each, with prefixes and lengths of their own."""
    kind = "transformer"

    def __init__(self, query_tower, doc_tower, tokenizer, *, settings):
        super().__init__()
        self.query_tower = query_tower
        self.doc_tower = doc_tower  # the same module when shared: its parameters are counted once
        self.tokenizer, self.settings = tokenizer, settings
        self.dtype = None  # of autocast; None computes in the weights' own precision
        self.block_tokens = 2048  # per forward pass: small enough for a CPU's cache; set_device() raises it

    @property
    def dim(self):
        """D, the length of the vectors."""
        return self.doc_tower.dim

    def set_device(self, device, dtype=None):
        """Move to a device and choose autocast's dtype; on a GPU a forward pass takes more tokens at once."""
        self.to(device)
        self.dtype = dtype
        if torch.device(device).type == "cuda":
            self.block_tokens = 1 << 16
        return self

    def _towers(self):
        return dict.fromkeys((self.query_tower, self.doc_tower))  # each once, in a fixed order

    def compile_backbone(self):
        """torch.compile, in place: parameters keep their names."""
        for tower in self._towers():
            tower.backbone.compile(dynamic=True)

    def quantize(self):
        """Compute the backbones' linear layers in int8 from now on: to encode with, on the CPU, not to train.
        """
        for tower in self._towers():
            for module in list(tower.backbone.modules()):
                for name, child in module.named_children():
                    if isinstance(child, nn.Linear):
                        setattr(module, name, Int8Linear(child))
        return self

    def set_dropout(self, rate):
        """The rate of every dropout, whatever each architecture calls it."""
        for module in self.modules():
            for name in ("p",) if isinstance(module, nn.Dropout) else ("attention_dropout", "dropout_prob"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, rate)

    def checkpoint_activations(self):
        """Recompute activations in the backward pass."""
        for tower in self._towers():
            tower.backbone.activation_checkpointing_enable()
            tower.backbone.enable_input_require_grads()  # with LoRA the embeddings would ask for none

    def forward(self, ids, offsets, counts=None, kind="doc"):
        """ids (T,), offsets (n + 1,) -> (n, D). Texts are grouped by length, to spend little on padding."""
        tower = self.query_tower if kind == "query" else self.doc_tower
        device = next(tower.parameters()).device
        lengths = offsets.diff().long()
        if not len(lengths):  # a process without texts: no rows, but part of the graph
            return next(tower.parameters()).sum() * torch.zeros(0, self.dim, device=device)
        by_length = torch.argsort(lengths, descending=True, stable=True)
        texts = ids.long().split(lengths.tolist())
        pooled = []
        context = torch.autocast(device.type, self.dtype) if self.dtype else contextlib.nullcontext()
        with context:
            for part in _blocks(lengths[by_length].tolist(), self.block_tokens):
                rows = by_length[part]
                padded = nn.utils.rnn.pad_sequence([texts[i] for i in rows.tolist()], batch_first=True,
                                                   padding_value=self.tokenizer.pad_token_id)
                pooled.append(tower(padded.to(device), lengths[rows].to(device)).float())
        vectors = torch.cat(pooled)[torch.argsort(by_length).to(device)]
        return F.normalize(vectors, dim=-1) if self.settings["normalize"] else vectors

    def both(self, queries, docs):
        """Vectors of queries and of docs."""
        return self(*queries), self(*docs)

    def token_key(self, kind):
        """Identifies how texts become tokens: equal keys, equal tokens."""
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        state.update(truncation=None, padding=None)  # what the last call left there
        prefix, length = self.settings[f"{kind}_prefix"], self.settings[f"{kind}_length"]
        return fingerprint("transformer", state, prefix, length)

    def tokenize(self, texts, kind="doc"):
        """(ids (T,) int32, offsets (n + 1,) int64, None): prefix and text, cut at the length of this kind."""
        prefix = self.settings[f"{kind}_prefix"]
        encoded = self.tokenizer([prefix + text for text in texts], truncation=True,
                                 max_length=self.settings[f"{kind}_length"], return_attention_mask=False,
                                 return_token_type_ids=False)["input_ids"]
        self.tokenizer.backend_tokenizer.no_truncation()  # or it would be saved with the encoder
        offsets = np.cumsum([0] + [len(ids) for ids in encoded])
        flat = np.fromiter((i for ids in encoded for i in ids), dtype=np.int32, count=offsets[-1])
        return flat, offsets, None

    # ---------------------------------------------------------------------------------------------- files

    def write(self, folder):
        """Write the encoder's files: one tower as Transformer, Pooling, ..., two as a Router over both."""
        tail = [("Normalize", "Normalize")] if self.settings["normalize"] else []
        if self.query_tower is self.doc_tower:
            parts = self._write_tower(self.doc_tower, folder, first="", prefix="")
            write_json(folder / "modules.json", [
                {"idx": i, "name": str(i), "path": path, "type": ST_TYPE + kind}
                for i, (path, kind) in enumerate(parts + [(f"{len(parts)}_{name}", kind)
                                                          for name, kind in tail])])
        else:
            routes = {"query": self.query_tower, "document": self.doc_tower}
            parts = {name: self._write_tower(tower, folder, first=f"{name}_0_Transformer", prefix=f"{name}_")
                     for name, tower in routes.items()}
            write_json(folder / "router_config.json", {
                "types": {path: ST_TYPE + kind for route in parts.values() for path, kind in route},
                "structure": {name: [path for path, _ in route] for name, route in parts.items()},
                "parameters": {}})
            write_json(folder / "modules.json", [
                {"idx": i, "name": str(i), "path": path, "type": ST_TYPE + kind}
                for i, (path, kind) in enumerate([("", "Router")]
                                                 + [("1_Normalize", "Normalize")] * len(tail))])
        write_json(folder / "config_sentence_transformers.json", {
            "prompts": {"query": self.settings["query_prefix"], "document": self.settings["doc_prefix"]},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if self.settings["normalize"] else "dot"})
        write_json(folder / "settings.json", self.settings)

    def _write_tower(self, tower, folder, *, first, prefix):
        """Write one tower below `folder`; returns [(path, type)] of its modules."""
        place = folder / first
        backbone = tower.backbone
        if hasattr(backbone, "merge_and_unload"):  # LoRA: plain weights are saved, which every reader takes
            backbone = copy.deepcopy(backbone).merge_and_unload()
        backbone.save_pretrained(place)
        self.tokenizer.save_pretrained(place)
        longest = max(self.settings["query_length"], self.settings["doc_length"])
        write_json(place / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
        parts = [(first, "Transformer"), (f"{prefix}1_Pooling", "Pooling")]
        write_json(folder / parts[1][0] / "config.json", {
            "word_embedding_dimension": backbone.config.hidden_size,
            "pooling_mode": ST_POOLING[tower.pooling], "include_prompt": True})
        if tower.projection:
            parts.append((f"{prefix}2_Dense", "Dense"))
            place = folder / parts[2][0]
            write_json(place / "config.json", {
                "in_features": tower.projection.in_features, "out_features": tower.projection.out_features,
                "bias": False, "activation_function": "torch.nn.modules.linear.Identity"})
            weight = tower.projection.weight.detach().float().cpu().contiguous()
            safetensors.torch.save_file({"linear.weight": weight}, place / "model.safetensors")
        return parts

    @classmethod
    def read(cls, source, *, overrides=None, separate_towers=False, from_config=False, projection=None,
             lora=None, seed=0, attention="sdpa"):
        """The encoder of a folder: ours, a sentence-transformers model, or a bare Hugging Face one.

        overrides {setting: value} replaces what the folder says; from_config takes random weights drawn from
        `seed`; projection adds a linear layer of that many outputs; lora trains low-rank updates of that rank
        (needs peft).
        """
        source = pathlib.Path(source)
        torch.manual_seed(seed)
        routes, settings, tokenizer = _read_layout(source)
        settings |= overrides or {}
        towers = {}
        for name, layout in routes.items():
            backbone = _load_backbone(layout["backbone"], from_config=from_config, attention=attention)
            dense = layout["projection"] and _load_projection(layout["projection"])
            pooling = settings.get("pooling") or layout["pooling"]
            towers[name] = Tower(backbone, pooling=pooling, projection=dense)
            if projection:
                towers[name].projection = nn.Linear(backbone.config.hidden_size, projection, bias=False)
            if lora:
                towers[name].backbone = _with_lora(backbone, rank=lora)
        if separate_towers and len(towers) == 1:  # after the projection: both begin in one space
            towers["query"] = copy.deepcopy(towers["doc"])
        towers.setdefault("query", towers["doc"])
        settings["pooling"] = towers["doc"].pooling
        if tokenizer.pad_token is None:  # as in many decoders; what it is plays no part, since it is masked
            tokenizer.pad_token = tokenizer.eos_token
        limit = getattr(towers["doc"].backbone.config, "max_position_embeddings", None) or 1 << 30
        limit = min(limit, tokenizer.model_max_length)
        for kind, default in (("query", 64), ("doc", 256)):
            settings[f"{kind}_length"] = min(settings.get(f"{kind}_length") or default, limit)
        return cls(towers["query"], towers["doc"], tokenizer, settings=settings)


def _blocks(lengths, budget):
    """Slices over texts sorted by falling length, each of at most `budget` padded tokens, or of one text."""
    begin = 0
    while begin < len(lengths):
        count = max(1, budget // max(1, lengths[begin]))
        yield slice(begin, begin + count)
        begin += count


def _read_layout(source):
    """(towers {"doc": ..., maybe "query": ...}, settings, tokenizer), from a folder's configuration files."""
    settings = {"query_prefix": "", "doc_prefix": "", "normalize": True}
    if not (source / "config.json").exists() and not (source / "modules.json").exists():
        raise BadInput(f"{source}: neither config.json nor modules.json: not a Hugging Face or "
                       "sentence-transformers model")
    if not (source / "modules.json").exists():
        bare = {"backbone": source, "pooling": "mean", "projection": None}
        return {"doc": bare}, settings, _load_tokenizer(source)
    modules = [(source / m["path"], m["type"].rsplit(".", 1)[-1]) for m in read_json(source / "modules.json")]
    settings["normalize"] = any(kind == "Normalize" for _, kind in modules)
    if modules[0][1] == "Router":
        config = read_json(source / "router_config.json")
        routes = {{"query": "query", "document": "doc"}[name]:
                  _read_tower([(source / path, config["types"][path].rsplit(".", 1)[-1]) for path in paths])
                  for name, paths in config["structure"].items()}
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
            modes = [name for key, name in LEGACY_POOLING.items() if config.get(key)]
            if "pooling_mode" in config:
                modes = [ours for ours, theirs in ST_POOLING.items() if theirs == config["pooling_mode"]]
            if len(modes) != 1:
                raise BadInput(f"{path}/config.json: a single pooling of {', '.join(POOLINGS)} is supported, "
                               f"found {config}")
            if not config.get("include_prompt", True):
                raise BadInput(f"{path}/config.json: include_prompt false (prompt left out of the pooling) "
                               "is not supported")
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


def _load_backbone(folder, *, from_config, attention):
    try:
        if from_config:
            config = transformers.AutoConfig.from_pretrained(folder)
            return transformers.AutoModel.from_config(config, attn_implementation=attention,
                                                      dtype=torch.float32)
        return transformers.AutoModel.from_pretrained(folder, attn_implementation=attention,
                                                      dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder}: cannot be loaded ({str(error).splitlines()[0]})") from None


def _load_projection(folder):
    config = read_json(folder / "config.json")
    if not config["activation_function"].endswith("Identity") or config.get("bias", True):
        raise BadInput(f"{folder}: a projection with bias or activation is not supported")
    layer = nn.Linear(config["in_features"], config["out_features"], bias=False)
    layer.weight.data.copy_(safetensors.torch.load_file(folder / "model.safetensors")["linear.weight"])
    return layer


def _with_lora(backbone, *, rank):
    try:
        import peft
    except ImportError:
        raise BadInput("--lora needs the package peft: pip install peft") from None
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    return peft.get_peft_model(backbone, config)
