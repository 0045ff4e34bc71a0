"""Arms: the choices that a comparison compares, parsed once from the command line."""

import dataclasses
import re
from typing import NamedTuple

from lib.files import BadInput
from lib.negatives.sources import SOURCES
from lib.search.retriever import parts

MOST = 1_000_000  # negatives of one source: more would not fit into memory


class Stage(NamedTuple):
    """From fraction `begin` of training on, draw `counts` = {source: negatives per query}."""

    begin: float
    counts: dict


@dataclasses.dataclass(frozen=True)
class Arm:
    """Where negatives come from, stage by stage, and the flags that this arm alone changes.

    Written as `bm25:2+refresh:2` or, in stages, `random:4,refresh:4@0.3`; flags stand behind a space, as in
    `refresh:4 temperature=.03 filters=percpos:.95,near_copy:.8`. The text is the arm's name and nothing else.
    """

    text: str
    stages: tuple = dataclasses.field(compare=False, hash=False)
    overrides: dict = dataclasses.field(compare=False, hash=False)  # flag -> value

    def __str__(self):
        return self.text

    @classmethod
    def parse(cls, text, value_of=lambda name, value: value):
        """The Arm that `text` names; value_of(flag, text) -> the flag's value, checked; BadInput if wrong."""
        sources, *changes = text.split() or [""]
        overrides = {}
        for item in changes:
            name, _, value = item.partition("=")
            if name in overrides:
                raise BadInput(f"{text}: {name} is set twice")
            try:
                overrides[name] = value_of(name, value)
            except BadInput as error:
                raise BadInput(f"{text}: {error}") from None
        stages = []
        for piece in sources.split(","):
            stage = _parse_stage(piece, text)
            rises = stage.begin > stages[-1].begin if stages else stage.begin == 0
            if not 0.0 <= stage.begin < 1.0 or not rises:
                raise BadInput(
                    f"{text}: stages begin at rising fractions below 1, the first at 0, as in "
                    f"random:4,refresh:4@0.3; found {piece}"
                )
            stages.append(stage)
        return cls(text, tuple(stages), overrides)

    def apply(self, arguments):
        """The arguments {flag: value} of a run of this arm alone."""
        return arguments | {"negatives": [self]} | self.overrides

    def changed(self, **overrides):
        """This arm with further overrides {flag: (value, its text)}; BadInput if it has one of them already."""
        if again := overrides.keys() & self.overrides.keys():
            raise BadInput(f"{self.text}: {min(again)} is set twice, by the arm and by --grid or --control")
        text = " ".join([self.text, *(f"{name}={text}" for name, (_, text) in overrides.items())])
        return Arm(text, self.stages, self.overrides | {name: value for name, (value, _) in overrides.items()})

    @property
    def base(self):
        """The arm's text without the flags that it changes."""
        return (self.text.split() or [""])[0]

    @property
    def sources(self):
        """The explicit sources, in order of first use."""
        return list(dict.fromkeys(name for stage in self.stages for name in stage.counts))

    @property
    def queued(self):
        """The largest number of docs that a queue holds, 0 without one."""
        counts = [(name, count) for stage in self.stages for name, count in stage.counts.items()]
        return max((count for name, count in counts if SOURCES[name].queue), default=0)

    def check(self, *, in_batch, miner, teacher, by=None, positive_filter=None, inject=None):
        """BadInput if the arm's sources lack what they draw from, or its loss lacks a teacher or any negative."""
        if in_batch == "off" and not all(stage.counts for stage in self.stages):
            raise BadInput(f"--in_batch off: the arm {self} names no other negatives for all of the training")
        asked = "miner" in self.sources
        if asked and not miner or miner and not (asked or positive_filter):
            raise BadInput(f"--negatives {self}: miner:K and --miner M come together: M is what is asked")
        if any(SOURCES[name].by_field for name in self.sources) != bool(by):
            raise BadInput(f"--negatives {self}: sibling:K and --by FIELD come together: siblings share that field")
        replaced = [sum(k for name, k in stage.counts.items() if not SOURCES[name].queue) for stage in self.stages]
        if inject and inject.numbers[0] and not min(replaced):
            raise BadInput(f"--inject {inject.text}: the arm {self} has no negatives of its own to replace")
        if inject and inject.numbers[0] > 1 / max(1, *replaced):
            raise BadInput(
                f"--inject {inject.text}: one negative of a query is replaced at most, so SHARE is 1/K at most"
            )
        if miner and parts(miner):
            raise BadInput(f"--miner {miner}: two retrievers joined by + have no scores for positives; name one")
        if teacher and not all(any(SOURCES[name].teaches for name in stage.counts) for stage in self.stages):
            raise BadInput(
                "--terms margin_mse and kl need a source with a teacher's scores in every stage, as file:K is"
            )

    @property
    def from_file(self):
        """Whether a source of the arm draws from --negatives_file."""
        return any(SOURCES[name].needs_file for name in self.sources)

    @property
    def explicit(self):
        """Explicit negatives per query, as "4" or, where stages differ, as "4 then 8"."""
        return " then ".join(str(sum(stage.counts.values())) for stage in self.stages)

    @property
    def shares(self):
        """{source: (mean count over a training, share of it in which the source is active)}."""
        found = {}
        for stage, end in zip(self.stages, [*(s.begin for s in self.stages[1:]), 1.0]):
            for name, count in stage.counts.items():
                mean, share = found.get(name, (0, 0))
                found[name] = mean + count * (end - stage.begin), share + end - stage.begin
        return found


def _parse_stage(piece, text):
    body, _, begin = piece.partition("@")
    counts = {}
    for part in body.split("+"):
        match = re.fullmatch(r"(\w+)(?::(\d+))?", part)
        if not match or match[1] not in SOURCES:
            raise BadInput(f"{text}: {part!r} is no source; write source:K with one of {', '.join(SOURCES)}")
        name, count = match[1], int(match[2] or 0)
        if not SOURCES[name].explicit:
            if match[2] is not None:
                raise BadInput(f"{text}: {part!r}; {name} takes no number")
        elif not count:
            raise BadInput(f"{text}: {part!r}; {name} takes a number, at least 1")
        elif count > MOST:
            raise BadInput(f"{text}: {part!r}; at most {MOST:,} of a source")
        elif name in counts:
            raise BadInput(f"{text}: a source stands twice in {piece!r}")
        else:
            counts[name] = count
    try:
        return Stage(float(begin or 0.0), counts)
    except ValueError:
        return Stage(-1.0, counts)
