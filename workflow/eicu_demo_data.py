"""Cohorts of the eICU demo, and what may be said of them: counts, none of them small."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dfdlib.data import Cohort, eicu
from dfdlib.data.clinical.extract import open_extract
from dfdlib.data.clinical.flow import include
from dfdlib.data.clinical.rows import read
from dfdlib.data.eicu import FAULTS, LABELS, RULES, STAYS


def load(
    root: Path, died_in: str, *, cut_hours: int | None, modalities: list[str]
) -> tuple[Cohort, pd.DataFrame]:
    """Make a cohort of stays whose outcome is known, and its flow, suppressed."""
    if cut_hours is None:
        whole, flow = _all_stays(root, died_in, modalities)
    else:
        whole = eicu.load(root, cut_hours=cut_hours, modalities=modalities, died_in=died_in)
        flow = eicu.flow(root, cut_hours=cut_hours, died_in=died_in)
    assert whole.y is not None  # it has labels
    cohort = whole.select(~np.isnan(whole.y.numpy()))
    # so that what is computed part by part can be put back
    return cohort._with(groups=cohort.groups | {"row": np.arange(len(cohort))}), eicu.suppress(flow)


def _all_stays(root: Path, died_in: str, modalities: list[str]) -> tuple[Cohort, pd.DataFrame]:
    """Leave out the two rules on how long somebody stayed: there is no cut to outlast."""
    with open_extract("eicu", root, "4GB") as extract:
        extract.open(("patient", "hospital"), "the cohort", once=True)
        label = LABELS["mortality"].format(died_in=died_in)
        candidates = f"SELECT *, {label} AS y, 1440 AS cut, 0 AS origin FROM ({STAYS})"
        rules = (*FAULTS, *RULES[2:])
        flow = include(extract, candidates, rules, "stays in intensive care")
        unit = extract.fetch("SELECT * FROM unit ORDER BY position")
        x: dict[str, Any] = {}
        for name in modalities:
            extract.open(eicu.MODALITIES[name].tables, f"the modality {name!r}")
            x[name] = read(extract, eicu.MODALITIES[name], len(unit["id"]))
    if "blood_gas" in x:
        x["apache"] = x["apache"].drop(columns=list(x["blood_gas"]))
    groups = {name: unit[name] for name in ("patient", "hospital", "region")}
    return Cohort(x=x, y=unit["y"].astype(float), task="binary", groups=groups), flow


def in_one_region(cohort: Cohort) -> Cohort:
    """Leave out patients with stays in several regions: they would be on both sides."""
    region = pd.Series(cohort.groups["region"])
    return cohort.select(
        (region.groupby(cohort.groups["patient"]).transform("nunique") == 1).values
    )


def facts(cohort: Cohort, below: int) -> dict[str, Any]:
    """Who is there: by region and modality, and who died."""
    assert cohort.y is not None  # it has labels
    died, region = cohort.y.numpy() == 1, cohort.groups["region"]
    everywhere = {"all": np.full(len(cohort), True)}
    regions = everywhere | {str(r): region == r for r in np.unique(region)}
    there = {name: cohort.observed[:, j].numpy() for j, name in enumerate(cohort.names)}
    features = {
        f"{name}.{feature}": mask[:, j].numpy()
        for name, mask in cohort.x_observed.items()
        for j, feature in enumerate(cohort.schema.features[name])
    }
    hospitals = pd.Series(cohort.groups["hospital"]).value_counts()
    observed = pd.DataFrame(
        {
            r: {m: share(mask[here], below) for m, mask in there.items()}
            for r, here in regions.items()
        }
    )
    # one hidden region would be what is left of all
    alone = observed.drop(columns="all").isna().sum(axis=1) == 1
    observed.loc[alone & observed["all"].notna(), "all"] = np.nan
    observed = observed.astype(object).where(observed.notna(), None)
    return {
        "stays": len(cohort),
        "patients": int(pd.Series(cohort.groups["patient"]).nunique()),
        "hospitals": len(hospitals),
        "stays of the largest hospital": int(hospitals.iloc[0]),
        "regions": {
            name: {
                "stays": count(here, below),
                "died": count(died & here, below),
                "observed": observed[name].to_dict(),
            }
            for name, here in regions.items()
        },
        "modalities": {m: by_presence(mask, died, below) for m, mask in there.items()},
        "features": {f: by_presence(mask, died, below) for f, mask in features.items()},
    }


def by_presence(mask: np.ndarray, died: np.ndarray, below: int) -> dict[str, Any]:
    """The share of stays in which something was observed, and how many of either side died."""
    there, missing = share(died[mask], below), share(died[~mask], below)
    if (there is None and mask.any()) or (missing is None and not mask.all()):
        # of two that add up to what is known, one alone is not hidden
        there = missing = None
    return {
        "observed": share(mask, below),
        "mortality where observed": there,
        "mortality where missing": missing,
    }


def count(mask: np.ndarray, below: int) -> int | None:
    """How many; None where few."""
    n = int(mask.sum())
    return None if 0 < n < below else n


def share(mask: np.ndarray, below: int) -> float | None:
    """Which share; None where few, or where few are left."""
    n, k = len(mask), int(mask.sum())
    if n < below or 0 < k < below or 0 < n - k < below:
        return None
    return k / n
