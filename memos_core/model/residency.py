"""Where KV caches lie: on the device, in this machine's memory, and on disk."""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Container, Generator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from memos_core.errors import CacheCorrupt, InvalidInput
from memos_core.model import storage
from memos_core.model.kv_cache import KVCache
from memos_core.model.prefix import Prefix
from memos_core.model.quantization import Quantization
from memos_core.tensor_files import RunFile, TensorFiles, shrink, sizes, touch

_log = logging.getLogger("memos_core")
GIB = 2**30
_CHECKED = 10_000  # files whose checksum is known to be right


@dataclass(frozen=True, kw_only=True, slots=True)
class Budgets:
    """How many bytes of KV caches may lie on each level, and what is over goes, oldest use first.

    On a machine without a GPU the model reads what lies in memory, and ``device`` counts nothing.
    Mapped files count in ``memory`` though the system may drop their pages and read them again.
    """

    device: int = 2 * GIB
    memory: int = 4 * GIB
    disk: int = 32 * GIB

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 0:
                raise InvalidInput(f"the budget for {name} must be 0 bytes or more")


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
class _Level:
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
        gone: list[str] = []
        for other in list(self.caches):
            if self.bytes <= self.budget:
                break
            if other not in pinned:
                self.drop(other)
                gone.append(other)
        return gone

    def drop(self, key: str) -> None:
        if (cache := self.caches.pop(key, None)) is not None:
            self.bytes -= cache.nbytes


@dataclass(frozen=True, slots=True)
class Found:
    """The cache of the longest known beginning of a prefix, and how many of its runs it holds."""

    cache: KVCache | None
    runs: int


