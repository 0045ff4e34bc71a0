"""mteb, where it is installed: an encoder as one of its models, a collection as one of its tasks.

Its cache knows a model by name and revision. A folder has no revision, so that a second encoder would be given the
results of the first; the revision here is the fingerprint of the encoder's files.
"""

import pathlib

import torch

from lib.files import BadInput
from lib.model.encoder import embed_texts

SHOWN = ("ndcg_at_10", "mrr_at_10", "recall_at_10", "recall_at_100")  # of what mteb measures


def _mteb():
    try:
        import mteb
        import mteb.abstasks  # noqa: F401
    except ImportError:
        raise BadInput("--mteb needs the package mteb: pip install mteb") from None
    return mteb


def as_model(encoder, name):
    """An encoder as a model that mteb.evaluate() takes."""
    mteb = _mteb()

    class Model:
        def __init__(self):
            empty = {"name": f"hardneg/{name}", "revision": encoder.fingerprint}
            self.mteb_model_meta = mteb.models.ModelMeta.create_empty(overwrites=empty)

        def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs):
            """(n, D) vectors of all texts of a DataLoader, as queries or as docs."""
            texts = [text for batch in inputs for text in batch["text"]]
            kind = "query" if getattr(prompt_type, "value", prompt_type) == "query" else "doc"
            return embed_texts(encoder, texts, kind, desc=f"embedding for {task_metadata.name}")

        def similarity(self, a, b):
            """Inner products: vectors that are compared by cosine have length 1 already."""
            return torch.as_tensor(a) @ torch.as_tensor(b).T

        def similarity_pairwise(self, a, b):
            """Inner products, row by row."""
            return (torch.as_tensor(a) * torch.as_tensor(b)).sum(-1)

    return Model()


def as_task(collection, split):
    """A split of a collection as a retrieval task of mteb."""
    _mteb()
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    name = "".join(part.capitalize() for part in f"{collection.name} {split}".replace("-", " ").split())

    class Task(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"{name}{collection.fingerprint[:6]}",
            description=f"The {split} split of {collection.name}.",
            dataset={"path": str(pathlib.Path(collection.docs.path).parent), "revision": collection.fingerprint},
            type="Retrieval",
            category="t2t",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *args, **kwargs):
            """What the collection holds; nothing is downloaded."""
            docs, queries = collection.docs, collection.queries
            rows = collection.split(split).queries
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": Dataset.from_dict({"id": docs.ids, "text": docs.texts()}),
                        "queries": Dataset.from_dict(
                            {"id": [queries.ids[r] for r in rows], "text": queries.texts(rows)}
                        ),
                        "relevant_docs": collection.qrels_dict(split),
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    return Task()


def evaluate(encoder, name, tasks, *, cache=None):
    """[(task, {measure: value})] of mteb for an encoder; tasks are names of mteb's, or tasks."""
    mteb = _mteb()
    named = [task for task in tasks if isinstance(task, str)]
    try:
        wanted = [*(mteb.get_tasks(tasks=named) if named else []), *(t for t in tasks if not isinstance(t, str))]
    except KeyError as error:
        raise BadInput(f"--mteb: {str(error)[:200]}") from None
    results = mteb.evaluate(as_model(encoder, name), wanted, cache=cache, overwrite_strategy="always")
    return [
        (found.task_name, {k: v for k, v in scores[0].items() if isinstance(v, float)})
        for found in results.task_results
        for scores in found.scores.values()
    ]
