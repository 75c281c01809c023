"""MIMIC-IV: hospital admissions to one centre in Boston, predicted at discharge.

`load` makes a cohort, `flow` counts whom it leaves out, `variables` lists what it reads. Below them
stand the tables that they work by, modalities, rules, labels and the SQL of the admissions, and how
notes are read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import HashingVectorizer

from dfdlib.data.arrays import Ragged
from dfdlib.data.clinical import study
from dfdlib.data.clinical.extract import Extract, open_extract
from dfdlib.data.clinical.flow import Rule, include, suppress
from dfdlib.data.clinical.rows import read, tell_midnights, tell_strangers
from dfdlib.data.clinical.study import Codes, Events, Feature, Modality, Series, Vector
from dfdlib.data.cohort import Cohort
from dfdlib.errors import unknown

__all__ = ["MODALITIES", "flow", "load", "suppress", "variables"]

Task = Literal["mortality", "readmission"]
Label = Literal["complete", "published"]


def variables() -> pd.DataFrame:
    """List what is read: modality, kind, tables, variable, unit (notes are apart).

    Example:
        >>> variables().query("modality == 'demographics'")["variable"].tolist()
        ['age', 'male', 'asian', 'black', 'hispanic', 'white']
    """
    return study.variables(MODALITIES)


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
        (version 3.1 is read too; the notes are of the admissions of 2.2, so later ones have none)

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
    for choice, options, what in (
        (task, get_args(Task), "task of MIMIC-IV"),
        (label, get_args(Label), "label of MIMIC-IV"),
        *((name, (*MODALITIES, "notes"), "modality of MIMIC-IV") for name in names),
    ):
        if choice not in options:
            raise unknown(choice, options, what)
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
        counts = extract.fetch(
            f"SELECT count({name}) AS n, count(*) FILTER ({name} = date_trunc('day', {name})) "
            "AS midnight FROM unit"
        )
        n, midnight = int(counts["n"][0]), int(counts["midnight"][0])
        tell_midnights(extract, "admissions", midnight, n, name)
    return flow


# ---------------- what is read of an admission

_HOURS = "epoch({} - u.origin) / 3600"

#: A laboratory item is read where its label holds one of these.
LAB_LABELS = (
    *("Hematocrit", "Platelet", "WBC", "Bilirubin", "pH"),
    *("Bicarbonate", "Creatinine", "Lactate", "Potassium", "Sodium"),
)
_LABS = " OR ".join(f"contains(label, '{label}')" for label in LAB_LABELS)


def _race(*starts: str) -> Feature:
    """Whether the recorded race begins with one of these; missing where none is recorded."""
    known = "race IS NOT NULL AND NOT regexp_matches(race, '^(UNKNOWN|UNABLE|PATIENT DECLINED)')"
    return Feature(f"CASE WHEN {known} THEN regexp_matches(race, '^({'|'.join(starts)})')::INT END")


def _icd(table: str, time: str, recorded: str) -> Events:
    # ICD-9 and ICD-10 share codes, and 0389 is not 389
    return Events(
        key=f"{table}.hadm_id",
        source=table,
        tables=(table,),
        time=time,
        recorded=recorded,
        word=f"'{table}: ' || icd_version || ' ' || trim(icd_code)",
        owner=f"{table}.subject_id",
        alike=f"'{table}: ' || icd_version || ' ' || "
        "upper(regexp_replace(icd_code, '[\\s.]', '', 'g'))",
    )


#: What each modality is made of. The prediction is made at discharge.
MODALITIES: dict[str, Modality] = {
    "demographics": Vector(
        key="hadm_id",
        source="admissions JOIN patients USING (subject_id)",
        tables=("admissions", "patients"),
        features={
            "age": Feature("anchor_age + year(admittime) - anchor_year", "years"),
            "male": Feature(
                "CASE upper(trim(gender)) WHEN 'M' THEN 1 WHEN 'F' THEN 0 END",
                unread="upper(trim(gender)) NOT IN ('M', 'F', '')",
            ),
            "asian": _race("ASIAN"),
            "black": _race("BLACK"),
            "hispanic": _race("HISPANIC", "SOUTH AMERICAN"),
            "white": _race("WHITE", "PORTUGUESE"),
        },
    ),
    # DIFF: MUSE reads the lower-cased titles of the last 50 codes with a language model; here codes
    # are themselves, with their version, and all of the admission are read.
    "codes": Codes(
        (
            # coded for billing after discharge, of the whole stay: without a time of their own
            _icd("diagnoses_icd", "0", "u.cut"),
            # known by their day alone; those of the day of discharge are of the stay that ends then
            _icd("procedures_icd", _HOURS.format("chartdate::TIMESTAMP"), "chartdate::TIMESTAMP"),
            Events(
                key="prescriptions.hadm_id",
                source="prescriptions",
                tables=("prescriptions",),
                time=_HOURS.format("starttime"),
                recorded="starttime",
                clocked=True,
                word="'prescriptions: ' || lower(trim(drug))",
                owner="prescriptions.subject_id",
            ),
        )
    ),
    "labs": Series(
        Events(
            key="labevents.hadm_id",
            source="labevents",
            tables=("labevents", "d_labitems"),
            time=_HOURS.format("coalesce(storetime, charttime)"),
            recorded="coalesce(storetime, charttime)",
            clocked=True,
            value="valuenum",
            flag="2 * itemid + coalesce(labevents.flag = 'abnormal', false)::INT",
            where=f"itemid IN (SELECT itemid FROM d_labitems WHERE {_LABS})",
            measured=True,
            item="itemid",
            unit="valueuom",
            owner="labevents.subject_id",
        ),
        {},
    ),
}

#: How many items have such a name in other letters, and are not read.
RESPELT = f"""
    SELECT count(*) AS n FROM d_labitems
    WHERE regexp_matches(label, '(?i)\\b({"|".join(LAB_LABELS)})\\b') AND NOT ({_LABS})
