"""Tensors of what ended are dropped, whatever becomes of those who listen."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from memos_core import MemOS, View
from memos_core.model import watch as module
from memos_core.model.memory import tenant_of
from memos_core.model.residency import Budgets, Residency
from memos_core.model.watch import Watch
from memos_core.tensor_files import sizes
from tests.model.test_residency import Place, cache, prefix
from tests.support import WordEmbedder, until
from tests.test_caching import record


@pytest.fixture
def residency(tmp_path: Path) -> Iterator[Residency]:
    made = Residency(tmp_path, Place(), Budgets())
    yield made
    made.close()


@pytest.fixture
def watch(residency: Residency) -> Iterator[Watch]:
    made = Watch(residency)
    yield made
    made.close()


LISTENING = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
Kept = Callable[..., Callable[[], None]]


@pytest.fixture
def kept(residency: Residency) -> Kept:
    """Keeps a cache of a memory's; returns how the memory is forgotten."""

    def keep(view: View, name: str = "a") -> Callable[[], None]:
        bundle = prefix(name, "x", tenant=tenant_of(view))
        fact = view.add(f"A fact about {name}.")
        view.keep_cache(record([fact], *bundle.keys))
        residency.store(bundle, cache(bundle))
        residency.put(bundle, cache(bundle))
        return lambda: view.forget(fact.id) and None

    return keep


def gone(residency: Residency) -> bool:
    stats = residency.stats()
    return (stats.memory.caches, stats.disk.caches) == (0, 0)


def listeners() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "memos-watch"]


def test_it_goes_on_with_another_memos_of_the_tenant(
    database: str, watch: Watch, residency: Residency, kept: Kept
) -> None:
    for name in ("a", "b"):
        with MemOS.open(database, embedder=WordEmbedder()) as memos:
            ann = memos.at("acme", "ann")
            watch.hear(ann)
            forget = kept(ann, name)
            if name == "b":
                forget()
                until(lambda: residency.stats().memory.caches == 1)
    until(lambda: not listeners())


def test_nobody_listens_once_memos_is_closed(database: str, watch: Watch) -> None:
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        watch.hear(memos.at("acme", "ann"))
        with psycopg.connect(database, autocommit=True) as admin:
            until(lambda: admin.execute(f"SELECT count(*) {LISTENING}").fetchone() == (1,))
    until(lambda: not listeners())


def test_every_database_is_heard(
    new_database: Callable[[str], str],
    template: str,
    watch: Watch,
    residency: Residency,
    kept: Kept,
) -> None:
    with (
        MemOS.open(new_database(template), embedder=WordEmbedder()) as one,
        MemOS.open(new_database(template), embedder=WordEmbedder()) as other,
    ):
        views = [one.at("acme", "ann"), other.at("globex", "bob")]
        for view in views:
            watch.hear(view)
        forgets = [kept(view) for view in views]
        for forget in forgets:
            forget()
        until(lambda: gone(residency))


def test_a_pipeline_is_not_what_is_listened_to(
    memos: MemOS, ann: View, watch: Watch, residency: Residency, kept: Kept
) -> None:
    with memos.pipeline() as pipeline:
        watch.hear(pipeline.at("acme", "ann"))
    watch.hear(ann)
    kept(ann)()
    until(lambda: gone(residency))


def test_what_is_no_file_in_the_folder_ends_nothing(
    ann: View, watch: Watch, residency: Residency, kept: Kept, tmp_path: Path
) -> None:
    forget = kept(ann)
    (path,) = sizes(tmp_path)
    path.with_name("00000000.safetensors").mkdir()
    header = (10**6).to_bytes(8, "little") + b"[" * 10**6
    path.with_name("11111111.safetensors").write_bytes(header)
    watch.hear(ann)
    forget()
    until(lambda: not path.exists() and residency.stats().memory.caches == 0)
    kept(ann, "b")()
    until(lambda: residency.stats().memory.caches == 0)


class Failing(View):
    """A view whose caches cannot be asked for, at first."""

    failures = 1

    def live_keys(self) -> frozenset[str]:
        if self.failures:
            self.failures -= 1
            raise RecursionError
        return super().live_keys()


