"""Where an answer ends."""

from __future__ import annotations

import re
import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import StoppingCriteria

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token of tokenizers that fall back to bytes
_MARGIN = 16  # characters: more than a decoder drops or joins where a text begins


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """What ends an answer: a token that is no part of it, or a stop string in its text."""

    tokenizer: PreTrainedTokenizerBase
    tokens: frozenset[int]
    texts: Sequence[str]

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of generated tokens up to one that ends it, stop strings left in."""
        said = self._before(ids)
        return cast("str", cast("Any", self.tokenizer).decode(said, skip_special_tokens=True))

    def stops(self, ids: Sequence[int]) -> bool:
        """Return whether there is a stop string in the text of generated tokens."""
        return cut(self.text(ids), self.texts) is not None

    def stops_now(self, ids: Sequence[int]) -> bool:
        """Return whether the newest of generated tokens completed a stop string.

        Only the end of the text is decoded. The first characters of a part of it may differ from
        those of the whole, so it is some longer than any stop string.
        """
        wanted = max(map(len, self.texts)) + _MARGIN
        start, count = len(ids), wanted
        text = ""
        while len(text) < wanted and start > 0:
            start = max(0, len(ids) - count)
            while start > 0 and is_byte(self.tokenizer, ids[start]):
                start -= 1
            text, count = self.text(ids[start:]), 2 * count
        return cut(text, self.texts) is not None

    def of(self, ids: Sequence[int]) -> tuple[tuple[int, ...], str, bool]:
        """Return an answer's tokens and text, and whether it was ended; ``ids`` may go on after it.

        The tokens are those up to the one that completed a stop string, or before one that ends.
        """
        said = self._before(ids)
        if self.stops(said):
            lengths = range(len(said))
            said = said[: bisect_left(lengths, 1, key=lambda length: self.stops(said[:length]))]
        text = self.text(said)
        before = cut(text, self.texts)
        return tuple(said), text if before is None else before, before is not None or said != ids

    def _before(self, ids: Sequence[int]) -> list[int]:
        return list(takewhile(lambda token: token not in self.tokens, ids))


class StopTexts(StoppingCriteria):
    """Stops rows whose answer, which begins after ``prompt`` tokens, has a stop string."""

    def __init__(self, ending: Ending, prompt: int) -> None:
        self._ending = ending
        self._prompt = prompt

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] transformers names a bool
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.Tensor:
        """Return for each row whether it is to stop."""
        del scores, kwargs
        rows = cast("list[list[int]]", cast("Any", input_ids)[:, self._prompt :].tolist())
        return torch.tensor([self._ending.stops_now(row) for row in rows], device=input_ids.device)


class Clock(StoppingCriteria):
    """Notes when the first token was there, and stops where nobody listens any more."""

    def __init__(self, started: float, stopped: threading.Event | None = None) -> None:
        self._started = started
        self._stopped = stopped
        self.ttft_seconds = 0.0

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] transformers names a bool
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.Tensor:
        """Return for each row whether it is to stop."""
        del scores, kwargs
        self.ttft_seconds = self.ttft_seconds or time.perf_counter() - self._started
        stop = self._stopped is not None and self._stopped.is_set()
        return torch.full((input_ids.shape[0],), stop, device=input_ids.device)


def is_byte(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """Return whether a token is one byte, which is decoded together with those beside it."""
    named = cast("str | None", cast("Any", tokenizer).convert_ids_to_tokens(token))
    return named is not None and _BYTE.fullmatch(named) is not None


def cut(text: str, stops: Sequence[str]) -> str | None:
    """Return a text up to the first stop string in it, None where there is none."""
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else None