class Residency:
    """The KV caches that a process holds, and those that lie on disk.

    Every cache is that of a prefix from its first token on, so its beginning serves whatever
    begins alike. Safe for threads; files are read outside its lock.
    """

    def __init__(
        self, folder: Path, *, device: torch.device, dtype: torch.dtype, budgets: Budgets
    ) -> None:
        self._folder = folder
        self._device, self._dtype = device, dtype
        self._budgets = budgets
        self._on_device = _Level(budgets.device)
        self._in_memory = _Level(budgets.memory)
        self._disk_hits = self._misses = 0
        self._held: dict[str, Prefix] = {}  # by its last key
        self._leaves: dict[str, set[str]] = {}  # of a key: the last keys of those that have it
        self._pinned: dict[str, tuple[str, ...]] = {}  # last key: all keys
        self._made = Counter[str]()  # keys of what is being made, by how many
        self._checked: set[Path] = set()
        self._lock = threading.RLock()
        self._threads = ThreadPoolExecutor(1, "memos-prefetch")

    def longest(self, prefix: Prefix) -> Found:
        """Return the longest beginning that is known, on the device, in memory or on disk."""
        with self._lock:
            runs, cache = self._resident(prefix)
        files = TensorFiles(self._folder, prefix.tenant)
        along = files.along(prefix.keys) if runs < len(prefix.keys) else []
        on_disk = sum(count for _, count in along)
        if on_disk > runs and (loaded := self._loaded(along, runs, cache)):
            runs, cache = loaded
            with self._lock:
                self._disk_hits += 1
                cache = self._keep(prefix, runs, cache)
        elif cache is None:
            with self._lock:
                self._misses += 1
        return Found(cache, runs)

    def put(self, prefix: Prefix, cache: KVCache) -> None:
        """Keep the cache of a whole prefix in memory and on the device."""
        with self._lock:
            self._keep(prefix, len(prefix.keys), cache)

    def store(self, prefix: Prefix, cache: KVCache, how: Quantization = Quantization.NONE) -> int:
        """Write what is not on disk yet of a prefix's cache; return how many bytes.

        Raises:
            CacheNotWritten: the disk is full, or the folder cannot be written.
        """
        files = TensorFiles(self._folder, prefix.tenant)
        first = sum(count for _, count in files.along(prefix.keys))
        if first == len(prefix.keys):
            return 0
        tokens = [len(run) for run in prefix.runs]
        start = sum(tokens[:first])
        file = storage.write(files, prefix.keys[first:], tokens[first:], cache.part(start), how)
        with self._lock:
            self._checked.add(file.path)
            pinned = {key for keys in self._pinned.values() for key in keys}
        shrink(self._folder, self._budgets.disk, keep={*prefix.keys, *pinned})
        return file.path.stat().st_size

    @contextmanager
    def making(self, prefix: Prefix) -> Generator[None]:
        """Keep a prefix from being collected before it is known that it is kept."""
        with self._lock:
            self._made.update(prefix.keys)
        try:
            yield
        finally:
            with self._lock:
                self._made.subtract(prefix.keys)

    def pin(self, prefix: Prefix) -> None:
        """Keep a prefix on every level, whatever the budgets, until it is unpinned."""
        found = self.longest(prefix)
        if found.runs < len(prefix.keys):
            raise InvalidInput("only what is stored can be pinned: encode it first")
        with self._lock:
            self._pinned[prefix.keys[-1]] = prefix.keys
            if found.cache is not None:
                self._keep(prefix, found.runs, found.cache)

    def unpin(self, prefix: Prefix) -> None:
        """Let a prefix go when its place is needed."""
        with self._lock:
            self._pinned.pop(prefix.keys[-1], None)

    def prefetch(self, prefix: Prefix) -> Future[Found]:
        """Bring a prefix as near to the model as it can be, in the background."""
        return self._threads.submit(self.longest, prefix)

    def collect(self, tenant: str, live: AbstractSet[str]) -> int:
        """Drop a tenant's caches with a key that is not ``live``, here and on disk; how many."""
        with self._lock:
            live = live | {key for key, makers in self._made.items() if makers}
            dead = {
                leaf
                for leaf, held in self._held.items()
                if held.tenant == tenant and not live >= set(held.keys)
            }
            for leaf in dead:
                self._forget(leaf)
        TensorFiles(self._folder, tenant).collect(live)
        return len(dead)

    def stats(self) -> ResidencyStats:
        """Return what lies where, and how often it was found there."""
        files = sizes(self._folder)
        with self._lock:
            return ResidencyStats(
                device=_stats(self._on_device),
                memory=_stats(self._in_memory),
                disk=LevelStats(caches=len(files), bytes=sum(files.values()), hits=self._disk_hits),
                misses=self._misses,
            )

    def close(self) -> None:
        """Let go of all that is held."""
        self._threads.shutdown(cancel_futures=True)
        with self._lock:
            for leaf in list(self._held):
                self._forget(leaf)

    def _resident(self, prefix: Prefix) -> tuple[int, KVCache | None]:
        """Return how many runs of a prefix are held, and their cache."""
        for runs in range(len(prefix.keys), 0, -1):
            for leaf in self._leaves.get(prefix.keys[runs - 1], ()):
                tokens = self._held[leaf].ends[runs - 1]
                for level in (self._on_device, self._in_memory):
                    if (cache := level.caches.get(leaf)) is not None:
                        level.hits += 1
                        level.caches.move_to_end(leaf)
                        near = self._brought(leaf, cache)
                        return runs, near if near.tokens == tokens else near.part(0, tokens)
        return 0, None

    def _brought(self, leaf: str, cache: KVCache) -> KVCache:
        """Return a cache on the device."""
        if cache.device == self._device:
            return cache
        near = cache.to(self._device)
        self._drop_unheld(self._on_device.put(leaf, near, self._pinned))
        return near

    def _loaded(
        self, along: Sequence[tuple[RunFile, int]], runs: int, cache: KVCache | None
    ) -> tuple[int, KVCache] | None:
        """Return a cache continued from disk: as far as the files go, or to one that is damaged."""
        parts = [cache] if cache is not None else []
        done = 0
        for file, count in along:
            tokens = sum(file.tokens[:count])
            first = max(runs - done, 0)
            if first < count:
                try:
                    loaded = self._mapped(file)
                except CacheCorrupt as error:
                    _log.warning("%s; it is computed anew", error)
                    file.path.unlink(missing_ok=True)
                    break
                start = sum(file.tokens[:first])
                part = (
                    loaded if (start, tokens) == (0, loaded.tokens) else loaded.part(start, tokens)
                )
                parts.append(part if cache is None else part.to(cache.device))
            done += count
        return (max(done, runs), KVCache.joined(parts)) if done > runs else None

    def _mapped(self, file: RunFile) -> KVCache:
        with self._lock:
            checked = file.path in self._checked
        cache = storage.mapped(file, self._dtype, checked=checked)
        touch(file)
        with self._lock:
            if len(self._checked) >= _CHECKED:
                self._checked.clear()
            self._checked.add(file.path)
        return cache

    def _keep(self, prefix: Prefix, runs: int, cache: KVCache) -> KVCache:
        """Hold the cache of a prefix's first runs; return it where the model reads it."""
        held = prefix.first(runs)
        leaf = held.keys[-1]
        self._held[leaf] = held
        for key in held.keys:
            self._leaves.setdefault(key, set()).add(leaf)
        gone = self._in_memory.put(leaf, cache, self._pinned) if cache.device.type == "cpu" else []
        near = self._brought(leaf, cache) if self._device.type != "cpu" else cache
        if cache.device.type != "cpu":
            gone = self._on_device.put(leaf, cache, self._pinned)
        self._drop_unheld(gone)
        return near

    def _drop_unheld(self, gone: Sequence[str]) -> None:
        for leaf in gone:
            if leaf not in self._in_memory.caches and leaf not in self._on_device.caches:
                self._unlist(leaf)

    def _forget(self, leaf: str) -> None:
        self._in_memory.drop(leaf)
        self._on_device.drop(leaf)
        self._pinned.pop(leaf, None)
        self._unlist(leaf)

    def _unlist(self, leaf: str) -> None:
        held = self._held.pop(leaf, None)
        for key in held.keys if held else ():
            self._leaves[key].discard(leaf)
            if not self._leaves[key]:
                del self._leaves[key]


def _stats(level: _Level) -> LevelStats:
    return LevelStats(caches=len(level.caches), bytes=level.bytes, hits=level.hits)
