"""MemOS for LlamaIndex."""
