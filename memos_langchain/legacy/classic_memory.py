"""The memory of a classic chain."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from langchain_classic.base_memory import BaseMemory
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    get_buffer_string,
)
from langchain_core.messages.utils import count_tokens_approximately
from pydantic import ConfigDict, Field
from typing_extensions import override

from memos_core import AsyncView, InvalidInput, View
from memos_langchain.legacy import transcript

_INSTEAD = (
    "MemOSClassicMemory is for ConversationChain and the like, which LangChain removes in 2.0: use "
    "create_agent with a checkpointer (docs/short-term-memory.md) for the conversation and "
    "MemOSMiddleware for memory"
)
_MEMORIES = "Memories of earlier conversations that may help:\n"


class MemOSClassicMemory(BaseMemory):
    """A session's latest messages, and before them what other sessions say about the question.

    ``ConversationChain(llm=llm, memory=MemOSClassicMemory(memos=ann, session_id="monday"))``, where
    ``ann`` is a view such as ``memos.at("acme", "ann")``. With ``memories_key``, the memories are a
    variable of their own. ``clear`` ends the session's history; what is remembered stays.

    Raises:
        InvalidInput: of several inputs or outputs, none is named as the one that counts.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    memos: View = Field(exclude=True)
    session_id: str = Field(min_length=1)
    memory_key: str = "history"
    memories_key: str | None = None
    """The variable of the memories; by default they stand at the head of the history."""
    input_key: str | None = None
    output_key: str | None = None
    human_prefix: str = "Human"
    ai_prefix: str = "AI"
    return_messages: bool = False
    window: int = Field(default=20, ge=0)
    """How many messages of the session to show at the most."""
    k: int = Field(default=5, ge=0)
    """How many memories to recall at the most."""
    token_limit: int = 1_000
    """What the memories may take of the prompt, as LangChain approximates tokens."""

    def __init__(self, **fields: Any) -> None:
        warnings.warn(_INSTEAD, DeprecationWarning, stacklevel=2)
        super().__init__(**fields)

    @property
    @override
    def memory_variables(self) -> list[str]:
        """The names of what ``load_memory_variables`` returns."""
        return [self.memory_key, *([self.memories_key] if self.memories_key else [])]

    @override
    def load_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the history, and what is remembered about the input."""
        shown = self.memos.messages(session=self.session_id, limit=self.window)
        said = [transcript.message_of(one) for one in shown]
        memories = self._recall(inputs, [one.id for one in shown])
        if self.memories_key:
            return {self.memory_key: self._as_asked(said), self.memories_key: memories}
        if not self.return_messages:
            text = get_buffer_string(said, self.human_prefix, self.ai_prefix)
            return {self.memory_key: "\n".join(part for part in (memories, text) if part)}
        head = [SystemMessage(memories)] if memories else []
        return {self.memory_key: [*head, *said]}

    @override
    async def aload_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return await AsyncView(self.memos).to_thread(self.load_memory_variables, inputs)

    @override
    def save_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        """Store what was asked and answered."""
        asked = self._asked(inputs)
        answer = _value(outputs, self.output_key, what="output", usual="output")
        said = [_message(asked, HumanMessage), _message(answer, AIMessage)]
        transcript.append(self.memos, self.session_id, said)

    @override
    async def asave_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        await AsyncView(self.memos).to_thread(self.save_context, inputs, outputs)

    @override
    def clear(self) -> None:
        """End the session's history; what is remembered of it stays."""
        self.memos.retire(self.session_id)

    @override
    async def aclear(self) -> None:
        await AsyncView(self.memos).retire(self.session_id)

    def _asked(self, inputs: Mapping[str, Any]) -> object:
        others = {*self.memory_variables, "stop"}  # of a prompt's variables
        given = {name: value for name, value in inputs.items() if name not in others}
        return _value(given, self.input_key, what="input")

    def _as_asked(self, said: list[BaseMessage]) -> object:
        if self.return_messages:
            return said
        return get_buffer_string(said, self.human_prefix, self.ai_prefix)

    def _recall(self, inputs: Mapping[str, Any], shown: list[str]) -> str:
        if not inputs:
            return ""  # the history alone is asked for
        asked = self._asked(inputs)
        recall = self.memos.recall(
            str(_message(asked, HumanMessage).text),
            k=self.k,
            token_limit=self.token_limit,
            count_tokens=_tokens,
            exclude_messages=shown,
        )
        return f"{_MEMORIES}{recall.text}" if recall.text else ""


def _value(values: Mapping[str, Any], key: str | None, *, what: str, usual: str = "") -> object:
    if key is None:
        key = usual if usual in values else next(iter(values), None) if len(values) == 1 else None
    if key is None or key not in values:
        raise InvalidInput(
            f"it is not known which {what} counts, of {', '.join(values) or 'none'}: pass "
            f"{what}_key= to MemOSClassicMemory"
        )
    return values[key]


def _message(value: object, kind: type[HumanMessage | AIMessage]) -> BaseMessage:
    return value if isinstance(value, BaseMessage) else kind(str(value))


def _tokens(text: str) -> int:
    return count_tokens_approximately([HumanMessage(text)])
