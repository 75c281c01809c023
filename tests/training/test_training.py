import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import types

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from sklearn.linear_model import LogisticRegression
from torch import nn

from dfdlib import training
from dfdlib.data import Cohort
from dfdlib.evaluation import evaluate, predict_proba
from dfdlib.models import GRAPE, Classifier, TokenTransformer
from dfdlib.training import Stage, fit, load_model, loop, seed_everything
from dfdlib.training.fit import check, check_types


def cohort(n=240, seed=0):
    """Labels that depend on one laboratory value, on the ward, and on chance."""
    generator = torch.Generator().manual_seed(seed)
    labs = torch.randn(n, 3, generator=generator)
    ward = torch.randint(0, 3, (n, 1), generator=generator)
    noise = torch.randn(n, generator=generator)
    y = (2 * labs[:, 0] + ward[:, 0] - 1 + noise > 0).float()
    labs[torch.rand(n, 3, generator=generator) < 0.1] = torch.nan
    observed = torch.ones(n, 2, dtype=torch.bool)
    observed[:, 1] = torch.rand(n, generator=generator) < 0.7
    observed[:, 0] = ~labs.isnan().all(1)
    return Cohort(
        x={"labs": labs, "ward": ward},
        kinds={"ward": "categorical"},
        observed=observed,
        x_observed={"labs": ~labs.isnan()},
        y=y,
    )


def model(data, backbone=None, **options):
    return Classifier(backbone=backbone or GRAPE(d=8), schema=data.schema, **options)


def same(a, b):
    states = a.state_dict(), b.state_dict()
    return all(torch.equal(states[0][k], states[1][k]) for k in states[0])


UNTRAINED = model(cohort(20))


def curve(loss, before=()):
    """A run whose last stage has this validation loss."""
    history = pd.DataFrame({"val_loss": [*before, *loss]})
    history["stage"] = [1] * len(before) + [2] * len(loss)
    return training.Run(
        model=UNTRAINED, history=history, selection="last epoch", best_epoch=len(history), seed=0
    )


@pytest.mark.parametrize(("half_life", "finished"), [(3, True), (4, True), (8, False), (25, False)])
def test_training_that_ends_while_the_loss_falls_is_told(half_life, finished):
    """A loss that halves its way to 0.5: of 40 epochs the last quarter falls by a known share."""
    epochs = np.arange(40)
    loss = 0.5 + 0.3 * 0.5 ** (epochs / half_life)
    share = 1 - loss[30:].mean() / loss[20:30].mean()
    assert (share <= 0.01) == finished
    said = curve(loss, before=[9, 7, 5] * 4).unfinished
    if finished:
        assert said is None
    else:
        assert f"still fell by {100 * share:.0f} % in the last quarter of the 40 epochs" in said
        assert "Train for more epochs, such as 80" in said


def test_chance_short_stages_and_no_validation_say_nothing_of_an_end():
    rng = np.random.default_rng(0)
    told = [curve(0.5 + 0.02 * rng.normal(size=40)).unfinished for _ in range(400)]
    assert sum(said is not None for said in told) / 400 < 0.05  # a one-sided test of 2 errors
    assert curve(np.linspace(1, 0.5, 7)).unfinished is None
    run = fit(model(cohort()), cohort(), stages=[Stage(epochs=8)])
    assert run.unfinished is None


STAGES = [Stage(epochs=2), Stage(epochs=3, lr=3e-4)]


def test_learns_about_as_well_as_logistic_regression():
    data = cohort(1200)
    train, test = data.split((0.5, 0.5))
    run = fit(model(train, GRAPE(d=16)), train, stages=[Stage(epochs=40)], lr=3e-3)
    p = predict_proba(run.model, test)[:, 1]
    frames = [part.to_frame().fillna(0) for part in (train, test)]
    reference = LogisticRegression().fit(frames[0], train.y)
    accuracy = ((p > 0.5) == test.y.numpy().astype(bool)).mean()
    assert accuracy > reference.score(frames[1], test.y) - 0.03
    assert run.history["train_total"].iloc[-1] < run.history["train_total"].iloc[0]


