"""Multimodal variational autoencoders that differ in one thing: how the views share a latent."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dfdlib.arrays import plain
from dfdlib.data import Batch, Cohort, Ragged, Schema
from dfdlib.data.arrays import Images
from dfdlib.errors import check_type, unknown, wrong_type
from dfdlib.models import fusion
from dfdlib.models.encoders import check_schema
from dfdlib.models.fusion import (
    Average,
    Draws,
    Posteriors,
    PriorExpert,
    Regulariser,
    steady_noise,
)
from dfdlib.models.method import Method, Stage
from dfdlib.models.vae_networks import Network, make_networks
from dfdlib.models.vae_views import Seen, View, make_views, wide

Prior = Literal["independent", "avg", "poe", "moe", "mopoe", "mmvm"]
Times = Literal["views", "once"]
Experts = Literal["split", "all"]
Annealing = Literal["exp", "linear", "cosine", "none"]

#: Steps of the public code's annealing, as a share of the paper's 240 epochs of 3,212 steps.
ANNEALED = 150_000 / (240 * 3_212)

PRIORS = get_args(Prior)

#: Values that are decoded at a time by `log_likelihood`.
AT_A_TIME = 2**22

#: Values of a view, in the units of the data, and whose they are -> the class of each.
Judge = Callable[[Tensor, np.ndarray], np.ndarray]

_CHOICES = {
    "prior": Prior,
    "regulariser": Regulariser,
    "kl_times": Times,
    "prior_expert": PriorExpert,
    "experts": Experts,
    "average": Average,
    "annealing": Annealing,
    "network": Network,
}


def prior_weight(
    done: float, *, alpha: float, annealing: Annealing | str, annealed: float
) -> float:
    r"""Weight of the standard normal distribution when a share of the training is done.

    It falls from 1 to alpha. Source: the public code of Sutter et al. 2024, which anneals over
    150,000 steps whatever the length of the run: :math:`\alpha(t) = 10^{-10 t / 150000}`.

    Example:
        >>> at = lambda done: prior_weight(done, alpha=0.0, annealing="exp", annealed=0.2)
        >>> [round(at(done), 4) for done in (0.0, 0.02, 0.1, 0.2)]
        [1.0, 0.1, 0.0, 0.0]
    """
    # DIFF: the annealing is a share of the run, not a number of steps
    t = done / annealed if annealed else 1.0
    if annealing == "none" or t >= 1:
        return alpha
    falls = {"exp": 10 ** (-10 * t), "linear": 1 - t, "cosine": (1 + math.cos(math.pi * t)) / 2}
    return alpha + (1 - alpha) * falls[annealing]


class MultimodalVAE(Method):
    r"""Variational autoencoder of several views.

    Source: Sutter et al. 2024 (arXiv 2403.05300) and its public code. With a posterior
    :math:`q_m(z_m \mid x_m)` and a decoder per view it minimises

    .. math::
        -\sum_m \mathrm{E} \log p(x_m \mid z_m) + \beta \, R ,

    and `prior` says where :math:`z_m` comes from and what R is:

    =============  =============================  ==================================================
    `prior`        :math:`z_m`                    R
    =============  =============================  ==================================================
    "independent"  of :math:`q_m`                 :math:`\sum_m \mathrm{KL}(q_m \| N(0, I))`
    "avg"          of the averaged parameters     :math:`M \, \mathrm{KL}(q \| N(0, I))`
    "poe"          of the product                 the same, of the product
    "moe"          of one expert                  the same, of that expert
    "mopoe"        of the product of one subset   the same, of that product
    "mmvm"         of :math:`q_m`                 `dfdlib.models.fusion.mmvm`, annealed
    =============  =============================  ==================================================

    M counts the views that a patient has; views may be missing anywhere, but each patient needs
    one. Labels are never read. In evaluation mode noise depends on a patient's row alone, mixtures
    are summed over their components, and the annealing is over: no order changes a result.

    Args:
        schema: `cohort.schema` of the data that the model is for.
        prior: how the views share a latent.
        regulariser: of "mmvm": "pairwise" (closed form, as in the public code) or "mixture" (as
            written in the paper).
        d_latent: latent dimensions.
        beta: weight of R.
        likelihood: "laplace", "gaussian", "bernoulli" or "poisson", or one by view.
        scale: of the Laplace and Gaussian likelihoods.
        balance: whether small views count as much as the largest: times d_max / d_m.
        kl_times: whether the joint models count their divergence M times ("views", as in the
            public code) or "once".
        prior_expert: whether N(0, I) is a factor of products: of "none", of "all", or, of "mopoe",
            only of that of all views ("full").
        experts: in training, of mixtures: each patient gets one component, in equal shares of a
            batch ("split"), or "all" of them.
        average: of "avg": "variance" (the code) or "deviation" (the paper).
        alpha: weight of N(0, I) in R of "mmvm" at the end of the annealing.
        annealing: how that weight falls from 1: "exp", "linear", "cosine", "none".
        annealed: over which share of the training it does.
        network: of images: "small", "residual" (224 by 224 only), or "auto": by their size.
        width: channels of the first layer for images; None takes 16, or 64 if residual.
        dropout: in encoders and decoders; None takes 0, or 0.5 if residual.
        encoders: modules `forward(x) -> (mean, log_variance)` in the place of the default ones. x
            is an image, or a vector of standardised values followed by what of them was observed.
        decoders: modules `forward(z)` in the place of the default ones: the centre of a Laplace or
            Gaussian, the logit of a Bernoulli, the logarithm of a Poisson likelihood.

    Raises:
        ValueError: for an option that does not exist, a number that means nothing, or a view that
            is neither image nor vector.

    Example:
        >>> from dfdlib.data import Cohort
        >>> cohort = Cohort(x={"frontal": torch.rand(6, 1, 16, 16), "labs": torch.randn(6, 3)})
        >>> vae = MultimodalVAE(schema=cohort.schema, prior="mmvm", d_latent=4)
        >>> vae.prepare(cohort)
        >>> batch = next(cohort.batches(6))
        >>> sorted(vae.loss(batch))
        ['kl', 'reconstruction_frontal', 'reconstruction_labs', 'total']
        >>> {name: tuple(mean.shape) for name, mean in vae.embed(batch).items()}
        {'frontal': (6, 4), 'labs': (6, 4), 'joint': (6, 4)}
    """

    supervised = False
    stage_options = ("beta", "alpha", "regulariser")
    default_stages = (Stage(epochs=100),)
    views: nn.ModuleDict
    encoders: nn.ModuleDict
    decoders: nn.ModuleDict
    prior_code: Tensor

    def __init__(
        self,
        *,
        schema: Schema,
        prior: Prior | str = "mmvm",
        regulariser: Regulariser | str = "pairwise",
        d_latent: int = 64,
        beta: int | float = 1.0,
        likelihood: str | Mapping[str, str] = "laplace",
        scale: float = 0.75,
        balance: bool = True,
        kl_times: Times | str = "views",
        prior_expert: PriorExpert | str = "none",
        experts: Experts | str = "split",
        average: Average | str = "variance",
        alpha: int | float = 0.0,
        annealing: Annealing | str = "exp",
        annealed: float = ANNEALED,
        network: Network | str = "auto",
        width: int | None = None,
        dropout: float | None = None,
        encoders: Mapping[str, nn.Module] | None = None,
        decoders: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        check_schema(schema, type(self).__name__)
        self.schema, self.prior, self.regulariser = schema, prior, regulariser
        self.d_latent, self.beta, self.likelihood, self.scale = d_latent, beta, likelihood, scale
        self.balance, self.kl_times, self.prior_expert = balance, kl_times, prior_expert
        self.experts, self.average = experts, average
        self.alpha, self.annealing, self.annealed = alpha, annealing, annealed
        self.network, self.width, self.dropout = network, width, dropout
        self._check_options()
        self.views = make_views(schema, likelihood=likelihood, scale=scale)
        self.encoders, self.decoders = make_networks(
            self.views,
            d=d_latent,
            network=network,
            width=width,
            dropout=dropout,
            encoders=encoders,
            decoders=decoders,
        )
        self.done = 1.0
        self.register_buffer("prepared", torch.tensor(False))
        self.register_buffer("prior_code", torch.tensor(PRIORS.index(prior)))
        largest = max(view.n_values for _, view in self._views())
        self.view_weight = {
            name: largest / view.n_values if balance else 1.0 for name, view in self._views()
        }

    def _check_options(self) -> None:
        """Refuse options that do not exist, and numbers that mean nothing."""
        for name, kind in _CHOICES.items():
            value = getattr(self, name)
            if value not in get_args(kind):
                raise unknown(value, get_args(kind), f"choice of {name}")
        d: Any = self.d_latent
        if type(d) is not int or d < 1:
            raise ValueError(
                f"d_latent must be a whole number from 1 on, got {d!r}. Take d_latent=64"
            )
        for name, low, high, example in (
            ("beta", 0.0, math.inf, 1.0),
            ("alpha", 0.0, 1.0, 0.0),
            ("annealed", 0.0, 1.0, 0.2),
            ("scale", 1e-12, math.inf, 0.75),
            ("dropout", 0.0, 1.0 - 1e-12, 0.5),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                limits = "positive" if name == "scale" else f"between {low:g} and {high:g}"
                raise ValueError(f"{name} must be {limits}, got {value!r}. Take {name}={example}")

    @property
    def own_latents(self) -> bool:
        """Whether each view is decoded from a latent of its own."""
        return self.prior in ("independent", "mmvm")

    def prepare(self, train: Cohort) -> None:
        """Check the values of the training part, and fit the scale of its vectors."""
        _refuse_empty(train)
        for name, view in self._views():
            there = train.observed[:, train.names.index(name)]
            values = train.x[name]
            if isinstance(values, Images):  # 8 bits fit any range: one row tells the shape
                one = there.nonzero()[:1, 0]
                values, there = values[one].scaled(), there[one]
            view.fit(_dense(values), train.x_observed.get(name), there)
        self.prepared.fill_(True)

    def fix_states(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Nothing here depends on other patients."""

    def advance(self, done: float) -> None:
        """Take the share of the training that is done, for the annealing."""
        self.done = done

    def conclude(self, history: pd.DataFrame) -> list[str]:
        """The annealing is over."""
        del history
        self.done = 1.0
        return []

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction of each view, divergence, and their sum with beta; means over patients."""
        q, seen = self.encode(batch)
        draws = self._draws(q, batch)
        n = max(len(batch), 1)
        terms = {"kl": draws.kl.sum() / n}
        for j, name in enumerate(self.schema.names):
            terms[f"reconstruction_{name}"] = self._reconstruction(j, name, q, draws, seen) / n
        total = self.beta * terms["kl"] + sum(term for name, term in terms.items() if name != "kl")
        return {"total": total, **terms}

    def encode(self, batch: Batch) -> tuple[Posteriors, dict[str, Seen]]:
        """The posterior of each view, and what was seen of it: only of rows that have the view.

        Raises:
            ValueError: if a patient has no view, or a view another shape or range than it should.
        """
        column = {name: j for j, name in enumerate(batch.x)}
        for name in column:
            if name not in self.views:
                raise unknown(name, self.schema.names, "view of this model")
        if not bool(batch.observed.any(1).all()):
            row = int((~batch.observed.any(1)).int().argmax())
            raise ValueError(
                f"row {row} of the batch has no view at all, so there is nothing to encode. Leave "
                "such rows out: cohort.select(cohort.observed.any(dim=1))"
            )
        n, device = len(batch), batch.observed.device
        means, spreads, masks, seen = [], [], [], {}
        for name, view in self._views():
            there = torch.zeros(n, dtype=torch.bool, device=device)
            mean = torch.zeros(n, self.d_latent, device=device)
            spread = mean
            if name in column:
                there = batch.observed[:, column[name]]
            if bool(there.any()):
                whole = bool(there.all())
                values, flags = _dense(batch.x[name]), batch.x_observed.get(name)
                if not whole:
                    values, flags = values[there], None if flags is None else flags[there]
                seen[name] = view.read(values, flags)
                encoded = self.encoders[name](seen[name].encoded)
                self._check_encoded(name, encoded, len(seen[name].target))
                encoded = tuple(wide(part) for part in encoded)
                if whole:
                    mean, spread = encoded
                else:
                    mean = mean.index_put((there,), encoded[0])
                    spread = spread.index_put((there,), encoded[1])
            means.append(mean)
            spreads.append(spread)
            masks.append(there)
        q = Posteriors(torch.stack(means, 1), torch.stack(spreads, 1), torch.stack(masks, 1))
        return q, seen

    def _check_encoded(self, name: str, encoded: Any, n: int) -> None:
        shapes = [tuple(part.shape) for part in encoded]
        if shapes != [(n, self.d_latent)] * 2:
            raise ValueError(
                f"the encoder of {name!r} gives {shapes}, and mean and logarithm of the variance "
                f"are of {(n, self.d_latent)} each. Make it with d={self.d_latent}"
            )

    def components(self, q: Posteriors) -> Posteriors:
        """The joint posterior as a mixture: its components, and which of them a patient has."""
        if self.prior in ("avg", "poe"):
            mean, log_variance = (
                fusion.avg(*q, average=self.average)
                if self.prior == "avg"
                else fusion.poe(*q, prior_expert=self.prior_expert != "none")
            )
            whole = torch.ones_like(q.observed[:, :1])
            return Posteriors(mean.unsqueeze(1), log_variance.unsqueeze(1), whole)
        if self.prior == "mopoe":
            return Posteriors(*fusion.mopoe(*q, prior_expert=self.prior_expert))
        return Posteriors(*fusion.moe(*q))

    def _draws(self, q: Posteriors, batch: Batch) -> Draws:
        """Draw latents, with the divergence that goes with them."""
        one = q.mean.new_ones(len(batch), 1)
        if self.own_latents:
            z = _draw(q.mean, q.log_variance, self._noise(batch, self.schema.names))
            return Draws(z.unsqueeze(1), one, self._divergence(q, z))
        joint = self.components(q)
        times = q.observed.sum(1) if self.kl_times == "views" else 1
        if self.training and self.experts == "split" and joint.mean.shape[1] > 1:
            # DIFF: the public code splits by position; patients come shuffled, but a component
            # should not depend on the order even so
            place = (torch.randperm(len(batch)) + 0.5).to(q.mean.device) / len(batch)
            mean, log_variance = (t.unsqueeze(1) for t in fusion.pick(*joint, place))
            weight = one
        else:
            mean, log_variance = joint.mean, joint.log_variance
            weight = joint.observed / joint.observed.sum(1, keepdim=True)
        divergence = (weight * fusion.kl_standard(mean, log_variance)).sum(1)
        z = _draw(mean, log_variance, self._noise(batch, ("joint",) * mean.shape[1]))
        return Draws(z.unsqueeze(2), weight, times * divergence)

    def _divergence(self, q: Posteriors, z: Tensor) -> Tensor:
        if self.prior == "independent":
            return (q.observed * fusion.kl_standard(q.mean, q.log_variance)).sum(1)
        alpha = self.alpha
        # DIFF: the public code validates at the current weight, which makes epochs incomparable
        if self.training:
            alpha = prior_weight(
                self.done, alpha=alpha, annealing=self.annealing, annealed=self.annealed
            )
        return fusion.mmvm(*q, regulariser=self.regulariser, alpha=alpha, z=z)

    def _noise(self, batch: Batch, names: tuple[str, ...]) -> Float[Tensor, "n v d"]:
        if not self.training:
            return steady_noise(batch.index, names, self.d_latent)
        return torch.randn(len(batch), len(names), self.d_latent, device=batch.index.device)

    def _reconstruction(
        self, j: int, name: str, q: Posteriors, draws: Draws, seen: dict[str, Seen]
    ) -> Tensor:
        """Minus the log-likelihood of a view, summed over the patients who have it."""
        if name not in seen:
            # every process has to touch every weight
            parts = (*self.encoders[name].parameters(), *self.decoders[name].parameters())
            return sum((0 * part.sum() for part in parts), q.mean.new_zeros(()))
        rows = q.observed[:, j]
        z, weight = draws.z[:, :, j if self.own_latents else 0], draws.weight
        if len(seen[name].target) < len(rows):
            z, weight = z[rows], weight[rows]
        s = z.shape[1]
        centre = self.decoders[name](z.flatten(0, 1))
        what = seen[name] if s == 1 else seen[name].repeat(s)
        view: View = self.views[name]  # type: ignore[assignment]
        log_p = view.log_likelihood(centre, what).view(-1, s)
        return -self.view_weight[name] * (weight * log_p).sum()

    @torch.no_grad()
    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "n d"]]:
        """Features: the mean of each view's posterior, and that of the joint one ("joint").

        Where a view is missing its features are zeros, which is the prior's mean; `batch.observed`
        says where. The joint mean is that of the mixture, the product or the average; of
        independent views and of MMVM that of the mixture of the views that are there.
        """
        with _evaluating(self):
            q, _ = self.encode(batch)
            joint = self.components(q)
        weight = (joint.observed / joint.observed.sum(1, keepdim=True)).unsqueeze(-1)
        mean = torch.where(q.observed.unsqueeze(-1), q.mean, 0)
        by_view = dict(zip(self.schema.names, mean.unbind(1), strict=True))
        return by_view | {"joint": (weight * joint.mean).sum(1)}

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "n d"]) -> dict[str, Float[Tensor, "n ..."]]:
        """The expected value of each view given latents, in the units of the data.

        Images that were passed as uint8 come back between 0 and 1.
        """
        with _evaluating(self):
            return {name: self._expected(name, z) for name in self.schema.names}

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> dict[str, Float[Tensor, "n ..."]]:
        """Decode each view from the latent that training decodes it from, without noise.

        Where a patient lacks the view, that is what `impute` gives.
        """
        with _evaluating(self):
            q, _ = self.encode(batch)
            joint = self.components(q)
            result = {}
            for j, name in enumerate(self.schema.names):
                there = q.observed[:, j]
                result[name] = self._expected_under(name, joint)
                if self.own_latents:
                    result[name][there] = self._expected(name, q.mean[there, j])
        return result

    @torch.no_grad()
    def impute(
        self, batch: Batch, view: str, *, given: Sequence[str] | None = None
    ) -> Float[Tensor, "n ..."]:
        """The expected value of a view given other views, whether or not it is there itself.

        Of a mixture it is the mean of what the components' means decode to.

        Args:
            batch: patients.
            view: the view to fill in.
            given: the views to fill it in from; None takes all others that a patient has.

        Raises:
            ValueError: for an unknown view, or a patient who has none of the others.
        """
        for name in (view, *(given or ())):
            if name not in self.schema.names:
                raise unknown(name, self.schema.names, "view of this model")
        names = [n for n in self.schema.names if n != view] if given is None else list(given)
        with _evaluating(self):
            q, _ = self.encode(batch)
            allowed = [name in names for name in self.schema.names]
            q = q._replace(observed=q.observed & q.observed.new_tensor(allowed))
            lacks = ~q.observed.any(1)
            if bool(lacks.any()):
                raise ValueError(
                    f"{int(lacks.sum())} of {len(batch)} patients have none of "
                    f"{', '.join(names) or 'the other views'}, so {view!r} cannot be filled in. "
                    "Leave them out, or name other views: given=[...]"
                )
            return self._expected_under(view, self.components(q))

    @torch.no_grad()
    def generate(
        self, batch: Batch, *, n: int = 1, seed: int = 0
    ) -> dict[str, Float[Tensor, "k n ..."]]:
        """Draw latents given the views that each patient has, and decode all views from them.

        Args:
            batch: patients.
            n: draws of each.
            seed: of the draws; a patient's depend on it and the row in the cohort alone.

        Shapes:
            n draws of k patients -> (n, k, ...) by view
        """
        d = self.d_latent
        with _evaluating(self):
            q, _ = self.encode(batch)
            joint = self.components(q)
            draws = []
            for k in range(n):
                noise = steady_noise(batch.index, (f"{seed}, draw {k}",), d + 1)[:, 0]
                mean, log_variance = fusion.pick(*joint, torch.special.ndtr(noise[:, d]))
                draws.append(self.decode(mean + noise[:, :d] * (0.5 * log_variance).exp()))
        return {name: torch.stack([draw[name] for draw in draws]) for name in self.schema.names}

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0) -> dict[str, Float[Tensor, "n ..."]]:
        """Draw latents from N(0, I) and decode them: new patients, given nothing.

        Independent views get latents of their own.

        Raises:
            ValueError: for MMVM, where nothing pulls latents to N(0, I) once it is annealed.
        """
        if self.prior == "mmvm":
            raise ValueError(
                "MMVM's prior is the mixture of a patient's own posteriors, so there is none to "
                "draw new patients from. Take model.generate(batch), or another prior"
            )
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(len(self.schema.names), n, self.d_latent, generator=generator)
        z = z.to(self.prior_code.device)
        z = z if self.own_latents else z[:1].expand_as(z)
        return {name: self.decode(z[j])[name] for j, name in enumerate(self.schema.names)}

    @torch.no_grad()
    def log_likelihood(
        self, cohort: Cohort, *, n_samples: int = 1000, seed: int = 0
    ) -> Float[np.ndarray, " n"]:
        r"""Estimate how likely each patient's views are, by importance sampling.

        Source: Burda et al. 2016 (arXiv 1509.00519), equation 8, as Wu and Goodman 2018 and Shi et
        al. 2019 use it for several views. With K latents of the joint posterior,

        .. math::
            \log p(x) \ge \mathrm{E} \log \frac1K \sum_{k=1}^K
            \frac{p(z_k) \prod_m p(x_m \mid z_k)}{q(z_k \mid x)},
            \qquad z_k \sim q(z \mid x), \quad p(z) = N(0, I) .

        The right side is the evidence lower bound at K = 1, does not fall as K grows, and tends to
        :math:`\log p(x)`. Products run over the views, and values of a vector, that were observed:
        the others are integrated out, which a model whose views share nothing but z does exactly.
        A mixture is drawn from and evaluated as one, whatever `experts` says. "independent" views
        have latents of their own, so theirs is the sum of one estimate per view. `beta` and
        `balance` weigh a loss and no probability, so they do not enter.

        It is of the values as they stand in the cohort (uint8 images: as shares of 255), so that
        models with other priors, widths or scalers compare. Laplace and Gaussian views have a
        density, so it may be of any sign; counts and flags have a probability, and the two do not
        compare. Where posteriors are much narrower than :math:`p(z \mid x)`, few draws carry the
        sum and the estimate is low: look that it no longer grows with K.

        Args:
            cohort: patients; labels are not read.
            n_samples: K. Draws of a larger number begin with those of a smaller one.
            seed: of the draws; a patient's depend on it and the row in the cohort alone.

        Returns:
            Natural logarithms, one per patient in the order of the cohort.

        Raises:
            TypeError: no cohort, or no whole number.
            ValueError: for MMVM, whose prior depends on the views; for other views than the model
                was made for, a patient without any, or a number that means nothing.

        Example:
            >>> cohort = Cohort(x={"labs": torch.randn(4, 3), "ecg": torch.randn(4, 2)})
            >>> vae = MultimodalVAE(schema=cohort.schema, prior="poe", d_latent=2)
            >>> vae.prepare(cohort)
            >>> vae.log_likelihood(cohort, n_samples=10, seed=0).shape
            (4,)
        """
        if self.prior == "mmvm":
            raise ValueError(
                "MMVM's prior is the mixture of a patient's own posteriors, so it gives views no "
                "probability of their own. Compare reconstructions, vae.loss(batch), or coherence, "
                "vae.coherence(cohort, labels); or take another prior"
            )
        self._check_cohort(cohort, "log_likelihood")
        for name, value, low in (("n_samples", n_samples, 1), ("seed", seed, 0)):
            _check_number(name, value, low)
        largest = max(view.n_values for _, view in self._views())
        rows = max(1, AT_A_TIME // max(largest, self.d_latent))
        patients = min(512, rows)
        parts = []
        with _evaluating(self):
            for batch in cohort.batches(patients):
                q, seen = self.encode(batch.to(self.prior_code.device))
                streams = _streams(seed, batch)
                log_weights, left = [], n_samples
                while left:
                    step = min(left, rows // patients)
                    left -= step
                    z, log_ratio = self._proposals(q, streams, step)
                    log_weights.append(self._log_views(z, q, seen) + log_ratio)
                each = torch.cat(log_weights, 1).logsumexp(1) - math.log(n_samples)
                parts.append(each.sum(1))
        return torch.cat(parts).cpu().numpy()

    def _proposals(
        self, q: Posteriors, streams: list[np.random.Generator], step: int
    ) -> tuple[Float[Tensor, "n s v d"], Float[Tensor, "n s v"]]:
        """Draw latents of the joint posterior, or of each view's, with log p(z) - log q(z | x)."""
        d, m = self.d_latent, q.mean.shape[1]
        if self.own_latents:
            noise = _normal(streams, (step, m, d), q.mean)
            mean, log_variance = q.mean.unsqueeze(1), q.log_variance.unsqueeze(1)
            z = _draw(mean, log_variance, noise)
            ratio = _log_prior(z) - fusion.log_density(z, mean, log_variance).double()
            return z, torch.where(q.observed.unsqueeze(1), ratio, 0)
        joint = self.components(q)
        noise = _normal(streams, (step, d + 1), q.mean)
        mean, log_variance = fusion.pick(*joint, torch.special.ndtr(noise[..., d]))
        z = _draw(mean, log_variance, noise[..., :d])
        by_component = torch.stack(
            [
                fusion.log_density(z, joint.mean[:, k, None], joint.log_variance[:, k, None])
                for k in range(joint.mean.shape[1])
            ],
            dim=2,
        ).double()
        by_component = by_component.masked_fill(~joint.observed.unsqueeze(1), -torch.inf)
        density = by_component.logsumexp(2) - joint.observed.sum(1, keepdim=True).log()
        return z.unsqueeze(2), (_log_prior(z) - density).unsqueeze(2)

    def _log_views(
        self, z: Float[Tensor, "n s v d"], q: Posteriors, seen: dict[str, Seen]
    ) -> Float[Tensor, "n s v"]:
        """Log-likelihood of what was observed: one column per latent of a patient."""
        n, s, columns, _ = z.shape
        total = torch.zeros(n, s, columns, dtype=torch.float64, device=z.device)
        for j, name in enumerate(self.schema.names):
            if name not in seen:
                continue
            view: View = self.views[name]  # type: ignore[assignment]
            rows, column = q.observed[:, j], j if self.own_latents else 0
            centre = self.decoders[name](z[rows, :, column].flatten(0, 1))
            log_p = view.log_likelihood(centre, seen[name].repeat(s)).double().view(-1, s)
            total[rows, :, column] += log_p - view.log_units(seen[name]).unsqueeze(1)
        return total

    @torch.no_grad()
    def coherence(
        self,
        cohort: Cohort,
        labels: Any,
        *,
        classifiers: Mapping[str, Callable[[Tensor], Any]] | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        r"""How often a view that is generated from another one shows the label of its patient.

        Source: Shi et al. 2019 (arXiv 1911.03393), section 4.2 (cross coherence), and Sutter et al.
        2021 (arXiv 2105.02470), section 5 (conditional coherence), with one view as the condition:

        .. math::
            \frac1n \sum_i \bigl[ c_j(\hat x_j) = y_i \bigr], \qquad
            \hat x_j = \mathrm{E}[x_j \mid z], \quad z \sim q(z \mid x_{m, i}),

        where :math:`c_j` is a classifier of view j. It counts what the latents carry over, and
        whether the decoder draws it so that the classifier sees it: read it beside `real`. One
        draw of each patient; a patient who lacks the view m, or a label, does not count.

        Args:
            cohort: patients whom the model has not seen.
            labels: one class per patient: `cohort.y`, or a column. NaN is left out.
            classifiers: a function of each view, of values in the units of the data (uint8 images:
                as shares of 255), (n, ...) -> (n,) classes. None fits a logistic regression to the
                cohort's own views, each half of its patients judged by that of the other half: of
                pictures pass one that has been trained for them.
            seed: of the draws and the halves.

        Returns:
            One row for each pair of views: `source`, `target`, `coherence`, `real` (the share of
            real views of the target that the classifier takes for what they are), `chance` (the
            share of the commonest class among these patients) and `n`. Without patients NaN.

        Raises:
            TypeError: no cohort, or a classifier that cannot be called.
            ValueError: for labels that are none, of one class, or not one per patient; for
                classifiers of other views, or that do not give one class per patient; for other
                views than the model was made for, or a patient without any.

        Example:
            >>> y = torch.arange(40) % 2
            >>> cohort = Cohort(x={name: torch.randn(40, 2) + 20 * y[:, None] for name in "ab"})
            >>> vae = MultimodalVAE(schema=cohort.schema, d_latent=2)
            >>> vae.prepare(cohort)
            >>> vae.coherence(cohort, y)[["source", "target", "real", "chance", "n"]]
              source target  real  chance   n
            0      a      a   1.0     0.5  40
            1      a      b   1.0     0.5  40
            2      b      a   1.0     0.5  40
            3      b      b   1.0     0.5  40
        """
        self._check_cohort(cohort, "coherence")
        _check_number("seed", seed, 0)
        truth, known = _classes(labels, len(cohort))
        names = self.schema.names
        if classifiers is None:
            judges = self._fitted_judges(cohort, truth, known, seed)
        else:
            judges = _passed_judges(classifiers, names)
        # whether patients have a view, what real views are taken for, and what generated ones are
        there = np.zeros((len(names), len(cohort)), dtype=bool)
        real, generated = np.zeros_like(there), np.zeros((len(names), *there.shape), dtype=bool)
        with _evaluating(self):
            for batch in cohort.batches():
                batch = batch.to(self.prior_code.device)
                index, (q, _) = batch.index.cpu().numpy(), self.encode(batch)
                there[:, index] = q.observed.T.cpu().numpy()
                noise = _normal(_streams(seed, batch), (self.d_latent + 1,), q.mean)
                for i in range(len(names)):
                    z, at = self._from_one(i, q, noise), index[there[i, index]]
                    for j, target in enumerate(names):
                        if len(at):
                            answer = judges[target](self._expected(target, z), at)
                            generated[i, j, at] = answer == truth[at]
                for j, name in enumerate(names):
                    at = index[there[j, index]]
                    if len(at):
                        real[j, at] = judges[name](self._real(batch, name), at) == truth[at]
        lines = []
        for i, source in enumerate(names):
            rows = there[i] & known
            _, counts = np.unique(truth[rows], return_counts=True)
            for j, target in enumerate(names):
                lines.append(
                    {
                        "source": source,
                        "target": target,
                        "coherence": _share(generated[i, j, rows]),
                        "real": _share(real[j, there[j] & known]),
                        "chance": max(counts, default=np.nan) / max(counts.sum(), 1),
                        "n": int(rows.sum()),
                    }
                )
        return pd.DataFrame(lines)

    def _from_one(self, i: int, q: Posteriors, noise: Tensor) -> Float[Tensor, "k d"]:
        """Draw a latent of the patients who have a view, given that view alone."""
        rows, one = q.observed[:, i], torch.arange(q.observed.shape[1], device=q.mean.device) == i
        alone = self.components(q._replace(observed=q.observed & one))
        place, noise = torch.special.ndtr(noise[rows, -1]), noise[rows, :-1]
        mean, log_variance, available = (part[rows] for part in alone)
        return _draw(*fusion.pick(mean, log_variance, available, place), noise)

    def _fitted_judges(
        self, cohort: Cohort, truth: np.ndarray, known: np.ndarray, seed: int
    ) -> dict[str, Judge]:
        """Classifiers of the cohort's own views, in two halves of patients drawn at random."""
        _, patient = np.unique(cohort.groups["patient"], return_inverse=True)
        half = np.random.default_rng(seed).permutation(patient.max() + 1)[patient] % 2 == 0
        result = {}
        for name, view in self._views():
            table = np.full((len(cohort), view.n_values), np.nan, np.float32)
            for batch in cohort.batches():
                if name in batch.x:
                    there = batch.observed[:, list(batch.x).index(name)]
                    values = self._real(batch, name).flatten(1)
                    table[batch.index[there].cpu().numpy()] = values.cpu().numpy()
            result[name] = _fitted_judge(name, table, truth, known, half)
        return result

    def _real(self, batch: Batch, name: str) -> Float[Tensor, "k ..."]:
        """A view of the patients who have it, NaN where a value was not observed."""
        values, flags = _dense(batch.x[name]).float(), batch.x_observed.get(name)
        values = values if flags is None else values.where(flags, torch.nan)
        return values[batch.observed[:, list(batch.x).index(name)]]

    def _check_cohort(self, cohort: Cohort, what: str) -> None:
        check_type(cohort, Cohort, f"{what} takes a Cohort", f"Write vae.{what}(cohort)")
        self.schema.check(cohort.schema)
        _refuse_empty(cohort)

    def predict_proba(self, batch: Batch) -> NoReturn:
        """Refuse: labels are never read."""
        del batch
        raise TypeError(
            f"{type(self).__name__} predicts no label. Take its features, model.embed(batch), and "
            "fit a classifier on them"
        )

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        code = state.get(f"{prefix}prior_code")
        if code is not None and int(code) != PRIORS.index(self.prior):
            other = PRIORS[int(code)]
            raise ValueError(
                f"the checkpoint is of a VAE with prior={other!r}, and this model has prior="
                f"{self.prior!r}. Make it with prior={other!r}, or call load_model(folder)"
            )
        super()._load_from_state_dict(state, prefix, *rest)

    def _views(self) -> Iterable[tuple[str, View]]:
        return self.views.items()  # type: ignore[return-value]

    def _expected(self, name: str, z: Tensor) -> Tensor:
        view: View = self.views[name]  # type: ignore[assignment]
        return view.expected(wide(self.decoders[name](z)))

    def _expected_under(self, name: str, joint: Posteriors) -> Tensor:
        """Mean over the components that each patient has of what their means decode to."""
        n, s, d = joint.mean.shape
        by_component = self._expected(name, joint.mean.reshape(n * s, d)).unflatten(0, (n, s))
        weight = joint.observed / joint.observed.sum(1, keepdim=True)
        return (weight.view(n, s, *[1] * (by_component.ndim - 2)) * by_component).sum(1)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _dense(values: Tensor | Ragged) -> Tensor:
    assert isinstance(values, Tensor)  # a view is an image or a vector
    return values


def _draw(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    return mean + noise * (0.5 * log_variance).exp()


# ---------------- draws of a patient's own, whatever batch it stands in


def _streams(seed: int, batch: Batch) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, row]) for row in batch.index.tolist()]


