"""Made-up codes and APACHE variables in the schema of eICU 2.0."""

import numpy as np

from dfdlib.data._made_up_draw import Columns, blank, pick, words
from dfdlib.data._made_up_eicu import DIAGNOSES, Stays

# a path, its ICD codes, the weight, and how much likelier (log odds) per unit of severity
PROBLEMS = (
    ("pulmonary|respiratory failure|acute respiratory failure", "518.81, J96.00", 0.30, 1.0),
    ("renal|disorder of kidney|acute renal failure", "584.9, N17.9", 0.22, 0.8),
    ("cardiovascular|shock / hypotension|septic shock", "785.52, R65.21", 0.12, 1.2),
    ("cardiovascular|shock / hypotension|hypotension", "458.9, I95.9", 0.16, 0.6),
    ("pulmonary|pulmonary infections|pneumonia", "486, J18.9", 0.18, 0.4),
    ("endocrine|glucose metabolism|diabetes mellitus", "", 0.20, 0.0),
    ("cardiovascular|ventricular disorders|congestive heart failure", "428.0, I50.9", 0.18, 0.1),
    ("cardiovascular|vascular disorders|hypertension", "401.9, I10", 0.20, -0.3),
    ("hematology|bleeding and red blood cell disorders|anemia", "", 0.14, 0.1),
    ("cardiovascular|arrhythmias|atrial fibrillation", "427.31, I48.0", 0.14, 0.1),
    ("neurologic|altered mental status / pain|pain", "338.2", 0.10, -0.5),
    ("infectious diseases|gastrointestinal infections|C. difficile", "008.45, A04.7", 0.04, 0.2),
)
TREATMENTS = (
    ("pulmonary|ventilation and oxygenation|mechanical ventilation", 0.35, 1.0),
    ("cardiovascular|shock|vasopressors|norepinephrine > 0.1 micrograms/kg/min", 0.12, 1.3),
    ("renal|dialysis|C V V H", 0.03, 1.0),
    ("pulmonary|ventilation and oxygenation|oxygen therapy (< 40%)", 0.40, -0.3),
    ("gastrointestinal|medications|stress ulcer prophylaxis|pantoprazole", 0.40, 0.0),
    ("cardiovascular|consultations|Cardiology consultation", 0.15, 0.0),
    ("infectious diseases|medications|therapeutic antibacterials|vancomycin", 0.20, 0.5),
)
DRUGS = (
    ("NOREPINEPHRINE 4 MG IN D5W 250 ML", 0.12, 1.2),
    ("PROPOFOL 1000 MG/100ML IV EMUL", 0.25, 0.8),
    ("VANCOMYCIN HCL 1 G IV SOLR", 0.30, 0.4),
    ("5 ML VIAL : DILTIAZEM HCL 25 MG/5ML IV SOLN", 0.10, 0.0),
    ("ASPIRIN EC 81 MG PO TBEC", 0.35, -0.2),
    ("FUROSEMIDE 40 MG/4ML IV SOLN", 0.25, 0.2),
    ("INSULIN LISPRO (HUMAN) 100 UNIT/ML SC SOLN", 0.40, 0.0),
    ("METOPROLOL TARTRATE 25 MG PO TABS", 0.30, -0.3),
)
ADMIT_CODES = ("SEPSISPULM", "AMI", "CHF", "CVASTROKE", "DKA", "S-CAROTEND", "RHYTHATR", "UGIBLEED")

# worst of the first day: typical value, spread, shift per unit of severity, share never measured
WORST = {
    "urine": (1600.0, 700.0, -320, 0.5),
    "wbc": (11.5, 4.5, 2.4, 0.2),
    "temperature": (36.6, 0.7, 0, 0.05),
    "respiratoryrate": (26.0, 8.0, 6.4, 0.02),
    "sodium": (138.0, 5.0, 0.48, 0.15),
    "heartrate": (104.0, 24.0, 12.8, 0.02),
    "meanbp": (72.0, 26.0, -12.8, 0.02),
    "ph": (7.34, 0.08, -0.064, None),
    "hematocrit": (32.0, 6.0, -1.6, 0.2),
    "creatinine": (1.4, 0.8, 0.8, 0.15),
    "albumin": (3.0, 0.6, -0.32, 0.6),
    "pao2": (105.0, 45.0, -9.6, None),
    "pco2": (40.0, 9.0, 1.6, None),
    "bun": (26.0, 13.0, 9.6, 0.15),
    "glucose": (155.0, 55.0, 12.8, 0.1),
    "bilirubin": (0.9, 0.6, 0.48, 0.6),
    "fio2": (55.0, 20.0, 12.8, None),
}


