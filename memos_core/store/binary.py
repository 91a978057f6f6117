"""Vectors as PostgreSQL's binary protocol takes them, packed in one go.

The driver's own adapters make an object of every vector and call it back: many times the cost, for
a thousand of them.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar, cast

import numpy as np
import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types import TypeInfo

from memos_core.store.vectors import HalfVectors, SparseVector, SparseVectors


def register(connection: psycopg.Connection[Any]) -> None:
    """Teach a connection to send them."""
    half, sparse = (TypeInfo.fetch(connection, name) for name in ("halfvec", "sparsevec"))
    if half is None or sparse is None:  # pragma: no cover  the migration needs both
        raise psycopg.errors.UndefinedObject("pgvector has no halfvec or no sparsevec")
    for cls, dumper, oid, element in (
        (HalfVectors, _HalfVectorsDumper, half.array_oid, half.oid),
        (SparseVectors, _SparseVectorsDumper, sparse.array_oid, sparse.oid),
        (SparseVector, _SparseVectorDumper, sparse.oid, 0),
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
        parts = [part for one in obj.vectors for part in (struct.pack(">i", len(one)), one)]
        return self._array(b"".join(parts), len(obj.vectors))


class _SparseVectorDumper(_BinaryDumper):
    def dump(self, obj: SparseVector) -> Buffer:
        return obj.vector
