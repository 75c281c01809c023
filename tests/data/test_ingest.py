"""Raw files to parquet: against plain pandas, and with everything that can be wrong with a file."""

import csv
import dataclasses
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from dfdlib.book import made_up
from dfdlib.data import ingest as module
from dfdlib.data import sql
from dfdlib.data.clinical import convert as convert_module
from dfdlib.data.clinical import schemas
from dfdlib.data.clinical import schemas as schemas_module
from dfdlib.data.clinical.convert import connection
from dfdlib.data.clinical.files import Raw
from dfdlib.data.ingest import ingest, read_manifest

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
PAGE = "https://physionet.org/content/eicu-crd/2.0/"


@pytest.fixture(scope="module")
def eicu(tmp_path_factory):
    return made_up.write("eicu", tmp_path_factory.mktemp("raw"), n=200, seed=0)


@pytest.fixture
def raw(tmp_path):
    """A folder with one table, which tests rewrite."""
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "hospital.csv").write_text(HOSPITALS)
    return folder


HEADER = "hospitalid,numbedscategory,teachingstatus,region\n"
HOSPITALS = HEADER + "56,<100,f,Midwest\n59,,t,\n63,100 - 249,f,South\n"


def hospitals(root, out, **options):
    return ingest("eicu", root, out, tables=["hospital"], threads=1, **options)


def write(path, text):
    """Write text as the only form of a table."""
    for other in path.parent.glob(path.name.partition(".")[0] + ".csv*"):
        other.unlink()
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def left(out):
    return sorted(path.name for path in Path(out).iterdir()) if Path(out).exists() else []


def expected(path, types):
    """Read columns with pandas, by names in any case, as the types that they are to have."""
    kinds = {name.lower(): kind for name, kind in types.items()}
    text = {c: str for c in header(path) if kinds.get(c.lower(), "") not in ("INTEGER", "DOUBLE")}
    frame = pd.read_csv(path, dtype=text, na_values=" ", low_memory=False)
    frame.columns = frame.columns.str.lower()
    frame = frame[[name.lower() for name in types]]
    for name, kind in kinds.items():
        if kind in ("DATE", "TIMESTAMP"):
            frame[name] = pd.to_datetime(frame[name])
        elif kind == "BOOLEAN":
            frame[name] = frame[name].str.lower().map({"t": 1, "true": 1, "f": 0, "false": 0})
    return frame


def header(path):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="") as file:
        return next(csv.reader(file))


def same(got, want):
    """Whether a column of DuckDB and one of pandas hold the same, in the same order."""
    there = want.notna().to_numpy()
    a, b = got[there], want[there]
    return got.notna().to_numpy().tolist() == there.tolist() and a.tolist() == b.tolist()


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize("dataset", schemas.TABLES)
def test_every_declared_column_equals_what_pandas_reads(eicu, tmp_path, dataset):
    root = eicu
    if dataset != "eicu":
        root = made_up.write(dataset, tmp_path / "raw", n=60, seed=0, pixels=8)
    manifest = ingest(dataset, root, tmp_path / "out", threads=1)
    assert list(manifest["tables"]) == list(schemas.TABLES[dataset])
    for table, declared in schemas.TABLES[dataset].items():
        stored = manifest["tables"][table]
        relation = duckdb.sql(f"FROM '{tmp_path}/out/{table}.parquet'")
        types = dict(zip(relation.columns, map(str, relation.types), strict=True))
        assert types == stored["columns"]
        assert {n: t for n, t in types.items() if n in declared} == {
            n: t for n, t in declared.items() if "*" not in n
        }
        name = schemas_module.SOURCES[dataset].stem.format(table)
        (path,) = (
            p for p in root.rglob("*.csv*") if p.name.lower().split(".csv")[0] == name.lower()
        )
        got, want = relation.df(), expected(path, types)
        assert len(got) == len(want) == stored["rows"]
        assert stored["unreadable"] == {}
        for column in types:
            assert same(got[column], want[column.lower()]), (table, column)


