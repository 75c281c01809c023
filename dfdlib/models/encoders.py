"""Encoders: one raw modality in, one token per patient out.

An encoder is any module with `forward(values, flags) -> (n, d)`; `flags` says which features were
observed (None where the modality's kind has no feature mask, as for series and codes). One that
reads scalers or a vocabulary off the training part is `Fitted`, too.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor, nn

from dfdlib.data import Ragged, Schema
from dfdlib.errors import check_type, unknown, wrong_type
from dfdlib.models.backbone import LEAST
from dfdlib.models.series import SeriesGRU, lookup, owners

Pool = Literal["mean", "sum", "tfidf"]


@runtime_checkable
class Fitted(Protocol):
    """An encoder with scalers, or a vocabulary, of the training part.

    Example:
        >>> isinstance(CodeBag(d=8), Fitted), isinstance(nn.Identity(), Fitted)
        (True, False)
    """

    def fit(self, values: Any, flags: Any, /) -> None:
        """Read off the training part what is needed; called once, by `fit`."""


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


def mean_and_std(
    values: Float64[Tensor, "n k"], there: Float64[Tensor, "n k"]
) -> tuple[Float64[Tensor, " k"], Float64[Tensor, " k"]]:
    """Mean and standard deviation of what is there in each column; 1 where nothing varies.

    Example:
        >>> values, there = torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([[1.0], [1.0], [0.0]])
        >>> [float(number) for number in mean_and_std(values.double(), there.double())]
        [2.0, 1.0]
    """
    n = there.sum(0).clamp(min=1)
    mean = (values * there).sum(0) / n
    std = (((values - mean) * there).square().sum(0) / n).sqrt()
    # a constant column has a standard deviation of rounding errors, not of zero
    constant = std <= 1e-6 * mean.abs().clamp(min=1e-30)
    return mean, torch.where(constant, torch.ones_like(std), std)


class VectorEncoder(nn.Module):
    r"""Standardise numbers with the training part's moments, then a two-layer perceptron.

    .. math::
        \mathrm{token} = W_2 \, \mathrm{ReLU}\bigl(W_1 [\, f \odot (x - \mu) / \sigma ; f \,]\bigr)

    with :math:`f` the flags of what was observed: a missing value enters as zero, which is the
    training mean, and the flag says that it was missing. :math:`\mu, \sigma` are taken over the
    observed values of the training part; a constant feature has :math:`\sigma = 1`. A feature that
    training never observed has no scale, so it counts as missing afterwards too.

    Args:
        n_features: number of features.
        d: width of the token.
        flags: whether the flags are given to the network. Zeros alone still tell a network much.
        dropout: dropout rate on the hidden layer.

    Shapes:
        values (n, n_features), flags (n, n_features) -> (n, d)
    """

    mean: Tensor
    std: Tensor
    seen: Tensor

    def __init__(
        self, *, n_features: int, d: int, flags: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.n_features, self.d, self.flags, self.dropout = n_features, d, flags, dropout
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))
        self.register_buffer("seen", torch.ones(n_features, dtype=torch.bool))
        self.holders: Tensor | None = None  # patients of the training part; not saved
        self.net = nn.Sequential(
            nn.Linear(n_features * (2 if flags else 1), d),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(d, d),
        )

    def fit(self, values: Float[Tensor, "n k"], flags: Bool[Tensor, "n k"]) -> None:
        """Take mean and standard deviation of the observed values."""
        mean, std = mean_and_std(values.double(), flags.double())
        self.seen.copy_(flags.any(0))
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.holders = flags.sum(0)

    def forget_rare(self) -> int:
        """Take features that fewer than 10 patients had as missing; gives how many there are."""
        if self.holders is None:
            return 0
        rare = self.seen & (self.holders < LEAST).to(self.seen.device)
        self.seen.masked_fill_(rare, False)
        self.mean.masked_fill_(rare, 0)
        self.std.masked_fill_(rare, 1)
        return int(rare.sum())

    def forward(
        self, values: Float[Tensor, "n k"], flags: Bool[Tensor, "n k"]
    ) -> Float[Tensor, "n d"]:
        """Make the token of each patient."""
        observed = (flags & self.seen).to(values.dtype)
        x = (values - self.mean) / self.std * observed
        return self.net(torch.cat([x, observed], dim=1) if self.flags else x)


class CategoricalEncoder(nn.Module):
    """Embed each categorical column, add the embeddings up, then a linear layer.

    The vocabulary of a column is what the training part holds. A missing entry and one that
    training never saw have rows of their own in the embedding table; the row for "never saw" stays
    at zero.

    Args:
        n_features: number of columns.
        d: width of the token.
        flags: whether a missing entry has a learned row (True) or a row of zeros (False).
        dropout: dropout rate on the sum of embeddings.

    Shapes:
        values (n, n_features) of integers, flags (n, n_features) -> (n, d)
    """

    vocabulary: Tensor
    start: Tensor

    def __init__(
        self, *, n_features: int, d: int, flags: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.n_features, self.d, self.flags, self.dropout = n_features, d, flags, dropout
        self.register_buffer("vocabulary", torch.zeros(0, dtype=torch.long))
        self.register_buffer("start", torch.zeros(n_features + 1, dtype=torch.long))
        self.holders: Tensor | None = None  # patients of the training part; not saved
        # rows 0 .. k-1: missing, one per column; k: never seen; then the vocabularies
        self.embedding = nn.Embedding(n_features + 1, d, padding_idx=n_features)
        self.net = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(d, d))

    def fit(self, values: Int[Tensor, "n k"], flags: Bool[Tensor, "n k"]) -> None:
        """Collect the vocabulary of each column and make the embedding table of its size."""
        columns = [v[f].unique(return_counts=True) for v, f in zip(values.T, flags.T, strict=True)]
        words = [levels for levels, _ in columns]
        sizes = torch.tensor([0, *(len(w) for w in words)], device=values.device)
        self._resize(int(sizes.sum()))
        self.vocabulary.copy_(torch.cat(words))
        self.start.copy_(sizes.cumsum(0))
        self.holders = torch.cat([count for _, count in columns])

    @torch.no_grad()
    def forget_rare(self) -> int:
        """Take levels that fewer than 10 patients had as never seen; gives how many there are."""
        if self.holders is None or len(self.holders) != len(self.vocabulary):
            return 0
        common = (self.holders >= LEAST).to(self.vocabulary.device)
        first = self.n_features + 1
        table = self.embedding.weight[:first], self.embedding.weight[first:][common]
        words = self.vocabulary[common]
        before = torch.cat([common.new_zeros(1).long(), common.long().cumsum(0)])
        self.start.copy_(before[self.start])
        self._resize(len(words))
        self.vocabulary.copy_(words)
        self.embedding.weight.copy_(torch.cat(table))
        self.holders = self.holders[common.to(self.holders.device)]
        return int((~common).sum())

    def _resize(self, n_words: int) -> None:
        self.vocabulary = self.vocabulary.new_zeros(n_words)
        weight = self.embedding.weight
        self.embedding = nn.Embedding(
            self.n_features + 1 + n_words, self.d, padding_idx=self.n_features, device=weight.device
        )

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        n_words = len(state[prefix + "vocabulary"])
        if n_words != len(self.vocabulary):  # else an optimiser may already hold the table
            self._resize(n_words)
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(
        self, values: Int[Tensor, "n k"], flags: Bool[Tensor, "n k"]
    ) -> Float[Tensor, "n d"]:
        """Make the token of each patient."""
        unseen = self.n_features
        token = self.embedding.weight.new_zeros(len(values), self.d)
        for k in range(self.n_features):
            begin, end = int(self.start[k]), int(self.start[k + 1])
            words = self.vocabulary[begin:end]
            place = torch.searchsorted(words, values[:, k].contiguous())
            known = torch.zeros_like(flags[:, k])
            if len(words):
                place = place.clamp(max=len(words) - 1)
                known = words[place] == values[:, k]
            row = torch.where(known, place + begin + unseen + 1, torch.full_like(place, unseen))
            missing = torch.full_like(place, k if self.flags else unseen)
            token = token + self.embedding(torch.where(flags[:, k], row, missing))
        return self.net(token)


_ENCODERS = {"vector": VectorEncoder, "categorical": CategoricalEncoder}
_RAGGED = {"series": SeriesGRU, "codes": CodeBag}


def check_schema(schema: object, who: str) -> None:
    """Refuse what is no schema; most often it is the cohort that has one.

    Raises:
        TypeError: It is something else; `who` is named as the one that takes a schema.
    """
    takes = f"{who} takes a Schema as schema= (cohort.schema)"
    check_type(schema, Schema, takes, "Write schema=cohort.schema")


def check_module(module: object, who: str, name: str, usual: str) -> None:
    """Refuse what is no torch module, such as the class of one, or its name.

    Raises:
        TypeError: It is something else; `who` is named as the one that takes it, and `usual` as
            a class whose instance fits.
    """
    if not isinstance(module, nn.Module):
        made = isinstance(module, type) and issubclass(module, nn.Module)
        advice = f"Write {name}={module.__name__ if made else usual}()"  # type: ignore[attr-defined]
        raise wrong_type(module, f"{who} takes a torch module as {name}=", advice)


def make_encoders(
    schema: Schema,
    *,
    d: int,
    flags: bool = True,
    dropout: float = 0.0,
    encoders: Mapping[str, nn.Module] | None = None,
) -> nn.ModuleDict:
    """Make one encoder per modality: the one that fits its kind, or the one that is passed in.

    Args:
        schema: names, kinds and sizes of the modalities.
        d: width of the tokens.
        flags: passed on to the encoders of vectors and categoricals.
        dropout: passed on to the encoders.
        encoders: modules to use for the modalities named.

    Raises:
        TypeError: if `encoders` is no mapping.
        ValueError: if `encoders` names an unknown modality, a kind has no encoder of its own, or a
            modality has a name that torch's ModuleDict does not take.

    Example:
        >>> from dfdlib.data import Cohort
        >>> cohort = Cohort(x={"ecg": torch.randn(3, 2), "labs": torch.randn(3, 4)})
        >>> list(make_encoders(cohort.schema, d=8))
        ['ecg', 'labs']
    """
    if encoders is not None:
        takes = "encoders= takes a dict of modules by modality"
        advice = f"Write encoders={{{schema.names[0]!r}: module}}"
        check_type(encoders, (Mapping, nn.ModuleDict), takes, advice)
    replaced = dict(encoders or {})
    unknown = sorted(set(replaced) - set(schema.names))
    if unknown:
        raise ValueError(
            f"encoders names {', '.join(map(repr, unknown))}, which is no modality of the schema. "
            f"The modalities are: {', '.join(schema.names)}."
        )
    made = nn.ModuleDict()
    taken = [name for name in schema.names if hasattr(made, name)]
    if taken:
        raise ValueError(
            f"a modality cannot be called {taken[0]!r}, since torch's ModuleDict has an attribute "
            f"of that name. Rename it, for example to '{taken[0]}_'."
        )
    for name in schema.names:
        kind = schema.kinds[name]
        if name in replaced:
            made[name] = replaced[name]
        elif kind in _ENCODERS:
            made[name] = _ENCODERS[kind](
                n_features=schema.sizes[name][0], d=d, flags=flags, dropout=dropout
            )
        elif kind in _RAGGED:
            made[name] = _RAGGED[kind](d=d, dropout=dropout)
        else:
            raise ValueError(
                f"there is no encoder yet for {name!r}, which is of kind {kind!r} "
                f"(there are: {', '.join([*_ENCODERS, *_RAGGED])}). Pass "
                f"encoders={{{name!r}: module}}, a module with forward(values, flags) -> (n, d)."
            )
    return made
