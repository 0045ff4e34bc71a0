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
import re
from typing import NamedTuple

from tqdm import tqdm

from lib.data import beir
from lib.data.formats import cells, table_files
from lib.data.words import normalise
from lib.files import BadInput, fingerprinted

RECIPE = 6  # raise it when the rules below change, so that cached folders are made again
# role -> names of columns that play it, the likeliest first
ROLES = {
    "question": ("question", "query", "anchor", "question_text", "query_text", "prompt", "instruction", "q", "input"),
    "doc": (
        *("doc", "document", "passage", "context", "positive", "positives", "pos", "positive_ctxs"),
        *("positive_passages", "docs", "documents", "passages", "contexts", "ctxs", "text"),
    ),
    "answer": ("answer", "answers", "response", "output", "reply", "a"),
    "title": ("title",),
    "split": ("split",),
    "negative": (),
    "label": (
        *("label", "labels", "score", "scores", "relevance", "relevant", "is_relevant", "grade", "is_correct"),
        *("is_positive", "is_selected", "is_duplicate", "rel", "relevance_score", "relevance_label", "gold_label"),
        *("judgment", "judgement", "similarity"),
    ),
}
SETTINGS = ("by", "relevant_from")  # what a spec may say besides
# columns of several docs, maybe one in each: negative_1, hard_negatives, neg_passage_2, rejected
NOUN = r"[-_ ]?(passage|document|doc|text|ctx|context|answer|option)s?"
OF_A_DOC = rf"({NOUN})?[-_ .]?\d*"
MANY = {
    "doc": re.compile(r"pos(itive)?s?" + OF_A_DOC),
    "negative": re.compile(
        rf"((hard[-_ ]?)?neg(ative)?s?{OF_A_DOC}|rejected|distractors?[-_ ]?\d*|"
        rf"(irrelevant|non[-_ ]?relevant|wrong|incorrect){NOUN}[-_ ]?\d*)"
    ),
}
# of an object that holds a doc: its label; and columns of lists that would be docs, if anybody knew which
LABELS = {*ROLES["label"], "has_answer", "is_gold"} - {"score", "scores", "similarity"}
LIKE_DOCS = re.compile(r".*(pos|neg|ctx|passage|doc|context|distractor|answer).*")
PARTITIONS = ("subset", "partition", "fold", "set")  # which say the split where they hold nothing else
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


def check_roles(spec, said):
    """BadInput if roles are named that there are not."""
    if unknown := said.keys() - {*ROLES, *SETTINGS}:
        raise BadInput(f"--data {spec}: {min(unknown)} is none of {', '.join((*ROLES, *SETTINGS))}")
    try:
        float(said.get("relevant_from", 0))
    except ValueError:
        raise BadInput(f"--data {spec}: relevant_from is the least number of a relevant doc, as .5") from None


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
                yield (number, row) if split is None else (f"{file.name}:{number}", row | {"split": split})

    with contextlib.ExitStack() as stack:
        contents = [(stack.enter_context(fingerprinted(file)), table_files.suffix(file)) for file in files]
        name = path.resolve().name if path.is_dir() else pathlib.Path(path.name.removesuffix(".gz")).stem
        key = [contents, list(files.values()), said, RECIPE]
        return beir.build("tables", name, key, lambda: read(path, said, rows(), wrong))


