"""The pieces of a stream are the text of its answer, whatever its tokenizer does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from memos_core import MemCube
from memos_core.model.generation import TextPieces
from memos_core.model.stopping import Ending
from memos_core.model.streaming import Streamer
from tests.model.models import tokenizer_with

ASKED = [{"role": "user", "content": "What must she not eat?"}]
WORDS = ["▁She", "▁eats", "\n", "▁bread", "▁.", "▁n't", "▁do", "▁,", "é", "</end>", "."]


def like_llama_2(**options: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer that marks spaces, drops the first, and falls back to bytes."""
    words = ["<unk>", *WORDS, *(f"<0x{byte:02X}>" for byte in range(256))]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", **options)  # noqa: S106


def streamed(tokenizer: Any, words: list[str], ends: list[str] | None = None) -> list[str]:
    """Return the pieces of tokens, which are together what is decoded of all."""
    ending = Ending(
        tokenizer=tokenizer,
        tokens=frozenset(tokenizer.convert_tokens_to_ids(ends or [])),
        texts=(),
    )
    pieces: list[str] = []
    streamer = Streamer(ending, TextPieces(pieces.append))
    streamer.put(torch.tensor([[1, 2, 3]]))  # the prompt
    ids = tokenizer.convert_tokens_to_ids(words)
    for token in ids:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert "".join(pieces) == ending.of(ids)[1]
    return pieces


def bytes_of(text: str) -> list[str]:
    return [f"<0x{byte:02X}>" for byte in text.encode()]


def test_a_line_keeps_its_first_space() -> None:
    words = ["▁She", "▁eats", "\n", "▁bread", "▁."]
    assert streamed(like_llama_2(), words) == ["She", " eats", "\n", " bread", " ."]


def test_characters_of_several_bytes_come_whole() -> None:
    pieces = streamed(like_llama_2(), ["▁She", *bytes_of("é🍞"), "▁eats", *bytes_of("🍞")])
    assert pieces == ["She", "é🍞 eats", "🍞"]
    streamed(like_llama_2(), ["▁She", *bytes_of("🍞🍞")[:-2]])
    level = tokenizer_with()
    pieces = streamed(level, level.tokenize("tea é🍞 tea"))
    assert not any("\ufffd" in piece for piece in pieces)
    streamed(level, level.tokenize("tea 🍞")[:-1])


def test_spaces_that_are_cleaned_up_are_not_passed_on() -> None:
    cleaned = like_llama_2(clean_up_tokenization_spaces=True)
    words = ["▁She", "▁do", "▁n't", "▁eats", "▁,", "▁bread", "▁."]
    assert "".join(streamed(cleaned, words)) == "She don't eats, bread."


def test_a_token_that_ends_an_answer_is_not_passed_on() -> None:
    words = ["▁She", "▁eats", "</end>", "▁bread"]
    assert streamed(like_llama_2(), words, ["</end>"]) == ["She", " eats"]


@pytest.mark.parametrize("stop", [[], ["\n"], ["ea"]])
def test_a_stream_of_a_model_is_its_text(make: Any, facts: list[MemCube], stop: list[str]) -> None:
    model = make(shape={"vocab_size": 500})
    for seed in range(5):
        torch.manual_seed(seed)
        stream = model.stream(
            ASKED, memory=facts, max_new_tokens=60, do_sample=True, top_k=0, stop=stop
        )
        assert "".join(stream) == stream.result.text
