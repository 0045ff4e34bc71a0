"""Ask a collection a question: docs, and an answer with citations; or score the answers to a split's questions.

python rag_demo.py --run runs/R "how do I parse a date string?"
python rag_demo.py --run runs/R                                     # a prompt; an empty line ends it
python rag_demo.py --run runs/R --retriever bm25 "..."              # two retrievers, docs that only one found marked
python rag_demo.py --run runs/R --web                               # a page in the browser
python rag_demo.py --run runs/R --generator hf:MODEL "..."          # or qa:MODEL, http://127.0.0.1:8000/v1
python rag_demo.py --eval --run runs/R                              # F1, citations, what went wrong, over a split
python rag_demo.py --eval --compare runs/ABLATION                   # all arms and seeds, and what gains are made of
"""

import contextlib
import pathlib
import re
import sys

from lib import cli, process
from lib.data import fields, readers
from lib.data.beir import SPLITS
from lib.data.collection import collection_of
from lib.evaluation import measures, retrieval
from lib.files import BadInput
from lib.model.encoder import pick_device
from lib.rag import asking, evaluate, generators, store
from lib.rag.answers import METRICS
from lib.rag.prompts import ABSTAIN, DEFAULT, Template
from lib.rag.scoring import CONTEXTS, Questions, Retrieved
from lib.search.retriever import run_of

REFERENCES = ("gold", "random", "closed_book", "uncited")  # contexts that are asked besides, by default
OF_SEARCH = ("rerank", "rerank_depth", "fusion", "normalise", "weight")
OF_MODELS = ("context_tokens", "answer_tokens", "prompt")

FIRST = "run retriever data generator model show_prompt web eval compare distraction split name"  # flags of --help


# fmt: off
def parse_args():
    parser = cli.Parser(__doc__, first=FIRST)
    parser.add_argument("question", nargs="?", help="without one, questions are read from a prompt")
    add = parser.group("what searches")
    add("--run", nargs="+", default=[], metavar="R", help="run folder whose encoder and index are asked: short for "
        "--retriever runs/R; two retrievers, whatever they are, are shown side by side")
    retrieval.add_flags(add, nargs="+", default=[])
    add("--data", excludes="compare", help=f"{readers.HELP}; default: the run's own")
    add("--strict", action="store_true", help=readers.STRICT)
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--json", action="store_true", excludes="web", help="print one JSON object for each question and retriever")
    add("--docs", type=cli.number(int, least=1, most=1000), default=5, help="docs to read for a question")
    add("--where", nargs="+", default=[], metavar="FIELD=VALUE", excludes="eval", help="search only docs with these "
        "values in their metadata; of one field any, of several fields all")
    add("--build", action="store_true", needs="run", excludes="eval",
        help="build the run's index of the collection first, where there is none")
    add = parser.group("what answers")
    add("--generator", nargs="+", default=["extractive"], metavar="G", help=generators.HELP + "; several: one for each "
        "folder of --compare")
    add("--model", help="name of the model at the server; default: its first")
    add("--context_tokens", type=cli.COUNT, default=2000, metavar="N", help="tokens of docs in a prompt, at most")
    add("--answer_tokens", type=cli.COUNT, default=64, metavar="N", help="tokens that a language model may write")
    add("--prompt", metavar="FILE", help=f"your own prompt, with {{documents}} and {{question}} where these go, and "
        f"{ABSTAIN} where it says what to reply if they do not answer")
    add("--timeout", type=cli.number(float, above=0, most=86_400), default=60.0, metavar="S", help="seconds to wait "
        "for a server's whole reply")
    add("--show_prompt", action="store_true", excludes="eval", help="print exactly what is sent to the model")
    add = parser.group("a page in the browser")
    add("--web", action="store_true", excludes="eval", help="serve the page; two runs stand side by side")
    add("--save", metavar="FILE", needs="web", help="let readers mark the docs that answer, and add the question with "
        "these to FILE.jsonl, which train.py and evaluate.py read by --questions")
    add("--host", default="127.0.0.1", needs="web", help="address to listen at; the default is seen from here only")
    add("--port", type=cli.number(int, least=0, most=65535), default=7860, needs="web", help="to listen at; 0: any")
    add = parser.group("scoring", needs="eval")
    add("--eval", needs=None, action="store_true", help="answer the questions of a split and score the answers")
    add("--compare", nargs="+", default=[], metavar="FOLDER", help="comparisons by train.py whose arms and seeds are "
        "scored; several with the same arms are read as parts of one collection (experiments/cross_fit.py)")
    add("--against", needs="compare", metavar="ARM", help="the arm that others are compared with; default: the first")
    add("--split", choices=SPLITS, default="test", help="whose questions")
    add("--questions", type=cli.COUNT, metavar="N", help="ask only N of them, the same ones whatever retrieves")
    add("--contexts", nargs="*", choices=tuple(CONTEXTS), metavar="C", help="what else is read: "
        + "; ".join(f"{name}: {context.about}" for name, context in CONTEXTS.items())
        + f"; default: {' '.join(REFERENCES)}")
    add("--distraction", action="store_true", help="how far each doc without a label misleads: by the generator's "
        "probability of no answer or, without one, by adding it to the relevant docs")
    add("--measure", choices=[name for name, metric in METRICS.items() if metric.tested], default="f1",
        help="of the answers: what is tested, split and drawn")
    add("--self_match", choices=measures.SELF_MATCH, default="drop", help=measures.SELF_MATCH_HELP)
    add("--name", help="folder below runs/ to write to; default: the run's or comparison's own")
    add("--overwrite", action="store_true", help="ask and score again where there are answers")
    add("--changed_code", action="store_true", help="go on with the answers of an interrupted scoring although the "
        "code that makes them has changed since, which the file of answers then records")
    args = parser.parse_args()
    take_question(args)
    check(args, parser)
    return args, parser


