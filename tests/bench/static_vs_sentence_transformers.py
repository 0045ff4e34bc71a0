"""Time the static encoder against sentence-transformers' on the same work: training, embedding a corpus, mining.

    pip install "sentence-transformers[train]"                      # the peer; nothing else here needs it
    python tests/bench/static_vs_sentence_transformers.py           # embedded collection, train.py's settings
    python tests/bench/static_vs_sentence_transformers.py --data FOLDER --epochs 8 --batch_size 256 --dim 384
    python tests/bench/static_vs_sentence_transformers.py --parts encode mine --out bench.json

Flags other than those below are train.py's (--data --epochs --batch_size --dim --seed --lr --temperature --ema ...),
and so are their defaults. Both sides run in this process, on the CPU, with the same number of threads.

train   in-batch negatives only: the same pairs in the same batches, the same tokenizer, initial vectors (token weights
        folded into the table), temperature, AdamW, learning rates and float32; no evaluation, saving or logging. The
        peer cannot keep token weights apart from vectors, average weights, or mask known positives; ours does all three.
encode  the whole corpus with one encoder folder that both read.
mine    --depth negatives for every training query, from texts on the peer's side, embedding included on both.

Our tokens are cached, as in every run but the first; lines with "+ tokenise" pay for tokenising all texts anew.
"""
import argparse
import contextlib
import os
import pathlib
import statistics
import sys
import tempfile
import time
from unittest import mock

import faiss
import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import train  # noqa: E402
from lib import data, index, loss, metrics, model, negatives, run  # noqa: E402

try:
    import datasets
    import sentence_transformers as st
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from sentence_transformers.util import mine_hard_negatives
except ImportError as error:
    sys.exit(f'error: this comparison needs its peer ({error}): pip install "sentence-transformers[train]"')

PARTS = ("train", "encode", "mine")
PEER_BATCHES = (32, 256)  # the default of SentenceTransformer.encode, and one that suits a small encoder
WARM_UP = 3               # training steps on copies, before the clock starts


def parse_args():
    """Our own flags, and train.py's settings for all the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="any of train, encode, mine; default: all")
    add("--repeats", type=int, default=3, help="timings of encode and mine, sides in turn; the median counts")
    add("--peer_lr", type=float, help="peak learning rate of the peer; default: --lr, ours")
    add("--out", metavar="F", help="JSON file for the table, with settings and versions")
    own, rest = parser.parse_known_args()
    with mock.patch.object(sys, "argv", ["train.py", "--negatives", "in_batch", *rest]):
        args, _ = train.parse_args()
    return own, args


def main():
    own, args = parse_args()
    collection = data.load_collection(args.data)
    encoder = train.make_encoder(args, collection, seed=args.seeds[0])
    folder = pathlib.Path(tempfile.mkdtemp())
    facts = {"data": collection.name, "docs": len(collection.docs), "train_queries": len(collection.split("train")),
             "batch_size": args.batch_size, "epochs": args.epochs, "dim": args.dim, "vocab_size": len(encoder.weight),
             "seed": args.seeds[0], "lr": args.lr, "peer_lr": own.peer_lr or args.lr, "temperature": args.temperature,
             "ema": args.ema, "depth": args.depth, "torch_threads": torch.get_num_threads(),
             "faiss_threads": faiss.omp_get_max_threads(), "cores": os.cpu_count()}
    facts |= run.versions() | {"sentence-transformers": st.__version__, "datasets": datasets.__version__}
    print("\n".join(f"   {name} = {value}" for name, value in facts.items()))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if "train" in own.parts:
            encoder, found = compare_training(args, collection, encoder, folder, peer_lr=facts["peer_lr"])
            rows += found
        model.save_encoder(encoder, folder / "encoder")
        both = model.load_encoder(folder / "encoder"), st.SentenceTransformer(str(folder / "encoder"), device="cpu")
        if "encode" in own.parts:
            rows += compare_encoding(collection, *both, repeats=own.repeats)
        if "mine" in own.parts:
            rows += compare_mining(collection, *both, depth=args.depth, repeats=own.repeats)
    print_table(rows)
    if own.out:
        run.write_json(own.out, {"settings": facts, "rows": rows})


# ------------------------------------------------------------------------------------------------- training

def compare_training(args, collection, encoder, folder, *, peer_lr):
    """Rows of the table, and our trained encoder."""
    qrels, seed = collection.split("train"), args.seeds[0]
    order = data.QueryOrder(len(qrels), batch_size=args.batch_size, seed=seed)
    steps = args.steps or max(1, round(args.epochs * order.steps_per_epoch))
    tokenise_s, (q_tokens, d_tokens) = tokenise_anew(collection, encoder)
    table = (encoder.table * encoder.weight[:, None]).detach()

    def ours(steps):
        seconds, trained, averaged = train_ours(args, collection, encoder, q_tokens, d_tokens, order, steps=steps)
        return seconds, trained, averaged

    def peer(steps):
        start = StaticEmbedding(encoder.tokenizer, embedding_weights=table.clone())
        return train_peer(args, collection, start, order, folder / "peer", steps=steps, lr=peer_lr)

    ours(WARM_UP), peer(WARM_UP)
    ours_s, raw, averaged = ours(steps)
    peer_s, trained = peer(steps)

    def test(embed_queries, embed_docs):
        found = index.exact_search(embed_queries, embed_docs, train.RANKED)
        return metrics.mean(metrics.score(collection, "test", *found))[train.SELECT]

    return rows
