"""The causal model behind `data.load("synthetic")`: options, mechanisms, and the exact answers.

`declare` writes the options down as a structural causal model; `answer` computes what somebody who
knows this model would predict for a patient, in closed form.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, Literal, get_args

import numpy as np

from dfdlib.causal import SCM
from dfdlib.errors import unknown

Structure = Literal["confounded", "anticausal"]
Bias = Literal["linear", "xor", "parity", "none"]
Where = Literal["mixed", "own"]
Missing = Literal["none", "mcar", "mar", "severity", "mnar_latent", "mnar_self"]
World = Literal["train", "id", "shifted", "randomised"]

MODALITIES = ("vitals", "labs", "ecg", "notes")
#: The first modality is always there; these may be missing.
HIDEABLE = MODALITIES[1:]
#: The values of the node E. Training patients come from the first two, shifted ones from the last.
SITES = ("north", "south", "west")
N_TRAINING = 2

# Log-odds of Y = 1 per standard deviation of severity Z, and per unit of the confounder C = ±1.
SEVERITY = 2.4
CONFOUNDER = 2.1
# Per site: log-odds that B agrees with C (confounded), or with Y (anticausal).
AGREEMENT = {"confounded": (3.0, 1.5, -3.0), "anticausal": (2.0, 1.0, -2.0)}
# Probability that a modality shows -B for B.
SLIP = 0.1
# Share of patients who have a modality that may be missing: in each hospital, where severity is
# standard normal, and in each world, whatever the strength.
AVAILABILITY = 0.7
# Per site: log-odds of being observed per unit of what drives the mask.
PUSH = {
    "mar": (2.0, 2.0, 2.0),
    "severity": (2.0, 2.0, 2.0),
    "mnar_latent": (3.0, 1.5, -2.0),
    "mnar_self": (-2.0, -2.0, -2.0),
}
# Per site: mean severity under causal_shift.
CASE_MIX = (-0.3, 0.3, 0.6)
MAX_STRENGTH = 2.0

# Trapezoidal rule for one standard normal: exact to 1e-12 for what is integrated here.
STEP = 0.4
GRID = STEP * np.arange(-20, 21)
DENSITY = STEP * np.exp(-(GRID**2) / 2) / np.sqrt(2 * np.pi)


def sigmoid(x: Any) -> Any:
    """Turn log-odds into a probability."""
    return 1 / (1 + np.exp(-x))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What distinguishes one synthetic cohort from another, beside size and seed; checked here."""

    # Wider than the Literals above: what they forbid is to reach the checks, and be answered.
    structure: str = "confounded"
    bias: str = "linear"
    where: str = "mixed"
    missing: str = "none"
    strength: float | int = 1.0
    causal_shift: bool = False
    label_noise: float | int = 0.0
    world: str = "train"

    def __post_init__(self) -> None:
        """Refuse what is not an option."""
        for name, known in (
            ("structure", Structure),
            ("bias", Bias),
            ("where", Where),
            ("missing", Missing),
            ("world", World),
        ):
            if getattr(self, name) not in get_args(known):
                raise unknown(getattr(self, name), get_args(known), f"{name} of synthetic cohorts")
        if not 0 <= self.strength <= MAX_STRENGTH:
            raise ValueError(
                f"strength={self.strength} is out of range. Pass 0 (no bias, missing at random) to "
                f"{MAX_STRENGTH:g}; 1 is the calibrated default"
            )
        if not 0 <= self.label_noise < 0.5:
            raise ValueError(
                f"label_noise={self.label_noise} is out of range. Pass the probability that a "
                "label is recorded wrong: 0 or more, and under 0.5"
            )

    @property
    def causal(self) -> tuple[str, ...]:
        """Modalities with a causal block."""
        return MODALITIES if self.where == "mixed" else MODALITIES[:2]

    @property
    def spurious(self) -> tuple[str, ...]:
        """Modalities with a spurious block."""
        return MODALITIES if self.where == "mixed" else MODALITIES[2:]

    @property
    def driven(self) -> tuple[str, ...]:
        """Modalities whose availability depends on anything."""
        if self.missing in ("none", "mcar"):
            return ()
        # What masks itself does so by its causal part.
        return tuple(m for m in HIDEABLE if self.missing != "mnar_self" or m in self.causal)

    @property
    def shift(self) -> np.ndarray:
        """Mean of each causal part, per site."""
        return np.array(CASE_MIX) / np.sqrt(len(self.causal)) * self.causal_shift

    @property
    def agreement(self) -> np.ndarray:
        """Probability that B agrees with its cause, per site."""
        scale = 0.0 if self.bias == "none" else self.strength
        return sigmoid(scale * np.array(AGREEMENT[self.structure]))

    @cached_property
    def observe(self) -> Callable[..., Any]:
        """P(R = 1 | what drives the mask, site): a mean of AVAILABILITY, whatever the strength."""
        push = self.strength * np.array(PUSH[self.missing])
        binary = self.missing == "mnar_latent"  # C = ±1; the other drivers are standard normal
        values, weights = (np.array([-1.0, 1.0]), np.full(2, 0.5)) if binary else (GRID, DENSITY)
        level = np.array([_intercept(slope, values, weights) for slope in push])
        return lambda driver, site=0: sigmoid(level[site] + push[site] * driver)


