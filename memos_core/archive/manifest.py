"""The member ``manifest.json``: every other member with its hash, its size and its records."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from memos_core.archive.fields import Fields
from memos_core.archive.layout import FORMAT, MANIFEST, VERSION
from memos_core.errors import ArchiveInvalid

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One member: its kind, the SHA-256 in hex and the number of its bytes, its records."""

    name: str
    kind: str
    sha256: str
    bytes: int
    records: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """What all parts of one kind hold together."""

    parts: int = 0
    records: int = 0
    bytes: int = 0

    def __add__(self, member: Member) -> Total:
        return Total(
            parts=self.parts + 1,
            records=self.records + member.records,
            bytes=self.bytes + member.bytes,
        )


def totals_of(members: Sequence[Member], kinds: Sequence[str]) -> dict[str, Total]:
    """Return a total for each kind, those of ``kinds`` first and also where there are none."""
    totals = dict.fromkeys(kinds, Total())
    for member in members:
        totals[member.kind] = totals.get(member.kind, Total()) + member
    return totals


def as_bytes(members: Sequence[Member], totals: dict[str, Total]) -> bytes:
    """Return the member."""
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "members": [asdict(member) for member in members],
        "totals": {kind: asdict(total) for kind, total in totals.items()},
    }
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def read_manifest(data: bytes) -> tuple[list[Member], dict[str, Total]]:
    """Return what a member ``manifest.json`` says, whatever else it may say."""
    fields = Fields.of_member(data, MANIFEST)
    members = [
        _member(Fields.of(one, f"{MANIFEST}: member {place}"))
        for place, one in enumerate(fields.items("members"))
    ]
    totals = fields.inner("totals")
    return members, {kind: _total(totals.inner(kind)) for kind in totals.values}


def _member(fields: Fields) -> Member:
    sha256 = fields.text("sha256")
    if not _SHA256.fullmatch(sha256):
        raise ArchiveInvalid(f"{fields.where}: 'sha256' must be 64 lower-case hex digits")
    return Member(
        name=fields.text("name"),
        kind=fields.text("kind"),
        sha256=sha256,
        bytes=fields.count("bytes"),
        records=fields.count("records"),
    )


def _total(fields: Fields) -> Total:
    return Total(
        parts=fields.count("parts"), records=fields.count("records"), bytes=fields.count("bytes")
    )
