"""Heads: from a patient's embedding to logits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dfdlib.data import Cohort
from dfdlib.errors import unknown, wrong_type
from dfdlib.models.additive import Invariant, Substitute
from dfdlib.models.routes import NWGM, Dropout, InverseProbability, Prototypes, Route, Stratified

RouteName = Literal["stratified", "nwgm", "prototypes", "substitute", "ipw", "dropout", "invariant"]

ROUTES: dict[str, type[Route]] = {
    "stratified": Stratified,
    "nwgm": NWGM,
    "prototypes": Prototypes,
    "substitute": Substitute,
    "ipw": InverseProbability,
    "dropout": Dropout,
    "invariant": Invariant,
}


class Head(nn.Module, ABC):
    """What a method asks of a head: `forward`, and methods that change nothing unless overridden.

    A module of a user's own need not be built on this class: whatever it lacks is answered by the
    defaults below, see `dfdlib.models.backbone.adapted`.

    Example:
        >>> class Doubled(Head):
        ...     def forward(self, h, observed):
        ...         return 2 * h
        ...     def penalty(self, h, observed, y):
        ...         return h.square().mean()
        >>> Doubled()(torch.ones(2, 1), torch.ones(2, 3, dtype=torch.bool)).tolist()
        [[2.0], [2.0]]
    """

    @abstractmethod
    def forward(
        self, h: Float[Tensor, "n d"], observed: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "n k"]:
        """Map embeddings to logits."""

    def build(self, *, d: int, n_outputs: int) -> None:
        """Make what depends on these sizes; the method that owns the head calls this once."""

    def prepare(self, train: Cohort) -> None:
        """Read off the training part what the head needs; `fit` calls this before it trains."""

    def mask(self, observed: Bool[Tensor, "n m"]) -> Bool[Tensor, "n m"]:
        """What the backbone is shown in training: here all that was observed."""
        return observed

    def sample_weight(self, observed: Bool[Tensor, "n m"]) -> Float[Tensor, " n"] | None:
        """Weight of each patient's loss, by what was observed; None is 1 for everybody."""
        del observed
        return None

    def row_weight(self, index: Int[Tensor, " n"]) -> Float[Tensor, " n"] | None:
        """Weight of each patient's loss, by row of the training part; None is 1 for everybody."""
        del index
        return None

    def penalty(
        self, h: Float[Tensor, "n d"], observed: Bool[Tensor, "n m"], y: Tensor
    ) -> Float[Tensor, ""] | None:
        """What is added to the loss in training; None adds no term."""
        del h, observed, y
        return None

    def fix_states(self, stream: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Fix what depends on other patients, before a validation and at the end of training.

        Args:
            stream: gives (h, observed) batch by batch over the training part, in evaluation mode,
                each time it is called.
        """

    def explain(
        self,
        h: Float[Tensor, "n d"],
        observed: Bool[Tensor, "n m"],
        *,
        names: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Take predictions apart, with the patient's place in the batch as `row`: here nothing."""
        del h, observed, names
        return pd.DataFrame({"row": []})


class Linear(Head):
    """The default head: one affine map.

    Args:
        d: width of the embedding; None takes the backbone's.
        n_outputs: number of logits; None takes the task's.

    Shapes:
        h (n, d), observed (n, M) -> (n, n_outputs)
    """

    def __init__(self, *, d: int | None = None, n_outputs: int | None = None) -> None:
        super().__init__()
        self.d: int | None = None
        self.n_outputs: int | None = None
        if d is not None and n_outputs is not None:
            self.build(d=d, n_outputs=n_outputs)

    def build(self, *, d: int, n_outputs: int) -> None:
        """Make the parameters once the sizes are known."""
        if self.d is None:
            self.d, self.n_outputs = d, n_outputs
            self.map = nn.Linear(d, n_outputs)

    def forward(
        self, h: Float[Tensor, "n d"], observed: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "n k"]:
        """Map the embedding to logits."""
        del observed  # a linear head does not read which modalities are there
        return self.map(h)


class Deconfounder(Head):
    r"""Adjust a prediction for which modalities are missing; a head for any method and backbone.

    Source: the deconfounding module of arXiv 2509.05615, "approximates causal intervention based on
    backdoor adjustment". The text could not be read for this book, so the forms that this can
    mean are kept apart:

    `stratified`
        :math:`\sum_r P(r)\, P(y \mid x, r)` over the training part's patterns r, on [h ; r].
    `nwgm`
        the same head at the mean pattern, :math:`f(h, \sum_r P(r)\, r)`.
    `prototypes`
        :math:`\sum_k \alpha_k(h)\, P(y \mid x, c_k)`, attention over a dictionary of confounders.
    `substitute`
        latent classes estimated from the patterns (and proxies), :math:`q_k(r) = P(k \mid r)`;
        :math:`\sum_k P(k)\, \sigma(c(h) - q(r_i) b + b_k + g_k)`, with b the trace of q in c.
    `ipw`
        losses weighted by 1 / P(r), or with proxies w by P(r) / P(r | w).
    `dropout`
        modalities hidden at random in training.
    `invariant`
        :math:`\sum_r P(r)\, \sigma(c(h) - m_{r_i} + m_r + g_r)`, with :math:`m_r` the mean of c in
        pattern r: penalised in training, and subtracted after it.

    All sums but that of `nwgm` are of probabilities. Graphs: C latent, R the pattern, X features.

    ============  ==========================================  ====================================
    route         a backdoor adjustment where                 must fail where
    ============  ==========================================  ====================================
    stratified    C acts through R (C → R → Y), h is blind    h has read the mask
    nwgm          as stratified, and logits spread little     as stratified
    prototypes    as stratified, and the attention is flat    h has read the mask
    substitute    C → R, C → Y, three entries of R            X → R; entries of R independent
    ipw           proxies w take up what drives R             a latent drives R; no proxies
    dropout       never                                       the mask tells of Y
    invariant     C → R, C → Y, and no X → R                  X → R (ordered by severity, MAR, self)
    ============  ==========================================  ====================================

    A network reads the mask off the tokens that are there, whether or not it is given flags. What
    is read off the training part is stored with the model. A patient whose pattern training never
    saw is told of in a warning: `invariant` then takes the nearest pattern's correction, the others
    compute as for everybody.

    Args:
        route: one of the names above, or a route with options of its own, such as
            `Invariant(momentum=0.5)`. With a name, the options below are the route's.
        weight: of the penalty (invariant, substitute).
        momentum: of the moving means in the penalty (invariant, substitute).
        subtract: whether the trace is subtracted after training (invariant, substitute).
        n_prototypes: size of the dictionary (prototypes).
        dictionary: "kmeans" of the training masks, or "learned" (prototypes).
        temperature: of the attention (prototypes).
        proxies: covariates or groups of the training part that tell what drove the mask; no model
            input, and not needed at prediction (substitute, ipw).
        clip: the largest weight, in multiples of the mean; truncation warns (ipw).
        rate: probability of hiding a modality (dropout).
        n_patterns: with more than 8 modalities, how many training patients are drawn to stand for
            all patterns; up to 8 all patterns are kept.
        d: width of the embedding; None takes the backbone's.
        n_outputs: number of logits; None takes the task's.

    Shapes:
        h (n, d), observed (n, M) -> (n, n_outputs)

    Raises:
        ValueError: if the route is unknown, or an option out of range, of another route, or beside
            a route that has its own.
        TypeError: if the route is neither a name nor a route.

    Example:
        >>> from dfdlib import data
        >>> from dfdlib.models import GRAPE, Classifier
        >>> cohort = data.load("synthetic", n=200, missing="mnar_latent")
        >>> head = Deconfounder(route="invariant")
        >>> model = Classifier(backbone=GRAPE(d=8), schema=cohort.schema, head=head)
        >>> model.prepare(cohort)
        >>> model.explain(next(cohort.batches(1))).columns.tolist()
        ['row', 'output', 'stratum', 'weight', 'probability', 'contribution', 'naive', 'adjusted']
    """

    # DIFF: the module has no public form: each route is a reading of it, and none the paper's.

    def __init__(
        self,
        *,
        route: RouteName | str | Route,
        weight: float | int = 0.3,
        momentum: float | int = 0.9,
        subtract: bool = True,
        n_prototypes: int = 8,
        dictionary: Literal["kmeans", "learned"] | str = "kmeans",
        temperature: float | int = 1.0,
        proxies: Sequence[str] = (),
        clip: float | int = 10.0,
        rate: float | int = 0.3,
        n_patterns: int = 256,
        d: int | None = None,
        n_outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.momentum, self.subtract = weight, momentum, subtract
        self.n_prototypes, self.dictionary, self.temperature = n_prototypes, dictionary, temperature
        self.proxies, self.clip, self.rate, self.n_patterns = proxies, clip, rate, n_patterns
        self.named = route if isinstance(route, str) else None
        self.adjustment = self._by_name(route) if isinstance(route, str) else self._alone(route)
        self.d: int | None = None
        self.n_outputs: int | None = None
        if d is not None and n_outputs is not None:
            self.build(d=d, n_outputs=n_outputs)

    @property
    def route(self) -> str | Route:
        """What was passed as `route=`: a name, or a route with options of its own."""
        return self.adjustment if self.named is None else self.named

    def _by_name(self, name: str) -> Route:
        """Make the route of a name; an option that it does not have stays at its default."""
        if name not in ROUTES:
            raise unknown(name, ROUTES, "route of Deconfounder")
        kind = ROUTES[name]
        for option, value in self._changed().items():
            readers = [key for key, other in ROUTES.items() if option in other.defaults()]
            if name not in readers:
                raise ValueError(
                    f"{option}={value!r} has no effect with route={name!r}; it is an option of "
                    f"{' and '.join(readers)}. Leave it out"
                )
        return kind(**{option: getattr(self, option) for option in kind.defaults()})

    def _alone(self, route: Route) -> Route:
        """Take a route as it is; options beside it would be somebody else's."""
        if not isinstance(route, Route):
            raise wrong_type(
                route,
                "Deconfounder takes a name or a route as route=",
                "Write route='invariant', or route=Invariant(momentum=0.5)",
            )
        kind = type(route).__name__
        for option, value in self._changed().items():
            has = option in route.defaults()
            raise ValueError(
                f"{option}={value!r} has no effect with route={kind}(…), which has options of its "
                f"own. {f'Write route={kind}({option}={value!r})' if has else 'Leave it out'}"
            )
        return route

    def _changed(self) -> dict[str, Any]:
        """The options that are not at their defaults."""
        options = {k: v for kind in ROUTES.values() for k, v in kind.defaults().items()}
        return {
            name: value
            for name, default in options.items()
            if (tuple(value) if isinstance(value := getattr(self, name), list) else value)
            != default
        }

    def build(self, *, d: int, n_outputs: int) -> None:
        """Make the parameters once the sizes are known."""
        if self.d is None:
            self.d, self.n_outputs = d, n_outputs
            self.adjustment.build(d=d, n_outputs=n_outputs)

    def prepare(self, train: Cohort) -> None:
        """Read patterns, prototypes, latent classes or weights off the training part.

        Raises:
            ValueError: if it has no labels, or a proxy does not exist or is missing for somebody.
        """
        if train.task is None:
            raise ValueError("the training part has no labels. Pass y= when you make the Cohort.")
        self.adjustment.prepare(train)

    def mask(self, observed: Bool[Tensor, "n m"]) -> Bool[Tensor, "n m"]:
        """What the backbone is shown in training; `dropout` hides some of what is there."""
        return self.adjustment.mask(observed)

    def forward(
        self, h: Float[Tensor, "n d"], observed: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "n k"]:
        """Logits: what the loss fits in training, of the adjusted probability in evaluation."""
        if self.training:
            return self.adjustment.trained(h, observed)
        self.adjustment.patterns.tell_new(observed, self.adjustment.new_pattern)
        return self.adjustment.adjusted(h, observed)

    def penalty(
        self, h: Float[Tensor, "n d"], observed: Bool[Tensor, "n m"], y: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """What is added to the loss; zero where the route has no penalty. Labels are not read."""
        del y
        return self.adjustment.penalty(h, observed)

    def sample_weight(self, observed: Bool[Tensor, "n m"]) -> Float[Tensor, " n"]:
        """Weight of each patient's loss by pattern, on average 1 over the training part."""
        return self.adjustment.sample_weight(observed)

    def row_weight(self, index: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Weight of each patient's loss by row of the training part (`ipw` with proxies)."""
        return self.adjustment.row_weight(index)

    def fix_states(self, stream: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Read off the training part's embeddings what the mask has left in the logits."""
        self.adjustment.fix_states(stream)

    def explain(
        self,
        h: Float[Tensor, "n d"],
        observed: Bool[Tensor, "n m"],
        *,
        names: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Take the prediction apart; `Classifier.explain(batch)` calls this.

        Args:
            h: embeddings.
            observed: which modalities are there.
            names: of the modalities; None numbers them.

        Returns:
            One row per patient, output (class or label; 1 for a binary task) and stratum (pattern,
            prototype or level): the stratum's weight, the probability under it, and its
            contribution, weight x probability. `naive` is the probability under the patient's own
            stratum, `adjusted` what is predicted: the sum of the contributions. The routes that
            act in training only (ipw, dropout) have one stratum, "as observed".
        """
        return explanation(self.adjustment, h, observed, names)

    def strata(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """What predictions are averaged over: its share, and P(modality is there | stratum).

        For `substitute` that is the estimated effect of the confounder on missingness.

        Args:
            names: of the modalities; None numbers them.
        """
        return strata_table(self.adjustment, names)


# ---------------- The tables that `Deconfounder` answers with


def strata_table(route: Route, names: Sequence[str] | None) -> pd.DataFrame:
    """What predictions are averaged over: its share, and P(modality is there | stratum)."""
    labels, share, there = route.strata()
    names = [f"modality {j + 1}" for j in range(there.shape[1])] if names is None else names
    table = there.double().cpu().numpy()
    if not labels:
        labels = ["+".join(np.array(names)[row > 0]) or "nothing" for row in table]
    return pd.DataFrame(
        {"share": share.double().cpu().numpy(), **dict(zip(names, table.T, strict=True))},
        index=pd.Index(labels, name="stratum"),
    )


@torch.no_grad()
def explanation(
    route: Route,
    h: Float[Tensor, "n d"],
    observed: Bool[Tensor, "n m"],
    names: Sequence[str] | None,
) -> pd.DataFrame:
    """One row per patient, output and stratum, as `Deconfounder.explain` promises."""
    logits, weight = route.parts(h, observed)
    p, naive = route.probability(logits), route.probability(route.naive(h, observed))
    n, g, k = p.shape
    labels = strata_table(route, names).index.to_numpy(dtype=object)
    stratum = ["as observed"] if g != len(labels) else labels
    contribution = weight[:, :, None] * p
    keys = {
        "row": np.repeat(np.arange(n), k * g),
        # the one output of a binary task is the probability of class 1
        "output": np.tile(np.repeat(np.arange(k) + (k == 1), g), n),
        "stratum": np.tile(np.asarray(stratum, dtype=object), n * k),
    }
    columns = {
        "weight": weight[:, None, :].expand(n, k, g),
        "probability": p.transpose(1, 2),
        "contribution": contribution.transpose(1, 2),
        "naive": naive[:, :, None].expand(n, k, g),
        "adjusted": contribution.sum(1)[:, :, None].expand(n, k, g),
    }
    return pd.DataFrame(
        keys | {name: v.double().cpu().numpy().ravel() for name, v in columns.items()}
    )
