"""Metadata filters: from a user's mapping to conditions that SQL takes as one value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from memos_core.checks import as_json_values
from memos_core.errors import InvalidFilter

OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin")
_ORDERED = ("$gt", "$gte", "$lt", "$lte")
_MAX_DEPTH = 32
_MAX_CONDITIONS = 100


def compiled(wanted: Mapping[object, object] | None) -> str | None:
    """Return ``wanted`` as a JSON list of ``{"path", "operator", "value"}``, or None.

    Raises:
        InvalidFilter: an unknown operator, a value that has no order, or no JSON value.
    """
    if not isinstance(cast("object", wanted), Mapping | None):
        raise InvalidFilter(f"a filter is a mapping, not {type(wanted).__name__}")
    if not wanted:
        return None
    conditions = list(_conditions(wanted, ()))
    if len(conditions) > _MAX_CONDITIONS:
        raise InvalidFilter(f"a filter has at most {_MAX_CONDITIONS} conditions")
    try:
        return json.dumps(as_json_values(conditions), ensure_ascii=False)
    except ValueError as error:
        raise InvalidFilter(f"a filter compares with JSON values only: {error}") from error


def _conditions(
    wanted: Mapping[object, object], path: tuple[str, ...]
) -> Iterator[dict[str, object]]:
    if len(path) > _MAX_DEPTH:
        raise InvalidFilter(f"a filter is nested at most {_MAX_DEPTH} deep")
    for key, value in wanted.items():
        if isinstance(key, str) and key.startswith("$"):
            yield _condition(path, key, value)
        elif isinstance(value, Mapping) and value:
            inner = cast("Mapping[object, object]", value)
            yield from _conditions(inner, path + _steps(key))
        else:
            yield _condition(path + _steps(key), "$eq", cast("object", value))


def _steps(key: object) -> tuple[str, ...]:
    if isinstance(key, str):
        return tuple(key.split("."))
    if isinstance(key, tuple):
        steps = cast("tuple[object, ...]", key)
        if steps and all(isinstance(step, str) for step in steps):
            return cast("tuple[str, ...]", steps)
    raise InvalidFilter(f"a filter key is a string or a tuple of strings, not {key!r}")


def _condition(path: tuple[str, ...], operator: str, value: object) -> dict[str, object]:
    if operator not in OPERATORS:
        raise InvalidFilter(f"unknown filter operator {operator!r}; known: {', '.join(OPERATORS)}")
    if not path:
        raise InvalidFilter(f"{operator} stands alone: name the metadata key it applies to")
    name = ".".join(path)
    if operator in ("$in", "$nin"):
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise InvalidFilter(f"{operator} on {name!r} takes a list, not {type(value).__name__}")
        value = list(cast("Iterable[object]", value))
    if operator in _ORDERED and (
        isinstance(value, bool) or not isinstance(value, (str, int, float))
    ):
        raise InvalidFilter(
            f"{operator} on {name!r} compares numbers or strings, not {type(value).__name__}"
        )
    return {"path": path, "operator": operator, "value": value}
