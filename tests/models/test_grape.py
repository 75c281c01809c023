import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfdlib.graph import EdgeListGRAPE
from dfdlib.models import GRAPE

N, M, D = 7, 4, 6


def pair(n_layers=2, seed=0):
    """The dense backbone and its edge-list twin with the same parameters, in double precision."""
    torch.manual_seed(seed)
    dense = GRAPE(d=D, n_layers=n_layers, n_modalities=M).double()
    twin = EdgeListGRAPE(d=D, n_modalities=M, n_layers=n_layers).double()
    state = {k: v for k, v in dense.state_dict().items() if k != "modality_states"}
    twin.load_state_dict(state)
    return dense, twin


def grid(seed=0, share=0.6):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(N, M, D, generator=generator, dtype=torch.double)
    observed = torch.rand(N, M, generator=generator) < share
    return tokens, observed


@settings(max_examples=40, deadline=None)
@given(bits=st.lists(st.booleans(), min_size=N * M, max_size=N * M), n_layers=st.integers(1, 3))
def test_dense_equals_edge_list_for_any_mask_with_gradients(bits, n_layers):
    observed = torch.tensor(bits).reshape(N, M)
    tokens, _ = grid()
    dense, twin = pair(n_layers)
    results = []
    for network in (dense, twin):
        leaf = tokens.clone().requires_grad_()
        out = network(leaf, observed)
        (out * torch.linspace(-1, 1, D, dtype=torch.double)).sum().backward()
        grads = {k: p.grad for k, p in network.named_parameters()}
        results.append((out, leaf.grad, grads))
    (out_a, token_a, grads_a), (out_b, token_b, grads_b) = results
    torch.testing.assert_close(out_a, out_b, atol=1e-10, rtol=0)
    torch.testing.assert_close(token_a, torch.zeros_like(token_a) if token_b is None else token_b)
    for name, grad in grads_a.items():
        other = grads_b[name]
        torch.testing.assert_close(grad, torch.zeros_like(grad) if other is None else other)


@pytest.mark.parametrize("k", [1, D])
def test_dense_equals_edge_list_with_weights(k):
    dense, twin = pair()
    tokens, observed = grid()
    weight = [torch.rand(N, M, k, dtype=torch.double), None]
    given = [weight[0].squeeze(-1) if k == 1 else weight[0], None]
    torch.testing.assert_close(dense(tokens, observed, given), twin(tokens, observed, weight))


def test_float32_agrees_to_1e_5():
    dense, twin = pair()
    tokens, observed = grid()
    out = dense.float()(tokens.float(), observed)
    torch.testing.assert_close(out, twin.float()(tokens.float(), observed), atol=1e-5, rtol=0)


def test_first_layer_by_hand():
    """One layer, one patient, two modalities: the equations of the docstring, written out."""
    dense, _ = pair(n_layers=1)
    tokens = torch.randn(1, M, D, dtype=torch.double)
    observed = torch.tensor([[True, False, True, False]])
    messages = [
        torch.relu(dense.w[0](torch.cat([dense.modality_init[j], tokens[0, j]]))) for j in (0, 2)
    ]
    mean = (messages[0] + messages[1]) / 2
    expected = torch.relu(dense.q[0](torch.cat([mean, torch.ones(D, dtype=torch.double)])))
    torch.testing.assert_close(dense(tokens, observed)[0], expected)


def test_permutation_equivariance():
    dense, _ = pair()
    tokens, observed = grid()
    rows, columns = torch.randperm(N), torch.randperm(M)
    out = dense(tokens, observed)
    torch.testing.assert_close(dense(tokens[rows], observed[rows]), out[rows])
    with torch.no_grad():
        dense.modality_init.copy_(dense.modality_init[columns])
    torch.testing.assert_close(dense(tokens[:, columns], observed[:, columns]), out)


@pytest.mark.parametrize("training", [True, False])
def test_a_masked_modality_sends_nothing(training):
    dense, _ = pair()
    tokens, observed = grid()
    dense.train(training)
    changed = torch.where(observed.unsqueeze(-1), tokens, 1e3 * torch.randn_like(tokens))
    torch.testing.assert_close(dense(changed, observed), dense(tokens, observed), atol=0, rtol=0)


def test_weight_of_zero_silences_an_edge_but_keeps_the_degree():
    dense, _ = pair(n_layers=1)
    tokens, observed = grid(share=2.0)
    weight = torch.ones(N, M, dtype=torch.double)
    weight[0, 1] = 0
    silenced = dense(tokens, observed, weight)
    changed = tokens.clone()
    changed[0, 1] += 5
    torch.testing.assert_close(dense(changed, observed, weight), silenced)
    masked = observed.clone()
    masked[0, 1] = False
    assert not torch.allclose(dense(tokens, masked)[0], silenced[0])
    torch.testing.assert_close(dense(tokens, masked)[1:], silenced[1:])


@pytest.mark.parametrize("n_layers", [2, 3])
def test_fixed_states_are_those_of_the_whole_training_part(n_layers):
    """Training on all patients at once, and evaluation after any batching, agree."""
    dense, _ = pair(n_layers)
    tokens, observed = grid()
    whole = dense.train()(tokens, observed)
    dense.eval()
    dense.fix_states(
        lambda: ((tokens[i : i + 2], observed[i : i + 2], None) for i in range(0, N, 2))
    )
    torch.testing.assert_close(dense(tokens, observed), whole)
    alone = torch.cat([dense(tokens[i : i + 1], observed[i : i + 1]) for i in range(N)])
    torch.testing.assert_close(alone, whole, atol=1e-12, rtol=0)


def test_every_parameter_gets_a_gradient():
    dense, _ = pair(n_layers=3)
    dense(*grid(share=2.0)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in dense.parameters())


def test_gradcheck():
    dense, _ = pair()
    tokens, observed = grid()
    assert torch.autograd.gradcheck(lambda t: dense(t, observed[:3]), tokens[:3].requires_grad_())


def test_refuses_another_number_of_modalities():
    dense, _ = pair()
    with pytest.raises(ValueError, match=r"built for 4 modalities and got 3"):
        dense(torch.zeros(2, 3, D, dtype=torch.double), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="n_layers >= 1"):
        GRAPE(d=4, n_layers=0)


def test_refuses_weights_for_other_layers():
    dense, _ = pair()
    with pytest.raises(ValueError, match=r"3 entries.*2 layers"):
        dense(*grid(), [None, None, None])
