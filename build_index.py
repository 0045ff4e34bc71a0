"""Embed a collection with a run's encoder and write a FAISS index of it.

    python build_index.py --run runs/R                    # the collection that the run was trained on
    python build_index.py --run runs/R --data FOLDER      # another one

The index lies under the encoder that made it, runs/R/index/COLLECTION/, with the fingerprints of both.
"""

import pathlib

import numpy as np

from lib import rng, run
from lib.data import readers
from lib.data.collection import collection_of
from lib.data.tokens import tokenize
from lib.evaluation import diagnostics, measures
from lib.files import BadInput
from lib.model.encoder import PRECISIONS, embed, load_to_encode, pick_device
from lib.search import exact, faiss_index


def parse_args():
    parser = run.Parser(__doc__)
    add = parser.group("what")
    add("--run", required=True, help="run folder of train.py")
    add("--data", help=f"{readers.HELP}; default: the run's own")
    add("--strict", action="store_true", help=readers.STRICT)
    add(
        "--precision",
        choices=(*PRECISIONS, "int8"),
        default="fp32",
        help="precision in which a transformer "
        "encodes the docs and, when it searches, the queries; int8 on the CPU is measured against fp32 before it "
        "is used",
    )
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--overwrite", action="store_true", help="replace the index if it exists")
    return parser.parse_args(), parser


def main():
    args, parser = parse_args()
    folder, device = pathlib.Path(args.run), pick_device(args.device)
    spec, collection = collection_of(args.data, folder, strict=args.strict)
    encoder = load_to_encode(folder / "encoder", device, args.precision)
    target = folder / "index" / collection.name
    if target.exists() and not args.overwrite:
        raise BadInput(f"{target} exists: --overwrite it")
    size = round(len(collection.docs) * encoder.dim * 4e-6, 1)
    run.print_header(
        f"indexing {collection.name} with {folder}/encoder -> {target}",
        args,
        parser,
        {"docs": len(collection.docs), "dim": encoder.dim, "index_mb": size},
    )
    clock = run.Clock()
    tokens = tokenize(collection.docs, encoder, "doc")
    if args.precision != "fp32" and encoder.kind == "transformer":
        compare_with_fp32(encoder, load_to_encode(folder / "encoder", device), collection, tokens, name=args.precision)
    with clock("embed"):
        d_emb = embed(encoder, tokens, desc="embedding docs")
    faiss_index.save_index(
        faiss_index.build_index(d_emb),
        target,
        {
            "collection": collection.name,
            "corpus_fingerprint": collection.docs.fingerprint,
            "encoder_fingerprint": encoder.fingerprint,
            "kind": "flat inner product",
            "precision": args.precision,
            "versions": run.versions(),
        },
    )
    print(f"embedded {len(d_emb):,} docs at {len(d_emb) / clock.spent['embed']:,.0f} docs/s (tokens cached)")
    data_flag = f" --data {run.quoted(spec)}" if args.data else ""
    print(
        f"\nwrote   {target}/: index.faiss, meta.json ({clock.total():.1f} s)"
        f"\nnext    python evaluate.py --run {run.quoted(folder)}{data_flag}"
    )


def compare_with_fp32(narrow, exact_encoder, collection, tokens, *, name, queries=200, docs=600):
    """Print what a precision gains and costs: docs/s, and nDCG@10 over a pool of positives and random docs."""
    split = "dev" if "dev" in collection.qrels else next(iter(collection.qrels))
    qrels = collection.split(split)
    judged = rng.permutation(len(qrels), "precision", 0)[:queries]
    positives = np.unique(np.concatenate([qrels.positives(i) for i in judged]))
    pool = np.union1d(positives, rng.permutation(len(tokens), "precision", 1)[: max(0, docs - len(positives))])
    q_emb = embed(exact_encoder, tokenize(collection.queries, exact_encoder, "query"), qrels.queries[judged])
    qids = [collection.queries.ids[row] for row in qrels.queries[judged]]
    truth = {qid: grades for qid, grades in collection.qrels_dict(split).items() if qid in set(qids)}
    speeds, measured, vectors = [], [], []
    for encoder in (exact_encoder, narrow):
        embed(encoder, tokens, pool[:16])  # warm
        clock = run.Clock()
        vectors.append(embed(encoder, tokens, pool, desc=f"comparing {name} with fp32"))
        speeds.append(len(pool) / clock.total())
        scores, rows = exact.top_k(q_emb, vectors[-1], 10)
        rankings = measures.to_rankings(qids, collection.docs.ids, pool[rows], scores)
        measured.append(measures.mean(measures.per_query(rankings, truth))["ndcg@10"])
    cosine = diagnostics.cosines(*vectors)
    print(
        f"{name} against fp32 on {len(pool)} docs and {len(qids)} {split} queries: "
        f"{speeds[1]:.1f} against {speeds[0]:.1f} docs/s ({speeds[1] / speeds[0]:.2f}x); nDCG@10 "
        f"{measured[1]:.4f} against {measured[0]:.4f} ({measured[1] - measured[0]:+.4f}); "
        f"mean cosine {cosine.mean():.4f}"
    )


if __name__ == "__main__":
    run.cli(main)
