"""The search behind `recoverable`: derivations of a formula, and structures that exclude one."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain, combinations

import networkx as nx

from dfdlib.causal._names import marked

Names = frozenset[str]
# One step of a derivation: sum over a variable, or split off the factor of one.
_Step = tuple[str, str, Names]


def _subsets(names: Iterable[str]) -> Iterator[Names]:
    """All subsets, small ones first, then by name."""
    ordered = sorted(names)
    sizes = (combinations(ordered, size) for size in range(len(ordered) + 1))
    return map(frozenset, chain.from_iterable(sizes))


def _term(left: Iterable[str], right: Iterable[str] = (), seen: Iterable[str] = ()) -> str:
    """Write ``P(left | right, R=1)``."""
    given = [*sorted(right), *(f"{r}=1" for r in sorted(seen))]
    return f"P({', '.join(sorted(left))}{' | ' if given else ''}{', '.join(given)})"


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
            for z in sorted(self.variables - state - right):
                moves.append((state | {z}, ("sum", z, frozenset())))
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

    def _find_factor(self, v: str, given: Names) -> Names | None:
        """The smallest set S with ``P(v | given) = P(v | S) = P(v | S, R_v = R_S = 1)``."""
        for kept in _subsets(given - self.latent):
            irrelevant = (given - kept) | self._seen(kept | {v})
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
