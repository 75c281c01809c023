"""`dfdlib stress my_module:make`, as a stranger types it."""

import pytest
from typer.testing import CliRunner

from dfdlib import stress
from dfdlib.cli import app

METHOD = """
from sklearn.linear_model import LogisticRegression
from dfdlib import stress
make = stress.flat(LogisticRegression())
"""


def call(*words):
    return CliRunner().invoke(app, ["stress", *words])


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "a_method_of_mine.py").write_text(METHOD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_method_in_the_working_folder_is_run_and_saved(here):
    words = ["a_method_of_mine:make", "--kind", "linear", "--seeds", "1", "--patients", "100"]
    done = call(*words, "--save", "rows")
    assert done.exit_code == 0, done.output
    assert "randomised" in done.output
    rows = stress.read_rows(here / "rows")
    assert set(rows["file"]) == {"open-make.json"}
    command = "dfdlib stress a_method_of_mine:make --half open --seeds 1 --kind linear"
    assert set(rows["command"]) == {f"{command} --patients 100"}
    assert len(list((here / "runs" / "stress" / "linear").glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a_method_of_mine"], "'a_method_of_mine' names no function. Type my_module:make"),
        (["no_such_module:make"], "there is no module 'no_such_module'. Type this in the folder"),
        (["a_method_of_mine:mak"], "'mak' is not a name in a_method_of_mine .*mean 'make'"),
        (["a_method_of_mine:make", "--half", "shut"], "'shut' is not a half"),
        (["a_method_of_mine:make", "--kind", "liner"], "Did you mean 'linear'"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line(here, words, message):
    done = call(*words)
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(done.output)