def _columns(path, number, row, said):
    """{role: [columns]} for the columns of a table; BadInput if question or doc and answer are not there."""
    by_name = {name.lower().strip(): name for name in row}
    found = {role: [column] for role, column in said.items() if role in ROLES and column}
    for role, column in said.items():
        if column not in row and role != "relevant_from" and column:
            raise BadInput(f"{path}:{number}: no column {column!r}; there are {', '.join(map(repr, row))}")
    for role in ROLES:
        named = [by_name[name] for name in ROLES[role] if name in by_name]
        if role in MANY and (role == "negative" or not named or MANY[role].fullmatch(named[0].lower())):
            named += [by_name[name] for name in by_name if MANY[role].fullmatch(name) and by_name[name] not in named]
        if (free := [column for column in named if column not in said.values()]) and role not in said:
            found[role] = free if role in MANY or role == "label" else free[:1]
            if role == "doc" and not MANY[role].fullmatch(free[0].lower()):
                found[role] = free[:1]
    if "negative" in found and "label" not in said:  # then numbers are the scores of a miner or a teacher
        found.pop("label", None)
    if "negative" not in found and "answer" in found and found.get("doc") == [by_name.get("pos")]:
        del found["doc"]  # beside answers, pos is a place
    if "doc" not in said and found.get("doc") == [by_name.get("text")] and {"output", "response"} & by_name.keys():
        del found["doc"]  # the whole prompt, with question and answer, as Alpaca's
    taken = list(itertools.chain.from_iterable(found.values()))
    if twice := [name for name in taken if f"{name}.1" in row and f"{name}.1" not in taken]:
        raise BadInput(f"{path}:1: two columns are called {twice[0]!r}; give each a name of its own")
    if found.get("question") == [by_name.get("instruction")] and "question" not in said and "input" in by_name:
        found["question"].append(by_name["input"])
    if "question" not in found or not {"doc", "answer"} & found.keys():
        raise BadInput(
            f"{path}:{number}: a column of questions and one of answers are wanted, there are "
            f"{', '.join(map(repr, row))}; say which, as in {path}:question=COLUMN,answer=COLUMN; a "
            f"table of docs alone is docs:{path}"
        )
    return found


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
    docs, queries, judged, dropped, instead = {}, {}, {}, {}, []
    rows = list(tqdm(rows, unit="row", unit_scale=True, desc=f"reading {path}", delay=2))
    wrong, columns, grade = list(wrong), {}, None
    try:
        if rows:
            columns = _columns(path, rows[0][0], {name: None for _, row in rows for name in row}, said)
            rows, instructed = _without_instructions(rows, columns)
            unused = _not_used(path, rows, columns)
            columns |= _partition(rows, columns)
            grade = cells.grading(path, rows, columns, said)
    except BadInput as error:
        raise beir.Malformed([*wrong, str(error)]) from None

    def id_of(title, text):
        return docs.setdefault((title, text), {"_id": f"d{len(docs) + 1}", "title": title, "text": text})["_id"]

    def add(number, row):
        """Add a row; what is missing, in words, if it has to be left out."""

        def cell(role):
            found = (_docs(row.get(each), path=path, number=number, column=each) for each in columns.get(role, ()))
            return list(itertools.chain.from_iterable(found))

        asked, answers, positives, negatives = map(cell, ("question", "answer", "doc", "negative"))
        question = " ".join(doc.text for doc in asked)
        if any(doc.marked for doc in (*asked, *answers, *positives, *negatives)):
            dropped.setdefault("HTML tags and entities", []).append(f"line {number}")
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
            dropped.setdefault("scores that are no numbers, or another number than their docs", []).append(
                f"line {number}"
            )
        docs_of = [(doc.title or title, doc.text) for doc in positives] + [doc[:2] for doc in negatives]
        for doc, given, score in zip(itertools.starmap(id_of, docs_of), grades + [0] * len(negatives), scores):
            if (own.setdefault(doc, given) >= 1) != (given >= 1):
                dropped.setdefault("judgements that are lower than another of the same", []).append(f"line {number}")
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
    taken = "; ".join(f"{role}: {', '.join(names)}" for role, names in columns.items())
    wrong = f"; {len(candidates):,} docs are not relevant to their question" if candidates else ""
    more = f"; lists that are not used: {', '.join(unused)}" if unused else ""
    more += f"; instructions before the texts, which are left out: {', '.join(instructed)}" if instructed else ""
    more += f"; the answer is the doc of {len(instead):,} rows without a {columns['doc'][0]}" if instead else ""
    tqdm.write(f"note: {path}: {len(rows):,} rows; columns taken: {taken}{wrong}{more}")
    return docs.values(), queries.values(), found, dropped, candidates


def _unanswered(row, columns):
    """Whether a row says that its passage does not answer its question, as SQuAD 2 does."""
    passage = [name.lower() for name in columns.get("doc", ())] == ["context"]
    asked = [row[name] for name in columns.get("answer", ()) if row.get(name) is not None]
    impossible = cells.number_of(row.get("is_impossible")) == 1
    return impossible or any(cells.says_nothing(each, beside_passage=passage) for each in asked)


def _not_used(path, rows, columns):
    """Names of columns of lists and objects that nothing is read of; BadInput if they seem to hold docs."""
    taken = {*itertools.chain.from_iterable(columns.values()), *itertools.chain(*cells.SCORED)}
    found = {name: number for number, row in rows[:100] for name, value in row.items()
             if name not in taken and isinstance(value, (list, dict)) and value}  # fmt: skip
    for name, number in found.items():
        if LIKE_DOCS.fullmatch(name.lower()) and not {"doc", "negative"} & columns.keys():
            raise BadInput(
                f"{path}:{number}: {name} holds a list, and it is not known what that is to a question: say the column "
                f"of docs, as in {path}:doc={name}, or leave it out of the file"
            )
    return list(found)


def _without_instructions(rows, columns):
    """(the rows, their cells of an instruction and a text only the text, the columns of such cells), as MEDI has them.

    An instruction is the first of two texts where rows share it; lists of two questions or positives do not.
    """
    found = []
    for column in itertools.chain.from_iterable(columns.get(role, ()) for role in ("question", "doc", "negative")):
        cells = [row[column] for _, row in rows if row.get(column)]
        pairs = [each for each in cells if isinstance(each, list) and [type(text) for text in each] == [str, str]]
        if cells and len(pairs) == len(cells) and 2 * len({first for first, _ in pairs}) <= len(pairs):
            found.append(column)
    if columns["question"][0] not in found:
        return rows, []
    return [(n, row | {column: row[column][1] for column in found if row.get(column)}) for n, row in rows], found


def _partition(rows, columns):
    """{"split": [column]} where a column of another name says train, dev and test and nothing else."""
    names = {name for _, row in rows for name in row if name.lower().strip() in PARTITIONS}
    for name in sorted(names) if "split" not in columns else ():
        values = {str(row.get(name) or "").strip().lower() for _, row in rows}
        if len(values) > 1 and values <= table_files.SPLITS.keys():
            return {"split": [name]}
    return {}


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
