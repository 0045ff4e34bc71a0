"""The comparison of arms: statistics made only from what lies in the run folders."""

import itertools
import pathlib
from typing import NamedTuple

import numpy as np

from lib import run
from lib.evaluation import checks, measures
from lib.evaluation.measures import RANKED
from lib.files import NUMBER, BadInput, atomic_path, check_keys, fingerprint, read_json, reading

TUNING = "tuning.json"  # what --tune tried and chose
RANKINGS = "run.trec"  # what an evaluation ranked, or the same with .gz


MEASURED = dict.fromkeys(measures.MEASURES, NUMBER)
# what a comparison takes from a run's files
SUMMARY = dict.fromkeys(("steps", "best_step", "denominators", "docs_encoded", "train_s", "mine_s"), NUMBER)
SUMMARY |= {"seed": int, "data": str, "encoder": str, "test": MEASURED}
SUMMARY |= {"bm25": MEASURED, "pool": {"docs": int, "name": str}}
SUMMARY |= {"geometry": dict.fromkeys(("alignment", "uniformity", "effective_rank"), NUMBER)}
EVENTS = {
    "step": {"step": int, "loss": NUMBER, "effective": NUMBER, "sources": dict},
    "evaluation": {"step": int, "dev": MEASURED},
    "warning": {"warning": str},
}


class Measured(NamedTuple):
    """One run that was measured on a split."""

    arm: str  # what it is compared as
    base: str  # the same without the flags that the arm alone changes
    seed: int
    values: dict  # {qid: {measure: value}}
    summary: dict  # summary.json, empty for what was not trained here
    log: list  # lines of metrics.jsonl
    timing: list  # lines of timing.jsonl
    overrides: dict  # {flag: value} that the arm alone changes
    place: pathlib.Path | None = None  # folder of the evaluation, with its run file


def mark_of(pool):
    """What sets a run's results apart, as describe_pool() and train.py recorded it: "leaks", "injected" or nothing."""
    return "leaks" if pool.get("leaks") else "injected" if pool.get("injected") else ""


def read_run(folder, evaluation, *, name=None):
    """The Measured of a run folder."""
    folder = pathlib.Path(folder)
    summary = read_json(folder / "summary.json", **SUMMARY) if (folder / "summary.json").exists() else {}
    if "untrained" in summary:
        check_keys(summary, folder / "summary.json", untrained=MEASURED)
    values = measures.read_per_query(folder / "eval" / evaluation / "per_query.jsonl")
    for qid, measured in values.items():
        check_keys(measured, f"{folder}/eval/{evaluation}/per_query.jsonl, {qid}", **MEASURED)
    base, overrides = name, {}
    if name is None:
        config = run.recorded(folder)
        check_keys(config, folder / "config.json", derived={"arm": str, "base": str, "overrides": dict})
        derived = config["derived"]
        name, base, overrides = derived["arm"], derived["base"], derived["overrides"]
    log, timing = (run.Run(folder).read_log(file) for file in run.LOGS)
    for number, line in enumerate(log, 1):
        check_keys(line, f"{folder}/{run.LOGS[0]}:{number}", **EVENTS.get(line["event"], {}))
    if summary and not any(line["event"] == "step" for line in log):
        raise BadInput(f"{folder}/{run.LOGS[0]}: no step of the training stands there")
    place = folder / "eval" / evaluation
    return Measured(name, base, summary.get("seed", 0), values, summary, log, timing, overrides, place)


def read_rankings(one):
    """{qid: {doc_id: score}} of a Measured run, None where it has left none."""
    for path in (one.place / RANKINGS, one.place / f"{RANKINGS}.gz"):
        if path.exists():
            return checks.read_run_file(path)
    return None


def with_measure(runs, measure, collection, split):
    """The runs with a measure of ir_measures that they were not measured by; BadInput if one has left no rankings."""
    wanted, found = checks.parse_measures(measure, "--measure"), []
    for one in runs:
        if any(measure not in values for values in one.values.values()):
            if (rankings := read_rankings(one)) is None:
                raise BadInput(
                    f"{one.place} has neither {measure} nor {RANKINGS}: evaluate.py --run {one.place.parents[1]} "
                    f"--measures {measure} --overwrite writes both"
                )
            more = checks.per_query(wanted, rankings, collection.qrels_dict(split))
            one = one._replace(values={qid: own | more[qid] for qid, own in one.values.items()})
        found.append(one)
    return found


def read_comparison(folder, *, against=None, tuned=True):
    """The runs of a comparison by train.py, in the order of the command that began it.

    against: the arm that comes first, so that the others are tested against it. tuned: the arms as --tune chose
    their settings, or else as they were given. BadInput if a run is not finished, or if there is no such arm.
    """
    folder = pathlib.Path(folder)
    config = run.recorded(folder)
    if "arm" in config.get("derived", ()):
        raise BadInput(f"{folder} is a single run; a comparison has several: train.py --negatives A B ...")
    place = folder / "config.json"
    check_keys(config, place, inputs={"collection": str})
    check_keys(config["args"], place, negatives=list, seeds=list)
    evaluation = f"{config['inputs']['collection']}-test"
    arms, seeds = config["args"]["negatives"], config["args"]["seeds"]
    if tuned and (folder / TUNING).exists():
        place, arms = folder / TUNING, read_tuning(folder)["chosen"]
    if not (arms and all(isinstance(arm, str) for arm in arms) and seeds and all(isinstance(s, int) for s in seeds)):
        raise BadInput(f"{place}: the arms are {arms} and the seeds {seeds}: names and whole numbers are wanted")
    jobs = list(itertools.product(arms, seeds))
    missing, found = [], []
    for arm, seed in jobs:
        path = run_folder(folder, arm, seed)
        if (path / "summary.json").exists():
            found.append(read_run(path, evaluation))
        else:
            missing.append((arm, seed))
    if missing and config["args"].get("race"):
        raise BadInput(f"{folder} is a race, which measured only the arm it chose on test: see its race.md")
    if missing:
        arm, seed = missing[0]
        raise BadInput(
            f"{folder}: {len(missing)} of {len(jobs)} runs are not finished, the first is {arm}, "
            f"seed {seed}; continue with the same command and --resume"
        )
    return in_front(found, against, lambda one: one.arm)


