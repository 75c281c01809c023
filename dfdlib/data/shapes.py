"""What a message may say of patients: what a cell looks like, not the cell; no number below ten."""

import re

_NUMBER = r"[-+]?(\d+([.,]\d*)?|[.,]\d+)(e[-+]?\d+)?"
_DAY = (
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})"
    r"|\d{1,2}[- ][a-z]{3}[- ]\d{2,4})"
)
_APART = r"[ '\u2019\u00a0\u202f]"  # what is written between thousands beside commas and points

# In this order: what fits the first needs none of the others.
_SHAPES = (
    (r"", "an empty cell"),
    (rf"[-+]?\d{{1,3}}((\.\d{{3}})+|({_APART}\d{{3}})+),\d*", "a number with a decimal comma"),
    (r"[-+]?[1-9]\d{0,2},\d{3}", "a number with a comma"),  # of thousands, or a decimal one
    (
        rf"[-+]?\d{{1,3}}((,\d{{3}})+|({_APART}\d{{3}})+)(\.\d*)?|[-+]?\d{{1,3}}(\.\d{{3}}){{2,}}",
        "a number with thousands apart",
    ),
    (r"[-+]?(\d+,\d*|,\d+)(e[-+]?\d+)?", "a number with a decimal comma"),
    (r"[-+]?(inf|infinity)", "an infinite number"),
    (r"0\d+", "a number with leading zeros"),
    (_NUMBER, "a number"),
    (rf"(<=?|>=?|≤|≥|=<|=>)\s*{_NUMBER}", "a limit (< or > before a number)"),
    (rf"{_NUMBER}\s*%", "a number with a per cent sign"),
    (rf"{_DAY}([ t]\s*\d{{1,2}}:\d{{2}}.*)?", "a date"),
    (r"\d{1,2}:\d{2}(:\d{2}(\.\d*)?)?", "a time of day"),
    (rf"{_NUMBER}\s*(-|–|/|:|to)\s*{_NUMBER}", "two numbers"),
    (r"(true|false)", "a truth value"),
    (rf"{_NUMBER}\s*[^\W\d_].*", "a number and a word"),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), name) for pattern, name in _SHAPES)


def kind_of(cell: str) -> str:
    """Name what kind of thing a cell holds.

    Args:
        cell: As text.

    Returns:
        One of a short list of kinds, such as "a number with a decimal comma" or "a word".
    """
    text = cell.strip()
    for pattern, name in _COMPILED:
        if pattern.fullmatch(text):
            return name
    if text.isalpha():
        return "a word"
    return "text" if re.search(r"[^\W_]", text) else "signs"


def shape_of(cell: object) -> str:
    """Describe a cell so that nobody can tell what stands in it: its kind and its length."""
    text = str(cell)
    n = len(text.strip())
    kind = kind_of(text)
    return kind if n == 0 else f"{kind} ({n} character{'s' if n > 1 else ''})"


def count_of(n: int) -> str:
    """Write a number of people, or of their rows, as a message may say it: not below ten.

    Example:
        >>> count_of(9), count_of(0), count_of(1234)
        ('fewer than 10', '0', '1,234')
    """
    return "fewer than 10" if 0 < n < 10 else f"{n:,}"
