"""Texts of a JSONL file, read where they lie: a table of offsets instead of a list of strings."""

import functools
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np
from tqdm import tqdm

from lib.data import beir
from lib.files import BadInput, cache_dir, cached, fingerprint, fingerprinted, read_json, unpacked, write_json


class Texts:
    """The records of one JSONL file, read where they lie. `ids[row]` is the string id of a row."""

    def __init__(self, path, *, ids, offsets, groups, digests, blank, fingerprint):
        self.path, self.ids, self.fingerprint = pathlib.Path(path), ids, fingerprint
        self.groups = groups  # (n,) int32: the first row with the same text: copies share a number
        self.digests = digests  # (n,) 16 bytes: a hash of each text
        self.blank = blank  # line numbers of records without a text
        self._offsets = offsets  # (n, 2) int64: first byte and end of each record
        self._file = open(path, "rb")  # kept open: another file of that name cannot take its place

    def __len__(self):
        return len(self.ids)

    def record(self, row):
        """The JSON object of one row."""
        begin, end = self._offsets[row].tolist()
        try:
            return json.loads(os.pread(self._file.fileno(), end - begin, begin))
        except ValueError:
            raise BadInput(f"{self.path}: was changed since it was opened; run the command again") from None

    def text(self, row):
        """Title and text of one row."""
        return beir.text_of(self.record(row))

    def texts(self, rows=None):
        """The texts of `rows` (all of them by default), as a list."""
        return [self.text(row) for row in (range(len(self)) if rows is None else rows)]

    def view(self, rows):
        """The texts of `rows` as a sequence that reads them when they are asked for."""
        return TextView(self, np.asarray(rows))

    @functools.cached_property
    def row_of(self):
        """{id: row}."""
        return {ident: row for row, ident in enumerate(self.ids)}

    @classmethod
    def load(cls, path):
        """Open and check a JSONL file, or path.gz; the check runs once for each content, its offsets are cached."""
        path = plain(path)
        if not path.is_file():
            raise BadInput(
                f"{path}: no such file; a collection is a folder with corpus.jsonl, queries.jsonl and qrels/*.tsv"
            )
        if path.stat().st_size == 0:
            raise BadInput(f"{path}: the file is empty")

        def make(folder):
            ids, arrays = cls._scan(path)
            folder.mkdir()
            write_json(folder / "ids.json", ids)
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array)

        def read(folder):
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode=how) for name, how in cls._ARRAYS.items()}
            return arrays | {"ids": read_json(folder / "ids.json")}

        with fingerprinted(path) as content:
            parts = cached(cache_dir("records", content), make, read)
            return cls(path, **parts, fingerprint=content)

    _ARRAYS = {"offsets": "r", "groups": None, "digests": "r", "blank": None}  # how each is read: mapped, or whole

    @staticmethod
    def _scan(path):
        ids, offsets, groups, digests, blank, first_of, end = [], [], [], [], [], {}, 0
        bar = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, delay=2, desc=f"checking {path.name}")
        with bar:
            for number, size, ident, text in beir.records(path):
                end += size
                bar.update(size)
                if ident is None:  # a blank line
                    continue
                # 16 bytes of hash per text instead of the text: a collision needs 2**64 docs
                digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
                groups.append(first_of.setdefault(digest, len(ids)))
                digests.append(digest)
                if not text:
                    blank.append(number)
                offsets.append((end - size, end))
                ids.append(ident)
        return ids, {
            "offsets": np.array(offsets, dtype=np.int64).reshape(-1, 2),
            "groups": np.array(groups, dtype=np.int32),
            "digests": np.array(digests, dtype="V16"),
            "blank": np.array(blank, dtype=np.int64),
        }


class TextView:
    """Some rows of Texts as a sequence of str that holds none of them: what retrievers search with."""

    def __init__(self, texts, rows):
        self._texts, self.rows = texts, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, part):
        """A text or, for a slice, a view of some of the texts."""
        if isinstance(part, slice):
            return TextView(self._texts, self.rows[part])
        return self._texts.text(self.rows[part])

    @property
    def fingerprint(self):
        """Identifies the texts and their order."""
        return fingerprint(self._texts.fingerprint, self.rows.astype(np.int64))


def plain(path):
    """`path` or, if only path.gz is there, an unpacked copy of it in the cache."""
    packed = path.with_name(path.name + ".gz")
    if path.exists() or not packed.is_file():
        return path

    def unpack(temporary):
        with open(temporary, "wb") as out, unpacked(packed) as file:
            shutil.copyfileobj(file, out)

    with fingerprinted(packed) as content:
        return cached(cache_dir("unpacked", content) / path.name, unpack, lambda path: path.stat() and path)
