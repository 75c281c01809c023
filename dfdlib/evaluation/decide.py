"""Whether a question is decided: seeds in blocks, one error budget, and a word with its reason."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import special  # type: ignore[import-untyped]

from dfdlib.errors import check_type
from dfdlib.evaluation.questions import Question

Verdict = Literal["held", "refuted", "depends", "too few patients", "too few runs", "at the margin"]

#: with which power an effect counts as one that could have been shown
POWER = 0.8
#: what an interval decides
HELD, REFUTED, OPEN = "held", "refuted", "open"

_COLUMNS = ("setting", "seed", "value", "patient_se")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the runs say to a question.

    Attributes:
        verdict: *held* · *refuted* · *depends* (settings decide differently) · *too few patients*
            (more runs would not help) · *too few runs* · *at the margin* (the cap is spent and the
            interval is as narrow as was asked for).
        why: the reason in words.
        effect: the mean over seeds: of the average over settings, or of the setting that decides.
        low: lower end of its interval, which holds over all looks.
        high: upper end.
        seeds: how many seeds were looked at.
        seeds_needed: how many would decide with a probability of .8, were mean and spread to stay;
            None where it is decided, or where no number of seeds would do.
        detectable: the effect nearest to the end of the region that these patients could have shown
            with a probability of .8 by any number of runs; NaN where they add no error.
        settings: setting, effect, low, high and verdict of each, at the level of all of them.
        spread: standard deviation of the effect between settings; NaN for one.
        new_setting: 95 % interval for the effect in a setting that was not run; NaN for fewer than
            three.
    """

    verdict: Verdict
    why: str
    effect: float
    low: float
    high: float
    seeds: int
    seeds_needed: int | None
    detectable: float
    settings: pd.DataFrame
    spread: float
    new_setting: tuple[float, float]


def decide(runs: pd.DataFrame, question: Question) -> Decision:
    r"""Decide a question from runs that are drawn in blocks until it is decided.

    Looks come after 5, 10, 20, 40, … seeds and at the cap; the first that decides ends it, and what
    was run beyond it does not count. The look after :math:`n_k` of N seeds may err with
    :math:`\alpha_k = \alpha\,(n_k - n_{k-1}) / N`, which sums to α, so the intervals of all looks
    hold together with probability 1 − α (union bound), and so does the verdict that is read from
    them. Of a setting with mean :math:`\bar v`, standard deviation s over runs, and p, the root
    mean square of its runs' patient errors,

    .. math:: \bar v \pm t_\nu(1 - \alpha_k/2)\,\sqrt{s^2/n + p^2}, \qquad
              \nu = \frac{(s^2/n + p^2)^2}{(s^2/n)^2/(n-1)}

    (Satterthwaite). Runs of one setting are tested on the same patients, so p does not shrink with
    n. Where :math:`s/\sqrt n < p/2` more runs do not help: that look spends what is left of α, and
    is the last. Of a probability, Clopper's and Pearson's interval.

    Over S settings, *every* is held where each is at :math:`\alpha_k`, and refuted where one is at
    :math:`\alpha_k/S`; *some* is the mirror image; an *average* is that of the settings seed by
    seed, which share patients, and *depends* where, at :math:`\alpha_k/S`, one setting is held and
    another refuted.

    The t interval is one for means of several runs that are not too skewed. Where one run in ten is
    lost and the others agree, five runs may not show it: ask for a probability.

    Args:
        runs: one row per setting and seed: `setting`, `seed`, `value` (the effect; 0 or 1 for a
            probability) and `patient_se` (its standard error over patients; 0 only where patients
            are as many as one likes, as where the truth is known).
        question: what is asked.

    Returns:
        The verdict, why, and what would change it.

    Raises:
        TypeError: runs is no DataFrame, question no Question.
        ValueError: a column is missing, a setting lacks a seed of another or has one twice, a value
            is not finite, or not 0 or 1 for a probability.

    Example:
        >>> gains = [0.031, 0.042, 0.038, 0.029, 0.035]
        >>> runs = pd.DataFrame(
        ...     {"setting": "GRAPE", "seed": range(5), "value": gains, "patient_se": 0.001}
        ... )
        >>> answer = decide(runs, Question(form="superiority", margin=0.01))
        >>> answer.verdict, answer.seeds, round(answer.low, 3), round(answer.high, 3)
        ('held', 5, 0.024, 0.046)
        >>> decide(runs, Question(form="superiority", margin=0.03)).why
        'after 5 of at most 40 seeds the interval holds 0.03. Run 5 more'
    """
    takes = "decide takes a DataFrame with one row per setting and seed as runs"
    check_type(runs, pd.DataFrame, takes, f"Give it the columns {', '.join(_COLUMNS)}")
    takes = "decide takes a Question as question"
    check_type(question, Question, takes, "Write Question(form='superiority', margin=0.01)")
    values, errors, settings = _grid(runs, question)
    looks = [look for look in question.looks if look <= values.shape[1]]
    if not looks:
        return _not_begun(values, settings, question)
    spent = 0.0
    for n in looks:
        level = question.alpha * n / question.cap - spent
        look = _look(values[:, :n], errors[:, :n], question, level, question.alpha - spent)
        spent += level
        if look.verdict is not None or look.series.last[look.waiting].all():
            break
    return _decision(look, settings, question)


