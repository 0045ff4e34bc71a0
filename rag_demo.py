"""Ask a collection a question: the docs that a trained retriever finds, and an answer with citations.

    python rag_demo.py --run runs/R "how do I parse a date string?"
    python rag_demo.py --run runs/R                                     # a prompt; an empty line ends it
    python rag_demo.py --retriever runs/R+bm25 --data FOLDER "..."      # as evaluate.py --retriever

The answer is extractive: sentences of the docs found, nearest to the question. Nothing is invented, nothing
is fetched.
"""

import pathlib
import textwrap

from lib import run
from lib.data import readers
from lib.data.beir import metadata_of
from lib.data.collection import collection_of
from lib.evaluation import retrieval
from lib.files import BadInput
from lib.model.encoder import embed_texts, pick_device
from lib.rag.generators import extractive_answer, hashed_words
from lib.search.retriever import run_of


def parse_args():
    parser = run.Parser(__doc__)
    parser.add_argument("question", nargs="?", help="without one, questions are read from a prompt")
    add = parser.group("what")
    add("--run", help="run folder whose encoder and index are asked: short for --retriever runs/R")
    retrieval.add_flags(add)
    add("--data", help=f"{readers.HELP}; default: the run's own")
    add("--strict", action="store_true", help=readers.STRICT)
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--docs", type=run.COUNT, default=5, help="docs to retrieve for a question")
    args = parser.parse_args()
    if bool(args.run) == bool(args.retriever):
        raise BadInput("say what searches: either --run R or --retriever bm25")
    return args


def main():
    args = parse_args()
    spec = args.run or args.retriever
    folder = pathlib.Path(args.run) if args.run else run_of(spec)
    _, collection = collection_of(args.data, folder, strict=args.strict)
    retriever, notes = retrieval.open_with(args, spec, collection, device=pick_device(args.device))
    for name, value in notes.items():
        print(f"{name} = {value}")

    def embed(texts, kind):
        if retriever.encoder is None:  # bm25 alone: sentences are compared by their words
            return hashed_words(texts)
        return embed_texts(retriever.encoder, texts, kind)

    def answer(question):
        hits = retriever.search([question], args.docs)
        found = hits.rows[0] >= 0
        scores, rows = hits.scores[0][found], hits.rows[0][found]
        if not len(rows):
            return print("nothing found: no word of the question is known to the encoder\n")
        docs, texts = [collection.docs.record(row) for row in rows], collection.docs.texts(rows)
        show(docs, texts, [collection.docs.ids[row] for row in rows], scores)
        # what a function is for stands in its docstring, where there is one; the doc itself is code
        texts = [metadata_of(doc).get("docstring") or text for doc, text in zip(docs, texts)]
        reply = extractive_answer(question, texts, scores, embed=embed)
        print(f"\n{textwrap.fill(run.printable(reply.text), 100)}\n")

    if args.question:
        return answer(args.question)
    print(f"{len(collection.docs):,} docs of {collection.name}; ask, or press Enter to leave")
    while True:
        try:
            question = input("> ").strip().encode("utf-8", "replace").decode()
        except EOFError:
            break
        if not question:
            break
        answer(question)


def show(docs, texts, ids, scores):
    """The retrieved docs, best first: score, id, where it comes from, and how it begins."""
    for number, (doc, text, ident, score) in enumerate(zip(docs, texts, ids, scores), 1):
        meta = metadata_of(doc)
        known = {"name", "file", "line"} <= meta.keys()
        place = f"{meta['name']}  ({meta['file']}:{meta['line']})" if known else doc.get("title") or ""
        print(run.printable(f"\n[{number}] {score:.3f}  {ident}  {place}"))
        print(textwrap.indent(textwrap.shorten(run.printable(text), 240, placeholder=" ..."), "    "))


if __name__ == "__main__":
    run.cli(main)
