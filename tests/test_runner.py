"""The runner of the grids: recipes, jobs, records, the code that they reach."""

import importlib
import json
import math
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Records of tiny settings, number by number those of the scripts that the runner came after.
FROZEN = sorted((Path(__file__).parent / "fixtures" / "records").glob("*.json"))


@pytest.fixture(scope="module", autouse=True)
def _workflow():
    sys.path.insert(0, str(ROOT / "workflow"))
    yield
    sys.path.remove(str(ROOT / "workflow"))


@pytest.fixture(scope="module")
def recipes(_workflow):
    return importlib.import_module("recipes")


@pytest.fixture(scope="module")
def run(_workflow):
    return importlib.import_module("run")


@pytest.fixture(scope="module")
def collect(_workflow):
    return importlib.import_module("collect")


# ---------------------------------------------------------------- records


def changed(recipe, changes):
    """A recipe with other settings, in whatever depth."""
    for key, value in changes.items():
        deeper = isinstance(value, dict) and isinstance(recipe.get(key), dict)
        recipe[key] = changed(recipe[key], value) if deeper else value
    return recipe


def numbers(value, where=""):
    """Every number, text and None of a record, by its place."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from numbers(entry, f"{where}/{key}")
    elif isinstance(value, list):
        for k, entry in enumerate(value):
            yield from numbers(entry, f"{where}/{k}")
    else:
        yield where, value


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.stem)
def test_records_are_those_of_the_scripts_before(recipes, run, path):
    frozen = json.loads(path.read_text("utf-8"))
    recipe = changed(recipes.read(frozen["experiment"]), frozen["changes"])
    found, _ = run.values(recipe, frozen["setting"], 0, frozen.get("methods"))
    before, now = (dict(numbers(json.loads(json.dumps(v)))) for v in (frozen["values"], found))
    assert now.keys() == before.keys()
    for place, value in before.items():
        if isinstance(value, float) and not math.isnan(value):
            # exact on the processor that wrote it; others differ in last bits, which training moves
            assert now[place] == pytest.approx(value, rel=1e-3, abs=2e-3), place
        else:
            assert now[place] == value or now[place] != now[place], place


def test_a_record_says_where_it_comes_from(recipes, run, monkeypatch):
    monkeypatch.setattr(run, "values", lambda *_: ({"methods": {}}, 1.5))
    recipe = recipes.read("main-table")
    found = run.record(recipe, {"n": 2000}, 3)
    assert (found["experiment"], found["setting"], found["seed"]) == ("main-table", {"n": 2000}, 3)
    assert found["seconds"]["training"] == 1.5
    assert found["capability"]
    assert found["threads"] >= 1
    assert set(found["versions"]) >= {"torch", "dfdlib"}


def test_a_job_that_was_killed_goes_on(recipes, run, monkeypatch, tmp_path):
    recipe, computed, killed = recipes.read("dfd-gate"), [], True

    def record(recipe, setting, seed, methods):
        if seed == 2 and killed:
            raise KeyboardInterrupt
        computed.append(seed)
        return {"seed": seed}

    monkeypatch.setattr(run, "record", record)
    out = tmp_path / "job.json"
    with pytest.raises(KeyboardInterrupt):
        run.run(recipe, {}, out, seeds=[0, 1, 2], methods=None)
    assert not out.exists()
    killed = False
    run.run(recipe, {}, out, seeds=[0, 1, 2], methods=None)
    assert computed == [0, 1, 2]  # the first two were read
    assert [each["seed"] for each in json.loads(out.read_text())] == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]
    # what was left behind is not read once code has changed
    (tmp_path / "job.json.0.part").write_text(json.dumps({"code": "another", "record": {}}))
    computed.clear()
    run.run(recipe, {}, out, seeds=[0], methods=None)
    assert computed == [0]


# ---------------------------------------------------------------- settings


def test_a_setting_is_read_as_its_recipe_declares_it(recipes):
    recipe = recipes.read("main-table")
    setting = {"preset": "anticausal", "n": 2000, "backbone": "MUSE", "part": "DFD"}
    assert recipes.setting_of(recipe, recipes.words(setting)) == setting
    assert setting in recipes.jobs(recipe)
    assert len(recipes.jobs(recipe)) == 5 * 2 * 2 * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pereset=anticausal"], r"'pereset' is not a setting of main-table .*mean 'preset'"),
        (["preset=anticasual"], r"'anticasual' is not a preset .*mean 'anticausal'"),
        (["preset"], r"'' is not a preset"),
        (["preset=anticausal", "n=2000", "part=DFD"], r"backbone is not said.*GRAPE, MUSE"),
    ],
)
def test_a_setting_that_is_none_is_refused(recipes, words, message):
    with pytest.raises(ValueError, match=message):
        recipes.setting_of(recipes.read("main-table"), words)


def test_an_unknown_experiment_or_method_is_refused(recipes, run):
    with pytest.raises(ValueError, match=r"'dfd-gates' is not a.? experiment.*mean 'dfd-gate'"):
        recipes.read("dfd-gates")
    recipe = recipes.read("main-table") | {"n_test": 100, "batch_size": {100: 50}}
    setting = {"preset": "anticausal", "n": 100, "backbone": "GRAPE", "part": "DFD"}
    with pytest.raises(ValueError, match=r"'DDF' is not a method of .*Did you mean 'DFD'"):
        run.values(recipe, setting, 0, ["DDF"])


def test_jobs_have_names_of_their_own(recipes):
    for name in recipes.names():
        labels = [recipes.label(job) for job in recipes.jobs(recipes.read(name))]
        assert len(set(labels)) == len(labels)
        assert max(map(len, labels)) < 90


def test_incomplete_seeds_are_refused(collect):
    records = [
        {"setting": {"preset": "mar"}, "seed": seed, "values": {"methods": {"ERM": seed}}}
        for seed in (1, 0)
    ]
    assert [r["seed"] for r in collect.complete(records, [0, 1], preset="mar")] == [0, 1]
    with pytest.raises(ValueError, match=r"mar: seeds \[0, 1\] of \[0, 1, 2\] are there. Run all"):
        collect.complete(records, [0, 1, 2], preset="mar")
    other = {"setting": {"preset": "mar"}, "seed": 0, "values": {"methods": {"DFD": 5}}}
    first, _ = collect.complete([*records, other], [0, 1], preset="mar")
    assert first["values"]["methods"] == {"ERM": 0, "DFD": 5}


def commands():
    for path in sorted((ROOT / "results").rglob("*.json")):
        stored = json.loads(path.read_text("utf-8"))
        if isinstance(stored, dict) and "command" in stored:
            yield from stored["command"].split(" && ")


def test_every_stored_command_is_one_that_works(recipes, run):
    read = set(commands())
    assert read
    asked = [shlex.split(line) for line in read if line.startswith("python workflow/run.py ")]
    assert asked
    for _, _, *words in asked:
        given = run.parser().parse_args(words)
        recipe = recipes.read(given.experiment)
        setting = recipes.setting_of(recipe, given.setting)
        assert set(given.methods or ()) <= set(recipes.module(recipe).plan(recipe, setting).methods)
        assert set(given.seeds) <= set(recipes.seeds(recipe, setting))
    for line in read:
        for word in line.split():
            if word.startswith("workflow/"):
                assert (ROOT / word).is_file(), line


# ---------------------------------------------------------------- the code that a recipe reaches


def test_results_are_old_with_the_code_that_they_reach(recipes):
    gate, table = (recipes.reach(recipes.read(name)) for name in ("dfd-gate", "main-table"))
    for files in (gate, table):
        assert {"dfdlib/models/dfd.py", "dfdlib/models/grape.py", "dfdlib/training/loop.py"} <= {
            *files
        }
        assert {"dfdlib/data/synthetic_model.py", "workflow/methods.py"} <= {*files}
        assert not {"dfdlib/plots.py", "dfdlib/data/eicu.py", "workflow/collect.py"} & {*files}
    assert "dfdlib/models/muse.py" in table
    assert "dfdlib/models/muse.py" not in gate
    assert "workflow/experiments/dfd-gate.yaml" in gate
    assert "dfdlib/evaluation/compare.py" not in gate
    assert "dfdlib/evaluation/compare.py" in recipes.reach(recipes.read("dfd-gate"), "collect")


def test_what_is_imported_while_a_job_runs_was_reached(recipes, run):
    """Of the library's modules, what a job executes stands in what its recipe reaches."""
    (path,) = [path for path in FROZEN if path.stem == "main-table"]
    frozen = json.loads(path.read_text("utf-8"))
    recipe = changed(recipes.read(frozen["experiment"]), frozen["changes"])
    seen = set()

    def profile(frame, event, _):
        if event == "call":
            seen.add(frame.f_code.co_filename)

    sys.setprofile(profile)
    try:
        run.values(recipe, frozen["setting"], 0, frozen["methods"][:1])
    finally:
        sys.setprofile(None)
    called = {
        Path(name).relative_to(ROOT).as_posix()
        for name in seen
        if Path(name).is_relative_to(ROOT) and ".venv" not in name
    }
    called -= {"tests/test_runner.py"}
    assert called - set(recipes.reach(recipe)) == set()
