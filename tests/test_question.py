"""How a question is taken apart."""

from __future__ import annotations

import re

import pytest

from memos_core.question import MAX_PATTERNS, MAX_WORDS, as_statement, names_in, terms_of
from memos_core.words import term


@pytest.mark.parametrize(
    ("question", "statement"),
    [
        ("When did Ann move to her flat?", "I move to her flat"),
        ("What is Ann's job in Oslo?", "my job in Oslo"),
        ("What is Ann\u2019s job in Oslo?", "my job in Oslo"),
        ("How many cats does Bob have?", "cats does I have"),
        ("Has she moved?", "Has she moved?"),
        ("Annabel likes tea", "Annabel likes tea"),
        ("Why?", "Why?"),
        ("Wo wohnt sie jetzt?", "Wo wohnt sie jetzt?"),
    ],
)
def test_what_is_embedded_sounds_like_an_answer(question: str, statement: str) -> None:
    assert as_statement(question, ["Ann", "Bob"]) == statement


def test_names_are_whole_words() -> None:
    people = ["Ann", "J. Doe (Jr.)", "Bob", "李"]
    assert names_in("Did Annabel meet J. Doe (Jr.)?", people) == ["J. Doe (Jr.)"]
    assert names_in("Ann, where is Bob?", people) == ["Ann", "Bob"]


def test_each_word_counts_once() -> None:
    assert terms_of("tea, more TEA and the cakes").numbers == (term("tea"), term("cake"))
    assert len(terms_of("what are they")) == 0


@pytest.mark.parametrize(
    ("question", "matches", "others"),
    [
        ('about "green tea"', ["GREEN  Tea.", "a green tea"], ["evergreen tea", "green teas"]),
        ("about “Größe”", ["die GRÖßE", "größe"], ["grösse"]),
        ('"c++ (2.0)"', ["in C++ (2.0)!"], ["c++ 2.0"]),
        ("pea* soup", ["Peanuts", "a pea"], ["appear"]),
        ('"東京"', ["東京都"], ["京都"]),
    ],
)
def test_phrases_and_prefixes_are_patterns(
    question: str, matches: list[str], others: list[str]
) -> None:
    (pattern,) = terms_of(question).patterns
    ours = re.compile(pattern.replace(r"\m", r"\b(?=\w)").replace(r"\M", r"\b(?<=\w)"))
    assert all(ours.search(text) for text in matches)
    assert not any(ours.search(text) for text in others)


@pytest.mark.parametrize("question", ['""', '" "', '"?!"', "**bold** *x* 2 * 3", "a*", "*"])
def test_what_only_looks_like_one_is_none(question: str) -> None:
    assert terms_of(question).patterns == ()


def test_of_very_many_words_both_ends_count() -> None:
    words = [f"w{number}" for number in range(500)]
    terms = terms_of(" ".join(words) + ' "p"' * 2 + " ".join(f' "q{n}"' for n in range(50)))
    assert len(terms.numbers) == MAX_WORDS
    assert terms.numbers[0] == term("w0")
    assert len(terms.patterns) == MAX_PATTERNS
    assert len(terms.masks()) == 2
