"""Train a cross-encoder for --rerank and --cross_encoder on the train splits of collections.

    python experiments/train_cross_encoder.py --encoder MODEL --data medquad python --retriever runs/M runs/R \\
        --out runs/judge

Each train query is read together with a positive and with --negatives docs that a retriever ranks high; the loss is
the cross-entropy of the positive's score among them (localised contrastive estimation, Gao et al. 2021, 2101.08751).
The folder that it writes is a Hugging Face sequence classifier with one output.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from tqdm import tqdm

from lib import cli, process
from lib.data.collection import load_collection
from lib.files import BadInput, atomic_path
from lib.model.encoder import local_folder, pick_device
from lib.rng import uniform
from lib.search.retriever import open_retriever

CANDIDATES = 30  # best docs of which the negatives are drawn


def parse_args():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    add("--encoder", required=True, help="folder or hub name of the transformer to start from")
    add("--data", nargs="+", required=True, help="collections whose train splits are used")
    add("--retriever", nargs="+", default=["bm25"], help="what finds the negatives: one, or one for each collection")
    add("--queries", type=cli.COUNT, default=1500, help="train queries of each collection")
    add("--negatives", type=cli.COUNT, default=3, help="docs read beside the positive")
    add("--batch_size", type=cli.COUNT, default=8, help="queries a step")
    add("--length", type=cli.COUNT, default=160, help="tokens of a pair")
    add("--lr", type=cli.ABOVE_0, default=5e-5, help="learning rate at its highest")
    add("--seed", type=cli.SEED, default=0, help="of the order, the draws and the new layer")
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--out", required=True, help="folder to write")
    args = parser.parse_args()
    if len(args.retriever) not in (1, len(args.data)):
        raise BadInput("--retriever: one for all, or one for each of --data")
    return args


def groups(data, retriever, args, device):
    """(query, [a positive, negatives ...]) of some train queries of one collection."""
    collection = load_collection(data)
    qrels = collection.split("train")
    picks = np.argsort(uniform(args.seed, 0, np.arange(len(qrels))))[: args.queries]
    rows = qrels.queries[picks]
    hits = open_retriever(retriever, collection, device=device).search(collection.queries.view(rows), CANDIDATES)
    wrong = np.where(collection.no_negative(rows, hits.rows), -1, hits.rows)
    found = []
    for pick, row, docs, draws in zip(
        picks, rows, wrong, uniform(args.seed, 1, np.arange(wrong.size)).reshape(wrong.shape)
    ):
        docs = docs[np.argsort(draws)]
        docs = docs[docs >= 0][: args.negatives]
        if len(docs) == args.negatives:
            texts = collection.docs.texts([qrels.positives(pick)[0], *docs])
            found.append((collection.queries.text(row), texts))
    return found


def main():
    args = parse_args()
    device = pick_device(args.device)
    torch.manual_seed(args.seed)
    folder = local_folder(args.encoder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = args.length  # saved with it: pairs are scored at the length of training
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).to(device).train()
    retrievers = args.retriever * (len(args.data) // len(args.retriever))
    examples = [each for pair in zip(args.data, retrievers) for each in groups(*pair, args, device)]
    order = np.argsort(uniform(args.seed, 2, np.arange(len(examples))))
    steps = len(order) // args.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, (steps - s) / (steps - warm + 1))
    )
    begin, losses = time.perf_counter(), []
    bar = tqdm(range(steps), unit="step", desc="training")
    for step in bar:
        part = [examples[i] for i in order[step * args.batch_size : (step + 1) * args.batch_size]]
        inputs = tokenizer(
            [query for query, docs in part for _ in docs], [doc for _, docs in part for doc in docs],
            truncation=True, max_length=args.length, padding=True, return_tensors="pt",
        ).to(device)  # fmt: skip
        scores = model(**inputs).logits.view(len(part), -1)  # (B, 1 + K), the positive first
        loss = F.cross_entropy(scores, torch.zeros(len(part), dtype=torch.long, device=device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(), schedule.step(), optimizer.zero_grad()
        losses.append((loss.item(), (scores.argmax(1) == 0).float().mean().item()))
        if (step + 1) % 50 == 0:
            loss, right = np.mean(losses[-50:], axis=0)
            bar.write(f"step {step + 1:5}  loss {loss:.4f}  positive first {right:.1%}")
    with atomic_path(args.out) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    print(f"wrote   {args.out}/  ({len(examples):,} queries, {time.perf_counter() - begin:.0f} s)")
    print(f"next    python evaluate.py --run runs/R --rerank {cli.quoted(args.out)} --rerank_depth 20")


if __name__ == "__main__":
    process.cli(main)
