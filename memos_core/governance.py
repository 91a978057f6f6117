"""Who asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks, and in what context; recorded with every event and as the owner of new cubes."""

    user: str
    roles: tuple[str, ...] = ()
    context: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
