"""Write questions and answers of a collection as a CSV, as somebody's own data would be: for the numbers in README.md.

python experiments/table_of.py --data medquad --rows 200 --out faq.csv
"""

import csv
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import cli, process
from lib.data.collection import load_collection
from lib.files import atomic_path


def main():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    add("--data", required=True, help="the collection; the first queries of its train split are taken")
    add("--rows", type=cli.COUNT, default=200, help="how many")
    add("--out", required=True, help="the CSV to write")
    args = parser.parse_args()
    collection = load_collection(args.data)
    qrels = collection.split("train")
    with atomic_path(args.out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["Question", "Answer"])
        for i, row in enumerate(qrels.queries[: args.rows]):
            out.writerow([collection.queries.text(row), collection.docs.text(qrels.positives(i)[0])])
    print(f"wrote   {args.out} ({min(args.rows, len(qrels)):,} rows)")


if __name__ == "__main__":
    process.cli(main)
