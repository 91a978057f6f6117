"""MemOSRetriever, by LangChain's own suite and by what ours adds."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from memos_core import View
from memos_langchain import MemOSRetriever


@pytest.fixture
def ann(ann: View) -> View:
    ann.add(["Ann drinks tea.", "Ann plays the cello.", "Ann lives in Oslo.", "Ann has a cat."])
    return ann


class TestStandard(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _memories(self, ann: View) -> None:
        self._ann = ann

    @property
    def retriever_constructor(self) -> type[MemOSRetriever]:
        return MemOSRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memos": self._ann}

    @property
    def retriever_query_example(self) -> str:
        return "What does Ann drink?"


def test_documents_say_where_they_are_from(ann: View) -> None:
    (made,) = ann.ingest(
        [{"id": "m1", "role": "user", "name": "Bob", "content": "Her cello is from Cremona."}],
        session="monday",
    )
    (document,) = MemOSRetriever(memos=ann, k=1).invoke("Where is the cello from, Cremona?")
    assert document.id == str(made.id)
    assert document.page_content == made.text
    assert document.metadata["speaker"] == "Bob"
    assert document.metadata["session"] == "monday"
    assert document.metadata["message_ids"] == ["m1"]
    assert document.metadata["score"] == pytest.approx(sum(document.metadata["reasons"].values()))


async def test_filters_reach_the_search_in_both_twins(ann: View) -> None:
    old = ann.add("Ann drinks milk.", metadata={"year": 9}, tags=["taste"])
    ann.add("Ann drinks cocoa.", metadata={"year": 10}, tags=["taste"])
    retriever = MemOSRetriever(memos=ann, filter={"year": {"$lt": 10}}, with_tags=["taste"])
    assert [one.id for one in retriever.invoke("drinks")] == [str(old.id)]
    assert [one.id for one in await retriever.ainvoke("drinks")] == [str(old.id)]
    before = ann.get(old.id).updated_at
    ann.update(old.id, "Ann drinks water.")
    (then,) = MemOSRetriever(memos=ann, as_of=before, with_tags=["taste"], k=1).invoke("milk")
    assert then.page_content == "Ann drinks milk."
    assert MemOSRetriever(memos=ann, min_score=2).invoke("milk") == []


async def test_filter_and_time_may_be_given_to_a_call(ann: View) -> None:
    old = ann.add("Ann drinks milk.", metadata={"year": 9}, tags=["taste"])
    ann.add("Ann drinks cocoa.", metadata={"year": 10}, tags=["taste"])
    before = ann.get(old.id).updated_at
    ann.update(old.id, "Ann drinks water.")
    retriever = MemOSRetriever(memos=ann, filter={"year": 10}, with_tags=["taste"])
    options = {"filter": {"year": {"$lt": 10}}, "as_of": before, "k": 1}
    for found in (
        retriever.invoke("drinks", None, **options),
        await retriever.ainvoke("drinks", None, **options),
    ):
        assert [one.page_content for one in found] == ["Ann drinks milk."]
    assert [one.page_content for one in retriever.invoke("drinks")] == ["Ann drinks cocoa."]


@pytest.mark.parametrize("mode", ["dense", "lexical"])
def test_one_signal_alone_may_rank(ann: View, mode: Any) -> None:
    best = MemOSRetriever(memos=ann, mode=mode, k=1).invoke("Who plays a cello?")[0]
    assert best.page_content == "Ann plays the cello."
    assert all(reason.startswith(mode) for reason in best.metadata["reasons"])


def test_traces_say_what_searched(ann: View) -> None:
    seen: list[dict[str, Any]] = []

    class Tracer(BaseCallbackHandler):
        def on_retriever_start(self, *_: Any, metadata: Any = None, **__: Any) -> None:
            seen.append(metadata)

    MemOSRetriever(memos=ann).invoke("tea", {"callbacks": [Tracer()]})
    expected = {
        "ls_retriever_name": "memos",
        "ls_vector_store_provider": "postgresql",
        "ls_embedding_model": "words",
    }
    assert seen[0].items() >= expected.items()


def test_refuses_a_mistyped_option(ann: View) -> None:
    with pytest.raises(ValidationError, match="top_k"):
        MemOSRetriever(memos=ann, top_k=3)  # pyright: ignore[reportCallIssue] that is the point
