"""Chest X-rays of a phantom: frontal and lateral views of random anatomy, drawn in closed form."""

from typing import get_args

import numpy as np
import pandas as pd
import torch

from dfdlib.causal import SCM
from dfdlib.data.cohort import Cohort
from dfdlib.data.phantom.anatomy import Draws, Thorax
from dfdlib.data.phantom.findings import Disease
from dfdlib.data.phantom.model import (
    LABELS,
    NODE,
    SCANNERS,
    Missing,
    Options,
    Version,
    World,
    declare,
)
from dfdlib.data.phantom.picture import EXPOSURE, Scene, expose, pose

__all__ = ["LABELS", "SCANNERS", "TRUTH", "VIEWS", "load", "scm"]

VIEWS = ("frontal", "lateral")

#: What stands in the columns of `cohort.truth`; lengths are in cm, x to the patient's left, y to
#: the back, z up.
TRUTH = {
    "severity_<finding>": "0 where the finding is absent, else 0.2 to 1; devices have none",
    "burden": "the severities added up: what drives the mask under mnar",
    "heart": "scale of the heart, 1 on average in healthy people",
    "lesion_behind_heart": "whether there is a lesion, and behind the heart",
    "lesion_x, lesion_y, lesion_z, lesion_radius": "of the lesion, NaN without",
    "fluid_right, fluid_left": "height of the fluid above the dome of the diaphragm, NaN without; "
    "about -3.5 reaches the sulcus at the side, which the frontal view shows",
    "pneumothorax_side": "-1 right, 1 left, NaN without",
    "tracheal_tube, central_line, pacemaker, sternal_wires, leads": "which devices are there",
}

MAX_N = 10**9
MAX_SEED = 2**31 - 1
# Patients that are drawn together: frozen, since a chunk has its own streams of numbers.
CHUNK = 64


def load(
    *,
    n: int = 2_000,
    size: int = 64,
    missing: Missing | str = "none",
    shortcut: str | None = None,
    strength: float | int = 1.0,
    world: World | str = "train",
    version: Version | int = 1,
    seed: int = 0,
) -> Cohort:
    r"""Draw a cohort of chest X-rays, two views each.

    A thorax is about 130 ellipsoids and tubes with random anatomy. The line integral of attenuation
    through each is the length of a chord, in closed form; lungs are cut by heart, mediastinum and
    diaphragm, ribs out of discs, by exact operations on intervals. Then, by Beer and Lambert,

    .. math::
        I = e^{-\int \mu} + \text{scatter} + \text{noise}, \qquad
        \text{pixel} = \text{film}(-\log I)

    with automatic exposure, the sigmoid of a film, and a scanner's style.

    `y` has one column per name in `LABELS`, CheXpert's. Findings come together as in hospitals,
    because of heart failure, infection and intensive care, and have a severity from 0.2 to 1. Some
    show in one view: a lesion behind the heart in the lateral, where no heart is in the way; an
    effusion fills the sulcus at the back first, which the dome hides from the front.

    Args:
        n: Number of patients.
        size: Pixels of a side, 16 to 512.
        missing: About 60 % have both views, 30 % the frontal only, 10 % the lateral only: `mcar` at
            random; `mar` rather one where intensive care is given, which is a covariate; `mnar`
            rather one where the burden of disease is high, which nobody wrote down.
        shortcut: One of `LABELS`: patients with it are rather scanned by `soft`, those without by
            `crisp` (95 %). Without one, the scanner is a coin.
        strength: Scales the log-odds of scanner and mask, from 0 (neither depends on anything) to
            2.
        world: `train` and `id` are alike and hold different patients. `shifted`: the scanner
            follows the finding's absence. `randomised`: scanner and mask are coins.
        version: 1, which the book's results are computed on; or 2, in which the spinous processes
            and the sternum lie inside the body, and trachea, main bronchi, clavicles and
            mediastinum can be made out. Patients, findings and truth are the same in both.
        seed: A whole number. Other options keep the patients with their anatomy and noise, so that
            cohorts are paired (another size: with other noise in the picture); a larger n begins
            with the same patients.

    Groups are scanner and patient (a number that no other seed or world uses). Covariates are sex
    and intensive care (0 or 1).

    Truth:
        `TRUTH` says what the columns are; `cohort.truth.attrs` holds it, and the names of the
        labels.

    Shapes:
        frontal and lateral (n, 1, size, size), from 0 (black) to 1; y (n, 9).

    Raises:
        ValueError: An option that does not exist, or a number out of range.

    Example:
        >>> cohort = load(n=3, size=32)
        >>> cohort
        Cohort(3 rows: frontal (image), lateral (image); multilabel)
        >>> cohort.x["lateral"].shape
        torch.Size([3, 1, 32, 32])
        >>> dict(zip(LABELS, cohort.y[0].int().tolist()))["Cardiomegaly"]
        0
    """
    options = Options(
        size=size,
        missing=missing,
        shortcut=shortcut,
        strength=strength,
        world=world,
        version=version,
    )
    for name, value, low, high in (("n", n, 1, MAX_N), ("seed", seed, 0, MAX_SEED)):
        if not low <= value <= high:
            raise ValueError(f"{name}={value} is out of range. Pass {low} to {high}")
    number = len(get_args(World)) * seed + get_args(World).index(world)
    nodes = declare(options).sample(n, seed=number, full=True)
    images = {view: np.empty((n, 1, size, size), np.float32) for view in VIEWS}
    drawn = [
        draw(number, nodes.iloc[start : start + CHUNK], images, size, version)
        for start in range(0, n, CHUNK)
    ]
    known = nodes[[c for c in nodes if c.startswith("severity_") or c == "burden"]]
    truth = pd.concat([known, pd.concat(drawn, ignore_index=True)], axis=1)
    truth.attrs = {"columns": TRUTH.copy(), "labels": list(LABELS)}
    observed = None
    if missing != "none":
        observed = nodes[[f"R_{view}" for view in VIEWS]].to_numpy() == 1
    return Cohort(
        x=images,
        observed=observed,
        y=nodes[[NODE[label] for label in LABELS]].to_numpy(np.float32),
        covariates={
            "sex": np.where(nodes["female"] == 1, "female", "male"),
            "intensive_care": nodes["intensive_care"].to_numpy(int),
        },
        groups={
            "scanner": np.array(SCANNERS)[nodes["scanner"].to_numpy(int)],
            "patient": number * MAX_N + np.arange(n),
        },
        truth=truth,
    )


