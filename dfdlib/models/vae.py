"""Multimodal variational autoencoders that differ in one thing: how the views share a latent."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dfdlib.data import Batch, Schema
from dfdlib.models import _vae_options as options
from dfdlib.models import fusion
from dfdlib.models._gaussian import steady_noise
from dfdlib.models._view_model import Posteriors, ViewModel
from dfdlib.models._views import Seen, View
from dfdlib.models.encoders import check_schema
from dfdlib.models.method import Stage

PRIORS = ("independent", "avg", "poe", "moe", "mopoe", "mmvm")


class Draws(NamedTuple):
    """Latents to decode: s of each patient, by weight, and one for all views or one for each."""

    z: Float[Tensor, "n s v d"]
    weight: Float[Tensor, "n s"]
    kl: Float[Tensor, " n"]


class MultimodalVAE(ViewModel):
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

    stage_options = ("beta", "alpha", "regulariser")
    default_stages = (Stage(epochs=100),)
    prior_code: Tensor

    def __init__(
        self,
        *,
        schema: Schema,
        prior: options.Prior | str = "mmvm",
        regulariser: fusion.Regulariser | str = "pairwise",
        d_latent: int = 64,
        beta: int | float = 1.0,
        likelihood: str | Mapping[str, str] = "laplace",
        scale: float = 0.75,
        balance: bool = True,
        kl_times: options.Times | str = "views",
        prior_expert: fusion.PriorExpert | str = "none",
        experts: options.Experts | str = "split",
        average: fusion.Average | str = "variance",
        alpha: int | float = 0.0,
        annealing: options.Annealing | str = "exp",
        annealed: float = options.ANNEALED,
        network: options.Network | str = "auto",
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
        options.check_options(self)
        self.views = options.make_views(schema, likelihood=likelihood, scale=scale)
        self.encoders, self.decoders = options.make_networks(
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

    @property
    def own_latents(self) -> bool:
        """Whether each view is decoded from a latent of its own."""
        return self.prior in ("independent", "mmvm")

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
            alpha = options.prior_weight(
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

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        code = state.get(f"{prefix}prior_code")
        if code is not None and int(code) != PRIORS.index(self.prior):
            other = PRIORS[int(code)]
            raise ValueError(
                f"the checkpoint is of a VAE with prior={other!r}, and this model has prior="
                f"{self.prior!r}. Make it with prior={other!r}, or call load_model(folder)"
            )
        super()._load_from_state_dict(state, prefix, *rest)


def _draw(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    return mean + noise * (0.5 * log_variance).exp()
