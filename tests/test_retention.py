"""A sweep archives and ends what its time is over for, in batches, and tells what it did."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from memos_core import (
    Caller,
    CubeNotFound,
    InvalidInput,
    MemOS,
    NotPermitted,
    Retention,
    State,
    View,
)
from tests.support import WordEmbedder

DAY = timedelta(days=1)


def older(dsn: str, age: timedelta, *cubes: UUID) -> None:
    """Make cubes and their reads look older than they are."""
    with psycopg.connect(dsn) as connection:
        for table in ("cube", "cube_version"):
            connection.execute(
                f"UPDATE memos.{table} SET recorded_at = recorded_at - %s, "
                "created_at = created_at - %s WHERE id = ANY(%s)",
                (age, age, list(cubes)),
            )
        connection.execute(
            "UPDATE memos.event SET at = at - %s WHERE cube_ids && %s", (age, list(cubes))
        )


def found(view: View, **options: Any) -> set[str]:
    return {hit.text for hit in view.search("tea", k=1_000, **options)}


# --- time to live ---------------------------------------------------------------------------------


def test_what_its_time_is_over_for_ends(view: View) -> None:
    cube = view.add("brief tea", ttl=0.05)
    stays = view.add("long tea", ttl=3600)
    before = datetime.now(UTC)
    time.sleep(0.06)
    report = view.sweep()
    assert report.expired == (cube.id,)
    assert (report.archived, report.ended, report.invalidated) == ((), (), ())
    assert view.sweep().expired == (), "once"
    assert found(view) == {"long tea"}
    assert [one.state for one in view.history(cube.id)] == [State.GENERATED, State.EXPIRED]
    assert found(view, as_of=before) == {"brief tea", "long tea"}
    assert view.get(cube.id, as_of=before).text == "brief tea"
    (event,) = view.events(kind="expired")
    assert (event.cube_ids, event.details) == ((cube.id,), {"because": "ttl"})
    assert view.get(stays.id).governance.expires_at is not None


def test_what_was_made_of_it_ends_with_it(ann: View) -> None:
    parent, other = ann.add("brief tea", ttl=0.05), ann.add("other tea")
    derived = ann.derive("tea summary", [parent.id, other.id])
    fused = ann.fuse([other.id, ann.add("third tea", ttl=0.05).id])
    time.sleep(0.06)
    assert found(ann) == {"other tea"}, "before any sweep"
    report = ann.sweep()
    assert set(report.invalidated) | set(report.expired) >= {derived.id, fused.id, parent.id}
    assert found(ann) == {"other tea"}
    assert ann.get(other.id).state == State.ACTIVATED
    assert ann.history(derived.id)[-1].state == State.EXPIRED


def test_batches_are_bounded_and_frozen_cubes_stay(ann: View) -> None:
    cubes = ann.add([f"tea {n}" for n in range(25)], ttl=0.05)
    frozen = ann.add("frozen tea", ttl=3600)
    ann.freeze(frozen.id)
    time.sleep(0.06)
    report = ann.sweep(batch=10)
    assert set(report.expired) == {cube.id for cube in cubes}
    assert [len(event.cube_ids) for event in ann.events(kind="expired")] == [5, 10, 10]
    assert found(ann) == {"frozen tea"}


def test_a_sweep_waits_for_nobody(database: str, memos: MemOS) -> None:
    one, two = memos.add("tea 1", ttl=0.05), memos.add("tea 2", ttl=0.05)
    time.sleep(0.06)
    with psycopg.connect(database) as busy:
        busy.execute("SELECT FROM memos.cube WHERE id = %s FOR UPDATE", (one.id,))
        assert memos.sweep().expired == (two.id,)
    assert memos.sweep().expired == (one.id,)


def test_two_sweeps_do_each_thing_once(database: str, memos: MemOS) -> None:
    cubes = memos.add([f"tea {n}" for n in range(200)], ttl=0.05)
    time.sleep(0.06)
    swept: list[UUID] = []

    def sweep() -> None:
        with MemOS.open(database, embedder=WordEmbedder()) as other:
            swept.extend(other.sweep(batch=7).expired)

    threads = [threading.Thread(target=sweep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    swept.extend(memos.sweep().expired)
    assert sorted(swept) == sorted(cube.id for cube in cubes)


def test_a_view_sweeps_what_is_its_own(memos: MemOS) -> None:
    ann, bob = memos.at("acme", "ann"), memos.at("acme", "bob")
    hers, his = ann.add("tea", ttl=0.05), bob.add("tea", ttl=0.05)
    carl = memos.at("acme", caller=Caller(user="carl"))
    own = carl.add("tea", ttl=0.05)
    time.sleep(0.06)
    assert carl.sweep().expired == (own.id,)
    assert ann.sweep().expired == (hers.id,)
    assert memos.at("acme").sweep().expired == (his.id,)


# --- idle, decay, archive -------------------------------------------------------------------------


def test_what_nobody_uses_is_archived(database: str, view: View) -> None:
    idle, read, young, changed = view.add(["idle tea", "read tea", "young tea", "changed tea"])
    older(database, 10 * DAY, idle.id, read.id, changed.id)
    view.get(read.id)
    view.update(changed.id, priority=1)
    report = view.sweep(Retention(idle=7 * DAY))
    assert report.archived == (idle.id,)
    assert found(view) == {"read tea", "young tea", "changed tea"}
    assert found(view, states=["archived"]) == {"idle tea"}
    assert view.get(idle.id).state == State.ARCHIVED
    assert view.events(kind="archived")[0].details == {"because": "unused"}
    assert young.state == State.GENERATED


def test_what_was_read_often_decays_slowly(database: str, ann: View) -> None:
    cubes = ann.add(["never", "once", "thrice", "weighty"])
    never, once, thrice, weighty = (cube.id for cube in cubes)
    ann.update(weighty, priority=2)
    for cube, times in ((once, 1), (thrice, 3)):
        for _ in range(times):
            ann.get(cube)
    retention = Retention(half_life=DAY, floor=0.25)  # two days, for each use
    for days, archived in ((1, ()), (2, (never,)), (2, (once,)), (2, (weighty,)), (2, (thrice,))):
        older(database, timedelta(days=days), never, once, thrice, weighty)
        assert ann.sweep(retention).archived == archived


def test_what_was_long_in_the_archive_ends(database: str, ann: View) -> None:
    one, two = ann.add(["one tea", "two teas"])
    ann.archive([one.id, two.id])
    older(database, 40 * DAY, one.id)
    report = ann.sweep(Retention(archived=30 * DAY))
    assert report.ended == (one.id,)
    with pytest.raises(CubeNotFound):
        ann.get(one.id)
    assert ann.history(one.id)[-1].state == State.EXPIRED
    assert ann.get(two.id).state == State.ARCHIVED


@pytest.mark.parametrize(
    "rules", [{"idle": timedelta(0)}, {"half_life": -DAY}, {"floor": 0.0}, {"floor": 1.0}]
)
def test_refuses_rules_that_make_no_sense(rules: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Retention(**rules)


# --- the log --------------------------------------------------------------------------------------


def test_months_of_the_log_are_dropped(database: str, memos: MemOS) -> None:
    memos.add("tea")
    with psycopg.connect(database) as connection:
        for month in ("2025_01", "2025_02", "2025_12"):
            year, number = map(int, month.split("_"))
            start = datetime(year, number, 1, tzinfo=UTC)
            end = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
            connection.execute(
                f"CREATE TABLE memos.event_{month} PARTITION OF memos.event "
                f"FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
            )
        connection.execute(
            "INSERT INTO memos.event (tenant, at, kind, namespace, cube_ids, details) "
            "VALUES ('default', '2025-01-05', 'added', '{default}', '{}', '{}'),"
            "('acme', '2025-01-05', 'added', '{acme}', '{}', '{}'),"
            "('acme', '2025-02-05', 'added', '{acme,ann}', '{}', '{}'),"
            "('idle', '2024-12-05', 'added', '{idle}', '{}', '{}'),"  # no month is there for it
            "('default', '2025-12-05', 'added', '{default}', '{}', '{}')"
        )
    assert len(memos.events()) == 3
    assert memos.drop_events("2025-12-31T00:00:00+00:00") == ["2025_01", "2025_02"]
    dropped, *others = memos.events()
    assert len(others) == 2
    months = {"months": ["2025_01", "2025_02"], "before": "2025-12-31T00:00:00+00:00"}
    assert (dropped.kind, dropped.user) == ("dropped", None)
    assert dropped.details == {**months, "events": 1}
    (elsewhere,) = memos.at("acme").events()
    assert elsewhere.details == {**months, "events": 2}
    assert [one.kind for one in memos.at("idle").events()] == ["added"]
    assert memos.drop_events("2025-12-31T00:00:00+00:00") == []
    with pytest.raises(InvalidInput, match="passed"):
        memos.drop_events(datetime.now(UTC) + DAY)
    ann = MemOS(memos.engine, memos.namespace, Caller(user="ann"))
    with pytest.raises(NotPermitted, match="may not drop the log"):
        ann.drop_events("2026-01-31T00:00:00+00:00")
    assert memos.events() == [dropped, *others]


def test_pages_of_the_log_follow_each_other(view: View) -> None:
    view.add("tea")
    for _ in range(24):
        view.search("tea")
    whole = view.events()
    pages: list[Any] = []
    last = None
    while page := view.events(before=last, limit=7):
        pages += page
        last = page[-1]
    assert pages == whole
    assert len(whole) == 25


def test_the_log_is_exported_as_json_lines(
    view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memos_core.view.reading.EXPORTED", 4)
    cube = view.add("tea")
    for _ in range(9):
        view.get(cube.id)
    file = tmp_path / "log.jsonl"
    assert view.export_events(file) == 10
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    exported, *before = view.events()
    assert [line["id"] for line in lines] == [event.id for event in reversed(before)]
    assert (exported.kind, exported.details) == ("exported", {"events": 10})
    assert lines[0]["kind"] == "added"
    assert lines[0]["cube_ids"] == [str(cube.id)]
    with pytest.raises(InvalidInput, match="overwrite=True"):
        view.export_events(file)
    assert view.export_events(file, overwrite=True, until=lines[0]["at"]) == 0
    assert file.read_text() == ""


def test_a_log_that_cannot_be_written_leaves_no_file(ann: View, tmp_path: Path) -> None:
    ann.add("tea")
    with pytest.raises(InvalidInput, match="cannot be written"):
        ann.export_events(tmp_path / "none" / "log.jsonl")
    assert list(tmp_path.iterdir()) == []
