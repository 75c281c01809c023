"""What the chapters share, and what builds the book from them.

In a chapter: `glue` a number into the prose, show a run `beside_seeds` that were stored, show the
`claims_table`, end with `provenance`.
From the command line, in a clone of the repository::

    python -m dfdlib.book config --execute auto --out _build/_config.yml
    python -m dfdlib.book pages

The first derives the configuration that `jupyter-book build . --config` reads. The second rewrites
the pages that are generated from other files: the list of claims and the list of departures.
"""

from dfdlib.book import scorecard
from dfdlib.book._config import cache_key, write_config
from dfdlib.book._pages import departures, pages
from dfdlib.book.chapter import (
    OWN_RESULTS,
    Provenance,
    beside_seeds,
    book_root,
    claims_table,
    glue,
    library_commit,
    provenance,
    writable,
)
from dfdlib.book.scorecard import Sheet, sheet

__all__ = [
    "OWN_RESULTS",
    "Provenance",
    "Sheet",
    "beside_seeds",
    "book_root",
    "cache_key",
    "claims_table",
    "departures",
    "glue",
    "library_commit",
    "pages",
    "provenance",
    "scorecard",
    "sheet",
    "writable",
    "write_config",
]
