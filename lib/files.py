"""Files: atomic writes, JSON, Markdown tables, the cache, fingerprints; and the error of a user's mistake."""

import argparse
import contextlib
import gzip
import hashlib
import json
import math
import os
import pathlib
import re
import secrets
import shutil
import zipfile
import zlib

import filelock
import numpy as np


class BadInput(argparse.ArgumentTypeError, ValueError):
    """A mistake in the user's files or flags. The message names place, value and fix, on one line.

    It is an ArgumentTypeError so that a function that reads a flag's text may raise it: argparse keeps the
    message of that class only.
    """


UNREADABLE = (OSError, ValueError, EOFError, LookupError, zipfile.BadZipFile)  # what reading a damaged array raises
FULL = 1 << 16  # bytes that must fit for a disk to have room
# a compressed file may unpack to so many times its size, and to so many bytes in any case: texts give 3 to 20 times
MOST_RATIO, MOST_UNPACKED = 200, 500_000_000


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary sibling of `path` (file or folder) that takes its place if the block succeeds."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{path.name}.{secrets.token_hex(4)}"  # process ids repeat, in containers and on other machines
    temporary, discarded = path.parent / f"{name}.tmp", path.parent / f"{name}.old.tmp"
    try:
        yield temporary
        if temporary.is_dir() and path.exists():  # os.replace refuses a folder that is not empty
            os.replace(path, discarded)
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(discarded, path)
                raise
        else:
            os.replace(temporary, path)
    except BadInput:
        raise
    except Exception as error:
        # libraries say all kinds of things when a disk, a quota or a limit is full: what they meant is said here
        named = re.search(r"\(os error (\d+)\)", str(error))  # as libraries in Rust say it
        number = getattr(error, "errno", None) or (int(named[1]) if named else _refusal(temporary))
        if number and not getattr(error, "filename", None):
            raise OSError(number, os.strerror(number), str(path)) from None
        raise
    finally:
        remove(temporary)
        remove(discarded)


def _refusal(path):
    """The errno with which the system refuses more of a file, or of a folder's files; None where it does not."""
    try:
        for each in [*path.rglob("*"), path / "more"] if path.is_dir() else [path]:
            if not each.is_dir():
                with open(each, "ab") as out:
                    out.write(bytes(FULL))
    except OSError as error:
        return error.errno


def remove_temporaries(folder):
    """Clear up behind processes that were killed within atomic_path(), in a folder and below it."""
    for path in sorted(folder.rglob(".*.old.tmp")):  # killed between the two moves: the old folder is all there is
        whole = path.with_name(path.name[1:].rsplit(".", 3)[0])
        if not whole.exists():
            os.replace(path, whole)
    for path in list(folder.rglob(".*.tmp")):
        remove(path)


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
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n")


def markdown(head, rows):
    """A table of texts in Markdown; rows that are short end in empty cells."""
    rows = [["---"] * len(head), *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, *rows])


