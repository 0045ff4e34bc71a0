"""Time the static encoder against sentence-transformers' on the same work: training, encoding, mining.

    pip install "sentence-transformers[train]"                      # the peer; nothing else here needs it
    python tests/bench/static_vs_sentence_transformers.py           # embedded collection, train.py's settings
    python tests/bench/static_vs_sentence_transformers.py --data FOLDER --epochs 8 --batch_size 256 --dim 384
    python tests/bench/static_vs_sentence_transformers.py --parts encode mine --out bench.json
    python tests/bench/static_vs_sentence_transformers.py --ours_only     # without the peer

Both sides run in this process, on the CPU, with the same number of threads.

train    in-batch negatives only. The same on both sides: pairs, batches and their order, tokenizer, initial
         vectors, temperature, AdamW, schedule, float32; nothing is evaluated, saved or logged. Each side has a
         grid of learning rates of its own, and dev chooses. Only ours masks known positives and averages weights.
encode   the whole corpus, with one folder that both sides load.
mine     --depth negatives for every training query, embedding queries and corpus included.

Our tokens come from the cache, as in every run but the first; the peer tokenises as it goes. "+ tokenise"
makes all our tokens anew, queries' and docs', so that both sides begin with text. The peer's texts are in
memory, and its datasets made, before the clock starts.
"""

import copy
import importlib.metadata
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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import train  # noqa: E402
from lib import cli, loss, process, run  # noqa: E402
from lib.cli import (
    ABOVE_0,
    COUNT,  # noqa: E402
)
from lib.data.batches import QueryOrder, draw_positives, make_batch  # noqa: E402
from lib.data.collection import load_collection  # noqa: E402
from lib.evaluation import measures  # noqa: E402
from lib.evaluation.measures import RANKED  # noqa: E402
from lib.files import BadInput, write_json  # noqa: E402
from lib.model.embedder import Embedder  # noqa: E402
from lib.model.encoder import averaged_twin, load_encoder, save_encoder  # noqa: E402
from lib.negatives.sources import Miner  # noqa: E402
from lib.search import exact  # noqa: E402

PARTS = ("train", "encode", "mine")
OF_TRAIN = ("data", "epochs", "batch_size", "dim", "vocab_size", "seed", "temperature", "ema", "depth")  # its flags
PEER_BATCHES = (32, 256)  # texts per call of the peer's encoder: its default, and more; the faster one counts
WARM_UP = 3  # training steps of each side before the clock starts
COMPARED = 1000  # records whose negatives are compared


def parse_args():
    """Our own flags, and train.py's arguments: its defaults but for what is given here."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    for name in OF_TRAIN:
        add(f"--{name}", metavar="X", help="as in train.py, with its default")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="of train, encode, mine")
    add("--ours_only", action="store_true", help="our side alone: needs no peer")
    add("--repeats", type=COUNT, default=3, help="rounds of encode and mine, sides in turn; the median counts")
    add("--threads", type=COUNT, help="of torch, faiss and the tokenizer; default: what they choose themselves")
    add(
        "--lrs",
        nargs="+",
        type=ABOVE_0,
        default=[0.02, 0.05, 0.1],
        help="our peak learning rates; the best on dev counts",
    )
    add("--peer_lrs", nargs="+", type=ABOVE_0, default=[0.02, 0.05, 0.1, 0.2], help="the peer's, likewise")
    add("--out", metavar="F", help="JSON file for the table, settings and versions")
    own = parser.parse_args()
    given = {name: getattr(own, name) for name in OF_TRAIN}
    command = [sys.argv[0], "--negatives", "in_batch", *cli.to_flags(given)]
    with mock.patch.object(sys, "argv", command):
        args, _ = train.parse_args()
    return own, train.of_arm(args, *args.negatives)


def main():
    own, args = parse_args()
    versions = run.versions() | ({} if own.ours_only else peer_versions())
    if own.threads:
        os.environ["RAYON_NUM_THREADS"] = str(own.threads)  # the tokenizer's, read at its first batch
        torch.set_num_threads(own.threads)
        faiss.omp_set_num_threads(own.threads)
    collection = load_collection(args.data)
    (seed,) = args.seeds
    encoder = train.make_encoder(args, collection, seed=seed)
    order = QueryOrder(len(collection.split("train")), batch_size=args.batch_size, seed=seed)
    plan = train.derive(args, encoder, order, torch.device("cpu"))
    of_train = ("epochs", "dim", "temperature", "warmup", "ema", "depth")
    settings = {name: getattr(args, name) for name in of_train}
    settings |= {
        "data": collection.name,
        "docs": len(collection.docs),
        "train_queries": order.n,
        "vocab_size": len(encoder.table),
        "seed": order.seed,
        "batch_size": order.batch_size,
        "steps": plan["steps"],
        "lrs": own.lrs,
        "peer_lrs": None if own.ours_only else own.peer_lrs,
        "repeats": own.repeats,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "faiss_threads": faiss.omp_get_max_threads(),
    }
    for facts in (settings, versions):
        print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    rows, tried = [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if "train" in own.parts:
            found, encoder, tried = compare_training(
                args, collection, encoder, order, plan, folder, lrs=own.lrs, peer_lrs=settings["peer_lrs"]
            )
            rows += found
        save_encoder(encoder, folder / "encoder")
        encoder = load_encoder(folder / "encoder")
        peer = None if own.ours_only else load_peer(folder / "encoder")
        if "encode" in own.parts:
            rows += compare_encoding(collection, encoder, peer, folder, repeats=own.repeats)
        if "mine" in own.parts:
            rows += compare_mining(collection, encoder, peer, folder, depth=args.depth, repeats=own.repeats)
    for each in tried:
        print(
            f"{each['side']:6} lr {each['lr']:<6g} dev {each['dev']:.4f}  test {each['test']:.4f}"
            f"  {each['seconds']:.1f} s"
        )
    print_table(rows)
    if own.out:
        write_json(own.out, {"settings": settings, "versions": versions, "rows": rows, "tried": tried})
        print(f"\nwrote   {own.out}")


def peer_versions():
    """{package: version} of the peer; BadInput where it is missing."""
    try:
        return {name: importlib.metadata.version(name) for name in ("sentence-transformers", "datasets")}
    except importlib.metadata.PackageNotFoundError as error:
        raise BadInput(
            f'the peer is missing ({error}): pip install "sentence-transformers[train]", or measure '
            "our side alone with --ours_only"
        ) from None


def load_peer(folder):
    """The peer's model of a folder."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


