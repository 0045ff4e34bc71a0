"""Time the static encoder against sentence-transformers' on the same work: training, encoding, mining.

    pip install "sentence-transformers[train]"                      # the peer; nothing else here needs it
    python tests/bench/static_vs_sentence_transformers.py           # embedded collection, train.py's settings
    python tests/bench/static_vs_sentence_transformers.py --data FOLDER --epochs 8 --batch_size 256 --dim 384
    python tests/bench/static_vs_sentence_transformers.py --parts encode mine --out bench.json

Both sides run in this process, on the CPU, with the same number of threads.

train    in-batch negatives only. The same on both sides: pairs, batches and their order, tokenizer, initial
         vectors (our token weights folded in), temperature, AdamW, learning rates, float32; nothing is
         evaluated, saved or logged. Only ours learns token weights, masks known positives, averages weights.
encode   the whole corpus, with one folder that both sides load.
mine     --depth negatives for every training query, embedding queries and corpus included.

Our tokens come from the cache, as in every run but the first; the peer tokenises as it goes. "+ tokenise"
makes all our tokens anew, queries' and docs', so that both sides begin with text. The peer's texts are in
memory, and its datasets made, before the clock starts.
"""
import argparse
import copy
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
from lib import data, index, loss, metrics, model, negatives, retriever, run  # noqa: E402

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
OF_TRAIN = ("data", "epochs", "batch_size", "dim", "seed", "lr", "temperature", "ema", "depth")  # its flags
PEER_BATCHES = (32, 256)  # texts per call of the peer's encoder: its default, and more; the faster one counts
WARM_UP = 3               # training steps of each side before the clock starts
COMPARED = 1000           # records whose negatives are compared


def parse_args():
    """Our own flags, and train.py's arguments: its defaults but for what is given here."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add = parser.add_argument
    for name in OF_TRAIN:
        add(f"--{name}", metavar="X", help="as in train.py, with its default")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="of train, encode, mine")
    add("--repeats", type=int, default=3, help="rounds of encode and mine, sides in turn; the median counts")
    add("--threads", type=int, help="of torch, faiss and the tokenizer; default: what they choose themselves")
    add("--peer_lr", type=float, help="peak learning rate of the peer; default: ours, --lr")
    add("--out", metavar="F", help="JSON file for the table, settings and versions")
    own = parser.parse_args()
    given = [f"--{name}={getattr(own, name)}" for name in OF_TRAIN if getattr(own, name) is not None]
    with mock.patch.object(sys, "argv", [sys.argv[0], "--negatives", "in_batch", *given]):
        return own, train.parse_args()[0]


def main():
    own, args = parse_args()
    if own.threads:
        os.environ["RAYON_NUM_THREADS"] = str(own.threads)  # the tokenizer's, read at its first batch
        torch.set_num_threads(own.threads)
        faiss.omp_set_num_threads(own.threads)
    collection = data.load_collection(args.data)
    encoder = train.make_encoder(args, collection, seed=args.seeds[0])
    order = data.QueryOrder(len(collection.split("train")), batch_size=args.batch_size, seed=args.seeds[0])
    plan = train.derive(args, encoder, order, torch.device("cpu"))
    peer_lr = own.peer_lr or plan["peak_lr"]
    of_train = ("epochs", "dim", "temperature", "warmup", "ema", "depth")
    settings = {name: getattr(args, name) for name in of_train}
    settings |= {"data": collection.name, "docs": len(collection.docs), "train_queries": order.n,
                 "vocab_size": len(encoder.weight), "seed": order.seed, "batch_size": order.batch_size,
                 "steps": plan["steps"], "lr": plan["peak_lr"], "peer_lr": peer_lr, "repeats": own.repeats,
                 "cores": os.cpu_count(), "torch_threads": torch.get_num_threads(),
                 "faiss_threads": faiss.omp_get_max_threads()}
    versions = run.versions() | {"sentence-transformers": st.__version__, "datasets": datasets.__version__}
    for facts in (settings, versions):
        print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if "train" in own.parts:
            found, encoder = compare_training(args, collection, encoder, order, plan, folder, peer_lr=peer_lr)
            rows += found
        model.save_encoder(encoder, folder / "encoder")
        encoder = model.load_encoder(folder / "encoder")
        peer = st.SentenceTransformer(str(folder / "encoder"), device="cpu")
        if "encode" in own.parts:
            rows += compare_encoding(collection, encoder, peer, folder, repeats=own.repeats)
        if "mine" in own.parts:
            rows += compare_mining(collection, encoder, peer, folder, depth=args.depth, repeats=own.repeats)
    print_table(rows)
    if own.out:
        run.write_json(own.out, {"settings": settings, "versions": versions, "rows": rows})
        print(f"\nwrote   {own.out}")


# ------------------------------------------------------------------------------------------------- training

def compare_training(args, collection, encoder, order, plan, folder, *, peer_lr):
    """Rows of the table, and our trained encoder."""
    steps, lr = plan["steps"], plan["peak_lr"]
    tokenise_s, tokens = timed(lambda: tokenise(collection, encoder, folder))
    for count in (WARM_UP, steps):
        ours_s, raw, averaged = train_ours(args, collection, encoder, tokens, order, steps=count, lr=lr)
        peer_s, peer = train_peer(args, collection, encoder, order, folder, steps=count, lr=peer_lr)
    texts = collection.queries.texts(collection.split("test").queries), collection.docs.texts()
    found = [peer.encode(side, batch_size=max(PEER_BATCHES), normalize_embeddings=True) for side in texts]
    check = {f"test {train.SELECT} ours": score(collection, *embed(averaged, collection, tokens, "test")),
             "ours not averaged": score(collection, *embed(raw, collection, tokens, "test")),
             "peer": score(collection, *found)}
    rows = [row(f"train, {steps} steps", ours_s, peer_s, check),
            row("  + tokenise", ours_s + tokenise_s, peer_s)]
    return rows, averaged


def train_ours(args, collection, encoder, tokens, order, *, steps, lr):
    """train.py's loop over in-batch negatives -> (seconds, encoder, encoder of averaged weights)."""
    qrels, (q_tokens, d_tokens) = collection.split("train"), tokens
    encoder = copy.deepcopy(encoder).train()
    begin = time.perf_counter()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=lr, weight_decay=args.weight_decay, fused=True)
    averaged = AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(args.ema))
    for step in range(steps):
        picks, positives = draw(qrels, order, step)
        batch = data.make_batch(collection, qrels.queries[picks], positives, [])
        labels, invalid = torch.from_numpy(batch.labels), torch.from_numpy(batch.invalid)
        q_emb, d_emb = encoder.both(q_tokens.select(batch.queries), d_tokens.select(batch.docs))
        value, _ = loss.contrastive_loss(q_emb, d_emb, labels, invalid, temperature=args.temperature)
        value.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr * train.learning_rate(step, steps, args.warmup)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        averaged.update_parameters(encoder)
    return time.perf_counter() - begin, encoder, averaged.module


