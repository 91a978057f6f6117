"""Namespaces: paths of labels that say whose memory this is."""

from __future__ import annotations

from collections.abc import Generator
from typing import Self, cast

from memos_core.errors import InvalidNamespace
from memos_core.text import unstorable

MAX_LABELS = 32
# A PostgreSQL btree entry holds 2704 bytes; the key is the tenant and the whole path.
MAX_BYTES = 1024


class Namespace(tuple[str, ...]):
    """A path of labels such as ``("acme", "ann", "trips")``; the first label is the tenant.

    Any non-empty string is a legal label: e-mail addresses, dots, slashes, any script.
    At most 32 labels and 1024 bytes (UTF-8) in all.

    Raises:
        InvalidNamespace: no labels, too many or too long ones, an empty one, one that is no
            string, or one with a NUL byte or a lone surrogate.
    """

    __slots__ = ()

    def __new__(cls, *labels: str) -> Self:
        """Check labels and make a path of them."""
        first = cast("object", labels[0]) if len(labels) == 1 else None
        if isinstance(first, Generator):  # dataclasses.asdict copies tuples so
            labels = tuple(cast("Generator[str]", first))
        if not labels:
            raise InvalidNamespace("a namespace needs at least one label, the tenant")
        if len(labels) > MAX_LABELS:
            raise InvalidNamespace(
                f"a namespace has at most {MAX_LABELS} labels, not {len(labels)}; "
                "put what varies into tags or metadata"
            )
        for position, label in enumerate(labels):
            _check(position, label)
        size = sum(len(label.encode()) for label in labels)
        if size > MAX_BYTES:
            raise InvalidNamespace(
                f"a namespace has at most {MAX_BYTES} bytes in all, not {size}; shorten its labels"
            )
        return super().__new__(cls, labels)

    def __getnewargs__(self) -> tuple[str, ...]:
        return tuple(self)

    @property
    def tenant(self) -> str:
        """The first label: what isolates this memory from everybody else's."""
        return self[0]

    @property
    def after(self) -> list[str]:
        """The path right after this one and everything below it, in byte order.

        The least string after a string is that string and U+0001, since NUL is no character here.
        So under the "C" collation ``self <= path < self.after`` holds for this path and those
        below it, and for no other.
        """
        return [*self[:-1], self[-1] + "\x01"]

    @property
    def trail(self) -> str:
        """The path as one text, with which the trails of all paths below it begin."""
        return "".join(
            label.replace("\x02", "\x02\x03").replace("\x01", "\x02\x02") + "\x01" for label in self
        )

    @property
    def past(self) -> str:
        """The text right after the trails of this path and all below it, in byte order.

        No label's U+0001 stays in a trail, so ``trail`` ends with the only character that is less
        than U+0002, and ``trail <= other < past`` holds for this path's and theirs alone.
        """
        return self.trail[:-1] + "\x02"


def _check(position: int, label: object) -> None:
    where = f"namespace label {position}"
    if not isinstance(label, str):
        kind = type(label).__name__
        raise InvalidNamespace(f"{where} is of type {kind}; labels are strings: use str(...)")
    if not label:
        raise InvalidNamespace(f"{where} is empty")
    if problem := unstorable(label):
        raise InvalidNamespace(f"{where} {problem}")
