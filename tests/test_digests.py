"""tools/digests.py: equal libraries have equal digests, and a planted change has another."""

import importlib.util
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "digests.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("digests", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- the digest


def test_equal_values_have_equal_digests(tool):
    assert tool.digest(torch.ones(2, 3)) == tool.digest(np.ones((2, 3), np.float32))
    assert tool.digest({"a": 1.0, "b": "x"}) == tool.digest({"b": "x", "a": 1.0})
    strided = torch.arange(6.0).view(2, 3).T
    assert tool.digest(strided) == tool.digest(strided.contiguous())
    assert tool.digest([np.nan, None]) == tool.digest([float("nan"), None])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(4), torch.zeros(2, 2)),
        (torch.zeros(4), torch.zeros(4).double()),
        (torch.tensor([1.0]), torch.tensor([1.0]).nextafter(torch.tensor([2.0]))),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        (["ab", "c"], ["a", "bc"]),
        ([[1], [2]], [[1, 2], []]),
        (1, 1.0),
        (1, True),
        (None, "None"),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
        (pd.DataFrame({"a": [1]}, index=[0]), pd.DataFrame({"a": [1]}, index=[1])),
    ],
)
def test_other_values_have_other_digests(tool, one, other):
    assert tool.digest(one) != tool.digest(other)


def test_what_has_no_canonical_bytes_is_refused(tool):
    with pytest.raises(TypeError, match="object has no digest"):
        tool.digest({"a": object()})


# ---------------------------------------------------------------- models


def test_a_model_has_the_same_digests_again(tool):
    found, failed = tool.compute("DFD, default, GRAPE")
    assert not failed
    assert {name.rpartition(": ")[2] for name in found} >= {"losses", "weights", "scores", "gate"}
    assert tool.compute("DFD, default, GRAPE") == (found, {})


@pytest.mark.parametrize(
    "changed",
    [
        {"training": {"seed": 2}},
        {"training": {"lr": 3.001e-3}},
        {"dropout": 0.1},
        {"flags": False},
        {"head": {"route": "dropout"}},
    ],
)
def test_a_planted_change_has_other_digests(tool, changed):
    here = partial(tool.classifier, tool.shifted)
    plain, other = ({k: tool.digest(v) for k, v in here(**o).items()} for o in ({}, changed))
    assert {k for k in plain if plain[k] != other[k]} >= {"losses", "weights", "scores"}


def test_every_option_that_a_grid_trains_is_there(tool):
    """What each grid declares, key by value, stands in the options that are digested."""
    settings = {
        name: yaml.safe_load((ROOT / "workflow" / path).read_text("utf-8"))
        for name, path in {
            "evidence": "experiments/dfd-evidence.yaml",
            "gate": "experiments/dfd-gate.yaml",
            "main_table": "experiments/main-table.yaml",
            "search": "experiments/label-free-search.yaml",
            "mmvm": "mmvm.yaml",
            "deconfounding": "experiments/deconfounding.yaml",
            "eicu_demo": "eicu_demo.yaml",
        }.items()
    }
    table = {
        name: given
        for part in settings["main_table"]["parts"].values()
        for name, given in part.items()
    }
    trained = [
        *settings["evidence"]["methods"].values(),
        *table.values(),
        *settings["eicu_demo"]["methods"].values(),
    ]
    asked = [given.get("options", {}) for given in trained if given.get("class") == "DFD"]
    asked += [
        {k: v for k, v in given.items() if k != "set"}
        for given in settings["gate"]["gates"].values()
    ]
    asked.append(settings["gate"]["options"])
    own = ("bias_only", "first", "clean_start")  # of the search, not of DFD
    for key, values in settings["search"]["space"].items():
        asked += [{key: value} for value in values if key not in own]
    defaults = {"gate_layers": "first", "mi_weight": 0.1, "gce_q": 0.7, "mi_noise": 1, "mi": "club"}
    there = [defaults, *tool.DFD_OPTIONS.values()]
    for options in asked:
        for key, value in options.items():
            assert any(key in each and each[key] == value for each in there), (key, value)
    routes = [each["route"] for each in tool.ROUTES.values()]
    for given in settings["deconfounding"]["methods"].values():
        assert given.get("route", routes[0]) in routes
    for given in table.values():
        if given["class"] not in ("DFD", "Classifier"):
            weight = given.get("options", {}).get("penalty_weight")
            assert any(
                name.startswith(given["class"]) and each.get("penalty_weight") == weight
                for name, each in tool.BASELINES.items()
            ), given
    for given in settings["mmvm"]["methods"].values():
        options = {
            k: given[k] for k in ("prior", "regulariser", "annealing", "alpha") if k in given
        }
        assert any(options.items() <= each.items() for each in tool.VAES.values()), given


# ---------------------------------------------------------------- two sides


def test_what_differs_lacks_or_failed_is_told(tool):
    first = {"a: x": "1", "a: y": "2", "b: x": "3", "c: x": "4"}, {}
    second = {"a: x": "1", "a: y": "9", "b: x": "3"}, {"c": "ImportError: gone"}
    assert tool.differences(first, first, []) == []
    assert tool.differences(first, second, []) == [
        "not computed in the second: c (ImportError: gone)",
        "differs: a: y",
    ]
    assert tool.differences(first, ({"a: x": "1"}, {}), []) == [
        "only in the first: a: y",
        "only in the first: b: x",
        "only in the first: c: x",
    ]
    assert tool.differences(first, second, ["c*", "a: y"]) == []
    # what fails on both sides is no proof of anything
    failed = {}, {"c": "ValueError: no"}
    assert len(tool.differences(failed, failed, [])) == 2


def test_two_commits_are_compared(tmp_path):
    """The library as it is, committed in a repository of its own; then with another loss."""
    there = tmp_path / "there"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "dfdlib", there / "dfdlib", ignore=skip)
    shutil.copytree(ROOT / "tools", there / "tools", ignore=skip)
    git = ["git", "-C", str(there), "-c", "user.name=a", "-c", "user.email=a@example.org"]

    def commit():
        for words in (["add", "--all"], ["commit", "--quiet", "--message", "a"]):
            subprocess.run([*git, *words], check=True)

    subprocess.run([*git, "init", "--quiet"], check=True)
    commit()
    losses = next(path for path in (there / "dfdlib").rglob("losses.py"))
    losses.write_text(losses.read_text("utf-8") + PLANTED, "utf-8")
    commit()
    command = [sys.executable, there / "tools" / "digests.py", "compare", "HEAD~1", "HEAD"]
    other = subprocess.run(
        [*command, "--only", "losses"], capture_output=True, text=True, check=False
    )
    assert other.returncode == 1, other.stderr
    # swap, difficulty and the other loss are equal
    assert other.stdout.splitlines() == [
        *(f"differs: losses: gce, q {q}" for q in ("0", "0.3", "0.7", "1")),
        "9 and 9 digests, 4 differences",
    ]


PLANTED = """

_gce = gce


def gce(*given, **options):
    return _gce(*given, **options) * (1 + 1e-6)
"""
