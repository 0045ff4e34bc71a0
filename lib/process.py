"""A script as a process: how it ends, what it prints and what it never shows, and the processes that it starts."""

import contextlib
import errno
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time

import torch
from tqdm import tqdm

from lib.files import BadInput

OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR,
               errno.ENAMETOOLONG, errno.EFBIG, errno.EIO}  # fmt: skip
NO_MEMORY = "allocate memory"  # in what torch raises where there is not enough
SECRETS = ("OPENAI_API_KEY", "HF_TOKEN")  # variables of the environment whose values are never shown
PARENT = "HARDNEG_PARENT"  # the variable that holds the process that this one ends with
EVERY = 60  # seconds from one line of progress to the next where there is no terminal
_AT_END = []


def cli(main):
    """Run `main()`; a user's mistake ends in one line and exit code 2, a signal in 128 and its number."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Output, streams)
    bars = tqdm.__init__
    if not sys.stderr.isatty():
        tqdm.__init__ = _lines(bars)
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
        while _AT_END:
            _AT_END.pop()()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr, tqdm.__init__ = *streams, bars
        for ending, handler in handlers.items():
            signal.signal(ending, handler)


def at_end(function):
    """Call function() when the script ends, however it ends; the last one that was asked for is the first."""
    _AT_END.append(function)


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
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ and os.getppid()
    if parents := [int(each) for each in (pid, os.environ.get(PARENT), torchrun) if each]:
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


class _Lines:
    """What a progress bar writes, as whole lines."""

    def write(self, text):
        """Write what is more than blanks and returns."""
        if text := text.replace("\x1b[A", "").strip():
            sys.stderr.write(f"{text}\n")

    def flush(self):
        """Flush."""
        sys.stderr.flush()


def _lines(init):
    """tqdm.__init__ for a log instead of a terminal: a line a minute, from the second minute on."""

    def of_a_log(self, *args, **kwargs):
        often = {"mininterval": EVERY, "maxinterval": EVERY, "delay": EVERY, "leave": False, "file": _Lines()}
        init(self, *args[:3], **kwargs | often)  # items, what they are, how many

    return of_a_log


def _end_bars():
    """Leave the line of a progress bar: what is printed next begins a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def hidden(text, *, shortest=8):
    """`text` without what is secret: the values of SECRETS, and name and password in addresses.

    What is shorter stands for a key where a server wants none, such as `test`, and is a word like any other.
    """
    text = str(text)
    for key in (os.environ.get(name, "").strip() for name in SECRETS):
        if len(key) >= shortest:  # in the host of an address without its capitals, in JSON perhaps as a\/b
            text = re.sub(re.escape(key).replace("/", r"\\?/"), "***", text, flags=re.IGNORECASE)
    return re.sub(r'(:\\?/\\?/)[^/\s"]*@', r"\1***@", text)


def printable(text):
    """hidden(), without what a terminal would obey: docs, ids and names may hold escape sequences."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in hidden(text))


def one_line(text, most=2000):
    """printable(), on one line and not endless: messages quote what files hold."""
    line = " ".join(printable(text).split())
    return line if len(line) <= most else f"{line[:most]} ..."


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
