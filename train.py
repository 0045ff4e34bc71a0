"""Train a dense retriever contrastively, on chosen negatives; report it beside BM25 and itself untrained.

    python train.py                                          # embedded collection, refreshed hard negatives
    python train.py --data FOLDER --negatives bm25:4         # your collection, in BEIR layout
    python train.py --negatives in_batch random:4 bm25:4 refresh:4 --seeds 0 1 2     # ablation: arms x seeds
    python train.py --encoder NAME_OR_FOLDER --batch_size 512 --chunk_size 32        # cached gradients
    torchrun --nproc_per_node 8 train.py --encoder NAME_OR_FOLDER                    # same batch, 8 devices

An arm is source:K, joined by + and staged by a comma, as in bm25:2+refresh:2 or random:4,refresh:4@0.3.
Sources: in_batch (nothing explicit) | random:K | bm25:K | dense:K (mined once, by the model as its stage
begins) | refresh:K (mined again and again) | adore:K (as refresh, by the current query vectors over frozen
docs, at every step) | queue:N (the last N docs, from the averaged encoder) | file:K (of mine_negatives.py).
Every arm of a command starts from the same weights, sees the same queries in the same order and takes the
same number of steps.
"""
import functools
import math

import numpy as np
import torch
from tqdm import tqdm

from lib import data, dist, filters, formats, loss, metrics, model, negatives, options, plots, report, run
from lib.forecast import forecast, matched_steps
from lib.health import Health
from lib.retriever import Retriever, bm25_scores, file_candidates, query_features
from lib.run import BadInput
from lib.supply import Mining, Queue, Supply

SELECT = "mrr@10"  # the dev measure that chooses the checkpoint


