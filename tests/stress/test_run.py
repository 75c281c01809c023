"""`stress.run`: against scores by hand, after kills, and what it refuses."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dfdlib import stress
from dfdlib.data import Cohort
from dfdlib.models import GRAPE, Classifier
from dfdlib.stress.run import verdict
from dfdlib.training import Stage, fit

QUICK = {"stages": [Stage(epochs=2)]}
KIND = "second-one-modality"


class Oracle:
    """Knows the patients' p_do: scores cannot be better."""

    refusal = None

    def __init__(self, schema):
        self.features = schema.features

    def fit(self, train, val, seed):
        assert train.schema.features == self.features
        assert (len(train), len(val)) == (200, 40)
        assert train.y is not None

    def predict_proba(self, cohort):
        return cohort.truth["p_do"].to_numpy()


class Refusing(Oracle):
    """Plain regression with a reason."""

    refusal = "hospitals do not differ"


def quick(make, **options):
    options = {"kinds": KIND, "seeds": [0, 1, 2], "n": 200, "fit": QUICK} | options
    return stress.run(make, **options)


@pytest.fixture(scope="module")
def table():
    return quick(
        {"oracle": Oracle, "refusing": Refusing, "plain": stress.flat(LogisticRegression())}
    )


# ---------------------------------------------------------------- what is computed


def test_frame_has_a_row_per_kind_world_and_method(table):
    columns = "kind, draw, world, method, effect, low, high, closed, verdict, refused"
    assert ", ".join(table.frame) == columns
    assert set(table.frame["draw"]) == {"0–2"}
    assert list(table.frame["world"][:3]) == ["home", "shifted", "randomised"]
    assert len(table.frame) == 9
    assert len(table.runs) == 3 * 3 * 4


def test_the_oracle_closes_the_whole_gap(table):
    oracle = table.frame[table.frame["method"] == "oracle"]
    assert oracle["closed"].notna().any()
    assert oracle["closed"].dropna().tolist() == pytest.approx([1.0] * oracle["closed"].count())
    runs = table.runs[table.runs["method"] == "oracle"]
    pd.testing.assert_series_equal(runs["auroc"], runs["oracle"], check_names=False)


def test_scores_are_those_by_hand(table):
    """Logistic regression and ERM, written out for one seed and world."""
    both = stress.load(KIND, draw=1, n=240, seed=1)
    train, val = both.select(range(200)), both.select(range(200, 240))
    test = stress.load(KIND, draw=1, world="shifted", n=200, seed=1)
    x, x_test = (c.to_frame().to_numpy() for c in (train, test))
    model = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True), StandardScaler(), LogisticRegression()
    ).fit(x, train.y.numpy())
    erm = fit(
        Classifier(backbone=GRAPE(d=16), schema=train.schema), train, val, seed=1, **QUICK
    ).model
    erm.eval()
    p = erm.predict_proba(next(test.batches(200)))[:, 1]
    row = table.runs.query("method == 'plain' and draw == 1 and world == 'shifted'").iloc[0]
    assert row["auroc"] == pytest.approx(
        roc_auc_score(test.truth["y"], model.predict_proba(x_test)[:, 1]), abs=2e-3
    )
    assert row["erm"] == pytest.approx(roc_auc_score(test.truth["y"], p), abs=1e-6)


def test_intervals_are_students(table):
    runs = table.runs.query("method == 'plain' and world == 'randomised'")
    row = table.frame.query("method == 'plain' and world == 'randomised'").iloc[0]
    expected = stats.ttest_1samp(runs["auroc"] - runs["erm"], 0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx(tuple(expected))
    gap = (runs["oracle"] - runs["erm"]).mean()
    assert row["closed"] == pytest.approx(row["effect"] / gap)


def test_refusals_are_counted_and_named(table):
    refusing = table.frame[table.frame["method"] == "refusing"]
    assert set(refusing["verdict"]) == {"refused"}
    assert set(refusing["refused"]) == {3}
    reasons = table.runs.loc[table.runs["method"] == "refusing", "refused"]
    assert set(reasons) == {"hospitals do not differ"}
    assert table.runs.loc[table.runs["method"] == "oracle", "refused"].isna().all()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.009, "harmless"),
        (-0.01, 0.01, "harmless"),
        (0.001, 0.02, "gains"),
        (-0.02, -0.001, "harms"),
        (-0.02, 0.02, "undecided"),
        (-0.02, 0.0, "undecided"),
        (np.nan, np.nan, "undecided"),
    ],
)
def test_verdicts(low, high, expected):
    assert verdict(low, high) == expected
    assert verdict(low, high, refused=True) == "refused"


