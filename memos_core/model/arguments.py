"""What a caller of ``MemoryModel`` passes, checked before anything is done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar, cast

from torch import nn
from transformers.utils.chat_template_utils import (
    DocstringParsingException,
    TypeHintParsingException,
)

from memos_core.cube import Kind
from memos_core.errors import InvalidInput
from memos_core.model.choosing import Opening
from memos_core.model.form import Form
from memos_core.model.quantization import Quantization
from memos_core.model.turns import Tool, checked_messages, schemas_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_One = TypeVar("_One", bound=StrEnum)


def one_of(kind: type[_One], value: object, what: str) -> _One:
    """Return the member of an enumeration that a value names.

    Raises:
        InvalidInput: it names none.
    """
    try:
        return kind(value)
    except ValueError:
        raise InvalidInput(f"{what} is one of {', '.join(kind)}, not {value!r}") from None


def checked_kinds(kinds: Iterable[Kind | str]) -> frozenset[Kind]:
    """Return the kinds in which memories may be read.

    Raises:
        InvalidInput: text is not among them, or one that is not read.
    """
    named = kinds if _is_list(kinds) else [cast("str", kinds)]
    found = frozenset(one_of(Kind, kind, "one of kinds") for kind in named)
    if Kind.PLAINTEXT not in found or Kind.PARAMETRIC in found:
        raise InvalidInput(
            "kinds are plaintext, or plaintext and activation: what has no KV cache is read as "
            f"text; not {kinds!r}"
        )
    return found


def checked_form(quantization: object, approximate: object, max_kl: object) -> Form:
    """Return the form in which memories are to be encoded.

    Raises:
        InvalidInput: there is none such, or it is not exact and ``max_kl`` says nothing.
    """
    how = one_of(Quantization, quantization, "quantization")
    if approximate is not None and not _is_number(approximate):
        raise InvalidInput(f"approximate is a share of tokens from 0 to 1, not {approximate!r}")
    if max_kl is not None and not (_is_number(max_kl) and cast("float", max_kl) >= 0):
        raise InvalidInput(f"max_kl is a number of nats from 0, not {max_kl!r}")
    form = Form(quantization=how, recompute=cast("float | None", approximate))
    if not form.exact and max_kl is None:
        raise InvalidInput("say with max_kl how far from a full prefill the cache may be")
    return form


def checked_room(room: object) -> int:
    """Return how many tokens are to be left free.

    Raises:
        InvalidInput: it is no such number.
    """
    if type(room) is not int or room < 0:
        raise InvalidInput(f"room is a whole number of tokens from 0, not {room!r}")
    return room


def checked_continuations(continuations: object) -> list[str]:
    """Return the texts with which a cache is checked.

    Raises:
        InvalidInput: they are no list of texts.
    """
    if continuations is None:
        return []
    texts = list(cast("Iterable[object]", continuations)) if _is_list(continuations) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidInput(f"continuations are a list of texts, not {continuations!r}")
    return cast("list[str]", texts)


def opening_of(system: object, tools: Sequence[Tool] | None) -> Opening:
    """Return what prompts begin with that have a system text, as in messages, and tools.

    Raises:
        InvalidInput: one of them is none.
    """
    check_tools(tools)
    if system is None:
        return Opening(None, tools)
    (turn,) = checked_messages([{"role": "system", "content": system}])
    return Opening(turn["content"], tools)


def check_tools(tools: object) -> None:
    """Refuse what is no list of tools.

    Raises:
        InvalidInput: it is none.
    """
    if tools is None:
        return
    given = cast("Sequence[object]", tools) if _is_list(tools) else [None]
    if not all(isinstance(tool, Mapping) or callable(tool) for tool in given):
        raise InvalidInput(f"tools are a list of JSON schemas and functions, not {tools!r}")
    try:
        schemas_of(cast("Sequence[Tool]", tools))
    except (TypeError, ValueError, DocstringParsingException, TypeHintParsingException) as error:
        raise InvalidInput(f"a tool cannot be described to the model: {error}") from error


def check_at_rest(model: PreTrainedModel) -> None:
    """Refuse a model in training mode: what it says of one text is another each time.

    Raises:
        InvalidInput: it is, or a dropout in it, as in an adapter that was added.
    """
    drops = (one for one in model.modules() if isinstance(one, nn.Dropout) and one.p > 0)
    if model.training or any(one.training for one in drops):
        raise InvalidInput("the model is in training mode: call model.eval() first")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping)
