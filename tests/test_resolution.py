"""What is said again: found on `ingest`, and merged, updated or kept by a rule or a model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from memos_core import (
    Action,
    Caller,
    CubeNotFound,
    Event,
    InvalidInput,
    LimitExceeded,
    MemCube,
    MemOS,
    Provenance,
    Relation,
    Right,
    Rules,
    Sensitive,
    Settings,
    View,
    resolution,
)
from memos_core.resolution import Candidate, Outcome, Resolution, Turn, decide
from memos_core.view import resolving
from tests.support import WordEmbedder, everything_in

MERGE, UPDATE, KEEP = Outcome.MERGE, Outcome.UPDATE, Outcome.KEEP_BOTH
SAID = datetime(2026, 1, 5, 12, tzinfo=UTC)
ANN = Provenance(source="conversation", session="monday", speaker="Ann", role="user")


def turn(text: str, *, days: int = 0, **provenance: Any) -> Turn:
    at = SAID + timedelta(days=days)
    return Turn(text=text, provenance=replace(ANN, **provenance), metadata={}, at=at)


def candidate(text: str, *, cosine: float = 0.9, **options: Any) -> Candidate:
    return Candidate(id=uuid4(), version=1, turn=turn(text, **options), cosine=cosine)


# --- the rule -------------------------------------------------------------------------------------

# What a careful person would do with the second sentence, said by the same speaker two months after
# the first. None is to keep both. The last column is what the rule does where that is less, and
# where it notes that both cannot be true at once.
LABELLED: list[tuple[str, str, Outcome | None, str]] = [
    # the same claim
    ("I live in Oslo.", "I live in Oslo!", MERGE, ""),
    ("I am allergic to peanuts.", "I'm allergic to peanuts", MERGE, ""),
    ("I live in Oslo.", "I still live in Oslo.", MERGE, ""),
    ("I am vegan.", "Yes, I am vegan.", MERGE, ""),
    ("I don't eat pork.", "I do not eat pork.", MERGE, ""),
    ("We have two kids.", "We have two kids", MERGE, ""),
    ("My favourite food is ramen.", "My favorite food is ramen.", MERGE, ""),
    ("My name is Ann.", "my name is ann", MERGE, ""),
    ("I work as a nurse.", "I work as a nurse.", MERGE, ""),
    ("My wife is allergic to nuts.", "My wife is allergic to nuts!", MERGE, ""),
    ("I love hiking.", "I love hiking.", MERGE, ""),
    ("My sister works for Equinor.", "my sister works for Equinor", MERGE, "keep"),
    ("Ich wohne in Oslo.", "Ich wohne in Oslo.", MERGE, "keep"),
    ("我住在东京。", "我住在东京", MERGE, "keep"),
    # another claim about the same
    ("I live in Oslo.", "I live in Bergen now.", UPDATE, ""),
    ("I like coffee.", "I don't like coffee any more.", UPDATE, ""),
    ("I eat meat.", "I no longer eat meat.", UPDATE, ""),
    ("I never eat meat.", "I eat meat.", UPDATE, ""),
    ("I am vegetarian.", "I’m not vegetarian.", UPDATE, ""),
    ("I am not pregnant.", "I am pregnant.", UPDATE, ""),
    ("I smoke.", "I don't smoke anymore.", UPDATE, ""),
    ("I do not own a car.", "I own a car.", UPDATE, ""),
    ("We are married.", "We are not married any more.", UPDATE, ""),
    ("I can swim.", "I can't swim.", UPDATE, ""),
    ("I can drive.", "I cannot drive any more.", UPDATE, ""),
    ("I am a nurse.", "I'm not a nurse any longer.", UPDATE, ""),
    ("I am 30 years old.", "I am 31 years old.", UPDATE, ""),
    ("I have two dogs.", "I have three dogs.", UPDATE, ""),
    ("I have one dog.", "I have two dogs.", UPDATE, ""),
    ("I have a dog.", "I have no dogs.", UPDATE, ""),
    ("I have no allergies.", "I have allergies.", UPDATE, ""),
    ("I weigh 80 kg.", "I weigh 78 kg.", UPDATE, ""),
    ("I smoke 10 cigarettes a day.", "I smoke 5 cigarettes a day.", UPDATE, ""),
    ("I speak two languages.", "I speak three languages.", UPDATE, ""),
    ("My favourite colour is blue.", "My favorite color is green.", UPDATE, ""),
    ("My phone number is 555-1234.", "My phone number is 555-9876.", UPDATE, ""),
    ("My shoe size is 42.", "My shoe size is 43.", UPDATE, ""),
    ("My name is Ann Smith.", "My name is Ann Berg.", UPDATE, ""),
    ("My email is ann@a.com.", "My email is ann@b.org.", UPDATE, ""),
    ("My wife's name is Eva Berg.", "My wife's name is Eva Dahl.", UPDATE, ""),
    ("My wife works at Google.", "My wife works at Apple now.", UPDATE, ""),
    ("I work as a nurse.", "I work as a teacher these days.", UPDATE, ""),
    ("I work for Equinor.", "I currently work for Statkraft.", UPDATE, ""),
    ("I'm allergic to peanuts.", "I am no longer allergic to peanuts.", UPDATE, ""),
    ("I live in Oslo.", "I live in Bergen.", UPDATE, "contradicts"),
    ("I take 50 mg of sertraline.", "I take 100 mg of sertraline.", UPDATE, "contradicts"),
    ("My birthday is May 5.", "My birthday is May 6.", UPDATE, "keep"),
    ("The wifi password is hunter2.", "The wifi password is now swordfish9.", UPDATE, "keep"),
    ("My boss is called Tom.", "My boss is called Eve.", UPDATE, "keep"),
    ("I drive a Volvo.", "I don't drive a Volvo any more, I drive a Tesla.", UPDATE, "keep"),
    ("I live in Oslo.", "I moved to Bergen last month.", UPDATE, "keep"),
    ("I am single.", "I got married in June.", UPDATE, "keep"),
    # what happened, happened
    ("I ran 5 km.", "I ran 8 km.", None, ""),
    ("I bought 2 apples.", "I bought 3 apples.", None, ""),
    ("I went to Oslo.", "I went to Bergen.", None, ""),
    ("I called my mother.", "I didn't call my mother.", None, ""),
    ("I went to the gym.", "I went to the gym.", None, ""),
    ("I am going to the gym.", "I am going to the gym.", None, ""),
    ("I have been married.", "I have not been married.", None, ""),
    ("I was vegetarian.", "I am not vegetarian.", None, ""),
    # the day, or what was said before, decides what it means
    ("He is coming.", "He is not coming.", None, ""),
    ("I like it.", "I don't like it.", None, ""),
    ("I like the soup.", "I don't like the soup.", None, "contradicts"),
    ("I saw him today.", "I saw him today.", None, ""),
    ("I am tired.", "I am not tired.", None, "contradicts"),
    ("I am a bit tired.", "I am a bit tired.", None, ""),
    ("I have a headache.", "I have a headache.", None, ""),
    ("I have a cold.", "I don't have a cold.", None, "contradicts"),
    ("I'm hungry.", "I'm hungry.", None, ""),
    ("I can eat now.", "I can't eat.", None, "contradicts"),
    ("I am 5 minutes away.", "I am 10 minutes away.", None, "contradicts"),
    ("I have 3 meetings.", "I have 2 meetings.", None, "contradicts"),
    ("I have an appointment on Monday.", "I have an appointment on Tuesday.", None, ""),
    ("Yes.", "Yes.", None, ""),
    ("Me too!", "Me too!", None, ""),
    ("I love to.", "I love to.", None, ""),
    ("I have one.", "I have one.", None, ""),
    ("Thank you so much!", "Thank you so much!", None, ""),
    # both may be true
    ("I live in Oslo.", "I live in Norway.", None, "contradicts"),
    ("I live in Oslo.", "I live in a flat.", None, ""),
    ("I live in Oslo.", "I live in fear now.", None, ""),
    ("I work at Google.", "I work at night now.", None, ""),
    ("I work in sales.", "I work in Oslo now.", None, ""),
    ("My dog's name is Rex.", "My dog's name is Bo.", None, ""),
    ("My brother lives in Oslo.", "My brother lives in Bergen.", None, ""),
    ("My brother is 5.", "My brother is 7.", None, "contradicts"),
    ("My friend Tom lives in Oslo.", "My friend Jim lives in Oslo.", None, ""),
    ("My son plays football.", "My son plays the piano.", None, ""),
    ("I like Oslo.", "I like Bergen.", None, ""),
    ("I speak French.", "I speak German.", None, ""),
    ("I have two dogs.", "I have two cats.", None, ""),
    ("I love season 2.", "I love season 3.", None, ""),
    ("I drive a Mazda 3.", "I drive a Mazda 6.", None, ""),
    ("I owe Tom 20 dollars.", "I owe Jim 20 dollars.", None, ""),
    ("I owe Tom 20 dollars.", "I owe Tom 30 dollars.", None, "contradicts"),
    ("Chapter 5 is great.", "Chapter 6 is great.", None, ""),
    ("The recipe is for 4 people.", "The recipe is for 6 people.", None, "contradicts"),
    ("The meeting is at 3 pm.", "The meeting is at 4 pm.", None, "contradicts"),
    ("The temperature is -5 degrees.", "The temperature is 5 degrees.", None, "contradicts"),
    ("My favourite restaurant is Luigi's.", "My favourite restaurant is closed now.", None, ""),
    ("My email is ann@a.com.", "My email is broken.", None, ""),
    ("My name is Ann.", "My name is hard to spell.", None, ""),
    ("My job is stressful.", "My job is fun.", None, ""),
    ("My name is Ann Smith.", "My name is Ann.", None, ""),
    ("I live in Oslo, Norway.", "I live in Oslo now.", None, ""),
    ("I program in C.", "I program in C++.", None, ""),
    ("My password is Tiger7.", "My password is tiger7.", None, ""),
    # it is not said, or not for sure
    ("I like tea.", "Do I like tea?", None, ""),
    ("Do you like tea?", "Do you like tea?", None, ""),
    ("I think I like tea.", "I don't think I like tea.", None, "contradicts"),
    ("I would like coffee.", "I would not like coffee.", None, ""),
    ("If I eat nuts I get sick.", "If I don't eat nuts I get sick.", None, ""),
    ("Tom said I smoke.", "Tom said I don't smoke.", None, "contradicts"),
    ('"I live in Oslo."', '"I live in Bergen now."', None, ""),
    ("I like tea.", "I like tea, not coffee.", None, ""),
    ("I don't only eat meat.", "I eat meat.", None, ""),
    ("I have to work.", "I don't have to work.", None, "contradicts"),
    ("I used to like coffee.", "I like coffee.", None, ""),
    # other languages
    ("Ich habe 2 Hunde.", "Ich habe 3 Hunde.", None, ""),
    ("Ich mag Hunde.", "Ich mag keine Hunde.", None, ""),
    ("Ich mag Hunde.", "Ich mag Katzen.", None, ""),
    ("J'habite à Paris.", "J'habite à Lyon.", None, ""),
    ("No me gusta el café.", "Me gusta el café.", None, ""),
    ("I dag var jeg i Oslo.", "I dag var jeg i Bergen.", None, ""),
    ("Я живу в Москве.", "Я не живу в Москве.", None, ""),
    ("أنا أحب القهوة", "أنا لا أحب القهوة", None, ""),
    ("我喜欢咖啡。", "我不喜欢咖啡。", None, ""),
    ("私は東京に住んでいます。", "私は大阪に住んでいます。", None, ""),
]


def by_rule(old: str, new: str) -> Resolution:
    return decide(turn(new, days=60, session="friday"), [candidate(old)])


@pytest.mark.parametrize(("old", "new", "right", "less"), LABELLED)
def test_the_rule_does_what_is_sure(old: str, new: str, right: Outcome | None, less: str) -> None:
    decided = by_rule(old, new)
    assert decided.by == "rule"
    if right is None or less:
        assert decided.outcome in (Outcome.ADD, KEEP)
        assert decided.contradicts == (less == "contradicts")
    else:
        assert decided.outcome is right
        assert not decided.contradicts


def test_the_rule_is_never_wrong_on_the_list_and_does_four_fifths() -> None:
    count = Counter((right, by_rule(old, new).outcome) for old, new, right, _less in LABELLED)
    changes = {(right, done): n for (right, done), n in count.items() if done in (MERGE, UPDATE)}
    assert all(right is done for right, done in changes), "nothing is merged or updated wrongly"
    assert changes == {(MERGE, MERGE): 11, (UPDATE, UPDATE): 30}
    assert sum(n for (right, _done), n in count.items() if right) == 52


def test_what_the_rule_is_known_to_do_wrong() -> None:
    for old, new in (
        ("I live in Oslo.", "I live in Norway now."),  # where she came back to
        ("My girlfriend lives in Oslo.", "My girlfriend lives in Bergen now."),  # another one
        ("I drink coffee.", "I don't drink coffee."),  # at this hour
    ):
        assert by_rule(old, new).outcome is UPDATE


def test_the_same_again_on_the_same_day_is_the_same_in_any_language() -> None:
    for text in (
        "Ich wohne mit meiner Frau in Oslo.",
        "我和我的妻子住在东京。",
        "We sold two cars.",
    ):
        for days, session, outcome in (
            (0, "monday", MERGE), (0, "friday", KEEP), (1, "monday", KEEP),
        ):  # fmt: skip
            new = turn(text.rstrip(".。"), days=days, session=session)
            assert decide(new, [candidate(text)]).outcome is outcome, (text, days, session)
    for text in ("Yes, thanks.", "He told them about that.", "👍"):
        assert decide(turn(text), [candidate(text)]).outcome in (Outcome.ADD, KEEP)


@pytest.mark.parametrize(
    ("who", "outcome", "contradicts", "reason"),
    [
        ({}, UPDATE, False, "another number"),
        ({"speaker": "Bob"}, Outcome.ADD, False, "nothing like it"),
        ({"speaker": None}, Outcome.ADD, False, "nothing like it"),
        ({"role": "assistant"}, Outcome.ADD, False, "nothing like it"),
        ({"days": -1}, KEEP, True, "said before it"),
    ],
)
def test_only_the_same_speaker_changes_what_was_said(
    who: dict[str, Any], outcome: Outcome, *, contradicts: bool, reason: str
) -> None:
    old = candidate("I am 30 years old.", cosine=0.8)
    decided = decide(turn("I am 31 years old.", **who), [old])
    assert (decided.outcome, decided.contradicts, decided.reason) == (outcome, contradicts, reason)
    assert decided.other == (None if outcome is Outcome.ADD else old.id)


def test_two_speakers_contradict_each_other_about_a_third() -> None:
    old = candidate("The train leaves at 5 pm.", speaker="Bob", cosine=0.8)
    for new, contradicts in (("The train leaves at 6 pm.", True), ("My train leaves at 6.", False)):
        assert decide(turn(new), [old]).contradicts is contradicts


def test_contrary_metadata_are_kept_apart() -> None:
    old = candidate("I have two dogs.")
    old = replace(old, turn=replace(old.turn, metadata={"channel": "work"}))
    for text, contradicts in (("I have two dogs.", False), ("I have three dogs.", True)):
        for metadata, kept in (({"channel": "home"}, True), ({"mood": "good"}, False)):
            decided = decide(replace(turn(text), metadata=metadata), [old])
            assert (decided.outcome is KEEP) is kept
            assert decided.contradicts is (kept and contradicts)


def test_of_several_the_nearest_is_merged_unless_a_later_one_contradicts() -> None:
    first, again = candidate("I live in Oslo."), candidate("I live in Oslo!", cosine=0.8)
    assert decide(turn("I live in Oslo"), [first, again]).other == first.id
    between = candidate("I live in Bergen.", days=10, cosine=0.7)
    decided = decide(turn("I live in Oslo", days=20), [first, between])
    assert (decided.outcome, decided.other, decided.contradicts) == (KEEP, between.id, True)
    earlier = candidate("I live in Bergen.", days=-10, cosine=0.7)
    assert decide(turn("I live in Oslo", days=20), [first, earlier]).outcome is MERGE


def test_where_two_would_be_updated_none_is() -> None:
    old = [candidate("I have two dogs.", days=1), candidate("I have four dogs.", days=2)]
    decided = decide(turn("I have three dogs.", days=3), old)
    assert (decided.outcome, decided.other, decided.contradicts) == (KEEP, old[1].id, True)


def test_what_only_sounds_alike_is_kept() -> None:
    old, new = (
        "I love hiking in the mountains with my dog",
        "I loved hiking in the hills with my dog",
    )
    near, far = candidate(old, cosine=0.9), candidate(old, cosine=0.8)
    assert decide(turn(new), [near]) == Resolution(
        outcome=KEEP, other=near.id, similarity=0.9, reason="similar"
    )
    assert decide(turn(new), [far]).outcome is Outcome.ADD
    assert decide(turn(new), []) == Resolution()


# --- the model ------------------------------------------------------------------------------------


class Script:
    """A chat function that answers what it is told to, and keeps what it was asked."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, messages: Sequence[Mapping[str, str]], /) -> str:
        self.asked.append(messages[-1]["content"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, str) else json.dumps(answer)


def by_model(answer: object, new: Turn, *old: Candidate) -> Resolution:
    return resolution.ask(new, old, Script(answer), limit=1_000)


MOVED = turn("I moved to Bergen last month.", days=60)


def test_a_model_is_shown_what_is_near_and_decides() -> None:
    old = [
        candidate("I live in Oslo."),
        candidate('Two\nlines, "quoted"'),
        candidate("x", cosine=0),
    ]
    script = Script({"outcome": "update", "other": 1, "text": "I live in Bergen."})
    decided = resolution.ask(MOVED, old, script, limit=1_000)
    assert decided == Resolution(
        outcome=UPDATE,
        other=old[0].id,
        similarity=0.9,
        reason="the model's decision",
        by="model",
        text="I live in Bergen.",
    )
    (asked,) = script.asked
    assert asked == (
        'Memories:\n1. [2026-01-05] Ann: "I live in Oslo."\n'
        '2. [2026-01-05] Ann: "Two\\nlines, \\"quoted\\""\n\n'
        'Said just now:\n[2026-03-06] Ann: "I moved to Bergen last month."'
    )


@pytest.mark.parametrize(
    ("answer", "outcome", "contradicts"),
    [
        ({"outcome": "add"}, Outcome.ADD, False),
        ({"outcome": "add", "other": 1, "text": "x"}, Outcome.ADD, False),
        ({"outcome": "merge", "other": 1, "text": None}, MERGE, False),
        ({"outcome": "keep_both", "other": 1}, KEEP, False),
        ({"outcome": "keep_both", "other": 1, "contradicts": True}, KEEP, True),
        ('```json\n{"outcome": "merge", "other": 1}\n```', MERGE, False),
        (' {"outcome": "merge", "other": 1}\n', MERGE, False),
    ],
)
def test_what_a_model_may_answer(answer: object, outcome: Outcome, *, contradicts: bool) -> None:
    decided = by_model(answer, MOVED, candidate("I live in Oslo."))
    assert (decided.outcome, decided.contradicts) == (outcome, contradicts)
    assert (decided.by, decided.passed_over) == ("model", False)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "merge",
        "null",
        "[]",
        "[" * 100_000,
        '{"outcome": "merge", "other": 1',
        'Sure! {"outcome": "merge", "other": 1}',
        {},
        {"outcome": "delete", "other": 1},
        {"outcome": 7, "other": 1},
        {"outcome": ["merge"], "other": 1},
        {"outcome": "merge"},
        {"outcome": "merge", "other": None},
        {"outcome": "merge", "other": 0},
        {"outcome": "merge", "other": 2},
        {"outcome": "merge", "other": "1"},
        {"outcome": "merge", "other": True},
        {"outcome": "merge", "other": 1, "text": ""},
        {"outcome": "merge", "other": 1, "text": 7},
        {"outcome": "merge", "other": 1, "text": "x" * 1_001},
        {"outcome": "merge", "other": 1, "text": "a\x00b"},
    ],
)
def test_where_an_answer_cannot_be_read_the_rule_decides(answer: object) -> None:
    for new, outcome in ((MOVED, Outcome.ADD), (turn("I live in Oslo!"), MERGE)):
        decided = by_model(answer, new, candidate("I live in Oslo."))
        assert (decided.outcome, decided.by, decided.passed_over) == (outcome, "rule", True)
        assert decided.reason.startswith("the model's answer could not be read")


