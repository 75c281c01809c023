"""`dfdlib data`: open demos, ingest of tables, conversion of X-rays, a template for your own."""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Get clinical data ready: download, ingest, convert, template.", no_args_is_help=True
)


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


@app.command()
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


@app.command()
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
    from dfdlib.errors import unknown

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


@app.command()
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


@app.command()
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
