"""Search in large views: by an index that is built beside writers and never tells what is not."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
import pytest

from memos_core import (
    AsyncView,
    Closed,
    InvalidInput,
    MemCube,
    MemOS,
    Settings,
    State,
    View,
    indexing,
)
from memos_core.store.statements import candidates, indexes
from memos_core.store.statements.scope import Scope
from memos_core.words import HALF, terms_in
from tests.support import WordEmbedder, everything_in, is_blocked, until

MODES = ("hybrid", "dense", "lexical")
WORDS = [f"word{number}" for number in range(300)]
QUESTIONS = ("word1 word50 word200", "What did word7 do with word8?", "is it?", "unheard")


def texts(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(WORDS))]
    return [" ".join(rng.choices(WORDS, weights, k=rng.randint(2, 30))) for _ in range(count)]


def turns(count: int, sessions: int = 5) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [
        {"content": text, "role": roles[n % 2], "name": f"Al{n % 3}", "session": f"s{n % sessions}"}
        for n, text in enumerate(texts(count))
    ]


@pytest.fixture
def exact(database: str) -> Iterator[MemOS]:
    """A memory that looks at everything, whatever there is."""
    settings = Settings(read_events=False)  # nor changes the state of what is found
    with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        yield memos


@pytest.fixture
def large(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[View]:
    """A view of the same memory that is searched by its index as soon as it has one."""
    settings = Settings(exact_limit=0, read_events=False)
    with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        monkeypatch.setattr(memos.engine.indexing, "_change_later", str)  # does nothing
        yield memos.at("acme", "ann")


def here(view: View, exact: MemOS) -> View:
    return exact.at(*view.namespace)


def assert_alike(large: View, exact: MemOS, routes: str = "index", **options: Any) -> None:
    """A memory's score, rank aside, is the same by an index, and nearly all of the best are there.

    As many are looked at as there are, but to a few HNSW finds no way.
    """
    for mode in MODES:
        for question in QUESTIONS:
            by_index = large.search(question, mode=mode, **options)
            assert {hit.route for hit in by_index} <= set(routes.split())
            wider: dict[str, Any] = {**options, "k": 1000, "offset": 0}
            known = {
                hit.cube.id: hit for hit in here(large, exact).search(question, mode=mode, **wider)
            }
            for hit in by_index:
                same = known[hit.cube.id]
                assert (hit.cube, hit.context) == (same.cube, same.context)
                assert hit.score == pytest.approx(same.score, abs=1e-6)
                assert hit.reasons == pytest.approx(same.reasons, abs=1e-6)
            best = here(large, exact).search(question, mode=mode, **options)
            if mode == "lexical":  # who has none of the words is no candidate
                best = [hit for hit in best if hit.reasons]
            missed = {hit.cube.id for hit in best} - {hit.cube.id for hit in by_index}
            assert len(missed) <= len(best) / 5


def terms_of(words: str) -> set[int]:
    """Return the places of a sparse vector as PostgreSQL writes it, less those of repetitions."""
    places = (int(entry.split(":")[0]) for entry in words[1 : words.index("}")].split(",") if entry)
    return {place for place in places if place <= HALF}


def assert_consistent(dsn: str) -> None:
    """Every memory of an indexed view is in its index or beside it, and the counts are right."""
    with psycopg.connect(dsn) as connection:

        def rows(sql: LiteralString, *values: object) -> list[Any]:
            return connection.execute(sql, values).fetchall()

        for tenant, index, namespace, cubes, words in rows(
            "SELECT tenant, id, namespace, cubes, words FROM memos.search_index "
            "WHERE built_at IS NOT NULL"
        ):
            current = rows(
                "SELECT id, version, words::text FROM memos.cube WHERE tenant = %s "
                "AND namespace[:cardinality(%s::text[])] = %s",
                tenant,
                namespace,
                namespace,
            )
            entries = rows(
                "SELECT id, version, word_count, block, alone FROM memos.indexed WHERE index = %s",
                index,
            )
            late = {
                one for (one,) in rows("SELECT id FROM memos.unindexed WHERE index = %s", index)
            }
            held = {row[0]: row[1] for row in entries}
            assert not late & set(held)
            assert late | set(held) == {row[0] for row in current}
            assert {(one, v) for one, v, _ in current if one in held} == set(held.items())
            assert (cubes, words) == (len(entries), sum(row[2] for row in entries))
            heard = {row[0]: terms_of(row[2]) for row in current}
            spots: dict[int, set[int]] = {}
            for one, _, _, block, alone in entries:
                for term in heard[one]:
                    spots.setdefault(term, set()).update([block] if alone else [block - 1, block])
            counted = Counter(term for one in held for term in heard[one])
            listed = rows(
                "SELECT term, cubes, windows FROM memos.indexed_term WHERE index = %s", index
            )
            assert {term: count for term, count, _ in listed} == dict(counted)
            for term, _, windows in listed:
                assert {window // 32 for window in windows} == spots[term]
                assert len(windows) == len(spots[term])


def rows_of(dsn: str, table: LiteralString) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM memos." + table).fetchone()
        return row[0] if row else 0


class TestFindsTheSame:
    """With as many candidates as there are memories, the index finds what a look at all finds."""

    def test_among_facts(self, large: View, exact: MemOS) -> None:
        large.add(texts(150))
        assert large.build_index() == 150
        assert_alike(large, exact)
        assert_alike(large, exact, k=5, offset=20)

    def test_among_turns_with_their_context(self, large: View, exact: MemOS) -> None:
        large.ingest(turns(100))
        large.build_index()
        assert_alike(large, exact)
        assert large.search("Who is Al1?", k=3)[0].reasons["speaker"] > 0

    def test_among_more_turns_than_are_candidates(
        self, large: View, exact: MemOS, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        large.ingest(turns(300, sessions=2))
        large.build_index()
        monkeypatch.setattr(candidates, "EXPANDED", -95)  # 5 candidates for 100 results
        everything = {hit.cube.id: hit for hit in here(large, exact).search(QUESTIONS[0], k=1000)}
        hits = large.search(QUESTIONS[0], k=100)
        assert {hit.route for hit in hits} == {"index"}
        assert 5 < len(hits) <= 25  # the turns next to them answer too, two on each side
        for hit in hits:
            assert hit.reasons == pytest.approx(everything[hit.cube.id].reasons, abs=1e-6)

    def test_what_came_later(self, large: View, exact: MemOS, database: str) -> None:
        large.ingest(turns(60))
        large.build_index()
        large.ingest(turns(90)[60:])
        large.add("word1 word50 word200 are new")
        assert rows_of(database, "unindexed") == 31
        assert_alike(large, exact)
        assert large.build_index() == 91
        assert rows_of(database, "unindexed") == 0
        assert_alike(large, exact)
        assert_consistent(database)

    def test_what_was_changed(self, large: View, exact: MemOS, database: str) -> None:
        cubes = large.add(texts(60)) + large.ingest(turns(40))
        large.build_index()
        large.update(cubes[0].id, "word1 word50 word200")
        large.update(cubes[70].id, tags=["word"])
        large.update(cubes[1].id, "something else")
        large.restore(cubes[1].id, version=1)
        assert_consistent(database)
        assert_alike(large, exact)
        assert large.search("word1 word50 word200", k=1)[0].cube.version == 2
        large.build_index()
        assert_consistent(database)
        assert_alike(large, exact)

    @pytest.mark.parametrize(
        ("options", "routes"),
        [
            ({"tags": ["third"]}, "index"),
            ({"filter": {"n": {"$lt": 2}}}, "index"),
            ({"tags": ["third"], "filter": {"n": {"$lt": 1}}}, "index exact"),
            ({"semantic_type": "fact"}, "index"),
            ({"exclude_messages": ["m3", "m4"]}, "index"),
            ({"min_score": 0.2}, "index"),
            ({"context": 1}, "index"),
            ({"k": 0}, "index"),
        ],
    )
    def test_under_every_option(
        self, large: View, exact: MemOS, options: dict[str, Any], routes: str
    ) -> None:
        for n in range(6):
            tags = ["third"] if n % 3 == 0 else []
            large.add(texts(100, seed=n), tags=tags, metadata={"n": n % 3})
        large.ingest([{**turn, "id": f"m{n}"} for n, turn in enumerate(turns(40))])
        large.build_index()
        assert_alike(large, exact, routes, **options)

    def test_phrases_and_prefixes(self, large: View, exact: MemOS) -> None:
        large.add([*texts(100), "green tea leaves", "tea that is green", "peanuts"])
        large.build_index()
        for question in ('"green tea"', "pea*"):
            for mode in ("hybrid", "lexical"):
                best = large.search(question, mode=mode, k=1)
                (same,) = here(large, exact).search(question, mode=mode, k=1)
                assert best[0].cube == same.cube

    def test_awaited(self, large: View) -> None:
        large.add(texts(30))
        assert asyncio.run(AsyncView(large).build_index()) == 30


class TestRoutes:
    def test_a_large_view_gets_its_index_by_itself(
        self, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(indexing, "KNOWN_SECONDS", 0.0)
        monkeypatch.setattr(indexing, "LATE", 5)
        settings = Settings(exact_limit=50)
        with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
            view = memos.at("acme", "ann")
            cubes = view.add(texts(50))
            assert view.search("word1", k=1)[0].route == "exact"
            assert view.stats().indexed is None
            view.add(texts(20, seed=2))
            until(lambda: view.search("word1", k=1)[0].route == "index")
            assert view.stats().indexed == 70
            view.add(texts(6, seed=3))
            until(lambda: view.search("word1", k=1)[0].route == "index" and indexed(view) == 76)
            assert first(database) == 70
            view.add(texts(80, seed=4))
            until(lambda: view.search("word1", k=1)[0].route == "index" and indexed(view) == 156)
            until(lambda: first(database) == 156)  # built anew: it had doubled
            assert_consistent(database)
            view.forget([cube.id for cube in cubes])
            rest = [hit.cube.id for hit in view.search("word1", k=1000)]
            view.forget(rest[:90])
            until(lambda: view.search("word1", k=1)[0].route == "exact" and indexed(view) is None)
            assert rows_of(database, "indexed_term") == rows_of(database, "unindexed") == 0

    def test_where_few_pass_everything_is_looked_at(self, large: View) -> None:
        large.add(texts(400))
        rare = large.add("word1 too", tags=["rare"])
        large.build_index()
        for mode in MODES:
            (hit,) = large.search("word1", mode=mode, tags=["rare"])
            assert hit.cube.id == rare.id
            # All that has the word is in the index's list of it.
            assert hit.route == ("index" if mode == "lexical" else "exact")
            assert large.search("word1", mode=mode)[0].route == "index"

    def test_that_is_one_event_and_one_reuse(self, database: str, large: View) -> None:
        large.add(texts(400))
        large.build_index()
        settings = Settings(exact_limit=0)
        with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
            view = memos.at(*large.namespace)
            assert view.search("word1", tags=["none"]) == []
            (hit,) = view.search("word1", k=1)
            assert (hit.route, hit.cube.state) == ("index", State.GENERATED)
            assert len(view.events(kind="searched")) == 2
            assert view.search("word1", k=1)[0].cube.state == State.ACTIVATED

    def test_the_past_and_deep_pages_are_looked_up_exactly(self, large: View) -> None:
        cube = large.add([*texts(250), "what it was"])[-1]
        large.build_index()
        now = large.update(cube.id, "what it is").updated_at
        deep = large.search("word1", k=10, offset=candidates.DEEPEST)
        assert {hit.route for hit in deep} == {"exact"}
        (past, *_) = large.search("what it was", as_of=cube.created_at, semantic_type="fact")
        assert (past.text, past.route) == ("what it was", "exact")
        assert now > cube.created_at

    def test_views_above_and_below_have_their_own(self, large: View, exact: MemOS) -> None:
        above, below = exact.at("acme"), exact.at("acme", "ann", "home")
        other = exact.at("acme", "ann2")
        other.add("word1 word50 word200 of another")
        below.add("word1 word50 word200 at home")
        large.add(texts(100))
        large.build_index()
        assert_alike(large, exact)
        assert {hit.route for hit in above.search("word1")} == {"exact"}
        below.add("word1 word50 word200 at home too")
        found = [hit.text for hit in large.search("word1 word50 word200", k=2)]
        assert sorted(found) == ["word1 word50 word200 at home", "word1 word50 word200 at home too"]
        assert not any("another" in hit.text for hit in large.search("word1 of another", k=100))

    def test_an_index_that_is_gone_is_no_error(self, large: View, exact: MemOS) -> None:
        large.add(texts(60))
        large.build_index()
        assert large.search("word1")[0].route == "index"
        scope = Scope(namespace=large.namespace)
        index = exact.engine.run(indexes.state(scope, limit=1)).index
        assert index
        exact.engine.run(indexes.drop(scope, index))
        for mode in MODES:
            assert large.search("word1", mode=mode)[0].route == "exact"

    def test_frequent_words_find_the_rare_ones(self, large: View, database: str) -> None:
        large.add([f"common item {n}" for n in range(5_200)] + ["common treasure"])
        large.build_index()
        with psycopg.connect(database) as connection:
            listed = connection.execute(
                "SELECT cubes, cardinality(windows) FROM memos.indexed_term ORDER BY 1 DESC LIMIT 1"
            ).fetchone()
        assert listed == (5_201, 5_000)
        (hit,) = large.search("common treasure", k=1, mode="lexical")
        assert (hit.text, hit.route) == ("common treasure", "index")
        assert len(large.search("common", mode="lexical")) == 10


def indexed(view: View) -> int | None:
    return view.stats().indexed


def first(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT max(first_cubes) FROM memos.search_index").fetchone()
        return row[0] if row else 0


class TestForgets:
    def test_nothing_is_left_of_it(self, large: View, database: str) -> None:
        cubes = large.add(texts(60))
        secret = large.add("the secret xylophone")
        said = large.ingest([*turns(20), {"role": "user", "content": "a secret marimba"}])
        large.build_index()
        changed = large.update(large.add("an old glockenspiel").id, "a new one")
        numbers = {*terms_in("secret xylophone marimba glockenspiel")}
        large.forget([secret.id, said[-1].id, changed.id])
        assert_consistent(database)
        with psycopg.connect(database) as connection:
            left = connection.execute(
                "SELECT count(*) FROM memos.indexed_term WHERE term = ANY(%s)", (list(numbers),)
            ).fetchone()
            assert left == (0,)
        assert str(secret.id) not in everything_but_the_log(database)
        large.forget_all()
        assert rows_of(database, "indexed") == rows_of(database, "indexed_term") == 0
        assert large.search("word1") == []
        assert cubes

    def test_very_many_at_once(self, large: View, exact: MemOS, database: str) -> None:
        cubes = large.add(texts(1_200)) + large.ingest(turns(20))
        large.build_index()
        large.forget([cube.id for cube in cubes[:1_100]])
        assert_consistent(database)
        assert large.stats().indexed == 120
        assert_alike(large, exact, "index exact")  # until HNSW is rid of those that are gone
        large.forget_all()
        assert_consistent(database)
        assert rows_of(database, "indexed") == rows_of(database, "indexed_term") == 0

    def test_while_it_is_built(self, large: View, exact: MemOS, database: str) -> None:
        secret = large.add([*texts(30), "secret xylophone"])[-1]
        with building(large, database):
            here(large, exact).forget(secret.id)
        assert_consistent(database)
        assert large.stats().indexed == 30
        assert rows_of(database, "unindexed") == 0

    def test_an_id_that_is_used_again_while_it_is_built(
        self, large: View, exact: MemOS, database: str
    ) -> None:
        cube = large.add([*texts(30), "secret xylophone"])[-1]
        with building(large, database):
            here(large, exact).forget(cube.id)
            here(large, exact).add("harmless", id=cube.id)
        assert_consistent(database)
        assert large.search("harmless", k=1)[0].cube.id == cube.id

    def test_expired_memories_make_room(self, large: View, database: str) -> None:
        cube = large.add("for a moment", ttl=0.05)
        large.add(texts(30))
        large.build_index()
        time.sleep(0.06)
        assert all(hit.cube.id != cube.id for hit in large.search("for a moment"))
        large.add("for good", id=cube.id)
        assert_consistent(database)
        assert large.search("for good", k=1)[0].cube.id == cube.id


def everything_but_the_log(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM memos.event")
    return everything_in(dsn)


@contextmanager
def building(view: View, dsn: str) -> Generator[None]:
    """Build the view's index; the body runs when its copy was made and is not whole yet."""
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(dsn) as connection:
            connection.execute("LOCK TABLE memos.indexed_term IN SHARE MODE")
            done = pool.submit(view.build_index)
            until(lambda: is_blocked(dsn))
            yield
        done.result()