@pytest.mark.parametrize(
    ("new", "old", "reason"),
    [
        (MOVED, candidate("I live in Oslo.", speaker="Bob"), "said by another"),
        (MOVED, candidate("I live in Oslo.", role="assistant"), "said by another"),
        (replace(MOVED, at=SAID - timedelta(1)), candidate("I live in Oslo."), "said before it"),
        (
            turn("Done.", role="assistant"),
            candidate("x", role=None, speaker=None),
            "said by another",
        ),
    ],
)
def test_a_model_changes_nothing_that_it_may_not(new: Turn, old: Candidate, reason: str) -> None:
    decided = by_model({"outcome": "update", "other": 1, "text": "Ha!"}, new, old)
    assert decided.outcome is KEEP
    assert (decided.reason, decided.by, decided.text) == (reason, "model", None)
    assert decided.contradicts


@pytest.mark.parametrize("outcome", [MERGE, UPDATE])
def test_who_made_a_cube_and_its_mark_stay_whatever_is_said_of_it(outcome: Outcome) -> None:
    old = turn("I have two dogs.", message_ids=("m1",), created_by="ann", watermark="w7")
    new = turn("I have three dogs.", message_ids=("m2",), created_by="bob", restored_from=1)
    origin = resolution.joined(new, old, Resolution(outcome=outcome)).provenance
    assert (origin.created_by, origin.watermark, origin.restored_from) == ("ann", "w7", None)