def test_same_seed_same_bits_whatever_happened_before():
    data = cohort()
    runs = []
    for seed in (3, 3, 4):
        torch.randn(7)  # the caller's random state must not matter
        network = model(data, dropout=0.2)
        runs.append(fit(network, data, stages=STAGES, seed=seed).model)
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_fit_leaves_the_callers_random_state_alone():
    data = cohort(40)
    network = model(data)
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    fit(network, data, stages=[Stage(epochs=1)])
    assert torch.equal(torch.randn(3), expected)


def test_init_keep_trains_on():
    data = cohort()
    network = fit(model(data), data, stages=[Stage(epochs=2)]).model
    before = {k: v.clone() for k, v in network.state_dict().items()}
    fit(network, data, stages=[Stage(epochs=1, lr=1e-12)], weight_decay=0.0, init="keep")
    for name, value in network.named_parameters():
        torch.testing.assert_close(value, before[name], atol=1e-8, rtol=0)


def test_fitting_one_model_twice_gives_the_same_bits():
    data = cohort()
    network = model(data)
    states = []
    for seed in (0, np.int64(0)):
        run = fit(network, data, stages=[Stage(epochs=1)], seed=seed)
        states.append({k: v.clone() for k, v in run.model.state_dict().items()})
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_states_are_fixed_over_the_training_part_without_a_validation_part():
    data = cohort()
    network = fit(model(data), data, stages=[Stage(epochs=1)], batch_size=50).model
    kept = network.backbone.modality_states.clone()
    assert kept.abs().sum() > 0
    tokens, observed = network.tokens(next(data.batches(len(data))))
    whole = network.backbone.train()(tokens, observed)
    network.backbone.eval()
    torch.testing.assert_close(network.backbone(tokens, observed), whole, atol=1e-5, rtol=0)


def test_weight_decay_dropout_and_order_reach_the_weights():
    data = cohort()

    def weights(network, **options):
        run = fit(network, data, stages=[Stage(epochs=2)], batch_size=60, **options)
        return torch.cat([p.detach().flatten() for p in run.model.parameters()])

    plain = weights(model(data))
    assert weights(model(data), weight_decay=50.0).norm() < 0.95 * plain.norm()
    assert not torch.equal(weights(model(data, dropout=0.5)), plain)
    assert not torch.equal(weights(model(data, GRAPE(d=8, dropout=0.5))), plain)
    orders = [[b.index.tolist() for b in data.batches(60, seed=loop.mix(0, e))] for e in (0, 1)]
    assert orders[0] != orders[1]


def test_a_stage_sets_the_options_of_the_model_and_puts_them_back():
    class Optional(Classifier):
        stage_options = ("flavour",)
        flavour = "plain"

        def loss(self, batch):
            tasted.append(self.flavour)
            return super().loss(batch)

    tasted = []
    data = cohort(40)
    network = Optional(backbone=GRAPE(d=4), schema=data.schema)
    fit(network, data, stages=[Stage(epochs=1, flavour="sweet"), Stage(epochs=2)])
    assert tasted == ["sweet", "plain", "plain"]
    assert network.flavour == "plain"


def test_history_weights_batches_by_their_labels():
    data = cohort(60)
    y = data.y.clone()
    y[:48] = torch.nan
    sparse = Cohort(x=data.x, kinds=data.schema.kinds, y=y, task="binary")
    train, val = sparse, Cohort(x=data.x, kinds=data.schema.kinds, y=y, task="binary")
    run = fit(
        model(train), train, val, stages=[Stage(epochs=1, lr=1e-12)], batch_size=1, weight_decay=0.0
    )
    network = run.model.train()
    alone = [float(network.loss(b)["total"].detach()) for b in train.batches(1)][48:]
    assert run.history["train_total"][0] == pytest.approx(np.mean(alone), abs=1e-4)


