"""A question as search takes it apart: words, phrases, prefixes, and what to embed."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from memos_core.words import packed, terms_in

MAX_WORDS = 48  # that one question is matched by: two vectors of 24 bits each (see `masks`)
MAX_PATTERNS = 12  # phrases and prefixes; with the words they fit the bits of a bigint
_BITS = 24  # pgvector adds up in float4, exact for whole numbers of so many bits

_PHRASE = re.compile(r'"([^"]+)"|“([^”]+)”|«([^»]+)»')
_PREFIX = re.compile(r"(?<![\w*])(\w{2,})\*(?![\w*])")
_ASKING = re.compile(
    r"(what|when|where|which|who|whom|whose|why|how( (many|much|long|often|old))?)\b\s*"
    r"((did|do|does|is|are|was|were|has|have|had|can|could|would|will|should|might|may)\b\s*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What lexical search looks for, each with a place of its own from 0.

    ``numbers`` are the terms of its words, in places 0 and up. ``patterns`` are regular
    expressions of its phrases and prefixes, in the places after them.
    """

    numbers: tuple[int, ...]
    patterns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.numbers) + len(self.patterns)

    def masks(self) -> list[bytes]:
        """Return vectors whose product with a text's words has a bit for each word in it.

        Each is a ``sparsevec`` in binary form and stands for 24 places.
        """
        return [
            _mask(self.numbers[start : start + _BITS])
            for start in range(0, len(self.numbers), _BITS)
        ]


def terms_of(question: str) -> Terms:
    """Return what lexical search looks for: of very many words, the first and the last."""
    numbers = list(dict.fromkeys(terms_in(question)))
    if len(numbers) > MAX_WORDS:
        numbers = numbers[: MAX_WORDS // 2] + numbers[-MAX_WORDS // 2 :]
    phrases = ("".join(found.groups("")) for found in _PHRASE.finditer(question))
    patterns = [pattern for phrase in phrases if (pattern := _pattern(phrase, whole=True))]
    patterns += [_pattern(found[1], whole=False) for found in _PREFIX.finditer(question)]
    return Terms(numbers=tuple(numbers), patterns=tuple(dict.fromkeys(patterns))[:MAX_PATTERNS])


def names_in(question: str, names: Collection[str]) -> list[str]:
    """Return those of some people's names that a question mentions."""
    return [name for name in names if re.search(_named(name), question)]


def as_statement(question: str, names: Collection[str]) -> str:
    """Return a question in the words in which one of the named people would have said the answer.

    "When did Ann move to her flat?" becomes "I move to her flat": an embedder that knows sentences
    finds those who say it better by it than by the question. English only; other questions, and
    those of which little would be left, stay as they are.
    """
    asking = _ASKING.match(question.strip())
    said = question.strip()[asking.end() :].rstrip("?").rstrip() if asking else question
    for name in names:
        said = re.sub(rf"{_named(name)}['\u2019]s\b", "my", said)
        said = re.sub(_named(name), "I", said)
    return said if len(said.split()) > 1 else question


def _named(name: str) -> str:
    return rf"(?<!\w){re.escape(name)}(?!\w)"


def _mask(numbers: tuple[int, ...]) -> bytes:
    bits = {number: float(1 << place) for place, number in enumerate(numbers)}
    places = sorted(bits)
    return packed(places, [bits[place] for place in places])


def _pattern(text: str, *, whole: bool) -> str:
    """Return a regular expression of PostgreSQL's for words as they are written, in any case."""
    words = text.split()
    if not words or not re.search(r"\w", text):
        return ""
    body = r"\s+".join("".join(map(_letter, word)) for word in words)
    start = r"\m" if _is_word(words[0][0]) else ""
    end = r"\M" if whole and _is_word(words[-1][-1]) else ""
    return f"{start}{body}{end}"


def _letter(letter: str) -> str:
    """Return what matches a character in either case, whatever the database's locale."""
    both = dict.fromkeys((letter, letter.lower(), letter.upper()))
    forms = [re.sub(r"[^\w\s]|_", r"\\\g<0>", form) for form in both if len(form) == 1]
    return f"[{''.join(forms)}]" if len(forms) > 1 else forms[0]


def _is_word(letter: str) -> bool:
    return letter.isascii() and letter.isalnum()
