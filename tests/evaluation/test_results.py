"""Results files: what is written, what is refused, and that nothing is ever half there."""

import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from dfdlib.evaluation import read_results, write_result
from dfdlib.evaluation import results as results_module

FIELDS = {
    "claim": "dfd-gain",
    "reach": "open",
    "dataset": "heart",
    "method": "DFD",
    "parameters": {"d": 8, "by": ["site"]},
    "estimand": "P(Y | X)",
    "margin": 0.01,
    "seeds": [0, 1],
    "metric": "auroc",
    "runs": [{"seed": 0, "value": 0.1}, {"seed": 1, "value": 0.3}],
    "effect": 0.2,
    "low": 0.1,
    "high": 0.1 + 0.2,
    "verdict": "held",
    "selection": "last epoch",
    "command": "make results",
}
DESIGN_FIELDS = {*FIELDS, "schema", "versions", "device", "commit"}


@pytest.fixture
def claims(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text("- id: dfd-gain\n  claim: text\n- id: dfd-gate\n  claim: text\n")
    return path


@pytest.fixture
def write(tmp_path, claims):
    def write(**changes):
        return write_result(tmp_path / "results/a.json", claims=claims, **FIELDS | changes)

    return write


def test_fields_are_those_of_the_design(write):
    stored = json.loads(write().read_text())
    assert set(stored) == DESIGN_FIELDS
    assert stored["schema"] == 1
    assert set(stored["versions"]) == {"python", "torch", "numpy", "scikit-learn", "dfdlib"}
    assert stored["versions"]["torch"] == torch.__version__
    assert {name: stored[name] for name in FIELDS} == FIELDS


def test_equal_results_are_equal_files(write):
    text = write().read_text()
    assert write(**dict(reversed(FIELDS.items()))).read_text() == text
    assert '"high": 0.30000000000000004' in text  # floats in full
    assert list(json.loads(text)) == sorted(DESIGN_FIELDS)
    assert text.endswith("}\n")


def test_nan_becomes_null_at_any_depth(write):
    runs = [{"seed": 0, "value": math.nan}, {"seed": 1, "value": np.float64("nan")}]
    path = write(low=math.nan, runs=runs, parameters={"a": {"b": [math.nan]}})
    assert "NaN" not in path.read_text()
    stored = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert stored["low"] is None
    assert stored["runs"][0]["value"] is None
    assert stored["parameters"] == {"a": {"b": [None]}}
    assert np.isnan(read_results(path.parent)["low"][0])


def test_numpy_and_torch_numbers_are_written_as_numbers(write):
    seeds = np.array([0, 1])
    runs = [{"seed": seed, "value": np.float32(0.5)} for seed in seeds]
    path = write(seeds=seeds, runs=runs, effect=np.float64(0.25), parameters={"w": torch.ones(2)})
    stored = json.loads(path.read_text())
    assert stored["seeds"] == [0, 1]
    assert stored["effect"] == 0.25
    assert stored["parameters"] == {"w": [1.0, 1.0]}


@pytest.mark.parametrize("moment", ["write_bytes", "replace"])
def test_a_crash_leaves_the_old_file_and_nothing_else(write, monkeypatch, moment):
    path = write()
    before = path.read_bytes()

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, moment, crash)
    with pytest.raises(KeyboardInterrupt):
        write(effect=0.15)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.json"]
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        write()
    assert os.listdir(path.parent) == []