# ------------------------------------------------------------------------------------------------- training


def compare_training(args, collection, encoder, order, plan, folder, *, lrs, peer_lrs):
    """Rows of the table, our trained encoder, and what each rate gave; without the peer where it gets no rates.

    Each side is trained at every rate of its grid; the best on dev stands in the table.
    """
    steps = plan["steps"]
    tokenise_s, embedder = timed(lambda: tokenise(collection, encoder, folder))

    def ours(lr, count=steps):
        seconds, raw, averaged = train_ours(args, collection, encoder, embedder, order, steps=count, lr=lr)
        scores = {
            split: score_of(args, *vectors_of(embedder, averaged, split), collection, split)
            for split in ("dev", "test")
        }
        return {"side": "ours", "lr": lr, "seconds": seconds} | scores, averaged

    def theirs(lr, count=steps):
        seconds, peer = train_peer(args, collection, encoder, order, folder, steps=count, lr=lr)
        scores = {}
        for split in ("dev", "test"):
            texts = collection.queries.texts(collection.split(split).queries), collection.docs.texts()
            found = (peer.encode(side, batch_size=max(PEER_BATCHES), normalize_embeddings=True) for side in texts)
            scores[split] = score_of(args, *found, collection, split)
        return {"side": "peer", "lr": lr, "seconds": seconds} | scores, peer

    ours(lrs[0], WARM_UP)
    found = [ours(lr) for lr in lrs]
    tried, (best, trained) = [result for result, _ in found], max(found, key=lambda each: each[0]["dev"])
    peer_s, check = None, {f"ours lr {best['lr']:g} dev": best["dev"], "test": best["test"]}
    if peer_lrs:
        theirs(peer_lrs[0], WARM_UP)
        results = [theirs(lr)[0] for lr in peer_lrs]
        tried += results
        of_peer = max(results, key=lambda each: each["dev"])
        peer_s = statistics.median(each["seconds"] for each in results)
        check |= {f"peer lr {of_peer['lr']:g} dev": of_peer["dev"], "peer test": of_peer["test"]}
    ours_s = statistics.median(result["seconds"] for result, _ in found)
    rows = [row(f"train, {steps} steps", ours_s, peer_s, check), row("  + tokenise", ours_s + tokenise_s, peer_s)]
    return rows, trained, tried


