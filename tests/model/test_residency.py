"""Where KV caches lie, and what goes first; "meta" stands for a device with memory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from memos_core.errors import InvalidInput
from memos_core.model.kv_cache import KVCache
from memos_core.model.prefix import Prefix
from memos_core.model.residency import Budgets, Residency
from memos_core.tensor_files import TensorFiles, sizes

HERE, DEVICE = torch.device("cpu"), torch.device("meta")
TOKEN = 2 * 2 * 2 * 4 * 4  # bytes: keys and values, 2 layers, 2 heads, 4 numbers of 4 bytes


def prefix(*names: str, tenant: str = "acme") -> Prefix:
    """Return a prefix with a run of five tokens for each name."""
    return Prefix.of(tenant, "model", [[*name.encode(), 0, 0, 0, 0][:5] for name in names])


def cache(of: Prefix) -> KVCache:
    """Return tensors that stand for the tokens of a prefix."""
    ids = torch.tensor(of.ids, dtype=torch.float32)
    layer = ids[None, None, :, None].expand(1, 2, -1, 4).contiguous()
    return KVCache(tuple((layer + number, -layer - number) for number in range(2)))


def same(one: KVCache, other: KVCache) -> bool:
    return all(
        torch.equal(ours, theirs)
        for mine, yours in zip(one.layers, other.layers, strict=True)
        for ours, theirs in zip(mine, yours, strict=True)
    )


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Any]:
    made: list[Residency] = []

    def residency(on: torch.device = HERE, **budgets: int) -> Residency:
        made.append(Residency(tmp_path, device=on, dtype=torch.float32, budgets=Budgets(**budgets)))
        return made[-1]

    yield residency
    for one in made:
        one.close()


def test_the_longest_known_beginning_is_found(new: Any) -> None:
    residency = new()
    whole = prefix("h", "a", "b")
    residency.put(whole, cache(whole))
    for asked, runs in (
        (prefix("h", "a", "b", "c"), 3),
        (prefix("h", "a", "c"), 2),
        (prefix("h"), 1),
        (prefix("x", "a"), 0),
        (prefix("h", tenant="globex"), 0),
    ):
        found = residency.longest(asked)
        assert found.runs == runs
        assert (found.cache is None) == (runs == 0)
        if found.cache is not None:
            assert same(found.cache, cache(asked.first(runs)))


def test_parts_in_files_are_joined_in_order(new: Any, tmp_path: Path) -> None:
    residency = new()
    for bundle in (prefix("h", "a"), prefix("h", "a", "b"), prefix("h", "c")):
        assert residency.store(bundle, cache(bundle)) > 0
        assert residency.store(bundle, cache(bundle)) == 0
    assert len(sizes(tmp_path)) == 3
    for bundle in (prefix("h", "a", "b"), prefix("h", "c"), prefix("h")):
        found = new().longest(bundle)
        assert found.runs == len(bundle.keys)
        assert same(found.cache, cache(bundle))
    # From what is in memory, only the rest is read.
    held = new()
    held.longest(prefix("h", "a"))
    assert same(held.longest(prefix("h", "a", "b")).cache, cache(prefix("h", "a", "b")))


def test_a_device_has_copies_and_memory_keeps_what_it_lets_go(new: Any) -> None:
    one, two = prefix("h", "a"), prefix("h", "b")
    size = 10 * TOKEN
    residency = new(DEVICE, device=size)
    residency.put(one, cache(one))
    residency.put(two, cache(two))
    stats = residency.stats()
    assert (stats.device.caches, stats.device.bytes) == (1, size)
    assert (stats.memory.caches, stats.memory.bytes) == (2, 2 * size)
    assert residency.longest(two).cache.device == DEVICE
    assert residency.stats().device.hits == 1
    assert residency.longest(one).cache.device == DEVICE  # brought again, in the place of two
    assert residency.stats().memory.hits == 1
    assert residency.longest(one).runs == 2
    assert residency.stats().device.hits == 2


def test_what_is_read_from_disk_lies_in_memory_and_on_the_device(new: Any) -> None:
    whole = prefix("h", "a")
    new().store(whole, cache(whole))
    residency = new(DEVICE)
    assert residency.longest(whole).cache.device == DEVICE
    stats = residency.stats()
    assert (stats.device.caches, stats.memory.caches, stats.disk.hits) == (1, 1, 1)


def test_what_was_used_longest_ago_goes_first(new: Any) -> None:
    bundles = [prefix("h", name) for name in "abcd"]
    residency = new(memory=3 * 10 * TOKEN)
    for bundle in bundles[:3]:
        residency.put(bundle, cache(bundle))
    residency.longest(bundles[0])
    residency.put(bundles[3], cache(bundles[3]))
    assert [residency.longest(bundle).runs for bundle in bundles] == [2, 1, 2, 2]


def test_what_is_pinned_stays_on_every_level(new: Any, tmp_path: Path) -> None:
    bundles = [prefix(name, "x") for name in "abcd"]
    residency = new(memory=2 * 10 * TOKEN, disk=1)
    residency.store(bundles[0], cache(bundles[0]))
    residency.pin(bundles[0])
    for bundle in bundles[1:]:
        residency.put(bundle, cache(bundle))
        residency.store(bundle, cache(bundle))
    kept = TensorFiles(tmp_path, "acme")
    assert [bool(kept.find(bundle.keys[0])) for bundle in bundles] == [True, False, False, True]
    assert [residency.longest(bundle).runs for bundle in bundles] == [2, 0, 0, 2]
    residency.unpin(bundles[0])
    residency.store(bundles[1], cache(bundles[1]))
    assert kept.find(bundles[0].keys[0]) is None
    with pytest.raises(InvalidInput, match="encode it first"):
        residency.pin(prefix("never"))


def test_what_died_goes_with_all_that_follows_it(new: Any, tmp_path: Path) -> None:
    residency = new()
    long, other = prefix("h", "a", "b"), prefix("h", "c")
    theirs = prefix("h", "a", tenant="globex")
    for bundle in (long, other, theirs):
        residency.put(bundle, cache(bundle))
        residency.store(bundle, cache(bundle))
    assert residency.collect("acme", frozenset(other.keys)) == 1
    assert residency.longest(long.first(2)).runs == 1  # the head, in the other
    assert residency.longest(other).runs == 2
    assert residency.longest(theirs).runs == 2
    # What the head lay in is gone, so nothing is found from the beginning any more.
    assert TensorFiles(tmp_path, "acme").along(other.keys) == []


def test_one_that_lies_in_another_is_found_and_goes_by_itself(new: Any) -> None:
    short, long = prefix("h", "a"), prefix("h", "a", "b")
    residency = new()
    for bundle in (short, long):
        residency.put(bundle, cache(bundle))
    assert residency.collect("acme", frozenset(short.keys)) == 1
    assert residency.longest(long).runs == 2
    assert residency.collect("acme", frozenset()) == 1
    assert residency.stats().memory.caches == residency.stats().memory.bytes == 0
    assert residency.longest(long).runs == 0


def test_what_another_still_needs_lives(new: Any) -> None:
    residency, one, other = new(), prefix("h", "a"), prefix("h", "b")
    residency.put(one, cache(one))
    with residency.making(other):
        residency.collect("acme", frozenset(one.keys))
    assert residency.longest(one).runs == 2


def test_what_is_being_made_is_not_collected(new: Any) -> None:
    residency, bundle = new(), prefix("h", "a")
    with residency.making(bundle):
        residency.put(bundle, cache(bundle))
        residency.store(bundle, cache(bundle))
        residency.collect("acme", frozenset())
        assert residency.longest(bundle).runs == 2
    residency.collect("acme", frozenset())
    assert residency.longest(bundle).runs == 0


def test_budgets_are_not_negative() -> None:
    with pytest.raises(InvalidInput, match="disk"):
        Budgets(disk=-1)
