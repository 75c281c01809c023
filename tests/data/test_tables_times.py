"""Times of your own tables: UTC or an offset from time zero, else refused with the line to type."""

import json
import os
import subprocess
import sys
import warnings
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfdlib.data import from_tables

pytestmark = pytest.mark.filterwarnings("ignore:.*nothing observed")

ZERO = "2150-01-01 08:00:00"
NEW_YEAR = datetime(2150, 1, 1)
LABS = r"config\['modalities'\]\['labs'\]\['time'\]"
START = r"config\['time'\]\['start'\]"


def write(folder, name, table):
    """Write a table as parquet where a column has an Arrow type, else as CSV."""
    if any(isinstance(column, pa.Array) for column in table.values()):
        pq.write_table(pa.table(table), folder / f"{name}.parquet")
        return str(folder / f"{name}.parquet")
    pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)
    return str(folder / f"{name}.csv")


def tables(folder, zero, times, *, of="t", cut=24, unit="hours", **options):
    """Configure a cohort of one row per time, each with one value; zeros are one or a list."""
    folder.mkdir(exist_ok=True, parents=True)
    ids = [f"p{i}" for i in range(len(times))]
    patients = {"id": ids}
    if zero is not None:
        patients["zero"] = [zero] * len(ids) if isinstance(zero, str) else zero
    labs = {"id": ids, "t": times, "v": np.arange(len(ids)) + 1.0}
    return {
        "patients": {"file": write(folder, "p", patients), "id": "id"},
        "time": {"cut": cut, "unit": unit} | ({} if zero is None else {"start": "zero"})
        | options,
        "modalities": {"labs": {
            "kind": "series", "file": write(folder, "l", labs), "time": of, "columns": ["v"],
        }},
    }  # fmt: skip


def since(*args, **options):
    """When each value is, from time zero; None where it does not enter."""
    return times_of(from_tables(tables(*args, **options)))


def times_of(cohort):
    series = cohort.x["labs"]
    rows = series.values.split(series.lengths.tolist())
    return [row[0, 0].item() if len(row) else None for row in rows]


# ---------------------------------------------------------------- offsets and zones


@pytest.mark.parametrize(
    ("written", "hours"),
    [
        ("2150-01-01 10:00:00Z", 2), ("2150-01-01T10:00:00z", 2), ("2150-01-01 10:00 UTC", 2),
        ("2150-01-01 10:00:00+00:00", 2), ("2150-01-01 10:00:00-05:00", 7),
        ("2150-01-01 10:00:00-0500", 7), ("2150-01-01 10:00 -05", 7),
        ("2150-01-01T10:00+05:30", -3.5),
        ("2150/1/1 10:00GMT", 2), ("2150-01-01 10:00:00.250-05:00", 7 + 0.25 / 3600),
        ("2150-01-01 24:00Z", 16), ("2150-01-02 07:00:00-05:00", None),
        ("2150-01-02 07:00:00+14:00", 9), (" 2150-01-01 10:00Z ", 2),
    ],
)  # fmt: skip
def test_an_offset_in_text_counts(tmp_path, written, hours):
    """Time zero is 08:00 of UTC, written in three ways."""
    for zero in ("2150-01-01T08:00:00Z", "2150-01-01 03:00-05:00", "2150-01-01 13:30:00 +0530"):
        assert since(tmp_path, zero, [written]) == [pytest.approx(hours) if hours else hours]


def test_a_zone_in_parquet_counts(tmp_path):
    """In any unit, and in any zone that the file names."""
    moments = [datetime(2150, 1, 1, 9), datetime(2150, 1, 2, 12)]
    for unit in ("s", "ms", "us", "ns"):
        for zone in ("UTC", "America/New_York", "Asia/Kolkata"):
            stamps = pa.array(moments, pa.timestamp(unit, zone))  # given in UTC
            assert since(tmp_path, "2150-01-01T08:00:00Z", stamps) == [1, None]


