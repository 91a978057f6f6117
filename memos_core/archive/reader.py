"""Reading an archive, part by part, whoever wrote it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from memos_core.archive.contents import check_members, check_names, check_totals
from memos_core.archive.embeddings import Embeddings, read_embeddings
from memos_core.archive.header import Header, read_header
from memos_core.archive.json_text import parsed
from memos_core.archive.layout import (
    EMBEDDINGS,
    HEADER,
    MANIFEST,
    RECORD_KINDS,
    SIGNATURE,
    RecordKind,
    checked_kind,
    part_name,
)
from memos_core.archive.limits import STANDARD, Limits
from memos_core.archive.manifest import Member, read_manifest
from memos_core.archive.signature import Signature, read_signature
from memos_core.archive.zip_file import read_entries, unpack
from memos_core.errors import ArchiveInvalid, ArchiveNotRead, Closed, InvalidInput

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Some records of one kind, with their embeddings in the same order, or None."""

    kind: RecordKind
    number: int
    records: list[dict[str, object]]
    embeddings: Embeddings | None


class ArchiveReader:
    """An open archive: its ``header`` at once, its records when asked for.

    Opening checks everything but the parts, and with a ``public_key`` that its owner signed all of
    it. Each part is checked against its hash before a record of it is seen; ``verify`` checks all.

    ``counts`` is how many records there are of each kind in ``header.contents``. ``claimed_signer``
    is the public key that the archive says it is signed with, in hex, or None: only a claim, unless
    ``public_key`` was given. ``digest`` is the SHA-256 of the manifest, in hex: it names all that
    the archive holds.

    Raises:
        ArchiveInvalid: the file is damaged, altered, hostile, over the limits, not signed by the
            key's owner, or no archive.
        ArchiveNotRead: the file cannot be opened or read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        public_key: Ed25519PublicKey | None = None,
        limits: Limits = STANDARD,
    ) -> None:
        self._path = path
        self._limits = limits
        with self._reading():
            self._file = _opened(path)
        try:
            with self._reading():
                self._open(public_key)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def parts(self, kind: RecordKind) -> range:
        """Return the numbers of a kind's parts, in their order."""
        return range(self._parts.get(checked_kind(kind), 0))

    def read_part(self, kind: RecordKind, number: int) -> Part:
        """Return one part whole."""
        with self._reading():
            lines = list(self._lines(kind, number))
            return Part(
                kind=kind,
                number=number,
                records=lines,
                embeddings=self._embeddings(kind, number),
            )

    def read_parts(self, kind: RecordKind, *, start: int = 0) -> Iterator[Part]:
        """Yield the parts of a kind, from number ``start`` on."""
        for number in self.parts(kind)[start:]:
            yield self.read_part(kind, number)

    def records(self, kind: RecordKind) -> Iterator[dict[str, object]]:
        """Yield the records of a kind, one at a time."""
        with self._reading():
            for number in self.parts(kind):
                yield from self._lines(kind, number)

    def verify(self) -> None:
        """Read all of it once: every hash, every record, every embedding."""
        with self._reading():
            for kind in RECORD_KINDS:
                for number in self.parts(kind):
                    for _ in self._lines(kind, number):
                        pass
                    self._embeddings(kind, number)

    def _open(self, public_key: Ed25519PublicKey | None) -> None:
        entries = read_entries(self._file, self._limits)
        if not entries or entries[0].name != HEADER:
            raise ArchiveInvalid(f"it does not begin with {HEADER}: it is no MemOS archive")
        first = unpack(self._file, entries[0])
        self.header: Header = read_header(first)  # says the version, by which the rest is judged
        check_names(entries)
        self._entries = {entry.name: entry for entry in entries}
        manifest = unpack(self._file, self._entries[MANIFEST])
        signature = self._signature(manifest, public_key)
        self.claimed_signer: str | None = signature and signature.public_key.hex()
        self.digest = hashlib.sha256(manifest).hexdigest()
        members, totals = read_manifest(manifest)
        check_members(members, entries, self.header, self._limits)
        check_totals(totals, members, self.header)
        self._members = {member.name: member for member in members}
        _check_hash(members[0], first)
        self._parts = {kind: total.parts for kind, total in totals.items()}
        self.counts: Mapping[RecordKind, int] = {
            kind: totals[kind].records for kind in self.header.contents
        }

    def _signature(self, manifest: bytes, public_key: Ed25519PublicKey | None) -> Signature | None:
        entry = self._entries.get(SIGNATURE)
        signature = read_signature(unpack(self._file, entry)) if entry else None
        if public_key is not None:
            from memos_core.archive import ed25519  # noqa: PLC0415 an extra

            ed25519.verify(signature, manifest, ed25519.checked_public_key(public_key))
        return signature

    def _read(self, name: str) -> tuple[Member, bytes]:
        if self._file.closed:
            raise Closed("this archive is closed: open it again")
        member = self._members[name]
        data = unpack(self._file, self._entries[name])
        _check_hash(member, data)
        return member, data

    def _lines(self, kind: RecordKind, number: int) -> Iterator[dict[str, object]]:
        if number not in self.parts(kind):
            raise InvalidInput(f"there is no part {number} of {kind}: {len(self.parts(kind))} are")
        member, data = self._read(part_name(kind, number))
        if data.count(b"\n") != member.records or not data.endswith(b"\n"):
            raise ArchiveInvalid(f"{member.name} does not hold {member.records} lines")
        start = 0
        for line in range(1, member.records + 1):
            end = data.index(b"\n", start)
            yield parsed(data[start:end], where=f"{member.name}, line {line},")
            start = end + 1

    def _embeddings(self, kind: RecordKind, number: int) -> Embeddings | None:
        vectors = EMBEDDINGS.get(kind)
        model = self.header.embedder
        if vectors is None or model is None or not self._parts.get(vectors):
            return None
        member, data = self._read(part_name(vectors, number))
        return read_embeddings(data, records=member.records, width=model.width, where=member.name)

    @contextmanager
    def _reading(self) -> Generator[None]:
        try:
            yield
        except ArchiveInvalid as error:
            raise ArchiveInvalid(f"{self._path}: {error}") from error
        except OSError as error:
            raise ArchiveNotRead(
                f"{self._path} cannot be read: {error.strerror or error}"
            ) from error


def _check_hash(member: Member, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != member.sha256:
        raise ArchiveInvalid(
            f"{member.name} does not match its hash in {MANIFEST}: it is damaged or was altered"
        )


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would wait, a device never end
            raise ArchiveInvalid("it is no file")
        return Path(path).open("rb")
    except ValueError as error:  # a NUL in it, or a lone surrogate
        raise ArchiveNotRead(f"{path!r} is no file name: {error}") from error
