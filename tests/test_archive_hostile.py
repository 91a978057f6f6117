"""Damaged and hostile archives: read with equal contents, or refused by ``ArchiveInvalid``."""

from __future__ import annotations

import io
import json
import pickle
import stat
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from memos_core.archive import ArchiveInvalid, ArchiveReader, ArchiveWriter, Limits
from memos_core.archive.embeddings import read_embeddings
from memos_core.archive.json_text import parsed
from tests.archives import CONTENTS, HEADER, KEY, Contents, packed, read, relisted, unpacked, write

Members = dict[str, bytes]
CUBES, VECTORS = "cubes/000000.jsonl", "embeddings/000000.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole") / "a.memos")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("signed") / "a.memos", signing_key=KEY)


def equal_or_invalid(path: Path, whole: Contents = CONTENTS, **given: Any) -> bool:
    """Read what may be damaged; return whether it could be."""
    try:
        found = read(path, **given)
    except ArchiveInvalid:
        return False
    assert found == whole
    return True


def refused(path: Path, why: str) -> None:
    """Make sure that an archive is refused, whichever way it is read."""
    with pytest.raises(ArchiveInvalid, match=why):
        read(path)
    with pytest.raises(ArchiveInvalid, match=why), ArchiveReader(path) as archive:
        archive.verify()


# Damage


def test_an_archive_that_is_cut_short_anywhere_is_invalid(signed: Path, tmp_path: Path) -> None:
    data = signed.read_bytes()
    path = tmp_path / "cut.memos"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert not equal_or_invalid(path)
    path.write_bytes(data[10:])
    assert not equal_or_invalid(path)


def test_a_byte_that_is_changed_anywhere_changes_no_contents(signed: Path, tmp_path: Path) -> None:
    data = signed.read_bytes()
    path = tmp_path / "changed.memos"
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        equal_or_invalid(path, public_key=KEY.public_key())


def edits(size: int) -> st.SearchStrategy[list[tuple[int, int, bytes]]]:
    return st.lists(
        st.tuples(st.integers(0, size), st.integers(0, 40), st.binary(max_size=40)),
        min_size=1,
        max_size=4,
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_bytes_that_are_changed_removed_or_put_in_change_no_contents(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    original = whole.read_bytes()
    changed = original
    for place, gone, new in data.draw(edits(len(original))):
        changed = changed[:place] + new + changed[place + gone :]
    path = tmp_path_factory.getbasetemp() / "edited.memos"
    path.write_bytes(changed)
    equal_or_invalid(path)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of each value within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(
        value, list
    ) else ()  # fmt: skip
    return [path, *(deeper for key, one in inner for deeper in places(one, (*path, key)))]


odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**60, 2**63, 2**64, -(2**70), 10**400, 1e300, -0.0]),
    st.text(max_size=5),
    st.sampled_from(["cubes", CUBES, "../x", "embeddings", "manifest.json", "0" * 64, "header"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["name", "kind", "x"]), st.integers(), max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_manifest_that_lies_is_found_out(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    members = unpacked(whole)
    manifest = json.loads(members["manifest.json"])
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(manifest)[1:]))
        outer = manifest
        for step in way:
            outer = outer[step]
        match data.draw(st.sampled_from(["change", "remove", "repeat"])):
            case "change":
                outer[last] = data.draw(odd)
            case "remove":
                del outer[last]
            case _ if isinstance(outer, list):
                outer.insert(data.draw(st.integers(0, len(outer))), outer[last])
            case _:
                outer[data.draw(st.text(max_size=3))] = outer[last]
        if len(places(manifest)) == 1:
            break
    text = json.dumps(manifest).encode()
    path = tmp_path_factory.getbasetemp() / "manifest.memos"
    packed(path, (members | {"manifest.json": text}).items())
    equal_or_invalid(path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:0eE+-.\\ud8nulNaIfity \n', max_size=60)
       .map(str.encode))  # fmt: skip
