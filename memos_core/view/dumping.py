"""Writing an archive of a view."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from memos_core.archive import RECORD_KINDS, ArchiveWriter, Embeddings, Header, RecordKind
from memos_core.archive.records import (
    CUBES,
    EVENTS,
    GRANTS,
    LINEAGE,
    MESSAGES,
    VERSIONS,
)
from memos_core.cube import State
from memos_core.engine import Engine
from memos_core.errors import NotPermitted
from memos_core.hit import DumpReport
from memos_core.kept import KeptCube
from memos_core.rules import Rules, nearest
from memos_core.store import binary
from memos_core.store.statements import archive as kept
from memos_core.store.statements import archive_cubes, embeddings, rules
from memos_core.store.statements import events as log
from memos_core.store.statements.archive import Extent
from memos_core.store.statements.archive_cubes import Versions
from memos_core.view.exporting import Actions, Exporting

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from memos_core.store.snapshot import Snapshot

BATCH = 1_000  # rows that are read and written at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What ``dump`` was asked for."""

    path: str | os.PathLike[str]
    events: bool
    messages: bool
    sensitive: Actions
    watermark: str | None
    licence: str | None
    signing_key: Ed25519PrivateKey | None
    overwrite: bool
    report: Callable[[int, int], None]


def dump(engine: Engine, extent: Extent, order: Order) -> DumpReport:
    """Write an archive, and that it was written into the log.

    Raises:
        NotPermitted: something in it may not be exported.
        ArchiveNotWritten: the file cannot be written.
    """
    with engine.snapshot() as snapshot:
        return _Dumping(engine, extent, order, snapshot).write()


def _exported(snapshot: Snapshot, extent: Extent) -> Iterator[tuple[RecordKind, Versions]]:
    """Yield all cubes that stand, and then all versions of a history without gaps."""
    for batch in snapshot.batches(archive_cubes.cubes(extent), rows=BATCH):
        yield "cubes", batch
    chain = _Chain()
    for batch in snapshot.batches(archive_cubes.versions(extent), rows=BATCH):
        yield "versions", chain.taken(batch)


class _Chain:
    """Takes the versions that are followed, without a gap, by the cube that is exported."""

    def __init__(self) -> None:
        self._cube: UUID | None = None
        self._next = 0  # the version that was taken last, 0 after a gap

    def taken(self, batch: Versions) -> Versions:
        places = [place for place in range(len(batch.cubes)) if self._takes(batch, place)]
        return batch if len(places) == len(batch.cubes) else batch.only(places)

    def _takes(self, batch: Versions, place: int) -> bool:
        cube, standing = batch.cubes[place], batch.standing[place]
        if cube.id != self._cube:
            ended = cube.version + 1 if batch.ended[place] else 0
            self._cube, self._next = cube.id, ended if standing is None else standing
        self._next = cube.version if self._next == cube.version + 1 else 0
        return self._next > 0


