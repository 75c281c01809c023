"""Structural causal models as plain functions: sample them, intervene on them, draw them."""

import math
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pandas as pd

from dfdlib.causal._drawing import draw, layout
from dfdlib.causal._mechanisms import Mechanism, column, read_mechanism, read_noise, stream
from dfdlib.causal._names import as_set, check_acyclic, check_name

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
            values[node] = column(node, mechanism.function(**inputs), n)
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
        found = as_set(names)
        for name in sorted(found):
            check_name(name, self._mechanisms, "node")
        return found

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
