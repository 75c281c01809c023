"""The kinds of stress cohorts: listed, drawn, and their declared graphs."""

import operator
import zlib
from typing import Any, Literal, get_args

import networkx as nx
import numpy as np
import pandas as pd

from dfdlib.data import Cohort
from dfdlib.errors import unknown
from dfdlib.stress.drawing import Drawn, Kind, Noise, Setting, World
from dfdlib.stress.open_kinds import OPEN
from dfdlib.stress.sealed import SEALED

Half = Literal["open", "sealed"]

ESTIMAND = (
    "P(Y = 1 | observed features), in the randomised world of the training hospitals: bias and "
    "availability are cut from whatever drove them"
)
#: What stands in the columns of `cohort.truth`.
TRUTH = {
    "p_do": ESTIMAND,
    "y": "the true outcome; cohort.y is this, or what was recorded of it",
}

KINDS: dict[str, dict[str, Kind]] = {"open": OPEN, "sealed": SEALED}
WORLDS: tuple[str, ...] = get_args(World)
# One number per patient of all worlds, draws and seeds of a kind.
_MOST = 10**7
_MOST_DRAWS = 10**4


def kinds(half: Half | str = "open") -> pd.DataFrame:
    """List the kinds of one half.

    *Open* kinds are for finding methods. *Sealed* ones are run once, when a method is frozen in a
    commit; `dfdlib.stress.sealed` holds the rule.

    Args:
        half: `open` or `sealed`.

    Returns:
        A row per kind: kind, departs (what is unlike the plain case), n (training patients),
        modalities, hospitals (of training) and structure.

    Raises:
        ValueError: There is no such half.

    Example:
        >>> kinds("sealed").set_index("kind").loc["noisy-device", "departs"]
        'no bias; measurement error differs'
    """
    return pd.DataFrame(
        [
            {
                "kind": name,
                "departs": kind.what,
                "n": kind.n,
                "modalities": len(_draw(name, world="train", n=1).x),
                "hospitals": kind.hospitals,
                "structure": kind.structure,
            }
            for name, kind in of_half(half).items()
        ]
    )


def of_half(half: str) -> dict[str, Kind]:
    """The kinds of a half, by name.

    Raises:
        ValueError: There is no such half.
    """
    if half not in KINDS:
        raise unknown(half, KINDS, "half of the stress cohorts")
    return KINDS[half]


def load(
    kind: str,
    *,
    draw: Any = 0,
    world: World | str = "train",
    n: Any = None,
    seed: Any = 0,
) -> Cohort:
    """Draw a cohort of one kind.

    Y follows causes that the features hold, and a confounder that they do not. Something else, the
    bias, follows the confounder or Y, more closely in some hospitals than in others, and the
    features or the availability of tests show it.

    Args:
        kind: a name from `kinds()`.
        draw: which of the kind's parameters: sizes of effects, strength of the bias per hospital,
            and so on. They are the same in all four worlds.
        world: `train`, and `home` for other patients of the same hospitals; `shifted`, a hospital
            where the bias has turned around; `randomised`, the training hospitals where bias and
            availability are coins, and causes are not driven by the confounder.
        n: patients; None for the kind's own number.
        seed: of the patients. Worlds of one seed hold different patients.

    Groups are site and patient.

    Truth:
        `p_do` is the probability of Y = 1 given the observed features in the randomised world, in
        closed form or by a quadrature that has converged: the best that anybody can do there.
        `y` is the true outcome. `cohort.y` is the recorded one: in some kinds hospitals make
        errors in it, and scores are to be taken against `truth["y"]`.

    Raises:
        ValueError: An unknown kind or world, or a number out of range.

    Example:
        >>> cohort = load("two-populations", draw=0, world="home", n=200)
        >>> cohort
        Cohort(200 rows: vitals (vector), labs (vector), ecg (vector), notes (vector); binary)
        >>> cohort.truth.columns.tolist()
        ['p_do', 'y']
    """
    drawn = _draw(kind, draw=draw, world=world, n=n, seed=seed)
    truth = pd.DataFrame({"p_do": drawn.p_do, "y": drawn.y})
    truth.attrs = {"estimand": ESTIMAND, "columns": TRUTH.copy()}
    first = operator.index(seed) * _MOST_DRAWS + operator.index(draw)
    first = (first * len(WORLDS) + WORLDS.index(world)) * _MOST
    there = {
        name: ~np.isnan(values) if values.dtype.kind == "f" else np.ones(values.shape, dtype=bool)
        for name, values in drawn.x.items()
    }
    observed = np.column_stack([mask.any(axis=1) for mask in there.values()])
    if drawn.observed is not None:
        observed &= drawn.observed
    return Cohort(
        x=drawn.x,
        kinds=drawn.kinds or None,
        observed=observed,
        x_observed={
            name: mask & observed[:, [place]] for place, (name, mask) in enumerate(there.items())
        },
        y=drawn.y if drawn.recorded is None else drawn.recorded,
        groups={
            "site": np.array([f"hospital {k + 1:02d}" for k in range(find(kind).hospitals + 1)])[
                drawn.site
            ],
            "patient": first + np.arange(len(drawn.y)),
        },
        truth=truth,
    )


