"""The `dfdlib` command, on tiny notebooks in a book of their own."""

import json
import os
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
import yaml
from nbformat import v4
from typer.testing import CliRunner

from dfdlib import cli
from dfdlib.data import made_up, mimic_cxr
from dfdlib.data._tables import LABELS

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
    assert cli.find_chapter(name) == book / "chapters" / "03-next-hospital.ipynb"


def test_a_chapter_is_found_by_path_from_elsewhere(book, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = cli.find_chapter("book/chapters/03-next-hospital.ipynb")
    assert found == book / "chapters" / "03-next-hospital.ipynb"


@pytest.mark.parametrize("name", ["4", "13", "next", "chapters/04-none.ipynb"])
def test_an_unknown_chapter_is_refused(book, name):
    with pytest.raises(ValueError, match=r"is no chapter.*There is: 03-next-hospital"):
        cli.find_chapter(name)


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
    chapter = cli.find_chapter("3")
    with pytest.raises(ValueError, match=r"'0' \(str\) is no int for 'seed'. The default is 0"):
        cli.check_parameters(chapter, {}, {"seed": "0"})
    with pytest.raises(ValueError, match=r"True \(bool\) is no float for 'rate'"):
        cli.check_parameters(chapter, {}, {"rate": True})
    with pytest.raises(ValueError, match="no parameter 'rte'"):
        cli.check_parameters(chapter, {}, {"rte": 1})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rate", "3", 3), ("rate", "1e-3", 0.001), ("root", "null", None), ("root", "3", "3"),
        ("root", "a: b", "a: b"), ("root", "[1", "[1"), ("fast", "false", False),
        ("sites", "[]", []),
    ],
)  # fmt: skip
def test_values_are_read_by_the_type_of_their_parameter(book, name, text, value):
    read = cli.check_parameters(cli.find_chapter("3"), {name: text})
    assert read == {name: value}
    assert type(read[name]) is type(value)


def test_an_unknown_type_comment_is_refused():
    parameter = cli.Parameter("seed", "integer", "0", "")
    with pytest.raises(ValueError, match=r"'integer', the type of 'seed', is none of bool, dict"):
        parameter.check(0)


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
    assert cli._read_file(book / "settings.yaml") == {}


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