def test_codes_keep_their_zeros_and_notes_their_lines(tmp_path):
    raw = made_up.write("mimic_iv", tmp_path / "raw", n=60, seed=0)
    ingest("mimic_iv", raw, tmp_path, tables=["diagnoses_icd", "discharge"], threads=1)
    codes = duckdb.sql(f"SELECT icd_code FROM '{tmp_path}/diagnoses_icd.parquet'").df()["icd_code"]
    assert "0389" in set(codes)
    assert "389" not in set(codes)
    notes = duckdb.sql(f"SELECT text FROM '{tmp_path}/discharge.parquet'").df()["text"]
    assert notes.str.contains('"Other" drugs, as before\n').all()


def test_each_image_column_of_tadpole_is_read_once(tmp_path):
    raw = made_up.write("adni", tmp_path / "raw", n=60, seed=0)
    columns = ingest("adni", raw, tmp_path, threads=1)["tables"]["visits"]["columns"]
    counted = [
        sum(kind == "DOUBLE" and name.endswith(suffix) for name, kind in columns.items())
        for suffix in ("UCSFFSL51ALL_08_01_16", "AV45_10_17_16", "DTIROI_04_30_14")
    ]
    assert counted == [328, 237, 228]  # 18 and 10 of which have holes: 310, 227, 228


def test_ugly_values_arrive_as_they_are(eicu, tmp_path):
    ingest("eicu", eicu, tmp_path, tables=["patient", "lab", "medication"], threads=1)
    ages = duckdb.sql(f"SELECT age FROM '{tmp_path}/patient.parquet'").df()["age"]
    assert "> 89" in set(ages)
    query = "SELECT min(labresultoffset), count(*) - count(DISTINCT t), count(labresult) < count(*)"
    negative, twice, without = duckdb.sql(f"{query} FROM '{tmp_path}/lab.parquet' AS t").fetchall()[
        0
    ]
    assert negative < 0
    assert twice > 0
    assert without
    assert "<0.03" in set(
        duckdb.sql(f"SELECT labresulttext FROM '{tmp_path}/lab.parquet'").df()["labresulttext"]
    )


def test_outcomes_of_the_apache_tables_never_get_in(eicu, tmp_path):
    ingest("eicu", eicu, tmp_path, tables=["apachepredvar"], threads=1)
    with gzip.open(eicu / "apachePredVar.csv.gz", "rt") as file:
        assert "diedinhospital" in next(file)
    columns = duckdb.sql(f"FROM '{tmp_path}/apachepredvar.parquet'").columns
    assert not {"diedinhospital", "dischargelocation", "var03hspxlos"} & set(columns)


def test_names_are_found_in_either_case_and_in_folders(eicu, tmp_path):
    folder = tmp_path / "copy" / "2.0" / "tables"
    folder.mkdir(parents=True)
    with gzip.open(eicu / "apacheApsVar.csv.gz", "rt") as file:
        header, rest = file.readline(), file.read()
    (folder / "APACHEAPSVAR.CSV").write_text(header.upper() + rest)
    (folder / "._APACHEAPSVAR.CSV").write_text("what another system leaves behind")
    a = ingest("eicu", eicu, tmp_path / "a", tables=["apacheApsVar"], threads=1)
    b = ingest("eicu", tmp_path / "copy", tmp_path / "b", tables=["apacheapsvar"], threads=1)
    for key in ("rows", "columns", "sha256"):
        assert a["tables"]["apacheapsvar"][key] == b["tables"]["apacheapsvar"][key]


