"""Short ids, by which a language model names memories that it was shown."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast
from uuid import UUID
from weakref import WeakKeyDictionary

from langchain_core.messages import ToolMessage
from langchain_core.tools import ToolException

from memos_core import CubeNotFound, Hit, MemCube, View
from memos_langchain.documents import document
from memos_langchain.latest import Latest

_MEMORIES = "memos_memories"  # of an artifact: the memories that a tool showed or changed
_SHORT = re.compile("[0-9a-f]{8}")
_QUOTES = " \t\n[](){}<>#`'\""  # what models write around an id
_LIKE = 10  # memories that are looked at for those that say the same words

_lock = threading.Lock()
_shown: WeakKeyDictionary[Any, Latest[frozenset[UUID]]] = WeakKeyDictionary()


def short_id(id: UUID) -> str:
    """Return the end of a cube's id: in ids that begin with the time, that is chance."""
    return id.hex[-8:]


def artifact_of(memories: Iterable[Hit | MemCube]) -> dict[str, Any]:
    """Return memories as plain JSON, which a checkpoint keeps as it is."""
    kept = {"id", "page_content", "metadata"}
    return {_MEMORIES: [document(memory).model_dump(include=kept) for memory in memories]}


def shows_memories(message: object) -> bool:
    """Tell whether a message is what one of our tools answered."""
    return isinstance(message, ToolMessage) and _memories_in(message) is not None


def note_shown(view: View, ids: Iterable[UUID]) -> None:
    """Keep in mind what a model was shown, for where no state of an agent does."""
    seen = _seen(view)
    for id in ids:
        key = (view.namespace, short_id(id))
        with _lock:
            seen[key] = (seen.get(key) or frozenset()) | {id}


def named(view: View, name: str, messages: Sequence[object]) -> MemCube:
    """Return the memory that a model names: by its short id, its id, or its words.

    A short id is one that is shown in ``messages``, or was in this process.

    Raises:
        ToolException: no memory, or several, go by this name.
    """
    wanted = name.strip(_QUOTES)
    found = _standing(view, _ids(view, wanted, messages))
    if not found and not _SHORT.fullmatch(wanted.lower()):
        found = _saying(view, wanted)
    if not found:
        raise ToolException(
            f"No memory goes by {name!r}, and nothing was changed. Search memory first: each "
            "result begins with its id."
        )
    if len(found) > 1:
        ids = ", ".join(sorted(str(one.id) for one in found))
        raise ToolException(
            f"{len(found)} memories go by {name!r}, and nothing was changed. Their whole ids: {ids}"
        )
    return found[0]


def _ids(view: View, wanted: str, messages: Sequence[object]) -> Iterator[UUID]:
    try:
        yield UUID(wanted)
    except ValueError:
        yield from _seen(view).get((view.namespace, wanted.lower())) or ()
        for message in messages:
            for memory in _memories_in(message) or ():
                if short_id(id := UUID(memory["id"])) == wanted.lower():
                    yield id


def _memories_in(message: object) -> Sequence[Mapping[str, Any]] | None:
    artifact: object = getattr(message, "artifact", None)
    if not isinstance(artifact, Mapping):
        return None
    return cast("Mapping[str, Any]", artifact).get(_MEMORIES)


def _standing(view: View, ids: Iterable[UUID]) -> list[MemCube]:
    found: list[MemCube] = []
    for id in dict.fromkeys(ids):
        with suppress(CubeNotFound):
            found.append(view.get(id))
    return found


def _saying(view: View, words: str) -> list[MemCube]:
    if not (plain := _plain(words)):
        return []
    hits = view.search(words, k=_LIKE)
    return [hit.cube for hit in hits if _plain(hit.text) == plain]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _seen(view: View) -> Latest[frozenset[UUID]]:
    with _lock:
        return _shown.setdefault(view.engine, Latest())