def test_any_bytes_are_json_or_invalid(data: bytes) -> None:
    try:
        found = parsed(data, where="it")
    except ArchiveInvalid:
        return
    assert found == json.loads(data)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_are_embeddings_or_invalid(data: st.DataObject) -> None:
    rows = np.ones((2, 3), np.float16)
    changed = save({"embedding": rows})
    for place, gone, new in data.draw(edits(len(changed))):
        changed = changed[:place] + new + changed[place + gone :]
    try:
        found = read_embeddings(changed, records=2, width=3, where="it")
    except ArchiveInvalid:
        return
    assert found.shape == (2, 3)
    assert np.isfinite(found).all()


# The ZIP file


def entry(name: str, **fields: Any) -> ZipInfo:
    made = ZipInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../../etc/passwd", "which no archive has"),
        ("/etc/passwd", "which no archive has"),
        ("C:\\x", "which no archive has"),
        ("cubes\\000000.jsonl", "which no archive has"),
        ("cubes/0.jsonl", "which no archive has"),
        ("cubes/../cubes/000000.jsonl", "which no archive has"),
        ("cubes/000001.jsonl.pkl", "which no archive has"),
        ("cubes/٠٠٠٠٠١.jsonl", "has a name that"),
        ("x" * 70, "has a name that"),
        ("grants/000001.jsonl", "lists other members"),
        ("events/000000.jsonl", "two members 'events/000000.jsonl'"),
        ("manifest.json", "two members 'manifest.json'"),
        ("signature.json", "which no archive has"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_has_no_place_is_refused(
    whole: Path, tmp_path: Path, name: str, why: str
) -> None:
    members = list(unpacked(whole).items())
    members.insert(-1, (name, b"{}\n"))
    refused(packed(tmp_path / "a.memos", members), why)


@pytest.mark.parametrize("name", ["memos.json", CUBES, VECTORS, "manifest.json"])
def test_a_member_that_is_missing_is_missed(whole: Path, tmp_path: Path, name: str) -> None:
    members = unpacked(whole)
    del members[name]
    refused(
        packed(tmp_path / "a.memos", members.items()), "begin with|lists other members|end with"
    )


def test_members_in_another_order_are_refused(whole: Path, tmp_path: Path) -> None:
    header, *parts, manifest = unpacked(whole).items()
    refused(packed(tmp_path / "a.memos", [*parts, header, manifest]), "begin with memos.json")
    refused(packed(tmp_path / "b.memos", [header, manifest, *parts]), "end with manifest.json")
    refused(packed(tmp_path / "c.memos", [header, *parts[::-1], manifest]), "in another order")


def test_parts_are_numbered_without_gaps(whole: Path, tmp_path: Path) -> None:
    def renamed(data: bytes) -> bytes:
        return data.replace(b"grants/000000", b"grants/000001")

    members = {
        renamed(name.encode()).decode(): renamed(data) if name == "manifest.json" else data
        for name, data in unpacked(whole).items()
    }
    refused(packed(tmp_path / "a.memos", members.items()), "is not the next of its kind")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"external_attr": stat.S_IFLNK << 16}, "is a link"),
        ({"external_attr": stat.S_IFIFO << 16}, "a device"),
        ({"external_attr": 0x10}, "a folder"),
        ({"extra": b"\x75\x70\x05\0\1abcd"}, "has extra fields"),
        ({"comment": b"hello"}, "uses parts of ZIP"),
        ({"compress_type": zipfile.ZIP_BZIP2}, "compressed by method 12"),
        ({"compress_type": zipfile.ZIP_LZMA}, "uses parts of ZIP|compressed by method 14"),
    ],
)
def test_a_member_of_another_form_is_refused(
    whole: Path, tmp_path: Path, fields: dict[str, Any], why: str
) -> None:
    with ZipFile(tmp_path / "a.memos", "w") as file:
        for name, data in unpacked(whole).items():
            file.writestr(entry(name, **fields if name == CUBES else {}), data)
    refused(tmp_path / "a.memos", why)


