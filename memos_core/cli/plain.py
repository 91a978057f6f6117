"""Answers as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID


def as_json(value: object) -> str:
    """Return an answer of any verb as JSON text."""
    return json.dumps(plain(value), ensure_ascii=False, indent=2)


def plain(value: object) -> Any:
    """Return an answer of any verb as JSON values; times are ISO 8601."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return {str(key): plain(inner) for key, inner in pairs}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in cast("list[object]", value)]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (UUID, Path)):
        return str(value)
    return value
