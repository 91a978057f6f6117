"""Where KV caches lie, and what goes first; "meta" stands for a device with memory of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from memos_core.errors import Closed, InvalidInput
from memos_core.model import residency as module
from memos_core.model.kv_cache import KVCache
from memos_core.model.prefix import Prefix
from memos_core.model.quantization import Quantization
from memos_core.model.residency import Budgets, Residency
from memos_core.tensor_files import TensorFiles, sizes

HERE, DEVICE = torch.device("cpu"), torch.device("meta")
TOKEN = 2 * 2 * 2 * 4 * 4  # bytes: keys and values, 2 layers, 2 heads, 4 numbers of 4 bytes


@dataclass
class Place:
    """Stands for a model: where it lies, and as what."""

    device: torch.device = HERE
    dtype: torch.dtype = torch.float32


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
        made.append(Residency(tmp_path, Place(on), Budgets(**budgets)))
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
    assert residency.collect("acme", lambda: frozenset(other.keys)) == 1
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
    assert residency.collect("acme", lambda: frozenset(short.keys)) == 1
    assert residency.longest(long).runs == 2
    assert residency.collect("acme", frozenset) == 1
    assert residency.stats().memory.caches == residency.stats().memory.bytes == 0
    assert residency.longest(long).runs == 0


def test_a_file_is_found_once_it_is_known_to_live(new: Any, tmp_path: Path) -> None:
    residency, other, bundle = new(), new(), prefix("h", "a")
    live: set[str] = set()
    with residency.storing(bundle, cache(bundle)):
        other.collect("acme", lambda: live)
        assert other.longest(bundle).runs == 0
        live.update(bundle.keys)
    other.collect("acme", lambda: live)
    assert other.longest(bundle).runs == 2
    assert residency.collect("acme", frozenset) == 0
    assert sizes(tmp_path) == {}


def test_what_is_known_not_to_live_after_all_leaves_no_file(new: Any, tmp_path: Path) -> None:
    bundle = prefix("h", "a")
    with pytest.raises(ZeroDivisionError), new().storing(bundle, cache(bundle)):
        raise ZeroDivisionError
    assert sizes(tmp_path) == {}


def test_what_comes_while_it_is_asked_what_lives_is_not_dropped(new: Any, tmp_path: Path) -> None:
    residency, bundle = new(), prefix("h", "a")

    def live() -> frozenset[str]:
        residency.put(bundle, cache(bundle))
        residency.store(bundle, cache(bundle))
        return frozenset()  # what lived before

    assert residency.collect("acme", live) == 0
    assert residency.stats().memory.caches == len(sizes(tmp_path)) == 1


def test_it_tells_of_whom_there_is_something(new: Any) -> None:
    mine, holding, empty = prefix("a"), new(disk=0), new()
    holding.put(mine, cache(mine))
    assert holding.has_any("acme")
    assert not empty.has_any("acme")
    new(memory=0).store(mine, cache(mine))
    assert empty.has_any("acme")
    assert not empty.has_any("globex")
    empty.collect("acme", frozenset)
    assert not empty.has_any("acme")


def storage_of(held: KVCache) -> int:
    """Return how many bytes stay in memory with a cache."""
    return sum(tensor.untyped_storage().nbytes() for layer in held.layers for tensor in layer)


def test_what_is_a_part_of_another_is_held_by_itself(new: Any) -> None:
    small, large = prefix("h", "a"), prefix("h", "a", "b", "c")
    residency = new()
    residency.put(large, cache(large))
    residency.put(small, residency.longest(small).cache)
    residency.store(large, cache(large))
    residency.collect("acme", lambda: frozenset(small.keys))
    assert residency.stats().memory.bytes == 10 * TOKEN
    assert storage_of(residency.longest(small).cache) == 10 * TOKEN
    assert same(residency.longest(small).cache, cache(small))
    # And as a part of a file.
    new().store(large, cache(large))
    mapping = new()
    assert mapping.longest(small).runs == 2
    assert mapping.stats().memory.bytes == 10 * TOKEN
    assert storage_of(mapping.longest(small).cache) == 10 * TOKEN
    assert same(mapping.longest(small).cache, cache(small))


def test_without_a_budget_for_it_nothing_is_on_disk(new: Any, tmp_path: Path) -> None:
    residency, bundle = new(disk=0), prefix("h", "a")
    with residency.storing(bundle, cache(bundle)):
        residency.put(bundle, cache(bundle))
    assert residency.store(bundle, cache(bundle)) == 0
    assert list(tmp_path.iterdir()) == []
    assert residency.longest(bundle).runs == 2


def test_a_model_that_was_converted_or_moved_reads_what_is_as_it_is_now(
    tmp_path: Path, new: Any
) -> None:
    bundle, packed, place = prefix("h", "a"), prefix("k"), Place()
    new().store(bundle, cache(bundle))
    new().store(packed, cache(packed), Quantization.INT8)
    residency: Any = Residency(tmp_path, place, Budgets(memory=0))
    place.dtype = torch.bfloat16
    assert residency.longest(bundle).runs == 0  # asked for by a key of another dtype
    assert residency.longest(packed).cache.dtype == torch.bfloat16
    place.dtype = torch.float32
    assert same(residency.longest(bundle).cache, cache(bundle))
    place.device = DEVICE
    assert residency.longest(bundle).cache.device == DEVICE
    residency.close()


def test_the_folder_is_looked_at_where_a_budget_may_be_spent(
    new: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    really = module.shrink

    def counted(folder: Path, most: int, **options: Any) -> int:
        looks.append(really(folder, most, **options))
        return looks[-1]

    monkeypatch.setattr(module, "shrink", counted)
    residency, other = new(disk=200_000), new(disk=10**9)
    for number in range(4):
        bundle = prefix(f"{number}")
        residency.store(bundle, cache(bundle))
    assert len(looks) == 1
    # What another writes is seen in time.
    for number in range(400):
        bundle = prefix(f"b{number}")
        other.store(bundle, cache(bundle))
    looks.clear()
    for number in range(20):
        bundle = prefix(f"c{number}")
        residency.store(bundle, cache(bundle))
    assert looks
    assert residency.stats().disk.bytes <= 200_000 * (1 + 1 / 16)


def test_whoever_hears_that_it_was_fetched_may_close_it(new: Any) -> None:
    residency, bundle = new(), prefix("h", "a")
    residency.put(bundle, cache(bundle))
    closed = threading.Event()

    def close(_: object) -> None:
        residency.close()
        closed.set()

    residency.prefetch(bundle).add_done_callback(close)
    assert closed.wait(60)
    assert residency.stats().memory.caches == 0


def test_bundles_of_one_beginning_can_be_stored_at_once(new: Any) -> None:
    for number in range(20):
        head = f"{number}".rjust(4, "h")
        bundles = [prefix(head, name) for name in "abcd"]
        together = threading.Barrier(len(bundles))

        def store(bundle: Prefix, together: threading.Barrier = together) -> int:
            residency = new()
            together.wait()
            return residency.store(bundle, cache(bundle))

        with ThreadPoolExecutor(len(bundles)) as threads:
            assert all(threads.map(store, bundles))
        residency = new()
        assert [residency.longest(bundle).runs for bundle in bundles] == [2] * len(bundles)


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 255
    path.write_bytes(data)


def test_a_file_that_was_altered_since_it_was_checked_is_checked_again(
    new: Any, tmp_path: Path
) -> None:
    residency, bundle = new(memory=0), prefix("h", "a")
    residency.store(bundle, cache(bundle))
    assert same(residency.longest(bundle).cache, cache(bundle))
    (path,) = sizes(tmp_path)
    altered(path)
    assert residency.longest(bundle).runs == 0
    assert sizes(tmp_path) == {}


def test_what_is_held_of_a_file_that_was_altered_since_is_let_go(new: Any, tmp_path: Path) -> None:
    bundle = prefix("h", "a")
    new().store(bundle, cache(bundle))
    residency = new()
    assert same(residency.longest(bundle).cache, cache(bundle))
    (path,) = sizes(tmp_path)
    altered(path)
    assert residency.longest(bundle).runs == 0
    assert residency.stats().memory.caches == 0
    assert sizes(tmp_path) == {}


def test_what_is_held_of_a_file_that_was_removed_or_used_since_stays(
    new: Any, tmp_path: Path
) -> None:
    bundle = prefix("h", "a")
    new().store(bundle, cache(bundle))
    residency = new()
    residency.longest(bundle)
    assert new().longest(bundle).runs == 2  # as another process uses it
    (path,) = sizes(tmp_path)
    assert residency.longest(bundle).runs == 2
    path.unlink()
    assert same(residency.longest(bundle).cache, cache(bundle))
    assert residency.stats().disk.hits == 1


def test_a_file_is_checked_once(new: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = prefix("h", "a")
    new().store(bundle, cache(bundle))
    residency = new(memory=0)
    residency.longest(bundle)
    monkeypatch.setattr("memos_core.model.storage._checksum", lambda _: 1 / 0)
    assert residency.longest(bundle).runs == 2
    (path,) = sizes(tmp_path)
    altered(path)
    with pytest.raises(ZeroDivisionError):
        residency.longest(bundle)


def test_a_file_that_cannot_be_mapped_now_stays(
    new: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("unable to mmap: Cannot allocate memory")

    bundle = prefix("h", "a")
    new().store(bundle, cache(bundle))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "from_file", refuse)
        assert new().longest(bundle).runs == 0
    assert len(sizes(tmp_path)) == 1
    assert new().longest(bundle).runs == 2


def test_only_what_is_asked_for_is_brought_to_a_device(new: Any) -> None:
    large, small = prefix("h", *"abcdefgh"), prefix("k", "x")
    residency = new(DEVICE, device=5 * 5 * TOKEN)
    residency.put(large, cache(large))  # too large for the device
    residency.put(small, cache(small))
    assert residency.longest(prefix("h", "a", "z")).cache.tokens == 10
    stats = residency.stats()
    assert (stats.device.caches, stats.device.bytes) == (2, 20 * TOKEN)
    residency.longest(prefix("h", "a", "y"))
    assert residency.stats().device.hits == stats.device.hits + 1
    assert residency.longest(small).cache.device == DEVICE
    assert residency.stats().memory.bytes == (45 + 10) * TOKEN


def test_nobody_waits_while_it_is_brought(new: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, other = prefix("h", "a"), prefix("k")
    new().store(bundle, cache(bundle))
    residency = new(DEVICE)
    residency.put(other, cache(other))
    really, found = KVCache.to, list[int]()

    def slow(self: KVCache, device: torch.device) -> KVCache:
        with ThreadPoolExecutor(1) as thread:
            found.append(thread.submit(residency.longest, other).result(60).runs)
        return really(self, device)

    monkeypatch.setattr(KVCache, "to", slow)
    assert residency.longest(bundle).runs == 2
    assert found == [1]


def test_what_is_pinned_no_more_goes_where_it_is_over_budget(new: Any, tmp_path: Path) -> None:
    bundle, other = prefix("h", "a"), prefix("k")
    residency = new(memory=1, disk=1)
    residency.store(bundle, cache(bundle))
    residency.pin(bundle)
    residency.store(other, cache(other))
    assert (residency.stats().memory.caches, len(sizes(tmp_path))) == (1, 2)
    residency.unpin(bundle)
    assert (residency.stats().memory.caches, len(sizes(tmp_path))) == (0, 0)


def test_nothing_is_held_once_it_is_closed(new: Any) -> None:
    residency, bundle = new(), prefix("h", "a")
    residency.store(bundle, cache(bundle))
    residency.close()
    residency.put(bundle, cache(bundle))
    assert residency.longest(bundle).runs == 2  # whoever was at it goes on
    assert residency.stats().memory.caches == 0
    for verb in (residency.prefetch, residency.pin):
        with pytest.raises(Closed, match="make another"):
            verb(bundle)


@pytest.mark.parametrize("wrong", [-1, 1.5, "1GB", True, None])
def test_budgets_are_bytes(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="disk"):
        Budgets(disk=wrong)
