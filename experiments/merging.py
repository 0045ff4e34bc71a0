"""What averaging an encoder with its start keeps and gives back: MRR@10 on several collections, by the trained share.

    python experiments/merging.py runs/start runs/tuned --data medquad python:docs --out merged

writes merged/0.25/ ... (the encoders, by `python -m lib.model.merge`), merged/runs/ (what evaluate.py measured) and
merged/merging.png.
"""

import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import cli, process
from lib.data import readers
from lib.figure import figure
from lib.files import BadInput, markdown, read_json

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def python(*command, cwd):
    """Run a script of this project; BadInput with its last line where it fails."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise BadInput(f"{command[0]}: {done.stderr.strip().rpartition(chr(10))[2]}")


def main():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    add("start", help="encoder before training: a run, or a model's folder")
    add("trained", help="encoder after it")
    add("--data", nargs="+", required=True, help=f"what both are measured on (test): {readers.HELP}")
    add("--shares", nargs="+", type=cli.SHARE, default=SHARES, help="of the trained weights")
    add("--out", required=True, help="folder to write to")
    args = parser.parse_args()
    out = pathlib.Path(args.out).absolute()
    found = {spec: [] for spec in args.data}
    for share in args.shares:
        folder = out / f"{share:g}"
        if not folder.exists():
            places = [pathlib.Path(place).absolute() for place in (args.start, args.trained)]
            python("-m", "lib.model.merge", *places, "--alpha", share, "--out", folder, cwd=ROOT)
        for spec in args.data:
            place = pathlib.Path(spec).absolute() if pathlib.Path(spec).exists() else spec
            name = f"{share:g}"
            python(ROOT / "evaluate.py", "--retriever", folder, "--data", place, "--name", name, "--overwrite", cwd=out)
            newest = max((out / "runs" / name / "eval").glob("*/metrics.json"), key=lambda path: path.stat().st_mtime)
            found[spec].append(read_json(newest, mean=dict)["mean"]["mrr@10"])
    with figure(out / "merging.png") as ax:
        for spec, values in found.items():
            ax.plot(args.shares, values, marker="o", label=f"{pathlib.Path(spec).name}, test")
        ax.set_xlabel("share of the trained weights")
        ax.set_ylabel("MRR@10")
        ax.legend(frameon=False)
    rows = [[f"{share:g}", *(f"{of[i]:.4f}" for of in found.values())] for i, share in enumerate(args.shares)]
    print(markdown(["share of the trained weights", *(f"{spec}, test MRR@10" for spec in found)], rows))
    print(f"wrote   {args.out}/: an encoder a share, runs/, merging.png")


if __name__ == "__main__":
    process.cli(main)
