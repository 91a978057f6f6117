"""A real PostgreSQL for every test: one server a run, one database a test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from memos_core import MemOS, View
from memos_core.store.embedded import EmbeddedServer
from memos_core.store.migrate import migrate
from tests.support import WordEmbedder, url

TEMPLATE = "memos_template"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that may be filled at will; MEMOS_TEST_DATABASE names another."""
    if theirs := os.environ.get("MEMOS_TEST_DATABASE"):
        yield theirs
        return
    embedded = EmbeddedServer.acquire(_visible(tmp_path_factory) / "postgres")
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
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
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
def memos(database: str) -> Iterator[MemOS]:
    """An open, empty memory."""
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        yield memos


@pytest.fixture
def ann(memos: MemOS) -> View:
    """One user's memory in it."""
    return memos.at("acme", "ann")


def _visible(factory: pytest.TempPathFactory) -> Path:
    """A folder that the account PostgreSQL runs under may enter, also when we are root."""
    folder = factory.mktemp("server")
    if os.geteuid() == 0:
        for parent in (folder, *folder.parents[:2]):
            parent.chmod(0o755)
    return folder
