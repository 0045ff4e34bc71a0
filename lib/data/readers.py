"""Where collections come from: each reader writes a folder in BEIR layout into the cache, and names it."""

import pathlib
import re

from lib.data import made_queries, questions
from lib.data.formats import doc_tables, hubs, medquad, pages, python_code, table_files, tables, trec
from lib.files import BadInput

# --data NAME: (function that writes a folder in BEIR layout, what it holds)
EMBEDDED = {
    "python": (python_code.build, "documented functions of the installed packages, by what they do"),
    "python:docs": (python_code.build, "their documentation, by its first sentence"),
}
# --data PREFIX:PLACE: (function of the place, what stands there)
READERS = {
    "medquad": (medquad.build, "a clone of MedQuAD's repository"),
    "trec": (trec.build, "a folder of TREC's or MS MARCO's files"),
    "docs": (doc_tables.build, "a table of docs, FILE.csv:id=COLUMN,title=COLUMN,text=COLUMN+COLUMN: --questions asks"),
    "made": (made_queries.build, "a folder in BEIR layout with queries to test on alone: others are made to train on"),
    "asked": (questions.build, "QUESTIONS@DATA, a table of your own questions on the docs of another collection"),
    "irds": (hubs.build_irds, "an id of ir_datasets"),
    "hf": (hubs.build_hf, "a dataset of Hugging Face's hub"),
}
JOIN = " + "  # between several collections that are one
QUESTIONS = "a table of your own questions, each with the doc, file or file#heading that answers it: dev and test"
STRICT = "refuse a collection of which something would have to be kept or skipped although it is odd"
HELP = (
    f"collection: {', '.join(EMBEDDED)} (embedded); a folder in BEIR layout; a table of questions and answers, "
    f"FILE{'|'.join(table_files.SUFFIXES)}, columns found by name or said as in FILE.csv:question=COLUMN,"
    "answer=COLUMN, perhaps with labels or negatives; a folder of such tables, train, dev and test by their names; "
    f"a folder of {', '.join(pages.KINDS)} files; "
    + "; ".join(f"{name}:PLACE, {what}" for name, (_, what) in READERS.items())
    + "; :relevant_from=GRADE behind any of them says from which grade on a doc is relevant"
)


def split(spec):
    """The specs that are joined in one; a folder's name may hold JOIN as well."""
    return [str(spec)] if pathlib.Path(spec).exists() else str(spec).split(JOIN)


def graded(spec):
    """(spec, grade): what stands before `:relevant_from=GRADE`, and that grade, from which on a doc is relevant; 1.

    Tables and the hub's datasets read it themselves, with their labels.
    """
    found = re.fullmatch(r"(.+):relevant_from=([^:,=]*)", str(spec))
    if not found or tables.is_table(spec) or str(spec).startswith("hf:") or pathlib.Path(spec).exists():
        return spec, 1
    if not found[2].isdigit() or not 1 <= int(found[2]) <= 100:
        raise BadInput(
            f"--data {spec}: relevant_from is the least grade of a relevant doc, a whole number from 1 to 100"
        )
    return found[1], int(found[2])


def asked(spec, file):
    """The spec of a collection with the questions of a file, which is what --questions asks for."""
    if len(split(spec)) > 1:
        raise BadInput("--questions is for one collection")
    if spec.startswith("asked:"):  # other questions on the same docs
        spec = questions.parts(spec.removeprefix("asked:"))[1]
    return f"asked:{file}@{spec}"


def find(spec):
    """(name, folder in BEIR layout) of the collection that `spec` names."""
    spec = str(graded(spec)[0])
    if spec in EMBEDDED:
        return EMBEDDED[spec][0](spec)
    prefix, colon, place = spec.partition(":")
    if colon and prefix in READERS:
        return READERS[prefix][0](place)
    if tables.is_table(spec):
        return tables.build(spec)
    folder, head = pathlib.Path(spec), pathlib.Path(tables.split_roles(spec)[0])
    if head.is_file():
        kinds = ", ".join(table_files.SUFFIXES)
        raise BadInput(f"--data {spec}: a file of a kind that is not read: a table is one of {kinds}, perhaps .gz")
    beir = any((folder / name).exists() for name in ("corpus.jsonl", "corpus.jsonl.gz", "queries.jsonl", "qrels"))
    split = table_files.by_split(head) if head.is_dir() and not beir else {}
    if split and not pages.are_in(head):
        listed = [path.name for path in sorted(head.iterdir()) if table_files.suffix(path) in table_files.SUFFIXES]
        if others := [name for name in listed if name not in {path.name for path in split} and name[-5:] != ".json"]:
            print(f"note: {spec}: tables that say no split by their names are not read: {', '.join(others)}")
        return tables.build(spec)
    if split:
        print(f"note: {spec}: read as pages; {next(iter(split)).name} in it is not, give it by itself")
    if not folder.is_dir():
        raise BadInput(
            f"--data {spec}: no such folder (give {', '.join(EMBEDDED)}, a table, a folder, or PREFIX:PLACE)"
        )
    if not beir:
        kinds = [kind for kind in table_files.SUFFIXES if kind != ".json"]
        listed = [path.name for path in sorted(folder.iterdir()) if table_files.suffix(path) in kinds]
        if listed and not pages.are_in(folder):
            raise BadInput(
                f"--data {spec}: no table there says its split by its name, as train.csv does: give one, as "
                f"{folder / listed[0]}"
            )
        return pages.build(folder)
    return folder.resolve().name, folder
