"""The declared causal model behind `data.load("synthetic")`: options, constants and mechanisms."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from dfdlib.causal import SCM
from dfdlib.data._validate import unknown

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
    own = options.missing == "mnar_self"
    return drivers[f"{options.missing} {modality}" if own else options.missing]
