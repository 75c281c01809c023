import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.neighbors import KNeighborsClassifier

from dfdlib.data import Cohort, Ragged
from dfdlib.data.flatten import flatten
from dfdlib.data.tables import from_tables
from dfdlib.evaluation.leak_checks import fingerprints, single_feature
from dfdlib.evaluation.leaks import _dealt, _shuffled, audit_leaks
from dfdlib.evaluation.tabular import tabular
from dfdlib.models import GRAPE, Classifier
from dfdlib.training import Stage, fit, load_model

N = 240
QUICK = {"n_shuffles": 5, "n_boot": 100, "fit_predict": tabular("logistic regression")}


def cohort(seed=0, n=N, **changed):
    """Two numbers, one of which says something, and a series that says nothing."""
    rng = np.random.default_rng(seed)
    labs = rng.normal(size=(n, 2))
    y = (rng.random(n) < 1 / (1 + np.exp(-1.5 * labs[:, 0]))).astype(float)
    icu = [
        np.column_stack([rng.uniform(0, 12, 2), rng.normal(size=2), np.zeros(2)]) for _ in range(n)
    ]
    arguments = {
        "x": {"labs": labs, "icu": icu},
        "y": y,
        "groups": {"patient": np.arange(n) + 1000 * seed},
    }
    return Cohort(**arguments | changed)


def audit(*parts, **options):
    return audit_leaks(*parts, **QUICK | options).set_index("check")


def test_a_clean_cohort_is_clean():
    found = audit(cohort(), cut=12)
    assert set(found["verdict"]) <= {"ok", "not checked"}
    assert found.loc["shuffled labels", "low"] < 0.5 < found.loc["shuffled labels", "high"]
    assert found.loc["features", "low"] > 0.6
    assert found.loc["mask only", "note"] == "everything is always observed"
    assert found.loc["after the cut: labs", "note"] == "vector carries no time"


def test_false_alarms_are_rare():
    verdicts = []
    for seed in range(12):
        parts = cohort(seed).select(modalities="labs").split((0.7, 0.3))
        verdicts.append(_shuffled(QUICK["fit_predict"], parts, 10, seed).verdict)
    assert verdicts.count("leak") <= 1


def nearest(train, test):
    model = KNeighborsClassifier(1).fit(train.x["labs"], train.y)
    return model.predict_proba(test.x["labs"])


