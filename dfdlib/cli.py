"""The `dfdlib` command: list the chapters, run one with other parameters, get data ready.

`run` is a thin wrapper around papermill, which takes any parameter name silently and leaves a file
that looks finished when a run fails. Here names and types are checked first, and the output gets
its name only when the last cell has run.
"""

import difflib
import json
import sys
import types
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml
from typer.core import TyperCommand

from dfdlib import _data_commands
from dfdlib.book import book_root

app = typer.Typer(
    help="Re-execute chapters of the book; get clinical data ready.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(_data_commands.app, name="data")

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (bool, dict, float, int, list, str)}
_KINDS |= {"Literal": Literal, "None": None}


@dataclass(frozen=True)
class Parameter:
    """One line of a chapter's parameters cell: `name = default  # type: kind help`."""

    name: str
    kind: str
    default: str
    help: str

    def __str__(self) -> str:
        """As the lists show it."""
        return f"{self.name}: {self.kind} = {self.default}  {self.help}".rstrip()

    def read(self, text: str) -> Any:
        """Read a value from the command line.

        >>> Parameter("lr", "float", "0.001", "").read("1e-2")
        0.01
        >>> Parameter("name", "str", "'a'", "").read("3")
        '3'
        """
        for reader in (yaml.safe_load, float, str):
            try:
                value = reader(text)
            except (yaml.YAMLError, ValueError):
                continue
            if _fits(value, self._type):
                return value
        raise ValueError(f"{text!r} is no {self.kind} for '{self.name}'. {self._example}")

    def check(self, value: Any) -> Any:
        """Check a value that comes with a type, as from a YAML file."""
        if not _fits(value, self._type):
            raise ValueError(
                f"{value!r} ({type(value).__name__}) is no {self.kind} for '{self.name}'. "
                f"{self._example}"
            )
        return value

    @property
    def _type(self) -> Any:
        if self.kind == "None":  # papermill's word for a line without a comment
            return object
        try:
            return eval(self.kind, {"__builtins__": {}}, _KINDS)
        except (NameError, SyntaxError, TypeError):
            raise ValueError(
                f"'{self.kind}', the type of '{self.name}', is none of {', '.join(_KINDS)}. "
                "Write for example: # type: list[int]"
            ) from None

    @property
    def _example(self) -> str:
        return f"The default is {self.default}."


def _fits(value: Any, kind: Any) -> bool:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inside
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in inside)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inside[0]) for item in value)
    if kind in (None, types.NoneType):
        return value is None
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def parameters_of(chapter: Path) -> dict[str, Parameter]:
    """Read the parameters of a notebook from the comments of its parameters cell."""
    from papermill import inspect_notebook

    return {
        name: Parameter(name, found["inferred_type_name"], found["default"], found["help"])
        for name, found in inspect_notebook(str(chapter)).items()
    }


def find_chapter(name: str, *, folder: Path | None = None) -> Path:
    """Find a notebook by its number ("3"), its name ("next-hospital") or its path.

    Raises:
        ValueError: there is none.
    """
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    folder = folder or book_root() / "chapters"
    chapters = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    if path.suffix == ".ipynb":
        raise ValueError(f"'{name}' is no chapter: no such file{_hint(path.stem, chapters)}")
    for stem, found in chapters.items():
        number, _, words = stem.partition("-")
        if path.stem in (stem, words) or (name.isdigit() and number == name.zfill(len(number))):
            return found
    raise ValueError(f"'{name}' is no chapter{_hint(path.stem, chapters)}")


def check_parameters(
    chapter: Path, texts: Mapping[str, str], values: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Turn what the user gave into values for a chapter.

    Args:
        chapter: the notebook.
        texts: values as typed; they win.
        values: values with types, from a file.

    Raises:
        ValueError: a name that the chapter does not have, or a value of another type.
    """
    known = parameters_of(chapter)
    for name in (*texts, *(values or {})):
        if name not in known:
            raise ValueError(f"{chapter.stem} has no parameter '{name}'{_hint(name, known)}")
    return {name: known[name].check(value) for name, value in (values or {}).items()} | {
        name: known[name].read(text) for name, text in texts.items()
    }


def _hint(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    return (f". Did you mean '{near[0]}'?" if near else ".") + f" There is: {', '.join(words)}."


def execute(chapter: Path, out: Path, values: Mapping[str, Any]) -> None:
    """Run a notebook in its own folder; the output takes its name when the last cell has run."""
    from papermill import execute_notebook

    part = out.with_name(f"{out.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The specified file .* does not end in")
        execute_notebook(
            chapter, part, dict(values), cwd=chapter.parent, progress_bar=sys.stderr.isatty()
        )
    part.replace(out)


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
        cells = json.loads(path.read_text(encoding="utf8"))["cells"]
        title = "".join(cells[0]["source"]).partition("\n")[0].removeprefix("# ")
        typer.echo(f"{path.stem}: {title}")
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
    stored = _or_fail(_read_file, file) if file else {}
    values = _or_fail(check_parameters, path, texts, stored)
    out = (out or book_root(path.parent) / "runs").resolve()
    out = out if out.suffix == ".ipynb" else out / path.name
    if out == path:
        raise typer.BadParameter(f"{out} is the chapter itself. Name another file after --out.")
    _execute_or_exit(path, out, values)
    typer.echo(str(out))


def _read_file(file: Path) -> dict[str, Any]:
    """Read parameters from a YAML file; an empty one holds none."""
    try:
        stored = yaml.safe_load(file.read_text(encoding="utf8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {error}. Write lines such as seed: 3") from None
    if not isinstance(stored, dict | None):
        raise ValueError(
            f"{file} holds {type(stored).__name__}, no names and values. Write lines such as "
            "seed: 3"
        )
    return {str(name): value for name, value in (stored or {}).items()}


def _execute_or_exit(path: Path, out: Path, values: Mapping[str, Any]) -> None:
    from papermill.exceptions import PapermillExecutionError

    try:
        execute(path, out, values)
    except PapermillExecutionError as error:
        typer.echo(
            f"{path.stem} failed in cell [{error.exec_count}]:\n\n{error.source}\n\n"
            f"{error.ename}: {error.evalue}\n\nWhat ran until then is in {out}.part",
            err=True,
        )
        raise typer.Exit(1) from None


def _list_parameters(path: Path) -> None:
    for parameter in parameters_of(path).values():
        typer.echo(f"  {parameter}")


def _or_fail(function: Any, *arguments: Any) -> Any:
    """Call a function; what it refuses becomes a message without a traceback."""
    try:
        return function(*arguments)
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from None