def test_a_member_whose_size_follows_it_is_refused(whole: Path, tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

    pipe = Pipe()
    with ZipFile(pipe, "w") as file:
        for name, data in unpacked(whole).items():
            file.writestr(ZipInfo(name), data)
    (tmp_path / "a.memos").write_bytes(pipe.getvalue())
    refused(tmp_path / "a.memos", "declares its size only after")


def patched(path: Path, to: Path, changes: dict[int, bytes]) -> Path:
    data = bytearray(path.read_bytes())
    for place, new in changes.items():
        data[place : place + len(new)] = new
    to.write_bytes(data)
    return to


def directory_of(path: Path) -> dict[str, int]:
    """Return where each member's entry in the ZIP directory starts."""
    data = path.read_bytes()
    place = struct.unpack_from("<I", data, len(data) - 6)[0]
    found: dict[str, int] = {}
    while data[place : place + 4] == b"PK\x01\x02":
        length = struct.unpack_from("<H", data, place + 28)[0]
        found[data[place + 46 : place + 46 + length].decode()] = place
        place += 46 + length
    return found


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (8, struct.pack("<H", 1), "is encrypted"),
        (8, struct.pack("<H", 0x40), "uses parts of ZIP"),
        (16, b"1234", "and its entry in the ZIP directory differ"),
        (20, struct.pack("<I", 5), "over the limit of 100 times|directory differ"),
        (24, struct.pack("<I", 2**32 - 1), "Limits.part_bytes"),
        (24, struct.pack("<I", 12_000_000), "Limits.expansion"),
        (24, struct.pack("<I", 0), "is empty"),
        (42, struct.pack("<I", 0), "does not start where the one before it ends"),
        (42, struct.pack("<I", 2**32 - 1), "does not start where the one before it ends"),
    ],
)
def test_a_zip_directory_that_lies_is_found_out(
    whole: Path, tmp_path: Path, field: int, value: bytes, why: str
) -> None:
    place = directory_of(whole)[CUBES] + field
    refused(patched(whole, tmp_path / "a.memos", {place: value}), why)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (-14, struct.pack("<HH", 65_535, 65_535), "its ZIP directory"),
        (-14, struct.pack("<HH", 12, 13), "spread over several files"),
        (-10, struct.pack("<I", 2**32 - 1), "does not lie where"),
        (-6, struct.pack("<I", 2**32 - 1), "does not lie where"),
        (-18, struct.pack("<H", 1), "spread over several files"),
        (-2, struct.pack("<H", 1), "does not end as one does"),
    ],
)
def test_an_end_record_that_lies_is_found_out(
    whole: Path, tmp_path: Path, field: int, value: bytes, why: str
) -> None:
    place = whole.stat().st_size + field
    refused(patched(whole, tmp_path / "a.memos", {place: value}), why)


def test_members_that_overlap_are_refused(whole: Path, tmp_path: Path) -> None:
    # As in the bomb of David Fifield: many entries of the directory, one and the same data.
    places = directory_of(whole)
    data = whole.read_bytes()
    first = places[CUBES]
    after = places[VECTORS]
    listing = data[first:after] * 1_000
    bomb = data[:first] + listing + data[after:-22]
    size = len(bomb) - places["memos.json"]
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1_011, 1_011, size, places["memos.json"], 0)
    (tmp_path / "a.memos").write_bytes(bomb + end)
    refused(tmp_path / "a.memos", "does not start where the one before it ends")


