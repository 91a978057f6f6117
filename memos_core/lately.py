"""What was noted within the last seconds."""

from __future__ import annotations

import time

_MOST = 10_000  # things that are remembered


class Lately:
    """Things that were noted within the last so many seconds; safe for threads."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._noted: dict[object, float] = {}

    def __contains__(self, thing: object) -> bool:
        noted = self._noted.get(thing)
        return noted is not None and time.monotonic() - noted < self._seconds

    def add(self, thing: object) -> None:
        """Note something now."""
        if len(self._noted) >= _MOST:
            self._noted.clear()
        self._noted[thing] = time.monotonic()
