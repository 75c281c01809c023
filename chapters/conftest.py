"""How nbval compares a chapter with its stored outputs.

`nbval-check-output` compares text. Where a processor may round otherwise, the
cell is tagged `by-value` too: numbers agree if they are one of their last
digit apart at most, and all else as text. Where training carries rounding
further, the tag is `within-0.05`: the numbers of a table agree if they are at
most 0.05 apart, or 5 % of one above 1; `rows-causal-0.5` besides says so of
rows in whose label the word stands. How far apart processors are was measured.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest
from nbval.plugin import IPyNbCell

NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w.]*\d)")
WITHIN = re.compile(r"(?:within|rows-(\w+))-(\d(?:\.\d+)?)")


class ByValue(str):
    """An output that equals another in its words, and nearly in numbers.

    `within` is how near, of rows by a word of their label and of all other
    rows by "", relative above 1; empty: one of the last digit.
    """

    __hash__ = str.__hash__
    within: dict[str, Decimal] = {}  # noqa: RUF012 never changed in place

    def parts(self) -> tuple[str, list[Decimal]]:
        """Return the words, with a mark for each number, and the numbers."""
        found = [n.replace(",", "") for n in NUMBER.findall(self)]
        # a minus takes a column: a table moves where a zero changes its sign
        words = " ".join(NUMBER.sub(" # ", self).split())
        return words, [Decimal(n.replace("−", "-")) for n in found]

    def rows(self) -> list["ByValue"]:
        """Return the rows of a table, each with what it allows."""
        rows = []
        for text in self.split("</tr>"):
            label = " ".join(re.findall(r"<th[^>]*>(.*?)</th>", text, re.S))
            words = {"", *re.split(r"[\s,]+", label)}
            row = ByValue(text)
            near = [t for word, t in self.within.items() if word in words]
            row.within = {"": max(near)} if near else {}
            rows.append(row)
        return rows

    def agrees(self, other: "ByValue") -> bool:
        """Whether the words are the same, and the numbers near."""
        (words, numbers), (others, values) = self.parts(), other.parts()
        return words == others and all(
            self.near(a, b) for a, b in zip(numbers, values, strict=True)
        )

    def near(self, a: Decimal, b: Decimal) -> bool:
        """Whether two numbers agree."""
        if self.within:
            return abs(a - b) <= self.within[""] * max(1, abs(a), abs(b))
        ends = a.as_tuple().exponent, b.as_tuple().exponent
        return ends[0] == ends[1] and abs(a - b) <= Decimal(1).scaleb(ends[0])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ByValue):
            return NotImplemented
        rows, others = self.rows(), other.rows()
        return len(rows) == len(others) and all(
            row.agrees(twin) for row, twin in zip(rows, others, strict=True)
        )

    def __ne__(self, other: object) -> bool:  # that of str would compare text
        return not self == other


class Cell(IPyNbCell):
    """A cell of a chapter."""

    def sanitize(self, s: Any) -> Any:
        """Mark a text that is compared by value."""
        text = super().sanitize(s)
        if not isinstance(text, str) or not (self.by_value or self.within):
            return text
        text = ByValue(text)
        text.within = self.within
        return text

    def compare_outputs(
        self, test: Any, ref: Any, skip_compare: Any = None
    ) -> bool:
        """Leave out a table's text, which breaks its lines as numbers fall."""
        skip = skip_compare or self.parent.skip_compare
        kinds = {kind for output in ref for kind in output.get("data", ())}
        if self.within and "text/html" in kinds:
            skip = (*skip, "text/plain")
        return super().compare_outputs(test, ref, skip)

    @property
    def by_value(self) -> bool:
        """Whether numbers may be one of their last digit apart."""
        return "by-value" in self.cell.metadata.get("tags", ())

    @property
    def within(self) -> dict[str, Decimal]:
        """How far apart numbers may be, of rows by a word of their label."""
        tags = self.cell.metadata.get("tags", ())
        found = [WITHIN.fullmatch(tag) for tag in tags]
        return {tag[1] or "": Decimal(tag[2]) for tag in found if tag}


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Take over nbval's cells."""
    for item in items:
        if type(item) is IPyNbCell:
            item.__class__ = Cell
