"""Aggregates that may leave a hospital: what counts fewer than ten patients cannot be found out.

Hiding a small count is not enough. The total minus the other sites gives it back, and ten digits of
an AUROC give the counts that it was computed from. So where anything is hidden, counts are rounded
down to tens, numbers to two digits, and what would still give a hidden count away goes, too: at
least `LEFT` values of it must remain possible, for somebody who knows the total.
"""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from dfdlib.data import Cohort

#: A count below this one is not shown, nor any number that was computed on so few.
FEW = 10
#: So many values of a hidden count must remain possible.
LEFT = 5
#: What sites of fewer than ten patients are called together.
OTHER = "other"

_ESTIMATES = ("value", "low", "high", "difference", "difference_low", "difference_high")
Range = tuple[int, int]


def few(count: float | int) -> str:
    """Write a count, or that it is small; in tens, so that none is found as a difference.

    Example:
        >>> few(3), few(0), few(57)
        ('< 10', '0', 'at least 50')
    """
    if not count or not math.isfinite(count):
        return f"{count:.0f}"
    return f"< {FEW}" if count < FEW else f"at least {count // FEW * FEW:.0f}"


def pooled(cohort: Cohort, by: str = "site") -> Cohort:
    """Call the sites of fewer than ten patients `other`, together: a name is told of ten and more.

    Example:
        >>> cohort = Cohort(x={"age": range(24)}, groups={"site": ["a"] * 12 + ["b", "c"] * 6})
        >>> pooled(cohort).groups["site"].tolist()[10:14]
        ['a', 'a', 'other', 'other']
    """
    if by not in cohort.groups:
        return cohort
    site = pd.Series(cohort.groups[by])
    patients = pd.Series(cohort.groups["patient"]).groupby(site).nunique()
    small = site.isin(patients.index[patients < FEW]).to_numpy()
    if not small.any():
        return cohort
    told = site.astype(object).where(~small, OTHER).to_numpy()
    return cohort._with(groups={**cohort.groups, by: told.astype(str)})


def shares(cohort: Cohort, by: str = "site") -> pd.DataFrame:
    """How often each modality is observed at each site, in percent; "–" where few have it or not.

    Where one could find out by how many it is missing at a site that is hidden, the share of all is
    hidden as well.

    Example:
        >>> cohort = Cohort(x={"labs": pd.DataFrame({"a": [1.0] * 30 + [None] * 13})})
        >>> shares(cohort)
                all
        labs  70 %
    """
    return _shares(cohort, by)[0]


