"""What several grids share: their command line."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The stored results are of the CPU; name a device here to train on it.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def main(
    about: str,
    run: Callable[..., None],
    collect: Callable[[list[Path], Path], None],
    **options: dict[str, Any],
) -> None:
    """Read `run --name value … --out file` or `collect files … --out folder`, and do it."""
    parser = argparse.ArgumentParser(description=about)
    commands = parser.add_subparsers(required=True)
    one, both = commands.add_parser("run"), commands.add_parser("collect")
    for name, option in options.items():
        one.add_argument(f"--{name}", **option)
    both.add_argument("files", type=Path, nargs="+")
    for command, action in ((one, run), (both, collect)):
        command.add_argument("--out", type=Path, required=True)
        command.set_defaults(action=action)
    given = vars(parser.parse_args())
    given.pop("action")(**given)
