"""Train a dense retriever contrastively, on chosen negatives; report it beside BM25 and itself untrained.

    python train.py                                          # embedded collection, refreshed hard negatives
    python train.py --data FOLDER --negatives bm25:4         # your collection, in BEIR layout
    python train.py --negatives in_batch random:4 bm25:4 refresh:4 --seeds 0 1 2 --jobs 2    # a comparison
    python train.py --encoder NAME_OR_FOLDER --batch_size 512 --chunk_size 32        # cached gradients
    torchrun --nproc_per_node 8 train.py --encoder NAME_OR_FOLDER                    # same batch, 8 devices

An arm is source:K, joined by + and staged by a comma, as in bm25:2+refresh:2 or random:4,refresh:4@0.3; flags
written after a space apply to that arm only: "refresh:4 temperature=.03". README.md has the table of sources.
Every arm of a comparison starts from the same weights, sees the same queries in the same order and takes the
same number of steps; each run is a process of its own.
"""

import argparse
import functools
import math
import os
import shlex
import sys

import numpy as np
import torch
from tqdm import tqdm

from lib import cli, dist, loss, process, rng, run
from lib.cli import ABOVE_0, AT_LEAST_0, BELOW_1, COUNT
from lib.data import batches, fields, readers
from lib.data import check as check_data
from lib.data.collection import load_collection, without
from lib.data.made_queries import KINDS, add_pseudo_queries
from lib.data.tokens import cut_note
from lib.evaluation import comparison, diagnostics, experiment, measures, monitor, plan, race, report
from lib.evaluation.retrieval import of_run, verdict_of_run
from lib.evaluation.training import Evaluator, Training, to_beat
from lib.files import BadInput, fingerprint, fingerprint_file, read_json, write_json, write_text
from lib.model import encoder as model
from lib.model import gradients, pooling
from lib.model.distil import token_vectors, vocabulary_of
from lib.model.embedder import Embedder, Guide
from lib.model.static import new_static
from lib.negatives import injection, sampling
from lib.negatives.arms import Arm
from lib.negatives.candidates import how_many
from lib.negatives.filters import FILTERS, POSITIVE_FILTERS, inconsistent, parse_filter, parse_positive_filter
from lib.negatives.pool import advise, describe_pool, doc_states, open_pool, unlabelled_docs
from lib.negatives.queue import Queue
from lib.negatives.sampler import IN_BATCH, MiningConfig, NegativeSampler
from lib.negatives.sources import SOURCES, Miner, embedded_docs
from lib.search.approximate import Approximate
from lib.search.retriever import fingerprint_of

# arms of a race where none are named
RACERS = "in_batch", "bm25:1", "bm25:4", "refresh:1", "refresh:4", "refresh:4 filters=percpos:.95"
FEW_STEPS = 50  # below which a run says so
UNSAID = {"initial_weights", "query_order", "pool"}  # of what follows from the arguments: config.json has them
# flags that say which runs there are, not what a run does
OF_A_COMPARISON = "negatives seeds name overwrite resume jobs control grid tune budget config race".split()
OF_ONE_COMMAND = "name overwrite resume changed_code config control until".split()  # which no recorded run hands on

FIRST = "data questions encoder negatives seeds name plan resume batch_size epochs lr temperature"  # flags of --help


