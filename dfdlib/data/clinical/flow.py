"""Who is in a cohort: inclusion rules in order, with what each leaves out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dfdlib.data.clinical.extract import Extract
from dfdlib.data.shapes import count_of


class Rule(NamedTuple):
    """One inclusion rule.

    Args:
        says: who stays, in words.
        keep: the same in SQL, on a row of the table `candidate`; NULL leaves out.
        rare: whether it is about faults of a table: it is listed, and told, only where there are.
    """

    says: str
    keep: str
    rare: bool = False


def include(extract: Extract, candidates: str, rules: Sequence[Rule], start: str) -> pd.DataFrame:
    """Apply rules one after the other, and number those who stay in a table `unit`.

    Args:
        extract: with the views that the query reads.
        candidates: a query that gives `id`, `patient`, `y`, `cut` (when the prediction is made),
            `origin` (time zero), `finished` (when the stay did) and what the rules read.
        rules: in order; each sees whom the ones before left.
        start: what the candidates are, for the first line.

    Returns:
        One row per rule, after a first one for the candidates: rule, excluded (by this rule), and
        of those who are left rows, patients, labelled (rows with a label), events (with label 1).

    Raises:
        ValueError: nobody is left; says after which rule.
    """
    broken = [f"NOT coalesce({rule.keep}, false)" for rule in rules]
    # the first rule that a candidate breaks; n_rules where it breaks none
    cases = [f"WHEN {test} THEN {k}" for k, test in enumerate(broken)]
    extract.run(f"""
        CREATE OR REPLACE TEMP TABLE candidate AS
        SELECT *, CASE {" ".join(cases)} ELSE {len(rules)} END AS broken FROM ({candidates})
    """)
    _tell_faults(extract, rules, start)
    counts = [
        f"SELECT {k} AS k, count(*) AS rows, count(DISTINCT patient) AS patients, "
        "count(y) AS labelled, count(*) FILTER (WHERE y = 1) AS events "
        f"FROM candidate WHERE broken >= {k}"
        for k in range(len(rules) + 1)
    ]
    flow = pd.DataFrame(extract.fetch(" UNION ALL ".join(counts) + " ORDER BY k"))
    flow["k"] = [start, *(rule.says for rule in rules)]
    flow = flow.rename(columns={"k": "rule"})
    flow.insert(1, "excluded", -flow["rows"].diff().fillna(0).astype(int))
    rare = np.array([False, *(rule.rare for rule in rules)])
    flow = flow[~rare | flow["excluded"].ne(0)].reset_index(drop=True)
    if not flow["rows"].iloc[-1]:
        last = flow.loc[flow["rows"].eq(0).idxmax()]
        raise ValueError(
            f"nobody is left: the rule {last['rule']!r} left out the last of "
            f"{count_of(int(flow['rows'].iloc[0]))} rows. Check the settings, or that the tables "
            "are whole"
        )
    extract.run(f"""
        CREATE OR REPLACE TEMP TABLE unit AS
        SELECT row_number() OVER (ORDER BY id) - 1 AS position, * EXCLUDE (broken)
        FROM candidate WHERE broken = {len(rules)}
    """)
    # whose events are nobody's, and whose are of somebody who was left out
    extract.run(f"""
        CREATE OR REPLACE TEMP TABLE known AS
        SELECT id, any_value(patient) AS patient, max(cut) AS cut, min(origin) AS origin,
            max(finished) AS finished, bool_or(broken = {len(rules)}) AS kept,
            any_value(position) AS position
        FROM candidate LEFT JOIN (SELECT id, position FROM unit) USING (id)
        WHERE id IS NOT NULL GROUP BY id
    """)
    return flow


def _tell_faults(extract: Extract, rules: Sequence[Rule], start: str) -> None:
    """Warn of candidates that a table tells wrongly, whatever other rule leaves them out too."""
    rare = [rule for rule in rules if rule.rare]
    if not rare:
        return
    tests = ", ".join(
        f"count(*) FILTER (NOT coalesce({rule.keep}, false)) AS n{k}" for k, rule in enumerate(rare)
    )
    counts = extract.fetch(f"SELECT {tests} FROM candidate")
    faults = [(int(counts[f"n{k}"][0]), rule.says) for k, rule in enumerate(rare)]
    if any(n for n, _ in faults):
        listed = "; ".join(f"{count_of(n)} not {says!r}" for n, says in faults if n)
        extract.say(f"{start} that are left out for what the tables say of them: {listed}")


def suppress(flow: pd.DataFrame, *, below: int = 10) -> pd.DataFrame:
    """Hide small counts of a flow, so that it may leave the place where the data are.

    A count of 1 to `below` - 1 becomes missing. The counts around it would give it away as a
    difference, so then all others are rounded down to a whole multiple of `below`, and so they are
    where two of them differ by less: rows without a label, or events that a rule left out. What a
    rule excluded is then the difference of the rounded rows, and tells no more than they do.

    Example:
        >>> flow = pd.DataFrame({"rule": ["all", "adults"], "excluded": [0, 3], "rows": [57, 54]})
        >>> suppress(flow)
             rule  excluded  rows
        0     all         0    50
        1  adults      <NA>    50
    """
    counts = flow.drop(columns="rule").astype("Int64")

    def few(counts: pd.DataFrame) -> pd.DataFrame:
        return (counts > 0) & (counts < below)

    small = few(counts)
    steps = -counts.drop(columns=["rows", "excluded"], errors="ignore").diff()
    nested = [name for name in ("rows", "labelled", "events") if name in counts]
    steps = pd.concat([steps, -counts[nested].diff(axis=1)], axis=1)
    if small.to_numpy().any() or few(steps).to_numpy(dtype=bool, na_value=False).any():
        counts = counts // below * below
        if {"rows", "excluded"} <= set(counts):
            left_out = -counts["rows"].diff()
            counts["excluded"] = left_out.fillna(counts["excluded"])
        counts = counts.mask(small)
    return pd.concat([flow[["rule"]], counts], axis=1)
