"""What every backbone shares: the base class, edge weights per layer, batches of all processes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import torch
import torch.distributed
import torch.distributed.nn.functional
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Resizable(nn.Module):
    """A module with tensors whose size comes from the training part, or from what is loaded."""

    resizable: tuple[str, ...] = ()

    def resize(self, name: str, *shape: int) -> None:
        """Replace a buffer or parameter by zeros of another shape."""
        old: Tensor = getattr(self, name)
        new = old.new_zeros(shape)
        setattr(self, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in self.resizable:
            saved = state.get(prefix + name)
            # equal sizes are left alone: an optimiser may already hold the parameter
            if saved is not None and saved.shape != getattr(self, name).shape:
                self.resize(name, *saved.shape)
        super()._load_from_state_dict(state, prefix, *rest)


#: What an edge's message is multiplied by: (n, M), (n, M, d), or a list with one of them per layer.
EdgeWeight = Tensor | list[Tensor | None] | None

#: What a saved model holds of patients stands for so many of them at least.
LEAST = 10


class Backbone(nn.Module, ABC):
    """What a method asks of a backbone: `forward`, and methods that do nothing unless overridden.

    A module of a user's own need not be built on this class: whatever it lacks is answered by the
    defaults below, see `adapted`.

    Attributes:
        d: width of the embedding; every backbone sets it.
        n_layers: layers that take an edge weight each, for `DFD` with its gate on the first.

    Example:
        >>> class Mean(Backbone):
        ...     d = 8
        ...     def forward(self, tokens, observed, weight=None):
        ...         return (tokens * observed[..., None]).mean(1)
        >>> Mean()(torch.ones(4, 3, 8), torch.ones(4, 3, dtype=torch.bool)).shape
        torch.Size([4, 8])
    """

    d: int

    @abstractmethod
    def forward(
        self,
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        weight: EdgeWeight = None,
    ) -> Float[Tensor, "n d"]:
        """Embed each patient; `weight` scales what each patient-modality edge sends."""

    def build(self, n_modalities: int) -> None:
        """Make what depends on the number of modalities; the method that owns it calls this."""

    def fix_states(self, stream: Callable[[], Iterable[tuple[Tensor, Tensor, EdgeWeight]]]) -> None:
        """Fix what depends on other patients, after training epochs; see `GRAPE.fix_states`.

        Args:
            stream: gives (tokens, observed, weight) batch by batch, each time it is called.
        """

    def embed_for_training(
        self,
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        weight: EdgeWeight = None,
    ) -> tuple[Float[Tensor, "n d"], Mapping[str, Any]]:
        """Give what `forward` gives, and what of it `auxiliary` takes by keyword: here nothing."""
        return self(tokens, observed, weight), {}

    def auxiliary(
        self,
        h: Float[Tensor, "n d"],
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        y: Tensor,
        weight: EdgeWeight = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Terms of its own that join the loss, by name; h is the embedding of the same tokens."""
        del h, tokens, observed, y, weight
        return {}


Base = TypeVar("Base")


class Adapted:
    """A module that is built on no class of this library, with a base class's defaults beside it.

    It holds no weights and no method keeps it, so weights have the names that the module gives
    them, and a model is saved with the module itself.
    """

    def __init__(self, module: nn.Module, base: type) -> None:
        self.module, self.base = module, base

    def __call__(self, *inputs: Any) -> Any:
        """Run the module."""
        return self.module(*inputs)

    def __getattr__(self, name: str) -> Any:
        if hasattr(self.module, name):
            return getattr(self.module, name)
        # the default may ask for methods that the module has, so it gets both
        return getattr(self.base, name).__get__(self)


def adapted(module: nn.Module, base: Callable[..., Base]) -> Base:
    """Give a module of any kind the methods of `Backbone` or `Head` (the one adapter there is).

    Args:
        module: one that is built on the base class, which is given back as it is, or any other with
            `forward` and those of the base class's methods that it wants.
        base: the base class.

    Example:
        >>> backbone = adapted(nn.Identity(), Backbone)  # which knows nothing of backbones
        >>> backbone.build(3) is None, backbone.training  # a default, and its own
        (True, True)
    """
    whole = isinstance(module, cast(type, base))
    return cast(Base, module if whole else Adapted(module, cast(type, base)))


def is_default(method: Callable[..., Any], default: Callable[..., Any]) -> bool:
    """Whether a method of a module is the default of its base class.

    Example:
        >>> is_default(adapted(nn.Identity(), Backbone).auxiliary, Backbone.auxiliary)
        True
    """
    return getattr(method, "__func__", None) is default


def per_layer(weight: EdgeWeight, n_layers: int) -> list[Tensor | None]:
    """Give each layer its edge weight in a form that multiplies a (n, M, d) message.

    Args:
        weight: None (no weight), one tensor for all layers, or a list with one entry per layer.
        n_layers: number of layers.

    Returns:
        A list of n_layers entries, each None, (n, M, 1) or (n, M, d).

    Raises:
        ValueError: if a list does not have one entry per layer.

    Example:
        >>> [w if w is None else tuple(w.shape) for w in per_layer([torch.ones(4, 3), None], 2)]
        [(4, 3, 1), None]
    """
    weights = list(weight) if isinstance(weight, list | tuple) else [weight] * n_layers
    if len(weights) != n_layers:
        raise ValueError(
            f"weight is a list of {len(weights)} entries, but the backbone has {n_layers} layers. "
            "Pass one entry per layer (None = 1), or one tensor for all layers."
        )
    return [w.unsqueeze(-1) if w is not None and w.ndim == 2 else w for w in weights]


def batch_sum(total: Tensor) -> Tensor:
    """Sum a tensor over all processes, with gradients; the tensor itself where there is one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return total
    return torch.distributed.nn.functional.all_reduce(total)


def batch_rows(rows: Tensor) -> Tensor:
    """Put the rows of all processes together, with gradients; the rows themselves where it is one.

    Processes may hold different numbers of rows.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    sizes = torch.zeros(world, dtype=torch.long, device=rows.device)
    sizes[rank] = len(rows)
    torch.distributed.all_reduce(sizes)
    before, after = int(sizes[:rank].sum()), int(sizes[rank + 1 :].sum())
    shape = rows.shape[1:]
    # a sum of zero-padded parts, since gathering wants parts of one size
    parts = [rows.new_zeros(before, *shape), rows, rows.new_zeros(after, *shape)]
    return batch_sum(torch.cat(parts))
