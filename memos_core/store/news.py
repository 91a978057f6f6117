"""What a database tells those who listen."""

from __future__ import annotations

import time
from collections.abc import Callable

from memos_core import errors
from memos_core.store.connections import Connection

_LISTEN_SECONDS = 0.5  # between two looks at whether the store was closed


class News:
    """What is told to a connection that listens."""

    def __init__(self, connection: Connection, check_open: Callable[[], None]) -> None:
        self._connection = connection
        self._check_open = check_open

    def wait(self, timeout: float | None) -> bool:
        """Wait for news; False where there was none in ``timeout`` seconds, or the store closed.

        What was told several times meanwhile is told once.
        """
        return bool(self.told(timeout))

    def told(self, timeout: float | None) -> frozenset[str]:
        """Wait as ``wait`` does; return all that was told, each once."""
        late = None if timeout is None else time.monotonic() + timeout
        while True:
            left = (
                _LISTEN_SECONDS if late is None else min(_LISTEN_SECONDS, late - time.monotonic())
            )
            try:
                self._check_open()
            except errors.Closed:
                return frozenset()
            told = self._connection.notifies(timeout=max(left, 0), stop_after=1)
            if said := frozenset(one.payload for one in told):
                return said
            if late is not None and time.monotonic() >= late:
                return frozenset()
