"""A chapter's methods on your own patients: what leaves the page are aggregates of ten and more.

Every chapter that compares methods on a cohort ends with `on_your_own(…)`. With the parameter
`dataset` empty it says how to run it; else it trains the chapter's methods on the cohort named and
writes what it shows beside the output of `dfdlib run`, by default below `runs/`, and nowhere else.
"""

import inspect
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import count
from pathlib import Path

import pandas as pd

from dfdlib import data
from dfdlib.book import made_up
from dfdlib.book.chapter import book_root, brought, results_folder, writable
from dfdlib.book.suppression import FEW, few, hide_few, pooled, presence, shares
from dfdlib.data import Cohort, Schema
from dfdlib.data.clinical.extract import open_extract
from dfdlib.errors import unknown
from dfdlib.evaluation import Report, compare, evaluate
from dfdlib.models import Method, Stage
from dfdlib.training import fit

__all__ = [
    "FEW",
    "few",
    "hide_few",
    "on_your_own",
    "own_cohort",
    "own_folder",
    "pooled",
    "presence",
    "shares",
]

DATASETS = ("eicu", "mimic_iv", "adni", "made-up eicu")
# the chapters that end with `pairs_on_your_own` of dfdlib.book.own_pairs
OF_PAIRS = ("20-ten-per-cent-of-the-labels", "21-what-does-the-sharing")
_SITES = ("site", "region", "period")  # what stands for the hospital, where there is none


def own_cohort(dataset: str, root: str = "") -> Cohort:
    """Load the cohort that `-p dataset … -p root …` names.

    Args:
        dataset: `eicu`, `mimic_iv` or `adni`, with `root`; `made-up eicu`, patients that nobody is,
            to try it; or a YAML file for `from_tables`.
        root: the folder of the files; for a YAML file, where it lies.

    Returns:
        The cohort, with a group `site`: the hospital, or the region or period that stands for it;
        those of fewer than ten patients are one, `other`. A modality of which a table is not there
        is left out, with a warning.

    Raises:
        ValueError: An unknown data set, or no root; or as the loader.
        FileNotFoundError: As the loader.

    Example:
        >>> own_cohort("eicu")
        Traceback (most recent call last):
        ValueError: dataset 'eicu' needs the folder of its files. Add -p root FOLDER
    """
    if dataset.endswith((".yaml", ".yml")):
        brought(dataset)
        tables = found_path(root) / dataset if root else found_path(dataset)
        return _with_site(data.from_tables(tables))
    if dataset.endswith("mimic_cxr"):
        raise ValueError(
            f"{dataset!r} holds pairs of pictures, which this chapter's methods do not read. Run "
            f"{' or '.join(OF_PAIRS)} with these parameters"
        )
    if dataset not in DATASETS:
        error = unknown(dataset, DATASETS, "data set to run on")
        raise ValueError(f"{error} Or name a file for from_tables: -p dataset tables.yaml")
    brought(dataset)
    if dataset == "made-up eicu":
        with tempfile.TemporaryDirectory() as folder:
            made_up.write("eicu", folder, n=1500, seed=0)
            return _with_site(data.load("eicu", root=folder))
    if not root:
        raise ValueError(f"dataset {dataset!r} needs the folder of its files. Add -p root FOLDER")
    folder = str(found_path(root))
    if dataset == "adni":
        return _with_site(data.load("adni", root=folder))
    return _with_site(data.load(dataset, root=folder, modalities=_there(dataset, folder)))


def _there(dataset: str, folder: str) -> list[str]:
    """The modalities read by default whose tables are in the folder."""
    module = import_module(f"dfdlib.data.{dataset}")
    wanted = inspect.signature(module.load).parameters["modalities"].default
    with open_extract(dataset, folder, "4GB") as extract:  # type: ignore[arg-type]
        files = set(extract.files)
    notes = {"notes": ("discharge",)}
    tables = {name: module.MODALITIES[name].tables for name in wanted if name not in notes} | notes
    there = [name for name in wanted if files >= {table.lower() for table in tables[name]}]
    if lacking := [name for name in wanted if name not in there]:
        warnings.warn(
            f"without {', '.join(lacking)}: their tables are not in the folder",
            UserWarning,
            stacklevel=3,
        )
    return there or list(wanted)  # none at all: the loader says which file it looked for


