"""Files of KV caches: runs of memories that follow each other in a prompt, found by their keys.

A memory's key stands for its tokens and all tokens before them (``model/prefix.py``), so a file is
right wherever its key is asked for. A file is named by the first key in it, and what shares only
its beginning with another run goes on in files of its own: the beginning is stored once, or twice
by two who store at one moment. Tensors can be computed anew, so a file that is missing, damaged or
not to be read costs time and nothing else.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG

from memos_core.errors import CacheNotWritten

_log = logging.getLogger("memos_core")
FORMAT = "1"  # of the files; another has folders of its own, and is not read
_SUFFIX = ".safetensors"
_PARTIAL = ".partial"
_PARTIAL_SECONDS = 600.0  # since its last byte: then its writer was killed
_HEADER_BYTES = 100_000_000  # safetensors reads no longer header

Version = tuple[int, int, int]  # of a file: inode, size, and when it was written


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """A file of a run: the ``keys`` of its memories in order, and how many ``tokens`` each has."""

    path: Path
    keys: tuple[str, ...]
    tokens: tuple[int, ...]
    storage: str  # how its numbers are stored

    @property
    def digest(self) -> str:
        """The checksum that its bytes had when it was written."""
        return self.path.name.split(".")[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A file that is written, of ``size`` bytes, and found by nobody before it is published."""

    file: RunFile
    size: int
    _making: Path

    def publish(self) -> None:
        """Have it found.

        Raises:
            CacheNotWritten: its folder cannot be written any more.
        """
        try:
            self._making.replace(self.file.path)
        except OSError as error:
            self.drop()
            raise _not_written(self.file.path.parent, error) from error

    def drop(self) -> None:
        """Remove it, where it was not published."""
        remove(self._making)


class TensorFiles:
    """The files of one tenant in a folder, which several processes may share."""

    def __init__(self, folder: Path, tenant: str) -> None:
        self.folder = folder / f"{FORMAT}-{hashlib.sha256(tenant.encode()).hexdigest()[:32]}"

    def along(self, keys: Sequence[str]) -> list[tuple[RunFile, int]]:
        """Return the files of the longest stored beginning, each with how many of its keys."""
        found: list[tuple[RunFile, int]] = []
        while keys and (file := self.find(*keys)):
            count = _shared(file.keys, keys)
            found.append((file, count))
            keys = keys[count:]
        return found

    def find(self, *keys: str) -> RunFile | None:
        """Return the file that begins with the first key, and goes on longest with the others."""
        named = (
            path
            for path in _listed(self._folder(keys[0]))
            if path.name.startswith(f"{keys[0]}.") and path.suffix == _SUFFIX
        )
        files: list[RunFile] = []
        for path, file in _read_all(named):
            if file is None:
                remove(path)  # of no use to anybody
            else:
                files.append(file)
        return max(files, key=lambda file: _shared(file.keys, keys), default=None)

    def draft(
        self,
        keys: Sequence[str],
        tokens: Sequence[int],
        *,
        storage: str,
        save: Callable[[Path, dict[str, str]], str],
    ) -> Draft:
        """Write a run: ``save`` writes it to a path with these metadata, and returns its digest.

        Raises:
            CacheNotWritten: the disk is full, or the folder cannot be written.
        """
        details = {
            "format": FORMAT,
            "keys": json.dumps(list(keys)),
            "tokens": json.dumps(list(tokens)),
            "storage": storage,
        }
        folder = self._folder(keys[0])
        try:
            _make(folder)
            descriptor, name = tempfile.mkstemp(_PARTIAL, dir=folder)
            os.close(descriptor)
        except OSError as error:
            raise _not_written(folder, error) from error
        making = Path(name)
        try:
            digest = save(making, details)
            with making.open("rb+") as file:
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            remove(making)
            raise _not_written(folder, error) from error
        except BaseException:
            remove(making)
            raise
        path = folder / f"{keys[0]}.{digest}{_SUFFIX}"
        whole = RunFile(path=path, keys=tuple(keys), tokens=tuple(tokens), storage=storage)
        return Draft(file=whole, size=size, _making=making)

    def any(self) -> bool:
        """Return whether there is any file."""
        return any(_listed(folder) for folder in _listed(self.folder))

    def all(self) -> dict[Path, RunFile | None]:
        """Return every file and what it holds: None of one that is of no use."""
        paths = [path for folder in _listed(self.folder) for path in _listed(folder)]
        files = [path for path in paths if path.suffix == _SUFFIX]
        left = [path for path in paths if path.suffix == _PARTIAL and _abandoned(path)]
        return {**dict(_read_all(files)), **dict.fromkeys(left)}

    def _folder(self, key: str) -> Path:
        return self.folder / key[:2]


