"""An attacker's folder: hostile models, notebooks, YAML, tables, names. Nothing runs or leaks.

Each attack would make a file `proof` in the working folder if anything of it ran, or would bring
the word of a secret file, outside the folder that was named, into a message or an output.
"""

import ast
import contextlib
import json
import os
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

from dfdlib import data
from dfdlib.book.parameters import check_parameters, parameters_of
from dfdlib.cli import app
from dfdlib.data import Cohort, tables
from dfdlib.evaluation import evaluate
from dfdlib.models import GRAPE, Classifier
from dfdlib.training import Stage, fit, load_model

SECRET = "the-word-of-the-secret"
TOUCH = "__import__('os').system('touch proof')"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A working folder with a secret beside it; nothing may run in it."""
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "secret.csv").write_text(f"id,v\n{SECRET},1\n")
    monkeypatch.chdir(here)
    yield here
    assert not (here / "proof").exists(), "the attack ran"


def refused(action):
    """What an attack is told, whatever is raised; it must be raised by ours."""
    with pytest.raises((ValueError, TypeError, ImportError, OSError, RecursionError)) as told:
        action()
    assert SECRET not in str(told.value)
    assert not isinstance(told.value, RecursionError)
    return str(told.value)


# ---------------------------------------------------------------- models


def saved(folder):
    rng = np.random.default_rng(0)
    cohort = Cohort(x={"labs": rng.normal(size=(40, 2))}, y=[0, 1] * 20)
    model = Classifier(backbone=GRAPE(d=4), schema=cohort.schema)
    fit(model, cohort, stages=[Stage(epochs=1)], seed=0).save(folder)
    return folder


def hostile(place, description):
    """A folder of the first format, which has no checksum to keep an attacker busy."""
    folder = place / "model"
    folder.mkdir(exist_ok=True)
    save_file({"w": torch.zeros(1)}, folder / "model.safetensors")
    card = {"format": 1, "selection": "", "model": description}
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def named(name, **arguments):
    return {"class": name, "arguments": arguments}


@pytest.mark.parametrize(
    "description",
    [
        named("os:system", command="touch proof"),
        named("builtins:eval", source=TOUCH),
        named("subprocess:Popen", args=["touch", "proof"]),
        named("torch_geometric.nn:Sequential", input_args=f"x: {TOUCH}", modules=[]),
        named("torch_geometric.nn.models:GCN", in_channels=1),
        named("torch.nn:Module.__init__"),
        named("torch.nn:modules"),
        named("torch.hub:load", repo_or_dir="x/y", model="z"),
        named("torch.jit:load", f="../secret.csv"),
        named("dfdlib.training.describe:importlib"),
        named("dfdlib.training.describe:rebuild", description=named("os:system", command="x")),
        named("dfdlib.models:../../evil"),
        named("dfdlib.models..evil:Net"),
        named("dfdlib.modelsevil:Net"),
        named("evil:Net"),
        named("evil"),
        named(""),
        named(["os", "system"]),
        {"class": "dfdlib.models:Linear"},
        {"arguments": {}},
        named("dfdlib.models:GRAPE", d=named("evil:Net")),
        named("dfdlib.models:GRAPE", d={"items": {"a": named("evil:Net")}}),
        [named("evil:Net")],
        7,
        None,
    ],
)
def test_a_model_folder_runs_nothing(place, monkeypatch, description):
    (place / "evil.py").write_text("open('proof', 'w')\nfrom torch.nn import Module as Net\n")
    monkeypatch.syspath_prepend(str(place))
    folder = hostile(place, description)
    refused(lambda: load_model(folder))
    refused(lambda: load_model(folder, trust=["evi", "evil2", "dfdlib.evil"]))


@pytest.mark.parametrize(
    "card",
    [
        "[" * 100_000,
        '{"format": 1, "model": ' * 5_000,
        '{"format": 1, "model": {"class": "dfdlib.models:GRAPE", "arguments": {"d": 1e999}}}',
        '{"format": 1, "selection": "", "model": '
        '{"class": "dfdlib.models:GRAPE", "arguments": {"d": 999999999999}}}',
    ],
)
def test_a_card_that_is_a_bomb_is_refused(place, card):
    folder = hostile(place, named("dfdlib.models:GRAPE", d=4))
    (folder / "model.json").write_text(card)
    refused(lambda: load_model(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_links_out_of_a_model_folder_are_not_followed(place, name):
    folder = saved(place / "model")
    (folder / name).unlink()
    (folder / name).symlink_to(place.parent / "secret.csv")
    refused(lambda: load_model(folder))


def test_trust_names_one_package_and_not_its_namesakes(place, monkeypatch):
    for name in ("friend", "friend_or_foe"):
        (place / f"{name}.py").write_text(
            "import torch\n\nclass Net(torch.nn.Module):\n    pass\n"
            + ("open('proof', 'w')\n" if name != "friend" else "")
        )
    monkeypatch.syspath_prepend(str(place))
    told = refused(lambda: load_model(hostile(place, named("friend_or_foe:Net")), trust=["friend"]))
    assert "friend_or_foe" in told


# ---------------------------------------------------------------- notebooks


def notebook(place, line, name="hostile.ipynb", kernel="python3"):
    cell = nbformat.v4.new_code_cell(line)
    cell.metadata["tags"] = ["parameters"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), cell])
    book.metadata["kernelspec"] = {"name": kernel, "language": "python", "display_name": "p"}
    nbformat.write(book, place / name)
    return place / name


CATCH = (
    "[c('touch\\x20proof')for(k)in(().__class__.__base__.__subclasses__())"
    "if(k.__name__.startswith('_wrap_c'))for(c)in[k.__init__.__globals__['system']]]"
)


@pytest.mark.parametrize(
    "line",
    [
        f"x = 1  # type: {CATCH} help",
        f"x = {TOUCH}  # type: int help",
        f"x = 1  # type: list[{CATCH}]",
        f"x = 1  # type: Literal[{TOUCH}]",
        "x = 1  # type: " + "list[" * 3000 + "int" + "]" * 3000,
        "x = 1  # type: " + "(" * 3000,
        "x = 1  # type: int.__class__.__base__",
        "x = 1  # type: int if 1 else str",
        "x = 1  # type: Literal[9**9**9]",
        "x = '{x.__class__}'  # type: str",
    ],
)
def test_reading_the_parameters_of_a_notebook_runs_nothing(place, line):
    path = notebook(place, line)
    for action in (
        lambda: parameters_of(path),
        lambda: check_parameters(path, {"x": "1"}),
        lambda: check_parameters(path, {}, {"x": 1}),
    ):
        with contextlib.suppress(ValueError):
            action()
    result = CliRunner().invoke(app, ["run", str(path), "--help-parameters"])
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch proof']",
        "!!python/name:os.system",
        "&a [*a]",
        "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]",
    ],
)  # fmt: skip
def test_a_file_of_parameters_runs_nothing(place, text):
    path = notebook(place, "x = 1  # type: int")
    (place / "p.yaml").write_text(f"x: {text}\n" if "\n" not in text else text)
    result = CliRunner().invoke(app, ["run", str(path), "-f", str(place / "p.yaml")])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    result = CliRunner().invoke(app, ["run", str(path), "-p", "x", text])
    assert result.exit_code == 2


# ---------------------------------------------------------------- tables


def config(place, **modality):
    (place / "stays.csv").write_text("id,v,y\n1,1.5,0\n2,2.5,1\n")
    given = {"kind": "vector", "columns": ["v"], **modality}
    return {"patients": {"file": str(place / "stays.csv"), "id": "id"}, "modalities": {"m": given}}


SQL = [
    "v\" , (SELECT content FROM read_text('../secret.csv')) AS \"w",
    "v'; COPY (SELECT 1) TO 'proof'; --",
    "v\"; COPY (SELECT 1) TO 'proof'; --",
    "') ; INSTALL httpfs; --",
    "v\x00w",
    "$1",
    "v\\",
]


@pytest.mark.parametrize("word", SQL)
@pytest.mark.parametrize("where", ["columns", "item", "value", "id", "missing", "header", "cell"])
def test_words_of_tables_and_yaml_are_no_sql(place, word, where):
    given = config(place)
    if where == "columns":
        given["modalities"]["m"]["columns"] = [word]
    elif where == "item":
        given["modalities"]["m"] |= {"item": word, "value": "v"}
    elif where == "value":
        given["modalities"]["m"] |= {"item": "id", "value": word}
    elif where == "id":
        given["patients"]["id"] = word
    elif where == "missing":
        given["missing"] = {"values": [word]}
    else:
        frame = pd.DataFrame({"id": [1, 2], "v": [1.5, 2.5], "y": [0, 1]})
        if where == "header":
            frame = frame.rename(columns={"v": word})
            given["modalities"]["m"]["columns"] = [word]
        else:
            frame = frame.assign(v=[word, 2.5])
        frame.to_csv(place / "stays.csv", index=False)
    if where == "missing" or (where == "header" and "\x00" not in word):
        assert data.from_tables(given).x["m"].flatten().tolist() == [1.5, 2.5]
    else:
        refused(lambda: data.from_tables(given))


@pytest.mark.parametrize(
    "name",
    [
        "*.csv", "../*.csv", "../secre?.csv", "../{secret,x}.csv", "[s]tays.csv",
        "https://127.0.0.1:9/x.csv", "s3://bucket/x.csv", "file:///etc/passwd", "/dev/zero",
        "/dev/stdin", "x' || '.csv", "..", "", "~/x.csv",
    ],
)  # fmt: skip
def test_only_the_file_that_is_named_is_read(place, name):
    told = refused(lambda: data.from_tables(config(place, file=name)))
    assert "proof" not in told


def test_a_file_of_a_hostile_name_is_that_file(place):
    given = config(place)
    name = place / "a'; COPY (SELECT 1) TO 'proof'; --[x]*.csv"
    (place / "stays.csv").rename(name)
    given["patients"]["file"] = str(name)
    assert data.from_tables(given).x["m"].flatten().tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch proof']",
        "patients: !!python/object/new:os.system ['touch proof']",
        "patients: &a [*a]",
        "a: " + "[" * 20_000,
        "? " * 5_000,
    ],
)
def test_a_yaml_file_of_tables_runs_nothing(place, text):
    (place / "t.yaml").write_text(text)
    refused(lambda: data.from_tables(place / "t.yaml"))


def test_laughs_of_a_yaml_file_are_not_unfolded(place):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    (place / "t.yaml").write_text("\n".join([*lines, "patients: *a39"]))
    told = refused(lambda: data.from_tables(place / "t.yaml"))
    assert len(told) < 2000


# ---------------------------------------------------------------- names

NAMES = [
    "$\\frac{$", "<script>alert(1)</script>", "../../proof", "a/b", "\x1b[2Jx", "{x}", "%s", "_x",
    "a\nb", "'; --", "", " ", "é" * 300, "\u202egnp",
]  # fmt: skip


def test_hostile_names_of_sites_stay_words(place):
    rng = np.random.default_rng(0)
    n = 40 * len(NAMES)
    y = rng.integers(0, 2, size=n)
    cohort = Cohort(x={"labs": rng.normal(size=(n, 2))}, y=y, groups={"site": np.repeat(NAMES, 40)})
    report = evaluate(rng.random(n), cohort, by="site", n_boot=20)
    page = report.table("auroc")
    shown = page.to_html() if hasattr(page, "to_html") else str(page)
    assert "<script>" not in shown
    assert set(report.frame["level"]) > set(NAMES)
    report.save(place / "r.json", claim="dfd-gain", parameters={})
    assert sorted(p.name for p in place.iterdir()) == ["r.json"]


def test_the_library_neither_evaluates_nor_unpickles():
    """Calls of eval, exec and compile, pickles and YAML that builds objects have no place here."""
    wrong = {"eval", "exec", "compile", "yaml.load", "yaml.full_load", "yaml.unsafe_load"}
    wrong |= {"pickle.load", "pickle.loads", "torch.load", "os.system"}
    for path in sorted(Path(tables.__file__).parents[1].rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in wrong, f"{path.name}, line {node.lineno}"


def test_the_template_is_harmless(place):
    assert yaml.safe_load(tables.template())
    assert os.listdir(place) == []
