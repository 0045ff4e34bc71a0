"""Run folders, configuration records, metric logs, counter-based randomness, fingerprints, atomic writes."""
import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import time

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "tokenizers", "faiss-cpu", "numpy", "scipy", "scikit-learn",
            "matplotlib", "bm25s", "ir_measures", "pytrec_eval-terrier", "tqdm", "safetensors",
            "huggingface-hub")


class BadInput(ValueError):
    """A mistake in the user's files or flags. The message names place, value and fix, on one line."""


def cli(main):
    """Run `main()`; a user's mistake ends in one line and exit code 2, an interrupt in exit code 130."""
    try:
        main()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: what was reported as written is whole; train.py continues with --resume",
              file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output left (`| head`); our files were not affected
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ---------------------------------------------------------------------------------------------------- files

@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary sibling of `path` (file or folder) that takes its place if the block succeeds."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        yield temporary
        if temporary.is_dir() and path.exists():  # os.replace refuses a folder that is not empty
            discarded = path.parent / f".{path.name}.{os.getpid()}.old"
            os.replace(path, discarded)
            os.replace(temporary, path)
            remove(discarded)
        else:
            os.replace(temporary, path)
    finally:
        remove(temporary)


def remove(path):
    """Delete a file or a folder with all that it holds; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path):
    """The value of a JSON file; BadInput if it is missing or broken."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BadInput(f"{path}: not valid JSON ({error})") from None


def cache_dir(*parts):
    """A folder for what can be computed again: $HARDNEG_CACHE, else ~/.cache/hardneg."""
    base = os.environ.get("HARDNEG_CACHE") or pathlib.Path.home() / ".cache" / "hardneg"
    return pathlib.Path(base).joinpath(*parts)


# -------------------------------------------------------------------------------------------- fingerprints

def fingerprint(*values):
    """16 hex digits over any mix of strings, bytes, arrays and JSON values, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode())
            value = np.ascontiguousarray(value).view(np.uint8).reshape(-1).data
        elif not isinstance(value, bytes):
            value = json.dumps(value, sort_keys=True).encode()
        digest.update(str(len(value)).encode() + b":")
        digest.update(value)
    return digest.hexdigest()


def fingerprint_file(path):
    """16 hex digits over a file's bytes: its name and date play no part."""
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------- randomness

def mix(x):
    """The splitmix64 finaliser: uint64 array -> uint64 array (Steele, Lea & Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(*key):
    """Uniform numbers in [0, 1) as a pure function of `key`: integers and integer arrays, broadcast together.

    `uniform(seed, epoch, rows[:, None], np.arange(K))` is (n, K), and each number depends on nothing but its
    own key: not on the batch, the process or the order of calls. A string names a stream, so that two uses
    never share numbers.
    """
    with np.errstate(over="ignore"):
        state = np.uint64(0x9E3779B97F4A7C15)
        for part in key:
            if isinstance(part, str):
                part = int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "little")
            part = np.asarray(part)
            part = part.astype(np.uint64) if part.dtype != np.int64 else part.view(np.uint64)
            state = mix((state + np.uint64(0x9E3779B97F4A7C15)) ^ mix(part + np.uint64(0x9E3779B97F4A7C15)))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0 ** -53


def stream(*key):
    """A 53-bit seed for another library's generator, as a pure function of `key`."""
    return int(uniform(*key) * 2.0 ** 53)


def permutation(n, *key):
    """A permutation of range(n) as a pure function of `key`."""
    return np.argsort(uniform(*key, np.arange(n)), kind="stable")


# ---------------------------------------------------------------------------------------------- run folders

