"""MemOS beside other memory stores on the same PostgreSQL, with one shared fake embedder.

    python -m venv rivals && rivals/bin/pip install -r benchmarks/rivals.txt
    python -m benchmarks.rivals --python rivals/bin/python [--json]

The rivals need an environment of their own: langchain-postgres wants an older pgvector package.
Ten users have 1000 rows each. Each store is used as its documentation has it: its own batch call
for many rows, one call for one, a search for the best ten of one user's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from benchmarks.rival_side import Table, measured
from benchmarks.server import own_server
from memos_core import MemOS
from memos_core.embedder import Vectors

WIDTH, USERS, ROWS, ROUNDS = 384, 10, 1000, 50
NUMBERS = ("add 1 ms", "add rows/s", "search ms", "recall@10")


class Shared:
    """The shared table as an embedder of MemOS."""

    name = "shared"

    def __init__(self, table: Table) -> None:
        self._table = table

    def embed(self, texts: Sequence[str]) -> Vectors:
        return np.array(self._table.embed_documents(texts), np.float32)


class Ours:
    """MemOS as the rivals' measurement takes a store."""

    def __init__(self, memos: MemOS, mode: Any) -> None:
        self._memos = memos
        self._mode = mode

    def add(self, user: str, texts: Sequence[str]) -> None:
        self._memos.at("bench", user).add(list(texts))

    def search(self, user: str, question: str) -> list[str]:
        hits = self._memos.at("bench", user).search(question, k=10, mode=self._mode)
        return [hit.text for hit in hits]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="of the environment with the rivals")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with own_server() as (dsn, folder):
        vectors = folder / "vectors.npy"
        drawn = np.random.default_rng(0).normal(size=(USERS * ROWS + 200, WIDTH))
        np.save(vectors, drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
        task = {
            "dsn": dsn,
            "vectors": str(vectors),
            "users": USERS,
            "rows": ROWS,
            "rounds": ROUNDS,
        }
        table = Table(str(vectors))
        with MemOS.open(dsn, embedder=Shared(table)) as memos:
            lines = [{"name": "MemOS (dense)", **measured(Ours(memos, "dense"), table, task)}]
        lines += _theirs(options.python, task)
    if options.json:
        print(json.dumps({"machine": machine(), "lines": lines}, indent=2))
        return
    print(f"{machine()}; {USERS} users of {ROWS} rows, medians of {ROUNDS}")
    print(f"{'':34}" + "".join(f"{name:>12}" for name in NUMBERS))
    for line in lines:
        numbers = line.get("error") or "".join(f"{line[name]:12.2f}" for name in NUMBERS)
        print(f"{line['name']:34}{numbers}")


def _theirs(python: str, task: dict[str, Any]) -> list[dict[str, Any]]:
    side = Path(__file__).with_name("rival_side.py")
    done = subprocess.run(  # noqa: S603 the environment that was asked for
        [python, str(side)], input=json.dumps(task), capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


if __name__ == "__main__":
    main()
