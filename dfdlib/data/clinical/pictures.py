"""JPEG files to one array on disk: in parts, by any number of workers, each part once."""

import contextlib
import csv
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dfdlib.files import write_whole

PART = 256  # images that are converted at a time; what a kill loses


def square(image: Any, size: int) -> np.ndarray:
    """Bring an image to the published form.

    8-bit grey; the square in the middle, as wide as the shorter side; bicubic resizing; equalised
    histogram. A picture that says how it is to be turned is turned first. Of more than 8 bits, the
    darkest pixel becomes 0 and the brightest 255: equalising does away with the scale anyway.

    Args:
        image: of Pillow.
        size: height and width.

    Shapes:
        (size, size) of uint8
    """
    from PIL import Image, ImageOps

    grey = _grey(ImageOps.exif_transpose(image))
    side = min(grey.size)
    left, top = ((length - side) // 2 for length in grey.size)
    grey = grey.crop((left, top, left + side, top + side))
    return np.asarray(ImageOps.equalize(grey.resize((size, size), Image.Resampling.BICUBIC)))


def _grey(image: Any) -> Any:
    """A picture in 8 bits of grey."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image.convert("L")
    values = np.asarray(image, dtype=np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        raise ValueError("pixels that are no numbers")
    scale = 255 / (high - low) if high > low else 0.0
    return Image.fromarray(np.round((values - low) * scale).astype(np.uint8))


def read_square(file: Path, size: int) -> np.ndarray:
    """Read and convert a file.

    Raises:
        OSError: It is not there, or cannot be read to its end.
    """
    from PIL import Image

    with Image.open(file) as image:
        return square(image, size)


class Conversion:
    """A conversion that any number of threads and processes may work on at the same time.

    Nobody waits for a lock: what a part becomes is a function of its files, so two that convert the
    same part write the same bytes. A part counts once its mark is there, and the array takes its
    name when all parts count; a kill at any moment loses only the parts in work.

    A second conversion into the same folder reads the files that have arrived, changed or could not
    be read, and takes the pixels of all others from the array that is there. Where nothing has
    changed, nothing is done.

    Args:
        images: A row per image in the order of the array, with `dicom_id` and `file`.
        out: The folder for `images.npy`.
        size: Height and width.

    Raises:
        ValueError: The folder holds a conversion of other files, or to another size.
        OSError: Not enough room.
    """

    def __init__(self, images: pd.DataFrame, out: Path, size: int) -> None:
        self.files, self.out, self.size = list(images["file"]), out, size
        self.target, self.card = out / "images.npy", out / "conversion.json"
        self.index = out / "images.parquet"
        out.mkdir(parents=True, exist_ok=True)
        before = self._claim(images["dicom_id"])
        states, self._kept = self._compare(images["dicom_id"], before)
        self.states = pd.DataFrame(states, columns=["bytes", "modified"], index=images.index)
        content = json.dumps([images["dicom_id"].tolist(), states]).encode()
        self.plan = hashlib.sha256(content).hexdigest()
        self.part = out / f"images-{self.plan[:12]}.npy.part"
        self.ready = self.part.with_suffix(".parquet")

    @property
    def done(self) -> bool:
        """Whether all parts of this very conversion count."""
        return self._read_card().get("plan") == self.plan

    @property
    def whole(self) -> bool:
        """Whether array and index have their names."""
        return self.done and self._read_card()["whole"]

    def run(self, workers: int, *, progress: bool | None) -> dict[int, str]:
        """Convert what is not converted yet.

        Returns:
            Why images could not be read, by their position.
        """
        header = self._header()
        with contextlib.suppress(FileExistsError):
            self.part.touch(exist_ok=False)
        with self.part.open("r+b") as file:
            # marks belong to one file: another process may have finished, and a third begun anew
            self._marks = self.part.with_suffix(f".{os.fstat(file.fileno()).st_ino}")
            self._marks.mkdir(exist_ok=True)
            left = [k for k in range(self._n_parts) if not self._mark(k).exists()]
            self._refuse_full(sum(len(self._range(k)) for k in left))
            file.write(header)
            file.truncate(len(header) + len(self.files) * self.size**2)
            file.flush()
            # several processes begin at different places, so that they rarely do the same
            start = os.getpid() % max(len(left), 1)
            bar = tqdm(
                total=len(self.files),
                initial=len(self.files) - sum(len(self._range(k)) for k in left),
                unit="image", desc="MIMIC-CXR-JPG",
                disable=None if progress is None else not progress,
            )  # fmt: skip
            old = np.load(self.target, mmap_mode="r") if self._kept else None
            work = partial(self._convert, descriptor=file.fileno(), old=old)
            with bar, ThreadPoolExecutor(workers) as pool:  # Pillow lets go of the lock
                for n in pool.map(work, left[start:] + left[:start]):
                    bar.update(n)
        failures = {}
        for k in range(self._n_parts):
            for position, why in json.loads(self._mark(k).read_text(encoding="utf-8")).items():
                failures[int(position)] = why
        return dict(sorted(failures.items()))

    def prepare(self, index: bytes) -> None:
        """Say that all parts count.

        Args:
            index: what `images.parquet` shall hold.
        """
        if not self.done:
            write_whole(self.ready, index)
            self._write_card(whole=False)

    def finish(self) -> None:
        """Give array and index their names; until the card says so, nobody reads them."""
        for part, name in ((self.part, self.target), (self.ready, self.index)):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                part.replace(name)
        self._write_card(whole=True)
        self.clean()

    def _write_card(self, *, whole: bool) -> None:
        card = {"size": self.size, "images": len(self.files), "plan": self.plan, "whole": whole}
        write_whole(self.card, json.dumps(card).encode())

    def clean(self) -> None:
        """Remove what conversions that were killed have left."""
        for path in self.out.glob("images-*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for path in self.out.glob("*.part"):  # those of an hour may be another process's
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > 3600:
                    path.unlink()

    def discard(self) -> None:
        """Leave nothing behind of a conversion that gave no image."""
        self.clean()
        if not self.target.exists():
            self.card.unlink(missing_ok=True)

    @property
    def _n_parts(self) -> int:
        return -(-len(self.files) // PART)

    def _range(self, k: int) -> range:
        return range(k * PART, min((k + 1) * PART, len(self.files)))

    def _mark(self, k: int) -> Path:
        return self._marks / f"{k:06d}.json"

    def _header(self) -> bytes:
        buffer = BytesIO()
        shape = (len(self.files), 1, self.size, self.size)
        described = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, described)
        return buffer.getvalue()

    def _convert(self, k: int, *, descriptor: int, old: np.ndarray | None) -> int:
        """Convert a part, unless somebody else has."""
        if self.done or self._mark(k).exists():
            return len(self._range(k))
        pixels = np.zeros((len(self._range(k)), self.size, self.size), dtype=np.uint8)
        bad: dict[int, str] = {}
        for i, position in enumerate(self._range(k)):
            if old is not None and position in self._kept:
                pixels[i] = old[self._kept[position], 0]
                continue
            try:
                pixels[i] = read_square(self.files[position], self.size)
            except (
                Exception
            ) as error:  # Pillow raises a dozen kinds, and one must not stop the rest
                bad[position] = _why(error)
        start = len(self._header()) + self._range(k).start * self.size**2
        os.pwrite(descriptor, pixels.data, start)
        os.fsync(descriptor)
        try:
            write_whole(self._mark(k), json.dumps(bad).encode())
        except FileNotFoundError:
            if not self.done:  # else another process has finished meanwhile
                raise
        return len(pixels)

    def _read_card(self) -> dict[str, Any]:
        try:
            return json.loads(self.card.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}

    def _claim(self, names: pd.Series) -> pd.DataFrame:
        """Refuse to mix two conversions in one folder; the index of the one that is there."""
        none = pd.DataFrame(columns=["dicom_id", "row", "bytes", "modified"])
        card = self._read_card()
        if not card:
            described = {"size": self.size, "images": len(names), "whole": False}
            write_whole(self.card, json.dumps(described).encode())
            return none
        whole = self.target.exists() and self.index.exists() and card.get("whole", True)
        before = pd.read_parquet(self.index) if whole else none
        other = whole and before["dicom_id"].isin(names).mean() < 0.5
        if card["size"] != self.size or other:
            raise ValueError(
                f"the folder {self.out.name!r} holds {card['images']} images of {card['size']} px, "
                f"and this is {len(names)} of {self.size} px"
                + (", other ones" if other else "")
                + ". Pass another out=, or delete the folder"
            )
        return before

    def _compare(
        self, names: pd.Series, before: pd.DataFrame
    ) -> tuple[list[tuple[int, int]], dict[int, int]]:
        """Size and time of each file, and the rows of the present array that need no new reading.

        A file that was converted and is no longer there counts as it was: who deletes the JPEG
        files to save room keeps the pixels.
        """
        if "bytes" not in before:  # of an earlier version, which did not write them down
            array = self.target.stat().st_mtime_ns
            before = before.assign(bytes=-1, modified=array)
        known = {
            name: (int(row), int(size), int(modified))
            for name, row, size, modified in before[
                ["dicom_id", "row", "bytes", "modified"]
            ].itertuples(index=False)
        }
        states, kept = [], {}
        for position, (name, file) in enumerate(zip(names, self.files, strict=True)):
            row, size, modified = known.get(name, (-1, -1, -1))
            try:
                status = file.stat()
                state = (status.st_size, status.st_mtime_ns)
            except OSError:
                state = (size, modified)
            same = state == (size, modified) or (size == -1 and state[1] <= modified)
            if row >= 0 and same:
                kept[position] = row
            states.append(state)
        return states, kept

    def _refuse_full(self, images: int) -> None:
        need, free = images * self.size**2, shutil.disk_usage(self.out).free
        if need > free:
            raise OSError(
                f"the disk of the folder {self.out.name!r} has {free / 1e9:.1f} GB free, and the "
                f"array needs {need / 1e9:.1f} GB more. Pass out= on a larger disk, or a smaller "
                "size="
            )


def _why(error: Exception) -> str:
    """Why a picture cannot be read, without the words of Pillow, which name the file."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, FileNotFoundError):
        return "not there"
    if isinstance(error, PermissionError):
        return "not readable by this user"
    if isinstance(error, UnidentifiedImageError):
        return "no picture"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    return "truncated" if "truncated" in str(error) else "damaged"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A CSV file."""
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()
