"""Paired comparison of two methods on the same patients."""

import math
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata, t  # type: ignore[import-untyped]

from dfdlib.errors import wrong_type
from dfdlib.evaluation.bootstrap import (
    LOWER_IS_BETTER,
    METRICS,
    WeightedMetrics,
    beyond,
    bootstrap,
    check_whole,
    edge_of,
    interval,
)
from dfdlib.evaluation.evaluate import Report, known_metrics

Pairs = list[tuple[Report, Report]]
Key = tuple[str, str]


class Row(NamedTuple):
    """What is compared: a metric on one level."""

    metric: str
    group: str
    level: str


def compare(
    a: Report | Sequence[Report],
    b: Report | Sequence[Report],
    *,
    metrics: Sequence[str] | str = ("auroc",),
    n_boot: int = 1000,
    seed: int = 0,
    margin: int | float = 0.0,
    alpha: float = 0.05,
) -> pd.DataFrame:
    r"""Paired differences a − b on the same patients, one row per metric and level.

    Each replicate draws patients, and where lists of reports are given seeds as well, and takes
    both methods on that draw. With B replicates :math:`d^*` of a difference,

    .. math:: p = \min\Bigl(1, 2\,\frac{1 + \#\{d^* \le 0\}}{B + 1},
              2\,\frac{1 + \#\{d^* \ge 0\}}{B + 1}\Bigr).

    Over the m rows with a number, Holm's step-down multiplies the k-th smallest p by m − k + 1 and
    gives its interval the level 1 − alpha / (m − k + 1). From the first row on that
    is not rejected the divisor stays: an adjusted interval leaves out 0 where p_holm is at most
    alpha. Too few replicates for a level are said in a warning, and give no adjusted interval.

    The verdict is about "a is better than b" (for Brier score and ECE lower is better; the
    difference stays a − b). *held*: the adjusted interval lies beyond the margin. *did not hold*:
    all of it falls short of the margin. Else *undecided*.

    With few seeds a bootstrap over seeds is narrow: five draws show 4/5 of their variance.

    A row without a number says why in its note, and so does one without an interval: with fewer
    than 5 patients of either class there is a difference and no interval, no p and no verdict, nor
    where no replicate differs from another. Where a or b alone stands at the edge of its range,
    the interval knows of the other's spread only, and the note names the edge. Two methods with the
    same predictions differ by 0, and that is sure.

    Args:
        a: A report, or one per seed.
        b: The other method's, on the same patients and levels, seed by seed.
        metrics: Which to compare.
        n_boot: Replicates.
        seed: Of the bootstrap.
        margin: The smallest difference that matters, stated before the run.
        alpha: Of the tests, and of the unadjusted intervals `low`, `high`.

    Returns:
        Columns metric, group, level, difference, low, high, p, p_holm, low_holm, high_holm,
        verdict, n (rows per seed) and note.

    Raises:
        TypeError: a or b is no report and no list of reports.
        ValueError: Different patients, levels, tasks or bins, lists of different length, unknown
            metric.

    >>> from dfdlib.data import Cohort
    >>> from dfdlib.evaluation import evaluate
    >>> y = np.arange(40) % 2
    >>> cohort = Cohort(x={"age": np.arange(40.0)}, y=y)
    >>> good = np.tile([0.1, 0.6, 0.4, 0.9, 0.5, 0.5, 0.2, 0.3], 5)
    >>> good, flat = (evaluate(p, cohort, n_boot=0) for p in (good, np.full(40, 0.5)))
    >>> compare(good, flat, margin=0.01, n_boot=99)[["metric", "difference", "p", "verdict"]]
      metric  difference     p verdict
    0  auroc     0.34375  0.02    held
    """
    names = known_metrics(metrics)
    if not margin >= 0:
        raise ValueError(
            f"margin is {margin}. Pass the smallest difference that matters, 0 or more"
        )
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}. Pass a number between 0 and 1, such as 0.05")
    check_whole("n_boot", n_boot, 0, "1000; 0 gives no intervals")
    check_whole("seed", seed, 0, "0")
    pairs = _paired(a, b)
    bins = sorted({report.n_bins for pair in pairs for report in pair})
    if "ece" in names and len(bins) > 1:
        raise ValueError(
            f"reports have n_bins {bins[0]} and {bins[-1]}, which alone changes ece. Evaluate both "
            "with the same n_bins="
        )
    keys = list(dict.fromkeys(key for first, _ in pairs for key in first.strata))
    rows = [Row(name, *key) for key in keys for name in names]
    values, notes = _values(pairs, rows)
    difference = (values[:, 0] - values[:, 1]).mean(axis=0)
    known = np.isfinite(difference)
    scored = [(r.group, r.level) for r, there in zip(rows, known, strict=True) if there]
    sets = _sets(pairs, list(dict.fromkeys(scored)))
    replicates = _replicates(pairs, sets, n_boot=n_boot, seed=seed)
    draws = np.full((len(rows), n_boot), np.nan)
    sure = [False] * len(rows)
    for at in np.flatnonzero(known):
        row = rows[at]
        key = row.group, row.level
        few = [metrics.few(codes).get(row.metric, "") for metrics, codes in sets[key]]
        notes[at] = next(filter(None, few), "")
        if notes[at]:
            continue
        draws[at] = replicates[key][METRICS.index(row.metric)]
        sure[at] = _alike(pairs, row)
        notes[at] = "" if sure[at] else _seen(draws[at], values[:, :, at], row.metric, pairs)

    frame = pd.DataFrame(rows)
    frame["difference"] = difference
    frame[["low", "high"]] = [
        _ends(row, same, alpha) for row, same in zip(draws, sure, strict=True)
    ]
    tested = frame["low"].notna().to_numpy()
    frame["p"] = [
        two_sided_p_value(row) if test else math.nan
        for row, test in zip(draws, tested, strict=True)
    ]
    frame["p_holm"], levels = holm(frame["p"].to_numpy(), alpha)
    reached = levels + 1e-9 >= 2 / (np.isfinite(draws).sum(axis=1) + 1)
    frame[["low_holm", "high_holm"]] = [
        _ends(row, same, level) if enough else (math.nan, math.nan)
        for row, same, level, enough in zip(draws, sure, levels, reached, strict=True)
    ]
    frame["verdict"] = [
        verdict(metric, low, high, margin)
        for metric, low, high in frame[["metric", "low_holm", "high_holm"]].itertuples(index=False)
    ]
    sizes = [np.mean([len(r.strata.get(key, ())) for r, _ in pairs]) for key in keys]
    frame["n"] = np.repeat(np.round(sizes).astype(int), len(names))
    frame["note"] = notes
    if not reached[tested].all():
        warnings.warn(
            f"{n_boot} replicates are too few for adjusted intervals of {tested.sum()} rows. Pass "
            f"n_boot={math.ceil(2 * tested.sum() / alpha)}, or compare fewer rows",
            UserWarning,
            stacklevel=2,
        )
    return frame


