"""A database request as a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, LiteralString, TypeVar

T = TypeVar("T")
Row = Mapping[str, Any]  # column name to the driver's value


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement(Generic[T]):
    """SQL, its parameters, and how to read its rows. Only ``Store.run`` executes one."""

    sql: LiteralString
    parameters: Mapping[str, object]
    read: Callable[[Sequence[Row]], T]


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """Many rows to store in one go: COPY in its binary form, with the types of their columns."""

    sql: LiteralString
    types: Sequence[str]
    rows: Iterable[Sequence[object]]


def ignored(_rows: Sequence[Row]) -> None:
    """Read nothing: the statement matters for what it does."""
