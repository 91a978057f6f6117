"""A memory, through both of its faces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from memos_core import View
from memos_llamaindex import MemOSMemory, registry
from tests.llamaindex.scripted import (
    words,
)


@pytest.fixture
def memory(ann: View) -> MemOSMemory:
    return MemOSMemory.from_defaults(memos=ann, session_id="s1", tokenizer_fn=words)


@pytest.fixture(params=["sync", "async"])
def call(request) -> Callable[..., Any]:
    """Calls a method, or awaits its twin: one suite for both faces."""

    def run(memory: MemOSMemory, name: str, *args: Any, **kwargs: Any) -> Any:
        if request.param == "sync":
            return getattr(memory, name)(*args, **kwargs)
        return asyncio.run(getattr(memory, f"a{name}")(*args, **kwargs))

    return run


@pytest.fixture(autouse=True)
def nothing_attached():
    """Leave no name behind for the next test."""
    yield
    registry.attached.clear()
    registry.in_use.clear()
