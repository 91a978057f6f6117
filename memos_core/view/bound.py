"""What all verbs of a view share: where it is, who asks, and the engine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn
from uuid import UUID

from memos_core.engine import Engine
from memos_core.errors import CubeFrozen, CubeNotFound, NotPermitted
from memos_core.governance import Caller
from memos_core.namespace import Namespace
from memos_core.store.statements import events
from memos_core.store.statements.scope import Scope
from memos_core.text import checked_text

_NAMED = 5  # cubes in a message


class Bound:
    """An engine, which all views of a MemOS share, bound to a namespace and a caller."""

    def __init__(self, engine: Engine, namespace: Namespace, caller: Caller | None = None) -> None:
        self.namespace = namespace
        self.caller = caller
        self.engine = engine
        self._scope = Scope(namespace=namespace, caller=caller)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.namespace))})"

    @property
    def threads(self) -> ThreadPoolExecutor:
        """The threads on which async faces run this view's verbs."""
        return self.engine.threads

    def _text(self, text: object, *, what: str = "text") -> str:
        return checked_text(text, limit=self.engine.settings.max_text, what=what)

    def _missing(self, cubes: Sequence[UUID], *, right: str) -> NoReturn:
        """Refuse what is not there, or not for this caller, who is not told which."""
        if self.caller is not None:
            self.engine.log_denied(events.denied(self._scope, cubes, right))
        raise CubeNotFound(
            f"no cube {listed(cubes)} in {'/'.join(self.namespace)}"
            f"{f' for {self.caller.user}' if self.caller else ''}: it was never here, is forgotten "
            "or expired, was made of what is no more, or belongs to another namespace"
        )

    def _denied(self, cubes: Sequence[UUID], right: str) -> NoReturn:
        """Refuse what the caller may see and not do."""
        self.engine.log_denied(events.denied(self._scope, cubes, right))
        user = self.caller.user if self.caller else "nobody"
        raise NotPermitted(
            f"{user} may not {right} {listed(cubes)}: its owner, or who has the right to share "
            f"it, can grant the right {right!r}"
        )

    def _frozen(self, cubes: Sequence[UUID]) -> NoReturn:
        raise CubeFrozen(f"frozen, so nothing was changed: {listed(cubes)}; unfreeze it first")


def listed(cubes: Sequence[UUID]) -> str:
    """Return ids for a message, and how many more there are."""
    named = ", ".join(map(str, cubes[:_NAMED]))
    return named if len(cubes) <= _NAMED else f"{named} and {len(cubes) - _NAMED} more"