"""


# ---------------- notes: bags of hashed words, or embeddings that the user has computed

#: The part of a discharge summary that is read, between these headings.
SECTION = ("Brief Hospital Course:", "Medications on Admission:")
NOTES = f"""
    SELECT u.position, substr(text, began, ended - began) AS note FROM (
        SELECT hadm_id, arg_min(text, note_id) AS text FROM discharge GROUP BY hadm_id
    ) JOIN unit u ON hadm_id = u.id, LATERAL (
        SELECT strpos(text, '{SECTION[0]}') + {len(SECTION[0])} AS began
    ), LATERAL (
        SELECT began - 1 + strpos(substr(text, began), '{SECTION[1]}') AS ended
    ) WHERE strpos(text, '{SECTION[0]}') > 0 AND ended >= began ORDER BY position
"""

N_WORDS = 2**18
_CHUNK = 10_000


def hashed_notes(extract: Extract, query: str, n: int) -> Ragged:
    """Count the hashed words of each note: a code per word, as often as the word is there.

    Only the hash is taken here, which needs no data to be fitted on. The weights that make TF-IDF
    of it belong to the training part: `dfdlib.models.encoders.CodeBag(pool="tfidf")` fits them.

    Args:
        extract: with the tables that the query reads.
        query: gives `position` and `note`, in the order of positions, one note per row.
        n: rows of the cohort.
    """
    hashing = HashingVectorizer(n_features=N_WORDS, alternate_sign=False, norm=None)
    rows, words = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for chunk in extract.chunks(query, _CHUNK):
        # what was taken out to protect patients is no word
        count = hashing.transform(chunk["note"].str.replace("___", " ", regex=False))
        owner = np.repeat(chunk["position"].to_numpy(), np.diff(count.indptr))
        times = count.data.astype(np.int64)
        rows.append(np.repeat(owner, times))
        words.append(np.repeat(count.indices, times).astype(np.int64))
    offsets = np.searchsorted(np.concatenate(rows), np.arange(n + 1))
    return Ragged(torch.from_numpy(np.concatenate(words)), torch.from_numpy(offsets))


def embedded_notes(extract: Extract, file: Any, key: str, n: int) -> pd.DataFrame:
    """Read embeddings that were computed before: a parquet or CSV file with a column per unit.

    Args:
        extract: with the table `unit`.
        file: the file; all its columns but the key are numbers.
        key: the column that says whose note it is.
        n: rows of the cohort.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it lacks the key, a column holds no numbers, somebody is there twice, or nobody
            of the cohort is.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} is no file. Pass a parquet or CSV file of embeddings")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError, EOFError):  # what pandas says repeats the path, or a cell
        raise ValueError(
            f"{path.name} is no parquet or CSV file of embeddings, or is damaged. Write it again"
        ) from None
    if key not in table:
        raise ValueError(f"{path.name} has no column {key!r}, which says whose note it is. Add it")
    wrong = [c for c in table if not pd.api.types.is_numeric_dtype(table[c])]
    if wrong:
        raise ValueError(
            f"{path.name}: column {wrong[0]!r} holds no numbers. Keep {key!r} and one column of "
            "numbers for each unit of the embedding"
        )
    if table[key].duplicated().any():
        row = int(table[key].duplicated().argmax()) + 1
        raise ValueError(
            f"{path.name}, row {row}: {key} is that of a row before. Keep one embedding per {key}"
        )
    unit = extract.fetch("SELECT id FROM unit ORDER BY position")["id"]
    embeddings = table.set_index(key).reindex(unit)
    if embeddings.isna().all(axis=None):
        raise ValueError(f"{path.name} has nobody of the cohort. Check its column {key!r}")
    assert len(embeddings) == n  # ids of the cohort are unique
    return embeddings.reset_index(drop=True)


