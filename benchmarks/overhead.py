"""Cost of the verbs beside SQL written by hand, on the same server in the same run.

    python -m benchmarks.overhead [--json] [--big] [--rounds 100]

Vectors are made beforehand, so no model is timed. They are random in 32 directions and nearly flat
in the others, since of vectors that are random in all no index finds the nearest. By hand is a
table with the columns that an application would have (tenant, namespace, id, text, metadata, time,
vector), filled with COPY and searched by an exact scan of one namespace; it has no words, no
versions and no log. Both are asked in turns, and the table gives medians (p50) and 95th percentiles
in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from benchmarks.machine import machine
from benchmarks.server import own_server
from memos_core import AsyncView, MemOS, Settings, View
from memos_core.embedder import Vectors

WIDTH = 384
DIRECTIONS = 32
WARM_UP = 10  # psycopg prepares a statement at its fifth execution
CALLERS = 16
NAMESPACES = (100, 1000)  # rows of those that are searched
FILLER = 1000  # rows of all others
BIG = 200_000  # rows of the large namespace among a million
QUESTION = "w3 w77 w500 w9 w2000"
TABLE = """
    CREATE TABLE by_hand (
        tenant text NOT NULL, namespace text[] NOT NULL, id uuid NOT NULL, text text NOT NULL,
        metadata jsonb NOT NULL, created_at timestamptz NOT NULL, embedding halfvec(384) NOT NULL,
        PRIMARY KEY (tenant, id)
    );
    CREATE INDEX ON by_hand (tenant, namespace)
"""
INSERT = "INSERT INTO by_hand VALUES (%s, %s, %s, %s, %s, %s, %b)"
LOG = """
    INSERT INTO memos.event (tenant, at, kind, namespace, cube_ids, details)
    VALUES (%s, now(), 'added', %s, %s, '{}')
"""
COPY = "COPY by_hand FROM STDIN WITH (FORMAT BINARY)"
TYPES = ("text", "text[]", "uuid", "text", "jsonb", "timestamptz", "halfvec")
NEAREST = """
    SELECT id, text, metadata, created_at, 1 - (embedding <=> %(vector)b) AS cosine FROM by_hand
    WHERE tenant = 'bench' AND namespace = %(namespace)s
    ORDER BY embedding <=> %(vector)b LIMIT 10
"""


class Drawn:
    """Returns the vectors that were drawn for the next call."""

    name = "drawn"

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self._directions = self.random.normal(size=(DIRECTIONS, WIDTH))
        self.vectors = self.draw(1)

    def draw(self, count: int) -> Vectors:
        meant = self.random.normal(size=(count, DIRECTIONS)) @ self._directions
        drawn = (meant + self.random.normal(size=(count, WIDTH))).astype(np.float32)
        self.vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return self.vectors

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self.vectors[: len(texts)]


@dataclass(frozen=True)
class Line:
    """One row of the table: ours, theirs where there is one, and ours by theirs."""

    what: str
    p50: float
    p95: float
    floor: float | None = None
    ratio: float | None = None
    recall: float | None = None


def measure(
    what: str, ours: Callable[[], object], theirs: Callable[[], object] | None, rounds: int
) -> Line:
    """Time both in turns, so that what else the machine does falls on both."""
    for _ in range(WARM_UP):
        ours()
        if theirs:
            theirs()
    mine: list[float] = []
    floor: list[float] = []
    for _ in range(rounds):
        mine.append(timed(ours))
        if theirs:
            floor.append(timed(theirs))
    p50 = statistics.median(mine)
    least = statistics.median(floor) if floor else None
    return Line(
        what=what,
        p50=p50,
        p95=statistics.quantiles(mine, n=20)[-1],
        floor=least,
        ratio=p50 / least if least else None,
    )


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


class ByHand:
    """The same work in SQL that somebody wrote for this table alone."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        register_vector(self.connection)

    def rows(self, texts: Sequence[str], vectors: Vectors, namespace: list[str]) -> list[Any]:
        now = datetime.now(UTC)
        return [
            ("bench", namespace, uuid7(), text, Jsonb({}), now, HalfVector(vector))
            for text, vector in zip(texts, vectors, strict=True)
        ]

    def add_one(self, text: str, vector: Vectors, namespace: list[str]) -> None:
        (row,) = self.rows([text], [vector], namespace)
        with self.connection.transaction():
            self.connection.execute(INSERT, row)
            self.connection.execute(LOG, ("bench", namespace, [row[2]]))

    def copy(self, texts: Sequence[str], vectors: Vectors, namespace: list[str]) -> None:
        with self.connection.transaction(), self.connection.cursor().copy(COPY) as into:
            into.set_types(TYPES)
            for row in self.rows(texts, vectors, namespace):
                into.write_row(row)

    def nearest(self, vector: Vectors, namespace: list[str]) -> list[tuple[UUID, str]]:
        found = self.connection.execute(
            NEAREST, {"vector": HalfVector(vector), "namespace": namespace}
        )
        return found.fetchall()