def test_nothing_hides_between_members_or_around_them(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    path = tmp_path / "a.memos"
    for hidden in (b"MZ" + data, data + b"\n", data + data):
        path.write_bytes(hidden)
        with pytest.raises(ArchiveInvalid):
            read(path)
    with ZipFile(path, "w") as file:  # appends to what is there, with the right offsets
        file.comment = b""
    with path.open("wb") as file:
        file.write(b"#!/bin/sh\n")
    with ZipFile(path, "a") as file:
        for name, content in unpacked(whole).items():
            file.writestr(ZipInfo(name), content)
    refused(path, "'memos.json' does not start where")


def test_a_zip64_directory_that_lies_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 15_000)  # between a part and the file
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)
    path = tmp_path / "a.memos"
    with ArchiveWriter(path, HEADER, limits=Limits(part_records=1)) as archive:
        for seed in range(4):
            noise = np.random.default_rng(seed).bytes(5_000).hex()
            archive.write("events", [{"noise": noise}])
    contents = read(path)
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    assert data.count(b"\x01\0\x08\0", start) == 2
    for place in range(start, len(data)):
        for other in (data[place] ^ 0x01, data[place] ^ 0xFF):
            patched(path, tmp_path / "b.memos", {place: bytes([other])})
            equal_or_invalid(tmp_path / "b.memos", contents)
    end64 = data.rindex(b"PK\x06\x06")
    for field in (24, 32, 40, 48):  # members here and in all, size and place of the directory
        for value in (0, 1, 11, 2**16, 2**32 - 1, 2**32, 2**63, 2**64 - 1):
            patched(path, tmp_path / "b.memos", {end64 + field: struct.pack("<Q", value)})
            equal_or_invalid(tmp_path / "b.memos", contents)


def with_end(path: Path, to: Path, *, members: int, size: int, offset: int) -> Path:
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, members, members, size, offset, 0)
    to.write_bytes(path.read_bytes()[:-22] + end)
    return to


def test_an_end_record_that_counts_otherwise_is_found_out(whole: Path, tmp_path: Path) -> None:
    places = directory_of(whole)
    start, last = places["memos.json"], places["manifest.json"]
    size = whole.stat().st_size - 22 - start
    for members, moved, why in [
        (len(places) - 1, 0, "bytes between its members and its ZIP directory"),
        (len(places) + 1, 0, "fewer members than the end record says"),
        (0, size, "bytes between its members and its ZIP directory"),
        (1, size, "fewer members than the end record says"),
        (1, last - start, "does not start where"),
        (1, 1, "is damaged|larger than"),
        (len(places), 1, "ZIP directory is damaged"),
        (len(places) - 1, 76, "is damaged|does not start"),
    ]:
        path = with_end(
            whole, tmp_path / "a.memos", members=members, size=size - moved, offset=start + moved
        )
        refused(path, why)


def test_parts_and_their_embeddings_belong_together(whole: Path, tmp_path: Path) -> None:
    def without(*names: str) -> Members:
        members = {name: data for name, data in unpacked(whole).items() if name not in names}
        manifest = json.loads(members["manifest.json"])
        listed = [one for one in manifest["members"] if one["name"] not in names]
        totals: dict[str, dict[str, int]] = {}
        for one in listed[1:]:
            total = totals.setdefault(one["kind"], {"parts": 0, "records": 0, "bytes": 0})
            total["parts"] += 1
            total["records"] += one["records"]
        text = json.dumps(manifest | {"members": listed, "totals": totals}).encode()
        return relisted(members | {"manifest.json": text})

    other = "embeddings/000001.safetensors"
    for names, why in [
        ([other], "parts of embeddings do not match those of cubes"),
        (["versions/000000.jsonl"], "parts of version_embeddings do not match"),
        (["cubes/000000.jsonl"], "is not the next of its kind"),
        (["embeddings/000000.safetensors"], "is not the next of its kind"),
    ]:
        refused(packed(tmp_path / "a.memos", without(*names).items()), why)
    path = packed(tmp_path / "a.memos", without(VECTORS, other).items())
    with ArchiveReader(path) as archive:
        archive.verify()
        assert archive.read_part("cubes", 0).embeddings is None


