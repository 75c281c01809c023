"""Pairs of frontal and lateral chest X-rays: MIMIC-CXR-JPG, converted once.

`convert` turns the JPEG files into one array, `load` makes a cohort of it, `flow` counts what is
left out, `duplicates` what is there twice. Below them: how the tables are read, and which images
form pairs.
"""

import hashlib
import json
import logging
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import train_test_split

from dfdlib.data.arrays import Images
from dfdlib.data.clinical.files import Raw, damaged, find
from dfdlib.data.clinical.pictures import Conversion, table
from dfdlib.data.clinical.schemas import LABELS, SOURCES, TABLES
from dfdlib.data.cohort import Cohort
from dfdlib.errors import require, unknown
from dfdlib.files import write_whole

__all__ = ["LABELS", "convert", "duplicates", "flow", "load"]

Pairs = Literal["all", "one"]
Uncertain = Literal["zeros", "ones", "ignore"]

Split = Literal["published", "official"]

FRONTAL, LATERAL = ("AP", "PA"), ("LL", "LATERAL")
PARTS = ("train", "validate", "test")

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
        ImportError: Without the packages of `dfdlib[clinical]`.
        FileNotFoundError: A table or the folder of images is not there.
        ValueError: A column is not there, a file is damaged, a size below 1, or `out` holds
            another conversion.
        OSError: Not enough room.
    """
    require("converting images", "PIL", "pyarrow")
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
        then the pairs. Counts are exact; see `dfdlib.data.clinical.flow.suppress` before they
        leave.
    """
    folder = _converted(root, size)
    steps = json.loads((folder / "flow.json").read_text(encoding="utf-8"))
    index = pd.read_parquet(folder / "images.parquet")
    table = pd.DataFrame([*steps, counts("file that can be read", in_pairs(index))])
    table.insert(1, "excluded", -table["images"].diff().fillna(0).astype(int))
    return table


def duplicates(root: str | Path | None = None, *, size: int = 224) -> pd.DataFrame:
    """Count images whose pixels are those of another one, after conversion.

    One picture under two patients may stand in two parts of a split, and one patient may be in the
    data under two numbers. Nothing is left out for it: this says how much there is.

    Returns:
        One row each for pixels that only one patient has more than once, and for pixels that
        several patients have: `same_pixels`, `pictures` (different ones), and the `images` and
        `patients` that share them. Counts are exact; see `dfdlib.data.clinical.flow.suppress`
        before they leave.

    Raises:
        FileNotFoundError: The images are not converted yet.
        ValueError: No root.
    """
    folder = _converted(root, size)
    index = pd.read_parquet(folder / "images.parquet", columns=["subject_id", "row"])
    pixels = np.load(folder / "images.npy", mmap_mode="r")
    digests = [hashlib.sha256(pixels[row].tobytes()).hexdigest() for row in index["row"]]
    by_picture = index.assign(picture=digests).groupby("picture")["subject_id"]
    index = index.assign(
        picture=digests, times=by_picture.transform("size"), owners=by_picture.transform("nunique")
    )
    several = index["owners"] > 1
    kinds = {"of one patient": (index["times"] > 1) & ~several, "of several patients": several}
    lines = [
        {
            "same_pixels": kind,
            "pictures": index.loc[rows, "picture"].nunique(),
            "images": int(rows.sum()),
            "patients": index.loc[rows, "subject_id"].nunique(),
        }
        for kind, rows in kinds.items()
    ]
    return pd.DataFrame(lines)


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
    summary = ", ".join(f"{n} {why}" for why, n in reasons.items())
    if len(bad) == len(images):
        conversion.discard()
        raise FileNotFoundError(
            f"none of the {len(images)} images can be read: {summary}. They are looked for as "
            "files/p10/p<subject_id>/s<study_id>/<dicom_id>.jpg beside the tables. Check root=, "
            "and that files/ is whole"
        )
    rows = [
        (images["dicom_id"].iloc[i], conversion.files[i].relative_to(folder).as_posix(), why)
        for i, why in bad.items()
    ]
    write_whole(conversion.out / UNREADABLE, table(("dicom_id", "file", "why"), rows))
    if bad:
        _log.warning(
            "%d of %d images cannot be read and are left out: %s. They are listed in %s; call "
            "again when the files have been mended",
            len(bad), len(images), summary, UNREADABLE,
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
        write_whole(conversion.index, index)
    write_whole(conversion.out / "flow.json", json.dumps(steps.to_dict("records")).encode())


def _converted(root: str | Path | None, size: int) -> Path:
    require("reading parquet files", "pyarrow")
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


# ---------------- the tables


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
    files = find(root, wanted, source)
    try:
        split = _read(find(root, {"split": tables["split"]}, source)["split"])
    except FileNotFoundError:
        split = None
    metadata, chexpert = _read(files["metadata"]), _read(files["chexpert"])
    return metadata, chexpert, split, files["metadata"].path.parent


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
        filled = table[name] != ""
        _refuse(raw, name, filled & ~values.isin([-1, 0, 1]), "1, 0, -1 or blank")
        table[name] = values
    return table


def _refuse(raw: Raw, column: str, bad: pd.Series, wanted: str) -> None:
    if bad.any():
        raise ValueError(
            f"{raw.path.name}: {column} is not {wanted} in {bad.sum()} rows, first in row "
            f"{int(bad.to_numpy().argmax()) + 1}. Get the file again: {SOURCES['mimic_cxr'].page}"
        )


# ---------------- which images, in which parts, with which labels


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
    labelled = chexpert.drop_duplicates([*key, *LABELS])
    images = images.merge(labelled.drop_duplicates(key), on=key)
    steps.append(("study with a row of labels", images))
    twice = labelled.loc[labelled.duplicated(key), "study_id"]
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
    values = per_study.loc[studies].fillna(0).to_numpy(float)
    return np.where(values == -1, {"zeros": 0.0, "ones": 1.0, "ignore": np.nan}[uncertain], values)
