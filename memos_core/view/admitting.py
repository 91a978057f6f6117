"""What the rules of a place let in of an archive: as if each record were written there now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from memos_core.errors import SensitiveText
from memos_core.kept import KeptCube, KeptMessage
from memos_core.namespace import Namespace
from memos_core.rules import Ruled, Rules, nearest
from memos_core.store.statements import rules
from memos_core.store.statements.loading import Arriving
from memos_core.store.statements.scope import Scope
from memos_core.view.ruling import check_write, kept, kept_message

if TYPE_CHECKING:
    from memos_core.store.transaction import Transaction


class Admitting:
    """The rules of a namespace, of all below it and of all above it, as they were known.

    ``marks`` tells whether some look for sensitive data, ``limits`` whether some limit writes.
    """

    def __init__(self, here: Mapping[Namespace, Ruled]) -> None:
        self.here = here
        self.marks = any(ruled.rules.sensitive for ruled in here.values())
        self.limits = any(ruled.rules.limits_writes for ruled in here.values())

    def cube(self, cube: KeptCube, at: Namespace, *, what: str, known: bool) -> KeptCube:
        """Return what may be loaded of a cube, marked with what was found in it.

        Raises:
            SensitiveText: nothing, unless it is ``known`` and not to be loaded.
        """
        by = self._rules(at)
        if by is None:
            return cube
        try:
            may = kept(cube.text, cube.metadata, by, namespace=at, what=what)
        except SensitiveText:
            if known:
                return cube
            raise
        marks = (kind for kind in may.found if kind not in cube.sensitivity)
        return replace(
            cube, text=may.text, metadata=may.metadata, sensitivity=(*cube.sensitivity, *marks)
        )

    def message(self, message: KeptMessage, at: Namespace, *, what: str) -> KeptMessage:
        """Return what may be loaded of a message.

        Raises:
            SensitiveText: nothing.
        """
        by = self._rules(at)
        return message if by is None else kept_message(message, by, namespace=at, what=what)

    def lock(self, transaction: Transaction) -> None:
        """Keep others who write by rules with limits out until the transaction ends."""
        for path in sorted(path for path, ruled in self.here.items() if ruled.rules.limits_writes):
            transaction.run(rules.lock(Scope(namespace=path)))

    def check_limits(self, transaction: Transaction, arriving: Sequence[Arriving]) -> None:
        """Refuse cubes that are more than rules allow; a load is one write, however large.

        Raises:
            LimitExceeded: they are.
        """
        sums: dict[Namespace, Arriving] = {}
        for one in arriving:
            ruled = nearest(self.here, one.namespace)
            if ruled is not None and ruled.namespace is not None:
                before = sums.get(ruled.namespace, Arriving(ruled.namespace, 0, 0))
                sums[ruled.namespace] = Arriving(
                    ruled.namespace,
                    before.cubes + one.cubes,
                    before.characters + one.characters,
                )
        for path, cubes, characters in sorted(sums.values()):
            check_write(
                transaction,
                Scope(namespace=path),
                self.here[path].rules,
                cubes=cubes,
                characters=characters,
                writes=1,
            )

    def _rules(self, at: Namespace) -> Rules | None:
        ruled = nearest(self.here, at) if self.marks else None
        return ruled and ruled.rules
