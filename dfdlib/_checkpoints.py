"""Folders of safetensors + JSON that are either whole or not there."""

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dfdlib.data import Cohort, Ragged
from dfdlib.data._images import Images
from dfdlib.models.describe import describe


def write_folder(folder: Path, stem: str, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write `stem.safetensors` and `stem.json` under a temporary name, then rename the folder."""
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, and a folder is needed. Pass another name.")
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            part / f"{stem}.safetensors",
        )
        (part / f"{stem}.json").write_text(
            json.dumps(_finite(card), indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
        if folder.exists():
            _replace(part, folder, stem)
        else:
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(part: Path, folder: Path, stem: str) -> None:
    """Put `part` in the place of `folder`; a folder that holds anything else is left alone.

    A kill between the two renames leaves the earlier folder under its name with `.old` behind it.
    """
    ours = {f"{stem}.safetensors", f"{stem}.json"}
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in ours)
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


def describe_or_print(model: nn.Module) -> str:
    """Classes and arguments of the model; as torch prints it, where it could not be saved."""
    try:
        return json.dumps(describe(model))
    except TypeError:
        return repr(model)


def fingerprint(cohort: Cohort) -> str:
    """Size, and a hash of names, values, masks and labels."""
    digest = hashlib.sha256(repr(cohort.schema).encode())
    values = [v.values if isinstance(v, Ragged) else v for v in cohort.x.values()]
    tensors = [v.rows if isinstance(v, Images) else v for v in values]
    lengths = [v.offsets for v in cohort.x.values() if isinstance(v, Ragged)]
    # images may be more than fit into memory
    lengths += [v.sample() for v in cohort.x.values() if isinstance(v, Images)]
    for tensor in (*tensors, *lengths, *cohort.x_observed.values(), cohort.observed, cohort.y):
        if tensor is not None:
            digest.update(tensor.cpu().numpy().tobytes())
    return f"{len(cohort)} patients, {digest.hexdigest()[:12]}"
