"""Cost of the verbs beside hand-written SQL on the same server, in one run.

    python -m benchmarks.search [--rows 1000]

Vectors are random and made beforehand, so no model is timed. Prints medians in milliseconds and
their ratio to the floor: the least SQL that does that part of the work by hand.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector

from memos_core import MemOS
from memos_core.embedder import Vectors
from memos_core.store.embedded import EmbeddedServer

ROUNDS = 25
QUESTION = "w3 w77 w500 w9 w2000"


class RandomEmbedder:
    """384 random dimensions a text, from a table made beforehand."""

    name = "random"

    def __init__(self) -> None:
        self._table = np.random.default_rng(0).normal(size=(4096, 384)).astype(np.float32)

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self._table[: len(texts)]


def median(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median of some rounds, in milliseconds."""
    work()
    times: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="cubes in the searched namespace")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedServer.acquire(Path(folder) / "postgres")
        try:
            measure(server, Path(folder) / "postgres", rows)
        finally:
            server.release()


def measure(server: EmbeddedServer, folder: Path, rows: int) -> None:
    """Fill two namespaces and print the table."""
    rng = random.Random(1)  # noqa: S311 reproducible texts, no secrets
    words = [f"w{rank}" for rank in range(3000)]
    weights = [1 / (rank + 1) for rank in range(3000)]  # Zipf's law

    def text() -> str:
        return " ".join(rng.choices(words, weights, k=25))

    batch = [text() for _ in range(1000)]
    vectors = [HalfVector(vector) for vector in RandomEmbedder().embed(batch)]
    with (
        MemOS.open(folder, embedder=RandomEmbedder()) as memos,
        psycopg.connect(server.dsn, autocommit=True) as floor,
    ):
        register_vector(floor)
        ann = memos.at("acme", "ann")
        for _ in range(rows // 1000 or 1):
            ann.add([text() for _ in range(min(rows, 1000))])
        floor.execute("ANALYZE memos.cube")
        floor.execute("CREATE TABLE by_hand (id bigserial PRIMARY KEY, text text, v halfvec(384))")

        def nearest() -> object:
            return floor.execute(
                """
                SELECT id, text FROM memos.cube
                WHERE tenant = 'acme' AND namespace >= '{acme,ann}' AND namespace < '{acme,ann!}'
                ORDER BY embedding <=> %b LIMIT 10
                """,
                (vectors[0],),
            ).fetchall()

        def insert() -> object:
            return floor.execute(
                "INSERT INTO by_hand (text, v) VALUES (%s, %b)", (batch[0], vectors[0])
            )

        def copy() -> None:
            with floor.cursor().copy(
                "COPY by_hand (text, v) FROM STDIN WITH (FORMAT BINARY)"
            ) as into:
                into.set_types(["text", "halfvec"])
                for pair in zip(batch, vectors, strict=True):
                    into.write_row(pair)

        elsewhere = memos.at("acme", "bob")
        table = [
            ("search, words and vectors", lambda: ann.search(QUESTION), nearest),
            ("search, no word matches", lambda: ann.search("the"), nearest),
            ("search, with 1 neighbour", lambda: ann.search(QUESTION, context=1), nearest),
            ("add 1", lambda: elsewhere.add(batch[0]), insert),
            ("add 1000", lambda: elsewhere.add(batch), copy),
        ]
        print(f"{rows} cubes in the namespace, 384 dimensions, medians of {ROUNDS} rounds")
        print(f"{'':28}{'MemOS ms':>10}{'floor ms':>10}{'ratio':>8}")
        for name, ours, theirs in table:
            mine, least = median(ours), median(theirs)
            print(f"{name:28}{mine:10.2f}{least:10.2f}{mine / least:8.1f}")


if __name__ == "__main__":
    main()
