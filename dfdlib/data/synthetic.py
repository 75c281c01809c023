"""Cohorts with known truth: drawn from a declared structural causal model."""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pandas as pd

from dfdlib.causal import SCM
from dfdlib.data.cohort import Cohort
from dfdlib.data.synthetic_model import (
    HIDEABLE,
    MODALITIES,
    SITES,
    Bias,
    Missing,
    Options,
    Structure,
    Where,
    World,
    answer,
    declare,
)

ESTIMAND = "P(Y = 1 | do(observed causal features)), in the population of the training hospitals"

#: What stands in the columns of `cohort.truth`.
TRUTH = {
    "p_do": ESTIMAND + ": the confounder and the causal features that the mask hides are averaged "
    "out, spurious features and mask say nothing",
    "p_obs": "P(Y = 1 | all observed features and the mask), as patients come in training: the "
    "best that a model can do which is trained there without the site and judged there",
    "y": "the true outcome; cohort.y is this, or what label noise made of it",
    "confounder": "C, -1 or 1",
    "bias": "B, the spurious attribute, -1 or 1",
    "severity": "Z, what the causal parts of all modalities add up to, seen or not",
}

#: Frozen, since claims are decided on these: tests/data/test_synthetic.py pins them, the constants
#: of the model, and what the oracles and a plain classifier score.
PRESETS: dict[str, dict[str, Any]] = {
    "confounded-linear": {"structure": "confounded", "bias": "linear"},
    "confounded-xor": {"structure": "confounded", "bias": "xor"},
    "confounded-parity": {"structure": "confounded", "bias": "parity"},
    "anticausal": {"structure": "anticausal", "bias": "linear"},
    "own-modalities": {"structure": "confounded", "bias": "linear", "where": "own"},
    "causal-shift": {"structure": "confounded", "bias": "linear", "causal_shift": True},
    "mcar": {"bias": "none", "missing": "mcar"},
    "mar": {"bias": "none", "missing": "mar"},
    "severity": {"bias": "none", "missing": "severity"},
    "mnar-latent": {"bias": "none", "missing": "mnar_latent"},
    "mnar-self": {"bias": "none", "missing": "mnar_self"},
}

# A block is three features; how many of them carry the spurious attribute in their signs.
BLOCK = 3
CARRIERS = {"none": 1, "linear": 1, "xor": 2, "parity": 3}
MAX_N = 10**9
MAX_SEED = 2**31 - 1


