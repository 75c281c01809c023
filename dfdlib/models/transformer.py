"""Masked self-attention over a patient's modality tokens."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dfdlib.models.backbone import Backbone, EdgeWeight, per_layer


class TokenTransformer(Backbone):
    r"""A transformer whose tokens are the patient and the modalities that were observed.

    Source: Vaswani et al. 2017, pre-norm blocks; a learned patient token is put in front, and its
    last state is the embedding. A token that was not observed is no key, so nobody reads it:

    .. math::
        \mathrm{att}_i = \sum_{j : o_j = 1} \mathrm{softmax}_j
            \Bigl(\tfrac{q_i \cdot k_j}{\sqrt{d / h}}\Bigr) \, w_j v_j

    The edge weight :math:`w_j` scales what token j sends, its value; attention is not normalised
    again, so a small weight makes a modality say less and does not make the others say more (GRAPE
    divides by the number of neighbours for the same reason). The patient token has weight 1.

    Args:
        d: width of tokens and embedding.
        n_layers: number of blocks.
        n_heads: number of attention heads; divides d.
        dropout: dropout rate after attention and after the feed-forward part.
        n_modalities: number of modalities M; None takes it from the first input.

    Shapes:
        tokens (n, M, d), observed (n, M), weight (n, M) or (n, M, d) or a list with one of these
        (or None = 1) per layer -> embedding (n, d)

    Raises:
        ValueError: if n_heads does not divide d, or there is no layer or no head.

    Example:
        >>> backbone = TokenTransformer(d=8, n_heads=2)
        >>> backbone(torch.randn(4, 3, 8), torch.ones(4, 3, dtype=torch.bool)).shape
        torch.Size([4, 8])
    """

    def __init__(
        self,
        *,
        d: int,
        n_layers: int = 2,
        n_heads: int = 4,
        dropout: float = 0.0,
        n_modalities: int | None = None,
    ) -> None:
        super().__init__()
        if n_layers < 1 or n_heads < 1:
            raise ValueError(
                f"TokenTransformer needs n_layers >= 1 and n_heads >= 1, got n_layers={n_layers} "
                f"and n_heads={n_heads}."
            )
        if d % n_heads:
            raise ValueError(
                f"n_heads must divide d, got d={d} and n_heads={n_heads}. "
                f"Try n_heads={max(h for h in range(1, n_heads + 1) if d % h == 0)}."
            )
        self.d, self.n_layers, self.n_heads, self.dropout = d, n_layers, n_heads, dropout
        self.n_modalities: int | None = None
        self.patient_token = nn.Parameter(torch.empty(d))
        self.blocks = nn.ModuleList(
            _Block(d=d, n_heads=n_heads, dropout=dropout) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d)
        if n_modalities is not None:
            self.build(n_modalities)
        self.reset_parameters()

    def build(self, n_modalities: int) -> None:
        """Make the embedding that tells the modalities apart; `Classifier` calls it."""
        if self.n_modalities not in (None, n_modalities):
            raise ValueError(
                f"this TokenTransformer was built for {self.n_modalities} modalities and got "
                f"{n_modalities}. Make a new one: TokenTransformer(d={self.d})."
            )
        if self.n_modalities is None:
            self.n_modalities = n_modalities
            self.modality_embedding = nn.Parameter(
                self.patient_token.new_empty(n_modalities, self.d)
            )
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the patient token and the modality embeddings anew."""
        nn.init.normal_(self.patient_token, std=self.d**-0.5)
        if self.n_modalities is not None:
            nn.init.normal_(self.modality_embedding, std=self.d**-0.5)

    def forward(
        self,
        tokens: Float[Tensor, "n m d"],
        observed: Bool[Tensor, "n m"],
        weight: EdgeWeight = None,
    ) -> Float[Tensor, "n d"]:
        """Embed each patient from the tokens that were observed; see the class."""
        n, m = observed.shape
        self.build(m)
        h = torch.cat(
            [self.patient_token.expand(n, 1, self.d), tokens + self.modality_embedding], dim=1
        )
        keys = torch.cat([observed.new_ones(n, 1), observed], dim=1)
        for layer, scale in enumerate(per_layer(weight, self.n_layers)):
            if scale is not None:
                scale = torch.cat([scale.new_ones(n, 1, scale.shape[-1]), scale], dim=1)
            # only the patient token is read from the last block, so only it is computed there
            readers = 1 if layer == self.n_layers - 1 else m + 1
            h = self.blocks[layer](h, keys, scale, readers)
        return self.norm(h[:, 0])


class _Block(nn.Module):
    """One pre-norm block: masked attention, then a feed-forward part, each on the residual."""

    def __init__(self, *, d: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention = nn.LayerNorm(d)
        # without biases: one on the keys would do nothing, since softmax does not see it
        self.query_key_value = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d)
        self.norm_feed = nn.LayerNorm(d)
        self.feed = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        h: Float[Tensor, "n t d"],
        keys: Bool[Tensor, "n t"],
        weight: Float[Tensor, "n t k"] | None,
        readers: int,
    ) -> Float[Tensor, "n r d"]:
        n, _, d = h.shape
        query, key, value = self.query_key_value(self.norm_attention(h)).chunk(3, dim=-1)
        if weight is not None:
            value = value * weight
        query, key, value = (
            part.reshape(n, part.shape[1], self.n_heads, d // self.n_heads).transpose(1, 2)
            for part in (query[:, :readers], key, value)
        )
        read = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=keys[:, None, None, :]
        )
        h = h[:, :readers] + self.drop(self.out(read.transpose(1, 2).reshape(n, readers, d)))
        return h + self.drop(self.feed(self.norm_feed(h)))
