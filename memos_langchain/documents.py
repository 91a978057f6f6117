"""Memories as LangChain's documents."""

from __future__ import annotations

from langchain_core.documents import Document

from memos_core import Hit, MemCube


def document(memory: Hit | MemCube) -> Document:
    """Return a memory as a document; its metadata is the cube's, and where it is from."""
    cube = memory.cube if isinstance(memory, Hit) else memory
    said, governed = cube.provenance, cube.governance
    facts = {
        "score": memory.score if isinstance(memory, Hit) else None,
        "reasons": dict(memory.reasons) if isinstance(memory, Hit) else None,
        "namespace": list(cube.namespace),
        "kind": str(cube.kind),
        "semantic_type": cube.semantic_type,
        "version": cube.version,
        "tags": list(cube.tags),
        "owner": governed.owner,
        "sensitivity": list(governed.sensitivity) or None,
        "source": said.source,
        "speaker": said.speaker,
        "role": said.role,
        "session": said.session,
        "said_at": said.said_at and said.said_at.isoformat(),
        "message_ids": list(said.message_ids),
        "publisher": said.publisher,
        "channel": said.channel,
        "licence": said.licence,
        "created_at": cube.created_at.isoformat(),
        "updated_at": cube.updated_at.isoformat(),
        "valid_from": cube.valid_from and cube.valid_from.isoformat(),
        "valid_to": cube.valid_to and cube.valid_to.isoformat(),
    }
    known = {name: fact for name, fact in facts.items() if fact is not None}
    return Document(id=str(cube.id), page_content=cube.text, metadata={**cube.metadata, **known})
