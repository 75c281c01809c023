"""Open stress cohorts, for finding methods: one family of patients, and what departs from it.

Causes A are normal, one sum per modality, and add up to the log-odds of Y; the confounder C is −1
or 1. The bias B follows C, or Y, and modalities show it in further features. `Plan` says what a
kind has instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from dfdlib.data.synthetic_model import AVAILABILITY, sigmoid
from dfdlib.stress.drawing import (
    BLOCK,
    Drawn,
    Kind,
    Setting,
    averaged,
    by_name,
    hidden,
    integrated,
)

NAMES = ("vitals", "labs", "ecg", "notes")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a kind has in the place of the plain case, which these defaults are.

    Attributes:
        anticausal: the bias follows Y, not C.
        bias: how a modality holds what it shows of the bias: the sign of a feature, the product of
            two or three signs, three noisy copies of a continuous bias, or no bias at all.
        where: which modalities show it: all, half of them, one, or those that hold no causes.
        modalities: how many.
        hospitals: how many the training patients come from.
        agreement: "spread" over the training hospitals, nearly "similar" there, or the "same".
        redundancy: correlation of the causes of two modalities.
        strength: of the causes, as a factor.
        bias_strength: of the bias, as a factor on its log-odds or slope.
        rotated: the features of each modality are turned at random.
        missing: what drives availability.
        drive_differs: it does so otherwise in each hospital.
        prevalence: how far apart hospitals are in the log-odds of Y.
        case_mix: how far apart they are in the mean of each cause.
        effect: by what share the effect of one cause differs.
        label_errors: probability of a wrong label, in the first and in the other hospitals.
        second_bias: of a second bias: whether hospitals order it as the first, or against it.
        confounded_causes: how far C moves the causes of the first modality.
    """

    anticausal: bool = False
    bias: Literal["linear", "xor", "parity", "continuous", "none"] = "linear"
    where: Literal["all", "some", "one", "own"] = "all"
    modalities: int = 4
    hospitals: int = 2
    agreement: Literal["spread", "similar", "same"] = "spread"
    redundancy: float = 0.0
    strength: float = 1.0
    bias_strength: float = 1.0
    rotated: bool = False
    missing: Literal["none", "mar", "severity", "mnar_latent", "mnar_self"] = "none"
    drive_differs: bool = False
    prevalence: float = 0.0
    case_mix: float = 0.0
    effect: float = 0.0
    label_errors: tuple[float, float] = (0.0, 0.0)
    second_bias: Literal["none", "aligned", "cancelling"] = "none"
    confounded_causes: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities."""
        if self.modalities <= len(NAMES):
            return NAMES[: self.modalities]
        return tuple(f"modality_{k + 1:02d}" for k in range(self.modalities))

    @property
    def causal(self) -> int:
        """How many modalities, from the first, hold causes."""
        return self.modalities // 2 if self.where == "own" else self.modalities

    @property
    def biased(self) -> tuple[str, ...]:
        """The modalities that show the bias."""
        first = {"all": 0, "one": self.modalities - 1}.get(self.where, self.modalities // 2)
        return self.names[first:]

    @property
    def structure(self) -> str:
        """What the bias follows, in a word."""
        if self.bias == "none":
            return "unbiased"
        return "anticausal" if self.anticausal else "confounded"


def _per_hospital(first: float, last: float, shifted: float, k: int) -> np.ndarray:
    """A number per training hospital, evenly spaced, and the shifted one's."""
    return np.append(np.linspace(first, last, k), shifted)


