"""One call decodes by the model's own settings and the caller's, and a cache changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import GenerationConfig, Llama4ForCausalLM, Llama4TextConfig, LogitsProcessor

from memos_core import InvalidInput, MemCube
from memos_core.model import Generation, MemoryModel
from memos_core.model.decoding import decoding_of
from memos_core.model.kv_cache import prefill
from memos_core.model.verification import verify
from tests.model.models import SHAPE, model_of, tokenizer_with

ASKED = [{"role": "user", "content": "What must she not eat?"}]
LONGER = [{"role": "user", "content": "Where is the black cat named Misha, and who repaired it?"}]
SHORT = [{"role": "user", "content": "Hi"}]
NEW = 12


def said(answer: Generation) -> tuple[str, tuple[int, ...]]:
    return answer.text, answer.token_ids


def plain_of(model: MemoryModel) -> MemoryModel:
    """The same model, which reads memories as text."""
    return MemoryModel(model.model, model.tokenizer, model.memos, kinds=["plaintext"])


def of(answers: list[Generation]) -> list[tuple[str, tuple[int, ...]]]:
    return [said(answer) for answer in answers]


# ------------------------------------------------------------------ settings of the model's own

SETTINGS: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 4},
    "no cache": {"use_cache": False},
    "a static cache": {"cache_implementation": "static"},
    "a dynamic cache": {"cache_implementation": "dynamic"},
    "an offloaded cache": {"cache_implementation": "offloaded"},
    "more than tokens": {"return_dict_in_generate": True, "output_scores": True},
    "attentions": {"output_attentions": True},
    "several answers": {"num_return_sequences": 2, "num_beams": 3},
    "a lookup in the prompt": {"prompt_lookup_num_tokens": 3},
    "an early exit": {"assistant_early_exit": 1},
    "a length": {"max_length": 3, "min_length": 2},
    "pieces": {"prefill_chunk_size": 7},
    "another pad": {"pad_token_id": 5},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("where", ["model", "option"])
def test_no_setting_makes_a_cache_say_something_else(
    make: Any, facts: list[MemCube], name: str, where: str
) -> None:
    model = make()
    settings, beams = SETTINGS[name], SETTINGS[name].get("num_beams", 1)
    right = plain_of(model).generate(ASKED, memory=facts, max_new_tokens=NEW, num_beams=beams)
    cache = model.encode(facts, order="given")
    options: dict[str, Any] = {}
    if where == "model":
        for key, value in settings.items():
            setattr(model.model.generation_config, key, value)
    else:
        options["generation_config"] = GenerationConfig(**settings)
    answer = model.generate(ASKED, memory=cache, max_new_tokens=NEW, **options)
    assert said(answer) == said(right)
    assert answer.cached_tokens > 0


def test_stop_strings_of_a_model_end_its_answers(make: Any, facts: list[MemCube]) -> None:
    model = make()
    whole = model.generate(ASKED, memory=facts, max_new_tokens=NEW).text
    model.model.generation_config.stop_strings = [whole[3:5]]
    assert model.generate(ASKED, memory=facts).text == whole[: whole.index(whole[3:5])]
    other = model.generate(ASKED, memory=facts, max_new_tokens=NEW, stop=whole[6:8])
    assert other.text == whole[: whole.index(whole[6:8])]


def test_a_model_that_has_beams_is_not_streamed(make: Any) -> None:
    model = make()
    model.model.generation_config.num_beams = 3
    with pytest.raises(InvalidInput, match="use generate"):
        model.stream(ASKED)
    assert "".join(model.stream(ASKED, num_beams=1, max_new_tokens=3))


def test_an_option_goes_before_a_configuration_and_that_before_the_model() -> None:
    model, tokenizer = model_of("llama"), tokenizer_with()
    model.generation_config.num_beams = 2
    config = GenerationConfig(num_beams=3)

    def beams(**options: Any) -> int:
        return decoding_of(model, tokenizer, options, stop=(), max_new_tokens=1).beams

    assert beams() == 2
    assert beams(generation_config=config) == 3
    assert beams(generation_config=config, num_beams=4) == 4


BAD: dict[str, dict[str, Any]] = {
    "foo": {"foo": 1},
    "temperature": {"do_sample": True, "temperature": 0.0},
    "num_beams": {"num_beams": 0},
    "num_beams must": {"num_beams": 2.0},
    "num_beams must be": {"num_beams": None},
    "cannot be used": {"suppress_tokens": "two"},
    "min_length": {"min_length": 4},
    "pad_token_id": {"pad_token_id": 0},
    "max_length": {"max_length": 40},
    "custom_generate": {"custom_generate": "x/y"},
    "assistant_model": {"assistant_model": None},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3},
    "generation_config": {"generation_config": {"num_beams": 2}},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "labels": {"labels": None},
    "max_new_tokens": {"max_new_tokens": True},
    "stop must": {"stop": 5},
    "max_time": {"max_time": "1"},
    "eos_token_id": {"eos_token_id": 2.5},
    "list of tokens, not tensor": {"eos_token_id": torch.tensor([5])},
    "seconds from 0, not -1": {"max_time": -1},
    "seconds from 0, not nan": {"max_time": float("nan")},
    "seconds from 0, not 'x'": {"max_time": "x"},
    "min_new_tokens must": {"min_new_tokens": -1},
    "prefill_chunk_size must be a whole number from 1, not 0": {"prefill_chunk_size": 0},
    "prefill_chunk_size must .* not 2.5": {"prefill_chunk_size": 2.5},
    "logits_processor must .*5": {"logits_processor": [5]},
    "logits_processor must .* not 6": {"logits_processor": 6},
    "prefix_allowed_tokens_fn must be a function": {"prefix_allowed_tokens_fn": 5},
    "cannot be used: 'int'": {"watermarking_config": 5},
    "synced_gpus is not passed": {"synced_gpus": True},
    "these are none: .999": {"bad_words_ids": [[5, 999]]},
    "has 512 tokens, .*998": {"sequence_bias": [[[998], 1.0]]},
    "has 512 tokens, .*997": {"forced_eos_token_id": 997},
}


@pytest.mark.parametrize("why", BAD)
def test_what_generate_cannot_do_is_bad_input(make: Any, why: str) -> None:
    model = make()
    with pytest.raises(InvalidInput, match=why):
        model.generate(ASKED, **{"max_new_tokens": 2, **BAD[why]})
    with pytest.raises(InvalidInput):
        model.stream(ASKED, **{"max_new_tokens": 2, **BAD[why]})


@pytest.mark.filterwarnings("error")
def test_a_length_is_not_compared_with_a_prompt_that_nobody_asked() -> None:
    options = {"min_new_tokens": 30}
    model = model_of("llama")
    found = decoding_of(model, tokenizer_with(), options, stop=(), max_new_tokens=4)
    assert found.given["min_new_tokens"] == 30
    model.generation_config.min_new_tokens = 30
    decoding_of(model, tokenizer_with(), {}, stop=(), max_new_tokens=4)


def test_rows_are_filled_up_with_a_token_that_the_model_knows(make: Any) -> None:
    tokenizer = tokenizer_with()
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    model = make(tokenizer=tokenizer, shape={"vocab_size": tokenizer.pad_token_id})
    alone = [model.generate(one, max_new_tokens=NEW) for one in (ASKED, SHORT)]
    assert of(model.generate_batch([ASKED, SHORT], max_new_tokens=NEW)) == of(alone)


def test_several_tokens_end_an_answer(make: Any) -> None:
    model = make()
    whole = model.generate(ASKED, max_new_tokens=NEW).token_ids
    found = model.generate(ASKED, max_new_tokens=NEW, eos_token_id=(2, whole[4]))
    assert found.token_ids == whole[: whole.index(whole[4])]
    assert found.finish_reason == "stop"


# ------------------------------------------------------------------ rows of a batch


class NoneOfThePrompt(LogitsProcessor):
    """Bars what the prompt has, what fills it up included."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        return scores.scatter(1, input_ids, float("-inf"))


