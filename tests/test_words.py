"""Which words a text has, and the vector that search compares them by."""

from __future__ import annotations

import struct

import pytest

from memos_core.words import DIMENSIONS, HALF, MAX_TERMS, term, terms_in, words_of


def entries(vector: bytes) -> dict[int, float]:
    dimensions, count, unused = struct.unpack_from(">3i", vector)
    assert (dimensions, unused) == (DIMENSIONS, 0)
    places = struct.unpack_from(f">{count}i", vector, 12)
    assert list(places) == sorted(set(places))
    values = struct.unpack_from(f">{count}f", vector, 12 + 4 * count)
    return {place + 1: value for place, value in zip(places, values, strict=True)}


def test_a_text_is_its_stems_without_stop_words() -> None:
    assert list(terms_in("She was moving the houses")) == [term("move"), term("house")]
    assert words_of("She was moving the houses").count == 2


def test_repetitions_stand_in_the_second_half() -> None:
    found = entries(words_of("red red red fox").vector)
    assert set(found) == {term("red"), term("fox"), term("red") + HALF}
    assert found[term("red")] == 1
    assert found[term("red") + HALF] == pytest.approx(2.2 * 3 / (3 + 1.2) - 1)


def test_a_text_without_words_has_an_empty_vector() -> None:
    assert entries(words_of("the of ?!").vector) == {}
    assert words_of("the of ?!").count == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mail ann.lee@x.org, now!", ["mail", "ann", "lee", "x", "org"]),
        ("under_score co-op", ["under_score", "co", "op"]),
        ("दिल्ली में", ["दिल्ली", "में"]),
        ("東京都", ["東京", "京都"]),
        ("Ｏslo", ["oslo"]),
        ("naïve Café", ["naïve", "café"]),
    ],
)
def test_words_of_any_script(text: str, words: list[str]) -> None:
    assert list(terms_in(text)) == [term(word) for word in words]


def test_ascii_and_other_texts_are_cut_alike() -> None:
    text = "a-b c_d e.f/g (h) i'j \t k\x0b1.2;3"
    assert list(terms_in(text)) == list(terms_in(text + " é"))[:-1]


def test_of_a_text_with_very_many_words_the_most_frequent_count() -> None:
    text = " ".join(f"w{number}" for number in range(20_000)) + " often" * 3
    found = entries(words_of(text).vector)
    assert len(found) == MAX_TERMS + 1
    assert term("often") in found


def test_a_term_is_what_the_migration_computes() -> None:
    """0002_search.sql hashes the lexemes of older databases in SQL."""
    assert term("tea") == 416_398_124
