"""Encoders: texts -> vectors. What an encoder needs to embed (tokenizer, settings) is saved with its weights.

Folders are in sentence-transformers layout: `SentenceTransformer(folder)` gives the same vectors.
"""

import functools
import os
import pathlib
import re
import timeit

import huggingface_hub
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from lib.data.tokens import Tokens
from lib.files import (
    BadInput,
    atomic_path,
    fingerprint,
    fingerprint_file,
    first_line,
    read_json,
    read_object,
    reading,
    write_json,
)
from lib.model.card import write_card
from lib.model.static import StaticEncoder

SAFE = re.compile(r"(0_\w+/)?model(-\d+-of-\d+)?\.safetensors")  # weights of the backbone, perhaps in parts
ATTENTION = ("sdpa_or_products", "sdpa", "eager", "flash_attention_2")  # how a transformer may compute it
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISION_FLAG = ("auto", *PRECISIONS)  # the values of --precision
PRECISION_HELP = "auto (default): bf16 for a transformer on cuda and on CPUs that multiply faster in it, else fp32"
FASTER = 1.5  # times as fast as fp32 a product in bf16 must be, to be worth the casts
OWN = "lib.model.modules."  # of modules.json: classes of ours, beside those of sentence-transformers


def save_encoder(encoder, folder):
    """Write an encoder atomically, with encoder.json naming its kind, size and fingerprint."""
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        encoder.write(temporary)
        write_card(temporary, encoder)
        write_json(
            temporary / "encoder.json",
            {"kind": encoder.kind, "dim": encoder.dim, "fingerprint": fingerprint_folder(temporary)},
        )


def pick_device(requested):
    """The torch.device of `--device`, by default cuda where there is one; BadInput if it is not to be had."""
    device = torch.device(requested or ("cuda" if torch.cuda.is_available() else "cpu"))
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type):
        raise BadInput(f"--device {requested}: not available here")
    return device


def load_encoder(source, *, seed=0, **options):
    """The encoder of a folder or hub name, with `.fingerprint`: ours, sentence-transformers', Hugging Face's.

    `options` are TransformerEncoder.read()'s. BadInput if a folder of ours was changed after it was written.
    """
    folder = local_folder(source)
    found = fingerprint_folder(folder)
    if (folder / "encoder.json").exists():
        info = read_json(folder / "encoder.json", fingerprint=str)
        if found != info["fingerprint"]:
            raise BadInput(
                f"{folder}: encoder.json says fingerprint {info['fingerprint']}, the files give "
                f"{found}: they were changed after training"
            )
    if place := _static_folder(folder):
        if any(options.values()):
            flags = ", ".join(name for name, value in options.items() if value)
            raise BadInput(f"{folder}: a static encoder takes no {flags}")
        with reading(folder, " as a static encoder"):
            encoder = StaticEncoder.read(place)
    else:
        from lib.model.transformer import TransformerEncoder  # here: its library takes seconds to import

        with reading(folder, " as a transformer"):
            encoder = TransformerEncoder.read(folder, seed=seed, **options)
        _try(folder, encoder)
    encoder.fingerprint = found
    return encoder.eval()


@torch.no_grad()
def _try(folder, encoder):
    """BadInput if a transformer encodes no text, or not into vectors of the length that it says."""
    for kind in ("query", "doc"):
        try:
            found = encoder.eval()(Tokens(*encoder.tokenize(["a text"], kind), kind=kind).select(np.arange(1)))
        except Exception as error:  # of modules that do not fit together
            raise BadInput(f"{folder}: encodes no {kind} ({first_line(error)})") from None
        if found.shape[1] != encoder.dim:
            raise BadInput(f"{folder}: a {kind} has {found.shape[1]} numbers, and its modules say {encoder.dim}")


def is_static(source):
    """Whether `source` is a static encoder: a new one, or the folder of one."""
    folder = pathlib.Path(source)
    return source == "static" or folder.is_dir() and _static_folder(folder) is not None


def _static_folder(folder):
    """Where in a folder a static encoder's files are; None if it is no static encoder."""
    if not (folder / "modules.json").exists():
        path = folder / "config.json"
        return folder if path.exists() and read_object(path).get("model_type") == "model2vec" else None
    modules = read_modules(folder)
    kinds = [kind for _, kind in modules]
    if kinds[0] != "StaticEmbedding":
        return None
    if kinds[1:] not in ([], ["Normalize"]):
        raise BadInput(f"{folder}: {kinds[1]} behind a StaticEmbedding is not supported")
    path = folder / "config_sentence_transformers.json"
    similarity = (read_object(path).get("similarity_fn_name") if path.exists() else None) or "cosine"
    if len(kinds) == 1 and similarity != "cosine":
        raise BadInput(f"{folder}: a StaticEmbedding compared by {similarity} is not supported, only by cosine")
    return modules[0][0]


