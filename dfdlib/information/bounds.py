"""Bounds of the mutual information between the two streams, each with a network that learns it."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dfdlib.information.critics import Critic, CriticName, Estimator, perceptron

#: Bound of the log variance in `CLUB`, far outside what standardised features need.
LOG_VAR = 8.0


class MINE(Estimator):
    r"""Donsker–Varadhan estimate, a **lower** bound of the mutual information.

    Source: Belghazi et al. 2018 (MINE, arXiv 1801.04062), equations 5 and 12. For any critic T

    .. math::
        I(H_c; H_b) \ge \mathbb{E}_{p(c, b)}[T] - \log \mathbb{E}_{p(c) p(b)}[e^T] .

    Pairs from the product are rows shifted against each other. The gradient of the logarithm is
    biased in a batch; as in the source, its denominator is an exponential moving average. With a
    finite sample the value may exceed the truth (an optimal critic gave 19.4 where I = 16.6).

    To minimise a lower bound is to play against the critic: features can satisfy a critic that is
    too weak or too slow while the information stays. Give it `refits`, and `audit` the result.

    Args:
        d_c: width of H_c.
        d_b: width of H_b.
        noise: standard deviation of the normal noise added to both; the estimate is that of
            :math:`I(H_c + \epsilon; H_b + \epsilon')`. Two functions of the same patient without
            noise have, in general, infinite mutual information.
        critic: see `Critic`.
        hidden: width of the critic's hidden layer.
        negatives: how many shifts make the pairs from the product; None takes all pairs.
        ema: share of the newest batch in the moving average.
        refits: steps of Adam that the critic takes ahead of each call in training.
        lr: learning rate of these.

    Shapes:
        h_c (n, d_c), h_b (n, d_b) -> `Terms` of ()

    Raises:
        ValueError: for an unknown critic, numbers out of range, other widths, or n < 2.

    Example:
        >>> mine = MINE(d_c=4, d_b=4, noise=0.1)
        >>> h_c, h_b = torch.randn(2, 32, 4, requires_grad=True)
        >>> learn, features = mine(h_c, h_b)
        >>> (learn + 0.1 * features).backward()
    """

    log_mean: Tensor

    def __init__(
        self,
        *,
        d_c: int,
        d_b: int,
        noise: int | float = 0.0,
        critic: CriticName | str = "mlp",
        hidden: int = 64,
        negatives: int | None = 1,
        ema: int | float = 0.01,
        refits: int = 0,
        lr: int | float = 1e-3,
    ) -> None:
        super().__init__(d_c=d_c, d_b=d_b, noise=noise, refits=refits, lr=lr, n_classes=None)
        if negatives is not None and negatives < 1:
            raise ValueError(f"negatives must be 1 or more, or None for all pairs, got {negatives}")
        if not 0 < ema < 1:
            raise ValueError(f"ema must lie between 0 and 1, got {ema}. Take 0.01")
        self.critic, self.hidden, self.negatives, self.ema = critic, hidden, negatives, ema
        self._adopt(Critic(d_a=d_c, d_b=d_b, kind=critic, hidden=hidden))
        self.register_buffer("log_mean", torch.tensor(math.nan))

    def reset_parameters(self) -> None:
        """Forget the moving average too."""
        super().reset_parameters()
        self.log_mean.fill_(math.nan)

    def _terms(
        self, net: Callable[..., Tensor], a: Tensor, b: Tensor, group: Bool[Tensor, "n k"]
    ) -> tuple[Tensor, Tensor]:
        del group
        joint = net(a, b, grid=False).mean()
        log_mean = _log_mean_exp(self._products(net, a, b))
        if self.training and net is self.net and torch.is_grad_enabled():
            self._average(log_mean.detach())
        # the value is log E e^T, the gradient that of E e^T / moving average
        average = log_mean.detach() if self.log_mean.isnan() else self.log_mean
        ratio = (log_mean - average).exp()
        value = joint - (log_mean.detach() + ratio - ratio.detach())
        return -value, value

    def _products(self, net: Callable[..., Tensor], a: Tensor, b: Tensor) -> Float[Tensor, " m"]:
        n = len(a)
        if self.negatives is None:
            return net(a, b, grid=True)[~torch.eye(n, dtype=torch.bool, device=a.device)]
        count = min(self.negatives, n - 1)
        shifts = [(k + 1) * n // (count + 1) for k in range(count)]
        return torch.cat([net(a, b.roll(shift, 0), grid=False) for shift in shifts])

    def _average(self, newest: Tensor) -> None:
        if self.log_mean.isnan():
            self.log_mean.copy_(newest)
        else:
            old = self.log_mean + math.log1p(-self.ema)
            self.log_mean.copy_(torch.logaddexp(old, newest + math.log(self.ema)))


def _log_mean_exp(scores: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    return scores.logsumexp(0) - math.log(len(scores))


class InfoNCE(Estimator):
    r"""Noise-contrastive estimate, a **lower** bound of the mutual information, at most log n.

    Source: van den Oord et al. 2018 (arXiv 1807.03748), equation 4; as a bound, Poole et al. 2019.

    .. math::
        I(H_c; H_b) \ge \frac{1}{n} \sum_i \log
            \frac{e^{T(c_i, b_i)}}{\frac{1}{n} \sum_j e^{T(c_i, b_j)}} \le \log n

    It varies little, and is blind beyond log n. What `MINE` says of minimising a lower bound holds
    here too.

    Args:
        d_c: width of H_c.
        d_b: width of H_b.
        noise: standard deviation of the noise added to both, as in `MINE`.
        critic: see `Critic`.
        hidden: width of the critic's hidden layer.
        n_classes: bounds :math:`I(H_c; H_b \mid Y)` instead: a patient is compared with those of
            the same class. None for the information itself.
        refits: steps of Adam that the critic takes ahead of each call in training.
        lr: learning rate of these.

    Shapes:
        h_c (n, d_c), h_b (n, d_b), y (n,) -> `Terms` of ()

    Raises:
        ValueError: for an unknown critic, numbers out of range, other widths, labels that do not
            exist, or n < 2.

    Example:
        >>> nce = InfoNCE(d_c=4, d_b=4, noise=0.1)
        >>> bool(nce(torch.randn(32, 4), torch.randn(32, 4)).features <= math.log(32))
        True
    """

    def __init__(
        self,
        *,
        d_c: int,
        d_b: int,
        noise: int | float = 0.0,
        critic: CriticName | str = "separable",
        hidden: int = 64,
        n_classes: int | None = None,
        refits: int = 0,
        lr: int | float = 1e-3,
    ) -> None:
        super().__init__(d_c=d_c, d_b=d_b, noise=noise, refits=refits, lr=lr, n_classes=n_classes)
        self.critic, self.hidden = critic, hidden
        self._adopt(Critic(d_a=d_c + (n_classes or 0), d_b=d_b, kind=critic, hidden=hidden))

    def _terms(
        self, net: Callable[..., Tensor], a: Tensor, b: Tensor, group: Bool[Tensor, "n k"]
    ) -> tuple[Tensor, Tensor]:
        known = group.any(1)
        value = contrast(net(a, b, grid=True), group).diagonal()
        value = torch.where(known, value, 0).sum() / known.sum().clamp(min=1)
        return -value, value


def contrast(scores: Float[Tensor, "n n"], group: Bool[Tensor, "n k"]) -> Float[Tensor, "n n"]:
    """Scores minus the log of their mean exponential over the row's group."""
    same = group.float() @ group.float().T > 0
    same = same | torch.eye(len(same), dtype=torch.bool, device=same.device)
    top = scores.masked_fill(~same, -math.inf).logsumexp(1) - same.sum(1).to(scores.dtype).log()
    return scores - top.unsqueeze(1)


