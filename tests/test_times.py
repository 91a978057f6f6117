"""Time: what was known when (as_of), what was true when (valid_at), and what has expired."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

from memos_core import CubeNotFound, Hit, InvalidInput, MemCube, MemOS, View
from tests.support import WordEmbedder

EAST = timezone(timedelta(hours=14))
NEVER_YET = datetime(2020, 1, 1, tzinfo=UTC)


def texts(found: list[Hit]) -> list[str]:
    return [hit.text for hit in found]


# --- as_of ----------------------------------------------------------------------------------------


def test_as_of_reads_what_was_known_then(view: View) -> None:
    first = view.add("Ann drinks coffee.", metadata={"cups": 6}, tags=["taste"])
    second = view.update(first.id, "Ann drinks tea.", metadata={"cups": 2}, tags=[])
    third = view.restore(first.id, version=1)
    for version in (first, second, third):
        moment = version.updated_at
        assert view.get(first.id, as_of=moment).version == version.version
        (hit,) = view.search("What does Ann drink?", as_of=moment)
        assert hit.cube == version
    (hit,) = view.search("coffee", as_of=second.updated_at)
    assert hit.lexical_rank is None, "words are those of the version"
    at_second: dict[str, Any] = {"as_of": second.updated_at}
    assert view.search("Ann", filter={"cups": 6}, **at_second) == []
    assert view.search("Ann", tags=["taste"], **at_second) == []


def test_before_it_was_stored_there_is_nothing(view: View) -> None:
    cube = view.add("Ann drinks coffee.")
    moment = cube.created_at - timedelta(microseconds=1)
    assert view.search("coffee", as_of=moment) == []
    with pytest.raises(CubeNotFound):
        view.get(cube.id, as_of=moment)
    assert view.search("coffee", as_of=NEVER_YET) == []


def test_as_of_a_time_to_come_is_what_stands(view: View) -> None:
    cube = view.add("Ann drinks coffee.")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert view.get(cube.id, as_of=tomorrow).version == 1
    assert texts(view.search("coffee", as_of=tomorrow)) == [cube.text]


def test_neighbours_are_those_of_the_time(view: View) -> None:
    view.ingest([{"id": "m1", "role": "user", "content": "We fly to Oslo."}], session="s")
    moment = datetime.now(UTC)
    view.ingest([{"id": "m2", "role": "user", "content": "A secret."}], session="s")
    (hit,) = view.search("Oslo", as_of=moment, context=3)
    assert [turn.id for turn in hit.context] == ["m1"]


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+00:00"])
def test_the_ends_of_the_calendar_are_times(ann: View, database: str, moment: str) -> None:
    with psycopg.connect(database, autocommit=True) as admin:
        name = admin.info.dbname
        admin.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'")
        admin.execute(f"ALTER DATABASE {name} SET datestyle = 'SQL, DMY'")
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        cube = memos.add("Ann is human.", valid_from=moment)
        assert cube.valid_from == datetime.fromisoformat(moment)
        assert memos.search("human", valid_at="any")[0].cube == cube
    assert ann.stats().cubes == 0


def test_scores_are_those_of_the_time(view: View) -> None:
    view.add(["okapi one", "zebra two"])
    moment = datetime.now(UTC)
    before = view.search("okapi zebra")
    view.add([f"okapi {number}" for number in range(20)])
    then = view.search("okapi zebra", as_of=moment)
    assert [(hit.text, hit.score) for hit in then] == [(hit.text, hit.score) for hit in before]


def test_changes_follow_each_other_in_time(view: View) -> None:
    cube = view.add("0")
    for number in range(1, 6):
        view.update(cube.id, str(number))
    recorded = [version.updated_at for version in view.history(cube.id)]
    assert recorded == sorted(set(recorded))


# --- valid_at -------------------------------------------------------------------------------------


@pytest.fixture
def moves(ann: View) -> View:
    """Where Ann lived, told today."""
    ann.add("Ann lives in Leipzig.", valid_from=date(2020, 1, 1), valid_to=date(2026, 7, 1))
    ann.add("Ann lives in Halle.", valid_from="2026-07-01T00:00:00")
    ann.add("Ann lives on the Moon.", valid_from=datetime.now(UTC) + timedelta(days=1))
    ann.add("Ann lives.")
    return ann


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (None, {"Halle", "lives."}),
        (date(2026, 6, 30), {"Leipzig", "lives."}),
        ("2026-07-01", {"Halle", "lives."}),
        ("2019-12-31", {"lives."}),
        (datetime(2999, 1, 1), {"Halle", "Moon", "lives."}),  # noqa: DTZ001 local time is legal
        ("any", {"Leipzig", "Halle", "Moon", "lives."}),
    ],
)
def test_valid_at_reads_what_was_true_then(moves: View, moment: Any, expected: set[str]) -> None:
    hits = moves.search("Where does Ann live?", valid_at=moment)
    assert {hit.text.split()[-1].removesuffix(".") for hit in hits} == {
        word.removesuffix(".") for word in expected
    }


def test_as_of_asks_for_what_was_true_then_too(ann: View) -> None:
    ann.add("Ann is in Rome.", valid_to=datetime.now(UTC) + timedelta(milliseconds=50))
    moment = datetime.now(UTC)
    time.sleep(0.1)
    assert ann.search("Rome") == []
    assert texts(ann.search("Rome", as_of=moment)) == ["Ann is in Rome."]


def test_an_old_conversation_was_true_when_it_was_said(view: View) -> None:
    said = datetime(2026, 3, 1, tzinfo=UTC)
    turn = {"role": "user", "content": "I live in Leipzig.", "created_at": said}
    (cube,) = view.ingest([turn])
    assert cube.valid_from == said
    assert texts(view.search("Leipzig", valid_at=said)) == [cube.text]
    assert view.search("Leipzig", valid_at=said - timedelta(days=1)) == []
    assert view.search("Leipzig", as_of=said) == [], "not known then"


def test_a_clock_ahead_does_not_hide_what_was_said(view: View) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    view.ingest([{"role": "user", "content": "I live in Leipzig.", "created_at": ahead}])
    assert texts(view.search("Leipzig")) == ["I live in Leipzig."]


# --- expiry ---------------------------------------------------------------------------------------


def test_what_has_expired_is_in_no_answer(view: View) -> None:
    kept = view.add("Ann likes tea.")
    gone = view.add("Ann likes cake.", ttl=0.3)
    (hit,) = [hit for hit in view.search("cake") if hit.cube.id == gone.id]
    assert hit.text == gone.text
    time.sleep(0.35)
    assert [hit.cube.id for hit in view.search("cake")] == [kept.id]
    refused: list[Callable[[], object]] = [
        lambda: view.get(gone.id),
        lambda: view.update(gone.id, "again"),
        lambda: view.restore(gone.id, version=1),
    ]
    for verb in refused:
        with pytest.raises(CubeNotFound, match="expired"):
            verb()
    assert texts(view.search("cake", as_of=gone.created_at)) == [gone.text, kept.text]
    assert view.stats().cubes == 1
    assert len(view.history(gone.id)) == 1, "it is not erased"
    assert view.forget(gone.id).cubes == (gone.id,)


def test_an_update_can_prolong_a_life(view: View) -> None:
    cube = view.add("Ann likes cake.", ttl=0.3)
    prolonged: MemCube = view.update(cube.id, ttl=timedelta(hours=1))
    time.sleep(0.35)
    assert view.get(cube.id).governance == prolonged.governance


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"ttl": 0}, "ttl"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": float("nan")}, "ttl"),
        ({"ttl": 1e12}, "ttl"),
        ({"ttl": "1 day"}, "ttl"),
        ({"valid_from": "2026-13-01"}, "valid_from"),
        ({"valid_to": 7}, "valid_to must be a datetime, not int"),
        ({"valid_from": "2026-02-01", "valid_to": "2026-01-01"}, "not after"),
        ({"valid_from": datetime.min.replace(tzinfo=EAST)}, "out of range"),
    ],
)
def test_refuses_times_that_make_no_sense(ann: View, header: Any, error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        ann.add("text", **header)
    assert ann.stats().cubes == 0
