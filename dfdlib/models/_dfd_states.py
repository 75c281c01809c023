"""What DFD reads off the training part once its weights are fixed."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from dfdlib.data import Batch
from dfdlib.models._likelihood import probabilities
from dfdlib.models._signatures import GateReading, likeness
from dfdlib.models.backbone import EdgeWeight, optional

if TYPE_CHECKING:
    from dfdlib.models.dfd import DFD


@torch.no_grad()
def fix_streams(
    model: "DFD", batches: Callable[[], Iterable[Batch]], *, whole: bool = True
) -> dict[str, float]:
    """Fix modality states, memory and head, in this order; gives what `signatures` judges.

    Without `whole` the memory, which only some rules of prediction read, is left as it is.
    """

    def stream(k: int) -> Iterable[tuple[Tensor, Tensor, EdgeWeight]]:
        for batch in batches():
            tokens, observed = model.tokens(batch)
            _, given, weight = model.streams(tokens)[k]
            yield given, observed, weight

    def embeddings() -> Iterable[tuple[Tensor, Tensor]]:
        for batch in batches():
            tokens, observed = model.tokens(batch)
            yield model.represent(tokens, observed), observed

    gates = GateReading()

    def labelled() -> Iterable[tuple[Tensor, Tensor]]:
        for batch in batches():
            tokens, observed = model.tokens(batch)
            gates.read(model.tau(tokens), observed)
            h = model.represent(tokens, observed)
            y = h.new_full((len(h),), torch.nan) if batch.y is None else batch.y
            yield h.unflatten(1, (2, model.d)), y

    training = model.training
    model.eval()
    optional(model.backbone, "fix_states", lambda: stream(0))
    optional(model.bias_backbone, "fix_states", lambda: stream(1))
    rows = model.kept.fix(labelled()) if whole else None
    optional(model.head, "fix_states", embeddings)
    if rows is None:
        model.train(training)
        return {}
    if model.environment is not None:
        _fix_alignment(model, batches)
    measured = _measure(model, rows, batches) | (
        gates.measured() if model.gate == "learned" else {}
    )
    model.train(training)
    return measured


def _fix_alignment(model: "DFD", batches: Callable[[], Iterable[Batch]]) -> None:
    """Fix the correction of f_c[H_c ; mean H_b] by what differs between environments."""
    rows = []
    for batch in batches():
        if batch.y is None:
            continue
        tokens, observed = model.tokens(batch)
        h_c = model.represent(tokens, observed).chunk(2, dim=1)[0]
        alone = torch.cat([h_c, model.kept.mean[1].expand_as(h_c)], dim=1)
        votes = model.alignment.votes(tokens)
        codes = model.environments.codes(batch)
        rows.append((model.head(alone, observed), votes, observed, batch.y, codes))
    if rows:
        model.alignment.fix(*(torch.cat(part) for part in zip(*rows, strict=True)))


def _measure(
    model: "DFD", rows: Float[Tensor, "n s d"], batches: Callable[[], Iterable[Batch]]
) -> dict[str, float]:
    """What each head makes of its own stream alone, and how alike the streams are."""
    h_c, h_b = rows.unbind(dim=1)
    mean_c, mean_b = model.kept.mean
    bias = model.bias_head(torch.cat([mean_c.expand_as(h_c), h_b], dim=1))
    # f_c may read the mask too, which the rows that were kept do not have
    tokens, observed = model.tokens(next(iter(batches())))
    own = model.represent(tokens, observed).chunk(2, dim=1)[0]
    causal = model.head(torch.cat([own, mean_b.expand_as(own)], dim=1), observed)
    return {
        "causal prediction sd": _spread(causal, model.task),
        "bias prediction sd": _spread(bias, model.task),
        "likeness": likeness(h_c, h_b),
    }


def _spread(logits: Float[Tensor, "n k"], task: str) -> float:
    return float(probabilities(logits, task=task).std(dim=0).max())
