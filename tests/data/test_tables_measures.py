"""How numbers of own tables are written and measured: against pandas, and each refusal by its key.

Encodings, decimal commas, units, ranges, detection limits, ids of several columns, the window
before the cut, and the counts of what went where.
"""

import gzip
import warnings

import numpy as np
import pandas as pd
import pytest

from dfdlib.data import from_tables
from dfdlib.data.tables import flow, read_tables

NAN = np.nan


def write(folder, **files):
    """Write files of text; a tuple is text and its encoding."""
    for name, text in files.items():
        text, encoding = text if isinstance(text, tuple) else (text, "utf-8")
        (folder / f"{name}.csv").write_bytes(text.encode(encoding))


def config(folder, *, columns=("v",), time=None, files=None, missing=None, patients=None, **keys):
    """A configuration of one modality `m` of labs.csv, beside stays.csv."""
    modality = {
        "kind": "vector",
        "file": str(folder / "labs.csv"),
        "columns": list(columns),
        **keys,
    }
    whole = {
        "patients": {"file": str(folder / "stays.csv"), "id": "id", **(patients or {})},
        "modalities": {"m": modality},
    }
    if files is not None:
        whole["files"] = {str(folder / k) if "." in k else k: v for k, v in files.items()}
    return whole | ({"time": time} if time else {}) | ({"missing": missing} if missing else {})


def read(given, **options):
    """The cohort, and what is said of it, but for rows of which nothing is known."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", ".*nothing observed")
        cohort = from_tables(given, **options)
    return cohort, [str(warning.message) for warning in caught]


def column(cohort, k=0):
    """One column of the modality, NaN where it is missing."""
    values, there = cohort.x["m"][:, k].numpy(), cohort.x_observed["m"][:, k].numpy()
    return np.where(there, values, NAN).tolist()


STAYS = "id\n1\n2\n3\n4\n"

# ---------------------------------------------------------------- how files are written


def test_decimal_commas_are_read_as_pandas_reads_them(tmp_path):
    text = "id;v;w\n1;1,5;1.234,25\n2;-0,25;7\n3;1e-1;-12.345.678,5\n4;12;,5\n"
    write(tmp_path, stays=STAYS, labs=text)
    cohort, said = read(config(tmp_path, columns=["v", "w"], files={"decimal": ","}))
    expected = pd.read_csv(tmp_path / "labs.csv", sep=";", decimal=",", thousands=".")
    np.testing.assert_array_equal(column(cohort, 0), np.float32(expected["v"]))
    np.testing.assert_array_equal(column(cohort, 1), np.float32(expected["w"]))
    assert said == []


def test_the_decimal_comma_is_that_of_its_file_alone(tmp_path):
    """A comma in the patients' file; points in labs.csv; a word with a comma stays what it is."""
    write(tmp_path, stays="id;age;ward;dose\n1;61,5;A,1;2,5\n2;40;B;3,5\n",
          labs="id,v\n1,1.5\n2,2\n")  # fmt: skip
    given = config(tmp_path, files={"decimal": ",", "labs.csv": {"decimal": "."}},
                   patients={"covariates": ["age", "ward"]})  # fmt: skip
    given["modalities"]["drug"] = {"kind": "vector", "columns": ["dose"]}
    cohort, _ = read(given)
    assert column(cohort) == [1.5, 2]
    assert cohort.x["drug"].flatten().tolist() == [2.5, 3.5]
    assert cohort.covariates["age"].tolist() == [61.5, 40]
    assert cohort.covariates["ward"].tolist() == ["A,1", "B"]


def test_times_missing_words_and_labels_know_the_decimal_comma(tmp_path):
    write(tmp_path, stays="id;y\n1;0,0\n2;1,0\n",
          labs="id;at;v\n1;1,5;3\n1;2,5;4\n2;0,5;-999,0\n")  # fmt: skip
    given = config(tmp_path, files={"decimal": ","}, time={"cut": 2}, missing={"values": ["-999"]})
    given["modalities"]["m"]["time"] = "at"
    given["label"] = {"columns": ["y"]}
    cohort, _ = read(given)
    assert column(cohort)[0] == 3
    assert np.isnan(column(cohort)[1])
    assert cohort.y.tolist() == [0, 1]


