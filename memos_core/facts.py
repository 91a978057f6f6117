"""What is told of a memory beside its text."""

from __future__ import annotations

from typing import Any

from memos_core.cube import MemCube


def facts_of(cube: MemCube) -> dict[str, Any]:
    """Return where a memory is from and how it stands, as JSON values; times are ISO 8601.

    What is not known of it is left out.
    """
    origin, governed = cube.provenance, cube.governance
    facts = {
        "speaker": origin.speaker,
        "said_at": origin.said_at and origin.said_at.isoformat(),
        "session": origin.session,
        "role": origin.role,
        "message_ids": list(origin.message_ids),
        "source": origin.source,
        "publisher": origin.publisher,
        "channel": origin.channel,
        "licence": origin.licence,
        "owner": governed.owner,
        "sensitivity": list(governed.sensitivity) or None,
        "namespace": list(cube.namespace),
        "kind": str(cube.kind),
        "semantic_type": cube.semantic_type,
        "tags": list(cube.tags),
        "version": cube.version,
        "created_at": cube.created_at.isoformat(),
        "updated_at": cube.updated_at.isoformat(),
        "valid_from": cube.valid_from and cube.valid_from.isoformat(),
        "valid_to": cube.valid_to and cube.valid_to.isoformat(),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}