def test_a_feature_that_training_never_saw_stays_missing():
    data = cohort()
    holed = data.x_observed["labs"].clone()
    holed[:, 1] = False
    observed = data.observed.clone()
    observed[:, 0] &= holed.any(1)
    blind = Cohort(
        x=data.x, kinds=data.schema.kinds, observed=observed,
        x_observed={"labs": holed & observed[:, :1]}, y=data.y,
    )  # fmt: skip
    network = fit(model(blind), blind, stages=[Stage(epochs=1)]).model
    rows = data.x_observed["labs"].all(1)
    new = data.select(rows)
    np.testing.assert_allclose(
        predict_proba(network, new), predict_proba(network, blind.select(rows)), atol=1e-6
    )
    without = data.select(modalities=["labs"])
    gone = data.observed.clone()
    gone[:, 1] = False
    never = Cohort(
        x=data.x, kinds=data.schema.kinds, observed=gone,
        x_observed={"labs": data.x_observed["labs"], "ward": gone[:, 1:]}, y=data.y,
    )  # fmt: skip
    network = fit(model(never), never, stages=[Stage(epochs=1)]).model
    np.testing.assert_allclose(
        predict_proba(network, data), predict_proba(network, without), atol=1e-6
    )


def test_history_names_stages_and_rates():
    data = cohort()
    history = fit(model(data), data, stages=STAGES).history
    assert history["stage"].tolist() == [1, 1, 2, 2, 2]
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert history["lr"].tolist() == [1e-3, 1e-3, 3e-4, 3e-4, 3e-4]
    assert {"train_total", "train_cross_entropy"} <= set(history)


def test_scalers_come_from_the_training_part_only():
    train, val, _ = cohort().split((0.5, 0.25, 0.25))
    run = fit(model(train), train, val, stages=[Stage(epochs=1)])
    values, flags = train.x["labs"], train.x_observed["labs"]
    for k in range(3):
        expected = values[flags[:, k], k].mean()
        torch.testing.assert_close(run.model.encoders["labs"].mean[k], expected)
    # other labels in the validation part change nothing that was learned
    flipped = Cohort(x=val.x, observed=val.observed, x_observed=val.x_observed, y=1 - val.y,
                     kinds=val.schema.kinds)  # fmt: skip
    assert same(run.model, fit(model(train), train, flipped, stages=[Stage(epochs=1)]).model)


@pytest.mark.parametrize(
    ("select", "column"), [("val_loss", "val_loss"), ("val_auroc", "val_auroc")]
)
def test_selection_keeps_the_best_epoch_of_the_last_stage(select, column):
    train, val = cohort().split((0.7, 0.3))
    run = fit(model(train), train, val, stages=STAGES, lr=0.05, select=select)
    late = run.history[run.history["stage"] == 2].set_index("epoch")[column]
    assert run.best_epoch == (late.idxmin() if select == "val_loss" else late.idxmax())
    p = predict_proba(run.model, val)[:, 1]
    y = val.y.numpy()
    loss = -np.log(np.where(y == 1, p, 1 - p)).mean()
    assert loss == pytest.approx(
        run.history.set_index("epoch")["val_loss"][run.best_epoch], abs=1e-5
    )


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_validation_auroc_is_that_of_evaluate(task):
    rng = np.random.default_rng(0)
    y = {
        "binary": rng.integers(0, 2, 60),
        "multiclass": rng.integers(0, 3, 60),
        "multilabel": rng.integers(0, 2, (60, 4)),
    }[task].astype(float)
    y[20:27] = np.nan
    data = Cohort(x={"labs": rng.normal(size=(60, 2))}, y=y, task=task)
    train, val = data.select(torch.arange(60) < 20), data.select(torch.arange(60) >= 20)
    run = fit(model(train), train, val, stages=[Stage(epochs=1)])
    frame = evaluate(predict_proba(run.model, val), val, n_boot=0).frame.set_index("metric")
    (auroc,) = run.history["val_auroc"]
    assert auroc == pytest.approx(frame.loc["auroc", "value"], abs=1e-12)
    one = val.select(torch.arange(40) < 7 + 1)
    run = fit(model(train), train, one, stages=[Stage(epochs=1)])
    assert run.history["val_auroc"].isna().all()


