"""Files: their names, and that they appear whole or not at all."""

import re
import uuid
from pathlib import Path


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file under a temporary name beside it, and put it in its place in one step.

    Whoever reads it finds what was there before, or all that is new; a process that is killed may
    leave a file that ends in ``.part``. Folders above it are made.

    Args:
        path: the file.
        content: all of it; text is written as UTF-8.

    Raises:
        OSError: where the disk does not take it; what was there before stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(f"{folder}/runs/a.json", "{}")
        ...     [path.name for path in Path(folder).rglob("*.*")]
        ['a.json']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # two processes with one target must not write into each other's file
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def slug(text: str) -> str:
    """Spell a text as the name of a file: small letters and digits, hyphens between.

    A full stop stays, so that numbers do.

    Example:
        >>> slug("MNAR, latent: DFD (q = 0.7)")
        'mnar-latent-dfd-q-0.7-'
    """
    return re.sub("[^a-z0-9.]+", "-", text.lower())