def found_path(path: str) -> Path:
    """Find a path as typed, or else seen from the folder of the book: chapters run in their own."""
    typed = Path(path).expanduser()
    beside = book_root() / typed
    return beside if not typed.exists() and beside.exists() else typed


def _with_site(cohort: Cohort) -> Cohort:
    stands = next((name for name in _SITES if name in cohort.groups), None)
    if stands not in (None, "site"):
        cohort = cohort._with(groups={**cohort.groups, "site": cohort.groups[stands]})
    for name in _SITES:
        cohort = pooled(cohort, name)
    return cohort


def own_folder(chapter: str, **settings: object) -> Path:
    """Make the one folder that a chapter writes to on data that the user brought.

    It lies beside the output that `dfdlib run` was told, else in `runs/` of the book.

    Args:
        chapter: its name.
        settings: what tells one run from another, such as seed=0: each has a folder of its own.

    Raises:
        ValueError: nothing can be written there; says so before anything is computed.
    """
    words = [f"{name}-{_word(value)}" for name, value in settings.items()]
    folder = results_folder() / chapter
    return writable(folder / "-".join(words) if words else folder)


def _word(value: object) -> str:
    """A value as it stands in the name of a file; of a path, its last part."""
    text = Path(str(value)).stem if str(value).endswith((".yaml", ".yml")) else str(value)
    return re.sub(r"[^\w.+]+", "-", text).strip("-")


