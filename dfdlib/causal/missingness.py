"""Missingness graphs: who is missing and why, and what can be recovered from what is seen."""

import re
from collections.abc import Mapping
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

from dfdlib.causal._names import check_acyclic, check_name, marked, node_set, spell
from dfdlib.causal._paths import walk
from dfdlib.causal._recovery import Recovery
from dfdlib.causal.arrays import numbers, plain
from dfdlib.causal.graphs import Answer, adjustment_sets


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
    given = ", ".join(sorted(full)) or "nothing"
    return Answer("MNAR", f"given {given}, {shortest.text} is open")


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
