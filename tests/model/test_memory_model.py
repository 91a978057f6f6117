"""A model reads memories: the same answers from text and from KV caches, and only what stands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from memos_core import (
    Caller,
    ContextTooLong,
    CubeNotFound,
    InvalidInput,
    Kind,
    MemCube,
    MemOS,
    View,
)
from memos_core.errors import CacheMismatch, CacheNotWritten, CacheRefused, ModelUnsupported
from memos_core.model import Budgets, Generation, Layout, MemoryModel
from memos_core.model import memory_model as module
from memos_core.model.kv_cache import KVCache
from memos_core.model.memory import tenant_of
from memos_core.tensor_files import TensorFiles
from tests.model.models import ARCHITECTURES, FACTS, STATEFUL, model_of, tokenizer_with
from tests.support import until

ASKED = [{"role": "user", "content": "What must she not eat?"}]
LONGER = [{"role": "user", "content": "Where is the black cat named Misha, and who repaired it?"}]
NEW = 12
Make = Callable[..., MemoryModel]


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "kv").glob("*/*/*.safetensors"))


def said(answer: Generation) -> tuple[str, tuple[int, ...]]:
    return answer.text, answer.token_ids


# ------------------------------------------------------------------ the same answer


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_are_those_of_a_full_prefill(make: Make, facts: list[MemCube], name: str) -> None:
    model = make(name)
    plain = make(name, kinds=[Kind.PLAINTEXT])
    ways: list[dict[str, Any]] = [{}, {"num_beams": 3}]
    expected = [plain.generate(ASKED, memory=facts, max_new_tokens=NEW, **way) for way in ways]
    cache = model.encode(facts, order="given")
    for way, right in zip(ways, expected, strict=True):
        answer = model.generate(ASKED, memory=cache, max_new_tokens=NEW, **way)
        assert said(answer) == said(right)
        assert answer.cached_tokens > answer.prefilled_tokens
        assert right.cached_tokens == 0
        assert answer.cached_tokens + answer.prefilled_tokens == right.prefilled_tokens
        assert {read.kind for read in answer.reads} == {Kind.ACTIVATION}
        assert {read.kind for read in right.reads} == {Kind.PLAINTEXT}
        assert [read.cube for read in answer.reads] == [fact.id for fact in facts]
    both = [ASKED, LONGER]
    rows = model.generate_batch(both, memory=cache, max_new_tokens=NEW)
    alone = [plain.generate(one, memory=facts, max_new_tokens=NEW) for one in both]
    assert list(map(said, rows)) == list(map(said, alone))


def test_sampling_draws_the_same_from_text_and_cache(make: Make, facts: list[MemCube]) -> None:
    model = make()
    drawn: list[Generation] = []
    cache = model.encode(facts, order="given")
    for kinds in ([Kind.PLAINTEXT], [Kind.PLAINTEXT, Kind.ACTIVATION]):
        torch.manual_seed(5)
        asked = make(kinds=kinds)
        drawn.append(
            asked.generate(ASKED, memory=cache, max_new_tokens=NEW, do_sample=True, temperature=0.9)
        )
    assert said(drawn[0]) == said(drawn[1])
    assert drawn[1].cached_tokens > 0


def test_the_hundredth_answer_is_the_first(make: Make, facts: list[MemCube]) -> None:
    model = make()
    cache = model.encode(facts)
    answers = {said(model.generate(ASKED, memory=cache, max_new_tokens=4)) for _ in range(100)}
    assert len(answers) == 1


def test_answers_at_once_are_those_one_by_one(make: Make, facts: list[MemCube]) -> None:
    model = make()
    cache = model.encode(facts)
    questions = [[{"role": "user", "content": f"{word}?"}] for word in FACTS[1].split()] * 2

    def answer(messages: list[dict[str, str]]) -> Any:
        return said(model.generate(messages, memory=cache, max_new_tokens=6))

    one_by_one = [answer(question) for question in questions]
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(answer, questions)) == one_by_one


def test_a_conversation_goes_on_after_its_memory(make: Make, facts: list[MemCube]) -> None:
    model, plain = make(), make(kinds=["plaintext"])
    cache = model.encode(facts, system="Answer briefly.", order="given")
    turns = [{"role": "system", "content": "Answer briefly."}, *ASKED]
    turns += [{"role": "assistant", "content": "Peanuts."}, *LONGER]
    answer = model.generate(turns, memory=cache, max_new_tokens=NEW)
    assert said(answer) == said(plain.generate(turns, memory=facts, max_new_tokens=NEW))
    assert answer.cached_tokens > 0


# ------------------------------------------------------------------ streaming, stops, options


def test_a_stream_says_what_generate_says(make: Make, facts: list[MemCube]) -> None:
    model = make()
    cache = model.encode(facts)
    whole = model.generate(ASKED, memory=cache, max_new_tokens=NEW)
    stream = model.stream(ASKED, memory=cache, max_new_tokens=NEW)
    assert "".join(stream) == whole.text
    assert said(stream.result) == said(whole)
    assert stream.result.cached_tokens == whole.cached_tokens


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_stop_string_ends_text_and_stream_before_it(
    make: Make, facts: list[MemCube], length: int
) -> None:
    model = make()
    whole = model.generate(ASKED, memory=facts, max_new_tokens=NEW).text
    stop = whole[3 : 3 + length]
    answer = model.generate(ASKED, memory=facts, max_new_tokens=NEW, stop=stop)
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"
    pieces = model.stream(ASKED, memory=facts, max_new_tokens=NEW, stop=["never", stop])
    assert "".join(pieces) == answer.text


def test_a_closed_stream_stops_the_model(make: Make, facts: list[MemCube]) -> None:
    model = make()
    whole = model.generate(ASKED, memory=facts, max_new_tokens=300)
    with model.stream(ASKED, memory=facts, max_new_tokens=300) as stream:
        next(stream)
    assert len(stream.result.token_ids) < len(whole.token_ids)


def test_an_error_in_a_stream_is_raised_where_it_is_read(make: Make, facts: list[MemCube]) -> None:
    model = make()
    model.model.register_forward_pre_hook(lambda *_: 1 / 0)
    stream = model.stream(ASKED, memory=facts, max_new_tokens=4)
    with pytest.raises(ZeroDivisionError):
        list(stream)
    with pytest.raises(ZeroDivisionError):
        _ = stream.result


def test_the_first_token_is_timed(make: Make, facts: list[MemCube]) -> None:
    model = make()
    answer = model.generate(ASKED, memory=facts, max_new_tokens=NEW)
    assert answer.ttft_seconds > 0
    assert answer.finish_reason == "length"


BAD_OPTIONS: dict[str, dict[str, Any]] = {
    "past_key_values": {"past_key_values": None},
    "streamer": {"streamer": None},
    "max_new_tokens": {"max_new_tokens": 0},
    "stop": {"stop": [""]},
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_that_would_break_it_are_refused(make: Make, name: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        make().generate(ASKED, **BAD_OPTIONS[name])


def test_beams_cannot_be_streamed(make: Make) -> None:
    with pytest.raises(InvalidInput, match="use generate"):
        make().stream(ASKED, num_beams=2)


def test_it_answers_without_any_memory(make: Make) -> None:
    answer = make(memos=None).generate(ASKED, max_new_tokens=3)
    assert len(answer.token_ids) == 3
    assert answer.reads == ()
    with pytest.raises(InvalidInput, match="has no memory"):
        make(memos=None).generate(ASKED, memory=["x"])


def test_a_saved_model_is_loaded_and_finds_its_caches(
    make: Make, ann: View, facts: list[MemCube], tmp_path: Path
) -> None:
    model = make()
    cache = model.encode(facts)
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    expected = model.generate(ASKED, memory=cache, max_new_tokens=NEW)
    with MemoryModel.from_pretrained(tmp_path / "model", ann, folder=tmp_path / "kv") as loaded:
        answer = loaded.generate(ASKED, memory=cache, max_new_tokens=NEW)
        assert loaded.fingerprint == model.fingerprint
    assert said(answer) == said(expected)
    assert answer.cached_tokens == expected.cached_tokens


# ------------------------------------------------------------------ a view as memory


def test_a_view_is_its_cache_and_what_a_search_finds(
    make: Make, ann: View, facts: list[MemCube]
) -> None:
    model = make()
    model.encode(facts[:1])
    cache = model.encode(facts[:2], name="core")
    answer = model.generate(LONGER, memory=ann, recall=1, max_new_tokens=3)
    kinds = {read.cube: read.kind for read in answer.reads}
    assert kinds == {
        facts[0].id: Kind.ACTIVATION,
        facts[1].id: Kind.ACTIVATION,
        facts[2].id: Kind.PLAINTEXT,
    }
    assert answer.cached_tokens > 0
    ann.update(facts[1].id, "Ann lives in Bergen.")
    answer = model.generate(LONGER, memory=ann, recall=3, max_new_tokens=3)
    assert [read.cube for read in answer.reads][:1] == [facts[0].id]
    assert cache.id not in {one.cube.id for one in ann.caches()}


def test_a_view_without_caches_is_searched(make: Make, ann: View, facts: list[MemCube]) -> None:
    answer = make().generate(ASKED, memory=ann, recall=2, max_new_tokens=3)
    assert len(answer.reads) == 2
    assert {read.kind for read in answer.reads} == {Kind.PLAINTEXT}
    assert {read.cube for read in answer.reads} <= {fact.id for fact in facts}


def test_reading_is_in_the_log(make: Make, ann: View, facts: list[MemCube]) -> None:
    model = make()
    cache = model.encode(facts)
    model.generate(ASKED, memory=cache, max_new_tokens=2)
    (event, *_) = ann.events(kind="read")
    assert set(event.cube_ids) == {cache.id, *(fact.id for fact in facts)}


# ------------------------------------------------------------------ composition and storage


def test_a_shared_beginning_is_computed_and_stored_once(
    make: Make, facts: list[MemCube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    tea, oslo, bike = facts
    model.encode([tea, oslo], order="given")
    computed: list[int] = []
    original = module.PromptReader.made.__globals__["prefill"]

    def counted(of: Any, ids: Any, past: Any = None) -> KVCache:
        computed.append(len(ids))
        return original(of, ids, past)

    monkeypatch.setitem(module.PromptReader.made.__globals__, "prefill", counted)
    model.encode([tea, bike], order="given")
    assert computed == [len(model.layout.memory(bike.text))]
    assert len(files(tmp_path)) == 2
    model.encode([bike, tea, oslo])  # in the order that continues what is there
    assert [one.cache.members for one in model.memos.caches() if one.cache][-1] == (
        tea.id,
        oslo.id,
        bike.id,
    )
    fresh = make()
    plain = make(kinds=["plaintext"])
    for bundle in ([tea, bike], [tea, oslo], [tea, oslo, bike]):
        answer = fresh.generate(ASKED, memory=bundle, max_new_tokens=NEW)
        assert said(answer) == said(plain.generate(ASKED, memory=bundle, max_new_tokens=NEW))
        assert {read.kind for read in answer.reads} == {Kind.ACTIVATION}
    assert (fresh.stats().disk.hits, fresh.stats().misses) == (3, 0)


def test_a_part_of_a_prompt_is_taken_from_the_cache(make: Make, facts: list[MemCube]) -> None:
    model = make()
    tea, oslo, bike = facts
    model.encode([tea, oslo], order="given")
    answer = model.generate(ASKED, memory=[tea, bike], max_new_tokens=NEW)
    assert [read.kind for read in answer.reads] == [Kind.ACTIVATION, Kind.PLAINTEXT]
    plain = make(kinds=["plaintext"])
    assert said(answer) == said(plain.generate(ASKED, memory=[tea, bike], max_new_tokens=NEW))


def test_encoding_again_returns_the_same_cube(make: Make, facts: list[MemCube]) -> None:
    model = make()
    assert model.encode(facts).id == model.encode(facts).id


@pytest.mark.parametrize("how", ["int8", "int4"])
def test_quantised_storage_is_opt_in_and_says_how_far_it_is(
    make: Make, ann: View, facts: list[MemCube], tmp_path: Path, how: str
) -> None:
    model = make()
    with pytest.raises(InvalidInput, match="max_kl"):
        model.encode(facts, quantization=how)
    exact = model.encode(facts, order="given")
    (whole,) = files(tmp_path)
    small = model.encode(facts, order="given", quantization=how, max_kl=10)
    assert small.id != exact.id
    packed = next(path for path in files(tmp_path) if path != whole)
    assert packed.stat().st_size < whole.stat().st_size / 2
    report = next(one.cache.report for one in ann.caches() if one.cube.id == small.id and one.cache)
    assert report["quantization"] == how
    assert isinstance(report["kl"], float)
    assert report["kl"] > 0
    with pytest.raises(CacheRefused, match="nats"):
        model.encode(facts, order="given", quantization=how, max_kl=1e-12)
    (event,) = ann.events(kind="promotion_failed")
    assert event.details["report"]["allowed_kl"] == 1e-12
    # What is exact is served exactly, whatever else is stored of it.
    plain = make(kinds=["plaintext"]).generate(ASKED, memory=facts, max_new_tokens=NEW)
    assert said(make().generate(ASKED, memory=facts, max_new_tokens=NEW)) == said(plain)
    assert make().generate(ASKED, memory=small, max_new_tokens=NEW).cached_tokens > 0


def test_approximate_composition_is_opt_in_and_named(
    make: Make, ann: View, facts: list[MemCube], tmp_path: Path
) -> None:
    model = make()
    for fact in facts:
        model.encode([fact])
    with pytest.raises(InvalidInput, match="max_kl"):
        model.encode(facts, approximate=0.15)
    with pytest.raises(CacheRefused):
        model.encode(facts, approximate=0.0, max_kl=1e-9)
    cache = model.encode(facts, approximate=0.15, max_kl=10, order="given")
    answer = model.generate(ASKED, memory=cache, max_new_tokens=NEW)
    assert all(read.approximate for read in answer.reads)
    assert answer.cached_tokens > 0
    exact = model.generate(ASKED, memory=facts, max_new_tokens=NEW)
    assert not any(read.approximate for read in exact.reads)
    assert model.generate(ASKED, memory=ann, recall=0, max_new_tokens=2).reads[0].cube != cache.id
    report = next(one.cache.report for one in ann.caches() if one.cube.id == cache.id and one.cache)
    assert report["recompute"] == 0.15
    again = make(folder=tmp_path / "elsewhere")
    assert said(again.generate(ASKED, memory=cache, max_new_tokens=NEW)) == said(answer)


# ------------------------------------------------------------------ never what is not right


def test_a_cache_that_is_wrong_is_not_kept(
    make: Make, ann: View, facts: list[MemCube], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = make()
    original = module.PromptReader.made

    def wrong(self: Any, *given: Any) -> KVCache:
        cache = original(self, *given)
        return KVCache(tuple((keys, values.roll(1, dims=-2)) for keys, values in cache.layers))

    monkeypatch.setattr(module.PromptReader, "made", wrong)
    with pytest.raises(CacheRefused, match="logits differ"):
        model.encode(facts)
    assert ann.caches() == []
    assert files(tmp_path) == []
    assert ann.events(kind="promotion_failed")[0].details["report"]["passed"] is False


MISMATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "weights": ({"shape": {"seed": 1}}, "checksum of the weights"),
    "architecture": ({"name": "qwen2"}, "architecture"),
    "template": ({"template": "defaulted"}, "chat template"),
    "rope": (
        {"shape": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}},
        "rope_parameters",
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_cache_of_another_model_is_refused_by_name(
    make: Make, facts: list[MemCube], name: str
) -> None:
    cache = make().encode(facts)
    options, why = MISMATCHES[name]
    other = make(**options)
    with pytest.raises(CacheMismatch, match=why):
        other.generate(ASKED, memory=cache)
    plain = make(kinds=["plaintext"], **options)
    expected = plain.generate(ASKED, memory=facts, max_new_tokens=NEW)
    assert said(other.generate(ASKED, memory=facts, max_new_tokens=NEW)) == said(expected)
    assert other.generate(ASKED, memory=facts, max_new_tokens=2).cached_tokens == 0


def test_a_change_of_dtype_or_weights_is_seen(make: Make, facts: list[MemCube]) -> None:
    model = make()
    cache = model.encode(facts)
    with torch.no_grad():
        next(model.model.parameters()).mul_(1.5)
    with pytest.raises(CacheMismatch, match="checksum of the weights"):
        model.generate(ASKED, memory=cache)
    with pytest.raises(CacheMismatch, match="dtype"):
        make(model=model_of("llama").to(torch.bfloat16)).generate(ASKED, memory=cache)


def test_a_model_that_reads_text_alone_reads_the_memories_of_any_cache(
    make: Make, facts: list[MemCube]
) -> None:
    cache = make().encode(facts, order="given")
    other = make("qwen2", kinds=["plaintext"])
    answer = other.generate(ASKED, memory=cache, max_new_tokens=NEW)
    assert said(answer) == said(other.generate(ASKED, memory=facts, max_new_tokens=NEW))


def test_caches_of_several_forms_are_read_one_after_the_other(
    make: Make, facts: list[MemCube]
) -> None:
    model, plain = make(), make(kinds=["plaintext"])
    exact = model.encode(facts[:1])
    small = model.encode(facts[1:2], quantization="int8", max_kl=10)
    answer = model.generate(ASKED, memory=[exact, small, facts[2]], max_new_tokens=NEW)
    assert [read.cube for read in answer.reads] == [fact.id for fact in facts]
    kinds = [read.kind for read in answer.reads]
    assert kinds == [Kind.ACTIVATION, Kind.PLAINTEXT, Kind.PLAINTEXT]
    assert said(answer) == said(plain.generate(ASKED, memory=facts, max_new_tokens=NEW))


def test_an_adapter_that_is_switched_on_is_seen(make: Make, facts: list[MemCube]) -> None:
    base = model_of("llama")
    base.add_adapter(LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model, plain = make(model=base.eval()), make(model=base.eval(), kinds=["plaintext"])
    tuned = model.encode(facts)
    answer = model.generate(ASKED, memory=tuned, max_new_tokens=NEW)
    assert answer.cached_tokens > 0
    base.disable_adapters()
    with pytest.raises(CacheMismatch, match="adapter"):
        model.generate(ASKED, memory=tuned)
    untuned = plain.generate(ASKED, memory=facts, max_new_tokens=NEW)
    assert said(untuned) != said(answer)
    assert said(model.generate(ASKED, memory=facts, max_new_tokens=NEW)) == said(untuned)


def test_a_cache_serves_its_own_system_text_alone(make: Make, facts: list[MemCube]) -> None:
    model = make()
    cache = model.encode(facts, system="Answer briefly.")
    with pytest.raises(CacheMismatch, match="another system text"):
        model.generate(ASKED, memory=cache)
    turns = [{"role": "system", "content": "Answer briefly."}, *ASKED]
    assert model.generate(turns, memory=cache, max_new_tokens=2).cached_tokens > 0


@pytest.mark.parametrize("damage", ["cut short", "altered", "emptied", "gone"])
def test_a_damaged_file_is_computed_anew(
    make: Make, facts: list[MemCube], tmp_path: Path, damage: str
) -> None:
    cache = make().encode(facts, order="given")
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "cut short":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "altered":
        data[-5] ^= 255
        path.write_bytes(data)
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    model, plain = make(), make(kinds=["plaintext"])
    answer = model.generate(ASKED, memory=cache, max_new_tokens=NEW)
    assert said(answer) == said(plain.generate(ASKED, memory=facts, max_new_tokens=NEW))
    assert answer.cached_tokens == 0
    assert model.generate(ASKED, memory=cache, max_new_tokens=2).cached_tokens > 0
    assert make().generate(ASKED, memory=cache, max_new_tokens=2).cached_tokens > 0


def test_a_file_that_is_altered_while_it_is_mapped_is_computed_anew(
    make: Make, facts: list[MemCube], tmp_path: Path
) -> None:
    cache = make().encode(facts, order="given")
    model, plain = make(), make(kinds=["plaintext"])
    assert model.generate(ASKED, memory=cache, max_new_tokens=NEW).cached_tokens > 0
    (path,) = files(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-2000] + bytes(255 - byte for byte in data[-2000:]))
    answer = model.generate(ASKED, memory=cache, max_new_tokens=NEW)
    assert said(answer) == said(plain.generate(ASKED, memory=facts, max_new_tokens=NEW))
    assert answer.cached_tokens == 0


def test_a_full_disk_leaves_nothing(
    make: Make, ann: View, facts: list[MemCube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    model = make()
    monkeypatch.setattr("memos_core.model.storage.save_file", full)
    with pytest.raises(CacheNotWritten, match="No space left"):
        model.encode(facts)
    assert ann.caches() == []
    assert [path for path in (tmp_path / "kv").rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    assert model.encode(facts).kind is Kind.ACTIVATION


def test_what_is_computed_anew_stays_in_memory_where_the_disk_is_full(
    make: Make, facts: list[MemCube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    cache = make().encode(facts)
    monkeypatch.setattr("memos_core.model.storage.save_file", full)
    model = make(folder=tmp_path / "elsewhere")
    first, second = (model.generate(ASKED, memory=cache, max_new_tokens=NEW) for _ in range(2))
    assert said(first) == said(second)
    assert (first.cached_tokens, second.cached_tokens > 0) == (0, True)


def test_a_memory_that_is_too_long_says_by_how_much(make: Make, ann: View) -> None:
    model = make(shape={"max_position_embeddings": 64})
    facts = ann.add(FACTS)
    with pytest.raises(ContextTooLong, match="leave less room="):
        model.encode(facts)
    with pytest.raises(ContextTooLong, match="do not fit the model's 64"):
        model.generate(ASKED, memory=facts, max_new_tokens=NEW)


def test_what_cannot_be_encoded_is_said(make: Make, ann: View, facts: list[MemCube]) -> None:
    model = make()
    with pytest.raises(InvalidInput, match="name the memories"):
        model.encode([])
    with pytest.raises(InvalidInput, match="not a view"):
        model.encode(ann)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidInput, match="KV cache already"):
        model.encode([model.encode(facts)])
    with pytest.raises(ModelUnsupported, match="parametric"):
        model.encode(facts, kind=Kind.PARAMETRIC)
    with pytest.raises(InvalidInput, match="eval"):
        make(model=model_of("llama").train())


@pytest.mark.parametrize("name", ["mamba", "qwen3-next"])
def test_a_state_is_no_cache_and_text_works(make: Make, facts: list[MemCube], name: str) -> None:
    assert name in STATEFUL
    with pytest.raises(ModelUnsupported, match="no KV cache that could be kept"):
        make(name)
    answer = make(name, kinds=["plaintext"]).generate(ASKED, memory=facts, max_new_tokens=2)
    assert len(answer.reads) == 3


def test_a_model_without_a_chat_template_is_given_lines(make: Make, facts: list[MemCube]) -> None:
    model, plain = make(template=None), make(template=None, kinds=["plaintext"])
    cache = model.encode(facts, order="given")
    answer = model.generate(ASKED, memory=cache, max_new_tokens=NEW)
    assert said(answer) == said(plain.generate(ASKED, memory=facts, max_new_tokens=NEW))


def test_what_turns_with_the_length_of_a_text_is_not_cached_past_it(
    make: Make, facts: list[MemCube]
) -> None:
    rope = {
        "rope_type": "dynamic",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 96,
    }
    model = make(shape={"rope_parameters": rope})
    plain = make(shape={"rope_parameters": rope}, kinds=["plaintext"])
    cache = model.encode(facts, order="given", room=16)
    short = model.generate(ASKED, memory=cache, max_new_tokens=2)
    assert short.cached_tokens > 0
    long = model.generate(ASKED, memory=cache, max_new_tokens=60)
    assert long.cached_tokens == 0
    assert said(long) == said(plain.generate(ASKED, memory=facts, max_new_tokens=60))


# ------------------------------------------------------------------ forgetting


def test_what_was_forgotten_is_in_no_answer_and_no_file(
    make: Make, ann: View, facts: list[MemCube], tmp_path: Path
) -> None:
    model = make()
    cache = model.encode(facts)
    ann.forget(facts[1].id)
    with pytest.raises(CubeNotFound):
        model.generate(ASKED, memory=cache)
    with pytest.raises(CubeNotFound):
        model.generate(ASKED, memory=facts)
    until(lambda: not files(tmp_path) and model.stats().memory.caches == 0)


def test_an_update_ends_a_cache_and_the_new_text_is_read(
    make: Make, ann: View, facts: list[MemCube]
) -> None:
    model, plain = make(), make(kinds=["plaintext"])
    model.encode(facts, order="given")
    ann.update(facts[0].id, "Ann has outgrown her allergy.")
    answer = model.generate(ASKED, memory=facts, max_new_tokens=NEW)
    assert answer.reads[0].version == 2
    assert said(answer) == said(plain.generate(ASKED, memory=facts, max_new_tokens=NEW))


def test_a_revoked_grant_ends_the_use_of_a_cache(memos: MemOS, make: Make) -> None:
    mine = memos.at("acme", "ann", caller=Caller(user="ann"))
    his = memos.at("acme", "ann", caller=Caller(user="bob"))
    facts = mine.add(FACTS)
    cache = make(memos=mine).encode(facts)
    model = make(memos=his)
    with pytest.raises(CubeNotFound):
        model.generate(ASKED, memory=cache)
    mine.grant(user="bob")
    assert model.generate(ASKED, memory=cache, max_new_tokens=2).cached_tokens > 0
    mine.revoke(user="bob")
    for memory in (cache, facts):
        with pytest.raises(CubeNotFound):
            model.generate(ASKED, memory=memory)


def test_tenants_share_no_files(memos: MemOS, make: Make, facts: list[MemCube]) -> None:
    model = make()
    model.encode(facts)
    theirs = memos.at("globex", "ann")
    other = make(memos=theirs)
    answer = other.generate(ASKED, memory=theirs.add(FACTS), max_new_tokens=2)
    assert answer.cached_tokens == 0


OTHER_PROCESS = """
import json, sys
from pathlib import Path
from memos_core import CubeNotFound, MemOS
from memos_core.model import MemoryModel
from tests.model.models import model_of, tokenizer_with
from tests.support import WordEmbedder
dsn, folder, cache = sys.argv[1:]
asked = [{"role": "user", "content": "What must she not eat?"}]
with MemOS.open(dsn, embedder=WordEmbedder()) as memos:
    model = MemoryModel(model_of("llama"), tokenizer_with(), memos.at("acme", "ann"), folder=folder)
    answer = model.generate(asked, memory=cache, max_new_tokens=12)
    print(json.dumps([list(answer.token_ids), answer.cached_tokens]), flush=True)
    sys.stdin.readline()
    try:
        model.generate(asked, memory=cache, max_new_tokens=12)
        print("served")
    except CubeNotFound:
        print("refused", flush=True)
    import time
    late = time.monotonic() + 60
    while model.stats().memory.caches and time.monotonic() < late:
        time.sleep(0.02)
    print(model.stats().memory.caches, flush=True)
    model.close()
