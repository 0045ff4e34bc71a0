"""Write the tables of README.md and docs/ from docs/results and the scripts, so that they cannot part.

python experiments/tables.py            # writes what differs
python experiments/tables.py --check    # exit code 1 if something would

A table stands between two comments: `<!-- table NAME: COLUMN ... -->` and `<!-- end -->`. NAME is a folder of
docs/results; a COLUMN is a measure (its mean and deviation over seeds), a measure with :gain, :p or :detectable (its
test against the first arm, or against another one where `against=ARM` is written), decision, group (both by MRR@10),
seconds, uniformity. `<!-- collections MEASURE: NAME ... -->` pools comparisons of the same arms over collections.
`<!-- flags SCRIPT -->` has a table for each group of a script's flags.
"""

import importlib
import pathlib
import re
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import cli, process
from lib.evaluation import analysis, meta, report, significance
from lib.evaluation.measures import MEASURES
from lib.files import BadInput, markdown, write_text

ROOT = pathlib.Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- table ([\w.-]+): ([^>]+?) -->\n).*?(<!-- end -->)", re.S)
POOLED = re.compile(r"(<!-- collections (\S+)( against=\S+)?: ([^>]+?) -->\n).*?(<!-- end -->)", re.S)

FLAGS = re.compile(r"(<!-- flags (\w+)\.py -->\n).*?(<!-- end -->)", re.S)


def heading(column, first):
    """The title of a column."""
    measure, _, kind = column.partition(":")
    measure = measure.replace("mrr", "MRR").replace("ndcg", "nDCG")
    return {
        "": f"test {measure}" if column in MEASURES else measure,
        "gain": f"{measure} against {first} [95 %]",
        "p": "p (Holm)",
        "detectable": "smallest detectable difference",
    }[kind]


def cell(row, column):
    """What stands in a column for an arm; row: {measure: the arm's row of a comparison by that measure}."""
    measure, _, kind = column.partition(":")
    arm = row[measure if measure in MEASURES else "mrr@10"]
    test = arm.get("against_first")
    if column in MEASURES:
        values = arm["test"][column]
        return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else f"{values[0]:.4f}"
    if column == "seconds":
        return f"{arm['seconds']:.0f} ({arm['mine_s']:.0f})"
    if column == "group":
        return arm["group"]
    if column == "uniformity":
        return f"{arm['geometry']['uniformity']:.2f}"
    if test is None:
        return ""
    if column == "decision":
        return test["decision"]
    if kind == "gain":
        return f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]"
    return significance.shown(test["p_holm"]) if kind == "p" else f"{test['detectable']:.4f}"


def table(name, columns):
    """The Markdown of a table."""
    against = next((column.partition("=")[2] for column in columns if column.startswith("against=")), None)
    columns = [column for column in columns if not column.startswith("against=")]
    measures = {column.partition(":")[0] for column in columns} & set(MEASURES) | {"mrr@10"}
    folder = ROOT / "docs" / "results" / name
    results = {m: analysis.read_kept(folder, measure=m, against=against) for m in measures}
    arms = results["mrr@10"]["arms"]
    head = ["negatives", *(heading(column, f"`{arms[0]['arm']}`") for column in columns)]
    lines = [head, ["---"] * len(head)]
    for reference, values in results["mrr@10"]["references"].items():
        label = {"bm25": "BM25"}.get(reference, reference)
        lines.append([f"*{label}*", *(f"{values[c]:.4f}" if c in MEASURES else "" for c in columns)])
    for number, arm in enumerate(arms):
        row = {measure: result["arms"][number] for measure, result in results.items()}
        label = re.sub(r"=\S*/([\w-]+)\.txt", r"=\1", arm["arm"])  # of a file of docs its name
        lines.append([f"`{label}`", *(cell(row, column) for column in columns)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def over(measure, against, names):
    """The Markdown of several comparisons, without its first sentence."""
    folders = [ROOT / "docs" / "results" / name for name in names]
    found = report.pooled(folders, measure=measure, against=against and against.partition("=")[2])
    return meta.to_table(found).partition("\n\n")[2]


def parser_of(script):
    """The parser of a script, caught where the script would parse."""
    made, parse_args = [], cli.Parser.parse_args
    cli.Parser.parse_args = lambda parser, *rest: made.append(parser) or sys.exit()
    try:
        importlib.import_module(script).parse_args()
    except SystemExit:
        return made[0]
    finally:
        cli.Parser.parse_args = parse_args


def flags(script):
    """The Markdown of a script's flags, a table for each group of its --help all."""
    parts = []
    for group in parser_of(script)._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        rows = []
        for action in actions:
            names = ", ".join(action.option_strings) or action.dest
            value = action.metavar or (action.choices and "|".join(map(str, action.choices))) or action.dest.upper()
            shown = names if action.nargs == 0 or not action.option_strings else f"{names} {value}"
            shown += " ..." if action.nargs in ("+", "*") else ""
            said = action.help + (" (an arm may change it)" if getattr(action, "per_arm", False) else "")
            rows.append([f"`{shown}`".replace("|", "\\|"), said.replace("|", "\\|").replace("<", "&lt;")])
        if rows:
            parts.append(f"**{group.title}**\n\n{markdown(['flag', 'what it does'], rows)}")
    return "\n".join(parts)


def renewed(text):
    """A page with its tables made anew."""
    text = FLAGS.sub(lambda found: f"{found[1]}\n{flags(found[2])}\n{found[3]}", text)
    text = POOLED.sub(lambda found: f"{found[1]}{over(found[2], found[3], found[4].split())}{found[5]}", text)
    return MARKED.sub(lambda found: f"{found[1]}{table(found[2], found[3].split())}{found[4]}", text)


def main():
    parser = cli.Parser(__doc__)
    parser.group("flags")("--check", action="store_true", help="write nothing; fail if a table is not what data say")
    args = parser.parse_args()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        if (new := renewed(text)) == text:
            continue
        if args.check:
            raise BadInput(f"{path.name}: a table is not what docs/results says; python experiments/tables.py")
        write_text(path, new)
        print(f"wrote   {path.relative_to(ROOT)}")


if __name__ == "__main__":
    process.cli(main)
