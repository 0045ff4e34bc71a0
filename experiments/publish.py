"""Keep a comparison under docs/results: its table as data, its values by query and its configuration, without its runs.

python experiments/publish.py runs/medquad-ablation medquad --data medquad

`python evaluate.py --compare docs/results/medquad` tests it again, `python train.py --config
docs/results/medquad/config.json` trains it again, and experiments/tables.py makes the tables of docs/ from it.
"""

import json
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import cli, process
from lib.evaluation.analysis import KEPT
from lib.files import read_json, write_text

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "results"


def main():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    add("folder", help="the comparison, below runs/")
    add("name", help="what it is called below docs/results/")
    add("--data", required=True, help="how a reader names the collection: no path of this machine is kept")
    add("--encoder", help="the same of the encoder")
    args = parser.parse_args()
    source, target = pathlib.Path(args.folder), RESULTS / args.name
    result, config = read_json(source / "ablation.json", data=str), read_json(source / "config.json", args=dict)
    named = [("data", args.data), *([("encoder", args.encoder)] if args.encoder else [])]
    for flag, name in named:
        config = json.loads(json.dumps(config).replace(json.dumps(config["args"][flag])[1:-1], name))
    config["source"] = {"commit": config["source"]["commit"]} if config.get("source") else None
    config.pop("code", None)
    write_text(target / "ablation.json", json.dumps(result | {"name": args.name} | dict(named)) + "\n")
    write_text(target / "config.json", json.dumps(config, indent=1) + "\n")
    shutil.copyfile(source / KEPT, target / KEPT)
    print(f"wrote   {target}/: ablation.json, config.json, {KEPT}")


if __name__ == "__main__":
    process.cli(main)
