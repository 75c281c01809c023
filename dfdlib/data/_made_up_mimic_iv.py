"""Made-up patients in the schema of MIMIC-IV 2.2: patients, admissions, and what they depend on."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dfdlib.data._made_up_draw import Columns, blank, pick, words

MOST_ADMISSIONS = 8  # per patient
DAY = 86_400  # seconds, in which all times here are counted

RACES = {
    "WHITE": 60, "BLACK/AFRICAN AMERICAN": 14, "HISPANIC/LATINO - PUERTO RICAN": 4, "ASIAN": 3,
    "WHITE - RUSSIAN": 2, "PORTUGUESE": 1, "OTHER": 4, "UNKNOWN": 3,
    "PATIENT DECLINED TO ANSWER": 1,
}  # fmt: skip
ERAS = ("2008 - 2010", "2011 - 2013", "2014 - 2016", "2017 - 2019")


@dataclass(frozen=True)
class Admissions:
    """Hospital admissions of a block of patients, with what is never written: how ill they are.

    Args:
        first: number of the first patient of the block.
        who: position of the patient in the block, per admission.
        number: of the admission, over all patients.
        start: seconds since 1970 at admission.
        end: at discharge.
        severity: how ill, mean 0 and standard deviation about 1.
        died: in the hospital.
        donor: an admission after death.
        age: in the anchor year, per patient.
        year: the anchor year, per patient.
        era: position in `ERAS`, per patient; ICD-10 is used in the last two.
        death: seconds since 1970, per patient; NaT as the smallest integer where not known.
    """

    first: int
    who: np.ndarray
    number: np.ndarray
    start: np.ndarray
    end: np.ndarray
    severity: np.ndarray
    died: np.ndarray
    donor: np.ndarray
    age: np.ndarray
    year: np.ndarray
    era: np.ndarray
    death: np.ndarray

    def __len__(self) -> int:
        return len(self.number)

    @property
    def subject(self) -> np.ndarray:
        """`subject_id` per admission."""
        return 10_000_032 + self.first + self.who

    @property
    def hadm(self) -> np.ndarray:
        """`hadm_id`."""
        return 20_000_019 + 3 * self.number


NEVER = np.iinfo(np.int64).min


def draw_admissions(first: int, size: int, rng: np.random.Generator) -> Admissions:
    """Draw the admissions of `size` patients, the first of whom has number `first`.

    Death in hospital or within a year, and a return within 15 days, depend on severity. One in
    ten who died in hospital is "admitted" again a minute after, as organ donors are.
    """
    times = np.minimum(1 + rng.poisson(0.9, size), MOST_ADMISSIONS - 1)
    who = np.repeat(np.arange(size), times)
    rank = np.arange(len(who)) - np.repeat(np.cumsum(times) - times, times)
    age = np.clip(rng.normal(60, 18, size), 18, 91).astype(int)
    year = rng.integers(2110, 2190, size)
    era = rng.integers(len(ERAS), size=size)
    severity = 0.7 * rng.normal(size=size)[who] + 0.7 * rng.normal(size=len(who))
    length = np.exp(rng.normal(1.0, 0.85, len(who)) + 0.25 * severity) * DAY
    soon = rng.random(len(who)) < 1 / (1 + np.exp(1.0 - 0.8 * severity))
    gap = np.where(soon, rng.uniform(1, 15, len(who)), rng.exponential(300, len(who)) + 15) * DAY
    origin = (year - 1970) * 365.2425 * DAY + rng.uniform(1, 364, size) * DAY
    start = origin[who].astype(np.int64)
    for number in range(1, MOST_ADMISSIONS):
        k = np.flatnonzero(rank == number)
        start[k] = start[k - 1] + length[k - 1] + gap[k - 1]
    start -= start % 60
    end = start + (length.astype(np.int64) // 60 + 1) * 60

    last = np.append(who[1:] != who[:-1], True)
    odds = -4.6 + 1.5 * severity + 0.03 * (age[who] - 60)
    died = last & (rng.random(len(who)) < 1 / (1 + np.exp(-odds)))
    later = ~died & last & (rng.random(len(who)) < 1 / (1 + np.exp(-odds - 2.2)))
    wait = rng.exponential(70, len(who)).clip(0, 365)
    death = np.full(size, NEVER)
    death[who[died]] = end[died]
    death[who[later]] = end[later] + (wait[later] * DAY).astype(np.int64)

    donors = np.flatnonzero(died & (rng.random(len(who)) < 0.1))
    order = np.argsort(np.append(np.arange(len(who)), donors + 0.5), kind="stable")

    def joined(values: np.ndarray, of_donors: np.ndarray) -> np.ndarray:
        return np.append(values, of_donors)[order]

    return Admissions(
        first=first,
        who=joined(who, who[donors]),
        number=MOST_ADMISSIONS * first + np.arange(len(order)),
        start=joined(start, end[donors] + 60),
        end=joined(end, end[donors] + 60 + 5 * 3600),
        severity=joined(severity, severity[donors]),
        died=joined(died, np.ones(len(donors), bool)),
        donor=joined(np.zeros(len(who), bool), np.ones(len(donors), bool)),
        age=age,
        year=year,
        era=era,
        death=death,
    )


def moments(seconds: np.ndarray, where: np.ndarray | None = None) -> pa.Array:
    """Write seconds since 1970 as times; where a mask says so nothing is known."""
    return pa.array(seconds.astype("datetime64[s]"), mask=where)


def days(seconds: np.ndarray, where: np.ndarray) -> pa.Array:
    """Write seconds since 1970 as days."""
    known = np.where(where, 0, seconds)
    return pa.array(known.astype("datetime64[s]").astype("datetime64[D]"), mask=where)


def patients(stays: Admissions, rng: np.random.Generator) -> Columns:
    """Draw the table `patients`."""
    size = len(stays.age)
    return {
        "subject_id": 10_000_032 + stays.first + np.arange(size),
        "gender": pick(rng, {"F": 52, "M": 48}, size),
        "anchor_age": stays.age,
        "anchor_year": stays.year,
        "anchor_year_group": words(stays.era, ERAS),
        "dod": days(stays.death, stays.death == NEVER),
    }


def admissions(stays: Admissions, rng: np.random.Generator) -> Columns:
    """Draw the table `admissions`."""
    k = len(stays)
    emergency = rng.random(k) < 0.6
    arrived = stays.start - rng.integers(1, 12, k) * 3600
    deaths = stays.died & ~stays.donor
    home = {"HOME": 5, "HOME HEALTH CARE": 3, "SKILLED NURSING FACILITY": 3, "HOSPICE": 0.3}
    leaving = np.array(pick(rng, home, k, missing=0.05).to_pylist(), object)
    leaving[stays.died] = "DIED"
    return {
        "subject_id": stays.subject,
        "hadm_id": stays.hadm,
        "admittime": moments(stays.start),
        "dischtime": moments(stays.end),
        "deathtime": moments(stays.end, ~deaths),
        "admission_type": pick(rng, {"EW EMER.": 4, "URGENT": 2, "ELECTIVE": 1}, k),
        "admit_provider_id": pick(rng, {"P49AFC": 1, "P784FA": 1, "P06OTX": 1}, k, missing=0.01),
        "admission_location": pick(rng, {"EMERGENCY ROOM": 5, "PHYSICIAN REFERRAL": 3}, k),
        "discharge_location": pa.array(leaving, pa.string()),
        "insurance": pick(rng, {"Other": 5, "Medicare": 4, "Medicaid": 1}, k),
        "language": pick(rng, {"ENGLISH": 9, "?": 1}, k),
        "marital_status": pick(rng, {"MARRIED": 4, "SINGLE": 4, "WIDOWED": 1}, k, missing=0.02),
        "race": pick(rng, RACES, k),
        "edregtime": moments(arrived, ~emergency),
        "edouttime": moments(arrived + 3600, ~emergency),
        "hospital_expire_flag": stays.died.astype(int),
    }


def blank_words(size: int) -> pa.Array:
    """A column of text that holds nothing."""
    return blank(np.full(size, "", object), np.ones(size, bool))
