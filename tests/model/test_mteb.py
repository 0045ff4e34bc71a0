"""Encoders and collections in mteb, where it is installed."""

import pytest
import torch
from conftest import make_encoder

from lib.evaluation import measures, retrieval
from lib.files import BadInput
from lib.model import encoder as model
from lib.model import mteb_bridge
from lib.search.retriever import open_retriever


def test_without_mteb_one_line_names_it(monkeypatch, tiny):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("mteb"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match="pip install mteb"):
        mteb_bridge.as_task(tiny, "test")


def test_mteb_measures_what_evaluate_measures_and_tells_encoders_apart(tiny, tmp_path):
    pytest.importorskip("mteb")
    task, found = mteb_bridge.as_task(tiny, "test"), []
    for seed in (0, 1):
        model.save_encoder(make_encoder(tiny, seed=seed), tmp_path / str(seed))
        retriever = open_retriever(tmp_path / str(seed), tiny, device=torch.device("cpu"))
        rankings, _ = retrieval.search_split(retriever, tiny, "test", 100, self_match="keep")
        own = measures.mean(measures.per_query(rankings, tiny.qrels_dict("test")))
        ((_, theirs),) = mteb_bridge.evaluate(tmp_path / str(seed), [task], device="cpu")
        assert theirs["ndcg_at_10"] == pytest.approx(own["ndcg@10"], abs=6e-6)  # mteb rounds to 5 digits
        found.append(theirs["ndcg_at_10"])
    assert found[0] != found[1]