def decide_together(
    asked: Mapping[str, tuple[pd.DataFrame, Question]], *, alpha: float = 0.05
) -> dict[str, Decision]:
    r"""Decide the questions of one claim under one error budget, by Holm's procedure.

    Of m questions each has α/m. Each that is held or refuted hands its share on: the others are
    looked at again at α over the number that is left, until none is decided anew.

    Args:
        asked: by name, the runs and the question, whose own alpha is not used.
        alpha: the budget of them all.

    Returns:
        By name, the decision.

    Raises:
        ValueError: as `decide`.

    Example:
        >>> runs = pd.DataFrame(
        ...     {"setting": "a", "seed": range(5), "value": [3.0, 2, 4, 3, 3], "patient_se": 0.0}
        ... )
        >>> better = Question(form="superiority", margin=0.0, cap=5)
        >>> same = Question(form="superiority", margin=3.0, cap=5)
        >>> answers = decide_together({"x": (runs, better), "y": (runs, same)})
        >>> {name: answer.verdict for name, answer in answers.items()}
        {'x': 'held', 'y': 'at the margin'}
    """
    decided: dict[str, Decision] = {}
    left = dict(asked)
    while left:
        level = alpha / len(left)
        now = {
            name: decide(runs, replace(question, alpha=level))
            for name, (runs, question) in left.items()
        }
        new = [name for name, one in now.items() if one.verdict in ("held", "refuted")]
        decided |= now
        if not new:
            break
        left = {name: one for name, one in left.items() if name not in new}
    return {name: decided[name] for name in asked}


