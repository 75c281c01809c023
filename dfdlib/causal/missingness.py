"""Missingness graphs: who is missing and why, and what can be recovered from what is seen."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain, combinations
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

from dfdlib.arrays import numbers, plain
from dfdlib.causal.graphs import Answer, adjustment_sets
from dfdlib.causal.separation import check_acyclic, marked, node_set, spell, walk
from dfdlib.errors import check_name

Names = frozenset[str]
# One step of a derivation: sum over a variable, or split off the factor of one.
_Step = tuple[str, str, Names]


def indicators(graph: nx.DiGraph) -> dict[str, str]:
    """Pair each partially observed variable with its availability indicator.

    Source: Mohan, Pearl and Tian, Graphical models for inference with missing data (2013). The
    indicator of ``A`` is called ``R_A`` (1 = observed), or carries the attribute ``indicates``.

    Args:
        graph: A missingness graph.

    Returns:
        Variable to indicator, in the order of the graph; other variables are always observed.

    Example:
        >>> from dfdlib.causal import dag
        >>> indicators(dag("A -> Y; Y -> R_A"))
        {'A': 'R_A'}
    """
    pairs = {variable: node for node, variable in graph.nodes(data="indicates") if variable}
    for node in graph:
        if node.startswith("R_") and node[2:] in graph:
            pairs.setdefault(node[2:], node)
    return pairs


def proxies(graph: nx.DiGraph) -> frozenset[str]:
    """Find the nodes that are a variable as seen: its value where observed, else nothing.

    Args:
        graph: A missingness graph.

    Returns:
        Nodes whose name starts with that of a partially observed variable ``A`` and whose parents
        are exactly ``A`` and its indicator, such as ``A_obs``.

    Example:
        >>> from dfdlib.causal import dag
        >>> sorted(proxies(dag("A -> A_obs <- R_A")))
        ['A_obs']
    """
    return frozenset(
        node
        for node in graph
        for variable, indicator in indicators(graph).items()
        if node.startswith(variable) and set(graph.predecessors(node)) == {variable, indicator}
    )


def hide(frame: Any, pairs: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Put NaN where an indicator is 0: the table that the analyst gets.

    Args:
        frame: A table with variables and their indicators, such as a sample of an SCM.
        pairs: Variable to indicator; without it every ``R_A`` hides ``A``.

    Returns:
        A copy; the indicators stay in it.

    Raises:
        ValueError: Where a name of ``pairs`` is not a column, or nothing is to be hidden.

    Example:
        >>> hide(pd.DataFrame({"Y": [1, 2], "R_Y": [1, 0]}))["Y"].tolist()
        [1.0, nan]
    """
    frame = plain(frame, "frame")
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"frame is a {type(frame).__name__}. Pass a DataFrame.")
    if pairs is None:
        pairs = {c[2:]: c for c in frame if c.startswith("R_") and c[2:] in frame}
    if not pairs:
        raise ValueError("no column R_A goes with a column A: name them, pairs={'A': 'R'}.")
    seen = frame.copy()
    for variable, indicator in pairs.items():
        check_name(variable, frame.columns, "column")
        check_name(indicator, frame.columns, "column")
        told = numbers(frame[indicator], indicator)
        if np.isnan(told).any():
            raise ValueError(
                f"the indicator {indicator!r} is missing in {np.isnan(told).sum()} rows. Put 1 "
                f"where {variable!r} is seen, and 0 where it is not."
            )
        seen[variable] = frame[variable].where(told != 0, np.nan)
    return seen


def classify(graph: nx.DiGraph) -> Answer:
    """Say whether values are missing completely at random, at random, or not at random.

    Source: Mohan, Pearl and Tian (2013), definition of MCAR, MAR and MNAR by d-separation, with
    ``V_o`` the variables that are always observed, ``V_m`` those that are not and ``R`` all
    indicators. MCAR: ``R _||_ (V_o, V_m)``. MAR: ``R _||_ V_m | V_o``. MNAR: otherwise. This is the
    graphical form of MAR and stronger than Rubin's, which speaks of the values that happened to be
    missing. Latent nodes are never given; a latent cause of indicators alone counts as their noise.

    Args:
        graph: A missingness graph.

    Returns:
        ``MCAR``, ``MAR`` or ``MNAR``, and the independence or the open path that decides it.

    Raises:
        ValueError: For a cycle, or a graph without indicators.

    Example:
        >>> from dfdlib.causal import dag
        >>> print(classify(dag("W -> Y; W -> R_Y")))
        MAR: R_Y _||_ Y | W
        >>> print(classify(dag("Y -> R_Y")))
        MNAR: given nothing, Y -> R_Y is open
    """
    check_acyclic(graph)
    pairs = _some_indicators(graph)
    missing = frozenset(pairs)
    mechanism = frozenset(pairs.values())
    full = frozenset(graph) - missing - mechanism - proxies(graph) - marked(graph, "latent")
    selected = marked(graph, "selection")
    full -= selected
    every, hidden = ", ".join(pairs.values()), ", ".join(pairs)
    if nx.is_d_separator(graph, missing | full, mechanism, set(selected)):
        return Answer("MCAR", f"{every} _||_ {', '.join([*pairs, *sorted(full)])}")
    if nx.is_d_separator(graph, missing, mechanism, full | selected):
        return Answer("MAR", f"{every} _||_ {hidden} | {', '.join(sorted(full))}")
    opened = [
        path
        for variable in pairs
        for indicator in pairs.values()
        for path in walk(graph, variable, indicator, full | selected)
        if path.open
    ]
    shortest = min(opened, key=lambda p: (len(p.nodes), p.nodes))
    known = ", ".join(sorted(full)) or "nothing"
    return Answer("MNAR", f"given {known}, {shortest.text} is open")


