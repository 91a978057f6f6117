"""Where a memory that was written down as JSON finds its live database again.

LlamaIndex writes an agent's memory to JSON and reads it back between any two runs on one context,
so what is written must be small, hold no secret, and lead back to what is open in this process.
Only what is attached by name is kept alive, until it is closed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4
from weakref import ReferenceType, WeakKeyDictionary, WeakValueDictionary, ref

from memos_core import Caller, ChatFn, Closed, InvalidInput, Namespace, View
from memos_core.view.given import checked_view
from memos_llamaindex.window import Tokenizer

DEFAULT_BACKEND = "default"
_LIVE = 256  # kinds of memories of one MemOS: most programs have one


@dataclass(frozen=True, kw_only=True, slots=True)
class Attached:
    """A MemOS under a name, and what memories restored with it are given."""

    engine: Any
    tokenizer_fn: Tokenizer | None = None
    resolve: ChatFn | None = None


@dataclass(frozen=True, kw_only=True, slots=True, weakref_slot=True)
class _Live:
    """What JSON cannot hold of a memory."""

    mark: str
    engine: ReferenceType[Any]
    tokenizer_fn: Tokenizer
    resolve: bool | ChatFn


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a memory that was written down goes on with; None where it is not known."""

    memos: View
    tokenizer_fn: Tokenizer | None
    resolve: ChatFn | None


# Two MemOS may be in use under one name, and two memories of one by different functions: all are
# known by a mark of their own as well, so that a run continued in this process cannot end up in the
# other one's database, or count by the other one's tokens.
_live: WeakKeyDictionary[Any, OrderedDict[tuple[int, int], _Live]] = WeakKeyDictionary()
_marked: WeakValueDictionary[str, _Live] = WeakValueDictionary()
attached: dict[str, Attached] = {}
in_use: WeakValueDictionary[str, Any] = WeakValueDictionary()


def attach(
    memos: View,
    *,
    name: str = DEFAULT_BACKEND,
    tokenizer_fn: Tokenizer | None = None,
    resolve: ChatFn | None = None,
) -> None:
    """Let saved contexts of ``name`` find their memory in ``memos``, a MemOS or any view of it.

    A MemOS that a ``MemOSMemory`` was made with is known already; this is for a process that
    restores a context before it makes a memory. The last one attached under a name counts, for
    contexts that were not saved in this process. Functions are never saved: those memories count
    with ``tokenizer_fn``, and those that were made to resolve do it by ``resolve``.

    Raises:
        InvalidInput: ``memos`` is neither.
        Closed: it is.
    """
    for closed in [known for known, one in attached.items() if one.engine.closed]:
        del attached[closed]
    engine = checked_view(memos).engine
    if engine.closed:
        raise Closed
    attached[name] = Attached(engine=engine, tokenizer_fn=tokenizer_fn, resolve=resolve)


def mark_of(
    memos: View, *, name: str, tokenizer_fn: Tokenizer, resolve: bool | ChatFn = False
) -> str:
    """Note that a memory uses ``memos`` under ``name``; return the mark that leads back to it."""
    engine = memos.engine
    if _open(in_use.get(name)) is None:
        in_use[name] = engine
    kinds = _live.setdefault(engine, OrderedDict())
    kind = (id(tokenizer_fn), id(resolve))  # of objects that are kept with the mark
    live = kinds.get(kind)
    if live is None:
        new = _Live(
            mark=str(uuid4()), engine=ref(engine), tokenizer_fn=tokenizer_fn, resolve=resolve
        )
        live = kinds.setdefault(kind, new)
        _marked[live.mark] = live
        while len(kinds) > _LIVE:
            kinds.popitem(last=False)
    return live.mark


def reattached(
    labels: Sequence[str], *, name: str, mark: str | None = None, caller: Caller | None = None
) -> Found:
    """Return a view of a namespace in the MemOS that is known by ``name`` here.

    Raises:
        InvalidInput: none is.
    """
    live, known = _marked.get(mark or ""), attached.get(name)
    candidates = (live and live.engine(), known and known.engine, in_use.get(name))
    engine = next((one for one in candidates if _open(one) is not None), None)
    if engine is None:
        raise InvalidInput(
            f"no MemOS is attached as {name!r} in this process: open one and call "
            f"memos_llamaindex.attach(memos, name={name!r}) before restoring what was saved"
        )
    view = View(engine, Namespace(*labels), caller)
    if live is not None:  # of this process, whatever became of its MemOS
        resolve = None if isinstance(live.resolve, bool) else live.resolve
        return Found(memos=view, tokenizer_fn=live.tokenizer_fn, resolve=resolve)
    if known is not None and known.engine is engine:
        return Found(memos=view, tokenizer_fn=known.tokenizer_fn, resolve=known.resolve)
    return Found(memos=view, tokenizer_fn=None, resolve=None)


def _open(engine: Any) -> Any:
    return None if engine is None or engine.closed else engine
