"""What the chapters share; it needs a checkout of the book.

In a chapter: `glue` a number into the prose, show a run `beside_seeds` that were stored, show the
`claims_table`, end with `provenance`. `beside_reported` compares what a run `glued` with what the
book reports. `tools/book.py` builds the book.
"""

from dfdlib.book import scorecard
from dfdlib.book.chapter import (
    OWN_RESULTS,
    Provenance,
    beside_reported,
    beside_seeds,
    book_root,
    claims_table,
    glue,
    glued,
    is_as_reported,
    library_commit,
    provenance,
    writable,
)
from dfdlib.book.scorecard import Sheet, sheet

__all__ = [
    "OWN_RESULTS",
    "Provenance",
    "Sheet",
    "beside_reported",
    "beside_seeds",
    "book_root",
    "claims_table",
    "glue",
    "glued",
    "is_as_reported",
    "library_commit",
    "provenance",
    "scorecard",
    "sheet",
    "writable",
]
