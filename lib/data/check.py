"""A look at a collection before it is trained on: what is wrong, with file and line, and what is worth knowing.

    python -m lib.data.check FOLDER            # or any other --data
    python -m lib.data.check faq.csv --out check

Exit code 1 if something in it would make training or evaluation wrong.
"""

import collections
import pathlib

import numpy as np

from lib import cli, process
from lib.data import beir, readers
from lib.data.collection import load_collection
from lib.data.texts import plain
from lib.data.words import normalise, words
from lib.figure import STYLES, figure
from lib.files import BadInput, read_json, write_json

SHOWN = 20  # problems of a kind that are printed; the file has them all
QUANTILES = (0.5, 0.9, 0.99, 1.0)


def problems_of_lines(folder):
    """[message] of every line of corpus.jsonl and queries.jsonl that cannot be read, not only the first."""
    wrong = []
    for path in (plain(folder / "corpus.jsonl"), plain(folder / "queries.jsonl")):
        if path.is_file():
            collections.deque(beir.records(path, wrong), maxlen=0)
        else:
            wrong.append(f"{path}: no such file")
    return wrong


def left_out(folders):
    """A sentence for each kind of what readers left out of collections that they wrote."""
    for name, folder in folders:
        if (path := folder / "dropped.json").is_file():
            for what, places in read_json(path).items():
                some = ", ".join(places[:SHOWN]) + " ..." * (len(places) > SHOWN)
                yield f"{name}: {what}, left out: {len(places):,} ({some})"


LEAK = "queries that are train queries with the same relevant doc"  # of dev or test: nothing is measured by them


def check_parts(collection, *, batch_size):
    """BadInput if one of several collections is smaller than a batch; a warning if dev or test queries are train's."""
    joined = list(collection.parts)
    counts = np.bincount(collection.part_of(collection.split("train").queries), minlength=len(joined))
    if joined and counts.min() < batch_size:
        name = joined[int(counts.argmin())]
        raise BadInput(
            f"--data: {name} has {counts.min():,} train queries, fewer than --batch_size {batch_size}, and a batch "
            "is of one collection"
        )
    warn_of_leaks(collection)


def warn_of_leaks(collection):
    """A warning where dev's or test's queries are train queries too, with the same doc.

    By their very texts, which costs nothing; of several collections, whose splits nobody made together, as leaks() has
    it, but for case and punctuation.
    """
    found = leaks(collection) if collection.parts else repeated(collection)
    for what, ids in found.items():
        if LEAK in what:
            why = "the collections were split apart" if collection.parts else "what they measure is no new question"
            print(f"warning: {what}: {len(ids):,} ({', '.join(ids[:3])}): {why}")


def repeated(collection):
    """{what: [ids]}: queries of dev and test whose text, with one of their docs, is that of a train query."""
    queries, docs = collection.queries.groups.astype(np.int64), collection.docs.groups

    def pairs(qrels):
        rows = np.repeat(qrels.queries, np.diff(qrels.indptr))
        relevant = qrels.grades >= 1
        return rows[relevant], queries[rows[relevant]] * len(docs) + docs[qrels.docs[relevant]]

    trained, found = pairs(collection.split("train"))[1], {}
    for split in collection.qrels.keys() - {"train"}:
        rows, asked = pairs(collection.qrels[split])
        if len(again := np.unique(rows[np.isin(asked, trained)])):
            found[f"{split} {LEAK}"] = [collection.queries.ids[row] for row in again]
    return dict(sorted(found.items()))


def leaks(collection):
    """{what: [ids]}: queries of dev and test that training knows something of; texts but for case and punctuation."""
    found = collections.defaultdict(list)
    groups, train = collection.docs.groups, collection.qrels.get("train")
    if train is None:
        return found
    of_text, trained = collections.defaultdict(dict), set(groups[train.docs[train.grades >= 1]].tolist())
    for i, row in enumerate(train.queries):
        own = of_text[normalise(collection.queries.text(row))]
        own |= dict.fromkeys(groups[train.positives(i)].tolist(), collection.queries.ids[row])
    for split, qrels in collection.qrels.items():
        for i, row in enumerate(qrels.queries if split != "train" else ()):
            qid, same = collection.queries.ids[row], of_text.get(normalise(collection.queries.text(row)), {})
            positives = groups[qrels.positives(i)].tolist()
            if both := [same[doc] for doc in positives if doc in same]:
                found[f"{split} {LEAK}"].append(f"{qid} = {both[0]}")
            elif same:
                what = f"{split} queries that are train queries with other relevant docs"
                found[what].append(f"{qid} = {next(iter(same.values()))}")
            elif trained & set(positives):
                found[f"{split} queries whose relevant doc is a train query's too (new wordings are measured)"].append(
                    qid
                )
    return found


