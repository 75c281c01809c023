"""From a folder of CSV files to a model to one new patient's score, by the commands of the README.

The hospital is made up: two sites, one person under the same number in each, clocks of Sao Paulo,
decimal commas, two units of creatinine, results below a detection limit, rows after the cut, and a
monitor that writes UTC.
"""

import re
import shlex
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from dfdlib import cli
from dfdlib.data import Cohort, from_tables
from dfdlib.data.tables import flow
from dfdlib.evaluation import predict_proba
from dfdlib.models import GRAPE, Classifier, MultimodalVAE
from dfdlib.training import Stage, fit, load_model, score_tables

README = Path(__file__).parents[1] / "README.md"

TABLES = """\
patients: {file: stays.csv, id: [hospital, stay], patient: [hospital, person], site: hospital}
files: {decimal: ",", encoding: cp1252, monitor.csv: {decimal: ".", encoding: utf-8}}
time:
  {start: {column: admitted, format: "%d.%m.%Y %H:%M"}, unit: hours, cut: 24, lookback: 48,
   zone: America/Sao_Paulo}
label: {columns: [outcome], classes: [lived, died]}
missing: {values: ["-999"], text: missing}
modalities:
  background: {kind: vector, columns: [age]}
  labs:
    {kind: vector, file: labs.csv, time: {column: drawn, format: "%d.%m.%Y %H:%M"}, item: test,
     value: result, unit: unit, columns: [creatinine, crp], limits: flag,
     units: {creatinine: {µmol/L: 1, mg/dL: 88.4}, crp: mg/L}, bounds: {creatinine: [0, 3000]}}
  ward: {kind: categorical, columns: {ward: [medical, surgical]}}
  diagnoses: {kind: codes, file: diagnoses.csv, columns: [icd], known_at_start: true}
  vitals: {kind: series, file: monitor.csv, time: at, item: sign, value: reading, columns: [pulse]}
"""


def comma(number):
    return f"{number:.3f}".replace(".", ",")


