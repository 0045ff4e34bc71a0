"""Every step of the pipeline on collections of MS MARCO's layout and of growing size: seconds and peak memory.

    python tests/bench/scale.py --docs 100000 1000000 --folder scale       # writes scale/N/, measures, prints a table
    python tests/bench/scale.py --docs 1000000 --folder scale --steps read in_batch index

The collections are made up, in the files of MS MARCO (collection.tsv, queries.*.tsv, qrels.*.tsv), which the reader
`trec:` takes: words by Zipf's law, lengths as there (56 words a doc, 6 a query), docs of a topic share words, a query
has words of its doc and some of others, 17 docs for each train query, a second relevant doc for one query in sixteen.
Each step is one of the scripts in a process of its own, so that its peak memory is its own; a step whose result is
there is not repeated, and a killed measurement goes on.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from lib import cli, process  # noqa: E402
from lib.figure import figure, legend_beside, looks  # noqa: E402
from lib.files import BadInput, atomic_path, markdown, read_json, write_json  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS, TOPIC_WORDS, BLOCK = 300_000, 40, 50_000  # of all docs; of a topic; docs written together
QUERIES = {"train": 17, "dev": 1300, "test": 1300}  # docs for each query of a split
TRAIN = "train.py --data {data} --steps {steps} --dim 256 --batch_size 256 --dev_docs 20000 --no_untrained --name"
STEPS = {  # a command each; {data}: how the reader names the collection
    "read": "-m lib.data.check {data}",
    "in_batch": f"{TRAIN} in_batch --negatives in_batch",
    "bm25:4": f"{TRAIN} bm25 --negatives bm25:4",
    "refresh:4": f"{TRAIN} refresh --negatives refresh:4",
    "refresh:4, all docs": f"{TRAIN} all --negatives refresh:4 --negative_docs all",
    "mine": "mine_negatives.py --run runs/refresh --depth 10",
    "index": "build_index.py --run runs/refresh",
    "evaluate": "evaluate.py --run runs/refresh",
    "answer": "rag_demo.py --run runs/refresh --generator extractive",
}


def parse_args():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    add("--docs", nargs="+", type=cli.COUNT, default=[100_000], help="sizes of the collection")
    add("--folder", required=True, help="where collections, cache, runs and results go, in a folder for each size")
    add("--steps", nargs="+", choices=tuple(STEPS), default=list(STEPS), help="what is measured")
    add("--train_steps", type=cli.COUNT, default=2000, help="of each training")
    return parser.parse_args()


def name_words(numbers):
    """Pronounceable words for numbers: syllables of a consonant and a vowel."""
    syllables = [c + v for c in "bcdfghjklmnprstvz" for v in "aeiou"]
    found = []
    for number in numbers:
        word = syllables[number % 85]
        while number := number // 85:
            word += syllables[number % 85]
        found.append(word)
    return np.array(found)


def zipf(random, size):
    """Numbers of words by Zipf's law: the n-th most frequent in proportion to 1 / (n + 2)."""
    return np.minimum(np.exp(random.random(size) * np.log((WORDS + 2) / 2)) * 2 - 2, WORDS - 1).astype(np.int64)


def of_topic(topics, ranks):
    """The words of topics: spread over all words, the same ones for the same topic."""
    return (topics * 7_919 + (ranks + 1) * 104_729) % (WORDS - 1000) + 1000


def make_block(random, first, last, topics):
    """(numbers of words, flat; where each doc begins) of docs first to last."""
    lengths = np.clip(random.lognormal(3.95, 0.4, last - first), 8, 200).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    doc = np.repeat(np.arange(first, last), lengths)
    ranks = (random.random(len(doc)) ** 2 * TOPIC_WORDS).astype(np.int64)
    own = random.random(len(doc)) < 0.35
    return np.where(own, of_topic(doc % topics, ranks), zipf(random, len(doc))), starts


