"""Figures from DataFrames, in one style: a colour means the same method all through the book.

Every function takes a table and `ax=None`, draws, and returns the axes. The functions know no
model and no tensor. Colours are told apart with every common kind of colour blindness
(Okabe and Ito's palette, by way of Wong, Nature Methods 8, 441, 2011), and each method has a
marker of its own for a page printed in grey.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

METHODS: dict[str, tuple[str, str]] = {
    "Logistic regression": ("#6e6e6e", "s"),
    "Gradient boosting": ("#000000", "D"),
    "ERM": ("#56b4e9", "o"),
    "GRAPE": ("#0072b2", "o"),
    "Transformer": ("#d55e00", "^"),
    "MUSE": ("#009e73", "v"),
    "DFD": ("#cc79a7", "P"),
    "Deconfounder": ("#e69f00", "X"),
    # Estimators of a mean or an effect: these stand beside each other, seldom beside a model.
    "Complete cases": ("#002166", "s"),
    "IPW": ("#ab2100", "o"),
    "AIPW": ("#2145ed", "v"),
    "Multiple imputation": ("#abab66", "D"),
    "Backdoor adjustment": ("#662145", "^"),
}
"""Colour and marker of each method."""

Looks = Mapping[str, tuple[str, str]]

_UNNAMED = ("#332288", "#117733", "#882255", "#999933", "#44aa99", "#aa4499")
_MARKERS = ("h", "p", "*", "d")  # none that points to a side
_OBSERVED, _MISSING = "#0072b2", "#d55e00"
_OUTLINED: dict[str, Any] = {  # legible on light, on dark and on hatches
    "color": "black", "size": "small",
    "path_effects": [withStroke(linewidth=2, foreground="white")],
}  # fmt: skip
_SHARE = LinearSegmentedColormap.from_list("share", ["#ffffff", "#bfe0f5", "#4ba3da"])


def _short(name: object, longest: int = 40) -> str:
    """Leave out the middle of a long name: it would push the axes out of the figure.

    Where it is drawn, `parse_math=False`: a name from data is no mathematics, even with `$` in it.
    """
    text, half = str(name), (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def colour(method: str) -> str:
    """Colour of a method; one that the book does not know gets a fixed one of its own.

    >>> colour("GRAPE"), colour("my method") == colour("my method")
    ('#0072b2', True)
    """
    if method in METHODS:
        return METHODS[method][0]
    return _UNNAMED[zlib.crc32(method.encode()) % len(_UNNAMED)]


def marker(method: str) -> str:
    """Marker of a method; one that the book does not know gets a fixed one of its own."""
    if method in METHODS:
        return METHODS[method][1]
    return _MARKERS[zlib.crc32(method.encode()) // len(_UNNAMED) % len(_MARKERS)]


def style() -> None:
    """Set the style of the book for the rest of the session: a chapter calls it once."""
    plt.rcParams.update(_STYLE)


_STYLE: dict[Any, Any] = {
    "figure.figsize": (5.6, 3.2),  # inches; small, so that type stays legible on a phone
    "figure.dpi": 144,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.dpi": 144,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "legend.fontsize": "small",
    "lines.linewidth": 1.8,
    "lines.markersize": 6.5,
}


def interval_plot(
    frame: pd.DataFrame,
    *,
    group: str = "level",
    method: str = "method",
    value: str = "value",
    low: str = "low",
    high: str = "high",
    note: str = "note",
    xlabel: str,
    ylabel: str = "",
    interval: str = "95 % interval by patient",
    reference: float | None = None,
    reference_label: str = "",
    looks: Looks | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a dot and an interval for each group and method.

    Args:
        frame: one row per group and method; groups and methods keep their order of appearance.
            A row whose value is NaN is drawn as its note, if the frame has such a column. Methods
            stand side by side where a group has several.
        group: column on the vertical axis.
        method: column that picks colour and marker.
        value: column of the dot.
        low: column where the interval starts.
        high: column where it ends.
        note: column that says why there is no value.
        xlabel: what the value is, with its unit.
        ylabel: what the groups are.
        interval: what the error bars are; it stands under the axis.
        reference: where to draw a dashed line, for example at chance.
        reference_label: what that line is.
        looks: colour and marker of each method; None takes those of `METHODS`.
        legend: name the methods, if there are several.
        ax: axes to draw on; None makes a figure.

    Raises:
        ValueError: a column is not there, or a group and method come twice.
    """
    needed = (group, method, value, low, high)
    _require(frame, needed)
    twice = frame.duplicated([group, method])
    if twice.any():
        first = frame.loc[twice, [group, method]].iloc[0].tolist()
        raise ValueError(f"{first} stands in the frame twice. Pick one metric and one run first.")
    groups, methods = frame[group].unique().tolist(), frame[method].unique().tolist()
    looks = _looks(methods, looks)
    beside = len(methods) if _several(frame, group, method) else 1
    alone = ax is None
    if ax is None:
        height = 1.3 + len(groups) * (0.25 + 0.17 * beside)
        _, ax = plt.subplots(figsize=(plt.rcParams["figure.figsize"][0], height))
    # nearer to the group's middle than to the next group
    offsets = [0.7 * (k - (beside - 1) / 2) / beside for k in range(beside)]
    offsets *= len(methods) // beside
    place = {name: row for row, name in enumerate(groups)}
    if reference is not None:
        ax.axvline(reference, color="#666666", linestyle="--", linewidth=1, zorder=0.9)
        ax.annotate(
            reference_label, (reference, 1), xycoords=("data", "axes fraction"), fontsize="small",
            xytext=(3, 2), textcoords="offset points", color="#666666",
        )  # fmt: skip
    for name, offset in zip(methods, offsets, strict=True):
        shade, mark = looks[name]
        for _, row in frame[frame[method] == name].iterrows():
            y = place[row[group]] + offset
            if pd.isna(row[value]):
                ax.annotate(
                    _short(row.get(note, "not computed"), 80), (0.01, y), color=shade,
                    parse_math=False, xycoords=("axes fraction", "data"), va="center",
                    fontsize="small", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )  # fmt: skip
                continue
            ax.hlines(y, row[low], row[high], color=shade)
            ax.plot(row[value], y, marker=mark, color=shade, linestyle="none")
    ax.set_yticks(range(len(groups)), [_short(name) for name in groups], parse_math=False)
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.grid(axis="x")
    ax.set_xlabel(f"{xlabel}\n(dot: estimate; bar: {interval})")
    ax.set_ylabel(ylabel)
    if legend and len(methods) > 1:
        _legend(ax, methods, outside=alone, looks=looks)
    return ax


