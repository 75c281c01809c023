"""Made-up codes in the schema of MIMIC-IV 2.2: diagnoses, procedures, and their dictionaries."""

import numpy as np
import pyarrow as pa

from dfdlib.data._made_up_draw import Columns, words
from dfdlib.data._made_up_mimic_iv import Admissions, days

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
