"""Transformer encoders: modules that sentence-transformers reads and writes, called here in blocks of cached tokens."""

import contextlib
import copy
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router
from torch import nn

from lib.files import BadInput, fingerprint, fingerprint_file
from lib.model import pooling
from lib.model.attention import NAME
from lib.model.backbone import positions, token_types, tokens_state
from lib.model.modules import TASKS, change, dim_of, open_modules, pooling_of


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
        return dim_of(self.doc_tower)

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
        for words in self._words() if torch.device(device).type == "cpu" else ():
            if words.weight.requires_grad and not words.weight._post_accumulate_grad_hooks:
                words.weight.register_post_accumulate_grad_hook(_make_dense)
        return self

    def _words(self, kind=None):
        """The tables of word vectors, of one side or of both."""
        found = [b.get_input_embeddings() for b in ([self._tower(kind)[0].model] if kind else backbones(self))]
        return [words for words in found if isinstance(words, nn.Embedding)]

    def compile_backbone(self):
        """torch.compile, in place: parameters keep their names. The modules call forward() and not the model."""
        for backbone in backbones(self):
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
        for backbone in backbones(self):
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
        for words in self._words(batch.kind):
            # a gradient is as large as the vocabulary: of few words it is filled with zeros once, not for each block
            words.sparse = bool(words.weight._post_accumulate_grad_hooks) and len(ids) < len(words.weight)
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
        # block by block: weights that were cast once for all would sum the blocks' gradients in half precision
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
            [
                {name: value for name, value in tower[0].config.to_dict().items() if name != "_name_or_path"},
                repr(tower),
                tower[0].config._attn_implementation,
            ]
            for tower in (self.query_tower, self.doc_tower)
        ]
        code = fingerprint_file(pooling.__file__)  # where users add their own
        return fingerprint("transformer", self.settings, str(self.dtype), towers, code)

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
        if any(hasattr(backbone, "merge_and_unload") for backbone in backbones(self)):
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
        towers, settings = open_modules(pathlib.Path(source), **how)
        twice = query_source and pathlib.Path(query_source) == pathlib.Path(source)
        if query_source and not twice:
            of_query, theirs = open_modules(pathlib.Path(query_source), **how)
            if theirs["normalize"] != settings["normalize"]:
                raise BadInput(f"{source} and {query_source}: one compares by cosine, the other by inner product")
            towers["query"] = of_query["query"]
            settings |= {name: theirs[name] for name in ("query_prefix", "query_length")}
        for tower in {id(tower): tower for tower in towers.values()}.values():
            change(tower, pooling=overrides.get("pooling"), dim=dim, lora=lora)
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
        settings["pooling"] = pooling_of(towers["doc"][1:])
        query_dim, doc_dim = dim_of(towers["query"]), dim_of(towers["doc"])
        if query_dim != doc_dim:
            raise BadInput(f"{source}: vectors of queries have {query_dim} dimensions, of docs {doc_dim}")
        encoder = cls(towers["query"], towers["doc"], settings=settings)
        for backbone in backbones(encoder):
            if not attention and backbone.config._attn_implementation == "sdpa":
                backbone.set_attn_implementation(NAME)
        return encoder


def _make_dense(weight):
    weight.grad = weight.grad.to_dense()


def _blocks(lengths, budget):
    """Slices over texts sorted by falling length, each of at most `budget` padded tokens, or of one text."""
    begin = 0
    while begin < len(lengths):
        count = max(1, budget // max(1, lengths[begin]))
        yield slice(begin, begin + count)
        begin += count


def backbones(encoder):
    """The Hugging Face model of each tower, each once, in a fixed order."""
    return [tower[0].model for tower in dict.fromkeys((encoder.query_tower, encoder.doc_tower))]
