"""The training loop: one epoch after the other, able to stop and go on between any two."""

import contextlib
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from dfdlib.data import Batch, Cohort
from dfdlib.evaluation import predict_proba
from dfdlib.models import Method, Stage
from dfdlib.training.saving import (
    difference,
    fingerprint,
    hash_of,
    identify,
    latest,
    made_with,
    read_folder,
    write_checkpoint,
)

Selection = Literal["last", "val_loss", "val_auroc"]

#: How a selection rule is named in tables.
SELECTION = {
    "last": "last epoch",
    "val_loss": "lowest validation loss",
    "val_auroc": "highest validation AUROC",
}


@dataclass(frozen=True)
class Plan:
    """The settings of one call of `fit`."""

    stages: list[Stage]
    batch_size: int
    lr: float
    weight_decay: float
    seed: int
    select: Selection
    patience: int | None
    init: str

    @property
    def epochs(self) -> int:
        """Count the epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def selection(self) -> str:
        """Say in words which weights are kept."""
        rule = SELECTION[self.select]
        return rule if self.patience is None else f"{rule}, patience {self.patience}"

    def stage_of(self, epoch: int) -> int:
        """The stage to which an epoch (from 0) belongs."""
        ends = np.cumsum([stage.epochs for stage in self.stages])
        return int(np.searchsorted(ends, epoch, side="right"))


@dataclass
class Progress:
    """What changes from epoch to epoch beside the weights; stands in every checkpoint."""

    epoch: int = 0
    best_score: float | None = None
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False


class Loop:
    """One training run: holds what an epoch needs, and can stop and start between any two."""

    def __init__(
        self,
        model: Method,
        train: Cohort,
        val: Cohort | None,
        *,
        plan: Plan,
        fabric: Fabric,
        folder: Path | None,
    ) -> None:
        self.plain, self.train, self.val = model, train, val
        self.plan, self.fabric, self.folder = plan, fabric, folder
        # Fabric's wrapper steps; the state is read and written on the optimiser itself
        self.plain_optimizer = torch.optim.AdamW(
            model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay, fused=True
        )
        self.model, self.optimizer = fabric.setup(model, self.plain_optimizer)
        self.model.mark_forward_method("loss")
        self.best: dict[str, Tensor] = {}
        self.state = Progress()
        if self.folder is not None:
            self.identity: dict[str, Any] = {
                "model": json.dumps(identify(model)),
                **{k: v for k, v in plan.__dict__.items() if k != "stages"},
                "stages": repr(plan.stages),
                "train": fingerprint(train),
                "val": None if val is None else fingerprint(val),
                "start": None if plan.init == "fresh" else hash_of(model.state_dict()),
                "processes": fabric.world_size,
                "precision": fabric.strategy.precision.precision,
            }
            self._resume(self.folder)

    def run(self) -> Iterator[None]:
        """Train epoch by epoch; yields after each, those of an earlier process included."""
        yield from (None for _ in range(self.state.epoch))
        while self.state.epoch < self.plan.epochs and not self.state.stopped:
            stage = self.plan.stage_of(self.state.epoch)
            with _attributes(self.plain, self.plan.stages[stage].overrides):
                row = {"stage": stage + 1, "epoch": self.state.epoch + 1, **self._epoch(stage)}
                if self.val is not None:
                    row |= self._validate(self.val)
            self.state.epoch += 1
            self.state.history.append(row)
            if stage == len(self.plan.stages) - 1:
                self._select(row)
            if self.folder is not None and self.fabric.is_global_zero:
                self._checkpoint(self.folder)
            yield

    def finish(self) -> int:
        """Put the selected weights in place, fix the modality states; the epoch they are of."""
        if self.best:
            self.plain.load_state_dict(self.best)
        self.plain.fix_states(self._in_order)
        self.plain.eval()
        return self.state.best_epoch if self.best else self.state.epoch

    def _epoch(self, stage: int) -> dict[str, float]:
        """One pass over the training part; the mean of each loss term."""
        stage_lr = self.plan.stages[stage].lr
        lr = self.plan.lr if stage_lr is None else stage_lr
        for group in self.plain_optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        rank, world = self.fabric.global_rank, self.fabric.world_size
        torch.manual_seed(mix(self.plan.seed, self.state.epoch, rank))
        sums: dict[str, float] = {}
        n_units = 0
        order = mix(self.plan.seed, self.state.epoch)
        n_steps = -(-len(self.train) // self.plan.batch_size)
        for step, whole in enumerate(self.train.batches(self.plan.batch_size, seed=order)):
            self.plain.advance((self.state.epoch + step / n_steps) / self.plan.epochs)
            batch = whole if world == 1 else whole.rows(torch.arange(rank, len(whole), world))
            with self.fabric.autocast():  # on one device Fabric wraps forward alone, not `loss`
                terms = self.model.loss(batch.to(self.fabric.device))
            self._check_finite(terms, step)
            # every process takes the mean over its own labels; put together, one mean over all
            share = self._share(batch, whole) * world if world > 1 else 1.0
            self.fabric.backward(terms["total"] * share)
            self.optimizer.step()
            self.optimizer.zero_grad()
            n_units += self.plain.units(whole)
            for name, term in terms.items():
                part = float(term.detach()) * share * self.plain.units(whole)
                sums[name] = sums.get(name, 0.0) + part
        mean = {f"train_{name}": total / max(n_units, 1) for name, total in sums.items()}
        if world > 1:
            mean = {k: float(self.fabric.all_reduce(torch.tensor(v))) for k, v in mean.items()}  # type: ignore[arg-type]
        return {"lr": lr, **mean}

    def _check_finite(self, terms: dict[str, Tensor], step: int) -> None:
        if math.isfinite(float(terms["total"].detach())):
            return
        bad = [name for name, term in terms.items() if not math.isfinite(float(term.detach()))]
        term = next((name for name in bad if name != "total"), "total")
        kept = ""
        if self.folder is not None and self.state.epoch:
            kept = f" The last good checkpoint is in {self.folder.name!r}."
        raise FloatingPointError(
            f"the loss term {term!r} is {float(terms[term].detach())} in epoch "
            f"{self.state.epoch + 1}, step {step + 1}. Try a smaller learning rate, such as "
            f"lr={self.plan.lr / 10:g}.{kept}"
        )

    @torch.no_grad()
    def _validate(self, val: Cohort) -> dict[str, float]:
        self.plain.refresh(self._in_order)
        self.model.eval()
        total, n = 0.0, 0
        for batch in val.batches(1024):
            term = self.plain.loss(batch.to(self.fabric.device))["total"]
            units = self.plain.units(batch)
            total, n = total + float(term) * units, n + units
        row = {"val_loss": total / n if n else math.nan}
        if self.plain.supervised:
            row["val_auroc"] = _auroc(val, predict_proba(self.plain, val))
        return row

    def _share(self, batch: Batch, whole: Batch) -> float:
        """The part of a batch that a process has, by units; by patients where there is none."""
        units = self.plain.units(whole)
        return self.plain.units(batch) / units if units else len(batch) / len(whole)

    def _select(self, row: dict[str, Any]) -> None:
        """Keep the weights if they are the best so far; stop if they have not been for long."""
        if self.plan.select == "last":
            return
        value = row[self.plan.select]
        score = -value if self.plan.select == "val_loss" else value
        state = self.state
        if state.best_score is None or score > state.best_score:
            state.best_score, state.best_epoch = score, state.epoch
            self.best = {k: v.detach().clone() for k, v in self.plain.state_dict().items()}
        elif self.plan.patience is not None:
            state.stopped = state.epoch - state.best_epoch >= self.plan.patience

    def _in_order(self) -> Iterator[Batch]:
        for batch in self.train.batches(1024):
            yield batch.to(self.fabric.device)

    def _checkpoint(self, folder: Path) -> None:
        tensors = {f"model.{k}": v for k, v in self.plain.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for i, slots in self.plain_optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in slots.items()}
        state = dict(self.state.__dict__)
        write_checkpoint(folder, self.state.epoch, tensors, self.identity | {"state": state})

    def _resume(self, folder: Path) -> None:
        checkpoint = latest(folder)
        if checkpoint is None:
            return
        tensors, card = read_folder(checkpoint, "checkpoint")
        before: dict[str, Any] = {k: card.get(k) for k in self.identity}
        if before != self.identity:
            pair = [
                run | {"model": json.loads(run["model"] or "null")}
                for run in (before, self.identity)
            ]
            raise ValueError(
                f"{folder.name!r} holds the checkpoint of another run: {difference(*pair)}. Pass "
                "another folder, or delete this one."
            )
        now = made_with()
        changed = [f"{k} {card.get(k)} and now {v}" for k, v in now.items() if card.get(k) != v]
        if changed:
            warnings.warn(
                f"the run in {folder.name!r} was begun with {', '.join(changed)}, so its weights "
                "are those of one uninterrupted run up to rounding, not to the bit",
                stacklevel=4,
            )
        self.state = Progress(**card["state"])
        self.state.history = [
            {k: math.nan if v is None else v for k, v in row.items()} for row in self.state.history
        ]
        part: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            part[head][rest] = tensor
        self.plain.load_state_dict(part["model"])
        self.best = {k: v.to(self.fabric.device) for k, v in part["best"].items()}
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in part["optimizer"].items():
            i, _, slot = name.partition(".")
            slots.setdefault(int(i), {})[slot] = tensor
        settings = self.plain_optimizer.state_dict()
        self.plain_optimizer.load_state_dict(settings | {"state": slots})


def _auroc(cohort: Cohort, p: Float[np.ndarray, "n k"]) -> float:
    """Mean AUROC over labels, or over classes against the rest; NaN where one has one class."""
    if cohort.y is None:
        return math.nan
    from sklearn.metrics import roc_auc_score

    y = cohort.y.cpu().numpy().reshape(len(p), -1)
    if cohort.task != "multilabel":
        scores = p[:, 1:] if cohort.task == "binary" else p
        classes = np.arange(p.shape[1] - scores.shape[1], p.shape[1])
        y, p = np.where(np.isnan(y), np.nan, y == classes), scores
    known = ~np.isnan(y)
    if any(len(np.unique(y[k, c])) < 2 for c, k in enumerate(known.T)):
        return math.nan
    return float(np.mean([roc_auc_score(y[k, c], p[k, c]) for c, k in enumerate(known.T)]))


def mix(*numbers: int) -> int:
    """One seed from several numbers, so that neighbouring ones have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextlib.contextmanager
def _attributes(model: Method, values: dict[str, Any]) -> Iterator[None]:
    """Set attributes of the model for the length of a stage."""
    before = {name: getattr(model, name) for name in values}
    for name, value in values.items():
        setattr(model, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(model, name, value)
