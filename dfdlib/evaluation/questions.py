"""What is asked, written down before its runs."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dfdlib.errors import check_name

Form = Literal["superiority", "non-inferiority", "equivalence", "probability", "bound"]
Quantifier = Literal["every", "average", "some"]
#: seeds of the first look; each later look has twice as many, until the cap
FIRST_LOOK = 5
#: half-width at which a question about a probability counts as answered as well as it can be
PROBABILITY_PRECISION = 0.1


@dataclass(frozen=True, kw_only=True)
class Question:
    r"""What is asked of an effect θ, written down before its runs.

    ================  ====================  ==========================================
    form              it holds where        θ
    ================  ====================  ==========================================
    superiority       θ > margin            a difference to a comparator
    non-inferiority   θ > −margin           a difference to a comparator
    equivalence       −margin < θ < margin  a difference to a comparator
    probability       θ > margin            share of runs whose value is 1, not 0
    bound             θ < margin            anything that has to stay below
    ================  ====================  ==========================================

    Args:
        form: what would answer the question.
        margin: the smallest difference that matters, or the probability or bound itself.
        quantifier: in which settings it has to hold: in every one, on average, in some.
        cap: the largest number of seeds.
        alpha: probability of a wrong *held* or *refuted* over all looks.
        precision: half-width of the interval at which more seeds are not worth their cost; by
            default the margin, and .1 for a probability.

    Raises:
        ValueError: an unknown form or quantifier, or a number outside its range.

    Example:
        >>> Question(form="non-inferiority", margin=0.005).region
        (-0.005, inf)
    """

    form: Form
    margin: int | float
    quantifier: Quantifier = "every"
    cap: int = 40
    alpha: float = 0.05
    precision: int | float | None = None

    def __post_init__(self) -> None:
        check_name(self.form, get_args(Form), "form of a question")
        check_name(self.quantifier, get_args(Quantifier), "quantifier")
        _check_number("margin", self.margin, "the smallest difference that matters, such as 0.01")
        least = -math.inf if self.form == "bound" else 0.0
        if not least <= self.margin < (1 if self.form == "probability" else math.inf):
            raise ValueError(
                f"margin is {self.margin}. A question of {self.form} takes "
                + ("a probability below 1" if self.form == "probability" else "0 or more")
            )
        if self.form == "equivalence" and self.margin == 0:
            raise ValueError("margin is 0, and nothing is nearer than that. Pass one above 0")
        if isinstance(self.cap, bool) or not isinstance(self.cap, int) or self.cap < 2:
            raise ValueError(f"cap is {self.cap!r}. Pass a whole number of seeds from 2 up")
        _check_number("alpha", self.alpha, "a number between 0 and 1, such as 0.05")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}. Pass a number between 0 and 1, such as 0.05")
        if self.precision is not None:
            _check_number("precision", self.precision, "a half-width above 0")
            if self.precision <= 0:
                raise ValueError(f"precision is {self.precision}. Pass a half-width above 0")

    @property
    def region(self) -> tuple[float, float]:
        """Where the effect has to lie, ends excluded."""
        margin = float(self.margin)
        ends: dict[Form, tuple[float, float]] = {
            "superiority": (margin, math.inf),
            "non-inferiority": (-margin, math.inf),
            "equivalence": (-margin, margin),
            "probability": (margin, math.inf),
            "bound": (-math.inf, margin),
        }
        return ends[self.form]

    @property
    def looks(self) -> list[int]:
        """After how many seeds the question is looked at: 5, 10, 20, 40, …, and at the cap.

        >>> Question(form="bound", margin=0.6, cap=15).looks
        [5, 10, 15]
        """
        doubled = [FIRST_LOOK * 2**k for k in range(self.cap.bit_length())]
        return [look for look in doubled if look < self.cap] + [self.cap]

    @property
    def enough(self) -> float:
        """The half-width at which more seeds are not worth their cost."""
        if self.precision is not None:
            return float(self.precision)
        return PROBABILITY_PRECISION if self.form == "probability" else float(self.margin)


def _check_number(name: str, value: object, advice: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(float(value)):  # type: ignore[arg-type]
        raise ValueError(f"{name} is {value!r}. Pass {advice}")
