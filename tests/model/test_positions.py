"""A KV cache counts its tokens from 0, as ``generate`` does, also where a model would not."""

from __future__ import annotations

from typing import Any

import torch
from transformers import RobertaConfig, RobertaForCausalLM

from memos_core import MemCube
from memos_core.model import MemoryModel
from memos_core.model.kv_cache import logits, prefill
from memos_core.model.verification import verify
from tests.model.models import SHAPE

ASKED = [{"role": "user", "content": "What must she not eat?"}]
IDS = list(range(20, 80))


def roberta() -> RobertaForCausalLM:
    """By itself it counts from the number of its padding token on."""
    torch.manual_seed(0)
    return RobertaForCausalLM(RobertaConfig(**{**SHAPE, "pad_token_id": 3}, is_decoder=True)).eval()


def test_an_answer_from_a_cache_is_that_from_text(make: Any, facts: list[MemCube]) -> None:
    model = make(model=roberta())
    cache = model.encode(facts, order="given")
    plain = MemoryModel(model.model, model.tokenizer, model.memos, kinds=["plaintext"])
    found = model.generate(ASKED, memory=cache, max_new_tokens=12)
    right = plain.generate(ASKED, memory=facts, max_new_tokens=12)
    assert found.cached_tokens > 0
    assert found.token_ids == right.token_ids


def test_a_check_counts_so_too() -> None:
    model = roberta()
    places = torch.arange(len(IDS))[None]
    right = model(input_ids=torch.tensor([IDS]), position_ids=places).logits[0]
    assert torch.allclose(logits(model, IDS), right, atol=1e-4)
    assert torch.allclose(logits(model, IDS[40:], prefill(model, IDS[:40])), right[40:], atol=1e-4)
    verified = verify(model, IDS, prefill(model, IDS))
    assert verified.passed, verified
