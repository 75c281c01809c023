"""What every backbone shares: the protocol, edge weights per layer, batches over all processes."""

from typing import Any, Protocol

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


class Backbone(Protocol):
    """Any module with this `forward` is a backbone; a user's own works like those of the library.

    Two methods are optional. `build(n_modalities)` is called once by the method that owns the
    backbone. `fix_states(stream)` is called after training epochs for backbones whose states depend
    on other patients (see `dfdlib.models.GRAPE.fix_states`).
    """

    d: int

    def __call__(
        self,
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        weight: EdgeWeight = None,
    ) -> Float[Tensor, "n d"]:
        """Embed each patient."""
        ...


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


def optional(module: nn.Module, method: str, *args: object, **kwargs: object) -> Any:
    """Call a method of a protocol's optional part where the module has it, else give None."""
    function = getattr(module, method, None)
    return None if function is None else function(*args, **kwargs)


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
