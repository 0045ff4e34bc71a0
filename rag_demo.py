"""Ask a collection a question: the docs that a trained retriever finds, and an answer with citations.

    python rag_demo.py --run runs/R "how do I parse a date string?"
    python rag_demo.py --run runs/R                                     # a prompt; an empty line ends it

The answer is extractive: sentences of the docs found, nearest to the question. Nothing is invented, nothing
is fetched.
"""
import pathlib
import textwrap

from lib import data, generate, index, model, run
from lib.run import BadInput


def parse_args():
    parser = run.parser(__doc__)
    parser.add_argument("question", nargs="?", help="without one, questions are read from a prompt")
    parser.add_argument("--run", required=True, help="run folder with an encoder and an index")
    parser.add_argument("--data", help="collection whose index is asked; default: the run's own")
    parser.add_argument("--device", help="cpu, cuda, mps; default: cuda where there is one")
    parser.add_argument("--docs", type=int, default=5, help="docs to retrieve for a question")
    args = parser.parse_args()
    if args.docs <= 0:
        raise BadInput(f"--docs {args.docs}: must be above 0")
    return args


def main():
    args = parse_args()
    folder = pathlib.Path(args.run)
    collection = data.load_collection(args.data or run.recorded(folder)["args"]["data"])
    encoder = model.load_encoder(folder / "encoder").set_device(model.pick_device(args.device))
    found = index.load_index(folder / "index" / collection.name, encoder_fingerprint=encoder.fingerprint,
                             collection=collection)

    def embed(texts, kind):
        return model.embed(encoder, data.Tokens(*encoder.tokenize(texts, kind), kind=kind))

    def answer(question):
        scores, rows = found.search(embed([question], "query"), min(args.docs, len(collection.docs)))
        docs, texts = [collection.docs.record(row) for row in rows[0]], collection.docs.texts(rows[0])
        show(docs, texts, [collection.docs.ids[row] for row in rows[0]], scores[0])
        # what a function is for stands in its docstring, where there is one; the doc itself is code
        texts = [doc.get("metadata", {}).get("docstring") or text for doc, text in zip(docs, texts)]
        reply = generate.extractive_answer(question, texts, scores[0], embed=embed)
        print(f"\n{textwrap.fill(reply.text, 100)}\n")

    if args.question:
        return answer(args.question)
    print(f"{len(collection.docs):,} docs of {collection.name}; ask, or press Enter to leave")
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            break
        if not question:
            break
        answer(question)


def show(docs, texts, ids, scores):
    """The retrieved docs, best first: score, id, where it comes from, and how it begins."""
    for number, (doc, text, ident, score) in enumerate(zip(docs, texts, ids, scores), 1):
        meta = doc.get("metadata", {})
        known = {"name", "file", "line"} <= meta.keys()
        place = f"{meta['name']}  ({meta['file']}:{meta['line']})" if known else doc.get("title", "")
        print(f"\n[{number}] {score:.3f}  {ident}  {place}")
        print(textwrap.indent(textwrap.shorten(text, 240, placeholder=" ..."), "    "))


if __name__ == "__main__":
    run.cli(main)
