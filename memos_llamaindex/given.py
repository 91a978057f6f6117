"""What LlamaIndex's models are given: fields that say what is wrong with it."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, SkipValidation

from memos_core import ChatFn, View
from memos_core.checks import checked_key
from memos_core.fusion import checked_resolve
from memos_core.view.given import checked_view


def _session(id: str) -> str:
    return checked_key(id, what="session_id")


GivenView: TypeAlias = Annotated[View, BeforeValidator(checked_view)]
GivenResolve: TypeAlias = Annotated[SkipValidation[bool | ChatFn], BeforeValidator(checked_resolve)]
GivenSession: TypeAlias = Annotated[str, AfterValidator(_session)]
