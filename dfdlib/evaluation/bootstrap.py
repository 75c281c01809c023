"""Metrics as functions of row weights: a bootstrap replicate is one row of a matrix product.

A bootstrap by patient draws patients with replacement: each replicate is a vector of
multiplicities. Every metric here takes a (B, n) matrix of such weights and answers B values at
once, equal to scikit-learn's `sample_weight` result, ties included.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    roc_auc_score,
)

from dfdlib.data.validation import Task

METRICS = ("auroc", "auprc", "accuracy", "f1", "brier", "ece")
LOWER_IS_BETTER = frozenset({"brier", "ece"})

MIN_PATIENTS = 10
"""On fewer patients nothing is scored."""
MIN_EVENTS = 5
"""With fewer patients of a class there is no interval: the bootstrap would draw the same few."""

MIN_REPLICATES = 39
"""With fewer, the outermost replicates stand for more than 2.5 % on each side."""

_TAIL = 0.025  # of a 95 % interval, on each side
_EQUAL = 1e-12  # values as near as this differ by rounding alone
_CHUNK = 2**18  # weights held at a time: 2 MiB, which stays in cache


class WeightedMetrics:
    """The six metrics of one set of predictions, as functions of row weights.

    A binary task is one column, a multi-label task one per label, a multi-class task one per
    class against the rest; AUROC, AUPRC and F1 are means over columns. The decision is
    probability > 0.5, for several classes the most probable one. The Brier score of several
    classes is the sum over classes, from 0 to 2. The expected calibration error is

        ECE = sum over bins b of |sum over i in b of w_i (p_i - y_i)| / sum over i of w_i

    with `n_bins` bins of equal width, each closed on the right; for several classes p is the
    probability of the predicted class, and y whether it was the right one. A column without both
    classes makes AUROC, AUPRC and F1 NaN; rows of one class only make everything NaN.

    Args:
        y: Class numbers, 0/1, or 0/1 per label with NaN where a label is missing.
        probabilities: One column per class (multi-label: per label).
        task: What the columns mean.
        n_bins: Bins of the calibration error.

    Shapes:
        y: (n,), for multi-label (n, L). probabilities: (n, K), for multi-label (n, L).

    >>> metrics = WeightedMetrics(
    ...     np.array([0.0, 1.0, 1.0]), np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]), task="binary"
    ... )
    >>> round(metrics.values()["brier"], 4)
    0.22
    >>> metrics.replicates(np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 0.0]]))[:, 4].round(4)
    array([0.22, 0.11])
    """

    def __init__(
        self,
        y: Float[np.ndarray, "n *labels"],
        probabilities: Float[np.ndarray, "n k"],
        *,
        task: Task,
        n_bins: int = 10,
    ) -> None:
        n, k = probabilities.shape
        rows = np.arange(n)
        if task == "multiclass":
            truth = np.eye(k)[y.astype(int)]
            scores = probabilities
            top = probabilities.argmax(axis=1)
            decision = np.eye(k)[top]
            # accuracy, Brier and ECE look at all classes together: one unit
            confidence = probabilities[rows, top][:, None]
            event = truth[rows, top][:, None]
            correct = event
            squared = ((probabilities - truth) ** 2).sum(axis=1, keepdims=True)
        else:
            truth = y[:, None] if y.ndim == 1 else y
            scores = probabilities[:, 1:] if task == "binary" else probabilities
            decision = (scores > 0.5).astype(float)
            confidence, event = scores, truth
            correct = (decision == truth).astype(float)
            squared = (scores - truth) ** 2
        known = ~np.isnan(truth)
        unit_known = known[:, : event.shape[1]]

        self.task = task
        self.truth, self.scores, self.decision, self.known = truth, scores, decision, known
        self._ranks = [
            _ranked(truth[known[:, c], c], scores[known[:, c], c], rows[known[:, c]])
            for c in range(truth.shape[1])
        ]
        bins = np.linspace(0, 1, n_bins + 1)[1:-1].searchsorted(confidence)
        gaps = np.zeros((n, *event.shape[1:], n_bins))
        np.put_along_axis(gaps, bins[:, :, None], (confidence - event)[:, :, None], axis=2)
        self._bins = (event.shape[1], n_bins)
        parts = [
            known, truth, decision, decision * truth,  # one column per class or label
            unit_known, correct, squared, gaps.reshape(n, event.shape[1] * n_bins),  # one per unit
        ]  # fmt: skip
        masks = [known] * 4 + [unit_known] * 3 + [np.repeat(unit_known, n_bins, axis=1)]
        self._sums = np.hstack(
            [np.where(mask, part, 0.0) for mask, part in zip(masks, parts, strict=True)]
        )
        self._ends = np.cumsum([part.shape[1] for part in parts])[:-1]

    @property
    def n_positive(self) -> int | None:
        """Rows with y = 1, over all labels; None for several classes."""
        if self.task == "multiclass":
            return None
        return int(self.truth[self.known].sum())

    def lacking(self) -> str:
        """Which classes are not there, as a note; empty if none."""
        positive, total = np.where(self.known, self.truth, 0).sum(axis=0), self.known.sum(axis=0)
        lacking = np.flatnonzero((positive == 0) | (positive == total))
        if not len(lacking):
            return ""
        if self.task == "binary":
            return f"one class: {self.n_positive} of {total[0]} positive"
        if self.task == "multilabel":
            return f"one class only in label {', '.join(map(str, lacking))}"
        if (positive > 0).sum() == 1:
            return f"one class: all {total[0]} in class {positive.argmax()}"
        return f"nobody in class {', '.join(map(str, lacking))}"

    def few(self, codes: Int[np.ndarray, " n"]) -> dict[str, str]:
        """Why metrics get no interval: fewer than `MIN_EVENTS` patients of a class.

        For several classes AUROC, AUPRC and F1 ask for that many of each, the others of two.

        Args:
            codes: The number of each row's patient.
        """
        with_event, without = (
            np.array([len(np.unique(codes[column])) for column in (self.truth == label).T])
            for label in (1, 0)
        )
        fewest = with_event if self.task == "multiclass" else np.minimum(with_event, without)
        rare = np.flatnonzero(fewest < MIN_EVENTS)
        if not len(rare):
            return {}
        where = ", ".join(map(str, rare))
        if self.task == "multiclass":
            note = f"fewer than {MIN_EVENTS} patients of class {where}: no interval"
            enough = (with_event >= MIN_EVENTS).sum() >= 2
            return dict.fromkeys(("auroc", "auprc", "f1") if enough else METRICS, note)
        if self.task == "multilabel":
            note = f"fewer than {MIN_EVENTS} patients with or without label {where}"
        elif with_event[0] < MIN_EVENTS:
            repeated = (self.truth == 1).sum() >= MIN_EVENTS
            note = f"fewer than {MIN_EVENTS} " + ("patients with events" if repeated else "events")
        else:
            repeated = (self.truth == 0).sum() >= MIN_EVENTS
            note = f"fewer than {MIN_EVENTS} {'patients' if repeated else 'rows'} without an event"
        return dict.fromkeys(METRICS, f"{note}: no interval")

    def independent(self, metric: str, codes: Int[np.ndarray, " n"]) -> int:
        """On how many independent trials a metric at its edge rests; 0 where it counts none.

        The AUROC is the share of pairs in order: pairs that share no patient are independent.
        Accuracy is a share of rows, and each patient is one trial.
        """
        if metric == "accuracy" and self.task != "multilabel":
            return len(np.unique(codes))
        if metric != "auroc" or self.task != "binary":
            return 0
        with_event, without = (np.unique(codes[self.truth[:, 0] == label]) for label in (1, 0))
        return min(len(with_event), len(without), len(np.union1d(with_event, without)) // 2)

    def values(self) -> dict[str, float]:
        """Unweighted values by scikit-learn; the calibration error is our own."""
        once = self.replicates(np.ones((1, len(self.truth))))[0]
        defined = dict(zip(METRICS, np.isfinite(once), strict=True))
        result = dict.fromkeys(METRICS, np.nan)
        pairs = [
            (self.truth[known, c], self.scores[known, c], self.decision[known, c])
            for c, known in enumerate(self.known.T)
        ]
        if defined["ece"]:
            result["ece"] = float(once[METRICS.index("ece")])
        if defined["accuracy"] and self.task == "multiclass":
            classes, top = self.truth.argmax(axis=1), self.scores.argmax(axis=1)
            labels = list(range(self.scores.shape[1]))
            result["accuracy"] = accuracy_score(classes, top)
            result["brier"] = brier_score_loss(classes, self.scores, labels=labels)
        elif defined["accuracy"]:
            result["accuracy"] = _mean(accuracy_score(y, d) for y, _, d in pairs)
            result["brier"] = _mean(brier_score_loss(y, s, pos_label=1) for y, s, _ in pairs)
        if defined["auroc"]:
            result["auroc"] = _mean(roc_auc_score(y, s) for y, s, _ in pairs)
            result["auprc"] = _mean(average_precision_score(y, s) for y, s, _ in pairs)
            result["f1"] = _mean(f1_score(y, d) for y, _, d in pairs)
        return result

    def replicates(self, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b metrics"]:
        """The metrics under each row of `weights`, in the order of `METRICS`; NaN if undefined."""
        total, positive, predicted, true_positive, weight, correct, squared, gap = np.split(
            weights @ self._sums, self._ends, axis=1
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            both = ((positive > 0) & (positive < total)).all(axis=1)
            ranked = np.stack([_rank_metrics(weights, *ranks) for ranks in self._ranks])
            auroc, auprc = ranked.mean(axis=0)
            f1 = (2 * true_positive / (positive + predicted)).mean(axis=1)
            gap = np.abs(gap).reshape(-1, *self._bins).sum(axis=2)
            accuracy, brier, ece = (
                (part / weight).mean(axis=1) for part in (correct, squared, gap)
            )
        macro = np.where(both, np.stack([auroc, auprc, f1]), np.nan)
        result = np.stack([macro[0], macro[1], accuracy, macro[2], brier, ece], axis=1)
        if self.task == "binary":
            result[~both] = np.nan
        elif self.task == "multiclass":
            result[(positive > 0).sum(axis=1) < 2] = np.nan
        return result


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _ranked(
    y: Float[np.ndarray, " m"], score: Float[np.ndarray, " m"], rows: Int[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"], Int[np.ndarray, " ties"]]:
    """Rows from the highest score down, their labels, and where each run of equal scores begins."""
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.inf))
    return rows[order], y[order], starts


def _rank_metrics(
    weights: Float[np.ndarray, "b n"],
    order: Int[np.ndarray, " m"],
    y: Float[np.ndarray, " m"],
    starts: Int[np.ndarray, " ties"],
) -> Float[np.ndarray, "2 b"]:
    """AUROC and average precision, one pair per row of `weights`.

    With weights P_g and N_g of the positives and negatives that share the g-th highest score, and
    their running sums TP_g and FP_g (N the sum of all N_g, P of all P_g):
    AUROC = sum_g P_g (N - FP_g + N_g / 2) / (P N), AP = sum_g P_g TP_g / (TP_g + FP_g) / P.
    """
    every = weights[:, order]
    positive = every * y
    if len(starts) < len(order):
        every = np.add.reduceat(every, starts, axis=1)
        positive = np.add.reduceat(positive, starts, axis=1)
    flagged, hits = every.cumsum(axis=1), positive.cumsum(axis=1)
    n_positive = positive.sum(axis=1)
    n_negative = every.sum(axis=1) - n_positive
    below = n_negative[:, None] - (flagged - hits) + (every - positive) / 2
    precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
    return np.stack(
        [
            np.einsum("bg,bg->b", positive, below) / (n_positive * n_negative),
            np.einsum("bg,bg->b", positive, precision) / n_positive,
        ]
    )


def patient_weights(
    n_patients: int, n_boot: int, *, seed: int, chunk: int
) -> Iterator[Float[np.ndarray, "b patients"]]:
    """Multiplicities of patients drawn with replacement, `chunk` replicates at a time.

    The stream does not depend on `chunk`, so two calls with one seed are paired.

    >>> next(patient_weights(4, 2, seed=0, chunk=2)).sum(axis=1)
    array([4., 4.])
    """
    rng = np.random.default_rng(seed)
    for start in range(0, n_boot, chunk):
        size = min(chunk, n_boot - start)
        drawn = rng.integers(n_patients, size=(size, n_patients))
        drawn += n_patients * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n_patients)
        yield counts.reshape(size, n_patients).astype(float)


def bootstrap(
    sets: Sequence[tuple[WeightedMetrics, Int[np.ndarray, " _"]]],
    *,
    n_patients: int,
    n_boot: int,
    seed: int,
) -> Float[np.ndarray, "sets b metrics"]:
    """Replicates of several sets of predictions under the same draws of patients.

    Args:
        sets: Metrics, and for each of their rows the number of its patient (0 … n_patients - 1).
        n_patients: Patients to draw from.
        n_boot: Replicates.
        seed: Equal seeds and patients give equal draws: differences are then paired.

    Raises:
        ValueError: A number of replicates, or a seed, that is no whole number from 0 up.
    """
    check_whole("n_boot", n_boot, 0, "1000; 0 gives no intervals")
    check_whole("seed", seed, 0, "0")
    result = np.empty((len(sets), n_boot, len(METRICS)))
    chunk = max(1, _CHUNK // max([n_patients, *(len(codes) for _, codes in sets)]))
    done = 0
    for weights in patient_weights(n_patients, n_boot, seed=seed, chunk=chunk):
        part = slice(done, done + len(weights))
        for s, (metrics, codes) in enumerate(sets):
            result[s, part] = metrics.replicates(weights[:, codes])
        done += len(weights)
    return result


def check_whole(name: str, value: object, least: int, such_as: str) -> None:
    """Refuse what is no whole number, or too small a one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(
            f"{name} is {value!r}. Pass a whole number, {least} or more, such as {such_as}"
        )


