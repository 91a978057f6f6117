"""A private PostgreSQL in a folder, running while any process holds it.

Whoever acquires it takes a shared lock and keeps it for life; the kernel gives it back however a
process ends. One watcher per folder stops the server when nobody holds that lock (``watcher``).
Whether a server lives is decided by connecting to it and asking which folder it serves; process
ids are never believed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import platformdirs
import psycopg

from memos_core.errors import ServerStartError, StoreUnavailable
from memos_core.store import watcher
from memos_core.store.account import ROOTS_PLACE, binaries
from memos_core.store.data_folder import (
    PORT,
    ROLE,
    DataFolder,
    clear_remains,
    make_data,
    open_log,
    password,
    prepare,
    resolve,
    socket_folder,
)
from memos_core.store.migrate import APP_ROLE
from memos_core.store.server_settings import server_settings

DATABASE = "memos"
_FIRST_REPORT = 2.0  # seconds of waiting before the user is told, and between two tellings
_NEXT_REPORT = 10.0
_LOG_LINES = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerStatus:
    """What is known of the server in a folder.

    ``users`` counts the processes that hold it, where the system tells (Linux). ``version`` is
    the running server's, else the one that made the folder.
    """

    folder: Path
    running: bool
    pid: int | None = None
    users: int | None = None
    version: str | None = None


class EmbeddedServer:
    """A private PostgreSQL in a folder that runs while any process holds it.

    ``dsn`` is a postgresql:// URL of its database ``memos``; the role in it is a superuser.
    """

    def __init__(self, folder: Path, dsn: str, hold: int) -> None:
        self.folder = folder
        self.dsn = dsn
        self._hold: int | None = hold

    @classmethod
    def acquire(
        cls,
        folder: Path,
        *,
        startup_timeout: float = 300.0,
        report: Callable[[str], None] | None = None,
    ) -> EmbeddedServer:
        """Hold the server in ``folder``, made and started if need be.

        Args:
            folder: a new or empty folder, or one given here before.
            startup_timeout: seconds; after a crash PostgreSQL first recovers, which can take
                minutes.
            report: is given a line for the user now and then while this takes long.

        Raises:
            ServerStartError: there is no server, and why.
            StoreUnavailable: it was stopped while this was at work.
        """
        _require_posix()
        patience = _Patience(startup_timeout, report)
        with _translated(folder):
            ready = prepare(resolve(folder))
            hold = patience.lock(
                ready.path / watcher.USERS, "the server to stop, which nobody held", shared=True
            )
            try:
                watcher.ensure_watcher(ready.path)
                dsn = _dsn(ready, patience)
            except BaseException:
                os.close(hold)
                raise
        return cls(ready.path, dsn, hold)

    def release(self) -> None:
        """Hold it no longer; it stops soon after the last holder of any process is gone."""
        hold, self._hold = self._hold, None
        if hold is not None:
            # Closed, not unlocked: a forked child that has the descriptor too holds on.
            os.close(hold)


def default_folder() -> Path:
    """Return where the server of this user lives when no folder is named."""
    if sys.platform != "win32" and os.geteuid() == 0:
        # PostgreSQL does not run as root, and the user it runs as cannot enter root's home.
        return ROOTS_PLACE / "postgres"
    return platformdirs.user_data_path("memos") / "postgres"


def status(folder: Path) -> ServerStatus:
    """Return what is known of the server in a folder, changing nothing.

    Raises:
        ServerStartError: the folder is another user's, so nothing is known.
    """
    _require_posix()
    with _translated(folder):
        path = resolve(folder)
        answer = _ask(path)
        try:
            made_by = (path / watcher.DATA / "PG_VERSION").read_text("ascii").strip()
        except (FileNotFoundError, NotADirectoryError):
            made_by = None
        return ServerStatus(
            folder=path,
            running=answer is not None,
            pid=watcher.listener(path) if answer else None,
            users=_users(path),
            version=answer.version if answer else made_by,
        )


def stop(folder: Path) -> bool:
    """Stop the server in a folder for everyone, now; False if it was not running.

    Who holds it gets errors until somebody acquires it again. Nothing committed is lost.

    Raises:
        ServerStartError: the folder is another user's.
    """
    _require_posix()
    with _translated(folder):
        path = resolve(folder)
        return (path / watcher.SERVER).exists() and watcher.stop_server(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    version: str
    whole: bool  # has our database and role
    server: watcher.Postmaster


class _Patience:
    """Waits, tells the user for what, and knows when it is enough."""

    def __init__(self, seconds: float, report: Callable[[str], None] | None) -> None:
        self._seconds = seconds
        self._report = report
        self._began = time.monotonic()
        self._next = _FIRST_REPORT

    def wait(self, what: str) -> None:
        """Sleep a moment.

        Raises:
            ServerStartError: the time is up.
        """
        waited = time.monotonic() - self._began
        if waited >= self._seconds:
            raise ServerStartError(
                f"waited {self._seconds:g} s for {what}: give it longer "
                "(Settings.startup_timeout); nothing committed is lost"
            )
        if self._report is not None and waited >= self._next:
            self._report(f"PostgreSQL: waiting for {what} ({waited:.0f} s)")
            self._next = waited + _NEXT_REPORT
        time.sleep(min(watcher.POLL, self._seconds))

    def lock(self, path: Path, what: str, *, shared: bool = False) -> int:
        while (descriptor := watcher.try_lock(path, shared=shared)) is None:
            self.wait(what)
        return descriptor


def _dsn(folder: DataFolder, patience: _Patience) -> str:
    answer = _ask(folder.path)
    if answer is None or not answer.whole:
        starting = patience.lock(folder.path / watcher.START, "another process to start it")
        try:
            answer = _started(folder, patience)
            if not answer.whole:
                with _connect(folder.path, answer.server) as connection:
                    _complete(connection)
        finally:
            os.close(starting)
    return (
        f"postgresql://{ROLE}:{password(folder.path)}@/{DATABASE}"
        f"?host={quote(answer.server.sockets, safe='')}&port={answer.server.port}"
    )


def _complete(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Make our database, and the role that its connections take on, where they lack."""
    if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (APP_ROLE,)).rowcount:
        connection.execute(f"CREATE ROLE {APP_ROLE} NOLOGIN")
    if not connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).rowcount:
        connection.execute(f"CREATE DATABASE {DATABASE}")


