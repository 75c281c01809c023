"""M3Care-style imputation: what a patient lacks is filled in from similar patients."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from dfdlib.models.backbone import LEAST, Backbone, EdgeWeight, adapted, batch_rows, is_default

#: Means are read off at most this many training patients, evenly spaced.
MAX_ROWS = 8192


class M3Care(Backbone):
    r"""Impute the tokens of missing modalities from similar patients, then run any backbone.

    Source: in the style of M3Care (Zhang et al. 2022), not the network of its paper. With z the
    tokens scaled to unit length, patients are similar where they have modalities in common and
    these are alike:

    .. math::
        k^m_{ij} &= \exp\Bigl(\frac{z_{im} \cdot z_{jm} - 1}{\sigma_m^2}\Bigr) , \qquad
        s_{ij} = \operatorname*{mean}_{m \in O_i \cap O_j} k^m_{ij} \\
        \hat t_{im} &= A \, \frac{\sum_{j \ne i,\, m \in O_j} s_{ij} [s_{ij} \ge \theta]\, t_{jm}}
                                 {\sum_{j \ne i,\, m \in O_j} s_{ij} [s_{ij} \ge \theta]} + a

    for each modality m that i lacks; :math:`A, a, \sigma_m` are learned. Where nobody similar has
    the modality, it stays missing. A token that is there stays as it is. The exponent is that of a
    Gaussian kernel, since :math:`\lVert z - z' \rVert^2 = 2 - 2 z \cdot z'`.

    Similar patients are looked for in the batch (of all processes) in training, and afterwards
    among K means of training patients, which `fix_states` stores in the model: a score does not
    depend on the batch, and no patient's token or mask stands in a saved model. A mean is of the
    patients of one cell of a tree, 10 or more, who are split by which modalities they have, then by
    the tokens' largest spread; a modality is there where 10 of them have it. Before that, nothing
    is imputed in evaluation.

    Args:
        backbone: what sees the tokens, as in `Classifier`.
        threshold: :math:`\theta`, between 0 and 1; who is less similar does not count.
        n_memory: how many means of training patients are stored, at most, K.

    Shapes:
        tokens (n, M, d), observed (n, M), weight as the backbone's -> embedding (n, d)

    Raises:
        ValueError: for a threshold outside [0, 1], a memory without room, a backbone without `d`.

    Example:
        >>> from dfdlib.models import GRAPE
        >>> backbone = M3Care(backbone=GRAPE(d=8))
        >>> backbone(torch.randn(4, 3, 8), torch.rand(4, 3) < 0.7).shape
        torch.Size([4, 8])
    """

    # DIFF: M3Care learns a deep kernel per modality and its threshold; here kernels read the tokens
    # themselves, and the threshold is given.
    # DIFF: M3Care runs a graph network over similar patients, mixed into observed modalities too;
    # here one mean and one linear map, for missing ones only.
    # DIFF: its auxiliary loss, which keeps similarities stable, and its transformer are left out.
    # DIFF: it scores patients by the others of their batch; here by a fixed set of means.
    log_sigma: Tensor
    memory: Tensor
    memory_observed: Tensor

    def __init__(
        self, *, backbone: nn.Module, threshold: float | int = 0.5, n_memory: int = 512
    ) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {threshold}. Take 0.5")
        if n_memory < 1:
            raise ValueError(f"n_memory must be 1 or more, got {n_memory}. Take 512")
        if not isinstance(getattr(backbone, "d", None), int):
            raise ValueError(
                f"{type(backbone).__name__} has no integer attribute d, the width of its "
                "embedding. Set self.d in its __init__."
            )
        self.backbone, self.threshold, self.n_memory = backbone, threshold, n_memory
        self.d = int(backbone.d)  # type: ignore[arg-type]
        self.n_modalities: int | None = None
        self.mix = nn.Linear(self.d, self.d)

    @property
    def n_layers(self) -> int:
        """Layers of the backbone, which take an edge weight each."""
        return self.backbone.n_layers  # type: ignore[return-value]

    def build(self, n_modalities: int) -> None:
        """Make what depends on the number of modalities; `Classifier` calls it."""
        if self.n_modalities is None:
            self.n_modalities = n_modalities
            like = self.mix.weight
            self.log_sigma = nn.Parameter(like.new_zeros(n_modalities))
            shape = self.n_memory, n_modalities
            self.register_buffer("memory", like.new_zeros(*shape, self.d))
            self.register_buffer(
                "memory_observed", torch.zeros(shape, dtype=torch.bool, device=like.device)
            )
        adapted(self.backbone, Backbone).build(n_modalities)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Begin with unit bandwidths and an empty memory."""
        if self.n_modalities is not None:
            self.log_sigma.zero_()
            self.memory_observed.zero_()

    def forward(
        self,
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        weight: EdgeWeight = None,
    ) -> Float[Tensor, "n d"]:
        """Impute, then embed each patient."""
        return self.backbone(*self.impute(tokens, observed), weight)

    def impute(
        self, tokens: Float[Tensor, "n m d"], observed: Bool[Tensor, "n m"]
    ) -> tuple[Float[Tensor, "n m d"], Bool[Tensor, "n m"]]:
        """Tokens with missing ones filled in where possible, and which are there now."""
        self.build(tokens.shape[1])
        if self.training:
            others, there = batch_rows(tokens), batch_rows(observed.to(tokens.dtype)) > 0.5
        else:
            others, there = self.memory.to(tokens.dtype), self.memory_observed
        # nobody imputes from oneself: who lacks a modality has nothing to give
        s = self.similarity(tokens, observed, others, there)
        s = torch.where(s >= self.threshold, s, 0)
        have = there.to(s.dtype)
        total = s @ have
        mean = torch.einsum("ij,jmd->imd", s, others * have.unsqueeze(-1))
        imputed = self.mix(mean / torch.where(total > 0, total, 1).unsqueeze(-1))
        fill = ~observed & (total > 0)
        return torch.where(fill.unsqueeze(-1), imputed, tokens), observed | fill

    def similarity(
        self,
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        others: Float[Tensor, "k m d"],
        there: Bool[Tensor, "k m"],
    ) -> Float[Tensor, "n k"]:
        """How similar patients are to others, between 0 and 1; 0 if nothing is there for both."""
        precision = (-2 * self.log_sigma).exp()
        z, other = (
            (
                nn.functional.normalize(rows, dim=-1) * (cell * precision.sqrt()).unsqueeze(-1)
            ).transpose(0, 1)
            for rows, cell in ((tokens, observed), (others, there))
        )
        kernel = torch.baddbmm(-precision[:, None, None], z, other.mT).exp_().sum(0)
        mine, theirs = observed.to(z.dtype), there.to(z.dtype)
        # where a modality is not there for both, the product is 0 and the kernel a constant
        constant = (-precision).exp()
        kernel = kernel - constant.sum() + (mine * constant) @ theirs.T
        shared = mine @ theirs.T
        return torch.where(shared > 0, kernel / shared.clamp(min=1), 0)

    @torch.no_grad()
    def fix_states(self, stream: Callable[[], Iterable[tuple[Tensor, Tensor, EdgeWeight]]]) -> None:
        """Store means of patients who are alike, then let the backbone fix its own states.

        Args:
            stream: gives (tokens, observed, weight) batch by batch, each time it is called.
        """
        n = sum(len(tokens) for tokens, _, _ in stream())
        wanted = torch.arange(min(n, MAX_ROWS)) * n // min(n, MAX_ROWS) if n else torch.arange(0)
        start, kept = 0, []
        for tokens, observed, _ in stream():
            self.build(tokens.shape[1])
            rows = wanted[(wanted >= start) & (wanted < start + len(tokens))] - start
            kept.append((tokens[rows.to(tokens.device)], observed[rows.to(tokens.device)]))
            start += len(tokens)
        self.memory_observed.fill_(False)
        self.memory.zero_()
        if kept:
            tokens, observed = (torch.cat(part) for part in zip(*kept, strict=True))
            for place, cell in enumerate(alike_cells(tokens, observed, self.n_memory)):
                have = observed[cell].to(tokens.dtype)
                count = have.sum(0)
                there = count >= LEAST
                total = torch.einsum("im,imd->md", have, tokens[cell])
                mean = torch.where(there[:, None], total / count.clamp(min=1)[:, None], 0)
                self.memory[place] = mean.to(self.memory.dtype)
                self.memory_observed[place] = there

        def imputed() -> Iterable[tuple[Tensor, Tensor, EdgeWeight]]:
            for tokens, observed, weight in stream():
                yield *self.impute(tokens, observed), weight

        adapted(self.backbone, Backbone).fix_states(imputed)

    def auxiliary(
        self,
        h: Float[Tensor, "n d"],
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        y: Tensor,
        weight: EdgeWeight = None,
    ) -> dict[str, Tensor]:
        """The backbone's own terms of the loss, on the tokens that it sees."""
        backbone = adapted(self.backbone, Backbone)
        if is_default(backbone.auxiliary, Backbone.auxiliary):
            return {}  # nothing is imputed for nothing
        return backbone.auxiliary(h, *self.impute(tokens, observed), y, weight)


