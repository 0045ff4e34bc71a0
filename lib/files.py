"""Files: atomic writes, JSON, the cache, fingerprints; and the error that a user's mistake raises."""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np


class BadInput(argparse.ArgumentTypeError, ValueError):
    """A mistake in the user's files or flags. The message names place, value and fix, on one line.

    It is an ArgumentTypeError so that a function that reads a flag's text may raise it: argparse keeps the
    message of that class only.
    """


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