# fmt: off
def parse_args():
    parser = cli.Parser(__doc__, first=FIRST)
    add = parser.group("what")
    add("--data", nargs="+", default="python", metavar="DATA", help=f"{readers.HELP}; several are trained on together, "
        "each batch of one of them; ids become NAME/ID")
    add("--questions", metavar="FILE", help=readers.QUESTIONS)
    add("--strict", action="store_true", help=readers.STRICT)
    add("--encoder", nargs="+", default="static", metavar="static|NAME|FOLDER", help="static (trained from scratch), "
        "or a model to train further: ours, sentence-transformers' or Hugging Face's, by folder or hub name; two are "
        "the docs' and the queries', and the same one twice gives each side weights of its own")
    add("--dim", type=cli.DIM, metavar="D", help="length of the vectors: of a static encoder 768 by default, with "
        "--init at most the model's; a transformer gets a linear layer for it, by default none")
    add("--negatives", nargs="+", default=[Arm.parse("refresh:4")], metavar="ARM",
        type=functools.partial(Arm.parse, value_of=parser.value_of), help="one arm, or several to compare; sources: "
        + "; ".join(f"{name}{':K' * row.explicit}, {row.about}" for name, row in SOURCES.items())
        + "; default: refresh:4")
    add("--negatives_file", metavar="F", help="file of mine_negatives.py that the source file:K draws from "
        "(without it: the negatives that --data brings)")
    add("--seeds", "--seed", nargs="+", type=cli.SEED, default=[0], metavar="S", help="random seed(s) of initial "
        "weights, query order and sampled negatives")
    add("--seed_shift", type=cli.SEED, default=0, per_arm=True, help="added to every seed")
    add("--config", metavar="FILE", help="a run's config.json: its arguments become the defaults here")
    add("--name", help="run folder below runs/; default: collection, arm and seed")
    add("--overwrite", action="store_true", help="replace the run folder if it exists")
    add("--resume", action="store_true", help="continue an interrupted run from its last evaluation")
    add("--until", type=COUNT, metavar="STEP", help="stop behind this step, evaluated on dev; the same command with "
        "--resume, and another --until or none, goes on")
    add("--changed_code", action="store_true", needs="resume",
        help="with --resume: although the code or a version is another than "
        "when the run began, which config.json then records")
    add("--plan", action="store_true", help="print which settings are advised for this collection and why, what the "
        "run would cost, by beginning it, and the least difference that its test queries can show; then stop")
    add = parser.group("comparison of several arms, seeds or a grid")
    add("--grid", nargs="+", default=[], metavar="FLAG=X,Y,...", help="every arm with each of these values, as in "
        "temperature=.01,.02,.05,.1")
    add("--tune", nargs="+", default=[], metavar="FLAG=X,Y,...", help="as --grid, but only the first seed tries the "
        "values, and each arm keeps those that are best on dev; the report shows this beside one setting for all")
    add("--control", action="store_true", help="repeat the first arm with other seeds (A/A test), to show how large "
        "a difference chance alone produces")
    add("--budget", choices=experiment.BUDGETS, default="steps", help="what is equal for all arms: optimizer steps, "
        "negatives in denominators, docs encoded, or seconds with mining (timed by a short pilot)")
    add("--race", action="store_true", help="stop arms early that cannot be the best any more, by tests on dev, add "
        f"seeds where it is undecided, measure only the winner on test; without --negatives: {', '.join(RACERS)}")
    add("--jobs", type=COUNT, default=1, metavar="N", help="runs at a time, each a process of its own; the cores are "
        "divided among them, GPUs are given one each")
    add = parser.group("optimisation")
    add("--batch_size", type=COUNT, default=128, metavar="B", help="queries per step over all processes; their "
        "positives are each other's negatives")
    add("--query_clusters", type=COUNT, metavar="N", per_arm=True, excludes="pull",
        help="batches of queries of one cluster each, out "
        "of N found by k-means of the untrained encoder's query vectors")
    add("--batch_by", metavar="FIELD", per_arm=True, excludes="query_clusters", help="batches of queries that share a "
        "metadata field's value: of their positives or, where no doc has it, of their own")
    add("--batches", metavar="FILE", per_arm=True, help="the batches of an epoch, in order: --batch_size ids of train "
        "queries a line")
    add("--chunk_size", type=COUNT, metavar="C", help="texts whose activations are kept at once; below --batch_size "
        "it caches gradients: the same result in less memory, for one more forward pass",
        idle_when=lambda args, sources: args.chunk_size >= args.batch_size)
    add("--epochs", type=cli.number(float, above=0, most=1e6), default=3.0, help="passes over the training queries",
        idle_when=lambda args, sources: bool(args.steps))
    add("--steps", type=COUNT, help="optimizer steps; takes the place of --epochs")
    add("--lr", type=ABOVE_0, per_arm=True, help="peak learning rate of AdamW, reached after --warmup, then linear "
        "to 0; default: for transformers 3e-5 times the square of 768 / width, 3e-4 at most; for static ones .0045 "
        "times the square root of --batch_size")
    add("--warmup", type=BELOW_1, default=0.05, help="share of the steps over which the learning rate rises")
    add("--weight_decay", type=AT_LEAST_0, default=0.0, help="AdamW's, on all parameters")
    add("--max_grad_norm", type=AT_LEAST_0, default=0.0, help="longer gradients are shortened to this norm; 0: never")
    add("--ema", type=BELOW_1, default=0.98, help="decay per step of the averaged weights that mine, are evaluated "
        "and saved; 0: the weights as they are")
    add = parser.group("loss", per_arm=True)
    add("--temperature", type=ABOVE_0, default=0.06, help="divides similarities; lower values put more weight on the "
        "hardest negatives",
        idle_when=lambda args, sources: no_softmax(args))
    add("--learn_temperature", action="store_true", per_arm=False, help="--temperature is only where it starts",
        idle_when=lambda args, sources: no_softmax(args))
    add("--guide", metavar="NAME|FOLDER", help="encoder whose scores --masks guide:X goes by")
    add("--base", type=cli.choice(loss.BASES), default=cli.choice(loss.BASES)("infonce"), help="what the loss is at "
        f"heart: {cli.explained(loss.BASES)}")
    add("--masks", nargs="+", type=cli.choice(loss.MASKS), default=[], metavar="M", help="negatives that do not count: "
        f"{cli.explained(loss.MASKS)}")
    add("--terms", nargs="+", type=cli.choice(loss.TERMS), default=[], metavar="T", help="what is added: "
        f"{cli.explained(loss.TERMS)}")
    add("--dims", nargs="+", type=COUNT, default=[], metavar="D", help="Matryoshka: train these "
        "prefixes of the vectors too")
    add = parser.group("negatives", per_arm=True)
    add("--in_batch", choices=tuple(IN_BATCH), default="on", help="docs of the other queries in a batch: "
        + " ".join(f"{name}: {function.__doc__}" for name, function in IN_BATCH.items()))
    add("--depth", type=cli.DEPTH, default=12, help="candidates that stay in a query's list, the best ones",
        idle_when=lambda args, sources: no_list(sources))
    add("--sampling", type=sampling.parse_sampling, default=sampling.parse_sampling("uniform"),
        help=f"how each step draws K of them: {cli.usage(sampling.SAMPLING)}; default: uniform",
        idle_when=lambda args, sources: no_list(sources))
    add("--filters", nargs="+", type=parse_filter, default=[], metavar="F",
        help=f"candidates to drop: {cli.usage(FILTERS)} (lib/negatives/filters.py)",
        idle_when=lambda args, sources: no_list(sources))
    add("--positive_filter", type=parse_positive_filter, metavar="F", help="training pairs to leave out, by --miner or "
        f"BM25 over the corpus: {cli.usage(POSITIVE_FILTERS)}; a query stays if its best positive is among the K best "
        "docs, or scores at least X; dropped_pairs.tsv names the others")
    add("--candidates", type=cli.DEPTH, help="candidates to mine for each query, before the filters; default: --depth, "
        "with filters 100",
        idle_when=lambda args, sources: no_list(sources))
    add("--negative_docs", default="labelled", metavar="labelled|all|FILE", help="docs that may be negatives: "
        "positives of training queries (default), the whole corpus, or docs whose ids stand in a file, one a line",
        idle_when=lambda args, sources: not sources)
    add("--pull", metavar=f"{'|'.join(KINDS)}|FILE", help="give each doc without a label in training a query of its "
        "own, so that it is pulled too: its title, its first sentence, some words of it, or queries from a JSONL file, "
        '{"doc_id": ..., "query": ...} a line')
    add("--pull_rate", type=cli.number(float, above=0, most=100), default=0.25, metavar="SHARE", needs="pull",
        help="with --pull: this share of --batch_size is added to each batch as such queries")
    add("--allow_leak", action="store_true", per_arm=False, help="use a file that seems to know the labels of dev or "
        "test queries all the same; the results are marked",
        idle_when=lambda args, sources: not sources or args.negative_docs in ("labelled", "all"))
    add("--inject", type=injection.parse_injected, excludes="pull", metavar="positives|easy|hardest:SHARE",
        help=f"an experiment: {cli.explained(injection.INJECTED)}; what either costs is in docs/false-negatives.md")
    add("--miner", metavar="bm25|RUN|MODEL|VECTORS", help="what the source miner:K asks for its lists: BM25, a run "
        "folder, a model's folder or hub name, or a folder with queries.npy and docs.npy")
    add("--by", metavar="FIELD", help="the metadata field that the docs of the source sibling:K share with the "
        "positive, as in \"sibling:4 by=title\": of the docs or, where none has it, of the train queries they answer")
    add("--mine_index", metavar="STRING", help="mine by this index of FAISS instead of exactly, as in HNSW32 or "
        "IVF64,Flat:nprobe=4: what approximate search does to negatives",
        idle_when=lambda args, sources: not any(row.encodes_corpus for row in sources))
    add("--refresh_every", type=COUNT, metavar="STEPS", help="steps between minings of refresh; default: half an epoch",
        idle_when=lambda args, sources: not any(row.every == "refresh" for row in sources))
    add = parser.group("static encoder", only="static")
    add("--vocab_size", type=cli.number(int, least=30, most=10_000_000), help="WordPiece tokens, learned from the "
        "training side; default: 16,000, with --init the model's own tokens instead")
    add("--init", metavar="NAME|FOLDER", help="a model that embeds the tokens, for vectors to start from instead of "
        "random ones; --dim of their principal components are kept")
    add = parser.group("transformer (defaults come from the model's own files)", only="transformer")
    add("--pooling", type=pooling.checked, help=f"how token vectors become one: {', '.join(pooling.POOLINGS)}, or "
        "several joined by +; default: the model's own, else mean, of a causal language model last. With last, texts "
        "end with the end-of-sequence token")
    add("--attention", choices=model.ATTENTION, help="how to compute attention; default: the fastest that it has")
    add("--normalize", choices=("on", "off"), help="unit vectors (cosine) or not (inner product)")
    add("--query_prefix", help="text put before each query")
    add("--doc_prefix", help="text put before each doc")
    add("--query_length", type=COUNT, help="most tokens of a query; default: the model's own, else 64")
    add("--doc_length", type=COUNT, help="most tokens of a doc; default: the model's own, else 256")
    add("--from_config", action="store_true", help="the model's architecture with random weights")
    add("--freeze_docs", action="store_true", help="train the queries' side alone, of two given as --encoder DOCS "
        "QUERIES: docs are encoded once, and neither steps nor mining encode them again")
    add("--lora", type=COUNT, metavar="RANK", help="train low-rank updates only (needs the package peft)")
    add("--dropout", type=BELOW_1, help="rate of every dropout; default: the model's own")
    add("--gradient_checkpointing", action="store_true", help="recompute activations: less memory, slower")
    add("--precision", choices=model.PRECISION_FLAG, default="auto", help=f"of autocast; {model.PRECISION_HELP}")
    add("--compile", action="store_true", help="torch.compile the backbone; pays on long runs")
    add = parser.group("device and reports")
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--eval_every", type=COUNT, metavar="STEPS", help="steps between evaluations on dev; default: one epoch")
    add("--dev_docs", type=COUNT, metavar="N", help="evaluate dev among N docs only: its positives, the best of BM25 "
        "and of the untrained encoder for its queries, and others at random, the same for every arm; test stays on "
        "the whole corpus")
    add("--no_untrained", action="store_true", help="leave out the row of the untrained encoder, which embeds the "
        "whole corpus once more")
    add("--self_match", choices=measures.SELF_MATCH, default="drop", help=f"{measures.SELF_MATCH_HELP}, when evaluated")
    add("--select", choices=measures.MEASURES, default="mrr@10", help="the dev measure that chooses the checkpoint, "
        "and that arms are compared by")
    add("--log_every", type=COUNT, default=50, metavar="STEPS", help="steps between lines of metrics.jsonl")
    args = parser.parse_args()
    if args.config:
        recorded = run.recorded_flags(args.config, without=OF_ONE_COMMAND)
        args = parser.parse_args([*recorded, *sys.argv[1:]])
    if not isinstance(args.data, str):
        args.data = readers.JOIN.join(args.data)
    if args.questions:
        args.data, args.questions = readers.asked(args.data, args.questions), None
    if not isinstance(args.encoder, str):
        args.encoder = readers.JOIN.join(args.encoder)
    if (count := args.encoder.count(readers.JOIN)) > 1 or (count and "static" in args.encoder.split(readers.JOIN)):
        raise BadInput("--encoder takes static, one model, or two: that of the docs and that of the queries")
    if args.race and "negatives" not in cli.non_default(args, parser):
        args.negatives = [Arm.parse(text, parser.value_of) for text in RACERS]
    if args.race and (other := [name for name in ("tune", "control", "plan", "until") if getattr(args, name)]):
        raise BadInput(f"--race and --{other[0]} do not go together")
    args.negatives = experiment.expand(args.negatives, args.grid, control=args.control, value_of=parser.value_of)
    args.grid = []
    for arm in args.negatives:
        check(of_arm(args, arm), parser)
    return args, parser


