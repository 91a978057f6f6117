"""Add, get, update, restore, history and forget, through both faces."""

from __future__ import annotations

import copy
import pickle
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4, uuid5

import pytest

from memos_core import (
    Caller,
    CubeExists,
    CubeNotFound,
    ForgetReport,
    InvalidInput,
    InvalidText,
    Kind,
    MemCube,
    MemOS,
    Namespace,
    State,
    VersionConflict,
    View,
)
from tests.support import everything_in

MINE = UUID("00000000-0000-0000-0000-00000000c0de")


def unread(cube: MemCube) -> MemCube:
    """Return a cube as a verb returns it that does not count reads."""
    return MemCube(**{name: getattr(cube, name) for name in cube.__slots__} | {"usage": None})


def texts(cubes: list[MemCube]) -> list[str]:
    return [cube.text for cube in cubes]


# --- add and get ----------------------------------------------------------------------------------


def test_a_cube_has_a_whole_header(memos: MemOS) -> None:
    ann = memos.at("acme", "ann@x.org", "trips", caller=Caller(user="ann"))
    before = datetime.now(UTC)
    cube = ann.add(
        "Ann flies to Oslo.",
        tags=["travel", "oslo", "travel"],
        metadata={"seat": {"row": 7}, "price": 99.5, "paid": None},
        semantic_type="plan",
        source="calendar",
        valid_from="2026-05-01T00:00:00+02:00",
        valid_to=datetime(2026, 6, 1, tzinfo=UTC),
        ttl=timedelta(days=3),
        priority=-2,
        sensitivity=["location"],
    )
    assert cube.namespace == Namespace("acme", "ann@x.org", "trips")
    assert (cube.kind, cube.state, cube.version) == (Kind.PLAINTEXT, State.GENERATED, 1)
    assert (cube.text, cube.semantic_type) == ("Ann flies to Oslo.", "plan")
    assert cube.tags == ("travel", "oslo")
    assert cube.metadata == {"seat": {"row": 7}, "price": 99.5, "paid": None}
    assert (cube.provenance.source, cube.provenance.created_by) == ("calendar", "ann")
    assert (cube.governance.owner, cube.governance.priority) == ("ann", -2)
    assert cube.governance.sensitivity == ("location",)
    assert cube.governance.expires_at == cube.created_at + timedelta(days=3)
    assert cube.created_at == cube.updated_at
    assert before <= cube.created_at <= datetime.now(UTC)
    assert cube.valid_from == datetime(2026, 4, 30, 22, tzinfo=UTC)
    assert cube.valid_to == datetime(2026, 6, 1, tzinfo=UTC)
    assert unread(ann.get(cube.id)) == cube


def test_adds_one_or_many(view: View) -> None:
    one = view.add("one")
    many = view.add(["two", "three", "two"], tags=["number"])
    assert one.text == "one"
    assert texts(many) == ["two", "three", "two"], "in the order given, none dropped"
    assert all(cube.tags == ("number",) for cube in many)
    assert len({one.id, *(cube.id for cube in many)}) == 4
    assert view.add([]) == []
    assert view.get(str(many[1].id)).text == "three"


def test_ids_of_ones_own(view: View) -> None:
    assert view.add("one", id=MINE).id == MINE
    keys = [uuid5(MINE, name) for name in ("a", "b")]
    assert [cube.id for cube in view.add(["two", "three"], id=[str(key) for key in keys])] == keys
    with pytest.raises(CubeExists, match="update"):
        view.add(["four", "five"], id=[uuid4(), MINE])
    assert view.stats().cubes == 3, "nothing of a refused batch is stored"
    with pytest.raises(InvalidInput, match="uuid5"):
        view.add("six", id="my-key")
    with pytest.raises(InvalidInput, match="2 different ids"):
        view.add(["six", "seven"], id=[MINE, MINE])
    with pytest.raises(InvalidInput, match="list with one id for each"):
        view.add(["six", "seven"], id=MINE)


def test_an_id_of_another_tenant_is_free(memos: MemOS) -> None:
    memos.at("acme").add("ours", id=MINE)
    memos.at("other").add("theirs", id=MINE)
    assert memos.at("acme").get(MINE).text == "ours"
    assert memos.at("other").get(MINE).text == "theirs"


def test_an_id_is_free_again_when_its_cube_has_expired(view: View) -> None:
    view.add("one", id=MINE, ttl=0.2)
    view.update(MINE, "two")
    with pytest.raises(CubeExists):
        view.add("three", id=MINE)
    time.sleep(0.25)
    cube = view.add("three", id=MINE)
    assert cube.version == 1
    assert view.history(MINE) == [cube]


def test_cubes_can_be_copied_pickled_and_taken_apart(ann: View) -> None:
    ann.add("one", metadata={"a": [1]}, tags=["x"])
    (hit,) = ann.search("one")
    assert copy.deepcopy(hit) == hit
    assert pickle.loads(pickle.dumps(hit)) == hit  # noqa: S301
    assert asdict(hit)["cube"]["namespace"] == hit.cube.namespace


