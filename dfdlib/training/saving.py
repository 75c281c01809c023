"""Folders of safetensors + JSON that are either whole or not there, and known to be unchanged.

The card (JSON) holds the SHA-256 of the tensors and of itself. A checksum tells damage, not malice:
who writes a folder can write its checksums too. What a folder may make is decided by
`dfdlib.training.describe.check_trust`, before anything is imported.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import socket
import stat
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dfdlib.data import Cohort, Images, Ragged
from dfdlib.data.tables_config import is_meaning
from dfdlib.training.describe import check_names, check_trust, describe, rebuild

fcntl: Any
try:
    import fcntl
except ImportError:  # on Windows, where folders cannot be locked
    fcntl = None

#: What `write_folder` writes. The first format had no checksums.
FORMAT = 2
_EARLIER = 1

#: Bytes of a card, at most: about 100,000 epochs of history. More is no card.
_MOST_CARD = 64 * 2**20
#: Bytes of the head of a safetensors file, at most; the library's own limit.
_MOST_HEAD = 100_000_000
#: Memory of a new model beyond what the file has, at most: what loading replaces.
_MOST_SPARE = 64 * 2**20

_NO_HASH = "0" * 64
_DAY = 24 * 3600

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16,
    "I32": torch.int32, "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip

#: Name -> type and shape, as the head of a safetensors file has them.
Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def made_with() -> dict[str, Any]:
    """What decides about the last bits of a result, beside data, model and seed."""
    return {
        "dfdlib": version("dfdlib"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


# ---------------------------------------------------------------- writing


def write_folder(folder: Path, stem: str, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write `stem.safetensors` and `stem.json` under a temporary name, then put them in place.

    At every moment the folder holds what it held before, or all that is new. What killed processes
    left beside it is taken away.
    """
    target = folder.resolve()
    if target.exists() and not target.is_dir():
        raise FileExistsError(
            f"{folder.name!r} is a file, and a folder is needed. Pass another name."
        )
    _refuse_foreign(target, stem)
    part = target.with_name(f"{target.name}.{_host()}-{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        file = part / f"{stem}.safetensors"
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, file)
        hashed = _sha256(file)
        _write_card(part / f"{stem}.json", card, hashed)
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            _replace(part, target, stem, hashed)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _sweep(target.parent, re.escape(target.name), stem)


def _write_card(file: Path, card: dict[str, Any], tensors: str) -> None:
    hashes = {"tensors": tensors, "card": _NO_HASH}
    whole = {"format": FORMAT, **_finite(card), **made_with(), "sha256": hashes}
    text = json.dumps(whole, indent=1, allow_nan=False) + "\n"
    # the hash of the card is that of the card with zeros in its place
    card_hash = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(
        text.replace(f'"card": "{_NO_HASH}"', f'"card": "{card_hash}"'), encoding="utf-8"
    )


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refuse_foreign(folder: Path, stem: str) -> None:
    """Leave a folder alone that holds anything else."""
    names = os.listdir(folder) if folder.exists() else []
    foreign = sorted(name for name in names if not _is_own(name, stem))
    if foreign:
        raise FileExistsError(
            f"{folder.name!r} holds other files ({foreign[0]}), so it is not replaced. Pass a new "
            "folder."
        )


def _is_own(name: str, stem: str) -> bool:
    """Whether `write_folder` gives files this name."""
    known = rf"{re.escape(stem)}(-[0-9a-f]{{16}})?\.safetensors|{re.escape(stem)}\.json"
    return re.fullmatch(known, name) is not None


def _replace(part: Path, folder: Path, stem: str, hashed: str) -> None:
    """Put the two files of `part` in the place of those of `folder`.

    The card decides, and is replaced in one step: before it the new tensors stand under a name of
    their own, which the old card does not know; after it `_tensors` finds them under either name.
    """
    with _locked(folder):
        named = folder / f"{stem}-{hashed[:16]}.safetensors"
        os.replace(part / f"{stem}.safetensors", named)
        os.replace(part / f"{stem}.json", folder / f"{stem}.json")
        os.replace(named, folder / f"{stem}.safetensors")
        for stale in folder.glob(f"{stem}-*.safetensors"):
            stale.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """Let one process at a time into a folder, or all who read; where the disk knows locks.

    Raises:
        BlockingIOError: without `wait`, where another process is in it.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass  # a network drive without locks
        yield
    finally:
        os.close(descriptor)


def _host() -> str:
    """This machine, by a number: processes of others cannot be asked whether they live."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _sweep(parent: Path, name: str, stem: str) -> None:
    """Remove what killed processes left of their writing; `name` is a regular expression."""
    left = re.compile(rf"{name}\.(?:([0-9a-f]{{8}})-)?(\d+)\.(?:part|old)")
    for path in parent.iterdir():
        match = left.fullmatch(path.name)
        if not match or path.is_symlink() or not path.is_dir():
            continue
        with contextlib.suppress(OSError):  # another process may be sweeping too
            ours = all(_is_own(name, stem) for name in os.listdir(path))
            if ours and _is_over(path, *match.groups()):
                shutil.rmtree(path, ignore_errors=True)