# fmt: on


def of_arm(args, arm):
    """The arguments of one arm of a comparison."""
    return argparse.Namespace(**arm.apply(vars(args)))


def check(args, parser):
    """BadInput if the arguments of a run do not make sense together."""
    trained = "trained static" if model.is_static(args.encoder) else "transformer"
    parser.check(args, only="static" if args.encoder == "static" else trained)
    base, masks, terms = loss_of(args)
    columns = [term.text for term in args.terms if loss.TERMS[term.name].at == "columns"]
    if columns and args.in_batch == "off":
        raise BadInput(f"--terms {columns[0]} adds to the docs of other queries, which --in_batch off leaves out")
    if unfit := [term.text for term in args.terms if loss.TERMS[term.name].at not in loss.BASES[base[0]].takes.split()]:
        raise BadInput(f"--terms {unfit[0]} plays no part with --base {args.base.text}")
    if args.batches and (args.batch_by or args.query_clusters):
        raise BadInput("--batches says which queries are together: leave --batch_by and --query_clusters out")
    if args.freeze_docs and args.budget == "docs_encoded":
        raise BadInput("--budget docs_encoded has nothing to count with --freeze_docs, whose steps encode no docs")
    needs = loss.needs_of(base, masks, terms)
    if ("guide" in needs) != bool(args.guide):
        raise BadInput("--guide MODEL and --masks guide:X or guide_share:X come together: X is the margin, 0 for none")
    (arm,) = args.negatives
    found = {name: getattr(args, name) for name in ("in_batch", "miner", "by", "positive_filter", "inject")}
    arm.check(**found, teacher="teacher" in needs)


