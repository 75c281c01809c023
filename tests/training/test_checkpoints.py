"""Saved models and checkpoints: what is refused, what is told, and what a kill leaves."""

import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dfdlib import training
from dfdlib.data import Cohort, Images
from dfdlib.evaluation import predict_proba
from dfdlib.models import (
    CORAL,
    DFD,
    GRAPE,
    Classifier,
    Deconfounder,
    GroupDRO,
    Substitute,
)
from dfdlib.training import Stage, fit, load_model
from dfdlib.training import saving as saving_module
from dfdlib.training.describe import describe, rebuild

FIRST_FORMAT = Path(__file__).parents[1] / "fixtures" / "format-1"


def cohort(n=60, **more):
    rng = np.random.default_rng(0)
    labs = rng.normal(size=(n, 3))
    return Cohort(x={"labs": labs}, y=(labs[:, 0] > 0).astype(int), **more)


def trained(**options):
    data = cohort()
    return fit(Classifier(backbone=GRAPE(d=4), schema=data.schema), data, **one_epoch(**options))


def one_epoch(**options):
    return {"stages": [Stage(epochs=1)], "batch_size": 30} | options


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    trained().save(folder)
    return folder


@pytest.fixture
def saved(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "model"))


def first_format(folder, *, model=None, tensors=None, **card):
    """A folder of the first format, which has no checksums: what an attacker would write."""
    folder.mkdir()
    whole = {"format": 1, "selection": "", "model": model} | card
    (folder / "model.json").write_text(json.dumps(whole))
    save_file(tensors or {"w": torch.zeros(1)}, folder / "model.safetensors")
    return folder