def _grid(
    runs: pd.DataFrame, question: Question
) -> tuple[Float[np.ndarray, "settings n"], Float[np.ndarray, "settings n"], list[str]]:
    """Values and patient errors, a row per setting, a column per seed in their order."""
    missing = [name for name in _COLUMNS if name not in runs]
    if missing:
        raise ValueError(f"runs has no column {missing[0]!r}. It needs {', '.join(_COLUMNS)}")
    if runs.empty:
        raise ValueError("runs has no row. Pass one per setting and seed")
    rows, settings = pd.factorize(runs["setting"], sort=True)
    columns, seeds = pd.factorize(runs["seed"], sort=True)
    grid = np.full((2, len(settings), len(seeds)), np.nan)
    for k, name in enumerate(("value", "patient_se")):
        column = runs[name].to_numpy(float)
        wrong = np.flatnonzero(~np.isfinite(column))
        if len(wrong):
            hint = (
                "Pass 0 where the truth is known and patients are not sampled"
                if name == "patient_se"
                else "Run it again, or leave its seed out in every setting"
            )
            raise ValueError(
                f"setting {settings[rows[wrong[0]]]!r}, seed {seeds[columns[wrong[0]]]}: "
                f"{name} is {column[wrong[0]]}. {hint}"
            )
        grid[k, rows, columns] = column
    counts = np.zeros(grid.shape[1:], int)
    np.add.at(counts, (rows, columns), 1)
    for wrong_count in (counts > 1, counts == 0):
        if wrong_count.any():
            row, column = np.argwhere(wrong_count)[0]
            setting, seed = settings[row], seeds[column]
            if counts[row, column]:
                raise ValueError(f"setting {setting!r} has seed {seed} twice. Keep one of its runs")
            raise ValueError(f"setting {setting!r} lacks seed {seed} of the others. Run it")
    values, errors = grid
    if (errors < 0).any():
        raise ValueError("a patient_se is below 0. Pass standard errors")
    if question.form == "probability" and not np.isin(values, (0, 1)).all():
        other = values[~np.isin(values, (0, 1))][0]
        raise ValueError(
            f"value is {other:g}, and a question of probability counts runs. "
            "Pass 1 where a run did it, 0 where not"
        )
    return values, errors, [str(setting) for setting in settings]


class _Intervals:
    """Means of series of runs, and their intervals at any level."""

    def __init__(
        self,
        values: Float[np.ndarray, "settings n"],
        errors: Float[np.ndarray, "settings n"],
        *,
        probability: bool,
    ) -> None:
        self.n = values.shape[1]
        self.mean = values.mean(axis=1)
        self.of_runs = values.std(axis=1, ddof=1) / math.sqrt(self.n)
        self.of_patients = np.sqrt((errors**2).mean(axis=1))
        self.probability = probability
        if probability:
            self.of_patients = np.zeros_like(self.mean)
        #: more runs would not help
        self.last = (self.of_patients > 0) & (self.of_runs < self.of_patients / 2)

    def at(
        self, level: Float[np.ndarray, " settings"]
    ) -> tuple[Float[np.ndarray, " settings"], Float[np.ndarray, " settings"]]:
        """Both ends of each interval, at a level per series."""
        if self.probability:
            ones, zeros = self.mean * self.n, self.n - self.mean * self.n
            low = special.betaincinv(np.maximum(ones, 1e-9), zeros + 1, level / 2)
            high = special.betainccinv(ones + 1, np.maximum(zeros, 1e-9), level / 2)
            return np.where(ones <= 0, 0.0, low), np.where(zeros <= 0, 1.0, high)
        runs, patients = self.of_runs**2, self.of_patients**2
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = (runs + patients) ** 2 / (runs**2 / (self.n - 1))
        # runs that agree to the last bit leave the patients' error alone
        normal = (runs == 0) | ~np.isfinite(freedom)
        quantile = special.stdtrit(np.where(normal, 1.0, freedom), 1 - level / 2)
        quantile = np.where(normal, -special.ndtri(level / 2), quantile)
        half = quantile * np.sqrt(runs + patients)
        return self.mean - half, self.mean + half

    def seeds_needed(self, question: Question) -> list[int | None]:
        """Seeds after which each would be decided with a probability of .8; None: no number."""
        ends = [end for end in question.region if math.isfinite(end)]
        distance = np.min([np.abs(self.mean - end) for end in ends], axis=0)
        # the last look has at least half of alpha
        factor = special.ndtri(POWER) - special.ndtri(question.alpha / 4)
        room = (distance / factor) ** 2 - self.of_patients**2
        variance = self.of_runs**2 * self.n
        return [
            math.ceil(max(v / r, self.n + 1)) if r > 0 and v / r < 1e6 else None
            for v, r in zip(variance, room, strict=True)
        ]


