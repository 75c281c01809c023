import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

from dfdlib.book import made_up
from dfdlib.data import mimic_iv
from dfdlib.data.clinical.schemas import TABLES
from dfdlib.data.ingest import ingest
from dfdlib.data.mimic_iv import N_WORDS
from dfdlib.data.tables import code_id
from dfdlib.models.encoders import CodeBag

PATIENTS = pd.DataFrame(
    [(1, "M", 60, 2150, "2150-04-11"), (2, "F", 17, 2150, None), (3, "F", 40, 2150, "2151-01-02"),
     (4, "M", 88, 2150, None), (5, None, 50, 2150, "2150-06-01"), (6, "F", 30, 2150, "2150-03-05")],
    columns=["subject_id", "gender", "anchor_age", "anchor_year", "dod"],
).assign(anchor_year_group="2014 - 2016")  # fmt: skip
ADMISSIONS = pd.DataFrame(
    [
        # 90 whole days from discharge to death, and 91
        (1, 11, "2150-01-01 08:00", "2150-01-11 07:59", None, 0, "WHITE - RUSSIAN"),
        (1, 12, "2149-12-20 00:00", "2149-12-30 00:00", None, 0, "UNKNOWN"),
        (2, 21, "2150-05-01 00:00", "2150-05-02 00:00", None, 0, "ASIAN"),  # 17 years old
        (2, 22, "2151-05-01 00:00", "2151-05-02 00:00", None, 0, "ASIAN"),
        (3, 31, "2150-05-01 00:00", "2150-05-11 00:01", None, 0, "OTHER"),  # over ten days
        (3, 32, "2151-01-01 00:00", "2151-01-02 12:00", "2151-01-02 12:00", 1, "OTHER"),  # died
        (4, 41, "2150-05-01 00:00", "2150-05-05 12:00", None, 0, None),
        (4, 42, "2150-05-21 11:59", "2150-05-22 00:00", None, 0, None),  # 15 days, 23:59
        (4, 43, "2150-06-07 00:00", "2150-06-08 00:00", None, 0, None),  # 16 days
        (4, 44, "2151-06-07 00:00", "2151-06-08 00:00", None, 0, None),  # 89 years old
        (4, 45, "2152-06-07 00:00", "2152-06-08 00:00", None, 0, None),  # 90
        (5, 51, "2150-05-30 00:00", "2150-06-01 00:00", "2150-06-01 00:00", 1, "BLACK"),
        (5, 52, "2150-05-01 00:00", "2150-05-02 00:00", None, 0, "BLACK"),
        (5, 53, "2150-06-01 00:01", "2150-06-01 12:00", None, 0, "BLACK"),  # a donor
        (6, 61, "2150-03-01 00:00", "2150-03-05 20:00", None, 0, "WHITE"),  # died that day, at home
    ],
    columns=["subject_id", "hadm_id", "admittime", "dischtime", "deathtime",
             "hospital_expire_flag", "race"],
)  # fmt: skip
# who stays, in the order of hadm_id
KEPT = [11, 12, 22, 41, 42, 43, 44, 61]
NOTE = (
    "Name: ___\nBrief Hospital Course:\nStable ___ and stable,\nno fever. "
    "Medications on Admission:\nx"
)
OTHER = {
    "diagnoses_icd": pd.DataFrame(
        [(11, 1, "0389 ", 9), (11, 2, "389", 9), (41, 1, "0389", 10), (11, 2, "389", 9)],
        columns=["hadm_id", "seq_num", "icd_code", "icd_version"],
    ),
    "procedures_icd": pd.DataFrame(
        [(11, "2150-01-02", "3893", 9), (11, "2150-01-12", "9999", 9)],
        columns=["hadm_id", "chartdate", "icd_code", "icd_version"],
    ),
    "prescriptions": pd.DataFrame(
        [(11, "2150-01-01 20:00", " Heparin"), (11, "2150-01-11 08:00", "late"),
         (22, "2151-05-01 01:00", None)],
        columns=["hadm_id", "starttime", "drug"],
    ),
    "d_labitems": pd.DataFrame(
        [(50983, "Sodium"), (50820, "pH"), (50863, "Alkaline Phosphatase"), (51301, "WBC Count")],
        columns=["itemid", "label"],
    ),
    "labevents": pd.DataFrame(
        [(11, 50983, "2150-01-01 06:00", "2150-01-01 07:00", "140", None),
         (11, 50983, "2150-01-11 07:00", "2150-01-11 08:00", "120", "abnormal"),
         (11, 50820, "2150-01-02 07:00", "2150-01-02 08:00", "7.1", "abnormal"),
         (11, 50863, "2150-01-02 07:00", "2150-01-02 08:00", "70", None),
         (11, 51301, "2150-01-02 07:00", None, "9", None),
         (41, 51301, "2150-05-02 07:00", "2150-05-02 08:00", None, None),
         (None, 51301, "2150-05-02 07:00", "2150-05-02 08:00", "8", None)],
        columns=["hadm_id", "itemid", "charttime", "storetime", "valuenum", "flag"],
    ),
    "discharge": pd.DataFrame(
        [("11-DS-2", 11, "an addendum"), ("11-DS-1", 11, NOTE), ("12-DS-1", 12, "no section"),
         ("22-DS-1", 22, "Medications on Admission: Brief Hospital Course: turned"),
         ("41-DS-1", 41, "Brief Hospital Course: fever Medications on Admission:")],
        columns=["note_id", "hadm_id", "text"],
    ),
}  # fmt: skip