@pytest.mark.parametrize("cell", ["1.5", "1.234", "1,234,5", "1.23,4"])
def test_a_full_stop_among_decimal_commas_is_refused(tmp_path, cell):
    write(tmp_path, stays=STAYS, labs=f"id;v\n1;{cell}\n2;2,5\n")
    with pytest.raises(
        ValueError, match=r"'v' of labs.csv holds 1 value that is no number"
    ) as told:
        from_tables(config(tmp_path, files={"decimal": ","}))
    assert cell not in str(told.value)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "UTF-8", "cp437"])
@pytest.mark.parametrize("compressed", [False, True])
def test_text_of_another_encoding_is_read(tmp_path, encoding, compressed):
    text = "id,Größe,who\n1,1.5,Ärztin\n2,2,Pfleger\n".encode(encoding)
    write(tmp_path, stays="id\n1\n2\n")
    name = "labs.csv.gz" if compressed else "labs.csv"
    (tmp_path / name).write_bytes(gzip.compress(text) if compressed else text)
    given = config(tmp_path, columns=["Größe"], files={name: {"encoding": encoding}},
                   file=str(tmp_path / name))  # fmt: skip
    given["modalities"]["who"] = {
        "kind": "categorical", "file": str(tmp_path / name),
        "columns": {"who": ["Pfleger", "Ärztin"]},
    }  # fmt: skip
    cohort, _ = read(given)
    assert column(cohort) == [1.5, 2]
    assert cohort.x["who"].flatten().tolist() == [1, 0]


def test_text_that_is_not_of_its_encoding_is_refused(tmp_path):
    write(tmp_path, stays=STAYS, labs=("id,v,w\n1,1,a\n2,2,é\n", "latin-1"))
    with pytest.raises(ValueError, match=r"labs.csv cannot be read: it is not shift_jis text"):
        from_tables(config(tmp_path, files={"encoding": "shift_jis", "stays.csv": {}}))
    with pytest.raises(ValueError, match="it is not UTF-8 text"):
        from_tables(config(tmp_path))


# ---------------------------------------------------------------- units and ranges

UNITS = {"a": {"umol/L": 1, "mg/dL": 88.4}, "t": {"C": 1, "F": [5 / 9, -160 / 9]}}
LONG = """id,what,result,unit
1,a,100,umol/L
2,a,2,mg/dL
1,t,98.6,F
2,t,36.5, C
3,a,50,umol/L
3,t,212,F
"""


def long(folder, **keys):
    given = {"item": "what", "value": "result", "unit": "unit", "units": UNITS, **keys}
    return config(folder, columns=["a", "t"], **given)


def test_numbers_end_up_in_the_first_unit(tmp_path):
    write(tmp_path, stays=STAYS, labs=LONG)
    cohort, said = read(long(tmp_path))
    np.testing.assert_allclose(column(cohort, 0), [100, 2 * 88.4, 50, NAN], rtol=1e-6)
    np.testing.assert_allclose(column(cohort, 1), [37, 36.5, 100, NAN], rtol=1e-6)
    assert said == []


def test_the_order_of_units_does_not_matter(tmp_path):
    """Whoever writes YAML again may sort its keys; two names of one unit are one."""
    write(tmp_path, stays=STAYS, labs=LONG.replace("3,a,50,umol/L", "3,a,50,µmol/L"))
    forward = {"umol/L": 1, "µmol/L": 1, "": 1, "mg/dL": 88.4}
    backward = dict(reversed(forward.items()))
    first, again = (read(long(tmp_path, units={**UNITS, "a": a}))[0] for a in (forward, backward))
    np.testing.assert_allclose(column(first), [100, 2 * 88.4, 50, NAN], rtol=1e-6)
    np.testing.assert_array_equal(column(again), column(first))
    assert first.tables == again.tables
    assert first.tables["modalities"]["m"]["units"] == ["umol/L", "C"]