def interval(replicates: Float[np.ndarray, " b"], alpha: float = 0.05) -> tuple[float, float]:
    """Percentile interval at level 1 - alpha over the replicates that are defined.

    Its ends are the k-th value from below and from above, k = floor(alpha / 2 (B + 1)), at least 1:
    it leaves out 0 exactly where the two-sided bootstrap p value is at most alpha. NaN where fewer
    than half of the replicates are defined: what is left no longer speaks for the whole. NaN too
    where both ends are one value: replicates that do not differ are no certainty.

    >>> interval(np.arange(1.0, 40.0), alpha=0.05)
    (1.0, 39.0)
    """
    kept: Float[np.ndarray, " kept"] = np.sort(replicates[~np.isnan(replicates)])
    if not len(kept) or 2 * len(kept) < len(replicates):
        return np.nan, np.nan
    k = max(1, int(alpha / 2 * (len(kept) + 1) + 1e-9))
    low, high = float(kept[k - 1]), float(kept[-k])
    return (low, high) if high - low > _EQUAL else (np.nan, np.nan)


class Estimate(NamedTuple):
    """A value, its interval, and what there is to say of both."""

    value: float
    low: float = np.nan
    high: float = np.nan
    note: str = ""


def estimates(
    metrics: WeightedMetrics, codes: Int[np.ndarray, " n"], draws: Float[np.ndarray, "b metrics"]
) -> dict[str, Estimate]:
    """Each metric with its 95 % interval; where there is no number or no interval, the reason.

    Where an AUROC or an accuracy is 0 or 1, all replicates are, and say nothing of how far the
    truth may lie from there. The interval is then Clopper and Pearson's of as many successes as
    there are independent trials: it ends at .025^(1 / trials). It counts one row per patient.

    Args:
        metrics: Of the rows.
        codes: The number of each row's patient.
        draws: Replicates, in the order of `METRICS`.
    """
    n_patients = len(np.unique(codes))
    if n_patients < MIN_PATIENTS:
        reason = f"only {n_patients} {'patient' if n_patients == 1 else 'patients'}"
        return dict.fromkeys(METRICS, Estimate(np.nan, note=reason))
    few, lacking = metrics.few(codes), metrics.lacking()
    result = {}
    for m, (metric, value) in enumerate(metrics.values().items()):
        if np.isnan(value):
            result[metric] = Estimate(np.nan, note=lacking)
        elif metric in few:
            result[metric] = Estimate(value, note=few[metric])
        else:
            result[metric] = _with_interval(metric, value, metrics, codes, draws[:, m])
    return result


