"""MemOS for LlamaIndex: the memory of agents and chat engines, a retriever, and tools."""

from memos_llamaindex.block import MemOSMemoryBlock
from memos_llamaindex.chat_store import MemOSChatStore
from memos_llamaindex.memory import MemOSMemory
from memos_llamaindex.registry import attach
from memos_llamaindex.retriever import MemOSRetriever
from memos_llamaindex.tools import MemOSToolSpec

__all__ = [
    "MemOSChatStore",
    "MemOSMemory",
    "MemOSMemoryBlock",
    "MemOSRetriever",
    "MemOSToolSpec",
    "attach",
]
