"""Every number a user may turn."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from memos_core.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Limits and weights of one ``MemOS``; times are in seconds, sizes in characters."""

    pool_size: int = 8  # connections, and threads of the async face
    pool_timeout: float = 10.0  # wait for a free connection
    statement_timeout: float = 30.0  # cancelling an await does not stop the SQL; this does
    startup_timeout: float = 300.0  # the embedded server may have to recover from a crash first
    max_text: int = 65_536  # of one cube, and no more: the worst text so long fits a tsvector
    max_message: int = 1_000_000  # of one message; the reader splits it into several cubes
    dense_weight: float = 2 / 3  # share of the cosine in a hit's score
    lexical_weight: float = 1 / 3  # share of BM25 in a hit's score
    read_events: bool = True  # whether get and search are written to the event log

    def __post_init__(self) -> None:
        for name in self.__slots__:
            least, most = _RANGES.get(name, (0, 2**31 - 1))
            value = getattr(self, name)
            if not least <= value <= most:
                raise InvalidInput(f"setting {name} must be from {least} to {most}, not {value}")


_RANGES: dict[str, tuple[float, float]] = {
    "pool_size": (1, 1_000),
    "statement_timeout": (0.001, 2_000_000),  # PostgreSQL counts milliseconds in 31 bits
    "max_text": (1, 65_536),
    "max_message": (1, 100_000_000),
}


def where_from(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return what ``MEMOS_DATABASE`` names: a folder, a ``postgresql://`` URL, or None."""
    return environment.get("MEMOS_DATABASE") or None
