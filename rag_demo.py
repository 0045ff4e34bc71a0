"""Ask a collection a question: docs, and an answer with citations; or score the answers to a split's questions.

python rag_demo.py --run runs/R "how do I parse a date string?"
python rag_demo.py --run runs/R                                     # a prompt; an empty line ends it
python rag_demo.py --run runs/A runs/B "..."                        # two retrievers, docs that only one found marked
python rag_demo.py --run runs/R --web                               # a page in the browser
python rag_demo.py --run runs/R --generator hf:MODEL "..."          # or qa:MODEL, http://127.0.0.1:8000/v1
python rag_demo.py --eval --run runs/R                              # F1, citations, what went wrong, over a split
python rag_demo.py --eval --compare runs/ABLATION                   # all arms and seeds, and what gains are made of
"""

import json
import math
import pathlib
import re
import sys
import textwrap

import numpy as np

from lib import cli, process, run
from lib.data import readers
from lib.data.beir import SPLITS
from lib.data.collection import collection_of
from lib.evaluation import comparison, measures, plots, retrieval
from lib.files import BadInput, atomic_path, remove, write_json, write_text
from lib.model.encoder import pick_device
from lib.rag import answers, asking, generators, scoring, store, summary
from lib.search.retriever import run_of

REFERENCES = ("gold", "random", "closed_book", "uncited")  # contexts that are asked besides, by default


# fmt: off
def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument("question", nargs="?", help="without one, questions are read from a prompt")
    add = parser.group("what searches")
    add("--run", nargs="+", default=[], metavar="R", help="run folder whose encoder and index are asked: short for "
        "--retriever runs/R; two of them are shown side by side")
    retrieval.add_flags(add)
    add("--data", help=f"{readers.HELP}; default: the run's own")
    add("--strict", action="store_true", help=readers.STRICT)
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--docs", type=cli.number(int, least=1, most=1000), default=5, help="docs to read for a question")
    add("--build", action="store_true", help="build the run's index of the collection first, where there is none")
    add = parser.group("what answers")
    add("--generator", nargs="+", default=["extractive"], metavar="G", help=generators.HELP + "; several: one for each "
        "folder of --compare")
    add("--model", help="name of the model at the server; default: its first")
    add("--context_tokens", type=cli.COUNT, default=2000, metavar="N", help="tokens of docs in a prompt, at most")
    add("--answer_tokens", type=cli.COUNT, default=64, metavar="N", help="tokens that a language model may write")
    add("--timeout", type=cli.number(float, above=0, most=86_400), default=60.0, metavar="S", help="seconds to wait "
        "for a server's whole reply")
    add("--show_prompt", action="store_true", help="print exactly what is sent to the model")
    add = parser.group("a page in the browser")
    add("--web", action="store_true", help="serve the page; two runs stand side by side")
    add("--host", default="127.0.0.1", help="address to listen at; the default is seen from this machine only")
    add("--port", type=cli.number(int, least=0, most=65535), default=7860, help="to listen at; 0: any that is free")
    add = parser.group("scoring")
    add("--eval", action="store_true", help="answer the questions of a split and score the answers")
    add("--compare", nargs="+", default=[], metavar="FOLDER", help="comparisons by train.py whose arms and seeds are "
        "scored; several with the same arms are read as parts of one collection (experiments/cross_fit.py)")
    add("--against", metavar="ARM", help="the arm that others are compared with; default: the first")
    add("--split", choices=SPLITS, default="test", help="whose questions")
    add("--questions", type=cli.COUNT, metavar="N", help="ask only N of them, the same ones whatever retrieves")
    add("--contexts", nargs="*", choices=tuple(scoring.CONTEXTS), metavar="C", help="what else is read: "
        + "; ".join(f"{name}: {text}" for name, text in scoring.CONTEXTS.items())
        + f"; default: {' '.join(REFERENCES)}")
    add("--distraction", action="store_true", help="how far each doc without a label misleads: by the generator's "
        "probability of no answer or, without one, by adding it to the relevant docs")
    add("--measure", choices=answers.MEASURES, default="f1", help="of the answers: what is tested, split and drawn")
    add("--self_match", choices=measures.SELF_MATCH, default="drop", help=measures.SELF_MATCH_HELP)
    add("--name", help="folder below runs/ to write to; default: the run's or comparison's own")
    add("--overwrite", action="store_true", help="ask and score again where there are answers")
    add("--changed_code", action="store_true", help="go on with the answers of an interrupted scoring although the "
        "code that makes them has changed since, which the file of answers then records")
    args = parser.parse_args()
    take_question(args)
    check(args, cli.non_default(args, parser))
    return args, parser


