"""A language model that reads memories, as text and as KV caches."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast
from uuid import UUID
from weakref import WeakSet

from platformdirs import user_cache_path

from memos_core.cube import Kind, MemCube
from memos_core.errors import Closed, InvalidInput, ModelUnsupported
from memos_core.model.answering import Answerer, Asked
from memos_core.model.architecture import check_keeps_keys
from memos_core.model.arguments import (
    check_at_rest,
    check_tools,
    checked_continuations,
    checked_form,
    checked_kinds,
    checked_room,
    one_of,
    opening_of,
)
from memos_core.model.choosing import Opening
from memos_core.model.decoding import Decoding, decoding_of
from memos_core.model.encoding import Encoding, encoded
from memos_core.model.fingerprint import Fingerprint, Fingerprinted
from memos_core.model.generation import Generation, Stream, TextPieces
from memos_core.model.layout import Layout
from memos_core.model.loading import loaded
from memos_core.model.meant import Memories, checked_view
from memos_core.model.memory import Memory
from memos_core.model.prefix import Prefix
from memos_core.model.quantization import Quantization
from memos_core.model.reading import PromptReader
from memos_core.model.residency import Budgets, Found, Residency, ResidencyStats
from memos_core.model.streaming import Streamer
from memos_core.model.turns import Message, Tool
from memos_core.model.watch import Watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROOM = 512  # tokens that a cached memory leaves: 256 for an answer, and as many for messages
RECALL = 5  # memories of a view that are shown as text, beside those that are cached


class MemoryModel:
    """A causal language model of Hugging Face's that reads the memories of a view.

    Memories that are often read are encoded once (``encode``) and then cost no prefill: their keys
    and values come from memory or disk. An answer is the same either way, to within the rounding
    that the model shows between prefilling a text at once and in two steps.

    ``memos`` is the view whose memories are encoded and read by id. ``folder`` holds the KV caches
    of this machine, which processes may share; it can be deleted at any time. ``budgets`` bound
    them. ``kinds`` are those in which memories may be read: without ``activation``, architectures
    whose state is no KV cache (Mamba, linear attention) are used with text alone.

    A MemoryModel is safe for threads. Close it, or use it as a context manager.

    Raises:
        ModelUnsupported: the architecture keeps no keys and values for each token.
        InvalidInput: the model is in training mode, or ``memos`` is no view.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        memos: Memory | None = None,
        *,
        layout: Layout | None = None,
        folder: str | Path | None = None,
        budgets: Budgets | None = None,
        kinds: Iterable[Kind | str] = (Kind.PLAINTEXT, Kind.ACTIVATION),
    ) -> None:
        self._kinds = checked_kinds(kinds)
        if Kind.ACTIVATION in self._kinds:
            check_keeps_keys(model)
        check_at_rest(model)
        self.model, self.tokenizer, self.memos = model, tokenizer, checked_view(memos)
        if not isinstance(cast("object", layout), Layout | None):
            raise InvalidInput(f"layout= is a Layout(tokenizer, …), not {layout!r}")
        self.layout = layout or Layout(tokenizer)
        self._fingerprinted = Fingerprinted(model, self.layout.fingerprint)
        self._residency = Residency(
            Path(folder) if folder else user_cache_path("memos") / "kv",
            model,
            budgets or Budgets(),
        )
        self._watch = Watch(self._residency)
        self._closed = False
        self._streams = WeakSet[Stream]()
        self._pinned: dict[tuple[object, ...], set[Prefix]] = {}  # by what was named
        self._lock = threading.Lock()
        self._reader = PromptReader(
            model=model,
            layout=self.layout,
            fingerprinted=self._fingerprinted,
            residency=self._residency,
            memos=memos,
            kinds=self._kinds,
            hear=self._watch.hear,
        )
        self._answerer = Answerer(model=model, layout=self.layout)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        memos: Memory | None = None,
        *,
        device: str | None = None,
        **options: Any,
    ) -> Self:
        """Load a model and its tokenizer by name or from a folder; in the dtype it is stored in.

        ``options`` named like this class's own go to it, and all others to transformers'
        ``AutoModelForCausalLM.from_pretrained``; those that say where its files are, such as
        ``revision``, are the tokenizer's too.
        """
        ours = {
            key: options.pop(key)
            for key in ("layout", "folder", "budgets", "kinds")
            if key in options
        }
        return cls(*loaded(name, device, options), memos, **ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop its streams, and let go of all caches in memory; those on disk stay."""
        with self._lock:
            self._closed = True
            streams = list(self._streams)
        for stream in streams:
            stream.close()
        self._watch.close()
        self._residency.close()

    @property
    def fingerprint(self) -> Fingerprint:
        """What its KV caches depend on beside their tokens, as the model is now."""
        return self._fingerprinted.now()

    def encode(
        self,
        cubes: MemCube | UUID | str | Iterable[MemCube | UUID | str],
        *,
        kind: Kind | str = Kind.ACTIVATION,
        name: str | None = None,
        system: str | None = None,
        tools: Sequence[Tool] | None = None,
        order: Literal["reuse", "given"] = "reuse",
        quantization: Quantization | str = Quantization.NONE,
        approximate: float | None = None,
        max_kl: float | None = None,
        room: int = ROOM,
        continuations: Sequence[str] | None = None,
    ) -> MemCube:
        """Compute the KV cache of memories, check it, store it, and return the cube that is it.

        The cube is made of the memories: it ends when one of them changes, and is forgotten with
        it. Where the same was encoded before, that cube is returned, with the name it has. Of what
        another cache of this model begins with, nothing is computed or stored again;
        ``order="reuse"`` puts memories first that continue one, and then the oldest.

        ``system`` and ``tools`` are those of the conversations that it will serve. ``room`` is how
        many tokens of the context window are to be left free. ``continuations`` are texts with
        which it is checked; by default they are made of the memories.

        Two forms are not exact, and ``max_kl`` must say how far from a full prefill they may be
        (mean KL divergence of the next token, in nats): ``quantization`` stores 8 or 4 bits a
        number; ``approximate`` composes the cache of those that each memory has by itself, and
        computes that share of their tokens anew.

        Raises:
            InvalidInput: no memories, those of a pipeline, or a form that is not exact without
                ``max_kl``.
            CubeNotFound: a memory is not there, or may not be read.
            VersionConflict: one says something else than when it was read: encode them again.
            CacheMismatch: the model was changed meanwhile, as by an adapter: encode them again.
            ContextTooLong: the memories leave less than ``room`` tokens.
            CacheRefused: it differs from a full prefill by more than the rounding of the dtype, or
                by more than ``max_kl``. The log has the numbers; the memories are read as text.
            CacheNotWritten: the disk is full.
        """
        self._check_open()
        check_at_rest(self.model)
        wanted = one_of(Kind, kind, "kind")
        if wanted is not Kind.ACTIVATION or wanted not in self._kinds:
            raise ModelUnsupported(f"this model does not encode memories as {wanted}")
        if order not in ("reuse", "given"):
            raise InvalidInput(f"order is reuse or given, not {order!r}")
        form = checked_form(quantization, approximate, max_kl)
        texts = checked_continuations(continuations)
        opening = opening_of(system, tools)
        meant = self._reader.meant(cubes)
        return encoded(
            self._reader,
            meant,
            Encoding(
                opening=opening,
                form=form,
                reuse=order == "reuse",
                room=checked_room(room),
                continuations=texts,
                max_kl=max_kl,
                name=name,
            ),
        )

    def generate(
        self,
        messages: Sequence[Message],
        *,
        memory: Memories | None = None,
        recall: int = RECALL,
        tools: Sequence[Tool] | None = None,
        max_new_tokens: int = 256,
        stop: str | Sequence[str] = (),
        **options: Any,
    ) -> Generation:
        """Answer messages, ``{"role": …, "content": …}``, with memories that stand now.

        ``memory`` is cubes or their ids, in the order in which they are shown, or a KV cache that
        ``encode`` made. A view stands for the largest of its KV caches that fits the messages'
        system text, and ``recall`` memories that a search for the last message finds. ``options``
        are those of transformers' ``generate``: greedy by default where the model's own settings
        say nothing else, ``do_sample=True, temperature=0.7``, ``num_beams=4``. ``tools`` are for
        templates that show them.

        Raises:
            CubeNotFound: a memory is not there, or may not be read.
            CacheMismatch: a KV cache is of another model, adapter, tokenizer, template or system
                text.
            ContextTooLong: memory, messages and answer do not fit the context window.
            InvalidInput: messages or options that cannot be used.
        """
        started = time.perf_counter()
        decoding = self._decoding(options, stop, max_new_tokens, tools)
        (task,) = self._reader.tasks(
            [messages], memory, recall=recall, new=max_new_tokens, tools=tools
        )
        return self._answerer.answers([task], Asked(decoding=decoding, started=started))[0]

    def stream(
        self,
        messages: Sequence[Message],
        *,
        memory: Memories | None = None,
        recall: int = RECALL,
        tools: Sequence[Tool] | None = None,
        max_new_tokens: int = 256,
        stop: str | Sequence[str] = (),
        **options: Any,
    ) -> Stream:
        """Answer piece by piece; else as ``generate``, whose errors come before the first piece.

        >>> for piece in model.stream(messages, memory=ann):  # doctest: +SKIP
        ...     print(piece, end="")
        """
        started = time.perf_counter()
        decoding = self._decoding(options, stop, max_new_tokens, tools)
        if decoding.beams > 1:
            raise InvalidInput("with beams the first token is known last: use generate")
        (task,) = self._reader.tasks(
            [messages], memory, recall=recall, new=max_new_tokens, tools=tools
        )

        def work(pieces: TextPieces, stopped: threading.Event) -> Generation:
            pieces.stops = decoding.ending.texts
            asked = Asked(
                decoding=decoding,
                started=started,
                stopped=stopped,
                streamer=Streamer(decoding.ending, pieces),
            )
            return self._answerer.answers([task], asked)[0]

        with self._lock:
            self._check_open()
            stream = Stream(work)
            self._streams.add(stream)
        return stream

    def generate_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        memory: Memories | None = None,
        recall: int = RECALL,
        tools: Sequence[Tool] | None = None,
        max_new_tokens: int = 256,
        stop: str | Sequence[str] = (),
        **options: Any,
    ) -> list[Generation]:
        """Answer several conversations; those whose prompts begin alike in one pass of the model.

        Rows of different length are filled up between the memory and the messages. Where that
        could be seen, as by a sliding window or ``repetition_penalty``, those of one length go in
        one pass.
        """
        started = time.perf_counter()
        decoding = self._decoding(options, stop, max_new_tokens, tools)
        tasks = self._reader.tasks(
            conversations, memory, recall=recall, new=max_new_tokens, tools=tools
        )
        return self._answerer.answers(tasks, Asked(decoding=decoding, started=started))

    def prefetch(
        self, memory: Memories, *, system: str | None = None, tools: Sequence[Tool] | None = None
    ) -> Future[Found] | None:
        """Bring a memory's KV cache near, in the background, before it is asked for.

        None where no memory is meant, as by an empty view, or its cache is not this caller's.
        """
        prefix = self._prefix_of(memory, opening_of(system, tools))
        return self._residency.prefetch(prefix) if prefix else None

    def pin(
        self, memory: Memories, *, system: str | None = None, tools: Sequence[Tool] | None = None
    ) -> None:
        """Keep a memory's KV cache on every level, whatever the budgets of this model.

        On disk another process removes it where its own budget asks for that.

        Raises:
            InvalidInput: it has none.
        """
        opening = opening_of(system, tools)
        prefix = self._prefix_of(memory, opening)
        if prefix is None:
            raise InvalidInput("there is no KV cache of this memory: encode it first")
        self._residency.pin(prefix)
        with self._lock:
            self._pinned.setdefault(self._named(memory, opening), set()).add(prefix)

    def unpin(
        self, memory: Memories, *, system: str | None = None, tools: Sequence[Tool] | None = None
    ) -> None:
        """Let it go when its place is needed, with all that a view stood for when it was pinned."""
        opening = opening_of(system, tools)
        with self._lock:
            pinned = self._pinned.pop(self._named(memory, opening), set[Prefix]())
        for prefix in pinned:
            self._residency.unpin(prefix)
        if prefix := self._prefix_of(memory, opening):
            self._residency.unpin(prefix)

    def stats(self) -> ResidencyStats:
        """Return what lies on each level, and how often a prefix was found there."""
        return self._residency.stats()

    def _named(self, memory: Memories, opening: Opening) -> tuple[object, ...]:
        return *self._reader.meant(memory).name, opening.system, repr(opening.tools)

    def _prefix_of(self, memory: Memories, opening: Opening) -> Prefix | None:
        """Return the prompt beginning that a memory stands for, None where nothing is cached."""
        self._check_open()
        return self._reader.whole(memory, opening)

    def _decoding(
        self,
        options: Mapping[str, Any],
        stop: object,
        max_new_tokens: object,
        tools: Sequence[Tool] | None,
    ) -> Decoding:
        """Return how answers are decoded, where a model can answer and has been asked well."""
        self._check_open()
        check_at_rest(self.model)
        check_tools(tools)
        return decoding_of(
            self.model, self.tokenizer, options, stop=stop, max_new_tokens=max_new_tokens
        )

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("this MemoryModel is closed: make another")
