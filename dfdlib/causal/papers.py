"""The causal models of the papers, and what follows from them.

Neither paper's figures could be read. The graphs are inferred from the abstracts and from summaries
of the papers (`# DIFF:` marks each choice), the coefficients are ours. What the functions say about
the graphs is derived from them, nothing is typed in.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

import networkx as nx
import numpy as np
import pandas as pd

from dfdlib.causal.graphs import adjustment_sets, explain_adjustment
from dfdlib.causal.scm import SCM
from dfdlib.causal.separation import Path, d_separated, walk
from dfdlib.errors import check_name

Reading = Literal["1", "2", "3", "spurious", "anticausal"]


def biased_features(reading: Reading = "1") -> SCM:
    """Build the model of biased features of the first paper (arXiv 2601.21941, Figure 1(b)).

    Readings 1 and 2 take C for a latent confounder, X for the causal and B for the biased
    representation: ``X <- C -> B -> Y <- X``, and in reading 2 also ``C -> Y``. Reading 3 takes the
    letters of the figure as the paper's summary does, "why is B -> C -> Y problematic": C are the
    causal features and B the biased ones; both show in the observed graph G, only C causes Y, and
    a latent U associates them. Two graphs for comparison do imply independence: ``spurious``, where
    nothing but chance associates X with C, and ``anticausal``, where Y causes both (Veitch et al.,
    Counterfactual Invariance to Spurious Correlations, 2021).

    Args:
        reading: Which graph.

    Returns:
        The model. The representations are nodes as if they were recovered from the data.

    Raises:
        ValueError: For an unknown reading.

    Example:
        >>> biased_features("1")
        SCM(C, C -> B, C -> X, X B -> Y; latent C)
    """
    # DIFF: the paper's figure could not be read; all three readings are kept, no other is known.
    models = {
        "1": lambda: SCM(
            C=lambda u: u,
            B=lambda C, u: C + u,
            X=lambda C, u: C + u,
            Y=lambda X, B, u: X + B + u > 0,
            latent="C",
        ),
        "2": lambda: SCM(
            C=lambda u: u,
            B=lambda C, u: C + u,
            X=lambda C, u: C + u,
            Y=lambda X, B, C, u: X + B + C + u > 0,
            latent="C",
        ),
        "3": lambda: SCM(
            U=lambda u: u,
            C=lambda U, u: U + u,
            B=lambda U, u: U + u,
            G=lambda C, B, u: C + B + u,
            Y=lambda C, u: C + u > 0,
            latent="U",
        ),
        "spurious": lambda: SCM(
            C=lambda u: u,
            B=lambda C, u: C + u,
            X=lambda u: u,
            Y=lambda X, C, u: X + C + u > 0,
            latent="C",
        ),
        "anticausal": lambda: SCM(
            Y=lambda u: u > 0,
            X=lambda Y, u: Y + u,
            B=lambda Y, u: Y + u,
        ),
    }
    check_name(reading, models, "reading")
    return models[reading]()


def representations(reading: Reading) -> tuple[str, str]:
    """Name the nodes that the causal and the biased representation stand for in a reading.

    Example:
        >>> representations("1"), representations("3")
        (('X', 'B'), ('C', 'B'))
    """
    return ("C" if reading == "3" else "X"), "B"


def readings() -> pd.DataFrame:
    """Derive from each reading what it says of the two representations and of adjusting.

    Returns:
        One row per reading: its ``graph``; whether the causal and the biased representation are
        independent, ``marginal`` and ``given_Y``, or else the shortest open path between them; and
        what identifies the ``effect`` of the causal representation on Y by adjustment.

    Example:
        >>> readings().loc[["1", "anticausal"], ["marginal", "given_Y"]]
                          marginal           given_Y
        1           X <- C -> B is open  X <- C -> B is open
        anticausal  X <- Y -> B is open          independent
    """
    rows = {}
    for reading in get_args(Reading):
        graph = biased_features(reading).graph
        causal, biased = representations(reading)
        rows[reading] = {
            "graph": _spell(graph),
            "marginal": _independence(graph, causal, biased, frozenset()),
            "given_Y": _independence(graph, causal, biased, frozenset("Y")),
            "effect": str(explain_adjustment(graph, causal, "Y")),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def missing_modalities(
    *, c_to_y: bool = True, r_to_y: bool = True, x_to_r: bool = False, d_to_ry: bool = False
) -> SCM:
    """Build the model of missing modalities of the second paper (arXiv 2509.05615).

    A latent C causes the modality X, its availability R and, if ``c_to_y``, the outcome Y; X causes
    Y; what is seen is ``X_observed = R X``. X is 0 or 1 so that its effect can be stratified; an
    arrow has weight 1 where it is there, but X -> R, which has -1.

    Args:
        c_to_y: Whether C causes Y other than through X and R.
        r_to_y: Whether availability itself causes Y, as an order that leads to a treatment does.
        x_to_r: Whether the modality's value decides that it is ordered (ordering by severity).
        d_to_ry: Whether a second latent D causes R and Y, so that R is a collider.

    Returns:
        The model; ``R`` is the indicator of ``X`` in its graph.

    Example:
        >>> missing_modalities(r_to_y=False)
        SCM(C, C -> X, C -> R, X R -> X_observed, X C -> Y; latent C)
    """
    # DIFF: the paper's figure could not be read; R -> Y and C -> Y are therefore options.
    to_y = {"X": 1.0, "C": float(c_to_y), "R": float(r_to_y), "D": float(d_to_ry)}
    to_r = {"C": 1.0, "X": -float(x_to_r), "D": float(d_to_ry)}
    second: dict[str, Any] = {"D": lambda u: u} if d_to_ry else {}
    return SCM(
        C=lambda u: u,
        **second,
        X=lambda C, u: C + u > 0,
        R=_linear(to_r, positive=True),
        X_observed=lambda X, R: X * R,
        Y=_linear(to_y),
        latent={"C", *second},
        indicators={"X": "R"},
    )


def adjusting_for_missingness() -> pd.DataFrame:
    """Derive when adjusting for R in `missing_modalities` helps to find the effect of X on Y.

    A path biases if it is open and not causal. Adjusting for R is ``needed`` if every set of
    observed nodes that identifies the effect holds R; ``sufficient`` if {R} alone identifies it;
    ``useless`` if it neither closes a biasing path nor harms; ``harmful`` if it opens a biasing
    path or blocks a causal one. What is none of these closes some biasing paths and leaves others.
    C and D are latent throughout. A graph speaks of all models that it has: in numbers, a useless
    R may still take away part of a bias as a proxy of C, and a harmful one may add little.

    Returns:
        One row per graph, the options of `missing_modalities` as index: the biasing paths that
        adjusting ``closes``, ``opens`` and ``leaves``, the causal ones that it ``blocks``, and the
        four answers.

    Example:
        >>> table = adjusting_for_missingness()
        >>> table.loc[(True, False, False, False)].to_dict()["leaves"]
        'X <- C -> Y'
    """
    options = [
        {"c_to_y": c, "r_to_y": r, "x_to_r": x, "d_to_ry": d}
        for d, x in ((False, False), (False, True), (True, False))
        for c, r in ((True, True), (True, False), (False, True), (False, False))
    ]
    rows = [_effect_of_adjusting(missing_modalities(**chosen).graph) for chosen in options]
    index = pd.MultiIndex.from_frame(pd.DataFrame(options))
    return pd.DataFrame(rows, index=index)


def _effect_of_adjusting(graph: nx.DiGraph) -> dict[str, Any]:
    before = {path.text: path for path in walk(graph, "X", "Y", frozenset())}
    after = {path.text: path for path in walk(graph, "X", "Y", frozenset("R"))}

    def biasing(paths: dict[str, Path]) -> set[str]:
        return {text for text, path in paths.items() if path.open and not path.causal}

    closes, opens = biasing(before) - biasing(after), biasing(after) - biasing(before)
    blocks = {text for text, path in after.items() if path.causal and not path.open}
    sets = adjustment_sets(graph, "X", "Y")
    return {
        "closes": ", ".join(sorted(closes)),
        "opens": ", ".join(sorted(opens)),
        "leaves": ", ".join(sorted(biasing(before) & biasing(after))),
        "blocks": ", ".join(sorted(blocks)),
        "needed": bool(sets) and all("R" in z for z in sets),
        "sufficient": explain_adjustment(graph, "X", "Y", "R").answer == "yes",
        "useless": not closes and not opens and not blocks,
        "harmful": bool(opens or blocks),
    }


def _independence(graph: nx.DiGraph, a: str, b: str, known: frozenset[str]) -> str:
    if d_separated(graph, a, b, known):
        return "independent"
    opened = (path for path in walk(graph, a, b, known) if path.open)
    return f"{min(opened, key=lambda p: (len(p.nodes), p.nodes)).text} is open"


def _spell(graph: nx.DiGraph) -> str:
    """Arrows by cause: ``C -> B X, X -> Y``."""
    causes = ((n, sorted(graph.successors(n))) for n in nx.lexicographical_topological_sort(graph))
    return ", ".join(f"{n} -> {' '.join(effects)}" for n, effects in causes if effects)


def _linear(weights: dict[str, float], *, positive: bool = False) -> Callable[..., np.ndarray]:
    """A mechanism that sums its parents and the noise; parents of weight 0 are none."""
    parents = {name: weight for name, weight in weights.items() if weight}

    def mechanism(**values: np.ndarray) -> np.ndarray:
        total = values["u"] + sum(weight * values[name] for name, weight in parents.items())
        return total > 0 if positive else total

    arguments = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in (*parents, "u")]
    mechanism.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
    return mechanism