# fmt: on
OF_SCORING = (
    "compare",
    "against",
    "split",
    "questions",
    "contexts",
    "distraction",
    "measure",
    "self_match",
    "name",
    "overwrite",
    "changed_code",
)


def take_question(args):
    """Tell the question from the values of a list before it: `--run runs/R "what is it?"`."""
    if args.question is None and not args.eval:
        if len(args.run) > 1 and not pathlib.Path(args.run[-1]).exists() and not args.run[-1].startswith("runs/"):
            args.question = args.run.pop()
        elif len(args.generator) > 1 and args.generator[-1].partition(":")[0] not in generators.GENERATORS:
            args.question = args.generator.pop()


def check(args, given):
    """BadInput for flags that do not go together."""
    searched = [bool(args.run), bool(args.retriever), bool(args.compare)]
    if args.compare and not args.eval:
        raise BadInput("--compare scores answers: add --eval")
    if sum(searched) != 1:
        raise BadInput(
            "say what searches: either --run R or --retriever bm25" + (" or --compare FOLDER" if args.eval else "")
        )
    if not args.eval and (unused := [name for name in OF_SCORING if name in given]):
        raise BadInput(f"--{unused[0]} needs --eval")
    if args.eval and (
        unused := [name for name in ("question", "web", "host", "port", "show_prompt", "build") if name in given]
    ):
        raise BadInput(f"{'a question' if unused[0] == 'question' else '--' + unused[0]} plays no part with --eval")
    if not args.web and (unused := [name for name in ("host", "port") if name in given]):
        raise BadInput(f"--{unused[0]} needs --web")
    if args.web and args.question:
        raise BadInput("--web takes its questions from the page")
    if len(args.generator) > 1 and len(args.generator) != len(args.compare):
        raise BadInput("--generator: one, or one for each folder of --compare")
    if len(args.run) > 2 and not args.eval:
        raise BadInput("--run: two runs can be shown side by side; --eval scores any number")
    if args.build and not args.run:
        raise BadInput("--build makes the index of --run R")
    if args.compare and (
        unused := [n for n in ("rerank", "rerank_depth", "fusion", "normalise", "weight", "data") if n in given]
    ):
        raise BadInput(
            f"--{unused[0]} plays no part with --compare, which searches with each run on its own collection"
        )
    if args.against and not args.compare:
        raise BadInput("--against chooses among the arms of --compare")
    if args.model and not args.generator[0].startswith("http"):
        raise BadInput("--model is the name of a model at a server: --generator http://...")
    for name in ("context_tokens", "answer_tokens"):
        if name in given and not args.generator[0].startswith(("http", "hf:")):
            raise BadInput(f"--{name} is for language models: --generator hf:... or http://...")
    if "timeout" in given and not args.generator[0].startswith("http"):
        raise BadInput("--timeout is for servers: --generator http://...")


def generator_of(args, spec):
    """The generator that a spec names, with the flags of the command."""
    return generators.open_generator(
        spec, device=pick_device(args.device), model=args.model, context_tokens=args.context_tokens,
        answer_tokens=args.answer_tokens, timeout=args.timeout,
    )  # fmt: skip


