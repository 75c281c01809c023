"""How nbval compares what a processor may round otherwise: by value, and all else as text."""

import importlib.util
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat import v4

CONFTEST = Path(__file__).parents[1] / "chapters" / "conftest.py"


@pytest.fixture(scope="module")
def by_value():
    spec = importlib.util.spec_from_file_location("chapters_conftest", CONFTEST)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ByValue


ALIKE = [
    ("AUROC 0.50 [0.41, 0.52]", "AUROC 0.51 [0.40, 0.52]"),
    ("9.99", "10.00"),
    ("x   -0.00   1.0", "x  0.00   1.0"),
    ("<td>-0.09</td>", "<td>-0.08</td>"),
    ("−0.09", "−0.08"),
    ("1,024 rows", "1,025 rows"),
    ("between -3.99 and -1: 883", "between -3.99 and -1: 884"),
]
APART = [
    ("0.50", "0.52"),
    ("0.09", "-0.09"),
    ("0.50", "0.5"),
    ("a 0.50", "b 0.50"),
    ("0.50 held", "0.50 undecided"),
    ("3 4", "3"),
    ("8 rows", "10 rows"),
    ("1,024", "2,024"),
    ("0.1", "nan"),
    ("True", "False"),
    ("seed0 0.1", "seed1 0.1"),
]


@pytest.mark.parametrize(("stored", "live"), ALIKE)
def test_one_of_the_last_digit_is_rounding(by_value, stored, live):
    assert by_value(stored) == by_value(live)
    assert not by_value(stored).__ne__(by_value(live))


@pytest.mark.parametrize(("stored", "live"), APART)
def test_more_than_that_is_another_output(by_value, stored, live):
    assert by_value(stored) != by_value(live)  # as nbval asks
    assert not by_value(stored).__eq__(by_value(live))


def table(**rows):
    return pd.DataFrame(rows, index=["a", "b"]).T._repr_html_()


WITHIN = {"": Decimal("0.05"), "causal": Decimal("0.5")}
STORED = {"DFD, concat": [0.5, 0.8], "DFD, causal": [0.5, 0.8], "penalty": [-100.0, 20.0]}
NEAR = [
    {"DFD, concat": [0.54, 0.76]},
    {"DFD, causal": [0.95, 0.31]},
    {"penalty": [-104.0, 21.0]},
]
FAR = [
    {"DFD, concat": [0.56, 0.8]},
    {"DFD, causal": [1.1, 0.8]},
    {"penalty": [-110.0, 20.0]},
    {"penalty": [100.0, 20.0]},
    {"DFD, concat": [np.nan, 0.8]},
    {"a row more": [0.5, 0.8]},
]


@pytest.mark.parametrize("changes", [*NEAR, *FAR])
def test_rows_differ_within_their_tolerance(by_value, changes):
    stored, live = by_value(table(**STORED)), by_value(table(**STORED | changes))
    stored.within = live.within = WITHIN
    assert (stored == live) == (changes in NEAR)


def test_columns_or_labels_of_others_are_another_output(by_value):
    stored = by_value(table(**STORED))
    renamed = by_value(table(**STORED).replace(">b<", ">c<"))
    swapped = by_value(table(**STORED).replace("concat", "marginal"))
    for live in (renamed, swapped):
        stored.within = live.within = WITHIN
        assert stored != live


def test_only_cells_that_are_tagged_so_are_compared_by_value(tmp_path):
    shutil.copy(CONFTEST, tmp_path)
    cells = []
    for name, *tags in (("tagged", "by-value"), ("plain",), ("wide", "within-0.02")):
        for stored, live in (("0.50", "0.51"), ("0.50", "0.53")):
            output = v4.new_output("stream", text=f"{name} {stored}\n", name="stdout")
            made = v4.new_code_cell(f"print('{name} {live}')", outputs=[output])
            made.metadata["tags"] = ["nbval-check-output", *tags]
            made.execution_count = len(cells) + 1
            cells.append(made)
    nbformat.write(v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"]
    command += ["-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "a.ipynb"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert all((f"Cell {k}" in ran.stdout) == (k in (1, 2, 3, 5)) for k in range(6))
    assert "4 failed, 2 passed" in ran.stdout