def test_a_model_is_not_asked_about_questions_and_what_is_far_or_long() -> None:
    script = Script("no")
    for new, old in (
        (turn("Do I live in Oslo?"), candidate("I live in Oslo.")),
        (turn("x" * 4_001), candidate("I live in Oslo.")),
        (turn("I live in Oslo."), candidate("x" * 4_001)),
        (turn("I live in Oslo."), candidate("I live in Bergen.", cosine=0.49)),
    ):
        assert not resolution.ask(new, [old], script, limit=1_000).passed_over
    assert script.asked == []


# --- ingest ---------------------------------------------------------------------------------------


def said(id: str, content: str, *, session: str = "monday", **more: Any) -> dict[str, Any]:
    turn = {"id": id, "role": "user", "name": "Ann", "content": content, "session": session}
    return turn | more


def resolved(view: View) -> list[Event]:
    return view.events(kind="resolved")[::-1]


def test_without_it_each_turn_is_a_cube(view: View) -> None:
    for number in range(2):
        assert len(view.ingest([said(str(number), "I have two dogs.")])) == 1
    assert view.stats().cubes == 2
    assert resolved(view) == []


def test_what_is_said_again_is_merged(view: View) -> None:
    (first,) = view.ingest([said("m1", "I have two dogs.")], resolve=True)
    summary = view.derive("Ann has dogs.", first.id)
    (again,) = view.ingest([said("m1", "I have two dogs!", session="friday")], resolve=True)
    assert (again.id, again.version, again.text) == (first.id, 2, "I have two dogs.")
    assert again.provenance.message_ids == ("m1", "m1")
    assert again.provenance.sessions == ("monday", "friday")
    assert again.valid_from == first.valid_from
    assert view.get(summary.id).version == 1, "it says what it said"
    (event,) = resolved(view)
    assert event.cube_ids == (first.id,)
    assert event.details == {
        "outcome": "merge",
        "reason": "the same claim",
        "by": "rule",
        "similarity": 1.0,
        "version": 2,
        "message": "m1",
        "session": "friday",
    }
    assert [hit.cube.id for hit in view.search("dogs") if "two" in hit.text] == [first.id]
    assert view.stats().messages == 2


