"""Hide a collection's train and dev questions and make others from its docs: what is a folder without questions worth?

python experiments/without_questions.py --data medquad --kind dropped --out hidden/medquad-dropped
python train.py --data hidden/medquad-dropped --negatives in_batch refresh:4 --seeds 0 1 2

Every doc gets one query of the kind, nine tenths of them to train on and a tenth for dev; the test questions are the
collection's own.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import cli, process
from lib.data import beir
from lib.data.collection import load_collection
from lib.data.made_queries import KINDS
from lib.files import BadInput, atomic_path


def main():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    add("--data", required=True, help="the collection")
    add("--kind", required=True, choices=KINDS, help="how queries are made")
    add("--out", required=True, help="folder to write")
    args = parser.parse_args()
    collection = load_collection(args.data)
    queries, judged = [], []
    for row, ident in enumerate(collection.docs.ids):
        if not (text := KINDS[args.kind](collection.docs.record(row), row).strip()):
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