# ---------------------------------------------------------------- trust


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Packages that leave a mark where they are imported."""
    mark = tmp_path / "mark"
    body = f"""
        import pathlib
        from torch import nn
        from torch.nn import Linear
        from os import system
        from torch.nn.utils.parametrize import ParametrizationList
        pathlib.Path({str(mark)!r}).touch()
        def function(**_): pathlib.Path({str(mark)!r} + "2").touch()
        class Own(nn.Module):
            def __init__(self, *, d):
                super().__init__()
                self.d = d
                self.map = nn.Linear(d, d)
            def forward(self, tokens, observed, weight=None):
                return self.map((tokens * observed.unsqueeze(-1)).sum(1))
    """
    for name in ("mine_a", "mine_a_evil"):
        (tmp_path / "path" / name).mkdir(parents=True)
        for file in ("__init__", "__main__", "nets"):
            (tmp_path / "path" / name / f"{file}.py").write_text(textwrap.dedent(body))
    monkeypatch.syspath_prepend(tmp_path / "path")
    yield mark
    for name in [name for name in sys.modules if name.startswith("mine_a")]:
        del sys.modules[name]


EVALUATED = "x: __import__('pathlib').Path('proof.txt').touch()"
IDENTITY = {"class": "torch.nn:Identity", "arguments": {}}


@pytest.mark.parametrize(
    "hostile",
    [
        # a class of torch-geometric that evaluates a string
        {"class": "torch_geometric.nn:Sequential",
         "arguments": {"input_args": EVALUATED, "modules": [IDENTITY]}},
        {"class": "mine_a:Own", "arguments": {"d": 1}},
        {"class": "os:system", "arguments": {"command": "touch proof.txt"}},
        {"class": "builtins:exec", "arguments": {"source": "1"}},
        {"class": "torch.nn:functional", "arguments": {}},
        {"class": "torch.nn:Module", "arguments": {}},
        {"class": "torch.nn:Linear.from_float", "arguments": {}},
        {"class": "torch.nn.modules.lazy:LazyModuleMixin", "arguments": {}},
        {"class": "torch.hub:load", "arguments": {"repo_or_dir": "a/b", "model": "m"}},
        {"class": "dfdlib.training.describe:importlib", "arguments": {}},
        {"class": "dfdlib.training.describe:nn", "arguments": {}},
        {"class": "dfdlib.models.grape:Sequence", "arguments": {}},
        {"class": "dfdlib.models:_memory.KMeans", "arguments": {}},
        {"class": "dfdlib.models.memory:KMeans", "arguments": {}},
        {"class": "dfdlib.data:from_tables", "arguments": {"config": "x.yaml"}},
        {"class": "dfdlib.models.grape:GRAPE.__init__", "arguments": {}},
        {"class": "dfdlib.models.grape:__loader__", "arguments": {}},
        {"class": "dfdlib.models.grape\n:GRAPE", "arguments": {"d": 4}},
        {"class": "dfdlib.models.grape:GRAPE ", "arguments": {"d": 4}},
        {"class": ".models.grape:GRAPE", "arguments": {"d": 4}},
        {"class": "__main__:main", "arguments": {}},
        {"class": "", "arguments": {}},
        {"class": 3, "arguments": {}},
        {"class": ["torch.nn:Identity"], "arguments": {}},
        {"class": "mine_a" * 1000 + ":Own", "arguments": {}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("nested", [False, True])
def test_nothing_that_is_not_listed_is_imported(tmp_path, package, monkeypatch, hostile, nested):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    if nested:
        arguments = {"backbone": {"items": {"x": [[hostile]]}}, "schema": None}
        hostile = {"class": "dfdlib.models.classifier:Classifier", "arguments": arguments}
    folder = first_format(tmp_path / "model", model=hostile)
    (folder / "model.safetensors").unlink()  # refused before it is looked at
    with pytest.raises(ImportError, match=r"the saved model names .*Nothing was imported"):
        load_model(folder)
    assert not package.exists()
    assert not (tmp_path / "proof.txt").exists()
    assert not {name for name in set(sys.modules) - before if "mine_a" in name}


def test_a_package_that_is_trusted_by_name(tmp_path, package):
    from mine_a.nets import Own

    data = cohort()
    run = fit(Classifier(backbone=Own(d=4), schema=data.schema), data, **one_epoch())
    run.save(tmp_path / "model")
    with pytest.raises(ImportError, match=r"'mine_a.nets:Own'.*trust=\['mine_a'\]"):
        load_model(tmp_path / "model")
    for trust in (["mine_a"], ("mine_a.nets",), ["mine_a.nets:Own"]):
        model = load_model(tmp_path / "model", trust=trust)
        np.testing.assert_array_equal(predict_proba(model, data), predict_proba(run.model, data))
    for trust in (["mine"], ["mine_a.net"], ["mine_a.nets:Ow"], ["mine_a_evil"], ["torch"]):
        with pytest.raises(ImportError, match="not among those"):
            load_model(tmp_path / "model", trust=trust)
    with pytest.raises(TypeError, match=r"list of names, got 'mine_a'.*trust=\['mypackage'\]"):
        load_model(tmp_path / "model", trust="mine_a")
    for nothing in ("", "*", "mine_a.", ".", "mine a", "mine_a:", "mine_a:Own.x", "__main__"):
        with pytest.raises(ValueError, match=r"names no package, module or class"):
            load_model(tmp_path / "model", trust=[nothing])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mine_a_evil.nets:Own", "not among those"),  # no package by its first letters
        ("mine_a.__main__:Own", "no name of a class"),
        ("mine_a:__class__", "no name of a class"),
        ("mine_a:nn", "no torch module"),
        ("mine_a:function", "no torch module"),
        ("mine_a:system", "no torch module"),
        ("mine_a:Gone", "cannot import 'Gone'"),
        ("mine_a.gone:Own", "cannot import 'Own'"),
        # a class of others, which the trusted module imports for itself
        ("mine_a:ParametrizationList", r"is torch.nn.*not among the classes"),
    ],
)
def test_trust_goes_no_further_than_the_package(tmp_path, package, name, told):
    folder = first_format(tmp_path / "model", model={"class": name, "arguments": {}})
    with pytest.raises(ImportError, match=told):
        load_model(folder, trust=["mine_a"])
    assert not Path(f"{package}2").exists()


@pytest.mark.parametrize(
    "model",
    [
        IDENTITY,  # a layer, and no model
        {"class": "torch.nn:Linear", "arguments": {"in_features": "3; import os"}},
        {"class": "dfdlib.models.grape:GRAPE", "arguments": {"d": {"items": {}}}},
        {"class": "dfdlib.models.grape:GRAPE", "arguments": {"self": 3, "d": 4}},
        {"class": "dfdlib.models.grape:GRAPE", "arguments": {}},
        {"class": "dfdlib.models.grape:GRAPE", "arguments": {"d": 10**30}},
        {"class": "dfdlib.models.grape:GRAPE", "arguments": {"d": -1}},
        {"class": "dfdlib.models.grape:GRAPE", "arguments": [4]},
        {"class": "dfdlib.models.grape:GRAPE", "arguments": {"d": 4}, "more": 1},
        {"class": "dfdlib.models.grape:GRAPE", "items": {}},
        {"schema": 3},
        {"schema": {"names": 3}},
        {"schema": {"class": "os:system"}},
        {"items": [1]},
        {"items": {"a": IDENTITY}},
        {},
        {"": {}},
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*first format")
def test_descriptions_of_nothing(tmp_path, model):
    with pytest.raises(ValueError, match=r"'model' is damaged or incomplete: .*save it again"):
        load_model(first_format(tmp_path / "model", model=model))


def nested(depth):
    inner = "[" * depth + "]" * depth
    return f'{{"format": 1, "selection": "", "model": {{"items": {{"a": {inner}}}}}}}'


@pytest.mark.parametrize("depth", [100, 900, 100_000])
def test_nesting_without_end(tmp_path, depth):
    folder = first_format(tmp_path / "model")
    (folder / "model.json").write_text(nested(depth))
    with pytest.raises(ValueError, match=r"damaged or incomplete: .*(nested|no valid JSON)"):
        load_model(folder)


# ---------------------------------------------------------------- sizes


def grape(**arguments):
    schema = describe(cohort().schema)
    backbone = {"class": "dfdlib.models.grape:GRAPE", "arguments": arguments}
    return {
        "class": "dfdlib.models.classifier:Classifier",
        "arguments": {"backbone": backbone, "schema": schema},
    }


MEMORY = """
import resource, sys
from dfdlib.training import load_model
load_model(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for folder in sys.argv[2:]:
    try:
        load_model(folder)
    except ValueError as error:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


def test_no_memory_is_taken_before_the_sizes_are_known(saved, tmp_path):
    huge = [{"d": 10**9}, {"d": 30_000}, {"d": 4, "n_layers": 10**9}]
    huge.append({"d": 4, "n_modalities": 10**9})
    folders = [
        first_format(tmp_path / f"model-{k}", model=grape(**each)) for k, each in enumerate(huge)
    ]
    command = [sys.executable, "-W", "ignore", "-c", MEMORY, saved, *folders]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(told) == len(folders)
    for line in told:
        kilobytes, message = line.split(" ", 1)
        assert "damaged or incomplete" in message
        assert int(kilobytes) < 100_000  # d=30,000 alone would be 20 GB


def head(entries, data=b"", *, length=None):
    text = json.dumps(entries).encode() if isinstance(entries, dict) else entries
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"12345",
        head(entry(), b"1234", length=2**63),
        head(entry(), b"1234", length=10**6),
        head(b"", b"1234"),
        head(b"[]", b"1234"),
        head(b"{" * 100_000, b"1234"),
        head(b'{"w": 1, "w": 2}', b"1234"),
        head({"w": 3}, b"1234"),
        head({"w": {}}, b"1234"),
        head(entry(), b"123"),  # cut off
        head(entry(), b"12345"),  # more than it says
        head(entry(shape=(10**12,), offsets=(0, 4 * 10**12)), b"1234"),
        head(entry(shape=(10**12,)), b"1234"),
        head(entry(shape=(2**62, 4)), b"1234"),
        head(entry(shape=[1] * 100_000), b"1234"),
        head(entry(shape=(-1,), offsets=(4, 0)), b"1234"),
        head(entry(shape=(True,)), b"1234"),
        head(entry(shape=(1.0,)), b"1234"),
        head(entry(dtype="F99"), b"1234"),
        head(entry(dtype=["F32"]), b"1234"),
        head(entry(offsets=(0,)), b"1234"),
        head(entry(offsets=(4, 8)), b"12345678"),
        head(entry(offsets=(0, 4)) | {"v": entry()["w"]}, b"1234"),
        head(b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, NaN]}}', b"1234"),
    ],
)
def test_heads_that_are_none(tmp_path, raw):
    folder = first_format(tmp_path / "model", model=grape(d=4))
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(ValueError, match=r"'model' is damaged or incomplete: .*safetensors"):
        load_model(folder)


