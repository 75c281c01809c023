"""The scorecard as HTML: a folded entry per claim, readable on a phone."""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dfdlib.book._answers import answers
from dfdlib.book._files import book_root, load_claims
from dfdlib.book.scorecard import card, evidence, system


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Every claim of one system, with its primary results; shows itself in a notebook."""

    system: str
    card: pd.DataFrame
    results: pd.DataFrame
    claims: list[dict[str, Any]]
    chapters: dict[str, list[str]]

    def __repr__(self) -> str:
        """One line a claim and reach."""
        lines = self.card[["claim", "reach", "verdict"]].to_numpy()
        return "\n".join(f"{claim}, {reach}: {verdict}" for claim, reach, verdict in lines)

    def _repr_html_(self) -> str:
        return f'<div class="scorecard">{"".join(map(self._claim, self.claims))}</div>'

    def _claim(self, claim: dict[str, Any]) -> str:
        name = claim["id"]
        rows = self.card[self.card["claim"] == name]
        badges = "".join(
            f'<span class="verdict {_slug(verdict)}">{reach}: {verdict}</span> '
            for reach, verdict in rows[["reach", "verdict"]].to_numpy()
        )
        links = [f'<a href="about/claims.html#claim-{name}">what decides it</a>']
        links += [
            f'<a href="{stem}.html">chapter {int(stem[:2])}</a>' for stem in self.chapters[name]
        ]
        body = "".join(part for _, row in rows.iterrows() for part in self._reach(row))
        return (
            f"<details><summary><code>{name}</code> {badges}</summary>"
            f"<p>{html.escape(claim['claim'])}</p><p>{' · '.join(links)}</p>{body}</details>"
        )

    def _reach(self, row: pd.Series) -> Iterator[str]:
        here = self.results
        here = here[(here["claim"] == row["claim"]) & (here["reach"] == row["reach"])]
        missing = f" ({html.escape(row['missing'])})" if row["missing"] else ""
        yield f"<p><strong>{row['reach']}: {row['verdict']}</strong>{missing}</p>"
        primary = here[here["part"] != ""]
        for (part, metric), some in primary.groupby(["part", "metric"], sort=False):
            yield f"<p>{html.escape(part)}; {html.escape(metric)}</p>{_table(some)}"
        if len(primary):
            commands = "\n".join(primary["command"].unique())
            shown = f"<pre>{html.escape(commands)}</pre>"
            yield f"<details><summary>commands</summary>{shown}</details>"
        others = here[here["part"] == ""]
        if len(others):
            counts = others["verdict"].value_counts()
            said = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
            yield f"<p>Beside it, not counted, {len(others)} variants and controls: {said}.</p>"


def sheet(system_name: str, *, root: Path | None = None) -> Sheet:
    """Unfold the scorecard of one system: each claim with its primary results and their commands.

    Raises:
        ValueError: a name that no system has.
    """
    root = root or book_root()
    claims = [claim for claim in load_claims(root) if system(claim)[0] == system_name]
    if not claims:
        known = sorted({system(claim)[0] for claim in load_claims(root)})
        raise ValueError(f"{system_name!r} is no system. Pass one of: {', '.join(known)}")
    results = evidence(root)
    rows = card(root, results=results)
    return Sheet(
        system=system_name,
        card=rows[rows["system"] == system_name].reset_index(drop=True),
        results=results,
        claims=claims,
        chapters=answers(root),
    )


_HEAD = ("data set", "method", "effect", "adjusted interval", "margin", "verdict", "seeds")


def _table(results: pd.DataFrame) -> str:
    head = "".join(f"<th>{title}</th>" for title in _HEAD)
    body = "".join(f"<tr>{''.join(_cells(row))}</tr>" for _, row in results.iterrows())
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _cells(row: pd.Series) -> Iterator[str]:
    yield f"<td>{html.escape(row['dataset'])}</td><td>{html.escape(row['method'])}</td>"
    yield f"<td>{row['effect']:+.3f}</td><td>{row['low']:+.3f} to {row['high']:+.3f}</td>"
    yield f"<td>{row['margin']:g}</td><td>{row['verdict']}</td><td>{len(row['seeds'])}</td>"


def _slug(verdict: str) -> str:
    return re.sub(r"\W+", "-", verdict)