def test_patients_in_two_parts_are_found_and_so_is_what_they_do():
    """Two rows of each patient, all but equal, and a model that remembers."""
    rng = np.random.default_rng(0)
    who = np.tile(np.arange(N // 2), 2)
    labs = rng.normal(size=(N // 2, 2))[who] + 1e-3 * rng.normal(size=(N, 2))
    y = rng.integers(0, 2, N // 2)[who]
    both = Cohort(x={"labs": labs}, y=y, groups={"patient": who})
    torn = (both.select(np.arange(N // 2)), both.select(np.arange(N // 2, N)))
    found = audit(*torn, fit_predict=nearest)
    assert found.loc["patients", ["verdict", "value"]].tolist() == ["leak", N // 2]
    assert found.loc["shuffled labels", "verdict"] == "leak"
    assert found.loc["shuffled labels", "value"] == 1
    whole = audit(both, fit_predict=nearest)  # cut by patient
    assert whole.loc["patients", "verdict"] == whole.loc["shuffled labels", "verdict"] == "ok"


def test_a_model_that_peeks_is_found():
    found = audit(cohort(), fit_predict=lambda train, test: 0.1 + 0.8 * test.y.numpy())
    assert found.loc["shuffled labels", ["verdict", "value"]].tolist() == ["leak", 1]


def test_rows_in_place_of_patients_are_told():
    found = audit(cohort(groups=None))
    assert found.loc["patients", "verdict"] == "look"


def test_times_after_the_cut_are_counted():
    found = audit(cohort(), cut=6)
    times = cohort().x["icu"].values[:, 0]
    late = int((times > 6).sum())
    assert found.loc["after the cut: icu", ["verdict", "value"]].tolist() == ["leak", late]
    just = audit(cohort(), cut=float(times.max()))
    assert just.loc["after the cut: icu", "verdict"] == "ok"
    assert audit(cohort()).loc["after the cut: icu", "note"] == "cut= is not given"


@pytest.mark.parametrize("sign", [1, -1])
def test_one_feature_that_is_the_outcome_is_named(sign):
    y = cohort().y.numpy()
    labs = pd.DataFrame({"sodium": np.arange(N) % 7, "died in hospital": sign * (y + 0.1)})
    found = audit(cohort(x={"labs": labs.astype(float)}))
    assert found.loc["single feature", ["verdict", "note"]].tolist() == [
        "leak",
        "labs.died in hospital",
    ]
    assert found.loc["single feature", "value"] == 1


def codes_of(y, word, *, of_ill=1.0, of_well=0.0, n=N, seed=0, **more):
    """Some everyday codes, and one that these shares of the ill and of the well have."""
    rng = np.random.default_rng(seed)
    drawn = rng.random(n)
    has = np.where(y == 1, drawn < of_ill, drawn < of_well)
    rows = [[*rng.choice(9, rng.integers(1, 9), replace=False), *[77] * int(h)] for h in has]
    words = {0: "sodium low", 1: "fever", 2: "cough", 77: word}
    x = {"labs": rng.normal(size=(n, 2)), "dx": Ragged.from_rows(rows, words=words)}
    arguments = {"x": x, "y": y, "groups": {"patient": np.arange(n)}}
    return Cohort(**arguments | more), int(has.sum())


def single(*parts, **options):
    return audit(*parts, n_boot=0, n_shuffles=3, **options).loc["single feature"]


@pytest.mark.parametrize(("of_ill", "of_well"), [(1, 0), (0, 1), (0.97, 0.01)])
def test_a_code_that_is_the_label_is_named_by_its_word(of_ill, of_well):
    y = cohort().y.numpy()
    found = single(codes_of(y, "Admission IC", of_ill=of_ill, of_well=of_well)[0])
    assert found[["verdict", "note"]].tolist() == ["leak", "dx: Admission IC"]
    assert found["value"] > 0.95


def test_a_code_that_only_the_ill_have_is_named_though_few_have_it():
    y = (np.arange(N) % 5 < 2).astype(float)
    for share, verdict in ((0.6, "leak"), (0.2, "look")):
        data, holders = codes_of(y, "Admission IC", of_ill=share)
        assert holders >= 10
        found = single(data)
        assert found["verdict"] == verdict
        assert found["note"] == "dx: Admission IC: nearly all who have it are of class 1"
        assert found["value"] < 0.95


def test_a_code_that_the_ill_have_more_often_is_no_leak():
    y = cohort().y.numpy()
    assert single(codes_of(y, "shock", of_ill=0.7, of_well=0.3)[0])["verdict"] == "ok"
    few = (np.arange(N) < 6).astype(float)  # five holders: chance, and nobody is named
    data, holders = codes_of(y, "rare disease", of_ill=0.04)
    assert 0 < holders < 10
    assert single(data)["verdict"] == "ok"
    found = single(codes_of(few, "rare disease")[0])
    assert found[["verdict", "note"]].tolist() == [
        "leak", "dx: a code that fewer than 10 patients have"
    ]  # fmt: skip


def test_false_alarms_of_codes_are_rare():
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y = (rng.random(N) < 0.15).astype(float)
        rows = [rng.choice(60, 6, replace=False) for _ in range(N)]
        parts = Cohort(x={"dx": rows}, y=y, groups={"patient": np.arange(N)}).split((0.7, 0.3))
        alarms += single_feature(parts, flatten(*parts), 0.95).verdict != "ok"
    assert alarms <= 1


def test_codes_without_words_are_named_by_number():
    y = cohort().y.numpy()
    rows = [[5, 77] if ill else [5] for ill in y]
    found = single(cohort(x={"labs": cohort().x["labs"], "dx": rows}))
    assert found["verdict"] == "leak"
    assert found["note"].startswith("dx: code 77")


def test_items_levels_holes_and_times_that_are_the_label_are_found():
    y = cohort().y.numpy()
    rng = np.random.default_rng(0)
    ward = np.where(y == 1, 3, rng.choice([0, 1, 5], N))
    series = Ragged.from_rows(
        [[[1.0, 7.0, 0], *([[2.0, 7.0, 1]] if ill else [])] for ill in y],
        words={0: "pulse", 1: "dialysis"},
    )
    late = [[[11.0 if ill else rng.uniform(0, 9), 7.0, 0]] for ill in y]
    holes = np.where(y == 1, np.nan, rng.normal(size=N))
    noisy = y + 0.3 * rng.normal(size=N)
    for given, note in (
        ({"ward": ward}, "ward.ward_0 = 3"),
        ({"icu": series}, "icu: dialysis"),
        ({"icu": late}, "icu: time of the last entry"),
        ({"gas": pd.DataFrame({"ph": holes})}, "whether gas is there"),
        ({"gas": pd.DataFrame({"ph": holes, "o2": 1.0})}, "whether gas.ph is there"),
        ({"score": pd.DataFrame({"day1": noisy})}, "score.day1"),
        ({"score": pd.DataFrame({"day1": -noisy})}, "score.day1"),
    ):
        found = single(cohort(x={"labs": cohort().x["labs"], **given}))
        assert found["verdict"] == "leak", note
        assert note in found["note"]
    few = np.where((y == 1) & (rng.random(N) < 0.25), 4, rng.choice([0, 1, 5], N))
    found = single(cohort(x={"labs": cohort().x["labs"], "ward": few}))
    assert found["verdict"] == "look"
    assert found["note"] == "ward.ward_0 = 4: nearly all who have it are of class 1"


def test_a_code_that_is_one_of_several_classes_is_found():
    y = np.arange(N) % 3.0
    data, _ = codes_of((y == 2).astype(float), "transplant")
    found = single(Cohort(x=data.x, y=y, task="multiclass", groups=data.groups))
    assert found[["verdict", "note"]].tolist() == ["leak", "dx: transplant"]


def test_a_code_of_tables_that_is_the_label_is_named(tmp_path):
    y = np.arange(120) % 2
    stays = pd.DataFrame({"stay": np.arange(120), "admitted": "2031-03-01 10:00", "ill": y})
    events = pd.DataFrame({"stay": np.arange(120), "at": "2031-03-01 11:00"})
    events["code"] = np.where(y == 1, "Admission IC", "Admission NC")
    stays.to_csv(tmp_path / "stays.csv", index=False)
    events.to_csv(tmp_path / "events.csv", index=False)
    config = {
        "patients": {"file": "stays.csv", "id": "stay"},
        "time": {"cut": 24, "start": "admitted"},
        "label": {"columns": ["ill"]},
        "modalities": {
            "dx": {"kind": "codes", "file": "events.csv", "columns": ["code"], "time": "at"}
        },
    }
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    found = single(from_tables(tmp_path / "tables.yaml"), fit_predict=None)
    assert found["verdict"] == "leak"
    assert "dx: Admission IC" in found["note"]


def test_mask_only_and_times_only_are_scored_without_values():
    data = cohort()
    y = data.y.numpy()
    labs = np.where((y == 1)[:, None], np.nan, 3.0)
    masked = audit(cohort(x={"labs": labs, "age": np.ones(N)}))
    assert masked.loc["mask only", ["verdict", "value"]].tolist() == ["look", 1]
    assert masked.loc["times only", "verdict"] == "not checked"
    often = [[7] * (1 + int(label)) for label in y]
    busy = audit(cohort(x={"labs": data.x["labs"], "dx": often}))
    assert busy.loc["times only", ["verdict", "value"]].tolist() == ["look", 1]
    assert busy.loc["mask only", "verdict"] == "not checked"


def test_few_events_are_said_and_not_passed():
    data = cohort()
    y = np.zeros(N)
    y[:12] = 1
    labs = np.where((y == 1)[:, None], np.nan, 3.0)
    few = audit(cohort(x={"labs": labs, "age": np.ones(N)}, y=y))
    for check in ("mask only", "features"):
        assert "fewer than 5 events: no interval" in few.loc[check, "note"]
        assert np.isnan(few.loc[check, "low"])
    assert few.loc["mask only", "verdict"] == "not checked"
    rare = np.where(np.arange(N) == 5, np.nan, 3.0)  # one hole, which tells nothing
    same = audit(cohort(x={"labs": rare, "age": np.ones(N)}, y=data.y.numpy()))
    assert same.loc["mask only", "verdict"] == "ok"


def test_scalers_of_another_part_are_found():
    data = cohort()
    train, test = data.split((0.7, 0.3))
    for of, verdict in ((train, "ok"), (data, "leak")):
        model = Classifier(backbone=GRAPE(d=4), schema=data.schema)
        model.prepare(of)
        found = audit(train, test, model=model)
        assert found.loc["scalers", "verdict"] == verdict
    assert found.loc["scalers", "note"] == "other than those of training: labs, icu"
    assert audit(train, test).loc["scalers", "verdict"] == "not checked"


def test_scalers_of_a_model_that_was_saved_are_those_of_training(tmp_path):
    """Saving forgets what fewer than ten patients had, which is no leak."""
    rng = np.random.default_rng(0)
    rare = np.where(np.arange(80) % 20 == 0, 1.0, np.nan)
    data = Cohort(x={"labs": np.column_stack([rng.normal(size=80), rare])}, y=np.arange(80) % 2)
    train, test = data.split((0.5, 0.5))
    model = Classifier(backbone=GRAPE(d=4), schema=data.schema)
    run = fit(model, train, stages=[Stage(epochs=1)])
    for _ in range(2):
        assert audit(train, test, model=model).loc["scalers", "verdict"] == "ok"
        assert audit(test, train, model=model).loc["scalers", "verdict"] == "leak"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run.save(tmp_path / "model")
        model = load_model(tmp_path / "model")


def test_equal_rows_are_counted_as_by_comparing_all():
    rng = np.random.default_rng(0)
    size = 60
    labs = rng.integers(0, 3, (size, 1)).astype(float)
    dx = [rng.integers(0, 2, rng.integers(0, 3)).tolist() for _ in range(size)]
    data = Cohort(
        x={"labs": labs, "dx": dx}, kinds={"dx": "codes"}, y=np.arange(size) % 2,
        groups={"patient": np.arange(size)},
    )  # fmt: skip
    train, test = data.select(np.arange(30)), data.select(np.arange(30, size))
    rows = [(value, tuple(codes)) for value, codes in zip(labs[:, 0], dx, strict=True)]
    twice = sum(row in rows[:30] for row in rows[30:])
    assert 0 < twice < 30
    assert audit(train, test).loc["equal rows", ["verdict", "value"]].tolist() == ["look", twice]


def test_a_fingerprint_tells_rows_modalities_and_masks_apart():
    def codes(**x):
        age = np.ones(2)
        return fingerprints(Cohort(x=x | {"age": age}, kinds=dict.fromkeys(x, "codes")))[0]

    assert codes(a=[[1, 2], [1]]) != codes(a=[[2, 1], [1]])
    assert codes(a=[[1], [1]], b=[[2], [1]]) != codes(a=[[2], [1]], b=[[1], [1]])
    assert codes(a=[[0], [1]]) != codes(a=[[], [1]])
    zero = Cohort(x={"a": np.array([[0.0, 1], [np.nan, 1]]), "b": np.ones(2)})
    first, second = fingerprints(zero.select([0])), fingerprints(zero.select([1]))
    assert first != second


def test_labels_are_dealt_out_by_patient():
    code = np.array([0, 1, 0, 2, 2, 2, 3])
    y = np.array([5.0, 6, 5, 7, 7, 7, 8])
    for seed in range(10):
        dealt = _dealt(y, code, np.random.default_rng(seed))
        by_patient = [set(dealt[code == patient]) for patient in range(4)]
        assert sorted(next(iter(labels)) for labels in by_patient) == [5, 6, 7, 8]
        assert all(len(labels) == 1 for labels in by_patient)


def test_several_classes_and_missing_labels():
    rng = np.random.default_rng(0)
    labs = rng.normal(size=(N, 2))
    y = (labs[:, 0] > 0).astype(float) + (labs[:, 1] > 0)
    y[:10] = np.nan
    found = audit(Cohort(x={"labs": labs}, y=y, task="multiclass"))
    assert found.loc["shuffled labels", "verdict"] == "ok"
    assert found.loc["features", "low"] > 0.7
    assert found.loc["single feature", "verdict"] == "ok"
    assert 0.75 < found.loc["single feature", "value"] < 0.95


def test_refusals():
    with pytest.raises(ValueError, match=r"no labels\. Pass one with a label per row"):
        audit_leaks(Cohort(x={"labs": np.ones((4, 1))}))
    with pytest.raises(ValueError, match="has several labels"):
        audit_leaks(Cohort(x={"labs": np.ones((4, 1))}, y=np.ones((4, 2))))
    with pytest.raises(ValueError, match="n_shuffles is 2: an interval needs 3 or more"):
        audit_leaks(cohort(), n_shuffles=2)


def test_scores_are_those_of_evaluate():
    from dfdlib.evaluation import evaluate

    train, test = cohort().split((0.7, 0.3))
    found = audit(train, test)
    p = QUICK["fit_predict"](train, test)
    line = evaluate(p, test, n_boot=100).frame.query("metric == 'auroc'").iloc[0]
    for name in ("value", "low", "high"):
        assert found.loc["features", name] == pytest.approx(line[name])
    assert not torch.isnan(test.y).any()
