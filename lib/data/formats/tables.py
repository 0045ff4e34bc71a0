"""Tables of questions and answers (CSV, TSV, JSON, JSONL, Parquet), and training files that bring their negatives.

Columns are found by their names or said: `pairs.csv:question=Frage,answer=Antwort`. Rows with the same question are one
query with several positives, rows with the same answer one doc; other columns become metadata of the query. A column
`split` decides train, dev and test, else a hash of the question, or of the column that `by=COLUMN` names, so that all
questions of one user, page or disease fall on one side. A column of numbers called label, score or the like holds
grades: below 1, or below `relevant_from=X`, a doc is judged and not relevant. Columns of negatives (triplets,
FlagEmbedding, DPR, Tevatron, CoRNStack) are docs too, judged as not relevant, and what the source file:K draws from.
"""

import contextlib
import itertools
import pathlib
from typing import NamedTuple

from tqdm import tqdm

from lib.data import beir
from lib.data.formats import cells, table_files
from lib.data.formats.columns import ROLES, check_roles, not_used, partition, roles_of, without_instructions
from lib.data.words import normalise
from lib.files import BadInput, fingerprinted

RECIPE = 7  # raise it when the rules below change, so that cached folders are made again
LABELS = {*ROLES["label"], "has_answer", "is_gold"} - {"score", "scores", "similarity"}  # of an object that is a doc
MOST_METADATA = 2000  # characters of a column that is kept as metadata


class Doc(NamedTuple):
    """A doc of a cell."""

    title: str
    text: str
    score: float | None = None  # of a miner or a teacher
    label: object = None  # as it is written, where the doc has one of its own
    marked: bool = False  # whether HTML was taken out


def is_table(spec):
    """Whether a spec names a file of SUFFIXES, perhaps compressed, perhaps with columns behind a colon."""
    return table_files.suffix(split_roles(spec)[0]) in table_files.SUFFIXES


def split_roles(spec):
    """(what stands before, {role: column}) of a spec that may end in :question=COLUMN,answer=COLUMN."""
    head, colon, tail = spec.rpartition(":")
    if colon and "=" in tail:
        return head, dict(part.partition("=")[::2] for part in tail.split(","))
    return spec, {}


def build(spec):
    """(name, folder in BEIR layout) of a table, or of a folder's, one for a split; BadInput if it cannot be read."""
    head, said = split_roles(spec)
    path, wrong = pathlib.Path(head), []
    check_roles(spec, said)
    files = table_files.by_split(path) if path.is_dir() else {path: None}
    if not path.exists():
        raise BadInput(f"--data {path}: no such file")

    def rows():
        for file, split in files.items():
            for number, row in table_files.rows(file, wrong):
                own = split is None or str(row.get("split") or "").strip().lower() in table_files.SPLITS
                yield (number if split is None else f"{file.name}:{number}"), (row if own else row | {"split": split})

    with contextlib.ExitStack() as stack:
        contents = [(stack.enter_context(fingerprinted(file)), table_files.suffix(file)) for file in files]
        name = path.resolve().name if path.is_dir() else pathlib.Path(path.name.removesuffix(".gz")).stem
        key = [contents, list(files.values()), said, RECIPE]
        return beir.build("tables", name, key, lambda: read(path, said, rows(), wrong))


def _docs(value, *, path, number, column):
    """[Doc] of a cell: texts, or objects that hold a text, or texts (SQuAD)."""
    found, listed = [], cells.listed(value)
    if isinstance(value, str) and not all(isinstance(each, str) or cells.holds_text(each) for each in listed):
        listed = [value]  # a text in brackets
    for each in listed:
        held = each if cells.holds_text(each) else {"text": each}
        label = next((held[name] for name in held if str(name).lower() in LABELS), None)
        if column.lower() == "ctxs" and label is None and len(listed) > 1:
            raise BadInput(
                f"{path}:{number}: {column} is what a search found, and no has_answer says which docs answer; a column "
                f"of positives is wanted, as in {path}:doc=COLUMN"
            )
        texts = held["text"] if isinstance(held["text"], list) and held is each else [held["text"]]
        titles = held.get("title") if isinstance(held.get("title"), list) else [held.get("title")] * len(texts)
        for title, text in zip(titles, texts):
            if not isinstance(text, (str, int, float, type(None))):
                raise BadInput(f"{path}:{number}: {column} is {beir.shorten(value)}, no text and no list of texts")
            if not cells.is_missing(text := "" if text is None else str(text).strip()):
                title, score = " ".join(str(title or "").split()), cells.number_of(held.get("score"))
                (title, tagged), (text, marked) = (cells.without_markup(each, code=True) for each in (title, text))
                found.append(Doc(title, text, score, label, tagged or marked))
    return found


