"""KV caches that several keep at one moment."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from memos_core import MemOS, View
from tests.test_caching import FACTS, record


def test_the_same_cache_is_kept_once_by_all_who_keep_it_at_once(ann: View) -> None:
    facts = ann.add(FACTS)
    together = threading.Barrier(4)

    def keep(_: int) -> object:
        together.wait()
        return ann.keep_cache(record(facts)).id

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(keep, range(4)))) == 1
    assert len(ann.caches()) == 1


def test_in_a_pipeline_it_is_kept_once_as_well(memos: MemOS) -> None:
    with memos.pipeline() as pipeline:
        view = pipeline.at("acme", "ann")
        facts = view.add(FACTS)
        kept = [view.keep_cache(record(facts)).id for _ in range(2)]
    assert [one.cube.id for one in memos.at("acme", "ann").caches()] == kept[:1]
    assert kept[0] == kept[1]
