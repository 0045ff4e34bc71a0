"""A race of arms on dev: those that cannot win any more stop early, seeds are added where it is undecided.

Every arm begins with the first seed and pauses after each lap, an equal share of its steps; its learning rate is that
of the whole run. After a lap an arm stops where it is shown not to be better than the leader by MARGIN, with room for
what may still be caught up: so the winner is less than MARGIN behind the best arm, but in one race of twenty. What is
left after the last lap is trained with more seeds, until one arm is left or other seeds would say little more.
Each look has its share of the level (Bonferroni: it holds whatever the looks have in common).
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lib.evaluation import comparison, significance
from lib.evaluation.significance import MARGIN
from lib.figure import STYLES, figure, legend_beside, optional
from lib.files import markdown, write_json, write_text
from lib.run import Run

LAPS = 4
MOST_SEEDS = 5
# all that follows was chosen by racing finished comparisons again (experiments/race_replay.py, docs/race.md)
ROOM = (0.015, 0.006, 0.002, 0.0)  # of the dev measure, for what is caught up after each lap: two deviations of it
LEVEL = 0.2  # of all looks together, one-sided: fewer than one race of twenty ended with a wrong winner
# deviation of a run's mean over seeds, .0024 to .0087 in our tables, and for how many degrees of freedom that counts
PRIOR = 0.006, 4
SEEDS = 0.8  # share of the variance that is due to seeds, below which more of them say little


class Place(NamedTuple):
    """How an arm stands to the leader: the difference, and the limits that decide whether it stops."""

    difference: float
    low: float
    high: float
    of_seeds: float  # share of the variance that is due to seeds


class Look(NamedTuple):
    """What was seen of the arms that were left after a lap, and which stopped there."""

    lap: int
    seeds: int
    means: dict  # arm -> mean on dev
    leader: str
    places: dict  # other arm -> its Place
    stopped: tuple


class Result(NamedTuple):
    """How a race ended: the winner, and the arms that were left besides, which may be as good or better."""

    winner: str
    left: tuple
    looks: tuple


def race(arms, values_of: Callable, *, cost, laps=LAPS, most_seeds=MOST_SEEDS, room=ROOM, prior=PRIOR):
    """The Result of a race of arms.

    values_of(arms, seeds, lap) -> {arm: (S, Q) values on dev after so many laps with the first S seeds}, which trains
    what is not trained yet; cost(arm): what a run of it costs, which decides among arms that are equal.
    """
    order = [(1, lap) for lap in range(1, laps + 1)] + [(seeds, laps) for seeds in range(2, most_seeds + 1)]
    level, looks, left = LEVEL / len(order), [], list(arms)
    for seeds, lap in order:
        values = values_of(left, seeds, lap)
        means = {arm: float(np.mean(rows)) for arm, rows in values.items()}
        leader = max(means, key=means.get)
        places = {arm: _place(values, arm, leader, level, prior) for arm in left if arm != leader}
        stopped = tuple(arm for arm, place in places.items() if place.high < MARGIN - room[lap - 1])
        looks.append(Look(lap, seeds, means, leader, places, stopped))
        left = [arm for arm in left if arm not in stopped]
        if len(left) == 1 or (lap == laps and all(places[arm].of_seeds < SEEDS for arm in left if arm != leader)):
            break
    ended = [(arm, place) for look in looks if look.lap == laps for arm, place in look.places.items() if arm != leader]
    equal = [leader, *(arm for arm, place in ended if -MARGIN < place.low and place.high < MARGIN)]
    winner = min(equal, key=cost)
    return Result(winner, tuple(arm for arm in left if arm != winner), tuple(looks))


def _place(values, arm, leader, level, prior):
    difference, _, parts = significance.crossed(values, arm, leader, prior=prior)
    mean, half = float(difference.mean()), significance.half_width(2 * level, *significance.possible_variances(*parts))
    of_queries, of_seeds, _, least = parts  # an arm stops by one end of its interval: twice the level
    return Place(mean, mean - half, mean + half, max(of_seeds, least) / (max(of_seeds, least) + of_queries))


# ------------------------------------------------------------------------------------------------------- live


def live(runs, arms):
    """The Result of a race of Arms that experiment.Runs trains; what is trained already is not trained again."""
    named = {arm.text: arm for arm in arms}
    steps = {lap: max(1, round(runs.full * lap / LAPS)) for lap in range(1, LAPS + 1)}

    def values_of(left, seeds, lap):
        jobs = [runs.job(named[arm], seed, runs.full, until=steps[lap], resume=True)
                for arm in left for seed in runs.seeds[:seeds]]  # fmt: skip
        runs.run(f"lap {lap} of {LAPS}, {how_many(len(left), 'arm')}, {how_many(seeds, 'seed')}", jobs, goal=steps[lap])
        runs.announce = lambda title, counts: print(f"== {title}")  # the settings have been shown
        return {
            arm: np.stack([comparison.read_dev(runs.folder_of(arm, seed), steps[lap]) for seed in runs.seeds[:seeds]])
            for arm in left
        }

    def cost(arm):
        return seconds(runs.folder_of(arm, runs.seeds[0]))

    result = race(list(named), values_of, cost=cost, most_seeds=len(runs.seeds))
    runs.run(
        f"{result.winner} to its test split", [runs.job(named[result.winner], runs.seeds[0], runs.full, resume=True)]
    )
    return result


def how_many(count, what):
    """1 arm, 2 arms."""
    return f"{count} {what}{'s' * (count != 1)}"


def seconds(folder):
    """What a run has spent on training and mining."""
    spent = [line["spent"] for line in Run(folder).read_log("timing.jsonl") if line["event"] == "evaluation"][-1]
    return spent["train"] + spent["mine"]


def share(looks, arms, *, laps=LAPS, seeds=3):
    """The share of a whole comparison's laps, of all arms with so many seeds, that a race ran."""
    ran = {}
    for look in looks:
        for arm in look.means:
            ran |= {(arm, seed): look.lap for seed in range(look.seeds)}
    return sum(ran.values()) / (laps * seeds * arms)


