"""Train a dense retriever with a contrastive loss and chosen negatives; report it beside BM25 and itself untrained.

    python train.py                                                  # embedded collection, refreshed hard negatives
    python train.py --data FOLDER --negatives bm25:4                 # your collection, in BEIR layout
    python train.py --negatives in_batch random:4 bm25:4 refresh:4 --seeds 0 1 2     # an ablation: arms x seeds

An arm is source:K, joined by + and staged by a comma: in_batch | random:K | bm25:K | dense:K | refresh:K | file:K,
as in bm25:2+refresh:2 or random:4,refresh:4@0.3. Every arm of a command starts from the same weights, sees the same
queries in the same order and takes the same number of steps.
"""
import argparse
import functools
import math
import pathlib

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from lib import data, formats, index, loss, metrics, model, negatives, plots, run
from lib.run import BadInput

SELECT = "mrr@10"  # the dev measure that chooses the checkpoint
RANKED = 100       # docs ranked per query when evaluating: the deepest cut-off of metrics.MEASURES


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("what").add_argument
    add("--data", default="python", help="collection: python (embedded) or a folder in BEIR layout")
    add("--encoder", default="static", help="static (trained from scratch) or the folder of an encoder to train further")
    add("--negatives", nargs="+", default=["refresh:4"], metavar="ARM", help="one arm, or several to compare")
    add("--negatives_file", metavar="F", help="file of mine_negatives.py that the source file:K draws from")
    add("--seeds", "--seed", nargs="+", type=int, default=[0], metavar="S", help="weights, order, draws; several to compare")
    add("--name", help="run folder below runs/; default: collection, arm and seed")
    add("--overwrite", action="store_true", help="replace the run folder if it exists")
    add = parser.add_argument_group("optimisation").add_argument
    add("--batch_size", type=int, default=128, metavar="B", help="queries per step, each other's negatives too")
    add("--epochs", type=float, default=3.0, help="passes over the training queries")
    add("--steps", type=int, help="optimizer steps; takes the place of --epochs")
    add("--lr", type=float, default=3e-3, help="peak learning rate of AdamW, reached after --warmup, then linear to 0")
    add("--warmup", type=float, default=0.05, help="share of the steps over which the learning rate rises")
    add("--temperature", type=float, default=0.06, help="divides similarities; the lower, the more the hardest count")
    add("--ema", type=float, default=0.98, help="decay per step of the averaged weights that mine, are evaluated and "
        "saved; 0: the weights as they are")
    add = parser.add_argument_group("negatives").add_argument
    add("--depth", type=int, default=30, help="negatives are drawn uniformly from a query's best DEPTH candidates")
    add("--refresh_every", type=int, metavar="STEPS", help="steps between minings of refresh; default: half an epoch")
    add = parser.add_argument_group("static encoder").add_argument
    add("--dim", type=int, default=768, metavar="D", help="length of the vectors")
    add("--vocab_size", type=int, default=16_000, help="WordPiece tokens, learned from the training side")
    add = parser.add_argument_group("reports").add_argument
    add("--eval_every", type=int, metavar="STEPS", help="steps between evaluations on dev; default: one epoch")
    add("--log_every", type=int, default=50, metavar="STEPS", help="steps between lines of metrics.jsonl")
    args = parser.parse_args()
    if not 0 <= args.ema < 1:
        raise BadInput(f"--ema {args.ema}: a decay is at least 0 and below 1")
    for name in ("batch_size", "depth", "dim", "log_every", "lr", "temperature", "epochs"):
        if getattr(args, name) <= 0:
            raise BadInput(f"--{name} {getattr(args, name)}: must be above 0")
    if any("file" in negatives.arm_sources(arm) for arm in args.negatives) != bool(args.negatives_file):
        raise BadInput("the source file:K and --negatives_file F come together: F holds what file:K draws from")
    return args, parser


