"""The rules of a namespace: what may be kept in it, how much, and how often."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from memos_core import (
    Action,
    Caller,
    InvalidInput,
    LimitExceeded,
    MemOS,
    NotPermitted,
    Retention,
    Rules,
    RulesChanged,
    Sensitive,
    SensitiveText,
    View,
)
from tests.support import WordEmbedder, everything_in

MAIL = "Write to ann@example.com about tea."
CARD = "Her card is 4111 1111 1111 1111."


def test_without_rules_everything_is_kept(view: View) -> None:
    assert view.rules() == Rules()
    cube = view.add(MAIL)
    assert (cube.text, cube.governance.sensitivity) == (MAIL, ())


def test_rules_are_for_a_namespace_and_below_unless_nearer_ones_are_there(memos: MemOS) -> None:
    acme, ann, trips = memos.at("acme"), memos.at("acme", "ann"), memos.at("acme", "ann", "trips")
    wide, near = Rules(max_cubes=9), Rules(sensitive={Sensitive.EMAIL: Action.ALLOW})
    acme.set_rules(wide)
    ann.set_rules(near)
    assert (acme.rules(), ann.rules(), trips.rules()) == (wide, near, near)
    assert memos.at("acme", "bob").rules() == wide
    assert memos.at("acme-corp").rules() == memos.rules() == Rules()
    ann.set_rules(None)
    assert trips.rules() == wide
    ann.set_rules(None)
    assert [event.kind for event in acme.events(kind="ruled")] == ["ruled"] * 3


def test_rules_come_back_as_they_were_set(view: View) -> None:
    rules = Rules(
        sensitive={Sensitive.PHONE: Action.REDACT},
        export={Sensitive.SECRET: Action.REFUSE},
        region="GB",
        max_cubes=1,
        max_characters=2,
        writes_per_minute=3,
        reads_per_minute=4,
        retention=Retention(idle=timedelta(days=1), half_life=timedelta(hours=2), floor=0.2),
    )
    view.set_rules(rules)
    assert view.rules() == rules


@pytest.mark.parametrize(
    "fields",
    [
        {"sensitive": {"mail": "allow"}},
        {"sensitive": {"email": "hide"}},
        {"sensitive": "email"},
        {"export": {1: 2}},
        {"region": "Narnia"},
        {"max_cubes": -1},
        {"max_characters": 1.5},
        {"writes_per_minute": True},
        {"reads_per_minute": "many"},
    ],
)
def test_refuses_rules_that_make_no_sense(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Rules(**fields)


def test_callers_make_no_rules(memos: MemOS) -> None:
    ann = memos.at("acme", caller=Caller(user="ann"))
    with pytest.raises(NotPermitted, match="may not make rules"):
        ann.set_rules(Rules())
    memos.at("acme").set_rules(Rules(max_cubes=5))
    assert ann.rules().max_cubes == 5


# --- what is sensitive ----------------------------------------------------------------------------


def test_what_is_allowed_is_marked(view: View) -> None:
    view.set_rules(Rules(sensitive={Sensitive.EMAIL: Action.ALLOW}))
    mail, plain = view.add([MAIL, "tea"], sensitivity=["diary"])
    assert mail.text == MAIL
    assert mail.governance.sensitivity == ("diary", "email")
    assert plain.governance.sensitivity == ("diary",)
    assert view.get(mail.id).governance.sensitivity == ("diary", "email")
    assert view.add(CARD).governance.sensitivity == (), "it was not looked for"


def test_what_is_hidden_is_nowhere(database: str, view: View) -> None:
    view.set_rules(Rules(sensitive={"email": "redact", "card": "redact"}))
    cube = view.add(MAIL, metadata={"from": ["ann@example.com"]})
    assert cube.text == "Write to [email] about tea."
    assert cube.metadata == {"from": ["[email]"]}
    assert cube.governance.sensitivity == ("email",)
    changed = view.update(cube.id, CARD)
    assert changed.text == "Her card is [card]."
    assert changed.governance.sensitivity == ("email", "card")
    turn = {"role": "user", "content": MAIL, "metadata": {"m": "ann@example.com"}, "x": CARD}
    (said,) = view.ingest([turn])
    assert said.text == "Write to [email] about tea."
    assert said.governance.sensitivity == ("email",)
    assert view.messages()[0].content == "Write to [email] about tea."
    derived = view.derive(f"{MAIL} {CARD}", [cube.id])
    assert derived.text == "Write to [email] about tea. Her card is [card]."
    assert "ann@example.com" not in everything_in(database)
    assert "4111" not in everything_in(database)


def test_what_is_refused_changes_nothing(database: str, view: View) -> None:
    view.set_rules(Rules(sensitive={Sensitive.CARD: Action.REFUSE}))
    cube = view.add("tea")
    before = [view.stats().cubes, view.stats().versions, view.stats().messages]
    for attempt in (
        lambda: view.add(["coffee", CARD]),
        lambda: view.add("coffee", metadata={"n": CARD}),
        lambda: view.update(cube.id, CARD),
        lambda: view.update(cube.id, metadata={"n": CARD}),
        lambda: view.ingest([{"role": "user", "content": "hi"}, {"role": "user", "content": CARD}]),
        lambda: view.derive(CARD, [cube.id]),
        lambda: view.compose([cube.id], CARD),
    ):
        with pytest.raises(SensitiveText, match="rules of acme/ann refuse: card"):
            attempt()
    assert [view.stats().cubes, view.stats().versions, view.stats().messages] == before
    denied = view.events(kind="denied")
    assert len(denied) == 7
    assert denied[0].details == {"right": "write", "because": "sensitive", "kinds": ["card"]}
    assert "4111" not in everything_in(database)


# --- limits ---------------------------------------------------------------------------------------


def test_a_namespace_holds_so_many_cubes(memos: MemOS) -> None:
    acme, ann = memos.at("acme"), memos.at("acme", "ann")
    acme.set_rules(Rules(max_cubes=3))
    one, _ = ann.add(["one", "two"])
    with pytest.raises(LimitExceeded, match="max_cubes is 3, there are 2 and this is 2 more"):
        memos.at("acme", "bob").add(["three", "four"])
    with pytest.raises(LimitExceeded):
        ann.ingest(["three", "four"])
    assert ann.messages() == []
    ann.ingest("three")
    with pytest.raises(LimitExceeded, match="in acme"):
        ann.fuse([cube.cube.id for cube in ann.search("one two")])
    ann.update(one.id, "one, longer")
    ann.forget(one.id)
    acme.add("four")
    memos.at("other").add(["there", "is", "no", "rule"])
    assert acme.events(kind="denied")[0].details["because"] == "limit"


def test_a_namespace_holds_so_many_characters(view: View) -> None:
    view.set_rules(Rules(max_characters=20))
    cube = view.add("x" * 15)
    with pytest.raises(LimitExceeded, match="max_characters"):
        view.add("y" * 6)
    with pytest.raises(LimitExceeded, match="max_characters"):
        view.update(cube.id, "x" * 21)
    assert view.update(cube.id, "x" * 20).version == 2
    assert view.update(cube.id, "x").version == 3, "less is always allowed"


def test_so_much_is_written_in_a_minute(database: str, view: View) -> None:
    view.set_rules(Rules(writes_per_minute=4))
    cube = view.add(["one", "two"])[0]  # to have made the rule was a write, too
    view.update(cube.id, priority=1)
    for attempt in (lambda: view.add("three"), lambda: view.update(cube.id, priority=2)):
        with pytest.raises(LimitExceeded, match="writes_per_minute"):
            attempt()
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE memos.event SET at = at - interval '2 minutes'")
    view.add("three")


def test_so_much_is_read_in_a_minute(view: View) -> None:
    cube = view.add("tea")
    view.set_rules(Rules(reads_per_minute=2))
    view.search("tea")
    view.get(cube.id)
    for attempt in (lambda: view.search("tea"), lambda: view.get(cube.id)):
        with pytest.raises(LimitExceeded, match="reads_per_minute"):
            attempt()


def test_writers_at_once_stay_within_the_limit(database: str, memos: MemOS) -> None:
    memos.set_rules(Rules(max_cubes=10))
    refused: list[LimitExceeded] = []

    def write() -> None:
        with MemOS.open(database, embedder=WordEmbedder()) as other:
            for number in range(5):
                try:
                    other.add(f"tea {number}")
                except LimitExceeded as error:
                    refused.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (memos.stats().cubes, len(refused)) == (10, 10)


# --- rules that change ----------------------------------------------------------------------------


@pytest.fixture
def other(database: str) -> Iterator[MemOS]:
    """Another process's memory of the same database."""
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        yield memos


def test_new_rules_are_in_force_everywhere_at_once(memos: MemOS, other: MemOS) -> None:
    cube = other.add(MAIL)
    for action, text in ((Action.REDACT, "Write to [email] about tea."), (Action.ALLOW, MAIL)):
        memos.set_rules(Rules(sensitive={Sensitive.EMAIL: action}))
        assert other.add(MAIL).text == text
        assert other.update(cube.id, MAIL).text == text
        assert [one.text for one in other.ingest(MAIL)] == [text]
    memos.set_rules(Rules(sensitive={Sensitive.EMAIL: Action.REFUSE}))
    with pytest.raises(SensitiveText):
        other.ingest(MAIL)
    memos.set_rules(None)
    assert other.add(MAIL).text == MAIL


def test_a_pipeline_whose_rules_change_is_undone(memos: MemOS, other: MemOS) -> None:
    other.add("tea")
    memos.set_rules(Rules(sensitive={Sensitive.EMAIL: Action.REDACT}))
    with pytest.raises(RulesChanged, match="try again"), other.pipeline() as p:
        p.add(MAIL)
    assert [hit.text for hit in memos.search("tea")] == ["tea"]
    with other.pipeline() as p:
        assert p.add(MAIL).text == "Write to [email] about tea."
