"""Made-up events in the schema of eICU 2.0: laboratory, vital signs, APACHE, codes."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dfdlib.data._made_up_draw import Columns, blank, words
from dfdlib.data._made_up_eicu import Stays

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
