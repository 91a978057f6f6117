"""The schema: many openers at once, half-written and foreign migrations, servers too old."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from memos_core import MemOS, MigrationError, UnsupportedServer
from memos_core.store import migrate as migrating
from memos_core.store.migrate import Migration, migrate, migrations
from tests.support import WordEmbedder

OPEN = """
import sys
from memos_core import MemOS
from tests.support import WordEmbedder
with MemOS.open(sys.argv[1], embedder=WordEmbedder()) as memos:
    memos.at("acme", sys.argv[2]).add("here I am")
"""


@pytest.fixture
def empty(new_database: Callable[[], str]) -> str:
    """The URL of a database that nobody has migrated."""
    return new_database()


def applied(dsn: str) -> list[tuple[int, str]]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT number, name FROM memos.migration ORDER BY number")
        return rows.fetchall()


def test_eight_processes_open_an_empty_database_at_once(empty: str) -> None:
    root = Path(__file__).parent.parent
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, empty, str(number)],
            cwd=root,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    said = [opener.communicate(timeout=120)[1] for opener in openers]
    assert [opener.returncode for opener in openers] == [0] * 8, "\n".join(said)
    assert applied(empty) == [(one.number, one.name) for one in migrations()]
    with MemOS.open(empty, embedder=WordEmbedder()) as memos:
        assert memos.at("acme").stats().cubes == 8


def test_opening_again_changes_nothing(empty: str) -> None:
    for _ in range(2):
        MemOS.open(empty, embedder=WordEmbedder()).close()
        assert applied(empty) == [(one.number, one.name) for one in migrations()]


def test_numbers_follow_each_other() -> None:
    assert [one.number for one in migrations()] == list(range(1, len(migrations()) + 1))


def test_a_migration_that_fails_leaves_nothing(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Migration(
        number=2, name="0002_broken.sql", sql="CREATE TABLE memos.half (); SELECT 1/0"
    )
    monkeypatch.setattr(migrating, "migrations", lambda: [*migrations(), broken])
    with pytest.raises(MigrationError, match=r"0002_broken\.sql failed.*as it was.*division"):
        MemOS.open(empty, embedder=WordEmbedder())
    with psycopg.connect(empty) as connection:
        row = connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'memos'")
        assert row.fetchone() == (0,), "not even the schema"
    monkeypatch.undo()
    MemOS.open(empty, embedder=WordEmbedder()).close()


def test_a_migrator_that_is_killed_leaves_nothing(empty: str) -> None:
    victim = psycopg.connect(empty, autocommit=True)
    victim.execute("BEGIN")
    migrate(victim)  # the transaction is still open when its connection is cut
    with psycopg.connect(empty, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", (victim.info.backend_pid,))
    victim.close()
    MemOS.open(empty, embedder=WordEmbedder()).close()
    assert len(applied(empty)) == len(migrations())


def test_a_newer_schema_is_refused(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO memos.migration VALUES (9999, '9999_future.sql')")
    with pytest.raises(MigrationError, match=r"newer than this library.*9999_future\.sql.*upgrade"):
        MemOS.open(database, embedder=WordEmbedder())


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        ({"OLDEST_POSTGRES": 999999}, "too old: MemOS needs 15 or later"),
        ({"OLDEST_VECTOR": (99, 0)}, "ALTER EXTENSION vector UPDATE"),
    ],
)
def test_a_server_too_old_is_refused(
    empty: str, found: dict[str, Any], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in found.items():
        monkeypatch.setattr(migrating, name, value)
    with pytest.raises(UnsupportedServer, match=advice):
        MemOS.open(empty, embedder=WordEmbedder())


def test_a_role_that_may_not_create_the_extension_is_told_who_can(empty: str) -> None:
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS memos_guest")
        connection.execute("CREATE ROLE memos_guest")
        connection.execute("SET ROLE memos_guest")
        with pytest.raises(UnsupportedServer, match="superuser run"):
            migrate(connection)
        connection.execute("RESET ROLE")
        connection.execute("DROP ROLE memos_guest")


def test_the_log_stays_open_after_its_partitions_ran_out(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits "
            "WHERE inhparent = 'memos.event'::regclass"
        ).fetchall()
        months = [name for (name,) in rows if not name.endswith("rest")]
        assert len(months) == 3, "this month and the next two"
        for name in months:
            connection.execute(f"DROP TABLE {name}")
        with MemOS.open(database, embedder=WordEmbedder()) as memos:
            memos.add("one")
        connection.execute("SELECT memos.make_event_partitions(0)")
        count = connection.execute("SELECT count(*) FROM memos.event").fetchone()
        assert count == (1,)


OLD_ROWS = """
    INSERT INTO memos.message
        (tenant, namespace, id, session, role, content, metadata, extra, recorded_at)
    VALUES
        ('acme', '{acme}', 'm1', 'monday', 'user', 'Where is she?', '{}', '{}', now()),
        ('acme', '{acme}', 'm2', 'monday', 'user', 'In Oslo, Oslo!', '{}', '{}', now());
    INSERT INTO memos.cube VALUES
        ('acme', '00000000-0000-0000-0000-000000000001', '{acme}', 'plaintext', 'generated', 1,
         'Where is she?', 'turn', '{}', '{}', '{"session": "monday"}', '{m1}', NULL, 0, '{}',
         NULL, NULL, now(), now(), NULL, 0, '{}', '[1,0]'),
        ('acme', '00000000-0000-0000-0000-000000000002', '{acme}', 'plaintext', 'generated', 1,
         'In Oslo, Oslo!', 'turn', '{}', '{}', '{"session": "monday"}', '{m2}', NULL, 0, '{}',
         NULL, NULL, now(), now(), NULL, 2, '{"oslo": 2}', '[1,0]');
"""


def test_memories_of_the_first_schema_are_found_by_their_words(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *later = migrations()
    with psycopg.connect(empty, autocommit=True) as connection:
        monkeypatch.setattr(migrating, "migrations", lambda: [first])
        migrate(connection)
        connection.execute(OLD_ROWS)
        monkeypatch.setattr(migrating, "migrations", lambda: [first, *later])
    with MemOS.open(empty, embedder=WordEmbedder()) as memos:
        (answer, question) = memos.at("acme").search("Oslo", mode="lexical")
        memos.at("acme", "new").ingest(["Where is she?", "In Oslo, Oslo!"], session="monday")
        (same, _) = memos.at("acme", "new").search("Oslo", mode="lexical")
    assert answer.text == same.text == "In Oslo, Oslo!"
    assert answer.reasons == pytest.approx(same.reasons), "the old words are hashed as new ones are"
    assert set(question.reasons) == {"lexical_context"}
