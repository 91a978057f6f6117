"""What can go wrong with an archive file.

ArchiveError (MemOSError)
├── ArchiveInvalid      the file is damaged, altered, hostile, or of another format
├── ArchiveNotRead      the file cannot be opened or read
└── ArchiveNotWritten   the file could not be written; none was left, an older one stands
"""

from __future__ import annotations

from memos_core.errors import MemOSError


class ArchiveError(MemOSError):
    """An archive could not be read or written."""


class ArchiveInvalid(ArchiveError):
    """A file is no archive as docs/archive-format.md describes it, or exceeds the limits."""


class ArchiveNotRead(ArchiveError):
    """The file cannot be opened or read."""


class ArchiveNotWritten(ArchiveError):
    """The archive could not be written: no file was left, and an older one is as it was."""
