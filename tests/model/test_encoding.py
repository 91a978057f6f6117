"""What is encoded is of one model, of what memories say now, and of what is there for good."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memos_core import Kind, MemCube, MemOS, View
from memos_core.errors import (
    CacheMismatch,
    CubeNotFound,
    InvalidInput,
    VersionConflict,
)
from memos_core.model import Budgets, MemoryModel, encoding
from memos_core.model.kv_cache import KVCache
from memos_core.model.reading import PromptReader
from tests.model.models import FACTS

Make = Callable[..., MemoryModel]
ASKED = [{"role": "user", "content": "What must she not eat?"}]


def after_verifying(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Have something happen while a cache is encoded, once it was found to be right."""
    really = encoding.verify

    def verify(*given: Any, **options: Any) -> Any:
        checked = really(*given, **options)
        then()
        return checked

    monkeypatch.setattr(encoding, "verify", verify)


def nothing_is_kept(model: MemoryModel, ann: View) -> bool:
    stats = model.stats()
    return (ann.caches(), stats.memory.caches, stats.disk.caches) == ([], 0, 0)


def change(model: MemoryModel) -> None:
    with torch.no_grad():
        next(model.model.parameters()).add_(1e-2)


def test_a_model_that_changed_while_it_encoded_keeps_nothing(
    make: Make, ann: View, facts: list[MemCube], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    with monkeypatch.context() as patch:
        after_verifying(patch, lambda: change(model))
        with pytest.raises(CacheMismatch, match=r"changed while.*checksum of the weights"):
            model.encode(facts)
    assert nothing_is_kept(model, ann)
    model.encode(facts)
    assert model.generate(ASKED, memory=facts, max_new_tokens=1).cached_tokens > 0


def test_a_model_that_changed_while_a_lost_cache_was_made_anew_reads_text(
    make: Make, facts: list[MemCube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make(folder=tmp_path / "elsewhere").encode(facts)
    model, changed = make(), threading.Event()
    really = PromptReader.made

    def made(self: Any, *given: Any) -> Any:
        one = really(self, *given)
        if not changed.is_set():
            changed.set()
            change(model)
        return one

    monkeypatch.setattr(PromptReader, "made", made)
    answer = model.generate(ASKED, memory=cache, max_new_tokens=1)
    assert answer.cached_tokens == 0
    assert {read.kind for read in answer.reads} == {Kind.PLAINTEXT}
    assert model.stats().memory.caches == 0


def test_a_memory_that_changed_while_it_was_encoded_is_encoded_again(
    make: Make, ann: View, facts: list[MemCube], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    with monkeypatch.context() as patch:
        after_verifying(patch, lambda: ann.update(facts[0].id, "Ann likes peanuts."))
        with pytest.raises(VersionConflict, match=f"changed while.*{facts[0].id}"):
            model.encode(facts)
    assert nothing_is_kept(model, ann)
    kept = model.encode([fact.id for fact in facts], order="given")
    (one,) = ann.remembered([kept.id])
    assert one.members[0].text == "Ann likes peanuts."
    assert model.generate(ASKED, memory=kept, max_new_tokens=1).prefilled_tokens < 30


def test_what_says_the_same_in_another_version_is_encoded(
    make: Make, ann: View, facts: list[MemCube], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    after_verifying(monkeypatch, lambda: ann.update(facts[0].id, tags=["health"]))
    kept = model.encode(facts)
    assert [one.cube.id for one in ann.caches()] == [kept.id]


def test_what_was_forgotten_while_it_was_encoded_is_not_there(
    make: Make, ann: View, facts: list[MemCube], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    after_verifying(monkeypatch, lambda: ann.forget(facts[0].id))
    with pytest.raises(CubeNotFound):
        model.encode(facts)
    assert nothing_is_kept(model, ann)


def test_in_a_pipeline_nothing_is_encoded(make: Make, memos: MemOS, ann: View) -> None:
    with memos.pipeline() as pipeline:
        view = pipeline.at("acme", "ann")
        model = make(memos=view)
        with pytest.raises(InvalidInput, match="encode after it"):
            model.encode(view.add(FACTS))
    assert nothing_is_kept(model, ann)


def test_a_view_lets_go_of_what_it_stood_for_when_it_was_pinned(
    make: Make, ann: View, facts: list[MemCube]
) -> None:
    model = make(budgets=Budgets(memory=0, disk=1))
    model.encode(facts[:1])
    model.pin(ann)
    model.encode(facts, order="given")
    model.pin(ann)
    assert model.stats().memory.caches == 2
    model.unpin(ann)
    assert (model.stats().memory.caches, model.stats().disk.caches) == (0, 0)


def test_what_was_pinned_is_let_go_by_another_name_for_it(make: Make, facts: list[MemCube]) -> None:
    model = make(budgets=Budgets(memory=0))
    cache = model.encode(facts, order="given")
    model.pin(cache)
    model.unpin(facts)
    assert model.stats().memory.caches == 0


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"quantization": "int8", "max_kl": 1.0},
        {"quantization": "int4", "max_kl": 10.0},
        {"approximate": 0.5, "max_kl": 10.0},
        {"quantization": "int4", "approximate": 0.5, "max_kl": 10.0},
    ],
    ids=str,
)
def test_what_is_served_from_disk_is_what_was_verified(
    make: Make, facts: list[MemCube], form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, really, verified = make(), encoding.verify, list[KVCache]()

    def verify(model: Any, ids: Any, cache: KVCache, *others: Any, **options: Any) -> Any:
        verified.append(cache)
        return really(model, ids, cache, *others, **options)

    monkeypatch.setattr(encoding, "verify", verify)
    for count in range(1, len(facts) + 1):
        cache = model.encode(facts[:count], order="given", **form)
        fetched = make().prefetch(cache)
        assert fetched is not None
        served = fetched.result().cache
        assert served is not None
        for layer, other in zip(served.layers, verified[-1].layers, strict=True):
            assert all(torch.equal(one, two) for one, two in zip(layer, other, strict=True))


@pytest.mark.parametrize(
    "form", [{"quantization": "int8", "max_kl": 1.0}, {"approximate": 0.5, "max_kl": 10.0}]
)
def test_memories_that_continue_a_cache_of_the_same_form_go_first(
    make: Make, ann: View, facts: list[MemCube], form: dict[str, Any]
) -> None:
    model = make()
    model.encode([facts[2]], **form)
    model.encode(facts, **form)
    (_, record) = (one.cache for one in ann.caches())
    assert record is not None
    assert record.members == (facts[2].id, facts[0].id, facts[1].id)