def test_a_directory_of_any_size_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.memos"
    size = 3 * 2**30
    for count in (2**40, 20):
        with path.open("wb") as file:  # sparse
            file.truncate(size)
            file.seek(size)
            end64 = struct.pack(
                "<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, 0
            ) + struct.pack("<4sIQI", b"PK\6\7", 0, size, 1)
            full = min(count, 0xFFFF)
            end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, full, full, size, 0, 0)
            file.write(end64 + end)
        tracemalloc.start()
        with pytest.raises(ArchiveInvalid, match=r"Limits\.members|larger than its members need"):
            ArchiveReader(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


# Bombs


def bomb(path: Path, whole: Path, data: bytes, declared: int | None = None) -> Path:
    """Put deflated data in place of the cubes, with another size than it has, if one is given."""
    members = unpacked(whole)
    manifest = json.loads(members["manifest.json"])
    size = declared or len(data)
    manifest["totals"]["cubes"]["bytes"] += size - manifest["members"][1]["bytes"]
    manifest["members"][1]["bytes"] = size
    members["manifest.json"] = json.dumps(manifest).encode()
    packed(path, (members | {CUBES: data}).items())
    if declared:
        field = struct.pack("<I", declared)
        local = path.read_bytes().index(CUBES.encode()) - 30
        patched(path, path, {local + 22: field, directory_of(path)[CUBES] + 24: field})
    return path


def test_a_member_that_unpacks_to_more_than_it_declares_is_stopped(
    whole: Path, tmp_path: Path
) -> None:
    path = bomb(tmp_path / "a.memos", whole, b"[" * 100_000_000, 5_000_000)
    limits = Limits(part_bytes=8_000_000)
    tracemalloc.start()
    with (
        ArchiveReader(path, limits=limits) as archive,
        pytest.raises(ArchiveInvalid, match="does not unpack to its declared size"),
    ):
        archive.verify()
    assert tracemalloc.get_traced_memory()[1] < 12_000_000
    tracemalloc.stop()


def test_a_member_that_unpacks_to_less_than_it_declares_is_refused(
    whole: Path, tmp_path: Path
) -> None:
    path = bomb(tmp_path / "a.memos", whole, b'{"id": 1}\n{"id": 2}\n', 300)
    refused(path, "has another size or checksum")


def test_a_bomb_is_refused_before_it_is_unpacked(whole: Path, tmp_path: Path) -> None:
    refused(bomb(tmp_path / "a.memos", whole, b" " * 10_000_000), r"Limits\.expansion")
    refused(bomb(tmp_path / "b.memos", whole, b" " * 17_000_000), r"Limits\.part_bytes")
    with pytest.raises(ArchiveInvalid, match=r"Limits\.total_bytes"):
        read(whole, limits=Limits(total_bytes=3_000))


def test_declared_counts_are_not_believed(whole: Path, tmp_path: Path) -> None:
    for count in (0, 3, 10_001, 2**60):
        members = unpacked(whole)
        manifest = json.loads(members["manifest.json"])
        manifest["members"][1]["records"] = manifest["members"][2]["records"] = count
        manifest["totals"]["cubes"]["records"] = count + 1
        manifest["totals"]["embeddings"]["records"] = count + 1
        members["manifest.json"] = json.dumps(manifest).encode()
        refused(
            packed(tmp_path / "a.memos", members.items()),
            "does not hold 3 lines" if count == 3 else r"Limits\.part_records",
        )


def test_kinds_are_what_names_say(whole: Path, tmp_path: Path) -> None:
    for place, kind in [(0, "cubes"), (1, "header"), (1, "versions"), (2, "cubes")]:
        members = unpacked(whole)
        manifest = json.loads(members["manifest.json"])
        manifest["members"][place]["kind"] = kind
        members["manifest.json"] = json.dumps(manifest).encode()
        refused(packed(tmp_path / "a.memos", members.items()), "must be of kind")


def test_what_does_not_deflate_is_refused(whole: Path, tmp_path: Path) -> None:
    data = b'{"id": 1}\n{"id": 2}\n'
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = packer.compress(data) + packer.flush()
    for raw in (b"\xff" * 40, stream[:-2], stream + b"more"):
        path = tmp_path / "a.memos"
        with ZipFile(path, "w") as file:
            for name, content in unpacked(whole).items():
                method = ZIP_STORED if name == CUBES else ZIP_DEFLATED
                file.writestr(ZipInfo(name), raw if name == CUBES else content, method)
        local = path.read_bytes().index(CUBES.encode()) - 30
        central = directory_of(path)[CUBES]
        crc, size = struct.pack("<I", zlib.crc32(data)), struct.pack("<I", len(data))
        method = struct.pack("<H", 8)
        changes = {local + 8: method, local + 14: crc, local + 22: size}
        changes |= {central + 10: method, central + 16: crc, central + 24: size}
        with ZipFile(path) as file:
            manifest = json.loads(file.read("manifest.json"))
        manifest["members"][1]["bytes"] = len(data)
        patched(path, path, changes)
        with pytest.raises(ArchiveInvalid):
            read(path)


# What members hold, with hashes that are right


def replaced(whole: Path, to: Path, name: str, data: bytes) -> Path:
    return packed(to, relisted(unpacked(whole) | {name: data}).items())


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (b'{"id": 1}\n{"id": 2}', "does not hold 2 lines"),
        (b'{"id": 1}\n\n', "line 2, is not valid JSON"),
        (b'{"id": 1}\n{"id": 2}\n{}\n', "does not hold 2 lines"),
        (b'{"id": 1}\n', "does not hold 2 lines"),
        (b'{"id": 1}\r{"id": 2}\r\n{}\n', "line 1, is not valid JSON: Extra data"),
        (b"{}\n[]\n", "line 2, is no JSON object"),
        (b'{}\n"text"\n', "line 2, is no JSON object"),
        (b'{}\n{"a": 1, "a": 2}\n', "names a field twice"),
        (b'{}\n{"a": {"b": 1, "\\u0062": 2}}\n', "names a field twice"),
        (b'{}\n{"a": NaN}\n', "NaN is no JSON"),
        (b'{}\n{"a": -Infinity}\n', "-Infinity is no JSON"),
        (b'{}\n{"a": 1e999}\n', "the number 1e999 is too large"),
        (b'{}\n{"a": ' + b"9" * 5_000 + b"}\n", "not valid JSON"),
        (b'{}\n{"a": "\xff"}\n', "can't decode byte 0xff"),
        (b'{}\n{"a": "\xed\xa0\x80"}\n', "can't decode byte 0xed"),
        (b'{}\n{"a": "\\ud800"}\n', "surrogates not allowed"),
        (b'{}\n{"\\uDC00": 1}\n', "surrogates not allowed"),
        (b"\xef\xbb\xbf{}\n{}\n", "line 1, is not valid JSON: Expecting value"),
        ("{}\n".encode("utf-16") * 2, "not valid JSON|does not hold"),
        (b"{}\n" + b'{"a":' * 101 + b"1" + b"}" * 101 + b"\n", "nests more than 100 deep"),
        (b"{}\n" + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"\n", "nests too deep"),
        (b"{}\n" + b"[" * 200_000 + b"\n", "nests too deep"),
        (pickle.dumps([{"id": 1}]), "does not hold 2 lines"),
        (pickle.dumps(1) + b"\n\n", "line 1, is not valid JSON"),
        (b"\0\n\0\n", "not valid JSON"),
    ],
    ids=range(25),
)
def test_records_that_are_none_are_refused(
    whole: Path, tmp_path: Path, lines: bytes, why: str
) -> None:
    # Whatever packs a hundredfold would be refused for that.
    with ZipFile(tmp_path / "a.memos", "w") as file:
        for name, data in relisted(unpacked(whole) | {CUBES: lines}).items():
            file.writestr(ZipInfo(name), data)
    refused(tmp_path / "a.memos", why)


