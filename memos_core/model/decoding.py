"""How one call of ``generate`` decodes: the model's settings, and what a caller asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import GenerationConfig
from transformers.generation import logits_process as processors
from transformers.generation.configuration_utils import GenerationMode

from memos_core.errors import InvalidInput
from memos_core.model.stopping import Ending

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FASTER = "this library: a KV cache is not combined with other ways to the same text"
# What this library passes to ``generate`` itself, and where a caller says what he means by it.
_OURS = {
    "input_ids": "the messages",
    "inputs": "the messages",
    "inputs_embeds": "the messages",
    "attention_mask": "the messages",
    "position_ids": "the messages",
    "past_key_values": "memory=",
    "cache_implementation": "memory=",
    "cache_config": "memory=",
    "use_cache": "memory=",
    "streamer": "stream()",
    "stopping_criteria": "stop=",
    "stop_strings": "stop=",
    "tokenizer": "the model's",
    "pad_token_id": "the tokenizer",
    "max_length": "max_new_tokens=",
    "min_length": "min_new_tokens=",
    "num_return_sequences": "a batch of equal conversations",
    "return_dict_in_generate": "the fields of Generation",
    "output_attentions": "the fields of Generation",
    "output_hidden_states": "the fields of Generation",
    "output_scores": "the fields of Generation",
    "output_logits": "the fields of Generation",
    "assistant_model": _FASTER,
    "assistant_tokenizer": _FASTER,
    "prompt_lookup_num_tokens": _FASTER,
    "assistant_early_exit": _FASTER,
    "use_mtp": _FASTER,
    "is_assistant": _FASTER,
    "custom_generate": _FASTER,
    "trust_remote_code": _FASTER,
}
# What stands for them where the settings of a model or a ``generation_config=`` have another.
_FIXED: dict[str, Any] = {
    "use_cache": True,
    "min_length": 0,  # it counts the prompt's tokens
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
} | dict.fromkeys(
    (
        "cache_implementation",
        "cache_config",
        "stop_strings",
        "max_length",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "prompt_lookup_num_tokens",
        "assistant_early_exit",
        "use_mtp",
        "is_assistant",
    )
)
_SETTINGS = frozenset(name for name in vars(GenerationConfig()) if not name.startswith("_"))
_BESIDE = {  # what ``generate`` takes that is no setting
    "generation_config",
    "logits_processor",
    "prefix_allowed_tokens_fn",
    "negative_prompt_ids",
    "negative_prompt_attention_mask",
    "synced_gpus",
}
_MODES = {
    GenerationMode.GREEDY_SEARCH,
    GenerationMode.SAMPLE,
    GenerationMode.BEAM_SEARCH,
    GenerationMode.BEAM_SAMPLE,
}
# They look at logits and the number of tokens after the prompt alone. Any other may look at the
# prompt's tokens, and at what fills rows of a batch up among them.
_BLIND_TO_PROMPT = {
    processors.TemperatureLogitsWarper,
    processors.TopHLogitsWarper,
    processors.TopKLogitsWarper,
    processors.TopPLogitsWarper,
    processors.MinPLogitsWarper,
    processors.TypicalLogitsWarper,
    processors.EpsilonLogitsWarper,
    processors.EtaLogitsWarper,
    processors.InfNanRemoveLogitsProcessor,
    processors.LogitNormalization,
    processors.SuppressTokensLogitsProcessor,
    processors.SuppressTokensAtBeginLogitsProcessor,
    processors.MinNewTokensLengthLogitsProcessor,
    processors.ExponentialDecayLengthPenalty,
    processors.ForcedEOSTokenLogitsProcessor,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How answers are decoded; ``given`` is what ``generate`` is passed for it.

    ``reads_prompt`` is whether something that changes logits may look at the prompt's tokens.
    """

    given: Mapping[str, Any]
    max_new_tokens: int
    ending: Ending
    beams: int
    reads_prompt: bool


