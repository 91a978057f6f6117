"""Which KV cache of a view a conversation reads, and what is recalled beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memos_core.cached import CacheRecord, Remembered
from memos_core.cube import MemCube
from memos_core.errors import CubeNotFound, InvalidInput
from memos_core.hit import Hit
from memos_core.model.layout import Layout
from memos_core.model.meant import Meant
from memos_core.model.memory import Memory, tenant_of
from memos_core.model.prefix import Prefix
from memos_core.model.turns import Message, Tool, system_of


@dataclass(frozen=True, slots=True)
class Opening:
    """What a prompt begins with before its memories: the system text and the tools."""

    system: str | None = None
    tools: Sequence[Tool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages that are to be answered in ``new`` tokens, with ``recall`` memories of text."""

    turns: Sequence[Message]
    tools: Sequence[Tool] | None
    recall: int
    new: int

    def __post_init__(self) -> None:
        if type(self.recall) is not int or self.recall < 0:
            raise InvalidInput(f"recall is a number of memories, not {self.recall!r}")

    @property
    def opening(self) -> Opening:
        """What its prompt begins with."""
        return Opening(system_of(self.turns), self.tools)


def largest_fitting(
    meant: Meant, layout: Layout, key: str, said: Conversation, window: int | None
) -> tuple[list[Remembered], list[Hit]]:
    """Return the largest KV cache of a view with which all fits, and what is recalled beside it.

    The cache is of the model with the fingerprint ``key``, which reads ``window`` tokens at once.
    """
    caches = _caches(meant, layout, key, said.opening)
    most = max((len(cache.members) for _, cache in caches), default=0)
    hits = recalled(meant.view, said, beside=most)
    for cube, cache in caches:
        beside = [hit for hit in hits if hit.cube.id not in cache.members][: said.recall]
        if _fits(cache, beside, layout, said, window) and (there := _standing(meant, cube)):
            return there, beside
    return [], hits[: said.recall]


def recalled(view: Memory, said: Conversation, *, beside: int = 0) -> list[Hit]:
    """Return what a search for the user's last message finds, as many as stand ``beside`` more."""
    if not said.recall:
        return []
    texts = [turn["content"] for turn in said.turns if turn["role"] == "user"]
    if not texts or not texts[-1].strip():
        raise InvalidInput(
            "a view is searched for what the user said last: there is no such message"
        )
    return view.search(texts[-1], k=said.recall + beside)


def largest_of(meant: Meant, layout: Layout, key: str, opening: Opening) -> list[Remembered]:
    """Return the largest KV cache of a view that begins with an opening; nothing without one."""
    for cube, _ in _caches(meant, layout, key, opening):
        if there := _standing(meant, cube):
            return there
    return []


def _caches(
    meant: Meant, layout: Layout, key: str, opening: Opening
) -> list[tuple[MemCube, CacheRecord]]:
    """Return the exact KV caches of a view that begin with an opening, the largest first.

    A view is what a search in it finds, so their memories are all such.
    """
    head = layout.head(opening.system, tools=opening.tools)
    start = Prefix.of(tenant_of(meant.view), key, [head]).keys[-1]
    found = [
        (one.cube, one.cache) for one in meant.caches(key, start, searchable=True) if one.cache
    ]
    return sorted(found, key=lambda one: sum(one[1].tokens), reverse=True)


def _standing(meant: Meant, cube: MemCube) -> list[Remembered]:
    """Return a KV cache that was there a moment ago; nothing where it ended since."""
    try:
        return meant.remembered([cube.id])
    except CubeNotFound:
        return []


def _fits(
    cache: CacheRecord, hits: Sequence[Hit], layout: Layout, said: Conversation, window: int | None
) -> bool:
    if window is None:
        return True
    # What stands after the memories does not depend on them.
    prompt = layout.prompt(
        said.turns, memories=["-"], recall=[hit.text for hit in hits], tools=said.tools
    )
    return sum(cache.tokens) + len(prompt.rest) + said.new <= window
