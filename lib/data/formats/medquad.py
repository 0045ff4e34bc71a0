"""MedQuAD as its public repository holds it: a folder of XML files for each of twelve websites.

Consumer health questions and their answers (Ben Abacha & Demner-Fushman, BMC Bioinformatics 2019, CC BY 4.0;
github.com/abachaa/MedQuAD). Three of the websites' answers are not distributed: their questions are left out.
Questions with the same text are one query, answers with the same text one doc, and all questions about one disease
(the files' Focus) are in one split.
"""

import pathlib
import random

from tqdm import tqdm

from lib.data import beir
from lib.files import BadInput, fingerprint_file, reading

RECIPE = 1  # raise it when the rules below change, so that cached folders are made again
SHUFFLED_BY = 13  # seed of the order in which diseases are dealt out: a tenth test, a tenth dev, the rest train


def build(folder):
    """(name, folder in BEIR layout) of a clone of the repository; BadInput if there is nothing to read."""
    root = pathlib.Path(folder)
    files = sorted(root.glob("*/*.xml"))
    if not files:
        raise BadInput(f"--data medquad:{folder}: no folder with .xml files is in it; a clone of MedQuAD is wanted")
    contents = [(str(path.relative_to(root)), fingerprint_file(path)) for path in files]
    return beir.build("medquad", "medquad", [contents, RECIPE], lambda: _read(folder, files))


def _read(folder, files):
    docs, queries, judged, empty = {}, {}, {}, []
    for path in tqdm(files, unit="file", desc="reading MedQuAD", delay=2):
        for focus, qtype, question, answer in _pairs(path):
            if not question or not answer:
                empty.append(f"{path.name} {question}")
                continue
            meta = {"focus": focus, "qtype": qtype}
            query = queries.setdefault(question, {"_id": f"q{len(queries)}", "text": question, "metadata": meta})
            doc = docs.setdefault(answer, {"_id": f"d{len(docs)}", "title": "", "text": answer})
            judged.setdefault(query["_id"], {})[doc["_id"]] = 1
    if not docs:
        raise BadInput(f"--data medquad:{folder}: {len(files):,} files, and no question with an answer")
    split = _splits({query["metadata"]["focus"] for query in queries.values()})
    found = [
        (q["_id"], split[q["metadata"]["focus"]], dict(sorted(judged[q["_id"]].items()))) for q in queries.values()
    ]
    return docs.values(), queries.values(), found, {"questions without an answer": empty} if empty else {}


def _pairs(path):
    """(focus, type of question, question, answer) of each pair of a file, white space as single spaces."""
    with reading(path):
        root = beir.parse_xml(path.read_bytes(), path)
    focus = " ".join((root.findtext("Focus") or "").split())
    for pair in root.iter("QAPair"):
        question, answer = pair.find("Question"), pair.find("Answer")
        texts = ["" if part is None else " ".join("".join(part.itertext()).split()) for part in (question, answer)]
        yield focus, "" if question is None else question.get("qtype") or "", *texts


def _splits(diseases):
    """{disease: split}."""
    order, tenth = sorted(diseases), round(len(diseases) / 10)
    random.Random(SHUFFLED_BY).shuffle(order)
    return {disease: "test" if i < tenth else "dev" if i < 2 * tenth else "train" for i, disease in enumerate(order)}
