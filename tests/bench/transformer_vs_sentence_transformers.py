"""Time a transformer encoder against sentence-transformers on the same work: encoding, and a training step.

    pip install sentence-transformers                               # the peer; nothing else here needs it
    python tests/bench/transformer_vs_sentence_transformers.py --model FOLDER --data FOLDER
    python tests/bench/transformer_vs_sentence_transformers.py --model FOLDER --data FOLDER --ours_only
    python tests/bench/transformer_vs_sentence_transformers.py --model bert-base --data FOLDER --device cuda \
        --precision bf16 --docs 8192 --batch_size 128 --batch_sizes 1024 --cached_chunk 128       # on a GPU

--model bert-base is a BERT of that size with random weights. Each side runs in a process of its own, so that peak
memory is its own, on a GPU what torch allocated there; the sides alternate, and the medians are reported. Same weights,
texts, lengths and outputs (the lowest cosine is printed); tokenising is timed on neither side. The share of peak is of
a matrix product in the same precision on the same device, measured in the same run.
With --ours_only our side runs in this process, needs no peer, and says nothing of memory.

encode     --docs docs of --doc_length tokens at most, ours in blocks by length, the peer in batches of 32, with
           nDCG@10 of the queries whose positives are among the docs
train      steps of --batch_size queries with one positive and one negative each, --train_length tokens: forward,
           in-batch and explicit negatives, backward, AdamW; dropout as the model has it, then without on
           both sides
gradcache  a step with cached gradients in chunks of --cached_chunk texts, peak memory by size of batch
"""

import argparse
import contextlib
import importlib.metadata
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from lib import cli, loss, process, run  # noqa: E402
from lib.cli import (
    BELOW_1,
    COUNT,  # noqa: E402
)
from lib.data.collection import load_collection  # noqa: E402
from lib.data.tokens import Tokens, tokenize  # noqa: E402
from lib.evaluation import measures  # noqa: E402
from lib.evaluation.diagnostics import cosines  # noqa: E402
from lib.files import BadInput  # noqa: E402
from lib.model import gradients  # noqa: E402
from lib.model.encoder import PRECISIONS, embed, load_encoder, pick_device  # noqa: E402
from lib.model.static import train_wordpiece  # noqa: E402
from lib.model.transformer import backbones  # noqa: E402
from lib.search import exact  # noqa: E402

PARTS = ("encode", "train", "gradcache")
SIDES = ("ours", "peer")
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


def parse_args():
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--model", required=True, help="folder of a sentence-transformers model, or bert-base")
    add("--data", required=True, help="folder in BEIR layout")
    add("--docs", type=COUNT, default=512, help="docs to encode")
    add("--doc_length", type=COUNT, default=256, help="tokens of a doc when encoding")
    add("--train_length", type=COUNT, default=128, help="tokens of a text when training")
    add("--batch_size", type=COUNT, default=32, help="queries of a training step")
    add("--steps", type=COUNT, default=4, help="training steps that are timed, after one")
    add("--repeats", type=COUNT, default=3, help="times that each side runs, in turn")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    add("--device", default="cpu", help="cpu or cuda")
    add("--precision", choices=PRECISIONS, default="fp32", help="of autocast, on both sides")
    add("--cached_chunk", type=COUNT, default=32, help="texts of a chunk, of gradcache")
    add("--batch_sizes", nargs="+", type=COUNT, default=[64, 1024], help="of gradcache")
    add("--ours_only", action="store_true", help="our side alone, in this process: needs no peer")
    add("--out", metavar="FOLDER", help="where the vectors compared go; default: a temporary folder")
    add("--chunk_size", type=COUNT, help="of one process; set by the first")
    add("--dropout", type=BELOW_1, help="of one process; set by the first")
    add("--side", choices=SIDES, help="of one process; set by the first")
    add("--part", choices=PARTS[:2], help="of one process; set by the first")
    return parser.parse_args()


