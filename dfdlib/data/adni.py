"""ADNI as TADPOLE prepared it: magnetic resonance, amyloid PET and diffusion imaging by visit."""

import logging
import re
import zlib
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from dfdlib.data.clinical.files import damaged, find
from dfdlib.data.clinical.schemas import SOURCES, TABLES
from dfdlib.data.cohort import Cohort
from dfdlib.data.shapes import count_of, kind_of
from dfdlib.errors import require, unknown

CLASSES = ("CN", "MCI", "AD")

# What DXCHANGE says of a visit: 1 to 3 stable, 4 to 6 worse, 7 to 9 better than the visit before.
DXCHANGE = {1: "CN", 7: "CN", 9: "CN", 2: "MCI", 4: "MCI", 8: "MCI", 3: "AD", 5: "AD", 6: "AD"}

_ENDINGS = {
    "mri": "_UCSFFSL_02_01_16_UCSFFSL51ALL_08_01_16",
    "av45": "_UCBERKELEYAV45_10_17_16",
    "dti": "_DTIROI_04_30_14",
}
_READ = ("RID", "VISCODE", "SITE", "DXCHANGE", "AGE", "PTGENDER")

Columns = Literal["complete", "all"]

_log = logging.getLogger(__name__)


def load(
    root: str | Path | None = None,
    *,
    columns: Columns | str = "complete",
    as_published: bool = False,
) -> Cohort:
    """Make a cohort of visits: cognitively normal, mild impairment, or Alzheimer's disease.

    Source: the protocol of MUSE (Wu et al. 2024), read in its public code. A row is a visit with at
    least one of the three modalities; TADPOLE has 12,741 visits of 1,737 people.

    y is the diagnosis at the visit by `DXCHANGE`, a position in `CLASSES`; missing where the visit
    has none.

    Modalities, all vectors:
        - mri: volumes, areas and thickness by FreeSurfer 5.1 (310 columns, 4,341 visits).
        - av45: amyloid PET, uptake and size by region (227 columns, 2,118 visits).
        - dti: diffusivity and anisotropy by tract (228 columns, 788 visits).

    A cell that holds text ("<80") or a negative number (-4 is ADNI's code for "not done") is
    missing: none of these can be negative. A visit with two rows that differ is left out. These
    are the numbers of columns that miss no value at any visit with the modality; the others are
    left out, as published, and logged.

    Groups are patient (RID), visit and site ("unknown" where it is missing); covariates are age at
    the visit (years) and sex. People come up to ten times, so cut by patient.

    Access:
        https://ida.loni.usc.edu/ (project ADNI, Download, Study Data, Test Data: TADPOLE).

    Licence:
        ADNI Data Use Agreement.

    Citation:
        Marinescu, R., Oxtoby, N., Young, A. et al. (2018). TADPOLE Challenge: Prediction of
        Longitudinal Evolution in Alzheimer's Disease. arXiv:1805.03909.

    Args:
        root: The folder with `TADPOLE_D1_D2.csv`, or the one that `dfdlib data ingest adni` wrote.
        columns: "complete" leaves columns with holes out, which depends on the file; "all" keeps
            them, and the cohort's masks say where a value is.
        as_published: Do as MUSE's preparation does where it differs: each MRI column twice, and
            each visit a patient of its own, so that one person stands in training and test parts.
            Its scaling over all visits is left to the encoders, which scale by the training part.

    Raises:
        FileNotFoundError: The table is not there.
        ValueError: No root, a damaged file, a column that is not there, an unknown code of
            diagnosis, or no column without holes.

    Example:
        >>> load()
        Traceback (most recent call last):
        ValueError: 'adni' needs root=, the folder that holds TADPOLE ... https://ida.loni.usc.edu/...
    """
    if columns not in get_args(Columns):
        raise unknown(columns, get_args(Columns), "choice of columns")
    visits = _told_alike(_visits(root))
    x = _modalities(visits)
    kept = np.logical_or.reduce([values.notna().any(axis=1) for values in x.values()])
    visits, x = visits[kept], {name: values[kept] for name, values in x.items()}
    if visits.empty:
        raise ValueError("no visit in the table has MRI, AV45 or DTI. Check that the file is whole")
    if columns == "complete":
        x = {name: _complete(name, values) for name, values in x.items()}
    # DIFF: MUSE's preparation selects the MRI columns by two names that all of them end in, so it
    # has each twice, and cuts by visit; here once, and by patient, unless as_published.
    if as_published:
        x["mri"] = x["mri"].join(x["mri"].add_suffix(" again"))
    visit = visits["RID"].astype(str) + "-" + visits["VISCODE"]
    site = visits["SITE"].map("{:.0f}".format, na_action="ignore").fillna("unknown")
    return Cohort(
        x=x,
        y=_diagnosis(visits["DXCHANGE"]),
        task="multiclass",
        covariates={
            "age": visits["AGE"] + _months(visits["VISCODE"]) / 12,
            "sex": visits["PTGENDER"].str.lower(),
        },
        groups={
            "patient": visit if as_published else visits["RID"],
            "visit": visit,
            "site": site,
        }
        | ({"person": visits["RID"]} if as_published else {}),
    )


