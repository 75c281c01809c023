"""ADNI as TADPOLE: a file with everything that is ugly in the real one, against its own cells."""

import gzip

import numpy as np
import pandas as pd
import pytest
import torch

from dfdlib.book import made_up
from dfdlib.data import adni
from dfdlib.data.ingest import ingest

NAN = np.nan
MRI = "_UCSFFSL_02_01_16_UCSFFSL51ALL_08_01_16"
PET, DTI = "_UCBERKELEYAV45_10_17_16", "_DTIROI_04_30_14"
PERSON = "RID,PTID,VISCODE,SITE,D1,D2,COLPROT,EXAMDATE,DX_bl,DXCHANGE,AGE,PTGENDER,PTEDUCAT"
PERSON = [*PERSON.split(","), "PTETHCAT", "PTRACCAT", "APOE4"]
IMAGES = [
    *(f"{name}{MRI}" for name in ("EXAMDATE", "STATUS", "ST101SV", "ST102CV", "ST1SA")),
    *(f"{name}{PET}" for name in ("EXAMDATE", "FRONTAL", "BRAINSTEM_SIZE", "update_stamp")),
    *(f"{name}{DTI}" for name in ("VERSION", "FA_CST_L", "MD_CST_L")),
]
# RID, VISCODE, SITE, DXCHANGE, AGE, PTGENDER; MRI; AV45; DTI
ROWS = [
    ((2, "bl", 11, 1, 70.0, "Male"), ("3000", "2.5", "<80"), (" ", " "), (" ", " ")),
    ((2, "m24", 11, 4, 70.0, "Male"), ("3100", " ", "90"), ("1.2", "7"), ("0.5", "0.001")),
    ((2, "m24", 11, 4, 70.0, "Male"), ("3100", " ", "90"), ("1.2", "7"), ("0.5", "0.001")),
    ((5, "bl", "", 3, 61.5, "Female"), (" ", " ", " "), ("1.4", ""), (" ", "-4")),
    ((7, "m06", 23, "", 80.0, "Female"), (" ", " ", " "), (" ", " "), ("0.4", "0.002")),
    ((8, "bl", 23, 2, 75.0, "Male"), (" ", "-4", " "), (" ", " "), (" ", " ")),
    ((9, "m12", 4, 9, 66.0, "Female"), ("2900", "2", "70"), (" ", " "), (" ", " ")),
]


def write(folder, rows=ROWS):
    lines = []
    for (rid, viscode, site, change, age, sex), mri, pet, dti in rows:
        person = (
            *(rid, f"011_S_{rid:04d}", viscode, site, 1, 0, "ADNI1", "2006-01-01", "CN", change),
            *(age, sex, 16, "Not Hisp/Latino", "White", 0),
        )
        scans = ("2006-01-01", "complete", *mri, "2010-01-01", *pet, "2016-10-17", "v1", *dti)
        lines.append([*person, *scans])
    table = pd.DataFrame(lines, columns=[*PERSON, *IMAGES])
    # columns in another order, and one that nobody asked for
    table.assign(ABETA="<200").to_csv(folder / "TADPOLE_D1_D2.csv", index=False)
    return folder


@pytest.fixture
def root(tmp_path):
    return write(tmp_path)


def test_visits_with_a_modality_come_once_with_their_cells(root, caplog):
    cohort = adni.load(root, columns="all")
    assert cohort.names == ("mri", "av45", "dti")
    assert cohort.groups["visit"].tolist() == ["2-bl", "2-m24", "5-bl", "7-m06", "9-m12"]
    expected = {
        "mri.ST101SV": [3000, 3100, NAN, NAN, 2900],
        "mri.ST102CV": [2.5, NAN, NAN, NAN, 2],
        "mri.ST1SA": [NAN, 90, NAN, NAN, 70],
        "av45.FRONTAL": [NAN, 1.2, 1.4, NAN, NAN],
        "av45.BRAINSTEM_SIZE": [NAN, 7, NAN, NAN, NAN],
        "dti.FA_CST_L": [NAN, 0.5, NAN, 0.4, NAN],
        "dti.MD_CST_L": [NAN, 0.001, NAN, 0.002, NAN],
    }
    frame = cohort.to_frame()
    assert list(frame) == list(expected)
    np.testing.assert_array_equal(frame, np.float32(list(expected.values())).T)
    assert cohort.observed.tolist() == [
        [True, False, False], [True, True, True], [False, True, False], [False, False, True],
        [True, False, False],
    ]  # fmt: skip
    assert "ST1SA_UCSFFSL_02_01_16_UCSFFSL51ALL_08_01_16: 1 cells hold a limit" in caplog.text
    assert "<80" not in caplog.text
    assert "1 rows repeat another one" in caplog.text


