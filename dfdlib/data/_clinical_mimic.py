"""How MIMIC-IV is described: what each modality is made of, who is in a cohort, and the labels."""

from dfdlib.data._clinical_study import Codes, Events, Feature, Modality, Series, Vector
from dfdlib.data._flow import Rule

_HOURS = "epoch({} - u.origin) / 3600"

#: A laboratory item is read where its label holds one of these.
LAB_LABELS = (
    *("Hematocrit", "Platelet", "WBC", "Bilirubin", "pH"),
    *("Bicarbonate", "Creatinine", "Lactate", "Potassium", "Sodium"),
)
_LABS = " OR ".join(f"contains(label, '{label}')" for label in LAB_LABELS)


def _race(*starts: str) -> Feature:
    """Whether the race told begins with one of these; missing where none is told."""
    told = "race IS NOT NULL AND NOT regexp_matches(race, '^(UNKNOWN|UNABLE|PATIENT DECLINED)')"
    return Feature(f"CASE WHEN {told} THEN regexp_matches(race, '^({'|'.join(starts)})')::INT END")


def _icd(table: str, time: str, recorded: str) -> Events:
    # ICD-9 and ICD-10 share codes, and 0389 is not 389
    return Events(
        key=f"{table}.hadm_id",
        source=table,
        tables=(table,),
        time=time,
        recorded=recorded,
        word=f"'{table}: ' || icd_version || ' ' || trim(icd_code)",
        owner=f"{table}.subject_id",
        alike=f"'{table}: ' || icd_version || ' ' || "
        "upper(regexp_replace(icd_code, '[\\s.]', '', 'g'))",
    )


#: What each modality is made of. The prediction is made at discharge.
MODALITIES: dict[str, Modality] = {
    "demographics": Vector(
        key="hadm_id",
        source="admissions JOIN patients USING (subject_id)",
        tables=("admissions", "patients"),
        features={
            "age": Feature("anchor_age + year(admittime) - anchor_year", "years"),
            "male": Feature(
                "CASE upper(trim(gender)) WHEN 'M' THEN 1 WHEN 'F' THEN 0 END",
                unread="upper(trim(gender)) NOT IN ('M', 'F', '')",
            ),
            "asian": _race("ASIAN"),
            "black": _race("BLACK"),
            "hispanic": _race("HISPANIC", "SOUTH AMERICAN"),
            "white": _race("WHITE", "PORTUGUESE"),
        },
    ),
    # DIFF: MUSE reads the lower-cased titles of the last 50 codes with a language model; here codes
    # are themselves, with their version, and all of the admission are read.
    "codes": Codes(
        (
            # coded for billing after discharge, of the whole stay: without a time of their own
            _icd("diagnoses_icd", "0", "u.cut"),
            # known by their day alone; those of the day of discharge are of the stay that ends then
            _icd("procedures_icd", _HOURS.format("chartdate::TIMESTAMP"), "chartdate::TIMESTAMP"),
            Events(
                key="prescriptions.hadm_id",
                source="prescriptions",
                tables=("prescriptions",),
                time=_HOURS.format("starttime"),
                recorded="starttime",
                clocked=True,
                word="'prescriptions: ' || lower(trim(drug))",
                owner="prescriptions.subject_id",
            ),
        )
    ),
    "labs": Series(
        Events(
            key="labevents.hadm_id",
            source="labevents",
            tables=("labevents", "d_labitems"),
            time=_HOURS.format("coalesce(storetime, charttime)"),
            recorded="coalesce(storetime, charttime)",
            clocked=True,
            value="valuenum",
            flag="2 * itemid + coalesce(labevents.flag = 'abnormal', false)::INT",
            where=f"itemid IN (SELECT itemid FROM d_labitems WHERE {_LABS})",
            measured=True,
            item="itemid",
            unit="valueuom",
            owner="labevents.subject_id",
        ),
        {},
    ),
}

#: How many items have such a name in other letters, and are not read.
RESPELT = f"""
    SELECT count(*) AS n FROM d_labitems
    WHERE regexp_matches(label, '(?i)\\b({"|".join(LAB_LABELS)})\\b') AND NOT ({_LABS})
"""

#: The part of a discharge summary that is read, between these headings.
SECTION = ("Brief Hospital Course:", "Medications on Admission:")
NOTES = f"""
    SELECT u.position, substr(text, began, ended - began) AS note FROM (
        SELECT hadm_id, arg_min(text, note_id) AS text FROM discharge GROUP BY hadm_id
    ) JOIN unit u ON hadm_id = u.id, LATERAL (
        SELECT strpos(text, '{SECTION[0]}') + {len(SECTION[0])} AS began
    ), LATERAL (
        SELECT began - 1 + strpos(substr(text, began), '{SECTION[1]}') AS ended
    ) WHERE strpos(text, '{SECTION[0]}') > 0 AND ended >= began ORDER BY position
"""

