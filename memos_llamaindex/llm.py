"""A language model with memories as an LLM of LlamaIndex's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from uuid import UUID

from llama_index.core.base.llms.generic_utils import (
    achat_to_completion_decorator,
    astream_chat_to_completion_decorator,
    chat_to_completion_decorator,
    stream_chat_to_completion_decorator,
)
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.llms import callbacks
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool
from pydantic import Field, PrivateAttr, SkipValidation, field_validator, model_validator
from typing_extensions import override

from memos_core import InvalidInput, MemCube, View
from memos_core import model as models
from memos_core.model.chat import Call, Defaults, call_of, checked_model, memory_of, name_of
from memos_core.model.pieces import Whole, close_late, stopped_if_left
from memos_llamaindex.answers import Answer
from memos_llamaindex.turns import turns_of

if TYPE_CHECKING:
    from memos_core.model import MemoryModel, Stream, ToolSyntax
else:  # the adapters load no tensors; who makes a MemoryModel has
    MemoryModel = Any

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def _told_as_chat(method: F) -> F:
    """Tell LlamaIndex's callbacks and instrumentation of a call; its decorators have no types."""
    return cast("F", vars(callbacks)["llm_chat_callback"]()(method))


def _told_as_completion(method: F) -> F:
    return cast("F", vars(callbacks)["llm_completion_callback"]()(method))


