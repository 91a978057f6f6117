"""What several users of one memory do at once ends as if they had done it one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from memos_core import AsyncMemOS, CubeNotFound, MemCube, MemOS, Settings, VersionConflict, View
from tests.support import WordEmbedder, until

THREADS = 8
ROUNDS = 10


def together(*work: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(work)) as pool:
        return [done.result() for done in [pool.submit(one) for one in work]]


def test_no_update_is_lost(ann: View) -> None:
    cube = ann.add("0")

    def count() -> None:
        for _ in range(ROUNDS):
            ann.update(cube.id, "x", mode="append")

    together(*[count] * THREADS)
    final = ann.get(cube.id)
    assert final.version == THREADS * ROUNDS + 1
    assert final.text.count("x") == THREADS * ROUNDS
    assert [version.version for version in ann.history(cube.id)] == list(
        range(1, THREADS * ROUNDS + 2)
    )


def test_of_many_updates_of_one_version_one_wins(ann: View) -> None:
    cube = ann.add("0")

    def attempt(text: str) -> MemCube | None:
        try:
            return ann.update(cube.id, text, expected_version=1)
        except VersionConflict:
            return None

    done = together(*[lambda text=str(n): attempt(text) for n in range(THREADS)])
    (winner,) = [one for one in done if one]
    assert [version.text for version in ann.history(cube.id)] == ["0", winner.text]


def test_a_conversation_sent_by_many_at_once_is_remembered_once(ann: View) -> None:
    turns = [{"id": f"m{n}", "role": "user", "content": f"line {n}"} for n in range(20)]
    made = together(*[lambda: ann.ingest(turns, session="monday")] * THREADS)
    assert sum(map(len, made)) == 20
    assert ann.stats().cubes == ann.stats().messages == 20
    assert [message.id for message in ann.messages()] == [turn["id"] for turn in turns]


def test_what_is_said_together_stays_together(ann: View) -> None:
    def say(who: int) -> None:
        for number in range(ROUNDS):
            pair = [
                {"id": f"{who}-{number}-{side}", "role": side, "content": "…"}
                for side in ("user", "assistant")
            ]
            ann.ingest(pair, session="monday")

    together(*[lambda who=who: say(who) for who in range(THREADS)])
    logged = [message.id for message in ann.messages(session="monday")]
    assert len(logged) == THREADS * ROUNDS * 2
    for question, answer in zip(logged[::2], logged[1::2], strict=True):
        assert question.removesuffix("user") == answer.removesuffix("assistant")


def test_forgetting_during_updates_leaves_nothing(ann: View, database: str) -> None:
    for _ in range(ROUNDS):
        cube = ann.add("0")

        def write(cube: MemCube = cube) -> None:
            try:
                while True:
                    ann.update(cube.id, "secret", mode="append")
            except CubeNotFound:
                return

        def erase(cube: MemCube = cube) -> None:
            until(lambda: len(ann.history(cube.id)) >= 3)
            ann.forget(cube.id)

        together(write, write, erase)
    with psycopg.connect(database) as connection:
        left = connection.execute("SELECT count(*) FROM memos.cube_version").fetchone()
        assert left == (0,)
    assert ann.stats().versions == 0


def test_searching_while_others_forget(ann: View) -> None:
    cubes = ann.add([f"tea {number}" for number in range(60)])
    gone: set[object] = set()

    def forget() -> None:
        for cube in cubes:
            ann.forget(cube.id)
            gone.add(cube.id)

    def search() -> None:
        while len(gone) < len(cubes):
            known = set(gone)
            found = {hit.cube.id for hit in ann.search("tea", k=100)}
            assert not found & known, "what was forgotten before is not found"

    together(forget, search, search)
    assert ann.search("tea") == []


def test_crossing_forgets_do_not_deadlock(ann: View) -> None:
    for _ in range(ROUNDS):
        ids = [cube.id for cube in ann.add(["a", "b", "c", "d"])]

        def forget(order: list[Any]) -> int:
            try:
                return len(ann.forget(order).cubes)
            except CubeNotFound:
                return 0

        counts = together(lambda ids=ids: forget(ids), lambda ids=ids: forget(ids[::-1]))
        assert sorted(counts) == [0, 4]


async def test_many_tasks_share_few_connections(database: str) -> None:
    settings = Settings(pool_size=2, pool_timeout=5)
    async with await AsyncMemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        view = memos.at("acme")
        await asyncio.gather(*(view.add(f"thing {number}") for number in range(100)))
        found = await asyncio.gather(*(view.search(f"thing {n}", k=1) for n in range(100)))
        assert [hits[0].text for hits in found] == [f"thing {n}" for n in range(100)]


async def test_a_verb_does_not_wait_for_asyncio_s_own_threads(database: str) -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with await AsyncMemOS.open(database, embedder=WordEmbedder()) as memos:

        def block() -> None:
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

        busy = [asyncio.ensure_future(asyncio.to_thread(block)) for _ in range(64)]
        await memos.add("tea")
        assert (await memos.search("tea"))[0].text == "tea"
        release.set()
        await asyncio.gather(*busy)


async def test_a_cancelled_verb_happens_whole_or_not_at_all(database: str) -> None:
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        awaited = AsyncMemOS(memos)
        tasks = [
            asyncio.create_task(awaited.add([f"{n} one", f"{n} two"], tags=[str(n)]))
            for n in range(40)
        ]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(memos.close)
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        per_batch = [len(memos.search("one two", tags=[str(n)])) for n in range(40)]
        assert set(per_batch) <= {0, 2}
