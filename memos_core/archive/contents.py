"""What a manifest must say for its archive to be whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from memos_core.archive.header import Header
from memos_core.archive.layout import (
    EMBEDDINGS,
    HEADER,
    MANIFEST,
    SIGNATURE,
    part_of,
)
from memos_core.archive.limits import Limits
from memos_core.archive.manifest import Member, Total, totals_of
from memos_core.archive.zip_file import Entry
from memos_core.errors import ArchiveInvalid


def check_names(entries: Sequence[Entry]) -> None:
    """Make sure that there are a manifest and parts, in order, and nothing else."""
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        twice = next(name for name, after in pairwise(sorted(names)) if name == after)
        raise ArchiveInvalid(f"it has two members {twice!r}")
    ends = names[-2:] if names[-1] == SIGNATURE else names[-1:]
    if names[0] != HEADER or ends[0] != MANIFEST:
        raise ArchiveInvalid(f"it must begin with {HEADER} and end with {MANIFEST}")
    for name in names[1 : -len(ends)]:
        if part_of(name) is None:
            raise ArchiveInvalid(f"it has a member {name!r}, which no archive has")


def check_members(
    members: Sequence[Member], entries: Sequence[Entry], header: Header, limits: Limits
) -> None:
    """Make sure that the manifest lists the members of the ZIP file, and that parts match."""
    listed = [(member.name, member.bytes) for member in members]
    found = [(entry.name, entry.bytes) for entry in entries]
    found = [one for one in found if one[0] not in {MANIFEST, SIGNATURE}]
    if listed != found:
        odd = next(iter(set(found) ^ set(listed)), None)
        what = f"{odd[0]!r} of {odd[1]} bytes is only in one of them" if odd else "in another order"
        raise ArchiveInvalid(f"{MANIFEST} lists other members than there are: {what}")
    for member in members:
        kind = "header" if member.name == HEADER else _kind(member.name)
        if member.kind != kind:
            raise ArchiveInvalid(f"{MANIFEST}: {member.name} must be of kind {kind!r}")
        if not 1 <= member.records <= limits.part_records:
            raise ArchiveInvalid(
                f"{member.name} has {member.records} records, not 1 to {limits.part_records} "
                "(Limits.part_records)"
            )
    _check_parts(members[1:], header)


def check_totals(totals: dict[str, Total], members: Sequence[Member], header: Header) -> None:
    """Make sure that the manifest's totals are the sums of its parts."""
    expected = totals_of(members[1:], header.contents)
    for kind in (*expected, *totals):
        if totals.get(kind) != expected.get(kind):
            raise ArchiveInvalid(f"{MANIFEST}: the total of {kind[:40]!r} is not that of its parts")


def _check_parts(parts: Iterable[Member], header: Header) -> None:
    records: dict[str, list[int]] = {}  # of each part of a kind
    for member in parts:
        kind, number = _part(member.name)
        of_kind = records.setdefault(kind, [])
        if number != len(of_kind):
            raise ArchiveInvalid(f"{member.name} is not the next of its kind: {len(of_kind)} is")
        of_kind.append(member.records)
    for kind, vectors in EMBEDDINGS.items():
        if vectors in records and records[vectors] != records.get(kind):
            raise ArchiveInvalid(f"the parts of {vectors} do not match those of {kind}")
        if vectors in records and header.embedder is None:
            raise ArchiveInvalid(f"it has {vectors}, but {HEADER} names no embedder")
    for kind in records:
        if kind not in header.contents and kind not in EMBEDDINGS.values():
            raise ArchiveInvalid(f"it has {kind}, which the contents in {HEADER} do not name")


def _part(name: str) -> tuple[str, int]:
    part = part_of(name)
    assert part is not None  # noqa: S101 names were checked
    return part


def _kind(name: str) -> str:
    return _part(name)[0]
