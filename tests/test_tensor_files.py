"""The files of KV caches: nothing in their folder is an error, and nothing is left there."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memos_core.errors import CacheNotWritten
from memos_core.tensor_files import Draft, TensorFiles, shrink, sizes

KEYS = ["aa1", "bb2", "cc3"]


@pytest.fixture
def files(tmp_path: Path) -> TensorFiles:
    return TensorFiles(tmp_path / "kv", "acme")


def save(path: Path, details: dict[str, str]) -> str:
    header = json.dumps({"__metadata__": details}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return f"{abs(hash(header)):x}"


def draft(files: TensorFiles, *keys: str) -> Draft:
    return files.draft(keys, [5] * len(keys), storage="none", save=save)


def write(files: TensorFiles, *keys: str) -> Path:
    made = draft(files, *keys)
    made.publish()
    return made.file.path


def old(path: Path) -> None:
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))


def test_a_file_is_found_once_it_is_published(files: TensorFiles) -> None:
    made = draft(files, *KEYS)
    assert files.along(KEYS) == []
    made.publish()
    assert files.along(KEYS) == [(made.file, 3)]
    assert made.size == made.file.path.stat().st_size
    made.drop()
    assert files.along(KEYS) == [(made.file, 3)]
    other = draft(files, "dd4")
    other.drop()
    assert list(sizes(files.folder.parent)) == [made.file.path]


def test_of_several_files_with_one_beginning_the_one_that_goes_on_is_found(
    files: TensorFiles,
) -> None:
    for ending in ("x", "y", "z"):
        write(files, "aa1", ending)
    for ending in ("x", "y", "z"):
        assert [count for _, count in files.along(["aa1", ending])] == [2]
    assert [count for _, count in files.along(["aa1", "w"])] == [1]


HEADERS: dict[str, bytes] = {
    "empty": b"",
    "too long": b"\xff" * 8 + b"x" * 100,
    "deep": (10**6).to_bytes(8, "little") + b"[" * 10**6,
    "a list": (2).to_bytes(8, "little") + b"[]",
    "no text": (4).to_bytes(8, "little") + b"\xff\xfe\x00\x01",
}


@pytest.mark.parametrize("name", HEADERS)
def test_what_is_no_such_file_is_removed(files: TensorFiles, name: str) -> None:
    path = write(files, *KEYS)
    path.write_bytes(HEADERS[name])
    assert list(files.all().values()) == [None]
    assert files.along(KEYS) == []
    assert not path.exists()


DETAILS: dict[str, dict[str, str]] = {
    "another key": {"keys": '["aa2", "bb2", "cc3"]'},
    "no keys": {"keys": "[]", "tokens": "[]"},
    "too few numbers": {"tokens": "[5]"},
    "no numbers": {"tokens": '["5", "5", "5"]'},
    "another format": {"format": "0"},
}


@pytest.mark.parametrize("name", DETAILS)
def test_what_does_not_say_what_it_holds_is_removed(files: TensorFiles, name: str) -> None:
    path = write(files, *KEYS)
    said = {"format": "1", "keys": json.dumps(KEYS), "tokens": "[5, 5, 5]", "storage": "none"}
    save(path, {**said, **DETAILS[name]})
    assert files.along(KEYS) == []
    assert not path.exists()


def test_a_folder_in_the_place_of_a_file_is_passed_over(
    files: TensorFiles, caplog: pytest.LogCaptureFixture
) -> None:
    other, path = write(files, "aa2"), write(files, *KEYS)
    path.unlink()
    path.mkdir()
    with caplog.at_level(logging.WARNING):
        assert files.find(KEYS[0]) is None
        assert list(files.all()) == [other]
        shrink(files.folder.parent, 0, keep=set())
    assert "Not a regular file" in caplog.text
    assert path.exists()
    assert not other.exists()
    with pytest.raises(CacheNotWritten):
        write(files, *KEYS)
    assert list(sizes(files.folder.parent)) == [path]


def test_a_pipe_or_a_link_in_the_place_of_a_file_is_passed_over(
    files: TensorFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = write(files, *KEYS), tmp_path / f"{KEYS[0]}.abc.safetensors"
    path.rename(other)
    path.symlink_to(other)
    assert files.along(KEYS) == []
    path.unlink()
    os.mkfifo(path)
    assert files.along(KEYS) == []
    assert files.all() == {}
    assert "Not a regular file" in caplog.text
    assert path.exists()


def test_what_cannot_be_published_leaves_nothing(files: TensorFiles) -> None:
    made = draft(files, *KEYS)
    made.file.path.mkdir()
    with pytest.raises(CacheNotWritten):
        made.publish()
    assert list(sizes(files.folder.parent)) == [made.file.path]


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    really = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if Path(path).suffix == ".safetensors":
            raise OSError(24, "Too many open files")
        return really(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        yield patch


def test_what_cannot_be_read_now_stays(
    files: TensorFiles, unreadable: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(files, *KEYS)
    assert files.along(KEYS) == []
    assert files.all() == {}
    shrink(files.folder.parent, 0, keep=set())
    assert "Too many open files" in caplog.text
    unreadable.undo()
    assert [file.path for file, _ in files.along(KEYS)] == [path]


def test_what_a_file_holds_is_read_once(
    files: TensorFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(files, *KEYS)
    there = files.all()
    opened, really = list[Path](), os.open

    def noted(path: Any, *args: Any, **options: Any) -> Any:
        opened.append(Path(path))
        return really(path, *args, **options)

    monkeypatch.setattr(os, "open", noted)
    assert files.all() == there
    assert files.along(KEYS) == [(there[path], 3)]
    assert opened == []
    old(path)
    assert files.all() == there
    assert opened == [path]


def test_a_folder_that_may_not_be_read_is_passed_over(
    files: TensorFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(files, *KEYS)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert files.along(KEYS) == []
    assert files.all() == {}
    assert sizes(files.folder.parent) == {}
    assert "Permission denied" in caplog.text


def test_what_cannot_be_removed_is_passed_over(
    files: TensorFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(files, *KEYS)
    path.write_bytes(b"")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert files.find(KEYS[0]) is None
    shrink(files.folder.parent, -1, keep=set())
    assert "cannot be removed" in caplog.text


def test_what_a_killed_process_left_is_counted_and_removed(files: TensorFiles) -> None:
    draft(files, *KEYS)
    folder = files.folder.parent
    (left,) = sizes(folder)
    assert left.suffix == ".partial"
    assert files.all() == {}  # it may be at work
    shrink(folder, 0, keep=set())
    assert sizes(folder) != {}
    old(left)
    assert files.all() == {left: None}
    shrink(folder, 10**9, keep=set())
    assert sizes(folder) == {}


def test_a_write_that_fails_leaves_nothing(files: TensorFiles) -> None:
    for error in (OSError(28, "No space left on device"), MemoryError()):

        def fail(path: Path, _: Any, error: BaseException = error) -> str:
            path.write_bytes(b"half")
            raise error

        with pytest.raises((CacheNotWritten, MemoryError)):
            files.draft(KEYS, [5, 5, 5], storage="none", save=fail)
    assert sizes(files.folder.parent) == {}


def test_every_folder_is_for_its_owner_alone(files: TensorFiles) -> None:
    before = os.umask(0)
    try:
        path = write(files, *KEYS)
    finally:
        os.umask(before)
    for level in (path.parent, path.parent.parent, path.parent.parent.parent):
        assert level.stat().st_mode & 0o777 == 0o700
