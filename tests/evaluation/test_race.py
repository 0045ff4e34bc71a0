"""A race: who stops when, who wins, what it costs, and that it trains nothing twice."""

import numpy as np
import pytest

from lib.evaluation import comparison, race
from lib.files import BadInput, read_json, write_json
from lib.negatives.arms import Arm

Q = 400


def field(effects, *, seeds=5, of_run=0.003, of_query=0.1, key=0):
    """{arm: (S, Q) values} with these true means over .5, alike in every lap."""
    rng = np.random.default_rng(key)
    base = rng.normal(0.5, 0.3, Q)

    def runs(effect):
        return base + effect + rng.normal(0, of_query, Q) + rng.normal(0, of_run, (seeds, 1))

    return {arm: runs(effect) for arm, effect in effects.items()}


def run(values, *, most_seeds=5, cost=lambda arm: 1, **how):
    """(the Result, [(arms, seeds, lap) asked for])."""
    asked = []

    def values_of(arms, seeds, lap):
        asked.append((tuple(arms), seeds, lap))
        return {arm: values[arm][:seeds] for arm in arms}

    return race.race(list(values), values_of, cost=cost, most_seeds=most_seeds, **how), asked


def test_an_arm_far_behind_stops_after_the_first_lap_and_one_near_later():
    result, asked = run(field({"best": 0.1, "near": 0.085, "far": 0.0}))
    assert "far" in result.looks[0].stopped and "near" not in result.looks[0].stopped
    assert result.winner == "best" and "far" not in result.left
    assert all("far" not in arms for arms, _, _ in asked[1:])
    place = result.looks[0].places["far"]
    assert place.low < -0.1 < place.high < 0 and result.looks[0].leader == "best"


def test_one_arm_left_ends_it_at_once():
    result, asked = run(field({"best": 0.3, "far": 0.0}))
    assert asked == [(("best", "far"), 1, 1)] and result.left == ()
    assert race.share(result.looks, 2) == pytest.approx(2 / (4 * 3 * 2))


def test_seeds_are_added_only_where_they_are_what_is_uncertain():
    apart = {"a": 0.004, "b": 0.0}
    _, by_queries = run(field(apart, of_query=0.3))
    _, by_seeds = run(field(apart, of_query=0.001, of_run=0.002))
    assert by_queries[-1][1:] == (1, 4), "other seeds would say little beside 400 queries that differ so much"
    assert by_seeds[-1][1] > 1
    assert [lap for _, seeds, lap in by_seeds if seeds > 1] == [4] * (len(by_seeds) - 4)


def test_the_cheaper_of_two_equal_arms_wins():
    values = field({"dear": 0.001, "cheap": 0.0}, of_query=0.005, of_run=0.0002)
    result, _ = run(values, cost={"dear": 9, "cheap": 1}.get, prior=(0.0005, 50), room=(1, 1, 1, 0))
    assert result.winner == "cheap" and result.looks[-1].leader == "dear"


def test_a_wrong_winner_is_rare():
    """Sixty races of six arms: three of which .02 behind. By the level at most three are won by one of these."""
    wrong = 0
    for key in range(60):
        result, _ = run(field(dict.fromkeys("abc", 0.02) | dict.fromkeys("def", 0.0), key=key))
        wrong += result.winner in "def"
    assert wrong <= 3


class Runs:
    """What race.live() asks of experiment.Runs, without training: values come from a field."""

    def __init__(self, folder, values):
        self.folder, self.values, self.full, self.seeds, self.trained = folder, values, 40, [0, 1, 2], []
        self.announce = print

    def folder_of(self, arm, seed):
        return comparison.run_folder(self.folder, arm, seed)

    def job(self, arm, seed, steps, until=None, resume=False):
        assert resume and steps == self.full
        return arm.text, seed, until

    def run(self, title, jobs, *, goal=None):
        for arm, seed, until in jobs:
            folder = self.folder_of(arm, seed)
            if goal and (folder / "dev" / f"{goal}.npy").exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            self.trained.append((arm, seed, until))
            comparison.write_dev(folder, until or self.full, self.values[arm][seed])
            (folder / "timing.jsonl").write_text('{"event": "evaluation", "spent": {"train": 2, "mine": 1}}\n')


def test_live_it_trains_nothing_twice_and_writes_what_it_saw(tmp_path):
    values = field({"in_batch": 0.0, "bm25:4": 0.1, "refresh:4": 0.1}, seeds=3)
    arms = [Arm.parse(text) for text in values]
    runs = Runs(tmp_path, values)
    result = race.live(runs, arms)
    assert result.winner in ("bm25:4", "refresh:4")
    assert [each for each in runs.trained if each[0] == "in_batch"] == [("in_batch", 0, 10)]
    assert len(set(runs.trained)) == len(runs.trained)
    assert runs.trained[-1] == (result.winner, 0, None), "the winner alone goes to its test split"
    again = Runs(tmp_path, values)
    assert race.live(again, arms) == result and again.trained == [(result.winner, 0, None)], "what is there is not run"
    text = race.report(tmp_path, result, "mrr@10", {"mrr@10": 0.6}, "BM25 is ahead of this encoder")
    assert f"{result.winner}: BM25 is ahead of this encoder." in (tmp_path / "race.md").read_text()
    assert f"{result.winner} is chosen after" in text and "| `in_batch` | 1 of 4 | 1 |" in text and "stopped" in text
    assert read_json(tmp_path / "race.json")["winner"] == result.winner and (tmp_path / "race.png").exists()


def test_what_does_not_go_together_is_refused(refused):
    assert "--race and --tune" in refused("train.py", "--race", "--tune", "lr=.1,.2")
    assert "two arms" in refused("train.py", "--race", "--negatives", "bm25:4")


def test_a_race_is_no_comparison(tmp_path):
    write_json(tmp_path / "config.json", {
        "args": {"negatives": ["a", "b"], "seeds": [0], "race": True}, "inputs": {"collection": "x"}, "derived": {},
    })  # fmt: skip
    with pytest.raises(BadInput, match="is a race.*race.md"):
        comparison.read_comparison(tmp_path)