def tensors(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(kind: str, shape: list[int], size: int) -> bytes:
    fields = {"dtype": kind, "shape": shape, "data_offsets": [0, size]}
    return tensors({"embedding": fields}, b"\x01" * size)


GOOD = np.ones((2, 4), np.float16)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\0", "not in safetensors format"),
        (struct.pack("<Q", 2**60), "not in safetensors format"),
        (struct.pack("<Q", 2**60) + b"{}" * 50, "not in safetensors format"),
        (tensors(b"[" * 10_000), "not in safetensors format"),
        (tensor("F16", [2**62, 8], 0), "not in safetensors format"),
        (tensor("F16", [2, 4], 16)[:-1], "not in safetensors format"),
        (tensor("F16", [2, 4], 16) + b"\0", "not in safetensors format"),
        (tensor("F99", [2, 4], 16), "not in safetensors format"),
        (tensor("F32", [2, 4], 32), r"holds F32 of shape \[2, 4\], not F16"),
        (tensor("BF16", [2, 4], 16), "holds BF16"),
        (tensor("F8_E4M3", [2, 8], 16), "holds F8_E4M3"),
        (tensor("F16", [4, 2], 16), r"shape \[4, 2\], not F16 of shape \[2, 4\]"),
        (tensor("F16", [8], 16), r"shape \[8\]"),
        (tensor("F16", [1, 4], 8), r"shape \[1, 4\]"),
        (tensor("F16", [], 2), r"shape \[\]"),
        (tensors({}), "must hold one tensor"),
        (save({"embeddings": GOOD}), "must hold one tensor"),
        (save({"embedding": GOOD, "more": GOOD}), "must hold one tensor"),
        (save({"embedding": GOOD * np.float16(np.nan)}), "NaN, infinity"),
        (save({"embedding": GOOD * np.float16(-np.inf)}), "NaN, infinity"),
        (save({"embedding": np.array([[1] * 4, [0] * 4], np.float16)}), "zero in every dimension"),
        (pickle.dumps(GOOD), "not in safetensors format"),
    ],
    ids=range(22),
)
def test_embeddings_that_are_none_are_refused(
    whole: Path, tmp_path: Path, data: bytes, why: str
) -> None:
    with ZipFile(tmp_path / "a.memos", "w") as file:
        for name, content in relisted(unpacked(whole) | {VECTORS: data}).items():
            file.writestr(ZipInfo(name), content)
    refused(tmp_path / "a.memos", why)


