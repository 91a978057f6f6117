"""Reading the fields of the container's own JSON objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from memos_core.archive.json_text import parsed
from memos_core.archive.layout import FORMAT, VERSION
from memos_core.errors import ArchiveInvalid
from memos_core.text import shortened, unstorable


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one object; each method returns a field of its type or says what is wrong."""

    values: Mapping[str, object]
    where: str

    @classmethod
    def of(cls, value: object, where: str) -> Fields:
        """Return the fields of what must be an object."""
        if not isinstance(value, dict):
            raise ArchiveInvalid(f"{where} must be an object, not {_shown(value)}")
        return cls(cast("dict[str, object]", value), where)

    @classmethod
    def of_member(cls, data: bytes, name: str) -> Fields:
        """Return the fields of a member whose format and version this library reads."""
        found = cls(parsed(data, where=name), name)
        if found.values.get("format") != FORMAT:
            raise ArchiveInvalid(f"{name} names no format {FORMAT!r}: it is no MemOS archive")
        version = found.count("version")
        if version > VERSION:
            raise ArchiveInvalid(
                f"it is of version {version} of the format, and this library reads version "
                f"{VERSION}: upgrade memos-memory"
            )
        if version < VERSION:
            raise ArchiveInvalid(f"{name} names version {version} of the format, which never was")
        return found

    def text(self, name: str) -> str:
        """Return a text."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        if problem := unstorable(value):
            raise ArchiveInvalid(f"{self.where}: the field {name!r} {problem}")
        return value

    def text_or_none(self, name: str) -> str | None:
        """Return a text, or None for null or no such field."""
        return None if self.values.get(name) is None else self.text(name)

    def count(self, name: str) -> int:
        """Return a whole number of at least 0."""
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise self._wrong(name, "a whole number")
        return value

    def items(self, name: str) -> list[object]:
        """Return a list."""
        value = self.values.get(name)
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return cast("list[object]", value)

    def texts(self, name: str) -> list[str]:
        """Return a list of texts."""
        found = self.items(name)
        if not all(isinstance(one, str) for one in found):
            raise self._wrong(name, "a list of texts")
        return cast("list[str]", found)

    def inner(self, name: str) -> Fields:
        """Return the fields of an object in a field."""
        return Fields.of(self.values.get(name), f"{self.where}: the field {name!r}")

    def _wrong(self, name: str, wanted: str) -> ArchiveInvalid:
        if name not in self.values:
            return ArchiveInvalid(f"{self.where} has no field {name!r}")
        shown = _shown(self.values[name])
        return ArchiveInvalid(f"{self.where}: the field {name!r} must be {wanted}, not {shown}")


def _shown(value: object) -> str:
    if isinstance(value, list | dict):  # whose repr may be long
        return f"a {type(cast('object', value)).__name__}"
    return shortened(repr(value), 80)
