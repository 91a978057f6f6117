"""What two versions of a cube say differently."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, cast
from uuid import UUID

from memos_core.cube import MemCube

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Diff:
    """What two versions of a cube say differently; a version is None where there is none.

    ``fields`` are the parts of the header that differ, each before and after; ``text`` is a unified
    diff by lines (as ``diff -u`` writes it), empty where the text is the same.
    """

    id: UUID
    before: int | None
    after: int | None
    fields: Mapping[str, tuple[object, object]]
    text: tuple[str, ...]

    def __bool__(self) -> bool:
        """Tell whether they differ."""
        return bool(self.fields or self.text) or self.before is None or self.after is None

    def __str__(self) -> str:
        changed = [f"{name}: {old!r} → {new!r}" for name, (old, new) in self.fields.items()]
        return "\n".join([self._title(), *changed, *self.text])

    def __rich__(self) -> Table:
        """Return the table that a terminal shows."""
        from rich.table import Table  # noqa: PLC0415 for those who print
        from rich.text import Text  # noqa: PLC0415

        table = Table(title=self._title(), title_justify="left")
        for column in ("", "before", "after"):
            table.add_column(column)
        for name, (old, new) in self.fields.items():
            table.add_row(name, Text(_shown(old)), Text(_shown(new)))
        if self.text:
            removed, added = (
                "\n".join(line[1:] for line in self.text[2:] if line.startswith(sign))
                for sign in "-+"
            )
            table.add_row("text", Text(removed, style="red"), Text(added, style="green"))
        return table

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        rows = [
            f"<tr><td>{escape(name)}</td><td>{escape(_shown(old))}</td>"
            f"<td>{escape(_shown(new))}</td></tr>"
            for name, (old, new) in self.fields.items()
        ]
        text = f"<pre>{escape(chr(10).join(self.text))}</pre>" if self.text else ""
        head = "<tr><th></th><th>before</th><th>after</th></tr>"
        table = f"<table>{head}{''.join(rows)}</table>" if rows else ""
        return f"<p>{escape(self._title())}</p>{table}{text}"

    def _title(self) -> str:
        before, after = self.before or "nothing", self.after or "nothing"
        return f"{self.id}: version {before} → {after}"


def diff(before: MemCube | None, after: MemCube | None) -> Diff:
    """Return what two versions of a cube say differently; one of them may be None, for nothing."""
    one = after or before
    if one is None:
        raise ValueError("two versions of nothing")
    old, new = _header(before), _header(after)
    fields = {
        name: (old.get(name), new.get(name))
        for name in {**old, **new}
        if old.get(name) != new.get(name) and (old.get(name) or new.get(name))
    }
    lines = difflib.unified_diff(
        before.text.splitlines() if before else [],
        after.text.splitlines() if after else [],
        f"version {before.version}" if before else "nothing",
        f"version {after.version}" if after else "nothing",
        lineterm="",
    )
    return Diff(
        id=one.id,
        before=before and before.version,
        after=after and after.version,
        fields=fields,
        text=tuple(lines),
    )


def _header(cube: MemCube | None) -> dict[str, object]:
    if cube is None:
        return {}
    governance = cube.governance
    return {
        "state": cube.state.value,
        "semantic_type": cube.semantic_type,
        "tags": cube.tags,
        "metadata": dict(cube.metadata),
        "valid_from": cube.valid_from,
        "valid_to": cube.valid_to,
        "owner": governance.owner,
        "expires_at": governance.expires_at,
        "priority": governance.priority,
        "sensitivity": governance.sensitivity,
        "message_ids": cube.provenance.message_ids,
    }


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(map(str, cast("tuple[object, ...]", value)))
    return str(value)
