"""Long arrays as PostgreSQL's binary protocol takes them, packed in one go.

The driver's own adapters call back for every element: many times the cost, for a thousand of them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, ClassVar, LiteralString, cast

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.rows import tuple_row
from psycopg.types import TypeInfo
from psycopg.types.string import StrBinaryDumper

from memos_core.store.arrays import (
    HalfVector,
    HalfVectors,
    SparseVector,
    SparseVectors,
    Texts,
    Uuids,
)
from memos_core.store.statement import AskedTenant, Asker, Tenant


def packed_halfvecs(vectors: NDArray[np.floating[Any]]) -> list[bytes]:
    """Return vectors of shape (n, width), each as a ``halfvec`` in binary form."""
    count, width = vectors.shape
    packed = np.zeros(count, _halfvec(width))
    packed["width"] = width
    packed["values"] = vectors
    data, size = packed.tobytes(), packed.dtype.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]


def unpacked_halfvecs(vectors: Sequence[bytes], width: int) -> NDArray[np.float16]:
    """Return vectors of shape (n, width) from ``halfvec`` in binary form."""
    packed = np.frombuffer(b"".join(vectors), _halfvec(width))
    return packed["values"].astype(np.float16)


def _halfvec(width: int) -> np.dtype[np.void]:
    return np.dtype([("width", ">i2"), ("unused", ">i2"), ("values", ">f2", (width,))])


def register(connection: psycopg.Connection[Any]) -> None:
    """Teach a connection to send them."""
    half, sparse = (TypeInfo.fetch(connection, name) for name in ("halfvec", "sparsevec"))
    if half is None or sparse is None:  # pragma: no cover  the migration needs both
        raise psycopg.errors.UndefinedObject("pgvector has no halfvec or no sparsevec")
    text, uuid = (connection.adapters.types[name] for name in ("text", "uuid"))
    for cls, dumper, oid, element in (
        (HalfVectors, _HalfVectorsDumper, half.array_oid, half.oid),
        (SparseVectors, _SparseVectorsDumper, sparse.array_oid, sparse.oid),
        (HalfVector, _PackedDumper, half.oid, 0),
        (SparseVector, _PackedDumper, sparse.oid, 0),
        (Uuids, _UuidsDumper, uuid.array_oid, uuid.oid),
        (Texts, _TextsDumper, text.array_oid, text.oid),
    ):
        known = cast(
            "type[Dumper]", type(dumper.__name__, (dumper,), {"oid": oid, "element": element})
        )
        connection.adapters.register_dumper(cls, known)


def register_wall(connection: psycopg.Connection[Any], *, walled: bool) -> None:
    """Teach a connection to raise the wall of row-level security by the tenants that it sends."""
    domains = {
        Tenant: "memos.tenant" if walled else "memos.tenant_unwalled",
        AskedTenant: "memos.tenant_asked" if walled else "memos.tenant_unwalled",
        Asker: "memos.caller",
    }
    with connection.cursor(row_factory=tuple_row) as cursor:
        oids = cursor.execute(_OIDS, (list(domains.values()),)).fetchall()
    for cls, (oid,) in zip(domains, oids, strict=True):
        known = type(f"{cls.__name__}Dumper", (StrBinaryDumper,), {"oid": oid})
        connection.adapters.register_dumper(cls, known)


_OIDS: LiteralString = """
    SELECT name::regtype::oid::bigint FROM unnest(%s::text[]) WITH ORDINALITY AS one (name, place)
    ORDER BY place
    """


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


class _PackedDumper(_BinaryDumper):
    def dump(self, obj: HalfVector | SparseVector) -> Buffer:
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
