"""How large an archive may be."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from memos_core.checks import checked_count

_MOST_MEMBERS = 1_000_000  # the names of parts have six digits


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a reader accepts, and what a writer keeps to; sizes in bytes, unpacked.

    A reader holds one part in memory, and the objects that its JSON makes: of the most hostile
    JSON 27 bytes for each byte (measured), 430 MB with these limits.
    """

    members: int = 65_536  # of the ZIP file: 150 million records with embeddings
    part_records: int = 10_000
    part_bytes: int = 16 * 2**20  # of any one member, and so of any one record
    total_bytes: int = 64 * 2**30  # of all members
    expansion: int = 100  # how many times larger than packed a member may be

    def __post_init__(self) -> None:
        for name in self.__slots__:
            most = _MOST_MEMBERS if name == "members" else sys.maxsize
            checked_count(getattr(self, name), what=f"limit {name}", least=1, most=most)


STANDARD = Limits()
