"""A start that knows words: the tokens of a static encoder's vocabulary, embedded by a transformer."""

import numpy as np
import tokenizers

from lib.files import BadInput, cache_dir, cached_array, fingerprint
from lib.model.encoder import embed_texts, load_encoder

CONTINUED = "##"  # what begins a piece inside of a word
MOST = 768  # dimensions where none are asked for


def vocabulary_of(source):
    """The tokenizer of a transformer for a bag of its tokens: without special tokens, padding and truncation."""
    teacher = load_encoder(source)
    if teacher.kind == "static":
        raise BadInput(f"--init {source}: is a static encoder; train it with --encoder {source}")
    tokenizer = tokenizers.Tokenizer.from_str(teacher.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.post_processor = tokenizers.processors.Sequence([])
    return tokenizer


def token_vectors(source, tokenizer, *, dim, device="cpu"):
    """(V, dim) float32: the unit vectors of a vocabulary's tokens by the model of a folder or hub name, made shorter.

    dim: None for as many as there are, up to MOST. Each token is embedded as a text of its own, as a doc, and the
    vectors are centred and turned into their first principal components (the idea of model2vec, Tulkens & van Dongen
    2024). Cached by model and vocabulary.
    """
    teacher = load_encoder(source).set_device(device)
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    dim = dim or min(MOST, teacher.dim, len(tokens))
    if dim > teacher.dim:
        raise BadInput(f"--dim {dim}: --init {source} has vectors of {teacher.dim} dimensions; ask for no more of them")
    if dim > len(tokens):
        raise BadInput(f"--dim {dim}: the vocabulary has {len(tokens)} tokens, which span no more dimensions")

    def make():
        texts = [token.removeprefix(CONTINUED) for token in tokens]
        vectors = embed_texts(teacher, texts, "doc", desc="embedding the vocabulary").astype(np.float64)
        vectors -= vectors.mean(0)
        _, _, axes = np.linalg.svd(vectors, full_matrices=False)
        signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])  # or they are the library's whim
        reduced = vectors @ (axes * signs[:, None])[:dim].T
        length = np.linalg.norm(reduced, axis=1, keepdims=True)
        return (reduced / np.maximum(length, 1e-9)).astype(np.float32)

    key = fingerprint("token vectors", 1, teacher.fingerprint, tokenizer.to_str(), dim)
    return cached_array(cache_dir("token-vectors", f"{key}.npy"), make)
