"""The detached processes around a private PostgreSQL: the server, and who stops it.

Run as a script, by its path and without site-packages, so that a watcher costs little memory and
nothing of the program that started it: this file imports the standard library only.

A watcher sleeps in the kernel until no process holds ``users.lock`` any more, however the last
one ended, then stops the server and ends itself. ``server.lock`` is inherited by every process of
the server, so it is free exactly when none of them is left; a process id proves nothing of that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

USERS = "users.lock"  # shared: every holder, for life; exclusive: while the server is stopped
START = "start.lock"  # exclusive: who makes or starts the server, one at a time
SERVER = "server.lock"  # exclusive: inherited by every process of the server
WATCHER = "watcher.lock"  # exclusive: inherited by the one watcher

DATA = "data"
PATIENCE = 120.0  # seconds a fast shutdown may take to write its checkpoint before it is cut short
POLL = 0.02


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """Return a descriptor that holds the lock of ``path`` until it is closed, or None."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@dataclass(frozen=True, kw_only=True)
class Postmaster:
    """What the server last wrote of itself; it may be dead since."""

    sockets: str
    port: int
    ready: bool


def postmaster(folder: Path) -> Postmaster | None:
    """Return what the server of a folder last wrote of itself."""
    try:
        lines = (folder / DATA / "postmaster.pid").read_text("utf-8").splitlines()
        ready = len(lines) > 7 and lines[7].strip() == "ready"  # noqa: PLR2004 the 8th line
        return Postmaster(sockets=lines[4], port=int(lines[3]), ready=ready)
    except (FileNotFoundError, NotADirectoryError, IndexError, ValueError):
        return None


def listener(folder: Path) -> int | None:
    """Return the id of the live process that listens on the server's socket."""
    server = postmaster(folder)
    if server is None:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(f"{server.sockets}/.s.PGSQL.{server.port}")
        except OSError:
            return None
        return _peer(client) or None


def stop_server(folder: Path) -> bool:
    """Stop the server and wait until its last process is gone; False if none was running.

    Raises:
        TimeoutError: one of its processes does not end.
    """
    sent: set[signal.Signals] = set()
    began = time.monotonic()
    while (lock := try_lock(folder / SERVER)) is None:
        # SIGINT is a fast shutdown: sessions end, a checkpoint is written. SIGQUIT leaves the
        # next start a recovery, which loses nothing committed.
        waited = time.monotonic() - began
        if waited > 2 * PATIENCE:
            raise TimeoutError(f"a process of the server in {folder} did not end in {waited:.0f} s")
        wanted = signal.SIGINT if waited < PATIENCE else signal.SIGQUIT
        if wanted not in sent and (server := listener(folder)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, wanted)
            sent.add(wanted)
        time.sleep(POLL)
    os.close(lock)
    return bool(sent)


def ensure_watcher(folder: Path) -> None:
    """Start the watcher of a folder, unless it has one."""
    lock = try_lock(folder / WATCHER)
    if lock is None:
        return
    try:
        detach(["watch", str(folder), str(lock)], inherited=lock)
    finally:
        os.close(lock)


def detach(
    arguments: Sequence[str],
    *,
    inherited: int,
    log: IO[bytes] | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Run this file as a process of its own that keeps the ``inherited`` descriptor.

    It outlives the caller, is no child of it (so leaves no zombie), has no terminal, and keeps
    none of its files open, so whoever reads the caller's output sees its end.
    """
    subprocess.run(  # noqa: S603 our own file
        [sys.executable, "-I", "-S", __file__, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log or subprocess.DEVNULL,
        stderr=log or subprocess.DEVNULL,
        env={**environment(), **(extra or {})},
        cwd="/",
        pass_fds=(inherited,),
        check=True,
    )


def environment() -> dict[str, str]:
    """Return what a server may know of our environment: no PG* variables, no secrets."""
    kept = ("PATH", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def watch(folder: Path, lock: int) -> None:
    """Wait until nobody holds the folder's server, then stop it."""
    users = os.open(folder / USERS, os.O_RDWR)
    fcntl.flock(users, fcntl.LOCK_EX)
    # The folder may have been deleted, and another made in its place: that one is not ours.
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(users), (folder / USERS).stat()):
            stop_server(folder)
    # In this order: who holds the server next must see that it has no watcher.
    os.close(lock)
    os.close(users)


def run(user: int, group: int, program: list[str]) -> None:
    """Become ``program``, as this user and group where we are root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    os.execv(program[0], program)  # noqa: S606 no shell is the point


def _peer(client: socket.socket) -> int:
    if sys.platform == "darwin":
        return struct.unpack("i", client.getsockopt(0, 2, 4))[0]  # SOL_LOCAL, LOCAL_PEERPID
    return struct.unpack("iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def main(arguments: Sequence[str]) -> None:
    """Detach from whoever started this script, and do what it was started for."""
    if os.fork():
        os._exit(0)
    os.setsid()
    match arguments:
        case ["watch", folder, lock]:
            watch(Path(folder), int(lock))
        case ["run", user, group, *program]:
            run(int(user), int(group), program)
        case _:
            raise SystemExit(f"unknown arguments: {arguments}")


if __name__ == "__main__":
    main(sys.argv[1:])
