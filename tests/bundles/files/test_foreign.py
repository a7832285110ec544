"""What stands where a file of ours is expected may be anything, and costs only itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pack.bundles.files import foreign
from pack.bundles.files.foreign import NotPlain, open_plain, parse_object, read_object
from pack.bundles.files.journal import Journal

NO_LINKS = pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes and few links")
DEEP = "[" * 200_000
JUNK = ["", "null", "[]", "1", '"x"', "{", DEEP, '{"a":' * 200_000, "9" * 10_000, '{"a": \udcff']
JUNK += ['{"a": ' + "[" * 100 + "]" * 100 + "}"]


@pytest.mark.parametrize("text", JUNK, ids=lambda text: text[:8])
def test_what_is_no_object_or_deep_is_passed_over(tmp_path: Path, text: str):
    data = text.encode("utf-8", "surrogateescape")
    (tmp_path / "a.json").write_bytes(data)
    (tmp_path / "a.jsonl").write_bytes(b'{"n": 1}\n' + data + b'\n{"n": 2}\n')
    assert read_object(tmp_path / "a.json") == {}
    assert list(Journal(tmp_path / "a.jsonl").entries()) == [{"n": 1}, {"n": 2}]


def test_an_object_comes_back_and_numbers_that_json_lacks_are_null():
    found = parse_object(b'{"a": NaN, "b": [-Infinity, 1e999, 0.5, 3], "c": {"d": [[1]]}}')
    assert found == {"a": None, "b": [None, None, 0.5, 3], "c": {"d": [[1]]}}
    json.dumps(found, allow_nan=False)


def test_many_objects_next_to_each_other_are_not_deep():
    entry = {"rows": [{"at": [n, n + 1]} for n in range(1000)]}
    assert parse_object(json.dumps(entry).encode()) == entry


def test_what_is_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(foreign, "MOST_BYTES", 100)
    (tmp_path / "a.json").write_text(json.dumps({"a": "x" * 100}))
    (tmp_path / "b.json").write_text(json.dumps({"a": "x" * 10}))
    assert read_object(tmp_path / "a.json") == {} != read_object(tmp_path / "b.json")


def test_a_line_that_is_too_long_is_passed_over_and_the_next_is_read(tmp_path: Path):
    journal = Journal(tmp_path / "a.jsonl", longest=20)
    for text in ("x", "y" * 5, "z" * 50, "w"):
        journal.add({"n": text})
    assert [len(line) for line in journal.path.read_bytes().splitlines(True)] == [11, 15, 60, 11]
    assert [entry["n"] for entry in journal.entries()] == ["x", "yyyyy", "w"]
    exact = Journal(journal.path, longest=60)
    assert [entry["n"][0] for entry in exact.entries()] == ["x", "y", "z", "w"]


def places(folder: Path) -> list[Path]:
    """A link to a file, one to nothing, a pipe, a device and a folder."""
    (folder / "user.jsonl").write_text('{"n": 1}\n')
    (folder / "link").symlink_to(folder / "user.jsonl")
    (folder / "nowhere").symlink_to(folder / "not there")
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    return [
        folder / "link",
        folder / "nowhere",
        folder / "pipe",
        Path("/dev/zero"),
        folder / "folder",
    ]


@NO_LINKS
@pytest.mark.timeout(20)
def test_a_journal_that_is_no_file_is_neither_read_nor_written(tmp_path: Path):
    for place in places(tmp_path):
        journal = Journal(place)
        assert read_object(place) == {} and list(journal.entries()) == []
        for change in (lambda j: j.add({"n": 2}), lambda j: j.rewrite([{"n": 2}])):
            with pytest.raises(OSError, match=place.name):
                change(journal)
    assert (tmp_path / "user.jsonl").read_text() == '{"n": 1}\n'
    assert not (tmp_path / "not there").exists()


@NO_LINKS
def test_a_link_that_appears_at_the_last_moment_is_not_followed(tmp_path: Path, monkeypatch):
    """Between the look at the name and the opening."""
    (tmp_path / "user").write_text("theirs")
    (tmp_path / "a").symlink_to(tmp_path / "user")
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)
    with pytest.raises(OSError, match="symbolic links"):
        open_plain(tmp_path / "a", "ab+")
    assert (tmp_path / "user").read_text() == "theirs"


def test_a_plain_file_is_opened_and_made(tmp_path: Path):
    with open_plain(tmp_path / "a", "ab+") as file:
        file.write(b"x")
    with open_plain(tmp_path / "a", "rb") as file:
        assert file.read() == b"x"
    with pytest.raises(FileNotFoundError):
        open_plain(tmp_path / "b", "rb")
    assert issubclass(NotPlain, OSError)
