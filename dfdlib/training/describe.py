"""A model as JSON and back: which class, with which arguments.

The rule is scikit-learn's: a constructor keeps each argument under the argument's own name. Then a
module is described by reading these attributes, and made again by calling its class. Only classes
of the lists below are made, and those of packages that the caller trusts by name.
"""

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from dfdlib.data import Schema

_PLAIN = (bool, int, float, str, type(None))

#: Classes of this library that a saved model may name, by module of `dfdlib.models`.
_OURS = {
    "additive": ("Invariant", "Substitute"),
    "baselines": ("CORAL", "IRM", "VREx"),
    "classifier": ("Classifier",),
    "dfd": ("DFD",),
    "encoders": ("CategoricalEncoder", "CodeBag", "VectorEncoder"),
    "environments": ("MomentMatching",),
    "gate": ("Gate",),
    "grape": ("GRAPE",),
    "group_dro": ("GroupDRO", "GroupWeights"),
    "heads": ("Deconfounder", "Linear"),
    "lff": ("LfF",),
    "m3care": ("M3Care",),
    "muse": ("MUSE",),
    "routes": ("Dropout", "InverseProbability", "NWGM", "Prototypes", "Stratified"),
    "series": ("RowEmbedding", "SeriesGRU", "SeriesTransformer"),
    "transformer": ("TokenTransformer",),
    "vae": ("MultimodalVAE",),
    # the networks that a MultimodalVAE makes for its views
    "vae_networks": (
        "ImageDecoder",
        "ImageEncoder",
        "ResidualDecoder",
        "ResidualEncoder",
        "VectorDecoder",
        "VectorEncoder",
    ),
}

#: Classes of torch that do nothing but arithmetic, by module of `torch.nn.modules`.
_TORCHS = {
    "activation": (
        "ELU", "GELU", "Hardtanh", "LeakyReLU", "PReLU", "ReLU", "ReLU6", "SELU", "Sigmoid",
        "SiLU", "Softmax", "Softplus", "Tanh",
    ),
    "batchnorm": ("BatchNorm1d", "BatchNorm2d"),
    "container": ("ModuleList", "Sequential"),
    "conv": ("Conv1d", "Conv2d"),
    "dropout": ("Dropout", "Dropout1d", "Dropout2d"),
    "flatten": ("Flatten",),
    "linear": ("Bilinear", "Identity", "Linear"),
    "normalization": ("GroupNorm", "LayerNorm", "RMSNorm"),
    "pooling": ("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AvgPool1d", "AvgPool2d", "MaxPool2d"),
    "rnn": ("GRU", "LSTM"),
    "sparse": ("Embedding",),
}  # fmt: skip

_LISTED = frozenset(
    [f"dfdlib.models.{module}:{name}" for module, names in _OURS.items() for name in names]
    + [f"torch.nn.modules.{module}:{name}" for module, names in _TORCHS.items() for name in names]
    + [f"torch.nn:{name}" for names in _TORCHS.values() for name in names]
)

#: Where classes stood when earlier versions saved them, and where they stand.
_MOVED = {
    "dfdlib.models.codes:CodeBag": "dfdlib.models.encoders:CodeBag",
    "dfdlib.models.moments:MomentMatching": "dfdlib.models.environments:MomentMatching",
} | {
    f"dfdlib.models.{module}:{name}": f"dfdlib.models.vae_networks:{name}"
    for module, names in {
        "_residual": ("ResidualDecoder", "ResidualEncoder"),
        "_vae_networks": ("ImageDecoder", "ImageEncoder", "VectorDecoder", "VectorEncoder"),
    }.items()
    for name in names
}

#: Options that are gone, by the class whose constructor had them, with what they were by default:
#: the class does now what they did then.
_REMOVED: dict[str, dict[str, Any]] = {
    "dfdlib.models.additive:Substitute": {"n_levels": 2},
    "dfdlib.models.baselines:CORAL": {"momentum": 0.9},
    "dfdlib.models.dfd:DFD": {"memory": "prototypes"},
    "dfdlib.models.heads:Deconfounder": {"n_levels": 2},
}

#: How deep a description may be nested; the deepest of this library has a tenth of it.
_DEEPEST = 64
#: How many modules it may name: a thousand times those of this library's largest.
_MOST = 10_000

