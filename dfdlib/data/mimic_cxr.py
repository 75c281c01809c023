"""Pairs of frontal and lateral chest X-rays: MIMIC-CXR-JPG, converted once."""

import json
import logging
from io import BytesIO
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch

from dfdlib.data._cxr_convert import Conversion, table, write
from dfdlib.data._cxr_studies import (
    Pairs,
    Uncertain,
    counts,
    in_pairs,
    labels,
    official_split,
    pair,
    published_split,
    read_tables,
    select,
)
from dfdlib.data._images import Images
from dfdlib.data._ingest_sources import SOURCES
from dfdlib.data._tables import LABELS
from dfdlib.data._validate import unknown
from dfdlib.data.cohort import Cohort

__all__ = ["LABELS", "convert", "flow", "load"]

Split = Literal["published", "official"]

UNREADABLE = "unreadable.csv"

_log = logging.getLogger(__name__)


def convert(
    root: str | Path,
    out: str | Path | None = None,
    *,
    size: int = 224,
    workers: int = 1,
    progress: bool | None = None,
) -> Path:
    """Turn the JPEG files into one array on disk, once, so that training never waits for JPEG.

    Only images that stand in a pair are converted (`load`): grey, the square in the middle, bicubic
    resizing, equalised histogram. Call again after an interruption, and what is done is not done
    again; several processes, on several machines too, may work on one folder at the same time. A
    file that cannot be read is dropped, counted in the log, and listed in `unreadable.csv`.

    Call again when files have arrived or were repaired, and when a table has changed: the tables
    are read anew, and only images that are new, other than before, or could not be read.

    Args:
        root: The folder with the tables (`mimic-cxr-2.0.0-metadata.csv.gz` and so on) and `files/`.
        out: The folder to write to, by default `dfdlib-<size>` below root. It then holds all that
            `load` needs: `images.npy`, (images, 1, size, size) of uint8, and `images.parquet`.
        size: Height and width.
        workers: Threads.
        progress: Whether to show a progress bar; by default where there is a terminal.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: A table or the folder of images is not there.
        ValueError: A column is not there, a file is damaged, a size below 1, or `out` holds
            another conversion.
        OSError: Not enough room.
    """
    if size < 1 or workers < 1:
        raise ValueError(f"size={size}, workers={workers}. Pass 1 or more of each: size=224")
    metadata, chexpert, official, folder = read_tables(Path(root))
    images, steps = select(metadata, chexpert)
    images["published"] = images["subject_id"].map(published_split(images["subject_id"]))
    images["official"] = None
    if official is not None:
        images["official"] = images["dicom_id"].map(official_split(official))
    images = in_pairs(images)
    if images.empty:
        raise ValueError(
            "no study of the tables has a frontal and a lateral image and a row of labels. Check "
            "that the tables are whole"
        )
    steps = pd.concat([steps, pd.DataFrame([counts("study with both views", images)])])
    images["file"] = _files(folder, images)
    target = Path(out) if out is not None else Path(root) / f"dfdlib-{size}"
    conversion = Conversion(images, target, size)
    if not conversion.whole:
        try:
            if not conversion.done:
                bad = conversion.run(workers, progress=progress)
                _tell(conversion, images, bad, folder)
                gone = set(images["dicom_id"].iloc[list(bad)])
                conversion.prepare(_index(conversion, images, gone))
            conversion.finish()
        except FileNotFoundError:
            if not conversion.done:  # else another process has finished meanwhile
                raise
            conversion.clean()
    _refresh(conversion, images, steps)
    return target