def alike_cells(
    tokens: Float[Tensor, "n m d"], observed: Bool[Tensor, "n m"], most: int
) -> list[Int64[Tensor, " k"]]:
    """Cells of a tree over the patients: at most so many, with `LEAST` patients or more in each.

    The largest cell is split first: by the modality that the fewest have, so that they stay
    together, where enough have it and enough do not; else at the median of the entry of the tokens
    that spreads most.
    """
    scaled = nn.functional.normalize(tokens, dim=-1) * observed.unsqueeze(-1)
    flat, whole = scaled.flatten(1), [torch.arange(len(tokens), device=tokens.device)]
    done: list[Tensor] = []
    while whole and len(whole) + len(done) < most:
        whole.sort(key=len)
        cell = whole.pop()
        if len(cell) < 2 * LEAST:
            done.append(cell)
            continue
        n, have = len(cell), observed[cell].sum(0)
        fewest = torch.minimum(have, n - have)
        fewest = torch.where(fewest >= LEAST, fewest, n)
        if int(fewest.min()) < n:
            first = observed[cell, int(fewest.argmin())]
        else:
            rows = flat[cell]
            order = rows[:, int(rows.var(dim=0).argmax())].argsort(stable=True)
            first = torch.zeros_like(cell, dtype=torch.bool)
            first[order[: n // 2]] = True
        whole += [cell[first], cell[~first]]
    return done + whole
