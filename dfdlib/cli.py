"""The `dfdlib` command: list the chapters, run one with other parameters, get data ready."""

import csv
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

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

app = typer.Typer(
    help="Re-execute chapters of the book; get clinical data ready.",
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
    typer.echo(table.assign(inside=table["inside"].map({True: "yes", False: "NO"})).to_string())
    stored = table["from"] != "this run"
    outside = int((~table["inside"]).sum())
    typer.echo(
        f"\n{len(table) - outside} of {len(table)} numbers are inside their tolerance. This run "
        f"computed {int((~stored).sum())}; {int(stored.sum())} were read from stored results"
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


# ---------------------------------------------------------------- data


@contextmanager
def _explained() -> Iterator[None]:
    """What the library refuses becomes a message without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
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
