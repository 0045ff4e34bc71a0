"""What in the pool does harm? Train on a share of the train queries, with pools that differ in which unlabelled docs
they hold (the table of docs/pools.md).

python experiments/parts_of_the_pool.py --data medquad --share 0.3 --draw 0 --out parts/medquad-30-0
python experiments/parts_of_the_pool.py --data python --share 0.3 --draw 0 --out parts/python-30-0

Docs without a label are of two kinds here: held out, which dev or test queries look for, and others, which only train
queries that were not drawn look for. Writes the collection and a file of doc ids for each pool, and prints the command
that trains on them all. The files know the labels of dev and test, which is the point: --allow_leak.
"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import cli, process, rng
from lib.data import beir
from lib.data.collection import load_collection
from lib.files import atomic_path, write_text
from lib.negatives.pool import doc_states


def drawn(collection, share, draw):
    """The judgements [(qid, split, grades)] of dev, test and a share of the train queries."""
    judged = []
    for split in beir.SPLITS:
        grades = collection.qrels_dict(split)
        if split == "train":
            keep = rng.uniform("parts", draw, np.arange(len(grades))) < share
            grades = {qid: own for (qid, own), kept in zip(grades.items(), keep) if kept}
        judged += [(qid, split, own) for qid, own in grades.items()]
    return judged


def pools_of(collection, draw):
    """{name: doc rows}: the labelled docs with equally many of either kind, and the corpus without held-out docs."""
    unlabelled, held_out = (np.flatnonzero(found) for found in doc_states(collection).values())
    others = np.setdiff1d(unlabelled, held_out)
    count = min(len(others), len(held_out))
    some = {kind: rows[np.argsort(rng.uniform(kind, draw, rows))[:count]]
            for kind, rows in (("others", others), ("held out", held_out))}  # fmt: skip
    labelled = np.setdiff1d(np.arange(len(collection.docs)), unlabelled)
    return {
        "labelled-and-others": np.union1d(labelled, some["others"]),
        "labelled-and-held-out": np.union1d(labelled, some["held out"]),
        "all-but-held-out": np.union1d(labelled, others),
    }


def main():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    add("--data", required=True, help="the collection")
    add("--share", type=cli.SHARE, default=0.3, help="of the train queries")
    add("--draw", type=cli.SEED, default=0, help="which of the draws of that share")
    add("--out", required=True, help="folder to write")
    args = parser.parse_args()
    whole = load_collection(args.data)
    judged = drawn(whole, args.share, args.draw)
    queries = (whole.queries.record(whole.queries.row_of[qid]) for qid, *_ in judged)
    docs = (whole.docs.record(row) for row in range(len(whole.docs)))
    with atomic_path(args.out) as temporary:
        beir.write_collection(temporary, docs, list(queries), judged)
    collection = load_collection(args.out)
    arms = ["in_batch", "refresh:4", '"refresh:4 negative_docs=all"']
    for name, rows in pools_of(collection, args.draw).items():
        path = pathlib.Path(args.out) / f"{name}.txt"
        write_text(path, "".join(f"{collection.docs.ids[row]}\n" for row in rows))
        arms.append(f'"refresh:4 negative_docs={path}"')
        print(f"{name}: {len(rows):,} docs")
    print(f"next    python train.py --data {cli.quoted(args.out)} --allow_leak --seeds 0 1 2 3 4 --negatives", *arms)


if __name__ == "__main__":
    process.cli(main)
