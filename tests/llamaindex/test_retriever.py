"""The retriever: hits of a view as nodes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.callbacks.schema import EventPayload
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import MetadataMode, QueryBundle, TextNode
from llama_index.core.tools import RetrieverTool

from memos_core import InvalidInput, MemOS, View
from memos_core.embedder import Vectors
from memos_langchain import MemOSRetriever as DocumentRetriever
from memos_llamaindex import MemOSMemory, MemOSRetriever
from tests.support import WordEmbedder


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
        "namespace": ["acme", "ann"],
        "kind": "plaintext",
        "semantic_type": "fact",
        "tags": ["health"],
        "version": 1,
        "created_at": cube.created_at.isoformat(),
        "updated_at": cube.updated_at.isoformat(),
        "reasons": dict(hit.reasons),
    }


def test_a_node_says_of_a_memory_what_a_document_of_langchains_says(ann: View):
    ann.ingest([{"id": "m1", "role": "user", "name": "Ann", "content": "figs"}], session="s1")
    ann.ingest([{"id": "m2", "role": "assistant", "content": "figs"}], session="s1")
    ann.add("figs", source="form", tags=["food"], valid_from="2026-01-01", valid_to="2027-01-01")

    nodes = MemOSRetriever(memos=ann, valid_at="any").retrieve("figs")

    documents = DocumentRetriever(memos=ann, valid_at="any").invoke("figs")
    facts = [{**document.metadata, "id": document.id} for document in documents]
    assert [{"score": one.score, "id": one.node_id, **one.metadata} for one in nodes] == facts


def test_a_turn_names_its_speaker_its_day_and_its_message(ann: View, retrieve):
    said_at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    turn = {"id": "m1", "role": "user", "name": "Ann", "content": "I like figs."}
    ann.ingest([{**turn, "created_at": said_at}], session="monday")

    (node,) = retrieve(MemOSRetriever(memos=ann), "figs")

    assert node.metadata["speaker"] == "Ann"
    assert node.metadata["role"] == "user"
    assert node.metadata["said_at"] == "2026-03-01T12:00:00+00:00"
    assert node.metadata["session"] == "monday"
    assert node.metadata["message_ids"] == ["m1"]


def test_a_language_model_is_not_shown_the_machinery(ann: View):
    ann.add("I like figs.", metadata={"topic": "food"})

    (node,) = MemOSRetriever(memos=ann).retrieve("figs")

    assert node.get_content(MetadataMode.LLM) == "topic: food\n\nI like figs."


def test_a_language_model_is_shown_who_said_it_and_when_it_holds(ann: View):
    said_at = datetime(2026, 3, 1, tzinfo=UTC)
    ann.ingest([{"role": "user", "name": "Ann", "content": "I like figs.", "created_at": said_at}])
    ann.add("Dates are ripe.", valid_from="2026-08-01")

    figs, dates = MemOSRetriever(memos=ann, valid_at="any").retrieve("I like figs.")

    spoken = "speaker: Ann\nsaid_at: 2026-03-01T00:00:00+00:00\n\nI like figs."
    assert figs.get_content(MetadataMode.LLM) == spoken
    assert figs.get_content(MetadataMode.EMBED) == spoken
    spoken = "valid_from: 2026-08-01T00:00:00+00:00\n\nDates are ripe."
    assert dates.get_content(MetadataMode.LLM) == spoken
    ann.ingest([{"role": "assistant", "content": "Cashews are nuts."}])
    (cashews,) = MemOSRetriever(memos=ann, k=1).retrieve("cashews")
    assert cashews.get_content(MetadataMode.LLM) == "role: assistant\n\nCashews are nuts."


def test_the_options_of_search_apply(ann: View, retrieve):
    ann.add("figs", metadata={"year": 2020}, tags=["food"])
    ann.add("figs and dates", metadata={"year": 2024}, tags=["food"])
    ann.add("figs are trees", metadata={"year": 2024})

    chosen = MemOSRetriever(memos=ann, k=5, filter={"year": 2024}, tags=iter(["food"]))

    for _ in range(2):
        assert [node.text for node in retrieve(chosen, "figs")] == ["figs and dates"]
    assert len(retrieve(MemOSRetriever(memos=ann, k=2), "figs")) == 2


def test_it_looks_back_and_ahead_and_leaves_out_what_is_unlike(ann: View, retrieve):
    cube = ann.add("Ann lives in Oslo.", valid_from="2020-01-01", valid_to="2120-01-01")
    before = cube.updated_at
    ann.update(cube.id, "Ann lives in Bergen.")

    (then,) = retrieve(MemOSRetriever(memos=ann, as_of=before), "Ann")
    assert then.text == "Ann lives in Oslo."
    assert retrieve(MemOSRetriever(memos=ann, valid_at="2019-01-01"), "Ann") == []
    assert retrieve(MemOSRetriever(memos=ann, min_score=2), "Ann") == []
    assert retrieve(MemOSRetriever(memos=ann, kinds=["activation"]), "Ann") == []
    assert retrieve(MemOSRetriever(memos=ann, semantic_type="turn"), "Ann") == []


@pytest.mark.parametrize("mode", ["dense", "lexical"])
def test_one_signal_alone_may_rank(ann: View, retrieve, mode: Any):
    ann.add(["Ann plays the cello.", "Ann drinks tea."])
    best = retrieve(MemOSRetriever(memos=ann, mode=mode, k=1), "Who plays a cello?")[0]
    assert best.text == "Ann plays the cello."
    assert all(reason.startswith(mode) for reason in best.metadata["reasons"])


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


@pytest.mark.parametrize("mode", list(FUSION_MODES))
async def test_a_fusion_counts_a_memory_once_whatever_questions_found_it(
    ann: View, mode: FUSION_MODES
):
    ann.add(["Ann is allergic to peanuts.", "Ann plays the cello."])
    fusion = QueryFusionRetriever(
        [MemOSRetriever(memos=ann, k=2)],
        mode=mode,
        llm=MockLLM(),  # says what it is asked, here two questions more
        query_gen_prompt="Is Ann allergic to {query}?\nAnn and {query}",
        num_queries=3,
        similarity_top_k=2,
        use_async=False,
    )
    for found in (await fusion.aretrieve("peanuts"), fusion.retrieve("peanuts")):
        assert [node.text for node in found] == [
            "Ann is allergic to peanuts.",
            "Ann plays the cello.",
        ]


async def test_a_fusion_is_of_several_users_memories(memos: MemOS, ann: View):
    team = memos.at("acme", "team")
    for view in (ann, team):
        view.add("Peanuts are banned in the canteen.")
    fusion = QueryFusionRetriever(
        [MemOSRetriever(memos=view) for view in (ann, team)], num_queries=1, llm=MockLLM()
    )
    found = await fusion.aretrieve("peanuts")
    assert {tuple(node.metadata["namespace"]) for node in found} == {
        ("acme", "ann"),
        ("acme", "team"),
    }


async def test_it_is_a_tool(ann: View):
    ann.add("Ann is allergic to peanuts.", metadata={"topic": "health"})
    tool = RetrieverTool.from_defaults(MemOSRetriever(memos=ann), name="memories")
    for told in (tool.call("peanuts"), await tool.acall(input="peanuts")):
        assert told.content.strip() == "topic: health\n\nAnn is allergic to peanuts."


@pytest.mark.parametrize("engine", [ContextChatEngine, CondensePlusContextChatEngine])
async def test_it_serves_chat_engines(ann: View, engine: Any):
    ann.add("Ann is allergic to peanuts.")
    chat = engine.from_defaults(
        retriever=MemOSRetriever(memos=ann), memory=MemOSMemory(memos=ann, k=0), llm=MockLLM()
    )
    for answer in (await chat.achat("May I eat peanuts?"), chat.chat("And cashews?")):
        assert "Ann is allergic to peanuts." in str(answer)
        assert "Ann is allergic to peanuts." in [node.text for node in answer.source_nodes]


def test_post_processors_work_on_its_nodes(ann: View):
    ann.add(["Ann is allergic to peanuts.", "Bergen is by the sea."])
    best = SimilarityPostprocessor(similarity_cutoff=0.5)
    engine = RetrieverQueryEngine.from_args(
        MemOSRetriever(memos=ann), llm=MockLLM(), node_postprocessors=[best]
    )
    answer = engine.query("Ann is allergic to peanuts.")
    assert [node.text for node in answer.source_nodes] == ["Ann is allergic to peanuts."]


def test_callbacks_and_instrumentation_are_told(ann: View, retrieve):
    cube = ann.add("Ann is allergic to peanuts.")
    told = LlamaDebugHandler(print_trace_on_end=False)
    seen: list[Any] = []

    class Watch(BaseEventHandler):
        def handle(self, event: BaseEvent, **_: Any) -> None:
            seen.append(event)

    dispatcher, watch = get_dispatcher(), Watch()
    dispatcher.add_event_handler(watch)
    try:
        retrieve(MemOSRetriever(memos=ann, callback_manager=CallbackManager([told])), "peanuts")
    finally:
        dispatcher.event_handlers.remove(watch)
    ((_, end),) = told.get_event_pairs(CBEventType.RETRIEVE)
    assert [node.node_id for node in end.payload[EventPayload.NODES]] == [str(cube.id)]
    (ended,) = [event for event in seen if isinstance(event, RetrievalEndEvent)]
    assert [node.node_id for node in ended.nodes] == [str(cube.id)]


async def test_it_leaves_the_loop_and_asyncios_threads_alone(database: str):
    threads: set[str] = set()

    class Embedder(WordEmbedder):
        def embed(self, texts: Sequence[str]) -> Vectors:
            threads.add(threading.current_thread().name)
            return super().embed(texts)

    with MemOS.open(database, embedder=Embedder()) as memos:
        await MemOSRetriever(memos=memos.at("acme", "ann")).aretrieve("figs")
    assert threads
    assert all(name.startswith("memos") for name in threads)


def test_a_node_survives_json(ann: View):
    ann.add("figs", metadata={"topic": "food"})
    (node,) = MemOSRetriever(memos=ann).retrieve("figs")
    again = TextNode.from_dict(json.loads(json.dumps(node.node.to_dict())))
    assert (again.node_id, again.text) == (node.node_id, node.text)
    assert again.metadata == node.metadata