def sizes(folder: Path) -> dict[Path, int]:
    """Return how many bytes each file takes, of all tenants in a folder, the oldest use first.

    What is being written, or was left by one who was killed while he wrote, is among them.
    """
    found = [
        (stat.st_atime, path, stat.st_size)
        for tenant in _listed(folder)
        for leaf in _listed(tenant)
        for path in _listed(leaf)
        if path.suffix in (_SUFFIX, _PARTIAL) and (stat := _stat(path))
    ]
    return {path: size for _, path, size in sorted(found)}


def shrink(folder: Path, most: int, *, keep: AbstractSet[str]) -> int:
    """Remove what was used longest ago until ``most`` bytes are left, whose it may be.

    Files that hold a key of ``keep`` stay, and so does what is being written. Return how many bytes
    are left.
    """
    there = sizes(folder)
    over = sum(there.values()) - most
    for path, size in there.items():
        if path.suffix == _PARTIAL:
            if _abandoned(path):
                remove(path)
                over -= size
        elif over > 0:
            for _, file in _read_all([path]):
                if file is None or keep.isdisjoint(file.keys):
                    remove(path)
                    over -= size
    return over + most


def version_of(path: Path) -> Version | None:
    """Return what differs once a file was written to, None where there is none any more."""
    stat = _stat(path)
    return None if stat is None else (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def touch(file: RunFile) -> None:
    """Note that a file was used now; when it was written stays: that tells it to be the same."""
    with suppress(OSError):
        written = file.path.stat().st_mtime_ns
        os.utime(file.path, ns=(time.time_ns(), written))


def remove(path: Path) -> None:
    """Remove a file; where that cannot be, the log says so."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("a KV cache cannot be removed: %s", error)


def _make(folder: Path) -> None:
    """Make a folder and those above it that are missing, each for its owner alone."""
    for level in (*reversed(folder.parents), folder):
        level.mkdir(mode=0o700, exist_ok=True)


def _not_written(folder: Path, error: OSError) -> CacheNotWritten:
    return CacheNotWritten(f"a KV cache was not written to {folder}: {error.strerror or error}")


def _shared(ours: Iterable[str], theirs: Iterable[str]) -> int:
    count = 0
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            break
        count += 1
    return count


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        _log.warning("KV caches cannot be read: %s", error)
        return []


def _read_all(paths: Iterable[Path]) -> Iterator[tuple[Path, RunFile | None]]:
    """Yield what files say they hold, None of one that is no such file.

    What cannot be read now is left out: that says nothing about what is in it.
    """
    for path in paths:
        try:
            yield path, _read(path)
        except FileNotFoundError:
            continue  # another process removed it
        except OSError as error:
            _log.warning("a KV cache cannot be read: %s", error)


def _read(path: Path) -> RunFile | None:
    stat = path.lstat()
    if not S_ISREG(stat.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return _read_as(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _read_as(path: Path, *_: int) -> RunFile | None:
    """Read a file, once as long as it is the same: every file is looked at when one may go."""
    with open(path, "rb", opener=_unfollowed) as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, _HEADER_BYTES))
    try:
        details = json.loads(header)["__metadata__"]
        keys, tokens = json.loads(details["keys"]), json.loads(details["tokens"])
        named = path.name.startswith(f"{keys[0]}.")
        counted = [type(number) for number in tokens] == [int] * len(keys)
        if details["format"] != FORMAT or not named or not counted:
            return None
        return RunFile(
            path=path,
            keys=tuple(map(str, keys)),
            tokens=tuple(tokens),
            storage=details["storage"],
        )
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _unfollowed(path: str, flags: int) -> int:
    """Open a file, but no link, and without waiting for who writes to a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _abandoned(path: Path) -> bool:
    stat = _stat(path)
    return stat is not None and time.time() - stat.st_mtime > _PARTIAL_SECONDS


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None