def test_old_timestamps_of_parquet_have_no_zone(tmp_path):
    """Those of Spark and Hive (INT96) do not say which; a declared zone does."""
    config = tables(tmp_path, "2150-01-01T08:00:00Z", pa.array([datetime(2150, 1, 1, 9)]))
    stamps = pq.read_table(tmp_path / "l.parquet")
    pq.write_table(stamps, tmp_path / "l.parquet", use_deprecated_int96_timestamps=True)
    with pytest.raises(ValueError, match=r"row 1 of l.parquet has no offset, and 'zero' of p"):
        from_tables(config)
    config["time"]["zone"] = "UTC"
    assert times_of(from_tables(config)) == [1]


MACHINES = ("UTC", "America/New_York", "Asia/Kolkata")

PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
from dfdlib.data import from_tables
said = []
for config in json.load(sys.stdin):
    try:
        cohort = from_tables(config)
        said.append([cohort.x["labs"].values.tolist(), cohort.x["labs"].lengths.tolist()])
    except ValueError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_the_zone_of_the_machine_never_enters(tmp_path):
    """The same files under three TZ: the same cohorts, and the same refusals."""
    at = [datetime(2150, 1, 1, 9), datetime(2150, 7, 2, 12)]
    zoned = pa.array(at, pa.timestamp("us", "Europe/Berlin"))
    epoch = [str(int(moment.replace(tzinfo=ZoneInfo("UTC")).timestamp())) for moment in at]
    cases = {
        "parquet": (("2150-01-01T08:00:00Z", zoned), {}),
        "text": ((ZERO + "-05:00", ["2150-01-01 09:00-05:00", "2150-01-02 09:00+05:30"]), {}),
        "naive": ((ZERO, ["2150-01-01 09:00", "2150-01-02"]), {}),
        "naive parquet": ((ZERO, pa.array(at)), {}),
        "date": ((pa.array([date(2150, 1, 1)] * 2), ["2150-01-01", "2150-01-02"]), {}),
        "declared": ((ZERO, ["2150-01-01 09:00", "2150-01-01 09:00Z"]), {"zone": "Europe/Berlin"}),
        "declared parquet": ((ZERO, zoned), {"zone": "America/New_York"}),
        "epoch": ((ZERO, epoch), {"zone": "UTC", "of": {"column": "t", "format": "epoch"}}),
        "mixed": ((ZERO, zoned), {}),
        "duration": ((None, pa.array([timedelta(0), timedelta(hours=1)])), {}),
        "missing": ((ZERO + "Z", zoned), {"values": ["2150-07-02 12:00:00+00"]}),
        "offset pattern": (
            (ZERO + "Z", ["01.01.2150 09:00 +0100"] * 2),
            {"of": {"column": "t", "format": "%d.%m.%Y %H:%M %z"}},
        ),
    }  # fmt: skip
    missing = {name: options.pop("values", ["NA"]) for name, (_, options) in cases.items()}
    configs = [
        tables(tmp_path / name, *args, **options, cut=5000) | {"missing": {"values": missing[name]}}
        for name, (args, options) in cases.items()
    ]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {"TZ": zone, "OMP_NUM_THREADS": "1"}, text=True,
        )
        for zone in MACHINES
    ]  # fmt: skip
    said = [
        dict(zip(cases, json.loads(process.communicate(json.dumps(configs))[0]), strict=True))
        for process in started
    ]
    for name in cases:
        assert said[0][name] == said[1][name] == said[2][name], name
    hours = {name: [row[0] for row in told[0]] for name, told in said[0].items() if name != "mixed"}
    assert hours["parquet"] == [1, 182 * 24 + 4]
    assert hours["text"] == [1, 14.5]
    assert hours["declared"] == [1, 2]  # Berlin is an hour ahead, so time zero was 07:00 of UTC
    assert hours["declared parquet"] == [-4, 182 * 24 - 1]
    assert hours["epoch"] == [1, 182 * 24 + 4]
    assert hours["offset pattern"] == [0, 0]
    assert hours["missing"] == [1]
    assert "zone: Europe/Berlin" in said[0]["mixed"]