def main():
    args, parser = parse_args()
    if args.eval:
        return evaluate(args, parser)
    specs = args.run or [args.retriever]
    folder = pathlib.Path(args.run[0]) if args.run else run_of(args.retriever)
    spec, collection = collection_of(args.data, folder, strict=args.strict)
    for each in args.run:
        offer_index(args, pathlib.Path(each), spec, collection)
    opened = {}
    for each in dict.fromkeys(specs):
        opened[each], notes = retrieval.open_with(args, each, collection, device=pick_device(args.device))
        for name, value in notes.items():
            print(f"{name} = {value}")
    generator = generator_of(args, args.generator[0])

    def ask(question):
        return {name: asking.ask(question, each, generator, collection, args.docs) for name, each in opened.items()}

    if args.web:
        from lib.rag.page import serve  # here: its library takes seconds to import

        rows = collection.split("test" if "test" in collection.qrels else next(iter(collection.qrels))).queries[:4]
        examples = collection.queries.texts(rows)
        title = f"{len(collection.docs):,} docs of {collection.name}"
        return serve(ask, list(opened), title=title, examples=examples, host=args.host, port=args.port)
    if args.question:
        return show(args, ask(args.question))
    print(f"{len(collection.docs):,} docs of {collection.name}; ask, or press Enter to leave")
    while True:
        try:
            question = input("> ").strip().encode("utf-8", "replace").decode()
        except EOFError:
            break
        if not question:
            break
        try:
            show(args, ask(question))
        except BadInput as error:  # a server that is gone may come back: the next question can be asked
            print(f"error: {process.one_line(error)}")


def offer_index(args, folder, data, collection):
    """Build a run's index where it has none and --build or the user at the terminal says so."""
    if not (folder / "encoder").is_dir() or (folder / "index" / collection.name / "meta.json").exists():
        return
    command = ["build_index.py", "--run", str(folder), "--data", data]
    if not args.build and sys.stdin.isatty() and sys.stdout.isatty():
        args.build = input(f"{folder} has no index of {collection.name}. Build it now? [y/N] ").strip().lower() == "y"
    if args.build:
        script = pathlib.Path(__file__).resolve().with_name("build_index.py")
        if process.start([sys.executable, str(script), *command[1:]]).wait():
            raise BadInput(f"python {' '.join(map(cli.quoted, command))} failed")
    else:
        print(f"note: {folder} has no index of {collection.name}: searching exactly; --build makes one")


def show(args, found):
    """Print the docs and the answer of each retriever: {name: Found}."""
    for name, one in found.items():
        others = [other for key, other in found.items() if key != name]
        marked = asking.only_here(one, others[0]) if others else set()
        if others:
            print(f"\n== {process.printable(name)}")
        for doc in one.docs:
            mark = "  (only here)" if doc.number in marked else ""
            print(process.printable(f"\n[{doc.number}] {doc.score:.3f}  {doc.ident}  {doc.place}{mark}"))
            print(textwrap.indent(textwrap.shorten(process.printable(doc.text), 240, placeholder=" ..."), "    "))
        if not one.docs:
            print("nothing found: no word of the question is known to the encoder")
        if args.show_prompt and one.docs:
            text = (
                process.printable(one.answer.prompt) if one.answer.prompt else f"{args.generator[0]} is sent no prompt"
            )
            print(f"\n--- prompt, {one.answer.tokens[0]} tokens\n{text}\n---")
        text = generators.NOTHING if one.answer.abstained else one.answer.text
        print(f"\n{textwrap.fill(process.printable(text), 100)}" + (" ..." if one.answer.cut else ""))
        if one.answer.unknown:
            print(f"(it cites {', '.join(f'[{n}]' for n in one.answer.unknown)}, which is no doc)")
        print()


# -------------------------------------------------------------------------------------------------- scoring


