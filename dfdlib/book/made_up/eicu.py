"""Made-up patients in the schema of eICU 2.0: stays, and the tables with one row per stay."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dfdlib.book.made_up.draw import Columns, blank, pick, words

REGIONS = ("Midwest", "South", "West", "Northeast")
HOSPITALS = 60
MOST_STAYS = 4  # per patient

DIAGNOSES = (
    "Sepsis, pulmonary",
    "Infarction, acute myocardial (MI)",
    "CHF, congestive heart failure",
    "CVA, cerebrovascular accident/stroke",
    "Diabetic ketoacidosis",
    "Endarterectomy, carotid",
    "Rhythm disturbance (atrial, supraventricular)",
    "Bleeding, upper GI",
)
ORGANS = (
    *("Cardiovascular", "Cardiovascular", "Cardiovascular", "Neurologic"),
    *("Metabolic/Endocrine", "Cardiovascular", "Cardiovascular", "Gastrointestinal"),
)
# how much a diagnosis at admission adds to the log odds of death
RISKS = np.array([0.9, 0.2, 0.4, 0.3, -0.8, -1.2, -0.3, 0.1])


@dataclass(frozen=True)
class Stays:
    """ICU stays of a block of patients, with what is never written: how ill they are.

    Args:
        patient: number of the patient.
        number: of the stay, over all patients.
        admission: number of the hospital admission that the stay belongs to.
        visit: which stay of this admission it is, from 1.
        hospital: number of the hospital.
        age: years.
        severity: how ill, mean 0 and standard deviation about 1.
        diagnosis: position in `DIAGNOSES`.
        minutes: length of the stay.
        before: minutes in the hospital before the stay.
        left: minutes from the beginning of the stay to discharge from the hospital.
        died: in the unit.
        died_in_hospital: in the unit, or after the stay.
        scored: whether APACHE was filled in, which it is for six stays in seven.
    """

    patient: np.ndarray
    number: np.ndarray
    admission: np.ndarray
    visit: np.ndarray
    hospital: np.ndarray
    age: np.ndarray
    severity: np.ndarray
    diagnosis: np.ndarray
    minutes: np.ndarray
    before: np.ndarray
    left: np.ndarray
    died: np.ndarray
    died_in_hospital: np.ndarray
    scored: np.ndarray

    def __len__(self) -> int:
        return len(self.number)

    @property
    def id(self) -> np.ndarray:
        """`patientunitstayid`."""
        return 141_764 + 7 * self.number


def draw_stays(first: int, size: int, rng: np.random.Generator) -> Stays:
    """Draw the stays of `size` patients, the first of whom has number `first`.

    Death depends on severity, age, the diagnosis at admission, and on the hospital a little;
    severity moves laboratory values and vital signs, which are drawn elsewhere.
    """
    stays = np.minimum(1 + rng.poisson(0.25, size), MOST_STAYS)
    who = np.repeat(np.arange(size), stays)
    rank = np.arange(len(who)) - np.repeat(np.cumsum(stays) - stays, stays)
    again = rng.random(len(who)) < 0.6  # a later stay belongs to the same hospital admission
    starts = (rank == 0) | ~again
    admission = np.cumsum(starts) - 1
    visit = np.arange(len(who)) - np.flatnonzero(starts)[admission] + 1

    age = np.clip(rng.normal(64, 17, size), 15, 99)[who]
    hospital = rng.integers(HOSPITALS, size=size)[who]
    diagnosis = rng.integers(len(DIAGNOSES), size=len(who))
    severity = 0.6 * rng.normal(size=size)[who] + 0.8 * rng.normal(size=len(who))
    severity += 0.5 * RISKS[diagnosis]
    odds = -3.7 + 1.8 * severity + 0.03 * (age - 64) + RISKS[diagnosis]
    died = rng.random(len(who)) < 1 / (1 + np.exp(-odds - 0.4 * np.sin(hospital)))
    minutes = np.exp(rng.normal(7.7, 0.9, len(who)) + 0.2 * severity).astype(int) + 20
    before = np.exp(rng.normal(5.5, 1.4, len(who))).astype(int)
    between = rng.integers(60, 12_000, len(who))
    for number in range(2, MOST_STAYS + 1):
        k = np.flatnonzero(visit == number)
        before[k] = before[k - 1] + minutes[k - 1] + between[k]
    last = np.append(who[1:] != who[:-1], True)
    died &= last  # nobody dies twice
    later = last & ~died & (rng.random(len(who)) < 0.03 * np.exp(severity))
    after = np.where(died, 0, np.exp(rng.normal(7.5, 1, len(who))).astype(int))
    end = np.append(starts[1:], True)  # the last stay of an admission tells how it ended
    left = (before + minutes + after)[end][admission] - before
    return Stays(
        patient=first + who,
        number=MOST_STAYS * first + np.arange(len(who)),
        admission=MOST_STAYS * first + admission,
        visit=visit,
        hospital=hospital,
        age=age,
        severity=severity,
        diagnosis=diagnosis,
        minutes=minutes,
        before=before,
        left=left,
        died=died,
        died_in_hospital=(died | later)[end][admission],
        scored=rng.random(len(who)) < 0.87,
    )


def patient(stays: Stays, rng: np.random.Generator) -> Columns:
    """Draw the table `patient`: ages as text ("> 89"), some unknown, some under 18."""
    k = len(stays)
    ages = stays.age.astype(int).astype(str).astype(object)
    ages[stays.age >= 90] = "> 89"
    ages[rng.random(k) < 0.002] = None
    unknown = rng.random(k) < 0.01
    height = np.round(rng.normal(170, 10, k), 1)
    height[rng.random(k) < 0.003] = 0.3  # entered in another unit
    weight = np.round(rng.normal(84, 22, k).clip(30), 1)
    clock = [f"{h:02d}:{m:02d}:00" for h in range(24) for m in range(60)]
    times = [words(rng.integers(len(clock), size=k), clock) for _ in range(4)]
    sources = {"Emergency Department": 5, "Operating Room": 2, "Floor": 2, "Direct Admit": 1}
    alive = {"Home": 6, "Skilled Nursing Facility": 2, "Other Hospital": 1}
    return {
        "patientunitstayid": stays.id,
        "patienthealthsystemstayid": 128_919 + 3 * stays.admission,
        "gender": pick(rng, {"Male": 54, "Female": 46, "Unknown": 0.1}, k, missing=0.002),
        "age": pa.array(ages, pa.string()),
        "ethnicity": pick(
            rng,
            {
                "Caucasian": 77,
                "African American": 11,
                "Hispanic": 4,
                "Asian": 2,
                "Other/Unknown": 5,
            },
            k,
            missing=0.01,
        ),
        "hospitalid": 56 + 7 * stays.hospital,
        "wardid": 82 + stays.hospital * 3 + rng.integers(3, size=k),
        "apacheadmissiondx": words(np.where(rng.random(k) < 0.1, -1, stays.diagnosis), DIAGNOSES),
        "admissionheight": blank(height, rng.random(k) < 0.03),
        "hospitaladmittime24": times[0],
        "hospitaladmitoffset": -stays.before,
        "hospitaladmitsource": pick(rng, sources, k, missing=0.2),
        "hospitaldischargeyear": rng.integers(2014, 2016, k),
        "hospitaldischargetime24": times[1],
        "hospitaldischargeoffset": stays.left,
        "hospitaldischargelocation": _where(stays.died_in_hospital, pick(rng, alive, k), "Death"),
        "hospitaldischargestatus": words(
            np.where(unknown, -1, stays.died_in_hospital), ("Alive", "Expired")
        ),
        "unittype": pick(rng, {"Med-Surg ICU": 6, "MICU": 2, "CCU-CTICU": 1, "Neuro ICU": 1}, k),
        "unitadmittime24": times[2],
        "unitadmitsource": pick(rng, sources, k, missing=0.01),
        "unitvisitnumber": stays.visit,
        "unitstaytype": words(np.minimum(stays.visit, 2) - 1, ("admit", "readmit")),
        "admissionweight": blank(weight, rng.random(k) < 0.08),
        "dischargeweight": blank(weight, rng.random(k) < 0.5),
        "unitdischargetime24": times[3],
        "unitdischargeoffset": stays.minutes,
        "unitdischargelocation": _where(stays.died, pick(rng, {"Floor": 7, "Home": 2}, k), "Death"),
        "unitdischargestatus": words(
            np.where(rng.random(k) < 0.001, -1, stays.died), ("Alive", "Expired")
        ),
        "uniquepid": pa.array([f"{p % 97:03d}-{p}" for p in stays.patient]),
    }


def _where(mask: np.ndarray, otherwise: pa.DictionaryArray, word: str) -> pa.Array:
    values = np.array(otherwise.to_pylist(), object)
    values[mask] = word
    return pa.array(values, pa.string())


def hospital() -> Columns:
    """Draw the table `hospital`, always the same; some have told neither region nor size."""
    rng = np.random.default_rng(0)
    beds = {"<100": 3, "100 - 249": 4, "250 - 499": 3, ">= 500": 2}
    region = np.arange(HOSPITALS) % len(REGIONS)
    region[rng.random(HOSPITALS) < 0.1] = -1
    return {
        "hospitalid": 56 + 7 * np.arange(HOSPITALS),
        "numbedscategory": pick(rng, beds, HOSPITALS, missing=0.1),
        "teachingstatus": words(rng.integers(2, size=HOSPITALS), ("f", "t")),
        "region": words(region, REGIONS),
    }


def admission_dx(stays: Stays, rng: np.random.Generator) -> Columns:
    """Draw the table `admissionDx`: three rows for nine stays in ten."""
    k = np.flatnonzero(rng.random(len(stays)) < 0.9)
    surgical = DIAGNOSES[5]
    paths, names = [], []
    for code in stays.diagnosis[k]:
        operative = "Operative" if DIAGNOSES[code] == surgical else "Non-operative"
        names += ["Yes" if operative == "Operative" else "No", ORGANS[code], DIAGNOSES[code]]
        paths += [
            "admission diagnosis|Was the patient admitted from the O.R. or went to the O.R. "
            f"within 4 hours of admission?|{names[-3]}",
            f"admission diagnosis|{operative} Organ Systems|Organ System|{ORGANS[code]}",
            f"admission diagnosis|All Diagnosis|{operative}|Diagnosis|{ORGANS[code]}|{names[-1]}",
        ]
    rows = np.repeat(k, 3)
    return {
        "admissiondxid": 7_000_000 + 3 * stays.number[rows] + np.tile([0, 1, 2], len(k)),
        "patientunitstayid": stays.id[rows],
        "admitdxenteredoffset": np.repeat(rng.integers(1, 300, len(k)), 3),
        "admitdxpath": paths,
        "admitdxname": names,
        "admitdxtext": names,
    }


# ---------------- Made-up codes and APACHE variables in the schema of eICU 2.0

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


# ---------------- Made-up events in the schema of eICU 2.0: laboratory, vital signs, APACHE,
# codes

# panel: how often it is drawn per day, how much more often per unit of severity, in how many stays
PANELS = {
    "chemistry": (1.6, 0.1, 0.98),
    "blood count": (1.4, 0.1, 0.97),
    "blood gas": (1.2, 0.3, None),  # ordered for the sicker: see `_stays_of`
    "liver": (0.5, 0.1, 0.55),
    "lactate": (0.8, 0.3, 0.30),
    "glucose": (4.0, 0.0, 0.60),
    "coagulation": (0.7, 0.1, 0.45),
}
# test: panel, labtypeid, unit, median, spread, shift per unit of severity, decimals;
# spread and shift are of the logarithm where the panel's name ends in *
TESTS = {
    "sodium": ("chemistry", 1, "mmol/L", 138, 4.5, 0.6, 0),
    "potassium": ("chemistry", 1, "mmol/L", 4.1, 0.55, 0.2, 1),
    "chloride": ("chemistry", 1, "mmol/L", 104, 5.5, 0.4, 0),
    "bicarbonate": ("chemistry", 1, "mmol/L", 25, 3.8, -3, 0),
    "BUN": ("chemistry*", 1, "mg/dL", 19, 0.5, 0.5, 0),
    "creatinine": ("chemistry*", 1, "mg/dL", 1.0, 0.45, 0.5, 2),
    "calcium": ("chemistry", 1, "mg/dL", 8.4, 0.7, -0.2, 1),
    "anion gap": ("chemistry", 1, "", 10, 3.5, 1.6, 0),
    "WBC x 1000": ("blood count*", 3, "K/mcL", 9.8, 0.4, 0.24, 1),
    "Hgb": ("blood count", 3, "g/dL", 10.6, 2.0, -0.6, 1),
    "Hct": ("blood count", 3, "%", 32, 5.8, -1.6, 1),
    "platelets x 1000": ("blood count*", 3, "K/mcL", 195, 0.42, -0.2, 0),
    "RBC": ("blood count", 3, "M/mcL", 3.6, 0.65, -0.2, 2),
    "pH": ("blood gas", 7, "", 7.38, 0.07, -0.06, 2),
    "paO2": ("blood gas*", 7, "mm Hg", 92, 0.35, -0.06, 0),
    "paCO2": ("blood gas*", 7, "mm Hg", 39, 0.22, 0.04, 0),
    "HCO3": ("blood gas", 7, "mmol/L", 24, 4.5, -2.4, 0),
    "FiO2": ("blood gas", 7, "%", 45, 15, 12, 0),
    "albumin": ("liver", 1, "g/dL", 3.0, 0.6, -0.4, 1),
    "total bilirubin": ("liver*", 1, "mg/dL", 0.6, 0.6, 0.4, 1),
    "ALT (SGPT)": ("liver*", 1, "Units/L", 28, 0.8, 0.3, 0),
    "AST (SGOT)": ("liver*", 1, "Units/L", 32, 0.8, 0.4, 0),
    "lactate": ("lactate*", 1, "mmol/L", 1.6, 0.5, 0.6, 1),
    "troponin - I": ("lactate*", 1, "ng/mL", 0.05, 1.2, 0.4, 2),
    "bedside glucose": ("glucose*", 4, "mg/dL", 135, 0.3, 0.06, 0),
    "PT - INR": ("coagulation*", 3, "ratio", 1.2, 0.25, 0.16, 1),
}
NAMES = tuple(TESTS)
UNITS = tuple(dict.fromkeys(test[2] for test in TESTS.values()))


def _stays_of(panel: str, stays: Stays, rng: np.random.Generator) -> np.ndarray:
    """Draw in which stays a panel is ordered: blood gas where it is bad, and by hospital."""
    share = PANELS[panel][2]
    odds = -1.2 + 0.9 * stays.severity + 0.6 * np.cos(stays.hospital)
    chance = 1 / (1 + np.exp(-odds)) if share is None else share
    return np.flatnonzero(rng.random(len(stays)) < chance)


def lab(stays: Stays, rng: np.random.Generator) -> Columns:
    """Draw the table `lab`: before the stay too, values under the detection limit, double rows."""
    who, when, code = [], [], []
    for panel, (daily, more, _) in PANELS.items():
        tests = [i for i, name in enumerate(NAMES) if TESTS[name][0].rstrip("*") == panel]
        k = _stays_of(panel, stays, rng)
        days = np.minimum(stays.minutes[k], 20_000) / 1440
        count = rng.poisson((days + 0.3) * daily * np.exp(more * stays.severity[k]))
        k = np.repeat(k, count)
        # some are drawn in the emergency department, before the stay
        t = rng.uniform(-400, np.minimum(stays.minutes[k], 20_000)).astype(int)
        who.append(np.repeat(k, len(tests)))
        when.append(np.repeat(t, len(tests)))
        code.append(np.tile(tests, len(k)))
    k, t, i = map(np.concatenate, (who, when, code))
    keep = np.flatnonzero(rng.random(len(k)) > 0.05)
    order = np.sort(np.append(keep, rng.choice(keep, len(keep) // 300)))  # rows that came twice
    serial = np.cumsum(np.diff(order, prepend=-1) > 0)
    k, t, i = k[order], t[order], i[order]

    new = np.diff(order, prepend=-1) > 0
    value = _value(i, stays, k, t, rng)
    value[~new] = value[np.flatnonzero(~new) - 1]
    low = np.isin(i, [NAMES.index("troponin - I"), NAMES.index("lactate")]) & (value < 0.03)
    value = pa.array(value, mask=low)
    text = pc.if_else(pa.array(low), "<0.03", pc.cast(value, pa.string()))
    unit = np.array([UNITS.index(TESTS[name][2]) for name in NAMES])[i]
    unit = words(np.where(unit == UNITS.index(""), -1, unit), UNITS)
    return {
        "labid": 42_000_000 + 128 * stays.number[0] + serial,
        "patientunitstayid": stays.id[k],
        "labresultoffset": t,
        "labtypeid": np.array([TESTS[name][1] for name in NAMES])[i],
        "labname": words(i, NAMES),
        "labresult": value,
        "labresulttext": text,
        "labmeasurenamesystem": unit,
        "labmeasurenameinterface": unit,
        "labresultrevisedoffset": t + 30,
    }


def _value(
    i: np.ndarray, stays: Stays, k: np.ndarray, t: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw values of tests `i` in stays `k`: those who die get worse over the days."""
    panel, _, _, median, spread, shift, digits = zip(*TESTS.values(), strict=True)
    course = np.where(stays.died, 0.35, -0.15)[k] * np.minimum(t, 10_000) / 1440
    severity = stays.severity[k] + course
    move = np.array(spread)[i] * rng.standard_normal(len(i)) + np.array(shift)[i] * severity
    middle = np.array(median, float)[i]
    skewed = np.array([name.endswith("*") for name in panel])[i]
    value = np.where(skewed, middle * np.exp(np.where(skewed, move, 0)), middle + move)
    scale = 10.0 ** np.array(digits)[i]
    return np.maximum(np.round(value * scale), 0) / scale


