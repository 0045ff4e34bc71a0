"""Transformer encoders: any Hugging Face backbone, pooled, projected and normalised.

Folders are in sentence-transformers layout.
"""

import contextlib
import copy
import inspect
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lib.files import BadInput, fingerprint
from lib.model import layout
from lib.model.backbone import append_eos, load_backbone, longest, token_types, tokens_state
from lib.model.head import Dense
from lib.model.pooling import parse_pooling, pool

IDENTITY = "torch.nn.modules.linear.Identity"
QUERY_LENGTH, DOC_LENGTH = 64, 256  # tokens, where neither the user nor the model's files say


class Tower(nn.Module):
    """A backbone, a pooling and the modules behind it: padded token ids -> one vector per text."""

    def __init__(self, backbone, *, pooling, pools_prefix=True, head=()):
        super().__init__()
        self.backbone, self.pooling, self.pools_prefix = backbone, pooling, pools_prefix
        self.head = nn.Sequential(*head)
        self._takes_types = "token_type_ids" in inspect.signature(backbone.forward).parameters

    @property
    def dim(self):
        """D, the length of the vectors."""
        dense = [module for module in self.head if isinstance(module, Dense)]
        own = self.backbone.config.hidden_size * len(parse_pooling(self.pooling))
        return dense[-1].linear.out_features if dense else own

    def forward(self, ids, lengths, prefix=0, types=None):
        """ids (n, L) padded on the right, lengths (n,) -> (n, D).

        prefix: tokens of the prefix that begins each text; types: of token_types().
        """
        place = torch.arange(ids.shape[1], device=ids.device)
        mask = place < lengths[:, None]  # (n, L)
        # without padding no mask is needed, and attention takes its fastest path
        attention_mask = None if int(lengths.min()) == ids.shape[1] else mask.long()
        extra = {}
        if types is not None and self._takes_types:
            extra["token_type_ids"] = torch.zeros_like(ids)
            for ident, kind in types.items():
                extra["token_type_ids"][ids == ident] = kind
        hidden = self.backbone(input_ids=ids, attention_mask=attention_mask, **extra).last_hidden_state  # (n, L, H)
        if prefix and not self.pools_prefix:
            mask = mask & (place >= prefix)
        return self.head(pool(self.pooling, hidden, mask))


class Int8Linear(nn.Module):
    """A linear layer in 8-bit integers on the CPU: weights scaled per output, activations per token.

    One scale for a whole activation matrix, as in torch's dynamic quantisation, lets one outlying token cost
    all others their precision. Weights use 7 of the 8 bits: on processors without VNNI the kernel adds pairs
    of products in 16 bits, and 2 * 63 * 255 still fits.
    """

    def __init__(self, linear):
        super().__init__()
        weight = linear.weight.detach()  # (out, in)
        self.scale = (weight.abs().amax(1) / 63).clamp(min=1e-12)
        self.weight = torch.ops.onednn.qlinear_prepack((weight / self.scale[:, None]).round().char(), None)
        self.zero = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach()

    def forward(self, x):
        """x (..., in) float32 -> (..., out) float32."""
        flat = x.reshape(-1, x.shape[-1])  # (T, in)
        scale = torch.linalg.vector_norm(flat, torch.inf, 1, True).clamp_(1e-12).div_(127)  # (T, 1)
        product = torch.ops.onednn.qlinear_pointwise(
            (flat * scale.reciprocal()).round_().char(),
            1.0,
            0,
            self.weight,
            self.scale,
            self.zero,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )  # (T, out)
        return torch.addcmul(self.bias, product, scale).view(*x.shape[:-1], -1)


