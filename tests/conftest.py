"""Settings that every test shares.

Nothing here may import dfdlib before pytest has installed jaxtyping's import hook.
"""

import os

# Before anything imports torch, numpy or matplotlib: one thread per test process, no window.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
from hypothesis import settings

# The same examples on every run, and no stopwatch: machines are shared.
settings.register_profile("dfdlib", derandomize=True, deadline=None)
settings.load_profile("dfdlib")


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPU from all tests but those marked `gpu`: `pytest -m gpu` runs these.

    Hide a Slurm job too: the tests start the processes that they need.
    """
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        del os.environ[name]
    if "gpu" not in (config.getoption("markexpr") or ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs CUDA")
