"""Missingness graphs: textbook cases, and an algebraic oracle that knows no graph theory."""

import itertools
import math

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from dfdlib import causal

SELF_MASKING = causal.dag("X -> Y -> R_Y")
COLLIDER_PATH = causal.dag("A -> Y <- U -> R_A", latent="U")
MCAR = causal.dag("X -> Y; R_Y")
MAR = causal.dag("W -> Y; W -> R_Y")


@pytest.mark.parametrize(
    ("graph", "query", "answer", "reason"),
    [
        (MCAR, "P(Y)", "yes", "P(Y) = P(Y | R_Y=1)"),
        (MCAR, "P(X, Y)", "yes", "P(X, Y) = P(X | Y, R_Y=1) P(Y | R_Y=1)"),
        (MAR, "P(Y)", "yes", "P(Y) = Σ_W P(Y | W, R_Y=1) P(W)"),
        (MAR, "P(Y | W)", "yes", "P(Y | W) = P(Y | W, R_Y=1)"),
        (MAR, "P(W)", "yes", "P(W) is read off, since nothing in it is ever missing"),
        (MAR, "P(W | Y)", "yes", "P(W | Y) = P(W, Y) / P(Y), where P(W, Y) = "),
        (SELF_MASKING, "P(Y)", "no", "Y and R_Y are neighbours (self-masking): Y -> R_Y"),
        (SELF_MASKING, "P(Y | X)", "no", "Y and R_Y are neighbours (self-masking): Y -> R_Y"),
        (SELF_MASKING, "P(X | Y)", "yes", "P(X | Y) = P(X | Y, R_Y=1)"),
        (SELF_MASKING, "P(X)", "yes", "P(X) is read off"),
        (COLLIDER_PATH, "P(A, Y)", "no", "A and R_A are joined by colliders only: A -> Y <-> R_A"),
        (COLLIDER_PATH, "P(Y | A)", "no", "A and R_A are joined by colliders only"),
        (COLLIDER_PATH, "P(A)", "yes", "P(A) = P(A | R_A=1)"),
        (COLLIDER_PATH, "P(Y)", "yes", "P(Y) is read off"),
        (COLLIDER_PATH, "P(U)", "no", "U is latent"),
        (COLLIDER_PATH, "P(Y | U)", "no", "U is latent"),
        (COLLIDER_PATH, "P(A | U)", "yes", "P(A | U) = P(A | R_A=1)"),
        # Each variable decides whether the other is seen: no factorisation, but odds ratios.
        (causal.dag("X -> Y -> R_X; X -> R_Y"), "P(X, Y)", "yes", "odds ratios"),
        # A colluder: the full law is lost (Nabi et al. 2020); of P(X, Y) we do not know.
        (causal.dag("X -> Y; X -> R_Y <- R_X"), "P(X)", "yes", "P(X) = P(X | R_X=1)"),
        (causal.dag("Z -> X -> R_Y; Z -> R_Z"), "P(Z)", "no", "self-masking"),
        (causal.dag("Z -> R_Z; Z -> X; Z -> R_X"), "P(X)", "unknown", "neither was self-masking"),
        (MAR, "P(Y | do(W))", "yes", "P(Y | do(W)) = P(Y | W)"),
        (
            causal.dag("X <- Z -> Y; X -> Y; Z -> R_Y"),
            "P(Y | do(X))",
            "yes",
            "P(Y | do(X)) = Σ_Z P(Y | X, Z) P(Z); P(Y | X, Z) = P(Y | X, Z, R_Y=1); P(Z) is read",
        ),
        (SELF_MASKING, "P(Y | do(X))", "unknown", "no adjustment set was found"),
    ],
)
def test_recoverable(graph, query, answer, reason):
    found = causal.recoverable(graph, query)
    assert found.answer == answer
    assert reason in found.reason
    assert str(found) == f"{answer}: {found.reason}"


@pytest.mark.parametrize(
    ("text", "latent", "expected"),
    [
        ("X -> Y; R_Y", (), "MCAR: R_Y _||_ Y, X"),
        ("X -> Y; U -> R_Y", "U", "MCAR: R_Y _||_ Y, X"),
        ("W -> Y; W -> R_Y", (), "MAR: R_Y _||_ Y | W"),
        ("W -> Y; W -> R_Y; Y -> Y_obs <- R_Y", (), "MAR: R_Y _||_ Y | W"),
        ("W -> Y; W -> R_Y", "W", "MNAR: given nothing, Y <- W -> R_Y is open"),
        ("X -> Y -> R_Y", (), "MNAR: given X, Y -> R_Y is open"),
        ("A -> Y <- U -> R_A", "U", "MNAR: given Y, A -> Y <- U -> R_A is open"),
        ("X -> Y -> R_X; X -> R_Y", (), "MNAR: given nothing, X -> R_Y is open"),
        ("A -> R_B; B -> R_A", (), "MNAR: given nothing, A -> R_B is open"),
    ],
)
def test_classify(text, latent, expected):
    assert str(causal.classify(causal.dag(text, latent=latent))) == expected


