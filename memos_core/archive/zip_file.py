"""The strict reading of ZIP that archives are read by: every byte of the file has one meaning.

Members lie one after the other from the first byte on, the directory lists them in that order and
follows the last, and the end record ends the file. So nothing overlaps, hides in gaps, or is read
otherwise by other programs. `zipfile` reads far more, holds a directory of any size in memory, and
passes on errors of many types; it is what archives are written with.
"""

from __future__ import annotations

import stat
import struct
import zlib
from dataclasses import dataclass
from os import SEEK_END
from typing import BinaryIO, NamedTuple

from memos_core.archive.limits import Limits
from memos_core.errors import ArchiveInvalid

STORED, DEFLATED = 0, 8

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_OFFSET64 = struct.Struct("<2HQ")  # the one extra field: where a member beyond 2 GiB lies

_ENCRYPTED = 0x1
_SIZES_LATER = 0x8
_HARMLESS = 0x806  # how hard was compressed; names are UTF-8
_FOLDER = 0x10
_LONGEST_NAME = 64
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One member: where its data starts, and their sizes as they are declared."""

    name: str
    method: int
    crc: int
    start: int
    packed: int
    bytes: int


class _Directory(NamedTuple):
    members: int
    size: int
    offset: int


class _Record(NamedTuple):  # a directory's, in the order of its fields
    signature: bytes
    made_by: int
    needed: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    bytes: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal: int
    external: int
    offset: int


def read_entries(file: BinaryIO, limits: Limits) -> list[Entry]:
    """Return the members in their order, after a look at every byte that is not their data."""
    directory = _find_directory(file)
    if directory.members > limits.members:
        raise ArchiveInvalid(
            f"it has {directory.members} members, over the limit of {limits.members} "
            "(Limits.members)"
        )
    most = _CENTRAL.size + _LONGEST_NAME + _OFFSET64.size
    if directory.size > directory.members * most:
        raise ArchiveInvalid("its ZIP directory is larger than its members need")
    listing = _read(file, directory.offset, directory.size)
    entries: list[Entry] = []
    place = end = total = 0
    for _ in range(directory.members):
        record, name, extra, place = _next_record(listing, place)
        if problem := _form_problem(record) or _size_problem(record, limits):
            raise ArchiveInvalid(f"member {name!r} {problem}")
        if _offset(record, extra, name) != end:
            raise ArchiveInvalid(f"member {name!r} does not start where the one before it ends")
        entries.append(_entry(file, record, name, end))
        end = entries[-1].start + record.packed
        total += record.bytes
    if place != len(listing) or end != directory.offset:
        raise ArchiveInvalid("there are bytes between its members and its ZIP directory")
    if total > limits.total_bytes:
        raise ArchiveInvalid(
            f"it holds {total} bytes, over the limit of {limits.total_bytes} (Limits.total_bytes)"
        )
    return entries


def unpack(file: BinaryIO, entry: Entry) -> bytes:
    """Return a member's data, of exactly the declared size."""
    data = _read(file, entry.start, entry.packed)
    if entry.method == DEFLATED:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = unpacker.decompress(data, entry.bytes + 1)
        except zlib.error as error:
            raise ArchiveInvalid(f"member {entry.name!r} cannot be unpacked: {error}") from error
        if not unpacker.eof or unpacker.unused_data:
            raise ArchiveInvalid(f"member {entry.name!r} does not unpack to its declared size")
    if len(data) != entry.bytes or zlib.crc32(data) != entry.crc:
        raise ArchiveInvalid(f"member {entry.name!r} has another size or checksum than declared")
    return data


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    data = file.read(size)
    if len(data) != size:
        raise ArchiveInvalid("it is cut short")
    return data


def _find_directory(file: BinaryIO) -> _Directory:
    size = file.seek(0, SEEK_END)
    if size < _END.size:
        raise ArchiveInvalid("it is no ZIP file, or cut short: it is too small")
    place = size - _END.size
    end = _END.unpack(_read(file, place, _END.size))
    signature, disk, start_disk, here, count, length, offset, comment = end
    if signature != b"PK\x05\x06" or comment:
        raise ArchiveInvalid("it is no ZIP file, or cut short: it does not end as one does")
    if disk or start_disk or here != count:
        raise ArchiveInvalid("its ZIP directory is spread over several files")
    found = _Directory(count, length, offset)
    if place >= _LOCATOR64.size + _END64.size:
        locator = _LOCATOR64.unpack(_read(file, place - _LOCATOR64.size, _LOCATOR64.size))
        if locator[0] == b"PK\x06\x07":
            place -= _LOCATOR64.size + _END64.size
            found = _directory64(file, place, locator, found)
    if found.offset + found.size != place:
        raise ArchiveInvalid("its ZIP directory does not lie where the end record says")
    return found


