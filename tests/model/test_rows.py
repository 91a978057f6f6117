"""Rows of one pass say what each says alone, whatever counts what fills them up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    PreTrainedModel,
)

from memos_core import MemCube
from memos_core.model import Generation, MemoryModel

ASKED = [{"role": "user", "content": "What must she not eat?"}]
LONGER = [{"role": "user", "content": "Where is the black cat named Misha, and who repaired it?"}]
SHORT = [{"role": "user", "content": "Hi"}]
NEW = 12


def of(answers: list[Generation]) -> list[tuple[str, tuple[int, ...]]]:
    return [(answer.text, answer.token_ids) for answer in answers]


def plain_of(model: MemoryModel) -> MemoryModel:
    """The same model, which reads memories as text."""
    return MemoryModel(model.model, model.tokenizer, model.memos, kinds=["plaintext"])


def bart() -> PreTrainedModel:
    shape = {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 128}
    return BartForCausalLM(
        BartConfig(d_model=64, vocab_size=512, init_std=0.2, forced_eos_token_id=None, **shape)
    )


def neo() -> PreTrainedModel:
    kinds: Any = [[["global", "local"], 1]]
    return GPTNeoForCausalLM(
        GPTNeoConfig(
            hidden_size=64,
            num_layers=2,
            attention_types=kinds,
            num_heads=4,
            vocab_size=512,
            window_size=16,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


@pytest.mark.parametrize("of_kind", [bart, neo], ids=lambda one: one.__name__)
@pytest.mark.parametrize("remembered", [True, False])
def test_models_that_count_what_is_before_a_token(
    make: Any, facts: list[MemCube], of_kind: Any, *, remembered: bool
) -> None:
    torch.manual_seed(0)
    model = make(model=of_kind().eval(), kinds=["plaintext"])
    given = {"memory": facts if remembered else None, "max_new_tokens": NEW}
    alone = [model.generate(one, **given) for one in (ASKED, LONGER, SHORT)]
    assert of(model.generate_batch([ASKED, LONGER, SHORT], **given)) == of(alone)


@pytest.mark.parametrize("of_kind", [bart, neo], ids=lambda one: one.__name__)
def test_and_after_a_cache(make: Any, facts: list[MemCube], of_kind: Any) -> None:
    torch.manual_seed(0)
    model = make(model=of_kind().eval())
    given = {"memory": model.encode(facts, order="given"), "max_new_tokens": NEW}
    alone = [plain_of(model).generate(one, **given) for one in (ASKED, LONGER, SHORT)]
    rows = model.generate_batch([ASKED, LONGER, SHORT], **given)
    assert of(rows) == of(alone)
    assert rows[0].cached_tokens > 0


@pytest.mark.parametrize("stable", [40, 60, 100])
def test_models_whose_keys_turn_with_the_longest_row(make: Any, stable: int) -> None:
    parts: dict[str, Any] = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    longrope = {"rope_type": "longrope", "rope_theta": 10_000.0, **parts}
    shape = {"rope_parameters": longrope, "original_max_position_embeddings": stable}
    model = make("phi3", shape=shape)
    twice = [{"role": "user", "content": LONGER[0]["content"] * 2}]
    asked = (ASKED, LONGER, SHORT, twice, ASKED)
    alone = [model.generate(one, max_new_tokens=NEW) for one in asked]
    assert of(model.generate_batch(asked, max_new_tokens=NEW)) == of(alone)