def test_ranges_are_of_the_converted_number_and_counted(tmp_path):
    write(tmp_path, stays=STAYS, labs=LONG)
    cohort, said = read(long(tmp_path, bounds={"a": [60, None], "t": [None, 100]}))
    np.testing.assert_allclose(column(cohort, 0), [100, 2 * 88.4, NAN, NAN], rtol=1e-6)
    np.testing.assert_allclose(column(cohort, 1), [37, 36.5, 100, NAN], rtol=1e-6)
    assert said == [
        "config['modalities']['m']['bounds']['a']: fewer than 10 of 3 values of 'a' in labs.csv "
        "lie outside 60 to inf, and are missing"
    ]


def test_a_value_in_range_is_taken_where_the_last_is_out_of_it(tmp_path):
    write(tmp_path, stays=STAYS, labs="id,at,v\n1,1,5\n1,2,1000\n2,1,7\n")
    given = config(tmp_path, time={"cut": 3}, bounds={"v": [0, 10]})
    given["modalities"]["m"]["time"] = "at"
    assert column(read(given)[0])[:2] == [5, 7]


def test_a_unit_that_is_not_listed_is_refused_and_not_shown(tmp_path):
    write(tmp_path, stays=STAYS, labs=LONG.replace("2,a,2,mg/dL", "2,a,2,mg/dl"))
    with pytest.raises(ValueError, match=r"Did you mean 'mg/dL'\?") as told:
        from_tables(long(tmp_path))
    said = str(told.value)
    assert said.startswith(
        "config['modalities']['m']['units']['a']: 1 value of 'a' in labs.csv has another unit than "
        "umol/L, mg/dL: text (5 characters). "
    )
    assert "mg/dl" not in said
    assert "config['missing']['text']: missing" in said
    cohort, notes = read(long(tmp_path, missing={"text": "missing"}))
    np.testing.assert_array_equal(column(cohort, 0), [100, NAN, 50, NAN])
    assert len(notes) == 1
    assert "It is missing" in notes[0]


def test_no_unit_is_a_unit_only_where_it_is_listed(tmp_path):
    write(tmp_path, stays=STAYS, labs=LONG.replace("100,umol/L", "100,"))
    with pytest.raises(
        ValueError, match=r"\['units'\]\['a'\]: 1 value of 'a' in labs.csv has anoth"
    ):
        from_tables(long(tmp_path))
    cohort, _ = read(long(tmp_path, units={**UNITS, "a": {"umol/L": 1, "": 2, "mg/dL": 88.4}}))
    np.testing.assert_allclose(column(cohort, 0), [200, 2 * 88.4, 50, NAN], rtol=1e-6)


def test_a_unit_that_ten_have_is_named(tmp_path):
    rows = "".join(f"{i},{i},mol\n" for i in range(12))
    write(tmp_path, stays="id\n" + "".join(f"{i}\n" for i in range(12)), labs="id,v,unit\n" + rows)
    given = config(tmp_path, unit="unit", units={"v": "mmol"})
    what = r"12 values of 'v' in labs.csv have another unit than mmol: mol\. Did you mean 'mmol'"
    with pytest.raises(ValueError, match=what):
        from_tables(given)


# ---------------------------------------------------------------- detection limits

LIMITS = "id,v,w\n1,<0.01,5\n2,3,> 500\n3,≤ 2,\n4,7,1\n"


def test_limits_are_values(tmp_path):
    write(tmp_path, stays=STAYS, labs=LIMITS)
    cohort, said = read(config(tmp_path, columns=["v", "w"], limits="value"))
    np.testing.assert_array_equal(column(cohort, 0), np.float32([0.01, 3, 2, 7]))
    np.testing.assert_array_equal(column(cohort, 1), [5, 500, NAN, 1])
    assert cohort.schema.features["m"] == ("v", "w")
    assert said == []


def test_limits_have_a_flag(tmp_path):
    write(tmp_path, stays=STAYS, labs=LIMITS)
    cohort, _ = read(config(tmp_path, columns=["v", "w"], limits="flag"))
    assert cohort.schema.features["m"] == ("v", "w", "v_limit", "w_limit")
    np.testing.assert_array_equal(column(cohort, 1), [5, 500, NAN, 1])
    np.testing.assert_array_equal(column(cohort, 2), [-1, 0, -1, 0])
    np.testing.assert_array_equal(column(cohort, 3), [0, 1, NAN, 0])


