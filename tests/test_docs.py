"""What the documents show is run: README's Python, and the notebooks."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from nbclient import NotebookClient

from memos_core import View
from memos_core.demo.frameworks import QuotingChatModel, QuotingLLM, answer_to
from memos_core.model import MemoryModel
from tests.model.models import model_of, tokenizer_with

ROOT = Path(__file__).parent.parent


def snippets(path: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text("utf-8"), re.DOTALL)


SNIPPETS = snippets("README.md")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A small model in the place of the one that would be downloaded."""
    made: list[MemoryModel] = []

    def loaded(_: str, memos: View, **options: Any) -> MemoryModel:
        options["folder"] = tmp_path
        made.append(MemoryModel(model_of("qwen2"), tokenizer_with(), memos, **options))
        return made[-1]

    monkeypatch.setattr(MemoryModel, "from_pretrained", loaded)
    yield
    for model in made:
        model.close()


@pytest.mark.usefixtures("small_model")
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readme_snippet_runs(number: int, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOS_DATABASE", database)
    # What a reader has already: a chat model of either framework.
    given = {"model": QuotingChatModel(), "llm": QuotingLLM()}
    exec(compile(SNIPPETS[number], f"README.md snippet {number}", "exec"), given)  # noqa: S102


def test_governed_memory_runs_from_top_to_bottom(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMOS_DATABASE", database)
    names: dict[str, object] = {}
    for number, snippet in enumerate(snippets("docs/governed-memory.md")):
        exec(compile(snippet, f"governed-memory.md snippet {number}", "exec"), names)  # noqa: S102


@pytest.mark.usefixtures("small_model")
def test_kv_caches_runs_from_top_to_bottom(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOS_DATABASE", database)
    names: dict[str, Any] = {}
    for number, snippet in enumerate(snippets("docs/kv-caches.md")):
        exec(compile(snippet, f"kv-caches.md snippet {number}", "exec"), names)  # noqa: S102
    assert names["answer"].cached_tokens > 0


@pytest.mark.usefixtures("small_model")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_langchain_runs_from_top_to_bottom(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOS_DATABASE", database)
    names: dict[str, Any] = {"model": QuotingChatModel()}
    for number, snippet in enumerate(snippets("docs/langchain.md")):
        exec(compile(snippet, f"langchain.md snippet {number}", "exec"), names)  # noqa: S102
    assert "peanuts" in names["answer"]["messages"][-1].text
    assert [item.key for item in names["found"]] == ["tea", "sea"]
    assert names["documents"]
    assert names["good"][0][0].id == "canteen"
    assert names["reply"].usage_metadata["input_token_details"]["cache_read"] > 0


# Making an agent, workflows looks at every attribute that a pydantic model has.
@pytest.mark.usefixtures("small_model")
@pytest.mark.filterwarnings(
    "ignore:The `__fields:pydantic.warnings.PydanticDeprecatedSince20:inspect",
    "ignore:Accessing the 'model_:pydantic.warnings.PydanticDeprecatedSince211:inspect",
)
async def test_llamaindex_runs_from_top_to_bottom(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMOS_DATABASE", database)
    names: dict[str, Any] = {"llm": quoting_llm()}
    for number, snippet in enumerate(snippets("docs/llamaindex.md")):
        code = compile(
            snippet, f"llamaindex.md snippet {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        if (running := eval(code, names)) is not None:  # noqa: S307
            await running
    assert "I am allergic to peanuts." in str(names["answer"])
    assert "peanuts" not in names["saved"]
    assert "I am allergic to peanuts." in str(names["restored"])
    assert "I am allergic to peanuts." in str(names["reply"])
    assert "I am allergic to peanuts." in str(names["noted"])
    assert "I am allergic to peanuts." in [node.text for node in names["nodes"]]
    cafe = ["The harbour café has no nuts."]
    assert [node.text for node in names["cafes"]] == cafe
    assert [node.text for node in names["newer"]] == cafe
    assert names["last_year"] == []
    assert "Kari" in str(names["made"].content)
    assert "Kari" in str(names["found"].content)
    assert names["response"].additional_kwargs["cached_tokens"] > 0


def quoting_llm() -> MockFunctionCallingLLM:
    """Return a model that calls tools, at least in name, and quotes the memory it is given."""

    def answer(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        prompt = "\n".join(message.content or "" for message in messages[-1:])
        return ChatMessage(role="assistant", content=answer_to(prompt))

    return MockFunctionCallingLLM(response_generator=answer, is_chat_model=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOS_DATABASE", database)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert all(not cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells)