#: Who stays, in order. The last rule is ours: a few donors of organs are admitted after they died.
RULES = (
    Rule("discharged at a known time", "dischtime IS NOT NULL"),
    Rule("in hospital for at most 10 days", "dischtime - admittime <= INTERVAL 10 DAYS"),
    Rule("aged 18 or more", "age >= 18"),
    Rule("aged 89 or less", "age <= 89"),
    Rule("left the hospital alive", "coalesce(hospital_expire_flag, 0) = 0"),
    Rule("of a patient who was never admitted after death", "NOT after_death"),
)

#: Faults of the tables; each is in the flow where it leaves somebody out.
FAULTS = (
    Rule("with an identifier of admission and patient",
         "id IS NOT NULL AND patient IS NOT NULL", True),
    Rule("of a patient who is in the table patients", "person IS NOT NULL", True),
    Rule("told once, or alike each time", "NOT twice", True),
    Rule("that ends no earlier than it begins", "NOT backwards", True),
)  # fmt: skip
#: Where the label is read off the patient's other admissions.
BESIDE = Rule("of a patient of whom no other admission is told wrongly", "NOT beside_fault", True)
BY_OTHERS = {("mortality", "published"), ("readmission", "complete"), ("readmission", "published")}

_DAYS = "floor((epoch({}) - epoch(dischtime)) / 86400)"
_DEAD = f"{_DAYS.format('dod::TIMESTAMP')} <= 90"
_NEXT = f"{_DAYS.format('following')} > 90"

#: SQL of each label; `following` is the next admission, `back` the next that begins after this
#: one has ended.
LABELS = {
    ("mortality", "complete"): f"coalesce({_DEAD}, false)::INT",
    ("mortality", "published"): f"CASE WHEN dod IS NOT NULL THEN ({_DEAD})::INT "
    f"WHEN {_NEXT} THEN 0 END",
    ("readmission", "complete"): f"coalesce({_DAYS.format('back')} <= 15, false)::INT",
    ("readmission", "published"): f"({_DAYS.format('following')} <= 15)::INT",
}

_BACKWARDS = "coalesce(least(a.dischtime, a.deathtime) < a.admittime, false)"
_TWICE = "count(*) OVER (PARTITION BY a.hadm_id) > 1 AND a.hadm_id IS NOT NULL"

#: A row per admission, with what rules, labels and groups read.
ADMISSIONS = f"""
    SELECT *, bool_or(twice OR backwards OR admittime IS NULL) OVER (PARTITION BY patient)
        AND count(*) OVER (PARTITION BY patient) > 1 AS beside_fault
    FROM (
    SELECT a.hadm_id AS id, p.subject_id AS person, {_TWICE} AS twice,
        {_BACKWARDS} AS backwards, a.dischtime AS finished,
        a.subject_id AS patient, a.admittime, a.dischtime,
        a.dischtime AS cut, a.admittime AS origin, a.hospital_expire_flag, p.dod,
        p.anchor_age + year(a.admittime) - p.anchor_year AS age,
        CASE upper(trim(p.gender)) WHEN 'M' THEN 'male' WHEN 'F' THEN 'female'
            ELSE 'unknown' END AS sex,
        coalesce(a.race, 'UNKNOWN') AS race, coalesce(a.insurance, 'unknown') AS insurance,
        coalesce(p.anchor_year_group, 'unknown') AS period,
        lead(a.admittime) OVER (PARTITION BY a.subject_id ORDER BY a.admittime, a.hadm_id)
            AS following,
        (SELECT min(b.admittime) FROM admissions b
            WHERE b.subject_id = a.subject_id AND b.hadm_id <> a.hadm_id
            AND b.admittime >= a.dischtime) AS back,
        a.subject_id IN (
            SELECT b.subject_id FROM admissions b JOIN patients q USING (subject_id)
            WHERE b.admittime::DATE > q.dod
            UNION ALL
            SELECT b.subject_id FROM admissions b JOIN admissions c USING (subject_id)
            WHERE b.hadm_id <> c.hadm_id AND c.deathtime <= b.admittime
        ) AS after_death
    FROM admissions a LEFT JOIN patients p ON a.subject_id = p.subject_id
    )
"""