def _directory64(
    file: BinaryIO, place: int, locator: tuple[bytes, int, int, int], short: _Directory
) -> _Directory:
    end = _END64.unpack(_read(file, place, _END64.size))
    signature, rest, _, _, disk, start_disk, here, count, length, offset = end
    if locator[1:] != (0, place, 1) or signature != b"PK\x06\x06" or rest != _END64.size - 12:
        raise ArchiveInvalid("its ZIP64 end record is damaged")
    if disk or start_disk or here != count:
        raise ArchiveInvalid("its ZIP directory is spread over several files")
    found = _Directory(count, length, offset)
    for small, large, full in zip(short, found, (_FULL16, _FULL32, _FULL32), strict=True):
        if small != min(large, full) and small != full:
            raise ArchiveInvalid("its two ZIP end records contradict each other")
    return found


def _next_record(listing: bytes, place: int) -> tuple[_Record, str, bytes, int]:
    start = place + _CENTRAL.size
    if start > len(listing):
        raise ArchiveInvalid("its ZIP directory has fewer members than the end record says")
    record = _Record(*_CENTRAL.unpack_from(listing, place))
    end = start + record.name_length
    after = end + record.extra_length
    if record.signature != b"PK\x01\x02" or after > len(listing):
        raise ArchiveInvalid("its ZIP directory is damaged")
    name = listing[start:end]
    if not 1 <= len(name) <= _LONGEST_NAME or not name.isascii():
        raise ArchiveInvalid("a member has a name that no archive's member has")
    return record, name.decode("ascii"), listing[end:after], after


def _form_problem(record: _Record) -> str | None:
    mode = record.external >> 16
    if record.flags & _ENCRYPTED:
        return "is encrypted"
    if record.flags & _SIZES_LATER:
        return "declares its size only after its data"
    if record.flags & ~_HARMLESS or record.comment_length or record.disk:
        return "uses parts of ZIP that no archive uses"
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG} or record.external & _FOLDER:
        return "is a link, a folder or a device"
    if record.method not in {STORED, DEFLATED}:
        return f"is compressed by method {record.method}, neither stored nor deflated"
    return None


def _size_problem(record: _Record, limits: Limits) -> str | None:
    size, packed = record.bytes, record.packed
    if not size:
        return "is empty"
    if record.method == STORED and packed != size:
        return "is stored, and declares two sizes"
    if size > limits.part_bytes:
        return f"holds {size} bytes, over the limit of {limits.part_bytes} (Limits.part_bytes)"
    if size > packed * limits.expansion:
        return (
            f"unpacks to {size} bytes from {packed}, over the limit of {limits.expansion} times "
            "as many (Limits.expansion)"
        )
    if packed > size + size // 8 + 1024:  # more than zlib's worst case
        return "is far larger packed than unpacked"
    return None


def _offset(record: _Record, extra: bytes, name: str) -> int:
    if not extra:
        return record.offset
    if len(extra) == _OFFSET64.size and record.offset == _FULL32:
        identifier, length, offset = _OFFSET64.unpack(extra)
        if (identifier, length) == (1, 8):
            return offset
    raise ArchiveInvalid(f"member {name!r} has extra fields in the ZIP directory")


def _entry(file: BinaryIO, record: _Record, name: str, offset: int) -> Entry:
    local = _LOCAL.unpack(_read(file, offset, _LOCAL.size))
    start = offset + _LOCAL.size
    agreed = (record.flags, record.method, record.crc, record.packed, record.bytes)
    # No extra fields: they could rename the member, or give it another size.
    if (
        local[0] != b"PK\x03\x04"
        or (*local[2:4], *local[6:9]) != agreed
        or local[9:] != (record.name_length, 0)
        or _read(file, start, record.name_length) != name.encode("ascii")
    ):
        raise ArchiveInvalid(f"member {name!r} and its entry in the ZIP directory differ")
    return Entry(
        name=name,
        method=record.method,
        crc=record.crc,
        start=start + record.name_length,
        packed=record.packed,
        bytes=record.bytes,
    )