def test_what_is_said_otherwise_is_a_new_version(view: View) -> None:
    at = SAID + timedelta(days=30)
    (first,) = view.ingest([said("m1", "I have two dogs.", created_at=SAID)], resolve=True)
    view.update(first.id, tags=["pets"], priority=3)
    summary = view.derive("Ann has two dogs.", first.id)
    view.ingest([said("m0", "Good morning.", session="friday")])
    (now,) = view.ingest(
        [said("m2", "I have three dogs.", session="friday", created_at=at)], resolve=True
    )
    assert (now.id, now.version, now.text) == (first.id, 3, "I have three dogs.")
    assert (now.valid_from, now.provenance.said_at) == (at, at)
    assert (now.tags, now.governance.priority) == (("pets",), 3)
    assert (now.provenance.session, now.provenance.message_ids) == ("friday", ("m2", "m1"))
    assert [one.text for one in view.history(first.id)] == ["I have two dogs."] * 2 + [now.text]
    with pytest.raises(CubeNotFound):
        view.get(summary.id)
    (hit,) = view.search("three dogs", k=1, context=1)
    assert hit.cube.id == first.id
    assert [one.id for one in hit.context] == ["m1", "m0", "m2"]
    assert hit.reasons["lexical_context"] > 0
    assert view.search("dogs", as_of=first.created_at)[0].text == "I have two dogs."
    (event,) = resolved(view)
    assert (event.details["outcome"], event.details["reason"]) == ("update", "another number")


