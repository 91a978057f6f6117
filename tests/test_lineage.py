"""What is made of what: derived, composed and fused cubes, and that none outlives its sources."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from io import StringIO
from itertools import count
from random import Random
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import rich
from rich.console import Console

from memos_core import (
    Caller,
    CubeExists,
    CubeFrozen,
    CubeNotFound,
    Edge,
    IllegalTransition,
    InvalidInput,
    InvalidText,
    Lineage,
    MemCube,
    MemOS,
    NotPermitted,
    Relation,
    Settings,
    State,
    VersionConflict,
    View,
)
from memos_core.fusion import fused_by_rule
from tests.support import WordEmbedder, everything_in, until
from tests.test_lifecycle import blocked, found
from tests.test_search_index import assert_consistent

LAST = UUID(int=2**128 - 1)  # an id after those of all bundles


def state(view: View, cube: MemCube) -> State:
    return view.history(cube.id)[-1].state


def kinds(view: View) -> list[str]:
    """Return what happened, the latest first; reads aside."""
    return [event.kind for event in view.events() if event.kind not in ("read", "searched")]


def is_gone(view: View, cube: MemCube) -> bool:
    """Tell whether nothing finds a cube any more."""
    with pytest.raises(CubeNotFound):
        view.get(cube.id)
    assert not view.stands([cube])
    return cube.id not in found(view, states=list(State))


@contextmanager
def held(dsn: str, cube: MemCube) -> Iterator[psycopg.Connection[Any]]:
    """Hold a cube's row until the block ends."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT FROM memos.cube WHERE id = %s FOR UPDATE", [cube.id])
        yield connection


def in_turn(dsn: str, cube: MemCube, *verbs: Callable[[], Any]) -> list[Future[Any]]:
    """Let verbs begin one after another while a row they need is held, then go on in that order."""
    with ThreadPoolExecutor(len(verbs)) as pool:
        with held(dsn, cube):
            begun: list[Future[Any]] = []
            for verb in verbs:
                begun.append(pool.submit(verb))
                until_stuck(dsn, *begun)
        return begun


def until_stuck(dsn: str, *begun: Future[Any]) -> None:
    """Wait until all that was begun waits for a lock, or is done."""
    until(lambda: blocked(dsn) >= sum(not one.done() for one in begun))


class Chat:
    """A language model that answers what it is told to, and keeps what it was sent."""

    def __init__(self, answer: Any = "One word.", then: Callable[[], object] = list) -> None:
        self.answer = answer
        self.then = then
        self.sent: list[Sequence[Mapping[str, str]]] = []

    def __call__(self, messages: Sequence[Mapping[str, str]]) -> str:
        self.sent.append(messages)
        self.then()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


# --- derive ---------------------------------------------------------------------------------------


def test_a_derived_cube_is_one_like_any_other(view: View) -> None:
    one, two = view.add(["A word.", "Two words."], tags=["old"], metadata={"old": 1}, priority=9)
    made = view.derive(
        "Made of words.",
        [one.id, str(two.id), one.id],
        tags=["new"],
        metadata={"new": 1},
        semantic_type="summary",
        source="me",
        priority=3,
    )
    assert (made.text, made.version, made.state) == ("Made of words.", 1, State.GENERATED)
    assert (made.tags, made.metadata, made.semantic_type) == (("new",), {"new": 1}, "summary")
    assert (made.provenance.source, made.governance.priority) == ("me", 3)
    assert view.history(made.id) == [made]
    assert replace(view.get(made.id), usage=None) == made
    assert found(view) == {one.id, two.id, made.id}
    assert view.search("made")[0].cube.id == made.id
    (event,) = view.events(kind="derived")
    assert event.cube_ids == (made.id,)
    assert event.details == {"parents": [str(one.id), str(two.id)]}
    changed = view.update(made.id, "Made of other words.", tags=["newer"])
    assert view.restore(made.id, version=1).text == made.text
    assert changed.version == 2
    assert view.stats().cubes == 3
    view.archive(made.id)
    view.forget(made.id)
    assert [len(view.history(cube.id)) for cube in (one, two)] == [1, 1]


def test_of_one_or_many_in_any_state_that_can_be_had(view: View) -> None:
    cubes = view.add([f"word {number}" for number in range(4)])
    view.archive(cubes[0].id)
    view.freeze(cubes[1].id)
    fused = view.fuse([cubes[2].id, cubes[3].id])
    of_one = view.derive("Made.", str(cubes[0].id))
    of_all = view.derive("Made.", (cube.id for cube in [*cubes, fused, of_one]))
    assert len(view.provenance(of_all.id).parents(of_all.id)) == 6
    assert view.compose([cubes[2].id, cubes[0].id], "x").text == "x\nword 2\nword 0"


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("", "PARENT"), {}, InvalidText),
        (("\x00", "PARENT"), {}, InvalidText),
        (("x" * 65_537, "PARENT"), {}, InvalidText),
        (("text", []), {}, InvalidInput),
        (("text", "seven"), {}, InvalidInput),
        (("text", "PARENT"), {"tags": "one"}, InvalidInput),
        (("text", "PARENT"), {"metadata": {"a": object()}}, InvalidInput),
        (("text", "PARENT"), {"semantic_type": ""}, InvalidInput),
        (("text", "PARENT"), {"priority": 0.5}, InvalidInput),
    ],
)
def test_what_cannot_be_stored_is_derived_of_nothing(
    ann: View, arguments: tuple[Any, Any], options: Any, error: type[Exception]
) -> None:
    parent = ann.add("A word.")
    text, ids = arguments
    with pytest.raises(error):
        ann.derive(text, parent.id if ids == "PARENT" else ids, **options)
    assert ann.stats().versions == 1


def test_of_what_is_not_there_nothing_is_made(memos: MemOS, view: View) -> None:
    there, ended = view.add(["A word.", "Two words."])
    below, above = memos.at("acme", "ann", "trips"), memos.at("acme")
    other, mine = memos.at("acme", "bob").add("His word."), below.add("Below.")
    view.expire(ended.id)
    for missing in (uuid4(), ended.id, other.id):
        for verb in (
            lambda missing=missing: view.derive("Made.", [there.id, missing]),
            lambda missing=missing: view.compose([there.id, missing], "x"),
            lambda missing=missing: view.fuse([there.id, missing]),
            lambda missing=missing: view.relate(there.id, "about", missing),
            lambda missing=missing: view.relate(missing, "about", there.id),
        ):
            with pytest.raises(CubeNotFound, match=str(missing)) as raised:
                verb()
            assert str(there.id) not in str(raised.value)
    with pytest.raises(CubeNotFound):
        view.provenance(other.id)
    assert view.history(there.id) == [there]
    assert view.derive("Made.", [there.id, mine.id]).namespace == ("acme", "ann")
    assert above.derive("Made.", [there.id, other.id]).namespace == ("acme",)


# --- the header of what is made -------------------------------------------------------------------


def make(view: View, how: str, ids: list[UUID]) -> MemCube:
    if how == "derive":
        return view.derive("Made.", ids)
    return view.compose(ids, "x") if how == "compose" else view.fuse(ids)


MADE = pytest.mark.parametrize("how", ["derive", "compose", "fuse"])


@MADE
def test_it_is_no_truer_longer_lived_or_more_public_than_its_parents(ann: View, how: str) -> None:
    one = ann.add(
        "A word.",
        sensitivity=["health", "home"],
        valid_from="2020-01-01T00:00:00+00:00",
        valid_to="2999-01-01T00:00:00+00:00",
        ttl=1000,
    )
    two = ann.add(
        "Two words.",
        sensitivity=["work", "health"],
        valid_from="2021-01-01T00:00:00+00:00",
        valid_to="2998-01-01T00:00:00+00:00",
        ttl=100,
    )
    free = ann.add("Three words.")
    made = make(ann, how, [free.id, two.id, one.id])
    assert set(made.governance.sensitivity) == {"health", "home", "work"}
    assert len(made.governance.sensitivity) == 3
    assert made.valid_from == datetime(2021, 1, 1, tzinfo=UTC)
    assert made.valid_to == datetime(2998, 1, 1, tzinfo=UTC)
    end = two.governance.expires_at
    assert made.governance.expires_at is not None
    assert end is not None
    assert abs(made.governance.expires_at - end) < timedelta(seconds=60)
    assert ann.history(made.id) == [made]
    plain = make(ann, how, [ann.add("A plain word.").id, ann.add("Plain words.").id])
    assert plain.governance.sensitivity == ()
    assert (plain.valid_from, plain.valid_to, plain.governance.expires_at) == (None, None, None)


@MADE
def test_it_ends_when_the_first_of_its_parents_does(ann: View, how: str) -> None:
    one, two = ann.add("A word.", ttl=100), ann.add("Two words.")
    made = make(ann, how, [one.id, two.id])
    assert made.governance.expires_at is not None
    assert one.governance.expires_at is not None
    assert made.governance.expires_at <= one.governance.expires_at


@MADE
def test_what_was_never_true_at_once_is_not_made_one(ann: View, how: str) -> None:
    one = ann.add("A word.", valid_to="2020-01-01T00:00:00+00:00")
    two = ann.add("Two words.", valid_from="2020-01-01T00:00:00+00:00")
    with pytest.raises(InvalidInput, match="never all true at once"):
        make(ann, how, [one.id, two.id])
    assert ann.history(one.id) == [one]
    assert ann.stats().versions == 2


def test_a_fusion_has_what_its_sources_have(view: View) -> None:
    later = view.add(
        "It is true later.",
        tags=["b", "c"],
        metadata={"same": "later", "later": 1},
        priority=-5,
        semantic_type="plan",
        valid_from="2021-01-01",
    )
    sooner = view.add(
        "It is true sooner.",
        tags=["a", "b"],
        metadata={"same": "sooner", "sooner": {"x": 1}},
        priority=7,
        semantic_type="plan",
        valid_from="2020-01-01",
    )
    made = view.fuse([later.id, sooner.id])
    assert made.text == "It is true sooner.\nIt is true later."
    assert made.tags == ("a", "b", "c")
    assert made.metadata == {"same": "later", "later": 1, "sooner": {"x": 1}}
    assert made.governance.priority == 7
    assert made.semantic_type == "plan"
    assert made.provenance.source == "rule"
    assert view.fuse([made.id, view.add("A fact.").id]).semantic_type == "fact"


@MADE
def test_it_is_his_who_made_it_else_theirs_who_all_own_it(memos: MemOS, how: str) -> None:
    app = memos.at("acme")
    ann, bob = (memos.at("acme", caller=Caller(user=user)) for user in ("ann", "bob"))
    ann.grant(user="bob", rights=["read", "derive", "write"])
    hers, too = ann.add(["Her word.", "Her words."])
    his = bob.add("His word.")
    assert make(app, how, [hers.id, too.id]).governance.owner == "ann"
    assert make(app, how, [hers.id, app.add("Nobody's.").id]).governance.owner is None
    assert make(app, how, [his.id, too.id]).governance.owner is None
    app.forget_all()
    hers, his = ann.add("Her word."), bob.add("His word.")
    made = make(bob, how, [his.id, hers.id])
    assert (made.governance.owner, made.provenance.created_by) == ("bob", "bob")