def test_patience_stops():
    train, val = cohort().split((0.7, 0.3))
    run = fit(
        model(train), train, val, stages=[Stage(epochs=60)], lr=0.1, select="val_loss", patience=3
    )
    assert len(run.history) == run.best_epoch + 3 < 60
    assert run.selection == "lowest validation loss, patience 3"


class Killed(Exception):  # noqa: N818 - a signal, not an error
    pass


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("select", ["last", "val_loss"])
def test_a_run_killed_at_any_epoch_goes_on_to_the_same_weights(tmp_path, monkeypatch, at, select):
    train, val = cohort().split((0.7, 0.3))
    settings = {"stages": STAGES, "batch_size": 50, "lr": 0.02, "select": select}
    whole = fit(model(train, dropout=0.3), train, val, **settings)

    calls = {"n": 0}
    loss = Classifier.loss

    def dying(self, batch):
        calls["n"] += self.training
        if calls["n"] == 4 * at + 2:  # four batches an epoch: in the middle of epoch `at`
            raise Killed
        return loss(self, batch)

    monkeypatch.setattr(Classifier, "loss", dying)
    with pytest.raises(Killed):
        fit(model(train, dropout=0.3), train, val, folder=tmp_path / "run", **settings)
    monkeypatch.undo()
    resumed = fit(model(train, dropout=0.3), train, val, folder=tmp_path / "run", **settings)
    assert same(resumed.model, whole.model)
    assert resumed.best_epoch == whole.best_epoch
    assert resumed.history.equals(whole.history)
    again = fit(model(train, dropout=0.3), train, val, folder=tmp_path / "run", **settings)
    assert same(again.model, whole.model)


def test_a_process_killed_while_it_writes_leaves_a_whole_checkpoint(tmp_path):
    """SIGKILL at a random moment of a run that checkpoints often; then the run goes on."""
    code = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_training import cohort, model, fit, Stage
        data = cohort(60)
        print("ready", flush=True)
        fit(model(data), data, stages=[Stage(epochs=4000)], folder={str(tmp_path / "run")!r})
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        while not list(tmp_path.glob("run/epoch-*5")):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    data = cohort(60)
    kept = max(int(p.name[6:]) for p in (tmp_path / "run").glob("epoch-?????"))
    stages = [Stage(epochs=4000)]
    with pytest.raises(Killed):
        _stop_after_one_epoch(data, stages, tmp_path / "run")
    assert max(int(p.name[6:]) for p in (tmp_path / "run").glob("epoch-?????")) == kept + 1


def _stop_after_one_epoch(data, stages, folder):
    network, epochs = model(data), []

    def loss(self, batch):
        epochs.append(1)
        if len(epochs) == 2:
            raise Killed
        return Classifier.loss(self, batch)

    network.loss = types.MethodType(loss, network)
    fit(network, data, stages=stages, folder=folder)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    data = cohort(60)
    fit(model(data), data, stages=[Stage(epochs=1)], folder=tmp_path)
    with pytest.raises(
        ValueError, match=r"another run: lr was 0.001 and is now 0.01.*another folder"
    ):
        fit(model(data), data, stages=[Stage(epochs=1)], lr=0.01, folder=tmp_path)
    x = {"labs": data.x["labs"] * 9, "ward": data.x["ward"]}
    other = Cohort(x=x, kinds=data.schema.kinds, y=data.y)
    with pytest.raises(ValueError, match="another run: train was '60 patients"):
        fit(model(data), other, stages=[Stage(epochs=1)], folder=tmp_path)
    with pytest.raises(ValueError, match="another run: model was"):
        fit(model(data, dropout=0.5), data, stages=[Stage(epochs=1)], folder=tmp_path)
    with pytest.raises(ValueError, match="another run: init was 'fresh'"):
        fit(model(data), data, stages=[Stage(epochs=1)], folder=tmp_path, init="keep")
    with pytest.raises(ValueError, match="another run: train was '60 patients"):
        fit(model(data), cohort(61), stages=[Stage(epochs=1)], folder=tmp_path)