@pytest.mark.parametrize("text", [
    HOSPITALS.replace("\n", "\r\n"),
    "\ufeff" + HOSPITALS,
    HOSPITALS.replace(",", ";"),
    HOSPITALS.replace(",", "\t"),
    HOSPITALS + "\n\n",
    HOSPITALS.replace("56,<100,f,Midwest", '"56","<100","FALSE","Midwest"'),
    HOSPITALS.replace(HEADER, '"hospitalid","numbedscategory","teachingstatus","region"\n'),
    "\n".join(f"x,{line}" for line in HOSPITALS.splitlines()),
])  # fmt: skip
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_one_table_in_many_spellings(raw, tmp_path, text, suffix):
    write(raw / f"hospital.{suffix}", text)
    assert hospitals(raw, tmp_path / "out")["tables"]["hospital"]["rows"] == 3
    rows = duckdb.sql(f"FROM '{tmp_path}/out/hospital.parquet'").fetchall()
    assert rows == [
        (56, "<100", False, "Midwest"), (59, None, True, None), (63, "100 - 249", False, "South")
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_new_lines_in_quotation_marks_belong_to_the_value(raw, tmp_path, suffix):
    note = 'two lines,\n\none of them ""quoted""\r\n'
    many = "".join(f'{i},"{note}{i}",t,South\n' for i in range(20_000))
    write(raw / f"hospital.{suffix}", HEADER + many)
    ingest("eicu", raw, tmp_path / "out", tables=["hospital"])  # on all cores
    got = duckdb.sql(f"FROM '{tmp_path}/out/hospital.parquet'").df()
    assert list(got["hospitalid"]) == list(range(20_000))
    assert list(got["numbedscategory"]) == [f"{note}{i}".replace('""', '"') for i in range(20_000)]


def test_text_among_measurements_becomes_null_and_is_counted(eicu, raw, tmp_path):
    with gzip.open(eicu / "apacheApsVar.csv.gz", "rt") as file:
        frame = pd.read_csv(file, dtype=str)
    frame.loc[3, "ph"], frame.loc[4, "ph"], frame.loc[5, "bun"] = "<7.0", " 7.25 ", "hemolysed"
    frame.loc[6, "bun"], frame.loc[7, "bun"] = " ", ""
    frame.to_csv(raw / "apacheApsVar.csv", index=False)
    manifest = ingest("eicu", raw, tmp_path / "out", tables=["apacheapsvar"], threads=1)
    assert manifest["tables"]["apacheapsvar"]["unreadable"] == {"ph": 1, "bun": 1}
    got = duckdb.sql(f"FROM '{tmp_path}/out/apacheapsvar.parquet'").df()
    assert len(got) == len(frame)
    assert got["ph"][3:5].fillna(-9).tolist() == [-9, 7.25]
    assert got["bun"][5:8].isna().all()
    assert (got["wbc"] == frame["wbc"].astype(float)).all()


LABS = "subject_id,hadm_id,itemid,charttime,storetime,value,valuenum,valueuom,flag\n"
USUAL = "1,2,3,2150-01-01 08:00:00,2150-01-01 09:00:00,x,1.5,mg,abnormal\n"


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        ("1,2.0,3,2150-01-01 08:00:00,2150-01-01 09:00:00,x,1,,", (2, "08:00:00", 1)),
        ("1,0x10,3,2150-01-01 08:00:00,2150-01-01 09:00:00,x,1,,", (16, "08:00:00", 1)),
        ("1, 7 ,3,2150-01-01T08:00,2150-01-01 09:00:00,x,1,,", (7, "08:00:00", 1)),
        ("1,,3,2150-01-01 08:00:00.5,2150-01-01 00:00,x,<1,,", (None, "08:00:00.500000", None)),
        ("1,1e3,3,,2150-01-01 09:00:00,x,<1,,", (1000, None, None)),
        ("1,2,3,2150-01-01 08:00:00,2150-01-01 09:00:00,x,1_5,,", (2, "08:00:00", None)),
    ],
)
def test_cells_in_another_writing_are_read_as_all_others_are(tmp_path, cells, read):
    (tmp_path / "labevents.csv").write_text(LABS + USUAL + cells + "\n" + USUAL)
    done = ingest("mimic_iv", tmp_path, tmp_path / "out", tables=["labevents"], threads=1)
    found = pd.read_parquet(tmp_path / "out" / "labevents.parquet")
    usual = {"hadm_id": 2, "charttime": pd.Timestamp("2150-01-01 08:00"), "valuenum": 1.5}
    assert found.loc[[0, 2], list(usual)].to_dict("records") == [usual, usual]
    row = found.loc[1].astype(object).where(found.loc[1].notna(), None)
    clock = None if row["charttime"] is None else str(row["charttime"].time())
    assert (row["hadm_id"], clock, row["valuenum"]) == read
    assert done["tables"]["labevents"]["unreadable"] == ({} if read[2] else {"valuenum": 1})