def test_where_one_tenants_caches_cannot_be_looked_at_the_others_are(
    memos: MemOS,
    watch: Watch,
    residency: Residency,
    kept: Kept,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.5)
    theirs, ann = memos.at("globex", "ann"), memos.at("acme", "ann")
    failing = Failing(theirs.engine, theirs.namespace)
    for forget in [kept(theirs), kept(ann)]:
        forget()
    watch.hear(failing)
    watch.hear(ann)
    until(lambda: gone(residency))
    assert failing.failures == 0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
def test_it_listens_again_where_that_failed(
    ann: View, watch: Watch, residency: Residency, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, failures = View.cache_news, [OSError(), RecursionError()]

    def news(self: View) -> Any:
        if failures:
            raise failures.pop()
        return really(self)

    monkeypatch.setattr(View, "cache_news", news)
    watch.hear(ann)
    kept(ann)()
    until(lambda: gone(residency))
    assert failures == []


@pytest.mark.usefixtures("quick")
def test_it_listens_again_where_the_connection_was_lost(
    ann: View, database: str, watch: Watch, residency: Residency, kept: Kept
) -> None:
    watch.hear(ann)
    forget = kept(ann)
    with psycopg.connect(database, autocommit=True) as admin:
        until(lambda: admin.execute(f"SELECT count(*) {LISTENING}").fetchone() == (1,))
        admin.execute(f"SELECT pg_terminate_backend(pid) {LISTENING}")
    forget()
    until(lambda: gone(residency))


class Counting(View):
    """A view that counts how often it was asked what lives."""

    asked = 0

    def live_keys(self) -> frozenset[str]:
        self.asked += 1
        return super().live_keys()


def test_only_the_tenant_is_looked_at_of_whom_something_ended(
    memos: MemOS, watch: Watch, residency: Residency, kept: Kept
) -> None:
    views = [
        Counting(memos.at(f"tenant-{number}").engine, memos.at(f"tenant-{number}").namespace)
        for number in range(4)
    ]
    for view in views:
        watch.hear(view)
        watch.hear(view)
    until(lambda: all(view.asked == 1 for view in views))
    kept(views[1])()
    until(lambda: views[1].asked == 2)
    until(lambda: gone(residency))
    assert [view.asked for view in views] == [1, 2, 1, 1]


def test_what_came_while_it_ended_is_looked_at_later(
    ann: View, watch: Watch, residency: Residency, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    view = Counting(ann.engine, ann.namespace)
    watch.hear(view)
    until(lambda: view.asked == 1)
    late = prefix("a", tenant=tenant_of(ann))
    residency.store(late, cache(late))
    residency.put(late, cache(late))
    until(lambda: gone(residency))


def test_what_expired_is_looked_at_later_where_it_lies_on_disk_alone(
    ann: View, database: str, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    fact, bundle = ann.add("A fact."), prefix("a", "x", tenant=tenant_of(ann))
    ann.keep_cache(record([fact], *bundle.keys))
    other = Residency(tmp_path, Place(), Budgets())
    other.store(bundle, cache(bundle))
    view = Counting(ann.engine, ann.namespace)
    watch.hear(view)
    until(lambda: view.asked > 1)
    assert len(sizes(tmp_path)) == 1
    with psycopg.connect(database, autocommit=True) as admin:  # which tells nobody
        admin.execute("UPDATE memos.cube SET expires_at = now() WHERE id = %s", [fact.id])
    until(lambda: sizes(tmp_path) == {})
    other.close()


def test_it_ends_with_what_it_watches_over(ann: View, tmp_path: Path) -> None:
    made = Residency(tmp_path, Place(), Budgets())
    there, watching = weakref.ref(made), Watch(made)
    watching.hear(ann)
    del made, watching
    gc.collect()
    until(lambda: there() is None and not listeners())


def test_a_database_that_does_not_answer_keeps_nobody_from_closing(
    ann: View, residency: Residency, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()

    class Silent(View):
        def live_keys(self) -> frozenset[str]:
            asked.set()
            answer.wait(60)
            return frozenset()

    monkeypatch.setattr(module, "_CLOSE_SECONDS", 0.01)
    watching = Watch(residency)
    watching.hear(Silent(ann.engine, ann.namespace))
    assert asked.wait(60)
    watching.close()
    assert listeners()
    watching.hear(ann)  # says nothing any more
    answer.set()
    until(lambda: not listeners())