def on_your_own(
    methods: Mapping[str, Callable[[Schema], Method]],
    *,
    dataset: str,
    root: str,
    chapter: str,
    seed: int = 0,
    epochs: tuple[int, int] | Mapping[str, tuple[int, int]] = (4, 20),
    n_boot: int = 2000,
) -> pd.DataFrame | None:
    """Train a chapter's methods on your own patients, and compare each with the first.

    Patients are split 70 : 10 : 20, by patient. Scores are of the last fifth, with 95 % intervals
    that draw patients; the difference to the first method is paired. The table also goes to
    `own_folder(CHAPTER)`, a JSON file for each method, whose name tells data, rows (in tens), seed
    and epochs; another result of that name is kept.

    Args:
        methods: by name, what makes a new one for a schema; the first is the reference.
        dataset: as for `own_cohort`; "" only says how to run it.
        root: as for `own_cohort`.
        chapter: its name, such as "09-where-the-truth-is-known".
        seed: of split, weights and bootstrap.
        epochs: of the first stage, without the term of information, and of the second; or such a
            pair for each method.
        n_boot: bootstrap replicates.
    """
    if not dataset:
        print(f"To train {', '.join(methods)} on your own patients:")
        print(f"papermill chapters/{chapter}.ipynb \\")
        print("    out.ipynb -p dataset eicu -p root FOLDER")
        return None
    folder = own_folder(chapter)
    cohort = own_cohort(dataset, root)
    train, val, test = cohort.split((0.7, 0.1, 0.2), by="patient", seed=seed)
    by = ("site",) if "site" in cohort.groups else ()
    size = 512 if len(train) > 10_000 else 128  # so that a small cohort has enough steps
    reports: dict[str, Report] = {}
    for name, make in methods.items():
        model = make(train.schema)
        first, second = epochs[name] if isinstance(epochs, Mapping) else epochs
        quiet = {"mi_weight": 0} if "mi_weight" in model.stage_options else {}
        stages = [Stage(epochs=first, **quiet)] if first else []
        stages.append(Stage(epochs=second))
        with warnings.catch_warnings():  # the method's own warnings stand in its chapter
            warnings.simplefilter("ignore", UserWarning)
            fit(model, train, val, stages=stages, batch_size=size, lr=3e-3, seed=seed)
        reports[name] = evaluate(model, test, by=by, n_boot=n_boot, seed=seed)
    table = hide_few(_beside_the_first(reports, n_boot, seed))
    told = {"dataset": Path(dataset).stem, "size": len(cohort) // FEW * FEW, "seed": seed}
    each = {
        name: {"epochs": list(epochs[name] if isinstance(epochs, Mapping) else epochs)}
        for name in methods
    }
    write_rows(table, folder, told, each, modalities=train.names)
    return _shown(table)


def _beside_the_first(reports: Mapping[str, Report], n_boot: int, seed: int) -> pd.DataFrame:
    reference = next(iter(reports))
    keys, lines = ["metric", "group", "level"], []
    columns = ["difference", "difference_low", "difference_high"]
    for name, report in reports.items():
        frame = report.frame[report.frame["metric"] == "auroc"].assign(method=name)
        if name == reference:
            frame[columns] = float("nan")
        else:
            with warnings.catch_warnings():  # too few replicates for adjusted intervals
                warnings.simplefilter("ignore", UserWarning)
                differences = compare(report, reports[reference], n_boot=n_boot, seed=seed)
            differences = differences.rename(
                columns={"low": "difference_low", "high": "difference_high"}
            )
            frame = frame.merge(differences[[*keys, *columns]], on=keys, how="left")
        lines.append(frame)
    return pd.concat(lines, ignore_index=True)


def write_rows(
    table: pd.DataFrame,
    folder: Path,
    told: Mapping[str, object],
    each: Mapping[str, Mapping[str, object]] | None = None,
    **more: object,
) -> None:
    """Write a table's lines, a JSON file for each method; no other result is written over.

    Args:
        table: with a column `method`.
        folder: where to.
        told: of the run: `dataset`, and what else stands in the names.
        each: the same of some of the methods.
        more: what stands in the files only.
    """
    for name, rows in table.groupby("method", sort=False):
        settings = {**told, **(each or {}).get(str(name), {})}
        words = [_word(settings["dataset"])]
        words += [
            f"{key}-{'+'.join(map(str, value)) if isinstance(value, list) else _word(value)}"
            for key, value in settings.items()
            if key != "dataset"
        ]
        stem = "-".join([*words, _word(str(name).lower())])
        lines = json.loads(rows.drop(columns="method").to_json(orient="records"))
        text = json.dumps({"method": name, **settings, **more, "rows": lines}, indent=1)
        _write_beside(folder, stem, text)


def _write_beside(folder: Path, stem: str, text: str) -> None:
    """Write STEM.json, or STEM-2.json, … where another text stands there."""
    for number in count(1):
        path = folder / f"{stem}{f'-{number}' if number > 1 else ''}.json"
        if not path.exists() or path.read_text(encoding="utf8") == text:
            path.write_text(text, encoding="utf8")
            return


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    def cell(value: float, low: float, high: float, how: str) -> str:
        if pd.isna(value):
            return "–"
        if pd.isna(low):
            return f"{value:{how}}"
        return f"{value:{how}} [{low:{how}}, {high:{how}}]"

    rows = {}
    for row in table.to_dict("records"):
        missing = float("nan")  # of one method there is no difference
        ends = (row.get("difference_low", missing), row.get("difference_high", missing))
        hidden = f"hidden: fewer than {FEW}" if row["note"] else "–"
        rows[row["level"], row["method"]] = {
            "AUROC": cell(row["value"], row["low"], row["high"], ".2f"),
            "minus the first": cell(row.get("difference", missing), *ends, "+.2f"),
            "patients' rows": hidden if pd.isna(row["n"]) else str(row["n"]),
            "with the outcome": "–" if pd.isna(row["n_pos"]) else str(row["n_pos"]),
        }
    return (
        pd.DataFrame(rows)
        .T.rename_axis(["part", "method"])
        .sort_index(
            level=0,
            sort_remaining=False,
            key=lambda names: names.where(names != "all"),
            na_position="first",
        )
    )
