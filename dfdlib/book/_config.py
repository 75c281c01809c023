"""The configuration that Jupyter Book reads, with an execution cache that knows the library."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Literal

import yaml

from dfdlib.book.chapter import book_root
from dfdlib.book.scorecard import boxed, takes_data

# What a chapter's outputs depend on besides its own code, which jupyter-cache looks at alone.
_KEYED = (
    "dfdlib/**/*",
    "workflow/**/*",
    "results/**/*",
    "claims.yaml",
    "requirements.lock",
)
_UNREAD = {".pyc", ".part"}


def cache_key(root: Path | None = None) -> str:
    """Hash library, grids, data, stored results, claims and lock: what chapters compute with.

    jupyter-cache compares a chapter's code alone, and would go on showing numbers of an older
    library. So each state of these gets a cache folder of its own. The scorecard also tells which
    chapters answer a claim, and that is in the key, while the prose of the chapters is not.
    """
    root = root or book_root()
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _KEYED for path in root.glob(pattern)):
        if path.is_file() and path.suffix not in _UNREAD and not path.name.startswith("."):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    answering = {name: (claims, takes_data(root, name)) for name, claims in boxed(root).items()}
    digest.update(json.dumps(answering).encode())
    return digest.hexdigest()[:16]


def write_config(
    path: str | Path, *, execute: Literal["auto", "off"] = "auto", root: Path | None = None
) -> None:
    """Derive the configuration that Jupyter Book reads from `_config.yml`.

    Args:
        path: file to write.
        execute: "auto" executes a chapter when its code or anything in `cache_key` has changed, and
            removes the caches of older states; "off" builds from the outputs that are stored in
            the chapters.
        root: folder of the book; None finds it.
    """
    root = root or book_root()
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))
    cache = root / "_build" / f"cache-{cache_key(root)}"
    config["execute"] |= {
        "execute_notebooks": "cache" if execute == "auto" else "off",
        "cache": str(cache),
    }
    if execute == "auto":
        for old in set(cache.parent.glob("cache-*")) - {cache}:
            shutil.rmtree(old)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf8")
