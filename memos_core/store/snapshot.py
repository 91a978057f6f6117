"""All of a database as it was at one moment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from itertools import count
from typing import LiteralString, TypeVar

import psycopg

from memos_core.store.connections import Connection
from memos_core.store.session import Apart
from memos_core.store.statement import Statement

T = TypeVar("T")

# All rows of a cursor are wanted, not the first few soon.
_ALL: LiteralString = "SELECT set_config('cursor_tuple_fraction', '1', true)"


class Snapshot(Apart):
    """Statements that all see one moment."""

    def __init__(self, connection: Connection, check_open: Callable[[], None]) -> None:
        super().__init__(connection, check_open)
        self._numbers = count()

    @contextlib.contextmanager
    def taken(self) -> Generator[None]:
        """Keep to one moment, from the first statement in the block to its end."""
        self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self._connection.read_only = True
        with self._connection.transaction():
            self._connection.execute(_ALL)
            yield

    def run(self, statement: Statement[T], /) -> T:
        """Run a statement and return its answer.

        Raises:
            Closed: the store was closed.
        """
        with self._until_closed():
            rows = self._connection.execute(statement.sql, statement.parameters).fetchall()
        return statement.read(rows)

    def batches(self, statement: Statement[T], /, *, rows: int) -> Generator[T]:
        """Yield a statement's answer piece by piece, read from so many rows at a time.

        Raises:
            Closed: the store was closed.
        """
        with self._connection.cursor(f"batches_{next(self._numbers)}") as cursor:
            with self._until_closed():
                cursor.execute(statement.sql, statement.parameters, binary=True)
                found = cursor.fetchmany(rows)
            while found:
                yield statement.read(found)
                with self._until_closed():
                    found = cursor.fetchmany(rows)