def main():
    args = parse_args()
    if args.side:
        return print(json.dumps(take(args)))
    if not args.ours_only:
        check_peer()
    pick_device(args.device)
    peak = matrix_product_rate(args)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"matrix product in {args.precision}: {peak / 1e9:,.0f} GFLOP/s, {where}")
    with tempfile.TemporaryDirectory() as temporary:
        args.out = args.out or temporary
        pathlib.Path(args.out).mkdir(parents=True, exist_ok=True)
        if args.model == "bert-base":
            args.model = write_model(pathlib.Path(temporary) / "bert-base", load_collection(args.data), **BASE)
        if "encode" in args.parts:
            compare(args, peak, "encode")
            compare_vectors(args)
        if "train" in args.parts:
            compare(args, peak, "train")
            compare(args, peak, "train", dropout=0.0)
        if "gradcache" in args.parts:
            print(f"\ngradcache: chunks of {args.cached_chunk} texts, one step")
            for size in args.batch_sizes:
                for side in SIDES[: 1 if args.ours_only else 2]:
                    found = measure(args, "train", side, batch_size=size, steps=1, chunk_size=args.cached_chunk)
                    memory = "" if args.ours_only else f"  peak {found['peak_mb']:,.0f} MB"
                    share = found["flops"] * 4 / 3 / found["seconds"] / peak  # with the second forward pass
                    print(
                        f"  B = {size:5} {side:5}{size / found['seconds']:8.1f} queries/s  {share:4.0%} of the matrix "
                        f"product{memory}"
                    )


def check_peer():
    """BadInput where the peer is missing."""
    try:
        importlib.metadata.version("sentence-transformers")
    except importlib.metadata.PackageNotFoundError as error:
        raise BadInput(
            f"the peer is missing ({error}): pip install sentence-transformers, or measure our side alone with "
            "--ours_only"
        ) from None


def take(args):
    """What one side of one part returns, in the process that it is measured in."""
    return {"encode": encode, "train": train}[args.part](args)


