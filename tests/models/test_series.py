import numpy as np
import pytest
import torch
from torch import nn

from dfdlib.data import Cohort, Ragged
from dfdlib.models import GRAPE, Classifier
from dfdlib.models.series import RowEmbedding, SeriesGRU, SeriesTransformer
from dfdlib.training import Stage, fit, load_model

LENGTHS = (3, 0, 5, 1, 0, 7)


def series(lengths=LENGTHS, seed=0):
    rng = np.random.default_rng(seed)
    return Ragged.from_rows(
        [
            np.column_stack(
                [np.sort(rng.uniform(0, 12, k)), rng.normal(100, 20, k), rng.integers(0, 3, k)]
            )
            for k in lengths
        ]
    )


def made(kind, rows=None, **settings):
    torch.manual_seed(0)
    encoder = kind(d=8, **settings)
    encoder.fit(series() if rows is None else rows)
    return encoder.eval()


both = pytest.mark.parametrize("kind", [SeriesGRU, SeriesTransformer])


def test_rows_are_standardised_by_flag_over_the_training_rows():
    rows = torch.tensor([[1.0, 10, 5], [3.0, 30, 5], [2.0, -4, 9], [2.0, -4, 9]])
    embed = RowEmbedding(d=2)
    embed.fit(rows)
    assert embed.words.tolist() == [5, 9]
    torch.testing.assert_close(embed.mean[1:], torch.tensor([20.0, -4.0]))
    torch.testing.assert_close(embed.std[1:], torch.tensor([10.0, 1.0]))  # flag 9 is constant
    torch.testing.assert_close(embed.clock, torch.tensor([2.0, 0.5**0.5]))
    new = embed(torch.tensor([[2.0, 45.0, 5]]))
    torch.testing.assert_close(new, 2.5 * embed.slope.weight[[1]] + embed.place.weight[[1]])


def test_a_flag_that_training_never_saw_says_only_when():
    embed = RowEmbedding(d=4)
    embed.fit(series().values)
    there = embed(torch.tensor([[2.0, 45.0, 77], [2.0, -1e6, -3], [5.0, 0, 8]]))
    torch.testing.assert_close(there[0], there[1], atol=0, rtol=0)
    assert not torch.allclose(there[0], there[2])


def test_a_flag_that_is_no_whole_number_is_refused():
    with pytest.raises(ValueError, match=r"flag 0\.5, which is no whole number.*what the value is"):
        RowEmbedding(d=2).fit(torch.tensor([[0.0, 1.0, 0.5]]))


def test_gru_is_torchs_cell_row_by_row():
    encoder, rows = made(SeriesGRU), series()
    cell = nn.GRUCell(8, 8)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in encoder.gru.state_dict().items()})
    for i, token in enumerate(encoder(rows)):
        h = torch.zeros(1, 8)
        for row in rows[torch.tensor([i])].values:
            h = cell(encoder.rows(row[None]), h)
        torch.testing.assert_close(token, encoder.net(h)[0])


def test_transformer_is_its_blocks_on_each_patients_own_rows():
    encoder, rows = made(SeriesTransformer, n_heads=2), series()
    for i, token in enumerate(encoder(rows)):
        own = encoder.rows(rows[torch.tensor([i])].values)
        h = torch.cat([encoder.query[None], own])[None]
        for block in encoder.blocks:
            h = block(h, torch.ones(h.shape[:2], dtype=torch.bool), None, h.shape[1])
        expected = encoder.net(encoder.norm(h[:, 0]) * bool(len(own)))[0]
        torch.testing.assert_close(token, expected)


def test_transformer_does_not_read_the_order_and_the_gru_does():
    rows = series()
    turned = Ragged.from_rows([rows[torch.tensor([i])].values.flip(0).numpy() for i in range(6)])
    transformer, gru = made(SeriesTransformer), made(SeriesGRU)
    torch.testing.assert_close(transformer(turned), transformer(rows))
    assert not torch.allclose(gru(turned)[2], gru(rows)[2])


@both
def test_a_token_depends_on_nobody_else_in_the_batch(kind):
    encoder, rows = made(kind), series()
    whole = encoder(rows)
    for order in ([5, 1, 0, 0, 3], [1], [1, 4], [2]):
        alone = encoder(rows[torch.tensor(order)])
        torch.testing.assert_close(alone, whole[order])


