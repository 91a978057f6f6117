"""What is kept in mind of much that comes by: the latest of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")

_LATEST = 10_000  # messages, recalls or ids


class Latest(Generic[V]):
    """A mapping that keeps its latest entries only; safe for threads."""

    def __init__(self) -> None:
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
            while len(self._entries) > _LATEST:
                self._entries.popitem(last=False)
