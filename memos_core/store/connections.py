"""How we connect, and what a connection is set to."""

from __future__ import annotations

import json
import select
from typing import Any, LiteralString

import psycopg
from pgvector.psycopg import register_vector
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.json import set_json_loads

from memos_core import errors
from memos_core.settings import Settings
from memos_core.store import binary
from memos_core.store.statements.candidates import DEPTH

Connection = psycopg.Connection[dict[str, Any]]

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
# Statements that read whole tables are planned for what they are about to read.
_MAINTENANCE: LiteralString = """
    SELECT
        set_config('statement_timeout', %(timeout)s, %(local)s),
        set_config('idle_in_transaction_session_timeout', %(timeout)s, %(local)s),
        set_config('plan_cache_mode', 'force_custom_plan', %(local)s),
        set_config('enable_seqscan', 'on', %(local)s)
    """


def patient(dsn: str, settings: Settings) -> str:
    """Return ``dsn`` with a limit to how long a host may take to answer, if it has none."""
    try:
        known = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise errors.InvalidInput(f"this is no address of a database: {error}") from error
    if "connect_timeout" in known:
        return dsn
    return make_conninfo(dsn, connect_timeout=max(2, round(settings.pool_timeout)))


def configure(connection: psycopg.Connection[Any], settings: Settings, role: str | None) -> None:
    """Set what statements rely on; ``role`` is one to take on, None for the own one."""
    register_vector(connection)
    binary.register(connection)
    binary.register_wall(connection, walled=settings.row_security)
    set_json_loads(_json_loads, connection)
    milliseconds = str(int(settings.statement_timeout * 1000))
    connection.execute(
        _SESSION, {"statement_timeout": milliseconds, "depth": str(DEPTH), "role": role}
    )


def allow_time(connection: Connection, seconds: float, *, local: bool) -> None:
    """Let statements take so long, 0 for ever: until the transaction ends, or for good."""
    milliseconds = str(int(seconds * 1000))
    connection.execute(_MAINTENANCE, {"timeout": milliseconds, "local": local})


def check_alive(connection: Connection) -> None:
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


def _json_loads(data: str | bytes) -> Any:
    """Read JSON that is UTF-8 for sure: to find out would take as long as to read it."""
    return _DECODER.decode(data if isinstance(data, str) else data.decode())


_DECODER = json.JSONDecoder()
