"""A run that pauses: the same in pieces as in one, and what it had on dev at each evaluation."""

import numpy as np

from lib.evaluation import comparison
from lib.files import read_json

FLAGS = "--dim 16 --vocab_size 200 --batch_size 6 --steps 12 --eval_every 6 --negatives refresh:2".split()


def test_a_run_in_pieces_is_the_run(tiny, launch, tmp_path, capsys):
    data = "--data", tiny.docs.path.parent
    assert launch("train.py", *data, *FLAGS, "--name", "whole", cwd=tmp_path) == 0
    for until in ("4", "9", "12"):
        assert launch("train.py", *data, *FLAGS, "--name", "pieces", "--resume", "--until", until, cwd=tmp_path) == 0
        assert f"stopped behind step {until} of 12" in capsys.readouterr().out
        assert not (tmp_path / "runs/pieces/summary.json").exists(), "test is not looked at"
    assert launch("train.py", *data, *FLAGS, "--name", "pieces", "--resume", cwd=tmp_path) == 0
    whole, pieces = (tmp_path / "runs" / name for name in ("whole", "pieces"))
    weights = [(each / "encoder/model.safetensors").read_bytes() for each in (whole, pieces)]
    assert weights[0] == weights[1]
    assert read_json(whole / "summary.json")["test"] == read_json(pieces / "summary.json")["test"]
    assert sorted(path.name for path in (pieces / "dev").iterdir()) == ["12.npy", "4.npy", "6.npy", "9.npy"]
    kept = comparison.read_dev(whole, 12)
    assert kept.shape == (len(tiny.split("dev")),)
    logged = [line["dev"] for line in comparison.run.Run(whole).read_log() if line["event"] == "evaluation"][-1]
    assert np.isclose(kept.mean(), logged["mrr@10"])
    assert comparison.read_dev(whole, 5) is None


def test_a_comparison_does_not_pause(tiny, refused):
    data = "--data", tiny.docs.path.parent
    assert "--until is for a single run" in refused("train.py", *data, "--seeds", "0", "1", "--until", "3")
