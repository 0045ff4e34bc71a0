"""train.py --plan: what it advises, and that it measures the run that it forecasts and leaves nothing behind."""

import re

import pytest
from conftest import call

from lib.evaluation import plan, retrieval

ADVISED = [
    (120, 12, "in_batch", 1),
    (800, 32, "in_batch", 1),
    (11_931, 32, "refresh:4", 0),
    (40_000, 128, "refresh:4", 0),
]


@pytest.mark.parametrize("queries, batch, arm, start", ADVISED)
def test_the_advice_follows_the_tables(queries, batch, arm, start):
    found = {each.flag: each.value for each in plan.settings(queries, smallest=queries, static=True)}
    assert found["batch_size"] == batch and found["negatives"] == [arm] and ("init" in found) == start
    assert round(found["epochs"] * (queries // batch)) >= 300
    found = {each.flag: each.value for each in plan.settings(queries, smallest=queries, static=False)}
    assert list(found) == ["negatives", "batch_size", "epochs"]
    assert 1 <= found["epochs"] and found["epochs"] * (queries // found["batch_size"]) >= 100


def test_the_least_difference_follows_the_spread(tiny, monkeypatch):
    said = "12 test queries are too few to show a difference between two arms: 20 at least are wanted"
    assert plan.least_difference(tiny, 0.4, "mrr@10") == said
    monkeypatch.setattr(retrieval, "FEW", 12)
    few = plan.least_difference(tiny, 0.4, "mrr@10")
    assert float(few.split(": ")[1].split()[0]) > float(few.split("seeds, ")[1].split()[0]) > 0
    assert "spread by 0.16" in few and "mrr@10 with 3 seeds" in few
    narrow = plan.least_difference(tiny, 0.1, "mrr@10")
    assert float(narrow.split(": ")[1].split()[0]) < float(few.split(": ")[1].split()[0])


def test_the_advice_knows_the_batch_that_is_asked_for():
    found = {each.flag: each.value for each in plan.settings(5000, smallest=5000, static=True, batch_size=512)}
    assert found["batch_size"] == 512 and found["epochs"] * (5000 // 512) >= 300


def test_the_cost_of_a_run_is_the_sum_of_its_parts():
    cost = plan.Cost(begin=5, step=0.1, mining=2, evaluation=3, memory=700)
    assert cost.total(steps=100, minings=4, evaluations=2) == 5 + 10 + 8 + 12 + plan.FIGURES


def test_a_plan_measures_and_leaves_nothing(launch, folder, tmp_path, capsys):
    flags = ("--data", folder, "--dim", 16, "--vocab_size", 300, "--steps", 400, "--batch_size", 8)
    assert launch("train.py", *flags, "--plan", cwd=tmp_path) == 0
    said = capsys.readouterr().out
    assert "--negatives in_batch: with about 700 queries" in said and "--batch_size" not in said.split("next")[0]
    beat = re.search(r"BM25 has (0\.\d+) dev mrr@10, the encoder as it is (0\.\d+), both mixed (0\.\d+)", said)
    assert max(map(float, beat.groups()[:2])) <= float(beat[3])  # on dev, where its weight is chosen
    assert re.search(r"forecast: \d+ s for 400 steps, 0 minings, \d+ evaluations on dev", said)
    command = said.split("next    python ")[1].split()
    assert command[0] == "train.py" and {"--steps=400", "--negatives", "in_batch"} <= set(command)
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_a_plan_of_a_comparison_of_transformers(folder, bert, tmp_path):
    flags = ("--data", folder, "--encoder", bert, "--steps", 90, "--batch_size", 4, "--doc_length", 16)
    done = call("train.py", *flags, "--plan", "--negatives", "in_batch", "refresh:2", "--seeds", 0, 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert (
        re.search(r"BM25 has 0\.\d+ dev mrr@10, the encoder as it is 0\.\d+, both mixed", said)
        and "4 runs, 1 at a time: at most" in said
    )
    assert re.search(r"forecast: \d+ s for 90 steps, \d+ minings, \d+ evaluations on dev", said)
    assert "refresh:2" in said.split("next")[1] and not list((tmp_path / "runs").iterdir())


def test_a_run_that_shows_too_little_has_no_forecast(capsys, monkeypatch, tmp_path):
    plan.show_cost(None, {}, runs=1, jobs=1)
    assert "no forecast: 75 s do not show enough" in capsys.readouterr().out


def test_what_cannot_be_planned_is_one_line(folder, tmp_path, refused):
    assert "--plan is for runs that have not begun" in refused(
        "train.py", "--data", folder, "--plan", "--tune", "lr=1e-3,1e-2", cwd=tmp_path
    )
    flags = ("--data", folder, "--plan", "--dim", 16, "--dims", 99, "--vocab_size", 300)
    assert "--plan: --dims 99: the vectors have 16 dimensions" in refused("train.py", *flags, cwd=tmp_path)
