"""Made-up patients in the exact raw schemas of data sets that are under access control."""

from dfdlib.book.made_up.write import write

__all__ = [
    "write",
]
