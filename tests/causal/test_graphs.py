"""Graph queries against a brute-force path search, y0, and enumerated distributions."""

import itertools

import networkx as nx
import numpy as np
import pytest

from dfdlib import causal

N_GRAPHS = 150


def random_dag(rng, n, density=0.45):
    names = [str(name) for name in rng.permutation(list("ABCDEFG")[:n])]
    graph = nx.DiGraph()
    graph.add_nodes_from(names)
    pairs = itertools.combinations(names, 2)
    graph.add_edges_from(pair for pair in pairs if rng.random() < density)
    return graph


class BruteForce:
    """d-separation by looking at every path, written from the definition alone.

    A node of a path stops it if it is given and not a collider there, or is a collider there and
    neither it nor anything that it causes is given.
    """

    def __init__(self, edges, nodes):
        self.children = {n: {b for a, b in edges if a == n} for n in nodes}
        self.parents = {n: {a for a, b in edges if b == n} for n in nodes}
        self.below = {n: self._below(n) for n in nodes}
        self.cache = {}

    def _below(self, node):
        found, todo = set(), [node]
        while todo:
            for child in self.children[todo.pop()] - found:
                found.add(child)
                todo.append(child)
        return found

    def paths(self, x, y):
        """Each path as a list of (node, is it a collider) for its inner nodes, and all nodes."""
        if (x, y) not in self.cache:
            self.cache[x, y] = list(self._extend([x], y))
        return self.cache[x, y]

    def _extend(self, path, y):
        for step in sorted(self.children[path[-1]] | self.parents[path[-1]]):
            if step == y:
                yield self._described([*path, y])
            elif step not in path:
                yield from self._extend([*path, step], y)

    def _described(self, path):
        inner = [
            (b, a in self.parents[b] and c in self.parents[b])
            for a, b, c in zip(path, path[1:], path[2:], strict=False)
        ]
        return path, inner

    def is_open(self, inner, given):
        return all(
            (bool((self.below[b] | {b}) & given)) if collider else b not in given
            for b, collider in inner
        )

    def separated(self, x, y, given):
        return not any(self.is_open(inner, given) for _, inner in self.paths(x, y))

    def backdoor(self, x, y, given):
        if given & self.below[x]:
            return False
        return not any(
            self.is_open(inner, given)
            for path, inner in self.paths(x, y)
            if path[1] in self.parents[x]
        )

    def frontdoor(self, x, y, given):
        """Pearl's three conditions, path by path; a path into M may not pass through M again."""
        directed = [p for p, _ in self.paths(x, y) if self._forward(p)]
        if not directed or not given or any(not given & set(p[1:-1]) for p in directed):
            return False
        into_m = all(
            not self.is_open(inner, set())
            for m in given
            for path, inner in self.paths(x, m)
            if path[1] in self.parents[x]
        )
        return into_m and not any(
            self.is_open(inner, {x})
            for m in given
            for path, inner in self.paths(m, y)
            if path[1] in self.parents[m]
            # Leaving another node of M by its own arrow is that node's effect, not a backdoor.
            and not any(
                (a in given and b in self.children[a]) or (b in given and a in self.children[b])
                for a, b in itertools.pairwise(path)
            )
        )

    def _forward(self, path):
        return all(b in self.children[a] for a, b in itertools.pairwise(path))


def subsets(names):
    names = sorted(names)
    for size in range(len(names) + 1):
        yield from map(frozenset, itertools.combinations(names, size))


def smallest(sets):
    return [s for s in sets if not any(other < s for other in sets)]


@pytest.fixture(scope="module")
def graphs():
    rng = np.random.default_rng(3)
    drawn = [random_dag(rng, int(rng.integers(4, 8))) for _ in range(N_GRAPHS)]
    return [(g, BruteForce(list(g.edges), list(g.nodes))) for g in drawn]


