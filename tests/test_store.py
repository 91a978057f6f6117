"""What goes wrong between us and the server, and what the caller is told."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from memos_core import (
    AsyncMemOS,
    Closed,
    InvalidInput,
    MemOS,
    MemOSError,
    PoolExhausted,
    Settings,
    StatementTimeout,
    StoreError,
    StoreUnavailable,
    UnsupportedServer,
    View,
    errors,
)
from memos_core.store.statement import Statement
from tests.support import WordEmbedder, is_blocked, until, url


def opened(dsn: str, **settings: Any) -> MemOS:
    return MemOS.open(dsn, embedder=WordEmbedder(), settings=Settings(**settings))


# --- addresses ------------------------------------------------------------------------------------


def test_opens_every_spelling_of_an_address(database: str) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(database)
    keywords = psycopg.conninfo.make_conninfo("", **parts)
    for where in (
        database,
        database.replace("postgresql://", "postgres://", 1),
        database.replace("postgresql://", "postgresql+psycopg://", 1),
        keywords,
        f"sslmode=disable {keywords}",
        database.replace("postgresql://", "POSTGRESQL://", 1),
    ):
        with opened(where) as memos:
            memos.add("one")
    with opened(database) as memos:
        assert memos.stats().cubes == 6


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("mysql://host/db", "postgresql:// URL or a folder"),
        ("SQLITE:///file.db", "postgresql:// URL or a folder"),
        ("pasword=x host=y", "no address of a database"),
        (5, "not int"),
    ],
)
def test_refuses_what_is_no_address(where: Any, error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        MemOS.open(where)


def test_the_environment_names_the_default(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOS_DATABASE", database)
    with MemOS.open(embedder=WordEmbedder()) as memos:
        memos.add("one")
    with opened(database) as memos:
        assert memos.stats().cubes == 1


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"(?i)is the server running") as raised:
        MemOS.open(f"postgresql:///memos?host={tmp_path}", embedder=WordEmbedder())
    assert str(raised.value).lower().count("is the server running") == 1


def test_no_password_in_an_error(database: str) -> None:
    password = psycopg.conninfo.conninfo_to_dict(database)["password"]
    assert password
    with pytest.raises(StoreUnavailable) as raised:
        opened(database.replace(str(password), "hunter2").replace("test_", "nowhere_"))
    assert "hunter2" not in str(raised.value)
    with opened(database) as memos:
        assert str(password) not in repr(memos)


# --- limits ---------------------------------------------------------------------------------------


def test_a_pool_that_stays_full(database: str) -> None:
    memos = opened(database, pool_size=1, pool_timeout=0.2)
    with memos, psycopg.connect(database) as blocker, ThreadPoolExecutor() as pool:
        cube = memos.add("one")
        blocker.execute("SELECT FROM memos.cube FOR UPDATE")
        waiting = pool.submit(memos.forget, cube.id)
        until(lambda: is_blocked(database))
        with pytest.raises(PoolExhausted, match=r"all 1 connections.*pool_size"):
            memos.get(cube.id)
        blocker.rollback()
        assert waiting.result().cubes == (cube.id,)


def test_a_statement_past_its_timeout(database: str) -> None:
    with opened(database, statement_timeout=0.2) as memos, psycopg.connect(database) as blocker:
        cube = memos.add("one")
        blocker.execute("SELECT FROM memos.cube FOR UPDATE")
        for verb in (lambda: memos.forget(cube.id), lambda: memos.update(cube.id, "two")):
            with pytest.raises(StatementTimeout, match=r"ran past 0\.2 s"):
                verb()
        blocker.rollback()
        assert [version.text for version in memos.history(cube.id)] == ["one"]


# --- a server that goes and comes back ------------------------------------------------------------


def test_connections_that_were_cut_are_replaced(database: str, ann: View) -> None:
    ann.add("one")
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert ann.stats().cubes == 1


def test_a_connection_cut_under_a_verb(database: str, ann: View) -> None:
    cube = ann.add("one")
    with psycopg.connect(database) as blocker, ThreadPoolExecutor() as pool:
        blocker.execute("SELECT FROM memos.cube FOR UPDATE")
        waiting = pool.submit(ann.forget, cube.id)
        until(lambda: is_blocked(database))
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
        with pytest.raises(StoreUnavailable):
            waiting.result()
    assert ann.get(cube.id).text == "one"


# --- closing --------------------------------------------------------------------------------------


def test_closing_waits_for_verbs_at_work(database: str) -> None:
    memos = opened(database)
    cube = memos.add("one")
    with psycopg.connect(database) as blocker, ThreadPoolExecutor() as pool:
        blocker.execute("SELECT FROM memos.cube FOR UPDATE")
        forgetting = pool.submit(memos.forget, cube.id)
        until(lambda: is_blocked(database))
        closing = pool.submit(memos.close)
        with pytest.raises(TimeoutError):
            closing.result(timeout=0.2)
        blocker.rollback()
        closing.result()
        assert forgetting.result().cubes == (cube.id,)


@pytest.mark.parametrize("kind", ["session", "snapshot"])
def test_closing_ends_what_would_take_long(database: str, kind: str) -> None:
    memos = opened(database)
    store: Any = memos.engine._store  # noqa: SLF001
    asleep = Statement(sql="SELECT pg_sleep(600)", parameters={}, read=bool)

    def sleep() -> None:
        with getattr(store, kind)() as session:
            session.run(asleep)

    with ThreadPoolExecutor(1) as pool:
        sleeping = pool.submit(sleep)
        until(lambda: sleepers(database) == 1)
        memos.close()
        with pytest.raises(Closed):
            sleeping.result()
    with pytest.raises(Closed):
        sleep()
    assert sleepers(database) == 0


def sleepers(dsn: str) -> int:
    """Count the sessions of this database that sleep."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep' "
            "AND state = 'active' AND datname = current_database()"
        ).fetchone()
        return row[0] if row else 0


