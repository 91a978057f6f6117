"""A language model with memories as a chat model of LangChain's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from uuid import UUID

from langchain_core.caches import BaseCache
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    SkipValidation,
    field_validator,
    model_validator,
)
from typing_extensions import override

from memos_core import InvalidInput, MemCube, View
from memos_core import model as models
from memos_core.model.chat import (
    Call,
    Defaults,
    call_of,
    checked_choice,
    checked_model,
    memory_of,
    name_of,
)
from memos_core.model.pieces import Whole, close_late, stopped_if_left
from memos_langchain.answers import Chunks, atold, message_of, told
from memos_langchain.messages import turns_of

if TYPE_CHECKING:
    from memos_core.model import MemoryModel, Stream, ToolSyntax
else:  # the adapters load no tensors; who makes a MemoryModel has
    MemoryModel = Any

T = TypeVar("T")


class ChatMemOS(BaseChatModel):
    """Chats with a MemoryModel, which reads memories as text and as KV caches.

    ``ChatMemOS(model=MemoryModel.from_pretrained("Qwen/Qwen2.5-0.5B-Instruct", ann), memory=ann)``

    ``memory`` is what it reads: a view, whose KV cache and ``recall`` memories that fit the last
    message are read, or ids of cubes, among them those that ``MemoryModel.encode`` made. Both can
    be chosen for one call, as can the other fields: ``chat.bind(memory=[id])``,
    ``chat.invoke(messages, memory=[id])``, or ``model_settings={"memory": [id]}`` of an agent's
    request. There ``memory`` is ids alone, and ``memory=[]`` is none. Ids are read through the view
    that the MemoryModel has; a view in ``memory`` must be able to read them too.

    ``usage_metadata`` counts what came from a KV cache as ``cache_read``, and
    ``response_metadata["memories"]`` names what was read. Tools, tool calls and results go through
    the chat template. With ``tool_choice`` the answer is made to begin with a call; its arguments
    are the model's own, and ``with_structured_output``, which works this way whatever its
    ``method``, raises where they do not fit the schema.

    Raises:
        InvalidInput: messages, tools or options that the model cannot use; the message says what
            to do. In fields it comes as pydantic's ValidationError.
        CubeNotFound: a memory is not there, or may not be read.
        CacheMismatch: a KV cache is of another model, template, system text or tools.
        ContextTooLong: memory, messages and answer do not fit the context window.
        TimeoutError: the answer took longer than ``timeout``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: MemoryModel = Field(exclude=True)
    models: Mapping[str, MemoryModel] = Field(default_factory=dict, exclude=True)
    """Other models, which a call chooses by name: ``model="small"``."""
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
    """Strings before which the answer ends; those of a call replace them."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Options of transformers' ``generate``, such as ``top_p`` and ``num_beams``."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds, from the first look at the memory to the end of the answer."""
    streaming: bool = False
    cache: BaseCache | bool | None = Field(default=False, exclude=True)
    """LangChain's cache of answers: off, since what it holds outlives a memory."""
    max_retries: int | None = Field(default=None, exclude=True)
    """Unused, for code that passes it to any chat model: here is no network to fail."""
    api_key: SecretStr | None = Field(default=None, exclude=True)
    """Unused, too."""

    _threads: ThreadPoolExecutor = PrivateAttr(
        default_factory=lambda: ThreadPoolExecutor(thread_name_prefix="memos-chat")
    )
    _syntaxes: dict[int, ToolSyntax] = PrivateAttr(default_factory=dict[int, Any])

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
        if self.profile is None:  # langchain-core 1.2.10 asks nobody for it
            self.profile = self._resolve_model_profile()
        return self

    # ---------------------------------------------------------------- answers

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        asked, stream = self._open(messages, stop, kwargs)
        return _result(asked, stream)

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        asked, stream = await self._aopen(messages, stop, kwargs)
        with stopped_if_left(stream):
            return await self._in_thread(_result, asked, stream)

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        asked, stream = self._open(messages, stop, kwargs)
        chunks = Chunks(asked.reader(), asked.name, one_call=asked.one_call)
        with closing(stream):
            for piece in stream:
                for chunk in chunks.read(piece):
                    yield told(chunk, run_manager)
            for chunk in chunks.end(stream.result):
                yield told(chunk, run_manager)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        asked, stream = await self._aopen(messages, stop, kwargs)
        chunks = Chunks(asked.reader(), asked.name, one_call=asked.one_call)
        with stopped_if_left(stream):
            while (piece := await self._in_thread(_next, stream)) is not None:
                for chunk in chunks.read(piece):
                    yield await atold(chunk, run_manager)
            for chunk in chunks.end(stream.result):
                yield await atold(chunk, run_manager)

    def _open(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, kwargs: dict[str, Any]
    ) -> tuple[Call, Stream | Whole]:
        asked = self._asked(messages, stop, dict(kwargs))
        return asked, asked.begin()

    async def _aopen(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, kwargs: dict[str, Any]
    ) -> tuple[Call, Stream | Whole]:
        opened = self._threads.submit(copy_context().run, self._open, messages, stop, kwargs)
        try:
            return await asyncio.wrap_future(opened)
        except asyncio.CancelledError:
            opened.add_done_callback(close_late)
            raise

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        # LangChain's own threads, and asyncio's, are shared with everybody's tools.
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    # ---------------------------------------------------------------- what is asked

    def _asked(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, given: dict[str, Any]
    ) -> Call:
        """Return what a call asks; ``given`` are its options, some of which are taken out of it."""
        model, name = self._named(given.pop("model", None))
        for unused in ("stream", "strict"):
            given.pop(unused, None)
        memory = self._memory(given)
        if stop is not None:
            given["stop"] = stop
        defaults = Defaults(
            recall=self.recall,
            max_tokens=self.max_tokens,
            stop=self.stop,
            temperature=self.temperature,
            timeout=self.timeout,
            options=self.options,
        )
        return call_of(
            model,
            name=name,
            syntax=self._syntax(model),
            turns=turns_of(messages),
            memory=memory,
            given=given,
            defaults=defaults,
        )

    def _named(self, name: object) -> tuple[MemoryModel, str]:
        if name is None or name == self.model_name:
            return self.model, self.model_name
        if isinstance(name, str) and name in self.models:
            return self.models[name], name
        known = ", ".join([self.model_name, *self.models])
        raise InvalidInput(
            f"there is no model {name!r} here, only {known}: pass others to the constructor, "
            "models={name: MemoryModel(...)}"
        )

    def _memory(self, given: dict[str, Any]) -> View | list[str] | None:
        """Return the memories that a call names, else those of this model."""
        own = cast("View | list[str] | None", self.memory)
        if given.get("memory") is None:
            given.pop("memory", None)
            return own
        ids = _ids_of(given.pop("memory"))
        if ids and isinstance(own, View):
            own.remembered(ids)  # whose view this is must be able to read them
        return ids or None

    def _syntax(self, model: MemoryModel) -> ToolSyntax:
        known = self._syntaxes.get(id(model))
        if known is None:
            known = self._syntaxes[id(model)] = models.ToolSyntax(model.layout, model.tokenizer)
        return known

    # ---------------------------------------------------------------- tools and structure

    @override
    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a chat model that knows tools; ``kwargs`` are options of its calls.

        ``tool_choice`` is "auto", "any", "none" or the name of the tool that must be called.

        Raises:
            InvalidInput: ``tool_choice`` is none of these.
        """
        shown = [convert_to_openai_tool(tool) for tool in tools]
        choice = checked_choice(tool_choice, shown)
        if choice is not None:
            kwargs["tool_choice"] = choice
        return self.bind(tools=shown, **kwargs)

    # ---------------------------------------------------------------- counting

    @override
    def get_token_ids(self, text: str) -> list[int]:
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        tokenizer = cast("Any", self.model.tokenizer)
        return cast("list[int]", tokenizer.encode(text, add_special_tokens=False))

    @override
    def get_num_tokens_from_messages(
        self,
        messages: Sequence[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
    ) -> int:
        """Return how many tokens the prompt of messages and tools has, without memories.

        Of a part of a conversation that the chat template does not take, what is said is counted.
        """
        turns = turns_of(messages)
        shown = [convert_to_openai_tool(tool) for tool in tools or ()]
        try:
            return len(self.model.layout.prompt(turns, tools=shown or None).ids)
        except InvalidInput:
            said = [turn["content"] for turn in turns]
            called = [json.dumps(turn.get("tool_calls", "")) for turn in turns]
            return sum(map(self.get_num_tokens, [*said, *called, *map(json.dumps, shown)]))

    # ---------------------------------------------------------------- what it is called

    @property
    @override
    def _llm_type(self) -> str:
        return "memos"

    @property
    @override
    def _identifying_params(self) -> dict[str, Any]:
        memory = cast("View | list[str] | None", self.memory)
        read = {"namespace": list(memory.namespace)} if isinstance(memory, View) else memory
        return {
            "model_name": self.model_name,
            "memory": read,
            "recall": self.recall,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "stop": self.stop,
            "options": dict(self.options),
            "timeout": self.timeout,
        }

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "memos"
        params.setdefault("ls_model_name", self.model_name)
        own = [self.stop] if isinstance(self.stop, str) else list(self.stop or [])
        if stop or own:
            params["ls_stop"] = stop or own
        return params

    @override
    def _resolve_model_profile(self) -> ModelProfile | None:
        config = cast("Any", self.model.model.config).get_text_config(decoder=True)
        calls = self._syntax(self.model).shows_tools
        profile = ModelProfile(
            text_inputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            pdf_inputs=False,
            text_outputs=True,
            tool_calling=calls,
            tool_choice=calls,
        )
        if window := models.context_window(config):
            profile["max_input_tokens"] = window
        return profile


def _ids_of(memory: object) -> list[str]:
    """Return the ids that a call names, and nothing that cannot be traced and sent."""
    alone = isinstance(memory, UUID | str)
    given = [memory] if alone else memory
    if isinstance(given, list | tuple):
        ids = [str(one) for one in cast("Sequence[object]", given) if isinstance(one, UUID | str)]
        if len(ids) == len(cast("Sequence[object]", given)):
            return ids
    raise InvalidInput(
        "a call names memories by their ids, which can be traced and sent: memory=[str(cube.id)]; "
        f"not {type(memory).__name__}. A view is given to the constructor"
    )


def _result(asked: Call, stream: Stream | Whole) -> ChatResult:
    whole = stream.result
    said = message_of(asked.said(whole), whole, asked.name, one_call=asked.one_call)
    return ChatResult(generations=[ChatGeneration(message=said)])


def _next(stream: Iterator[str]) -> str | None:
    return next(stream, None)