def parse_args():
    parser = run.parser(__doc__)
    add = parser.add_argument_group("what").add_argument
    add("--data", default="python", help="collection: python (embedded) or a folder in BEIR layout")
    add("--encoder", default="static", metavar="static|NAME|FOLDER", help="static (trained from scratch), or "
        "a model to train further: ours, sentence-transformers' or Hugging Face's, by folder or hub name")
    add("--negatives", nargs="+", default=["refresh:4"], metavar="ARM", help="one arm, or several to compare")
    add("--negatives_file", metavar="F", help="file of mine_negatives.py that the source file:K draws from")
    add("--seeds", "--seed", nargs="+", type=int, default=[0], metavar="S",
        help="weights, order, draws; or several")
    add("--match", choices=report.BUDGETS, default="steps", help="what all arms get as much of as the "
        "first: optimizer steps, negatives in denominators, docs encoded, or seconds with mining (a pilot)")
    add("--aa", action="store_true", help="the first arm once more, on other seeds: what chance alone does")
    add("--seed_shift", type=int, default=0, help="added to every seed; an arm may have its own")
    add("--config", metavar="FILE", help="a run's config.json: its arguments become the defaults here")
    add("--name", help="run folder below runs/; default: collection, arm and seed")
    add("--overwrite", action="store_true", help="replace the run folder if it exists")
    add("--resume", action="store_true", help="continue an interrupted run from its last evaluation")
    add = parser.add_argument_group("optimisation").add_argument
    add("--batch_size", type=int, default=128, metavar="B",
        help="queries per step over all processes, each other's negatives too")
    add("--topics", type=int, metavar="N", help="batches of queries of one topic each, out of N found by "
        "k-means of the untrained encoder's query vectors")
    add("--chunk_size", type=int, metavar="C", help="texts whose activations are kept at once; below "
        "--batch_size it caches gradients: the same result in less memory, for one more forward pass")
    add("--epochs", type=float, default=3.0, help="passes over the training queries")
    add("--steps", type=int, help="optimizer steps; takes the place of --epochs")
    add("--lr", type=float, help="peak learning rate of AdamW, reached after --warmup, then linear to 0; "
        "default: 3e-3 for static, 3e-5 for transformers")
    add("--warmup", type=float, default=0.05, help="share of the steps over which the learning rate rises")
    add("--weight_decay", type=float, default=0.0, help="AdamW's, on all parameters")
    add("--max_grad_norm", type=float, default=0.0,
        help="longer gradients are shortened to this norm; 0: never")
    add("--ema", type=float, default=0.98, help="decay per step of the averaged weights that mine, are "
        "evaluated and saved; 0: the weights as they are")
    add = parser.add_argument_group("loss").add_argument
    add("--temperature", type=float, default=0.06,
        help="divides similarities; the lower, the more the hardest count")
    add("--learn_temperature", action="store_true", help="--temperature is only where it starts")
    add("--terms", nargs="+", default=[], choices=loss.TERMS, help="more negatives: d2q other queries "
        "against the positive, q2q other queries against the query, d2d other docs against the positive")
    add("--hardness", type=float, default=0.0, help="adds this times its similarity to each negative's logit")
    add("--label_smoothing", type=float, default=0.0, help="share of the target spread over the negatives")
    add("--debias", type=float, default=0.0, help="share of negatives assumed to be positives in truth")
    add("--mask_margin", type=float,
        help="negatives that outscore their positive by more than this do not count")
    add("--guide", metavar="NAME|FOLDER",
        help="encoder whose scores mask: negatives that it puts above the positive")
    add("--guide_margin", type=float, default=0.0, help="... or above the positive's guide score minus this")
    add("--triplet_margin", type=float, help="hinge loss with this margin in place of InfoNCE")
    add("--dims", nargs="+", type=int, default=[], help="Matryoshka: train these prefixes of the vectors too")
    add("--distill", choices=("margin_mse", "kl"), default="margin_mse",
        help="how to follow the teacher scores of --negatives_file")
    add("--distill_weight", type=float, default=0.0,
        help="share of distillation in the loss, the rest is contrastive")
    add = parser.add_argument_group("negatives").add_argument
    add("--depth", type=int, default=30, help="negatives are drawn from a query's best DEPTH candidates ...")
    add("--choice", default="uniform", help="... uniformly, or: top | simans:A:B | softmax:T")
    add("--filters", nargs="+", default=[], metavar="F",
        help=f"candidates to drop: {', '.join(filters.FILTERS)} (lib/filters.py)")
    add("--pool", type=int, help="candidates to mine, before the filters; default: --depth, with filters 100")
    add("--positive", choices=negatives.POSITIVE, default="max",
        help="which of several positives' scores the filters compare with")
    add("--refresh_every", type=int, metavar="STEPS",
        help="steps between minings of refresh; default: half an epoch")
    add("--refresh_overlap", type=float, metavar="SHARE", help="mine refresh again only when less than this "
        "share of a probe's best docs is left; looked at each --refresh_every, by default an eighth of an "
        "epoch")
    add("--refresh_lag", type=int, default=0, metavar="STEPS", help="mine in the background, with the "
        "weights of one step for use this many steps later: repeatable, whatever the clock does")
    add = parser.add_argument_group("static encoder").add_argument
    add("--dim", type=int, default=768, metavar="D", help="length of the vectors")
    add("--vocab_size", type=int, default=16_000, help="WordPiece tokens, learned from the training side")
    group = parser.add_argument_group("transformer; what is not given is what the model says of itself")
    add = group.add_argument
    add("--pooling", choices=("mean", "cls", "last"),
        help="how token vectors become one; mean if the model is bare")
    add("--normalize", choices=("on", "off"), help="unit vectors (cosine) or not (inner product)")
    add("--query_prefix", help="text put before each query")
    add("--doc_prefix", help="text put before each doc")
    add("--query_length", type=int, help="tokens of a query at most; 64 if the model is bare")
    add("--doc_length", type=int, help="tokens of a doc at most; 256 if the model is bare")
    add("--projection", type=int, metavar="D", help="add a linear layer to D dimensions")
    add("--separate_towers", action="store_true", help="one set of weights for queries, another for docs")
    add("--from_config", action="store_true", help="the model's architecture with random weights")
    add("--lora", type=int, metavar="RANK", help="train low-rank updates only (needs the package peft)")
    add("--dropout", type=float, help="rate of every dropout; 0 trains 1.4x as fast on a CPU")
    add("--gradient_checkpointing", action="store_true", help="recompute activations: less memory, slower")
    add = parser.add_argument_group("device and reports").add_argument
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--precision", choices=model.PRECISIONS,
        help="of a transformer's autocast; default: bf16 on cuda, else fp32")
    add("--compile", action="store_true", help="torch.compile the backbone; pays on long runs")
    add("--eval_every", type=int, metavar="STEPS",
        help="steps between evaluations on dev; default: one epoch")
    add("--log_every", type=int, default=50, metavar="STEPS", help="steps between lines of metrics.jsonl")
    config = parser.parse_known_args()[0].config
    if config:
        parser.set_defaults(**options.recorded_arguments(config))
    args = parser.parse_args()
    if args.aa:
        args.negatives = [*args.negatives, f"{args.negatives[0]} seed_shift=1000"]
    options.check_file(args)
    for arm in args.negatives:
        options.arm_args(args, parser, arm)
    return args, parser