def write(view: View, seed: int, rounds: int = 60) -> None:
    rng, mine = random.Random(seed), list[MemCube]()
    for _ in range(rounds):
        match rng.randrange(4):
            case 0 if mine:
                view.update(rng.choice(mine).id, rng.choice(texts(5, seed)))
            case 1 if mine:
                view.forget(mine.pop(rng.randrange(len(mine))).id)
            case 2:
                mine += view.ingest(turns(3, sessions=1))
            case _:
                mine += view.add(texts(5, rng.randrange(100)))


def read_until(stop: threading.Event, view: View) -> None:
    while not stop.is_set():
        for mode in MODES:
            view.search(QUESTIONS[0], mode=mode)


class TestBesideWriters:
    def test_what_is_written_while_it_is_built(
        self, large: View, exact: MemOS, database: str
    ) -> None:
        cubes = large.add(texts(40))
        other = here(large, exact)
        with building(large, database):
            added = other.add("word1 word50 word200 meanwhile")
            other.ingest(turns(10))
            other.update(cubes[0].id, "word1 word50 word200 changed")
            other.forget(cubes[1].id)
        assert_consistent(database)
        assert rows_of(database, "unindexed") == 12
        assert_alike(large, exact)
        assert added.id in {hit.cube.id for hit in large.search("word1 word50 word200", k=2)}

    def test_many_at_once(self, large: View, exact: MemOS, database: str) -> None:
        stop = threading.Event()
        large.ingest(turns(60))
        with ThreadPoolExecutor(5) as pool:
            writers = [pool.submit(write, here(large, exact), seed) for seed in range(3)]
            reader = pool.submit(read_until, stop, large)
            try:
                while not all(writer.done() for writer in writers):
                    large.build_index()
            finally:
                stop.set()
            for done in (*writers, reader):
                done.result()
        assert_consistent(database)
        large.build_index()
        assert_consistent(database)
        assert_alike(large, exact)

    def test_two_builders_make_one(self, large: View, exact: MemOS, database: str) -> None:
        large.add(texts(300))
        with ThreadPoolExecutor(4) as pool:
            built = list(pool.map(View.build_index, [large, here(large, exact)] * 2))
        assert built == [300] * 4
        assert rows_of(database, "search_index") == 1
        assert_consistent(database)

    def test_one_whose_builder_died_is_gone_on_with(self, large: View, database: str) -> None:
        large.add(texts(30))
        large.engine.run(indexes.begin(Scope(namespace=large.namespace)))
        large.add("word1 word50 word200 after that")
        assert large.search("word1")[0].route == "exact"
        assert large.build_index() == 30
        assert rows_of(database, "search_index") == 1
        assert_consistent(database)
        (best, *_) = large.search("word1 word50 word200 after that")
        assert (best.text, best.route) == ("word1 word50 word200 after that", "index")