def test_a_visit_whose_rows_differ_is_left_out_and_counted(tmp_path, caplog):
    other = ((2, "m24", 11, 4, 70.0, "Male"), ("9999", "1", "1"), ("1", "1"), ("1", "1"))
    root = write(tmp_path, [*ROWS, other])
    assert adni.load(root, columns="all").groups["visit"].tolist() == [
        "2-bl", "5-bl", "7-m06", "9-m12"
    ]  # fmt: skip
    assert "fewer than 10 visits have rows that contradict each other" in caplog.text
    flow = adni.flow(root).set_index("rule")
    assert flow.loc["told once, or alike each time", "excluded"] == 2


def test_no_message_shows_a_cell(tmp_path, caplog):
    for at, cell, said in ((0, "Zzyzx", "line 2: RID is no whole number"),
                           (3, "13", "DXCHANGE holds other numbers")):  # fmt: skip
        person = list(ROWS[0][0])
        table = pd.read_csv(write(tmp_path) / "TADPOLE_D1_D2.csv", dtype=str)
        table.loc[0, ("RID", "", "", "DXCHANGE")[at]] = cell
        table.to_csv(tmp_path / "TADPOLE_D1_D2.csv", index=False)
        with pytest.raises(ValueError, match=said) as caught:
            adni.load(tmp_path)
        assert cell not in f"{caught.value}{caplog.text}", person
    body = gzip.compress((write(tmp_path) / "TADPOLE_D1_D2.csv").read_bytes())
    (tmp_path / "TADPOLE_D1_D2.csv").unlink()
    for broken in (body[:-4], body[:-8] + b"\0\0\0\0" + body[-4:]):
        (tmp_path / "TADPOLE_D1_D2.csv.gz").write_bytes(broken)
        with pytest.raises(ValueError, match=r"^TADPOLE_D1_D2\.csv\.gz is cut off or damaged"):
            adni.load(tmp_path)
    (tmp_path / "visits.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"^visits\.parquet is no parquet file"):
        adni.load(tmp_path)


def test_who_they_are(root):
    cohort = adni.load(root)
    assert cohort.groups["patient"].tolist() == [2, 2, 5, 7, 9]
    assert cohort.groups["site"].tolist() == ["11", "11", "unknown", "23", "4"]
    assert cohort.covariates["age"].tolist() == [70, 72, 61.5, 80.5, 67]
    assert cohort.covariates["sex"].tolist() == ["male", "male", "female", "female", "female"]
    np.testing.assert_array_equal(cohort.y, [0, 1, 2, NAN, 0])
    assert (cohort.task, cohort.schema.n_classes) == ("multiclass", 3)


@pytest.mark.parametrize(
    ("code", "name"),
    [(1, 0), (2, 1), (3, 2), (4, 1), (5, 2), (6, 2), (7, 0), (8, 1), (9, 0), ("", NAN), (-4, NAN)],
)
def test_a_change_of_diagnosis_names_the_diagnosis_after_it(tmp_path, code, name):
    """4 is from normal to MCI, 5 from MCI to dementia, 6 from normal to dementia, 7 to 9 back."""
    row = ((2, "bl", 11, code, 70.0, "Male"), *ROWS[0][1:])
    other = ((3, "bl", 11, 3, 70.0, "Male"), *ROWS[0][1:])
    np.testing.assert_array_equal(adni.load(write(tmp_path, [row, other])).y, [name, 2])


def test_columns_with_holes_are_left_out_and_told(root, caplog):
    cohort = adni.load(root)
    assert cohort.schema.features == {
        "mri": ("ST101SV",), "av45": ("FRONTAL",), "dti": ("FA_CST_L", "MD_CST_L")
    }  # fmt: skip
    assert "2 columns of mri with holes are left out: ST102CV, ST1SA" in caplog.text
    assert torch.equal(cohort.observed, adni.load(root, columns="all").observed)


def test_as_published_the_same_person_is_on_both_sides(root):
    cohort = adni.load(root, as_published=True)
    assert cohort.schema.features["mri"] == ("ST101SV", "ST101SV again")
    mri = cohort.x["mri"]
    assert torch.equal(mri[:, 0], mri[:, 1])
    assert cohort.groups["patient"].tolist() == cohort.groups["visit"].tolist()
    assert cohort.groups["person"].tolist() == [2, 2, 5, 7, 9]


def test_parts_share_no_person(tmp_path):
    root = made_up.write("adni", tmp_path, n=30, seed=0)
    parts = adni.load(root).split((0.6, 0.2, 0.2))
    people = [set(part.groups["patient"].tolist()) for part in parts]
    assert not people[0] & people[1] | people[1] & people[2] | people[0] & people[2]


def test_made_up_visits_have_the_sizes_of_the_real_ones(tmp_path):
    """310, 227 and 228 columns, MRI 620 as published; all cells are those of the file."""
    root = made_up.write("adni", tmp_path, n=80, seed=0)
    sizes = [adni.load(root).schema.sizes[name] for name in ("mri", "av45", "dti")]
    assert sizes == [(310,), (227,), (228,)]
    assert adni.load(root, as_published=True).schema.sizes["mri"] == (620,)
    cohort = adni.load(root, columns="all")
    raw = pd.read_csv(next(root.glob("TADPOLE*")), low_memory=False, na_values=[" ", ""])
    families = {
        "mri": raw.filter(regex=rf"^ST\d.*{MRI}$"),
        "av45": raw.filter(regex=rf"{PET}$").drop(columns=[f"EXAMDATE{PET}", f"update_stamp{PET}"]),
        "dti": raw.filter(regex=rf"^(FA|MD|RD|AD)_.*{DTI}$"),
    }
    kept = np.logical_or.reduce([family.notna().any(axis=1) for family in families.values()])
    for name, family in families.items():
        values, seen = cohort.x[name].numpy(), cohort.x_observed[name].numpy()
        found = np.where(seen, values, NAN)
        np.testing.assert_allclose(found, family[kept].to_numpy(float), rtol=1e-6)
    diagnosis = raw["DX"][kept].map({"NL": 0, "MCI": 1, "Dementia": 2})
    np.testing.assert_array_equal(cohort.y, diagnosis)


def test_an_ingested_table_gives_the_same_cohort(tmp_path, root):
    ingest("adni", root, tmp_path / "parquet", threads=1, progress=False)
    raw, ingested = (adni.load(path, columns="all") for path in (root, tmp_path / "parquet"))
    pd.testing.assert_frame_equal(raw.to_frame(), ingested.to_frame())
    np.testing.assert_array_equal(raw.y, ingested.y)
    for name, levels in raw.groups.items():
        assert levels.tolist() == ingested.groups[name].tolist()


def test_the_flow_counts_each_rule(root):
    assert adni.flow(root).to_dict("list") == {
        "rule": ["all visits", "MRI, AV45 or DTI"],
        "excluded": [0, 1],
        "rows": [6, 5],
        "patients": [5, 4],
        "labelled": [5, 4],
    }


def test_choices_that_do_not_exist_or_leave_nothing_are_refused(tmp_path):
    root = write(tmp_path, [*ROWS, ((3, "bl", 4, 1, 66.0, "Male"), (" ", "2", " "), *ROWS[0][2:])])
    with pytest.raises(ValueError, match=r"every column of mri misses a value .*columns='all'"):
        adni.load(root)
    with pytest.raises(ValueError, match=r"'al' is not a choice of columns .*mean 'all'"):
        adni.load(root, columns="al")


def test_what_is_not_tadpole_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match=r"DXCHANGE holds other numbers than TADPOLE's codes"):
        adni.load(write(tmp_path, [((2, "bl", 11, 12, 70.0, "Male"), *ROWS[0][1:])]))
    with pytest.raises(ValueError, match=r"no visit in the table has MRI, AV45 or DTI"):
        adni.load(write(tmp_path, [ROWS[5]]))
    path = root / "TADPOLE_D1_D2.csv"
    pd.read_csv(path).drop(columns="DXCHANGE").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"no column DXCHANGE"):
        adni.load(root)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no TADPOLE_D1_D2.csv .*ida.loni.usc.edu"):
        adni.load(root)