def load(
    *,
    n: int = 10_000,
    structure: Structure | str = "confounded",
    bias: Bias | str = "linear",
    where: Where | str = "mixed",
    missing: Missing | str = "none",
    strength: float | int = 1.0,
    causal_shift: bool = False,
    label_noise: float | int = 0.0,
    world: World | str = "train",
    seed: int = 0,
) -> Cohort:
    r"""Draw a cohort from the model that `scm` declares.

    .. math::
        P(Y = 1) = \sigma(2.4\, Z + 2.1\, C), \qquad
        Z = \textstyle\sum_m A_m / \sqrt{\#\{m\}}, \quad A_m \sim N(0, 1), \quad C = \pm 1

    A modality has a causal block of three features, standard normal, whose sum over :math:`\sqrt 3`
    is :math:`A_m`; and a spurious block of three whose signs hide :math:`S_m`. That is the
    spurious attribute B = ±1, which each modality shows wrong for one patient in ten. B follows C,
    or Y, as closely as the hospital makes it.

    The prefix of the features tells the blocks apart, `cause_1` and `spurious_1`: for you and for
    tests, since no model reads names.

    Args:
        n: Number of patients.
        structure: `confounded`: the latent C drives label and spurious attribute. `anticausal`: the
            label drives the spurious attribute.
        bias: Where a spurious block holds S: in the sign of one feature (`linear`), the product of
            two signs (`xor`), or of three (`parity`). The information is the same to the last bit,
            and so is what an ideal observer predicts. `none` cuts B from its cause and keeps the
            features, so that missingness can be studied alone.
        where: `mixed`: each modality has both blocks. `own`: vitals and labs are causal, ecg and
            notes spurious.
        missing: Vitals are always there. Each other modality is there for 70 % of the patients, in
            each hospital (nearly so under causal_shift): `mcar` at random; `mar` rather where the
            causal part of the vitals is high; `severity` rather where Z is high, whether or not the
            features that make it so are then seen; `mnar_latent` rather where C is high in the
            training hospitals, and low in the shifted one; `mnar_self` rather where the modality's
            own causal part is low (at random where it has none). All but `mnar_latent` are the
            same in every hospital.
        strength: Scales the log-odds of B and of the mask, from 0 (neither depends on anything) to
            2.
        causal_shift: Hospitals also differ in severity: Z has mean −0.3 in north, 0.3 in south, 0.6
            in west.
        label_noise: Probability that a label is recorded wrong, in every world. `truth["y"]` is
            right, and `p_do` and `p_obs` speak of it.
        world: `train` and `id`: north and south, which differ in how closely B follows its cause
            (95 % and 82 %; anticausal 88 % and 73 %) and in how strongly C pushes the mask.
            `shifted`: west, where both turn around. `randomised`: north and south, but B and the
            mask are coins.
        seed: A whole number. Worlds of one seed hold different patients. Other options keep the
            patients and their noise, so that cohorts are paired; a larger n begins with the same
            patients.

    Groups are site and patient (a number that no other seed or world uses). Where severity orders
    the tests it was known to those who did, and is a covariate: to weight or to stratify by, no
    input of a model. Given it, values are missing at random.

    Truth:
        `TRUTH` says what the columns are. The estimand is `p_do`. `p_obs` is the ceiling in
        distribution and what a naive model is drawn to; without features or mask that follow C or
        Y, both are one. Where severity or a modality's own value drives the mask, `p_obs` is above
        `p_do` in every hospital, rightly: the mask then speaks of causes, until somebody orders
        tests by another rule. With causal_shift and missing values, p_do is no conditional
        probability of any world: the hospital confounds seen and hidden causal parts.

    Shapes:
        Modalities are vectors: (n, 6) where mixed, (n, 3) of their own; observed (n, 4).

    Raises:
        ValueError: An option that does not exist, or a number out of range.

    Example:
        >>> cohort = load(n=2000, missing="mnar_latent")
        >>> cohort
        Cohort(2000 rows: vitals (vector), labs (vector), ecg (vector), notes (vector); binary)
        >>> cohort.truth.columns.tolist()
        ['p_do', 'p_obs', 'y', 'confounder', 'bias', 'severity']
        >>> cohort.truth.attrs["estimand"]
        'P(Y = 1 | do(observed causal features)), in the population of the training hospitals'
    """
    options = Options(
        structure=structure,
        bias=bias,
        where=where,
        missing=missing,
        strength=strength,
        causal_shift=causal_shift,
        label_noise=label_noise,
        world=world,
    )
    for name, value, low, high in (("n", n, 1, MAX_N), ("seed", seed, 0, MAX_SEED)):
        if not low <= value <= high:
            raise ValueError(f"{name}={value} is out of range. Pass {low} to {high}")
    world_seed = _world_seed(world, seed)
    nodes = declare(options).sample(n, seed=world_seed, full=True)
    x = _features(nodes, options, world_seed)
    observed = np.ones((n, len(MODALITIES)), dtype=bool)
    if missing != "none":
        observed[:, 1:] = nodes[[f"R_{m}" for m in HIDEABLE]] == 1
    p_do, p_obs = answer(options, *_read_blocks(x, options), observed)
    truth = pd.DataFrame(
        {
            "p_do": p_do,
            "p_obs": p_obs,
            "y": nodes["Y"],
            "confounder": nodes["C"],
            "bias": nodes["B"],
            "severity": nodes["Z"],
        }
    )
    truth.attrs = {"estimand": ESTIMAND, "columns": TRUTH.copy()}
    first = (len(get_args(World)) * seed + get_args(World).index(world)) * MAX_N
    return Cohort(
        x=x,
        observed=observed,
        y=nodes["L" if label_noise else "Y"],
        covariates=truth[["severity"]] if missing == "severity" else None,
        groups={
            "site": np.array(SITES)[nodes["E"]],
            "patient": first + np.arange(n),
        },
        truth=truth,
    )


