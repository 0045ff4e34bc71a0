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
import itertools
import math
import os
import shlex
import sys

import numpy as np
import torch
from tqdm import tqdm

from lib import dist, loss, rng, run
from lib.data import batches, readers
from lib.data import check as check_data
from lib.data.collection import load_collection
from lib.data.made_queries import KINDS
from lib.data.pseudo_queries import add_pseudo_queries
from lib.evaluation import comparison, diagnostics, experiment, measures, monitor, plan, plots, report
from lib.files import BadInput, fingerprint, fingerprint_file, write_json
from lib.model import card, pooling
from lib.model import encoder as model
from lib.model.distil import token_vectors, vocabulary_of
from lib.model.embedder import Embedder, Guide
from lib.model.static import new_static
from lib.negatives import sampling
from lib.negatives.arms import Arm
from lib.negatives.candidates import POSITIVE, how_many
from lib.negatives.filters import FILTERS, parse_filter
from lib.negatives.pool import advise, describe_pool, doc_states, open_pool, unlabelled_docs
from lib.negatives.queue import Queue
from lib.negatives.sampler import IN_BATCH, MiningConfig, NegativeSampler
from lib.negatives.sources import SOURCES, Miner, file_candidates
from lib.run import ABOVE_0, AT_LEAST_0, BELOW_1, COUNT
from lib.search import retriever
from lib.search.approximate import Approximate

FEW_STEPS = 50  # below which a run says so
# flags that say which runs there are, not what a run does
OF_A_COMPARISON = "negatives seeds name overwrite resume jobs processes control grid tune budget config".split()
OF_ONE_COMMAND = "name overwrite resume changed_code config control".split()  # which no recorded run hands on


