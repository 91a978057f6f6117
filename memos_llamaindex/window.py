"""Which messages of a history fit a budget of tokens."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import llama_index.core
from llama_index.core import utils
from llama_index.core.base.llms.types import (
    BaseRecursiveContentBlock,
    ChatMessage,
    TextBlock,
)

from memos_core import Message
from memos_llamaindex.transcript import chat_message

Tokenizer = Callable[[str], Sequence[Any]]
MEDIA_TOKENS = 256  # of a picture, a sound, a film, a document: LlamaIndex's own estimate
_MEDIA = ("image", "audio", "video", "document")
_SYSTEM = ("system", "developer")
_RESULTS = ("tool", "function")


def default_tokenizer() -> Tokenizer:
    """Return LlamaIndex's global tokenizer, or one token for each four characters without it.

    LlamaIndex brings the vocabulary with it, but tiktoken looks for it on the network where
    ``TIKTOKEN_CACHE_DIR`` names a folder without it.
    """
    known = cast("Tokenizer | None", vars(llama_index.core)["global_tokenizer"])  # a bare List
    return known or loaded_tokenizer() or quarters


def quarters(text: str) -> list[str]:
    """Cut a text into pieces of four characters, about a token each in English."""
    return [text[start : start + 4] for start in range(0, len(text), 4)]


def tokens_of(message: ChatMessage, tokenizer: Tokenizer) -> int:
    """Estimate the tokens of a message, with its tool calls and all that a model may be sent."""
    tokens = sum(_tokens_of_block(block, tokenizer) for block in message.blocks)
    if message.additional_kwargs:
        tokens += len(tokenizer(json.dumps(message.additional_kwargs, default=str)))
    return tokens


def _tokens_of_block(block: Any, tokenizer: Tokenizer) -> int:
    if isinstance(block, TextBlock):
        return len(tokenizer(block.text)) if block.text else 0
    if block.block_type in _MEDIA:
        return MEDIA_TOKENS
    if not isinstance(block, BaseRecursiveContentBlock):
        return len(tokenizer(block.model_dump_json()))
    # What is quoted or can be cited is text or media itself: its bytes are no tokens.
    inside = sum(_tokens_of_block(one, tokenizer) for one in block.nested_blocks)
    about = block.model_dump_json(exclude={block.nested_blocks_field_name()})
    return inside + len(tokenizer(about))


class Window:
    """A session's history, of which a prompt shows what fits its budget of tokens.

    Where a question is ``asked`` that is not stored yet, answers do not stand alone before it.
    """

    def __init__(
        self, history: Sequence[Message], tokenizer: Tokenizer, budget: int, *, asked: bool = False
    ) -> None:
        self.history = history
        self.budget = budget
        self._asked = asked
        self._tokenizer = tokenizer
        self._roles = [one.role for one in history]
        self._messages: dict[int, ChatMessage] = {}
        self._costs: dict[int, int] = {}

    @property
    def question(self) -> Message | None:
        """The newest user message."""
        return next((one for one in reversed(self.history) if one.role == "user"), None)

    def shown(self, *, besides: int = 0) -> list[int]:
        """Return the positions of what fits beside so many tokens of other things."""
        if self._asked and self.question is None:
            return list(range(head_of(self._roles)))
        return fitting(self._roles, self._cost, self.budget - besides)

    def ids(self, positions: Sequence[int]) -> list[str]:
        """Return the ids of messages."""
        return [self.history[at].id for at in positions]

    def messages(self, positions: Sequence[int]) -> list[ChatMessage]:
        """Return messages as LlamaIndex's, which are this window's."""
        return [self._message(at) for at in positions]

    def tokens(self, positions: Sequence[int]) -> int:
        """Return the tokens of messages."""
        return sum(map(self._cost, positions))

    def count(self, text: str) -> int:
        """Return the tokens of a text."""
        return len(self._tokenizer(text)) if text else 0

    def _message(self, at: int) -> ChatMessage:
        if at not in self._messages:
            self._messages[at] = chat_message(self.history[at])
        return self._messages[at]

    def _cost(self, at: int) -> int:
        if at not in self._costs:
            self._costs[at] = tokens_of(self._message(at), self._tokenizer)
        return self._costs[at]


def fitting(roles: Sequence[str], cost: Callable[[int], int], budget: int) -> list[int]:
    """Return the positions of the messages to show, in order.

    The system messages that open a history stay, and so does the newest user message, whatever
    they cost. The rest goes turn by turn, the oldest first; a turn is a user message and all up to
    the next. Of a newest turn that is itself too long, the oldest answers go, each with the
    results of its tool calls. Answers before the first user message, which some models refuse, are
    shown only where there is none.
    """
    first = head_of(roles)
    head = list(range(first))
    left = budget - sum(map(cost, head))
    kept: list[int] = []
    turns = _turns(roles, first)
    if len(turns) > 1 and roles[turns[0][0]] != "user":
        turns = turns[1:]
    for turn in reversed(turns):
        left -= sum(map(cost, turn))
        if left < 0:
            break
        kept = [*turn, *kept]
    if turns and not kept:
        kept = _end_of(turns[-1], roles, cost, left + sum(map(cost, turns[-1])))
    return [*head, *kept]


def head_of(roles: Sequence[str]) -> int:
    """Return how many system messages open a history."""
    return next((at for at, role in enumerate(roles) if role not in _SYSTEM), len(roles))


def _end_of(
    turn: Sequence[int], roles: Sequence[str], cost: Callable[[int], int], left: int
) -> list[int]:
    question = [at for at in turn[:1] if roles[at] == "user"]
    left -= sum(map(cost, question))
    kept: list[int] = []
    for answer in reversed(_split(turn[len(question) :], lambda at: roles[at] not in _RESULTS)):
        left -= sum(map(cost, answer))
        if left < 0 and (question or kept):
            break
        kept = [*answer, *kept]
    return [*question, *kept]


def _turns(roles: Sequence[str], first: int) -> list[list[int]]:
    return _split(range(first, len(roles)), lambda at: roles[at] == "user")


def _split(positions: Sequence[int], opens: Callable[[int], bool]) -> list[list[int]]:
    """Cut before each position that opens a new part."""
    numbers = itertools.accumulate(int(opens(at)) for at in positions)
    pairs = itertools.groupby(zip(numbers, positions, strict=True), key=lambda pair: pair[0])
    return [[at for _, at in part] for _, part in pairs]


@functools.cache
def loaded_tokenizer() -> Tokenizer | None:
    """Return LlamaIndex's default tokenizer where it can be loaded."""
    try:
        load: Any = vars(utils)["get_tokenizer"]  # a bare List again
        return cast("Tokenizer", load())
    except (ImportError, OSError):  # no tiktoken; no network, which is an OSError there
        return None
