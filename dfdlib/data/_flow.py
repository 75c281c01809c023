"""Who is in a cohort: inclusion rules in order, with what each leaves out."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from dfdlib.data._clinical import Extract


class Rule(NamedTuple):
    """One inclusion rule.

    Args:
        says: who stays, in words.
        keep: the same in SQL, on a row of the table `candidate`; NULL leaves out.
    """

    says: str
    keep: str


def include(extract: Extract, candidates: str, rules: Sequence[Rule], start: str) -> pd.DataFrame:
    """Apply rules one after the other, and number those who stay in a table `unit`.

    Args:
        extract: with the views that the query reads.
        candidates: a query that gives `id`, `patient`, `y`, `cut` (when the prediction is made),
            `origin` (time zero) and what the rules read.
        rules: in order; each sees whom the ones before left.
        start: what the candidates are, for the first line.

    Returns:
        One row per rule, after a first one for the candidates: rule, excluded (by this rule), and
        of those who are left rows, patients, labelled (rows with a label), events (with label 1).

    Raises:
        ValueError: nobody is left; says after which rule.
    """
    # the first rule that a candidate breaks; n_rules where it breaks none
    cases = [f"WHEN NOT coalesce({rule.keep}, false) THEN {k}" for k, rule in enumerate(rules)]
    extract.run(f"""
        CREATE OR REPLACE TEMP TABLE candidate AS
        SELECT *, CASE {" ".join(cases)} ELSE {len(rules)} END AS broken FROM ({candidates})
    """)
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
    if not flow["rows"].iloc[-1]:
        last = flow.loc[flow["rows"].eq(0).idxmax()]
        raise ValueError(
            f"nobody is left: the rule {last['rule']!r} left out the last {last['excluded']} of "
            f"{flow['rows'].iloc[0]} rows. Check the settings, or that the tables are whole"
        )
    extract.run(f"""
        CREATE OR REPLACE TEMP TABLE unit AS
        SELECT row_number() OVER (ORDER BY id) - 1 AS position, * EXCLUDE (broken)
        FROM candidate WHERE broken = {len(rules)}
    """)
    return flow


def suppress(flow: pd.DataFrame, *, below: int = 10) -> pd.DataFrame:
    """Hide small counts of a flow, so that it may leave the place where the data are.

    A count of 1 to `below` - 1 becomes missing. The counts around it would give it away as a
    difference, so then all others are rounded down to a whole multiple of `below`.

    Example:
        >>> flow = pd.DataFrame({"rule": ["all", "adults"], "excluded": [0, 3], "rows": [57, 54]})
        >>> suppress(flow)
             rule  excluded  rows
        0     all         0    50
        1  adults      <NA>    50
    """
    counts = flow.drop(columns="rule").astype("Int64")
    small = (counts > 0) & (counts < below)
    if small.to_numpy().any():
        counts = (counts // below * below).mask(small)
    return pd.concat([flow[["rule"]], counts], axis=1)
