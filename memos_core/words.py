"""The words that lexical search knows a text by: tokens, stems, and one vector of hashed terms."""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import regex

from memos_core.text import searchable

DIMENSIONS = 1_000_000_000  # of the vector: the most that pgvector's sparsevec has
HALF = 500_000_000  # a term's place in it; its repetitions stand this much further on
MAX_TERMS = 8_000  # of one text: a sparsevec holds 16,000 entries
_ONE = struct.pack(">f", 1.0)
K1 = 1.2  # saturation of repetitions (Robertson & Zaragoza 2009, §3.5)

_WORD = regex.compile(r"\w+")  # unlike re's, it keeps vowel signs and other marks in their words
# Untyped; without a cache of its own, since `term` has one.
_STEMMER: Any = import_module("Stemmer").Stemmer("english", 0)
# The same for ASCII, at a fifth of the cost.
_SPACED = {code: " " for code in range(128) if not _WORD.match(chr(code))}

# Snowball's English list, as in PostgreSQL's english.stop.
_STOP_LIST = """
    i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she
    her hers herself it its itself they them their theirs themselves what which who whom this that
    these those am is are was were be been being have has had having do does did doing a an the and
    but if or because as until while of at by for with about against between into through during
    before after above below to from up down in out on off over under again further then once here
    there when where why how all any both each few more most other some such no nor not only own
    same so than too very s t can will just don should now d ll m re ve
"""
_STOP = frozenset(_STOP_LIST.split())


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one text.

    ``vector`` is a ``sparsevec`` in PostgreSQL's binary form: 1 at the place of each term, and at
    ``HALF`` beyond it what repeating it adds to BM25's saturation, ``2.2 n / (n + 1.2) - 1`` for n
    times. ``count`` is the length that BM25 normalises by.
    """

    vector: bytes
    count: int


def words_of(text: str) -> Words:
    """Return the words of a text to be stored."""
    found = list(terms_in(text))
    counted = Counter(found)
    if len(counted) > MAX_TERMS:
        counted = Counter(dict(counted.most_common(MAX_TERMS)))
    places = sorted(counted)
    values = _ONE * len(places)
    if len(places) < len(found):
        again = [place for place in places if counted[place] > 1]
        values += _floats([_saturation(counted[place]) - 1 for place in again])
        places += [place + HALF for place in again]
    return Words(vector=_packed(places, values), count=len(found))


def terms_in(text: str) -> Iterable[int]:
    """Return the terms of a text in its order, each as often as it occurs; no stop words."""
    plain = searchable(text)
    tokens = plain.translate(_SPACED).split() if plain.isascii() else _WORD.findall(plain)
    return filter(None, map(term, tokens))


@lru_cache(maxsize=65_536)
def term(word: str) -> int:
    """Return the number from 1 to ``HALF`` of a word's stem, 0 of a stop word.

    Where a namespace has a million words, one in 500 shares its number with another.
    """
    if word in _STOP:
        return 0
    stem: str = _STEMMER.stemWord(word)
    digest = hashlib.md5(stem.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4]) % HALF + 1


def packed(places: list[int], values: list[float]) -> bytes:
    """Return a ``sparsevec`` in binary form; places count from 1 and ascend."""
    return _packed(places, _floats(values))


def _packed(places: list[int], values: bytes) -> bytes:
    indices = array("i", [place - 1 for place in places])
    if sys.byteorder == "little":
        indices.byteswap()
    return struct.pack(">3i", DIMENSIONS, len(places), 0) + indices.tobytes() + values


def _floats(values: list[float]) -> bytes:
    return struct.pack(f">{len(values)}f", *values)


def _saturation(times: int) -> float:
    return (K1 + 1) * times / (times + K1)
