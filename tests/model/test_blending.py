import copy
import random
import re
from itertools import pairwise

import pytest
import torch

from memos_core.errors import (
    CacheMismatch,
    CacheRefused,
    ContextTooLong,
    InvalidInput,
    ModelUnsupported,
)
from memos_core.model import blending
from memos_core.model.blending import blend, blended, segment_cache
from memos_core.model.kv_cache import KVCache, prefill
from memos_core.model.verification import verify
from tests.model import models
from tests.model.models import ARCHITECTURES, model_of

IDS = random.Random(5).choices(range(3, 500), k=85)
HEAD, RUNS = IDS[:5], [IDS[5:25], IDS[25:55], IDS[55:]]
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
ROTARY = [name for name in ARCHITECTURES if name != "gpt2"]
# Ways to turn keys that no model of ARCHITECTURES has.
OTHERS = {
    "cohere": ("Cohere", {}),  # neighbours
    "glm": ("Glm", {"head_dim": 16, "partial_rotary_factor": 0.5}),  # neighbours, of some channels
    "smollm3": ("SmolLM3", {"no_rope_layers": [1, 0, 1]}),  # a layer that does not
    "gpt-neox": ("GPTNeoX", {"intermediate_size": 128}),
    "dynamic": ("Llama", {"rope_parameters": DYNAMIC}),
    "yarn": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
REFUSED = {
    "deepseek": ("DeepseekV3", LATENT),
    "bloom": ("Bloom", {}),
    "opt": ("OPT", {"ffn_dim": 128, "word_embed_proj_dim": 64}),
}


@pytest.fixture(autouse=True)
def more_models(monkeypatch):
    known = {**ARCHITECTURES, **OTHERS, **REFUSED}
    # Copied: a configuration writes into what it is given.
    monkeypatch.setattr(models, "ARCHITECTURES", copy.deepcopy(known))


def parts(model, runs=RUNS):
    return prefill(model, HEAD), HEAD, [(run, segment_cache(model, HEAD, run)) for run in runs]


def apart(cache, other, layer):
    return max(
        float((one.float() - two.float()).abs().max())
        for one, two in zip(cache.layers[layer], other.layers[layer], strict=True)
    )


@pytest.mark.parametrize("name", [*ROTARY, *OTHERS])
def test_keys_of_the_first_layer_are_turned_exactly(name):
    model = model_of(name)
    cache = blend(model, *parts(model), recompute=0)
    full = prefill(model, IDS)
    assert cache.tokens == len(IDS)
    # What the first layer keeps of a token depends on nothing but its position.
    assert apart(cache, full, 0) < 2e-5
    joined = KVCache.joined([parts(model)[0], *(one for _, one in parts(model)[2])])
    assert apart(joined, full, 0) > 0.1
    assert apart(cache, full, 2) > 0.1
    # The first segment stands where it was computed.
    assert apart(cache.part(0, 25), full.part(0, 25), 2) < 1e-4


@pytest.mark.parametrize("name", ["llama", "gemma3", "phi"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_keys_of_half_precision_are_turned_within_their_precision(name, dtype):
    model = model_of(name).to(dtype)
    cache, full = blend(model, *parts(model), recompute=0), prefill(model, IDS)
    assert cache.dtype == dtype
    largest = float(full.layers[0][0].abs().max())
    assert apart(cache, full, 0) <= 2 * torch.finfo(dtype).eps * largest


@pytest.mark.parametrize("name", [*ROTARY, *OTHERS])
def test_all_computed_anew_is_a_full_prefill(name):
    model = model_of(name)
    cache, verified = blended(model, *parts(model), recompute=1)
    assert verified.passed, verified
    full = prefill(model, IDS)
    assert all(apart(cache, full, layer) < 1e-4 for layer in range(3))


def test_the_more_is_computed_anew_the_less_it_deviates():
    shares = (0.0, 0.15, 0.4, 0.7, 1.0)
    sums = dict.fromkeys(shares, 0.0)
    for name in ROTARY:
        for seed in (0, 1):
            model = model_of(name, seed=seed)
            given = parts(model)
            for share in shares:
                sums[share] += verify(model, IDS, blend(model, *given, recompute=share)).kl
    assert all(more > less for more, less in pairwise(sums.values()))
    assert sums[1.0] < 1e-4 < sums[0.7]


def test_turned_keys_deviate_less_than_those_left_as_they_were():
    turned = left = 0.0
    for name in ("llama", "qwen2", "qwen3", "phi", "phi3"):
        model = model_of(name)
        head, head_ids, segments = parts(model)
        joined = KVCache.joined([head, *(one for _, one in segments)])
        turned += verify(model, IDS, blend(model, head, head_ids, segments, recompute=0)).kl
        left += verify(model, IDS, joined).kl
    assert turned * 2 < left


@pytest.mark.parametrize(
    ("share", "counts"), [(0.0, []), (0.1, [3, 3]), (0.15, [5, 5]), (1, [30, 30])]
)
def test_the_first_tokens_of_later_segments_are_computed_anew(share, counts, monkeypatch):
    model = model_of("llama")
    given = parts(model)
    turned = blend(model, *given, recompute=0)
    seen = []

    def watched(model, ids, past):
        seen.append((list(ids), past.tokens))
        return prefill(model, ids, past)

    monkeypatch.setattr(blending, "prefill", watched)
    cache = blend(model, *given, recompute=share)
    starts = [25, 55]
    assert seen == [
        (IDS[start : start + count], start) for start, count in zip(starts, counts, strict=False)
    ]
    for layer in (1, 2):
        for start, count in zip(starts, counts, strict=False):
            for at in range(start, start + 30):
                same = apart(cache.part(at, at + 1), turned.part(at, at + 1), layer) == 0
                assert same == (at >= start + count)


def test_a_share_that_is_whole_is_not_rounded_up():
    model = model_of("llama")
    given = parts(model, [IDS[5:25], IDS[25:50]])
    turned = blend(model, *given, recompute=0)
    cache = blend(model, *given, recompute=0.28)
    changed = [
        at for at in range(25, 50) if apart(cache.part(at, at + 1), turned.part(at, at + 1), 2)
    ]
    assert changed == list(range(25, 32))


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_what_is_blended_is_not_changed(share):
    model = model_of("llama")
    head, head_ids, segments = parts(model)
    caches = [head, *(cache for _, cache in segments)]
    before = [[(k.clone(), v.clone()) for k, v in cache.layers] for cache in caches]
    blend(model, head, head_ids, segments, recompute=share)
    for cache, old in zip(caches, before, strict=True):
        for (keys, values), (old_keys, old_values) in zip(cache.layers, old, strict=True):
            assert torch.equal(keys, old_keys)
            assert torch.equal(values, old_values)


def test_segments_stand_in_the_order_that_is_given():
    model = model_of("llama")
    head, head_ids, segments = parts(model)
    order = [segments[2], segments[0], segments[1]]
    ids = [*HEAD, *RUNS[2], *RUNS[0], *RUNS[1]]
    cache = blend(model, head, head_ids, order, recompute=0)
    assert apart(cache, prefill(model, ids), 0) < 2e-5
    whole = blend(model, head, head_ids, order, recompute=1)
    assert verify(model, ids, whole).passed


@pytest.mark.parametrize("share", [0, 0.15, 1])
def test_one_segment_is_exact_and_none_is_the_head(share):
    model = model_of("llama")
    head, head_ids, segments = parts(model)
    assert blend(model, head, head_ids, [], recompute=share) is head
    cache = blend(model, head, head_ids, segments[:1], recompute=share)
    assert verify(model, IDS[:25], cache).passed


def test_the_probe_sees_far_in_a_short_context():
    model = model_of("llama", max_position_embeddings=90)
    assert apart(blend(model, *parts(model), recompute=0), prefill(model, IDS), 0) < 2e-5


def test_a_blend_further_from_a_full_prefill_than_allowed_is_refused():
    model = model_of("llama")
    given = parts(model)
    cache, verified = blended(model, *given, max_kl=10.0, recompute=0.3)
    assert verified.passed
    assert verified == verify(model, IDS, cache, max_kl=10.0)
    assert 0.01 < verified.kl < 10
    numbers = re.escape(f"{verified.kl:.2g} nats (0.01 allowed)")
    with pytest.raises(CacheRefused, match=numbers):
        blended(model, *given, max_kl=0.01, recompute=0.3)
    with pytest.raises(CacheRefused, match=re.escape("(0.5 allowed")):
        blended(model, *given, max_difference=0.5, recompute=0.3)
    with pytest.raises(CacheRefused, match="recompute more than 30%"):
        blended(model, *given, recompute=0.3)
    with pytest.raises(CacheRefused, match="4 tokens"):
        blended(model, *given, max_kl=1e-9, continuations=[[5, 6], [7, 8]])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gpt2", "GPT2LMHeadModel has no rotary position embedding"),
        ("opt", "OPTForCausalLM has no rotary position embedding"),
        ("bloom", "BloomForCausalLM has no rotary position embedding"),
        ("deepseek", "DeepseekV3ForCausalLM does more than turn its keys"),
    ],
)
def test_models_whose_keys_cannot_be_turned_are_refused(name, why):
    model = model_of(name)
    with pytest.raises(ModelUnsupported, match=why):
        blend(model, *parts(model))


def test_a_model_that_knows_more_of_a_position_is_refused():
    model = model_of("llama")
    position = []
    model.model.register_forward_pre_hook(
        lambda _m, _given, named: position.append(named["position_ids"]), with_kwargs=True
    )
    given = parts(model_of("llama"))
    model.model.layers[1].register_forward_hook(
        lambda _m, _given, made: made + 0.01 * position[-1][..., None]
    )
    with pytest.raises(ModelUnsupported, match="layer 2 of LlamaForCausalLM"):
        blend(model, *given)


def test_a_model_that_hears_no_position_is_refused():
    model = model_of("llama")
    given = parts(model)
    model.model.register_forward_pre_hook(
        lambda _m, args, named: (args, {**named, "position_ids": None}), with_kwargs=True
    )
    with pytest.raises(ModelUnsupported, match="positions it is given"):
        blend(model, *given)


def test_models_with_a_state_are_refused():
    llama = model_of("llama")
    with pytest.raises(ModelUnsupported, match="layers of"):
        blend(model_of("lfm2"), *parts(llama))


def test_a_text_in_which_keys_turn_otherwise_is_refused():
    model = model_of("llama", rope_parameters={**DYNAMIC}, max_position_embeddings=64)
    config = model.config
    given = parts(model)
    config.max_position_embeddings, config.original_max_position_embeddings = 512, 64
    config.rope_parameters["original_max_position_embeddings"] = 64
    with pytest.raises(ModelUnsupported, match="more than 64 tokens"):
        blend(model, *given)


def test_a_rotation_of_two_lengths_is_that_of_the_shorter():
    longrope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "factor": 4.0,
        "original_max_position_embeddings": 90,
    }
    model = model_of("phi3", rope_parameters=longrope, original_max_position_embeddings=90)
    given = parts(model)
    prefill(model, random.Random(6).choices(range(3, 500), k=200))  # leaves the longer one
    assert apart(blend(model, *given, recompute=0), prefill(model, IDS), 0) < 2e-5


def test_what_cannot_be_blended_is_said():
    model = model_of("llama")
    head, head_ids, segments = parts(model)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidInput, match="share"):
            blend(model, head, head_ids, segments, recompute=share)
    with pytest.raises(CacheMismatch, match="of 5 tokens came with 4"):
        blend(model, head, head_ids[1:], segments)
    with pytest.raises(CacheMismatch, match="of 30 tokens came with 20"):
        blend(model, head, head_ids, [(RUNS[0], segments[1][1])])
    with pytest.raises(InvalidInput, match="head"):
        blend(model, head.part(0, 0), [], segments)
    with pytest.raises(ContextTooLong, match="85 tokens do not fit the model's 80"):
        small = model_of("llama", max_position_embeddings=80)
        blend(small, head, head_ids, segments)
