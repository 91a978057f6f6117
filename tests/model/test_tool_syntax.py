"""What chat templates make of tools is found out by asking them, and a model can be held to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memos_core import InvalidInput
from memos_core.model import Layout, ToolCall, ToolSyntax, said_in
from tests.model.models import CHATML, model_of, tokenizer_with

CALLS = "{% for call in message.tool_calls %}"
START = """{{ bos_token }}{% for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}"""
HERMES = (
    START
    + """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}"""
    + CALLS
    + """<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
)
THINKING = HERMES.removesuffix("{% endif %}") + "<think>\n{% endif %}"
NOT_THINKING = HERMES.removesuffix("{% endif %}") + "<think>\n\n</think>\n\n{% endif %}"
LLAMA = (
    START
    + """{% for message in messages %}<|im_start|>{{ message.role }}

{{ message.content }}"""
    + CALLS
    + """{"name": "{{ call.function.name }}", "parameters": {{ call.function.arguments | tojson }}}
{%- endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant

{% endif %}"""
)
MISTRAL = (
    START
    + """{% for message in messages %}{% if message.tool_calls %}[TOOL_CALLS] ["""
    + CALLS
    + """{% if call.id | length != 9 %}{{ raise_exception('nine') }}{% endif -%}
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson -}}
, "id": "{{ call.id }}"}{% endfor %}]</s>{% else -%}
[INST] {{ message.content }}[/INST]{% endif %}{% endfor %}"""
)
LATER = (
    START
    + """{% for message in messages %}{% if message.tool_calls %}"""
    + CALLS
    + """[TOOL_CALLS]{{ call.function.name }}[ARGS]{{ call.function.arguments | tojson -}}
{% endfor %}</s>{% else %}[INST]{{ message.content }}[/INST]{% endif %}{% endfor %}"""
)
QWEN_LATER = HERMES.replace(
    """{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}""",
    """<function={{ call.function.name }}>{% for name, one in call.function.arguments | items %}
<parameter={{ name }}>
{{ one }}
</parameter>{% endfor %}
</function>""",
)
GEMMA = HERMES.replace("<tool_call>", "<|tool_call>call:")
STARTS = {
    HERMES: '<tool_call>\n{"name": "add", "arguments":',
    THINKING: '\n</think>\n\n<tool_call>\n{"name": "add", "arguments":',
    NOT_THINKING: '<tool_call>\n{"name": "add", "arguments":',
    LLAMA: '{"name": "add", "parameters":',
    MISTRAL: '[TOOL_CALLS] [{"name": "add", "arguments":',
    LATER: "[TOOL_CALLS]add[ARGS]",
}
NAMES = ["hermes", "thinking", "not thinking", "llama", "mistral", "later mistral"]
SILENT = START + CHATML.removeprefix("{{ bos_token }}")  # it shows tools, and writes no calls


def syntax_of(template: str | None) -> ToolSyntax:
    tokenizer = tokenizer_with()
    tokenizer.chat_template = template
    return ToolSyntax(Layout(tokenizer), tokenizer)


@pytest.mark.parametrize("template", STARTS, ids=NAMES)
def test_a_call_begins_as_the_template_writes_it(template: str) -> None:
    syntax = syntax_of(template)
    assert syntax.start("add") == STARTS[template]
    assert syntax.shows_tools


@pytest.mark.parametrize("template", STARTS, ids=NAMES)
def test_what_begins_so_is_read_as_a_call(template: str) -> None:
    syntax = syntax_of(template)
    ends = {MISTRAL: "}]", LATER: ""}
    said = syntax.start("add") + ' {"a": 1}' + ends.get(template, "}")
    parts = said_in(said, ["add"], thinking=syntax.begins_in_thought)
    assert parts == [ToolCall(name="add", arguments={"a": 1})]


@pytest.mark.parametrize("template", [*STARTS, QWEN_LATER, SILENT, CHATML])
def test_a_syntax_that_is_read_is_known(template: str) -> None:
    assert syntax_of(template).calls_are_read


def test_a_syntax_that_is_not_read_is_known() -> None:
    assert not syntax_of(GEMMA).calls_are_read
    assert syntax_of(QWEN_LATER).start("add") == "<tool_call>\n<function=add>"


def test_a_template_that_opens_a_thought_is_known() -> None:
    assert syntax_of(THINKING).begins_in_thought
    assert not syntax_of(NOT_THINKING).begins_in_thought
    assert not syntax_of(HERMES).begins_in_thought


@pytest.mark.parametrize("template", [CHATML, None])
def test_a_template_without_tools_is_known(template: str | None) -> None:
    syntax = syntax_of(template)
    assert not syntax.shows_tools
    with pytest.raises(InvalidInput, match="writes no tool calls"):
        syntax.start("add")


def test_a_template_that_writes_no_calls_is_known() -> None:
    syntax = syntax_of(SILENT)
    assert syntax.shows_tools
    with pytest.raises(InvalidInput, match="tool_choice"):
        syntax.held_to(["add"])


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}, {"do_sample": True, "temperature": 5.0}])
def test_a_model_is_held_to_a_call_of_one_of_the_tools(way: dict[str, Any]) -> None:
    syntax, tokenizer, model = syntax_of(HERMES), tokenizer_with(), model_of("llama")
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    for names in (["add", "subtract"], ["subtract"]):
        held = [syntax.held_to(names)]
        with torch.random.fork_rng():
            torch.manual_seed(1)
            rows = model.generate(ids, max_new_tokens=60, logits_processor=held, **way)
        starts = tuple(map(syntax.start, names))
        assert all(tokenizer.decode(row[3:]).startswith(starts) for row in rows)


def test_what_follows_the_beginning_is_free() -> None:
    syntax, tokenizer = syntax_of(HERMES), tokenizer_with()
    start: list[int] = tokenizer.encode(syntax.start("add"), add_special_tokens=False)
    scores = torch.rand(1, 500)
    held: Any = syntax.held_to(["add"])
    for size in range(len(start)):
        (allowed,) = held(torch.tensor([[5, 6, *start[:size]]]), scores).isfinite().nonzero()[:, 1]
        assert allowed == start[size]
    assert held(torch.tensor([[5, 6, *start]]), scores).equal(scores)
    assert held(torch.tensor([[5, 6, *start, 9]]), scores).equal(scores)


def test_a_name_that_begins_another_is_a_choice_too() -> None:
    syntax, tokenizer = syntax_of(LATER.replace("[ARGS]", " ")), tokenizer_with()
    start: list[int] = tokenizer.encode(syntax.start("add"), add_special_tokens=False)
    longer: list[int] = tokenizer.encode(syntax.start("add all"), add_special_tokens=False)
    assert longer[: len(start)] == start
    held: Any = syntax.held_to(["add", "add all"])
    scores = torch.rand(1, 500)
    assert held(torch.tensor([[5]]), scores).isfinite().sum() == 1
    assert held(torch.tensor([[5, *start]]), scores).equal(scores)
