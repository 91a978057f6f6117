"""The schema: numbered files, applied once, forward only, by whoever comes first."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from importlib import resources
from typing import LiteralString, cast

import psycopg

from memos_core.errors import MigrationError, UnsupportedServer

OLDEST_POSTGRES = 150000  # as server_version_num: 15.0
OLDEST_VECTOR = (0, 8)  # the first with iterative scans
APP_ROLE = "memos_app"  # has no rights but to what is behind the wall
_LOCK_KEY = 0x6D656D6F73  # "memos"
_log = logging.getLogger("memos_core")
# Migrations change all rows, as their owner, who may be behind the wall.
_EVERY_TENANT: LiteralString = "SELECT set_config('memos.tenant', repeat('*', 1025), true)"
_ROLES: LiteralString = """
    SELECT
        own.rolsuper OR own.rolbypassrls,
        coalesce(pg_has_role(app.oid, 'MEMBER'), false),
        coalesce(has_table_privilege(app.oid, 'memos.cube', 'SELECT'), false)
    FROM pg_roles AS own LEFT JOIN pg_roles AS app ON app.rolname = %(app)s
    WHERE own.rolname = current_user
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Migration:
    """One numbered file of SQL."""

    number: int
    name: str
    sql: LiteralString


def migrations() -> list[Migration]:
    """Return the migrations that this version of the library brings, in order."""
    files = resources.files("memos_core.store").joinpath("migrations").iterdir()
    # The files are part of the program: literal text, only kept in files of their own.
    return [
        Migration(
            number=int(file.name.split("_")[0]),
            name=file.name,
            sql=cast("LiteralString", file.read_text("utf-8")),
        )
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".sql")
    ]


def migrate(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Bring the database to this library's schema; safe from any number of processes at once.

    Raises:
        UnsupportedServer: PostgreSQL or pgvector is too old, or pgvector is not there.
        MigrationError: a migration failed and was rolled back, or the schema is newer than this
            library.
    """
    _check_postgres(connection)
    known = migrations()
    if _applied(connection) == [migration.name for migration in known]:
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        connection.execute(_EVERY_TENANT)
        _prepare(connection)
        done = _applied(connection)
        _check_history(done, known)
        for migration in known[len(done) :]:
            _apply(connection, migration)


def role_behind_the_wall(connection: psycopg.Connection[tuple[object, ...]]) -> str | None:
    """Return the role to take on so that row-level security holds, None for the own one.

    A superuser and a role that bypasses it take on ``memos_app``, where there is such a role, which
    is let in here.
    """
    row = connection.execute(_ROLES, {"app": APP_ROLE}).fetchone()
    bypasses, available, let_in = row or (False, False, False)
    if not bypasses:
        return None
    if not available:
        _log.info(
            "no second wall between tenants: this role bypasses row-level security; use another, "
            "or make one for it to take on: CREATE ROLE %s NOLOGIN",
            APP_ROLE,
        )
        return None
    if not let_in:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
            connection.execute("SELECT memos.raise_wall()")
    return APP_ROLE


def make_event_partitions(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Make the audit log's partitions for this month and the next two, where they lack.

    Where others read the log for long, it is left to the next who opens: until then the default
    partition takes the events.
    """
    with contextlib.suppress(psycopg.errors.LockNotAvailable), connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', '2s', true)")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        connection.execute("SELECT memos.make_event_partitions(2)")


def _check_postgres(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    version = connection.info.server_version
    if version < OLDEST_POSTGRES:
        raise UnsupportedServer(
            f"PostgreSQL {version // 10000} is too old: MemOS needs 15 or later"
        )
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise UnsupportedServer(
            f"this database keeps texts as {encoding}: MemOS needs one made with ENCODING 'UTF8'"
        )


def _applied(connection: psycopg.Connection[tuple[object, ...]]) -> list[str]:
    there = connection.execute("SELECT to_regclass('memos.migration')").fetchone()
    if there is None or there[0] is None:
        return []
    rows = connection.execute("SELECT name FROM memos.migration ORDER BY number").fetchall()
    return [str(name) for (name,) in rows]


def _prepare(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    _check_vector(connection)
    connection.execute("CREATE SCHEMA IF NOT EXISTS memos")
    connection.execute(
        """
        CREATE TABLE IF NOT EXISTS memos.migration (
            number integer PRIMARY KEY,
            name text NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )


def _check_vector(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except (psycopg.errors.UndefinedFile, psycopg.errors.FeatureNotSupported) as error:
        raise UnsupportedServer(
            "this server has no pgvector: install it (github.com/pgvector/pgvector), 0.8 or later"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise UnsupportedServer(
            "this role may not create the extension pgvector: "
            'have a superuser run "CREATE EXTENSION vector" in this database'
        ) from error
    row = connection.execute(
        "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    version = str(row[0]) if row else "0"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VECTOR:
        raise UnsupportedServer(
            f"pgvector {version} is too old: MemOS needs 0.8 or later; after installing it, "
            'run "ALTER EXTENSION vector UPDATE"'
        )


def _check_history(done: list[str], known: list[Migration]) -> None:
    names = [migration.name for migration in known]
    if done != names[: len(done)]:
        strangers = ", ".join(name for name in done if name not in names) or ", ".join(done)
        raise MigrationError(
            f"this database's schema is newer than this library or not its own ({strangers}): "
            "upgrade the package"
        )


def _apply(connection: psycopg.Connection[tuple[object, ...]], migration: Migration) -> None:
    try:
        connection.execute(migration.sql)
        connection.execute(
            "INSERT INTO memos.migration (number, name) VALUES (%s, %s)",
            (migration.number, migration.name),
        )
    except psycopg.Error as error:
        raise MigrationError(
            f"migration {migration.name} failed, and the database is as it was: {error}"
        ) from error