def make(folder, docs):
    """Write the collection of so many docs, unless it is there."""
    if folder.exists():
        return
    random, topics, words = np.random.default_rng(docs), max(1, docs // 30), name_words(range(WORDS))
    asked = {split: random.choice(docs, max(50, docs // each), replace=False) for split, each in QUERIES.items()}
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        files = {split: open(temporary / f"queries.{split}.tsv", "w") for split in QUERIES}
        judged = {split: open(temporary / f"qrels.{split}.tsv", "w") for split in QUERIES}
        queries = {}
        for split, rows in asked.items():
            queries |= {int(row): (split, f"{split}{i}") for i, row in enumerate(np.sort(rows)) if row not in queries}
        with open(temporary / "collection.tsv", "w") as out:
            for first in range(0, docs, BLOCK):
                last = min(docs, first + BLOCK)
                numbers, starts = make_block(random, first, last, topics)
                texts = words[numbers]
                for i, row in enumerate(range(first, last)):
                    own = texts[starts[i] : starts[i + 1]]
                    out.write(f"{row}\t{' '.join(own)}\n")
                    if row in queries:
                        split, qid = queries[row]
                        rare = numbers[starts[i] : starts[i + 1]]
                        picked = own[np.argsort(rare * random.random(len(rare)))[::-1][: random.integers(4, 9)]]
                        noise = words[zipf(random, random.integers(0, 3))]
                        files[split].write(f"{qid}\t{' '.join([*picked, *noise])}\n")
                        relevant = [row] if random.random() > 1 / 16 else [row, (row + topics) % docs]
                        judged[split].writelines(f"{qid}\t0\t{doc}\t1\n" for doc in relevant)
        for file in (*files.values(), *judged.values()):
            file.close()


def measure(command, *, cwd, env):
    """{seconds, seconds of the processor, peak memory in MB} of a command; BadInput if it fails."""
    began = time.monotonic()
    with open(cwd / "output.txt", "w+", encoding="utf-8") as out:
        child = subprocess.Popen([sys.executable, *command], cwd=cwd, stdout=out, stderr=subprocess.STDOUT, env=env)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise BadInput(f"{' '.join(command)} failed: see {cwd}/output.txt")
    spent = {"seconds": time.monotonic() - began, "cpu_s": usage.ru_utime + usage.ru_stime}
    return {name: round(value, 1) for name, value in spent.items()} | {"peak_mb": round(usage.ru_maxrss / 1024)}


def draw(path, table):
    """Seconds and memory of each step by the number of docs."""
    with figure(path, 2, width=5.6) as axes:
        for (step, of), look in zip(table.items(), looks()):
            for ax, values in zip(axes, zip(*((each["seconds"], each["peak_mb"] / 1024) for each in of.values()))):
                ax.plot(list(of), values, label=step, **look)
        for ax, label in zip(axes, ("seconds", "peak memory, GB")):
            ax.set(xscale="log", yscale="log", xlabel="docs", ylabel=label)
        legend_beside(axes[1])


def main():
    args = parse_args()
    table = {step: {} for step in args.steps}
    for docs in args.docs:
        home = pathlib.Path(args.folder).absolute() / str(docs)
        began = time.monotonic()
        make(home / "marco", docs)
        print(f"{docs:,} docs at {home}/marco ({time.monotonic() - began:.0f} s)", flush=True)
        path, env = home / "measured.json", os.environ | {"HARDNEG_CACHE": str(home / "cache")}
        for step in args.steps:
            known = read_json(path) if path.exists() else {}
            if step not in known:
                command = STEPS[step].format(data=f"trec:{home}/marco", steps=args.train_steps).split()
                if command[0].endswith(".py"):
                    command[0] = str(ROOT / command[0])
                command += ["what is asked here?"] if step == "answer" else []
                where = {"PYTHONPATH": str(ROOT)} if command[0] == "-m" else {}
                known[step] = measure(command, cwd=home, env=env | where)
                write_json(path, known)
            table[step][docs] = known[step]
            print(f"{step}: {json.dumps(known[step])}", flush=True)
    rows = [
        [step, *(f"{of[docs]['seconds']:,.0f} s, {of[docs]['peak_mb'] / 1024:.1f} GB" for docs in args.docs)]
        for step, of in table.items()
    ]
    if len(args.docs) > 1:
        draw(pathlib.Path(args.folder) / "scale.png", table)
    print(f"\n{markdown(['step', *(f'{docs:,} docs' for docs in args.docs)], rows)}")


if __name__ == "__main__":
    process.cli(main)
