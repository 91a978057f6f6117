"""A model whose KV cache is of no use is refused with the reason, before anything is encoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    MptConfig,
    MptForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    PreTrainedModel,
)

from memos_core.errors import ModelUnsupported
from memos_core.model.architecture import check_keeps_keys, takes_positions
from memos_core.model.kv_cache import prefill
from tests.model.models import SHAPE, model_of

# PEFT asks for it by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")


def mpt() -> PreTrainedModel:
    return MptForCausalLM(
        MptConfig(d_model=64, n_heads=4, n_layers=2, vocab_size=512, initializer_range=0.2)
    )


def sharing() -> PreTrainedModel:
    config: dict[str, Any] = {
        **SHAPE,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "head_dim": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": None,
        "laurel_rank": 8,
        "vocab_size_per_layer_input": 512,
        "hidden_size_per_layer_input": 16,
    }
    return Gemma3nForCausalLM(Gemma3nTextConfig(**config))


def tuned(kind: Any, **options: Any) -> Any:
    return get_peft_model(model_of("llama"), kind(task_type="CAUSAL_LM", **options))


REFUSED: dict[str, Callable[[], Any]] = {
    "says something else once": mpt,
    "share the keys of others": sharing,
    "its adapter is a prompt": lambda: tuned(PromptTuningConfig, num_virtual_tokens=4),
    "adapter is a prompt, which": lambda: tuned(PrefixTuningConfig, num_virtual_tokens=4),
    "leaves nothing": lambda: OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(n_embd=64, n_layer=2, n_head=4, vocab_size=512)
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_models_that_are_refused(why: str) -> None:
    with pytest.raises(ModelUnsupported, match=why):
        check_keeps_keys(REFUSED[why]().eval())


def test_adapters_of_weights_are_not() -> None:
    model = tuned(LoraConfig, target_modules=["k_proj"]).eval()
    check_keeps_keys(model)
    assert takes_positions(model)


def test_mpt_would_say_something_else() -> None:
    """Where it does not any more, it need not be refused."""
    torch.manual_seed(0)
    model, ids = mpt().eval(), torch.randint(3, 500, (1, 60))
    given: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12}
    given["pad_token_id"] = 0
    cache = prefill(model, ids[0, :40].tolist()).request()
    plain = model.generate(ids, **given)
    cached = model.generate(ids, past_key_values=cache, **given)
    assert plain.tolist() != cached.tolist()
