"""Cost of governing: of asking who may read, of looking back, and of what a forget takes with it.

    python -m benchmarks.governance [--json] [--rounds 100]

100,000 cubes lie in a hundred namespaces of a tenant. A governed search is one by a caller who owns
a third of a namespace, may read a third because nobody owns it, and a third because it was granted
to him; beside it, in turns, the same search by the application, which asks nobody. `as_of` asks
what was known before the last of ten versions of each cube, beside what is known now. The forget of
a cube of which a thousand were made is beside that of a cube of which none was. Times are medians
in milliseconds of one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from benchmarks.machine import machine
from benchmarks.overhead import QUESTION, WIDTH, Drawn, Line, measure, timed
from benchmarks.server import own_server
from memos_core import Caller, MemOS, Right, Settings, View

NAMESPACES = 100
ROWS = 1_000  # of each
VERSIONS = 10
DERIVED = 1_000
FORGETS = 7


class Bench:
    """A filled memory, and what is measured on it."""

    def __init__(self, memos: MemOS, drawn: Drawn, rounds: int) -> None:
        self._memos = memos
        self._drawn = drawn
        self._rounds = rounds
        self._words = [f"w{number}" for number in range(3_000)]

    def fill(self) -> None:
        """Fill the namespaces: a third is Ann's, a third is Bob's with a tag, a third nobody's."""
        owners = (Caller(user="ann"), Caller(user="bob"), None)
        for number in range(NAMESPACES):
            for part, owner in enumerate(owners):
                view = self._memos.at("bench", f"n{number}", caller=owner)
                count = ROWS // 3 + (part < ROWS % 3)
                tags = ["shared"] if owner and owner.user == "bob" else []
                self._add(view, count, tags=tags)
        self._memos.at("bench").grant(user="ann", tag="shared")

    def governed(self, mode: Any) -> Line:
        """Search one namespace as Ann, who may read all of it, and as the application."""
        plain = self._memos.at("bench", "n50")
        ann = self._memos.at("bench", "n50", caller=Caller(user="ann"))
        return self._compare(f"governed search, {mode}", ann, plain, mode)

    def by_places(self, mode: Any) -> Line:
        """Search it as Carl, who was granted the whole namespace."""
        plain = self._memos.at("bench", "n51")
        carl = self._memos.at("bench", "n51", caller=Caller(user="carl"))
        plain.grant(user="carl", rights=[Right.READ])
        return self._compare(f"governed search of a granted namespace, {mode}", carl, plain, mode)

    def as_of(self, mode: Any) -> Line:
        """Search a namespace whose cubes have ten versions, as it was and as it is."""
        view = self._memos.at("bench", f"v{mode}")
        cubes = self._add(view, ROWS)
        for _ in range(VERSIONS - 2):
            self._change(view, cubes)
        then = datetime.now(UTC)
        self._change(view, cubes)
        view.search(QUESTION, as_of=then)
        return measure(
            f"search as of the ninth of {VERSIONS} versions, {mode}",
            lambda: view.search(QUESTION, mode=mode, as_of=then),
            lambda: view.search(QUESTION, mode=mode),
            self._rounds,
        )

    def forget(self) -> Line:
        """Forget a cube of which a thousand were made, and one of which none was."""
        view = self._memos.at("bench", "forget")
        many: list[float] = []
        single: list[float] = []
        for _ in range(FORGETS):
            parent, alone = self._add(view, 2)
            for _ in range(DERIVED):
                view.derive(self._text(20), [parent])
            single.append(timed(lambda alone=alone: view.forget(alone)))
            many.append(timed(lambda parent=parent: view.forget(parent)))
        p50, floor = statistics.median(many), statistics.median(single)
        what = f"forget a cube with {DERIVED} derived"
        return Line(what=what, p50=p50, p95=max(many), floor=floor, ratio=p50 / floor)

    def _compare(self, what: str, ours: View, theirs: View, mode: Any) -> Line:
        return measure(
            what,
            lambda: ours.search(QUESTION, mode=mode),
            lambda: theirs.search(QUESTION, mode=mode),
            self._rounds,
        )

    def _add(self, view: View, count: int, **header: Any) -> list[UUID]:
        self._drawn.draw(count)
        cubes = view.add([self._text(20) for _ in range(count)], **header)
        return [cube.id for cube in cubes]

    def _change(self, view: View, cubes: list[UUID]) -> None:
        for cube in cubes:
            self._drawn.draw(1)
            view.update(cube, self._text(20))

    def _text(self, count: int) -> str:
        return " ".join(self._drawn.random.choice(self._words, count))


def run(dsn: str, *, rounds: int) -> dict[str, Any]:
    """Fill a memory and measure it."""
    drawn = Drawn()
    settings = Settings(read_events=True, statement_timeout=300)
    with MemOS.open(dsn, embedder=drawn, settings=settings) as memos:
        bench = Bench(memos, drawn, rounds)
        bench.fill()
        lines = [
            *(bench.governed(mode) for mode in ("dense", "hybrid")),
            *(bench.by_places(mode) for mode in ("dense", "hybrid")),
            *(bench.as_of(mode) for mode in ("dense", "hybrid")),
            bench.forget(),
        ]
    return {
        "machine": machine(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cubes": NAMESPACES * ROWS,
        "width": WIDTH,
        "lines": [asdict(line) for line in lines],
    }


def main() -> None:
    """Measure on a server that is made for it, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    with own_server() as (dsn, _):
        result = run(dsn, rounds=options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['date']}, {result['machine']}, {result['cubes']:,} cubes\n")
    print("| | p50 ms | beside it | ratio |\n|---|---|---|---|")
    for line in result["lines"]:
        print(f"| {line['what']} | {line['p50']:.2f} | {line['floor']:.2f} | {line['ratio']:.2f} |")


if __name__ == "__main__":
    main()