def test_d_separation_equals_path_search(graphs):
    rng = np.random.default_rng(0)
    queries = separated = 0
    for graph, brute in graphs:
        for _ in range(60):
            x, y, *rest = (str(n) for n in rng.permutation(list(graph)))
            given = {n for n in rest if rng.random() < 0.4}
            expected = brute.separated(x, y, given)
            assert causal.d_separated(graph, x, y, given) == expected
            queries += 1
            separated += expected
    assert queries >= 5000
    assert 0.2 < separated / queries < 0.8


def test_paths_say_which_are_open_and_who_blocks(graphs):
    rng = np.random.default_rng(1)
    for graph, brute in graphs[:60]:
        x, y, *rest = (str(n) for n in rng.permutation(list(graph)))
        given = {n for n in rest if rng.random() < 0.4}
        table = causal.paths(graph, x, y, given).set_index("path")
        assert len(table) == len(brute.paths(x, y))
        for path, inner in brute.paths(x, y):
            arrows = ["->" if b in brute.children[a] else "<-" for a, b in itertools.pairwise(path)]
            steps = zip(arrows, path[1:], strict=True)
            row = table.loc[" ".join([x, *(f"{arrow} {node}" for arrow, node in steps)])]
            blockers = [node for node, c in inner if not brute.is_open([(node, c)], given)]
            assert row["blocked_by"] == ", ".join(blockers)
            assert row["open"] == (not blockers)
            colliders = [k.split()[0] for k in row["kind"].split(", ") if k.endswith("collider")]
            assert colliders == [node for node, collider in inner if collider]


def test_adjustment_sets_equal_exhaustive_search(graphs):
    rng = np.random.default_rng(2)
    queries = 0
    none = 0
    for graph, brute in graphs:
        for _ in range(34):
            x, y, *rest = (str(n) for n in rng.permutation(list(graph)))
            latent = {n for n in rest if rng.random() < 0.25}
            valid = [z for z in subsets(set(rest) - latent) if brute.backdoor(x, y, z)]
            found = causal.adjustment_sets(graph, x, y, latent=latent)
            assert set(found) == set(smallest(valid))
            assert [len(z) for z in found] == sorted(len(z) for z in found)
            queries += 1
            none += not found
    assert queries >= 5000
    assert none > 300


def test_adjustment_under_selection_equals_exhaustive_search(graphs):
    rng = np.random.default_rng(12)
    some = 0
    for graph, brute in graphs:
        x, y, s, *rest = (str(n) for n in rng.permutation(list(graph)))
        selected = graph.copy()
        selected.nodes[s]["selection"] = True
        valid = [z for z in subsets(rest) if brute.backdoor(x, y, z | {s})]
        found = causal.adjustment_sets(selected, x, y)
        assert set(found) == set(smallest(valid))
        some += bool(found) and found != [frozenset()]
        left = {n for n in rest if rng.random() < 0.4}
        assert causal.d_separated(selected, x, y, left) == brute.separated(x, y, left | {s})
    assert some > 15


def test_each_proposed_set_is_judged_like_the_path_search(graphs):
    rng = np.random.default_rng(4)
    for graph, brute in graphs[:60]:
        x, y, *rest = (str(n) for n in rng.permutation(list(graph)))
        for z in itertools.islice(subsets(rest), 16):
            verdict = causal.explain_adjustment(graph, x, y, z)
            assert verdict.answer == ("yes" if brute.backdoor(x, y, z) else "no")


def test_frontdoor_sets_equal_exhaustive_search(graphs):
    rng = np.random.default_rng(5)
    found_some = 0
    for graph, brute in graphs[:80]:
        for _ in range(6):
            x, y, *rest = (str(n) for n in rng.permutation(list(graph)))
            latent = {n for n in rest if rng.random() < 0.3}
            valid = [m for m in subsets(set(rest) - latent) if brute.frontdoor(x, y, m)]
            found = causal.frontdoor_sets(graph, x, y, latent=latent)
            assert set(found) == set(smallest(valid))
            found_some += bool(found)
    assert found_some > 20


