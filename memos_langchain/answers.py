"""What a model said as LangChain's messages, whole or in chunks."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    InputTokenDetails,
    InvalidToolCall,
    UsageMetadata,
)
from langchain_core.messages.tool import (
    ToolCall,
    invalid_tool_call,
    tool_call,
    tool_call_chunk,
)
from langchain_core.outputs import ChatGenerationChunk

from memos_core import model as models
from memos_core.model.chat import facts_of

if TYPE_CHECKING:
    from memos_core.model import AnswerReader, Generation, Said

# LangChain counts the blocks of a streamed answer from 0, and joins those with one number.
_FIRST_CALL = 1_000


def message_of(
    parts: Sequence[Said], generation: Generation, model: str, *, one_call: bool = False
) -> AIMessage:
    """Return a whole answer; with ``one_call`` only the first of its tool calls."""
    calls: list[ToolCall] = []
    broken: list[InvalidToolCall] = []
    for part in parts:
        if isinstance(part, models.ToolCall):
            calls.append(tool_call(name=part.name, args=dict(part.arguments), id=_new_id()))
        elif isinstance(part, models.BrokenToolCall):
            broken.append(
                invalid_tool_call(name=None, args=part.text, id=_new_id(), error=part.why)
            )
    thoughts = "".join(part.text for part in parts if isinstance(part, models.Thought))
    return AIMessage(
        content="".join(part for part in parts if isinstance(part, str)),
        additional_kwargs={"reasoning_content": thoughts} if thoughts else {},
        tool_calls=calls[:1] if one_call else calls,
        invalid_tool_calls=broken,
        usage_metadata=_usage(generation),
        response_metadata=_facts(generation, model),
    )


class Chunks:
    """Makes the chunks of one answer while its text comes; else as ``message_of``."""

    def __init__(self, reader: AnswerReader, model: str, *, one_call: bool = False) -> None:
        self._reader = reader
        self._model = model
        self._one_call = one_call
        self._called = False
        self._calls = count(_FIRST_CALL)

    def read(self, text: str) -> list[AIMessageChunk]:
        """Return what is certain, now that the model said a text."""
        return self._chunks(self._reader.read(text))

    def end(self, generation: Generation) -> list[AIMessageChunk]:
        """Return what was held back, and the last chunk, which says what it took."""
        last = AIMessageChunk(
            content="",
            usage_metadata=_usage(generation),
            response_metadata=_facts(generation, self._model),
            chunk_position="last",
        )
        return [*self._chunks(self._reader.end()), last]

    def _chunks(self, parts: Iterable[Said]) -> list[AIMessageChunk]:
        return [self._chunk(part) for part in parts if not self._is_too_much(part)]

    def _is_too_much(self, part: Said) -> bool:
        return self._one_call and self._called and isinstance(part, models.ToolCall)

    def _chunk(self, part: Said) -> AIMessageChunk:
        if isinstance(part, str):
            return AIMessageChunk(content=part)
        if isinstance(part, models.Thought):
            return AIMessageChunk(content="", additional_kwargs={"reasoning_content": part.text})
        called = isinstance(part, models.ToolCall)
        self._called = self._called or called
        chunk = tool_call_chunk(
            name=part.name if called else None,
            args=json.dumps(part.arguments, ensure_ascii=False) if called else part.text,
            id=_new_id(),
            index=next(self._calls),
        )
        return AIMessageChunk(content="", tool_call_chunks=[chunk])


def told(
    chunk: AIMessageChunk, run_manager: CallbackManagerForLLMRun | None
) -> ChatGenerationChunk:
    """Tell a run of a chunk, and return it as LangChain wants it."""
    generation = ChatGenerationChunk(message=chunk)
    if run_manager is not None:
        run_manager.on_llm_new_token(str(chunk.text), chunk=generation)
    return generation


async def atold(
    chunk: AIMessageChunk, run_manager: AsyncCallbackManagerForLLMRun | None
) -> ChatGenerationChunk:
    """As ``told``."""
    generation = ChatGenerationChunk(message=chunk)
    if run_manager is not None:
        await run_manager.on_llm_new_token(str(chunk.text), chunk=generation)
    return generation


def _new_id() -> str:
    return secrets.token_hex(5)[:9]  # as Mistral's templates want them


def _usage(generation: Generation) -> UsageMetadata:
    read, said = generation.cached_tokens + generation.prefilled_tokens, len(generation.token_ids)
    return UsageMetadata(
        input_tokens=read,
        output_tokens=said,
        total_tokens=read + said,
        input_token_details=InputTokenDetails(cache_read=generation.cached_tokens),
    )


def _facts(generation: Generation, model: str) -> dict[str, Any]:
    return {"model_provider": "memos", **facts_of(generation, model)}
