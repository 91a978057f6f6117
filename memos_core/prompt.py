"""Which memories a language model is shown, and how."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from memos_core.cube import MemCube
from memos_core.hit import Hit

Memory = TypeVar("Memory", Hit, MemCube, Hit | MemCube)
LINE_CHARACTERS = 1_000  # of one memory: a document that was pasted must not crowd out the rest
RECALL_DEPTH = 4  # hits looked at for each memory shown, since some say the same or only ask
_ASKS = re.compile(r"[^.!?…。！？]*[?？]+\W*")  # noqa: RUF001 one sentence, and it is a question


@dataclass(frozen=True, kw_only=True, slots=True)
class Recall:
    """Memories chosen for a prompt: ``text`` shows them a line each, ``hits`` are what it shows."""

    hits: tuple[Hit, ...]
    text: str


def render_memories(
    memories: Iterable[Hit | MemCube],
    *,
    token_limit: int | None = None,
    count_tokens: Callable[[str], int] = len,
) -> str:
    """Return memories as lines for a prompt, the best first, each with its day and speaker.

    A memory of over 1,000 characters is cut. One that would take the text past ``token_limit`` by
    ``count_tokens`` is left out; "" where none is left.
    """
    return _rendered(memories, token_limit, count_tokens)[1]


def recalled(
    hits: Iterable[Hit], *, token_limit: int | None, count_tokens: Callable[[str], int]
) -> Recall:
    """Return the hits that fit a limit, and the text that shows them."""
    shown, text = _rendered(hits, token_limit, count_tokens)
    return Recall(hits=tuple(shown), text=text)


def worth_showing(hits: Sequence[Hit], *, question: str) -> list[Hit]:
    """Return hits without the question itself and without the same words twice, questions last.

    Who asks again and again about one thing must not find his own questions in the place of the
    answer.
    """
    seen = {_words(question)}
    fresh: list[Hit] = []
    for hit in hits:
        if (words := _words(hit.text)) not in seen:
            seen.add(words)
            fresh.append(hit)
    return sorted(fresh, key=lambda hit: _ASKS.fullmatch(hit.text.strip()) is not None)


def cube_of(memory: Hit | MemCube) -> MemCube:
    """Return the cube of a memory."""
    return memory.cube if isinstance(memory, Hit) else memory


def _rendered(
    memories: Iterable[Memory], limit: int | None, count: Callable[[str], int]
) -> tuple[list[Memory], str]:
    shown: list[Memory] = []
    text = ""
    for memory in memories:
        line = _line(cube_of(memory))
        longer = f"{text}\n{line}" if text else line
        if limit is None or count(longer) <= limit:
            shown.append(memory)
            text = longer
    return shown, text


def _line(cube: MemCube) -> str:
    origin = cube.provenance
    day = (origin.said_at or cube.valid_from or cube.updated_at).date().isoformat()
    name = _flat(origin.speaker or origin.role or "")
    text = _flat(cube.text)
    if len(text) > LINE_CHARACTERS:
        text = f"{text[:LINE_CHARACTERS].rstrip()} …"
    return f"- [{day}]{f' {name}:' if name else ''} {text}"


def _flat(text: str) -> str:
    return " ".join(text.split())  # a line break would begin a memory that nobody has


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
