"""Tables and figures of a comparison. A new column is a line of RESULTS or COSTS."""

import csv
import io
import pathlib
import re

import numpy as np

from lib.evaluation import analysis, comparison, comparison_plots, meta, plots, retrieval, significance
from lib.evaluation.drawing import draw
from lib.evaluation.measures import MEASURES
from lib.files import latex, markdown, read_json, reading, write_json, write_text


def write(folder, runs, *, measure, home=None, name=None, collection=None, split="test", by=None):
    """Write ablation.json, .md, .tex and .csv and plots/ of a comparison of Measured runs; returns the table.

    home: where the comparison lies, by default `folder`; collection: what they were measured on, for wins.md and for
    measures that they do not have; by: a field of its queries' metadata, for a table by its values.
    """
    folder = pathlib.Path(folder)
    if collection and measure not in MEASURES:
        runs = comparison.with_measure(runs, measure, collection, split)
    result = analysis.analyse(runs, measure=measure)
    result["name"] = name or short(result["data"])
    table = to_table(result)
    if by:
        table += "\n" + analysis.by_field(runs, by, retrieval.metadata_values(collection, split, by), measure)
    if collection and (text := analysis.wins(runs, collection, split, measure=measure)):
        write_text(folder / "wins.md", text)
    write_json(folder / "ablation.json", result)
    write_text(folder / "ablation.md", table)
    write_text(folder / "ablation.tex", to_latex(result))
    write_text(folder / "ablation.csv", to_csv(result))
    analysis.keep(folder / analysis.KEPT, runs)
    features = (home or folder) / "queries.json"
    with plots.optional(folder):
        draw(folder / "plots", result, runs, read_json(features) if features.exists() else None)
        if audits := comparison.read_audits(home or folder):
            plots.audit(folder / "plots" / "audit.png", audits, title=f"false negatives, {result['name']}")
    return table


def of_comparison(folder, *, measure, against=None, out=None, **of_collection):
    """write() of a comparison by train.py; where --tune chose settings, also with one setting for all beside it.

    of_collection: collection and by, of write().
    """
    out = out or folder
    if analysis.runs_are_gone(folder):
        return again(folder, out, measure=measure, against=against)
    runs = comparison.read_comparison(folder, against=against)
    text = write(out, runs, measure=measure, home=folder, **of_collection)
    if not (folder / comparison.TUNING).exists():
        return text
    untuned = write(out / "one_setting", comparison.read_comparison(folder, tuned=False), measure=measure)
    found = comparison.read_tuning(folder)
    head = [
        "negatives",
        f"setting that is best on dev, of {len(next(iter(found['tried'].values())))}",
        f"dev {measure}",
    ]
    rows = [[arm, best, f"{found['tried'][arm][best]:.4f}"] for arm, best in zip(found["tried"], found["chosen"])]
    text = f"{markdown(head, rows)}\nEach arm at its own setting:\n\n{text}\nOne setting for all:\n\n{untuned}"
    write_text(out / "ablation.md", text)
    return text


def again(folder, out, *, measure, against=None):
    """The table and the figure of a comparison whose runs are gone, from the per-query values that were kept."""
    result = analysis.read_kept(folder, measure=measure, against=against)
    with reading(folder / "ablation.json"):
        table = to_table(result)
        with plots.optional(folder):
            comparison_plots.arms(out / "plots" / "arms.png", result)
    write_json(out / "ablation.json", result)
    write_text(out / "ablation.md", table)
    write_text(out / "ablation.tex", to_latex(result))
    write_text(out / "ablation.csv", to_csv(result))
    return table


def pooled(folders, *, measure, against=None):
    """meta.over() of the comparisons in these folders."""
    results = []
    for folder in map(pathlib.Path, folders):
        if analysis.runs_are_gone(folder):
            found = analysis.read_kept(folder, measure=measure, against=against)
        else:
            found = analysis.analyse(comparison.read_comparison(folder, against=against), measure=measure)
        results.append(found | {"name": short(found.get("data", folder.name))})
    return meta.over(results)


def over_collections(folders, out, *, measure, against=None):
    """Write collections.json, collections.md and the forest plot of comparisons of the same arms; returns the table."""
    found = pooled(folders, measure=measure, against=against)
    write_json(out / "collections.json", found)
    write_text(out / "collections.md", table := meta.to_table(found))
    with plots.optional(out):
        comparison_plots.forest(out / "forest.png", found)
    return table


# ---------------------------------------------------------------------------------------------------- tables


def _of_test(key, form="{:.4f}"):
    """A cell of an arm's test against the first arm, empty for the first."""
    return lambda row: form.format(row["against_first"][key]) if "against_first" in row else ""


def _p_values(row):
    """A cell with p and, in brackets, p with Holm's correction."""
    test = row.get("against_first")
    return f"{significance.shown(test['p'])} ({significance.shown(test['p_holm'])})" if test else ""