def train_ours(args, collection, encoder, embedder, order, *, steps, lr):
    """train.py's loop over in-batch negatives -> (seconds, encoder, encoder of averaged weights)."""
    qrels, tokens = collection.split("train"), embedder.tokens
    encoder = copy.deepcopy(encoder).train()
    begin = time.perf_counter()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=lr, weight_decay=args.weight_decay, fused=True)
    averaged = averaged_twin(encoder, args.ema)
    for step in range(steps):
        positions, positives = draw(qrels, order, step)
        batch = make_batch(collection, qrels.queries[positions], positives, {})
        labels, invalid = torch.from_numpy(batch.labels), torch.from_numpy(batch.invalid)
        q_emb, d_emb = encoder.both(tokens["query"].select(batch.queries), tokens["doc"].select(batch.docs))
        value, *_ = loss.contrastive_loss(q_emb, d_emb, labels, invalid, temperature=args.temperature)
        value.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr * train.learning_rate(step, steps, args.warmup)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        averaged.update_parameters(encoder)
    return time.perf_counter() - begin, encoder, averaged.module


def train_peer(args, collection, encoder, order, folder, *, steps, lr):
    """SentenceTransformerTrainer over the same batches and initial vectors -> (seconds of train(), model)."""
    import datasets
    import sentence_transformers as st
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    qrels = collection.split("train")
    positions, docs = map(np.concatenate, zip(*(draw(qrels, order, step) for step in range(steps))))
    pairs = np.stack([qrels.queries[positions], docs], axis=1)  # (steps * B, 2)
    pairs, visits = np.unique(pairs, axis=0, return_inverse=True)  # (P, 2), (steps * B,) rows of them
    dataset = datasets.Dataset.from_dict(
        {"query": collection.queries.texts(pairs[:, 0]), "doc": collection.docs.texts(pairs[:, 1])}
    )
    vectors = encoder.table.detach().clone()
    peer = st.SentenceTransformer(modules=[StaticEmbedding(encoder.tokenizer, vectors)], device="cpu")
    optimizer = torch.optim.AdamW(peer.parameters(), lr=lr, weight_decay=args.weight_decay, fused=True)
    schedule = LambdaLR(optimizer, lambda step: train.learning_rate(step, steps, args.warmup))

    def same_batches(_, *, batch_size, drop_last, **others):
        return DefaultBatchSampler(visits.tolist(), batch_size=batch_size, drop_last=drop_last)

    settings = st.SentenceTransformerTrainingArguments(
        output_dir=str(folder / "peer"),
        max_steps=steps,
        per_device_train_batch_size=order.batch_size,
        batch_sampler=same_batches,
        max_grad_norm=0.0,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
    )
    trainer = st.SentenceTransformerTrainer(
        peer,
        settings,
        dataset,
        loss=MultipleNegativesRankingLoss(peer, scale=1 / args.temperature),
        optimizers=(optimizer, schedule),
    )
    seconds, _ = timed(trainer.train)
    assert trainer.state.global_step == steps, (trainer.state.global_step, steps)
    return seconds, peer


def draw(qrels, order, step):
    """(B,) positions in the split and (B,) doc rows of a step's pairs."""
    positions = order.positions(step)
    return positions, draw_positives(qrels, positions, seed=order.seed, epoch=order.epoch(step))


def score_of(args, q_emb, d_emb, collection, split):
    """The measure by which train.py chooses, of exact search on a split."""
    return measures.mean(measures.score(collection, split, exact.search(q_emb, d_emb, RANKED)))[args.select]


# ------------------------------------------------------------------------------------------------- encoding


def compare_encoding(collection, encoder, peer, folder, *, repeats):
    """Rows of the table; the peer with the faster of its batch sizes."""
    texts, cached = collection.docs.texts(), Embedder(collection, encoder)
    sides = {
        "ours": lambda: cached.embed(encoder, "doc"),
        "fresh": lambda: tokenise(collection, encoder, folder).embed(encoder, "doc"),
    }
    if peer is not None:
        sides |= {size: lambda size=size: peer.encode(texts, batch_size=size) for size in PEER_BATCHES}
    seconds, vectors = race(sides, repeats=repeats)
    if peer is None:
        return [row("encode the corpus", seconds["ours"]), row("  + tokenise", seconds["fresh"])]
    size = min(PEER_BATCHES, key=seconds.get)
    apart = np.square(vectors["ours"] - vectors[size]).sum(1).max()  # a text without tokens is 0 for both
    check = {"lowest cosine": float(1 - apart / 2), "peer's batch": size}
    return [
        row("encode the corpus", seconds["ours"], seconds[size], check),
        row("  + tokenise", seconds["fresh"], seconds[size]),
    ]


# --------------------------------------------------------------------------------------------------- mining