def test_implied_independences_are_all_pairs_and_smallest(graphs):
    rng = np.random.default_rng(6)
    for graph, brute in graphs[:50]:
        latent = {n for n in graph if rng.random() < 0.25}
        table = causal.implied_independences(graph, latent=latent)
        got = {(r.left, r.right): r.given for r in table.itertuples()}
        for a, b in itertools.combinations(sorted(set(graph) - latent), 2):
            sets = [z for z in subsets(set(graph) - latent - {a, b}) if brute.separated(a, b, z)]
            assert ((a, b) in got) == bool(sets)
            if sets:
                assert got[a, b] in sets
                assert len(got[a, b]) == len(sets[0])


# ---------------------------------------------------------------- against enumerated distributions


def binary_law(graph, rng):
    """Random conditional probabilities, and the joint distribution as an array with named axes."""
    names = list(nx.topological_sort(graph))
    tables = {n: rng.uniform(0.1, 0.9, size=(2,) * graph.in_degree(n)) for n in names}
    return names, tables


def joint(graph, names, tables, do=None):
    law = np.zeros((2,) * len(names))
    for values in itertools.product((0, 1), repeat=len(names)):
        unit = dict(zip(names, values, strict=True))
        p = 1.0
        for n in names:
            one = tables[n][tuple(unit[parent] for parent in graph.predecessors(n))]
            if do and n in do:
                one = float(do[n])
            p *= one if unit[n] else 1 - one
        law[values] = p
    return law


def probability(law, names, event):
    index = tuple(event.get(n, slice(None)) for n in names)
    return law[index].sum()


def conditional(law, names, event, given):
    return probability(law, names, {**given, **event}) / probability(law, names, given)


def worlds(names):
    names = sorted(names)
    for values in itertools.product((0, 1), repeat=len(names)):
        yield dict(zip(names, values, strict=True))


def test_adjusting_gives_the_enumerated_effect():
    rng = np.random.default_rng(7)
    checked = 0
    for _ in range(200):
        graph = random_dag(rng, 5, 0.6)
        x, y = (str(n) for n in rng.permutation(list(graph))[:2])
        names, tables = binary_law(graph, rng)
        law, done = joint(graph, names, tables), joint(graph, names, tables, do={x: 1})
        truth = probability(done, names, {y: 1})
        for z in causal.adjustment_sets(graph, x, y):
            value = sum(
                conditional(law, names, {y: 1}, {x: 1, **w}) * probability(law, names, w)
                for w in worlds(z)
            )
            assert value == pytest.approx(truth, abs=1e-12)
            checked += bool(z)
        for m in causal.frontdoor_sets(graph, x, y):
            value = sum(
                conditional(law, names, w, {x: 1})
                * conditional(law, names, {y: 1}, {x: v, **w})
                * probability(law, names, {x: v})
                for w in worlds(m)
                for v in (0, 1)
            )
            assert value == pytest.approx(truth, abs=1e-12)
            checked += 1
    assert checked > 40


# ---------------------------------------------------------------- against y0


@pytest.fixture(scope="module")
def y0():
    return pytest.importorskip("y0", reason="y0 is an oracle for tests only")


def y0_graph(graph, latent=frozenset()):
    """The latent projection for latent nodes without parents, as y0 draws it."""
    from y0.dsl import Variable
    from y0.graph import NxMixedGraph

    directed = [(Variable(a), Variable(b)) for a, b in graph.edges if a not in latent]
    arcs = {
        frozenset(pair)
        for u in latent
        for pair in itertools.combinations(sorted(graph.successors(u)), 2)
    }
    mixed = NxMixedGraph.from_edges(
        directed=directed, undirected=[tuple(Variable(n) for n in sorted(arc)) for arc in arcs]
    )
    for node in set(graph) - latent:
        mixed.add_node(Variable(node))
    return mixed