def _started(folder: DataFolder, patience: _Patience) -> _Answer:
    """Return the answer of the folder's server, starting it unless one of its processes lives."""
    log_start: int | None = None
    while (answer := _ask(folder.path)) is None:
        lock = watcher.try_lock(folder.path / watcher.SERVER)
        if lock is None:
            patience.wait(_what_it_does(folder))
            continue
        try:
            if log_start is not None:
                raise ServerStartError(_why(folder, log_start))
            make_data(folder, lock)
            log_start = _launch(folder, lock)
        finally:
            os.close(lock)
    return answer


def _launch(folder: DataFolder, lock: int) -> int:
    """Start the server and return where its log begins."""
    sockets = socket_folder(folder)
    stale = clear_remains(folder, sockets)
    extra: dict[str, str] = {}
    if stale is not None:
        # PostgreSQL gives up where the process that postmaster.pid names lives, whatever it is,
        # unless it is its grandparent. Its own check for a shared memory block still in use
        # remains: so the file is not simply removed.
        extra["PG_GRANDPARENT_PID"] = str(stale)
    program = [
        *(str(binaries(folder.account) / "postgres"), "-D", str(folder.data)),
        *server_settings(sockets, PORT),
    ]
    account = folder.account
    with os.fdopen(open_log(folder), "ab") as log:
        start = os.fstat(log.fileno()).st_size
        watcher.detach(
            ["run", str(account.uid), str(account.gid), *program],
            inherited=lock,
            log=log,
            extra=extra,
        )
    return start


