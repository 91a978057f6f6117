"""The one place that runs statements."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, LiteralString, TypeVar, overload

import psycopg
from pgvector.psycopg import register_vector
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from memos_core import errors
from memos_core.settings import Settings
from memos_core.store.migrate import make_event_partitions, migrate
from memos_core.store.statement import Statement

T = TypeVar("T")
Connection = psycopg.Connection[dict[str, Any]]

_WRONG_MODEL = "ME001"  # raised by memos.embedded_by
_NO_CONNECTION = (
    psycopg.errors.ConnectionException,
    psycopg.errors.AdminShutdown,
    psycopg.errors.CrashShutdown,
    psycopg.errors.CannotConnectNow,
)


class Store:
    """A pool of connections to one migrated database.

    Raises:
        StoreUnavailable: the server cannot be reached.
        UnsupportedServer, MigrationError: see ``migrate``.
    """

    def __init__(self, dsn: str, settings: Settings) -> None:
        self._settings = settings
        self._dsn = dsn
        with translated(settings), psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
            make_event_partitions(connection)
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            dsn,
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
        with translated(self._settings), self._connection() as connection:
            if not others and timeout is None:
                return _execute(connection, statement)
            with connection.transaction():
                if timeout is not None:
                    connection.execute(
                        "SELECT set_config('statement_timeout', %s, true)",
                        (str(int(timeout * 1000)),),
                    )
                answer = _execute(connection, statement)
                for other in others:
                    answer = _execute(connection, other)
            return answer

    @contextmanager
    def _connection(self) -> Generator[Connection]:
        try:
            connection = self._pool.getconn()
        except PoolTimeout:
            # Busy, or gone? A connection outside the pool tells; where it fails, that is the error.
            psycopg.connect(self._dsn, connect_timeout=2).close()
            raise
        try:
            with connection:
                yield connection
        finally:
            self._pool.putconn(connection)

    def close(self) -> None:
        """Close every connection; statements at work are let finish."""
        self._pool.close()

    def _configure(self, connection: Connection) -> None:
        register_vector(connection)
        timeouts: LiteralString = """
            SELECT
                set_config('statement_timeout', %(statement)s, false),
                set_config('idle_in_transaction_session_timeout', %(statement)s, false),
                set_config('work_mem', '64MB', false),
                set_config('plan_cache_mode', 'force_custom_plan', false)
            """  # a generic plan loses partial indexes and cannot fold absent filters away
        milliseconds = str(int(self._settings.statement_timeout * 1000))
        connection.execute(timeouts, {"statement": milliseconds})


def _check(connection: Connection) -> None:
    """Tell the pool whether a connection still lives: 26 µs, and a restarted server is no error."""
    connection.execute("")


def _execute(connection: Connection, statement: Statement[T]) -> T:
    return statement.read(connection.execute(statement.sql, statement.parameters).fetchall())


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


def _ours(error: psycopg.Error, settings: Settings) -> errors.MemOSError:
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
        case psycopg.DataError():
            return errors.InvalidInput(f"PostgreSQL refused a value: {said}")
        case _ if error.sqlstate == _WRONG_MODEL:
            return wrong_model(said)
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


def wrong_model(stored: str, mine: str | None = None) -> errors.EmbedderMismatch:
    """Say that the database's vectors are another model's, and what to do."""
    asked = f", not by {mine!r}" if mine else ", not by the embedder of this MemOS"
    return errors.EmbedderMismatch(
        f"this database was embedded by {stored!r}{asked}: open it with that model, or run "
        "`memos reembed` (MemOS.reembed) to replace every vector"
    )