def _normal(streams: list[np.random.Generator], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal numbers, the next ones of each patient."""
    numbers = np.stack([stream.standard_normal(shape, np.float32) for stream in streams])
    return torch.from_numpy(numbers).to(like)


def _log_prior(z: Tensor) -> Tensor:
    return fusion.log_density(z, torch.zeros_like(z), torch.zeros_like(z)).double()


# ---------------- what is passed to `log_likelihood` and `coherence`


def _refuse_empty(cohort: Cohort) -> None:
    empty = int((~cohort.observed.any(1)).sum())
    if empty:
        raise ValueError(
            f"{empty} of {len(cohort)} patients have no view at all, so there is nothing to "
            "encode. Leave them out: cohort.select(cohort.observed.any(dim=1))"
        )


def _check_number(name: str, value: Any, low: int) -> None:
    advice = f"Pass {name}={low}"
    check_type(value, int, f"{name} takes a whole number", advice)
    if isinstance(value, bool) or value < low:
        raise ValueError(f"{name}={value!r} is no whole number from {low} on. {advice}")


def _classes(labels: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """One class per patient, and whether it is known."""
    if isinstance(labels, Mapping) or labels is None:
        raise wrong_type(
            labels, "coherence takes one class per patient as labels",
            "Write vae.coherence(cohort, cohort.y), and classifiers={view: function} beside it",
        )  # fmt: skip
    values = np.asarray(plain(labels, "labels"))
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (n,):
        raise ValueError(
            f"labels have shape {values.shape}, and coherence takes one class for each of the {n} "
            "patients. Pass one column: labels[:, 0]"
        )
    known = ~pd.isna(values)
    if len(np.unique(values[known])) < 2:
        raise ValueError(
            "the known labels are all of one class, so any picture agrees with them. Pass patients "
            "of two classes or more"
        )
    return values, known


def _passed_judges(classifiers: Any, names: Sequence[str]) -> dict[str, Judge]:
    """The classifiers that were passed, and what they answer checked."""
    who = "coherence takes a mapping from views to functions as classifiers"
    check_type(classifiers, Mapping, who, "Write classifiers={view: function}")
    for name in classifiers:
        if name not in names:
            raise unknown(name, names, "view of this model")
    for name in names:
        if not callable(classifiers.get(name)):
            what = f"coherence takes a function as the classifier of {name!r}"
            advice = f"Write classifiers={{{name!r}: function}}, with one for each view"
            raise wrong_type(classifiers.get(name), what, advice)

    def judge(values: Tensor, rows: np.ndarray, name: str) -> np.ndarray:
        answer = np.asarray(plain(classifiers[name](values), "classes"))
        if answer.shape != (len(rows),):
            raise ValueError(
                f"the classifier of {name!r} gives shape {answer.shape} for {len(rows)} patients. "
                "Let it give one class each: scores.argmax(1)"
            )
        return answer

    return {name: partial(judge, name=name) for name in names}


def _fitted_judge(
    name: str, table: np.ndarray, truth: np.ndarray, known: np.ndarray, half: np.ndarray
) -> Judge:
    """Logistic regressions on a real view; the patients of a half are judged by the other one's."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    there, models = known & ~np.isnan(table).all(1), []
    for side in (True, False):
        rows = there & (half == side)
        if len(np.unique(truth[rows])) < 2:
            raise ValueError(
                f"half of the patients with {name!r} are of one class, so no classifier can be "
                f"fitted to it. Pass more patients, or classifiers={{{name!r}: function}}"
            )
        reader = LogisticRegression(max_iter=1000)
        model = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), reader)
        models.append((model.fit(table[rows], truth[rows]), not side))

    def judge(values: Tensor, rows: np.ndarray) -> np.ndarray:
        flat, answer = values.flatten(1).cpu().numpy(), np.empty_like(truth[rows])
        for model, side in models:
            judged = half[rows] == side
            if judged.any():
                answer[judged] = model.predict(flat[judged])
        return answer

    return judge


def _share(right: np.ndarray) -> float:
    return float(right.mean()) if len(right) else float("nan")
