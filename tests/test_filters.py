"""Metadata filters: typed comparisons, nested paths, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from memos_core import InvalidFilter, View

RECORDS: dict[str, dict[str, object]] = {
    "nine": {"n": 9, "name": "nine", "at": "2026-01-09"},
    "ten": {"n": 10, "name": "ten", "at": "2026-01-10", "deep": {"er": {"x": 1}}},
    "half": {"n": 0.5, "flag": True, "list": [1, {"a": "b"}]},
    "text": {"n": "9", "flag": False, "a.b": {"c": 1}},
    "null": {"n": None, "flag": None, "'; DROP SCHEMA memos; --": 1},
    "none": {},
}


@pytest.fixture
def records(ann: View) -> View:
    for name, metadata in RECORDS.items():
        ann.add(name, metadata=metadata)
    return ann


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        # numbers compare as numbers, strings as strings, and never with each other
        ({"n": {"$gt": 9}}, "ten"),
        ({"n": {"$gte": 9}}, "nine ten"),
        ({"n": {"$lt": 9}}, "half"),
        ({"n": {"$lte": 9.0}}, "nine half"),
        ({"n": {"$gt": "1"}}, "text"),
        ({"name": {"$lt": "ten"}}, "nine"),
        ({"at": {"$gte": "2026-01-09", "$lt": "2026-01-10"}}, "nine"),
        ({"n": {"$gt": 0, "$lt": 10}}, "nine half"),
        # equality is JSON's: 9 is 9.0, but neither "9" nor true
        ({"n": 9}, "nine"),
        ({"n": {"$eq": 9.0}}, "nine"),
        ({"n": "9"}, "text"),
        ({"n": None}, "null"),
        ({"flag": True}, "half"),
        ({"flag": {"$in": [True, False]}}, "half text"),
        ({"flag": {"$eq": 1}}, ""),
        # what is absent differs from everything
        ({"n": {"$ne": 9}}, "ten half text null none"),
        ({"missing": {"$ne": 1}}, "nine ten half text null none"),
        ({"missing": None}, ""),
        ({"n": {"$in": [10, "9", None]}}, "ten text null"),
        ({"n": {"$in": []}}, ""),
        ({"n": {"$in": ("9", 9)}}, "nine text"),
        ({"n": {"$nin": [9, "9", None]}}, "ten half none"),
        ({"missing": {"$nin": [1]}}, "nine ten half text null none"),
        ({"n": {"$nin": []}}, "nine ten half text null none"),
        # paths
        ({"deep.er.x": 1}, "ten"),
        ({"deep": {"er": {"x": {"$gte": 1}}}}, "ten"),
        ({"deep": {"er.x": 1}}, "ten"),
        ({("a.b", "c"): 1}, "text"),
        ({"a.b.c": 1}, ""),
        ({"list": [1, {"a": "b"}]}, "half"),
        ({"list.1.a": "b"}, "half"),
        ({"deep": {}}, ""),
        ({"'; DROP SCHEMA memos; --": 1}, "null"),
        # all must hold
        ({"n": {"$gt": 1}, "name": "ten"}, "ten"),
        ({"n": {"$gt": 1, "$ne": 9}}, "ten"),
        ({}, "nine ten half text null none"),
        (None, "nine ten half text null none"),
    ],
)
def test_compares(records: View, wanted: Any, expected: str) -> None:
    hits = records.search("anything", filter=wanted)
    assert {hit.text for hit in hits} == set(expected.split())


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"n": {"$in": [9, "9"]}}, "nine text"),
        ({"n": {"$nin": [9, "9"]}}, "ten half null none"),
        ({"n": {"$gt": 8}, "name": {"$ne": "nine"}}, "ten"),
    ],
)
def test_many_conditions_compare_as_few_do(records: View, wanted: Any, expected: str) -> None:
    others = {f"missing{number}": {"$ne": 1} for number in range(10)}
    hits = records.search("anything", filter=wanted | others)
    assert {hit.text for hit in hits} == set(expected.split())


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"n": {"$regex": "x"}}, "unknown filter operator '\\$regex'; known: \\$eq, \\$ne"),
        ({"$or": [{"n": 1}]}, "unknown filter operator"),
        ({"$gt": 1}, "name the metadata key"),
        ({"n": {"$gt": [1]}}, "compares numbers or strings, not list"),
        ({"n": {"$gt": None}}, "compares numbers or strings"),
        ({"n": {"$gt": True}}, "compares numbers or strings, not bool"),
        ({"n": {"$in": "text"}}, "takes a list"),
        ({"n": {"$nin": "text"}}, r"\$nin on 'n' takes a list"),
        ({"n": float("nan")}, "JSON"),
        ({"n": {"$lt": float("inf")}}, "JSON"),
        ({"n": object()}, "JSON"),
        ({"n": b"bytes"}, "JSON"),
        ({"n": "a\x00"}, "NUL"),
        ({"n\x00": 1}, "NUL"),
        ({"n": "\ud800"}, "surrogate"),
        ({7: 1}, "string or a tuple"),
        ({(): 1}, "string or a tuple"),
        ([("n", 1)], "mapping"),
        ({f"k{number}": 1 for number in range(101)}, "at most 100"),
    ],
)
def test_refuses(records: View, wanted: Any, error: str) -> None:
    with pytest.raises(InvalidFilter, match=error):
        records.search("anything", filter=wanted)


def test_refuses_bottomless_filters(records: View) -> None:
    wanted: Any = 1
    for _ in range(5_000):
        wanted = {"deeper": wanted}
    with pytest.raises(InvalidFilter, match="deep"):
        records.search("anything", filter=wanted)
    loop: dict[str, Any] = {}
    loop["again"] = loop
    with pytest.raises(InvalidFilter, match="deep"):
        records.search("anything", filter=loop)