def test_methods_are_ranked_by_the_randomised_world_with_home_kept():
    def rows(method, world, effect, auroc):
        run = {"kind": "k", "draw": 0, "world": world, "method": method, "auroc": auroc}
        run |= {"oracle": 0.78, "erm": 0.87, "refused": None, "seconds": 1.0}
        row = {"kind": "k", "draw": "0", "world": world, "method": method, "effect": effect}
        return run, row | {"closed": effect / 0.05, "verdict": "gains", "refused": 0}

    made = [
        rows("loses home", "home", -0.17, 0.70),
        rows("loses home", "randomised", 0.05, 0.78),
        rows("keeps home", "home", -0.09, 0.78),
        rows("keeps home", "randomised", 0.03, 0.76),
        rows("nothing", "home", 0.0, 0.87),
        rows("nothing", "randomised", 0.0, 0.73),
    ]
    runs, frame = (pd.DataFrame(part) for part in zip(*made, strict=True))
    table = stress.StressTable(frame=frame, runs=runs)
    ranking = table.ranking()
    assert list(ranking["method"]) == ["keeps home", "nothing", "loses home"]
    assert list(ranking["keeps_home"]) == [True, True, False]
    assert ranking["gains"].tolist() == [1, 1, 1]
    assert ranking["home"].tolist() == pytest.approx([0.0, 0.09, -0.08])


def test_one_seed_has_no_interval():
    frame = quick(Oracle, seeds=[4]).frame
    assert frame["low"].isna().all()
    assert set(frame["verdict"]) == {"undecided"}
    assert set(frame["draw"]) == {"4"}
    assert set(frame["method"]) == {"Oracle"}


# ---------------------------------------------------------------- kills and caches


class Counting(Oracle):
    fits = 0

    def fit(self, train, val, seed):
        if seed == 1 and Counting.fits == 1:
            Counting.fits += 1
            raise KeyboardInterrupt
        Counting.fits += 1


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    Counting.fits = 0
    with pytest.raises(KeyboardInterrupt):
        quick(Counting, folder=tmp_path, seeds=[0, 1])
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(kept) == 3  # ERM twice, and the first run
    table = quick(Counting, folder=tmp_path, seeds=[0, 1])
    assert Counting.fits == 3
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    again = quick(Counting, folder=tmp_path, seeds=[0, 1])
    assert Counting.fits == 3
    pd.testing.assert_frame_equal(table.runs, again.runs)
    assert not list(tmp_path.rglob("*.part"))


def test_erm_is_run_once_for_all_methods_and_other_settings_are_other_runs(tmp_path):
    quick(Oracle, folder=tmp_path, seeds=[0])
    quick(Refusing, folder=tmp_path, seeds=[0])
    names = sorted(path.name.rsplit("-", 1)[0] for path in tmp_path.rglob("*.json"))
    assert names == ["erm-0", "oracle-0", "refusing-0"]
    stress.run(
        Oracle, kinds=KIND, seeds=[0], n=200, folder=tmp_path, fit={"stages": [Stage(epochs=1)]}
    )
    assert len(list(tmp_path.rglob("erm-0-*.json"))) == 2


def test_another_estimator_of_one_name_is_another_run(tmp_path):
    for c in (1.0, 0.1):
        quick(stress.flat(LogisticRegression(C=c)), folder=tmp_path, seeds=[0])
    assert len(list(tmp_path.rglob("logisticregression-0-*.json"))) == 2


# ---------------------------------------------------------------- flat


def test_flat_gives_the_seed_to_estimators_that_take_one():
    train = stress.load(KIND, n=300)
    make = stress.flat(RandomForestClassifier(n_estimators=5))
    scores = []
    for seed in (0, 0, 1):
        method = make(train.schema)
        method.fit(train, train, seed)
        scores.append(method.predict_proba(train))
    assert (scores[0] == scores[1]).all()
    assert (scores[0] != scores[2]).any()
    assert make.estimator.random_state is None


