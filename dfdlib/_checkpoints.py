"""Folders of safetensors + JSON that are either whole or not there."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor


def write_folder(folder: Path, stem: str, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write `stem.safetensors` and `stem.json` under a temporary name, then rename the folder."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            part / f"{stem}.safetensors",
        )
        (part / f"{stem}.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            _replace(part, folder)
        else:
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replace(part: Path, folder: Path) -> None:
    """Put `part` in the place of `folder`; a folder that holds anything else is left alone."""
    foreign = [p.name for p in folder.iterdir() if p.suffix not in (".safetensors", ".json")]
    if foreign:
        raise FileExistsError(
            f"{folder} holds other files ({foreign[0]}), so it is not replaced. Pass a new folder."
        )
    old = folder.with_name(f"{folder.name}.{os.getpid()}.old")
    folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old)


def read_folder(folder: Path, stem: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_folder` wrote."""
    card = folder / f"{stem}.json"
    if not card.is_file():
        raise FileNotFoundError(
            f"{folder} holds no {stem}.json, so nothing was saved there. Save first: "
            f"run.save({str(folder)!r})."
        )
    return load_file(folder / f"{stem}.safetensors"), json.loads(card.read_text(encoding="utf-8"))


def write_checkpoint(
    folder: Path, epoch: int, tensors: dict[str, Tensor], card: dict[str, Any]
) -> None:
    """Write the checkpoint of an epoch, then delete those of earlier ones."""
    write_folder(folder / f"epoch-{epoch:05d}", "checkpoint", tensors, card)
    for old in _checkpoints(folder)[:-1]:
        shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a folder."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("epoch-*") if p.suffix == "")
