"""What the tests share: an embedder without weights, and addresses of databases."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import psycopg
from psycopg.conninfo import conninfo_to_dict

from memos_core import AsyncView
from memos_core.embedder import Vectors


class WordEmbedder:
    """Texts to bags of words hashed into ``width`` dimensions: alike texts, alike vectors."""

    def __init__(self, name: str = "words", width: int = 64) -> None:
        self.name = name
        self.width = width

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.width), np.float32)
        vectors[:, 0] = 0.1  # a text without words has a direction too
        for vector, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % self.width] += 1
        return vectors


class Awaited:
    """An async view whose verbs are awaited for the caller, so that one suite runs both faces."""

    def __init__(self, view: AsyncView, runner: asyncio.Runner) -> None:
        self._view = view
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._view, name)
        return lambda *args, **options: self._runner.run(verb(*args, **options))


def url(dsn: str, database: str) -> str:
    """Return the URL of another database on the server of ``dsn``."""
    parameters = {**conninfo_to_dict(dsn), "dbname": database}
    return f"postgresql:///?{urlencode(parameters)}"


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something to become true."""
    late = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < late, "waited too long"
        time.sleep(0.01)


def is_blocked(dsn: str) -> bool:
    """Tell whether a session of this database waits for a lock."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchone()
        return row is not None and row[0] > 0


def let_others_enter(folder: Path) -> None:
    """Open a test's folder to the account that PostgreSQL runs under where we are root."""
    if os.geteuid() == 0:
        folder.chmod(0o755)
        for parent in takewhile(lambda one: not one.stat().st_mode & stat.S_IXOTH, folder.parents):
            parent.chmod(0o755)


def everything_in(dsn: str) -> str:
    """Return every row of every table of ours, as text."""
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "SELECT oid::regclass::text FROM pg_class "
            "WHERE relnamespace = 'memos'::regnamespace AND relkind = 'r'"
        ).fetchall()
        rows = [
            connection.execute(f"SELECT coalesce(string_agg(t::text, ' '), '') FROM {name} t")
            for (name,) in tables
        ]
        return " ".join(row[0] for rows_of in rows if (row := rows_of.fetchone()))