def nodes(
    kind: str,
    *,
    draw: Any = 0,
    world: World | str = "train",
    n: Any = None,
    seed: Any = 0,
) -> pd.DataFrame:
    """The values of all nodes of `graph`, latent ones too, for the patients that `load` draws.

    Raises:
        ValueError: As `load`.

    Example:
        >>> nodes("bias-in-context", n=2).columns[:3].tolist()
        ['E', 'C', 'A_vitals']
    """
    return pd.DataFrame(_draw(kind, draw=draw, world=world, n=n, seed=seed).nodes)


def graph(kind: str, *, world: World | str = "train") -> nx.DiGraph:
    """The causal graph that a kind declares.

    Nodes: E the hospital, C the confounder, `A_` and a name what that modality holds of causes, Y
    the outcome, B the bias, `S_` what a modality shows of it, `R_` whether it is there, `X_` a
    measurement with an error, T a class of patients, L the recorded label. The attribute `latent`
    says which of them no feature holds.

    Raises:
        ValueError: An unknown kind or world.

    Example:
        >>> sorted(graph("heavy-tails").predecessors("B"))
        ['C', 'E']
        >>> sorted(graph("heavy-tails", world="randomised").predecessors("B"))
        []
    """
    return _draw(kind, world=world, n=1).graph


def find(kind: str) -> Kind:
    """The kind of a name, of either half.

    Raises:
        ValueError: There is none.
    """
    known = {name: entry for half in KINDS.values() for name, entry in half.items()}
    if kind not in known:
        # sealed names are no secret, but the open ones are those to try first
        raise unknown(kind, [*KINDS["open"], *KINDS["sealed"]], "kind of stress cohorts")
    return known[kind]


def _draw(
    kind: str,
    *,
    draw: Any = 0,
    world: str,
    n: Any = None,
    seed: Any = 0,
) -> Drawn:
    entry = find(kind)
    if world not in WORLDS:
        raise unknown(world, WORLDS, "world of stress cohorts")
    n = entry.n if n is None else n
    for name, value, low, high in (
        ("n", n, 1, _MOST),
        ("draw", draw, 0, _MOST_DRAWS - 1),
        ("seed", seed, 0, 10**6),
    ):
        try:
            fits = low <= operator.index(value) <= high and not isinstance(value, bool)
        except TypeError:
            fits = False
        if not fits:
            raise ValueError(f"{name} is {value!r}. Pass a whole number from {low} to {high}")
    key, which = zlib.crc32(kind.encode()), operator.index(draw)
    return entry.generator(
        Setting(
            n=operator.index(n),
            world=world,
            parameters=Noise(key, which),
            noise=Noise(key, which, operator.index(seed), WORLDS.index(world)),
        )
    )
