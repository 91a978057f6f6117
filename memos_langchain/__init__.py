"""MemOS for LangChain and LangGraph."""

from memos_langchain.middleware import MemOSMiddleware
from memos_langchain.retriever import MemOSRetriever

__all__ = ["MemOSMiddleware", "MemOSRetriever"]
