"""Made-up patients: schemas of the real files, what is ugly in those, and nothing impossible."""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dfdlib.book import made_up
from dfdlib.book.made_up import draw
from dfdlib.data.clinical.schemas import LABELS, TABLES

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
DATASETS = tuple(TABLES)

# as PhysioNet ships them
HEADERS = {
    "lab": "labid,patientunitstayid,labresultoffset,labtypeid,labname,labresult,labresulttext,"
    "labmeasurenamesystem,labmeasurenameinterface,labresultrevisedoffset",
    "vitalPeriodic": "vitalperiodicid,patientunitstayid,observationoffset,temperature,sao2,"
    "heartrate,respiration,cvp,etco2,systemicsystolic,systemicdiastolic,systemicmean,pasystolic,"
    "padiastolic,pamean,st1,st2,st3,icp",
    "patients": "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
    "admissions": "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,"
    "admit_provider_id,admission_location,discharge_location,insurance,language,marital_status,"
    "race,edregtime,edouttime,hospital_expire_flag",
    "diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version",
    "procedures_icd": "subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version",
    "d_icd_diagnoses": "icd_code,icd_version,long_title",
    "d_labitems": "itemid,label,fluid,category",
    "labevents": "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,"
    "storetime,value,valuenum,valueuom,ref_range_lower,ref_range_upper,flag,priority,comments",
    "prescriptions": "subject_id,hadm_id,pharmacy_id,poe_id,poe_seq,order_provider_id,starttime,"
    "stoptime,drug_type,drug,formulary_drug_cd,gsn,ndc,prod_strength,form_rx,dose_val_rx,"
    "dose_unit_rx,form_val_disp,form_unit_disp,doses_per_24_hrs,route",
    "discharge": "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text",
    "mimic-cxr-2.0.0-metadata": "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,"
    "ViewPosition,Rows,Columns,StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning,"
    "ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning",
    "mimic-cxr-2.0.0-chexpert": ",".join(("subject_id", "study_id", *LABELS)),
    "mimic-cxr-2.0.0-split": "dicom_id,study_id,subject_id,split",
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """One folder per data set, large enough for what is rare."""
    sizes = {"eicu": 1200, "mimic_iv": 1500, "adni": 300, "mimic_cxr": 250}
    return {
        name: made_up.write(name, tmp_path_factory.mktemp(name), n=n, seed=0, pixels=32)
        for name, n in sizes.items()
    }


@pytest.fixture(scope="module")
def tables(roots):
    """Read a table as text where it is declared so."""
    read = {}

    def get(dataset, name):
        if name not in read:
            (path,) = roots[dataset].rglob(f"{name}.csv*")
            text = dict.fromkeys(("icd_code", "age", "value", "labresulttext"), str)
            read[name] = pd.read_csv(path, dtype=text, low_memory=False)
        return read[name]

    return get


def header(path):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="") as file:
        return next(csv.reader(file))


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", HEADERS)
def test_columns_are_the_published_ones_in_their_order(roots, name):
    (path,) = (p for root in roots.values() for p in root.rglob(f"{name}.csv.gz"))
    assert header(path) == HEADERS[name].split(",")


def test_columns_of_eicu_are_those_of_its_demo(roots):
    demo = SHARED / "eicu_demo"
    if not demo.is_dir():
        pytest.skip("needs eicu_demo in ../shared/data, which is not part of the repository")
    compared = 0
    for path in roots["eicu"].iterdir():
        real = demo / path.name.lower()
        if real.exists():
            assert header(path) == header(real), path.name
            compared += 1
    assert compared == 9


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_declared_table_and_column_is_there(roots, dataset):
    from dfdlib.data.ingest import SOURCES, find

    files = find(roots[dataset], TABLES[dataset], SOURCES[dataset])
    assert list(files) == list(TABLES[dataset])


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("dataset", DATASETS)
def test_equal_seeds_give_equal_files(tmp_path, dataset):
    a, b, c = (
        contents(made_up.write(dataset, tmp_path / name, n=30, seed=seed, pixels=16))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert a == b
    drawn = {path for path in a if path.name.split(".")[0] not in ("hospital", "d_labitems")}
    drawn = {path for path in drawn if not path.name.startswith("d_icd")}
    assert not any(a[path] == c.get(path) for path in drawn)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [("eicu", "lab"), ("mimic_iv", "note/discharge"), ("mimic_cxr", "files")],
)
def test_one_file_does_not_depend_on_the_others(tmp_path, dataset, name):
    everything = contents(made_up.write(dataset, tmp_path / "a", n=20, seed=3, pixels=16))
    alone = contents(made_up.write(dataset, tmp_path / "b", n=20, seed=3, pixels=16, only=[name]))
    assert 0 < len(alone) < len(everything)
    assert alone.items() <= everything.items()


