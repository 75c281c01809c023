"""Environments: a group of the training part, such as the hospital, that only training reads."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from dfdlib.data import Batch, Cohort
from dfdlib.errors import unknown
from dfdlib.losses import gce
from dfdlib.models.backbone import Resizable, adapted, batch_sum
from dfdlib.models.heads import Head


class Environments:
    """Number the levels of a group, so that a method can tell them apart in training.

    A plain object: nothing of it is saved, so a model that was loaded scores patients whose
    hospital nobody knows, and has to be prepared anew before it is trained on.

    Args:
        group: name of the group, a key of `cohort.groups`.

    Example:
        >>> cohort = Cohort(x={"labs": torch.zeros(3, 1)}, groups={"site": ["b", "a", "b"]})
        >>> environments = Environments("site")
        >>> environments.prepare(cohort)
        >>> environments.codes(next(cohort.batches(3))), len(environments)
        (tensor([1, 0, 1]), 2)
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self.levels: np.ndarray | None = None

    def __len__(self) -> int:
        return 0 if self.levels is None else len(self.levels)

    def prepare(self, train: Cohort) -> None:
        """Fix the levels, in sorted order.

        Raises:
            ValueError: if there is no such group, it has one level only, or one for each patient.
        """
        levels = np.unique(_sortable(_read(train.groups, self.group)))
        if len(levels) < 2:
            raise ValueError(
                f"the group {self.group!r} is {levels[0]} for all {len(train)} patients, so there "
                "are no environments to compare. Pass another group, or train Classifier or DFD "
                "without environment="
            )
        if len(levels) == len(train):
            raise ValueError(
                f"the group {self.group!r} has another level for each of {len(train)} patients, so "
                "an environment has nobody to compare. Pass a coarser group, such as the hospital"
            )
        self.levels = levels

    def codes(self, batch: Batch) -> Int64[Tensor, " n"]:
        """Number of each patient's level, from 0, on the device of the batch.

        Raises:
            RuntimeError: before `prepare`, such as for a model that was loaded from disk.
            ValueError: if the batch lacks the group, or has a level that training did not have.
        """
        if self.levels is None:
            raise RuntimeError(
                f"the levels of {self.group!r} belong to the training part, and are not kept with "
                "a saved model. Call model.prepare(train) before training on."
            )
        levels = _sortable(_read(batch.groups, self.group))
        code = np.searchsorted(self.levels, levels).clip(max=len(self.levels) - 1)
        new = self.levels[code] != levels
        if new.any():
            raise ValueError(
                f"the level {levels[new][0]} of the group {self.group!r} was not in the training "
                f"part ({', '.join(map(str, self.levels[:20]))}). Call model.prepare(train) with it"
            )
        return torch.from_numpy(code).to(batch.index.device)


def _read(groups: dict[str, np.ndarray], group: str) -> np.ndarray:
    if group not in groups:
        raise unknown(group, groups, "group")
    return groups[group]


def _sortable(levels: np.ndarray) -> np.ndarray:
    """Levels of mixed types have no order; their names do."""
    return levels.astype(str) if levels.dtype == object else levels


# ---------------- Moments of features, matched between environments within each class


