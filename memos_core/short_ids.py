"""Short ids, by which a language model names memories that it was shown."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from memos_core.cube import MemCube
from memos_core.errors import CubeNotFound, InvalidInput
from memos_core.namespace import Namespace
from memos_core.prompt import render_memories
from memos_core.view import View

_SHORT = re.compile("[0-9a-f]{8}")
_QUOTES = " \t\n[](){}<>#`'\""  # what models write around an id
_LIKE = 10  # memories that are looked at for those that say the same words
_MOST = 10_000  # short ids that a database's are kept in mind of

_Shown = OrderedDict[tuple[Namespace, str], frozenset[UUID]]

# Of a database, not of a tool: programs make their tools anew for each request.
_lock = threading.Lock()
_shown: WeakKeyDictionary[Any, _Shown] = WeakKeyDictionary()


def short_id(id: UUID) -> str:
    """Return the end of a cube's id: in ids that begin with the time, that is chance."""
    return id.hex[-8:]


def line_of(cube: MemCube) -> str:
    """Return a memory as a model is shown it: a line that begins with its short id."""
    return f"[{short_id(cube.id)}] {render_memories([cube]).removeprefix('- ')}"


def note_shown(view: View, ids: Iterable[UUID]) -> None:
    """Keep in mind what a model was shown in this process."""
    with _lock:
        shown = _shown.setdefault(view.engine, OrderedDict())
        for id in ids:
            key = (view.namespace, short_id(id))
            shown[key] = shown.pop(key, frozenset[UUID]()) | {id}
        while len(shown) > _MOST:
            shown.popitem(last=False)


def named(view: View, name: str, shown: Iterable[UUID] = ()) -> MemCube:
    """Return the memory that a model names: by its short id, its id, or its words.

    A short id is one of those ``shown``, or was shown in this process.

    Raises:
        InvalidInput: no memory, or several, go by this name.
    """
    wanted = name.strip(_QUOTES)
    found = _standing(view, _ids(view, wanted.lower(), shown))
    if not found and not _SHORT.fullmatch(wanted.lower()):
        found = _saying(view, wanted)
    if not found:
        raise InvalidInput(
            f"No memory goes by {name!r}, and nothing was changed. Search for it first: "
            "each result begins with its id."
        )
    if len(found) > 1:
        ids = ", ".join(sorted(str(one.id) for one in found))
        raise InvalidInput(
            f"{len(found)} memories go by {name!r}, and nothing was changed. Their whole ids: {ids}"
        )
    return found[0]


def _ids(view: View, wanted: str, shown: Iterable[UUID]) -> Iterable[UUID]:
    try:
        return [UUID(wanted)]
    except ValueError:
        with _lock:
            here = _shown.get(view.engine, _Shown()).get((view.namespace, wanted), ())
        return dict.fromkeys((*here, *(id for id in shown if short_id(id) == wanted)))


def _standing(view: View, ids: Iterable[UUID]) -> list[MemCube]:
    found: list[MemCube] = []
    for id in ids:
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
