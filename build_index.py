"""Embed a collection with a run's encoder and write a FAISS index of it, tuned to a recall on real queries.

    python build_index.py --run runs/R                            # the collection that the run was trained on
    python build_index.py --run runs/R --data FOLDER              # another one
    python build_index.py --run runs/R --index HNSW32 --target_recall .95
    python build_index.py --run runs/R --index IVF4096,PQ64x4fs,RFlat

--index takes any string of faiss.index_factory(), or auto, which decides by the number of docs, the memory and the
queries to come, and says why. The index lies under the encoder that made it, runs/R/index/COLLECTION/, with the
fingerprints of both and, where search can trade accuracy for time, the curve of that as a table and a figure.
"""

import dataclasses
import pathlib

import faiss
import numpy as np

from lib import cli, process, rng, run
from lib.data import readers
from lib.data.collection import collection_of
from lib.data.tokens import cut_note
from lib.evaluation import plots
from lib.files import BadInput, write_json
from lib.model.encoder import PRECISION_FLAG, PRECISION_HELP, embed_texts, load_to_encode, pick_device
from lib.search import faiss_index, tune
from lib.search import vectors as vector_files
from lib.search.sharded import Sharded

QUERIES = 1000  # that an index is tuned on, and as many that are kept aside


# fmt: off
def parse_args():
    parser = cli.Parser(__doc__)
    add = parser.group("what")
    add("--run", required=True, help="run folder of train.py")
    add("--data", help=f"{readers.HELP}; default: the run's own")
    add("--strict", action="store_true", help=readers.STRICT)
    add("--precision", choices=PRECISION_FLAG, default="auto", help=f"of the docs' vectors and of queries when it "
        f"searches; {PRECISION_HELP}")
    add("--dim", type=cli.COUNT, metavar="D", help="keep the first D numbers of each vector, for a model that was "
        "trained with --dims")
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--overwrite", action="store_true", help="replace the index, or what --export names, if it exists")
    add("--export", metavar="FOLDER|FILE.parquet", help="write the vectors for other systems, in place of an index: a "
        "folder of .npy files and ids, or ids, texts, metadata and vectors as Parquet")
    add = parser.group("index", excludes="export")
    add("--index", default="auto", metavar="auto|STRING", help="a string of faiss.index_factory(), such as Flat, "
        "HNSW32, IVF1024,SQ8 or PQ64x4fs,RFlat; auto decides by the numbers below")
    add("--target_recall", type=cli.number(float, above=0, most=1), default=0.95, metavar="SHARE", help=f"of the "
        f"{tune.K} best docs, for queries of the collection: the fastest setting that finds as many is kept")
    add("--expected_queries", type=cli.COUNT, default=100_000, metavar="N", help="that the index will answer one at "
        "a time: whether building anything but a flat index pays back")
    add("--max_ram", type=cli.GIGABYTES, default=4.0, metavar="GB", help="memory that the index may take")
    args = parser.parse_args()
    parser.check(args)
    return args, parser


# fmt: on


