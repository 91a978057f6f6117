"""What may leave a view in an archive: each value as it may be exported, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

from memos_core.kept import KeptCube, KeptMessage
from memos_core.namespace import Namespace
from memos_core.rules import Rules, nearest
from memos_core.sensitivity import Action, Sensitive, judge_values

Actions = Mapping[Sensitive, Action]
_STRICTEST = (Action.REFUSE, Action.REDACT, Action.ALLOW)
_FREE = ("source", "speaker")  # of a provenance: texts that anything may stand in


@dataclass(frozen=True, slots=True)
class _Policy:
    actions: Actions
    region: str | None

    @property
    def looks(self) -> bool:
        return any(action is not Action.ALLOW for action in self.actions.values())


class Exporting:
    """The rules about export of a view and of all below it, and what was asked for beside them.

    Of two actions for one kind the stricter is taken. ``refused`` counts the records in which
    something was found that may not leave, by its kind, and ``redacted`` those that were changed.
    Names by which rights are known are never changed: owners, users, tags, ids, sessions, labels.
    """

    def __init__(
        self,
        namespace: Namespace,
        rules: Mapping[Namespace, Rules],
        asked: Actions,
        *,
        watermark: str | None,
    ) -> None:
        self.refused: Counter[Sensitive] = Counter()
        self.redacted = 0
        self._namespace = namespace
        self._rules = rules
        self._asked = asked
        self._watermark = watermark
        self._known: dict[tuple[str, ...], _Policy] = {}

    def cube(self, cube: KeptCube) -> KeptCube:
        """Return a cube as it may be exported, with the watermark."""
        policy = self._policy(cube.below)
        if policy.looks:
            free = {name: cube.provenance[name] for name in _FREE if name in cube.provenance}
            found = {"text": cube.text, "metadata": cube.metadata, "provenance": free}
            if judged := self._judged(found, policy):
                cube = replace(
                    cube,
                    text=judged["text"],
                    metadata=judged["metadata"],
                    provenance={**cube.provenance, **judged["provenance"]},
                )
        if self._watermark is None:
            return cube
        return replace(cube, provenance={**cube.provenance, "watermark": self._watermark})

    def message(self, message: KeptMessage) -> KeptMessage:
        """Return a message as it may be exported."""
        policy = self._policy(message.below)
        names = ("content", "name", "metadata", "extra")
        found = {name: getattr(message, name) for name in names}
        judged = self._judged(found, policy) if policy.looks else None
        return replace(message, **judged) if judged else message

    def _judged(self, found: Mapping[str, object], policy: _Policy) -> dict[str, Any] | None:
        """Return what may be kept of texts, None where that is all."""
        verdict = judge_values(dict(found), policy.actions, region=policy.region)
        self.refused.update(verdict.refused)
        if not any(policy.actions.get(kind) is Action.REDACT for kind in verdict.kinds):
            return None
        self.redacted += 1
        return cast("dict[str, Any]", verdict.values)

    def _policy(self, below: tuple[str, ...]) -> _Policy:
        if below not in self._known:
            if len(self._known) >= _MANY:
                self._known.clear()
            self._known[below] = self._ruled((*self._namespace, *below))
        return self._known[below]

    def _ruled(self, path: tuple[str, ...]) -> _Policy:
        rules = nearest(self._rules, path) or Rules()
        kinds = {**rules.export, **self._asked}
        actions = {kind: self._strictest(rules.export.get(kind), kind) for kind in kinds}
        return _Policy(MappingProxyType(actions), rules.region)

    def _strictest(self, ruled: Action | None, kind: Sensitive) -> Action:
        given = (ruled, self._asked.get(kind))
        return next(action for action in _STRICTEST if action in given)


_MANY = 10_000  # namespaces whose policy is remembered