# ---------------- which admissions are in the cohort, and what is predicted

#: Who stays, in order. The last rule is ours: a few donors of organs are admitted after they died.
RULES = (
    Rule("discharged at a known time", "dischtime IS NOT NULL"),
    Rule("in hospital for at most 10 days", "dischtime - admittime <= INTERVAL 10 DAYS"),
    Rule("aged 18 or more", "age >= 18"),
    Rule("aged 89 or less", "age <= 89"),
    Rule("left the hospital alive", "coalesce(hospital_expire_flag, 0) = 0"),
    Rule("of a patient who was never admitted after death", "NOT after_death"),
)

#: Faults of the tables; each is in the flow where it leaves somebody out.
FAULTS = (
    Rule("with an identifier of admission and patient",
         "id IS NOT NULL AND patient IS NOT NULL", True),
    Rule("of a patient who is in the table patients", "person IS NOT NULL", True),
    Rule("told once, or alike each time", "NOT twice", True),
    Rule("that ends no earlier than it begins", "NOT backwards", True),
)  # fmt: skip
#: Where the label is read off the patient's other admissions.
BESIDE = Rule("of a patient of whom no other admission is told wrongly", "NOT beside_fault", True)
BY_OTHERS = {("mortality", "published"), ("readmission", "complete"), ("readmission", "published")}

_DAYS = "floor((epoch({}) - epoch(dischtime)) / 86400)"
_DEAD = f"{_DAYS.format('dod::TIMESTAMP')} <= 90"
_NEXT = f"{_DAYS.format('following')} > 90"

#: SQL of each label; `following` is the next admission, `back` the next that begins after this
#: one has ended.
LABELS = {
    ("mortality", "complete"): f"coalesce({_DEAD}, false)::INT",
    ("mortality", "published"): f"CASE WHEN dod IS NOT NULL THEN ({_DEAD})::INT "
    f"WHEN {_NEXT} THEN 0 END",
    ("readmission", "complete"): f"coalesce({_DAYS.format('back')} <= 15, false)::INT",
    ("readmission", "published"): f"({_DAYS.format('following')} <= 15)::INT",
}

_BACKWARDS = "coalesce(least(a.dischtime, a.deathtime) < a.admittime, false)"
_TWICE = "count(*) OVER (PARTITION BY a.hadm_id) > 1 AND a.hadm_id IS NOT NULL"

#: A row per admission, with what rules, labels and groups read.
ADMISSIONS = f"""
    SELECT *, bool_or(twice OR backwards OR admittime IS NULL) OVER (PARTITION BY patient)
        AND count(*) OVER (PARTITION BY patient) > 1 AS beside_fault
    FROM (
    SELECT a.hadm_id AS id, p.subject_id AS person, {_TWICE} AS twice,
        {_BACKWARDS} AS backwards, a.dischtime AS finished,
        a.subject_id AS patient, a.admittime, a.dischtime,
        a.dischtime AS cut, a.admittime AS origin, a.hospital_expire_flag, p.dod,
        p.anchor_age + year(a.admittime) - p.anchor_year AS age,
        CASE upper(trim(p.gender)) WHEN 'M' THEN 'male' WHEN 'F' THEN 'female'
            ELSE 'unknown' END AS sex,
        coalesce(a.race, 'UNKNOWN') AS race, coalesce(a.insurance, 'unknown') AS insurance,
        coalesce(p.anchor_year_group, 'unknown') AS period,
        lead(a.admittime) OVER (PARTITION BY a.subject_id ORDER BY a.admittime, a.hadm_id)
            AS following,
        (SELECT min(b.admittime) FROM admissions b
            WHERE b.subject_id = a.subject_id AND b.hadm_id <> a.hadm_id
            AND b.admittime >= a.dischtime) AS back,
        a.subject_id IN (
            SELECT b.subject_id FROM admissions b JOIN patients q USING (subject_id)
            WHERE b.admittime::DATE > q.dod
            UNION ALL
            SELECT b.subject_id FROM admissions b JOIN admissions c USING (subject_id)
            WHERE b.hadm_id <> c.hadm_id AND c.deathtime <= b.admittime
        ) AS after_death
    FROM admissions a LEFT JOIN patients p ON a.subject_id = p.subject_id
    )
"""
