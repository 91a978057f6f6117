"""What was said is stored at once, and read behind the answer: see decision 17."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from memos_core import ChatFn, Closed, View
from memos_core.background import await_for, background_of, wait_for

_SAID = ("user", "assistant")


def remember(
    view: View,
    turns: Sequence[Mapping[str, Any]],
    *,
    session: str,
    resolve: bool | ChatFn,
    background: bool,
) -> None:
    """Store turns, and have memories made of them: behind it, or before it returns."""
    read = view.ingest_later(turns, session=session, repair=True, resolve=resolve)
    keys = _keys(session, [turn["id"] for turn in turns if is_said(turn)])
    if not keys:
        return
    if not background or view.engine.in_pipeline:  # that is one thread's
        read()
        return
    behind = background_of(view)
    behind.submit(view, keys, read, slow=callable(resolve))
    # Where it is being closed, or the process ends, they are stored, and a later one reads them.
    with contextlib.suppress(Closed, RuntimeError):
        behind.begin(soon=True)


def is_said(turn: Mapping[str, Any]) -> bool:
    """Tell whether memories are made of a turn."""
    return turn["role"] in _SAID and bool(turn["content"].strip())


def unread(view: View, *, session: str = "", shown: Collection[str] = ()) -> list[Future[None]]:
    """Return what a recall waits for: what is not shown and not read, but by a language model."""
    return background_of(view).pending(view.namespace, but=_keys(session, shown), slow=False)


def begin(view: View) -> None:
    """Have read what was said, now that the prompt is made."""
    with contextlib.suppress(Closed, RuntimeError):
        background_of(view).begin()


class Flushing:
    """Waits for the memories of a view."""

    memos: View

    def flush(self, timeout: float | None = None) -> None:
        """Wait until memories are made of all that was said here in this process.

        Raises:
            TimeoutError: they are not within ``timeout`` seconds.
            Exception: what the first failed with that could not be made since the last flush, a
                MemOSError or what a language model raised; what was said is stored, and a later
                put tries again.
        """
        behind = background_of(self.memos)
        wait_for(behind.pending(self.memos.namespace), timeout)
        behind.raise_failure(self.memos.namespace)

    async def aflush(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 as the blocking twin
    ) -> None:
        """Wait as ``flush`` does, and let others run."""
        behind = background_of(self.memos)
        await await_for(behind.pending(self.memos.namespace), timeout)
        behind.raise_failure(self.memos.namespace)


def _keys(session: str, ids: Collection[str]) -> list[object]:
    return [(session, id) for id in ids]
