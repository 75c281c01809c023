"""Draw causal graphs with matplotlib."""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import networkx as nx

from dfdlib.causal.missingness import indicators
from dfdlib.causal.separation import check_acyclic, marked, node_set

if TYPE_CHECKING:
    import matplotlib.axes

# Told apart by outline and shape, not by colour alone.
_STYLES: dict[str, dict] = {
    "observed": {"facecolor": "white", "linestyle": "-", "linewidth": 1.2},
    "partly observed": {"facecolor": "white", "linestyle": ":", "linewidth": 1.8},
    "indicator": {"facecolor": "#ffd9a8", "linestyle": "-", "linewidth": 1.2},
    "latent": {"facecolor": "#e6e6e6", "linestyle": (0, (4, 2)), "linewidth": 1.2},
    "selection": {"facecolor": "#fff3cc", "linestyle": "-", "linewidth": 1.2},
    "intervened": {"facecolor": "#cfe3f5", "linestyle": "-", "linewidth": 3.0},
}


def draw(
    graph: nx.DiGraph,
    ax: "matplotlib.axes.Axes | None" = None,
    *,
    latent: str | Iterable[str] = (),
    positions: Mapping[str, Any] | None = None,
) -> "matplotlib.axes.Axes":
    """Draw a causal graph from causes on the left to effects on the right.

    Args:
        graph: A directed acyclic graph, such as ``scm.graph`` or ``scm.do(X=1).graph``.
        ax: Where to draw; a new figure without it.
        latent: Nodes to show as latent, besides those the graph marks as latent.
        positions: Place (x, y) of every node, where the automatic layers do not please.

    Returns:
        The axes. Observed nodes are white and round, partly observed ones too but with a dotted
        outline; the indicators that say where they are observed (``R_Y`` of ``Y``) are orange
        boxes with round corners, latent nodes grey with a dashed outline, selection nodes yellow
        squares, intervened nodes blue with a thick outline. A legend names those that occur.

    Raises:
        ValueError: For a cycle, an unknown node, or positions that leave out a node.

    Example:
        >>> from dfdlib.causal import dag
        >>> ax = draw(dag("X <- C -> Y; X -> Y", latent="C"))
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['observed', 'latent']
        >>> ax = draw(dag("W -> Y; W -> R_Y"))
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['observed', 'partly observed', 'indicator']
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    check_acyclic(graph)
    pairs = indicators(graph)
    role = dict.fromkeys(graph.nodes, "observed") | dict.fromkeys(pairs, "partly observed")
    role |= dict.fromkeys(pairs.values(), "indicator")
    role |= dict.fromkeys(marked(graph, "latent") | node_set(graph, latent), "latent")
    role |= dict.fromkeys(marked(graph, "selection"), "selection")
    role |= dict.fromkeys(marked(graph, "intervened"), "intervened")
    places = layout(graph) if positions is None else dict(positions)
    absent = sorted(set(graph.nodes) - set(places))
    if absent:
        raise ValueError(f"positions lack {', '.join(absent)}: give every node a place (x, y).")
    if ax is None:
        _, ax = plt.subplots(figsize=(4.5, 3.0), layout="constrained")
    outline = dict.fromkeys(graph.nodes, "ellipse,pad=0.4")
    outline |= dict.fromkeys(pairs.values(), "round,pad=0.5")
    outline |= dict.fromkeys(marked(graph, "selection"), "square,pad=0.5")
    shapes = {}
    for node in graph:
        box = {"boxstyle": outline[node], **_STYLES[role[node]]}
        across, up = places[node]
        shapes[node] = ax.text(
            across, up, node, ha="center", va="center", bbox=box, parse_math=False
        )
    for tail, head in graph.edges:
        ax.annotate(
            "",
            xy=places[head],
            xytext=places[tail],
            arrowprops={
                "arrowstyle": "-|>",
                "color": "black",
                "patchA": shapes[tail].get_bbox_patch(),
                "patchB": shapes[head].get_bbox_patch(),
                "shrinkA": 1,
                "shrinkB": 1,
            },
        )
    columns, heights = zip(*places.values(), strict=True)
    ax.set_xlim(min(columns) - 0.6, max(columns) + 0.6)
    ax.set_ylim(min(heights) - 0.7, max(heights) + 0.7)
    ax.set_axis_off()
    used = [name for name in _STYLES if name in role.values()]
    if used != ["observed"]:
        handles = [Patch(edgecolor="black", label=name, **_STYLES[name]) for name in used]
        ax.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, frameon=False
        )
    return ax


def layout(graph: nx.DiGraph) -> dict[str, tuple[float, float]]:
    """Place nodes in columns by depth, at heights that keep arrows off nodes and each other."""
    columns = [sorted(names) for names in nx.topological_generations(graph)]
    places = {
        name: (float(c), (len(names) - 1) / 2 - row)
        for c, names in enumerate(columns)
        for row, name in enumerate(names)
    }
    tallest = max(map(len, columns), default=1)
    heights = [h / 2 for h in range(-tallest - 1, tallest + 2)]
    for _ in range(6):  # one node at a time, until none moves
        before = dict(places)
        for name, (across, _) in before.items():
            tried = ({**places, name: (across, h)} for h in heights)
            places = min(tried, key=lambda p: _clutter(graph, p))
        if places == before:
            break
    return places


def _clutter(graph: nx.DiGraph, places: dict[str, tuple[float, float]]) -> float:
    """What makes a drawing hard to read: near misses, crossings, long arrows."""
    at = {name: complex(*place) for name, place in places.items()}
    cost = sum(0.01 * abs(z.imag) for z in at.values())
    cost += sum(3.0 for a, b in combinations(at.values(), 2) if abs(a - b) < 0.9)
    for a, b in graph.edges:
        along = at[b] - at[a]
        cost += 0.05 * abs(along)
        for c, place in at.items():
            # Turned so that the arrow lies on the real axis from 0 to 1.
            turned = (place - at[a]) / along
            if c not in (a, b) and 0 < turned.real < 1:
                cost += 4 * max(0.0, 0.5 - abs(turned.imag * abs(along)))
    for (a, b), (c, d) in combinations(graph.edges, 2):
        if len({a, b, c, d}) == 4:
            sides = [_side(at[a], at[b], at[c]), _side(at[a], at[b], at[d])]
            sides += [_side(at[c], at[d], at[a]), _side(at[c], at[d], at[b])]
            cost += float(sides[0] * sides[1] < 0 and sides[2] * sides[3] < 0)
    return cost


def _side(start: complex, end: complex, point: complex) -> float:
    """On which side of the line from start to end a point lies."""
    return ((end - start).conjugate() * (point - start)).imag
