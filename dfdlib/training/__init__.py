"""Training: stages, a named selection rule, checkpoints that survive a kill, devices by Fabric."""

from dfdlib.training.fit import Run, Stage, fit, load_model, seed_everything, trainer

__all__ = [
    "Run",
    "Stage",
    "fit",
    "load_model",
    "seed_everything",
    "trainer",
]
