"""Work behind an answer: in order for each memory, on the memory's own threads."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from memos_core.engine import Engine
from memos_core.namespace import Namespace
from memos_core.view import View

_log = logging.getLogger("memos_core")
# A prompt is made right after its question is stored, and an answer given right after it is.
SOON = 0.05  # seconds after which reading begins that should not compete with that
PATIENCE = 2.0  # seconds that a prompt waits, at most, for what was said before
_FAILURES = 1_000  # namespaces whose failures are kept for those who ask; all are logged


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What is to be done with some messages, known by their keys."""

    keys: frozenset[object]
    work: Callable[[], object]
    slow: bool
    done: Future[None] = field(default_factory=Future[None])


class Background:
    """Jobs that wait or run; those of one namespace run one after the other.

    They begin with ``begin``, or once somebody waits for them, so that an answer's own work comes
    first. Closing the MemOS waits for those that began, and so does the end of the process.
    """

    def __init__(self) -> None:
        self._jobs: OrderedDict[Namespace, deque[_Job]] = OrderedDict()
        self._waiting: list[View] = []  # of the jobs that no worker was asked for
        self._busy: set[Namespace] = set()
        self._workers = self._slow = 0  # and how many of them do what a language model does
        self._most = 1
        self._from = 0.0  # when the workers begin, by time.monotonic()
        self._failed: dict[Namespace, Exception] = {}
        self._lock = threading.Lock()
        self._begun = threading.Condition(self._lock)

    def submit(
        self,
        view: View,
        keys: Collection[object],
        work: Callable[[], object],
        *,
        slow: bool = False,
    ) -> None:
        """Have some messages of a memory worked on, after those before them.

        What a language model does is ``slow``.
        """
        job = _Job(keys=frozenset(keys), work=work, slow=slow)
        job.done.set_running_or_notify_cancel()  # so that nobody who waits can cancel it
        with self._lock:
            self._jobs.setdefault(view.namespace, deque()).append(job)
            self._waiting.append(view)

    def begin(self, *, soon: bool = False) -> None:
        """Begin with what was submitted: now, or ``soon``, unless told again before.

        Raises:
            Closed: the MemOS is.
        """
        with self._lock:
            if not soon:
                self._from = 0.0
                self._begun.notify_all()
            elif not self._workers:  # those at work go on
                self._from = time.monotonic() + SOON
            while self._waiting:
                view = self._waiting[-1]
                # A language model may take its time: half of the threads are left to verbs.
                self._most = max(1, view.engine.settings.pool_size // 2)
                if self._workers < self._most:
                    view.threads.submit(self._work)
                    self._workers += 1
                self._waiting.pop()

    def pending(
        self,
        namespace: Namespace | None = None,
        *,
        but: Collection[object] = (),
        slow: bool = True,
    ) -> list[Future[None]]:
        """Return what waits or runs, of a memory and all inside it.

        It leaves out what is only for messages among ``but``, and without ``slow`` all that is or
        waits for something slow.
        """
        besides, within = frozenset(but), namespace or ()
        with self._lock:
            found = [
                job.done
                for where, jobs in self._jobs.items()
                if where[: len(within)] == within
                for job in itertools.takewhile(lambda job: slow or not job.slow, jobs)
                if not job.keys <= besides
            ]
        if found:
            self.begin()
        return found

    def raise_failure(self, namespace: Namespace | None = None) -> None:
        """Raise what a job, of a memory, failed with first since the last call."""
        with self._lock:
            one = next(iter(self._failed), None) if namespace is None else namespace
            failed = self._failed.pop(one, None) if one is not None else None
            if namespace is None:
                self._failed.clear()
        if failed is not None:
            raise failed

    def _work(self) -> None:
        with self._begun:
            while (left := self._from - time.monotonic()) > 0:
                self._begun.wait(left)
        while (namespace := self._next()) is not None:
            job = self._jobs[namespace][0]
            try:
                job.work()
            except BaseException as error:  # noqa: BLE001 they are stored, and due to be read again
                _log.exception("what was said in %s is not yet read", "/".join(namespace))
                # Who waits would take a language model's cancellation or exit for his own.
                told = error if isinstance(error, Exception) else RuntimeError(repr(error))
                self._fail(namespace, told)
            self._end(namespace)
            job.done.set_result(None)

    def _next(self) -> Namespace | None:
        with self._lock:
            # And where there are several workers, one is left to what takes no time.
            slow_too = self._slow < max(1, self._most - 1)
            ready = next(
                (
                    one
                    for one, jobs in self._jobs.items()
                    if one not in self._busy and (slow_too or not jobs[0].slow)
                ),
                None,
            )
            if ready is None:
                self._workers -= 1
            else:
                self._busy.add(ready)
                self._slow += self._jobs[ready][0].slow
                self._jobs.move_to_end(ready)
            return ready

    def _fail(self, namespace: Namespace, error: Exception) -> None:
        with self._lock:
            if len(self._failed) >= _FAILURES:
                self._failed.pop(next(iter(self._failed)))
            self._failed.setdefault(namespace, error)

    def _end(self, namespace: Namespace) -> None:
        with self._lock:
            self._busy.remove(namespace)
            self._slow -= self._jobs[namespace].popleft().slow
            if not self._jobs[namespace]:
                del self._jobs[namespace]


_shared: WeakKeyDictionary[Engine, Background] = WeakKeyDictionary()


def background_of(view: View) -> Background:
    """Return the jobs of a MemOS, for those who share them: objects that come and go."""
    return _shared.setdefault(view.engine, Background())


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


def wait_a_little(pending: Sequence[Future[None]]) -> None:
    """Wait for jobs; a long import holds up no answer."""
    with contextlib.suppress(TimeoutError):
        wait_for(pending, PATIENCE)


async def await_a_little(pending: Sequence[Future[None]]) -> None:
    """Wait as ``wait_a_little`` does, and let others run."""
    with contextlib.suppress(TimeoutError):
        await await_for(pending, PATIENCE)
