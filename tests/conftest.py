"""A real PostgreSQL for every test: one server a run, one database a test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import cast
from uuid import uuid4

import psycopg
import pytest

from memos_core import AsyncView, MemOS, View
from memos_core.store.embedded import EmbeddedServer
from memos_core.store.migrate import migrate
from tests.support import Awaited, WordEmbedder, let_others_enter, url

TEMPLATE = f"memos_template_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"


@pytest.fixture(scope="session", autouse=True)
def event_loop_of_main_thread() -> Iterator[None]:
    """Keep LlamaIndex's blocking calls from making a loop that nobody closes."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads of torch cost more than they bring where tensors are small."""
    import torch  # noqa: PLC0415 few tests need it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that may be filled at will; MEMOS_TEST_DATABASE names another."""
    if theirs := os.environ.get("MEMOS_TEST_DATABASE"):
        yield theirs
        return
    folder = tmp_path_factory.mktemp("server")
    let_others_enter(folder)
    embedded = EmbeddedServer.acquire(folder / "postgres")
    with psycopg.connect(embedded.dsn, autocommit=True) as admin:
        # What survives a crash is tested on servers of its own (test_embedded).
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            admin.execute(f"ALTER SYSTEM SET {setting} = off")
        admin.execute("SELECT pg_reload_conf()")
    yield embedded.dsn
    embedded.release()


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """The name of a migrated, empty database to copy."""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {TEMPLATE}")
        admin.execute(f"CREATE DATABASE {TEMPLATE}")
    with psycopg.connect(url(server, TEMPLATE), autocommit=True) as connection:
        migrate(connection)
        connection.execute("SELECT memos.make_event_partitions(2)")
    return TEMPLATE


@pytest.fixture
def new_database(server: str) -> Iterator[Callable[[str], str]]:
    """Makes databases that live for one test: a function from a template to a URL."""
    made: list[str] = []

    def make(template: str = "template1") -> str:
        name = f"test_{uuid4().hex}"
        with psycopg.connect(server, autocommit=True) as admin:
            # The strategy for a server that need not survive a crash: four times as fast.
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        made.append(name)
        return url(server, name)

    yield make
    with psycopg.connect(server, autocommit=True) as admin:
        for name in made:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(new_database: Callable[[str], str], template: str) -> str:
    """The URL of a migrated, empty database of this test's own."""
    return new_database(template)


@pytest.fixture
def age() -> Callable[[str], None]:
    """Makes messages that wait to be read look an hour old."""

    def make_older(dsn: str) -> None:
        with psycopg.connect(dsn) as connection:
            connection.execute("UPDATE memos.message SET due_at = due_at - interval '1 hour'")

    return make_older


@pytest.fixture
def memos(database: str) -> Iterator[MemOS]:
    """An open, empty memory."""
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        yield memos


@pytest.fixture
def ann(memos: MemOS) -> View:
    """One user's memory in it."""
    return memos.at("acme", "ann")


@pytest.fixture(params=["blocking", "awaited"])
def view(request: pytest.FixtureRequest, ann: View) -> Iterator[View]:
    """One user's memory through either face."""
    if request.param == "blocking":
        yield ann
    else:
        with asyncio.Runner() as runner:
            yield cast("View", Awaited(AsyncView(ann), runner))
