"""MemOS for LangChain and LangGraph."""

from memos_core.extras import missing as _missing

try:
    from memos_langchain.chat_model import ChatMemOS
    from memos_langchain.embeddings import LangChainEmbedder
    from memos_langchain.middleware import MemOSMiddleware
    from memos_langchain.retriever import MemOSRetriever
    from memos_langchain.store import MemOSStore
    from memos_langchain.tools import (
        create_forget_memory_tool,
        create_manage_memory_tool,
        create_search_memory_tool,
    )
    from memos_langchain.vectorstore import MemOSVectorStore
except ModuleNotFoundError as error:
    raise _missing(error, package="memos_langchain", extra="langchain") from error

__all__ = [
    "ChatMemOS",
    "LangChainEmbedder",
    "MemOSMiddleware",
    "MemOSRetriever",
    "MemOSStore",
    "MemOSVectorStore",
    "create_forget_memory_tool",
    "create_manage_memory_tool",
    "create_search_memory_tool",
]