def _carriers(
    table: tuple[tuple, ...], stays: Stays, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw who has which entry of a table whose last two columns are weight and log odds."""
    share, effect = np.array([row[-2:] for row in table]).T
    odds = np.log(share / (1 - share)) + effect * stays.severity[:, None]
    k, code = np.nonzero(rng.random(odds.shape) < 1 / (1 + np.exp(-odds)))
    return k, code


def _times(stays: Stays, k: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Most entries are made early in a stay, a few before it, some on its last day."""
    early = rng.exponential(600, len(k)) - 30
    return np.where(rng.random(len(k)) < 0.7, early, rng.random(len(k)) * stays.minutes[k]).astype(
        int
    )


def diagnosis(stays: Stays, rng: np.random.Generator) -> Columns:
    """Draw the table `diagnosis`: entered again and again, some without an ICD code."""
    k, code = _carriers(PROBLEMS, stays, rng)
    again = np.repeat(np.arange(len(k)), 1 + rng.poisson(0.6, len(k)))
    k, code = k[again], code[again]
    codes = [row[1] for row in PROBLEMS]
    has_code = np.array([bool(text) for text in codes])[code]
    return {
        "diagnosisid": 3_700_000 + 128 * stays.number[0] + np.arange(len(k)),
        "patientunitstayid": stays.id[k],
        "activeupondischarge": pick(rng, {"True": 1, "False": 1}, len(k)),
        "diagnosisoffset": _times(stays, k, rng),
        "diagnosisstring": words(code, [row[0] for row in PROBLEMS]),
        "icd9code": words(np.where(has_code, code, -1), codes),
        "diagnosispriority": pick(rng, {"Primary": 1, "Major": 2, "Other": 1}, len(k)),
    }


def treatment(stays: Stays, rng: np.random.Generator) -> Columns:
    """Draw the table `treatment`."""
    k, code = _carriers(TREATMENTS, stays, rng)
    return {
        "treatmentid": 8_000_000 + 64 * stays.number[0] + np.arange(len(k)),
        "patientunitstayid": stays.id[k],
        "treatmentoffset": _times(stays, k, rng),
        "treatmentstring": words(code, [row[0] for row in TREATMENTS]),
        "activeupondischarge": pick(rng, {"True": 1, "False": 1}, len(k)),
    }


def medication(stays: Stays, rng: np.random.Generator) -> Columns:
    """Draw the table `medication`: orders cancelled, drugs without a name, early starts."""
    k, code = _carriers(DRUGS, stays, rng)
    size = len(k)
    start = _times(stays, k, rng) - rng.integers(0, 300, size)
    nothing = blank(np.zeros(size, int), np.ones(size, bool))
    return {
        "medicationid": 7_200_000 + 64 * stays.number[0] + np.arange(size),
        "patientunitstayid": stays.id[k],
        "drugorderoffset": start - rng.integers(0, 60, size),
        "drugstartoffset": np.where(rng.random(size) < 0.02, 0, start),
        "drugivadmixture": pick(rng, {"No": 8, "Yes": 2}, size),
        "drugordercancelled": pick(rng, {"No": 95, "Yes": 5}, size),
        "drugname": words(np.where(rng.random(size) < 0.15, -1, code), [row[0] for row in DRUGS]),
        "drughiclseqno": blank(1000 + 17 * code, rng.random(size) < 0.2),
        "dosage": pick(rng, {"1 3": 1, "5 3": 1, "81 3": 1}, size, missing=0.1),
        "routeadmin": pick(rng, {"IV": 1, "PO": 1}, size),
        "frequency": pick(rng, {"Daily": 2, "Once PRN": 1}, size, missing=0.1),
        "loadingdose": nothing,
        "prn": pick(rng, {"No": 8, "Yes": 2}, size),
        "drugstopoffset": start + rng.integers(30, 3000, size),
        "gtc": rng.integers(0, 90, size),
    }


def apache_aps_var(stays: Stays, rng: np.random.Generator) -> Columns:
    """Draw the table `apacheApsVar`: -1 where nothing was measured, most often the blood gas."""
    k = np.flatnonzero(stays.scored)
    severity = stays.severity[k] + np.where(stays.died[k], 0.4, 0.0)
    gas = rng.random(len(k)) < 1 / (1 + np.exp(1.8 - 0.9 * severity))
    ventilated = rng.random(len(k)) < 1 / (1 + np.exp(0.9 - 0.9 * severity))
    deep = rng.binomial(5, 1 / (1 + np.exp(2.5 - 1.1 * severity)))
    unknown = rng.random(len(k)) < 0.015
    worst = {}
    for name, (typical, spread, shift, never) in WORST.items():
        value = typical + shift * severity + spread * rng.standard_normal(len(k))
        digits = 2 if name in ("ph", "creatinine") else 1
        absent = ~gas if never is None else rng.random(len(k)) < never
        worst[name] = np.where(absent, -1, np.maximum(value, 0.1).round(digits))
    return {
        "apacheapsvarid": 8_000 + stays.number[k],
        "patientunitstayid": stays.id[k],
        "intubated": (ventilated & (rng.random(len(k)) < 0.6)).astype(int),
        "vent": ventilated.astype(int),
        "dialysis": (rng.random(len(k)) < 0.035).astype(int),
        "eyes": np.where(unknown, -1, np.maximum(4 - deep, 1)),
        "motor": np.where(unknown, -1, np.maximum(6 - deep, 1)),
        "verbal": np.where(unknown, -1, np.maximum(5 - deep, 1)),
        "meds": np.where(unknown, 1, 0),
        **worst,
    }


def apache_pred_var(stays: Stays, rng: np.random.Generator) -> Columns:
    """Draw the table `apachePredVar`, outcomes and all: nothing may read those."""
    k = np.flatnonzero(stays.scored)
    size = len(k)
    zero, minus = np.zeros(size, int), np.full(size, -1)
    surgery = DIAGNOSES[5]
    elective = np.array([name == surgery for name in DIAGNOSES])[stays.diagnosis[k]]
    history = {
        "aids": 0.002, "hepaticfailure": 0.015, "lymphoma": 0.005, "metastaticcancer": 0.02,
        "leukemia": 0.007, "immunosuppression": 0.03, "cirrhosis": 0.02,
    }  # fmt: skip
    ill = {name: (rng.random(size) < share).astype(int) for name, share in history.items()}
    return {
        "apachepredvarid": 4_000 + stays.number[k],
        "patientunitstayid": stays.id[k],
        "sicuday": zero + 1,
        **dict.fromkeys(("saps3day1", "saps3today", "saps3yesterday"), zero),
        "gender": rng.integers(2, size=size),
        "teachtype": zero,
        "region": stays.hospital[k] % 4 + 1,
        "bedcount": rng.integers(8, 40, size),
        "admitsource": rng.integers(1, 9, size),
        "graftcount": zero + 3,
        "meds": zero,
        "verbal": zero + 5,
        "motor": zero + 6,
        "eyes": zero + 4,
        "age": stays.age[k].astype(int),
        "admitdiagnosis": words(stays.diagnosis[k], ADMIT_CODES),
        "thrombolytics": (rng.random(size) < 0.02).astype(int),
        "diedinhospital": stays.died_in_hospital[k].astype(int),
        **ill,
        "electivesurgery": blank(elective.astype(int), ~elective),
        "activetx": (rng.random(size) < 0.5).astype(int),
        **dict.fromkeys(("readmit", "ima", "midur", "ventday1"), zero),
        **dict.fromkeys(("oobventday1", "oobintubday1"), zero),
        "diabetes": (rng.random(size) < 0.2).astype(int),
        "managementsystem": zero + 1,
        "var03hspxlos": (stays.left[k] / 1440).round(2),
        **dict.fromkeys(("pao2", "fio2", "ejectfx", "creatinine"), minus),
        "dischargelocation": np.where(stays.died[k], 9, 4),
        "visitnumber": stays.visit[k],
        "amilocation": minus,
        "day1meds": zero,
        **dict(
            zip(
                ("day1verbal", "day1motor", "day1eyes"), (zero + 5, zero + 6, zero + 4), strict=True
            )
        ),
        **dict.fromkeys(("day1pao2", "day1fio2"), minus),
    }