def test_sensitivity_grows_with_what_a_bundle_is_made_of(view: View) -> None:
    member = view.add("A word.")
    view.compose([member.id], "x")
    view.update(member.id, sensitivity=["health"])
    assert view.compose([member.id], "x").governance.sensitivity == ("health",)


@MADE
def test_what_is_made_is_never_less_sensitive_than_its_parents(ann: View, how: str) -> None:
    one, two = ann.add("A word.", sensitivity=["work"]), ann.add("Two words.")
    made = make(ann, how, [one.id, two.id])
    again = ann.derive("Made of what was made.", made.id)
    ann.update(two.id, sensitivity=["health", "work"])
    for cube in (made, again):
        last = ann.get(cube.id)
        assert (last.text, last.version, last.governance.sensitivity) == (
            cube.text,
            2,
            ("work", "health"),
        )
        assert ann.history(cube.id)[0] == cube
        assert cube.id in found(ann)
    events = ann.events(kind="marked")
    assert {event.cube_ids for event in events} == {(made.id,), (again.id,)}
    assert events[0].details == {"version": 2, "because_of": [str(two.id)]}
    ann.update(two.id, sensitivity=[])
    ann.update(two.id, sensitivity=["health"])
    assert ann.get(made.id).version == 2, "it is as sensitive already"
    assert ann.update(again.id, sensitivity=["home"]).governance.sensitivity == (
        "home",
        "health",
        "work",
    )
    restored = ann.restore(again.id, version=1)
    assert restored.governance.sensitivity == ("work", "health")


def test_what_is_frozen_grows_as_sensitive_as_its_parents(view: View) -> None:
    parent = view.add("A word.")
    made = view.derive("Made of it.", parent.id)
    view.archive(made.id)
    view.freeze(made.id)
    view.update(parent.id, sensitivity=["health"])
    assert view.get(made.id).governance.sensitivity == ("health",)
    thawed = view.unfreeze(made.id)
    assert (thawed.state, thawed.version) == (State.ARCHIVED, 5)
    assert thawed.governance.sensitivity == ("health",)


