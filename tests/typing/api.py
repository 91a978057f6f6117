"""Typed examples of the public interface; pyright checks them, nothing runs them."""

from __future__ import annotations

from typing import assert_type

from memos_core import (
    Action,
    AsyncMemOS,
    DumpReport,
    Hit,
    LoadReport,
    MemCube,
    MemOS,
    Sensitive,
    View,
)
from memos_core.model import Generation, MemoryModel
from memos_langchain import ChatMemOS, MemOSStore, MemOSVectorStore
from memos_llamaindex import MemOSLLM


def verbs(memos: MemOS) -> None:
    ann: View = memos.at("acme", "ann")
    assert_type(ann.add("one", tags=["a"], ttl=60), MemCube)
    assert_type(ann.add(["one", "two"], metadata={"year": 2020}), list[MemCube])
    assert_type(ann.search("?", filter={"year": {"$gte": 2020}}, as_of="2026-01-01"), list[Hit])
    assert_type(ann.update(ann.history("id")[0].id, "text", mode="append"), MemCube)
    assert_type(ann.ingest("one", resolve=lambda messages: messages[-1]["content"]), list[MemCube])
    ann.ingest("one", resolve="yes")  # pyright: ignore[reportArgumentType] no function
    ann.add("one", tag="a")  # pyright: ignore[reportCallIssue] no such parameter
    assert_type(ann.dump("ann.memos", sensitive={Sensitive.EMAIL: Action.REDACT}), DumpReport)
    assert_type(ann.load("ann.memos", conflict="new ids"), LoadReport)
    ann.load("ann.memos", conflict="merge")  # pyright: ignore[reportArgumentType] no such way


async def awaited(memos: AsyncMemOS) -> None:
    ann = memos.at("acme", "ann")
    assert_type(await ann.add("one", tags=["a"]), MemCube)
    assert_type(await ann.add(["one", "two"]), list[MemCube])
    assert_type(await ann.search("?", k=3), list[Hit])
    assert_type(await ann.dump("ann.memos", report=print), DumpReport)
    assert_type(await ann.load("ann.memos"), LoadReport)
    await ann.search("?", top=3)  # pyright: ignore[reportCallIssue] no such parameter


def tensors(memos: MemOS, ann: View) -> None:
    model = MemoryModel.from_pretrained("a/model", ann)
    assert_type(model.encode(ann.history("id"), name="core"), MemCube)
    assert_type(model.generate([{"role": "user", "content": "?"}], memory=ann), Generation)
    MemoryModel.from_pretrained("a/model", "ann")  # pyright: ignore[reportArgumentType] no view
    ChatMemOS(model=model, memory=ann, max_tokens=40)
    MemOSLLM(model=model, memory=[ann.history("id")[0].id])
    MemOSStore(memos, index={"fields": ["text"]}, ttl={"default_ttl": 0.5})
    MemOSVectorStore("ann")  # pyright: ignore[reportArgumentType] no view
