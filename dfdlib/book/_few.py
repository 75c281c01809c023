"""Aggregates that may leave a hospital: nothing is shown of fewer than ten patients."""

import pandas as pd

from dfdlib.data import Cohort

#: A count below this one is not shown, nor any number that was computed on so few.
FEW = 10


def few(count: float | int) -> str:
    """Write a count, or that it is small.

    Example:
        >>> few(3), few(0), few(12)
        ('< 10', '0', '12')
    """
    return f"< {FEW}" if 0 < count < FEW else f"{count:.0f}"


def shares(cohort: Cohort, by: str = "site") -> pd.DataFrame:
    """How often each modality is observed at each site, in percent; "–" where few have it or not.

    Example:
        >>> cohort = Cohort(x={"labs": pd.DataFrame({"a": [1.0] * 30 + [None] * 13})})
        >>> shares(cohort)
                all
        labs  70 %
    """
    seen = pd.DataFrame(cohort.observed.numpy(), columns=cohort.names)
    parts = {"all": seen}
    if by in cohort.groups:
        parts |= {str(level): part for level, part in seen.groupby(cohort.groups[by])}
    table = {}
    for level, part in parts.items():
        counts = part.sum()
        hidden = counts.between(1, FEW - 1) | (len(part) - counts).between(1, FEW - 1)
        hidden |= len(part) < FEW
        # whole percents: a count is not to be had from a share of a large site
        told = (100 * counts / len(part)).map("{:.0f} %".format)
        table[level] = told.mask(hidden, "–")
    return pd.DataFrame(table)


def hide_few(frame: pd.DataFrame) -> pd.DataFrame:
    """Hide what was computed on few: in the frame of a report, or in one with its columns.

    Where the rows, those with the outcome or those without it are 1 to 9, the numbers and counts of
    the line become missing. The other counts would give it away as a difference, so then they are
    rounded down to tens. A line of nobody with the outcome has no number to hide.
    """
    frame = frame.copy()
    without = frame["n"] - frame["n_pos"]
    small = frame["n"].between(1, FEW - 1)
    for count in (frame["n_pos"], without):
        small |= count.between(1, FEW - 1).fillna(False).astype(bool)
    frame[["n", "n_pos"]] = frame[["n", "n_pos"]].astype("Int64")
    if small.any():
        frame[["n", "n_pos"]] = frame[["n", "n_pos"]] // FEW * FEW
        numbers = ["difference", "difference_low", "difference_high"]
        numbers = ["value", "low", "high", *(name for name in numbers if name in frame)]
        frame.loc[small, numbers] = float("nan")
        frame.loc[small, ["n", "n_pos"]] = pd.NA
    # a note of the report may count patients
    frame["note"] = small.map({True: f"fewer than {FEW}", False: ""})
    return frame