def compare_mining(collection, encoder, peer, folder, *, depth, repeats):
    """Rows of the table; the peer with the faster of its two searches."""
    everything = np.arange(len(collection.split("train")))

    def ours(embedder):  # as the source dense mines in train.py
        return Miner(embedder, encoder, None).mine("dense", everything, depth, encoder=encoder)

    # an embedder keeps the vectors of its docs: a new one for each round
    sides = {
        "ours": lambda: ours(Embedder(collection, encoder)),
        "fresh": lambda: ours(tokenise(collection, encoder, folder)),
    }
    if peer is not None:
        sides |= peer_searches(collection, peer, depth)
    seconds, mined = race(sides, repeats=repeats)
    task = f"mine {depth} negatives"
    if peer is None:
        return [row(task, seconds["ours"]), row("  + tokenise", seconds["fresh"])]
    search = min("torch", "faiss", key=seconds.get)
    check = {"negatives in common": overlap(collection, mined["ours"], mined[search]), "peer's search": search}
    return [row(task, seconds["ours"], seconds[search], check), row("  + tokenise", seconds["fresh"], seconds[search])]


def peer_searches(collection, peer, depth):
    """{search: function that mines with it}, over the pairs of the train split."""
    import datasets
    from sentence_transformers.util import mine_hard_negatives

    qrels, texts = collection.split("train"), collection.docs.texts()
    pairs = [(query, doc) for i, query in enumerate(qrels.queries) for doc in qrels.positives(i)]
    queries, docs = zip(*pairs)
    dataset = datasets.Dataset.from_dict(
        {"query": collection.queries.texts(queries), "doc": [texts[doc] for doc in docs]}
    )

    def mine(use_faiss):  # of its formats, n-tuple costs the least
        return mine_hard_negatives(
            dataset,
            peer,
            corpus=texts,
            range_max=depth,
            num_negatives=depth,
            use_faiss=use_faiss,
            output_format="n-tuple",
            batch_size=max(PEER_BATCHES),
            verbose=False,
        )

    return {"torch": lambda: mine(False), "faiss": lambda: mine(True)}


def overlap(collection, candidates, dataset):
    """Share of our negatives that the peer mined too for the same query; copies of a text are one."""
    groups = collection.docs.groups.tolist()
    group_of = dict(zip(collection.docs.texts(), groups))
    position = {text: i for i, text in enumerate(collection.queries.texts(candidates.queries))}
    shares = []
    for record in dataset.select(range(min(COMPARED, len(dataset)))):
        ours = {groups[doc] for doc in candidates.docs[position[record["query"]]] if doc >= 0}
        theirs = {group_of[text] for name, text in record.items() if name.startswith("negative")}
        shares.append(len(ours & theirs) / len(ours))
    return statistics.mean(shares)


# -------------------------------------------------------------------------------------------- shared helpers


def tokenise(collection, encoder, folder):
    """An Embedder whose tokens of all queries and docs are made anew, in an empty cache."""
    with mock.patch.dict(os.environ, HARDNEG_CACHE=tempfile.mkdtemp(dir=folder)):
        return Embedder(collection, encoder)


def vectors_of(embedder, encoder, split):
    """Our vectors of a split's queries and of the corpus."""
    queries = embedder.collection.split(split).queries
    return embedder.embed(encoder, "query", queries), embedder.embed(encoder, "doc")


def timed(function):
    """(seconds, result) of one call."""
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def race(sides, *, repeats):
    """Median seconds and last result by name; the sides run in turn, after a round that does not count."""
    seconds, results = {name: [] for name in sides}, {}
    for _ in range(repeats + 1):
        for name, side in sides.items():
            spent, results[name] = timed(side)
            seconds[name].append(spent)
    return {name: statistics.median(spent[1:]) for name, spent in seconds.items()}, results


def row(task, ours_s, peer_s=None, check=None):
    """One line of the table."""
    ratio = peer_s and peer_s / ours_s
    return {"task": task, "ours_s": ours_s, "peer_s": peer_s, "ratio": ratio, "check": check or {}}


def print_table(rows):
    """Seconds of both sides, their ratio, and what shows that both did the same work."""
    print(f"\n{'task':24}{'ours s':>10}{'peer s':>10}{'ratio':>8}   check")
    for r in rows:
        check = ", ".join(
            f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in r["check"].items()
        )
        peer = f"{r['peer_s']:>10.2f}{r['ratio']:>8.1f}" if r["peer_s"] else f"{'-':>10}{'-':>8}"
        print(f"{r['task']:24}{r['ours_s']:>10.2f}{peer}   {check}")


if __name__ == "__main__":
    process.cli(main)
