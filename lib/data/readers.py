"""Where collections come from: each reader writes a folder in BEIR layout into the cache, and names it."""

import pathlib

from lib.data import pages, python_code, tables
from lib.files import BadInput

# --data: (function that returns a folder in BEIR layout, what it holds)
READERS = {
    "python": (python_code.build, "documented functions of the installed packages, by what they do"),
    "python:docs": (python_code.build, "their documentation, by its first sentence"),
}
STRICT = "refuse a collection of which something would have to be kept or skipped although it is odd"
HELP = (
    f"collection: {', '.join(READERS)} (embedded); a folder in BEIR layout; a table of questions and answers, "
    f"FILE{'|'.join(tables.SUFFIXES)}, columns found by name or said as in FILE.csv:question=COLUMN,answer=COLUMN; or "
    f"a folder of {', '.join(pages.KINDS)} files"
)


def find(spec):
    """(name, folder in BEIR layout) of the collection that `spec` names."""
    spec = str(spec)
    if spec in READERS:
        return spec.replace(":", "-"), READERS[spec][0](spec)
    if tables.is_table(spec):
        return tables.build(spec)
    folder = pathlib.Path(spec)
    if not folder.is_dir():
        raise BadInput(f"--data {spec}: no such folder (give {', '.join(READERS)}, a table, or a folder)")
    if not any((folder / name).exists() for name in ("corpus.jsonl", "corpus.jsonl.gz", "queries.jsonl", "qrels")):
        return pages.build(folder)
    return folder.resolve().name, folder