def read(path, said, rows, wrong=()):
    """What beir.build() wants of (line, {column: value}) rows.

    said: {role: column}; path: for messages; wrong: what the rows find wrong with others while they are read.
    """
    docs, queries, judged, dropped, columns, instead, grade = {}, {}, {}, {}, {}, [], None
    rows, wrong = list(tqdm(rows, unit="row", unit_scale=True, desc=f"reading {path}", delay=2)), list(wrong)
    try:
        if rows:
            rows, columns, grade, unused, instructed = _understood(path, rows, said)
    except BadInput as error:
        raise beir.Malformed([*wrong, str(error)]) from None

    def id_of(title, text):
        return docs.setdefault((title, text), {"_id": f"d{len(docs) + 1}", "title": title, "text": text})["_id"]

    def add(number, row):
        """Add a row; what is missing, in words, if it has to be left out."""
        place = f"line {number}"

        def cell(role):
            found = (_docs(row.get(each), path=path, number=number, column=each) for each in columns.get(role, ()))
            return list(itertools.chain.from_iterable(found))

        asked, answers, positives, negatives = map(cell, ("question", "answer", "doc", "negative"))
        question = " ".join(doc.text for doc in asked)
        if any(doc.marked for doc in (*asked, *answers, *positives, *negatives)):
            dropped.setdefault("HTML tags and entities", []).append(place)
        # a passage and its short answer; of a file with negatives, an answer is no doc where the positive is missing
        held = [doc.text for doc in answers] if positives else []
        if answers and not positives and "doc" in columns and "negative" not in columns:
            instead.append(number)
        positives = positives or ([] if "negative" in columns and "doc" in columns else answers)
        if not question or not positives or _unanswered(row, columns):
            return "an answer" if question else "a question"
        if (grades := cells.labels(row, columns, positives, grade, path=path, number=number)) is None:
            return "a label"
        split = _split_of(row, columns, said, question, path=path, number=number)
        if question not in queries:
            # what generators are scored with is never taken from a column of another meaning
            taken = itertools.chain.from_iterable(columns.values())
            named = {*taken, "answer", "answers", *(itertools.chain(*cells.SCORED) if "negative" in columns else ())}
            meta = {n: value for n, value in row.items() if n not in named - {said.get("by")} and plain(value)}
            queries[question] = {"_id": f"q{len(queries) + 1}", "text": question, "metadata": meta}
            judged[question] = {}
        if held:
            queries[question]["metadata"].setdefault("answers", {}).update(dict.fromkeys(held))
        if "split" not in columns:
            split = next(iter(judged[question]), split)
        own, beside, _ = judged[question].setdefault(split, ({}, {}, number))
        title = " ".join(doc.text for doc in cell("title"))
        (best, *scores), lost = cells.scores_of(row, positives, negatives)
        if lost:
            dropped.setdefault("scores that are no numbers, or another number than their docs", []).append(place)
        docs_of = [(doc.title or title, doc.text) for doc in positives] + [doc[:2] for doc in negatives]
        for doc, given, score in zip(itertools.starmap(id_of, docs_of), grades + [0] * len(negatives), scores):
            if (own.setdefault(doc, given) >= 1) != (given >= 1):
                dropped.setdefault("judgements that are lower than another of the same", []).append(place)
            own[doc] = max(own[doc], given)
            if given < 1:
                beside.setdefault(doc, (score, best))

    for number, row in rows:
        try:
            for one in _each_question(row, columns):
                if missing := add(number, one):
                    dropped.setdefault(f"rows without {missing}", []).append(f"line {number}")
        except BadInput as error:
            wrong.append(str(error))
    if wrong or not queries:
        raise beir.Malformed(wrong or [f"{path}: no row with a question and an answer"])
    found, candidates = _by_split(queries, judged, dropped)
    tqdm.write(
        f"note: {path}: {len(rows):,} rows; {_taken(columns, len(candidates), unused, instructed, len(instead))}"
    )
    return docs.values(), queries.values(), found, dropped, candidates


