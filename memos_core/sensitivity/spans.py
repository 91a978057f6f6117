"""Stretches of a text, as the positions where they start and end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order, those that overlap as one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def replaced(text: str, changes: Iterable[tuple[int, int, str]]) -> str:
    """Return a text with something else in some of its spans."""
    pieces: list[str] = []
    position = 0
    for start, end, instead in changes:
        pieces += text[position:start], instead
        position = end
    return "".join([*pieces, text[position:]])


def covered(text: str, spans: Iterable[Span]) -> str:
    """Return a text as long as it was, with what no search tells from ``[kind]`` in the spans."""
    return replaced(text, ((start, end, f"[{'a' * (end - start - 2)}]") for start, end in spans))
