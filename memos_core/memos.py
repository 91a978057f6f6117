"""The face: a MemOS is opened once a process, and gives views."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from memos_core.checks import checked_time
from memos_core.embedder import Embedder
from memos_core.engine import Engine
from memos_core.errors import InvalidInput, NotPermitted
from memos_core.governance import Caller
from memos_core.namespace import Namespace
from memos_core.pipeline import Pipeline, pipeline
from memos_core.settings import Settings
from memos_core.store.statements import sweeping
from memos_core.view import View

DEFAULT_NAMESPACE = Namespace("default")


class MemOS(View):
    """Memory for language-model applications.

    Open one a process and share it: it is safe for threads. It is itself a view of the namespace
    ``("default",)``; ``at`` gives views of others.

    >>> memos = MemOS.open()                                  # doctest: +SKIP
    >>> ann = memos.at("acme", "ann")                         # doctest: +SKIP
    >>> cube = ann.add("Ann is allergic to peanuts.")         # doctest: +SKIP
    >>> ann.search("What must she not eat?")[0].text          # doctest: +SKIP
    'Ann is allergic to peanuts.'
    """

    @classmethod
    def open(
        cls,
        where: str | Path | None = None,
        *,
        embedder: Embedder | None = None,
        caller: Caller | None = None,
        settings: Settings | None = None,
    ) -> Self:
        """Open a memory.

        ``where`` is a ``postgresql://`` URL or libpq's ``host=… dbname=…`` (PostgreSQL 15 or later
        with pgvector 0.8 or later), or a folder in which a private PostgreSQL runs while anyone
        uses it; by default what the environment's ``MEMOS_DATABASE`` names, else a folder of this
        user. The schema is brought up to date.

        Raises:
            InvalidInput: another kind of URL.
            ServerStartError, StoreUnavailable, UnsupportedServer, MigrationError: no database.
            EmbedderMismatch: the database was filled by another embedding model.
        """
        engine = Engine.open(where, embedder, settings)
        try:
            engine.check_model()
        except BaseException:
            engine.close()
            raise
        return cls(engine, DEFAULT_NAMESPACE, caller)

    @classmethod
    def reembed(
        cls,
        where: str | Path | None = None,
        *,
        embedder: Embedder | None = None,
        settings: Settings | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> int:
        """Replace every vector of a database by one of ``embedder``; return how many.

        The old vectors serve until the last new one is there; an interrupted run goes on where it
        stopped. ``report`` is called with the number done and the number of all.
        """
        engine = Engine.open(where, embedder, settings)
        try:
            return engine.reembed(report or _ignore)
        finally:
            engine.close()

    def at(self, *labels: str, caller: Caller | None = None) -> View:
        """Return a view of a namespace; the first label is the tenant.

        Raises:
            InvalidNamespace: a label that cannot be one.
        """
        return View(self.engine, Namespace(*labels), caller or self.caller)

    def pipeline(self, *, dry_run: bool = False) -> AbstractContextManager[Pipeline]:
        """Return a block whose verbs are one transaction, here and at any namespace (``p.at``).

        >>> with memos.pipeline() as p:                       # doctest: +SKIP
        ...     old = p.search("Where does Ann live?", k=1)[0].cube
        ...     p.archive(old.id)
        ...     p.add("Ann lives in Oslo.", tags=["home"])

        Where the block raises, nothing of it happened; what was denied stays in the log. Others
        see nothing of it before its end, and wait where they change the same cubes. One in which
        nothing happens for longer than ``Settings.statement_timeout`` is ended by the server.

        With ``dry_run`` nothing of it happens in any case; after the block, ``p.effects`` tells
        what each cube of the tenant would have become.

        Raises:
            PipelineFailed: the database refused a verb, and the block went on regardless.
            TransactionCollided: it and another transaction waited for each other; nothing of it
                happened, and all of it is to be run again, by a function that takes ``p``.
        """
        return pipeline(self.engine, self.namespace, self.caller, dry_run=dry_run)

    def drop_events(self, before: date | str) -> list[str]:
        """Drop the months of the audit log that ended before a time; return which, as YYYY_MM.

        Of the whole database: the log is kept in months for that. ``export_events`` keeps a copy.
        How often a cube was read is counted from the log, so older reads no longer count.

        The log of each tenant that lost lines, and of this memory's own, has it as ``dropped``:
        which months, before when, and how many lines of the tenant's.

        Raises:
            InvalidInput: no time, or one in the future.
            NotPermitted: a caller asks; the log is kept for the application.
        """
        if self.caller is not None:
            raise NotPermitted(
                f"{self.caller.user} may not drop the log: open the memory without a caller"
            )
        moment = checked_time(before, what="before")
        if moment is None or moment > datetime.now(UTC):
            raise InvalidInput(f"before must be a time that has passed, not {before!r}")
        with self.engine.long_transaction() as transaction:
            lost = transaction.run(sweeping.losing_events(moment))
            months = transaction.run(sweeping.drop_events(moment))
            if months:
                lines = {self.namespace.tenant: 0, **lost}
                transaction.run(sweeping.log_dropped(moment, months, lines))
        return months

    def close(self) -> None:
        """Close the connections; a private server stops when its last user has closed."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _ignore(_done: int, _everything: int) -> None:
    """Report to nobody."""