class TransformerEncoder(nn.Module):
    """Queries and docs through a shared tower or through one each, with prefixes and lengths of their own."""

    kind = "transformer"

    def __init__(self, query_tower, doc_tower, tokenizer, *, settings):
        super().__init__()
        self.query_tower = query_tower
        self.doc_tower = doc_tower  # the same module when shared: its parameters are counted once
        self.tokenizer, self.settings = tokenizer, settings
        self.token_types = token_types(tokenizer)
        self.prefix_tokens = {kind: self._count_prefix(kind) for kind in ("query", "doc")}
        self.dtype = None  # of autocast; None computes in the weights' own precision
        self.block_tokens = 2048  # per forward pass: small enough for a CPU's cache; set_device() raises it

    @property
    def dim(self):
        """D, the length of the vectors."""
        return self.doc_tower.dim

    def _count_prefix(self, kind):
        """Tokens of a kind's prefix, special tokens before the text included, as sentence-transformers counts them."""
        if not (prefix := self.settings[f"{kind}_prefix"]):
            return 0
        ids = self.tokenizer(prefix)["input_ids"]
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)

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

    def set_dropout(self, rate):
        """The rate of every dropout, whatever each architecture calls it."""
        for module in self.modules():
            for name, value in list(vars(module).items()):
                rated = name == "p" if isinstance(module, nn.Dropout) else "dropout" in name
                if rated and isinstance(value, float):
                    setattr(module, name, rate)

    def checkpoint_activations(self):
        """Recompute activations in the backward pass."""
        for tower in self._towers():
            tower.backbone.activation_checkpointing_enable()
            tower.backbone.enable_input_require_grads()  # with LoRA the embeddings would ask for none

    def forward(self, batch):
        """A TokenBatch of n texts -> (n, D). Texts are grouped by length, to spend little on padding."""
        ids, offsets = batch.ids, batch.offsets
        tower = self.query_tower if batch.kind == "query" else self.doc_tower
        device = next(tower.parameters()).device
        lengths = offsets.diff().long()
        if not len(lengths):  # a process without texts: no rows, but part of the graph
            return next(tower.parameters()).sum() * torch.zeros(0, self.dim, device=device)
        texts, prefix = ids.long().split(lengths.tolist()), self.prefix_tokens[batch.kind]
        padding = self.tokenizer.pad_token_id or 0  # what it is plays no part where there is none: it is masked
        if not lengths.all():  # an empty text without special tokens
            texts, lengths = [x if len(x) else x.new_tensor([padding]) for x in texts], lengths.clamp(min=1)
        by_length = torch.argsort(lengths, descending=True, stable=True)
        pooled = []
        context = torch.autocast(device.type, self.dtype) if self.dtype else contextlib.nullcontext()
        with context:
            for part in _blocks(lengths[by_length].tolist(), self.block_tokens):
                rows = by_length[part]
                padded = nn.utils.rnn.pad_sequence(
                    [texts[i] for i in rows.tolist()], batch_first=True, padding_value=padding
                )
                vectors = tower(padded.to(device), lengths[rows].to(device), prefix, self.token_types)
                pooled.append(vectors.float())
        vectors = torch.cat(pooled)[torch.argsort(by_length).to(device)]
        return F.normalize(vectors, dim=-1) if self.settings["normalize"] else vectors

    def token_key(self, kind):
        """Identifies how texts become tokens: equal keys, equal tokens."""
        prefix, length = self.settings[f"{kind}_prefix"], self.settings[f"{kind}_length"]
        return fingerprint("transformer", tokens_state(self.tokenizer), prefix, length)

    def vector_key(self):
        """Identifies what turns tokens into vectors, the weights aside."""
        towers = [
            [
                {name: value for name, value in tower.backbone.config.to_dict().items() if name != "_name_or_path"},
                tower.pooling,
                tower.pools_prefix,
                [(repr(module), getattr(module, "use_residual", None)) for module in tower.head],
            ]
            for tower in self._towers()
        ]
        return fingerprint("transformer", self.settings, str(self.dtype), towers)

    def tokenize(self, texts, kind="doc"):
        """(ids (T,) int32, offsets (n + 1,) int64, None): prefix and text, cut at the length of this kind."""
        prefix = self.settings[f"{kind}_prefix"]
        encoded = self.tokenizer(
            [prefix + text for text in texts],
            truncation=True,
            max_length=self.settings[f"{kind}_length"],
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        self.tokenizer.backend_tokenizer.no_truncation()  # or it would be saved with the encoder
        offsets = np.cumsum([0] + [len(ids) for ids in encoded])
        flat = np.fromiter((i for ids in encoded for i in ids), dtype=np.int32, count=offsets[-1])
        return flat, offsets, None

    def write(self, folder):
        """Write the encoder's files in sentence-transformers' layout."""
        layout.write(self, folder)

    @classmethod
    def read(
        cls,
        source,
        *,
        query_source=None,
        overrides=None,
        separate_towers=False,
        from_config=False,
        projection=None,
        lora=None,
        attention=None,
        eos=False,
        seed=0,
    ):
        """The encoder of a folder: ours, a sentence-transformers model, or a bare Hugging Face one.

        query_source: another folder, whose weights are the query tower's, as with DPR. overrides {setting: value}
        replaces what the folder says; from_config takes random weights drawn from `seed`; projection adds a linear
        layer of that many outputs; lora trains low-rank updates of that rank (needs peft); eos appends the
        end-of-sequence token to each text.
        """
        torch.manual_seed(seed)
        routes, settings = layout.read(pathlib.Path(source))
        if query_source:
            of_query, theirs = layout.read(pathlib.Path(query_source))
            if theirs["normalize"] != settings["normalize"]:
                raise BadInput(f"{source} and {query_source}: one compares by cosine, the other by inner product")
            routes["query"] = of_query.get("query", of_query["doc"])
            settings |= {name: theirs[name] for name in ("query_prefix", "query_length") if name in theirs}
        towers = {}
        for name, found in routes.items():
            backbone = load_backbone(found.backbone, from_config=from_config, attention=attention)
            pooling = (overrides or {}).get("pooling") or found.pooling
            towers[name] = Tower(backbone, pooling=pooling, pools_prefix=found.pools_prefix, head=found.head)
            if projection:
                towers[name].head.append(Dense(towers[name].dim, projection, bias=False, activation=IDENTITY))
            if lora:
                towers[name].backbone = _with_lora(backbone, rank=lora)
        tokenizer = routes["doc"].tokenizer
        if "query" in routes and tokens_state(routes["query"].tokenizer) != tokens_state(tokenizer):
            raise BadInput(f"{source}: queries and docs have different tokenizers, which is not supported")
        if separate_towers and len(towers) == 1:  # after the projection: both begin in one space
            towers["query"] = copy.deepcopy(towers["doc"])
        towers.setdefault("query", towers["doc"])
        if towers["query"].dim != towers["doc"].dim:
            raise BadInput(f"{source}: vectors of queries have {towers['query'].dim} dimensions, of docs "
                           f"{towers['doc'].dim}")  # fmt: skip
        if eos:
            append_eos(tokenizer)
        settings |= _lengths(source, settings, overrides or {}, towers, tokenizer)
        settings |= {name: value for name, value in (overrides or {}).items() if not name.endswith("_length")}
        settings["pooling"] = towers["doc"].pooling
        return cls(towers["query"], towers["doc"], tokenizer, settings=settings)


def _lengths(source, settings, overrides, towers, tokenizer):
    """{query_length, doc_length}: what is asked for, or what the files say; BadInput above what the model can do."""
    found = {}
    for kind, default in (("query", QUERY_LENGTH), ("doc", DOC_LENGTH)):
        name, limit = f"{kind}_length", longest(towers[kind].backbone, tokenizer)
        if (asked := overrides.get(name)) and asked > limit:
            raise BadInput(f"--{name} {asked}: {source} takes at most {limit} tokens")
        found[name] = asked or min(settings.get(name) or default, limit)
    return found


def _blocks(lengths, budget):
    """Slices over texts sorted by falling length, each of at most `budget` padded tokens, or of one text."""
    begin = 0
    while begin < len(lengths):
        count = max(1, budget // max(1, lengths[begin]))
        yield slice(begin, begin + count)
        begin += count


def _with_lora(backbone, *, rank):
    try:
        import peft
    except ImportError:
        raise BadInput("--lora needs the package peft: pip install peft") from None
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    return peft.get_peft_model(backbone, config)


def quantize(encoder):
    """Compute the backbones' linear layers in int8 from now on: to encode with, on the CPU, not to train."""
    for tower in dict.fromkeys((encoder.query_tower, encoder.doc_tower)):
        for module in list(tower.backbone.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Linear):
                    setattr(module, name, Int8Linear(child))
    return encoder
