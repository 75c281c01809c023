"""An audit that looks for leaks: does anything tell the outcome that should not be known?"""

from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dfdlib.data import Cohort
from dfdlib.data.flatten import flatten
from dfdlib.evaluation.bootstrap import WeightedMetrics, bootstrap, estimates
from dfdlib.evaluation.leak_checks import (
    Finding,
    Verdict,
    after_the_cut,
    equal_rows,
    masks,
    patients,
    single_feature,
    times,
)
from dfdlib.evaluation.predict import FitPredict, checked, refuse_no_cohort
from dfdlib.evaluation.tabular import tabular
from dfdlib.models.encoders import Fitted
from dfdlib.models.method import ForgetsRare


def audit_leaks(
    cohort: Cohort,
    *others: Cohort,
    fit_predict: FitPredict | None = None,
    model: nn.Module | None = None,
    cut: int | float | None = None,
    n_shuffles: int = 20,
    n_boot: int = 500,
    too_good: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Look for leaks in a cohort, in how it was cut, and in a model that was fitted on it.

    Checks:
        - patients: is somebody in two parts?
        - equal rows: is a row to test on equal, in every value, to one to train on?
        - after the cut: does a series hold a time after `cut`? Other kinds carry no time: whoever
          made the cohort has to show that (the loaders' tests move events past the cut).
        - single feature: does one thing alone tell the outcome with an AUROC of `too_good`? A
          thing is a column, a level of it, that it is missing, a code, an item of a series, or when
          and how often something was recorded. Or are nearly all who have a code, a level or an
          item (or who lack it) of one class, be they few? That is a leak where it tells half of a
          class of at most half of the rows, else to be looked at. The note names what was found, by
          its word where codes have words (`Ragged.words`, as the loaders and `from_tables` make
          them); what fewer than 10 patients have is not named.
        - shuffled labels: labels are dealt out anew among patients, and the model is fitted again.
          The AUROC must be 0.5: the mean over shuffles stands with three standard errors.
        - features, mask only, times only: the AUROC of the model, of knowing only what was
          observed, and of knowing only when and how often, with 95 % intervals by patient. The last
          two are no leaks, but a model that is no better than them has read no value.
        - scalers: are the scalers and vocabularies of `model` those of the training part?

    Args:
        cohort: with labels, to be cut by patient here; or the training part.
        *others: the other parts, if it was cut already. The last one is tested on.
        fit_predict: `fit_predict(train, test)` gives probabilities, as `trainer` and `tabular` make
            it; by default gradient boosting, with series and codes as columns.
        model: a fitted model with encoders.
        cut: when the prediction is made, in the times of the series.
        n_shuffles: how many times labels are shuffled, at least 3.
        n_boot: bootstrap replicates.
        too_good: what one feature alone should not reach.
        seed: of the cut, the shuffles and the bootstrap.

    Returns:
        One row per check: check, verdict (ok, leak, look, not checked), note, value, low, high.

    Raises:
        TypeError: a part is no cohort.
        ValueError: no labels, several labels, or fewer than 3 shuffles.

    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 400)
    >>> cohort = Cohort(x={"labs": pd.DataFrame({"sodium": rng.normal(size=400), "died": y})}, y=y)
    >>> found = audit_leaks(cohort, n_shuffles=3, n_boot=50).set_index("check")
    >>> found.loc["single feature", ["verdict", "note"]].tolist()
    ['leak', 'labs.died']
    """
    for part in (cohort, *others):
        refuse_no_cohort(part)
    if cohort.y is None or cohort.task == "multilabel":
        what = "no labels" if cohort.y is None else "several labels"
        raise ValueError(f"the cohort has {what}. Pass one with a label per row: y=y[:, 0]")
    if n_shuffles < 3:
        raise ValueError(f"n_shuffles is {n_shuffles}: an interval needs 3 or more, such as 20")
    parts = (cohort, *others) if others else cohort.split((0.7, 0.3), seed=seed)
    findings = [patients(cohort, others), equal_rows(parts[0], parts[-1])]
    findings += after_the_cut(parts, cut)
    train, test = (_labelled(part) for part in (parts[0], parts[-1]))
    flat = flatten(train, test)
    findings.append(single_feature((train, test), flat, too_good))
    boosting = tabular("gradient boosting", seed=seed)
    predict, inputs = (boosting, flat) if fit_predict is None else (fit_predict, (train, test))
    findings.append(_shuffled(predict, inputs, n_shuffles, seed))
    findings.append(_score("features", predict, inputs, n_boot, seed))
    for name, view in (("mask only", masks), ("times only", times)):
        tables = tuple(view(part) for part in (train, test))
        if tables[0].shape[1] == 0 or not (tables[0].nunique() > 1).any():
            note = "everything is always observed" if view is masks else "no series, no codes"
            findings.append(Finding(name, "not checked", note))
            continue
        seen = tuple(_with_table(part, x) for part, x in zip((train, test), tables, strict=True))
        findings.append(_score(name, boosting, seen, n_boot, seed))
    findings.append(_scalers(model, parts[0]))
    return pd.DataFrame(findings)


def _shuffled(
    predict: FitPredict, parts: tuple[Cohort, ...], n_shuffles: int, seed: int
) -> Finding:
    y = np.concatenate([_y(part) for part in parts])
    patient = np.concatenate([np.asarray(part.groups["patient"], object) for part in parts])
    code = pd.factorize(patient)[0]
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(n_shuffles):
        dealt = _dealt(y, code, rng)
        cuts = np.cumsum([len(part) for part in parts])[:-1]
        again = [
            part._with(y=torch.from_numpy(labels.astype(np.float32)).to(part.device))
            for part, labels in zip(parts, np.split(dealt, cuts), strict=True)
        ]
        metrics, _ = _metrics(predict, again[0], again[-1])
        scores.append(metrics.values()["auroc"])
    score = np.array(scores)[~np.isnan(scores)]
    if len(score) < 3:
        return Finding("shuffled labels", "not checked", "too few shuffles held both classes")
    mean = score.mean()
    half = 3 * score.std(ddof=1) / np.sqrt(len(score))
    verdict: Verdict = "ok" if abs(mean - 0.5) <= half else "leak"
    note = f"mean AUROC of {len(score)} shuffles, ± 3 standard errors: must hold 0.5"
    return Finding("shuffled labels", verdict, note, mean, mean - half, mean + half)


def _dealt(y: np.ndarray, code: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give each patient the labels of another one, whole: rows of one patient stay alike."""
    order = np.argsort(code, kind="stable")
    count = np.bincount(code)
    first = np.cumsum(count) - count
    rank = np.empty(len(y), np.int64)
    rank[order] = np.arange(len(y)) - np.repeat(first, count)
    giver = rng.permutation(len(count))[code]
    return y[order][first[giver] + rank % count[giver]]


def _score(
    check: str, predict: FitPredict, parts: tuple[Cohort, ...], n_boot: int, seed: int
) -> Finding:
    metrics, codes = _metrics(predict, parts[0], parts[-1])
    n_patients = int(codes.max()) + 1
    draws = bootstrap([(metrics, codes)], n_patients=n_patients, n_boot=n_boot, seed=seed)
    value, low, high, why = estimates(metrics, codes, draws[0])["auroc"]
    if np.isnan(value):
        return Finding(check, "not checked", why)
    if check == "features":
        note = "AUROC of the model itself" + (f" ({why})" if np.isnan(low) else "")
        return Finding(check, "ok", note, value, low, high)
    if np.ptp(metrics.scores) == 0 and not metrics.few(codes):
        return Finding(check, "ok", "tells nothing: it says the same of everybody", value)
    if np.isnan(low):
        return Finding(check, "not checked", why or "no interval: pass n_boot=500", value)
    tells = low > 0.5
    note = "tells the outcome before any value is read" if tells else "tells nothing for sure"
    return Finding(check, "look" if tells else "ok", note, value, low, high)


def _metrics(
    predict: FitPredict, train: Cohort, test: Cohort
) -> tuple[WeightedMetrics, np.ndarray]:
    task = test.task
    assert task is not None  # there are labels
    p = checked(predict(train, test), n=len(test), k=train.schema.n_classes, task=task)
    return WeightedMetrics(_y(test), p, task=task), pd.factorize(test.groups["patient"])[0]


def _with_table(cohort: Cohort, table: pd.DataFrame) -> Cohort:
    groups = {"patient": cohort.groups["patient"]}
    filled = table.assign(always=0.0)  # so that nobody is without anything
    return Cohort(x={"known": filled}, y=_y(cohort), task=cohort.task, groups=groups)


def _scalers(model: nn.Module | None, train: Cohort) -> Finding:
    encoders = getattr(model, "encoders", None)
    if not isinstance(encoders, nn.ModuleDict):
        return Finding("scalers", "not checked", "model= is not given, or has no encoders")
    other = [
        name
        for name, encoder in encoders.items()
        if name in train.x and isinstance(encoder, Fitted) and not _refits(encoder, train, name)
    ]
    whose = "other than those of training: " if other else "those of training"
    note = whose + ", ".join(other)
    return Finding("scalers", "leak" if other else "ok", note, len(other))


def _refits(encoder: Any, train: Cohort, name: str) -> bool:
    again = deepcopy(encoder).cpu()
    flags = train.x_observed.get(name)
    again.fit(train.x[name].to("cpu"), None if flags is None else flags.cpu())
    if _alike(encoder, again):
        return True
    for module in again.modules():  # a model that was saved has forgotten what is rare
        if isinstance(module, ForgetsRare):
            module.forget_rare()
    return _alike(encoder, again)


def _alike(encoder: nn.Module, again: nn.Module) -> bool:
    before = dict(encoder.named_buffers())
    return all(
        value.shape == before[key].shape and torch.allclose(value, before[key].cpu())
        for key, value in again.named_buffers()
    )


def _labelled(part: Cohort) -> Cohort:
    return part.select(~np.isnan(_y(part)))


def _y(cohort: Cohort) -> np.ndarray:
    assert cohort.y is not None  # checked at the start
    return cohort.y.cpu().numpy().astype(float)
