"""How memories become a KV cache: computed, checked, and kept where all is still as it was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memos_core.cube import MemCube
from memos_core.errors import CacheMismatch, CacheRefused, InvalidInput
from memos_core.model.choosing import Opening
from memos_core.model.fingerprint import Fingerprint
from memos_core.model.form import Form
from memos_core.model.meant import Meant, members_of
from memos_core.model.reading import PromptReader
from memos_core.model.recording import record_of
from memos_core.model.verification import verify


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What is asked of a KV cache; see ``MemoryModel.encode``."""

    opening: Opening
    form: Form
    reuse: bool  # whether memories go first that continue what is cached
    room: int
    continuations: Sequence[str]
    max_kl: float | None
    name: str | None


def encoded(reader: PromptReader, meant: Meant, asked: Encoding) -> MemCube:
    """Return the cube that is the KV cache of memories.

    Raises:
        MemOSError: as ``MemoryModel.encode``.
    """
    if not meant.ids:
        raise InvalidInput("name the memories that are to be encoded: one or more, not a view")
    if meant.view.engine.in_pipeline:
        raise InvalidInput("a pipeline may leave nothing, and a file would stay: encode after it")
    view, remembered = meant.view, meant.remembered(meant.ids)
    if any(one.cache for one in remembered):
        raise InvalidInput("name memories of text: one of these is a KV cache already")
    before, form = reader.fingerprinted.now(), asked.form
    members = members_of(remembered)
    if asked.reuse:
        members = reader.in_order(view, members, asked.opening, form, before.key)
    prefix = reader.prefix(view, members, asked.opening, form, before.key)
    reader.check_room(len(prefix.ids), asked.room)
    reader.hear(view)
    cache = reader.made(prefix, form, before.key)
    held_out = [reader.layout.memory(text) for text in asked.continuations]
    checked = verify(reader.model, prefix.ids, cache, held_out or None, max_kl=asked.max_kl)
    _check_unchanged(before, reader.fingerprinted.now())
    record = record_of(members, before, prefix, form, checked)
    if not checked.passed:
        view.refuse_cache(record)
        raise CacheRefused(f"the KV cache is not served: {checked}")
    with reader.residency.storing(prefix, cache, form.quantization):
        kept = view.keep_cache(
            record, name=asked.name, said={member.id: member.text for member in members}
        )
    reader.residency.put(prefix, cache)
    return kept


def _check_unchanged(before: Fingerprint, now: Fingerprint) -> None:
    if before.key != now.key:
        raise CacheMismatch(
            "nothing was stored, as the model was changed while memories were encoded: "
            + "; ".join(now.differences(before.as_json()))
        )
