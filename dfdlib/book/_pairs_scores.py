"""AUROC of pairs by finding and view, with paired differences and nothing on few patients."""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from dfdlib._bootstrap import METRICS, WeightedMetrics, bootstrap, interval
from dfdlib.book._few import FEW, hide_few
from dfdlib.data.mimic_cxr import LABELS

MEAN = "mean of findings"
_AUROC = METRICS.index("auroc")

# where a finding is hidden: nothing adds up over findings, so these are what the page shows
_DIGITS = 3

# of a method and per cent of the labels, by view: a column per finding
Scores = dict[tuple[str, int], dict[str, Float[np.ndarray, "n k"]]]


def scored(
    found: Scores, y: Float[np.ndarray, "n k"], patient: np.ndarray, *, n_boot: int, seed: int
) -> pd.DataFrame:
    """AUROC of each method, fraction, view and finding; their means; and what is on few, hidden.

    Args:
        found: probabilities of the test pairs; the first method is the reference.
        y: their labels, in the order of `LABELS`.
        patient: of each pair.
        n_boot: bootstrap replicates, of patients.
        seed: of the bootstrap.

    Returns:
        A row for each, with `value`, `low`, `high`; `difference` is the reference's with as many
        labels, minus it; `fewest` the reference's with the smallest fraction, minus it. `n` and
        `n_pos` count patients; `findings` those in a mean.
    """
    views = list(next(iter(found.values())))
    codes, ids = pd.factorize(patient)
    counts = _counts(y, codes, len(ids))
    enough = ~hide_few(counts.assign(value=0.0, low=0.0, high=0.0))["value"].isna()
    told = (enough & (counts["n_pos"] > 0) & (counts["n_pos"] < counts["n"])).to_numpy()
    once, draws = {}, {}
    for asked, by_view in found.items():
        sets = [
            (WeightedMetrics(y[:, [k]], by_view[view][:, [k]], task="multilabel"), codes)
            for view in views
            for k in range(y.shape[1])
        ]
        shape = len(views), y.shape[1]
        ones = np.ones((1, len(y)))
        values = np.stack([metrics.replicates(ones)[0, _AUROC] for metrics, _ in sets])
        drawn = bootstrap(sets, n_patients=len(ids), n_boot=n_boot, seed=seed)[..., _AUROC]
        once[asked] = _with_means(values.reshape(*shape, 1), told)[..., 0]
        draws[asked] = _with_means(drawn.reshape(*shape, n_boot), told)
    first, fewest = next(iter(found))[0], min(share for _, share in found)
    whole = pd.DataFrame({"n": [len(ids)], "n_pos": [pd.NA]}, index=[MEAN])
    counts = pd.concat([counts.astype({"n_pos": object}), whole])
    lines = []
    for name, share in found:
        for at in np.ndindex(once[name, share].shape):
            line = {"method": name, "labels": share, "view": (*views, "mean")[at[0]]}
            line |= {"finding": counts.index[at[1]], **counts.iloc[at[1]]}
            value, drawn = once[name, share][at], draws[name, share][at]
            line |= _estimate("value", "", float(value), drawn)
            for word, other in (("difference", (first, share)), ("fewest", (first, fewest))):
                if other != (name, share):
                    gap, apart = once[other][at] - value, draws[other][at] - drawn
                    line |= _estimate(word, f"{word}_", float(gap), apart)
            lines.append(line)
    return _hidden(pd.DataFrame(lines).assign(findings=int(told.sum())))


def _counts(
    y: Float[np.ndarray, "n k"], codes: Int[np.ndarray, " n"], n_patients: int
) -> pd.DataFrame:
    """Patients, and those who have a finding in any study, by finding."""
    had = np.zeros((n_patients, y.shape[1]), dtype=bool)
    np.logical_or.at(had, codes, y == 1)
    return pd.DataFrame({"n": n_patients, "n_pos": had.sum(0)}, index=list(LABELS))


def _with_means(each: Float[np.ndarray, "v k b"], told: np.ndarray) -> Float[np.ndarray, "v1 k1 b"]:
    """Add the mean of the views, and the mean of the findings that may be told."""
    each = np.concatenate([each, each.mean(axis=0, keepdims=True)])
    mean = each[:, told].mean(axis=1) if told.any() else np.full_like(each[:, 0], np.nan)
    return np.concatenate([each, mean[:, None]], axis=1)


def _estimate(
    name: str, prefix: str, value: float, draws: Float[np.ndarray, " b"]
) -> dict[str, float]:
    low, high = interval(draws)
    return {name: value, f"{prefix}low": low, f"{prefix}high": high}


def _hidden(table: pd.DataFrame) -> pd.DataFrame:
    """Hide findings that few have, or few have not, with every number of theirs."""
    table = hide_few(table, digits=None)
    numbers = [name for name in table if str(name).startswith("fewest")]
    table.loc[table["value"].isna(), numbers] = float("nan")
    return table


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Round all numbers to what the page shows, where a finding is hidden."""
    numbers = list(table.filter(regex="value|low|high|difference|fewest"))
    if (table["note"] == "").all():
        return table
    return table.assign(**table[numbers].astype(float).round(_DIGITS))


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Show the means over findings, in per cent: a row for each fraction and method."""

    def cell(row: pd.Series, name: str, prefix: str, how: str) -> str:
        numbers = [row.get(key, np.nan) for key in (name, f"{prefix}low", f"{prefix}high")]
        if pd.isna(numbers[0]):
            return "–"
        texts = [f"{100 * number:{how}}" for number in numbers]
        return texts[0] if pd.isna(numbers[1]) else "{} [{}, {}]".format(*texts)

    rows = table[table["finding"] == MEAN]
    first, fewest = rows["method"].iloc[0], rows["labels"].min()
    n, kept = rows["n"].iloc[0], rows["findings"].iloc[0]
    rounded = "at least " if (table["note"] != "").any() else ""
    patients = f"< {FEW}" if pd.isna(n) else f"{rounded}{n}"
    print(f"{patients} test patients; means over {kept} of {len(LABELS)} findings")
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for _, row in rows.sort_values("labels", kind="stable").iterrows():
        line = lines.setdefault((f"{row['labels']} %", row["method"]), {})
        line[row["view"]] = cell(row, "value", "", ".1f")
        if row["view"] == "mean":
            line[f"{first} minus it"] = cell(row, "difference", "difference_", "+.1f")
            if row["labels"] > fewest:
                line[f"{first}, {fewest} %, minus it"] = cell(row, "fewest", "fewest_", "+.1f")
    return pd.DataFrame(lines).T.rename_axis(["labels", "method"]).fillna("")