@pytest.mark.parametrize(
    ("take", "value", "side"),
    [("last", 0.5, -1), ("first", 4, 0), ("min", 0.5, -1), ("max", 9, 1)],
)
def test_the_flag_is_of_the_value_that_is_taken(tmp_path, take, value, side):
    write(tmp_path, stays="id\n1\n", labs="id,at,v\n1,1,4\n1,2,>9\n1,3,<0.5\n")
    given = config(tmp_path, time={"cut": 24}, take=take, limits="flag")
    given["modalities"]["m"]["time"] = "at"
    assert read(given)[0].x["m"].tolist() == [[value, side]]


def test_limits_of_a_series_are_flags_of_their_own(tmp_path):
    write(tmp_path, stays="id\n1\n", labs="id;at;v\n1;1;4,5\n1;2;<0,5\n")
    given = config(tmp_path, time={"cut": 24}, limits="flag", files={"decimal": ","})
    given["modalities"]["m"] |= {"time": "at", "kind": "series"}
    series = read(given)[0].x["m"]
    assert series.values.tolist() == [[1, 4.5, 0], [2, 0.5, 1]]
    assert series.words == {0: "v", 1: "v_limit"}


def test_without_a_word_of_limits_they_are_refused_with_what_to_type(tmp_path):
    write(tmp_path, stays=STAYS, labs=LIMITS)
    with pytest.raises(ValueError, match=r"a limit .* in the modality write limits: flag"):
        from_tables(config(tmp_path, columns=["v", "w"]))
    write(tmp_path, labs="id,v\n1,<\n2,<x\n3,<1\n")
    with pytest.raises(ValueError, match="holds 2 values that are no numbers"):
        from_tables(config(tmp_path, limits="value"))


# ---------------------------------------------------------------- ids of several columns


def test_an_id_may_be_of_several_columns(tmp_path):
    """1 of north is not 1 of south; 1 with 11 is not 11 with 1."""
    write(
        tmp_path,
        stays="hospital,nr,person,y\nnorth,1,7,0\nsouth,1,7,1\n1,11,8,0\n11,1,9,1\n",
        labs="nr,hospital,v\n1,south,20\n1,north,10\n11,1,30\n1,11,40\n2,north,99\n,north,5\n",
    )
    given = config(tmp_path, patients={"id": ["hospital", "nr"], "patient": ["hospital", "person"]})
    given["label"] = {"columns": ["y"]}
    cohort, said = read(given)
    assert column(cohort) == [10, 20, 30, 40]
    assert cohort.y.tolist() == [0, 1, 0, 1]
    assert len(set(cohort.groups["patient"])) == 4
    assert any("have no 'hospital' with 'nr' and do not enter" in note for note in said)


def test_rows_of_one_composite_id_are_refused(tmp_path):
    write(tmp_path, stays="hospital,nr\nnorth,1\nnorth,1\n", labs="hospital,nr,v\nnorth,1,2\n")
    with pytest.raises(
        ValueError, match=r"rows 1 and 2 of stays.csv have the same 'hospital' with"
    ):
        from_tables(config(tmp_path, patients={"id": ["hospital", "nr"]}))
    with pytest.raises(ValueError, match=r"'nmbr' is not a column of stays.csv"):
        from_tables(config(tmp_path, patients={"id": ["hospital", "nmbr"]}))


# ---------------------------------------------------------------- the window before the cut

TIMED = "id,at,v\n1,-30,1\n1,-20,2\n1,4,3\n1,5,4\n2,-25,5\n2,,6\n9,1,7\n"


def timed(folder, window=None, **keys):
    time = {"cut": 4} | ({} if window is None else {"lookback": window})
    given = config(folder, time=time, take="first", **keys)
    given["modalities"]["m"]["time"] = "at"
    return given


def test_only_the_window_enters(tmp_path):
    write(tmp_path, stays=STAYS, labs=TIMED)
    assert column(read(timed(tmp_path))[0])[:2] == [1, 5]
    np.testing.assert_array_equal(column(read(timed(tmp_path, 24))[0])[:2], [2, NAN])
    assert column(read(timed(tmp_path, 29))[0])[:2] == [2, 5]  # -25 is 29 hours before 4: within
    np.testing.assert_array_equal(column(read(timed(tmp_path, 28.9))[0])[:2], [2, NAN])


