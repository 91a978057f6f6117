"""LangGraph's long-term memory: values under keys, each of which is a MemCube."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, Self, cast

from langgraph.store.base import (
    NOT_PROVIDED,
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    NotProvided,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
)
from typing_extensions import override

from memos_core import AsyncView, InvalidInput, MemOS, Retention, Settings, View
from memos_core.view.given import checked_view
from memos_langchain.embeddings import LangChainEmbedder, embedder_of
from memos_langchain.indexed import checked_fields
from memos_langchain.ops import as_item_op, as_result, conditions
from memos_langchain.sweeper import Sweeper

_MINUTE = 60  # seconds
_SWEEP_MINUTES = 5.0  # between two sweeps, as PostgresStore


class MemOSStore(BaseStore):
    """LangGraph's ``BaseStore`` on a memory: ``MemOSStore(memos.at("acme"))``.

    An item is a MemCube: ``view.search`` finds it, each put is a version of it, the rules of its
    namespace hold for it, the audit log tells of it, and to delete it is to forget it. Namespaces
    are relative to the view. Labels may be any texts, with dots too, and numbers are taken as
    texts. A batch is one transaction. The same object serves blocking and async code, any threads
    and loops.

    ``index`` says what of a value is found by queries: ``{"fields": ["text", "parts[*].body"]}``,
    by default all of it, ``["$"]``; of several fields the nearest counts. Vectors are the
    memory's: its embedder's, and ``from_conn_string`` opens one with the embedder of ``index``.
    ``index=False`` in a put leaves an item out of queries.

    Times to live are in minutes and may be fractions. What has expired is in no answer, swept or
    not. ``ttl`` is LangGraph's ``TTLConfig``.

    Filters compare by type: numbers as numbers, texts as texts. Beside LangGraph's operators there
    is ``$in``. A key with a dot is one key.

    Raises:
        InvalidInput: ``memos`` is no view; ``index`` names another embedder than the memory's.
    """

    supports_ttl = True

    def __init__(
        self,
        memos: View,
        *,
        index: IndexConfig | Mapping[str, Any] | None = None,
        ttl: TTLConfig | None = None,
    ) -> None:
        self.memos = checked_view(memos)
        self.index_config = None if index is None else dict(index)
        self.ttl_config = ttl
        self._fields = checked_fields((index or {}).get("fields"))
        self._sweeper = Sweeper(self.sweep_ttl)
        self._opened: MemOS | None = None
        embedder = _embedder(self.index_config)
        if embedder is not None and embedder.name != memos.engine.model:
            raise InvalidInput(
                f"the vectors of this memory are those of {memos.engine.model!r}, not of "
                f"{embedder.name!r}: leave embed out of index, or open the memory with "
                "MemOS.open(embedder=LangChainEmbedder(…)), as from_conn_string does"
            )

    @classmethod
    def from_conn_string(
        cls,
        conn_string: str,
        *,
        index: IndexConfig | Mapping[str, Any] | None = None,
        ttl: TTLConfig | None = None,
        pool_config: Mapping[str, Any] | None = None,
        namespace: Sequence[str] = (),
    ) -> Self:
        """Open a memory, and a store on it that closes it with ``with`` or ``async with``.

        ``conn_string`` is what ``MemOS.open`` takes. ``index["embed"]`` is LangChain embeddings,
        a function or a "provider:model"; without, the memory's own. ``pool_config["max_size"]`` is
        how many connections there are at most. ``namespace`` is the view's, by default the
        memory's.

        Raises:
            As ``MemOS.open`` and the constructor.
        """
        size = (pool_config or {}).get("max_size")
        settings = Settings() if size is None else Settings(pool_size=size)
        memos = MemOS.open(conn_string, embedder=_embedder(index), settings=settings)
        try:
            store = cls(memos.at(*namespace) if namespace else memos, index=index, ttl=ttl)
        except BaseException:
            memos.close()
            raise
        store._opened = memos
        return store

    def setup(self) -> None:
        """Do nothing: the schema is brought up to date where the memory is opened."""

    def close(self) -> None:
        """Stop the sweeper, and close the memory if ``from_conn_string`` opened it."""
        self.stop_ttl_sweeper()
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- the two verbs of a store, and the others by way of them ------------------------------

    @override
    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do all in one transaction; reads see what was there before it.

        Raises:
            InvalidNamespaceError: a namespace that cannot be one.
            InvalidInput: a value that is no JSON, or anything else that cannot be; a ValueError.
        """
        results = self.memos.batch_items([as_item_op(op, self._fields) for op in ops])
        return [as_result(result) for result in results]

    @override
    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do all in one transaction, on a thread of the memory's; see ``batch``."""
        return await AsyncView(self.memos).to_thread(self.batch, list(ops))

    @override
    def get(
        self, namespace: tuple[str, ...], key: str, *, refresh_ttl: bool | None = None
    ) -> Item | None:
        return cast("Item | None", self.batch([self._get(namespace, key, refresh=refresh_ttl)])[0])

    @override
    async def aget(
        self, namespace: tuple[str, ...], key: str, *, refresh_ttl: bool | None = None
    ) -> Item | None:
        (item,) = await self.abatch([self._get(namespace, key, refresh=refresh_ttl)])
        return cast("Item | None", item)

    @override
    def search(
        self,
        namespace_prefix: tuple[str, ...],
        /,
        *,
        query: str | None = None,
        filter: dict[str, Any] | None = None,
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
    ) -> list[SearchItem]:
        refresh = self._refreshes(refresh=refresh_ttl)
        op = SearchOp(namespace_prefix, filter, limit, offset, query, refresh)
        return cast("list[SearchItem]", self.batch([op])[0])

    @override
    async def asearch(
        self,
        namespace_prefix: tuple[str, ...],
        /,
        *,
        query: str | None = None,
        filter: dict[str, Any] | None = None,
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
    ) -> list[SearchItem]:
        refresh = self._refreshes(refresh=refresh_ttl)
        op = SearchOp(namespace_prefix, filter, limit, offset, query, refresh)
        (found,) = await self.abatch([op])
        return cast("list[SearchItem]", found)

    @override
    def put(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
    ) -> None:
        self.batch([self._put(namespace, key, value, index, ttl)])

    @override
    async def aput(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
    ) -> None:
        await self.abatch([self._put(namespace, key, value, index, ttl)])

    @override
    def delete(self, namespace: tuple[str, ...], key: str) -> None:
        self.batch([PutOp(namespace, str(key), None)])

    @override
    async def adelete(self, namespace: tuple[str, ...], key: str) -> None:
        await self.abatch([PutOp(namespace, str(key), None)])

    @override
    def list_namespaces(
        self,
        *,
        prefix: Sequence[str] | None = None,
        suffix: Sequence[str] | None = None,
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[tuple[str, ...]]:
        op = ListNamespacesOp(conditions(prefix, suffix), max_depth, limit, offset)
        return cast("list[tuple[str, ...]]", self.batch([op])[0])

    @override
    async def alist_namespaces(
        self,
        *,
        prefix: Sequence[str] | None = None,
        suffix: Sequence[str] | None = None,
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[tuple[str, ...]]:
        op = ListNamespacesOp(conditions(prefix, suffix), max_depth, limit, offset)
        (found,) = await self.abatch([op])
        return cast("list[tuple[str, ...]]", found)

    # --- what has expired -----------------------------------------------------------------------

    def sweep_ttl(self) -> int:
        """End the items and other memories of the view whose time is over; return how many."""
        return len(self.memos.sweep(Retention()).expired)

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Sweep on a thread, again and again, until ``stop_ttl_sweeper``; a second call is none.

        The interval is that of ``ttl``, or 5 minutes. Nothing expired is seen before a sweep
        either: it makes room.
        """
        interval = sweep_interval_minutes
        if interval is None:
            interval = (self.ttl_config or {}).get("sweep_interval_minutes")
        return self._sweeper.start((_SWEEP_MINUTES if interval is None else interval) * _MINUTE)

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop sweeping; return whether it has stopped within ``timeout`` seconds."""
        return self._sweeper.stop(timeout)

    # --- from LangGraph's operations to ours ------------------------------------------------------

    def _get(self, namespace: tuple[str, ...], key: str, *, refresh: bool | None) -> GetOp:
        return GetOp(namespace, str(key), self._refreshes(refresh=refresh))

    def _put(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None,
        ttl: float | NotProvided | None,
    ) -> PutOp:
        lives = (self.ttl_config or {}).get("default_ttl") if ttl is NOT_PROVIDED else ttl
        return PutOp(
            namespace,
            str(key),
            cast("dict[str, Any]", value),
            index=index,
            ttl=cast("float | None", lives),
        )

    def _refreshes(self, *, refresh: bool | None) -> bool:
        asked = (self.ttl_config or {}).get("refresh_on_read", True) if refresh is None else refresh
        return bool(asked)


def _embedder(index: Mapping[str, Any] | None) -> LangChainEmbedder | None:
    """Return the embedder that an index names, None where it names none."""
    if index is None or index.get("embed") is None:
        return None
    return embedder_of(index["embed"], index.get("dims"))