def _detectable(row):
    found = row.get("against_first", {}).get("detectable")
    return "" if found is None else f"{found:.4f}"


def _measured(name):
    """A cell with a measure's mean over seeds and, where it is the one compared, its deviation."""

    def cell(row):
        values = row["test"][name]
        spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 and name == row["measure"] else ""
        return f"{np.mean(values):.4f}{spread}"

    return cell


def _percent(share):
    return "" if share is None else f"{share:.1%}"


def _interval(row):
    test = row.get("against_first")
    return f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]" if test else ""


# (title, cell of an arm's row); {measure} and {first} are filled in
RESULTS = (
    ("negatives", comparison_plots.name_of),
    ("{measure} against {first} [95 %]", _interval),
    ("p over {over} (Holm)", _p_values),
    ("decision", _of_test("decision", "{}")),
    ("tie group", lambda row: row["group"]),
    ("effect size", _of_test("effect", "{:+.2f}")),
    ("smallest detectable difference", _detectable),
)
WINS = tuple((key, _of_test(key, "{:,}")) for key in ("wins", "ties", "losses"))
COSTS = (
    ("negatives", comparison_plots.name_of),
    ("steps", lambda row: f"{row['steps']:,.0f}"),
    ("negatives in denominators per query", lambda row: f"{row['denominators']:,.0f}"),
    ("docs encoded, mining included", lambda row: f"{row['docs_encoded']:,.0f}"),
    ("seconds, mining included", lambda row: f"{row['seconds']:.1f}"),
    ("of which mining", lambda row: f"{row['mine_s']:.1f}"),
    ("gain a minute", lambda row: "" if row["gain_per_minute"] is None else f"{row['gain_per_minute']:+.3f}"),
    ("alignment", lambda row: f"{row['geometry']['alignment']:.3f}"),
    ("uniformity", lambda row: f"{row['geometry']['uniformity']:.3f}"),
    ("effective rank", lambda row: f"{row['geometry']['effective_rank']:.0f}"),
    ("effective negatives", lambda row: f"{row['geometry']['effective_negatives']:.1f}"),
    ("docs that may be negatives", lambda row: f"{row['pool']['docs']:,} ({row['pool']['name']})"),
    ("negatives without a label in training", lambda row: _percent(row["unlabelled"])),
    ("negatives that dev or test look for", lambda row: _percent(row["held_out"])),
    ("warnings", lambda row: ", ".join(row["warnings"])),
)


MEANING = {  # of interval and p, by what they are over
    significance.BOTH: "Interval and p: for other queries and other seeds, both random, with what seeds do estimated "
    "from all arms. Better and worse: by p with Holm's correction. Equal: shown by two one-sided tests to be less than "
    f"{significance.MARGIN} apart (their 90 % interval; the 95 % interval here may reach further). The rest is open: "
    "neither was shown. Decisions are corrected for the tests against the first arm, letters for those of all pairs: "
    "a better arm may share the first one's letter. Smallest detectable difference: the least that such a test finds "
    "with 80 % power.",
    significance.QUERIES: "Interval (bootstrap) and p (paired randomisation test): for other queries and these very "
    "runs. The same arm with another seed often differs by as much, so that no arm is said to differ: that takes "
    "three seeds, or two seeds that three arms share.",
}


def conclusion(result):
    """What a comparison says in two sentences: the arm that gains most, and whether BM25 is reached. No leak counts."""
    measure, (first, *others) = result["measure"], result["arms"]
    others = [row for row in others if not comparison.mark_of(row.get("pool", {}))]
    means = {row["arm"]: np.mean(row["test"][measure]) for row in (first, *others)}
    controls = analysis.other_seeds(row["arm"] for row in others)
    tested = [row for row in others if row["against_first"]["differs"] is not None and row["arm"] not in controls]
    gains = [row for row in tested if row["against_first"]["differs"] and row["against_first"]["difference"] > 0]
    if gains:
        best = max(gains, key=lambda row: row["against_first"]["difference"])
        said = f"{best['arm']} gains {_interval(best)} {measure} over {first['arm']}, the most of the arms."
    elif tested:
        said = f"No arm is better than {first['arm']} beyond chance."
    else:
        best = max(means, key=means.get)
        said = f"{best} has the highest {measure} of these runs" if others else ""
        if len(others) == 1:
            sign = 1 if best == others[0]["arm"] else -1
            test = others[0]["against_first"]
            low, high = sorted((sign * test["low"], sign * test["high"]))
            said += f": {abs(test['difference']):+.4f} [{low:+.4f}, {high:+.4f}] on other queries"
        said += "; too few seeds to test whether other seeds would give the same." if others else ""
    if measure in (bm25 := result["references"].get("bm25", {})):
        best, value = max(means, key=means.get), max(means.values())
        above = f"{best} is above BM25" if value > bm25[measure] else "No arm reaches BM25: search with it, or mix both"
        said += f" {above} ({value:.4f} and {bm25[measure]:.4f})."
    return said.strip()


