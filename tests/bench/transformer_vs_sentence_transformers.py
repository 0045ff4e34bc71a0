"""Time a transformer encoder against sentence-transformers on the same work: encoding, and a training step.

    pip install sentence-transformers                               # the peer; nothing else here needs it
    python tests/bench/transformer_vs_sentence_transformers.py --model FOLDER --data FOLDER

Each side runs in a process of its own, so that peak memory is its own; the sides alternate, and the medians
are reported. Same weights, texts, lengths and outputs (the lowest cosine is printed); tokenising is timed on
neither side. The share of peak is that of a 2048-cube float32 matrix product, measured in the same run.

encode     --docs docs of --doc_length tokens at most, ours in blocks by length, the peer in batches of 32;
           ours also in int8, with nDCG@10 of the queries whose positives are among the docs
train      steps of --batch_size queries with one positive and one negative each, 128 tokens: forward,
           in-batch and explicit negatives, backward, AdamW; dropout as the model has it, then without on
           both sides
gradcache  ours alone: a step with cached gradients in chunks of 32 texts, peak memory by size of batch
"""
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from lib import data, index, loss, metrics, model, run  # noqa: E402

PARTS = ("encode", "train", "gradcache")


def parse_args():
    parser = run.parser(__doc__)
    parser.add_argument("--model", required=True, help="folder of a sentence-transformers model")
    parser.add_argument("--data", required=True, help="folder in BEIR layout")
    parser.add_argument("--docs", type=int, default=512, help="docs to encode")
    parser.add_argument("--doc_length", type=int, default=256, help="tokens of a doc when encoding")
    parser.add_argument("--batch_size", type=int, default=32, help="queries of a training step")
    parser.add_argument("--steps", type=int, default=4, help="training steps that are timed, after one")
    parser.add_argument("--repeats", type=int, default=3, help="times that each side runs, in turn")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[64, 1024], help="of gradcache")
    parser.add_argument("--chunk_size", type=int, help="of one process; set by the first")
    parser.add_argument("--dropout", type=float, help="of one process; set by the first")
    parser.add_argument("--side", choices=("ours", "int8", "peer"),
                        help="of one process; set by the first")
    parser.add_argument("--part", choices=("encode", "train"), help="of one process; set by the first")
    parser.add_argument("--out", default=tempfile.gettempdir(), help="folder for the vectors compared")
    return parser.parse_args()


def main():
    args = parse_args()
    if args.side:
        return {"encode": encode, "train": train}[args.part](args)
    peak = matrix_product_rate()
    print(f"2048-cube float32 matrix product: {peak / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads")
    if "encode" in args.parts:
        compare(args, peak, "encode", sides=("ours", "int8", "peer"))
        compare_vectors(args)
    if "train" in args.parts:
        compare(args, peak, "train", sides=("ours", "peer"))
        compare(args, peak, "train", sides=("ours", "peer"), options=("--dropout", "0"))
    if "gradcache" in args.parts:
        print("\ngradcache: chunks of 32 texts, one step")
        for size in args.batch_sizes:
            found = in_a_process(args, "train", "ours", "--batch_size", str(size), "--steps", "1",
                                 "--chunk_size", "32")
            rate = size / found["seconds"]
            print(f"  B = {size:5}  {rate:8.1f} queries/s  peak {found['peak_mb']:,.0f} MB")


