"""What an audit can see in the data alone: patients, equal rows, times, masks."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import binom  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score
from torch import Tensor

from dfdlib.data import Cohort, Ragged
from dfdlib.evaluation.bootstrap import MIN_PATIENTS

Verdict = Literal["ok", "leak", "look", "not checked"]

_TIMES = {
    "min": "time of the first entry",
    "max": "time of the last entry",
    "mean": "mean time of entries",
}
_LEVELS = 20  # a column of more values is a number, and has no levels
_FEW = f"fewer than {MIN_PATIENTS} patients have"


class Finding(NamedTuple):
    """One line of the audit."""

    check: str
    verdict: Verdict
    note: str
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan


def patients(cohort: Cohort, others: tuple[Cohort, ...]) -> Finding:
    """Count the patients who stand in two parts."""
    parts = (cohort, *others)
    if not all(part._ids_given for part in parts):
        return Finding(
            "patients", "look", "rows stand in for patients: pass groups={'patient': ids}"
        )
    if not others:
        return Finding("patients", "ok", "cut by patient here", 0)
    ids = [pd.Index(part.groups["patient"]).unique() for part in parts]
    shared = {p for a, b in combinations(ids, 2) for p in a.intersection(b)}
    note = f"in more than one of {len(parts)} parts" if shared else "each in one part"
    return Finding("patients", "leak" if shared else "ok", note, len(shared))


def equal_rows(train: Cohort, test: Cohort) -> Finding:
    """Count the rows to test on that training holds too, under whichever name."""
    seen = set(fingerprints(train).tolist())
    twice = sum(row in seen for row in fingerprints(test).tolist())
    note = "of the rows to test on are equal to one to train on"
    return Finding("equal rows", "look" if twice else "ok", note, twice)


def fingerprints(cohort: Cohort) -> np.ndarray:
    """A number per row that is equal where all values are; rows with nothing are left out."""
    totals = []
    for batch in cohort.batches(4096):
        total = np.zeros(len(batch), np.uint64)
        for place, values in enumerate(batch.x.values()):
            owner = np.arange(len(batch))
            if isinstance(values, Ragged):
                lengths = values.lengths.cpu().numpy()
                owner, cells = np.repeat(owner, lengths), values.values
                rank = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            else:
                cells, rank = values, np.zeros_like(owner)
            if len(owner):
                np.add.at(total, owner, _hash(cells.reshape(len(owner), -1), rank, place))
        seen = torch.cat([batch.observed, *batch.x_observed.values()], dim=1).cpu().numpy()
        total += pd.util.hash_pandas_object(pd.DataFrame(seen), index=False).to_numpy()
        totals.append(total[seen.any(axis=1)])
    return np.concatenate(totals)


def _hash(cells: Tensor, rank: np.ndarray, place: int) -> np.ndarray:
    """A number for each line of a table: of its cells, its rank, and the table's place."""
    values = cells.cpu().numpy()
    # multiplying by an odd number loses nothing
    odd = 2 * np.arange(values.shape[1], dtype=np.uint64) + np.uint64(1)
    line = pd.util.hash_array(values.ravel()).reshape(values.shape) * odd
    # a hash of 0 is 0, and an entry that is 0 must not be as none
    mixed = line.sum(axis=1, dtype=np.uint64) + pd.util.hash_array(rank + 1)
    return pd.util.hash_array(mixed) * np.uint64(2 * place + 1)


def after_the_cut(parts: tuple[Cohort, ...], cut: int | float | None) -> Iterator[Finding]:
    """Count what each series holds after the moment of prediction."""
    for name, kind in parts[0].schema.kinds.items():
        check = f"after the cut: {name}"
        if kind != "series" or cut is None:
            why = "cut= is not given" if kind == "series" else f"{kind} carries no time"
            yield Finding(check, "not checked", why)
            continue
        late, latest = 0, -np.inf
        for part in parts:
            values = part.x[name]
            assert isinstance(values, Ragged)
            times = values.values[:, 0].cpu().numpy()
            late += int((times > np.float32(cut)).sum())
            latest = max(latest, float(times.max(initial=-np.inf)))
        note = f"entries after {cut:g}; the latest is at {latest:g}"
        yield Finding(check, "leak" if late else "ok", note, late)


