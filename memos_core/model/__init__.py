"""Tensors: the only room that loads torch.

>>> from memos_core.model import MemoryModel  # doctest: +SKIP

Names are loaded when they are asked for: ``memos_core`` itself needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memos_core.model.architecture import context_window as context_window
    from memos_core.model.fingerprint import Fingerprint as Fingerprint
    from memos_core.model.generation import Generation as Generation
    from memos_core.model.generation import Read as Read
    from memos_core.model.generation import Stream as Stream
    from memos_core.model.layout import Layout as Layout
    from memos_core.model.layout import Prompt as Prompt
    from memos_core.model.level import Budgets as Budgets
    from memos_core.model.level import LevelStats as LevelStats
    from memos_core.model.level import ResidencyStats as ResidencyStats
    from memos_core.model.memory_model import MemoryModel as MemoryModel
    from memos_core.model.quantization import Quantization as Quantization
    from memos_core.model.tool_calls import AnswerReader as AnswerReader
    from memos_core.model.tool_calls import BrokenToolCall as BrokenToolCall
    from memos_core.model.tool_calls import Said as Said
    from memos_core.model.tool_calls import Thought as Thought
    from memos_core.model.tool_calls import ToolCall as ToolCall
    from memos_core.model.tool_calls import said_in as said_in
    from memos_core.model.tool_syntax import ToolSyntax as ToolSyntax
    from memos_core.model.verification import Verification as Verification

_HOMES = {
    "AnswerReader": "tool_calls",
    "BrokenToolCall": "tool_calls",
    "Budgets": "level",
    "Fingerprint": "fingerprint",
    "Generation": "generation",
    "Layout": "layout",
    "LevelStats": "level",
    "MemoryModel": "memory_model",
    "Prompt": "layout",
    "Quantization": "quantization",
    "Read": "generation",
    "ResidencyStats": "level",
    "Said": "tool_calls",
    "Stream": "generation",
    "Thought": "tool_calls",
    "ToolCall": "tool_calls",
    "ToolSyntax": "tool_syntax",
    "Verification": "verification",
    "context_window": "architecture",
    "said_in": "tool_calls",
}
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ImportError as error:
        raise ImportError(
            f"{name} needs {error.name}: pip install 'memos-memory[model]'", name=error.name
        ) from error
