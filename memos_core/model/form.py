"""How a KV cache departs from a full prefill, where that was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast

from memos_core.errors import InvalidInput
from memos_core.model.quantization import Quantization


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a KV cache was made: by default exactly.

    ``quantization`` is how its numbers are stored. ``recompute`` is the share of tokens that was
    computed anew where it was composed of its memories' own caches; None where it was not.
    """

    quantization: Quantization = Quantization.NONE
    recompute: float | None = None

    def __post_init__(self) -> None:
        if self.recompute is not None and not 0 <= self.recompute <= 1:
            raise InvalidInput(f"a share of tokens is from 0 to 1, not {self.recompute}")

    @property
    def exact(self) -> bool:
        """Whether it has to be what a full prefill would give."""
        return self == Form()

    def root(self, fingerprint: str) -> str:
        """Return where chains of keys begin: what is exact is never continued from what is not."""
        if self.exact:
            return fingerprint
        return json.dumps([fingerprint, self.quantization.value, self.recompute])

    def as_json(self) -> dict[str, object]:
        """Return it as a report has it."""
        return {"quantization": self.quantization.value, "recompute": self.recompute}

    @classmethod
    def of(cls, report: Mapping[str, object]) -> Self:
        """Read it from a report."""
        return cls(
            quantization=Quantization(str(report["quantization"])),
            recompute=cast("float | None", report["recompute"]),
        )