def y0_identifies(graph, x, y, latent):
    from y0.algorithm.identify import Identification, Unidentifiable, identify
    from y0.dsl import P, Variable

    query = Identification.from_expression(
        graph=y0_graph(graph, latent), query=P(Variable(y) @ Variable(x))
    )
    try:
        identify(query)
    except Unidentifiable:
        return False
    return True


def test_d_separation_agrees_with_y0(y0):
    from y0.algorithm.conditional_independencies import are_d_separated
    from y0.dsl import Variable

    rng = np.random.default_rng(8)
    for _ in range(60):
        graph = random_dag(rng, 5)
        x, y, *rest = (str(n) for n in rng.permutation(list(graph)))
        given = [n for n in rest if rng.random() < 0.4]
        oracle = are_d_separated(
            y0_graph(graph), Variable(x), Variable(y), conditions=[Variable(n) for n in given]
        )
        assert causal.d_separated(graph, x, y, given) == bool(oracle)


def test_what_is_identified_by_a_set_is_identified_by_y0(y0):
    rng = np.random.default_rng(9)
    confirmed = 0
    for _ in range(60):
        graph = random_dag(rng, 6)
        roots = [n for n in graph if not graph.in_degree(n) and graph.out_degree(n) > 1]
        latent = frozenset(roots[:2])
        x, y = (str(n) for n in rng.permutation(sorted(set(graph) - latent))[:2])
        sets = causal.adjustment_sets(graph, x, y, latent=latent)
        sets += causal.frontdoor_sets(graph, x, y, latent=latent)
        if sets:
            assert y0_identifies(graph, x, y, latent)
            confirmed += 1
    assert confirmed > 20


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("X <- C -> B -> Y; X -> Y", [{"B"}]),
        ("X <- C -> B -> Y; X -> Y; C -> Y", []),
        ("X <- C -> Y; X -> Y", []),
        ("X <- C -> Y; X -> M -> Y", []),
    ],
)
def test_graphs_of_the_papers_against_y0(y0, text, sets):
    graph = causal.dag(text, latent="C")
    assert causal.adjustment_sets(graph, "X", "Y") == [frozenset(s) for s in sets]
    found = sets or causal.frontdoor_sets(graph, "X", "Y")
    assert y0_identifies(graph, "X", "Y", frozenset("C")) == bool(found)


# ---------------------------------------------------------------- by hand


def test_every_kind_of_node():
    graph = causal.dag("X -> Y; X <- C -> Y; X -> M -> Y; X -> S <- Y; S -> D")
    table = causal.paths(graph, "X", "Y", given={"C", "D"}).set_index("path")
    assert table.loc["X -> Y"].tolist() == ["direct", True, ""]
    assert table.loc["X <- C -> Y"].tolist() == ["C fork", False, "C"]
    assert table.loc["X -> M -> Y"].tolist() == ["M chain", True, ""]
    assert table.loc["X -> S <- Y"].tolist() == ["S collider", True, ""]
    assert causal.paths(graph, "X", "Y").set_index("path").loc["X -> S <- Y", "blocked_by"] == "S"


def test_m_bias_adjusting_opens_a_path():
    graph = causal.dag("X <- U -> Z <- V -> Y; X -> Y", latent={"U", "V"})
    assert causal.adjustment_sets(graph, "X", "Y") == [frozenset()]
    verdict = causal.explain_adjustment(graph, "X", "Y", given="Z")
    assert str(verdict) == "no: given {Z}, X <- U -> Z <- V -> Y stays open"


def test_selection_is_always_conditioned_on():
    graph = causal.dag("X <- A -> S <- B -> Y; X -> Y", selection="S")
    assert causal.paths(graph, "X", "Y")["open"].tolist() == [True, True]
    assert not causal.d_separated(graph, "A", "B")
    assert causal.adjustment_sets(graph, "X", "Y") == [frozenset("A"), frozenset("B")]
    after = causal.dag("X -> Y -> S", selection="S")
    assert causal.adjustment_sets(after, "X", "Y") == []
    why = causal.explain_adjustment(after, "X", "Y").reason
    assert why == "S decides who enters the data and descends from the treatment: X -> Y -> S"


