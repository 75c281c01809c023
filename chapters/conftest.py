"""How nbval compares a chapter with its stored outputs.

`nbval-check-output` compares text. Where a processor may round otherwise, the
cell is tagged `by-value` too: numbers then agree if they are one of their last
digit apart at most, and all else as text.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest
from nbval.plugin import IPyNbCell

NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w.]*\d)")


class ByValue(str):
    """An output that equals another in its words, and nearly in numbers."""

    __hash__ = str.__hash__

    def parts(self) -> tuple[str, list[Decimal]]:
        """Return the words, with a mark for each number, and the numbers."""
        found = [n.replace(",", "") for n in NUMBER.findall(self)]
        # a minus takes a column: a table moves where a zero changes its sign
        words = " ".join(NUMBER.sub(" # ", self).split())
        return words, [Decimal(n.replace("−", "-")) for n in found]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ByValue):
            return NotImplemented
        (words, numbers), (others, values) = self.parts(), other.parts()
        return words == others and all(
            a.as_tuple().exponent == b.as_tuple().exponent
            and abs(a - b) <= Decimal(1).scaleb(a.as_tuple().exponent)
            for a, b in zip(numbers, values, strict=True)
        )

    def __ne__(self, other: object) -> bool:  # that of str would compare text
        return not self == other


class Cell(IPyNbCell):
    """A cell of a chapter."""

    def sanitize(self, s: Any) -> Any:
        """Mark a text that is compared by value."""
        text = super().sanitize(s)
        by_value = "by-value" in self.cell.metadata.get("tags", ())
        return ByValue(text) if by_value and isinstance(text, str) else text


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Take over nbval's cells."""
    for item in items:
        if type(item) is IPyNbCell:
            item.__class__ = Cell
