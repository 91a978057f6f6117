"""Memories as LangChain's documents."""

from __future__ import annotations

from langchain_core.documents import Document

from memos_core import Hit, MemCube
from memos_core.facts import facts_of


def document(memory: Hit | MemCube) -> Document:
    """Return a memory as a document; its metadata is the cube's, and where it is from."""
    cube = memory.cube if isinstance(memory, Hit) else memory
    found = (
        {"score": memory.score, "reasons": dict(memory.reasons)} if isinstance(memory, Hit) else {}
    )
    metadata = {**cube.metadata, **facts_of(cube), **found}
    return Document(id=str(cube.id), page_content=cube.text, metadata=metadata)
