"""A chapter's VAEs on your own pairs of pictures: what is loaded, scored, hidden and written."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from dfdlib.book import made_up, own, own_pairs
from dfdlib.book import own_pairs as own_pairs_module
from dfdlib.book.own_pairs import MEAN
from dfdlib.data import Cohort, mimic_cxr
from dfdlib.data.arrays import Images
from dfdlib.evaluation.bootstrap import interval, patient_weights
from dfdlib.models import MultimodalVAE

SIDE = 16


def vae(prior):
    return lambda schema: MultimodalVAE(schema=schema, prior=prior, d_latent=4, width=4)


METHODS = {"MMVM": vae("mmvm"), "no sharing": vae("independent")}
CHAPTER = "20-x"
STEM = f"runs/own/{CHAPTER}/mimic_cxr-size-16-seed-0-epochs-1"


@pytest.fixture
def book(tmp_path, monkeypatch):
    """An empty book, as the working folder."""
    (tmp_path / "_toc.yml").write_text("format: jb-book\n")
    (tmp_path / "chapters").mkdir()
    monkeypatch.chdir(tmp_path / "chapters")
    return tmp_path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A few made-up patients as the owners' files, with a conversion of 16 pixels."""
    root = made_up.write("mimic_cxr", tmp_path_factory.mktemp("cxr"), n=40, seed=0, pixels=20)
    mimic_cxr.convert(root, size=SIDE, progress=False)
    return root


def pairs():
    """180 patients, a pair each and the first again: in both views the brighter half is ill.

    Finding 1 is rare in the test part, finding 2 absent, the others like the first.
    """
    rng = np.random.default_rng(0)
    n = 180
    y = np.repeat(rng.random((n, 1)) < 0.5, 14, axis=1).astype(float)
    y[:, 1] = np.arange(n) % 20 == 0
    y[:, 2] = 0
    images = (
        rng.integers(0, 100, (n, 1, SIDE, SIDE)) + (100 * y[:, 0]).astype(int)[:, None, None, None]
    )
    split = np.where(np.arange(n) < 90, "train", np.where(np.arange(n) < 110, "validate", "test"))
    rows = torch.tensor([*range(n), 0, 0])
    pixels = images.astype(np.uint8)
    return Cohort(
        x={"frontal": Images(pixels, rows), "lateral": Images(255 - pixels, rows)},
        y=y[rows],
        task="multilabel",
        groups={"patient": 100 + rows.numpy(), "split": split[rows]},
    )


@pytest.fixture
def brought(monkeypatch):
    """These pairs, in the place of the user's."""
    monkeypatch.setattr(own_pairs, "own_pairs", lambda dataset, root, **options: pairs())


def found_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------ which pairs


def test_a_wrong_name_says_what_there_is():
    with pytest.raises(ValueError, match=r"'mimic_cx' is not a data set of pairs.*'mimic_cxr'\?"):
        own_pairs.own_pairs("mimic_cx", "x")


def test_no_root_says_what_to_add():
    with pytest.raises(ValueError, match=r"'mimic_cxr' needs the folder .* Add -p root FOLDER"):
        own_pairs.own_pairs("mimic_cxr")


def test_no_such_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        own_pairs.own_pairs("mimic_cxr", str(tmp_path / "nowhere"))