def loss_of(args):
    """(base, masks, terms) as lib.loss takes them: (name, *numbers) each."""
    rows = [[(each.name, *each.numbers) for each in found] for found in ([args.base], args.masks, args.terms)]
    return rows[0][0], rows[1], rows[2]


def no_list(sources):
    """Whether none of the arm's sources draws from lists."""
    return not any(row.mine for row in sources)


def no_softmax(args):
    """Whether nothing in the loss is divided by the temperature."""
    return "logits" not in loss.BASES[args.base.name].takes and not any(term.name == "kl" for term in args.terms)


def main():
    args, parser = parse_args()
    several = len(args.negatives) * len(args.seeds) > 1 or bool(args.tune)
    if args.race:
        if len(args.negatives) < 2 or args.budget != "steps":
            raise BadInput("--race is for two arms or more, of equal steps (--budget steps)")
        args.seeds = args.seeds if len(args.seeds) > 1 else [args.seeds[0] + i for i in range(race.MOST_SEEDS)]
    given = cli.non_default(args, parser)
    if not several and (unused := [name for name in ("jobs", "budget") if name in given]):
        raise BadInput(f"--{unused[0]} is for a comparison, and this is a single run: leave it out")
    if len(set(args.negatives)) < len(args.negatives) or len(set(args.seeds)) < len(args.seeds):
        raise BadInput("--negatives or --seeds name the same run twice")
    if args.negatives_file and not any(arm.from_file for arm in args.negatives):
        raise BadInput("--negatives_file and the source file:K come together: no arm draws from the file")
    if several and args.until:
        raise BadInput("--until is for a single run; a comparison goes on with --resume")
    if several and "RANK" in os.environ:
        raise BadInput("a comparison starts its own processes: python train.py --jobs N, without torchrun")
    if args.plan and (args.tune or args.resume or "RANK" in os.environ):
        raise BadInput("--plan is for runs that have not begun, in one process, without --tune")
    device = dist.start(model.pick_device(args.device))
    with dist.main_first():
        collection = load_collection(args.data, cut=("dev", "test"), strict=args.strict)
    for split in ("train", "dev", "test"):  # what is missing is missed now, not after an hour
        collection.split(split)
    needs = {need for arm in args.negatives for need in loss.needs_of(*loss_of(of_arm(args, arm)))}
    brought = Miner(collection=collection, negatives_file=args.negatives_file, needs_teacher="teacher" in needs)
    for name in {name for arm in args.negatives for name in arm.sources if SOURCES[name].given}:
        SOURCES[name].mine(brought, None, 0, None, None)
    if args.plan:
        return show_plan(args, parser, collection)
    check_data.check_parts(collection, batch_size=args.batch_size)
    arms = [of_arm(args, arm) for arm in args.negatives]
    if collection.parts and any(arm.query_clusters or arm.batch_by for arm in arms):
        raise BadInput(
            "--query_clusters and --batch_by are for one collection: of several, each batch is of one already"
        )
    (arm, *_), (seed, *_) = args.negatives, args.seeds
    tail = "race" if args.race else "ablation" if several else f"{comparison.slug(arm.text)}-s{seed}"
    name = args.name or f"{collection.name}-{tail}"
    folder = run.run_path(name)
    if not model.is_static(args.encoder):  # once for all processes and runs, and for whoever goes on
        args.precision = dist.same(precision_of(args, folder, device))
    if several:
        return compare(args, parser, collection, name)
    train(of_arm(args, arm), parser, collection, folder, device=device)
    dist.stop()


def precision_of(args, folder, device):
    """What --precision means here: of a run that goes on, what it began with."""
    begun = args.resume and args.precision == "auto" and (folder / "config.json").exists()
    if begun:
        return run.recorded(folder)["args"].get("precision", "auto")
    return model.pick_precision(device, args.precision)


def compare(args, parser, collection, name):
    """Train every arm with every seed, but for what is finished; then tables and figures of all."""
    plain = args.negatives[:-1] if args.control else args.negatives
    tried = {arm: experiment.expand([arm], args.tune, value_of=parser.value_of) for arm in plain if args.tune}
    for arm in (setting for settings in tried.values() for setting in settings):
        check(of_arm(args, arm), parser)
    folder, order = run.run_path(name), functools.partial(order_of, collection=collection, seed=0)
    config = run.record(args, parser, derived={}, inputs=inputs(args, collection))
    run.Run.create(folder, overwrite=args.overwrite, resume=args.resume, changed_code=args.changed_code, config=config)
    flags = {flag: value for flag, value in cli.non_default(args, parser).items() if flag not in OF_A_COMPARISON}
    full = steps_of(args, order(args))
    say_few(args, full)
    runs = experiment.Runs(name, folder, flags | {"resume": args.resume}, args.seeds, args.jobs, args.steps, full)
    runs.announce = lambda title, counts: cli.print_header(title, args, parser, counts)
    if args.race:
        return show_race(runs, args, folder)
    arms = runs.tune(tried, measure=args.select, control=args.control) if tried else []
    arms = list(dict.fromkeys([*arms, *args.negatives]))
    steps = runs.steps_of(
        arms,
        args.budget,
        batch_size=lambda arm: order(of_arm(args, arm)).batch_size,
        docs=lambda arm: mined_docs(of_arm(args, arm), collection),
        refresh_every=lambda arm: refresh_every(of_arm(args, arm), order(args)),
    )
    runs.train(f"{len(arms)} arms x {len(args.seeds)} seeds on {collection.name}", arms, steps)
    write_json(folder / "queries.json", diagnostics.query_features(collection, "test"))
    print(
        f"\n{report.of_comparison(folder, measure=args.select, collection=collection)}\n"
        f"wrote   {folder}/ablation.json, .md, .tex and .csv, wins.md, plots/ and one folder a run\n"
        f"next    python evaluate.py --compare {cli.quoted(folder)}     # tables and figures again\n"
        f"        python build_index.py --run {cli.quoted(runs.best(arms, measure=args.select))}     # the best on dev"
    )


