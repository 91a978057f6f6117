"""The one place that runs statements."""

from __future__ import annotations

import contextlib
import json
import random
import select
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, LiteralString, NoReturn, TypeVar, overload

import psycopg
from pgvector.psycopg import register_vector
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from memos_core import errors
from memos_core.embedder import Model, wrong_model
from memos_core.settings import Settings
from memos_core.store import binary
from memos_core.store.migrate import make_event_partitions, migrate, role_behind_the_wall
from memos_core.store.snapshot import Snapshot
from memos_core.store.statement import Copy, Statement
from memos_core.store.statements.candidates import DEPTH

T = TypeVar("T")
S = TypeVar("S", "Session", Snapshot)
Connection = psycopg.Connection[dict[str, Any]]

_WRONG_MODEL = "ME001"  # raised by memos.embedded_by
_OTHER_RULES = "ME002"  # raised by memos.ruled_by
_RETRIES = 10  # of a transaction that collided with another: it was rolled back, nothing is lost
_LISTEN_SECONDS = 0.5  # between two looks at whether the store was closed
_PAUSE_SECONDS = 0.005  # at most before the first retry, and more before each other
_CANCEL_SECONDS = 0.2  # between two attempts to end a session's statement
_COLLISION = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
_NO_CONNECTION = (
    psycopg.errors.ConnectionException,
    psycopg.errors.AdminShutdown,
    psycopg.errors.CrashShutdown,
    psycopg.errors.CannotConnectNow,
)


class Transaction:
    """Statements that happen together or not at all."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, statement: Statement[T], /) -> T:
        """Run a statement and return its answer."""
        if not statement.every_tenant:
            return self._answer(statement)
        with self._connection.transaction():
            self._connection.execute(_EVERY_TENANT)
            return self._answer(statement)

    def _answer(self, statement: Statement[T]) -> T:
        rows = self._connection.execute(statement.sql, statement.parameters).fetchall()
        return statement.read(rows)

    def copy(self, copy: Copy, /) -> None:
        """Store many rows."""
        with self._connection.cursor().copy(copy.sql) as rows:
            rows.set_types(copy.types)
            for row in copy.rows:
                rows.write_row(row)


class Together(Transaction):
    """A store whose statements are all of one transaction, until it ends."""

    def __init__(self, connection: Connection, store: Store) -> None:
        super().__init__(connection)
        self._store = store
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
            As ``Store.run``; a collision with another transaction is not tried again.
        """
        if self.ended:
            raise errors.Closed("this pipeline has ended: its verbs work inside its block")
        if self.failure is not None:
            raise errors.PipelineFailed(f"an earlier verb of this pipeline failed: {self.failure}")
        try:
            with translated(self._store.settings):
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


class Session(Transaction):
    """Statements that are transactions by themselves, on a connection of their own."""

    def __init__(self, connection: Connection, store: Store) -> None:
        super().__init__(connection)
        self._store = store

    def run(self, statement: Statement[T], /) -> T:
        """Run a statement and return its answer.

        Raises:
            Closed: the store was closed before it ended, and nothing was written.
            As ``Store.run``.
        """
        with translated(self._store.settings):
            try:
                for _ in range(_RETRIES):
                    self._store.check_open()
                    with contextlib.suppress(*_COLLISION):
                        return super().run(statement)
                return super().run(statement)
            except psycopg.errors.QueryCanceled:
                self._store.check_open()
                raise

    def cancel(self) -> None:
        """Cancel the statement at work, from another thread."""
        with contextlib.suppress(psycopg.Error):
            self._connection.cancel_safe()


