"""Which messages of a history fit a budget of tokens."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import llama_index.core
from llama_index.core import utils
from llama_index.core.base.llms.types import ChatMessage, TextBlock

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
    texts: list[str] = []
    tokens = 0
    for block in message.blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif block.block_type in _MEDIA:
            tokens += MEDIA_TOKENS
        else:
            texts.append(block.model_dump_json())
    if message.additional_kwargs:
        texts.append(json.dumps(message.additional_kwargs, default=str))
    return tokens + sum(len(tokenizer(text)) for text in texts if text)


def fitting(roles: Sequence[str], cost: Callable[[int], int], budget: int) -> list[int]:
    """Return the positions of the messages to show, in order.

    The system messages that open a history stay, and so does the newest user message, whatever
    they cost. The rest goes turn by turn, the oldest first; a turn is a user message and all up to
    the next. Of a newest turn that is itself too long, the oldest answers go, each with the
    results of its tool calls.
    """
    first = next((at for at, role in enumerate(roles) if role not in _SYSTEM), len(roles))
    head = list(range(first))
    left = budget - sum(map(cost, head))
    kept: list[int] = []
    turns = _turns(roles, first)
    for turn in reversed(turns):
        left -= sum(map(cost, turn))
        if left < 0:
            break
        kept = [*turn, *kept]
    if turns and not kept:
        kept = _end_of(turns[-1], roles, cost, left + sum(map(cost, turns[-1])))
    return [*head, *kept]


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