class Sign(NamedTuple):
    """One thing that may tell the outcome: a number of each row, or the rows that have it."""

    about: tuple[str, object]  # signs about one thing are said once
    name: str
    values: np.ndarray | None = None  # NaN where there is none
    rows: np.ndarray | None = None


def single_feature(parts: tuple[Cohort, ...], flat: tuple[Cohort, ...], too_good: float) -> Finding:
    """Look for one thing that tells the outcome, or that only one class has."""
    y = np.concatenate([part.y.cpu().numpy() for part in parts if part.y is not None])
    classes, label = np.unique(y, return_inverse=True)
    patient = pd.factorize(np.concatenate([part.groups["patient"] for part in parts]))[0]
    columns = pd.concat([part.to_frame() for part in flat], ignore_index=True)
    marks = list(_marks(parts, columns, patient))
    best, best_name = 0.5, "none"
    notes: dict[tuple[str, object], tuple[str, float]] = {}
    for sign in (*_numbers(parts, columns, patient), *marks):
        score = _alone(sign, label, len(classes))
        if score > best:
            best, best_name = score, sign.name
        if score >= too_good and score > notes.get(sign.about, ("", 0.0))[1]:
            notes[sign.about] = (sign.name, score)
    if notes:
        names = [name for name, _ in sorted(notes.values(), key=lambda one: -one[1])]
        return Finding("single feature", "leak", _listed(names), best)
    verdict: Verdict = "ok"
    for sign in marks:
        for grade, which, verb in _only_of(sign, label, patient, too_good, 0.01 / len(marks)):
            verdict = "leak" if "leak" in (verdict, grade) else grade
            note = f"{sign.name}: nearly all who {verb} it are of class {classes[which]:g}"
            notes.setdefault(sign.about, (note, 0.0))
    if notes:
        return Finding("single feature", verdict, _listed([n for n, _ in notes.values()]), best)
    if not columns.shape[1]:
        return Finding("single feature", "not checked", "for columns, codes and series only")
    return Finding("single feature", "ok", best_name, best)


def _listed(names: list[str]) -> str:
    more = f"; and {len(names) - 5} more" if len(names) > 5 else ""
    return "; ".join(names[:5]) + more


def _alone(sign: Sign, label: np.ndarray, n_classes: int) -> float:
    """AUROC of one thing, whichever way round, for the class that it tells best."""
    scores = [0.5]
    for k in [1] if n_classes == 2 else range(n_classes):
        event = label == k
        if sign.rows is not None:
            held = np.bincount(event[sign.rows], minlength=2)
            score = 0.5 + (held[1] / event.sum() - held[0] / (~event).sum()) / 2
        else:
            assert sign.values is not None  # one of both is given
            known = ~np.isnan(sign.values)
            if event[known].all() or not event[known].any():
                continue
            score = float(roc_auc_score(event[known], sign.values[known]))
        scores += [score, 1 - score]
    return max(scores)


def _only_of(
    sign: Sign, label: np.ndarray, patient: np.ndarray, too_good: float, alpha: float
) -> Iterator[tuple[Verdict, int, str]]:
    """The class that nearly all rows are of that have something, or that lack it.

    There have to be `MIN_PATIENTS` of them. Of a class of at most half of all rows a share of
    `too_good` is asked for; of a larger one more, as chance alone gives many of it.
    """
    assert sign.rows is not None  # only marks are had or lacked
    total = np.bincount(label)
    held = np.bincount(label[sign.rows], minlength=len(total))
    for counts, verb in ((held, "have"), (total - held, "lack")):
        k = int(counts.argmax())
        base, share = total[k] / len(label), counts[k] / max(1, counts.sum())
        if counts.sum() < MIN_PATIENTS or (
            1 - share > (1 - too_good) * min(1, 2 * (1 - base)) + 1e-12
        ):
            continue
        has = np.zeros(len(label), dtype=bool)
        has[sign.rows] = True
        n = len(np.unique(patient[has if verb == "have" else ~has]))
        if n >= MIN_PATIENTS and binom.sf(np.floor(share * n + 1e-9) - 1, n, base) <= alpha:
            half = counts[k] >= total[k] / 2 and base <= 0.5
            yield "leak" if half else "look", k, verb


