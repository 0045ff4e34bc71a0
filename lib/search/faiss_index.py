"""FAISS indexes: built from a factory string, written with the record of what they were made from, searched."""

import functools
import pathlib
import re
import resource
import signal
import subprocess
import sys
import tempfile

import faiss
import numpy as np
from tqdm import tqdm

from lib import rng
from lib.files import BadInput, atomic_path, check_keys, fingerprint_file, read_json, reading, write_json
from lib.model.encoder import embed_texts
from lib.run import ROOT
from lib.search.exact import TIES, by_score_and_row, pair_scores, pieces, without_zeros
from lib.search.hits import Hits

AMONG_SOME = "this index cannot be searched among some docs only; Flat, HNSW32 or IVF256,Flat can"
META = ("encoder_fingerprint", "corpus_fingerprint", "precision", "digest")  # what a loader compares
SAMPLE = 65_536  # vectors that an index is trained on, at least, where there are so many
OF_A_CELL = 64  # of them for each cell of an inverted file
BLOCK = 65_536  # vectors that are added at a time
MOST = {"HNSW": 1024, "NSG": 1024}  # of a vector's neighbours, which are so many numbers for each
MOST_OTHERS = 1 << 20  # of every other number of a factory string
TRIAL, TRIAL_CELLS, TRIAL_S, TRIAL_BYTES = 400, 128, 30, 8 << 30  # vectors and cells, seconds and memory of a trial
# shapes that are known to work, or to fail in words: they are not tried first
KNOWN = re.compile(
    r"(IVF[1-9]\d*,)?(Flat|SQ[468]|SQfp16|RaBitQ|PQ\d+|PQ\d+x4fs,RFlat)(,RFlat)?|HNSW([2-9]|\d{2,})([,_](Flat|SQ8))?"
)


def make_index(vectors, factory="Flat", *, among=None, desc=None):
    """A FAISS index for inner products of vectors (a ShardedVectors or Array), by a string of faiss.index_factory().

    What has to be trained is trained on a sample, then all vectors, or those of the rows `among`, are added piece by
    piece. BadInput if FAISS knows no such index, or cannot train it on so few vectors.
    """
    n, dim = vectors.shape
    rows = np.arange(n) if among is None else among
    index = empty_index(dim, factory)
    bar = tqdm(total=len(rows), unit="doc", unit_scale=True, desc=desc, delay=2, disable=desc is None)
    try:
        if not index.is_trained:
            sample = rng.permutation(len(rows), "index", 0)[: max(SAMPLE, OF_A_CELL * cells(index))]
            index.train(vectors.take(rows[np.sort(sample)]))
        with bar:
            for _, block in pieces(vectors, BLOCK, among):
                index.add(np.ascontiguousarray(block))
                bar.update(len(block))
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"index {factory}: {reason(error)} ({len(rows):,} vectors)") from None
    return index


def empty_index(dim, factory):
    """The index of a string of faiss.index_factory() for `dim` dimensions, untrained; BadInput if there is none."""
    for name, number in re.findall(r"([A-Za-z]*)(\d+)", factory):
        if len(number) > 9 or int(number) > MOST.get(name, MOST_OTHERS):
            raise BadInput(f"index {factory}: {name}{number} is more than {MOST.get(name, MOST_OTHERS):,}")
    try:
        if not KNOWN.fullmatch(factory):
            _try(dim, factory)
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"index {factory}: {reason(error)} ({dim} dimensions)") from None


