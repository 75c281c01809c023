"""Networks that score pairs, and what all estimators of mutual information have in common."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.adam import adam

CriticName = Literal["bilinear", "separable", "mlp"]
CRITICS = ("bilinear", "separable", "mlp")

#: Held-out patients are compared within blocks of this size; InfoNCE reads at most its log.
BLOCK = 256


class Terms(NamedTuple):
    """What one call of an estimator gives: two terms of the loss, apart in what they teach."""

    learn: Tensor  #: () teaches the estimator; no gradient reaches the features
    features: Tensor  #: () the estimate in nats, to be minimised; none reaches the estimator


class Critic(nn.Module):
    """A score for every pair of rows.

    Args:
        d_a: width of the first representation.
        d_b: width of the second.
        kind: "bilinear" a'Wb, which sees no dependence that leaves all correlations at zero;
            "separable" f(a)'g(b) with perceptrons f and g, cheap on all pairs; "mlp" a perceptron
            on [a ; b], the dearest on all pairs.
        hidden: width of the hidden layer.

    Shapes:
        a (n, d_a), b (n, d_b) -> `pairs` (n,); b (m, d_b) -> `grid` (n, m)
    """

    def __init__(self, *, d_a: int, d_b: int, kind: CriticName | str, hidden: int) -> None:
        super().__init__()
        if kind not in CRITICS:
            raise ValueError(f"{kind!r} is not a critic ({', '.join(CRITICS)}). Take 'separable'")
        self.d_a, self.d_b, self.kind, self.hidden = d_a, d_b, kind, hidden
        if kind == "bilinear":
            self.map = nn.Linear(d_a, d_b, bias=False)
        elif kind == "separable":
            self.f, self.g = perceptron(d_a, hidden, hidden), perceptron(d_b, hidden, hidden)
        else:
            self.from_a, self.from_b = nn.Linear(d_a, hidden), nn.Linear(d_b, hidden, bias=False)
            self.out = nn.Linear(hidden, 1, bias=False)

    def forward(self, a: Tensor, b: Tensor, *, grid: bool) -> Tensor:
        """Score row i of `a` with row i of `b`, or on the grid with all rows of `b`."""
        if self.kind == "mlp":
            left, right = self.from_a(a), self.from_b(b)
            pair = left.unsqueeze(1) + right if grid else left + right
            return self.out(pair.relu()).squeeze(-1)
        left, right = (self.map(a), b) if self.kind == "bilinear" else (self.f(a), self.g(b))
        return left @ right.T if grid else (left * right).sum(1)


def perceptron(d_in: int, hidden: int, d_out: int) -> nn.Sequential:
    """Two layers."""
    return nn.Sequential(nn.Linear(d_in, hidden), nn.ReLU(), nn.Linear(hidden, d_out))


class Estimator(nn.Module, ABC):
    """What the estimators share: noise, the two terms, extra steps, and what they refuse.

    A subclass adopts a network, and has `_terms(net, a, b, group) -> (loss of the network,
    estimate)`, where `net` is either that network or the same with its weights frozen, and `group`
    says which class each patient is of (one column, all True, where classes are not asked for).
    """

    net: nn.Module
    moments: Tensor
    n_steps: Tensor

    def __init__(
        self,
        *,
        d_c: int,
        d_b: int,
        noise: int | float,
        refits: int,
        lr: float,
        n_classes: int | None,
    ) -> None:
        super().__init__()
        if noise < 0:
            raise ValueError(f"noise is a standard deviation of at least 0, got {noise}")
        if refits < 0:
            raise ValueError(f"refits must be at least 0, got {refits}")
        if n_classes is not None and n_classes < 2:
            raise ValueError(f"n_classes must be 2 or more, or None, got {n_classes}")
        self.d_c, self.d_b, self.noise = d_c, d_b, noise
        self.refits, self.lr, self.n_classes = refits, lr, n_classes

    def _adopt(self, net: nn.Module) -> None:
        """Take the network, and make room for the state of its extra steps."""
        self.net = net
        size = sum(p.numel() for p in net.parameters()) if self.refits else 0
        self.register_buffer("moments", torch.zeros(2, size))
        self.register_buffer("n_steps", torch.zeros(()))

    def reset_parameters(self) -> None:
        """Forget the moments of the extra steps (the linear maps have a method of their own)."""
        self.moments.zero_()
        self.n_steps.zero_()

    def forward(
        self,
        h_c: Tensor,
        h_b: Tensor,
        y: Tensor | None = None,
        *,
        gather: Callable[[Tensor], Tensor] | None = None,
    ) -> Terms:
        """Give the two terms of a batch; add both to the loss, `features` with its weight.

        Args:
            h_c: representation of the causal stream.
            h_b: representation of the bias stream.
            y: labels, NaN where missing; only read where `n_classes` is given.
            gather: puts the rows of all processes together, with gradients; called on both
                representations once they have their noise, and on the labels.
        """
        self._check(h_c, h_b, y)
        if self.noise:
            h_c = h_c + self.noise * torch.randn_like(h_c)
            h_b = h_b + self.noise * torch.randn_like(h_b)
        if gather is not None:
            h_c, h_b = gather(h_c), gather(h_b)
            y = y if y is None else gather(y)
        if len(h_c) < 2:
            raise ValueError(
                f"{type(self).__name__} compares patients: it needs 2 or more, got {len(h_c)}"
            )
        group = torch.ones(len(h_c), 1, dtype=torch.bool, device=h_c.device)
        if self.n_classes is not None and y is not None:
            group = y.unsqueeze(1) == torch.arange(self.n_classes, device=y.device)
            h_c = torch.cat([h_c, group.to(h_c.dtype)], dim=1)
        fixed_c, fixed_b = h_c.detach(), h_b.detach()
        if self.training and torch.is_grad_enabled():
            for _ in range(self.refits):
                self._refit(fixed_c, fixed_b, group)
        learn, _ = self._terms(self.net, fixed_c, fixed_b, group)
        weights = {name: p.detach() for name, p in self.net.named_parameters()}

        def frozen(*args: Tensor, **kwargs: bool) -> Tensor:
            return functional_call(self.net, weights, args, kwargs)

        return Terms(learn, self._terms(frozen, h_c, h_b, group)[1])

    @abstractmethod
    def _terms(
        self, net: Callable[..., Tensor], a: Tensor, b: Tensor, group: Bool[Tensor, "n k"]
    ) -> tuple[Tensor, Tensor]:
        """Loss of the network, and the estimate."""

    def _refit(self, a: Tensor, b: Tensor, group: Tensor) -> None:
        """One step of Adam on the network alone; its state is in the buffers, so in checkpoints."""
        weights: list[Tensor] = list(self.net.parameters())
        sizes = [w.numel() for w in weights]
        loss, _ = self._terms(self.net, a, b, group)
        grads = torch.autograd.grad(loss, weights)
        first, second = (
            [m.view_as(w) for m, w in zip(moment.split(sizes), weights, strict=True)]
            for moment in self.moments
        )
        with torch.no_grad():
            adam(
                weights,
                list(grads),
                first,
                second,
                [],
                [self.n_steps.clone() for _ in weights],
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self.lr,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
        self.n_steps += 1

    def _check(self, h_c: Tensor, h_b: Tensor, y: Tensor | None) -> None:
        name, n = type(self).__name__, len(h_c)
        if h_c.shape != (n, self.d_c) or h_b.shape != (n, self.d_b):
            raise ValueError(
                f"this {name} was made for h_c (n, {self.d_c}) and h_b (n, {self.d_b}), got "
                f"{tuple(h_c.shape)} and {tuple(h_b.shape)}. Make another, or pass these"
            )
        if self.n_classes is None:
            return
        if y is None or y.shape != (n,):
            raise ValueError(
                f"this {name} compares patients within {self.n_classes} classes and needs labels "
                f"of shape ({n},), got {None if y is None else tuple(y.shape)}. Pass y, or "
                "n_classes=None"
            )
        if ((y < 0) | (y >= self.n_classes) | (y != y.floor()) & ~y.isnan()).any():
            raise ValueError(
                f"a label is not one of 0 to {self.n_classes - 1}. Pass these, NaN where missing"
            )


def learn(
    estimator: Estimator,
    h_c: Float[Tensor, "n c"],
    h_b: Float[Tensor, "n b"],
    y: Tensor | None = None,
    *,
    steps: int = 500,
    batch_size: int = 128,
    lr: int | float = 3e-3,
    weight_decay: int | float = 1e-2,
    held_out: int | float = 0.2,
    seed: int = 0,
) -> Estimator:
    """Teach an estimator on fixed features, and leave it in evaluation mode.

    AdamW; of all 25th steps the one that does best on the share `held_out` of the patients is kept,
    since a critic that knows its patients by heart finds nothing in others.

    Args:
        estimator: `MINE`, `InfoNCE` or `CLUB`.
        h_c: one representation.
        h_b: the other.
        y: labels, for an estimator with `n_classes`.
        steps: number of steps.
        batch_size: patients per step.
        lr: learning rate.
        weight_decay: AdamW's decoupled weight decay.
        held_out: share of patients that picks the step; 0 takes the last.
        seed: of batches and noise.

    Raises:
        ValueError: if `held_out` is not in [0, 1), or a part has fewer than 2 patients.

    Example:
        >>> from dfdlib.information import CLUB
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(200, 2)
        >>> club = learn(CLUB(d_c=2, d_b=2, noise=1.0), x, x, steps=100)
        >>> bool(club(x, x).features > 0.5)
        True
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out is a share in [0, 1), got {held_out}. Take 0.2, or 0 for none")
    n = len(h_c)
    n_held = round(held_out * n)
    if n - n_held < 2 or (held_out > 0 and n_held < 2):
        raise ValueError(f"{n} patients are too few for held_out={held_out}. Pass held_out=0")
    optimizer = torch.optim.AdamW(estimator.parameters(), lr=lr, weight_decay=weight_decay)
    best, state = math.inf, None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        order = torch.randperm(n, device=h_c.device)
        held, rest = order[:n_held], order[n_held:]
        for step in range(1, steps + 1):
            rows = rest[torch.randperm(len(rest), device=rest.device)[:batch_size]]
            estimator.train()
            estimator(h_c[rows], h_b[rows], None if y is None else y[rows]).learn.backward()
            optimizer.step()
            optimizer.zero_grad()
            if n_held and (step % 25 == 0 or step == steps):
                value = _held_out(estimator, h_c[held], h_b[held], None if y is None else y[held])
                if value < best:
                    best, state = value, copy.deepcopy(estimator.state_dict())
    if state is not None:
        estimator.load_state_dict(state)
    return estimator.eval()


@torch.no_grad()
def _held_out(estimator: Estimator, h_c: Tensor, h_b: Tensor, y: Tensor | None) -> float:
    """The estimator's loss on patients it does not learn from, in blocks of bounded size."""
    estimator.eval()
    losses = [
        (len(rows), float(estimator(h_c[rows], h_b[rows], None if y is None else y[rows]).learn))
        for rows in torch.arange(len(h_c)).tensor_split(math.ceil(len(h_c) / BLOCK))
    ]
    return sum(n * loss for n, loss in losses) / len(h_c)
