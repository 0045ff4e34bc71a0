"""Encoders: texts -> vectors. What an encoder needs to embed (tokenizer, settings) is saved with its weights.

Folders are in sentence-transformers layout: `SentenceTransformer(folder)` gives the same vectors.
"""
import pathlib

import huggingface_hub
import numpy as np
import safetensors.torch
import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import models, normalizers, pre_tokenizers, trainers
from torch import nn
from tqdm import tqdm

from lib.run import BadInput, atomic_path, cache_dir, fingerprint, fingerprint_file, read_json, write_json
from lib.transformer import TransformerEncoder

# a word ends where camelCase turns a corner: "getHTTPResponse" and "get http response" share their words
CAMEL_CASE = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"


def train_wordpiece(texts, *, vocab_size):
    """A WordPiece tokenizer: lower case, accents off, punctuation dropped. texts() yields the texts anew.

    The library numbers the pieces inside of words in an order that changes from process to process, and
    breaks ties by number. Naming them beforehand, in the order of the alphabet, makes equal texts give equal
    vocabularies.
    """
    def train(size, pieces):
        tokenizer = _wordpiece(models.WordPiece(unk_token="[UNK]"))
        special = ["[PAD]", "[UNK]", *pieces]
        trainer = trainers.WordPieceTrainer(vocab_size=size, min_frequency=2, show_progress=False,
                                            special_tokens=special)
        tokenizer.train_from_iterator(texts(), trainer)
        return tokenizer.get_vocab()
    alphabet = sorted(token for token in train(1, []) if token.startswith("##"))
    vocab = train(vocab_size, alphabet)
    return _wordpiece(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=64))


def _wordpiece(wordpiece):
    tokenizer = tokenizers.Tokenizer(wordpiece)
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Replace(tokenizers.Regex(CAMEL_CASE), " "),
        normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=True,
                                   lowercase=True)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[^\W_]+"), "removed", invert=True)
    return tokenizer


def load_or_train_wordpiece(texts, *, vocab_size, key):
    """train_wordpiece(), cached by `key`, which must identify the texts."""
    rules = _wordpiece(models.WordPiece()).to_str()
    path = cache_dir("wordpiece", fingerprint(key, vocab_size, rules) + ".json")
    if not path.exists():
        tokenizer = train_wordpiece(texts, vocab_size=vocab_size)
        with atomic_path(path) as temporary:
            tokenizer.save(str(temporary))
    return tokenizers.Tokenizer.from_file(str(path))


class StaticEncoder(nn.Module):
    """A bag of tokens: the normalised sum of one learned vector per token, each scaled by a learned weight.

    It trains from scratch in a minute on a laptop and embeds tens of thousands of docs per second, which
    makes it the instrument for comparing negatives; what it cannot see is word order.
    """
    kind = "static"
    block_tokens = 1 << 15  # embed() takes 8 times as many tokens per call: enough to keep all cores busy

    def __init__(self, tokenizer, *, dim):
        super().__init__()
        self.tokenizer, self.dim = tokenizer, dim
        vocab = tokenizer.get_vocab_size()
        self.table = nn.Parameter(torch.empty(vocab, dim))
        self.weight = nn.Parameter(torch.empty(vocab))

    def init_weights(self, *, seed, idf):
        """Random directions from `seed`; weights start at idf (V,): untrained scores resemble TF-IDF."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.table.normal_(0.0, self.dim ** -0.5, generator=generator)
            self.weight.copy_(torch.as_tensor(idf))

    def set_device(self, device, dtype=None):
        """Move to a device. Sums of token vectors gain nothing from autocast: `dtype` plays no part."""
        return self.to(device)

    def compile_backbone(self):
        """Nothing to compile: one kernel does the work."""

    def checkpoint_activations(self):
        """Nothing to recompute: a bag keeps no activations worth the name."""

    def forward(self, ids, offsets, counts, kind="doc"):
        """ids (T,) int32, offsets (n + 1,) int32, counts (T,) float -> (n, D) unit vectors, for any kind."""
        ids, offsets, counts = (x.to(self.table.device) for x in (ids, offsets, counts))
        weights = self.weight.index_select(0, ids) * counts                                             # (T,)
        bags = F.embedding_bag(ids, self.table, offsets[:-1], mode="sum", per_sample_weights=weights)
        return F.normalize(bags, dim=-1)                                                # (n, D)

    def both(self, queries, docs):
        """Vectors of queries and of docs in one pass: one gradient of the table, not two to add up."""
        (q_ids, q_offsets, q_counts, _), (d_ids, d_offsets, d_counts, _) = queries, docs
        offsets = torch.cat([q_offsets, d_offsets[1:] + q_offsets[-1]])
        vectors = self(torch.cat([q_ids, d_ids]), offsets, torch.cat([q_counts, d_counts]))
        return vectors.split([len(q_offsets) - 1, len(d_offsets) - 1])

    def token_key(self, kind):
        """Identifies how texts become tokens: equal keys, equal tokens. Both kinds of text are alike here."""
        return fingerprint("static-bags", self.tokenizer.to_str())

    def tokenize(self, texts, kind="doc"):
        """(ids (T,) int32, offsets (n + 1,) int64, counts (T,) uint16): the different tokens of each text."""
        encoded = [e.ids for e in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        flat = np.fromiter((i for ids in encoded for i in ids), dtype=np.int64, count=lengths.sum())
        vocab = self.table.shape[0]
        owners = np.repeat(np.arange(len(texts)), lengths)
        keys, counts = np.unique(owners * vocab + flat, return_counts=True)
        offsets = np.searchsorted(keys, np.arange(len(texts) + 1) * vocab)
        return (keys % vocab).astype(np.int32), offsets, np.minimum(counts, 65535).astype(np.uint16)

    def write(self, folder):
        """Write the encoder's files: weights folded into the table, which sentence-transformers reads."""
        folded = (self.table * self.weight[:, None]).detach().float().cpu().contiguous()
        safetensors.torch.save_file({"embedding.weight": folded}, folder / "model.safetensors")
        self.tokenizer.save(str(folder / "tokenizer.json"))
        write_json(folder / "modules.json", [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"},
            {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}])
        (folder / "1_Normalize").mkdir()
        write_json(folder / "config_sentence_transformers.json",
                   {"prompts": {}, "similarity_fn_name": "cosine"})

    @classmethod
    def read(cls, folder):
        """The encoder of a folder; its token weights are 1, since they are folded into the table."""
        table = safetensors.torch.load_file(folder / "model.safetensors")["embedding.weight"]
        encoder = cls(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), dim=table.shape[1])
        if encoder.table.shape != table.shape:
            raise BadInput(f"{folder}: {table.shape[0]} vectors for {encoder.table.shape[0]} tokens; "
                           "the files do not belong together")
        with torch.no_grad():
            encoder.table.copy_(table)
            encoder.weight.fill_(1.0)
        return encoder


PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_to_encode(folder, device, dtype="fp32"):
    """load_encoder() on a device, ready to encode in a precision of PRECISIONS or, on the CPU, in int8."""
    encoder, device = load_encoder(folder), pick_device(device)
    if dtype == "int8" and (encoder.kind != "transformer" or device.type != "cpu"):
        raise BadInput(f"--encode_dtype int8 is for transformers on the CPU, not {encoder.kind} on {device}")
    encoder.set_device(device, PRECISIONS.get(dtype))
    return encoder.quantize() if dtype == "int8" else encoder


# --------------------------------------------------------------------------------------------- save and load

def save_encoder(encoder, folder):
    """Write an encoder atomically, with encoder.json naming its kind, size and fingerprint."""
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        encoder.write(temporary)
        write_json(temporary / "encoder.json", {"kind": encoder.kind, "dim": encoder.dim,
                                                "fingerprint": _fingerprint_folder(temporary)})


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
    found = _fingerprint_folder(folder)
    if (folder / "encoder.json").exists():
        info = read_json(folder / "encoder.json")
        if found != info["fingerprint"]:
            raise BadInput(f"{folder}: encoder.json says fingerprint {info['fingerprint']}, the files give "
                           f"{found}: they were changed after training")
    modules = read_json(folder / "modules.json") if (folder / "modules.json").exists() else []
    if modules and modules[0]["type"].endswith("StaticEmbedding"):
        if any(options.values()):
            flags = ", ".join(name for name, value in options.items() if value)
            raise BadInput(f"{folder}: a static encoder takes no {flags}")
        encoder = StaticEncoder.read(folder / modules[0]["path"])
    else:
        encoder = TransformerEncoder.read(folder, seed=seed, **options)
    encoder.fingerprint = found
    return encoder.eval()


def local_folder(source):
    """The folder of a folder or of a hub name, which is downloaded; BadInput if there is none."""
    folder = pathlib.Path(source)
    if folder.is_dir():
        return folder
    if len(folder.parts) > 2 or folder.is_absolute():
        raise BadInput(f"{source}: no such folder")
    try:  # only what is needed: some repositories hold the same weights in five formats
        return pathlib.Path(huggingface_hub.snapshot_download(
            str(source), allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = type(error).__name__
        raise BadInput(f"{source}: neither a folder nor to be had from the hub ({reason})") from None


def _fingerprint_folder(folder):
    files = sorted(p for p in folder.rglob("*")
                   if p.is_file() and p.name != "encoder.json" and p.suffix != ".md")
    return fingerprint([[str(p.relative_to(folder)), fingerprint_file(p)] for p in files])


@torch.inference_mode()
def embed(encoder, tokens, rows=None, *, desc=None):
    """Vectors of `rows` of `tokens` (all by default), (n, D) float32. The one loop that embeds texts.

    Texts are visited in order of length, so that a block holds little padding, and returned in the order
    asked for.
    """
    rows = np.arange(len(tokens)) if rows is None else np.asarray(rows)
    if not len(rows):
        return np.empty((0, encoder.dim), dtype=np.float32)
    lengths = tokens.lengths[rows]
    by_length = np.argsort(-lengths, kind="stable")  # longest first: memory peaks at the start
    block = np.cumsum(np.maximum(lengths[by_length], 1)) // (8 * encoder.block_tokens)
    cuts = np.flatnonzero(np.diff(block)) + 1
    out = np.empty((len(rows), encoder.dim), dtype=np.float32)
    was_training = encoder.training
    encoder.eval()
    with tqdm(total=len(rows), unit="text", unit_scale=True, desc=desc, delay=2, disable=desc is None) as bar:
        for part in np.split(by_length, cuts):
            out[part] = encoder(*tokens.select(rows[part])).float().cpu().numpy()
            bar.update(len(part))
    encoder.train(was_training)
    return out
