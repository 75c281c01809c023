"""The `dfdlib` command: chapters, data, and models of your own tables.

It lists the chapters, runs one with other parameters, gets data ready, trains a model on tables of
a user's own, scores new patients with it, and tries a method on the stress cohorts.
"""

import csv
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from dfdlib.book import beside_reported, book_root, writable
from dfdlib.book.parameters import (
    check_parameters,
    execute,
    find_chapter,
    parameters_of,
    read_parameters,
    require_to_run,
    title_of,
)
from dfdlib.errors import unknown
from dfdlib.files import slug, write_whole

app = typer.Typer(
    help="Re-execute chapters of the book; get clinical data ready; train on tables, and score.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data = typer.Typer(
    help="Get clinical data ready: download, ingest, convert, template.", no_args_is_help=True
)
app.add_typer(data, name="data")


# ---------------------------------------------------------------- chapters


class _Pairs(TyperCommand):
    """Takes `-p name value` any number of times: typer knows repeated options, but not pairs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        joined, rest = [], iter(args)
        for word in rest:
            if word in ("-p", "--parameter"):
                name, value = next(rest, None), next(rest, None)
                if name is None or value in (None, "-p", "--parameter") or "=" in name:
                    ctx.fail(f"-p takes a name and a value, got {name!r}: -p seed 3")
                word = f"-p{name}={value}"
            elif word.startswith("-p") and "=" not in word:
                ctx.fail(f"-p takes a name and a value, got {word!r}: -p seed 3")
            joined.append(word)
        return super().parse_args(ctx, joined)


@app.command()
def chapters() -> None:
    """List the chapters and their parameters."""
    for path in sorted((_or_fail(book_root) / "chapters").glob("*.ipynb")):
        typer.echo(f"{path.stem}: {_or_fail(title_of, path)}")
        _list_parameters(path)


@app.command(cls=_Pairs)
def run(
    chapter: Annotated[str, typer.Argument(help="number, name or path of a chapter")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME VALUE", help="set one; may be repeated"),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", exists=True, dir_okay=False, help="YAML file of parameters"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="notebook to write; default: runs/ of the book")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="end with each reported number: yours, ours, inside its tolerance or not; "
            "exit code 1 where one is outside",
        ),
    ] = False,
    help_parameters: Annotated[
        bool, typer.Option("--help-parameters", help="list the parameters, and stop")
    ] = False,
) -> None:
    """Re-execute a chapter with other parameters, in its own folder."""
    path = _or_fail(find_chapter, chapter)
    if help_parameters:
        _list_parameters(path)
        return
    texts = dict(pair.split("=", 1) for pair in parameter or ())
    stored = _or_fail(read_parameters, file) if file else {}
    values = _or_fail(check_parameters, path, texts, stored)
    out = (out or _or_fail(book_root, path.parent) / "runs").resolve()
    out = out if out.suffix == ".ipynb" else out / path.name
    _or_fail(writable, out.parent)
    if out == path:
        raise typer.BadParameter(f"{out} is the chapter itself. Name another file after --out.")
    _execute_or_exit(path, out, values)
    if compare:
        _compare_or_exit(path, out, values)
    typer.echo(str(out))


def _compare_or_exit(path: Path, out: Path, values: Mapping[str, Any]) -> None:
    """Show a run beside what the book reports; exit with 1 where a number is outside."""
    root = _or_fail(book_root, path.parent)
    notebook = json.loads(out.read_text(encoding="utf8"))
    table = _or_fail(partial(beside_reported, root=root), notebook, path.stem)
    if table.empty:
        typer.echo(f"{path.stem} reports no numbers")
        return
    words = [{True: "yes", False: "NO"}.get(inside, "–") for inside in table["inside"]]
    typer.echo(table.assign(inside=words).to_string())
    stored = table["from"] != "this run"
    inside, outside = words.count("yes"), words.count("NO")
    typer.echo(
        f"\n{inside} of {inside + outside} numbers are inside their tolerance. This run "
        f"computed {int((~stored).sum())}; {int(stored.sum())} were read from stored results"
    )
    if inside + outside < len(table):
        typer.echo(
            f"{len(table) - inside - outside} are shown and not compared: they differ from one "
            "processor to another as from seed to seed"
        )
    if values:
        typer.echo(
            f"The book was computed with its own {', '.join(values)}: other numbers are no error"
        )
    if outside:
        typer.echo(f"{outside} outside. The run is in {out}", err=True)
        raise typer.Exit(1)


def _execute_or_exit(path: Path, out: Path, values: Mapping[str, Any]) -> None:
    _or_fail(require_to_run)
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillException, PapermillExecutionError

    kept = f"What ran until then is in {out}.part"
    try:
        execute(path, out, values)
    except PapermillExecutionError as error:
        said = (
            f"{path.stem} failed in cell [{error.exec_count}]:\n\n{error.source}\n\n"
            f"{error.ename}: {error.evalue}\n\n{kept}"
        )
    except DeadKernelError:
        said = (
            f"{path.stem} stopped: the process that runs its cells died, as it does where memory "
            f"runs out. Take fewer patients or a smaller network. {kept}"
        )
    except NoSuchKernel as error:
        said = f"{path.stem} asks for the kernel '{error.name}', which is not installed"
    except (PapermillException, OSError, ValueError) as error:
        said = f"{path.stem} could not be run: {error}"
    else:
        return
    typer.echo(said, err=True)
    raise typer.Exit(1)


def _list_parameters(path: Path) -> None:
    for parameter in _or_fail(parameters_of, path).values():
        typer.echo(f"  {parameter}")


def _or_fail(function: Any, *arguments: Any) -> Any:
    """Call a function; what it refuses becomes a message without a traceback."""
    try:
        return function(*arguments)
    except (ValueError, OSError, ImportError) as error:
        raise typer.BadParameter(str(error)) from None


# ---------------------------------------------------------------- tables of your own

_Config = Annotated[
    Path, typer.Option(help="YAML file that describes the tables: dfdlib data template")
]
_Memory = Annotated[str, typer.Option(help="what reading may use, such as 4GB")]


#: patients of which a fifth can be scored at all
LEAST = 50


@app.command()
def train(
    config: _Config,
    out: Annotated[Path, typer.Option(help="folder to write the model to")],
    method: Annotated[
        Literal["classifier", "dfd"], typer.Option(help="plain training, or the two streams of DFD")
    ] = "classifier",
    backbone: Annotated[
        Literal["grape", "muse", "transformer"], typer.Option(help="who passes messages")
    ] = "grape",
    epochs: Annotated[
        int | None, typer.Option(help="at most; default: those of the method", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="cuts the parts, draws the weights", min=0)] = 0,
    memory: _Memory = "4GB",
) -> None:
    """Train a model on tables of your own, and say how well it does on a fifth that it never saw.

    Patients are cut 70 : 10 : 20 at random. The second part picks the epoch. Counts below ten are
    hidden. To read more of a model, and to compare several: chapter 23, Your own hospital.
    """
    from dfdlib.book.suppression import few, hide_few, pooled
    from dfdlib.data.tables import read_tables
    from dfdlib.evaluation import evaluate
    from dfdlib.models import DFD, GRAPE, MUSE, Classifier, Stage, TokenTransformer
    from dfdlib.training import fit

    with _explained(), _told():
        if out.exists():
            raise ValueError(f"{out} is there already. Name another folder after --out")
        read = read_tables(config, memory=memory)
        for note in read.notes:
            warnings.warn(note, stacklevel=1)
        typer.echo(read.flow.astype(object).where(read.flow.notna(), "< 10").T.to_string())
        if read.cohort.y is None:
            raise ValueError("config['label'] is missing, and nothing is learned without. Add it")
        cohort = pooled(read.cohort)
        patients = len(set(cohort.groups["patient"]))
        if patients < LEAST:
            raise ValueError(
                f"{few(patients)} patients are too few to train, to choose and to test: bring "
                f"{LEAST} at least, and hundreds for a score that says something"
            )
        parts = cohort.split((0.7, 0.1, 0.2), by="patient", seed=seed)
        typer.echo("rows to train, to choose, to test: " + ", ".join(few(len(p)) for p in parts))
        networks = {"grape": GRAPE, "muse": MUSE, "transformer": TokenTransformer}
        make = {"classifier": Classifier, "dfd": DFD}[method]
        model = make(backbone=networks[backbone](d=32), schema=cohort.schema)
        stages = list(model.default_stages)
        if epochs is not None:
            before = min(sum(stage.epochs for stage in stages[:-1]), epochs // 5)
            stages = [Stage(epochs=before, **stages[0].overrides)] if before else []
            stages.append(Stage(epochs=epochs - before, **model.default_stages[-1].overrides))
        size = 512 if len(parts[0]) > 10_000 else 128  # so that few patients have enough steps
        run = fit(
            model, *parts[:2], stages=stages, batch_size=size, seed=seed, select="val_loss",
            patience=20,
        )  # fmt: skip
        report = evaluate(
            run.model, parts[2], by=("site",) if "site" in cohort.groups else (), seed=seed
        )
        frame = hide_few(report.frame)
        frame = frame[frame["metric"] == "auroc"].drop(columns=["metric", "group"])
        typer.echo("AUROC on the last part, with a 95 % interval")
        typer.echo(frame.round(2).to_string(index=False, na_rep="–"))
        if run.unfinished:
            warnings.warn(run.unfinished, stacklevel=1)
        typer.echo(f"weights: {run.selection}, epoch {run.best_epoch} of {len(run.history)}")
        run.save(out)
    typer.echo(str(out))


@app.command()
def score(
    model: Annotated[Path, typer.Argument(help="folder that train, or Run.save, wrote")],
    config: _Config,
    out: Annotated[Path, typer.Option(help="CSV file to write")],
    trust: Annotated[
        list[str] | None,
        typer.Option(help="package whose classes the model may be made of; may be repeated"),
    ] = None,
    memory: _Memory = "4GB",
) -> None:
    """Score new patients: patient, p_CLASS for each class, what was missing, warnings.

    The tables are described as those of training were, by the same columns, units and cut; no label
    is needed. The file appears whole or not at all, and holds patients: keep it where they may be.
    """
    from dfdlib.training import load_model, score_tables

    with _explained(), _told():
        if out.suffix.lower() != ".csv":
            raise ValueError(f"{out} is no name of a CSV file. Write --out scores.csv")
        if out.exists():
            raise ValueError(f"{out} is there already. Name another file after --out")
        if out.parent.exists() and not out.parent.is_dir():
            raise ValueError(f"{out.parent} is a file. Name a folder before {out.name}")
        if out.resolve().is_relative_to(model.resolve()):
            raise ValueError(f"{out} is in the folder of the model. Name a file elsewhere")
        try:
            loaded = load_model(model, trust=trust or ())
        except ImportError as error:
            raise ImportError(f"{error} On the command line that is --trust PACKAGE.") from None
        table = score_tables(loaded, config, memory=memory)
        write_whole(out, table.to_csv(index=False))
    rows = "1 row" if len(table) == 1 else f"{len(table):,} rows"
    typer.echo(f"{rows}: {out}")


# ---------------------------------------------------------------- stress cohorts


@app.command()
def stress(
    make: Annotated[str, typer.Argument(help="my_module:make, or my_module:several, a dict")],
    half: Annotated[str, typer.Option(help="open, or sealed: read its rule of use")] = "open",
    kind: Annotated[list[str] | None, typer.Option(help="this kind; may be repeated")] = None,
    seeds: Annotated[int, typer.Option(help="runs of each kind", min=1)] = 5,
    patients: Annotated[
        int | None, typer.Option(help="to train on, in the place of each kind's own number")
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="where each run is kept, so that a stopped command goes on")
    ] = Path("runs/stress"),
    save: Annotated[
        Path | None, typer.Option(help="folder to write the rows to, one file per method")
    ] = None,
) -> None:
    """Try a method on the stress cohorts, beside plain training on the same patients."""
    from dfdlib import stress as module

    with _explained():
        methods = _imported(make)
        several = methods if isinstance(methods, Mapping) else {make.split(":")[1]: methods}
        table = module.run(
            several, kinds=kind, half=half, seeds=range(seeds), folder=folder, n=patients
        )
        if save is not None:
            words = [f"dfdlib stress {make} --half {half} --seeds {seeds}"]
            words += [f"--kind {name}" for name in kind or ()]
            words += [f"--patients {patients}"] if patients is not None else []
            for name in several:
                table.of(name).save(save / f"{half}-{slug(name)}.json", command=" ".join(words))
    shown = table.frame.drop(columns=["draw", "refused"]).round(3)
    typer.echo(shown.to_string(index=False))
    typer.echo()
    typer.echo(table.ranking().round(3).to_string(index=False))


def _imported(name: str) -> Any:
    """Import what `module:name` names; modules of the working folder count."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{name!r} names no function. Type my_module:make")
    sys.path.insert(0, os.getcwd())
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"there is no module {error.name!r}. Type this in the folder that holds it"
        ) from None
    finally:
        sys.path.remove(os.getcwd())
    if not hasattr(found, attribute):
        raise unknown(
            attribute, [word for word in vars(found) if word[0] != "_"], f"name in {module}"
        )
    return getattr(found, attribute)


