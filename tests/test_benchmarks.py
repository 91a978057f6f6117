"""Benchmarks that read or compute something do so as they say; the others are run by hand."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from benchmarks import kv, langchain, llamaindex
from benchmarks.retrieval import Scores, conversations, measure
from tests.support import WordEmbedder, let_others_enter

TALK = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ann",
        "speaker_b": "Bob",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ann", "dia_id": "D1:1", "text": "I have moved to Oslo."},
            {"speaker": "Bob", "dia_id": "D1:2", "text": "Look!", "blip_caption": "a grey cat"},
        ],
        "session_2_date_time": "9:00 am on 9 May, 2023",
        "session_2": [{"speaker": "Ann", "dia_id": "D2:1", "text": "It rains all day."}],
    },
    "qa": [
        {"question": "Where has Ann moved?", "evidence": ["D1:1"], "category": 4},
        {"question": "Which pet is grey?", "evidence": ["D1:02; D:2:1"], "category": 1},
        {"question": "Who knows?", "evidence": ["D", "D7:1"], "category": 5},
    ],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    let_others_enter(tmp_path)
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([TALK]), "utf-8")
    return file


def test_reads_conversations_and_repairs_evidence(path: Path) -> None:
    (talk,) = conversations(path)
    assert [turn["id"] for turn in talk.turns] == ["D1:1", "D1:2", "D2:1"]
    assert talk.turns[1]["content"] == "Look! [shares a grey cat]"
    assert talk.turns[2]["created_at"].isoformat() == "2023-05-09T09:00:00+00:00"
    assert [evidence for _, _, evidence in talk.questions] == [{"D1:1"}, {"D1:2", "D2:1"}]


def test_scores_are_those_of_the_definitions() -> None:
    scores = Scores()
    scores.add(["a", "b", "c"], {"b", "x"})
    means = scores.means()
    assert (means["R@1"], means["R@5"], means["MRR"]) == (0, 50, 50)
    assert means["nDCG@10"] == pytest.approx(100 * 0.63093 / (1 + 0.63093), abs=0.1)


def test_measures_every_system_on_every_group(path: Path) -> None:
    result = measure(path, WordEmbedder())
    assert set(result) == {"BM25", "dense", "RRF", "MemOS"}
    assert result["MemOS"]["all"]["questions"] == 2
    assert result["MemOS"]["single hop"]["R@1"] == 100
    assert result["BM25"]["multi hop"]["R@5"] == 100


def test_kv_caches_are_measured(database: str, tmp_path: Path) -> None:
    result = kv.run(database, tmp_path, shape="small", prefixes=[128], rounds=1)
    (line,) = result["prefixes"]
    assert line["memories"] > 0
    assert line["times"]["memory"] > 0
    assert line["verified"]["max_difference"] <= 3 * line["verified"]["floor"]
    assert [row["storage"] for row in result["quantised"]] == ["none", "int8", "int4"]
    assert "| memory / floor |" in kv.table(result)


@contextmanager
def databases(server: str, *names: str) -> Iterator[None]:
    """Take away what a benchmark leaves on a server."""
    with psycopg.connect(server, autocommit=True) as admin:
        try:
            yield
        finally:
            for name in names:
                admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[arg-type]


def test_langchains_stores_are_measured_side_by_side(server: str) -> None:
    with databases(server, "ours", "theirs", "turns"):
        result = langchain.run(server, sizes=[1_000], rounds=2)
    assert len(result["lines"]) == 9
    assert all(
        line["p50"] > 0 and line["floor"] > 0 for line in [*result["lines"], *result["turns"]]
    )


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of connections that Memory leaves open
def test_llamaindex_memories_are_measured_side_by_side(server: str) -> None:
    with databases(server, "ours", "stock", "kept_0", "kept_1", "kept_2"):
        result = llamaindex.run(server, sizes=[1_000], rounds=2)
        gc.collect()
    assert len(result["lines"]) == 6
    assert all(line["p50"] > 0 and line["floor"] > 0 for line in result["lines"])
    assert [one["ours"] for one in result["kept"]] == [one["put"] for one in result["kept"]]