def verdict(
    metric: str, low: float, high: float, margin: int | float
) -> Literal["held", "did not hold", "undecided"]:
    """Judge "a is better than b by more than the margin" from an interval of a − b.

    >>> verdict("auroc", 0.02, 0.05, 0.01), verdict("auroc", -0.005, 0.005, 0.01)
    ('held', 'did not hold')
    >>> verdict("brier", -0.05, -0.02, 0.01), verdict("auroc", 0.0, 0.05, 0.01)
    ('held', 'undecided')
    """
    if metric in LOWER_IS_BETTER:
        low, high = -high, -low
    if low > margin:
        return "held"
    return "did not hold" if high <= margin else "undecided"


def _reports(reports: object, name: str) -> list[Report]:
    """The reports that were passed, one or several."""
    several = [reports] if isinstance(reports, Report) else reports
    if isinstance(several, Sequence) and all(isinstance(one, Report) for one in several):
        return list(several)
    wrong = reports
    if isinstance(reports, (list, tuple)):
        wrong = next(one for one in reports if not isinstance(one, Report))
    takes = f"compare takes a Report, or a list of one per seed, as {name}"
    raise wrong_type(wrong, takes, "Write compare(evaluate(model, test), evaluate(other, test))")


def _paired(a: Report | Sequence[Report], b: Report | Sequence[Report]) -> Pairs:
    first, second = _reports(a, "a"), _reports(b, "b")
    if len(first) != len(second) or not first:
        raise ValueError(
            f"a has {len(first)} reports, b has {len(second)}. Pass one of each per seed"
        )
    pairs = list(zip(first, second, strict=True))
    for s, (one, other) in enumerate(pairs):
        if one.task != other.task or one.task != first[0].task:
            raise ValueError(f"reports {s} are of tasks {one.task} and {other.task}. Pass one task")
        same = np.array_equal(one.patient, other.patient)
        if not (same and np.array_equal(one.y, other.y, equal_nan=True)):
            raise ValueError(
                f"reports {s} are of different patients ({len(one.y)} and {len(other.y)} rows, or "
                "other ids, labels or order). Evaluate both on the same cohort"
            )
        if list(one.strata) != list(other.strata):
            raise ValueError(
                f"reports {s} have different levels. Evaluate both with the same by= and bands="
            )
    return pairs


