"""Which texts can be stored, and the words that lexical search sees in them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import cast

from memos_core.errors import InvalidText

MAX_NESTED = 64  # of JSON values: an archive's records, of which they are parts, nest at most 100
QUESTION_CHARACTERS = 4_000  # an embedder sees the first few hundred words at best

# Scripts written without spaces between words. PostgreSQL's parser makes one token of a whole run
# of them, so each run becomes its overlapping pairs of characters, as in Lucene's CJKAnalyzer.
_UNSPACED = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Myanmar
    "\u1100-\u11ff\uac00-\ud7af"  # Hangul: spaced, but particles stick to their words
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "]+"
)


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def unstorable(text: str) -> str | None:
    """Say why PostgreSQL could not store ``text``, or None where it could."""
    if "\x00" in text:
        return "holds a NUL byte, which no PostgreSQL text can: remove it"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds a lone surrogate at character {error.start}: decode the text properly"
    return None


def storable(value: object, *, deep: int = MAX_NESTED) -> object:
    """Return a value as JSON can hold it and PostgreSQL can store it, whatever it was.

    In texts, NUL bytes and lone surrogates become U+FFFD; what is no JSON, or nests more than
    ``deep``, becomes its ``str``.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping) and deep:
        pairs = cast("Mapping[object, object]", value).items()
        return {str(storable(str(key))): storable(inner, deep=deep - 1) for key, inner in pairs}
    if isinstance(value, list | tuple) and deep:
        return [storable(inner, deep=deep - 1) for inner in cast("Sequence[object]", value)]
    return storable(str(cast("object", value)))


def excerpt(question: str) -> str:
    """Return what is asked of a question: of a very long one the beginning and the end."""
    text = question.strip()
    if len(text) <= QUESTION_CHARACTERS:
        return text
    half = QUESTION_CHARACTERS // 2
    return f"{text[:half]} {text[-half:]}"


def shortened(text: str, limit: int) -> str:
    """Return a text of at most ``limit`` characters, with a note where it was cut."""
    if len(text) <= limit:
        return text
    note = f" … [{len(text):,} characters, cut]"
    return text[: max(0, limit - len(note))] + note


def checked_text(text: object, *, limit: int, what: str = "text") -> str:
    """Return ``text`` as it was given, once it is sure that it can be stored.

    Raises:
        InvalidText: not a string, blank, over ``limit`` characters, or with characters that
            PostgreSQL refuses.
    """
    if not isinstance(text, str):
        raise InvalidText(f"{what} is of type {type(text).__name__}, not a string")
    if not text.strip():
        raise InvalidText(f"{what} is empty: there is nothing to remember or to look for")
    if len(text) > limit:
        raise InvalidText(
            f"{what} has {len(text):,} characters, over the limit of {limit:,}; split it"
        )
    if problem := unstorable(text):
        raise InvalidText(f"{what} {problem}")
    return text


def searchable(text: str) -> str:
    """Return ``text`` as lexical search should see it, for documents and questions alike.

    Compatibility forms are unified (full-width letters, ligatures), letters are lower case, and
    runs of scripts without spaces become overlapping pairs of characters: "東京都" is seen as
    "東京 京都".
    """
    if text.isascii():  # the common case, in a tenth of the time
        return text.lower()
    plain = unicodedata.normalize("NFKC", text).lower()
    return _UNSPACED.sub(lambda run: f" {' '.join(_pairs(run.group()))} ", plain)


def _pairs(run: str) -> list[str]:
    if len(run) == 1:
        return [run]
    return [run[start : start + 2] for start in range(len(run) - 1)]