def _numbers(
    parts: tuple[Cohort, ...], columns: pd.DataFrame, patient: np.ndarray
) -> Iterator[Sign]:
    """Columns, series and codes as columns, and when and how often something was recorded."""
    kinds = parts[0].schema.kinds
    for column, cells in columns.items():
        values = cells.to_numpy(float)
        name, _, feature = str(column).partition(".")
        flag, _, how = feature.rpartition(" ")
        if kinds[name] not in ("codes", "series"):
            yield Sign((name, feature), str(column), values)
        elif flag:
            word = _word(parts, name, int(flag), len(np.unique(patient[values > 0])))
            description = word if kinds[name] == "codes" else f"{word} {how}"
            yield Sign((name, int(flag)), f"{name}: {description}", values)
    for column, cells in pd.concat([times(p) for p in parts], ignore_index=True).items():
        yield Sign((str(column), "time"), str(column), cells.to_numpy(float))


def _marks(parts: tuple[Cohort, ...], columns: pd.DataFrame, patient: np.ndarray) -> Iterator[Sign]:
    """What a row has or has not: a value at all, a level, a code, an item of a series."""
    kinds = parts[0].schema.kinds
    for column, seen in pd.concat([masks(p) for p in parts], ignore_index=True).items():
        name, _, feature = str(column).partition(".")
        if not seen.all():
            rows = np.flatnonzero(seen)
            yield Sign((name, feature), f"whether {column} is there", rows=rows)
    for column, values in columns.items():
        name, _, feature = str(column).partition(".")
        levels = values.dropna().unique()
        if kinds[name] in ("codes", "series") or not 2 <= len(levels) <= _LEVELS:
            continue
        for level in levels:
            rows = np.flatnonzero(values == level)
            few = len(np.unique(patient[rows])) < MIN_PATIENTS
            description = f": a level that {_FEW}" if few else f" = {level:g}"
            yield Sign((name, feature), f"{column}{description}", rows=rows)
    starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
    for name, kind in kinds.items():
        if kind not in ("codes", "series"):
            continue
        held = pd.concat([_held(p, name, first) for p, first in zip(parts, starts, strict=False)])
        for word, rows in held.groupby("word")["row"]:
            holders = len(np.unique(patient[rows]))
            description = f"{name}: {_word(parts, name, int(word), holders)}"
            yield Sign((name, word), description, rows=rows.to_numpy())


def _held(part: Cohort, name: str, first: int) -> pd.DataFrame:
    """Which row has which code, or which item of a series; rows are counted from `first`."""
    values = part.x[name]
    assert isinstance(values, Ragged)
    row = first + np.repeat(np.arange(len(part)), values.lengths.cpu().numpy())
    entries = values.values.cpu().numpy()
    word = (entries if entries.ndim == 1 else entries[:, 2]).astype(np.int64)
    return pd.DataFrame({"row": row, "word": word}).drop_duplicates()


def _word(parts: tuple[Cohort, ...], name: str, number: int, holders: int) -> str:
    """What a code or an item is called; a code of few patients could tell who they are."""
    codes = parts[0].schema.kinds[name] == "codes"
    if codes and holders < MIN_PATIENTS:
        return f"a code that {_FEW}"
    for part in parts:
        values = part.x[name]
        if isinstance(values, Ragged) and values.words and number in values.words:
            return values.words[number]
    return f"{'code' if codes else 'item'} {number}"


def masks(cohort: Cohort) -> pd.DataFrame:
    """What was observed, and no value of it."""
    table = {name: cohort.observed[:, j] for j, name in enumerate(cohort.names)}
    for name, mask in cohort.x_observed.items():
        features = cohort.schema.features[name]
        table |= {f"{name}.{f}": column for f, column in zip(features, mask.T, strict=True)}
    return pd.DataFrame(
        {name: column.cpu().numpy().astype(float) for name, column in table.items()}
    )


def times(cohort: Cohort) -> pd.DataFrame:
    """How many entries series and codes have, and when, and nothing of what they say."""
    table: dict[str, Any] = {}
    for name, values in cohort.x.items():
        if not isinstance(values, Ragged):
            continue
        lengths = values.lengths.cpu().numpy()
        table[f"{name}: number of entries"] = lengths.astype(float)
        if cohort.schema.kinds[name] == "series":
            time = pd.Series(values.values[:, 0].cpu().numpy())
            by_row = time.groupby(np.repeat(np.arange(len(cohort)), lengths))
            for how, summary in _TIMES.items():
                table[f"{name}: {summary}"] = by_row.agg(how).reindex(range(len(cohort))).to_numpy()
    return pd.DataFrame(table, index=range(len(cohort)))
