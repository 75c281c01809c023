"""What errors say: the names that exist and the nearest, and what has to be installed."""

import difflib
import importlib
from collections.abc import Collection, Iterable

#: how many names an error lists
SHOWN = 20


def nearest(name: object, known: Iterable[object]) -> str | None:
    """The known name that is spelled most like this one, whatever the case; None if none is close.

    Example:
        >>> nearest("auorc", ["auroc", "auprc"]), nearest("colour", ["auroc"])
        ('auroc', None)
    """
    # of names that differ in case alone the first of the alphabet, in whatever order they come
    folded = {word.casefold(): word for word in sorted(map(str, known), reverse=True)}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=1)
    return folded[close[0]] if close else None


def suggestion(name: object, known: Iterable[object]) -> str:
    """Answer ``' Did you mean 'x'?'`` where one known name is close, else nothing."""
    near = nearest(name, known)
    return f" Did you mean {near!r}?" if near is not None else ""


def unknown(name: object, known: Iterable[object], what: str) -> ValueError:
    """Build the error for a name that does not exist, with the list and the nearest name.

    Example:
        >>> str(unknown("auorc", ["auroc", "auprc"], "metric"))
        "'auorc' is not a metric (auroc, auprc). Did you mean 'auroc'?"
    """
    names = [str(word) for word in known]
    listed = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    hint = suggestion(name, names) or (" Use one of these names." if names else "")
    return ValueError(f"{name!r} is not a {what} ({listed or 'there is none'}).{hint}")


def check_name(name: str, known: Collection[str], what: str) -> None:
    """Refuse a name that is not among the known ones.

    Raises:
        ValueError: as `unknown` says it.
    """
    if name not in known:
        raise unknown(name, known, what)


def wrong_type(value: object, expected: str, advice: str) -> TypeError:
    """Build the error for something of another type than belongs there.

    Args:
        value: what was passed.
        expected: who takes what.
        advice: what to type next.

    Example:
        >>> str(wrong_type(3, "Classifier takes a Schema as schema=", "Write schema=cohort.schema"))
        'Classifier takes a Schema as schema=, got an int. Write schema=cohort.schema'
    """
    kind = type_name(value)
    if not isinstance(value, type):
        kind = f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
    return TypeError(f"{expected}, got {'None' if value is None else kind}. {advice}")


def check_type(value: object, types: type | tuple[type, ...], expected: str, advice: str) -> None:
    """Refuse what is of none of these types.

    Raises:
        TypeError: as `wrong_type` says it.
    """
    if not isinstance(value, types):
        raise wrong_type(value, expected, advice)


def type_name(value: object) -> str:
    """Name what was passed: its type, or that it is a class itself."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def require(what: str, *modules: str, extra: str = "clinical") -> None:
    """Refuse what needs a package that plain `pip install dfdlib` does not bring.

    Args:
        what: what is to be done, as a message begins: "reading tables".
        *modules: what it imports.
        extra: the extra of dfdlib that installs them.

    Raises:
        ImportError: one of them is not installed.

    Example:
        >>> require("reading tables", "math", "duckling")
        Traceback (most recent call last):
        ImportError: reading tables needs duckling, which is not installed. Type: pip install ...
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:  # it is there, and lacks something itself
                raise
            raise ImportError(
                f"{what} needs {_PACKAGES.get(module, module)}, which is not installed. "
                f'Type: pip install "dfdlib[{extra}]"',
                name=module,
            ) from None


#: the package that brings a module, where it has another name
_PACKAGES = {"PIL": "pillow"}
