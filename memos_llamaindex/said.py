"""What was said already: LlamaIndex's messages have no ids, and a window of them moves."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import count
from typing import Any

from memos_core import Caller, Message


def ids_of(
    turns: Sequence[Mapping[str, Any]], logged: Sequence[Message], *, by: Caller | None = None
) -> list[str]:
    """Return an id for each turn of a window: that of the message in a session's log that it is.

    What is not there gets an id that is the same each time, so that it is logged once, whoever
    sends it, and does not come back when it was forgotten, which takes it from ``logged``. What a
    caller said is his own, whoever said the same where he may not read it.
    """
    keys = [said_key(turn) for turn in turns]
    known, wanted = [message.id for message in logged], set(keys)
    ids = [""] * len(keys)
    said = [_key_among(wanted, message) for message in logged]
    # What is said twice was said twice: the order tells which of the two a window begins with.
    for there, here, size in SequenceMatcher(
        None, said, keys, autojunk=False
    ).get_matching_blocks():
        ids[here : here + size] = known[there : there + size]
    taken, mine = set(known), f"{_digest(by.user)}." if by else ""
    for place, key in enumerate(keys):
        if not ids[place]:
            ids[place] = next(id for n in count(1) if (id := f"{key}.{mine}{n}") not in taken)
            taken.add(ids[place])
    return ids


def _key_among(wanted: Collection[str], message: Message) -> str:
    """Return the key of what was said, or, where that is not wanted, of what was kept of it."""
    # Rules hide parts of a message, and what no database can hold is replaced.
    said = message.id.partition(".")[0]
    return said if said in wanted else said_key({"role": message.role, "content": message.content})


def said_key(turn: Mapping[str, Any]) -> str:
    """Return what the ids of all turns with a turn's role and words begin with, up to a dot."""
    return _digest(f"{turn['role']}\x1f{turn['content']}")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
