"""The memories that a call means, as they stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import TypeAlias, cast
from uuid import UUID

from memos_core.cached import Remembered
from memos_core.checks import checked_many
from memos_core.cube import MemCube
from memos_core.errors import InvalidInput
from memos_core.model.form import Form
from memos_core.model.memory import Memory, tenant_of
from memos_core.model.prefix import Prefix

Memories: TypeAlias = Memory | MemCube | UUID | str | Iterable[MemCube | UUID | str]


class Meant:
    """The memories that a call means: cubes of a view, or what the view itself stands for.

    The database is asked once for each, so that all that one call answers is of one state.
    """

    def __init__(self, memory: Memories, own: Memory | None) -> None:
        if isinstance(memory, Memory):
            self.view, self.ids = memory, None
        elif own is None:
            raise InvalidInput("the model has no memory: pass memos= a view, or memory= one")
        else:
            self.view, self.ids = own, _ids(memory)
        self._remembered: dict[tuple[UUID, ...], list[Remembered]] = {}
        self._caches: dict[tuple[str, str, bool], list[Remembered]] = {}

    @property
    def name(self) -> tuple[object, ...]:
        """What tells it from other memories, whatever they are by now."""
        user = self.view.caller.user if self.view.caller else None
        ids = None if self.ids is None else tuple(self.ids)
        return tenant_of(self.view), self.view.namespace, user, ids

    def remembered(self, ids: Sequence[UUID]) -> list[Remembered]:
        """Return memories as they stand.

        Raises:
            CubeNotFound: one is not there, or may not be read.
        """
        if (asked := tuple(ids)) not in self._remembered:
            self._remembered[asked] = self.view.remembered(asked)
        return self._remembered[asked]

    def caches(self, fingerprint: str, key: str, *, searchable: bool = False) -> list[Remembered]:
        """Return the KV caches of a model that hold a key and may be read.

        ``searchable`` are those of memories that a search may find.
        """
        asked = (fingerprint, key, searchable)
        if asked not in self._caches:
            found = self.view.caches(fingerprint, holding=[key], searchable=searchable)
            self._caches[asked] = found
        return self._caches[asked]

    def usable(self, prefix: Prefix, remembered: Sequence[Remembered], fingerprint: str) -> Prefix:
        """Return as much of a prefix as KV caches hold that the caller may read.

        Else how long an answer takes would tell him what another's memories say.
        """
        record = remembered[0].cache
        held = len(record.keys) if record else 0
        if self.view.caller is None or held == len(prefix.keys):
            return prefix
        caches = self.caches(fingerprint, prefix.keys[0])
        keys = {key for one in caches if one.cache for key in one.cache.keys}
        known = sum(1 for _ in takewhile(keys.__contains__, prefix.keys))
        return prefix.first(max(held, known))


def checked_view(memos: object) -> Memory | None:
    """Return a view, or None.

    Raises:
        InvalidInput: it is another thing, such as an AsyncView.
    """
    if memos is not None and not isinstance(memos, Memory):
        raise InvalidInput(f"memos= takes a view, not {_name(memos)}")
    return memos


def form_of(remembered: Sequence[Remembered]) -> Form:
    """Return the form of what is read: that of the first memory, where it is a KV cache."""
    record = remembered[0].cache if remembered else None
    return Form.of(record.report) if record else Form()


def members_of(remembered: Iterable[Remembered]) -> list[MemCube]:
    """Return the memories themselves, those of a KV cache in its order, each once."""
    return list({cube.id: cube for one in remembered for cube in one.members}.values())


def _ids(memory: object) -> list[UUID]:
    given = [memory] if isinstance(memory, MemCube | UUID | str) else memory
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise InvalidInput(f"memory is cubes, their ids, or a view, not {_name(memory)}")
    cubes = cast("Iterable[object]", given)
    return checked_many([cube.id if isinstance(cube, MemCube) else cube for cube in cubes])


def _name(value: object) -> str:
    named = f"{type(value).__name__} {value!r}"
    return f"{named}: pass its .blocking" if hasattr(value, "blocking") else named
