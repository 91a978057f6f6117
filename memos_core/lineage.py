"""Where a cube comes from: the cubes and messages it was made of, as a graph (paper §5.2)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, UUID, uuid5

from memos_core.cube import MemCube
from memos_core.message import Message
from memos_core.namespace import Namespace

if TYPE_CHECKING:
    from rich.tree import Tree

_SHOWN = 100  # characters of a text in a tree


class Relation(StrEnum):
    """How a cube is related to another.

    What was ``derived, extracted, merged`` or ``composed`` of others holds their words, and is
    served only while they say what they said. ``contradicts`` and ``about`` are remarks.
    """

    DERIVED = "derived"
    EXTRACTED = "extracted"
    MERGED = "merged"
    COMPOSED = "composed"
    CONTRADICTS = "contradicts"
    ABOUT = "about"


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """That ``child`` was made of ``parent`` as this was at ``parent_version``."""

    child: UUID
    parent: UUID
    relation: Relation
    parent_version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """A cube, all that it was made of, and the messages that said it.

    ``cubes`` are as they are, or as they last were. What the caller may not read is left out.
    A notebook shows it as a tree, and so does ``rich.print``.
    """

    root: UUID
    cubes: Mapping[UUID, MemCube]
    edges: tuple[Edge, ...]
    messages: tuple[Message, ...]

    def parents(self, cube: UUID) -> list[Edge]:
        """Return the edges that lead from a cube to what it was made of."""
        return [edge for edge in self.edges if edge.child == cube]

    def __rich__(self) -> Tree:
        """Return the tree that a terminal shows."""
        from rich.text import Text  # noqa: PLC0415 for those who print
        from rich.tree import Tree  # noqa: PLC0415

        trees: list[Tree] = []
        for depth, label in self._lines():
            tree = trees[depth - 1].add(Text(label)) if depth else Tree(Text(label))
            trees[depth:] = [tree]
        return trees[0]

    def _repr_html_(self) -> str:
        """Return the tree that a notebook shows."""
        parts: list[str] = []
        level = -1
        for depth, label in self._lines():
            parts.append("<ul>" * max(0, depth - level) + "</ul>" * max(0, level - depth))
            parts.append(f"<li>{escape(label)}</li>")
            level = depth
        return "".join(parts) + "</ul>" * (level + 1)

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Walk the graph down from its root: how deep a line is, and what it says."""
        stack: list[tuple[int, UUID, Edge | None]] = [(0, self.root, None)]
        shown: set[UUID] = set()
        while stack:
            depth, cube, edge = stack.pop()
            again = " (see above)" if cube in shown and self.parents(cube) else ""
            yield depth, self._label(self.cubes[cube], edge) + again
            if cube in shown or (edge and edge.relation in _REMARKS):
                continue
            shown.add(cube)
            for message in self.messages:
                if message.id in self.cubes[cube].provenance.message_ids:
                    yield depth + 1, f"message {message.id}: {_short(message.content)}"
            stack.extend((depth + 1, edge.parent, edge) for edge in reversed(self.parents(cube)))

    def _label(self, cube: MemCube, edge: Edge | None) -> str:
        relation = f"{edge.relation} ← " if edge else ""
        return f"{relation}{_short(cube.text)}  ({cube.state}, version {cube.version}, {cube.id})"


def bundle_id(namespace: Namespace, name: str, owner: str | None) -> UUID:
    """Return the id of the bundle that a name stands for in a namespace, for its owner."""
    path = json.dumps([[*namespace], name, owner], ensure_ascii=False)
    return uuid5(NAMESPACE_URL, f"memos:bundle:{path}")


_REMARKS = (Relation.CONTRADICTS, Relation.ABOUT)


def _short(text: str) -> str:
    line = "".join(sign if sign.isprintable() else " " for sign in " ".join(text.split()))
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
