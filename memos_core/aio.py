"""The same verbs, awaited."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from memos_core.embedder import Embedder
from memos_core.governance import Caller
from memos_core.memos import MemOS
from memos_core.namespace import Namespace
from memos_core.settings import Settings
from memos_core.view import View

P = ParamSpec("P")
R = TypeVar("R")


def _awaited(
    verb: Callable[Concatenate[View, P], R],
) -> Callable[Concatenate[AsyncView, P], Coroutine[Any, Any, R]]:
    @functools.wraps(verb)
    async def awaited(self: AsyncView, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.to_thread(verb, self.sync, *args, **kwargs)

    return awaited


def _close_unwanted(opening: asyncio.Future[MemOS]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        threading.Thread(target=opening.result().close).start()


class AsyncView:
    """A view whose verbs are awaited; ``sync`` is the same view for blocking code.

    Cancelling an await does not stop the statement at work: it ends whole, or at the settings'
    ``statement_timeout``.
    """

    def __init__(self, view: View) -> None:
        self.sync = view

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.namespace))})"

    @property
    def namespace(self) -> Namespace:
        """Where this view writes."""
        return self.sync.namespace

    @property
    def caller(self) -> Caller | None:
        """On whose behalf it acts."""
        return self.sync.caller

    async def to_thread(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a blocking function where the verbs run: on the memory's own threads.

        In asyncio's shared pool it would wait behind everybody else's work.
        """
        work = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(
            self.sync.threads, contextvars.copy_context().run, work
        )

    add = _awaited(View.add)
    ingest = _awaited(View.ingest)
    get = _awaited(View.get)
    search = _awaited(View.search)
    update = _awaited(View.update)
    restore = _awaited(View.restore)
    recall = _awaited(View.recall)
    stands = _awaited(View.stands)
    history = _awaited(View.history)
    forget = _awaited(View.forget)
    forget_all = _awaited(View.forget_all)
    grant = _awaited(View.grant)
    revoke = _awaited(View.revoke)
    grants = _awaited(View.grants)
    derive = _awaited(View.derive)
    compose = _awaited(View.compose)
    fuse = _awaited(View.fuse)
    relate = _awaited(View.relate)
    provenance = _awaited(View.provenance)
    archive = _awaited(View.archive)
    activate = _awaited(View.activate)
    freeze = _awaited(View.freeze)
    unfreeze = _awaited(View.unfreeze)
    expire = _awaited(View.expire)
    messages = _awaited(View.messages)
    retire = _awaited(View.retire)
    events = _awaited(View.events)
    stats = _awaited(View.stats)
    build_index = _awaited(View.build_index)


class AsyncMemOS(AsyncView):
    """A ``MemOS`` whose verbs are awaited; it shares all with the ``MemOS`` it was made from."""

    def __init__(self, memos: MemOS) -> None:
        super().__init__(memos)
        self._memos = memos

    @classmethod
    async def open(
        cls,
        where: str | Path | None = None,
        *,
        embedder: Embedder | None = None,
        caller: Caller | None = None,
        settings: Settings | None = None,
    ) -> Self:
        """Open a memory; see ``MemOS.open``."""
        opening = asyncio.get_running_loop().run_in_executor(
            None,
            functools.partial(
                MemOS.open, where, embedder=embedder, caller=caller, settings=settings
            ),
        )
        try:
            return cls(await asyncio.shield(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)  # nobody else could
            raise

    def at(self, *labels: str, caller: Caller | None = None) -> AsyncView:
        """Return a view of a namespace; the first label is the tenant."""
        return AsyncView(self._memos.at(*labels, caller=caller))

    async def close(self) -> None:
        """Close the memory it was made from, once the verbs at work are done."""
        await asyncio.to_thread(self._memos.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
