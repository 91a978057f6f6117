"""Every number a user may turn."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from memos_core.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """How much each signal counts in a hit's score.

    Cosines and BM25 are at most 1, and so is the score of a memory that stands alone. The weights
    were chosen on five LoCoMo conversations (docs/decisions/0007, docs/benchmarks.md).
    """

    dense: float = 0.4  # cosine of question and memory
    dense_context: float = 0.05  # cosine of the question and each neighbouring turn
    lexical: float = 0.2  # BM25 of the memory
    lexical_context: float = 0.4  # BM25 of the memory with its neighbouring turns
    speaker: float = 0.05  # the question names who said it
    assistant: float = -0.05  # it was the assistant who said it

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not math.isfinite(getattr(self, name)):
                raise InvalidInput(f"weight {name} must be a finite number")


DENSE_ALONE = Weights(dense=1, dense_context=0, lexical=0, lexical_context=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Limits and weights of one ``MemOS``; times are in seconds, sizes in characters."""

    pool_size: int = 8  # connections, and threads of the async face
    pool_timeout: float = 10.0  # wait for a free connection
    statement_timeout: float = 30.0  # cancelling an await does not stop the SQL; this does
    startup_timeout: float = 300.0  # the embedded server may have to recover from a crash first
    max_text: int = 65_536  # of one cube, and no more: the worst text so long fits a tsvector
    max_message: int = 1_000_000  # of one message; the reader splits it into several cubes
    exact_limit: int = 10_000  # memories a view may hold before search uses an index of it
    weights: Weights = Weights()  # of the signals in a hit's score
    read_events: bool = True  # whether get and search are written to the event log
    row_security: bool = True  # a second wall, in the database itself (docs/decisions/0012)

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if name == "weights":  # which checked itself
                continue
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
