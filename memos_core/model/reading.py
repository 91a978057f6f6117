"""Which memories a prompt shows, and as much of their KV cache as there is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from memos_core.cached import Remembered
from memos_core.cube import Kind, MemCube
from memos_core.errors import CacheMismatch, CacheNotWritten, ContextTooLong, InvalidInput
from memos_core.hit import Hit
from memos_core.model.architecture import context_window, stable_length, text_config
from memos_core.model.blending import blend
from memos_core.model.choosing import Conversation, Opening, largest_fitting, largest_of, recalled
from memos_core.model.fingerprint import Fingerprint, Fingerprinted
from memos_core.model.form import Form
from memos_core.model.generation import Read
from memos_core.model.kv_cache import KVCache, prefill
from memos_core.model.layout import Layout, Prompt
from memos_core.model.meant import Meant, Memories, form_of, members_of
from memos_core.model.memory import Memory, tenant_of
from memos_core.model.prefix import Prefix, key_after
from memos_core.model.quantization import Quantization, pack, unpack
from memos_core.model.residency import Found, Residency
from memos_core.model.turns import Message, Tool, checked_messages

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_log = logging.getLogger("memos_core")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prompt, and the cache of its beginning.

    Of the tokens in the cache, ``computed`` had to be prefilled for it now; ``approximate`` is
    whether the cache was composed approximately.
    """

    prompt: Prompt
    prefix: Prefix
    found: Found
    members: tuple[MemCube, ...]
    recalled: tuple[Hit, ...]
    computed: int = 0
    approximate: bool = False

    @property
    def tokens_in_cache(self) -> int:
        """How many of the prompt's tokens need not be fed to the model again."""
        return self.found.cache.tokens if self.found.cache else 0

    def reads(self, layout: Layout) -> tuple[Read, ...]:
        """Return what was read, in which kind: a run that the cache holds was not read as text."""
        held = self.found.runs - len(self.prefix.keys) + len(self.prompt.memories)
        stable = [
            Read(
                cube=cube.id,
                version=cube.version,
                kind=Kind.ACTIVATION if place < held else Kind.PLAINTEXT,
                tokens=len(run),
                approximate=self.approximate and place < held,
            )
            for place, (cube, run) in enumerate(
                zip(self.members, self.prompt.memories, strict=True)
            )
        ]
        recalled = [
            Read(
                cube=hit.cube.id,
                version=hit.cube.version,
                kind=Kind.PLAINTEXT,
                tokens=len(layout.memory(hit.text)),
            )
            for hit in self.recalled
        ]
        return (*stable, *recalled)


