"""The end of an answer that comes in pieces: whole, too late, or not waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from memos_core.model.generation import Generation, Stream

V = TypeVar("V")


class Whole(Iterator[str]):
    """An answer that came at once, read as a stream is."""

    def __init__(self, result: Generation) -> None:
        self.result = result
        self._pieces = iter([result.text])

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Nothing is left to stop."""


class Deadline:
    """A logits processor that fails once a time has passed, wherever the answer is by then."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def __call__(self, input_ids: object, scores: V) -> V:
        """Return the scores as they are.

        Raises:
            TimeoutError: it is too late.
        """
        del input_ids
        if time.monotonic() > self._until:
            raise TimeoutError(
                f"the answer took longer than {self._seconds} s: allow more with timeout=, or "
                "fewer max_tokens="
            )
        return scores


@contextmanager
def stopped_if_left(stream: Stream | Whole) -> Generator[None, None, None]:
    """Stop a stream whose reader is cancelled or fails, without waiting until it has."""
    try:
        yield
    except BaseException:
        threading.Thread(target=stream.close, daemon=True).start()
        raise


def close_late(begun: Future[tuple[V, Stream | Whole]]) -> None:
    """Stop a stream that began for a call which was cancelled meanwhile."""
    if not begun.cancelled() and begun.exception() is None:
        begun.result()[1].close()
