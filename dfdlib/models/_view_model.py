"""What a model of several views does beside being trained: encode, decode, fill in, generate."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dfdlib.data import Batch, Cohort, Ragged
from dfdlib.data._images import Images
from dfdlib.data._validate import unknown
from dfdlib.models import fusion
from dfdlib.models._gaussian import steady_noise
from dfdlib.models._views import Seen, View, wide
from dfdlib.models.method import Method


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class Posteriors(NamedTuple):
    """The posterior of each view; what it holds where a view is missing means nothing."""

    mean: Float[Tensor, "n m d"]
    log_variance: Float[Tensor, "n m d"]
    observed: Bool[Tensor, "n m"]


class ViewModel(Method):
    """Views with an encoder and a decoder each, and a way to fuse what the encoders say."""

    supervised = False
    d_latent: int
    views: nn.ModuleDict
    encoders: nn.ModuleDict
    decoders: nn.ModuleDict

    @property
    @abstractmethod
    def own_latents(self) -> bool:
        """Whether each view is decoded from a latent of its own."""

    @abstractmethod
    def components(self, q: Posteriors) -> Posteriors:
        """The joint posterior as a mixture: its components, and which of them a patient has."""

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

    def predict_proba(self, batch: Batch) -> NoReturn:
        """Refuse: labels are never read."""
        del batch
        raise TypeError(
            f"{type(self).__name__} predicts no label. Take its features, model.embed(batch), and "
            "fit a classifier on them"
        )

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
                own = q.observed[:, j]
                result[name] = self._expected_under(name, joint)
                if self.own_latents:
                    result[name][own] = self._expected(name, q.mean[own, j])
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


def _dense(values: Tensor | Ragged) -> Tensor:
    assert isinstance(values, Tensor)  # a view is an image or a vector
    return values
