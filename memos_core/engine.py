"""What all views of one MemOS share: the store, the embedder, the settings."""

from __future__ import annotations

import functools
import logging
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from memos_core.embedder import (
    Embedder,
    Vectors,
    document_vectors,
    name_of,
    question_vectors,
)
from memos_core.errors import Closed, InvalidInput
from memos_core.model.default import default_embedder
from memos_core.settings import Settings, where_from
from memos_core.store.statement import Statement
from memos_core.store.statements import embeddings
from memos_core.store.statements.embeddings import Model, Text

if TYPE_CHECKING:
    from memos_core.store.postgres import Store

T = TypeVar("T")
_log = logging.getLogger("memos_core")
REEMBED_BATCH = 256
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9]*)(\+\w+)?://")  # SQLAlchemy's have a "+driver"
_KEYWORDS = re.compile(r"(host|hostaddr|port|dbname|user|service)\s*=")  # libpq's other form


class Engine:
    """An open store with the embedder that fills it."""

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        settings: Settings,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.model = name_of(embedder)
        self._store = store
        self._embedder = embedder
        self._release = release
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._width: int | None = None  # known once the database has confirmed model and width

    @classmethod
    def open(
        cls, where: str | Path | None, embedder: Embedder | None, settings: Settings | None
    ) -> Engine:
        """Connect to a server of the user's, or to a private one in a folder."""
        from memos_core.store.postgres import Store  # noqa: PLC0415 the driver is slow to load

        settings = settings or Settings()
        dsn, release = _address(where, settings)
        try:
            store = Store(dsn, settings)
        except BaseException:
            release()
            raise
        return cls(store, embedder or default_embedder(), settings, release)

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

    def close(self) -> None:
        """Close the connections, and let go of the private server."""
        with self._lock:
            self._closed = True
        if self._threads is not None:
            self._threads.shutdown()
        self._store.close()
        self._release()

    @overload
    def run(self, statement: Statement[T], /) -> T: ...
    @overload
    def run(self, statement: Statement[Any], /, *others: Statement[T]) -> T: ...
    def run(self, statement: Statement[Any], /, *others: Statement[Any]) -> Any:
        """Run statements in one transaction and return the last one's answer."""
        return self._store.run(statement, *others)

    def documents(self, texts: Sequence[str]) -> Vectors:
        """Embed texts to be stored; shape (len(texts), width)."""
        return self._confirmed(document_vectors(self._embedder, texts))

    def question(self, text: str) -> Vectors:
        """Embed a question; shape (1, width)."""
        return self._confirmed(question_vectors(self._embedder, [text]))

    def check_model(self) -> None:
        """Refuse a database that another embedder filled.

        Raises:
            EmbedderMismatch: it did.
        """
        stored = self._store.run(embeddings.stored())
        if stored is not None and stored.name != self.model:
            self._refuse(stored.name, self.model)

    def reembed(self, report: Callable[[int, int], None]) -> int:
        """Replace every vector by one of this engine's embedder; return how many there are.

        The old vectors serve until the last new one is there. A run that was interrupted goes on
        where it stopped. ``report`` is given the number done and the number of all.
        """
        run = functools.partial(self._store.run, timeout=0)  # they read every row
        width = document_vectors(self._embedder, ["how wide?"]).shape[1]
        model = Model(name=self.model, width=width)
        done, everything = run(embeddings.progress(model))
        while not run(embeddings.swap(model)):
            last: Text | None = None
            while texts := run(embeddings.missing(model, after=last, limit=REEMBED_BATCH)):
                vectors = document_vectors(self._embedder, [text.text for text in texts])
                run(embeddings.keep(model, texts, vectors))
                last = texts[-1]
                done += len(texts)
                report(done, max(done, everything))
        _, everything = run(embeddings.progress(model))
        return everything

    def _confirmed(self, vectors: Vectors) -> Vectors:
        width = vectors.shape[1]
        if width != self._width:
            mine = Model(name=self.model, width=width)
            stored = self._store.run(embeddings.claim(mine)) or mine
            if stored != mine:
                self._refuse(
                    f"{stored.name} ({stored.width} dimensions)",
                    f"{mine.name} ({mine.width} dimensions)",
                )
            self._width = width
        return vectors

    def _refuse(self, stored: str, mine: str) -> None:
        from memos_core.store.postgres import wrong_model  # noqa: PLC0415 as above

        raise wrong_model(stored, mine)


def _address(where: str | Path | None, settings: Settings) -> tuple[str, Callable[[], None]]:
    where = where or where_from()
    if isinstance(where, str):
        if (url := _URL.match(where)) and url["scheme"] in ("postgresql", "postgres"):
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
