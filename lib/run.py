"""The command line, run folders and their logs, configuration records, the clock."""

import argparse
import contextlib
import dataclasses
import errno
import fcntl
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import resource
import select
import shlex
import signal
import subprocess
import sys
import threading
import time

import torch
from tqdm import tqdm

from lib import files
from lib.files import BadInput, atomic_path, check_keys, read_json, reading, remove, remove_temporaries, write_json

OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR,
               errno.ENAMETOOLONG, errno.EFBIG, errno.EIO}  # fmt: skip
RECORDED = {"args": dict, "derived": dict, "inputs": dict}  # what config.json of a run holds, besides
NO_MEMORY = "allocate memory"  # in what torch raises where there is not enough
LOCK = ".lock"  # in a run's folder while a process writes there
SECRETS = ("OPENAI_API_KEY", "HF_TOKEN")  # variables of the environment whose values are never shown
PARENT = "HARDNEG_PARENT"  # the variable that holds the process that this one ends with
LOGS = ("metrics.jsonl", "timing.jsonl")
_LOCKS, _SET_ASIDE = {}, []  # folder -> the open lock; runs whose predecessor is set aside
ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "faiss-cpu",
    "numpy",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "bm25s",
    "ir_measures",
    "pytrec_eval-terrier",
    "tqdm",
    "safetensors",
    "huggingface-hub",
)


def cli(main):
    """Run `main()`; a user's mistake ends in one line and exit code 2, a signal in 128 and its number."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Output, streams)
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for ending in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(ending) is signal.SIG_DFL:  # nohup ignores one of them, and is right
                handlers[ending] = signal.signal(ending, _stop)
    try:
        end_with_parent()
        main()
    except BadInput as error:
        _end_bars()
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be written to: the user's to mend, not ours
        if error.errno not in OF_THE_DISK:
            raise
        _end_bars()
        place = error.filename or "the disk"
        print(f"error: {one_line(place)}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and NO_MEMORY not in str(error):
            raise
        _end_bars()
        print(f"error: out of memory ({one_line(error, 200)}): take smaller sizes", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, Stopped) as error:
        _end_bars()
        print("interrupted: what was reported as written is whole; train.py continues with --resume", file=sys.stderr)
        sys.exit(128 + (error.args[0] if isinstance(error, Stopped) else signal.SIGINT))
    finally:
        for run in _SET_ASIDE:
            run.put_back()
        for folder, file in _LOCKS.items():
            (folder / LOCK).unlink(missing_ok=True)
            file.close()
        _SET_ASIDE.clear()
        _LOCKS.clear()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = streams
        for ending, handler in handlers.items():
            signal.signal(ending, handler)


class Stopped(BaseException):
    """A signal asks this process to end: what is open is closed, as with an interrupt."""


def _stop(number, _):
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)  # once is enough: what is being closed is not disturbed
    raise Stopped(number)


def start(command, *, env=(), **how):
    """A process of ours that ends with this one, however this one ends; how: of subprocess.Popen."""
    return subprocess.Popen(command, env=os.environ | dict(env) | {PARENT: str(os.getpid())}, **how)


def end_with_parent(pid=None):
    """End this process, at once, when the one that started it has ended; what is on the disk is whole at any moment.

    That is `pid`, or who start() says that it is, also where torchrun stands between the two, and torchrun.
    """
    parents = [int(each) for each in (pid, os.environ.get(PARENT), "RANK" in os.environ and os.getppid()) if each]
    if parents:
        threading.Thread(target=_watch, args=(parents,), daemon=True).start()


def _watch(parents):
    try:
        ends = select.poll()
        for pid in parents:
            ends.register(os.pidfd_open(pid))
        ends.poll()
    except ProcessLookupError:
        pass
    except (OSError, AttributeError):  # a system without pidfd_open
        with contextlib.suppress(ProcessLookupError):
            while True:
                for pid in parents:
                    os.kill(pid, 0)
                time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _end_bars():
    """Leave the line of a progress bar: what is printed next begins a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def hidden(text):
    """`text` without what is secret: the values of SECRETS, and name and password in addresses."""
    text = str(text)
    for key in filter(None, (os.environ.get(name, "").strip() for name in SECRETS)):
        if len(key) < 8:  # none, x: no secret inside a word
            text = re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", "***", text)
        else:  # the host of an address loses its capitals
            text = re.sub(re.escape(key), "***", text, flags=re.IGNORECASE)
    return re.sub(r'(?<=://)[^/\s"]*@', "***@", text)