class Bench:
    """One database, filled alike on both sides."""

    def __init__(self, dsn: str, rounds: int) -> None:
        self.rounds = rounds
        self.rng = random.Random(1)  # noqa: S311 reproducible texts, no secrets
        self.words = [f"w{rank}" for rank in range(3000)]
        self.weights = [1 / (rank + 1) for rank in range(3000)]  # Zipf's law
        self.drawn = Drawn()
        self.memos = MemOS.open(dsn, embedder=self.drawn)
        self.quiet = MemOS.open(dsn, embedder=self.drawn, settings=Settings(read_events=False))
        self.hand = ByHand(dsn)
        self.hand.connection.execute(TABLE)
        self.dsn = dsn
        self.total = 0

    def close(self) -> None:
        self.memos.close()
        self.quiet.close()
        self.hand.connection.close()

    def texts(self, count: int) -> list[str]:
        return [" ".join(self.rng.choices(self.words, self.weights, k=25)) for _ in range(count)]

    def fill(self, rows: int, label: str) -> None:
        """Add a namespace of so many rows to both."""
        view = self.memos.at("bench", label)
        for start in range(0, rows, FILLER):
            texts = self.texts(min(FILLER, rows - start))
            vectors = self.drawn.draw(len(texts))
            view.add(texts)
            self.hand.copy(texts, vectors, list(view.namespace))
        self.total += rows

    def settle(self) -> None:
        self.hand.connection.execute("VACUUM ANALYZE memos.cube, by_hand")

    def adds(self) -> list[Line]:
        view, texts = self.memos.at("bench", "added"), self.texts(1000)
        vectors, namespace = self.drawn.draw(1000), ["bench", "added"]
        return [
            measure(
                "add 1",
                lambda: view.add(texts[0]),
                lambda: self.hand.add_one(texts[0], vectors[0], namespace),
                self.rounds,
            ),
            measure(
                "add 1000",
                lambda: view.add(texts),
                lambda: self.hand.copy(texts, vectors, namespace),
                max(10, self.rounds // 5),
            ),
        ]

    def searches(self, rows: int, label: str) -> list[Line]:
        """Search one namespace in every mode, beside the exact scan by hand and without events."""
        view, quiet = self.memos.at("bench", label), self.quiet.at("bench", label)
        where = f"{rows:,} of {self.total:,}"
        rounds = self.rounds if rows < BIG else max(10, self.rounds // 10)

        def floor() -> object:
            return self.hand.nearest(self.drawn.vectors[0], list(view.namespace))

        self.drawn.draw(1)
        lines = [
            measure(f"{mode}, {where}", asking(view, mode), floor, rounds)
            for mode in ("dense", "hybrid", "lexical")
        ]
        lines += [
            measure(
                f"{mode}, {where}, to no events", asking(view, mode), asking(quiet, mode), rounds
            )
            for mode in ("dense", "hybrid")
        ]
        lines[0] = replace(lines[0], recall=self.recall(view))
        if rows == BIG:
            lines[1] = replace(lines[1], recall=self.recall_of_both(view))
        return lines

    def index(self, label: str) -> Line:
        """Build the index of a large namespace, in milliseconds."""
        took = timed(self.memos.at("bench", label).build_index)
        return Line(what=f"build the index of {BIG:,}", p50=took, p95=took)

    def recall(self, view: View) -> float:
        """Compare what both find for the same vectors, by text."""
        shares: list[float] = []
        for _ in range(30):
            vector = self.drawn.draw(1)[0]
            found = {hit.text for hit in view.search("?", mode="dense")}
            right = {row[1] for row in self.hand.nearest(vector, list(view.namespace))}
            shares.append(len(found & right) / len(right))
        return statistics.mean(shares)

    def recall_of_both(self, view: View) -> float:
        """Compare what a hybrid search finds by the index and by looking at every memory."""
        settings = Settings(exact_limit=2**31 - 1, statement_timeout=300)
        shares: list[float] = []
        with MemOS.open(self.dsn, embedder=self.drawn, settings=settings) as exact:
            for _ in range(20):
                self.drawn.draw(1)
                question = self.texts(1)[0][:40]
                found = {hit.cube.id for hit in view.search(question)}
                right = {hit.cube.id for hit in exact.at(*view.namespace).search(question)}
                shares.append(len(found & right) / len(right))
        return statistics.mean(shares)

    def concurrent(self, label: str) -> list[Line]:
        """Searches of 16 callers at once: the time of one of them, as throughput has it."""
        view, namespace = self.memos.at("bench", label), ["bench", label]
        hands = [ByHand(self.dsn) for _ in range(CALLERS)]
        vector = self.drawn.draw(1)[0]

        def threads(work: Sequence[Callable[[], object]]) -> None:
            with ThreadPoolExecutor(CALLERS) as pool:
                list(pool.map(lambda one: [one() for _ in range(10)], work))

        async def tasks() -> None:
            awaited = AsyncView(view)

            async def caller() -> None:
                for _ in range(10):
                    await awaited.search(QUESTION, mode="dense")

            await asyncio.gather(*(caller() for _ in range(CALLERS)))

        with asyncio.Runner() as runner:
            one = AsyncView(view)
            lines = [
                measure(
                    "dense, awaited",
                    lambda: runner.run(one.search(QUESTION, mode="dense")),
                    lambda: hands[0].nearest(vector, namespace),
                    self.rounds,
                ),
                measure(
                    f"dense, {CALLERS} threads x 10",
                    lambda: threads([asking(view, "dense")] * CALLERS),
                    lambda: threads(
                        [lambda hand=hand: hand.nearest(vector, namespace) for hand in hands]
                    ),
                    10,
                ),
                measure(
                    f"dense, {CALLERS} tasks x 10",
                    lambda: runner.run(tasks()),
                    None,
                    10,
                ),
            ]
        for hand in hands:
            hand.connection.close()
        return lines

    def bytes_per_row(self) -> dict[str, float]:
        sizes = self.hand.connection.execute(
            "SELECT pg_total_relation_size('memos.cube') / (SELECT count(*) FROM memos.cube), "
            "pg_total_relation_size('by_hand') / (SELECT count(*) FROM by_hand)"
        ).fetchone()
        return dict(zip(("memos", "by hand"), sizes or (), strict=False))


def asking(view: View, mode: Any) -> Callable[[], object]:
    return lambda: view.search(QUESTION, mode=mode)


def run(dsn: str, *, rounds: int, big: bool) -> dict[str, Any]:
    bench = Bench(dsn, rounds)
    try:
        lines = bench.adds()
        bench.hand.connection.execute("TRUNCATE memos.cube, memos.passage, by_hand")
        for rows in NAMESPACES:
            bench.fill(rows, f"of {rows}")
        others = 0
        for total in (10_000, 100_000, *((1_000_000,) if big else ())):
            if total > max(NAMESPACES) * 100:
                bench.fill(BIG, "big")
            while bench.total < total:
                bench.fill(min(FILLER, total - bench.total), f"other {others}")
                others += 1
            bench.settle()
            for rows in NAMESPACES:
                lines += bench.searches(rows, f"of {rows}")
            if big and total == 1_000_000:  # noqa: PLR2004 as above
                lines += [bench.index("big"), *bench.searches(BIG, "big")]
        lines += bench.concurrent(f"of {NAMESPACES[-1]}")
        return {"lines": [asdict(line) for line in lines], "bytes per row": bench.bytes_per_row()}
    finally:
        bench.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--big", action="store_true", help="go on to a million rows")
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    with own_server() as (dsn, _):
        result = run(dsn, rounds=options.rounds, big=options.big)
    if options.json:
        print(json.dumps({"machine": machine(), **result}, indent=2))
        return
    print(f"{machine()}, medians of {options.rounds}")
    print(f"{'':36}{'p50 ms':>9}{'p95 ms':>9}{'by hand':>9}{'ratio':>7}{'recall':>8}")
    for line in result["lines"]:
        numbers = [("p50", 9, 2), ("p95", 9, 2), ("floor", 9, 2), ("ratio", 7, 2), ("recall", 8, 3)]
        cells = [
            f"{line[name]:{width}.{digits}f}" if line[name] is not None else " " * width
            for name, width, digits in numbers
        ]
        print(f"{line['what']:36}" + "".join(cells))
    sizes = result["bytes per row"]
    print(f"bytes per row with indexes: {sizes['memos']}, by hand {sizes['by hand']}")


if __name__ == "__main__":
    main()
