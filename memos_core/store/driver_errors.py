"""The driver's errors, as ours."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout

from memos_core import errors
from memos_core.embedder import Model, wrong_model
from memos_core.settings import Settings

# Of two transactions in each other's way: one was rolled back, and may be tried again.
COLLISION = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
_WRONG_MODEL = "ME001"  # raised by memos.embedded_by
_OTHER_RULES = "ME002"  # raised by memos.ruled_by
_NO_CONNECTION = (
    psycopg.errors.ConnectionException,
    psycopg.errors.AdminShutdown,
    psycopg.errors.CrashShutdown,
    psycopg.errors.CannotConnectNow,
)


@contextmanager
def translated(settings: Settings, *, again: str = "try again") -> Generator[None]:
    """Turn the driver's errors into ours; ``again`` says what to do after a collision."""
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
        raise _ours(error, settings, again) from error


def _ours(  # noqa: PLR0911 a table of them
    error: psycopg.Error, settings: Settings, again: str
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
        case _ if isinstance(error, COLLISION):
            return errors.TransactionCollided(
                f"collided with another transaction, nothing was written: {said}; {again}"
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
            # libpq may ask already whether the server is running.
            asked = "" if said.endswith("?") else "; is the server running and the address right?"
            return errors.StoreUnavailable(
                f"no connection to the database: {said}{asked} What was committed is safe, and the "
                "next call tries again; MemOS.open starts a private server that ended"
            )
        case _:
            return errors.StoreError(f"the database failed, nothing was written: {said}")