class MomentMatching(Resizable):
    r"""How much class-conditional means and covariances of features differ between environments.

    Source: CORAL (Sun and Saenko 2016), within classes. With :math:`\mu_{ec}` and
    :math:`\Sigma_{ec}` the moments of :math:`f / s` in environment e and class c, where s is the
    pooled standard deviation of each feature within environments and classes,

    .. math::
        \operatorname*{mean}_{c,\, e < e',\, j} (\mu_{ec} - \mu_{e'c})_j^2
        + \operatorname*{mean}_{c,\, e < e',\, j,\, k} (\Sigma_{ec} - \Sigma_{e'c})_{jk}^2 .

    Zero asks that f be distributed alike in all environments, given y, up to second moments. It is
    the same for a f + b, so shrinking the features does not help, and its gradient knows that.

    One batch is too noisy: its differences are mostly chance. So each moment's difference from the
    mean over environments is a moving average, weighted by the patients behind it, as is
    :math:`s^2`. The value is smoothed, its gradient is that of the current batch. An environment
    that has no patient of a class in a batch leaves its average as it was, as does a class that one
    environment only has.

    Args:
        d: number of features.
        n_classes: number of classes; 2 for a binary task.
        n_environments: number of environments; None if `prepare` is to say it.
        momentum: share of the moving averages that is kept at each batch.
        order: 1 compares means, 2 covariances too.

    Shapes:
        features (n, d), y (n,) with NaN where missing, codes (n,) from 0 (-1: left out), known
        (n, d) -> ()

    Raises:
        ValueError: if an argument is out of range, or labels are not one per patient.

    Example:
        >>> matching = MomentMatching(d=1, n_classes=2, n_environments=2, order=1)
        >>> features = torch.tensor([[0.0], [2.0], [1.0], [3.0]])
        >>> matching(features, torch.ones(4), torch.tensor([0, 0, 1, 1]))  # apart by s / sqrt(2)
        tensor(0.5000)
    """

    resizable = (
        "mean_sum",
        "mean_weight",
        "covariance_sum",
        "covariance_weight",
        "variance_sum",
        "variance_weight",
    )
    mean_sum: Tensor
    mean_weight: Tensor
    covariance_sum: Tensor
    covariance_weight: Tensor
    variance_sum: Tensor
    variance_weight: Tensor

    def __init__(
        self,
        *,
        d: int,
        n_classes: int,
        n_environments: int | None = None,
        momentum: float | int = 0.9,
        order: Literal[1, 2] | int = 2,
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got momentum={momentum}. Take 0.9")
        if order not in (1, 2):
            raise ValueError(f"order must be 1 (means) or 2 (and covariances), got order={order}.")
        self.d, self.n_classes, self.momentum, self.order = d, n_classes, momentum, order
        for name in self.resizable:
            self.register_buffer(name, torch.zeros(0))
        self.prepare(n_environments or 0)

    def prepare(self, n_environments: int) -> None:
        """Make room for so many environments, and forget what was there."""
        cells = n_environments, self.n_classes
        self.resize("mean_sum", *cells, self.d)
        self.resize("mean_weight", *cells, self.d)
        pairs = (self.d, self.d) if self.order == 2 else (0, 0)
        self.resize("covariance_sum", *cells, *pairs)
        self.resize("covariance_weight", *cells, *pairs)
        self.resize("variance_sum", self.d)
        self.resize("variance_weight", self.d)

    def reset_parameters(self) -> None:
        """Forget the moving averages; `fit` does so when it draws new weights."""
        for name in self.resizable:
            getattr(self, name).zero_()

    def forward(
        self,
        features: Float[Tensor, "n d"],
        y: Float[Tensor, "..."],
        codes: Int[Tensor, " n"],
        known: Bool[Tensor, "n d"] | None = None,
    ) -> Float[Tensor, ""]:
        """The penalty; in training it takes the batch into the moving averages.

        Args:
            features: one row per patient.
            y: class of each patient, NaN where missing.
            codes: environment of each patient.
            known: which features count; a covariance takes the patients who have both.
        """
        self._check(features, y, codes)
        if features.dtype in (torch.float16, torch.bfloat16):
            features = features.float()
        n_cells = len(self.mean_sum) * self.n_classes
        cell = codes * self.n_classes + y.nan_to_num().long()
        cell = torch.where((codes >= 0) & ~y.isnan(), cell, n_cells)
        mean, n, covariance, dof, centre = self._moments(features, cell, known)
        unit = self._unit(covariance, dof, centre)
        penalty = self._smoothed("mean", mean / unit, n)
        if self.order == 2:
            scaled = covariance / (unit[:, None] * unit)
            penalty = penalty + self._smoothed("covariance", scaled, dof)
        return penalty

    def _moments(self, features: Tensor, cell: Tensor, known: Tensor | None) -> tuple[Tensor, ...]:
        """Means and covariances of each environment and class, with the weights behind them.

        Weights are the number of patients, and one less for a covariance. Last is the centre.
        """
        there = features.new_ones(len(features), 1) if known is None else known.to(features.dtype)
        n_cells = len(self.mean_sum) * self.n_classes
        f, k = _by_cell([torch.where(there > 0, features, 0), there], cell, n_cells)
        # moments of what was centred suffer less from rounding; the centre cancels in differences
        total, count = batch_sum(f.detach().sum((0, 1))), batch_sum(k.sum((0, 1)))
        centre = total / count.clamp(min=1)
        f = (f - centre) * k
        n, first = batch_sum(k.sum(1)), batch_sum(f.sum(1))
        mean = first / n.clamp(min=1)
        both = batch_sum(k.mT @ k)  # patients who have both features
        first = batch_sum(f.mT @ k)  # sum of one feature over those who have the other too
        second = batch_sum(f.mT @ f)
        dof = (both - 1).clamp(min=0)
        covariance = (second - first * first.mT / both.clamp(min=1)) / dof.clamp(min=1)
        moments = mean, n.expand_as(mean), covariance, dof.expand_as(covariance)
        cells = self.mean_sum.shape[:2]
        return *(moment.unflatten(0, cells) for moment in moments), centre

    def _unit(self, covariance: Tensor, dof: Tensor, centre: Tensor) -> Float[Tensor, " d"]:
        """Standard deviation of each feature within cells; smoothed, with the batch's gradient.

        Without smoothing, a last batch of a few patients who are alike by chance would have moments
        of any size. A feature that hardly differs between patients has a ten-thousandth of its
        mean for a unit, so that no gradient explodes.
        """
        dof = dof.diagonal(dim1=2, dim2=3)
        squares = (covariance.diagonal(dim1=2, dim2=3) * dof).sum((0, 1))
        dof = dof.sum((0, 1))
        new_sum = torch.where(
            dof > 0, self.momentum * self.variance_sum + squares.detach(), self.variance_sum
        )
        new_weight = torch.where(
            dof > 0, self.momentum * self.variance_weight + dof, self.variance_weight
        )
        if self.training:
            self.variance_sum.copy_(new_sum)
            self.variance_weight.copy_(new_weight)
        smoothed = new_sum / torch.where(new_weight > 0, new_weight, 1)
        variance = smoothed + (squares - squares.detach()) / dof.clamp(min=1)
        least = (1e-4 * centre).square().clamp(min=torch.finfo(variance.dtype).tiny ** 0.5)
        # where nobody has told of the spread yet, nothing differs
        return torch.where(new_weight > 0, variance.clamp(min=least).sqrt(), torch.inf)

    def _smoothed(self, name: str, moment: Tensor, weight: Tensor) -> Tensor:
        """Mean over pairs of environments of the squared difference of their moving averages."""
        sums, weights = getattr(self, f"{name}_sum"), getattr(self, f"{name}_weight")
        present = weight > 0
        n_present = present.sum(0)
        centre = (moment * present).sum(0) / n_present.clamp(min=1)
        update = present & (n_present > 1)
        difference = torch.where(update, moment - centre, 0)
        new_sums = torch.where(
            update, self.momentum * sums + weight * difference.detach(), sums.to(moment.dtype)
        )
        new_weights = torch.where(update, self.momentum * weights + weight, weights)
        if self.training:
            sums.copy_(new_sums)
            weights.copy_(new_weights)
        seen = new_weights > 0
        average = torch.where(seen, new_sums / torch.where(seen, new_weights, 1), 0)
        value = average + (difference - difference.detach())  # its gradient is the batch's
        # sum over pairs of (a - b)^2 = number x sum of (a - mean)^2
        number = seen.sum(0)
        centred = torch.where(seen, value - value.sum(0) / number.clamp(min=1), 0)
        pairs = (number * (number - 1)).sum() / 2
        return (number * centred.square().sum(0)).sum() / pairs.clamp(min=1)

    def _check(self, features: Tensor, y: Tensor, codes: Tensor) -> None:
        if y.ndim != 1:
            raise ValueError(
                f"moments are compared within classes, and y has shape {tuple(y.shape)}: several "
                "labels per patient make no classes. Take a task with one label"
            )
        if features.shape[1] != self.d:
            raise ValueError(
                f"these moments are of {self.d} features, got {features.shape[1]}. Make "
                f"MomentMatching(d={features.shape[1]}, ...)"
            )
        if len(codes) and int(codes.max()) >= len(self.mean_sum):
            raise ValueError(
                f"the code {int(codes.max())} does not exist: there are {len(self.mean_sum)} "
                "environments, counted from 0. Call prepare(n_environments)"
            )


def _by_cell(tensors: list[Tensor], cell: Tensor, n_cells: int) -> list[Tensor]:
    """Put the rows of each cell into one padded block: (n, d) -> (cells, most rows, d).

    Rows of the cell after the last are left out.
    """
    count = torch.bincount(cell, minlength=n_cells + 1)[:-1]
    order = cell.argsort(stable=True)[: int(count.sum())]
    cell = cell[order]
    slot = torch.arange(len(cell), device=cell.device) - (count.cumsum(0) - count)[cell]
    most = int(count.max()) if n_cells else 0
    blocks = []
    for tensor in tensors:
        block = tensor.new_zeros(n_cells, most, tensor.shape[1])
        blocks.append(block.index_put((cell, slot), tensor[order]))
    return blocks


# ---------------- Risks of groups of patients in a batch


def head_weight(head: nn.Module, observed: Tensor, batch: Batch) -> Float[Tensor, " n"]:
    """Weight that the head gives each patient's loss, 1 where it gives none."""
    weight = torch.ones(len(observed), device=observed.device)
    weigher = adapted(head, Head)
    for factor in (weigher.sample_weight(observed), weigher.row_weight(batch.index)):
        weight = weight if factor is None else weight * factor
    return weight


def group_means(
    each: Float[Tensor, " n"], count: Tensor, codes: Int[Tensor, " n"], n_groups: int
) -> tuple[Float[Tensor, " g"], Float[Tensor, " g"]]:
    """Sum of `each` over sum of `count` by group, over all processes; 1 for groups that are there.

    The mean of a group that is not there is 0.
    """
    member = nn.functional.one_hot(codes, n_groups).to(each.dtype)
    total, n = batch_sum(member.T @ each), batch_sum(member.T @ count.to(each.dtype))
    return total / n.clamp(min=1), (n > 0).to(each.dtype)


def risks(
    logits: Float[Tensor, "n k"],
    y: Tensor,
    codes: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
    *,
    n_groups: int,
) -> tuple[Float[Tensor, " g"], Float[Tensor, " g"]]:
    """Mean cross-entropy over known labels by group; 1 for groups that are there."""
    each = gce(logits, y, q=0, weight=weight, reduction="none")
    return group_means(rows_of(each).sum(1), rows_of(~y.isnan()).sum(1), codes, n_groups)


def rows_of(each: Tensor) -> Tensor:
    """(n,) as a column, (n, L) as it is; for no row too, where reshaping would not know L."""
    return each.unsqueeze(1).flatten(1)
