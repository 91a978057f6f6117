"""Conversations: the message log, and the cubes that are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from memos_core import (
    Caller,
    Embedder,
    InvalidInput,
    InvalidText,
    MemOS,
    Message,
    Settings,
    View,
    render_memories,
)
from memos_core.embedder import Vectors
from memos_core.view import ingesting
from tests.support import WordEmbedder

TURNS: list[dict[str, Any]] = [
    {"id": "m1", "role": "system", "content": "You are a helpful assistant."},
    {"id": "m2", "role": "user", "name": "Ann", "content": "I moved to Oslo."},
    {"id": "m3", "role": "assistant", "content": "", "tool_calls": [{"name": "weather"}]},
    {"id": "m4", "role": "tool", "content": "-7 degrees"},
    {"id": "m5", "role": "assistant", "content": "It is cold there: -7 degrees."},
]


def ids(messages: Sequence[Message]) -> list[str]:
    return [message.id for message in messages]


def test_every_turn_is_logged_and_what_was_said_becomes_cubes(view: View) -> None:
    cubes = view.ingest(TURNS, session="monday")
    assert [cube.text for cube in cubes] == [TURNS[1]["content"], TURNS[4]["content"]]
    assert [cube.provenance.message_ids for cube in cubes] == [("m2",), ("m5",)]
    assert {cube.semantic_type for cube in cubes} == {"turn"}
    assert {cube.provenance.source for cube in cubes} == {"conversation"}
    logged = view.messages()
    assert ids(logged) == ["m1", "m2", "m3", "m4", "m5"]
    assert [message.role for message in logged] == [turn["role"] for turn in TURNS]
    assert [message.content for message in logged] == [turn["content"] for turn in TURNS]
    assert logged[1].name == "Ann"
    assert logged[2].extra == {"tool_calls": [{"name": "weather"}]}
    assert {message.session for message in logged} == {"monday"}


def test_sending_it_again_changes_nothing(view: View) -> None:
    view.ingest(TURNS[:2], session="monday")
    (new,) = view.ingest(TURNS, session="monday")
    assert new.provenance.message_ids == ("m5",)
    assert view.ingest(TURNS, session="monday") == []
    assert view.stats().messages == 5
    assert view.stats().cubes == 2


def test_takes_texts_and_single_turns(view: View) -> None:
    view.ingest("I like tea.")
    view.ingest({"role": "assistant", "content": "Good to know."})
    view.ingest(["I like cake, too.", {"role": "user", "content": "And jam."}])
    assert [(one.role, one.content) for one in view.messages()] == [
        ("user", "I like tea."),
        ("assistant", "Good to know."),
        ("user", "I like cake, too."),
        ("user", "And jam."),
    ]
    assert view.ingest([]) == []


def test_what_is_said_twice_was_said_twice(view: View) -> None:
    again = {"role": "user", "content": "Yes."}
    assert len(view.ingest([again, again])) == 2
    assert len(ids(view.messages())) == 2


def test_sessions_and_the_latest_messages(view: View) -> None:
    view.ingest([{"id": f"a{n}", "role": "user", "content": str(n)} for n in range(3)], session="a")
    view.ingest([{"id": "b0", "role": "user", "content": "b", "session": "b"}], session="a")
    view.ingest([{"id": "n0", "role": "user", "content": "n"}])
    assert ids(view.messages(session="a")) == ["a0", "a1", "a2"]
    assert ids(view.messages(session="a", limit=2)) == ["a1", "a2"]
    assert ids(view.messages(session="b")) == ["b0"]
    assert ids(view.messages()) == ["a0", "a1", "a2", "b0", "n0"]
    assert view.messages()[-1].session is None
    assert view.messages(limit=0) == []


def test_a_retired_session_leaves_the_history_and_stays_known(view: View) -> None:
    (cube,) = view.ingest([TURNS[1]], session="monday")
    assert view.retire("monday") == 1
    assert view.retire("monday") == 0
    assert view.messages(session="monday") == []
    assert ids(view.messages(session="monday", retired=True)) == ["m2"]
    assert view.search("Oslo")[0].cube.id == cube.id
    view.ingest([TURNS[4]], session="monday")
    assert ids(view.messages(session="monday")) == ["m5"]


def test_contents_in_parts(view: View) -> None:
    parts = ["Look:", {"type": "image_url", "image_url": "x"}, {"type": "text", "text": "a cat"}]
    (cube,) = view.ingest([{"role": "user", "content": parts}])
    assert cube.text == "Look:\na cat"
    assert view.ingest([{"role": "user", "content": [{"type": "image_url"}]}]) == []


def test_speaker_and_date_can_be_searched(view: View) -> None:
    said = datetime(2026, 5, 8, tzinfo=UTC)
    for name in ("Zoe", "Bob"):
        view.ingest([{"role": "user", "name": name, "content": "Hello.", "created_at": said}])
    hits = {hit.cube.provenance.speaker: hit for hit in view.search("What did Zoe say in May?")}
    assert hits["Zoe"].reasons["lexical"] > hits["Bob"].reasons["lexical"] > 0


def test_a_long_message_becomes_several_cubes(view: View) -> None:
    sentences = [f"Sentence number {number} of a long story." for number in range(6_000)]
    content = " ".join(sentences)
    cubes = view.ingest([{"id": "long", "role": "user", "content": content}])
    assert len(cubes) == 4
    assert "".join(cube.text for cube in cubes) == content
    assert all(cube.text.rstrip().endswith(".") for cube in cubes), "cut between sentences"
    assert all(cube.provenance.message_ids == ("long",) for cube in cubes)
    assert view.forget(cubes[0].id).message_ids == ("long",)


def test_a_run_without_any_gap_is_cut_anywhere(database: str) -> None:
    settings = Settings(max_text=100)
    with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        cubes = memos.ingest([{"role": "user", "content": "字" * 250}])
        assert [len(cube.text) for cube in cubes] == [100, 100, 50]


# --- nothing said is lost -------------------------------------------------------------------------


class Failing:
    """An embedder that fails until it is mended."""

    name = "words"

    def __init__(self) -> None:
        self.broken = True
        self._embedder: Embedder = WordEmbedder()

    def embed(self, texts: Sequence[str]) -> Vectors:
        if self.broken:
            raise RuntimeError("out of memory")
        return self._embedder.embed(texts)


def test_a_failed_reading_is_made_up_for_by_the_next(database: str) -> None:
    embedder = Failing()
    with MemOS.open(database, embedder=embedder) as memos:
        with pytest.raises(RuntimeError, match="out of memory"):
            memos.ingest(TURNS)
        assert ids(memos.messages()) == ["m1", "m2", "m3", "m4", "m5"]
        assert memos.stats().cubes == 0
        embedder.broken = False
        assert [cube.provenance.message_ids for cube in memos.ingest(TURNS)] == [("m2",), ("m5",)]


def test_leftovers_are_read_by_any_later_call(database: str, age: Any) -> None:
    embedder = Failing()
    with MemOS.open(database, embedder=embedder) as memos:
        with pytest.raises(RuntimeError):
            memos.ingest(TURNS)
        embedder.broken = False
        age(database)
        made = memos.ingest([{"id": "m6", "role": "user", "content": "It is warm again."}])
        assert [cube.provenance.message_ids for cube in made] == [("m6",)]
        assert {hit.message_ids for hit in memos.search("Oslo")} == {("m2",), ("m5",), ("m6",)}


def test_one_that_can_never_be_read_holds_up_no_other(
    database: str, age: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Choosy(WordEmbedder):
        def embed(self, texts: Sequence[str]) -> Vectors:
            if any("poison" in text for text in texts):
                raise ValueError("cannot")
            return super().embed(texts)

    with MemOS.open(database, embedder=Choosy()) as memos:
        with pytest.raises(ValueError, match="cannot"):
            memos.ingest(["first", "poison"])
        for number in range(3):
            age(database)
            assert len(memos.ingest(f"tea {number}")) == 1
        assert {hit.text for hit in memos.search("tea")} == {"first", "tea 0", "tea 1", "tea 2"}
        assert "still cannot be read" in caplog.text
        before = len(caplog.records)
        memos.ingest("tea 3")
        assert len(caplog.records) == before, "it is due again later, and ever later"


def test_leftovers_stay_who_s_they_were(database: str, age: Any) -> None:
    embedder = Failing()
    with MemOS.open(database, embedder=embedder) as memos:
        alice, bob = (memos.at("acme", caller=Caller(user=name)) for name in ("alice", "bob"))
        with pytest.raises(RuntimeError):
            alice.ingest("Alice's words")
        embedder.broken = False
        age(database)
        bob.ingest("Bob's words")
        assert {hit.text for hit in memos.at("acme").search("words")} == {"Bob's words"}
        memos.at("acme").ingest({"role": "tool", "content": "the application's"})
        owners = {hit.text: hit.cube.governance.owner for hit in memos.at("acme").search("words")}
        assert owners == {"Alice's words": "alice", "Bob's words": "bob"}


def test_a_large_conversation_is_read_in_parts(ann: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingesting, "READ_BATCH", 10)
    turns = [{"id": str(n), "role": "user", "content": f"line {n}"} for n in range(35)]
    assert [cube.text for cube in ann.ingest(turns)] == [turn["content"] for turn in turns]
    assert [len(event.cube_ids) for event in ann.events()] == [5, 10, 10, 10]


def test_one_id_in_two_sessions_is_two_messages(view: View) -> None:
    for session in ("monday", "tuesday"):
        view.ingest([{"id": "m1", "role": "user", "content": f"It is {session}."}], session=session)
    assert [one.content for one in view.messages()] == ["It is monday.", "It is tuesday."]
    hit = view.search("It is tuesday", context=1, k=1)[0]
    assert [turn.session for turn in hit.context] == ["tuesday"]
    view.forget(hit.cube.id)
    assert [one.content for one in view.messages()] == ["It is monday."]


def test_the_day_is_the_speaker_s(view: View) -> None:
    said = "2026-03-01T00:30:00+09:00"
    (cube,) = view.ingest([{"role": "user", "content": "Good night.", "created_at": said}])
    assert cube.provenance.said_at == datetime.fromisoformat(said)
    assert render_memories([cube]) == "- [2026-03-01] user: Good night."
    (message,) = view.messages()
    assert message.created_at is not None
    assert message.created_at.isoformat() == said
    assert view.search("What was said in March?")[0].reasons["lexical"] > 0
    assert "lexical" not in view.search("What was said in February?")[0].reasons


def test_metadata_of_a_turn_goes_to_its_cube(view: View) -> None:
    view.ingest([{"role": "user", "content": "zebra", "metadata": {"year": 2020}, "other": 1}])
    (hit,) = view.search("zebra", filter={"year": 2020})
    assert hit.cube.metadata == {"year": 2020}


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        ("a\x00b\ud800", "a\ufffdb\ufffd"),
        (["a\x00", {"type": "text", "text": "b"}], "a\ufffd\nb"),
        (None, ""),
    ],
)
def test_what_cannot_be_stored_is_replaced_on_request(
    view: View, content: Any, stored: str
) -> None:
    said = datetime(2026, 3, 1, tzinfo=UTC)
    values = {"nan": float("nan"), "when": said, 7: {"x": object}, "list": ("a\x00", 1.5, None)}
    turn = {"role": "user", "content": content, "created_at": said, "calls": values}
    with pytest.raises(InvalidInput):
        view.ingest(turn)
    view.ingest(turn, repair=True)
    (message,) = view.messages()
    assert message.content == stored
    assert message.created_at == said
    assert message.extra["calls"] == {
        "nan": "nan",
        "when": str(said),
        "7": {"x": "<class 'object'>"},
        "list": ["a\ufffd", 1.5, None],
    }


def test_a_long_message_is_cut_on_request(view: View) -> None:
    for given in ("x" * 2_000_000, {"role": "user", "content": ["x" * 600_000] * 2}):
        view.ingest(given, repair=True)
    first, second = view.messages()
    assert len(first.content) == len(second.content) == 1_000_000
    assert first.content.endswith("[2,000,000 characters, cut]")


def test_a_message_forgotten_before_it_was_read_stays_forgotten(ann: View) -> None:
    (cube,) = ann.ingest([TURNS[1]])
    ann.forget(cube.id)
    assert ann.ingest(TURNS[1:2]) == []
    assert ann.stats().cubes == 0


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (7, "a message is a mapping"),
        ([["user", "hello"]], "a message is a mapping"),
        ({"content": "no role"}, "role"),
        ({"role": "", "content": "x"}, "role"),
        ({"role": 7, "content": "x"}, "role"),
        ({"role": "user", "content": 7}, "text or parts"),
        ({"role": "user", "content": "a\x00b"}, "NUL"),
        ({"role": "user", "content": "a\ud800"}, "surrogate"),
        ({"role": "user", "content": "x" * 1_000_001}, "over 1,000,000; split it"),
        ({"role": "user", "content": "x", "id": "i" * 600}, "512 bytes"),
        ({"role": "user", "content": "x", "id": 7}, "id"),
        ({"role": "user", "content": "x", "id": 0}, "id"),
        ({"role": "user", "content": "x", "name": "n" * 600}, "512 bytes"),
        ({"role": "user", "content": "x", "name": 7}, "name"),
        ({"role": "user", "content": "x", "created_at": "noon"}, "created_at"),
        ({"role": "user", "content": "x", "session": 7}, "session"),
        ({"role": "user", "content": "x", "metadata": 7}, "metadata"),
        ({"role": "user", "content": "x", "when": datetime(2026, 1, 1, tzinfo=UTC)}, "JSON"),
    ],
)
def test_refuses_what_cannot_be_stored(view: View, message: Any, error: str) -> None:
    good = {"role": "user", "content": "good"}
    batch = [good, message] if isinstance(message, dict) else message
    with pytest.raises((InvalidInput, InvalidText), match=error):
        view.ingest(batch)
    assert view.messages() == [], "none of a batch is stored"


def test_refuses_two_messages_under_one_id(view: View) -> None:
    one = {"id": "m1", "role": "user", "content": "one"}
    with pytest.raises(InvalidInput, match="two different messages have the id 'm1'"):
        view.ingest([one, one | {"content": "two"}])
    assert len(view.ingest([one, one])) == 1


def test_what_is_stored_is_read_later(view: View) -> None:
    read = view.ingest_later(TURNS, session="monday")
    assert ids(view.messages()) == ["m1", "m2", "m3", "m4", "m5"]
    assert view.stats().cubes == 0
    made = read()
    assert [cube.text for cube in made] == [TURNS[1]["content"], TURNS[4]["content"]]
    assert read() == []
    assert view.stats().cubes == 2


def test_what_was_forgotten_before_it_is_read_does_not_come_back(view: View) -> None:
    read = view.ingest_later(TURNS, session="monday")
    view.forget_all(session="monday")
    assert read() == []
    assert view.stats().cubes == 0


def test_nothing_stored_is_nothing_read(view: View) -> None:
    assert view.ingest_later([])() == []


def test_what_is_stored_only_is_read_when_it_is_sent_again(view: View) -> None:
    view.ingest_later(TURNS, session="monday")
    made = view.ingest(TURNS, session="monday")
    assert [cube.text for cube in made] == [TURNS[1]["content"], TURNS[4]["content"]]
    assert view.ingest(TURNS, session="monday") == []
    assert len(view.messages()) == 5
