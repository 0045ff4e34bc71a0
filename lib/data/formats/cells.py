"""Cells of tables: lists, numbers, labels as grades, scores of a miner."""

import ast
import itertools
import re

from lib.data import beir
from lib.data.formats.html_pages import sections_of_html
from lib.files import BadInput, parse_json

SCORED = (("pos_scores", "positive_scores"), ("neg_scores", "negative_scores"), ("scores", "score"))
WORDS = dict.fromkeys(("true", "yes", "relevant", "t", "y", "positive", "pos", "correct", "good", "duplicate"), 1)
WORDS |= dict.fromkeys(("false", "no", "irrelevant", "not relevant", "non relevant", "f", "n", "negative", "neg"), 0)
WORDS |= dict.fromkeys(("incorrect", "wrong", "bad", "not duplicate"), 0)  # as labels
MISSING = {"nan", "none", "null", "n/a", "#n/a", "<na>", "\\n", "#ref!", "#value!", "#name?", "#div/0!"}  # and NA, of R
TAG = re.compile(r"</(p|div|span|b|i|a|ul|ol|li|table|tr|td|h[1-6]|strong|em|pre|code)\s*>|<br\s*/?>", re.IGNORECASE)
BEGINS = re.compile(r"\s*<(p|div|span|b|ul|ol|li|table|h[1-6]|strong|em|a|br|!doctype|html)\b", re.IGNORECASE)
ENTITY = re.compile(r"&(amp|lt|gt|quot|apos|nbsp|#\d+|#x[0-9a-f]+);", re.IGNORECASE)
STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# texts behind one another without a comma, as numpy writes a list of them
ARRAY = re.compile(rf"\s*\[\s*{STRING}(?:\s+{STRING})+\s*\]\s*", re.DOTALL)
LONGEST = 20  # characters of what may be a label in a column that nobody calls so
LIKE_LABELS = re.compile(
    r".*(rating|grade|relevan|correct|judg|feedback|esci).*|gain|target|thumbs|accepted|"
    r"is_(answer|useful|helpful|accepted|good|right|match|gold)"
)
MOST_LABELS = 10  # values of a column of this name that may be labels
MOST_GRADE = 10  # a larger number is a count of votes or the like, unless relevant_from says what it means
GOLD = 1000  # where DPR's own files have no score of a positive they give this one