def test_what_is_dated_to_come_is_true_from_now_on(view: View) -> None:
    (first,) = view.ingest([said("m1", "I have two dogs.")])
    later = first.created_at + timedelta(days=365)
    (now,) = view.ingest([said("m2", "I have three dogs.", created_at=later)], resolve=True)
    assert (now.id, now.valid_from) == (first.id, now.updated_at)
    assert [hit.text for hit in view.search("dogs")] == ["I have three dogs."]


def test_what_is_said_together_by_two_is_of_two(memos: MemOS) -> None:
    def fails(_messages: Sequence[Mapping[str, str]], /) -> str:
        raise RuntimeError("overloaded")

    whole, ann = memos.at("acme"), memos.at("acme", caller=Caller(user="ann"))
    ann.add("I have dogs.")
    mine = said("m1", "I have two dogs.")
    with pytest.raises(RuntimeError, match="overloaded"):
        ann.ingest([mine], resolve=fails)
    cubes = whole.ingest([mine, said("m2", "I have two dogs.")], resolve=True)
    assert [cube.governance.owner for cube in cubes] == ["ann", None]


def test_what_none_can_settle_is_kept_and_noted(view: View) -> None:
    (first,) = view.ingest([said("m1", "The train leaves at 5 pm.", name="Bob")], resolve=True)
    (second,) = view.ingest([said("m2", "The train leaves at 6 pm.")], resolve=True)
    assert second.id != first.id
    (edge,) = view.provenance(second.id).edges
    assert (edge.parent, edge.relation) == (first.id, Relation.CONTRADICTS)
    (event,) = resolved(view)
    assert event.cube_ids == (second.id, first.id)
    assert event.details["outcome"] == "keep_both"
    assert {hit.cube.id for hit in view.search("train")} == {first.id, second.id}


