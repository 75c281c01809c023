"""A chapter's methods on your own patients: which cohort, what is hidden, where it is written."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from nbclient import NotebookClient
from nbformat import v4

from dfdlib.book import made_up, own, provenance
from dfdlib.data import Cohort
from dfdlib.evaluation import evaluate
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


def test_a_number_without_an_interval_is_shown_alone():
    told = line(157, 43) | {"method": "ERM", "level": "all", "low": np.nan, "high": np.nan}
    told |= dict.fromkeys(("difference", "difference_low", "difference_high"), np.nan)
    row = own._shown(pd.DataFrame([told])).iloc[0]
    assert row.tolist() == ["0.70", "–", "157", "43"]


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


def cut(n, n_pos, at, sizes=None):
    """A cohort of sites with these rows and events, in which the modality is there `at` times."""
    site = np.repeat([f"s{k}" for k in range(len(n))], n)
    y = np.concatenate([np.arange(m) < p for m, p in zip(n, n_pos, strict=True)])
    seen = np.concatenate([np.arange(m) < k for m, k in zip(n, at, strict=True)])
    labs = np.where(seen, 1.0, np.nan)[:, None]
    return Cohort(x={"labs": labs, "age": np.ones(len(y))}, y=y * 1.0, groups={"site": site})


def possible(lines, name, total):
    """Every value that a hidden count may have, to somebody who knows that of all.

    By force: all counts of the sites that are shown, and of those that are not, which add up.
    """
    sums = {0}
    hidden = [k for k, line in enumerate(lines) if pd.isna(line[name])]
    for line in lines:
        if not pd.isna(line[name]):
            low = int(line[name])
            # the counts that a reader may take for shown: none, or ten and more
            sums = {s + x for s in sums for x in (range(low, low + 10) if low else [0])}
    rests = {total - s for s in sums}
    if len(hidden) == 1:
        return [rests & set(range(1, 10))]
    each = range(1, 10)
    for _ in hidden[1:]:
        rests = {r - x for r in rests for x in each}
    return [rests & set(each)] * len(hidden)


@pytest.mark.parametrize("seed", range(40))
def test_hidden_counts_stay_many_to_one_who_knows_the_total(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 9))
    n = rng.integers(12, 160, k)
    n_pos = np.minimum(rng.integers(10, 60, k), n - 10).clip(0)
    few = rng.permutation(k)[: int(rng.integers(1, 1 + k // 2))]
    n_pos[few] = rng.integers(1, 10, len(few))
    n = np.maximum(n, n_pos + 10)
    cohort = cut(n, n_pos, n)
    frame = evaluate(rng.random(n.sum()), cohort, by="site", n_boot=0).frame
    frame = frame[frame["metric"] == "auroc"].reset_index(drop=True)
    told = own.hide_few(frame)
    lines = told[told["group"] == "site"].to_dict("records")
    small = (n_pos < 10) | (n - n_pos < 10)
    for line, here in zip(lines, small, strict=True):
        assert pd.isna(line["value"]) == here
    left = possible(lines, "n_pos", int(n_pos.sum()))
    if told["n_pos"].notna()[0] and all(
        pd.isna(line["n_pos"]) == (p < 10) for line, p in zip(lines, n_pos, strict=True)
    ):
        assert all(len(values) >= 5 for values in left)
        for values, count in zip(left, n_pos[n_pos < 10], strict=True):
            assert count in values
    # two digits of an AUROC leave every count that the tens leave
    for line in [line for line in lines if not pd.isna(line["n"])]:
        counts = [
            (m, p) for m in range(line["n"], line["n"] + 10)
            for p in range(max(10, line["n_pos"]), line["n_pos"] + 10) if m - p >= 10
        ]  # fmt: skip
        fits = [abs(round(line["value"] * p * (m - p)) / p / (m - p) - line["value"]) < 0.0051
                for m, p in counts]  # fmt: skip
        assert all(fits)
    shown = told[told["group"] == "site"]["value"].notna().sum()
    assert shown == (~small).sum(), "no more sites are hidden than have few"


def test_ten_digits_are_not_written_where_a_site_is_hidden():
    """Case: two AUROCs gave n and events of all and of A, and their difference those of B."""
    cohort = cut([131, 22], [27, 4], [131, 22])
    score = np.random.default_rng(0).random(153)
    told = own.hide_few(evaluate(score, cohort, by="site", n_boot=30).frame)
    numbers = told[["value", "low", "high"]]
    assert (numbers.round(2).fillna(-1) == numbers.fillna(-1)).all(axis=None)
    assert told.set_index(["metric", "level"]).loc[("auroc", "all"), "n"] == 150
    assert told.set_index(["metric", "level"]).loc[("auroc", "s0"), "n_pos"] == 20
    accuracy = told.set_index(["metric", "level"]).loc[("accuracy", "s0"), "value"]
    assert accuracy == round(accuracy, 2)


def test_the_next_smallest_site_goes_where_the_total_would_tell():
    # 31 events, 20 and 10 of them shown: the hidden site has one
    told = own.hide_few(evaluate(np.linspace(0, 1, 130), cut([60, 40, 30], [20, 10, 1], [1, 1, 1]),
                                 by="site", n_boot=0).frame)  # fmt: skip
    told = told[told["metric"] == "auroc"].set_index("level")
    assert told["value"].isna().tolist() == [False, False, False, True]
    assert told["n_pos"].isna().tolist() == [False, False, True, True]


def test_what_stands_on_no_line_is_hidden_too():
    frame = evaluate(np.linspace(0, 1, 97), cut([60, 30, 7], [20, 12, 3], [1, 1, 1]), by="site",
                     n_boot=0).frame  # fmt: skip
    frame = frame[(frame["metric"] == "auroc") & (frame["level"] != "s2")]
    assert set(own.hide_few(frame)["n"] % 10) == {0}


def test_shares_hide_all_where_it_tells_of_one_site():
    table = own.shares(cut([100, 57], [50, 20], [90, 55]))
    assert table.loc["labs"].tolist() == ["–", "90 %", "–"]
    table = own.shares(cut([3000, 400], [50, 20], [2700, 396]))
    assert table.loc["labs"].tolist() == ["91 %", "90 %", "–"]


def test_presence_shows_neither_side_of_few():
    table = own.presence(cut([100, 60], [50, 20], [80, 40]))
    assert table.loc["labs"].tolist() == [120, 40, 70, 0]
    assert table.loc["age", ["there", "missing"]].tolist() == [160, 0]
    table = own.presence(cut([100, 60], [50, 20], [95, 58]))
    assert set(table.loc["labs"]) == {"< 10 or hidden"}


def test_small_sites_are_pooled_and_a_small_pool_is_hidden():
    site = np.repeat(["a", "b", "c", "d"], [30, 9, 3, 3])
    cohort = own.pooled(Cohort(x={"age": np.ones(45)}, groups={"site": site}))
    assert pd.Series(cohort.groups["site"]).value_counts().to_dict() == {"a": 30, "other": 15}
    table = own.shares(
        Cohort(x={"age": np.ones(36)}, groups={"site": site[[*range(30), *range(39, 45)]]})
    )
    assert list(table) == ["all", "a", "other"]
    assert table.loc["age", "other"] == "–"
    visits = np.repeat(np.arange(3), 10)  # thirty rows are three patients
    few = Cohort(x={"age": np.ones(30)}, groups={"site": np.repeat("x", 30), "patient": visits})
    assert set(own.pooled(few).groups["site"]) == {"other"}


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
    assert added == {
        f"runs/own/09-x/tables-size-300-seed-0-epochs-1+1-{name}.json" for name in ("erm", "dfd")
    }
    assert list(dict.fromkeys(table.index.get_level_values("part"))) == ["all", "a", "b", "c"]
    assert table.loc[("c", "ERM"), "AUROC"] == "–"
    assert "fewer than 10" in table.loc[("c", "DFD"), "patients' rows"]
    assert table.loc[("all", "ERM"), "minus the first"] == "–"
    assert table.loc[("all", "DFD"), "minus the first"].startswith(("+", "-"))
    stored = json.loads(
        (book / "runs/own/09-x/tables-size-300-seed-0-epochs-1+1-dfd.json").read_text()
    )
    counts = [row["n"] for row in stored["rows"]]
    assert None in counts
    assert all(n is None or n % 10 == 0 for n in counts)
    assert str(book) not in json.dumps(stored)


def test_two_runs_agree(book, tables):
    given = {"dataset": "tables.yaml", "root": str(tables), "chapter": "09-x", "epochs": (1, 1)}
    one, two = (own.on_your_own(METHODS, n_boot=20, **given) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)


def test_results_go_beside_the_output_and_none_is_written_over(book, tables, monkeypatch, tmp_path):
    monkeypatch.setenv("DFDLIB_OWN_RESULTS", str(tmp_path / "mine"))
    before = files(book)
    given = {"dataset": "tables.yaml", "root": str(tables), "chapter": "09-x", "n_boot": 0}
    one = {"ERM": METHODS["ERM"]}
    own.on_your_own(one, epochs=(0, 1), **given)
    own.on_your_own(one, epochs=(0, 1), **given)  # the same once more
    own.on_your_own(one, epochs={"ERM": (1, 1)}, seed=1, **given)
    own.on_your_own({"ERM": METHODS["DFD"]}, epochs=(0, 1), **given)  # another of this name
    assert {path.name for path in files(book) - before} == {
        "tables-size-300-seed-0-epochs-0+1-erm.json",
        "tables-size-300-seed-0-epochs-0+1-erm-2.json",
        "tables-size-300-seed-1-epochs-1+1-erm.json",
    }
    assert all(path.parts[0] == "mine" for path in files(book) - before)


def test_a_place_that_takes_no_file_is_said_before_patients_are_read(book, monkeypatch):
    (book / "runs").write_text("a file, where a folder is meant")
    monkeypatch.setattr(own, "own_cohort", lambda *_: pytest.fail("patients were read"))
    with pytest.raises(ValueError, match=r"nothing can be written into .*09-x.*--out FOLDER"):
        own.on_your_own(METHODS, dataset="eicu", root="x", chapter="09-x")


def test_the_page_names_the_data_that_the_user_brought(book, tables):
    """In a notebook: outside of one, `provenance` says what it was told."""
    sources = [
        "from dfdlib.book import own, provenance\nbox = lambda: provenance(seed=0, data='ours')",
        "print(box().rows['Data'])\nown.own_cohort('tables.yaml', 'hospital')\n"
        "print(box().rows['Data'])\nown.own_cohort('made-up eicu'); print(box().rows['Data'])",
    ]
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    said = "".join(one.text for one in notebook.cells[-1].outputs if one.name == "stdout")
    other = "What else the page shows is the book's"
    assert said.splitlines() == [
        "ours", f"your own data: tables.yaml. {other}",
        f"your own data: tables.yaml; made-up eicu. {other}",
    ]  # fmt: skip
    own.own_cohort("tables.yaml", "hospital")
    assert provenance(seed=0, data="ours").rows["Data"] == "ours"
