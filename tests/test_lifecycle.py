"""The life of a cube: its states, what each allows, and that nothing else happens to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memos_core import (
    Caller,
    CubeExists,
    CubeFrozen,
    CubeNotFound,
    IllegalTransition,
    InvalidInput,
    MemCube,
    MemOS,
    MemOSError,
    Settings,
    State,
    View,
)
from memos_core.embedder import Vectors
from memos_core.fusion import fused_by_rule
from memos_core.lifecycle import NEXT, SEARCHED, before
from memos_core.store.statements import lifecycle
from memos_core.store.statements.scope import Scope
from tests.support import WordEmbedder, everything_in, until
from tests.test_search_index import assert_consistent, texts

STATES = tuple(State)
# A verb, the state it leads to, and how the log calls it.
VERBS = {
    "archive": (State.ARCHIVED, "archived"),
    "activate": (State.ACTIVATED, "activated"),
    "freeze": (State.FROZEN, "froze"),
    "unfreeze": (State.GENERATED, "unfroze"),
    "expire": (State.EXPIRED, "expired"),
}
EACH_VERB = pytest.mark.parametrize("verb", VERBS)


def in_state(view: View, state: State, text: str = "A word.") -> MemCube:
    """Return a cube that was brought into a state by the verbs."""
    cube = view.add(text)
    if state is State.MERGED:
        view.fuse([cube.id, view.add("Another word.").id])
    elif state is not State.GENERATED:
        verbs = {result: name for name, (result, _) in VERBS.items()}
        getattr(view, verbs[state])(cube.id)
    return view.history(cube.id)[-1]


def found(view: View, **options: Any) -> set[UUID]:
    return {hit.cube.id for hit in view.search("word", k=1000, **options)}


def states(view: View, cube: MemCube) -> list[State]:
    return [version.state for version in view.history(cube.id)]


def ready_for(view: View, verb: str, cube: MemCube) -> None:
    if verb == "unfreeze":
        view.freeze(cube.id)


def blocked(dsn: str) -> int:
    """Count the sessions of this database that wait for a lock."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchone()
        assert row is not None
        return int(row[0])


# --- each verb ------------------------------------------------------------------------------------


@EACH_VERB
def test_a_verb_takes_one_or_many(view: View, verb: str) -> None:
    to, kind = VERBS[verb]
    one, two, three = view.add(["A word.", "Two words.", "Three words."])
    for cube in (one, two, three):
        ready_for(view, verb, cube)
    start = 2 if verb == "unfreeze" else 1
    alone = getattr(view, verb)(str(one.id))
    many = getattr(view, verb)([three.id, str(two.id), three.id])
    assert isinstance(alone, MemCube)
    assert isinstance(many, list)
    assert [cube.id for cube in (alone, *many)] == [one.id, three.id, two.id]
    if verb != "expire":  # which returns them as they last were
        assert {(cube.state, cube.version) for cube in (alone, *many)} == {(to, start + 1)}
        assert alone == view.history(one.id)[-1]
    for cube in (one, two, three):
        last = view.history(cube.id)[-1]
        assert (last.state, last.version, last.text) == (to, start + 1, cube.text)
    assert getattr(view, verb)([]) == []
    events = view.events(kind=kind)
    assert [set(event.cube_ids) for event in events] == [{two.id, three.id}, {one.id}]


@EACH_VERB
def test_an_iterator_of_ids_is_many(ann: View, verb: str) -> None:
    cube = ann.add("A word.")
    ready_for(ann, verb, cube)
    (changed,) = getattr(ann, verb)(one for one in [cube.id])
    assert changed.id == cube.id


def test_each_step_is_a_version_that_says_the_same(view: View) -> None:
    cube = view.add("A word.", tags=["t"], metadata={"a": 1}, priority=2, sensitivity=["s"])
    for verb in VERBS:
        getattr(view, verb)(cube.id)
    versions = view.history(cube.id)
    assert [(one.version, one.state) for one in versions] == [
        (1, State.GENERATED),
        (2, State.ARCHIVED),
        (3, State.ACTIVATED),
        (4, State.FROZEN),
        (5, State.ACTIVATED),
        (6, State.EXPIRED),
    ]
    for one in versions:
        assert replace(one, version=1, state=cube.state, updated_at=cube.updated_at) == cube
    moments = [one.updated_at for one in versions]
    assert moments == sorted(set(moments))
    kinds = [event.kind for event in view.events(cube=cube.id) if event.kind != "read"]
    assert kinds[::-1] == ["added", "archived", "activated", "froze", "unfroze", "expired"]


def test_a_step_to_where_it_is_changes_nothing(view: View) -> None:
    for verb in ("archive", "activate", "freeze"):
        cube = view.add("A word.")
        once = getattr(view, verb)(cube.id)
        assert getattr(view, verb)(cube.id) == once
        assert len(view.history(cube.id)) == 2
        assert len(view.events(kind=VERBS[verb][1])) == 1
    with pytest.raises(IllegalTransition, match="cannot unfreeze what is activated"):
        view.unfreeze(view.activate(view.add("A word.").id).id)
    ended = view.add("A word.")
    view.expire(ended.id)
    with pytest.raises(CubeNotFound, match="expired"):
        view.expire(ended.id)
    assert len(view.history(ended.id)) == 2


