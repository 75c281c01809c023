"""Structural causal models: what is sampled, what do changes, what is refused."""

import functools
import itertools

import networkx as nx
import numpy as np
import pytest

from dfdlib import causal


def linear():
    return causal.SCM(
        C=lambda u: u,
        B=lambda C, u: 0.5 * C + u,
        X=lambda C, u: C + u,
        Y=lambda X, B, u: 2 * X + B + u,
    )


def test_argument_names_make_the_graph():
    assert set(linear().graph.edges) == {("C", "B"), ("C", "X"), ("X", "Y"), ("B", "Y")}


def test_nodes_may_be_declared_in_any_order():
    scm = causal.SCM(Y=lambda X: X + 1, X=lambda u: u)
    frame = scm.sample(10)
    assert list(frame) == ["Y", "X"]
    np.testing.assert_array_equal(frame["Y"], frame["X"] + 1)


def test_sample_has_the_moments_of_the_equations():
    frame = linear().sample(200_000, seed=1)
    # Var Y = Var(2X + B + u) with X = C + u_X, B = C/2 + u_B: (2.5)² + 4 + 1 + 1 = 12.25.
    assert frame["Y"].var() == pytest.approx(12.25, rel=0.02)
    assert frame["X"].cov(frame["B"]) == pytest.approx(0.5, abs=0.03)
    assert frame.mean().abs().max() < 0.04


def test_same_seed_same_table_other_seed_another():
    scm = linear()
    assert scm.sample(50, seed=3).equals(scm.sample(50, seed=3))
    assert not scm.sample(50, seed=3).equals(scm.sample(50, seed=4))


def test_noise_of_nodes_is_independent():
    names = [f"N{i}" for i in range(12)]
    frame = causal.SCM(**{name: (lambda u: u) for name in names}).sample(50_000, seed=0)
    correlation = np.corrcoef(frame.to_numpy().T) - np.eye(12)
    assert np.abs(correlation).max() < 0.02


def test_adding_a_node_changes_no_other():
    small = causal.SCM(X=lambda u: u, Y=lambda X, u: X + u)
    large = causal.SCM(A=lambda u: u, Y=lambda X, u: X + u, Z=lambda Y, u: Y - u, X=lambda u: u)
    small, large = small.sample(100, seed=7), large.sample(100, seed=7)
    np.testing.assert_array_equal(small["X"], large["X"])
    np.testing.assert_array_equal(small["Y"], large["Y"])


def test_do_gives_paired_counterfactuals():
    scm = linear()
    seen = scm.sample(500, seed=2)
    done = scm.do(X=1.5).sample(500, seed=2)
    np.testing.assert_array_equal(seen[["C", "B"]], done[["C", "B"]])
    assert (done["X"] == 1.5).all()
    # The unit's own noise of Y is kept: its counterfactual outcome follows from the equations.
    noise = seen["Y"] - 2 * seen["X"] - seen["B"]
    np.testing.assert_allclose(done["Y"], 2 * 1.5 + seen["B"] + noise)
    # A node that is set to what it was changes nothing downstream.
    same = scm.do(X=lambda C, u: C + u).sample(500, seed=2)
    np.testing.assert_array_equal(same, seen)


def test_do_is_not_conditioning():
    """P(Y | X > 0) holds the confounder, P(Y | do(X)) does not; both have a closed form."""
    scm = causal.SCM(C=lambda u: u, X=lambda C, u: C + u > 0, Y=lambda C, X, u: X + C + u)
    frame = scm.sample(400_000, seed=0)
    seen = frame.groupby("X")["Y"].mean()
    done = [scm.do(X=x).sample(400_000, seed=0)["Y"].mean() for x in (0, 1)]
    # E[C | C + u > 0] = sqrt(1/2) · E|Z| = 1 / sqrt(pi).
    assert seen[1] - seen[0] == pytest.approx(1 + 2 / np.sqrt(np.pi), abs=0.015)
    assert done[1] - done[0] == pytest.approx(1.0, abs=1e-9)