def test_without_a_conversion_the_command_is_said_and_nothing_converted(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dfdlib data convert mimic-cxr --root .* 224$"):
        own_pairs.own_pairs("mimic_cxr", str(tmp_path))
    assert found_in(tmp_path) == set()


def test_another_size_that_is_there_is_named(files):
    with pytest.raises(FileNotFoundError, match=rf"224\. Or take .*: -p root .*dfdlib-{SIDE}$"):
        own_pairs.own_pairs("mimic_cxr", str(files))


def test_a_converted_folder_is_read_from_the_book_too(book, files):
    (book / "cxr").symlink_to(files / f"dfdlib-{SIDE}")
    cohort = own_pairs.own_pairs("mimic_cxr", "cxr")
    assert cohort.names == ("frontal", "lateral")
    assert cohort.x["frontal"].shape[1:] == (1, SIDE, SIDE)
    assert set(cohort.groups["split"]) == {"train", "validate", "test"}


def test_made_up_pairs_outlive_their_files(caplog):
    cohort = own_pairs._made_up(40)
    assert not caplog.records
    assert cohort.x["lateral"].shape[1:] == (1, 32, 32)
    assert isinstance(cohort.x["lateral"].pixels, np.ndarray)
    assert not isinstance(cohort.x["lateral"].pixels, np.memmap)


@pytest.mark.parametrize("dataset", ["mimic_cxr", "made-up mimic_cxr"])
def test_other_chapters_say_which_take_pairs(dataset):
    with pytest.raises(ValueError, match=r"pairs of pictures.* Run 20-ten-per-cent-of-the-labels"):
        own.own_cohort(dataset, "x")


def test_a_part_without_patients_is_named(monkeypatch):
    few = pairs().select(np.arange(50))
    monkeypatch.setattr(own_pairs, "own_pairs", lambda *_, **options: few)
    with pytest.raises(ValueError, match=r"no patient .* in the validate part"):
        own_pairs.pairs_on_your_own(METHODS, dataset="mimic_cxr", root="x", chapter=CHAPTER)


# ------------------------------------------------------------------ labels, readers, net


def test_labels_are_known_of_patients_and_the_larger_part_holds_the_smaller():
    train = pairs().select(pairs().groups["split"] == "train")
    known = own_pairs._labelled(train, (10, 50, 100), seed=3)
    patients = {k: set(train.groups["patient"][rows]) for k, rows in known.items()}
    assert [len(some) for some in patients.values()] == [9, 45, 90]
    assert patients[10] < patients[50] < patients[100]
    for k, rows in known.items():  # all pairs of a patient
        assert len(rows) == np.isin(train.groups["patient"], list(patients[k])).sum()


def test_readers_are_logistic_regressions_on_standardised_means():
    rng = np.random.default_rng(0)
    h, other = rng.normal(3, 2, (60, 3)), rng.normal(3, 2, (7, 3))
    y = np.stack([h[:, 0] > 3, np.ones(60)], axis=1).astype(float)
    p = own_pairs._probed(h, y, other)
    scaler = StandardScaler().fit(h)
    reader = LogisticRegression().fit(scaler.transform(h), y[:, 0])
    np.testing.assert_allclose(p[:, 0], reader.predict_proba(scaler.transform(other))[:, 1], 1e-4)
    assert (p[:, 1] == 1).all()


def test_the_net_has_the_encoder_of_the_vae_and_learns():
    train, val, test = own_pairs._parts(pairs())
    p = own_pairs._taught(vae("mmvm")(train.schema), "lateral", train, val, test, 80, seed=0)
    assert p.shape == (len(test), 14)
    assert roc_auc_score(test.y[:, 0], p[:, 0]) > 0.9


# ------------------------------------------------------------------ scores, and what is hidden


def scores(n=80, seed=0):
    """Probabilities of two methods, and 14 findings of 40 patients in `n` pairs."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(40, size=n)
    y = (rng.random((n, 14)) < 0.3).astype(float)
    found = {
        (name, share): {view: y + rng.normal(0, 2, y.shape) for view in ("frontal", "lateral")}
        for name in ("MMVM", "net")
        for share in (10, 100)
    }
    return found, y, patient


def only(table, **given):
    keep = np.logical_and.reduce([table[name] == value for name, value in given.items()])
    (row,) = table[keep].to_dict("records")
    return row


def test_differences_are_those_of_a_loop_over_draws_of_patients():
    found, y, patient = scores()
    table = own_pairs_module.scored(found, y, patient, n_boot=12, seed=5)
    codes, ids = pd.factorize(patient)
    weights = next(patient_weights(len(ids), 12, seed=5, chunk=12))[:, codes].astype(int)
    kept = [k for k in range(14) if only(table, finding=mimic_cxr.LABELS[k], method="net",
                                         labels=10, view="frontal")["note"] == ""]  # fmt: skip
    assert len(kept) > 10

    def mean(asked, rows):
        parts = [found[asked][view][rows] for view in ("frontal", "lateral")]
        return np.mean([roc_auc_score(y[rows, k], p[:, k]) for p in parts for k in kept])

    def gap(rows, first):
        return mean(("MMVM", first), rows) - mean(("net", 100), rows)

    row = only(table, method="net", labels=100, view="mean", finding=MEAN)
    everybody = np.arange(len(y))
    assert row["value"] == pytest.approx(mean(("net", 100), everybody))
    for word, first in (("difference", 100), ("fewest", 10)):
        drawn = [gap(np.repeat(everybody, times), first) for times in weights]
        low, high = interval(np.array(drawn))
        assert row[word] == pytest.approx(gap(everybody, first))
        assert (row[f"{word}_low"], row[f"{word}_high"]) == pytest.approx((low, high))


def test_findings_of_few_patients_are_hidden_and_stand_in_no_mean():
    found, y, patient = scores(400)
    y[:, 3] = patient < 4  # some forty pairs of four patients
    y[:, 4] = patient >= 9  # nine without
    y[:, 5] = 0
    told = [k for k in range(14) if k not in (3, 4, 5)]
    y[:, told] = patient[:, None] % 2  # twenty with, twenty without
    table = own_pairs_module.scored(found, y, patient, n_boot=10, seed=0)
    numbers = table.filter(regex="value|low|high|difference|fewest")
    small = table["finding"].isin([mimic_cxr.LABELS[k] for k in (3, 4)])
    assert numbers[small].isna().all(axis=None)
    assert table.loc[small, ["n", "n_pos"]].isna().all(axis=None)
    assert set(table.loc[small, "note"]) == {"fewer than 10"}
    assert set(table["findings"]) == {len(told)}
    row = only(table, method="net", labels=10, view="lateral", finding=MEAN)
    p = found["net", 10]["lateral"]
    assert row["value"] == pytest.approx(np.mean([roc_auc_score(y[:, k], p[:, k]) for k in told]))


def test_a_mean_without_an_interval_is_shown_alone(capsys):
    line = {"method": "net", "labels": 10, "view": "mean", "finding": MEAN, "n": 40, "n_pos": pd.NA}
    line |= {"value": 1.0, "low": np.nan, "high": np.nan, "note": "", "findings": 3}
    shown = own_pairs_module.shown(pd.DataFrame([line]))
    assert shown["mean"].tolist() == ["100.0"]
    assert capsys.readouterr().out == "40 test patients; means over 3 of 14 findings\n"


def test_of_nine_patients_nothing_is_told(capsys):
    found, y, patient = scores()
    table = own_pairs_module.scored(found, y, patient % 9, n_boot=10, seed=0)
    assert table.filter(regex="^value|low|high|difference|fewest|^n").drop(
        columns="note"
    ).isna().all(axis=None)  # fmt: skip
    shown = own_pairs_module.shown(table)
    assert capsys.readouterr().out == "< 10 test patients; means over 0 of 14 findings\n"
    assert set(shown.to_numpy().ravel()) <= {"–", ""}


# ------------------------------------------------------------------ the run


def test_without_a_data_set_it_says_how_to_run_it(book, capsys):
    assert own_pairs.pairs_on_your_own(METHODS, dataset="", root="", chapter=CHAPTER) is None
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("To train MMVM; no sharing; supervised on your own chest X-rays:")
    assert "papermill chapters/20-x.ipynb \\ out.ipynb -p dataset mimic_cxr -p root FOLDER" in said
    assert found_in(book) == {"_toc.yml"}


def test_a_run_compares_hides_and_writes_below_runs_only(book, brought, capsys):
    given = {"dataset": "mimic_cxr", "root": "x", "chapter": CHAPTER, "epochs": 1, "n_boot": 20}
    table = own_pairs.pairs_on_your_own(METHODS, **given)
    names = [*METHODS, "supervised"]
    added = {f"{STEM}-{'-'.join(name.lower().split())}.json" for name in names}
    assert found_in(book) == {"_toc.yml"} | added
    assert list(table.index) == [(share, name) for share in ("10 %", "100 %") for name in names]
    assert list(table) == ["frontal", "lateral", "mean", "MMVM minus it", "MMVM, 10 %, minus it"]
    assert table.loc[("10 %", "MMVM"), "MMVM minus it"] == "–"
    assert table.loc[("100 %", "supervised"), "MMVM minus it"].startswith(("+", "-"))
    assert table.loc[("10 %", "supervised"), "MMVM, 10 %, minus it"] == ""
    # one of 70 test patients' counts is below ten, so the others are tens
    said = "at least 70 test patients; means over 12 of 14 findings\n"
    assert capsys.readouterr().out == said
    stored = json.loads((book / f"{STEM}-supervised.json").read_text())
    rare = [row for row in stored["rows"] if row["finding"] == mimic_cxr.LABELS[1]]
    assert len(rare) == 6
    assert all(row[name] is None for row in rare for name in ("value", "n_pos", "difference_low"))
    assert all(row["n_pos"] is None or row["n_pos"] % 10 == 0 for row in stored["rows"])
    assert str(book) not in json.dumps(stored)


def test_options_of_the_loader_are_those_of_the_chapter(book, files, monkeypatch):
    (book / "cxr").symlink_to(files / f"dfdlib-{SIDE}")
    options = {"split": "official", "uncertain": "ignore", "pairs": "one"}
    loaded = own_pairs.own_pairs("mimic_cxr", "cxr", **options)
    direct = mimic_cxr.load(files / f"dfdlib-{SIDE}", **options)
    assert np.array_equal(loaded.y, direct.y, equal_nan=True)
    assert loaded.y.isnan().any()
    assert (loaded.groups["split"] == direct.groups["split"]).all()
    assert len(set(loaded.groups["study"])) == len(loaded)
    taken = []
    monkeypatch.setattr(
        own_pairs, "own_pairs", lambda *_, **options: taken.append(options) or ignoring()
    )
    given = {"dataset": "mimic_cxr", "root": "x", "chapter": CHAPTER, "epochs": 1, "n_boot": 5}
    table = own_pairs.pairs_on_your_own(METHODS, fractions=(100,), **given, **options)
    assert taken == [options]
    assert not (table["mean"] == "–").any()
    stem = f"{STEM}-split-official-uncertain-ignore-pairs-one"
    assert f"{stem}-mmvm.json" in found_in(book)
    with pytest.raises(ValueError, match="'oficial' is not a split"):
        mimic_cxr.load(files / f"dfdlib-{SIDE}", split="oficial")


def ignoring():
    """The pairs, with every seventh label of finding 3 unknown."""
    cohort = pairs()
    y = cohort.y.clone()
    y[::7, 3] = torch.nan
    return Cohort(x=cohort.x, y=y, task="multilabel", groups=cohort.groups)


def test_a_label_that_is_ignored_is_not_learned():
    rng = np.random.default_rng(0)
    h, other = rng.normal(3, 2, (60, 3)), rng.normal(3, 2, (7, 3))
    y = np.stack([h[:, 0] > 3, np.full(60, np.nan)], axis=1).astype(float)
    y[40:, 0] = np.nan
    known = own_pairs._probed(h[:40], y[:40], other)
    np.testing.assert_allclose(own_pairs._probed(h, y, other)[:, 0], known[:, 0])
    assert (known[:, 1] == 0).all()


def test_two_runs_agree(book, brought):
    given = {"dataset": "mimic_cxr", "root": "x", "chapter": CHAPTER, "epochs": 1, "n_boot": 5}
    one, two = (
        own_pairs.pairs_on_your_own(METHODS, fractions=(50,), supervised=False, **given)
        for _ in range(2)
    )
    assert list(one) == ["frontal", "lateral", "mean", "MMVM minus it"]
    pd.testing.assert_frame_equal(one, two)
