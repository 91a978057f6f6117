"""A session's messages, for ``RunnableWithMessageHistory``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage
from typing_extensions import override

from memos_core import AsyncView, InvalidInput, View
from memos_langchain.legacy import transcript

_INSTEAD = (
    "MemOSChatMessageHistory is for code with RunnableWithMessageHistory, which LangChain removes "
    "in 2.0: use create_agent with a checkpointer (docs/short-term-memory.md) for the conversation "
    "and MemOSMiddleware for memory"
)


class MemOSChatMessageHistory(BaseChatMessageHistory):
    """The messages of a session, as they were added, in their order, and no others.

    ``RunnableWithMessageHistory(chain, lambda session: MemOSChatMessageHistory(ann, session))``,
    where ``ann`` is a view such as ``memos.at("acme", "ann")``. What is recalled is never among
    them: put a ``MemOSRetriever`` into the chain for that. All that is added is remembered, and
    found by ``search``. ``clear`` ends the history; the memories stay, and
    ``View.forget_all(session=…)`` erases them.

    Raises:
        InvalidInput: no view, or no session.
    """

    def __init__(self, memos: View, session_id: str) -> None:
        warnings.warn(_INSTEAD, DeprecationWarning, stacklevel=2)
        super().__init__()
        if not isinstance(memos, View):  # pyright: ignore[reportUnnecessaryIsInstance] told apart
            raise InvalidInput(f"memos is a view, not {type(memos).__name__}")
        if not isinstance(session_id, str) or not session_id:  # pyright: ignore[reportUnnecessaryIsInstance] the same
            raise InvalidInput(f"session_id is a text that names a session, not {session_id!r}")
        self.memos = memos
        self.session_id = session_id

    @property
    def messages(self) -> list[BaseMessage]:  # pyright: ignore[reportIncompatibleVariableOverride] as LangChain's own do
        """The messages of the session."""
        return transcript.history(self.memos, self.session_id)

    @override
    async def aget_messages(self) -> list[BaseMessage]:
        return await AsyncView(self.memos).to_thread(lambda: self.messages)

    @override
    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages, all or none.

        Raises:
            InvalidInput: a message holds a value that is no JSON.
        """
        transcript.append(self.memos, self.session_id, messages)

    @override
    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        await AsyncView(self.memos).to_thread(self.add_messages, messages)

    @override
    def clear(self) -> None:
        """End the history; what is remembered of it stays."""
        self.memos.retire(self.session_id)

    @override
    async def aclear(self) -> None:
        await AsyncView(self.memos).retire(self.session_id)