def test_one_that_is_there_already_is_no_hindrance(view: View) -> None:
    one, two = view.add(["A word.", "Two words."])
    view.archive(one.id)
    assert [cube.version for cube in view.archive([one.id, two.id])] == [2, 2]


def test_what_reuse_activated_is_activated_already(view: View) -> None:
    cube = view.add("A word.")
    view.search("word")
    assert view.get(cube.id).state is State.ACTIVATED
    assert view.activate(cube.id).version == 1


@EACH_VERB
def test_a_verb_changes_all_or_none(memos: MemOS, view: View, verb: str) -> None:
    cubes = view.add(["A word.", "Two words."])
    for cube in cubes:
        ready_for(view, verb, cube)
    other = memos.at("acme", "bob").add("His word.")
    ids = [cube.id for cube in cubes]
    versions = [view.history(one)[-1] for one in ids]
    for missing in (uuid4(), other.id):
        with pytest.raises(CubeNotFound, match=str(missing)) as raised:
            getattr(view, verb)([ids[0], missing, ids[1]])
        assert str(ids[0]) not in str(raised.value), "only the missing one is named"
    if verb == "unfreeze":
        with pytest.raises(IllegalTransition, match="nothing was changed"):
            view.unfreeze([ids[0], view.add("Warm.").id])
    elif verb != "freeze":
        frozen = view.freeze(view.add("Cold.").id)
        with pytest.raises(CubeFrozen, match=str(frozen.id)):
            getattr(view, verb)([ids[0], frozen.id, ids[1]])
    assert [view.history(one)[-1] for one in ids] == versions
    kind = VERBS[verb][1]
    assert view.events(kind=kind) == []
    with pytest.raises(InvalidInput, match="no cube id"):
        getattr(view, verb)([ids[0], "seven"])
    assert memos.at("acme", "bob").history(other.id) == [other]


@EACH_VERB
def test_a_view_reaches_what_is_below_it(memos: MemOS, verb: str) -> None:
    cube = memos.at("acme", "ann", "trips").add("A word.")
    ready_for(memos.at("acme"), verb, cube)
    getattr(memos.at("acme"), verb)(cube.id)
    (event,) = memos.at("acme", "ann", "trips").events(kind=VERBS[verb][1])
    assert event.cube_ids == (cube.id,)


# --- the table ------------------------------------------------------------------------------------


def test_the_store_allows_what_the_table_allows(ann: View) -> None:
    scope = Scope(namespace=ann.namespace)
    for old in STATES:
        for new in STATES:
            cube = in_state(ann, old)
            step = ann.engine.run(lifecycle.move(scope, [cube.id], new, kind="moved"))
            thaws = old is State.FROZEN  # which is a statement of its own
            allowed = (new in NEXT[old] and not thaws) or (old is new and old is not State.EXPIRED)
            assert step.done is allowed, (old, new)
            after = ann.history(cube.id)[-1]
            changed = allowed and old is not new
            assert (after.version > cube.version) is changed, (old, new)
            assert after.state is (new if allowed else old), (old, new)
            assert (old in before(new)) is (new in NEXT[old] and not thaws)


def test_a_thaw_brings_back_each_state_that_can_be_frozen(ann: View) -> None:
    for state in STATES:
        cube = in_state(ann, state)
        if State.FROZEN not in NEXT[state]:
            continue
        ann.freeze(cube.id)
        thawed = ann.unfreeze(cube.id)
        assert (thawed.state, thawed.version) == (state, cube.version + 2)
        assert state in NEXT[State.FROZEN]
    assert {state for state in STATES if State.FROZEN in NEXT[state]} == NEXT[State.FROZEN]


@pytest.mark.parametrize("state", STATES)
def test_verbs_refuse_what_the_table_refuses(ann: View, state: State) -> None:
    results = {"archive", "activate", "freeze", "expire"}
    for verb in sorted(results):
        to = VERBS[verb][0]
        cube = in_state(ann, state)
        if state is State.EXPIRED:
            with pytest.raises(CubeNotFound):
                getattr(ann, verb)(cube.id)
        elif state is State.FROZEN and to is not State.FROZEN:
            with pytest.raises(CubeFrozen, match="unfreeze it first"):
                getattr(ann, verb)(cube.id)
        else:
            getattr(ann, verb)(cube.id)
            assert ann.history(cube.id)[-1].state is to
            continue
        assert ann.history(cube.id)[-1] == cube
    cube, other = in_state(ann, state), ann.add("One more word.")
    if state is State.MERGED or state in before(State.MERGED):
        ann.fuse([cube.id, other.id])
        assert {ann.history(one.id)[-1].state for one in (cube, other)} == {State.MERGED}
    else:
        refusals: dict[State, type[MemOSError]] = {
            State.EXPIRED: CubeNotFound,
            State.FROZEN: CubeFrozen,
            State.ARCHIVED: IllegalTransition,
        }
        with pytest.raises(refusals[state]):
            ann.fuse([cube.id, other.id])
        assert ann.history(other.id) == [other]


