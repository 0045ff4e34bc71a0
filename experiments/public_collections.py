"""Make a collection in BEIR layout from a clone of a public repository.

    git clone --depth 1 https://github.com/TellinaTool/nl2bash
    python experiments/public_collections.py nl2bash nl2bash made/nl2bash
    python -m lib.data.check made/nl2bash

What each is and what it is for: docs/collections.md. The line that is printed is its row there: docs, queries of train,
dev and test, and the fingerprint, by which it is seen whether another clone gives the same collection. Data has the
licence of its source and is not kept here.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments import makers_to_test, makers_to_train  # noqa: E402
from lib import cli, process  # noqa: E402
from lib.data import beir  # noqa: E402
from lib.data.collection import load_collection  # noqa: E402
from lib.files import BadInput, atomic_path  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Row:
    """A collection: its maker, the repository that it is made from, and the licence of the data."""

    function: Callable
    source: str
    licence: str


COLLECTIONS = {
    "jaquad": Row(makers_to_train.jaquad, "SkelterLabsInc/JaQuAD", "CC BY-SA 3.0"),
    "nl2bash": Row(makers_to_train.nl2bash, "TellinaTool/nl2bash", "MIT (data/bash)"),
    "tldr": Row(makers_to_train.tldr, "tldr-pages/tldr", "CC BY 4.0"),
    "covidqa": Row(makers_to_train.covidqa, "deepset-ai/COVID-QA", "Apache 2.0"),
    "wordnet": Row(makers_to_train.wordnet, "globalwordnet/english-wordnet", "CC BY 4.0"),
    "wordnet-examples": Row(makers_to_train.wordnet_examples, "globalwordnet/english-wordnet", "CC BY 4.0"),
    "banking77": Row(makers_to_train.banking77, "PolyAI-LDN/task-specific-datasets", "CC BY 4.0"),
    "mediqa": Row(makers_to_test.mediqa, "abachaa/MEDIQA2019", "none named"),
    "cisi": Row(makers_to_test.cisi, "Shakiba-Alipour/Information-Retrieval-on-CISI", "none named"),
    "med": Row(makers_to_test.med, "ronancummins/gen_polya", "none named"),
    "cacm": Row(makers_to_test.cacm, "castorini/anserini + castorini/anserini-tools", "none named"),
    "cosqa": Row(makers_to_test.cosqa, "Jun-jie-Huang/CoCLR", "C-UDA"),
}


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument("name", choices=COLLECTIONS, metavar="NAME", help=", ".join(COLLECTIONS))
    parser.add_argument("clone", type=pathlib.Path, metavar="CLONE", help="folder of the clone")
    parser.add_argument("out", type=pathlib.Path, metavar="OUT", help="folder to write; it must not be there")
    parser.add_argument("--more", type=pathlib.Path, metavar="CLONE", help="cacm: a clone of anserini-tools")
    return parser.parse_args()


def make(name, clone, more, out):
    """Write a collection, whole or not at all; what it is loaded as."""
    for folder in (clone, more):
        if folder and not folder.is_dir():
            raise BadInput(f"{folder}: no such folder; a clone of {COLLECTIONS[name].source} is wanted")
    if out.exists():
        raise BadInput(f"{out}: is there already; remove it, or name another folder")
    if more and name != "cacm":
        raise BadInput(f"--more: {name} is made from one repository")
    docs, queries, judged = COLLECTIONS[name].function(clone, more)
    if not (docs and judged):
        raise BadInput(f"{clone}: gives {len(docs):,} docs and {len(judged):,} judged queries; is the clone whole?")
    with atomic_path(out) as temporary:
        beir.write_collection(temporary, docs, queries, judged)
        try:
            load_collection(temporary, strict=True, quiet=True)  # before it is in its place
        except BadInput as error:
            raise BadInput(f"{clone}: {str(error).replace(str(temporary), out.name)}") from None
    return load_collection(out)


def row(name, collection):
    """The collection's row of docs/collections.md, without what only people can say."""
    by_split = " / ".join(f"{len(collection.qrels.get(split, ())):,}" for split in beir.SPLITS)
    return f"| {name} | {len(collection.docs):,} | {by_split} | `{collection.fingerprint}` |"


def main():
    args = parse_args()
    collection = make(args.name, args.clone, args.more, args.out)
    print(f"wrote   {args.out}/")
    print(row(args.name, collection))
    published = ROOT / "docs" / "collections.md"
    if published.is_file() and collection.fingerprint not in published.read_text(encoding="utf-8"):
        print("note    not the fingerprint of docs/collections.md: another state of the source, or files are missing")


if __name__ == "__main__":
    process.cli(main)