def write(root, changed=None):
    for name, table in (
        {"patients": PATIENTS, "admissions": ADMISSIONS, **OTHER} | (changed or {})
    ).items():
        folder = root / ("note" if name == "discharge" else "hosp")
        folder.mkdir(parents=True, exist_ok=True)
        table = table.reindex(columns=list(TABLES["mimic_iv"][name]))
        table = table.astype({c: "Int64" for c in table if c in ("hadm_id", "icd_version")})
        table.to_csv(folder / f"{name}.csv.gz", index=False)
    return root


def rows(cohort, name, hadm_id):
    return cohort.x[name][torch.tensor([KEPT.index(hadm_id)])].values.numpy()


def test_inclusion_goes_rule_by_rule(tmp_path):
    flow = mimic_iv.flow(write(tmp_path))
    assert flow["rows"].tolist() == [15, 15, 14, 13, 12, 10, 8]
    assert flow["rule"].iloc[-1] == "of a patient who was never admitted after death"
    # 31 is too long; 21 too young; 45 too old; 32 and 51 died there; 52 and 53 are the donor's
    assert flow["excluded"].tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert flow["patients"].tolist() == [6, 6, 6, 6, 6, 5, 4]


def days(table):
    return table["subject_id"].map(PATIENTS.set_index("subject_id")["dod"]).pipe(pd.to_datetime)


def test_labels_are_those_of_pandas_whole_days(tmp_path):
    write(tmp_path)
    t = ADMISSIONS.sort_values("admittime").copy()
    t["discharge"] = pd.to_datetime(t["dischtime"])
    t["next"] = pd.to_datetime(t.groupby("subject_id")["admittime"].shift(-1))
    after = (t["next"] - t["discharge"]).dt.days
    dead = (days(t) - t["discharge"]).dt.days
    mortality = (dead <= 90).astype(float)
    published = mortality.where(days(t).notna() | (after > 90))
    expected = pd.DataFrame({"hadm_id": t["hadm_id"], "mortality": mortality, "as": published,
                             "readmission": (after <= 15).astype(float),
                             "as2": (after <= 15).astype(float).where(after.notna())})  # fmt: skip
    expected = expected.set_index("hadm_id").loc[KEPT]
    for task, label, column in (
        ("mortality", "complete", "mortality"),
        ("mortality", "published", "as"),
        ("readmission", "complete", "readmission"),
        ("readmission", "published", "as2"),
    ):
        cohort = mimic_iv.load(tmp_path, task=task, label=label, modalities="demographics")
        np.testing.assert_array_equal(cohort.y, expected[column], err_msg=f"{task}, {label}")
    # by hand: 11 lies 90 days before death, 12 more; 61 died on the day of discharge
    assert expected["mortality"].tolist() == [1, 0, 0, 0, 0, 0, 0, 1]
    assert expected["readmission"].tolist() == [0, 1, 0, 1, 0, 0, 0, 0]
    # selected on the outcome: of five alive without a date of death, who came back late is left
    np.testing.assert_array_equal(expected["as"], [1, 0, *[np.nan] * 3, 0, 0, 1])


def test_demographics_covariates_and_groups(tmp_path):
    cohort = mimic_iv.load(write(tmp_path), modalities=("demographics",))
    table = cohort.to_frame().rename(columns=lambda name: name.removeprefix("demographics."))
    assert table["age"].tolist() == [60, 59, 18, 88, 88, 88, 89, 30]
    assert table["male"].tolist() == [1, 1, 0, 1, 1, 1, 1, 0]
    np.testing.assert_array_equal(table["white"], [1, np.nan, 0, *[np.nan] * 4, 1])
    np.testing.assert_array_equal(table["asian"], [0, np.nan, 1, *[np.nan] * 4, 0])
    assert cohort.groups["patient"].tolist() == [1, 1, 2, 4, 4, 4, 4, 6]
    assert set(cohort.groups["period"]) == {"2014 - 2016"}
    assert cohort.covariates["insurance"].tolist() == ["unknown"] * 8