def _intercept(slope: float, values: np.ndarray, weights: np.ndarray) -> float:
    """Find a such that sigmoid(a + slope * driver) is AVAILABILITY on average: by bisection."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if weights @ sigmoid(middle + slope * values) < AVAILABILITY:
            low = middle
        else:
            high = middle
    return low


def declare(options: Options) -> SCM:
    """Write the options down as a structural causal model; `synthetic.scm` explains the nodes."""
    nodes: dict[str, Callable[..., Any]] = {
        "E": lambda u: u < 0.5,
        "C": lambda u: np.where(u < 0.5, 1, -1),
        **{f"A_{m}": _causal_part(options) for m in options.causal},
        "Z": _severity(options),
        "Y": lambda Z, C, u: SEVERITY * Z + CONFOUNDER * C + u > 0,
        "B": _spurious_attribute(options),
        **{f"S_{m}": lambda B, u: np.where(u < SLIP, -B, B) for m in options.spurious},
    }
    if options.missing != "none":
        nodes |= {f"R_{m}": _availability(options, m) for m in HIDEABLE}
    if options.label_noise:
        nodes["L"] = lambda Y, u: np.where(u < options.label_noise, 1 - Y, Y)
    uniform = [n for n in nodes if n in ("E", "C", "B", "L") or n.startswith(("S_", "R_"))]
    noise = dict.fromkeys(uniform, "uniform") | {"Y": "logistic"}
    # Nobody reads severity off, unless somebody had to in order to order tests by it.
    latent = ("C", "B") if options.missing == "severity" else ("C", "B", "Z")
    indicators = {f"A_{m}": f"R_{m}" for m in HIDEABLE if {f"A_{m}", f"R_{m}"} <= nodes.keys()}
    scm = SCM(noise=noise, latent=latent, indicators=indicators, **nodes)
    if options.world == "shifted":
        return scm.do(E=SITES.index("west"))
    if options.world == "randomised":
        coins = {f"R_{m}": lambda u: u < AVAILABILITY for m in HIDEABLE if f"R_{m}" in nodes}
        return scm.do(B=lambda u: np.where(u < 0.5, 1, -1), **coins)
    return scm


def _causal_part(options: Options) -> Callable[..., Any]:
    shift = options.shift
    if options.causal_shift:
        return lambda E, u: shift[E] + u
    return lambda u: u


def _severity(options: Options) -> Callable[..., Any]:
    if options.where == "own":
        return lambda A_vitals, A_labs: (A_vitals + A_labs) / np.sqrt(2)
    return lambda A_vitals, A_labs, A_ecg, A_notes: (A_vitals + A_labs + A_ecg + A_notes) / 2


def _spurious_attribute(options: Options) -> Callable[..., Any]:
    agree = options.agreement
    if options.bias == "none":
        return lambda u: np.where(u < 0.5, 1, -1)
    if options.structure == "confounded":
        return lambda C, E, u: np.where(u < agree[E], C, -C)
    return lambda Y, E, u: np.where(u < agree[E], 2 * Y - 1, 1 - 2 * Y)


def _availability(options: Options, modality: str) -> Callable[..., Any]:
    if modality not in options.driven:
        return lambda u: u < AVAILABILITY
    observe = options.observe
    drivers: dict[str, Callable[..., Any]] = {
        "mar": lambda A_vitals, u: u < observe(A_vitals),
        "severity": lambda Z, u: u < observe(Z),
        "mnar_latent": lambda C, E, u: u < observe(C, E),
        "mnar_self labs": lambda A_labs, u: u < observe(A_labs),
        "mnar_self ecg": lambda A_ecg, u: u < observe(A_ecg),
        "mnar_self notes": lambda A_notes, u: u < observe(A_notes),
    }
    masks_itself = options.missing == "mnar_self"
    return drivers[f"{options.missing} {modality}" if masks_itself else options.missing]


# ---------------- what somebody who knows the model predicts, in closed form

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
            spurious = [MODALITIES.index(m) for m in options.spurious if there[m]]
            p_do[part], p_obs[part] = _one_pattern(
                options, there, causes[part][:, seen], shown[part][:, spurious]
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
