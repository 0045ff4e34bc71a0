"""Make a collection of short docs from Debian's package descriptions, a quarter of them without any query.

    curl -LO http://deb.debian.org/debian/dists/bookworm/main/i18n/Translation-en.xz
    python experiments/debian_collection.py Translation-en.xz debian
    python train.py --data debian --negatives in_batch refresh:4 --seeds 0 1 2 --jobs 2

The query is a package's one-line description, the doc its longer one (at most 60 words, without the line). It was
kept aside: no default of train.py was chosen on it.
"""

import hashlib
import json
import lzma
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import cli, process  # noqa: E402
from lib.data.beir import write_qrels  # noqa: E402
from lib.files import BadInput, atomic_path  # noqa: E402

WORDS = 60  # most of a doc


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument("source", help="Translation-en.xz of a Debian release")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--docs", type=cli.COUNT, default=20_000, help="packages to take, by a hash of their names")
    return parser.parse_args()


def main():
    args = parse_args()
    found, names = {}, set()
    for name, line, text in packages(args.source):
        text = " ".join(text.split()[:WORDS])
        if len(text.split()) >= 8 and text not in found and name not in names:  # versions of a package are one
            found[text] = name, line
            names.add(name)
    chosen = sorted(found.items(), key=lambda item: digest("take", item[1][0]))[: args.docs]
    if len(chosen) < 10:
        raise BadInput(f"{args.source}: {len(chosen)} descriptions of packages; is it a Translation file of Debian?")
    seen, judged = set(), {"train": {}, "dev": {}, "test": {}}
    with atomic_path(pathlib.Path(args.out)) as folder:
        (folder / "qrels").mkdir(parents=True)
        with open(folder / "corpus.jsonl", "w") as corpus, open(folder / "queries.jsonl", "w") as queries:
            for text, (name, line) in chosen:
                corpus.write(json.dumps({"_id": name, "title": "", "text": text}) + "\n")
                if digest("label", name) % 4 == 0 or line.lower() in seen or len(line.split()) < 3:
                    continue
                seen.add(line.lower())
                queries.write(json.dumps({"_id": f"q-{name}", "text": line}) + "\n")
                split = {0: "dev", 1: "test"}.get(digest("split", name) % 10, "train")
                judged[split][f"q-{name}"] = {name: 1}
        for split, grades in judged.items():
            write_qrels(folder / "qrels" / f"{split}.tsv", grades)
    counts = ", ".join(f"{len(grades):,} {split}" for split, grades in judged.items())
    print(f"wrote   {args.out}/: {len(chosen):,} docs, queries: {counts}")


def packages(path):
    """(name, one-line description, longer description) of each package of a Translation file."""
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            text = file.read()
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None
    for block in text.split("\n\n"):
        head, _, rest = block.partition("\nDescription-en: ")
        if rest:
            line, *body = rest.split("\n")
            yield head.split("\n")[0].removeprefix("Package: "), line, " ".join(part for part in body if part != " .")


def digest(*key):
    """A number that depends on the key alone."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


if __name__ == "__main__":
    process.cli(main)