def flow(root: str | Path | None = None) -> pd.DataFrame:
    """Count what each rule of `load` leaves out.

    Returns:
        One row per rule in order: rule, excluded, and of those left rows, patients, labelled.
    """
    everything = _visits(root)
    visits = _told_alike(everything)
    imaged = pd.concat(list(_modalities(visits).values()), axis=1).notna().any(axis=1)
    steps = {"all visits": everything}
    if len(visits) < len(everything):
        steps["told once, or alike each time"] = visits
    steps["MRI, AV45 or DTI"] = visits[imaged]
    table = pd.DataFrame(
        {
            "rule": rule,
            "rows": len(left),
            "patients": left["RID"].nunique(),
            "labelled": int(np.isfinite(_diagnosis(left["DXCHANGE"])).sum()),
        }
        for rule, left in steps.items()
    )
    table.insert(1, "excluded", -table["rows"].diff().fillna(0).astype(int))
    return table


def _visits(root: str | Path | None) -> pd.DataFrame:
    """Read the declared columns; rows that are alike in all of them are one."""
    source = SOURCES["adni"]
    if root is None:
        raise ValueError(
            f"'adni' needs root=, the folder that holds {source.title}. It is not packaged: access "
            f"is asked for at {source.page}"
        )
    folder = Path(root).expanduser()
    ingested = folder / "visits.parquet"
    place, table = _ingested(ingested) if ingested.is_file() else _raw(folder)
    # what is declared by its own name is a date or a stamp, not a measurement
    named, endings = TABLES["adni"]["visits"], tuple(_ENDINGS.values())
    family = [name for name in table if name.endswith(endings) and name not in named]
    lacking = [name for name in _READ if name not in table]
    if lacking:
        raise ValueError(
            f"{place} has no column {lacking[0]}, which {source.title} has. Ingest the raw file "
            "again: dfdlib data ingest adni"
        )
    table = table[[*_READ, *family]].copy()
    for name in ("VISCODE", "PTGENDER"):
        table[name] = table[name].astype("string").str.strip().replace("", pd.NA)
    for name in (*_READ, *family):
        if name not in ("VISCODE", "PTGENDER"):
            table[name] = _numbers(table[name], place)
    whole = table["RID"].notna() & (table["RID"] % 1 == 0)
    if not whole.all():
        raise ValueError(
            f"{place}, line {int((~whole).argmax()) + 2}: RID is no whole number. Take the file as "
            "it was downloaded"
        )
    table["RID"] = table["RID"].astype("int64")
    again = table.duplicated()
    if again.any():
        _log.warning(f"{place}: {again.sum():,} rows repeat another one, and count once with it")
    return table[~again].reset_index(drop=True)


