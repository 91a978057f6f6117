"""Who asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from memos_core.checks import checked_key, checked_metadata, checked_tags


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks, and in what context; recorded with every event and as the owner of new cubes."""

    user: str
    roles: tuple[str, ...] = ()
    context: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        """Check that the log can hold it.

        Raises:
            InvalidInput: a value that cannot be stored.
        """
        checked_key(self.user, what="a caller's user")
        checked_tags(self.roles, what="role")
        checked_metadata(self.context)
