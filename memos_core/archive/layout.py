"""Which members an archive has, and their names."""

from __future__ import annotations

import re
from typing import Literal, get_args

from memos_core.errors import InvalidInput

FORMAT = "memos-archive"
VERSION = 1
HEADER = "memos.json"  # the first member, of every version
MANIFEST = "manifest.json"
SIGNATURE = "signature.json"

RecordKind = Literal["cubes", "versions", "messages", "lineage", "grants", "events"]
RECORD_KINDS: tuple[RecordKind, ...] = get_args(RecordKind)
EMBEDDINGS = {"cubes": "embeddings", "versions": "version_embeddings"}  # of which records
PART_KINDS = (*RECORD_KINDS, *EMBEDDINGS.values())

_PART = re.compile(
    rf"(?P<kind>{'|'.join(RECORD_KINDS)})/(?P<number>[0-9]{{6}})\.jsonl"
    rf"|(?P<tensors>{'|'.join(EMBEDDINGS.values())})/(?P<tensor>[0-9]{{6}})\.safetensors"
)


def part_name(kind: str, number: int) -> str:
    """Return the name of a part's member."""
    suffix = "jsonl" if kind in RECORD_KINDS else "safetensors"
    return f"{kind}/{number:06}.{suffix}"


def part_of(name: str) -> tuple[str, int] | None:
    """Return the kind and number in a member's name, or None where it is no part's."""
    found = _PART.fullmatch(name)
    if not found:
        return None
    return found["kind"] or found["tensors"], int(found["number"] or found["tensor"])


def checked_kind(kind: str) -> str:
    """Return a kind of records."""
    if kind not in RECORD_KINDS:
        raise InvalidInput(f"unknown kind of records {kind!r}; known: {', '.join(RECORD_KINDS)}")
    return kind