# fmt: off
def parse_args():
    parser = run.Parser(__doc__)
    add = parser.group("what")
    add("--data", nargs="+", default="python", metavar="DATA", help=f"{readers.HELP}; several are trained on together, "
        "each batch of one of them; ids become NAME/ID")
    add("--data_shares", nargs="+", type=ABOVE_0, metavar="X", help="with several collections, the share of each in "
        "the batches; default: by their train queries")
    add("--strict", action="store_true", help=readers.STRICT)
    add("--encoder", nargs="+", default="static", metavar="static|NAME|FOLDER", help="static (trained from scratch), "
        "or a model to train further: ours, sentence-transformers' or Hugging Face's, by folder or hub name; two are "
        "the docs' and the queries', and the same one twice gives each side weights of its own")
    add("--dim", type=run.DIM, metavar="D", help="length of the vectors: of a static encoder 768 by default; a "
        "transformer gets a linear layer for it, by default none")
    add("--negatives", nargs="+", default=[Arm.parse("refresh:4")], metavar="ARM",
        type=functools.partial(Arm.parse, value_of=parser.value_of), help="one arm, or several to compare")
    add("--negatives_file", metavar="F", help="file of mine_negatives.py that the source file:K draws from")
    add("--seeds", "--seed", nargs="+", type=run.SEED, default=[0], metavar="S", help="random seed(s) of initial "
        "weights, query order and sampled negatives")
    add("--seed_shift", type=run.SEED, default=0, per_arm=True, help="added to every seed")
    add("--config", metavar="FILE", help="a run's config.json: its arguments become the defaults here")
    add("--name", help="run folder below runs/; default: collection, arm and seed")
    add("--overwrite", action="store_true", help="replace the run folder if it exists")
    add("--resume", action="store_true", help="continue an interrupted run from its last evaluation")
    add("--changed_code", action="store_true", help="with --resume: although the code or a version is another than "
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
    add("--jobs", type=COUNT, default=1, metavar="N", help="runs at a time, each a process of its own; the cores are "
        "divided among them, GPUs are given one each")
    add("--processes", type=COUNT, default=1, metavar="N", help="torchrun processes for each run")
    add = parser.group("optimisation")
    add("--batch_size", type=COUNT, default=128, metavar="B", help="queries per step over all processes; their "
        "positives are each other's negatives")
    add("--query_clusters", type=COUNT, metavar="N", per_arm=True, help="batches of queries of one cluster each, out "
        "of N found by k-means of the untrained encoder's query vectors")
    add("--chunk_size", type=COUNT, metavar="C", help="texts whose activations are kept at once; below --batch_size "
        "it caches gradients: the same result in less memory, for one more forward pass")
    add("--epochs", type=ABOVE_0, default=3.0, help="passes over the training queries")
    add("--steps", type=COUNT, help="optimizer steps; takes the place of --epochs")
    add("--lr", type=ABOVE_0, per_arm=True, help="peak learning rate of AdamW, reached after --warmup, then linear "
        "to 0; default: 3e-5 for transformers, .0045 times the square root of --batch_size for static ones")
    add("--warmup", type=BELOW_1, default=0.05, help="share of the steps over which the learning rate rises")
    add("--weight_decay", type=AT_LEAST_0, default=0.0, help="AdamW's, on all parameters")
    add("--max_grad_norm", type=AT_LEAST_0, default=0.0, help="longer gradients are shortened to this norm; 0: never")
    add("--ema", type=BELOW_1, default=0.98, help="decay per step of the averaged weights that mine, are evaluated "
        "and saved; 0: the weights as they are")
    add = parser.group("loss", per_arm=True)
    add("--temperature", type=ABOVE_0, default=0.06, help="divides similarities; lower values put more weight on the "
        "hardest negatives")
    add("--learn_temperature", action="store_true", per_arm=False, help="--temperature is only where it starts")
    add("--guide", metavar="NAME|FOLDER", help="encoder whose scores --masks guide:X goes by")
    add("--base", type=run.choice(loss.BASES), default=run.choice(loss.BASES)("infonce"), help="what the loss is at "
        f"heart: {run.explained(loss.BASES)}")
    add("--masks", nargs="+", type=run.choice(loss.MASKS), default=[], metavar="M", help="negatives that do not count: "
        f"{run.explained(loss.MASKS)}")
    add("--terms", nargs="+", type=run.choice(loss.TERMS), default=[], metavar="T", help="what is added: "
        f"{run.explained(loss.TERMS)}")
    add("--dims", nargs="+", type=COUNT, default=[], metavar="D", help="Matryoshka: train these "
        "prefixes of the vectors too")
    add = parser.group("negatives", per_arm=True)
    add("--in_batch", choices=tuple(IN_BATCH), default="on", help="docs of the other queries in a batch: "
        + " ".join(f"{name}: {function.__doc__}" for name, function in IN_BATCH.items()))
    add("--depth", type=run.DEPTH, default=12, help="candidates that stay in a query's list, the best ones")
    add("--sampling", type=sampling.parse_sampling, default=sampling.parse_sampling("uniform"),
        help=f"how each step draws K of them: {run.usage(sampling.SAMPLING)}; default: uniform")
    add("--filters", nargs="+", type=parse_filter, default=[], metavar="F",
        help=f"candidates to drop: {run.usage(FILTERS)} (lib/negatives/filters.py)")
    add("--candidates", type=run.DEPTH, help="candidates to mine for each query, before the filters; default: --depth, "
        "with filters 100")
    add("--negative_docs", default="labelled", metavar="labelled|all|FILE", help="docs that may be negatives: "
        "positives of training queries (default), the whole corpus, or docs whose ids stand in a file, one a line")
    add("--pull", metavar=f"{'|'.join(KINDS)}|FILE", help="give each doc without a label in training a query of its "
        "own, so that it is pulled too: its title, its first sentence, some words of it, or queries from a JSONL file, "
        '{"doc_id": ..., "query": ...} a line')
    add("--pull_rate", type=ABOVE_0, default=0.25, metavar="SHARE", help="with --pull: this share of --batch_size is "
        "added to each batch as such queries")
    add("--allow_leak", action="store_true", per_arm=False, help="use a file that seems to know the labels of dev or "
        "test queries all the same; the results are marked")
    add("--miner", metavar="bm25|RUN|MODEL|VECTORS", help="what the source miner:K asks for its lists: BM25, a run "
        "folder, a model's folder or hub name, or a folder with queries.npy and docs.npy")
    add("--mine_index", metavar="STRING", help="mine by this index of FAISS instead of exactly, as in HNSW32 or "
        "IVF64,Flat:nprobe=4: what approximate search does to negatives")
    add("--positive_score", choices=POSITIVE, default="max", help="which of several positives' scores the filters "
        "compare with")
    add("--refresh_every", type=COUNT, metavar="STEPS", help="steps between minings of refresh; default: half an epoch")
    add = parser.group("static encoder", only="static")
    add("--vocab_size", type=run.number(int, least=30, most=10_000_000), help="WordPiece tokens, learned from the "
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
    if not isinstance(args.encoder, str):
        args.encoder = readers.JOIN.join(args.encoder)
    if (count := args.encoder.count(readers.JOIN)) > 1 or (count and "static" in args.encoder.split(readers.JOIN)):
        raise BadInput("--encoder takes static, one model, or two: that of the docs and that of the queries")
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
    given = run.non_default(args, parser)
    kind, other = ("static", "transformer") if args.encoder == "static" else ("transformer", "static")
    if unused := [name for name in parser.flags(only=other) if name in given]:
        raise BadInput(
            f"--{unused[0]} is for a {other} encoder, not for --encoder {args.encoder}: leave it out"
            if kind == "static"
            else f"--{unused[0]} shapes a new static encoder: leave it out here"
        )
    takes = loss.BASES[args.base.name].takes.split()
    if unfit := [term.text for term in args.terms if loss.TERMS[term.name].at not in takes]:
        raise BadInput(f"--terms {unfit[0]} plays no part with --base {args.base.text}")
    needs = loss.needs_of(*rows_of_loss(args))
    if ("guide" in needs) != bool(args.guide):
        raise BadInput("--guide MODEL and --masks guide:X or guide_share:X come together: X is the margin, 0 for none")
    if "pull_rate" in given and not args.pull:
        raise BadInput("--pull_rate needs --pull")
    if args.pull and args.query_clusters:
        raise BadInput("--pull and --query_clusters exclude each other: pseudo-queries have no cluster")
    (arm,) = args.negatives
    if args.in_batch == "off" and not all(stage.counts for stage in arm.stages):
        raise BadInput(f"--in_batch off: the arm {arm} names no other negatives for all of the training")
    from_file = [any(SOURCES[name].needs_file for name in stage.counts) for stage in arm.stages]
    if ("miner" in arm.sources) != bool(args.miner):
        raise BadInput(f"--negatives {arm}: miner:K and --miner M come together: M is what is asked")
    if args.miner and retriever.parts(args.miner):
        raise BadInput(f"--miner {args.miner}: two retrievers joined by + have no scores for positives; name one")
    if any(from_file) and not args.negatives_file:
        raise BadInput(
            f"--negatives {arm}: file:K and --negatives_file F come together: F holds what file:K draws from"
        )
    taught = [any(SOURCES[name].teaches for name in stage.counts) for stage in arm.stages]
    if "teacher" in needs and not all(taught):
        raise BadInput("--terms margin_mse and kl need file:K in every stage: it has the teacher's scores")


def rows_of_loss(args):
    """(base, masks, terms) as lib.loss takes them: (name, *numbers) each."""
    base, masks, terms = (
        [(each.name, *each.numbers) for each in found] for found in ([args.base], args.masks, args.terms)
    )
    return base[0], masks, terms


def check_parts(args, collection):
    """BadInput if the collections that are trained on together, or their shares, do not fit the arguments."""
    joined = list(collection.parts)
    if args.data_shares and not joined:
        raise BadInput("--data_shares is for several collections, and --data names one")
    if args.data_shares and len(args.data_shares) != len(joined):
        raise BadInput(f"--data_shares: {len(args.data_shares)} numbers, and --data names {len(joined)} collections")
    counts = np.bincount(collection.part_of(collection.split("train").queries), minlength=len(joined))
    if joined and counts.min() < args.batch_size:
        name = joined[int(counts.argmin())]
        raise BadInput(
            f"--data: {name} has {counts.min():,} train queries, fewer than --batch_size {args.batch_size}, and a "
            "batch is of one collection"
        )
    if joined and any(of_arm(args, arm).query_clusters for arm in args.negatives):
        raise BadInput("--query_clusters is for one collection: of several, each batch is of one already")
    for what, ids in check_data.leaks(collection).items() if joined else ():  # one's train may be another's test
        if check_data.LEAK in what:
            print(f"warning: {what}: {len(ids):,} ({', '.join(ids[:3])}): the collections were split apart")


def without_effect(args, given):
    """The flags among those `given` that change nothing in this run: they are for what its arm does not do."""
    (arm,) = args.negatives
    sources = [SOURCES[name] for name in arm.sources]
    idle = {
        "negative_docs allow_leak": not sources,
        "depth candidates filters sampling positive_score": not any(source.mine for source in sources),
        "refresh_every": not any(source.every == "refresh" for source in sources),
        "mine_index": not any(source.encodes_corpus for source in sources),
        "allow_leak": args.negative_docs in ("labelled", "all"),
        "chunk_size": (args.chunk_size or 0) >= args.batch_size,
        "epochs": bool(args.steps),
        "temperature learn_temperature": args.base.name == "triplet" and not any(t.name == "kl" for t in args.terms),
    }
    return sorted({name for names, holds in idle.items() if holds for name in names.split() if name in given})


def main():
    args, parser = parse_args()
    several = len(args.negatives) * len(args.seeds) > 1 or bool(args.tune)
    given = run.non_default(args, parser)
    if not several and (unused := [name for name in ("jobs", "processes", "budget") if name in given]):
        raise BadInput(f"--{unused[0]} is for a comparison, and this is a single run: leave it out")
    if len(set(args.negatives)) < len(args.negatives) or len(set(args.seeds)) < len(args.seeds):
        raise BadInput("--negatives or --seeds name the same run twice")
    if args.negatives_file and not any(SOURCES[name].needs_file for arm in args.negatives for name in arm.sources):
        raise BadInput("--negatives_file and the source file:K come together: no arm draws from the file")
    if args.changed_code and not args.resume:
        raise BadInput("--changed_code needs --resume: what begins anew has no other code to differ from")
    if several and "RANK" in os.environ:
        raise BadInput("a comparison starts its own processes: python train.py --processes N, without torchrun")
    device = dist.start(model.pick_device(args.device))
    if args.encoder != "static":  # decided once: all runs of a comparison, and whoever repeats it, compute in the same
        args.precision = model.pick_precision(device, args.precision)
    with dist.main_first():
        collection = load_collection(args.data, cut=("dev", "test"), strict=args.strict)
    for split in ("train", "dev", "test"):  # what is missing is missed now, not after an hour
        collection.split(split)
    if not args.plan:
        check_parts(args, collection)
    if args.negatives_file:
        file_candidates(args.negatives_file, collection, needs_teacher="teacher" in loss.needs_of(*rows_of_loss(args)))
    if args.plan:
        if several or args.resume or "RANK" in os.environ:
            raise BadInput("--plan is for one arm, one seed and one process, and for a run that has not begun")
        show_plan(args, parser, collection)
    elif several:
        compare(args, parser, collection, args.name or f"{collection.name}-ablation")
    else:
        (arm,), (seed,) = args.negatives, args.seeds
        folder = run.run_path(args.name or f"{collection.name}-{comparison.slug(arm.text)}-s{seed}")
        train(of_arm(args, arm), parser, collection, folder, device=device)
        dist.stop()


def compare(args, parser, collection, name):
    """Train every arm with every seed, but for what is finished; then tables and figures of all."""
    folder = run.run_path(name)
    plain = args.negatives[:-1] if args.control else args.negatives
    tried = {arm: experiment.expand([arm], args.tune, value_of=parser.value_of) for arm in plain}
    for arm in itertools.chain(*tried.values()):
        check(of_arm(args, arm), parser)
    run.Run.create(
        folder,
        overwrite=args.overwrite,
        resume=args.resume,
        changed_code=args.changed_code,
        config=run.record(args, parser, derived={}, inputs=inputs(args, collection)),
    )
    order = functools.partial(order_of, collection=collection, seed=0)
    full = args.steps or max(1, round(args.epochs * order(args).steps_per_epoch))
    flags = {flag: value for flag, value in run.non_default(args, parser).items() if flag not in OF_A_COMPARISON}
    flags |= {"resume": args.resume}

    def job(arm, seed, steps, own_name=None, **changes):
        own_name = own_name or comparison.run_folder(folder, arm.text, seed).name
        own_flags = flags | {"steps": steps} | changes
        return experiment.job(arm, seed, f"{name}/{own_name}", own_flags, steps=steps or full, processes=args.processes)

    def run_all(title, jobs):
        left = [each for each in jobs if not (each.folder / "summary.json").exists()]
        counts = {"runs": len(jobs), "finished before": len(jobs) - len(left)}
        run.print_header(f"{title} on {collection.name} -> {folder}", args, parser, counts)
        experiment.run_jobs(left, at_once=args.jobs, output=folder / "output")

    def dev_of(arm):
        path = comparison.run_folder(folder, arm.text, args.seeds[0])
        return run.read_json(path / "summary.json")["dev"][args.select]

    arms, settings = args.negatives, list(itertools.chain(*tried.values()))
    if args.tune:
        run_all(f"{len(settings)} settings", [job(arm, args.seeds[0], args.steps) for arm in settings])
        chosen = [max(own, key=dev_of) for own in tried.values()]
        chosen += [experiment.control_of(chosen[0])] if args.control else []
        scores = {arm.text: {each.text: dev_of(each) for each in own} for arm, own in tried.items()}
        write_json(folder / comparison.TUNING, {"chosen": [arm.text for arm in chosen], "tried": scores})
        arms = list(dict.fromkeys([*chosen, *arms]))
    steps = dict.fromkeys(arms, args.steps)
    if args.budget != "steps":
        short = {"eval_every": None, "overwrite": True, "resume": False, "changed_code": False}
        steps = experiment.decide_steps(
            folder / "matched_steps.json",
            arms,
            budget=args.budget,
            steps=full,
            batch_size=lambda arm: order(of_arm(args, arm)).batch_size,
            docs=len(collection.docs),
            refresh_every=lambda arm: refresh_every(of_arm(args, arm), order(args)),
            pilot=lambda arm: experiment.pilot(
                job(arm, args.seeds[0], experiment.PILOT, "pilot", **short), folder / "output"
            ),
        )
    jobs = [job(arm, seed, steps[arm]) for arm in arms for seed in args.seeds]
    run_all(f"{len(arms)} arms x {len(args.seeds)} seeds", jobs)
    write_json(folder / "queries.json", diagnostics.query_features(collection, "test"))
    table = report.of_comparison(folder, measure=args.select)
    print(
        f"\n{table}\nwrote   {folder}/ablation.json, .md, plots/ and one folder a run"
        f"\nnext    python evaluate.py --compare {run.quoted(folder)}     # tables and figures again"
        f"\n        python build_index.py --run {run.quoted(jobs[-1].folder)}"
    )


def show_plan(args, parser, collection):
    """Advise the settings that were not given, forecast the run, and print its command."""
    given = {name: value for name, value in run.non_default(args, parser).items() if name != "plan"}
    parts = np.bincount(collection.part_of(collection.split("train").queries))
    advice = plan.settings(int(parts.sum()), smallest=int(parts.min()), static=args.encoder == "static",
                           batch_size=given.get("batch_size"))  # fmt: skip
    advice = [each for each in advice if each.flag not in given and not (each.flag == "epochs" and args.steps)]
    flags = given | {each.flag: each.value for each in advice}
    flags["name"] = args.name or f"{collection.name}-{comparison.slug(run.plain(flags['negatives'])[0])}"
    args = parser.parse_args(run.to_flags(flags))
    args.data, (arm,) = given.get("data", "python"), args.negatives
    args = of_arm(args, arm)
    check_parts(args, collection)
    order = order_of(args, collection=collection, seed=0)
    steps = args.steps or max(1, round(args.epochs * order.steps_per_epoch))
    mined = [SOURCES[name].every for name in arm.sources if SOURCES[name].mine]
    counts = {
        "steps": steps,
        "minings": -(-steps // refresh_every(args, order)) if "refresh" in mined else len(mined),
        "evaluations": -(-steps // (args.eval_every or order.steps_per_epoch)),
    }
    cost = plan.measure(flags | {"steps": steps, "epochs": None})
    plan.show(collection, advice, cost, counts, shlex.join(["python", "train.py", *run.to_flags(flags)]))


def train(args, parser, collection, folder, *, device):
    """One training run, from initial weights to the test split: everything it leaves is in `folder`."""
    if args.resume and (folder / "summary.json").exists():
        return print(f"{folder} is finished: nothing to do")
    (arm,), (label,) = args.negatives, args.seeds
    clock, seed, own = run.Clock(), label + args.seed_shift, collection
    with dist.main_first():
        if args.pull:
            collection = add_pseudo_queries(own, args.pull, unlabelled_docs(own))
        encoder = make_encoder(args, own, seed=seed)
        embedder = Embedder(collection, encoder)
        clusters = args.query_clusters and embedder.clusters(encoder, args.query_clusters)
    if too_long := [dim for dim in args.dims if dim > encoder.dim]:
        raise BadInput(f"--dims {too_long[0]}: the vectors have {encoder.dim} dimensions")
    if args.mine_index:
        if dist.world() > 1:
            raise BadInput("--mine_index is for one process: indexes that several build would differ")
        Approximate(args.mine_index).check(encoder.dim)
    qrels, n = collection.split("train"), len(own.split("train"))
    pool = open_pool(args.negative_docs, own, allow_leak=args.allow_leak)
    order = order_of(args, collection=own, seed=seed, clusters=clusters, pulled=len(qrels) - n)
    plan = derive(args, encoder, order, device) | {"pool": describe_pool(pool, own)}
    overrides = {name: run.plain(value) for name, value in arm.overrides.items()}
    config = run.record(
        args,
        parser,
        derived=plan | {"arm": arm.text, "base": arm.base, "overrides": overrides, "seed": label},
        inputs=inputs(args, own),
    )
    log = run.Run.create(
        folder, overwrite=args.overwrite, resume=args.resume, changed_code=args.changed_code, writes=dist.is_main(),
        config=config,
    )  # fmt: skip
    dist.barrier()  # what an earlier --overwrite left half done is put back before anyone looks for a state
    run.print_header(
        f"{arm} on {collection.name}, seed {seed} -> {folder}",
        args,
        parser,
        plan | {"explicit_negatives_per_query": arm.explicit, "docs": len(collection.docs)},
    )
    print(f"   {advise(plan['pool'])}")
    if plan["steps"] < FEW_STEPS:
        print(
            f"note: {plan['steps']} steps are few: a small collection wants more --epochs, and a start (--init MODEL)"
        )
    for name in without_effect(args, run.non_default(args, parser)):
        print(f"note: --{name} changes nothing in this run")

    # the model, what trains it, and what chooses its negatives
    steps, peak_lr, dtype = plan["steps"], plan["peak_lr"], model.PRECISIONS[plan["precision"]]
    chunk_size = args.chunk_size if plan["cached_gradients"] else None
    encoder.set_device(device, dtype)
    averaged = model.averaged_twin(encoder, args.ema)
    if args.compile:
        encoder.compile_backbone()
    if args.gradient_checkpointing:
        encoder.checkpoint_activations()
    guide = Guide(collection, args.guide, device, dtype) if args.guide else None
    log_temperature = torch.tensor(math.log(args.temperature), device=device, requires_grad=args.learn_temperature)
    trained = [p for p in encoder.parameters() if p.requires_grad]
    groups = [{"params": trained, "weight_decay": args.weight_decay}]
    if args.learn_temperature:
        groups.append({"params": [log_temperature], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=peak_lr, fused=device.type != "mps")
    scaler = torch.amp.GradScaler(device.type, enabled=plan["precision"] == "fp16")
    # ABLATION: another objective is another function of the same tensors
    base, masks, terms = rows_of_loss(args)
    loss_fn = functools.partial(loss.contrastive_loss, base=base, masks=masks, terms=terms, dims=args.dims)
    needs = loss.needs_of(base, masks, terms)

    miner_of = functools.partial(
        Miner, embedder, encoder, averaged, pool=pool, positive=args.positive_score,
        negatives_file=args.negatives_file, needs_teacher="teacher" in loss.needs_of(*rows_of_loss(args)),
        mine_index=args.mine_index, miner=args.miner, device=device)  # fmt: skip
    sampler_of = functools.partial(
        NegativeSampler, arm, steps=steps, seed=seed, collection=collection, upcoming=order.upcoming,
        in_batch=args.in_batch,
        config=MiningConfig(args.depth, plan["candidates"], tuple(args.filters), args.sampling, pool,
                            plan["refresh_every"]))  # fmt: skip
    sampler = sampler_of(miner=miner_of())
    given_by = {  # what a loss may need of a batch, (B, N) each
        "explicit": lambda batch, positions, step: batch.source > 0,
        "guide": lambda batch, positions, step: guide.scores(batch),
        "teacher": sampler.teacher,
    }
    queue = Queue(sampler.queue_size, encoder.dim, device=device)
    follows = any(name in ("margin_mse", "kl") and numbers[0] == 1 for name, *numbers in terms)  # and nothing else
    watch = monitor.Monitor(contrastive=base[0] != "triplet" and not follows)
    averages = monitor.Averages(doc_states(own))
    parts = {"encoder": encoder, "averaged": averaged, "optimizer": optimizer, "scaler": scaler, "sampler": sampler}
    parts |= {"miner": sampler.miner, "queue": queue, "clock": clock, "watch": watch, "averages": averages}
    begin, best, tally = 0, {"score": -math.inf}, {"denominators": 0, "docs_encoded": 0}
    if args.resume and (state := log.load_state(parts)):
        begin, best, tally = state["step"], state["best"], state["tally"]
        log_temperature.data.fill_(state["log_temperature"])

    ranked, measure = (
        functools.partial(function, embedder, self_match=args.self_match)
        for function in (diagnostics.ranked, diagnostics.evaluate)
    )
    with clock("evaluate"):
        if begin == 0:
            fresh = miner_of()
            bm25_dev = [diagnostics.bm25_hits(own, "dev", self_match=args.self_match)] if args.dev_docs else []
            if not args.no_untrained:
                hits = {split: ranked(encoder, split, shared=True) for split in ("dev", "test")}
                best["untrained"] = {split: measures.mean(measures.score(own, split, hits[split])) for split in hits}
            if args.dev_docs:
                found = bm25_dev + ([] if args.no_untrained else [hits["dev"]])
                best["dev_docs"] = diagnostics.dev_pool(own, args.dev_docs, found).tolist()
            if args.dev_docs and not args.no_untrained:
                best["untrained"]["dev"] = measures.mean(measure(encoder, "dev", docs=np.array(best["dev_docs"])))
            if not args.no_untrained:
                log.log("evaluation", {"step": 0, "dev": best["untrained"]["dev"]})
            forecast = diagnostics.forecast(
                embedder, encoder, lambda only: sampler_of(miner=fresh, only=only), order, temperature=args.temperature
            )
            log.log("forecast", {"step": 0, "forecast": forecast})
        dev_docs = np.array(best["dev_docs"]) if args.dev_docs else None
        bm25_hits = {
            split: diagnostics.bm25_hits(own, split, self_match=args.self_match, docs=docs)
            for split, docs in (("dev", dev_docs), ("test", None))
        }
        bm25 = {split: measures.mean(measures.score(own, split, hits)) for split, hits in bm25_hits.items()}
        if (nothing := measures.nothing_found(bm25_hits["test"])) > measures.VOID:
            print(f"warning: BM25 finds nothing for {nothing:.0%} of the test queries: as a baseline it is void")

    encoder.train()
    bar = tqdm(total=steps, initial=begin, unit="step", desc="training")
    for step in range(begin, steps):
        with clock("mine"):
            for name, numbers in sampler.refresh(step).items():
                if SOURCES[name].every != "step":  # a line for each step would drown the others
                    log.log("mining", {"step": step, "mined": name} | numbers)
                    log.log("mining", {"step": step, "mined": name, "seconds": clock.total()}, file="timing.jsonl")
                    bar.write(monitor.mining_line(step, name, numbers))
        with clock("train"):
            epoch, positions = order.epoch(step), order.positions(step)
            batch = sampler.batch(positions, step=step, epoch=epoch, queue=queue)
            tally["denominators"] += int((~batch.invalid).sum()) / len(positions) - 1
            tally["docs_encoded"] += len(batch.docs) * (2 if queue.size else 1)
            if encoder.kind == "transformer":  # for dropout: seeding takes 2 ms, a tenth of a static encoder's step
                torch.manual_seed(rng.stream("dropout", seed, step, dist.rank()))
            given = {name: given_by[name](batch, positions, step) for name in needs}
            value, scores, mask = gradients(
                encoder, embedder, batch, queue, functools.partial(loss_fn, temperature=log_temperature.exp()), given,
                chunk_size, scaler.scale)  # fmt: skip
            if not math.isfinite(value):
                stop_non_finite(log, collection, batch, step, value)
            dist.sum_gradients(trained)  # not the temperature's: each process has all of it
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * learning_rate(step, steps, args.warmup)
            if args.max_grad_norm:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(trained, args.max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            averaged.update_parameters(encoder)
            if queue.size:
                queue.push(batch.docs, embedder.embed(averaged.module, "doc", batch.docs))
            temperature = log_temperature.exp().item()
            averages.add(value, scores, mask, batch, sampler.labels, temperature=temperature)
        bar.update()
        if step % args.log_every == 0 or step + 1 == steps:
            stats = averages.take()
            watch.check_sources(stats["ledger"], sampler.labels, sampler.active(step), queued=len(batch.queued))
            for row in stats["ledger"]:
                row["age"] = sampler.age(row["source"], step)
            state = {"step": step, "epoch": epoch, "loss": stats["loss"], "lr": optimizer.param_groups[0]["lr"]}
            log.log("step", state | {"temperature": temperature} | stats)
            for warning in watch.check(step, steps, stats):
                log.log("warning", {"step": step} | warning)
                bar.write(f"warning: {warning['warning']}: {warning['advice']}")
            rate = (step + 1) * len(positions) / clock.spent["train"]
            timing = {"seconds": clock.total(), "spent": clock.spent}
            log.log("step", {"step": step, "queries_per_s": rate} | timing, file="timing.jsonl")
            bar.write(monitor.step_line(step, stats, rate))
        if (step + 1) % plan["eval_every"] == 0 or step + 1 == steps:
            with clock("evaluate"):
                dev = measures.mean(measure(averaged.module, "dev", docs=dev_docs))
            log.log("evaluation", {"step": step + 1, "dev": dev})
            seconds = clock.spent["train"] + clock.spent["mine"]
            timing = {"dev_seconds": seconds, "seconds": clock.total(), "spent": clock.spent}
            log.log("evaluation", {"step": step + 1} | timing, file="timing.jsonl")
            better = dev[args.select] > best["score"]
            verdict = "  best, saved" if better else ""
            bar.write(f"step {step + 1:>5}  dev {args.select} {dev[args.select]:.4f}{verdict}")
            if better:
                best |= {"score": dev[args.select], "step": step + 1, "dev": dev}
                if dist.is_main():
                    model.save_encoder(averaged.module, folder / "encoder")
            state = {"step": step + 1, "best": best, "tally": tally, "log_temperature": log_temperature.item()}
            log.save_state(parts, state)
    bar.close()
    dist.barrier()  # the encoder that process 0 saved is there for all

    # test, with the checkpoint that dev chose
    chosen = model.load_encoder(folder / "encoder").set_device(device, dtype)
    last = order.positions(steps - 1)[:1]
    with clock("evaluate"):
        per_query = measure(chosen, "test")
        geometry = diagnostics.geometry(embedder, chosen, "dev")
        drawn = sampler.sample(last, step=steps - 1, epoch=order.epoch(steps - 1))
        names = [of_code.name for of_code in sampler.labels]
        points = diagnostics.neighbourhood(embedder, chosen, int(last[0]), drawn, names)
    untrained = best.get("untrained")
    for warning in watch.check_end(
        rank=geometry["effective_rank"],
        dim=encoder.dim,
        dev=best["score"],
        untrained=untrained and untrained["dev"][args.select],
    ):
        log.log("warning", {"step": steps} | warning)
        print(f"warning: {warning['warning']}: {warning['advice']}")
    summary = {"name": folder.name, "data": args.data, "encoder": args.encoder, "negatives": arm.text, "seed": label}
    summary |= {"steps": steps, "best_step": best["step"], "wall_s": round(clock.total(), 1)}
    summary |= {f"{name}_s": round(clock.spent[name], 1) for name in ("train", "mine", "evaluate")}
    summary |= {"queries_per_s": round(steps * order.batch_size / clock.spent["train"], 1)}
    summary |= {"peak_rss_mb": run.peak_rss_mb(), "dev": best["dev"], "test": measures.mean(per_query)}
    summary |= {"denominators": round(tally["denominators"]), "geometry": geometry}
    copies = {source: diagnostics.near_copies(mined.candidates, collection) for source, mined in sampler.lists.items()}
    for name in ("positive", "query"):
        of_name = "near_copies" if name == "positive" else "near_copies_of_the_query"
        summary |= {of_name: {source: shares[name] for source, shares in copies.items()}}
    summary |= {"docs_encoded": tally["docs_encoded"] + sampler.miner.encoded}
    summary |= {"pool": plan["pool"], "bm25": bm25["test"], "bm25_dev": bm25["dev"]}
    if untrained:
        summary |= {"untrained": untrained["test"], "untrained_dev": untrained["dev"]}
    if dist.is_main():
        measures.write_per_query(folder / "eval" / f"{collection.name}-test" / "per_query.jsonl", per_query)
        write_json(folder / "map.json", points)
        card.write_card(folder / "encoder", chosen, {"config": config, "summary": summary})
        log.finish(summary)
        title, query = f"{arm} on {collection.name}, seed {seed}", collection.queries.text(qrels.queries[last[0]])
        with plots.optional(folder):
            plots.of_run(folder / "plots", log.read_log(), points, measure=args.select, title=title, query=query)
    print(f"{report.of_run(summary, args.select)}\n\nwrote   {folder}/: encoder/, metrics.jsonl, plots/, summary.json")
    print(f"next    python build_index.py --run {run.quoted(folder)}")


def order_of(args, *, collection, seed, clusters=None, pulled=0):
    """The QueryOrder of a run over a collection's train queries and, behind them, `pulled` pseudo-queries."""
    queries = collection.split("train").queries
    n, parts = len(queries), collection.part_of(queries) if collection.parts else None
    per_step = max(1, round(args.pull_rate * min(args.batch_size, n))) if args.pull else 0
    return batches.QueryOrder(
        n, batch_size=args.batch_size, seed=seed, clusters=clusters, pulled=(pulled, per_step), parts=parts,
        shares=args.data_shares)  # fmt: skip


def derive(args, encoder, order, device):
    """What follows from the arguments: printed, recorded, and used by train() in their place."""
    steps = args.steps or max(1, round(args.epochs * order.steps_per_epoch))
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
        "peak_lr": args.lr or default_lr(args, encoder.kind),
        "cached_gradients": bool(args.chunk_size) and args.chunk_size < order.batch_size,
        "precision": model.pick_precision(device, args.precision, encoder.kind),
        "model": model.describe(encoder),
        "device": str(device),
        "processes": dist.world(),
        "parameters": trained,
        "initial_weights": fingerprint(*(p.detach().numpy() for p in encoder.parameters())),
        "query_order": fingerprint(*(order.positions(step) for step in range(steps))),
    }


def refresh_every(args, order):
    """Steps between minings of refresh."""
    return args.refresh_every or max(1, order.steps_per_epoch // 2)


def gradients(encoder, embedder, batch, queue, loss_fn, given, chunk_size, scale):
    """Forward and backward of one step; the gradients wait in the parameters.

    loss_fn(q_emb, d_emb, labels, invalid, **given) -> (loss, scores, mask); given: arrays (B, N). chunk_size caches
    gradients. Returns the loss as a number, the scores (B, N), and (B, N) bool: what did not
    count as a negative.
    """
    device = queue.vectors.device
    labels, invalid = (torch.from_numpy(x).to(device) for x in (batch.labels, batch.invalid))
    queued = len(batch.queued)
    given = {name: torch.from_numpy(x).to(device) for name, x in given.items()}

    def loss_of(q_own, d_own):
        q_emb = dist.gather(q_own, len(batch.queries))  # (B, D)
        d_emb = dist.gather(d_own, len(batch.docs))  # (N, D)
        if queued:
            d_emb = torch.cat([d_emb, queue.vectors[-queued:]])
        return loss_fn(q_emb, d_emb, labels, invalid, **given)

    sides = []
    for kind, rows in (("query", batch.queries), ("doc", batch.docs)):
        rows = rows[dist.own(len(rows))]
        size = chunk_size or max(1, len(rows))
        sides.append([embedder.tokens[kind].select(rows[i : i + size]) for i in range(0, max(1, len(rows)), size)])
    value, scores, mask = loss.backward(
        encoder, sides, loss_of, cached=bool(chunk_size), both=getattr(encoder, "both", None), scale=scale
    )
    return value.item(), scores, mask


def make_encoder(args, collection, *, seed):
    """The encoder to train: a new static one, or the one that --encoder names."""
    if args.encoder == "static":
        start, tokenizer, dim = None, None, args.dim or 768
        if args.init:
            start = functools.partial(token_vectors, args.init, dim=dim, device=args.device or "cpu")
            tokenizer = None if args.vocab_size else vocabulary_of(args.init)
        size = args.vocab_size or 16_000
        return new_static(collection, dim=dim, vocab_size=size, seed=seed, tokenizer=tokenizer, directions=start)
    names = ("query_prefix", "doc_prefix", "pooling", "query_length", "doc_length")
    overrides = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.normalize:
        overrides["normalize"] = args.normalize == "on"
    how = {name: getattr(args, name) for name in ("from_config", "dim", "lora", "attention")}
    docs, *queries = args.encoder.split(readers.JOIN)
    how |= {"query_source": queries and model.local_folder(queries[0])}
    encoder = model.load_encoder(docs, seed=seed, overrides=overrides, **how)
    if args.dropout is not None and encoder.kind == "transformer":
        encoder.set_dropout(args.dropout)
    return encoder


def default_lr(args, kind):
    """The peak learning rate where --lr is not given: of a static encoder by its batch, lower with --init."""
    return round((1.4e-3 if args.init else 4.5e-3) * args.batch_size**0.5, 4) if kind == "static" else 3e-5


def learning_rate(step, steps, warmup):
    """Share of the peak: a linear rise over `warmup` of the steps, then linear to 0."""
    rise = warmup * steps
    return min(1.0, (step + 1) / rise if rise else 1.0, (steps - step) / (steps - rise))


# --------------------------------------------------------------------------------------------------- reports


def inputs(args, collection):
    """What went in, by content: a run is resumed on the same only."""
    judgements = {split: collection.judgements(split) for split in collection.qrels if split != "train"}
    found = {"collection": collection.name, "collection_fingerprint": collection.fingerprint, "judgements": judgements}
    if args.negatives_file:
        found["negatives_file"] = fingerprint_file(args.negatives_file)
    if args.miner:
        found["miner"] = retriever.fingerprint_of(args.miner)
    if args.init:
        found["init"] = model.fingerprint_folder(model.local_folder(args.init))
    if args.guide:
        found["guide"] = model.fingerprint_folder(model.local_folder(args.guide))
    return found


def stop_non_finite(log, collection, batch, step, value):
    """End the run, leaving the batch that broke it for inspection."""
    path = log.path / "non_finite_batch.json"
    if log.writes:
        qids, doc_ids = (
            [collection.queries.ids[row] for row in batch.queries],
            [collection.docs.ids[row] for row in batch.docs],
        )
        write_json(path, {"step": step, "qids": qids, "doc_ids": doc_ids})
    raise BadInput(
        f"loss is {value} at step {step}: try a lower --lr or a higher --temperature; the batch is in {path}"
    )


if __name__ == "__main__":
    run.cli(main)
