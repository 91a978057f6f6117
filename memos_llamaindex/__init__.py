"""MemOS for LlamaIndex: the memory of agents and chat engines, a retriever, tools and an LLM."""

from memos_llamaindex.block import MemOSMemoryBlock
from memos_llamaindex.chat_store import MemOSChatStore
from memos_llamaindex.llm import MemOSLLM
from memos_llamaindex.memory import MemOSMemory
from memos_llamaindex.registry import attach
from memos_llamaindex.retriever import MemOSRetriever
from memos_llamaindex.tools import MemOSToolSpec

__all__ = [
    "MemOSChatStore",
    "MemOSLLM",
    "MemOSMemory",
    "MemOSMemoryBlock",
    "MemOSRetriever",
    "MemOSToolSpec",
    "attach",
]