def main():
    args, parser = parse_args()
    collection = data.load_collection(args.data)
    jobs = [(arm, seed) for arm in args.negatives for seed in args.seeds]
    if len(set(jobs)) < len(jobs):
        raise BadInput("--negatives or --seeds name the same run twice")
    root = pathlib.Path("runs")
    if len(jobs) == 1:
        (arm, seed), = jobs
        folder = root / (args.name or f"{collection.name}-{slug(arm)}-s{seed}")
        summary = train(args, parser, collection, folder, arm=arm, seed=seed)
        print_table(summary)
        print(f"\nwrote   {folder}/: encoder/, metrics.jsonl, plots/training.png, summary.json"
              f"\nnext    python build_index.py --run {folder}")
        return
    folder = root / (args.name or f"{collection.name}-ablation")
    run.Run.create(folder, overwrite=args.overwrite, config=run.record(args, parser, derived={}, inputs=inputs(collection)))
    summaries = []
    for number, (arm, seed) in enumerate(jobs, 1):
        print(f"\n== run {number} of {len(jobs)}: {arm}, seed {seed}")
        summaries.append(train(args, parser, collection, folder / f"{slug(arm)}-s{seed}", arm=arm, seed=seed))
    ablation(folder, collection, summaries)


def train(args, parser, collection, folder, *, arm, seed):
    """One training run, from initial weights to the test split; returns its summary."""
    clock = run.Clock()
    qrels = collection.split("train")
    encoder = make_encoder(args, collection, seed=seed)
    q_tokens = data.tokenize(collection.queries, encoder, "query")
    d_tokens = data.tokenize(collection.docs, encoder, "doc")
    order = data.QueryOrder(len(qrels), batch_size=args.batch_size, seed=seed)
    steps = args.steps or max(1, round(args.epochs * order.steps_per_epoch))
    refresh_every = args.refresh_every or max(1, order.steps_per_epoch // 2)
    eval_every = args.eval_every or order.steps_per_epoch
    derived = {"steps": steps, "steps_per_epoch": order.steps_per_epoch, "effective_batch": order.batch_size,
               "explicit_negatives_per_query": " then ".join(str(sum(k for _, k in s.parts)) for s in negatives.parse_arm(arm)),
               "refresh_every": refresh_every, "eval_every": eval_every, "train_queries": len(qrels),
               "docs": len(collection.docs), "parameters": sum(p.numel() for p in encoder.parameters()),
               "initial_weights": run.fingerprint(*(p.detach().numpy() for p in encoder.parameters())),
               "query_order": run.fingerprint(order.picks(0), order.picks(steps - 1))}
    log = run.Run.create(folder, overwrite=args.overwrite, config=run.record(
        args, parser, derived=derived | {"arm": arm, "seed": seed}, inputs=inputs(collection)))
    run.print_header(f"{arm} on {collection.name}, seed {seed} -> {folder}", args, parser, derived)

    def search(encoder, query_rows, k):
        vectors = model.embed(encoder, q_tokens, query_rows), model.embed(encoder, d_tokens, desc="embedding docs")
        return index.exact_search(*vectors, k)

    def mine(source, picks, depth):
        if source == "file":
            return negatives.load_candidates(args.negatives_file, collection, qrels)
        if source == "bm25":
            return bm25_candidates(collection, depth)
        found = search(averaged.module, qrels.queries[picks], depth + negatives.overfetch(collection))
        return negatives.from_search(collection, qrels.queries[picks], found, source=source, depth=depth)

    def evaluate(encoder, split):
        return metrics.score(collection, split, *search(encoder, collection.split(split).queries, RANKED))

    with clock("evaluate"):
        untrained = {split: metrics.mean(evaluate(encoder, split)) for split in ("dev", "test")}
        bm25 = {split: metrics.mean(bm25_scores(collection, split)) for split in ("dev", "test")}
    supply = negatives.Supply(arm, steps=steps, refresh_every=refresh_every, depth=args.depth, seed=seed,
                              collection=collection, qrels=qrels, mine=mine, upcoming=order.upcoming)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=args.lr, weight_decay=0.0, fused=True)
    averaged = AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(args.ema))  # what mines, is evaluated and saved
    torch.manual_seed(seed)
    encoder.train()
    best = -math.inf
    bar = tqdm(total=steps, unit="step", desc="training")
    for step in range(steps):
        with clock("mine"):
            for source in supply.prepare(step):
                log.log({"step": step, "mined": source} | supply.describe(source))
        with clock("train"):
            epoch, picks = order.epoch(step), order.picks(step)
            positives = data.draw_positives(qrels, picks, seed=seed, epoch=epoch)
            batch = data.make_batch(collection, qrels.queries[picks], positives, supply.draw(picks, step=step, epoch=epoch))
            labels, invalid, source = map(torch.from_numpy, (batch.labels, batch.invalid, batch.source))
            q_emb = encoder(*q_tokens.select(batch.queries))                                 # (B, D)
            d_emb = encoder(*d_tokens.select(batch.docs))                                    # (N, D)
            # ABLATION: another objective is another function of these four tensors
            value, scores = loss.contrastive_loss(q_emb, d_emb, labels, invalid, temperature=args.temperature)
            if not torch.isfinite(value):
                stop_non_finite(log, collection, batch, step, value.item())
            value.backward()
            for group in optimizer.param_groups:
                group["lr"] = args.lr * learning_rate(step, steps, args.warmup)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            averaged.update_parameters(encoder)
        bar.update()
        if step % args.log_every == 0 or step + 1 == steps:
            stats = loss.batch_stats(scores, labels, invalid, source, supply.sources, temperature=args.temperature)
            log.log({"step": step, "epoch": epoch, "loss": value.item(), "lr": group["lr"]} | stats)
            rate = (step + 1) * len(picks) / clock.spent["train"]
            log.log({"step": step, "queries_per_s": rate, "seconds": clock.total()}, file="timing.jsonl")
            bar.write(log_line(step, value.item(), stats, rate))
        if (step + 1) % eval_every == 0 or step + 1 == steps:
            with clock("evaluate"):
                dev = metrics.mean(evaluate(averaged.module, "dev"))
                log.log({"step": step + 1, "dev": dev})
                bar.write(f"step {step + 1:>5}  dev {SELECT} {dev[SELECT]:.4f}" + ("  best, saved" if dev[SELECT] > best else ""))
                if dev[SELECT] > best:
                    best, best_step, best_dev = dev[SELECT], step + 1, dev
                    model.save_encoder(averaged.module, folder / "encoder")
    bar.close()
    with clock("evaluate"):  # the one look at test
        per_query = evaluate(model.load_encoder(folder / "encoder"), "test")
        formats.write_per_query(folder / "eval" / f"{collection.name}-test" / "per_query.jsonl", per_query)
    plots.training(folder / "plots" / "training.png", log.read_log(), title=f"{arm} on {collection.name}, seed {seed}")
    summary = {"name": folder.name, "data": args.data, "encoder": args.encoder, "negatives": arm, "seed": seed, "steps": steps,
               "best_step": best_step, "wall_s": round(clock.total(), 1), "train_s": round(clock.spent["train"], 1),
               "mine_s": round(clock.spent["mine"], 1), "evaluate_s": round(clock.spent["evaluate"], 1),
               "queries_per_s": round(steps * order.batch_size / clock.spent["train"], 1), "peak_rss_mb": run.peak_rss_mb(),
               "dev": best_dev, "test": metrics.mean(per_query), "bm25": bm25["test"], "bm25_dev": bm25["dev"],
               "untrained": untrained["test"], "untrained_dev": untrained["dev"]}
    run.write_json(folder / "summary.json", summary)
    return summary


