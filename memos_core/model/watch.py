"""Dropping the KV caches of what was forgotten or changed, as soon as it was."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import weakref

from memos_core.model.memory import Engine, Memory, News, tenant_of
from memos_core.model.residency import Residency

_log = logging.getLogger("memos_core")
_WAIT_SECONDS = 0.2  # between two looks at whether it was closed
_LOOK_SECONDS = 30.0  # for what was loaded while it ended, and heard of before it was there
_AGAIN_SECONDS = 5.0  # after the connection was lost
_CLOSE_SECONDS = 10.0  # a database that does not answer keeps nobody from closing


class Watch:
    """Hears of KV caches that ended, in a thread for each database, and drops them.

    Nothing rests on it being quick: whether a memory stands is asked at each use. It is for what
    must not stay where it could be read. The threads end with the residency, closed or not.
    """

    def __init__(self, residency: Residency) -> None:
        self._residency = weakref.ref(residency)
        self._ears: dict[Engine, _Ear] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def hear(self, view: Memory) -> None:
        """Hear of a tenant's caches from now on; not of a pipeline's, which ends by itself."""
        engine = view.engine
        if engine.in_pipeline:
            return
        with self._lock:
            if self._closed.is_set():
                return
            if engine not in self._ears:
                self._ears = {one: ear for one, ear in self._ears.items() if not one.closed}
                self._ears[engine] = _Ear(view, self._residency, self._closed)
            self._ears[engine].hear(view)

    def close(self) -> None:
        """Stop hearing."""
        with self._lock:
            self._closed.set()
            ears = list(self._ears.values())
        for ear in ears:
            ear.join()


class _Ear:
    """A thread that hears what one database tells, until that or the watch is closed."""

    def __init__(
        self, view: Memory, residency: weakref.ref[Residency], closed: threading.Event
    ) -> None:
        self._view = view
        self._residency = residency
        self._closed = closed
        self._views: dict[str, Memory] = {}  # of each tenant one, by the name that is told
        self._new: dict[str, Memory] = {}  # those that were not looked at since they are heard
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="memos-watch", daemon=True)
        self._thread.start()

    def hear(self, view: Memory) -> None:
        """Look at a tenant's caches at once, and whenever one ended."""
        name = hashlib.md5(view.namespace.tenant.encode(), usedforsecurity=False).hexdigest()
        with self._lock:
            if name not in self._views:
                self._views[name] = self._new[name] = view

    def join(self) -> None:
        """Wait until it has ended; it does so by itself."""
        if self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._ended():
            try:
                with self._view.cache_news() as news:
                    with self._lock:
                        self._new = dict(self._views)  # nobody listened before
                    self._listen(news)
            except Exception as error:  # noqa: BLE001 what ends would stay where this ended
                self._failed(error)
                self._closed.wait(0 if self._ended() else _AGAIN_SECONDS)

    def _listen(self, news: News) -> None:
        looked = time.monotonic()
        again: dict[str, Memory] = {}  # where it failed
        while not self._ended():
            told = news.told(_WAIT_SECONDS)
            with self._lock:
                due, self._new = self._new, {}
                due |= {name: self._views[name] for name in told if name in self._views}
                if time.monotonic() - looked > _LOOK_SECONDS:
                    due |= self._at_hand() | again
                    looked, again = time.monotonic(), {}
            for name, view in due.items():
                if not self._collected(view):
                    again[name] = view

    def _at_hand(self) -> dict[str, Memory]:
        """Return the tenants of whom there is something that may have ended."""
        if (residency := self._residency()) is None:
            return {}
        return {name: one for name, one in self._views.items() if residency.has_any(tenant_of(one))}

    def _collected(self, view: Memory) -> bool:
        """Drop what ended of a tenant; False where that failed."""
        try:
            if residency := self._residency():
                residency.collect(tenant_of(view), view.live_keys)
        except Exception as error:  # noqa: BLE001 the next tenant's must go all the same
            self._failed(error)
            return False
        return True

    def _failed(self, error: Exception) -> None:
        if not self._ended():
            _log.warning("KV caches that end are not heard of: %s", error)

    def _ended(self) -> bool:
        return self._closed.is_set() or self._residency() is None or self._view.engine.closed