# --- first reuse ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["get", "search"])
def test_first_reuse_activates(view: View, verb: str) -> None:
    cube = view.add("A word.")
    stored = datetime.now(UTC)

    def read(**options: Any) -> MemCube:
        if verb == "get":
            return view.get(cube.id, **options)
        (hit,) = view.search("word", **options)
        return hit.cube

    assert read(as_of=stored).state is State.GENERATED
    assert view.history(cube.id) == [cube], "neither the past nor its history is a use of it"
    assert read().state is State.GENERATED, "it was, until now"
    again = read()
    assert (again.state, again.version, again.updated_at) == (
        State.ACTIVATED,
        1,
        cube.updated_at,
    )
    assert view.history(cube.id)[-1].state is State.ACTIVATED
    assert read(as_of=stored).state is State.GENERATED
    assert read(as_of=datetime.now(UTC)).state is State.ACTIVATED


def test_only_what_was_found_is_activated(ann: View) -> None:
    one, two = ann.add(["apple word", "pear"])
    assert [hit.cube.id for hit in ann.search("apple", k=1)] == [one.id]
    assert ann.history(one.id)[0].state is State.ACTIVATED
    assert ann.history(two.id)[0].state is State.GENERATED


def test_reads_that_are_not_logged_activate_nothing(database: str) -> None:
    unseen = Settings(read_events=False)
    with MemOS.open(database, embedder=WordEmbedder(), settings=unseen) as memos:
        cube = memos.add("A word.")
        for _ in range(2):
            assert memos.get(cube.id).state is State.GENERATED
            assert [hit.cube.state for hit in memos.search("word")] == [State.GENERATED]
        assert [event.kind for event in memos.events()] == ["added"]


def test_a_version_that_nobody_used_stays_as_it_was(view: View) -> None:
    cube = view.add("A word.")
    view.update(cube.id, "Another word.")
    view.get(cube.id)
    assert states(view, cube) == [State.GENERATED, State.ACTIVATED]
    assert view.get(cube.id, as_of=cube.updated_at).state is State.GENERATED


def test_states_that_are_asked_for_are_those_that_are_shown(view: View) -> None:
    used, unused = view.add(["apple word", "pear"])
    view.get(used.id)
    for state, cube in ((State.ACTIVATED, used), (State.GENERATED, unused)):
        hits = view.search("word", states=[state], mode="lexical")
        assert [(hit.cube.id, hit.cube.state) for hit in hits] == [(cube.id, state)]


# --- archived -------------------------------------------------------------------------------------


def test_the_archive_is_searched_when_it_is_named(view: View) -> None:
    kept, put_away = view.add(["A word.", "Two words."])
    view.archive(put_away.id)
    assert found(view) == {kept.id}
    assert found(view, states=["archived"]) == {put_away.id}
    assert found(view, states=list(State)) == {kept.id, put_away.id}
    got = view.get(put_away.id)
    assert (got.state, got.text) == (State.ARCHIVED, "Two words.")
    assert view.recall("word").hits[0].cube.id == kept.id
    assert view.stats().cubes == 2
    view.activate(put_away.id)
    assert found(view) == {kept.id, put_away.id}
    assert found(view, states=["archived"]) == set()


def test_what_is_archived_can_be_changed_where_it_is(view: View) -> None:
    cube = view.archive(view.add("A word.").id)
    changed = view.update(cube.id, "Another word.")
    assert (changed.state, changed.version) == (State.ARCHIVED, 3)
    assert view.restore(cube.id, version=2).state is State.ARCHIVED
    assert view.forget(cube.id).versions == 4


def test_the_past_has_the_states_of_then(view: View) -> None:
    cube = view.add("A word.")
    moments = [(datetime.now(UTC), State.GENERATED)]
    for verb in ("archive", "activate", "freeze", "unfreeze"):
        getattr(view, verb)(cube.id)
        moments.append((datetime.now(UTC), view.history(cube.id)[-1].state))
    view.expire(cube.id)
    for moment, state in moments:
        assert view.get(cube.id, as_of=moment).state is state
        expected = set() if state is State.ARCHIVED else {cube.id}
        assert found(view, as_of=moment) == expected
        assert found(view, as_of=moment, states=[state]) == {cube.id}
        for other in set(State) - {state}:
            assert found(view, as_of=moment, states=[other]) == set()


# --- frozen ---------------------------------------------------------------------------------------


def test_what_is_frozen_refuses_every_change(view: View) -> None:
    (said,) = view.ingest([{"id": "m1", "role": "user", "content": "A word."}], session="s")
    cube = view.update(said.id, "Two words.")
    other = view.add("Another word.")
    frozen = view.freeze(cube.id)
    refused: list[Callable[[], object]] = [
        lambda: view.update(cube.id, "New."),
        lambda: view.update(cube.id, tags=["new"]),
        lambda: view.update(cube.id, ttl=1),
        lambda: view.restore(cube.id, version=1),
        lambda: view.restore(cube.id, version=3),
        lambda: view.forget(cube.id),
        lambda: view.forget([other.id, cube.id]),
        view.forget_all,
        lambda: view.forget_all(session="s"),
        lambda: view.archive(cube.id),
        lambda: view.activate(cube.id),
        lambda: view.expire(cube.id),
        lambda: view.fuse([other.id, cube.id]),
    ]
    for verb in refused:
        with pytest.raises(CubeFrozen, match=f"{cube.id}; unfreeze it first"):
            verb()
    with pytest.raises(CubeExists):
        view.add("New.", id=cube.id)
    assert view.history(cube.id)[-1] == frozen
    assert view.history(other.id) == [other]
    assert [message.content for message in view.messages()] == ["A word."]
    assert view.derive("Made of it.", [cube.id]).text == "Made of it."
    assert view.compose([cube.id], "bundle").text == "bundle\nTwo words."
    assert found(view, states=["frozen"]) == {cube.id}
    view.unfreeze(cube.id)
    assert view.update(cube.id, "New.").version == 5


