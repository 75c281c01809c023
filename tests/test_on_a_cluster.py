"""Training on a cluster: one process trains as anywhere, and no word of Slurm reaches it."""

import os
import warnings

import pytest
import torch

from dfdlib.data import Cohort
from dfdlib.models import GRAPE, Classifier
from dfdlib.training import Stage, fit

#: what a job's environment holds; each is that of one process unless srun started more
CLUSTERS = {
    "a login node": {},
    "sbatch, one task": {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "study"},
    # Fabric would refuse it: --ntasks without --ntasks-per-node
    "sbatch, four tasks": {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"},
    "srun, the second of two": {
        "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0",
        "SLURM_STEP_ID": "0", "SLURM_NODELIST": "node[1-2]",
    },
    "interactive": {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"},
    "no number": {"SLURM_JOB_ID": "7_3", "SLURM_NTASKS": "", "SLURM_PROCID": ""},
    "an address": {"MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "none"},
    "ranks": {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4", "NODE_RANK": "x"},
    "torchrun": {
        "TORCHELASTIC_RUN_ID": "7", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0",
        "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "1",
    },
    "LSF": {
        "LSB_JOBID": "7", "LSB_DJOB_RANKFILE": "/nowhere", "JSM_NAMESPACE_LOCAL_RANK": "1",
        "JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_RANK": "1",
    },
}  # fmt: skip


def train():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    cohort = Cohort(x={"labs": x}, y=(x[:, 0] > 0).float())
    model = Classifier(backbone=GRAPE(d=8), schema=cohort.schema)
    return fit(model, cohort, stages=[Stage(epochs=2)], lr=0.01)


@pytest.fixture
def srun(tmp_path, monkeypatch):
    """Slurm's command on the PATH, as on every cluster."""
    command = tmp_path / "srun"
    command.write_text("#!/bin/sh\nexit 1\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_cluster_changes_nothing_and_says_nothing(cluster, srun, monkeypatch, capfd):
    alone = train()
    capfd.readouterr()
    for name, value in CLUSTERS[cluster].items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = train()
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == before
    assert run.history.equals(alone.history)
    for name, value in alone.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value)


def test_other_warnings_of_a_run_are_still_shown(srun, monkeypatch):
    def conclude(self, history):
        return ["a method found something wrong"]

    monkeypatch.setattr(Classifier, "conclude", conclude)
    with pytest.warns(UserWarning, match="found something wrong"):
        train()
