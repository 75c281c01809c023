"""A chapter's methods on your own patients: which cohort, what is hidden, where it is written."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from dfdlib.book import own
from dfdlib.data import Cohort, made_up
from dfdlib.models import DFD, GRAPE, Classifier

METHODS = {
    "ERM": lambda schema: Classifier(backbone=GRAPE(d=4), schema=schema),
    "DFD": lambda schema: DFD(backbone=GRAPE(d=4), schema=schema),
}


@pytest.fixture
def book(tmp_path, monkeypatch):
    """An empty book, as the working folder."""
    (tmp_path / "_toc.yml").write_text("format: jb-book\n")
    (tmp_path / "chapters").mkdir()
    monkeypatch.chdir(tmp_path / "chapters")
    return tmp_path


@pytest.fixture
def tables(tmp_path):
    """A hospital's two files and the YAML beside them; the third site is small."""
    rng = np.random.default_rng(0)
    folder, n = tmp_path / "hospital", 300
    folder.mkdir()
    y = rng.random(n) < 0.4
    frame = pd.DataFrame({"stay": range(n), "hospital": np.repeat(["a", "b", "c"], [190, 90, 20])})
    frame["died"], frame["age"] = y.astype(int), y + rng.normal(size=n)
    frame.to_csv(folder / "stays.csv", index=False)
    config = {
        "patients": {"file": "stays.csv", "id": "stay", "site": "hospital"},
        "label": {"columns": ["died"]},
        "modalities": {"age": {"kind": "vector", "columns": ["age"]}},
    }
    (folder / "tables.yaml").write_text(yaml.safe_dump(config))
    return folder


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------ which cohort


def test_a_wrong_name_says_what_there_is():
    with pytest.raises(ValueError, match=r"'eicuu' is not a data set to run on .*mean 'eicu'\?"):
        own.own_cohort("eicuu", "x")


def test_no_root_says_what_to_add():
    with pytest.raises(ValueError, match=r"'mimic_iv' needs the folder .* Add -p root"):
        own.own_cohort("mimic_iv")


def test_no_such_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        own.own_cohort("eicu", str(tmp_path / "nowhere"))


def test_a_root_is_sought_from_the_book_too(book, tables):
    assert len(own.own_cohort("tables.yaml", "hospital")) == 300
    assert len(own.own_cohort("hospital/tables.yaml")) == 300


def test_eicu_without_a_table_goes_on_without_its_modality(tmp_path):
    only = ["patient", "hospital", "vitalAperiodic", "diagnosis", "treatment", "medication"]
    root = made_up.write("eicu", tmp_path, n=60, seed=0, only=only)
    with pytest.warns(UserWarning, match="^without labs: their tables are not in the folder"):
        cohort = own.own_cohort("eicu", str(root))
    assert cohort.names == ("demographics", "codes", "vitals")
    assert (cohort.groups["site"] == cohort.groups["region"]).all()


# ------------------------------------------------------------------ what is hidden


def line(n, n_pos):
    return {"n": n, "n_pos": n_pos, "value": 0.7, "low": 0.6, "high": 0.8, "note": "only 3 rows"}


def test_numbers_of_few_are_hidden_and_the_others_rounded():
    shown = own.hide_few(pd.DataFrame([line(157, 43), line(148, 40), line(9, 3)]))
    assert shown["n"].tolist()[:2] == [150, 140]
    assert shown["n_pos"].tolist()[:2] == [40, 40]
    assert shown.loc[2, ["n", "n_pos", "value", "low", "high"]].isna().all()
    assert shown["note"].tolist() == ["", "", "fewer than 10"]


@pytest.mark.parametrize(
    ("n", "n_pos", "hidden"), [(40, 9, 1), (40, 31, 1), (40, 10, 0), (40, 0, 0)]
)
def test_few_with_or_without_the_outcome_hide_a_line(n, n_pos, hidden):
    shown = own.hide_few(pd.DataFrame([line(n, n_pos)]))
    assert shown["value"].isna().tolist() == [bool(hidden)]


def test_counts_stay_exact_where_nothing_is_hidden():
    assert own.hide_few(pd.DataFrame([line(157, 43)]))["n"].tolist() == [157]


def test_several_classes_have_no_count_of_the_outcome():
    shown = own.hide_few(pd.DataFrame([line(40, pd.NA), line(8, pd.NA)]))
    assert shown["value"].isna().tolist() == [False, True]


def test_shares_hide_cells_of_few():
    site = np.repeat(["a", "b", "c"], [30, 30, 8])
    labs = np.where(np.arange(68) < 35, 1.0, np.nan)  # 30 of a, 5 of b, none of c
    cohort = Cohort(x={"labs": labs[:, None], "age": np.ones(68)}, groups={"site": site})
    table = own.shares(cohort)
    assert table.loc["labs"].tolist() == ["51 %", "100 %", "–", "–"]
    assert table.loc["age"].tolist() == ["100 %", "100 %", "100 %", "–"]


# ------------------------------------------------------------------ the run


def test_without_a_data_set_it_says_how_to_run_it(book, capsys):
    assert own.on_your_own(METHODS, dataset="", root="", chapter="09-x") is None
    said = " ".join(capsys.readouterr().out.split())
    assert "papermill chapters/09-x.ipynb \\ out.ipynb -p dataset eicu -p root FOLDER" in said
    assert files(book) == {(book / "_toc.yml").relative_to(book)}


def test_a_run_compares_hides_and_writes_below_runs_only(book, tables):
    before = files(book)
    table = own.on_your_own(
        METHODS, dataset="tables.yaml", root=str(tables), chapter="09-x", epochs=(1, 1), n_boot=40
    )
    added = {path.as_posix() for path in files(book) - before}
    assert added == {"runs/own/09-x/tables-erm.json", "runs/own/09-x/tables-dfd.json"}
    assert list(dict.fromkeys(table.index.get_level_values("part"))) == ["all", "a", "b", "c"]
    assert table.loc[("c", "ERM"), "AUROC"] == "–"
    assert "fewer than 10" in table.loc[("c", "DFD"), "patients' rows"]
    assert table.loc[("all", "ERM"), "minus the first"] == "–"
    assert table.loc[("all", "DFD"), "minus the first"].startswith(("+", "-"))
    stored = json.loads((book / "runs/own/09-x/tables-dfd.json").read_text())
    counts = [row["n"] for row in stored["rows"]]
    assert None in counts
    assert all(n is None or n % 10 == 0 for n in counts)
    assert str(book) not in json.dumps(stored)


def test_two_runs_agree(book, tables):
    given = {"dataset": "tables.yaml", "root": str(tables), "chapter": "09-x", "epochs": (1, 1)}
    one, two = (own.on_your_own(METHODS, n_boot=20, **given) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