def latex(head, rows, *, caption):
    """The same as a table for LaTeX, with booktabs."""

    def escape(text):
        plain = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", "/"))
        for sign, written in {"~": r"$\sim$", "^": r"\^{}", "<": "$<$", ">": "$>$", "±": r"$\pm$"}.items():
            plain = plain.replace(sign, written)
        return plain

    lines = [" & ".join(map(escape, [*row, *[""] * (len(head) - len(row))])) + r" \\" for row in [head, *rows]]
    begin = [r"\begin{table}", r"\centering", rf"\caption{{{escape(caption)}}}"]
    begin += [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule"]
    return "\n".join([*begin, lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _finite(value):
    """`value` with null for nan and inf, which JSON has no words for."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


LFS = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path):
    """BadInput if a file, or a file of weights in a folder, is what git keeps in place of one that was not fetched."""
    path = pathlib.Path(path)
    for file in sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]:
        if file.is_file() and file.stat().st_size < 1000 and file.read_bytes().startswith(LFS):
            raise BadInput(f"{file}: a Git LFS pointer, and not the file itself: git lfs pull, in its repository")


@contextlib.contextmanager
def reading(path, what=""):
    """Turn whatever a library raises over a file that is missing, cut or foreign into BadInput that names it."""
    try:
        yield
    except BadInput:
        refuse_pointer(path)
        raise
    except Exception as error:  # libraries raise all kinds: their own, KeyError, UnpicklingError, AttributeError
        refuse_pointer(path)
        why, said = what, f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            why, said = "", error.strerror or error
        elif isinstance(error, RecursionError):
            said = "nested too deeply"
        raise BadInput(f"{path}: cannot be read{why} ({said})") from None


def refuse_bloated(path, unpacked):
    """BadInput if a compressed file unpacks to more bytes than texts ever do."""
    most = max(MOST_UNPACKED, MOST_RATIO * os.stat(path).st_size)
    if unpacked > most:
        raise BadInput(
            f"{path}: unpacks to more than {most:,} bytes, which is more than {MOST_RATIO} times its size: no text "
            "does; unpack it yourself if it is right"
        )


@contextlib.contextmanager
def unpacked(path):
    """Yield a .gz file to read from, unpacked; BadInput if it is broken, or unpacks to more than texts ever do."""
    try:
        with gzip.open(path) as file:
            while file.read(1 << 20):  # before anything is made of it: a single line may be endless
                refuse_bloated(path, file.tell())
            file.seek(0)
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path}: cannot be unpacked ({error})") from None


def first_line(error):
    """The first line of an error's message, with the second where that ends in a colon; else what it is called."""
    lines = str(error).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])


def parse_json(text, *, of_pairs=None):
    """The value of a JSON text; ValueError if it is broken, nested too deeply or holds what no file can hold.

    of_pairs: what makes an object of its (name, value) pairs, dict by default.
    """
    try:
        value = json.loads(text, object_pairs_hook=of_pairs)
        if "\\ud" in text or "\\uD" in text:  # UTF-8 has no half surrogate pairs, but JSON can write one
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair, \\ud800 to \\udfff alone; write the whole character") from None


def read_json(path, /, **wanted):
    """The value of a JSON file: with `wanted` an object that has these keys, with values of these types.

    BadInput if it is missing, broken or of another shape. A type may be a tuple of types.
    """
    with reading(path):
        text = pathlib.Path(path).read_text(encoding="utf-8")
        try:
            value = parse_json(text)
        except ValueError as error:
            raise BadInput(f"{path}: not valid JSON ({error})") from None
    check_keys(value, path, **wanted)
    return value


def read_object(path):
    """The object of a JSON file, whatever its keys; BadInput if it is missing, broken or something else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise BadInput(f"{path}: no JSON object, but {type(value).__name__}")
    return value


NUMBER = (int, float)  # in check_keys(): a finite one


def check_keys(value, place, /, **wanted):
    """BadInput, naming the place, if `value` is not an object that has the wanted {key: type}.

    A type may be a tuple of types, or itself such a dictionary.
    """
    if wanted and not isinstance(value, dict):
        raise BadInput(f"{place}: a JSON object with {', '.join(wanted)} is wanted, found {type(value).__name__}")
    for key, kind in wanted.items():
        if key not in value:
            raise BadInput(f"{place}: {key} is missing")
        if isinstance(kind, dict):
            check_keys(value[key], f"{place}, {key}", **kind)
        elif not isinstance(value[key], kind) or (isinstance(value[key], bool) and kind in (int, NUMBER)):
            names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
            raise BadInput(f"{place}: {key} is of type {type(value[key]).__name__}, not {names}")
        elif kind == NUMBER and not abs(value[key]) < 1e308:
            raise BadInput(f"{place}: {key} is not a finite number")


def cache_dir(*parts):
    """A folder for what can be computed again: $HARDNEG_CACHE, else ~/.cache/hardneg."""
    base = os.environ.get("HARDNEG_CACHE") or pathlib.Path.home() / ".cache" / "hardneg"
    return pathlib.Path(base).joinpath(*parts)


def cached(path, make, read):
    """read(path) of an entry of the cache, which make(temporary) writes where there is none.

    One process makes an entry and others wait for it. An entry that cannot be read is made again.
    """
    found = _try(read, path)
    if found is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock")
        with filelock.FileLock(lock, is_singleton=False):
            try:
                found = _try(read, path)  # another process may have made it meanwhile
                if found is None:
                    remove(path)
                    with atomic_path(path) as temporary:
                        make(temporary)
                    found = read(path)
            finally:
                lock.unlink(missing_ok=True)
    return found


def cached_array(path, make, *, mapped=False):
    """cached() for one array, which make() returns; mapped: read from the disk where it is used."""

    def write(temporary):
        with open(temporary, "wb") as file:  # given a name, numpy would put .npy behind it
            np.save(file, make())

    return cached(path, write, lambda path: np.load(path, mmap_mode="r" if mapped else None))


def _try(read, path):
    with contextlib.suppress(*UNREADABLE):
        return read(path)


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
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


@contextlib.contextmanager
def fingerprinted(path):
    """Yield fingerprint_file() of a file that the block reads; BadInput if the file was changed meanwhile."""

    def state():
        found = os.stat(path)
        return found.st_ino, found.st_size, found.st_mtime_ns

    before = state()
    yield fingerprint_file(path)
    if state() != before:
        raise BadInput(f"{path}: was changed while it was read; run the command again")
