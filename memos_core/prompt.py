"""How memories are shown to a language model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from memos_core.cube import MemCube
from memos_core.hit import Hit


def render_memories(
    hits: Iterable[Hit | MemCube],
    *,
    token_limit: int | None = None,
    count_tokens: Callable[[str], int] = len,
) -> str:
    """Return memories as lines for a prompt, the best first, each with its day and speaker.

    Memories that would take the text past ``token_limit`` by ``count_tokens`` are left out, the
    worst first; "" where none is left.
    """
    text = ""
    for hit in hits:
        longer = f"{text}\n{_line(hit)}" if text else _line(hit)
        if token_limit is not None and count_tokens(longer) > token_limit:
            break
        text = longer
    return text


def _line(memory: Hit | MemCube) -> str:
    cube = memory.cube if isinstance(memory, Hit) else memory
    origin = cube.provenance
    day = (origin.said_at or cube.valid_from or cube.updated_at).date().isoformat()
    speaker = f" {name}:" if (name := origin.speaker or origin.role) else ""
    return f"- [{day}]{speaker} {' '.join(cube.text.split())}"