def printable(text):
    """hidden(), without what a terminal would obey: docs, ids and names may hold escape sequences."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in hidden(text))


def one_line(text, most=2000):
    """printable(), on one line and not endless: messages quote what files hold."""
    line = " ".join(printable(text).split())
    return line if len(line) <= most else f"{line[:most]} ..."


def quoted(path):
    """A path or name for a shell: what is printed as the next command can be pasted."""
    return shlex.quote(str(path))


class _Output:
    """A stream that outlives its reader: a training does not end because `| head` has left."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        """Write, without secrets, or do nothing where nobody reads."""
        text = hidden(text)
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            return self._leave()
        except UnicodeEncodeError:  # a terminal that is not UTF-8
            return self._stream.write(text.encode(self._stream.encoding, "replace").decode(self._stream.encoding))

    def flush(self):
        """Flush, or do nothing where nobody reads."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave()

    def _leave(self):
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


# --------------------------------------------------------------------------------------------- command line


class Parser(argparse.ArgumentParser):
    """An argument parser that shows a script's docstring as it stands and completes no abbreviation.

    A mistake raises BadInput. Flags know whether an arm of a comparison may change them (`per_arm`) and
    whether they are for one kind of encoder only (`only`).
    """

    def __init__(self, doc):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message):
        """BadInput instead of argparse's usage text: `--batch_size 0: must be above 0`."""
        message = re.sub(r"^argument (--\w+)(/--\w+)*: (?=invalid|expected)", r"\1: ", message)
        raise BadInput(re.sub(r"^argument (--\w+)(/--\w+)*: ", r"\1 ", message))

    def parse_args(self, *args, **kwargs):
        """The arguments; BadInput for a text that is empty and may not be, or that no file can be called by."""
        found = super().parse_args(*args, **kwargs)
        for name, value in vars(found).items():
            texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
            if "" in texts and value != self.get_default(name) and not name.endswith("prefix"):
                raise BadInput(f"--{name}: is empty; leave it out or give it a value")
            if any("\0" in text or any("\ud800" <= c <= "\udfff" for c in text) for text in texts):
                raise BadInput(f"--{name} {texts[0]!r}: holds a NUL or bytes that are not UTF-8")
        return found

    def group(self, title, *, per_arm=False, only=None):
        """The add_argument() of a new group, whose flags an arm may change or are for one kind of encoder."""
        group = self.add_argument_group(title)

        def add(*names, per_arm=per_arm, **options):
            action = group.add_argument(*names, **options)
            action.per_arm, action.only = per_arm, only

        return add

    def flags(self, **wanted):
        """{name: action} of the flags with these attributes: flags(per_arm=True), flags(only="static")."""
        return {
            action.dest: action
            for action in self._actions
            if all(getattr(action, name, None) == value for name, value in wanted.items())
        }

    def value_of(self, name, text):
        """The value of a flag that an arm may change, checked by the flag's own type; lists have commas."""
        allowed = self.flags(per_arm=True)
        if name not in allowed or not text:
            raise BadInput(f"{name}={text} is no flag=value of an arm; it may change {', '.join(allowed)}")
        if not allowed[name].nargs:
            return getattr(self.parse_args([f"--{name}={text}"]), name)
        values = text.split(",")
        if odd := [value for value in values if value.startswith("-")]:  # would be read as a flag
            raise BadInput(f"--{name} {odd[0]}: a value of a list does not begin with -")
        return getattr(self.parse_args([f"--{name}", *values]), name)


def number(kind, *, above=-math.inf, least=-math.inf, below=math.inf, most=math.inf):
    """A type for argparse: a finite int or float within limits."""
    noun = {int: "a whole number", float: "a number"}[kind]

    def convert(text):
        try:
            value = kind(text)
            finite = math.isfinite(value)
        except (ValueError, OverflowError):
            finite = False
        if not finite:
            raise BadInput(f"{text}: must be {noun}")
        for fits, limit in (
            (value > above, f"above {above:g}"),
            (value >= least, f"at least {least:g}"),
            (value < below, f"below {below:g}"),
            (value <= most, f"at most {most:g}"),
        ):
            if not fits:
                raise BadInput(f"{text}: must be {limit}")
        return value

    return convert


