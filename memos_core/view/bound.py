"""What all verbs of a view share: where it is, who asks, and the engine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn
from uuid import UUID

from memos_core.engine import Engine
from memos_core.errors import CubeNotFound
from memos_core.governance import Caller
from memos_core.namespace import Namespace
from memos_core.store.statements.scope import Scope
from memos_core.text import checked_text


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

    def _missing(self, cubes: Sequence[UUID]) -> NoReturn:
        raise CubeNotFound(
            f"no cube {', '.join(map(str, cubes))} in {'/'.join(self.namespace)}: "
            "it was never here, is forgotten or expired, or belongs to another namespace"
        )
