"""An encoder of codes: a bag of whole numbers per patient in, one token out."""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dfdlib.data import Ragged
from dfdlib.data._validate import unknown
from dfdlib.models.backbone import LEAST
from dfdlib.models.series import lookup, owners

Pool = Literal["mean", "sum", "tfidf"]


class CodeBag(nn.Module):
    r"""Embed each code, pool over the patient's codes, then a linear layer.

    .. math::
        \mathrm{token} = W \, \mathrm{ReLU}\Bigl(\sum_c w_c \, n_c \, E_c\Bigr) + b

    with :math:`n_c` how often the patient has the code: :math:`w_c = 1` for "sum", one over the
    number of codes for "mean", and :math:`\mathrm{idf}_c / \lVert n \odot \mathrm{idf} \rVert_2`
    for "tfidf", where :math:`\mathrm{idf}_c = 1 + \ln \frac{1 + N}{1 + N_c}` counts the N patients
    of the training part who have any code, and those who have this one (as scikit-learn does). The
    order of codes does not matter.

    The vocabulary is what at least `min_count` patients of the training part have. All other codes
    are one and the same unknown code, which is learned from the rare ones; where training had none,
    it adds nothing.

    Words of a text that were hashed to numbers are codes too: pool="tfidf" makes hashed TF-IDF
    features of them, with the frequencies of the training part.

    Args:
        d: width of the token.
        pool: how codes are put together.
        min_count: how many patients of the training part must have a code for it to be known.
        dropout: dropout rate on the pooled embedding.

    Shapes:
        n ragged rows of codes -> (n, d)

    Raises:
        ValueError: for another `pool`, or a `min_count` below 1.

    Example:
        >>> rows = Ragged.from_rows([[401, 250], [401], []])
        >>> encoder = CodeBag(d=8)
        >>> encoder.fit(rows)
        >>> encoder.words.tolist(), encoder(rows).shape
        ([401], torch.Size([3, 8]))
    """

    words: Tensor
    weight: Tensor

    def __init__(
        self, *, d: int, pool: Pool | str = "mean", min_count: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if pool not in get_args(Pool):
            raise unknown(pool, get_args(Pool), "way to pool codes")
        if min_count < 1:
            raise ValueError(f"min_count is {min_count}. Pass 1 to know every code of training.")
        self.d, self.pool, self.min_count, self.dropout = d, pool, min_count, dropout
        self.register_buffer("words", torch.zeros(0, dtype=torch.long))
        self.holders: Tensor | None = None  # patients of the training part; not saved
        self._resize(0)
        self.net = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(d, d))

    def fit(self, values: Ragged, _flags: None = None) -> None:
        """Collect the codes that enough patients have, and how many have each."""
        words, place = values.values.unique(return_inverse=True)
        patients = _holders(values, place, len(words))
        known = patients >= self.min_count
        self._resize(int(known.sum()))
        self.words.copy_(words[known])
        # row 0 stands for every code that is not known
        count = _holders(values, lookup(self.words, values.values), 1 + len(self.words))
        weight = torch.ones(len(count), dtype=torch.double, device=count.device)
        if self.pool == "tfidf":
            everybody = int((values.lengths > 0).sum())
            weight = 1 + ((1 + everybody) / (1 + count.double())).log()
        weight[0] *= count[0] > 0
        self.weight.copy_(weight)
        self.holders = patients[known]

    @torch.no_grad()
    def forget_rare(self) -> int:
        """Take codes that fewer than 10 patients had as unknown; gives how many there are."""
        if self.holders is None or len(self.holders) != len(self.words):
            return 0
        common = (self.holders >= LEAST).to(self.words.device)
        rows = torch.cat([common.new_ones(1), common])  # row 0 stands for what is not known
        words, weight, table = self.words[common], self.weight[rows], self.embedding.weight[rows]
        self._resize(len(words))
        self.words.copy_(words)
        self.weight.copy_(weight)
        self.embedding.weight.copy_(table)
        self.holders = self.holders[common.to(self.holders.device)]
        return int((~common).sum())

    def _resize(self, n_words: int) -> None:
        device = self.words.device
        self.words = self.words.new_zeros(n_words)
        self.register_buffer("weight", torch.ones(1 + n_words, device=device))
        self.embedding = nn.Embedding(1 + n_words, self.d, device=device)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        n_words = len(state[prefix + "words"])
        if n_words != len(self.words):  # else an optimiser may already hold the table
            self._resize(n_words)
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, values: Ragged, _flags: None = None) -> Float[Tensor, "n d"]:
        """Make the token of each patient."""
        n, owner = len(values), owners(values)
        word = lookup(self.words, values.values)
        share = self.weight[word]
        if self.pool == "mean":
            share = share / values.lengths[owner]
        elif self.pool == "tfidf":
            cell, times = (owner * len(self.weight) + word).unique(return_counts=True)
            mass = (times * self.weight[cell % len(self.weight)]).square()
            norm = mass.new_zeros(n).index_add(0, cell // len(self.weight), mass).sqrt()
            share = share / norm[owner].clamp(min=1e-12)
        bag = share.new_zeros(n, self.d)
        return self.net(bag.index_add(0, owner, share[:, None] * self.embedding(word)))


def _holders(values: Ragged, place: Int64[Tensor, " total"], size: int) -> Int64[Tensor, " v"]:
    """How many patients have each code, given by its place in a list of `size`."""
    cells = (owners(values) * max(1, size) + place).unique()
    return torch.bincount(cells % max(1, size), minlength=size)[:size]
