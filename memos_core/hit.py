"""What verbs answer with: hits, reports, events, counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal
from uuid import UUID

from memos_core.cube import MemCube
from memos_core.message import Message
from memos_core.namespace import Namespace


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A cube that answers a question, and why it was chosen.

    ``score`` is the sum of the shares in ``reasons``, which are named as in ``Weights``; a signal
    that adds nothing is left out. ``dense_rank`` and ``lexical_rank`` count from 1 among all cubes
    that were scored; ``dense_rank`` is None where only words were asked for, ``lexical_rank``
    where none of them occurs. ``route`` tells whether every memory of the view was scored, or those
    that its search index proposed. ``message_ids`` are the turns the cube came from. ``context``
    holds those turns and their neighbours where they were asked for, in the order they were said.
    """

    cube: MemCube
    score: float
    dense_rank: int | None
    lexical_rank: int | None
    reasons: Mapping[str, float]
    route: Literal["exact", "index"] = "exact"
    context: tuple[Message, ...] = ()

    @property
    def text(self) -> str:
        """The text of the cube."""
        return self.cube.text

    @property
    def message_ids(self) -> tuple[str, ...]:
        """The turns the cube came from."""
        return self.cube.provenance.message_ids


@dataclass(frozen=True, kw_only=True, slots=True)
class ForgetReport:
    """What ``forget`` removed.

    ``derived`` are the cubes that were made of those forgotten, which went with them; ``versions``
    counts those of both. ``message_ids`` are the turns whose content was erased.
    """

    cubes: tuple[UUID, ...]
    versions: int
    message_ids: tuple[str, ...]
    derived: tuple[UUID, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpReport:
    """What ``dump`` wrote, by kind, and how many records redaction changed.

    ``lineage`` counts steps and remarks, ``rules`` the namespaces that have some, ``bytes`` is the
    size of the file.
    """

    path: Path
    bytes: int
    cubes: int
    versions: int
    messages: int
    lineage: int
    grants: int
    events: int
    rules: int
    redacted: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """What ``load`` stored, by kind; all 0 where everything was here already.

    Of ``cubes``, ``replaced`` took the place of one that was here. ``skipped`` cubes were not
    loaded since there is one with their id, and ``left_out`` since the messages they came from are
    forgotten here, or what they were made of says something else. ``rules`` came into force where
    there were none. ``embedded`` texts got a vector of this database's model in place of another's.
    """

    cubes: int
    versions: int
    messages: int
    lineage: int
    grants: int
    events: int
    rules: int
    replaced: int
    skipped: int
    left_out: int
    embedded: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of the audit log: ids and numbers only, never text.

    ``kind`` is what happened: added, ingested, resolved, read, searched, updated, restored, forgot,
    retired.
    """

    id: int
    at: datetime
    kind: str
    namespace: Namespace
    user: str | None
    cube_ids: tuple[UUID, ...]
    details: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """How much a view holds, without what has expired.

    ``indexed`` is how many memories its search index holds, None where it has none and for callers.
    ``bytes`` is the whole database on disk.
    """

    cubes: int
    versions: int
    messages: int
    events: int
    indexed: int | None
    bytes: int
    embedder: str | None
    width: int | None
