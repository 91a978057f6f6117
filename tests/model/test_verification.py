import json
import math
import random
from dataclasses import replace

import pytest
import torch

from memos_core.errors import CacheMismatch, ContextTooLong, InvalidInput
from memos_core.model import kv_cache, verification
from memos_core.model.kv_cache import KVCache, logits, prefill
from memos_core.model.verification import Verification, held_out, verify
from tests.model.models import ARCHITECTURES, model_of

IDS = random.Random(3).choices(range(3, 500), k=70)
FINE = Verification(
    max_difference=1e-5,
    floor=1e-5,
    kl=1e-8,
    floor_kl=1e-6,
    same_top=1.0,
    tokens=48,
    allowed=3e-5,
    allowed_kl=3e-6,
)


def mapped(cache, change):
    return KVCache(
        tuple(change(index, keys, values) for index, (keys, values) in enumerate(cache.layers))
    )


def one_other_token(model):
    return prefill(model, [*IDS[:50], (IDS[50] + 1) % 500, *IDS[51:]])


def one_place_on(model):
    return prefill(model, [IDS[0], *IDS]).part(1)


def of_another_model(model):
    other = model_of("llama", seed=1).to(model.dtype)
    return prefill(other, IDS)


def in_another_order(model):
    halves = prefill(model, [*IDS[40:], *IDS[:40]])
    return KVCache.joined([halves.part(30), halves.part(0, 30)])


def layers_changed_about(model):
    cache = prefill(model, IDS)
    return KVCache((cache.layers[1], cache.layers[0], *cache.layers[2:]))


def without_the_values_of_a_run(model):
    def blank(index, keys, values):
        values = values.clone()
        if index == 1:
            values[..., 20:30, :] = 0
        return keys, values

    return mapped(prefill(model, IDS), blank)


def with_a_number_that_is_none(model):
    def spoil(_index, keys, values):
        keys = keys.clone()
        keys[0, 0, 3, 0] = math.nan
        return keys, values

    return mapped(prefill(model, IDS), spoil)


WRONG = [
    one_other_token,
    one_place_on,
    of_another_model,
    in_another_order,
    layers_changed_about,
    without_the_values_of_a_run,
    with_a_number_that_is_none,
]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_right_cache_passes(name):
    model = model_of(name)
    verified = verify(model, IDS, prefill(model, IDS))
    assert verified.passed, verified
    assert verified.same_top == 1
    assert 0 < verified.floor < 1e-4
    assert verified.allowed == pytest.approx(3 * verified.floor)
    assert verified.allowed_kl == pytest.approx(3 * verified.floor_kl)
    assert verified.tokens == 48


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("wrong", WRONG, ids=lambda make: make.__name__)
def test_a_wrong_cache_fails(wrong, dtype):
    model = model_of("llama").to(dtype)
    verified = verify(model, IDS, wrong(model))
    assert not verified.passed, verified


def test_numbers_of_less_precision_are_not_those_of_a_full_prefill():
    model = model_of("llama")
    rounded = mapped(
        prefill(model, IDS), lambda _, keys, values: (keys.half().float(), values.half().float())
    )
    verified = verify(model, IDS, rounded)
    assert not verified.passed
    near = verify(model, IDS, rounded, max_kl=1e-4)
    assert (near.passed, near.allowed, near.allowed_kl) == (True, None, 1e-4)
    near = verify(model, IDS, rounded, max_difference=0.1)
    assert (near.passed, near.allowed, near.allowed_kl) == (True, 0.1, None)
    assert not verify(model, IDS, rounded, max_kl=0.0).passed
    assert not verify(model, IDS, rounded, max_difference=0.0).passed
    assert not verify(model, IDS, rounded, max_kl=1e-4, max_difference=1e-5).passed
    assert not verify(model, IDS, one_other_token(model), max_kl=1e-4).passed


