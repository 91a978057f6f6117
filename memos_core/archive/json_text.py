"""JSON that means the same to every reader, and no more than it says.

One value is UTF-8 without a byte-order mark, names each field once, nests at most 100 deep, and
holds no NaN, no infinity and no lone surrogate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import NoReturn, cast

from memos_core.errors import ArchiveInvalid, InvalidInput
from memos_core.text import shortened

MAX_DEPTH = 100  # Python's own limit depends on who calls


def parsed(text: bytes, *, where: str) -> dict[str, object]:
    """Return the object that a JSON text holds.

    Raises:
        ArchiveInvalid: it is no object, or no JSON as described above.
    """
    try:
        value: object = _decode(text.decode())
        if b"\\ud" in text or b"\\uD" in text:  # the one way to a lone surrogate
            _encode(value).encode()
    except (ValueError, RecursionError) as error:
        raise ArchiveInvalid(f"{where} is not valid JSON: {_reason(error)}") from error
    if not isinstance(value, dict):
        raise ArchiveInvalid(f"{where} is no JSON object")
    found = cast("dict[str, object]", value)
    if _too_deep(text, found):
        raise ArchiveInvalid(f"{where} nests more than {MAX_DEPTH} deep")
    return found


def as_json(record: Mapping[str, object], *, what: str) -> bytes:
    """Return a record as one line of JSON, without its end; equal records give equal bytes.

    Raises:
        InvalidInput: it holds what ``parsed`` would refuse, or what is no JSON.
    """
    try:
        value = dict(record)
        line = _encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} cannot be written as JSON: {_reason(error)}") from error
    if _too_deep(line, value):
        raise InvalidInput(f"{what} nests more than {MAX_DEPTH} deep")
    return line


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it names a field twice")
    return found


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"the number {shortened(number, 40)} is too large")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


# Sorted: PostgreSQL's jsonb forgets an order. Sorting also refuses keys of several types, the only
# ones that could become the same text.
_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode
_decode = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse
).decode


def _too_deep(text: bytes, value: object) -> bool:
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:  # nearly always, and fast
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in _inside(outer)
            if isinstance(inner, dict | list | tuple)
        ]
        if not level:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[object, object]", value).values()
    if isinstance(value, list | tuple):
        return cast("list[object]", value)
    return ()


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it nests too deep"
    return shortened(str(error), 200)