class _Look(NamedTuple):
    """What one look at the runs says."""

    verdict: Literal["held", "refuted", "depends"] | None
    shown: tuple[float, float, float]  # the effect that decides, and its interval
    each: _Intervals  # a series per setting
    ends: tuple[np.ndarray, np.ndarray, np.ndarray]  # of each at alpha/S: low, high, word
    series: _Intervals  # what is asked of: each setting, or their average
    waiting: np.ndarray  # which of these are not decided


def _look(
    values: Float[np.ndarray, "settings n"],
    errors: Float[np.ndarray, "settings n"],
    question: Question,
    level: float,
    rest: float,
) -> _Look:
    """Look once: `level` of the error is spent, or all the rest where it is the last look."""
    probability = question.form == "probability"
    each = _Intervals(values, errors, probability=probability)
    levels = np.where(each.last, rest, level)
    shared = _words(each, levels / len(values), question)
    verdict: Literal["held", "refuted", "depends"] | None = None
    if question.quantifier == "average":
        series = _Intervals(
            values.mean(axis=0, keepdims=True),
            errors.mean(axis=0, keepdims=True),
            probability=probability,
        )
        low, high, word = _words(series, np.where(series.last, rest, level), question)
        if {HELD, REFUTED} <= set(shared[2]):
            verdict = "depends"
        elif word[0] != OPEN:
            verdict = "held" if word[0] == HELD else "refuted"
        shown = float(series.mean[0]), float(low[0]), float(high[0])
        return _Look(verdict, shown, each, shared, series, word == OPEN)
    low, high, word = _words(each, levels, question)
    every = question.quantifier == "every"
    one, all_of = (REFUTED, HELD) if every else (HELD, REFUTED)
    at = np.flatnonzero(shared[2] == one)
    decided = one if len(at) else all_of if (word == all_of).all() else OPEN
    if decided == one:
        low, high, _ = shared
    else:
        at = np.arange(len(values))
    first = at[_extreme(each.mean[at], question, worst=every)]
    shown = float(each.mean[first]), float(low[first]), float(high[first])
    if decided != OPEN:
        verdict = "held" if decided == HELD else "refuted"
    return _Look(verdict, shown, each, shared, each, word == OPEN)


