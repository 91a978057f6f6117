"""The verbs that pass a cube from one state of its life to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NoReturn, overload
from uuid import UUID

from memos_core.checks import checked_count, checked_many
from memos_core.cube import MemCube, State
from memos_core.errors import IllegalTransition
from memos_core.lifecycle import before
from memos_core.retention import Retention, SweepReport
from memos_core.store.statement import Statement
from memos_core.store.statements import lifecycle, sweeping
from memos_core.store.statements.lifecycle import Step
from memos_core.store.statements.sweeping import Swept
from memos_core.view.bound import listed
from memos_core.view.ruling import Ruling

Ids = UUID | str | Iterable[UUID | str]


class Living(Ruling):
    """The verbs of a cube's life. Each takes an id or many, and changes all of them or none.

    A step is a new version, which says what the one before said, so what was made of the cube
    stands. A cube that is where it is sent already is returned as it is.
    """

    @overload
    def archive(self, ids: UUID | str) -> MemCube: ...
    @overload
    def archive(self, ids: Iterable[UUID | str]) -> list[MemCube]: ...
    def archive(self, ids: Ids) -> MemCube | list[MemCube]:
        """Put cubes where search does not look unless asked to; they are kept, and can be got.

        Raises:
            CubeNotFound, NotPermitted, CubeFrozen: nothing was changed.
        """
        return self._move(ids, State.ARCHIVED, "archived")

    @overload
    def activate(self, ids: UUID | str) -> MemCube: ...
    @overload
    def activate(self, ids: Iterable[UUID | str]) -> list[MemCube]: ...
    def activate(self, ids: Ids) -> MemCube | list[MemCube]:
        """Bring cubes back from the archive; what was merged speaks for itself again.

        Raises:
            CubeNotFound, NotPermitted, CubeFrozen: nothing was changed.
        """
        return self._move(ids, State.ACTIVATED, "activated")

    @overload
    def freeze(self, ids: UUID | str) -> MemCube: ...
    @overload
    def freeze(self, ids: Iterable[UUID | str]) -> list[MemCube]: ...
    def freeze(self, ids: Ids) -> MemCube | list[MemCube]:
        """Hold cubes as they are: found as before, and every change is refused, expiry too.

        Raises:
            CubeNotFound, NotPermitted: nothing was changed.
        """
        return self._move(ids, State.FROZEN, "froze")

    @overload
    def unfreeze(self, ids: UUID | str) -> MemCube: ...
    @overload
    def unfreeze(self, ids: Iterable[UUID | str]) -> list[MemCube]: ...
    def unfreeze(self, ids: Ids) -> MemCube | list[MemCube]:
        """Let frozen cubes be changed again; each is in the state it had, with what time it had.

        What was made of cubes that changed meanwhile ends now, and is returned so; what was merged
        into one that ended is activated.

        Raises:
            CubeNotFound, NotPermitted: nothing was changed.
            IllegalTransition: one of them is not frozen.
        """
        return self._done(
            ids,
            lambda wanted: lifecycle.thaw(self._scope, wanted),
            "unfreeze",
            (State.FROZEN,),
            ends=True,
        )

    @overload
    def expire(self, ids: UUID | str) -> MemCube: ...
    @overload
    def expire(self, ids: Iterable[UUID | str]) -> list[MemCube]: ...
    def expire(self, ids: Ids) -> MemCube | list[MemCube]:
        """End cubes; return them as they last were. Nothing finds them, and their history stays.

        What was made of them ends with them. To erase what they said, ``forget`` them.

        Raises:
            CubeNotFound, NotPermitted, CubeFrozen: nothing was changed.
        """
        return self._move(ids, State.EXPIRED, "expired")

    def sweep(self, retention: Retention | None = None, *, batch: int = 500) -> SweepReport:
        """End the cubes whose time to live is over, and archive and end others by ``retention``.

        Without one it goes by that of the namespace's rules.

        It goes through the view in transactions of ``batch`` cubes at most, so that others wait
        for none of it long; what somebody is changing is left to the next sweep. Nothing is
        erased: histories stay, every step is in the log, and the report names each cube.
        """
        most = checked_count(batch, what="batch", least=1)
        rules, scope = retention or self.rules().retention or Retention(), self._scope
        lapsed = self._swept(lambda last: sweeping.lapse(scope, last=last, batch=most))
        archived: list[Swept] = []
        ended: list[Swept] = []
        long = rules.archived
        if long is not None:
            ended = self._swept(lambda last: sweeping.end(scope, long, last=last, batch=most))
        if rules.idle is not None or rules.half_life is not None:
            archived = self._swept(
                lambda last: sweeping.archive(scope, rules, last=last, batch=most)
            )
        return SweepReport(
            expired=_all(one.cubes for one in lapsed),
            archived=_all(one.cubes for one in archived),
            ended=_all(one.cubes for one in ended),
            invalidated=_all(one.invalidated for one in (*lapsed, *ended)),
        )

    def _swept(self, statement: Callable[[UUID | None], Statement[Swept]]) -> list[Swept]:
        """Sweep batch after batch."""
        done: list[Swept] = []
        last: UUID | None = None
        while True:
            swept = self.engine.run(statement(last))
            done.append(swept)
            last = swept.last
            if last is None:
                return done

    def _move(self, ids: Ids, to: State, kind: str) -> MemCube | list[MemCube]:
        return self._done(
            ids,
            lambda wanted: lifecycle.move(self._scope, wanted, to, kind=kind),
            f"make {to}",
            (*before(to), to),
            ends=to is State.EXPIRED,
        )

    def _done(
        self,
        ids: Ids,
        statement: Callable[[Sequence[UUID]], Statement[Step]],
        what: str,
        states: Sequence[State],
        *,
        ends: bool,
    ) -> MemCube | list[MemCube]:
        wanted = checked_many(ids)
        if not wanted:
            return []
        # Held first: a thaw must see the version that a freeze under way has just written.
        step = self.engine.run(lifecycle.hold(self._scope, wanted, ends=ends), statement(wanted))
        if not step.done:
            self._refuse(wanted, step, what, states)
        cubes = [step.cubes[cube] for cube in wanted]
        return cubes[0] if isinstance(ids, str | UUID) else cubes

    def _refuse(
        self, wanted: Sequence[UUID], step: Step, what: str, states: Sequence[State]
    ) -> NoReturn:
        if missing := [cube for cube in wanted if cube not in step.cubes]:
            self._missing(missing, right="write")
        if step.denied:
            self._denied(step.denied, "write")
        stuck = [cube for cube in step.cubes.values() if cube.state not in states]
        if frozen := [cube.id for cube in stuck if cube.state is State.FROZEN]:
            self._frozen(frozen)
        raise IllegalTransition(
            f"cannot {what} what is {stuck[0].state}: {listed([cube.id for cube in stuck])}; "
            "nothing was changed"
        )


def _all(ids: Iterable[Iterable[UUID]]) -> tuple[UUID, ...]:
    return tuple(chain.from_iterable(ids))
