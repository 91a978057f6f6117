"""ChatMemOS by LangChain's own suites, on a small model that says what they ask for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from memos_core import View
from memos_langchain import ChatMemOS
from tests.langchain.speaking import asked_in, call, speaking_model

GREETING = "Hello to you, too."


ASKED: dict[str, tuple[str, dict[str, Any]]] = {  # what is in a question: the call it wants
    "no_args": ("magic_function_no_args", {}),
    "magic_function(3)": ("magic_function", {"input": 3}),
    "Pirate": ("greeting_generator", {"answer_style": "Pirate"}),
    "weather": ("get_weather", {"location": "San Francisco, CA"}),
    "3 + 4": ("my_adder_tool", {"a": 3, "b": 4}),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def script(prompt: str) -> str:
    """Answer what the suites ask as they want it answered."""
    asked = asked_in(prompt)
    tools = re.findall(r'"function": {[^{}]*"name": "(\w+)"', prompt)
    if not tools or "<tool_response>" in asked:
        return GREETING
    if "joke" in asked:
        return call(tools[0], setup="Why did the cat sit?", punchline="It stood too long.")
    if named := re.search(r"customer named '(.*?)'", asked):
        return call("unicode_customer", customer_name=named[1], description="A company")
    wanted = [call(name, **given) for part, (name, given) in ASKED.items() if part in asked]
    return wanted[0] if wanted else GREETING


class TestUnit(ChatModelUnitTests):
    @pytest.fixture(autouse=True)
    def _models(self, tmp_path: Path) -> None:
        self._model = speaking_model(script, folder=tmp_path)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMemOS

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": self._model}


class TestIntegration(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _models(self, ann: View, tmp_path: Path) -> None:
        self._model = speaking_model(script, ann, folder=tmp_path)
        self._other = speaking_model(script, ann, folder=tmp_path, seed=1)
        self._ann = ann

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMemOS

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": self._model, "models": {"the other": self._other}}

    @property
    def model_override_value(self) -> str:
        return "the other"

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[Literal["invoke", "stream"], list[Any]]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        cache = self._model.encode(self._ann.add(["Ann lives in Oslo.", "Ann has a cat."]))
        chat = ChatMemOS(model=self._model, memory=[cache.id])
        if not stream:
            answer = chat.invoke("Where does she live?")
        else:
            first, *rest = list(chat.stream("Where does she live?"))
            answer = first.__add__(rest)
        assert cast("Any", answer.usage_metadata)["input_token_details"]["cache_read"] > 0
        return answer
