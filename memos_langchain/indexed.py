"""By what texts an item of a store is found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import cast

from langgraph.store.base import get_text_at_path, tokenize_path

from memos_core import InvalidInput


def checked_fields(fields: object) -> list[str]:
    """Return the paths of an index; all of a value by default.

    Raises:
        InvalidInput: no paths.
    """
    if fields is None:
        return ["$"]
    if isinstance(fields, str) or not isinstance(fields, Sequence):
        raise InvalidInput(f"fields to be found by are a list of paths, not {fields!r}")
    paths = list(cast("Sequence[object]", fields))
    if not all(isinstance(path, str) and path for path in paths):
        raise InvalidInput(f"a field to be found by is a path such as 'a.b[*].c', not {paths!r}")
    return cast("list[str]", paths)


def texts_of(fields: Sequence[str], value: Mapping[str, object]) -> list[str]:
    """Return the texts by which a value is found, each once."""
    found: list[str] = []
    for path in fields:
        found += (
            ["\n".join(_leaves(value))] if path == "$" else get_text_at_path(value, _steps(path))
        )
    return list(dict.fromkeys(found))


@lru_cache(maxsize=1024)
def _steps(path: str) -> list[str]:
    return tokenize_path(path)


def _leaves(value: object) -> Iterator[str]:
    """Return what a value says, a line for each leaf; a value of one leaf is that leaf."""
    lines = list(_named(value, ""))
    yield from (text if len(lines) == 1 else f"{name}: {text}" for name, text in lines)


def _named(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, object]", value).items():
            yield from _named(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _named(inner, path)
    elif value is not None:
        yield path, str(value)