def measure(args, part, side, **changes):
    """What take() returns in a process of its own or, if our side is alone, in this one."""
    changes |= {"side": side, "part": part, "out": args.out}
    if args.ours_only:
        return take(argparse.Namespace(**vars(args) | changes))
    command = [sys.executable, *sys.argv, *(f"--{name}={value}" for name, value in changes.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(args, peak, part, **changes):
    """Print rates, share of the matrix product and, with a peer, ratios to it and memory."""
    sides = SIDES[: 1 if args.ours_only else 2]
    results = {side: [] for side in sides}
    for _ in range(args.repeats):
        for side in sides:
            results[side].append(measure(args, part, side, **changes))
    seconds = {side: statistics.median(r["seconds"] for r in found) for side, found in results.items()}
    first = {side: found[0] for side, found in results.items()}
    ours = first["ours"]
    print(
        f"\n{part} {' '.join(f'--{name} {value:g}' for name, value in changes.items())}: {ours['items']} {ours['unit']}"
    )
    for side in sides:
        against = ""
        if "peer" in sides:
            memory = first[side]["peak_mb"]
            against = (
                f"  {seconds['peer'] / seconds[side]:.2f}x the peer  "
                f"peak {memory:,.0f} MB, {memory / first['peer']['peak_mb']:.2f}x"
            )
        print(
            f"  {side:5}{ours['items'] / seconds[side]:8.1f} {ours['unit']}/s  "
            f"{ours['flops'] / seconds[side] / peak:4.0%} of the matrix product{against}"
        )


def compare_vectors(args):
    """Print how near the sides' vectors are, and nDCG@10 where a query's positives are among the docs."""
    collection = load_collection(args.data)
    sides = SIDES[: 1 if args.ours_only else 2]
    vectors = {side: np.load(pathlib.Path(args.out) / f"{side}.npy") for side in sides}
    encoder = load_encoder(args.model)
    ids = [collection.docs.ids[row] for row in doc_rows(args, collection)]
    truth, there = {}, set(ids)
    for split in collection.qrels:
        for qid, grades in collection.qrels_dict(split).items():
            if judged := {doc_id: grade for doc_id, grade in grades.items() if doc_id in there}:
                truth[qid] = judged
    q_rows = [collection.queries.row_of[qid] for qid in truth]
    q_emb = embed(encoder, tokenize(collection.queries, encoder, "query"), q_rows)
    other, named = ("peer", "the peer") if "peer" in sides else ("ours", "itself")
    for side, d_emb in vectors.items():
        scores, found = exact.top_k(q_emb, d_emb, 10)
        values = measures.per_query(measures.to_rankings(list(truth), ids, found, scores), truth)
        print(
            f"  {side:5} nDCG@10 {measures.mean(values)['ndcg@10']:.4f} ({len(truth)} queries), "
            f"lowest cosine with {named} {cosines(d_emb, vectors[other]).min():.6f}"
        )


def doc_rows(args, collection):
    """The rows of the docs that are encoded: spread over the corpus."""
    return np.linspace(0, len(collection.docs) - 1, args.docs).astype(int)


def write_model(folder, collection, **shape):
    """A BERT of this shape with random weights, whose vocabulary is of the collection's docs; returns its folder."""
    import transformers

    wordpiece = train_wordpiece(collection.docs.texts, vocab_size=30_000)
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary += [token for token in wordpiece.get_vocab() if token not in vocabulary]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(vocabulary), **shape)
    transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


def now(args):
    """Seconds, when everything asked of the device is done."""
    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def matrix_product_rate(args):
    """FLOP/s of a matrix product in the precision, on the device: the best of some."""
    dtype = PRECISIONS[args.precision] or torch.float32
    size = 8192 if args.device == "cuda" else 2048 if dtype == torch.float32 else 256  # half precision is slow there
    a, b = (torch.randn(size, size, device=args.device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        begin = now(args)
        a @ b
        best = max(best, 2 * size**3 / (now(args) - begin))
    return best


def forward_flops(backbone, lengths):
    """Multiply-adds times two of the linear layers and of attention for texts of these lengths."""
    linear = sum(p.numel() for name, p in backbone.named_parameters() if p.ndim == 2 and "embedding" not in name)
    attention = 4 * backbone.config.hidden_size * backbone.config.num_hidden_layers
    return float(sum(2 * linear * n + attention * n * n for n in lengths))


def report(args, *, seconds, items, unit, flops):
    """What one side returns."""
    peak = torch.cuda.max_memory_allocated() / 1e6 if args.device == "cuda" else run.peak_rss_mb()
    return {"seconds": seconds, "items": items, "unit": unit, "flops": flops, "peak_mb": peak}


def encode(args):
    """Encode docs; the vectors go to SIDE.npy."""
    collection = load_collection(args.data)
    texts = collection.docs.texts(doc_rows(args, collection))
    encoder = load_encoder(args.model, overrides={"doc_length": args.doc_length})
    encoder.set_device(args.device, PRECISIONS[args.precision])
    tokens = Tokens(*encoder.tokenize(texts, "doc"))
    flops = forward_flops(backbones(encoder)[0], tokens.lengths)
    if args.side != "peer":
        embed(encoder, tokens, range(min(32, len(tokens))))
        begin = now(args)
        vectors = embed(encoder, tokens)
    else:
        from sentence_transformers import SentenceTransformer

        peer = SentenceTransformer(args.model, device=args.device)
        peer.max_seq_length = args.doc_length
        if dtype := PRECISIONS[args.precision]:
            peer.to(dtype)  # as its own documentation advises to encode
        batch_size = 32 if args.device == "cpu" else 256
        peer.encode(texts[:32])
        begin = time.perf_counter()
        peer.tokenize(texts)
        tokenising = time.perf_counter() - begin
        begin = now(args) + tokenising
        vectors = peer.encode(texts, batch_size=batch_size, normalize_embeddings=True)
    seconds = now(args) - begin
    np.save(pathlib.Path(args.out) / f"{args.side}.npy", vectors)
    return report(args, seconds=seconds, items=len(texts), unit="docs", flops=flops)


def train(args):
    """Take training steps; where there are too few queries for them, they come round again."""
    torch.manual_seed(0)
    collection = load_collection(args.data)
    qrels = collection.split("train")
    steps, B = args.steps + 1, args.batch_size
    positions = np.arange(steps * B) % len(qrels)
    q_rows = qrels.queries[positions]
    positives = np.array([qrels.positives(i)[0] for i in positions])
    named = np.concatenate([positives, (positives + 7919) % len(collection.docs)])  # and a negative each
    encoder = load_encoder(args.model, overrides={"doc_length": args.train_length, "query_length": args.train_length})
    encoder.set_device(args.device, PRECISIONS[args.precision])
    q_tokens = Tokens(*encoder.tokenize(collection.queries.texts(q_rows), "query"), kind="query")
    d_tokens = Tokens(*encoder.tokenize(collection.docs.texts(named), "doc"))
    lengths = [*q_tokens.lengths[B:], *d_tokens.lengths[B : steps * B], *d_tokens.lengths[steps * B + B :]]
    flops = 3 * forward_flops(backbones(encoder)[0], lengths)
    if args.side == "ours":
        step = ours_step(args, encoder, q_tokens, d_tokens)
    else:
        step = peer_step(args, collection.queries.texts(q_rows), collection.docs.texts(named))
    if args.chunk_size is None:
        step(0)
    begin = now(args)
    for number in range(1, steps):
        step(number)
    return report(args, seconds=now(args) - begin, items=args.steps * B, unit="queries", flops=flops)


def ours_step(args, encoder, q_tokens, d_tokens):
    """step(number): what train.py does with a batch of queries, a positive and a negative each."""
    B, n = args.batch_size, (args.steps + 1) * args.batch_size
    if args.dropout is not None:
        encoder.set_dropout(args.dropout)
    optimizer = torch.optim.AdamW(encoder.train().parameters(), lr=2e-5, fused=True)
    labels = torch.arange(B, device=args.device)
    invalid = torch.zeros(B, 2 * B, dtype=torch.bool, device=args.device)

    def loss_of(q_emb, d_emb):
        return loss.contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.05)

    def step(number):
        rows = np.arange(number * B, number * B + B)
        size = args.chunk_size or 2 * B
        sides = [
            [tokens.select(part[i : i + size]) for i in range(0, len(part), size)]
            for tokens, part in ((q_tokens, rows), (d_tokens, np.concatenate([rows, n + rows])))
        ]
        gradients.backward(encoder, sides, loss_of, cached=bool(args.chunk_size))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peer_step(args, queries, docs):
    """step(number): the same by the peer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    peer = SentenceTransformer(args.model, device=args.device)
    peer.max_seq_length = args.train_length
    if args.dropout is not None:
        for module in peer.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = args.dropout
    B, n = args.batch_size, (args.steps + 1) * args.batch_size
    if args.chunk_size:
        objective = losses.CachedMultipleNegativesRankingLoss(peer, scale=20.0, mini_batch_size=args.chunk_size)
    else:
        objective = losses.MultipleNegativesRankingLoss(peer, scale=20.0)
    dtype = PRECISIONS[args.precision]
    optimizer = torch.optim.AdamW(peer.train().parameters(), lr=2e-5, fused=True)
    columns = [[peer.tokenize(texts[i : i + B]) for i in range(0, n, B)] for texts in (queries, docs[:n], docs[n:])]

    def step(number):
        features = [
            {name: x.to(args.device) if isinstance(x, torch.Tensor) else x for name, x in column[number].items()}
            for column in columns
        ]
        with torch.autocast(args.device, dtype) if dtype else contextlib.nullcontext():
            value = objective(features, None)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    process.cli(main)
