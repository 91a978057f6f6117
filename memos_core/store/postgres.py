"""The one place that runs statements."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, LiteralString, TypeVar, overload

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from memos_core import errors
from memos_core.settings import Settings
from memos_core.store.connections import (
    Connection,
    allow_time,
    check_alive,
    configure,
    patient,
)
from memos_core.store.driver_errors import translated
from memos_core.store.migrate import make_event_partitions, migrate, role_behind_the_wall
from memos_core.store.news import News
from memos_core.store.session import Apart, Session, retried
from memos_core.store.snapshot import Snapshot
from memos_core.store.statement import Statement
from memos_core.store.transaction import AGAIN, Together, Transaction

T = TypeVar("T")
S = TypeVar("S", bound=Apart)
_CANCEL_SECONDS = 0.2  # between two attempts to end a session's statement


class Store:
    """A pool of connections to one migrated database.

    Raises:
        InvalidInput: ``dsn`` is no address.
        StoreUnavailable: the server cannot be reached.
        UnsupportedServer, MigrationError: see ``migrate``.
    """

    def __init__(self, dsn: str, settings: Settings) -> None:
        self.settings = settings
        self._idle = threading.Condition()
        self._busy = 0  # calls in it
        self._lent = 0  # connections of the pool that they hold
        self._sessions: set[Apart] = set()
        self._closed = False
        with translated(settings):
            self._dsn = patient(dsn, settings)
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                migrate(connection)
                make_event_partitions(connection)
                self._role = role_behind_the_wall(connection) if settings.row_security else None
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            self._dsn,
            connection_class=Connection,
            min_size=1,
            max_size=settings.pool_size,
            timeout=settings.pool_timeout,
            kwargs={"autocommit": True, "row_factory": dict_row},
            configure=self._configure,
            check=check_alive,
            open=True,
        )

    @overload
    def run(self, statement: Statement[T], /, *, timeout: float | None = None) -> T: ...
    @overload
    def run(
        self,
        statement: Statement[Any],
        /,
        *others: Statement[T],
        timeout: float | None = None,
    ) -> T: ...
    def run(
        self,
        statement: Statement[Any],
        /,
        *others: Statement[Any],
        timeout: float | None = None,
    ) -> Any:
        """Run statements in one transaction and return the last one's answer.

        ``timeout`` in seconds replaces the settings' for maintenance that may take long; 0 is none.

        Raises:
            StoreUnavailable, PoolExhausted, StatementTimeout, EmbedderMismatch, CubeExists,
            InvalidInput, StoreError: nothing was written.
        """

        def attempt() -> Any:
            if not others and timeout is None:  # a transaction by itself
                with self._connection() as connection:
                    return Transaction(connection).run(statement)
            with self._transaction(timeout) as transaction:
                return [transaction.run(one) for one in (statement, *others)][-1]

        with translated(self.settings):
            return retried(attempt)

    @contextmanager
    def transaction(self, *, timeout: float | None = None) -> Generator[Transaction]:
        """Run statements in one transaction with work of the caller's between them.

        Raises:
            As ``run``; a collision with another transaction is not tried again.
        """
        with translated(self.settings), self._transaction(timeout) as transaction:
            yield transaction

    @contextmanager
    def together(self) -> Generator[Together]:
        """Run all statements of a block in one transaction.

        Raises:
            PipelineFailed: one of them failed and the block went on; nothing of it happened.
            TransactionCollided: it collided with another transaction; nothing of it happened.
        """
        with translated(self.settings, again=AGAIN), self._connection() as connection:
            together = Together(connection, self.settings)
            try:
                with connection.transaction():
                    yield together
                    if together.failure is not None:
                        raise errors.PipelineFailed(
                            "a verb of this pipeline failed, so nothing of it happened: "
                            f"{together.failure}"
                        ) from together.failure
            finally:
                together.ended = True

    @contextmanager
    def session(self) -> Generator[Session]:
        """Run statements for as long as they take, until the store is closed.

        Raises:
            StoreUnavailable: no connection can be had.
        """
        with (
            translated(self.settings),
            self._apart() as connection,
            self._listed(Session(connection, self.check_open, self.settings)) as session,
        ):
            yield session

    @contextmanager
    def snapshot(self) -> Generator[Snapshot]:
        """Read all as it is at one moment, for as long as it takes, until the store is closed.

        Raises:
            StoreUnavailable: no connection can be had.
        """
        with (
            translated(self.settings),
            self._apart() as connection,
            self._listed(Snapshot(connection, self.check_open)) as snapshot,
            snapshot.taken(),
        ):
            yield snapshot

    @contextmanager
    def listen(self, channel: LiteralString) -> Generator[News]:
        """Hear of what is told on a channel, until the store is closed.

        Raises:
            StoreUnavailable: no connection can be had, or it was lost.
        """
        with translated(self.settings), self._apart() as connection:
            connection.execute("LISTEN " + channel)
            yield News(connection, self.check_open)

    def check_open(self) -> None:
        """Refuse what comes after ``close``.

        Raises:
            Closed: it did.
        """
        if self._closed:
            raise errors.Closed

    def close(self) -> None:
        """Close every connection, once the statements at work have ended; cancel the sessions'."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._busy)
            while self._sessions:
                for session in self._sessions:
                    session.cancel()
                self._idle.wait(_CANCEL_SECONDS)  # one may have been between two statements
        self._pool.close()

    @contextmanager
    def _listed(self, session: S) -> Generator[S]:
        """Have ``close`` cancel what a session is at."""
        with self._idle:
            self.check_open()
            self._sessions.add(session)
        try:
            yield session
        finally:
            with self._idle:
                self._sessions.discard(session)
                self._idle.notify_all()

    @contextmanager
    def _apart(self) -> Generator[Connection]:
        with Connection.connect(self._dsn, autocommit=True, row_factory=dict_row) as connection:
            self._configure(connection)
            allow_time(connection, 0, local=False)
            yield connection

    @contextmanager
    def _transaction(self, timeout: float | None) -> Generator[Transaction]:
        with self._connection() as connection, connection.transaction():
            if timeout is not None:
                allow_time(connection, timeout, local=True)
            yield Transaction(connection)

    @contextmanager
    def _connection(self) -> Generator[Connection]:
        with self._idle:
            self.check_open()
            self._busy += 1
        try:
            with self._borrowed() as connection:
                yield connection
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()

    @contextmanager
    def _borrowed(self) -> Generator[Connection]:
        try:
            connection = self._pool.getconn()
        except PoolTimeout:
            if self._lent >= self.settings.pool_size:
                raise
            # The pool pauses, longer and longer, between its tries at a server that went away.
            connection = Connection.connect(self._dsn, autocommit=True, row_factory=dict_row)
            with connection:
                self._configure(connection)
                yield connection
            return
        with self._idle:
            self._lent += 1
        try:
            with connection:
                yield connection
        finally:
            self._pool.putconn(connection)
            with self._idle:
                self._lent -= 1

    def _configure(self, connection: Connection) -> None:
        configure(connection, self.settings, self._role)
