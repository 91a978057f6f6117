"""Where an answer ends, and what is of it then."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from memos_core import MemCube
from memos_core.model import Generation, MemoryModel
from memos_core.model.stopping import Ending, StopTexts
from tests.model.models import tokenizer_with
from tests.model.test_streaming import bytes_of, like_llama_2

ASKED = [{"role": "user", "content": "What must she not eat?"}]
LONGER = [{"role": "user", "content": "Where is the black cat named Misha, and who repaired it?"}]
SHORT = [{"role": "user", "content": "Hi"}]
TOKENIZER = tokenizer_with()
END, TURN = TOKENIZER.convert_tokens_to_ids(["</s>", "<end_of_turn>"])
NEW = 12


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def ending(*texts: str, tokens: tuple[int, ...] = (END,)) -> Ending:
    return Ending(tokenizer=TOKENIZER, tokens=frozenset(tokens), texts=texts)


def test_an_answer_ends_before_a_token_that_ends_it() -> None:
    said = ids("bread and butter")
    assert ending().of([*said, END, 0, 0]) == (tuple(said), "bread and butter", True)
    assert ending().of(said) == (tuple(said), "bread and butter", False)
    tokens, text, ended = ending(tokens=(said[-1],)).of(said)
    assert (tokens, ended) == (tuple(said[:-1]), True)
    assert "bread and butter".startswith(text)


def test_an_answer_ends_with_the_token_that_completes_a_stop_string() -> None:
    said = ids("bread and butter and tea")
    tokens, text, ended = ending("and").of([*said, 0, 0])
    assert (text, ended) == ("bread ", True)
    assert tokens == tuple(said[: len(tokens)])
    assert "and" in TOKENIZER.decode(tokens)
    assert "and" not in TOKENIZER.decode(tokens[:-1])


@pytest.mark.parametrize("tokenizer", [TOKENIZER, like_llama_2()], ids=["bytes", "fallback"])
def test_a_stop_string_is_seen_with_the_token_that_completes_it(tokenizer: Any) -> None:
    drawn = random.Random(7)
    for stops in (("e",), ("in",), (" a", "ow"), ("é", "eats bread"), ("Oslo with a", "\n")):
        ends = Ending(tokenizer=tokenizer, tokens=frozenset(), texts=stops)
        for _ in range(40):
            row = [drawn.randrange(len(tokenizer)) for _ in range(60)]
            first = next((n for n in range(1, 61) if ends.stops(row[:n])), None)
            seen = next((n for n in range(1, 61) if ends.stops_now(row[:n])), None)
            assert seen == first


def test_a_stop_string_is_seen_in_a_text_of_single_bytes() -> None:
    tokenizer = like_llama_2()
    row = tokenizer.convert_tokens_to_ids(bytes_of("東京は夜の七時。" * 12 + "終"))
    ends = Ending(tokenizer=tokenizer, tokens=frozenset(), texts=("終",))
    assert [n for n in range(1, len(row) + 1) if ends.stops_now(row[:n])] == [len(row)]


def test_only_the_end_of_a_long_answer_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    text = Ending.text

    def noted(self: Ending, row: list[int]) -> str:
        decoded.append(len(row))
        return text(self, row)

    monkeypatch.setattr(Ending, "text", noted)
    assert not ending("zzzz").stops_now(ids("Ann lives in Oslo. ") * 500)
    assert sum(decoded) < 100


def test_what_decoding_drops_has_no_stop_string() -> None:
    assert not ending("_").stops([*ids("tea"), TURN, *ids("tea")])
    assert ending("atea").stops([*ids("tea a"), TURN, *ids("tea")])


def test_only_what_was_generated_has_stop_strings() -> None:
    prompt, said = ids("assistant\n"), ids("is tea")
    rows = torch.tensor([[*prompt, *said], [*prompt, *said[:-1], said[0]]])
    of = StopTexts(ending("\nis", "tea"), len(prompt))
    assert of(rows, torch.empty(0)).tolist() == [True, False]  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------ in a model


def whole_of(model: MemoryModel, facts: list[MemCube], **options: Any) -> Generation:
    return model.generate(ASKED, memory=facts, max_new_tokens=NEW, **options)


def test_the_end_of_the_prompt_is_no_part_of_a_stop_string(make: Any, facts: list[MemCube]) -> None:
    model = make()
    whole = whole_of(model, facts)
    stop = "\n" + whole.text[:2]  # the prompt ends with a line break
    assert whole_of(model, facts, stop=stop).text == whole.text
    stream = model.stream(ASKED, memory=facts, max_new_tokens=NEW, stop=stop)
    assert "".join(stream) == whole.text


@pytest.mark.parametrize("beams", [1, 3])
def test_each_row_of_a_batch_ends_by_itself(make: Any, facts: list[MemCube], beams: int) -> None:
    model = make()
    cache = model.encode(facts, order="given")
    given = {"memory": cache, "max_new_tokens": NEW, "num_beams": beams}
    stop = model.generate(LONGER, **given).text[4:6]
    alone = [model.generate(one, stop=stop, **given) for one in (ASKED, LONGER, SHORT)]
    rows = model.generate_batch([ASKED, LONGER, SHORT], stop=stop, **given)
    assert alone[1].finish_reason == "stop"
    assert len(alone[1].token_ids) < NEW
    for row, one in zip(rows, alone, strict=True):
        assert (row.text, row.token_ids) == (one.text, one.token_ids)
        assert row.finish_reason == one.finish_reason


def test_tokens_that_an_option_names_end_an_answer(make: Any, facts: list[MemCube]) -> None:
    model = make()
    whole = whole_of(model, facts)
    place = 4
    answer = whole_of(model, facts, eos_token_id=[whole.token_ids[place], END])
    assert answer.token_ids == whole.token_ids[: whole.token_ids.index(whole.token_ids[place])]
    assert answer.finish_reason == "stop"
    assert whole.text.startswith(answer.text)
    assert whole_of(model, facts, eos_token_id=None).finish_reason == "length"


def test_what_runs_out_of_time_is_interrupted(make: Any, facts: list[MemCube]) -> None:
    model = make()
    answer = whole_of(model, facts, max_time=1e-9)
    assert answer.finish_reason == "interrupted"
    assert len(answer.token_ids) == 1


def test_a_stream_that_is_closed_is_interrupted(make: Any, facts: list[MemCube]) -> None:
    with make().stream(ASKED, memory=facts, max_new_tokens=300, eos_token_id=None) as stream:
        next(stream)
    assert stream.result.finish_reason == "interrupted"
