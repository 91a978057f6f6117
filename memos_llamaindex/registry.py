"""Where a memory that was written down as JSON finds its live database again.

LlamaIndex writes an agent's memory to JSON and reads it back between any two runs on one context,
so what is written must be small, hold no secret, and lead back to what is open in this process.
Only what is attached by name is kept alive, until it is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

from memos_core import Caller, InvalidInput, Namespace, View

DEFAULT_BACKEND = "default"

# Two MemOS may be in use under one name: each is known by a mark of its own as well, so that a run
# continued in this process cannot end up in the other one's database.
_marks: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_marked: WeakValueDictionary[str, Any] = WeakValueDictionary()
attached: dict[str, Any] = {}
in_use: WeakValueDictionary[str, Any] = WeakValueDictionary()


def attach(memos: View, *, name: str = DEFAULT_BACKEND) -> None:
    """Let saved contexts of ``name`` find their memory in ``memos``, a MemOS or any view of it.

    A MemOS that a ``MemOSMemory`` was made with is known already; this is for a process that
    restores a context before it makes a memory. The last one attached under a name counts, for
    contexts that were not saved in this process.
    """
    for closed in [known for known, engine in attached.items() if _open(engine) is None]:
        del attached[closed]
    attached[name] = memos.engine


def mark_of(memos: View, *, name: str) -> str:
    """Note that a memory uses ``memos`` under ``name``; return the mark that leads back to it."""
    engine = memos.engine
    mark = _marks.setdefault(engine, str(uuid4()))
    _marked[mark] = engine
    if _open(in_use.get(name)) is None:
        in_use[name] = engine
    return mark


def reattached(
    labels: Sequence[str], *, name: str, mark: str | None = None, caller: Caller | None = None
) -> View:
    """Return a view of a namespace in the MemOS that is known by ``name`` here.

    Raises:
        InvalidInput: none is.
    """
    candidates = (_marked.get(mark or ""), attached.get(name), in_use.get(name))
    engine = next((one for one in candidates if _open(one) is not None), None)
    if engine is None:
        raise InvalidInput(
            f"no MemOS is attached as {name!r} in this process: open one and call "
            f"memos_llamaindex.attach(memos, name={name!r}) before restoring what was saved"
        )
    return View(engine, Namespace(*labels), caller)


def _open(engine: Any) -> Any:
    return None if engine is None or engine.closed else engine
