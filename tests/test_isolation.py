"""Tenants never see each other, and a view sees its path and what is below it, no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from memos_core import CubeNotFound, InvalidNamespace, MemOS, Namespace, View

PATHS: list[tuple[str, ...]] = [
    ("acme",),
    ("acme", "ann"),
    ("acme", "ann", "trips"),
    ("acme", "ann", "trips", "2026"),
    ("acme", "ann\x01"),
    ("acme", "ann!"),
    ("acme", "ann0"),
    ("acme", "anna"),
    ("acme", "Ann"),
    ("acme", "an"),
    ("acme", "%"),
    ("acme", "ann", "\x01"),
    ("acme", "ann", "\U0010ffff"),
    ("acme\x01",),
    ("acme-corp",),
    ("acme%",),
    ("acme_", "ann"),
    ("ACME", "ann"),
    ("a{c}me,ann",),
    ("ann", "acme"),
    ("москва", "東京", "a.b@x.org", "'; --", '"', "\\", " ", "NULL", "{}"),
]


@pytest.fixture
def everywhere(memos: MemOS) -> MemOS:
    """One cube and one message in each path; each says where it is."""
    for path in PATHS:
        memos.at(*path).add(f"tea {path!r}")
        memos.at(*path).ingest([{"id": "m", "role": "user", "content": f"cake {path!r}"}])
    return memos


def test_a_view_sees_its_path_and_what_is_below_it(everywhere: MemOS) -> None:
    for path in PATHS:
        view = everywhere.at(*path)
        below = {other for other in PATHS if other[: len(path)] == path}
        hits = view.search("tea cake", k=1_000)
        assert {tuple(hit.cube.namespace) for hit in hits} == below
        assert view.stats().cubes == 2 * len(below)
        assert view.stats().messages == len(below)
        assert {tuple(event.namespace) for event in view.events(kind="added")} == below
        assert [message.content for message in view.messages()] == [f"cake {path!r}"]


def test_a_stranger_cannot_reach_a_cube_by_its_id(memos: MemOS) -> None:
    ann = memos.at("acme", "ann")
    cube = ann.add("Ann's diary", id=UUID(int=7))
    ann.update(cube.id, "Ann's diary, page 2")
    verbs: list[Callable[[View], Any]] = [
        lambda view: view.get(cube.id),
        lambda view: view.get(cube.id, as_of=cube.updated_at),
        lambda view: view.history(cube.id),
        lambda view: view.update(cube.id, "hacked"),
        lambda view: view.restore(cube.id, version=1),
        lambda view: view.forget(cube.id),
    ]
    strangers = [("acme", "bob"), ("acme", "ann", "below"), ("other",), ("other", "ann"), ("acm",)]
    for path in strangers:
        for verb in verbs:
            with pytest.raises(CubeNotFound):
                verb(memos.at(*path))
        assert memos.at(*path).events(cube=cube.id) == []
    assert len(ann.history(cube.id)) == 2
    assert memos.at("acme").get(cube.id).text == "Ann's diary, page 2", "from above it is seen"


def test_words_of_others_do_not_weigh(memos: MemOS) -> None:
    ann, bob = memos.at("acme", "ann"), memos.at("acme", "bob")
    ann.add(["okapi tea", "zebra tea"])
    before = [hit.score for hit in ann.search("okapi")]
    bob.add(["okapi"] * 50)
    assert [hit.score for hit in ann.search("okapi")] == before


def test_one_message_id_in_two_namespaces_is_two_messages(memos: MemOS) -> None:
    turn = {"id": "m1", "role": "user", "content": "Hello."}
    ann, bob = memos.at("acme", "ann"), memos.at("acme", "bob")
    (cube,) = ann.ingest([turn])
    assert len(bob.ingest([turn])) == 1
    ann.forget(cube.id)
    assert [message.content for message in bob.messages()] == ["Hello."]


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ((), "at least one label"),
        (("",), "label 0 is empty"),
        (("acme", ""), "label 1 is empty"),
        (("acme", 7), r"label 1 is of type int.*str\("),
        (("acme", None), "NoneType"),
        (("a\x00b",), "NUL"),
        (("a\ud800",), "surrogate"),
        (("x" * 1025,), "1024 bytes"),
        (("ж" * 513,), "1024 bytes"),
        (("x",) * 33, "at most 32 labels"),
        (("x",) * 1_000_000, "at most 32 labels, not 1000000"),
    ],
)
def test_refuses_labels_that_cannot_be_kept(memos: MemOS, labels: Any, error: str) -> None:
    with pytest.raises(InvalidNamespace, match=error):
        memos.at(*labels)


def test_the_longest_namespaces_are_legal(memos: MemOS) -> None:
    for labels in (("x" * 1024,), ("\U0001f99c" * 8,) * 32):
        view = memos.at(*labels)
        view.add("deep")
        view.ingest([{"id": "i" * 512, "role": "user", "content": "down"}], session="s" * 512)
        assert len(view.search("deep")) == 2
        assert view.namespace == Namespace(*labels)
        assert view.namespace.tenant == labels[0]
