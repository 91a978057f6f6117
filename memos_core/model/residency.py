"""Where KV caches lie: on the device, in this machine's memory, and on disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch

from memos_core.errors import CacheCorrupt, CacheMismatch, CacheNotWritten, Closed, InvalidInput
from memos_core.model import storage
from memos_core.model.kv_cache import KVCache
from memos_core.model.level import Budgets, Level, LevelStats, ResidencyStats
from memos_core.model.prefix import Prefix
from memos_core.model.quantization import Quantization
from memos_core.tensor_files import (
    Draft,
    RunFile,
    TensorFiles,
    Version,
    remove,
    shrink,
    sizes,
    touch,
    version_of,
)

_log = logging.getLogger("memos_core")
_LOOKS = 16  # at the folder, for each budget of bytes written: others write there, too
_CHECKED = 10_000  # files whose checksum is known to be right


@dataclass(frozen=True, slots=True)
class Found:
    """The cache of the longest known beginning of a prefix, and how many of its runs it holds."""

    cache: KVCache | None
    runs: int


class Placed(Protocol):
    """A model that reads caches: where it lies, and as what."""

    @property
    def device(self) -> torch.device:
        """Where it lies now."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What its numbers are now."""
        ...


class Residency:
    """The KV caches that a process holds, and those that lie on disk.

    Every cache is that of a prefix from its first token on, so its beginning serves whatever
    begins alike. Safe for threads; files are read outside its lock.
    """

    def __init__(self, folder: Path, model: Placed, budgets: Budgets) -> None:
        self._folder = folder
        self._model = model
        self._budgets = budgets
        self._on_device = Level(budgets.device)
        self._in_memory = Level(budgets.memory)
        self._disk_hits = self._misses = 0
        self._held: dict[str, Prefix] = {}  # by its last key
        self._leaves: dict[str, set[str]] = {}  # of a key: the last keys of those that have it
        self._pinned: dict[str, tuple[str, ...]] = {}  # last key: all keys
        self._unlooked = 0  # bytes that may be written before the folder is looked at again
        self._checked: dict[Path, Version] = {}  # as they were then
        self._sources: dict[str, dict[Path, Version]] = {}  # of a last key: files that are mapped
        self._closed = False
        self._lock = threading.RLock()
        self._prefetching = prefetching = set[int]()  # the thread, which knows nothing of this
        self._threads = ThreadPoolExecutor(
            1, "memos-prefetch", lambda: prefetching.add(threading.get_ident())
        )

    def longest(self, prefix: Prefix) -> Found:
        """Return the longest beginning that is known, on the device, in memory or on disk."""
        with self._lock:
            runs, cache = self._resident(prefix)
        if cache is not None and cache.device != self._model.device:
            cache = self._near(prefix.first(runs), cache)
        files = TensorFiles(self._folder, prefix.tenant)
        along = files.along(prefix.keys) if runs < len(prefix.keys) else []
        on_disk = sum(count for _, count in along)
        if on_disk > runs and (loaded := self._loaded(along, runs, cache)):
            runs, cache, sources = loaded
            with self._lock:
                self._disk_hits += 1
            cache = self._kept(prefix.first(runs), cache, sources)
        elif cache is None:
            with self._lock:
                self._misses += 1
        return Found(cache, runs)

    def put(self, prefix: Prefix, cache: KVCache) -> None:
        """Keep the cache of a whole prefix in memory and on the device."""
        self._kept(prefix, cache)

    def store(self, prefix: Prefix, cache: KVCache, how: Quantization = Quantization.NONE) -> int:
        """Write what is not on disk yet of a prefix's cache; return how many bytes.

        Raises:
            CacheNotWritten: the disk is full, or the folder cannot be written.
        """
        draft = self._drafted(prefix, cache, how)
        if draft is None:
            return 0
        self._publish(prefix, draft)
        return draft.size

    @contextmanager
    def storing(
        self, prefix: Prefix, cache: KVCache, how: Quantization = Quantization.NONE
    ) -> Generator[None]:
        """Write what is not on disk yet, to be found once the block has ended, and ended well.

        So whoever drops what does not live, in any process, sees it when it is known to live.

        Raises:
            CacheNotWritten: the disk is full, or the folder cannot be written; before the block.
        """
        draft = self._drafted(prefix, cache, how)
        try:
            yield
        except BaseException:
            if draft is not None:
                draft.drop()
            raise
        if draft is not None:
            try:
                self._publish(prefix, draft)
            except CacheNotWritten as error:
                _log.warning("%s; it stays in memory", error)

    def pin(self, prefix: Prefix) -> None:
        """Keep a prefix on every level, whatever this one's budgets, until it is unpinned."""
        found = self.longest(prefix)
        if found.runs < len(prefix.keys):
            raise InvalidInput("only what is stored can be pinned: encode it first")
        with self._lock:
            self._check_open()
            self._pinned[prefix.keys[-1]] = prefix.keys
        if found.cache is not None:
            self._kept(prefix, found.cache)

    def unpin(self, prefix: Prefix) -> None:
        """Let a prefix go when its place is needed."""
        with self._lock:
            self._pinned.pop(prefix.keys[-1], None)
            for level in (self._in_memory, self._on_device):
                self._drop_unheld(level.shrink(self._pinned))
        self._shrink(self._pinned_keys())

    def prefetch(self, prefix: Prefix) -> Future[Found]:
        """Bring a prefix as near to the model as it can be, in the background."""
        with self._lock:
            self._check_open()
            return self._threads.submit(self.longest, prefix)

    def has_any(self, tenant: str) -> bool:
        """Return whether something of a tenant is held, or lies on disk."""
        with self._lock:
            held = any(held.tenant == tenant for held in self._held.values())
        return held or TensorFiles(self._folder, tenant).any()

    def collect(self, tenant: str, live: Callable[[], AbstractSet[str]]) -> int:
        """Drop a tenant's caches with a key that does not live, here and on disk; how many here.

        ``live`` is asked after it was seen what there is: what comes meanwhile is not dropped.
        """
        files = TensorFiles(self._folder, tenant).all()
        with self._lock:
            there = [leaf for leaf, held in self._held.items() if held.tenant == tenant]
        keys = live()
        for path, file in files.items():
            if file is None or not keys >= set(file.keys):
                remove(path)
        with self._lock:
            dead = [
                leaf
                for leaf in there
                if (held := self._held.get(leaf)) and not keys >= set(held.keys)
            ]
            for leaf in dead:
                self._forget(leaf)
        return len(dead)

    def stats(self) -> ResidencyStats:
        """Return what lies where, and how often it was found there."""
        files = sizes(self._folder)
        with self._lock:
            return ResidencyStats(
                device=self._on_device.stats(),
                memory=self._in_memory.stats(),
                disk=LevelStats(caches=len(files), bytes=sum(files.values()), hits=self._disk_hits),
                misses=self._misses,
            )

    def close(self) -> None:
        """Let go of all that is held, and hold nothing from now on."""
        with self._lock:
            self._closed = True
        # What is told that a prefetch is done may close it, in the very thread.
        waits = threading.get_ident() not in self._prefetching
        self._threads.shutdown(wait=waits, cancel_futures=True)
        with self._lock:
            for leaf in list(self._held):
                self._forget(leaf)

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("this MemoryModel is closed: make another")

    def _resident(self, prefix: Prefix) -> tuple[int, KVCache | None]:
        """Return how many runs of a prefix are held, and their cache."""
        for runs in range(len(prefix.keys), 0, -1):
            leaves = list(self._leaves.get(prefix.keys[runs - 1], ()))
            for level in (self._on_device, self._in_memory):
                for leaf in leaves:
                    if (cache := level.caches.get(leaf)) is not None and self._is_whole(leaf):
                        level.hits += 1
                        level.caches.move_to_end(leaf)
                        return runs, cache.part(0, self._held[leaf].ends[runs - 1])
        return 0, None

    def _is_whole(self, leaf: str) -> bool:
        """Tell whether the files that a held cache maps are as they were; else let it go."""
        altered = [
            path
            for path, version in self._sources.get(leaf, {}).items()
            if version_of(path) not in (version, None)  # what was removed stays for who maps it
        ]
        if altered:
            _log.warning("%s was altered: what it holds is computed anew", altered[0])
            self._in_memory.drop(leaf)
            self._on_device.drop(leaf)
            self._unlist(leaf)
        return not altered

    def _near(self, prefix: Prefix, cache: KVCache) -> KVCache:
        """Return the cache of a whole prefix on the device, and keep it there."""
        near = cache.to(self._model.device)  # without the lock: it takes long
        with self._lock:
            self._hold(prefix, near)
        return near

    def _kept(
        self, prefix: Prefix, cache: KVCache, sources: Mapping[Path, Version] = MappingProxyType({})
    ) -> KVCache:
        """Hold the cache of a whole prefix, of these files; return it where the model reads it."""
        cache = cache.by_itself()  # what it is a part of may be of memories that end before it
        with self._lock:
            self._hold(prefix, cache)
            if sources and prefix.keys[-1] in self._held:
                self._sources[prefix.keys[-1]] = dict(sources)
        return cache if cache.device == self._model.device else self._near(prefix, cache)

    def _hold(self, prefix: Prefix, cache: KVCache) -> None:
        """Keep a cache on the level where it lies."""
        if self._closed:
            return
        leaf = prefix.keys[-1]
        self._held[leaf] = prefix
        for key in prefix.keys:
            self._leaves.setdefault(key, set()).add(leaf)
        level = self._in_memory if cache.device.type == "cpu" else self._on_device
        self._drop_unheld(level.put(leaf, cache, self._pinned))

    def _drafted(self, prefix: Prefix, cache: KVCache, how: Quantization) -> Draft | None:
        """Write what is not on disk yet of a prefix's cache; None where nothing is missing."""
        if not self._budgets.disk:
            return None
        files = TensorFiles(self._folder, prefix.tenant)
        first = sum(count for _, count in files.along(prefix.keys))
        if first == len(prefix.keys):
            return None
        tokens = [len(run) for run in prefix.runs]
        start = sum(tokens[:first])
        return storage.draft(files, prefix.keys[first:], tokens[first:], cache.part(start), how)

    def _publish(self, prefix: Prefix, draft: Draft) -> None:
        draft.publish()
        self._note_checked(draft.file, version_of(draft.file.path))
        with self._lock:
            self._unlooked -= draft.size
            due = self._unlooked < 0
        if due:
            self._shrink({*prefix.keys, *self._pinned_keys()})

    def _shrink(self, keep: set[str]) -> None:
        """Hold the folder to its budget, as it is now."""
        budget = self._budgets.disk
        left = shrink(self._folder, budget, keep=keep)
        with self._lock:
            self._unlooked = min(budget - left, budget // _LOOKS)

    def _loaded(
        self, along: Sequence[tuple[RunFile, int]], runs: int, cache: KVCache | None
    ) -> tuple[int, KVCache, dict[Path, Version]] | None:
        """Return a cache continued from disk: as far as the files go, or to one that is damaged.

        With it come the files that were read, as they were.
        """
        parts = [cache] if cache is not None else []
        sources: dict[Path, Version] = {}
        done = 0
        for file, count in along:
            tokens = sum(file.tokens[:count])
            first = max(runs - done, 0)
            if first < count:
                try:
                    loaded, version = self._mapped(file)
                except CacheCorrupt as error:
                    _log.warning("%s; it is computed anew", error)
                    remove(file.path)
                    break
                except (OSError, CacheMismatch) as error:  # it may be good, and read next time
                    _log.warning("%s cannot be read: %s", file.path, error)
                    break
                if version is not None:
                    sources[file.path] = version
                part = loaded.part(sum(file.tokens[:first]), tokens)
                parts.append(part if cache is None else part.to(cache.device))
            done += count
        return (max(done, runs), KVCache.joined(parts), sources) if done > runs else None

    def _mapped(self, file: RunFile) -> tuple[KVCache, Version | None]:
        """Return what a file holds, and what the file was before that was found right."""
        with self._lock:
            checked = self._checked.get(file.path)
        version = version_of(file.path)
        cache = storage.mapped(file, self._model.dtype, checked=checked == version)
        touch(file)
        self._note_checked(file, version)
        return cache, version

    def _note_checked(self, file: RunFile, version: Version | None) -> None:
        """Remember a file whose checksum is right, as it was then."""
        with self._lock:
            if len(self._checked) >= _CHECKED:
                self._checked.clear()
            if version is not None:
                self._checked[file.path] = version

    def _pinned_keys(self) -> set[str]:
        with self._lock:
            return {key for keys in self._pinned.values() for key in keys}

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
        self._sources.pop(leaf, None)
        for key in held.keys if held else ():
            self._leaves[key].discard(leaf)
            if not self._leaves[key]:
                del self._leaves[key]
