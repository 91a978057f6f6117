"""A small Llama that attends to all it reads, and says what a test tells it to."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from memos_core import View
from memos_core.model import MemoryModel
from tests.model.models import SHAPE, tokenizer_with

Script = Callable[[str], str]
ASSISTANT = "<|im_start|>assistant\n"
# Qwen 2.5's, in fewer words.
TOOLED = """{%- macro calls(message) -%}
{%- for call in message.tool_calls %}{{ '\\n' if message.content or not loop.first -}}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor -%}
{%- endmacro -%}
{{ bos_token }}{% if messages[0].role == 'system' or tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}
{% if tools %}<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>{% endif %}<|im_end|>
{% endif %}{% for message in messages %}{% if message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.role != 'system' or not loop.first %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}{{ calls(message) if message.tool_calls }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


class SpeakingLlama(LlamaForCausalLM):
    """Computes what every Llama does; then its script decides which token is likeliest."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self._now = threading.local()
        self.tokenizer: PreTrainedTokenizerFast
        self.script: Script = lambda _: ""
        self.steps: list[int] = []
        self.started = threading.Event()
        self.may_go_on: Callable[[int], None] = lambda _: None

    def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        self._now.rows = input_ids.tolist()
        return super().prepare_inputs_for_generation(input_ids, *args, **kwargs)

    @functools.wraps(LlamaForCausalLM.forward)  # transformers looks at its parameters
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        rows = self._now.__dict__.pop("rows", [])
        for place, row in enumerate(rows):
            self.steps.append(len(row))
            self.started.set()
            self.may_go_on(len(self.steps))
            output.logits[place, -1, self._following(row)] += 1e4
        return output

    def _following(self, row: list[int]) -> int:
        text = self.tokenizer.decode(row)
        prompt, begun, _ = text.rpartition(ASSISTANT)
        start = self.tokenizer(prompt + begun, add_special_tokens=False).input_ids
        said = "".join(self.tokenizer.convert_ids_to_tokens(row[len(start) :]))
        wanted = self._spelled(self.script(prompt))
        if not wanted.startswith(said):  # it was made to begin otherwise
            wanted = said.partition('arguments":')[0] + self._spelled(
                'arguments": {}}\n</tool_call>'
            )
        rest = wanted[len(said) :]
        if not rest:
            return self.config.eos_token_id
        vocabulary = self.tokenizer.get_vocab()
        return next(
            vocabulary[rest[:size]] for size in range(len(rest), 0, -1) if rest[:size] in vocabulary
        )

    def _spelled(self, text: str) -> str:
        """Return a text in the letters of the vocabulary, one for each byte."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return "".join(self.tokenizer.convert_ids_to_tokens(ids))


def speaking_model(
    script: Script | str,
    view: View | None = None,
    *,
    folder: Path,
    template: str = TOOLED,
    seed: int = 0,
    **options: Any,
) -> MemoryModel:
    """Return a MemoryModel that answers a prompt as a script says."""
    tokenizer = tokenizer_with()
    tokenizer.chat_template = template
    shape = {**SHAPE, "hidden_size": 32, "num_hidden_layers": 1, "max_position_embeddings": 8192}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SpeakingLlama(LlamaConfig(**shape)).eval()
    model.tokenizer = tokenizer
    model.script = (lambda _: script) if isinstance(script, str) else script
    return MemoryModel(model, tokenizer, view, folder=folder, **options)


def speaker_of(model: MemoryModel) -> SpeakingLlama:
    assert isinstance(model.model, SpeakingLlama)
    return model.model


def call(name: str, **arguments: Any) -> str:
    """Return a tool call as the model writes it."""
    said = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{said}\n</tool_call>"


def asked_in(prompt: str) -> str:
    """Return what was said last in a prompt."""
    return prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
