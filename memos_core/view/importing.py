"""The verb that takes over what another memory layer kept."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from uuid import UUID

from memos_core.checks import checked_names
from memos_core.errors import CubeExists
from memos_core.foreign import ForeignMemory, Format, ImportReport, read_file
from memos_core.namespace import Namespace
from memos_core.store.statements import forgetting
from memos_core.store.statements.scope import Scope
from memos_core.view.writing import Writing


class Importing(Writing):
    """The verb that takes over what another memory layer kept."""

    def import_file(self, path: Path | str, *, format: Format | str | None = None) -> ImportReport:
        """Take over a dump of LangGraph's store, an export of mem0, or a chat store of LlamaIndex.

        - ``langgraph``: a JSON list or lines of items as ``Item.dict()`` gives them, or of rows of
          its PostgreSQL table. An item's namespace goes below this view's; its value is the
          metadata, and the text is what it holds under ``text, content, memory`` or ``data``, else
          all of it.
        - ``mem0``: what ``Memory.get_all()`` gives, as JSON. Users, agents and runs are metadata.
        - ``llamaindex``: what ``SimpleChatStore.persist`` writes. Each key is a session that is
          ingested.

        What was taken over before is skipped, so importing a file again is safe.

        Raises:
            InvalidInput: the file cannot be read, or is none of these.
            InvalidText, SensitiveText, LimitExceeded: a memory cannot be stored; those before it
                were, and importing the file again goes on there.
        """
        names = checked_names(None if format is None else [format], Format, what="format")
        found = read_file(Path(path), Format(names[0]) if names else None)
        made: list[UUID] = []
        skipped = found.skipped
        ordered = sorted(found.memories, key=lambda memory: memory.below)
        for below, memories in groupby(ordered, key=lambda memory: memory.below):
            view = Importing(self.engine, Namespace(*self.namespace, *below), self.caller)
            batch = list(memories)
            new = view.add_new(batch)
            made += new
            skipped += len(batch) - len(new)
        if found.messages:
            cubes = self.ingest(found.messages)
            made += [cube.id for cube in cubes]
            skipped += max(0, len(found.messages) - len(cubes))
        return ImportReport(format=found.format, cubes=tuple(made), skipped=skipped)

    def add_new(self, memories: list[ForeignMemory]) -> list[UUID]:
        """Add memories of this namespace that are not there; return which."""
        whole = Scope(namespace=Namespace(self.namespace.tenant))
        ids = [memory.id for memory in memories]
        known = set(self.engine.run(forgetting.there(whole, ids)))
        made: list[UUID] = []
        for memory in memories:
            if memory.id in known:
                continue
            known.add(memory.id)
            try:
                self.add(
                    memory.text,
                    id=memory.id,
                    metadata=memory.metadata,
                    valid_from=memory.valid_from,
                    source="import",
                )
            except CubeExists:  # somebody else imports the same
                continue
            made.append(memory.id)
        return made