@pytest.mark.parametrize(
    "cell", ["2.5", "1e-1", "1E-1", "1_5", "nan", "inf", "2147483648", "2147483647.5"]
)
def test_what_is_no_whole_number_is_refused_beside_text_among_measurements(tmp_path, cell):
    wrong = USUAL.replace(",2,", f",{cell},", 1)
    text = USUAL.replace(",1.5,", ",<1,")
    (tmp_path / "labevents.csv").write_text(LABS + USUAL + text + wrong)
    with pytest.raises(ValueError, match=r"^labevents.csv, line 4: hadm_id holds .* where a whole"):
        ingest("mimic_iv", tmp_path, tmp_path / "out", tables=["labevents"], threads=1)
    assert left(tmp_path / "out") == []


def test_patterns_stand_for_columns_that_are_not_declared_by_name(raw, tmp_path, monkeypatch):
    declared = {"RID": "INTEGER", "EXAMDATE_PET": "DATE", "*_PET": "DOUBLE", "st[0-9]*": "DOUBLE"}
    monkeypatch.setitem(schemas.TABLES, "adni", {"visits": declared})
    (raw / "TADPOLE_D1_D2.csv").write_text(
        "RID,EXAMDATE_PET,Frontal_PET,STATUS,ST1SV,Temporal_PET\n2,2010-01-31,1.5, ,3, \n"
    )
    ingest("adni", raw, tmp_path / "out", threads=1)
    relation = duckdb.sql(f"FROM '{tmp_path}/out/visits.parquet'")
    assert relation.columns == ["RID", "EXAMDATE_PET", "FRONTAL_PET", "TEMPORAL_PET", "ST1SV"]
    assert [str(value) for value in relation.fetchall()[0]] == [
        "2",
        "2010-01-31",
        "1.5",
        "None",
        "3.0",
    ]


# ---------------------------------------------------------------- manifest, repetition, resumption