def test_do_with_a_rule_changes_the_graph():
    scm = linear().do(X=lambda B, u: (B > 0) + 0 * u)
    assert set(scm.graph.predecessors("X")) == {"B"}
    frame = scm.sample(100, seed=0)
    np.testing.assert_array_equal(frame["X"], frame["B"] > 0)
    assert nx.get_node_attributes(scm.graph, "intervened")["X"]


def test_do_leaves_the_model_as_it_was_and_composes():
    scm = linear()
    both = scm.do(X=1.0).do(B=2.0)
    assert set(both.graph.edges) == {("X", "Y"), ("B", "Y")}
    assert len(scm.graph.edges) == 4
    assert both.sample(20, seed=1).equals(scm.do(X=1.0, B=2.0).sample(20, seed=1))
    assert repr(both) == "SCM(C, B, X, X B -> Y; do B X)"


def test_noise_by_name_and_by_function():
    scm = causal.SCM(
        R=lambda u: u < 0.3,
        L=lambda u: u,
        T=lambda u: u,
        noise={
            "R": "uniform",
            "L": "logistic",
            "T": lambda rng, n: rng.standard_t(5, size=n),
        },
    )
    frame = scm.sample(200_000, seed=0)
    assert set(frame["R"]) == {0, 1}
    assert frame["R"].mean() == pytest.approx(0.3, abs=0.005)
    assert frame["L"].var() == pytest.approx(np.pi**2 / 3, rel=0.02)
    assert frame["T"].var() == pytest.approx(5 / 3, rel=0.05)


def test_latent_columns_and_units_left_out_by_selection():
    scm = causal.SCM(
        U=lambda u: u,
        X=lambda U, u: U + u,
        S=lambda X: X > 0,
        latent="U",
        selection={"S"},
    )
    everyone = scm.sample(300, seed=0, full=True)
    seen = scm.sample(300, seed=0)
    assert list(everyone) == ["U", "X", "S"]
    assert list(seen) == ["X", "S"]
    assert seen.index.tolist() == everyone.index[everyone["S"] == 1].tolist()
    assert 100 < len(seen) < 200
    assert scm.graph.nodes["U"]["latent"]
    assert scm.graph.nodes["S"]["selection"]


def test_constants_and_defaults():
    def scaled(A, scale):
        return scale * A

    scm = causal.SCM(
        A=lambda: 3, X=lambda A, u, k=2.0: k * A + 0 * u, Y=functools.partial(scaled, scale=5)
    )
    assert scm.sample(5)["X"].tolist() == [6.0] * 5
    assert scm.sample(5)["Y"].tolist() == [15] * 5


def test_a_million_units_are_quick():
    frame = linear().sample(1_000_000, seed=0)
    assert len(frame) == 1_000_000


def test_draw_tells_nodes_apart_and_keeps_them_in_place():
    import matplotlib.pyplot as plt

    scm = causal.SCM(
        U=lambda u: u,
        X=lambda U, u: U + u,
        Y=lambda X, U, u: X + U + u,
        S=lambda Y: Y > 0,
        latent="U",
        selection="S",
    )
    before, after = scm.draw(), scm.do(X=1.0).draw()

    def places(ax):
        return {t.get_text(): t.get_position() for t in ax.texts if t.get_text()}

    def legend(ax):
        return [t.get_text() for t in ax.get_legend().get_texts()]

    def looks(ax):
        return {
            t.get_text(): (
                p.get_boxstyle().__class__.__name__,
                p.get_linestyle(),
                p.get_linewidth(),
            )
            for t in ax.texts
            if t.get_text() and (p := t.get_bbox_patch())
        }

    assert set(places(before)) == {"U", "X", "Y", "S"}
    assert places(before) == places(after)
    assert legend(before) == ["observed", "latent", "selection"]
    assert legend(after) == ["observed", "latent", "selection", "intervened"]
    assert len(set(looks(after).values())) == 4
    arrows = [t for t in before.texts if not t.get_text()]
    assert len(arrows) == 4
    with pytest.raises(ValueError, match="positions lack Y"):
        causal.draw(causal.dag("X -> Y"), positions={"X": (0, 0)})
    plt.close("all")


