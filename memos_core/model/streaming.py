"""The text of an answer while a model generates it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from transformers.generation.streamers import BaseStreamer

from memos_core.model.stopping import is_byte

if TYPE_CHECKING:
    import torch

    from memos_core.model.generation import TextPieces
    from memos_core.model.stopping import Ending


class Streamer(BaseStreamer):
    """Passes on the text of the tokens so far, as far as no further token changes it.

    All tokens are decoded each time: what a token says depends on those before it.
    """

    def __init__(self, ending: Ending, pieces: TextPieces) -> None:
        self._ending = ending
        self._to = pieces
        self._ids: list[int] | None = None
        self._passed = ""

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt's tokens, and then each token that is generated."""
        if self._ids is None:
            self._ids = []
            return
        self._ids += cast("list[int]", cast("Any", value).flatten().tolist())
        self._pass_on(self._settled(self._ids))

    def end(self) -> None:
        """Pass on what was held back."""
        self._pass_on(self._ending.text(self._ids or []))
        self._to.end()

    def _pass_on(self, text: str) -> None:
        self._to.add(text[len(self._passed) :])
        self._passed = text

    def _settled(self, ids: Sequence[int]) -> str:
        """Return the text of tokens that stays whatever follows, at least what was passed on."""
        tokenizer = cast("Any", self._ending.tokenizer)
        known = len(ids)
        # A character of several bytes is read together with the bytes that come next to it.
        while known and is_byte(tokenizer, ids[known - 1]):
            known -= 1
        text = self._ending.text(ids[:known]).rstrip("\ufffd")
        if tokenizer.clean_up_tokenization_spaces:  # which drops spaces before marks and "n't"
            text = text[: text.rfind(" ") + 1].rstrip(" ")
        return text if len(text) > len(self._passed) else self._passed
