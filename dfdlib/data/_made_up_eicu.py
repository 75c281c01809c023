"""Made-up patients in the schema of eICU 2.0: stays, and the tables with one row per stay."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dfdlib.data._made_up_draw import Columns, blank, pick, words

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
