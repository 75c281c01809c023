"""JPEG files to one array on disk: in parts, by any number of workers, each part once."""

import contextlib
import csv
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

PART = 256  # images that are converted at a time; what a kill loses


def square(image: Image.Image, size: int) -> np.ndarray:
    """Bring an image to the published form.

    8-bit grey; the square in the middle, as wide as the shorter side; bicubic resizing; equalised
    histogram.

    Shapes:
        (size, size) of uint8
    """
    grey = image.convert("L")
    side = min(grey.size)
    left, top = ((length - side) // 2 for length in grey.size)
    grey = grey.crop((left, top, left + side, top + side))
    return np.asarray(ImageOps.equalize(grey.resize((size, size), Image.Resampling.BICUBIC)))


def read_square(file: Path, size: int) -> np.ndarray:
    """Read and convert a file.

    Raises:
        OSError: It is not there, or cannot be read to its end.
    """
    with Image.open(file) as image:
        return square(image, size)


class Conversion:
    """A conversion that any number of threads and processes may work on at the same time.

    Nobody waits for a lock: what a part becomes is a function of its files, so two that convert the
    same part write the same bytes. A part counts once its mark is there, and the array takes its
    name when all parts count; a kill at any moment loses only the parts in work.

    Args:
        files: The images, in the order of the array.
        out: The folder for `images.npy`.
        size: Height and width.

    Raises:
        ValueError: The folder holds a conversion of other files, or to another size.
        OSError: Not enough room.
    """

    def __init__(self, files: Sequence[Path], out: Path, size: int) -> None:
        self.files, self.out, self.size = files, out, size
        self.target, self.part = out / "images.npy", out / "images.npy.part"
        self.marks, self.card = out / "parts", out / "conversion.json"
        out.mkdir(parents=True, exist_ok=True)
        self._claim()

    @property
    def done(self) -> bool:
        """Whether the array is whole."""
        return self.target.exists()

    def run(self, workers: int, *, progress: bool | None) -> None:
        """Convert what is not converted yet."""
        if self.done:
            return
        self.marks.mkdir(exist_ok=True)
        header = self._header()
        with contextlib.suppress(FileExistsError):
            self.part.touch(exist_ok=False)
        left = [k for k in range(self._n_parts) if not self._mark(k).exists()]
        self._refuse_full(sum(len(self._range(k)) for k in left))
        with self.part.open("r+b") as file:
            file.write(header)
            file.truncate(len(header) + len(self.files) * self.size**2)
        # several processes begin at different places, so that they rarely do the same
        start = os.getpid() % max(len(left), 1)
        bar = tqdm(
            total=len(self.files), initial=len(self.files) - sum(len(self._range(k)) for k in left),
            unit="image", desc="MIMIC-CXR-JPG", disable=None if progress is None else not progress,
        )  # fmt: skip
        with bar, ThreadPoolExecutor(workers) as pool:  # Pillow lets go of the interpreter's lock
            for n in pool.map(self._convert, left[start:] + left[:start]):
                bar.update(n)

    def unreadable(self) -> dict[int, str]:
        """Why images could not be read, by their position."""
        found = {}
        for k in range(self._n_parts):
            for position, why in json.loads(self._mark(k).read_text(encoding="utf-8")).items():
                found[int(position)] = why
        return dict(sorted(found.items()))

    def finish(self) -> None:
        """Give the array its name, unless another process has; the marks are no longer needed."""
        if not self.done:
            with contextlib.suppress(FileNotFoundError):
                self.part.replace(self.target)
        self.part.unlink(missing_ok=True)
        shutil.rmtree(self.marks, ignore_errors=True)

    def discard(self) -> None:
        """Leave nothing behind of a conversion that gave no image."""
        shutil.rmtree(self.marks, ignore_errors=True)
        self.part.unlink(missing_ok=True)
        self.card.unlink(missing_ok=True)

    @property
    def _n_parts(self) -> int:
        return -(-len(self.files) // PART)

    def _range(self, k: int) -> range:
        return range(k * PART, min((k + 1) * PART, len(self.files)))

    def _mark(self, k: int) -> Path:
        return self.marks / f"{k:06d}.json"

    def _header(self) -> bytes:
        buffer = BytesIO()
        shape = (len(self.files), 1, self.size, self.size)
        described = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, described)
        return buffer.getvalue()

    def _convert(self, k: int) -> int:
        """Convert a part, unless somebody else has."""
        if self.done or self._mark(k).exists():
            return len(self._range(k))
        pixels = np.zeros((len(self._range(k)), self.size, self.size), dtype=np.uint8)
        bad: dict[int, str] = {}
        for i, position in enumerate(self._range(k)):
            try:
                pixels[i] = read_square(self.files[position], self.size)
            except FileNotFoundError:
                bad[position] = "not there"
            except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three
                bad[position] = str(error).splitlines()[0]
        try:
            with self.part.open("r+b") as file:
                file.seek(len(self._header()) + self._range(k).start * self.size**2)
                file.write(pixels.data)
                file.flush()
                os.fsync(file.fileno())
            write(self._mark(k), json.dumps(bad).encode())
        except FileNotFoundError:
            if not self.done:  # else another process has finished meanwhile
                raise
        return len(pixels)

    def _claim(self) -> None:
        """Write down what is converted, or refuse to mix two conversions in one folder."""
        names = hashlib.sha256("\n".join(file.name for file in self.files).encode()).hexdigest()
        card = {"size": self.size, "images": len(self.files), "names": names}
        if not self.card.exists():
            write(self.card, json.dumps(card).encode())
        before = json.loads(self.card.read_text(encoding="utf-8"))
        if before != card:
            raise ValueError(
                f"{self.out} holds {before['images']} images of {before['size']} px, and this is "
                f"{len(self.files)} of {self.size} px"
                + (", other ones" if before | {"names": names} == card else "")
                + ". Pass another out=, or delete the folder"
            )

    def _refuse_full(self, images: int) -> None:
        need, free = images * self.size**2, shutil.disk_usage(self.out).free
        if need > free:
            raise OSError(
                f"{self.out} has {free / 1e9:.1f} GB free, and the array needs {need / 1e9:.1f} GB "
                "more. Pass out= on a larger disk, or a smaller size="
            )


def write(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is whole or not there."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    part.write_bytes(content)
    part.replace(path)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A CSV file."""
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()
