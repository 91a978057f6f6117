"""Dump and load: what goes out comes in again, the same; whole, or not at all."""

from __future__ import annotations

import dataclasses
import errno
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from memos_core import (
    Action,
    ArchiveInvalid,
    ArchiveNotRead,
    ArchiveNotWritten,
    Caller,
    Closed,
    CubeExists,
    CubeFrozen,
    InvalidInput,
    InvalidNamespace,
    MemCube,
    MemOS,
    NotPermitted,
    Rules,
    Sensitive,
    Settings,
    StoreError,
    View,
)
from memos_core.archive import ArchiveReader
from memos_core.store.statements import events as log
from memos_core.view import dumping
from memos_core.words import term
from tests.archives import KEY
from tests.support import WordEmbedder, everything_in, until
from tests.test_search_index import assert_consistent

QUESTIONS = ("good nuts and the sea", 'What did Ann say of Oslo? "to Oslo"')
QUIET = Settings(read_events=False)  # so that reading changes nothing
AnyView = Any  # of either face


class Filled:
    """A view with something of everything in it, and the ids of its cubes."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.moments: list[datetime] = []
        self._add()
        self._talk()
        self._live()
        self._share()

    @property
    def ids(self) -> list[UUID]:
        return [one for one in vars(self).values() if isinstance(one, UUID)]

    def _tick(self) -> None:
        self.moments.append(datetime.now(UTC))

    def _add(self) -> None:
        view, below = self.view, self.view.engine
        self.changed = view.add(
            "Peanuts are bad.", tags=["health"], metadata={"a": [1, {"b": None}], "é": 1e300}
        ).id
        self._tick()
        view.update(self.changed, "Peanuts are good nuts.", priority=3, tags=["health", "food"])
        self._tick()
        view.update(self.changed, metadata={"year": 2020})
        view.restore(self.changed, version=1)
        trips = View(below, type(view.namespace)(*view.namespace, "trips", "東京"))
        self.below = trips.add(
            "She flies to 東京.", semantic_type="plan", sensitivity=["private"]
        ).id
        self.timed = view.add(
            "Walnuts grow by the sea.", valid_from="2020-01-01", valid_to="2030-01-01", ttl=10**6
        ).id
        self.read = view.add("Somebody read of nuts.").id
        self._tick()
        with psycopg.connect(_dsn(view)) as connection:  # as a reader with a log would leave it
            connection.execute(
                "INSERT INTO memos.activation VALUES (%s, %s, clock_timestamp())",
                (view.namespace.tenant, self.read),
            )

    def _talk(self) -> None:
        said = datetime(2023, 5, 8, 23, 56, tzinfo=timezone(timedelta(hours=2)))
        turns = [
            {"id": "1", "role": "user", "name": "Ann", "content": "I have moved to Oslo."},
            {"id": "2", "role": "assistant", "content": "How is it by the sea?", "tool": {"x": 1}},
            {"id": "3", "role": "user", "name": "Ann", "content": "It rains, and there are nuts."},
            {"id": "4", "role": "tool", "content": "42"},
            {"id": "5", "role": "user", "name": "Bob", "content": "Forget this."},
        ]
        cubes = self.view.ingest([turn | {"created_at": said} for turn in turns], session="one")
        self.said, self.answered, self.rains, self.gone = (cube.id for cube in cubes)
        (other,) = self.view.ingest([turns[0] | {"content": "Oslo again."}])
        self.again = other.id
        self.view.forget(self.gone)
        self.view.retire("one")

    def _live(self) -> None:
        view = self.view
        self.archived = view.add("Old nuts.").id
        view.archive(self.archived)
        self.frozen = view.add("Nuts in ice.").id
        view.freeze(self.frozen)
        self.ended = view.add("Nuts that ended.").id
        view.expire(self.ended)
        self.lapsed = view.add("Nuts for a moment.", ttl=0.01).id
        self.derived = view.derive("All nuts are good.", [self.changed, self.timed]).id
        self.bundle = view.compose([self.said, self.derived], "nuts and trips").id
        self.one, self.two = view.add("Nuts are round."), view.add("Nuts are hard.")
        self.one, self.two = self.one.id, self.two.id
        self.fused = view.fuse([self.one, self.two]).id
        base = view.add("A passing thought of nuts.")
        self.base, self.fallen = base.id, view.derive("A conclusion.", base.id).id
        self.stale = view.derive("A frozen conclusion.", base.id).id
        view.freeze(self.stale)
        view.update(base.id, "Another thought.")
        view.relate(self.changed, "contradicts", self.timed)
        view.relate(self.timed, "about", self.changed)
        self._tick()

    def _share(self) -> None:
        view, where = self.view, self.view.namespace
        for user in ("ann", "bob", "eve"):
            mine = View(view.engine, where, Caller(user=user))
            setattr(self, user, mine.add(f"{user} likes nuts.", tags=["taste"]).id)
        view.grant(user="bob", cube=self.ann, rights=["read", "derive"])
        view.grant(role="doctor", tag="taste", condition={"place": "ward"}, ttl=10**6)
        View(view.engine, where, Caller(user="eve")).grant(everyone=True, tag="taste")
        View(view.engine, type(where)(where.tenant)).grant(user="root", rights=["read", "write"])
        self._tick()


CALLERS = (
    None,
    Caller(user="ann"),
    Caller(user="bob"),
    Caller(user="eve"),
    Caller(user="root"),
    Caller(user="dr", roles=("doctor",), context={"place": "ward"}),
    Caller(user="dr", roles=("doctor",)),
)


def _dsn(view: View) -> str:
    return view.engine._store._dsn  # noqa: SLF001


@pytest.fixture
def quiet(database: str) -> Iterator[MemOS]:
    with MemOS.open(database, embedder=WordEmbedder(), settings=QUIET) as memos:
        yield memos


@pytest.fixture
def filled(quiet: MemOS) -> Filled:
    return Filled(quiet.at("acme", "ann"))


@pytest.fixture
def other(new_database: Callable[[str], str], template: str) -> Iterator[MemOS]:
    """A memory in another database."""
    with MemOS.open(new_database(template), embedder=WordEmbedder(), settings=QUIET) as memos:
        yield memos


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ann.memos"


def plain(value: Any, depth: int) -> Any:
    """Return what a verb answered, with namespaces as they are below the view."""
    if isinstance(value, MemCube):
        return dataclasses.replace(value, namespace=value.namespace[depth:], usage=None)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        if "namespace" in found:
            found["namespace"] = found["namespace"][depth:]
        return {name: plain(one, depth) for name, one in found.items()}
    if isinstance(value, dict):
        return {key: plain(one, depth) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, depth) for one in value]
    return value


def answer(ask: Callable[[], Any], depth: int) -> Any:
    try:
        return plain(ask(), depth)
    except Exception as error:  # noqa: BLE001 compared
        return type(error).__name__


def told(view: View, ids: Iterable[UUID], moments: Iterable[datetime]) -> dict[str, Any]:
    """Return all that a view tells."""
    depth = len(view.namespace)

    def of(ask: Callable[[], Any]) -> Any:
        return answer(ask, depth)

    found: dict[str, Any] = {
        "messages": of(lambda: view.messages(retired=True)),
        "session": of(lambda: view.messages(session="one")),
        "grants": [one for one in of(view.grants) if one["user"] != "root"],  # was above the view
        "cubes": view.stats().cubes,
    }
    for one in ids:
        found[f"get {one}"] = of(lambda one=one: view.get(one))
        found[f"history {one}"] = of(lambda one=one: view.history(one))
        found[f"provenance {one}"] = of(lambda one=one: view.provenance(one))
        for moment in moments:
            found[f"get {one} {moment}"] = of(lambda one=one, at=moment: view.get(one, as_of=at))
    for question in QUESTIONS:
        for mode in ("hybrid", "dense", "lexical"):
            found[f"{mode} {question}"] = of(
                lambda q=question, m=mode: view.search(q, mode=m, context=1, k=100)
            )
    for moment in moments:
        found[f"{moment}"] = of(lambda at=moment: view.search(QUESTIONS[0], as_of=at))
    found["resting"] = of(lambda: view.search(QUESTIONS[0], states=["archived", "merged"]))
    return found


def told_to_all(view: View, ids: Iterable[UUID], moments: Iterable[datetime]) -> dict[str, Any]:
    return {
        str(caller): told(View(view.engine, view.namespace, caller), ids, moments)
        for caller in CALLERS
    }


def same(one: dict[str, Any], two: dict[str, Any]) -> None:
    for caller, answers in one.items():
        for asked, said in answers.items():
            assert two[caller][asked] == said, f"{caller}: {asked}"


class TestRoundTrip:
    def test_into_another_database(self, filled: Filled, other: MemOS, path: Path) -> None:
        before = told_to_all(filled.view, filled.ids, filled.moments)
        log = filled.view.events(limit=1000)
        written = filled.view.dump(path, events=True)
        loaded = other.at("acme", "ann").load(path)
        assert other.at("acme", "ann").events(limit=1000)[1:] == log
        for kind in ("cubes", "versions", "messages", "lineage", "grants", "events"):
            assert getattr(loaded, kind) == getattr(written, kind) > 0
        assert (loaded.skipped, loaded.replaced, loaded.left_out, loaded.embedded) == (0, 0, 0, 0)
        same(before, told_to_all(other.at("acme", "ann"), filled.ids, filled.moments))

    def test_into_another_tenant(self, filled: Filled, quiet: MemOS, path: Path) -> None:
        ids = [one for one in filled.ids if one != filled.bundle]
        before = told_to_all(filled.view, (), ())
        histories = told(filled.view, ids, filled.moments)
        filled.view.dump(path)
        there = quiet.at("other", "place", "deep")
        there.load(path)
        now = told(there, ids, filled.moments)
        for asked, said in histories.items():
            if asked.startswith(("get", "history")):
                assert now[asked] == said
        after = told_to_all(there, (), ())
        for caller, answers in before.items():
            for asked, said in answers.items():
                if asked.split()[0] in ("hybrid", "dense", "lexical"):
                    assert texts_and_scores(after[caller][asked]) == texts_and_scores(said)

    def test_with_another_model(
        self, filled: Filled, new_database: Callable[[str], str], template: str, path: Path
    ) -> None:
        filled.view.dump(path)
        narrow = WordEmbedder("narrow", width=32)
        with MemOS.open(new_database(template), embedder=narrow, settings=QUIET) as memos:
            there = memos.at("acme", "ann")
            done = there.load(path)
            assert done.embedded == done.cubes + done.versions
            mine, theirs = (told(one, filled.ids, filled.moments) for one in (filled.view, there))
            for asked, said in mine.items():
                if asked.startswith(("get", "history", "provenance", "messages")):
                    assert theirs[asked] == said
            assert memos.stats().width == 32
            hits = there.search("All nuts are good.", mode="dense", k=1)
            assert [(hit.cube.id, round(hit.score, 3)) for hit in hits] == [(filled.derived, 1)]
            with psycopg.connect(_dsn(there)) as connection:
                for text, vector in connection.execute(
                    "SELECT text, embedding::text FROM memos.cube UNION ALL "
                    "SELECT text, embedding::text FROM memos.cube_version"
                ).fetchall():
                    assert_embeds(narrow, text, vector)

    def test_through_either_face(self, view: AnyView, memos: MemOS, path: Path) -> None:
        cube = view.add("Peanuts.")
        seen: list[tuple[int, int]] = []
        done = view.dump(path, report=lambda *at: seen.append(at))
        assert (done.path, done.cubes, done.bytes) == (path, 1, path.stat().st_size)
        assert seen[-1] == (1, 1)
        seen.clear()
        assert view.load(path, report=lambda *at: seen.append(at)).skipped == 1
        assert seen == [(0, 1), (1, 1)]
        assert memos.at("else").load(path).cubes == 1
        assert memos.at("else").get(cube.id).text == "Peanuts."

    def test_what_was_loaded_lives_on(self, filled: Filled, other: MemOS, path: Path) -> None:
        filled.view.dump(path)
        there = other.at("acme", "ann")
        there.load(path)
        assert there.unfreeze(filled.frozen).state == "generated"
        assert there.restore(filled.changed, version=2).text == "Peanuts are good nuts."
        for one in (filled.derived, filled.bundle):  # made of it, and of what was made of it
            assert there.history(one)[-1].state == "expired"
        there.expire(filled.fused)
        assert there.get(filled.one).state == "activated"
        there.forget(filled.said)
        assert there.messages(session="one", retired=True)[0].content != "I have moved to Oslo."
        assert there.ingest([{"id": "5", "role": "user", "content": "?"}], session="one") == []
        again = there.compose([filled.read], "nuts and trips")
        assert again.id == filled.bundle

    @pytest.mark.parametrize("conflict", ["skip", "new ids"])
    def test_a_bundle_is_that_of_its_new_place(
        self, ann: View, memos: MemOS, path: Path, conflict: Any
    ) -> None:
        bundle = ann.compose([cube.id for cube in ann.add(["one", "two"])], "kit")
        ann.grant(user="bob", cube=bundle.id)
        ann.dump(path, events=True)
        there = memos.at("other")
        there.load(path, conflict=conflict)
        again = there.compose([there.add("three").id], "kit")
        assert again.id != bundle.id
        assert {hit.text for hit in there.search("kit")} == {"kit\nthree", "one", "two", "three"}
        assert [one.cube for one in there.grants()] == [again.id]
        made = [one for one in there.events() if one.kind == "composed"]
        assert {one.cube_ids for one in made} == {(again.id,)}

    def test_nothing(self, ann: View, memos: MemOS, path: Path) -> None:
        assert ann.dump(path).cubes == 0
        done = memos.at("other").load(path)
        assert not any(dataclasses.asdict(done).values())
        assert memos.stats().embedder is None


def assert_embeds(embedder: WordEmbedder, text: str, vector: str) -> None:
    """A vector as PostgreSQL writes it is that of a text."""
    (made,) = embedder.embed([text])
    found = [float(one) for one in vector.strip("[]").split(",")]
    assert found == pytest.approx(made / (made @ made) ** 0.5, abs=1e-3)


def texts_and_scores(hits: Any) -> list[tuple[str, float]]:
    if isinstance(hits, str):
        return [(hits, 0)]
    return sorted((hit["cube"].text, round(hit["score"], 6)) for hit in hits)


class TestConflicts:
    def test_twice_changes_nothing(self, filled: Filled, other: MemOS, path: Path) -> None:
        filled.view.dump(path, events=True)
        there = other.at("acme", "ann")
        first = there.load(path)
        before = everything_in(_dsn(there))
        again = there.load(path)
        assert (again.skipped, again.replaced) == (first.cubes + 2, 0)  # and what has ended
        assert (again.cubes, again.versions, again.messages) == (0, 0, 0)
        assert (again.lineage, again.grants, again.events) == (0, 0, 0)
        assert everything_in(_dsn(there)) == before
        assert filled.view.load(path).skipped == again.skipped

    def test_skip_keeps_what_is_there_with_its_history_and_grants(
        self, ann: View, path: Path
    ) -> None:
        kept, gone = ann.add(["one", "two"])
        ann.grant(user="bob", cube=kept.id)
        ann.grant(user="bob", cube=gone.id)
        ann.dump(path)
        ann.update(kept.id, "changed")
        ann.forget(gone.id)
        ann.revoke(user="bob", cube=kept.id)
        done = ann.load(path)
        assert (done.cubes, done.skipped, done.grants) == (1, 1, 1)
        assert [cube.text for cube in ann.history(kept.id)] == ["one", "changed"]
        assert dataclasses.replace(ann.get(gone.id), usage=None) == gone
        assert [grant.cube for grant in ann.grants()] == [gone.id]

    def test_replace_puts_the_archives_cube_in_its_place(self, ann: View, path: Path) -> None:
        cube, other = ann.add(["one", "two"])
        ann.update(cube.id, "one more")
        made = ann.derive("of one", cube.id)
        ann.dump(path)
        ann.update(cube.id, "changed")  # and `made` ends
        late = ann.derive("of changed", [cube.id, other.id])
        later = ann.derive("of that", late.id)
        done = ann.load(path, conflict="replace")
        assert (done.cubes, done.replaced, done.skipped) == (3, 3, 0)
        assert [one.text for one in ann.history(cube.id)] == ["one", "one more"]
        assert ann.get(made.id).state == "generated"
        for one in (late, later):
            assert ann.history(one.id)[-1].state == "expired"
        ann.update(cube.id, "again")
        assert ann.history(made.id)[-1].state == "expired"
        assert ann.load(path, conflict="replace").replaced == 3

    def test_replacing_what_was_merged(self, ann: View, path: Path) -> None:
        one, two = ann.add(["one", "two"])
        fused = ann.fuse([one.id, two.id])
        ann.dump(path)
        ann.load(path, conflict="replace")
        assert [ann.get(cube.id).state for cube in (one, two)] == ["merged", "merged"]
        assert {hit.cube.id for hit in ann.search("one two")} == {fused.id}

    @pytest.mark.parametrize("which", ["itself", "made of it"])
    def test_what_is_frozen_is_not_replaced(
        self, ann: View, database: str, path: Path, which: str
    ) -> None:
        cube, other = ann.add(["one", "two"])
        ann.dump(path)
        made = ann.derive("of one", cube.id)
        ann.freeze(other.id if which == "itself" else made.id)
        before = everything_in(database)
        with pytest.raises(CubeFrozen, match=str(other.id if which == "itself" else made.id)):
            ann.load(path, conflict="replace")
        assert everything_in(database) == before

    def test_what_another_namespace_holds_is_not_replaced(
        self, ann: View, memos: MemOS, database: str, path: Path
    ) -> None:
        cube = ann.add("one")
        ann.dump(path)
        before = everything_in(database)
        bob = memos.at("acme", "bob")
        with pytest.raises(CubeExists, match=str(cube.id)):
            bob.load(path, conflict="replace")
        assert everything_in(database) == before
        assert bob.load(path).skipped == 1
        assert memos.at("acme").load(path, conflict="replace").replaced == 1
        assert memos.at("acme").get(cube.id).namespace == ("acme",)

    def test_new_ids_everywhere(self, filled: Filled, path: Path) -> None:
        view = filled.view
        before = told(view, filled.ids, ())
        count = view.dump(path, events=True)
        done = view.load(path, conflict="new ids")
        assert (done.cubes, done.versions, done.events) == (
            count.cubes, count.versions, count.events
        )  # fmt: skip
        now = told(view, filled.ids, ())
        for asked, said in before.items():
            if asked.startswith(("get", "history", "provenance", "messages")):
                assert now[asked] == said
        with psycopg.connect(_dsn(view)) as connection:

            def rows(sql: str) -> list[Any]:
                return connection.execute(sql).fetchall()  # type: ignore[arg-type]

            ids = {
                one
                for (one,) in rows(
                    "SELECT id FROM memos.cube UNION SELECT id FROM memos.cube_version"
                )
            }
            assert len(ids) == 2 * (len(filled.ids) - 1)  # one was forgotten
            assert {one.version for one in ids - set(filled.ids)} == {7}
            named = {
                one
                for pair in rows("SELECT child, parent FROM memos.lineage")
                + rows("SELECT cube, source FROM memos.source")
                + rows("SELECT cube, cube FROM memos.permission WHERE cube IS NOT NULL")
                for one in pair
            }
            assert named <= ids
            for table, column in (("lineage", "child"), ("source", "cube"), ("permission", "cube")):
                mine = rows(f"SELECT {column} FROM memos.{table} WHERE {column} IS NOT NULL")
                assert sum(one in filled.ids for (one,) in mine) * 2 == len(mine)
            events = rows("SELECT cube_ids, details::text FROM memos.event ORDER BY at, id")
        new, old = [], []
        for cubes, details in events:
            for one in cubes:
                (old if one in filled.ids else new).append(one)
            if "parents" in details:
                assert any(str(one) in details for one in ids)
        assert len(old) - old.count(filled.gone) == len(new)

    def test_new_ids_twice(self, ann: View, path: Path) -> None:
        ann.compose([ann.add("one").id], "kit")
        ann.dump(path, events=True)
        for _ in range(2):
            done = ann.load(path, conflict="new ids")
            assert (done.cubes, done.lineage, done.events) == (2, 1, 2)
        assert ann.stats().cubes == 6

    def test_an_unknown_way(self, ann: View, path: Path) -> None:
        ann.dump(path)
        with pytest.raises(InvalidInput, match="skip, replace, new ids"):
            ann.load(path, conflict="merge")  # type: ignore[arg-type]

    def test_forgotten_messages_and_what_came_of_them_stay_forgotten(
        self, ann: View, path: Path
    ) -> None:
        turns = [{"id": str(n), "role": "user", "content": f"said {n}"} for n in range(3)]
        cubes = ann.ingest(turns)
        made = ann.derive("of the first", cubes[0].id)
        ann.dump(path)
        ann.forget([cubes[0].id, cubes[1].id])
        for conflict in ("skip", "replace", "new ids"):
            done = ann.load(path, conflict=conflict)
            assert (done.left_out, done.messages) == (3, 0)
            assert [one.content for one in ann.messages()] == ["said 2"]
            assert {hit.text for hit in ann.search("said first")} == {"said 2"}
        assert ann.stats().cubes == 2  # new ids copied one
        assert made.id not in {hit.cube.id for hit in ann.search("said first")}

    def test_what_the_archive_knows_as_forgotten_does_not_come_again(
        self, ann: View, memos: MemOS, path: Path
    ) -> None:
        turn = {"id": "1", "role": "user", "content": "said"}
        ann.forget(ann.ingest([turn])[0].id)
        ann.dump(path)
        memos.at("other").load(path)
        assert memos.at("other").ingest([turn]) == []

    def test_what_waits_to_be_read_is_read_there(
        self, ann: View, memos: MemOS, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(WordEmbedder, "embed", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                ann.ingest([{"role": "user", "content": "said"}])
        ann.dump(path)
        there = memos.at("other")
        there.load(path)
        there.ingest([{"role": "user", "content": "more"}])
        assert {hit.text for hit in there.search("said more")} == {"said", "more"}

    def test_what_was_made_of_something_else_is_left_out(
        self, ann: View, other: MemOS, path: Path
    ) -> None:
        there = other.at("acme", "ann")
        cube, free = ann.add(["one", "two"])
        ann.dump(path)
        there.load(path)
        ann.update(cube.id, "says this")
        there.update(cube.id, "says that")  # the same version, and other words
        made = ann.derive("of this", cube.id)
        frozen = ann.derive("of this for ever", [made.id, free.id])
        ann.freeze(frozen.id)
        fine = ann.derive("of two", free.id)
        ann.dump(path, overwrite=True)
        done = there.load(path)
        assert (done.cubes, done.skipped, done.left_out) == (1, 2, 2)
        assert there.get(fine.id).text == "of two"
        assert there.stats().cubes == 3

    def test_what_was_made_of_what_is_here_stands(self, ann: View, path: Path) -> None:
        cube = ann.add("one")
        made = ann.derive("of one", cube.id)
        ann.dump(path)
        ann.forget(made.id)
        assert ann.load(path).cubes == 1
        assert ann.get(made.id).text == "of one"
        ann.update(cube.id, "changed")
        assert ann.history(made.id)[-1].state == "expired"


STAGED = "SELECT count(*) FROM memos.staged_cube UNION ALL SELECT count(*) FROM memos.staged_part"


def staged(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as connection:
        return [count for (count,) in connection.execute(STAGED).fetchall()]


class Stopped(Exception):
    """Raised by a report."""


def stop_after(count: int) -> Callable[[int, int], None]:
    calls = iter(range(count + 1))

    def report(_done: int, _everything: int) -> None:
        if next(calls) == count:
            raise Stopped

    return report


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memos_core.archive.writer.PART_RECORDS", 4)


class TestWhole:
    """An archive is there whole or not at all, and so is what is loaded."""

    @pytest.mark.usefixtures("small_parts")
    @pytest.mark.parametrize("conflict", ["skip", "new ids"])
    def test_goes_on_where_it_stopped(
        self,
        filled: Filled,
        other: MemOS,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        conflict: Any,
    ) -> None:
        count = filled.view.dump(path, events=True)
        there, dsn = other.at("acme", "ann"), _dsn(other)
        read: list[tuple[str, int]] = []
        once = ArchiveReader.read_part
        monkeypatch.setattr(
            ArchiveReader,
            "read_part",
            lambda self, kind, number: read.append((kind, number)) or once(self, kind, number),
        )
        for calls in (2, 4, 4):
            with pytest.raises(Stopped):
                there.load(path, conflict=conflict, report=stop_after(calls))
            assert (there.stats().cubes, there.messages(), there.events()) == (0, [], [])
            assert staged(dsn)[1] == len(read)
        seen: list[tuple[int, int]] = []
        done = there.load(path, conflict=conflict, report=lambda *at: seen.append(at))
        assert len(set(read)) == len(read) > 15
        assert seen[0][0] > 0
        assert seen[-1][0] == seen[-1][1]
        assert (done.cubes, done.versions, done.events) == (
            count.cubes, count.versions, count.events
        )  # fmt: skip
        assert staged(dsn) == [0, 0]
        if conflict == "skip":
            mine, theirs = (told(view, filled.ids, filled.moments) for view in (filled.view, there))
            assert mine == theirs

    @pytest.mark.usefixtures("small_parts")
    def test_what_was_abandoned_is_removed_a_day_later(
        self, filled: Filled, quiet: MemOS, other: MemOS, path: Path
    ) -> None:
        filled.view.dump(path)
        there, dsn = other.at("acme", "ann"), _dsn(other)
        with pytest.raises(Stopped):
            there.load(path, report=stop_after(4))
        second = path.with_name("second")
        quiet.at("acme", "eve").dump(second)
        other.at("more").load(second)
        assert staged(dsn)[1] == 4
        with psycopg.connect(dsn) as connection:
            connection.execute("UPDATE memos.staged_part SET staged_at = now() - interval '25 h'")
        other.at("more").load(second)
        assert staged(dsn) == [0, 0]

    @pytest.mark.usefixtures("small_parts")
    def test_loaded_by_two_at_once(self, ann: View, memos: MemOS, path: Path) -> None:
        ann.add([f"fact {number}" for number in range(40)])
        ann.dump(path)
        there = memos.at("other")
        done: list[Any] = []
        both = threading.Barrier(2)

        def load() -> None:
            both.wait()
            done.append(there.load(path))

        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted((one.cubes, one.skipped) for one in done) == [(0, 40), (40, 0)]
        assert there.stats().cubes == 40

    def test_added_by_others_while_it_is_loaded(self, ann: View, memos: MemOS, path: Path) -> None:
        mine = [cube.id for cube in ann.add(["one", "two"])]
        ann.dump(path)
        there = memos.at("other")

        def report(done: int, everything: int) -> None:
            if done == everything and not there.stats().cubes:
                there.add("theirs", id=mine[0])

        done = there.load(path, report=report)
        assert (done.cubes, done.skipped) == (1, 1)
        assert there.get(mine[0]).text == "theirs"

    def test_gone_while_it_is_loaded(self, ann: View, path: Path) -> None:
        one, two = ann.add(["one", "two"])
        made = ann.derive("of one", one.id)
        ann.dump(path)
        ann.forget(two.id)
        gone = iter([True])

        def report(done: int, everything: int) -> None:
            if done == everything and next(gone, None):
                ann.forget(one.id)

        done = ann.load(path, report=report)
        assert (done.cubes, done.skipped) == (1, 2)
        assert {hit.cube.id for hit in ann.search("one two of")} == {two.id}
        assert made.id not in {
            cube for event in ann.events(kind="imported") for cube in event.cube_ids
        }

    def test_dumped_while_others_write(
        self, ann: View, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dumping, "BATCH", 5)
        cubes = ann.add([f"fact {number}" for number in range(20)])
        made = ann.derive("of all", [cube.id for cube in cubes])

        def report(done: int, _everything: int) -> None:
            if done == 5:
                ann.update(cubes[-1].id, "changed")
                ann.forget(cubes[-2].id)
                ann.add("new")

        done = ann.dump(path, report=report)
        assert (done.cubes, done.versions, done.lineage) == (21, 0, 20)
        assert made.id in {UUID(str(one["id"])) for one in records(path, "cubes")}

    def test_closed_while_it_is_written(
        self, database: str, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dumping, "BATCH", 1)
        memos = MemOS.open(database, embedder=WordEmbedder())
        memos.add(["one", "two"])
        closing = threading.Thread(target=memos.close)

        def report(done: int, _everything: int) -> None:
            if done == 1:
                closing.start()
                until(lambda: memos.engine.closed)

        with pytest.raises(Closed):
            memos.dump(path, report=report)
        closing.join()
        assert list(path.parent.iterdir()) == []

    def test_stopped_while_it_is_written(self, ann: View, path: Path) -> None:
        ann.add("one")
        path.write_text("mine")
        with pytest.raises(Stopped):
            ann.dump(path, overwrite=True, report=stop_after(0))
        assert path.read_text() == "mine"
        assert [one.kind for one in ann.events()] == ["added"]

    @pytest.mark.parametrize("at", ["members.ZipFile.writestr", "new_file.os.fsync"])
    def test_a_full_disk(
        self, ann: View, path: Path, monkeypatch: pytest.MonkeyPatch, at: str
    ) -> None:
        ann.add("one")
        path.write_text("mine")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(f"memos_core.archive.{at}", full)
        with pytest.raises(ArchiveNotWritten, match="No space left on device"):
            ann.dump(path, overwrite=True)
        assert [one.name for one in path.parent.iterdir()] == [path.name]
        assert path.read_text() == "mine"
        assert [one.kind for one in ann.events()] == ["added"]

    def test_where_nothing_can_be_written(self, ann: View, path: Path) -> None:
        ann.add("one")
        path.write_text("mine")
        for where in (path, path / "in a file", "/proc/ann.memos", path.parent / "no" / "folder"):
            with pytest.raises(ArchiveNotWritten):
                ann.dump(where)
        assert path.read_text() == "mine"
        assert [one.kind for one in ann.events()] == ["added"]
        with pytest.raises(ArchiveNotRead):
            ann.load(path.parent / "nothing")

    def test_a_file_that_cannot_be_logged_is_removed(
        self, ann: View, path: Path, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ann.add("one")
        real = log.logged

        def failing(*given: Any) -> Any:
            return dataclasses.replace(real(*given), sql="SELECT 1 / 0")

        with monkeypatch.context() as patched, pytest.raises((StoreError, InvalidInput)):
            patched.setattr(log, "logged", failing)
            ann.dump(path)
        assert list(path.parent.iterdir()) == []
        with psycopg.connect(database, autocommit=True) as connection:  # fails at the commit
            connection.execute(
                "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
                "$$BEGIN RAISE 'the disk is full'; END$$"
            )
            connection.execute(
                "CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON memos.event DEFERRABLE "
                "INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.kind = 'exported') "
                "EXECUTE FUNCTION fail()"
            )
        with pytest.raises(StoreError, match="the disk is full"):
            ann.dump(path)
        assert list(path.parent.iterdir()) == []

    def test_not_in_a_pipeline(self, memos: MemOS, path: Path) -> None:
        memos.dump(path)
        with memos.pipeline() as together:
            for verb in (together.dump, together.load):
                with pytest.raises(InvalidInput, match="pipeline"):
                    verb(path)

    def test_both_are_logged(self, ann: View, memos: MemOS, path: Path) -> None:
        ann.add("one")
        ann.dump(path)
        memos.at("other").load(path)
        (out,) = ann.events(kind="exported")
        (into,) = memos.at("other").events(kind="imported")
        assert out.details["cubes"] == into.details["cubes"] == 1
        assert out.cube_ids == into.cube_ids == ()

    def test_into_a_view_with_an_index(self, memos: MemOS, database: str, path: Path) -> None:
        there, inner = memos.at("there"), memos.at("there", "in")
        for view in (there, inner):
            view.add(["one nut", "two nuts"])
            view.build_index()
        memos.at("from").add([f"nut {number}" for number in range(10)])
        memos.at("from").dump(path)
        inner.load(path)
        assert_consistent(database)
        with psycopg.connect(database) as connection:
            assert connection.execute("SELECT count(*) FROM memos.unindexed").fetchone() == (22,)
        there.build_index()
        inner.load(path, conflict="replace")
        assert_consistent(database)
        assert inner.build_index() == 12
        assert_consistent(database)

    def test_into_a_place_too_deep(
        self, ann: View, memos: MemOS, database: str, path: Path
    ) -> None:
        memos.at("acme", "ann", *("x" * 30 for _ in range(10))).add("one")
        ann.dump(path)
        before = everything_in(database)
        with pytest.raises(InvalidNamespace, match="at most"):
            memos.at("other", *("y" * 30 for _ in range(30))).load(path)
        assert everything_in(database) == before


def records(path: Path, kind: Any) -> list[dict[str, object]]:
    with ArchiveReader(path) as archive:
        return list(archive.records(kind))


SECRET = dict.fromkeys(Sensitive, Action.REDACT)
MAIL = "ann@example.org"


class TestExport:
    """What leaves, and who may have it."""

    @pytest.fixture
    def private(self, ann: View) -> View:
        cube = ann.add(f"Write to {MAIL}.", metadata={"to": [MAIL], "n": 1}, tags=[MAIL])
        ann.update(cube.id, f"Write to {MAIL} today.")
        ann.ingest(
            [{"role": "user", "name": MAIL, "content": f"I am {MAIL}.", "metadata": {"me": MAIL}}]
        )
        ann.add("Nothing private.")
        return ann

    def test_redacted(self, private: View, memos: MemOS, path: Path) -> None:
        done = private.dump(path, sensitive=SECRET)
        assert done.redacted == 4
        with ArchiveReader(path) as archive:
            for kind in archive.header.contents:
                for record in archive.records(kind):
                    assert MAIL not in str({**record, "tags": ()})
        there = memos.at("other")
        there.load(path)
        (mine,) = (hit.cube for hit in there.search("today", mode="lexical", k=1))
        assert mine.metadata == {"to": ["[email]"], "n": 1}
        assert [one.text for one in there.history(mine.id)] == [
            "Write to [email].", "Write to [email] today."
        ]  # fmt: skip
        (message,) = there.messages()
        assert (message.name, message.content) == ("[email]", "I am [email].")
        with psycopg.connect(_dsn(memos)) as connection:
            rows = connection.execute(
                "SELECT text, words::text, embedding::text FROM memos.cube WHERE tenant = 'other' "
                "UNION ALL SELECT text, words::text, embedding::text FROM memos.cube_version "
                "WHERE tenant = 'other'"
            ).fetchall()
        for text, words, vector in rows:
            assert f"{term('example')}:" not in words
            assert_embeds(WordEmbedder(), text, vector)

    def test_refused_before_there_is_a_file(self, private: View, path: Path) -> None:
        with pytest.raises(NotPermitted, match="email in 4 of them"):
            private.dump(path, sensitive={Sensitive.EMAIL: Action.REFUSE})
        assert list(path.parent.iterdir()) == []
        assert private.events(kind="exported") == []
        with pytest.raises(NotPermitted, match="email in 2 of them"):
            private.dump(
                path, sensitive={Sensitive.EMAIL: Action.REFUSE}, messages=False, history=False
            )
        assert private.dump(path, sensitive={Sensitive.CARD: Action.REFUSE}).redacted == 0

    def test_what_is_refused_is_never_written(
        self, private: View, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dumping, "BATCH", 1)
        written: list[str] = []
        real = dumping.ArchiveWriter.write

        def write(self: Any, kind: Any, given: Any, **more: Any) -> None:
            written.extend(map(str, given))
            real(self, kind, given, **more)

        monkeypatch.setattr(dumping.ArchiveWriter, "write", write)
        first = private.add("The first of all.", id=UUID(int=0)).id
        with pytest.raises(NotPermitted):
            private.dump(path, sensitive={Sensitive.EMAIL: Action.REFUSE})
        assert any(str(first) in one for one in written)
        assert not any(MAIL in one for one in written)
        assert list(path.parent.iterdir()) == []

    def test_by_the_rules_of_each_namespace(self, private: View, memos: MemOS, path: Path) -> None:
        memos.at("acme").set_rules(Rules(export={Sensitive.EMAIL: Action.REDACT}))
        below = memos.at("acme", "ann", "below")
        below.set_rules(Rules(export={Sensitive.SECRET: Action.REFUSE}))
        below.add(f"Here it is {MAIL}.")
        assert private.dump(path, sensitive={Sensitive.EMAIL: Action.ALLOW}).redacted == 4
        texts = {str(one["text"]) for one in records(path, "cubes")}
        assert {f"Here it is {MAIL}.", "Write to [email] today."} <= texts
        below.add("The password is Xk3-99_fooBar!.")
        with pytest.raises(NotPermitted, match="secret in 1"):
            private.dump(path, overwrite=True)

    @pytest.mark.parametrize("ruled", Action)
    @pytest.mark.parametrize("asked", Action)
    def test_of_two_actions_the_stricter(
        self, ann: View, path: Path, ruled: Action, asked: Action
    ) -> None:
        ann.set_rules(Rules(export={Sensitive.EMAIL: ruled}))
        ann.add(MAIL)
        sensitive = {Sensitive.EMAIL: asked}
        if Action.REFUSE in (ruled, asked):
            with pytest.raises(NotPermitted):
                ann.dump(path, sensitive=sensitive)
        else:
            done = ann.dump(path, sensitive=sensitive)
            assert done.redacted == (Action.REDACT in (ruled, asked))

    def test_an_unknown_kind(self, ann: View, path: Path) -> None:
        with pytest.raises(InvalidInput, match="kinds are"):
            ann.dump(path, sensitive={"smell": "refuse"})  # type: ignore[dict-item]

    def test_watermark_and_licence(self, ann: View, memos: MemOS, path: Path) -> None:
        cube = ann.add("one")
        ann.update(cube.id, "two")
        ann.dump(path, watermark="for Bob, 42", licence="CC-BY-4.0")
        with ArchiveReader(path) as archive:
            assert (archive.header.watermark, archive.header.licence) == (
                "for Bob, 42",
                "CC-BY-4.0",
            )
        there = memos.at("other")
        there.load(path)
        assert {one.provenance.watermark for one in there.history(cube.id)} == {"for Bob, 42"}
        assert there.update(cube.id, "three").provenance.watermark == "for Bob, 42"
        assert ann.get(cube.id).provenance.watermark is None
        with pytest.raises(InvalidInput, match="NUL"):
            ann.dump(path, watermark="\x00", overwrite=True)

    def test_signature(self, ann: View, database: str, path: Path) -> None:
        ann.add("one")
        ann.dump(path, signing_key=KEY)
        assert ann.load(path, public_key=KEY.public_key()).skipped == 1
        ann.dump(path, overwrite=True)
        before = everything_in(database)
        with pytest.raises(ArchiveInvalid, match="not signed"):
            ann.load(path, public_key=KEY.public_key())
        assert everything_in(database) == before

    def test_callers_load_nothing(self, memos: MemOS, path: Path) -> None:
        memos.dump(path)
        with pytest.raises(NotPermitted, match="eve may not load"):
            memos.at("other", caller=Caller(user="eve")).load(path)

    def test_callers_take_what_they_may_read(
        self, filled: Filled, other: MemOS, path: Path
    ) -> None:
        view = filled.view
        for caller in CALLERS[1:]:
            mine = View(view.engine, view.namespace, caller)
            mine.dump(path, events=True, overwrite=True)
            assert_only_his(mine, path)
            there = other.at(str(caller))
            there.load(path)
            his = told(View(there.engine, there.namespace, caller), filled.ids, ())
            for asked, said in told(mine, filled.ids, ()).items():
                if asked.startswith("get") and asked.split()[1] != str(filled.bundle):
                    assert his[asked] == said, f"{caller}: {asked}"

    def test_no_version_that_a_caller_may_not_read(
        self, ann: View, memos: MemOS, path: Path
    ) -> None:
        bob = memos.at("acme", "ann", caller=Caller(user="bob"))
        eve = memos.at("acme", "ann", caller=Caller(user="eve"))
        ann.grant(user="eve", tag="open")
        cube = bob.add("one", tags=["open"])
        for text, tags in (("two", []), ("three", ["open"]), ("four", ["open"])):
            bob.update(cube.id, text, tags=tags)
        hidden = bob.add("hidden", tags=["open"])
        bob.update(hidden.id, tags=[])
        eve.dump(path)
        assert [one["text"] for one in records(path, "cubes")] == ["four"]
        assert [one["text"] for one in records(path, "versions")] == ["three"]
        memos.at("other").load(path)
        assert [one.version for one in memos.at("other").history(cube.id)] == [3, 4]

    def test_without_history(self, filled: Filled, other: MemOS, path: Path) -> None:
        done = filled.view.dump(path, history=False)
        assert done.versions == 1  # that a frozen cube returns to
        there = other.at("acme", "ann")
        there.load(path)
        for gone in (filled.ended, filled.lapsed, filled.fallen, filled.stale):
            assert answer(lambda one=gone: there.history(one), 0) == "CubeNotFound"
        assert there.unfreeze(filled.frozen).state == "generated"
        assert there.get(filled.changed).version == 4
        assert [one.version for one in there.history(filled.changed)] == [4]
        there.update(filled.changed, "again")
        assert there.history(filled.derived)[-1].state == "expired"

    def test_without_messages(self, filled: Filled, other: MemOS, path: Path) -> None:
        filled.view.dump(path, messages=False)
        there = other.at("acme", "ann")
        there.load(path)
        assert there.messages() == []
        assert there.get(filled.said).provenance.message_ids == ("1",)
        assert there.search("Oslo", context=1)[0].context == ()


def assert_only_his(view: View, path: Path) -> None:
    """An archive has nothing that its exporter could not read."""
    for kind in ("cubes", "versions"):
        for record in records(path, kind):
            history = {one.version: one.text for one in view.history(str(record["id"]))}
            assert history[record["version"]] == record["text"]  # type: ignore[index]
    ids = {record["id"] for kind in ("cubes", "versions") for record in records(path, kind)}
    for record in records(path, "lineage"):
        assert {record["child"], record["parent"]} <= ids
    told_of = {(one.id, one.content) for one in view.messages(retired=True)}
    for record in records(path, "messages"):
        assert "forgotten_at" in record or (record["id"], record["content"]) in told_of
    seen = {str(one.id) for one in view.grants()}
    for record in records(path, "grants"):
        assert record["id"] in seen or record.get("user") == "root"
        assert record.get("cube") is None or record["cube"] in ids
    assert view.caller
    user = view.caller.user
    for record in records(path, "events"):
        assert record["caller"]["user"] == user  # type: ignore[index]
        assert record["kind"] != "denied"