def test_what_safetensors_says_of_its_own_errors_has_one_type() -> None:
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(b"")


def test_a_wrong_hash_is_found_before_anything_is_parsed(whole: Path, tmp_path: Path) -> None:
    for name in ("memos.json", CUBES, VECTORS):
        data = unpacked(whole)[name]
        other = data.replace(b"ann", b"bob").replace(b"Ann", b"Bob")[:-1] + data[-1:]
        if other == data:
            other = data[:-1] + b"\x01"
        members = unpacked(whole) | {name: other}
        refused(packed(tmp_path / "a.memos", members.items()), "does not match its hash")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": "zip"}, "names no format 'memos-archive'"),
        ({"version": 2}, "version 2 of the format.*upgrade memos-memory"),
        ({"version": 0}, "never was"),
        ({"version": "1"}, "'version' must be a whole number"),
        ({"version": True}, "'version' must be a whole number"),
        ({"namespace": []}, "at least one label"),
        ({"namespace": "acme"}, "must be a list"),
        ({"namespace": ["a", 1]}, "must be a list of texts"),
        ({"namespace": ["a\0"]}, "NUL"),
        ({"contents": ["cubes", "cubes"]}, "name a kind twice"),
        ({"contents": ["memories"]}, "unknown kind of records 'memories'"),
        ({"contents": [["cubes"]]}, "must be a list of texts"),
        ({"contents": ["cubes"]}, "does not name|not that of its parts|do not name"),
        ({"exported_at": "yesterday"}, "cannot be understood"),
        ({"exported_at": "2026-01-01T00:00:00"}, "must have a time zone"),
        ({"exported_at": "0001-01-01T00:00:00+23:59"}, "out of range"),
        ({"exported_at": None}, "must be a text"),
        ({"exported_by": "a\0"}, "NUL"),
        ({"exported_by": ["ann"]}, "must be a text, not a list"),
        ({"embedder": None}, "names no embedder"),
        ({"embedder": {"name": "words"}}, "has no field 'width'"),
        ({"embedder": {"name": "words", "width": 0}}, "from 1 to"),
        ({"embedder": {"name": "words", "width": 5}}, "not F16 of shape"),
        ({"embedder": {"name": "words", "width": 2**70}}, "must be a whole number"),
        ({"embedder": "words"}, "must be an object"),
    ],
    ids=range(25),
)
def test_a_header_that_makes_no_sense_is_refused(
    whole: Path, tmp_path: Path, change: dict[str, object], why: str
) -> None:
    header = json.loads(unpacked(whole)["memos.json"]) | change
    data = json.dumps(header).encode()
    refused(replaced(whole, tmp_path / "a.memos", "memos.json", data), why)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"{", b"\xff", b"null", b'{"format": 1}'])
