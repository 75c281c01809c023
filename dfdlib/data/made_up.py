"""Made-up patients in the exact raw schemas of data sets that are under access control."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dfdlib.data import _made_up_eicu as eicu
from dfdlib.data import _made_up_eicu_codes as eicu_codes
from dfdlib.data import _made_up_eicu_events as eicu_events
from dfdlib.data._made_up_draw import Columns, write_csv
from dfdlib.data._validate import unknown

# file, spelt as its owners do: what draws its parts from a number of patients and a seed
Files = dict[str, Callable[[int, int], Iterator[Columns]]]


def _hospitals(n: int, seed: int) -> Iterator[Columns]:  # noqa: ARG001 - always the same number
    yield eicu.hospital(np.random.default_rng(seed))


_EICU_TABLES = {
    "patient": eicu.patient,
    "admissionDx": eicu.admission_dx,
    "diagnosis": eicu_codes.diagnosis,
    "treatment": eicu_codes.treatment,
    "medication": eicu_codes.medication,
    "lab": eicu_events.lab,
    "vitalPeriodic": eicu_events.vital_periodic,
    "vitalAperiodic": eicu_events.vital_aperiodic,
    "apacheApsVar": eicu_codes.apache_aps_var,
    "apachePredVar": eicu_codes.apache_pred_var,
}
_EICU: Files = {"hospital": _hospitals}
for _salt, (_name, _table) in enumerate(_EICU_TABLES.items(), start=1):
    _EICU[_name] = partial(eicu.parts, _table, _salt)
_FILES: dict[str, Files] = {"eicu": _EICU}


def write(
    dataset: str,
    root: str | Path,
    *,
    n: int,
    seed: int,
    only: Sequence[str] | None = None,
) -> Path:
    """Write made-up patients as the files that a data set's owners would ship.

    Nobody in them exists. Every value is drawn from simple distributions; outcomes depend on
    severity, age and diagnosis, and so do laboratory values, vital signs, codes, and which tests
    are ordered, so that a model can learn something. No number computed on them says anything
    about medicine.

    The files have the tables, columns, their order and the spelling of the real ones, and what is
    ugly in those: negative offsets, ages such as "> 89", results under a detection limit, codes
    with leading zeros, rows that come twice, labels and names that are missing.

    Args:
        dataset: `eicu`.
        root: the folder to write to; it is made if it does not exist.
        n: number of patients; memory does not grow with it.
        seed: equal seeds give equal files.
        only: these files only, by their names without `.csv.gz`; they do not depend on which
            others are written.

    Returns:
        The folder.

    Raises:
        ValueError: An unknown data set or file, or no patient.

    Example:
        >>> import tempfile
        >>> root = write("eicu", tempfile.mkdtemp(), n=50, seed=0, only=["hospital"])
        >>> [path.name for path in root.iterdir()]
        ['hospital.csv.gz']
    """
    if dataset not in _FILES:
        raise unknown(dataset, _FILES, "data set that can be made up")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}. Pass n=1000")
    files = _FILES[dataset]
    for name in only or ():
        if name not in files:
            raise unknown(name, files, f"file of {dataset}")
    for name, draw in files.items():
        if only is None or name in only:
            write_csv(Path(root) / f"{name}.csv.gz", draw(n, seed))
    return Path(root)