def write_hospital(folder, *, n, seed):
    """Files as a hospital exports them; every fourth result of creatinine is in mg/dL."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = {name: [] for name in ("stays", "labs", "diagnoses", "monitor")}
    for i in range(n):
        whose = [("north", "south")[i % 2], f"{i // 2:04d}"]
        ill = rng.normal()
        start = pd.Timestamp("2031-01-05 08:00") + pd.Timedelta(hours=int(rng.integers(0, 8000)))
        drawn = start + pd.Timedelta(hours=int(rng.integers(0, 20)))
        late = (start + pd.Timedelta(hours=30)).strftime("%d.%m.%Y %H:%M")
        local = drawn.strftime("%d.%m.%Y %H:%M")
        creatinine = 100 + 15 * ill
        result = [comma(creatinine), "µmol/L"] if i % 4 else [comma(creatinine / 88.4), "mg/dL"]
        rows["stays"].append(
            [*whose, f"P{i // 3}", start.strftime("%d.%m.%Y %H:%M"), comma(60 + 5 * ill),
             ("medical", "surgical")[int(rng.integers(2))],
             "died" if rng.random() < 1 / (1 + np.exp(-2 * ill)) else "lived"]
        )  # fmt: skip
        rows["labs"] += [
            [*whose, local, "creatinine", *result],
            [*whose, late, "creatinine", "2999,9", "µmol/L"],
            [*whose, local, "crp", "<0,5" if ill < 0 else comma(5 + ill), "mg/L"],
        ]
        rows["diagnoses"].append([*whose, ("I21.4", "E11", "N17")[i % 3]])
        utc = drawn.tz_localize("America/Sao_Paulo").tz_convert("UTC")
        rows["monitor"].append([*whose, f"{utc:%Y-%m-%dT%H:%M:%SZ}", "pulse", 80 + round(ill, 1)])
    columns = {
        "stays": "hospital stay person admitted age ward outcome",
        "labs": "hospital stay drawn test result unit",
        "diagnoses": "hospital stay icd",
        "monitor": "hospital stay at sign reading",
    }
    for name, names in columns.items():
        how = {} if name == "monitor" else {"sep": ";", "encoding": "cp1252"}
        frame = pd.DataFrame(rows[name], columns=names.split())
        frame.to_csv(folder / f"{name}.csv", index=False, **how)
    (folder / "tables.yaml").write_text(TABLES, encoding="utf-8")


def commands():
    """The words of the README's commands that train and score."""
    lines = re.findall(r"^\$ dfdlib ((?:train|score) .*)$", README.read_text("utf-8"), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def dfdlib(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A folder in which the README's commands ran: its model and its scores of 5 new stays."""
    place = tmp_path_factory.mktemp("hospital")
    write_hospital(place, n=300, seed=0)
    write_hospital(place / "new", n=5, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        train, score = commands()
        assert train[0] == "train"
        assert score[0] == "score"
        done = dfdlib(*train, "--epochs", 6)
        assert done.exit_code == 0, done.output
        (place / "said.txt").write_text(done.stdout, encoding="utf-8")
        done = dfdlib(*score)
        assert done.exit_code == 0, done.output
        assert done.stdout == "5 rows: scores.csv\n"
    time.tzset()
    return place


@pytest.fixture
def new(hospital, tmp_path):
    """A copy of the new patients' files, free to be changed."""
    for file in (hospital / "new").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def model_of(hospital):
    return load_model(hospital / commands()[0][-1])


def scored(hospital, folder):
    """The scores of a folder, as the command writes them."""
    out = folder / "out.csv"
    done = dfdlib("score", hospital / commands()[0][-1], "--config", folder / "tables.yaml",
                  "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    return pd.read_csv(out, dtype=str, keep_default_na=False)


def change(folder, **keys):
    """Change entries of the YAML file, given as path__to__key; None deletes."""
    config = yaml.safe_load((folder / "tables.yaml").read_text(encoding="utf-8"))
    for path, value in keys.items():
        *parents, last = path.split("__")
        node = config
        for key in parents:
            node = node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    (folder / "tables.yaml").write_text(text, encoding="utf-8")


def edit(folder, name, old, new):
    text = (folder / name).read_text(encoding="cp1252")
    assert old in text
    (folder / name).write_text(text.replace(old, new), encoding="cp1252")


# ---------------------------------------------------------------- the walk


def test_the_scores_are_those_of_predict_proba(hospital):
    scores = pd.read_csv(hospital / "scores.csv", dtype={"stay": str}, keep_default_na=False)
    columns = ["patient", "hospital", "person", "stay", "p_lived", "p_died", "missing", "warnings"]
    assert list(scores) == columns
    cohort = from_tables(hospital / "new" / "tables.yaml", purpose="score")
    p = predict_proba(model_of(hospital), cohort)
    np.testing.assert_array_equal(scores[["p_lived", "p_died"]], p)
    assert scores["stay"].tolist() == ["0000", "0000", "0001", "0001", "0002"]
    assert scores["patient"].tolist() == [
        "north/P0",
        "south/P0",
        "north/P0",
        "south/P1",
        "north/P1",
    ]
    assert set(scores["missing"]) == {""}
    assert set(scores["warnings"]) <= {"", "labs.crp: a limit"}
    assert "labs.crp: a limit" in set(scores["warnings"])


def test_what_enters_is_what_was_made_up(hospital):
    """By hand, from the draw of seed 1: one unit, nothing from after the cut, one clock."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cohort = from_tables(hospital / "new" / "tables.yaml", purpose="score")
    rng = np.random.default_rng(1)
    for i in range(5):
        ill, _, hours, _, _ = (
            rng.normal(), rng.integers(0, 8000), int(rng.integers(0, 20)), rng.integers(2),
            rng.random(),
        )  # fmt: skip
        expected = [100 + 15 * ill, 0.5 if ill < 0 else 5 + ill, 0, -1 if ill < 0 else 0]
        np.testing.assert_allclose(cohort.x["labs"][i], expected, atol=0.06)
        assert cohort.x["background"][i].item() == pytest.approx(60 + 5 * ill, abs=1e-3)
        at, pulse, flag = cohort.x["vitals"][torch.tensor([i])].values[0].tolist()
        assert (at, flag) == (hours, 0)
        assert pulse == pytest.approx(80 + ill, abs=0.06)


def test_train_tells_flow_and_result_without_small_counts(hospital):
    said = (hospital / "said.txt").read_text(encoding="utf-8")
    assert re.search(r"late +0 +300 +0 +0 +0\n", said)
    assert re.search(r"rows +300 +900 +300 +300 +300\n", said)
    assert "rows to train, to choose, to test: at least" in said
    assert re.search(r"\n +all +0\.\d+", said)
    assert "weights: lowest validation loss, patience 20, epoch" in said


def test_the_zone_of_the_machine_changes_nothing(hospital, new, monkeypatch):
    before = scored(hospital, new)
    (new / "out.csv").unlink()
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    try:
        pd.testing.assert_frame_equal(scored(hospital, new), before)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_score_does_not_depend_on_the_other_patients(hospital, new):
    everybody = scored(hospital, new)
    lines = (new / "stays.csv").read_text(encoding="cp1252").splitlines(keepends=True)
    (new / "stays.csv").write_text(lines[0] + lines[4], encoding="cp1252")
    (new / "out.csv").unlink()
    alone, among_all = scored(hospital, new).loc[0], everybody.loc[3]
    p = ["p_lived", "p_died"]
    assert alone.drop(p).tolist() == among_all.drop(p).tolist()
    np.testing.assert_allclose(alone[p].astype(float), among_all[p].astype(float), atol=1e-6)


def test_the_other_unit_says_the_same(hospital, new):
    before = scored(hospital, new)
    (new / "out.csv").unlink()
    text = (new / "labs.csv").read_text(encoding="cp1252").splitlines()
    for k, line in enumerate(text):
        cells = line.split(";")
        if cells[-1] == "µmol/L":
            value = float(cells[4].replace(",", ".")) / 88.4
            text[k] = ";".join([*cells[:4], f"{value:.9f}".replace(".", ","), "mg/dL"])
    (new / "labs.csv").write_text("\n".join(text) + "\n", encoding="cp1252")
    after = scored(hospital, new)
    np.testing.assert_allclose(
        after["p_died"].astype(float), before["p_died"].astype(float), atol=1e-6
    )


def test_no_label_and_no_file_is_needed_but_what_is_missing_is_said(hospital, new):
    for name in ("labs.csv", "diagnoses.csv"):
        (new / name).unlink()
    text = (new / "stays.csv").read_text(encoding="cp1252").splitlines()
    bare = [";".join(line.split(";")[:-1]) for line in text]  # without the outcome
    (new / "stays.csv").write_text("\n".join(bare) + "\n", encoding="cp1252")
    change(new, modalities__vitals=None, label=None, **{"files__monitor.csv": None})
    scores = scored(hospital, new)
    assert set(scores["missing"]) == {"labs; diagnoses; vitals"}
    assert len(scores) == 5


def test_each_patient_is_told_what_was_odd(hospital, new):
    (new / "labs.csv").write_text(
        "hospital;stay;drawn;test;result;unit\n"
        "north;0000;05.01.1990 08:00;crp;1;mg/L\n", encoding="cp1252"
    )  # fmt: skip
    (new / "monitor.csv").write_text("hospital,stay,at,sign,reading\n", encoding="utf-8")
    edit(new, "diagnoses.csv", "I21.4", "Z99.9")
    lines = (new / "stays.csv").read_text(encoding="cp1252").splitlines()
    cells = [line.split(";") for line in lines]
    cells[2][4], cells[3][4] = "4000,5", "old"
    cells[3][5] = "psychiatric"
    (new / "stays.csv").write_text("\n".join(map(";".join, cells)) + "\n", encoding="cp1252")
    scores = scored(hospital, new)
    assert scores["warnings"].tolist() == [
        "diagnoses: codes that hardly anybody had in training",
        "background.age: over 10 standard deviations from training",
        "background.age: no number; ward.ward: no level",
        "diagnoses: codes that hardly anybody had in training",
        "",
    ]
    assert scores["missing"].tolist() == [
        "labs; vitals", "labs; vitals", "background; labs; ward; vitals", "labs; vitals",
        "labs; vitals",
    ]  # fmt: skip


# ---------------------------------------------------------------- what is refused


def refused(hospital, folder, *more, out=None):
    words = ["score", hospital / commands()[0][-1], "--config", folder / "tables.yaml"]
    done = dfdlib(*words, "--out", out or folder / "out.csv", *more)
    assert done.exit_code == 1, done.output
    assert "Traceback" not in done.output
    assert not (folder / "out.csv").exists()
    return done.stderr


OTHER = {
    "a column less": (
        {"modalities__labs__columns": ["crp"], "modalities__labs__units": {"crp": "mg/L"},
         "modalities__labs__bounds": None},
        r"\['labs'\]: columns is \[crp, crp_limit\], and the model was trained with \[creatinine,",
    ),
    "another unit": (
        {"modalities__labs__units__creatinine": {"mg/dL": 1, "µmol/L": 0.0113}},
        r"\['labs'\]: units is \[mg/dL, mg/L\], and the model was trained with \[µmol/L, mg/L\]",
    ),
    "no unit": (
        {"modalities__labs__units": None, "modalities__labs__unit": None},
        r"\['labs'\]: units is none, and the model was trained with \[µmol/L, mg/L\]",
    ),
    "levels in another order": (
        {"modalities__ward__columns__ward": ["surgical", "medical"]},
        r"\['ward'\]: levels is \[\[surgical, medical\]\], and the model was trained with \[\[med",
    ),
    "another value of several": (
        {"modalities__labs__take": "first"},
        r"\['labs'\]: take is first, and the model was trained with last. Write take as it was",
    ),
    "no limits": (
        {"modalities__labs__limits": "value"},
        r"\['labs'\]: columns is \[creatinine, crp\], and the model was trained with \[creatinine,",
    ),
    "another range": (
        {"modalities__labs__bounds__creatinine": [0, None]},
        r"\['labs'\]: bounds is \[\[0.0, null\], null\], and the model was trained with \[\[0.0, 3",
    ),
    "another cut": (
        {"time__cut": 12}, r"config\['time'\]: cut is 12.0, and the model was trained with 24.0"
    ),
    "another unit of time": (
        {"time__unit": "days"}, r"config\['time'\]: unit is days, and the model was trained with h"
    ),
    "another window": (
        {"time__lookback": None},
        r"\['labs'\]: lookback is none, and the model was trained with 48.0. Write lookback as it",
    ),
    "classes in another order": (
        {"label__classes": ["died", "lived"]},
        r"\['label'\]\['classes'\] is \[died, lived\], and the model was trained with \[lived, ",
    ),
    "a modality that the model does not know": (
        {"modalities__scores": {"kind": "vector", "columns": ["age"]}},
        r"'scores' is not a modality of this model \(background, labs, ward, diagnoses, vitals\)",
    ),
    "another kind": (
        {"modalities__ward": {"kind": "codes", "columns": ["ward"]}},
        r"\['ward'\]: kind is codes, and the model was trained with categorical",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("keys", "match"), OTHER.values(), ids=OTHER)
def test_tables_that_mean_something_else_are_refused(hospital, new, keys, match):
    change(new, **keys)
    assert re.search(match, refused(hospital, new))


def test_what_stands_there_is_not_replaced(hospital, new):
    there = new / "kept.csv"
    there.write_text("mine")
    assert "kept.csv is there already. Name another file" in refused(hospital, new, out=there)
    assert there.read_text() == "mine"
    inside = hospital / commands()[0][-1] / "scores.csv"
    assert "is in the folder of the model" in refused(hospital, new, out=inside)
    below = there / "scores.csv"
    assert "kept.csv is a file. Name a folder before scores.csv" in refused(
        hospital, new, out=below
    )
    assert "is no name of a CSV file" in refused(hospital, new, out=new / "scores.xlsx")
    assert sorted(p.name for p in new.iterdir() if p.suffix == ".part") == []


def test_nobody_to_score_is_refused(hospital, new):
    header = (new / "stays.csv").read_text(encoding="cp1252").splitlines()[0]
    (new / "stays.csv").write_text(header + "\n", encoding="cp1252")
    assert "stays.csv has no row below its column names" in refused(hospital, new)


def test_a_config_that_is_not_there_is_refused(hospital, tmp_path):
    assert "tables.yaml is not there. Write one from the template" in refused(hospital, tmp_path)


def test_a_folder_without_a_model_is_refused(new):
    out = new.with_name(f"{new.name}.csv")
    done = dfdlib("score", new, "--config", new / "tables.yaml", "--out", out)
    assert done.exit_code == 1
    assert "holds no model.json" in done.stderr


def test_train_refuses_what_is_there_and_tables_without_a_label(hospital, new):
    done = dfdlib("train", "--config", new / "tables.yaml", "--out", hospital / "new")
    assert done.exit_code == 1
    assert "is there already. Name another folder after --out" in done.stderr
    done = dfdlib("train", "--config", new / "tables.yaml", "--out", new / "model")
    assert done.exit_code == 1
    assert (
        "Error: < 10 patients are too few to train, to choose and to test: bring 50" in done.stderr
    )
    change(new, label=None)
    done = dfdlib("train", "--config", new / "tables.yaml", "--out", new / "model")
    assert done.exit_code == 1
    assert "config['label'] is missing, and nothing is learned without" in done.stderr


# ---------------------------------------------------------------- in Python


class Mine(Classifier):
    """A class that only a trusted package may bring."""


def array_model(kind=Classifier, **options):
    rng = np.random.default_rng(0)
    cohort = Cohort(x={"background": pd.DataFrame({"age": rng.normal(60, 5, 60)})}, y=[0, 1] * 30)
    model = kind(schema=cohort.schema, **options)
    return fit(model, cohort, stages=[Stage(epochs=1)], seed=0)


def test_a_model_that_needs_trust_says_how(new):
    change(new, modalities={"background": {"kind": "vector", "columns": ["age"]}}, label=None)
    change(new, **{"files__monitor.csv": None})
    array_model(Mine, backbone=GRAPE(d=4)).save(new / "mine")
    words = ["score", new / "mine", "--config", new / "tables.yaml", "--out", new / "out.csv"]
    done = dfdlib(*words)
    assert done.exit_code == 1
    assert "On the command line that is --trust PACKAGE" in done.stderr
    done = dfdlib(*words, "--trust", Mine.__module__)
    assert done.exit_code == 0, done.output
    assert "Note: the model was not trained on tables" in done.stderr
    assert list(pd.read_csv(new / "out.csv"))[-4:] == ["p_0", "p_1", "missing", "warnings"]


def test_what_predicts_no_classes_is_refused(new):
    with pytest.raises(TypeError, match=r"score_tables takes a model that predicts classes, got a"):
        score_tables("folder", new / "tables.yaml")
    vae = array_model(MultimodalVAE, d_latent=2).model
    with pytest.raises(TypeError, match="predicts classes, got a MultimodalVAE"):
        score_tables(vae, new / "tables.yaml")


def test_a_saved_model_keeps_words_of_ten_and_more_only(hospital, tmp_path):
    """Codes of nine patients are told by nobody; a damaged description is refused."""
    write_hospital(tmp_path, n=60, seed=2)
    lines = (tmp_path / "diagnoses.csv").read_text(encoding="cp1252").splitlines()
    rare = [line.replace("E11", "RARE9") if k < 15 else line for k, line in enumerate(lines)]
    (tmp_path / "diagnoses.csv").write_text("\n".join(rare) + "\n", encoding="cp1252")
    cohort = from_tables(tmp_path / "tables.yaml")
    run = fit(Classifier(backbone=GRAPE(d=4), schema=cohort.schema), cohort,
              stages=[Stage(epochs=1)], seed=0)  # fmt: skip
    assert run.model.tables["words"] == {"diagnoses": ["E11", "I21.4", "N17", "RARE9"]}
    with pytest.warns(UserWarning, match="are not saved"):
        run.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.tables["words"] == {"diagnoses": ["E11", "I21.4", "N17"]}
    assert "RARE9" not in (tmp_path / "model" / "model.json").read_text(encoding="utf-8")
    assert again.tables["classes"] == ["lived", "died"]


def test_the_flow_hides_small_counts(new):
    counts = flow(new / "tables.yaml")
    assert counts.loc["labs", "rows"] == 10  # 15, rounded
    assert pd.isna(counts.loc["labs", "late"])
    assert counts.loc["labs", "unmatched"] == 0
