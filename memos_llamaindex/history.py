"""A session's history, of which no more is read than a prompt can show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from memos_core import Message, View
from memos_core.latest import Latest
from memos_llamaindex.transcript import history_of, is_pointer
from memos_llamaindex.window import head_of

_LATEST = (256, 1_024, 4_096, 16_384)  # messages that are read first, and where those do not do
_SESSIONS = 1_000  # long ones, of one MemOS


class _Plain(NamedTuple):
    """That a history opens with no system message: what it was last, and how much of it did.

    Of such a history the end is enough. Only ``set`` and ``reset`` could change it, and both leave
    their trace in the log.
    """

    last: str
    enough: int


_plain: WeakKeyDictionary[Any, Latest[_Plain]] = WeakKeyDictionary()


def whole_history(view: View, session: str) -> list[Message]:
    """Return all of a session's history."""
    return history_of(view.messages(session=session, retired=True))


def end_of_history(
    view: View, session: str, *, is_enough: Callable[[list[Message]], bool]
) -> list[Message]:
    """Return a session's history, or its end where that is enough; whole turns, with an opening."""
    plain = _plain.setdefault(view.engine, Latest(_SESSIONS))
    key = (view.namespace, repr(view.caller), session)
    known = plain.get(key)
    for limit in _LATEST:
        if known is not None and limit < known.enough:
            continue
        logged = view.messages(session=session, limit=limit, retired=True)
        if len(logged) < limit or _begins_in(logged):
            return history_of(logged)
        end = _end(logged, known)
        if end is None:
            break
        plain[key] = _Plain(logged[-1].id, limit)
        if is_enough(end):
            return end
    logged = view.messages(session=session, retired=True)
    history = history_of(logged)
    if history and not head_of([history[0].role]):
        plain[key] = _Plain(logged[-1].id, known.enough if known else 0)
    else:
        plain.discard(key)
    return history


def _begins_in(logged: Sequence[Message]) -> bool:
    """Tell whether a history begins in this end of a log: all before what was retired was, too.

    But not where callers speak: each ends no more of a shared history than his own part.
    """
    return (
        any(one.retired for one in logged)
        and all(one.created_by is None for one in logged)
        and not any(is_pointer(one) and not one.retired for one in logged)
    )


def _end(logged: Sequence[Message], known: _Plain | None) -> list[Message] | None:
    """Return the last whole turns of a plain history; None where it may be none any more."""
    if known is None or not any(one.id == known.last for one in logged):
        return None
    if any(one.retired or is_pointer(one) for one in logged):
        return None
    first = next((at for at, one in enumerate(logged) if one.role == "user"), None)
    return None if first is None else list(logged[first:])