def test_where_no_cut_shows_a_difference_the_floor_is_the_last_bits(monkeypatch):
    model = model_of("llama", attention="eager")
    monkeypatch.setattr(verification, "CUTS", ((),))
    monkeypatch.setattr(verification, "_in_pieces", lambda *_: prefill(model, IDS))
    continuation = held_out(IDS)[0]
    largest = float(logits(model, [*IDS, *continuation])[len(IDS) :].abs().max())
    verified = verify(model, IDS, prefill(model, IDS), [continuation])
    assert verified.floor == pytest.approx(8 * 2**-23 * largest)
    assert verified.passed


def test_the_floor_is_the_worst_of_all_cuts(monkeypatch):
    model = model_of("llama")
    cache = prefill(model, IDS)
    monkeypatch.setattr(verification, "_BITS", {torch.float32: 0})
    monkeypatch.setattr(verification, "_LEAST_KL", 0.0)
    alone = []
    for cuts in verification.CUTS:
        monkeypatch.setattr(verification, "CUTS", (cuts,))
        alone.append(verify(model, IDS, cache))
    monkeypatch.undo()
    monkeypatch.setattr(verification, "_BITS", {torch.float32: 0})
    monkeypatch.setattr(verification, "_LEAST_KL", 0.0)
    verified = verify(model, IDS, cache)
    assert len({one.floor for one in alone}) > 1
    assert verified.floor == max(one.floor for one in alone)
    assert verified.floor_kl == max(one.floor_kl for one in alone)


def test_the_floor_is_the_models_own_rounding():
    model = model_of("llama")
    made = [
        verify(model.to(dtype), IDS, prefill(model, IDS)).floor
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    ]
    assert made[0] * 50 < made[1] < made[2] / 3


def test_the_divergence_is_that_of_the_next_token():
    model = model_of("llama")
    cache, continuation = one_other_token(model), IDS[20:32]
    with torch.inference_mode():
        true = model(torch.tensor([[*IDS, *continuation]])).logits[0, -12:].double()
        found = model(
            torch.tensor([continuation]), past_key_values=cache.request(), use_cache=True
        ).logits[0]
    verified = verify(model, IDS, cache, [continuation])
    kl = torch.nn.functional.kl_div(
        found.double().log_softmax(-1), true.softmax(-1), reduction="batchmean"
    )
    assert verified.kl == pytest.approx(float(kl), rel=1e-3)
    assert verified.max_difference == pytest.approx(float((true - found).abs().max()), rel=1e-4)
    assert verified.tokens == 12
    same = (true.argmax(-1) == found.argmax(-1)).double().mean()
    assert verified.same_top == pytest.approx(float(same))
    assert 0 < verified.same_top < 1


def test_a_long_prefix_is_read_in_pieces_without_its_logits(monkeypatch):
    model = model_of("llama")
    whole = verify(model, IDS, prefill(model, IDS))
    rows, tokens = [], []
    model.lm_head.register_forward_hook(lambda _m, given, _made: rows.append(given[0].shape[-2]))
    model.model.embed_tokens.register_forward_hook(
        lambda _m, given, _made: tokens.append(given[0].shape[-1])
    )
    again = verify(model, IDS, prefill(model, IDS))
    assert max(rows) == 24
    assert max(tokens) == len(IDS) + 24
    rows.clear()
    tokens.clear()
    # The last 14 tokens of 94 are fewer than those of a continuation.
    monkeypatch.setattr(verification, "CHUNK", 40)
    monkeypatch.setattr(kv_cache, "CHUNK", 40)
    pieces = verify(model, IDS, prefill(model, IDS))
    assert max(rows) == 24
    assert max(tokens) == 40
    assert again == whole
    assert pieces.passed, pieces
    assert not verify(model, IDS, one_other_token(model)).passed


def test_of_many_long_continuations_the_beginnings_are_read():
    model = model_of("llama")
    many = [random.Random(seed).choices(range(3, 500), k=100) for seed in range(20)]
    assert verify(model, IDS, prefill(model, IDS), many).tokens == 8 * 32
    assert verify(model, IDS, prefill(model, IDS), [[], [5]]).tokens == 1