def test_a_frozen_member_of_a_session_keeps_all_of_it(ann: View) -> None:
    turns = [{"role": "user", "content": f"word {n}"} for n in range(3)]
    cubes = ann.ingest(turns, session="s")
    others = ann.ingest([{"role": "user", "content": "other word"}], session="t")
    ann.freeze(cubes[1].id)
    with pytest.raises(CubeFrozen):
        ann.forget_all(session="s")
    assert ann.stats().cubes == ann.stats().messages == 4
    assert ann.forget_all(session="t").cubes == (others[0].id,)


def test_what_is_frozen_does_not_expire(view: View) -> None:
    cube = view.add("A word.", ttl=0.3)
    frozen = view.freeze(cube.id)
    assert frozen.governance.expires_at is None
    time.sleep(0.3)
    assert view.get(cube.id).state is State.FROZEN
    assert found(view) == {cube.id}
    assert view.stats().cubes == 1
    late = datetime.now(UTC)
    thawed = view.unfreeze(cube.id)
    assert thawed.governance.expires_at == cube.governance.expires_at, "its time went on"
    assert found(view) == set()
    with pytest.raises(CubeNotFound, match="expired"):
        view.get(cube.id)
    assert found(view, as_of=late) == {cube.id}
    assert found(view, as_of=datetime.now(UTC)) == set()
    assert view.forget(cube.id).versions == 3


def test_what_thaws_in_time_goes_on(view: View) -> None:
    cube = view.add("A word.", ttl=100)
    view.freeze(cube.id)
    view.unfreeze(cube.id)
    assert view.get(cube.id).governance == cube.governance
    assert view.update(cube.id, ttl=1000).governance.expires_at is not None


def test_a_thaw_that_waited_for_the_frost_thaws(ann: View, database: str) -> None:
    cube = ann.add("A word.")
    with psycopg.connect(database) as holder, ThreadPoolExecutor(2) as pool:
        holder.execute("SELECT FROM memos.cube WHERE id = %s FOR UPDATE", [cube.id])
        freezing = pool.submit(ann.freeze, cube.id)
        until(lambda: freezing.done() or blocked(database) == 1)
        thawing = pool.submit(ann.unfreeze, cube.id)
        until(lambda: thawing.done() or blocked(database) == 2)
        holder.commit()
        assert freezing.result().state is State.FROZEN
        assert thawing.result().state is State.GENERATED
    assert states(ann, cube) == [State.GENERATED, State.FROZEN, State.GENERATED]
    assert ann.update(cube.id, "Two words.").version == 4


# --- expired --------------------------------------------------------------------------------------


def test_what_expired_is_found_in_the_past_alone(view: View) -> None:
    cube = view.add("A word.", tags=["t"])
    view.update(cube.id, "Two words.")
    lived = datetime.now(UTC)
    last = view.expire(cube.id)
    assert (last.text, last.version) == ("Two words.", 2)
    refused: list[Callable[[], object]] = [
        lambda: view.get(cube.id),
        lambda: view.get(cube.id, as_of=datetime.now(UTC) + timedelta(days=1)),
        lambda: view.update(cube.id, "New."),
        lambda: view.restore(cube.id, version=1),
        lambda: view.fuse([cube.id, view.add("Another word.").id]),
        lambda: view.derive("Made of it.", cube.id),
        lambda: view.compose([cube.id], "bundle"),
        lambda: view.relate(cube.id, "about", view.add("Another word.").id),
    ]
    for verb in refused:
        with pytest.raises(CubeNotFound, match="expired"):
            verb()
    for options in ({}, {"states": list(State)}, {"as_of": datetime.now(UTC)}):
        assert cube.id not in found(view, **options)
    assert [(one.version, one.state) for one in view.history(cube.id)] == [
        (1, State.GENERATED),
        (2, State.GENERATED),
        (3, State.EXPIRED),
    ]
    assert view.get(cube.id, as_of=lived).text == "Two words."
    assert view.get(cube.id, as_of=cube.updated_at).text == "A word."
    assert found(view, as_of=lived) == found(view, as_of=lived, tags=["t"]) == {cube.id}
    assert view.provenance(cube.id).cubes[cube.id].state is State.EXPIRED
    assert not view.stands([last])
    assert view.forget(cube.id).versions == 3
    with pytest.raises(CubeNotFound):
        view.history(cube.id)
    assert found(view, as_of=lived) == set()


def test_an_id_is_free_again_when_its_cube_was_ended(view: View, database: str) -> None:
    cube = view.add("The xyzzy word.", metadata={"old": 1})
    view.expire(cube.id)
    again = view.add("A new word.", id=cube.id)
    assert view.history(cube.id) == [again]
    assert (again.version, again.metadata, again.state) == (1, {}, State.GENERATED)
    assert found(view) == {cube.id}
    assert "xyzzy" not in everything_in(database)


