"""From a description to arrays: DuckDB joins, cuts and sorts; nothing loops over rows."""

import numpy as np
import pandas as pd
import torch

from dfdlib.data.arrays import Ragged
from dfdlib.data.clinical.extract import Extract
from dfdlib.data.clinical.study import Codes, Events, Feature, Modality, Series, Vector
from dfdlib.data.shapes import count_of
from dfdlib.data.sql import text_of
from dfdlib.data.tables import code_id

# Only these columns, so that no other name of a table is ambiguous.
_UNIT = "(SELECT position, id, patient, cut, origin FROM unit) u"

_ENTRY_ERRORS = 0.01  # the share of values out of bounds that needs no word
_SOME = 10  # so many times are not all at midnight by chance
_NEARLY_ALL = 0.95  # the share of rows out of the window that is warned of
_LONG_BEFORE = 365 * 24  # hours before a stay at which nothing of it is recorded


def read(extract: Extract, modality: Modality, n: int) -> pd.DataFrame | Ragged:
    """Read one modality of the rows in `unit`, in the form that a cohort takes."""
    if isinstance(modality, Vector):
        return _vector(extract, modality, n)
    if isinstance(modality, Codes):
        return _codes(extract, modality, n)
    return _series(extract, modality, n)


def _vector(extract: Extract, modality: Vector, n: int) -> pd.DataFrame:
    columns = ", ".join(
        f"max({_bounded(about)}) AS v{k}, min({_bounded(about)}) AS w{k}, "
        f"count({about.value}) AS n{k}, count({_bounded(about)}) AS m{k}, "
        f"count(*) FILTER ({about.unread}) AS u{k}"
        for k, about in enumerate(modality.features.values())
    )
    aggregated = extract.fetch(
        f"SELECT u.position, {columns} FROM {modality.source} "
        f"JOIN {_UNIT} ON {modality.key} = u.id GROUP BY u.position"
    )
    grid = np.full((n, len(modality.features)), np.nan)
    at = aggregated["position"].astype(np.int64)
    for k, (name, about) in enumerate(modality.features.items()):
        value, other = (aggregated[f"{sign}{k}"].astype(np.float64) for sign in "vw")
        # a stay that a table has twice counts once, but not where its rows contradict each other
        two = ~np.isnan(value) & (value != other)
        grid[at, k] = np.where(two, np.nan, value)
        if two.any():
            extract.say(
                f"{name}: {count_of(int(two.sum()))} rows of the cohort have two values in "
                f"{extract.places(modality.tables)}, and count as missing"
            )
        _tell_bounds(
            extract, name, about, int(aggregated[f"n{k}"].sum()), int(aggregated[f"m{k}"].sum())
        )
        if unread := int(aggregated[f"u{k}"].sum()):
            extract.say(
                f"{extract.places(modality.tables)}: {count_of(unread)} rows of the cohort hold "
                f"something else where {name!r} is read, and count as missing there"
            )
    for table in modality.tables:
        if table not in ("patient", "patients", "admissions"):  # whose rows made the cohort
            tell_strangers(extract, table, modality.key.rpartition(".")[2])
    return pd.DataFrame(grid, columns=list(modality.features))


def _tell_bounds(extract: Extract, name: str, about: Feature, n: int, within: int) -> None:
    """Say that values are no values of a person; a few errors of entry are what data have."""
    if n - within > _ENTRY_ERRORS * n:
        extract.say(
            f"{name}: {n - within:,} of {n:,} values lie outside {about.low} to {about.high} "
            f"{about.unit}, and count as missing. Are they in another unit?"
        )


def _bounded(feature: Feature) -> str:
    tests = []
    if feature.low is not None:
        tests.append(f"({feature.value}) >= {feature.low}")
    if feature.high is not None:
        tests.append(f"({feature.value}) <= {feature.high}")
    value = f"CAST({feature.value} AS DOUBLE)"
    return f"CASE WHEN {' AND '.join(tests)} THEN {value} END" if tests else value


def _codes(extract: Extract, modality: Codes, n: int) -> Ragged:
    extract.run(
        "CREATE OR REPLACE TEMP TABLE event "
        "(position BIGINT, t DOUBLE, word VARCHAR, alike VARCHAR)"
    )
    for event in modality.events:
        _look(extract, event, {"word": event.word, "alike": event.alike or "NULL"})
        # rows that stand in a table twice count once
        extract.run(
            "INSERT INTO event SELECT DISTINCT position, t, word, alike FROM seen "
            f"WHERE {_ENTERS} AND t IS NOT NULL AND word IS NOT NULL"
        )
        _tell_rows(extract, event)
    _tell_spellings(extract)
    words = pd.DataFrame(extract.fetch("SELECT DISTINCT word FROM event"))
    words["code"] = np.array([code_id(word) for word in words["word"]], dtype=np.int64)
    extract.register("numbered", words)
    entries = extract.fetch(
        "SELECT position, code FROM event JOIN numbered USING (word) ORDER BY position, t, word"
    )
    extract.run("DROP TABLE event; DROP TABLE seen")
    known = dict(zip(words["code"].tolist(), words["word"].tolist(), strict=True))
    return ragged(entries["position"], entries["code"].astype(np.int64), n, known)