def test_text_is_kept_to_the_letter(view: View) -> None:
    text = '  Grüße,\t"quoted" \\ back\n\n東京 🦜 e\u0301 \x7f\u200b\r\n '
    assert view.get(view.add(text).id).text == text


def test_counts_what_was_read(view: View) -> None:
    cube = view.add("Ann likes tea.")
    assert cube.usage is None
    first = view.get(cube.id).usage
    assert first is not None
    assert (first.reads, first.last_read_at) == (0, None)
    view.search("tea")
    usage = view.get(cube.id).usage
    assert usage is not None
    assert usage.reads == 2
    assert usage.last_read_at is not None


def test_what_is_not_there_is_said(view: View) -> None:
    unknown = uuid4()
    for verb in (
        lambda: view.get(unknown),
        lambda: view.history(unknown),
        lambda: view.update(unknown, "new"),
        lambda: view.restore(unknown, version=1),
        lambda: view.forget(unknown),
    ):
        with pytest.raises(CubeNotFound, match=str(unknown)):
            verb()
    with pytest.raises(InvalidInput, match="no cube id"):
        view.get("seven")


# --- update ---------------------------------------------------------------------------------------


def test_an_update_is_a_new_version(view: View) -> None:
    first = view.add("Ann is allergic to peanuts.", tags=["health"], metadata={"since": 2001})
    second = view.update(first.id, "Ann has outgrown her allergy.")
    assert (second.id, second.version) == (first.id, 2)
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    assert (second.tags, second.metadata) == (first.tags, first.metadata)
    third = view.update(first.id, tags=[], metadata={"since": 2026}, priority=3)
    assert (third.version, third.text) == (3, second.text)
    assert (third.tags, third.metadata, third.governance.priority) == ((), {"since": 2026}, 3)
    assert view.history(first.id) == [first, second, third]
    assert unread(view.get(first.id)) == third
    activated = replace(third, state=State.ACTIVATED)  # by its first reuse
    assert [hit.cube for hit in view.search("allergic to peanuts")] == [activated]


def test_append_adds_a_line(view: View) -> None:
    cube = view.add("Milk.")
    assert view.update(cube.id, "Bread.", mode="append").text == "Milk.\nBread."
    assert view.search("bread")[0].cube.id == cube.id
    with pytest.raises(InvalidInput, match="append"):
        view.update(cube.id, "Eggs.", mode="prepend")  # pyright: ignore[reportArgumentType]


def test_a_lost_update_is_refused(view: View) -> None:
    cube = view.add("one")
    view.update(cube.id, "two", expected_version=1)
    with pytest.raises(VersionConflict, match="at version 2, not 1"):
        view.update(cube.id, "three", expected_version=1)
    with pytest.raises(VersionConflict):
        view.restore(cube.id, version=1, expected_version=1)
    assert texts(view.history(cube.id)) == ["one", "two"]


def test_an_update_changes_all_parts_of_the_header(view: View) -> None:
    cube = view.add("one", ttl=100)
    changed = view.update(
        cube.id,
        semantic_type="preference",
        valid_from="2026-01-01T00:00:00+00:00",
        valid_to="2026-02-01T00:00:00+00:00",
        ttl=3600,
        sensitivity=["health"],
    )
    assert changed.semantic_type == "preference"
    assert changed.valid_from == datetime(2026, 1, 1, tzinfo=UTC)
    assert changed.valid_to == datetime(2026, 2, 1, tzinfo=UTC)
    assert changed.governance.expires_at == changed.updated_at + timedelta(hours=1)
    assert changed.governance.sensitivity == ("health",)
    with pytest.raises(InvalidInput, match="not after"):
        view.update(cube.id, valid_from="2026-03-01T00:00:00+00:00")
    with pytest.raises(InvalidInput, match="nothing to update"):
        view.update(cube.id)
    assert view.get(cube.id).version == 2


def test_refused_text_leaves_the_cube_as_it_was(view: View) -> None:
    cube = view.add("one")
    with pytest.raises(InvalidText):
        view.update(cube.id, "  ")
    with pytest.raises(InvalidText, match="over the limit"):
        view.update(cube.id, "x" * 65_530 + " and more", mode="append")
    assert view.history(cube.id) == [cube]


# --- restore --------------------------------------------------------------------------------------


def test_restore_brings_a_version_back(view: View) -> None:
    first = view.add("Ann drinks coffee.", tags=["taste"], metadata={"cups": 6}, priority=1)
    old_score = view.search("coffee")[0].score
    view.update(first.id, "Ann drinks tea.", tags=[], metadata={}, priority=0)
    restored = view.restore(first.id, version=1)
    assert restored.version == 3
    assert restored.provenance.restored_from == 1
    assert (restored.text, restored.tags) == (first.text, first.tags)
    assert (restored.metadata, restored.governance) == (first.metadata, first.governance)
    assert view.search("coffee")[0].score == pytest.approx(old_score)
    assert texts(view.history(first.id)) == [first.text, "Ann drinks tea.", first.text]
    changed = view.update(first.id, "Ann drinks cocoa.")
    assert changed.provenance.restored_from is None, "it says what no version said before"