def recoverable(graph: nx.DiGraph, query: str) -> Answer:
    """Say whether a distribution can be computed from incomplete data of a missingness graph.

    Source: yes by d-separation and ordered factorisation (Mohan, Pearl and Tian 2013), or because
    no indicator depends on its own variable given all the others (Sadinle and Reiter 2017; Nabi,
    Bhattacharya and Shpitser 2020, arXiv 2004.04872). No by self-masking or a path of colliders
    between a variable and its indicator (Mohan and Pearl 2014), if the query holds all of the path.

    The question is about one population of this graph, without assumptions on the form of the
    distributions, and with every pattern possible at all values. "No" may become "yes" with a
    parametric form, several hospitals, or rich proxies. ``P(Y | do(X))`` is answered through
    adjustment sets, and never "no".

    Args:
        graph: A missingness graph: variables, their indicators, latent nodes, no selection.
        query: ``"P(Y)"``, ``"P(A, Y)"``, ``"P(Y | A, B)"`` or ``"P(Y | do(X))"``.

    Returns:
        ``yes`` with a formula, which holds if everyone can be measured (a graph knows arrows, not
        whether some probability is 0); ``no`` with the structure that forbids it; or ``unknown``
        where neither kind of argument decides. Made for up to about eight variables.

    Raises:
        ValueError: For a query that cannot be read, an unknown variable, an indicator in the
            query, a cycle, selection nodes, or a graph without indicators.

    Example:
        >>> from dfdlib.causal import dag
        >>> print(recoverable(dag("W -> Y; W -> R_Y"), "P(Y)"))
        yes: P(Y) = Σ_W P(Y | W, R_Y=1) P(W), if everyone can be measured (positivity)
        >>> print(recoverable(dag("Y -> R_Y"), "P(Y)"))
        no: Y and R_Y are neighbours (self-masking): Y -> R_Y
        >>> print(recoverable(dag("A -> Y <- U -> R_A", latent="U"), "P(A, Y)"))
        no: A and R_A are joined by colliders only: A -> Y <-> R_A
    """
    check_acyclic(graph)
    pairs = _some_indicators(graph)
    if selected := marked(graph, "selection"):
        raise ValueError(
            f"recoverable does not handle selection, and {spell(selected)} decides who enters the "
            f"data. Ask about the graph without it."
        )
    left, right, treatment = _read(query)
    for name in sorted(node_set(graph, left | right)):
        if name in pairs.values() or name in proxies(graph):
            raise ValueError(
                f"{name!r} is always observed: ask about the variables, such as 'P({min(pairs)})'."
            )
    recovery = Recovery(graph, pairs, proxies(graph))
    if treatment is not None:
        return _effect(graph, recovery, min(left), treatment)
    if obstacle := recovery.obstacle(left, right):
        return Answer("no", obstacle)
    if formula := recovery.formula(left, right):
        return Answer("yes", _conditional(formula, left | right, pairs))
    return Answer(
        "unknown",
        "no factorisation into parts seen in complete rows was found, and neither was "
        "self-masking or a path of colliders that would exclude one",
    )


def _subsets(names: Iterable[str]) -> Iterator[Names]:
    """All subsets, small ones first, then by name."""
    ordered = sorted(names)
    sizes = (combinations(ordered, size) for size in range(len(ordered) + 1))
    return map(frozenset, chain.from_iterable(sizes))


def _term(left: Iterable[str], right: Iterable[str] = (), seen: Iterable[str] = ()) -> str:
    """Write ``P(left | right, R=1)``."""
    conditions = [*sorted(right), *(f"{r}=1" for r in sorted(seen))]
    return f"P({', '.join(sorted(left))}{' | ' if conditions else ''}{', '.join(conditions)})"


