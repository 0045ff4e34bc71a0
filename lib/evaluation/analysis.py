"""The statistics of a comparison: arms as numbers, their tests, what may explain a loss, what is kept of them."""

import re

import numpy as np

from lib.evaluation import measures, significance
from lib.evaluation.comparison import in_front, read_rankings
from lib.files import BadInput, atomic_path, markdown, read_json, reading
from lib.process import one_line

KEPT = "per_query.npz"  # per-query values of what a comparison tests
DEEP = "recall@100"  # what a reranker or a reader is given: tested besides the measure that is asked for


def analyse(runs, *, measure):
    """Rows for each arm, tested against the first, with their tie groups."""
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
    compare_arms(rows, per_query_of(runs, measure), measure)
    summary = runs[0].summary
    result |= {key: summary[key] for key in ("data", "encoder", "steps") if key in summary}
    return result


def per_query_of(runs, measure=None):
    """{measure: {arm: (S, Q) values}} of the standard measures, and of another one that is asked for."""
    found = {name: {} for name in names_of(measure)}
    for name, by_arm in found.items():
        for one in runs:
            by_arm.setdefault(one.arm, []).append([values[name] for values in one.values.values()])
    return {name: {arm: np.array(rows) for arm, rows in by_arm.items()} for name, by_arm in found.items()}


def names_of(measure):
    """The measures that a table has: the standard ones, and what is tested."""
    return tuple(dict.fromkeys((*measures.MEASURES, measure) if measure else measures.MEASURES))


def compare_arms(rows, matrices, measure):
    """Add to the rows of arms their tests against the first, and the letters of their tie groups.

    An arm may lift the top and lose what lies deep: DEEP is tested besides `measure`.
    """
    first = rows[0]["arm"]
    for name, matrix in ((name, matrices[name]) for name in dict.fromkeys((measure, DEEP))):
        tests = significance.compare(matrix, [(row["arm"], first) for row in rows[1:]], other_seeds(matrix))
        for row, test in zip(rows[1:], tests):
            if name == measure:
                row["against_first"] = test
            if test["difference"] < 0 and test["differs"]:
                row.setdefault("hurts", {})[name] = {key: test[key] for key in ("difference", "p_holm")}
                row["why"] = why(row, rows[0])
    groups = significance.tie_groups(matrices[measure], other_seeds(matrices[measure]))
    for number, row in enumerate(rows):
        row["group"] = groups[row["arm"]]
        alike = [
            other["arm"]
            for other in rows[:number]
            if all(np.array_equal(of[other["arm"]], of[row["arm"]]) for of in matrices.values())
        ]
        row |= {"same_as": alike[0]} if alike else {}


def other_seeds(arms):
    """{arm: its seeds' shift} of the arms that are trained with other seeds, as the one that --control adds."""
    found = {arm: re.search(r"(?:^| )seed_shift=(\d+)", arm) for arm in arms}
    return {arm: (shift[1],) for arm, shift in found.items() if shift}


def keep(path, runs):
    """Write the per-query values that a comparison tests: with ablation.json enough to test them again."""
    matrices = {name: np.stack(list(by_arm.values())) for name, by_arm in per_query_of(runs).items()}  # (A, S, Q)
    arms = np.array(list(dict.fromkeys(one.arm for one in runs)))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, qids=np.array(list(runs[0].values)), arms=arms, **matrices)