def test_an_old_time_to_live_is_not_restored(view: View) -> None:
    cube = view.add("one", ttl=0.2)
    prolonged = view.update(cube.id, "two", ttl=1_000)
    time.sleep(0.25)
    restored = view.restore(cube.id, version=1)
    assert restored.text == "one"
    assert restored.governance.expires_at == prolonged.governance.expires_at
    assert view.get(cube.id).version == 3


def test_restoring_what_stands_changes_nothing(view: View) -> None:
    cube = view.add("one")
    assert view.restore(cube.id, version=1) == cube
    assert len(view.history(cube.id)) == 1
    with pytest.raises(CubeNotFound, match="the last is 1"):
        view.restore(cube.id, version=2)
    with pytest.raises(InvalidInput, match="version"):
        view.restore(cube.id, version=0)


# --- forget ---------------------------------------------------------------------------------------


def test_forget_leaves_nothing_behind(view: View) -> None:
    kept, gone = view.add(["Ann likes tea.", "Ann likes cake."])
    view.update(gone.id, "Ann likes cake a lot.")
    moment = view.get(gone.id).updated_at
    report = view.forget(gone.id)
    assert (report.cubes, report.versions, report.message_ids) == ((gone.id,), 2, ())
    for verb in (view.get, view.history, view.forget):
        with pytest.raises(CubeNotFound):
            verb(gone.id)
    with pytest.raises(CubeNotFound):
        view.get(gone.id, as_of=moment)
    assert [hit.cube.id for hit in view.search("cake")] == [kept.id]
    assert [hit.cube.id for hit in view.search("cake", as_of=moment)] == [kept.id]
    assert view.stats().versions == 1


def test_forgets_all_or_none(view: View) -> None:
    cubes = view.add(["one", "two", "three"])
    unknown = uuid4()
    with pytest.raises(CubeNotFound, match=str(unknown)) as raised:
        view.forget([cubes[0].id, unknown])
    assert str(cubes[0].id) not in str(raised.value), "only the missing one is named"
    assert view.stats().cubes == 3
    report = view.forget([cube.id for cube in cubes] + [str(cubes[0].id)])
    assert sorted(report.cubes) == sorted(cube.id for cube in cubes)
    assert view.stats().cubes == 0
    assert view.forget([]).cubes == ()
    assert len(view.events(kind="forgot")) == 1


def test_forgetting_erases_the_turns(view: View) -> None:
    turn = {"id": "m1", "role": "user", "name": "Ann", "content": "My code is 4711.", "x": 1}
    (cube,) = view.ingest([turn], session="monday")
    assert view.forget(cube.id).message_ids == ("m1",)
    assert view.messages() == []
    assert view.ingest([turn], session="monday") == [], "sent again, it does not come back"
    assert view.messages() == []
    assert view.search("code 4711") == []
    (event,) = view.events(kind="forgot")
    assert event.cube_ids == (cube.id,)
    assert event.details == {"messages": 1, "versions": 1, "derived": 0}


def test_forgets_a_session_or_everything(memos: MemOS, view: View) -> None:
    other = memos.at("acme", "bob")
    other.ingest("Bob's.", session="monday")
    for session in ("monday", "tuesday"):
        turns = [{"role": role, "content": f"{role} {session}"} for role in ("user", "tool")]
        view.ingest(turns, session=session)
    view.add("fact")
    report = view.forget_all(session="monday")
    assert (len(report.cubes), len(report.message_ids)) == (1, 2)
    assert [one.content for one in view.messages()] == ["user tuesday", "tool tuesday"]
    assert view.stats().cubes == 2
    report = view.forget_all()
    assert (len(report.cubes), len(report.message_ids)) == (2, 2)
    assert (view.stats().cubes, view.stats().messages, view.messages()) == (0, 0, [])
    assert view.forget_all() == ForgetReport(cubes=(), versions=0, message_ids=())
    assert len(view.events(kind="forgot")) == 4
    assert other.stats().cubes == 1


def test_a_forgotten_text_is_nowhere_in_the_database(ann: View, database: str) -> None:
    turn = {"id": "m1", "role": "user", "name": "Zaphod", "content": "xyzzy", "note": "plugh"}
    (said,) = ann.ingest([turn])
    cube = ann.add("xyzzy", metadata={"note": "plugh"}, source="xyzzy")
    ann.update(cube.id, "plugh xyzzy")
    ann.forget([said.id, cube.id])
    left = everything_in(database)
    assert str(cube.id) in left, "the audit log keeps ids"
    for word in ("xyzzy", "plugh", "zaphod"):
        assert word not in left.lower()