def test_an_unfinished_file_of_a_killed_process_is_no_result(write):
    path = write()
    path.with_name(".b.json.123.tmp").write_text('{"claim": ')
    assert len(read_results(path.parent)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claim": "dfd-gian"}, "'dfd-gian' is not a claim of claims.yaml .*mean 'dfd-gain'"),
        ({"reach": "opne"}, "'opne' is not a reach .truth, open, credentialed.* mean 'open'"),
        ({"verdict": "held up"}, "'held up' is not a verdict .*mean 'held'"),
        ({"efect": 0.1}, "'efect' is not a field of a result .*mean 'effect'"),
        ({"schema": 2}, "'schema' is not a field of a result"),
        ({"dataset": ""}, "dataset is ''. Pass a text"),
        ({"selection": None}, "selection is None. Pass a text"),
        ({"parameters": [1]}, r"parameters is \[1\]. Pass a dict"),
        ({"effect": None}, "effect is None. Pass a finite number, or NaN"),
        ({"high": math.inf}, "high is inf. Pass a finite number"),
        ({"margin": -0.1}, "margin is -0.1. Pass a number from 0 up"),
        ({"margin": math.nan}, "margin is nan. Pass a number from 0 up"),
        ({"low": 0.9}, "low 0.9 lies above high"),
        ({"runs": [0.1, 0.3]}, "runs holds 0.1. Pass a list of {'seed': 0, 'value': 0.5}"),
        ({"runs": [{"seed": 0, "value": "x"}]}, "seed 0 has 'x'. Pass a number"),
        ({"seeds": [0]}, r"seeds are \[0\], runs have \[0, 1\]. Pass one run per seed"),
        ({"seeds": [], "runs": []}, "Pass one run per seed"),
        ({"parameters": {"a": {1, 2}}}, "a result holds {1, 2}. Pass text, numbers"),
        ({"parameters": {"a": math.inf}}, "holds an infinite number"),
    ],
)
def test_refused(write, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write(**changes)
    assert not (tmp_path / "results").exists()


def test_missing_fields_are_listed(tmp_path, claims):
    fields = {k: v for k, v in FIELDS.items() if k not in ("seeds", "verdict")}
    with pytest.raises(ValueError, match=r"missing fields: seeds, verdict. Pass seeds="):
        write_result(tmp_path / "a.json", claims=claims, **fields)


def test_claims_are_found_above_the_working_folder(tmp_path, claims, monkeypatch):
    (tmp_path / "chapters").mkdir()
    monkeypatch.chdir(tmp_path / "chapters")
    with pytest.raises(ValueError, match="'dfd-mi' is not a claim"):
        write_result("a.json", **FIELDS | {"claim": "dfd-mi"})
    assert write_result("a.json", **FIELDS).exists()


def test_claim_ids_pass_where_there_is_no_list(tmp_path, monkeypatch):
    monkeypatch.setattr(results_module, "_find_claims", lambda: None)
    assert write_result(tmp_path / "a.json", **FIELDS | {"claim": "mine"}).exists()


def test_the_projects_claims_are_readable(tmp_path):
    root = Path(results_module.__file__).parents[2]
    if not (root / "claims.yaml").exists():
        pytest.skip("installed without claims.yaml")
    for claim in ("dfd-gain", "missingness-bias", "mmvm-best-vae"):
        path = write_result(
            tmp_path / "a.json", claims=root / "claims.yaml", **FIELDS | {"claim": claim}
        )
        assert json.loads(path.read_text())["claim"] == claim


def test_commit_is_the_librarys_or_unknown(tmp_path, monkeypatch):
    git = subprocess.run(["git", "init", "-q", tmp_path], check=False)
    if git.returncode:
        pytest.skip("no git")
    monkeypatch.setattr(results_module, "_ROOT", tmp_path)
    assert results_module.commit() == "unknown"  # no commit yet
    name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    commit = ["git", *name, "commit", "-q", "--allow-empty", "-m", "x"]
    subprocess.run(commit, cwd=tmp_path, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert len(results_module.commit()) >= 7
    assert head.startswith(results_module.commit())
    # a package inside another project's environment is not that project
    monkeypatch.setattr(results_module, "_ROOT", tmp_path / "site-packages")
    assert results_module.commit() == "unknown"


def test_read_results_one_row_per_file(write, tmp_path):
    write(device="a GPU")
    folder = tmp_path / "results"
    (folder / "b").mkdir()
    (folder / "a.json").rename(folder / "b/z.json")
    write(effect=0.2)
    (folder / "benchmark.json").write_text('{"ratio": 2.3}')
    frame = read_results(folder)
    assert frame["file"].tolist() == ["a.json", "b/z.json"]
    assert frame["device"][1] == "a GPU"
    assert frame["parameters"][0] == FIELDS["parameters"]
    assert frame["effect"].dtype == float
    assert set(frame.columns) == DESIGN_FIELDS | {"file"}


def test_read_results_of_an_empty_folder_has_the_columns(tmp_path):
    frame = read_results(tmp_path)
    assert len(frame) == 0
    assert "verdict" in frame


def test_read_results_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*Run `make results`"):
        read_results(tmp_path / "none")
    (tmp_path / "a.json").write_text('{"claim": "x", "schema": 2}')
    with pytest.raises(ValueError, match=r"a.json has schema 2, this version reads 1"):
        read_results(tmp_path)
    (tmp_path / "a.json").write_text('{"claim": ')
    with pytest.raises(ValueError, match=r"a.json is no JSON .*Delete it and write it again"):
        read_results(tmp_path)
