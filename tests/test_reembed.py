"""Replacing every vector by another model's: resumable, safe beside readers and writers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from memos_core import EmbedderMismatch, MemOS, View, engine
from memos_core.embedder import Model, Vectors
from memos_core.engine import Engine
from memos_core.store.statements import embeddings
from tests.support import WordEmbedder, everything_in, is_blocked, until

OLD = WordEmbedder()
NEW = WordEmbedder("new", width=32)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "REEMBED_BATCH", 4)


@pytest.fixture
def filled(database: str) -> str:
    """Ten cubes of two tenants, one of them in three versions."""
    with MemOS.open(database, embedder=OLD) as memos:
        for tenant in ("acme", "other"):
            memos.at(tenant).add([f"tea {tenant} {number}" for number in range(5)])
        cube = memos.at("acme").search("tea acme 3")[0].cube
        memos.at("acme").update(cube.id, "cake")
        memos.at("acme").update(cube.id, "bread")
    return database


class Breaking(WordEmbedder):
    """Breaks after some calls."""

    def __init__(self, calls: int) -> None:
        super().__init__("new", width=32)
        self.calls = calls

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return super().embed(texts)


def test_replaces_every_vector(filled: str) -> None:
    reports: list[tuple[int, int]] = []
    done = MemOS.reembed(filled, embedder=NEW, report=lambda *report: reports.append(report))
    assert done == 12
    assert reports == [(4, 12), (8, 12), (12, 12)]
    with pytest.raises(EmbedderMismatch):
        MemOS.open(filled, embedder=OLD)
    with MemOS.open(filled, embedder=NEW) as memos:
        view = memos.at("acme")
        (hit,) = view.search("bread", k=1)
        assert hit.text == "bread"
        assert hit.dense_rank == 1
        before = view.history(hit.cube.id)[1].updated_at
        assert view.search("cake", k=1, as_of=before)[0].reasons["dense"] == pytest.approx(0.4)
        assert (memos.stats().embedder, memos.stats().width) == ("new", 32)


def test_an_interrupted_run_goes_on_where_it_stopped(filled: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        MemOS.reembed(filled, embedder=Breaking(calls=3))
    with MemOS.open(filled, embedder=OLD) as memos:
        assert memos.at("acme").search("bread")[0].text == "bread", "the old vectors serve"
    reports: list[tuple[int, int]] = []
    MemOS.reembed(filled, embedder=NEW, report=lambda *report: reports.append(report))
    assert reports == [(12, 12)], "eight of twelve were there already"


def test_a_run_for_one_model_is_nothing_to_another(filled: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        MemOS.reembed(filled, embedder=Breaking(calls=3))
    MemOS.reembed(filled, embedder=WordEmbedder("third", width=16))
    with MemOS.open(filled, embedder=WordEmbedder("third", width=16)) as memos:
        assert memos.at("acme").search("bread")[0].text == "bread"


def test_what_is_written_meanwhile_is_embedded_too(filled: str) -> None:
    with MemOS.open(filled, embedder=OLD) as memos:
        view = memos.at("acme")
        first = view.search("tea")[0].cube

        def write(done: int, _everything: int) -> None:
            if done == 4:
                view.add("jam")
                view.update(first.id, "honey")

        assert MemOS.reembed(filled, embedder=NEW, report=write) == 14
        for verb in (lambda: view.add("late"), lambda: view.search("tea")):
            with pytest.raises(EmbedderMismatch, match="memos reembed"):
                verb()
    with MemOS.open(filled, embedder=NEW) as memos:
        assert {memos.at("acme").search(word)[0].text for word in ("jam", "honey")} == {
            "jam",
            "honey",
        }


def test_writers_that_never_rest_do_not_hold_it_up(filled: str) -> None:
    stop = threading.Event()

    def write(view: View) -> int:
        cube, refused = view.add("0"), 0
        while not stop.is_set():
            try:
                cube = view.update(cube.id, "again")
                view.forget(view.add("short").id)
            except EmbedderMismatch:
                return refused
        raise AssertionError("the swap never came")

    with MemOS.open(filled, embedder=OLD) as memos, ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, memos.at("acme")) for _ in range(3)]
        try:
            MemOS.reembed(filled, embedder=NEW)
            assert [writer.result(timeout=60) for writer in writers] == [0, 0, 0]
        finally:
            stop.set()
    with MemOS.open(filled, embedder=NEW) as memos:
        assert memos.at("acme").search("bread")[0].text == "bread"


def test_a_writer_that_waited_for_the_swap_is_refused(filled: str) -> None:
    """A vector of the old model must not slip in behind it."""
    engine_of_new = Engine.open(filled, NEW, None)
    model = Model(name="new", width=32)
    with (
        MemOS.open(filled, embedder=OLD) as memos,
        psycopg.connect(filled) as swapping,
        ThreadPoolExecutor() as pool,
    ):
        view = memos.at("acme")
        for number in range(8):  # so that the statement is prepared: its snapshot is another's
            view.add(f"jam {number}")
        while texts := engine_of_new.run(
            embeddings.missing(model, after=None, until=None, limit=100)
        ):
            vectors = NEW.embed([text.text for text in texts])
            engine_of_new.run(embeddings.keep(model, texts, vectors))
        steps: list[Any] = [embeddings.lock(), embeddings.swap(model)]
        for step in steps:
            swapping.execute(step.sql, step.parameters)
        waiting = pool.submit(view.add, "late")
        until(lambda: is_blocked(filled))
        swapping.commit()
        with pytest.raises(EmbedderMismatch):
            waiting.result()
    engine_of_new.close()


def test_an_empty_database_takes_the_new_model(database: str) -> None:
    with MemOS.open(database, embedder=OLD) as memos:
        memos.forget(memos.add("tea").id)
    assert MemOS.reembed(database, embedder=NEW) == 0
    with MemOS.open(database, embedder=NEW) as memos:
        memos.add("tea")


def test_what_is_forgotten_meanwhile_leaves_no_vector(filled: str) -> None:
    with MemOS.open(filled, embedder=OLD) as memos:
        doomed = memos.at("acme").search("tea")[0].cube
        texts = memos.engine.run(
            embeddings.missing(Model(name="new", width=32), after=None, until=None, limit=100)
        )
        vectors = NEW.embed([text.text for text in texts])
        memos.at("acme").forget(doomed.id)
        memos.engine.run(embeddings.keep(Model(name="new", width=32), texts, vectors))
        other = memos.at("acme").search("tea")[0].cube
        memos.at("acme").forget(other.id)
    with psycopg.connect(filled) as connection:
        rows = connection.execute("SELECT id FROM memos.reembedding").fetchall()
    assert len(rows) == 10
    assert not {(doomed.id,), (other.id,)} & set(rows)
    assert str(other.id) in everything_in(filled), "only its events are left"


def test_a_vector_waits_for_a_forgetting_under_way(filled: str) -> None:
    model = Model(name="new", width=32)
    with (
        MemOS.open(filled, embedder=OLD) as memos,
        psycopg.connect(filled) as forgetting,
        ThreadPoolExecutor() as pool,
    ):
        texts = memos.engine.run(embeddings.missing(model, after=None, until=None, limit=100))
        vectors = NEW.embed([text.text for text in texts])
        doomed = texts[0].id
        forgetting.execute("DELETE FROM memos.cube_version WHERE id = %s", (doomed,))
        forgetting.execute("DELETE FROM memos.cube WHERE id = %s", (doomed,))
        keeping = pool.submit(memos.engine.run, embeddings.keep(model, texts, vectors))
        until(lambda: keeping.done() or is_blocked(filled))
        forgetting.commit()
        keeping.result()
    with psycopg.connect(filled) as connection:
        kept = connection.execute("SELECT DISTINCT id FROM memos.reembedding").fetchall()
    assert {id for (id,) in kept} == {text.id for text in texts} - {doomed}
