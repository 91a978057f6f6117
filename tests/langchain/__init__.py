"""The LangChain adapters."""