def main():
    args, parser = parse_args()
    device = dist.start(model.pick_device(args.device))
    with dist.main_first():
        collection = data.load_collection(args.data)
    for split in ("train", "dev", "test"):  # what is missing is missed now, not after an hour
        collection.split(split)
    if args.negatives_file:
        file_candidates(args.negatives_file, collection, None, needs_teacher=bool(args.distill_weight))
    if args.refresh_lag and dist.world() > 1:
        raise BadInput("--refresh_lag is for one process: a thread of its own cannot wait for the others")
    if len(set(args.negatives)) < len(args.negatives) or len(set(args.seeds)) < len(args.seeds):
        raise BadInput("--negatives or --seeds name the same run twice")
    if len(args.negatives) == len(args.seeds) == 1:
        (arm,), (seed,) = args.negatives, args.seeds
        folder = run.run_path(args.name or f"{collection.name}-{slug(arm)}-s{seed}")
        summary = train(options.arm_args(args, parser, arm), parser, collection, folder, arm=arm, seed=seed,
                        device=device)
        print_table(summary)
        print(f"\nwrote   {folder}/: encoder/, metrics.jsonl, plots/, summary.json"
              f"\nnext    python build_index.py --run {folder}")
    else:
        compare(args, parser, collection, run.run_path(args.name or f"{collection.name}-ablation"), device)
    dist.stop()


def compare(args, parser, collection, folder, device):
    """Train every arm with every seed, but for what is finished; then tables and figures of all."""
    run.Run.create(folder, overwrite=args.overwrite, resume=args.resume, writes=dist.is_main(),
                   config=run.record(args, parser, derived={}, inputs=inputs(collection)))

    @functools.cache
    def pilot(arm, steps):
        own = options.arm_args(args, parser, arm)
        own.steps, own.eval_every = steps, None
        own.overwrite, own.resume = True, False  # nothing of a pilot that was killed
        train(own, parser, collection, folder / "pilot", arm=arm, seed=args.seeds[0], device=device)
        dist.barrier()
        tried = run.read_json(folder / "pilot" / "summary.json")  # process 0's clock, for all
        dist.barrier()
        if dist.is_main():
            run.remove(folder / "pilot")
        return tried

    decided = folder / "matched_steps.json"  # seconds are not measured again when a comparison continues
    with dist.main_first():
        known = run.read_json(decided) if decided.exists() else {}
    steps = known | {arm: matched_steps(args, parser, collection, arm, pilot) for arm in args.negatives
                     if arm not in known}
    if dist.is_main() and args.match != "steps":
        run.write_json(decided, steps)
    jobs = [(arm, seed) for arm in args.negatives for seed in args.seeds]
    for number, (arm, seed) in enumerate(jobs, 1):
        print(f"\n== run {number} of {len(jobs)}: {arm}, seed {seed}")
        path = folder / f"{slug(arm)}-s{seed}"
        own = options.arm_args(args, parser, arm)
        own.steps = steps[arm]
        train(own, parser, collection, path, arm=arm, seed=seed, device=device)
    features = query_features(collection, "test")
    if dist.is_main():
        run.write_json(folder / "queries.json", features)
        table = report.compare(folder, measure=SELECT)
        print(f"\n{table}\nwrote   {folder}/ablation.json, .md, plots/ and one folder a run"
              f"\nnext    python evaluate.py --compare {folder}     # tables and figures again"
              f"\n        python build_index.py --run {path}")


