"""Figures: what is drawn where, in which colour, and whether the colours can be told apart."""

from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from dfdlib import plots

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _own_style():
    with plt.rc_context():
        plots.style()
        yield
        plt.close("all")


@pytest.fixture
def scores():
    return pd.DataFrame(
        {
            "level": ["va", "va", "cleveland", "cleveland"],
            "method": ["GRAPE", "Logistic regression"] * 2,
            "value": [0.7, 0.8, 0.9, np.nan],
            "low": [0.6, 0.75, 0.85, np.nan],
            "high": [0.8, 0.85, 0.95, np.nan],
            "note": ["", "", "", "only 8 patients"],
        }
    )


# Machado, Oliveira and Fernandes (2009), severity 1: linear RGB as seen without one kind of cone.
SEEN = {
    "normal": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def _lab(hex_colour, seen):
    """CIE L*a*b* of a colour as seen, white point D65."""
    rgb = np.array(to_rgb(hex_colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(seen) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", SEEN)
def test_methods_can_be_told_apart(kind):
    for one, other in combinations(plots.METHODS, 2):
        lab = [_lab(plots.colour(name), SEEN[kind]) for name in (one, other)]
        distance = np.linalg.norm(lab[0] - lab[1])
        # Below about 10 two patches are hard to tell apart; then at least the markers must differ.
        assert distance > 10, (one, other)
        assert plots.marker(one) != plots.marker(other) or distance > 20, (one, other)


def test_estimators_of_a_mean_have_looks_of_their_own():
    names = ["Complete cases", "IPW", "AIPW", "Multiple imputation", "Backdoor adjustment"]
    assert set(names) <= set(plots.METHODS)
    assert len({plots.marker(name) for name in names}) == 5
    for kind in SEEN:  # these stand side by side: well apart, not just tellable
        labs = [_lab(plots.colour(name), SEEN[kind]) for name in names]
        assert min(np.linalg.norm(a - b) for a, b in combinations(labs, 2)) > 25, kind


def test_colours_do_not_depend_on_company():
    assert plots.colour("GRAPE") == "#0072b2"
    assert plots.colour("something new") == plots.colour("something new")
    assert plots.colour("something new") not in [colour for colour, _ in plots.METHODS.values()]


def test_methods_without_a_name_in_the_book_get_markers_of_their_own():
    names = [f"method {k}" for k in range(60)]
    looks = {(plots.colour(name), plots.marker(name)) for name in names}
    assert len({marker for _, marker in looks}) == 4
    assert len(looks) > 16  # of 24 pairs: colour and marker are drawn apart
    assert not {m for _, m in looks} & {m for _, m in plots.METHODS.values()}
    assert [plots.marker(name) for name in names] == [plots.marker(name) for name in names]


def test_interval_plot_draws_every_row(scores):
    ax = plots.interval_plot(
        scores, xlabel="AUROC", ylabel="hospital", reference=0.5, reference_label="chance"
    )
    dots = {
        (line.get_xdata()[0], line.get_color()) for line in ax.lines if line.get_marker() != "None"
    }
    assert dots == {
        (0.7, plots.colour("GRAPE")), (0.9, plots.colour("GRAPE")),
        (0.8, plots.colour("Logistic regression")),
    }  # fmt: skip
    bars = sorted(tuple(c.get_segments()[0][:, 0]) for c in ax.collections)
    assert bars == [(0.6, 0.8), (0.75, 0.85), (0.85, 0.95)]
    texts = [text.get_text() for text in ax.texts]
    assert "only 8 patients" in texts
    assert "chance" in texts
    assert [label.get_text() for label in ax.get_yticklabels()] == ["va", "cleveland"]
    assert "95 % interval by patient" in ax.get_xlabel()
    assert ax.get_ylabel() == "hospital"
    legend = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert legend == ["GRAPE", "Logistic regression"]


def test_interval_plot_puts_first_group_on_top_and_methods_apart(scores):
    ax = plots.interval_plot(scores, xlabel="AUROC")
    heights = {c.get_segments()[0][0, 0]: c.get_segments()[0][0, 1] for c in ax.collections}
    assert ax.yaxis_inverted()
    assert heights[0.6] < heights[0.75] < heights[0.85]  # va GRAPE, va logistic, cleveland GRAPE
    assert heights[0.6] < 0 < heights[0.75]  # both around row 0


def test_a_wide_legend_leaves_the_axes_their_width():
    frame = pd.DataFrame(
        {
            "level": "cleveland",
            "method": ["Logistic regression", "Gradient boosting", "GRAPE", "Transformer"],
            "value": 0.8,
            "low": 0.7,
            "high": 0.9,
        }
    )
    ax = plots.interval_plot(frame, xlabel="AUROC", ylabel="held-out hospital")
    ax.figure.canvas.draw()
    assert ax.get_position().width > 0.6


def test_interval_plot_draws_on_given_axes_without_legend_for_one_method(scores):
    _, (left, right) = plt.subplots(1, 2)
    one = scores[scores["method"] == "GRAPE"]
    assert plots.interval_plot(one, xlabel="AUROC", ax=left) is left
    assert left.get_legend() is None
    plots.interval_plot(scores, xlabel="AUROC", ax=right)
    assert len(right.get_legend().get_texts()) == 2


def test_interval_plot_moves_nothing_where_no_group_has_two_methods_and_takes_other_looks(scores):
    frame = scores.iloc[[0, 3]].assign(value=[0.7, 0.9], low=0.6, high=1.0)
    looks = {"GRAPE": ("#ff0000", "s"), "Logistic regression": ("#00ff00", "D")}
    _, ax = plt.subplots()
    plots.interval_plot(frame, xlabel="AUROC", looks=looks, legend=False, ax=ax)
    dots = [line for line in ax.lines if line.get_marker() != "None"]
    assert [(line.get_color(), line.get_marker()) for line in dots] == list(looks.values())
    assert [line.get_xydata().tolist() for line in dots] == [[[0.7, 0]], [[0.9, 1]]]
    assert ax.get_legend() is None


def test_interval_plot_refuses_a_missing_column(scores):
    with pytest.raises(ValueError, match=r"no column 'level'.*group='site'"):
        plots.interval_plot(scores.rename(columns={"level": "site"}), xlabel="AUROC")


def test_interval_plot_refuses_two_values_for_one_dot(scores):
    with pytest.raises(ValueError, match=r"\['va', 'GRAPE'\] stands in the frame twice"):
        plots.interval_plot(pd.concat([scores, scores.head(1)]), xlabel="AUROC")


def test_missingness_plot_prints_percentages_that_never_round_to_all_or_none():
    shares = pd.DataFrame(
        [[1.0, 0.001, 0.0], [0.999, 0.5, 0.015]], ["scan", "labs"], ["a", "b", "c"]
    )
    before = shares.copy()
    ax = plots.missingness_plot(shares)
    texts = {(t.get_position()[1] - 0.5, t.get_position()[0] - 0.5): t.get_text() for t in ax.texts}
    assert len(ax.texts) == 6
    assert [texts[0, j] for j in range(3)] == ["100", "<1", "0"]
    assert [texts[1, j] for j in range(3)] == [">99", "50", "2"]
    pd.testing.assert_frame_equal(shares, before)


def test_missingness_plot_colours_the_cell_of_each_share():
    shares = pd.DataFrame([[1.0, 0.25, 0.0], [0.9, 0.5, 0.1]], ["scan", "labs"], ["a", "b", "c"])
    ax = drawn(plots.missingness_plot(shares))
    [mesh] = ax.collections
    np.testing.assert_allclose(mesh.get_array(), 100 * shares)
    across, down = np.moveaxis(mesh.get_coordinates(), -1, 0)
    assert (across == [[0, 1, 2, 3]]).all()
    assert (down == [[0], [1], [2]]).all()
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 3), (2, 0))  # the first row on top
    inks = mesh.get_facecolors().reshape(2, 3, 4)
    assert inks[0, 2] == pytest.approx((1, 1, 1, 1))
    darkness = 3 - inks[..., :3].sum(-1)
    assert (np.argsort(darkness, axis=None) == np.argsort(shares.to_numpy(), axis=None)).all()


def test_missingness_plot_names_axes_rows_columns_and_colours():
    shares = pd.DataFrame(0.5, ["scan", "labs"], ["a", "b", "c"])
    shares.index.name, shares.columns.name = "not this", "nor this"
    ax = drawn(plots.missingness_plot(shares, ylabel="test", label="patients (%)"))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("hospital", "test")
    for axis, names in ((ax.xaxis, ["a", "b", "c"]), (ax.yaxis, ["scan", "labs"])):
        assert [label.get_text() for label in axis.get_ticklabels()] == names
        assert [*axis.get_ticklocs()] == [k + 0.5 for k in range(len(names))]
    [mesh] = ax.collections
    assert mesh.colorbar.ax.get_ylabel() == "patients (%)"
    assert mesh.colorbar.outline.get_linewidth() > 0  # white at 0 %: the frame shows the end


def test_missingness_plot_leaves_no_name_out_and_turns_none():
    names = [f"a long name of column {k}" for k in range(40)]
    ax = drawn(plots.missingness_plot(pd.DataFrame(0.5, names, names)))
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == names
        assert {label.get_rotation() for label in labels} == {0}


def test_missingness_plot_draws_on_given_axes():
    figure, (left, right) = plt.subplots(1, 2)
    left.scatter([0.5], [0.5])
    assert plots.missingness_plot(pd.DataFrame([[0.2, 0.7]]), ax=left) is left
    mesh = left.collections[-1]
    assert [*mesh.get_array().flat] == pytest.approx([20, 70])
    assert mesh.get_clim() == (0, 100)  # not 20 to 70: figures can be compared
    assert figure.axes == [left, right, mesh.colorbar.ax]
    assert not right.has_data()


def test_missingness_plot_numbers_are_legible_on_their_cells():
    def luminance(rgb):
        rgb = np.array(rgb[:3])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    shares = pd.DataFrame([np.linspace(0, 1, 21)])
    ax = plots.missingness_plot(shares)
    for text in ax.texts:
        cell = luminance(ax.collections[0].cmap(shares.iloc[0, int(text.get_position()[0])]))
        ink = luminance(to_rgb(text.get_color()))
        light, dark = max(cell, ink), min(cell, ink)
        assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG AA


@pytest.mark.parametrize(("share", "said"), [(55.0, "0.5 to 55"), (np.nan, "1 NaN")])
def test_missingness_plot_refuses_what_is_no_share(share, said):
    with pytest.raises(ValueError, match=said):
        plots.missingness_plot(pd.DataFrame([[0.5, share]]))


def test_heatmap_has_the_colour_and_the_note_of_each_number_where_it_stands():
    frame = pd.DataFrame([[-2.0, 0.0], [9.0, np.nan]], ["$a$", "b"], ["x", "y"])
    notes = pd.DataFrame([["low", "zero"], ["high", "none"]])
    _, axes = plt.subplots()
    ax = plots.heatmap(frame, limit=2.0, notes=notes, xlabel="across", ylabel="down", ax=axes)
    assert ax is axes
    assert {(text.get_text(), text.get_position()) for text in ax.texts} == {
        ("low", (0.5, 0.5)), ("zero", (1.5, 0.5)), ("high", (0.5, 1.5)),
    }  # fmt: skip
    ax.figure.canvas.draw()
    low, zero, high, empty = ax.collections[0].get_facecolor()
    expected = mpl.colormaps["PuOr"]
    np.testing.assert_allclose(low, expected(0.0))
    np.testing.assert_allclose(high, expected(1.0))
    assert min(zero[:3]) > 0.95
    assert empty[3] == 0  # the grey of the axes is seen
    assert ax.get_facecolor() == mpl.colors.to_rgba("#eeeeee")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["$a$", "b"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("across", "down")
    assert ax.yaxis_inverted()
    assert not plots.heatmap(frame, limit=2.0).texts


def test_heatmap_refuses_limits_without_colours_and_notes_of_another_shape():
    frame = pd.DataFrame([[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"limit=0.0 has no colours .* a number above zero"):
        plots.heatmap(frame, limit=0.0)
    with pytest.raises(ValueError, match=r"notes have \(2, 1\) .* Write a note for each number"):
        plots.heatmap(frame, limit=1.0, notes=frame.T)


def test_bipartite_plot_has_one_solid_edge_per_observation():
    observed = pd.DataFrame(
        [[True, False], [True, True], [False, False]], ["p1", "p2", "p3"], ["scan", "labs"]
    )
    ax = plots.bipartite_plot(observed)
    edges = [line for line in ax.lines if len(line.get_xdata()) == 2]
    solid = [line for line in edges if line.get_linestyle() == "-"]
    assert (len(solid), len(edges)) == (3, 6)
    place = {text.get_text(): text.get_position()[1] for text in ax.texts}
    drawn = {tuple(line.get_ydata()) for line in solid}
    assert drawn == {
        (place["p1"], place["scan"]), (place["p2"], place["scan"]), (place["p2"], place["labs"]),
    }  # fmt: skip
    assert len(plots.bipartite_plot(observed, show_missing=False).lines) == 3


def test_bipartite_plot_refuses_numbers():
    with pytest.raises(TypeError, match=r"columns of \['int64'\].*astype\(bool\)"):
        plots.bipartite_plot(pd.DataFrame({"scan": [0, 1]}))


# ------------------------------------------------------------------ names that mean something else

HOSTILE = [
    r"$\frac{$", "$", "a$b$c", r"\alpha_$x", "100 % of 5_6", "two\nlines", "_hidden", "<b>x</b>",
    "x" * 500, "✓ ward", "", " ", "^{", "&amp;", "#1",
]  # fmt: skip


def drawn(ax):
    """Draw for good: matplotlib reads mathematics only now."""
    ax.figure.canvas.draw()
    return ax


def said(name, longest=40):
    return name if len(name) <= longest else f"{name[:19]}…{name[-19:]}"


@pytest.mark.parametrize("own_axes", [True, False])
def test_interval_plot_writes_names_as_they_are(own_axes):
    frame = pd.DataFrame({"level": HOSTILE, "method": HOSTILE[::-1], "value": 0.7})
    frame = frame.assign(low=0.6, high=0.8, note=HOSTILE)
    frame.loc[::2, ["value", "low", "high"]] = np.nan
    ax = drawn(
        plots.interval_plot(frame, xlabel="AUROC", ax=plt.subplots()[1] if own_axes else None)
    )
    assert [label.get_text() for label in ax.get_yticklabels()] == [*map(said, HOSTILE)]
    legend = ax.get_legend() if own_axes else ax.figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [*map(said, HOSTILE[::-1])]
    notes = [text.get_text() for text in ax.texts]
    assert HOSTILE[0] in notes
    assert max(map(len, notes)) < 80
    for text in (*ax.get_yticklabels(), *legend.get_texts(), *ax.texts):
        assert not text.get_parse_math()


def test_an_interval_that_is_not_there_draws_a_dot_alone():
    frame = pd.DataFrame({"level": ["a"], "method": ["ERM"], "value": 0.7})
    ax = drawn(plots.interval_plot(frame.assign(low=np.nan, high=np.nan), xlabel="AUROC"))
    assert [line.get_xdata()[0] for line in ax.lines] == [0.7]


def test_missingness_plot_writes_names_as_they_are():
    shares = pd.DataFrame(0.5, HOSTILE, HOSTILE[::-1])
    ax = drawn(plots.missingness_plot(shares))
    assert [label.get_text() for label in ax.get_yticklabels()] == [*map(said, HOSTILE)]
    assert [label.get_text() for label in ax.get_xticklabels()] == [*map(said, HOSTILE[::-1])]


def test_bipartite_plot_writes_names_as_they_are():
    observed = pd.DataFrame(True, HOSTILE, HOSTILE[:4])
    ax = drawn(plots.bipartite_plot(observed))
    texts = [text.get_text() for text in ax.texts]
    assert texts[: len(HOSTILE) + 4] == [*map(said, HOSTILE), *HOSTILE[:4]]


# ---------------------------------------------------------------- runs, curves, small multiples


@pytest.fixture
def runs():
    rng = np.random.default_rng(0)
    cells = [(g, m, s) for g in ("b $1$", "a") for m in ("DFD", "ERM") for s in range(3)]
    frame = pd.DataFrame(cells, columns=["epochs", "method", "seed"])
    return frame.assign(value=rng.normal(size=len(frame)), panel=["left", "right"] * 6)


def _marks(ax):
    """Places and colours of all marks."""
    kept = [part for part in ax.collections if len(part.get_offsets())]
    return [(np.asarray(part.get_offsets()), part.get_facecolor()[0]) for part in kept]


@pytest.mark.parametrize("upright", [False, True])
def test_a_strip_has_a_mark_for_each_run_where_its_group_and_method_stand(runs, upright):
    ax = plots.strip_plot(runs, group="epochs", xlabel="x", ylabel="y", upright=upright)
    drawn = {}
    for places, colour in _marks(ax):
        at, value = places[:, ::-1].T if not upright else places.T
        for spot, number in zip(at, value, strict=True):
            drawn[round(float(number), 9)] = (float(spot), to_rgb(colour))
    assert len(drawn) == len(runs)
    for _, row in runs.iterrows():
        spot, colour = drawn[round(row["value"], 9)]
        group = ["b $1$", "a"].index(row["epochs"])
        side = -1 if row["method"] == "DFD" else 1  # in order of appearance
        assert spot == pytest.approx(group + 0.2 * side, abs=0.01)
        assert colour == pytest.approx(to_rgb(plots.colour(row["method"])))
    axis = ax.xaxis if upright else ax.yaxis
    assert [label.get_text() for label in axis.get_ticklabels()] == ["b $1$", "a"]
    assert not any(label.get_parse_math() for label in axis.get_ticklabels())


def test_a_strip_leaves_out_what_is_missing_and_takes_other_looks(runs):
    runs.loc[0, "value"] = np.nan
    looks = {"DFD": ("#ff0000", "s"), "ERM": ("#00ff00", "D")}
    _, ax = plt.subplots()
    assert plots.strip_plot(runs, group="epochs", xlabel="x", looks=looks, ax=ax) is ax
    marks = _marks(ax)
    assert sum(len(places) for places, _ in marks) == len(runs) - 1
    assert {tuple(to_rgb(colour)) for _, colour in marks} == {(1, 0, 0), (0, 1, 0)}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["DFD", "ERM"]
    with pytest.raises(ValueError, match=r"looks has no colour and marker for 'ERM'"):
        plots.strip_plot(runs, group="epochs", xlabel="x", looks={"DFD": ("#ff0000", "s")})
    with pytest.raises(ValueError, match="no column 'site'"):
        plots.strip_plot(runs, group="site", xlabel="x")


def test_a_strip_moves_nothing_where_no_group_has_two_methods(runs):
    frame = runs[(runs["epochs"] == "a") == (runs["method"] == "ERM")]
    marks = _marks(plots.strip_plot(frame, group="epochs", xlabel="x"))
    assert [set(places[:, 1]) for places, _ in marks] == [{0.0}, {1.0}]
    each = _marks(plots.strip_plot(runs, group="method", xlabel="x"))
    assert [(len(places), set(places[:, 1])) for places, _ in each] == [(6, {0.0}), (6, {1.0})]


@pytest.fixture
def curves():
    frame = pd.DataFrame(
        [(m, x) for m in ("ERM", "DFD") for x in (2, 0, 1)], columns=["method", "x"]
    )
    value = np.array([0.3, 0.1, 0.2, 0.8, 0.6, 0.5])
    return frame.assign(value=value, low=value - 0.05, high=value + 0.1)


def test_lines_and_bands_are_those_of_the_frame(curves):
    ax = plots.line_plot(curves, x="x", xlabel="strength", ylabel="AUROC")
    lines = [line for line in ax.lines if len(line.get_xdata())]
    assert len(lines) == len(ax.collections) == 2
    for line, band, name in zip(lines, ax.collections, ("ERM", "DFD"), strict=True):
        part = curves[curves["method"] == name].sort_values("x")
        np.testing.assert_allclose(line.get_xydata(), part[["x", "value"]])
        assert (
            to_rgb(line.get_color())
            == to_rgb(band.get_facecolor()[0])
            == to_rgb(plots.colour(name))
        )
        edge = band.get_paths()[0].vertices
        for x, low, high in part[["x", "low", "high"]].to_numpy():
            heights = edge[np.isclose(edge[:, 0], x), 1]
            assert (heights.min(), heights.max()) == pytest.approx((low, high))
    assert ax.get_xlabel() == "strength"
    bare = plots.line_plot(curves, x="x", low=None, xlabel="strength")
    assert not bare.collections
    with pytest.raises(ValueError, match=r"'ERM' has several rows at x = 2\. Take means"):
        plots.line_plot(pd.concat([curves, curves]), x="x", xlabel="strength")


def test_panels_part_a_frame_and_keep_its_order(runs, curves):
    seen = {}
    for ax, part in plots.panels(runs, by="panel", columns=2):
        ax.set(xlabel="epochs", ylabel="AUROC")
        seen[part["panel"].unique().item()] = (ax, part)
    assert list(seen) == ["left", "right"]
    pd.testing.assert_frame_equal(pd.concat([part for _, part in seen.values()]).sort_index(), runs)
    (left, _), (right, _) = seen.values()
    assert [left.get_title(loc="left"), right.get_title(loc="left")] == ["left", "right"]
    assert (left.get_ylabel(), right.get_ylabel()) == ("AUROC", "")
    assert left.figure.get_supxlabel() == "epochs"
    assert left.get_shared_y_axes().joined(left, right)
    assert left.figure.get_layout_engine().__class__.__name__ == "ConstrainedLayoutEngine"
    plots.name_methods(left, ["ERM", "a method of theirs"])
    names = [text.get_text() for text in left.figure.legends[0].get_texts()]
    assert names == ["ERM", "a method of theirs"]
    three = runs.assign(panel=["a", "b", "c"] * 4)
    axes = []
    for ax, _ in plots.panels(three, by="panel", columns=2, share_x=False, share_y=False):
        ax.set(xlabel="epochs", ylabel="AUROC")
        axes.append(ax)
    assert [ax.get_xlabel() for ax in axes] == ["epochs"] * 3
    assert all(ax.get_ylabel() == "AUROC" for ax in axes)
    assert not axes[0].get_shared_y_axes().joined(axes[0], axes[1])


def test_what_cannot_be_drawn_is_refused(runs):
    with pytest.raises(ValueError, match="the frame has no rows, so there are no panels"):
        next(plots.panels(runs.iloc[:0], by="panel"))
    with pytest.raises(ValueError, match=r"no column 'site', only .* for example group='site'"):
        next(plots.panels(runs, by="site"))
