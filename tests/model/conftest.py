"""Small models that read memories, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memos_core import MemCube, View
from memos_core.model import MemoryModel
from tests.model.models import FACTS, model_of, tokenizer_with


@pytest.fixture(autouse=True, scope="module")
def in_one_thread(one_thread: None) -> None:
    """All of these models are small."""


@pytest.fixture
def make(ann: View, tmp_path: Path) -> Iterator[Callable[..., MemoryModel]]:
    """Makes models that share a folder; of one name the same each time."""
    made: list[MemoryModel] = []

    def new(name: str = "llama", memos: View | None = ann, **options: Any) -> MemoryModel:
        template = options.pop("template", "gemma" if name.startswith("gemma") else "chatml")
        shape = options.pop("shape", {})
        model = MemoryModel(
            options.pop("model", None) or model_of(name, **shape),
            options.pop("tokenizer", None) or tokenizer_with(template),
            memos,
            folder=options.pop("folder", tmp_path / "kv"),
            **options,
        )
        made.append(model)
        return model

    yield new
    for model in made:
        model.close()


@pytest.fixture
def facts(ann: View) -> list[MemCube]:
    return ann.add(FACTS)
