"""How eICU is described: names and units, what each modality is made of, who is in a cohort."""

from collections.abc import Sequence

from dfdlib.data._clinical_study import Codes, Events, Feature, Modality, Series, Vector
from dfdlib.data._flow import Rule

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

# Worst values of the first 24 hours, without the time at which each was seen.
FIRST_DAY = ("apache", "blood_gas")
GAS = ("ph", "pao2", "pco2", "fio2")

STAY = "patientunitstayid"


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

# A stay whose hospital stay is not told is one of its own.
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
