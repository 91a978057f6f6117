"""The retriever: hits of a view as nodes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, QueryBundle

from memos_core import InvalidInput, MemOS, View
from memos_llamaindex import MemOSRetriever


@pytest.fixture(params=["sync", "async"])
def retrieve(request):
    """Both faces of a retriever, as one function."""
    if request.param == "sync":
        return lambda retriever, query: retriever.retrieve(query)
    return lambda retriever, query: asyncio.run(retriever.aretrieve(query))


def test_a_node_is_its_cube(ann: View, retrieve):
    cube = ann.add("Ann is allergic to peanuts.", tags=["health"], metadata={"source": "form"})

    (node,) = retrieve(MemOSRetriever(memos=ann), "peanuts")

    (hit,) = ann.search("peanuts")
    assert node.node.node_id == str(cube.id)
    assert node.text == "Ann is allergic to peanuts."
    assert node.score == pytest.approx(hit.score)
    assert node.metadata == {
        "source": "form",
        "message_ids": [],
        "version": 1,
        "namespace": ["acme", "ann"],
        "reasons": dict(hit.reasons),
    }


def test_a_turn_names_its_speaker_its_day_and_its_message(ann: View, retrieve):
    said_at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    turn = {"id": "m1", "role": "user", "name": "Ann", "content": "I like figs."}
    ann.ingest([{**turn, "created_at": said_at}])

    (node,) = retrieve(MemOSRetriever(memos=ann), "figs")

    assert node.metadata["speaker"] == "Ann"
    assert node.metadata["said_at"] == "2026-03-01T12:00:00+00:00"
    assert node.metadata["message_ids"] == ["m1"]


def test_a_language_model_is_not_shown_the_machinery(ann: View):
    ann.add("I like figs.", metadata={"topic": "food"})

    (node,) = MemOSRetriever(memos=ann).retrieve("figs")

    assert node.get_content(MetadataMode.LLM) == "topic: food\n\nI like figs."


def test_the_options_of_search_apply(ann: View, retrieve):
    ann.add("figs", metadata={"year": 2020}, tags=["food"])
    ann.add("figs and dates", metadata={"year": 2024}, tags=["food"])
    ann.add("figs are trees", metadata={"year": 2024})

    chosen = MemOSRetriever(memos=ann, k=5, filter={"year": 2024}, tags=iter(["food"]))

    for _ in range(2):
        assert [node.text for node in retrieve(chosen, "figs")] == ["figs and dates"]
    assert len(retrieve(MemOSRetriever(memos=ann, k=2), "figs")) == 2


def test_an_update_is_seen_under_the_same_id(ann: View, retrieve):
    cube = ann.add("Ann lives in Oslo.")
    ann.update(cube.id, "Ann lives in Bergen.")

    (node,) = retrieve(MemOSRetriever(memos=ann), "where does Ann live")

    assert (node.node.node_id, node.metadata["version"]) == (str(cube.id), 2)
    assert node.text == "Ann lives in Bergen."


def test_others_memories_are_not_found(memos: MemOS, ann: View, retrieve):
    memos.at("acme", "bob").add("Bob likes figs.")
    assert retrieve(MemOSRetriever(memos=ann), "figs") == []


def test_nodes_are_fresh(ann: View):
    ann.add("figs", metadata={"list": [1]})
    retriever = MemOSRetriever(memos=ann)

    retriever.retrieve("figs")[0].metadata["list"].append(2)

    assert retriever.retrieve("figs")[0].metadata["list"] == [1]


def test_a_question_of_any_length_is_asked(ann: View, retrieve):
    ann.add("figs")
    assert retrieve(MemOSRetriever(memos=ann), QueryBundle("figs " * 50_000))


def test_an_empty_question_is_refused(ann: View, retrieve):
    with pytest.raises(InvalidInput, match="empty"):
        retrieve(MemOSRetriever(memos=ann), "  ")


async def test_it_serves_a_query_engine(ann: View):
    ann.add("Ann is allergic to peanuts.")
    engine = RetrieverQueryEngine.from_args(MemOSRetriever(memos=ann), llm=MockLLM())

    answer = await engine.aquery("What is Ann allergic to?")

    assert "allergic to peanuts" in str(answer)
    assert "allergic to peanuts" in str(engine.query("What is Ann allergic to?"))
