"""Small models of real architectures with random weights, and a tokenizer trained here."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

FACTS = [
    "Ann is allergic to peanuts.",
    "Ann lives in Oslo with a black cat named Misha.",
    "Her bicycle was repaired for 95 euros in May 2026.",
]
WORDS = """Ann is allergic to peanuts and lives in Oslo with a black cat named Misha.
What must she not eat? Her bicycle was repaired for 95 euros in May 2026.
You are a helpful assistant. Answer briefly. The library closes at eight on Fridays.
system user assistant model memory remember yesterday tomorrow bread butter tea coffee"""
CHATML = """{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' -%}
{{ raise_exception('System role not supported') }}{% endif -%}
{% for message in messages -%}
<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}
{{ message.content | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
DATED = """{% if not date_string is defined -%}
{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ bos_token -}}
<|im_start|>system
Today Date: {{ date_string }}

{% if messages[0].role == 'system' %}{{ messages[0].content | trim -}}
{% set messages = messages[1:] %}{% endif %}<|im_end|>
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
DEFAULTED = """{% if messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% else %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}{% for message in messages %}{% if message.role != 'system' -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {"chatml": CHATML, "gemma": GEMMA, "dated": DATED, "defaulted": DEFAULTED}
SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,  # else nearly all logits are alike, and what is wrong hardly shows
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama3": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "mistral": ("Mistral", {"sliding_window": 24}),
    "gemma2": ("Gemma2", {"head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3Text", {"head_dim": 16, "sliding_window": 24, "sliding_window_pattern": 2}),
    "phi": ("Phi", {"partial_rotary_factor": 0.5}),
    "phi3": ("Phi3", {}),
    "gpt2": (
        "GPT2",
        {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_inner": 128, "n_positions": 1024},
    ),
}
_CAUSAL = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}
STATEFUL: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", {"state_size": 8}),
    "qwen3-next": (
        "Qwen3Next",
        {
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
    ),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
    "rwkv": ("Rwkv", {"attention_hidden_size": 64}),
}


def model_of(
    name: str, *, seed: int = 0, attention: str | None = None, **changes: Any
) -> PreTrainedModel:
    """Return a small model of an architecture; of one seed the same each time."""
    family, shape = (ARCHITECTURES | STATEFUL)[name]
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **shape, **changes})
    causal = getattr(transformers, _CAUSAL.get(family, f"{family}ForCausalLM"))
    if attention or causal._supports_sdpa:  # noqa: SLF001 transformers has no other way
        config._attn_implementation = attention or "sdpa"  # noqa: SLF001
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return causal(config).eval()


@functools.cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        "<pad>",
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
        "<start_of_turn>",
        "<end_of_turn>",
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS.splitlines() * 4, trainer)
    return tokenizer.to_str()


def tokenizer_with(template: str | None = "chatml") -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with one of ``TEMPLATES``, or none."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained()),
        **SPECIAL,
    )
    tokenizer.chat_template = TEMPLATES[template] if template else None
    return tokenizer