# --------------------------------------------------------------------------------------------------- encoder

def make_encoder(args, collection, *, seed):
    """The encoder to train: a new static one, with vocabulary and idf from the training side, or a saved one."""
    if args.encoder != "static":
        return model.load_encoder(args.encoder)
    qrels = collection.split("train")
    doc_rows = np.unique(qrels.docs[qrels.grades >= 1])  # docs of dev and test queries play no part
    tokenizer = model.load_or_train_wordpiece(
        (side.text(row) for side, rows in ((collection.queries, qrels.queries), (collection.docs, doc_rows)) for row in rows),
        vocab_size=args.vocab_size, key=collection.fingerprint)
    encoder = model.StaticEncoder(tokenizer, dim=args.dim)
    ids, _, _ = data.tokenize(collection.docs, encoder, "doc").select(doc_rows)
    document_frequency = np.bincount(ids.numpy(), minlength=len(encoder.weight))
    encoder.init_weights(seed=seed, idf=np.log((1 + len(doc_rows)) / (1 + document_frequency)))
    return encoder


def learning_rate(step, steps, warmup):
    """Share of the peak: a linear rise over `warmup` of the steps, then linear to 0."""
    rise = warmup * steps
    return min((step + 1) / rise if rise else 1.0, (steps - step) / (steps - rise))


