"""MIMIC-CXR-JPG's tables: which images count, which belong together, who is in which part."""

import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from dfdlib.data._ingest_files import Raw, damaged, find
from dfdlib.data._ingest_sources import SOURCES
from dfdlib.data._tables import LABELS, TABLES

Pairs = Literal["all", "one"]
Uncertain = Literal["zeros", "ones", "ignore"]

FRONTAL, LATERAL = ("AP", "PA"), ("LL", "LATERAL")
PARTS = ("train", "validate", "test")


def read_tables(root: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None, Path]:
    """Read metadata, labels and, where it is there, the official split; and say where they lie.

    Raises:
        FileNotFoundError: A table is not there.
        ValueError: A column is not there, or a file is damaged.
    """
    source, tables = SOURCES["mimic_cxr"], TABLES["mimic_cxr"]
    wanted = {
        "metadata": dict.fromkeys(("dicom_id", "subject_id", "study_id", "ViewPosition"), ""),
        "chexpert": tables["chexpert"],
    }
    found = find(root, wanted, source)
    try:
        split = _read(find(root, {"split": tables["split"]}, source)["split"])
    except FileNotFoundError:
        split = None
    metadata, chexpert = _read(found["metadata"]), _read(found["chexpert"])
    return metadata, chexpert, split, found["metadata"].path.parent


def _read(raw: Raw) -> pd.DataFrame:
    """Read the wanted columns: identifiers as whole numbers, labels as 1, 0, -1 or missing.

    Raises:
        ValueError: A file that is damaged, or a value that is none of these; rows are numbered as
            in the file, after the line of names.
    """
    names = {place: name for name, place, _ in raw.columns}
    try:
        table = pd.read_csv(
            raw.path, sep=raw.delimiter, usecols=list(names), header=0, names=range(raw.width),
            dtype=str, keep_default_na=False,
        ).rename(columns=names)  # fmt: skip
    except (EOFError, OSError, ValueError, zlib.error) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(
            damaged(raw.place, "it cannot be read to its end", SOURCES["mimic_cxr"])
        ) from None
    table = table.apply(lambda column: column.str.strip())
    for name, letter in (("subject_id", "p"), ("study_id", "s")):
        # 10000032.0 and p10000032, as other programs and the names of folders write it
        digits = table[name].str.removeprefix(letter).str.replace(r"\.0*$", "", regex=True)
        _refuse(raw, name, ~digits.str.fullmatch(r"\d{1,18}"), "a whole number")
        table[name] = digits.astype("int64")
    if "dicom_id" in table:  # becomes the name of a file: it must not lead out of the folder
        bad = ~table["dicom_id"].str.fullmatch(r"[\w-][\w.-]*")
        _refuse(raw, "dicom_id", bad, "letters, digits, dots and hyphens")
    for name in set(LABELS) & set(table.columns):
        values = pd.to_numeric(table[name].replace("", np.nan), errors="coerce")
        said = table[name] != ""
        _refuse(raw, name, said & ~values.isin([-1, 0, 1]), "1, 0, -1 or blank")
        table[name] = values
    return table


def _refuse(raw: Raw, column: str, bad: pd.Series, wanted: str) -> None:
    if bad.any():
        raise ValueError(
            f"{raw.path.name}: {column} is not {wanted} in {bad.sum()} rows, first in row "
            f"{int(bad.to_numpy().argmax()) + 1}. Get the file again: {SOURCES['mimic_cxr'].page}"
        )


def official_split(split: pd.DataFrame) -> pd.Series:
    """The official part of each image; indexed by dicom_id.

    Raises:
        ValueError: A part that is none of the three.
    """
    # `val` is how other data sets, and people who rewrite the file, call it
    parts = split["split"].str.lower().replace({"val": "validate", "valid": "validate"})
    parts = parts.replace("validation", "validate")
    bad = ~parts.isin(PARTS)
    if bad.any():
        raise ValueError(
            f"the table split: {bad.sum()} rows stand in none of the parts {', '.join(PARTS)}, "
            f"first row {int(bad.to_numpy().argmax()) + 1}. Write one of these words"
        )
    return parts.set_axis(split["dicom_id"])[~split["dicom_id"].duplicated().to_numpy()]