@pytest.mark.parametrize("backbone", [GRAPE(d=8), TokenTransformer(d=8, n_heads=2)])
def test_a_saved_model_scores_a_new_patient_in_a_fresh_process(tmp_path, backbone):
    data = cohort()
    run = fit(model(data, backbone), data, stages=[Stage(epochs=2)])
    run.save(tmp_path / "model")
    code = textwrap.dedent(f"""
        import numpy as np
        from dfdlib.data import Cohort
        from dfdlib.evaluation import predict_proba
        from dfdlib.training import load_model
        model = load_model({str(tmp_path / "model")!r})
        x = {{"labs": [[1.5, np.nan, -0.5]], "ward": [[2]]}}
        patient = Cohort(x=x, kinds=model.schema.kinds)
        print(repr(float(predict_proba(model, patient)[0, 1])))
    """)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    patient = Cohort(x={"labs": [[1.5, np.nan, -0.5]], "ward": [[2]]}, kinds=data.schema.kinds)
    assert float(out.stdout) == pytest.approx(predict_proba(run.model, patient)[0, 1], abs=1e-7)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]


def test_columns_in_another_order_are_refused():
    frame = pd.DataFrame({"na": np.linspace(130, 150, 60), "k": np.linspace(3, 5, 60)})
    data = Cohort(x={"labs": frame}, y=(frame["na"] > 140).to_numpy().astype(int))
    run = fit(model(data), data, stages=[Stage(epochs=1)])
    with pytest.raises(ValueError, match=r"columns k, na here.*made for na, k"):
        predict_proba(run.model, Cohort(x={"labs": frame[["k", "na"]]}))
    with pytest.raises(ValueError, match=r"columns k, na here"):
        fit(run.model, Cohort(x={"labs": frame[["k", "na"]]}, y=data.y))


