from pathlib import Path

import pytest

from dfdlib.files import write_whole


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    write_whole(tmp_path / "new" / "a.txt", "é\n")
    write_whole(str(tmp_path / "b"), b"\xff\r\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "é\n".encode()
    assert (tmp_path / "b").read_bytes() == b"\xff\r\n"


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_where_it_fails_the_old_file_stays_and_nothing_beside_it(tmp_path, monkeypatch, step):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    kept = getattr(Path, step)

    def fail(self, *arguments):
        if step == "write_bytes":  # the disk is full half way
            kept(self, arguments[0][:1])
        raise OSError("no space left")

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(OSError, match="no space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_the_file_is_never_seen_half(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.json", []
    write_whole(path, "old")
    replace = Path.replace

    def look(self, target):
        seen.append((path.read_text(), self.read_text()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", look)
    write_whole(path, "new")
    assert seen == [("old", "new")]
    assert path.read_text() == "new"