class Run:
    """A folder that records one command: config.json first, metrics.jsonl line by line, summary.json last.

    metrics.jsonl holds only what the seed determines; what the clock says goes to timing.jsonl, so that two
    runs of one configuration can be compared byte for byte. With several processes only the one that `writes`
    touches the disk.
    """

    def __init__(self, path, *, writes=True):
        self.path, self.writes = pathlib.Path(path), writes

    @classmethod
    def create(cls, path, *, overwrite, resume=False, writes=True, config):
        """Make the folder and write config.json.

        A folder that already holds something is refused, unless `overwrite` replaces it or `resume` continues
        it, which only the same settings on the same inputs may.
        """
        run = cls(path, writes=writes)
        if not writes:
            return run
        if resume and (run.path / "config.json").exists():
            begun = read_json(run.path / "config.json")
            refuse_changes(begun, config, path)
            # a comparison may be continued with other arms and seeds: its table is then of those
            begun["args"] |= {key: config["args"][key] for key in ("negatives", "seeds")
                              if key in config["args"]}
            write_json(run.path / "config.json", begun)
            return run
        if run.path.exists() and any(run.path.iterdir()):
            if not overwrite:
                raise BadInput(f"{path} is not empty: choose another --name, --overwrite or --resume it")
            if not (run.path / "config.json").exists():
                raise BadInput(f"{path} is no run of ours (no config.json): choose another --name")
            for name in ("summary.json", "config.json"):  # a half-deleted run must not look whole
                (run.path / name).unlink(missing_ok=True)
            shutil.rmtree(run.path)
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.path / "config.json", config)
        return run

    def log(self, record, *, file="metrics.jsonl"):
        """Append one object as one line."""
        if self.writes:
            with open(self.path / file, "a", encoding="utf-8") as out:
                out.write(json.dumps(record) + "\n")

    def read_log(self, file="metrics.jsonl"):
        """Every object logged so far."""
        path = self.path / file
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def save_state(self, parts, values):
        """Write state.pt: the state_dict() of each of `parts`, plain `values`, and how long the logs were."""
        if not self.writes:
            return
        sizes = {path.name: path.stat().st_size for path in self.path.glob("*.jsonl")}
        with atomic_path(self.path / "state.pt") as temporary:
            torch.save({"parts": {name: part.state_dict() for name, part in parts.items()}, "values": values,
                        "log_sizes": sizes}, temporary)

    def load_state(self, parts):
        """Put the parts back as state.pt has them, cut the logs to match; returns the values, or None."""
        path = self.path / "state.pt"
        state = torch.load(path, weights_only=True, map_location="cpu") if path.exists() else None
        if self.writes:
            for log in self.path.glob("*.jsonl"):
                os.truncate(log, state["log_sizes"].get(log.name, 0) if state else 0)
        if state is None:
            return None
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        return state["values"]

    def finish(self, summary):
        """Write summary.json, which marks the run as whole, and drop what only an interrupted one needs."""
        write_json(self.path / "summary.json", summary)
        (self.path / "state.pt").unlink(missing_ok=True)


def refuse_changes(then, now, path):
    """BadInput if a run is to be resumed with other settings or on other inputs than it began with."""
    # a run's own arm and seed are among the derived numbers
    free = {"overwrite", "resume", "name", "negatives", "seeds"}
    for part in ("args", "inputs", "derived"):
        for key in then[part].keys() | now[part].keys():
            old, new = then[part].get(key), now[part].get(key)
            if old != new and not (part == "args" and key in free):
                raise BadInput(f"{path} was begun with {key} {old}, now it is {new}: "
                               "resume with what it began with")


def run_path(name):
    """runs/NAME; BadInput if the name leads out of runs/."""
    if {"", ".", ".."} & set(name.split("/")):
        raise BadInput(f"--name {name}: a folder below runs/, such as first-try")
    return pathlib.Path("runs") / name


def parser(doc):
    """An argument parser that shows a script's docstring as it stands and completes no abbreviation."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
                                   allow_abbrev=False)


def recorded(folder):
    """config.json of a run folder; BadInput if there is no run."""
    path = pathlib.Path(folder) / "config.json"
    if not path.exists():
        raise BadInput(f"{folder}: no run of train.py (no config.json)")
    return read_json(path)


def non_default(args, parser):
    """The flags that differ from the parser's defaults: what a reader of a run wants first."""
    return {name: value for name, value in vars(args).items() if value != parser.get_default(name)}


def record(args, parser, *, derived, inputs):
    """config.json: arguments, derived numbers, fingerprints of inputs, versions, source, command line."""
    return {"args": vars(args), "non_default": non_default(args, parser), "derived": derived,
            "inputs": inputs, "versions": versions(), "source": source_state(), "argv": shlex.join(sys.argv)}


def versions():
    """Versions of Python and of every required package that is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def source_state():
    """The commit that the scripts stand at and the patch of later edits; None outside a git checkout."""
    def git(*command):
        done = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True,
                              errors="replace")
        return done.stdout if done.returncode == 0 else None
    try:
        commit = git("rev-parse", "HEAD")
    except FileNotFoundError:
        return None
    return commit and {"commit": commit.strip(), "patch": git("diff", "HEAD", "--", "*.py")}


def print_header(title, args, parser, derived):
    """Print what was asked for that is not the default, and the numbers that follow from it."""
    print(f"== {title}")
    for name, value in non_default(args, parser).items():
        print(f"   --{name} {' '.join(map(str, value)) if isinstance(value, list) else value}")
    for name, value in derived.items():
        print(f"   {name} = {value}")


def peak_rss_mb():
    """The largest resident size that this process has had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)  # macOS counts bytes, Linux KiB


class Clock:
    """Seconds spent since it was made and, by name, inside `with clock("mine"):` blocks."""

    def __init__(self):
        self.start, self.spent = time.perf_counter(), {}

    @contextlib.contextmanager
    def __call__(self, name):
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - begin

    def state_dict(self):
        """Seconds so far, for a run that is continued later."""
        return {"total": self.total(), "spent": dict(self.spent)}

    def load_state_dict(self, state):
        """Count on from what state_dict() returned."""
        self.start = time.perf_counter() - state["total"]
        self.spent = dict(state["spent"])

    def total(self):
        """Seconds since the clock was made."""
        return time.perf_counter() - self.start