def train_peer(args, collection, encoder, order, folder, *, steps, lr):
    """SentenceTransformerTrainer over the same batches and initial vectors -> (seconds of train(), model)."""
    qrels = collection.split("train")
    picks, docs = map(np.concatenate, zip(*(draw(qrels, order, step) for step in range(steps))))
    pairs = np.stack([qrels.queries[picks], docs], axis=1)                 # (steps * B, 2)
    pairs, visits = np.unique(pairs, axis=0, return_inverse=True)          # (P, 2), (steps * B,) rows of them
    dataset = datasets.Dataset.from_dict({"query": collection.queries.texts(pairs[:, 0]),
                                          "doc": collection.docs.texts(pairs[:, 1])})
    vectors = (encoder.table * encoder.weight[:, None]).detach().clone()
    peer = st.SentenceTransformer(modules=[StaticEmbedding(encoder.tokenizer, vectors)], device="cpu")
    optimizer = torch.optim.AdamW(peer.parameters(), lr=lr, weight_decay=args.weight_decay, fused=True)
    schedule = LambdaLR(optimizer, lambda step: train.learning_rate(step, steps, args.warmup))

    def same_batches(_, *, batch_size, drop_last, **others):
        return DefaultBatchSampler(visits.tolist(), batch_size=batch_size, drop_last=drop_last)

    settings = st.SentenceTransformerTrainingArguments(
        output_dir=str(folder / "peer"), max_steps=steps, per_device_train_batch_size=order.batch_size,
        batch_sampler=same_batches, max_grad_norm=0.0, use_cpu=True, disable_tqdm=True, report_to="none",
        eval_strategy="no", save_strategy="no", logging_strategy="no")
    trainer = st.SentenceTransformerTrainer(
        peer, settings, dataset, loss=MultipleNegativesRankingLoss(peer, scale=1 / args.temperature),
        optimizers=(optimizer, schedule))
    seconds, _ = timed(trainer.train)
    assert trainer.state.global_step == steps, (trainer.state.global_step, steps)
    return seconds, peer


def draw(qrels, order, step):
    """(B,) positions in the split and (B,) doc rows of a step's pairs."""
    picks = order.picks(step)
    return picks, data.draw_positives(qrels, picks, seed=order.seed, epoch=order.epoch(step))


def score(collection, q_emb, d_emb):
    """The measure by which train.py chooses, of exact search on the test split."""
    found = index.exact_search(q_emb, d_emb, retriever.RANKED)
    return metrics.mean(metrics.score(collection, "test", *found))[train.SELECT]


# ------------------------------------------------------------------------------------------------- encoding

