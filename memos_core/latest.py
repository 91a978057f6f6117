"""What is kept in mind of much that comes by: the latest of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class Latest(Generic[V]):
    """A mapping that keeps its latest entries only, ``most`` of them; safe for threads."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._entries: OrderedDict[object, V] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._entries

    def get(self, key: object) -> V | None:
        """Return what is kept under a key, or None."""
        with self._lock:
            return self._entries.get(key)

    def __setitem__(self, key: object, value: V) -> None:
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)

    def discard(self, key: object) -> None:
        """Keep nothing under a key."""
        with self._lock:
            self._entries.pop(key, None)
