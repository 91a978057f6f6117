"""Writing an archive, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from memos_core.archive import embeddings as tensors
from memos_core.archive import manifest
from memos_core.archive.embeddings import Embeddings
from memos_core.archive.header import Header
from memos_core.archive.json_text import as_json
from memos_core.archive.layout import (
    EMBEDDINGS,
    HEADER,
    MANIFEST,
    RECORD_KINDS,
    SIGNATURE,
    RecordKind,
    part_name,
)
from memos_core.archive.limits import STANDARD, Limits
from memos_core.archive.members import MemberWriter
from memos_core.archive.new_file import NewFile
from memos_core.errors import ArchiveNotWritten, InvalidInput, InvalidVector

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PART_RECORDS = 5_000
PART_BYTES = 4 * 2**20  # of records and of embeddings; only a single record may be larger
_TENSOR_HEADER = 256  # bytes, and more than it takes


class _Part:
    """The records of one kind that wait for their part to be full, with their embeddings."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lines: list[bytes] = []
        self.rows: list[Embeddings] = []
        self.bytes = 0

    def has_room(self, line: bytes, row: Embeddings | None, most: Limits) -> bool:
        rows, bytes_ = len(self.lines) + 1, min(PART_BYTES, most.part_bytes)
        return not self.lines or (
            rows <= min(PART_RECORDS, most.part_records)
            and self.bytes + len(line) <= bytes_
            and (row is None or rows * row.nbytes + _TENSOR_HEADER <= bytes_)
        )

    def add(self, line: bytes, row: Embeddings | None) -> None:
        self.lines.append(line)
        self.bytes += len(line)
        if row is not None:
            self.rows.append(row)


class ArchiveWriter:
    """A new archive at ``path``, complete when its ``with`` block ends, and not there before.

    Usage::

        with ArchiveWriter("ann.memos", header, signing_key=key) as archive:
            for records, vectors in batches:
                archive.write("cubes", records, embeddings=vectors)

    Kinds may be written in turns. Memory holds one part of each kind. Where the block raises, or
    the disk is full, no file is left, and a file that was to be overwritten stands as it was.

    Raises:
        ArchiveNotWritten: the file exists, cannot be written, or would be over the limits.
        InvalidInput: a record is no JSON, or of a kind that ``header.contents`` does not name.
        InvalidVector: embeddings of another width or number, or not finite.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: Header,
        *,
        signing_key: Ed25519PrivateKey | None = None,
        overwrite: bool = False,
        limits: Limits = STANDARD,
    ) -> None:
        if signing_key is not None:
            from memos_core.archive import ed25519  # noqa: PLC0415 an extra

            ed25519.checked_signing_key(signing_key)
        self._path = path
        self._header = header
        self._signing_key = signing_key
        self._overwrite = overwrite
        self._limits = limits
        self._parts = {kind: _Part(0) for kind in header.contents}
        self._embedded: dict[str, bool] = {}  # whether the records of a kind come with vectors
        self._members: MemberWriter | None = None
        self._unfinished = 0  # batches, for good where one failed
        self._closed = False

    def __enter__(self) -> Self:
        if self._members:
            raise ArchiveNotWritten(f"{self._path}: a writer writes one archive; make another")
        members = MemberWriter(NewFile(self._path, overwrite=self._overwrite), self._limits)
        try:
            members.add(HEADER, "header", self._header.as_bytes(), records=1)
        except BaseException:
            members.discard()
            raise
        self._members = members
        return self

    def write(
        self,
        kind: RecordKind,
        records: Iterable[Mapping[str, object]],
        *,
        embeddings: NDArray[np.floating[Any]] | None = None,
    ) -> None:
        """Append records of a kind: JSON values under string keys.

        ``embeddings`` are (records, width), one row for each record, for ``cubes`` and
        ``versions``; they become float16. All records of a kind have them, or none.
        """
        members = self._opened()
        self._unfinished += 1
        rows = self._rows(kind, embeddings)
        count = 0
        for count, record in enumerate(records, start=1):
            if rows is not None and count > len(rows):
                break
            line = as_json(record, what=f"record {count} of this batch of {kind}") + b"\n"
            row = None if rows is None else rows[count - 1]
            if not self._parts[kind].has_room(line, row, self._limits):
                self._write_part(members, kind)
            self._parts[kind].add(line, row)
        if rows is not None and count != len(rows):
            raise InvalidVector(f"{len(rows)} embeddings for another number of {kind}")
        if count and self._embedded.setdefault(kind, rows is not None) != (rows is not None):
            raise InvalidInput(f"all {kind} have embeddings, or none")
        self._unfinished -= 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        members = self._opened()
        self._closed = True
        try:
            if error is None:
                self._finish(members)
        finally:
            members.discard()

    def _opened(self) -> MemberWriter:
        if self._members is None or self._closed:
            raise ArchiveNotWritten(f"{self._path}: write inside of the writer's with block")
        return self._members

    def _rows(self, kind: str, embeddings: NDArray[np.floating[Any]] | None) -> Embeddings | None:
        if kind not in self._parts:
            named = ", ".join(self._parts) or "nothing"
            raise InvalidInput(f"{kind!r} is not in this header's contents: {named}")
        if embeddings is None:
            return None
        model = self._header.embedder
        if model is None or kind not in EMBEDDINGS:
            raise InvalidInput(f"{kind} have no embeddings in an archive of this header")
        return tensors.rows_of(embeddings, width=model.width)

    def _write_part(self, members: MemberWriter, kind: str) -> None:
        part = self._parts[kind]
        count = len(part.lines)
        members.add(part_name(kind, part.number), kind, b"".join(part.lines), records=count)
        if part.rows:
            vectors, data = EMBEDDINGS[kind], tensors.as_bytes(np.stack(part.rows))
            members.add(part_name(vectors, part.number), vectors, data, records=count)
        self._parts[kind] = _Part(part.number + 1)

    def _finish(self, members: MemberWriter) -> None:
        if self._unfinished:
            raise ArchiveNotWritten(f"{self._path} was not written: a batch of records failed")
        for kind in RECORD_KINDS:
            if kind in self._parts and self._parts[kind].lines:
                self._write_part(members, kind)
        totals = manifest.totals_of(members.listed[1:], self._header.contents)
        data = manifest.as_bytes(members.listed, totals)
        members.add_unlisted(MANIFEST, data)
        if self._signing_key is not None:
            from memos_core.archive import ed25519  # noqa: PLC0415 an extra

            members.add_unlisted(SIGNATURE, ed25519.sign(data, self._signing_key).as_bytes())
        members.commit()
