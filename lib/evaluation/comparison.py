"""The comparison of arms: statistics made only from what lies in the run folders."""

import itertools
import pathlib
from typing import NamedTuple

import numpy as np

from lib import run
from lib.evaluation import measures, significance
from lib.evaluation.measures import RANKED
from lib.files import NUMBER, BadInput, atomic_path, check_keys, fingerprint, read_json, reading

KEPT = "per_query.npz"  # per-query values of what a comparison tests
TUNING = "tuning.json"  # what --tune tried and chose
DEEP = "recall@100"  # what a reranker or a reader is given: tested besides the measure that is asked for


MEASURED = dict.fromkeys(measures.MEASURES, NUMBER)
# what a comparison takes from a run's files
SUMMARY = dict.fromkeys(("steps", "best_step", "denominators", "docs_encoded", "train_s", "mine_s"), NUMBER)
SUMMARY |= {"seed": int, "data": str, "encoder": str, "test": MEASURED}
SUMMARY |= {"bm25": MEASURED, "pool": {"docs": int, "name": str}}
SUMMARY |= {"geometry": dict.fromkeys(("alignment", "uniformity", "effective_rank"), NUMBER)}
EVENTS = {
    "step": {"step": int, "loss": NUMBER, "effective": NUMBER, "sources": dict},
    "evaluation": {"step": int, "dev": MEASURED},
    "forecast": {"forecast": dict},
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
    return Measured(name, base, summary.get("seed", 0), values, summary, log, timing, overrides)


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
    if missing:
        arm, seed = missing[0]
        raise BadInput(
            f"{folder}: {len(missing)} of {len(jobs)} runs are not finished, the first is {arm}, "
            f"seed {seed}; continue with the same command and --resume"
        )
    return in_front(found, against, lambda one: one.arm)


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


def read_evaluations(folders):
    """{evaluation: [Measured of each folder]} for every evaluation that all the folders have."""
    folders = list(map(pathlib.Path, folders))
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


def read_audits(folder):
    """[(source and run, filter, ranks, estimate)] of mine_negatives.py --audit of a comparison's runs."""
    return [
        (f"{row['source']}, {path.parent.parent.name}", row["after"], row["ranks"], row)
        for path in sorted(folder.glob("*/audit/*.json"))
        for row in run.read_json(path)["rows"]
    ]


# ------------------------------------------------------------------------------------------------ statistics


def analyse(runs, *, measure):
    """Rows for each arm, tested against the first; then each against the next in the order of means."""
    arms = {}
    for one in runs:
        arms.setdefault(one.arm, []).append(one)
        if one.values.keys() != runs[0].values.keys():
            raise BadInput(
                f"{one.arm}, seed {one.seed}, was measured on other queries than {runs[0].arm}; run "
                "evaluate.py --overwrite on both"
            )
    qids = list(runs[0].values)
    rows = [arm_row(arm, of_arm, measure) for arm, of_arm in arms.items()]
    first = rows[0]["arm"]
    result = {
        "measure": measure,
        "seeds": [one.seed for one in arms[first]],
        "queries": len(qids),
        "references": references(runs),
        "arms": rows,
    }
    result["order"] = compare_arms(rows, per_query_of(runs), measure)
    summary = runs[0].summary
    result |= {key: summary[key] for key in ("data", "encoder", "steps") if key in summary}
    scores = [row.get("forecast") for row in rows]
    if len(rows) > 2 and all(scores):
        means = [np.mean(row["test"][measure]) for row in rows]
        result["forecast"] = {key: _correlation([s[key] for s in scores], means) for key in scores[0]}
    return result


def per_query_of(runs):
    """{measure: {arm: (S, Q) values}}."""
    found = {name: {} for name in measures.MEASURES}
    for name, by_arm in found.items():
        for one in runs:
            by_arm.setdefault(one.arm, []).append([values[name] for values in one.values.values()])
    return {name: {arm: np.array(rows) for arm, rows in by_arm.items()} for name, by_arm in found.items()}


def compare_arms(rows, matrices, measure):
    """Add to the rows of arms their tests against the first; the tests of each against the next in order of means.

    An arm may lift the top and lose what lies deep: DEEP is tested besides `measure`.
    """
    first = rows[0]["arm"]
    for name, matrix in ((name, matrices[name]) for name in dict.fromkeys((measure, DEEP))):
        tests = significance.compare(matrix, [(row["arm"], first) for row in rows[1:]])
        for row, test in zip(rows[1:], tests):
            if name == measure:
                row["against_first"] = test
            if test["difference"] < 0 and test["differs"]:
                row.setdefault("hurts", {})[name] = {key: test[key] for key in ("difference", "p_holm")}
                row["why"] = why(row, rows[0])
    matrix = matrices[measure]
    order = sorted(matrix, key=lambda arm: -matrix[arm].mean())
    steps = significance.compare(matrix, itertools.pairwise(order))
    for (a, b), test in zip(itertools.pairwise(order), steps):
        test |= {"above": a, "below": b}
    return steps


def keep(path, runs):
    """Write the per-query values that a comparison tests: with ablation.json enough to test them again."""
    matrices = {name: np.stack(list(by_arm.values())) for name, by_arm in per_query_of(runs).items()}  # (A, S, Q)
    arms = np.array(list(dict.fromkeys(one.arm for one in runs)))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, qids=np.array(list(runs[0].values)), arms=arms, **matrices)