"""


def test_two_processes_share_files_and_both_forget(
    make: Make, ann: View, facts: list[MemCube], database: str, tmp_path: Path
) -> None:
    model = make()
    cache = model.encode(facts)
    expected = model.generate(ASKED, memory=cache, max_new_tokens=NEW)
    arguments = [sys.executable, "-c", OTHER_PROCESS, database, tmp_path / "kv", str(cache.id)]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin
        assert other.stdout
        tokens, cached = json.loads(other.stdout.readline())
        assert tuple(tokens) == expected.token_ids
        assert cached == expected.cached_tokens
        ann.forget(facts[0].id)
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "refused\n"
        assert other.stdout.readline() == "0\n"
    assert other.returncode == 0
    until(lambda: not files(tmp_path) and model.stats().memory.caches == 0)


# ------------------------------------------------------------------ residency


def test_levels_are_counted(make: Make, facts: list[MemCube]) -> None:
    model = make()
    cache = model.encode(facts)
    one = model.stats()
    assert (one.memory.caches, one.disk.caches) == (1, 1)
    assert one.memory.bytes > 0
    assert one.disk.bytes > one.memory.bytes
    model.generate(ASKED, memory=cache, max_new_tokens=2)
    assert model.stats().memory.hits == one.memory.hits + 1
    fresh = make()
    fresh.generate(ASKED, memory=cache, max_new_tokens=2)
    fresh.generate(ASKED, memory=cache, max_new_tokens=2)
    two = fresh.stats()
    assert (two.disk.hits, two.memory.hits, two.misses) == (1, 1, 0)


def test_budgets_hold_and_what_is_pinned_stays(make: Make, ann: View) -> None:
    facts = ann.add([f"Fact number {number}." for number in range(4)])
    size = make().encode(facts[:1]) and make().stats().disk.bytes
    model = make(budgets=Budgets(memory=2 * size, disk=3 * size))
    caches = [model.encode([fact]) for fact in facts]
    stats = model.stats()
    assert stats.memory.bytes <= 2 * size
    assert stats.disk.bytes <= 3 * size
    model.pin(caches[0])
    for cache in caches[1:]:
        model.generate(ASKED, memory=cache, max_new_tokens=1)
    hits = model.stats().memory.hits
    model.generate(ASKED, memory=caches[0], max_new_tokens=1)
    assert model.stats().memory.hits == hits + 1
    model.unpin(caches[0])


def test_nothing_stays_in_memory_without_a_budget(make: Make, facts: list[MemCube]) -> None:
    model = make(budgets=Budgets(memory=0))
    cache = model.encode(facts)
    for _ in range(2):
        assert model.generate(ASKED, memory=cache, max_new_tokens=1).cached_tokens > 0
    assert model.stats().memory.caches == 0
    assert model.stats().disk.hits == 2


def test_what_is_fetched_before_is_in_memory_when_asked(
    make: Make, ann: View, facts: list[MemCube]
) -> None:
    cache = make().encode(facts)
    model = make()
    fetched = model.prefetch(cache)
    assert fetched is not None
    assert fetched.result().runs == 4
    model.generate(ASKED, memory=cache, max_new_tokens=1)
    assert (model.stats().memory.hits, model.stats().disk.hits) == (1, 1)
    assert make(memos=ann).prefetch(ann) is not None


def test_only_what_is_stored_can_be_pinned(make: Make, facts: list[MemCube]) -> None:
    with pytest.raises(InvalidInput, match="encode it first"):
        make().pin(facts)


def test_files_are_for_their_owner_alone(make: Make, facts: list[MemCube], tmp_path: Path) -> None:
    make().encode(facts)
    (path,) = files(tmp_path)
    assert path.stat().st_mode & 0o077 == 0
    assert FACTS[0].encode() not in path.read_bytes()


def test_another_format_is_not_read(
    make: Make, ann: View, facts: list[MemCube], tmp_path: Path
) -> None:
    make().encode(facts)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"format":"1"', b'"format":"2"'))
    key = path.name.split(".")[0]
    tenant = TensorFiles(tmp_path / "kv", tenant_of(ann))
    assert tenant.find(key) is None


def test_a_layout_of_ones_own_is_a_part_of_the_fingerprint(
    make: Make, facts: list[MemCube]
) -> None:
    model = make(layout=Layout(tokenizer_with(), heading="# What I know"))
    cache = model.encode(facts)
    assert model.generate(ASKED, memory=cache, max_new_tokens=1).cached_tokens > 0
    with pytest.raises(CacheMismatch, match="chat template"):
        make().generate(ASKED, memory=cache)
