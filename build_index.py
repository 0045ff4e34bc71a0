"""Embed a collection with a run's encoder and write a FAISS index of it.

    python build_index.py --run runs/R                    # the collection that the run was trained on
    python build_index.py --run runs/R --data FOLDER      # another one

The index lies under the encoder that made it, runs/R/index/COLLECTION/, with the fingerprints of both.
"""
import pathlib

from lib import data, index, model, run
from lib.run import BadInput


def parse_args():
    parser = run.parser(__doc__)
    parser.add_argument("--run", required=True, help="run folder of train.py")
    parser.add_argument("--data", help="collection: python (embedded) or a folder in BEIR layout; "
                        "default: the run's own")
    parser.add_argument("--device", help="cpu, cuda, mps; default: cuda where there is one")
    parser.add_argument("--overwrite", action="store_true", help="replace the index if it exists")
    return parser.parse_args(), parser


def main():
    args, parser = parse_args()
    folder = pathlib.Path(args.run)
    spec = args.data or run.recorded(folder)["args"]["data"]
    collection = data.load_collection(spec)
    encoder = model.load_encoder(folder / "encoder").set_device(model.pick_device(args.device))
    target = folder / "index" / collection.name
    if target.exists() and not args.overwrite:
        raise BadInput(f"{target} exists: --overwrite it")
    size = round(len(collection.docs) * encoder.dim * 4e-6, 1)
    run.print_header(f"indexing {collection.name} with {folder}/encoder -> {target}", args, parser,
                     {"docs": len(collection.docs), "dim": encoder.dim, "index_mb": size})
    clock = run.Clock()
    tokens = data.tokenize(collection.docs, encoder, "doc")
    with clock("embed"):
        d_emb = model.embed(encoder, tokens, desc="embedding docs")
    index.save_index(index.build_index(d_emb), target, {
        "collection": collection.name, "corpus_fingerprint": collection.docs.fingerprint,
        "encoder_fingerprint": encoder.fingerprint, "kind": "flat inner product", "versions": run.versions()})
    print(f"embedded {len(d_emb):,} docs at {len(d_emb) / clock.spent['embed']:,.0f} docs/s (tokens cached)")
    data_flag = f" --data {spec}" if args.data else ""
    print(f"\nwrote   {target}/: index.faiss, meta.json ({clock.total():.1f} s)"
          f"\nnext    python evaluate.py --run {folder}{data_flag}")


if __name__ == "__main__":
    run.cli(main)
