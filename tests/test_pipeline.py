"""Several verbs happen together or not at all; a dry run tells what they would have done."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from uuid import UUID

import psycopg
import pytest
from rich.console import Console

from memos_core import (
    AsyncMemOS,
    Caller,
    Closed,
    CubeExists,
    CubeNotFound,
    Diff,
    InvalidInput,
    MemOS,
    NotPermitted,
    PipelineFailed,
    Settings,
    State,
    StoreError,
    TransactionCollided,
    View,
)
from memos_core.store.statement import Statement
from memos_core.store.statements import pipelines
from tests.support import WordEmbedder, everything_in, is_blocked, until


def found(view: View, question: str = "tea") -> set[str]:
    return {hit.text for hit in view.search(question, k=100)}


@pytest.fixture
def alone(database: str) -> Iterator[MemOS]:
    """A memory with a single connection: a pipeline needs no other."""
    settings = Settings(pool_size=1, pool_timeout=1)
    with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        yield memos


def test_all_of_it_happens_at_the_end(database: str, memos: MemOS) -> None:
    old = memos.add("old tea")
    with MemOS.open(database, embedder=WordEmbedder()) as other:
        with memos.pipeline() as p:
            p.archive(old.id)
            new = p.add("new tea")
            p.at("acme").ingest("tea, please")
            assert found(p) == {"new tea"}, "in itself it shows"
            assert found(other) == {"old tea"}, "to others it does not"
            assert found(other.at("acme")) == set()
        assert found(other) == {"new tea"}
        assert len(found(other.at("acme"))) == 1
        assert other.get(old.id).state == State.ARCHIVED
        assert other.history(new.id)[0].version == 1


def test_every_verb_needs_no_second_connection(alone: MemOS) -> None:
    with alone.pipeline() as p:
        one, two = p.add(["first tea", "second tea"])
        p.update(one.id, "first tea, hot")
        p.restore(one.id, version=1)
        p.ingest([{"role": "user", "name": "Ann", "content": "Ann's tea"}], session="s")
        fused = p.fuse([one.id, two.id])
        p.compose([fused.id], "kit")
        p.grant(user="bob", cube=two.id)
        p.freeze(two.id)
        p.unfreeze(two.id)
        assert len(p.recall("What tea?").hits) == 3
        assert p.provenance(fused.id).cubes.keys() == {fused.id, one.id, two.id}
        p.forget(one.id)
        p.retire("s")
    assert found(alone) == {"second tea", "Ann's tea"}


def test_where_it_raises_nothing_happened(database: str, memos: MemOS) -> None:
    cube = memos.add("tea")
    before = everything_in(database)
    with pytest.raises(ZeroDivisionError), memos.pipeline() as p:
        p.forget(cube.id)
        p.add("never")
        _ = 1 / 0
    assert everything_in(database) == before


def test_a_refusal_of_the_database_is_not_passed_over(database: str, memos: MemOS) -> None:
    cube = memos.add("tea")
    before = everything_in(database)
    with pytest.raises(PipelineFailed, match="nothing of it happened"), memos.pipeline() as p:
        p.add("never")
        with pytest.raises(CubeExists):
            p.add("again", id=cube.id)
        with pytest.raises(PipelineFailed, match="an earlier verb"):
            p.add("nor this")
    assert everything_in(database) == before


def test_what_was_not_there_can_be_passed_over(memos: MemOS) -> None:
    with memos.pipeline() as p:
        with pytest.raises(CubeNotFound):
            p.get("00000000-0000-0000-0000-000000000000")
        p.add("tea")
    assert found(memos) == {"tea"}


def test_what_was_denied_is_logged_whatever_becomes_of_the_rest(memos: MemOS) -> None:
    cube = memos.at("acme").add("shared tea")
    bob = MemOS(memos.engine, memos.at("acme").namespace, Caller(user="bob"))
    with pytest.raises(NotPermitted), bob.pipeline() as p:
        p.add("Bob's")
        p.update(cube.id, "mine")
    assert found(bob) == {"shared tea"}
    (denied,) = memos.at("acme").events(kind="denied")
    assert (denied.user, denied.cube_ids) == ("bob", (cube.id,))


def test_its_verbs_work_inside_its_block(memos: MemOS) -> None:
    with memos.pipeline() as p:
        view = p.at("acme")
    for late in (p, view):
        with pytest.raises(Closed, match="inside its block"):
            late.add("tea")
    with pytest.raises(InvalidInput, match="cannot be part of a pipeline"), memos.pipeline() as p:
        p.build_index()


def test_others_who_change_the_same_wait(database: str, memos: MemOS) -> None:
    cube = memos.add("tea 0")
    with MemOS.open(database, embedder=WordEmbedder()) as other:
        with memos.pipeline() as p:
            p.update(cube.id, "tea 1")
            waiting = other.engine.threads.submit(other.update, cube.id, "tea 2")
            until(lambda: is_blocked(database))
        assert waiting.result(60).version == 3
    assert [one.text for one in memos.history(cube.id)] == ["tea 0", "tea 1", "tea 2"]


def test_of_two_that_wait_for_each_other_one_is_to_be_run_again(memos: MemOS) -> None:
    one, two = memos.add(["one", "two"])
    ready, failures = threading.Barrier(2), []

    def run(first: UUID, second: UUID) -> None:
        try:
            with memos.pipeline() as p:
                p.update(first, "mine", mode="append")
                ready.wait()
                p.update(second, "mine", mode="append")
        except TransactionCollided as error:
            failures.append(error)
            run_alone(first, second)

    def run_alone(first: UUID, second: UUID) -> None:
        with memos.pipeline() as p:
            for cube in (first, second):
                p.update(cube, "mine", mode="append")

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(run, one.id, two.id), pool.submit(run, two.id, one.id)]:
            done.result()
    (failure,) = failures
    assert "run the whole pipeline again" in str(failure)
    assert [memos.get(cube.id).text for cube in (one, two)] == [
        "one\nmine\nmine",
        "two\nmine\nmine",
    ]


def test_one_that_goes_on_after_a_collision_or_collides_at_its_end_says_so(
    database: str, memos: MemOS
) -> None:
    collide = Statement(
        sql="DO $$BEGIN RAISE 'broken' USING ERRCODE = '40P01'; END$$", parameters={}, read=bool
    )
    with pytest.raises(PipelineFailed, match="run the whole pipeline again"), memos.pipeline() as p:
        with pytest.raises(TransactionCollided):
            p.engine.run(collide)
        p.add("tea")
    with psycopg.connect(database, autocommit=True) as connection:  # as SERIALIZABLE would
        connection.execute(
            "CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE 'broken' USING ERRCODE = '40001'; END$$"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER collide AFTER INSERT ON memos.cube DEFERRABLE "
            "INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION collide()"
        )
    at_its_end = memos.pipeline()
    with pytest.raises(TransactionCollided, match="run the whole pipeline again"), at_its_end as p:
        p.add("tea")
    assert memos.stats().cubes == 0


def test_one_in_which_nothing_happens_for_long_is_ended(database: str) -> None:
    def open_transactions() -> int:
        with psycopg.connect(database) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE state = 'idle in transaction' AND datname = current_database()"
            ).fetchone()
            return row[0] if row else 0

    settings = Settings(statement_timeout=1)
    with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        with pytest.raises(StoreError), memos.pipeline() as p:
            p.add("tea")
            assert open_transactions() >= 1  # the pool's own may be under way
            until(lambda: open_transactions() == 0)
            p.add("cake")
        assert memos.stats().cubes == 0


def test_a_read_in_it_does_not_make_its_commit_lazy(
    memos: MemOS, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = Statement(
        sql="SELECT current_setting('synchronous_commit') AS now", parameters={}, read=list
    )
    asked = [row["now"] for row in memos.engine.run(show)]
    with memos.engine.together() as (inside, transaction):
        found(View(inside, memos.namespace))
        assert transaction.run(show)[0]["now"] == "off"
        transaction.run(pipelines.durable())
        assert [row["now"] for row in transaction.run(show)] == asked
    ended: list[str] = []
    durable = pipelines.durable
    monkeypatch.setattr(pipelines, "durable", lambda: ended.append("durable") or durable())
    with memos.pipeline() as p:
        found(p)
        assert ended == []
    assert ended == ["durable"]


# --- dry runs -------------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing_and_tells_what_would_be(database: str, memos: MemOS) -> None:
    one, two, three = memos.add(["one tea", "two teas", "three teas"])
    memos.get(three.id)
    before = everything_in(database)
    with memos.pipeline(dry_run=True) as p:
        p.update(one.id, "one coffee", tags=["new"])
        p.forget(two.id)
        p.get(three.id)
        new = p.add("four teas")
        p.forget(p.add("never there").id)
    assert everything_in(database) == before
    effects = {effect.id: effect for effect in p.effects}
    assert effects.keys() == {one.id, two.id, new.id}
    assert (effects[one.id].before, effects[one.id].after) == (1, 2)
    assert effects[one.id].fields == {"tags": ((), ("new",))}
    assert effects[one.id].text[2:] == ("@@ -1 +1 @@", "-one tea", "+one coffee")
    assert (effects[two.id].before, effects[two.id].after) == (1, None)
    assert (effects[new.id].before, effects[new.id].after) == (None, 1)


def test_a_dry_run_tells_what_follows(memos: MemOS) -> None:
    one, two = memos.add(["one tea", "two teas"])
    fused = memos.fuse([one.id, two.id])
    with memos.pipeline(dry_run=True) as p:
        p.update(one.id, "coffee")
    effects = {effect.id: effect for effect in p.effects}
    assert effects[fused.id].after is None
    assert effects[one.id].fields == {"state": ("merged", "activated")}
    assert found(memos) == {fused.text}


def test_a_failed_dry_run_has_no_effects(memos: MemOS) -> None:
    with pytest.raises(ZeroDivisionError), memos.pipeline(dry_run=True) as p:
        p.add("tea")
        _ = 1 / 0
    assert p.effects == ()


# --- awaited --------------------------------------------------------------------------------------


async def test_awaited_it_is_the_same(memos: MemOS) -> None:
    both = AsyncMemOS(memos)
    async with both.pipeline() as p:
        cube = await p.add("tea")
        await p.at("acme").add("tea, too")
    assert found(memos) == {"tea"}
    assert found(memos.at("acme")) == {"tea, too"}
    with pytest.raises(ZeroDivisionError):
        async with both.pipeline() as p:
            await p.forget(cube.id)
            _ = 1 / 0
    assert found(memos) == {"tea"}
    async with both.pipeline(dry_run=True) as p:
        await p.forget(cube.id)
    assert [effect.id for effect in p.effects] == [cube.id]
    assert found(memos) == {"tea"}


async def test_a_cancelled_one_is_undone(database: str) -> None:
    settings = Settings(pool_size=1, pool_timeout=5)
    with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        both = AsyncMemOS(memos)
        inside = asyncio.Event()

        async def work() -> None:
            async with both.pipeline() as p:
                await p.add("tea")
                inside.set()
                await asyncio.Event().wait()

        async def enter() -> None:
            async with both.pipeline():
                raise AssertionError

        task = asyncio.create_task(work())
        await inside.wait()
        entering = asyncio.create_task(enter())
        await asyncio.sleep(0.05)
        for one in (entering, task):
            one.cancel()
            with pytest.raises(asyncio.CancelledError):
                await one
        assert await both.search("tea") == [], "the connection is free again"


# --- differences ----------------------------------------------------------------------------------


def test_two_versions_are_compared(view: View) -> None:
    cube = view.add("Ann likes tea.\nShe has a cat.", tags=["x"], metadata={"n": 1})
    view.update(cube.id, "Ann likes tea.\nShe has a dog.", priority=2, metadata={"n": 2})
    view.archive(cube.id)
    changed = view.diff(cube.id, 1, 2)
    assert changed.fields == {"metadata": ({"n": 1}, {"n": 2}), "priority": (0, 2)}
    assert changed.text == (
        "--- version 1", "+++ version 2", "@@ -1,2 +1,2 @@", " Ann likes tea.", "-She has a cat.",
        "+She has a dog.",
    )  # fmt: skip
    assert view.diff(cube.id, 2).fields == {"state": ("generated", "archived")}
    assert not view.diff(cube.id, 2, 2)
    assert "priority: 0 → 2" in str(changed)
    with pytest.raises(CubeNotFound, match="has no version 9; it has 1 to 3"):
        view.diff(cube.id, 1, 9)


class _Well(HTMLParser):
    """Counts tags that were opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_difference_shows_in_notebooks_and_terminals(ann: View) -> None:
    cube = ann.add("<b>tea</b>", tags=["<i>"])
    changed = ann.update(cube.id, "coffee [red]", tags=[])
    shown: Diff = ann.diff(cube.id, 1, changed.version)
    html = shown._repr_html_()
    page = _Well()
    page.feed(html)
    assert page.open == []
    assert "&lt;b&gt;tea" in html
    console = Console(file=io.StringIO(), width=200)
    console.print(shown)
    text = console.file.getvalue()
    assert "<b>tea</b>" in text
    assert "coffee [red]" in text
