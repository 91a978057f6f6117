"""The verbs about who may do what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

from memos_core.checks import (
    checked_count,
    checked_id,
    checked_key,
    checked_metadata,
    checked_names,
    checked_time,
    checked_ttl,
)
from memos_core.errors import InvalidInput
from memos_core.governance import Grant, Right
from memos_core.store.statements import grants
from memos_core.store.statements.grants import Target
from memos_core.view.bound import Bound


class Governing(Bound):
    """The verbs about who may do what."""

    def grant(
        self,
        *,
        user: str | None = None,
        role: str | None = None,
        everyone: bool = False,
        cube: UUID | str | None = None,
        tag: str | None = None,
        rights: Iterable[Right | str] = (Right.READ,),
        condition: Mapping[str, object] | None = None,
        until: date | str | None = None,
        ttl: float | timedelta | None = None,
    ) -> Grant:
        """Let a ``user``, all who have a ``role``, or ``everyone`` do something.

        It is about one ``cube``, or all with a ``tag``, or else all, in this namespace and below.
        ``rights`` are ``read``, ``write``, ``derive`` (make something of it) and ``share`` (grant
        what one may do). It is in force until ``until`` or for ``ttl`` seconds, and while the
        caller's context holds all of ``condition``: ``{"place": "ward"}``. Granting the same to the
        same again replaces it. Across tenants nothing can be granted.

        A caller grants what he may do himself: with a cube that he owns or may share; with a tag or
        a namespace that he was granted to share, else only with his own cubes there.

        Raises:
            InvalidInput: to nobody, or about two things.
            CubeNotFound, NotPermitted: nothing was granted.
        """
        target = self._target(user, role, everyone=everyone, cube=cube, tag=tag)
        wanted = checked_names(rights, Right, what="right")
        if not wanted:
            raise InvalidInput(f"grant at least one right: {', '.join(Right)}")
        if until is not None and ttl is not None:
            raise InvalidInput("give until or ttl, not both")
        there, granted = self.engine.run(
            grants.grant(
                self._scope,
                uuid7(),
                target,
                tuple(map(Right, wanted)),
                condition=checked_metadata(condition),
                until=checked_time(until, what="until"),
                ttl=checked_ttl(ttl),
            )
        )
        if target.cube is not None and not there:
            self._missing([target.cube], right="share")
        if granted is None:
            self._denied([target.cube] if target.cube else [], "share")
        return granted

    def revoke(
        self,
        grant: Grant | UUID | str | None = None,
        *,
        user: str | None = None,
        role: str | None = None,
        everyone: bool = False,
        cube: UUID | str | None = None,
        tag: str | None = None,
        rights: Iterable[Right | str] | None = None,
    ) -> list[Grant]:
        """Take back a grant, or all to somebody about something; return what was taken back.

        With ``rights`` only those with one of them. That there is none is no error: the list is
        empty. A caller takes back what he granted, and what others granted of his cubes.

        Raises:
            InvalidInput: from nobody, or about two things.
        """
        if grant is not None:
            if user or role or everyone or cube or tag or rights:
                raise InvalidInput("name a grant, or whom and what it is about, not both")
            one = grant.id if isinstance(grant, Grant) else checked_id(grant, what="grant")
            return self.engine.run(grants.revoke_one(self._scope, one))
        target = self._target(user, role, everyone=everyone, cube=cube, tag=tag)
        named = checked_names(rights, Right, what="right")
        wanted = None if named is None else tuple(map(Right, named))
        return self.engine.run(grants.revoke(self._scope, target, wanted))

    def grants(self, *, limit: int = 100, offset: int = 0) -> list[Grant]:
        """Return the grants in force in this namespace and below, the oldest first.

        A caller sees those that he gave, that are for him, or that are about his cubes.
        """
        return self.engine.run(
            grants.granted(
                self._scope,
                limit=checked_count(limit, what="limit"),
                offset=checked_count(offset, what="offset", most=10**9),
            )
        )

    def _target(
        self,
        user: str | None,
        role: str | None,
        *,
        everyone: bool,
        cube: UUID | str | None,
        tag: str | None,
    ) -> Target:
        if [user is not None, role is not None, everyone].count(True) != 1:
            raise InvalidInput("name for whom: user=, or role=, or everyone=True")
        if cube is not None and tag is not None:
            raise InvalidInput("a grant is about a cube or about a tag, not both")
        return Target(
            cube=None if cube is None else checked_id(cube),
            tag=None if tag is None else checked_key(tag, what="tag"),
            user=None if user is None else checked_key(user, what="user"),
            role=None if role is None else checked_key(role, what="role"),
        )