@pytest.mark.parametrize("nothing", [[], [[]]])
def test_something_must_be_read(nothing):
    model = model_of("llama")
    with pytest.raises(InvalidInput, match="continuation"):
        verify(model, IDS, prefill(model, IDS), nothing)


def test_a_cache_of_other_tokens_is_no_cache_of_a_prefix():
    model = model_of("llama")
    with pytest.raises(CacheMismatch, match="69 tokens, the prefix of 70"):
        verify(model, IDS, prefill(model, IDS[1:]))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gpt2", {"n_positions": 80, "max_position_embeddings": 80}),
        (
            "phi3",
            {
                "original_max_position_embeddings": 80,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 8,
                    "long_factor": [4.0] * 8,
                    "factor": 4.0,
                    "original_max_position_embeddings": 80,
                },
            },
        ),
    ],
)
def test_continuations_end_where_the_context_does(name, changes):
    model = model_of(name, **changes)
    verified = verify(model, IDS, prefill(model, IDS), [list(range(3, 40))])
    assert verified.tokens == 10
    assert verified.passed, verified
    longer = [*IDS, *range(20, 30)]
    with pytest.raises(ContextTooLong, match="80"):
        verify(model, longer, prefill(model, longer))


def test_held_out_continuations_are_runs_from_all_parts_of_the_prefix():
    prefix = list(range(300))
    made = held_out(prefix)
    assert made == held_out(prefix)
    assert len(made) == 2
    assert made[0] != made[1]
    for continuation in made:
        assert len(continuation) == 24
        runs = [continuation[at : at + 8] for at in (0, 8, 16)]
        assert all(run == list(range(run[0], run[0] + 8)) for run in runs)
        assert sorted(run[0] // 100 for run in runs) == [0, 1, 2]
    assert set(made[0]) != set(made[1])
    assert any(made[n][0] > made[n][-1] for n in (0, 1))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_the_shortest_prefix_can_be_checked(length):
    model = model_of("llama")
    ids = IDS[:length]
    verified = verify(model, ids, prefill(model, ids))
    assert verified.passed, verified
    assert verified.tokens == 2 * length
    other = prefill(model, [IDS[10], *ids[1:]])
    assert not verify(model, ids, other).passed


@pytest.mark.parametrize(
    "change",
    [
        {"max_difference": 4e-5},
        {"kl": 4e-6},
        {"max_difference": math.nan},
        {"kl": math.nan},
        {"allowed": math.nan},
        {"max_difference": math.inf},
        {"allowed": None, "allowed_kl": None},
    ],
    ids=str,
)
def test_every_limit_is_kept(change):
    assert FINE.passed
    assert replace(FINE, allowed=None).passed
    assert replace(FINE, allowed_kl=None).passed
    assert not replace(FINE, **change).passed


def test_a_verification_can_be_written_down_and_read():
    assert FINE.as_json()["passed"] is True
    assert json.loads(json.dumps(FINE.as_json(), allow_nan=False)) == FINE.as_json()
    spoilt = replace(FINE, kl=math.nan, max_difference=math.inf)
    assert spoilt.as_json() | {"kl": None, "max_difference": None} == spoilt.as_json()
    text = str(replace(FINE, max_difference=0.5, kl=0.25, same_top=0.75))
    assert "up to 0.5 (3e-05 allowed, 1e-05 is rounding)" in text
    assert "0.25 nats (3e-06 allowed)" in text
    assert "75.0% of 48 tokens" in text
    assert "allowed" not in str(replace(FINE, allowed=None, allowed_kl=None))


def test_infinite_logits_that_are_meant_are_no_difference():
    model = model_of("llama")
    model.lm_head.register_forward_hook(
        lambda _module, _given, made: made.index_fill(-1, torch.tensor([3]), -math.inf)
    )
    verified = verify(model, IDS, prefill(model, IDS))
    assert verified.passed, verified
    assert not verify(model, IDS, one_other_token(model)).passed