@pytest.mark.parametrize(
    ("start", "times", "message"),
    [
        (ZERO, ["2150-01-01 09:00", "2150-01-01 09:00Z"],
         LABS + r": row 2 of l.csv has an offset, and 'zero' of p.csv has none\. Say where the "
         r"clocks hung .*: time: \{zone: Europe/Berlin, …\}"),
        (ZERO + "Z", [ZERO], LABS + r": row 1 of l.csv has no offset, and .* has one"),
        (ZERO + "Z", ["2150-01-01"], LABS + ": row 1 of l.csv has no offset, and 'zero' of p.csv"),
        ([ZERO, ZERO + "Z"], [ZERO, ZERO], START + ": row 2 of p.csv has an offset, and row 1 has"),
        (ZERO, pa.array([NEW_YEAR], pa.timestamp("ns", "UTC")), "row 1 of l.parquet has an off"),
        (pa.array([NEW_YEAR], pa.timestamp("ms", "UTC")), [ZERO], "row 1 of l.csv has no offset"),
        (ZERO + "Z", pa.array([date(2150, 1, 1)]), "row 1 of l.parquet has no offset, and 'zero'"),
        (ZERO + "Z", pa.array([NEW_YEAR]), "row 1 of l.parquet has no offset, and 'ze"),
    ],
)  # fmt: skip
def test_times_with_and_without_an_offset_are_not_compared(tmp_path, start, times, message):
    with pytest.raises(ValueError, match=message):
        since(tmp_path, start, times)


def test_epoch_seconds_are_of_utc_and_need_a_zone_beside_naive_times(tmp_path):
    of = {"column": "t", "format": "epoch"}
    with pytest.raises(ValueError, match=LABS + ": row 1 of l.csv counts from 1970 in UTC, and 'z"):
        since(tmp_path, "2023-11-14 22:13:20", ["1700003600"], of=of)
    assert since(tmp_path, "2023-11-14 22:13:20", ["1700003600"], of=of, zone="UTC") == [1]


def test_a_zone_may_be_declared_for_all_or_for_one_column(tmp_path):
    assert since(tmp_path, ZERO + "Z", ["2150-01-01 10:00", ZERO + "Z"], zone="Europe/Berlin") == [
        1,
        0,
    ]
    in_new_york = {"column": "t", "zone": "America/New_York"}
    assert since(tmp_path, ZERO, [ZERO], of=in_new_york, zone="Europe/Berlin") == [6]
    start = {"column": "zero", "zone": "Asia/Kolkata"}
    assert since(tmp_path, ZERO, [ZERO + "Z"], start=start) == [5.5]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_zone_knows_its_summers(tmp_path, zone):
    """Every half hour of a year's two days of change, against Python's own reading.

    An hour that comes twice, or never, is as a value the later of two, as time zero the earlier.
    """
    there = ZoneInfo(zone)
    days = pd.date_range("2150-01-01", "2150-12-31", freq="D").to_pydatetime()
    offsets = [day.replace(tzinfo=there).utcoffset() for day in days]
    changes = [days[i] for i in range(len(days) - 1) if offsets[i] != offsets[i + 1]]
    clocks = [day + timedelta(minutes=30 * i) for day in changes for i in range(48)]

    def both(clock):
        utc = ZoneInfo("UTC")
        folds = (clock.replace(tzinfo=there, fold=fold).astimezone(utc) for fold in (0, 1))
        return sorted(moment.replace(tzinfo=None) for moment in folds)

    zero = datetime(2150, 1, 1)
    texts = [str(clock) for clock in clocks]
    hours = since(tmp_path, "2150-01-01 00:00Z", texts, zone=zone, cut="none")
    latest = [(both(clock)[1] - zero) / timedelta(hours=1) for clock in clocks]
    np.testing.assert_allclose(hours, latest, atol=1e-3)
    hours = since(tmp_path, texts, ["2150-12-31 00:00Z"] * len(texts), zone=zone, cut="none")
    earliest = [(datetime(2150, 12, 31) - both(clock)[0]) / timedelta(hours=1) for clock in clocks]
    np.testing.assert_allclose(hours, earliest, atol=1e-3)
    assert len(changes) == 2
    assert any(both(clock)[0] != both(clock)[1] for clock in clocks)


def test_a_date_of_a_zone_ends_at_its_midnight_there(tmp_path):
    assert since(tmp_path, ZERO + "Z", ["2150-01-01"], zone="America/New_York") == [21]
    assert since(tmp_path, "2150-01-01", [ZERO + "Z"], zone="America/New_York") == [3]


# ---------------------------------------------------------------- what else is a time


