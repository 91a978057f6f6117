"""What an English sentence claims of its speaker, where a rule can tell; it never guesses.

A *claim* is one sentence in the present tense that stands by itself and says how things are: of the
speaker, of those he has one of (a wife, a boss), of what everyone has one of (a name, a favourite
colour). Such a sentence replaces an earlier one. What happened does not: who "ran 5 km" and "ran 8
km" did both. Nor does what depends on the day or on what was said before.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from memos_core import english


class Difference(StrEnum):
    """What two claims say differently of the same thing."""

    NOTHING = "the same claim"
    NEGATION = "one denies the other"
    NUMBER = "another number"
    VALUE = "another value"
    PLACE = "another place"


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A sentence taken apart: "I don't live in Oslo any more" is (i, live, in oslo), negated.

    ``changed`` tells that it says itself that things were otherwise before, ``named`` that it ends
    with a name, a number or an address.
    """

    subject: tuple[str, ...]
    verb: str
    rest: tuple[str, ...]
    negated: bool
    changed: bool
    named: bool

    @property
    def of_an_attribute(self) -> bool:
        """Whether it is about a thing that the speaker has one of, such as his name."""
        return self.subject[0] in {"my", "our"} and self.subject[-1] not in english.KIN


_OPENING = "([{\"'“‘«¿¡"  # noqa: RUF001 typographic quotes too
_CLOSING = ".,;:!?…)]}\"'”’»。，！？；：、"  # noqa: RUF001 the same
_SEVERAL = re.compile(r"[.!?;…。！？]\s|\n|[。！？].|^[\"“‘«]")  # noqa: RUF001 and somebody's words
_ENDINGS = {"n't": "not", "'m": "am", "'re": "are", "'ve": "have", "'ll": "will", "'d": "would"}
_WHOLE = {"cannot": "can not", "can't": "can not", "won't": "will not", "shan't": "shall not"}
_CHANGED = re.compile(
    r"(?<!\S)(?:these days|right now|from now on|at the moment|any more|any longer|anymore|now"
    r"|currently|nowadays|actually|instead)(?!\S)"
)
_NO_LONGER = re.compile(r"(?<!\S)no (?:longer|more)(?!\S)")
_NUMBER = re.compile(r"[+\-$€£]?\d\S*")
_NOT = frozenset({"not", "never"})
_DO = frozenset({"do", "does"})
_PLACES = {("live", "in"), ("work", "at"), ("work", "for"), ("work", "as")}
_LONGEST = 8  # words after the verb: what is longer says more than one thing
_NAME = 3  # words of a place or an employer


def spoken(text: str) -> tuple[str, ...]:
    """Return the words of a text in any language, without case and the punctuation around them.

    What has a digit in it keeps its case: it may be a code.
    """
    words = (word.lstrip(_OPENING).rstrip(_CLOSING) for word in _plain(text).split())
    return tuple(word if any(map(str.isdigit, word)) else word.casefold() for word in words if word)


def depends(words: Sequence[str]) -> bool:
    """Tell whether English words mean another thing at another time or after other words."""
    return not english.CONTEXT.isdisjoint(words)


def by_whomever(words: Sequence[str]) -> bool:
    """Tell whether English words say the same whoever says them."""
    return english.FIRST_PERSON.isdisjoint(_written_out(words))


def claim_in(text: str) -> Claim | None:
    """Return what a text claims, None where it is no claim, or a rule cannot tell."""
    if _SEVERAL.search(text.strip()):
        return None
    words, changed = _without_changed(_written_out(spoken(text)))
    words = [word for word in words if word not in english.ADVERBS]
    while words and words[0] in english.OPENERS:
        words = words[1:]
    subject = _subject(words)
    if not subject:
        return None
    words, rest = words[len(subject) :], list[str]()
    able = words[:1] == ["can"]
    helped = able or (bool(words) and words[0] in _DO)
    words = words[1:] if helped else words
    negated = bool(words) and words[0] in _NOT
    word, *rest = words[1:] if negated else words or [""]
    if rest and not negated and (rest[0] == "no" or (rest[0] in _NOT and word in _BE)):
        negated, rest = True, rest[1:]
    verb = f"can {word}" if able else english.VERBS.get(word, "")
    claim = Claim(
        subject=subject,
        verb=verb,
        rest=tuple(rest),
        negated=negated,
        changed=changed,
        named=_is_named(text),
    )
    clear = verb and len(rest) <= _LONGEST and not depends(rest) and _NOT_AGAIN.isdisjoint(rest)
    return claim if clear and _lasts(claim) else None


