"""Where collections come from: each reader writes a folder in BEIR layout into the cache, and names it."""

import pathlib

from lib.data import python_code
from lib.files import BadInput

# --data: (function that returns a folder in BEIR layout, what it holds)
READERS = {
    "python": (python_code.build, "documented functions of the installed packages, by what they do"),
    "python:docs": (python_code.build, "their documentation, by its first sentence"),
}
STRICT = "refuse a collection of which something would have to be kept or skipped although it is odd"
HELP = f"collection: {', '.join(READERS)} (embedded) or a folder in BEIR layout"


def find(spec):
    """(name, folder in BEIR layout) of the collection that `spec` names."""
    if spec in READERS:
        return spec.replace(":", "-"), READERS[spec][0](spec)
    folder = pathlib.Path(spec)
    if not folder.is_dir():
        raise BadInput(f"--data {spec}: no such folder (give {', '.join(READERS)} or a folder in BEIR layout)")
    return folder.resolve().name, folder