def test_draw_writes_names_as_they_are():
    names = [r"$\frac{$", "a$b$", "two\nlines", "_x", "100 %", "<b>"]
    graph = nx.DiGraph(list(itertools.pairwise(names)))
    ax = causal.draw(graph, latent=["_x"])
    ax.figure.canvas.draw()  # matplotlib reads mathematics only now
    assert set(names) <= {text.get_text() for text in ax.texts}


def test_draw_tells_what_may_be_missing_and_what_says_so():
    import matplotlib.pyplot as plt

    graph = causal.dag("W -> Y; W -> R_Y; W -> Z <- M", indicators={"Z": "M"}, latent="W")
    ax = causal.draw(graph)
    boxes = {t.get_text(): t.get_bbox_patch() for t in ax.texts if t.get_text()}

    def look(node):
        box = boxes[node]
        return box.get_boxstyle().__class__.__name__, box.get_linestyle(), box.get_facecolor()

    assert look("R_Y") == look("M")  # by name or by declaration
    assert look("Y") == look("Z")
    assert len({look(node)[:2] for node in ("W", "Y", "R_Y")}) == 3  # in grey, too
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert legend == ["partly observed", "indicator", "latent"]
    done = causal.SCM(W=lambda u: u, Y=lambda W: W, R_Y=lambda W: W > 0).do(R_Y=1).draw()
    box = next(t.get_bbox_patch() for t in done.texts if t.get_text() == "R_Y")
    assert box.get_boxstyle().__class__.__name__ == "Round"  # still an indicator
    assert box.get_linewidth() == 3
    plt.close("all")


def test_layout_keeps_arrows_off_nodes():
    from dfdlib.causal.drawing import layout

    graph = causal.dag("C -> X -> M -> Y; X -> Y; C -> Y")
    places = {k: np.array(v) for k, v in layout(graph).items()}
    for a, b in graph.edges:
        for c in set(graph) - {a, b}:
            along = places[b] - places[a]
            at = np.clip((places[c] - places[a]) @ along / (along @ along), 0, 1)
            assert np.linalg.norm(places[a] + at * along - places[c]) > 0.3


# ---------------------------------------------------------------- refusals


def test_an_unknown_parent_is_refused_with_a_guess():
    with pytest.raises(ValueError, match=r"mechanism of 'Y' asks for 'sevrity'.*mean 'severity'"):
        causal.SCM(severity=lambda u: u, Y=lambda sevrity, u: u)


def test_a_cycle_is_refused_and_shown():
    with pytest.raises(ValueError, match="cycle: A -> B -> A"):
        causal.SCM(A=lambda B: B, B=lambda A: A)
    with pytest.raises(ValueError, match="cycle: X -> X"):
        linear().do(X=lambda X: X + 1)
    with pytest.raises(ValueError, match="cycle: C -> X -> C"):
        linear().do(C=lambda X: X)


def test_names_that_shadow_are_refused():
    with pytest.raises(ValueError, match="cannot be called 'u': it shadows the noise"):
        causal.SCM(u=lambda: 1)
    with pytest.raises(ValueError, match=r"cannot be called 'latent': it shadows the option"):
        causal.SCM(latent=lambda u: u)
    with pytest.raises(ValueError, match="default for 'C', which shadows a node"):
        causal.SCM(C=lambda u: u, X=lambda u, C=1.0: C + u)
    with pytest.raises(ValueError, match="default for 'u', which shadows the noise"):
        causal.SCM(X=lambda u=1.0: u)
    C = 5.0
    with pytest.raises(ValueError, match=r"'X' reads 'C' from outside.*Add C to its arguments"):
        causal.SCM(C=lambda u: u, X=lambda u: C + u)
    u = 0.0
    with pytest.raises(ValueError, match="'X' reads 'u' from outside, which shadows the noise"):
        causal.SCM(X=lambda: u)
    with pytest.raises(ValueError, match="'X' reads 'np' from outside, which shadows the node"):
        causal.SCM(np=lambda u: u, X=lambda u: np.exp(u))
    # a name that does not exist anywhere is noticed when it is needed
    forgotten = causal.SCM(A=lambda u: u, X=lambda u: A + u)
    with pytest.raises(ValueError, match=r"'X' reads 'A' from outside.*Add A to its arguments"):
        forgotten.sample(10)
    misspelt = causal.SCM(A=lambda u: u, X=lambda u: Aa + u)
    with pytest.raises(NameError, match="Aa"):
        misspelt.sample(10)