@pytest.mark.parametrize(("dataset", "name"), [("eicu", "patient"), ("adni", "TADPOLE_D1_D2")])
def test_the_first_patients_are_the_same_in_larger_data_sets(tmp_path, monkeypatch, dataset, name):
    monkeypatch.setattr(draw, "BLOCK", 25)
    one = contents(made_up.write(dataset, tmp_path / "a", n=25, seed=0, only=[name]))
    two = contents(made_up.write(dataset, tmp_path / "b", n=60, seed=0, only=[name]))
    ((path, first),) = one.items()
    unpack = gzip.decompress if path.suffix == ".gz" else bytes
    assert unpack(two[path]).startswith(unpack(first))
    assert len(unpack(two[path])) > 2 * len(unpack(first))


def test_any_folder_will_do(tmp_path):
    root = made_up.write("eicu", tmp_path / "somebody's" / "new folder", n=3, seed=0)
    assert len(list(root.glob("*.csv.gz"))) == len(TABLES["eicu"])


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'mimic' is not a data set that can be made up"):
        made_up.write("mimic", tmp_path, n=1, seed=0)
    with pytest.raises(ValueError, match=r"n must be at least 1, got 0. Pass n=1000"):
        made_up.write("eicu", tmp_path, n=0, seed=0)
    with pytest.raises(ValueError, match=r"'labs' is not a file of eicu .* Did you mean 'lab'\?"):
        made_up.write("eicu", tmp_path, n=1, seed=0, only=["labs"])
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- eICU


EICU_EVENTS = (
    "admissionDx", "diagnosis", "treatment", "medication", "lab", "vitalPeriodic",
    "vitalAperiodic", "apacheApsVar", "apachePredVar",
)  # fmt: skip


def test_stays_of_eicu_are_possible(tables):
    stays = tables("eicu", "patient")
    assert stays["patientunitstayid"].is_unique
    for name in EICU_EVENTS:
        events = tables("eicu", name)
        assert set(events["patientunitstayid"]) <= set(stays["patientunitstayid"]), name
        assert events.iloc[:, 0].is_unique or name == "lab", name
    assert (stays["hospitaldischargeoffset"] >= stays["unitdischargeoffset"]).all()
    assert set(stays["hospitalid"]) <= set(tables("eicu", "hospital")["hospitalid"])
    # nobody comes back from death, and an admission ends once
    last = ~stays["uniquepid"].duplicated(keep="last")
    assert not (stays["unitdischargestatus"].eq("Expired") & ~last).any()
    admission = stays.groupby("patienthealthsystemstayid")
    end = stays["hospitaldischargeoffset"] - stays["hospitaladmitoffset"]
    assert (end.groupby(stays["patienthealthsystemstayid"]).nunique() == 1).all()
    assert (admission["uniquepid"].nunique() == 1).all()
    visits = admission["unitvisitnumber"].agg(["min", "max", "size"])
    assert (visits["min"] == 1).all()
    assert (visits["max"] == visits["size"]).all()
    # a later stay begins after the one before has ended
    later = stays[stays["unitvisitnumber"] > 1]
    before = stays.loc[later.index - 1]
    gap = -later["hospitaladmitoffset"].to_numpy() - (
        before["unitdischargeoffset"] - before["hospitaladmitoffset"]
    )
    assert (gap > 0).all()


