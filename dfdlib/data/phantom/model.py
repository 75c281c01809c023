"""The causal model behind `data.load("phantom")`: who is ill, who scans, what is missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, Signature
from typing import Any, Literal, get_args

import numpy as np
from scipy.optimize import brentq  # type: ignore[import-untyped]

from dfdlib.causal import SCM
from dfdlib.errors import unknown

Missing = Literal["none", "mcar", "mar", "mnar"]
World = Literal["train", "id", "shifted", "randomised"]
Version = Literal[1, 2]

FINDINGS = (
    *("Cardiomegaly", "Lung Lesion", "Edema", "Consolidation", "Atelectasis", "Pneumothorax"),
    *("Pleural Effusion", "Support Devices"),
)
#: The columns of `cohort.y`, in CheXpert's order of those that are here.
LABELS = ("No Finding", *FINDINGS)
# Node names: identifiers, since the argument names of mechanisms make the graph.
NODE = {label: label.lower().replace(" ", "_") for label in LABELS}
SCANNERS = ("crisp", "soft")

# Prevalence of the three reasons why findings come together.
FAILURE, CARE, INFECTION = 0.16, 0.20, 0.16
# Log-odds of scanner "soft" where the shortcut's finding is present; minus that where not.
SHORTCUT = 3.0
# Share of patients with both views, and of the others, who have the frontal one only.
COMPLETE, FRONTAL_ONLY = 0.6, 0.75
# What pushes the log-odds that a view lacks, and by how much per unit.
PUSH = {"mar": ("intensive_care", 2.5), "mnar": ("burden", 2.5)}
# The least severity of a finding that is there.
MILD = 0.2
MAX_STRENGTH = 2.0
SIZES = (16, 512)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What distinguishes one phantom cohort from another, beside number and seed; checked here."""

    size: int = 64
    missing: str = "none"
    shortcut: str | None = None
    strength: float | int = 1.0
    world: str = "train"
    version: int = 1

    def __post_init__(self) -> None:
        """Refuse what is not an option."""
        low, high = SIZES
        if not low <= self.size <= high:
            raise ValueError(f"size={self.size} pixels is out of range. Pass {low} to {high}")
        for name, known in (("missing", Missing), ("world", World)):
            if getattr(self, name) not in get_args(known):
                raise unknown(getattr(self, name), get_args(known), f"{name} of phantom cohorts")
        if self.version not in get_args(Version) or isinstance(self.version, bool):
            raise ValueError(
                f"version={self.version!r} of the phantom does not exist. Pass version=1, which "
                "results are computed on, or version=2, whose anatomy is closer to a real one"
            )
        if self.shortcut is not None and self.shortcut not in LABELS:
            raise unknown(self.shortcut, LABELS, "finding of phantom cohorts")
        if not 0 <= self.strength <= MAX_STRENGTH:
            raise ValueError(
                f"strength={self.strength} is out of range. Pass 0 (scanner and missing views are "
                f"coins) to {MAX_STRENGTH:g}; 1 is the default"
            )


def declare(options: Options) -> SCM:
    """Write the options down as a structural causal model; `phantom.scm` explains the nodes."""
    disease = [NODE[name] for name in FINDINGS if name != "Support Devices"]
    nodes: dict[str, Callable[..., Any]] = {
        "female": lambda u: u < 0.5,
        "heart_failure": lambda u: u < FAILURE,
        "intensive_care": lambda u: u < CARE,
        "infection": lambda u: u < INFECTION,
        "cardiomegaly": lambda heart_failure, u: u < 0.08 + 0.6 * heart_failure,
        "lung_lesion": lambda u: u < 0.12,
        "edema": lambda heart_failure, intensive_care, u: (
            u < 0.02 + 0.5 * heart_failure + 0.05 * intensive_care
        ),
        "consolidation": lambda infection, u: u < 0.03 + 0.5 * infection,
        "atelectasis": lambda intensive_care, pleural_effusion, u: (
            u < 0.06 + 0.22 * intensive_care + 0.28 * pleural_effusion
        ),
        "pneumothorax": lambda intensive_care, u: u < 0.04 + 0.15 * intensive_care,
        "pleural_effusion": lambda heart_failure, intensive_care, infection, u: (
            u < 0.06 + 0.38 * heart_failure + 0.18 * intensive_care + 0.15 * infection
        ),
        "support_devices": lambda intensive_care, pneumothorax, u: (
            u < 0.08 + 0.7 * intensive_care + 0.15 * pneumothorax
        ),
        # CheXpert's rule: devices may be there
        "no_finding": _of(disease, lambda *findings: np.maximum.reduce(findings) == 0),
        **{f"severity_{name}": _of([name, "u"], _severity) for name in disease},
        "burden": _of([f"severity_{name}" for name in disease], lambda *each: sum(each)),
        "scanner": _scanner(options),
    }
    if options.missing != "none":
        nodes |= {
            "complete": _complete(options),
            "R_frontal": lambda complete, u: np.maximum(complete, u < FRONTAL_ONLY),
            "R_lateral": lambda complete, R_frontal: np.maximum(complete, 1 - R_frontal),
        }
    quiet = ("no_finding", "burden", "R_lateral")
    scm = SCM(
        noise={node: "uniform" for node in nodes if node not in quiet},
        latent=("heart_failure", "infection", "burden", *(f"severity_{name}" for name in disease)),
        **nodes,
    )
    if options.world == "randomised":
        coins: dict[str, Callable[..., Any]] = {"scanner": lambda u: u < 0.5}
        if options.missing != "none":
            coins["complete"] = lambda u: u < COMPLETE
        return scm.do(**coins)
    return scm


def _of(parents: Sequence[str], rule: Callable[..., Any]) -> Callable[..., Any]:
    """A mechanism whose arguments are named by a list; the rule takes them in its order."""

    def mechanism(**values: Any) -> Any:
        return rule(*(values[name] for name in parents))

    kind = Parameter.KEYWORD_ONLY
    signature = Signature([Parameter(name, kind) for name in parents])
    mechanism.__signature__ = signature  # type: ignore[attr-defined]
    return mechanism


def _severity(present: Any, u: Any) -> Any:
    """0 where a finding is absent, else uniform on (MILD, 1)."""
    return present * (MILD + (1 - MILD) * u)


def _scanner(options: Options) -> Callable[..., Any]:
    """1 (soft) rather where the shortcut's finding is, the other way round in the shifted world."""
    if options.shortcut is None:
        return lambda u: u < 0.5
    push = SHORTCUT * options.strength * (-1 if options.world == "shifted" else 1)
    follow = _sigmoid(push)
    return _of([NODE[options.shortcut], "u"], lambda y, u: np.where(u < follow, y, 1 - y))


def _complete(options: Options) -> Callable[..., Any]:
    if options.missing == "mcar":
        return lambda u: u < COMPLETE
    driver, push = PUSH[options.missing]
    slope = push * options.strength
    level = _level(driver, slope)
    return _of([driver, "u"], lambda x, u: u < _sigmoid(level - slope * x))


@cache
def _level(driver: str, slope: float) -> float:
    """The log-odds at which COMPLETE of the patients have both views, whatever the strength."""
    x = declare(Options()).sample(20_000, full=True)[driver].to_numpy()
    return float(brentq(lambda level: _sigmoid(level - slope * x).mean() - COMPLETE, -20, 20))


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))