def report(folder, result, measure, test, verdict):
    """Write race.json, race.md and race.png of a race to its folder; returns the Markdown.

    test: the winner's measures; verdict: of its run, beside BM25 and its start.
    """
    first = result.looks[0]
    last = {arm: look for look in result.looks for arm in look.means}
    rows = []
    for arm in sorted(first.means, key=lambda arm: (-last[arm].lap, -last[arm].seeds, -last[arm].means[arm])):
        look, place = last[arm], last[arm].places.get(arm)
        against = f"{place.difference:+.4f} [{place.low:+.4f}, {place.high:+.4f}] to {look.leader}" if place else "led"
        ended = "chosen" if arm == result.winner else "stopped" if arm in look.stopped else "level at the end"
        rows.append([f"`{arm}`", f"{look.lap} of {LAPS}", str(look.seeds), f"{look.means[arm]:.4f}", against, ended])
    text = f"{conclusion(result, measure, test)}\n\n{result.winner}: {verdict}.\n\n"
    text += markdown(["arm", "laps", "seeds", f"dev {measure}", "difference when last seen", ""], rows)
    write_text(folder / "race.md", f"# Race\n\n{text}")
    looks = [
        look._asdict() | {"places": {arm: of._asdict() for arm, of in look.places.items()}} for look in result.looks
    ]
    write_json(folder / "race.json", {"winner": result.winner, "left": result.left, "test": test, "looks": looks})
    with optional(folder):
        draw(folder / "race.png", result, measure)
    return text


def conclusion(result, measure, test):
    """A race in two sentences."""
    part = share(result.looks, len(result.looks[0].means))
    said = f"{result.winner} is chosen after {part:.0%} of the steps of a comparison of all arms with three seeds"
    said += f"; its test {measure} is {test[measure]:.4f}."
    if not result.left:
        return f"{said} Each other arm stopped, where it was shown not to be better by {MARGIN}."
    return f"{said} This dev split does not tell it apart from {', '.join(result.left)}."


def draw(path, result, measure):
    """dev by lap, a line for each arm that ends where the arm stopped."""
    with figure(path, width=7.5) as ax:
        for arm, (colour, mark, dash) in zip(result.looks[0].means, itertools.cycle(STYLES)):
            points = {look.lap: look.means[arm] for look in result.looks if arm in look.means}
            ended = "stopped" if any(arm in look.stopped for look in result.looks) else "left"
            ended = "chosen" if arm == result.winner else ended
            shape = {"label": f"{arm} ({ended})", "color": colour, "marker": mark, "linestyle": dash}
            ax.plot(list(points), list(points.values()), **shape)
        ax.set(xlabel="lap", ylabel=f"dev {measure}, mean over seeds", xticks=range(1, LAPS + 1))
        legend_beside(ax)