class Recovery:
    """Derivations and obstacles in one missingness graph."""

    def __init__(self, graph: nx.DiGraph, pairs: Mapping[str, str], proxies: Names) -> None:
        self.graph = graph
        self.pairs = pairs
        self.proxies = proxies
        self.latent = marked(graph, "latent")
        self.variables = frozenset(graph) - self.latent - proxies - set(pairs.values())
        self._factor = cache(self._find_factor)

    # ------------------------------------------------------------ yes

    def formula(self, left: Names, right: Names) -> str | None:
        """An equation for ``P(left | right)`` in terms of what complete rows show, if one is found.

        Three kinds of argument are tried, simple ones first: a factorisation; the same of a joint
        distribution of which the query is a ratio; and the law without self-censoring.
        """
        target = _term(left, right)
        for moved in _subsets(right - self.latent):
            whole = left | moved
            steps = self._derive(whole, right - moved)
            if steps is None:
                continue
            text = self._write(steps)
            if not moved:
                if text == target:
                    return f"{target} is read off, since nothing in it is ever missing"
                return f"{target} = {text}"
            joint = _term(whole, right - moved)
            return f"{target} = {joint} / {_term(moved, right - moved)}, where {joint} = {text}"
        others = self.variables - left - right
        for extra in _subsets(others) if left | right <= self.variables else ():
            whole = left | right | extra
            if self._no_self_censoring(whole):
                return (
                    f"{target} by the odds ratios of the patterns of {', '.join(sorted(whole))}: "
                    f"no indicator depends on its own variable given the other variables and "
                    f"indicators"
                )
        return None

    def _derive(self, left: Names, right: Names) -> list[_Step] | None:
        """Breadth-first from the variables still to be accounted for to none.

        ``P(T | right) = Σ_z P(T, z | right)`` adds a variable, ``P(v, T | right) = P(v | T, right)
        P(T | right)`` takes one away where its factor can be seen.
        """
        came: dict[Names, tuple[Names, _Step] | None] = {left: None}
        queue = deque([left])
        while queue:
            state = queue.popleft()
            if not state:
                return self._trace(came, state)
            moves: list[tuple[Names, _Step]] = []
            for v in sorted(state):
                factor = self._factor(v, (state - {v}) | right)
                if factor is not None:
                    moves.append((state - {v}, ("factor", v, factor)))
            moves.extend(
                (state | {z}, ("sum", z, frozenset()))
                for z in sorted(self.variables - state - right)
            )
            for following, step in moves:
                if following not in came:
                    came[following] = (state, step)
                    queue.append(following)
        return None

    @staticmethod
    def _trace(came: dict[Names, tuple[Names, _Step] | None], state: Names) -> list[_Step]:
        steps: list[_Step] = []
        while (origin := came[state]) is not None:
            state, step = origin
            steps.append(step)
        return steps[::-1]

    def _find_factor(self, v: str, known: Names) -> Names | None:
        """The smallest set S with ``P(v | known) = P(v | S) = P(v | S, R_v = R_S = 1)``."""
        for kept in _subsets(known - self.latent):
            irrelevant = (known - kept) | self._seen(kept | {v})
            if not irrelevant or nx.is_d_separator(self.graph, {v}, irrelevant, kept):
                return kept
        return None

    def _seen(self, names: Names) -> Names:
        return frozenset(self.pairs[name] for name in names if name in self.pairs)

    def _no_self_censoring(self, names: Names) -> bool:
        seen = self._seen(names)
        return all(
            nx.is_d_separator(
                self.graph,
                {v},
                {self.pairs[v]},
                (names - {v}) | (seen - {self.pairs[v]}),
            )
            for v in names & self.pairs.keys()
        )

    def _write(self, steps: list[_Step]) -> str:
        """Spell a derivation; a variable that is summed over a second time gets a prime."""
        shown: dict[str, str] = {}
        parts: list[str] = []
        for kind, v, kept in steps:
            if kind == "sum":
                shown[v] = shown[v] + "'" if v in shown else v
                parts.append(f"Σ_{shown[v]}")
                continue
            shown.setdefault(v, v)
            right = [shown.setdefault(name, name) for name in kept]
            parts.append(_term([shown[v]], right, self._seen(kept | {v})))
        return " ".join(parts)

    # ------------------------------------------------------------ no

    def obstacle(self, left: Names, right: Names) -> str | None:
        """A structure under which two models agree on all that is seen and differ on the query.

        Take the variable X and the variables on the path as fair coins, each the exclusive or of
        the coins on its arrows, and the indicator as the last coin. Then the exclusive or of all of
        them is X where X is observed; where it is missing it may be X or its opposite, and no
        observed frequency tells which. Without a variable between, the distribution of X where it
        is missing is free.
        """
        for name in sorted(left & self.latent):
            return f"{name} is latent: nothing tells its values"
        for name in sorted(right & self.latent):
            if not nx.is_d_separator(self.graph, left, {name}, right - {name}):
                return f"{name} is latent: nothing tells its values"
        for v in sorted((left | right) & self.pairs.keys()):
            for nodes, text in self._collider_paths(v, left | right):
                if left & nodes and len(nodes) > 1:
                    return f"{v} and {self.pairs[v]} are joined by colliders only: {text}"
                if left & nodes:
                    kind = "neighbours (self-masking)" if " -> " in text else "neighbours"
                    return f"{v} and {self.pairs[v]} are {kind}: {text}"
        return None

    def _collider_paths(self, v: str, allowed: Names) -> Iterator[tuple[Names, str]]:
        """Paths from v to its indicator whose inner nodes are colliders, short ones first."""
        r = self.pairs[v]
        queue: deque[tuple[tuple[str, ...], str]] = deque([((v,), v)])
        while queue:
            nodes, text = queue.popleft()
            last, start = nodes[-1], len(nodes) == 1
            arrows = [
                ("->", start and self._causes(v, r)),
                ("<->", self._confounded(last, r)),
                ("<-", self._causes(r, last)),
            ]
            for arrow, there in arrows:
                if there:
                    yield frozenset(nodes), f"{text} {arrow} {r}"
                    break
            for c in sorted((allowed & self.variables).difference(nodes)):
                directed = start and self._causes(v, c)
                if directed or self._confounded(last, c):
                    queue.append(((*nodes, c), f"{text} {'->' if directed else '<->'} {c}"))

    def _causes(self, a: str, b: str) -> bool:
        """Whether a leads to b directly or through latent nodes alone."""
        return nx.has_path(self.graph.subgraph(self.latent | {a, b}), a, b)

    def _confounded(self, a: str, b: str) -> bool:
        """Whether some latent node causes both through latent nodes alone."""
        return any(self._causes(u, a) and self._causes(u, b) for u in self.latent)