def test_forget_all_erases_what_expired(ann: View, database: str) -> None:
    said = ann.ingest([{"role": "user", "content": "The xyzzy word."}], session="s")
    cube = ann.add("The xyzzy word.")
    ann.expire([said[0].id, cube.id])
    report = ann.forget_all(session="s")
    assert (report.cubes, report.versions) == ((said[0].id,), 2)
    assert ann.forget_all().cubes == (cube.id,)
    assert "xyzzy" not in everything_in(database)


def test_an_add_that_is_refused_erases_no_history(view: View) -> None:
    ended, there = view.add(["A word.", "Two words."])
    view.expire(ended.id)
    with pytest.raises(CubeExists):
        view.add(["New.", "Newer."], id=[ended.id, there.id])
    assert states(view, ended) == [State.GENERATED, State.EXPIRED]


def test_what_was_taken_from_an_index_is_not_found_by_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_indexes = Settings(exact_limit=0)
    with MemOS.open(database, embedder=WordEmbedder(), settings=only_indexes) as memos:
        monkeypatch.setattr(memos.engine.indexing, "_change_later", str)  # does nothing
        view = memos.at("acme", "ann")
        cubes = view.add(texts(80))
        assert view.build_index() == 80

        def by_index(**options: Any) -> dict[UUID, State]:
            hits = view.search("word1", k=100, **options)
            assert {hit.route for hit in hits} == {"index"}
            return {hit.cube.id: hit.cube.state for hit in hits}

        by_index()
        view.archive([cubes[0].id, cubes[1].id])
        view.activate(cubes[1].id)
        view.freeze(cubes[2].id)
        view.expire([cubes[3].id, cubes[4].id])
        view.fuse([cubes[5].id, cubes[6].id])
        expected = {cube.id for cube in cubes} - {cubes[n].id for n in (0, 3, 4, 5, 6)}
        for _ in range(2):
            now = by_index()
            assert expected == {cube for cube in now if cube in {one.id for one in cubes}}
            assert (now[cubes[1].id], now[cubes[2].id]) == (State.ACTIVATED, State.FROZEN)
            assert_consistent(database)
            view.build_index()  # moves what changed into it


class Interrupted(WordEmbedder):
    """Embeds a text after somebody else did something."""

    then: Callable[[], object] | None = None

    def embed(self, texts: Sequence[str]) -> Vectors:
        then, self.then = self.then, None
        if then:
            then()
        return super().embed(texts)


def test_what_is_appended_to_a_forgotten_cube_does_not_bring_it_back(database: str) -> None:
    embedder = Interrupted()
    with MemOS.open(database, embedder=embedder) as memos:
        cube = memos.add("The xyzzy word.")

        def forget_and_add() -> None:
            memos.forget(cube.id)
            memos.add("A new word.", id=cube.id)  # its version is 1 as well

        embedder.then = forget_and_add
        assert memos.update(cube.id, "More.", mode="append").text == "A new word.\nMore."
        assert "xyzzy" not in everything_in(database)


# --- who may --------------------------------------------------------------------------------------


@EACH_VERB
def test_a_caller_changes_what_he_may_write(memos: MemOS, verb: str) -> None:
    ann = memos.at("acme", caller=Caller(user="ann"))
    bob = memos.at("acme", caller=Caller(user="bob"))
    cube = ann.add("A word.")
    ready_for(ann, verb, cube)
    with pytest.raises(CubeNotFound, match="for bob"):
        getattr(bob, verb)(cube.id)
    ann.grant(user="bob", cube=cube.id, rights=["read"])
    with pytest.raises(MemOSError, match="bob may not write") as raised:
        getattr(bob, verb)(cube.id)
    assert type(raised.value).__name__ == "NotPermitted"
    ann.grant(user="bob", cube=cube.id, rights=["read", "write"])
    getattr(bob, verb)(cube.id)
    (event,) = memos.at("acme").events(kind=VERBS[verb][1])
    assert event.user == "bob"


def test_a_step_tells_nothing_that_may_not_be_read(memos: MemOS) -> None:
    ann = memos.at("acme", caller=Caller(user="ann"))
    bob = memos.at("acme", caller=Caller(user="bob"))
    secret = ann.add("The secret word.")
    grant = ann.grant(user="bob", cube=secret.id, rights=["read", "derive"])
    made = bob.derive("It is the secret word.", secret.id)
    ann.revoke(grant)
    for verb in ("get", "history", "archive", "activate", "freeze", "unfreeze", "expire"):
        try:
            told = str(getattr(bob, verb)(made.id))
        except CubeNotFound as error:
            told = str(error)
        assert "secret" not in told, verb


def test_forget_all_erases_what_it_reports(memos: MemOS) -> None:
    ann = memos.at("acme", caller=Caller(user="ann"))
    bob = memos.at("acme", caller=Caller(user="bob"))
    hers, his = ann.add("Her word."), bob.add("His word.")
    ann.grant(user="bob", cube=hers.id, rights=["write"])  # and not to read
    report = bob.forget_all()
    assert his.id in report.cubes
    with pytest.raises(CubeNotFound):
        memos.at("acme").get(his.id)