def _words(
    series: _Intervals, level: Float[np.ndarray, " k"], question: Question
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interval of each series, and what it decides."""
    low, high = series.at(level)
    start, end = question.region
    word = np.where((high <= start) | (low >= end), REFUTED, OPEN)
    return low, high, np.where((low > start) & (high < end), HELD, word)


def _decision(look: _Look, settings: list[str], question: Question) -> Decision:
    """Put a look into words."""
    low, high, word = look.ends
    each, n_settings = look.each, len(settings)
    table = pd.DataFrame(
        {"setting": settings, "effect": each.mean, "low": low, "high": high, "verdict": word}
    )
    needed = None
    if look.verdict is None:
        each_needs = look.series.seeds_needed(question)
        needs = [x for x, open_ in zip(each_needs, look.waiting, strict=True) if open_]
        needed = None if None in needs else max(x for x in needs if x is not None)
        verdict, why = _not_decided(look, question, needed)
    else:
        verdict, why = look.verdict, _reason(look.verdict, look.shown, table, question)
    spread = float(each.mean.std(ddof=1)) if n_settings > 1 else math.nan
    new = (math.nan, math.nan)
    if n_settings > 2:
        half = special.stdtrit(n_settings - 1, 0.975) * spread * math.sqrt(1 + 1 / n_settings)
        new = (float(each.mean.mean() - half), float(each.mean.mean() + half))
    effect, lower, upper = look.shown
    return Decision(
        verdict=verdict,
        why=why,
        effect=effect,
        low=lower,
        high=upper,
        seeds=each.n,
        seeds_needed=needed,
        detectable=_detectable(float(look.series.of_patients.max()), question),
        settings=table,
        spread=spread,
        new_setting=new,
    )


def _extreme(mean: Float[np.ndarray, " k"], question: Question, *, worst: bool) -> int:
    """The setting that is the farthest from holding, or the nearest to it."""
    merit = {"bound": -mean, "equivalence": -np.abs(mean)}.get(question.form, mean)
    return int(merit.argmin() if worst else merit.argmax())


def _not_decided(look: _Look, question: Question, needed: int | None) -> tuple[Verdict, str]:
    """The word for what is open, and what would change it."""
    effect, low, high = look.shown
    n, half = look.series.n, (high - low) / 2
    ends = " and ".join(f"{end:g}" for end in question.region if low <= end <= high)
    holds = f"the interval holds {ends}" if ends else "settings are open beside the worst"
    patients = bool(look.series.last[look.waiting].all())
    if n < question.cap and not patients:
        more = next(after for after in question.looks if after > n) - n
        return "too few runs", f"after {n} of at most {question.cap} seeds {holds}. Run {more} more"
    if half <= question.enough:
        return "at the margin", f"after {n} seeds {holds}, and its half-width is {half:.2g}"
    if patients:
        least = _detectable(float(look.series.of_patients.max()), question)
        return (
            "too few patients",
            f"{holds}, and more runs would not narrow it: these patients could have shown an "
            f"effect of {least:.2g}, and it is {effect:.2g}",
        )
    more_runs = f"some {needed} would decide" if needed else "no number of seeds would decide"
    return "too few runs", f"after all {n} seeds {holds}: {more_runs}"


def _reason(
    verdict: Verdict,
    shown: tuple[float, float, float],
    table: pd.DataFrame,
    question: Question,
) -> str:
    """Why a question is held, refuted, or depends."""
    _, low, high = shown
    by = {word: table["setting"][table["verdict"] == word].tolist() for word in ("held", "refuted")}
    if verdict == "depends":
        return f"held in {', '.join(by['held'])}; refuted in {', '.join(by['refuted'])}"
    several = len(table) > 1
    if verdict == "held":
        what = f"the effect lies in [{low:.3g}, {high:.3g}]"
        where = {"every": "in every setting", "average": "on average", "some": "in one setting"}
        return what + (f" {where[question.quantifier]} at least" * several)
    margin = question.margin
    if question.form == "superiority" and -margin <= low:
        what = "no difference that matters"
    elif question.form in ("superiority", "non-inferiority") and high < 0:
        what = "reversed"
    elif question.form == "superiority":
        what = "no gain beyond the margin"
    else:
        what = f"the effect lies in [{low:.3g}, {high:.3g}]"
    if several and question.quantifier == "every":
        what += f", in {', '.join(by['refuted']) or 'every setting'}"
        if by["held"]:
            what += f"; held in {', '.join(by['held'])}"
    return what


def _detectable(patients: float, question: Question) -> float:
    if patients == 0:
        return math.nan
    reach = float(special.ndtri(POWER) - special.ndtri(question.alpha / 2)) * patients
    start, end = question.region
    return end - reach if math.isfinite(end) else start + reach


def _not_begun(
    values: Float[np.ndarray, "settings n"], settings: list[str], question: Question
) -> Decision:
    """Fewer seeds than the first look has."""
    n, first = values.shape[1], question.looks[0]
    mean = values.mean(axis=1)
    table = pd.DataFrame({"setting": settings, "effect": mean})
    table[["low", "high"]] = math.nan
    table["verdict"] = OPEN
    return Decision(
        verdict="too few runs",
        why=f"{n} of the {first} seeds of the first look. Run {first - n} more",
        effect=float(mean.mean()),
        low=math.nan,
        high=math.nan,
        seeds=n,
        seeds_needed=first,
        detectable=math.nan,
        settings=table,
        spread=float(mean.std(ddof=1)) if len(mean) > 1 else math.nan,
        new_setting=(math.nan, math.nan),
    )