@both
def test_of_a_long_series_the_last_rows_are_read(kind):
    encoder, rows = made(kind, max_rows=2), series()
    last = Ragged.from_rows([rows[torch.tensor([i])].values[-2:].numpy() for i in range(6)])
    torch.testing.assert_close(encoder(rows), made(kind)(last))


@both
def test_units_do_not_matter(kind):
    """Hours or minutes, mg or g: the scalers take it out."""
    rows = series()
    units = torch.tensor([60.0, 0.001, 1.0])
    other = Ragged(rows.values * units + torch.tensor([30.0, -7.0, 0.0]), rows.offsets)
    torch.testing.assert_close(
        made(kind, rows)(rows), made(kind, other)(other), atol=1e-4, rtol=1e-4
    )


@both
def test_without_rows_every_weight_has_a_gradient_of_zero(kind):
    encoder = made(kind)
    nobody = encoder(Ragged(torch.zeros(0, 3), torch.zeros(4, dtype=torch.long)))
    torch.testing.assert_close(nobody, encoder.net(torch.zeros(3, 8)))
    nobody.sum().backward()
    reading = [p for name, p in encoder.named_parameters() if not name.startswith("net")]
    assert all(p.grad is not None and not p.grad.any() for p in reading)


@both
def test_rows_get_gradients_and_those_before_the_last_ones_none(kind):
    encoder, rows = made(kind, max_rows=2), series()
    values = rows.values.clone().requires_grad_()
    encoder(Ragged(values, rows.offsets)).square().sum().backward()
    touched = values.grad[:, :2].ne(0).all(dim=1)
    ends = rows.offsets[1:].repeat_interleave(rows.lengths)
    torch.testing.assert_close(touched, torch.arange(len(values)) >= ends - 2)


def cohort(n=24):
    rows = series(tuple(np.random.default_rng(1).integers(0, 4, n)))
    seen = rows.lengths > 0
    return Cohort(x={"age": torch.randn(n), "labs": rows}, y=(rows.lengths > 1).float()), seen


@both
def test_in_a_classifier_an_absent_series_gives_no_gradient(kind):
    data, seen = cohort()
    model = Classifier(backbone=GRAPE(d=8), schema=data.schema, encoders={"labs": kind(d=8)})
    model.prepare(data)
    absent = data.select(~seen)
    model.loss(next(absent.batches(len(absent))))["total"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.encoders["labs"].parameters())
    assert any(p.grad.any() for p in model.encoders["age"].parameters())


@both
def test_a_saved_model_scores_the_same_with_the_scalers_of_training(kind, tmp_path):
    data, _ = cohort()
    model = Classifier(
        backbone=GRAPE(d=8), schema=data.schema, encoders={"labs": kind(d=8, max_rows=3)}
    )
    run = fit(model, data, stages=[Stage(epochs=2)], seed=0)
    run.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    batch = next(data.batches(24))
    torch.testing.assert_close(
        again.predict_proba(batch), run.model.predict_proba(batch), atol=0, rtol=0
    )
    fresh = RowEmbedding(d=8)
    fresh.fit(data.x["labs"].values)
    rows = again.encoders["labs"].rows
    common = [flag for flag, n in holders(data.x["labs"]).items() if n >= 10]
    assert rows.words.tolist() == common
    known = torch.isin(fresh.words, rows.words)
    torch.testing.assert_close(rows.mean[1:], fresh.mean[1:][known])
    assert again.encoders["labs"].max_rows == 3


def holders(rows):
    """How many patients have each flag, one after the other."""
    found = [set(rows[torch.tensor([i])].values[:, 2].tolist()) for i in range(len(rows))]
    return {int(f): sum(f in own for own in found) for f in sorted(set().union(*found))}


def test_refusals():
    with pytest.raises(ValueError, match=r"n_heads=3\): pass.*divides d"):
        SeriesTransformer(d=8, n_heads=3)
    with pytest.raises(ValueError, match="max_rows is 0, so no row is read"):
        SeriesGRU(d=8, max_rows=0)


@pytest.mark.gpu
@both
def test_tokens_on_a_gpu_are_those_of_the_cpu(kind):
    encoder, rows = made(kind), series()
    expected = encoder(rows)
    found = encoder.to("cuda")(rows.to("cuda"))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)
    encoder.fit(rows.to("cuda"))
    assert encoder.rows.mean.is_cuda
