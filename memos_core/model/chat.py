"""A call of a chat model, as frameworks make it: which memories, which tools, how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from memos_core.cube import MemCube
from memos_core.errors import InvalidInput
from memos_core.model.memory import Memory
from memos_core.model.pieces import Deadline, Whole
from memos_core.model.tool_calls import AnswerReader, Said, said_in

if TYPE_CHECKING:
    from memos_core.model.generation import Generation, Stream
    from memos_core.model.memory_model import MemoryModel
    from memos_core.model.tool_syntax import ToolSyntax
    from memos_core.model.turns import Message

# What "temperature" decides, in transformers' words.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
_CHOICES = {"auto": None, "required": "any", "any": "any", "none": "none", True: "any"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """What a chat model does where a call says nothing; times are in seconds."""

    recall: int
    max_tokens: int
    stop: str | Sequence[str] | None
    temperature: float | None
    timeout: float | None
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A call of ``MemoryModel.stream``, and how its answer is read."""

    model: MemoryModel
    name: str  # what the model is called
    syntax: ToolSyntax
    turns: Sequence[Message]
    given: Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]]
    one_call: bool

    def begin(self) -> Stream | Whole:
        """Let the model begin; the memory is looked up here."""
        config = cast("Any", self.model.model.generation_config)
        if (self.given.get("num_beams") or config.num_beams or 1) != 1:
            return Whole(self.model.generate(self.turns, **self.given))  # its first token is last
        return self.model.stream(self.turns, **self.given)

    def reader(self) -> AnswerReader:
        """Return what takes the answer apart while it comes."""
        return AnswerReader(self.tools, thinking=self.syntax.begins_in_thought)

    def said(self, generation: Generation) -> Sequence[Said]:
        """Return the parts of a whole answer."""
        return said_in(generation.text, self.tools, thinking=self.syntax.begins_in_thought)


def call_of(
    model: MemoryModel,
    *,
    name: str,
    syntax: ToolSyntax,
    turns: Sequence[Message],
    memory: Memory | list[str] | None,
    given: Mapping[str, Any],
    defaults: Defaults,
) -> Call:
    """Return a call with the options that are given for it.

    They are ``recall``, ``tools``, ``tool_choice``, ``parallel_tool_calls``, ``stop``,
    ``temperature``, ``max_tokens``, ``timeout`` and those of transformers' ``generate``.

    Raises:
        InvalidInput: one is none of these, or cannot be used with this model.
    """
    rest = dict(given)
    tools, held = _tools_of(syntax, rest)
    stop = rest.pop("stop", None)
    options: dict[str, Any] = {
        "memory": memory or None,
        "recall": rest.pop("recall", defaults.recall),
        "tools": tools or None,
        "max_new_tokens": rest.pop("max_tokens", defaults.max_tokens),
        "stop": (defaults.stop if stop is None else stop) or (),
    }
    temperature = rest.pop("temperature", defaults.temperature)
    timeout = rest.pop("timeout", defaults.timeout)
    one_call = rest.pop("parallel_tool_calls", True) is False
    options |= _options_of(model, {**defaults.options, **rest}, temperature)
    options["logits_processor"] = [
        *([syntax.held_to(held)] if held else []),
        *([Deadline(timeout)] if timeout is not None else []),
    ]
    return Call(
        model=model,
        name=name,
        syntax=syntax,
        turns=turns,
        given=options,
        tools=tools,
        one_call=one_call,
    )


def checked_model(model: Any) -> Any:
    """Return a MemoryModel, which this module does not load.

    Raises:
        InvalidInput: it is none.
    """
    if not all(hasattr(model, name) for name in ("generate", "stream", "layout")):
        raise InvalidInput(
            f"model is a MemoryModel, not {type(model).__name__}: "
            "from memos_core.model import MemoryModel; MemoryModel.from_pretrained(name, view)"
        )
    return model


def name_of(model: MemoryModel) -> str:
    """Return what a model was loaded by, else what it is."""
    config = cast("Any", model.model.config)
    return str(getattr(config, "name_or_path", "") or config.model_type)


def memory_of(memory: object) -> Memory | list[str] | None:
    """Return a view as it is, or the ids of cubes.

    Raises:
        InvalidInput: it is neither.
    """
    if memory is None or isinstance(memory, Memory):
        return memory
    if isinstance(getattr(memory, "blocking", None), Memory):
        raise InvalidInput("memory is a view for blocking code: of an AsyncView, pass .blocking")
    alone = isinstance(memory, MemCube | UUID | str | Mapping) or not isinstance(memory, Iterable)
    given: list[object] = [memory] if alone else list(cast("Iterable[object]", memory))
    ids = [
        str(one.id if isinstance(one, MemCube) else one)
        for one in given
        if isinstance(one, MemCube | UUID | str)
    ]
    if len(ids) < len(given):
        kind = type(cast("object", memory)).__name__
        raise InvalidInput(f"memory is a view, or cubes or their ids, not {kind}")
    return ids


def checked_choice(choice: object, tools: Iterable[Mapping[str, Any]]) -> str | None:
    """Return "any", "none", the name of one of the tools, or None where the model decides.

    Raises:
        InvalidInput: it is none of these, or the tools are not in OpenAI's format.
    """
    names = _names_of(tools)
    if isinstance(choice, Mapping):
        chosen = cast("Mapping[str, Any]", choice)
        choice = cast("Mapping[str, Any]", chosen.get("function") or chosen).get("name")
        if choice is None:
            choice = chosen.get("type")
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


def _tools_of(syntax: ToolSyntax, given: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Take from a call's options the tools to show, and the names of those one of which must be."""
    tools: list[dict[str, Any]] = list(given.pop("tools", None) or [])
    names = _names_of(tools)
    choice = checked_choice(given.pop("tool_choice", None), tools)
    if not tools and choice == "any":
        raise InvalidInput("tool_choice wants a tool, and there is none: give the model tools")
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


def _names_of(tools: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of tools in OpenAI's format, which chat templates take."""
    try:
        return [tool["function"]["name"] for tool in tools]
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            'a tool is {"type": "function", "function": …}, which frameworks make of functions and '
            "schemas where tools are bound"
        ) from error


def _options_of(
    model: MemoryModel, given: Mapping[str, Any], temperature: object
) -> dict[str, Any]:
    """Return options of transformers' ``generate``."""
    config = cast("Any", model.model.generation_config)
    if unknown := [name for name in given if not hasattr(config, name)]:
        raise InvalidInput(
            f"{unknown[0]} is no option of a call: there are memory, recall, model, tools, "
            "tool_choice, parallel_tool_calls, stop, temperature, max_tokens, timeout and what "
            "transformers' generate takes, such as top_p"
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


def facts_of(generation: Generation, name: str) -> dict[str, Any]:
    """Return what is known of an answer, as plain JSON: the model's name, what it read, and how."""
    return {
        "model_name": name,
        "finish_reason": generation.finish_reason,
        "ttft_seconds": generation.ttft_seconds,
        "memories": [
            {
                "id": str(read.cube),
                "version": read.version,
                "kind": str(read.kind),
                "tokens": read.tokens,
                "approximate": read.approximate,
            }
            for read in generation.reads
        ],
    }
