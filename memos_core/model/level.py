"""The places where KV caches lie: how much may, and what goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass, field

from memos_core.checks import checked_count
from memos_core.model.kv_cache import KVCache

GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Budgets:
    """How many bytes of KV caches may lie on each level, and what is over goes, oldest use first.

    On a machine without a GPU the model reads what lies in memory, and ``device`` counts nothing.
    Nothing is written where ``disk`` is 0. Each process that writes to a folder holds it to its
    own ``disk``, and sees what others wrote after a sixteenth of that at the latest.
    Mapped files count in ``memory`` though the system may drop their pages and read them again.
    """

    device: int = 2 * GIB
    memory: int = 4 * GIB
    disk: int = 32 * GIB

    def __post_init__(self) -> None:
        for name in self.__slots__:
            checked_count(getattr(self, name), what=f"bytes for {name}", most=2**63)


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelStats:
    """What lies on a level, and how many of those who asked found their prefix there."""

    caches: int
    bytes: int
    hits: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidencyStats:
    """The levels, and how many found their prefix on none (``misses``)."""

    device: LevelStats
    memory: LevelStats
    disk: LevelStats
    misses: int


@dataclass(slots=True)
class Level:
    """Whole prefixes by their last key, the one used last at the end."""

    budget: int
    caches: OrderedDict[str, KVCache] = field(default_factory=OrderedDict[str, KVCache])
    bytes: int = 0
    hits: int = 0

    def put(self, key: str, cache: KVCache, pinned: Container[str]) -> list[str]:
        """Keep a cache, and return what had to go; itself where it would never fit."""
        self.drop(key)
        if cache.nbytes > self.budget and key not in pinned:
            return [key]
        self.caches[key] = cache
        self.bytes += cache.nbytes
        return self.shrink(pinned)

    def shrink(self, pinned: Container[str]) -> list[str]:
        """Let go what was used longest ago until the rest fits; return what went."""
        gone: list[str] = []
        for other in list(self.caches):
            if self.bytes <= self.budget:
                break
            if other not in pinned:
                self.drop(other)
                gone.append(other)
        return gone

    def drop(self, key: str) -> None:
        """Let a cache go, where it is here."""
        if (cache := self.caches.pop(key, None)) is not None:
            self.bytes -= cache.nbytes

    def stats(self) -> LevelStats:
        """Return what lies here."""
        return LevelStats(caches=len(self.caches), bytes=self.bytes, hits=self.hits)
