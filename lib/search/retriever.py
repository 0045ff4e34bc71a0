"""Opening what searches: one function for every script."""

import pathlib

from lib import dist
from lib.files import BadInput
from lib.model.encoder import load_to_encode
from lib.search import faiss_index
from lib.search.bm25 import BM25
from lib.search.sharded import Sharded


def open_retriever(spec, collection, *, device, exact_in=None, precision="fp32"):
    """The retriever that `spec` names: bm25, or a run folder, whose encoder searches its index.

    The index says in which precision its docs were encoded; queries are encoded in the same. exact_in: bytes
    of memory for exact search in place of the index, with vectors made in `precision` and cached: to mine.
    """
    if spec == "bm25":
        with dist.main_first():
            return BM25.load(collection.docs)
    folder = pathlib.Path(spec)
    if not (folder / "encoder").is_dir():
        raise BadInput(f"{spec}: neither bm25 nor a run folder with an encoder")
    if exact_in:
        encoder = load_to_encode(folder / "encoder", device, precision)
        return Sharded.open(collection.docs, encoder, precision=precision, max_ram=exact_in)
    place = folder / "index" / collection.name
    encoder = load_to_encode(folder / "encoder", device, faiss_index.read_meta(place)["precision"])
    index = faiss_index.load_index(place, encoder_fingerprint=encoder.fingerprint, collection=collection)
    return faiss_index.FaissRetriever(encoder, index)
