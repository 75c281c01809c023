"""Faulty files and awkward names: the right value, or a refusal that shows nobody's data."""

from pathlib import Path

import pandas as pd
import pytest

from dfdlib.data import from_tables

ODD_NAMES = [
    ("s[1]", "s1"), ("a*", "ab"), ("q?", "qx"), ("**", "xy"), ("[!a]", "b"), ("a[[]b", "a[b"),
    ("{a,b}", "a"), ("site=a", "b"), ("v=7", "b"), ("~", "b"), ("é ü 'q' \"d\"", "b"),
    ("$HOME", "b"), ("50%20", "50 "), ("h#1", "h"), ("http:", "b"), ("back\\slash", "b"),
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize(("name", "other"), ODD_NAMES)
def test_the_file_that_is_named_is_the_one_that_is_read(tmp_path, name, other, suffix):
    """As the name of a file and of its folder; beside it lies one that a pattern would match."""
    for where in ("file", "folder"):
        places = [Path(n + suffix) if where == "file" else Path(n, "x" + suffix)
                  for n in (name, other)]  # fmt: skip
        for place, who in zip(places, ("ME", "OTHER"), strict=True):
            (tmp_path / place).parent.mkdir(exist_ok=True)
            frame = pd.DataFrame({"id": [who], "v": [2.5]})
            if suffix == ".parquet":
                frame.to_parquet(tmp_path / place)
            else:
                frame.to_csv(tmp_path / place, index=False)
        cohort = from_tables(
            {
                "patients": {"file": str(tmp_path / places[0]), "id": "id"},
                "modalities": {"m": {"kind": "vector", "columns": ["v"]}},
            }
        )
        assert cohort.groups["patient"].tolist() == ["ME"]
        assert cohort.x["m"].tolist() == [[2.5]]
