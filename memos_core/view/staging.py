"""Putting the parts of an archive aside in the database, each in a transaction of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeVar, cast
from uuid import UUID

from uuid_utils.compat import uuid7

from memos_core import reader
from memos_core.archive import RECORD_KINDS, ArchiveReader, Part, RecordKind
from memos_core.archive.layout import part_name
from memos_core.archive.records import (
    CUBES,
    EVENTS,
    GRANTS,
    LINEAGE,
    MESSAGES,
    VERSIONS,
    Records,
    ids_in,
    renamed,
)
from memos_core.cube import Provenance
from memos_core.embedder import Model
from memos_core.engine import REEMBED_BATCH, Engine
from memos_core.errors import ArchiveInvalid, CubeExists
from memos_core.kept import KeptCube, KeptEdge, KeptEvent, KeptGrant, KeptMessage
from memos_core.lineage import bundle_id
from memos_core.namespace import Namespace
from memos_core.store import binary
from memos_core.store.statement import Copy
from memos_core.store.statements import staging
from memos_core.store.statements.staging import Arrival, Loading, Staged
from memos_core.view.admitting import Admitting

V = TypeVar("V", KeptCube, KeptMessage, KeptEdge, KeptGrant, KeptEvent)
Conflict = Literal["skip", "replace", "new ids"]
_PLACES = 2**32  # of the messages of one part


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The archive that is loaded, and how; ``path`` names it in errors.

    ``model`` is that of the database's vectors, None where the archive has no cubes.
    """

    archive: ArchiveReader
    path: str
    conflict: Conflict
    model: Model | None
    report: Callable[[int, int], None]

    @property
    def vectors_fit(self) -> bool:
        """Whether the archive's vectors can be stored as they are."""
        return self.archive.header.embedder == self.model

    def parts(self) -> Iterator[staging.Part]:
        """Yield all parts, cubes before what tells of them."""
        for kind in RECORD_KINDS:
            for number in self.archive.parts(kind):
                yield staging.Part(kind, number)


