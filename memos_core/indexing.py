"""Which views have a search index, and the thread that builds and extends them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from memos_core.errors import Closed, InvalidInput, MemOSError
from memos_core.namespace import Namespace
from memos_core.settings import Settings
from memos_core.store.statement import Statement
from memos_core.store.statements import indexes
from memos_core.store.statements.indexes import State
from memos_core.store.statements.scope import Scope

if TYPE_CHECKING:
    from memos_core.store.postgres import Store
    from memos_core.store.session import Session

_log = logging.getLogger("memos_core")
KNOWN_SECONDS = 30.0  # after which it is asked again how a view can be searched
RETRY_SECONDS = 600.0  # after a failure
MAX_VIEWS = 10_000  # that are remembered
LATE = 1_000  # memories outside an index before it is extended; each makes a search 3 µs slower
BATCH = 250  # of them are moved into it at once; who changes one of these waits some seconds
MAX_WIDTH = 4_000  # dimensions of a halfvec in pgvector's HNSW


class Indexing:
    """Tells by which index a view is searched, and keeps indexes as they should be.

    A view of more than ``Settings.exact_limit`` memories gets one. It is extended when much was
    written since, built anew when it has doubled, and dropped when little is left of it. That is
    done by a thread of its own, while searches go on as they are.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._limit = settings.exact_limit
        self._known: dict[Namespace, tuple[float, int | None]] = {}
        self._failed: dict[Namespace, float] = {}
        self._lock = threading.Lock()
        self._wanted: queue.SimpleQueue[Scope | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def of(self, scope: Scope, run: Callable[[Statement[State]], State]) -> int | None:
        """Return the index of a view, None where every memory is looked at; ``run`` asks for it."""
        asked, index = self._known.get(scope.namespace, (-KNOWN_SECONDS, None))
        now = time.monotonic()
        if now - asked < KNOWN_SECONDS:
            return index
        state = run(indexes.state(scope, limit=self._limit))
        if self._should_change(state):
            self._change_later(scope)
        index = state.index if state.indexed + state.others > self._limit else None
        if len(self._known) >= MAX_VIEWS:
            self._known.clear()
        self._known[scope.namespace] = (now, index)
        return index

    def ask_again(self, namespace: Namespace) -> None:
        """Forget which index a view has: it has changed, or is no more."""
        self._known.pop(namespace, None)

    def update(self, scope: Scope) -> State:
        """Build the index of a view or extend it, however large it is; return how it stands.

        Raises:
            InvalidInput: its vectors are too wide for an index.
        """
        with self._store.session() as session:
            state = session.run(indexes.state(scope, limit=self._limit))
            if state.width > MAX_WIDTH:
                raise InvalidInput(
                    f"pgvector's index takes vectors of up to {MAX_WIDTH} dimensions, and these "
                    f"have {state.width}: search looks at every memory"
                )
            self._update(session, scope, state, wait=True)
            return session.run(indexes.state(scope, limit=self._limit))

    def close(self) -> None:
        """Begin nothing more. The store's own ``close`` cancels what is being built."""
        with self._lock:
            self._closed = True
        self._wanted.put(None)

    def _should_change(self, state: State) -> bool:
        if state.width > MAX_WIDTH:
            return False
        if state.index is None:
            return state.others > self._limit
        return state.others > LATE or _doubled(state) or self._shrunk(state)

    def _shrunk(self, state: State) -> bool:
        return 2 * (state.indexed + state.others) < min(self._limit, state.first)

    def _change_later(self, scope: Scope) -> None:
        with self._lock:
            if self._closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="memos-index", daemon=True)
                self._thread.start()
        self._wanted.put(Scope(namespace=scope.namespace))

    def _work(self) -> None:
        while (scope := self._wanted.get()) is not None:
            path = scope.namespace
            if time.monotonic() - self._failed.get(path, -RETRY_SECONDS) < RETRY_SECONDS:
                continue
            try:
                self._change(scope)
            except Closed:
                return
            except MemOSError:
                self._failed[path] = time.monotonic()
                _log.exception(
                    "no search index for %s: search looks at every memory", "/".join(path)
                )

    def _change(self, scope: Scope) -> None:
        with self._store.session() as session:
            state = session.run(indexes.state(scope, limit=self._limit))
            if not self._should_change(state):  # somebody else was quicker
                return
            if state.index is not None and self._shrunk(state):
                session.run(indexes.drop(scope, state.index))
                self.ask_again(scope.namespace)
            else:
                self._update(session, scope, state, wait=False)

    def _update(self, session: Session, scope: Scope, state: State, *, wait: bool) -> None:
        if state.index is not None and not _doubled(state):
            for _ in range(0, state.others, BATCH):  # and not what is written meanwhile
                session.run(indexes.extend(scope, state.index, most=BATCH))
            return
        _log.info("building a search index for %s", "/".join(scope.namespace))
        index = session.run(indexes.begin(scope))
        if index is None:
            return
        try:
            session.run(indexes.build(scope, index, wait=wait))
        except MemOSError:
            session.run(indexes.drop(scope, index))  # not where we closed: the next goes on with it
            raise
        self.ask_again(scope.namespace)


def _doubled(state: State) -> bool:
    return state.indexed + state.others > 2 * state.first
