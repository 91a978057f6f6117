"""Whose memory a run is about: a view, or one that the run's store, context or config names."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

from memos_core import Caller, InvalidInput, MemOS, Namespace, View
from memos_core.view.given import checked_view
from memos_langchain.store import MemOSStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Whose:
    """A memory, and templates of the namespace in it and of the user who asks.

    Without a memory it is that of the run's store, and the namespace is one in the store.
    """

    memos: View | None
    namespace: tuple[str, ...] | None
    user: str | None

    @classmethod
    def of(cls, memos: View | None, namespace: Sequence[str] | None, user: str | None) -> Self:
        """Return what was passed, once it is sure that views can be taken of it.

        Raises:
            InvalidInput: no view, or no templates.
        """
        if memos is not None:
            checked_view(memos)
        if namespace is not None:
            _check_namespace(namespace, memos)
        if user is not None:
            _check_template(user, what="user")
            if memos is not None and memos.caller is not None:
                raise InvalidInput(
                    f"memos acts for {memos.caller.user} already: pass one without a caller, "
                    "or leave user= away"
                )
        return cls(
            memos=memos, namespace=None if namespace is None else tuple(namespace), user=user
        )

    def view(self, context: object, config: Mapping[str, object], store: object) -> View:
        """Return the memory of a run.

        Raises:
            InvalidInput: the run does not provide what a template names, or has no store of ours.
        """
        memos, given = self.memos or _memory_of(store), _Given(context, config)
        caller = memos.caller if self.user is None else Caller(user=self.user.format_map(given))
        if self.namespace is None:
            return memos if self.user is None else View(memos.engine, memos.namespace, caller)
        base = () if isinstance(self.memos, MemOS) else memos.namespace
        labels = [label.format_map(given) for label in self.namespace]
        return View(memos.engine, Namespace(*base, *labels), caller)


def _memory_of(store: object) -> View:
    if not isinstance(store, MemOSStore):
        raise InvalidInput(
            "it is not known which memory to use: pass a MemOS or a view of one, or make the agent "
            f"with store=MemOSStore(…), not {type(store).__name__}"
        )
    return store.memos


class _Given(dict[str, object]):
    """What a run provides: its context, else its config's ``configurable``."""

    def __init__(self, context: object, config: Mapping[str, object]) -> None:
        super().__init__()
        self._context = context
        self._configurable = cast("Mapping[str, object]", config.get("configurable") or {})

    def __missing__(self, name: str) -> object:
        context: object = self._context
        if isinstance(context, Mapping):
            found = cast("Mapping[str, object]", context).get(name)
        else:
            found = getattr(context, name, None)
        if found is None:
            found = self._configurable.get(name)
        if found is None or found == "":
            raise InvalidInput(
                f"this run names no {name}, so it is not known whose memory it is: pass "
                f"context={{'{name}': …}} to invoke (with a context_schema on the agent), or "
                f"config={{'configurable': {{'{name}': …}}}}"
            )
        return found


def _check_namespace(namespace: Sequence[str], memos: View | None) -> None:
    if not isinstance(memos, MemOS | None):
        raise InvalidInput("namespace= takes views of a MemOS: pass the MemOS, not a view")
    if isinstance(namespace, str):
        raise InvalidInput(f"namespace is a sequence of labels, not one string: ({namespace!r},)")
    for label in namespace:
        _check_template(label, what="namespace label")


def _check_template(template: str, *, what: str) -> None:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template)]
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{what} {template!r} is no template: {error}") from error
    if "" in names:
        raise InvalidInput(f"{what} {template!r} does not say of what: use {{user_id}}")
