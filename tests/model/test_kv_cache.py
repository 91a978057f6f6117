import random

import pytest
import torch

from memos_core.errors import ModelUnsupported
from memos_core.model import kv_cache
from memos_core.model.architecture import (
    check_keeps_keys,
    context_window,
    stable_length,
    text_config,
)
from memos_core.model.kv_cache import KVCache, logits, prefill
from memos_core.model.verification import verify
from tests.model.models import ARCHITECTURES, SHAPE, STATEFUL, model_of

IDS = random.Random(1).choices(range(3, 500), k=60)
QUERY = random.Random(2).choices(range(3, 500), k=9)
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
every = pytest.mark.parametrize("name", ARCHITECTURES)


def in_runs(model, *stops):
    """The cache of IDS, made of runs that were computed after each other and cut apart."""
    runs, made = [], None
    for start, stop in zip([0, *stops], [*stops, len(IDS)], strict=True):
        made = prefill(model, IDS[start:stop], made)
        runs.append(made.part(start))
    return KVCache.joined(runs)


def copies(cache):
    return [(keys.clone(), values.clone()) for keys, values in cache.layers]


def assert_untouched(cache, before):
    for (keys, values), (old_keys, old_values) in zip(cache.layers, before, strict=True):
        assert torch.equal(keys, old_keys)
        assert torch.equal(values, old_values)


def generated(model, cache, rows=1, beams=1, **options):
    ids = torch.tensor([[*IDS, *QUERY]] * rows)
    with torch.inference_mode():
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache.request(rows * beams) if cache else None,
            num_beams=beams,
            max_new_tokens=6,
            min_new_tokens=6,
            **options,
        )


@every
def test_joined_runs_are_one_prefill(name):
    model = model_of(name)
    cache, whole = in_runs(model, 1, 20, 47), prefill(model, IDS)
    assert cache.tokens == whole.tokens == len(IDS)
    assert cache.nbytes == whole.nbytes
    for runs, one in zip(cache.layers, whole.layers, strict=True):
        for found, true in zip(runs, one, strict=True):
            torch.testing.assert_close(found, true, atol=1e-4, rtol=1e-4)
    verified = verify(model, IDS, cache)
    assert verified.passed, verified


@every
def test_a_hundredth_request_is_as_right_as_the_first(name):
    model = model_of(name)
    cache = in_runs(model, 31)
    before = copies(cache)
    first = logits(model, QUERY, cache)
    for _ in range(98):
        logits(model, QUERY[:2], cache)
    assert torch.equal(logits(model, QUERY, cache), first)
    assert_untouched(cache, before)


@every
def test_generation_leaves_a_cache_as_it_was(name):
    model = model_of(name)
    cache = in_runs(model, 31)
    before = copies(cache)
    full = generated(model, None)
    assert torch.equal(generated(model, cache), full)
    assert torch.equal(generated(model, cache, rows=3), full.expand(3, -1))
    assert torch.equal(generated(model, cache, beams=3), generated(model, None, beams=3))
    generated(model, cache, rows=2, beams=2, num_return_sequences=2)
    generated(model, cache, rows=2, do_sample=True, temperature=1.5)
    assert torch.equal(generated(model, cache), full)
    assert_untouched(cache, before)


def test_a_request_of_several_rows_copies_nothing():
    cache = prefill(model_of("llama"), IDS)
    request = cache.request(4)
    assert request.layers[0].keys.data_ptr() == cache.layers[0][0].data_ptr()
    assert request.layers[0].keys.shape[0] == 4
    assert request.get_seq_length() == len(IDS)


@every
def test_parts_have_the_lengths_that_were_asked_for(name):
    cache = prefill(model_of(name), IDS)
    assert cache.part(10).tokens == 50
    assert cache.part(10, 25).tokens == 15
    assert cache.part(60).tokens == 0
    pieces = [cache.part(0, 10), cache.part(10, 25), cache.part(25)]
    again = KVCache.joined(pieces)
    assert again.tokens == 60
    assert_untouched(again, copies(cache))
    assert KVCache.joined([cache]) is cache
    assert cache.part(5, 9).layers[0][0].data_ptr() != cache.layers[0][0].data_ptr()
    assert cache.part(0, 9).layers[0][0].data_ptr() == cache.layers[0][0].data_ptr()