def test_codes_keep_their_zeros_and_their_version(tmp_path):
    cohort = mimic_iv.load(write(tmp_path), modalities=("demographics", "codes"))
    expected = ["diagnoses_icd: 9 0389", "diagnoses_icd: 9 389", "prescriptions: heparin",
                "procedures_icd: 9 3893"]  # fmt: skip
    assert rows(cohort, "codes", 11).tolist() == [code_id(word) for word in expected]
    assert rows(cohort, "codes", 41).tolist() == [code_id("diagnoses_icd: 10 0389")]
    assert cohort.x["codes"].lengths.tolist() == [4, 0, 0, 1, 0, 0, 0, 0]


def test_labs_are_those_that_were_stored_by_discharge(tmp_path):
    cohort = mimic_iv.load(write(tmp_path), modalities=("demographics", "labs"))
    expected = [[-1, 140, 2 * 50983], [23, 9, 2 * 51301], [24, 7.1, 2 * 50820 + 1]]
    np.testing.assert_allclose(rows(cohort, "labs", 11), expected, rtol=1e-6)
    assert cohort.x["labs"].lengths.tolist() == [3, *[0] * 7]


@pytest.mark.parametrize(
    ("table", "time"),
    [
        ("labevents", "storetime"),
        ("prescriptions", "starttime"),
        ("procedures_icd", "chartdate"),
    ],
)
def test_what_is_dated_after_discharge_does_not_enter(table, time, tmp_path):
    modalities = ("demographics", "codes", "labs")
    before = mimic_iv.load(write(tmp_path / "a"), modalities=modalities)
    late = OTHER[table].assign(**{time: "2153-01-01" + " 00:00" * (time != "chartdate")})
    both = pd.concat([OTHER[table], late])
    after = mimic_iv.load(write(tmp_path / "b", {table: both}), modalities=modalities)
    for name in ("codes", "labs"):
        torch.testing.assert_close(after.x[name].values, before.x[name].values, atol=0, rtol=0)
    moved = mimic_iv.load(write(tmp_path / "c", {table: late}), modalities=modalities)
    name = "labs" if table == "labevents" else "codes"
    assert len(moved.x[name].values) < len(before.x[name].values)


def test_notes_are_bags_of_hashed_words_of_one_section(tmp_path):
    cohort = mimic_iv.load(write(tmp_path), modalities=("demographics", "notes"))
    assert cohort.observed[:, 1].tolist() == [True, False, False, True, *[False] * 4]
    words = CountVectorizer().build_analyzer()("stable and stable no fever")
    hashing = HashingVectorizer(n_features=N_WORDS, norm=None, alternate_sign=False)
    ids = [int(hashing.transform([word]).indices[0]) for word in words]
    assert len(ids) == 5
    assert sorted(rows(cohort, "notes", 11)) == sorted(ids)
    encoder = CodeBag(d=4, pool="tfidf", min_count=1)
    encoder.fit(cohort.x["notes"])
    assert len(encoder.words) == 4  # fever stands in two notes


