"""A chat template and the tokenizer that reads what it writes: text to token ids."""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, cast

from jinja2.exceptions import TemplateError

from memos_core.errors import InvalidInput
from memos_core.model.tokens import Tokens
from memos_core.model.turns import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = logging.getLogger("memos_core")
PLAIN = """{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}

{% else %}{{ message.role | capitalize }}: {{ message.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""
_DIRECTIVES = "aAbBcdfGHIjmMpSuUVwWxXyYzZ%"  # of strftime


class Template:
    """Writes messages as a chat template does, and reads them as token ids.

    No text of a message becomes a control token: each that stands in one is marked when it is
    written, and read as text.

    Raises:
        InvalidInput: the tokenizer has several chat templates and none is the default.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None,
        *,
        options: Mapping[str, object],
        day: date,
    ) -> None:
        self._tokenizer = tokenizer
        self._options = dict(options)
        self._day = day
        mark = secrets.token_hex(8)  # nobody who writes a message knows it
        self._open, self._shut = f"OPEN{mark}", f"SHUT{mark}"
        if template is None and not cast("Any", tokenizer).chat_template:
            template = f"{{{{ {json.dumps(_own_start(tokenizer))} }}}}{PLAIN}"
            _log.warning("the tokenizer has no chat template: turns are written as lines of text")
        # As they are now; the second is for tools.
        self._sources = [_source(tokenizer, template, tools=tools) for tools in (False, True)]
        self._tokens = Tokens(tokenizer, "".join(self._sources))
        dated = any("strftime_now" in source for source in self._sources)
        self.shape: list[object] = [
            self._tokens.shape,
            cast("dict[str, object]", tokenizer.special_tokens_map),
            self._sources,
        ]
        """What of the tokenizer and its template shapes the ids."""
        self.settings: list[object] = [self._options, day.isoformat() if dated else None]
        """What the template is told."""

    def rendered(
        self, shown: Sequence[Message], tools: str | None, *, continue_final: bool = False
    ) -> str:
        """Return what the template makes of messages, with the control tokens in them marked.

        Raises:
            InvalidInput: it refuses them.
        """
        source = self._sources[tools is not None]
        if "strftime_now" in source:  # a macro is found before the function of the same name
            source = f"{_fixed(self._day)}\n{source}"
        try:
            text = cast("Any", self._tokenizer).apply_chat_template(
                [self._shown(message) for message in shown],
                tools=self._marked(json.loads(tools)) if tools else None,
                chat_template=source,
                add_generation_prompt=not continue_final,
                continue_final_message=continue_final,
                tokenize=False,
                **self._options,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidInput(f"the chat template refuses these messages: {error}") from error
        return cast("str", text)

    def _shown(self, message: Message) -> Message:
        marked = self._marked(message, special=message["role"] == "assistant")
        return {**marked, "role": message["role"]}  # which the template looks for

    def _marked(self, value: Any, *, special: bool = False) -> Any:
        """Return a value in whose texts each control token stands between marks.

        An answer may hold tokens that the template itself looks for, such as "</think>", and that
        decoding did not remove: only ``special`` ones are not the model's to say.
        """
        if isinstance(value, str):
            pattern = self._tokens.special if special else self._tokens.control
            return pattern.sub(lambda found: f"{self._open}{found.group()}{self._shut}", value)
        if isinstance(value, Mapping):
            pairs = cast("Mapping[str, Any]", value).items()
            # A plain name stays as it is: the template may look for it.
            return {
                key if str(key).isidentifier() else self._marked(key, special=special): marked
                for key, inner in pairs
                for marked in [self._marked(inner, special=special)]
            }
        if isinstance(value, list | tuple):
            return [self._marked(inner, special=special) for inner in cast("list[Any]", value)]
        return value

    def ids(self, text: str, *, inside: bool = False) -> tuple[int, ...]:
        """Return the ids of a text with marks; ``inside`` a prompt, after a line break."""
        ids: list[int] = []
        for place, piece in enumerate(re.split(f"{self._open}(.*?){self._shut}", text)):
            if piece:
                ids += self._tokens.of(piece, plain=place % 2 == 1, inside=inside or place > 0)
        return tuple(ids)

    def run(self, line: str) -> tuple[int, ...]:
        """Return the ids of a line that is text alone, whatever stands before and after it."""
        return tuple(self._tokens.of(line, plain=True, inside=True))


def _source(tokenizer: PreTrainedTokenizerBase, template: str | None, *, tools: bool) -> str:
    """Return the text of the template that is used with or without tools."""
    try:
        return cast(
            "str", cast("Any", tokenizer).get_chat_template(template, [] if tools else None)
        )
    except ValueError as error:
        raise InvalidInput(f"pass Layout a template=: {error}") from error


def _own_start(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the token with which a tokenizer begins each text by itself, or nothing."""
    first = cast("list[int]", cast("Any", tokenizer).encode("a"))[:1]
    return cast("str", tokenizer.bos_token) if first == [tokenizer.bos_token_id] else ""


def _fixed(day: date) -> str:
    """Return a macro that templates find in place of ``strftime_now``: it is always that day."""
    result = "format"
    for one in _DIRECTIVES:
        for directive in (f"%-{one}", f"%{one}"):
            result += f" | replace({json.dumps(directive)}, {json.dumps(day.strftime(directive))})"
    return f"{{% macro strftime_now(format) %}}{{{{ {result} }}}}{{% endmacro %}}"