def _connect(folder: Path, server: watcher.Postmaster) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host=server.sockets,
        port=server.port,
        user=ROLE,
        password=password(folder),
        dbname="postgres",
        connect_timeout=10,
        autocommit=True,
    )


def _ask(folder: Path) -> _Answer | None:
    """Ask the server of a folder who it is; None if none answers that serves this folder."""
    server = watcher.postmaster(folder)
    if server is None or not server.ready:
        return None
    try:
        with _connect(folder, server) as connection:
            row = connection.execute(
                """
                SELECT
                    current_setting('data_directory'),
                    current_setting('server_version'),
                    EXISTS (SELECT FROM pg_database WHERE datname = %s)
                        AND EXISTS (SELECT FROM pg_roles WHERE rolname = %s)
                """,
                (DATABASE, APP_ROLE),
            ).fetchone()
    except psycopg.OperationalError as error:
        if "password authentication failed" in str(error):
            raise ServerStartError(
                f"the server in {folder} refuses the password in {folder / 'password'}: restore "
                "that file, or set the role's password to what it holds"
            ) from error
        return None
    if row is None or not _same(Path(str(row[0])), folder / watcher.DATA):
        return None
    return _Answer(version=str(row[1]), whole=bool(row[2]), server=server)


def _same(theirs: Path, ours: Path) -> bool:
    try:
        return theirs.samefile(ours)
    except OSError:
        return False


def _what_it_does(folder: DataFolder) -> str:
    if watcher.listener(folder.path) is None:
        return "the last processes of a PostgreSQL that ended (or is out of reach, in a container)"
    last = _log_since(folder, 0).rpartition("starting PostgreSQL")[2]
    if "recovery in progress" in last:
        return "PostgreSQL, which is recovering from a crash"
    return "PostgreSQL, which is starting"


def _why(folder: DataFolder, log_start: int) -> str:
    said = "\n".join(_log_since(folder, log_start).splitlines()[-_LOG_LINES:])
    return (
        f"PostgreSQL did not start in {folder.path}. Its log ends with:\n{said}\n"
        f"The whole log is {folder.log}. Free disk space or memory if it lacks; otherwise name "
        "another folder, or a server by its postgresql:// URL. The data is left as it is."
    )


def _log_since(folder: DataFolder, start: int) -> str:
    try:
        with folder.log.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(max(start, size - 20_000))
            return log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _users(folder: Path) -> int | None:
    """Count the processes that hold the lock of the server's users, where /proc tells."""
    try:
        inode = (folder / watcher.USERS).stat().st_ino
        locks = Path("/proc/locks").read_text("ascii").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    # "7: FLOCK  ADVISORY  READ 4711 fe:00:131 0 EOF"; one that waits has "->" before FLOCK
    held = (line.split() for line in locks if " FLOCK " in line and "->" not in line)
    return len(
        {words[4] for words in held if words[3] == "READ" and words[5].endswith(f":{inode}")}
    )


def _require_posix() -> None:
    if sys.platform == "win32":
        raise ServerStartError(
            "the embedded PostgreSQL runs on Linux and macOS only: install a PostgreSQL with "
            "pgvector and name it by its URL, postgresql://user:password@host/database"
        )


@contextlib.contextmanager
def _translated(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise ServerStartError(
            f"the embedded PostgreSQL cannot use {folder}: {error}; name a folder that this user "
            "can write"
        ) from error
    except subprocess.SubprocessError as error:
        raise ServerStartError(
            f"the embedded PostgreSQL of {folder} cannot start a process: {error}"
        ) from error
    except psycopg.Error as error:
        raise StoreUnavailable(
            f"the embedded PostgreSQL of {folder} went away while it was started: {error}; try "
            "again"
        ) from error