@pytest.mark.parametrize(
    ("written", "hours"),
    [
        ("2150-01-01T09:30", 1.5), ("2150-1-1 9:30", 1.5), ("2150/01/01 09:30:00", 1.5),
        ("2150-01-01 08:00:00.5", 0.5 / 3600), ("2150-01-01", 16), ("2150-01-01 24:00", 16),
        ("2150-01-02 08:00:00", 24), ("2150-01-02 08:00:00.0000001", None), ("1850-01-01", None),
        ("NaT", None), ("nan", None), ("", None),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*and do not enter")
def test_naive_times_are_read_as_they_stand(tmp_path, written, hours):
    cut = {"cut": 24}
    if written.startswith("1850"):  # people who were made unrecognisable live then, too
        assert since(tmp_path, "1850-01-01", [written]) == [24]
        return
    got = since(tmp_path, ZERO, [written, ZERO], **cut)
    assert got == [hours if hours is None else pytest.approx(hours), 0]


@pytest.mark.parametrize(
    ("written", "shape"),
    [
        ("24-01-01", "a date that does not begin with its year"), ("0044-01-01 10:00", "far away"),
        ("9999-12-31", "a date in a year far away"), ("44-01-01 (BC)", "no time"),
        ("99999-01-01", "far away"), ("infinity", "an infinite number"), ("epoch", "a word"),
        ("2150-01-01 08:00 PM", "a clock with AM or PM"), ("2150-01-01 23:59:60", "a date with a"),
        ("2150-02-30", "a date without a clock"), ("2150-01-01 24:30", "a date with a clock"),
        ("2150-01-01 10:00+99", "no time"), ("2150-01-01 10:00 Europe/Berlin", "no time"),
        ("10:00", "a clock without a date"), ("20:15:00", "a clock without a date"),
        ("2150-01-01T10", "no time"), ("now", "a word"), ("today", "a word"),
        ("2150-W01-1", "no time"), ("\uff12150-01-01", "no time"),
        ("2150-01-01\u00a010:00", "no time"), ("1e300", "a number"),
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused_by_its_row_and_shape(tmp_path, written, shape):
    with pytest.raises(ValueError, match=LABS + ": row 2 of l.csv holds ") as refused:
        since(tmp_path, ZERO, [ZERO, written])
    assert shape in str(refused.value)
    assert written not in str(refused.value).replace("time: ", "")
    with pytest.raises(ValueError, match=START + ": row 2 of p.csv holds ") as refused:
        since(tmp_path, [ZERO, written], [ZERO, ZERO])
    assert shape in str(refused.value)


def test_the_row_is_found_in_a_long_file(tmp_path):
    """Files are read by several threads and out of order; the number is that of the file."""
    n = 200_000
    lines = ["p0,2150-01-01 09:00:00,1"] * n
    lines[150_000] = "p0,01.01.2150 09:00,1"
    config = tables(tmp_path, ZERO, [ZERO])
    (tmp_path / "l.csv").write_text("id,t,v\n" + "\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"row 150001 of l.csv holds a date that does not begin"):
        from_tables(config)


def test_dates_and_stamps_of_parquet(tmp_path):
    """A DATE is its whole day; a timestamp is a moment, rounded up to the microsecond."""
    zero = pa.array([date(2150, 1, 1)] * 2)
    assert since(tmp_path, zero, pa.array([date(2150, 1, 1), date(2150, 1, 2)])) == [24, None]
    for unit in ("s", "ms", "us", "ns"):
        stamps = pa.array([datetime(2150, 1, 1, 3), None], pa.timestamp(unit))
        with pytest.warns(UserWarning, match="1 values of l.parquet have no 't' and do not enter"):
            assert since(tmp_path, zero, stamps) == [3, None]
    late = np.array(["2150-01-02", "2150-01-02T00:00:00.000000001"], "datetime64[ns]")
    assert since(tmp_path, zero, pa.array(late)) == [24, None]
    words = pa.array(["2150-01-01 10:00", "2150-01-02 10:00"])
    assert (
        since(tmp_path, zero, words)
        == since(tmp_path, zero, words.dictionary_encode())
        == [10, None]
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([time(10)]), "is stored as clocks without a date, which is no time"),
        (pa.array([True]), "is stored as truth values, which is no time"),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path, column, message):
    with pytest.raises(ValueError, match=LABS + f": 't' of l.parquet {message}"):
        since(tmp_path, ZERO, column)


# ---------------------------------------------------------------- durations and numbers


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_durations_are_read_by_their_type(tmp_path, unit):
    """Since time zero, whether the file has one, and in any unit of the cut."""
    spans = pa.array([timedelta(0), timedelta(hours=1), timedelta(hours=25), timedelta(hours=-2)],
                     pa.duration(unit))  # fmt: skip
    assert since(tmp_path, None, spans) == [0, 1, None, -2]
    assert since(tmp_path, ZERO, spans) == [0, 1, None, -2]
    assert since(tmp_path, ZERO + "Z", spans, unit="minutes", cut=60) == [0, 60, None, -120]
    assert since(tmp_path, None, spans, unit="days", cut=1) == pytest.approx(
        [0, 1 / 24, None, -1 / 12]
    )
    since_birth = pa.array([timedelta(hours=h) for h in (0, 1, 1, 0)], pa.duration("s"))
    assert since(tmp_path, since_birth, spans) == [0, 0, 24, -2]


def test_intervals_are_durations_unless_they_count_months(tmp_path):
    config = tables(tmp_path, None, pa.array([timedelta(0)] * 2))
    rows = "SELECT 'p' || i AS id, {} AS t, 1.0 AS v FROM range(2) r(i)"
    save = f"COPY ({rows}) TO '{{}}' (FORMAT parquet)"
    with duckdb.connect() as connection:
        connection.execute(save.format("i * INTERVAL 26 HOUR", tmp_path / "l.parquet"))
        assert times_of(from_tables(config)) == [0, None]
        connection.execute(save.format("i * INTERVAL 1 MONTH", tmp_path / "l.parquet"))
    with pytest.raises(ValueError, match=r"row 2 of l.parquet holds .*, which is no time"):
        from_tables(config)


def test_durations_in_text(tmp_path):
    """As pandas, Python and ISO 8601 write them; what looks like a clock needs a format."""
    spans = pd.Series(pd.to_timedelta([0, 26, 2, -1.5], unit="h"))
    assert since(tmp_path, None, spans.astype(str).tolist()) == [0, None, 2, -1.5]
    python = [str(span.to_pytimedelta()) for span in spans]
    assert since(tmp_path, None, python[1:2] + python[3:], cut=48) == [26, -1.5]
    assert since(tmp_path, ZERO, ["P1DT2H", "PT90M", "-PT5400.5S", "P0D"], cut=48) == pytest.approx(
        [26, 1.5, -1.5 - 0.5 / 3600, 0])  # fmt: skip
    clocks = ["26:00:00", "2:30", "-01:30:00"]
    with pytest.raises(ValueError, match=r"Write time: \{column: t, format: duration\}"):
        since(tmp_path, None, clocks)
    of = {"column": "t", "format": "duration"}
    assert since(tmp_path, None, clocks, of=of) == [None, 2.5, -1.5]


@pytest.mark.parametrize(
    ("start", "value", "form"),
    [
        ("20240304", "20240328", '"%Y%m%d"'), ("45355.5", "45375.0", "excel"),
        ("1709540000", "1711540000", "epoch"), ("1709540000000", "1711540000000", "epoch_ms"),
        ("202403040830", "202403280830", '"%Y%m%d%H%M"'), ("240304", "240328", "excel"),
        ("1.7e9", "1.8e9", "whole dates"), ("2024", "2025", "whole dates"),
        ("19787", "19800", "excel"),
    ],
)  # fmt: skip
def test_dates_written_as_numbers_are_refused(tmp_path, start, value, form):
    """In CSV, and as whole or broken numbers in parquet."""
    for as_type in (str, int, float):
        if as_type is int and not start.isdigit():
            continue
        column = start if as_type is str else pa.array([as_type(start)])
        times = [value] if as_type is str else pa.array([as_type(value)])
        with pytest.raises(ValueError, match=START + r": 'zero' of p.* may be dates\. ") as refused:
            since(tmp_path, column, times)
        assert "format: number where they are hours since some zero" in str(refused.value)
        assert as_type is float or form in str(refused.value)
        with pytest.raises(ValueError, match=LABS + ": row 1 of l.* holds .* which is no time"):
            since(tmp_path, ZERO, times)


def test_dates_written_as_numbers_are_refused_without_a_start(tmp_path):
    for dates in (["20240304", "20240328"], ["1700000000"], pa.array([1.7e12, 1.8e12])):
        with pytest.raises(
            ValueError, match=LABS + ": 't' of l.* holds numbers that are dates, or"
        ):
            since(tmp_path, None, dates, cut="none")


FORMATS = {
    "excel": ("45355.5", ["45355.625", "45375.0", "45356"]),
    "epoch": ("1709553600", ["1709564400", "1719564400", "1709683200.5"]),
    "epoch_ms": ("1709553600000", ["1709564400000", "1719564400000", "1709683200001"]),
    "epoch_us": ("1709553600000000", ["1709564400000000", "1719564400000000", "1709683200000001"]),
    "epoch_ns": ("1709553600000000000", ["1709564400000000000", "1719564400000000000",
                                         "1709683200000001000"]),
    "%Y%m%d%H": ("2024030412", ["2024030415", "2024032412", "2024030600"]),
    "%d.%m.%Y %H:%M": ("04.03.2024 12:00",
                       ["4.3.2024 15:00", "24.03.2024 12:00", "06.03.2024 00:00"]),
    "%m/%d/%y %I:%M %p": ("03/04/24 12:00 PM", ["3/4/24 3:00 pm", "03/24/24 12:00 PM",
                                                "03/06/24 12:00 AM"]),
    "%d%b%Y:%H:%M:%S": ("04MAR2024:12:00:00", ["04Mar2024:15:00:00", "24MAR2024:12:00:00",
                                               "06MAR2024:00:00:00"]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_a_declared_format_is_read(tmp_path, form):
    """Three hours after noon; twenty days; and the midnight that ends the next day."""
    zero, times = FORMATS[form]
    assert since(tmp_path, zero, times, format=form, cut=35) == [3, None, None]
    start, of = ({"column": name, "format": form} for name in ("zero", "t"))
    assert since(tmp_path, zero, times, start=start, of=of, cut=35) == [3, None, None]
    later = since(tmp_path, zero, times, start=start, of=of, cut=37)
    assert later == [3, None, pytest.approx(36, abs=1e-3)]


def test_a_declared_format_reads_numbers_of_parquet(tmp_path):
    for kind in (pa.int32(), pa.int64(), pa.float64(), pa.string()):
        days = pa.array([20240304, 20240305, None]).cast(pa.int64()).cast(kind)
        with pytest.warns(UserWarning, match="1 values of l.parquet have no 't'"):
            assert since(tmp_path, pa.array([20240304] * 3).cast(kind), days, format="%Y%m%d") == [
                24, None, None]  # fmt: skip
    serials = pa.array([45355.5, 45355.75])
    assert since(tmp_path, serials, serials, format="excel") == [0, 0]


def test_a_format_of_all_leaves_columns_alone_whose_type_says_what_they_are(tmp_path):
    stamps = pa.array([datetime(2024, 3, 4, 13)])
    assert since(tmp_path, "04.03.2024 12:00", stamps, format="%d.%m.%Y %H:%M") == [1]
    message = "'t' of l.parquet is stored as times, so format: excel does not fit. Leave the format"
    with pytest.raises(ValueError, match=message):
        since(tmp_path, ZERO, stamps, of={"column": "t", "format": "excel"})


@pytest.mark.parametrize(
    ("form", "written"),
    [
        ("%Y%m%d", "2024034"), ("%Y%m%d", "240304"), ("%d%m%Y", "1112024"), ("%y%m%d", "40104"),
        ("%d.%m.%Y", "31.02.2024"), ("%d.%m.%Y", "03/04/2024"), ("%d.%m.%Y", "04.03.24"),
        ("excel", "3"), ("excel", "04.03.2024"), ("excel", "9999999"), ("epoch", "1e300"),
        ("epoch", "1700000000000"), ("epoch", "2024-03-04"), ("number", "2024-03-04"),
        ("duration", "2024-03-04"), ("duration", "5"), ("%Y-%m-%d %H:%M", "2024-03-04"),
    ],
)  # fmt: skip
def test_what_does_not_fit_its_format_is_refused(tmp_path, form, written):
    with pytest.raises(ValueError, match=LABS + ": row 1 of l.csv holds .* which is no time"):
        since(tmp_path, ZERO, [written], of={"column": "t", "format": form}, zone="UTC")


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("24.12.2031", r'time: \{column: t, format: "%d.%m.%Y"\}, or with %m before %d'),
        ("03/04/2031 10:30", r'format: "%d/%m/%Y %H:%M"\}, or with %m before %d'),
        ("12/24/2031", r'format: "%m/%d/%Y"\}'),
        ("3/4/31 9:05:10 PM", r'format: "%m/%d/%y %I:%M:%S %p"\}'),
        ("24-Dec-2031", r'format: "%d-%b-%Y"\}'),
        ("20311224", r'format: "%Y%m%d"\}, or format: number where they are hours since time zero'),
        ("1700000000", r"format: epoch\}, or format: number"),
        ("48211.5", r"format: excel\}, or format: number"),
        ("2031-12-24 08:30 PM", r'format: "%Y-%m-%d %I:%M %p"\}'),
        ("2031-12-24 20:30:00,125", r'format: "%Y-%m-%d %H:%M:%S,%f"\}'),
        ("2031.12.24 20:30", r'format: "%Y.%m.%d %H:%M"\}'),
        ("20311224T203000", r'format: "%Y%m%dT%H%M%S"\}'),
        ("20311224 2030", r'format: "%Y%m%d %H%M"\}'),
        ("20311224 20:30", r'format: "%Y%m%d %H:%M"\}'),
        ("Dec 24, 2031", r'format: "%b %d, %Y"\}'),
        ("5", "Write times as 2031-12-24 18:30, or format: number where they are hours since time"),
    ],
)
def test_a_refusal_says_what_to_type_and_that_works(tmp_path, written, line):
    with pytest.raises(ValueError, match=LABS + ": row 1 of l.csv holds .*" + line) as refused:
        since(tmp_path, "2031-12-24", [written], cut="none")
    if "{" in str(refused.value):
        form = str(refused.value).split("format: ")[1].split("}")[0].strip('"')
        times = since(tmp_path, "2031-12-24", [written], of={"column": "t", "format": form},
                      zone="UTC", cut="none")  # fmt: skip
        assert times[0] is not None


def test_numbers_since_some_zero_go_on_being_read(tmp_path):
    """Minutes of eICU, with and without a start; hours declared beside a date."""
    assert since(tmp_path, None, ["-30", "720", "721"], unit="minutes", cut=720) == [-30, 720, None]
    starts = ["-500", "0", "12000"]
    assert since(tmp_path, starts, ["5", "5", "12010"], unit="minutes", cut=720) == [505, 5, 10]
    assert since(
        tmp_path, pa.array([-500, 0]), pa.array([5.0, 721.0]), unit="minutes", cut=720
    ) == [505, None]
    assert since(tmp_path, None, ["45355", "3"], unit="minutes", cut=720) == [None, 3]
    assert since(tmp_path, ZERO, ["5", "25"], of={"column": "t", "format": "number"}) == [5, None]
    large = {"format": "number"}
    assert since(tmp_path, ["45355", "45356"], ["45356", "45400"], **large) == [1, None]


def test_one_patient_to_score_may_come_late(tmp_path):
    """Of the numbers of a whole cohort it can be told that they are no dates; of one it cannot."""
    late = tables(tmp_path, ["15000"], ["15010"], unit="minutes", cut=720)
    assert times_of(from_tables(late, purpose="score")) == [10]
    dates = tables(tmp_path, ["20240304"], ["20240304"])
    with pytest.raises(ValueError, match="may be dates"):
        from_tables(dates, purpose="score")


def test_a_date_among_numbers_and_a_number_among_dates_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"row 1 of l.csv holds a date .*, and 'zero' holds numbers"
    ):
        since(tmp_path, "5", ["2031-01-01"])
    with pytest.raises(ValueError, match=START + ": row 2 of p.csv holds a number beside dates"):
        since(tmp_path, [ZERO, "5"], [ZERO, ZERO])


# ---------------------------------------------------------------- what is said


def test_it_is_said_where_nearly_all_rows_lie_outside_the_window(tmp_path):
    message = r"\['labs'\]: 9\d % of the rows of l.csv that belong to the cohort lie after the cut"
    minutes = [str(60 * i) for i in range(40)]
    with pytest.warns(
        UserWarning, match=message + r".*Check unit: hours, and the format and zone of"
    ):
        since(tmp_path, None, minutes)
    with pytest.warns(UserWarning, match="100 % of the rows of l.csv .* over 50 years from time"):
        since(tmp_path, ZERO, ["2050-01-01 08:00"] * 12, cut="none")


def test_nothing_is_said_of_files_that_go_on_after_the_cut(tmp_path):
    """A monitor that runs for two weeks is nearly all late, and everybody has rows in time."""
    config = tables(tmp_path, None, ["0", "1"])
    hours = np.arange(0, 15 * 24, 1.0)
    monitor = pd.DataFrame(
        {"id": np.repeat(["p0", "p1"], len(hours)), "t": np.tile(hours, 2), "v": 1}
    )
    monitor.to_csv(tmp_path / "l.csv", index=False)
    few = tables(tmp_path / "few", None, ["30"] * 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*nothing observed")
        assert from_tables(config).x["labs"].lengths.tolist() == [25, 25]
        from_tables(few)


def test_it_is_said_where_every_time_is_at_midnight(tmp_path):
    """Then these may be dates, of which nobody knows when in the day they were known."""
    for times in (["2150-01-01 00:00:00"] * 12, pa.array([NEW_YEAR] * 12)):
        with pytest.warns(
            UserWarning, match="every 't' of l.* is at midnight, and counts as known"
        ):
            assert since(tmp_path, "2150-01-01", times) == [0] * 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert since(tmp_path, "2150-01-01", ["2150-01-01"] * 12) == [24] * 12


# ---------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cut": float("nan")}, r"config\['time'\]\['cut'\] is nan, no moment\. Write cut: 24"),
        ({"cut": float("inf")}, r"config\['time'\]\['cut'\] is inf, no moment\..* or none, where"),
        ({"cut": -5}, r"config\['time'\]\['cut'\] is -5, before time zero.*name an earlier col"),
        ({"cut": "24"}, r"config\['time'\]\['cut'\] is '24', no number.*without quotes"),
        ({"cut": True}, r"config\['time'\]\['cut'\] is True, no number"),
        ({"cut": [24]}, r"config\['time'\]\['cut'\] is \[24\], no number"),
        ({"zone": "Europe/Berln"}, r"\['zone'\]: 'Europe/Berln' is no zone .*Did you mean 'Eu"),
        ({"zone": "Atlantis/Xqz"}, r"\['zone'\]: 'Atlantis/Xqz' is no zone of the IANA list\. Did"),
        ({"zone": "EST"}, r"config\['time'\]\['zone'\]: 'EST' is no zone by its city\. Write"),
        ({"zone": "../etc/passwd"}, r"\['zone'\]: '../etc/passwd' is no zone of the IANA list"),
        ({"format": "exel"}, r"config\['time'\]\['format'\]: 'exel' is not a format.*'excel'\?"),
        ({"format": "%Y-%m"}, r"\['format'\] is '%Y-%m', which does not say year, month and day"),
        ({"format": "%d.%m. %H:%M"}, r"\['format'\] is .* which does not say year, month and day"),
        ({"format": "%Y-%m-%d %Q"}, r"\['format'\] is .*, no pattern that can be read"),
        ({"format": "%Y-%m-%d %H:%M %Z"}, r"names of zones in cells can mean several\. Write"),
        ({"format": "%Y-%m-%d %I:%M"}, r"twelve hours come twice a day\. Write %H, or %p"),
        ({"start": {"format": "excel"}}, START + r" has no 'column'\. Add column: measured_at"),
        ({"start": {"colum": "zero"}}, START + r": 'colum' is not a key \(column, format, zone\)"),
        ({"of": {"column": "t", "zone": "CET"}}, LABS + r"\['zone'\]: 'CET' is no zone by"),
        ({"of": {"column": "T"}}, LABS + r": 'T' is not a column of l.csv"),
        ({"of": ["t"]}, LABS + " is .*expected a word"),
    ],
)  # fmt: skip
def test_a_configuration_of_time_that_does_not_fit_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        since(tmp_path, ZERO, [ZERO], **options)