READING: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.7},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "logits_processor": {"logits_processor": [NoneOfThePrompt()]},
    "prefix_allowed_tokens_fn": {
        "prefix_allowed_tokens_fn": lambda _, ids: [40 + len(ids) % 100, 41 + len(ids) % 100]
    },
}


@pytest.mark.parametrize("name", READING)
def test_what_fills_rows_up_is_not_read(make: Any, facts: list[MemCube], name: str) -> None:
    words = make().generate(SHORT, memory=facts, max_new_tokens=NEW).token_ids
    tokenizer = tokenizer_with()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(words[0])
    model = make(tokenizer=tokenizer)
    cache = model.encode(facts, order="given")
    given = {"memory": cache, "max_new_tokens": NEW, **READING[name]}
    alone = [model.generate(one, **given) for one in (ASKED, LONGER, SHORT)]
    assert of(model.generate_batch([ASKED, LONGER, SHORT], **given)) == of(alone)


@pytest.mark.parametrize(
    ("options", "reads"),
    [
        ({}, False),
        ({"do_sample": True, "temperature": 0.5, "top_p": 0.9, "min_p": 0.1}, False),
        ({"suppress_tokens": [5]}, False),
        ({"repetition_penalty": 1.1}, True),
    ],
)
def test_most_ways_to_decode_do_not_look_at_the_prompt(
    options: dict[str, Any], *, reads: bool
) -> None:
    found = decoding_of(model_of("llama"), tokenizer_with(), options, stop=(), max_new_tokens=1)
    assert found.reads_prompt is reads


