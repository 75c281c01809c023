"""Structural causal models as plain functions: sample them, intervene on them, draw them."""

import hashlib
import inspect
import math
import numbers
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pandas as pd

from dfdlib.causal.drawing import draw, layout
from dfdlib.causal.separation import as_set, check_acyclic
from dfdlib.errors import check_name, suggestion

if TYPE_CHECKING:
    import matplotlib.axes


class SCM:
    """A structural causal model: each node is a function of its parents and its own noise.

    Source: Pearl, Causality (2nd ed., 2009), definitions 7.1.1 and 7.1.2. A model is
    ``X_j = f_j(parents of X_j, U_j)`` with independent ``U_j``; ``do(X = x)`` replaces ``f_X`` by
    the constant ``x`` and leaves every other function, and every ``U_j``, as it was.

    The argument names of a function make the graph. The argument ``u`` is the node's noise;
    arguments with a default are constants. Functions work on whole columns (numpy arrays) and
    must not change them. Truth values become 0 and 1.

    Args:
        noise: Distribution of ``u`` per node: ``"normal"`` (standard, the default), ``"uniform"``
            on [0, 1), ``"logistic"`` (standard), or a function ``(rng, n) -> array``.
        latent: Nodes that nobody measures: left out of the sampled table.
        selection: Nodes that decide who enters the data: only units in which all of them are
            non-zero are in the sampled table.
        indicators: Variable to its availability indicator, where that is not called ``R_`` and the
            variable; see `dfdlib.causal.hide` and `dfdlib.causal.recoverable`.
        **mechanisms: Node names and their functions.

    Raises:
        ValueError: For a cycle, an argument that is no node, a name that shadows another, or an
            option that names no node.

    Example:
        >>> scm = SCM(C=lambda u: u, X=lambda C, u: C + u, Y=lambda X, C, u: X + 2 * C + u)
        >>> sorted(scm.graph.edges)
        [('C', 'X'), ('C', 'Y'), ('X', 'Y')]
        >>> treated, control = (scm.do(X=x).sample(1000, seed=0)["Y"] for x in (1.0, 0.0))
        >>> float((treated - control).round(6).unique()[0])  # the same for every unit
        1.0
    """

    def __init__(
        self,
        *,
        noise: Any = None,
        latent: Any = (),
        selection: Any = (),
        indicators: Any = None,
        **mechanisms: Any,
    ) -> None:
        options = {
            "noise": noise,
            "latent": latent,
            "selection": selection,
            "indicators": indicators,
        }
        for name in (*(k for k, v in options.items() if callable(v)), *mechanisms):
            if name == "u" or name in options:
                use = "the noise of each node" if name == "u" else f"the option {name}=..."
                raise ValueError(f"a node cannot be called {name!r}: it shadows {use}. Rename it.")
        if not mechanisms:
            raise ValueError("a model needs at least one node: SCM(X=lambda u: u).")
        self._mechanisms: dict[str, Mechanism] = {
            node: read_mechanism(node, function, mechanisms)
            for node, function in mechanisms.items()
        }
        self._latent = self._named(latent)
        self._selection = self._named(selection)
        self._indicators: dict[str, str] = dict(indicators or {})
        for node in (*self._indicators, *self._indicators.values()):
            check_name(node, self._mechanisms, "node")
        if both := sorted(self._latent & self._selection):
            raise ValueError(f"{both[0]!r} cannot be both latent and selection: choose one.")
        self._noise: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {}
        for node, kind in dict(noise or {}).items():
            check_name(node, self._mechanisms, "node")
            if not self._mechanisms[node].noisy:
                raise ValueError(f"{node!r} has a noise but its mechanism takes no argument u.")
            self._noise[node] = read_noise(node, kind)
        self._intervened: frozenset[str] = frozenset()
        self._order = self._sorted_nodes()
        self._untouched = self.graph

    @property
    def graph(self) -> nx.DiGraph:
        """The causal graph; what its nodes are is in their attributes.

        ``latent``, ``selection`` and ``intervened`` are truth values, ``indicates`` is the variable
        that an indicator speaks of.
        """
        graph = nx.DiGraph()
        for node in self._mechanisms:
            graph.add_node(
                node,
                latent=node in self._latent,
                selection=node in self._selection,
                intervened=node in self._intervened,
            )
        for node, mechanism in self._mechanisms.items():
            graph.add_edges_from((parent, node) for parent in mechanism.parents)
        for variable, indicator in self._indicators.items():
            graph.nodes[indicator]["indicates"] = variable
        return graph

    def sample(self, n: int, *, seed: int = 0, full: bool = False) -> pd.DataFrame:
        """Draw units.

        Each node has its own stream of noise, fixed by the seed and the node's name. So a unit
        keeps its noise when another node is added, removed or intervened on, and rows of equal
        index in ``scm`` and ``scm.do(...)`` are one unit in two worlds.

        Args:
            n: Number of units.
            seed: A whole number, 0 or more.
            full: Keep latent nodes, and units that selection leaves out.

        Returns:
            One row per unit, indexed by its number, and one column per node.

        Raises:
            ValueError: Where n or seed is out of range, or a mechanism gives something that is
                not one finite number per unit.
        """
        if n < 1 or seed < 0:
            raise ValueError(f"n must be at least 1 and seed at least 0, got {n=}, {seed=}.")
        values: dict[str, np.ndarray] = {}
        for node in self._order:
            mechanism = self._mechanisms[node]
            inputs = {parent: values[parent] for parent in mechanism.parents}
            if mechanism.noisy:
                draws = self._noise.get(node, read_noise(node, "normal"))
                inputs["u"] = column(f"noise of {node}", draws(stream(seed, node), n), n)
            try:
                array = mechanism.function(**inputs)
            except NameError as error:
                if error.name == "u" or error.name in self._mechanisms:
                    raise reads_outside(node, error.name) from error
                raise
            values[node] = column(node, array, n)
        frame = pd.DataFrame({node: values[node] for node in self._mechanisms})
        if full:
            return frame
        selected = np.logical_and.reduce([values[s] != 0 for s in self._selection], initial=True)
        seen = [node for node in frame if node not in self._latent]
        return frame.loc[np.broadcast_to(selected, n), seen]

    def do(self, **interventions: Any) -> "SCM":
        """Replace mechanisms: by a constant, or by a function of other nodes and ``u``.

        Args:
            **interventions: Node names and what sets them: ``X=1.0``, or ``X=lambda C: C > 0`` for
                a rule. A rule's ``u`` is the noise that the node had before.

        Returns:
            A new model with the same noise; this one stays as it is.

        Raises:
            ValueError: For an unknown node, a constant that is not a finite number, or a rule that
                makes a cycle.

        Example:
            >>> scm = SCM(X=lambda u: u, Y=lambda X, u: X + u)
            >>> scm.do(X=2.0).sample(3)["X"].tolist()
            [2.0, 2.0, 2.0]
        """
        if not interventions:
            raise ValueError("do() needs an intervention, such as do(X=1.0).")
        changed = object.__new__(SCM)
        changed.__dict__ = dict(self.__dict__)
        changed._mechanisms = dict(self._mechanisms)
        for node, value in interventions.items():
            check_name(node, self._mechanisms, "node")
            rule = value if callable(value) else _constant(node, value)
            changed._mechanisms[node] = read_mechanism(node, rule, self._mechanisms)
        changed._intervened = self._intervened | interventions.keys()
        changed._order = changed._sorted_nodes()
        return changed

    def draw(self, ax: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw the graph, see `dfdlib.causal.draw`; each node stays where it was before `do`."""
        return draw(self.graph, ax, positions=layout(self._untouched))

    def _named(self, names: Any) -> frozenset[str]:
        nodes = as_set(names)
        for name in sorted(nodes):
            check_name(name, self._mechanisms, "node")
        return nodes

    def _sorted_nodes(self) -> list[str]:
        graph = self.graph
        check_acyclic(graph)
        return list(nx.lexicographical_topological_sort(graph))

    def __repr__(self) -> str:
        arrows = ", ".join(
            f"{' '.join(m.parents)} -> {node}" if m.parents else node
            for node, m in self._mechanisms.items()
        )
        marks = {"latent": self._latent, "selection": self._selection, "do": self._intervened}
        notes = "".join(f"; {k} {' '.join(sorted(v))}" for k, v in marks.items() if v)
        return f"SCM({arrows}{notes})"


def _constant(node: str, value: Any) -> Callable[[], Any]:
    if not isinstance(value, numbers.Real | np.bool_) or not math.isfinite(value):
        raise ValueError(
            f"do({node}=...) takes a finite number or a function of other nodes, got {value!r}."
        )
    return lambda: value


# ---------------- One node of a structural causal model: a function of its parents and its own
# noise

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
    for name in sorted(_outer_names(function)):
        if (name == "u" or name in nodes) and name not in names:
            raise reads_outside(node, name)
    return Mechanism(function, parents, "u" in names)


def reads_outside(node: str, name: str) -> ValueError:
    """Build the error for a mechanism that reads a node, or u, without having it as an argument."""
    what = "the noise" if name == "u" else "the node"
    return ValueError(
        f"the mechanism of {node!r} reads {name!r} from outside, which shadows {what} of that "
        f"name. Add {name} to its arguments, or rename the outer variable."
    )


def _outer_names(function: Callable[..., Any]) -> set[str]:
    """Variables around a Python function that it names: of functions around it, and globals.

    A name that is a global and an attribute is taken for the global; one that nobody has defined
    yet is found when the function is called.
    """
    if not inspect.isfunction(function):
        return set()
    code = function.__code__
    return set(code.co_freevars) | (set(code.co_names) & function.__globals__.keys())


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
