"""MemOSStore beside LangGraph's PostgresStore, and what the middleware adds to a turn.

    python -m benchmarks.langchain [--json] [--items 10000 100000] [--rounds 50]

Both stores lie on one server, each in a database of its own, with one table of vectors of 384
dimensions in place of an embedder. Items are spread over a hundred namespaces of users; searches
are in one of them and in all. PostgresStore has no HNSW index here: its searches do not use the one
that it makes, and without it its puts are faster. Every line times both in turns; times are medians
in milliseconds of one run. A turn is one run of an agent whose model answers after 20 ms, with the
middleware and without, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import psycopg
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.base import BaseStore, PutOp
from langgraph.store.postgres import PostgresStore

from benchmarks.machine import machine
from benchmarks.overhead import WARM_UP, Line, measure, timed
from benchmarks.server import address, new_database, own_server
from benchmarks.stand_in import WIDTH, Table
from memos_core import MemOS, View
from memos_langchain import MemOSMiddleware, MemOSStore

USERS = 100
BATCH = 1_000
THINKING = 0.02  # seconds that the model takes; what is read behind the run is read meanwhile


def value(number: int) -> dict[str, Any]:
    """Return an item such as agents keep."""
    return {
        "text": f"fact {number} about what a user likes, said in the course of a conversation",
        "kind": ("preference", "event", "plan", "person")[number % 4],
        "score": number % 1_000,
        "source": {"thread": f"t{number % 50}", "turn": number % 20},
    }


def namespace(number: int) -> tuple[str, str]:
    return "users", f"u{number % USERS}"


class Bench:
    """Two stores that hold the same, and what is measured of both."""

    def __init__(self, ours: BaseStore, theirs: BaseStore, rounds: int) -> None:
        self._ours, self._theirs, self._rounds = ours, theirs, rounds
        self._next = {id(ours): 0, id(theirs): 0}
        self.items = 0

    def fill(self, items: int) -> None:
        """Put items into both until there are so many."""
        while self.items < items:
            for store in (self._ours, self._theirs):
                self._batch(store)
            self.items += BATCH

    def lines(self) -> list[Line]:
        everything = ("users",)
        return [
            self._compare("get", lambda store: store.get(namespace(77), "77")),
            self._compare("put", self._put),
            self._compare("overwrite", lambda store: store.put(namespace(7), "7", value(7))),
            self._compare(f"batch put of {BATCH}", self._batch, rounds=5),
            self._compare(
                "filtered search of a user's",
                lambda store: store.search(namespace(7), filter={"kind": "person"}),
            ),
            self._compare(
                "filtered search of all",
                lambda store: store.search(everything, filter={"kind": "person"}),
                rounds=20,
            ),
            self._compare(
                "vector search of a user's",
                lambda store: store.search(namespace(7), query="what 7 likes"),
            ),
            self._compare(
                "vector search of all",
                lambda store: store.search(everything, query="what 7 likes"),
                rounds=20,
            ),
            self._compare(
                "vector search of all, filtered",
                lambda store: store.search(
                    everything, query="what 7 likes", filter={"kind": "person"}
                ),
                rounds=20,
            ),
        ]

    def _compare(self, what: str, work: Any, rounds: int | None = None) -> Line:
        line = measure(
            what,
            lambda: work(self._ours),
            lambda: work(self._theirs),
            min(rounds or self._rounds, self._rounds),
        )
        return replace(line, what=f"{what}, {self.items:,} items")

    def _put(self, store: BaseStore) -> None:
        number = self._number(store, 1)
        store.put(namespace(number), str(number), value(number))

    def _batch(self, store: BaseStore) -> None:
        """Put a user's next thousand, as one does who brings memories from elsewhere."""
        first = self._number(store, BATCH)
        store.batch(
            [
                PutOp(namespace(number), str(number), value(number))
                for number in range(first, first + BATCH)
            ]
        )

    def _number(self, store: BaseStore, count: int) -> int:
        first = self._next[id(store)]
        self._next[id(store)] += count
        return first


def turns(view: View, memories: int, rounds: int) -> Line:
    """Time a run of an agent with the middleware, and of one without.

    What is read behind a run is done before the next, as while a user thinks.
    """
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in range(3_000)]
    view.ingest(
        [
            {"role": "user", "content": f"fact {number} {' '.join(random.choice(words, 12))}"}
            for number in range(memories)
        ]
    )

    def agent(middleware: Sequence[Any]) -> Any:
        def answers() -> Any:
            while True:
                time.sleep(THINKING)
                yield AIMessage("so 1 it is")

        model = GenericFakeChatModel(messages=answers())
        return create_agent(model, [], middleware=middleware, checkpointer=InMemorySaver())

    memory = MemOSMiddleware(view)
    with_memory, bare = agent([memory]), agent([])
    count = iter(range(10**9))

    def turn(one: Any) -> None:
        number = next(count)
        question = f"fact {number} {' '.join(random.choice(words, 4))}, what about it"
        one.invoke({"messages": [("user", question)]}, {"configurable": {"thread_id": str(number)}})

    ours: list[float] = []
    floor: list[float] = []
    for _ in range(WARM_UP + rounds):
        ours.append(timed(lambda: turn(with_memory)))
        memory.flush()
        floor.append(timed(lambda: turn(bare)))
    ours, floor = ours[WARM_UP:], floor[WARM_UP:]
    p50, least = statistics.median(ours), statistics.median(floor)
    return Line(
        what=f"turn, {memories:,} memories",
        p50=p50,
        p95=statistics.quantiles(ours, n=20)[-1],
        floor=least,
        ratio=p50 / least,
    )


def run(dsn: str, *, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Fill both stores and measure them, at each size."""
    lines: list[Line] = []
    table = Table()
    index = {"dims": WIDTH, "embed": lambda texts: table.embed(texts).tolist(), "fields": ["text"]}
    with (
        MemOSStore.from_conn_string(new_database(dsn, "ours"), index=index) as ours,
        PostgresStore.from_conn_string(
            new_database(dsn, "theirs"), index={**index, "ann_index_config": {"kind": "flat"}}
        ) as theirs,
    ):
        theirs.setup()
        bench = Bench(ours, theirs, rounds)
        for size in sorted(sizes):
            bench.fill(size)
            for name in ("ours", "theirs"):
                with psycopg.connect(address(dsn, name), autocommit=True) as connection:
                    connection.execute("VACUUM ANALYZE")
            lines += bench.lines()
    with MemOS.open(new_database(dsn, "turns"), embedder=table) as memos:
        lived = [turns(memos.at("bench", f"{count}"), count, rounds) for count in (100, 1_000)]
    return {
        "machine": machine(),
        "lines": [asdict(line) for line in lines],
        "turns": [asdict(turn) for turn in lived],
    }


def main() -> None:
    """Measure on a server that is made for it, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    with own_server() as (dsn, _):
        result = run(dsn, sizes=options.items, rounds=options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['machine']}\n")
    print("| | MemOSStore, ms | PostgresStore, ms | ratio |\n|---|---|---|---|")
    for line in result["lines"]:
        print(f"| {line['what']} | {line['p50']:.2f} | {line['floor']:.2f} | {line['ratio']:.2f} |")
    print("\n| | with the middleware, ms | bare agent, ms | difference |\n|---|---|---|---|")
    for turn in result["turns"]:
        more = turn["p50"] - turn["floor"]
        print(f"| {turn['what']} | {turn['p50']:.2f} | {turn['floor']:.2f} | {more:.2f} |")


if __name__ == "__main__":
    main()
