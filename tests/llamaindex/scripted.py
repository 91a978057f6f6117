"""What the tests of memories share: messages, and a model that says what it is told."""

from __future__ import annotations

import copy
from typing import Any

from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM

PEANUTS = "I am allergic to peanuts."


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def assistant(text: str, **kwargs: Any) -> ChatMessage:
    return ChatMessage(role="assistant", content=text, additional_kwargs=kwargs)


def tool_turn(number: int = 1) -> list[ChatMessage]:
    call = ToolCallBlock(tool_call_id=f"c{number}", tool_name="weather", tool_kwargs={"in": "Oslo"})
    result = ChatMessage(
        role="tool", content=f"rain {number}", additional_kwargs={"tool_call_id": f"c{number}"}
    )
    return [ChatMessage(role="assistant", blocks=[call]), result]


def words(text: str) -> list[str]:
    return text.split()


def texts(messages: list[ChatMessage]) -> list[str | None]:
    return [message.content for message in messages]


def prompt(messages: list[ChatMessage]) -> str:
    return "\n".join(str(message) for message in messages)


class Script:
    """A function-calling model that answers with what it is given, and keeps what it was asked."""

    def __init__(self, *answers: ChatMessage | str) -> None:
        self.answers = list(answers)
        self.prompts: list[list[ChatMessage]] = []
        self.llm = MockFunctionCallingLLM(response_generator=self._answer, is_chat_model=True)

    def _answer(self, messages: list[ChatMessage], **_kwargs: Any) -> ChatMessage:
        self.prompts.append(copy.deepcopy(list(messages)))
        answer = self.answers.pop(0) if self.answers else "Fine."
        return assistant(answer) if isinstance(answer, str) else answer


def weather(place: str) -> str:
    """Tell the weather of a place."""
    return f"rain in {place}"


def weather_call() -> ChatMessage:
    block = ToolCallBlock(tool_call_id="c1", tool_name="weather", tool_kwargs={"place": "Oslo"})
    return ChatMessage(role="assistant", blocks=[block])


# Making an agent, workflows looks at every attribute that a pydantic model has; and ReActAgent asks
# what workflows no longer likes to be asked.
