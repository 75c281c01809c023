"""Pairs of chest X-rays from the converted array against decoding their JPEG files each time.

    OMP_NUM_THREADS=1 python benchmarks/images.py

Made-up studies in the layout of MIMIC-CXR-JPG are converted once. Few pictures are drawn, and the
files of all studies are links to them; each is read and decoded anew. Then both ways give the same
batches, to the last pixel: 32 pairs, 224 by 224, shares of 255. They take turns in one process on
one thread, block by block over random pairs; the files are in the system's cache. Real ones have
some 2,500 by 3,000 pixels and take longer to decode than these: a few of that size are timed too.
What the array gives does not depend on it.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
import torch
from torch import Tensor

import dfdlib
from dfdlib.book import made_up
from dfdlib.data import Cohort, mimic_cxr
from dfdlib.data.clinical.pictures import read_square

SIZE, BATCH = 224, 32
DRAWN = 64  # patients whose pictures are drawn
TABLES = [f"mimic-cxr-2.0.0-{name}" for name in ("metadata", "chexpert", "split")]
PAIRS_PER_PATIENT = 1.35  # of made-up patients, a little under what they have on average
RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "images.json"


def cpu_seconds(batches: Iterator[dict[str, Tensor]]) -> float:
    """CPU time to be given all batches, which a busy neighbour does not lengthen."""
    start = time.process_time()
    for _ in batches:
        pass
    return time.process_time() - start


def own_mib() -> float:
    """Memory of this process's own: pages of the array that the system keeps do not count."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def write_studies(root: Path, few: Path, n: int, pixels: int) -> dict[str, float]:
    """Write the tables of n patients, and a file per image; say what one is like."""
    made_up.write("mimic_cxr", few, n=DRAWN, seed=0, pixels=pixels)
    drawn = [file for file in sorted((few / "files").rglob("*.jpg")) if file.stat().st_size > 90]
    made_up.write("mimic_cxr", root, n=n, seed=0, only=TABLES)
    metadata = pd.read_csv(root / f"{TABLES[0]}.csv.gz")
    named = metadata[["dicom_id", "subject_id", "study_id"]].itertuples(index=False)
    for (name, subject, study), file in zip(named, itertools.cycle(drawn), strict=False):
        target = path_of(root, name, subject, study)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)
    kilobytes = statistics.mean(file.stat().st_size for file in drawn) / 1e3
    return {"drawn": len(drawn), "files": len(metadata), "kilobytes_per_file": kilobytes}


def path_of(root: Path, name: str, subject: int, study: int) -> Path:
    """Where PhysioNet lays an image."""
    return root / f"files/p{str(subject)[:2]}/p{subject}/s{study}/{name}.jpg"


def from_array(cohort: Cohort, rows: np.ndarray) -> Iterator[dict[str, Tensor]]:
    """Batches of the cohort."""
    for batch in cohort.select(rows).batches(BATCH):
        yield batch.x


def from_files(files: dict[str, list[Path]], rows: np.ndarray) -> Iterator[dict[str, Tensor]]:
    """The same batches, each image read, cropped, resized and equalised anew."""
    for part in np.split(rows, range(BATCH, len(rows), BATCH)):
        read = {
            side: np.stack([read_square(paths[i], SIZE) for i in part])
            for side, paths in files.items()
        }
        yield {side: torch.from_numpy(x)[:, None].float().div_(255) for side, x in read.items()}


def sources(root: Path, converted: Path, cohort: Cohort) -> dict[str, list[Path]]:
    """The JPEG file of each pair's images."""
    index = pd.read_parquet(converted / "images.parquet").set_index("row")
    paths = {
        row: path_of(root, name, subject, study)
        for row, name, subject, study in index[["dicom_id", "subject_id", "study_id"]].itertuples()
    }
    sides = ("frontal", "lateral")
    return {side: [paths[row] for row in cohort.x[side].rows.tolist()] for side in sides}


def turns(cohort: Cohort, files: dict[str, list[Path]], blocks: int) -> dict[str, object]:
    """Time both ways on the same random pairs in turns."""
    rng = np.random.default_rng(0)
    seconds = []
    for _ in range(blocks + 1):
        rows = rng.choice(len(cohort), 4 * BATCH, replace=False)
        seconds.append(
            (cpu_seconds(from_files(files, rows)), cpu_seconds(from_array(cohort, rows)))
        )
    for a, b in zip(from_files(files, rows), from_array(cohort, rows), strict=True):
        assert all(torch.equal(a[side], b[side]) for side in files)
    seconds = seconds[1:]  # the first block warms up
    n = 2 * 4 * BATCH
    ratios = [slow / fast for slow, fast in seconds]
    return {
        "images_in_a_block": n,
        "blocks": blocks,
        "milliseconds_per_image_from_files": 1e3 * statistics.median(s for s, _ in seconds) / n,
        "milliseconds_per_image_from_array": 1e3 * statistics.median(f for _, f in seconds) / n,
        "ratio_median": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def full_size(root: Path, repeats: int = 5) -> float:
    """CPU milliseconds to read and convert a file of the size that real ones have."""
    made_up.write("mimic_cxr", root, n=1, seed=0, pixels=2544)
    file = next((root / "files").rglob("*.jpg"))
    times = []
    for _ in range(repeats):
        start = time.process_time()
        read_square(file, SIZE)
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times)


def epoch(cohort: Cohort) -> dict[str, float]:
    """Deliver all pairs once, shuffled."""
    before, most, n = own_mib(), 0.0, 0
    start, wall = time.process_time(), time.perf_counter()
    for batch in cohort.batches(BATCH, seed=0):
        n += 2 * len(batch)
        most = max(most, own_mib() - before)
    return {
        "images": n,
        "cpu_seconds": time.process_time() - start,
        "wall_seconds": time.perf_counter() - wall,
        "peak_mib": most,
    }


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--pixels", type=int, default=384, help="shorter side of the JPEG files")
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "all"
        n = int(given.pairs / PAIRS_PER_PATIENT) + 1
        jpeg = write_studies(root, Path(folder) / "few", n, given.pixels)
        start, wall = time.process_time(), time.perf_counter()
        workers = os.cpu_count() or 1
        converted = mimic_cxr.convert(root, size=SIZE, workers=workers, progress=False)
        conversion = {
            "cpu_seconds": time.process_time() - start,
            "wall_seconds": time.perf_counter() - wall,
            "workers": workers,
            "megabytes": (converted / "images.npy").stat().st_size / 1e6,
            "images": len(np.load(converted / "images.npy", mmap_mode="r")),
        }
        cohort = mimic_cxr.load(converted)
        cohort = cohort.select(np.arange(min(given.pairs, len(cohort))))
        files = sources(root, converted, cohort)
        result = {
            "benchmark": "pairs of X-rays: from the converted array against decoding JPEG",
            "setting": {
                "pairs": len(cohort),
                "size": SIZE,
                "batch": BATCH,
                "jpeg_shorter_side": given.pixels,
                "threads": 1,
            },
            "jpeg": jpeg,
            "conversion": conversion,
            "turns": turns(cohort, files, given.blocks),
            "milliseconds_per_file_of_2544_pixels": full_size(Path(folder) / "full"),
            "epoch": epoch(cohort),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "pillow": PIL.__version__,
                "dfdlib": dfdlib.__version__,
            },
            "command": f"OMP_NUM_THREADS=1 python benchmarks/images.py --pairs {given.pairs}",
        }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    part = given.out.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.rename(given.out)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