def decoding_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    options: Mapping[str, Any],
    *,
    stop: object,
    max_new_tokens: object,
) -> Decoding:
    """Return how a model decodes with options, or else by its own settings.

    Raises:
        InvalidInput: ``generate`` cannot do that.
    """
    new, stops = _checked_number(max_new_tokens, "max_new_tokens"), _checked_stops(stop)
    said, own = _said(options), cast("Any", model.generation_config)
    beams = _checked_number(said.get("num_beams", own.num_beams or 1), "num_beams")
    stop_strings = said.get("stop_strings", own.stop_strings)
    given = {**said, **_FIXED, "max_new_tokens": new, "pad_token_id": _pad(tokenizer)}
    config, changing = _prepared(model, given)
    if config.max_time is not None and not isinstance(config.max_time, int | float):
        raise InvalidInput(f"max_time must be a number of seconds, not {config.max_time!r}")
    if (mode := config.get_generation_mode()) not in _MODES:
        raise InvalidInput(f"{mode.value} is not offered: answers are greedy, sampled, or of beams")
    return Decoding(
        given=given,
        max_new_tokens=new,
        ending=Ending(
            tokenizer=tokenizer,
            tokens=_checked_ends(config.eos_token_id),
            texts=stops or _checked_stops(stop_strings or ()),
        ),
        beams=beams,
        reads_prompt=any(type(one) not in _BLIND_TO_PROMPT for one in changing),
    )


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call, those of a ``generation_config=`` among them."""
    for name in options:
        if name in _OURS:
            raise InvalidInput(f"{name} is not passed to generate: it is decided by {_OURS[name]}")
        if name not in _SETTINGS | _BESIDE:
            raise InvalidInput(f"{name} is no option of transformers' generate")
    said = dict(options)
    config = said.pop("generation_config", None)
    if config is None:
        return said
    if not isinstance(config, GenerationConfig):
        raise InvalidInput(f"generation_config must be a GenerationConfig, not {config!r}")
    settings = {
        name: value
        for name, value in vars(config).items()
        if value is not None and name in _SETTINGS and name != "transformers_version"
    }
    return {**settings, **said}


def _prepared(model: PreTrainedModel, given: Mapping[str, Any]) -> tuple[Any, Sequence[object]]:
    """Return what transformers makes of options: all settings, and what changes logits.

    It prepares an answer as for any prompt, and nothing is decoded.
    """
    made: list[Any] = []

    def decode(_: object, ids: torch.Tensor, **prepared: Any) -> torch.Tensor:
        made[:] = prepared["generation_config"], prepared["logits_processor"]
        return ids

    ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    mask = torch.ones_like(ids)
    try:
        cast("Any", model).generate(ids, attention_mask=mask, custom_generate=decode, **given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidInput(f"these options cannot be used: {error}") from error
    config, changing = made
    return config, changing


def _checked_number(number: object, what: str) -> int:
    if type(number) is not int or number < 1:
        raise InvalidInput(f"{what} must be a whole number from 1, not {number!r}")
    return number


def _checked_ends(eos: object) -> frozenset[int]:
    ends = cast("Sequence[object]", eos) if isinstance(eos, list | tuple) else [eos]
    if eos is not None and not all(type(token) is int for token in ends):
        raise InvalidInput(f"eos_token_id must be a token or a list of tokens, not {eos!r}")
    return frozenset() if eos is None else cast("frozenset[int]", frozenset(ends))


def _checked_stops(stop: object) -> tuple[str, ...]:
    stops: tuple[object, ...] = (stop,) if isinstance(stop, str) else ()
    if isinstance(stop, list | tuple):
        stops = tuple(cast("Sequence[object]", stop))
    elif not isinstance(stop, str):
        raise InvalidInput(f"stop must be a text or texts, not {stop!r}")
    if not all(isinstance(one, str) and one for one in stops):
        raise InvalidInput(f"stop must be texts, none of them empty, not {stop!r}")
    return cast("tuple[str, ...]", stops)


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0
