"""eICU: intensive care stays of 208 hospitals, predicted some hours after admission."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from dfdlib.data import _clinical_study
from dfdlib.data._clinical import Extract, open_extract
from dfdlib.data._clinical_eicu import (
    DOUBTS,
    FAULTS,
    FIRST_DAY,
    GAS,
    IN_ORDER,
    LABELS,
    LEFT_ALIVE,
    MODALITIES,
    RULES,
    STAYS,
)
from dfdlib.data._clinical_rows import read
from dfdlib.data._flow import Rule, include, suppress
from dfdlib.data._ragged import Ragged
from dfdlib.data._shapes import count_of
from dfdlib.data._validate import unknown
from dfdlib.data.cohort import Cohort

__all__ = ["MODALITIES", "flow", "load", "suppress", "variables"]

Task = Literal["mortality", "readmission"]
Where = Literal["unit", "hospital"]


def variables() -> pd.DataFrame:
    """List what is read: modality, kind, tables, variable, unit.

    Example:
        >>> table = variables()
        >>> table.query("modality == 'vitals'")[["variable", "unit"]].to_numpy().tolist()
        [['systolic', 'mm Hg'], ['diastolic', 'mm Hg'], ['mean', 'mm Hg']]
    """
    return _clinical_study.variables(MODALITIES)


def load(
    root: str | Path | None = None,
    *,
    task: Task | str = "mortality",
    cut_hours: int | float = 12,
    modalities: Sequence[str] = ("demographics", "codes", "labs", "vitals"),
    died_in: Where | str = "unit",
    memory: str = "4GB",
) -> Cohort:
    """Make the cohort of one task: a row per stay in intensive care.

    Source: the protocol of MUSE (Wu et al. 2024), read in its public code, without its leaks: the
    split is by patient, scalers are fitted on the training part, no label is dropped at random.

    Inclusion, in order (`flow` counts it): in the unit for at least `cut_hours`, and for at most
    ten days; age known, from 18 to 89 (older ones are not told apart). For readmission also: left
    the unit alive. Before these come rules that are listed only where they leave somebody out: a
    stay that has two rows which differ, ends before it begins, or whose hospital stay has two
    patients; and after them, for readmission, where visit numbers and times of a hospital stay
    disagree. Rows that are alike count once. What cannot enter (rows of nobody, values in another
    unit than `variables` lists, impossible heights) is counted in warnings.

    y is 1 for
        - mortality: the patient died in the unit; with `died_in="hospital"` before leaving the
          hospital. Missing where the status is.
        - readmission: another stay in intensive care within the same hospital stay began within 15
          days of the beginning of this one. A later hospital stay is not in the data with its date,
          so a patient who comes back to the hospital counts as not readmitted, and so does one who
          went on to another hospital or died on the ward. A transfer between two units counts as
          readmitted: the data number both alike. Read the task as "back in this hospital's
          intensive care", not as quality of discharge.

    Modalities, none with anything recorded after the cut:
        - demographics (vector): age, sex, ethnicity, height (cm), weight (kg).
        - codes: diagnoses, treatments, drugs, from before admission on. A drug enters once it is
          both ordered and begun.
        - labs (series): hours since admission, value, and which test, by its place in the list that
          `variables` gives. Results that were reported or revised after the cut do not enter.
        - vitals (series): non-invasive blood pressure, by 0 systolic, 1 diastolic, 2 mean.
        - apache (vector), by name only: the variables of the APACHE IV score.
        - blood_gas (vector), by name only: arterial gas out of these; "apache" is then without it.

    `variables` lists columns and units.

    Groups are patient, hospital and region ("unknown" where the hospital tells none). Hospitals are
    many and small, so regions are what to compare. Covariates are age, sex, ethnicity, unit type.

    Access:
        https://physionet.org/content/eicu-crd/2.0/ (an open demo: `dfdlib data download eicu-demo`)

    Citation:
        Pollard, T., Johnson, A., Raffa, J., Celi, L., Mark, R., Badawi, O. (2018). The eICU
        Collaborative Research Database. Scientific Data 5, 180178.

    Args:
        root: the folder that `dfdlib data ingest eicu` wrote, or that of the raw files.
        task: which label.
        cut_hours: when the prediction is made, in hours after admission to the unit.
        modalities: which.
        died_in: whose deaths count for mortality.
        memory: the limit of DuckDB; what does not fit waits on disk.

    Raises:
        FileNotFoundError: no folder, or a table is not there.
        ValueError: an unknown task or modality, a cut that is no positive number, APACHE variables
            with a cut before 24 hours, a cell that is no number or a damaged file, or nobody left.

    Example:
        >>> load()
        Traceback (most recent call last):
        ValueError: 'eicu' needs root=, the folder that holds ... https://physionet.org/...
    """
    names = _checked(task, cut_hours, modalities, died_in)
    with open_extract("eicu", root, memory) as extract:
        _include(extract, task, cut_hours, died_in)
        unit = extract.fetch("SELECT * FROM unit ORDER BY position")
        x: dict[str, pd.DataFrame | Ragged] = {}
        for name in names:
            extract.open(MODALITIES[name].tables, f"the modality {name!r}")
            x[name] = read(extract, MODALITIES[name], len(unit["id"]))
    apache = x.get("apache")
    if "blood_gas" in x and isinstance(apache, pd.DataFrame):
        x["apache"] = apache.drop(columns=list(GAS))
    return Cohort(
        x=x,
        y=unit["y"].astype(np.float64),
        task="binary",
        covariates={name: unit[name] for name in ("age", "sex", "ethnicity", "unit")},
        groups={name: unit[name] for name in ("patient", "hospital", "region")},
    )


def flow(
    root: str | Path | None = None,
    *,
    task: Task | str = "mortality",
    cut_hours: int | float = 12,
    died_in: Where | str = "unit",
    memory: str = "4GB",
) -> pd.DataFrame:
    """Count whom each inclusion rule of `load` leaves out; reads no events, so it is quick.

    Returns:
        One row per rule in order, after one for all stays: rule, excluded, and of those left rows,
        patients, labelled, events. Counts are exact: see `suppress` before they leave your place.

    Raises:
        FileNotFoundError: no folder, or a table is not there.
        ValueError: as `load`.
    """
    _checked(task, cut_hours, ("demographics",), died_in)
    with open_extract("eicu", root, memory) as extract:
        return _include(extract, task, cut_hours, died_in)


def _checked(
    task: str, cut_hours: int | float, modalities: Sequence[str], died_in: str
) -> list[str]:
    names = [modalities] if isinstance(modalities, str) else list(modalities)
    for given, options, what in (
        (task, get_args(Task), "task of eICU"),
        (died_in, get_args(Where), "place of death (died_in)"),
        *((name, tuple(MODALITIES), "modality of eICU") for name in names),
    ):
        if given not in options:
            raise unknown(given, options, what)
    if not 0 < cut_hours <= 240:
        raise ValueError(
            f"cut_hours is {cut_hours!r}: stays of up to ten days are read. Pass hours after "
            "admission, such as 12"
        )
    early = [name for name in names if name in FIRST_DAY and cut_hours < 24]
    if early:
        raise ValueError(
            f"{early[0]!r} cannot be known {cut_hours:g} h after admission: APACHE variables are "
            "the worst values of the first 24 hours, and the table does not say when each was "
            "seen. Pass cut_hours=24 or more, or leave the modality out"
        )
    return names


def _include(extract: Extract, task: str, cut_hours: int | float, died_in: str) -> pd.DataFrame:
    extract.open(("patient", "hospital"), "the cohort", once=True)
    cut = {"hours": cut_hours, "minutes": round(60 * cut_hours)}
    rules = [Rule(rule.says.format(**cut), rule.keep.format(**cut)) for rule in RULES]
    rules = [*FAULTS, *rules, *((LEFT_ALIVE, *IN_ORDER) if task == "readmission" else ())]
    label = LABELS[task].format(died_in=died_in)
    candidates = f"SELECT *, {label} AS y, {cut['minutes']} AS cut, 0 AS origin FROM ({STAYS})"
    flow = include(extract, candidates, rules, "stays in intensive care")
    _tell_doubts(extract)
    return flow


def _tell_doubts(extract: Extract) -> None:
    """Say what is missing where a table does not fit the other, or holds another word."""
    found = {name: int(values[0]) for name, values in extract.fetch(DOUBTS).items()}
    patient, hospital = (extract.places((table,)) for table in ("patient", "hospital"))
    if n := found["unknown"]:
        extract.say(
            f"{patient}: {count_of(n)} stays are in hospitals that {hospital} does not have. Their "
            "region is 'unknown'"
        )
    if n := found["two"]:
        extract.say(
            f"{hospital} tells two regions of a hospital: that of {count_of(n)} stays is 'unknown'"
        )
    if n := found["status"]:
        extract.say(
            f"{patient}: {count_of(n)} stays have a discharge status that is neither Alive nor "
            "Expired, and no label by it"
        )
