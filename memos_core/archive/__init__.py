"""Archive files: the paper's MemDumper and MemLoader, as docs/archive-format.md describes them.

The container knows nothing of a database: records are JSON objects, embeddings are arrays.
"""

from memos_core.archive.embeddings import Embeddings
from memos_core.archive.header import Header
from memos_core.archive.layout import RECORD_KINDS, RecordKind
from memos_core.archive.limits import Limits
from memos_core.archive.reader import ArchiveReader, Part
from memos_core.archive.writer import ArchiveWriter
from memos_core.errors import (
    ArchiveError,
    ArchiveInvalid,
    ArchiveNotRead,
    ArchiveNotWritten,
)

__all__ = [
    "RECORD_KINDS",
    "ArchiveError",
    "ArchiveInvalid",
    "ArchiveNotRead",
    "ArchiveNotWritten",
    "ArchiveReader",
    "ArchiveWriter",
    "Embeddings",
    "Header",
    "Limits",
    "Part",
    "RecordKind",
]
