"""A file that appears under its name only once it is whole."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from memos_core.errors import ArchiveNotWritten


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn what the operating system refuses into our error."""
    try:
        yield
    except FileExistsError as error:
        raise ArchiveNotWritten(
            f"{path} exists: choose another name, or pass overwrite=True"
        ) from error
    except OSError as error:
        raise ArchiveNotWritten(f"{path} was not written: {error.strerror or error}") from error


class NewFile:
    """A file in the making, in the folder of ``path``, readable by its owner alone.

    ``commit`` puts it in place, at once and for good. ``discard`` must follow, or stand in for it:
    it removes what is left.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool) -> None:
        try:
            self.path = Path(os.path.realpath(path))  # what a link leads to is replaced, not it
        except ValueError as error:  # a NUL in it, or a lone surrogate
            raise ArchiveNotWritten(f"{path!r} is no file name: {error}") from error
        self._overwrite = overwrite
        with writing(self.path):
            self._check_place()
            descriptor, name = tempfile.mkstemp(".partial", ".memos-", self.path.parent)
            self._making = Path(name)
            self.file = os.fdopen(descriptor, "wb")

    def commit(self) -> None:
        """Put the file under its name, safe from a crash of the machine."""
        with writing(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            self._place()
        with suppress(OSError):  # in place by now; some file systems cannot sync a folder
            _sync(self.path.parent)

    def discard(self) -> None:
        """Remove all but what was put in place."""
        with suppress(OSError):  # what a full disk did not take is written once more
            self.file.close()
        with suppress(OSError):  # a folder that was taken away, or made read-only meanwhile
            self._making.unlink(missing_ok=True)

    def _check_place(self) -> None:
        if not self.path.parent.is_dir():
            raise ArchiveNotWritten(f"{self.path} was not written: its folder does not exist")
        if not self.path.exists():
            return
        if not stat.S_ISREG(self.path.stat().st_mode):
            raise ArchiveNotWritten(f"{self.path} is no file that an archive could replace")
        if not self._overwrite:
            raise FileExistsError

    def _place(self) -> None:
        if self._overwrite:
            self._making.replace(self.path)
            return
        try:  # fails where another was quicker; a rename would not
            self.path.hardlink_to(self._making)
        except FileExistsError:
            raise
        except OSError:  # no hard links here, as on FAT
            if self.path.exists():
                raise FileExistsError from None
            self._making.rename(self.path)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
