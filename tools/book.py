"""What builds the book from the chapters: its configuration and the pages that are generated.

From the command line, in a clone of the repository::

    python tools/book.py config --execute auto --out _build/_config.yml
    python tools/book.py pages

The first derives the configuration that `jupyter-book build . --config` reads, with an execution
cache that knows the library. The second rewrites the list of claims and the list of departures.
"""

import argparse
import ast
import hashlib
import io
import json
import re
import shutil
import tokenize
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from dfdlib.book.chapter import book_root, load_claims
from dfdlib.book.scorecard import boxed, takes_data

# What a chapter's outputs depend on besides its own code, which jupyter-cache looks at alone.
_KEYED = (
    "dfdlib/**/*",
    "workflow/**/*",
    "results/**/*",
    "claims.yaml",
    "requirements-book.lock",
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


_PAPERS = {
    "2601.21941": ("Dual-stream feature decorrelation", "zhu2026dfd"),
    "2509.05615": ("Causal debiasing with missing modalities", "zhu2025causal"),
    "2411.10356": ("MMVM on chest X-rays", "agostini2024weakly"),
}
_REACH = {
    "truth": "cohorts with known truth",
    "open": "open real data",
    "credentialed": "credentialed data",
}


def departures(root: Path | None = None) -> pd.DataFrame:
    """Collect the `# DIFF:` comments of the library: columns module, where, text."""
    root = root or book_root()
    rows = []
    for path in sorted((root / "dfdlib").rglob("*.py")):
        source = path.read_text(encoding="utf8")
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for line, text in _diff_comments(source):
            rows.append((module, _enclosing(source, line), text))
    return pd.DataFrame(rows, columns=["module", "where", "text"])


def _diff_comments(source: str) -> list[tuple[int, str]]:
    comments: list[tuple[int, str]] = []
    last = -1  # line of the comment that the next one may go on from
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, text = token.start[0], token.string.lstrip("# ")
        alone = not token.line[: token.start[1]].strip()
        if text.startswith("DIFF:"):
            comments.append((line, text.removeprefix("DIFF:").strip()))
            last = line if alone else -1
        elif comments and alone and line == last + 1:
            comments[-1] = (comments[-1][0], f"{comments[-1][1]} {text}")
            last = line
    return comments


def _enclosing(source: str, line: int) -> str:
    """Dotted name of the innermost class or function around a line, "" at module level."""
    names, body = [], ast.parse(source).body
    while body:
        scopes = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        inner = [
            n for n in body if isinstance(n, scopes) and n.lineno <= line <= (n.end_lineno or 0)
        ]
        names += [node.name for node in inner]
        body = inner[0].body if inner else []
    return ".".join(names)


def pages(root: Path | None = None) -> dict[Path, str]:
    """Make the text of each generated page, by its path."""
    root = root or book_root()
    about = root / "chapters" / "about"
    return {
        about / "claims.md": _claims_page(load_claims(root)),
        about / "departures.md": _departures_page(departures(root)),
    }


_GENERATED = "% Generated by `python tools/book.py pages`; edit {source} instead.\n\n"


def _claims_page(claims: list[dict[str, Any]]) -> str:
    parts = [
        _GENERATED.format(source="claims.yaml"),
        "# The claims\n\nEvery claim that this book has to answer, as published or as asked, and"
        " what would decide it. Numbers under *published* are quoted from the source named,"
        " not ours. What became of each claim: {doc}`../24-what-held`.\n",
    ]
    for paper, (title, key) in _PAPERS.items():
        parts.append(f"\n## {title}\n\nPublished as {{cite:t}}`{key}`.\n")
        parts.extend(_claim_section(claim) for claim in claims if paper in claim["source"])
    return "".join(parts)


def _claim_section(claim: dict[str, Any]) -> str:
    lines = [f"\n(claim-{claim['id']})=\n### {claim['id']}\n\n{_escape(claim['claim'])}\n\n"]
    for row in claim.get("published", ()):
        values = row["value"] if isinstance(row["value"], list) else [row["value"]]
        shown = " to " if "/" not in row["what"] else " / "
        numbers = shown.join(map(str, values))
        lines.append(f"- *Published:* {_escape(row['what'])}: {numbers} {_escape(row['unit'])}\n")
    if "note" in claim:
        lines.append(f"- *Note:* {_escape(claim['note'])}\n")
    lines.append(f"- *What decides it:* {_escape(claim['test'])}\n")
    lines.append(f"- *Reach:* {', '.join(_REACH[reach] for reach in claim['reach'])}\n")
    lines.append(f"- *Source:* {_escape(claim['source'])}\n")
    return "".join(lines)


def _departures_page(departures: pd.DataFrame) -> str:
    parts = [
        _GENERATED.format(source="the `# DIFF:` comment in the code"),
        "# Departures from the papers\n\n"
        "Where the library departs from a paper, or from its public code, a comment says so at the"
        " line in question. This page collects them. The text of the first two papers could not be"
        " read for this book, and no code of theirs was found, so a choice that their description"
        " leaves open is listed too.\n",
    ]
    for module, rows in departures.groupby("module", sort=False):
        parts.append(f"\n## {module}\n\n")
        for where, text in zip(rows["where"], rows["text"], strict=True):
            parts.append(f"- {f'`{where}`: ' if where else ''}{_escape(text)}\n")
    return "".join(parts)


def _escape(text: str) -> str:
    """Keep Markdown from reading plain text, but for `code`."""
    return re.sub(r"(?=[*<\[$])", r"\\", " ".join(text.split()))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Build the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    config = commands.add_parser("config", help="derive the configuration from _config.yml")
    config.add_argument("--execute", choices=("auto", "off"), default="auto")
    config.add_argument("--out", default="_build/_config.yml")
    commands.add_parser("pages", help="rewrite the generated pages")
    options = parser.parse_args()
    if options.command == "config":
        write_config(options.out, execute=options.execute)
    else:
        for path, text in pages().items():
            path.write_text(text, encoding="utf8")


if __name__ == "__main__":
    main()
