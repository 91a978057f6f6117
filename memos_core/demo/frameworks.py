"""The same memory through LangChain and LlamaIndex, with models that need no weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType] generic
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata

from memos_core.view import View
from memos_langchain import MemOSMiddleware
from memos_llamaindex import MemOSMemory


def answer_to(prompt: str) -> str:
    """Say the first memory in a prompt, as a model might that found it useful."""
    memories = [line[2:] for line in prompt.splitlines() if line.startswith("- [")]
    return f"I remember: {memories[0]}" if memories else "Thank you, I will remember that."


class QuotingChatModel(BaseChatModel):
    """A LangChain chat model that quotes the memory it is given."""

    @property
    def _llm_type(self) -> str:
        return "quoting"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        said = AIMessage(answer_to("\n".join(message.text for message in messages)))
        return ChatResult(generations=[ChatGeneration(message=said)])


class QuotingLLM(CustomLLM):
    """A LlamaIndex model that quotes the memory it is given."""

    @property
    def metadata(self) -> LLMMetadata:
        """Describe the model."""
        return LLMMetadata(model_name="quoting")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt."""
        return CompletionResponse(text=answer_to(prompt))

    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer a prompt in one piece."""
        yield self.complete(prompt)


def ask_langchain(view: View, questions: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Ask an agent, each question in a thread of its own: all it knows of the others is memory."""
    memory = MemOSMiddleware(view, min_score=0.3)
    agent: Any = create_agent(QuotingChatModel(), tools=[], middleware=[memory])
    for question in questions:
        state = agent.invoke({"messages": [{"role": "user", "content": question}]})
        memory.flush()  # others ask next
        yield question, state["messages"][-1].text


def ask_llamaindex(view: View, questions: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Ask a chat engine, each question in a session of its own."""
    for number, question in enumerate(questions, 1):
        memory = MemOSMemory.from_defaults(memos=view, session_id=f"llamaindex-{number}")
        engine: Any = SimpleChatEngine.from_defaults(llm=QuotingLLM(), memory=memory)
        yield question, str(engine.chat(question))