# -------------------------------------------------------------------------------------------------- baseline

@functools.lru_cache(maxsize=4)
def bm25_scores(collection, split):
    """Per-query values of BM25 on a split, the same for every run of a command."""
    texts = collection.queries.texts(collection.split(split).queries)
    return metrics.score(collection, split, *index.BM25.load(collection.docs).search(texts, RANKED))


@functools.lru_cache(maxsize=1)
def bm25_candidates(collection, depth):
    """BM25's candidates for all train queries."""
    rows = collection.split("train").queries
    found = index.BM25.load(collection.docs).search(collection.queries.texts(rows), depth + negatives.overfetch(collection),
                                                    desc="mining bm25")
    return negatives.from_search(collection, rows, found, source="bm25", depth=depth)


# --------------------------------------------------------------------------------------------------- reports

def slug(arm):
    """An arm as part of a folder's name: bm25:2+refresh:2 -> bm25-2+refresh-2."""
    return arm.replace(":", "-")


def inputs(collection):
    """What went in, by content."""
    return {"collection": collection.name, "collection_fingerprint": collection.fingerprint}


def log_line(step, value, stats, rate):
    """One line for people. For each source: negatives per query, share of them above the positive, share of gradient."""
    sources = "  ".join(f"{name} {s['negatives']:.0f} above {s['above']:.1%} grad {s['gradient']:.0%}"
                        for name, s in stats["sources"].items() if s["negatives"])
    return (f"step {step:>5}  loss {value:.3f}  acc {stats['accuracy']:.2f}  pos {stats['positive']:.2f}  "
            f"hardest {stats['hardest']:.2f} | {sources} | {rate:,.0f} queries/s")


def stop_non_finite(log, collection, batch, step, value):
    """End the run, leaving the batch that broke it for inspection."""
    path = log.path / "non_finite_batch.json"
    run.write_json(path, {"step": step, "qids": [collection.queries.ids[row] for row in batch.queries],
                          "doc_ids": [collection.docs.ids[row] for row in batch.docs]})
    raise BadInput(f"loss is {value} at step {step}: try a lower --lr or a higher --temperature; the batch is in {path}")


def print_table(summary):
    """The trained encoder beside what it must beat."""
    rows = [("BM25", summary["bm25_dev"], summary["bm25"]), ("untrained", summary["untrained_dev"], summary["untrained"]),
            (f"trained, {summary['negatives']}", summary["dev"], summary["test"])]
    print(f"\n{'':24}{'dev ' + SELECT:>12}" + "".join(f"{'test ' + name:>17}" for name in metrics.MEASURES))
    for label, dev, test in rows:
        print(f"{label:24}{dev[SELECT]:>12.4f}" + "".join(f"{test[name]:>17.4f}" for name in metrics.MEASURES))
    print(f"checkpoint of step {summary['best_step']} of {summary['steps']}, chosen on dev; training {summary['train_s']} s "
          f"({summary['queries_per_s']:,.0f} queries/s), mining {summary['mine_s']} s, evaluation {summary['evaluate_s']} s, "
          f"peak memory {summary['peak_rss_mb']:,.0f} MB")


def ablation(folder, collection, summaries):
    """Write ablation.{json,md,png}: each arm over its seeds, and its paired test against the first arm."""
    def per_query(summary):
        return formats.read_per_query(folder / summary["name"] / "eval" / f"{collection.name}-test" / "per_query.jsonl")
    result = {"collection": collection.name, "data": summaries[0]["data"], "encoder": summaries[0]["encoder"],
              "steps": summaries[0]["steps"], "bm25": summaries[0]["bm25"], "untrained": summaries[0]["untrained"],
              "arms": metrics.compare_arms([(summary, per_query(summary)) for summary in summaries], measure=SELECT)}
    table = metrics.arms_table(result, measure=SELECT)
    run.write_json(folder / "ablation.json", result)
    run.write_text(folder / "ablation.md", table)
    plots.ablation(folder / "ablation.png", result, measure=SELECT)
    print(f"\n{table}\nwrote   {folder}/ablation.json, .md, .png and one folder a run"
          f"\nnext    python build_index.py --run {folder / summaries[-1]['name']}")


if __name__ == "__main__":
    run.cli(main)
