"""The demo does what it says, and its exit code tells when it does not."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from memos_core.cli import app
from memos_core.demo import run


def test_every_step_holds() -> None:
    console = Console(record=True, width=100, file=io.StringIO())
    assert run(console) == []
    told = console.export_text()
    for step in (
        "Remember a conversation",
        "Ask",
        "Update a fact",
        "Forget",
        "A LangChain agent",
        "A LlamaIndex chat engine",
        "The audit log",
        "every step did what it says",
    ):
        assert step in told


@pytest.mark.parametrize(("failures", "code"), [([], 0), (["it broke"], 1)])
def test_its_exit_code_is_honest(
    failures: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memos_core.demo.run", lambda _console: failures)
    result = CliRunner().invoke(app, ["demo", "--json"])
    assert result.exit_code == code
    assert json.loads(result.stdout) == {"failures": failures}


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain.agents", None)
    monkeypatch.delitem(sys.modules, "memos_core.demo", raising=False)
    monkeypatch.delitem(sys.modules, "memos_core.demo.tour", raising=False)
    monkeypatch.delitem(sys.modules, "memos_core.demo.frameworks", raising=False)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert "the demo needs langchain.agents: pip install" in result.stderr.replace("\n", " ")
