"""Dropping the KV caches of what was forgotten or changed, as soon as it was."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

from memos_core.errors import Closed, MemOSError
from memos_core.model.memory import Memory
from memos_core.model.residency import Residency

_log = logging.getLogger("memos_core")
_WAIT_SECONDS = 0.2  # between two looks at whether it was closed
_LOOK_SECONDS = 30.0  # for what was loaded while it ended, and heard of before it was there
_AGAIN_SECONDS = 5.0  # after the connection was lost


class Watch:
    """Hears of KV caches that ended, in a thread, and drops them here and on disk.

    Nothing rests on it being quick: whether a memory stands is asked at each use. It is for what
    must not stay where it could be read.
    """

    def __init__(self, residency: Residency) -> None:
        self._residency = residency
        self._views: dict[str, Memory] = {}  # of each tenant one
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def hear(self, view: Memory) -> None:
        """Hear of a tenant's caches from now on."""
        with self._lock:
            if view.namespace.tenant in self._views:
                return
            self._views[view.namespace.tenant] = view
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(view,), daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop hearing."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, view: Memory) -> None:
        while not self._closed.is_set():
            try:
                with view.cache_news() as news:
                    looked = -_LOOK_SECONDS  # nobody listened before
                    while not self._closed.is_set():
                        if news.wait(_WAIT_SECONDS) or time.monotonic() - looked > _LOOK_SECONDS:
                            self._collect()
                            looked = time.monotonic()
            except Closed:
                return
            except MemOSError as error:
                _log.warning("KV caches that end are not heard of: %s", error)
                self._closed.wait(_AGAIN_SECONDS)

    def _collect(self) -> None:
        with self._lock:
            views = list(self._views.items())
        for tenant, view in views:
            with suppress(Closed):
                self._residency.collect(tenant, view.live_keys())