COUNT = number(int, least=1, below=1 << 53)  # of queries, docs, steps
DIM = number(int, least=1, most=1 << 16)
DEPTH = number(int, least=1, most=1_000_000)
ABOVE_0 = number(float, above=0)
AT_LEAST_0 = number(float, least=0)
BELOW_1 = number(float, least=0, below=1)  # shares and decays that must leave something
SHARE = number(float, least=0, most=1)
SEED = number(int, least=0, below=1 << 53)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A row of a table with its numbers; `text` is how it was written, as in percpos:0.95."""

    text: str
    name: str
    numbers: tuple


def choice(table):
    """A type for argparse: name:number:number -> a Choice among the rows of a table.

    A row has `numbers` {letter: limits of number(), with int as the `kind` of whole ones and maybe a `default`}.
    """

    def convert(text):
        name, *given = text.split(":")
        if name not in table:
            raise BadInput(f"{text}: {name!r} is none of {usage(table)}")
        wanted = table[name].numbers
        values = [limits.get("default") for limits in wanted.values()]
        if len(given) > len(wanted) or None in values[len(given) :]:
            raise BadInput(f"{text}: write {':'.join([name, *wanted])}, with a number for each letter")
        for i, (number_text, limits) in enumerate(zip(given, wanted.values())):
            limits = {key: limit for key, limit in limits.items() if key not in ("kind", "default")}
            try:
                values[i] = number(list(wanted.values())[i].get("kind", float), **limits)(number_text)
            except BadInput as error:
                raise BadInput(f"{text}: {error}") from None
        return Choice(text, name, tuple(values))

    return convert


def usage(table):
    """The names of a table's rows with letters for their numbers, as in simans:A:B, uniform."""
    return ", ".join(":".join([name, *row.numbers]) for name, row in table.items())


def explained(table):
    """usage() with what each row does, from the docstrings of their functions."""
    about = {name: " ".join(row.function.__doc__.split()).rstrip(".") for name, row in table.items()}
    return "; ".join(f"{':'.join([name, *row.numbers])}, {about[name]}" for name, row in table.items())


def plain(value):
    """A flag's value as JSON holds it: what was parsed from a text becomes that text again."""
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return getattr(value, "text", value)


def non_default(args, parser):
    """{name: value} of the flags that differ from the parser's defaults: what a reader of a run wants first."""
    return {name: value for name, value in vars(args).items() if value != parser.get_default(name)}


def to_flags(values):
    """A command line that gives these {name: value}: --name=value, --name value value, or --name alone."""
    flags = []
    for name, value in values.items():
        value = plain(value)
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)] if value else []
        elif value is True:
            flags.append(f"--{name}")
        elif value is not None and value is not False:
            flags.append(f"--{name}={value}")
    return flags


def print_header(title, args, parser, derived):
    """Print what was asked for that is not the default, and the numbers that follow from it."""
    print(f"== {title}")
    for name, value in non_default(args, parser).items():
        value = plain(value)
        print(f"   --{name} {' '.join(map(str, value)) if isinstance(value, list) else value}")
    for name, value in derived.items():
        print(f"   {name} = {value}")


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
        _SET_ASIDE.append(self)

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
        with atomic_path(self.path / "state.pt") as temporary:
            torch.save(
                {
                    "parts": {name: part.state_dict() for name, part in parts.items()},
                    "values": values,
                    "log_sizes": sizes,
                },
                temporary,
            )
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
        _LOCKS.pop(folder).close()
    _LOCKS[folder] = _locked(folder)


def refuse_locked(folder):
    """BadInput if another process is writing to a run's folder; there may be no such folder."""
    if (folder / LOCK).exists():
        _locked(folder).close()


def _locked(folder):
    file = open(folder / LOCK, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BadInput(f"{folder}: another process is writing there; wait for it, or choose another --name") from None
    return file


def refuse_changes(then, now, path):
    """BadInput if a run is to be resumed with other settings or on other inputs than it began with."""
    # a run's own arm and seed are among the derived numbers
    free = {"overwrite", "resume", "changed_code", "name", "negatives", "seeds", "grid", "tune", "jobs", "processes"}
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
    arguments, changed = (
        {name: json.loads(hidden(json.dumps(plain(value)))) for name, value in values.items()}
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