def _values(pairs: Pairs, rows: list[Row]) -> tuple[Float[np.ndarray, "seeds 2 rows"], list[str]]:
    """The value of each report on each row, and where one lacks it, the reason."""
    index = pd.MultiIndex.from_tuples(rows)
    frames = [[r.frame.set_index(list(Row._fields)).reindex(index) for r in pair] for pair in pairs]
    values = np.array([[f["value"].to_numpy(dtype=float) for f in pair] for pair in frames])
    notes = [""] * len(rows)
    for at in np.flatnonzero(np.isnan(values).any(axis=(0, 1))):
        seed, which = np.argwhere(np.isnan(values[:, :, at]))[0]
        note = frames[seed][which]["note"].iloc[at]
        there = (rows[at].group, rows[at].level) in pairs[seed][which].strata
        absent = f"no {rows[at].metric} in" if there else "no such level in"
        notes[at] = note if isinstance(note, str) and note else f"{absent} report {seed}"
    return values, notes


def _sets(pairs: Pairs, keys: list[Key]) -> dict[Key, list[tuple[WeightedMetrics, np.ndarray]]]:
    """Metrics of both methods on each level, seed by seed, and the patient of each of their rows.

    Patients are numbered through all seeds.
    """
    patients = [first.patient for first, _ in pairs]
    numbers = pd.factorize(np.concatenate(patients))[0]
    codes = np.split(numbers, np.cumsum([len(p) for p in patients])[:-1])
    sets: dict[Key, list[tuple[WeightedMetrics, np.ndarray]]] = {key: [] for key in keys}
    for key in keys:
        for pair, code in zip(pairs, codes, strict=True):
            rows = pair[0].strata[key]
            for r in pair:
                metrics = WeightedMetrics(
                    r.y[rows], r.probabilities[rows], task=r.task, n_bins=r.n_bins
                )
                sets[key].append((metrics, code[rows]))
    return sets


def _replicates(
    pairs: Pairs,
    sets: dict[Key, list[tuple[WeightedMetrics, np.ndarray]]],
    *,
    n_boot: int,
    seed: int,
) -> dict[Key, Float[np.ndarray, "metrics b"]]:
    """Differences on each level under draws of patients and of seeds."""
    n_patients = len(pd.unique(np.concatenate([first.patient for first, _ in pairs])))
    flat = [entry for level in sets.values() for entry in level]
    values = bootstrap(flat, n_patients=n_patients, n_boot=n_boot, seed=seed)
    n_seeds = len(pairs)
    values = values.reshape(len(sets), n_seeds, 2, n_boot, len(METRICS))
    difference = values[:, :, 0] - values[:, :, 1]
    rng = np.random.default_rng([seed, n_seeds])
    drawn = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_boot) / n_seeds
    return dict(zip(sets, np.einsum("bs,ksbm->kmb", drawn, difference), strict=True))


def _alike(pairs: Pairs, row: Row) -> bool:
    """Whether both methods say the same of every row: the difference is then 0, and surely so."""
    for first, second in pairs:
        rows = first.strata[row.group, row.level]
        one, other = (report.probabilities[rows] for report in (first, second))
        if one.shape != other.shape:
            return False
        if row.metric in ("auroc", "auprc"):  # these read the order alone
            one, other = (rankdata(p, method="dense", axis=0) for p in (one, other))
        if not np.array_equal(one, other):
            return False
    return True


