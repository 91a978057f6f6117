"""Statements on a connection of their own, for as long as they take."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator
from typing import TypeVar

import psycopg

from memos_core.settings import Settings
from memos_core.store.connections import Connection
from memos_core.store.driver_errors import COLLISION, translated
from memos_core.store.statement import Statement
from memos_core.store.transaction import Transaction

T = TypeVar("T")

_RETRIES = 10  # of a transaction that collided with another: it was rolled back, nothing is lost
_PAUSE_SECONDS = 0.005  # at most before the first retry, and more before each other


class Apart:
    """A connection of its own; ``check_open`` refuses what comes after the store was closed.

    The store cancels what is at work there when it closes.
    """

    def __init__(self, connection: Connection, check_open: Callable[[], None]) -> None:
        self._connection = connection
        self._check_open = check_open

    def cancel(self) -> None:
        """Cancel the statement at work, from another thread."""
        with contextlib.suppress(psycopg.Error):
            self._connection.cancel_safe()

    @contextlib.contextmanager
    def _until_closed(self) -> Generator[None]:
        self._check_open()
        try:
            yield
        except psycopg.errors.QueryCanceled:
            self._check_open()
            raise


class Session(Apart):
    """Statements that are transactions by themselves."""

    def __init__(
        self, connection: Connection, check_open: Callable[[], None], settings: Settings
    ) -> None:
        super().__init__(connection, check_open)
        self._settings = settings

    def run(self, statement: Statement[T], /) -> T:
        """Run a statement and return its answer.

        Raises:
            Closed: the store was closed before it ended, and nothing was written.
            As ``Store.run``.
        """

        def attempt() -> T:
            with self._until_closed():
                return Transaction(self._connection).run(statement)

        with translated(self._settings):
            return retried(attempt)


def retried(attempt: Callable[[], T]) -> T:
    """Make an attempt at a transaction, and others where it collided with another one.

    The pauses between them keep two from colliding again and again.
    """
    for tries in range(_RETRIES):
        with contextlib.suppress(*COLLISION):
            return attempt()
        time.sleep(random.uniform(0, _PAUSE_SECONDS * (tries + 1)))  # noqa: S311 it hides nothing
    return attempt()