CONDITION = ", if everyone can be measured (positivity)"


@pytest.mark.parametrize(
    ("graph", "query", "condition"),
    [
        (MAR, "P(Y)", True),
        (MAR, "P(W)", False),  # never missing: nothing to take for granted
        (COLLIDER_PATH, "P(A)", True),
        (causal.dag("X -> Y -> R_X; X -> R_Y"), "P(X, Y)", True),
        (MAR, "P(Y | do(W))", True),
        (causal.dag("X <- Z -> Y; X -> Y; V -> R_V"), "P(Y | do(X))", False),
        (causal.dag("X <- Z -> Y; X -> Y; W -> R_Z"), "P(Y | do(X))", True),
    ],
)
def test_a_yes_says_what_it_takes_for_granted(graph, query, condition):
    found = causal.recoverable(graph, query)
    assert found.answer == "yes"
    assert found.reason.endswith(CONDITION) == condition


# ---------------------------------------------------------------- the algebraic oracle


def law(graph, tables):
    """Every value of all nodes, and its probability; tables[node] is P(node = 1 | parents)."""
    names = list(nx.topological_sort(graph))
    values = np.array(list(itertools.product((0, 1), repeat=len(names))))
    at = {n: values[:, i] for i, n in enumerate(names)}
    p = np.ones(len(values), dtype=complex)
    for n in names:
        row = np.zeros(len(values), dtype=int)
        for parent in graph.predecessors(n):
            row = 2 * row + at[parent]
        one = tables[n][row]
        p = p * np.where(at[n] == 1, one, 1 - one)
    return at, p


def summed(at, names, p):
    """Marginal probabilities of some columns."""
    cell = np.zeros(len(p), dtype=int)
    for n in names:
        cell = 3 * cell + at[n]
    return np.array([p[cell == c].sum() for c in np.unique(cell)])


def locally_identified(graph, left, right, rng):
    """Whether, at a random point, what is observed fixes the query to first order.

    The query is a function of the observed law near that point only if its gradient lies in the
    row space of the Jacobian of the observed law (both by complex steps, so to 1e-15).
    """
    tables = {n: rng.uniform(0.2, 0.8, 2 ** graph.in_degree(n)) for n in graph}
    pairs = causal.indicators(graph)
    latent = {n for n, mark in graph.nodes(data="latent") if mark}

    def functions(tables):
        at, p = law(graph, tables)
        seen = {n: at[n] for n in graph if n not in latent}
        for variable, indicator in pairs.items():
            seen[variable] = np.where(at[indicator] == 1, at[variable], 2)
        base = np.logical_and.reduce([at[n] == 1 for n in right], initial=True)
        code = sum(2**i * at[n] for i, n in enumerate(left))
        cells = [p[base & (code == value)].sum() for value in range(2 ** len(left))]
        return summed(seen, sorted(seen), p), np.array(cells) / p[base].sum()

    observed, query = [], []
    for n in tables:
        for i in range(len(tables[n])):
            moved = {k: v.astype(complex) for k, v in tables.items()}
            moved[n][i] += 1e-20j
            a, b = functions(moved)
            observed.append(a.imag / 1e-20)
            query.append(b.imag / 1e-20)
    jacobian, gradient = np.array(observed), np.array(query)
    rank = np.linalg.matrix_rank(jacobian, tol=1e-9)
    return np.linalg.matrix_rank(np.hstack([jacobian, gradient]), tol=1e-9) == rank


def submodels(graph):
    """The graph with each subset of its arrows."""
    for size in range(graph.number_of_edges() + 1):
        for kept in itertools.combinations(sorted(graph.edges), size):
            smaller = nx.DiGraph()
            smaller.add_nodes_from(graph.nodes(data=True))
            smaller.add_edges_from(kept)
            yield smaller


def random_m_graph(rng):
    variables = ["A", "B", "C"]
    missing = variables[: int(rng.integers(1, 4))]
    latent = ["U"] if rng.random() < 0.6 else []
    order = [*latent, *(str(v) for v in rng.permutation(variables)), *(f"R_{m}" for m in missing)]
    if rng.random() < 0.3:  # availability may also cause: R -> Y
        order = [str(n) for n in rng.permutation(order)]
    graph = nx.DiGraph()
    graph.add_nodes_from(order)
    for a, b in itertools.combinations(order, 2):
        if rng.random() < 0.35:
            graph.add_edge(a, b)
    for u in latent:
        graph.nodes[u]["latent"] = True
    return graph


def random_query(rng):
    names = [str(n) for n in rng.permutation(["A", "B", "C"])]
    n_left = int(rng.integers(1, 4))
    left = names[:n_left]
    right = names[n_left : n_left + int(rng.integers(0, 2))]
    return left, right