def test_a_modality_may_have_a_window_of_its_own(tmp_path):
    write(tmp_path, stays=STAYS, labs=TIMED)
    given = timed(tmp_path, 24, lookback=2)
    np.testing.assert_array_equal(column(read(given)[0])[:2], [3, NAN])
    given["modalities"]["m"]["lookback"] = "none"
    assert column(read(given)[0])[:2] == [1, 5]


def test_the_flow_counts_where_rows_went(tmp_path):
    """Each row twelve times over, so that nothing is hidden: against a count by hand."""
    stays = "id\n" + "".join(f"{12 * k + i}\n" for k in (1, 2) for i in range(12))
    labs = ["id,at,v"]
    for i in range(12):
        a, b = 12 + i, 24 + i
        labs += [f"{a},-30,1", f"{a},4,2", f"{a},5,3", f"{b},0,x", f"{b},,6", f"99{i},1,7",
                 f"{b},1,<5", f"{b},2,900"]  # fmt: skip
    write(tmp_path, stays=stays, labs="\n".join(labs) + "\n")
    given = timed(tmp_path, 24, bounds={"v": [0, 100]}, limits="value", missing={"text": "missing"})
    counts = flow(given).loc["m"].to_dict()
    assert counts == {
        "rows": 96, "unmatched": 12, "without time": 12, "late": 12, "early": 12, "in time": 48,
        "unreadable": 12, "other unit": 0, "out of bounds": 12, "limits": 12, "values": 24,
        "patients": 24,
    }  # fmt: skip


def test_the_flow_hides_counts_under_ten(tmp_path):
    write(tmp_path, stays=STAYS, labs=TIMED)
    counts = flow(timed(tmp_path, 24)).loc["m"]
    assert counts["rows"] is pd.NA
    assert not ((counts > 0) & (counts < 10)).any()
    rows = "".join(f"1,{i / 10},{i}\n" for i in range(25)) + "1,9,9\n"
    write(tmp_path, labs="id,at,v\n" + rows)
    counts = flow(timed(tmp_path)).loc["m"]
    assert counts["late"] is pd.NA
    assert (counts["rows"], counts["in time"], counts["values"]) == (20, 20, 20)


def test_the_cohort_tells_how_it_was_read(tmp_path):
    write(tmp_path, stays=STAYS, labs=LONG)
    given = long(tmp_path, bounds={"a": [0, None]}, limits="flag")
    tables = read(given)[0].select([0, 1]).tables
    assert tables["modalities"]["m"] == {
        "kind": "vector", "columns": ["a", "t", "a_limit", "t_limit"], "levels": None,
        "take": "last", "units": ["umol/L", "C"], "bounds": [[0.0, None], None], "lookback": None,
    }  # fmt: skip
    assert read_tables(given, trained={**tables, "words": {}}).cohort.tables == tables


# ---------------------------------------------------------------- what is refused


