"""The `dfdlib` command, on tiny notebooks in a book of their own."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from nbformat import v4
from typer.testing import CliRunner

from dfdlib import cli
from dfdlib.book import made_up, parameters
from dfdlib.data import mimic_cxr
from dfdlib.data.clinical.schemas import LABELS

PARAMETERS = """\
seed = 0  # type: int one seed for the run
rate = 0.001  # type: float learning rate
backbone = "grape"  # type: Literal['grape','transformer'] who passes messages
sites = ["va"]  # type: list[str] hospitals to hold out
root = None  # type: str|None folder of your own data
fast = True  # type: bool
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of one chapter that writes down where it ran and with what."""
    chapters = tmp_path / "book" / "chapters"
    chapters.mkdir(parents=True)
    (tmp_path / "book" / "_toc.yml").write_text("format: jb-book\n")
    (chapters / "beside.txt").write_text("found")
    cells = [
        v4.new_markdown_cell("# The next hospital\n\nText."),
        v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        v4.new_code_cell("assert rate < 1, 'rate is too large'"),
        v4.new_code_cell("print(open('beside.txt').read(), seed, rate, backbone, sites, root)"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(
        v4.new_notebook(cells=cells, metadata=kernel), chapters / "03-next-hospital.ipynb"
    )
    monkeypatch.chdir(tmp_path / "book")
    return tmp_path / "book"


def dfdlib(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def printed(path):
    cells = json.loads(path.read_text())["cells"]
    return "".join(line for output in cells[-1]["outputs"] for line in output["text"]).strip()


@pytest.mark.parametrize("name", ["3", "03", "next-hospital", "03-next-hospital"])
def test_a_chapter_is_found_by_number_and_name(book, name):
    assert parameters.find_chapter(name) == book / "chapters" / "03-next-hospital.ipynb"


def test_a_chapter_is_found_by_path_from_elsewhere(book, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = parameters.find_chapter("book/chapters/03-next-hospital.ipynb")
    assert found == book / "chapters" / "03-next-hospital.ipynb"


@pytest.mark.parametrize("name", ["4", "13", "next", "chapters/04-none.ipynb"])
def test_an_unknown_chapter_is_refused(book, name):
    with pytest.raises(ValueError, match=r"is no chapter.*There is: 03-next-hospital"):
        parameters.find_chapter(name)


def test_without_what_runs_notebooks_run_says_what_to_install(book, monkeypatch):
    monkeypatch.setitem(sys.modules, "papermill", None)
    result = dfdlib("run", "3")
    assert result.exit_code == 2
    assert 'needs papermill, which is not installed. Type: pip install "dfdlib[book]"' in (
        result.stderr
    )


def test_run_writes_the_finished_notebook_and_nothing_else(book):
    result = dfdlib(
        "run", "3", "-p", "seed", "4", "-p", "rate", "1e-2", "--parameter", "sites", "[a, b]"
    )
    assert result.exit_code == 0, result.output
    out = book / "runs" / "03-next-hospital.ipynb"
    assert result.stdout.strip() == str(out)
    assert printed(out) == "found 4 0.01 grape ['a', 'b'] None"
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_run_reads_a_file_and_the_command_line_wins(book, tmp_path, monkeypatch):
    settings = tmp_path / "paper.yaml"
    settings.write_text(yaml.safe_dump({"seed": 1, "rate": 1, "backbone": "transformer"}))
    monkeypatch.chdir(tmp_path)  # from any folder, with any output
    chapter, out = book / "chapters" / "03-next-hospital.ipynb", tmp_path / "new" / "run.ipynb"
    result = dfdlib("run", chapter, "-f", settings, "-p", "rate", "0.5", "--out", out)
    assert result.exit_code == 0, result.output
    assert printed(out) == "found 1 0.5 transformer ['va'] None"


def test_a_failed_run_leaves_no_finished_file_and_names_the_cell(book):
    result = dfdlib("run", "3", "-p", "rate", "2")
    assert result.exit_code == 1
    assert "failed in cell [3]" in result.stderr
    assert "assert rate < 1" in result.stderr
    assert "AssertionError: rate is too large" in result.stderr
    assert not (book / "runs" / "03-next-hospital.ipynb").exists()
    assert (book / "runs" / "03-next-hospital.ipynb.part").exists()


# ---------------------------------------------------------------- what the book reports

REPORTED = """\
03-next-hospital:
  doubled: {value: 8, atol: 1, source: chapter}
  site: {value: "va", atol: 0, source: chapter}
  kept: {value: 0.61, atol: 0.01, source: results/a.json}
