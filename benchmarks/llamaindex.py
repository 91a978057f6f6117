"""MemOSMemory beside LlamaIndex's own Memory on PostgreSQL, and what either loses.

    python -m benchmarks.llamaindex [--json] [--messages 1000 100000] [--rounds 50]

Both lie on one server, each in a database of its own; ours has a table of vectors in place of an
embedder. A user has a thousand messages in fifty sessions. A put is a message; a get is of a
session of twenty messages, by itself and with five memories from the user's other sessions, or from
those of all users; an agent gets again in a turn, after each round of tool calls. Every line times
both in turns, awaited in one event loop as agents do; times are medians in milliseconds of one run.
Then fifty users' new sessions go on at once, and of what is put at once it is counted how much is
there afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import BaseMemory, Memory
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.machine import machine
from benchmarks.overhead import WARM_UP, Line
from benchmarks.server import address, new_database, own_server
from benchmarks.stand_in import Table
from memos_core import MemOS
from memos_llamaindex import MemOSMemory

SESSION = 20  # messages
SESSIONS = 50  # of a user
AT_ONCE = 50
TURNS = 5
K = 5
SMALL_LIMIT = 200  # tokens, over which Memory archives; some ten messages

Make = Callable[[str], BaseMemory]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """How many of the messages that were put at once are there afterwards."""

    what: str
    put: int
    ours: int
    stock: int
    in_memory: int
    """What Memory keeps without a database: the default, SQLite in the process."""


def said(number: int) -> ChatMessage:
    role = "assistant" if number % 2 else "user"
    return ChatMessage(
        role=role,
        content=f"fact {number} about what user {number % 997} likes, said in a conversation",
    )


class Bench:
    """Two memories of the same conversations, and what is measured of both."""

    def __init__(self, memos: MemOS, engine: AsyncEngine, rounds: int) -> None:
        self._memos, self._engine, self._rounds = memos, engine, rounds
        self._filled = 0

    def ours(self, user: str, session: str, *, k: int = 0) -> MemOSMemory:
        return MemOSMemory(memos=self._memos.at("bench", user), session_id=session, k=k)

    def stock(self, user: str, session: str) -> Memory:
        return Memory.from_defaults(session_id=f"{user}/{session}", async_engine=self._engine)

    async def fill(self, messages: int) -> None:
        """Have so many messages in both, a session at a time."""
        store = self.stock("", "").sql_store
        while self._filled < messages:
            user, session = self._place(self._filled)
            turns = [said(self._filled + place) for place in range(SESSION)]
            self._memos.at("bench", user).ingest(
                [{"role": turn.role.value, "content": turn.content} for turn in turns],
                session=session,
            )
            await store.add_messages(f"{user}/{session}", turns)
            self._filled += SESSION
        self._memos.at("bench").build_index()

    async def lines(self) -> list[Line]:
        user, session = self._place(self._filled // 2)
        stock = self.stock(user, session)
        everything = MemOSMemory(memos=self._memos.at("bench"), session_id="new", k=K)
        await everything.aput(said(self._filled + 1))
        lines = [
            await self._compare(
                "put", self._put(self.ours(user, "puts")), self._put(self.stock(user, "puts"))
            ),
            await self._compare("get", self.ours(user, session).aget, stock.aget),
            await self._compare(
                "get, recalling of 1,000", self._asking(self.ours(user, session, k=K)), stock.aget
            ),
            await self._compare(
                "get again in a turn, recalling", self.ours(user, session, k=K).aget, stock.aget
            ),
        ]
        if self._filled > SESSION * SESSIONS:
            lines.append(
                await self._compare("get, recalling of all", self._asking(everything), stock.aget)
            )
        return lines

    async def sessions(self) -> list[Line]:
        """Time turns of sessions that go on at once, without recall and with it."""
        lines: list[Line] = []
        for k in (0, K):
            users, session = [f"u{one}" for one in range(AT_ONCE)], f"at once {k} {self._filled}"
            ours = await self._turns([self.ours(user, session, k=k) for user in users])
            stock = await self._turns([self.stock(user, session) for user in users])
            what = f"a turn of {AT_ONCE} users at once" + (", recalling" if k else "")
            lines.append(self._line(what, ours, stock))
        return lines

    def _asking(self, memory: MemOSMemory) -> Callable[[], Awaitable[object]]:
        numbers = iter(range(10**9))
        # A new question each time: within a turn, what was recalled is read no second time.
        return lambda: memory.aget(f"fact {next(numbers)} likes what")

    def _put(self, memory: BaseMemory) -> Callable[[], Awaitable[object]]:
        numbers = iter(range(10**9))
        return lambda: memory.aput(said(next(numbers)))

    async def _compare(
        self,
        what: str,
        ours: Callable[[], Awaitable[object]],
        stock: Callable[[], Awaitable[object]],
    ) -> Line:
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(WARM_UP + self._rounds):
            for work, spent in zip((ours, stock), times, strict=True):
                spent.append(await _timed(work()))
        return self._line(what, times[0][WARM_UP:], times[1][WARM_UP:])

    async def _turns(self, memories: Sequence[BaseMemory]) -> list[float]:
        spent: list[float] = []

        async def go_on(memory: BaseMemory) -> None:
            for turn in range(TURNS):
                asked, answered = said(2 * turn), said(2 * turn + 1)

                async def one(asked: ChatMessage = asked, answered: ChatMessage = answered) -> None:
                    await memory.aput(asked)
                    await memory.aget()
                    await memory.aput(answered)

                spent.append(await _timed(one()))

        await asyncio.gather(*(go_on(memory) for memory in memories))
        return spent

    def _line(self, what: str, ours: Sequence[float], stock: Sequence[float]) -> Line:
        p50, floor = statistics.median(ours), statistics.median(stock)
        return Line(
            what=f"{what}, {self._filled:,} messages",
            p50=p50,
            p95=statistics.quantiles(ours, n=20)[-1],
            floor=floor,
            ratio=p50 / floor,
        )

    def _place(self, number: int) -> tuple[str, str]:
        user, message = divmod(number, SESSION * SESSIONS)
        return f"u{user}", f"s{message // SESSION}"


async def _timed(work: Awaitable[object]) -> float:
    start = time.perf_counter()
    await work
    return (time.perf_counter() - start) * 1000


# --- what is lost ---------------------------------------------------------------------------------


async def kept(memos: MemOS, new: Callable[[], URL]) -> list[Kept]:
    """Put messages at once; ``new`` makes a database for Memory, in which there are no tables."""

    def ours(session: str) -> MemOSMemory:
        return MemOSMemory(memos=memos.at("kept"), session_id=session, token_limit=SMALL_LIMIT, k=0)

    def stock(engine: AsyncEngine | None) -> Make:
        return lambda session: Memory.from_defaults(
            session_id=session,
            async_engine=engine,
            token_limit=SMALL_LIMIT,
            token_flush_size=SMALL_LIMIT // 4,
        )

    found: list[Kept] = []
    for what, put, way in (
        ("50 puts at once, in one session", 50, _in_one_session),
        ("50 puts at once, in 50 sessions", 50, _in_many_sessions),
        ("14 puts at once over the token limit: shown", 14, _over_the_limit),
    ):
        engine = create_async_engine(new())
        found.append(
            Kept(
                what=what,
                put=put,
                ours=await way(ours, put),
                stock=await way(stock(engine), put),
                in_memory=await way(stock(None), put),
            )
        )
        await engine.dispose()
    return found


async def _in_one_session(make: Make, count: int) -> int:
    memory = make("one")
    await _put_at_once([memory] * count)
    return await _left(memory)


async def _in_many_sessions(make: Make, count: int) -> int:
    memories = [make(f"many-{number}") for number in range(count)]
    await _put_at_once(memories)
    return sum([await _left(memory) for memory in memories])


async def _over_the_limit(make: Make, count: int) -> int:
    memory = make("over")
    await memory.aget_all()  # the tables are there
    await _put_at_once([memory] * count)
    return len(await memory.aget())


async def _left(memory: BaseMemory) -> int:
    try:
        return len(await memory.aget_all())
    except SQLAlchemyError:  # there is no table
        return 0


async def _put_at_once(memories: Sequence[BaseMemory]) -> None:
    await asyncio.gather(
        *(memory.aput(said(2 * number)) for number, memory in enumerate(memories)),
        return_exceptions=True,
    )


# --- all of it ------------------------------------------------------------------------------------


def run(dsn: str, *, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Fill both memories and measure them, at each size, then count what they lose."""

    async def measured() -> dict[str, Any]:
        engine = create_async_engine(_url(new_database(dsn, "stock")))
        with MemOS.open(new_database(dsn, "ours"), embedder=Table()) as memos:
            bench = Bench(memos, engine, rounds)
            lines: list[Line] = []
            for size in sorted(sizes):
                await bench.fill(size)
                for name in ("ours", "stock"):
                    with psycopg.connect(address(dsn, name), autocommit=True) as connection:
                        connection.execute("VACUUM ANALYZE")
                lines += await bench.lines()
                lines += await bench.sessions()
            names = (f"kept_{number}" for number in range(10**9))
            lost = await kept(memos, lambda: _url(new_database(dsn, next(names))))
        await engine.dispose()
        return {
            "machine": machine(),
            "lines": [asdict(line) for line in lines],
            "kept": [asdict(one) for one in lost],
        }

    return asyncio.run(measured())


def _url(dsn: str) -> URL:
    known = conninfo_to_dict(dsn)
    return URL.create(
        "postgresql+asyncpg",
        username=known.get("user"),
        password=known.get("password"),
        database=known["dbname"],
        query={name: str(known[name]) for name in ("host", "port") if name in known},
    )


def main() -> None:
    """Measure on a server that is made for it, and print tables or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--messages", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    with own_server() as (dsn, _):
        result = run(dsn, sizes=options.messages, rounds=options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['machine']}\n")
    print("| | MemOSMemory, ms | Memory, ms | ratio |\n|---|---|---|---|")
    for line in result["lines"]:
        print(f"| {line['what']} | {line['p50']:.2f} | {line['floor']:.2f} | {line['ratio']:.2f} |")
    print(
        "\n| kept of | MemOSMemory | Memory on PostgreSQL | Memory by default |\n|---|---|---|---|"
    )
    for one in result["kept"]:
        print(f"| {one['what']} | {one['ours']} | {one['stock']} | {one['in_memory']} |")


if __name__ == "__main__":
    main()
