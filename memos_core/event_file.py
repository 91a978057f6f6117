"""The audit log as a file of JSON lines."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

from memos_core.errors import InvalidInput
from memos_core.hit import Event


def as_record(event: Event) -> dict[str, object]:
    """Return an event as JSON values."""
    return {
        "id": event.id,
        "at": event.at.isoformat(),
        "kind": event.kind,
        "namespace": list(event.namespace),
        "user": event.user,
        "cube_ids": list(map(str, event.cube_ids)),
        "details": dict(event.details),
    }


@contextmanager
def written_lines(
    path: Path, *, overwrite: bool
) -> Generator[Callable[[Iterable[dict[str, object]]], None]]:
    """Write JSON lines to a file that appears when the block has ended, whole or not at all.

    Raises:
        InvalidInput: it is there already, or cannot be written.
    """
    if path.exists() and not overwrite:
        raise InvalidInput(f"{path} exists already: name another file, or pass overwrite=True")
    partial: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=".memos-", delete=False
        ) as file:
            partial = Path(file.name)

            def write(records: Iterable[dict[str, object]]) -> None:
                for record in records:
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")

            yield write
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if partial is not None:
            with suppress(FileNotFoundError):
                partial.unlink()
