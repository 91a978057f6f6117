"""Conversations in files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from memos_core.errors import InvalidInput


def messages_in(path: Path) -> list[dict[str, Any]]:
    """Read chat messages from a JSON or JSON Lines file; ``-`` is standard input.

    A list of messages, ``{"messages": [...]}``, ``{"sessions": [{"id", "messages"}]}``, or one
    message a line; a session's id goes to its messages.

    Raises:
        InvalidInput: the file cannot be read, or holds something else.
    """
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        text = raw.decode("utf-8-sig")  # a mark of the byte order is no text
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is no UTF-8 text: {error}") from error
    try:
        return list(_messages(_values(path, text), None))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path} is neither JSON nor JSON Lines: {error}") from error


def _values(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        whole = error
    values: list[object] = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            values += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            if not values:  # so these are no JSON Lines
                raise whole from None
            raise InvalidInput(f"line {number} of {path} is no JSON: {error.msg}") from error
    return values


def _messages(value: object, session: str | None) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _messages(inner, session)
    elif isinstance(value, Mapping):
        record = cast("Mapping[str, Any]", value)
        if "sessions" in record or "messages" in record:
            inside = record.get("sessions", record.get("messages"))
            yield from _messages(inside, record.get("id", session))
        elif session is None:
            yield dict(record)
        else:
            yield {"session": session, **record}
    else:
        raise InvalidInput(
            "expected chat messages such as "
            f"""{{"role": "user", "content": "Hello."}}, found {type(value).__name__}"""
        )