#: What stands for a value that JSON cannot hold; gets the value and its name in messages.
Other = Callable[[Any, str], Any]


def describe(value: Any, *, where: str = "model", other: Other | None = None) -> Any:
    """Describe a module (or one of its arguments) by what JSON can hold.

    Args:
        value: a module, a schema, a plain value, or a list or mapping of these.
        where: how the value is called in error messages.
        other: gives what stands for a value that could not be made again; None raises.

    Raises:
        TypeError: if a module does not keep an argument, the argument is of another type, or the
            class cannot be imported elsewhere.

    Example:
        >>> from dfdlib.models import Linear
        >>> describe(Linear(d=8, n_outputs=1))
        {'class': 'dfdlib.models.heads:Linear', 'arguments': {'d': 8, 'n_outputs': 1}}
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Schema):
        return {"schema": value.to_dict()}
    if isinstance(value, nn.ModuleDict | dict):
        parts = {k: describe(v, where=f"{where}[{k!r}]", other=other) for k, v in value.items()}
        return {"items": parts}
    if isinstance(value, list | tuple):
        return [describe(v, where=f"{where}[{i}]", other=other) for i, v in enumerate(value)]
    try:
        arguments = _arguments(value, where)
    except TypeError:
        if other is None:
            raise
        return other(value, where)
    kind = type(value)
    return {
        "class": f"{kind.__module__}:{kind.__qualname__}",
        "arguments": {
            name: describe(argument, where=f"{where}.{name}", other=other)
            for name, argument in arguments.items()
        },
    }


def _arguments(value: Any, where: str) -> dict[str, Any]:
    """The arguments with which a module could be made again, anywhere."""
    if not isinstance(value, nn.Module):
        raise TypeError(
            f"{where} is a {type(value).__name__}, which cannot be saved as JSON. Use plain values "
            "and modules as arguments of what you save."
        )
    kind = type(value)
    if kind.__module__ == "__main__" or "." in kind.__qualname__:
        raise TypeError(
            f"{where} is a {kind.__qualname__} that was defined in a notebook or in a function, so "
            "no other process can import it. Put the class into a module of your own."
        )
    arguments = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name == "self":
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not hasattr(
            value, name
        ):
            raise TypeError(
                f"{where} is a {kind.__name__}, which does not keep its argument {name!r}, so it "
                f"could not be made again. Write a class of your own whose __init__ sets "
                f"self.{name} = {name}."
            )
        arguments[name] = getattr(value, name)
    return arguments


def rebuild(description: Any, *, trust: Sequence[str] = ()) -> Any:
    """Make again what `describe` described; see `check_trust` for what is made.

    Raises:
        ImportError: if a class is not among those that are made, or cannot be imported.
        ValueError: if it is no description, or an option that is gone was set.

    Example:
        >>> from dfdlib.models import Linear
        >>> rebuild(describe(Linear(d=8, n_outputs=1)))
        Linear(
          (map): Linear(in_features=8, out_features=1, bias=True)
        )
    """
    check_trust(description, trust=trust)
    return _made(description, trust)


def check_names(trust: Sequence[str]) -> None:
    """Refuse a `trust` that names no packages, modules or classes.

    Raises:
        ValueError: if a name is none.
        TypeError: if it is no list of names.
    """
    named = isinstance(trust, Sequence | set | frozenset) and not isinstance(trust, str | bytes)
    if not named or not all(isinstance(name, str) for name in trust):
        raise TypeError(f"trust is a list of names, got {trust!r}. Pass trust=['mypackage'].")
    for name in trust:
        module, colon, kind = name.partition(":")
        if not _dotted(module) or (colon and not _word(kind)):
            raise ValueError(
                f"{name!r} names no package, module or class. Pass trust=['mypackage'], "
                "['mypackage.module'] or ['mypackage.module:Class']."
            )


def check_trust(description: Any, *, trust: Sequence[str] = ()) -> None:
    """Refuse a description that names a class that nobody trusts; nothing is imported.

    Made are the methods, backbones, heads and encoders of `dfdlib.models`, layers of `torch.nn`
    that do arithmetic only, and what stands in a package, in a module (`package.module`) or is a
    class (`package.module:Class`) of `trust`.

    Raises:
        ImportError: if a class is not among those that are made.
        ValueError: if it is no description, or `trust` names nothing.
        TypeError: if `trust` is no list of names.

    Example:
        >>> check_trust({"class": "os:system", "arguments": {"command": "true"}})
        Traceback (most recent call last):
        ImportError: the saved model names the class 'os:system', which is not among those ...
    """
    check_names(trust)
    n_classes = 0
    left: list[tuple[Any, int]] = [(description, 0)]
    while left:
        value, depth = left.pop()
        if depth > _DEEPEST:
            raise ValueError(f"the description of the model is nested over {_DEEPEST} deep")
        parts = _parts(value)
        if isinstance(value, dict) and "class" in value:
            _check_class(value["class"], trust)
            n_classes += 1
            if n_classes > _MOST:
                raise ValueError(f"the description of the model names over {_MOST:,} modules")
        left += [(part, depth + 1) for part in parts]


def _parts(value: Any) -> list[Any]:
    """The parts of a description that are descriptions themselves."""
    if isinstance(value, list):
        return value
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("the description of the model holds a number of more than 64 bits")
    if isinstance(value, _PLAIN):
        return []
    if isinstance(value, dict):
        match sorted(value):
            case ["schema"] if isinstance(value["schema"], dict):
                return []
            case ["items"] if isinstance(value["items"], dict):
                return list(value["items"].values())
            case ["arguments", "class"] if isinstance(value["arguments"], dict):
                return list(value["arguments"].values())
    raise ValueError(
        "the description of the model holds a part that is no value, list, schema or class"
    )


def _check_class(name: Any, trust: Sequence[str]) -> None:
    module, _, kind = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not _dotted(module) or not _word(kind):
        raise ImportError(
            f"the saved model names {_short(name)}, which is no name of a class "
            "('module:Class'). Nothing was imported."
        )
    if not _trusted(name, trust):
        raise ImportError(
            f"the saved model names the class {_short(name)}, which is not among those that are "
            "made without being asked for. Nothing was imported. If you trust whoever wrote "
            f"{_short(module.partition('.')[0])}, pass "
            f"load_model(folder, trust=[{_short(module.partition('.')[0])}])."
        )


def _trusted(name: str, trust: Sequence[str]) -> bool:
    module = name.partition(":")[0]
    return (
        name in _LISTED
        or name in _MOVED
        or any(
            name == trusted or module == trusted or module.startswith(f"{trusted}.")
            for trusted in trust
        )
    )


def _word(name: str) -> bool:
    """Whether it is a plain name; those with two underscores are Python's own."""
    return name.isidentifier() and not name.startswith("__")