def runs_are_gone(folder):
    """Whether a comparison is only what keep() left of it."""
    return (folder / KEPT).exists() and not any(folder.glob("*/summary.json"))


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
    compare_arms(rows, matrices, measure)
    return {key: value for key, value in result.items() if key != "order"} | {"arms": rows, "measure": measure}


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
        "test": {
            name: [float(np.mean([values[name] for values in one.values.values()])) for one in of_arm]
            for name in names_of(measure)
        },
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
    recorded = measure in measures.MEASURES and all("untrained" in s for s in summaries)
    if recorded and row["seconds"]:  # which are rounded, to 0 for a handful of steps
        gain = np.mean([s["test"][measure] - s["untrained"][measure] for s in summaries])
        row["gain_per_minute"] = float(60 * gain / row["seconds"])
    row["geometry"] = {key: float(np.mean([s["geometry"][key] for s in summaries])) for key in summaries[0]["geometry"]}
    last = [[x for x in one.log if x["event"] == "step"][-1] for one in of_arm]
    row["geometry"]["effective_negatives"] = float(np.mean([line["effective"] for line in last]))
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
            f"its docs are spread less evenly (uniformity {own:.2f} against {other:.2f}), and deep recall often falls "
            "with that (refresh:4, random:2+bm25:2)"
        )
    if row["best_at"] <= 0.5 < first["best_at"]:
        found.append(
            f"dev was best at {row['best_at']:.0%} of the steps and fell from there "
            "(fewer --epochs, or hard negatives later: in_batch,refresh:4@0.5)"
        )
    return found or ["nothing in its logs stands out; read the examples of mine_negatives.py --audit 0.3"]


def means_of(runs, measure, qids):
    """{arm: (Q,) values of a measure, means over seeds}."""
    by_arm = {}
    for one in runs:
        by_arm.setdefault(one.arm, []).append([one.values[qid][measure] for qid in qids])
    return {arm: np.mean(many, axis=0) for arm, many in by_arm.items()}


def by_field(runs, field, value_of, measure):
    """A table of the arms' means by the values of a metadata field {qid: value}, the most frequent first."""
    means = means_of(runs, measure, qids := list(runs[0].values))
    groups = {}
    for i, qid in enumerate(qids):
        groups.setdefault(value_of.get(qid, "(none)"), []).append(i)
    head = [field, "queries", *means]
    groups = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return markdown(
        head, [[value, f"{len(at):,}", *(f"{of[at].mean():.4f}" for of in means.values())] for value, at in groups]
    )


def wins(runs, collection, split, *, measure, count=10, best=3):
    """Markdown: the queries on which an arm gained and lost most over the first, and the best docs of both.

    The arm is the best of the others; gains are means over seeds, docs those of each arm's first seed. None where there
    is one arm alone, or a run that left no rankings.
    """
    means = means_of(runs, measure, qids := list(runs[0].values))
    if len(means) < 2:
        return None
    first, *others = means
    other = max(others, key=lambda arm: means[arm].mean())
    shown = {arm: next(one for one in runs if one.arm == arm) for arm in (first, other)}
    rankings = {arm: read_rankings(one) for arm, one in shown.items()}
    if None in rankings.values():
        return None
    gain, qrels = means[other] - means[first], collection.qrels_dict(split)
    order = np.argsort(-gain, kind="stable")
    parts = [
        f"# {other} against {first}: where it gained and lost most {measure}\n",
        f"{(gain > 0).sum():,} of {len(gain):,} queries gained, {(gain < 0).sum():,} lost. Docs are the {best} best of "
        f"seed {shown[first].seed}; **bold** ones are relevant.\n",
    ]
    gained, lost = [i for i in order[:count] if gain[i] > 0], [i for i in order[::-1][:count] if gain[i] < 0]
    for title, rows in (("Gained", gained), ("Lost", lost)):
        parts.append(f"## {title}\n" if rows else f"## {title}: none\n")
        for i in rows:
            qid = qids[i]
            parts.append(f"### {gain[i]:+.3f}: {_short(collection.queries, qid)}\n")
            docs = [[_doc(collection.docs, doc, qrels[qid]) for doc in measures.in_order(of.get(qid, {}))[:best]]
                    for of in rankings.values()]  # fmt: skip
            docs = [own + [""] * (best - len(own)) for own in docs]
            parts.append(markdown([f"{arm}: {means[arm][i]:.3f}" for arm in rankings], list(zip(*docs))))
    return "\n".join(parts)


def _short(texts, ident, length=120):
    return one_line(texts.text(texts.row_of[ident]), length).replace("|", "\\|") if ident in texts.row_of else ident


def _doc(docs, ident, grades):
    shown = f"{ident.replace('|', chr(92) + '|')}: {_short(docs, ident)}"
    return f"**{shown}**" if grades.get(ident, 0) >= 1 else shown
