"""A server of a benchmark's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

from memos_core.store.embedded import EmbeddedServer


@contextmanager
def own_server() -> Iterator[tuple[str, Path]]:
    """Give the address of a server that is made for it, and a folder; both go away."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user enters it
        server = EmbeddedServer.acquire(folder / "postgres")
        try:
            yield server.dsn, folder
        finally:
            server.release()


def new_database(dsn: str, name: str) -> str:
    """Make a database on a server, and return its address."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    return address(dsn, name)


def address(dsn: str, name: str) -> str:
    """Return the address of another database on a server."""
    return "postgresql:///?" + urlencode({**conninfo_to_dict(dsn), "dbname": name})
