"""Multimodal variational autoencoders that differ in one thing: how the views share a latent."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NoReturn, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dfdlib.data import Batch, Cohort, Ragged, Schema
from dfdlib.data.arrays import Images
from dfdlib.errors import unknown
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
        empty = int((~train.observed.any(1)).sum())
        if empty:
            raise ValueError(
                f"{empty} of {len(train)} patients have no view at all, so there is nothing to "
                "encode. Leave them out: cohort.select(cohort.observed.any(dim=1))"
            )
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
