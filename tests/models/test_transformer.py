import pytest
import torch
from torch import nn

from dfdlib.models import TokenTransformer

N, M, D, HEADS = 5, 3, 8, 2


def network(n_layers=2):
    torch.manual_seed(0)
    return TokenTransformer(d=D, n_layers=n_layers, n_heads=HEADS, n_modalities=M).double()


def grid():
    tokens = torch.randn(N, M, D, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    observed = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]]).bool()
    return tokens, observed


def test_equals_torch_multihead_attention():
    """The same blocks built from `nn.MultiheadAttention`, with the same weights."""
    ours = network()
    tokens, observed = grid()
    h = torch.cat([ours.patient_token.expand(N, 1, D), tokens + ours.modality_embedding], dim=1)
    keys = torch.cat([torch.ones(N, 1, dtype=torch.bool), observed], dim=1)
    for block in ours.blocks:
        attention = nn.MultiheadAttention(D, HEADS, batch_first=True).double()
        attention.load_state_dict(
            {
                "in_proj_weight": block.query_key_value.weight,
                "in_proj_bias": torch.zeros(3 * D),
                "out_proj.weight": block.out.weight,
                "out_proj.bias": block.out.bias,
            }
        )
        x = block.norm_attention(h)
        h = h + attention(x, x, x, key_padding_mask=~keys, need_weights=False)[0]
        h = h + block.feed(block.norm_feed(h))
    torch.testing.assert_close(ours(tokens, observed), ours.norm(h[:, 0]))


def test_a_masked_modality_sends_nothing():
    ours = network()
    tokens, observed = grid()
    changed = torch.where(observed.unsqueeze(-1), tokens, 1e3 * torch.randn_like(tokens))
    torch.testing.assert_close(ours(changed, observed), ours(tokens, observed), atol=0, rtol=0)


def test_masked_equals_left_out():
    ours = network()
    tokens, _ = grid()
    observed = torch.tensor([[True, False, True]]).expand(N, M)
    short = TokenTransformer(d=D, n_heads=HEADS, n_modalities=2).double()
    state = ours.state_dict()
    short.load_state_dict(state | {"modality_embedding": state["modality_embedding"][[0, 2]]})
    kept = torch.ones(N, 2, dtype=torch.bool)
    torch.testing.assert_close(ours(tokens, observed), short(tokens[:, [0, 2]], kept))


def test_permutation_equivariance():
    ours = network()
    tokens, observed = grid()
    rows, columns = torch.randperm(N), torch.randperm(M)
    out = ours(tokens, observed)
    torch.testing.assert_close(ours(tokens[rows], observed[rows]), out[rows])
    with torch.no_grad():
        ours.modality_embedding.copy_(ours.modality_embedding[columns])
    torch.testing.assert_close(ours(tokens[:, columns], observed[:, columns]), out)


def test_weight_scales_what_a_token_sends():
    ours = network(n_layers=1)
    tokens, observed = grid()
    ones = torch.ones(N, M, dtype=torch.double)
    torch.testing.assert_close(ours(tokens, observed, ones), ours(tokens, observed))
    per_channel = [torch.ones(N, M, D, dtype=torch.double)]
    torch.testing.assert_close(ours(tokens, observed, per_channel), ours(tokens, observed))
    # with the values of every token silenced, what the tokens say can no longer be heard
    block = ours.blocks[0]
    with torch.no_grad():
        block.query_key_value.weight[: 2 * D] = 0  # attention that does not look at the tokens
    silent = ours(tokens, observed, 0 * ones)
    torch.testing.assert_close(ours(tokens + 1, observed, 0 * ones), silent)
    assert not torch.allclose(ours(tokens + torch.arange(D), observed), ours(tokens, observed))


def test_one_patient_alone_equals_the_batch():
    ours = network()
    tokens, observed = grid()
    alone = torch.cat([ours(tokens[i : i + 1], observed[i : i + 1]) for i in range(N)])
    torch.testing.assert_close(alone, ours(tokens, observed), atol=1e-12, rtol=0)


def test_every_parameter_gets_a_gradient():
    ours = network()
    (ours(*grid()) * torch.linspace(-1, 1, D, dtype=torch.double)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in ours.parameters())


def test_gradcheck():
    ours = network(n_layers=1)
    tokens, observed = grid()
    assert torch.autograd.gradcheck(lambda t: ours(t, observed), tokens.requires_grad_())


def test_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match=r"n_heads must divide d.*Try n_heads=2"):
        TokenTransformer(d=10, n_heads=4)
    with pytest.raises(ValueError, match="got n_layers=0 and n_heads=4"):
        TokenTransformer(d=8, n_layers=0)
    with pytest.raises(ValueError, match="got n_layers=2 and n_heads=0"):
        TokenTransformer(d=8, n_heads=0)
    with pytest.raises(ValueError, match="built for 3 modalities and got 2"):
        network()(torch.zeros(1, 2, D, dtype=torch.double), torch.ones(1, 2, dtype=torch.bool))
