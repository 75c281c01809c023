"""A model as JSON and back: which class, with which arguments.

The rule is scikit-learn's: a constructor keeps each argument under the argument's own name. Then a
module is described by reading these attributes, and made again by calling its class.
"""

import importlib
import inspect
from typing import Any

from torch import nn

from dfdlib.data import Schema

_PLAIN = (bool, int, float, str, type(None))


def describe(value: Any, *, where: str = "model") -> Any:
    """Describe a module (or one of its arguments) by what JSON can hold.

    Args:
        value: a module, a schema, a plain value, or a list or mapping of these.
        where: how the value is called in error messages.

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
        return {"items": {k: describe(v, where=f"{where}[{k!r}]") for k, v in value.items()}}
    if isinstance(value, list | tuple):
        return [describe(v, where=f"{where}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, nn.Module):
        raise TypeError(
            f"{where} is a {type(value).__name__}, which cannot be saved as JSON. Use plain values "
            "and modules as arguments of what you save."
        )
    kind, arguments = type(value), {}
    if kind.__module__ == "__main__" or "." in kind.__qualname__:
        raise TypeError(
            f"{where} is a {kind.__qualname__} that was defined in a notebook or in a function, so "
            "no other process can import it. Put the class into a module of your own."
        )
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
        arguments[name] = describe(getattr(value, name), where=f"{where}.{name}")
    return {"class": f"{kind.__module__}:{kind.__qualname__}", "arguments": arguments}


def rebuild(description: Any) -> Any:
    """Make again what `describe` described.

    Raises:
        ImportError: if the class cannot be imported, or is no torch module.

    Example:
        >>> from dfdlib.models import Linear
        >>> rebuild(describe(Linear(d=8, n_outputs=1)))
        Linear(
          (map): Linear(in_features=8, out_features=1, bias=True)
        )
    """
    if isinstance(description, list):
        return [rebuild(v) for v in description]
    if not isinstance(description, dict):
        return description
    if "schema" in description:
        return Schema.from_dict(description["schema"])
    if "items" in description:
        return {k: rebuild(v) for k, v in description["items"].items()}
    module, _, name = description["class"].partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"cannot import {name!r} from {module!r}, which a saved model needs. Put the class "
            "into a module that can be imported here."
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ImportError(f"{description['class']} is no torch module, so it is not called.")
    return kind(**{k: rebuild(v) for k, v in description["arguments"].items()})
