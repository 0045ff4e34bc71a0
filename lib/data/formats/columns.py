"""What the columns of a table are: found by their names, or as a spec says, `question=COLUMN,answer=COLUMN`."""

import itertools
import re

from lib.data.formats import cells, table_files
from lib.files import BadInput

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
# columns of lists that would be docs, if anybody knew which
LIKE_DOCS = re.compile(r".*(pos|neg|ctx|passage|doc|context|distractor|answer).*")
SHARED = 4  # different texts behind each instruction, at least
PARTITIONS = ("subset", "partition", "fold", "set")  # which say the split where they hold nothing else


def check_roles(spec, said):
    """BadInput if roles are named that there are not."""
    if unknown := said.keys() - {*ROLES, *SETTINGS}:
        raise BadInput(f"--data {spec}: {min(unknown)} is none of {', '.join((*ROLES, *SETTINGS))}")
    try:
        float(said.get("relevant_from", 0))
    except ValueError:
        raise BadInput(f"--data {spec}: relevant_from is the least number of a relevant doc, as .5") from None


def roles_of(path, number, row, said):
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
    taken = list(itertools.chain.from_iterable(columns for role, columns in found.items() if role not in said))
    renamed = table_files.suffix(path) in (".csv", ".tsv")  # where only the second one of a name is called NAME.1
    if twice := [name for name in taken if renamed and f"{name}.1" in row and f"{name}.1" not in taken]:
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


def not_used(path, rows, columns):
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


def without_instructions(rows, columns):
    """(the rows, their cells of an instruction and a text only the text, the columns of such cells), as MEDI has them.

    An instruction is the first of two texts where SHARED texts or more stand behind each; lists of two questions or
    positives have as many firsts as seconds.
    """
    found = []
    for column in itertools.chain.from_iterable(columns.get(role, ()) for role in ("question", "doc", "negative")):
        cells = [row[column] for _, row in rows if row.get(column)]
        pairs = [each for each in cells if isinstance(each, list) and [type(text) for text in each] == [str, str]]
        firsts, seconds = ({pair[i] for pair in pairs} for i in (0, 1))
        if cells and len(pairs) == len(cells) and SHARED * len(firsts) <= len(seconds):
            found.append(column)
    if columns["question"][0] not in found:
        return rows, []
    return [(n, row | {column: row[column][1] for column in found if row.get(column)}) for n, row in rows], found


def partition(rows, columns):
    """{"split": [column]} where a column of another name says train, dev and test and nothing else."""
    names = {name for _, row in rows for name in row if name.lower().strip() in PARTITIONS}
    for name in sorted(names) if "split" not in columns else ():
        values = {str(row.get(name) or "").strip().lower() for _, row in rows}
        if len(values) > 1 and values <= table_files.SPLITS.keys():
            return {"split": [name]}
    return {}
