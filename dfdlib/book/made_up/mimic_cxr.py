"""Made-up chest radiographs in the layout of MIMIC-CXR-JPG: tables, and small JPEG files."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from dfdlib.book.made_up.draw import Columns, blocks, pick, words
from dfdlib.data.clinical.schemas import LABELS

# views of a study, and how often
STUDIES = (
    (("PA", "LATERAL"), 0.45),
    (("AP",), 0.22),
    (("PA", "LATERAL", "LATERAL"), 0.07),
    (("AP", "PA", "LL"), 0.05),
    (("AP", "AP"), 0.05),
    (("PA", "LL"), 0.08),
    (("LATERAL",), 0.03),
    (("PA", "SWIMMERS"), 0.02),
    (("AP", ""), 0.03),
)
# how often each of the labels is there; no finding where nothing else is but devices
SHARES = (0.2, 0.2, 0.05, 0.12, 0.04, 0.02, 0.03, 0.22, 0, 0.22, 0.01, 0.08, 0.04, 0.25)
SPLITS = ("train", "validate", "test")


@dataclass(frozen=True)
class Views:
    """Images of a block of patients.

    Args:
        subject: `subject_id` per image.
        study: `study_id` per image.
        view: "PA", "AP", "LATERAL", "LL", or something else.
        split: position in `SPLITS`, per image.
        ids: `dicom_id` per image.
        first: which images are the first of their study.
        truth: (studies, 14): whether a finding is there, in the order of `LABELS`.
        of: position of the study, per image.
    """

    subject: np.ndarray
    study: np.ndarray
    view: np.ndarray
    split: np.ndarray
    ids: list[str]
    first: np.ndarray
    truth: np.ndarray
    of: np.ndarray


def draw_views(first: int, size: int, rng: np.random.Generator) -> Views:
    """Draw the studies of `size` patients: of one to three views, one to five per patient."""
    studies = np.minimum(1 + rng.poisson(0.8, size), 5)
    who = np.repeat(np.arange(size), studies)
    kinds, p = zip(*STUDIES, strict=True)
    kind = rng.choice(len(kinds), len(who), p=p)
    views = np.array([len(k) for k in kinds])[kind]
    of = np.repeat(np.arange(len(who)), views)
    truth = rng.random((len(who), len(LABELS))) < SHARES
    devices, nothing = LABELS.index("Support Devices"), LABELS.index("No Finding")
    truth[:, nothing] = ~np.delete(truth, devices, axis=1).any(axis=1)
    split = rng.choice(3, size, p=(0.8, 0.1, 0.1))
    code = rng.integers(2**32, size=(len(of), 5))
    return Views(
        subject=10_000_032 + first + who[of],
        study=50_000_000 + 8 * first + of,
        view=np.array([view for k in kind for view in kinds[k]], object),
        split=split[who[of]],
        ids=["-".join(f"{part:08x}" for part in row) for row in code],
        first=np.diff(of, prepend=-1) > 0,
        truth=truth,
        of=of,
    )


def metadata(views: Views, rng: np.random.Generator) -> Columns:
    """Draw the table of images; some have no view."""
    k = len(views.ids)
    front = np.isin(views.view, ["PA", "AP"])
    seconds = rng.integers(0, 86_400, k)
    return {
        "dicom_id": views.ids,
        "subject_id": views.subject,
        "study_id": views.study,
        "PerformedProcedureStepDescription": pick(
            rng, {"CHEST (PA AND LAT)": 1, "CHEST (PORTABLE AP)": 1}, k, missing=0.1
        ),
        "ViewPosition": pa.array(views.view, mask=views.view == ""),
        "Rows": np.where(front, 2544, 3056),
        "Columns": np.where(front, 3056, 2544),
        "StudyDate": 21_800_000 + 101 + views.of % 1000 * 10_000,
        "StudyTime": [
            f"{s // 3600:02d}{s // 60 % 60:02d}{s % 60:02d}.{s % 997:03d}" for s in seconds
        ],
        "ProcedureCodeSequence_CodeMeaning": pick(rng, {"CHEST (PA AND LAT)": 1}, k),
        "ViewCodeSequence_CodeMeaning": words(
            np.where(front, 0, 1), ("postero-anterior", "lateral")
        ),
        "PatientOrientationCodeSequence_CodeMeaning": pick(rng, {"Erect": 1}, k, missing=0.2),
    }


def chexpert(views: Views, rng: np.random.Generator) -> Columns:
    """Draw the table of labels: 1, 0, -1 for uncertain, or not mentioned; 3 % have no row."""
    study, subject = views.study[views.first], views.subject[views.first]
    labelled = rng.random(len(study)) > 0.03
    said = np.where(views.truth, 1.0, 0.0)
    said[rng.random(said.shape) < 0.05] = -1.0
    silent = ~views.truth & (said == 0) & (rng.random(said.shape) < 0.85)
    nothing = LABELS.index("No Finding")  # is 1 or not mentioned
    said[:, nothing] = 1.0
    silent[:, nothing] = ~views.truth[:, nothing]
    return {
        "subject_id": subject[labelled],
        "study_id": study[labelled],
        **{
            label: pa.array(said[labelled, j], mask=silent[labelled, j])
            for j, label in enumerate(LABELS)
        },
    }


def split(views: Views, rng: np.random.Generator) -> Columns:  # noqa: ARG001 - nothing is drawn
    """Draw the table of the official split."""
    return {
        "dicom_id": views.ids,
        "study_id": views.study,
        "subject_id": views.subject,
        "split": words(views.split, SPLITS),
    }


def write_images(root: Path, n: int, seed: int, pixels: int) -> None:
    """Draw the images into files/p10/p10000032/s50000000/; one in 200 cannot be read."""
    for (first, size, rng), (*_, stream) in zip(blocks(n, seed), blocks(n, seed, 9), strict=True):
        views = draw_views(first, size, rng)
        for i, name in enumerate(views.ids):
            subject, study = str(views.subject[i]), views.study[i]
            folder = root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}"
            folder.mkdir(parents=True, exist_ok=True)
            drawn = draw_image(views.truth[views.of[i]], views.view[i], pixels, stream)
            file = BytesIO()
            Image.fromarray(drawn).save(file, "JPEG", quality=90)
            data = file.getvalue()
            (folder / f"{name}.jpg").write_bytes(data[:90] if stream.random() < 0.005 else data)


def draw_image(truth: np.ndarray, view: str, pixels: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one radiograph, wider than high from the front: a heart, lungs, and what is wrong."""
    there = dict(zip(LABELS, truth, strict=True))
    front = view in ("PA", "AP")
    high, wide = (pixels, pixels * 6 // 5) if front else (pixels * 6 // 5, pixels)
    y, x = np.meshgrid(np.linspace(-1, 1, high), np.linspace(-1.2, 1.2, wide), indexing="ij")
    y, x = y + rng.normal(0, 0.03), x + rng.normal(0, 0.03)
    image = 0.75 * (x**2 / 1.2 + y**2 < 1)
    for side in (-0.55, 0.55) if front else (0.1,):
        image -= 0.5 * np.exp(-((((x - side) / 0.35) ** 2 + (y / 0.65) ** 2) ** 2))
    heart = 0.42 if there["Cardiomegaly"] else 0.28
    image += 0.35 * np.exp(-((((x - 0.12) / heart) ** 2 + ((y - 0.25) / heart) ** 2) ** 2))
    if there["Pleural Effusion"]:
        image += 0.5 / (1 + np.exp(-(y - 0.45) * 20))
    if there["Lung Opacity"] or there["Pneumonia"] or there["Consolidation"]:
        where = rng.choice([-0.55, 0.55]) if front else 0.1
        image += 0.35 * np.exp(-(((x - where) / 0.2) ** 2 + ((y + 0.1) / 0.2) ** 2))
    if there["Edema"]:
        image += 0.12 * np.exp(-((y / 0.6) ** 2)) * (1 + np.sin(25 * x * y))
    if there["Support Devices"]:
        image += 0.6 * (np.abs(x + 0.15 * y) < 0.02)
    image += 0.04 * rng.standard_normal(image.shape)
    return (255 * image.clip(0, 1)).astype(np.uint8)