def difference(new: Claim, old: Claim) -> Difference | None:
    """Return what two claims say differently of the same thing, None where of different ones."""
    if (new.subject, new.verb) != (old.subject, old.verb):
        return None
    if new.negated != old.negated:
        countless = new.verb == "have"
        same = _bare(new.rest, countless=countless) == _bare(old.rest, countless=countless)
        return Difference.NEGATION if same else None
    if new.rest == old.rest:
        return Difference.NOTHING
    return None if new.negated else _other_value(new, old)


def clash(new: str, old: str) -> Difference | None:
    """Return in what two sentences in the present tense differ, if but in one number or one "not".

    Whatever they are about: they may contradict each other.
    """
    if _SEVERAL.search(new.strip()) or _SEVERAL.search(old.strip()):
        return None
    ours, theirs = (_without_changed(_written_out(spoken(text)))[0] for text in (new, old))
    if depends(ours) or depends(theirs):
        return None
    if (_NOT.isdisjoint(ours)) != (_NOT.isdisjoint(theirs)):
        one, other = _without_not(ours), _without_not(theirs)
        in_present = one == other and not english.VERBS.keys().isdisjoint([*ours, *theirs])
        return Difference.NEGATION if in_present else None
    begun, mine, yours = _apart(ours, theirs)
    measured = not english.MEASURES.isdisjoint(ours[:begun])
    if measured and _are_numbers(mine) and _are_numbers(yours):
        return Difference.NUMBER
    return None


_BE = frozenset({"am", "is", "are"})
_NOT_AGAIN = _NOT | {"no"}


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("’", "'")  # noqa: RUF001 typographic


def _written_out(words: Sequence[str]) -> list[str]:
    """Return words without contractions, and in one spelling."""
    found: list[str] = []
    for word in words:
        if word in _WHOLE:
            found += _WHOLE[word].split()
            continue
        ending = next((end for end in _ENDINGS if word.endswith(end) and word != end), None)
        found += [word] if ending is None else [word.removesuffix(ending), _ENDINGS[ending]]
    return [english.BRITISH.get(word, word) for word in found]


def _without_changed(words: Sequence[str]) -> tuple[list[str], bool]:
    """Leave out what says that things were otherwise before; tell whether there was any."""
    said = " ".join(words)
    plain = _CHANGED.sub("", _NO_LONGER.sub("not", said))
    return plain.split(), plain != said


