"""Archives as they are meant to be: written whole or not at all, and read as they were written."""

from __future__ import annotations

import json
import os
import re
import resource
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core import Namespace
from memos_core.archive import (
    ArchiveInvalid,
    ArchiveNotRead,
    ArchiveNotWritten,
    ArchiveReader,
    ArchiveWriter,
    Header,
    Limits,
)
from memos_core.archive.writer import PART_BYTES, PART_RECORDS
from memos_core.embedder import Model
from memos_core.errors import Closed, InvalidInput, InvalidVector
from tests.archives import CONTENTS, EMBEDDINGS, HEADER, KEY, RECORDS, TWO, read, unpacked, write

GOLDEN = Path(__file__).parent / "data" / "archive-v1.memos"
ALONE = replace(HEADER, contents=("cubes",))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
records = st.dictionaries(texts, values, max_size=4)


def cubes(path: Path, found: list[Any], **given: Any) -> Path:
    with ArchiveWriter(path, replace(ALONE, embedder=None), **given) as archive:
        archive.write("cubes", found)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.memos")
    assert read(path) == CONTENTS
    with ArchiveReader(path) as archive:
        archive.verify()
        assert archive.counts == {kind: len(records) for kind, records in RECORDS.items()}
        assert list(archive.records("cubes")) == RECORDS["cubes"]
        assert archive.claimed_signer is None


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(
        st.tuples(st.sampled_from(["messages", "events"]), st.lists(records, max_size=5)),
        max_size=6,
    ),
    part=st.integers(1, 4),
)
def test_any_json_in_any_batches_comes_back(
    tmp_path_factory: pytest.TempPathFactory, batches: list[Any], part: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.memos"
    header = replace(HEADER, contents=("events", "messages"), embedder=None)
    limits = Limits(part_records=part)
    with ArchiveWriter(path, header, limits=limits, overwrite=True) as archive:
        for kind, batch in batches:
            archive.write(kind, iter(batch))
    _, found, _ = read(path, limits=limits)
    for kind in ("events", "messages"):
        assert found[kind] == [one for of, batch in batches if of == kind for one in batch]


def test_a_part_can_be_read_by_its_number_and_reading_resumed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.memos")
    with ArchiveReader(path) as archive:
        assert archive.parts("cubes") == range(2)
        part = archive.read_part("cubes", 1)
        assert (part.kind, part.number, part.records) == ("cubes", 1, RECORDS["cubes"][2:])
        assert part.embeddings is not None
        assert part.embeddings.dtype == np.float16
        assert np.array_equal(part.embeddings, EMBEDDINGS["cubes"][2:])
        assert archive.read_part("messages", 0).embeddings is None
        assert [part.number for part in archive.read_parts("cubes", start=1)] == [1]
        with pytest.raises(InvalidInput, match="no part 2 of cubes"):
            archive.read_part("cubes", 2)
        with pytest.raises(InvalidInput, match="unknown kind"):
            archive.parts("cube")


def test_kinds_may_be_written_in_turns(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.memos", HEADER, limits=TWO) as archive:
        for index in range(6):
            archive.write("messages", [{"id": index}])
            archive.write("cubes", [{"id": index}], embeddings=np.full((1, 4), index + 1.0))
    names = list(unpacked(tmp_path / "a.memos"))
    assert names[1:3] == ["messages/000000.jsonl", "cubes/000000.jsonl"]
    assert names[4:6] == ["messages/000001.jsonl", "cubes/000001.jsonl"]
    _, found, vectors = read(tmp_path / "a.memos")
    assert found["cubes"] == found["messages"] == [{"id": index} for index in range(6)]
    rows = np.frombuffer(vectors["cubes"], np.float16).reshape(6, 4)
    assert rows[:, 0].tolist() == [1, 2, 3, 4, 5, 6]


def test_parts_are_of_bounded_size_whatever_the_batches(tmp_path: Path) -> None:
    header = replace(ALONE, embedder=Model(name="wide", width=2_000))
    with ArchiveWriter(tmp_path / "wide.memos", header) as archive:
        archive.write("cubes", [{}] * 1_100, embeddings=np.ones((1_100, 2_000), np.float16))
    with ArchiveReader(tmp_path / "wide.memos") as archive:
        assert [len(part.records) for part in archive.read_parts("cubes")] == [1_048, 52]
    long, longer = {"text": "x" * (PART_BYTES // 2)}, {"text": "y" * (PART_BYTES + 1)}
    path = cubes(tmp_path / "long.memos", [long, long, long, longer, {}, *[{}] * PART_RECORDS])
    with ArchiveReader(path) as archive:
        sizes = [len(part.records) for part in archive.read_parts("cubes")]
    assert sizes == [1, 1, 1, 1, PART_RECORDS, 1]


def test_no_records_are_an_archive_too(tmp_path: Path) -> None:
    header = replace(HEADER, contents=("cubes", "grants"))
    with ArchiveWriter(tmp_path / "a.memos", header) as archive:
        archive.write("cubes", [], embeddings=np.zeros((0, 4)))
    with ArchiveReader(tmp_path / "a.memos") as archive:
        archive.verify()
        assert archive.counts == {"cubes": 0, "grants": 0}
        assert list(archive.records("events")) == list(archive.read_parts("grants")) == []


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "a.memos", signing_key=KEY).read_bytes()
    assert write(tmp_path / "b.memos", signing_key=KEY).read_bytes() == first
    with ArchiveWriter(tmp_path / "c.memos", HEADER, limits=TWO, signing_key=KEY) as archive:
        for kind, found in RECORDS.items():
            for index, record in enumerate(found):
                backwards = dict(reversed(record.items()))
                row = EMBEDDINGS[kind][index : index + 1] if kind in EMBEDDINGS else None
                archive.write(kind, [backwards], embeddings=row)
    assert (tmp_path / "c.memos").read_bytes() == first


def test_any_zip_program_reads_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(write(tmp_path / "a.memos")) as file:
        assert file.testzip() is None
        for entry in file.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.external_attr >> 16 == stat.S_IFREG | 0o600
            stored = entry.filename.endswith(".safetensors")
            assert entry.compress_type == (zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)


def test_version_1_is_read_forever() -> None:
    assert read(GOLDEN, public_key=KEY.public_key()) == CONTENTS


def test_version_1_is_written_forever(tmp_path: Path) -> None:
    # Not the file's bytes: another zlib may pack the same members otherwise.
    path = write(tmp_path / "a.memos", signing_key=KEY)
    assert list(unpacked(path).items()) == list(unpacked(GOLDEN).items())


def test_a_large_archive_is_a_zip64_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 15_000)  # between a part and the file
    noise = [{"text": np.random.default_rng(seed).bytes(5_000).hex()} for seed in range(5)]
    path = cubes(tmp_path / "a.memos", noise, limits=Limits(part_records=1))
    assert path.read_bytes().count(b"\x01\0\x08\0") == 3  # members that lie beyond it
    assert read(path)[1]["cubes"] == noise


def test_an_archive_of_many_members_is_a_zip64_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)
    path = write(tmp_path / "a.memos")
    assert b"PK\x06\x07" in path.read_bytes()
    assert read(path) == CONTENTS


def test_what_packs_too_well_is_stored(tmp_path: Path) -> None:
    same = [{"text": "a" * 60_000}] * 20
    path = cubes(tmp_path / "a.memos", same)
    with zipfile.ZipFile(path) as file:
        assert file.getinfo("cubes/000000.jsonl").compress_type == zipfile.ZIP_STORED
    with ArchiveReader(path) as archive:
        assert list(archive.records("cubes")) == same


def test_memory_does_not_grow_with_the_number_of_records(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.memos"
        limits = Limits(part_records=50)
        tracemalloc.start()
        with ArchiveWriter(path, ALONE, limits=limits, overwrite=True) as archive:
            for start in range(0, count, 10):
                batch = [{"id": start + one, "text": "word " * 100} for one in range(10)]
                archive.write("cubes", batch, embeddings=np.ones((10, 4)))
        with ArchiveReader(path, limits=limits) as archive:
            archive.verify()
            assert sum(len(part.records) for part in archive.read_parts("cubes")) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(500)  # loads what is loaded once
    few, many = peak(500), peak(5_000)
    assert many < few + 180 * 1_500  # what 180 more members take in the manifest and directories


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_existing_file_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.memos"
    path.write_text("precious")
    with pytest.raises(ArchiveNotWritten, match=r"a\.memos exists"):
        write(path)
    assert path.read_text() == "precious"
    write(path, overwrite=True)
    assert read(path) == CONTENTS
    assert left(tmp_path) == ["a.memos"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_came_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    path = tmp_path / "a.memos"
    if not links:  # as on FAT
        monkeypatch.setattr(os, "link", failing(PermissionError(1, "Operation not permitted")))
    writer = ArchiveWriter(path, HEADER)
    with pytest.raises(ArchiveNotWritten, match=r"a\.memos exists"), writer:
        path.write_text("precious")
    assert path.read_text() == "precious"
    assert left(tmp_path) == ["a.memos"]


def test_a_file_system_without_hard_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(PermissionError(1, "Operation not permitted")))
    assert read(write(tmp_path / "a.memos")) == CONTENTS
    assert left(tmp_path) == ["a.memos"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("a.memos")
    write(tmp_path / "latest")
    write(tmp_path / "latest", overwrite=True)
    assert (tmp_path / "latest").is_symlink()
    assert read(tmp_path / "a.memos") == CONTENTS


def failing(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 2_000, 3_000, 100_000])
def test_a_full_disk_leaves_no_file(tmp_path: Path, size: int) -> None:
    noise = np.random.default_rng(0).bytes(200_000).hex()
    with files_of_at_most(size), pytest.raises(ArchiveNotWritten, match="File too large"):
        cubes(tmp_path / "a.memos", [{"text": noise}] if size > 3_000 else RECORDS["cubes"] * 99)
    assert left(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_file_that_cannot_be_finished_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(os, call, failing(OSError(28, "No space left on device")))
    monkeypatch.setattr(os, "rename", failing(OSError(28, "No space left on device")))
    with pytest.raises(ArchiveNotWritten, match=r"a\.memos was not written: No space left"):
        write(tmp_path / "a.memos")
    assert left(tmp_path) == []


def test_a_place_that_takes_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArchiveNotWritten, match="folder does not exist"):
        write(tmp_path / "none" / "a.memos")
    with pytest.raises(ArchiveNotWritten, match="no file that an archive could replace"):
        write(tmp_path, overwrite=True)
    with pytest.raises(ArchiveNotWritten, match="no file name"):
        write(Path("a\0.memos"))
    if sys.platform == "linux":
        with pytest.raises(ArchiveNotWritten, match="was not written"):
            write(Path("/proc/a.memos"))
        with pytest.raises(ArchiveNotWritten, match="no file that an archive could replace"):
            write(Path("/dev/null"), overwrite=True)


@pytest.mark.parametrize("error", [RuntimeError, ConnectionError, KeyboardInterrupt])
def test_an_error_while_writing_is_passed_on_and_leaves_no_file(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def broken() -> Iterator[dict[str, object]]:
        yield {}
        raise error("the cursor's")

    old = write(tmp_path / "a.memos").read_bytes()
    writer = ArchiveWriter(tmp_path / "a.memos", HEADER, overwrite=True)
    with pytest.raises(error, match="the cursor's"), writer as archive:
        archive.write("events", broken())
    assert (tmp_path / "a.memos").read_bytes() == old
    assert left(tmp_path) == ["a.memos"]


@pytest.mark.parametrize(
    ("kind", "batch", "vectors"),
    [
        ("events", [{}, {"at": datetime(2026, 1, 1, tzinfo=UTC)}], None),
        ("cubes", [{}], np.ones((1, 5))),
        ("memories", [{}], None),
    ],
)
def test_a_batch_that_failed_is_not_forgotten(
    tmp_path: Path, kind: Any, batch: list[Any], vectors: Any
) -> None:
    writer = ArchiveWriter(tmp_path / "a.memos", HEADER)
    writer.__enter__()
    with pytest.raises(InvalidInput):
        writer.write(kind, batch, embeddings=vectors)
    writer.write("events", [{}])
    with pytest.raises(ArchiveNotWritten, match="a batch of records failed"):
        writer.__exit__(None, None, None)
    assert left(tmp_path) == []


def test_a_writer_writes_once_and_inside_of_its_block(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "a.memos", HEADER)
    with pytest.raises(ArchiveNotWritten, match="inside of"):
        writer.write("events", [{}])
    assert left(tmp_path) == []
    with writer:
        pass
    with pytest.raises(ArchiveNotWritten, match="inside of"):
        writer.write("events", [{}])
    with pytest.raises(ArchiveNotWritten, match="make another"), writer:
        pass
    assert read(tmp_path / "a.memos")[0] == HEADER


def nested(depth: int, value: object = 0) -> object:
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("-inf"),
        "\ud800",
        {"\udfff": 1},
        {1: "a", "1": "b"},
        b"bytes",
        datetime(2026, 1, 1, tzinfo=UTC),
        10**5_000,
        nested(100),
        nested(99, []),
        nested(100_000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_json_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(InvalidInput, match="record 2 of this batch of cubes"):
        cubes(tmp_path / "a.memos", [{}, {"value": value}])
    assert left(tmp_path) == []


def test_the_deepest_json_comes_back(tmp_path: Path) -> None:
    deepest = [{"value": nested(99), "empty": nested(98, {}), "brackets": ["[{"] * 200}]
    with ArchiveReader(cubes(tmp_path / "a.memos", deepest)) as archive:
        assert list(archive.records("cubes")) == deepest


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((2, 4)),
        np.ones((4, 4)),
        np.ones((3, 5)),
        np.ones(12),
        np.ones((3, 4), np.int64),
        np.array([["a"] * 4] * 3),
        np.array([[np.nan, 1, 1, 1]] * 3),
        np.array([[1e6, 1, 1, 1]] * 3),
        np.array([[1e-9, 0, 0, 0]] * 3),
        np.zeros((3, 4)),
    ],
)
def test_what_are_no_embeddings_is_refused(tmp_path: Path, vectors: Any) -> None:
    writer = ArchiveWriter(tmp_path / "a.memos", HEADER)
    with pytest.raises(InvalidVector), writer as archive:
        archive.write("cubes", RECORDS["cubes"], embeddings=vectors)
    assert left(tmp_path) == []


def refuses_a_bare_cube(archive: ArchiveWriter) -> None:
    archive.write("cubes", [{}], embeddings=np.ones((1, 4)))
    with pytest.raises(InvalidInput, match="or none"):
        archive.write("cubes", [{}])


def test_what_the_header_does_not_announce_is_refused(tmp_path: Path) -> None:
    ones = np.ones((1, 4))
    for header, kind, vectors in [
        (ALONE, "events", None),
        (ALONE, "cube", None),
        (replace(ALONE, embedder=None), "cubes", ones),
        (HEADER, "events", ones),
    ]:
        writer = ArchiveWriter(tmp_path / "a.memos", header)
        with pytest.raises(InvalidInput), writer as archive:
            archive.write(kind, [{}], embeddings=vectors)
    writer = ArchiveWriter(tmp_path / "a.memos", HEADER)
    with pytest.raises(ArchiveNotWritten, match="failed"), writer as archive:
        refuses_a_bare_cube(archive)
    for wrong in (
        {"contents": ("cubes", "cubes")},
        {"contents": ("memories",)},
        {"exported_at": datetime(2026, 1, 1)},  # noqa: DTZ001 that is what is wrong
        {"exported_by": "\x00"},
        {"embedder": Model(name="m", width=0)},
    ):
        with pytest.raises(InvalidInput):
            replace(HEADER, **wrong)


def test_over_the_limits_nothing_is_written(tmp_path: Path) -> None:
    for limits, name in [
        (Limits(members=12, part_records=1), "members"),
        (Limits(part_bytes=4_000), "part_bytes"),
        (Limits(total_bytes=50_000), "total_bytes"),
    ]:
        with pytest.raises(ArchiveNotWritten, match=rf"Limits\.{name}"):
            cubes(tmp_path / "a.memos", [{"text": "x" * 5_000}] * 20, limits=limits)
    assert left(tmp_path) == []
    with pytest.raises(InvalidInput, match="limit members"):
        Limits(members=0)


def test_what_a_writer_writes_within_limits_a_reader_reads_within_them(tmp_path: Path) -> None:
    path = write(tmp_path / "all.memos")
    with zipfile.ZipFile(path) as file:
        sizes = [entry.file_size for entry in file.infolist()]
    exact = Limits(
        members=len(sizes) + 1,  # a signature's place is kept
        part_records=2,
        part_bytes=max(sizes),
        total_bytes=sum(sizes),
        expansion=4,
    )
    path = write(tmp_path / "exact.memos", limits=exact)
    assert read(path, limits=exact) == CONTENTS
    for name, change in [("members", 2), ("part_records", 1), ("part_bytes", 1),
                         ("total_bytes", 1), ("expansion", 3)]:  # fmt: skip
        less = replace(exact, **{name: getattr(exact, name) - change})
        with pytest.raises(ArchiveInvalid, match=rf"Limits\.{name}"):
            read(path, limits=less)


def test_a_signature_is_verified_with_the_key_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.memos", signing_key=KEY)
    public = KEY.public_key()
    assert read(path, public_key=public) == CONTENTS
    with ArchiveReader(path) as archive:
        assert archive.claimed_signer == public.public_bytes_raw().hex()
    members = unpacked(path)
    signature = json.loads(members["signature.json"])
    public.verify(bytes.fromhex(signature["signature"]), members["manifest.json"])
    with pytest.raises(ArchiveInvalid, match="signed with another key"):
        read(path, public_key=Ed25519PrivateKey.generate().public_key())
    with pytest.raises(ArchiveInvalid, match="it is not signed"):
        read(write(tmp_path / "b.memos"), public_key=public)


def test_only_ed25519_keys_sign_and_verify(tmp_path: Path) -> None:
    other: Any = X25519PrivateKey.generate()
    with pytest.raises(InvalidInput, match="Ed25519PrivateKey"):
        ArchiveWriter(tmp_path / "a.memos", HEADER, signing_key=other)
    write(tmp_path / "a.memos", signing_key=KEY)
    with pytest.raises(InvalidInput, match="Ed25519PublicKey"):
        ArchiveReader(tmp_path / "a.memos", public_key=other.public_key())


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ArchiveNotRead, match="No such file"):
        ArchiveReader(tmp_path / "none.memos")
    with pytest.raises(ArchiveNotRead, match="no file name"):
        ArchiveReader("a\0.memos")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ArchiveInvalid, match="is no file"):
            ArchiveReader(path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = cubes(tmp_path / "a.memos", [{"text": np.random.default_rng(0).bytes(10**6).hex()}])
    with ArchiveReader(path) as archive:
        os.truncate(path, 100)
        with pytest.raises(ArchiveInvalid, match="cut short"):
            archive.verify()


def test_a_closed_archive_says_so(tmp_path: Path) -> None:
    with ArchiveReader(write(tmp_path / "a.memos")) as archive:
        rest = archive.records("cubes")
        next(rest)
    with pytest.raises(Closed, match="archive is closed"):
        archive.read_part("cubes", 0)
    with pytest.raises(Closed):
        list(rest)


def test_archives_load_neither_torch_nor_keys_unasked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.memos", signing_key=KEY)
    code = f"""
import sys
sys.modules["cryptography"] = None  # not installed
from memos_core.archive import ArchiveReader, ArchiveWriter
with ArchiveReader({str(path)!r}) as archive:
    archive.verify()
    with ArchiveWriter({str(tmp_path / "b.memos")!r}, archive.header) as copy:
        copy.write("events", archive.records("events"))
assert not {{"torch", "psycopg"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert read(tmp_path / "b.memos")[1]["events"] == RECORDS["events"]


def test_the_format_s_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = (Path(__file__).parent.parent / "docs" / "archive-format.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    for snippet in re.findall(r"```python\n(.*?)```", document, re.DOTALL):
        exec(compile(snippet, "archive-format.md", "exec"), {})  # noqa: S102
    with ArchiveReader("ann.memos") as archive:
        archive.verify()


def test_a_namespace_of_any_labels_comes_back(tmp_path: Path) -> None:
    header = Header(
        namespace=Namespace("a/b", "c.d", "\u202e", "x" * 500),
        contents=(),
        exported_at=datetime.now().astimezone(),
    )
    with ArchiveWriter(tmp_path / "a.memos", header):
        pass
    with ArchiveReader(tmp_path / "a.memos") as archive:
        assert archive.header == header