def _with_interval(
    metric: str,
    value: float,
    metrics: WeightedMetrics,
    codes: Int[np.ndarray, " n"],
    draws: Float[np.ndarray, " b"],
) -> Estimate:
    if not len(draws):
        return Estimate(value)
    low, high = interval(draws)
    dropped = int(np.isnan(draws).sum())
    note = f"{dropped} of {len(draws)} replicates lacked a class" if dropped else ""
    if not np.isnan(low):
        return Estimate(value, low, high, note)
    if 2 * dropped > len(draws):
        return Estimate(value, note=f"no interval: {note}")
    edge = edge_of(metric, value, metrics.task)
    if edge is None:
        alike = "one replicate" if len(draws) == 1 else "the replicates do not differ"
        return Estimate(value, note=f"{alike}: no interval")
    trials = metrics.independent(metric, codes)
    if not trials:
        return Estimate(value, note=f"{beyond(edge)}: no interval")
    reach = _TAIL ** (1 / trials)
    low, high = (reach, 1.0) if edge == 1 else (0.0, 1 - reach)
    return Estimate(value, low, high, f"{beyond(edge)}; exact bound instead")


def edge_of(metric: str, value: float, task: Task) -> int | None:
    """The end of a metric's range where its value stands, if it does.

    >>> edge_of("auroc", 1.0, "binary"), edge_of("brier", 1.0, "multiclass")
    (1, None)
    """
    ends = (0, 2) if metric == "brier" and task == "multiclass" else (0, 1)
    return next((end for end in ends if abs(value - end) <= _EQUAL), None)


def beyond(edge: int) -> str:
    """What a bootstrap cannot tell of a value at the end of its range."""
    return f"at the edge: the bootstrap cannot see beyond {edge}"
