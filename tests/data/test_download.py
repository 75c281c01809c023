"""The open demos, from a server on this machine that breaks off."""

import hashlib
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dfdlib.book import made_up
from dfdlib.data.download import _Resuming, download
from dfdlib.data.ingest import ingest

TABLES = [
    *("patient", "hospital", "admissionDx", "diagnosis", "treatment", "medication", "lab"),
    *("vitalPeriodic", "vitalAperiodic", "apacheApsVar", "apachePredVar"),
]


class Server:
    """Serves bytes by name; can break off, ignore ranges, and counts what it was asked."""

    def __init__(self, files):
        self.files = files
        self.breaks = {}  # name: bytes that arrive per request
        self.ranges = True
        self.asked = []  # (path, range)
        handler = partial(_Handler, self)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        serve = partial(self.http.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.http.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, server, *arguments):
        self.of = server
        super().__init__(*arguments)

    def do_GET(self):
        asked = self.headers.get("Range")
        self.of.asked.append((self.path, asked))
        name = self.path.partition("/demo/")[2]
        if name not in self.of.files:
            return self.send_error(404)
        body = self.of.files[name]
        start = int(asked[6:-1]) if asked and self.of.ranges else 0
        if start >= len(body) > 0 and asked:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        rest = body[start:]
        self.wfile.write(rest[: self.of.breaks.get(name, len(rest))])
        return None

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = made_up.write("eicu", tmp_path_factory.mktemp("demo"), n=30, seed=0)
    files = {path.name: path.read_bytes() for path in root.iterdir()}
    files |= {"LICENSE.txt": b"open", "note.csv.gz": b"a table that no cohort reads"}
    sums = [f"{hashlib.sha256(body).hexdigest()} {name}" for name, body in files.items()]
    return files | {"SHA256SUMS.txt": "\n".join(sums).encode()}


@pytest.fixture
def server(files):
    server = Server(dict(files))
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy, no waiting."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr("dfdlib.data.download.time.sleep", lambda _: None)


def test_the_declared_tables_arrive_and_can_be_ingested(server, files, tmp_path):
    out = download("eicu-demo", tmp_path / "raw", mirror=f"{server.address}/demo")
    arrived = {path.name: path.read_bytes() for path in out.iterdir()}
    expected = {f"{table}.csv.gz" for table in TABLES} | {"LICENSE.txt", "SHA256SUMS.txt"}
    assert set(arrived) == expected
    assert all(arrived[name] == files[name] for name in expected)
    assert ingest("eicu", out, tmp_path / "out", threads=1)["tables"]["hospital"]["rows"] == 60


def test_what_is_there_and_whole_is_not_fetched_again(server, tmp_path):
    out = download("eicu-demo", tmp_path, mirror=f"{server.address}/demo/")
    server.asked.clear()
    download("eicu-demo", tmp_path, mirror=f"{server.address}/demo/")
    assert server.asked == []
    (out / "patient.csv.gz").write_bytes(b"damaged")
    download("eicu-demo", tmp_path, mirror=f"{server.address}/demo/")
    assert [path for path, _ in server.asked] == ["/demo/patient.csv.gz"]


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server, files, tmp_path):
    size = len(files["lab.csv.gz"])
    server.breaks["lab.csv.gz"] = size // 3 + 1
    out = download("eicu-demo", tmp_path, mirror=f"{server.address}/demo")
    assert (out / "lab.csv.gz").read_bytes() == files["lab.csv.gz"]
    asked = [start for path, start in server.asked if path.endswith("/lab.csv.gz")]
    third = size // 3 + 1
    assert asked == [None, f"bytes={third}-", f"bytes={2 * third}-"]


def test_a_later_call_goes_on_with_what_an_earlier_one_left(server, files, tmp_path):
    body = files["lab.csv.gz"]
    (tmp_path / "lab.csv.gz.part").write_bytes(body[:1000])
    download("eicu-demo", tmp_path, mirror=f"{server.address}/demo")
    assert ("/demo/lab.csv.gz", "bytes=1000-") in server.asked
    assert (tmp_path / "lab.csv.gz").read_bytes() == body
    assert not list(tmp_path.glob("*.part"))


def test_a_server_without_ranges_sends_everything_again(server, files, tmp_path):
    server.ranges = False
    (tmp_path / "lab.csv.gz.part").write_bytes(b"old" * 100)
    download("eicu-demo", tmp_path, mirror=f"{server.address}/demo")
    assert (tmp_path / "lab.csv.gz").read_bytes() == files["lab.csv.gz"]


def test_a_part_that_is_whole_is_taken_as_it_is_and_one_too_long_is_not(server, files, tmp_path):
    (tmp_path / "lab.csv.gz.part").write_bytes(files["lab.csv.gz"])
    (tmp_path / "patient.csv.gz.part").write_bytes(files["patient.csv.gz"] + b"more")
    download("eicu-demo", tmp_path, mirror=f"{server.address}/demo")
    for name in ("lab.csv.gz", "patient.csv.gz"):
        assert (tmp_path / name).read_bytes() == files[name]


def test_another_content_is_refused_and_leaves_nothing_to_go_on_from(server, tmp_path):
    server.files["lab.csv.gz"] = b"something else"
    with pytest.raises(ValueError, match=r"lab\.csv\.gz has the SHA-256 .* Repeat the command"):
        download("eicu-demo", tmp_path, mirror=f"{server.address}/demo")
    assert not list(tmp_path.glob("lab.csv.gz*"))


def test_a_server_that_sends_nothing_more_is_given_up_and_what_came_is_kept(
    server, files, tmp_path
):
    fetch = _Resuming(disable=True)
    url = f"{server.address}/demo/lab.csv.gz"
    server.breaks["lab.csv.gz"] = 0
    (tmp_path / "lab.part").write_bytes(files["lab.csv.gz"][:500])
    with pytest.raises(ConnectionError, match=r"HTTPS_PROXY.*what has arrived is kept"):
        fetch.whole(url, tmp_path / "lab.part")
    assert len(server.asked) == fetch.patience
    assert (tmp_path / "lab.part").read_bytes() == files["lab.csv.gz"][:500]


def test_a_file_that_is_not_there_is_asked_for_once(server, tmp_path):
    with pytest.raises(ConnectionError, match=r"SHA256SUMS\.txt could not be fetched: 404"):
        download("eicu-demo", tmp_path, mirror=f"{server.address}/elsewhere")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("sums", "said"),
    [
        (b"<html>Please log in</html>", "lists no table of eicu"),
        (b"00ff ../../lab.csv.gz", "which lies outside"),
        (b"00ff /lab.csv.gz", "which lies outside"),
    ],
)
def test_a_list_of_checksums_that_is_none_is_refused(server, tmp_path, sums, said):
    server.files["SHA256SUMS.txt"] = sums
    with pytest.raises(ValueError, match=said):
        download("eicu-demo", tmp_path, mirror=f"{server.address}/demo")
    assert not list(tmp_path.iterdir())


def test_a_proxy_is_respected(server, files, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setenv("no_proxy", "")
    download("eicu-demo", tmp_path, mirror="http://open.invalid/demo")
    assert server.asked[0][0] == "http://open.invalid/demo/SHA256SUMS.txt"
    assert (tmp_path / "lab.csv.gz").read_bytes() == files["lab.csv.gz"]


def test_an_unknown_demo_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'eicu' is not a demo .* Did you mean 'eicu-demo'\?"):
        download("eicu", tmp_path)
