"""A database request as a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, LiteralString, TypeVar

T = TypeVar("T")
Row = Mapping[str, Any]  # column name to the driver's value


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement(Generic[T]):
    """SQL, its parameters, and how to read its rows. Only ``Store.run`` executes one.

    It reaches the rows of the tenant that is one of its parameters, or of none; those of
    ``every_tenant`` where it says so.
    """

    sql: LiteralString
    parameters: Mapping[str, object]
    read: Callable[[Sequence[Row]], T]
    every_tenant: bool = False


class Tenant(str):
    """Whose rows a statement is about: as a parameter, it raises the wall of row-level security."""

    __slots__ = ()


class AskedTenant(Tenant):
    """The same in a statement that reads for a caller: it raises the wall between callers too."""

    __slots__ = ()


class Asker(str):
    """Who asks, as JSON."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """Many rows to store in one go: COPY in its binary form, with the types of their columns."""

    sql: LiteralString
    types: Sequence[str]
    rows: Iterable[Sequence[object]]


def ignored(_rows: Sequence[Row]) -> None:
    """Read nothing: the statement matters for what it does."""
