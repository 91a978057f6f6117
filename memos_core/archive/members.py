"""Writing members into a new ZIP file, each noted for the manifest."""

from __future__ import annotations

import hashlib
import zlib
from contextlib import suppress
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from memos_core.archive.limits import Limits
from memos_core.archive.manifest import Member
from memos_core.archive.new_file import NewFile, writing
from memos_core.errors import ArchiveNotWritten

_LEVEL = 3  # as fast as 1 on records; 6 takes two thirds longer and saves 6 %
_SLICE = 2**16


class MemberWriter:
    """The ZIP file of an archive in the making, and the members that its manifest will list.

    ``discard`` must follow ``commit``, and stand in for it where something failed.
    """

    def __init__(self, file: NewFile, limits: Limits) -> None:
        self.listed: list[Member] = []
        self._file = file
        self._zip = ZipFile(file.file, "w")
        self._limits = limits
        self._bytes = 0

    def add(self, name: str, kind: str, data: bytes, *, records: int) -> None:
        """Write a member that the manifest lists."""
        if len(self.listed) + 3 > self._limits.members:  # with the manifest and its signature
            raise ArchiveNotWritten(
                f"{self._file.path} was not written: over {self._limits.members} members; write "
                "several archives, or raise Limits.members here and where it is read"
            )
        # To compress embeddings would double the time of writing, and save 8 % of their size.
        self.add_unlisted(name, data, packed=not name.endswith(".safetensors"))
        sha256 = hashlib.sha256(data).hexdigest()
        self.listed.append(
            Member(name=name, kind=kind, sha256=sha256, bytes=len(data), records=records)
        )

    def add_unlisted(self, name: str, data: bytes, *, packed: bool = True) -> None:
        """Write a member, compressed or not."""
        self._check(name, len(data))
        entry = ZipInfo(name)  # of 1980-01-01: equal contents give equal bytes
        entry.create_system = 3  # Unix, whatever this is
        entry.external_attr = 0o100600 << 16  # a file, its owner's
        packed = packed and not _packs_more_than(data, self._limits.expansion / 2)
        with writing(self._file.path):
            self._zip.writestr(entry, data, ZIP_DEFLATED if packed else ZIP_STORED, _LEVEL)

    def commit(self) -> None:
        """Finish the file and put it in place."""
        with writing(self._file.path):
            self._zip.close()
        self._file.commit()

    def discard(self) -> None:
        """Remove all but what was put in place."""
        with suppress(OSError, ValueError):  # it tries to write its directory, now or when freed
            self._zip.close()
        self._file.discard()

    def _check(self, name: str, size: int) -> None:
        limits, path = self._limits, self._file.path
        self._bytes += size
        if size > limits.part_bytes:
            raise ArchiveNotWritten(
                f"{path} was not written: {name} has {size} bytes, over the limit of "
                f"{limits.part_bytes}; raise Limits.part_bytes here and where it is read"
            )
        if self._bytes > limits.total_bytes:
            raise ArchiveNotWritten(
                f"{path} was not written: over {limits.total_bytes} bytes; write several archives, "
                "or raise Limits.total_bytes here and where it is read"
            )


def _packs_more_than(data: bytes, times: float) -> bool:
    """Whether data compresses so well that a reader would take it for a bomb: it is stored then.

    Answered after the first few per cent of ordinary data.
    """
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    most = len(data) / times
    packed = 0
    for start in range(0, len(data), _SLICE):
        packed += len(packer.compress(data[start : start + _SLICE]))
        if packed >= most:
            return False
    return packed + len(packer.flush()) < most
