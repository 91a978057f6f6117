"""A small archive, and how to take one apart and put it together otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from memos_core import Namespace
from memos_core.archive import ArchiveReader, ArchiveWriter, Header, Limits
from memos_core.embedder import Model

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TWO = Limits(part_records=2)
HEADER = Header(
    namespace=Namespace("acme", "ann@example.org", "Reisen 東京"),
    contents=("cubes", "versions", "messages", "lineage", "grants", "events"),
    exported_at=datetime(2026, 11, 24, 12, 30, tzinfo=UTC),
    exported_by="ann",
    embedder=Model(name="words", width=4),
    watermark="for Bob",
    licence="CC-BY-4.0",
)
RECORDS: dict[Any, list[dict[str, object]]] = {
    "cubes": [
        {"id": "c1", "text": "Ann is allergic to peanuts.", "tags": ["health"], "priority": 0},
        {"id": "c2", "text": 'Sie sagte: "東京" 🦜\n\u2028\x01', "metadata": {"a": [1.5, None]}},
        {"id": "c3", "text": "", "metadata": {"deep": {"er": [[[True]]]}}, "big": 2**63},
    ],
    "versions": [{"id": "c1", "version": 1, "text": "Ann eats peanuts."}],
    "messages": [{"id": "m1", "role": "user", "content": "hello"}, {"id": "m2"}],
    "lineage": [{"child": "c2", "parent": "c1"}],
    "grants": [{}],
    "events": [{"kind": "added", "at": "2026-11-24T12:00:00+00:00"}],
}
EMBEDDINGS: dict[Any, Any] = {
    "cubes": np.array([[1, 0, 0, 0], [0.5, -0.5, 0.5, -0.5], [0, 0, 6e-8, 65504]], np.float16),
    "versions": np.array([[0, 1, 0, 0]], np.float16),
}
Contents = tuple[Header, dict[str, list[dict[str, object]]], dict[str, bytes]]
CONTENTS: Contents = (HEADER, RECORDS, {kind: EMBEDDINGS[kind].tobytes() for kind in EMBEDDINGS})


def write(path: Path, **given: Any) -> Path:
    """Write the small archive, two records a part."""
    with ArchiveWriter(path, HEADER, **{"limits": TWO, **given}) as archive:
        for kind, records in RECORDS.items():
            archive.write(kind, records, embeddings=EMBEDDINGS.get(kind))
    return path


def read(path: Path, **given: Any) -> Contents:
    """Return all that an archive holds."""
    records: dict[str, list[dict[str, object]]] = {}
    vectors: dict[str, bytes] = {}
    with ArchiveReader(path, **given) as archive:
        for kind in archive.header.contents:
            records[kind] = []
            for part in archive.read_parts(kind):
                records[kind] += part.records
                if part.embeddings is not None:
                    vectors[kind] = vectors.get(kind, b"") + part.embeddings.tobytes()
        return archive.header, records, vectors


def unpacked(path: Path) -> dict[str, bytes]:
    """Return an archive's members, as `zipfile` reads them."""
    with ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def packed(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Put members together, whatever they are."""
    with ZipFile(path, "w") as file:
        for name, data in members:
            file.writestr(ZipInfo(name), data, ZIP_DEFLATED)
    return path


def relisted(members: dict[str, bytes]) -> dict[str, bytes]:
    """Return members with a manifest that has their sizes and hashes."""
    manifest = json.loads(members["manifest.json"])
    for member in manifest["members"]:
        data = members[member["name"]]
        member |= {"sha256": sha256(data).hexdigest(), "bytes": len(data)}
    totals = manifest["totals"]
    for kind in totals:
        sizes = [member["bytes"] for member in manifest["members"] if member["kind"] == kind]
        totals[kind]["bytes"] = sum(sizes)
    return members | {"manifest.json": json.dumps(manifest).encode()}