def test_flat_reads_what_is_missing():
    """Only availability tells y."""
    there = np.arange(200) % 2 == 0
    x = np.where(there, np.random.default_rng(0).standard_normal(200), np.nan)
    cohort = Cohort(x={"labs": x[:, None], "age": np.ones(200)}, y=there.astype(int))
    method = stress.flat(LogisticRegression())(cohort.schema)
    method.fit(cohort, cohort, 0)
    assert roc_auc_score(cohort.y, method.predict_proba(cohort)[:, 1]) == 1


def test_flat_takes_pipelines_and_names_them_by_their_end():
    make = stress.flat(make_pipeline(StandardScaler(), LogisticRegression()))
    assert make.__name__ == "LogisticRegression"


@pytest.mark.parametrize("estimator", [LogisticRegression, StandardScaler(), "logistic", None])
def test_flat_refuses_what_is_no_classifier(estimator):
    with pytest.raises(TypeError, match=r"flat takes a classifier .*Write stress.flat\(Logistic"):
        stress.flat(estimator)


# ---------------------------------------------------------------- files


def test_rows_are_saved_with_command_and_processor(table, tmp_path):
    path = table.save(tmp_path / "a" / "oracle.json", command="make stress")
    (tmp_path / "a" / "other.json").write_text("[]")
    assert path.stat().st_size < 20_000
    assert json.loads(path.read_text())["versions"]["dfdlib"]
    rows = stress.read_rows(tmp_path)
    assert set(rows["command"]) == {"make stress"}
    assert set(rows["file"]) == {"a/oracle.json"}
    assert rows["processor"].str.endswith(torch.backends.cpu.get_cpu_capability()).all()
    stored = rows[list(table.frame)]
    pd.testing.assert_frame_equal(stored, table.frame, atol=1e-4, check_dtype=False)


def test_the_part_of_a_method(table):
    part = table.of("plain")
    assert set(part.frame["method"]) == set(part.runs["method"]) == {"plain"}
    with pytest.raises(ValueError, match=r"'plane' is not a method of this table .*mean 'plain'"):
        table.of("plane")


def test_no_rows_and_no_command(table, tmp_path):
    assert stress.read_rows(tmp_path).empty
    with pytest.raises(FileNotFoundError, match=r"no folder 'nowhere'\. Run `make stress`"):
        stress.read_rows(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="Pass command='…'"):
        table.save(tmp_path / "b.json", command="")


# ---------------------------------------------------------------- what is refused


class Nothing:
    def __init__(self, schema):
        pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (LogisticRegression(), r"run takes a function .*Write stress.run\(stress.flat\(Logistic"),
        (3, r"got an int. Write stress.run\(lambda schema"),
        ({"a": torch.nn.Linear(1, 1)}, "run takes a function that makes a method"),
        (Nothing, "make of 'Nothing' gives a method of dfdlib, or an object .* got a Nothing"),
    ],
)
def test_what_makes_no_method_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        quick(make, seeds=[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": "linaer"}, "'linaer' is not a kind of the open half .*mean 'linear'"),
        ({"kinds": []}, "no kind to run on. Pass kinds=None"),
        ({"half": "shut", "kinds": None}, "'shut' is not a half"),
        ({"kinds": "noisy-device"}, "'noisy-device' is not a kind of the open half"),
        ({"seeds": []}, r"seeds is \[\]. Pass different whole numbers"),
        ({"seeds": [0, 0]}, "Pass different whole numbers"),
        ({"seeds": 5}, r"seeds is 5. Pass different whole numbers from 0 on: range\(5\)"),
        ({"n": 3}, "n is 3. Pass a whole number, 100 or more"),
        ({"fit": {"epochs": 3}}, "'epochs' is not a setting that fit= may hold"),
        ({"fit": {"seed": 3}}, "'seed' is not a setting that fit= may hold"),
        ({"make": {}}, "there is no method to run"),
        ({"make": {"erm": Oracle}}, "two methods are called alike"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        quick(**{"make": Oracle} | options)


def test_fit_takes_a_dict():
    with pytest.raises(TypeError, match=r"as a dict in fit=, got a list. Write fit=\{'stages'"):
        quick(Oracle, fit=[Stage(epochs=1)])


def test_scores_that_are_no_probabilities_are_refused():
    class Logits(Oracle):
        def predict_proba(self, cohort):
            return np.full(len(cohort), 3.0)

    with pytest.raises(ValueError, match="probabilities lie outside 0 to 1"):
        quick(Logits, seeds=[0])