def scm(
    *,
    missing: Missing | str = "none",
    shortcut: str | None = None,
    strength: float | int = 1.0,
    world: World | str = "train",
) -> SCM:
    """Declare the causal model of findings, scanner and mask of `load` with the same options.

    Nodes: female; heart_failure, intensive_care and infection, the reasons why findings come
    together; one per finding, and its severity; burden, the severities added up; scanner, a
    position in `SCANNERS`; and where views are missing, complete, R_frontal and R_lateral. Pictures
    are a function of female, findings, severities, scanner, and noise.

    Raises:
        ValueError: As `load`.

    Example:
        >>> graph = scm(missing="mar", shortcut="Edema").graph
        >>> sorted(graph.predecessors("scanner")), sorted(graph.predecessors("complete"))
        (['edema'], ['intensive_care'])
    """
    return declare(Options(missing=missing, shortcut=shortcut, strength=strength, world=world))


def draw(
    number: int, nodes: pd.DataFrame, images: dict[str, np.ndarray], size: int, version: int = 1
) -> pd.DataFrame:
    """Draw the pictures of one chunk in their place; return what is true of it."""
    first = int(nodes.index[0])
    streams = [
        np.random.default_rng(np.random.SeedSequence(number, spawn_key=(first // CHUNK, k)))
        for k in range(1 + 2 * len(VIEWS))
    ]
    anatomy, *others = (Draws(stream, CHUNK, len(nodes)) for stream in streams[: 1 + len(VIEWS)])
    thorax = Thorax(anatomy, nodes["female"].to_numpy(float), version=version)
    disease = Disease(thorax, nodes)
    scanner = nodes["scanner"].to_numpy(int)
    with torch.no_grad():
        scene = Scene(thorax, disease)
        for view, name in enumerate(VIEWS):
            draws, noise = others[view], streams[1 + len(VIEWS) + view]
            integrals = scene.integrals(pose(draws, view, size))
            taken = expose(integrals, scanner, view, draws, noise, EXPOSURE[version])
            images[name][first : first + len(nodes), 0] = taken.numpy()
    return pd.DataFrame(disease.truth)