def scm(
    *,
    structure: Structure | str = "confounded",
    bias: Bias | str = "linear",
    where: Where | str = "mixed",
    missing: Missing | str = "none",
    strength: float | int = 1.0,
    causal_shift: bool = False,
    label_noise: float | int = 0.0,
    world: World | str = "train",
) -> SCM:
    """Declare the causal model of `load` with the same options.

    Nodes: E the hospital (a position in `SITES`), C the latent confounder, A_<modality> what a
    modality says of causes, Z the severity they add up to, Y the outcome, B the spurious attribute,
    S_<modality> what a modality shows of B, R_<modality> whether it is there (in the graph the
    indicator of A_<modality>), and L the recorded label where there is label noise. The worlds are
    interventions: `shifted` is do(E), `randomised` is do(B, R).

    What a patient's features hold beside A and S is noise that tells nothing: conditioning on the
    features is conditioning on A and S.

    Raises:
        ValueError: As `load`.

    Example:
        >>> from dfdlib import causal
        >>> graph = scm(structure="confounded").graph
        >>> causal.adjustment_sets(graph, "A_labs", "Y")
        [frozenset()]
        >>> [path for path in causal.paths(graph, "B", "Y")["path"] if "E" not in path]
        ['B <- C -> Y']
        >>> sorted(scm(missing="mar", world="randomised").graph.predecessors("R_labs"))
        []
        >>> causal.classify(scm(missing="mnar_self").graph).answer
        'MNAR'
    """
    return declare(
        Options(
            structure=structure,
            bias=bias,
            where=where,
            missing=missing,
            strength=strength,
            causal_shift=causal_shift,
            label_noise=label_noise,
            world=world,
        )
    )


def _world_seed(world: str, seed: int) -> int:
    words = np.random.SeedSequence((seed, get_args(World).index(world)))
    return int(words.generate_state(1, np.uint64)[0])


def _stream(seed: int, modality: str, block: str) -> np.random.Generator:
    key = (MODALITIES.index(modality), ("cause", "spurious").index(block))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _features(nodes: pd.DataFrame, options: Options, seed: int) -> dict[str, pd.DataFrame]:
    """Write A and S of each modality into its blocks, exactly."""
    x = {}
    n = len(nodes)
    for modality in MODALITIES:
        blocks = {}
        if modality in options.causal:
            normal = _stream(seed, modality, "cause").standard_normal((n, BLOCK))
            part = nodes[f"A_{modality}"].to_numpy() - normal.sum(axis=1) / np.sqrt(BLOCK)
            blocks["cause"] = normal + part[:, None] / np.sqrt(BLOCK)
        if modality in options.spurious:
            uniform = _stream(seed, modality, "spurious").random((n, 2, BLOCK))
            sign = np.where(uniform[:, 0] < 0.5, -1, 1)
            others = sign[:, 1 : CARRIERS[options.bias]].prod(axis=1)
            sign[:, 0] = nodes[f"S_{modality}"] * others
            blocks["spurious"] = sign * (0.5 + uniform[:, 1])
        names = [f"{block}_{k + 1}" for block in blocks for k in range(BLOCK)]
        values = np.hstack(list(blocks.values())).astype(np.float32)
        x[modality] = pd.DataFrame(values, columns=names)
    return x


def _read_blocks(x: Mapping[str, pd.DataFrame], options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Read A and S back from the features, (n, 4) each, 0 where a modality has no such block."""
    n = len(x[MODALITIES[0]])
    causes, shown = np.zeros((n, len(MODALITIES))), np.zeros((n, len(MODALITIES)))
    for column, modality in enumerate(MODALITIES):
        values = x[modality].to_numpy(np.float64)
        if modality in options.causal:
            causes[:, column] = values[:, :BLOCK].sum(axis=1) / np.sqrt(BLOCK)
        if modality in options.spurious:
            carriers = values[:, -BLOCK:][:, : CARRIERS[options.bias]]
            shown[:, column] = np.sign(carriers).prod(axis=1)
    return causes, shown
