"""What ends a stream and a model, and what is left then."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from memos_core import CubeNotFound, MemCube, View
from memos_core.errors import Closed
from memos_core.model import Budgets, Generation, MemoryModel, encoding
from memos_core.model.generation import Stream, TextPieces
from memos_core.model.memory import tenant_of
from memos_core.model.residency import Residency
from memos_core.tensor_files import TensorFiles, sizes
from tests.model.models import model_of, tokenizer_with
from tests.support import until

ASKED = [{"role": "user", "content": "What must she not eat?"}]
ANSWER = Generation(
    text="tea",
    token_ids=(),
    reads=(),
    prefilled_tokens=0,
    cached_tokens=0,
    ttft_seconds=0.1,
    finish_reason="stop",
)


# ------------------------------------------------------------------ streams


def test_a_stream_that_nobody_has_any_more_stops_its_model() -> None:
    ended = threading.Event()

    def work(pieces: TextPieces, stopped: threading.Event) -> Generation:
        pieces.add("a piece")
        if stopped.wait(60):
            ended.set()
        return ANSWER

    stream = Stream(work)
    assert next(stream) == "a piece"
    del stream
    assert ended.wait(60)


class Tensors:
    """What a function holds."""


def test_an_error_in_a_stream_holds_no_tensors() -> None:
    there: list[weakref.ref[Tensors]] = []

    def deep() -> None:
        tensors = Tensors()
        there.append(weakref.ref(tensors))
        try:
            int("no number")
        except ValueError as error:
            raise ZeroDivisionError from error

    def work(pieces: TextPieces, stopped: threading.Event) -> Generation:
        del pieces, stopped
        deep()
        return ANSWER

    gc.disable()
    try:
        stream = Stream(work)
        with pytest.raises(ZeroDivisionError) as raised:
            next(stream)
        assert "deep" in {entry.name for entry in raised.traceback}
        stream.close()
        assert there[0]() is None
    finally:
        gc.enable()
    with pytest.raises(ZeroDivisionError):
        _ = stream.result


@pytest.mark.parametrize("last", ["StopIteration", "ZeroDivisionError"])
def test_every_thread_that_reads_a_stream_comes_to_its_end(last: str) -> None:
    go = threading.Event()

    def work(pieces: TextPieces, stopped: threading.Event) -> Generation:
        del pieces, stopped
        go.wait(60)
        if last == "ZeroDivisionError":
            raise ZeroDivisionError
        return ANSWER

    stream = Stream(work)

    def read(_: int) -> str:
        try:
            return next(stream)
        except (StopIteration, ZeroDivisionError) as error:
            return type(error).__name__

    with ThreadPoolExecutor(3) as threads:
        ends = threads.map(read, range(3))
        go.set()
        assert sorted(ends) == ["StopIteration", "StopIteration", last]


# ------------------------------------------------------------------ models


@pytest.fixture
def facts(ann: View) -> list[MemCube]:
    return ann.add(["Ann is allergic to peanuts.", "Ann lives in Oslo."])


@pytest.fixture
def make(ann: View, tmp_path: Path) -> Iterator[Callable[[], MemoryModel]]:
    """Makes equal models that share a folder."""
    made: list[MemoryModel] = []

    def new() -> MemoryModel:
        model = MemoryModel(model_of("llama"), tokenizer_with(), ann, folder=tmp_path / "kv")
        made.append(model)
        return model

    yield new
    for model in made:
        model.close()


VERBS: dict[str, Callable[[MemoryModel, Any], object]] = {
    "encode": lambda model, facts: model.encode(facts),
    "generate": lambda model, facts: model.generate(ASKED, memory=facts),
    "generate_batch": lambda model, facts: model.generate_batch([ASKED], memory=facts),
    "stream": lambda model, facts: model.stream(ASKED, memory=facts),
    "prefetch": lambda model, facts: model.prefetch(facts),
    "pin": lambda model, facts: model.pin(facts),
    "unpin": lambda model, facts: model.unpin(facts),
}


def test_a_closed_model_does_nothing_more(make: Any, facts: list[MemCube]) -> None:
    model = make()
    model.encode(facts)
    model.close()
    model.close()
    for verb in VERBS.values():
        with pytest.raises(Closed, match="this MemoryModel is closed: make another"):
            verb(model, facts)
    assert model.stats().memory.caches == 0


def test_closing_a_model_stops_its_streams(
    make: Any, facts: list[MemCube], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ended = make(), threading.Event()
    really = model.model.generate

    def endless(ids: torch.Tensor, **options: Any) -> torch.Tensor:
        if "custom_generate" in options:  # which asks what options come to
            return really(ids, **options)
        while not options["stopping_criteria"](ids, None).all():
            ended.wait(0.01)
        ended.set()
        return ids

    monkeypatch.setattr(model.model, "generate", endless)
    stream = model.stream(ASKED, memory=facts)
    assert not ended.wait(0.1)
    model.close()
    assert ended.is_set()
    assert stream.result.token_ids == ()


@pytest.mark.parametrize("verb", ["pin", "prefetch"])
def test_what_is_brought_near_is_dropped_once_it_is_forgotten(
    make: Any, ann: View, facts: list[MemCube], tmp_path: Path, verb: str
) -> None:
    first = make()
    cache = first.encode(facts)
    first.close()
    model = make()
    VERBS[verb](model, cache)
    until(lambda: model.stats().memory.caches == 1)
    ann.forget(facts[0].id)
    until(lambda: model.stats().memory.caches == 0 and sizes(tmp_path / "kv") == {})


def test_a_memory_that_is_forgotten_while_it_is_encoded_leaves_no_tensors(
    make: Any, ann: View, facts: list[MemCube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = encoding.verify

    def forgotten(*arguments: Any, **options: Any) -> Any:
        ann.forget(facts[0].id)
        return really(*arguments, **options)

    monkeypatch.setattr(encoding, "verify", forgotten)
    model = make()
    with pytest.raises(CubeNotFound):
        model.encode(facts)
    assert sizes(tmp_path / "kv") == {}
    assert model.stats().memory.caches == 0


def test_another_process_that_drops_what_ended_leaves_what_is_just_encoded(
    make: Any, ann: View, facts: list[MemCube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, really = make(), View.keep_cache
    other = Residency(tmp_path / "kv", model.model, Budgets())

    def keep(self: View, *arguments: Any, **options: Any) -> MemCube:
        other.collect(tenant_of(ann), self.live_keys)
        kept = really(self, *arguments, **options)
        other.collect(tenant_of(ann), self.live_keys)
        return kept

    monkeypatch.setattr(View, "keep_cache", keep)
    cache = model.encode(facts)
    other.collect(tenant_of(ann), ann.live_keys)
    record = ann.remembered([cache.id])[0].cache
    assert record is not None
    there = TensorFiles(tmp_path / "kv", tenant_of(ann)).along(record.keys)
    assert sum(count for _, count in there) == len(record.keys)
