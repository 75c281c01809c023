"""One node of a structural causal model: a function of its parents and its own noise."""

import dis
import hashlib
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from dfdlib.causal._names import check_name, suggestion

NOISES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "uniform": lambda rng, n: rng.random(n),
    "logistic": lambda rng, n: rng.logistic(size=n),
}


@dataclass(frozen=True)
class Mechanism:
    """A function, the nodes that it reads, and whether it reads its own noise."""

    function: Callable[..., Any]
    parents: tuple[str, ...]
    noisy: bool


def read_mechanism(node: str, function: Any, nodes: Collection[str]) -> Mechanism:
    """Read parents from argument names; refuse what would not mean what it seems to."""
    if not callable(function):
        raise ValueError(
            f"the mechanism of {node!r} must be a function of its parents and u, got "
            f"{function!r}. Write {node}=lambda: {function!r} for a constant."
        )
    try:
        arguments = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise ValueError(
            f"the argument names of the mechanism of {node!r} cannot be read. Wrap it: "
            f"{node}=lambda u: ..."
        ) from error
    names = []
    for argument in arguments:
        name = argument.name
        if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
            raise ValueError(
                f"the mechanism of {node!r} takes {argument}: name each parent as an argument."
            )
        if argument.default is not argument.empty:
            if name == "u" or name in nodes:
                what = "the noise" if name == "u" else "a node"
                raise ValueError(
                    f"the mechanism of {node!r} has a default for {name!r}, which shadows "
                    f"{what} of that name. Drop the default, or rename the constant."
                )
            continue  # a constant of the mechanism, such as k=2.0
        names.append(name)
    parents = tuple(name for name in names if name != "u")
    for name in parents:
        if name not in nodes:
            raise ValueError(
                f"the mechanism of {node!r} asks for {name!r}, which is not a node "
                f"({', '.join(nodes)}).{suggestion(name, nodes)} An argument is a parent, or u "
                f"for the node's own noise."
            )
    for name in _free_names(function):
        if (name == "u" or name in nodes) and name not in names:
            what = "the noise" if name == "u" else "the node"
            raise ValueError(
                f"the mechanism of {node!r} reads {name!r} from outside, which shadows {what} "
                f"of that name. Add {name} to its arguments, or rename the outer variable."
            )
    return Mechanism(function, parents, "u" in names)


def _free_names(function: Callable[..., Any]) -> set[str]:
    """Variables that a Python function reads from the code around it."""
    if not inspect.isfunction(function):
        return set()
    reads = {"LOAD_GLOBAL", "LOAD_DEREF", "LOAD_CLASSDEREF"}
    return {i.argval for i in dis.get_instructions(function) if i.opname in reads}


def read_noise(node: str, kind: Any) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Turn the name of a distribution into a function that draws it."""
    if callable(kind):
        return kind
    check_name(str(kind), NOISES, f"noise for {node!r}")
    return NOISES[kind]


def stream(seed: int, node: str) -> np.random.Generator:
    """The random numbers of one node: they depend on the seed and on its name, on nothing else."""
    words = np.frombuffer(hashlib.sha256(node.encode()).digest(), dtype="<u4")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(words.tolist())))


def column(node: str, values: Any, n: int) -> np.ndarray:
    """Check what a mechanism or a noise gave: one finite number per unit."""
    array = np.asarray(values)
    if array.dtype == bool:
        array = array.astype(np.int64)  # so that 1 - Y and Y + X are arithmetic
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"{node!r} must be numbers, got values of type {array.dtype}. Code categories as "
            f"integers."
        )
    if array.shape not in ((), (n,)):
        raise ValueError(
            f"{node!r} must have one value per unit, shape ({n},), got {array.shape}. Use "
            f"operations that work element by element, such as np.where instead of if."
        )
    array = np.array(np.broadcast_to(array, n))
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(
            f"{node!r} is not finite in {len(bad)} of {n} units, first in unit {bad[0]} "
            f"({array[bad[0]]}). Look in its mechanism for a division by 0, a log of 0 or an "
            f"overflowing exp."
        )
    # A mechanism that changed its parent in place would change what every other child reads.
    array.flags.writeable = False
    return array