class _Dumping:
    """One archive in the making."""

    def __init__(
        self,
        engine: Engine,
        extent: Extent,
        order: Order,
        snapshot: Snapshot,
    ) -> None:
        self._engine = engine
        self._extent = extent
        self._order = order
        self._snapshot = snapshot
        around = snapshot.run(rules.around(extent.scope))
        self._rules = {path: ruled.rules for path, ruled in around.items()}
        self._exporting = Exporting(
            extent.scope.namespace, self._rules, order.sensitive, watermark=order.watermark
        )
        self._now = snapshot.run(embeddings.moment())
        self._model = snapshot.run(embeddings.stored())
        self._counts: dict[RecordKind, int] = dict.fromkeys(self._kinds(), 0)
        sizes = snapshot.run(kept.sizes(extent))
        self._sizes = {kind: size for kind, size in sizes.items() if kind in self._counts}
        self._done = 0
        self._header = self._made_header()

    def write(self) -> DumpReport:
        path = Path(os.path.realpath(self._order.path))
        placed = False
        try:
            with ExitStack() as last:
                with self._writer() as archive:
                    self._write_all(archive)
                    self._check()
                    # Committed once the file is in place, and undone where it could not be put.
                    transaction = last.enter_context(self._engine.long_transaction())
                    transaction.run(log.logged(self._extent.scope, "exported", self._written()))
                placed = True
        except BaseException:
            if placed:
                path.unlink(missing_ok=True)
            raise
        return DumpReport(
            path=path,
            bytes=path.stat().st_size,
            redacted=self._exporting.redacted,
            **{**dict.fromkeys(RECORD_KINDS, 0), **self._written()},
        )

    def _written(self) -> dict[str, int]:
        """Return what was written, by kind."""
        return {**self._counts, "rules": len(self._header.rules)}

    def _check(self) -> None:
        """Refuse to have the file where records hold what may not leave; they are not in it."""
        if refused := self._exporting.refused:
            found = ", ".join(f"{kind} in {count}" for kind, count in refused.items())
            raise NotPermitted(
                f"nothing was exported, since records hold what may not be ({found} of them): "
                "redact or allow it, or change the rules about export (set_rules)"
            )

    def _kinds(self) -> tuple[RecordKind, ...]:
        wanted: dict[RecordKind, bool] = {
            "cubes": True,
            "versions": True,  # also without history: a frozen cube needs the one before
            "messages": self._order.messages,
            "lineage": True,
            "grants": True,
            "events": self._order.events,
        }
        return tuple(kind for kind, asked in wanted.items() if asked)

    def _made_header(self) -> Header:
        order, caller = self._order, self._extent.scope.caller
        return Header(
            namespace=self._extent.scope.namespace,
            contents=self._kinds(),
            exported_at=self._now,
            exported_by=caller.user if caller else None,
            embedder=self._model,
            watermark=order.watermark,
            licence=order.licence,
            rules={} if caller else self._rules_below(),
        )

    def _rules_below(self) -> dict[tuple[str, ...], Rules]:
        """Return the rules of all that is exported; those in force from above are the view's."""
        here = self._extent.scope.namespace
        own = {path: one for path, one in self._rules.items() if path[: len(here)] == here}
        above = nearest(self._rules, here)
        return {
            **({} if above is None else {(): above}),
            **{path[len(here) :]: one for path, one in own.items()},
        }

    def _writer(self) -> ArchiveWriter:
        order = self._order
        return ArchiveWriter(
            order.path, self._header, signing_key=order.signing_key, overwrite=order.overwrite
        )

    def _write_all(self, archive: ArchiveWriter) -> None:
        extent, exporting, order = self._extent, self._exporting, self._order
        for kind, batch in _exported(self._snapshot, extent):
            self._write_versions(archive, kind, batch)
        if order.messages:
            for messages in self._snapshot.batches(kept.messages(extent), rows=BATCH):
                self._write(
                    archive,
                    "messages",
                    [MESSAGES.record(exporting.message(one)) for one in messages],
                )
        for grants in self._snapshot.batches(kept.grants(extent), rows=BATCH):
            self._write(archive, "grants", list(map(GRANTS.record, grants)))
        if order.events:
            for events in self._snapshot.batches(kept.events(extent), rows=BATCH):
                self._write(archive, "events", list(map(EVENTS.record, events)))
        order.report(self._done, self._done)

    def _write_versions(self, archive: ArchiveWriter, kind: RecordKind, batch: Versions) -> None:
        """Write versions with their vectors, and what those that are a cube's last were made of."""
        if not batch.cubes:
            return
        records = CUBES if kind == "cubes" else VERSIONS
        cubes = list(map(self._exporting.cube, batch.cubes))
        rows = self._vectors(batch, cubes)
        self._write(archive, kind, list(map(records.record, cubes)), rows)
        last = [cube.id for cube in cubes if kind == "cubes" or cube.state is State.EXPIRED]
        if last:
            edges = self._snapshot.run(archive_cubes.edges(self._extent, last))
            self._write(archive, "lineage", list(map(LINEAGE.record, edges)))
            self._counts["lineage"] -= sum(edge.relation is None for edge in edges)  # no steps

    def _vectors(self, batch: Versions, cubes: Sequence[KeptCube]) -> Embeddings:
        """Return vectors of the texts that are exported: one of another would tell much of it."""
        assert self._model is not None  # noqa: S101 there are vectors
        rows = binary.unpacked_halfvecs(batch.vectors, self._model.width)
        pairs = zip(batch.cubes, cubes, strict=True)
        changed = [place for place, (old, new) in enumerate(pairs) if old.text != new.text]
        if changed and not self._exporting.refused:  # else there is to be no file
            rows = rows.copy()
            rows[changed] = self._engine.vectors([cubes[place].text for place in changed])
        return rows

    def _write(
        self,
        archive: ArchiveWriter,
        kind: RecordKind,
        records: Sequence[Mapping[str, object]],
        rows: Embeddings | None = None,
    ) -> None:
        if not self._exporting.refused:
            archive.write(kind, records, embeddings=rows)
        self._counts[kind] += len(records)
        if kind in self._sizes:
            self._done += len(records)
            self._order.report(self._done, max(self._done, sum(self._sizes.values())))
