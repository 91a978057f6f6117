"""How long cubes are kept where they are found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from memos_core.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """When a sweep archives and ends cubes; None of a rule is never.

    ``idle``: archived when neither read nor changed for so long. ``half_life``: archived when so
    little is left of its strength as ``floor``. A cube's strength halves in a half-life, and one
    half-life more for each time it was read and each point of priority: the forgetting curve of
    MemoryBank (Zhong et al. 2023, arXiv:2305.10250, §2.3), ``2 ** (-age / (half_life * uses))``
    with the age since it was last read or changed. ``archived``: ended when so long in the archive.

    Raises:
        InvalidInput: a time that is not positive, or a floor that is not between 0 and 1.
    """

    idle: timedelta | None = None
    half_life: timedelta | None = None
    floor: float = 0.05
    archived: timedelta | None = None

    def __post_init__(self) -> None:
        for name in ("idle", "half_life", "archived"):
            value = getattr(self, name)
            if value is not None and value <= timedelta(0):
                raise InvalidInput(f"{name} must be a time, not {value}")
        if not 0 < self.floor < 1:
            raise InvalidInput(f"floor must be between 0 and 1, not {self.floor}")

    @property
    def shortest(self) -> timedelta | None:
        """The age at which a cube that was never read decays, None where none does."""
        return None if self.half_life is None else self.half_life * math.log2(1 / self.floor)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport:
    """What a sweep did: the cubes whose time was over, those it archived, and those it ended there.

    What was made of a cube that ended has ended as well, and is ``invalidated``.
    """

    expired: tuple[UUID, ...] = ()
    archived: tuple[UUID, ...] = ()
    ended: tuple[UUID, ...] = ()
    invalidated: tuple[UUID, ...] = ()
