"""What is installed on request."""

from __future__ import annotations


def missing(error: ModuleNotFoundError, *, package: str, extra: str) -> ModuleNotFoundError:
    """Return the error that says which extra brings a module; one of this project's as it is."""
    if (error.name or "").startswith("memos_"):
        return error
    return ModuleNotFoundError(
        f"{package} needs {error.name}: pip install 'memos-memory[{extra}]'", name=error.name
    )