M = "config['modalities']['m']"
WRONG = {
    "encoding": ({"files": {"encoding": "utf-9"}}, "config['files']['encoding']: 'utf-9' is no"),
    "no text encoding": ({"files": {"encoding": "rot13"}}, "'rot13' is no encoding. Write cp1252"),
    "decimal": (
        {"files": {"decimal": ";"}}, "config['files']['decimal']: ';' is not a decimal (., ,)."
    ),
    "a file that is not read": (
        {"files": {"lab.csv": {"decimal": ","}}}, "lab.csv' is not a key (encoding, decimal, "
    ),
    "units without a unit": ({"units": {"v": "g"}}, f"{M} has 'units', and no 'unit'. Name"),
    "a unit without units": ({"unit": "u"}, f"{M} has no 'units'. Add units: {{creatinine:"),
    "units of another column": (
        {"unit": "u", "units": {"w": "g"}}, f"{M}['units']: 'w' is not a column of the modality (v)"
    ),
    "units of no column": (
        {"unit": "u", "units": "mg/dL"}, f"{M}['units'] is 'mg/dL', expected units of each column:"
    ),
    "a column without its unit": (
        {"columns": ["v", "w"], "unit": "u", "units": {"v": "g"}},
        f"{M}['units'] says nothing of 'w'. Add its unit: {{w: mmol/L}}",
    ),
    "a factor that is none": (
        {"unit": "u", "units": {"v": {"g": 1, "kg": "1000"}}},
        f"{M}['units']['v']['kg'] is '1000', no number. Write what a number is multiplied by",
    ),
    "a factor of 0": (
        {"unit": "u", "units": {"v": {"g": 1, "kg": 0}}}, "multiplies by 0, so every number is one"
    ),
    "no unit that numbers end up in": (
        {"unit": "u", "units": {"v": {"kg": 1000, "mg": 0.001}}},
        f"{M}['units']['v']: no unit has the factor 1, so nobody knows in which numbers end up",
    ),
    "no unit at all": ({"unit": "u", "units": {"v": {}}}, f"{M}['units']['v'] is empty"),
    "bounds of another column": (
        {"bounds": {"w": [0, 1]}}, f"{M}['bounds']: 'w' is not a key (v). Use one of these names"
    ),
    "bounds that are no range": (
        {"bounds": {"v": 3}}, f"{M}['bounds']['v'] is 3, no range. Write the lowest and the highest"
    ),
    "bounds of words": ({"bounds": {"v": ["a", "b"]}}, f"{M}['bounds']['v'] is 'a', no number"),
    "bounds upside down": (
        {"bounds": {"v": [5, 1]}}, f"{M}['bounds']['v'] is [5, 1], which holds nothing"
    ),
    "limits": ({"limits": "half"}, f"{M}['limits']: 'half' is not a limits (error, value, flag)"),
    "limits of a mean": (
        {"limits": "flag", "take": "mean"}, "is 'mean', of which nobody can say whether it is a lim"
    ),
    "limits of a column with that name": (
        {"limits": "flag", "columns": ["v", "v_limit"]},
        f"{M}['columns'][1]: 'v_limit' is what limits: flag calls another column",
    ),
    "limits of codes": (
        {"kind": "codes", "limits": "flag"}, f"{M}['limits'] is for vector and series, not 'codes'"
    ),
    "bounds of categories": (
        {"kind": "categorical", "bounds": {"v": [0, 1]}}, f"{M}['bounds'] is for vector and series"
    ),
    "a window without a cut": (
        {"time": {"cut": "none", "lookback": 5}}, "['lookback'] counts back from the cut, and there"
    ),
    "a window that is none": (
        {"time": {"cut": 5, "lookback": 0}}, "config['time']['lookback'] is 0, no length of time"
    ),
    "a window of words": (
        {"time": {"cut": 5, "lookback": "2 days"}}, "is '2 days', no number. Write lookback: 48"
    ),
    "a window of a file without times": (
        {"time": {"cut": 5}, "known_at_start": True, "lookback": 5},
        f"{M}['lookback'] needs to know when rows were recorded. Name the column: time:",
    ),
    "an id twice": (
        {"patients": {"id": ["id", "id"]}}, "config['patients']['id'][1]: 'id' is there twice"
    ),
    "an id of nothing": ({"patients": {"id": []}}, "config['patients']['id'] is a list, expected"),
}  # fmt: skip


@pytest.mark.parametrize(("keys", "match"), WRONG.values(), ids=WRONG)
def test_what_contradicts_itself_is_refused_by_its_key(tmp_path, keys, match):
    keys = dict(keys)
    columns = keys.pop("columns", ("v",))
    with pytest.raises(ValueError) as told:  # noqa: PT011 - what it says is compared below
        from_tables(config(tmp_path, columns=columns, **keys))
    assert match in str(told.value)


def test_parquet_says_itself_how_it_is_written(tmp_path):
    pd.DataFrame({"id": ["1"], "v": [1.5]}).to_parquet(tmp_path / "labs.parquet")
    write(tmp_path, stays="id\n1\n")
    given = config(tmp_path, file=str(tmp_path / "labs.parquet"), files={"decimal": ","})
    assert column(read(given)[0]) == [1.5]
    given = config(tmp_path, file=str(tmp_path / "labs.parquet"),
                   files={"labs.parquet": {"decimal": ","}})  # fmt: skip
    with pytest.raises(ValueError, match=r"parquet says itself how it is written. Leave it out"):
        from_tables(given)