def test_save_replaces_whole_or_not_at_all(tmp_path, monkeypatch):
    data = cohort(40)
    run = fit(model(data), data, stages=[Stage(epochs=1)])
    run.save(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    monkeypatch.setattr("dfdlib.training.saving.json.dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(model(data), data, stages=[Stage(epochs=2)]).save(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    monkeypatch.undo()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"other files \(thesis.txt\).*new folder"):
        run.save(tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match=r"no model.json.*Save first"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match=r"is a file.*another name"):
        run.save(tmp_path / "mine" / "thesis.txt")


def test_what_is_saved_is_json_and_names_its_rule(tmp_path):
    train, val = cohort(60).split((0.7, 0.3))
    one_class = val.select(val.y == 1)
    run = fit(model(train), train, one_class, stages=[Stage(epochs=1)], folder=tmp_path / "run")
    run.save(tmp_path / "model")

    def refuse(word):
        raise AssertionError(word)

    for file in tmp_path.rglob("*.json"):
        json.loads(file.read_text(), parse_constant=refuse)
    assert load_model(tmp_path / "model").selection == run.model.selection == "last epoch"


TWO_PROCESSES = """
import sys
import torch
from lightning_fabric import Fabric

sys.path.insert(0, {tests!r})
from test_training import GRAPE, PLAN, TokenTransformer, cohort, fit, model

def train(fabric):
    data = cohort(50)
    done = []
    for backbone in (GRAPE(d=8), TokenTransformer(d=8)):
        run = fit(model(data, backbone), data, fabric=fabric, **PLAN)
        done.append((run.model.state_dict(), run.history["train_total"].tolist()))
    if fabric.is_global_zero:
        torch.save(done, {out!r})

if __name__ == "__main__":
    Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn").launch(train)
"""
#: 50 patients in batches of 7: uneven shares, and one process gets nobody of the last patient
PLAN = {"stages": [Stage(epochs=3)], "batch_size": 7, "lr": 0.01}


def test_two_processes_give_the_result_of_one(tmp_path):
    script, out = tmp_path / "two.py", tmp_path / "state.pt"
    script.write_text(TWO_PROCESSES.format(tests=os.path.dirname(__file__), out=str(out)))
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    data = cohort(50)
    for backbone, (state, losses) in zip(
        (GRAPE(d=8), TokenTransformer(d=8)), torch.load(out), strict=True
    ):
        one = fit(model(data, backbone), data, **PLAN)
        for name, value in one.model.state_dict().items():
            torch.testing.assert_close(state[name], value, atol=1e-4, rtol=0)
        assert losses == pytest.approx(one.history["train_total"].tolist(), abs=1e-4)


def test_trainer_fits_on_its_training_part_alone():
    data = cohort()
    train, test = data.split((0.6, 0.4))
    options = {"stages": [Stage(epochs=4)], "lr": 0.02, "select": "val_loss"}
    made = []

    def make(schema):
        made.append(model(train))
        return made[-1]

    p = training.trainer(make, val=0.2, seed=3, **options)(train, test)
    expected = fit(model(train), *train.split((0.8, 0.2), seed=3), seed=3, **options).model
    np.testing.assert_array_equal(p, predict_proba(expected, test))
    assert same(made[0], expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("backbone", [GRAPE, TokenTransformer])
def test_on_a_gpu(backbone, precision):
    train, val = cohort(600).split((0.7, 0.3))
    settings = {"stages": [Stage(epochs=5)], "lr": 3e-3}
    fabric = Fabric(accelerator="cuda", devices=1, precision=precision)
    gpu = fit(model(train, backbone(d=16)), train, val, fabric=fabric, **settings)
    cpu = fit(model(train, backbone(d=16)), train, val,
              fabric=Fabric(accelerator="cpu"), **settings)  # fmt: skip
    tolerance = 1e-3 if precision == "32-true" else 0.1
    p, q = (predict_proba(run.model, val) for run in (gpu, cpu))
    np.testing.assert_allclose(p, q, atol=tolerance)


def test_refusals():
    data = cohort(60)
    train, val = data.split((0.7, 0.3))
    network = model(data)
    with pytest.raises(ValueError, match="share 60 patients"):
        fit(network, data, data)
    # past the type hints, which pytest enforces before the message has a chance
    options = {
        "stages": [Stage(epochs=1)],
        "select": "best",
        "patience": None,
        "batch_size": 8,
        "init": "fresh",
    }
    with pytest.raises(ValueError, match=r"select must be one of 'last'.*got 'best'"):
        check(network, train, val, **options)
    with pytest.raises(ValueError, match=r"needs a validation part.*Pass val="):
        fit(network, train, select="val_loss")
    for given, message in (
        ((np.ones(3), train, None, None), "model is no method .*, but: ndarray"),
        ((Classifier, train, None, None), "model is no method .*, but: the class Classifier"),
        ((network, pd.DataFrame(), None, None), "train is no Cohort, but: DataFrame"),
        ((network, train, 3, None), "val is no Cohort, but: int"),
        ((network, train, val, Stage(epochs=1)), r"Pass stages=\[Stage\(epochs=20\)\]"),
        ((network, train, val, [3]), r"Pass stages=\[Stage\(epochs=20\)\]"),
        ((network, train, val, 10), r"Pass stages=\[Stage\(epochs=20\)\]"),
    ):
        with pytest.raises(TypeError, match=message):
            check_types(*given)
    with pytest.raises(ValueError, match="patience=3 needs a score"):
        fit(network, train, val, patience=3)
    with pytest.raises(ValueError, match="the stages hold no epoch"):
        fit(network, train, stages=[Stage(epochs=0)])
    with pytest.raises(
        ValueError, match=r"'mi_weight' is no stage option of Classifier \(options: none\)"
    ):
        fit(network, train, stages=[Stage(epochs=1, mi_weight=0)])
    with pytest.raises(ValueError, match=r"whole number >= 0, got Stage\(epochs=-1\)"):
        Stage(epochs=-1)
    with pytest.raises(ValueError, match=r"lr must be positive, got Stage\(lr=0.0\)"):
        Stage(epochs=1, lr=0.0)
    with pytest.raises(ValueError, match="batch_size must be a whole number >= 1, got 0"):
        fit(network, train, batch_size=0)
    with pytest.raises(ValueError, match="patience must be at least 1"):
        fit(network, train, val, select="val_loss", patience=0)
    with pytest.raises(ValueError, match="init must be 'fresh' or 'keep', got 'warm'"):
        check(network, train, val, **options | {"select": "last", "init": "warm"})
    with pytest.raises(ValueError, match="picks from the last stage, which has no epoch"):
        fit(network, train, val, stages=[Stage(epochs=1), Stage(epochs=0)], select="val_loss")
    with pytest.raises(ValueError, match=r"needs both classes.*select='val_loss'"):
        fit(network, train, val.select(val.y == 1), select="val_auroc")
    with pytest.raises(ValueError, match="the validation part has no known label"):
        fit(network, train, Cohort(x=val.x, kinds=val.schema.kinds), select="val_loss")
    with pytest.raises(ValueError, match=r"no modality 'ward'.*schema=train.schema"):
        fit(network, train.select(modalities=["labs"]))
    three = Cohort(x=train.x, kinds=train.schema.kinds, y=torch.arange(len(train)) % 3)
    with pytest.raises(ValueError, match=r"multiclass with 3 classes here.*binary with 2"):
        fit(network, three)
    with pytest.raises(ValueError, match="only the class 1"):
        fit(network, data.select(data.y == 1))
    with pytest.raises(ValueError, match="the training part has no labels"):
        fit(network, Cohort(x={"labs": torch.randn(4, 3)}))


def test_a_loss_that_is_not_finite_stops(tmp_path):
    data = cohort(60)
    with pytest.raises(
        FloatingPointError, match=r"'cross_entropy' is nan in epoch \d+, step 1.*lr=1e\+29"
    ):
        fit(model(data), data, stages=[Stage(epochs=9)], lr=1e30, folder=tmp_path / "run")


@pytest.mark.parametrize("good", [0, 2])
def test_a_run_goes_on_from_the_last_epoch_before_a_loss_was_nan(tmp_path, monkeypatch, good):
    data = cohort(60)
    whole = fit(model(data), data, stages=STAGES)
    done = itertools.count()
    loss = Classifier.loss

    def failing(self, batch):
        terms = loss(self, batch)
        return terms | {"total": terms["total"] * (torch.nan if next(done) == good else 1)}

    monkeypatch.setattr(Classifier, "loss", failing)
    kept = "last good checkpoint is in .*run" if good else r"lr=0\.0001\.$"
    with pytest.raises(
        FloatingPointError, match=rf"'total' is nan in epoch {good + 1}, step 1.*{kept}"
    ):
        fit(model(data), data, stages=STAGES, folder=tmp_path / "run")
    monkeypatch.undo()
    resumed = fit(model(data), data, stages=STAGES, folder=tmp_path / "run")
    assert same(resumed.model, whole.model)
    assert len(resumed.history) == 5


def test_weights_that_a_seed_cannot_draw_are_refused():
    class Own(nn.Module):
        d = 8

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, tokens, observed, weight=None):
            return (tokens * observed.unsqueeze(-1)).sum(1) * self.scale

    data = cohort(60)
    with pytest.raises(
        ValueError, match=r"Own holds parameters but no reset_parameters\(\).*init='keep'"
    ):
        fit(model(data, Own()), data, stages=[Stage(epochs=1)])
    fit(model(data, Own()), data, stages=[Stage(epochs=1)], init="keep")


def test_no_progress_bar_where_stdout_is_no_terminal(capfd):
    data = cohort(40)
    fit(model(data), data, stages=[Stage(epochs=1)])
    assert capfd.readouterr() == ("", "")
    fit(model(data), data, stages=[Stage(epochs=2)], progress=True)
    assert "2/2" in capfd.readouterr().err


def test_seed_everything_seeds_the_three_libraries():
    import random

    draws = []
    for _ in range(2):
        seed_everything(5)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    torch.use_deterministic_algorithms(False)
    assert draws[0] == draws[1]
