"""What may stand behind the pooling: modules of sentence-transformers' layout, read and written.

A new one is a class and a row of MODULES.
"""

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from lib.files import BadInput, read_json, write_json


class Dense(nn.Module):
    """A linear layer, an activation and, if asked for, a connection around both."""

    def __init__(
        self, in_features, out_features, *, bias=True, activation="torch.nn.modules.activation.Tanh", residual=False
    ):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation_name, self.activation = activation, _activation(activation)
        self.use_residual = residual
        if residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)

    def forward(self, x):
        """(n, in) -> (n, out)."""
        out = self.activation(self.linear(x))
        if self.use_residual:
            out = out + (self.residual(x) if hasattr(self, "residual") else x)
        return out

    @classmethod
    def read(cls, folder):
        """The layer of a folder."""
        config = read_json(folder / "config.json")
        keys = {"bias": "bias", "activation_function": "activation", "use_residual": "residual"}
        known = {*keys, "in_features", "out_features", "module_input_name", "module_output_name"}
        if unknown := config.keys() - known:
            raise BadInput(f"{folder}/config.json: {min(unknown)} of Dense is not supported")
        for name in ("module_input_name", "module_output_name"):
            if config.get(name) not in (None, "sentence_embedding"):
                raise BadInput(
                    f"{folder}/config.json: {name} {config[name]}: only the text's vector can be transformed"
                )
        options = {ours: config[name] for name, ours in keys.items() if name in config}
        return _with_weights(cls(config["in_features"], config["out_features"], **options), folder)

    def write(self, folder):
        """Write config.json and the weights."""
        config = {"in_features": self.linear.in_features, "out_features": self.linear.out_features}
        config |= {"bias": self.linear.bias is not None, "activation_function": self.activation_name}
        write_json(folder / "config.json", config | ({"use_residual": True} if self.use_residual else {}))
        _write_weights(self, folder)


class Normalize(nn.Module):
    """Vectors of length 1."""

    def forward(self, x):
        """(n, D) -> (n, D)."""
        return F.normalize(x, dim=-1)

    @classmethod
    def read(cls, folder):
        """The module has no settings but where it reads and writes."""
        config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
        if any(value not in (None, "sentence_embedding") for value in config.values()):
            raise BadInput(f"{folder}/config.json: only the text's vector can be normalised")
        return cls()

    def write(self, folder):
        """Leave an empty folder, as sentence-transformers does."""
        folder.mkdir(parents=True, exist_ok=True)


class LayerNorm(nn.Module):
    """Layer normalisation of the vectors."""

    def __init__(self, dimension):
        super().__init__()
        self.norm = nn.LayerNorm(dimension)

    def forward(self, x):
        """(n, D) -> (n, D)."""
        return self.norm(x)

    @classmethod
    def read(cls, folder):
        """The layer of a folder."""
        return _with_weights(cls(read_json(folder / "config.json")["dimension"]), folder)

    def write(self, folder):
        """Write config.json and the weights."""
        write_json(folder / "config.json", {"dimension": self.norm.normalized_shape[0]})
        _write_weights(self, folder)


class Dropout(nn.Module):
    """Dropout of the vectors, in training."""

    def __init__(self, dropout=0.2):
        super().__init__()
        self.layer = nn.Dropout(dropout)

    def forward(self, x):
        """(n, D) -> (n, D)."""
        return self.layer(x)

    @classmethod
    def read(cls, folder):
        """The module of a folder."""
        return cls(**read_json(folder / "config.json"))

    def write(self, folder):
        """Write config.json."""
        write_json(folder / "config.json", {"dropout": self.layer.p})


MODULES = {"Dense": Dense, "Normalize": Normalize, "LayerNorm": LayerNorm, "Dropout": Dropout}


def read_modules(folder):
    """[(folder, kind)] of modules.json, in order; None if the folder has none. Code of a model's own is refused."""
    path = folder / "modules.json"
    if not path.exists():
        return None
    try:
        found = [(folder / module["path"], module["type"]) for module in read_json(path)]
        own = [name for _, name in found if not name.startswith("sentence_transformers.")]
    except (KeyError, TypeError, AttributeError):
        found, own = [], []
    if not found:
        raise BadInput(f"{path}: a list of modules, each with path and type, is wanted")
    if own:
        raise BadInput(f"{folder}: module {own[0]} is code of the model's own, which is refused")
    return [(place, name.rsplit(".", 1)[-1]) for place, name in found]


def _activation(name):
    """The module that a path such as torch.nn.modules.activation.Tanh names; nothing outside of torch is imported."""
    kind = getattr(nn, name.rsplit(".", 1)[-1], None) if name.startswith("torch.nn.") else None
    try:
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            return kind()
    except TypeError:  # a layer that wants sizes is no activation
        pass
    raise BadInput(f"activation function {name}: none of torch.nn")


def read_weights(folder):
    """{name: tensor} of model.safetensors or else of pytorch_model.bin, which may hold tensors only."""
    if (folder / "model.safetensors").exists():
        return safetensors.torch.load_file(folder / "model.safetensors")
    path = folder / "pytorch_model.bin"
    if not path.exists():
        raise BadInput(f"{folder}: neither model.safetensors nor pytorch_model.bin")
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever a hostile or broken pickle raises
        raise BadInput(f"{path}: no file of tensors ({type(error).__name__})") from None


def _with_weights(module, folder):
    try:
        module.load_state_dict(read_weights(folder))
    except RuntimeError as error:
        raise BadInput(f"{folder}: {' '.join(str(error).split())}") from None
    return module


def _write_weights(module, folder):
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().float().cpu().contiguous() for name, value in module.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors")
