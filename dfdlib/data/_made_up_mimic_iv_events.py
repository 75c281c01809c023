"""Made-up events in the schema of MIMIC-IV 2.2: laboratory, drugs, discharge notes."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dfdlib.data._made_up_draw import Columns, blank, pick, words
from dfdlib.data._made_up_mimic_iv import DAY, Admissions, blank_words, moments

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
