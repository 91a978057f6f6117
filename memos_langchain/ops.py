"""LangGraph's operations on a store as a memory's, and results the other way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    Item,
    MatchCondition,
    NamespaceMatchType,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
)

from memos_core import (
    GetItem,
    ItemOp,
    ItemResult,
    ListNamespaces,
    PathMatch,
    PutItem,
    SearchItems,
)
from memos_core import Item as Found
from memos_langchain.indexed import checked_fields, texts_of

_MINUTE = 60  # seconds


def as_item_op(op: Op, fields: Sequence[str]) -> ItemOp:
    """Return an operation as a memory takes it; ``fields`` are what items are found by.

    Raises:
        InvalidNamespaceError: a namespace that cannot be one.
        InvalidInput: no paths in a put's ``index``.
    """
    if isinstance(op, GetOp):
        return GetItem(namespace=_labels(op.namespace), key=op.key, refresh=op.refresh_ttl)
    if isinstance(op, SearchOp):
        return SearchItems(
            namespace=_labels(op.namespace_prefix),
            query=op.query,
            filter=op.filter,
            limit=op.limit,
            offset=op.offset,
            refresh=op.refresh_ttl,
        )
    if isinstance(op, PutOp):
        if not op.namespace:
            raise InvalidNamespaceError("an item needs a namespace: at least one label")
        return PutItem(
            namespace=_labels(op.namespace),
            key=op.key,
            value=op.value,
            texts=None
            if op.index is False
            else partial(texts_of, fields if op.index is None else checked_fields(op.index)),
            ttl=None if op.ttl is None else op.ttl * _MINUTE,
        )
    return ListNamespaces(
        matches=tuple(
            PathMatch(at=one.match_type, path=_labels(_path(one.path)))
            for one in op.match_conditions or ()
        ),
        max_depth=op.max_depth,
        limit=op.limit,
        offset=op.offset,
    )


def _labels(namespace: Sequence[object]) -> tuple[str, ...]:
    """Return a namespace as labels; a number, such as a user's id, is taken as a text."""
    if isinstance(namespace, str):
        raise InvalidNamespaceError(f"a namespace is a tuple of labels: ({namespace!r},)")
    labels: list[str] = []
    for label in namespace:
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise InvalidNamespaceError(
                f"a label of a namespace is a text or a number, not {label!r}, in {namespace!r}"
            )
        if label == "":
            raise InvalidNamespaceError(f"a label of the namespace {namespace!r} is empty")
        labels.append(str(label))
    return tuple(labels)


def _path(path: Sequence[object] | str) -> Sequence[object]:
    return (path,) if isinstance(path, str) else path


def conditions(
    prefix: Sequence[str] | None, suffix: Sequence[str] | None
) -> tuple[MatchCondition, ...]:
    """Return which namespaces are wanted."""
    asked: tuple[tuple[NamespaceMatchType, Sequence[str] | None], ...] = (
        ("prefix", prefix),
        ("suffix", suffix),
    )
    return tuple(MatchCondition(at, _labels(_path(path))) for at, path in asked if path)


def as_result(result: ItemResult) -> Result:
    """Return a result as LangGraph's types."""
    if isinstance(result, Found):
        return Item(
            value=result.value,
            key=result.key,
            namespace=result.namespace,
            created_at=result.created_at,
            updated_at=result.updated_at,
        )
    if isinstance(result, list):
        return cast("Result", [_hit(one) if isinstance(one, Found) else one for one in result])
    return None


def _hit(found: Found) -> SearchItem:
    return SearchItem(
        namespace=found.namespace,
        key=found.key,
        value=found.value,
        created_at=found.created_at,
        updated_at=found.updated_at,
        score=found.score,
    )
