"""The flags of train.py together: what goes with what, what an arm may change, what a record says."""
import argparse

from lib import filters, negatives, run
from lib.run import BadInput

# what an arm may change; the rest (batch, steps, encoder, order of queries) is the same for all arms
ARM_FLAGS = ("lr", "temperature", "terms", "hardness", "label_smoothing", "debias", "mask_margin", "guide",
             "guide_margin", "triplet_margin", "dims", "distill", "distill_weight", "depth", "choice",
             "filters", "pool", "positive", "refresh_every", "refresh_overlap", "refresh_lag", "seed_shift")
TRANSFORMER_ONLY = ("pooling", "normalize", "query_prefix", "doc_prefix", "query_length", "doc_length",
                    "projection", "separate_towers", "from_config", "lora", "dropout",
                    "gradient_checkpointing", "precision", "compile")


def check_args(args, given):
    """BadInput if the arguments do not make sense together; `given` are those that are not the default."""
    if unused := [name for name in TRANSFORMER_ONLY if name in given and args.encoder == "static"]:
        raise BadInput(f"--{unused[0]} does nothing for --encoder static: leave it out")
    if unused := [name for name in ("dim", "vocab_size") if name in given and args.encoder != "static"]:
        raise BadInput(f"--{unused[0]} shapes a new static encoder: leave it out here")
    if args.triplet_margin is not None:
        if unused := [name for name in ("terms", "hardness", "label_smoothing", "debias") if name in given]:
            raise BadInput(f"--{unused[0]} plays no part with --triplet_margin")
    if args.debias and args.label_smoothing:
        raise BadInput("--label_smoothing plays no part with --debias")
    if args.guide_margin and not args.guide:
        raise BadInput("--guide_margin needs --guide")
    for name in ("batch_size", "chunk_size", "depth", "dim", "log_every", "eval_every", "refresh_every",
                 "steps", "lr", "temperature", "epochs", "vocab_size", "projection", "lora", "query_length",
                 "doc_length", "pool", "topics"):
        if getattr(args, name) is not None and getattr(args, name) <= 0:
            raise BadInput(f"--{name} {getattr(args, name)}: must be above 0")
    for name in ("ema", "warmup", "label_smoothing", "debias", "dropout"):
        if not 0 <= (getattr(args, name) or 0) < 1:
            raise BadInput(f"--{name} {getattr(args, name)}: at least 0 and below 1")
    if not 0 <= args.distill_weight <= 1:
        raise BadInput(f"--distill_weight {args.distill_weight}: between 0 and 1")
    list(map(filters.parse_filter, args.filters))
    filters.parse_choice(args.choice)
    if args.refresh_overlap is not None and not 0 < args.refresh_overlap <= 1:
        raise BadInput(f"--refresh_overlap {args.refresh_overlap}: above 0 and at most 1")
    if args.refresh_lag < 0:
        raise BadInput(f"--refresh_lag {args.refresh_lag}: at least 0")
    stages = [dict(stage.parts) for arm in args.negatives for stage in negatives.parse_arm(arm)]
    if args.distill_weight and not all("file" in stage for stage in stages):
        raise BadInput("--distill_weight needs file:K in every stage: it has the teacher's scores")


def check_file(args):
    """BadInput if an arm draws from a file that is not given, or a file is given that no arm draws from."""
    if any("file" in negatives.arm_sources(arm) for arm in args.negatives) != bool(args.negatives_file):
        raise BadInput("the source file:K and --negatives_file F come together: "
                       "F holds what file:K draws from")


def arm_args(args, parser, arm):
    """The arguments of one arm: `refresh:4 temperature=.03 filters=percpos:.95,near_copy:.8` changes two."""
    changed = argparse.Namespace(**vars(args) | {"negatives": [arm]})
    for item in arm.split()[1:]:
        name, _, value = item.partition("=")
        if name not in ARM_FLAGS or not value:
            raise BadInput(f"--negatives {arm!r}: {item} is no flag=value of an arm; "
                           f"it may change {', '.join(ARM_FLAGS)}")
        values = value.split(",") if name in ("filters", "terms", "dims") else [value]
        setattr(changed, name, getattr(parser.parse_args([f"--{name}", *values]), name))
    check_args(changed, run.non_default(changed, parser))
    return changed


def recorded_arguments(path):
    """The arguments of a recorded run, for --config; prints what differs here: versions, source."""
    config = run.read_json(path)
    for part in ("args", "derived", "versions"):
        if part not in config:
            raise BadInput(f"{path}: no config.json of a run ({part} is missing)")
    here = run.versions()
    for name in sorted(config["versions"].keys() | here.keys()):
        then, now = config["versions"].get(name), here.get(name)
        if then != now:
            print(f"--config: {name} was {then}, here it is {now}")
    if config["source"] != run.source_state():
        print("--config: the source differs from what it was then")
    arguments = {name: value for name, value in config["args"].items()
                 if name not in ("name", "overwrite", "resume", "config", "aa")}
    if "arm" in config["derived"]:  # one run of several
        arguments |= {"negatives": [config["derived"]["arm"]], "steps": config["derived"]["steps"],
                      "seeds": [config["derived"]["seed"]]}
    return arguments
