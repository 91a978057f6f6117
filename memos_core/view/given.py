"""What an adapter is given as its memory."""

from __future__ import annotations

from memos_core.errors import InvalidInput
from memos_core.view import View


def checked_view(memos: object) -> View:
    """Return a MemOS or a view of one.

    Raises:
        InvalidInput: it is neither.
    """
    if not isinstance(memos, View):
        raise InvalidInput(
            f"memos is a MemOS or a view of one, not {type(memos).__name__}: of an AsyncMemOS "
            "or an AsyncView, pass .blocking"
        )
    return memos