def _effect(graph: nx.DiGraph, recovery: Recovery, y: str, x: str) -> Answer:
    """Recover ``P(y | do(x))`` through an adjustment set whose parts are recoverable."""
    barred = recovery.proxies.union(recovery.pairs.values())
    for z in adjustment_sets(graph, x, y, latent=barred):
        conditional = recovery.formula(frozenset([y]), z | {x})
        weights = recovery.formula(z, frozenset()) if z else ""
        if conditional is not None and weights is not None:
            inner = ", ".join(sorted(z))
            terms = f"Σ_{inner} P({y} | {', '.join([x, *sorted(z)])}) P({inner})"
            parts = "; ".join(filter(None, (conditional, weights)))
            text = f"P({y} | do({x})) = {terms if z else f'P({y} | {x})'}; {parts}"
            return Answer("yes", _conditional(text, z | {x, y}, recovery.pairs))
    return Answer("unknown", "no adjustment set was found whose parts are recoverable")


def _conditional(formula: str, names: frozenset[str], pairs: Mapping[str, str]) -> str:
    """Add what a formula takes for granted, where something in it may be missing."""
    return f"{formula}, if everyone can be measured (positivity)" if names & set(pairs) else formula


def _some_indicators(graph: nx.DiGraph) -> dict[str, str]:
    pairs = indicators(graph)
    if not pairs:
        raise ValueError(
            "the graph has no indicator: name the one of a partially observed A 'R_A', or pass "
            "indicators={'A': 'R'} to dag."
        )
    return pairs


def _read(query: str) -> tuple[frozenset[str], frozenset[str], str | None]:
    """Split a query into what is asked for, what is given, and a treatment set by do."""
    names = r"\w+(?:\s*,\s*\w+)*"
    plain = re.fullmatch(rf"\s*P\(\s*({names})\s*(?:\|\s*({names})\s*)?\)\s*", query)
    effect = re.fullmatch(r"\s*P\(\s*(\w+)\s*\|\s*do\(\s*(\w+)\s*\)\s*\)\s*", query)
    if effect:
        return frozenset([effect[1]]), frozenset([effect[2]]), effect[2]
    if not plain:
        raise ValueError(
            f"cannot read {query!r}: write 'P(Y)', 'P(A, Y)', 'P(Y | A, B)' or 'P(Y | do(X))'."
        )
    left, right = (frozenset(re.findall(r"\w+", part or "")) for part in plain.groups())
    if both := sorted(left & right):
        raise ValueError(f"{both[0]!r} stands on both sides of the bar in {query!r}.")
    return left, right, None