def read_kept(folder, *, measure, against=None):
    """analyse() of a comparison whose runs are gone, from its ablation.json and what keep() wrote beside it."""
    path = folder / KEPT
    result = read_json(folder / "ablation.json", arms=list, references=dict, seeds=list)
    with reading(path), np.load(path, allow_pickle=False) as kept:
        arms = kept["arms"].tolist()
        matrices = {name: dict(zip(arms, kept[name])) for name in (measure, DEEP)}
    if arms != [row.get("arm") for row in result["arms"]]:
        raise BadInput(f"{path}: its arms are not those of ablation.json")
    rows = in_front(result["arms"], against, lambda row: row["arm"])
    for row in rows:
        for key in ("against_first", "hurts", "why"):
            row.pop(key, None)
    return result | {"arms": rows, "measure": measure, "order": compare_arms(rows, matrices, measure)}


def in_front(found, arm, arm_of):
    """The list with what belongs to an arm in front; BadInput if there is no such arm."""
    if arm is not None and arm not in (arms := dict.fromkeys(map(arm_of, found))):
        raise BadInput(f"--against {arm!r}: no such arm; the comparison has {', '.join(arms)}")
    return sorted(found, key=lambda each: arm is not None and arm_of(each) != arm)


def references(runs):
    """{name: {measure: mean}} of BM25 and the untrained encoder, where the runs recorded them."""
    if not all("bm25" in one.summary for one in runs):
        return {}
    found = {"bm25": runs[0].summary["bm25"]}
    if all("untrained" in one.summary for one in runs):
        found["untrained"] = {
            name: float(np.mean([one.summary["untrained"][name] for one in runs])) for name in measures.MEASURES
        }
    return found


def arm_row(arm, of_arm, measure):
    """Numbers of one arm over its seeds; what training costs and looks like only where it was recorded."""
    summaries = [one.summary for one in of_arm]
    row = {
        "arm": arm,
        "seeds": [one.seed for one in of_arm],
        "test": {name: [measures.mean(one.values)[name] for one in of_arm] for name in measures.MEASURES},
        "trained": all("steps" in summary for summary in summaries),
    }
    if not row["trained"]:
        return row
    row |= {
        key: float(np.mean([s[key] for s in summaries]))
        for key in ("steps", "denominators", "docs_encoded", "train_s", "mine_s")
    }
    row["seconds"] = row["train_s"] + row["mine_s"]
    row["gain_per_minute"] = None  # without a number of the untrained encoder
    if all("untrained" in s for s in summaries) and row["seconds"]:  # which are rounded, to 0 for a handful of steps
        gain = np.mean([s["test"][measure] - s["untrained"][measure] for s in summaries])
        row["gain_per_minute"] = float(60 * gain / row["seconds"])
    row["geometry"] = {key: float(np.mean([s["geometry"][key] for s in summaries])) for key in summaries[0]["geometry"]}
    steps, predictions = (
        [[x for x in one.log if x["event"] == event] for one in of_arm] for event in ("step", "forecast")
    )
    row["geometry"]["effective_negatives"] = float(np.mean([lines[-1]["effective"] for lines in steps]))
    row["forecast"] = (
        {
            key: float(np.mean([lines[0]["forecast"][key] for lines in predictions]))
            for key in predictions[0][0]["forecast"]
        }
        if all(predictions)
        else None
    )
    row["warnings"] = sorted({x["warning"] for one in of_arm for x in one.log if x["event"] == "warning"})
    row["best_at"] = float(np.mean([s["best_step"] / s["steps"] for s in summaries]))
    row["late"] = late_negatives(of_arm)
    row["pool"] = summaries[0]["pool"]
    row |= explicit_shares(of_arm)
    return row


