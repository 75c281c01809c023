"""The data sets under access control: what is read of their raw tables, and where they come from.

`TABLES[dataset][table][column]` is a DuckDB type. Only what stands here is read: a column that is
not declared never reaches a parquet file, so the outcome columns of eICU's APACHE tables cannot
reach a model. Tables and columns are found in either case and stored under the names given here.

A DOUBLE is a measurement: text in it ("<0.1") becomes NULL and is counted in the manifest. In any
other type a value that does not fit is an error, for then the file is not what it should be. A name
with `*` or `[` stands for all columns that fit it (Unix shell rules), at least one, save those
that are declared by name; they are stored in upper case.

`SOURCES[dataset]` says where a data set comes from, and how its versions are told apart.
"""

from dataclasses import dataclass, field
from typing import Literal

DatasetName = Literal["eicu", "mimic_iv", "adni", "mimic_cxr"]

LABELS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum"),
    *("Fracture", "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion"),
    *("Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices"),
)

_APACHE = (
    *("urine", "wbc", "temperature", "respiratoryrate", "sodium", "heartrate", "meanbp", "ph"),
    *("hematocrit", "creatinine", "albumin", "pao2", "pco2", "bun", "glucose", "bilirubin", "fio2"),
)
_VITALS = (
    *("temperature", "sao2", "heartrate", "respiration", "cvp", "etco2"),
    *("systemicsystolic", "systemicdiastolic", "systemicmean"),
    *("pasystolic", "padiastolic", "pamean", "icp"),
)
# Conditions before the stay, as APACHE IV asks for them. The table's outcomes (diedinhospital,
# dischargelocation, var03hspxlos, …) are left out.
_HISTORY = (
    *("aids", "hepaticfailure", "lymphoma", "metastaticcancer", "leukemia", "immunosuppression"),
    *("cirrhosis", "diabetes", "electivesurgery", "thrombolytics"),
)

_EICU = {
    "patient": {
        "patientunitstayid": "INTEGER",
        "patienthealthsystemstayid": "INTEGER",
        "uniquepid": "VARCHAR",
        "gender": "VARCHAR",
        "age": "VARCHAR",  # "> 89" is a value
        "ethnicity": "VARCHAR",
        "hospitalid": "INTEGER",
        "wardid": "INTEGER",
        "apacheadmissiondx": "VARCHAR",
        "admissionheight": "DOUBLE",
        "admissionweight": "DOUBLE",
        "hospitaladmitoffset": "INTEGER",
        "hospitaladmitsource": "VARCHAR",
        "hospitaldischargeyear": "INTEGER",
        "hospitaldischargeoffset": "INTEGER",
        "hospitaldischargestatus": "VARCHAR",
        "unittype": "VARCHAR",
        "unitadmitsource": "VARCHAR",
        "unitvisitnumber": "INTEGER",
        "unitstaytype": "VARCHAR",
        "unitdischargeoffset": "INTEGER",
        "unitdischargestatus": "VARCHAR",
    },
    "hospital": {
        "hospitalid": "INTEGER",
        "numbedscategory": "VARCHAR",
        "teachingstatus": "BOOLEAN",
        "region": "VARCHAR",
    },
    "admissiondx": {
        "patientunitstayid": "INTEGER",
        "admitdxenteredoffset": "INTEGER",
        "admitdxpath": "VARCHAR",
    },
    "diagnosis": {
        "patientunitstayid": "INTEGER",
        "diagnosisoffset": "INTEGER",
        "diagnosisstring": "VARCHAR",
        "icd9code": "VARCHAR",
    },
    "treatment": {
        "patientunitstayid": "INTEGER",
        "treatmentoffset": "INTEGER",
        "treatmentstring": "VARCHAR",
    },
    "medication": {
        "patientunitstayid": "INTEGER",
        "drugorderoffset": "INTEGER",
        "drugstartoffset": "INTEGER",
        "drugordercancelled": "VARCHAR",
        "drugname": "VARCHAR",
    },
    "lab": {
        "patientunitstayid": "INTEGER",
        "labresultoffset": "INTEGER",
        "labresultrevisedoffset": "INTEGER",
        "labname": "VARCHAR",
        "labresult": "DOUBLE",
        "labresulttext": "VARCHAR",
        "labmeasurenamesystem": "VARCHAR",
    },
    "vitalperiodic": {
        "patientunitstayid": "INTEGER",
        "observationoffset": "INTEGER",
        **dict.fromkeys(_VITALS, "DOUBLE"),
    },
    "vitalaperiodic": {
        "patientunitstayid": "INTEGER",
        "observationoffset": "INTEGER",
        "noninvasivesystolic": "DOUBLE",
        "noninvasivediastolic": "DOUBLE",
        "noninvasivemean": "DOUBLE",
    },
    "apacheapsvar": {
        "patientunitstayid": "INTEGER",
        **dict.fromkeys(("intubated", "vent", "dialysis", "eyes", "motor", "verbal"), "INTEGER"),
        "meds": "INTEGER",
        **dict.fromkeys(_APACHE, "DOUBLE"),
    },
    "apachepredvar": {
        "patientunitstayid": "INTEGER",
        "admitdiagnosis": "VARCHAR",
        **dict.fromkeys(_HISTORY, "INTEGER"),
    },
}

