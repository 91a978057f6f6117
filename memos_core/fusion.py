"""How one text is made of several: by a language model, or by a rule that anyone can follow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, cast

from memos_core.cube import MemCube
from memos_core.errors import InvalidInput, InvalidText


class ChatFn(Protocol):
    """A language model as a function: chat messages in, each with role and content, a text out."""

    def __call__(self, messages: Sequence[Mapping[str, str]], /) -> str:
        """Return what the model answers."""
        ...


def checked_resolve(resolve: object) -> bool | ChatFn:
    """Return how turns change memories: not at all, by rules, or as a language model decides.

    Raises:
        InvalidInput: it is none of these.
    """
    if not isinstance(resolve, bool) and not callable(resolve):
        raise InvalidInput(
            "resolve is True, False or a function (messages -> text), not "
            f"{type(resolve).__name__}: give what asks it, such as lambda messages: …"
        )
    return cast("bool | ChatFn", resolve)


# After a full-width mark no space is needed.
_SENTENCE_END = re.compile(r"(?<=[。！？])\s*|(?<=[.!?…])\s+|\n+")  # noqa: RUF001 they are meant
_TITLE = re.compile(r"(?:^|\s)(?:Dr|Mr|Mrs|Ms|Prof|St|Jr|Sr|No)\.$")  # ends no sentence
# What may differ in one sentence; between digits a mark is part of a number.
_MARKS = re.compile(r"""['"’‘“”«»()\[\]{}!?。！？、，：；]|(?<!\d)[,.:;…]|[,.:;…](?!\d)""")  # noqa: RUF001
_ASK = (
    "Write one memory that says everything the following memories say, each fact once, in as few "
    "sentences as that takes. Where two of them contradict each other, the later one is right; say "
    "since when. Add nothing that they do not say. Answer with the memory alone."
)


def in_order(cubes: Sequence[MemCube]) -> list[MemCube]:
    """Return cubes in the order in which they became true, or were said, or were stored."""
    return sorted(cubes, key=lambda cube: (_moment(cube), cube.id))


def _moment(cube: MemCube) -> datetime:
    return cube.valid_from or cube.provenance.said_at or cube.created_at


def fused_by_rule(texts: Sequence[str]) -> str:
    """Return the sentences of texts in order, one a line, each once.

    Two sentences are the same where they differ in case, spaces and punctuation only; the one that
    was said last stays, at the place of the first.
    """
    sentences: dict[str, str] = {}
    for text in texts:
        for sentence in _sentences(text):
            key = " ".join(_MARKS.sub(" ", sentence.casefold()).split()) or sentence
            sentences[key] = sentence
    return "\n".join(sentences.values())


def _sentences(text: str) -> Iterator[str]:
    begun = ""
    for part in filter(None, map(str.strip, _SENTENCE_END.split(text))):
        begun = f"{begun} {part}".strip()
        if not _TITLE.search(begun):
            yield begun
            begun = ""
    if begun:
        yield begun


def fused_by_model(cubes: Sequence[MemCube], chat: ChatFn) -> str:
    """Return what a language model makes of cubes, given in order.

    Raises:
        InvalidText: it returned no text.
    """
    listed = "\n".join(
        f"{number}. [{_moment(cube):%Y-%m-%d}] {cube.text}" for number, cube in enumerate(cubes, 1)
    )
    answer: Any = chat([{"role": "system", "content": _ASK}, {"role": "user", "content": listed}])
    if not isinstance(answer, str):
        raise InvalidText(f"the model's answer is {type(answer).__name__} and no text")
    return answer.strip()


def common_metadata(cubes: Sequence[MemCube]) -> dict[str, object]:
    """Return the metadata of cubes given in order; of two values of a key the later one."""
    return {key: value for cube in cubes for key, value in cube.metadata.items()}
