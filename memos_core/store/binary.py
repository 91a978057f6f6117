"""Long arrays as PostgreSQL's binary protocol takes them, packed in one go.

The driver's own adapters call back for every element: many times the cost, for a thousand of them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types import TypeInfo

from memos_core.store.arrays import HalfVectors, SparseVector, SparseVectors, Texts, Uuids


def register(connection: psycopg.Connection[Any]) -> None:
    """Teach a connection to send them."""
    half, sparse = (TypeInfo.fetch(connection, name) for name in ("halfvec", "sparsevec"))
    if half is None or sparse is None:  # pragma: no cover  the migration needs both
        raise psycopg.errors.UndefinedObject("pgvector has no halfvec or no sparsevec")
    text, uuid = (connection.adapters.types[name] for name in ("text", "uuid"))
    for cls, dumper, oid, element in (
        (HalfVectors, _HalfVectorsDumper, half.array_oid, half.oid),
        (SparseVectors, _SparseVectorsDumper, sparse.array_oid, sparse.oid),
        (SparseVector, _SparseVectorDumper, sparse.oid, 0),
        (Uuids, _UuidsDumper, uuid.array_oid, uuid.oid),
        (Texts, _TextsDumper, text.array_oid, text.oid),
    ):
        known = cast(
            "type[Dumper]", type(dumper.__name__, (dumper,), {"oid": oid, "element": element})
        )
        connection.adapters.register_dumper(cls, known)


class _BinaryDumper(Dumper):
    format = Format.BINARY
    element: ClassVar[int]  # the oid of an array's elements

    def _array(self, elements: bytes, count: int) -> bytes:
        dimensions = 1 if count else 0
        head = struct.pack(">3i", dimensions, 0, self.element)
        return head + struct.pack(">2i", count, 1) + elements if count else head


class _HalfVectorsDumper(_BinaryDumper):
    def dump(self, obj: HalfVectors) -> Buffer:
        count, width = obj.vectors.shape
        element = np.dtype(
            [("length", ">i4"), ("width", ">i2"), ("unused", ">i2"), ("values", ">f2", (width,))]
        )
        packed = np.zeros(count, element)
        packed["length"] = 4 + 2 * width
        packed["width"] = width
        packed["values"] = obj.vectors
        return self._array(packed.tobytes(), count)


class _SparseVectorsDumper(_BinaryDumper):
    def dump(self, obj: SparseVectors) -> Buffer:
        return self._array(_sized(obj.vectors), len(obj.vectors))


class _SparseVectorDumper(_BinaryDumper):
    def dump(self, obj: SparseVector) -> Buffer:
        return obj.vector


class _UuidsDumper(_BinaryDumper):
    def dump(self, obj: Uuids) -> Buffer:
        return self._array(_sized([one.bytes for one in obj.ids]), len(obj.ids))


class _TextsDumper(_BinaryDumper):
    def dump(self, obj: Texts) -> Buffer:
        return self._array(_sized([text.encode() for text in obj.texts]), len(obj.texts))


def _sized(elements: Sequence[bytes]) -> bytes:
    """Return elements one after the other, each behind its length."""
    return b"".join([part for one in elements for part in (_LENGTH.pack(len(one)), one)])


_LENGTH = struct.Struct(">i")