def test_answers_against_the_algebra_of_the_observed_law():
    rng = np.random.default_rng(0)
    counts = {"yes": 0, "no": 0, "unknown": 0}
    for _ in range(260):
        graph = random_m_graph(rng)
        left, right = random_query(rng)
        query = f"P({', '.join(left)}{' | ' if right else ''}{', '.join(right)})"
        answer = causal.recoverable(graph, query).answer
        counts[answer] += 1
        if answer == "yes":
            assert locally_identified(graph, left, right, rng), (graph.edges, query)
        if answer == "no" and graph.number_of_edges() <= 8:
            # Two laws of a submodel are two laws of the graph: one that is lost is enough.
            assert not all(
                locally_identified(smaller, left, right, rng) for smaller in submodels(graph)
            ), (graph.edges, query)
    assert counts["yes"] > 60
    assert counts["no"] > 60
    assert counts["unknown"] < 60


def test_two_models_of_the_collider_path_agree_on_the_data_and_differ_on_the_query():
    graph = causal.dag("U -> R_A; A -> Y; U -> Y", latent="U")
    parents = list(graph.predecessors("Y"))
    laws = []
    for flipped in (0, 1):
        y = np.array([
            0.9 if (a ^ (flipped & (1 - u))) else 0.1
            for a, u in ((v[parents.index("A")], v[parents.index("U")])
                         for v in itertools.product((0, 1), repeat=2))
        ])  # fmt: skip
        half = np.array([0.5])
        laws.append(law(graph, {"U": half, "A": half, "R_A": np.array([0.0, 1.0]), "Y": y}))
    (at, p), (_, q) = laws
    seen = {"R_A": at["R_A"], "Y": at["Y"], "A": np.where(at["R_A"] == 1, at["A"], 2)}
    np.testing.assert_allclose(summed(seen, sorted(seen), p), summed(seen, sorted(seen), q))
    assert np.abs(summed(at, ["A", "Y"], p) - summed(at, ["A", "Y"], q)).max() > 0.1
    assert causal.recoverable(graph, "P(A, Y)").answer == "no"


# ---------------------------------------------------------------- tables and names


def test_hide_puts_nan_where_the_indicator_is_zero():
    frame = pd.DataFrame({"Y": [1, 2, 3], "R_Y": [1, 0, 1], "R_Z": [0, 0, 0]})
    seen = causal.hide(frame)["Y"].tolist()
    assert seen[0] == 1.0
    assert seen[2] == 3.0
    assert math.isnan(seen[1])
    assert frame["Y"].tolist() == [1, 2, 3]
    renamed = frame.rename(columns={"R_Y": "R"})
    assert causal.hide(renamed, {"Y": "R"})["Y"].isna().tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"'r' is not a column .* Did you mean 'R'"):
        causal.hide(renamed, {"Y": "r"})
    with pytest.raises(ValueError, match=r"no column R_A goes with a column A"):
        causal.hide(renamed)


def test_indicators_by_name_and_by_attribute():
    graph = causal.dag("C -> X -> X_obs <- R; B -> R_B", indicators={"X": "R"})
    assert causal.indicators(graph) == {"X": "R", "B": "R_B"}
    assert causal.proxies(graph) == {"X_obs"}


def test_what_cannot_be_asked():
    with pytest.raises(ValueError, match=r"cannot read 'E\[Y\]': write 'P\(Y\)'"):
        causal.recoverable(MAR, "E[Y]")
    with pytest.raises(ValueError, match=r"'w' is not a node .* Did you mean 'W'"):
        causal.recoverable(MAR, "P(w)")
    with pytest.raises(ValueError, match=r"'R_Y' is always observed: ask .* 'P\(Y\)'"):
        causal.recoverable(MAR, "P(Y | R_Y)")
    with pytest.raises(ValueError, match="'Y' stands on both sides"):
        causal.recoverable(MAR, "P(Y | Y)")
    with pytest.raises(ValueError, match="the graph has no indicator"):
        causal.recoverable(causal.dag("X -> Y"), "P(Y)")
    with pytest.raises(ValueError, match="the graph has no indicator"):
        causal.classify(causal.dag("X -> Y"))
    with pytest.raises(ValueError, match=r"does not handle selection, and {S}"):
        causal.recoverable(causal.dag("Y -> S; R_Y", selection="S"), "P(Y)")
    with pytest.raises(ValueError, match="cycle: A -> R_A -> A"):
        causal.recoverable(nx.DiGraph([("A", "R_A"), ("R_A", "A")]), "P(A)")


def test_an_indicator_that_is_itself_missing_is_refused():
    for holed in ([1.0, np.nan], pd.array([1, None], dtype="Int64")):
        frame = pd.DataFrame({"Y": [1.0, 2.0], "R_Y": holed})
        with pytest.raises(ValueError, match="indicator 'R_Y' is missing in 1 rows"):
            causal.hide(frame)
    with pytest.raises(ValueError, match="frame is a list"):
        causal.hide([1, 2])