def main():
    args, parser = parse_args()
    folder, device = pathlib.Path(args.run), pick_device(args.device)
    spec, collection = collection_of(args.data, folder, strict=args.strict)
    encoder = load_to_encode(folder / "encoder", device, args.precision, args.dim)
    if args.index != "auto":
        faiss_index.empty_index(encoder.dim, args.index)  # a string that names none is refused before docs are embedded
    target = pathlib.Path(args.export or folder / "index" / collection.name)
    if args.export:
        vector_files.check_place(target)
    if target.exists() and not args.overwrite:
        raise BadInput(f"{target} exists: --overwrite it")
    size = {"docs": len(collection.docs), "dim": encoder.dim, "precision": encoder.precision}
    size |= {"vectors_mb": round(4e-6 * len(collection.docs) * encoder.dim, 1)}
    begun = "exporting" if args.export else "indexing"
    cli.print_header(f"{begun} {collection.name} with {folder}/encoder -> {target}", args, parser, size)
    if said := cut_note(encoder, collection.docs):
        print(said)
    clock = run.Clock()
    with clock("vectors"):
        vectors = Sharded.open(collection.docs, encoder, precision=encoder.precision, max_ram=1e9).vectors
    print(f"vectors of {len(vectors):,} docs after {clock.spent['vectors']:.1f} s: {vectors.embedded:,} made, "
          "the others read from the cache")  # fmt: skip
    if args.export:
        q_emb = embed_texts(encoder, collection.queries.view(np.arange(len(collection.queries))), "query")
        return print(f"\nwrote   {vector_files.export(target, collection, vectors, q_emb)} ({clock.total():.1f} s)")
    split, q_emb = real_queries(collection, encoder)
    best = tune.exact_best(vectors, q_emb)
    index, factory, points, point, reached, build_s = build(args, vectors, q_emb, best)
    curve = {
        "factory": factory,
        "target_recall": args.target_recall,
        "queries": f"{len(q_emb)} of {split}, half of them kept aside",
        "exact_queries_per_s": 1 / best[2],
        "build_s": build_s,
        "threads": faiss.omp_get_max_threads(),
        "points": [dataclasses.asdict(each) for each in points],
        "chosen": dataclasses.asdict(point),
    }

    def draw(place):
        plots.recall_curve(place / "curve.png", curve, title=f"{factory} on {collection.name}")

    meta = {"collection": collection.name, "corpus_fingerprint": collection.docs.fingerprint}
    meta |= {"encoder_fingerprint": encoder.fingerprint, "factory": factory, "parameters": point.parameters}
    meta |= {"precision": encoder.precision, "versions": run.versions()}
    faiss_index.save_index(index, target, meta, also=[lambda place: write_json(place / "curve.json", curve), draw])
    print_curve(points, point, best[2], split)
    if not reached:
        print(
            f"warning: no setting finds {args.target_recall:.1%} of the {tune.K} best docs: the most accurate is kept; "
            "a larger index (more bits, RFlat behind it, a higher M) finds more"
        )
    size = (target / "index.faiss").stat().st_size / 1e6
    data_flag = f" --data {cli.quoted(spec)}" if args.data else ""
    print(
        f"\nwrote   {target}/: index.faiss ({size:,.1f} MB, built in {build_s:.1f} s), meta.json, "
        f"curve.json, curve.png ({clock.total():.1f} s)"
        f"\nnext    python evaluate.py --run {cli.quoted(folder)}{data_flag}"
    )


def build(args, vectors, q_emb, best):
    """(index at the setting that is kept, its string, all settings, that one, whether it suffices, seconds)."""
    plans = [(args.index, "")]
    if args.index == "auto":
        plans = tune.plan(
            vectors, max_ram=args.max_ram * 1e9, expected_queries=args.expected_queries, exact_seconds=best[2]
        )
    for factory, why in plans:
        if why:
            print(f"auto: {factory}: {why}")
        begun = run.Clock()
        index = faiss_index.make_index(vectors, factory, desc=f"building {factory}")
        build_s = begun.total()
        points = tune.curve(index, vectors, q_emb, best[:2])
        point, reached = tune.choose(points, args.target_recall)
        if reached:
            break
        print(f"{factory} finds {point.tuning_recall:.1%} of the {tune.K} best docs at most")
    faiss_index.set_parameters(index, point.parameters)
    return index, factory, points, point, reached, build_s


def real_queries(collection, encoder):
    """(split, vectors of queries to tune on): dev's where there are, else another split's; at most 2 * QUERIES."""
    split = next(name for name in ("dev", "train", "test") if name in collection.qrels)
    rows = collection.split(split).queries
    rows = rows[rng.permutation(len(rows), "index queries", 0)[: 2 * QUERIES]]
    return split, embed_texts(encoder, collection.queries.view(rows), "query")


def print_curve(points, chosen, exact_seconds, split):
    """The settings that are worth having: recall against queries per second."""
    print(f"\n{'setting':32}{f'recall@{tune.K}':>10}{'one at a time':>16}{'p50 ms':>9}{'p99 ms':>9}{'in a batch':>14}")
    for point in points:
        mark = "  <- kept" if point == chosen and len(points) > 1 else ""
        print(
            f"{point.parameters or 'as it is':32}{point.recall:>10.4f}{point.single:>14,.0f}/s{point.p50_ms:>9.2f}"
            f"{point.p99_ms:>9.2f}{point.batch:>12,.0f}/s{mark}"
        )
    print(
        f"recall on {split} queries that took no part in the choice; exact search takes about "
        f"{1e3 * exact_seconds:.2f} ms a query; {(threads := faiss.omp_get_max_threads())} thread{'s' * (threads > 1)}"
    )


if __name__ == "__main__":
    process.cli(main)