def compare_encoding(collection, encoder, peer, folder, *, repeats):
    """Rows of the table; the peer with the faster of its batch sizes."""
    texts, (_, d_tokens) = collection.docs.texts(), cached_tokens(collection, encoder)
    sides = {"ours": lambda: model.embed(encoder, d_tokens),
             "fresh": lambda: model.embed(encoder, tokenise(collection, encoder, folder)[1])}
    sides |= {size: lambda size=size: peer.encode(texts, batch_size=size) for size in PEER_BATCHES}
    seconds, vectors = race(sides, repeats=repeats)
    size = min(PEER_BATCHES, key=seconds.get)
    apart = np.square(vectors["ours"] - vectors[size]).sum(1).max()  # a text without tokens is 0 for both
    check = {"lowest cosine": float(1 - apart / 2), "peer's batch": size}
    return [row("encode the corpus", seconds["ours"], seconds[size], check),
            row("  + tokenise", seconds["fresh"], seconds[size])]


# --------------------------------------------------------------------------------------------------- mining

def compare_mining(collection, encoder, peer, folder, *, depth, repeats):
    """Rows of the table; the peer with the faster of its two searches."""
    qrels, texts = collection.split("train"), collection.docs.texts()
    pairs = [(query, doc) for i, query in enumerate(qrels.queries) for doc in qrels.positives(i)]
    queries, docs = zip(*pairs)
    dataset = datasets.Dataset.from_dict({"query": collection.queries.texts(queries),
                                          "doc": [texts[doc] for doc in docs]})
    cached = cached_tokens(collection, encoder)

    def ours(tokens):
        vectors = embed(encoder, collection, tokens, "train")
        found = index.exact_search(*vectors, depth + negatives.overfetch(collection))
        return negatives.from_search(collection, qrels.queries, found, source="dense", depth=depth)

    def theirs(use_faiss):  # of its formats, n-tuple costs the least
        return mine_hard_negatives(dataset, peer, corpus=texts, range_max=depth, num_negatives=depth,
                                   use_faiss=use_faiss, output_format="n-tuple", batch_size=max(PEER_BATCHES),
                                   verbose=False)

    seconds, mined = race({"ours": lambda: ours(cached),
                           "fresh": lambda: ours(tokenise(collection, encoder, folder)),
                           "torch": lambda: theirs(False), "faiss": lambda: theirs(True)}, repeats=repeats)
    search = min("torch", "faiss", key=seconds.get)
    shared = overlap(collection, mined["ours"], mined[search], texts)
    check = {"negatives in common": shared, "peer's search": search}
    return [row(f"mine {depth} negatives", seconds["ours"], seconds[search], check),
            row("  + tokenise", seconds["fresh"], seconds[search])]


def overlap(collection, candidates, dataset, texts):
    """Share of our negatives that the peer mined too for the same query; copies of a text are one."""
    groups = collection.docs.groups.tolist()
    group_of = dict(zip(texts, groups))
    position = {text: i for i, text in enumerate(collection.queries.texts(candidates.queries))}
    shares = []
    for record in dataset.select(range(min(COMPARED, len(dataset)))):
        ours = {groups[doc] for doc in candidates.docs[position[record["query"]]] if doc >= 0}
        theirs = {group_of[text] for name, text in record.items() if name.startswith("negative")}
        shares.append(len(ours & theirs) / len(ours))
    return statistics.mean(shares)


# -------------------------------------------------------------------------------------------- shared helpers

def tokenise(collection, encoder, folder):
    """(tokens of all queries, tokens of all docs), made anew in an empty cache."""
    with mock.patch.dict(os.environ, HARDNEG_CACHE=tempfile.mkdtemp(dir=folder)):
        return cached_tokens(collection, encoder)


def cached_tokens(collection, encoder):
    """(tokens of all queries, tokens of all docs), from the cache if they are there."""
    return data.tokenize(collection.queries, encoder, "query"), data.tokenize(collection.docs, encoder, "doc")


def embed(encoder, collection, tokens, split):
    """Our vectors of a split's queries and of the corpus."""
    q_tokens, d_tokens = tokens
    return model.embed(encoder, q_tokens, collection.split(split).queries), model.embed(encoder, d_tokens)


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


def row(task, ours_s, peer_s, check=None):
    """One line of the table."""
    return {"task": task, "ours_s": ours_s, "peer_s": peer_s, "ratio": peer_s / ours_s, "check": check or {}}


def print_table(rows):
    """Seconds of both sides, their ratio, and what shows that both did the same work."""
    print(f"\n{'task':24}{'ours s':>10}{'peer s':>10}{'ratio':>8}   check")
    for r in rows:
        check = ", ".join(f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
                          for name, value in r["check"].items())
        print(f"{r['task']:24}{r['ours_s']:>10.2f}{r['peer_s']:>10.2f}{r['ratio']:>8.1f}   {check}")


if __name__ == "__main__":
    run.cli(main)