def _series(extract: Extract, modality: Series, n: int) -> Ragged:
    event = modality.events
    names = pd.DataFrame(
        {
            "name": list(modality.units),
            "unit": list(modality.units.values()),
            "flag": range(len(modality.units)),
        }
    )
    extract.register("item", names.astype({"name": object, "unit": object, "flag": "int32"}))
    _look(extract, event, {"value": event.value, "flag": event.flag})
    other = _other_units(extract, event, _tell_rows(extract, event))
    value, flag = ("unnest(value)", "unnest(flag)") if event.several else ("value", "flag")
    entries = extract.fetch(
        f"SELECT * FROM (SELECT DISTINCT position, t, {value} AS value, {flag} AS flag FROM seen "
        f"WHERE {_ENTERS} AND NOT ({other})) WHERE t IS NOT NULL AND isfinite(value) "
        "AND flag IS NOT NULL ORDER BY position, t, flag, value"
    )
    extract.run("DROP TABLE seen")
    columns = [entries[name].astype(np.float32) for name in ("t", "value", "flag")]
    return ragged(entries["position"], np.column_stack(columns), n, dict(enumerate(modality.units)))


# What is known of each row of a table: the bits of `facts`, in this order.
_FACTS = (
    *("enters", "nobody", "unknown", "other", "kept", "timeless", "late", "after", "before"),
    *("unread", "respelt", "values", "midnight"),
)
_ENTERS = f"facts & {1 << _FACTS.index('enters')} <> 0"


def _look(extract: Extract, event: Events, columns: dict[str, str]) -> None:
    """Read the rows of a table, once, into a table `seen`: facts about each, and what enters.

    What was recorded after the cut of its row does not enter.

    Args:
        extract: with the table.
        event: which rows.
        columns: what is read of those that enter, as SQL.
    """
    same_patient = f"(({event.owner} = u.patient) IS NOT FALSE)" if event.owner else "true"
    matched, known = f"u.kept AND {same_patient}", f"({event.recorded})"
    tests = {
        "enters": f"{matched} AND {known} <= u.cut",
        "nobody": f"{event.key} IS NULL",
        "unknown": f"{event.key} IS NOT NULL AND u.id IS NULL",
        "other": f"NOT {same_patient}",
        "kept": matched,
        "timeless": f"{matched} AND {known} IS NULL",
        "late": f"{matched} AND {known} > u.cut",
        "after": f"{matched} AND {known} > u.finished",
        "before": f"{matched} AND {event.time} < -{_LONG_BEFORE}",
        "unread": f"{event.value}_unread" if event.measured else "false",
        "respelt": event.respelt or "false",
        "values": f"({event.value}) IS NOT NULL" if event.item else "false",
        "midnight": f"{matched} AND {known} = date_trunc('day', {known})"
        if event.clocked
        else "false",
    }
    bits = " + ".join(
        f"CASE WHEN {tests[name]} THEN {1 << place} ELSE 0 END"
        for place, name in enumerate(_FACTS)
        if tests[name] != "false"
    )
    read = "".join(
        f", CASE WHEN {tests['enters']} THEN {sql} END AS {name}" for name, sql in columns.items()
    )
    extract.run(
        f"CREATE OR REPLACE TEMP TABLE seen AS SELECT u.position, CAST({bits} AS SMALLINT) "
        f"AS facts, CAST({event.time} AS DOUBLE) AS t, {event.item or 'NULL'} AS item, "
        f"{event.unit or 'NULL'} AS unit{read} FROM {event.source} "
        f"LEFT JOIN known u ON {event.key} = u.id WHERE {event.where}"
    )


# ---------------------------------------------------------------- warnings about the rows


def _tell_rows(extract: Extract, event: Events) -> pd.DataFrame:
    """Count the rows in `seen` that cannot enter, and say it; and where nearly none is in time.

    Returns:
        One row per item and unit, with the number of values.
    """
    unit = _plain_unit("unit") if event.unit else "unit"
    counts = ", ".join(
        f"coalesce(sum(n) FILTER (facts & {1 << place} <> 0), 0)::BIGINT AS {name}"
        for place, name in enumerate(_FACTS)
    )
    table = pd.DataFrame(
        extract.fetch(
            f"SELECT item, {unit} AS unit, sum(n)::BIGINT AS rows, {counts} FROM "
            "(SELECT item, unit, facts, count(*) AS n FROM seen GROUP BY ALL) GROUP BY ALL"
        )
    )
    n = {name: int(table[name].sum()) for name in ("rows", *_FACTS)}
    place, key = extract.places(event.tables[:1]), event.key.rpartition(".")[2]
    left_out = [
        (n["nobody"], f"name no {key}"),
        (n["unknown"], f"have a {key} that no row of the cohort's tables has"),
        (n["other"], f"name another patient than their {key} does"),
        (n["timeless"], "have no time"),
        (n["unread"], f"hold no number in {event.value}"),
    ]
    if listed := "; ".join(f"{count:,} {what}" for count, what in left_out if count):
        extract.say(f"{place}: of {n['rows']:,} rows some are left out: {listed}")
    if n["respelt"]:
        extract.say(
            f"{place}: {n['respelt']:,} rows write the name of what was measured in other letters "
            "than the list of variables() does, and are read all the same"
        )
    tell_midnights(extract, event.tables[0], n["midnight"], n["kept"] - n["timeless"])
    nearly_all = n["late"] + n["before"] >= _NEARLY_ALL * n["kept"]
    if n["kept"] and (nearly_all or n["after"] > n["kept"] / 2):
        extract.say(
            f"{place}: of {n['kept']:,} rows of stays in the cohort {n['late']:,} are recorded "
            f"after the cut, {n['after']:,} of them after the stay, and {n['before']:,} over a "
            "year before it. Are its times in the unit and from the zero that they should have?"
        )
    return table