def _seen(
    draws: Float[np.ndarray, " b"],
    values: Float[np.ndarray, "seeds 2"],
    metric: str,
    pairs: Pairs,
) -> str:
    """What the replicates of a difference cannot see, as a note."""
    notes = []
    for name, of_seeds in zip("ab", values.T, strict=True):
        edges = {edge_of(metric, value, pairs[0][0].task) for value in of_seeds}
        if len(edges) == 1 and None not in edges:
            notes.append(f"{name} is {beyond(edges.pop() or 0)}")
    if len(draws) and np.isnan(interval(draws)).any():
        dropped = int(np.isnan(draws).sum())
        notes.append(
            f"no interval: {dropped} of {len(draws)} replicates lacked a class"
            if 2 * dropped > len(draws)
            else "the replicates do not differ: no interval"
        )
    return "; ".join(notes)


def _ends(draws: Float[np.ndarray, " b"], sure: bool, alpha: float) -> tuple[float, float]:
    return (0.0, 0.0) if sure and len(draws) else interval(draws, alpha)


def two_sided_p_value(draws: Float[np.ndarray, " b"]) -> float:
    """Twice the share of bootstrap draws on the rarer side of zero, and never zero itself."""
    draws = draws[~np.isnan(draws)]
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    return min(1.0, 2 * (1 + int(tail)) / (len(draws) + 1))


def holm(
    p: Float[np.ndarray, " m"], alpha: float
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Holm's adjusted p, and the alpha of each row's interval; rows with p NaN stay out.

    >>> [array.round(4).tolist() for array in holm(np.array([0.03, 0.01, 0.04]), 0.05)]
    [[0.06, 0.03, 0.06], [0.025, 0.0167, 0.025]]
    """
    adjusted, levels = np.full_like(p, np.nan), np.full_like(p, alpha)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    if len(order):
        steps = np.arange(len(order), 0, -1)
        adjusted[order] = np.minimum(1, np.maximum.accumulate(steps * p[order]))
        rejected = (adjusted[order] <= alpha + 1e-9).sum()
        levels[order] = alpha / np.maximum(steps, steps[min(rejected, len(order) - 1)])
    return adjusted, levels


def paired_intervals(
    each: Float[np.ndarray, "m n"],
    *,
    margin: int | float,
    alpha: float = 0.05,
    metric: str = "difference",
    names: Sequence[str] | None = None,
    shared: Sequence[float] | None = None,
) -> pd.DataFrame:
    r"""Intervals of mean paired differences by Student's t, at Holm's levels over the rows.

    With n differences of a row, :math:`\bar d \pm t_{n-1}(1 - \alpha'/2)\, s / \sqrt{n}`, where
    :math:`\alpha'` is what `holm` leaves to that row. A row whose differences agree to the last
    bit has the interval of one point.

    Args:
        each: one row per comparison, one column per seed: a − b.
        margin: the smallest difference that matters.
        alpha: of the tests, over all rows.
        metric: what is compared; of "brier" and "ece" less is better.
        names: of the rows.
        shared: per row, a standard error that all of its differences share.

    Returns:
        Columns effect, low, high, p_holm, verdict and each, which holds the row.

    Raises:
        ValueError: for fewer than two differences a row.

    Example:
        >>> gains = np.array([[0.03, 0.05, 0.04], [0.02, -0.02, 0.0]])
        >>> paired_intervals(gains, margin=0.0, names=["a", "b"]).drop(columns="each").round(3)
           effect    low   high  p_holm    verdict
        a    0.04  0.004  0.076    0.04       held
        b    0.00 -0.050  0.050    1.00  undecided
    """
    n = each.shape[1]
    if n < 2:
        raise ValueError(f"an interval needs 2 differences a row, got {n}. Pass one per seed")
    mean, error = each.mean(axis=1), each.std(axis=1, ddof=1) / np.sqrt(n)
    if shared is not None:
        error = np.hypot(error, shared)
    # differences that agree to the last bit leave no error: sure, unless they are 0
    size = np.divide(np.abs(mean), error, out=np.where(mean == 0, 0.0, np.inf), where=error > 0)
    adjusted, levels = holm(2 * t.sf(size, n - 1), alpha)
    half = t.isf(levels / 2, n - 1) * error
    frame = pd.DataFrame(
        {"effect": mean, "low": mean - half, "high": mean + half, "p_holm": adjusted},
        index=None if names is None else list(names),
    )
    bounds = zip(frame["low"], frame["high"], strict=True)
    frame["verdict"] = [verdict(metric, low, high, margin) for low, high in bounds]
    frame["each"] = each.tolist()
    return frame