def test_what_is_taken_of_a_cache_holds_no_more_than_itself():
    model = model_of("llama")
    request = prefill(model, IDS).request()
    taken = KVCache.taken(request, 50)
    assert taken.tokens == 10
    for keys, values in taken.layers:
        for tensor in (keys, values):
            assert tensor.is_contiguous()
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_runs_of_different_models_do_not_join():
    other = model_of("llama", num_hidden_layers=2)
    with pytest.raises(ValueError, match="zip"):
        KVCache.joined([prefill(model_of("llama"), IDS), prefill(other, IDS)])


@every
def test_a_long_prefix_is_read_in_pieces(name, monkeypatch):
    model = model_of(name)
    seen = []
    model.get_input_embeddings().register_forward_hook(
        lambda _module, given, _made: seen.append(given[0].shape[-1])
    )
    monkeypatch.setattr(kv_cache, "CHUNK", 25)
    cache = prefill(model, IDS)
    assert seen[:3] == [25, 25, 10]
    monkeypatch.undo()
    verified = verify(model, IDS, cache)
    assert verified.passed, verified


def test_a_prefill_computes_one_tokens_logits():
    model = model_of("llama")
    seen = []
    model.lm_head.register_forward_hook(lambda _module, given, _made: seen.append(given[0].shape))
    prefill(model, IDS)
    assert [shape[-2] for shape in seen] == [1]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.bfloat16) for name in ARCHITECTURES), ("llama", torch.float16)],
)
def test_in_half_precision_a_cache_is_within_the_floor(name, dtype):
    model = model_of(name).to(dtype)
    cache = in_runs(model, 13, 40)
    assert cache.dtype == dtype
    verified = verify(model, IDS, cache)
    assert verified.passed, verified


@every
def test_eager_attention_is_exact_but_for_the_last_bits(name):
    model = model_of(name, attention="eager")
    full = logits(model, IDS)
    found = logits(model, IDS[40:], prefill(model, IDS[:40]))
    bit = torch.finfo(torch.float32).eps * full.abs().max()
    assert (full[40:] - found).abs().max() <= 4 * bit


@every
def test_architectures_with_keys_for_each_token_are_supported(name):
    check_keeps_keys(model_of(name))


@pytest.mark.parametrize("name", STATEFUL)
def test_models_with_a_state_are_refused(name):
    with pytest.raises(ModelUnsupported, match="as text"):
        check_keeps_keys(model_of(name))


def test_a_prefix_keeps_its_keys_as_long_as_its_rotation_holds():
    assert stable_length(text_config(model_of("llama"))) is None
    assert stable_length(text_config(model_of("llama3"))) is None
    assert stable_length(text_config(model_of("gemma3"))) is None
    assert stable_length(text_config(model_of("gpt2"))) is None
    dynamic = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    assert (
        stable_length(text_config(model_of("llama", rope_parameters=dynamic)))
        == SHAPE["max_position_embeddings"]
    )
    longrope = model_of("phi3", rope_parameters=LONGROPE, original_max_position_embeddings=64)
    assert stable_length(text_config(longrope)) == 64


@pytest.mark.parametrize("total", [64, 65])
def test_beyond_the_stable_length_a_prefix_is_wrong(total):
    model = model_of("phi3", rope_parameters=LONGROPE, original_max_position_embeddings=64)
    ids = [*IDS, *QUERY][:total]
    found = logits(model, ids[60:], prefill(model, ids[:60]))
    apart = float((found - logits(model, ids)[60:]).abs().max())
    assert apart < 1e-4 if total == 64 else apart > 0.1


@every
def test_context_windows_are_known(name):
    assert context_window(text_config(model_of(name))) == SHAPE["max_position_embeddings"]