def select(metadata: pd.DataFrame, chexpert: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take the images of the four views whose study has labels.

    Left out is what contradicts itself: an image that stands in two studies, a study of two
    patients, a study with two rows of labels that differ.

    Returns:
        One row per image in the published order: by view AP, PA, LL, LATERAL, then as in the
        metadata; and how many images, studies and patients each rule left.
    """
    key = ["subject_id", "study_id"]
    images = metadata.drop_duplicates(["dicom_id", *key]).rename(columns={"ViewPosition": "view"})
    steps = [("all images", images.drop_duplicates("dicom_id"))]
    of_two = images["dicom_id"].duplicated(keep=False)
    of_two |= images.groupby("study_id")["subject_id"].transform("nunique") > 1
    images = images[~of_two]
    if of_two.any():
        _warn(f"{of_two.sum()} rows of the metadata give an image or a study to two")
        steps.append(("one study and one patient", images))
    images = images.assign(view=images["view"].str.upper())
    views = [*FRONTAL, *LATERAL]
    images = images[images["view"].isin(views)]
    steps.append((f"view {', '.join(views)}", images))
    given = chexpert.drop_duplicates([*key, *LABELS])
    images = images.merge(given.drop_duplicates(key), on=key)
    steps.append(("study with a row of labels", images))
    twice = given.loc[given.duplicated(key), "study_id"]
    if images["study_id"].isin(twice).any():
        _warn(f"{twice.nunique()} studies have rows of labels that contradict each other")
        images = images[~images["study_id"].isin(twice)]
        steps.append(("rows of labels that do not differ", images))
    images = images.sort_values("view", key=lambda view: view.map(views.index), kind="stable")
    return images.reset_index(drop=True), pd.DataFrame([counts(*step) for step in steps])


def _warn(what: str) -> None:
    warnings.warn(
        f"{what}; these are left out. Check that the tables are those of one release",
        UserWarning,
        stacklevel=4,
    )


def counts(rule: str, images: pd.DataFrame) -> dict[str, Any]:
    """What one rule left."""
    of = {"studies": "study_id", "patients": "subject_id"}
    return {"rule": rule, "images": len(images)} | {k: images[v].nunique() for k, v in of.items()}


def published_split(subjects: pd.Series) -> pd.Series:
    """Cut subjects 80/10/10 as published; indexed by subject.

    All subjects with any of the four views are cut, not only those with pairs. Fewer than six
    cannot be cut: nobody stands in a part then.
    """
    # DIFF: the public code cuts the subjects in the order of a Python set, which is an accident of
    # the interpreter; here they are sorted, so its parts and ours are not the same people.
    everybody = np.sort(subjects.unique())
    if len(everybody) < 6:
        return pd.Series(None, index=everybody, dtype=object)
    train, rest = train_test_split(everybody, train_size=0.8, random_state=0)
    test, validate = train_test_split(rest, test_size=0.5, random_state=0)
    parts = {"train": train, "validate": validate, "test": test}
    return pd.concat([pd.Series(name, index=part) for name, part in parts.items()])


def in_pairs(images: pd.DataFrame) -> pd.DataFrame:
    """Keep the images of studies that have a frontal and a lateral one."""
    frontal = images["view"].isin(FRONTAL)
    both = frontal.groupby(images["study_id"]).transform("nunique") == 2
    return images[both]


def pair(images: pd.DataFrame, pairs: Pairs | str) -> pd.DataFrame:
    """Every frontal with every lateral image of a study, or the first of these pairs.

    Args:
        images: dicom_id, subject_id, study_id, view and `row`, in the published order.
        pairs: "all" or "one".

    Returns:
        subject_id, study_id, frontal_view, frontal_row, lateral_view, lateral_row; by subject and
        study, frontals in the outer loop.
    """
    key, frontal = ["subject_id", "study_id"], images["view"].isin(FRONTAL)
    sides = [
        images.loc[there, [*key, "view", "row"]].rename(
            columns={"view": f"{side}_view", "row": f"{side}_row"}
        )
        for side, there in (("frontal", frontal), ("lateral", ~frontal))
    ]
    # within a study, all of its laterals follow each frontal, as the two tables have them
    table = sides[0].merge(sides[1], on=key).sort_values(key, kind="stable")
    return table.drop_duplicates("study_id") if pairs == "one" else table


def labels(images: pd.DataFrame, studies: pd.Series, uncertain: Uncertain | str) -> np.ndarray:
    """The 14 labels of studies: 1 present, 0 absent or not mentioned, NaN where ignored.

    Args:
        images: study_id and the labels as CheXpert gives them: 1, 0, -1 for uncertain, or blank.
        studies: ids, one per row that is asked for.
        uncertain: what becomes of -1.
    """
    per_study = images.drop_duplicates("study_id").set_index("study_id")[list(LABELS)]
    given = per_study.loc[studies].fillna(0).to_numpy(float)
    return np.where(given == -1, {"zeros": 0.0, "ones": 1.0, "ignore": np.nan}[uncertain], given)
