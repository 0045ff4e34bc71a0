"""Embed a collection with a run's encoder and write a FAISS index of it.

    python build_index.py --run runs/R                    # the collection that the run was trained on
    python build_index.py --run runs/R --data FOLDER      # another one

The index lies under the encoder that made it, runs/R/index/COLLECTION/, with the fingerprints of both.
"""
import pathlib

import numpy as np

from lib import data, index, metrics, model, run
from lib.run import BadInput


def parse_args():
    parser = run.parser(__doc__)
    parser.add_argument("--run", required=True, help="run folder of train.py")
    parser.add_argument("--data", help="collection: python (embedded) or a folder in BEIR layout; "
                        "default: the run's own")
    parser.add_argument("--encode_dtype", choices=(*model.PRECISIONS, "int8"), default="fp32",
                        help="precision in which a transformer encodes the docs; int8 on the CPU is measured "
                        "against fp32 before it is used")
    parser.add_argument("--device", help="cpu, cuda, mps; default: cuda where there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace the index if it exists")
    return parser.parse_args(), parser


def main():
    args, parser = parse_args()
    folder = pathlib.Path(args.run)
    spec = args.data or run.recorded(folder)["args"]["data"]
    collection = data.load_collection(spec)
    encoder = model.load_to_encode(folder / "encoder", args.device, args.encode_dtype)
    target = folder / "index" / collection.name
    if target.exists() and not args.overwrite:
        raise BadInput(f"{target} exists: --overwrite it")
    size = round(len(collection.docs) * encoder.dim * 4e-6, 1)
    run.print_header(f"indexing {collection.name} with {folder}/encoder -> {target}", args, parser,
                     {"docs": len(collection.docs), "dim": encoder.dim, "index_mb": size})
    clock = run.Clock()
    tokens = data.tokenize(collection.docs, encoder, "doc")
    if args.encode_dtype == "int8":
        compare_with_fp32(encoder, model.load_to_encode(folder / "encoder", args.device), collection, tokens)
    with clock("embed"):
        d_emb = model.embed(encoder, tokens, desc="embedding docs")
    index.save_index(index.build_index(d_emb), target, {
        "collection": collection.name, "corpus_fingerprint": collection.docs.fingerprint,
        "encoder_fingerprint": encoder.fingerprint, "kind": "flat inner product",
        "encode_dtype": args.encode_dtype, "versions": run.versions()})
    print(f"embedded {len(d_emb):,} docs at {len(d_emb) / clock.spent['embed']:,.0f} docs/s (tokens cached)")
    data_flag = f" --data {spec}" if args.data else ""
    print(f"\nwrote   {target}/: index.faiss, meta.json ({clock.total():.1f} s)"
          f"\nnext    python evaluate.py --run {folder}{data_flag}")


def compare_with_fp32(quantized, exact, collection, tokens, *, queries=200, docs=600):
    """Print what int8 gains and costs: docs/s, and nDCG@10 over a pool of positives and random docs."""
    split = "dev" if "dev" in collection.qrels else next(iter(collection.qrels))
    qrels = collection.split(split)
    judged = run.permutation(len(qrels), "int8", 0)[:queries]
    positives = np.unique(np.concatenate([qrels.positives(i) for i in judged]))
    pool = np.union1d(positives, run.permutation(len(tokens), "int8", 1)[:max(0, docs - len(positives))])
    q_emb = model.embed(exact, data.tokenize(collection.queries, exact, "query"), qrels.queries[judged])
    qids = [collection.queries.ids[row] for row in qrels.queries[judged]]
    truth = {qid: grades for qid, grades in collection.qrels_dict(split).items() if qid in set(qids)}
    speeds, measured, vectors = [], [], []
    for encoder in (exact, quantized):
        model.embed(encoder, tokens, pool[:16])  # warm
        clock = run.Clock()
        vectors.append(model.embed(encoder, tokens, pool, desc="comparing int8 with fp32"))
        speeds.append(len(pool) / clock.total())
        scores, rows = index.exact_search(q_emb, vectors[-1], 10)
        rankings = metrics.to_rankings(qids, collection.docs.ids, pool[rows], scores)
        measured.append(metrics.mean(metrics.per_query(rankings, truth))["ndcg@10"])
    cosine = metrics.cosines(*vectors)
    print(f"int8 against fp32 on {len(pool)} docs and {len(qids)} {split} queries: "
          f"{speeds[1]:.1f} against {speeds[0]:.1f} docs/s ({speeds[1] / speeds[0]:.2f}x); nDCG@10 "
          f"{measured[1]:.4f} against {measured[0]:.4f} ({measured[1] - measured[0]:+.4f}); "
          f"mean cosine {cosine.mean():.4f}")


if __name__ == "__main__":
    run.cli(main)
