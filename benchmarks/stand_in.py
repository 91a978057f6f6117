"""A stand-in for an embedder, so that no model is timed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memos_core.embedder import Vectors

WIDTH = 384
_TABLE = 16_384  # vectors
_DIRECTIONS = 16  # in which they differ: of vectors that are random in all, none is near another


class Table:
    """Vectors in a table: the number that is a text's second word says which is its."""

    name = "a table"

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        directions = random.normal(size=(_DIRECTIONS, WIDTH))
        meant = random.normal(size=(_TABLE, _DIRECTIONS)) @ directions
        self._vectors = (meant + random.normal(size=(_TABLE, WIDTH))).astype(np.float32)

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self._vectors[[int(text.split()[1]) % _TABLE for text in texts]]