def test_ugly_things_of_eicu(tables):
    stays, lab = tables("eicu", "patient"), tables("eicu", "lab")
    known = stays["age"].dropna()
    assert {"> 89"} == {age for age in known if not age.isdigit()}
    assert known[known != "> 89"].astype(int).min() < 18
    assert stays["age"].isna().any()
    assert (stays["unitdischargeoffset"] < 720).any()
    assert (stays["unitdischargeoffset"] > 14_400).any()
    assert (stays["unitvisitnumber"] > 1).any()
    assert stays["unitdischargestatus"].isna().any()
    assert (lab["labresultoffset"] < 0).any()
    assert 0.001 < lab.duplicated().mean() < 0.01
    low = lab["labresult"].isna()
    assert low.any()
    assert set(lab.loc[low, "labresulttext"]) == {"<0.03"}
    drugs = tables("eicu", "medication")
    assert (drugs["drugname"].isna() & (drugs["drugordercancelled"] == "Yes")).any()
    assert (tables("eicu", "diagnosis")["diagnosisoffset"] < 0).any()
    assert tables("eicu", "hospital")["region"].isna().any()
    aps = tables("eicu", "apacheApsVar")
    assert 0.75 < (aps["ph"] == -1).mean() < 0.92  # the demo: .84


def auroc(x, y):
    """Of a logistic regression that was fitted on the other half."""
    x = (x - x.mean()) / x.std()
    x, half = x.fillna(0).to_numpy(), len(y) // 2
    model = LogisticRegression(C=0.1, max_iter=1000).fit(x[:half], y[:half])
    return roc_auc_score(y[half:], model.decision_function(x[half:]))


def test_outcomes_of_eicu_can_be_learnt_and_blood_gas_is_ordered_for_the_sick(tables):
    aps = tables("eicu", "apacheApsVar").replace(-1, np.nan).set_index("patientunitstayid")
    stays = tables("eicu", "patient").set_index("patientunitstayid")
    died = stays["hospitaldischargestatus"].eq("Expired")
    assert 0.05 < died.mean() < 0.15  # the demo: .09
    x = aps.iloc[:, 1:].reindex(stays.index)
    assert auroc(x, died) > 0.7
    assert died[x["ph"].notna()].mean() > 1.6 * died[x["ph"].isna()].mean()
    lab = tables("eicu", "lab").query("labresultoffset <= 720")
    mean = lab.groupby(["patientunitstayid", "labname"])["labresult"].mean().unstack()
    assert auroc(mean.reindex(stays.index), died) > 0.65


# ---------------------------------------------------------------- MIMIC-IV


def test_admissions_of_mimic_iv_are_possible(tables):
    stays, people = tables("mimic_iv", "admissions"), tables("mimic_iv", "patients")
    assert stays["hadm_id"].is_unique
    assert people["subject_id"].is_unique
    assert set(stays["subject_id"]) == set(people["subject_id"])
    for name in ("diagnoses_icd", "procedures_icd", "prescriptions", "labevents", "discharge"):
        events = tables("mimic_iv", name).dropna(subset="hadm_id")
        pairs = set(zip(events["subject_id"], events["hadm_id"].astype(int), strict=True))
        assert pairs <= set(zip(stays["subject_id"], stays["hadm_id"], strict=True)), name
    start, end = pd.to_datetime(stays["admittime"]), pd.to_datetime(stays["dischtime"])
    assert (start < end).all()
    following = stays["subject_id"].eq(stays["subject_id"].shift(-1))
    assert (start.shift(-1) - end)[following].min() >= pd.Timedelta(minutes=1)
    year = start.dt.year - stays["subject_id"].map(people.set_index("subject_id")["anchor_year"])
    first = ~stays["subject_id"].duplicated()
    assert year[first].between(0, 1).all()
    for codes, names in (
        ("diagnoses_icd", "d_icd_diagnoses"),
        ("procedures_icd", "d_icd_procedures"),
    ):
        used = tables("mimic_iv", codes)[["icd_code", "icd_version"]].drop_duplicates()
        assert len(used.merge(tables("mimic_iv", names))) == len(used)


