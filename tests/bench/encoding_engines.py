"""Encode docs on the CPU by our own loop and by OpenVINO: is another engine worth a dependency?

    pip install openvino nncf                                       # nncf for int8; nothing else here needs them
    python tests/bench/encoding_engines.py --model FOLDER --data FOLDER --docs 200

Same tokens, batches and pooling, only the backbone differs: torch in float32, OpenVINO in float32, and OpenVINO
in int8 as NNCF quantises it on 100 of the docs. The engines alternate; the median of --repeats, the least and
the most, and the lowest cosine with torch are printed.
"""

import pathlib
import statistics
import sys
import time
import types

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from lib import cli, process  # noqa: E402
from lib.data.collection import load_collection  # noqa: E402
from lib.data.tokens import Tokens  # noqa: E402
from lib.files import BadInput  # noqa: E402
from lib.model.encoder import embed, load_to_encode  # noqa: E402

CALIBRATED_ON = 100  # docs


class Compiled(torch.nn.Module):
    """An OpenVINO model in the place of a backbone."""

    def __init__(self, compiled, config):
        super().__init__()
        self.compiled, self.config = compiled, config
        self.placeholder = torch.nn.Parameter(torch.zeros(1))  # whose device is asked for

    def forward(self, input_ids, attention_mask=None, **others):
        """Hidden states (n, T, D) of token ids (n, T)."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.compiled({"input_ids": input_ids.numpy(), "attention_mask": mask.long().numpy()})[0]
        return types.SimpleNamespace(last_hidden_state=torch.from_numpy(states))


class Plain(torch.nn.Module):
    """A backbone as OpenVINO converts it: two arguments, one result."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids, attention_mask):
        """Hidden states (n, T, D)."""
        return self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def openvino_encoders(args, tokens):
    """{name: encoder} whose backbone OpenVINO computes; {} where it is not installed."""
    try:
        import openvino
    except ImportError:
        print("note: openvino is not installed (pip install openvino nncf): our own engines alone")
        return {}
    backbone = load_to_encode(args.model, torch.device("cpu"), "fp32").doc_tower[0].model
    example = {name: torch.ones(2, 9, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    converted = {"openvino": openvino.convert_model(Plain(backbone), example_input=example)}
    try:
        import nncf

        ids = (
            tokens.select(np.array([row])).ids.long().numpy()[None] for row in range(min(CALIBRATED_ON, len(tokens)))
        )
        samples = [{"input_ids": each, "attention_mask": np.ones_like(each)} for each in ids]
        kind = nncf.ModelType.TRANSFORMER
        converted["openvino int8"] = nncf.quantize(
            converted["openvino"], nncf.Dataset(samples), model_type=kind, subset_size=len(samples)
        )
    except ImportError:
        print("note: nncf is not installed: no int8 by OpenVINO")
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    found = {}
    for name, model in converted.items():
        found[name] = load_to_encode(args.model, torch.device("cpu"), "fp32")
        found[name].doc_tower[0].model = Compiled(
            openvino.Core().compile_model(model, "CPU", settings), backbone.config
        )
    return found


def main():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    add("--model", required=True, help="folder of a transformer")
    add("--data", required=True, help="the collection whose docs are encoded")
    add("--docs", type=cli.COUNT, default=200, help="how many, spread over the corpus")
    add("--repeats", type=cli.COUNT, default=3, help="times that each engine encodes all of them")
    args = parser.parse_args()
    collection = load_collection(args.data)
    texts = collection.docs.texts(np.linspace(0, len(collection.docs) - 1, args.docs).astype(int))
    encoders = {"torch": load_to_encode(args.model, torch.device("cpu"), "fp32")}
    if encoders["torch"].kind != "transformer":
        raise BadInput(f"--model {args.model}: is a static encoder")
    tokens = Tokens(*encoders["torch"].tokenize(texts, "doc"))
    encoders |= openvino_encoders(args, tokens)
    vectors = {name: embed(encoder, tokens) for name, encoder in encoders.items()}  # and the first pass is over
    seconds = {name: [] for name in encoders}
    for _ in range(args.repeats):
        for name, encoder in encoders.items():
            begin = time.perf_counter()
            embed(encoder, tokens)
            seconds[name].append(time.perf_counter() - begin)
    plain = statistics.median(seconds["torch"])
    print(f"{'engine':15}{'docs/s':>8}{'least':>8}{'most':>8}  of torch  lowest cosine")
    for name, took in seconds.items():
        low, middle, high = (len(texts) / value for value in (max(took), statistics.median(took), min(took)))
        cosine = float(((vectors[name] * vectors["torch"]).sum(1)).min())
        print(f"{name:15}{middle:8.1f}{low:8.1f}{high:8.1f}{plain / statistics.median(took):9.2f}x  {cosine:.5f}")


if __name__ == "__main__":
    process.cli(main)