def load(
    root: str | Path | None = None,
    *,
    pairs: Pairs | str = "all",
    uncertain: Uncertain | str = "zeros",
    split: Split | str = "published",
    size: int = 224,
) -> Cohort:
    """Make a cohort of pairs: a frontal (AP, PA) and a lateral (LL, LATERAL) image of one study.

    Source: the protocol of Sutter et al. 2024 (arXiv 2403.05300) and arXiv 2411.10356, read in
    their public code. Studies count that have both views and a row of CheXpert labels; with
    "all" pairs, 128,212 in MIMIC-CXR-JPG 2.x.

    y are the 14 labels of the study in the order of `LABELS`, found by a program in the report: 1
    where it is said to be present, else 0, also where nothing is said. "No Finding" and "Support
    Devices" are among the 14.

    Modalities:
        - frontal, lateral (image): (1, size, size), 8 bits; shares of 255 in batches. Pixels stay
          on disk, so the cohort takes no more memory than its labels.

    Groups are patient, study, split ("train", "validate", "test"), frontal_view and lateral_view.
    Take the parts by name: `cohort.select(cohort.groups["split"] == "train")`. A study with three
    images stands in two pairs and counts twice; no patient stands in two parts.

    Access:
        https://physionet.org/content/mimic-cxr-jpg/2.1.0/

    Licence:
        PhysioNet Credentialed Health Data License 1.5.0.

    Citation:
        Johnson, A., Pollard, T., Greenbaum, N. et al. (2019). MIMIC-CXR-JPG, a large publicly
        available database of labeled chest radiographs. arXiv:1901.07042.

    Args:
        root: The folder that `convert` wrote, or the one that it wrote into.
        pairs: "all", every frontal with every lateral image of a study, as published; or "one" per
            study, the first of these (AP before PA, LL before LATERAL).
        uncertain: What "may be present" becomes: "zeros" as published, "ones", or "ignore": a
            missing label.
        split: "published", subjects 80/10/10 at random, or "official", that of the data set.
        size: Of the images, where root holds several conversions.

    Raises:
        FileNotFoundError: The images are not converted yet.
        ValueError: No root, an unknown option, or no official split.

    Example:
        >>> load()
        Traceback (most recent call last):
        ValueError: 'mimic_cxr' needs root=, the folder that holds ... https://physionet.org/...
    """
    for option, known, what in (
        (pairs, Pairs, "way to pair"), (uncertain, Uncertain, "way to read uncertain labels"),
        (split, Split, "split"),
    ):  # fmt: skip
        if option not in get_args(known):
            raise unknown(option, get_args(known), what)
    folder = _converted(root, size)
    index = pd.read_parquet(folder / "images.parquet")
    without = int(index[split].isna().sum())
    if without and split == "published":
        raise ValueError(
            "fewer than 6 patients cannot be cut into the three parts of the published split. "
            "Pass split='official', and cut the cohort yourself: cohort.split((.7, .1, .2))"
        )
    if without:
        raise ValueError(
            f"{without} of {len(index)} images have no official split. Put "
            "mimic-cxr-2.0.0-split.csv.gz beside the tables and convert again, which reads no "
            "image twice, or pass split='published'"
        )
    parts = index.groupby("subject_id")[split].nunique()
    if parts.max() > 1:
        raise ValueError(
            f"{(parts > 1).sum()} patients stand in two parts of the {split} split. Check the file "
            "mimic-cxr-2.0.0-split.csv.gz, or pass split='published'"
        )
    table = pair(index, pairs)
    pixels = np.load(folder / "images.npy", mmap_mode="r")
    part_of = index.drop_duplicates("subject_id").set_index("subject_id")[split]
    rows = {side: torch.tensor(table[f"{side}_row"].tolist()) for side in ("frontal", "lateral")}
    return Cohort(
        x={side: Images(pixels, of_side) for side, of_side in rows.items()},
        y=labels(index, table["study_id"], uncertain),
        task="multilabel",
        groups={
            "patient": table["subject_id"].to_numpy(),
            "study": table["study_id"].to_numpy(),
            "split": part_of.loc[table["subject_id"]].to_numpy(),
            "frontal_view": table["frontal_view"].to_numpy(),
            "lateral_view": table["lateral_view"].to_numpy(),
        },
    )