def strip_plot(
    frame: pd.DataFrame,
    *,
    group: str,
    value: str = "value",
    method: str = "method",
    xlabel: str,
    ylabel: str = "",
    upright: bool = False,
    looks: Looks | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a mark for each run: the groups along one axis, several methods of a group side by side.

    Nothing is averaged and nothing is moved at random, so equal frames give equal figures.

    Args:
        frame: one row per run; groups and methods keep their order of appearance. A row whose value
            is NaN has no mark.
        group: column of the groups.
        value: column of the marks.
        method: column that picks colour and marker.
        xlabel: what stands on the horizontal axis, with its unit.
        ylabel: what stands on the vertical axis.
        upright: draw the value upwards and the groups from left to right; else the value to the
            right and the groups downwards.
        looks: colour and marker of each method; None takes those of `METHODS`.
        legend: name the methods, if there are several.
        ax: axes to draw on; None makes a figure.

    Raises:
        ValueError: a column is not there.
    """
    _require(frame, (group, value, method))
    groups, methods = frame[group].unique().tolist(), frame[method].unique().tolist()
    looks = _looks(methods, looks)
    alone = ax is None
    if ax is None:
        across = plt.rcParams["figure.figsize"]
        _, ax = plt.subplots(figsize=across if upright else (across[0], 1.3 + 0.4 * len(groups)))
    beside = _several(frame, group, method)
    # seaborn takes one marker a call; places follow the full orders, whatever a call draws
    places = {"value": frame[value], "place": frame[group].map(groups.index), "name": frame[method]}
    runs = pd.DataFrame(places)
    for name in methods:
        sns.stripplot(
            runs[runs["name"] == name],
            x="place" if upright else "value", y="value" if upright else "place",
            hue="name", hue_order=methods, order=range(len(groups)), dodge=beside, jitter=False,
            orient="v" if upright else "h", marker=looks[name][1], size=5, alpha=0.8, linewidth=0,
            palette={other: looks[other][0] for other in methods}, legend=False, ax=ax,
        )  # fmt: skip
    names = [_short(name) for name in groups]
    if upright:
        ax.set_xticks(range(len(groups)), names, parse_math=False)
    else:
        ax.set_yticks(range(len(groups)), names, parse_math=False)
        ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.grid(axis="y" if upright else "x")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if legend and len(methods) > 1:
        _legend(ax, methods, outside=alone, looks=looks)
    return ax


def line_plot(
    frame: pd.DataFrame,
    *,
    x: str,
    value: str = "value",
    low: str | None = "low",
    high: str | None = "high",
    method: str = "method",
    xlabel: str,
    ylabel: str = "",
    looks: Looks | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a line for each method, with the interval that the frame gives as a band around it.

    Args:
        frame: one row per method and place on the axis; methods keep their order of appearance.
        x: column of the horizontal axis.
        value: column of the line.
        low: column where the band begins; None draws no band.
        high: column where it ends.
        method: column that picks colour and marker.
        xlabel: what the horizontal axis is, with its unit.
        ylabel: what the value is, with its unit.
        looks: colour and marker of each method; None takes those of `METHODS`.
        legend: name the methods, if there are several.
        ax: axes to draw on; None makes a figure.

    Raises:
        ValueError: a column is not there, or a method has two rows at one place.
    """
    band = [] if low is None or high is None else [low, high]
    _require(frame, (x, value, method, *band))
    twice = frame.duplicated([method, x])
    if twice.any():
        name, place = frame.loc[twice, [method, x]].iloc[0]
        raise ValueError(f"{name!r} has several rows at {x} = {place}. Take means over runs first.")
    methods = frame[method].unique().tolist()
    looks = _looks(methods, looks)
    alone = ax is None
    if ax is None:
        _, ax = plt.subplots()
    sns.lineplot(
        frame, x=x, y=value, hue=method, style=method, hue_order=methods, style_order=methods,
        palette={name: look[0] for name, look in looks.items()},
        markers={name: look[1] for name, look in looks.items()}, markeredgewidth=0, dashes=False,
        estimator=None, errorbar=None, legend=False, ax=ax,
    )  # fmt: skip
    for name in methods if band else ():
        part = frame[frame[method] == name].sort_values(x)
        shade = looks[name][0]
        ax.fill_between(part[x], part[low], part[high], color=shade, alpha=0.2, linewidth=0)
    ax.grid(axis="y")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if legend and len(methods) > 1:
        _legend(ax, methods, outside=alone, looks=looks)
    return ax


def panels(
    frame: pd.DataFrame,
    *,
    by: str,
    columns: int = 3,
    height: float = 3.2,
    width: float = 5.8,
    share_x: bool = True,
    share_y: bool = True,
) -> Iterator[tuple[Axes, pd.DataFrame]]:
    """Make small multiples: an axes for each value of a column, with the rows that belong there.

    Args:
        frame: what is drawn; the values of `by` keep their order of appearance, and name the axes.
        by: column that parts the frame.
        columns: how many axes stand side by side.
        height: of the figure, in inches.
        width: of the figure, in inches.
        share_x: give all axes one horizontal scale.
        share_y: give all axes one vertical scale.

    Yields:
        Each axes and its rows. Its labels are yours; on a scale that all share, the horizontal one
        is written once under the figure, the vertical one in the first column.

    Raises:
        ValueError: a column is not there.
    """
    _require(frame, (by,))
    values = frame[by].unique().tolist()
    if not values:
        raise ValueError("the frame has no rows, so there are no panels. Pass rows to draw.")
    columns = min(columns, len(values))
    rows = math.ceil(len(values) / columns)
    with plt.rc_context({"figure.constrained_layout.use": False}):  # it asks for a tight one
        grid = sns.FacetGrid(
            frame, col=by, col_order=values, col_wrap=columns, sharex=share_x, sharey=share_y,
            height=height / rows, aspect=(width / columns) / (height / rows), despine=False,
        )  # fmt: skip
    grid.figure.set_layout_engine("constrained")
    for number, (value, ax) in enumerate(zip(values, grid.axes.flat, strict=True)):
        yield ax, frame[frame[by] == value]
        ax.set_title(_short(value), parse_math=False)
        if share_y and number % columns:
            ax.set_ylabel("")
        if share_x:
            grid.figure.supxlabel(ax.get_xlabel(), size=plt.rcParams["axes.labelsize"])
            ax.set_xlabel("")


def name_methods(ax: Axes, methods: Sequence[str], *, looks: Looks | None = None) -> None:
    """Name methods beside the axes of a figure: one legend for small multiples."""
    _legend(ax, methods, outside=True, looks=_looks(methods, looks))


def heatmap(
    frame: pd.DataFrame,
    *,
    limit: float,
    notes: pd.DataFrame | None = None,
    xlabel: str = "",
    ylabel: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw numbers as colours: white at zero, violet above, orange below, grey where one is NaN.

    The cell of row i and column j covers i to i + 1 down and j to j + 1 across.

    Args:
        frame: the numbers, laid out as they are drawn.
        limit: where the colours end, on both sides of zero.
        notes: what is written in each cell; None writes nothing.
        xlabel: what the columns are.
        ylabel: what the rows are.
        ax: axes to draw on; None makes a figure.

    Raises:
        ValueError: the limit is not above zero, or the notes have another shape.
    """
    if not limit > 0:
        raise ValueError(f"limit={limit} has no colours on its sides. Pass a number above zero.")
    if notes is not None and notes.shape != frame.shape:
        raise ValueError(
            f"notes have {notes.shape} rows and columns, the frame {frame.shape}. "
            "Write a note for each number."
        )
    if ax is None:
        size = (plt.rcParams["figure.figsize"][0], 1.0 + 0.42 * len(frame))
        _, ax = plt.subplots(figsize=size)
    ax.set_facecolor("#eeeeee")  # seen where a number is missing
    _cells(
        ax, frame, frame.to_numpy(dtype=float), vmin=-limit, vmax=limit, cmap="PuOr", fmt="",
        annot=None if notes is None else notes.to_numpy(dtype=object), annot_kws=_OUTLINED,
    )  # fmt: skip
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def missingness_plot(
    frame: pd.DataFrame,
    *,
    xlabel: str = "hospital",
    ylabel: str = "modality",
    label: str = "patients with an observation (%)",
    ax: Axes | None = None,
) -> Axes:
    """Draw how often each modality is observed at each site, with the numbers.

    The cell of row i and column j covers i to i + 1 down and j to j + 1 across: its number stands
    at (j + 0.5, i + 0.5).

    Args:
        frame: shares between 0 and 1; a row per modality, a column per site.
        xlabel: what the columns are.
        ylabel: what the rows are.
        label: what the numbers are.
        ax: axes to draw on; None makes a figure.

    Raises:
        ValueError: a share lies outside 0 to 1.
    """
    shares = frame.to_numpy(dtype=float)
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(
            f"shares run from {np.nanmin(shares):g} to {np.nanmax(shares):g}, "
            f"with {np.isnan(shares).sum()} NaN. Pass shares between 0 and 1, not percent."
        )
    if ax is None:
        size = (plt.rcParams["figure.figsize"][0], 1.4 + 0.42 * len(frame))
        _, ax = plt.subplots(figsize=size)
    _cells(
        ax, frame, 100 * shares, vmin=0, vmax=100, cmap=_SHARE, linewidths=2, linecolor="white",
        annot=np.vectorize(_percent, otypes=[object])(shares), fmt="",
        annot_kws={"color": plt.rcParams["text.color"]},  # seaborn's white is hard to read here
    )  # fmt: skip
    # seaborn's own has no frame: white at the lowest shares, it would have no lower end
    ax.figure.colorbar(ax.collections[-1], ax=ax, label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.tick_params(axis="x", labelsize="small")  # long names stand side by side
    return ax


def bipartite_plot(
    observed: pd.DataFrame,
    *,
    show_missing: bool = True,
    patients: str = "patients",
    modalities: str = "modalities",
    ax: Axes | None = None,
) -> Axes:
    """Draw the patient–modality graph: an edge where the modality is observed.

    Args:
        observed: boolean; a row per patient, a column per modality.
        show_missing: draw an absent edge as a faint dashed line.
        patients: heading of the left side.
        modalities: heading of the right side.
        ax: axes to draw on; None makes a figure.

    Raises:
        TypeError: the frame is not boolean.
    """
    if set(observed.dtypes.map(str)) != {"bool"}:
        raise TypeError(
            f"the mask has columns of {sorted(set(observed.dtypes.map(str)))}. "
            "Pass booleans: observed.astype(bool)."
        )
    if ax is None:
        size = (plt.rcParams["figure.figsize"][0], 1.2 + 0.42 * max(observed.shape))
        _, ax = plt.subplots(figsize=size)
    left, right = (np.linspace(1, 0, count + 2)[1:-1] for count in observed.shape)
    for (i, j), there in np.ndenumerate(observed.to_numpy()):
        if there:
            ax.plot([0, 1], [left[i], right[j]], color=_OBSERVED, linewidth=1.5, zorder=1)
        elif show_missing:
            ax.plot(
                [0, 1], [left[i], right[j]], color=_MISSING, linewidth=1, linestyle=(0, (1, 4)),
                zorder=0,
            )  # fmt: skip
    ax.scatter(np.zeros(len(left)), left, s=170, color=_OBSERVED, zorder=2)
    ax.scatter(np.ones(len(right)), right, s=170, color="#009e73", marker="s", zorder=2)
    for y, name in zip(left, observed.index, strict=True):
        ax.text(-0.05, y, _short(name), ha="right", va="center", parse_math=False)
    for y, name in zip(right, observed.columns, strict=True):
        ax.text(1.05, y, _short(name), ha="left", va="center", parse_math=False)
    for x, side, name in ((-0.05, "right", patients), (1.05, "left", modalities)):
        ax.text(x, 1, name, ha=side, va="center", fontweight="bold")
    handles = [Line2D([], [], color=_OBSERVED, label="observed")]
    if show_missing:
        handles.append(Line2D([], [], color=_MISSING, linestyle=(0, (1, 4)), label="missing"))
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2)
    ax.set(xlim=(-0.6, 1.6), ylim=(0, 1.06))
    ax.axis("off")
    return ax


def _cells(ax: Axes, frame: pd.DataFrame, numbers: np.ndarray, **options: Any) -> None:
    """Colour a cell for each number, and name rows and columns as the frame does."""
    # seaborn reads mathematics in names, turns them, and leaves some out: they are written below
    sns.heatmap(numbers, cbar=False, xticklabels=False, yticklabels=False, ax=ax, **options)
    rows, columns = ([_short(name) for name in axis] for axis in (frame.index, frame.columns))
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns, parse_math=False)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows, parse_math=False)
    ax.tick_params(length=0)


def _several(frame: pd.DataFrame, group: str, method: str) -> bool:
    """Say whether a group has several methods, which then stand side by side."""
    return bool((frame.groupby(group)[method].nunique() > 1).any())


def _looks(methods: Sequence[str], looks: Looks | None) -> Looks:
    """Colour and marker of each method: those asked for, or the book's."""
    missing = [] if looks is None else [name for name in methods if name not in looks]
    if missing:
        raise ValueError(f"looks has no colour and marker for {missing[0]!r}. Name each method.")
    return {name: (looks or {}).get(name) or (colour(name), marker(name)) for name in methods}


def _legend(ax: Axes, methods: Sequence[str], *, outside: bool, looks: Looks | None = None) -> None:
    looks = _looks(methods, looks)
    handles = [Line2D([], [], color=looks[name][0], marker=looks[name][1]) for name in methods]
    # a legend leaves out what begins with "_", so the names are written after it was made
    blank = [" "] * len(methods)
    columns = math.ceil(len(methods) / math.ceil(len(methods) / 3))
    if outside:  # of the axes, so that a wide legend does not squeeze them
        legend = ax.figure.legend(handles, blank, loc="outside upper center", ncols=columns)
    else:
        legend = ax.legend(handles, blank)
    for text, name in zip(legend.get_texts(), methods, strict=True):
        text.set(text=_short(name), parse_math=False)


def _percent(share: float) -> str:
    """Write a share in percent, never rounding a few patients to none or to all."""
    if 0 < share < 0.005:
        return "<1"
    if 0.995 < share < 1:
        return ">99"
    return f"{100 * share:.0f}"


def _require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"figures take a DataFrame, got a {type(frame).__name__}. Pass a DataFrame")
    missing = [name for name in columns if name not in frame]
    if missing:
        raise ValueError(
            f"the frame has no column {missing[0]!r}, only {', '.join(map(str, frame.columns))}. "
            "Name the columns of yours, for example group='site'."
        )