def test_embeddings_of_notes_are_a_vector(tmp_path):
    root = write(tmp_path / "root")
    table = pd.DataFrame({"hadm_id": [41, 11, 999], "e0": [1.0, 2, 3], "e1": [4.0, 5, 6]})
    for file in (tmp_path / "e.parquet", tmp_path / "e.csv"):
        table.to_parquet(file) if file.suffix == ".parquet" else table.to_csv(file, index=False)
        cohort = mimic_iv.load(root, modalities=("demographics", "notes"), note_embeddings=file)
        assert cohort.schema.kinds["notes"] == "vector"
        np.testing.assert_array_equal(
            cohort.x["notes"][[0, 3]].numpy(), table.set_index("hadm_id").loc[[11, 41]]
        )
        assert cohort.observed[:, 1].tolist() == [True, False, False, True, *[False] * 4]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The raw files of 300 made-up patients, and what is ingested of them."""
    root = tmp_path_factory.mktemp("mimic_iv")
    made_up.write("mimic_iv", root / "raw", n=300, seed=1)
    ingest("mimic_iv", root / "raw", root / "typed", threads=1)
    return root


def test_made_up_counts_are_those_of_plain_pandas(made):
    hosp = made / "raw" / "hosp"
    people, t = (pd.read_csv(hosp / f"{name}.csv.gz") for name in ("patients", "admissions"))
    t = t.merge(people, on="subject_id").sort_values(["subject_id", "admittime", "hadm_id"])
    for name in ("admittime", "dischtime", "deathtime", "dod"):
        t[name] = pd.to_datetime(t[name])
    age = t["anchor_age"] + t["admittime"].dt.year - t["anchor_year"]
    late = t["admittime"].dt.normalize() > t["dod"]
    pairs = t[["subject_id", "hadm_id", "admittime"]].merge(
        t[["subject_id", "hadm_id", "deathtime"]].dropna(), on="subject_id"
    )
    pairs = pairs[(pairs["hadm_id_x"] != pairs["hadm_id_y"])]
    donors = pairs.loc[pairs["deathtime"] <= pairs["admittime"], "subject_id"]
    donors = set(t.loc[late, "subject_id"]) | set(donors)
    rules = [
        pd.Series(True, t.index),
        t["dischtime"].notna(),
        t["dischtime"] - t["admittime"] <= pd.Timedelta(days=10),
        age >= 18,
        age <= 89,
        t["hospital_expire_flag"] == 0,
        ~t["subject_id"].isin(donors),
    ]
    dead = ((t["dod"] - t["dischtime"]).dt.days <= 90).astype(float)
    after = (t.groupby("subject_id")["admittime"].shift(-1) - t["dischtime"]).dt.days
    labels = {
        ("mortality", "complete"): dead,
        ("mortality", "published"): dead.where(t["dod"].notna() | (after > 90)),
        ("readmission", "complete"): (after <= 15).astype(float),
        ("readmission", "published"): (after <= 15).astype(float).where(after.notna()),
    }
    for (task, label), y in labels.items():
        flow = mimic_iv.flow(made / "raw", task=task, label=label)
        stay = pd.Series(True, t.index)
        for rule, line in zip(rules, flow.itertuples(), strict=True):
            stay &= rule
            counted = (int(stay.sum()), t.loc[stay, "subject_id"].nunique(),
                       int(y[stay].count()), int((y[stay] == 1).sum()))  # fmt: skip
            assert (line.rows, line.patients, line.labelled, line.events) == counted, line.rule


def test_raw_and_ingested_tables_give_the_same_cohort(made):
    raw, typed = (mimic_iv.load(made / folder) for folder in ("raw", "typed"))
    assert raw.names == ("demographics", "codes", "labs", "notes")
    for name in raw.names[1:]:
        torch.testing.assert_close(raw.x[name].values, typed.x[name].values, atol=0, rtol=0)
        torch.testing.assert_close(raw.x[name].offsets, typed.x[name].offsets)
    pd.testing.assert_frame_equal(raw.to_frame(), typed.to_frame())
    torch.testing.assert_close(raw.y, typed.y)
    assert raw.observed.float().mean(dim=0).min() > 0.5


def test_refusals(tmp_path):
    root = write(tmp_path / "root")
    file = tmp_path / "e.parquet"
    for table, message in (
        (pd.DataFrame({"note": [1]}), r"e\.parquet has no column 'hadm_id'"),
        (pd.DataFrame({"hadm_id": [11], "e": ["a"]}), "column 'e' holds no numbers"),
        (
            pd.DataFrame({"hadm_id": [11, 11], "e": [1.0, 2]}),
            r"row 2: hadm_id is that of a row before",
        ),
        (pd.DataFrame({"hadm_id": [99], "e": [1.0]}), "has nobody of the cohort"),
    ):
        table.to_parquet(file)
        with pytest.raises(ValueError, match=message):
            mimic_iv.load(root, modalities=("notes",), note_embeddings=file)
    with pytest.raises(FileNotFoundError, match=r"none\.parquet is no file"):
        mimic_iv.load(root, modalities=("notes",), note_embeddings=tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"note_embeddings is given, but .* Add 'notes'"):
        mimic_iv.load(root, modalities=("codes",), note_embeddings=file)
    with pytest.raises(ValueError, match=r"'publshed' is not a label.*Did you mean 'published'"):
        mimic_iv.load(root, label="publshed")
    with pytest.raises(ValueError, match=r"'mimic_iv' needs root=.*physionet\.org/content/mimiciv"):
        mimic_iv.load()
    (root / "note" / "discharge.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match="no table 'discharge', which the modality 'notes'"):
        mimic_iv.load(root)
