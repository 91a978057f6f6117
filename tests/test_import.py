"""What other memory layers write to files can be taken over, as far as their formats are public."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.base import Item
from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store import SimpleChatStore

from memos_core import Action, InvalidInput, MemOS, Rules, Sensitive, SensitiveText, View

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def written(folder: Path, value: object) -> Path:
    path = folder / "dump.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def item(key: str, value: dict[str, Any], *namespace: str) -> dict[str, Any]:
    made = Item(key=key, value=value, namespace=namespace, created_at=MOMENT, updated_at=MOMENT)
    return made.dict()


def test_a_dump_of_langgraphs_store(memos: MemOS, tmp_path: Path) -> None:
    acme = memos.at("acme")
    items = [
        item("a", {"text": "Ann likes tea."}, "users", "ann@x.org"),
        item("b", {"kind": "Memory", "content": {"content": "Ann has a cat."}}, "users", "ann"),
        item("c", {"rule": {"tone": "kind"}}, "rules"),
        item("d", {}, "rules"),
        item("a", {"data": "Bob likes cake."}, "users", "bob"),
    ]
    report = acme.import_file(written(tmp_path, items))
    assert (report.format, len(report.cubes), report.skipped) == ("langgraph", 4, 1)
    (ann,) = memos.at("acme", "users", "ann@x.org").search("tea")
    assert ann.text == "Ann likes tea."
    assert ann.cube.metadata == {"text": "Ann likes tea.", "key": "a"}
    assert ann.cube.valid_from == MOMENT
    assert memos.at("acme", "users", "ann").search("cat")[0].text == "Ann has a cat."
    (rule,) = memos.at("acme", "rules").search("tone", filter={"rule.tone": "kind"})
    assert rule.text == '{"rule": {"tone": "kind"}}'
    again = acme.import_file(written(tmp_path, items))
    assert (again.cubes, again.skipped) == ((), 5)


def test_rows_of_langgraphs_table_a_line_each(view: View, tmp_path: Path) -> None:
    rows = [
        {"prefix": "users.ann", "key": "a", "value": {"text": "tea"}},
        {"prefix": "users.ann", "key": "b", "value": {"text": "cake"}},
    ]
    lines = "\n".join(map(json.dumps, rows)) + "\n"
    report = view.import_file(written(tmp_path, lines))
    assert len(report.cubes) == 2
    assert {tuple(view.get(cube).namespace) for cube in report.cubes} == {
        ("acme", "ann", "users", "ann")
    }


def test_an_export_of_mem0(view: View, tmp_path: Path) -> None:
    results = [
        {
            "id": "0b9f9e8e-8d6a-4c59-9d0e-0b9f9e8e8d6a",
            "memory": "Likes tea",
            "hash": "x",
            "metadata": {"topic": "taste"},
            "created_at": "2026-03-01T12:00:00+00:00",
            "updated_at": None,
            "user_id": "ann",
        },
        {"id": "no-uuid", "memory": "Likes cake", "metadata": None, "created_at": None},
        {"id": "empty", "memory": ""},
    ]
    report = view.import_file(written(tmp_path, {"results": results, "relations": []}))
    assert (report.format, len(report.cubes), report.skipped) == ("mem0", 2, 1)
    tea = view.get(results[0]["id"])
    assert tea.metadata == {"topic": "taste", "user_id": "ann"}
    assert (tea.valid_from, tea.provenance.source) == (MOMENT, "import")
    assert view.import_file(written(tmp_path, results[:2])).cubes == ()


def chat_store(**sessions: list[ChatMessage]) -> dict[str, Any]:
    """What ``SimpleChatStore.persist`` writes; itself it fails with some versions of pydantic."""
    store = {
        session: [
            {
                "role": message.role.value,
                "additional_kwargs": {},
                "blocks": [{"block_type": "text", "text": message.content or ""}],
            }
            for message in messages
        ]
        for session, messages in sessions.items()
    }
    assert SimpleChatStore.model_validate({"store": store}).store.keys() == sessions.keys()
    return {"store": store, "class_name": SimpleChatStore.class_name()}


def test_a_chat_store_of_llamaindex(view: View, tmp_path: Path) -> None:
    monday = [
        ChatMessage(role="user", content="I moved to Oslo."),
        ChatMessage(role="assistant", content="How is it?"),
    ]
    tuesday = [ChatMessage(role="user", content="")]
    path = written(tmp_path, chat_store(monday=monday, tuesday=tuesday))
    report = view.import_file(path)
    assert (report.format, len(report.cubes), report.skipped) == ("llamaindex", 2, 1)
    assert [one.content for one in view.messages(session="monday")] == [
        "I moved to Oslo.",
        "How is it?",
    ]
    monday.append(ChatMessage(role="user", content="It is cold."))
    assert len(view.import_file(written(tmp_path, chat_store(monday=monday))).cubes) == 1
    quoted = json.dumps(json.dumps(chat_store(monday=monday)))
    assert view.import_file(written(tmp_path, quoted)).cubes == (), "as older versions quote it"


@pytest.mark.parametrize(
    "text",
    ["", "not JSON", "[]", "{}", "7", '"text"', '[{"a": 1}]', '{"results": []}', "[" * 10_000],
)
def test_refuses_what_it_does_not_know(view: View, tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInput):
        view.import_file(written(tmp_path, text))
    assert view.stats().cubes == 0


@pytest.mark.parametrize(
    ("format", "value"),
    [
        ("langgraph", [{"key": "a"}]),
        ("langgraph", [7]),
        ("langgraph", [{"key": "a", "value": {"text": "x"}, "prefix": 7}]),
        ("mem0", [{"id": 1}]),
        ("mem0", {"memories": []}),
        ("mem0", [{"id": "a", "memory": "x", "created_at": "yesterday"}]),
        ("llamaindex", {"store": {"a": [{"content": "x"}]}}),
        ("llamaindex", {"store": 7}),
        ("other", []),
    ],
)
def test_refuses_what_is_not_as_it_says(
    view: View, tmp_path: Path, format: str, value: object
) -> None:
    with pytest.raises(InvalidInput):
        view.import_file(written(tmp_path, value), format=format)
    assert view.stats().cubes == 0


def test_refuses_a_file_that_is_not_there(view: View, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read"):
        view.import_file(tmp_path / "none.json")


def test_goes_on_after_what_was_refused(view: View, tmp_path: Path) -> None:
    texts = ("Ann likes tea.", "Write to ann@example.org.", "Ann has a cat.")
    path = written(tmp_path, [{"id": f"m{n}", "memory": text} for n, text in enumerate(texts)])
    view.set_rules(Rules(sensitive={Sensitive.EMAIL: Action.REFUSE}))
    with pytest.raises(SensitiveText):
        view.import_file(path)
    assert view.stats().cubes == 1
    view.set_rules(None)
    report = view.import_file(path)
    assert (len(report.cubes), report.skipped) == (2, 1)