# ---------------------------------------------------------------- data


@contextmanager
def _told() -> Iterator[None]:
    """What the library warns of is told in a line of its own, without the place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for warning in caught:
                if issubclass(warning.category, UserWarning):
                    typer.echo(f"Note: {warning.message}", err=True)


@contextmanager
def _explained() -> Iterator[None]:
    """What the library refuses becomes a message without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        said = str(error)
        if isinstance(error, OSError) and error.filename is not None:  # the system's: a whole path
            said = f"{error.strerror}: {Path(str(error.filename)).name}"
        typer.echo(f"Error: {said}", err=True)
        raise typer.Exit(1) from None


@data.command()
def ingest(
    dataset: Annotated[str, typer.Argument(help="eicu, mimic-iv, adni or mimic-cxr")],
    root: Annotated[Path, typer.Option(help="folder of the raw .csv or .csv.gz files")],
    out: Annotated[Path, typer.Option(help="folder to write parquet files to")],
    memory: Annotated[str, typer.Option(help="what may be used, such as 4GB")] = "4GB",
    threads: Annotated[
        int | None, typer.Option(help="how many; default: one per core", min=1)
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option(help="this table only; may be repeated")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="do without this table; may be repeated")
    ] = None,
    version: Annotated[str | None, typer.Option(help="the version that it must be")] = None,
) -> None:
    """Turn raw tables into typed parquet files; repeat the command to go on after a stop."""
    from dfdlib.data import ingest as module

    with _explained():
        manifest = module.ingest(
            dataset.replace("-", "_"),
            root,
            out,
            memory=memory,
            threads=threads,
            tables=table,
            skip=skip or (),
            version=version,
        )
    for name, entry in manifest["tables"].items():
        unreadable = ", ".join(f"{n:,} of {c}" for c, n in entry["unreadable"].items())
        typer.echo(
            f"{name:18} {entry['rows']:>13,} rows"
            + (f"  not numbers, and left out: {unreadable}" if unreadable else "")
        )
    typer.echo(f"{manifest['dataset']}, version {manifest['version']}: {out}")


