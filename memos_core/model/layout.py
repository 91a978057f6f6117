"""How a prompt is laid out, in token ids: stable memory first, what was recalled for a turn last.

The memory's place is found in what the chat template writes: everything before it is the same in
every request, so keys and values that were computed once can be used for each.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from memos_core.errors import InvalidInput
from memos_core.model.template import Template
from memos_core.model.turns import (
    Message,
    Tool,
    checked_line,
    checked_messages,
    lines_of,
    schemas_of,
    system_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1  # of the layout: raise it where the same input would give other ids
HEADING = "# Memory: what was said or learned before"
RECALL_HEADING = "# Recalled for this message"
CLOSING = "# End of memory"  # a line of its own: templates trim what a message ends with
SYSTEMS = 256  # system texts whose place in the template is remembered
# Llama 3.1's own date where it is told none. A constant, so that prompts begin alike every day.
DAY = date(2024, 7, 26)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt in token ids; ``head`` and ``memories`` do not depend on what is asked.

    ``head`` is the template's start, the system text and the memory's heading. ``memories`` has a
    run for each memory, in order. ``rest`` closes the memory, and has the turns, what was recalled
    for the last, and the start of the answer.
    """

    head: tuple[int, ...]
    memories: tuple[tuple[int, ...], ...]
    rest: tuple[int, ...]

    @property
    def prefix(self) -> tuple[int, ...]:
        """Head and memories: what a KV cache can hold."""
        return (*self.head, *(token for run in self.memories for token in run))

    @property
    def ids(self) -> tuple[int, ...]:
        """All of it."""
        return (*self.prefix, *self.rest)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the memory stands: what is written before it, and what the system text has to be."""

    before: str
    head: tuple[int, ...]
    system: str | None


class Layout:
    """Lays out memories and messages as a model's chat template would have them.

    The memory stands in the system message, after its text. Where a template has no system role,
    or moves the system text from turn to turn (Gemma, Mistral), both stand at the beginning of the
    first user turn. A system text that the template itself supplies is kept. What is recalled for
    one question stands in the last user turn, before its text.

    ``heading`` stands above the memories, ``recall_heading`` above what is recalled. ``template``
    replaces the tokenizer's chat template; without either, turns are lines, "User: …".
    ``template_options`` are what the template asks for, such as ``enable_thinking`` or
    ``date_string``. A template that asks for today's date is told ``day``, since with another date
    each day all that follows it would have to be read anew: say in the turn which day it is.

    No text of a memory or message becomes a control token: "<|im_end|>" in it stays text.
    A Layout is safe for threads.

    Raises:
        InvalidInput: the tokenizer has several chat templates and none is the default; a heading
            is blank.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        heading: str = HEADING,
        recall_heading: str = RECALL_HEADING,
        template: str | None = None,
        template_options: Mapping[str, object] | None = None,
        day: date = DAY,
    ) -> None:
        self._heading = checked_line(heading, "heading").rstrip()
        self._recall_heading = checked_line(recall_heading, "recall_heading").rstrip()
        self._template = Template(tokenizer, template, options=template_options or {}, day=day)
        self._here = f"MEM{secrets.token_hex(8)}"  # nobody who writes a memory knows it
        self._places = lru_cache(SYSTEMS)(self._found)
        self._starts = lru_cache(SYSTEMS)(self._start)
        self._folds = lru_cache(SYSTEMS)(self._folding)
        self.fingerprint: str = self._digest()
        """A digest of what shapes the ids: tokenizer, template, headings, options, day."""

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        memories: Sequence[str] = (),
        recall: Sequence[str] = (),
        tools: Sequence[Tool] | None = None,
        continue_final: bool = False,
    ) -> Prompt:
        """Return the prompt of messages with memories, and what was recalled for the last turn.

        ``continue_final`` lets the model continue the last message, which is the assistant's.

        Raises:
            InvalidInput: messages or texts that cannot be used, or that the template refuses.
        """
        turns = checked_messages(messages, continue_final=continue_final)
        lines = lines_of(memories, "memory")
        schemas = schemas_of(tools)
        shown = self._arranged(turns, self._here if lines else "", recall, schemas)
        text = self._template.rendered(shown, schemas, continue_final=continue_final)
        if not lines:
            ids = self._template.ids(text)
            start = self._starts(system_of(turns), schemas)
            kept = _common(start, ids)
            return Prompt(head=ids[:kept], memories=(), rest=ids[kept:])
        place = self._places(system_of(turns), schemas)
        before, found, after = text.partition(self._here)
        if not found or before != place.before:
            raise InvalidInput(
                "the chat template puts something before the memory that depends on the turns: let "
                "the conversation begin with a system or user message, or pass Layout a template="
            )
        return Prompt(
            head=place.head,
            memories=tuple(map(self._template.run, lines)),
            rest=self._template.ids(after, inside=True),
        )

    def head(
        self, system: str | None = None, *, tools: Sequence[Tool] | None = None
    ) -> tuple[int, ...]:
        """Return the head of every prompt that has memories and this system text.

        Raises:
            InvalidInput: the chat template has no place for memory that is the same in each turn.
        """
        return self._places(system, schemas_of(tools)).head

    def memory(self, text: str) -> tuple[int, ...]:
        """Return the run of one memory: a line, whatever stands before and after it."""
        return self._template.run(*lines_of([text], "memory"))

    def turn(self, text: str, recall: Sequence[str]) -> str:
        """Return the text of a user turn with what was recalled for it, as ``prompt`` shows it.

        Keep it as the turn's content, and the next prompt continues this one token by token; else
        the next prompt differs from where the recalled memories stood.
        """
        lines = "".join(lines_of(recall, "recalled memory"))
        return f"{self._recall_heading}\n{lines}\n{text}" if lines else text

    def messages(
        self,
        messages: Sequence[Message],
        *,
        memories: Sequence[str] = (),
        recall: Sequence[str] = (),
        tools: Sequence[Tool] | None = None,
    ) -> list[dict[str, Any]]:
        """Return plain chat messages that say what ``prompt`` says, for a server with this model.

        Their stable part comes first, so that a server's prefix cache finds it again.
        """
        turns = checked_messages(messages)
        lines = "".join(lines_of(memories, "memory"))
        return self._arranged(turns, lines, recall, schemas_of(tools))

    # ---------------------------------------------------------------- what is said where

    def _arranged(
        self, turns: Sequence[Message], lines: str, recall: Sequence[str], tools: str | None
    ) -> list[dict[str, Any]]:
        """Return messages with the memory and what was recalled in their places."""
        shown = [dict(turn) for turn in turns]
        users = [place for place, turn in enumerate(shown) if turn["role"] == "user"]
        if recall:
            if not users:
                raise InvalidInput("memories are recalled for a user's message: there is none")
            last = shown[users[-1]]
            last["content"] = self.turn(last["content"], recall)
        system = system_of(turns)
        folded = self._folds(tools)
        if not lines and not (folded and system is not None):
            return shown
        if lines and not folded:
            system = self._places(system, tools).system
        said = _paragraphs(system, self._block(lines) if lines else None)
        rest = shown[1:] if system_of(turns) is not None else shown
        if not folded:
            return [{"role": "system", "content": said}, *rest]
        first = next((turn for turn in rest if turn["role"] == "user"), None)
        if first is None:
            raise InvalidInput(
                "the chat template has no system role, so memory and system text stand in the "
                "first user message: there is none"
            )
        first["content"] = _paragraphs(said, first["content"])
        return rest

    def _block(self, lines: str) -> str:
        return f"{self._heading}\n{lines}{CLOSING}"

    # ---------------------------------------------------------------- where the memory stands

    def _folding(self, tools: str | None) -> bool:
        """Say whether the template has no system message that stays where it is."""
        here = self._here
        try:
            texts = [
                self._template.rendered([{"role": "system", "content": here}, *turns], tools)
                for turns in _PROBES
            ]
        except InvalidInput:
            return True
        return any(text.count(here) != 1 for text in texts) or _differ(
            text.partition(here)[0] for text in texts
        )

    def _found(self, system: str | None, tools: str | None) -> _Place:
        """Return the place of the memory after a system text.

        Two questions and two histories must leave what is before it as it is.
        """
        folded = self._folds(tools)
        said = self._default(tools) if system is None and not folded else system
        block = _paragraphs(said, self._block(self._here))
        texts = [
            self._template.rendered(
                [{**turns[0], "content": _paragraphs(block, turns[0]["content"])}, *turns[1:]]
                if folded
                else [{"role": "system", "content": block}, *turns],
                tools,
            )
            for turns in _PROBES
        ]
        before = {text.partition(self._here)[0] for text in texts}
        if len(before) != 1 or any(text.count(self._here) != 1 for text in texts):
            raise InvalidInput(
                "the chat template has no place for memory that is the same whatever is asked: "
                "neither its system message nor the first user message is, or it leaves them out; "
                "pass Layout another template="
            )
        (start,) = before
        return _Place(before=start, head=self._template.ids(start), system=said)

    def _default(self, tools: str | None) -> str | None:
        """Return the system text that the template supplies where there is none."""
        turn = _PROBES[0]
        given = self._template.rendered([{"role": "system", "content": self._here}, *turn], tools)
        none = self._template.rendered(turn, tools)
        start, _, end = given.partition(self._here)
        inside = none[len(start) : len(none) - len(end)]
        supplied = len(none) > len(start) + len(end) and none == f"{start}{inside}{end}"
        return inside if supplied else None

    def _start(self, system: str | None, tools: str | None) -> tuple[int, ...]:
        """Return what all prompts without memory begin with."""
        before = [] if system is None else [{"role": "system", "content": system}]
        ids = [
            self._template.ids(
                self._template.rendered(self._arranged([*before, *turns], "", (), tools), tools)
            )
            for turns in _PROBES
        ]
        return ids[0][: min(_common(ids[0], others) for others in ids)]

    def _digest(self) -> str:
        headings = [self._heading, CLOSING, self._recall_heading]
        shaping = [FORMAT, *self._template.shape, headings, *self._template.settings]
        return hashlib.sha256(json.dumps(shaping, sort_keys=True, default=str).encode()).hexdigest()


def _turns(*texts: str) -> list[dict[str, str]]:
    return [
        {"role": "assistant" if place % 2 else "user", "content": text}
        for place, text in enumerate(texts)
    ]


# Questions and histories that have nothing in common.
_PROBES = (
    _turns("What?"),
    _turns("7 ways"),
    _turns("\n\n- é", "Yes.", "(why)"),
    _turns("And who", "I", "So?", "No", "東京"),
)


def _paragraphs(*texts: str | None) -> str:
    return "\n\n".join(text for text in texts if text)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _differ(texts: Iterable[str]) -> bool:
    return len(set(texts)) > 1