def in_a_process(args, part, side, *options):
    """What report() said in a process of its own."""
    command = [sys.executable, *sys.argv, "--side", side, "--part", part, "--out",
               str(pathlib.Path(args.out) / f"{side}.npy"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(args, peak, part, *, sides, options=()):
    """Print rates, share of the matrix product, memory, and ratios to the peer."""
    results = {side: [] for side in sides}
    for _ in range(args.repeats):
        for side in sides:
            results[side].append(in_a_process(args, part, side, *options))
    seconds = {side: statistics.median(r["seconds"] for r in found) for side, found in results.items()}
    first = {side: found[0] for side, found in results.items()}
    print(f"\n{part} {' '.join(options)}: {first['ours']['items']} {first['ours']['unit']}")
    for side in sides:
        found, memory = first[side], first[side]["peak_mb"]
        print(f"  {side:5}{found['items'] / seconds[side]:8.1f} {found['unit']}/s  "
              f"{first['ours']['flops'] / seconds[side] / peak:4.0%} of the matrix product  "
              f"{seconds['peer'] / seconds[side]:.2f}x the peer  "
              f"peak {memory:,.0f} MB, {memory / first['peer']['peak_mb']:.2f}x")


def compare_vectors(args):
    """Print how near the sides' vectors are, and nDCG@10 where a query's positives are among the docs."""
    collection = data.load_collection(args.data)
    rows = doc_rows(args, collection)
    vectors = {side: np.load(pathlib.Path(args.out) / f"{side}.npy") for side in ("ours", "int8", "peer")}
    encoder = model.load_encoder(args.model)
    ids = [collection.docs.ids[row] for row in rows]
    truth = {}
    for split in collection.qrels:
        for qid, grades in collection.qrels_dict(split).items():
            if there := {doc_id: grade for doc_id, grade in grades.items() if doc_id in set(ids)}:
                truth[qid] = there
    q_rows = [collection.queries.row_of[qid] for qid in truth]
    q_emb = model.embed(encoder, data.tokenize(collection.queries, encoder, "query"), q_rows)
    for side, d_emb in vectors.items():
        scores, found = index.exact_search(q_emb, d_emb, 10)
        values = metrics.per_query(metrics.to_rankings(list(truth), ids, found, scores), truth)
        print(f"  {side:5} nDCG@10 {metrics.mean(values)['ndcg@10']:.4f} ({len(truth)} queries), "
              f"lowest cosine with the peer {metrics.cosines(d_emb, vectors['peer']).min():.6f}")


def doc_rows(args, collection):
    """The rows of the docs that are encoded: spread over the corpus."""
    return np.linspace(0, len(collection.docs) - 1, args.docs).astype(int)


def matrix_product_rate():
    """FLOP/s of a float32 matrix product, the best of some."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = 0.0
    for _ in range(8):
        begin = time.perf_counter()
        a @ b
        best = max(best, 2 * 2048 ** 3 / (time.perf_counter() - begin))
    return best


def forward_flops(backbone, lengths):
    """Multiply-adds times two of the linear layers and of attention for texts of these lengths."""
    linear = sum(p.numel() for name, p in backbone.named_parameters()
                 if p.ndim == 2 and "embedding" not in name)
    attention = 4 * backbone.config.hidden_size * backbone.config.num_hidden_layers
    return float(sum(2 * linear * n + attention * n * n for n in lengths))


def report(*, seconds, items, unit, flops):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"seconds": seconds, "items": items, "unit": unit, "flops": flops, "peak_mb": peak}))


def encode(args):
    collection = data.load_collection(args.data)
    texts = collection.docs.texts(doc_rows(args, collection))
    encoder = model.load_encoder(args.model, overrides={"doc_length": args.doc_length})
    tokens = data.Tokens(*encoder.tokenize(texts, "doc"))
    flops = forward_flops(encoder.doc_tower.backbone, tokens.lengths)
    if args.side != "peer":
        if args.side == "int8":
            encoder.quantize()
        model.embed(encoder, tokens, range(32))
        begin = time.perf_counter()
        vectors = model.embed(encoder, tokens)
    else:
        from sentence_transformers import SentenceTransformer
        peer = SentenceTransformer(args.model, device="cpu")
        peer.max_seq_length = args.doc_length
        peer.encode(texts[:32])
        begin = time.perf_counter()
        peer.tokenize(texts)
        tokenising = time.perf_counter() - begin
        begin = time.perf_counter() + tokenising
        vectors = peer.encode(texts, batch_size=32, normalize_embeddings=True)
    report(seconds=time.perf_counter() - begin, items=len(texts), unit="docs", flops=flops)
    np.save(args.out, vectors)


def train(args):
    torch.manual_seed(0)
    collection = data.load_collection(args.data)
    qrels = collection.split("train")
    steps, B = args.steps + 1, args.batch_size
    q_rows = qrels.queries[:steps * B]
    positives = np.array([qrels.positives(i)[0] for i in range(steps * B)])
    named = np.concatenate([positives, (positives + 7919) % len(collection.docs)])  # and a negative each
    encoder = model.load_encoder(args.model, overrides={"doc_length": 128, "query_length": 128})
    q_tokens = data.Tokens(*encoder.tokenize(collection.queries.texts(q_rows), "query"), kind="query")
    d_tokens = data.Tokens(*encoder.tokenize(collection.docs.texts(named), "doc"))
    lengths = [*q_tokens.lengths[B:], *d_tokens.lengths[B:steps * B], *d_tokens.lengths[steps * B + B:]]
    flops = 3 * forward_flops(encoder.doc_tower.backbone, lengths)
    step = ours_step(args, encoder, q_tokens, d_tokens) if args.side == "ours" else \
        peer_step(args, collection.queries.texts(q_rows), collection.docs.texts(named))
    if args.chunk_size is None:
        step(0)
    begin = time.perf_counter()
    for number in range(1, steps):
        step(number)
    report(seconds=time.perf_counter() - begin, items=args.steps * B, unit="queries", flops=flops)


def ours_step(args, encoder, q_tokens, d_tokens):
    B, n = args.batch_size, (args.steps + 1) * args.batch_size
    if args.dropout is not None:
        encoder.set_dropout(args.dropout)
    optimizer = torch.optim.AdamW(encoder.train().parameters(), lr=2e-5, fused=True)
    labels, invalid = torch.arange(B), torch.zeros(B, 2 * B, dtype=torch.bool)

    def loss_of(q_emb, d_emb):
        return loss.contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.05)

    def step(number):
        rows = np.arange(number * B, number * B + B)
        size = args.chunk_size or 2 * B
        sides = [[tokens.select(part[i:i + size]) for i in range(0, len(part), size)]
                 for tokens, part in ((q_tokens, rows), (d_tokens, np.concatenate([rows, n + rows])))]
        loss.backward(encoder, sides, loss_of, cached=bool(args.chunk_size))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


def peer_step(args, queries, docs):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    peer = SentenceTransformer(args.model, device="cpu")
    peer.max_seq_length = 128
    if args.dropout is not None:
        for module in peer.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = args.dropout
    B, n = args.batch_size, (args.steps + 1) * args.batch_size
    objective = MultipleNegativesRankingLoss(peer, scale=20.0)
    optimizer = torch.optim.AdamW(peer.train().parameters(), lr=2e-5, fused=True)
    columns = [[peer.tokenize(texts[i:i + B]) for i in range(0, n, B)]
               for texts in (queries, docs[:n], docs[n:])]

    def step(number):
        objective([dict(column[number]) for column in columns], None).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


if __name__ == "__main__":
    main()
