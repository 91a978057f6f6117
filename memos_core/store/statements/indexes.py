"""Statements about search indexes: the copies of large views in which search need not read all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.scope import INSIDE, Scope


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """How a view can be searched.

    ``index`` is its search index, None where it has none, and ``indexed`` what that holds,
    ``first`` what it held when it was built. ``others`` are the memories beside it; where there is
    no index all of the view's, counted up to the limit that was asked for and one. ``width`` is
    that of the database's vectors, 0 where it has none.
    """

    index: int | None
    indexed: int
    first: int
    others: int
    width: int


_STATE: LiteralString = (
    """
    WITH held AS (
        SELECT id, cubes, first_cubes FROM memos.search_index
        WHERE tenant = %(tenant)s AND namespace = %(namespace)s::text[] AND built_at IS NOT NULL
        ORDER BY id DESC LIMIT 1
    )
    SELECT
        (SELECT id FROM held) AS index,
        coalesce((SELECT cubes FROM held), 0) AS indexed,
        coalesce((SELECT first_cubes FROM held), 0) AS first,
        CASE WHEN EXISTS (SELECT FROM held) THEN (
            SELECT count(*) FROM memos.unindexed
            WHERE tenant = %(tenant)s AND index = (SELECT id FROM held)
        ) ELSE (
            SELECT count(*) FROM (SELECT FROM memos.cube WHERE """
    + INSIDE
    + """ LIMIT %(limit)s + 1) AS inside
        ) END AS others,
        coalesce((SELECT value ->> 'width' FROM memos.setting WHERE key = 'embedder'), '0')::integer
            AS width
    """
)


def state(scope: Scope, *, limit: int) -> Statement[State]:
    """Read how a view can be searched, counting up to ``limit`` + 1 memories without an index."""
    return Statement(
        sql=_STATE,
        parameters=scope.parameters(limit=limit),
        read=lambda rows: State(**rows[0]),
    )


def _one(rows: Sequence[Row]) -> int:
    return int(rows[0]["answer"])


_BEGIN: LiteralString = "SELECT memos.begin_index(%(tenant)s, %(namespace)s::text[]) AS answer"
_BUILD: LiteralString = (
    "SELECT memos.build_index(%(tenant)s, %(index)s, %(after)s::text[], %(wait)s)::integer"
    " AS answer"
)
_EXTEND: LiteralString = "SELECT memos.extend_index(%(tenant)s, %(index)s, %(most)s) AS answer"
_DROP: LiteralString = "SELECT memos.drop_index(%(tenant)s, %(index)s)"
_DROP_ALL: LiteralString = "SELECT memos.drop_index(tenant, id) FROM memos.search_index"


def begin(scope: Scope) -> Statement[int | None]:
    """Begin an index of a view; read its number, for ``build`` in a later transaction.

    None where there is no vector yet.
    """
    return Statement(sql=_BEGIN, parameters=scope.parameters(), read=lambda rows: rows[0]["answer"])


def build(scope: Scope, index: int, *, wait: bool) -> Statement[int]:
    """Build an index; read 0 where somebody else did, or does and we do not ``wait``."""
    return Statement(sql=_BUILD, parameters=scope.parameters(index=index, wait=wait), read=_one)


def extend(scope: Scope, index: int, *, most: int) -> Statement[int]:
    """Move memories written since into an index; read how many, 0 where somebody else does."""
    return Statement(sql=_EXTEND, parameters=scope.parameters(index=index, most=most), read=_one)


def drop(scope: Scope, index: int) -> Statement[None]:
    """Remove an index."""
    return Statement(sql=_DROP, parameters=scope.parameters(index=index), read=ignored)


def drop_all() -> Statement[None]:
    """Remove every index of the database: their vectors are another model's."""
    return Statement(sql=_DROP_ALL, parameters={}, read=ignored, every_tenant=True)
