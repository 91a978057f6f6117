"""What a model said as LlamaIndex's responses, whole or as far as it has come."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ContentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from memos_core import model as models
from memos_core.model.chat import facts_of

if TYPE_CHECKING:
    from memos_core.model import AnswerReader, Generation, Said


class Answer:
    """One answer while its text comes; each response is the answer so far.

    A call that could not be read is text, as it was written. With ``one_call`` only the first of
    the tool calls is given.
    """

    def __init__(self, reader: AnswerReader, model: str, *, one_call: bool = False) -> None:
        self._reader = reader
        self._model = model
        self._one_call = one_call
        self._blocks: list[ContentBlock] = []

    def read(self, text: str) -> list[ChatResponse]:
        """Return what is certain, now that the model said a text."""
        return self._responses(self._reader.read(text))

    def end(self, generation: Generation) -> list[ChatResponse]:
        """Return what was held back, and last the whole answer, with what it took."""
        held = self._responses(self._reader.end())
        read = generation.cached_tokens + generation.prefilled_tokens
        said = len(generation.token_ids)
        last = ChatResponse(
            message=self._message(),
            delta="",
            raw=facts_of(generation, self._model),
            additional_kwargs={
                "prompt_tokens": read,
                "completion_tokens": said,
                "total_tokens": read + said,
                "cached_tokens": generation.cached_tokens,
            },
        )
        return [*held, last]

    def whole(self, generation: Generation) -> ChatResponse:
        """Return the whole answer at once."""
        self.read(generation.text)
        last = self.end(generation)[-1]
        last.delta = None
        return last

    def _responses(self, parts: Iterable[Said]) -> list[ChatResponse]:
        return [response for part in parts if (response := self._response(part))]

    def _response(self, part: Said) -> ChatResponse | None:
        delta, thought = "", None
        last = self._blocks[-1] if self._blocks else None
        if isinstance(part, models.Thought):
            thought = part.text
            before = last.content or "" if isinstance(last, ThinkingBlock) else None
            self._say(ThinkingBlock(content=(before or "") + thought), goes_on=before is not None)
        elif isinstance(part, models.ToolCall):
            if self._one_call and any(isinstance(one, ToolCallBlock) for one in self._blocks):
                return None
            self._say(
                ToolCallBlock(
                    tool_call_id=secrets.token_hex(5)[:9],  # as Mistral's templates want them
                    tool_name=part.name,
                    tool_kwargs=dict(part.arguments),
                )
            )
        else:
            delta = part if isinstance(part, str) else part.text
            before = last.text if isinstance(last, TextBlock) else None
            self._say(TextBlock(text=(before or "") + delta), goes_on=before is not None)
        return ChatResponse(
            message=self._message(),
            delta=delta,
            additional_kwargs={} if thought is None else {"thinking_delta": thought},
        )

    def _say(self, block: ContentBlock, *, goes_on: bool = False) -> None:
        # Blocks that were given out are never changed.
        self._blocks = [*(self._blocks[:-1] if goes_on else self._blocks), block]

    def _message(self) -> ChatMessage:
        return ChatMessage(
            role=MessageRole.ASSISTANT, blocks=list(self._blocks) or [TextBlock(text="")]
        )
