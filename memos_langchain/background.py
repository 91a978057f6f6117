"""Work behind a run: in order for each memory, on the memory's own threads."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from memos_core import Namespace, View

_log = logging.getLogger("memos_langchain")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What is to be done with some messages, known by their keys."""

    keys: frozenset[object]
    work: Callable[[], object]
    done: Future[None] = field(default_factory=Future[None])


class Background:
    """Jobs that wait or run; those of one namespace run one after the other.

    They begin with ``begin``, or once somebody waits for them, so that a run's own work comes
    first. Closing the MemOS waits for those that began, and so does the end of the process.
    """

    def __init__(self) -> None:
        self._jobs: OrderedDict[Namespace, deque[_Job]] = OrderedDict()
        self._waiting: list[View] = []  # of the jobs that no worker was asked for
        self._busy: set[Namespace] = set()
        self._workers = 0
        self._failed: Exception | None = None
        self._lock = threading.Lock()

    def submit(self, view: View, keys: Collection[object], work: Callable[[], object]) -> None:
        """Have some messages of a memory worked on, after those before them."""
        job = _Job(keys=frozenset(keys), work=work)
        job.done.set_running_or_notify_cancel()  # so that nobody who waits can cancel it
        with self._lock:
            self._jobs.setdefault(view.namespace, deque()).append(job)
            self._waiting.append(view)

    def begin(self) -> None:
        """Begin with what was submitted.

        Raises:
            Closed: the MemOS is.
        """
        with self._lock:
            while self._waiting:
                view = self._waiting[-1]
                # A language model may take its time: half of the threads are left to verbs.
                if self._workers < max(1, view.engine.settings.pool_size // 2):
                    view.threads.submit(self._work)
                    self._workers += 1
                self._waiting.pop()

    def pending(
        self, namespace: Namespace | None = None, *, but: Collection[object] = ()
    ) -> list[Future[None]]:
        """Return what waits or runs, of a memory; but not for messages among ``but``."""
        with self._lock:
            every = self._jobs.values() if namespace is None else [self._jobs.get(namespace, ())]
            found = [job.done for jobs in every for job in jobs if job.keys.isdisjoint(but)]
        if found:
            self.begin()
        return found

    def raise_failure(self) -> None:
        """Raise what a job failed with first since the last call."""
        with self._lock:
            failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def _work(self) -> None:
        while (namespace := self._next()) is not None:
            job = self._jobs[namespace][0]
            try:
                job.work()
            except Exception as error:  # noqa: BLE001 they are stored, and due to be read again
                _log.exception("what was said in %s is not yet read", "/".join(namespace))
                with self._lock:
                    self._failed = self._failed or error
            self._end(namespace)
            job.done.set_result(None)

    def _next(self) -> Namespace | None:
        with self._lock:
            ready = next((one for one in self._jobs if one not in self._busy), None)
            if ready is None:
                self._workers -= 1
            else:
                self._busy.add(ready)
                self._jobs.move_to_end(ready)
            return ready

    def _end(self, namespace: Namespace) -> None:
        with self._lock:
            self._busy.remove(namespace)
            self._jobs[namespace].popleft()
            if not self._jobs[namespace]:
                del self._jobs[namespace]


def wait_for(pending: Sequence[Future[None]], timeout: float | None = None) -> None:
    """Wait for jobs.

    Raises:
        TimeoutError: they are not done in so many seconds.
    """
    if wait(pending, timeout).not_done:
        raise TimeoutError(f"not everything was read within {timeout} seconds")


async def await_for(
    pending: Sequence[Future[None]],
    timeout: float | None = None,  # noqa: ASYNC109 as the blocking twin
) -> None:
    """Wait for jobs, and let others run; to cancel it cancels no job."""
    if not pending:
        return
    _, late = await asyncio.wait([asyncio.wrap_future(one) for one in pending], timeout=timeout)
    if late:
        raise TimeoutError(f"not everything was read within {timeout} seconds")
