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
from memos_core.model.architecture import text_config
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
    "synced_gpus": "this library: a model runs in one process",
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
    given = {**said, **_FIXED, "max_new_tokens": new, "pad_token_id": _pad(model, tokenizer)}
    _check_least(said.get("min_new_tokens", own.min_new_tokens))
    _check_called(said)
    config, changing = _prepared(model, given)
    _check_numbers(config)
    _check_tokens(changing, text_config(model).vocab_size)
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

    It prepares an answer as for a prompt of one token, and nothing is decoded. What that prompt's
    length is compared with is left out, as the warning would be of another length.
    """
    made: list[Any] = []

    def decode(_: object, ids: torch.Tensor, **prepared: Any) -> torch.Tensor:
        made[:] = prepared["generation_config"], prepared["logits_processor"]
        return ids

    ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    mask = torch.ones_like(ids)
    try:
        cast("Any", model).generate(
            ids, attention_mask=mask, custom_generate=decode, **{**given, "min_new_tokens": None}
        )
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise InvalidInput(f"these options cannot be used: {error}") from error
    config, changing = made
    return config, changing


def _checked_number(number: object, what: str) -> int:
    if type(number) is not int or number < 1:
        raise InvalidInput(f"{what} must be a whole number from 1, not {number!r}")
    return number


def _check_least(number: object) -> None:
    if number is not None and (type(number) is not int or number < 0):
        raise InvalidInput(f"min_new_tokens must be a whole number from 0, not {number!r}")


def _check_called(said: Mapping[str, Any]) -> None:
    """Refuse what ``generate`` would call after each token and cannot."""
    called = said.get("logits_processor")
    if called is not None and not (
        isinstance(called, list | tuple) and all(map(callable, cast("Sequence[object]", called)))
    ):
        raise InvalidInput(f"logits_processor must be a list of processors, not {called!r}")
    allowing = said.get("prefix_allowed_tokens_fn")
    if allowing is not None and not callable(allowing):
        raise InvalidInput(f"prefix_allowed_tokens_fn must be a function, not {allowing!r}")


def _check_numbers(config: Any) -> None:
    time: object = config.max_time
    if time is not None and not (type(time) in (int, float) and cast("float", time) >= 0):
        raise InvalidInput(f"max_time must be a number of seconds from 0, not {time!r}")
    if config.prefill_chunk_size is not None:
        _checked_number(config.prefill_chunk_size, "prefill_chunk_size")


def _check_tokens(changing: Sequence[object], known: int) -> None:
    """Refuse tokens that a model of ``known`` tokens does not have, where logits are changed."""
    named: set[int] = set()
    for one in changing:
        if isinstance(one, processors.SequenceBiasLogitsProcessor):  # bad words are such too
            named.update(token for tokens in cast("Any", one).sequence_bias for token in tokens)
        if isinstance(one, processors.ForcedEOSTokenLogitsProcessor):
            named.update(cast("list[int]", cast("Any", one).eos_token_id.tolist()))
    if others := sorted(token for token in named if token >= known):
        raise InvalidInput(f"the model has {known} tokens, and these are none: {others}")


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


def _pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return a token that the model knows to fill rows up with; which it is says nothing."""
    known = text_config(model).vocab_size
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int) and token < known:
            return token
    return 0