def test_a_conversation_may_contradict_itself(view: View) -> None:
    told = [
        said("m1", "I live in Oslo."),
        said("m2", "The sky is blue."),
        said("m3", "I live in Bergen now."),
        said("m4", "I live in Bergen now!"),
        said("m5", "The sky is blue.", role="assistant", name="Bot"),
    ]
    made = view.ingest(told, resolve=True)
    assert [cube.provenance.message_ids for cube in made] == [("m3", "m1", "m4"), ("m2",), ("m5",)]
    assert [cube.version for cube in made] == [3, 1, 1]
    assert [one.text for one in view.history(made[0].id)] == [
        "I live in Oslo.", "I live in Bergen now.", "I live in Bergen now.",
    ]  # fmt: skip
    assert [event.details["outcome"] for event in resolved(view)] == ["update", "merge"]


def test_the_same_conversation_again_changes_nothing(view: View) -> None:
    told = [said("m1", "I have two dogs."), said("m2", "I have three dogs.")]
    view.ingest(told, resolve=True)
    before = view.search("dogs")
    assert view.ingest(told, resolve=True) == []
    assert (
        [hit.cube.version for hit in view.search("dogs")]
        == [hit.cube.version for hit in before]
        == [2]
    )
    assert len(resolved(view)) == 1


def test_forgetting_erases_every_turn_it_came_from(view: View, database: str) -> None:
    view.ingest([said("m2", "Keep this zebra."), said("m3", "And this yak.")], session="friday")
    view.ingest([said("m1", "I have two xylophone dogs.")], resolve=True)
    (cube,) = view.ingest(
        [said("m2", "I have three xylophone dogs.", session="sunday")], resolve=True
    )
    view.ingest([said("m3", "I have three xylophone dogs.", session="may")], resolve=True)
    view.restore(cube.id, version=1)
    (said_at_last,) = [hit.cube for hit in view.search("xylophone") if hit.cube.id == cube.id]
    assert said_at_last.provenance.message_ids == ("m1", "m2", "m3")
    assert said_at_last.provenance.sessions == ("monday", "sunday", "may")
    assert {one.session for one in view.provenance(cube.id).messages} == {"monday", "sunday", "may"}
    report = view.forget(cube.id)
    assert (sorted(report.message_ids), report.versions) == (["m1", "m2", "m3"], 4)
    assert "xylophone" not in everything_in(database)
    assert {one.content for one in view.messages()} == {"Keep this zebra.", "And this yak."}


def test_forgetting_a_session_leaves_what_others_said(view: View, database: str) -> None:
    view.ingest([said("m1", "I have two dogs.", session="monday")], resolve=True)
    view.ingest([said("m1", "I have two dogs.", session="friday")], resolve=True)
    view.ingest([said("m2", "I have three dogs.", session="friday")], resolve=True)
    assert view.stats().cubes == 1
    view.forget_all(session="friday")
    assert "three" not in everything_in(database)
    (hit,) = view.search("dogs")
    assert (hit.text, hit.cube.version) == ("I have two dogs.", 1)
    assert [(one.session, one.id) for one in view.messages()] == [("monday", "m1")]


@pytest.mark.parametrize("verb", ["freeze", "archive", "expire", "forget"])
def test_what_is_not_alive_is_left_alone(view: View, verb: str) -> None:
    (cube,) = view.ingest([said("m1", "I have two dogs.")], resolve=True)
    getattr(view, verb)(cube.id)
    (other,) = view.ingest([said("m2", "I have two dogs.")], resolve=True)
    assert other.id != cube.id
    assert resolved(view) == []


def test_what_is_to_end_takes_in_nothing(view: View) -> None:
    cubes = view.ingest([said(str(n), f"I have {n} dogs.", name=f"A{n}") for n in (2, 3)])
    view.update(cubes[0].id, ttl=60)
    view.update(cubes[1].id, valid_to="2100-01-01")
    again = [said(f"x{n}", f"I have {n} dogs.", name=f"A{n}") for n in (2, 3)]
    assert [cube.version for cube in view.ingest(again, resolve=True)] == [1] * 2


def test_what_was_fused_takes_in_what_is_said_again(view: View) -> None:
    dogs, tea = view.ingest([said("m1", "I have two dogs."), said("m2", "My name is Ann.")])
    fused = view.fuse([dogs.id, tea.id])
    (again,) = view.ingest([said("m3", "I still have two dogs.")], resolve=True)
    assert (again.id, again.state) == (dogs.id, "merged")
    assert again.provenance.message_ids == ("m1", "m3")
    assert [hit.cube.id for hit in view.search("dogs")] == [fused.id], "it speaks for both"
    assert view.search("dogs", exclude_messages=["m1", "m2"]) == []


def test_what_was_fused_speaks_for_itself_once_it_is_said_otherwise(view: View) -> None:
    dogs, name = view.ingest([said("m1", "I have two dogs."), said("m2", "My name is Ann.")])
    fused = view.fuse([dogs.id, name.id])
    (now,) = view.ingest([said("m3", "I have three dogs.")], resolve=True)
    assert (now.id, now.state, now.text) == (dogs.id, "activated", "I have three dogs.")
    assert {hit.text for hit in view.search("dogs")} == {"I have three dogs.", "My name is Ann."}
    with pytest.raises(CubeNotFound):
        view.get(fused.id)


def test_what_another_tenant_may_take_back_takes_in_nothing(memos: MemOS) -> None:
    publisher, subscriber = memos.at("globex"), memos.at("acme")
    publisher.add("I have two dogs.")
    publisher.publish("all")
    subscriber.subscribe("all")
    (copy,) = subscriber.sync().added
    chat = Script({"outcome": "merge", "other": 1})
    (cube,) = subscriber.ingest([said("m1", "I have two dogs.")], resolve=chat)
    assert cube.id != copy
    assert chat.asked == []