def test_ugly_things_of_mimic_iv(tables):
    stays = tables("mimic_iv", "admissions").merge(tables("mimic_iv", "patients"))
    start, end = pd.to_datetime(stays["admittime"]), pd.to_datetime(stays["dischtime"])
    died = pd.to_datetime(stays["deathtime"])
    by = stays["subject_id"]
    after = start - died.groupby(by).shift()
    assert (after == pd.Timedelta(minutes=1)).sum() >= 2  # donors of organs
    assert (pd.to_datetime(stays["dod"]) >= start.dt.normalize())[stays["dod"].notna()].all()
    assert stays["anchor_age"].max() == 91
    assert (end - start > pd.Timedelta(days=10)).any()
    codes = tables("mimic_iv", "diagnoses_icd")
    assert {"0389", "00845", "A419"} <= set(codes["icd_code"])
    assert set(codes["icd_version"]) == {9, 10}
    lab = tables("mimic_iv", "labevents")
    number = pd.to_numeric(lab["value"], errors="coerce")
    assert {"___", "HEMOLYZED", ">300", "<0.1"} == set(lab.loc[number.isna(), "value"])
    assert lab.loc[number.isna(), "valuenum"].isna().all()
    assert lab["hadm_id"].isna().any()
    assert lab["storetime"].isna().any()
    assert lab.duplicated("labevent_id").any()
    items = tables("mimic_iv", "d_labitems")
    assert items["label"].duplicated().any()  # pH of blood, and of urine
    notes = tables("mimic_iv", "discharge")["text"]
    assert notes.str.contains("\n").all()
    assert notes.str.contains('"').any()
    assert 0.85 < notes.str.contains("Brief Hospital Course:").mean() < 0.99
    drugs = tables("mimic_iv", "prescriptions")
    assert drugs["starttime"].isna().any()
    assert drugs.duplicated(["hadm_id", "drug", "starttime"]).any()


def test_outcomes_of_mimic_iv_can_be_learnt(tables):
    stays = tables("mimic_iv", "admissions").merge(tables("mimic_iv", "patients"))
    stays = stays[stays["hospital_expire_flag"] == 0].set_index("hadm_id")
    days = (pd.to_datetime(stays["dod"]) - pd.to_datetime(stays["dischtime"])).dt.days
    dead = days <= 90
    assert 0.02 < dead.mean() < 0.15
    lab = tables("mimic_iv", "labevents")
    mean = lab.groupby(["hadm_id", "itemid"])["valuenum"].mean().unstack()
    assert auroc(mean.reindex(stays.index), dead) > 0.65
    notes = tables("mimic_iv", "discharge").set_index("hadm_id")["text"]
    said = notes.reindex(stays.index)
    words = pd.DataFrame({w: said.str.contains(w, na=False) for w in ("septic", "comfort", "diet")})
    assert auroc(words.astype(float), dead) > 0.6


# ---------------------------------------------------------------- TADPOLE


SUFFIX = {
    "MRI": ("_UCSFFSL_02_01_16_UCSFFSL51ALL_08_01_16", 310),
    "AV45": ("_UCBERKELEYAV45_10_17_16", 227),
    "DTI": ("_DTIROI_04_30_14", 228),
}


@pytest.fixture(scope="module")
def visits(roots):
    return pd.read_csv(roots["adni"] / "TADPOLE_D1_D2.csv", low_memory=False)


@pytest.mark.parametrize("kind", SUFFIX)
def test_images_of_tadpole_are_as_wide_as_published(visits, kind):
    suffix, width = SUFFIX[kind]
    names = [name for name in visits if name.endswith(suffix)]
    named = ("EXAMDATE", "STATUS", "VERSION", "update_stamp")
    values = visits[[name for name in names if not name.startswith(named)]]
    values = values.apply(pd.to_numeric, errors="coerce").dropna(how="all")
    assert len(values.dropna(axis=1).columns) == width  # without the columns that have holes


def test_ugly_things_of_tadpole(visits):
    assert visits.duplicated("RID").any()
    assert not visits.duplicated(["RID", "VISCODE"]).any()
    assert set(visits["DXCHANGE"].dropna()) >= {1, 2, 3, 4, 5, 7, 8}
    assert visits["DXCHANGE"].isna().any()
    assert (visits["FA_CST_L_DTIROI_04_30_14"] == " ").any()
    assert ">1700" in set(visits["ABETA_UPENNBIOMK9_04_19_17"])
    # a change is told from the class before
    ends = visits["DXCHANGE"].map({1: 0, 7: 0, 9: 0, 2: 1, 4: 1, 8: 1, 3: 2, 5: 2, 6: 2})
    begins = visits["DXCHANGE"].map({1: 0, 4: 0, 6: 0, 2: 1, 5: 1, 7: 1, 3: 2, 8: 2, 9: 2})
    known = visits["RID"].eq(visits["RID"].shift()) & ends.shift().notna() & begins.notna()
    assert known.sum() > 100
    assert (begins == ends.shift())[known].all()


