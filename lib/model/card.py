"""README.md of a saved encoder: how to use it, what it was trained on, and how good it is."""

from lib.files import markdown, write_text
from lib.model.pooling import POOLINGS, parse_pooling

HEAD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- feature-extraction
- dense-retrieval
---
# {title}

{what} Vectors have {dim} dimensions and are compared by {similarity}.
FOLDER stands for the folder that holds this file.

```python
from sentence_transformers import SentenceTransformer

encoder = SentenceTransformer("FOLDER")
q_emb, d_emb = encoder.encode_query(["..."]), encoder.encode_document(["..."])
scores = encoder.similarity(q_emb, d_emb)
```

With FAISS:

```python
import faiss

index = faiss.IndexFlatIP({dim})
index.add(d_emb)
scores, rows = index.search(q_emb, 10)
```

With LangChain (package langchain-huggingface):

```python
from langchain_huggingface import HuggingFaceEmbeddings

embeddings = HuggingFaceEmbeddings(model_name="FOLDER"{options})
```
"""
PROMPTS = ', encode_kwargs={"prompt_name": "document"}, query_encode_kwargs={"prompt_name": "query"}'
# flags that the table names otherwise, or that say nothing of the encoder
TOLD = frozenset("data encoder negatives seeds name overwrite resume temperature batch_size jobs device".split())


def write_card(folder, encoder, record=None):
    """Write README.md into an encoder's folder. record: {config, summary, verdict} of the run that trained it."""
    static = encoder.kind == "static"
    settings = {} if static else encoder.settings
    prompts = any(settings.get(f"{kind}_prefix") for kind in ("query", "doc"))
    text = HEAD.format(
        title=record["summary"]["name"] if record else "A retriever",
        what="A static encoder: the mean of learned token vectors."
        if static
        else f"A transformer encoder ({type(encoder.doc_tower[0].model).__name__}).",
        dim=encoder.dim,
        similarity="cosine" if settings.get("normalize", True) else "inner product",
        options=PROMPTS if prompts else "",
    )
    write_text(folder / "README.md", text + _refused(encoder) + (_training(**record) if record else ""))


def _refused(encoder):
    """What sentence-transformers does not read."""
    names = [] if encoder.kind == "static" else parse_pooling(encoder.settings["pooling"])
    own = [name for name in names if callable(POOLINGS[name])]
    return f"\nsentence-transformers does not know the pooling {own[0]} and refuses this folder.\n" if own else ""


def _training(config, summary, verdict):
    args, derived, inputs = config["args"], config["derived"], config["inputs"]
    start = "random weights" if args["encoder"] == "static" or args["from_config"] else args["encoder"]
    start = f"vectors of tokens by {args['init']}" if args.get("init") else start
    rows = {
        "collection": f"{inputs['collection']} (fingerprint {inputs['collection_fingerprint']})",
        "train queries": f"{derived['train_queries']:,}",
        "started from": start,
        "negatives": summary["negatives"],
        "loss": args["base"],
    }
    rows |= {"temperature": args["temperature"], "queries a step": args["batch_size"]}
    rows |= {f"--{name}": _shown(value) for name, value in config["non_default"].items() if name not in TOLD}
    rows |= {"steps": f"{summary['steps']:,}, the best on dev at {summary['best_step']:,}", "seed": summary["seed"]}
    measured = {"this encoder": summary["test"], "BM25": summary["bm25"]}
    measured |= {"before training": summary["untrained"]} if "untrained" in summary else {}
    names = list(summary["test"])
    results = [[label, *(f"{of[name]:.4f}" for name in names)] for label, of in measured.items()]
    return (
        f"\n## Training\n\n{markdown(['', ''], [[name, str(value)] for name, value in rows.items()])}\n## Results\n\n"
        f"On the test queries of {inputs['collection']}, among all its docs:\n\n{markdown(['', *names], results)}"
        f"\nVerdict: {verdict}" + (" (RUN is the folder of its training).\n" if "RUN" in verdict else ".\n")
    )


def _shown(value):
    return " ".join(map(str, value)) if isinstance(value, list) else value
