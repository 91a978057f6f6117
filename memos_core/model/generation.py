"""What a model answers, and what it read for it."""

from __future__ import annotations

import queue
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self
from uuid import UUID

from memos_core.cube import Kind
from memos_core.errors import InvalidInput
from memos_core.model.stopping import cut

FinishReason = Literal["stop", "length", "interrupted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """A memory that an answer was given from: which, in which kind, and of how many tokens.

    ``approximate`` is whether its KV cache was composed approximately, as was asked for.
    """

    cube: UUID
    version: int
    kind: Kind
    tokens: int
    approximate: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """An answer.

    ``token_ids`` are its tokens without one that ended it; those of a stop string are among them,
    as a token of the text may have its beginning. Of the prompt's tokens, ``cached_tokens``
    came from a KV cache and ``prefilled_tokens`` were read for this answer. ``ttft_seconds`` is
    the time from the call to the first token, the look for the memory included.
    ``finish_reason`` is "length" where ``max_new_tokens`` ended it, and "interrupted" where
    ``max_time`` did, or the end of who listened to a stream.
    """

    text: str
    token_ids: tuple[int, ...]
    reads: tuple[Read, ...]
    prefilled_tokens: int
    cached_tokens: int
    ttft_seconds: float
    finish_reason: FinishReason


class Stream(Iterator[str]):
    """The pieces of an answer's text as they come, none of them a part of a stop string.

    ``result`` is the whole answer, once all pieces were taken; of a stream that was closed it is
    what was said before that, "interrupted". Leaving a ``with`` block, and ``close``, stop the
    model after its next token; so does letting go of a stream.
    """

    def __init__(self, work: Callable[[TextPieces, threading.Event], Generation]) -> None:
        self._pieces = _Pieces()
        self._stopped = threading.Event()
        self._result: Generation | None = None
        self._error: BaseException | None = None
        given = (work, self._pieces, self._stopped)  # without the stream, which may be let go
        self._thread = threading.Thread(target=_answer, args=given, daemon=True)
        self._thread.start()
        weakref.finalize(self, self._stopped.set)

    def __next__(self) -> str:
        piece = self._pieces.get()
        if isinstance(piece, str):
            return piece
        if isinstance(piece, Generation):
            self._result = piece
        elif piece is not None:
            self._error = piece
        self._pieces.put(None)  # for whoever asks again, in whichever thread
        if isinstance(piece, BaseException):
            raise piece
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def result(self) -> Generation:
        """The whole answer; what is still to come is waited for."""
        for _ in self:
            pass
        if self._result is None:
            raise self._error or InvalidInput("the stream was closed before its end")
        return self._result

    def close(self) -> None:
        """Stop the model, and wait until it has."""
        self._stopped.set()
        self._thread.join()


_Pieces = queue.SimpleQueue[str | Generation | BaseException | None]  # None is after the end


def _answer(
    work: Callable[[TextPieces, threading.Event], Generation],
    pieces: _Pieces,
    stopped: threading.Event,
) -> None:
    try:
        pieces.put(work(TextPieces(pieces.put), stopped))
    except BaseException as error:  # noqa: BLE001 it is raised where the stream is read
        # Who holds an error holds the tensors of the functions that it came from.
        chain: BaseException | None = error
        while chain is not None:
            traceback.clear_frames(chain.__traceback__)
            chain = chain.__context__
        trace = error.__traceback__
        pieces.put(error.with_traceback(trace and trace.tb_next))


class TextPieces:
    """Gives text out piece by piece, and holds back what may be the beginning of a stop string."""

    def __init__(self, give: Callable[[str], None]) -> None:
        self._give = give
        self._held = ""
        self._ended = False
        self.stops: Sequence[str] = ()

    def add(self, text: str) -> None:
        """Take what the model said next."""
        if self._ended:
            return
        self._held += text
        said = cut(self._held, self.stops)
        if said is not None:
            self._ended = True
        else:
            said = self._held[: len(self._held) - self._open_end()]
        self._held = self._held[len(said) :]
        if said:
            self._give(said)

    def end(self) -> None:
        """Give out what was held back: it was no stop string."""
        if self._held and not self._ended:
            self._give(self._held)
        self._ended = True

    def _open_end(self) -> int:
        """Return how many characters at the end may begin a stop string."""
        longest = max(map(len, self.stops), default=0)
        for length in range(min(longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self.stops):
                return length
        return 0
