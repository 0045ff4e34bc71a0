"""Run folders: their logs, locks, what they record and what may continue them; the clock."""

import contextlib
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time

import filelock
import torch

from lib import files
from lib.cli import non_default, plain, to_flags
from lib.files import BadInput, atomic_path, check_keys, read_json, reading, remove, remove_temporaries, write_json
from lib.process import at_end, hidden

RECORDED = {"args": dict, "derived": dict, "inputs": dict}  # what config.json of a run holds, besides
LOCK = ".lock"  # in a run's folder while a process writes there
LOGS = ("metrics.jsonl", "timing.jsonl")
_LOCKS = {}  # folder -> its lock
ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = (  # whose versions a run records
    "torch transformers sentence-transformers tokenizers faiss-cpu numpy scipy scikit-learn matplotlib bm25s "
    "ir_measures pytrec_eval-terrier tqdm safetensors huggingface-hub"
).split()


class Run:
    """A folder that records one command: config.json first, metrics.jsonl line by line, summary.json last.

    metrics.jsonl holds only what the seed determines; what the clock says goes to timing.jsonl, so that two
    runs of one configuration can be compared byte for byte. With several processes only the one that `writes`
    touches the disk.
    """

    def __init__(self, path, *, writes=True):
        self.path, self.writes = pathlib.Path(path), writes

    @classmethod
    def create(cls, path, *, overwrite, resume=False, changed_code=False, writes=True, config):
        """Make the folder and write config.json.

        A folder that already holds something is refused, unless `overwrite` replaces it or `resume` continues
        it, which only the same settings on the same inputs may, and other code only with `changed_code`.
        """
        created = cls(path, writes=writes)
        if not writes:
            return created
        created.path.mkdir(parents=True, exist_ok=True)
        lock(created.path)  # before anything is moved: another process may be at work there
        created.put_back()  # what a killed --overwrite had set aside
        remove_temporaries(created.path)
        lock(created.path)
        if resume and (created.path / "config.json").exists():
            begun = read_json(created.path / "config.json", **RECORDED)
            refuse_changes(begun, config, path)
            resumed = begun.get("resumed_with", [])
            if changed := changes_of_code([begun, *resumed][-1], config):
                if not changed_code:
                    raise BadInput(
                        f"{path} was begun with other code ({changed}): --changed_code resumes it all the same"
                    )
                begun["resumed_with"] = [*resumed, {key: config[key] for key in ("source", "code", "versions")}]
            # a comparison may be continued with other arms and seeds: its table is then of those
            begun["args"] |= {
                key: config["args"][key] for key in ("negatives", "seeds", "grid") if key in config["args"]
            }
            write_json(created.path / "config.json", begun)
            return created
        if any(each.name != LOCK for each in created.path.iterdir()):
            if not overwrite and resume:
                raise BadInput(f"{path} has no config.json to resume: choose another --name, or --overwrite it")
            if not overwrite:
                raise BadInput(f"{path} is not empty: choose another --name, --overwrite or --resume it")
            if not (created.path / "config.json").exists():
                raise BadInput(f"{path} is no run of ours (no config.json): choose another --name")
            created._set_aside()
        write_json(created.path / "config.json", config)
        return created

    @property
    def _aside(self):
        return self.path.with_name(f".{self.path.name}.replaced")

    def _set_aside(self):
        """Keep what --overwrite replaces until the new run has a checkpoint."""
        remove(self._aside)
        os.replace(self.path, self._aside)
        self.path.mkdir()
        lock(self.path)
        at_end(self.put_back)

    def put_back(self):
        """Bring back what was set aside, unless what took its place has a checkpoint; nothing without either."""
        if self.writes and self._aside.exists():
            if any(
                any(self.path.rglob(name)) for name in ("state.pt", "summary.json")
            ):  # its own, or those of its runs
                remove(self._aside)
            else:
                remove(self.path)
                os.replace(self._aside, self.path)

    def log(self, event, record, *, file="metrics.jsonl"):
        """Append one object as one line; its `event` tells the kinds of lines apart."""
        if self.writes:
            with open(self.path / file, "a", encoding="utf-8") as out:
                out.write(json.dumps({"event": event} | record) + "\n")

    def read_log(self, file="metrics.jsonl"):
        """Every object logged so far."""
        path = self.path / file
        found = []
        for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
            with reading(f"{path}:{number}"):
                found.append(json.loads(line))
            check_keys(found[-1], f"{path}:{number}", event=str)
        return found

    def save_state(self, parts, values):
        """Write state.pt: the state_dict() of each of `parts`, plain `values`, and how long the logs were."""
        if not self.writes:
            return
        sizes = {name: (self.path / name).stat().st_size for name in LOGS if (self.path / name).exists()}
        state = {"parts": {name: part.state_dict() for name, part in parts.items()}}
        with atomic_path(self.path / "state.pt") as temporary:
            torch.save(state | {"values": values, "log_sizes": sizes}, temporary)
        remove(self._aside)

    def load_state(self, parts):
        """Put the parts back as state.pt has them, cut the logs to match; returns the values, or None."""
        path = self.path / "state.pt"
        state = None
        if path.exists():
            with reading(path, ", which the run is resumed from"):
                state = torch.load(path, weights_only=True, map_location="cpu")
            check_keys(state, path, parts=dict, values=dict, log_sizes=dict)
        sizes = dict.fromkeys(LOGS, 0) | (state["log_sizes"] if state else {})
        there = {log: log.stat().st_size if log.exists() else 0 for log in map(self.path.joinpath, sizes)}
        for log, size in zip(there, sizes.values()):
            if log.exists() and not log.is_file():
                raise BadInput(f"{log}: is no file")
            if there[log] < size and self.writes:
                raise BadInput(f"{log} has {there[log]} bytes and had {size} at the last checkpoint: lines are missing")
        if state is not None:
            with reading(path, ", which the run is resumed from"):
                for name, part in parts.items():
                    part.load_state_dict(state["parts"][name])
        for log, size in zip(there, sizes.values()):  # nothing is cut before all has been read
            if there[log] > size and self.writes:
                os.truncate(log, size)
        return state and state["values"]

    def finish(self, summary):
        """Write summary.json, which marks the run as whole, and drop what only an interrupted one needs."""
        write_json(self.path / "summary.json", summary)
        (self.path / "state.pt").unlink(missing_ok=True)
        remove(self._aside)