def evaluate(args, parser):
    """Score the answers of one retriever, of several runs, or of all arms and seeds of comparisons."""
    parts = [parts_of(args, folder) for folder in args.compare] or [
        [(each, 0, each) for each in args.run or [args.retriever]]
    ]
    names = [[(arm, seed) for arm, seed, _ in part] for part in parts]
    if len(set(names[0])) < len(names[0]):
        raise BadInput(f"{names[0][0][0]}: one retriever stands twice; name each once")
    if any(each != names[0] for each in names):
        raise BadInput(f"--compare: {args.compare[0]} and another have not the same arms and seeds")
    specs = args.generator * (len(parts) if len(args.generator) == 1 else 1)
    pooled, references, head = {}, {}, None
    target = None
    for number, (part, spec) in enumerate(zip(parts, specs)):
        of_run = pathlib.Path(args.compare[number]) if args.compare else run_of(part[0][2])
        _, collection = collection_of(
            args.data, of_run, cut=[s for s in SPLITS[1:] if s == args.split], strict=args.strict
        )
        questions = scoring.Questions.of(collection, args.split, args.questions)
        generator = generator_of(args, spec)
        place = target or target_of(args, collection, specs[0])
        if target is None and (place / "metrics.json").exists() and not args.overwrite:
            raise BadInput(f"{place} holds answers already: --overwrite them, or choose another --name")
        found = [retrieve(args, questions, each) for _, _, each in part]  # before anything is replaced
        if target is None:
            target = place
            target.mkdir(parents=True, exist_ok=True)
            run.lock(target)  # before the first answer is asked for, and paid
            for each in target.iterdir() if args.overwrite else ():
                if each.name != run.LOCK:
                    remove(each)
            head = {
                "data": collection.name,
                "split": args.split,
                "gold_answers": questions.gold_from,
                "docs": args.docs,
                "generator": args.generator,
                "contexts": contexts_of(args),
            }
            cli.print_header(f"answers to {collection.name}, {args.split}", args, parser, {
                "questions": len(questions), "docs": len(collection.docs), "gold answers": questions.gold_from,
                "retrievers": len(part),
            })  # fmt: skip
        path = target / f"answers-{number}.jsonl"
        asked = Asked(args, questions, store.Answers(path, generator, changed_code=args.changed_code))
        if asked.store.reused:
            print(f"   {asked.store.reused:,} answers of before are used again")
        base = None
        for (arm, seed, _), retrieved in zip(part, found):
            values = asked.values(arm, seed, retrieved)
            if base is not None and arm != part[0][0]:
                other = base.get(seed, next(iter(base.values())))
                values |= scoring.split_of(asked.store, questions, asked.docs, other, retrieved, args.docs,
                                           measure=args.measure, desc=f"split, {arm}")  # fmt: skip
            if arm == part[0][0]:
                base = (base or {}) | {seed: retrieved}
            extend(pooled.setdefault((arm, seed), {}), values)
            mean = float(np.mean(values[args.measure]))
            print(f"   {arm}, seed {seed}: nDCG@10 {values['ndcg@10'].mean():.4f}  {args.measure.upper()} {mean:.4f}")
        for context in contexts_of(args):
            if context in scoring.OF_NO_RETRIEVER:
                extend(references.setdefault(context, {}), asked.reference(context))
        asked.write(target / f"questions-{number}.jsonl")
    systems = [(arm, seed, values) for (arm, seed), values in pooled.items()]
    result = summary.summarise(systems, measure=args.measure, name=f"{target.name}")
    known = [summary.summarise([(name.replace("_", " "), 0, values)], measure=args.measure, name=name)["arms"][0]
             for name, values in references.items()]  # fmt: skip
    text = summary.to_tables(result, known)
    write_json(target / "metrics.json", result | {"references": known} | head)
    write_text(target / "answers.md", text)
    with plots.optional(target):
        summary.draw(target, result, systems)
    print(f"\n{text}\nwrote   {target}/: metrics.json, answers.md, questions-*.jsonl, answers-*.jsonl, figures")


def parts_of(args, folder):
    """[(arm, seed, retriever)] of a comparison by train.py, and BM25."""
    runs = comparison.read_comparison(folder, against=args.against)
    found = [(one.arm, one.seed, str(comparison.run_folder(pathlib.Path(folder), one.arm, one.seed))) for one in runs]
    return [*found, ("BM25", 0, "bm25")]


def contexts_of(args):
    """The contexts that are asked besides what was retrieved."""
    return list(REFERENCES if args.contexts is None else dict.fromkeys(args.contexts))


