"""The audit log, usage and counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from memos_core import Caller, CubeNotFound, Event, InvalidInput, MemOS, Settings, View
from tests.support import WordEmbedder


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def test_every_verb_leaves_a_line(view: View) -> None:
    cube = view.add("Ann likes tea.")
    (said,) = view.ingest("So does Bob.", session="monday")
    view.get(cube.id)
    hits = view.search("tea", k=2, offset=0)
    view.update(cube.id, "Ann likes cake.", mode="append")
    view.restore(cube.id, version=1)
    view.history(cube.id)
    view.retire("monday")
    view.forget(cube.id)
    log = view.events()
    assert kinds(log) == [
        "forgot",
        "retired",
        "read",
        "restored",
        "updated",
        "searched",
        "read",
        "ingested",
        "added",
    ], "the latest first"
    forgot, retired, looked_back, restored, updated, searched, _read, ingested, added = log
    assert (added.cube_ids, added.details) == ((cube.id,), {})
    assert ingested.cube_ids == (said.id,)
    assert ingested.details == {"messages": 1}
    assert searched.cube_ids == tuple(hit.cube.id for hit in hits)
    assert searched.details == {"k": 2, "offset": 0}
    assert updated.details == {"version": 2, "mode": "append"}
    assert restored.details == {"version": 3, "restored_from": 1}
    assert looked_back.details == {"versions": 3}
    assert retired.details == {"messages": 1}
    assert forgot.details == {"messages": 0, "versions": 3, "derived": 0}
    assert [event.at for event in log] == sorted((event.at for event in log), reverse=True)


def test_a_refused_verb_leaves_none(view: View) -> None:
    for refused in (lambda: view.get(uuid4()), lambda: view.forget(uuid4())):
        with pytest.raises(CubeNotFound):
            refused()
    assert view.events() == []


def test_a_batch_is_one_line(view: View) -> None:
    cubes = view.add([str(number) for number in range(100)])
    (event,) = view.events()
    assert set(event.cube_ids) == {cube.id for cube in cubes}


def test_selects_lines(memos: MemOS) -> None:
    ann = memos.at("acme", caller=Caller(user="ann", roles=("admin",), context={"app": "x"}))
    bob = memos.at("acme", caller=Caller(user="bob"))
    first = ann.add("one")
    second = bob.add("two")
    middle = datetime.now(UTC)
    bob.get(second.id)
    view = memos.at("acme")
    assert kinds(view.events(kind="added")) == ["added", "added"]
    assert kinds(view.events(cube=second.id)) == ["read", "added"]
    assert [event.cube_ids for event in view.events(caller="ann")] == [(first.id,)]
    assert [event.user for event in view.events()] == ["bob", "bob", "ann"]
    assert kinds(view.events(since=middle)) == ["read"]
    assert kinds(view.events(until=middle)) == ["added", "added"]
    assert view.events(limit=1, offset=1)[0].cube_ids == (second.id,)
    assert view.events(limit=0) == []
    assert view.events(since=middle + timedelta(days=1)) == []


@pytest.mark.parametrize(
    "options",
    [{"limit": -1}, {"limit": 10**6}, {"cube": "x"}, {"since": "x"}, {"kind": 7}, {"caller": 7}],
)
def test_refuses_selections_that_make_no_sense(ann: View, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        ann.events(**options)


def test_reads_need_not_be_logged(database: str) -> None:
    settings = Settings(read_events=False)
    with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        cube = memos.add("one")
        memos.search("one")
        usage = memos.get(cube.id).usage
        assert usage is not None
        assert usage.reads == 0
        assert kinds(memos.events()) == ["added"]


def test_the_log_is_partitioned_by_month(ann: View, database: str) -> None:
    ann.add("one")
    month = f"{datetime.now(UTC):event_%Y_%m}"
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT relname FROM memos.event JOIN pg_class ON pg_class.oid = event.tableoid"
        )
        assert rows.fetchall() == [(month,)]


def test_events_hold_no_text(ann: View) -> None:
    cube = ann.add("secret tea", tags=["hush"], metadata={"private": "word"})
    ann.update(cube.id, "secret cake", mode="append")
    ann.search("secret question", tags=["hush"])
    said = repr(ann.events())
    for word in ("secret", "tea", "cake", "hush", "private", "question"):
        assert word not in said


def test_counts_what_a_view_holds(memos: MemOS) -> None:
    assert memos.stats().embedder is None
    ann, bob = memos.at("acme", "ann"), memos.at("acme", "bob")
    cube = ann.add(["one", "two"])[0]
    ann.update(cube.id, "three")
    bob.ingest([{"role": "user", "content": "four"}, {"role": "system", "content": "five"}])
    counted = ann.stats()
    assert (counted.cubes, counted.versions, counted.messages, counted.events) == (2, 3, 0, 2)
    both = memos.at("acme").stats()
    assert (both.cubes, both.versions, both.messages, both.events) == (3, 4, 2, 3)
    assert (both.embedder, both.width) == ("words", 64)
    assert both.bytes > 1_000_000
    assert memos.stats().cubes == 0, "another tenant's"
