"""Train a question-answering model that points at spans, for `rag_demo.py --generator qa:FOLDER`.

    python experiments/train_reader.py --encoder MODEL --data parts/xquad-0 --out runs/reader-0

Each train question is read with its positive doc, where its first gold answer (`metadata.answers`) stands, and with
--negatives docs that BM25 ranks high and that hold no gold answer: there the model learns to point at [CLS], which
means that the doc does not answer (Rajpurkar et al. 2018, SQuAD 2.0). The folder that it writes is a Hugging Face
question-answering model.
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
from lib.data.beir import metadata_of
from lib.data.collection import load_collection
from lib.files import BadInput, atomic_path
from lib.model.encoder import local_folder, pick_device
from lib.rng import permutation, uniform
from lib.search.bm25 import BM25


def parse_args():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    add("--encoder", required=True, help="folder or hub name of the transformer to start from")
    add("--data", required=True, help="the collection; its train split is used")
    add("--negatives", type=cli.number(int, least=0, most=20), default=1, help="docs without the answer, a question")
    add("--epochs", type=cli.COUNT, default=3, help="passes over the questions")
    add("--batch_size", type=cli.COUNT, default=12, help="pairs of question and doc a step")
    add("--length", type=cli.COUNT, default=256, help="tokens of a pair")
    add("--lr", type=cli.ABOVE_0, default=2e-4, help="learning rate at its highest")
    add("--seed", type=cli.SEED, default=0, help="of the order, the draws and the new layer")
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--out", required=True, help="folder to write")
    return parser.parse_args()


def pairs(collection, args):
    """[(question, doc, (first character, end) of the answer, or None)] of the train split."""
    qrels, found = collection.split("train"), []
    texts = collection.queries.view(qrels.queries)
    hits = BM25.load(collection.docs).search(texts, 20)
    for i, row in enumerate(qrels.queries):
        answers = metadata_of(collection.queries.record(row)).get("answers") or []
        spans = []
        for doc in collection.docs.texts(qrels.positives(i)):
            spans += [(doc, doc.find(a)) for a in answers[:1] if isinstance(a, str) and a and a in doc]
        if not spans:
            continue
        doc, begin = spans[0]
        found.append((texts[i], doc, (begin, begin + len(answers[0]))))
        others = [
            doc for doc in collection.docs.texts(hits.rows[i][hits.rows[i] >= 0]) if not any(a in doc for a in answers)
        ]
        for pick in np.argsort(uniform(args.seed, int(row), np.arange(len(others))))[: args.negatives]:
            found.append((texts[i], others[pick], None))
    if not found:
        raise BadInput(f"--data {args.data}: no train question has metadata.answers that stand in its positive doc")
    return found


def targets(inputs, spans):
    """(n, 2) tokens where the answers begin and end; 0 and 0, [CLS], where there is none or it was cut off."""
    out = torch.zeros(len(spans), 2, dtype=torch.long)
    for i, span in enumerate(spans):
        if span is None:
            continue
        kinds, offsets = inputs.sequence_ids(i), inputs["offset_mapping"][i].tolist()
        own = [t for t, (a, b) in enumerate(offsets) if kinds[t] == 1 and a < span[1] and b > span[0]]
        if own and offsets[own[-1]][1] >= span[1]:
            out[i] = torch.tensor([own[0], own[-1]])
    return out


def main():
    args = parse_args()
    device = pick_device(args.device)
    torch.manual_seed(args.seed)
    folder = local_folder(args.encoder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = args.length  # saved with it
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).to(device).train()
    examples = pairs(load_collection(args.data), args)
    per_epoch = -(-len(examples) // args.batch_size)
    steps, warm = args.epochs * per_epoch, max(1, args.epochs * per_epoch // 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, (steps - s) / (steps - warm + 1))
    )
    begin, losses = time.perf_counter(), []
    bar = tqdm(total=steps, unit="step", desc="training")
    for epoch in range(args.epochs):
        order = permutation(len(examples), args.seed, epoch)
        # batches of similar length hold little padding; their order is random
        size = 20 * args.batch_size
        chunks = [sorted(order[i : i + size], key=lambda j: len(examples[j][1])) for i in range(0, len(order), size)]
        batches = [chunk[i : i + args.batch_size] for chunk in chunks for i in range(0, len(chunk), args.batch_size)]
        for pick in permutation(len(batches), args.seed, epoch, 1):
            part = [examples[i] for i in batches[pick]]
            inputs = tokenizer(
                [q for q, _, _ in part], [d for _, d, _ in part], truncation="only_second", max_length=args.length,
                padding=True, return_tensors="pt", return_offsets_mapping=True,
            )  # fmt: skip
            wanted = targets(inputs, [span for _, _, span in part]).to(device)
            inputs.pop("offset_mapping")
            output = model(**inputs.to(device))
            loss = (
                F.cross_entropy(output.start_logits, wanted[:, 0]) + F.cross_entropy(output.end_logits, wanted[:, 1])
            ) / 2
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(), schedule.step(), optimizer.zero_grad()
            losses.append(loss.item())
            bar.update()
            if len(losses) % 50 == 0:
                bar.write(f"step {len(losses):5}  loss {np.mean(losses[-50:]):.4f}")
    with atomic_path(args.out) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    print(
        f"wrote   {args.out}/  ({len(examples):,} pairs, loss {np.mean(losses[-50:]):.3f}, "
        f"{time.perf_counter() - begin:.0f} s)"
    )
    print(
        f"next    python rag_demo.py --eval --run runs/R --data {cli.quoted(args.data)} "
        f"--generator qa:{cli.quoted(args.out)}"
    )


if __name__ == "__main__":
    process.cli(main)
