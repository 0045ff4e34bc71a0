"""A comparison as a list of runs: arms and grids, what each may cost, a process for every run."""

import dataclasses
import itertools
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from tqdm import tqdm

from lib.cli import to_flags
from lib.evaluation import comparison
from lib.files import BadInput, read_json, remove, write_json
from lib.negatives.sources import SOURCES
from lib.process import start
from lib.run import refuse_locked, run_path

BUDGETS = ("steps", "denominators", "docs_encoded", "seconds")
PILOT = 30  # steps that are timed to match seconds
PATIENCE = 40  # seconds in which a process ends in order


def expand(arms, grid, *, value_of, control=False):
    """The arms of a comparison: each with every combination of a grid; `control` adds the first on other seeds.

    grid: texts such as temperature=.01,.02; value_of(flag, text) -> the flag's value, checked.
    """
    axes = {}
    for text in grid:
        name, _, values = text.partition("=")
        if name in axes:
            raise BadInput(f"{text}: {name} stands twice in --grid or --tune")
        axes[name] = [(name, (value_of(name, value), value)) for value in values.split(",")]
    found = [arm.changed(**dict(point)) for arm in arms for point in itertools.product(*axes.values())]
    return [*found, control_of(found[0])] if control else found


def control_of(arm):
    """The arm again, with other seeds."""
    return arm.changed(seed_shift=(1000, "1000"))


@dataclasses.dataclass
class Runs:
    """The runs of a comparison: arms with every seed, a process each, all with the same flags but their own."""

    name: str  # below runs/
    folder: pathlib.Path
    flags: dict  # of every run
    seeds: list
    at_once: int  # processes
    steps: int | None  # that every run takes, if that was asked for
    full: int  # the steps of a run where nothing else decides
    announce: Callable = print  # (title, {name: number}), before runs begin

    def job(self, arm, seed, steps, own_name=None, **changes):
        """The Job of one run: this very script with the arm, the seed and a name."""
        own_name = own_name or comparison.run_folder(self.folder, arm.text, seed).name
        name = f"{self.name}/{own_name}"
        own = self.flags | {"steps": steps} | changes | {"negatives": [arm], "seeds": [seed], "name": name}
        if not arm.from_file:  # the file is another arm's
            own["negatives_file"] = None
        return Job(f"{arm}, seed {seed}", run_path(name), [sys.executable, sys.argv[0], *to_flags(own)],
                   steps or self.full)  # fmt: skip

    def folder_of(self, arm, seed):
        """Where the run of the arm of that name with a seed is."""
        return comparison.run_folder(self.folder, arm, seed)

    def run(self, title, jobs, *, goal=None):
        """Run what is not finished of these jobs or, where a step is the goal, has not been evaluated on dev there."""
        last = f"dev/{goal}.npy" if goal else "summary.json"
        left = [each for each in jobs if not (each.folder / last).exists()]
        self.announce(f"{title} -> {self.folder}", {"runs": len(jobs), "finished before": len(jobs) - len(left)})
        run_jobs(left, at_once=self.at_once, output=self.folder / "output")

    def train(self, title, arms, steps):
        """Train every arm with every seed; steps {arm: its number or None}."""
        self.run(title, [self.job(arm, seed, steps[arm]) for arm in arms for seed in self.seeds])

    def best(self, arms, *, measure):
        """The folder of the run that is best on dev, of those that know nothing of its docs beforehand."""
        folders = [comparison.run_folder(self.folder, arm.text, seed) for arm in arms for seed in self.seeds]
        summaries = {folder: read_json(folder / "summary.json", dev=dict, pool=dict) for folder in folders}
        fair = [folder for folder in folders if not comparison.mark_of(summaries[folder]["pool"])]
        return max(fair or folders, key=lambda folder: summaries[folder]["dev"][measure])

    def tune(self, tried, *, measure, control):
        """The arms at those of their settings that are best on dev with the first seed; tried {arm: its settings}."""
        settings, seed = list(itertools.chain(*tried.values())), self.seeds[0]
        self.run(f"{len(settings)} settings", [self.job(arm, seed, self.steps) for arm in settings])
        places = {arm: comparison.run_folder(self.folder, arm.text, seed) / "summary.json" for arm in settings}
        dev = {arm: read_json(place)["dev"][measure] for arm, place in places.items()}
        chosen = [max(own, key=dev.get) for own in tried.values()]
        chosen += [control_of(chosen[0])] if control else []
        scores = {arm.text: {each.text: dev[each] for each in own} for arm, own in tried.items()}
        write_json(self.folder / comparison.TUNING, {"chosen": [arm.text for arm in chosen], "tried": scores})
        return chosen

    def steps_of(self, arms, budget, **costs):
        """{arm: steps} at an equal budget, None where nothing was asked for; costs: of matched_steps().

        They are kept: seconds are not measured again when a comparison continues.
        """
        if budget == "steps":
            return dict.fromkeys(arms, self.steps)
        path = self.folder / "matched_steps.json"
        known = read_json(path) if path.exists() else {}
        if unknown := [arm for arm in arms if arm.text not in known]:
            others = [arm for arm in unknown if arm != arms[0]]
            found = matched_steps([arms[0], *others], budget=budget, steps=self.full, pilot=self.pilot, **costs)
            known |= {arm.text: steps for arm, steps in found.items()}
        write_json(path, known)
        return {arm: known[arm.text] for arm in arms}

    def pilot(self, arm):
        """The summary of a short run, which leaves nothing behind."""
        short = {"eval_every": None, "overwrite": True, "resume": False, "changed_code": False}
        timed = self.job(arm, self.seeds[0], PILOT, "pilot", **short)
        run_jobs([timed], at_once=1, output=self.folder / "output")
        summary = read_json(timed.folder / "summary.json")
        remove(timed.folder)
        return summary


