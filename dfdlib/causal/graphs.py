"""What a causal graph implies: adjustment sets, front-door sets, independences."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

import networkx as nx
import pandas as pd

from dfdlib.causal.separation import check_query, conditioned, marked, node_set, spell, walk

__all__ = [
    "Answer",
    "adjustment_sets",
    "check_adjustment",
    "explain_adjustment",
    "frontdoor_sets",
    "implied_independences",
]


@dataclass(frozen=True)
class Answer:
    """An answer and the reason for it.

    Example:
        >>> print(Answer("no", "X <- C -> Y is open"))
        no: X <- C -> Y is open
    """

    answer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.answer}: {self.reason}"


def adjustment_sets(
    graph: nx.DiGraph, x: str, y: str, latent: str | Iterable[str] = ()
) -> list[frozenset[str]]:
    """Find the minimal sets that identify the effect of x on y by adjustment.

    Source: Pearl (2009), definition 3.3.1 and theorem 3.3.2 (backdoor criterion): no node of ``Z``
    descends from ``x``, and ``Z`` blocks every path from ``x`` to ``y`` that starts with an arrow
    into ``x``. Then ``P(y | do(x)) = Σ_z P(y | x, z) P(z)``. For one treatment this finds a set
    wherever the complete criterion of Shpitser et al. (2010) does. With selection nodes the
    result holds in the selected population, and there is none where selection depends on ``x``.

    Args:
        graph: A directed acyclic graph.
        x: The treatment.
        y: The outcome.
        latent: Nodes that cannot be adjusted for, besides those the graph marks as latent.

    Returns:
        Sets from which nothing can be left out, small ones first. ``[frozenset()]`` where nothing
        has to be adjusted for; ``[]`` where adjustment cannot identify the effect, for the reason
        that `explain_adjustment` gives.

    Raises:
        ValueError: For an unknown node, a cycle, or equal x and y.

    Example:
        >>> from dfdlib.causal import dag
        >>> graph = dag("X <- C -> B -> Y; X -> Y")
        >>> [sorted(z) for z in adjustment_sets(graph, "X", "Y")]
        [['B'], ['C']]
        >>> [sorted(z) for z in adjustment_sets(graph, "X", "Y", latent={"C"})]
        [['B']]
    """
    backdoor, selected, hidden = _backdoor(graph, x, y, latent)
    if {x, y} & hidden or selected & nx.descendants(graph, x):
        return []

    def valid(z: frozenset[str]) -> bool:
        return nx.is_d_separator(backdoor, {x}, {y}, z | selected)

    candidates = _candidates(graph, x, y, hidden, selected)
    # If any set works, all candidates together do (van der Zander, Liskiewicz, Textor 2014).
    return list(_minimal(candidates, valid)) if valid(candidates) else []


def explain_adjustment(
    graph: nx.DiGraph,
    x: str,
    y: str,
    given: str | Iterable[str] | None = None,
    latent: str | Iterable[str] = (),
) -> Answer:
    """Say whether adjusting identifies the effect of x on y, and why.

    Args:
        graph: A directed acyclic graph.
        x: The treatment.
        y: The outcome.
        given: The set to judge; without it, whether any set will do.
        latent: Nodes that cannot be adjusted for, besides those the graph marks as latent.

    Returns:
        ``yes`` or ``no``, with the sets that work or the path that stays open.

    Raises:
        ValueError: For an unknown node, a cycle, equal x and y, or x or y among the given.

    Example:
        >>> from dfdlib.causal import dag
        >>> graph = dag("X <- C -> B -> Y; X -> Y; C -> Y", latent="C")
        >>> print(explain_adjustment(graph, "X", "Y"))
        no: X <- C -> Y stays open even given {B}, all that may be adjusted for; C is latent
        >>> print(explain_adjustment(graph, "X", "B", given={"Y"}))
        no: Y descends from the treatment: X -> Y
    """
    backdoor, selected, hidden = _backdoor(graph, x, y, latent)
    z = None if given is None else node_set(graph, given)
    if z is not None:
        check_query(graph, x, y, z | selected)
    if {x, y} & hidden:
        return Answer("no", f"{spell({x, y} & hidden)} is latent, so no data speak of it")
    if z is not None and z & hidden:
        return Answer("no", f"{spell(z & hidden)} is latent and cannot be adjusted for")
    for node in sorted((z or frozenset()) | selected):
        if node in nx.descendants(graph, x):
            chain = " -> ".join(nx.shortest_path(graph, x, node))
            role = "decides who enters the data and " if node in selected else ""
            return Answer("no", f"{node} {role}descends from the treatment: {chain}")
    best = _candidates(graph, x, y, hidden, selected) if z is None else z
    stays = [p for p in walk(backdoor, x, y, best | selected) if p.open]
    if not stays:
        if z is not None:
            return Answer("yes", f"{spell(z)} blocks every backdoor path from {x} to {y}")
        sets = " or ".join(spell(s) for s in adjustment_sets(graph, x, y, latent))
        return Answer("yes", f"adjust for {sets}")
    path = min(stays, key=lambda p: (len(p.nodes), p.nodes))
    if z is not None:
        return Answer("no", f"given {spell(z)}, {path.text} stays open")
    inner = sorted(hidden & set(path.nodes))
    why = f"; {', '.join(inner)} {'is' if len(inner) == 1 else 'are'} latent" if inner else ""
    most = f"even given {spell(best)}, all" if best else "and there is nothing"
    return Answer("no", f"{path.text} stays open {most} that may be adjusted for{why}")


def check_adjustment(
    graph: nx.DiGraph,
    x: str,
    y: str,
    given: str | Iterable[str],
    latent: str | Iterable[str] = (),
) -> None:
    """Refuse a set that does not identify the effect of x on y by adjustment.

    Args:
        graph: A directed acyclic graph.
        x: The treatment.
        y: The outcome.
        given: The set to adjust for.
        latent: Nodes that cannot be adjusted for, besides those the graph marks as latent.

    Raises:
        ValueError: With the reason and the sets that would do.

    Example:
        >>> from dfdlib.causal import dag
        >>> check_adjustment(dag("X -> M -> Y"), "X", "Y", given={"M"})
        Traceback (most recent call last):
        ValueError: cannot adjust for {M}: M descends from the treatment: X -> M. Adjust for {}.
    """
    verdict = explain_adjustment(graph, x, y, given, latent)
    if verdict.answer == "no":
        sets = adjustment_sets(graph, x, y, latent)
        instead = " or ".join(spell(s) for s in sets)
        advice = f"Adjust for {instead}." if sets else "No other set of observed nodes does."
        raise ValueError(
            f"cannot adjust for {spell(node_set(graph, given))}: {verdict.reason}. {advice}"
        )


def frontdoor_sets(
    graph: nx.DiGraph, x: str, y: str, latent: str | Iterable[str] = ()
) -> list[frozenset[str]]:
    """Find the minimal sets that identify the effect of x on y by the front door.

    Source: Pearl (2009), definition 3.3.3 and theorem 3.3.4: ``M`` meets every directed path from
    ``x`` to ``y``, no backdoor path from ``x`` to ``M`` is open, and ``x`` blocks every backdoor
    path from ``M`` to ``y``. Then ``P(y | do(x)) = Σ_m P(m | x) Σ_x' P(y | x', m) P(x')``.

    Args:
        graph: A directed acyclic graph without selection nodes.
        x: The treatment.
        y: The outcome.
        latent: Nodes that cannot be used, besides those the graph marks as latent.

    Returns:
        Sets from which nothing can be left out, small ones first; ``[]`` where there is none, or
        where no directed path leads from x to y, so that there is no effect to identify.

    Raises:
        ValueError: For an unknown node, a cycle, equal x and y, or a graph with selection nodes.

    Example:
        >>> from dfdlib.causal import dag
        >>> frontdoor_sets(dag("X <- C -> Y; X -> M -> Y", latent="C"), "X", "Y")
        [frozenset({'M'})]
    """
    backdoor, selected, hidden = _backdoor(graph, x, y, latent)
    if selected:
        raise ValueError(
            f"frontdoor_sets does not handle selection, and {spell(selected)} decides who enters "
            f"the data. Ask about the graph without it."
        )
    if {x, y} & hidden or not nx.has_path(graph, x, y):
        return []

    def valid(m: frozenset[str]) -> bool:
        if not m or nx.has_path(graph.subgraph(graph.nodes - m), x, y):
            return False
        without = graph.edge_subgraph([e for e in graph.edges if e[0] not in m]).copy()
        without.add_nodes_from(graph)
        return nx.is_d_separator(backdoor, {x}, m, set()) and nx.is_d_separator(
            without, m, {y}, {x}
        )

    return list(_minimal(frozenset(graph.nodes) - hidden - {x, y}, valid))


def implied_independences(graph: nx.DiGraph, latent: str | Iterable[str] = ()) -> pd.DataFrame:
    """List the independences that a graph implies between observed nodes: what data can refute.

    Source: Pearl (2009), section 1.2.3. For each pair of observed nodes that some observed set
    separates, one smallest such set. The graph may imply more: other sets that separate the same
    pair, and with latent nodes also constraints that are no independences.

    Args:
        graph: A directed acyclic graph.
        latent: Nodes that nobody measured, besides those the graph marks as latent.

    Returns:
        One row per pair: ``left``, ``right``, ``given`` (a frozenset; selection nodes are always
        given and not listed), and the ``statement`` in words.

    Raises:
        ValueError: For an unknown node or a cycle.

    Example:
        >>> from dfdlib.causal import dag
        >>> implied_independences(dag("X <- C -> Y"))["statement"].tolist()
        ['X _||_ Y | C']
    """
    hidden = node_set(graph, latent) | marked(graph, "latent")
    selected = conditioned(graph, ())
    rows = []
    for a, b in combinations(sorted(graph.nodes - hidden - selected), 2):
        check_query(graph, a, b, selected)

        def separates(z: frozenset[str], a: str = a, b: str = b) -> bool:
            return nx.is_d_separator(graph, {a}, {b}, z | selected)

        candidates = _ancestors(graph, {a, b} | selected) - hidden - selected - {a, b}
        if separates(candidates):
            z = next(_minimal(candidates, separates))
            statement = f"{a} _||_ {b}" + (f" | {', '.join(sorted(z))}" if z else "")
            rows.append((a, b, z, statement))
    return pd.DataFrame(rows, columns=["left", "right", "given", "statement"])


def _backdoor(
    graph: nx.DiGraph, x: str, y: str, latent: str | Iterable[str]
) -> tuple[nx.DiGraph, frozenset[str], frozenset[str]]:
    """The graph without arrows out of x; the selection nodes; the latent nodes."""
    selected = conditioned(graph, ())
    check_query(graph, x, y, selected)
    without = graph.copy()
    without.remove_edges_from(list(graph.out_edges(x)))
    return without, selected, node_set(graph, latent) | marked(graph, "latent")


def _ancestors(graph: nx.DiGraph, nodes: Iterable[str]) -> frozenset[str]:
    return frozenset(nodes).union(*(nx.ancestors(graph, node) for node in nodes))


def _candidates(
    graph: nx.DiGraph, x: str, y: str, hidden: frozenset[str], selected: frozenset[str]
) -> frozenset[str]:
    """What a minimal adjustment set can be made of."""
    barred = hidden | selected | nx.descendants(graph, x) | {x, y}
    return _ancestors(graph, {x, y} | selected) - barred


def _minimal(
    candidates: frozenset[str], valid: Callable[[frozenset[str]], bool]
) -> Iterator[frozenset[str]]:
    """Valid sets that contain no smaller valid set, by size, then by name."""
    minimal: list[frozenset[str]] = []
    for size in range(len(candidates) + 1):
        for chosen in map(frozenset, combinations(sorted(candidates), size)):
            if not any(smaller <= chosen for smaller in minimal) and valid(chosen):
                minimal.append(chosen)
                yield chosen