def _attribute(
    plan: Plan, setting: Setting, node: str, cause: np.ndarray, site: np.ndarray
) -> np.ndarray:
    """The bias: follows its cause as closely as each hospital makes it."""
    k, continuous = plan.hospitals, plan.bias == "continuous"
    strong, weak = (2.0, 0.9) if plan.anticausal else (3.0, 1.3)
    if continuous:
        strong, weak = (1.3, 0.5) if plan.anticausal else (1.6, 0.7)
    if plan.agreement != "spread":
        weak = strong if plan.agreement == "same" else 0.85 * strong
    pull = _per_hospital(strong, weak, -strong, k) * plan.bias_strength
    pull = pull * setting.between(f"agreement {node}", 0.9, 1.1, k + 1)
    if plan.agreement == "same":
        pull[:k] = pull[0]
    if node == "B2" and plan.second_bias == "cancelling":
        pull[:k] = pull[:k][::-1]
    if plan.bias == "none":
        pull = np.zeros(k + 1)
    if not continuous:
        return setting.follow(node, cause, pull[site])
    return (0.0 if setting.randomised else pull[site]) * cause + setting.normal(node)


def _spurious(
    plan: Plan, setting: Setting, name: str, attribute: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a modality shows of a bias, as a node and as features."""
    if plan.bias == "continuous":
        load = setting.between(f"load {name}", 0.5, 0.9, BLOCK)
        values = load * attribute[:, None] + setting.normal(f"S_{name}", BLOCK)
        return values[:, 0], values
    shown = setting.shown(f"S_{name}", attribute)
    return shown, setting.signs(name, shown, {"xor": 2, "parity": 3}.get(plan.bias, 1))


def _turned(setting: Setting, name: str, values: np.ndarray) -> np.ndarray:
    """Features turned at random: reflections, which any processor computes alike."""
    for k in range(values.shape[1]):
        v = setting.parameters.stream(f"turn {k} {name}").standard_normal((values.shape[1],))
        v = v / np.sqrt((v**2).sum())
        values = values - 2 * np.einsum("nd,d->n", values, v)[:, None] * v
    return values


def _availability(
    plan: Plan,
    setting: Setting,
    parts: np.ndarray,
    severity: np.ndarray,
    confounder: np.ndarray,
    site: np.ndarray,
) -> np.ndarray:
    """Which modalities are there; the first always is."""
    n, m = setting.n, plan.modalities
    uniform = setting.uniform("R", m)
    there = uniform < AVAILABILITY
    if plan.missing != "none" and not setting.randomised:
        drivers = {
            "mar": (np.repeat(parts[:, :1], m, axis=1), (1.5, 1.5, 1.5)),
            "severity": (np.repeat(severity[:, None], m, axis=1), (1.5, 1.5, 1.5)),
            "mnar_latent": (np.repeat(confounder[:, None], m, axis=1), (2.5, 1.3, -2.0)),
            "mnar_self": (np.pad(parts, ((0, 0), (0, m - parts.shape[1]))), (-1.8, -1.8, -1.8)),
        }
        driver, push = drivers[plan.missing]
        if plan.drive_differs:
            push = (2.5, -0.5, -1.5)
        slope = _per_hospital(*push, plan.hospitals)
        there = uniform < sigmoid(1.1 + slope[site][:, None] * driver)
    there[:, 0] = True
    return there if plan.missing != "none" else np.ones((n, m), dtype=bool)


def _answer(
    plan: Plan,
    parts: np.ndarray,
    there: np.ndarray,
    hospitals: np.ndarray,
    slope: float,
    push: float,
) -> np.ndarray:
    """P(Y = 1 | observed causes) in the randomised world.

    Given the observed causes of one hospital, hidden ones are normal with a common factor; which
    hospital it is follows from the observed causes, too.

    Args:
        plan: the kind.
        parts: causes, (n, causal modalities).
        there: which of them are observed.
        hospitals: a row per training hospital: log-odds, mean of the causes, and their weights.
        slope: of the sum of causes.
        push: of the confounder.
    """
    rho = plan.redundancy
    total, result = np.zeros(len(parts)), np.zeros(len(parts))
    distinct, count = np.unique(hospitals, axis=0, return_counts=True)
    scale = 1 - rho + rho * there.sum(axis=1)
    for (level, mean, *weights), share in zip(distinct, count, strict=True):
        w = np.array(weights)
        seen = hidden(there, parts - mean)
        factor = seen.sum(axis=1) / scale  # times the root of rho: the mean of the common factor
        lost = np.einsum("nm,m->n", ~there * 1.0, w)
        index = np.einsum("nm,m->n", seen, w) + mean * w.sum() + rho * factor * lost
        spread = rho * lost**2 * (1 - rho) / scale
        spread += (1 - rho) * np.einsum("nm,m->n", ~there * 1.0, w**2)
        log_density = rho / (1 - rho) * factor**2 * scale - (seen**2).sum(axis=1) / (1 - rho)
        weight = share * np.exp(log_density / 2) if len(distinct) > 1 else np.ones(len(parts))
        centre = level + slope * index
        if there.all():
            p = averaged(centre, push)
        else:
            p = integrated(centre, slope * np.sqrt(spread), lambda z: averaged(z, push))
        total += weight
        result += weight * p
    return result / total


def generate(setting: Setting, *, plan: Plan) -> Drawn:
    """Draw patients as a plan says."""
    k, m = plan.hospitals, plan.causal
    names, causal_names = plan.names, plan.names[: plan.causal]
    site, confounder = setting.hospitals(k), setting.sign("C")
    slope, push = setting.between("slope", 2.1, 2.7, 1)[0], setting.between("push", 1.8, 2.4, 1)[0]
    slope = slope * plan.strength

    # causes, and what hospitals make of them
    weights: np.ndarray = setting.between("weights", 0.7, 1.3, m)
    common = weights.sum() ** 2 * plan.redundancy + (weights**2).sum() * (1 - plan.redundancy)
    hospitals = np.tile(np.concatenate([[0.0, 0.0], weights / np.sqrt(common)]), (k + 1, 1))
    hospitals[:, 0] = _per_hospital(-1.0, 1.0, 0.0, k) * plan.prevalence
    hospitals[:, 1] = _per_hospital(-1.0, 1.0, 0.0, k) * plan.case_mix
    hospitals[:, 2] *= 1 + _per_hospital(1.0, -1.0, 0.0, k) * plan.effect
    factor = setting.normal("F")
    parts = np.sqrt(1 - plan.redundancy) * setting.normal("A", m)
    parts = parts + np.sqrt(plan.redundancy) * factor[:, None] + hospitals[site, 1][:, None]
    if plan.confounded_causes and not setting.randomised:
        moved = parts[:, 0] + plan.confounded_causes * confounder
        parts[:, 0] = moved / np.sqrt(1 + plan.confounded_causes**2)
    severity = np.einsum("nm,nm->n", parts, hospitals[site, 2:])
    y = setting.outcome(hospitals[site, 0] + slope * severity + push * confounder)

    # bias and features
    cause = 2.0 * y - 1 if plan.anticausal else confounder
    biases = {"B": _attribute(plan, setting, "B", cause, site)}
    if plan.second_bias != "none":
        biases["B2"] = _attribute(plan, setting, "B2", cause, site)
    x, shown = {}, {}
    for place, name in enumerate(names):
        blocks = []
        if place < m:
            mean = hospitals[site, 1] if plan.case_mix else np.zeros(setting.n)
            block = setting.cause(name, parts[:, place] - mean)
            blocks.append(block + mean[:, None] / np.sqrt(BLOCK))
        if name in plan.biased:
            for node, attribute in biases.items():
                label = name if node == "B" else f"second {name}"
                shown[f"S{node[1:]}_{name}"], block = _spurious(plan, setting, label, attribute)
                blocks.append(block)
        else:
            blocks.append(setting.normal(f"idle {name}", BLOCK))
        values = np.hstack(blocks)
        x[name] = _turned(setting, name, values) if plan.rotated else values

    observed = _availability(plan, setting, parts, severity, confounder, site)
    recorded = None
    if any(plan.label_errors):
        wrong = np.append(np.full(k, plan.label_errors[1]), 0.0)
        wrong[0] = plan.label_errors[0]
        recorded = np.where(setting.uniform("L") < wrong[site], 1 - y, y)
    nodes = {"E": site, "C": confounder, "F": factor, **by_name("A", parts, causal_names), "Y": y}
    nodes |= biases | shown
    if plan.missing != "none":
        nodes |= {f"R_{name}": observed[:, j] * 1 for j, name in enumerate(names) if j}
    if recorded is not None:
        nodes["L"] = recorded
    return Drawn(
        x=x,
        site=site,
        y=y,
        p_do=_answer(plan, parts, observed[:, :m], hospitals[:k], slope, push),
        nodes=nodes,
        graph=setting.graph(
            _parents(plan, nodes),
            latent=("C", "F", *biases),
            cut=(*biases, *(node for node in nodes if node.startswith("R_")))
            + (("A_vitals",) if plan.confounded_causes else ()),
        ),
        observed=observed,
        recorded=recorded,
    )


def _parents(plan: Plan, nodes: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """The parents of each node: what the plan says that it depends on."""
    causes = [node for node in nodes if node.startswith("A_")]
    above: dict[str, list[str]] = {
        **{a: ["F"] * (plan.redundancy > 0) + ["E"] * (plan.case_mix > 0) for a in causes},
        "Y": ["C", *causes, *["E"] * bool(plan.prevalence or plan.effect)],
        "L": ["Y", "E"],
    }
    if plan.confounded_causes:
        above[causes[0]] = ["C"]
    if plan.bias != "none":
        follows = "Y" if plan.anticausal else "C"
        # where training hospitals agree, the shifted one still differs
        above |= {bias: [follows, "E"] for bias in ("B", "B2")}
    drivers = {"mar": causes[:1], "severity": causes, "mnar_latent": ["C", "E"]}
    for node in nodes:
        if node.startswith("S"):
            above[node] = ["B2" if node.startswith("S2") else "B"]
        elif node.startswith("R_"):
            itself = [f"A_{node[2:]}"] if f"A_{node[2:]}" in causes else []
            above[node] = drivers.get(plan.missing, itself) + ["E"] * plan.drive_differs
    return {node: above.get(node, []) for node in nodes}


def _kind(what: str, n: int = 10_000, **departs: Any) -> Kind:
    plan = Plan(**departs)
    generator: Callable[[Setting], Drawn] = partial(generate, plan=plan)
    return Kind(what, plan.structure, plan.hospitals, generator, n)


def _second(what: str, **departs: Any) -> Kind:
    """Another family: continuous bias, correlated causes, missing at random, weaker causes."""
    family: dict[str, Any] = {
        "bias": "continuous",
        "redundancy": 0.15,
        "missing": "mar",
        "strength": 0.9,
    }
    return _kind(f"second family: {what}", **family | departs)


OPEN = {
    "linear": _kind("nothing: the plain case"),
    "continuous": _kind("a continuous bias", bias="continuous"),
    "xor": _kind("bias in the product of two signs", bias="xor"),
    "parity": _kind("bias in the product of three signs", bias="parity"),
    "anticausal": _kind("the bias follows the outcome", anticausal=True),
    "anticausal-continuous": _kind(
        "the bias follows the outcome, continuous", anticausal=True, bias="continuous"
    ),
    "anticausal-xor": _kind("the bias follows the outcome, xor", anticausal=True, bias="xor"),
    "redundant": _kind("causes of modalities are correlated", redundancy=0.4),
    "redundant-anticausal": _kind("correlated causes, anticausal", redundancy=0.4, anticausal=True),
    "redundant-xor": _kind("correlated causes, xor", redundancy=0.4, bias="xor"),
    "one-modality": _kind("bias in one modality", where="one"),
    "some-modalities": _kind("bias in half of the modalities", where="some"),
    "own-modalities": _kind("bias in modalities without causes", where="own"),
    "rotated": _kind("features turned at random", rotated=True),
    "rotated-anticausal": _kind("features turned, anticausal", rotated=True, anticausal=True),
    "modalities-2": _kind("two modalities", modalities=2),
    "modalities-8": _kind("eight modalities", modalities=8),
    "modalities-16": _kind("sixteen modalities", modalities=16),
    "hospitals-3": _kind("three hospitals", hospitals=3),
    "hospitals-5": _kind("five hospitals", hospitals=5),
    "hospitals-20": _kind("twenty hospitals", hospitals=20),
    "similar-hospitals": _kind("the bias is nearly as strong in both", agreement="similar"),
    "same-bias": _kind("the bias is equally strong in both hospitals", agreement="same"),
    "prevalence": _kind("hospitals differ in prevalence", prevalence=1.0),
    "prevalence-unbiased": _kind("they do, and no bias", prevalence=1.0, bias="none"),
    "case-mix": _kind("hospitals differ in the mean of causes", case_mix=0.4),
    "case-mix-unbiased": _kind("they do, and no bias", case_mix=0.4, bias="none"),
    "label-errors": _kind("30 % wrong labels, less biased hospital", label_errors=(0.0, 0.3)),
    "label-errors-first": _kind("30 % wrong labels, more biased one", label_errors=(0.3, 0.0)),
    "label-errors-unbiased": _kind(
        "10 % wrong labels in one hospital, no bias", label_errors=(0.0, 0.1), bias="none"
    ),
    "missing-drive": _kind("what drives missingness differs", missing="mar", drive_differs=True),
    "effect-differs": _kind("one cause's effect differs by 30 %", effect=0.3),
    "effect-differs-unbiased": _kind("it does, and no bias", effect=0.3, bias="none"),
    "two-biases-aligned": _kind("two biases, ordered alike", second_bias="aligned"),
    "two-biases-cancelling": _kind("two biases, ordered oppositely", second_bias="cancelling"),
    "mnar-latent": _kind("availability follows C, no bias", missing="mnar_latent", bias="none"),
    "mnar-latent-biased": _kind("availability follows C, and bias", missing="mnar_latent"),
    "severity-biased": _kind("availability follows severity, and bias", missing="severity"),
    "self-masking-biased": _kind("values hide themselves, and bias", missing="mnar_self"),
    "mar-biased": _kind("availability follows vitals, and bias", missing="mar"),
    "confounded-causes": _kind("C moves a cause, too", confounded_causes=0.5),
    "weak-causes": _kind("weak causes, strong bias", strength=0.5, bias_strength=1.2),
    "unbiased": _kind("no bias at all", bias="none"),
    "patients-1000": _kind("1,000 patients", 1000),
    "patients-2000": _kind("2,000 patients", 2000),
    "patients-5000": _kind("5,000 patients", 5000),
    "patients-100000": _kind("100,000 patients", 100_000),
    "second": _second("as it is"),
    "second-redundant": _second("causes more correlated", redundancy=0.5),
    "second-one-modality": _second("bias in one modality", where="one"),
    "second-anticausal": _second("redundant, anticausal", redundancy=0.5, anticausal=True),
    "second-modalities-2": _second("two modalities", modalities=2),
    "second-modalities-8": _second("eight modalities", modalities=8),
    "second-hospitals-5": _second("five hospitals", hospitals=5),
    "second-hospitals-20": _second("twenty hospitals", hospitals=20),
    "second-prevalence": _second("hospitals differ in prevalence", prevalence=1.0),
    "second-unbiased": _second("prevalence differs, no bias", prevalence=1.0, bias="none"),
    "second-label-errors": _second("30 % wrong labels", label_errors=(0.0, 0.3)),
    "second-two-biases": _second("two biases that cancel", second_bias="cancelling"),
}
