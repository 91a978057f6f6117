"""Rates of dump and load beside PostgreSQL's own COPY of the same columns, and their memory.

    python -m benchmarks.archive [--rows 200000] [--json]

Facts of 25 words with vectors of 384 dimensions, one version each. Each line is a process of its
own that opens the memory, does one thing to a view of the smaller or the larger number of facts,
and tells how long that took and how much its resident memory grew at most beyond what it was when
the memory was open. By hand is `COPY … TO` a file and `COPY … FROM` it in binary form, of the same
columns with a primary key and an index on the namespace: no words are made, nothing is verified or
compressed, and nothing is put aside first. `again` is the same archive once more, all of it known;
`judged` is a dump in which every kind of sensitive data is looked for, to be hidden or refused.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import LiteralString, Self

import psycopg

from benchmarks.machine import machine
from benchmarks.overhead import Bench, Drawn
from benchmarks.server import own_server
from memos_core import Action, MemOS, Sensitive, View

SMALL = 10_000
BATCH = 1_000
JUDGED = {**dict.fromkeys(Sensitive, Action.REDACT), Sensitive.CARD: Action.REFUSE}
COLUMNS: LiteralString = """
    tenant, id, namespace, kind, state, version, text, semantic_type, tags, metadata, provenance,
    message_ids, owner, priority, sensitivity, valid_from, valid_to, created_at, recorded_at,
    expires_at, embedding
"""
OUT: LiteralString = (
    "COPY (SELECT "
    + COLUMNS
    + " FROM memos.cube WHERE tenant = 'bench' AND namespace = %s) TO STDOUT (FORMAT BINARY)"
)
TABLE: LiteralString = (
    "DROP TABLE IF EXISTS by_hand_copy; CREATE TABLE by_hand_copy AS SELECT "
    + COLUMNS
    + """ FROM memos.cube WHERE false;
    ALTER TABLE by_hand_copy ADD PRIMARY KEY (tenant, id);
    CREATE INDEX ON by_hand_copy (tenant, namespace)"""
)
INTO: LiteralString = "COPY by_hand_copy (" + COLUMNS + ") FROM STDIN (FORMAT BINARY)"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the table: cubes per second, and megabytes of memory."""

    what: str
    rows: int
    rate: float
    floor: float | None
    ratio: float | None
    memory: float


def megabytes() -> float:
    """Return this process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


class Peak:
    """The most memory that a block took beyond what there was before."""

    def __enter__(self) -> Self:
        self.before = self.most = megabytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.growth = self.most - self.before

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.most = max(self.most, megabytes())


def work(dsn: str, what: str, rows: int, path: Path) -> dict[str, float]:
    """Do one thing in this process."""
    with MemOS.open(dsn, embedder=Drawn()) as memos:
        bench, loaded = memos.at("bench", f"of {rows}"), memos.at("loaded", f"of {rows}")
        bench.stats()
        with Peak() as peak:
            start = time.perf_counter()
            if what == "dump":
                done = bench.dump(path, overwrite=True).cubes
            elif what == "judged":
                done = bench.dump(path, overwrite=True, sensitive=JUDGED).cubes
            else:
                report = loaded.load(path)
                done = report.cubes + report.skipped
            seconds = time.perf_counter() - start
        assert done == rows  # noqa: S101
        return {"seconds": seconds, "memory": peak.growth}


def in_child(dsn: str, what: str, rows: int, path: Path) -> dict[str, float]:
    said = subprocess.run(  # noqa: S603 this very program
        [sys.executable, "-m", "benchmarks.archive", "--work", dsn, what, str(rows), str(path)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return json.loads(said)


def floors(dsn: str, rows: int, folder: Path) -> dict[str, float]:
    """Time COPY to a file and from it, in seconds."""
    path = folder / "copy"
    with psycopg.connect(dsn, autocommit=True) as connection:
        start = time.perf_counter()
        with (
            path.open("wb") as file,
            connection.cursor().copy(OUT, (["bench", f"of {rows}"],)) as out,
        ):
            for data in out:
                file.write(data)
        middle = time.perf_counter()
        connection.execute(TABLE)
        begin = time.perf_counter()
        with path.open("rb") as file, connection.cursor().copy(INTO) as into:
            while data := file.read(2**18):
                into.write(data)
        end = time.perf_counter()
        connection.execute("DROP TABLE by_hand_copy")
    return {"dump": middle - start, "load": end - begin}


def fill(view: View, drawn: Drawn, texts: Bench, rows: int) -> None:
    for start in range(0, rows, BATCH):
        count = min(BATCH, rows - start)
        drawn.draw(count)
        view.add(Bench.texts(texts, count), tags=["a", "b"], metadata={"year": 2020})


def run(dsn: str, folder: Path, rows: int) -> list[Line]:
    bench = Bench(dsn, 1)
    try:
        for count in (SMALL, rows):
            fill(bench.memos.at("bench", f"of {count}"), bench.drawn, bench, count)
        bench.hand.connection.execute("VACUUM ANALYZE memos.cube")
    finally:
        bench.close()
    lines: list[Line] = []
    for count in (SMALL, rows):
        path = folder / f"{count}.memos"
        least = floors(dsn, count, folder)
        for what in ("judged", "dump", "load", "again"):
            done = in_child(dsn, what, count, path)
            floor = least.get(what)
            lines.append(
                Line(
                    what=what,
                    rows=count,
                    rate=count / done["seconds"],
                    floor=floor and count / floor,
                    ratio=floor and done["seconds"] / floor,
                    memory=done["memory"],
                )
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        dsn, what, rows, path = options.work
        print(json.dumps(work(dsn, what, int(rows), Path(path))))
        return
    with own_server() as (dsn, folder):
        lines = run(dsn, folder, options.rows)
    if options.json:
        print(json.dumps({"machine": machine(), "lines": [asdict(line) for line in lines]}))
        return
    print(machine())
    print(f"{'':8}{'cubes':>9}{'cubes/s':>10}{'COPY/s':>10}{'times':>7}{'MB more':>9}")
    for line in lines:
        floor = f"{line.floor:10,.0f}{line.ratio:7.1f}" if line.floor else " " * 17
        print(f"{line.what:8}{line.rows:9,}{line.rate:10,.0f}{floor}{line.memory:9.0f}")


if __name__ == "__main__":
    main()
