"""What one call asks of a model: which memories, which tools, how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from llama_index.core.base.llms.types import ChatResponse

from memos_core import InvalidInput, MemCube, View
from memos_core import model as models
from memos_llamaindex.answers import Answer
from memos_llamaindex.streams import Whole
from memos_llamaindex.turns import Turn

if TYPE_CHECKING:
    from memos_core.model import Generation, MemoryModel, Stream, ToolSyntax

# What "temperature" decides, in transformers' words.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
_CHOICES = {"auto": None, "required": "any", "any": "any", "none": "none", True: "any"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A call of ``MemoryModel.stream``, and how its answer is read."""

    model: MemoryModel
    name: str
    syntax: ToolSyntax
    turns: Sequence[Turn]
    given: Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]]
    one_call: bool

    def begin(self) -> Stream | Whole:
        """Let the model begin; the memory is looked up here."""
        if self.given.get("num_beams", 1) != 1:  # then the first token is known last
            return Whole(self.model.generate(self.turns, **self.given))
        return self.model.stream(self.turns, **self.given)

    def answer(self) -> Answer:
        """Return what makes responses of the answer while it comes."""
        reader = models.AnswerReader(self.tools, thinking=self.syntax.begins_in_thought)
        return Answer(reader, self.name, one_call=self.one_call)

    def response(self, generation: Generation) -> ChatResponse:
        """Return the whole answer."""
        return self.answer().whole(generation)


def memory_of(memory: object) -> View | list[str] | None:
    """Return a view as it is, or the ids of cubes.

    Raises:
        InvalidInput: it is neither.
    """
    if memory is None or isinstance(memory, View):
        return memory
    if isinstance(getattr(memory, "blocking", None), View):
        raise InvalidInput("memory is a view for blocking code: of an AsyncView, pass .blocking")
    if isinstance(memory, MemCube | UUID | str):
        given: list[object] = [memory]
    elif isinstance(memory, Iterable) and not isinstance(memory, Mapping):
        given = list(cast("Iterable[object]", memory))
    else:
        given = [memory]
    ids = [str(one.id if isinstance(one, MemCube) else one) for one in given if _is_id(one)]
    if len(ids) < len(given):
        kind = type(cast("object", memory)).__name__
        raise InvalidInput(f"memory is a view, or cubes or their ids, not {kind}")
    return ids


def _is_id(one: object) -> bool:
    return isinstance(one, MemCube | UUID | str)


# ---------------------------------------------------------------- tools


def tools_of(syntax: ToolSyntax, given: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Take from a call's options the tools to show, and the names of those one of which must be.

    Raises:
        InvalidInput: the model cannot see them, or they cannot be chosen from.
    """
    tools: list[dict[str, Any]] = list(given.pop("tools", None) or [])
    names = _names_of(tools)
    choice = _checked_choice(given.pop("tool_choice", None), names)
    if not tools and choice == "any":
        raise InvalidInput("a tool is required, and there is none: pass tools")
    if not tools or choice == "none":
        return [], []
    if not syntax.shows_tools:
        raise InvalidInput(
            "the chat template shows a model no tools: pass MemoryModel a layout=Layout("
            "tokenizer, template=…) that does, or a model that was trained for tools"
        )
    if not syntax.calls_are_read:
        raise InvalidInput(
            f"the chat template writes tool calls as {syntax.start(names[0])!r}…, which is not "
            "read: pass MemoryModel a layout=Layout(tokenizer, template=…) with Hermes', Qwen's, "
            "Mistral's or Llama's, or another model"
        )
    if choice is None:
        return tools, []
    return tools, names if choice == "any" else [choice]


def _checked_choice(choice: object, names: Sequence[str]) -> str | None:
    """Return "any", "none", the name of a tool, or None where the model decides."""
    if isinstance(choice, Mapping):
        chosen = cast("Mapping[str, Any]", choice)
        choice = cast("Mapping[str, Any]", chosen.get("function") or chosen).get("name")
    if choice is None or choice is False:
        return None
    if choice in names:
        return cast("str", choice)
    if isinstance(choice, str | bool) and choice in _CHOICES:
        return _CHOICES[choice]
    raise InvalidInput(
        f"tool_choice is {choice!r}: pass 'auto', 'any', 'none' or the name of one of the tools "
        f"({', '.join(names) or 'there is none'})"
    )


def _names_of(tools: Iterable[Mapping[str, Any]]) -> list[str]:
    try:
        return [tool["function"]["name"] for tool in tools]
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            "tools are passed to chat_with_tools and the like, or given as "
            '{"type": "function", "function": …}'
        ) from error


# ---------------------------------------------------------------- options


def options_of(model: MemoryModel, given: Mapping[str, Any], temperature: object) -> dict[str, Any]:
    """Return options of transformers' ``generate``.

    Raises:
        InvalidInput: one is none of it, or the temperature is no number.
    """
    config = cast("Any", model.model.generation_config)
    if unknown := [name for name in given if not hasattr(config, name)]:
        raise InvalidInput(
            f"{unknown[0]} is no option of a call: there are memory, recall, tools, tool_choice, "
            "parallel_tool_calls, stop, temperature, max_tokens, timeout and what transformers' "
            "generate takes, such as top_p"
        )
    if temperature is None:
        return dict(given)
    if not isinstance(temperature, int | float) or temperature < 0:
        raise InvalidInput(f"temperature is a number from 0, not {temperature!r}")
    if temperature > 0:
        return {"do_sample": True, "temperature": float(temperature), **given}
    # What the model's settings say of sampling would be named as unused by each call.
    unused = {name: None for name in _SAMPLING if getattr(config, name, None) is not None}
    return {**unused, "do_sample": False, **given}
