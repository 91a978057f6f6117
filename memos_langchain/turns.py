"""From an agent's messages to turns for the message log, each under an id that stays the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.config import get_config
from langgraph.runtime import Runtime

from memos_langchain.artifacts import shows_memories

_CHECKPOINTER = "__pregel_checkpointer"  # LangGraph's name for it in a node's config
_LONGEST_NAME = 200  # of a thread or a message, in characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Thread:
    """The conversation that a run belongs to.

    With a checkpointer, messages keep their ids from run to run. Without one the caller sends the
    history again each time, and its messages get new ids: there a message is known by what was
    said up to it.
    """

    session: str | None
    keeps_ids: bool

    @classmethod
    def of(cls, runtime: Runtime[Any]) -> Thread:
        """Return the thread of a run."""
        info = runtime.execution_info
        named = None if info is None else cast("object", info.thread_id)
        configurable = cast("dict[str, object]", get_config().get("configurable", {}))
        return cls(
            session=None if named in (None, "") else _short(str(named)),
            keeps_ids=configurable.get(_CHECKPOINTER) is not None,
        )

    def identified(self, messages: Sequence[AnyMessage]) -> Iterator[tuple[str, AnyMessage]]:
        """Return what people, models and tools said, each message under its id for the log."""
        so_far = self.session or ""
        for message in messages:
            if not is_said(message):
                continue
            text = str(message.text)
            said = _digest(so_far, _role(message), text)
            if text.strip() and not isinstance(message, ToolMessage):
                so_far = said  # clients that keep a history themselves keep these
            if message.id and self.keeps_ids:
                yield _digest(self.session or "", message.id), message
            else:
                yield said, message


def turn(id: str, message: AnyMessage) -> dict[str, Any]:
    """Return a message as the core takes it."""
    return {
        "id": id,
        "role": _role(message),
        "name": message.name,
        "content": str(message.text),
        "created_at": datetime.now(UTC),
    }


def is_said(message: AnyMessage) -> bool:
    """Tell whether somebody said it: not a prompt, and not a summary made of what was said.

    Nor what our tools answer: it is in memory already, and what is forgotten would stay there.
    """
    return (
        isinstance(message, (HumanMessage, AIMessage, ToolMessage))
        and message.additional_kwargs.get("lc_source") != "summarization"
        and not shows_memories(message)
    )


def newest_question(messages: Sequence[AnyMessage]) -> int | None:
    """Return the place of the newest message of the user."""
    for at in range(len(messages) - 1, -1, -1):
        if isinstance(messages[at], HumanMessage) and is_said(messages[at]):
            return at
    return None


def _role(message: AnyMessage) -> str:
    if isinstance(message, HumanMessage):
        return "user"
    return "tool" if isinstance(message, ToolMessage) else "assistant"


def _digest(*parts: str) -> str:
    joined = "\x1f".join(parts).encode(errors="surrogatepass")
    return hashlib.blake2b(joined, digest_size=16).hexdigest()


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else _digest(name)
