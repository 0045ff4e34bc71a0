"""Hide a collection's train and dev questions and make others from its docs: what is a folder without questions worth?

python experiments/without_questions.py --data medquad --kind dropped --out hidden/medquad-dropped
python experiments/without_questions.py --data medquad --kind lm --generator hf:MODEL --docs 2000 --out hidden/lm
python train.py --data hidden/medquad-dropped --negatives in_batch refresh:4 --seeds 0 1 2

Every doc, or every one of a sample, gets one query of the kind, nine tenths of them to train on and a tenth for dev;
the test questions are the collection's own. lm: a language model is asked for a question that the doc answers.
"""

import json
import pathlib
import re
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import cli, process
from lib.data import beir
from lib.data.collection import load_collection
from lib.data.made_queries import KINDS
from lib.files import BadInput, atomic_path
from lib.model.encoder import pick_device
from lib.rag.generators import open_generator
from lib.rag.prompts import Template
from lib.rag.store import Answers
from lib.rng import uniform

ASK = """Each text is followed by a question that it answers.

Text: [1] Bees make honey from the nectar of flowers. They store it in combs of wax, to eat in winter.
Question: Why do bees store honey?

Text: [1] The library opens at nine and closes at six, on Saturdays at one. Books may be kept for four weeks.
Question: How long can I keep a book from the library?

Text: {documents}
Question:"""
TOKENS = {"context_tokens": 160, "answer_tokens": 24}


def written(collection, rows, spec, place):
    """{doc row: the first line of what a language model replies}, asked for once: it stands in the file `place`."""
    generator = open_generator(
        spec, device=pick_device(None), model=None, timeout=60, template=Template("", ASK), **TOKENS
    )
    if hasattr(generator, "tokenizer"):
        generator.tokenizer.chat_template = None  # small models continue a text better than they follow orders
    texts = [("", (collection.docs.text(row),)) for row in rows]
    answers = Answers(place, generator).ask(texts, desc="questions")
    return {row: re.sub(r"\s*\[\d+\]", "", answer.text).split("\n")[0] for row, answer in zip(rows, answers)}


def main():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    add("--data", required=True, help="the collection")
    add("--kind", required=True, choices=[*KINDS, "lm"], help="how queries are made")
    add("--generator", metavar="G", help="with --kind lm: the language model, as rag_demo.py takes it")
    add("--docs", type=cli.COUNT, metavar="N", help="make queries of N docs, the same ones for every kind")
    add("--out", required=True, help="folder to write")
    args = parser.parse_args()
    collection = load_collection(args.data)
    if (args.kind == "lm") != bool(args.generator):
        raise BadInput("--kind lm and --generator come together")
    queries, judged, rows = [], [], np.arange(len(collection.docs))
    rows = np.sort(np.argsort(uniform("docs that are asked for", rows))[: args.docs]).tolist()
    if args.kind == "lm":
        texts = written(collection, rows, args.generator, f"{args.out}.answers.jsonl")
    else:
        texts = {row: KINDS[args.kind](collection.docs.record(row), row) for row in rows}
    for row in rows:
        ident = collection.docs.ids[row]
        if not (text := texts[row].strip()):
            continue
        queries.append({"_id": f"made:{ident}", "text": text})
        split = "dev" if beir.split_by_hash(ident) == "dev" else "train"
        judged.append((f"made:{ident}", split, {ident: 1}))
    if not queries:
        raise BadInput(f"--kind {args.kind}: no doc of {args.data} gives a query of this kind")
    asked = collection.qrels_dict("test")
    queries += [collection.queries.record(collection.queries.row_of[qid]) for qid in asked]
    judged += [(qid, "test", grades) for qid, grades in asked.items()]
    docs = (collection.docs.record(row) for row in range(len(collection.docs)))
    with atomic_path(args.out) as temporary:
        beir.write_collection(temporary, docs, queries, judged)
    counts = {split: sum(of == split for _, of, _ in judged) for split in beir.SPLITS}
    print(f"wrote   {args.out}: {json.dumps(counts)}")


if __name__ == "__main__":
    process.cli(main)
