"""Files of KV caches: runs of memories that follow each other in a prompt, found by their keys.

A memory's key stands for its tokens and all tokens before them (``model/prefix.py``), so a file is
right wherever its key is asked for. A file is named by the first key in it, and what shares only
its beginning with another run goes on in files of its own: the beginning is stored once. Tensors
can be computed anew, so a file that is missing or damaged costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from memos_core.errors import CacheNotWritten

FORMAT = "1"  # of the files; another has folders of its own, and is not read
_SUFFIX = ".safetensors"
_PARTIAL = ".partial"
_HEADER_BYTES = 100_000_000  # safetensors reads no longer header


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


class TensorFiles:
    """The files of one tenant in a folder, which several processes may share."""

    def __init__(self, folder: Path, tenant: str) -> None:
        self.folder = folder / f"{FORMAT}-{hashlib.sha256(tenant.encode()).hexdigest()[:32]}"

    def along(self, keys: Sequence[str]) -> list[tuple[RunFile, int]]:
        """Return the files of the longest stored beginning, each with how many of its keys."""
        found: list[tuple[RunFile, int]] = []
        while keys and (file := self.find(keys[0])):
            count = _shared(file.keys, keys)
            found.append((file, count))
            keys = keys[count:]
        return found

    def find(self, key: str) -> RunFile | None:
        """Return the file that begins with a key."""
        for path in self._named(key):
            if file := _read(path):
                return file
            path.unlink(missing_ok=True)  # of no use to anybody
        return None

    def write(
        self,
        keys: Sequence[str],
        tokens: Sequence[int],
        *,
        storage: str,
        save: Callable[[Path, dict[str, str]], str],
    ) -> RunFile:
        """Store a run: ``save`` writes it to a path with these metadata, and returns its digest.

        It is there whole or not at all, and takes the place of a file that begins with its key.

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
        making: Path | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(_PARTIAL, dir=folder)
            os.close(descriptor)
            making = Path(name)
            digest = save(making, details)
            with making.open("rb+") as file:
                os.fsync(file.fileno())
            path = folder / f"{keys[0]}.{digest}{_SUFFIX}"
            making.replace(path)
        except OSError as error:
            raise CacheNotWritten(
                f"a KV cache was not written to {folder}: {error.strerror or error}"
            ) from error
        finally:
            if making is not None:
                making.unlink(missing_ok=True)
        for other in self._named(keys[0]):
            if other != path:
                other.unlink(missing_ok=True)
        return RunFile(path=path, keys=tuple(keys), tokens=tuple(tokens), storage=storage)

    def collect(self, live: AbstractSet[str]) -> int:
        """Remove every file with a memory that is not ``live``; return how many bytes."""
        freed = 0
        for path in self._all():
            file = _read(path)
            if file is None or not live >= set(file.keys):
                freed += _remove(path)
        return freed

    def _folder(self, key: str) -> Path:
        return self.folder / key[:2]

    def _named(self, key: str) -> Iterator[Path]:
        yield from (path for path in _listed(self._folder(key)) if path.name.startswith(key + "."))

    def _all(self) -> Iterator[Path]:
        for folder in _listed(self.folder, suffix=""):
            yield from _listed(folder)


def sizes(folder: Path) -> dict[Path, int]:
    """Return how many bytes each file takes, of all tenants in a folder, the oldest use first."""
    found = [
        (stat.st_mtime, path, stat.st_size)
        for path in folder.glob(f"*/*/*{_SUFFIX}")
        if (stat := _stat(path))
    ]
    return {path: size for _, path, size in sorted(found)}


def shrink(folder: Path, most: int, *, keep: AbstractSet[str]) -> None:
    """Remove what was used longest ago until ``most`` bytes are left, whose it may be.

    Files that hold a key of ``keep`` stay.
    """
    there = sizes(folder)
    over = sum(there.values()) - most
    for path, size in there.items():
        if over <= 0:
            return
        file = _read(path)
        if file is None or keep.isdisjoint(file.keys):
            path.unlink(missing_ok=True)
            over -= size


def touch(file: RunFile) -> None:
    """Note that a file was used now."""
    with suppress(OSError):
        os.utime(file.path)


def _shared(ours: Iterable[str], theirs: Iterable[str]) -> int:
    count = 0
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            break
        count += 1
    return count


def _listed(folder: Path, suffix: str = _SUFFIX) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(suffix))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: Path) -> RunFile | None:
    """Return what a file says it holds, None of one that is no such file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _HEADER_BYTES)))
        details = header["__metadata__"]
        if details["format"] != FORMAT:
            return None
        return RunFile(
            path=path,
            keys=tuple(json.loads(details["keys"])),
            tokens=tuple(json.loads(details["tokens"])),
            storage=details["storage"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _remove(path: Path) -> int:
    stat = _stat(path)
    path.unlink(missing_ok=True)
    return stat.st_size if stat else 0
