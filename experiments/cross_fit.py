"""Cut a collection into parts that are trained on and tested in turn: for one too small to set a test side apart.

    python experiments/cross_fit.py --data xquad-en --parts 3 --by title --out parts/xquad

writes parts/xquad-0, -1 and -2: the whole corpus each, with one third of the questions as test and the rest as train.
Questions fall together by a field of their (best) positive doc, so that no article is asked about on both sides. Every
question is tested once, by models that never saw one of its article.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np

from lib import cli, process
from lib.data.collection import load_collection
from lib.files import BadInput, atomic_path
from lib.rng import uniform


def parse_args():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    add("--data", required=True, help="the collection")
    add("--parts", type=cli.number(int, least=2, most=100), default=3, help="how many parts")
    add(
        "--by",
        default="title",
        metavar="FIELD",
        help="of the positive doc; questions with the same value stay together",
    )
    add("--out", required=True, help="where the folders go: OUT-0, OUT-1 ...")
    return parser.parse_args()


def main():
    args = parse_args()
    collection = load_collection(args.data)
    lines = []  # (value of the field, qid, doc id, grade) of all splits
    for split in collection.qrels:
        for qid, judged in collection.qrels_dict(split).items():
            best = max(judged, key=judged.get)
            value = collection.docs.record(collection.docs.row_of[best]).get(args.by)
            if not isinstance(value, str):
                raise BadInput(f"--by {args.by}: doc {best} has no such text")
            lines += [(value, qid, doc_id, grade) for doc_id, grade in judged.items()]
    values = sorted({value for value, *_ in lines})
    if len(values) < args.parts:
        raise BadInput(f"--by {args.by} has {len(values)} values, fewer than --parts {args.parts}")
    part_of = {values[i]: rank % args.parts for rank, i in enumerate(np.argsort(uniform(0, np.arange(len(values)))))}
    for part in range(args.parts):
        with atomic_path(f"{args.out}-{part}") as folder:
            (folder / "qrels").mkdir(parents=True)
            for name, texts in (("corpus", collection.docs), ("queries", collection.queries)):
                with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as out:
                    for row in range(len(texts)):
                        out.write(json.dumps(texts.record(row), ensure_ascii=False) + "\n")
            for split in ("train", "test"):
                with open(folder / "qrels" / f"{split}.tsv", "w", encoding="utf-8") as out:
                    out.write("query-id\tcorpus-id\tscore\n")
                    for value, qid, doc_id, grade in lines:
                        if (part_of[value] == part) == (split == "test"):
                            out.write(f"{qid}\t{doc_id}\t{grade}\n")
        print(f"wrote   {args.out}-{part}/")


if __name__ == "__main__":
    process.cli(main)
