"""The open demos of MIMIC-IV and eICU, from PhysioNet."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm.auto import tqdm

from dfdlib.data.clinical.schemas import SOURCES, TABLES
from dfdlib.data.ingest import checksums
from dfdlib.errors import require, unknown

SUMS = "SHA256SUMS.txt"


@dataclass(frozen=True)
class Demo:
    """An open extract of a data set: what it is of, and the folder of its files."""

    dataset: str
    url: str


DEMOS = {
    "eicu-demo": Demo("eicu", "https://physionet.org/files/eicu-crd-demo/2.0.1/"),
    "mimic-iv-demo": Demo("mimic_iv", "https://physionet.org/files/mimic-iv-demo/2.2/"),
}


def download(
    name: str, out: str | Path, *, mirror: str | None = None, progress: bool | None = None
) -> Path:
    """Download an open demo: the tables that the cohorts read, the licence and the checksums.

    Files that are there and whole are not fetched again. A connection that breaks is taken up
    where it broke, in the same call or in the next one: what has arrived is kept under the file's
    name and `.part` until its SHA-256 is what PhysioNet lists. Proxies are taken from HTTPS_PROXY,
    HTTP_PROXY and NO_PROXY.

    The demos are under the Open Database License 1.0; the LICENSE file comes with them.

    Args:
        name: `eicu-demo` (2,520 stays; 2.0.1) or `mimic-iv-demo` (100 patients; 2.2, no notes).
        out: the folder to write to; it is made if it does not exist.
        mirror: the folder's URL where it is not PhysioNet's own.
        progress: whether to show progress bars; by default where there is a terminal.

    Returns:
        The folder: what `ingest` takes as root.

    Raises:
        ImportError: Without the packages of `dfdlib[clinical]`.
        ValueError: An unknown name, a list of checksums that is none, or a file whose checksum is
            not the listed one.
        ConnectionError: The server cannot be reached, or breaks off again and again.
    """
    require("downloading", "pooch", "requests", "urllib3")
    import pooch

    if name not in DEMOS:
        raise unknown(name, DEMOS, "demo that can be downloaded")
    url, out = (mirror or DEMOS[name].url).rstrip("/") + "/", Path(out)
    out.mkdir(parents=True, exist_ok=True)
    fetch = _Resuming(disable=None if progress is None else not progress)
    if (out / SUMS).is_file():
        wanted = _wanted(out / SUMS, DEMOS[name].dataset, url)
    else:
        part = out / f"{SUMS}.part"
        fetch.whole(url + SUMS, part)
        try:
            wanted = _wanted(part, DEMOS[name].dataset, url)
            part.replace(out / SUMS)
        finally:
            part.unlink(missing_ok=True)
    store = pooch.create(path=out, base_url=url, registry=wanted)
    for file in wanted:
        store.fetch(file, downloader=fetch)
    return out


def _wanted(sums: Path, dataset: str, url: str) -> dict[str, str]:
    """Pick the declared tables and the licence from the list of checksums."""
    stem = SOURCES[dataset].stem
    tables = {stem.format(table).lower() for table in TABLES[dataset]}
    listed = checksums(sums)
    picked = {}
    for name, digest in listed.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{url}{SUMS} lists {name!r}, which lies outside. Use another mirror")
        table = path.name.lower().removesuffix(".gz").removesuffix(".csv")
        if table in tables or path.stem == "LICENSE":
            picked[name] = f"sha256:{digest}"
    if not picked:
        raise ValueError(f"{url}{SUMS} lists no table of {dataset}. Use another mirror")
    return picked


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _Resuming:
    """Pooch's downloader protocol, for connections that break.

    Args:
        disable: tqdm's.
        patience: how often in a row nothing may arrive.
        pause: seconds before the next try, doubled each time.
    """

    def __init__(self, *, disable: bool | None, patience: int = 5, pause: float = 0.5) -> None:
        self.disable = disable
        self.patience = patience
        self.pause = pause

    def __call__(self, url: str, output_file: Any, store: Any) -> None:
        """Fetch a file to where Pooch wants it, by way of a `.part` that outlives a failure."""
        import pooch

        name = url.removeprefix(store.base_url)
        target = Path(store.path) / name
        part = target.with_name(f"{target.name}.part")
        self.whole(url, part)
        digest = pooch.file_hash(str(part))
        expected = store.registry[name].removeprefix("sha256:")
        if digest != expected:
            part.unlink()  # or the next try would go on where a wrong file ends
            raise ValueError(
                f"{url} has the SHA-256 {digest[:12]}…, {SUMS} lists {expected[:12]}…: it changed "
                "or was damaged on its way. Repeat the command"
            )
        part.replace(output_file)

    def whole(self, url: str, part: Path) -> None:
        """Fetch a file, going on from what is there, until it is whole."""
        from requests import RequestException
        from urllib3.exceptions import HTTPError

        failures = 0
        while failures < self.patience:
            before = _size(part)
            try:
                if self._go_on(url, part):
                    return
                reason = "it broke off"
            except (RequestException, HTTPError) as error:
                reason = str(error)
                answer = getattr(error, "response", None)
                if answer is not None and answer.status_code < 500:
                    break  # it is refused: more tries would not help
            failures = failures + 1 if _size(part) == before else 0
            if failures:
                time.sleep(self.pause * 2 ** (failures - 1))
        raise ConnectionError(
            f"{url} could not be fetched: {reason}. Check the connection (behind a proxy set "
            "HTTPS_PROXY) and repeat the command; what has arrived is kept"
        )

    def _go_on(self, url: str, part: Path) -> bool:
        """Append what the server still has; say whether the file is whole."""
        import requests

        have = _size(part)
        headers = {"Range": f"bytes={have}-"} if have else {}
        headers["Accept-Encoding"] = "identity"  # a .csv.gz is to stay one
        with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
            if answer.status_code == 416:  # nothing is left, or more is here than there
                size = answer.headers.get("Content-Range", "").rpartition("/")[2]
                if size == str(have):
                    return True
                part.unlink()
                return False
            answer.raise_for_status()
            if answer.status_code != 206:
                have = 0  # the server sends everything
            left = answer.headers.get("Content-Length")
            total = None if left is None else have + int(left)
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("r+b" if have else "wb") as file:
                file.seek(have)
                for block in self._blocks(answer, url, total, have):
                    file.write(block)
        return total is None or _size(part) == total

    def _blocks(self, answer: Any, url: str, total: int | None, have: int) -> Iterator[bytes]:
        with tqdm(
            desc=url.rpartition("/")[2],
            total=total,
            initial=have,
            unit="B",
            unit_scale=True,
            disable=self.disable,
        ) as bar:
            # the raw stream gives every byte that came before a connection broke
            for block in answer.raw.stream(1 << 16, decode_content=False):
                bar.update(len(block))
                yield block