@pytest.mark.parametrize("name", ["memos.json", "manifest.json", "signature.json"])
def test_members_that_describe_the_others_may_hold_anything(
    signed: Path, tmp_path: Path, name: str, data: bytes
) -> None:
    members = unpacked(signed) | {name: data}
    with pytest.raises(ArchiveInvalid):
        read(packed(tmp_path / "a.memos", members.items()))


def test_fields_of_later_minor_versions_are_passed_over(whole: Path, tmp_path: Path) -> None:
    members = unpacked(whole)
    header = json.loads(members["memos.json"]) | {"written_by": "another program"}
    members = relisted(members | {"memos.json": json.dumps(header).encode()})
    manifest = json.loads(members["manifest.json"]) | {"more": [1]}
    for member in manifest["members"]:
        member["sha512"] = "…"
    members["manifest.json"] = json.dumps(manifest).encode()
    assert read(packed(tmp_path / "a.memos", members.items())) == CONTENTS


# Signatures


def forge_manifest(members: Members) -> Members:
    return relisted(members | {"grants/000000.jsonl": b'{"to":"mallory"}\n'})


def forge_signature(field: str, value: object) -> Callable[[Members], Members]:
    def forge(members: Members) -> Members:
        signature = json.loads(members["signature.json"]) | {field: value}
        return members | {"signature.json": json.dumps(signature).encode()}

    return forge


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (forge_manifest, "its signature does not match"),
        (forge_signature("signature", "0" * 128), "its signature does not match"),
        (forge_signature("signature", "0" * 127), "128 lower-case hex digits"),
        (forge_signature("signature", "٠" * 128), "128 lower-case hex digits"),
        (forge_signature("public_key", "0" * 64), "signed with another key"),
        (forge_signature("public_key", None), "must be a text"),
        (forge_signature("algorithm", "none"), "must be of algorithm Ed25519, not 'none'"),
        (lambda members: {n: d for n, d in members.items() if n[:4] != "sign"}, "is not signed"),
    ],
    ids=range(8),
)
def test_a_forged_archive_is_refused(
    signed: Path, tmp_path: Path, forge: Callable[[Members], Members], why: str
) -> None:
    path = packed(tmp_path / "a.memos", forge(unpacked(signed)).items())
    with pytest.raises(ArchiveInvalid, match=why):
        ArchiveReader(path, public_key=KEY.public_key())