def matched_steps(arms, *, budget, steps, batch_size, docs, refresh_every, pilot):
    """{arm: steps} that cost what `steps` of the first arm cost.

    batch_size(arm): queries of a step; docs(arm): how many a mining embeds.

    Costs are counted: B docs and B * K negatives are in the denominators and are encoded; a source that encodes
    the corpus does so once or at each of its minings, every refresh_every(arm) steps. Seconds are those of
    pilot(arm), which trains PILOT steps and returns the summary.
    """

    def cost(arm):  # (fixed, of a step)
        shares = arm.shares
        queued = sum(mean for name, (mean, _) in shares.items() if SOURCES[name].queue)
        explicit = sum(mean for mean, _ in shares.values()) - queued
        corpus = docs(arm)
        batch = min(corpus, batch_size(arm) * (1 + explicit))
        if budget == "denominators":
            return 0.0, batch - 1 + queued
        again = {name: share for name, (_, share) in shares.items() if SOURCES[name].every == "refresh"}
        if budget == "docs_encoded":
            once = any(SOURCES[name].encodes_corpus for name in shares if name not in again)
            each, every = batch * (2 if queued else 1), refresh_every(arm)
            return corpus * once, each + corpus * sum(again.values()) / every
        timed = pilot(arm)
        train, mine = timed["train_s"] / PILOT, timed["mine_s"]
        if again:  # the pilot may mine once, where a run mines at every refresh
            of_one = mine / math.ceil(PILOT / refresh_every(arm))
            return 0.0, train + of_one * sum(again.values()) / refresh_every(arm)
        if any(SOURCES[name].every == "step" for name in shares):
            return 0.0, train + mine / PILOT
        return mine, train

    first_fixed, first_each = cost(arms[0])
    found = {arms[0]: steps}
    for arm in arms[1:]:
        fixed, each = cost(arm)
        found[arm] = max(1, round((first_fixed + steps * first_each - fixed) / each))
    return found


# ------------------------------------------------------------------------------------------------- processes


class Job(NamedTuple):
    """A run to be made by a process of its own."""

    label: str  # for people
    folder: pathlib.Path  # the run's
    command: list
    steps: int  # that it will take


def run_jobs(jobs, *, at_once, output):
    """Run every job in a process of its own, `at_once` at a time, with one progress line for all.

    What a process prints goes to a file of the folder `output`. Processes share the cores of the machine; on
    GPUs each has devices of its own, as far as there are so many. A job that fails does not stop the others:
    BadInput names it at the end.
    """
    for job in jobs:  # before the file is emptied that such a process may write to
        refuse_locked(job.folder)
    output.mkdir(parents=True, exist_ok=True)
    waiting, running, failed = list(enumerate(jobs, 1)), {}, []
    with tqdm(total=sum(job.steps for job in jobs), unit="step", desc=f"{len(jobs)} runs") as bar:
        finished = 0
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    slot = min(set(range(at_once)) - running.keys())
                    number, job = waiting.pop(0)
                    running[slot] = number, job, _start(job, slot, at_once, output), time.monotonic()
                time.sleep(0.1)
                for slot, (number, job, process, begun) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[slot]
                    finished += job.steps
                    if process.returncode:
                        failed.append((job, _last_line(output, job)))
                    bar.write(
                        f"run {number} of {len(jobs)}: {job.label}: {_outcome(job, process.returncode)} "
                        f"({time.monotonic() - begun:.0f} s)"
                    )
                reached = finished + sum(min(_step(job), job.steps) for _, job, _, _ in running.values())
                bar.update(max(0, reached - bar.n))
        finally:
            for _, _, process, _ in running.values():
                process.terminate()
            for _, _, process, _ in running.values():
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
    if failed:
        job, line = failed[0]
        raise BadInput(
            f"{len(failed)} of {len(jobs)} runs failed, the first is {job.label}: {line} (all that "
            f"it printed is in {output}/); the same command with --resume continues"
        )


def _start(job, slot, at_once, output):
    env = {"TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"}
    if at_once > 1:  # the cores are shared, unless the user has divided them
        threads = max(1, (os.cpu_count() or 1) // at_once)
        env["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(threads))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if devices := gpu_of(slot, visible, torch.cuda.device_count()):
            env["CUDA_VISIBLE_DEVICES"] = devices
    with open(output / f"{job.folder.name}.txt", "w", encoding="utf-8") as out:
        return start(job.command, stdout=out, stderr=subprocess.STDOUT, env=env)


def gpu_of(slot, visible, count):
    """CUDA_VISIBLE_DEVICES of a job: one of those that are visible; None where there is only one."""
    if count < 2:
        return None
    every = visible.split(",") if visible else list(map(str, range(count)))
    return every[slot % len(every)]


def _outcome(job, code):
    summary = job.folder / "summary.json"
    if code:
        return f"failed with exit code {code}"
    if not summary.exists():
        return "pauses"
    return ", ".join(f"test {name} {value:.4f}" for name, value in list(read_json(summary)["test"].items())[:2])


def _step(job):
    """The last step that a run has logged."""
    try:
        with open(job.folder / "metrics.jsonl", "rb") as log:
            log.seek(-min(4096, os.fstat(log.fileno()).st_size), os.SEEK_END)
            found = log.read().rpartition(b'"step": ')[2]
        return int(found.partition(b",")[0].strip(b"} \n") or 0)
    except (OSError, ValueError):
        return 0


def _last_line(output, job):
    lines = (output / f"{job.folder.name}.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1].removeprefix("error: ") if lines else "it printed nothing"
