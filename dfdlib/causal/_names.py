"""Names of nodes and columns: checked once, refused in one wording."""

import difflib
from collections.abc import Collection, Iterable

import networkx as nx


def suggestion(name: str, known: Collection[str]) -> str:
    """Answer ``' Did you mean 'x'?'`` where one known name is close, else nothing."""
    folded = {str(k).casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f" Did you mean {folded[close[0]]!r}?" if close else ""


def check_name(name: str, known: Collection[str], what: str) -> None:
    """Refuse a name that is not among the known ones."""
    if name not in known:
        listed = ", ".join(map(str, known)) or "there is none"
        raise ValueError(f"{name!r} is not a {what} ({listed}).{suggestion(name, known)}")


def as_set(names: str | Iterable[str]) -> frozenset[str]:
    """Read one name or several; a lone string is one name, not its letters, and '' is none."""
    return frozenset(filter(None, [names])) if isinstance(names, str) else frozenset(names)


def node_set(graph: nx.DiGraph, names: str | Iterable[str]) -> frozenset[str]:
    """Read names of nodes and refuse what the graph does not have."""
    found = as_set(names)
    for name in sorted(found):
        check_name(name, graph.nodes, "node")
    return found


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