class CLUB(Estimator):
    r"""Contrastive log-ratio bound, an **upper** bound where its q fits; variational, Gaussian.

    Source: Cheng et al. 2020 (CLUB, arXiv 2006.12013), equations 6 and 13, with
    :math:`q(b \mid c) = N(\mu(c), \mathrm{diag}\, \sigma^2(c))`, a network of two layers:

    .. math::
        I_{\mathrm{CLUB}} = \mathbb{E}_{p(c, b)}[\log q(b \mid c)]
            - \mathbb{E}_{p(c) p(b)}[\log q(b \mid c)] .

    With :math:`q = p(b \mid c)` this is at least I; for d correlated normal pairs it is
    :math:`d \rho^2 / (1 - \rho^2)`. **With a q that does not fit it bounds nothing** (a q that
    ignores c gives 0), so let q keep up with the features: `refits`, and `audit` the result. A
    normal q sees the mean and spread of b given c, no other dependence.

    All pairs of the batch enter, at the cost of one: the mean over j is that of two moments.

    Args:
        d_c: width of H_c.
        d_b: width of H_b.
        noise: standard deviation of the noise added to both, as in `MINE`.
        hidden: width of q's hidden layer.
        n_classes: bounds :math:`I(H_c; H_b \mid Y)` instead: q reads the class, and pairs are of
            one class. Without it the term also punishes what both streams know of the label.
        refits: steps of Adam that q takes ahead of each call in training.
        lr: learning rate of these.

    Shapes:
        h_c (n, d_c), h_b (n, d_b), y (n,) -> `Terms` of ()

    Raises:
        ValueError: for numbers out of range, other widths, labels that do not exist, or n < 2.

    Example:
        >>> club = CLUB(d_c=4, d_b=4, noise=0.1, n_classes=2, refits=4)
        >>> h_c, h_b = torch.randn(2, 32, 4, requires_grad=True)
        >>> learn, features = club(h_c, h_b, torch.arange(32) % 2)
        >>> (learn + 0.1 * features).backward()
    """

    def __init__(
        self,
        *,
        d_c: int,
        d_b: int,
        noise: int | float = 0.0,
        hidden: int = 64,
        n_classes: int | None = None,
        refits: int = 0,
        lr: int | float = 1e-3,
    ) -> None:
        super().__init__(d_c=d_c, d_b=d_b, noise=noise, refits=refits, lr=lr, n_classes=n_classes)
        self.hidden = hidden
        self._adopt(perceptron(d_c + (n_classes or 0), hidden, 2 * d_b))

    def _terms(
        self, net: Callable[..., Tensor], a: Tensor, b: Tensor, group: Bool[Tensor, "n k"]
    ) -> tuple[Tensor, Tensor]:
        mean, log_var = net(a).chunk(2, dim=1)
        log_var = LOG_VAR * (log_var / LOG_VAR).tanh()
        precision = (-log_var).exp()
        gap = (b - mean).square()
        known = group.any(1)
        each = ((gap * precision + log_var).sum(1) / 2).where(known, 0)
        learn = each.sum() / known.sum().clamp(min=1)

        member = group.to(b.dtype)
        count = member.sum(0)
        share = (member / count.clamp(min=1)).T
        centre = member @ (share @ b)
        spread = member @ (share @ (b - centre).square())
        others = member @ count - 1
        value = ((spread + (centre - mean).square() - gap) * precision).sum(1) / 2
        # DIFF: the source counts a patient as its own negative; left out, so there is no bias
        value = torch.where(others > 0, value * (others + 1) / others.clamp(min=1), 0)
        return learn, value.sum() / (others > 0).sum().clamp(min=1)