def show_race(runs, args, folder):
    """Race the arms; say which wins, and where that is written."""
    result = race.live(runs, args.negatives)
    winner = runs.folder_of(result.winner, runs.seeds[0])
    summary, derived = read_json(winner / "summary.json"), read_json(winner / "config.json")["derived"]
    said, ask = verdict_of_run(summary, args.select, run=cli.quoted(winner), lr=derived["peak_lr"])
    print(
        f"\n{race.report(folder, result, args.select, summary['test'], said)}\n"
        f"wrote   {folder}/race.md, race.json, race.png and one folder a run\n"
        f"next    {ask}"
    )


def show_plan(args, parser, collection):
    """Advise the settings that were not given, forecast the run or the comparison, and print its command."""
    flags, given = advised(args, parser, collection)
    asked = parser.parse_args(cli.to_flags(flags))
    asked.data, asked.encoder = given.get("data", "python"), given.get("encoder", "static")
    arm = max(asked.negatives, key=cost_of)  # the forecast of several is that of the dearest
    one, seed = of_arm(asked, arm), asked.seeds[0]
    device, encoder = model.pick_device(one.device), make_encoder(one, collection, seed=seed)
    encoder.set_device(device, model.PRECISIONS[model.pick_precision(device, one.precision, encoder.kind)])
    said, spread = to_beat(collection, encoder, self_match=one.self_match, measure=one.select)
    print(f"   {said}\n   {plan.least_difference(collection, spread, one.select)}", flush=True)
    check_data.check_parts(collection, batch_size=one.batch_size)
    runs = len(asked.negatives) * len(asked.seeds)
    plan.show_cost(*forecast(one, arm, flags, collection), runs=runs, jobs=asked.jobs)
    flags["control"] = False  # its arm stands among the others
    print(f"next    {shlex.join(['python', 'train.py', *cli.to_flags(flags)])}")
    if "negatives" not in given and runs == 1:
        raced = shlex.join(
            ["python", "train.py", *cli.to_flags(flags | {"negatives": None, "name": None, "race": True})]
        )
        print(f"        {raced}     # a race decides which negatives")


def advised(args, parser, collection):
    """({flag: value} of what was given and, beside it, of what the tables advise, which is printed; what was given)."""
    given = {name: value for name, value in cli.non_default(args, parser).items() if name != "plan"}
    parts = np.bincount(collection.part_of(collection.split("train").queries))
    advice = plan.settings(int(parts.sum()), smallest=int(parts.min()), static=model.is_static(args.encoder),
                           batch_size=given.get("batch_size"))  # fmt: skip
    advice = [each for each in advice if each.flag not in given and not (each.flag == "epochs" and args.steps)]
    flags = given | {each.flag: each.value for each in advice}
    several = len(args.negatives) * len(args.seeds) > 1
    tail = "ablation" if several else comparison.slug(cli.plain(flags["negatives"])[0])
    flags["name"] = args.name or f"{collection.name}-{tail}"
    plan.show(collection, advice)
    return flags, given


