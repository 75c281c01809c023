"""What a synthetic cohort's patients would be told by somebody who knew the model: in closed form.

Everything below is a finite sum over the training hospitals, the confounder C = ±1 and the outcome,
and one integral over the causal parts that the patient's mask hides.
"""

from functools import reduce

import numpy as np

from dfdlib.data._synthetic_model import (
    CONFOUNDER,
    DENSITY,
    GRID,
    HIDEABLE,
    MODALITIES,
    N_TRAINING,
    SEVERITY,
    SLIP,
    STEP,
    Options,
    sigmoid,
)

# Patients at a time: their integrands stay in the processor's cache.
CHUNK = 8192


def answer(
    options: Options, causes: np.ndarray, shown: np.ndarray, observed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute P(Y = 1 | do(observed causal parts)) and P(Y = 1 | everything observed) in training.

    Args:
        options: Which model.
        causes: What each modality's causal block says, A; anything where there is none.
        shown: What each modality's spurious block says, S = ±1; anything where there is none.
        observed: Which modalities the patient has.

    Shapes:
        All (n, 4), and two arrays (n,) come back.
    """
    p_do, p_obs = np.empty(len(observed)), np.empty(len(observed))
    code = observed @ (1 << np.arange(len(MODALITIES)))
    for pattern in np.unique(code):
        rows = np.flatnonzero(code == pattern)
        there = {m: bool(o) for m, o in zip(MODALITIES, observed[rows[0]], strict=True)}
        for part in np.split(rows, range(CHUNK, len(rows), CHUNK)):
            seen = [MODALITIES.index(m) for m in options.causal if there[m]]
            told = [MODALITIES.index(m) for m in options.spurious if there[m]]
            p_do[part], p_obs[part] = _one_pattern(
                options, there, causes[part][:, seen], shown[part][:, told]
            )
    return p_do, p_obs


def _one_pattern(
    options: Options, there: dict[str, bool], causes: np.ndarray, shown: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    hidden = [m for m in options.causal if not there[m]]
    sums, population, selected = _hidden_sum(options, hidden)
    severity = (causes.sum(axis=1)[:, None] + sums) / np.sqrt(len(options.causal))
    ill = {c: sigmoid(SEVERITY * severity + CONFOUNDER * c) for c in (-1, 1)}
    interventional = _mean(ill[-1] + ill[1], population.mean(axis=0)) / 2

    weight = _severity_mask(options, there, severity)
    total = [_mean(weight, by_site) for by_site in selected]
    joint = np.zeros((2, len(causes)))
    for c in (-1, 1):
        for site in range(N_TRAINING):
            known = _seen(options, causes, site) * _latent_mask(options, there, c, site)
            positive = _mean(ill[c] * weight, selected[site])
            for y, p_outcome in ((0, total[site] - positive), (1, positive)):
                cause = c if options.structure == "confounded" else 2 * y - 1
                joint[y] += known * p_outcome * _attribute(options, shown, cause, site)
    return interventional, joint[1] / joint.sum(axis=0)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    # Not a matrix product: BLAS adds up in an order that depends on threads and shapes.
    return np.einsum("nk,k->n", values, weights)


def _hidden_sum(options: Options, hidden: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes for the sum of the hidden causal parts, and weights of each in each training hospital.

    The weights are those of the hospital's population, and the same times P(hidden | values) for
    modalities that mask themselves.
    """
    population, selected = [], []
    for site in range(N_TRAINING):
        shift = options.shift[site]
        density = DENSITY * np.exp(GRID * shift - shift**2 / 2)
        population.append(_convolve([density] * len(hidden)))
        gone = [
            1 - options.observe(GRID)
            if options.missing == "mnar_self" and m in options.driven
            else np.ones_like(GRID)
            for m in hidden
        ]
        selected.append(_convolve([density * g for g in gone]))
    reach = (len(population[0]) - 1) // 2
    return STEP * np.arange(-reach, reach + 1), np.array(population), np.array(selected)


def _convolve(densities: list[np.ndarray]) -> np.ndarray:
    return reduce(np.convolve, densities, np.ones(1))


def _severity_mask(options: Options, there: dict[str, bool], severity: np.ndarray) -> np.ndarray:
    """P(mask | severity) where severity orders the tests, 1 elsewhere."""
    if options.missing != "severity":
        return np.ones_like(severity)
    p = options.observe(severity)
    n_there = sum(there[m] for m in HIDEABLE)
    return p**n_there * (1 - p) ** (len(HIDEABLE) - n_there)


def _latent_mask(options: Options, there: dict[str, bool], c: int, site: int) -> float:
    """P(mask | C, site) where C pushes it, 1 elsewhere."""
    if options.missing != "mnar_latent":
        return 1.0
    p = float(options.observe(c, site))
    return float(np.prod([p if there[m] else 1 - p for m in HIDEABLE]))


def _seen(options: Options, causes: np.ndarray, site: int) -> np.ndarray:
    """P(observed causal parts | site), over what it is without a shift."""
    shift = options.shift[site]
    return np.exp(causes.sum(axis=1) * shift - causes.shape[1] * shift**2 / 2)


def _attribute(options: Options, shown: np.ndarray, cause: int, site: int) -> np.ndarray:
    """P(what the spurious blocks show | the cause of B, site)."""
    agree = options.agreement[site]
    likelihood = np.zeros(len(shown))
    for b in (-1, 1):
        p_shown = np.where(shown == b, 1 - SLIP, SLIP).prod(axis=1)
        likelihood += (agree if b == cause else 1 - agree) * p_shown
    return likelihood
