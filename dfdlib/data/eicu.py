"""eICU: intensive care stays of 208 hospitals, predicted some hours after admission.

`load` makes a cohort, `flow` counts whom it leaves out, `variables` lists what it reads. Below them
stand the tables that they work by: modalities, rules, labels, and the SQL of the stays.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from dfdlib.data.arrays import Ragged
from dfdlib.data.clinical import study
from dfdlib.data.clinical.extract import Extract, open_extract
from dfdlib.data.clinical.flow import Rule, include, suppress
from dfdlib.data.clinical.rows import read
from dfdlib.data.clinical.study import Codes, Events, Feature, Modality, Series, Vector
from dfdlib.data.cohort import Cohort
from dfdlib.data.shapes import count_of
from dfdlib.errors import unknown

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
    return study.variables(MODALITIES)


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
    for choice, options, what in (
        (task, get_args(Task), "task of eICU"),
        (died_in, get_args(Where), "place of death (died_in)"),
        *((name, tuple(MODALITIES), "modality of eICU") for name in names),
    ):
        if choice not in options:
            raise unknown(choice, options, what)
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
    counts = {name: int(values[0]) for name, values in extract.fetch(DOUBTS).items()}
    patient, hospital = (extract.places((table,)) for table in ("patient", "hospital"))
    if n := counts["unknown"]:
        extract.say(
            f"{patient}: {count_of(n)} stays are in hospitals that {hospital} does not have. Their "
            "region is 'unknown'"
        )
    if n := counts["two"]:
        extract.say(
            f"{hospital} tells two regions of a hospital: that of {count_of(n)} stays is 'unknown'"
        )
    if n := counts["status"]:
        extract.say(
            f"{patient}: {count_of(n)} stays have a discharge status that is neither Alive nor "
            "Expired, and no label by it"
        )


# ---------------- what is read of a stay

STAY = "patientunitstayid"

#: Units of the APACHE variables; the worst value of the first 24 hours.
APACHE_UNITS = {
    "intubated": "",
    "vent": "",
    "dialysis": "",
    "eyes": "1 to 4",
    "motor": "1 to 6",
    "verbal": "1 to 5",
    "meds": "",
    "urine": "ml in 24 h",
    "wbc": "10^9/l",
    "temperature": "°C",
    "respiratoryrate": "per minute",
    "sodium": "mmol/l",
    "heartrate": "per minute",
    "meanbp": "mm Hg",
    "ph": "",
    "hematocrit": "%",
    "creatinine": "mg/dl",
    "albumin": "g/dl",
    "pao2": "mm Hg",
    "pco2": "mm Hg",
    "bun": "mg/dl",
    "glucose": "mg/dl",
    "bilirubin": "mg/dl",
    "fio2": "%",
}

#: What the patient came with, 0 or 1; APACHE asks for it at admission.
HISTORY = (
    *("aids", "hepaticfailure", "lymphoma", "metastaticcancer", "leukemia", "immunosuppression"),
    *("cirrhosis", "diabetes", "electivesurgery"),
)

# Worst values of the first 24 hours, without the time at which each was seen.
FIRST_DAY = ("apache", "blood_gas")
GAS = ("ph", "pao2", "pco2", "fio2")

_BY_UNIT = {
    "%": "-bands -basos -eos -lymphs -monos -polys CPK-MB_INDEX Carboxyhemoglobin FiO2 Hct "
    "Methemoglobin O2_Sat_(%) Oxyhemoglobin RDW reticulocyte_count",
    "Units/L": "ALT_(SGPT) AST_(SGOT) CPK LDH alkaline_phos. amylase lipase",
    "mg/dL": "BUN CRP HDL LDL bedside_glucose calcium creatinine direct_bilirubin ethanol "
    "fibrinogen glucose haptoglobin ionized_calcium magnesium phosphate prealbumin salicylate "
    "total_bilirubin total_cholesterol transferrin triglycerides uric_acid",
    "mmol/L": "HCO3 bicarbonate chloride lactate potassium sodium",
    "mEq/L": "Base_Deficit Base_Excess",
    "ng/mL": "CPK-MB Digoxin Ferritin folate myoglobin troponin_-_I troponin_-_T",
    "pg/mL": "BNP Vitamin_B12",
    "mcg/dL": "Fe TIBC T4 ammonia cortisol",
    "mcg/mL": "Acetaminophen Phenytoin Vancomycin_-_random Vancomycin_-_trough",
    "ng/dL": "T3 free_T4",
    "g/dL": "Hgb MCHC albumin total_protein",
    "K/mcL": "WBC_x_1000 platelets_x_1000",
    "M/mcL": "RBC",
    "fL": "MCV MPV",
    "pg": "MCH",
    "sec": "PT PTT",
    "ratio": "PT_-_INR",
    "mm Hg": "paCO2 paO2",
    "mm/hr": "ESR",
    "mg/L": "CRP-hs",
    "mcU/ml": "TSH",
    "mOsm/kg H2O": "serum_osmolality",
    "": "anion_gap pH",
}

#: The laboratory tests that are read, with their units: the data have one unit per name. The place
#: in this list is the flag of a series, and stands in saved models: add new ones at the end only.
LAB_UNITS = {
    name.replace("_", " "): unit for unit, names in _BY_UNIT.items() for name in names.split()
}


def _is(column: str, level: str) -> Feature:
    return Feature(f"CASE WHEN {column} IS NOT NULL THEN ({column} = '{level}')::INT END")


def _apache(names: Sequence[str]) -> dict[str, Feature]:
    return {name: Feature(f"nullif({name}, -1)", APACHE_UNITS.get(name, "")) for name in names}


def _codes(table: str, word: str, time: str, recorded: str) -> Events:
    return Events(
        key=STAY,
        source=table,
        tables=(table,),
        time=f"{time} / 60.0",
        recorded=recorded,
        word=f"'{table}: ' || lower(trim({word}))",
    )


#: What each modality is made of. Times are minutes since admission to the unit, as in the tables.
MODALITIES: dict[str, Modality] = {
    "demographics": Vector(
        key=STAY,
        source="patient",
        tables=("patient",),
        features={
            "age": Feature("try_cast(age AS DOUBLE)", "years"),
            "male": Feature(
                "CASE lower(trim(gender)) WHEN 'male' THEN 1 WHEN 'female' THEN 0 END",
                unread="lower(trim(gender)) NOT IN ('male', 'female', 'unknown', 'other', '')",
            ),
            "african american": _is("ethnicity", "African American"),
            "asian": _is("ethnicity", "Asian"),
            "caucasian": _is("ethnicity", "Caucasian"),
            "hispanic": _is("ethnicity", "Hispanic"),
            "native american": _is("ethnicity", "Native American"),
            "height": Feature("admissionheight", "cm", 100, 250, unread="admissionheight_unread"),
            "weight": Feature("admissionweight", "kg", 20, 400, unread="admissionweight_unread"),
        },
    ),
    "codes": Codes(
        (
            _codes("diagnosis", "diagnosisstring", "diagnosisoffset", "diagnosisoffset"),
            _codes("treatment", "treatmentstring", "treatmentoffset", "treatmentoffset"),
            # an order that was cancelled later stays: at the cut nobody knew
            _codes(
                "medication",
                "drugname",
                "drugstartoffset",
                "greatest(drugstartoffset, drugorderoffset)",
            ),
        )
    ),
    "labs": Series(
        Events(
            key=STAY,
            source="lab JOIN item ON lower(trim(labname)) = lower(item.name)",
            tables=("lab",),
            time="labresultoffset / 60.0",
            # DIFF: MUSE takes what was drawn before the cut; a value is known once it is reported,
            # and what was revised after the cut is not the value that was read before it.
            recorded="greatest(labresultoffset, labresultrevisedoffset)",
            value="labresult",
            flag="item.flag",
            measured=True,
            respelt="labname <> item.name",
            item="item.name",
            unit="labmeasurenamesystem",
        ),
        LAB_UNITS,
    ),
    "vitals": Series(
        Events(
            key=STAY,
            source="vitalaperiodic",
            tables=("vitalaperiodic",),
            time="observationoffset / 60.0",
            recorded="observationoffset",
            value="[noninvasivesystolic, noninvasivediastolic, noninvasivemean]",
            flag="[0, 1, 2]",
            several=True,
        ),
        {"systolic": "mm Hg", "diastolic": "mm Hg", "mean": "mm Hg"},
    ),
    "apache": Vector(
        key=f"apacheapsvar.{STAY}",
        source=f"apacheapsvar LEFT JOIN apachepredvar USING ({STAY})",
        tables=("apacheapsvar", "apachepredvar"),
        # DIFF: MUSE makes 36 columns of these, by one-hot of the coma scale; here its three parts
        # stay numbers, since they are ordered, and what the patient came with is added.
        features=_apache(tuple(APACHE_UNITS)) | _apache(HISTORY),
    ),
    "blood_gas": Vector(
        key=STAY, source="apacheapsvar", tables=("apacheapsvar",), features=_apache(GAS)
    ),
}


# ---------------- which stays are in the cohort, and what is predicted

#: Who stays, in order; {hours} and {minutes} are those of the cut.
RULES = (
    Rule("in the unit for at least {hours:g} h", "minutes >= {minutes}"),
    Rule("in the unit for at most 10 days", "minutes <= 14400"),
    Rule("age known", "age_text IS NOT NULL"),
    Rule("aged 18 or more", "age_text LIKE '>%' OR age >= 18"),
    Rule("aged 89 or less", "age <= 89"),
)
LEFT_ALIVE = Rule("left the unit alive", "unit_status = 'Alive'")

#: Faults of the tables; each is in the flow where it leaves somebody out.
FAULTS = (
    Rule("with an identifier of stay and patient", "id IS NOT NULL AND patient IS NOT NULL", True),
    Rule("told once, or alike each time", "NOT twice", True),
    Rule("of a hospital stay of one patient", "NOT shared", True),
    Rule("that ends no earlier than it begins", "coalesce(minutes, 0) >= 0", True),
)
#: Of readmission, which is read off the other stays of the same stay in hospital.
IN_ORDER = (
    Rule("of a hospital stay of which no other stay is told wrongly", "NOT beside_fault", True),
    Rule("of a hospital stay with one order by number and by time", "NOT disordered", True),
)

LABELS = {
    "mortality": "CASE {died_in}_status WHEN 'Expired' THEN 1 WHEN 'Alive' THEN 0 END",
    "readmission": "coalesce(next_start - start <= 15 * 1440, false)::INT",
}

# A stay without a number of its hospital stay counts as a hospital stay of its own.
_HOSPITAL_STAY = f"coalesce(patienthealthsystemstayid, -{STAY})"
_FAULT = "(twice OR shared OR coalesce(minutes, 0) < 0 OR start IS NULL)"

#: A row per stay, with what rules, labels and groups read.
STAYS = f"""
    SELECT * EXCLUDE (hospital_stay, number, behind),
        bool_or({_FAULT}) OVER (PARTITION BY hospital_stay)
            AND count(*) OVER (PARTITION BY hospital_stay) > 1 AS beside_fault,
        bool_or(behind) OVER (PARTITION BY hospital_stay) AS disordered
    FROM (
        SELECT *, minutes AS finished, coalesce(number < max(number) OVER earlier, false) AS behind,
            lead(start) OVER (PARTITION BY hospital_stay ORDER BY start, number) AS next_start
        FROM (
            SELECT {STAY} AS id, uniquepid AS patient, p.hospitalid AS hospital,
                coalesce(region, 'unknown') AS region, unitdischargeoffset AS minutes,
                trim(age) AS age_text, try_cast(age AS DOUBLE) AS age,
                unitdischargestatus AS unit_status, hospitaldischargestatus AS hospital_status,
                coalesce(lower(gender), 'unknown') AS sex,
                coalesce(ethnicity, 'Other/Unknown') AS ethnicity,
                coalesce(unittype, 'unknown') AS unit, -hospitaladmitoffset AS start,
                {_HOSPITAL_STAY} AS hospital_stay, unitvisitnumber AS number,
                count(*) OVER (PARTITION BY {STAY}) > 1 AND {STAY} IS NOT NULL AS twice,
                coalesce(min(uniquepid) OVER (PARTITION BY {_HOSPITAL_STAY})
                    <> max(uniquepid) OVER (PARTITION BY {_HOSPITAL_STAY}), false) AS shared
            FROM patient p LEFT JOIN (
                SELECT hospitalid, CASE WHEN min(region) = max(region) THEN min(region) END
                    AS region
                FROM hospital GROUP BY hospitalid
            ) h ON p.hospitalid = h.hospitalid
        )
        WINDOW earlier AS (
            PARTITION BY hospital_stay ORDER BY start, number
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
    )
"""

#: How many stays are in hospitals that the other table does not have, or has in two regions; and
#: how many have a status that is none.
DOUBTS = """
    SELECT count(*) FILTER (hospitalid NOT IN (SELECT hospitalid FROM hospital
            WHERE hospitalid IS NOT NULL)) AS unknown,
        count(*) FILTER (hospitalid IN (SELECT hospitalid FROM hospital
            GROUP BY hospitalid HAVING min(region) <> max(region))) AS two,
        count(*) FILTER (unitdischargestatus NOT IN ('Alive', 'Expired')
            OR hospitaldischargestatus NOT IN ('Alive', 'Expired')) AS status
    FROM patient
"""
