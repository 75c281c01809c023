"""Causal graphs: how one is made, its paths, and what they separate."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import pandas as pd

from dfdlib.errors import check_name


def as_set(names: str | Iterable[str]) -> frozenset[str]:
    """Read one name or several; a lone string is one name, not its letters, and '' is none."""
    return frozenset(filter(None, [names])) if isinstance(names, str) else frozenset(names)


def node_set(graph: nx.DiGraph, names: str | Iterable[str]) -> frozenset[str]:
    """Read names of nodes and refuse what the graph does not have."""
    nodes = as_set(names)
    for name in sorted(nodes):
        check_name(name, graph.nodes, "node")
    return nodes


def marked(graph: nx.DiGraph, mark: str) -> frozenset[str]:
    """Nodes that carry a mark: ``latent``, ``selection`` or ``intervened``."""
    return frozenset(node for node, value in graph.nodes(data=mark) if value)


def check_acyclic(graph: nx.DiGraph) -> None:
    """Refuse a graph with a cycle, and print the cycle."""
    if not nx.is_directed_acyclic_graph(graph):
        cycle = [tail for tail, _ in nx.find_cycle(graph)]
        # Start at the first name in the alphabet: the message must not depend on the search.
        start = cycle.index(min(cycle))
        cycle = cycle[start:] + cycle[: start + 1]
        raise ValueError(
            f"the graph has a cycle: {' -> '.join(cycle)}. A causal graph has none; "
            f"remove one of these arrows, or give the variable one node per time point."
        )


def spell(names: Iterable[str]) -> str:
    """Write a set of names as ``{A, B}``."""
    return "{" + ", ".join(sorted(names)) + "}"


def dag(
    text: str,
    *,
    latent: str | Iterable[str] = (),
    selection: str | Iterable[str] = (),
    indicators: Mapping[str, str] | None = None,
) -> nx.DiGraph:
    """Read a graph from chains of arrows.

    Source: Pearl, Causality (2nd ed., 2009), section 1.2.

    Args:
        text: Chains separated by ``;``, ``,`` or line ends, such as ``"X <- C -> Y; X -> Y"``. A
            name that stands alone becomes a node without arrows.
        latent: Nodes that nobody measured.
        selection: Nodes that decide who enters the data; every query conditions on them.
        indicators: Variable to the name of its availability indicator, for a missingness graph
            that does not name it ``R_`` and the variable.

    Returns:
        The graph; ``latent``, ``selection`` and ``indicates`` are attributes of its nodes.

    Raises:
        ValueError: Where the text cannot be read, an option names a node that the text lacks, or
            the arrows make a cycle.

    Example:
        >>> sorted(dag("X <- C -> Y; X -> Y").edges)
        [('C', 'X'), ('C', 'Y'), ('X', 'Y')]
    """
    graph = nx.DiGraph()
    for chain in filter(None, (part.strip() for part in re.split(r"[;,\n]", text))):
        pieces = [piece.strip() for piece in re.split(r"(<-|->)", chain)]
        for name in pieces[::2]:
            if not re.fullmatch(r"\w+", name):
                raise ValueError(
                    f"cannot read {chain!r}: {name!r} is not a name. Write chains of arrows such "
                    f"as 'X <- C -> Y; X -> Y'."
                )
            graph.add_node(name)
        for left, arrow, right in zip(pieces[:-2:2], pieces[1::2], pieces[2::2], strict=True):
            graph.add_edge(*((left, right) if arrow == "->" else (right, left)))
    for name in node_set(graph, latent):
        graph.nodes[name]["latent"] = True
    for name in node_set(graph, selection):
        graph.nodes[name]["selection"] = True
    for variable, indicator in (indicators or {}).items():
        check_name(variable, graph.nodes, "node")
        check_name(indicator, graph.nodes, "node")
        graph.nodes[indicator]["indicates"] = variable
    check_acyclic(graph)
    return graph


@dataclass(frozen=True)
class Path:
    """One path: its nodes, and what each inner node is and does under a conditioning set."""

    nodes: tuple[str, ...]
    text: str
    kinds: tuple[str, ...]  # one per inner node
    blocked_by: tuple[str, ...]

    @property
    def open(self) -> bool:
        """Whether association flows along the path."""
        return not self.blocked_by

    @property
    def causal(self) -> bool:
        """Whether every arrow points away from the first node."""
        return "<-" not in self.text


def walk(graph: nx.DiGraph, x: str, y: str, known: frozenset[str]) -> Iterator[Path]:
    """Every path between two nodes, judged by the three rules of d-separation."""
    # A collider opens when it, or something that it causes, is known.
    opened = known.union(*(nx.ancestors(graph, node) for node in known))
    for nodes in nx.all_simple_paths(graph.to_undirected(as_view=True), x, y):
        forward = [graph.has_edge(a, b) for a, b in pairwise(nodes)]
        arrows = ["->" if f else "<-" for f in forward]
        kinds, blocks = [], []
        for node, into, out in zip(nodes[1:-1], forward[:-1], forward[1:], strict=True):
            kind = "collider" if into and not out else "fork" if out and not into else "chain"
            kinds.append(kind)
            if (node not in opened) if kind == "collider" else (node in known):
                blocks.append(node)
        text = " ".join([nodes[0], *(f"{a} {n}" for a, n in zip(arrows, nodes[1:], strict=True))])
        yield Path(tuple(nodes), text, tuple(kinds), tuple(blocks))


def conditioned(graph: nx.DiGraph, given: str | Iterable[str]) -> frozenset[str]:
    """What a query conditions on: the given nodes, and always the selection nodes."""
    return node_set(graph, given) | marked(graph, "selection")


def check_query(graph: nx.DiGraph, x: str, y: str, known: frozenset[str]) -> None:
    """Refuse a cyclic graph, unknown or equal ends, and an end that is conditioned on."""
    check_acyclic(graph)
    for node in (x, y):
        check_name(node, graph.nodes, "node")
        if node in known:
            raise ValueError(
                f"{node!r} is both an end of the paths and conditioned on: take it out of the "
                f"given set (a selection node is always in it)."
            )
    if x == y:
        raise ValueError(f"the two ends of a path must differ, got {x!r} twice.")


def paths(graph: nx.DiGraph, x: str, y: str, given: str | Iterable[str] = ()) -> pd.DataFrame:
    """List every path between two nodes, and say which are open and what blocks the others.

    Source: Pearl (2009), definition 1.2.3. A path is blocked by a chain ``a -> b -> c`` or a fork
    ``a <- b -> c`` whose ``b`` is given, and by a collider ``a -> b <- c`` of which neither ``b``
    nor any descendant is given. Cost grows exponentially with the size of the graph: made for
    graphs that one can draw.

    Args:
        graph: A directed acyclic graph, such as ``scm.graph``.
        x: One end.
        y: The other end.
        given: Nodes that are conditioned on; selection nodes of the graph are added.

    Returns:
        One row per path, short ones first. ``path`` is text; ``kind`` names what each inner node
        is on this path; ``open`` is true where association flows; ``blocked_by`` names the nodes
        that stop it.

    Raises:
        ValueError: For an unknown node, a cycle, equal ends, or an end among the given.

    Example:
        >>> graph = dag("X <- C -> B -> Y; X -> Y")
        >>> paths(graph, "X", "Y", given={"B"})
                           path               kind   open blocked_by
        0                X -> Y             direct   True
        1  X <- C -> B -> Y  C fork, B chain  False          B
    """
    known = conditioned(graph, given)
    check_query(graph, x, y, known)
    ordered = sorted(walk(graph, x, y, known), key=lambda p: (len(p.nodes), p.nodes))
    return pd.DataFrame(
        {
            "path": [p.text for p in ordered],
            "kind": [
                ", ".join(f"{n} {k}" for n, k in zip(p.nodes[1:-1], p.kinds, strict=True))
                or "direct"
                for p in ordered
            ],
            "open": pd.Series([p.open for p in ordered], dtype=bool),
            "blocked_by": [", ".join(p.blocked_by) for p in ordered],
        }
    )


def d_separated(
    graph: nx.DiGraph,
    x: str | Iterable[str],
    y: str | Iterable[str],
    given: str | Iterable[str] = (),
) -> bool:
    """Say whether a graph implies that x and y are independent given a set.

    Source: Pearl (2009), theorem 1.2.4; decided by networkx in linear time.

    Args:
        graph: A directed acyclic graph.
        x: One node or several.
        y: One node or several, none of them in x.
        given: What is conditioned on; selection nodes of the graph are added.

    Returns:
        True where every path is blocked. False means that some distribution of this graph has the
        dependence, and all but unlucky ones do.

    Raises:
        ValueError: For an unknown node, a cycle, or sets that overlap.

    Example:
        >>> graph = dag("X <- C -> Y")
        >>> d_separated(graph, "X", "Y"), d_separated(graph, "X", "Y", given="C")
        (False, True)
    """
    check_acyclic(graph)
    left, right = node_set(graph, x), node_set(graph, y)
    known = conditioned(graph, given)
    twice = (left & right) | (left & known) | (right & known)
    if twice:
        raise ValueError(
            f"{sorted(twice)[0]!r} stands in two of the sets x, y and given: they must be disjoint."
        )
    return nx.is_d_separator(graph, left, right, known)