def vital_periodic(stays: Stays, rng: np.random.Generator) -> Columns:
    """Draw the table `vitalPeriodic`: here hourly, over at most two days."""
    k = np.repeat(np.arange(len(stays)), np.minimum(stays.minutes, 2880) // 60 + 1)
    first = np.flatnonzero(np.diff(k, prepend=-1))
    t = 60 * (np.arange(len(k)) - first[k]) + rng.integers(0, 5, len(k))
    severity = stays.severity[k] + np.where(stays.died, 0.35, -0.15)[k] * t / 1440
    arterial = (stays.severity + rng.normal(size=len(stays)) < 0.8)[k]  # no arterial line
    mean = (80 - 5 * severity + rng.normal(0, 11, len(k))).round()
    away = rng.random((3, len(k))) < 0.04
    saturation = 97 - severity - rng.gamma(1.5, 1.2, len(k))
    empty = blank(np.zeros(len(k), int), np.ones(len(k), bool))
    return {
        "vitalperiodicid": 37_000_000 + 64 * stays.number[0] + np.arange(len(k)),
        "patientunitstayid": stays.id[k],
        "observationoffset": t,
        "temperature": blank(rng.normal(37, 0.6, len(k)).round(1), rng.random(len(k)) < 0.9),
        "sao2": blank(saturation.clip(50, 100).astype(int), away[0]),
        "heartrate": blank((86 + 6 * severity + rng.normal(0, 13, len(k))).astype(int), away[1]),
        "respiration": blank(
            (19 + 2 * severity + rng.normal(0, 4, len(k))).clip(0).astype(int), away[2]
        ),
        **dict.fromkeys(("cvp", "etco2"), empty),
        "systemicsystolic": blank((mean * 1.45).astype(int), arterial),
        "systemicdiastolic": blank((mean * 0.75).astype(int), arterial),
        "systemicmean": blank(mean.astype(int), arterial),
        **dict.fromkeys(("pasystolic", "padiastolic", "pamean", "st1", "st2", "st3", "icp"), empty),
    }


def vital_aperiodic(stays: Stays, rng: np.random.Generator) -> Columns:
    """Draw the table `vitalAperiodic`: the cuff, every three hours or so."""
    k = np.repeat(np.arange(len(stays)), np.minimum(stays.minutes, 4320) // 180 + 1)
    t = rng.uniform(-30, np.minimum(stays.minutes, 4320)[k]).astype(int)
    severity = stays.severity[k] + np.where(stays.died, 0.35, -0.15)[k] * t / 1440
    mean = (82 - 5 * severity + rng.normal(0, 12, len(k))).round()
    rare = ("paop", "cardiacoutput", "cardiacinput", "svr", "svri", "pvr", "pvri")
    return {
        "vitalaperiodicid": 3_000_000 + 32 * stays.number[0] + np.arange(len(k)),
        "patientunitstayid": stays.id[k],
        "observationoffset": t,
        "noninvasivesystolic": (mean * 1.4).round(),
        "noninvasivediastolic": (mean * 0.78).round(),
        "noninvasivemean": mean,
        **{name: blank(np.zeros(len(k)), np.ones(len(k), bool)) for name in rare},
    }
