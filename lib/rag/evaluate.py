"""Score the answers to a split's questions: of one retriever, of several, or of all arms and seeds of comparisons."""

import dataclasses
import json
import math
import pathlib
import re

import numpy as np

from lib import run
from lib.evaluation import comparison, plots
from lib.files import BadInput, atomic_path, remove, write_json, write_text
from lib.rag import answers, scoring, store, summary


def parts_of(comparisons, retrievers, *, against):
    """[[(arm, seed, retriever)] of each part of the questions]: a part for each comparison by train.py, or one."""
    parts = [_compared(folder, against) for folder in comparisons] or [[(each, 0, each) for each in retrievers]]
    names = [[(arm, seed) for arm, seed, _ in part] for part in parts]
    if len(set(names[0])) < len(names[0]):
        raise BadInput(f"{names[0][0][0]}: one retriever stands twice; name each once")
    if any(each != names[0] for each in names):
        raise BadInput(f"--compare: {comparisons[0]} and another have not the same arms and seeds")
    return parts


def _compared(folder, against):
    runs = comparison.read_comparison(folder, against=against)
    found = [(one.arm, one.seed, str(comparison.run_folder(pathlib.Path(folder), one.arm, one.seed))) for one in runs]
    return [*found, ("BM25", 0, "bm25")]


def target_of(runs, retrievers, stem, *, name, reranked, overwrite):
    """The folder for answers: below the one run or comparison that is scored, or below runs/.

    stem: [what the answers are to and of]. BadInput where there are answers already, unless they are overwritten.
    """
    label = lambda text: re.sub(r"[^\w.+=-]+", "_", text)  # noqa: E731
    if runs and len(retrievers or runs) == 1 and not name and not reranked:
        home = pathlib.Path(runs[0])
        if not home.is_dir():
            raise BadInput(f"{home}: no such folder")
    else:
        names = [pathlib.Path(each).name for each in (retrievers if len(retrievers) > 1 else runs)]
        names = names or [retrievers[0].replace("runs/", "")]
        home = run.run_path(name or label("-vs-".join(names)) + ("-reranked" if reranked else ""))
    target = home / "answers" / "-".join([*stem[:-1], label(stem[-1].replace("runs/", ""))])
    if (target / "metrics.json").exists() and not overwrite:
        raise BadInput(f"{target} holds answers already: --overwrite them, or choose another --name")
    return target


def begin(target, *, overwrite):
    """Make and lock the folder, before the first answer is asked for, and paid; empty it if it is overwritten."""
    target.mkdir(parents=True, exist_ok=True)
    run.lock(target)
    for each in target.iterdir() if overwrite else ():
        if each.name != run.LOCK:
            remove(each)


@dataclasses.dataclass
class Part:
    """Some of the questions, and what the docs of every retriever make of them."""

    questions: scoring.Questions
    store: store.Answers
    k: int  # docs that are read
    contexts: list  # rows of CONTEXTS that are asked besides what was retrieved
    measure: str  # whose gain is split
    distraction: bool  # whether it is measured how docs mislead

    def __post_init__(self):
        self.docs, self.records = scoring.Docs(self.questions.collection.docs), []

    def _ask(self, context, *, desc, seed=0, best=None, given=None):
        """(records, Answers) of a row of CONTEXTS: best, given: the docs of a retriever and the Answers to them."""
        rows = scoring.CONTEXTS[context].function(questions=self.questions, k=self.k, seed=seed, best=best, given=given)
        return self._read(rows, desc)

    def _read(self, rows, desc):
        given = scoring.answered(self.store, self.questions, self.docs, rows, desc=desc)
        return scoring.records(self.questions, self.docs, rows, given), given

    def _values(self, arm, seed, retrieved, base):
        """{value: (n,) array} of what one retriever found; base: the Retrieved that its gain is over, if any."""
        best = retrieved.best(self.k)
        found, given = self._read(best, arm)
        values = scoring.arrays(found) | {"ndcg@10": retrieved.ndcg, "top": retrieved.top.astype(float)}
        for context in self.contexts:
            if not scoring.CONTEXTS[context].of_retriever:
                continue
            again, other = self._ask(context, desc=f"{arm}, {context}", seed=seed, best=best, given=given)
            if context == "uncited":
                for record, a, b in zip(found, given, other):
                    differ = answers.squad(answers.bare(a.text)) != answers.squad(answers.bare(b.text))
                    record["needed"] = float(differ) if a.citations else math.nan
                values["needed"] = np.array([record["needed"] for record in found])
            else:
                values[f"{context} f1"] = scoring.arrays(again)["f1"]
        if self.distraction and self.store.generator.abstain_probability is not None:
            values |= scoring.distraction(self.store, self.questions, self.docs, retrieved, self.k)
        elif self.distraction:
            values["spoiled"] = scoring.spoiled(self.store, self.questions, self.docs, retrieved, self.k)
        if base is not None:
            values |= scoring.split_of(self.store, self.questions, self.docs, base, retrieved, self.k,
                                       measure=self.measure, desc=f"split, {arm}")  # fmt: skip
        self.records += [{"arm": arm, "seed": seed, "context": "retrieved"} | record for record in found]
        return values

    def values(self, found, path):
        """({(arm, seed): values}, {context: values}) of {(arm, seed): Retrieved}, the arm to compare with first.

        Each question's own go to the file questions.jsonl at `path`.
        """
        if self.store.reused:
            print(f"   {self.store.reused:,} answers of before are used again")
        first = next(arm for arm, _ in found)
        base = {seed: retrieved for (arm, seed), retrieved in found.items() if arm == first}
        systems, references = {}, {}
        for (arm, seed), retrieved in found.items():
            over = None if arm == first else base.get(seed, next(iter(base.values())))
            values = systems[arm, seed] = self._values(arm, seed, retrieved, over)
            mean = float(np.mean(values[self.measure]))
            print(f"   {arm}, seed {seed}: nDCG@10 {values['ndcg@10'].mean():.4f}  {self.measure.upper()} {mean:.4f}")
        for context in self.contexts:
            if not scoring.CONTEXTS[context].of_retriever:
                known, _ = self._ask(context, desc=context)
                self.records += [{"arm": "", "seed": 0, "context": context} | record for record in known]
                references[context] = scoring.arrays(known)
        for line in self.store.shortfall():
            print(f"   {line}")
        self._write(path)
        return systems, references

    def _write(self, path):
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
            for record in self.records:
                clean = {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in record.items()}
                out.write(json.dumps(clean, ensure_ascii=False) + "\n")


def extend(pooled, more):
    """Put {key: {value: array}} of one part of the questions behind those of the parts before it."""
    for key, values in more.items():
        known = pooled.setdefault(key, {})
        for name, array in values.items():
            known[name] = np.concatenate([known[name], array]) if name in known else array


def finish(target, pooled, references, *, measure, head):
    """Write metrics.json, with `head` in it, tables and figures; the tables."""
    systems = [(arm, seed, values) for (arm, seed), values in pooled.items()]
    result = summary.summarise(systems, measure=measure, name=target.name)
    known = [summary.summarise([(name.replace("_", " "), 0, values)], measure=measure, name=name)["arms"][0]
             for name, values in references.items()]  # fmt: skip
    text = summary.to_tables(result, known, head["gold_answers"])
    write_json(target / "metrics.json", result | {"references": known} | head)
    write_text(target / "answers.md", text)
    with plots.optional(target):
        summary.draw(target, result, systems)
    return text