# fmt: on
def take_question(args):
    """Tell the question from the values of a list before it: `--run runs/R "what is it?"`.

    A single word behind --retriever is no question, unless a question mark ends it, but the name of something that is
    not there; behind --run it is one, for runs are folders.
    """
    condition = re.compile(r"[\w.-]+=\S")  # of --where, with spaces perhaps
    asks = lambda text: (  # noqa: E731
        (" " in text or text.endswith("?")) and not condition.match(text) and not pathlib.Path(text).exists()
    )
    if args.question is None and not args.eval:
        for values in (args.run, args.retriever, args.where):
            last = values[-1] if len(values) > 1 else ""
            word = values is args.run and "/" not in last and last != "bm25" and not pathlib.Path(last).exists()
            if last and (asks(last) or word):
                args.question = args.question or values.pop()
        if len(args.generator) > 1 and args.generator[-1].partition(":")[0] not in generators.GENERATORS:
            args.question = args.question or args.generator.pop()
    args.retriever = [*args.run, *args.retriever]


def check(args, parser):
    """BadInput for flags that do not go together."""
    parser.check(args)
    given = cli.non_default(args, parser)
    server, model = (args.generator[0].startswith(kinds) for kinds in ("http", ("http", "hf:")))
    # flags, whether they may be given, and what to say if not
    rules = (
        (("question",), not args.eval, "a question plays no part with --eval"),
        (("question",), not args.web, "--web takes its questions from the page"),
        (OF_SEARCH, not args.compare, "--{} plays no part with --compare, which searches with each run alone"),
        (("model",), server, "--{} is the name of a model at a server: --generator http://..."),
        (OF_MODELS, model, "--{} is for language models: --generator hf:... or http://..."),
        (
            ("json",),
            not (args.eval or args.show_prompt),
            "--{} is for answers to questions, without --eval and --show_prompt",
        ),
        (("timeout",), server, "--{} is for servers: --generator http://..."),
    )
    for flags, fine, text in rules:
        for name in flags:
            if name in given and not fine:
                raise BadInput(text.format(name))
    if args.save and pathlib.Path(args.save).suffix != ".jsonl":
        raise BadInput(f"--save {args.save}: a name that ends in .jsonl is wanted")
    if args.save and (not pathlib.Path(args.save).parent.is_dir() or pathlib.Path(args.save).is_dir()):
        raise BadInput(f"--save {args.save}: no file can be made there")
    if bool(args.retriever) == bool(args.compare):
        also = ", or else --compare FOLDER" if args.eval else ""
        raise BadInput(f"say what searches: --run R, --retriever bm25{also}")
    if len(args.generator) > 1 and len(args.generator) != len(args.compare):
        raise BadInput("--generator: one, or one for each folder of --compare")
    if len(args.retriever) > 2 and not args.eval:
        raise BadInput("--retriever: two can be shown side by side; --eval scores any number")


