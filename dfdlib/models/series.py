"""Encoders of series: ragged rows of (time, value, flag) in, one token per patient out."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from dfdlib.data import Ragged
from dfdlib.models.backbone import LEAST
from dfdlib.models.transformer import _Block


class RowEmbedding(nn.Module):
    r"""Embed each (time, value, flag) of a series.

    .. math::
        e_i = z_i \, a_{f_i} + b_{f_i} + W \tilde t_i, \qquad
        z_i = (v_i - \mu_{f_i}) / \sigma_{f_i}

    The flag :math:`f` is a whole number that says what the value is: which quantity, whether the
    laboratory marked it. Each flag has its own mean and standard deviation, taken over the training
    part, and its own direction :math:`a` and place :math:`b`. A flag that training never saw has
    :math:`a = b = 0`: such a row says that something was measured at that time, and no more. Times
    :math:`\tilde t` are standardised over the training part.

    Args:
        d: width of the embedding.

    Shapes:
        rows (k, 3) -> (k, d)

    Raises:
        ValueError: in `fit`, if a flag is no whole number.
    """

    words: Tensor
    mean: Tensor
    std: Tensor
    clock: Tensor

    def __init__(self, *, d: int) -> None:
        super().__init__()
        self.d = d
        self.register_buffer("clock", torch.tensor([0.0, 1.0]))
        self.time = nn.Linear(1, d, bias=False)
        self.register_buffer("words", torch.zeros(0, dtype=torch.long))
        self.holders: Tensor | None = None  # patients of the training part; not saved
        self._resize(0)

    def fit(self, rows: Float[Tensor, "k 3"], owner: Int64[Tensor, " k"] | None = None) -> None:
        """Collect the flags, and take mean and standard deviation of the values of each.

        Args:
            rows: of all patients.
            owner: whose each row is, which `forget_rare` counts by.
        """
        time, value, flag = rows.double().unbind(dim=1)
        if (flag != flag.round()).any():
            wrong = float(flag[flag != flag.round()][0])
            raise ValueError(
                f"a series holds the flag {wrong:g}, which is no whole number. Pass rows of (time, "
                "value, flag), where the flag says what the value is: 0, 1, 2, …"
            )
        words, place = flag.long().unique(return_inverse=True)
        self._resize(len(words))
        self.words.copy_(words)
        n = torch.bincount(place, minlength=len(words)).clamp(min=1)
        mean = value.new_zeros(len(words)).index_add(0, place, value) / n
        centred = value - mean[place]
        std = (centred.new_zeros(len(words)).index_add(0, place, centred.square()) / n).sqrt()
        # the values of one flag may be constant, up to rounding
        constant = std <= 1e-6 * mean.abs().clamp(min=1e-30)
        self.mean[1:].copy_(mean)
        self.std[1:].copy_(torch.where(constant, torch.ones_like(std), std))
        if len(time):
            spread = time.std(correction=0).clamp(min=1e-6)
            self.clock.copy_(torch.stack([time.mean(), spread]))
        self.holders = None
        if owner is not None:
            cells = (owner * max(1, len(words)) + place).unique()
            self.holders = torch.bincount(cells % max(1, len(words)), minlength=len(words))

    @torch.no_grad()
    def forget_rare(self) -> int:
        """Take flags that fewer than 10 patients had as never seen; gives how many there are."""
        if self.holders is None or len(self.holders) != len(self.words):
            return 0
        common = (self.holders >= LEAST).to(self.words.device)
        rows = torch.cat([common.new_ones(1), common])  # row 0 stands for what was never seen
        kept = [part[rows] for part in (self.mean, self.std, self.slope.weight, self.place.weight)]
        words = self.words[common]
        self._resize(len(words))
        self.words.copy_(words)
        for part, values in zip(
            (self.mean, self.std, self.slope.weight, self.place.weight), kept, strict=True
        ):
            part.copy_(values)
        self.holders = self.holders[common.to(self.holders.device)]
        return int((~common).sum())

    def _resize(self, n_words: int) -> None:
        self.words = self.words.new_zeros(n_words)
        # row 0 stands for a flag that training never saw
        device = self.words.device
        self.register_buffer("mean", torch.zeros(1 + n_words, device=device))
        self.register_buffer("std", torch.ones(1 + n_words, device=device))
        self.slope = nn.Embedding(1 + n_words, self.d, padding_idx=0, device=device)
        self.place = nn.Embedding(1 + n_words, self.d, padding_idx=0, device=device)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        n_words = len(state[prefix + "words"])
        if n_words != len(self.words):  # else an optimiser may already hold the tables
            self._resize(n_words)
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, rows: Float[Tensor, "k 3"]) -> Float[Tensor, "k d"]:
        """Embed rows, whichever patients they are of."""
        time, value, flag = rows.unbind(dim=1)
        word = lookup(self.words, flag.round().long())
        z = (value - self.mean[word]) / self.std[word]
        clock = ((time - self.clock[0]) / self.clock[1])[:, None]
        return z[:, None] * self.slope(word) + self.place(word) + self.time(clock)


class SeriesGRU(nn.Module):
    """Read a series row by row with a gated recurrent unit; the last state is the token.

    Source: Cho et al. 2014; rows are embedded by `RowEmbedding`. They are read in the order in
    which the cohort holds them, which should be that of time; of a longer series the last
    `max_rows`. A patient without rows starts and ends at the state zero.

    Args:
        d: width of the token.
        max_rows: how many rows are read.
        dropout: dropout rate on the last state.

    Shapes:
        n ragged rows of (time, value, flag) -> (n, d)

    Example:
        >>> rows = Ragged.from_rows([[[0.5, 140.0, 0], [6.0, 133.0, 1]], []])
        >>> encoder = SeriesGRU(d=8)
        >>> encoder.fit(rows)
        >>> encoder(rows).shape
        torch.Size([2, 8])
    """

    # DIFF: MUSE's rows are time stamps with all quantities carried forward; here a row is one
    # measurement, embedded by what it is, so nothing is filled in that was not measured.

    def __init__(self, *, d: int, max_rows: int = 200, dropout: float = 0.0) -> None:
        super().__init__()
        self.d, self.max_rows, self.dropout = d, _checked(max_rows), dropout
        self.rows = RowEmbedding(d=d)
        self.gru = nn.GRU(d, d, batch_first=True)
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(d, d))

    def fit(self, values: Ragged, _flags: None = None) -> None:
        """Take scalers and flags from the training part."""
        self.rows.fit(values.values, owners(values))

    def forward(self, values: Ragged, _flags: None = None) -> Float[Tensor, "n d"]:
        """Make the token of each patient."""
        who, rows, there = filled(values, self.max_rows)
        embedded = torch.zeros(*there.shape, self.d, device=rows.device)
        embedded = embedded.masked_scatter(there[..., None], self.rows(rows[there]))
        packed = nn.utils.rnn.pack_padded_sequence(
            embedded, there.sum(1).clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        _, last = self.gru(packed)
        return self.net(spread(last[-1], who, there, len(values)))


class SeriesTransformer(nn.Module):
    """Read a series by self-attention over its rows; a learned query's last state is the token.

    Source: Vaswani et al. 2017, pre-norm blocks; rows are embedded by `RowEmbedding`. Their order
    does not matter, only the times that they carry; of a longer series the last `max_rows` are
    read. A patient without rows has the state zero.

    Args:
        d: width of the token.
        max_rows: how many rows are read.
        n_layers: number of blocks.
        n_heads: number of attention heads; divides d.
        dropout: dropout rate in the blocks.

    Shapes:
        n ragged rows of (time, value, flag) -> (n, d)

    Raises:
        ValueError: if n_heads does not divide d, or there is no layer or no row to read.

    Example:
        >>> rows = Ragged.from_rows([[[0.5, 140.0, 0], [6.0, 133.0, 1]], []])
        >>> encoder = SeriesTransformer(d=8, n_heads=2)
        >>> encoder.fit(rows)
        >>> encoder(rows).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        *,
        d: int,
        max_rows: int = 200,
        n_layers: int = 2,
        n_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if n_layers < 1 or n_heads < 1 or d % n_heads:
            raise ValueError(
                f"SeriesTransformer(d={d}, n_layers={n_layers}, n_heads={n_heads}): pass at least "
                "one layer, and a number of heads that divides d, such as n_heads=1."
            )
        self.d, self.max_rows, self.dropout = d, _checked(max_rows), dropout
        self.n_layers, self.n_heads = n_layers, n_heads
        self.rows = RowEmbedding(d=d)
        self.query = nn.Parameter(torch.empty(d))
        self.blocks = nn.ModuleList(
            _Block(d=d, n_heads=n_heads, dropout=dropout) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d)
        self.net = nn.Linear(d, d)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the query anew."""
        nn.init.normal_(self.query, std=self.d**-0.5)

    def fit(self, values: Ragged, _flags: None = None) -> None:
        """Take scalers and flags from the training part."""
        self.rows.fit(values.values, owners(values))

    def forward(self, values: Ragged, _flags: None = None) -> Float[Tensor, "n d"]:
        """Make the token of each patient."""
        who, rows, there = filled(values, self.max_rows)
        embedded = torch.zeros(*there.shape, self.d, device=rows.device)
        embedded = embedded.masked_scatter(there[..., None], self.rows(rows[there]))
        h = torch.cat([self.query.expand(len(who), 1, self.d), embedded], dim=1)
        keys = torch.cat([there.new_ones(len(who), 1), there], dim=1)
        for layer, block in enumerate(self.blocks):
            # only the query is read from the last block
            h = block(h, keys, None, 1 if layer == self.n_layers - 1 else h.shape[1])
        return self.net(spread(self.norm(h[:, 0]), who, there, len(values)))


def owners(values: Ragged) -> Int64[Tensor, " total"]:
    """The patient of each entry."""
    everybody = torch.arange(len(values), device=values.offsets.device)
    return torch.repeat_interleave(everybody, values.lengths)


def filled(
    values: Ragged, max_rows: int
) -> tuple[Int64[Tensor, " m"], Float[Tensor, "m t 3"], Bool[Tensor, "m t"]]:
    """Pad the series of the patients who have one, on the right.

    Where nobody has, one patient stands in with an empty row: every weight then has a gradient, of
    zero, which processes that share gradients wait for.

    Returns:
        Who they are, the rows, and which of these are theirs.
    """
    lengths = values.lengths.clamp(max=max_rows)
    who = lengths.nonzero()[:, 0]
    if not len(who):
        who = lengths.new_zeros(1)
    kept = lengths[who]
    place = torch.arange(max(1, int(kept.max())), device=kept.device)
    there = place < kept[:, None]
    begin = values.offsets[1:][who] - kept
    rows = values.values.new_zeros(*there.shape, 3)
    rows[there] = values.values[(begin[:, None] + place)[there]]
    return who, rows, there


def spread(
    h: Float[Tensor, "m d"], who: Int64[Tensor, " m"], there: Bool[Tensor, "m t"], n: int
) -> Float[Tensor, "n d"]:
    """Give everybody the state of their series, and zeros to those without one."""
    h = h * there.any(dim=1, keepdim=True)
    return h.new_zeros(n, h.shape[1]).index_copy(0, who, h)


def lookup(words: Int64[Tensor, " v"], codes: Int64[Tensor, " k"]) -> Int64[Tensor, " k"]:
    """Find each number's place in a sorted vocabulary, counted from 1; 0 where it is not there."""
    if not len(words):
        return torch.zeros_like(codes)
    place = torch.searchsorted(words, codes).clamp(max=len(words) - 1)
    return torch.where(words[place] == codes, place + 1, torch.zeros_like(place))


def _checked(max_rows: int) -> int:
    if max_rows < 1:
        raise ValueError(f"max_rows is {max_rows}, so no row is read. Pass 1 or more, such as 200.")
    return max_rows