def presence(cohort: Cohort, by: str = "site") -> pd.DataFrame:
    """Count who has a modality and who lacks it, and who of these is ill, in tens.

    Of two that add up, none is shown where one is below ten; nor where `shares` had to hide all.
    """
    n = len(cohort)
    y = np.full(n, np.nan) if cohort.y is None else cohort.y.numpy()
    ill = y == (np.nanmax(y) if np.isfinite(y).any() else 1)
    secret = _shares(cohort, by)[1]
    lines = {}
    for name, seen in zip(cohort.names, cohort.observed.numpy().T, strict=True):
        pairs = {
            ("there", "missing"): (seen, ~seen),
            ("there, ill", "missing, ill"): (seen & ill, ~seen & ill),
        }
        # who is not ill is the one minus the other
        rests = [int((side & ~ill).sum()) for side in (seen, ~seen)]
        hidden = bool(secret[name])
        line: dict[str, object] = {}
        for words, sides in pairs.items():
            counts = [int(side.sum()) for side in sides]
            hidden |= any(map(_is_few, (*counts, *rests)))
            told = (
                [f"< {FEW} or hidden"] * 2 if hidden else [count // FEW * FEW for count in counts]
            )
            line |= dict(zip(words, told, strict=True))
        lines[name] = line
    return pd.DataFrame(lines).T.rename_axis("modality")


def _shares(cohort: Cohort, by: str) -> tuple[pd.DataFrame, pd.Series]:
    """The table of `shares`, and for which modalities its total would give a hidden count away."""
    cohort = pooled(cohort, by)
    seen = pd.DataFrame(cohort.observed.numpy(), columns=cohort.names)
    parts = {"all": seen}
    if by in cohort.groups:
        parts |= {str(level): part for level, part in seen.groupby(cohort.groups[by])}
    counts = pd.DataFrame({level: part.sum() for level, part in parts.items()})
    size = pd.Series({level: len(part) for level, part in parts.items()})
    small = _small(counts) | _small(size - counts) | (size < FEW)
    table = (100 * counts / size).map("{:.0f} %".format).mask(small, "–")
    sites = [level for level in size.index if level != "all"]
    secret = pd.Series(
        [
            not small.loc[name, "all"]
            and counts.loc[name, "all"] not in (0, size["all"])  # then there is nobody to find
            and any(
                _found_out(
                    dict(zip(size.index, map(int, side), strict=True)),
                    dict(zip(size.index, map(int, size), strict=True)),
                    [level for level in sites if small.loc[name, level]],
                )
                for side in (counts.loc[name], size - counts.loc[name])
            )
            for name in counts.index
        ],
        index=counts.index,
    )
    table["all"] = table["all"].mask(secret, "–")
    return table, secret


def _found_out(side: dict[str, int], size: dict[str, int], hidden: list[str]) -> bool:
    """Whether what is shown of one side, who has it or who lacks it, tells a hidden count.

    Taken as known: how many rows each site has, the total in tens (`presence`), and of a site that
    is hidden on account of its other side, that there nearly nobody is.
    """
    low, high = _within(side["all"], size["all"])
    tens = side["all"] // FEW * FEW
    low, high = max(low, tens), min(high, tens + FEW - 1)
    parts = 0
    for level in size:
        if level == "all":
            continue
        if level not in hidden:
            least, most = _within(side[level], size[level])
        elif _is_few(side[level]):
            parts += 1
            continue
        elif size[level] < FEW:
            least, most = 0, size[level]
        else:
            least, most = size[level] - FEW + 1, size[level] - 1
        low, high = low - most, high - least
    return not _safe((low, high), parts)


def _within(count: int, size: int) -> Range:
    """The counts that a share in whole percents leaves; nobody or everybody is told as such."""
    if count in (0, size) and size < 200 * FEW:
        return count, count
    percent = round(100 * count / size)
    least = math.ceil((percent - 0.5) * size / 100)
    return max(0, least), min(size, math.floor((percent + 0.5) * size / 100))


def hide_few(frame: pd.DataFrame, *, digits: int | None = 2) -> pd.DataFrame:
    """Hide what was computed on few: in the frame of a report, or in one with its columns.

    Where the rows, those with the outcome or those without it are 1 to 9, the numbers and counts of
    the line become missing. A line of nobody with the outcome has no number to hide. Then so that
    nobody finds a hidden count from the others, counts are rounded down to tens and numbers to
    `digits` (one, of metrics that are shares of fewer than a hundred rows). Where that is not
    enough, the counts of the next smallest site go, and in the end those of all.

    Args:
        frame: with n and n_pos; the lines of a site come after the line of all that they are of.
        digits: of the numbers, where any line is hidden. Two tell nothing of the counts of an AUROC
            of ten against ten and more. None leaves that to the caller.
    """
    frame = frame.copy()
    counts = ["n", "n_pos"]
    frame[counts] = frame[counts].astype("Int64")
    without = frame["n"] - frame["n_pos"]
    small = frame["n"].between(1, FEW - 1)
    for count in (frame["n_pos"], without):
        small |= count.between(1, FEW - 1).fillna(False).astype(bool)
    exact = frame[counts].assign(without=without)
    families = list(_families(frame))
    unlisted = [_rest(exact, *family) for family in families]
    if small.any() or any(any(map(_is_few, rest.values())) for rest in unlisted):
        hidden = small.copy()
        for (total, sites), rest in zip(families, unlisted, strict=True):
            hidden |= _also_hidden(exact, total, sites, small, rest)
        frame[counts] = frame[counts] // FEW * FEW
        frame.loc[hidden, counts] = pd.NA
        numbers = [name for name in _ESTIMATES if name in frame]
        frame.loc[small, numbers] = float("nan")
        if digits is not None:
            frame[numbers] = frame[numbers].astype(float).round(digits)
            if "metric" in frame:
                coarse = (exact["n"] < FEW**2) & (frame["metric"] != "auroc")
                frame.loc[coarse, numbers] = frame.loc[coarse, numbers].round(1)
    # a note of the report may count patients
    frame["note"] = small.map({True: f"fewer than {FEW}", False: ""})
    return frame


def _families(frame: pd.DataFrame) -> Iterable[tuple[object, list[object]]]:
    """The line of all, and those of the sites that add up to it: for each metric and grouping."""
    if not {"group", "level"} <= set(frame):
        return
    frame = frame.reset_index(drop=True)
    metric = frame["metric"] if "metric" in frame else pd.Series("", index=frame.index)
    number = (frame["group"] == "all").groupby(metric).cumsum()
    for _, lines in frame.groupby([metric, number]):
        if lines["group"].iloc[0] == "all":
            for _, sites in lines.iloc[1:].groupby("group"):
                yield lines.index[0], list(sites.index)


def _rest(exact: pd.DataFrame, total: object, sites: list[object]) -> dict[str, int]:
    """How many of all are on no line, where that is known."""
    exact = exact.reset_index(drop=True)
    rest = exact.loc[total] - exact.loc[sites].sum(skipna=False)
    return {str(name): int(count) for name, count in rest.items() if not pd.isna(count)}


def _also_hidden(
    exact: pd.DataFrame, total: object, sites: list[object], small: pd.Series, rest: dict[str, int]
) -> pd.Series:
    """The lines whose counts must go, too, so that those of the small ones stay unknown."""
    exact, hidden = exact.reset_index(drop=True), small.reset_index(drop=True).copy()
    while not all(_stays_unknown(exact, total, sites, hidden, rest, name) for name in exact):
        left = [site for site in sites if not hidden[site]]
        hidden[min(left, key=lambda site: exact["n"][site]) if left else total] = True
        if not left:
            break
    return hidden.set_axis(small.index)


def _stays_unknown(
    exact: pd.DataFrame, total: object, sites: list[object], hidden: pd.Series,
    rest: dict[str, int], name: str,
) -> bool:  # fmt: skip
    """Whether one count of the hidden lines cannot be had from the total, were that known."""
    if name not in rest or hidden[total]:
        return True
    of_them = [int(exact[name][site]) for site in sites if hidden[site]] + [rest[name]]
    of_them = [count for count in of_them if count]
    if not all(map(_is_few, of_them)):  # one of them may be any number
        return True
    wide = 2 if name == "without" else 1  # a difference of two that are rounded
    low = high = int(exact[name][total])
    for site in sites:
        if hidden[site]:
            continue
        count = int(exact[name][site])
        if wide == 2:
            count = int(exact["n"][site]) // FEW * FEW - int(exact["n_pos"][site]) // FEW * FEW
            low, high = low - count - FEW + 1, high - count + FEW - 1
        elif count:
            count = count // FEW * FEW
            low, high = low - count - FEW + 1, high - count
    return _safe((low, high), len(of_them))


def _safe(total: Range, parts: int) -> bool:
    """Whether `parts` counts of 1 to 9, whose sum is in a range, may each be many numbers."""
    if not parts:
        return True
    low = max(1, total[0] - (FEW - 1) * (parts - 1))
    high = min(FEW - 1, total[1] - (parts - 1))
    return high - low + 1 >= LEFT


def _is_few(count: int) -> bool:
    return 0 < count < FEW


def _small(counts: pd.DataFrame) -> pd.DataFrame:
    return (counts > 0) & (counts < FEW)