def target_of(args, collection, generator):
    """The folder that answers are written to."""
    label = re.sub(r"[^\w.+=-]+", "_", generator.replace("runs/", ""))
    names = [pathlib.Path(each).name for each in args.compare or args.run] or [args.retriever.replace("runs/", "")]
    own = args.compare or args.run
    if not args.name and len(own) == 1 and not args.rerank:
        home = pathlib.Path(own[0])
        if not home.is_dir():
            raise BadInput(f"{home}: no such folder")
    else:
        label_of_names = re.sub(r"[^\w.+=-]+", "_", "-vs-".join(names)) + ("-reranked" if args.rerank else "")
        home = run.run_path(args.name or label_of_names)
    return home / "answers" / f"{collection.name}-{args.split}-{label}"


def extend(values, more):
    """Append arrays of one part of the questions to those of the parts before it."""
    for name, array in more.items():
        values[name] = np.concatenate([values[name], array]) if name in values else array


def retrieve(args, questions, spec):
    """The Retrieved of one retriever."""
    retriever, _ = retrieval.open_with(args, spec, questions.collection, device=pick_device(args.device))
    return scoring.Retrieved.of(retriever, questions, args.docs, self_match=args.self_match)


class Asked:
    """The questions of one part, and what every retriever's docs make of them."""

    def __init__(self, args, questions, answer_store):
        self.args, self.questions, self.store = args, questions, answer_store
        self.docs = scoring.Docs(questions.collection.docs)
        self._records = []

    def values(self, arm, seed, retrieved):
        """{value: (n,) array} of what one retriever found."""
        args = self.args
        k, contexts = args.docs, contexts_of(args)
        best = retrieved.best(k)
        given = scoring.answered(self.store, self.questions, self.docs, best, desc=arm)
        found = scoring.records(self.questions, self.docs, best, given)
        values = arrays(found) | {"ndcg@10": retrieved.ndcg, "top": retrieved.top.astype(float)}
        for context in contexts:
            if context in scoring.OF_NO_RETRIEVER:
                continue
            rows = scoring.context_of(context, self.questions, k, retrieved=retrieved, given=given, seed=seed)
            other = scoring.answered(self.store, self.questions, self.docs, rows, desc=f"{arm}, {context}")
            if context == "uncited":
                changed = [
                    float(answers.squad(answers.bare(a.text)) != answers.squad(answers.bare(b.text)))
                    for a, b in zip(given, other)
                ]
                values["needed"] = np.array([x if a.citations else math.nan for x, a in zip(changed, given)])
                for record, needed in zip(found, values["needed"]):
                    record["needed"] = None if math.isnan(needed) else needed
            else:
                values[f"{context} f1"] = arrays(scoring.records(self.questions, self.docs, rows, other))["f1"]
        if args.distraction:
            if self.store.generator.abstain_probability is not None:
                values |= scoring.distraction(self.store, self.questions, self.docs, retrieved, k)
            else:
                values["spoiled"] = scoring.spoiled(self.store, self.questions, self.docs, retrieved, k)
        self._records += [{"arm": arm, "seed": seed, "context": "retrieved"} | record for record in found]
        return values

    def reference(self, context):
        """{value: (n,) array} of a context that no retriever has made."""
        rows = scoring.context_of(context, self.questions, self.args.docs)
        given = scoring.answered(self.store, self.questions, self.docs, rows, desc=context)
        found = scoring.records(self.questions, self.docs, rows, given)
        self._records += [{"arm": "", "seed": 0, "context": context} | record for record in found]
        return arrays(found)

    def write(self, path):
        """questions.jsonl: a line for each question, arm and seed."""
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
            for record in self._records:
                clean = {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in record.items()}
                out.write(json.dumps(clean, ensure_ascii=False) + "\n")


def arrays(found):
    """{value: (n,) array} of the records of questions."""
    names = ("em", "f1", "rouge_l", "cited", "exists", "holds", "answer_recall", "gold_recall", "abstained", "ms")
    values = {name: np.array([record[name] for record in found], dtype=float) for name in names}
    values["confidence"] = np.array([math.nan if r["confidence"] is None else r["confidence"] for r in found])
    values["tokens"] = np.array([r["tokens"][0] for r in found], dtype=float)
    return values | {"outcome": np.array([r["outcome"] for r in found])}


if __name__ == "__main__":
    process.cli(main)