def test_a_card_of_a_gigabyte(tmp_path):
    folder = first_format(tmp_path / "model")
    with (folder / "model.json").open("r+b") as stream:
        stream.truncate(2**30)
    with pytest.raises(ValueError, match=r"model.json has 1,073,741,824 bytes, and may have"):
        load_model(folder)


# ---------------------------------------------------------------- damage


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def in_card(folder, old, new):
    card = folder / "model.json"
    text = card.read_text()
    assert old in text
    card.write_text(text.replace(old, new, 1))


def link(folder, name):
    outside = folder.parent / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)


DAMAGES = {
    "no tensors": lambda f: (f / "model.safetensors").unlink(),
    "tensors cut off": lambda f: os.truncate(f / "model.safetensors", 900),
    "tensors empty": lambda f: (f / "model.safetensors").write_bytes(b""),
    "more behind the tensors": lambda f: (f / "model.safetensors").open("ab").write(b"0"),
    "tensors are text": lambda f: (f / "model.safetensors").write_text("a" * 5000),
    "tensors a folder": lambda f: [(f / "model.safetensors").unlink(),
                                   (f / "model.safetensors").mkdir()],
    "tensors a link": lambda f: link(f, "model.safetensors"),
    "tensors a pipe": lambda f: [(f / "model.safetensors").unlink(),
                                 os.mkfifo(f / "model.safetensors")],
    "tensors of another model": lambda f: rewrite(f, lambda t: t.update(w=torch.zeros(2))),
    "card empty": lambda f: (f / "model.json").write_text(""),
    "card cut off": lambda f: os.truncate(f / "model.json", 300),
    "card a list": lambda f: (f / "model.json").write_text("[]"),
    "card a number": lambda f: (f / "model.json").write_text("3"),
    "card no text": lambda f: (f / "model.json").write_bytes(b"\xff\xfe\x00"),
    "card a folder": lambda f: [(f / "model.json").unlink(), (f / "model.json").mkdir()],
    "card a link": lambda f: link(f, "model.json"),
    "card a dead link": lambda f: [(f / "model.json").unlink(),
                                   (f / "model.json").symlink_to(f / "nowhere")],
    "card a pipe": lambda f: [(f / "model.json").unlink(), os.mkfifo(f / "model.json")],
    "card with NaN": lambda f: in_card(f, '"best_epoch": 1', '"best_epoch": NaN'),
    "a name twice": lambda f: in_card(f, '"seed"', '"best_epoch"'),
    "another option": lambda f: in_card(f, '"dropout": 0.0', '"dropout": 0.5'),
    "another class": lambda f: in_card(f, "grape:GRAPE", "muse:MUSE"),
    "a row of history less": lambda f: in_card(f, '"epoch": 1', '"epoch": 2'),
    "only spaces changed": lambda f: in_card(f, "\n ", "\n"),
    "no checksums": lambda f: in_card(f, '"sha256"', '"sha255"'),
    "an earlier format": lambda f: in_card(f, '"format": 2', '"format": 1'),
    "a checksum that is none": lambda f: in_card(f, '"card": "', '"card": "x'),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told(saved, damage):
    DAMAGES[damage](saved)
    with pytest.raises(
        ValueError, match=r"^'model' is damaged or incomplete: .*Copy the whole folder again"
    ) as caught:
        load_model(saved)
    assert str(saved.parent) not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def lacks(tensors):
    del tensors["head.map.bias"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lacks, "head.map.bias is missing"),
        (lambda t: t.update(more=torch.zeros(1)), "more belongs to no part"),
        (lambda t: t.update({"head.map.bias": torch.zeros(3)}), "head.map.bias has another shape"),
        (lambda t: t.update({"head.map.bias": torch.zeros(1).double()}), "bias has another type"),
        (lambda t: t.update(seen=torch.ones(1)), "seen has another type"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*first format")
def test_tensors_that_are_not_those_of_the_model(saved, change, told):
    card = json.loads((saved / "model.json").read_text())
    del card["sha256"]
    (saved / "model.json").write_text(json.dumps(card | {"format": 1}))
    load_model(saved)
    rewrite(saved, change)
    with pytest.raises(ValueError, match=rf"damaged or incomplete: model.safetensors: .*{told}"):
        load_model(saved)


def test_other_formats_and_places(saved, tmp_path):
    in_card(saved, '"format": 2', '"format": 99')
    with pytest.raises(ValueError, match=r"has format 99, and this version reads 1 and 2"):
        load_model(saved)
    for none in ('"2"', "true", "null", "[2]", "2.0"):
        (saved / "model.json").write_text(f'{{"format": {none}}}')
        with pytest.raises(ValueError, match=r"has format .*reads 1 and 2"):
            load_model(saved)
    with pytest.raises(NotADirectoryError, match=r"'model.json' is a file. Pass the folder"):
        load_model(saved / "model.json")
    (saved / "model.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"'model' holds no model.json.*Save first"):
        load_model(saved)
    with pytest.raises(FileNotFoundError, match=r"'nowhere' holds no model.json"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_bit_that_is_flipped_anywhere_is_refused(saved, file):
    whole = (saved / file).read_bytes()
    rng = np.random.default_rng(0)
    places = [0, 7, 8, 100, len(whole) - 1, *rng.integers(0, len(whole), 200)]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        (saved / file).write_bytes(flipped)
        with pytest.raises((ValueError, ImportError), match=r"damaged|has format|names"):
            load_model(saved)
    (saved / file).write_bytes(whole)
    load_model(saved)


def test_a_card_tells_version_and_threads(saved):
    card = json.loads((saved / "model.json").read_text())
    assert card["format"] == 2
    assert card["threads"] == torch.get_num_threads()
    assert card["torch"] == torch.__version__
    assert set(card["sha256"]) == {"tensors", "card"}
    assert card["dfdlib"]


@pytest.mark.parametrize("name", ["classifier", "dfd", "m3care"])
def test_a_folder_of_the_first_format_scores_as_it_did(name):
    stored = json.loads((FIRST_FORMAT / "scores.json").read_text())
    x = stored["patients"]
    x["labs"] = np.array(x["labs"], dtype=float)
    with pytest.warns(UserWarning, match=rf"'{name}' is of the first format.*no checksums"):
        model = load_model(FIRST_FORMAT / name)
    patients = Cohort(x=x, kinds=model.schema.kinds)
    np.testing.assert_allclose(
        predict_proba(model, patients)[:, 1], stored["scores"][name], atol=1e-6
    )


# ---------------------------------------------------------------- kills while saving


class Killed(BaseException):
    pass


def test_a_save_that_is_cut_off_anywhere_leaves_a_whole_model(tmp_path, monkeypatch):
    data = cohort()
    runs = [trained(seed=seed) for seed in (0, 1)]
    scores = [predict_proba(run.model, data) for run in runs]
    held = set()
    for at in range(20):
        folder = tmp_path / f"{at}" / "model"
        runs[0].save(folder)
        done = []

        def dying(function, done=done, at=at):
            def wrapped(*args, **kwargs):
                done.append(function)
                if len(done) > at:
                    raise Killed  # and nothing is tidied up either
                return function(*args, **kwargs)

            return wrapped

        with monkeypatch.context() as patch:
            for name in ("os.replace", "pathlib.Path.rename", "pathlib.Path.write_text"):
                module, _, function = name.rpartition(".")
                owner = os if module == "os" else Path
                patch.setattr(owner, function, dying(getattr(owner, function)))
            patch.setattr("dfdlib.training.saving.save_file", dying(save_file))
            patch.setattr(Path, "unlink", dying(Path.unlink))
            try:
                runs[1].save(folder)
            except Killed:
                pass
            else:
                break
        found = predict_proba(load_model(folder), data)
        which = [np.array_equal(found, score) for score in scores]
        assert sum(which) == 1
        held.add(which.index(True))
        runs[1].save(folder)  # and the next save goes through
        np.testing.assert_array_equal(predict_proba(load_model(folder), data), scores[1])
        assert sorted(os.listdir(folder)) == ["model.json", "model.safetensors"]
    else:
        pytest.fail("the save never ended")
    assert held == {0, 1}


def test_what_killed_processes_left_is_taken_away(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    gone = [f"model.{dead}.part", f"model.{dead}.old", f"model.{host}-{dead}.part"]
    kept = [
        f"model.{os.getppid()}.part",  # lives
        f"model.{host}-{os.getppid()}.part",
        f"model.00000000-{dead}.part",  # of another machine, just now
        f"model.{dead}.parts",
        f"model-2.{dead}.part",
    ]
    for name in gone + kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    (tmp_path / f"model.{dead}0.part").mkdir()
    (tmp_path / f"model.{dead}0.part" / "thesis.txt").touch()  # not ours
    long_ago = tmp_path / f"model.11111111-{dead}.part"
    long_ago.mkdir()
    os.utime(long_ago, (time.time() - 10**6,) * 2)
    trained().save(tmp_path / "model")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([*kept, f"model.{dead}0.part", "model"])
    assert socket.gethostname() not in host


def test_what_an_earlier_version_left_is_named(saved):
    old = saved.with_name("model.123.old")
    saved.rename(old)
    with pytest.raises(FileNotFoundError, match=r"cut off.*'model.123.old': rename it"):
        load_model(saved)


def test_processes_that_save_at_once_leave_one_whole_model(tmp_path):
    code = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_checkpoints import trained
        run = trained(seed=int(sys.argv[1]))
        print("ready", flush=True); sys.stdin.readline()
        for _ in range(20): run.save({str(tmp_path / "model")!r})
    """)
    start = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(k)], text=True, **start) for k in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    while any(process.poll() is None for process in processes):
        if (tmp_path / "model").exists():
            load_model(tmp_path / "model")  # whole at every moment
    for process in processes:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    load_model(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]


# ---------------------------------------------------------------- what is held of patients

LEVEL, CODE, FLAG, VALUE = 987_654, 313_373, 65_521, 424_242.5


def with_rare(n_rare, n=60):
    """A cohort in which so many patients have a level, a code, a flag and a value of their own."""
    rng = np.random.default_rng(0)
    rare = np.arange(n) < n_rare
    labs = rng.normal(size=(n, 2))
    x = {
        "labs": np.column_stack([labs, np.where(rare, VALUE, np.nan)]),
        "ward": np.where(rare, LEVEL, rng.integers(0, 2, n))[:, None],
        "dx": [[1, CODE] if own else [1] for own in rare],
        "vitals": [[[0.0, 1.0, 0.0], [1.0, VALUE, FLAG]][: 1 + own] for own in rare],
    }
    kinds = {"labs": "vector", "ward": "categorical", "dx": "codes", "vitals": "series"}
    return Cohort(x=x, kinds=kinds, y=(labs[:, 0] > 0).astype(int)), rare


@pytest.mark.parametrize("n_rare", [1, 9, 10])
def test_what_few_patients_had_is_not_saved(tmp_path, n_rare):
    data, rare = with_rare(n_rare)
    model = fit(Classifier(backbone=GRAPE(d=4), schema=data.schema), data, **one_epoch()).model
    before = predict_proba(model, data)
    run = training.Run(model=model, history=pd.DataFrame(), selection="", best_epoch=1, seed=0)
    if n_rare < 10:
        codes = "1 of 'dx', " if n_rare > 1 else ""  # of one patient a code is never known
        told = rf"fewer than 10 .*not saved \(1 of 'labs', 1 of 'ward', {codes}1 of 'vitals.rows'"
        with pytest.warns(UserWarning, match=told):
            run.save(tmp_path / "model")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run.save(tmp_path / "model")
    stored = (tmp_path / "model" / "model.safetensors").read_bytes()
    marks = [np.int64(LEVEL), np.int64(CODE), np.int64(FLAG), np.float32(VALUE)]
    assert [mark.tobytes() in stored for mark in marks] == [n_rare >= 10] * 4
    card = (tmp_path / "model" / "model.json").read_text()
    assert not [mark for mark in (LEVEL, CODE, FLAG, VALUE) if str(mark) in card]
    again = load_model(tmp_path / "model")
    np.testing.assert_array_equal(predict_proba(again, data), predict_proba(model, data))
    # nobody else's score has changed
    np.testing.assert_allclose(predict_proba(again, data)[~rare], before[~rare], atol=1e-6)
    # and saving twice forgets nothing more
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.save(tmp_path / "model")


@pytest.mark.parametrize(
    ("kind", "name", "left", "gone"),
    [
        (DFD, "memory", "prototypes", "samples"),
        (CORAL, "momentum", 0.9, 0.5),
        (Deconfounder, "n_levels", 2, 3),
        (Substitute, "n_levels", 2, 3),
    ],
)
def test_an_option_that_is_gone_loads_where_nobody_had_set_it(tmp_path, kind, name, left, gone):
    data = cohort()
    options = {
        DFD: {"backbone": GRAPE(d=4), "schema": data.schema},
        CORAL: {"backbone": GRAPE(d=4), "schema": data.schema, "environment": "site"},
        Deconfounder: {"route": "substitute"},
        Substitute: {},
    }
    text = describe(kind(**options[kind]))
    assert name not in text["arguments"]
    text["arguments"][name] = left
    assert type(rebuild(text)) is kind
    text["arguments"][name] = gone
    with pytest.raises(ValueError, match=rf"{name}={gone!r}, and {kind.__name__} no longer has"):
        rebuild(text)
    # a class of somebody's own that is made as its parent is
    own = type("Own", (kind,), {"__module__": "own_module"})
    module = types.ModuleType("own_module")
    module.Own = own
    text["class"] = "own_module:Own"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "own_module", module)
        with pytest.raises(ValueError, match=rf"no longer has the option '{name}'"):
            rebuild(text, trust=["own_module"])
        text["arguments"][name] = left
        assert type(rebuild(text, trust=["own_module"])) is own


# ---------------------------------------------------------------- checkpoints


def killed_after_an_epoch(monkeypatch, *args, **kwargs):
    """A run that dies after it wrote the checkpoint of its first epoch."""
    whole = saving_module.write_checkpoint

    def write(*inner):
        whole(*inner)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("dfdlib.training.loop.write_checkpoint", write)
        with pytest.raises(Killed):
            fit(*args, **kwargs)


def split_in_two(n=60):
    return np.repeat(["a", "b"], n // 2), np.tile(["a", "b"], n // 2)


def other_cohorts():
    one, two = split_in_two()
    labs = np.random.default_rng(0).normal(size=(60, 3))
    y = (labs[:, 0] > 0).astype(int)
    base = {"x": {"labs": labs}, "y": y}
    flags = np.ones((60, 3), dtype=bool)
    flags[0, 0] = False
    pixels = np.zeros((600, 1, 2, 2), dtype=np.uint8)
    other = pixels.copy()
    other[301, 0, 0, 0] = 1  # one pixel of one image
    pair = {"x": {"labs": labs}, "y": y}
    images = [
        {"x": {"a": Images(p), "labs": np.zeros((600, 1))}, "y": np.arange(600) % 2}
        for p in (pixels, other)
    ]
    numbers = np.repeat([1, 2], 30)
    return {
        "groups": (base | {"groups": {"site": one}}, base | {"groups": {"site": two}}),
        "another group too": (base | {"groups": {"site": one}},
                              base | {"groups": {"site": one, "ward": one}}),
        "levels 1 and '1'": (base | {"groups": {"site": numbers}},
                             base | {"groups": {"site": numbers.astype(str)}}),
        "patients": (base | {"groups": {"patient": np.arange(60)}},
                     base | {"groups": {"patient": np.arange(60)[::-1]}}),
        "covariates": (base | {"covariates": {"age": labs[:, 1]}},
                       base | {"covariates": {"age": labs[:, 2]}}),
        "names of covariates": (base | {"covariates": {"age": labs[:, 1]}},
                                base | {"covariates": {"height": labs[:, 1]}}),
        "labels": (base, base | {"y": np.roll(y, 1)}),
        "flags": (base | {"x_observed": {"labs": flags | True}},
                  base | {"x_observed": {"labs": flags}}),
        "order of patients": (pair, {"x": {"labs": labs[::-1]}, "y": y}),
        "a pixel": tuple(images),
    }  # fmt: skip


@pytest.mark.parametrize("what", other_cohorts())
def test_a_checkpoint_knows_the_patients(what, tmp_path, monkeypatch):
    first, second = (Cohort(**parts) for parts in other_cohorts()[what])
    if what == "a pixel":  # hashed, and not trained on
        assert saving_module.fingerprint(first) != saving_module.fingerprint(second)
        return
    settings = {"stages": [Stage(epochs=2)], "folder": tmp_path / "run"}
    new = [Classifier(backbone=GRAPE(d=4), schema=c.schema) for c in (first, second, first)]
    killed_after_an_epoch(monkeypatch, new[0], first, **settings)
    with pytest.raises(ValueError, match=r"'run' holds the checkpoint of another run: train was"):
        fit(new[1], second, **settings)
    fit(new[2], Cohort(**other_cohorts()[what][0]), **settings)


def test_sites_reach_the_weights_so_they_are_known(tmp_path, monkeypatch):
    """Sites of another cut give other weights; a run in the folder of the first is refused."""
    first, second = (cohort(groups={"site": site}) for site in split_in_two())
    settings = {"stages": [Stage(epochs=2)], "folder": tmp_path / "run"}
    model = {c: GroupDRO(backbone=GRAPE(d=4), schema=c.schema, environment="site")
             for c in (first, second)}  # fmt: skip
    killed_after_an_epoch(monkeypatch, model[first], first, **settings)
    with pytest.raises(ValueError, match="another run: train was"):
        fit(model[second], second, **settings)


def test_a_checkpoint_knows_the_weights_that_a_run_began_with(tmp_path, monkeypatch):
    data = cohort()

    def begun(seed):
        return trained(seed=seed).model

    settings = {"stages": [Stage(epochs=2)], "init": "keep"}
    whole = predict_proba(fit(begun(0), data, **settings).model, data)
    settings["folder"] = tmp_path / "run"
    killed_after_an_epoch(monkeypatch, begun(0), data, **settings)
    with pytest.raises(ValueError, match=r"another run: start was .*init='keep' pass the model as"):
        fit(begun(5), data, **settings)
    scaled = begun(0)
    scaled.encoders["labs"].mean += 1
    with pytest.raises(ValueError, match="another run: start was"):
        fit(scaled, data, **settings)
    resumed = fit(begun(0), data, **settings).model
    np.testing.assert_array_equal(predict_proba(resumed, data), whole)


class Power(nn.Module):
    """An encoder that does not keep its argument under its own name."""

    def __init__(self, exponent, note=None):
        super().__init__()
        self.power, self.note = exponent, note
        self.register_buffer("scale", torch.ones(1))
        self.map = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1))

    def forward(self, values, flags):
        return self.map(values**self.power * self.scale)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda e: setattr(e, "power", 3), r"attributes.items.power=2 and is now .*=3"),
        (lambda e: setattr(e.map[1], "p", 0.5), r"p=0.1 and is now .*p=0.5"),
        (lambda e: setattr(e, "note", np.ones(3)), "note"),
        (lambda e: setattr(e, "note", {torch.float64}), "note"),
        (lambda e: setattr(e, "note", torch.relu), "note"),
        (lambda e: e.scale.mul_(2), "buffers"),
        (lambda e: e.map[0].weight.requires_grad_(False), "weights"),
        (lambda e: e.map.append(nn.ReLU()), "parts"),
    ],
)
def test_a_checkpoint_knows_the_options_of_modules_that_cannot_be_saved(
    tmp_path, monkeypatch, change, told
):
    data = cohort()

    def made():
        encoder = Power(2)
        return encoder, Classifier(
            backbone=GRAPE(d=4), schema=data.schema, encoders={"labs": encoder}
        )

    settings = {"stages": [Stage(epochs=2)], "folder": tmp_path / "run"}
    killed_after_an_epoch(monkeypatch, made()[1], data, **settings)
    encoder, model = made()
    change(encoder)
    with pytest.raises(ValueError, match=rf"another run: model was .*{told}"):
        fit(model, data, **settings)
    fit(made()[1], data, **settings)


def test_a_model_that_cannot_be_told_from_others_has_no_folder(tmp_path):
    data = cohort()
    for unknown in (lambda x: x, object(), iter([])):
        encoders = {"labs": Power(2, note=unknown)}
        model = Classifier(backbone=GRAPE(d=4), schema=data.schema, encoders=encoders)
        with pytest.raises(ValueError, match=r"cannot tell this model.*labs.*note.*leave folder="):
            fit(model, data, **one_epoch(folder=tmp_path / "run"))
        fit(model, data, **one_epoch())


def test_another_processor_or_number_of_threads_is_told(tmp_path, monkeypatch):
    data = cohort()
    settings = {"stages": [Stage(epochs=2)], "folder": tmp_path / "run"}
    model = Classifier(backbone=GRAPE(d=4), schema=data.schema)
    killed_after_an_epoch(monkeypatch, model, data, **settings)
    now = saving_module.made_with() | {"threads": 77}
    monkeypatch.setattr("dfdlib.training.loop.made_with", lambda: now)
    with pytest.warns(UserWarning, match=r"begun with threads \d+ and now 77.*not to the bit"):
        fit(Classifier(backbone=GRAPE(d=4), schema=data.schema), data, **settings)


def test_a_checkpoint_whose_bit_is_flipped_is_refused(tmp_path):
    data = cohort()
    new = [Classifier(backbone=GRAPE(d=4), schema=data.schema) for _ in range(2)]
    fit(new[0], data, **one_epoch(folder=tmp_path))
    file = tmp_path / "epoch-00001" / "checkpoint.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 4
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"'epoch-00001' is damaged .*checkpoint.saf.*Delete it"):
        fit(new[1], data, **one_epoch(folder=tmp_path))


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path):
    data = cohort()
    fit(Classifier(backbone=GRAPE(d=4), schema=data.schema), data, **one_epoch(folder=tmp_path))
    card = tmp_path / "epoch-00001" / "checkpoint.json"
    whole = json.loads(card.read_text())
    card.write_text(json.dumps({k: v for k, v in whole.items() if k not in ("format", "sha256")}))
    with pytest.raises(ValueError, match=r"earlier version of dfdlib.*Delete it, or pass another"):
        fit(Classifier(backbone=GRAPE(d=4), schema=data.schema), data, **one_epoch(folder=tmp_path))


def test_epochs_are_counted_and_leftovers_of_any_epoch_swept(tmp_path):
    dead = "4194303999"  # no process has such a number
    (tmp_path / f"epoch-00007.{dead}.part").mkdir()
    for epoch in (99_999, 100_000, 100_001):
        saving_module.write_checkpoint(tmp_path, epoch, {"w": torch.full((1,), epoch)}, {})
        found = saving_module.latest(tmp_path)
        assert found.name == f"epoch-{epoch}"
        assert [path.name for path in tmp_path.iterdir()] == [found.name]


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    code = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_checkpoints import *
        data = cohort()
        model = Classifier(backbone=GRAPE(d=4), schema=data.schema)
        fit(model, data, stages=[Stage(epochs=10**6)], folder={str(tmp_path / "run")!r})
    """)
    data = cohort()
    settings = {"stages": [Stage(epochs=10**6)], "folder": tmp_path / "run"}
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not list(tmp_path.glob("run/epoch-?????")):
            assert process.poll() is None
        with pytest.raises(RuntimeError, match=r"another process is training in 'run'. Wait until"):
            fit(Classifier(backbone=GRAPE(d=4), schema=data.schema), data, **settings)
        process.send_signal(signal.SIGKILL)
    # the lock died with it: the run goes on, and would be another one with other settings
    with pytest.raises(ValueError, match="another run: lr was"):
        fit(Classifier(backbone=GRAPE(d=4), schema=data.schema), data, **settings | {"lr": 0.5})
    (tmp_path / "file").touch()
    model = Classifier(backbone=GRAPE(d=4), schema=data.schema)
    with pytest.raises(FileExistsError, match=r"'file' is a file, and a folder is needed"):
        fit(model, data, **settings | {"folder": tmp_path / "file"})
