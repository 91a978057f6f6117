"""MemOS for LangChain and LangGraph."""
