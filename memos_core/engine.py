"""What all views of one MemOS share: the store, the embedder, the settings."""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString, TypeVar, cast, overload

from memos_core.embedder import (
    Embedder,
    Model,
    Vectors,
    document_vectors,
    name_of,
    question_vectors,
    unit_vectors,
    wrong_model,
)
from memos_core.errors import Closed, InvalidInput
from memos_core.indexing import Indexing
from memos_core.lately import Lately
from memos_core.model.default import default_embedder
from memos_core.namespace import Namespace
from memos_core.rules import Ruled
from memos_core.settings import Settings, where_from
from memos_core.store.statement import Statement
from memos_core.store.statements import caches, embeddings, indexes, rules
from memos_core.store.statements import messages as log
from memos_core.store.statements.embeddings import Text
from memos_core.store.statements.scope import Scope

if TYPE_CHECKING:
    from memos_core.store.news import News
    from memos_core.store.postgres import Store
    from memos_core.store.snapshot import Snapshot
    from memos_core.store.transaction import Together, Transaction

T = TypeVar("T")
_log = logging.getLogger("memos_core")
REEMBED_BATCH = 1024
RULES_SECONDS = 60.0  # after which it is asked again what is allowed in a namespace
SPEAKERS_SECONDS = 60.0  # after which it is asked again who speaks in a view
SPEAKERS_STEPS = 1_000  # names that are looked at, once in each namespace of a view
MAX_VIEWS = 10_000  # whose rules and speakers are remembered
_PASSES = 5  # over what others wrote meanwhile, before they are made to wait
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9]*)(\+\w+)?://", re.IGNORECASE)
_KEYWORDS = re.compile(r"\s*\w+\s*=")  # libpq's other form; ./a=b is a folder