def _understood(path, rows, said):
    """(rows, {role: columns}, a function of labels, lists that are not used, instructions that are left out)."""
    columns = roles_of(path, rows[0][0], {name: None for _, row in rows for name in row}, said)
    rows, instructed = without_instructions(rows, columns)
    unused = not_used(path, rows, columns)
    columns |= partition(rows, columns)
    _refuse_other_columns(path, rows, columns["question"])
    return rows, columns, cells.grading(path, rows, columns, said), unused, instructed


def _refuse_other_columns(path, rows, asked):
    """BadInput if a file of a folder has not the columns of questions that the others have."""
    has = {}
    for number, row in rows:
        file = str(number).rpartition(":")[0]
        has[file] = has.get(file, False) or any(column in row for column in asked)
    if other := [file for file, there in has.items() if not there]:
        row = next(row for number, row in rows if str(number).startswith(f"{other[0]}:"))
        names = ", ".join(repr(name) for name in row if name != "split")
        raise BadInput(
            f"{path / other[0]}: no column {asked[0]!r}, where {next(file for file in has if has[file])} has its "
            f"questions; there are {names}: call columns alike in all files of a folder"
        )


def _taken(columns, wrong, unused, instructed, instead):
    """Which columns were taken as what, and what of them was left out, in words."""
    taken = "; ".join(f"{role}: {', '.join(names)}" for role, names in columns.items())
    said = f"columns taken: {taken}"
    said += f"; {wrong:,} docs are not relevant to their question" if wrong else ""
    said += f"; lists that are not used: {', '.join(unused)}" if unused else ""
    said += f"; instructions before the texts, which are left out: {', '.join(instructed)}" if instructed else ""
    return said + (f"; the answer is the doc of {instead:,} rows without a {columns['doc'][0]}" if instead else "")


def _unanswered(row, columns):
    """Whether a row says that its passage does not answer its question, as SQuAD 2 does."""
    passage = [name.lower() for name in columns.get("doc", ())] == ["context"]
    asked = [row[name] for name in columns.get("answer", ()) if row.get(name) is not None]
    impossible = cells.number_of(row.get("is_impossible")) == 1
    return impossible or any(cells.says_nothing(each, beside_passage=passage) for each in asked)


def _each_question(row, columns):
    """A row for each of the questions that its cell lists: other wordings of one, with the same answers."""
    column = columns["question"][0]
    listed = [each for each in cells.listed(row.get(column)) if each not in (None, "")]
    if len(columns["question"]) > 1 or len(listed) < 2 or not all(isinstance(each, str) for each in listed):
        return [row]
    return [row | {column: each} for each in listed]


def _by_split(queries, judged, dropped):
    """([(qid, split, grades)], records of what is not relevant); a question that is in two splits is in the first."""
    found, candidates = [], []
    for question, query in queries.items():
        if held := query["metadata"].get("answers"):
            query["metadata"]["answers"] = list(held)
        first, *later = sorted(judged[question], key=beir.SPLITS.index)
        for split in later:
            place = f"line {judged[question][split][2]}, {beir.shorten(question)}"
            dropped.setdefault(f"questions of {split} that are in {first} too", []).append(place)
        own, beside, _ = judged[question][first]
        found.append((query["_id"], first, own))
        for rank, (doc, (score, best)) in enumerate(((d, s) for d, s in beside.items() if own[d] < 1), 1):
            record = {"qid": query["_id"], "doc_id": doc, "source": "given", "rank": rank, "score": score}
            candidates.append(record | {"positive_score": best})
    return found, candidates


def plain(value):
    """Whether a cell can be kept as metadata."""
    text = str(value)
    return isinstance(value, (str, int, float, bool)) and text != "" and len(text) <= MOST_METADATA


def _split_of(row, columns, said, question, *, path, number):
    """train, dev or test, as the column split says or by a hash: eight tenths, one, one."""
    if "split" in columns:
        (column,) = columns["split"]
        value = str(row.get(column) or "").strip().lower()
        if value not in table_files.SPLITS:
            raise BadInput(
                f"{path}:{number}: {column} is {beir.shorten(value)}, none of {', '.join(table_files.SPLITS)}"
            )
        return table_files.SPLITS[value]
    group = row.get(said["by"]) if "by" in said else None
    group = "" if group is None else str(group).strip()
    return beir.split_by_hash(group or normalise(question) or question)  # without a group, each question by itself
