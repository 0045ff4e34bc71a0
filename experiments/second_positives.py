"""Give each train query of a collection a second positive: half of its doc, planted in the corpus and judged relevant.

    python experiments/second_positives.py --data debian --out made/debian-second
    python train.py --data made/debian-second --negatives "bm25:4 inject=positives:0" "bm25:4 inject=positives:.25"

For experiments on false negatives (--inject), which keep one positive of each query aside. The half is a span of
the doc's words that begins where a hash of the query says. Queries with several positives, and docs of fewer than ten
words, stay as they are; dev and test have the same judgements as before.
"""

import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import cli, process  # noqa: E402
from lib.data import beir, readers  # noqa: E402
from lib.data.collection import load_collection  # noqa: E402
from lib.files import atomic_path  # noqa: E402
from lib.rng import uniform  # noqa: E402

LEAST = 10  # words of a doc that is halved


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument("--data", required=True, metavar="DATA", help=readers.HELP)
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="FOLDER", help="collection to write")
    return parser.parse_args()


def main():
    args = parse_args()
    collection = load_collection(args.data, cut=("dev", "test"))
    judged = {split: collection.qrels_dict(split) for split in collection.qrels}
    train, records = collection.split("train"), []
    for i, row in enumerate(train.queries.tolist()):
        docs = np.unique(collection.docs.groups[train.positives(i)])
        record = collection.docs.record(int(docs[0]))
        words = (record.get("text") or "").split()
        if len(docs) > 1 or len(words) < LEAST:
            continue
        begin = int(uniform("second positive", row) * (len(words) - len(words) // 2 + 1))
        qid = collection.queries.ids[row]
        ident = f"{record['_id']}~half-for-{qid}"
        records.append(record | {"_id": ident, "text": " ".join(words[begin : begin + len(words) // 2])})
        judged["train"][qid] |= {ident: 1}
    with atomic_path(args.out) as folder:
        (folder / "qrels").mkdir(parents=True)
        for texts, name, more in ((collection.docs, "corpus", records), (collection.queries, "queries", ())):
            with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
                for record in (*map(texts.record, range(len(texts))), *more):
                    file.write(json.dumps(record) + "\n")
        for split, grades in judged.items():
            beir.write_qrels(folder / "qrels" / f"{split}.tsv", grades)
    print(f"wrote   {args.out}/: {len(records):,} of {len(train):,} train queries have a second positive")


if __name__ == "__main__":
    process.cli(main)
