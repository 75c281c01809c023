"""Made-up patients in the schema of MIMIC-IV 2.2: patients, admissions, and what they depend on."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dfdlib.book.made_up.draw import Columns, blank, pick, words

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


# ---------------- Made-up codes in the schema of MIMIC-IV 2.2: diagnoses, procedures, and their
# dictionaries

# code of ICD-9, of ICD-10, their titles, share, and how much likelier per unit of severity
DIAGNOSES = (
    ("0389", "A419", "Unspecified septicemia", "Sepsis, unspecified organism", 0.10, 0.9),
    (
        "5849",
        "N179",
        "Acute kidney failure, unspecified",
        "Acute kidney failure, unspecified",
        0.16,
        0.7,
    ),
    (
        "4280",
        "I509",
        "Congestive heart failure, unspecified",
        "Heart failure, unspecified",
        0.18,
        0.4,
    ),
    (
        "25000",
        "E119",
        "Diabetes mellitus without mention of complication",
        "Type 2 diabetes mellitus without complications",
        0.18,
        0.1,
    ),
    (
        "4019",
        "I10",
        "Unspecified essential hypertension",
        "Essential (primary) hypertension",
        0.40,
        -0.2,
    ),
    (
        "1985",
        "C7951",
        "Secondary malignant neoplasm of bone and bone marrow",
        "Secondary malignant neoplasm of bone",
        0.03,
        0.9,
    ),
    (
        "00845",
        "A0472",
        "Intestinal infection due to Clostridium difficile",
        "Enterocolitis due to Clostridium difficile, not recurrent",
        0.04,
        0.4,
    ),
    ("V667", "Z515", "Encounter for palliative care", "Encounter for palliative care", 0.03, 1.3),
    ("78650", "R079", "Chest pain, unspecified", "Chest pain, unspecified", 0.10, -0.7),
)
PROCEDURES = (
    (
        "9604",
        "0BH17EZ",
        "Insertion of endotracheal tube",
        "Insertion of Endotracheal Airway into Trachea",
        0.06,
        1.0,
    ),
    (
        "3995",
        "5A1D70Z",
        "Hemodialysis",
        "Performance of Urinary Filtration, Intermittent",
        0.04,
        0.7,
    ),
    (
        "0066",
        "02703ZZ",
        "Percutaneous transluminal coronary angioplasty [PTCA]",
        "Dilation of Coronary Artery, One Artery",
        0.04,
        -0.2,
    ),
    (
        "8952",
        "4A02X4Z",
        "Electrocardiogram",
        "Measurement of Cardiac Electrical Activity",
        0.10,
        0.0,
    ),
)


def coded(
    table: tuple[tuple, ...], stays: Admissions, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, pa.Array, np.ndarray]:
    """Draw who has which entry: admission, position among its entries, code, version."""
    share = np.array([row[4] for row in table])
    odds = np.log(share / (1 - share)) + np.outer(stays.severity, [row[5] for row in table])
    k, entry = np.nonzero(rng.random(odds.shape) < 1 / (1 + np.exp(-odds)))
    first = np.flatnonzero(np.diff(k, prepend=-1))
    position = np.arange(len(k)) - np.repeat(first, np.diff(np.append(first, len(k)))) + 1
    new = (stays.era[stays.who[k]] >= 2).astype(int)
    codes = [code for row in table for code in row[:2]]
    return k, position, words(2 * entry + new, codes), 9 + new


def diagnoses_icd(stays: Admissions, rng: np.random.Generator) -> Columns:
    """Draw the table `diagnoses_icd`: codes with leading zeros."""
    k, position, code, version = coded(DIAGNOSES, stays, rng)
    return {
        "subject_id": stays.subject[k],
        "hadm_id": stays.hadm[k],
        "seq_num": position,
        "icd_code": code,
        "icd_version": version,
    }


def procedures_icd(stays: Admissions, rng: np.random.Generator) -> Columns:
    """Draw the table `procedures_icd`."""
    k, position, code, version = coded(PROCEDURES, stays, rng)
    inside = (rng.random(len(k)) * (stays.end - stays.start)[k]).astype(np.int64)
    return {
        "subject_id": stays.subject[k],
        "hadm_id": stays.hadm[k],
        "seq_num": position,
        "chartdate": days(stays.start[k] + inside, np.zeros(len(k), bool)),
        "icd_code": code,
        "icd_version": version,
    }


def titles(table: tuple[tuple, ...]) -> Columns:
    """Write the dictionary of a table of codes."""
    rows = [(row[i], 9 + i, row[2 + i]) for i in (0, 1) for row in table]
    return dict(
        zip(("icd_code", "icd_version", "long_title"), zip(*rows, strict=True), strict=True)
    )


# ---------------- Made-up events in the schema of MIMIC-IV 2.2: laboratory, drugs, discharge
# notes

# item: label, fluid, category, unit, normal from, to, median, spread, shift per unit of severity,
# decimals; spread and shift are of the logarithm where the label ends in *
ITEMS = {
    50912: ("Creatinine*", "Blood", "Chemistry", "mg/dL", 0.5, 1.2, 1.0, 0.4, 0.35, 1),
    50971: ("Potassium", "Blood", "Chemistry", "mEq/L", 3.3, 5.1, 4.1, 0.5, 0.1, 1),
    50983: ("Sodium", "Blood", "Chemistry", "mEq/L", 133, 145, 139, 4.0, -0.5, 0),
    50882: ("Bicarbonate", "Blood", "Chemistry", "mEq/L", 22, 32, 25, 3.5, -1.5, 0),
    50931: ("Glucose*", "Blood", "Chemistry", "mg/dL", 70, 105, 120, 0.3, 0.05, 0),
    51221: ("Hematocrit", "Blood", "Hematology", "%", 36, 48, 34, 5.5, -1.5, 1),
    51265: ("Platelet Count*", "Blood", "Hematology", "K/uL", 150, 440, 210, 0.4, -0.1, 0),
    51301: ("White Blood Cells*", "Blood", "Hematology", "K/uL", 4, 11, 8.5, 0.4, 0.15, 1),
    50885: ("Bilirubin, Total*", "Blood", "Chemistry", "mg/dL", 0, 1.5, 0.6, 0.6, 0.3, 1),
    50813: ("Lactate*", "Blood", "Blood Gas", "mmol/L", 0.5, 2.0, 1.6, 0.4, 0.35, 1),
    50820: ("pH", "Blood", "Blood Gas", "units", 7.35, 7.45, 7.38, 0.07, -0.04, 2),
    51491: ("pH", "Urine", "Hematology", "units", 5, 8, 6.0, 0.8, 0.0, 1),
    51516: ("WBC*", "Urine", "Hematology", "#/hpf", 0, 5, 4, 1.2, 0.1, 0),
}
PANELS = {
    (50912, 50971, 50983, 50882, 50931): (1.2, 0.97),  # per day, and in how many admissions
    (51221, 51265, 51301): (1.0, 0.97),
    (50885,): (0.4, 0.5),
    (50813, 50820): (0.9, None),  # of the sicker
    (51491, 51516): (0.2, 0.4),
}
NUMBERS = np.array(list(ITEMS))

DRUGS = (
    ("Furosemide", 0.30, 0.4),
    ("0.9% Sodium Chloride", 0.50, 0.1),
    ("Acetaminophen", 0.60, 0.0),
    ("Vancomycin", 0.25, 0.7),
    ("NORepinephrine", 0.06, 1.4),
    ("Morphine Sulfate", 0.20, 0.5),
    ("Heparin", 0.50, 0.0),
    ("Ibuprofen", 0.10, -0.7),
)
SENTENCES = (
    ("The patient was admitted with septic shock, required vasopressors and intubation.", 1.3),
    ('Goals of care were discussed; the family wished for "comfort measures".', 1.5),
    ("Course was complicated by acute kidney injury, creatinine peaked at ___.", 0.8),
    ("Pneumonia was treated with vancomycin, cefepime.", 0.5),
    ("Tolerated a regular diet, ambulated without assistance.", -1.0),
    ("Chest pain resolved; stress test was normal.", -0.9),
    ("Diuresed with IV furosemide to ___ kg.", 0.3),
)


def d_labitems() -> Columns:
    """Write the dictionary of laboratory items: one name may belong to two fluids."""
    label, fluid, category = zip(*(item[:3] for item in ITEMS.values()), strict=True)
    return {
        "itemid": NUMBERS,
        "label": [name.rstrip("*") for name in label],
        "fluid": fluid,
        "category": category,
    }


def labevents(stays: Admissions, rng: np.random.Generator) -> Columns:
    """Draw the table `labevents`: text for numbers, no admission, after discharge, double rows."""
    who, when, item = [], [], []
    length = (stays.end - stays.start) / DAY
    for numbers, (daily, share) in PANELS.items():
        odds = 1 / (1 + np.exp(0.8 - 0.9 * stays.severity)) if share is None else share
        k = np.flatnonzero(rng.random(len(stays)) < odds)
        k = np.repeat(k, rng.poisson((length[k].clip(0, 20) + 0.3) * daily))
        # from the emergency department to a little after discharge
        t = stays.start[k] + (rng.uniform(-0.3, length[k] + 0.2) * DAY).astype(np.int64)
        places = np.flatnonzero(np.isin(NUMBERS, numbers))
        who.append(np.repeat(k, len(places)))
        when.append(np.repeat(t - t % 60, len(places)))
        item.append(np.tile(places, len(k)))
    k, t, i = map(np.concatenate, (who, when, item))
    keep = np.flatnonzero(rng.random(len(k)) > 0.04)
    order = np.sort(np.append(keep, rng.choice(keep, len(keep) // 300)))
    new = np.diff(order, prepend=-1) > 0
    k, t, i = k[order], t[order], i[order]
    size = len(k)

    label, _, _, unit, low, high, median, spread, shift, digits = zip(*ITEMS.values(), strict=True)
    skewed = np.array([name.endswith("*") for name in label])[i]
    move = np.array(spread)[i] * rng.standard_normal(size)
    move += np.array(shift)[i] * stays.severity[k]
    middle, scale = np.array(median, float)[i], 10.0 ** np.array(digits)[i]
    value = np.where(skewed, middle * np.exp(np.where(skewed, move, 0)), middle + move)
    value = np.maximum(np.round(value * scale), 0) / scale
    value[~new] = value[np.flatnonzero(~new) - 1]
    text = rng.random(size) < 0.01
    spoken = pick(rng, {"___": 3, "HEMOLYZED": 1, ">300": 1, "<0.1": 1}, size).cast(pa.string())
    outside = (value < np.array(low, float)[i]) | (value > np.array(high, float)[i])
    number = pa.array(value, mask=text)
    serial = np.cumsum(new)
    return {
        "labevent_id": 512 * stays.number[0] + serial,
        "subject_id": stays.subject[k],
        "hadm_id": blank(stays.hadm[k], (t > stays.end[k]) | (t < stays.start[k] - 7200)),
        "specimen_id": 40_000_000 + 512 * stays.number[0] + serial // 4,
        "itemid": NUMBERS[i],
        "order_provider_id": pick(rng, {"P49AFC": 1, "P784FA": 1}, size, missing=0.6),
        "charttime": moments(t),
        "storetime": moments(t + rng.integers(10, 120, size) * 60, rng.random(size) < 0.01),
        "value": pc.if_else(pa.array(text), spoken, pc.cast(number, pa.string())),
        "valuenum": number,
        "valueuom": words(i, unit),
        "ref_range_lower": np.array(low, float)[i],
        "ref_range_upper": np.array(high, float)[i],
        "flag": words(np.where(outside & ~text, 0, -1), ("abnormal",)),
        "priority": pick(rng, {"ROUTINE": 1, "STAT": 1}, size, missing=0.1),
        "comments": blank_words(size),
    }


def prescriptions(stays: Admissions, rng: np.random.Generator) -> Columns:
    """Draw the table `prescriptions`: some without a beginning, some written twice."""
    share, effect = np.array([row[1:] for row in DRUGS]).T
    odds = np.log(share / (1 - share)) + np.outer(stays.severity, effect)
    k, drug = np.nonzero(rng.random(odds.shape) < 1 / (1 + np.exp(-odds)))
    start = stays.start[k] + (rng.random(len(k)) * (stays.end - stays.start)[k]).astype(np.int64)
    order = np.sort(np.append(np.arange(len(k)), rng.choice(len(k), len(k) // 200)))
    k, drug, size = k[order], drug[order], len(order)
    start = start[order] - start[order] % 3600
    absent = rng.random(size) < 0.005
    return {
        "subject_id": stays.subject[k],
        "hadm_id": stays.hadm[k],
        "pharmacy_id": 10_000_000 + 16 * stays.number[k] + drug,
        "poe_id": blank_words(size),
        "poe_seq": rng.integers(1, 400, size),
        "order_provider_id": pick(rng, {"P49AFC": 1, "P784FA": 1}, size, missing=0.1),
        "starttime": moments(start, absent),
        "stoptime": moments(start + rng.integers(1, 96, size) * 3600, absent),
        "drug_type": pick(rng, {"MAIN": 8, "BASE": 2}, size),
        "drug": words(drug, [row[0] for row in DRUGS]),
        "formulary_drug_cd": blank_words(size),
        "gsn": pick(rng, {"008205": 1, "001210": 1}, size, missing=0.2),
        "ndc": pick(rng, {"00338004904": 1, "0": 1}, size),
        "prod_strength": pick(rng, {"1 mg Tab": 1, "100mL Bag": 1}, size),
        "form_rx": blank_words(size),
        "dose_val_rx": pick(rng, {"1": 1, "650-1000": 1}, size),
        "dose_unit_rx": pick(rng, {"mg": 1, "mL": 1}, size),
        "form_val_disp": pick(rng, {"1": 1, "0.5": 1}, size),
        "form_unit_disp": pick(rng, {"TAB": 1, "BAG": 1}, size),
        "doses_per_24_hrs": blank(rng.integers(1, 5, size), rng.random(size) < 0.3),
        "route": pick(rng, {"IV": 1, "PO": 1}, size),
    }


def discharge(stays: Admissions, rng: np.random.Generator) -> Columns:
    """Draw the table `discharge`: notes over many lines, some without the section that is read."""
    k = np.flatnonzero((rng.random(len(stays)) < 0.8) & ~stays.donor)
    chance = 1 / (1 + np.exp(1.2 - np.outer(stays.severity[k], [s[1] for s in SENTENCES])))
    said = rng.random(chance.shape) < chance
    headed = rng.random(len(k)) < 0.93
    texts = []
    for has, row in zip(headed, said, strict=True):
        course = "\n".join(SENTENCES[j][0] for j in np.flatnonzero(row))
        texts.append(
            " \nName:  ___                     Unit No:   ___\n \nAllergies: \nPenicillins\n \n"
            + (
                f"Brief Hospital Course:\n{course}\n \nMedications on Admission:\n"
                if has
                else course
            )
            + '1. Aspirin 81 mg PO DAILY\n2. "Other" drugs, as before\n \n'
            + "Followup Instructions:\n___\n"
        )
    written = stays.end[k] + rng.integers(0, 72, len(k)) * 3600
    return {
        "note_id": [
            f"{s}-DS-{n % 90 + 2}" for s, n in zip(stays.subject[k], stays.number[k], strict=True)
        ],
        "subject_id": stays.subject[k],
        "hadm_id": stays.hadm[k],
        "note_type": ["DS"] * len(k),
        "note_seq": stays.number[k] % 90 + 2,
        "charttime": moments(stays.end[k] - stays.end[k] % DAY),
        "storetime": moments(written),
        "text": texts,
    }