def test_a_bundle_that_grew_as_sensitive_as_its_members_is_the_same(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    made = view.compose([one.id, two.id], "x")
    view.update(two.id, sensitivity=["b"])
    view.update(one.id, sensitivity=["a"])
    assert view.compose([one.id, two.id], "x").version == made.version + 2
    assert len(view.events(kind="composed")) == 1


def test_a_source_marked_first_marks_what_is_made_of_it(ann: View, database: str) -> None:
    grand = ann.add("A word.")
    parent = ann.derive("It is a word.", grand.id)
    marking, deriving = in_turn(
        database,
        grand,
        lambda: ann.update(grand.id, sensitivity=["health"]),
        lambda: ann.derive("Something of it.", parent.id),
    )
    assert marking.result().version == 2
    assert deriving.result().governance.sensitivity == ("health",)


def test_what_was_derived_first_is_marked_with_its_source(ann: View, database: str) -> None:
    grand = ann.add("A word.")
    parent = ann.derive("It is a word.", grand.id)
    deriving, marking = in_turn(
        database,
        grand,
        lambda: ann.derive("Something of it.", parent.id),
        lambda: ann.update(grand.id, sensitivity=["health"]),
    )
    marking.result()
    assert ann.get(deriving.result().id).governance.sensitivity == ("health",)


def test_a_bundle_made_again_lives_as_long_as_its_members_do_now(view: View) -> None:
    member = view.add("A word.", ttl=100)
    once = view.compose([member.id], "x").governance.expires_at
    view.update(member.id, ttl=10_000)
    again = view.compose([member.id], "x").governance.expires_at
    assert once is not None
    assert again is not None
    assert again - once > timedelta(seconds=5_000)


# --- compose --------------------------------------------------------------------------------------


def test_a_bundle_says_what_its_members_say_in_their_order(view: View) -> None:
    one, two = view.add(["A word.", "Two words."], tags=["old"], metadata={"old": 1})
    made = view.compose(
        [two.id, one.id], "Ann's words", tags=["new"], metadata={"n": 1}, priority=4
    )
    assert made.text == "Ann's words\nTwo words.\nA word."
    assert (made.semantic_type, made.tags, made.version) == ("bundle", ("new",), 1)
    assert made.metadata == {"n": 1, "bundle": "Ann's words"}
    assert made.governance.priority == 4
    assert [view.history(cube.id) for cube in (one, two)] == [[one], [two]], "they stay"
    assert found(view) == {one.id, two.id, made.id}
    assert view.search("What are Ann's words?", k=1)[0].cube.id == made.id
    edges = view.provenance(made.id).parents(made.id)
    assert [(edge.parent, edge.relation) for edge in edges] == [
        (two.id, Relation.COMPOSED),
        (one.id, Relation.COMPOSED),
    ]
    assert kinds(view) == ["composed", "added"]


def test_a_bundle_made_again_of_the_same_is_the_same(view: View) -> None:
    ids = [cube.id for cube in view.add(["A word.", "Two words."])]
    made = view.compose(ids, "x", tags=["t"], metadata={"a": 1}, priority=1)
    seen = view.derive("Of the bundle.", made.id)
    assert view.compose(ids, "x", tags=["t"], metadata={"a": 1}, priority=1) == made
    view.archive(ids[0])
    view.update(ids[1], tags=["other"], priority=3)
    again = view.compose(map(str, ids), "x", tags=["t"], metadata={"a": 1}, priority=1)
    assert (again.id, again.version) == (made.id, 1)
    assert view.history(made.id) == [made]
    assert view.get(seen.id).text == seen.text
    assert kinds(view) == ["updated", "archived", "derived", "composed", "added"]


@pytest.mark.parametrize("what", ["order", "members", "tags", "metadata", "priority"])
def test_a_bundle_made_again_of_other_things_is_another_version(ann: View, what: str) -> None:
    one, two = ann.add(["A word.", "Two words."])
    made = ann.compose([one.id, two.id], "x")
    seen = ann.derive("Of the bundle.", made.id)
    ids = {"order": [two.id, one.id], "members": [one.id]}.get(what, [one.id, two.id])
    options: dict[str, Any] = {"tags": {"tags": ["t"]}, "metadata": {"metadata": {"a": 1}}}
    again = ann.compose(ids, "x", **options.get(what, {"priority": 1}))
    assert (again.id, again.version) == (made.id, 2)
    assert again.text == "\n".join(["x", *(ann.get(one).text for one in ids)])
    assert ann.history(made.id) == [again]
    assert [edge.parent for edge in ann.provenance(made.id).edges] == ids
    assert ann.get(made.id).version == 2
    assert is_gone(ann, seen)
    assert ann.update(made.id, priority=9).version == 3
    assert ann.compose(ids, "x", tags=["last"]).version == 4


def test_nothing_of_what_left_a_bundle_stays_in_it(view: View, database: str) -> None:
    old, new = view.add(["The xyzzy word.", "Two words."])
    made = view.compose([old.id, new.id], "x")
    view.update(made.id, tags=["t"])
    view.search("xyzzy")
    view.compose([new.id], "x")
    report = view.forget(old.id)
    assert (report.cubes, report.derived) == ((old.id,), ())
    assert "xyzzy" not in everything_in(database)
    assert view.get(made.id).text == "x\nTwo words."


def test_a_changed_member_ends_a_bundle_which_can_be_made_again(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    made = view.compose([one.id, two.id], "x")
    view.update(one.id, "Another word.")
    assert is_gone(view, made)
    assert state(view, made) is State.EXPIRED
    again = view.compose([one.id, two.id], "x")
    assert (again.id, again.version, again.text) == (made.id, 3, "x\nAnother word.\nTwo words.")
    assert view.history(made.id) == [again]
    assert found(view) == {one.id, two.id, made.id}


def test_a_version_that_went_with_old_members_cannot_be_restored(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    made = view.compose([one.id], "x")
    again = view.compose([two.id], "x")
    assert again.version == 2
    with pytest.raises(CubeNotFound, match="has no version 1"):
        view.restore(made.id, version=1)
    assert view.history(made.id) == [again]


def test_a_version_that_cannot_be_restored_is_no_end_of_changes(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    view.compose([one.id], "x")
    made = view.compose([two.id], "x")
    with pytest.raises(Exception):  # noqa: B017, PT011 whatever it is
        view.restore(made.id, version=1)
    assert view.history(made.id) == [made]
    assert view.update(made.id, tags=["t"]).version == 3
    assert view.archive(made.id).version == 4


def test_a_name_is_a_bundle_of_its_namespace(memos: MemOS) -> None:
    views = [memos.at(*path) for path in (("acme",), ("acme", "ann"), ("acme", "x"), ("other",))]
    made: list[MemCube] = []
    for number, view in enumerate(views):
        member = view.add(f"word {number}")
        made += [view.compose([member.id], name) for name in ("x", "X", " x", '","x', "名前")]
    assert len({cube.id for cube in made}) == len(made)
    assert {cube.version for cube in made} == {1}


def test_a_bundle_cannot_be_in_itself(view: View) -> None:
    member = view.add("A word.")
    inner = view.compose([member.id], "inner")
    middle = view.derive("Of the inner one.", inner.id)
    outer = view.compose([middle.id], "outer")
    for ids in ([inner.id], [outer.id], [member.id, middle.id]):
        with pytest.raises(InvalidInput, match=r"cannot be in itself.*'inner'"):
            view.compose(ids, "inner")
    with pytest.raises(InvalidInput, match="name the cubes"):
        view.compose([], "inner")
    with pytest.raises(InvalidText, match="name"):
        view.compose([member.id], "  ")
    long = view.add(["x" * 40_000, "y" * 40_000])
    with pytest.raises(InvalidText, match="the bundle 'inner'"):
        view.compose([cube.id for cube in long], "inner")
    assert view.get(inner.id).version == 1
    assert view.get(outer.id).version == 1


def test_a_frozen_bundle_is_not_made_again(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    made = view.compose([one.id], "x")
    frozen = view.freeze(made.id)
    assert view.compose([one.id], "x") == frozen, "nothing has changed"
    with pytest.raises(CubeFrozen, match=str(made.id)):
        view.compose([two.id], "x")
    with pytest.raises(CubeFrozen, match=str(made.id)):
        view.compose([one.id], "x", tags=["new"])
    assert view.history(made.id) == [made, frozen]


def test_a_bundle_made_again_is_back_from_the_archive(view: View) -> None:
    member = view.add("A word.")
    made = view.compose([member.id], "x")
    seen = view.derive("Of the bundle.", made.id)
    view.archive(made.id)
    again = view.compose([member.id], "x")
    assert (again.id, again.state, again.version) == (made.id, State.ACTIVATED, 3)
    assert again == view.history(made.id)[-1]
    assert found(view) == {member.id, made.id, seen.id}
    assert kinds(view)[:2] == ["activated", "archived"]


def test_his_bundle_is_back_from_the_archive_for_him(memos: MemOS) -> None:
    bob = memos.at("acme", caller=Caller(user="bob"))
    member = memos.at("acme").add("Nobody's word.")
    bob.archive(bob.compose([member.id], "x").id)
    assert bob.compose([member.id], "x").state is State.ACTIVATED


def test_what_is_composed_can_be_had(view: View) -> None:
    member = view.add("A word.")
    made = view.compose([member.id], "x")
    view.freeze(made.id)
    view.update(member.id, "Another word.")
    view.restore(member.id, version=1)
    assert is_gone(view, made), "it was made of an earlier version"
    view.unfreeze(made.id)
    again = view.compose([member.id], "x")
    assert view.get(again.id).text == "x\nA word."


def test_a_name_is_a_bundle_of_its_owner(memos: MemOS) -> None:
    ann, bob, carol = (
        memos.at("acme", caller=Caller(user=user)) for user in ("ann", "bob", "carol")
    )
    one, two = memos.at("acme").add(["Nobody's word.", "Nobody's words."])
    hers = ann.compose([one.id], "x")
    ann.grant(user="carol", cube=hers.id)
    same, other = bob.compose([one.id], "x"), carol.compose([two.id], "x", tags=["t"])
    assert len({hers.id, same.id, other.id}) == 3
    assert (bob.get(same.id).text, carol.get(other.id).text) == (same.text, other.text)
    assert bob.compose([two.id], "x").version == 2
    assert ann.history(hers.id)[0].text == hers.text
    ann.expire(hers.id)
    bob.compose([one.id], "x")
    carol.compose([one.id], "x")
    assert [one.governance.owner for one in ann.history(hers.id)] == ["ann", "ann"]
    assert ann.compose([one.id], "x").version == 3
    with pytest.raises(CubeNotFound):
        carol.get(same.id)


def test_a_bundle_takes_no_place_of_another_cube(memos: MemOS) -> None:
    ann, bob = (memos.at("acme", caller=Caller(user=user)) for user in ("ann", "bob"))
    member = memos.at("acme").add("Nobody's word.")
    hers = ann.compose([member.id], "x")
    ann.forget(hers.id)
    his = bob.add("A word under an id that she will want.", id=hers.id)
    with pytest.raises(CubeExists, match=str(hers.id)):
        ann.compose([member.id], "x")
    assert bob.history(his.id) == [his]


# --- fuse -----------------------------------------------------------------------------------------


def test_a_fusion_speaks_for_its_sources(view: View) -> None:
    one, two, other = view.add(["A word. It is red.", "It is RED!  Two words.", "Other word."])
    made = view.fuse([two.id, one.id])
    assert made.text == "A word.\nIt is RED!\nTwo words."
    assert (made.state, made.version) == (State.GENERATED, 1)
    assert found(view) == {other.id, made.id}
    assert found(view, states=["merged"]) == {one.id, two.id}
    for cube in (one, two):
        got = view.get(cube.id)
        assert (got.text, got.state, got.version) == (cube.text, State.MERGED, 2)
    edges = view.provenance(made.id).parents(made.id)
    assert {(edge.parent, edge.relation, edge.parent_version) for edge in edges} == {
        (cube.id, Relation.MERGED, 1) for cube in (one, two)
    }
    assert kinds(view) == ["merged", "fused", "added"]
    (event,) = view.events(kind="merged")
    assert set(event.cube_ids) == {one.id, two.id}


def test_a_model_is_sent_what_is_to_be_fused_in_order(view: View) -> None:
    later = view.add("Ann lives in Halle.", valid_from="2021-06-01T00:00:00+00:00")
    (said,) = view.ingest(
        [{"role": "user", "content": "I live\nin Leipzig.", "created_at": "2020-03-04T00:00:00Z"}]
    )
    chat = Chat("  Ann lives in Halle, since 2021.\n")
    made = view.fuse([later.id, said.id], chat=chat)
    assert (made.text, made.provenance.source) == ("Ann lives in Halle, since 2021.", "model")
    ((system, user),) = chat.sent
    assert (system["role"], user["role"]) == ("system", "user")
    assert "Answer with the memory alone" in system["content"]
    assert user["content"] == (
        "1. [2020-03-04] I live\nin Leipzig.\n2. [2021-06-01] Ann lives in Halle."
    )


@pytest.mark.parametrize("answer", ["", " \n\t", None, "a \x00", "x" * 65_537])
def test_a_model_that_wrote_nothing_to_keep_changes_nothing(ann: View, answer: Any) -> None:
    cubes = ann.add(["A word.", "Two words."])
    with pytest.raises(InvalidText):
        ann.fuse([cube.id for cube in cubes], chat=Chat(answer))
    assert [ann.history(cube.id) for cube in cubes] == [[cube] for cube in cubes]
    assert kinds(ann) == ["added"]


def test_a_model_that_fails_changes_nothing(view: View) -> None:
    cubes = view.add(["A word.", "Two words."])
    chat = Chat(ZeroDivisionError("the model is away"))
    with pytest.raises(ZeroDivisionError, match="the model is away"):
        view.fuse([cube.id for cube in cubes], chat=chat)
    assert len(chat.sent) == 1
    assert [view.history(cube.id) for cube in cubes] == [[cube] for cube in cubes]
    assert kinds(view) == ["added"]


def test_a_model_is_asked_again_where_a_source_changed_meanwhile(ann: View) -> None:
    one, two = ann.add(["A word.", "Two words."])
    changes = [lambda: ann.archive(two.id), lambda: ann.update(one.id, "Another word.")]
    chat = Chat(then=lambda: changes and changes.pop()())
    with pytest.raises(IllegalTransition, match=f"archived: {two.id}; activate it first"):
        ann.fuse([one.id, two.id], chat=chat)
    ann.activate(two.id)
    made = ann.fuse([one.id, two.id], chat=chat)
    assert "Another word." in chat.sent[-1][1]["content"]
    assert (len(chat.sent), made.text) == (4, "One word.")


def test_a_model_is_not_asked_for_ever(ann: View) -> None:
    one, two = ann.add(["A word.", "Two words."])
    numbers = count()
    chat = Chat(then=lambda: ann.update(one.id, f"word {next(numbers)}"))
    with pytest.raises(VersionConflict, match="try again"):
        ann.fuse([one.id, two.id], chat=chat)
    assert len(chat.sent) == next(numbers) == 5
    assert found(ann) == {one.id, two.id}


def test_sources_that_ended_while_the_model_wrote_are_missed(ann: View) -> None:
    one, two = ann.add(["A word.", "Two words."])
    with pytest.raises(CubeNotFound, match=str(one.id)):
        ann.fuse([one.id, two.id], chat=Chat(then=lambda: ann.forget(one.id)))
    assert ann.history(two.id) == [two]


def test_a_source_forgotten_while_the_model_wrote_is_not_taken_for_its_next(
    ann: View, database: str
) -> None:
    one, two = ann.add(["The xyzzy word.", "Two words."])

    def forget_and_add() -> None:
        if len(chat.sent) == 1:
            ann.forget(one.id)
            ann.add("A new word.", id=one.id)  # its version is 1 as well
        chat.answer = chat.sent[-1][1]["content"]

    chat = Chat(then=forget_and_add)
    made = ann.fuse([one.id, two.id], chat=chat)
    assert "A new word." in made.text
    assert "xyzzy" not in everything_in(database)


def test_a_bundle_forgotten_while_the_model_wrote_is_not_taken_for_its_next(
    ann: View, database: str
) -> None:
    one, two, three = ann.add(["The xyzzy word.", "Two words.", "Three words."])
    bundle = ann.compose([one.id, two.id], "x")

    def forget_and_compose() -> None:
        if len(chat.sent) == 1:
            ann.forget(one.id)
            ann.compose([two.id], "x")
        chat.answer = chat.sent[-1][1]["content"]

    chat = Chat(then=forget_and_compose)
    ann.fuse([bundle.id, three.id], chat=chat)
    assert len(chat.sent) == 2
    assert "xyzzy" not in everything_in(database)


def test_rights_that_were_taken_while_the_model_wrote_are_gone(memos: MemOS) -> None:
    ann, bob = (memos.at("acme", caller=Caller(user=user)) for user in ("ann", "bob"))
    cubes = ann.add(["Her word.", "Her words."])
    ann.grant(user="bob", rights=["read", "derive", "write"])
    chat = Chat(then=lambda: ann.grant(user="bob", rights=["read", "derive"]))
    with pytest.raises(NotPermitted, match="bob may not write"):
        bob.fuse([cube.id for cube in cubes], chat=chat)
    assert found(memos.at("acme")) == {cube.id for cube in cubes}


def test_fuse_takes_two_that_can_be_merged(view: View) -> None:
    one, two, cold, old = view.add(["A word.", "Two words.", "A cold word.", "An old word."])
    view.freeze(cold.id)
    view.archive(old.id)
    chat = Chat()
    for ids in ([], [one.id], [one.id, str(one.id)]):
        with pytest.raises(InvalidInput, match="two cubes or more"):
            view.fuse(ids, chat=chat)
    assert chat.sent == []
    with pytest.raises(CubeFrozen, match=str(cold.id)):
        view.fuse([one.id, cold.id])
    with pytest.raises(IllegalTransition, match=str(old.id)):
        view.fuse([one.id, old.id])
    with pytest.raises(CubeNotFound):
        view.fuse([one.id, uuid4()], chat=chat)
    assert [state(view, cube) for cube in (one, two)] == [State.GENERATED] * 2
    view.activate(old.id)
    assert view.fuse([one.id, old.id]).text == "A word.\nAn old word."


def test_what_is_merged_can_be_merged_again(view: View) -> None:
    one, two, three = view.add(["A word.", "Two words.", "Three words."])
    first = view.fuse([one.id, two.id])
    second = view.fuse([one.id, three.id])
    assert found(view) == {first.id, second.id}
    assert view.get(one.id).version == 2
    view.expire(first.id)
    assert found(view) == {second.id, two.id}, "the first still speaks in another"
    assert state(view, one) is State.MERGED
    view.forget(second.id)
    assert found(view) == {one.id, two.id, three.id}
    assert state(view, one) is State.ACTIVATED


@pytest.mark.parametrize("how", ["expire", "forget", "update", "ttl"])
def test_what_was_merged_comes_back_when_its_fusion_ends(view: View, how: str) -> None:
    one, two = view.add(["A word.", "Two words."])
    ids = {one.id, two.id}
    if how == "ttl":
        ids = {two.id}
        one = view.add("Three words.", ttl=0.3)
    made = view.fuse([one.id, two.id])
    assert not found(view) & {one.id, two.id}
    if how == "update":
        view.update(one.id, "Another word.")
    elif how == "ttl":
        time.sleep(0.3)
    else:
        getattr(view, how)(made.id)
    assert ids <= found(view)
    assert made.id not in found(view)
    if how != "ttl":
        assert [state(view, cube) for cube in (one, two)] == [State.ACTIVATED] * 2
    assert view.fuse([*ids, view.add("New.").id]).version == 1


def test_that_it_came_back_is_in_the_log(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    view.expire(view.fuse([one.id, two.id]).id)
    assert view.history(one.id)[-1].version == 3
    of_one = [event.kind for event in view.events(cube=one.id) if event.kind != "read"]
    assert len(of_one) == 3, "added, merged, and back"


def test_activated_sources_speak_beside_their_fusion(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    made = view.fuse([one.id, two.id])
    assert view.activate(one.id).state is State.ACTIVATED
    assert found(view) == {made.id, one.id}
    view.update(two.id, tags=["t"])
    assert found(view) == {made.id, one.id}
    view.expire(made.id)
    assert found(view) == {one.id, two.id}


def test_a_fusion_hides_its_sources_from_those_alone_who_may_read_it(memos: MemOS) -> None:
    ann, bob = (memos.at("acme", caller=Caller(user=user)) for user in ("ann", "bob"))
    hers = ann.add(["Her word.", "Her words."])
    ids = {cube.id for cube in hers}
    for cube in hers:
        ann.grant(user="bob", cube=cube.id)
    made = ann.fuse(list(ids))
    before = datetime.now(UTC)
    assert found(ann) == found(memos.at("acme")) == {made.id}
    assert found(bob) == found(bob, as_of=before) == ids
    grant = ann.grant(user="bob", cube=made.id)
    assert found(bob) == {made.id}
    ann.revoke(user="bob", cube=hers[0].id)
    assert found(bob) == {hers[1].id}, "who may not read a source may not read the fusion"
    ann.revoke(grant)
    assert found(bob) == {hers[1].id}
    assert found(ann) == {made.id}


def test_a_fusion_above_hides_nothing_from_the_views_below(memos: MemOS) -> None:
    top, ann, bob = memos.at("acme"), memos.at("acme", "ann"), memos.at("acme", "bob")
    hers, his = ann.add("Her word."), bob.add("His word.")
    made = top.fuse([hers.id, his.id])
    moment = datetime.now(UTC)
    assert found(top) == found(top, as_of=moment) == {made.id}
    assert found(ann) == {hers.id}
    assert found(ann, as_of=moment) == {hers.id}


def test_what_is_true_longer_than_its_fusion_is_still_found(view: View) -> None:
    always = view.add("A word.")
    until_then = view.add("Two words.", valid_to="2900-01-01")
    made = view.fuse([always.id, until_then.id])
    assert found(view, valid_at="2899-01-01") == {made.id}
    assert found(view, valid_at="2901-01-01") == {always.id}


def test_the_past_has_the_fusions_of_then(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    before = datetime.now(UTC)
    made = view.fuse([one.id, two.id])
    between = datetime.now(UTC)
    view.expire(made.id)
    after = datetime.now(UTC)
    assert found(view, as_of=before) == {one.id, two.id}
    assert found(view, as_of=between) == {made.id}
    assert found(view, as_of=after) == {one.id, two.id}
    view.forget(made.id)
    assert found(view, as_of=between) == {one.id, two.id}, "they say what it said"


def test_at_no_moment_a_fusion_and_its_sources_spoke_both(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    made = view.fuse([one.id, two.id])
    assert found(view, as_of=made.created_at) == {made.id}


def test_a_fusion_that_lapsed_hides_nothing_of_the_past_since(view: View) -> None:
    one, two = view.add("A word.", ttl=0.3), view.add("Two words.")
    view.fuse([one.id, two.id])
    time.sleep(0.35)
    assert found(view) == {two.id}
    assert found(view, as_of=datetime.now(UTC)) == {two.id}


# --- fused by rule --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "fused"),
    [
        ([], ""),
        (["One."], "One."),
        (["One. Two.", "Three."], "One.\nTwo.\nThree."),
        (["Ann likes tea.", "ANN likes  TEA!"], "ANN likes  TEA!"),
        (["Ann likes tea. Bob does not.", "ann likes tea"], "ann likes tea\nBob does not."),
        (["Straße 5.", "STRASSE 5."], "STRASSE 5."),
        (["It's late.", "It’s late."], "It’s late."),
        (["One, two: three; four.", "One two (three) “four”?"], "One two (three) “four”?"),
        (["a\n\nb\n \na"], "a\nb"),
        (["Really?! Yes... No… Ok."], "Really?!\nYes...\nNo…\nOk."),
        (["3.5 km at 10:30.", "3.5 km at 10:30."], "3.5 km at 10:30."),
        (["!!!", "???"], "!!!\n???"),
        (["Я живу в Лейпциге.", "я живу в лейпциге"], "я живу в лейпциге"),
        (["今日は雨。", "今日は雨"], "今日は雨"),
        (["Tea. Tea. Tea."], "Tea."),
    ],
)
def test_sentences_are_said_once_in_the_order_of_the_first(texts: list[str], fused: str) -> None:
    assert fused_by_rule(texts) == fused


@pytest.mark.parametrize(
    ("texts", "fused"),
    [
        (["我喜欢茶。我住在柏林。", "我住在柏林。"], "我喜欢茶。\n我住在柏林。"),
        (["お茶が好き！雨です。", "雨です。"], "お茶が好き！\n雨です。"),
    ],
)
def test_sentences_without_spaces_between_are_sentences_too(texts: list[str], fused: str) -> None:
    assert fused_by_rule(texts) == fused


@pytest.mark.parametrize(
    "texts",
    [
        ["It costs $5.", "It costs €5."],
        ["I like C++.", "I like C."],
        ["x > 5", "x < 5"],
        ["It was +5 °C.", "It was -5 °C."],
        ["Ann: 👍", "Ann: 👎"],
        ["यह दिन है।", "यह दीन है।"],  # other vowels
        ["เขามา", "เขามี"],
        ["שָׁלוֹם", "שִׁלוּם"],
    ],
)
def test_sentences_that_differ_in_more_than_case_and_punctuation_both_stay(
    texts: list[str],
) -> None:
    assert fused_by_rule(texts) == "\n".join(texts)


def test_a_title_is_not_lost() -> None:
    assert fused_by_rule(["Dr. Smith called.", "Dr. Jones rang."]).count("Dr.") == 2


# --- relate ---------------------------------------------------------------------------------------


def test_a_remark_relates_two_that_stand_for_themselves(view: View) -> None:
    one, two = view.add(["A word.", "No word."])
    view.relate(one.id, "contradicts", str(two.id))
    view.relate(two.id, Relation.ABOUT, one.id)
    view.relate(one.id, "contradicts", two.id)
    for cube in (one, two):
        assert view.history(cube.id) == [cube]
        assert set(view.provenance(cube.id).edges) == {
            Edge(child=one.id, parent=two.id, relation=Relation.CONTRADICTS, parent_version=1),
            Edge(child=two.id, parent=one.id, relation=Relation.ABOUT, parent_version=1),
        }
    assert kinds(view) == ["related", "related", "related", "added"]
    event = view.events(kind="related")[-1]
    assert (event.cube_ids, event.details) == ((one.id, two.id), {"relation": "contradicts"})
    view.update(one.id, "Another word.")
    view.expire(one.id)
    assert view.get(two.id).text == two.text
    view.forget(one.id)
    assert view.get(two.id).text == two.text
    assert view.provenance(two.id).edges == ()


def test_relate_refuses_what_is_no_remark(view: View) -> None:
    one, two = view.add(["A word.", "No word."])
    for relation in ("derived", "merged", "composed", "extracted", "likes", Relation.MERGED):
        with pytest.raises(InvalidInput, match="contradicts"):
            view.relate(one.id, relation, two.id)
    with pytest.raises(InvalidInput, match="itself"):
        view.relate(one.id, "about", str(one.id))
    assert view.provenance(one.id).edges == ()


def test_who_may_not_write_the_first_relates_nothing(memos: MemOS) -> None:
    ann, bob = (memos.at("acme", caller=Caller(user=user)) for user in ("ann", "bob"))
    hers, his = ann.add("Her word."), bob.add("His word.")
    ann.grant(user="bob", cube=hers.id)
    with pytest.raises(NotPermitted):
        bob.relate(hers.id, "about", his.id)
    bob.relate(his.id, "contradicts", hers.id)
    assert ann.provenance(hers.id).cubes.keys() == {hers.id}, "his is not for her to read"
    assert ann.provenance(hers.id).edges == ()
    assert bob.provenance(his.id).cubes.keys() == {hers.id, his.id}


def test_a_remark_stays_on_a_bundle_made_again(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    made = view.compose([one.id], "x")
    view.relate(made.id, "about", two.id)
    view.compose([two.id], "x")
    relations = {edge.relation for edge in view.provenance(made.id).edges}
    assert relations == {Relation.COMPOSED, Relation.ABOUT}


def test_a_remark_from_above_shows_no_view_what_is_not_in_it(memos: MemOS) -> None:
    ann, bob = memos.at("acme", "ann"), memos.at("acme", "bob")
    hers, his = ann.add("Her word."), bob.add("His word.")
    memos.at("acme").relate(his.id, "contradicts", hers.id)
    memos.at("acme").relate(hers.id, "about", his.id)
    for view, cube in ((ann, hers), (bob, his)):
        told = view.provenance(cube.id)
        assert (set(told.cubes), told.edges) == ({cube.id}, ())
    assert len(memos.at("acme").provenance(hers.id).edges) == 2


# --- one that changes ends what was made of it ----------------------------------------------------


CHANGES: dict[str, Callable[[View, UUID], object]] = {
    "text": lambda view, cube: view.update(cube, "Another word."),
    "the same text": lambda view, cube: view.update(cube, view.get(cube).text),
    "append": lambda view, cube: view.update(cube, "More.", mode="append"),
    "metadata": lambda view, cube: view.update(cube, metadata={"new": 1}),
    "valid_from": lambda view, cube: view.update(cube, valid_from="2020-01-01"),
    "valid_to": lambda view, cube: view.update(cube, valid_to="2999-01-01"),
    "semantic_type": lambda view, cube: view.update(cube, semantic_type="plan"),
    "restore": lambda view, cube: view.restore(cube, version=1),
    "expire": lambda view, cube: view.expire(cube),
    "forget": lambda view, cube: view.forget(cube),
}
KEEPS: dict[str, Callable[[View, UUID], object]] = {
    "tags": lambda view, cube: view.update(cube, tags=["new"]),
    "priority": lambda view, cube: view.update(cube, priority=9),
    "sensitivity": lambda view, cube: view.update(cube, sensitivity=["s"]),
    "ttl": lambda view, cube: view.update(cube, ttl=1000),
    "archive": lambda view, cube: view.archive(cube),
    "activate": lambda view, cube: view.activate(cube),
    "freeze": lambda view, cube: view.freeze(cube),
    "thaw": lambda view, cube: (view.freeze(cube), view.unfreeze(cube)),
    "read": lambda view, cube: (view.get(cube), view.search("word")),
    "relate": lambda view, cube: view.relate(cube, "about", view.add("New.").id),
    "restore what stands": lambda view, cube: view.restore(cube, version=2),
    "make more of it": lambda view, cube: view.derive("More.", cube),
}


def generations(view: View) -> dict[str, MemCube]:
    """Return cubes over four generations: a diamond with a tail, a fusion and a bundle."""
    grand = view.add("The xyzzy word.")
    view.update(grand.id, tags=["second version"])
    other = view.add("Another word.")
    left = view.derive("The xyzzy word on the left.", grand.id)
    right = view.compose([grand.id, other.id], "right")
    fused = view.fuse([left.id, right.id])
    last = view.derive("The xyzzy word at last.", fused.id, tags=["last"])
    alone = view.derive("Of the other word.", other.id)
    return {
        "grand": grand,
        "other": other,
        "left": left,
        "right": right,
        "fused": fused,
        "last": last,
        "alone": alone,
    }


MADE_OF_GRAND = ("left", "right", "fused", "last")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_ends_all_that_was_made_of_it(ann: View, database: str, change: str) -> None:
    cubes = generations(ann)
    grand = cubes["grand"]
    before = datetime.now(UTC)
    CHANGES[change](ann, grand.id)
    for name in MADE_OF_GRAND:
        assert is_gone(ann, cubes[name]), name
    assert {cubes["other"].id, cubes["alone"].id} <= found(ann)
    if change == "forget":
        left = everything_in(database)
        assert "xyzzy" not in left
        assert str(cubes["last"].id) in left, "the audit log keeps ids"
        assert found(ann, as_of=before) == {cubes["other"].id, cubes["alone"].id}
        for name in MADE_OF_GRAND:
            with pytest.raises(CubeNotFound):
                ann.history(cubes[name].id)
        (event,) = ann.events(kind="forgot")
        assert event.cube_ids[0] == grand.id
        assert set(event.cube_ids) == {grand.id, *(cubes[name].id for name in MADE_OF_GRAND)}
        assert event.details["derived"] == 4
        return
    for name in MADE_OF_GRAND:
        assert state(ann, cubes[name]) is State.EXPIRED
        assert ann.get(cubes[name].id, as_of=before).text == cubes[name].text
    (event,) = ann.events(kind="invalidated")
    assert set(event.cube_ids) == {cubes[name].id for name in MADE_OF_GRAND}
    assert event.details == {"because_of": [str(grand.id)]}
    assert set(found(ann, as_of=before)) == {
        cubes[name].id for name in ("grand", "other", "fused", "last", "alone")
    }
    ann.forget(grand.id)
    assert "xyzzy" not in everything_in(database), "the histories of what ended go too"


@pytest.mark.parametrize("keep", KEEPS)
def test_what_says_the_same_still_stands_with_all_made_of_it(ann: View, keep: str) -> None:
    cubes = generations(ann)
    KEEPS[keep](ann, cubes["grand"].id)
    for name in ("fused", "last", "alone"):
        assert ann.get(cubes[name].id).text == cubes[name].text
    assert {cubes[name].id for name in ("fused", "last", "alone")} <= found(ann)
    assert {state(ann, cubes[name]) for name in ("left", "right")} == {State.MERGED}
    assert ann.events(kind="invalidated") == []
    if keep == "freeze":
        ann.unfreeze(cubes["grand"].id)
    ann.update(cubes["grand"].id, "New.")
    assert is_gone(ann, cubes["last"])


def test_a_change_in_the_middle_ends_what_comes_after(view: View) -> None:
    cubes = generations(view)
    view.update(cubes["right"].id, "The bundle says something else.")
    for name in ("fused", "last"):
        assert is_gone(view, cubes[name])
    ids = {cubes[name].id for name in ("grand", "other", "left", "right", "alone")}
    assert found(view) == ids
    assert state(view, cubes["left"]) is State.ACTIVATED


def test_forgetting_one_of_two_leaves_the_other_with_a_voice(view: View) -> None:
    one, two = view.add(["The xyzzy word.", "Two words."])
    made = view.fuse([one.id, two.id])
    report = view.forget(one.id)
    assert (report.cubes, report.derived) == ((one.id,), (made.id,))
    assert found(view) == {two.id}
    assert state(view, two) is State.ACTIVATED


def test_a_report_counts_the_versions_that_were_there(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    made = view.fuse([one.id, two.id])
    there = sum(len(view.history(cube.id)) for cube in (one, made))
    assert view.forget([one.id, made.id]).versions == there == 3


def test_forgetting_parent_and_child_at_once(view: View, database: str) -> None:
    cubes = generations(view)
    report = view.forget([cubes["last"].id, cubes["grand"].id, cubes["left"].id])
    assert set(report.cubes) == {cubes[name].id for name in ("last", "grand", "left")}
    assert set(report.derived) == {cubes[name].id for name in ("right", "fused")}
    assert "xyzzy" not in everything_in(database)


def test_forgetting_reaches_what_others_made_of_it(memos: MemOS, database: str) -> None:
    ann, bob = (memos.at("acme", user, caller=Caller(user=user)) for user in ("ann", "bob"))
    top = memos.at("acme", caller=Caller(user="carol"))
    hers, his = ann.add("The xyzzy word."), bob.add("His word.")
    ann.grant(user="carol", rights=["read", "derive"])
    bob.grant(user="carol", rights=["read", "derive"])
    made = top.derive("It is xyzzy.", [hers.id, his.id])
    assert ann.forget_all().derived == (made.id,)
    assert is_gone(top, made)
    assert "xyzzy" not in everything_in(database)


def test_forgetting_a_session_reaches_what_was_made_of_it(view: View, database: str) -> None:
    said = view.ingest(
        [{"role": "user", "content": f"xyzzy {number}"} for number in range(2)], session="s"
    )
    other = view.add("Another word.")
    made = view.fuse([said[0].id, other.id])
    view.derive("Something xyzzy.", made.id)
    assert len(view.forget_all(session="s").derived) == 2
    assert found(view) == {other.id}
    assert "xyzzy" not in everything_in(database)


def test_an_id_used_again_leaves_nothing_of_what_had_it(view: View, database: str) -> None:
    parent = view.add("The xyzzy word.")
    made = view.derive("It is xyzzy.", parent.id)
    view.expire(parent.id)
    view.add("A new word.", id=parent.id)
    assert is_gone(view, made)
    view.forget(parent.id)
    assert "xyzzy" not in everything_in(database)


@MADE
def test_a_parent_whose_time_is_over_hides_its_child_at_once(ann: View, how: str) -> None:
    one, two = ann.add(["A word.", "Two words."])
    made = make(ann, how, [one.id, two.id])
    last = ann.derive("At last.", made.id)
    ann.update(one.id, ttl=0.2)
    assert {made.id, last.id} <= found(ann)
    time.sleep(0.25)
    for cube in (made, last):
        assert is_gone(ann, cube)
        assert ann.history(cube.id)[-1].text == cube.text
    assert found(ann) == {two.id}
    assert ann.stats().cubes == 1
    with pytest.raises(CubeNotFound):
        ann.derive("More.", last.id)
    with pytest.raises(CubeNotFound):
        ann.update(last.id, tags=["t"])


def test_a_parent_whose_time_is_over_hides_its_child_from_the_present(view: View) -> None:
    parent = view.add("A word.")
    made = view.derive("Made of a word.", parent.id)
    before = datetime.now(UTC)
    view.update(parent.id, ttl=0.1)
    time.sleep(0.15)
    assert found(view) == set()
    assert found(view, as_of=datetime.now(UTC)) == set()
    assert found(view, as_of=before) == {parent.id, made.id}


def test_a_lapsed_parent_whose_id_is_used_again_ends_its_children(view: View) -> None:
    one, two = view.add("A word.", ttl=0.2), view.add("Two words.")
    made = view.derive("Made.", [one.id, two.id])
    time.sleep(0.25)
    again = view.add("A new word.", id=one.id)
    assert is_gone(view, made)
    assert found(view) == {again.id, two.id}


# --- what is frozen -------------------------------------------------------------------------------


def test_what_is_frozen_is_not_served_once_a_parent_changed(view: View, database: str) -> None:
    parent, other = view.add(["The xyzzy word.", "Two words."])
    made = view.derive("It is xyzzy.", [parent.id, other.id])
    frozen = view.freeze(made.id)
    view.update(parent.id, "A word.")
    assert is_gone(view, made)
    assert found(view) == {parent.id, other.id}
    assert view.stats().cubes == 2
    assert view.history(made.id)[-1] == frozen, "it is kept"
    assert view.events(kind="invalidated") == []
    with pytest.raises(CubeFrozen, match=str(made.id)):
        view.forget_all()
    ended = view.unfreeze(made.id)
    assert (ended.state, ended) == (State.EXPIRED, view.history(made.id)[-1])
    assert is_gone(view, made)
    (event,) = view.events(kind="invalidated")
    assert event.cube_ids == (made.id,)
    assert event.details == {"because_of": [str(parent.id)]}
    assert view.forget(parent.id).derived == (made.id,)
    assert "xyzzy" not in everything_in(database)


def test_what_is_frozen_is_erased_with_what_it_was_made_of(view: View, database: str) -> None:
    cubes = generations(view)
    view.freeze(cubes["last"].id)
    view.expire(cubes["fused"].id)
    assert is_gone(view, cubes["last"])
    assert view.history(cubes["last"].id)[-1].state is State.FROZEN
    with pytest.raises(CubeFrozen, match=str(cubes["last"].id)):
        view.forget([cubes["grand"].id, cubes["last"].id])
    report = view.forget(cubes["grand"].id)
    assert set(report.derived) == {cubes[name].id for name in MADE_OF_GRAND}
    assert "xyzzy" not in everything_in(database)


@pytest.mark.parametrize("how", ["expire", "ttl"])
def test_what_is_frozen_is_not_served_once_a_parents_id_is_used_again(view: View, how: str) -> None:
    gone = view.add("The xyzzy word.", ttl=0.2 if how == "ttl" else None)
    other = view.add("Two words.")
    made = view.derive("It is xyzzy.", [gone.id, other.id])
    alone = view.derive("It is xyzzy alone.", gone.id)
    view.freeze([made.id, alone.id])
    if how == "ttl":
        time.sleep(0.25)
    else:
        view.expire(gone.id)
    assert found(view) == {other.id}
    with suppress(CubeExists):  # its place need not be given away while they are held
        view.add("A new word.", id=gone.id)
    assert found(view) - {gone.id} == {other.id}
    assert is_gone(view, made)
    assert is_gone(view, alone)


def test_what_is_frozen_is_not_of_the_present_once_a_parent_changed(view: View) -> None:
    parent = view.add("A word.")
    made = view.derive("Made of a word.", parent.id)
    view.freeze(made.id)
    before = datetime.now(UTC)
    view.update(parent.id, "Another word.")
    after = datetime.now(UTC)
    assert found(view, as_of=before) == {parent.id, made.id}
    assert found(view) == {parent.id}
    assert found(view, as_of=after) == {parent.id}
    with pytest.raises(CubeNotFound):
        view.get(made.id, as_of=after)


def test_sources_of_a_frozen_fusion_that_is_not_served_speak(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    made = view.fuse([one.id, two.id])
    view.freeze(made.id)
    assert found(view) == {made.id}
    view.update(one.id, "Another word.")
    assert found(view) == {one.id, two.id}
    view.unfreeze(made.id)
    assert found(view) == {one.id, two.id}
    assert state(view, made) is State.EXPIRED
    assert {state(view, cube) for cube in (one, two)} == {State.ACTIVATED}


def test_a_thaw_ends_nothing_that_was_made_since(view: View) -> None:
    parent = view.add("A word.")
    old = view.derive("Of the old word.", parent.id)
    view.freeze(old.id)
    view.update(parent.id, "Another word.")
    new = view.derive("Of the new word.", parent.id)
    still = view.add("Word.")
    view.freeze(still.id)
    ended, thawed = view.unfreeze([old.id, still.id])
    assert (ended.state, thawed.state) == (State.EXPIRED, State.GENERATED)
    assert found(view) == {parent.id, new.id, still.id}


def test_who_made_it_lets_go_of_what_does_not_stand_any_more(memos: MemOS) -> None:
    ann, bob = (memos.at("acme", caller=Caller(user=user)) for user in ("ann", "bob"))
    parent, secret = ann.add(["Her word.", "Her secret word."])
    for cube in (parent, secret):
        ann.grant(user="bob", cube=cube.id, rights=["read", "derive"])
    made, more = bob.derive("Of her word.", parent.id), bob.derive("Of the secret.", secret.id)
    bob.freeze([made.id, more.id])
    ann.update(parent.id, "Her other word.")
    ann.update(secret.id, "Her other secret.")
    ann.revoke(user="bob", cube=secret.id)
    assert bob.unfreeze(made.id).state is State.EXPIRED
    with pytest.raises(CubeNotFound):
        bob.unfreeze(more.id)
    assert memos.at("acme").unfreeze(more.id).state is State.EXPIRED


@pytest.mark.parametrize("how", ["update", "expire", "forget"])
def test_what_was_frozen_as_merged_speaks_once_its_fusion_ended(view: View, how: str) -> None:
    one, two = view.add(["A word.", "Two words."])
    made = view.fuse([one.id, two.id])
    view.freeze(one.id)
    if how == "update":
        view.update(two.id, "Another word.")
    else:
        getattr(view, how)(made.id)
    thawed = view.unfreeze(one.id)
    assert thawed.state is State.ACTIVATED
    assert found(view) == {one.id, two.id}


def test_what_was_frozen_as_merged_is_merged_while_its_fusion_stands(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    made = view.fuse([one.id, two.id])
    view.freeze([one.id, made.id])
    assert view.unfreeze(one.id).state is State.MERGED
    view.freeze(one.id)
    view.update(two.id, "Another word.")
    ended, thawed = view.unfreeze([made.id, one.id])
    assert (ended.state, thawed.state) == (State.EXPIRED, State.ACTIVATED)
    assert view.history(one.id)[-1] == thawed


@pytest.mark.parametrize("first", ["unfreeze", "update"])
def test_what_thaws_while_its_source_changes_ends(ann: View, database: str, first: str) -> None:
    parent = ann.add("A word.")
    made = ann.derive("Made of it.", parent.id)
    ann.freeze(made.id)
    verbs = {
        "unfreeze": lambda: ann.unfreeze(made.id),
        "update": lambda: ann.update(parent.id, "Another word."),
    }
    for done in in_turn(database, parent, verbs.pop(first), *verbs.values()):
        done.result()
    assert is_gone(ann, made)
    assert state(ann, made) is State.EXPIRED


# --- provenance -----------------------------------------------------------------------------------


@pytest.fixture
def told(view: View) -> tuple[View, list[MemCube]]:
    """A conclusion of a fusion of what was said, and of a fact; the last is the conclusion."""
    said = view.ingest(
        [
            {"id": "m1", "role": "user", "content": "My word <b>&</b> [red]mine[/red]."},
            {"id": "m2", "role": "user", "content": "Another\nword."},
        ],
        session="s",
    )
    fact = view.add("A fact.")
    fused = view.fuse([cube.id for cube in said])
    made = view.derive("A conclusion.", [fact.id, fused.id])
    return view, [*said, fact, fused, made]


def test_provenance_goes_back_to_what_was_said(told: tuple[View, list[MemCube]]) -> None:
    view, (one, two, fact, fused, made) = told
    lineage = view.provenance(str(made.id))
    assert lineage.root == made.id
    assert set(lineage.cubes) == {cube.id for cube in (one, two, fact, fused, made)}
    assert {cube.text for cube in lineage.cubes.values()} == {
        cube.text for cube in (one, two, fact, fused, made)
    }
    assert [edge.parent for edge in lineage.parents(made.id)] == [fact.id, fused.id]
    assert [(edge.parent, edge.relation) for edge in lineage.parents(fused.id)] == [
        (one.id, Relation.MERGED),
        (two.id, Relation.MERGED),
    ]
    assert lineage.parents(fact.id) == []
    assert [message.id for message in lineage.messages] == ["m1", "m2"]
    assert lineage.messages[1].content == "Another\nword."
    below = view.provenance(fused.id)
    assert set(below.cubes) == {one.id, two.id, fused.id}
    assert view.provenance(fact.id).edges == view.provenance(fact.id).messages == ()
    assert set(view.provenance(one.id).cubes) == {one.id}
    assert view.events(kind="denied") == []


def test_provenance_of_what_ended_and_of_what_was_forgotten(
    told: tuple[View, list[MemCube]],
) -> None:
    view, (one, two, fact, fused, made) = told
    view.update(one.id, "Something else.")
    lineage = view.provenance(made.id)
    assert lineage.cubes[made.id].state is State.EXPIRED
    assert lineage.cubes[fused.id].text == fused.text
    assert lineage.cubes[one.id].text == "Something else."
    (edge,) = [edge for edge in lineage.edges if edge.parent == one.id]
    assert edge.parent_version == 1, "it was made of what that said then"
    view.forget(two.id)
    with pytest.raises(CubeNotFound):
        view.provenance(made.id)
    assert view.provenance(fact.id).cubes.keys() == {fact.id}
    assert [message.id for message in view.provenance(one.id).messages] == ["m1"]


def test_provenance_of_a_diamond_has_each_cube_once(view: View) -> None:
    cubes = generations(view)
    lineage = view.provenance(cubes["last"].id)
    names = ("grand", "other", "left", "right", "fused", "last")
    assert set(lineage.cubes) == {cubes[name].id for name in names}
    assert len(lineage.edges) == len(set(lineage.edges)) == 6


def test_a_terminal_shows_a_tree(told: tuple[View, list[MemCube]]) -> None:
    view, (one, two, fact, fused, made) = told
    lineage = view.provenance(made.id)
    lines = printed(lineage).splitlines()
    assert [re.sub(r"^[│├└─ ]+", "", line).split("  (")[0] for line in lines] == [
        "A conclusion.",
        "derived ← A fact.",
        "derived ← My word <b>&</b> [red]mine[/red]. Another word.",
        "merged ← My word <b>&</b> [red]mine[/red].",
        "message m1: My word <b>&</b> [red]mine[/red].",
        "merged ← Another word.",
        "message m2: Another word.",
    ]
    for line, cube in zip(lines, (made, fact, fused, one, None, two, None), strict=True):
        if cube is not None:
            shown = lineage.cubes[cube.id]
            assert f"({shown.state}, version {shown.version}, {cube.id})" in line


def printed(lineage: Lineage) -> str:
    """Return what a wide terminal shows."""
    paper = StringIO()
    Console(width=300, file=paper).print(lineage)
    return paper.getvalue()


class Strict(HTMLParser):
    """Checks that every tag is one of a list and is closed in order, and keeps the texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.deepest = 0
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("ul", "li")
        assert attrs == []
        self.open.append(tag)
        self.deepest = max(self.deepest, self.open.count("ul"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        assert self.open
        self.texts.append(data)


def test_a_notebook_shows_a_tree(told: tuple[View, list[MemCube]]) -> None:
    view, cubes = told
    html = view.provenance(cubes[-1].id)._repr_html_()
    page = Strict(html)
    assert len(page.texts) == 7
    assert page.deepest == 4
    assert page.texts[4] == "message m1: My word <b>&</b> [red]mine[/red]."
    assert "<b>" not in html


def test_a_tree_of_hostile_texts_is_text(ann: View) -> None:
    hostile = ['</li></ul><script>alert("x")</script>', "&lt;b&gt; &amp;", "'\"<!-- -->", "[bold]x"]
    cubes = ann.add(hostile)
    made = ann.derive("word " * 100, [cube.id for cube in cubes])
    lineage = ann.provenance(made.id)
    page = Strict(lineage._repr_html_())
    for text in hostile:
        assert any(line.startswith(f"derived ← {text}  (") for line in page.texts)
    assert "word word" in page.texts[0]
    assert "…" in page.texts[0], "long texts are cut"
    assert all(text in printed(lineage) for text in hostile)
    paper = StringIO()
    rich.print(lineage, file=paper)
    assert "[bold]x" in paper.getvalue()


def test_a_tree_sends_a_terminal_no_commands(ann: View) -> None:
    cube = ann.add("A \x1b[2J\x1b]0;title\x07word \x9b31m.")
    assert not {"\x1b", "\x07", "\x9b"} & set(printed(ann.provenance(cube.id)))


def test_a_tree_does_not_grow_with_the_number_of_its_paths(ann: View) -> None:
    level = ann.add(["A word.", "Two words."])
    for number in range(1, 9):
        ids = [cube.id for cube in level]
        level = [ann.derive(f"{side} {number}", ids) for side in ("left", "right")]
    lineage = ann.provenance(level[0].id)
    assert len(lineage.cubes) == 17
    assert len(lineage.edges) == 30
    lines = Strict(lineage._repr_html_()).texts
    assert len(lines) < 100, "a line for each edge, not for each of 2^9 paths"


def test_a_circle_of_remarks_has_an_end(ann: View) -> None:
    one, two = ann.add(["A word.", "Two words."])
    ann.relate(one.id, "about", two.id)
    ann.relate(two.id, "about", one.id)
    page = Strict(ann.provenance(one.id)._repr_html_())
    assert len(page.texts) == 2


def test_a_lineage_is_plain_values() -> None:
    lineage = Lineage(root=uuid4(), cubes={}, edges=(), messages=())
    assert lineage.parents(uuid4()) == []
    assert lineage == replace(lineage)


def test_what_a_caller_may_not_read_is_left_out(memos: MemOS) -> None:
    ann, bob = (memos.at("acme", caller=Caller(user=user)) for user in ("ann", "bob"))
    (said,) = ann.ingest([{"id": "m1", "role": "user", "content": "Her secret word."}])
    hers = ann.derive("Her word.", said.id)
    top = memos.at("acme")
    ann.grant(user="bob", cube=hers.id, rights=["read", "derive"])
    with pytest.raises(CubeNotFound):
        bob.get(hers.id)
    with pytest.raises(CubeNotFound):
        bob.derive("Mine.", hers.id)
    ann.grant(user="bob", cube=said.id)
    assert bob.get(hers.id).text == hers.text
    seen = bob.provenance(hers.id)
    assert set(seen.cubes) == {said.id, hers.id}
    assert seen.messages == (), "what was said is for those who may read the place"
    assert len(top.provenance(hers.id).messages) == len(ann.provenance(hers.id).messages) == 1
    with pytest.raises(NotPermitted, match="derive"):
        bob.derive("Mine.", [said.id])
    his = bob.derive("Mine.", hers.id)
    assert set(bob.provenance(his.id).cubes) == {said.id, hers.id, his.id}
    remark = bob.add("I doubt it.")
    bob.relate(remark.id, "contradicts", hers.id)
    assert remark.id not in ann.provenance(hers.id).cubes
    assert remark.id in bob.provenance(hers.id).cubes


def test_provenance_tells_of_nothing_that_get_refuses(memos: MemOS) -> None:
    ann, bob = (memos.at("acme", caller=Caller(user=user)) for user in ("ann", "bob"))
    secret = ann.add("The secret word.")
    grant = ann.grant(user="bob", cube=secret.id, rights=["read", "derive"])
    made = bob.derive("It is the secret word.", secret.id)
    last = bob.derive("So it is secret.", made.id)
    assert len(bob.provenance(last.id).cubes) == 3
    ann.revoke(grant)
    for verb in (bob.get, bob.history, bob.provenance):
        with pytest.raises(CubeNotFound):
            verb(made.id)


# --- among many others ----------------------------------------------------------------------------


def rows_read(dsn: str, table: str) -> int:
    """Count the rows of a table that were ever read, once all who did so have left."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        until(lambda: is_alone(connection))
        (count,) = connection.execute(
            """
            SELECT seq_tup_read + (
                SELECT sum(idx_tup_read) FROM pg_stat_user_indexes AS index
                WHERE index.relid = tables.relid
            )
            FROM pg_stat_user_tables AS tables WHERE relid = %s::regclass
            """,
            [f"memos.{table}"],
        ).fetchone() or (-1,)
        return int(count)


def fill(dsn: str, view: View, number: int) -> None:
    """Make so many copies of a cube, of a turn, and some things made of many of them."""
    cube = view.add("A word.")
    view.ingest({"id": "m", "role": "user", "content": "A word."}, session="s")
    copied = (
        "kind, state, version, text, semantic_type, tags, metadata, provenance, message_ids, owner,"
        " priority, sensitivity, valid_from, valid_to, created_at, recorded_at, expires_at,"
        " word_count, words, thread, turn, embedding, content_version, derived"
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            f"INSERT INTO memos.cube (tenant, namespace, id, {copied}) "
            f"SELECT tenant, namespace, gen_random_uuid(), {copied} "
            "FROM memos.cube, generate_series(1, %s) WHERE id = %s",
            [number, cube.id],
        )
        connection.execute(
            """
            INSERT INTO memos.message (tenant, namespace, id, session, role, content, metadata,
                extra, recorded_at)
            SELECT tenant, namespace, 'n' || n, 's' || n %% 100, role, content, metadata, extra,
                recorded_at
            FROM memos.message, generate_series(1, %s) AS n
            """,
            [number],
        )
        connection.execute(
            """
            INSERT INTO memos.lineage
            SELECT tenant, first_value(id) OVER (PARTITION BY n / 250 ORDER BY n), id, 'derived',
                1, 1, now()
            FROM (SELECT *, row_number() OVER (ORDER BY id) AS n FROM memos.cube) AS numbered
            """
        )
        connection.execute("DELETE FROM memos.lineage WHERE child = parent")
        connection.execute(
            "INSERT INTO memos.source SELECT tenant, child, parent, 1 FROM memos.lineage"
        )
        connection.execute("VACUUM ANALYZE")


LINEAGE_VERBS: dict[str, Callable[[View, Sequence[MemCube]], object]] = {
    "provenance": lambda view, cubes: view.provenance(cubes[-1].id),
    "forget": lambda view, cubes: view.forget(cubes[0].id),
    "forget as a caller": lambda view, cubes: view.forget(cubes[1].id),
    "update": lambda view, cubes: view.update(cubes[1].id, "Another word."),
    "expire": lambda view, cubes: view.expire(cubes[1].id),
    "add anew": lambda view, cubes: [view.expire(cubes[1].id), view.add("x", id=cubes[1].id)],
    "compose": lambda view, cubes: view.compose([cubes[2].id, cubes[0].id], "x"),
    "unfreeze": lambda view, cubes: [view.freeze(cubes[-1].id), view.unfreeze(cubes[-1].id)],
}


def test_what_is_done_with_a_few_does_not_read_all(database: str) -> None:
    """Whatever the planner believes of how many cubes there are in a lineage."""
    number = 20_000
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        fill(database, memos.at("acme"), number)
    read = {name: dict[str, int]() for name in LINEAGE_VERBS}
    for name, verb in LINEAGE_VERBS.items():
        caller = Caller(user="bob") if "caller" in name else None
        with MemOS.open(database, embedder=WordEmbedder()) as memos:
            view = memos.at("acme", caller=caller)
            said = view.ingest({"id": name, "role": "user", "content": "A word."}, session="a")
            cubes = [*said, *view.add(["Two words.", "Three words."])]
            cubes.append(view.fuse([cubes[0].id, cubes[1].id]))
            cubes.append(view.derive("Made of them.", [cubes[-1].id, cubes[2].id]))
        tables = ("cube", "cube_version", "message", "lineage", "source")
        before = {table: rows_read(database, table) for table in tables}
        with MemOS.open(database, embedder=WordEmbedder()) as memos:
            verb(memos.at("acme", caller=caller), cubes)
        read[name] = {table: rows_read(database, table) - before[table] for table in tables}
    assert all(count < number / 10 for counts in read.values() for count in counts.values()), read


# --- at once --------------------------------------------------------------------------------------


def test_a_grandparent_forgotten_first_leaves_nothing_to_derive(ann: View, database: str) -> None:
    grand = ann.add("The xyzzy word.")
    parent = ann.derive("It is xyzzy.", grand.id)
    forgetting, deriving = in_turn(
        database,
        grand,
        lambda: ann.forget(grand.id),
        lambda: ann.derive("Something xyzzy.", parent.id),
    )
    assert forgetting.result().derived == (parent.id,)
    with pytest.raises(CubeNotFound, match=str(parent.id)):
        deriving.result()
    assert "xyzzy" not in everything_in(database)


def test_what_was_derived_first_is_forgotten_with_its_grandparent(ann: View, database: str) -> None:
    grand = ann.add("The xyzzy word.")
    parent = ann.derive("It is xyzzy.", grand.id)
    deriving, forgetting = in_turn(
        database,
        grand,
        lambda: ann.derive("Something xyzzy.", parent.id),
        lambda: ann.forget(grand.id),
    )
    assert set(forgetting.result().derived) == {parent.id, deriving.result().id}
    assert "xyzzy" not in everything_in(database)


@pytest.mark.parametrize("change", ["text", "expire", "metadata", "restore"])
def test_what_was_derived_first_ends_with_its_grandparent(
    ann: View, database: str, change: str
) -> None:
    grand = ann.add("A word.")
    ann.update(grand.id, tags=["t"])
    parent = ann.derive("It is a word.", grand.id)
    deriving, changing = in_turn(
        database,
        grand,
        lambda: ann.derive("Something of it.", parent.id),
        lambda: CHANGES[change](ann, grand.id),
    )
    changing.result()
    assert is_gone(ann, deriving.result())
    assert state(ann, deriving.result()) is State.EXPIRED


def test_a_source_updated_first_is_fused_as_it_is_then(ann: View, database: str) -> None:
    one, two = ann.add(["A word.", "Two words."])
    updating, fusing = in_turn(
        database,
        one,
        lambda: ann.update(one.id, "Another word."),
        lambda: ann.fuse([one.id, two.id]),
    )
    assert updating.result().version == 2
    made = fusing.result()
    assert made.text == "Another word.\nTwo words."
    assert found(ann) == {made.id}
    assert ann.get(one.id).version == 3


def test_a_source_fused_first_is_updated_and_speaks_again(ann: View, database: str) -> None:
    one, two = ann.add(["A word.", "Two words."])
    fusing, updating = in_turn(
        database,
        one,
        lambda: ann.fuse([one.id, two.id]),
        lambda: ann.update(one.id, "Another word."),
    )
    assert is_gone(ann, fusing.result())
    assert updating.result().version == 3
    assert found(ann) == {one.id, two.id}
    assert {state(ann, cube) for cube in (one, two)} == {State.ACTIVATED}


def test_two_who_fuse_the_same_at_once(ann: View, database: str) -> None:
    one, two = ann.add(["A word.", "Two words."])
    first, second = in_turn(database, one, *[lambda: ann.fuse([one.id, two.id])] * 2)
    assert found(ann) == {first.result().id, second.result().id}
    ann.expire(first.result().id)
    assert found(ann) == {second.result().id}
    ann.expire(second.result().id)
    assert found(ann) == {one.id, two.id}


def test_two_fusions_that_end_at_once_leave_their_source_a_voice(ann: View, database: str) -> None:
    one, two, three = ann.add(["A word.", "Two words.", "Three words."])
    first, second = ann.fuse([one.id, two.id]), ann.fuse([one.id, three.id])
    with ThreadPoolExecutor(2) as pool:
        with held(database, two):
            ending = pool.submit(ann.expire, first.id)  # knows that the second stands, and waits
            until_stuck(database, ending)
            other = pool.submit(ann.expire, second.id)
            until_stuck(database, ending, other)
        assert (ending.result().id, other.result().id) == (first.id, second.id)
    assert found(ann) == {one.id, two.id, three.id}
    assert state(ann, one) is State.ACTIVATED


def test_two_who_compose_the_same_at_once_make_one(ann: View, database: str) -> None:
    members = ann.add(["A word.", "Two words."])
    ids = [cube.id for cube in members]
    first, second = in_turn(database, members[0], *[lambda: ann.compose(ids, "x")] * 2)
    assert first.result() == second.result()
    assert len(ann.events(kind="composed")) == 1


@pytest.mark.parametrize("there", [True, False])
def test_two_who_compose_one_name_of_other_things_make_two_versions(
    ann: View, database: str, *, there: bool
) -> None:
    one, two, three = ann.add(["A word.", "Two words.", "Three words."])
    if there:
        ann.compose([three.id], "x")
    with psycopg.connect(database) as holder, ThreadPoolExecutor(2) as pool:
        holder.execute("LOCK TABLE memos.lineage IN SHARE MODE")  # both know that there is none
        first = pool.submit(ann.compose, [one.id], "x")
        until_stuck(database, first)
        second = pool.submit(ann.compose, [two.id], "x")
        until_stuck(database, first, second)
        holder.commit()
        made = [first.result(), second.result()]
    assert {cube.version for cube in made} == ({2, 3} if there else {1, 2})
    last = max(made, key=lambda cube: cube.version)
    assert ann.get(last.id).text == last.text
    assert len(ann.provenance(last.id).edges) == 1


def test_bundles_put_into_each_other_at_once_make_no_circle(ann: View, database: str) -> None:
    one, two = ann.add(["A word.", "Two words."])
    left, right = ann.compose([one.id], "left"), ann.compose([two.id], "right")
    results = in_turn(
        database,
        min(left, right, key=lambda cube: cube.id),
        lambda: ann.compose([right.id], "left"),
        lambda: ann.compose([left.id], "right"),
    )
    assert results[0].result().text == "left\nright\nTwo words."
    with pytest.raises(InvalidInput, match="cannot be in itself"):
        results[1].result()


def patient(dsn: str, wait: str) -> str:
    """Return an address whose sessions look for a deadlock after a wait."""
    return f"{dsn}&options=-c%20deadlock_timeout%3D{wait}"


@pytest.fixture
def quick(database: str) -> Iterator[tuple[MemOS, MemOS]]:
    """Two memories of one database: of a deadlock between them, the first one's verb is ended."""
    with (
        MemOS.open(patient(database, "100ms"), embedder=WordEmbedder()) as first,
        MemOS.open(patient(database, "1h"), embedder=WordEmbedder()) as second,
    ):
        yield first, second


def is_alone(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether nobody else is in a connection's database: who leaves tells what he did."""
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone()
    return row == (0,)


def deadlocks(dsn: str) -> int:
    """Count the deadlocks there were, once all who had to do with it have left and told theirs."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        until(lambda: is_alone(connection))
        (count,) = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone() or (-1,)
        return count


REACHING: dict[str, Callable[[View, UUID], object]] = {
    "update": lambda view, cube: view.update(cube, "Another word."),
    "mark": lambda view, cube: view.update(cube, sensitivity=["health"]),
    "expire": lambda view, cube: view.expire(cube),
    "forget": lambda view, cube: view.forget(cube),
}


@pytest.mark.parametrize("change", REACHING)
@MADE
def test_who_changes_a_source_and_who_makes_of_it_do_not_deadlock(
    database: str, how: str, change: str
) -> None:
    with MemOS.open(patient(database, "100ms"), embedder=WordEmbedder()) as memos:
        view = memos.at("acme")
        member = view.add("A word.", id=LAST)  # locked after what is made of it
        other = view.add("Other word.")
        bundle = view.compose([member.id], "y")
        with ThreadPoolExecutor(2) as pool:
            with held(database, member):
                changing = pool.submit(REACHING[change], view, member.id)
                until_stuck(database, changing)
                making = pool.submit(make, view, how, [bundle.id, other.id])
                until_stuck(database, changing, making)
            changing.result()
            with suppress(CubeNotFound):
                making.result()
    assert deadlocks(database) == 0


def test_who_composes_anew_and_who_changes_a_member_do_not_deadlock(database: str) -> None:
    with MemOS.open(patient(database, "100ms"), embedder=WordEmbedder()) as memos:
        view = memos.at("acme")
        last = view.add("The last word.", id=LAST)
        one = view.add("A word.")
        bundle = view.compose([last.id], "x")
        fused = view.fuse([bundle.id, one.id])
        updating, composing = in_turn(  # each ends the fusion, and lets what was merged speak
            database,
            fused,
            lambda: view.update(one.id, "Another word."),
            lambda: view.compose([last.id], "x", tags=["t"]),
        )
        assert updating.result().state is State.ACTIVATED
        assert composing.result().version > bundle.version
    assert deadlocks(database) == 0


def test_a_verb_that_collides_with_the_update_of_a_member_is_tried_again(
    quick: tuple[MemOS, MemOS], database: str
) -> None:
    mine, other = (memos.at("acme") for memos in quick)
    member = mine.add("A word.", id=LAST)  # locked after the bundle
    bundle = mine.compose([member.id], "x")
    with ThreadPoolExecutor(2) as pool:
        with held(database, member):
            updating = pool.submit(other.update, member.id, "Another word.")
            until_stuck(database, updating)
            deriving = pool.submit(mine.derive, "Made of it.", [bundle.id])
            until_stuck(database, updating, deriving)
        assert updating.result().version == 2
        with suppress(CubeNotFound):  # or it was made before the update, which ended it
            assert is_gone(mine, deriving.result())
    assert found(mine) == {member.id}


def test_forgetting_all_that_collides_with_another_verb_is_tried_again(
    quick: tuple[MemOS, MemOS], database: str
) -> None:
    mine, other = quick[0].at("acme", "ann"), quick[1].at("acme")
    hers, his = mine.add("Her word."), other.add("His word.")
    last = mine.add("Her last word.", id=LAST)
    fused = other.fuse([hers.id, his.id])
    with ThreadPoolExecutor(2) as pool:
        with held(database, last):
            forgetting = pool.submit(mine.forget_all)  # holds hers, and wants what was made of it
            until_stuck(database, forgetting)
            ending = pool.submit(other.expire, fused.id)  # holds that, and wants its sources
            until_stuck(database, forgetting, ending)
        with suppress(CubeNotFound):  # or it was forgotten before
            assert ending.result().id == fused.id
        assert set(forgetting.result().cubes) == {hers.id, last.id}
    assert found(other) == {his.id}


# --- many at once ---------------------------------------------------------------------------------

SECONDS = 3.0
EVERY_STATE = ["generated", "activated", "merged", "archived", "frozen"]


class Crowd:
    """Threads that change memories and make others of them, while others read.

    The text of a parent is ``w<name>=<generation>``, and what is made of it repeats that.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.stop = threading.Event()
        self.numbers = count(100)
        self.lock = threading.Lock()
        self.parents: list[UUID] = []
        self.names: dict[UUID, str] = {}
        self.made: list[UUID] = []
        self.done: dict[str, int] = {}
        for _ in range(5):
            self.add()

    def add(self) -> None:
        name = f"w{next(self.numbers)}"
        cube = self.view.add(f"{name}={next(self.numbers)}")
        with self.lock:
            self.names[cube.id] = name
            self.parents.append(cube.id)

    def work(self, seed: int, verb: Callable[[Random], None]) -> None:
        rng = Random(seed)
        while not self.stop.is_set():
            try:
                verb(rng)
            except (CubeNotFound, CubeFrozen, VersionConflict, InvalidInput, IllegalTransition):
                continue  # others were quicker
            except BaseException:
                self.stop.set()
                raise
            with self.lock:
                self.done[verb.__name__] = self.done.get(verb.__name__, 0) + 1

    def some(self, rng: Random, most: int) -> list[UUID]:
        with self.lock:
            known = [*self.parents, *self.made[-4:]]
            return rng.sample(known, min(most, len(known)))

    def keep(self, cube: MemCube) -> None:
        with self.lock:
            self.made.append(cube.id)

    def update(self, rng: Random) -> None:
        with self.lock:
            cube = rng.choice(self.parents)
            name = self.names[cube]
        self.view.update(cube, f"{name}={next(self.numbers)}")

    def forget(self, rng: Random) -> None:
        with self.lock:
            cube = self.parents.pop(rng.randrange(len(self.parents)))
        try:
            self.view.forget(cube)
        finally:
            self.add()
        time.sleep(0.05)

    def fuse(self, rng: Random) -> None:
        self.keep(self.view.fuse(self.some(rng, 2)))

    def compose(self, rng: Random) -> None:
        with self.lock:
            members = rng.sample(self.parents, 2)
        self.keep(self.view.compose(members, rng.choice("xyz")))

    def derive(self, rng: Random) -> None:
        self.keep(self.view.derive("of them", self.some(rng, 2)))

    def live(self, rng: Random) -> None:
        (cube,) = self.some(rng, 1)
        verb = rng.choice([self.view.archive, self.view.activate, self.view.expire])
        if verb == self.view.expire and cube in self.parents:
            return
        verb(cube)

    def read(self, rng: Random) -> None:
        hits = self.view.search("word", k=100, states=EVERY_STATE)
        said = {}
        for hit in hits:
            if re.fullmatch(r"w\d+=\d+", hit.text):  # a parent; what is made of it says more
                name, generation = hit.text.split("=")
                said[name] = generation
        for hit in hits:
            for word in hit.text.split():
                if "=" in word:
                    name, generation = word.split("=")
                    assert said.get(name) == generation, (hit.text, said)
        if hits:
            cube = rng.choice(hits).cube.id
            self.view.get(cube)

    def run(self) -> None:
        readers = [self.read] * 2
        writers = [self.update, self.update, self.forget, self.fuse, self.compose, self.derive]
        verbs = [*readers, *writers, self.live]
        with ThreadPoolExecutor(len(verbs)) as pool:
            begun = [pool.submit(self.work, seed, verb) for seed, verb in enumerate(verbs)]
            self.stop.wait(SECONDS)
            self.stop.set()
            for one in begun:
                one.result()
        assert self.done.keys() >= {"read", "update", "forget", "compose"}


def assert_all_that_was_made_stands(dsn: str) -> None:
    """What was made of others is gone, or each of them is as it was when it was made."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            """
            SELECT made.id, made.text, source.source, source_version, origin.content_version
            FROM memos.source JOIN memos.cube AS made
                ON made.tenant = source.tenant AND made.id = source.cube
            LEFT JOIN memos.cube AS origin
                ON origin.tenant = source.tenant AND origin.id = source.source
            WHERE origin.content_version IS DISTINCT FROM source_version
            """
        ).fetchall()
        assert rows == []
        rows = connection.execute(
            """
            SELECT id FROM memos.cube WHERE derived AND NOT EXISTS (
                SELECT FROM memos.source WHERE source.tenant = cube.tenant AND source.cube = cube.id
            )
            """
        ).fetchall()
        assert rows == []


@pytest.mark.parametrize("indexed", [False, True])
def test_nobody_reads_what_a_parent_says_no_more(
    database: str, monkeypatch: pytest.MonkeyPatch, *, indexed: bool
) -> None:
    limits = Settings(exact_limit=0 if indexed else 10_000, pool_size=12)
    with MemOS.open(patient(database, "200ms"), embedder=WordEmbedder(), settings=limits) as memos:
        monkeypatch.setattr(memos.engine.indexing, "_change_later", str)  # does nothing
        crowd = Crowd(memos.at("acme", "ann"))
        if indexed:
            assert crowd.view.build_index() == 5
        crowd.run()
        assert_all_that_was_made_stands(database)
        assert_consistent(database)
        heard = {
            name: generation
            for hit in crowd.view.search("word", k=1000)
            for word in hit.text.split()
            if "=" in word
            for name, generation in [word.split("=")]
        }
        archived = {hit.text for hit in crowd.view.search("word", k=1000, states=["archived"])}
        for parent in crowd.parents:
            text = crowd.view.get(parent).text
            name, generation = text.split("=")
            if not any(text in one for one in archived):
                assert heard[name] == generation, "no memory is lost"