@data.command()
def convert(
    dataset: Annotated[str, typer.Argument(help="mimic-cxr")],
    root: Annotated[Path, typer.Option(help="folder of the tables and of files/")],
    out: Annotated[
        Path | None, typer.Option(help="folder to write to; default: dfdlib-SIZE below root")
    ] = None,
    size: Annotated[int, typer.Option(help="height and width in pixels", min=1)] = 224,
    workers: Annotated[
        int | None, typer.Option(help="threads; default: one per core", min=1)
    ] = None,
) -> None:
    """Turn JPEG files of X-rays into one array, once; repeat the command to go on after a stop."""
    from dfdlib.data import mimic_cxr

    with _explained():
        if dataset.replace("-", "_") != "mimic_cxr":
            raise unknown(dataset, ("mimic-cxr",), "data set of images")
        folder = mimic_cxr.convert(root, out, size=size, workers=workers or os.cpu_count() or 1)
        with (folder / "unreadable.csv").open(newline="", encoding="utf-8") as file:
            left_out = sum(1 for _ in csv.reader(file)) - 1
        pairs = len(mimic_cxr.load(folder, size=size))
    typer.echo(
        f"{pairs:,} pairs of {size} px: {folder}"
        + (f"  images left out: {left_out:,} (unreadable.csv)" if left_out else "")
    )


@data.command()
def download(
    name: Annotated[str, typer.Argument(help="eicu-demo or mimic-iv-demo")],
    out: Annotated[Path, typer.Option(help="folder to write to")],
    mirror: Annotated[
        str | None, typer.Option(help="URL of the folder, where it is not PhysioNet's own")
    ] = None,
) -> None:
    """Download an open demo from PhysioNet; repeat the command to go on after a stop."""
    from dfdlib.data import download as module

    with _explained():
        typer.echo(str(module.download(name, out, mirror=mirror)))


@data.command()
def template(
    out: Annotated[Path | None, typer.Option(help="file to write; default: to the screen")] = None,
) -> None:
    """Write the YAML that describes tables of your own, with a comment on each key."""
    from dfdlib.data import tables

    if out is None:
        typer.echo(tables.template(), nl=False)
        return
    with _explained():
        if out.exists():
            raise ValueError(f"{out} is there already. Name another file after --out")
        out.write_text(tables.template(), encoding="utf-8")
    typer.echo(str(out))