def test_the_manifest_says_what_was_read_and_written(raw, tmp_path):
    manifest = hospitals(raw, tmp_path / "out")
    table = manifest["tables"]["hospital"]
    parquet, source = tmp_path / "out" / "hospital.parquet", raw / "hospital.csv"
    assert table["source"] == "hospital.csv"
    assert table["source_bytes"] == source.stat().st_size
    assert table["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert table["sha256"] == hashlib.sha256(parquet.read_bytes()).hexdigest()
    assert table["bytes"] == parquet.stat().st_size
    assert table["columns"] == schemas.TABLES["eicu"]["hospital"]
    assert manifest["dataset"] == "eicu"
    assert manifest["version"] == "unknown"
    assert read_manifest(tmp_path / "out") == manifest
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()
    assert left(tmp_path / "out") == ["hospital.parquet", "manifest.json"]


@pytest.fixture
def converted(monkeypatch):
    """Names of tables that were converted, in order."""
    names = []

    def convert(raw, *arguments, **options):
        names.append(raw.table)
        return convert_module.convert(raw, *arguments, **options)

    monkeypatch.setattr(module, "convert", convert)
    return names


def test_only_what_changed_is_done_again(raw, tmp_path, converted, monkeypatch):
    out = tmp_path / "out"
    first = hospitals(raw, out)
    assert hospitals(raw, out) == first
    os.utime(raw / "hospital.csv", (0, 0))  # the content counts, not the date
    assert hospitals(raw, out) == first
    assert converted == ["hospital"]
    (out / "hospital.parquet").write_bytes(b"damaged")
    assert hospitals(raw, out) == first
    assert converted == ["hospital"] * 2
    write(raw / "hospital.csv", HOSPITALS + "70,<100,t,West\n")
    assert hospitals(raw, out)["tables"]["hospital"]["rows"] == 4
    assert converted == ["hospital"] * 3
    monkeypatch.setitem(schemas.TABLES["eicu"], "hospital", {"hospitalid": "BIGINT"})
    assert hospitals(raw, out)["tables"]["hospital"]["columns"] == {"hospitalid": "BIGINT"}
    assert converted == ["hospital"] * 4


def test_an_interrupted_run_goes_on_with_the_next_table(eicu, tmp_path, converted, monkeypatch):
    def interrupted(raw, *arguments, **options):
        if raw.table == "diagnosis":
            arguments[0].write_bytes(b"half")
            raise KeyboardInterrupt
        return convert_module.convert(raw, *arguments, **options)

    with monkeypatch.context() as context:
        context.setattr(module, "convert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ingest("eicu", eicu, tmp_path, threads=1)
    done = ["patient", "hospital", "admissiondx"]
    assert list(read_manifest(tmp_path)["tables"]) == done
    manifest = ingest("eicu", eicu, tmp_path, threads=1)
    assert converted == [name for name in schemas.TABLES["eicu"] if name not in done]
    assert set(left(tmp_path)) == {f"{t}.parquet" for t in manifest["tables"]} | {"manifest.json"}
    assert manifest == ingest("eicu", eicu, tmp_path / "again", threads=1)


def test_a_conversion_that_is_interrupted_leaves_nothing(eicu, tmp_path, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(convert_module.os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        ingest("eicu", eicu, tmp_path, tables=["lab"], threads=1)
    assert left(tmp_path) == []


def test_tables_of_two_folders_meet_in_one(eicu, raw, tmp_path):
    hospitals(raw, tmp_path / "out")
    ingest("eicu", eicu, tmp_path / "out", tables=["patient"], threads=1)
    assert list(read_manifest(tmp_path / "out")["tables"]) == ["hospital", "patient"]


def test_progress_is_shown_where_it_is_asked_for(raw, tmp_path, capsys):
    hospitals(raw, tmp_path / "out", progress=True)
    shown = capsys.readouterr()
    assert "hospital: 100%" in shown.err
    assert not shown.out
    hospitals(raw, tmp_path / "quiet", progress=False)
    assert not capsys.readouterr().err


# ---------------------------------------------------------------- what is refused


def refused(raw, tmp_path, said, kind=ValueError, **options):
    """Nothing stays when a table is refused, and the page of the data set is named."""
    with pytest.raises(kind, match=said) as caught:
        hospitals(raw, tmp_path / "out", **options)
    assert [name for name in left(tmp_path / "out") if name != "manifest.json"] == []
    return str(caught.value)


def test_a_missing_table_is_named_with_the_page(raw, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"patient, lab of the eICU .* missing") as caught:
        ingest("eicu", raw, tmp_path / "out", tables=["patient", "hospital", "lab"])
    said = str(caught.value)
    assert "no patient.csv or patient.csv.gz below" in said
    assert PAGE in said
    assert "skip=['patient', 'lab'] (--skip patient --skip lab)" in said
    assert left(tmp_path / "out") == []  # before anything is converted
    done = ingest("eicu", raw, tmp_path / "out", tables=["hospital", "lab"], skip=["Lab"])
    assert list(done["tables"]) == ["hospital"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere.*Pass root="):
        ingest("eicu", tmp_path / "nowhere", tmp_path / "out")


def test_a_missing_column_is_named_with_file_and_page(raw, tmp_path):
    write(raw / "hospital.csv.gz", HOSPITALS.replace("region", "area"))
    said = refused(
        raw, tmp_path, r"hospital\.csv\.gz, line 1: no column region\. It has 4, of which 3"
    )
    assert PAGE in said
    assert "area" not in said  # it may be a cell, where the names are missing


def test_a_column_that_is_there_twice_is_refused(raw, tmp_path):
    write(raw / "hospital.csv", HOSPITALS.replace("numbedscategory", "Beds"))
    refused(raw, tmp_path, r"hospital\.csv, line 1: no column numbedscategory")
    write(raw / "hospital.csv", "region," + HOSPITALS)
    refused(raw, tmp_path, r"hospital\.csv has the column region 2 times")


@pytest.mark.parametrize("keep", [10, 40, -9, -1])
def test_a_truncated_gzip_is_named(raw, tmp_path, keep):
    write(raw / "hospital.csv.gz", HEADER + "".join(f"{i},,t,West\n" for i in range(50_000)))
    whole = (raw / "hospital.csv.gz").read_bytes()
    cut = keep if keep < 0 or keep < 20 else len(whole) * keep // 100
    (raw / "hospital.csv.gz").write_bytes(whole[:cut])
    said = refused(raw, tmp_path, r"hospital\.csv\.gz is cut off or damaged")
    assert PAGE in said


def test_a_file_that_is_no_gzip_is_named(raw, tmp_path):
    (raw / "hospital.csv").rename(raw / "hospital.csv.gz")
    refused(raw, tmp_path, r"hospital\.csv\.gz is cut off or damaged \(Not a gzipped file")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("70;<100;t;West", r"line 4: 1 cells .* so a delimiter is missing, doubled, or not ','"),
        ("70,<100,t", r"line 4: 3 cells where the header has 4"),
        ("70,<100,t,West,x", r"line 4: 5 cells where the header has 4"),
        ("seventy,<100,t,West", r"line 4: hospitalid holds a word \(7 .*where a whole number"),
        ("70.5,<100,t,West", r"line 4: hospitalid holds a number \(4 .*where a whole number"),
        ("70,<100,perhaps,West", r"line 4: teachingstatus holds a word .*where true or false"),
        ('70,"<100,t,West', r"line 4: a quotation mark is opened and never closed"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_a_line_that_does_not_fit_is_named(raw, tmp_path, line, said, suffix):
    rows = HOSPITALS.splitlines()
    write(raw / f"hospital.{suffix}", "\n".join([*rows[:3], line, *rows[3:]]) + "\n")
    message = refused(raw, tmp_path, said)
    assert f"hospital.{suffix}" in message
    assert PAGE in message
    assert str(raw) not in message
    assert not {"seventy", "perhaps", "70.5", "West"} & set(re.findall(r"[\w.]+", message))


def test_a_line_deep_in_a_large_file_is_named_after_quoted_new_lines(raw, tmp_path):
    lines = [f'{i},"a\nb",t,West' for i in range(30_000)]
    lines[20_000] = "1,2,t"
    write(raw / "hospital.csv.gz", HEADER + "\n".join(lines) + "\n")
    refused(raw, tmp_path, r"line 20002: 3 cells")  # counted in rows


def test_what_is_not_utf8_or_empty_is_named(raw, tmp_path):
    (raw / "hospital.csv").write_bytes(HOSPITALS.encode() + b"70,caf\xe9,t,West\n")
    refused(raw, tmp_path, r"hospital\.csv, line 5: it is not UTF-8 text")
    (raw / "hospital.csv").write_bytes(b"")
    refused(raw, tmp_path, r"hospital\.csv is empty")


def test_two_files_for_one_table_are_refused(raw, tmp_path):
    (raw / "old").mkdir()
    shutil.copy(raw / "hospital.csv", raw / "old" / "Hospital.csv")
    refused(raw, tmp_path, r"two files for hospital: hospital\.csv and old/Hospital\.csv")


def versions(monkeypatch, **options):
    source = dataclasses.replace(schemas_module.SOURCES["eicu"], **options)
    monkeypatch.setitem(schemas_module.SOURCES, "eicu", source)


def test_another_version_is_refused_unless_it_is_asked_for(raw, tmp_path, monkeypatch):
    counts = {"2.0": {"hospital": 5}, "3.1": {"hospital": 3}}
    versions(monkeypatch, counts=counts, versions=("2.0",))
    said = refused(raw, tmp_path, r"has 3 rows, as version 3\.1 has.*written for 2\.0 \(")
    assert "--version 3.1" in said
    refused(raw, tmp_path, r"has 3 rows; version 2\.0 of the eICU .* has 5", version="2.0")
    assert hospitals(raw, tmp_path / "out", version="3.1")["version"] == "3.1"
    with pytest.raises(
        ValueError, match=r"'3\.10' is not a known version .* Did you mean '3\.1'\?"
    ):
        hospitals(raw, tmp_path / "out", version="3.10")


@pytest.mark.parametrize("version", ["2.0", "2.2", "3.1", "demo 2.2"])
def test_versions_of_mimic_iv_are_taken_as_they_are(version):
    """By the rows that PhysioNet publishes; a table with those of no version is of a subset."""
    source = schemas_module.SOURCES["mimic_iv"]
    for table, rows in source.counts[version].items():
        place = f"hosp/{table}.csv.gz"
        raw = Raw(table, Path(place), place, delimiter=",", width=6, columns=())
        module.check_version(table, rows, raw, source, wanted=None)
        with pytest.raises(ValueError, match=rf"version {re.escape(version)} of MIMIC-IV .* has"):
            module.check_version(table, rows + 1, raw, source, wanted=version)
    assert module.identify(source.counts[version], source) == version


def test_another_data_set_is_told_by_a_column(raw, tmp_path, monkeypatch):
    versions(monkeypatch, foreign={("hospital", "region"): "eICU 1.2"})
    refused(raw, tmp_path, r"has the column region: this is eICU 1\.2, not the eICU")


def test_a_file_that_is_not_the_shipped_one_is_refused(raw, tmp_path):
    digest = hashlib.sha256((raw / "hospital.csv").read_bytes()).hexdigest()
    (raw / "SHA256SUMS.txt").write_text(f"{digest} hospital.csv\n")
    hospitals(raw, tmp_path / "fine")
    (raw / "SHA256SUMS.txt").write_text(f"{'0' * 64} hospital.csv\n")
    refused(raw, tmp_path, r"hospital\.csv is not the file that .*SHA256SUMS\.txt lists: its SHA")


def test_one_folder_holds_one_data_set(raw, tmp_path):
    hospitals(raw, tmp_path / "out")
    (raw / "mimic-cxr-2.0.0-split.csv").write_text("dicom_id,study_id,subject_id,split\n")
    with pytest.raises(ValueError, match=r"out' holds eicu, not mimic_cxr. Pass another folder"):
        ingest("mimic_cxr", raw, tmp_path / "out", tables=["split"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": "plenty"}, r"memory='plenty' is not a size.*memory='4GB'"),
        ({"skip": ["hospitals"]}, r"'hospitals' is not a declared table .* mean 'hospital'\?"),
        ({"skip": ["hospital"]}, r"no table is left"),
    ],
)
def test_settings_that_cannot_be_are_refused(raw, tmp_path, options, said):
    refused(raw, tmp_path, said, **options)


def test_an_unknown_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'mimic' is not a data set that can be ingested"):
        ingest("mimic", tmp_path, tmp_path)


def test_a_manifest_that_cannot_be_read_is_refused(raw, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json in .* Run: dfdlib data ingest"):
        read_manifest(out)
    out.mkdir()
    (out / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is no JSON .* Delete it"):
        hospitals(raw, out)
    (out / "manifest.json").write_text('{"schema": 0}')
    with pytest.raises(ValueError, match=r"manifest\.json is not of schema 1"):
        read_manifest(out)


FULL = """
import resource, sys
from dfdlib.data.ingest import ingest
raw, out = sys.argv[1:]
ingest("eicu", raw, out, tables=["hospital"], threads=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    ingest("eicu", raw, out, tables=["hospital", "lab"], threads=1)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are of Unix")
def test_a_full_disk_is_named_and_nothing_half_written_stays(eicu, tmp_path):
    """A limit on the size of files fails in the same place as a disk without room."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FULL, eicu, tmp_path / "out"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (
        "the folder to write to is full: lab could not be written, and was removed" in done.stdout
    )
    assert "the tables that are done are kept" in done.stdout
    assert left(tmp_path / "out") == ["hospital.parquet", "manifest.json"]


# ---------------------------------------------------------------- real extracts


REAL = {
    "eicu_demo": ("demo 2.0.1", ["lab", "vitalperiodic"]),
    "eicu_demo_raw_subset": (
        "unknown", ["vitalperiodic", "vitalaperiodic", "apacheapsvar", "apachepredvar"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_the_demo_of_eicu_is_read_as_pandas_reads_it(name, tmp_path):
    root = SHARED / name
    if not root.is_dir():
        pytest.skip(f"needs {name} in ../shared/data, which is not part of the repository")
    version, skip = REAL[name]
    manifest = ingest("eicu", root, tmp_path, skip=skip, threads=1)
    assert manifest["version"] == version
    assert set(manifest["tables"]) == set(schemas.TABLES["eicu"]) - set(skip)
    for table, stored in manifest["tables"].items():
        assert stored["unreadable"] == {}
        (path,) = (p for p in root.iterdir() if p.name.lower().split(".")[0] == table)
        columns = schemas.TABLES["eicu"][table]
        want = expected(path, columns)
        got = duckdb.sql(f"FROM '{tmp_path / table}.parquet'").df()
        assert len(got) == len(want)
        for column in columns:
            assert same(got[column], want[column]), (table, column)


@pytest.mark.parametrize(("given", "used"), [(None, 1), (2, 2)])
def test_takes_as_many_threads_as_the_process_has_cores(
    given: int | None, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3}, raising=False)
    monkeypatch.setattr(sql, "_AFFINITY", True)
    with connection(memory="1GB", threads=given) as connected:
        found = connected.execute("SELECT current_setting('threads')").fetchone()
    assert found == (used,)
