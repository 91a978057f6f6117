"""Statements of one transaction."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, LiteralString, NoReturn, TypeVar, overload

import psycopg

from memos_core import errors
from memos_core.settings import Settings
from memos_core.store.connections import Connection
from memos_core.store.driver_errors import translated
from memos_core.store.numbered import answer
from memos_core.store.statement import Copy, Statement

T = TypeVar("T")

AGAIN = "run the whole pipeline again, from its first verb on"

# What a statement says that reaches every tenant's rows: no label is so long.
_EVERY_TENANT: LiteralString = "SELECT set_config('memos.tenant', memos.every_tenant(), true)"


class Transaction:
    """Statements that happen together or not at all."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, statement: Statement[T], /) -> T:
        """Run a statement and return its answer."""
        if not statement.every_tenant:
            return answer(self._connection, statement)
        with self._connection.transaction():
            self._connection.execute(_EVERY_TENANT)
            return answer(self._connection, statement)

    def copy(self, copy: Copy, /) -> None:
        """Store many rows."""
        with self._connection.cursor().copy(copy.sql) as rows:
            rows.set_types(copy.types)
            for row in copy.rows:
                rows.write_row(row)


class Together(Transaction):
    """A store whose statements are all of one transaction, until it ends."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        super().__init__(connection)
        self._settings = settings
        self.failure: errors.MemOSError | None = None
        self.ended = False

    @overload
    def run(self, statement: Statement[T], /) -> T: ...
    @overload
    def run(self, statement: Statement[Any], /, *others: Statement[T]) -> T: ...
    def run(self, statement: Statement[Any], /, *others: Statement[Any]) -> Any:
        """Run statements and return the last one's answer.

        Raises:
            PipelineFailed: one before it failed.
            Closed: the transaction has ended.
            TransactionCollided: it collided with another transaction; nothing of it happened.
            As ``Store.run``.
        """
        if self.ended:
            raise errors.Closed("this pipeline has ended: its verbs work inside its block")
        if self.failure is not None:
            raise errors.PipelineFailed(f"an earlier verb of this pipeline failed: {self.failure}")
        try:
            with translated(self._settings, again=AGAIN):
                return [super(Together, self).run(one) for one in (statement, *others)][-1]
        except errors.MemOSError as error:
            self.failure = error
            raise

    @contextmanager
    def transaction(self) -> Generator[Transaction]:
        """Run statements with work of the caller's between them: they are part of it all."""
        yield self

    def roll_back(self) -> NoReturn:
        """End the transaction without an error, and undo it."""
        raise psycopg.Rollback
