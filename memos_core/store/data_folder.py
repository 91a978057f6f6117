"""The folder of a private PostgreSQL: what lies where, and how it is made.

<folder>/             0700, of the user the server runs as
├── data/             PostgreSQL's own; comes into being whole, by a rename
├── password          0600, random
├── server.log        and server.log.old
└── *.lock            see ``watcher``
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from memos_core.errors import ServerStartError
from memos_core.store import watcher
from memos_core.store.account import (
    MAJOR,
    Account,
    account_for,
    binaries,
    closed_parent,
    make_folder,
)

ROLE = "memos"  # a superuser of this server, which nobody else can reach
PORT = 5432  # only names the socket's file: there is no TCP listener
LOCKS = (watcher.USERS, watcher.START, watcher.SERVER, watcher.WATCHER)
_LOG_SIZE = 10_000_000
_SOCKET = f".s.PGSQL.{PORT}"
_OURS = {
    *LOCKS,
    *(watcher.DATA, "data.new", "password", "password.new", "server.log", "server.log.old"),
    *(_SOCKET, f"{_SOCKET}.lock"),
    "lost+found",  # of a volume mounted here
}
_SHORTEST_LIMIT = 103  # bytes of a socket's path: macOS has 104 with the final zero, Linux 108
_LONGEST = 900  # bytes of the data folder's path: PostgreSQL cuts paths at 1024
_PLAIN = re.compile(r"/[A-Za-z0-9/._-]*")  # a comma is several hosts to libpq
# Text search classifies letters by the C library's locale, whatever the collation's provider:
# under plain C it takes a curly quote or an ideographic full stop for part of a word.
_LOCALES = ("C.UTF-8", "en_US.UTF-8", "UTF-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFolder:
    """A folder that is there, is ours, and whose lock files are made."""

    path: Path
    account: Account

    @property
    def data(self) -> Path:
        """Where PostgreSQL's own files lie."""
        return self.path / watcher.DATA

    @property
    def log(self) -> Path:
        """What the server writes."""
        return self.path / "server.log"


def resolve(folder: Path) -> Path:
    """Return the one spelling of a folder's path.

    Raises:
        ServerStartError: PostgreSQL cannot work with such a path.
    """
    try:
        path = Path(os.path.realpath(folder.expanduser()))
        length = len(str(path).encode())
    except ValueError as error:
        raise ServerStartError(
            f"the path {str(folder)!r} is not UTF-8 text: name another folder"
        ) from error
    if "\n" in str(path):  # postmaster.pid keeps one path a line, and PostgreSQL counts lines in it
        raise ServerStartError(
            f"the path {str(path)!r} has a line break in it: name another folder"
        )
    if length > _LONGEST:
        raise ServerStartError(
            f"the path {path} is longer than PostgreSQL takes ({_LONGEST} bytes): name another"
        )
    return path


def prepare(path: Path) -> DataFolder:
    """Make a folder ready for a server, or return it as it is.

    Raises:
        ServerStartError: it is another's, another version's, or not a server's; untouched.
    """
    account = account_for(path)
    if path.exists():
        _check_content(path)
    make_folder(path, account)
    folder = DataFolder(path=path, account=account)
    for name in LOCKS:
        os.close(_private(path / name, account, 0))
    return folder


def make_data(folder: DataFolder, lock: int) -> None:
    """Make an empty PostgreSQL in the folder; it is there whole or not at all.

    ``lock`` is kept by every process that writes here, also one that outlives us.
    """
    if folder.data.exists():
        return
    making = folder.path / "data.new"
    if making.exists():
        shutil.rmtree(making)  # its maker was killed; the lock says that it has ended
    _write_password(folder)
    for locale in _LOCALES:
        said = _initdb(folder, making, locale, lock)
        if "invalid locale name" not in said:
            break
    else:
        said = f"the system has none of the locales {', '.join(_LOCALES)}: install one"
    if "could not look up effective user" in said:
        said += " (give this user a line in /etc/passwd)"  # docker run --user 4711
    if said:
        raise ServerStartError(f"no PostgreSQL could be made in {folder.path}: {said}")
    making.rename(folder.data)
    _sync(folder.path)


def password(path: Path) -> str:
    """Return the password of the server in a folder.

    Raises:
        ServerStartError: its file is gone.
    """
    try:
        return (path / "password").read_text("ascii").strip()
    except FileNotFoundError as error:
        raise ServerStartError(
            f"{path / 'password'} is gone, so nobody can log in: restore it, or set one with "
            f"`postgres --single -D {path / watcher.DATA} postgres` and "
            f"ALTER ROLE {ROLE} PASSWORD '…', and write it to that file (mode 0600)"
        ) from error


