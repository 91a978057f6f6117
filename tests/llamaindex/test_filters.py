"""LlamaIndex's metadata filters: what a search says the same of, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from memos_core import InvalidFilter, View
from memos_llamaindex import MemOSRetriever

RECORDS: dict[str, dict[str, object]] = {
    "nine": {"year": 9, "city": "Oslo"},
    "ten": {"year": 10, "city": "Bergen"},
    "half": {"year": 10.5, "city": "Oslo", "deep": {"er": 1}},
    "none": {},
}


@pytest.fixture
def records(ann: View) -> View:
    for name, metadata in RECORDS.items():
        ann.add(name, metadata=metadata)
    return ann


def where(key: str, operator: str, value: Any = None) -> MetadataFilter:
    return MetadataFilter(key=key, operator=FilterOperator(operator), value=value)


def group(condition: str, *filters: MetadataFilter | MetadataFilters) -> MetadataFilters:
    return MetadataFilters(filters=list(filters), condition=FilterCondition(condition))


OSLO, BERGEN = where("city", "==", "Oslo"), where("city", "==", "Bergen")
FLAT = [
    group("and", OSLO),
    group("and", OSLO, where("year", ">", 9)),
    group("and", where("year", ">=", 10), where("year", "<", 10.5)),
    group("and", where("year", "<=", 9)),
    group("and", where("city", "!=", "Oslo")),
    group("and", where("city", "in", ["Oslo", "Rome"])),
    group("and", where("city", "in", [])),
    group("and", where("city", "nin", ["Oslo"])),
    group("and", where("city", "nin", [])),
    group("and", where("city", "nin", ["Oslo", "Rome"])),
    group("and", where("city", "!=", "Oslo"), where("city", "nin", ["Rome"])),
    group("and", OSLO, OSLO),
    group("and"),
    MetadataFilters(filters=[OSLO, where("year", ">", 9)], condition=None),
    group("or", OSLO, BERGEN),
    group("or", BERGEN, where("city", "in", ["Rome", "Oslo"])),
    group("or", where("year", ">", 9)),
    group("not", OSLO),
    group("not", OSLO, where("year", "==", 10)),
    group("not", where("city", "!=", "Oslo")),
    group("not", where("city", "in", ["Bergen"])),
    group("not", where("city", "nin", ["Bergen", "Rome"])),
]


@pytest.mark.parametrize("wanted", FLAT, ids=lambda wanted: repr(wanted.filters))
def test_what_passes_is_what_llamaindex_says(records: View, wanted: MetadataFilters):
    passes = build_metadata_filter_fn(RECORDS.__getitem__, wanted)

    found = MemOSRetriever(memos=records, k=9, filter=wanted).retrieve("anything")

    assert {node.text for node in found} == {name for name in RECORDS if passes(name)}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (group("and", group("or", OSLO, BERGEN), where("year", ">", 9)), "ten half"),
        (group("and", group("and", OSLO), group("not", where("year", "==", 9))), "half"),
        (group("not", group("and", where("city", "!=", "Oslo"))), "nine half"),
        (group("not", group("not", OSLO, BERGEN)), "nine ten half"),
        (group("not", group("or", OSLO, where("year", "==", 10))), "none"),
        (group("or", group("and", OSLO), group("or", BERGEN)), "nine ten half"),
        (group("and", where("deep.er", "==", 1)), "half"),
    ],
)
def test_groups_nest(records: View, wanted: MetadataFilters, expected: str):
    found = MemOSRetriever(memos=records, k=9, filter=wanted).retrieve("anything")
    assert {node.text for node in found} == set(expected.split())


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (group("and", where("city", "text_match", "Os")), "by 'text_match' .*tags"),
        (group("and", where("city", "contains", "Os")), "by 'contains'"),
        (group("and", where("city", "any", ["Oslo"])), "by 'any'"),
        (group("and", where("city", "all", ["Oslo"])), "by 'all'"),
        (group("not", where("city", "is_empty")), "by 'is_empty'"),
        (group("or", OSLO, where("year", "==", 9)), "between values of one key"),
        (group("or", OSLO, where("city", "!=", "Oslo")), "between values of one key"),
        (group("or", group("and", OSLO, where("year", ">", 9)), BERGEN), "values of one key"),
        (group("not", group("and", OSLO, where("year", "==", 9))), "between values of one key"),
        (group("not", where("year", ">", 9)), "name the opposite"),
        (group("and", where("year", ">", 8), where("year", ">", 9)), "compared by .gt with sev"),
        (group("and", where("year", "nin", 9)), "'nin' takes a list"),
        (group("not", where("year", "in", 9)), "'in' takes a list"),
    ],
)
def test_what_a_search_cannot_say_is_refused_at_once(
    ann: View, wanted: MetadataFilters, error: str
):
    with pytest.raises(InvalidFilter, match=error):
        MemOSRetriever(memos=ann, filter=wanted)


def test_alternatives_are_a_fusion_of_retrievers(records: View):
    """What is advised where "or" is refused."""
    alternatives = [
        MemOSRetriever(memos=records, filter=MetadataFilters(filters=[one]))
        for one in (OSLO, where("year", "==", 10))
    ]
    either = QueryFusionRetriever(
        alternatives, num_queries=1, similarity_top_k=9, use_async=False, llm=MockLLM()
    )
    assert {node.text for node in either.retrieve("anything")} == {"nine", "ten", "half"}