def read_modules(folder):
    """[(folder, kind)] of modules.json, in order. Code of a model's own is refused."""
    path = folder / "modules.json"
    try:
        found = [(folder / module["path"], module["type"]) for module in read_json(path)]
        own = [name for _, name in found if not name.startswith(("sentence_transformers.", OWN))]
    except (KeyError, TypeError, AttributeError):
        found, own = [], []
    if not found:
        raise BadInput(f"{path}: a list of modules, each with path and type, is wanted")
    if own:
        raise BadInput(f"{folder}: module {own[0]} is code of the model's own, which is refused")
    return [(place, name.rsplit(".", 1)[-1]) for place, name in found]


def pick_precision(device, requested, kind="transformer"):
    """The name in PRECISIONS of what `--precision` asks for, for an encoder of a kind on a torch.device.

    auto is bf16 for a transformer on cuda and on CPUs that multiply faster in it, which is measured: of two with
    AVX512-BF16, one multiplies at half the rate of fp32 and one at four times (docs/models.md).
    """
    if kind != "transformer":
        return "fp32"
    if requested != "auto":
        return requested
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    cpu = (able.get("avx512_bf16") or able.get("amx_bf16")) and bf16_gain() > FASTER
    return "bf16" if device.type == "cuda" or cpu else "fp32"


@functools.cache
def bf16_gain():
    """How many times as fast as in fp32 this CPU multiplies in bf16: one thread, the best of ten."""
    threads, best = torch.get_num_threads(), {torch.float32: [], torch.bfloat16: []}
    torch.set_num_threads(1)  # several vary more, by what else the machine does
    for _ in range(10):
        for dtype, seconds in best.items():
            a, b = torch.ones(512, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype)
            seconds.append(timeit.timeit(lambda a=a, b=b: F.linear(a, b), number=1))
    torch.set_num_threads(threads)
    return min(best[torch.float32]) / min(best[torch.bfloat16])


class Shortened(nn.Module):
    """An encoder whose vectors are their first `dim` numbers, as --dims trains it (Kusupati et al., NeurIPS 2022)."""

    def __init__(self, encoder, dim):
        super().__init__()
        if dim > encoder.dim:
            raise BadInput(f"--dim {dim}: the vectors have {encoder.dim} dimensions")
        self.encoder, self.dim = encoder, dim
        self.fingerprint = fingerprint(encoder.fingerprint, dim)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.encoder, name)

    def forward(self, batch):
        """A TokenBatch of n texts -> (n, dim), of length 1 again where the whole vectors are."""
        vectors = self.encoder(batch)[:, : self.dim]
        unit = self.encoder.kind == "static" or self.encoder.settings["normalize"]
        return F.normalize(vectors, dim=-1) if unit else vectors


def load_to_encode(folder, device, precision="auto", dim=None):
    """load_encoder() on a torch.device, ready to encode; its `.precision` is what pick_precision() says.

    auto is for the encoder of a run what it was trained and measured in. dim: how many numbers of each vector are kept.
    """
    encoder, config = load_encoder(folder), pathlib.Path(folder).parent / "config.json"
    if precision == "auto" and pathlib.Path(folder).name == "encoder" and config.exists():
        precision = (read_object(config).get("derived") or {}).get("precision", "auto")
    encoder.precision = pick_precision(device, precision, encoder.kind)
    encoder.set_device(device, PRECISIONS[encoder.precision])
    return encoder if dim in (None, encoder.dim) else Shortened(encoder, dim)


def local_folder(source):
    """The folder of a folder or of a hub name, which is downloaded; BadInput if there is none."""
    folder = pathlib.Path(source)
    if folder.is_dir():
        return folder
    if len(folder.parts) > 2 or folder.is_absolute():
        raise BadInput(f"{source}: no such folder")
    print(f"{source}: no folder here, asking the hub")
    try:  # only what is needed: some repositories hold the same weights in five formats
        files = huggingface_hub.list_repo_files(str(source))
        safe = any(SAFE.fullmatch(name) for name in files)  # else some modules' weights may be safe, and some not
        patterns = ["*.json", "*.txt", "*.model", "*.safetensors", *([] if safe else ["*.bin"])]
        return pathlib.Path(huggingface_hub.snapshot_download(str(source), allow_patterns=patterns))
    except Exception as error:  # of the network, of the hub, of the name
        reason = type(error).__name__
        raise BadInput(f"{source}: neither a folder nor to be had from the hub ({reason})") from None