"""


@pytest.fixture
def reporting(book):
    """The book of one chapter, with numbers that it glues and reports."""
    path = book / "chapters" / "03-next-hospital.ipynb"
    notebook = nbformat.read(path, as_version=4)
    lines = 'glue("doubled", 2 * seed)\nglue("site", sites[0])\nglue("kept", 0.6123, digits=2)'
    notebook.cells.append(v4.new_code_cell(f"from dfdlib.book import glue\n{lines}"))
    nbformat.write(notebook, path)
    (book / "tests").mkdir()
    (book / "tests" / "expected.yaml").write_text(REPORTED)
    return book


def test_a_run_is_compared_with_what_the_book_reports(reporting):
    result = dfdlib("run", "3", "--compare", "-p", "seed", "4")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[:4] == [
        ["yours", "ours", "tolerance", "inside", "from"],
        ["doubled", "8", "8", "1", "yes", "this", "run"],
        ["site", "va", "va", "0", "yes", "this", "run"],
        ["kept", "0.61", "0.61", "0.01", "yes", "results/a.json"],
    ]
    assert (
        "3 of 3 numbers are inside their tolerance. This run computed 2; 1 were read from stored "
        "results\nThe book was computed with its own seed: other numbers are no error"
    ) in result.stdout
    assert result.stdout.splitlines()[-1].endswith("03-next-hospital.ipynb")


@pytest.mark.parametrize(
    ("old", "new", "row"),
    [
        ("value: 8", "value: 10", "doubled 8 10 1 NO this run"),
        ('"va"', '"hungary"', "site va hungary 0 NO this run"),
        ("kept:", "gone:", "gone – 0.61 0.01 NO results/a.json"),
    ],
)
def test_a_number_outside_its_tolerance_is_an_error(reporting, old, new, row):
    path = reporting / "tests" / "expected.yaml"
    path.write_text(path.read_text().replace(old, new))
    result = dfdlib("run", "3", "--compare", "-p", "seed", "4")
    assert result.exit_code == 1
    assert row in [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "1 outside. The run is in" in result.stderr
    assert (reporting / "runs" / "03-next-hospital.ipynb").exists()


def test_what_another_processor_moves_is_compared_by_its_own_tolerance_or_shown(reporting):
    path = reporting / "tests" / "expected.yaml"
    entry = "{value: 20, atol: 1, elsewhere: %s, source: chapter}"
    path.write_text(REPORTED.replace("{value: 8, atol: 1, source: chapter}", entry % "shown"))
    result = dfdlib("run", "3", "--compare", "-p", "seed", "4")
    assert result.exit_code == 0, result.output
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "doubled 8 20 shown – this run" in rows
    assert "2 of 2 numbers are inside their tolerance" in result.stdout
    assert "1 are shown and not compared: they differ from one processor" in result.stdout
    for elsewhere, exit_code in ((12, 0), (11, 1)):
        path.write_text(REPORTED.replace("{value: 8, atol: 1, source: chapter}", entry % elsewhere))
        assert dfdlib("run", "3", "--compare", "-p", "seed", "4").exit_code == exit_code


def test_without_reported_numbers_nothing_is_compared(reporting, monkeypatch):
    path = reporting / "tests" / "expected.yaml"
    path.write_text("")
    result = dfdlib("run", "3", "--compare")
    assert result.exit_code == 0
    assert "03-next-hospital reports no numbers" in result.stdout
    path.unlink()
    result = dfdlib("run", "3", "--compare")
    assert result.exit_code == 2
    assert "tests/expected.yaml, which holds the reported numbers, is not there" in result.stderr


def test_a_name_that_is_glued_twice_is_refused(reporting):
    path = reporting / "chapters" / "03-next-hospital.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(v4.new_code_cell('glue("site", "abbey")'))
    nbformat.write(notebook, path)
    result = dfdlib("run", "3", "--compare")
    assert result.exit_code == 2
    assert "'site' is glued twice. Give each number a name of its own" in result.stderr


def test_an_unknown_parameter_is_refused_before_anything_runs(book):
    result = dfdlib("run", "3", "-p", "sed", "4")
    assert result.exit_code == 2
    assert "has no parameter 'sed'. Did you mean 'seed'?" in result.stderr
    assert "seed, rate, backbone, sites, root, fast" in result.stderr
    assert not (book / "runs").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("seed", "3.0"), ("seed", "true"), ("seed", "three"), ("rate", "fast"), ("rate", "yes"),
        ("backbone", "graep"), ("sites", "va"), ("sites", "[1, 2]"), ("fast", "1"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(book, name, text):
    result = dfdlib("run", "3", "-p", name, text)
    assert result.exit_code == 2
    assert f"'{name}'. The default is" in result.stderr
    assert not (book / "runs").exists()


def test_a_typed_value_of_another_type_is_refused(book):
    chapter = parameters.find_chapter("3")
    with pytest.raises(ValueError, match=r"'0' \(str\) is no int for 'seed'. The default is 0"):
        parameters.check_parameters(chapter, {}, {"seed": "0"})
    with pytest.raises(ValueError, match=r"True \(bool\) is no float for 'rate'"):
        parameters.check_parameters(chapter, {}, {"rate": True})
    with pytest.raises(ValueError, match="no parameter 'rte'"):
        parameters.check_parameters(chapter, {}, {"rte": 1})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rate", "3", 3), ("rate", "1e-3", 0.001), ("root", "null", None), ("root", "3", "3"),
        ("root", "a: b", "a: b"), ("root", "[1", "[1"), ("fast", "false", False),
        ("sites", "[]", []),
    ],
)  # fmt: skip
def test_values_are_read_by_the_type_of_their_parameter(book, name, text, value):
    read = parameters.check_parameters(parameters.find_chapter("3"), {name: text})
    assert read == {name: value}
    assert type(read[name]) is type(value)


def test_an_unknown_type_comment_is_refused():
    parameter = parameters.Parameter("seed", "integer", "0", "")
    with pytest.raises(ValueError, match=r"'integer', the type of 'seed', is none of bool, dict"):
        parameter.check(0)


def read(kind, text):
    return parameters.Parameter("p", kind, "0", "").read(text)


@pytest.mark.parametrize(
    "text",
    [
        "/data/hospital #2", ": x", "a: b", "yes", "1e3", "010", "", " a ", "[a]", "{a", "null",
        "~", "'q'", '"q"', "-x", "a=b", "*a", "!x", "é", "2024-01-01", "#", "a\nb",
    ],
)  # fmt: skip
def test_a_str_is_taken_as_typed(book, text):
    for kind in ("str", "str | None") if text != "null" else ("str",):
        assert read(kind, text) == text
    notebook = book / "one.ipynb"
    (book / "chapters" / "03-next-hospital.ipynb").rename(notebook)
    cells = json.loads(notebook.read_text())
    cells["cells"][1]["source"] = "root = ''  # type: str\n"
    cells["cells"][2:] = [v4.new_code_cell("print(ascii(root), end='')")]
    notebook.write_text(json.dumps(cells))
    if text in ("/data/hospital #2", "", "-x", "a\nb", "é"):  # through the kernel, too
        result = dfdlib("run", notebook, "-p", "root", text)
        assert result.exit_code == 0, result.output
        assert printed(book / "runs" / "one.ipynb") == ascii(text)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "1_000", 1000), ("int", " 3 ", 3), ("int", "-4", -4),
        ("float", "inf", float("inf")), ("float", "-.inf", -float("inf")), ("float", ".5", 0.5),
        ("bool", "yes", True), ("bool", "on", True), ("bool", "OFF", False),
        ("list[str]", "['010', 'yes', a b]", ["010", "yes", "a b"]),
        ("list[float]", "[1e-3, 2]", [0.001, 2]),
        ("dict", "{on: 2024-01-01, code: 010, rate: 1e-3, 1: [x, null]}",
         {"on": "2024-01-01", "code": "010", "rate": 0.001, "1": ["x", None]}),
        ("dict[str, int]", "{a: 1}", {"a": 1}),
        ("int | None", "3", 3), ("int | None", "null", None), ("str | None", "None", None),
        ("str | int", "3", 3), ("str | int", "03", "03"), ("int|list[int]", "[3]", [3]),
        ('Literal["one two", 1, None]', "one two", "one two"), ("Literal['a', 1, -2]", "-2", -2),
        ("Literal['yes', 'no']", "yes", "yes"), ("None", "[1, a]", [1, "a"]),
    ],
)  # fmt: skip
def test_a_word_is_read_by_its_type(kind, text, value):
    found = read(kind, text)
    assert found == value
    assert type(found) is type(value)
    assert math.isnan(read("float", "nan"))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int", "010"), ("int", "0x10"), ("int", "1e3"), ("int", "1:30"), ("int", "\u0663"),
        ("int", "9" * 5000), ("int", ""), ("float", "1:30"), ("float", "010"), ("bool", "1"),
        ("list[int]", "[010]"), ("list[int]", "['1']"), ("list[str]", "[yes]"),
        ("list[str]", "[a] # b"), ("list[str]", "[&a x, *a]"), ("list[str]", "[" * 3000),
        ("dict", "{a: 1, a: 2}"), ("dict", "{a: !!python/name:os.system x}"), ("dict", "!!set {a}"),
        ("dict[str, int]", "{a: b}"), ("int | None", "x"), ("Literal['one']", "one "),
        ("Literal[1]", "true"), ("str", "\udcff"),
    ],
)  # fmt: skip
def test_what_is_not_of_the_type_is_refused(kind, text):
    with pytest.raises(ValueError, match=r" for 'p'\. The default is 0\.") as caught:
        read(kind, text)
    assert len(str(caught.value)) < 300


def test_a_refusal_says_what_to_type():
    with pytest.raises(ValueError, match=r"'010' is no int .* without a leading zero: 10\.$"):
        read("int", "010")
    with pytest.raises(ValueError, match=r"in quotes: \['010'\]"):
        read("list[str]", "[010]")


@pytest.mark.parametrize(
    "kind",
    [
        "list[__import__('os').mkdir('proof')]", "[c for c in ()]", "(lambda: 0)()", "f'{1}'",
        "int if 1 else str", "str.__class__", "tuple[int]", "list[int, str]", "dict[int, str]",
        "Literal[1 + 1]", "Literal[b'a']", "int or str", "(" * 400, "-" * 499 + "1", "\0",
        "list[" * 99 + "int", "int |" * 5000 + "int",
    ],
)  # fmt: skip
def test_a_type_is_parsed_and_never_evaluated(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"the type of 'p', is none of bool, dict"):
        read(kind, "1")
    assert not list(tmp_path.iterdir())


def notebook_of(tmp_path, source, **metadata):
    path = tmp_path / "it.ipynb"
    cell = v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "language": "python", "display_name": "p"} | metadata
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("# h"), cell])
    notebook.metadata["kernelspec"] = kernel
    path.write_text(json.dumps(notebook))
    return path


HOSTILE = """\
x = __import__("os").mkdir("proof")  # type: int \x1b[2J
y = 1  # type: [c('mkdir proof')for(c)in[__import__('os').system]] help
open("proof", "w")
"""


def test_listing_a_hostile_notebook_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = notebook_of(tmp_path, HOSTILE, name="mkdir proof")
    listed = dfdlib("run", path, "--help-parameters")
    assert listed.exit_code == 0, listed.output
    assert "\x1b" not in listed.stdout
    assert [line.split(":")[0] for line in listed.stdout.splitlines()] == ["  x", "  y"]
    assert parameters.check_parameters(path, {"x": "1"}) == {"x": 1}
    with pytest.raises(ValueError, match="the type of 'y', is none of"):
        parameters.check_parameters(path, {"y": "1"})
    assert [one.name for one in tmp_path.iterdir()] == ["it.ipynb"]
    result = dfdlib("run", path, "-p", "x", "1")
    assert result.exit_code == 1
    assert "asks for the kernel 'mkdir proof', which is not installed" in result.stderr


def test_parameters_are_read_as_python_reads_the_cell(tmp_path):
    source = (
        "%matplotlib inline\n"
        "root = 'a=b # c'  # type: str | None where = what\n"
        "sizes = {\n    'a': 1,  # no help\n}  # type: dict[str, int] two words\n"
        'who: "int" = 3  # of them\n'
        'word = "one"  # type: Literal["one", "two #2"] which\n'
        "plain = 5 # no type\n"
    )
    found = parameters.parameters_of(notebook_of(tmp_path, source)).values()
    assert [(one.name, one.kind, one.help) for one in found] == [
        ("root", "str | None", "where = what"), ("sizes", "dict[str, int]", "two words"),
        ("who", "int", "of them"), ("word", 'Literal["one", "two #2"]', "which"),
        ("plain", "None", "no type"),
    ]  # fmt: skip
    assert next(iter(found)).default == "'a=b # c'"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "is no notebook"), ("{}", "is no notebook"), ("{'", "is no notebook"),
        ('{"cells": [{"cell_type": 3}]}', "is no notebook"),
    ],
)  # fmt: skip
def test_what_is_no_notebook_is_refused(tmp_path, text, said):
    (tmp_path / "a.ipynb").write_text(text)
    result = dfdlib("run", tmp_path / "a.ipynb", "--help-parameters")
    assert result.exit_code == 2
    assert f"a.ipynb {said}" in result.stderr


def test_a_parameters_cell_that_is_no_python_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cell of it.ipynb is no Python, line 2\. Write lines"):
        parameters.parameters_of(notebook_of(tmp_path, "a = 1\nb = ="))
    with pytest.raises(ValueError, match=r"cell of it.ipynb is no Python"):
        parameters.parameters_of(notebook_of(tmp_path, "a = " + "(" * 100_000))


def from_file(book, line):
    (book / "s.yaml").write_text(line, encoding="utf8")
    values = parameters.read_parameters(book / "s.yaml")
    return parameters.check_parameters(parameters.find_chapter("3"), {}, values)


def test_a_file_is_read_by_the_same_rules(book):
    text = "seed: 1_000  # a comment\nrate: 1e-3\nroot: 'a #2'\nfast: yes\nsites: ['010', é]\n"
    assert from_file(book, text) == {
        "seed": 1000, "rate": 0.001, "root": "a #2", "fast": True, "sites": ["010", "é"],
    }  # fmt: skip
    assert from_file(book, "root: null") == {"root": None}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("seed: 010", "'010' is no int for 'seed'"),
        ("root: 010", r"'010' is no str|None for 'root'"),
        ("sites: [2024-01-01]", "is no list"),
        ("seed: [1]", "what stands there is no int"),
        ("root: /data/hospital #2", "the value of 'root' goes on behind a #.*in quotes"),
        ("seed: 1\nseed: 2", "'seed' stands there twice. Write each name once"),
        ("seed: &a 1\nrate: *a", "is no YAML: an alias"),
        ("seed: !!python/object:os.system x", "is no int"),
        ("[1]: 2", "a name is a word"),
    ],
)
def test_a_file_refuses_what_the_command_line_refuses(book, line, said):
    with pytest.raises(ValueError, match=said.replace("|", r"\|")):
        from_file(book, line)


def test_names_in_braces_stay_as_typed(book, tmp_path):
    chapter = book / "chapters" / "{seed} {x}.ipynb"
    (book / "chapters" / "03-next-hospital.ipynb").rename(chapter)
    result = dfdlib(
        "run", chapter, "-p", "seed", "7", "--out", tmp_path / "{pm[run_uuid]}" / "{x}.ipynb"
    )
    assert result.exit_code == 0, result.output
    (out,) = (tmp_path / "{pm[run_uuid]}").iterdir()
    assert out.name == "{x}.ipynb"
    assert printed(out).startswith("found 7")


def test_two_runs_with_one_output_do_not_meet(book, monkeypatch):
    """While a run works, its unfinished file has a name of its own."""
    seen = []
    replace = Path.replace

    def noted(self, target):
        seen.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    for _ in range(2):
        assert dfdlib("run", "3").exit_code == 0
    assert len(set(seen)) == 2
    assert [path.name for path in (book / "runs").iterdir()] == ["03-next-hospital.ipynb"]


def test_a_place_that_takes_no_file_is_said_before_anything_runs(book, monkeypatch):
    monkeypatch.setattr(cli, "execute", lambda *_: pytest.fail("it ran"))
    (book / "full").write_text("a file where a folder is meant")
    result = dfdlib("run", "3", "--out", book / "full" / "a.ipynb")
    assert result.exit_code == 2
    assert "nothing can be written into" in result.stderr
    assert "--out FOLDER" in result.stderr


def test_a_kernel_that_dies_is_said_in_words(book):
    chapter = book / "chapters" / "03-next-hospital.ipynb"
    cells = json.loads(chapter.read_text())
    cells["cells"][2]["source"] = "import os; os._exit(9)"
    chapter.write_text(json.dumps(cells))
    result = dfdlib("run", "3")
    assert result.exit_code == 1
    assert "the process that runs its cells died" in result.stderr
    assert (book / "runs" / "03-next-hospital.ipynb.part").exists()


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (["-p", "seed"], "'seed'"),
        (["-p"], "None"),
        (["-pseed"], "'-pseed'"),
        (["-p", "seed=3", "-p", "backbone", "transformer"], "'seed=3'"),
        (["-p", "seed", "-p", "rate", "1"], "'seed'"),
    ],
)
def test_a_pair_needs_a_name_and_a_value(book, words, got):
    result = dfdlib("run", "3", *words)
    assert result.exit_code == 2
    assert f"-p takes a name and a value, got {got}: -p seed 3" in result.stderr
    assert not (book / "runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- seed", "settings.yaml holds list, no names and values. Write lines such as seed: 3"),
        ("3", "settings.yaml holds int, no names and values. Write lines such as seed: 3"),
        ("seed: [1", "settings.yaml is no YAML: while parsing"),
        ("1: 2", "has no parameter '1'. There is: seed"),
    ],
)
def test_a_file_that_holds_no_parameters_is_refused(book, text, said):
    (book / "settings.yaml").write_text(text)
    result = dfdlib("run", "3", "-f", "settings.yaml")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (book / "runs").exists()


def test_a_folder_of_parameters_is_refused_and_an_empty_file_is_none(book):
    result = dfdlib("run", "3", "-f", book)
    assert result.exit_code == 2
    assert "is a directory" in result.stderr
    (book / "settings.yaml").write_text("")
    assert dfdlib("run", "3", "--help-parameters", "-f", "settings.yaml").exit_code == 0
    assert parameters.read_parameters(book / "settings.yaml") == {}


def test_a_missing_path_is_not_taken_for_a_chapter_of_that_name(book):
    result = dfdlib("run", "/nowhere/03-next-hospital.ipynb", "--help-parameters")
    assert result.exit_code == 2
    assert "is no chapter: no such file. Did you mean '03-next-hospital'?" in result.stderr


def test_a_run_does_not_overwrite_its_chapter(book):
    before = (book / "chapters" / "03-next-hospital.ipynb").read_bytes()
    result = dfdlib("run", "3", "--out", "chapters")
    assert result.exit_code == 2
    assert "is the chapter itself" in result.stderr
    assert (book / "chapters" / "03-next-hospital.ipynb").read_bytes() == before


def test_chapters_and_help_parameters_list_names_types_defaults(book):
    listed = dfdlib("chapters")
    assert listed.exit_code == 0, listed.output
    assert listed.stdout.splitlines()[0] == "03-next-hospital: The next hospital"
    assert "  seed: int = 0  one seed for the run" in listed.stdout
    one = dfdlib("run", "3", "--help-parameters")
    assert one.stdout.splitlines() == listed.stdout.splitlines()[1:]
    assert not (book / "runs").exists()


def test_help_starts_without_torch(book):
    code = "import sys; from dfdlib import cli; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


# ---------------------------------------------------------------- dfdlib data


@pytest.fixture
def raw(tmp_path):
    """One table of eICU, and nothing else."""
    folder = tmp_path / "raw"
    folder.mkdir()
    header = "hospitalid,numbedscategory,teachingstatus,region\n"
    (folder / "Hospital.csv").write_text(header + "56,<100,f,Midwest\n59,<100,t,\n")
    return folder


def test_data_ingest_writes_parquet_and_says_what_there_is(raw, tmp_path):
    words = ("data", "ingest", "eicu", "--root", raw, "--out", tmp_path / "out")
    result = dfdlib(*words, "--table", "hospital", "--memory", "1GB", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["hospital", "2", "rows", "eicu,", "version", "unknown:",
                                     str(tmp_path / "out")]  # fmt: skip
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["tables"]["hospital"]["rows"] == 2


def test_data_ingest_says_what_is_missing_without_a_traceback(raw, tmp_path):
    result = dfdlib("data", "ingest", "eicu", "--root", raw, "--out", tmp_path / "out",
                    "--table", "hospital", "--table", "lab", "--skip", "Hospital")  # fmt: skip
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: lab of the eICU")
    assert "https://physionet.org/content/eicu-crd/2.0/" in result.stderr
    assert not (tmp_path / "out").exists()


def test_data_ingest_counts_what_is_no_number(raw, tmp_path):
    header = "subject_id,study_id," + ",".join(LABELS)
    (raw / "mimic-cxr-2.0.0-chexpert.csv").write_text(
        f"{header}\n10000032,50414267,{'1.0,' * 13}yes\n10000032,53189527,{'-1.0,' * 13}\n"
    )
    result = dfdlib("data", "ingest", "mimic-cxr", "--root", raw, "--out", tmp_path / "out",
                    "--table", "chexpert")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "2 rows  not numbers, and left out: 1 of Support Devices" in result.stdout


def test_data_convert_makes_the_array_that_load_reads(tmp_path):
    root = made_up.write("mimic_cxr", tmp_path / "raw", n=12, seed=0, pixels=20)
    words = ("data", "convert", "mimic-cxr", "--root", root, "--size", "16")
    result = dfdlib(*words, "--workers", "1")
    assert result.exit_code == 0, result.output
    pairs = len(mimic_cxr.load(root, size=16))
    assert result.stdout == f"{pairs} pairs of 16 px: {root / 'dfdlib-16'}\n"
    assert dfdlib(*words).stdout == result.stdout

    image = pd.read_parquet(root / "dfdlib-16" / "images.parquet")["dicom_id"][0]
    (file,) = (root / "files").rglob(f"{image}.jpg")
    file.write_bytes(file.read_bytes()[:99])
    elsewhere = dfdlib(*words, "--out", tmp_path / "out")
    assert elsewhere.exit_code == 0, elsewhere.output
    left = len(mimic_cxr.load(tmp_path / "out", size=16))
    assert left < pairs
    assert elsewhere.stdout.startswith(f"{left} pairs of 16 px: {tmp_path / 'out'}")
    assert "images left out: 1 (unreadable.csv)" in elsewhere.stdout


def test_data_convert_says_what_is_wrong_without_a_traceback(tmp_path):
    result = dfdlib("data", "convert", "eicu", "--root", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: 'eicu' is not a data set of images (mimic-cxr)")
    result = dfdlib("data", "convert", "mimic-cxr", "--root", tmp_path)
    assert result.exit_code == 1
    assert "https://physionet.org/content/mimic-cxr-jpg/" in result.stderr


def test_data_download_takes_a_name_and_says_which_there_are(tmp_path):
    result = dfdlib("data", "download", "eicu", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "'eicu' is not a demo" in result.stderr
    assert "Did you mean 'eicu-demo'?" in result.stderr


def test_data_download_fetches_from_a_mirror(monkeypatch, tmp_path):
    got = []

    def fetch(name, out, *, mirror):
        got.append((name, out, mirror))
        return out

    monkeypatch.setattr("dfdlib.data.download.download", fetch)
    result = dfdlib("data", "download", "eicu-demo", "--out", tmp_path, "--mirror", "http://near/")
    assert result.exit_code == 0, result.output
    assert got == [("eicu-demo", tmp_path, "http://near/")]
    assert result.stdout.strip() == str(tmp_path)


def test_data_template_is_written_once(tmp_path):
    shown = dfdlib("data", "template")
    assert isinstance(yaml.safe_load(shown.stdout), dict)
    out = tmp_path / "mine.yaml"
    assert dfdlib("data", "template", "--out", out).exit_code == 0
    assert out.read_text() == shown.stdout
    again = dfdlib("data", "template", "--out", out)
    assert again.exit_code == 1
    assert "is there already. Name another file after --out" in again.stderr