class Staging:
    """Puts aside what is not there yet: a loading that was interrupted goes on where it stopped."""

    def __init__(
        self, engine: Engine, loading: Loading, source: Source, admitting: Admitting
    ) -> None:
        self._engine = engine
        self._loading = loading
        self._source = source
        self._admitting = admitting
        self._from = source.archive.header.namespace
        self._moves = self._from != loading.scope.namespace
        self._renews = source.conflict == "new ids"

    def run(self) -> None:
        """Put every part aside.

        Raises:
            ArchiveInvalid: a record is none, or is there twice.
            SensitiveText: the rules of where it is loaded refuse one.
        """
        known = self._engine.run(staging.parts(self._loading))
        done, everything = sum(known.values()), sum(self._source.archive.counts.values())
        self._source.report(done, everything)
        for at in self._source.parts():
            if at not in known:
                done += self._stage(at)
                self._source.report(done, everything)

    def _stage(self, at: staging.Part) -> int:
        part = self._source.archive.read_part(cast("RecordKind", at.kind), at.number)
        copies = self._copies(part)
        begun = staging.begin_part(self._loading, at, records=len(part.records))
        try:
            with self._engine.long_transaction() as transaction:
                if transaction.run(begun):  # else somebody loads the same, and was quicker
                    for copy in copies:
                        transaction.copy(copy)
        except CubeExists as error:
            name = part_name(at.kind, at.number)
            raise ArchiveInvalid(
                f"{self._source.path}: {name} tells of something that was told of before"
            ) from error
        return len(part.records)

    def _copies(self, part: Part) -> Sequence[Copy]:
        match part.kind:
            case "cubes":
                return self._cubes(part, CUBES)
            case "versions":
                return self._cubes(part, VERSIONS)
            case "messages":
                messages = self._messages(part)
                return [staging.put_messages(self._loading, messages, start=part.number * _PLACES)]
            case "lineage":
                return [staging.put_edges(self._loading, self._edges(part))]
            case "grants":
                return [staging.put_grants(self._loading, self._grants(part))]
            case "events":
                return [staging.put_events(self._loading, self._events(part))]

    def _values(self, part: Part, records: Records[V]) -> list[V]:
        return [
            records.value(record, where=self._where(part, number))
            for number, record in enumerate(part.records, 1)
        ]

    def _where(self, part: Part, number: int) -> str:
        return f"{self._source.path}: {part_name(part.kind, part.number)}, record {number}"

    def _messages(self, part: Part) -> list[KeptMessage]:
        return [
            self._admitting.message(
                message, self._loading.namespace(message.below), what=self._where(part, number)
            )
            for number, message in enumerate(self._values(part, MESSAGES), 1)
        ]

    def _cubes(self, part: Part, records: Records[KeptCube]) -> Sequence[Copy]:
        cubes = self._values(part, records)
        known = self._engine.run(staging.ids(self._loading, {cube.id: None for cube in cubes}))
        fresh = self._fresh({cube.id: cube for cube in cubes if cube.id not in known})
        given = {**known, **fresh}
        admitted = [
            self._admitting.cube(
                cube,
                self._loading.namespace(cube.below),
                what=self._where(part, number),
                known=given[cube.id].known,
            )
            for number, cube in enumerate(cubes, 1)
        ]
        pairs = zip(cubes, admitted, strict=True)
        changed = [place for place, (old, new) in enumerate(pairs) if old.text != new.text]
        arrivals = self._arrivals(part, admitted, given, changed)
        return [
            staging.put_ids(self._loading, fresh),
            staging.put_cubes(self._loading, arrivals),
        ]

    def _fresh(self, cubes: Mapping[UUID, KeptCube]) -> dict[UUID, Staged]:
        """Return the ids that cubes get, and which of them are taken already."""
        bound = {was: self._bound(cube) for was, cube in cubes.items()} if self._moves else {}
        wanted = {was: bound.get(was) or (uuid7() if self._renews else was) for was in cubes}
        if self._source.conflict == "replace":
            return {was: Staged(id, known=False) for was, id in wanted.items()}
        asked = [id for id in (bound if self._renews else wanted).values() if id]
        taken = self._engine.run(staging.stored(self._loading, asked)) if asked else set[UUID]()
        if self._renews:
            return {
                was: Staged(uuid7() if id in taken else id, known=False)
                for was, id in wanted.items()
            }
        return {was: Staged(id, known=id in taken) for was, id in wanted.items()}

    def _bound(self, cube: KeptCube) -> UUID | None:
        """Return the id of a bundle at its new place: there, its name stands for it."""
        name = cube.metadata.get("bundle")
        if not isinstance(name, str) or cube.id != bundle_id(
            Namespace(*self._from, *cube.below), name, cube.owner
        ):
            return None
        return bundle_id(self._loading.namespace(cube.below), name, cube.owner)

    def _arrivals(
        self,
        part: Part,
        cubes: Sequence[KeptCube],
        given: Mapping[UUID, Staged],
        changed: Sequence[int],
    ) -> Iterator[Arrival]:
        """Yield cubes with what search needs; words are looked for while the server stores."""
        vectors = self._vectors(part, cubes, given, changed)
        for cube, vector in zip(cubes, vectors, strict=True):
            id, known = given[cube.id]
            words = None if known else reader.words_in(cube.text, _origin(cube))
            yield Arrival(cube, id, words, vector)

    def _vectors(
        self,
        part: Part,
        cubes: Sequence[KeptCube],
        given: Mapping[UUID, Staged],
        changed: Sequence[int],
    ) -> Sequence[bytes | None]:
        """Return vectors: the archive's, and new ones where those are of another model or text."""
        vectors: list[bytes | None] = [None] * len(cubes)
        wanted: Sequence[int] = range(len(cubes))
        if part.embeddings is not None and self._source.vectors_fit:
            vectors[:] = binary.packed_halfvecs(part.embeddings)
            wanted = changed
        places = [place for place in wanted if not given[cubes[place].id].known]
        for start in range(0, len(places), REEMBED_BATCH):
            batch = places[start : start + REEMBED_BATCH]
            made = self._engine.vectors([cubes[place].text for place in batch])
            for place, vector in zip(batch, binary.packed_halfvecs(made), strict=True):
                vectors[place] = vector
        return vectors

    def _edges(self, part: Part) -> list[KeptEdge]:
        edges = self._values(part, LINEAGE)
        named = {id: None for edge in edges for id in (edge.child, edge.parent)}
        given = self._engine.run(staging.ids(self._loading, named))
        for number, edge in enumerate(edges, 1):
            if edge.child not in given:
                raise ArchiveInvalid(f"{self._where(part, number)}: it has no cube {edge.child}")
        return [
            replace(
                edge,
                child=_new(edge.child, given),
                parent=_new(edge.parent, given),
            )
            for edge in edges
        ]

    def _grants(self, part: Part) -> list[tuple[UUID, KeptGrant]]:
        grants = self._values(part, GRANTS)
        about = {grant.cube: None for grant in grants if grant.cube is not None}
        given = self._engine.run(staging.ids(self._loading, about))
        return [
            (
                grant.id,
                replace(
                    grant,
                    id=uuid7() if self._renews else grant.id,
                    cube=grant.cube and _new(grant.cube, given),
                ),
            )
            for grant in grants
        ]

    def _events(self, part: Part) -> list[KeptEvent]:
        events = self._values(part, EVENTS)
        if not self._moves and not self._renews:
            return events
        named = {id: None for one in events for id in (*one.cubes, *ids_in(one.details))}
        given = self._engine.run(staging.all_ids(self._loading, named))
        names = {str(was): str(id) for was, id in given.items()}
        return [
            replace(
                event,
                cubes=tuple(given.get(id, id) for id in event.cubes),
                details=cast("Mapping[str, object]", renamed(event.details, names)),
            )
            for event in events
        ]


def _new(was: UUID, given: Mapping[UUID, Staged]) -> UUID:
    """Return the id of a cube, which is its own where it is not in the archive."""
    return given[was].id if was in given else was


def _origin(cube: KeptCube) -> Provenance:
    """Return what the words of a cube are found by, beside its text."""
    said_at = cast("str | None", cube.provenance.get("said_at"))
    return Provenance(
        speaker=cast("str | None", cube.provenance.get("speaker")),
        said_at=datetime.fromisoformat(said_at) if said_at else None,
    )
