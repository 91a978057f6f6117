"""A thread that sweeps a store again and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from contextlib import suppress

from memos_core import Closed, InvalidInput, MemOSError

_log = logging.getLogger("memos_langchain")


class Sweeper:
    """Sweeps every so many seconds, until it is stopped or the memory is closed."""

    def __init__(self, sweep: Callable[[], object]) -> None:
        self._sweep = sweep
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._done: Future[None] | None = None

    def start(self, seconds: float) -> Future[None]:
        """Begin, unless it is at it; return a future that is done when it has stopped.

        Raises:
            InvalidInput: not more than 0 seconds.
        """
        if not seconds > 0:
            raise InvalidInput(f"a sweeper needs an interval of more than 0, not {seconds} s")
        with self._lock:
            if self._done is None or self._done.done():
                self._stop, self._done = threading.Event(), Future()
                threading.Thread(
                    target=self._run,
                    args=(seconds, self._stop, self._done),
                    name="memos-sweeper",
                    daemon=True,
                ).start()
            return self._done

    def stop(self, timeout: float | None) -> bool:
        """Stop; return whether it has within ``timeout`` seconds."""
        with self._lock:
            self._stop.set()
            done = self._done
        if done is None:
            return True
        with suppress(Late):
            done.result(timeout)
        return done.done()

    def _run(self, seconds: float, stop: threading.Event, done: Future[None]) -> None:
        while not stop.wait(seconds):
            try:
                self._sweep()
            except Closed:
                break
            except MemOSError as error:  # the next one may go better
                _log.warning("a sweep failed: %s", error)
        done.set_result(None)
