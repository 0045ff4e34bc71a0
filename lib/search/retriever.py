"""Opening what searches: one function for every script."""

import pathlib

from lib import dist
from lib.files import BadInput
from lib.model.encoder import fingerprint_folder, load_to_encode, local_folder
from lib.search import faiss_index
from lib.search.bm25 import BM25
from lib.search.fusion import Fusion
from lib.search.rerank import Reranker
from lib.search.sharded import Sharded
from lib.search.vectors import Vectors, is_folder_of_vectors

HELP = (
    "bm25; a run folder, whose index is searched, or exactly where it has none; a model's folder or hub name, "
    "searched exactly; a folder with queries.npy and docs.npy, vectors of any system; or two of them joined by +, "
    "whose scores are mixed"
)
RERANKED = 100  # docs that a cross-encoder reads where nothing else is asked for
EXACT_RAM = 1e9  # bytes for exact search where there is no index


def open_retriever(spec, collection, *, device, exact_in=None, precision="auto", mine_index=None, dim=None):
    """The retriever that `spec` names: see HELP.

    An index says in which precision its docs were encoded; queries are encoded in the same. exact_in: bytes
    of memory for exact search in place of the index, with vectors made in `precision` and cached: to mine.
    mine_index: an index string to search those vectors by, instead of exactly. dim: search exactly, by that many of
    each vector's numbers.
    """
    if dim and (spec == "bm25" or is_folder_of_vectors(spec)):
        raise BadInput(f"--dim is for a model's vectors, and this is {spec}")
    if spec == "bm25":
        with dist.main_first():
            return BM25.load(collection.docs)
    folder = pathlib.Path(spec)
    if str(spec).startswith("+") or str(spec).endswith("+"):
        raise BadInput(f"--retriever {spec}: two retrievers are joined by +, and here is one")
    if folder.is_file():
        raise BadInput(f"{spec}: a file is no retriever; evaluate.py --run_file measures one that holds rankings")
    if pair := parts(spec):
        return Fusion(
            [
                open_retriever(
                    part, collection, device=device, precision=precision, dim=dim if part != "bm25" else None
                )
                for part in pair
            ],
            names=pair,
        )
    if is_folder_of_vectors(spec):
        return Vectors.open(spec, collection, device=device)
    place = folder / "index" / collection.name
    if (folder / "encoder").is_dir():
        if (place / "meta.json").exists() and not exact_in and not dim:
            meta = faiss_index.read_meta(place)
            encoder = load_to_encode(folder / "encoder", device, meta["precision"], meta.get("dim"))
            index = faiss_index.load_index(place, encoder_fingerprint=encoder.fingerprint, collection=collection)
            about = {name: meta[name] for name in ("factory", "parameters", "dim") if meta.get(name)}
            return faiss_index.FaissRetriever(encoder, index, key=meta["digest"], about=about)
        source = folder / "encoder"
    else:
        if (folder / "config.json").exists() and (folder / "metrics.jsonl").exists():
            raise BadInput(f"{spec}: a run that has saved no encoder yet")
        try:
            if pathlib.Path("runs") in folder.parents and not folder.is_dir():  # a run, of which the hub knows nothing
                raise BadInput("no such folder, so no config.json")
            source = local_folder(spec)
        except BadInput as error:
            raise BadInput(f"{spec}: neither bm25 nor a run folder with an encoder nor a model ({error})") from None
    encoder = load_to_encode(source, device, precision, dim)
    return Sharded.open(
        collection.docs,
        encoder,
        precision=encoder.precision,
        max_ram=exact_in or EXACT_RAM,
        mine_index=mine_index,
        device=device,
    )


def open_mixed(
    spec,
    collection,
    *,
    tuned_weight,
    device,
    precision="auto",
    dim=None,
    fusion=None,
    normalise=None,
    weight=None,
    rerank=None,
    rerank_depth=None,
):
    """(retriever, {what was decided on the way}): open_retriever(), mixed and reranked as the flags say, or BadInput.

    tuned_weight(the Fusion, collection): the weight of the first of two retrievers where none is given.
    """
    retriever, notes = open_retriever(spec, collection, device=device, precision=precision, dim=dim), {}
    flags = {"fusion": fusion, "normalise": normalise, "weight": weight}
    idle, why = flags, f"is for two retrievers joined by +, and this is {spec}"
    if isinstance(retriever, Fusion):
        retriever.how = notes["fusion"] = fusion or "convex"
        if retriever.how == "convex":
            retriever.normalise = normalise or "min_max"
            retriever.weight = tuned_weight(retriever, collection) if weight is None else weight
            notes |= {"normalise": retriever.normalise, "weight": round(float(retriever.weight), 4)}
            notes["weight_from"] = "dev" if weight is None else "--weight"
            idle = {}
        else:
            idle, why = flags | {"fusion": None}, "plays no part with --fusion rrf, which knows ranks only"
    if unused := [name for name in idle if idle[name] is not None]:
        raise BadInput(f"--{unused[0]} {why}")
    if rerank_depth and not rerank:
        raise BadInput("--rerank_depth needs --rerank")
    if rerank:
        from lib.model.cross_encoder import CrossEncoder  # here: its library takes seconds to import

        judge = CrossEncoder(rerank, device=device)
        retriever = Reranker(retriever, judge, collection.docs, depth=rerank_depth or RERANKED)
        notes |= {"rerank": rerank, "rerank_depth": retriever.depth}
    return retriever, notes


def fingerprint_of(spec):
    """Identifies what `spec` names by its content, without opening it on a collection."""
    if spec == "bm25":
        return spec
    folder = pathlib.Path(spec)
    if (folder / "encoder").is_dir():
        return fingerprint_folder(folder / "encoder")
    return fingerprint_folder(folder if is_folder_of_vectors(spec) else local_folder(spec))


def run_of(spec):
    """The run folder that a spec names, by itself or as one of two; None if it names none."""
    found = [part for part in parts(spec) or [spec] if (pathlib.Path(part) / "encoder").is_dir()]
    return pathlib.Path(found[0]) if found else None


def parts(spec):
    """The two retrievers that a spec joins by +, the second as short as may be; None if it joins none."""
    if pathlib.Path(spec).is_dir():  # names of runs hold a + as well
        return None
    left, plus, right = spec.rpartition("+")
    while plus:
        if all(part == "bm25" or pathlib.Path(part).is_dir() for part in (left, right)):
            return left, right
        left, plus, rest = left.rpartition("+")
        right = f"{rest}+{right}"
    parts = spec.split("+")
    if len(parts) == 2 and "bm25" in parts and all(parts):  # the other is a hub name, or a folder that is not there
        return tuple(parts)
    return None
