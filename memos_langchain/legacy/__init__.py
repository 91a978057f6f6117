"""For code written before agents: message histories, and memories of classic chains.

What is new is better written with ``create_agent``, a checkpointer for the conversation, and
``MemOSMiddleware`` for what is remembered of all of them.
"""

try:
    from memos_langchain.legacy.classic_memory import MemOSClassicMemory
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("langchain_classic"):
        raise
    raise ImportError(
        "memos_langchain.legacy needs langchain-classic: pip install 'memos-memory[legacy]'"
    ) from error
from memos_langchain.legacy.history import MemOSChatMessageHistory

__all__ = ["MemOSChatMessageHistory", "MemOSClassicMemory"]