def _dotted(name: str) -> bool:
    return all(_word(part) for part in name.split("."))


def _short(name: Any) -> str:
    text = repr(name)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _made(description: Any, trust: Sequence[str]) -> Any:
    if isinstance(description, list):
        return [_made(v, trust) for v in description]
    if not isinstance(description, dict):
        return description
    if "schema" in description:
        return Schema.from_dict(description["schema"])
    if "items" in description:
        return {k: _made(v, trust) for k, v in description["items"].items()}
    full: str = description["class"]
    full = _MOVED.get(full, full)
    module, _, name = full.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"cannot import {name!r} from {module!r}, which a saved model needs. Put the class "
            "into a module that can be imported here."
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ImportError(f"{full} is no torch module, so it is not called.")
    # a trusted module may itself import classes that nobody trusts
    if not _trusted(f"{kind.__module__}:{kind.__qualname__}", trust):
        raise ImportError(
            f"{full} is {kind.__module__}:{kind.__qualname__}, which is not among the classes that "
            f"are made. If you trust it, pass trust=[{kind.__module__!r}] too."
        )
    arguments = _without_removed(kind, description["arguments"])
    return kind(**{k: _made(v, trust) for k, v in arguments.items()})


def _without_removed(kind: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Leave out options that are gone, where they have the value that is left of them."""
    maker = next(base for base in kind.__mro__ if "__init__" in vars(base))
    removed = _REMOVED.get(f"{maker.__module__}:{maker.__qualname__}", {})
    for name, value in removed.items():
        if arguments.get(name, value) != value:
            raise ValueError(
                f"the saved model has {name}={_short(arguments[name])}, and {maker.__name__} no "
                f"longer has the option {name!r}: it does what {name}={value!r} did. Load the "
                "model with the version of dfdlib that saved it, or train it anew"
            )
    return {name: argument for name, argument in arguments.items() if name not in removed}