def numbers(collection):
    """{name: number or text} worth knowing before training."""
    docs, queries = collection.docs, collection.queries
    known = {word for row in range(len(docs)) for word in words(docs.text(row))}
    judged = collection.qrels.values()
    labelled = np.unique(docs.groups[np.concatenate([q.docs[q.grades >= 1] for q in judged])]) if judged else []
    found = {"docs": len(docs), "queries": len(queries)}
    for split, qrels in collection.qrels.items():
        positives = [len(qrels.positives(i)) for i in range(len(qrels))]
        found[f"{split} queries"] = len(qrels)
        found[f"docs judged and not relevant, {split}"] = int((qrels.grades < 1).sum())
        found[f"positives of a {split} query"] = f"{np.mean(positives):.2f} (at most {max(positives)})"
    groups = len(np.unique(docs.groups))
    found |= {
        "docs with the text of another": len(docs) - groups,
        "queries with the text of another": len(queries) - len(np.unique(queries.groups)),
        "docs without a text": len(docs.blank),
        "queries without a text": len(queries.blank),
        "docs that no query is labelled with": f"{1 - len(labelled) / max(1, groups):.1%}",
    }
    for split, qrels in collection.qrels.items():
        unknown = sum(not set(words(queries.text(row))) & known for row in qrels.queries)
        found[f"{split} queries of which no doc has a word"] = unknown
    if full := nothing_left(collection):
        found["train queries of which every doc is a positive"] = full
    for what, texts in (("doc", docs), ("query", queries)):
        lengths = [len(text.split()) for text in texts.texts()]
        ends = ", ".join(f"{int(np.quantile(lengths, q)):,}" for q in QUANTILES)
        found[f"words of a {what} (half, 90 %, 99 %, all have at most)"] = ends
    return found


def nothing_left(collection):
    """How many train queries have no doc that could be their negative: all texts are known positives."""
    if "train" not in collection.qrels:
        return 0
    counts = np.diff(collection.known[0])[collection.qrels["train"].queries]
    return int((counts >= len(np.unique(collection.docs.groups))).sum())


def draw(path, collection):
    """How long docs and queries are."""
    with figure(path, 2, width=4.5) as axes:
        for ax, (what, texts) in zip(axes, (("doc", collection.docs), ("query", collection.queries))):
            lengths = np.array([len(text.split()) for text in texts.texts()])
            ax.hist(np.minimum(lengths, np.quantile(lengths, 0.99)), bins=40, color=STYLES[0][0])
            ax.set(xlabel=f"words of a {what} (the longest hundredth in the last bar)", ylabel="number")


def main():
    """Print what is wrong, what is odd and what is worth knowing of one collection."""
    parser = cli.Parser(__doc__)
    parser.add_argument("data", help=readers.HELP)
    parser.add_argument("--out", metavar="FOLDER", help="write check.json and check.png there")
    args = parser.parse_args()
    name, folders, collection, odd, notes, found = args.data, [], None, {}, [], {}
    try:
        folders = [readers.find(spec) for spec in readers.split(args.data)]
        name = readers.JOIN.join(each for each, _ in folders)
        wrong = [message for _, folder in folders for message in problems_of_lines(folder)]
    except beir.Malformed as error:
        wrong = error.all
    if not wrong:
        try:
            collection = load_collection(args.data, quiet=True)
            wrong, notes = list(collection.faults.values()), [*left_out(folders), *collection.notes]
            odd, found = leaks(collection), numbers(collection)
            if "train" in collection.qrels and not collection.faults:
                load_collection(args.data, cut=beir.SPLITS[1:], quiet=True)  # which train.py needs
            if "train" in collection.qrels and nothing_left(collection) == len(collection.qrels["train"]):
                wrong.append("every doc is a positive of every train query: nothing is left to be a negative")
        except BadInput as error:
            wrong.append(str(error))
    for message in wrong[:SHOWN]:
        print(f"wrong   {process.one_line(message, 300)}")
    if len(wrong) > SHOWN:
        print(f"wrong   ... and {len(wrong) - SHOWN:,} more (--out FOLDER writes all of them)")
    for note in notes:
        print(f"odd     {process.one_line(note, 300)}")
    for what, ids in odd.items():
        some = ", ".join(ids[:5]) + " ..." * (len(ids) > 5)
        print(f"{'wrong' if LEAK in what else 'odd':8}{what}: {len(ids):,} ({some})")
    for what, value in found.items():
        print(f"        {what:58} {value:,}" if isinstance(value, int) else f"        {what:58} {value}")
    if args.out:
        out = pathlib.Path(args.out)
        write_json(out / "check.json", {"wrong": wrong, "odd": notes, "leaks": odd, "numbers": found})
        if collection:
            draw(out / "check.png", collection)
        print(f"wrote   {out}/: check.json" + (", check.png" if collection else ""))
    bad = bool(wrong) or any(LEAK in what for what in odd)
    print(f"{name}: " + ("not fit to train on as it is" if bad else "nothing in it makes training wrong"))
    if not bad and args.data and "train" in collection.qrels:
        print(f"next    python train.py --data {cli.quoted(args.data)} --plan")
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    process.cli(main)