class MemOSLLM(FunctionCallingLLM):
    """Chats with a MemoryModel, which reads memories as text and as KV caches.

    ``MemOSLLM(model=MemoryModel.from_pretrained("Qwen/Qwen2.5-0.5B-Instruct", ann), memory=ann)``

    ``memory`` is what it reads: a view, whose KV cache and ``recall`` memories that fit the last
    message are read, or cubes or their ids, among them those that ``MemoryModel.encode`` made. All
    fields can be chosen for one call: ``llm.chat(messages, memory=[id], temperature=0)``, where
    ``memory=[]`` is none.

    Prompts are made by the chat template, as token ids, and ``complete`` asks as a user's message.
    ``response.raw["memories"]`` names what was read, and ``additional_kwargs`` count the tokens,
    with ``cached_tokens`` from a KV cache. Where a tool is required the answer is made to begin
    with a call; its arguments are the model's own.

    Raises:
        InvalidInput: messages, tools or options that the model cannot use; the message says what
            to do. In fields it comes as pydantic's ValidationError.
        CubeNotFound: a memory is not there, or may not be read.
        CacheMismatch: a KV cache is of another model, template, system text or tools.
        ContextTooLong: memory, messages and answer do not fit the context window.
        TimeoutError: the answer took longer than ``timeout``.
    """

    model: MemoryModel = Field(exclude=True, repr=False)
    model_name: str = ""
    """What the model is called in traces and answers; by default what it was loaded by."""
    memory: SkipValidation[View | MemCube | UUID | str | Sequence[MemCube | UUID | str] | None] = (
        Field(default=None, exclude=True)
    )
    recall: int = Field(default=5, ge=0)
    """How many memories of a view are read as text, beside those in its KV cache."""
    temperature: float | None = Field(default=None, ge=0)
    """0 is greedy; None is what the model's own settings say."""
    max_tokens: int = Field(default=512, ge=1)
    """Of the answer, tool calls and thoughts included."""
    stop: str | Sequence[str] | None = None
    """Strings before which the answer ends."""
    options: Mapping[str, Any] = Field(default_factory=dict[str, Any])
    """Options of transformers' ``generate``, such as ``top_p`` and ``num_beams``."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds, from the first look at the memory to the end of the answer."""

    _threads: ThreadPoolExecutor = PrivateAttr(
        default_factory=lambda: ThreadPoolExecutor(thread_name_prefix="memos-llm")
    )
    _known_syntax: Any = PrivateAttr(default=None)

    @field_validator("model", mode="before")
    @classmethod
    def _check_model(cls, model: Any) -> Any:
        return checked_model(model)

    @field_validator("memory", mode="before")
    @classmethod
    def _check_memory(cls, memory: object) -> View | list[str] | None:
        return cast("View | list[str] | None", memory_of(memory))

    @model_validator(mode="after")
    def _name_it(self) -> Self:
        self.model_name = self.model_name or name_of(self.model)
        return self

    @classmethod
    @override
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex knows this class."""
        return "MemOSLLM"

    @property
    @override
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex makes its budgets from, and whether the model calls tools."""
        config = cast("Any", self.model.model.config).get_text_config(decoder=True)
        known: dict[str, Any] = {}
        if window := models.context_window(config):
            known["context_window"] = window
        return LLMMetadata(
            num_output=self.max_tokens,
            is_chat_model=True,
            is_function_calling_model=self._syntax.shows_tools and self._syntax.calls_are_read,
            model_name=self.model_name,
            **known,
        )

    # ---------------------------------------------------------------- answers

    @override
    @_told_as_chat
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._chat(messages, **kwargs)

    @override
    @_told_as_chat
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await self._achat(messages, **kwargs)

    @override
    @_told_as_chat
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return self._stream_chat(messages, **kwargs)

    @override
    @_told_as_chat
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        return await self._astream_chat(messages, **kwargs)

    @override
    @_told_as_completion
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return chat_to_completion_decorator(self._chat)(prompt, **kwargs)

    @override
    @_told_as_completion
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        return await achat_to_completion_decorator(self._achat)(prompt, **kwargs)

    @override
    @_told_as_completion
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        return stream_chat_to_completion_decorator(self._stream_chat)(prompt, **kwargs)

    @override
    @_told_as_completion
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        return await astream_chat_to_completion_decorator(self._astream_chat)(prompt, **kwargs)

    def _chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        asked, stream = self._open(messages, kwargs)
        return _answer(asked).whole(stream.result)

    async def _achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        asked, stream = await self._aopen(messages, kwargs)
        with stopped_if_left(stream):
            return _answer(asked).whole(await self._in_thread(_result, stream))

    def _stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        asked, stream = self._open(messages, kwargs)

        def responses() -> ChatResponseGen:
            answer = _answer(asked)
            with closing(stream):
                for piece in stream:
                    yield from answer.read(piece)
                yield from answer.end(stream.result)

        return responses()

    async def _astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        asked, stream = await self._aopen(messages, kwargs)

        async def responses() -> ChatResponseAsyncGen:
            answer = _answer(asked)
            with stopped_if_left(stream):
                while (piece := await self._in_thread(_next, stream)) is not None:
                    for response in answer.read(piece):
                        yield response
                for response in answer.end(stream.result):
                    yield response

        return responses()

    # ---------------------------------------------------------------- tools

    @override
    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        asked = [ChatMessage(role=MessageRole.USER, content=user_msg)]
        if user_msg is None or isinstance(user_msg, ChatMessage):
            asked = [] if user_msg is None else [user_msg]
        if tool_required:
            kwargs.setdefault("tool_choice", "any")
        return {
            "messages": [*(chat_history or []), *asked],
            "tools": [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools],
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    @override
    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the tool calls of an answer.

        Raises:
            InvalidInput: there are none, and ``error_on_no_tool_call``.
        """
        calls = [
            ToolSelection(
                tool_id=block.tool_call_id or block.tool_name,
                tool_name=block.tool_name,
                tool_kwargs=cast("dict[str, Any]", block.tool_kwargs),
            )
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]
        if not calls and error_on_no_tool_call:
            raise InvalidInput(
                "the model called no tool: require one with tool_required=True, or pass "
                "error_on_no_tool_call=False"
            )
        return calls

    # ---------------------------------------------------------------- what is asked

    def _asked(self, messages: Sequence[ChatMessage], given: dict[str, Any]) -> Call:
        """Return what a call asks; ``given`` are its options."""
        named = given.pop("memory", None)
        memory = memory_of(self.memory if named is None else named)
        defaults = Defaults(
            recall=self.recall,
            max_tokens=self.max_tokens,
            stop=self.stop,
            temperature=self.temperature,
            timeout=self.timeout,
            options=self.options,
        )
        return call_of(
            self.model,
            name=self.model_name,
            syntax=self._syntax,
            turns=turns_of(messages),
            memory=memory,
            given=given,
            defaults=defaults,
        )

    @property
    def _syntax(self) -> ToolSyntax:
        if self._known_syntax is None:
            self._known_syntax = models.ToolSyntax(self.model.layout, self.model.tokenizer)
        return self._known_syntax

    def _open(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]
    ) -> tuple[Call, Stream | Whole]:
        asked = self._asked(messages, dict(kwargs))
        return asked, asked.begin()

    async def _aopen(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]
    ) -> tuple[Call, Stream | Whole]:
        opened = self._threads.submit(copy_context().run, self._open, messages, kwargs)
        try:
            return await asyncio.wrap_future(opened)
        except asyncio.CancelledError:
            opened.add_done_callback(close_late)
            raise

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        # asyncio's own threads are shared with everybody's tools.
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.model_copy()  # a model is shared, never copied


def _answer(asked: Call) -> Answer:
    return Answer(asked.reader(), asked.name, one_call=asked.one_call)


def _result(stream: Stream | Whole) -> Any:
    return stream.result


def _next(stream: Iterator[str]) -> str | None:
    return next(stream, None)