def socket_folder(folder: DataFolder) -> str:
    """Return a folder for the server's socket, whose path libpq and the kernel can take.

    Raises:
        ServerStartError: there is a foreign folder in its place.
    """
    if _suits(str(folder.path)):
        return str(folder.path)
    name = f"memos-{hashlib.sha256(str(folder.path).encode()).hexdigest()[:16]}"
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 the folder in it is checked
        place = Path(os.path.realpath(parent)) / name
        if _suits(str(place)) and closed_parent(place, folder.account) is None:
            _own_socket_folder(place, folder.account)
            return str(place)
    raise ServerStartError(
        f"no place for the server's socket: neither {folder.path} nor the temporary folder "
        f"{tempfile.gettempdir()} has a short, plain path: set TMPDIR to one"
    )


def clear_remains(folder: DataFolder, sockets: str) -> int | None:
    """Remove what a killed server left, and return the process id it wrote down.

    Only for who holds the server's lock, so knows that no process of it is left.
    """
    for name in (_SOCKET, f"{_SOCKET}.lock"):
        (Path(sockets) / name).unlink(missing_ok=True)
    written = folder.data / "postmaster.pid"
    try:
        return int(written.read_text("utf-8").split("\n", 1)[0])
    except FileNotFoundError:
        return None
    except ValueError:  # cut off by a crash of the machine: PostgreSQL would not start over it
        written.unlink()
        return None


def open_log(folder: DataFolder) -> int:
    """Return a descriptor that appends to the log; a long one is put aside first."""
    if folder.log.exists() and folder.log.stat().st_size > _LOG_SIZE:
        folder.log.replace(folder.log.with_suffix(".log.old"))
    return _private(folder.log, folder.account, os.O_APPEND)


def _check_content(path: Path) -> None:
    if not path.is_dir():
        raise ServerStartError(f"{path} is not a folder: name a folder, or a postgresql:// URL")
    names = {entry.name for entry in path.iterdir()}
    if "PG_VERSION" in names:
        raise ServerStartError(
            f"{path} is the data folder of a PostgreSQL that this library did not make: start "
            "that server yourself and name it by its postgresql:// URL, or name another folder"
        )
    version = path / watcher.DATA / "PG_VERSION"
    if version.exists():
        _check_version(path, version.read_text("ascii").strip())
    elif watcher.DATA in names or names - _OURS:
        strangers = ", ".join(sorted(names - _OURS)[:5]) or watcher.DATA
        raise ServerStartError(
            f"{path} is not empty and holds no PostgreSQL ({strangers}): name an empty or new "
            "folder; nothing in it was touched"
        )


def _check_version(path: Path, version: str) -> None:
    if version != MAJOR:
        raise ServerStartError(
            f"{path} was made by PostgreSQL {version}, and this library brings {MAJOR}: dump it "
            f"with the version of this library that made it and load the dump into a new folder, "
            f"or start PostgreSQL {version} yourself and name it by its postgresql:// URL"
        )


def _suits(place: str) -> bool:
    return bool(_PLAIN.fullmatch(place)) and len(place) + 1 + len(_SOCKET) <= _SHORTEST_LIMIT


def _own_socket_folder(place: Path, account: Account) -> None:
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:
        pass
    else:
        account.own(place)
    status = place.lstat()
    if account.switch and status.st_uid == 0 and place.is_dir() and not place.is_symlink():
        account.own(place)  # we were killed between making it and giving it away
        status = place.lstat()
    if place.is_symlink() or status.st_uid != account.uid or status.st_mode & 0o077:
        raise ServerStartError(
            f"{place}, the folder for the server's socket, is not {account.name}'s alone: "
            "somebody else made it; remove it, or set TMPDIR to a folder of your own"
        )


def _private(path: Path, account: Account, flags: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    if os.fstat(descriptor).st_uid != account.uid:
        account.own(descriptor)
    return descriptor


def _write_password(folder: DataFolder) -> None:
    new = folder.path / "password.new"
    new.unlink(missing_ok=True)
    descriptor = _private(new, folder.account, os.O_EXCL)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(descriptor)
    new.rename(folder.path / "password")


def _initdb(folder: DataFolder, making: Path, locale: str, lock: int) -> str:
    account = folder.account
    done = subprocess.run(  # noqa: S603 a list, no shell
        [
            str(binaries(account) / "initdb"),
            f"--pgdata={making}",
            f"--username={ROLE}",
            f"--pwfile={folder.path / 'password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            f"--lc-ctype={locale}",
            "--no-instructions",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env=watcher.environment(),
        cwd="/",
        pass_fds=(lock,),
        user=account.uid if account.switch else None,
        group=account.gid if account.switch else None,
        extra_groups=() if account.switch else None,
    )
    return "" if done.returncode == 0 else done.stderr.decode(errors="replace").strip()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