def test_a_message_of_several_parts_and_other_namespaces_are_not_compared(
    database: str,
) -> None:
    settings = Settings(max_text=30)
    with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        ann, bob = memos.at("acme", "ann"), memos.at("acme", "bob")
        long = "I have two dogs.\n\nI have two dogs."
        assert len(ann.ingest([said("m1", long)], resolve=True)) == 2
        (one,) = bob.ingest([said("m1", "I have two dogs.")], resolve=True)
        (above,) = memos.at("acme").ingest([said("m1", "I have two dogs.")], resolve=True)
        assert above.id != one.id
        assert resolved(memos.at("acme")) == []


def test_many_turns_are_resolved_in_parts(ann: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memos_core.view.ingesting.RESOLVE_BATCH", 4)
    told = [said(str(n), f"I have {2 + n % 3} dogs.", name=f"A{n % 5}") for n in range(30)]
    made = ann.ingest(told, resolve=True)
    assert [cube.provenance.speaker for cube in made] == [f"A{n}" for n in range(5)]
    assert all(len(cube.provenance.message_ids) == 6 for cube in made)
    assert [cube.version for cube in made] == [6] * 5


def test_through_a_search_index_too(database: str) -> None:
    settings = Settings(exact_limit=0)
    with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        ann = memos.at("acme", "ann")
        told = [said(f"m{n}", f"I speak {n} languages of area{n}.") for n in range(2, 40)]
        ann.ingest(told)
        assert ann.build_index() == 38
        (cube,) = ann.ingest([said("x", "I speak 50 languages of area7.")], resolve=True)
        assert (cube.version, cube.provenance.message_ids) == (2, ("x", "m7"))
        (late,) = ann.ingest([said("y", "I speak 51 languages of area7.")], resolve=True)
        assert (late.id, late.version) == (cube.id, 3)
        assert ann.search("51 languages", k=1)[0].cube.id == cube.id
        assert ann.build_index() == 38


def test_through_a_model(view: View) -> None:
    fact = view.add("Ann lives in Oslo.", metadata={"sure": True})
    chat = Script({"outcome": "update", "other": 1, "text": "Ann lives in Bergen."})
    (now,) = view.ingest([said("m1", "Ann lives in Bergen now.")], resolve=chat)
    assert (now.id, now.version, now.text) == (fact.id, 2, "Ann lives in Bergen.")
    assert (now.provenance.role, now.provenance.message_ids) == (None, ("m1",))
    assert now.metadata == {"sure": True}
    assert view.search("Bergen", k=1)[0].cube.id == fact.id
    (event,) = resolved(view)
    assert (event.details["by"], event.details["outcome"]) == ("model", "update")
    assert view.forget(fact.id).message_ids == ("m1",)
    assert view.messages() == []


def test_a_model_merges_texts(view: View) -> None:
    chat = Script({"outcome": "merge", "other": 1, "text": "I drink black tea and milk tea."})
    (first,) = view.ingest([said("m1", "I drink black tea.")], resolve=chat)
    (now,) = view.ingest([said("m2", "I drink milk tea.")], resolve=chat)
    assert (now.id, now.text) == (first.id, "I drink black tea and milk tea.")
    assert len(chat.asked) == 1, "about the first turn there was nothing to ask"
    assert now.valid_from == first.valid_from


def test_a_model_hears_what_it_decided_of_the_turns_before(view: View) -> None:
    chat = Script(
        {"outcome": "merge", "other": 1, "text": "I drink tea and milk."},
        {"outcome": "merge", "other": 1, "text": "I drink tea, milk and beer."},
    )
    told = [said(f"m{n}", f"I drink {what}.") for n, what in enumerate(("tea", "milk", "beer"))]
    (cube,) = view.ingest(told, resolve=chat)
    assert cube.text == "I drink tea, milk and beer."
    assert cube.provenance.message_ids == ("m0", "m1", "m2")
    assert '"I drink tea and milk."' in chat.asked[1]
    assert len(chat.asked) == 2


def test_an_unreadable_answer_is_written_down_and_loses_nothing(view: View) -> None:
    view.ingest([said("m1", "I drink black tea.")], resolve=Script("?"))
    (cube,) = view.ingest([said("m2", "I drink milk tea.")], resolve=Script("?"))
    assert cube.text == "I drink milk tea."
    (event,) = resolved(view)
    assert event.cube_ids == (cube.id,)
    assert (event.details["outcome"], event.details["by"]) == ("add", "rule")
    assert str(event.details["reason"]).startswith("the model's answer could not be read")


def test_a_model_that_fails_loses_nothing(
    view: View, database: str, age: Callable[[str], None]
) -> None:
    def fails(_messages: Sequence[Mapping[str, str]], /) -> str:
        raise RuntimeError("overloaded")

    view.ingest([said("m1", "I drink black tea.")])
    told = [said("m2", "I drink milk tea.")]
    with pytest.raises(RuntimeError, match="overloaded"):
        view.ingest(told, resolve=fails)
    assert view.stats().cubes == 1
    (cube,) = view.ingest(told, resolve=Script({"outcome": "add"}))
    assert cube.provenance.message_ids == ("m2",)
    with pytest.raises(RuntimeError, match="overloaded"):
        view.ingest([said("m3", "I drink oat milk tea.")], resolve=fails)
    age(database)
    view.ingest("Good morning.")
    assert view.stats().cubes == 4, "a later call reads it as it was said"


@pytest.mark.parametrize("resolve", ["yes", 1, None])
def test_refuses_what_is_no_way_to_resolve(view: View, resolve: Any) -> None:
    with pytest.raises(InvalidInput, match="resolve is"):
        view.ingest("tea", resolve=resolve)
    assert view.messages() == []


# --- who may --------------------------------------------------------------------------------------


def test_only_the_sender_s_own_cubes_are_changed(memos: MemOS) -> None:
    chats = {name: Script({"outcome": "merge", "other": 1}) for name in ("alice", "bob")}
    views = {name: memos.at("acme", caller=Caller(user=name)) for name in chats}
    views["alice"].grant(user="bob", rights=[Right.READ, Right.WRITE])
    for name, view in views.items():
        (cube,) = view.ingest([said(name, "I have two dogs.")], resolve=chats[name])
        assert cube.governance.owner == name
        assert cube.version == 1
        assert chats[name].asked == [], "nothing of another's is shown to his model"
    (again,) = views["alice"].ingest([said("again", "I have two dogs.")], resolve=True)
    assert (again.governance.owner, again.version) == ("alice", 2)
    (event,) = resolved(memos.at("acme"))
    assert event.user == "alice"


def test_the_rules_of_a_namespace_hold(view: View, ann: View) -> None:
    ann.set_rules(Rules(sensitive={Sensitive.EMAIL: Action.REDACT}, max_cubes=2))
    view.ingest([said("m1", "My email is ann@example.com")], resolve=True)
    chat = Script({"outcome": "update", "other": 1, "text": "Her email is eve@example.com"})
    (cube,) = view.ingest([said("m2", "My email is eve@example.com")], resolve=chat)
    assert cube.version == 2
    assert "@" not in cube.text
    assert cube.governance.sensitivity == ("email",)
    ann.set_rules(Rules(sensitive={Sensitive.EMAIL: Action.REFUSE}, max_cubes=2))
    (kept,) = view.ingest([said("m3", "My email is private.")], resolve=chat)
    assert kept.text == "My email is private."
    with pytest.raises(LimitExceeded):
        view.ingest([said("m4", "The sky is blue.")], resolve=True)


# --- together -------------------------------------------------------------------------------------


def together(*work: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(work)) as pool:
        return [done.result() for done in [pool.submit(one) for one in work]]


def test_many_who_say_the_same_at_once_make_one_cube(ann: View) -> None:
    def say(who: int) -> list[MemCube]:
        told = [
            said(f"{who}-{n}", text) for n, text in enumerate(("I have a cat.", "I live in Oslo."))
        ]
        return ann.ingest(told, resolve=True)

    together(*[lambda who=who: say(who) for who in range(6)])
    cubes = [hit.cube for hit in ann.search("I have a cat, live in Oslo")]
    assert sorted(cube.text for cube in cubes) == ["I have a cat.", "I live in Oslo."]
    for cube in cubes:
        assert cube.version == len(cube.provenance.message_ids) == 6
    assert ann.stats().messages == 12


def test_the_same_conversation_by_many_at_once_is_read_once(ann: View) -> None:
    told = [said(f"m{n}", f"I have {2 + n % 2} dogs.") for n in range(6)]
    made = together(*[lambda: ann.ingest(told, resolve=True)] * 5)
    (cube,) = {one.id: one for many in made for one in many}.values()
    assert ann.get(cube.id).version == 6
    assert len(ann.get(cube.id).provenance.message_ids) == 6
    assert len(resolved(ann)) == 5


def test_what_moved_on_is_decided_again(ann: View) -> None:
    (cube,) = ann.ingest([said("m1", "I drink black tea.")])
    asked = list[str]()

    def chat(messages: Sequence[Mapping[str, str]], /) -> str:
        if not asked:
            ann.update(cube.id, "I drink green tea.")
        asked.append(messages[-1]["content"])
        return json.dumps({"outcome": "merge", "other": 1, "text": f"I drink tea {len(asked)}."})

    (now,) = ann.ingest([said("m2", "I drink milk tea.")], resolve=chat)
    assert (now.version, now.text) == (3, "I drink tea 2.")
    assert ["green" in one for one in asked] == [False, True]


def test_what_keeps_moving_on_is_added_at_last(ann: View) -> None:
    (cube,) = ann.ingest([said("m1", "I drink black tea.")])
    calls = list[int]()

    def chat(_messages: Sequence[Mapping[str, str]], /) -> str:
        calls.append(1)
        ann.update(cube.id, f"I drink tea number {len(calls)}.")
        return json.dumps({"outcome": "merge", "other": 1})

    (new,) = ann.ingest([said("m2", "I drink milk tea.")], resolve=chat)
    assert (new.id != cube.id, new.text) == (True, "I drink milk tea.")
    assert len(calls) == resolving.ATTEMPTS


def test_forgetting_beside_resolving_leaves_nothing(ann: View, database: str) -> None:
    for number in range(6):
        (cube,) = ann.ingest([said(f"a{number}", "I have two xylophones.")])
        told = [said(f"b{number}", "I have two xylophones.")]
        together(lambda: ann.forget(cube.id), lambda: ann.ingest(told, resolve=True))  # noqa: B023 ends
        for hit in ann.search("xylophones"):
            ann.forget(hit.cube.id)
    assert "xylophones" not in everything_in(database)


def test_in_a_pipeline(memos: MemOS) -> None:
    ann = memos.at("acme", "ann")
    (cube,) = ann.ingest([said("m1", "I have two dogs.")])
    with memos.pipeline(dry_run=True) as p:
        p.at("acme", "ann").ingest([said("m2", "I have three dogs.")], resolve=True)
    assert ann.get(cube.id).version == 1
    with memos.pipeline() as p:
        p.at("acme", "ann").ingest([said("m2", "I have three dogs.")], resolve=True)
    assert ann.get(cube.id).text == "I have three dogs."