def test_classes_of_tadpole_can_be_learnt(visits):
    suffix = SUFFIX["MRI"][0]
    mri = visits[[n for n in visits if n.startswith("ST") and n.endswith(suffix)]]
    mri = mri.drop(columns="STATUS" + suffix).apply(pd.to_numeric, errors="coerce")
    mri = mri[mri.columns[:20]]
    there = mri.notna().any(axis=1) & visits["DXCHANGE"].notna()
    assert auroc(mri[there], visits["DXCHANGE"][there].isin([3, 5, 6])) > 0.65


# ---------------------------------------------------------------- MIMIC-CXR-JPG


def test_every_image_has_its_file_and_one_split_per_patient(roots, tables):
    images = tables("mimic_cxr", "mimic-cxr-2.0.0-metadata")
    assert images["dicom_id"].is_unique
    for row in images.itertuples():
        folder = f"files/p{str(row.subject_id)[:2]}/p{row.subject_id}/s{row.study_id}"
        assert (roots["mimic_cxr"] / folder / f"{row.dicom_id}.jpg").is_file()
    assert len(list(roots["mimic_cxr"].rglob("*.jpg"))) == len(images)
    split = tables("mimic_cxr", "mimic-cxr-2.0.0-split")
    assert (split[["dicom_id", "study_id", "subject_id"]].to_numpy()
            == images[["dicom_id", "study_id", "subject_id"]].to_numpy()).all()  # fmt: skip
    assert (split.groupby("subject_id")["split"].nunique() == 1).all()
    assert set(split["split"]) == {"train", "validate", "test"}


def test_ugly_things_of_mimic_cxr(roots, tables):
    images = tables("mimic_cxr", "mimic-cxr-2.0.0-metadata")
    labels = tables("mimic_cxr", "mimic-cxr-2.0.0-chexpert")
    views = images["ViewPosition"]
    assert {"PA", "AP", "LATERAL", "LL", "SWIMMERS"} == set(views.dropna())
    assert views.isna().any()
    assert (images.groupby("study_id").size() == 3).any()
    pairs = images[views.isin(["LATERAL", "LL"])].groupby("study_id").size()
    assert (pairs == 2).any()  # two lateral views
    assert labels["study_id"].is_unique
    assert 0 < len(set(images["study_id"]) - set(labels["study_id"])) < 0.1 * len(labels)
    assert {-1.0, 0.0, 1.0} == set(labels[list(LABELS)].stack().dropna())
    assert set(labels["No Finding"].dropna()) == {1.0}
    broken, sizes = 0, set()
    for path in roots["mimic_cxr"].rglob("*.jpg"):
        try:
            with Image.open(path) as image:
                image.load()
                sizes.add(image.size)
                assert image.mode == "L"
        except OSError:
            broken += 1
    assert 0 < broken < 0.03 * len(images)
    assert {min(size) for size in sizes} == {32}
    assert {width > height for width, height in sizes} == {True, False}


def test_a_large_heart_is_seen(roots, tables):
    images = tables("mimic_cxr", "mimic-cxr-2.0.0-metadata").query("ViewPosition in ['PA', 'AP']")
    labels = tables("mimic_cxr", "mimic-cxr-2.0.0-chexpert")
    seen = images.merge(labels, on=["subject_id", "study_id"])
    seen = seen[seen["Cardiomegaly"].isin([0, 1]) | seen["Cardiomegaly"].isna()]
    score, truth = [], []
    for row in seen.itertuples():
        folder = f"files/p{str(row.subject_id)[:2]}/p{row.subject_id}/s{row.study_id}"
        path = roots["mimic_cxr"] / folder / f"{row.dicom_id}.jpg"
        if os.path.getsize(path) > 90:
            x = np.asarray(Image.open(path), float)
            score.append(x[18:24, 11:27].mean())
            truth.append(row.Cardiomegaly == 1)
    assert roc_auc_score(truth, score) > 0.7
