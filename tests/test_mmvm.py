"""The grid of the multimodal VAEs: its data, its readers, its sums."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

WORKFLOW = Path(__file__).parents[1] / "workflow"
SIZES = {"n": 60, "n_val": 20, "n_test": 30, "size": 16}


@pytest.fixture(scope="module", autouse=True)
def _workflow():
    sys.path.insert(0, str(WORKFLOW))
    yield
    sys.path.remove(str(WORKFLOW))


@pytest.fixture(scope="module")
def mmvm(_workflow):
    import mmvm

    return mmvm


@pytest.fixture(scope="module")
def measures(_workflow):
    import mmvm_measures

    return mmvm_measures


@pytest.fixture(scope="module")
def parts(_workflow):
    from mmvm_data import load

    return lambda **given: load(SIZES, given, 3)


def test_patients_of_the_parts_are_other_ones(parts):
    cohorts = parts()
    assert [len(cohorts[part]) for part in ("train", "val", "test")] == [60, 20, 30]
    seen = [set(cohort.groups["patient"]) for cohort in cohorts.values()]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_noise_replaces_the_lateral_picture_and_nothing_else(parts):
    clean, noisy, half = parts(), parts(degraded=1.0), parts(degraded=0.5)
    for part in clean:
        assert torch.equal(clean[part].x["frontal"], noisy[part].x["frontal"])
        mixed = (clean[part].x["lateral"] + noisy[part].x["lateral"]) / 2
        assert torch.allclose(half[part].x["lateral"], mixed)
    both = torch.stack(
        [clean["train"].x["lateral"].flatten(), noisy["train"].x["lateral"].flatten()]
    )
    assert abs(torch.corrcoef(both)[0, 1]) < 0.02


def test_views_are_missing_in_training_only(parts):
    cohorts = parts(missing="mcar")
    assert not cohorts["train"].observed.all()
    assert cohorts["val"].observed.all()
    assert cohorts["test"].observed.all()


def test_a_report_mentions_most_of_what_is_there(parts):
    train = parts(report=True)["train"]
    mentioned = train.x["report"][:, : train.y.shape[1]]
    assert train.names == ("frontal", "report")
    assert mentioned[train.y == 1].mean() > 0.6
    assert mentioned[train.y == 0].mean() < 0.15


def test_digits_have_a_label_each_and_noise_replaces_the_second(parts):
    clean, noisy = parts(digits=True), parts(digits=True, degraded=1.0)
    for part in clean:
        assert clean[part].y.shape[1] == 10
        assert (clean[part].y.sum(1) == 1).all()
        assert torch.equal(clean[part].x["first"], noisy[part].x["first"])
        assert not torch.isin(noisy[part].x["second"], clean[part].x["second"]).all()


def test_each_fraction_is_read_with_its_own_regularisation(mmvm, measures, parts, monkeypatch):
    cohorts, seen = parts(), []
    h = {
        p: {v: cohort.x[v].flatten(1).numpy() for v in cohort.names}
        for p, cohort in cohorts.items()
    }

    def read(features, y, others, c):
        seen.append((len(y), c))
        return measures.read(features, y, others, c)

    monkeypatch.setattr(mmvm, "read", read)
    found = mmvm.probed(h, cohorts, 0, c={50: 0.1, 100: 0.01})
    assert set(seen) == {(30, 0.1), (60, 0.01)}
    assert len(found["auroc frontal 50"]) == 1


def test_larger_subsets_hold_smaller_ones(mmvm, measures):
    found = {(share, k): set(rows) for share, k, rows in measures.subsets(500, mmvm.SETTINGS, 0)}
    assert len(found[10, 0]) == 50
    assert len(found[100, 0]) == 500
    assert found[1, 1] < found[10, 1]
    assert found[10, 0] < found[50, 0]
    assert (20, 1) not in found


def test_so_many_labels_are_flipped(measures):
    y = np.zeros((4000, 3))
    assert measures.flipped(y, 0, 1).sum() == 0
    assert measures.flipped(y, 40, 1).mean() == pytest.approx(0.4, abs=0.02)


def test_a_label_with_one_class_is_predicted_by_its_share(measures):
    rng = np.random.default_rng(0)
    h, y = rng.standard_normal((80, 2)), np.zeros((80, 2))
    y[:, 1] = h[:, 0] > 0
    (p,) = measures.read(h, y, [h], 1.0)
    assert (p[:, 0] == 0).all()
    assert roc_auc_score(y[:, 1], p[:, 1]) > 0.99


def test_the_threshold_is_the_best_one_of_the_validation_patients(measures):
    rng = np.random.default_rng(0)
    y = (rng.random((200, 1)) < 0.3).astype(float)
    p = np.clip(0.2 * y + 0.2 * rng.random((200, 1)), 0, 1)
    found = measures.metrics(p, y, p, y, all_of_them=True)
    by_hand = max(2 * ((p >= cut) * y).sum() / ((p >= cut).sum() + y.sum()) for cut in np.unique(p))
    assert found["f1"] == pytest.approx(by_hand)
    assert found["auroc"] == pytest.approx(roc_auc_score(y, p))


def test_sums_over_views_fractions_and_subsets(measures):
    tables = {
        "auroc a 10": [0.6, 0.7], "auroc b 10": [0.5, 0.5], "auroc a 100": [0.8],
        "auroc b 100": [0.7], "auroc a 100 noise 40": [0.6], "auroc b 100 noise 40": [0.6],
    }  # fmt: skip
    found = measures.summarised(tables, ("a", "b"))
    expected = {
        "auroc mean 10": 0.575, "gap 10": 0.15, "gap 100": 0.1, "range mean": 0.175,
        "drop mean 100 40": 0.15, "sd a 10": np.std([0.6, 0.7], ddof=1), "sd b 10": 0,
        "sd mean 10": np.std([0.6, 0.7], ddof=1) / 2,
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name


def test_the_published_loss_is_a_softmax_over_sigmoids(mmvm):
    logits, y = torch.randn(5, 3), torch.tensor([[1.0, 0, 1]]).repeat(5, 1)
    by_hand = -(y * torch.log_softmax(torch.sigmoid(logits), 1)).sum(1).mean()
    assert torch.allclose(mmvm.supervised.loss("published", logits, y), by_hand)
    # however sure a net is, the loss cannot come near zero
    assert mmvm.supervised.loss("published", 100 * (2 * y - 1), y) > 1


def test_the_best_checkpoint_is_kept_and_as_published_the_worst(mmvm, parts):
    cohorts = parts()
    y = cohorts["train"].y.numpy()
    given = mmvm.SETTINGS["supervised"] | {"every": 5, "batch_size": 16}
    kept = {}
    for kind in ("correct", "published"):
        model = mmvm.supervised.train(
            kind, ("frontal",), cohorts["train"], np.arange(60), y, cohorts["val"], given,
            steps=20, seed=0,
        )  # fmt: skip
        seen = mmvm.supervised.scores(model, cohorts["val"])
        kept[kind] = mmvm.supervised.loss(kind, seen, cohorts["val"].y).item()
        last = mmvm.supervised.train(
            kind, ("frontal",), cohorts["train"], np.arange(60), y, cohorts["val"],
            given | {"every": 20}, steps=20, seed=0,
        )  # fmt: skip
        end = mmvm.supervised.loss(
            kind, mmvm.supervised.scores(last, cohorts["val"]), cohorts["val"].y
        )
        assert kept[kind] <= end if kind == "correct" else kept[kind] >= end


def test_incomplete_seeds_are_refused_and_complete_ones_answered(mmvm, tmp_path):
    methods = mmvm.EXPERIMENTS["missing"]["methods"]
    files = []
    for seed in mmvm.SETTINGS["seeds"]:
        numbers = {
            name: {
                "auroc mean 10": 0.6 + 0.1 * (name == "MMVM") + seed / 1e4,
                "auroc lateral 100": 0.6,
            }
            for name in methods
        }
        record = {
            "experiment": "missing", "data": "phantom, views missing", "seed": seed,
            "scale": "small", "methods": {name: {"numbers": n} for name, n in numbers.items()},
            "versions": {},
        }  # fmt: skip
        files.append(tmp_path / f"{seed}.json")
        files[-1].write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"are complete\. Run all"):
        mmvm.collect(files[:-1], tmp_path / "out")
    with pytest.raises(ValueError, match=r"\['MMVM', .*\] of seed 0 stand in two files"):
        mmvm.collect([*files, files[0]], tmp_path / "out")
    mmvm.collect(files, tmp_path / "out")
    found = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")]
    verdicts = {(r["metric"], r["method"]): r["verdict"] for r in found}
    assert verdicts["auroc mean 10", "MMVM against independent"] == "held"
    assert verdicts["auroc lateral 100", "MMVM against independent"] == "did not hold"
    assert all("--experiment missing" in r["command"] for r in found)
    c = {str(share): c for share, c in mmvm.SETTINGS["C"]["phantom"].items()}
    assert all(r["parameters"]["C"]["MMVM"] == c for r in found)


def test_what_is_borrowed_comes_from_where_it_was_trained(mmvm):
    assert mmvm.home("phantom") == "main"
    assert mmvm.home("digits") == "digits"
    command = mmvm._command("longer", "phantom", ["MMVM, longer", "supervised"], None)
    own, borrowed = command.split(" && ")
    assert "--experiment longer --data 'phantom' --methods 'MMVM, longer'" in own
    assert "--experiment main --data 'phantom' --methods 'supervised'" in borrowed


def test_only_a_vae_can_be_tuned(mmvm):
    with pytest.raises(ValueError, match=r"'MMWM' is not a VAE to tune.*Did you mean 'MMVM'"):
        mmvm.tune(["MMWM"])
