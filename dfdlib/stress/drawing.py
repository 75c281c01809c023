"""What generators of stress cohorts are made of: streams of noise, worlds, and exact averages."""

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, Int

from dfdlib.data.synthetic_model import DENSITY, GRID, sigmoid

World = Literal["train", "home", "shifted", "randomised"]

#: How many numbers a block of features has.
BLOCK = 3
#: Probability that a modality shows the bias attribute wrong.
SLIP = 0.1
# Patients at a time in an average over what is hidden: the integrands stay in the cache.
_CHUNK = 8192


class Noise:
    """A stream of random numbers per name: a node keeps its noise whatever else there is.

    Example:
        >>> Noise(0, 1).stream("C").random() == Noise(0, 1).stream("C").random()
        True
    """

    def __init__(self, *key: int) -> None:
        self._key = key

    def stream(self, name: str) -> np.random.Generator:
        """The stream of a name, from its beginning."""
        spawn = (zlib.crc32(name.encode()),)
        return np.random.default_rng(np.random.SeedSequence(self._key, spawn_key=spawn))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a generator is told: how many patients, in which world, and where its noise comes from.

    Attributes:
        n: patients.
        world: which of the four.
        parameters: streams of the numbers that one draw of a kind keeps in all worlds.
        noise: streams of the patients.
    """

    n: int
    world: str
    parameters: Noise
    noise: Noise

    @property
    def randomised(self) -> bool:
        """Whether bias and availability are cut from whatever drove them."""
        return self.world == "randomised"

    def between(self, name: str, low: float, high: float, *size: int) -> np.ndarray:
        """Parameters of this draw, uniform between two numbers."""
        return self.parameters.stream(name).uniform(low, high, size)

    def normal(self, node: str, *width: int) -> np.ndarray:
        """Standard normal noise of a node, a row per patient."""
        return self.noise.stream(node).standard_normal((self.n, *width))

    def uniform(self, node: str, *width: int) -> np.ndarray:
        """Noise of a node, uniform on [0, 1)."""
        return self.noise.stream(node).random((self.n, *width))

    def sign(self, node: str, *width: int) -> np.ndarray:
        """A coin per patient, −1 or 1."""
        return np.where(self.uniform(node, *width) < 0.5, -1.0, 1.0)

    def hospitals(self, k: int) -> Int[np.ndarray, " n"]:
        """Which hospital: 0 to k − 1 of training, or k, where the shifted patients are."""
        if self.world == "shifted":
            return np.full(self.n, k)
        return (self.uniform("E") * k).astype(np.int64)

    def outcome(self, log_odds: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Y, from its log-odds."""
        return (self.uniform("Y") < sigmoid(log_odds)).astype(np.int64)

    def follow(
        self, node: str, cause: np.ndarray, log_odds: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """An attribute of −1 or 1 that agrees with its cause; a coin in the randomised world."""
        agree = sigmoid(np.zeros(self.n) if self.randomised else log_odds)
        return np.where(self.uniform(node) < agree, cause, -cause).astype(float)

    def shown(self, node: str, attribute: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """What one modality shows of an attribute: wrong for one patient in ten."""
        return np.where(self.uniform(node) < SLIP, -attribute, attribute)

    def cause(self, name: str, part: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
        """Three standard normal features, for a standard normal part: their sum over √3 is it."""
        normal = self.normal(f"cause {name}", BLOCK)
        return normal + ((part - normal.sum(axis=1) / np.sqrt(BLOCK)) / np.sqrt(BLOCK))[:, None]

    def signs(
        self, name: str, shown: Float[np.ndarray, " n"], carriers: int = 1
    ) -> Float[np.ndarray, "n 3"]:
        """Three features; the product of the signs of the first `carriers` of them is `shown`."""
        uniform = self.uniform(f"spurious {name}", 2, BLOCK)
        sign = np.where(uniform[:, 0] < 0.5, -1.0, 1.0)
        sign[:, 0] = shown * sign[:, 1:carriers].prod(axis=1)
        return sign * (0.5 + uniform[:, 1])

    def graph(
        self,
        parents: Mapping[str, Sequence[str]],
        *,
        latent: Collection[str] = ("C", "B"),
        cut: Collection[str] = ("B",),
    ) -> nx.DiGraph:
        """The causal graph of this world.

        Args:
            parents: of each node.
            latent: nodes that no feature holds exactly.
            cut: nodes that lose their parents in the randomised world.
        """
        graph = nx.DiGraph()
        for node, above in parents.items():
            graph.add_node(node, latent=node in latent)
            gone = (self.randomised and node in cut) or (self.world == "shifted" and node == "E")
            graph.add_edges_from(() if gone else [(parent, node) for parent in above])
        return graph


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a generator gives back.

    Attributes:
        x: the features of each modality, NaN where one is missing.
        site: the position of each patient's hospital.
        y: the true outcome.
        p_do: P(Y = 1 | observed features) in the randomised world.
        nodes: the value of every node of the graph, latent ones too.
        graph: the declared causal graph of this world.
        observed: which modalities are there; None for all.
        recorded: the label as it was written down; None where that is the outcome.
        kinds: of modalities that are no vectors.
    """

    x: dict[str, np.ndarray]
    site: np.ndarray
    y: np.ndarray
    p_do: np.ndarray
    nodes: dict[str, np.ndarray]
    graph: nx.DiGraph
    observed: np.ndarray | None = None
    recorded: np.ndarray | None = None
    kinds: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A kind of stress cohorts.

    Attributes:
        what: what departs from the plain case.
        structure: `confounded`, `anticausal` or `unbiased`.
        hospitals: how many the training patients come from.
        generator: draws patients.
        n: training patients, unless another number is asked for.
    """

    what: str
    structure: str
    hospitals: int
    generator: Callable[[Setting], Drawn]
    n: int = 10_000


def by_name(stem: str, values: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns as nodes: `A_labs` and so on.

    Example:
        >>> by_name("A", np.ones((1, 2)), ("labs", "ecg"))
        {'A_labs': array([1.]), 'A_ecg': array([1.])}
    """
    return {f"{stem}_{name}": values[:, place] for place, name in enumerate(names)}


def averaged(index: np.ndarray, push: float) -> np.ndarray:
    """P(Y = 1) from the log-odds without the confounder, over its two values, −1 and 1.

    Example:
        >>> averaged(np.zeros(1), 2.0).round(6)
        array([0.5])
    """
    return (sigmoid(index + push) + sigmoid(index - push)) / 2


def integrated(
    mean: Float[np.ndarray, " n"],
    spread: Float[np.ndarray, " n"],
    probability: Callable[[np.ndarray], np.ndarray],
) -> Float[np.ndarray, " n"]:
    """Average a probability over a normal index: by the trapezoidal rule, exact to 1e-9 here.

    Args:
        mean: of the index, per patient.
        spread: its standard deviation, 0 where nothing is hidden.
        probability: from the index.

    Example:
        >>> from scipy.integrate import quad
        >>> from scipy.stats import norm
        >>> ours = integrated(np.ones(1), np.full(1, 2.0), sigmoid)[0]
        >>> bool(abs(ours - quad(lambda z: sigmoid(1 + 2 * z) * norm.pdf(z), -9, 9)[0]) < 1e-9)
        True
    """
    result = np.empty(len(mean))
    for start in range(0, len(mean), _CHUNK):
        rows = slice(start, start + _CHUNK)
        values = probability(mean[rows, None] + spread[rows, None] * GRID)
        # not a matrix product: BLAS adds up in an order that depends on threads and shapes
        result[rows] = np.einsum("nk,k->n", values, DENSITY)
    return result


def hidden(there: Bool[np.ndarray, "n m"], parts: np.ndarray) -> np.ndarray:
    """Parts of the modalities that are there, 0 for the others.

    Example:
        >>> hidden(np.array([[True, False]]), np.array([[2.0, 3.0]]))
        array([[2., 0.]])
    """
    return np.where(there, parts, 0.0)
