"""What a model needs of a memory; every view has it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable
from uuid import UUID

from memos_core.cached import CacheRecord, Remembered
from memos_core.cube import MemCube
from memos_core.governance import Caller
from memos_core.hit import Hit
from memos_core.namespace import Namespace


class Engine(Protocol):
    """What all views of one open database share."""

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        ...

    @property
    def database(self) -> str:
        """What tells its database from all others."""
        ...

    @property
    def in_pipeline(self) -> bool:
        """Whether it is a pipeline, which ends by itself."""
        ...


class News(Protocol):
    """What tells that KV caches ended."""

    def told(self, timeout: float | None) -> frozenset[str]:
        """Wait until some did; return the MD5 of their tenants, none where it took too long."""
        ...


@runtime_checkable
class Memory(Protocol):
    """A view: its verbs say more (``memos_core.View``)."""

    @property
    def namespace(self) -> Namespace:
        """Where it looks."""
        ...

    @property
    def caller(self) -> Caller | None:
        """On whose behalf it acts; None is the application itself."""
        ...

    @property
    def engine(self) -> Engine:
        """Whose view it is."""
        ...

    def search(self, query: str, *, k: int = 10) -> list[Hit]:
        """Find what fits a question."""
        ...

    def remembered(self, ids: Iterable[UUID | str]) -> list[Remembered]:
        """Return memories as they stand, with the members of those that are KV caches."""
        ...

    def caches(
        self,
        fingerprint: str | None = None,
        *,
        holding: Sequence[str] | None = None,
        searchable: bool = False,
    ) -> list[Remembered]:
        """Return the KV caches that stand."""
        ...

    def keep_cache(
        self,
        record: CacheRecord,
        *,
        name: str | None = None,
        said: Mapping[UUID, str] | None = None,
    ) -> MemCube:
        """Store that a KV cache was made of what its members ``said``."""
        ...

    def refuse_cache(self, record: CacheRecord) -> None:
        """Write down that a KV cache was made and not kept."""
        ...

    def live_keys(self) -> frozenset[str]:
        """Return the keys of the tenant's KV caches."""
        ...

    def cache_news(self) -> AbstractContextManager[News]:
        """Hear of KV caches that ended."""
        ...


def tenant_of(view: Memory) -> str:
    """Name a view's tenant, as none of another database is named."""
    return json.dumps([view.engine.database, view.namespace.tenant])
