"""MemOS for LlamaIndex: the memory of agents and chat engines, a retriever, tools and an LLM."""

from memos_core.extras import missing as _missing

try:
    from memos_llamaindex.block import MemOSMemoryBlock
    from memos_llamaindex.chat_store import MemOSChatStore
    from memos_llamaindex.llm import MemOSLLM
    from memos_llamaindex.memory import MemOSMemory
    from memos_llamaindex.registry import attach
    from memos_llamaindex.retriever import MemOSRetriever
    from memos_llamaindex.tools import MemOSToolSpec
except ModuleNotFoundError as error:
    raise _missing(error, package="memos_llamaindex", extra="llamaindex") from error

__all__ = [
    "MemOSChatStore",
    "MemOSLLM",
    "MemOSMemory",
    "MemOSMemoryBlock",
    "MemOSRetriever",
    "MemOSToolSpec",
    "attach",
]