def fingerprint_folder(folder):
    """Identifies the files of a model's folder, those behind links too, and of an adapter the model it is for."""
    files, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(place, name)) not in seen]
        seen |= {os.path.realpath(place), *(os.path.realpath(os.path.join(place, name)) for name in folders)}
        files += [pathlib.Path(place) / name for name in names]
    files = sorted(p for p in files if p.is_file() and p.name != "encoder.json" and p.suffix != ".md")
    found = [[str(p.relative_to(folder)), fingerprint_file(p)] for p in files]
    if (path := folder / "adapter_config.json").exists():
        config = read_object(path)
        name = str(config.get("base_model_name_or_path") or "")
        places = folder / name, pathlib.Path(name)  # a whole model: another adapter may name this one
        base = next((place for place in places if (place / "config.json").exists()), None)
        found.append(["its base", fingerprint_folder(base) if base else name, str(config.get("revision"))])
    return fingerprint(found)


def fingerprint_of_model(source):
    """fingerprint_folder() of a folder or hub name."""
    return fingerprint_folder(local_folder(source))


def describe(encoder):
    """What a reader of a run should know of the model: {name: value}."""
    if encoder.kind == "static":
        return {"kind": encoder.kind, "vocabulary": len(encoder.table), "dim": encoder.dim}
    backbone = encoder.doc_tower[0].model
    found = {"kind": type(backbone).__name__, "attention": backbone.config._attn_implementation, "dim": encoder.dim}
    names = ("pooling", "normalize", "query_prefix", "doc_prefix", "query_length", "doc_length", "unused_prompts")
    return found | {name: encoder.settings[name] for name in names if encoder.settings[name] not in ("", [])}


def averaged_twin(encoder, decay):
    """An AveragedModel of the encoder: an exponential average of its weights, which update_parameters() moves.

    The decay per step is lower at first: a short run would average its beginning.
    """

    @torch.no_grad()
    def update(averaged, current, count):
        warm = (1 + float(count)) / (10 + float(count))
        torch._foreach_lerp_(averaged, current, 1 - min(decay, warm))

    return AveragedModel(encoder, multi_avg_fn=update)


def weights_fingerprint(encoder):
    """16 hex digits over an encoder's weights as they stand."""
    return fingerprint(*(p.detach().cpu().numpy() for p in encoder.parameters()))


@torch.inference_mode()
def embed(encoder, tokens, rows=None, *, desc=None):
    """Vectors of `rows` of `tokens` (all by default), (n, D) float32. The one loop that embeds texts.

    Texts are visited in order of length, so that a block holds little padding, and returned in the order
    asked for. BadInput if a vector is not finite: every index, list and measure made of it would be wrong.
    """
    rows = np.arange(len(tokens)) if rows is None else np.asarray(rows)
    if not len(rows):
        return np.empty((0, encoder.dim), dtype=np.float32)
    lengths = tokens.lengths[rows]
    by_length = np.argsort(-lengths, kind="stable")  # longest first: memory peaks at the start
    block = np.cumsum(np.maximum(lengths[by_length], 1)) // (8 * encoder.block_tokens)
    cuts = np.flatnonzero(np.diff(block)) + 1
    out, finite = np.empty((len(rows), encoder.dim), dtype=np.float32), np.empty(len(rows), dtype=bool)
    was_training = encoder.training
    encoder.eval()
    with tqdm(total=len(rows), unit="text", unit_scale=True, desc=desc, delay=2, disable=desc is None) as bar:
        for part in np.split(by_length, cuts):
            out[part] = found = encoder(tokens.select(rows[part])).float().cpu().numpy()
            finite[part] = np.isfinite(found).all(1)
            bar.update(len(part))
    encoder.train(was_training)
    if not finite.all():
        bad = rows[~finite]
        names = [repr(tokens.names[row]) if tokens.names else f"number {row}" for row in bad[:3]]
        raise BadInput(
            f"the vectors of {len(bad):,} of {len(rows):,} texts ({tokens.kind}) are not finite: "
            f"{', '.join(names)}{' ...' if len(bad) > 3 else ''}; a wider --precision (bf16, fp32) may help, "
            "a model that was trained to nan does not"
        )
    return out


def embed_texts(encoder, texts, kind, *, desc=None):
    """(n, D) vectors of texts that need not belong to a collection: a sequence of str, as queries or docs."""
    return embed(encoder, Tokens(*encoder.tokenize(list(texts), kind), kind=kind), desc=desc)
