"""The same verbs, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from memos_core.channel import SyncReport
from memos_core.diff import Diff
from memos_core.embedder import Embedder
from memos_core.governance import Caller
from memos_core.memos import MemOS
from memos_core.namespace import Namespace
from memos_core.pipeline import Pipeline
from memos_core.settings import Settings
from memos_core.view import View

P = ParamSpec("P")
R = TypeVar("R")


def _awaited(
    verb: Callable[Concatenate[View, P], R],
) -> Callable[Concatenate[AsyncView, P], Coroutine[Any, Any, R]]:
    @functools.wraps(verb)
    async def awaited(self: AsyncView, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.to_thread(verb, self.blocking, *args, **kwargs)

    return awaited


def _close_unwanted(opening: asyncio.Future[MemOS]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        threading.Thread(target=opening.result().close).start()


def _leave_unwanted(
    block: AbstractContextManager[Pipeline],
    error: BaseException,
    entering: asyncio.Future[Pipeline],
) -> None:
    def leave() -> None:
        with contextlib.suppress(asyncio.CancelledError):  # it comes out as it went in
            block.__exit__(type(error), error, None)

    if not entering.cancelled() and entering.exception() is None:
        threading.Thread(target=leave).start()


class AsyncView:
    """A view whose verbs are awaited; ``blocking`` is the same view for blocking code.

    Cancelling an await does not stop the statement at work: it ends whole, or at the settings'
    ``statement_timeout``.
    """

    def __init__(self, view: View) -> None:
        self.blocking = view

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.namespace))})"

    @property
    def namespace(self) -> Namespace:
        """Where this view writes."""
        return self.blocking.namespace

    @property
    def caller(self) -> Caller | None:
        """On whose behalf it acts."""
        return self.blocking.caller

    async def to_thread(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a blocking function where the verbs run: on the memory's own threads.

        In asyncio's shared pool it would wait behind everybody else's work.
        """
        work = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(
            self.blocking.threads, contextvars.copy_context().run, work
        )

    add = _awaited(View.add)
    ingest = _awaited(View.ingest)
    ingest_later = _awaited(View.ingest_later)
    get = _awaited(View.get)
    search = _awaited(View.search)
    update = _awaited(View.update)
    restore = _awaited(View.restore)
    recall = _awaited(View.recall)
    stands = _awaited(View.stands)
    diff = _awaited(View.diff)
    history = _awaited(View.history)
    forget = _awaited(View.forget)
    forget_all = _awaited(View.forget_all)
    rules = _awaited(View.rules)
    set_rules = _awaited(View.set_rules)
    import_file = _awaited(View.import_file)
    publish = _awaited(View.publish)
    withdraw = _awaited(View.withdraw)
    publications = _awaited(View.publications)
    subscribe = _awaited(View.subscribe)
    unsubscribe = _awaited(View.unsubscribe)
    subscriptions = _awaited(View.subscriptions)
    sync = _awaited(View.sync)
    grant = _awaited(View.grant)
    revoke = _awaited(View.revoke)
    grants = _awaited(View.grants)
    derive = _awaited(View.derive)
    compose = _awaited(View.compose)
    fuse = _awaited(View.fuse)
    relate = _awaited(View.relate)
    provenance = _awaited(View.provenance)
    sweep = _awaited(View.sweep)
    archive = _awaited(View.archive)
    activate = _awaited(View.activate)
    freeze = _awaited(View.freeze)
    unfreeze = _awaited(View.unfreeze)
    expire = _awaited(View.expire)
    dump = _awaited(View.dump)
    load = _awaited(View.load)
    messages = _awaited(View.messages)
    retire = _awaited(View.retire)
    events = _awaited(View.events)
    export_events = _awaited(View.export_events)
    batch_items = _awaited(View.batch_items)
    remembered = _awaited(View.remembered)
    caches = _awaited(View.caches)
    stats = _awaited(View.stats)
    build_index = _awaited(View.build_index)

    async def pushes(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 of each wait, not of the whole
    ) -> AsyncGenerator[SyncReport]:
        """Sync now, and again whenever a publisher changes something; see ``View.pushes``.

        It waits on a thread of its own, so that it keeps none of the verbs' from them.
        """
        reports = self.blocking.pushes(timeout=timeout)
        with ThreadPoolExecutor(1, "memos-news") as thread:
            loop = asyncio.get_running_loop()
            try:
                while report := await loop.run_in_executor(thread, next, reports, None):
                    yield report
            finally:
                await asyncio.shield(loop.run_in_executor(thread, reports.close))


class AsyncPipeline(AsyncView):
    """A ``Pipeline`` whose verbs are awaited."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline)
        self._pipeline = pipeline

    @property
    def effects(self) -> Sequence[Diff]:
        """What a dry run would have done, after the block."""
        return self._pipeline.effects

    def at(self, *labels: str, caller: Caller | None = None) -> AsyncView:
        """Return a view of another namespace whose verbs are part of this pipeline."""
        return AsyncView(self._pipeline.at(*labels, caller=caller))


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

    @asynccontextmanager
    async def pipeline(self, *, dry_run: bool = False) -> AsyncGenerator[AsyncPipeline]:
        """Return a block whose verbs are one transaction; see ``MemOS.pipeline``."""
        block = self._memos.pipeline(dry_run=dry_run)
        entering = asyncio.get_running_loop().run_in_executor(
            self.blocking.threads, block.__enter__
        )
        try:
            pipeline = await asyncio.shield(entering)
        except asyncio.CancelledError as error:
            entering.add_done_callback(functools.partial(_leave_unwanted, block, error))
            raise
        try:
            yield AsyncPipeline(pipeline)
        except BaseException as error:
            await self._leave(block, error)
            raise
        await self._leave(block, None)

    async def _leave(
        self, block: AbstractContextManager[Pipeline], error: BaseException | None
    ) -> None:
        """Leave a block on the memory's threads, even where nobody waits for it any more."""
        leaving = self.to_thread(block.__exit__, error and type(error), error, None)
        await asyncio.shield(asyncio.ensure_future(leaving))

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
