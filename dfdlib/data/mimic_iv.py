"""MIMIC-IV: hospital admissions to one centre in Boston, predicted at discharge."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from dfdlib.data import _clinical_study
from dfdlib.data._clinical import Extract, open_extract
from dfdlib.data._clinical_mimic import (
    ADMISSIONS,
    BESIDE,
    BY_OTHERS,
    FAULTS,
    LABELS,
    MODALITIES,
    NOTES,
    RESPELT,
    RULES,
)
from dfdlib.data._clinical_notes import embedded_notes, hashed_notes
from dfdlib.data._clinical_rows import read, tell_midnights, tell_strangers
from dfdlib.data._flow import include, suppress
from dfdlib.data._ragged import Ragged
from dfdlib.data._validate import unknown
from dfdlib.data.cohort import Cohort

__all__ = ["MODALITIES", "flow", "load", "suppress", "variables"]

Task = Literal["mortality", "readmission"]
Label = Literal["complete", "published"]


def variables() -> pd.DataFrame:
    """List what is read: modality, kind, tables, variable, unit (notes are apart).

    Example:
        >>> variables().query("modality == 'demographics'")["variable"].tolist()
        ['age', 'male', 'asian', 'black', 'hispanic', 'white']
    """
    return _clinical_study.variables(MODALITIES)


def load(
    root: str | Path | None = None,
    *,
    task: Task | str = "mortality",
    label: Label | str = "complete",
    modalities: Sequence[str] = ("demographics", "codes", "labs", "notes"),
    note_embeddings: str | Path | None = None,
    memory: str = "4GB",
) -> Cohort:
    """Make the cohort of one task: a row per admission, predicted when the patient leaves.

    Source: the protocol of MUSE (Wu et al. 2024), read in its public code, without its leaks: the
    split is by patient, and scalers are fitted on the training part.

    Inclusion, in order (`flow` counts it): in hospital for at most ten days; aged 18 to 89; left
    alive; and the patient was never admitted after death. Some 110 patients are "readmitted" a
    minute after they died, as donors of organs: they would count as readmitted. Before these come
    rules that are listed only where they leave somebody out: an admission that has two rows which
    differ, ends before it begins, or is of nobody in `patients`. Rows that are alike count once.
    What cannot enter (laboratory rows without an admission, or in another unit than most of the
    item) is counted in warnings.

    Times are the hospital's own clock, as the files have them: an offset, a zone, a number, or a
    day without its time where a time belongs is refused, and where all are at midnight it is said.
    Procedures have a day only: they enter up to the day of discharge.

    y is 1 for
        - mortality: death within 90 days of discharge. Deaths are known for a year after the last
          discharge (MIMIC-IV 2.0 and later), so nobody is lost in the 90 days, and who has no date
          of death has y = 0. `label="published"` is missing where there is neither a date of death
          nor another admission after more than 90 days: it keeps survivors only if they came back,
          so it selects on the outcome, and 90-day mortality comes out far too high.
        - readmission: another admission within 15 days. `label="published"` is missing for those
          who never came back, with the same fault.

    Days are whole days, as `.dt.days` counts them: 90 days and 23 hours are 90.

    The readmission task is contested. The data are of one hospital, so whoever goes to another one
    counts as not readmitted; who dies within the 15 days cannot come back; and the times between
    admissions come from how the cohort was made: whoever is in MIMIC-IV was in its emergency
    department or intensive care once, which makes early and late admissions of one patient
    different by design (the maintainers of MEDS-DEV call it impossible to study here).

    Modalities, of the admission, none with anything that a table dates after discharge:
        - demographics (vector): age, sex, race as told to the hospital.
        - codes: diagnoses, procedures (ICD with its version), drugs. Diagnoses are coded after
          discharge, for billing, and describe the whole stay: not for an earlier prediction.
        - labs (series): hours since admission, value, and twice the item number, plus 1 where the
          laboratory marked it abnormal. Items whose name holds one of ten words are read.
        - notes (codes): hashed words of the discharge summary between "Brief Hospital Course:" and
          "Medications on Admission:". It describes the stay and may be signed after discharge.
          Pass encoders={"notes": CodeBag(d=…, pool="tfidf")}, which fits TF-IDF on the training
          part. With `note_embeddings` it is a vector of your own instead.

    Groups are patient and period (the three years in which the patient's `anchor_year` lies).
    Covariates are age, sex, race, insurance.

    Access:
        https://physionet.org/content/mimiciv/2.2/, https://physionet.org/content/mimic-iv-note/2.2/

    Citation:
        Johnson, A., Bulgarelli, L., Shen, L., et al. (2023). MIMIC-IV, a freely accessible
        electronic health record dataset. Scientific Data 10, 1.

    Args:
        root: the folder that `dfdlib data ingest mimic_iv` wrote, or that of the raw files.
        task: which label.
        label: "complete" for everybody, or "published".
        modalities: which.
        note_embeddings: a parquet or CSV file with hadm_id and one column per unit.
        memory: the limit of DuckDB; what does not fit waits on disk.

    Raises:
        FileNotFoundError: no folder, or a table is not there.
        ValueError: an unknown task, label or modality, embeddings that do not fit, a cell
            that is no time or number or a damaged file, or nobody left.

    Example:
        >>> load(task="readmision")
        Traceback (most recent call last):
        ValueError: 'readmision' is not a task of MIMIC-IV (mortality, readmission). Did you ...
    """
    names = _checked(task, label, modalities, note_embeddings)
    with open_extract("mimic_iv", root, memory) as extract:
        _include(extract, task, label)
        unit = extract.fetch("SELECT * FROM unit ORDER BY position")
        n = len(unit["id"])
        x: dict[str, pd.DataFrame | Ragged] = {}
        for name in names:
            if name != "notes":
                extract.open(MODALITIES[name].tables, f"the modality {name!r}")
                x[name] = read(extract, MODALITIES[name], n)
            elif note_embeddings is not None:
                x[name] = embedded_notes(extract, note_embeddings, "hadm_id", n)
            else:
                extract.open(("discharge",), "the modality 'notes'")
                tell_strangers(extract, "discharge", "hadm_id")
                x[name] = hashed_notes(extract, NOTES, n)
        if "labs" in names and (other := int(extract.fetch(RESPELT)["n"][0])):
            extract.say(
                f"{extract.places(('d_labitems',))}: {other} items have one of the names that are "
                "read, but in other letters, and are not read"
            )
    return Cohort(
        x=x,
        y=unit["y"].astype(np.float64),
        task="binary",
        covariates={name: unit[name] for name in ("age", "sex", "race", "insurance")},
        groups={name: unit[name] for name in ("patient", "period")},
    )


def flow(
    root: str | Path | None = None,
    *,
    task: Task | str = "mortality",
    label: Label | str = "complete",
    memory: str = "4GB",
) -> pd.DataFrame:
    """Count whom each inclusion rule of `load` leaves out; reads no events, so it is quick.

    Returns:
        One row per rule in order, after one for all admissions: rule, excluded, and of those left
        rows, patients, labelled, events. Counts are exact: see `suppress` before they leave.

    Raises:
        FileNotFoundError: no folder, or a table is not there.
        ValueError: as `load`.
    """
    _checked(task, label, ("demographics",), None)
    with open_extract("mimic_iv", root, memory) as extract:
        return _include(extract, task, label)


def _checked(
    task: str, label: str, modalities: Sequence[str], note_embeddings: str | Path | None
) -> list[str]:
    names = [modalities] if isinstance(modalities, str) else list(modalities)
    for given, options, what in (
        (task, get_args(Task), "task of MIMIC-IV"),
        (label, get_args(Label), "label of MIMIC-IV"),
        *((name, (*MODALITIES, "notes"), "modality of MIMIC-IV") for name in names),
    ):
        if given not in options:
            raise unknown(given, options, what)
    if note_embeddings is not None and "notes" not in names:
        raise ValueError(
            f"note_embeddings is given, but the modalities are {', '.join(names)}. Add 'notes'"
        )
    return names


def _include(extract: Extract, task: str, label: str) -> pd.DataFrame:
    extract.open(("patients", "admissions"), "the cohort", once=True)
    rules = [*FAULTS, *RULES, *([BESIDE] if (task, label) in BY_OTHERS else [])]
    candidates = f"SELECT *, {LABELS[task, label]} AS y FROM ({ADMISSIONS})"
    flow = include(extract, candidates, rules, "hospital admissions")
    for name in ("admittime", "dischtime"):
        found = extract.fetch(
            f"SELECT count({name}) AS n, count(*) FILTER ({name} = date_trunc('day', {name})) "
            "AS midnight FROM unit"
        )
        n, midnight = int(found["n"][0]), int(found["midnight"][0])
        tell_midnights(extract, "admissions", midnight, n, name)
    return flow