@dataclass(frozen=True, kw_only=True)
class PromptReader:
    """Makes prompts of messages and memories, and finds what is cached of them."""

    model: PreTrainedModel
    layout: Layout
    fingerprinted: Fingerprinted
    residency: Residency
    memos: Memory | None
    kinds: frozenset[Kind]
    hear: Callable[[Memory], None]  # of memories that end, where their caches are held

    def tasks(
        self,
        conversations: Iterable[Sequence[Message]],
        memory: Memories | None,
        *,
        recall: int,
        new: int,
        tools: Sequence[Tool] | None = None,
    ) -> list[Task]:
        """Return the prompts of conversations, to each of which ``new`` tokens will be added."""
        if not isinstance(cast("object", conversations), Iterable):
            raise InvalidInput(f"conversations are lists of messages, not {conversations!r}")
        said = [
            Conversation(turns=checked_messages(one), tools=tools, recall=recall, new=new)
            for one in conversations
        ]
        meant = None if memory is None else self.meant(memory)
        return [self._task(one, meant) for one in said]

    def meant(self, memory: Memories) -> Meant:
        """Return which memories are meant."""
        return Meant(memory, self.memos)

    def whole(self, memory: Memories, opening: Opening) -> Prefix | None:
        """Return the beginning of a prompt that memories stand for.

        None where there are none, or the caller may not use a cache of all of it.
        """
        meant, key = self.meant(memory), self.fingerprinted.now().key
        if meant.ids is None:
            remembered = largest_of(meant, self.layout, key, opening)
        else:
            remembered = meant.remembered(meant.ids)
        if not remembered:
            return None
        self.hear(meant.view)
        prefix = self.prefix(meant.view, members_of(remembered), opening, form_of(remembered), key)
        return prefix if meant.usable(prefix, remembered, key) == prefix else None

    def _task(self, said: Conversation, meant: Meant | None) -> Task:
        fingerprint = self.fingerprinted.now()
        remembered, hits = list[Remembered](), list[Hit]()
        if meant is not None:
            remembered, hits = self._remembered(said, meant, fingerprint.key)
        members, form = members_of(remembered), form_of(remembered)
        prompt = self.layout.prompt(
            said.turns,
            memories=[member.text for member in members],
            recall=[hit.text for hit in hits],
            tools=said.tools,
        )
        self._check_fits(prompt, said.new)
        tenant = tenant_of(meant.view) if meant else ""
        runs = [prompt.head, *prompt.memories]
        prefix = Prefix.of(tenant, form.root(fingerprint.key), runs)
        found, computed = Found(None, 0), 0
        if meant is not None and members and Kind.ACTIVATION in self.kinds:
            self._check_served(remembered, fingerprint, prefix)
            stable = stable_length(text_config(self.model))
            if stable is None or len(prompt.ids) + said.new <= stable:
                usable = meant.usable(prefix, remembered, fingerprint.key)
                found, computed = self._found(usable, remembered, fingerprint.key)
        return Task(
            prompt=prompt,
            prefix=prefix,
            found=found,
            members=tuple(members),
            recalled=tuple(hits),
            computed=computed,
            approximate=form.recompute is not None,
        )

    def _remembered(
        self, said: Conversation, meant: Meant, key: str
    ) -> tuple[list[Remembered], list[Hit]]:
        """Return what is shown to a conversation: memories, and what is recalled for its end."""
        if Kind.ACTIVATION in self.kinds:
            self.hear(meant.view)
        if meant.ids is not None:
            return meant.remembered(meant.ids), []
        if Kind.ACTIVATION not in self.kinds:
            return [], recalled(meant.view, said)
        window = context_window(text_config(self.model))
        return largest_fitting(meant, self.layout, key, said, window)

    def prefix(
        self,
        view: Memory,
        members: Iterable[MemCube],
        opening: Opening,
        form: Form,
        key: str,
    ) -> Prefix:
        """Return the beginning of the prompts that show memories after an opening.

        It is of the model with the fingerprint ``key``.
        """
        head = self.layout.head(opening.system, tools=opening.tools)
        runs = [self.layout.memory(member.text) for member in members]
        return Prefix.of(tenant_of(view), form.root(key), [head, *runs])

    def in_order(
        self, view: Memory, members: Sequence[MemCube], opening: Opening, form: Form, key: str
    ) -> list[MemCube]:
        """Return memories such that as many as can be continue what is cached; then the oldest.

        What is cached is so in a form, by the model with the fingerprint ``key``.
        """
        left = {
            cube.id: (cube, self.layout.memory(cube.text))
            for cube in sorted(members, key=lambda cube: (cube.created_at, cube.id))
        }
        ordered: list[MemCube] = []
        last = self.prefix(view, [], opening, form, key).keys[-1]
        firsts = [key_after(last, run) for _, run in left.values()]
        caches = view.caches(key, holding=firsts)
        known = {held for one in caches if one.cache for held in one.cache.keys}
        while True:
            following = {
                after: cube
                for cube, run in left.values()
                if (after := key_after(last, run)) in known
            }
            if not following:
                return [*ordered, *(cube for cube, _ in left.values())]
            last, cube = next(iter(following.items()))
            ordered.append(cube)
            del left[cube.id]

    def made(self, prefix: Prefix, form: Form, key: str) -> KVCache:
        """Return the cache of a prefix in a form; of what is known nothing is computed again.

        The prefix is of the model with the fingerprint ``key``.
        """
        found = self.residency.longest(prefix)
        if found.cache is not None and found.runs == len(prefix.runs):
            return found.cache
        if form.exact:
            rest = [token for run in prefix.runs[found.runs :] for token in run]
            return prefill(self.model, rest, found.cache)
        exact = Prefix.of(prefix.tenant, key, prefix.runs)
        if form.recompute is None:
            cache = self.made(exact, Form(), key)
        else:
            cache = self._blended(exact, form.recompute, key)
        if (how := form.quantization) is not Quantization.NONE:
            runs = [len(run) for run in prefix.runs]
            cache = unpack(pack(cache, how, runs), how, self.model.dtype, runs)
        if found.cache is None:
            return cache
        # What is stored of its beginning is not stored again, so it is not replaced here either.
        return KVCache.joined([found.cache, cache.part(found.cache.tokens)])

    def _blended(self, exact: Prefix, recompute: float, key: str) -> KVCache:
        """Return the cache of a prefix, composed of those that each memory has after the head."""
        head = exact.runs[0]
        segments = [
            (run, self.made(Prefix.of(exact.tenant, key, [head, run]), Form(), key).part(len(head)))
            for run in exact.runs[1:]
        ]
        start = self.made(exact.first(1), Form(), key)
        return blend(self.model, start, head, segments, recompute=recompute)

    def check_room(self, tokens: int, room: int) -> None:
        """Refuse memories that leave less than ``room`` tokens of the context window.

        Raises:
            ContextTooLong: they do.
        """
        window = context_window(text_config(self.model))
        if window is not None and tokens + room > window:
            raise ContextTooLong(
                f"the memories take {tokens} tokens, and with {room} for messages and answer do "
                f"not fit the model's {window}: encode fewer, or leave less room="
            )

    def _found(
        self, prefix: Prefix, remembered: Sequence[Remembered], key: str
    ) -> tuple[Found, int]:
        """Return what is cached of a prefix, and how many tokens were computed for that now.

        What a KV cache stands for and is not here any more, or was made on another machine, is
        made anew in its form, and kept; nothing is where the model was changed meanwhile.
        """
        found, form = self.residency.longest(prefix), form_of(remembered)
        record = remembered[0].cache
        wanted = len(record.keys) if record else 0
        if found.runs >= wanted:
            return found, 0
        known = found.cache.tokens if found.cache else 0
        missing = prefix.first(wanted)
        cache = self.made(missing, form, key)
        if self.fingerprinted.now().key != key:
            return Found(None, 0), 0
        self.residency.put(missing, cache)
        try:
            self.residency.store(missing, cache, form.quantization)
        except CacheNotWritten as error:
            _log.warning("%s; it stays in memory", error)
        return Found(cache, wanted), cache.tokens - known

    def _check_served(
        self, remembered: Iterable[Remembered], fingerprint: Fingerprint, prefix: Prefix
    ) -> None:
        for one in remembered:
            if one.cache is None:
                continue
            if one.cache.fingerprint.get("key") != fingerprint.key:
                why = "; ".join(fingerprint.differences(one.cache.fingerprint))
                raise CacheMismatch(f"the KV cache {one.cube.id} is not this model's: {why}")
            root = Form.of(one.cache.report).root(fingerprint.key)
            if one.cache.keys[:1] != Prefix.of(prefix.tenant, root, prefix.runs[:1]).keys:
                raise CacheMismatch(
                    f"the KV cache {one.cube.id} was encoded for another system text or other "
                    "tools: encode its memories with system= and tools= as in these messages"
                )

    def _check_fits(self, prompt: Prompt, new: int) -> None:
        window = context_window(text_config(self.model))
        if window is not None and len(prompt.ids) + new > window:
            raise ContextTooLong(
                f"{len(prompt.prefix)} tokens of memory, {len(prompt.rest)} of messages and {new} "
                f"of answer do not fit the model's {window}"
            )