def _is_over(path: Path, host: str | None, process: str) -> bool:
    """Whether the process that wrote a folder is gone; of another machine's, after a day."""
    if host not in (None, _host()) or os.name != "posix":
        return time.time() - path.stat().st_mtime > _DAY
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


# ---------------------------------------------------------------- reading


def read_folder(folder: Path, stem: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_folder` wrote.

    Raises:
        FileNotFoundError: if nothing was saved there.
        ValueError: if it is damaged, or of another format.
    """
    read_card(folder, stem)  # tells, before anything waits, that nothing is there
    with _locked(folder, shared=True):
        card = read_card(folder, stem)
        file, _ = _tensors(folder, stem, card)
        return load_file(file), card


def read_model(folder: Path, *, trust: Sequence[str] = ()) -> tuple[nn.Module, dict[str, Any]]:
    """Make a saved model again, and give its card.

    The order is what makes it safe: the card, its classes, the shapes, the hash of the tensors, the
    model without memory; only then is anything made and read.
    """
    check_names(trust)
    read_card(folder, "model")  # tells, before anything waits, that nothing is there
    with _locked(folder, shared=True):
        return _read_model(folder, trust)


def _read_model(folder: Path, trust: Sequence[str]) -> tuple[nn.Module, dict[str, Any]]:
    stem = "model"
    card = read_card(folder, stem)
    if not isinstance(card.get("selection"), str) or not isinstance(card.get("model"), dict):
        raise damaged(folder, f"{stem}.json lacks the model, or the rule that picked its weights")
    if not is_meaning(card.get("tables")):
        raise damaged(folder, f"{stem}.json does not tell how its tables were read")
    try:
        check_trust(card["model"], trust=trust)
    except ValueError as error:
        raise damaged(folder, str(error)) from None
    file, shapes = _tensors(folder, stem, card)
    _check_fit(folder, card, file, shapes, trust)
    model = _built(folder, card, trust)
    model.load_state_dict(load_file(file))
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise damaged(folder, "its classes ask for tensors without content")
    return model, card


def damaged(folder: Path, what: str) -> ValueError:
    """What is said of every folder that does not hold what it should."""
    advice = "Copy the whole folder again, or save it again."
    if re.fullmatch(r"epoch-\d+", folder.name):
        advice = "Delete it, and the run begins anew."
    return ValueError(f"{folder.name!r} is damaged or incomplete: {what}. {advice}")


def read_card(folder: Path, stem: str) -> dict[str, Any]:
    """Read `stem.json` and check that it is as it was written."""
    name = f"{stem}.json"
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"{folder.name!r} is a file. Pass the folder in which {name} stands."
        )
    if not os.path.lexists(folder / name):
        raise FileNotFoundError(
            f"{folder.name!r} holds no {name}, so nothing was saved there.{_left(folder, stem)} "
            f"Save first: run.save(folder)."
        )
    with _opened(folder, name) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > _MOST_CARD:
            raise damaged(folder, f"{name} has {size:,} bytes, and may have {_MOST_CARD:,}")
        raw = stream.read(_MOST_CARD)
    card = _parsed(folder, name, raw)
    kind = card.get("format")
    if kind is None and stem == "checkpoint":
        raise ValueError(
            f"{folder.name!r} was written by an earlier version of dfdlib, which did not know all "
            "that decides a run. Delete it, or pass another folder."
        )
    if type(kind) is not int or kind not in (_EARLIER, FORMAT):
        shown = kind if type(kind) is int and abs(kind) < 1000 else type(kind).__name__
        raise ValueError(
            f"{folder.name!r} has format {shown}, and this version reads {_EARLIER} and {FORMAT}. "
            "Load it with the version of dfdlib that saved it."
        )
    if kind == FORMAT:
        _check_card(folder, name, raw, card)
    elif "sha256" in card:
        raise damaged(folder, f"{name} has checksums, and says that it is of format {kind}")
    return card


def _left(folder: Path, stem: str) -> str:
    """Tell of what an earlier version left, if it was killed while it replaced a folder."""
    pattern = re.compile(rf"{re.escape(folder.name)}\.\d+\.old")
    leftovers = [p for p in folder.parent.glob("*.old") if pattern.fullmatch(p.name)]
    old = [p.name for p in leftovers if (p / f"{stem}.json").is_file()]
    return f" A save was cut off; what was there before is in {old[0]!r}: rename it." if old else ""


def _check_card(folder: Path, name: str, raw: bytes, card: dict[str, Any]) -> None:
    hashes = card.get("sha256")
    if not (isinstance(hashes, dict) and sorted(hashes) == ["card", "tensors"]):
        raise damaged(folder, f"{name} lacks its checksums")
    card_hash = hashes["card"]
    if not (isinstance(card_hash, str) and re.fullmatch("[0-9a-f]{64}", card_hash)):
        raise damaged(folder, f"{name} lacks its own checksum")
    zeroed = raw.replace(f'"card": "{card_hash}"'.encode(), f'"card": "{_NO_HASH}"'.encode())
    if hashlib.sha256(zeroed).hexdigest() != card_hash:
        raise damaged(
            folder, f"{name} was changed after it was written (its SHA-256 is another one)"
        )


def _parsed(folder: Path, name: str, raw: bytes) -> dict[str, Any]:
    """Parse JSON strictly: no name twice, no NaN, and a mapping."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ValueError("a name stands twice")
        return made

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    try:
        value = json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise damaged(folder, f"{name} holds no valid JSON") from None
    if not isinstance(value, dict):
        raise damaged(folder, f"{name} holds a {type(value).__name__}, not a mapping")
    return value


@contextlib.contextmanager
def _opened(folder: Path, name: str) -> Iterator[BinaryIO]:
    """Open a file of the folder: a plain file in it, no link to elsewhere, no pipe."""
    file = folder / name
    if not os.path.lexists(file):
        raise damaged(folder, f"{name} is missing")
    if file.is_symlink():
        raise damaged(folder, f"{name} is a link, and links are not followed")
    if not stat.S_ISREG(file.lstat().st_mode):
        raise damaged(folder, f"{name} is no plain file")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(file, flags), "rb") as stream:
        yield stream


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tensors(folder: Path, stem: str, card: dict[str, Any]) -> tuple[Path, Shapes]:
    """Find the tensors that a card is of; their names, types and shapes."""
    name = f"{stem}.safetensors"
    if card["format"] == _EARLIER:
        return folder / name, _head(folder, name)
    hashed = card["sha256"]["tensors"]
    if not (isinstance(hashed, str) and re.fullmatch("[0-9a-f]{64}", hashed)):
        raise damaged(folder, f"{stem}.json lacks the checksum of the tensors")
    # a save that was cut off after its card was written left the tensors under a name of their own
    hashed_name = f"{stem}-{hashed[:16]}.safetensors"
    name = hashed_name if os.path.lexists(folder / hashed_name) else name
    shapes = _head(folder, name)
    if _sha256(folder / name) != hashed:
        raise damaged(
            folder, f"{name} was changed after it was written (its SHA-256 is another one)"
        )
    return folder / name, shapes


def _head(folder: Path, name: str) -> Shapes:
    """Read the head of a safetensors file, whose sizes have to be those of the file."""
    with _opened(folder, name) as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEAD):
            raise damaged(folder, f"{name} is cut off, or holds no tensors")
        entries = _parsed(folder, f"the head of {name}", stream.read(length))
    entries.pop("__metadata__", None)
    shapes, spans = {}, []
    for key, entry in entries.items():
        try:
            kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if len(shape) > 16 or any(type(k) is not int or k < 0 for k in (*shape, begin, end)):
                raise ValueError(key)
            dtype = _DTYPES[kind]
            if math.prod(shape) * dtype.itemsize != end - begin:
                raise ValueError(key)
        except (TypeError, KeyError, ValueError):
            raise damaged(folder, f"the head of {name} tells no size of a tensor") from None
        shapes[key] = dtype, tuple(shape)
        spans.append((begin, end))
    ends = [0, *(end for _, end in sorted(spans))]
    if [begin for begin, _ in sorted(spans)] != ends[:-1] or ends[-1] != size - 8 - length:
        raise damaged(folder, f"{name} is cut off, or its tensors are not what its head says")
    return shapes


# ---------------------------------------------------------------- making a model


def _built(folder: Path, card: dict[str, Any], trust: Sequence[str]) -> nn.Module:
    try:
        model = rebuild(card["model"], trust=trust)
    except ImportError:
        raise
    except Exception as error:
        # whatever a constructor makes of arguments that nobody passes
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise damaged(
            folder, f"its classes do not take the arguments that stand there ({reason[:200]})"
        ) from None
    if not (isinstance(model, nn.Module) and hasattr(model, "predict_proba")):
        raise damaged(folder, "what its card describes is no model")
    return model


def _check_fit(
    folder: Path, card: dict[str, Any], file: Path, shapes: Shapes, trust: Sequence[str]
) -> None:
    """Compare the shapes in the file with those of the model, which takes no memory for it."""
    held = sum(math.prod(shape) * dtype.itemsize for dtype, shape in shapes.values())
    try:
        with torch.device("meta"), _at_most(1000 + 20 * len(shapes)):
            model = _built(folder, card, trust)
    except ValueError:
        if trust:  # a constructor of somebody's own may need numbers to compute with
            return
        raise
    tensors = [*model.parameters(), *model.buffers()]
    if sum(t.numel() * t.element_size() for t in tensors) > held + _MOST_SPARE:
        raise damaged(folder, f"its card describes a model that is larger than {file.name}")
    try:
        with safe_open(file, "pt") as stored:
            # zeros that stand for each entry of a tensor take the memory of one
            state = {
                name: stored.get_tensor(name)
                if math.prod(shape) == 1
                else torch.zeros((), dtype=dtype).expand(shape)
                for name, (dtype, shape) in shapes.items()
            }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is a no-op")  # that is what is wanted
            missing, foreign = model.load_state_dict(state, strict=False)
    except (SafetensorError, RuntimeError, IndexError, TypeError, KeyError):
        missing, foreign = [], []
        state = model.state_dict()
        other = [name for name, (_, shape) in shapes.items() if _shape(state, name) != shape]
        mismatch = f"{other[0]} has another shape than in the model" if other else "it does not fit"
        raise damaged(folder, f"{file.name}: {mismatch}") from None
    for names, what in ((missing, "is missing"), (foreign, "belongs to no part of the model")):
        if names:
            raise damaged(folder, f"{file.name}: {names[0]} {what}")
    for name, tensor in model.state_dict().items():
        if tensor.dtype != shapes[name][0]:
            raise damaged(folder, f"{file.name}: {name} has another type than in the model")


def _shape(state: dict[str, Tensor], name: str) -> tuple[int, ...]:
    return tuple(state[name].shape) if name in state else ()


@contextlib.contextmanager
def _at_most(most: int) -> Iterator[None]:
    """Stop the making of a model that has far more parts than there are tensors for."""
    n = 0

    def count(*_: Any) -> None:
        nonlocal n
        n += 1
        if n > most:
            raise ValueError("it would have far more parts than there are tensors")

    module = nn.modules.module
    hooks = [
        module.register_module_parameter_registration_hook(count),
        module.register_module_buffer_registration_hook(count),
        module.register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# ---------------------------------------------------------------- checkpoints


def write_checkpoint(
    folder: Path, epoch: int, tensors: dict[str, Tensor], card: dict[str, Any]
) -> None:
    """Write the checkpoint of an epoch, then delete those of earlier ones."""
    write_folder(folder / f"epoch-{epoch:05d}", "checkpoint", tensors, card)
    for old in _checkpoints(folder)[:-1]:
        shutil.rmtree(old, ignore_errors=True)
    _sweep(folder, r"epoch-\d+", "checkpoint")


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a folder."""
    checkpoints = _checkpoints(folder)
    return checkpoints[-1] if checkpoints else None


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints by epoch: as words, the hundred-thousandth would come before the second."""
    folders = [p for p in folder.glob("epoch-*") if re.fullmatch(r"epoch-\d+", p.name)]
    return sorted(folders, key=lambda path: int(path.name.partition("-")[2]))


@contextlib.contextmanager
def alone(folder: Path | None) -> Iterator[None]:
    """Keep other processes from training in the same folder, where the file system knows locks."""
    if folder is None:
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(
            f"{folder.name!r} is a file, and a folder is needed. Pass another name."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_locked(folder, wait=False))
        except BlockingIOError:
            raise RuntimeError(
                f"another process is training in {folder.name!r}. Wait until it has ended, or pass "
                "another folder."
            ) from None
        yield


# ---------------------------------------------------------------- what a run is known by


def identify(model: nn.Module) -> Any:
    """Every option of a model, also where it could not be saved.

    Raises:
        ValueError: if an option is of a kind that two runs cannot be compared by.
    """
    try:
        return describe(model, other=_content)
    except (TypeError, RecursionError) as error:
        why = "" if isinstance(error, RecursionError) else f" ({error})"
        raise ValueError(
            f"folder= cannot tell this model from another one{why}: a run might go on with other "
            "options. Keep each option as a number, a word, a list, an array or a function with a "
            "name, or leave folder= out."
        ) from None


#: Attributes that every torch module has.
_TORCHS_OWN = frozenset(vars(nn.Module()))


def _content(value: Any, where: str) -> Any:
    """What stands for a value that JSON does not hold: all that can be read of it."""
    if isinstance(value, nn.Module):
        attributes = {k: v for k, v in vars(value).items() if k not in _TORCHS_OWN}
        return {
            "class": _full_name(type(value)),
            "attributes": describe(attributes, where=where, other=_content),
            "parts": describe(dict(value.named_children()), where=where, other=_content),
            "weights": [
                [k, [*v.shape], v.requires_grad] for k, v in value.named_parameters(recurse=False)
            ],
            "buffers": hash_of(dict(value.named_buffers(recurse=False))),
        }
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return {"sha256": hash_of({"": torch.as_tensor(value)})}
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(describe(part, where=where, other=_content)) for part in value)
    if isinstance(value, torch.dtype | torch.device | Path | complex | range | slice | bytes):
        return repr(value)
    if callable(value) and "<" not in (name := _full_name(value)) and "None" not in name:
        return name
    raise TypeError(f"{where} is a {type(value).__name__}")


def _full_name(value: Any) -> str:
    named = f"{getattr(value, '__module__', None)}:{getattr(value, '__qualname__', None)}"
    return named if isinstance(value, type) or getattr(value, "__closure__", None) is None else "<>"


def hash_of(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and contents of tensors."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        _add(digest, name, tensor)
    return digest.hexdigest()


def _add(digest: Any, name: str, value: Tensor | np.ndarray) -> None:
    """Take in a name and an array, so that no two different ones give the same bytes."""
    if isinstance(value, Tensor):
        digest.update(f"{name!r} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif value.dtype.kind in "OUST":
        # as words the levels 1 and '1' would be the same
        digest.update(f"{name!r} {value.shape}\n{value.tolist()!r}\n".encode())
    else:
        digest.update(f"{name!r} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())


def fingerprint(cohort: Cohort) -> str:
    """Size, and one hash of all that training may read: no part of it can be told from it.

    Images are read block by block, since they may be more than fit into memory.
    """
    digest = hashlib.sha256(repr(cohort.schema).encode())
    for name, value in cohort.x.items():
        if isinstance(value, Ragged):
            _add(digest, f"{name} offsets", value.offsets)
            _add(digest, name, value.values)
        elif isinstance(value, Images):
            _add(digest, f"{name} missing", value.rows < 0)
            there = value.rows[value.rows >= 0].numpy()
            for first in range(0, len(there), 256):
                _add(digest, name, np.asarray(value.pixels[there[first : first + 256]]))
        else:
            _add(digest, name, value)
    for part, values in (("flags", cohort.x_observed), ("", {"observed": cohort.observed})):
        for name, mask in values.items():
            _add(digest, f"{part} {name}", mask)
    if cohort.y is not None:
        _add(digest, "y", cohort.y)
    for part, columns in (("group", cohort.groups), ("covariate", dict(cohort.covariates))):
        for name in sorted(columns, key=str):
            _add(digest, f"{part} {name}", np.asarray(columns[name]))
    return f"{len(cohort)} patients, {digest.hexdigest()[:16]}"


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Say where two runs first differ.

    Example:
        >>> difference({"lr": 0.1, "model": {"d": 8}}, {"lr": 0.1, "model": {"d": 4}})
        'model was d=8 and is now d=4'
    """
    name = next(key for key in now if before.get(key) != now[key])
    path, old, new = "", before.get(name), now[name]
    while True:
        if isinstance(old, dict) and isinstance(new, dict):
            key = next(k for k in [*new, *old] if old.get(k) != new.get(k))
            path, old, new = f"{path}.{key}".lstrip("."), old.get(key), new.get(key)
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            place = next(i for i in range(len(new)) if old[i] != new[i])
            path, old, new = f"{path}[{place}]", old[place], new[place]
        else:
            break
    shown = (repr(v) if len(repr(v)) <= 100 else "another one" for v in (old, new))
    sides = [f"{path}={value}" if path else value for value in shown]
    advice = (
        ". With init='keep' pass the model as it was when the run began" if name == "start" else ""
    )
    return f"{name} was {sides[0]} and is now {sides[1]}{advice}"