_MIMIC_IV = {
    "patients": {
        "subject_id": "INTEGER",
        "gender": "VARCHAR",
        "anchor_age": "INTEGER",
        "anchor_year": "INTEGER",
        "anchor_year_group": "VARCHAR",
        "dod": "DATE",
    },
    "admissions": {
        "subject_id": "INTEGER",
        "hadm_id": "INTEGER",
        "admittime": "TIMESTAMP",
        "dischtime": "TIMESTAMP",
        "deathtime": "TIMESTAMP",
        "admission_type": "VARCHAR",
        "admission_location": "VARCHAR",
        "discharge_location": "VARCHAR",
        "insurance": "VARCHAR",
        "race": "VARCHAR",
        "hospital_expire_flag": "INTEGER",
    },
    "diagnoses_icd": {
        "subject_id": "INTEGER",
        "hadm_id": "INTEGER",
        "seq_num": "INTEGER",
        "icd_code": "VARCHAR",  # as text: 0389 is not 389
        "icd_version": "INTEGER",
    },
    "d_icd_diagnoses": {"icd_code": "VARCHAR", "icd_version": "INTEGER", "long_title": "VARCHAR"},
    "procedures_icd": {
        "subject_id": "INTEGER",
        "hadm_id": "INTEGER",
        "seq_num": "INTEGER",
        "chartdate": "DATE",
        "icd_code": "VARCHAR",
        "icd_version": "INTEGER",
    },
    "d_icd_procedures": {"icd_code": "VARCHAR", "icd_version": "INTEGER", "long_title": "VARCHAR"},
    "prescriptions": {
        "subject_id": "INTEGER",
        "hadm_id": "INTEGER",
        "starttime": "TIMESTAMP",
        "stoptime": "TIMESTAMP",
        "drug_type": "VARCHAR",
        "drug": "VARCHAR",
    },
    "d_labitems": {
        "itemid": "INTEGER",
        "label": "VARCHAR",
        "fluid": "VARCHAR",
        "category": "VARCHAR",
    },
    "labevents": {
        "subject_id": "INTEGER",
        "hadm_id": "INTEGER",
        "itemid": "INTEGER",
        "charttime": "TIMESTAMP",
        "storetime": "TIMESTAMP",
        "value": "VARCHAR",
        "valuenum": "DOUBLE",
        "valueuom": "VARCHAR",
        "flag": "VARCHAR",
    },
    "discharge": {
        "note_id": "VARCHAR",
        "subject_id": "INTEGER",
        "hadm_id": "INTEGER",
        "charttime": "TIMESTAMP",
        "storetime": "TIMESTAMP",
        "text": "VARCHAR",
    },
}

# TADPOLE_D1_D2.csv is one wide table. These names give each of the 310 MRI columns once (selecting
# by the two table names that each ends in gives them twice), and 228 of DTI.
_ADNI = {
    "visits": {
        "RID": "INTEGER",
        "PTID": "VARCHAR",
        "VISCODE": "VARCHAR",
        "SITE": "INTEGER",
        "D1": "INTEGER",
        "D2": "INTEGER",
        "COLPROT": "VARCHAR",
        "EXAMDATE": "DATE",
        "DX_bl": "VARCHAR",
        "DXCHANGE": "DOUBLE",
        "AGE": "DOUBLE",
        "PTGENDER": "VARCHAR",
        "PTEDUCAT": "DOUBLE",
        "PTETHCAT": "VARCHAR",
        "PTRACCAT": "VARCHAR",
        "APOE4": "DOUBLE",
        "ST[0-9]*_UCSFFSL_02_01_16_UCSFFSL51ALL_08_01_16": "DOUBLE",
        "EXAMDATE_UCBERKELEYAV45_10_17_16": "VARCHAR",
        "update_stamp_UCBERKELEYAV45_10_17_16": "VARCHAR",
        "*_UCBERKELEYAV45_10_17_16": "DOUBLE",
        "[FMRA][AD]_*_DTIROI_04_30_14": "DOUBLE",
    }
}