def listed(value):
    """What a cell lists: itself, or the items of a list, which may be written as JSON or as Python writes it."""
    if isinstance(value, str) and ARRAY.fullmatch(value):
        return [re.sub(r"\\([\\'\"])", r"\1", each[1:-1]) for each in re.findall(STRING, value, re.DOTALL)]
    if isinstance(value, str) and re.fullmatch(r"\s*(\[.*\]|\{.*\})\s*", value, re.DOTALL):
        for parse in (parse_json, ast.literal_eval):
            try:
                parsed = parse(value.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            value = parsed if isinstance(parsed, list) or holds_text(parsed) else value
            break
    return value if isinstance(value, list) else [value]


def is_missing(text):
    """Whether the text of a cell says that there is none."""
    return not text or text == "NA" or text.lower() in MISSING


def without_markup(text, *, code=False):
    """(the text as a reader sees it, whether it held HTML): of a cell, tags and entities.

    code: whether it may be a program, which is left as it is: it holds HTML in strings. Then only what begins with a
    tag is HTML, and entities are those of a single line.
    """
    tags = TAG.search(text) and (not code or BEGINS.match(text))
    if not tags and (not ENTITY.search(text) or (code and "\n" in text)):
        return text, False
    if tags:
        parts, above = [], ()
        for _, path, body, *_ in sections_of_html(text):
            parts += [*path[len(above) if path[: len(above)] == above else 0 :], body]
            above = path
        shown = "\n\n".join(part for part in parts if part)
        return shown or TAG.sub(" ", text), True
    return beir.unescape(text).replace("\xa0", " "), True


def holds_text(value):
    """Whether a cell is an object that holds a text, or several."""
    return isinstance(value, dict) and "text" in value


def number_of(value):
    """The number that a cell holds, or None."""
    if isinstance(value, str):
        value = WORDS.get(re.sub(r"[\s_-]+", " ", value.strip().lower()).strip(), value)
    # a decimal comma and a share of a hundred; 1,000 is as likely a thousand
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(-?0|-?\d+(?!,\d{3}\b))(?:[.,](\d+))?\s*(%?)\s*", value)):
        value = f"{match[1]}.{match[2] or 0}{'e-2' if match[3] else ''}"
    try:
        return number if abs(number := float(value)) < 1e38 else None  # nor nan
    except (TypeError, ValueError):
        return None


def says_nothing(cell, *, beside_passage=False):
    """Whether a cell lists no answer as SQuAD 2 has it of a question that its passage does not answer."""
    found = listed(cell)
    return beside_passage and not found or len(found) == 1 and holds_text(found[0]) and not found[0]["text"]


def grading(path, rows, columns, said):
    """A function from a label to a grade, None without labels; BadInput if the numbers are no grades."""
    if "label" not in columns:
        if "relevant_from" in said:
            raise BadInput(f"{path}: relevant_from, and no column of labels; say which, as in {path}:label=COLUMN")
        _refuse_unclaimed(path, rows, columns, said)
        return None
    for column in columns["label"]:
        cells = [(number, cell) for number, row in rows for cell in listed(row.get(column))]
        known = [(number, value) for number, cell in cells if (value := number_of(cell)) is not None]
        if known or "label" in said:
            break
        if odd := _differing(rows, columns, column, lambda cell: str(cell).strip().lower() if cell else None):
            raise BadInput(
                f"{path}:{odd[0]}: {column} is {beir.shorten(str(odd[1]))} and {beir.shorten(str(odd[2]))} for docs of "
                f"one question, and no number: write 1 for relevant and 0, or say that it is no label: {path}:label="
            )
    else:  # words, as the topic of a question
        del columns["label"]
        return None
    columns["label"] = [column]
    whole = all(value == int(value) and abs(value) <= MOST_GRADE for _, value in known)
    if "relevant_from" in said:
        least = float(said["relevant_from"])
        return lambda value: int(value - least) + 1 if whole and value >= least else int(value >= least)
    for number, value in known:
        if value != int(value) or abs(value) > MOST_GRADE:
            raise BadInput(
                f"{path}:{number}: {column} is {value:g}, which is no grade (0, 1, 2 ...); say from which number on a "
                f"doc is relevant, as in {path}:relevant_from=.5, or that it is no label: {path}:label="
            )
    return int


def _differing(rows, columns, column, value_of):
    """(line, value, another) of the first question whose rows have two values in a column; None without any."""
    seen = {}
    for number, row in rows:
        if (value := value_of(row.get(column))) is not None:
            question = str([row.get(each) for each in columns.get("question", ())])
            if seen.setdefault(question, value) != value:
                return number, seen[question], value
    return None


def _refuse_unclaimed(path, rows, columns, said):
    """BadInput if a column that nobody has claimed looks like judgements: 0 and 1 for docs of one question."""
    taken = {*itertools.chain.from_iterable(columns.values()), *said.values()}
    for column in {name: None for _, row in rows for name in row if name not in taken} if "label" not in said else ():
        held = (cell for _, row in rows if (cell := row.get(column)) not in (None, ""))
        # a long text is no label, and is not searched for numbers
        binary = all(len(str(cell)) <= LONGEST and number_of(cell) in (0, 1) for cell in held)
        if LIKE_LABELS.fullmatch(column.lower().strip()):
            words = {str(cell).strip().lower() for _, row in rows if (cell := row.get(column)) not in (None, "")}
            if 1 < len(words) <= MOST_LABELS and max(map(len, words)) <= LONGEST:
                raise BadInput(
                    f"{path}: {column} is {', '.join(sorted(words))}, which may say how relevant a doc is: say "
                    f"{path}:label={column} if it holds numbers or yes and no, or that there is no label: {path}:label="
                )
        if binary and (odd := _differing(rows, columns, column, number_of)):
            raise BadInput(
                f"{path}:{odd[0]}: {column} is 0 and 1 for docs of one question, as labels are: say {path}:label="
                f"{column}, or that there is no label: {path}:label="
            )


def labels(row, columns, docs, grade, *, path, number):
    """The grade of each of a row's docs; None where the row has no label."""
    if not grade:
        given = [1 if doc.label is None else number_of(doc.label) for doc in docs]
        odd = [i for i, value in enumerate(given) if value is None or value != int(value) or abs(value) > MOST_GRADE]
        if odd:
            raise BadInput(
                f"{path}:{number}: the label of a doc is {beir.shorten(str(docs[odd[0]].label))}, which is no grade "
                "(0, 1, 2 ... or yes and no)"
            )
        return [int(value) for value in given]
    (column,) = columns["label"]
    cells = listed(row.get(column))
    if all(cell is None or not str(cell).strip() for cell in cells):
        return None
    values = [number_of(cell) for cell in (cells if len(cells) > 1 else cells * len(docs))]
    if None in values or len(values) != len(docs):
        raise BadInput(f"{path}:{number}: {column} is {beir.shorten(row[column])}: a number for each doc is wanted")
    return [grade(value) for value in values]


def scores_of(row, positives, negatives):
    """([the best positive's score, None for each positive, each negative's score or None], whether any was no use).

    Of no use are lists of another length than their docs, and what is no number.
    """
    of_pos, of_neg, of_all = (
        next(([number_of(each) for each in listed(row[name])] for name in names if row.get(name) is not None), [])
        for names in SCORED
    )
    if len(of_all) == len(positives) + len(negatives):
        of_pos, of_neg = of_all[: len(positives)], of_all[len(positives) :]
    lost = len(of_pos) not in (0, len(positives)) or len(of_neg) not in (0, len(negatives))
    lost |= None in (*of_pos, *of_neg)
    of_pos = of_pos or [doc.score for doc in positives if doc.score != GOLD]
    if len(of_neg) != len(negatives):
        of_neg = [doc.score for doc in negatives]
    best = max((score for score in of_pos if score is not None), default=None)
    return [best, *[None] * len(positives), *of_neg], lost
