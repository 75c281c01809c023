"""The parameters cell of a chapter: read it, check what a user gave, run the chapter with it.

papermill takes any parameter name silently and leaves a file that looks finished when a run fails.
Here names and types are checked first, and the output gets its name only when the last cell has
run.
"""

import ast
import io
import json
import logging
import os
import re
import secrets
import sys
import tokenize
import types
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from dfdlib.book.chapter import OWN_RESULTS, book_root
from dfdlib.errors import require, suggestion

# The words that a type may be made of; its parameters, its unions and nothing else.
_NAMES: dict[str, type] = {kind.__name__: kind for kind in (bool, dict, float, int, list, str)}
_LONGEST = 500  # letters of a type: as deep as nobody nests one
# in a union the narrowest that fits is taken, and a text only where nothing else is meant
_ORDER = (types.NoneType, Literal, bool, int, float, list, dict, str)
_HOW = {
    bool: "Write true or false.",
    int: "Write digits, without a leading zero: 10.",
    float: "Write a number with a point: 0.001, or 1e-3.",
    list: "Write [a, b], with what looks like a number, a date or yes and no in quotes: ['010'].",
    dict: "Write {name: value}.",
}
_INT = re.compile(r"[+-]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(r"[+-]?((0|[1-9][0-9_]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_ENDLESS = re.compile(r"[+-]?\.?(inf|infinity|nan)", re.IGNORECASE)
_WORDS = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)
_YAML = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Parameter:
    """One line of a chapter's parameters cell: `name = default  # type: kind help`."""

    name: str
    kind: str
    default: str
    help: str

    def __str__(self) -> str:
        """As the lists show it."""
        line = f"{self.name}: {self.kind} = {self.default}  {self.help}".rstrip()
        return _printable(line)

    def read(self, text: str) -> Any:
        """Read a value from the command line; a `str` is taken as typed.

        >>> Parameter("lr", "float", "0.001", "").read("1e-2")
        0.01
        >>> Parameter("name", "str", "'a'", "").read("ward #3: yes")
        'ward #3: yes'
        """
        kind = self._type
        try:
            return _from_text(text, kind)
        except ValueError:
            raise self._refusal(_told(text), kind) from None

    def check(self, value: Any) -> Any:
        """Check a value that comes with a type: from Python, or a node of a YAML file."""
        kind = self._type
        if isinstance(value, yaml.Node):
            try:
                return _from_node(value, kind)
            except ValueError:
                raise self._refusal(_told(value.value), kind) from None
        if not _fits(value, kind):
            raise self._refusal(f"{value!r} ({type(value).__name__})", kind)
        return value

    def _refusal(self, got: str, kind: Any) -> ValueError:
        parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else [kind]
        how = [_HOW[part] for part in map(_family, parts) if part in _HOW]
        said = f"{got} is no {self.kind} for '{self.name}'. The default is {self.default}."
        return ValueError(" ".join([said, *how[:1]]))

    @property
    def _type(self) -> Any:
        if self.kind == "None":  # a line without a comment
            return object
        try:
            if len(self.kind) > _LONGEST:
                raise ValueError
            return _type_of(ast.parse(self.kind, mode="eval").body)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise ValueError(
                f"{_told(self.kind)}, the type of '{self.name}', is none of "
                f"{', '.join([*_NAMES, 'Literal', 'None'])}. Write for example: # type: list[int]"
            ) from None


def _printable(line: str) -> str:
    """Without what would steer a terminal: a notebook may come from anywhere."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def _told(value: Any) -> str:
    """A value as a message shows it: not a long one, and nothing that is nested."""
    if not isinstance(value, str):
        return "what stands there"
    return repr(value) if len(value) <= 80 else f"a text of {len(value)} characters"


def _type_of(node: ast.AST) -> Any:
    """The type that a parsed comment names. Nothing is evaluated: what is not listed is refused."""
    match node:
        case ast.Constant(value=None):
            return types.NoneType
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_type_of(left), _type_of(right)]  # noqa: UP007
        case ast.Subscript(value=ast.Name(id="list"), slice=inside):
            return list[_type_of(inside)]  # type: ignore[misc]
        case ast.Subscript(
            value=ast.Name(id="dict"), slice=ast.Tuple(elts=[ast.Name(id="str"), inside])
        ):
            return dict[str, _type_of(inside)]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inside):
            options = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            return Literal[tuple(_option(option) for option in options)]
    raise ValueError("no type")


def _option(node: ast.AST) -> Any:
    """A literal: a word, a number, true, false or none."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -1
    value: Any = node.value if isinstance(node, ast.Constant) else ...
    if sign == -1 and type(value) in (int, float):
        return -value
    if sign == 1 and type(value) in (str, bool, int, float, types.NoneType):
        return value
    raise ValueError("no literal")


def _parts(kind: Any) -> list[Any]:
    """The members of a union, the narrowest first; of any other type itself."""
    if get_origin(kind) not in (Union, types.UnionType):
        return [kind]
    members: tuple[Any, ...] = get_args(kind)
    return sorted(members, key=lambda part: _ORDER.index(_family(part)))


def _family(kind: Any) -> Any:
    """`list` of `list[int]`, and of any other type itself."""
    origin = get_origin(kind)
    return kind if origin is None else origin


def _first_that_fits(read: Callable[[Any, Any], Any], value: Any, kind: Any) -> Any:
    for part in _parts(kind):
        try:
            return read(value, part)
        except ValueError:
            continue
    raise ValueError("none of them")


def _from_text(text: str, kind: Any) -> Any:
    """Read what was typed after `-p name`."""
    if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("no UTF-8")  # papermill could not write it down
    if len(_parts(kind)) > 1:
        return _first_that_fits(_from_text, text, kind)
    if get_origin(kind) is Literal:
        for option in get_args(kind):
            if text == option if isinstance(option, str) else _is(text, option):
                return option
        raise ValueError("none of them")
    if kind is str:
        return text
    if kind in (list, dict, object) or get_origin(kind) in (list, dict):
        return _from_node(_compose(text, whole=True), kind)
    return _scalar(text, kind)


def _is(text: str, option: Any) -> bool:
    try:
        value = _scalar(text, type(option))
    except ValueError:
        return False
    return type(value) is type(option) and value == option


def _scalar(text: str, kind: Any) -> Any:
    """Read a word that stands for no text."""
    text = text.strip(" ")
    if kind is types.NoneType and text in ("null", "None"):
        return None
    if kind is bool and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if kind in (int, float) and _INT.fullmatch(text):
        return int(text)
    if kind is float and _FLOAT.fullmatch(text):
        return float(text)
    if kind is float and _ENDLESS.fullmatch(text):
        return float(text.replace(".", ""))
    raise ValueError("another type")


def _compose(text: str, *, whole: bool = False) -> yaml.Node:
    """Parse YAML, and make no values of it: which one it is says the type of the parameter.

    Args:
        text: the YAML.
        whole: whether a comment behind the value is refused; on a command line it is none.

    Raises:
        ValueError: it is no YAML.
    """
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # a few lines of them are a tree of any size
                raise yaml.YAMLError("an alias (*) is not read: write the value out")
        node = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(said) from None
    if node is None:  # nothing, or comments alone
        node = yaml.ScalarNode(f"{_YAML}null", text.strip())
    if whole and text[node.end_mark.index if node.end_mark else 0 :].strip():
        raise ValueError("more behind it")
    return node


def _from_node(node: yaml.Node, kind: Any) -> Any:
    """Read a node of YAML as a type; what YAML calls a number, a date or a bool is no text."""
    if len(_parts(kind)) > 1:
        return _first_that_fits(_from_node, node, kind)
    name = node.tag.removeprefix(_YAML)
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    origin, inside = _family(kind), get_args(kind)
    if isinstance(node, yaml.SequenceNode) and name == "seq" and origin in (list, object):
        return [_from_node(item, *(inside or (object,))) for item in node.value]
    if isinstance(node, yaml.MappingNode) and name == "map" and origin in (dict, object):
        return {
            key: _from_node(value, inside[1] if inside else object)
            for key, value in _named(node).items()
        }
    if not isinstance(node, yaml.ScalarNode) or name not in _RESOLVED:
        raise ValueError("another type")
    if origin is Literal:
        known = get_args(kind)
        for option in known:
            same = node.value == option if isinstance(option, str) else _is(node.value, option)
            if same and (plain or isinstance(option, str)):
                return option
    if origin is types.NoneType and name == "null":
        return None
    if origin is str and name == "str":
        return node.value
    if origin in (bool, int, float) and plain:
        return _scalar(node.value, origin)
    if origin is object:
        return _as_written(node, name) if plain else node.value
    raise ValueError("another type")


_RESOLVED = ("str", "null", "bool", "int", "float", "timestamp", "value")


def _as_written(node: yaml.ScalarNode, name: str) -> Any:
    """A word of which nobody says the type: a date, or a number with a leading zero, is a text."""
    if name == "null":
        return None
    for kind in (int, float) if name not in ("bool", "timestamp") else (bool,):
        if name == "str" and not _FLOAT.fullmatch(node.value):
            break
        with suppress(ValueError):
            return _scalar(node.value, kind)
    return node.value


def _named(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    """The names of a mapping, as written, with what stands behind them."""
    nodes: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError("a name is a word")
        if key.value in nodes:
            raise ValueError(f"'{key.value}' stands there twice")
        nodes[key.value] = value
    return nodes


def _fits(value: Any, kind: Any) -> bool:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in inside)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in inside)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inside[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            isinstance(key, str) and _fits(item, inside[1]) for key, item in value.items()
        )
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def parameters_of(chapter: Path) -> dict[str, Parameter]:
    """Read the parameters of a notebook from its parameters cell; none of it is run.

    Raises:
        ValueError: the file is no notebook, or the cell no Python.
    """
    for cell in _cells(chapter):
        if cell["cell_type"] == "code" and "parameters" in _tags(cell):
            return {one.name: one for one in _parameters("".join(cell["source"]), chapter.name)}
    return {}


def _cells(chapter: Path) -> list[dict[str, Any]]:
    """The cells of a notebook."""
    try:
        cells = json.loads(chapter.read_text(encoding="utf8"))["cells"]
        good = all(
            isinstance(cell["cell_type"], str)
            and (
                isinstance(cell["source"], str)
                or all(isinstance(line, str) for line in cell["source"])
            )
            for cell in cells
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        good = False
    if not good:
        raise ValueError(f"{chapter.name} is no notebook of format 4. Open it in Jupyter, and save")
    return cells


def _tags(cell: Mapping[str, Any]) -> list[Any]:
    about = cell.get("metadata")
    tags = about.get("tags") if isinstance(about, dict) else None
    return tags if isinstance(tags, list) else []


def _parameters(source: str, name: str) -> Iterator[Parameter]:
    """The lines `name = default  # type: kind help` of a cell, as its syntax tree has them."""
    # IPython's magics are no Python; a line of one is left out, and the others keep their number
    source = re.sub(r"(?m)^[ \t]*[%!].*$", "", source)
    try:
        tree = ast.parse(source)
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (SyntaxError, ValueError, MemoryError, RecursionError, tokenize.TokenError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ValueError(
            f"the parameters cell of {name} is no Python{line}. Write lines such as: "
            "seed = 0  # type: int one seed for the run"
        ) from None
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets, annotation = node.targets, None
        elif isinstance(node, ast.AnnAssign):
            targets, annotation = [node.target], node.annotation
        else:
            continue
        if len(targets) > 1 or not isinstance(targets[0], ast.Name) or node.value is None:
            continue
        kind, told = _split_comment(comments.get(node.value.end_lineno or 0, ""))
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            kind = annotation.value
        elif annotation is not None:
            kind = ast.get_source_segment(source, annotation) or kind
        default = ast.get_source_segment(source, node.value) or ""
        yield Parameter(targets[0].id, kind, " ".join(default.split("\n")), told)


def _split_comment(comment: str) -> tuple[str, str]:
    """Cut `type: kind help` in two; a blank in brackets or quotes, or beside `|`, is of the kind.

    >>> _split_comment('type: Literal["one", "two"] | None which')
    ('Literal["one", "two"] | None', 'which')
    """
    if not comment.startswith("type:"):
        return "None", comment.strip()
    rest = comment.removeprefix("type:").strip()
    depth, quote = 0, ""
    for at, letter in enumerate(rest):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[(":
            depth += 1
        elif letter in "])":
            depth -= 1
        elif letter == " " and not depth:
            before, after = rest[:at].rstrip(), rest[at:].lstrip()
            if not before.endswith("|") and not after.startswith("|"):
                return before, after
    return rest, ""


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
    for stem, chapter in chapters.items():
        number, _, words = stem.partition("-")
        if path.stem in (stem, words) or (name.isdigit() and number == name.zfill(len(number))):
            return chapter
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


def read_parameters(file: Path) -> dict[str, yaml.Node]:
    """Read parameters from a YAML file, each as it is written; an empty file holds none.

    Raises:
        ValueError: it is no YAML, holds no names and values, or one that YAML cuts at a #.
    """
    try:
        text = file.read_text(encoding="utf8")
        node = _compose(text)
    except ValueError as error:
        said = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(f"{file} is no YAML: {said}. Write lines such as seed: 3") from None
    if isinstance(node, yaml.ScalarNode) and node.tag == f"{_YAML}null":
        return {}
    if not isinstance(node, yaml.MappingNode):
        kind = node.tag.rpartition(":")[2].replace("seq", "list")
        raise ValueError(f"{file} holds {kind}, no names and values. Write lines such as seed: 3")
    try:
        nodes = _named(node)
    except ValueError as error:
        raise ValueError(f"{file}: {error}. Write each name once, in one word") from None
    for name, value in nodes.items():
        behind = text[value.end_mark.index :].partition("\n")[0]
        if value.tag == f"{_YAML}str" and re.match(r"[ \t]+#\S", behind):
            raise ValueError(
                f"{file}: the value of '{name}' goes on behind a #, where YAML sees a comment. "
                f"Write it in quotes, or a blank after the #"
            )
    return nodes


def _hint(word: str, words: Collection[str]) -> str:
    return f".{suggestion(word, words)} There is: {', '.join(words)}."


def title_of(chapter: Path) -> str:
    """Read the title of a notebook: the first line of its first cell.

    Raises:
        ValueError: the file is no notebook.
    """
    cells = _cells(chapter)
    first = "".join(cells[0]["source"]) if cells else ""
    return _printable(first.partition("\n")[0].removeprefix("# "))


def require_to_run() -> None:
    """Refuse to run a chapter without what runs notebooks.

    Raises:
        ImportError: it is not installed.
    """
    require("running a chapter", "papermill", "jupyter_client", "nbclient", extra="book")


def execute(chapter: Path, out: Path, values: Mapping[str, Any]) -> None:
    """Run a notebook in its own folder; the output takes its name when the last cell has run.

    What it writes of the user's own patients goes beside the output. Where a cell fails, what ran
    until then stays in `OUT.part`.

    Raises:
        ImportError: without the packages of `dfdlib[book]`.
    """
    require_to_run()
    from papermill import execute_notebook

    out.parent.mkdir(parents=True, exist_ok=True)
    # two runs with one output must not write into each other's file
    part = out.with_name(f"{out.name}.{secrets.token_hex(4)}.part")
    with suppress(FileExistsError):
        part.touch(exist_ok=False)
    papermill = logging.getLogger("papermill")
    level = papermill.level
    try:
        papermill.setLevel(logging.ERROR)  # it reads the parameters cell its own way, and warns
        with warnings.catch_warnings(), _results_beside(out):
            warnings.filterwarnings("ignore", message="The specified file .* does not end in")
            execute_notebook(
                _as_typed(chapter), _as_typed(part), dict(values), cwd=chapter.parent,
                progress_bar=sys.stderr.isatty(),
            )  # fmt: skip
        part.replace(out)
    finally:
        papermill.setLevel(level)
        if part.exists():
            part.replace(out.with_name(f"{out.name}.part"))


def _as_typed(path: Path) -> str:
    """A path that papermill, which fills in what stands in braces, leaves as it is."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextmanager
def _results_beside(out: Path) -> Iterator[None]:
    """Tell the kernel, which inherits the environment, where own results go."""
    before = os.environ.get(OWN_RESULTS)
    os.environ[OWN_RESULTS] = str(out.parent)
    try:
        yield
    finally:
        if before is None:
            del os.environ[OWN_RESULTS]
        else:
            os.environ[OWN_RESULTS] = before
