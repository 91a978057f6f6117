"""How a chat template writes tools and their calls, and how a model is held to call one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import LogitsProcessor

from memos_core.errors import InvalidInput
from memos_core.model.layout import Layout
from memos_core.model.tool_calls import ToolCall, said_in
from memos_core.model.turns import Message, Tool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAME, _KEY = "probed_tool", "probed_argument"
_ID = "abcdef123"  # Mistral's templates want nine letters and digits
_OPENED = re.compile(r"<think>\s*(?P<shut></think>\s*)?\Z")
_EMPTY = re.compile(r"\A<think>\s*</think>\s*")
_OPEN = re.compile(r"[\s<{(\[]")
_BRACE = re.compile(r"\{\s*\"?\Z")
_ASKED: Message = {"role": "user", "content": "What?"}
_TOOL: Message = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Probe.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string"}}},
    },
}
_CALLED: list[Message] = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "type": "function",
                "id": _ID,
                "function": {"name": _NAME, "arguments": {_KEY: "7"}},
            }
        ],
    },
    {"role": "tool", "name": _NAME, "tool_call_id": _ID, "content": "Yes."},
]


class ToolSyntax:
    """What a model's chat template makes of tools; found out by asking it."""

    def __init__(self, layout: Layout, tokenizer: PreTrainedTokenizerBase) -> None:
        self._layout = layout
        self._tokenizer = cast("Any", tokenizer)

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the template shows a model its tools."""
        try:
            return self._layout.prompt([_ASKED], tools=[_TOOL]) != self._layout.prompt([_ASKED])
        except InvalidInput:
            return False

    @cached_property
    def calls_are_read(self) -> bool:
        """Whether calls as the template writes them are known to ``AnswerReader``.

        Of a template that writes none it is not known how its model calls: that may be.
        """
        try:
            start = self.start(_NAME)
        except InvalidInput:
            return True
        written = self._text([_ASKED, *_CALLED], [_TOOL])
        said = start.lstrip() if self.begins_in_thought else start
        place = written.find(said.removeprefix("</think>").lstrip())
        parts = said_in(written[place:], [_TOOL])
        return any(isinstance(part, ToolCall) and part.name == _NAME for part in parts)

    @cached_property
    def begins_in_thought(self) -> bool:
        """Whether the template opens a thought that the model goes on with."""
        return self._text([_ASKED], None).rstrip().endswith("<think>")

    def held_to(self, names: Sequence[str]) -> LogitsProcessor:
        """Return what makes an answer begin with a call of one of the tools with these names.

        The arguments are the model's own. Use it for one answer.

        Raises:
            InvalidInput: the template writes no calls.
        """
        starts = [self.start(name) for name in names]
        encoded = [self._tokenizer.encode(one, add_special_tokens=False) for one in starts]
        return _Beginning(cast("list[list[int]]", encoded))

    def start(self, name: str) -> str:
        """Return what an answer that calls a tool begins with, up to the arguments.

        Raises:
            InvalidInput: the template writes no calls.
        """
        before, after = self._around_name
        return f"{before}{name}{after}"

    @cached_property
    def _around_name(self) -> tuple[str, str]:
        """What is written before and after the name of a tool, of an answer that calls it."""
        asked = self._text([_ASKED], [_TOOL])
        opened = _OPENED.search(asked)
        asked = (asked[: opened.start()] if opened else asked).rstrip()
        written = self._text([_ASKED, *_CALLED], [_TOOL])
        before, named, after = written.removeprefix(asked).partition(_NAME)
        between, argument, _ = after.partition(_KEY)
        if not written.startswith(asked) or not named or not argument:
            raise InvalidInput(
                "the chat template writes no tool calls, so the model cannot be held to one: leave "
                "tool_choice away, or pass Layout a template= that does"
            )
        before = before.lstrip()
        if opened:  # the thought has to end first, and once
            ending = "" if opened["shut"] else "\n</think>\n\n"
            before = ending + _EMPTY.sub("", before)
        # Where the arguments are no JSON object, what closes the name is a part of the beginning.
        found = _BRACE.search(between)
        return before, between[: found.start()].rstrip() if found else _OPEN.split(between)[0]

    def _text(self, messages: Sequence[Message], tools: Sequence[Tool] | None) -> str:
        ids = self._layout.prompt(messages, tools=tools).ids
        return cast("str", self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))


class _Beginning(LogitsProcessor):
    """Lets an answer begin only in one of several ways, in token ids; then all is free."""

    def __init__(self, starts: Sequence[Sequence[int]]) -> None:
        self._starts = starts
        self._asked: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores in which what cannot come next has none."""
        if self._asked is None:  # it is called first when nothing was said
            self._asked = input_ids.shape[1]
        said = cast("list[list[int]]", cast("Any", input_ids)[:, self._asked :].tolist())
        barred = torch.zeros_like(scores, dtype=torch.bool)
        for row, tokens in enumerate(said):
            if allowed := self._following(tokens):
                barred[row] = True
                barred[row, list(allowed)] = False
        return scores.masked_fill(barred, -torch.inf)

    def _following(self, tokens: list[int]) -> set[int]:
        size = len(tokens)
        if any(list(start) == tokens[: len(start)] for start in self._starts):
            return set()
        return {
            start[size]
            for start in self._starts
            if len(start) > size and list(start[:size]) == tokens
        }