def explicit_shares(of_arm):
    """{unlabelled, held_out: share of the explicit negatives that are so}, over all logged steps and seeds.

    unlabelled: of no training query's positives; held_out: a positive of a dev or test query besides. None where
    an arm has no explicit negatives.
    """
    rows = [
        row
        for one in of_arm
        for x in one.log
        if x["event"] == "step"
        for source, row in x["sources"].items()
        if source != "in_batch"
    ]
    count = sum(row["negatives"] for row in rows)
    return {
        key: sum(row[key] * row["negatives"] for row in rows) / count if count else None
        for key in ("unlabelled", "held_out")
    }


def late_negatives(of_arm):
    """{source: what its negatives did in the second half of training}, in_batch left out; means over seeds.

    above: share of them above the positive; gradient: share of the gradient; near_copies: share of the last
    list that resembles a positive, None for a source without lists.
    """
    found = {}
    for one in of_arm:
        half = one.summary["steps"] / 2
        for x in (x for x in one.log if x["event"] == "step" and x["step"] >= half):
            for source, row in x["sources"].items():
                if source != "in_batch" and row["negatives"]:
                    copies = one.summary.get("near_copies", {}).get(source)
                    found.setdefault(source, []).append((row["above"], row["gradient"], copies))
    return {
        source: {
            key: None if None in values else float(np.mean(values))
            for key, values in zip(("above", "gradient", "near_copies"), zip(*rows))
        }
        for source, rows in found.items()
    }


def why(row, first):
    """What may explain that an arm is worse than the first, both trained: sentences, each with what to try."""
    found = []
    for source, late in row["late"].items():
        if (late["near_copies"] or 0) > 0.02:
            found.append(
                f"{late['near_copies']:.0%} of what {source} mined are near-copies of a positive "
                "(--filters near_copy:0.5)"
            )
        if late["above"] > 0.1:
            found.append(
                f"{late['above']:.0%} of {source}'s negatives still stood above the positive in the "
                "second half of training: unlabelled positives, or too hard for this encoder "
                "(mine_negatives.py --audit 0.3; --filters percpos:0.95)"
            )
    few, many = (arm["geometry"]["effective_negatives"] for arm in (row, first))
    if few < many / 2:
        found.append(
            f"the gradient of a query came from {few:.1f} negatives, not {many:.1f}: they crowd out "
            "the rest (fewer of them, a higher --temperature)"
        )
    own, other = (arm["geometry"]["uniformity"] for arm in (row, first))
    if own > other + 0.1:
        found.append(
            f"its docs are spread less evenly (uniformity {own:.2f} against {other:.2f}), which "
            "costs deep recall: negatives from a fixed list or without gradient (bm25, dense, "
            "adore, queue) leave the rest of the corpus alone (refresh:4, random:2+bm25:2)"
        )
    if row["best_at"] <= 0.5 < first["best_at"]:
        found.append(
            f"dev was best at {row['best_at']:.0%} of the steps and fell from there "
            "(fewer --epochs, or hard negatives later: in_batch,refresh:4@0.5)"
        )
    return found or ["nothing in its logs stands out; read the examples of mine_negatives.py --audit 0.3"]


def _correlation(a, b):
    """Spearman's, None where one of the two is constant."""
    from scipy import stats  # here: it takes a second to import

    return None if len(set(a)) < 2 or len(set(b)) < 2 else float(stats.spearmanr(a, b).statistic)
