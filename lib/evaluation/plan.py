"""What a training would do and cost, and with which settings: `train.py --plan`.

The settings are rules of our tables (docs/comparison.md, docs/pools.md, docs/models.md); time and memory are measured:
the very run is begun, watched for a few steps and one evaluation, and stopped.
"""

import pathlib
import secrets
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

from lib.cli import to_flags
from lib.evaluation import retrieval, significance
from lib.files import BadInput, remove
from lib.negatives import prices
from lib.negatives.pool import labelled
from lib.process import start
from lib.run import Run, run_path

STEPS = 30  # that are timed, and the first of them left out
LOG_EVERY = 5
FEW = 4  # steps of a transformer that are timed
LONGEST = 75  # seconds that a run is watched for
SHARE = (
    0.4  # of what one encoder's values spread by over queries, the differences of two arms do: .2 to .54 in our tables
)
RUN = 0.005  # of a run's MRR@10 over seeds: .0024 to .0087 there
FIGURES = 3.0  # seconds that a run's figures and last files take


class Advice(NamedTuple):
    """A setting and why."""

    flag: str
    value: object
    why: str


def settings(queries, *, smallest, static, batch_size=None):
    """[Advice] for a training of an encoder on so many train queries, most important first.

    smallest: train queries of the smallest of several collections, whose batches are its own; batch_size: what the
    user asks for.
    """
    batch = batch_size or (128 if smallest >= 20_000 else 32 if smallest >= 320 else max(4, smallest // 10))
    if not static:
        batch = batch_size or (64 if smallest >= 640 else max(4, smallest // 10))
    steps = max(1, queries // batch)
    epochs = 3.0 if 3 * steps >= 300 else min(60.0, float(-(-300 // steps)))
    if not static:
        epochs = float(max(2, -(-100 // steps)))
    enough = queries >= 1000
    found = [
        Advice(
            "negatives",
            ["refresh:4" if enough else "in_batch"],
            "hard negatives mined again helped from 1,000 queries up on MedQuAD, and on five of ten collections "
            "(docs/pools.md, docs/comparison.md)"
            if enough
            else "with about 700 queries hard negatives gained nothing from scratch (docs/models.md)",
        ),
        Advice(
            "batch_size",
            batch,
            "what our tables of large collections were made with"
            if batch >= 128
            else "what our tables of small collections were made with"
            if batch >= 32
            else "a tenth of the queries: a larger batch would hold much of so few docs",
        ),
        Advice("epochs", epochs, f"{round(epochs * steps):,} steps; with fewer than 300 little is learned"),
    ]
    if not static:
        why = "what our tables of MiniLM were made with (docs/transformers.md)"
        few = (
            f"{round(epochs * steps):,} steps; on nl2bash two epochs brought MiniLM-L3 to .63 MRR@10, 100 steps to .54"
        )
        return [found[0], Advice("batch_size", batch, why), Advice("epochs", epochs, few)]
    if queries < 5000:
        found.append(
            Advice(
                "init",
                None,
                "add --init MODEL, say sentence-transformers/all-MiniLM-L6-v2: a start from pretrained word vectors "
                "decided with 700 queries, and gained .003 with 11,931 (docs/models.md)",
            )
        )
    return found


class Cost(NamedTuple):
    """What was measured of a run that was stopped: seconds, and bytes."""

    begin: float  # until its first step, without mining
    step: float
    mining: float  # of one mining
    evaluation: float  # on dev
    memory: float  # MB, the most so far

    def total(self, *, steps, minings, evaluations):
        """Seconds of a whole run; the test split is one more evaluation, and the geometry of dev another."""
        return self.begin + steps * self.step + minings * self.mining + (evaluations + 2) * self.evaluation + FIGURES


def measure(flags, *, docs, queries, batch_size, explicit, embeds):
    """The Cost of the run of train.py with these flags, or None where LONGEST seconds do not show enough of it.

    docs, queries: how many a mining embeds; embeds: whether the arm's minings embed the corpus. A static encoder's run
    is begun twice, since the first time fills the cache, and watched until it is evaluated. Of a transformer's, a few
    steps are timed, with `explicit` random negatives a query in place of mined ones: it embeds three times as fast as
    it trains, since gradients take twice a forward pass.
    """
    name = f"plan-{secrets.token_hex(6)}"  # no run of the user's is called so
    transformer = flags.get("encoder", "static") != "static"
    how = {"name": name, "overwrite": True, "eval_every": STEPS, "log_every": LOG_EVERY}
    if transformer:
        how |= {"no_untrained": True, "log_every": 1, "eval_every": None}
        if embeds:
            how |= {"negatives": [f"random:{max(1, round(explicit))}"]}
            how |= dict.fromkeys(("negatives_file", "miner", "mine_index", "by"))
    elif _watch(flags | how, 1, least=3) is None:
        return None
    seen = _watch(flags | how, FEW if transformer else STEPS + 1, least=1 if transformer else 3)
    if seen is None:
        return None
    rows, memory, started = seen
    steps = [row for row in rows if row["event"] == "step"]
    first, last, after = steps[0], [row for row in steps if row["step"] < STEPS][-1], steps[-1]
    step = (last["spent"]["train"] - first["spent"]["train"]) / max(1, last["step"] - first["step"])
    if last is first:  # a step that takes longer than a minute: the first, which is a little slower, has to do
        step = first["spent"]["train"] / (1 + first["step"])
    begin = started + first["seconds"] - first["spent"]["mine"]
    if transformer:
        of_text = step / (batch_size * (1 + explicit)) / 3
        return Cost(begin, step, (docs + queries) * of_text, docs * of_text * embeds, memory)
    mining = first["spent"]["mine"]
    evaluation = after["seconds"] - last["seconds"] - (after["spent"]["mine"] - last["spent"]["mine"])
    evaluation -= (after["step"] - last["step"]) * step  # and what is saved then
    if after is last:  # too short a run for a step behind its first evaluation
        done = [row["spent"]["evaluate"] for row in rows if row["event"] == "evaluation"]
        if not done:
            return None
        evaluation = done[-1] - last["spent"].get("evaluate", 0.0)
    return Cost(begin, step, mining, max(0.0, evaluation), memory)


def _watch(flags, count, *, least):
    """Begin a run and stop it when step `count` is logged.

    Returns (rows with their times, the most memory in MB, seconds until it began).
    After LONGEST seconds what there is will do, if it is `least` steps, else None.
    """
    folder, began = run_path(flags["name"]), time.monotonic()
    command = [sys.executable, sys.argv[0], *to_flags(flags)]
    output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
    process = start(command, stdout=output, stderr=subprocess.STDOUT, env={"TQDM_DISABLE": "1"})
    seen, memory, started = [], 0.0, None
    try:
        while time.monotonic() - began < LONGEST:
            memory = max(memory, _peak_mb(process.pid))
            seen = [row for row in _log(folder) if "spent" in row]
            logged = [row["step"] for row in seen if row["event"] == "step"]
            if seen and started is None:
                started = time.monotonic() - began - seen[0]["seconds"]
            if process.poll() is not None or logged and logged[-1] >= count - 1:
                break
            time.sleep(0.05)
        else:
            return (seen, memory, started) if len(logged) >= least else None
        if process.returncode:
            output.seek(0)
            last = output.read().strip().splitlines()[-1:]
            raise BadInput(f"--plan: {last[0].removeprefix('error: ') if last else 'the run did not begin'}")
        return seen, memory, started
    finally:
        process.kill()
        process.wait()
        output.close()
        remove(folder)


def _log(folder):
    path = folder / "timing.jsonl"
    try:
        return Run(folder).read_log("timing.jsonl") if path.exists() else []
    except BadInput:  # a line that is being written
        return []


def _peak_mb(pid):
    """The most memory that a process has had resident, in MB; 0 where the system does not say."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM")), 0.0)


def describe(collection):
    """{name: text} of what the advice depends on."""
    train = collection.split("train")
    lengths = {
        what: np.array(
            [len(texts.text(int(row)).split()) for row in np.linspace(0, len(texts) - 1, min(2000, len(texts)))]
        )
        for what, texts in (("doc", collection.docs), ("query", collection.queries))
    }
    positives = [len(train.positives(i)) for i in range(len(train))]
    found = {
        "docs": f"{len(collection.docs):,}, of half at most {np.median(lengths['doc']):.0f} words, "
        f"of nine tenths {np.quantile(lengths['doc'], 0.9):.0f}",
        "queries": f"{len(train):,} to train on, {len(collection.split('dev')):,} dev, "
        f"{len(collection.split('test')):,} test; of half at most {np.median(lengths['query']):.0f} words",
        "positives of a query": f"{np.mean(positives):.2f}",
        "docs with a label in training": f"{labelled(collection).mean():.0%}",
    }
    return found


def least_difference(collection, spread, measure):
    """The least difference that the test queries can show, as a sentence.

    spread: the standard deviation over queries of what the encoder has before training, as measured on dev.
    """
    queries, spread, least = len(collection.split("test")), SHARE * spread, retrieval.FEW
    if queries < least:
        return f"{queries} test queries are too few to show a difference between two arms: {least} at least are wanted"
    least = {n: significance.detectable(spread**2 / queries, 2 * RUN**2 / n, freedom=n - 1) for n in (3, 5)}
    return (
        f"least difference to be shown between two arms, with {queries:,} test queries: {least[3]:.3f} {measure} with "
        f"3 seeds, {least[5]:.3f} with 5 (power 80 %; if differences spread by {spread:.2f} over queries, {SHARE:g} of "
        f"what the encoder's own values do on dev, and means by {RUN} over seeds)"
    )


def show(collection, advice):
    """Print what a plan says before anything is measured."""
    print(f"== plan for {collection.name}")
    if collection.negatives:
        print("   --data brings negatives of its own, which --negatives file:4 draws from")
    for name, text in describe(collection).items():
        print(f"   {name}: {text}")
    for flag, value, why in advice:
        shown = "MODEL" if value is None else " ".join(map(str, value)) if isinstance(value, list) else value
        print(f"   --{flag} {shown}: {why}")
    if (priced := prices.nearest(collection, "train")) and priced.false.low > 0:
        print(
            f"   {prices.cost(0.01, priced)}: mine_negatives.py --audit 0.3 --filters ... estimates how many there "
            "are, and whether a filter pays"
        )


def show_cost(cost, counts, *, runs, jobs):
    """Print what a run was measured to cost, and what so many runs, `jobs` at a time, will take."""
    if cost is None:
        return print(f"   no forecast: {LONGEST} s do not show enough of a run; what they made is cached: ask again")
    seconds = cost.total(**counts)
    print(
        f"   measured: {cost.step * 1e3:.1f} ms a step, {cost.mining:.1f} s a mining, {cost.evaluation:.1f} s an "
        f"evaluation, {cost.begin:.1f} s to begin\n"
        f"   forecast: {seconds:.0f} s for {counts['steps']:,} steps, "
        f"{counts['minings']} mining{'s' * (counts['minings'] != 1)}, "
        f"{counts['evaluations']} evaluations on dev and one on test; {cost.memory:,.0f} MB of memory"
    )
    if runs > 1:
        print(
            f"   {runs} runs, {jobs} at a time: at most {seconds * runs / 60:.1f} minutes if they share the cores; "
            "measured of the arm with the most negatives"
        )
