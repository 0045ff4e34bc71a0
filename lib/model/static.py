"""The static encoder, a bag of learned token vectors, and the vocabulary that it is made from."""

import numpy as np
import safetensors.torch
import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import models, normalizers, pre_tokenizers, trainers
from torch import nn

from lib.data.tokens import TokenBatch, tokenize
from lib.files import BadInput, cache_dir, cached, fingerprint, write_json
from lib.model.word_cache import WordCache

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
        trainer = trainers.WordPieceTrainer(
            vocab_size=size, min_frequency=2, show_progress=False, special_tokens=special
        )
        tokenizer.train_from_iterator(texts(), trainer)
        return tokenizer.get_vocab()

    alphabet = sorted(token for token in train(1, []) if token.startswith("##"))
    vocab = train(vocab_size, alphabet)
    return _wordpiece(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=64))


def _wordpiece(wordpiece):
    tokenizer = tokenizers.Tokenizer(wordpiece)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(tokenizers.Regex(CAMEL_CASE), " "),
            normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[^\W_]+"), "removed", invert=True)
    return tokenizer


def load_or_train_wordpiece(texts, *, vocab_size, key):
    """train_wordpiece(), cached by `key`, which must identify the texts."""
    rules = _wordpiece(models.WordPiece()).to_str()

    def read(path):
        return tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))

    path = cache_dir("wordpiece", fingerprint(key, vocab_size, rules) + ".json")
    return cached(path, lambda temporary: train_wordpiece(texts, vocab_size=vocab_size).save(str(temporary)), read)