def test_rows_of_a_model_that_attends_in_chunks(make: Any, facts: list[MemCube]) -> None:
    shape = {"head_dim": 16, "num_local_experts": 2, "intermediate_size_mlp": 128}
    config = Llama4TextConfig(**SHAPE, **shape, attention_chunk_size=16, num_experts_per_tok=1)
    torch.manual_seed(0)
    model = make(model=Llama4ForCausalLM(config).eval())
    cache = model.encode(facts, order="given")
    given = {"memory": cache, "max_new_tokens": NEW}
    alone = [plain_of(model).generate(one, **given) for one in (ASKED, LONGER, SHORT)]
    assert of(model.generate_batch([ASKED, LONGER, SHORT], **given)) == of(alone)


def test_rows_of_a_model_that_has_a_state(make: Any, facts: list[MemCube]) -> None:
    model = make("rwkv", kinds=["plaintext"])
    given = {"memory": facts, "max_new_tokens": NEW}
    alone = [model.generate(one, **given) for one in (ASKED, LONGER)]
    assert of(model.generate_batch([ASKED, LONGER], **given)) == of(alone)


def test_each_conversation_of_a_batch_has_all_memories(make: Any, facts: list[MemCube]) -> None:
    model = make()
    rows = model.generate_batch([ASKED, SHORT], memory=iter(facts), max_new_tokens=2)
    assert [len(row.reads) for row in rows] == [3, 3]


def test_the_first_token_of_each_pass_is_timed(make: Any, facts: list[MemCube]) -> None:
    rows = make("mistral").generate_batch([ASKED, LONGER], memory=facts, max_new_tokens=NEW)
    assert 0 < rows[0].ttft_seconds < rows[1].ttft_seconds


# ------------------------------------------------------------------ training mode


def test_a_model_in_training_mode_does_nothing(make: Any, facts: list[MemCube]) -> None:
    model = make(shape={"attention_dropout": 0.5})
    cache = model.encode(facts)
    model.model.train()
    for verb in (
        lambda: model.encode(facts[:1]),
        lambda: model.generate(ASKED, memory=cache),
        lambda: model.stream(ASKED, memory=cache),
        lambda: model.generate_batch([ASKED], memory=cache),
    ):
        with pytest.raises(InvalidInput, match="eval"):
            verb()


def test_nor_does_one_with_an_adapter_in_training_mode(make: Any, facts: list[MemCube]) -> None:
    model = make()
    model.model.add_adapter(LoraConfig(target_modules=["k_proj"], lora_dropout=0.5))
    model.model.get_submodule("model.layers.0.self_attn.k_proj").train()
    with pytest.raises(InvalidInput, match="eval"):
        model.encode(facts)
    model.model.eval()
    assert model.encode(facts)


def test_noise_is_no_rounding() -> None:
    model, ids = model_of("llama", attention_dropout=0.3), list(range(20, 80))
    cache = prefill(model, ids)
    assert verify(model, ids, cache).passed
    model.train()
    noisy = verify(model, ids, prefill(model, ids))
    assert not noisy.passed
    assert noisy.floor > noisy.allowed