def test_an_attribute_is_no_node():
    """`u.T` reads no node T."""
    scm = causal.SCM(T=lambda u: u, X=lambda u: u.T, Y=lambda T, X: T.clip(0) + X)
    assert sorted(scm.graph.edges) == [("T", "Y"), ("X", "Y")]


def test_values_that_are_no_column_are_refused():
    with pytest.raises(ValueError, match=r"'Y' is not finite in \d+ of 100 units, first in unit"):
        causal.SCM(X=lambda u: u, Y=lambda X: np.where(X > 1, np.inf, X)).sample(100)
    with pytest.raises(ValueError, match=r"'Y' must have one value per unit, shape \(10,\)"):
        causal.SCM(Y=lambda u: u[:3]).sample(10)
    with pytest.raises(ValueError, match="'Y' must be numbers"):
        causal.SCM(Y=lambda u: np.where(u > 0, "yes", "no")).sample(10)
    with pytest.raises(ValueError, match="'noise of Y' is not finite"):
        causal.SCM(Y=lambda u: u, noise={"Y": lambda rng, n: np.full(n, np.nan)}).sample(10)
    with pytest.raises(ValueError, match="read-only"):
        causal.SCM(X=lambda u: u, Y=lambda X: X.sort()).sample(10)


def test_mechanisms_that_cannot_be_read_are_refused():
    with pytest.raises(ValueError, match=r"must be a function .*, got 3. Write Y=lambda: 3"):
        causal.SCM(Y=3)
    with pytest.raises(ValueError, match=r"takes \*parents: name each parent"):
        causal.SCM(Y=lambda *parents: 0)
    with pytest.raises(ValueError, match=r"argument names of the mechanism of 'Y' cannot be read"):
        causal.SCM(Y=max)
    with pytest.raises(ValueError, match="at least one node"):
        causal.SCM()


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"'V' is not a node \(U\)"):
        causal.SCM(U=lambda u: u, latent="V")
    with pytest.raises(ValueError, match=r"'R' is not a node \(U\)"):
        causal.SCM(U=lambda u: u, indicators={"U": "R"})
    with pytest.raises(ValueError, match="'U' cannot be both latent and selection"):
        causal.SCM(U=lambda u: u, latent="U", selection="U")
    with pytest.raises(ValueError, match=r"'normall' is not a noise for 'U'.*mean 'normal'"):
        causal.SCM(U=lambda u: u, noise={"U": "normall"})
    with pytest.raises(ValueError, match="'U' has a noise but its mechanism takes no argument u"):
        causal.SCM(U=lambda: 1, noise={"U": "uniform"})
    with pytest.raises(ValueError, match="n must be at least 1 and seed at least 0"):
        linear().sample(0)
    with pytest.raises(ValueError, match="got n=5, seed=-1"):
        linear().sample(5, seed=-1)


def test_interventions_are_checked():
    with pytest.raises(ValueError, match=r"'x' is not a node .* Did you mean 'X'"):
        linear().do(x=1.0)
    for value in (np.inf, "high", [1.0, 2.0]):
        with pytest.raises(ValueError, match=r"do\(X=...\) takes a finite number or a function"):
            linear().do(X=value)
    with pytest.raises(ValueError, match=r"do\(\) needs an intervention"):
        linear().do()
