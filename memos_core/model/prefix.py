"""Keys of prompt beginnings: what a KV cache is found by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The stable beginning of a prompt: runs of tokens, each with a key that stands for it.

    A key is the SHA-256 of the model's fingerprint, the key before, and the run's tokens, as in the
    hash chains of block-based prefix caches (vLLM, "Automatic Prefix Caching"): equal keys mean
    equal tokens from the very first, read by an equal model for the same tenant (``tenant_of``).
    """

    tenant: str
    runs: tuple[tuple[int, ...], ...]
    keys: tuple[str, ...]

    @classmethod
    def of(cls, tenant: str, root: str, runs: Sequence[Sequence[int]]) -> Prefix:
        """Return runs with their keys; empty ones are left out: nothing is kept of them.

        ``root`` stands for the model and the form in which it is cached.
        """
        kept = tuple(tuple(run) for run in runs if run)
        keys: list[str] = []
        before = json.dumps([root, tenant])
        for run in kept:
            before = key_after(before, run)
            keys.append(before)
        return cls(tenant=tenant, runs=kept, keys=tuple(keys))

    def first(self, runs: int) -> Prefix:
        """Return its first runs."""
        return replace(self, runs=self.runs[:runs], keys=self.keys[:runs])

    @property
    def ids(self) -> list[int]:
        """All tokens."""
        return [token for run in self.runs for token in run]

    @property
    def ends(self) -> list[int]:
        """After how many tokens each run ends."""
        return list(accumulate(map(len, self.runs)))


def key_after(before: str, run: Sequence[int]) -> str:
    """Return the key of a run that follows the one with the key ``before``."""
    return hashlib.sha256(before.encode() + np.asarray(run, "<i8").tobytes()).hexdigest()
