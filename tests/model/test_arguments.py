"""What cannot be used is said before anything is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memos_core import InvalidInput, Kind, MemCube
from memos_core.errors import ModelUnsupported
from memos_core.model import MemoryModel
from memos_core.model.arguments import opening_of
from tests.model.models import model_of, tokenizer_with

ASKED = [{"role": "user", "content": "What must she not eat?"}]

ENCODED: dict[str, dict[str, Any]] = {
    "quantization is one of none, int8, int4": {"quantization": "int3", "max_kl": 1},
    "kind is one of": {"kind": "foo"},
    "order is reuse or given": {"order": "foo"},
    "approximate is a share": {"approximate": True, "max_kl": 1},
    "from 0 to 1, not '0.1'": {"approximate": "0.1", "max_kl": 1},
    "from 0 to 1, not nan": {"approximate": float("nan"), "max_kl": 1},
    "of nats from 0, not 'a'": {"max_kl": "a"},
    "of nats from 0, not -1": {"max_kl": -1},
    "of nats from 0, not nan": {"max_kl": float("nan")},
    "room is .*, not 'a'": {"room": "a"},
    "room is .*, not -1000": {"room": -1000},
    "room is .*, not True": {"room": True},
    "continuations are a list": {"continuations": "What is it"},
    "of texts, not .5": {"continuations": [5]},
    "content is 5": {"system": 5},
    "tools are a list": {"tools": ["x"]},
    "functions, not 'x'": {"tools": "x"},
}


@pytest.mark.parametrize("why", ENCODED)
def test_what_cannot_be_encoded(make: Any, facts: list[MemCube], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        make().encode(facts, **ENCODED[why])


def test_tools_that_are_none(make: Any) -> None:
    with pytest.raises(InvalidInput, match="tools are a list"):
        make().generate(ASKED, tools=["x"])
    with pytest.raises(InvalidInput, match="tools are a list"):
        make().prefetch([], tools={"name": "x"})


def test_a_system_text_may_have_parts_as_in_messages(make: Any, facts: list[MemCube]) -> None:
    model, parts = make(), [{"type": "text", "text": "Answer briefly."}]
    cache = model.encode(facts, system=parts)
    turns = [{"role": "system", "content": parts}, *ASKED]
    assert model.generate(turns, memory=cache, max_new_tokens=2).cached_tokens > 0
    assert opening_of(parts, None) == opening_of("Answer briefly.", None)


def test_a_layout_that_is_none() -> None:
    with pytest.raises(InvalidInput, match="layout="):
        MemoryModel(model_of("llama"), tokenizer_with(), layout="chatml")  # type: ignore[arg-type]


def test_conversations_that_are_none(make: Any) -> None:
    with pytest.raises(InvalidInput, match="conversations"):
        make().generate_batch(None)


def test_a_blank_name(make: Any, facts: list[MemCube]) -> None:
    with pytest.raises(InvalidInput, match="name"):
        make().encode(facts, name="")


def undescribed(place):
    return place


def untyped(place):
    """Say the weather.

    Args:
        place: where
    """
    return place


@pytest.mark.parametrize("tool", [{"name": {1, 2}}, lambda place: place, undescribed, untyped])
def test_tools_that_have_no_schema(make: Any, tool: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot be described"):
        make().generate(ASKED, tools=[tool])
    with pytest.raises(InvalidInput, match="cannot be described"):
        make().prefetch([], tools=[tool])


@pytest.mark.parametrize("kinds", [["foo"], [], ["activation"], ["plaintext", "parametric"], 5, {}])
def test_kinds_that_are_not_read(kinds: Any) -> None:
    with pytest.raises(InvalidInput, match="kinds"):
        MemoryModel(model_of("llama"), tokenizer_with(), kinds=kinds)


def test_one_kind_is_a_kind(make: Any, facts: list[MemCube]) -> None:
    with pytest.raises(ModelUnsupported, match="activation"):
        make(kinds=Kind.PLAINTEXT).encode(facts)


def test_what_was_encoded_before_keeps_its_name(make: Any, facts: list[MemCube]) -> None:
    model = make()
    first = model.encode(facts, name="core")
    assert model.encode(facts, name="other") == first
    assert first.text == "core"


def test_a_tokenizer_is_found_where_its_model_is(tmp_path: Path) -> None:
    model_of("llama").save_pretrained(tmp_path / "inner")
    tokenizer_with().save_pretrained(tmp_path / "inner")
    with MemoryModel.from_pretrained(
        tmp_path, folder=tmp_path / "kv", subfolder="inner", local_files_only=True
    ) as loaded:
        assert loaded.generate(ASKED, max_new_tokens=2).text