def _subject(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words before the verb, if they name the speaker, or one whom or what he has."""
    if words[:1] in (["i"], ["we"]):
        return tuple(words[:1])
    if words[:1] not in (["my"], ["our"]):
        return ()
    verbs = {*english.VERBS, *_DO, *_NOT, "can"}
    end = next((place for place, word in enumerate(words) if word in verbs and place > 1), 1)
    had = words[1:end]
    if len(had) == 1 and had[0] in english.KIN:
        return tuple(words[:end])
    if had and had[0].endswith("'s") and had[0].removesuffix("'s") in english.KIN:
        had = had[1:]
    favourite = had[:1] == ["favourite"] and 1 < len(had) <= _NAME and not depends(had)
    one = had[-1:] and had[-1] in english.ATTRIBUTES and (had[1:] or had[0] not in english.MANY)
    known = one and all(word in english.MODIFIERS for word in had[:-1])
    return tuple(words[:end]) if favourite or known else ()


def _is_named(text: str) -> bool:
    """Tell whether a text ends with a name, a number or an address, as people write them."""
    words = _CHANGED.sub("", _plain(text).rstrip(_CLOSING)).split()
    last = words[-1].lstrip(_OPENING) if words else ""
    if any(mark.isdigit() or mark == "@" for mark in last):
        return True
    return last[:1].isupper() and not text.isupper()


def _lasts(claim: Claim) -> bool:
    """Tell whether what is said is how things are for long."""
    verb, rest = claim.verb, claim.rest
    if claim.of_an_attribute:
        return verb == "be" and bool(rest)
    if verb.startswith("can "):
        can = verb.removeprefix("can ")
        return can in (english.ABLE if rest else english.ABLE_ALONE)
    if not rest:
        return verb in english.ALONE
    if verb == "be":
        lasts = _is_trait(rest)
    elif verb == "have":
        lasts = _singular(rest[-1]) in english.LASTING
    elif verb in english.AMOUNTS:
        lasts = any(map(_is_number, rest))
    else:
        lasts = rest[0] in english.LINKS.get(verb, rest)
    # "the" is the one that was spoken of
    return lasts and "the" not in rest and rest[-1] not in english.DANGLING


def _is_trait(rest: tuple[str, ...]) -> bool:
    if _is_number(rest[0]):
        return rest[1:] in english.AGE
    if rest[0] in {"a", "an"}:
        return len(rest) > 1 and english.PASSING.isdisjoint(rest)
    return rest[0] in english.TRAITS or rest[-1] == "intolerant" or rest[0] == "from"


def _other_value(new: Claim, old: Claim) -> Difference | None:
    counts = new.verb == "have"  # "a dog" is one dog
    begun, mine, yours = _apart(new.rest, old.rest)
    if _are_numbers(mine, articles=counts) and _are_numbers(yours, articles=counts):
        first = begun == 0 and new.verb in english.COUNTING  # not the 2 in "season 2"
        if first or new.verb in english.AMOUNTS or new.of_an_attribute:
            return Difference.NUMBER
    if not mine:  # "My name is Ann" is less than "My name is Ann Smith"
        return None
    named = new.named and old.named
    if new.of_an_attribute:
        return Difference.VALUE if named or new.subject[-1] in english.FAVOURITES else None
    link, names = new.rest[:1], (new.rest[1:], old.rest[1:])
    if link != old.rest[:1] or (new.verb, *link) not in _PLACES:
        return None
    other_words = english.JOINED if link == ("as",) else english.UNNAMED
    if not all(0 < len(name) <= _NAME and other_words.isdisjoint(name) for name in names):
        return None
    return Difference.PLACE if named or link == ("as",) else None


def _apart(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, list[str], list[str]]:
    """Return how many words two lists begin with in common, and what is between those at the end.

    At the end, a word and its plural are the same.
    """
    begun = 0
    while begun < min(len(ours), len(theirs)) and ours[begun] == theirs[begun]:
        begun += 1
    mine, yours = list(ours[begun:]), list(theirs[begun:])
    while mine and yours and _singular(mine[-1]) == _singular(yours[-1]):
        mine, yours = mine[:-1], yours[:-1]
    return begun, mine, yours


def _are_numbers(words: Sequence[str], *, articles: bool = False) -> bool:
    return 0 < len(words) <= _NAME and all(
        _is_number(word) or (articles and word in {"a", "an"}) for word in words
    )


def _is_number(word: str) -> bool:
    return bool(_NUMBER.fullmatch(word)) or word in english.NUMBERS


def _singular(word: str) -> str:
    return word.removesuffix("s") if len(word) > _NAME and not _is_number(word) else word


def _without_not(words: Sequence[str]) -> list[str]:
    """Return the words of a sentence without what denies, verbs in one form."""
    left = [word for word in words if word not in {*_NOT, *_DO}]
    return _bare([english.VERBS.get(word, word) for word in left])


def _bare(words: Sequence[str], *, countless: bool = False) -> list[str]:
    """Return words without articles, and without numbers where there are none or any."""
    return [
        _singular(word)
        for word in words
        if word not in english.ARTICLES and not (countless and _is_number(word))
    ]
