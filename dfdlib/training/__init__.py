"""Training: stages, a named selection rule, checkpoints that survive a kill, devices by Fabric."""

from dfdlib.training.fit import Run, Stage, fit, load_model, seed_everything, trainer
from dfdlib.training.scoring import score_tables

__all__ = [
    "Run",
    "Stage",
    "fit",
    "load_model",
    "score_tables",
    "seed_everything",
    "trainer",
]