def lock(folder):
    """Keep other processes from writing to a run's folder, until this one ends; BadInput if one is there already.

    The lock is the kernel's: it goes with the process, however that ends.
    """
    if folder in _LOCKS:
        _LOCKS.pop(folder).release()
    else:
        at_end(lambda: _unlock(folder))
    _LOCKS[folder] = _locked(folder)


def _unlock(folder):
    if held := _LOCKS.pop(folder, None):
        (folder / LOCK).unlink(missing_ok=True)
        held.release()


def refuse_locked(folder):
    """BadInput if another process is writing to a run's folder; there may be no such folder."""
    if (folder / LOCK).exists():
        _locked(folder).release()


def _locked(folder):
    held = filelock.FileLock(folder / LOCK, timeout=0, is_singleton=False, thread_local=False)
    try:
        return held.acquire().lock
    except filelock.Timeout:
        raise BadInput(f"{folder}: another process is writing there; wait for it, or choose another --name") from None


def refuse_changes(then, now, path):
    """BadInput if a run is to be resumed with other settings or on other inputs than it began with."""
    # a run's own arm and seed are among the derived numbers
    free = "overwrite resume changed_code name negatives seeds grid tune jobs processes until race".split()
    for part in ("args", "inputs", "derived"):
        for key in then[part].keys() | now[part].keys():
            old, new = then[part].get(key), now[part].get(key)
            if old != new and not (part == "args" and key in free):
                raise BadInput(f"{path} was begun with {key} {old}, now it is {new}: resume with what it began with")


def run_path(name):
    """runs/NAME; BadInput if the name leads out of runs/ or is one of our own."""
    if any(part[:1] in ("", ".") for part in name.split("/")):  # with a dot begins what we set aside
        raise BadInput(f"--name {name}: a folder below runs/, such as first-try, no part of which begins with a dot")
    return pathlib.Path("runs") / name


def recorded(folder):
    """config.json of a run folder; BadInput if there is no run."""
    path = pathlib.Path(folder) / "config.json"
    if not path.exists():
        raise BadInput(f"{folder}: no run of train.py (no config.json)")
    return read_json(path, args=dict)


def record(args, parser, *, derived, inputs):
    """config.json: arguments, derived numbers, fingerprints of inputs, versions, source, command line."""

    def shown(value):
        if isinstance(value, list):
            return [shown(each) for each in value]
        return hidden(value) if isinstance(value, str) else value

    arguments, changed = (
        {name: shown(plain(value)) for name, value in values.items()}
        for values in (vars(args), non_default(args, parser))
    )
    return {
        "args": arguments,
        "non_default": changed,
        "derived": derived,
        "inputs": inputs,
        "versions": versions(),
        "source": source_state(),
        "code": code(),
        "argv": hidden(shlex.join(sys.argv)),
    }


def recorded_flags(path, *, without):
    """The command line of a recorded run, for --config; prints what differs here: versions, source."""
    config = read_json(path, args=dict, derived=dict, versions=dict, source=(dict, type(None)))
    here = versions()
    for name in sorted(config["versions"].keys() | here.keys()):
        then, now = config["versions"].get(name), here.get(name)
        if then != now:
            print(f"--config: {name} was {then}, here it is {now}")
    if config["source"] != source_state():
        print("--config: the source differs from what it was then")
    return to_flags({name: value for name, value in config["args"].items() if name not in without})


@functools.cache
def versions():
    """Versions of Python and of every required package that is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def code():
    """{path: fingerprint} of the scripts and of lib, whether there is git or not."""
    paths = sorted([*ROOT.glob("*.py"), *(ROOT / "lib").rglob("*.py")])
    return {path.relative_to(ROOT).as_posix(): files.fingerprint_file(path) for path in paths}


def changes_of_code(then, now, most=3):
    """What differs in code and versions between two records, on one line; empty where nothing does."""
    found = []
    for part in ("code", "versions"):
        old, new = then.get(part, {}), now.get(part, {})
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                found.append(name if part == "code" else f"{name} {old.get(name)}, now {new.get(name)}")
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def source_state():
    """The commit that the scripts stand at and the patch of later edits; None outside a git checkout."""

    def git(*command):
        done = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True, errors="replace")
        return done.stdout if done.returncode == 0 else None

    try:
        commit = git("rev-parse", "HEAD")
    except FileNotFoundError:
        return None
    return commit and {"commit": commit.strip(), "patch": git("diff", "HEAD", "--", "*.py")}


def peak_rss_mb():
    """The largest resident size that this process has had, in MB; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
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
