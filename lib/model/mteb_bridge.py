"""mteb, where it is installed: a collection as one of its tasks, a saved encoder measured on tasks."""

import pathlib

from lib.files import BadInput

SHOWN = ("ndcg_at_10", "mrr_at_10", "recall_at_10", "recall_at_100")  # of what mteb measures


def _mteb():
    try:
        import mteb
        import mteb.abstasks  # noqa: F401
    except ImportError:
        raise BadInput("--mteb needs the package mteb: pip install mteb") from None
    return mteb


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


def evaluate(folder, tasks, *, device):
    """[(task, {measure: value})] of mteb for the encoder saved in a folder; tasks are names of mteb's, or as_task()."""
    mteb = _mteb()
    from sentence_transformers import SentenceTransformer

    named = [task for task in tasks if isinstance(task, str)]
    try:
        wanted = [*(mteb.get_tasks(tasks=named) if named else []), *(t for t in tasks if not isinstance(t, str))]
        model = SentenceTransformer(str(folder), device=str(device))
    except (KeyError, ValueError) as error:
        raise BadInput(f"--mteb: {str(error)[:200]}") from None
    # no cache: mteb knows a result by the name of the model and a revision, and a folder has none
    results = mteb.evaluate(model, wanted, cache=None, overwrite_strategy="always")
    return [
        (found.task_name, {k: v for k, v in scores[0].items() if isinstance(v, float)})
        for found in results.task_results
        for scores in found.scores.values()
    ]