@pytest.mark.parametrize(
    ("text", "latent", "given", "reason"),
    [
        ("X <- C -> B -> Y; X -> Y", (), None, r"adjust for {B} or {C}"),
        ("X -> Y", (), None, r"adjust for {}"),
        ("Y -> X", (), None, r"X <- Y stays open and there is nothing that may be adjusted for"),
        ("X <- C -> Y", "C", None, r"there is nothing that may be adjusted for; C is latent"),
        ("X <- C -> Y", "C", "C", r"{C} is latent and cannot be adjusted for"),
        ("X <- C -> Y", "X", None, r"{X} is latent, so no data speak of it"),
        ("X -> M -> D; X -> Y", (), "D", r"D descends from the treatment: X -> M -> D"),
        ("X <- C -> Y", (), "C", r"{C} blocks every backdoor path"),
    ],
)
def test_reasons(text, latent, given, reason):
    verdict = causal.explain_adjustment(causal.dag(text), "X", "Y", given, latent=latent)
    assert reason in verdict.reason


def test_a_set_that_does_not_identify_is_refused_with_the_path():
    graph = causal.dag("X -> M -> Y; X <- C -> Y")
    with pytest.raises(ValueError, match=r"M descends from the treatment: X -> M. Adjust for {C}"):
        causal.check_adjustment(graph, "X", "Y", {"M", "C"})
    with pytest.raises(ValueError, match="No other set of observed nodes does"):
        causal.check_adjustment(graph, "X", "Y", "M", latent="C")
    causal.check_adjustment(graph, "X", "Y", "C")


def test_names_are_checked():
    graph = causal.dag("Severity -> R_Y; Severity -> Y")
    for query in (causal.paths, causal.d_separated, causal.adjustment_sets, causal.frontdoor_sets):
        with pytest.raises(ValueError, match=r"'Sevrity' is not a node .* Did you mean 'Severity'"):
            query(graph, "Sevrity", "Y")
    with pytest.raises(ValueError, match="Did you mean 'Y'"):
        causal.paths(graph, "Severity", "R_Y", given="y")
    with pytest.raises(ValueError, match="must differ"):
        causal.paths(graph, "Y", "Y")
    with pytest.raises(ValueError, match="both an end of the paths and conditioned on"):
        causal.paths(graph, "Severity", "Y", given={"Y"})
    with pytest.raises(ValueError, match="must be disjoint"):
        causal.d_separated(graph, "Severity", "Y", given={"Y"})


def test_cycles_are_refused_and_shown():
    with pytest.raises(ValueError, match="cycle: A -> B -> C -> A"):
        causal.dag("C -> A -> B -> C; B -> D")
    with pytest.raises(ValueError, match="cycle: X -> X"):
        causal.paths(nx.DiGraph([("X", "X"), ("X", "Y")]), "X", "Y")


def test_text_that_is_no_graph_is_refused():
    with pytest.raises(ValueError, match="'A => B' is not a name"):
        causal.dag("A => B")
    with pytest.raises(ValueError, match="'' is not a name"):
        causal.dag("A ->")
    with pytest.raises(ValueError, match="'U' is not a node"):
        causal.dag("A -> B", latent="U")
    with pytest.raises(ValueError, match="'R' is not a node"):
        causal.dag("A -> B", indicators={"A": "R"})


def test_front_door_with_selection_is_refused():
    graph = causal.dag("X -> M -> Y -> S", selection="S")
    with pytest.raises(ValueError, match=r"does not handle selection, and {S} decides"):
        causal.frontdoor_sets(graph, "X", "Y")


def test_an_empty_name_is_no_name():
    graph = causal.dag("X <- C -> Y; X -> Y", latent="", selection="")
    assert not any(mark for _, mark in graph.nodes(data="latent"))
    assert causal.adjustment_sets(graph, "X", "Y", latent="") == [frozenset("C")]
    assert not causal.d_separated(graph, "X", "Y", "")
