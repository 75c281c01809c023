"""Made-up patients in the exact raw schemas of data sets that are under access control."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from dfdlib.book.made_up import adni as adni
from dfdlib.book.made_up import eicu as eicu
from dfdlib.book.made_up import eicu as eicu_codes
from dfdlib.book.made_up import eicu as eicu_events
from dfdlib.book.made_up import mimic_cxr as mimic_cxr
from dfdlib.book.made_up import mimic_iv as mimic_iv
from dfdlib.book.made_up import mimic_iv as mimic_iv_codes
from dfdlib.book.made_up import mimic_iv as mimic_iv_events
from dfdlib.book.made_up.draw import Columns, parts, write_csv
from dfdlib.errors import unknown

# file, spelt as its owners do: what draws its parts from a number of patients and a seed
Files = dict[str, Callable[[int, int], Iterator[Columns]]]


def _once(columns: Callable[[], Columns]) -> Callable[[int, int], Iterator[Columns]]:
    """A table that is the same for any patients."""
    return lambda *_: iter([columns()])


def _files(draw: Callable, tables: dict[str, Callable], *, constant: dict[str, Callable]) -> Files:
    files: Files = {name: _once(columns) for name, columns in constant.items()}
    for salt, (name, table) in enumerate(tables.items(), start=1):
        files[name] = partial(parts, draw, table, salt)
    return files


_FILES: dict[str, Files] = {
    "eicu": _files(
        eicu.draw_stays,
        {
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
        },
        constant={"hospital": eicu.hospital},
    ),
    "mimic_iv": _files(
        mimic_iv.draw_admissions,
        {
            "hosp/patients": mimic_iv.patients,
            "hosp/admissions": mimic_iv.admissions,
            "hosp/diagnoses_icd": mimic_iv_codes.diagnoses_icd,
            "hosp/procedures_icd": mimic_iv_codes.procedures_icd,
            "hosp/prescriptions": mimic_iv_events.prescriptions,
            "hosp/labevents": mimic_iv_events.labevents,
            "note/discharge": mimic_iv_events.discharge,
        },
        constant={
            "hosp/d_icd_diagnoses": partial(mimic_iv_codes.titles, mimic_iv_codes.DIAGNOSES),
            "hosp/d_icd_procedures": partial(mimic_iv_codes.titles, mimic_iv_codes.PROCEDURES),
            "hosp/d_labitems": mimic_iv_events.d_labitems,
        },
    ),
    "adni": {"TADPOLE_D1_D2": adni.visits},
    "mimic_cxr": _files(
        mimic_cxr.draw_views,
        {
            "mimic-cxr-2.0.0-metadata": mimic_cxr.metadata,
            "mimic-cxr-2.0.0-chexpert": mimic_cxr.chexpert,
            "mimic-cxr-2.0.0-split": mimic_cxr.split,
        },
        constant={},
    ),
}


def write(
    dataset: str,
    root: str | Path,
    *,
    n: int,
    seed: int,
    only: Sequence[str] | None = None,
    pixels: int = 72,
) -> Path:
    """Write made-up patients as the files that a data set's owners would ship.

    Nobody in them exists. Every value is drawn from simple distributions: how ill somebody is
    moves laboratory values, vital signs, codes, words and images, which tests are ordered, and the
    outcome, so that a model can learn something. No number computed on them says anything about
    medicine.

    The files have the tables, the columns, their order and the spelling of the real ones, and what
    is ugly in those:

        - eicu: events before admission, ages such as "> 89" and below 18, results under a detection
          limit, rows that come twice, cancelled drugs without a name, stays of minutes and of
          weeks, several stays in one admission, -1 for what APACHE did not measure, outcomes among
          its variables.
        - mimic_iv: codes with leading zeros in two versions of ICD, text for numbers, laboratory
          rows of no admission or after discharge, notes over many lines, some without the section
          that is read, patients admitted a minute after their death.
        - adni: one table of 900 columns with blanks in the place of numbers, values such as
          ">1700", conversions and reversions of diagnoses, visits without one.
        - mimic_cxr: studies of one view or three, views of other names or none, studies without
          labels, labels that are uncertain or not mentioned, images that cannot be read.

    Args:
        dataset: `eicu`, `mimic_iv`, `adni` or `mimic_cxr`.
        root: the folder to write to; it is made if it does not exist.
        n: number of patients; memory does not grow with it.
        seed: equal seeds give equal files.
        only: these files only, by their names without `.csv` or `.csv.gz`; `files` are the images
            of MIMIC-CXR-JPG. What is written does not depend on which others are.
        pixels: the shorter side of an image; real ones have some 2,500.

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
    files, root = _FILES[dataset], Path(root)
    images = ["files"] if dataset == "mimic_cxr" else []
    for name in only or ():
        if name not in (*files, *images):
            raise unknown(name, (*files, *images), f"file of {dataset}")
    for name, draw in files.items():
        if only is None or name in only:
            # TADPOLE is one file, not packed
            suffix = ".csv" if dataset == "adni" else ".csv.gz"
            write_csv(root / f"{name}{suffix}", draw(n, seed))
    if images and (only is None or "files" in only):
        mimic_cxr.write_images(root, n, seed, pixels)
    return root