def _raw(folder: Path) -> tuple[str, pd.DataFrame]:
    raw = find(folder, TABLES["adni"], SOURCES["adni"])["visits"]
    names = {place: name for name, place, _ in raw.columns}
    try:
        table = pd.read_csv(
            raw.path, sep=raw.delimiter, usecols=list(names), header=0, names=range(raw.width),
            na_values=[" "], low_memory=False, index_col=False,
        )  # fmt: skip
    except (EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(damaged(raw.place, why, SOURCES["adni"])) from None
    except pd.errors.ParserError as error:
        match = re.search(r"Expected \d+ fields in line \d+, saw \d+", str(error))
        why = match[0] if match else "its lines cannot be told apart"
        raise ValueError(damaged(raw.place, why, SOURCES["adni"])) from None
    return raw.place, table.rename(columns=names)


def _ingested(file: Path) -> tuple[str, pd.DataFrame]:
    require("reading parquet files", "pyarrow")
    try:
        return file.name, pd.read_parquet(file)
    except (OSError, ValueError):  # pyarrow repeats the path, and what it found there
        raise ValueError(
            f"{file.name} is no parquet file, or is cut off or damaged. Ingest the raw file again: "
            "dfdlib data ingest adni"
        ) from None


def _told_alike(visits: pd.DataFrame) -> pd.DataFrame:
    """Leave out the visits whose rows contradict each other."""
    two = visits.duplicated(["RID", "VISCODE"], keep=False)
    if two.any():
        n = len(visits.loc[two, ["RID", "VISCODE"]].drop_duplicates())
        _log.warning(f"{count_of(n)} visits have rows that contradict each other, and are left out")
    return visits[~two].reset_index(drop=True)


def _numbers(column: pd.Series, place: str) -> pd.Series:
    """Read numbers; text counts as missing, with a warning."""
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(float)
    if not pd.api.types.is_string_dtype(column.dropna()):
        raise ValueError(
            f"{place}: {column.name} is stored as {column.dtype}, not as numbers. Ingest the raw "
            "file again: dfdlib data ingest adni"
        )
    words = column.astype("string").str.strip().replace("", pd.NA)
    numbers = pd.to_numeric(words, errors="coerce")
    text = words[words.notna() & numbers.isna()]
    if len(text):
        kinds = ", ".join(sorted(set(map(kind_of, text))))
        _log.warning(f"{place}: {column.name}: {len(text):,} cells hold {kinds}, and are missing")
    return numbers.astype(float)


def _modalities(visits: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The columns of each family, once, under their names in it."""
    x = {}
    for name, ending in _ENDINGS.items():
        family = visits[[column for column in visits if column.endswith(ending)]]
        family.columns = [column.removesuffix(ending) for column in family]
        x[name] = family.where(family >= 0)
    return x


def _complete(name: str, values: pd.DataFrame) -> pd.DataFrame:
    """Leave out the columns that miss a value at a visit where the modality was taken."""
    whole = values.dropna(how="all").notna().all()
    if not whole.any():
        raise ValueError(
            f"every column of {name} misses a value at some visit with {name}. Pass columns='all'"
        )
    if not whole.all():
        holes = ", ".join(whole.index[~whole][:5])
        _log.warning("%d columns of %s with holes are left out: %s", (~whole).sum(), name, holes)
    return values.loc[:, whole]


def _diagnosis(dxchange: pd.Series) -> np.ndarray:
    """The class of each visit, NaN where it has no diagnosis."""
    code = dxchange.where(dxchange > 0)
    strange = code[code.notna() & ~code.isin(list(DXCHANGE))]
    if len(strange):
        raise ValueError(
            "DXCHANGE holds other numbers than TADPOLE's codes, 1 to 9, at "
            f"{count_of(len(strange))} visits. Take the file as it was downloaded"
        )
    place = {value: CLASSES.index(name) for value, name in DXCHANGE.items()}
    return code.map(place).to_numpy(float)


def _months(viscode: pd.Series) -> pd.Series:
    """Months since the first visit: 0 of "bl", 24 of "m24"."""
    number = viscode.str.lower().replace("bl", "m0").str.removeprefix("m")
    months = pd.to_numeric(number, errors="coerce").astype("float64")
    if other := int((months.isna() & viscode.notna()).sum()):
        _log.warning(
            "VISCODE is neither bl nor m and a number at %s visits: no age", count_of(other)
        )
    return months
