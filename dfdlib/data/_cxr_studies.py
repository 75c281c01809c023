"""MIMIC-CXR-JPG's tables: which images count, which belong together, who is in which part."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from dfdlib.data._ingest_files import Raw, find
from dfdlib.data._ingest_sources import SOURCES
from dfdlib.data._tables import LABELS, TABLES

Pairs = Literal["all", "one"]
Uncertain = Literal["zeros", "ones", "ignore"]

FRONTAL, LATERAL = ("AP", "PA"), ("LL", "LATERAL")
_TEXT = {"dicom_id": str, "ViewPosition": str, "split": str}


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
    names = {place: name for name, place, _ in raw.columns}
    table = pd.read_csv(
        raw.path, sep=raw.delimiter, usecols=list(names), header=0, names=range(raw.width),
        dtype={place: _TEXT[name] for place, name in names.items() if name in _TEXT},
    )  # fmt: skip
    return table.rename(columns=names)


def select(metadata: pd.DataFrame, chexpert: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take the images of the four views whose study has labels.

    Returns:
        One row per image in the published order: by view AP, PA, LL, LATERAL, then as in the
        metadata; and how many images, studies and patients each rule left.
    """
    images = metadata.drop_duplicates("dicom_id").rename(columns={"ViewPosition": "view"})
    steps = [("all images", images)]
    views = [*FRONTAL, *LATERAL]
    images = images[images["view"].isin(views)]
    steps.append((f"view {', '.join(views)}", images))
    key = ["subject_id", "study_id"]
    images = images.merge(chexpert.drop_duplicates(key), on=key)
    steps.append(("study with a row of labels", images))
    images = images.sort_values("view", key=lambda view: view.map(views.index), kind="stable")
    return images.reset_index(drop=True), pd.DataFrame([counts(*step) for step in steps])


def counts(rule: str, images: pd.DataFrame) -> dict[str, Any]:
    """What one rule left."""
    of = {"studies": "study_id", "patients": "subject_id"}
    return {"rule": rule, "images": len(images)} | {k: images[v].nunique() for k, v in of.items()}


def published_split(subjects: pd.Series) -> pd.Series:
    """Cut subjects 80/10/10 as published; indexed by subject.

    All subjects with any of the four views are cut, not only those with pairs.
    """
    # DIFF: the public code cuts the subjects in the order of a Python set, which is an accident of
    # the interpreter; here they are sorted, so its parts and ours are not the same people.
    everybody = np.sort(subjects.unique())
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