@functools.cache
def _try(dim, factory):
    """BadInput if a process of its own cannot build, store and search such an index.

    FAISS ends the process, or never returns, over strings that its parser takes (HNSW1, RR0,Flat, NSG0): only a trial
    shows it. What takes long in it is made small: the cells of an inverted file, the bits of a quantizer.
    """
    small = re.sub(r"(?<=IVF)\d+", lambda found: str(min(int(found[0]), TRIAL_CELLS)), factory)
    small = re.sub(r"(?<![A-Z])(PQ\d+)(?![\dx])", r"\1x4", re.sub(r"(?<=\dx)([5-9]|1\d)(?!\d)", "4", small))
    code = "import sys; from lib.search.faiss_index import trial; trial(int(sys.argv[1]), sys.argv[2])"
    made = subprocess.run([sys.executable, "-c", code, str(dim), small], cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        last = made.stderr.strip().rpartition("\n")[2] if made.returncode > 0 else signal.strsignal(-made.returncode)
        last = f"no end after {TRIAL_S} s" if made.returncode == -signal.SIGALRM else last
        raise BadInput(f"index {factory}: FAISS cannot build and search it with {dim} dimensions ({last})")


def trial(dim, factory):
    """Build, store and search an index over a few vectors; ends the process with a line where that fails."""
    resource.setrlimit(resource.RLIMIT_DATA, (TRIAL_BYTES, TRIAL_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(TRIAL_S)
    vectors = rng.uniform("trial", np.arange(TRIAL)[:, None], np.arange(dim)).astype(np.float32) - 0.5
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        search(index, vectors[:5], 5)
        with tempfile.TemporaryDirectory() as folder:
            path = str(pathlib.Path(folder) / "index")
            faiss.write_index(index, path)
            index = faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
            search(index, vectors[:5], 5, known=np.arange(5)[:, None])
    except (RuntimeError, AssertionError) as error:
        if "training points" not in str(error):  # whether there are enough, the vectors themselves will tell
            sys.exit(reason(error))
    except MemoryError:
        sys.exit("more memory than there is")


def reason(error):
    """What FAISS complains of, without where in its source."""
    if "add_with_ids" in str(error):
        return "ids are kept beside the index: leave IDMap out"
    return str(error).strip().splitlines()[-1].rpartition("Error: ")[2].rpartition(".cpp:")[2]


def cells(index):
    """The number of lists of an inverted file, 0 for another index."""
    try:
        return faiss.extract_index_ivf(index).nlist
    except RuntimeError:
        return 0


def set_parameters(index, text):
    """Set what a search trades for time, as in nprobe=16,k_factor_rf=4; BadInput if the index has none of that name."""
    try:
        if text:
            faiss.ParameterSpace().set_index_parameters(index, text)
    except RuntimeError as error:
        raise BadInput(f"{text}: no parameters of this index ({str(error).splitlines()[-1][-80:]})") from None


def save_index(index, folder, meta, *, also=()):
    """Write an index with what it was made from; also: functions of the folder that write what belongs to it.

    `meta` holds the fingerprints that a loader compares.
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        faiss.write_index(index, str(temporary / "index.faiss"))
        for function in also:
            function(temporary)
        meta |= {"docs": index.ntotal, "dim": index.d, "digest": fingerprint_file(temporary / "index.faiss")}
        meta["bytes"] = (temporary / "index.faiss").stat().st_size
        write_json(temporary / "meta.json", meta)


def read_meta(folder):
    """What an index was made from; BadInput if there is no index."""
    if not (folder / "meta.json").exists():
        raise BadInput(f"{folder}: no index; make it with build_index.py")
    meta = read_json(folder / "meta.json", **dict.fromkeys(META, str))
    check_keys(meta | {"dim": meta.get("dim", 1)}, folder / "meta.json", dim=int)
    return meta


def load_index(folder, *, encoder_fingerprint, collection):
    """The index of a folder, mapped from disk; BadInput if another encoder or another corpus made it."""
    meta = read_meta(folder)
    for key, wanted in (
        ("encoder_fingerprint", encoder_fingerprint),
        ("corpus_fingerprint", collection.docs.fingerprint),
    ):
        if meta[key] != wanted:
            raise BadInput(f"{folder}: the index was made with {key} {meta[key]}, this one is {wanted}; build it again")
    path = folder / "index.faiss"
    with reading(path):  # FAISS believes what it reads: a file that was changed can make it write anywhere
        if fingerprint_file(path) != meta["digest"]:
            raise BadInput(f"{path}: is not the file that meta.json describes (its digest differs); build it again")
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
    if index.ntotal != len(collection.docs):
        raise BadInput(f"{folder}: {index.ntotal} vectors for {len(collection.docs)} docs; build it again")
    set_parameters(index, meta.get("parameters", ""))
    return index


class FaissRetriever:
    """Searches an index with the encoder that made it, in the precision in which the docs were encoded."""

    def __init__(self, encoder, index, *, key="flat", about=None):
        self.encoder, self.index = encoder, index
        self.about = about or {}  # what a reader of results should know
        self.fingerprint = f"{encoder.fingerprint}-{key}"

    def search(self, queries, k, known=None, among=None):
        """The Hits of query texts; scores of known docs are those of the vectors that the index holds."""
        q_emb = embed_texts(self.encoder, queries, "query", desc="embedding queries")
        return search(self.index, q_emb, k, known, among)


def search(index, q_emb, k, known=None, among=None):
    """The Hits of query vectors (Q, D) in an index; equal scores, as of copies, in the order of their rows."""
    size = index.ntotal if among is None else len(among)
    k = min(k, size)
    how = None if among is None else _only(index, among)
    try:
        found = index.search(np.ascontiguousarray(q_emb), min(k + TIES, size), params=how)
    except RuntimeError as error:
        if among is None:
            raise
        raise BadInput(f"{AMONG_SOME} ({reason(error)})") from None
    scores, rows = by_score_and_row(*found)
    scores, rows = np.where(rows < 0, np.float32(0), scores)[:, :k], rows[:, :k]
    held = functools.partial(reconstruct, index)
    scores, rows = without_zeros(q_emb, scores, rows, held)
    return Hits(scores, rows, None if known is None else pair_scores(q_emb, held, known))


def reconstruct(index, rows):
    """(n, D) vectors of `rows` as the index holds them: those it has compressed come back with what that lost."""
    if hasattr(found := faiss.downcast_index(index), "refine_index"):
        return reconstruct(found.refine_index, rows)
    if cells(index):
        faiss.extract_index_ivf(index).make_direct_map()
    return index.reconstruct_batch(np.asarray(rows, dtype=np.int64))


def _only(index, rows):
    """FAISS's parameters of a search among some rows, the index's own otherwise."""
    selector, found = faiss.IDSelectorBatch(np.asarray(rows, dtype=np.int64)), faiss.downcast_index(index)
    if hasattr(found, "hnsw"):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=found.hnsw.efSearch)
    if hasattr(found, "nprobe"):
        return faiss.SearchParametersIVF(sel=selector, nprobe=found.nprobe)
    if hasattr(found, "refine_index") or hasattr(found, "chain"):
        raise BadInput(AMONG_SOME)
    return faiss.SearchParameters(sel=selector)