# --- any order of verbs ---------------------------------------------------------------------------


@dataclass(eq=False)
class Known:
    """What the model knows of a cube: its row if it is ``there``, and every version of it."""

    id: UUID
    text: str
    born: int
    tags: tuple[str, ...] = ()
    state: State = State.GENERATED
    version: int = 1
    said: int = 1  # the version at which its text was last changed
    there: bool = True
    erased: bool = False
    unsure: bool = False  # whether it came back from its fusion before it ended with that
    sources: dict[Known, int] = field(default_factory=dict, repr=False)
    fusions: set[Known] = field(default_factory=set, repr=False)
    members: list[UUID] | None = None
    history: list[tuple[int, str, tuple[str, ...], State]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.write()

    def write(self) -> None:
        self.history.append((self.version, self.text, self.tags, self.state))

    def change(self, state: State | None = None) -> None:
        self.version += 1
        self.state = state or self.state
        self.write()

    def found_again(self) -> None:
        if self.state is State.ARCHIVED:
            self.change(State.ACTIVATED)

    @property
    def stands(self) -> bool:
        return self.there and all(
            one.there and one.said == version for one, version in self.sources.items()
        )

    @property
    def stale(self) -> bool:
        return self.there and not self.stands

    @property
    def unheard(self) -> bool:
        return self.state is State.MERGED and not any(one.stands for one in self.fusions)


def shown(state: State) -> State:
    """Return a state without whether the cube was ever used."""
    return State.ACTIVATED if state is State.GENERATED else state


Numbers = st.lists(st.integers(0, 99), min_size=1, max_size=3)
Words = st.sampled_from(["red word", "Blue word.", "Green! Blue word.", "grey\nword", "no", "日本"])
Answer = dict[UUID, tuple[str, int, tuple[str, ...], State]]


class Life(RuleBasedStateMachine):
    """Random verbs, carried out by a view and by the model."""

    memos: MemOS
    indexed = False
    tenants = count(1)

    def __init__(self) -> None:
        super().__init__()
        self.view = self.memos.at(f"tenant {next(self.tenants)}")
        self.cubes: list[Known] = []
        self.bundles: dict[str, Known] = {}
        self.births = count(1)
        self.past: list[tuple[datetime, Answer, set[UUID]]] = []

    # what the model does

    def chosen(self, numbers: Iterable[int]) -> list[Known]:
        return list(dict.fromkeys(self.cubes[number % len(self.cubes)] for number in numbers))

    def attempt(self, refusal: type[MemOSError] | None, verb: Callable[[], Any]) -> Any:
        if refusal is None:
            return verb()
        with pytest.raises(refusal) as raised:
            verb()
        assert type(raised.value) is refusal
        return None

    def fresh(self, made: MemCube, parents: Iterable[Known] = (), **fields: Any) -> Known:
        known = Known(made.id, made.text, next(self.births), **fields)
        for parent in parents:
            known.sources |= {**parent.sources, parent: parent.said}
        self.cubes.append(known)
        return known

    def unmerge(self, children: set[Known]) -> None:
        for one in self.cubes:
            into = one.fusions & children
            others = any(fusion.there for fusion in one.fusions - children)
            if one.there and one.state is State.MERGED and into and not others:
                one.unsure |= one in children
                one.change(State.ACTIVATED)

    def end(self, cubes: Iterable[Known]) -> None:
        for one in cubes:
            if one.there:
                one.change(State.EXPIRED)
                one.there = False

    def invalidate(self, changed: set[Known]) -> None:
        fallen = {
            one
            for one in self.cubes
            if one.there and one.state is not State.FROZEN and changed & set(one.sources)
        }
        self.unmerge(fallen)
        self.end(fallen)

    def now(self) -> Answer:
        return {
            one.id: (one.text, one.version, one.tags, shown(one.state))
            for one in self.cubes
            if one.stands and (one.state in SEARCHED or one.unheard)
        }

    # the verbs

    @initialize()
    def begin(self) -> None:
        for made in self.view.add(["red word", "Blue word.", "Green! word"]):
            self.fresh(made)

    @rule(text=Words, tags=st.lists(st.sampled_from("ab"), max_size=1))
    def add(self, text: str, tags: list[str]) -> None:
        made = self.view.add(text, tags=tags)
        self.fresh(made, tags=tuple(tags))

    @rule(number=st.integers(0, 99), text=Words)
    def add_again(self, number: int, text: str) -> None:
        (old,) = self.chosen([number])
        made_of_it = any(old in one.sources for one in self.cubes if not one.erased)
        if old.erased or old.members is not None or made_of_it:
            return
        refusal = CubeExists if old.there else None
        if made := self.attempt(refusal, lambda: self.view.add(text, id=old.id)):
            self.forgotten([old])
            self.cubes.remove(old)
            self.fresh(made)

    @rule(number=st.integers(0, 99), text=Words)
    def update(self, number: int, text: str) -> None:
        (one,) = self.chosen([number])
        if made := self.attempt(self.fixed(one), lambda: self.view.update(one.id, text)):
            one.text, one.said = text, one.version + 1
            one.change(State.ACTIVATED if one.state is State.MERGED else None)
            self.invalidate({one})
            assert (made.version, made.text) == (one.version, text)

    @rule(number=st.integers(0, 99), tags=st.lists(st.sampled_from("ab"), max_size=1))
    def label(self, number: int, tags: list[str]) -> None:
        (one,) = self.chosen([number])
        if self.attempt(self.fixed(one), lambda: self.view.update(one.id, tags=tags)):
            one.tags = tuple(tags)
            one.change()

    @rule(number=st.integers(0, 99), which=st.integers(0, 99))
    def restore(self, number: int, which: int) -> None:
        (one,) = self.chosen([number])
        version, text, tags, state = one.history[which % len(one.history)]
        verb = lambda: self.view.restore(one.id, version=version)  # noqa: E731
        if self.attempt(self.fixed(one), verb) and version != one.version:
            one.text, one.tags, one.said = text, tags, one.version + 1
            thawed = state in (State.FROZEN, State.MERGED)
            one.change(State.ACTIVATED if thawed else state)
            self.invalidate({one})

    def fixed(self, one: Known) -> type[MemOSError] | None:
        if not one.stands:
            return CubeNotFound
        return CubeFrozen if one.state is State.FROZEN else None

    @rule(numbers=Numbers, verb=st.sampled_from(sorted(VERBS)))
    def step(self, numbers: list[int], verb: str) -> None:
        to = VERBS[verb][0]
        chosen = [
            one
            for one in self.chosen(numbers)
            if (verb == "unfreeze" or not one.stale)
            and not (verb == "activate" and one.state is State.GENERATED)
        ]
        refusal: type[MemOSError] | None = None
        if not all(one.there for one in chosen):
            refusal = CubeNotFound
        elif verb == "unfreeze":
            if any(one.state is not State.FROZEN for one in chosen):
                refusal = IllegalTransition
        elif to is not State.FROZEN and any(one.state is State.FROZEN for one in chosen):
            refusal = CubeFrozen
        ids = [one.id for one in chosen]
        self.attempt(refusal, lambda: getattr(self.view, verb)(ids))
        if refusal:
            return
        if verb == "expire":
            gone = set(chosen)
            self.invalidate(gone)
            self.unmerge(gone)
            self.end(gone)
            return
        if verb == "unfreeze":
            self.thaw(chosen)
            return
        for one in chosen:
            if one.state is not to:
                one.change(to)

    def thaw(self, chosen: list[Known]) -> None:
        fallen = {one for one in chosen if one.stale}
        self.unmerge(fallen)
        self.end(fallen)
        for one in chosen:
            if one not in fallen:
                earlier = one.history[-2][3]
                spoken_for = any(fusion.there for fusion in one.fusions)
                merged = earlier is State.MERGED and not spoken_for
                one.change(State.ACTIVATED if merged else earlier)

    @rule(numbers=Numbers)
    def forget(self, numbers: list[int]) -> None:
        chosen = self.chosen(numbers)
        made = {
            one
            for one in self.cubes
            if not one.erased and one not in chosen and set(chosen) & set(one.sources)
        }
        refusal: type[MemOSError] | None = None
        if any(one.erased for one in chosen):
            refusal = CubeNotFound
        elif any(one.there and one.state is State.FROZEN for one in chosen):
            refusal = CubeFrozen
        if report := self.attempt(refusal, lambda: self.view.forget([one.id for one in chosen])):
            assert set(report.cubes) == {one.id for one in chosen}
            assert set(report.derived) == {one.id for one in made}
            self.forgotten({*chosen, *made})

    def forgotten(self, gone: Iterable[Known]) -> None:
        gone = set(gone)
        self.unmerge(gone)
        for one in gone:
            one.there, one.erased, one.history = False, True, [(1, one.text, (), one.state)]
        for one in self.cubes:
            one.fusions -= gone
        self.past.clear()

    @rule(numbers=Numbers)
    def fuse(self, numbers: list[int]) -> None:
        chosen = self.chosen(numbers)
        refusal: type[MemOSError] | None = None
        if len(chosen) < 2:
            refusal = InvalidInput
        elif not all(one.stands for one in chosen):
            refusal = CubeNotFound
        elif any(one.state is State.FROZEN for one in chosen):
            refusal = CubeFrozen
        elif any(one.state is State.ARCHIVED for one in chosen):
            refusal = IllegalTransition
        if made := self.attempt(refusal, lambda: self.view.fuse([one.id for one in chosen])):
            ordered = sorted(chosen, key=lambda one: one.born)
            assert made.text == fused_by_rule([one.text for one in ordered])
            tags = tuple(dict.fromkeys(tag for one in ordered for tag in one.tags))
            known = self.fresh(made, chosen, tags=tags)
            for one in chosen:
                one.fusions.add(known)
                if one.state is not State.MERGED:
                    one.change(State.MERGED)

    @rule(numbers=Numbers, text=Words)
    def derive(self, numbers: list[int], text: str) -> None:
        chosen = self.chosen(numbers)
        refusal = None if all(one.stands for one in chosen) else CubeNotFound
        verb = lambda: self.view.derive(text, [one.id for one in chosen])  # noqa: E731
        if made := self.attempt(refusal, verb):
            self.fresh(made, chosen)

    @rule(numbers=Numbers, name=st.sampled_from("xy"), tags=st.sampled_from([(), ("a",)]))
    def compose(self, numbers: list[int], name: str, tags: tuple[str, ...]) -> None:
        chosen, old = self.chosen(numbers), self.bundles.get(name)
        ids = [one.id for one in chosen]
        text = "\n".join([name, *(one.text for one in chosen)])
        same = old is not None and (old.members, old.text, old.tags) == (ids, text, tags)
        refusal: type[MemOSError] | None = None
        if not all(one.stands for one in chosen):
            refusal = CubeNotFound
        elif old and any(one is old or old in one.sources for one in chosen):
            refusal = InvalidInput
        elif old and old.there and old.state is State.FROZEN:
            if old.members == ids and not (same and old.stands):
                return
            refusal = None if same else CubeFrozen
        verb = lambda: self.view.compose(ids, name, tags=tags)  # noqa: E731
        made = self.attempt(refusal, verb)
        if made is None:
            return
        if old is not None and old.stands and same:
            old.found_again()
            assert (made.id, made.version) == (old.id, old.version)
            return
        if old is None or old.erased:
            if old is not None:
                self.cubes.remove(old)  # its id is in use again
            self.bundles[name] = known = self.fresh(made, chosen, tags=tags)
            known.members = ids
        else:
            last = made.version - 1 if old.unsure else old.version
            self.invalidate({old})
            old.unsure = False
            old.text, old.tags, old.members, old.state = text, tags, ids, State.GENERATED
            old.there, old.born, old.history = True, next(self.births), []
            old.version = old.said = last + 1
            old.write()
            old.sources = {}
            for parent in chosen:
                old.sources |= {**parent.sources, parent: parent.said}
            self.past.clear()
        assert (made.text, made.version) == (text, self.bundles[name].version)

    @rule()
    @precondition(lambda self: self.indexed)
    def build_index(self) -> None:
        self.view.build_index()

    # what is compared

    def answer(self, **options: Any) -> Answer:
        hits = self.view.search("word", k=100 if self.indexed else 1000, **options)
        return {
            hit.cube.id: (hit.text, hit.cube.version, hit.cube.tags, shown(hit.cube.state))
            for hit in hits
        }

    @invariant()
    def the_same_is_found(self) -> None:
        expected, answer = self.now(), self.answer()
        if self.indexed:  # HNSW finds no way to a few
            assert answer.items() <= expected.items()
        else:
            assert answer == expected
        unsure = {
            one.id for one in self.cubes if one.stale or any(fusion.stale for fusion in one.fusions)
        }
        self.past.append((datetime.now(UTC), expected, unsure))

    @rule(number=st.integers(0, 99))
    def look_back(self, number: int) -> None:
        moment, expected, unsure = self.past[number % len(self.past)]
        answer = self.answer(as_of=moment)
        assert {one: answer[one] for one in answer.keys() - unsure} == {
            one: expected[one] for one in expected.keys() - unsure
        }

    @rule(wanted=st.sets(st.sampled_from([*STATES])))
    def search(self, wanted: set[State]) -> None:
        if wanted & {State.GENERATED, State.ACTIVATED}:  # which of them, reads decide
            wanted |= {State.GENERATED, State.ACTIVATED}
        expected = {one.id for one in self.cubes if one.stands and one.state in wanted}
        answer = self.answer(states=sorted(wanted)).keys()
        assert answer <= expected if self.indexed else answer == expected

    @rule(number=st.integers(0, 99))
    def read(self, number: int) -> None:
        (one,) = self.chosen([number])
        got = self.attempt(None if one.stands else CubeNotFound, lambda: self.view.get(one.id))
        if got:
            assert (got.text, got.version, got.tags, shown(got.state)) == (
                one.text,
                one.version,
                one.tags,
                shown(one.state),
            )
        versions = self.attempt(
            CubeNotFound if one.erased else None, lambda: self.view.history(one.id)
        )
        if versions and not one.unsure:
            assert [(old.version, old.text, old.tags, shown(old.state)) for old in versions] == [
                (*known[:3], shown(known[3])) for known in one.history
            ]

    @rule()
    def count_them(self) -> None:
        assert self.view.stats().cubes == sum(one.stands for one in self.cubes)


class IndexedLife(Life):
    """The same where search goes by an index."""

    indexed = True


@pytest.fixture
def lives(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], MemOS]]:
    """Opens a memory for many lives, searched by indexes or not."""
    opened: list[MemOS] = []

    def opener(indexed: bool) -> MemOS:  # noqa: FBT001
        limits = Settings(exact_limit=0) if indexed else Settings()
        memos = MemOS.open(database, embedder=WordEmbedder(), settings=limits)
        monkeypatch.setattr(memos.engine.indexing, "_change_later", str)  # does nothing
        opened.append(memos)
        return memos

    yield opener
    for memos in opened:
        memos.close()


@pytest.mark.parametrize(("machine", "examples"), [(Life, 30), (IndexedLife, 8)])
def test_any_order_of_verbs_ends_as_the_model_says(
    lives: Callable[[bool], MemOS],
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    machine: type[Life],
    examples: int,
) -> None:
    monkeypatch.setattr(machine, "memos", lives(machine.indexed), raising=False)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert_consistent(database)
    assert threading.active_count() < 100
