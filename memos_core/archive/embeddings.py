"""Embeddings as a safetensors member: one tensor ``embedding``, float16, (records, width)."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import (
    SafetensorError,
    deserialize,  # pyright: ignore[reportUnknownVariableType] its stub has no types
)
from safetensors.numpy import save

from memos_core.errors import ArchiveInvalid, InvalidVector
from memos_core.text import shortened

Embeddings: TypeAlias = NDArray[np.float16]  # (records, width), each row finite and not zero

_KEY = "embedding"
_EXPONENT = np.uint16(0x7C00)  # all of a float16's exponent bits: infinity or NaN


def rows_of(vectors: NDArray[np.floating[Any]], *, width: int) -> Embeddings:
    """Return vectors of shape (n, width) as they are written."""
    array = np.asarray(vectors)
    if array.ndim != 2 or array.shape[1] != width or array.dtype.kind != "f":  # noqa: PLR2004
        raise InvalidVector(
            f"embeddings must be floats of shape (n, {width}), not {array.dtype} {array.shape}"
        )
    with np.errstate(over="ignore", under="ignore"):  # looked at below
        rows = array.astype("<f2")
    if problem := _problem(rows):
        raise InvalidVector(f"an embedding {problem}")
    return rows


def as_bytes(rows: Embeddings) -> bytes:
    """Return the member."""
    return save({_KEY: rows})


def read_embeddings(data: bytes, *, records: int, width: int, where: str) -> Embeddings:
    """Return the embeddings in a member, of exactly this shape."""
    try:
        # Not safetensors.numpy.load: of a type that numpy lacks it says KeyError.
        tensors = cast("list[tuple[str, dict[str, Any]]]", deserialize(data))
    except SafetensorError as error:
        reason = shortened(str(error), 200)
        raise ArchiveInvalid(f"{where} is not in safetensors format: {reason}") from error
    if [name for name, _ in tensors] != [_KEY]:
        raise ArchiveInvalid(f"{where} must hold one tensor, {_KEY!r}")
    tensor = tensors[0][1]
    if tensor["dtype"] != "F16" or tensor["shape"] != [records, width]:
        raise ArchiveInvalid(
            f"{where} holds {tensor['dtype']} of shape {tensor['shape']}, not F16 of shape "
            f"[{records}, {width}]"
        )
    rows = np.frombuffer(tensor["data"], dtype="<f2").reshape(records, width)
    if problem := _problem(rows):
        raise ArchiveInvalid(f"{where}: an embedding {problem}")
    return rows


def _problem(rows: Embeddings) -> str | None:
    if ((rows.view(np.uint16) & _EXPONENT) == _EXPONENT).any():  # twice as fast as isfinite
        return "holds NaN, infinity or a number that is too large for float16"
    if not rows.any(axis=1).all():
        return "is zero in every dimension: it has no direction"
    return None