def flow(root: str | Path | None = None, *, size: int = 224) -> pd.DataFrame:
    """Count what each rule leaves out, from all images to pairs.

    Returns:
        One row per rule in order: rule, excluded, and of those left images, studies, patients;
        then the pairs. Counts are exact; see `dfdlib.data._flow.suppress` before they leave.
    """
    folder = _converted(root, size)
    steps = json.loads((folder / "flow.json").read_text(encoding="utf-8"))
    index = pd.read_parquet(folder / "images.parquet")
    table = pd.DataFrame([*steps, counts("file that can be read", in_pairs(index))])
    table.insert(1, "excluded", -table["images"].diff().fillna(0).astype(int))
    return table


def _files(folder: Path, images: pd.DataFrame) -> list[Path]:
    """The file of each image, as PhysioNet lays them out."""
    root = folder / "files"
    if not root.is_dir():
        raise FileNotFoundError(
            "no folder 'files' with the images, beside the tables. Access to "
            f"{SOURCES['mimic_cxr'].title} is asked for at {SOURCES['mimic_cxr'].page}"
        )
    ids = images[["subject_id", "study_id", "dicom_id"]].itertuples(index=False)
    return [
        root / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{study}" / f"{image}.jpg"
        for subject, study, image in ids
    ]


def _tell(conversion: Conversion, images: pd.DataFrame, bad: dict[int, str], folder: Path) -> None:
    """List what could not be read, beside the pixels; the log has counts only.

    Raises:
        FileNotFoundError: Nothing can be read.
    """
    reasons = pd.Series(bad.values(), dtype=object).value_counts(sort=False)
    told = ", ".join(f"{n} {why}" for why, n in reasons.items())
    if len(bad) == len(images):
        conversion.discard()
        raise FileNotFoundError(
            f"none of the {len(images)} images can be read: {told}. They are looked for as "
            "files/p10/p<subject_id>/s<study_id>/<dicom_id>.jpg beside the tables. Check root=, "
            "and that files/ is whole"
        )
    rows = [
        (images["dicom_id"].iloc[i], conversion.files[i].relative_to(folder).as_posix(), why)
        for i, why in bad.items()
    ]
    write(conversion.out / UNREADABLE, table(("dicom_id", "file", "why"), rows))
    if bad:
        _log.warning(
            "%d of %d images cannot be read and are left out: %s. They are listed in %s; call "
            "again when the files have been mended",
            len(bad), len(images), told, UNREADABLE,
        )  # fmt: skip


def _index(conversion: Conversion, images: pd.DataFrame, bad: set[str]) -> bytes:
    """What `load` reads beside the pixels; what could not be read does not stand in it."""
    images = images.drop(columns="file").assign(row=np.arange(len(images)))
    images = images.join(conversion.states)
    buffer = BytesIO()
    images[~images["dicom_id"].isin(bad)].to_parquet(buffer, index=False)
    return buffer.getvalue()


def _refresh(conversion: Conversion, images: pd.DataFrame, steps: pd.DataFrame) -> None:
    """Take over what has changed in the tables since the pixels were converted."""
    bad = set(pd.read_csv(conversion.out / UNREADABLE, dtype=str)["dicom_id"])
    index = _index(conversion, images, bad)
    if conversion.index.read_bytes() != index:
        write(conversion.index, index)
    write(conversion.out / "flow.json", json.dumps(steps.to_dict("records")).encode())


def _converted(root: str | Path | None, size: int) -> Path:
    if root is None:
        source = SOURCES["mimic_cxr"]
        raise ValueError(
            f"'mimic_cxr' needs root=, the folder that holds {source.title}. It is not packaged: "
            f"access is asked for at {source.page}"
        )
    for folder in (Path(root), Path(root) / f"dfdlib-{size}"):
        if (folder / "images.npy").exists():
            card = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))
            if card.get("whole", True):  # cards of the first version do not say
                return folder
            raise FileNotFoundError(
                "a conversion was stopped while it put its files in place. Call it again: "
                f"dfdlib data convert mimic-cxr --root FOLDER --size {card['size']}"
            )
    raise FileNotFoundError(
        f"{Path(root).name} holds no converted images of {size} px. Convert them once: "
        f"dfdlib data convert mimic-cxr --root FOLDER --size {size}"
    )