def to_table(result):
    """analyse() as Markdown: a conclusion, the arms, what they cost, their order."""
    measure, first = result["measure"], result["arms"][0]["arm"]
    rows = [row | {"measure": measure} for row in result["arms"]]
    names = analysis.names_of(measure)
    columns = (RESULTS[0], *((f"test {name}", _measured(name)) for name in names), *RESULTS[1:])
    columns += WINS if len(result["seeds"]) == 1 else ()
    over = rows[1]["against_first"]["over"] if len(rows) > 1 else significance.QUERIES
    plain = ":" not in first.partition(" ")[0]  # what is worse than without any source:K hurts
    known = [
        [f"*{name}*", *(f"{of_name[m]:.4f}" if m in of_name else "" for m in names)]
        for name, of_name in result["references"].items()
    ]
    text = [f"**{said}**\n"] if (said := conclusion(result)) else []
    text += [
        markdown(
            [title.format(measure=measure, first=first, over=over) for title, _ in columns],
            [*known, *([cell(row) for _, cell in columns] for row in rows)],
        )
    ]
    text.append(
        f"{result['name']}, seeds {' '.join(map(str, result['seeds']))}, {result['queries']} "
        f"queries. ±: standard deviation over seeds. {MEANING[over]} In brackets: with Holm's correction over the "
        "arms. Arms that share a letter of a tie group are not shown to differ (tests of all pairs). Effect size: "
        "difference over its standard deviation between queries.\n"
    )
    if trained := [row for row in rows if row["trained"]]:
        text.append(markdown([title for title, _ in COSTS], [[cell(row) for _, cell in COSTS] for row in trained]))
    for row in rows:
        if "same_as" in row:
            text.append(
                f"**{row['arm']} and {row['same_as']} gave the very same values for every query and seed**: what tells "
                "them apart changed nothing.\n"
            )
        if "hurts" in row:
            losses = ", ".join(
                f"{name} {found['difference']:+.4f} (p {significance.shown(found['p_holm'])})"
                for name, found in row["hurts"].items()
            )
            if plain:
                text.append(f"**{row['arm']} hurts**: {losses}. What its runs say: {'; '.join(row['why'])}.\n")
            else:
                text.append(f"{row['arm']} is below {first}: {losses}.\n")
    return "\n".join(text)


def short(data):
    """The name of a collection in tables: of a table of questions that of the file, without columns and ending."""
    return re.sub(r"\.(csv|tsv|jsonl?|ndjson|parquet)(\.gz)?(:[^/]*)?$", "", pathlib.PurePath(str(data)).name)


def to_csv(result):
    """The arms of analyse() for a spreadsheet: numbers in full, a column for each."""
    measure, out = result["measure"], io.StringIO()
    names, tested = analysis.names_of(measure), ("difference", "low", "high", "p", "p_holm", "decision")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arm", "seeds", *names, *(f"{measure} {key}" for key in tested), "group"])
    for name, of in result["references"].items():
        writer.writerow([name, "", *(of.get(each, "") for each in names), *[""] * (len(tested) + 1)])
    for row in result["arms"]:
        means = [float(np.mean(row["test"][each])) for each in names]
        test = row.get("against_first", {})
        writer.writerow([row["arm"], len(row["seeds"]), *means, *(test.get(key, "") for key in tested), row["group"]])
    return out.getvalue()


def to_latex(result):
    """The arms of analyse() as a table for a paper: the measures, the gain with its interval, the tie group."""
    measure, first = result["measure"], result["arms"][0]["arm"]
    names = dict.fromkeys((measure, "ndcg@10", analysis.DEEP))
    head = ["negatives", *names, f"against {first}", "p", "decision", "group"]
    rows = [[name, *(f"{of[m]:.3f}" if m in of else "" for m in names)] for name, of in result["references"].items()]
    for row in result["arms"]:
        test = row.get("against_first")
        tested = [f"{test['difference']:+.3f} [{test['low']:+.3f}, {test['high']:+.3f}]",
                  significance.shown(test["p_holm"]), test["decision"]] if test else ["", "", ""]  # fmt: skip
        rows.append(
            [comparison_plots.name_of(row), *(f"{np.mean(row['test'][m]):.3f}" for m in names), *tested, row["group"]]
        )
    seeds = f"{len(result['seeds'])} seed{'s' * (len(result['seeds']) > 1)}"
    caption = f"{result['name']}, {result['queries']:,} queries, {seeds}. Gain in {measure} with its "
    caption += "95% interval, p with Holm's correction. Arms that share a letter are not shown to differ. "
    over = {row["against_first"]["over"] for row in result["arms"] if "against_first" in row}
    caption += "Interval and p are for other queries and " + (
        "these very runs: not a test over seeds." if over == {significance.QUERIES} else "other seeds."
    )
    return latex(head, rows, caption=caption)