class Engine:
    """An open store with the embedder that fills it."""

    def __init__(
        self,
        store: Store,
        embedder: Embedder | None,
        settings: Settings,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.indexing = Indexing(store, settings)
        self._store: Store | Together = store
        self._denials: list[Statement[None]] | None = None  # of a pipeline
        self._release = release
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._stored = store.run(embeddings.stored())
        self._embedder = embedder or default_embedder(self._stored and self._stored.name)
        self.model = name_of(self._embedder)
        self._database: str | None = None
        self._changes = 0  # in who speaks
        self._rules: dict[Namespace, tuple[float, Ruled]] = {}
        self._speakers: dict[tuple[Namespace, str], tuple[float, frozenset[str]]] = {}
        self.scattered = Lately(60.0)  # what too few of the newest items were found by

    @classmethod
    def open(
        cls, where: str | Path | None, embedder: Embedder | None, settings: Settings | None
    ) -> Engine:
        """Connect to a server of the user's, or to a private one in a folder."""
        from memos_core.store.postgres import Store  # noqa: PLC0415 the driver is slow to load

        settings = settings or Settings()
        with ExitStack() as opened:
            dsn, release = _address(where, settings)
            opened.callback(release)
            store = Store(dsn, settings)
            opened.callback(store.close)
            engine = cls(store, embedder, settings, release)
            opened.pop_all()  # it is the engine's to close from now on
            return engine

    @property
    def threads(self) -> ThreadPoolExecutor:
        """Threads for the async face, one for each pooled connection, shared by all views.

        Raises:
            Closed: the MemOS is.
        """
        with self._lock:
            if self._closed:
                raise Closed
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.settings.pool_size, "memos")
            return self._threads

    def _whole_store(self) -> Store:
        """Return the store for what cannot be part of a pipeline.

        Raises:
            InvalidInput: this is one.
        """
        if self.in_pipeline:
            raise InvalidInput(
                "this takes transactions of its own, and cannot be part of a pipeline"
            )
        return cast("Store", self._store)

    def close(self) -> None:
        """Close the connections, and let go of the private server."""
        with self._lock:
            self._closed = True
        if self._threads is not None:
            self._threads.shutdown()
        self.indexing.close()
        self._whole_store().close()
        self._release()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @overload
    def run(self, statement: Statement[T], /) -> T: ...
    @overload
    def run(self, statement: Statement[Any], /, *others: Statement[T]) -> T: ...
    def run(self, statement: Statement[Any], /, *others: Statement[Any]) -> Any:
        """Run statements in one transaction and return the last one's answer."""
        return self._store.run(statement, *others)

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Run statements in one transaction with work of the caller's between them."""
        return self._store.transaction()

    def long_transaction(self) -> AbstractContextManager[Transaction]:
        """Run statements in one transaction, and for as long as they take.

        Raises:
            InvalidInput: in a pipeline.
        """
        return self._whole_store().transaction(timeout=0)

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Read all as it is at one moment, for as long as it takes.

        Raises:
            InvalidInput: in a pipeline.
        """
        return self._whole_store().snapshot()

    @property
    def in_pipeline(self) -> bool:
        """Whether all that is run here is one transaction."""
        return self._denials is not None

    @contextmanager
    def together(self) -> Generator[tuple[Engine, Together]]:
        """Run all verbs of a block in one transaction, by the engine that is given.

        What was denied in it is logged whatever becomes of it.

        Raises:
            PipelineFailed: the database refused something; nothing of it happened.
        """
        denials: list[Statement[None]] = []
        try:
            with self._whole_store().together() as transaction:
                threads, inside = self.threads, copy.copy(self)
                vars(inside).update(_store=transaction, _denials=denials, _threads=threads)
                yield inside, transaction
        finally:
            for denied in denials:
                self.run(denied)

    @contextmanager
    def joined(self) -> Generator[tuple[Engine, Together]]:
        """Run all verbs of a block in one transaction: in the pipeline's, where this is one."""
        if self.in_pipeline:
            yield self, cast("Together", self._store)
            return
        with self.together() as (inside, transaction):
            yield inside, transaction

    @property
    def database(self) -> str:
        """What tells this database from all others."""
        if self._database is None:
            self._database = self._store.run(caches.database())
        return self._database

    def listen(self, channel: LiteralString) -> AbstractContextManager[News]:
        """Hear of what is told on a channel of the database, for as long as it takes.

        Raises:
            InvalidInput: in a pipeline, which sees nothing of what others do.
        """
        return self._whole_store().listen(channel)

    def log_denied(self, denied: Statement[None]) -> None:
        """Write down what was denied; in a pipeline after its end, which may undo all else."""
        if self._denials is None:
            self.run(denied)
        else:
            self._denials.append(denied)

    def rules(self, scope: Scope) -> Ruled:
        """Return the rules in force in a namespace, as they were known within the last minute.

        What is written by them is refused by the store where others are in force by then.
        """
        asked, ruled = self._rules.get(scope.namespace, (-RULES_SECONDS, Ruled()))
        now = time.monotonic()
        if now - asked >= RULES_SECONDS:
            ruled = self._store.run(rules.in_force(scope))
            if len(self._rules) >= MAX_VIEWS:
                self._rules.clear()
            self._rules[scope.namespace] = (now, ruled)
        return ruled

    def rules_changed(self) -> None:
        """Ask anew for every namespace's rules."""
        self._rules.clear()

    def index_of(self, scope: Scope) -> int | None:
        """Return the index of a view, None where every memory is to be looked at."""
        return self.indexing.of(scope, self._store.run)

    def build_index(self, scope: Scope) -> int:
        """Build the index of a view or extend it; return how many memories it holds."""
        self._whole_store()
        return self.indexing.update(scope).indexed

    def documents(self, texts: Sequence[str]) -> Vectors:
        """Embed texts to be stored; shape (len(texts), width).

        Raises:
            EmbedderMismatch: another model filled the database.
        """
        vectors = document_vectors(self._embedder, texts)
        mine = Model(name=self.model, width=vectors.shape[1])
        if self._stored != mine:
            self._stored = self._store.run(embeddings.claim(mine)) or mine
        return self._checked(vectors)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Embed texts that are not stored yet; shape (len(texts), width).

        Raises:
            EmbedderMismatch: another model filled the database.
        """
        return self._checked(document_vectors(self._embedder, texts))

    def question(self, text: str) -> Vectors:
        """Embed a question; shape (1, width).

        Raises:
            EmbedderMismatch: another model filled the database.
        """
        return self._checked(question_vectors(self._embedder, [text]))

    def given(self, vector: Sequence[float]) -> Vectors:
        """Return a vector that was given for a question; shape (1, width), of length 1.

        Raises:
            InvalidVector: no vector.
            EmbedderMismatch: it has another width than the database's.
        """
        return self._checked(unit_vectors([vector], 1, "a vector to search by"))

    def speakers(self, scope: Scope) -> frozenset[str]:
        """Return who speaks in a view for its caller, as it was known within the last minute."""
        key = (scope.namespace, repr(scope.caller))
        asked, names = self._speakers.get(key, (-SPEAKERS_SECONDS, frozenset[str]()))
        now, changes = time.monotonic(), self._changes
        if now - asked >= SPEAKERS_SECONDS:
            names = self._store.run(log.speakers(scope, steps=SPEAKERS_STEPS))
            if len(self._speakers) >= MAX_VIEWS:
                self._speakers.clear()
            if changes == self._changes:  # else others spoke meanwhile
                self._speakers[key] = (now, names)
        return names

    def others_speak(self, namespace: Namespace) -> None:
        """Ask anew who speaks above and below a namespace: something was said or forgotten."""
        self._changes += 1
        for key in list(self._speakers):
            if all(ours == theirs for ours, theirs in zip(namespace, key[0], strict=False)):
                self._speakers.pop(key, None)

    def check_model(self) -> None:
        """Refuse a database that another embedder filled.

        Raises:
            EmbedderMismatch: it did.
        """
        if self._stored is not None and self._stored.name != self.model:
            raise wrong_model(self._stored, self.model)

    def reembed(self, report: Callable[[int, int], None]) -> int:
        """Replace every vector by one of this engine's embedder; return how many there are.

        The old vectors serve until the last new one is there. A run that was interrupted goes on
        where it stopped. ``report`` is given the number done and the number of all.
        """
        run = functools.partial(self._whole_store().run, timeout=0)  # they read every row
        width = document_vectors(self._embedder, ["how wide?"]).shape[1]
        model = Model(name=self.model, width=width)
        done, everything = run(embeddings.progress(model))
        behind = math.inf  # how many texts the last pass found
        for passes in itertools.count(1):
            before, last, started = done, None, run(embeddings.moment())
            while texts := run(
                embeddings.missing(model, after=last, until=started, limit=REEMBED_BATCH)
            ):
                run(embeddings.keep(model, texts, self._vectors(texts)))
                last = texts[-1]
                done += len(texts)
                report(done, max(done, everything))
            outrun, behind = done - before >= behind, done - before
            if self._finish(model, whatever=outrun or passes >= _PASSES):
                break
        self._stored = model
        # Until they have theirs, what has passages is found by its own vector.
        while passages := run(embeddings.outdated_passages(model, limit=REEMBED_BATCH)):
            run(embeddings.renew_passages(model, passages, self._vectors(passages)))
        return run(embeddings.count())

    def _finish(self, model: Model, *, whatever: bool) -> bool:
        """Make writers wait, embed what they wrote last, and swap; unless that is much."""
        with self._whole_store().transaction(timeout=0) as transaction:
            transaction.run(embeddings.lock())
            last: Text | None = None
            while texts := transaction.run(
                embeddings.missing(model, after=last, until=None, limit=REEMBED_BATCH)
            ):
                if len(texts) == REEMBED_BATCH and not whatever:
                    return False
                transaction.run(embeddings.keep(model, texts, self._vectors(texts)))
                last = texts[-1]
            transaction.run(embeddings.swap(model))
            transaction.run(indexes.drop_all())
            return True

    def _vectors(self, texts: Sequence[Text]) -> Vectors:
        return document_vectors(self._embedder, [text.text for text in texts])

    def _checked(self, vectors: Vectors) -> Vectors:
        mine = Model(name=self.model, width=vectors.shape[1])
        if self._stored is not None and self._stored != mine:
            raise wrong_model(self._stored, mine)
        return vectors


def _address(where: str | Path | None, settings: Settings) -> tuple[str, Callable[[], None]]:
    where = where or where_from()
    if not isinstance(cast("object", where), str | Path | None):
        raise InvalidInput(f"MemOS.open takes a URL or a folder, not {type(where).__name__}")
    if isinstance(where, str):
        url = _URL.match(where)
        if url and url["scheme"].lower() in ("postgresql", "postgres"):
            return f"postgresql://{where[url.end() :]}", lambda: None
        if url:
            raise InvalidInput(
                f"MemOS.open takes a postgresql:// URL or a folder, not {url['scheme']}://"
            )
        if _KEYWORDS.match(where):
            return where, lambda: None
    from memos_core.store.embedded import (  # noqa: PLC0415 an extra
        EmbeddedServer,
        default_folder,
    )

    server = EmbeddedServer.acquire(
        Path(where) if where else default_folder(),
        startup_timeout=settings.startup_timeout,
        report=_log.warning,  # shown without any set-up: a recovery may take minutes
    )
    return server.dsn, server.release