class TestEnds:
    def test_closing_does_not_wait_for_what_is_being_built(self, database: str) -> None:
        settings = Settings(exact_limit=10)
        memos = MemOS.open(database, embedder=WordEmbedder(), settings=settings)
        view = memos.at("acme", "ann")
        view.add(texts(30))
        with psycopg.connect(database) as connection:
            connection.execute("LOCK TABLE memos.indexed_term IN SHARE MODE")
            view.search("word1")
            until(lambda: is_blocked(database))
            with ThreadPoolExecutor(1) as pool:
                pool.submit(memos.close).result(timeout=60)  # the lock is held for longer
        with pytest.raises(Closed):
            view.build_index()
        with MemOS.open(database, embedder=WordEmbedder()) as again:
            assert again.at("acme", "ann").build_index() == 30

    def test_a_failure_is_logged_once_and_leaves_nothing(
        self, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(indexing, "KNOWN_SECONDS", 0.0)
        settings = Settings(exact_limit=10)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("CREATE TABLE memos.indexed_1 (in_the_way boolean)")
        with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
            view = memos.at("acme", "ann")
            view.add(texts(30))
            for _ in range(5):
                assert view.search("word1")[0].route == "exact"
            until(lambda: "no search index for acme/ann" in caplog.text)
            view.search("word1")
        assert caplog.text.count("no search index for") == 1
        assert rows_of(database, "search_index") == 0

    def test_vectors_that_are_too_wide(self, database: str) -> None:
        embedder = WordEmbedder(width=indexing.MAX_WIDTH + 1)
        settings = Settings(exact_limit=10)
        with MemOS.open(database, embedder=embedder, settings=settings) as memos:
            view = memos.at("acme", "ann")
            view.add(texts(20))
            assert view.search("word1")[0].route == "exact"
            with pytest.raises(InvalidInput, match="up to 4000 dimensions, and these have 4001"):
                view.build_index()

    def test_new_vectors_drop_the_old_ones_index(self, large: View, database: str) -> None:
        large.add(texts(30))
        large.build_index()
        large.engine.close()
        wider = WordEmbedder("wider", width=32)
        MemOS.reembed(database, embedder=wider)
        assert rows_of(database, "search_index") == 0
        with MemOS.open(database, embedder=wider, settings=Settings(exact_limit=0)) as memos:
            view = memos.at("acme", "ann")
            assert view.build_index() == 30
            assert view.search("word1")[0].route == "index"
        assert_consistent(database)

    def test_an_empty_view(self, large: View) -> None:
        assert large.build_index() == 0
        assert large.search("word1") == []
