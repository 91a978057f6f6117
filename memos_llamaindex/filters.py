"""LlamaIndex's metadata filters as those of a view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from memos_core import InvalidFilter

_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
}
# What is absent passes "$ne" and no comparison of size: those have no opposite.
_OPPOSITES = {"$eq": "$ne", "$ne": "$eq", "$in": "$nin", "$nin": "$in"}


class _Condition(NamedTuple):
    key: str
    operator: str
    value: Any


def conditions_of(filters: MetadataFilters) -> dict[str, dict[str, Any]]:
    """Return the filter of ``View.search`` that says the same.

    Raises:
        InvalidFilter: there is none. A view's conditions hold together, so "or" is for values of
            one key, and "not" for what has an opposite.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for key, operator, value in _all_of(filters, negated=False):
        of_key = wanted.setdefault(key, {})
        if operator in ("$ne", "$nin"):  # of several lists it is none
            others = [value] if operator == "$ne" else value
            of_key["$nin"] = [*of_key.get("$nin", ()), *others]
        elif of_key.setdefault(operator, value) != value:
            raise InvalidFilter(
                f"{key!r} is compared by {operator} with several values, and a search takes one of "
                "each: filter what it finds, or keep what you look for under a key of its own"
            )
    return wanted


def _all_of(wanted: MetadataFilter | MetadataFilters, *, negated: bool) -> Iterator[_Condition]:
    """Yield conditions that hold together where ``wanted`` does, or does not."""
    if isinstance(wanted, MetadataFilter):
        yield from _compared(wanted, negated=negated)
        return
    if wanted.condition == FilterCondition.NOT:  # none of them holds
        negated = not negated
    parts = [list(_all_of(one, negated=negated)) for one in wanted.filters]
    together = negated == (wanted.condition in (FilterCondition.OR, FilterCondition.NOT))
    if together or len(parts) < 2:  # noqa: PLR2004 one alternative is none
        yield from chain.from_iterable(parts)
    else:
        yield _either(parts)


def _either(parts: Sequence[Sequence[_Condition]]) -> _Condition:
    """Return the one condition that some alternatives are."""
    single = [part[0] for part in parts if len(part) == 1 and part[0].operator in ("$eq", "$in")]
    keys = {one.key for one in single}
    if len(single) < len(parts) or len(keys) > 1:
        raise InvalidFilter(
            'a search has no "or" but between values of one key: make a retriever for each '
            "alternative, and LlamaIndex's QueryFusionRetriever of them"
        )
    values = (one.value if one.operator == "$in" else [one.value] for one in single)
    return _Condition(keys.pop(), "$in", list(chain.from_iterable(values)))


def _compared(wanted: MetadataFilter, *, negated: bool) -> Iterator[_Condition]:
    operator = _OPERATORS.get(wanted.operator)
    if operator is None:
        known = ", ".join(one.value for one in _OPERATORS)
        raise InvalidFilter(
            f"a search does not compare by {wanted.operator.value!r} ({wanted.key!r}), but by "
            f"{known}; labels that a memory has several of are its tags: MemOSRetriever(tags=…)"
        )
    if negated:
        if operator not in _OPPOSITES:
            raise InvalidFilter(
                f'"not" of {wanted.operator.value!r} ({wanted.key!r}) would find what has no such '
                "key, which a search cannot tell: name the opposite, such as <= for >"
            )
        operator = _OPPOSITES[operator]
    value: Any = wanted.value
    if operator in ("$in", "$nin") and not isinstance(value, list):
        raise InvalidFilter(f"{wanted.operator.value!r} takes a list ({wanted.key!r}), not {value}")
    yield _Condition(wanted.key, operator, value)