def forecast(args, arm, flags, collection):
    """(plan.Cost, {steps, minings, evaluations}) of a run of the arm, which is begun with these flags and stopped."""
    order = order_of(args, collection=collection, seed=0)
    steps, every = steps_of(args, order), refresh_every(args, order)
    mined = [SOURCES[name].every for name in arm.sources if SOURCES[name].mine]
    counts = {
        "steps": steps,
        "minings": -(-steps // every) if "refresh" in mined else len(mined),
        "evaluations": -(-steps // (args.eval_every or order.steps_per_epoch)),
    }
    one = {name: value for name, value in flags.items() if name not in OF_A_COMPARISON}
    one |= {"negatives": [arm], "seeds": [args.seeds[0]], "steps": steps, "epochs": None}
    one |= {} if arm.from_file else {"negatives_file": None}
    needs = loss.needs_of(*loss_of(args))  # a teacher's scores come with the lists that are mined
    embeds = "teacher" not in needs and any(SOURCES[name].encodes_corpus for name in arm.sources)
    cost = plan.measure(one, docs=len(collection.docs), queries=min(every * order.batch_size, order.n),
                        batch_size=order.batch_size, explicit=explicit_of(arm), embeds=embeds)  # fmt: skip
    return cost, counts


# ----------------------------------------------------------------------------------------------- one training


def train(args, parser, collection, folder, *, device):
    """One training run, from initial weights to the test split: everything it leaves is in `folder`."""
    if args.resume and (folder / "summary.json").exists():
        refuse_other(args, parser, collection, folder)
        return print(f"{folder} is finished: nothing to do")
    t = set_up(args, parser, collection, folder, device=device)
    begin = t.resume() if args.resume else 0
    with t.clock("evaluate"):
        if begin == 0:
            t.start()
        bm25 = None if args.until else t.evaluator.bm25()  # a run that pauses says nothing of test
    t.encoder.train()
    bar, end = tqdm(total=t.steps, initial=begin, unit="step", desc="training"), min(t.steps, args.until or t.steps)
    for step in range(begin, end):
        with t.clock("mine"):
            mined = t.sampler.refresh(step)
        t.log_mining(step, mined, bar)
        with t.clock("train"):
            positions = t.order.positions(step)
            batch = t.sampler.batch(positions, step=step, epoch=t.order.epoch(step), queue=t.queue)
            if t.encoder.kind == "transformer":  # for dropout: seeding takes 2 ms, a tenth of a static encoder's step
                torch.manual_seed(rng.stream("dropout", t.seed, step, dist.rank()))
            given = {need: array_of(batch, positions, step) for need, array_of in t.given_by.items()}
            value, scores, mask = forward_backward(t, batch, given, chunk_size=args.chunk_size)
            if not math.isfinite(value):
                monitor.stop_non_finite(t.log, t.collection, batch, step, value)
            optimise(t, learning_rate(step, t.steps, args.warmup), max_grad_norm=args.max_grad_norm)
            if t.queue.size:
                t.queue.push(batch.docs, t.embedder.embed(t.averaged.module, "doc", batch.docs))
            t.note(batch, value, scores, mask)
        bar.update()
        if step % args.log_every == 0 or step + 1 == t.steps:
            t.log_step(step, len(positions), bar)
        if (step + 1) % t.plan["eval_every"] == 0 or step + 1 == end:
            t.evaluate(step + 1, bar)
    bar.close()
    if args.until:
        end = max(begin, end)
        return print(f"stopped behind step {end} of {t.steps}: --resume without --until goes on, to the test split")
    summary = t.finish(bm25)
    said, command = verdict_of_run(summary, args.select, run=cli.quoted(folder), lr=t.plan["peak_lr"])
    print(
        f"{of_run(summary, args.select)}\nverdict: {said}\n\n"
        f"wrote   {folder}/: encoder/, metrics.jsonl, plots/, summary.json\nnext    {command}"
    )


def refuse_other(args, parser, collection, folder):
    """BadInput if a finished run is another than these arguments ask for."""
    begun = run.recorded(folder)
    derived = begun["derived"] | {"arm": args.negatives[0].text, "seed": args.seeds[0]}
    inputs = begun["inputs"] | {"collection_fingerprint": collection.fingerprint}
    run.refuse_changes(begun, run.record(args, parser, derived=derived, inputs=inputs), folder)


def forward_backward(t, batch, given, *, chunk_size):
    """Forward and backward of one step; the gradients wait in the parameters.

    given: what the loss needs besides, arrays (B, N). Returns the loss as a number, the scores (B, N), and (B, N)
    bool: what did not count as a negative.
    """
    labels, invalid = (torch.from_numpy(x).to(t.device) for x in (batch.labels, batch.invalid))
    given = {name: torch.from_numpy(x).to(t.device) for name, x in given.items()}
    queued, frozen = len(batch.queued), t.embedder.frozen

    def loss_of(q_own, d_own=None):
        q_emb = dist.gather(q_own, len(batch.queries))  # (B, D)
        if frozen is None:
            d_emb = dist.gather(d_own, len(batch.docs))  # (N, D)
        else:
            d_emb = torch.from_numpy(frozen[batch.docs]).to(t.device)
        if queued:
            d_emb = torch.cat([d_emb, t.queue.vectors[-queued:]])
        return t.loss_fn(q_emb, d_emb, labels, invalid, temperature=t.temperature.exp(), **given)

    cached, sides, encoded = t.plan["cached_gradients"], [], {"query": batch.queries}
    if frozen is None:
        encoded["doc"] = batch.docs
    for kind, rows in encoded.items():
        rows = rows[dist.own(len(rows))]
        size = chunk_size if cached else max(1, len(rows))
        sides.append([t.embedder.tokens[kind].select(rows[i : i + size]) for i in range(0, max(1, len(rows)), size)])
    both = getattr(t.encoder, "both", None) if frozen is None else None
    value, scores, mask = gradients.backward(t.encoder, sides, loss_of, cached=cached, both=both, scale=t.scaler.scale)
    return value.item(), scores, mask


def optimise(t, share, *, max_grad_norm):
    """One step of the optimizer at a share of the peak learning rate, and of the averaged weights."""
    trained = t.optimizer.param_groups[0]["params"]  # not the temperature: each process has all of its gradient
    dist.sum_gradients(trained)
    for group in t.optimizer.param_groups:
        group["lr"] = t.plan["peak_lr"] * share
    if max_grad_norm:
        t.scaler.unscale_(t.optimizer)
        torch.nn.utils.clip_grad_norm_(trained, max_grad_norm)
    t.scaler.step(t.optimizer)
    t.scaler.update()
    t.optimizer.zero_grad(set_to_none=True)
    t.averaged.update_parameters(t.encoder)


def learning_rate(step, steps, warmup):
    """Share of the peak: a linear rise over `warmup` of the steps, then linear to 0."""
    rise = warmup * steps
    return min(1.0, (step + 1) / rise if rise else 1.0, (steps - step) / (steps - rise))


def set_up(args, parser, collection, folder, *, device):
    """The Training of these arguments, its run folder begun."""
    (arm,), (label,) = args.negatives, args.seeds
    clock, seed, whole = run.Clock(), label + args.seed_shift, collection
    with dist.main_first():
        own, dropped, injected = own_part(args, whole, seed=seed, device=device)
        collection = add_pseudo_queries(own, args.pull, unlabelled_docs(own)) if args.pull else own
        encoder = make_encoder(args, whole, seed=seed)  # every arm starts from the same weights
        embedder = Embedder(collection, encoder)
        clusters = args.query_clusters and embedder.clusters(encoder, args.query_clusters)
        if args.batch_by:
            clusters = fields.values(own, args.batch_by, own.split("train").queries)[0].max(1)
    if too_long := [dim for dim in args.dims if dim > encoder.dim]:
        raise BadInput(f"--dims {too_long[0]}: the vectors have {encoder.dim} dimensions")
    if args.mine_index:
        if dist.world() > 1:
            raise BadInput("--mine_index is for one process: indexes that several build would differ")
        Approximate(args.mine_index).check(encoder.dim)
    pool = open_pool(args.negative_docs, own, allow_leak=args.allow_leak)
    pulled = len(collection.split("train")) - len(own.split("train"))
    order = order_of(args, collection=own, seed=seed, clusters=clusters, pulled=pulled)
    derived = derive(args, encoder, order, device) | {"pool": describe_pool(pool, own)}
    derived |= {"dropped_pairs": len(dropped)} if args.positive_filter else {}
    if injected:
        derived["pool"] |= {"injected": args.inject.text, "kept_aside": int((injected.kept >= 0).sum())}
    of_arm = {"arm": arm.text, "base": arm.base, "seed": label}
    of_arm |= {"overrides": {name: cli.plain(value) for name, value in arm.overrides.items()}}
    config = run.record(args, parser, derived=derived | of_arm, inputs=inputs(args, own))
    how = {"overwrite": args.overwrite, "resume": args.resume, "changed_code": args.changed_code}
    log = run.Run.create(folder, **how, writes=dist.is_main(), config=config)
    if args.positive_filter and dist.is_main():
        lines = ["query-id\tcorpus-id\tscore", *("\t".join(pair) for pair in dropped)]
        write_text(folder / "dropped_pairs.tsv", "\n".join(lines) + "\n")
    dist.barrier()  # what an earlier --overwrite left half done is put back before anyone looks for a state
    title = f"{arm} on {collection.name}, seed {seed} -> {folder}"
    say_what_begins(args, parser, arm, derived, encoder, collection, title)

    # the model, what trains it, and what chooses its negatives
    averaged = place(args, encoder, embedder, device, derived["precision"])
    temperature = torch.tensor(math.log(args.temperature), device=device, requires_grad=args.learn_temperature)
    base, masks, terms = loss_of(args)
    # another objective is another function of the same tensors
    loss_fn = functools.partial(loss.contrastive_loss, base=base, masks=masks, terms=terms, dims=args.dims)
    needs = loss.needs_of(base, masks, terms)
    miner = Miner(
        embedder, encoder, averaged, pool=pool, mine_index=args.mine_index,
        negatives_file=args.negatives_file, needs_teacher="teacher" in needs, miner=args.miner, device=device,
        by=args.by, seed=seed,
    )  # fmt: skip
    mining = MiningConfig(args.depth, derived["candidates"], tuple(args.filters), args.sampling, pool,
                          derived["refresh_every"], injected)  # fmt: skip

    sampler = NegativeSampler(
        arm, steps=derived["steps"], config=mining, seed=seed, collection=collection, miner=miner,
        upcoming=order.upcoming, in_batch=args.in_batch)  # fmt: skip
    guide = Guide(collection, args.guide, device, encoder.dtype) if args.guide else None
    t = Training(
        collection, log, config, clock, device, encoder, averaged, embedder, order, sampler,
        Queue(arm.queued, encoder.dim, device=device), loss_fn, {}, temperature,
        optimizer_of(args, encoder, temperature, lr=derived["peak_lr"]),
        torch.amp.GradScaler(device.type, enabled=derived["precision"] == "fp16"),
        Evaluator(embedder, own, self_match=args.self_match, dev_docs=args.dev_docs, untrained=not args.no_untrained),
        monitor.Monitor(contrastive=loss.contrasts(base, terms)),
        monitor.Averages(doc_states(own)),
        args.select,
    )  # fmt: skip
    log_q = batches.log_drawn(collection, order) if "logq" in needs else None
    # what a loss may need of a batch, (B, N) each
    makers = {
        "explicit": lambda batch, positions, step: batch.source > 0,
        "logq": lambda batch, positions, step: batches.by_chance(batch, log_q),
        "guide": lambda batch, positions, step: guide.scores(batch),
        "teacher": t.sampler.teacher,
    }
    t.given_by = {need: makers[need] for need in sorted(needs)}
    return t


def place(args, encoder, embedder, device, precision):
    """Put the encoder where it trains, and how; returns the running average of its weights."""
    encoder.set_device(device, model.PRECISIONS[precision])
    averaged = model.averaged_twin(encoder, args.ema)
    if args.freeze_docs:
        embedder.freeze_docs(encoder)
    if args.compile:
        encoder.compile_backbone()
    if args.gradient_checkpointing:
        encoder.checkpoint_activations()
    return averaged


def optimizer_of(args, encoder, temperature, *, lr):
    """AdamW over what is trained: of the encoder, and the logarithm of the temperature where it is learned."""
    groups = [{"params": [p for p in encoder.parameters() if p.requires_grad], "weight_decay": args.weight_decay}]
    if args.learn_temperature:
        groups.append({"params": [temperature], "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=lr, fused=temperature.device.type != "mps")


def say_what_begins(args, parser, arm, derived, encoder, collection, title):
    """Print what a user would want to know of a run before it begins."""
    more = {"explicit_negatives_per_query": arm.explicit, "docs": len(collection.docs)}
    said = {name: value for name, value in (derived | more).items() if value and name not in UNSAID}
    cli.print_header(title, args, parser, said)
    print(f"   {advise(derived['pool'])}")
    if args.positive_filter:
        print(
            f"   --positive_filter {args.positive_filter.text} leaves out {derived['dropped_pairs']:,} training pairs"
        )
    say_few(args, derived["steps"])
    if derived["refresh_every"] >= derived["steps"] and "refresh" in arm.sources:
        print(f"note: refresh mines once in {derived['steps']} steps, as dense does: lower --refresh_every")
    if said := cut_note(encoder, collection.docs):
        print(f"{said} (--doc_length)")
    for name in parser.idle(args, [SOURCES[name] for name in arm.sources]):
        print(f"note: --{name} changes nothing in this run")


def say_few(args, steps):
    """A note where a run is so short that it cannot show much."""
    init = "" if args.init or args.encoder != "static" else ", and --init MODEL"
    if steps < FEW_STEPS:
        print(f"note: {steps} steps are few: a small collection wants more --epochs{init} (--plan)")


# ------------------------------------------------------------------------------- what follows from the arguments


def own_part(args, collection, *, seed, device):
    """(what a run trains on, pairs that --positive_filter drops: query id, doc id, score; the Injection or None)."""
    dropped, injected = [], None
    if args.positive_filter:
        miner, train = Miner(collection=collection, device=device), collection.split("train")
        drop, scores = inconsistent(args.positive_filter, miner, args.miner or "bm25")
        dropped = [
            (collection.queries.ids[train.queries[i]], collection.docs.ids[doc], f"{scores[i]:.6g}")
            for i in np.flatnonzero(drop)
            for doc in train.positives(i)
        ]
        collection = without(collection, drop)
        check_data.check_parts(collection, batch_size=args.batch_size)
    if args.inject:
        collection, kept = injection.keep_aside(collection, seed=seed)
        injected = injection.Injection(args.inject, kept)
    return collection, dropped, injected


def order_of(args, *, collection, seed, clusters=None, pulled=0):
    """The QueryOrder of a run over a collection's train queries and, behind them, `pulled` pseudo-queries."""
    queries = collection.split("train").queries
    parts = collection.part_of(queries) if collection.parts else None
    per_step = max(1, round(args.pull_rate * min(args.batch_size, len(queries)))) if args.pull else 0
    size, path = args.batch_size, args.batches
    lines = batches.read_lines_of_ids(path, collection, batch_size=size) if path else None
    return batches.QueryOrder(
        len(queries), batch_size=size, seed=seed, clusters=clusters, pulled=(pulled, per_step), parts=parts, lines=lines
    )


def derive(args, encoder, order, device):
    """What follows from the arguments: printed, recorded, and used by train() in their place."""
    steps = steps_of(args, order)
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    return {
        "steps": steps,
        "steps_per_epoch": order.steps_per_epoch,
        "effective_batch": order.batch_size,
        "train_queries": order.n,
        "pulled_docs": order.pulled,
        "pulls_of_each": round(steps * order.pulled_per_step / order.pulled, 2) if order.pulled else 0,
        "candidates": how_many(args.depth, args.candidates, thinned=bool(args.filters)),
        "refresh_every": refresh_every(args, order),
        "eval_every": args.eval_every or order.steps_per_epoch,
        "peak_lr": args.lr or default_lr(args, encoder),
        "cached_gradients": bool(args.chunk_size) and args.chunk_size < order.batch_size,
        "precision": model.pick_precision(device, args.precision, encoder.kind),
        "model": model.describe(encoder),
        "device": str(device),
        "processes": dist.world(),
        "parameters": trained,
        "initial_weights": fingerprint(*(p.detach().numpy() for p in encoder.parameters())),
        "query_order": fingerprint(*(order.positions(step) for step in range(steps))),
    }


def cost_of(arm):
    """What orders arms by what a run of theirs costs: mining again, mining at all, negatives."""
    rows = [SOURCES[name] for name in arm.sources]
    return any(row.every == "refresh" for row in rows), any(row.mine for row in rows), explicit_of(arm)


def explicit_of(arm):
    """How many negatives a query has that are encoded with each step: the mean over training."""
    return sum(mean for name, (mean, _) in arm.shares.items() if not SOURCES[name].queue)


def mined_docs(args, collection):
    """How many docs a mining of this arm embeds."""
    rows = embedded_docs(collection, open_pool(args.negative_docs, collection, allow_leak=args.allow_leak))
    return len(collection.docs) if rows is None else len(rows)


def steps_of(args, order):
    """The steps of a run: --steps, or --epochs in steps."""
    return args.steps or max(1, round(args.epochs * order.steps_per_epoch))


def refresh_every(args, order):
    """Steps between minings of refresh."""
    return args.refresh_every or max(1, order.steps_per_epoch // 2)


def make_encoder(args, collection, *, seed):
    """The encoder to train: a new static one, or the one that --encoder names."""
    if args.encoder == "static":
        start, tokenizer = None, None
        if args.init:
            start = functools.partial(token_vectors, args.init, dim=args.dim, device=args.device or "cpu")
            tokenizer = None if args.vocab_size else vocabulary_of(args.init)
        size = args.vocab_size or 16_000
        return new_static(
            collection, dim=args.dim or 768, vocab_size=size, seed=seed, tokenizer=tokenizer, directions=start
        )
    names = ("query_prefix", "doc_prefix", "pooling", "query_length", "doc_length")
    overrides = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.normalize:
        overrides["normalize"] = args.normalize == "on"
    how = {name: getattr(args, name) for name in ("from_config", "dim", "lora", "attention")}
    docs, *queries = args.encoder.split(readers.JOIN)
    how |= {"query_source": queries and model.local_folder(queries[0])}
    encoder = model.load_encoder(docs, seed=seed, overrides=overrides, **how)
    if args.freeze_docs:
        if encoder.kind == "static" or encoder.query_tower is encoder.doc_tower:
            raise BadInput(
                "--freeze_docs needs two towers, as --encoder M M gives: one that docs and queries share moves"
            )
        encoder.doc_tower.requires_grad_(False)
    if args.dropout is not None and encoder.kind == "transformer":
        encoder.set_dropout(args.dropout)
    return encoder


def default_lr(args, encoder):
    """The peak learning rate where --lr is not given: of a static encoder by its batch, lower with --init.

    Of a transformer by its width: what is usual for 768 (BERT) and 1,024, and of 384 what was better than 3e-5 on
    nl2bash (docs/transformers.md), though not yet the best there.
    """
    if encoder.kind == "static":
        return round((1.4e-3 if args.init else 4.5e-3) * args.batch_size**0.5, 4)
    width = getattr(encoder.doc_tower[0].model.config.get_text_config(), "hidden_size", None) or 768
    return min(3e-4, float(f"{3e-5 * (768 / width) ** 2:.2g}"))


def inputs(args, collection):
    """What went in, by content: a run is resumed on the same only."""
    judgements = {split: collection.judgements(split) for split in collection.qrels if split != "train"}
    found = {"collection": collection.name, "collection_fingerprint": collection.fingerprint, "judgements": judgements}
    by = {
        "negatives_file": fingerprint_file,
        "batches": fingerprint_file,
        "miner": fingerprint_of,
        "init": model.fingerprint_of_model,
        "guide": model.fingerprint_of_model,
    }
    return found | {name: of(getattr(args, name)) for name, of in by.items() if getattr(args, name)}


if __name__ == "__main__":
    process.cli(main)