_MIMIC_CXR = {
    "metadata": {
        "dicom_id": "VARCHAR",
        "subject_id": "INTEGER",
        "study_id": "INTEGER",
        "ViewPosition": "VARCHAR",
        "Rows": "INTEGER",
        "Columns": "INTEGER",
        "StudyDate": "INTEGER",
        "StudyTime": "VARCHAR",  # 084530.5: hours with their leading zero
    },
    "chexpert": {
        "subject_id": "INTEGER",
        "study_id": "INTEGER",
        **dict.fromkeys(LABELS, "DOUBLE"),
    },
    "split": {
        "dicom_id": "VARCHAR",
        "study_id": "INTEGER",
        "subject_id": "INTEGER",
        "split": "VARCHAR",
    },
}

TABLES: dict[str, dict[str, dict[str, str]]] = {
    "eicu": _EICU,
    "mimic_iv": _MIMIC_IV,
    "adni": _ADNI,
    "mimic_cxr": _MIMIC_CXR,
}

#: Tables that are declared, but that no cohort reads: where they are not there, nothing is lacking.
UNREAD: dict[str, tuple[str, ...]] = {
    "eicu": ("admissiondx", "vitalperiodic"),
    "mimic_iv": ("d_icd_diagnoses", "d_icd_procedures"),
}

# ---------------- where they come from


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Args:
        title: as its owners call it.
        page: where access is asked for.
        stem: the name of a table's file before `.csv` or `.csv.gz`, with {} for the table.
        counts: rows of the tables by which a version is known, per version.
        versions: those of `counts` that the cohorts were written for.
        foreign: a column that a table must not have, and the data set that has it.
    """

    title: str
    page: str
    stem: str = "{}"
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    versions: tuple[str, ...] = ()
    foreign: dict[tuple[str, str], str] = field(default_factory=dict)


SOURCES: dict[str, Source] = {
    "eicu": Source(
        title="the eICU Collaborative Research Database 2.0",
        page="https://physionet.org/content/eicu-crd/2.0/",
        counts={
            "2.0": {"patient": 200_859, "apacheapsvar": 171_177},
            "demo 2.0.1": {"patient": 2_520},
        },
        versions=("2.0", "demo 2.0.1"),
    ),
    "mimic_iv": Source(
        title="MIMIC-IV 2.x or 3.1 with MIMIC-IV-Note",
        page="https://physionet.org/content/mimiciv/2.2/ and "
        "https://physionet.org/content/mimic-iv-note/2.2/",
        counts={
            "2.0": {"patients": 315_460, "admissions": 454_324},
            "2.2": {"patients": 299_712, "admissions": 431_231},
            "3.1": {"patients": 364_627, "admissions": 546_028},
            "demo 2.2": {"patients": 100, "admissions": 275},
        },
        versions=("2.0", "2.2", "3.1", "demo 2.2"),
        foreign={
            ("patients", "row_id"): "MIMIC-III",
            ("admissions", "row_id"): "MIMIC-III",
            ("admissions", "ethnicity"): "MIMIC-IV 1.0 or older",
        },
    ),
    "adni": Source(
        title="TADPOLE D1/D2 of ADNI",
        page="https://ida.loni.usc.edu/ (project ADNI, Download, Study Data, Test Data)",
        stem="TADPOLE_D1_D2",
        counts={"D1/D2": {"visits": 12_741}},
        versions=("D1/D2",),
    ),
    "mimic_cxr": Source(
        title="MIMIC-CXR-JPG 2.x",
        page="https://physionet.org/content/mimic-cxr-jpg/2.1.0/",
        stem="mimic-cxr-2.0.0-{}",
    ),
}