def ids_of(tokenizer):
    """How many vectors a tokenizer's tokens need: one more than their highest id, as ids may have gaps."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def read_weights(folder):
    """{name: tensor} of model.safetensors or else of pytorch_model.bin, which may hold tensors only."""
    if (folder / "model.safetensors").exists():
        return safetensors.torch.load_file(folder / "model.safetensors")
    path = folder / "pytorch_model.bin"
    if not path.exists():
        raise BadInput(f"{folder}: neither model.safetensors nor pytorch_model.bin")
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever a hostile or broken pickle raises
        raise BadInput(f"{path}: no file of tensors ({type(error).__name__})") from None


class StaticEncoder(nn.Module):
    """A bag of tokens: the normalised sum of one learned vector per token, whose length says how much it counts.

    It trains from scratch in a minute on a laptop and embeds tens of thousands of docs per second, which
    makes it the instrument for comparing negatives; what it cannot see is word order.
    """

    kind = "static"
    dtype = None  # of autocast
    block_tokens = 1 << 15  # embed() takes 8 times as many tokens per call: enough to keep all cores busy

    def __init__(self, tokenizer, *, dim, rows=None):
        super().__init__()
        self.tokenizer, self.dim, self._words = tokenizer, dim, WordCache(tokenizer)
        self.table = nn.Parameter(torch.empty(rows or ids_of(tokenizer), dim))

    def init_weights(self, *, seed, idf, directions=None):
        """Directions (V, D), or random ones from `seed`, of length idf (V,): untrained scores resemble TF-IDF."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            if directions is None:
                self.table.normal_(0.0, self.dim**-0.5, generator=generator)
            else:
                self.table.copy_(torch.as_tensor(directions))
            self.table.mul_(torch.as_tensor(idf, dtype=self.table.dtype)[:, None])

    def set_device(self, device, dtype=None):
        """Move to a device. Sums of token vectors gain nothing from autocast: `dtype` plays no part."""
        return self.to(device)

    def compile_backbone(self):
        """Nothing to compile: one kernel does the work."""

    def checkpoint_activations(self):
        """Nothing to recompute: a bag keeps no activations worth the name."""

    def forward(self, batch):
        """A TokenBatch of n texts -> (n, D) unit vectors, whatever its kind."""
        ids, offsets, counts = (x.to(self.table.device) for x in batch[:3])
        bags = F.embedding_bag(ids, self.table, offsets[:-1], mode="sum", per_sample_weights=counts)
        return F.normalize(bags, dim=-1)  # (n, D)

    def both(self, queries, docs):
        """Vectors of queries and of docs in one pass: one gradient of the table, not two to add up."""
        offsets = torch.cat([queries.offsets, docs.offsets[1:] + queries.offsets[-1]])
        vectors = self(
            TokenBatch(torch.cat([queries.ids, docs.ids]), offsets, torch.cat([queries.counts, docs.counts]), "doc")
        )
        return vectors.split([len(queries.offsets) - 1, len(docs.offsets) - 1])

    def token_key(self, kind):
        """Identifies how texts become tokens: equal keys, equal tokens. Both kinds of text are alike here."""
        return fingerprint("static-bags-of-known-words", self.tokenizer.to_str())

    def tokenize(self, texts, kind="doc"):
        """(ids (T,) int32, offsets (n + 1,) int64, counts (T,) uint16): the different tokens of each text.

        None of a text without a known word: what all unknown words share says nothing of it.
        """
        flat, lengths = self._words.encode(texts)
        vocab = self.table.shape[0]
        owners = np.repeat(np.arange(len(texts)), lengths)
        known = np.bincount(owners[flat != self._words.unknown], minlength=len(texts)) > 0
        keys, counts = np.unique((owners * vocab + flat)[known[owners]], return_counts=True)
        offsets = np.searchsorted(keys, np.arange(len(texts) + 1) * vocab)
        return (keys % vocab).astype(np.int32), offsets, np.minimum(counts, 65535).astype(np.uint16)

    def write(self, folder):
        """Write the encoder's files, as sentence-transformers reads them."""
        table = self.table.detach().float().cpu().contiguous()
        safetensors.torch.save_file({"embedding.weight": table}, folder / "model.safetensors")
        self.tokenizer.save(str(folder / "tokenizer.json"))
        write_json(
            folder / "modules.json",
            [
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"},
                {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
            ],
        )
        (folder / "1_Normalize").mkdir()
        write_json(folder / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})

    @classmethod
    def read(cls, folder):
        """The encoder of a folder in our format, sentence-transformers' or model2vec's."""
        weights = read_weights(folder)
        if "embedding.weight" in weights:
            table = weights["embedding.weight"].float()
        elif "embeddings" in weights:  # model2vec: rows that several tokens may share, and a weight for each token
            table = weights["embeddings"].float()
            if "mapping" in weights:
                table = table[weights["mapping"].long()]
            if "weights" in weights:
                table = table * weights["weights"].float()[:, None]
        else:
            raise BadInput(f"{folder}: neither embedding.weight nor embeddings among the weights: {', '.join(weights)}")
        if not (folder / "tokenizer.json").exists():
            raise BadInput(f"{folder}: no tokenizer.json")
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()  # or padding's vector would be part of each short text
        if len(table) < ids_of(tokenizer):
            raise BadInput(
                f"{folder}: {len(table)} vectors for tokens up to id {ids_of(tokenizer) - 1}; "
                "the files do not belong together"
            )
        if not torch.isfinite(table).all():
            raise BadInput(f"{folder}: the table holds values that are not finite")
        encoder = cls(tokenizer, dim=table.shape[1], rows=len(table))
        with torch.no_grad():
            encoder.table.copy_(table)
        return encoder


def new_static(collection, *, dim, vocab_size, seed, tokenizer=None, directions=None):
    """A static encoder to train: idf and, without a tokenizer, the vocabulary are of a collection's training side.

    directions(tokenizer) gives the (V, D) unit vectors to start from, random ones of length `dim` by default.
    """
    qrels = collection.split("train")
    doc_rows = np.unique(qrels.docs[qrels.grades >= 1])  # docs of dev and test queries play no part
    if tokenizer is None:
        sides = ((collection.queries, qrels.queries), (collection.docs, doc_rows))
        tokenizer = load_or_train_wordpiece(
            lambda: (texts.text(row) for texts, rows in sides for row in rows),
            vocab_size=vocab_size,
            key=collection.fingerprint,
        )
    start = directions and directions(tokenizer)
    encoder = StaticEncoder(tokenizer, dim=dim if start is None else start.shape[1])
    ids = tokenize(collection.docs, encoder, "doc").select(doc_rows).ids
    document_frequency = np.bincount(ids.numpy(), minlength=len(encoder.table))
    idf = np.log((1 + len(doc_rows)) / (1 + document_frequency))
    encoder.init_weights(seed=seed, idf=idf, directions=start)
    return encoder
