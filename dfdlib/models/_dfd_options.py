"""What DFD refuses when it is made."""

import inspect
from typing import TYPE_CHECKING, Any, get_args

from dfdlib.data._validate import unknown
from dfdlib.models._decorrelation import DependenceName
from dfdlib.models._memory import MemoryName, Rule
from dfdlib.models.gate import GateLayers

if TYPE_CHECKING:
    from dfdlib.models.dfd import DFD

# DIFF: no weight of a term is published, nor how the backbone's own loss joins: here with weight
# 1, for both streams. LfF's weights and DisC's swap are off, since nobody says they are on.
# DIFF: no exponent is published: 0.7 is that of LfF and DisC. The form is that of the loss's own
# paper; their code has another one, whose gradient is q times as large.
# DIFF: the description calls the first stage both a "bias-only loss" and L_d. Here it is L_d,
# without the information, whose estimator learns meanwhile; causal_weight=0 gives the other one.
# DIFF: no size, number of layers, learning rate or batch size is published; all of them are ours.

#: The weight of each term of the loss, which a stage may set; what is not named has weight 1.
WEIGHT_OF = {
    "cross_entropy": "causal_weight",
    "bias_gce": "gce_weight",
    "mi": "mi_weight",
    "swap": "swap_weight",
    "bias_swap": "swap_weight",
    "alone": "causal_weight",
}
_WORDS: dict[str, Any] = {
    "mi": DependenceName,
    "memory": MemoryName,
    "predict": Rule,
    "gate_layers": GateLayers,
}


def check_options(model: "DFD") -> None:
    """Refuse options that are unknown, out of range, or at odds with each other."""
    _check_backbone(model)
    for name, words in _WORDS.items():
        value = getattr(model, name)
        if value not in get_args(words) and not (name == "mi" and value is None):
            raise unknown(value, get_args(words), f"value of {name}")
    if not 0 <= model.gce_q <= 1:
        raise ValueError(
            f"gce_q must lie between 0 (cross-entropy) and 1 (L1), got gce_q={model.gce_q}. "
            "Take gce_q=0.7"
        )
    for name in WEIGHT_OF.values():
        if not getattr(model, name) >= 0:
            raise ValueError(f"{name} must be at least 0, got {getattr(model, name)}")
    if not model.mi_noise >= 0:
        raise ValueError(
            f"mi_noise is a standard deviation of at least 0, got mi_noise={model.mi_noise}. "
            "Take mi_noise=1.0"
        )
    if model.n_memory < 1:
        raise ValueError(f"n_memory must be at least 1, got {model.n_memory}")
    if model.mi_within and model.mi == "mine":
        raise ValueError("mi='mine' has no form within classes. Take mi='club' or 'infonce'")
    several = model.task == "multilabel"
    if several and (model.mi_within or model.environment is not None):
        option = "mi_within" if model.mi_within else "environment"
        raise ValueError(
            f"{option} compares patients of one class, and a multi-label task has no classes. "
            f"Leave {option} out, or train one model per label"
        )


def _check_backbone(model: "DFD") -> None:
    kind = type(model.backbone).__name__
    if "weight" not in inspect.signature(model.backbone.forward).parameters:
        raise ValueError(
            f"{kind}.forward has no argument `weight`, by which the gate scales what each edge "
            "sends. Add it: forward(tokens, observed, weight=None)"
        )
    if model.gate_layers == "first" and not isinstance(
        getattr(model.backbone, "n_layers", None), int
    ):
        raise ValueError(
            f"{kind} does not say how many layers it has, so the gate cannot be put on the first. "
            "Set self.n_layers in its __init__, or pass gate_layers='all'"
        )
