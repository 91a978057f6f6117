"""MemOS for LlamaIndex: the memory of agents and chat engines, and a retriever."""

from memos_llamaindex.block import MemOSMemoryBlock
from memos_llamaindex.memory import MemOSMemory
from memos_llamaindex.registry import attach
from memos_llamaindex.retriever import MemOSRetriever

__all__ = ["MemOSMemory", "MemOSMemoryBlock", "MemOSRetriever", "attach"]