async def test_an_opening_that_nobody_waits_for_is_closed(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = threading.Event()
    monkeypatch.setattr(MemOS, "close", lambda _memos: closed.set())
    opening = asyncio.create_task(AsyncMemOS.open(database, embedder=WordEmbedder()))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert await asyncio.to_thread(closed.wait, 10)


def test_a_closed_memory_says_so(database: str) -> None:
    memos = opened(database)
    view = memos.at("acme")
    view.add("one")
    memos.close()
    memos.close()
    with pytest.raises(Closed, match="open it again"):
        view.search("one")


async def test_closing_lets_verbs_at_work_finish(database: str) -> None:
    memos = await AsyncMemOS.open(database, embedder=WordEmbedder())
    adding = [asyncio.create_task(memos.add(str(number))) for number in range(20)]
    await asyncio.sleep(0)
    await memos.close()
    assert len(await asyncio.gather(*adding)) == 20
    with pytest.raises(Closed):
        await memos.search("one")


def test_a_settings_value_that_makes_no_sense() -> None:
    with pytest.raises(InvalidInput, match="pool_size"):
        Settings(pool_size=0)
    for value in (-1, 0, 1e9, float("inf"), float("nan")):
        with pytest.raises(InvalidInput, match="statement_timeout must be from"):
            Settings(statement_timeout=value)
    with pytest.raises(InvalidInput, match="max_text"):
        Settings(max_text=100_000)


# --- errors ---------------------------------------------------------------------------------------


def test_the_error_tree_is_the_one_drawn_in_its_docstring() -> None:
    drawn = set((errors.__doc__ or "").split())
    tree = [error for error in vars(errors).values() if isinstance(error, type)]
    assert all(issubclass(error, MemOSError) for error in tree)
    assert all(error.__name__ in drawn for error in tree)


def test_an_error_of_the_database_is_ours(database: str, ann: View) -> None:
    ann.add("one")
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("ALTER TABLE memos.cube RENAME TO elsewhere")
    with pytest.raises(StoreError, match=r"nothing was written.*memos\.cube") as raised:
        ann.add("two")
    assert isinstance(raised.value.__cause__, psycopg.Error)


def test_a_collision_is_tried_again(database: str, ann: View) -> None:
    """Two sessions wait for each other: PostgreSQL ends one, and it must be no verb of ours."""
    first, last = sorted(cube.id for cube in ann.add(["one", "two"]))
    lock = "SELECT FROM memos.cube WHERE id = %s FOR UPDATE"
    with psycopg.connect(database) as other, ThreadPoolExecutor() as pool:
        other.execute("SET deadlock_timeout = '1h'")  # so that it is ours that is ended
        other.execute(lock, (last,))
        forgetting = pool.submit(ann.forget, [first, last])
        until(lambda: is_blocked(database))
        other.execute(lock, (first,))
        other.rollback()
        assert len(forgetting.result().cubes) == 2


def test_a_database_of_another_encoding_is_refused(server: str) -> None:
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(
            "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' "
            "LOCALE_PROVIDER libc TEMPLATE template0"
        )
        try:
            with pytest.raises(UnsupportedServer, match="ENCODING 'UTF8'"):
                opened(url(server, "ascii"))
        finally:
            admin.execute("DROP DATABASE ascii WITH (FORCE)")


def test_threads_share_one_memory(ann: View) -> None:
    barrier = threading.Barrier(16)

    def work(number: int) -> str:
        barrier.wait()
        cube = ann.add(f"thing {number}")
        return ann.search(f"thing {number}", k=1)[0].text if ann.get(cube.id) else ""

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [f"thing {number}" for number in range(16)]
    assert ann.stats().cubes == 16


def test_texts_survive_an_address_with_another_encoding(database: str) -> None:
    with MemOS.open(f"{database}&client_encoding=latin1", embedder=WordEmbedder()) as memos:
        cubes = memos.at("acme").add(["Größe 東京 🦜", "tea"])
        assert memos.at("acme").get(cubes[0].id).text == "Größe 東京 🦜"


def test_a_process_with_very_many_files_open_is_served(database: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("this machine allows fewer files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        settings = Settings(pool_timeout=5)
        with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
            memos.at("acme").add("tea")
            assert memos.at("acme").search("tea")
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