class News:
    """What is told to a connection that listens."""

    def __init__(self, connection: Connection, check_open: Callable[[], None]) -> None:
        self._connection = connection
        self._check_open = check_open

    def wait(self, timeout: float | None) -> bool:
        """Wait for news; False where there was none in ``timeout`` seconds, or the store closed.

        What was told several times meanwhile is told once.
        """
        late = None if timeout is None else time.monotonic() + timeout
        while True:
            left = (
                _LISTEN_SECONDS if late is None else min(_LISTEN_SECONDS, late - time.monotonic())
            )
            try:
                self._check_open()
            except errors.Closed:
                return False
            if any(True for _ in self._connection.notifies(timeout=max(left, 0), stop_after=1)):
                return True
            if late is not None and time.monotonic() >= late:
                return False


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
        self._sessions: set[Session | Snapshot] = set()
        self._closed = False
        with translated(settings):
            self._dsn = _patient(dsn, settings)
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
            check=_check,
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
            for tries in range(_RETRIES):
                with contextlib.suppress(*_COLLISION):
                    return attempt()
                pause(tries)
            return attempt()

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
        """
        with translated(self.settings), self._connection() as connection:
            together = Together(connection, self)
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
            self._listed(Session(connection, self)) as session,
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
    def listen(self) -> Generator[News]:
        """Hear of changes in what is published, until the store is closed.

        Raises:
            StoreUnavailable: no connection can be had, or it was lost.
        """
        with translated(self.settings), self._apart() as connection:
            connection.execute("LISTEN memos_channels")
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
            connection.execute(_MAINTENANCE, {"timeout": "0", "local": False})
            yield connection

    @contextmanager
    def _transaction(self, timeout: float | None) -> Generator[Transaction]:
        with self._connection() as connection, connection.transaction():
            if timeout is not None:
                milliseconds = str(int(timeout * 1000))
                connection.execute(_MAINTENANCE, {"timeout": milliseconds, "local": True})
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

    def _configure(self, connection: psycopg.Connection[Any]) -> None:
        register_vector(connection)
        binary.register(connection)
        binary.register_wall(connection, walled=self.settings.row_security)
        set_json_loads(_json_loads, connection)
        milliseconds = str(int(self.settings.statement_timeout * 1000))
        settings = {"statement_timeout": milliseconds, "depth": str(DEPTH), "role": self._role}
        connection.execute(_SESSION, settings)


def _json_loads(data: str | bytes) -> Any:
    """Read JSON that is UTF-8 for sure: to find out would take as long as to read it."""
    return _DECODER.decode(data if isinstance(data, str) else data.decode())


_DECODER = json.JSONDecoder()

# Whatever the database's or the role's own defaults are. Verbs are planned once a connection, not
# once a call, and always by an index: the statistics of a table that was just filled say nothing.
# Python's calendar ends, so some moments exist in UTC only.
_SESSION: LiteralString = """
    SELECT
        set_config('role', coalesce(%(role)s, current_setting('role')), false),
        set_config('row_security', 'on', false),
        set_config('statement_timeout', %(statement_timeout)s, false),
        set_config('idle_in_transaction_session_timeout', %(statement_timeout)s, false),
        set_config('default_transaction_isolation', 'read committed', false),
        set_config('work_mem', '64MB', false),
        set_config('plan_cache_mode', 'force_generic_plan', false),
        set_config('enable_seqscan', 'off', false),
        set_config('hnsw.ef_search', %(depth)s, false),
        set_config('hnsw.iterative_scan', 'relaxed_order', false),
        set_config('client_encoding', 'UTF8', false),
        set_config('timezone', 'UTC', false),
        set_config('datestyle', 'ISO', false)
    """
# What a statement says that reaches every tenant's rows: no label is so long.
_EVERY_TENANT: LiteralString = "SELECT set_config('memos.tenant', memos.every_tenant(), true)"
# Statements that read whole tables are planned for what they are about to read.
_MAINTENANCE: LiteralString = """
    SELECT
        set_config('statement_timeout', %(timeout)s, %(local)s),
        set_config('idle_in_transaction_session_timeout', %(timeout)s, %(local)s),
        set_config('plan_cache_mode', 'force_custom_plan', %(local)s),
        set_config('enable_seqscan', 'on', %(local)s)
    """


def _patient(dsn: str, settings: Settings) -> str:
    """Return ``dsn`` with a limit to how long a host may take to answer, if it has none."""
    try:
        known = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise errors.InvalidInput(f"this is no address of a database: {error}") from error
    if "connect_timeout" in known:
        return dsn
    return make_conninfo(dsn, connect_timeout=max(2, round(settings.pool_timeout)))


def _check(connection: Connection) -> None:
    """Tell the pool whether a connection still lives, so that a restarted server is no error.

    A server that ended has closed its side, which a look at the socket tells in 2 µs; a round trip
    would be a tenth of a search.
    """
    if _POLL:
        socket = select.poll()
        socket.register(connection.fileno(), select.POLLIN)
        if not socket.poll(0):
            return
    connection.execute("")


_POLL = hasattr(select, "poll")  # Windows has none


def pause(tries: int) -> None:
    """Wait before a transaction that collided is tried again, so that it does not collide again."""
    time.sleep(random.uniform(0, _PAUSE_SECONDS * (tries + 1)))  # noqa: S311 it hides nothing


@contextmanager
def translated(settings: Settings) -> Generator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except PoolTimeout as error:
        raise errors.PoolExhausted(
            f"all {settings.pool_size} connections stayed busy for {settings.pool_timeout:g} s: "
            "raise Settings.pool_size or pool_timeout, or ask for less at once"
        ) from error
    except PoolClosed as error:
        raise errors.Closed from error
    except psycopg.Error as error:
        raise _ours(error, settings) from error


def _ours(  # noqa: PLR0911 a table of them
    error: psycopg.Error, settings: Settings
) -> errors.MemOSError:
    said = (error.diag.message_primary or str(error)).strip()
    match error:
        case psycopg.errors.QueryCanceled():
            return errors.StatementTimeout(
                f"a statement ran past {settings.statement_timeout:g} s and was cancelled, nothing "
                "was written: ask for less at once, or raise Settings.statement_timeout"
            )
        case psycopg.errors.UniqueViolation():
            return errors.CubeExists(
                f"a cube with this id is stored already ({error.diag.message_detail}): "
                "use update, or let add choose the id"
            )
        case _ if isinstance(error, _COLLISION):
            return errors.TransactionCollided(
                f"collided with another transaction, nothing was written: {said}; try again"
            )
        case psycopg.DataError():
            return errors.InvalidInput(f"PostgreSQL refused a value: {said}")
        case _ if error.sqlstate == _WRONG_MODEL:
            return wrong_model(Model(**json.loads(said)))
        case _ if error.sqlstate == _OTHER_RULES:
            return errors.RulesChanged(f"{said} while this was at work: try again")
        case psycopg.OperationalError() if error.sqlstate is None or isinstance(
            error, _NO_CONNECTION
        ):
            return errors.StoreUnavailable(
                f"no connection to the database: {said}; is the server running and the address "
                "right? What was committed is safe, and the next call tries again; MemOS.open "
                "starts a private server that ended"
            )
        case _:
            return errors.StoreError(f"the database failed, nothing was written: {said}")
