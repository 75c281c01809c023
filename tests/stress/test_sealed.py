"""Sealed kinds are what was committed before methods were compared on them."""

import hashlib
import itertools

import numpy as np
import pytest

from dfdlib import stress
from dfdlib.stress.sealed import SEALED, SHA256

WORLDS = ("train", "home", "shifted", "randomised")
N = 500


def rounded(values, digits):
    """As whole numbers: what differs between processors in the last bit is gone."""
    return np.round(np.asarray(values, dtype=np.float64) * 10**digits).astype(np.int64).tobytes()


def digest():
    """Graphs, features, masks, labels and truth of five draws, in all worlds."""
    content = hashlib.sha256()
    for kind, draw, world in itertools.product(sorted(SEALED), range(5), WORLDS):
        edges = sorted(stress.graph(kind, world=world).edges)
        cohort = stress.load(kind, draw=draw, world=world, n=N, seed=draw)
        content.update(f"{kind} {draw} {world} {edges} {cohort.schema.to_dict()}".encode())
        for name in cohort.names:
            content.update(rounded(cohort.x[name].numpy(), 3))
            content.update(cohort.x_observed[name].numpy().tobytes())
        content.update(cohort.observed.numpy().tobytes())
        content.update(rounded(cohort.y.numpy(), 0))
        content.update(" ".join(cohort.groups["site"]).encode())
        content.update(rounded(cohort.truth["p_do"], 5))
        content.update(rounded(cohort.truth["y"], 0))
    return content.hexdigest()


def test_sealed_kinds_are_as_committed():
    assert digest() == SHA256


@pytest.mark.parametrize("change", ["draw", "seed"])
def test_another_draw_or_seed_is_another_cohort(change):
    kind = "two-populations"
    first, other = (stress.load(kind, world="home", n=50, **{change: k}) for k in (0, 1))
    assert not np.allclose(first.x["labs"], other.x["labs"])