def in_front(found, arm, arm_of):
    """The list with what belongs to an arm in front; BadInput if there is no such arm."""
    if arm is not None and arm not in (arms := dict.fromkeys(map(arm_of, found))):
        raise BadInput(f"--against {arm!r}: no such arm; the comparison has {', '.join(arms)}")
    return sorted(found, key=lambda each: arm is not None and arm_of(each) != arm)


def read_tuning(folder):
    """{chosen: [arm with its best setting], tried: {arm: {arm with a setting: dev measure}}} of --tune."""
    path = folder / TUNING
    found = read_json(path, chosen=list, tried=dict)
    for arm, of_arm in found["tried"].items():
        check_keys(found["tried"], path, **{arm: dict})
        check_keys(of_arm, f"{path}, {arm}", **dict.fromkeys(of_arm, NUMBER))
    settings = {each for of_arm in found["tried"].values() for each in of_arm}
    if not settings or len(found["chosen"]) < len(found["tried"]):
        raise BadInput(f"{path}: one setting of each arm is wanted under chosen")
    if unknown := [each for each in found["chosen"][: len(found["tried"])] if each not in settings]:
        raise BadInput(f"{path}: {unknown[0]} was chosen and not tried")
    return found


def slug(arm):
    """An arm's name as part of a folder's: bm25:2+refresh:2 lr=1e-3 -> bm25-2+refresh-2_lr=1e-3.

    A name that is long or holds a path ends in a hash of it, so that no two arms share a folder.
    """
    name = arm.translate(str.maketrans(": /", "-_-"))
    return f"{name[:100]}-{fingerprint(arm)[:8]}" if "/" in arm or len(name) > 120 else name


def run_folder(folder, arm, seed):
    """Where a comparison keeps the run of the arm of that name with a seed."""
    return folder / f"{slug(arm)}-s{seed}"


def write_dev(folder, step, values):
    """Keep the values (Q,) that a run's evaluation on dev at a step had, by query in the split's order."""
    path = folder / "dev" / f"{step}.npy"
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.array(values, dtype=np.float32))


def read_dev(folder, step):
    """What write_dev() kept of a run; None where it has not come to that step."""
    path = folder / "dev" / f"{step}.npy"
    if not path.exists():
        return None
    with reading(path):
        return np.load(path, allow_pickle=False)


def read_evaluations(folders):
    """{evaluation: [Measured of each folder]} for every evaluation that all the folders have."""
    folders = list(map(pathlib.Path, folders))
    if gone := [folder for folder in folders if not folder.is_dir()]:
        raise BadInput(f"--compare {gone[0]}: no such folder")
    measured = [{path.parent.name for path in folder.glob("eval/*/per_query.jsonl")} for folder in folders]
    if not (common := sorted(set.intersection(*measured))):
        raise BadInput(
            f"{', '.join(map(str, folders))} have no evaluation in common; run evaluate.py on each, "
            "with the same --data and --split"
        )
    for evaluation in common:
        refuse_other_conditions(folders, evaluation)
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):  # runs of two comparisons, say
        names = list(map(str, folders))
    return {
        evaluation: [read_run(folder, evaluation, name=name) for folder, name in zip(folders, names)]
        for evaluation in common
    }


def refuse_other_conditions(folders, evaluation):
    """BadInput if runs were not measured alike: the same corpus, queries, labels, depth and self-match policy."""
    first, *others = ((folder, conditions(folder, evaluation)) for folder in folders)
    for folder, found in others:
        for key, value in found.items():
            if value != first[1][key]:
                raise BadInput(
                    f"{folder} and {first[0]} were measured on {evaluation} under other conditions: {key} is {value} "
                    f"and {first[1][key]}; run evaluate.py --overwrite on both, with the same --data and flags"
                )


def conditions(folder, evaluation):
    """{name: value} of what a run was measured under: by evaluate.py or, where that was not run, by train.py."""
    path = folder / "eval" / evaluation / "metrics.json"
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict) or not isinstance(found.get("self_match", {}), dict):
            raise BadInput(f"{path}: not as evaluate.py writes it; measure again with --overwrite")
        found |= {"self_match": found.get("self_match", {}).get("policy")}
    else:
        trained = (folder / "config.json").exists()
        config = run.recorded(folder) if trained else {"inputs": {}, "args": {}}
        of_split = config.get("inputs", {}).get("judgements", {}).get(evaluation.rpartition("-")[2])
        found = {"judgements": of_split, "depth": RANKED if trained else None}
        found |= {"self_match": config["args"].get("self_match")}
    return {
        "corpus, queries and labels (their fingerprint)": found.get("judgements"),
        "depth": found.get("depth"),
        "self_match": found["self_match"],
    }


def judgements_of(folder, evaluation):
    """The fingerprint of the corpus, queries and labels that a run, or the runs of a comparison, were measured on."""
    return next(iter(conditions(folder, evaluation).values()))


def read_audits(folder):
    """[(source and run, filter, ranks, estimate)] of mine_negatives.py --audit of a comparison's runs."""
    return [
        (f"{row['source']}, {path.parent.parent.name}", row["after"], row["ranks"], row)
        for path in sorted(folder.glob("*/audit/*.json"))
        for row in run.read_json(path)["rows"]
    ]