def examples(collection, count=4):
    """Some queries: short ones where there are any, and far apart, for neighbours are often on one doc."""
    rows = collection.split("test" if "test" in collection.qrels else next(iter(collection.qrels))).queries
    found = list(dict.fromkeys(collection.queries.texts(rows)))
    found = [text for text in found if 3 <= len(text.split()) <= 12] or found
    return found[:: -(-len(found) // count)]


def conditions(texts):
    """{field: [values]} of --where; BadInput for what is no FIELD=VALUE."""
    found = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not (field and equals and value):
            raise BadInput(f"--where {text}: FIELD=VALUE is wanted")
        found.setdefault(field, []).append(value)
    return found


def generator_of(args, spec):
    """The generator that a spec names, with the flags of the command."""
    template = Template.read(args.prompt) if args.prompt else DEFAULT
    if not template.abstains:
        print(f"note: {args.prompt} does not say {ABSTAIN}: no answer will count as an abstention", file=sys.stderr)
    return generators.open_generator(
        spec, device=pick_device(args.device), model=args.model, context_tokens=args.context_tokens,
        answer_tokens=args.answer_tokens, timeout=args.timeout, template=template,
    )  # fmt: skip


def main():
    args, parser = parse_args()
    if args.eval:
        return score(args, parser)
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):  # where --json has objects alone
        collection, opened, generator = open_all(args)
    title, among = f"{len(collection.docs):,} docs of {collection.name}", None
    if args.where:
        among = fields.rows_where(collection.docs, conditions(args.where))
        title = f"{len(among):,} of {title} with {' '.join(args.where)}"

    def find(question):
        return {name: asking.find(question, each, collection, args.docs, among) for name, each in opened.items()}

    def show(question):
        found = find(question)
        if args.json:
            found = {name: asking.answered(one, question, generator) for name, one in found.items()}
            return print(*asking.as_json(question, found), sep="\n")
        asking.show(question, found, generator, sent_to=args.generator[0] if args.show_prompt else None)

    if args.web:
        from lib.rag.page import serve  # here: its library takes seconds to import

        how = {"title": title, "examples": examples(collection), "save": args.save and pathlib.Path(args.save)}
        return serve(find, generator, list(opened), host=args.host, port=args.port, **how)
    if args.question:
        return show(args.question)
    print(f"{title}; ask, or press Enter to leave", file=sys.stderr if args.json else sys.stdout)
    asking.converse(show)


def open_all(args):
    """(the collection, {name: retriever}, the generator) of a command that answers questions."""
    folder = pathlib.Path(args.run[0]) if args.run else next(filter(None, map(run_of, args.retriever)), None)
    spec, collection = collection_of(args.data, folder, strict=args.strict)
    for each in args.run:
        offer_index(pathlib.Path(each), spec, collection, build=args.build)
    opened = {}
    for each in dict.fromkeys(args.retriever):
        opened[each], notes = retrieval.open_with(args, each, collection, device=pick_device(args.device))
        for name, value in notes.items():
            print(f"{name} = {value}")
    return collection, opened, generator_of(args, args.generator[0])


def offer_index(folder, data, collection, *, build):
    """Build a run's index where it has none and --build or the user at the terminal says so."""
    if not (folder / "encoder").is_dir() or (folder / "index" / collection.name / "meta.json").exists():
        return
    command = ["build_index.py", "--run", str(folder), "--data", data]
    if not build and sys.stdin.isatty() and sys.stdout.isatty():
        build = input(f"{folder} has no index of {collection.name}. Build it now? [y/N] ").strip().lower() == "y"
    if build:
        script = pathlib.Path(__file__).resolve().with_name("build_index.py")
        out = 2 if sys.stdout is sys.stderr else None  # as what is printed here
        if process.start([sys.executable, str(script), *command[1:]], stdout=out).wait():
            raise BadInput(f"python {' '.join(map(cli.quoted, command))} failed")
    else:
        print(f"note: {folder} has no index of {collection.name}: searching exactly; --build makes one")


def score(args, parser):
    """Score the answers of one retriever, of several runs, or of all arms and seeds of comparisons."""
    parts = evaluate.parts_of(args.compare, args.retriever, against=args.against)
    specs = args.generator * (len(parts) if len(args.generator) == 1 else 1)
    contexts = list(REFERENCES if args.contexts is None else dict.fromkeys(args.contexts))
    target, systems, references = None, {}, {}
    for number, (part, spec) in enumerate(zip(parts, specs)):
        folder = pathlib.Path(args.compare[number]) if args.compare else run_of(part[0][2])
        cut = [split for split in SPLITS[1:] if split == args.split]
        _, collection = collection_of(args.data, folder, cut=cut, strict=args.strict)
        questions = Questions.of(collection, args.split, args.questions)
        generator = generator_of(args, spec)
        place = target or evaluate.target_of(
            args.compare or args.run, args.retriever, [collection.name, args.split, spec], name=args.name,
            reranked=bool(args.rerank), overwrite=args.overwrite,
        )  # fmt: skip
        found = {}
        for arm, seed, each in part:  # before anything is replaced
            retriever, _ = retrieval.open_with(args, each, collection, device=pick_device(args.device))
            found[arm, seed] = Retrieved.of(retriever, questions, args.docs, self_match=args.self_match)
        if target is None:
            target = place
            evaluate.begin(target, overwrite=args.overwrite)
            head = {"data": collection.name, "split": args.split, "gold_answers": questions.gold_from,
                    "docs": args.docs, "generator": args.generator, "contexts": contexts}  # fmt: skip
            head |= {"prompt": Template.read(args.prompt).user} if args.prompt else {}
            cli.print_header(f"answers to {collection.name}, {args.split}", args, parser, {
                "questions": len(questions), "docs": len(collection.docs), "gold answers": questions.gold_from,
                "retrievers": len(part),
            })  # fmt: skip
        known = store.Answers(target / f"answers-{number}.jsonl", generator, changed_code=args.changed_code)
        asked = evaluate.Part(questions, known, args.docs, contexts, args.measure, args.distraction)
        for pooled, more in zip((systems, references), asked.values(found, target / f"questions-{number}.jsonl")):
            evaluate.extend(pooled, more)
    text = evaluate.finish(target, systems, references, measure=args.measure, head=head)
    print(f"\n{text}\nwrote   {target}/: metrics.json, answers.md, questions-*.jsonl, answers-*.jsonl, figures")


if __name__ == "__main__":
    process.cli(main)
