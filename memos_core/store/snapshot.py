"""All of a database as it was at one moment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from itertools import count
from typing import Any, LiteralString, TypeVar

import psycopg

from memos_core.store.statement import Statement

T = TypeVar("T")

# All rows of a cursor are wanted, not the first few soon.
_ALL: LiteralString = "SELECT set_config('cursor_tuple_fraction', '1', true)"


class Snapshot:
    """Statements that all see one moment, on a connection of their own.

    ``check_open`` refuses what comes after the store was closed, which cancels what is at work.
    """

    def __init__(
        self, connection: psycopg.Connection[dict[str, Any]], check_open: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._check_open = check_open
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

    def cancel(self) -> None:
        """Cancel the statement at work, from another thread."""
        with contextlib.suppress(psycopg.Error):
            self._connection.cancel_safe()

    @contextlib.contextmanager
    def _until_closed(self) -> Generator[None]:
        self._check_open()
        try:
            yield
        except psycopg.errors.QueryCanceled:
            self._check_open()
            raise
