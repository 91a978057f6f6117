"""Named parameters as the server numbers them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypeVar

import psycopg

from memos_core.store.connections import Connection
from memos_core.store.statement import Statement

T = TypeVar("T")

_PLACEHOLDER = re.compile(r"%(?:%|\((\w+)\)[sb])")


def answer(connection: Connection, statement: Statement[T]) -> T:
    """Run a statement and read its answer.

    The driver would look for the parameters of a long statement anew each time it is run.
    """
    sql, names = _numbered(statement.sql)
    cursor = psycopg.RawCursor(connection, row_factory=connection.row_factory)
    cursor.execute(sql, [statement.parameters[name] for name in names])
    return statement.read(cursor.fetchall())


@lru_cache(maxsize=1024)
def _numbered(sql: str) -> tuple[bytes, tuple[str, ...]]:
    """Return ``sql`` with $1 in place of the first parameter, and the parameters in order."""
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        name = found.group(1)
        return "%" if name is None else f"${numbers.setdefault(name, len(numbers) + 1)}"

    return _PLACEHOLDER.sub(number, sql).encode(), tuple(numbers)