def train(args, parser, collection, folder, *, arm, seed, device):
    """One training run, from initial weights to the test split; returns its summary."""
    if args.resume and (folder / "summary.json").exists():
        print(f"{folder} is finished: nothing to do")
        return run.read_json(folder / "summary.json")
    clock = run.Clock()
    label, seed = seed, seed + args.seed_shift
    qrels = collection.split("train")
    with dist.main_first():
        encoder = make_encoder(args, collection, seed=seed)
        retriever = Retriever(collection, encoder, negatives_file=args.negatives_file,
                              needs_teacher=bool(args.distill_weight), positive=args.positive)
        topics = args.topics and retriever.topics(args.topics)
    order = data.QueryOrder(len(qrels), batch_size=args.batch_size, seed=seed, topics=topics)
    plan = derive(args, encoder, order, device)
    retriever.place(device, model.PRECISIONS[plan["precision"]], ema=args.ema, compile=args.compile,
                    checkpoint=args.gradient_checkpointing, guide=args.guide)
    config = run.record(args, parser, derived=plan | {"arm": arm, "seed": label}, inputs=inputs(collection))
    log = run.Run.create(folder, overwrite=args.overwrite, resume=args.resume, writes=dist.is_main(),
                         config=config)
    run.print_header(f"{arm} on {collection.name}, seed {seed} -> {folder}", args, parser, plan | {
        "explicit_negatives_per_query": negatives.count_by_stage(arm), "docs": len(collection.docs)})

    steps, peak_lr = plan["steps"], plan["peak_lr"]
    log_temperature = torch.tensor(math.log(args.temperature), device=device,
                                   requires_grad=args.learn_temperature)
    trained = [p for p in encoder.parameters() if p.requires_grad]
    groups = [{"params": trained, "weight_decay": args.weight_decay}]
    groups += [{"params": [log_temperature], "weight_decay": 0.0}] * args.learn_temperature
    optimizer = torch.optim.AdamW(groups, lr=peak_lr, fused=device.type != "mps")
    scaler = torch.amp.GradScaler(device.type, enabled=plan["precision"] == "fp16")
    mining = Mining(
        depth=args.depth, pool=plan["pool"], filters=tuple(map(filters.parse_filter, args.filters)),
        choice=filters.parse_choice(args.choice), refresh_every=plan["refresh_every"],
        refresh_overlap=args.refresh_overlap, refresh_lag=args.refresh_lag)
    supply = Supply(arm, steps=steps, mining=mining, seed=seed, collection=collection, miner=retriever,
                    upcoming=order.upcoming)
    queue = Queue(supply.queue_size, encoder.dim, device=device)
    best = {"score": -math.inf}
    tally = {"denominators": 0, "docs_encoded": 0}
    health = Health(contrastive=args.distill_weight < 1 and args.triplet_margin is None)
    parts = {"encoder": encoder, "averaged": retriever.averaged, "optimizer": optimizer, "scaler": scaler,
             "supply": supply, "queue": queue, "retriever": retriever, "clock": clock,
             "health": health}
    begin = 0
    if args.resume and (state := log.load_state(parts)):
        begin, best, tally = state["step"], state["best"], state["tally"]
        log_temperature.data.fill_(state["log_temperature"])
    with clock("evaluate"):
        if begin == 0:
            best["untrained"] = {split: metrics.mean(retriever.evaluate(encoder, split))
                                 for split in ("dev", "test")}
            retriever.keep_docs()
            log.log({"step": 0, "dev": best["untrained"]["dev"]})
            told = forecast(retriever, supply, order, temperature=args.temperature, seed=seed)
            log.log({"step": 0, "forecast": told})
            retriever.forget_forecast()
        bm25 = {split: metrics.mean(bm25_scores(collection, split)) for split in ("dev", "test")}

    encoder.train()
    bar = tqdm(total=steps, initial=begin, unit="step", desc="training")
    for step in range(begin, steps):
        with clock("mine"):
            for name, numbers in supply.prepare(step).items():
                if name != "adore":  # mined at every step: a line each would drown the others
                    log.log({"step": step, "mined": name} | numbers)
                    log.log({"step": step, "mined": name, "seconds": clock.total()}, file="timing.jsonl")
                    bar.write(mined_line(step, name, numbers))
        with clock("train"):
            epoch, picks = order.epoch(step), order.picks(step)
            positives = data.draw_positives(qrels, picks, seed=seed, epoch=epoch)
            drawn = supply.draw(picks, step=step, epoch=epoch)
            batch = data.make_batch(collection, qrels.queries[picks], positives, drawn,
                                    queue=supply.queued(queue, step))
            tally["denominators"] += int((~batch.invalid).sum()) / len(picks) - 1
            tally["docs_encoded"] += len(batch.docs) * (1 + bool(queue.size))
            torch.manual_seed(run.stream("dropout", seed, step, dist.rank()))
            value, scores, off = gradients(args, retriever, batch, queue, picks, supply,
                                           temperature=log_temperature.exp(), cached=plan["cached_gradients"],
                                           scale=scaler.scale)
            if not torch.isfinite(value):
                stop_non_finite(log, collection, batch, step, value.item())
            dist.sum_gradients(trained)  # not the temperature's: each process has all of it
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * learning_rate(step, steps, args.warmup)
            if args.max_grad_norm:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(trained, args.max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            retriever.averaged.update_parameters(encoder)
            if queue.size:
                queue.push(batch.docs, retriever.embed(retriever.averaged.module, "doc", batch.docs))
        bar.update()
        if step % args.log_every == 0 or step + 1 == steps:
            temperature = log_temperature.exp().item()
            labels, source = (torch.from_numpy(x).to(device) for x in (batch.labels, batch.source))
            stats = loss.batch_stats(scores, labels, off, source, supply.labels, temperature=temperature)
            health.check_sources(stats["ledger"], supply.active(step),
                                 queued=batch.invalid.shape[1] - len(batch.docs))
            for row in stats["ledger"]:
                row["age"] = supply.age(row["source"], step)
            log.log({"step": step, "epoch": epoch, "loss": value.item(),
                     "lr": optimizer.param_groups[0]["lr"], "temperature": temperature} | stats)
            for alarm in health.check(step, steps, stats):
                log.log({"step": step} | alarm)
                bar.write(f"warning: {alarm['alarm']}: {alarm['advice']}")
            rate = (step + 1) * len(picks) / clock.spent["train"]
            log.log({"step": step, "queries_per_s": rate, "seconds": clock.total()}, file="timing.jsonl")
            bar.write(log_line(step, value.item(), stats, rate))
        if (step + 1) % plan["eval_every"] == 0 or step + 1 == steps:
            with clock("evaluate"):
                dev = metrics.mean(retriever.evaluate(retriever.averaged.module, "dev"))
            log.log({"step": step + 1, "dev": dev})
            log.log({"step": step + 1, "dev_seconds": clock.spent["train"] + clock.spent["mine"]},
                    file="timing.jsonl")
            better = dev[SELECT] > best["score"]
            verdict = "  best, saved" if better else ""
            bar.write(f"step {step + 1:>5}  dev {SELECT} {dev[SELECT]:.4f}{verdict}")
            if better:
                best |= {"score": dev[SELECT], "step": step + 1, "dev": dev}
                if dist.is_main():
                    model.save_encoder(retriever.averaged.module, folder / "encoder")
            log.save_state(parts, {"step": step + 1, "best": best, "tally": tally,
                                   "log_temperature": log_temperature.item()})
    bar.close()
    dist.barrier()  # the encoder that process 0 saved is there for all
    chosen = model.load_encoder(folder / "encoder").set_device(device, model.PRECISIONS[plan["precision"]])
    with clock("evaluate"):
        per_query = retriever.evaluate(chosen, "test")  # the one look at test
        geometry = retriever.geometry(chosen, "dev")
        pick = order.picks(steps - 1)[:1]
        points = retriever.neighbourhood(chosen, int(pick[0]), supply.draw(
            pick, step=steps - 1, epoch=order.epoch(steps - 1)), supply.labels)
    for alarm in health.check_end(rank=geometry["effective_rank"], dim=encoder.dim, dev=best["score"],
                                  untrained=best["untrained"]["dev"][SELECT]):
        log.log({"step": steps} | alarm)
        print(f"warning: {alarm['alarm']}: {alarm['advice']}")
    summary = {"name": folder.name, "data": args.data, "encoder": args.encoder, "negatives": arm,
               "seed": label, "steps": steps, "best_step": best["step"], "wall_s": round(clock.total(), 1)}
    summary |= {f"{name}_s": round(clock.spent[name], 1) for name in ("train", "mine", "evaluate")}
    summary |= {"queries_per_s": round(steps * order.batch_size / clock.spent["train"], 1),
                "peak_rss_mb": run.peak_rss_mb(), "dev": best["dev"], "test": metrics.mean(per_query),
                "denominators": round(tally["denominators"]), "geometry": geometry,
                "near_copies": supply.near_copies(),
                "docs_encoded": tally["docs_encoded"] + retriever.encoded,
                "bm25": bm25["test"], "bm25_dev": bm25["dev"], "untrained": best["untrained"]["test"],
                "untrained_dev": best["untrained"]["dev"]}
    if dist.is_main():
        formats.write_per_query(folder / "eval" / f"{collection.name}-test" / "per_query.jsonl", per_query)
        run.write_json(folder / "map.json", points)
        draw(folder / "plots", log.read_log(), points, title=f"{arm} on {collection.name}, seed {seed}",
             query=collection.queries.text(qrels.queries[pick[0]]))
        log.finish(summary)
    return summary


def derive(args, encoder, order, device):
    """What follows from the arguments: printed, recorded, and used by train() in their place."""
    precision = args.precision or ("bf16" if device.type == "cuda" else "fp32")
    steps = args.steps or max(1, round(args.epochs * order.steps_per_epoch))
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    return {"steps": steps, "steps_per_epoch": order.steps_per_epoch, "effective_batch": order.batch_size,
            "train_queries": order.n,
            "pool": max(args.depth, args.pool or (100 if args.filters else 0)),
            "refresh_every": args.refresh_every or max(
                1, order.steps_per_epoch // (2 if args.refresh_overlap is None else 8)),
            "eval_every": args.eval_every or order.steps_per_epoch,
            "peak_lr": args.lr or (3e-3 if encoder.kind == "static" else 3e-5),
            "cached_gradients": bool(args.chunk_size) and args.chunk_size < order.batch_size,
            "precision": precision if encoder.kind == "transformer" else "fp32", "device": str(device),
            "processes": dist.world(), "parameters": trained,
            "initial_weights": run.fingerprint(*(p.detach().numpy() for p in encoder.parameters())),
            "query_order": run.fingerprint(*(order.picks(step) for step in range(steps)))}


def gradients(args, retriever, batch, queue, picks, supply, *, temperature, cached, scale):
    """Forward and backward of one step; the gradients wait in the parameters.

    Returns the loss, the scores (B, N), and (B, N) bool: what did not count as a negative.
    """
    device = temperature.device
    labels, invalid = (torch.from_numpy(x).to(device) for x in (batch.labels, batch.invalid))
    queued = invalid.shape[1] - len(batch.docs)
    guide = teacher = None
    if retriever.guide:
        docs = np.concatenate([batch.docs, queue.docs[-queued:]]) if queued else batch.docs
        guide = torch.from_numpy(retriever.guide_scores(batch.queries, docs)).to(device)
    if args.distill_weight:
        teacher = torch.from_numpy(supply.teacher(batch, picks)).to(device)

    def loss_of(q_own, d_own):
        q_emb = dist.gather(q_own, len(batch.queries))                                      # (B, D)
        d_emb = dist.gather(d_own, len(batch.docs))                                         # (N, D)
        if queued:
            d_emb = torch.cat([d_emb, queue.vectors[-queued:]])
        # ABLATION: another objective is another function of these tensors
        return loss.contrastive_loss(
            q_emb, d_emb, labels, invalid, temperature=temperature, terms=args.terms, hardness=args.hardness,
            label_smoothing=args.label_smoothing, debias=args.debias, mask_margin=args.mask_margin,
            guide=guide, guide_margin=args.guide_margin, triplet_margin=args.triplet_margin, dims=args.dims,
            teacher=teacher, distill=args.distill, distill_weight=args.distill_weight)

    sides = []
    for kind, rows in (("query", batch.queries), ("doc", batch.docs)):
        rows = rows[dist.own(len(rows))]
        size = args.chunk_size if cached else max(1, len(rows))
        sides.append([retriever.tokens[kind].select(rows[i:i + size])
                      for i in range(0, max(1, len(rows)), size)])
    value, scores = loss.backward(retriever.encoder, sides, loss_of, cached=cached,
                                  both=retriever.encoder.both, scale=scale)
    likely = loss.likely_positive(scores, labels, args.mask_margin, guide, args.guide_margin)
    return value, scores, invalid | likely


# --------------------------------------------------------------------------------------------------- encoder

def make_encoder(args, collection, *, seed):
    """The encoder to train: a new static one, vocabulary and idf from the training side, or a given one."""
    if args.encoder != "static":
        given = {"query_prefix": args.query_prefix, "doc_prefix": args.doc_prefix, "pooling": args.pooling,
                 "query_length": args.query_length, "doc_length": args.doc_length,
                 "normalize": args.normalize and args.normalize == "on"}
        overrides = {name: value for name, value in given.items() if value is not None}
        encoder = model.load_encoder(args.encoder, overrides=overrides, separate_towers=args.separate_towers,
                                     from_config=args.from_config, projection=args.projection, lora=args.lora,
                                     seed=seed)
        if args.dropout is not None and encoder.kind == "transformer":
            encoder.set_dropout(args.dropout)
        return encoder
    qrels = collection.split("train")
    doc_rows = np.unique(qrels.docs[qrels.grades >= 1])  # docs of dev and test queries play no part
    sides = ((collection.queries, qrels.queries), (collection.docs, doc_rows))
    tokenizer = model.load_or_train_wordpiece(
        lambda: (texts.text(row) for texts, rows in sides for row in rows),
        vocab_size=args.vocab_size, key=collection.fingerprint)
    encoder = model.StaticEncoder(tokenizer, dim=args.dim)
    ids = data.tokenize(collection.docs, encoder, "doc").select(doc_rows)[0]
    document_frequency = np.bincount(ids.numpy(), minlength=len(encoder.weight))
    encoder.init_weights(seed=seed, idf=np.log((1 + len(doc_rows)) / (1 + document_frequency)))
    return encoder


def learning_rate(step, steps, warmup):
    """Share of the peak: a linear rise over `warmup` of the steps, then linear to 0."""
    rise = warmup * steps
    return min(1.0, (step + 1) / rise if rise else 1.0, (steps - step) / (steps - rise))


# --------------------------------------------------------------------------------------------------- reports

def slug(arm):
    """An arm as part of a folder's name: bm25:2+refresh:2 lr=1e-3 -> bm25-2+refresh-2_lr=1e-3."""
    return arm.translate(str.maketrans(": /", "-_-"))


def inputs(collection):
    """What went in, by content."""
    return {"collection": collection.name, "collection_fingerprint": collection.fingerprint}


def mined_line(step, name, report):
    """One line for people about a mining."""
    age = "" if report["age"] is None else f", {report['age']} steps after the last"
    kept = "" if report.get("overlap") is None else f", {report['overlap']:.0%} of it were there before"
    above = report["outscore_positive"]
    above = "" if above is None else f", {above:.1%} above the positive"
    return f"step {step:>5}  mined {name}: {report['candidates']:,} candidates{above}{age}{kept}"


def log_line(step, value, stats, rate):
    """One line for people. By source: negatives per query, share above the positive, share of gradient."""
    sources = "  ".join(f"{name} {s['negatives']:.0f} above {s['above']:.1%} grad {s['gradient']:.0%}"
                        for name, s in stats["sources"].items() if s["negatives"])
    hardest = "none" if stats["hardest"] is None else f"{stats['hardest']:.2f}"
    return (f"step {step:>5}  loss {value:.3f}  acc {stats['accuracy']:.2f}  pos {stats['positive']:.2f}  "
            f"hardest {hardest} | {sources} | {rate:,.0f} queries/s")


def stop_non_finite(log, collection, batch, step, value):
    """End the run, leaving the batch that broke it for inspection."""
    path = log.path / "non_finite_batch.json"
    if log.writes:
        run.write_json(path, {"step": step, "qids": [collection.queries.ids[row] for row in batch.queries],
                              "doc_ids": [collection.docs.ids[row] for row in batch.docs]})
    raise BadInput(f"loss is {value} at step {step}: try a lower --lr or a higher --temperature; "
                   f"the batch is in {path}")


def draw(folder, lines, points, *, title, query):
    """The figures of one run."""
    plots.training(folder / "training.png", lines, title=title)
    plots.ledger(folder / "ledger.png", lines, title=title)
    plots.neighbourhood(folder / "map.png", points, title=query[:80])


def print_table(summary):
    """The trained encoder beside what it must beat."""
    rows = [("BM25", summary["bm25_dev"], summary["bm25"]),
            ("untrained", summary["untrained_dev"], summary["untrained"]),
            (f"trained, {summary['negatives']}", summary["dev"], summary["test"])]
    print(f"\n{'':24}{'dev ' + SELECT:>12}" + "".join(f"{'test ' + name:>17}" for name in metrics.MEASURES))
    for label, dev, test in rows:
        cells = "".join(f"{test[name]:>17.4f}" for name in metrics.MEASURES)
        print(f"{label:24}{dev[SELECT]:>12.4f}{cells}")
    print(f"checkpoint of step {summary['best_step']} of {summary['steps']}, chosen on dev; "
          f"training {summary['train_s']} s ({summary['queries_per_s']:,.0f} queries/s), "
          f"mining {summary['mine_s']} s, evaluation {summary['evaluate_s']} s, "
          f"peak memory {summary['peak_rss_mb']:,.0f} MB")


if __name__ == "__main__":
    run.cli(main)
