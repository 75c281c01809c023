"""A chapter's methods on your own patients: what leaves the page are aggregates of ten and more.

Every chapter that compares methods on a cohort ends with `on_your_own(…)`. With the parameter
`dataset` empty it says how to run it; else it trains the chapter's methods on the cohort named and
writes what it shows below `runs/`, and nowhere else.
"""

import inspect
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import pandas as pd

from dfdlib import data
from dfdlib.book._few import FEW, few, hide_few, shares
from dfdlib.book._files import book_root
from dfdlib.data import Cohort, Schema, made_up
from dfdlib.data._clinical import open_extract
from dfdlib.data._validate import unknown
from dfdlib.evaluation import Report, compare, evaluate
from dfdlib.models import Method, Stage
from dfdlib.training import fit

__all__ = ["FEW", "few", "hide_few", "on_your_own", "own_cohort", "own_folder", "shares"]

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
        The cohort, with a group `site`: the hospital, or the region or period that stands for it. A
        modality of which a table is not there is left out, with a warning.

    Raises:
        ValueError: An unknown data set, or no root; or as the loader.
        FileNotFoundError: As the loader.

    Example:
        >>> own_cohort("eicu")
        Traceback (most recent call last):
        ValueError: dataset 'eicu' needs the folder of its files. Add -p root FOLDER
    """
    if dataset.endswith((".yaml", ".yml")):
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
    if stands in (None, "site"):
        return cohort
    return cohort._with(groups={**cohort.groups, "site": cohort.groups[stands]})


def own_folder(chapter: str) -> Path:
    """Make the one folder that a chapter writes to on data that the user brought."""
    folder = book_root() / "runs" / "own" / chapter
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
    `runs/own/CHAPTER/`, a JSON file for each method.

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
    write_rows(table, own_folder(chapter), Path(dataset).stem, seed, train.names)
    return _shown(table)


def _beside_the_first(reports: Mapping[str, Report], n_boot: int, seed: int) -> pd.DataFrame:
    reference = next(iter(reports))
    keys, lines = ["metric", "group", "level"], []
    for name, report in reports.items():
        frame = report.frame[report.frame["metric"] == "auroc"].assign(method=name)
        if name != reference:
            with warnings.catch_warnings():  # too few replicates for adjusted intervals
                warnings.simplefilter("ignore", UserWarning)
                found = compare(report, reports[reference], n_boot=n_boot, seed=seed)
            found = found.rename(columns={"low": "difference_low", "high": "difference_high"})
            columns = ["difference", "difference_low", "difference_high"]
            frame = frame.merge(found[[*keys, *columns]], on=keys, how="left")
        lines.append(frame)
    return pd.concat(lines, ignore_index=True)


def write_rows(table: pd.DataFrame, folder: Path, dataset: str, seed: int, names: object) -> None:
    """Write a table's lines, a JSON file for each method."""
    for name, rows in table.groupby("method", sort=False):
        lines = json.loads(rows.drop(columns="method").to_json(orient="records"))
        told = {"dataset": dataset, "method": name, "seed": seed, "modalities": names}
        slug = "-".join(str(name).lower().replace(",", "").split())
        path = folder / f"{'-'.join(dataset.split())}-{slug}.json"
        path.write_text(json.dumps({**told, "rows": lines}, indent=1), encoding="utf8")


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    def cell(value: float, low: float, high: float, how: str) -> str:
        if pd.isna(value):
            return "–"
        if pd.isna(low):
            return f"{value:{how}}"
        return f"{value:{how}} [{low:{how}}, {high:{how}}]"

    rows = {}
    for row in table.to_dict("records"):
        numbers = (row["difference"], row["difference_low"], row["difference_high"])
        hidden = f"hidden: fewer than {FEW}"
        rows[row["level"], row["method"]] = {
            "AUROC": cell(row["value"], row["low"], row["high"], ".2f"),
            "minus the first": cell(*numbers, "+.2f"),
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