def tell_midnights(
    extract: Extract, table: str, midnight: int, n: int, what: str = "times"
) -> None:
    """Say that times which should have a time of day are all at midnight."""
    if n >= _SOME and midnight == n:
        extract.say(
            f"{extract.places((table,))}: all {n:,} {what} of the cohort are at midnight, and "
            "count as such. Were they cut to days? Then what was recorded later on the day of the "
            "cut enters too early. Take the table as the data set has it"
        )


def tell_strangers(extract: Extract, table: str, key: str) -> None:
    """Say how many rows of a table are of nobody who could be in the cohort."""
    counts = extract.fetch(
        f"SELECT count(*) AS n, count(*) FILTER (u.id IS NULL) AS unknown "
        f"FROM {table} LEFT JOIN known u ON {table}.{key} = u.id"
    )
    if unknown := int(counts["unknown"][0]):
        extract.say(
            f"{extract.places((table,))}: of {int(counts['n'][0]):,} rows {unknown:,} have no "
            f"{key}, or one that no row of the cohort's tables has, and are left out"
        )


def _tell_spellings(extract: Extract) -> None:
    """Say that one code is written in several ways, as 401.9 and 4019 are."""
    counts = extract.fetch(
        "SELECT coalesce(sum(n), 0) AS n FROM (SELECT count(DISTINCT word) AS n FROM event "
        "WHERE alike IS NOT NULL GROUP BY alike) WHERE n > 1"
    )
    if n := int(counts["n"][0]):
        extract.say(
            f"codes: {n:,} codes differ only in points, blanks or capital letters from another "
            "one, and are codes of their own. Write each code in one way"
        )


def _plain_unit(unit: str) -> str:
    """A unit as SQL, as it is compared: mg/dL is mg/dl, and mcmol/L is µmol/L."""
    plain = f"translate(lower(regexp_replace({unit}, '\\s', '', 'g')), 'µμ', 'uu')"
    return f"nullif(regexp_replace({plain}, 'mc(g|l|u|mol)', 'u\\1', 'g'), '')"


def _other_units(extract: Extract, event: Events, counts: pd.DataFrame) -> str:
    """Find the unit of each item, and give the SQL of whether a row is in another one.

    The unit that is declared counts, or else the one that most values have; where two have as many,
    none does. A value without a unit is taken to have the one that counts.

    Args:
        extract: with the tables, and what is declared in `item`.
        event: the rows.
        counts: number of values by item and unit.
    """
    declared = extract.fetch(f"SELECT name, {_plain_unit('unit')} AS unit FROM item")
    of = dict(zip(declared["name"], declared["unit"], strict=True))
    what, place = event.item.rpartition(".")[2], extract.places(event.tables[:1])
    wrong: list[str] = []
    units = counts[counts["unit"].notna() & counts["item"].notna() & (counts["values"] > 0)]
    for item, rows in units.groupby("item"):
        name = str(item) if isinstance(item, str) else f"{item:.0f}"
        most = rows["unit"][rows["values"] == rows["values"].max()]
        right = most.iloc[0] if len(most) == 1 else None
        if isinstance(of.get(item), str):
            if of[item] in set(rows["unit"]):
                right = of[item]
            else:
                extract.say(f"{place}: {what} {name} is not in the unit that variables() lists")
        other = rows[rows["unit"] != right]
        if other.empty:
            continue
        wrong += [f"{name}|{unit}" for unit in other["unit"]] + ([name] if right is None else [])
        extract.say(
            f"{place}: {what} {name} comes in {len(rows)} units; {int(other['values'].sum()):,} of "
            f"{int(rows['values'].sum()):,} values are not in "
            f"{'one that most have' if right is None else 'the one that counts'}, and are left "
            "out. To have them read, convert them"
        )
    if not wrong:
        return "false"
    pair = f"concat_ws('|', item, {_plain_unit('unit')})"
    return f"{pair} IN ({', '.join(map(text_of, wrong))})"


def ragged(position: np.ndarray, values: np.ndarray, n: int, words: dict[int, str]) -> Ragged:
    """Store rows that come in the order of their positions, end to end."""
    offsets = np.searchsorted(position, np.arange(n + 1))
    return Ragged(torch.from_numpy(values), torch.from_numpy(offsets), words)
