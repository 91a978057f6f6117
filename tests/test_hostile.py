"""Hostile input at every verb: a right answer or one of our errors, and the store as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from memos_core import (
    Caller,
    CubeNotFound,
    InvalidInput,
    InvalidText,
    MemCube,
    MemOS,
    MemOSError,
    Message,
    Namespace,
    View,
)
from tests.support import WordEmbedder

SOON = 60  # seconds that no test takes
INJECTIONS = [
    "'; DROP SCHEMA memos CASCADE; --",
    '"; DELETE FROM memos.cube; --',
    "' OR '1'='1",
    "%s %(tenant)s %b %%",
    "$1 ${x} {y} {0}",
    "\\'; SELECT pg_sleep(10); --",
    "a & | ! b:* <-> ( ' \"",
    '{a,b,NULL,"c}',
    "[1,2,3]",
    "$.a ? (@ > 1)",
    "NULL",
    "\\x00",
    "\u202e\u200b\ufeff",
    "ﬁ Å İ ß ﷺ",
    "🦜👨‍👩‍👧‍👦",
    "\x01\x02\x1b[31m",
    "x" * 3_000,
]
anything = st.one_of(st.sampled_from(INJECTIONS), st.text(max_size=60))
unclean = st.one_of(anything, st.text(st.characters(codec=None), max_size=20))
keys = st.one_of(anything, st.sampled_from(["$eq", "$gt", "$in", "a.b", "", "."]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | unclean,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(unclean, max_size=3),
        "metadata": st.dictionaries(keys, values, max_size=3),
        "semantic_type": unclean,
        "source": unclean,
        "sensitivity": st.lists(unclean, max_size=2),
        "priority": st.integers(),
        "ttl": st.floats() | st.integers(),
        "valid_from": unclean | st.dates() | st.datetimes(),
        "valid_to": unclean | st.dates() | st.datetimes(),
    },
)
questions = st.fixed_dictionaries(
    {},
    optional={
        "k": st.integers(),
        "offset": st.integers(),
        "filter": st.dictionaries(keys, values, max_size=3),
        "tags": st.lists(unclean, max_size=3),
        "kinds": st.lists(unclean, max_size=2),
        "semantic_type": unclean,
        "exclude_messages": st.lists(unclean, max_size=2),
        "as_of": unclean | st.datetimes(),
        "valid_at": unclean | st.datetimes(),
        "min_score": st.floats(),
        "context": st.integers(max_value=200),
    },
)
turns = st.fixed_dictionaries(
    {"role": unclean, "content": unclean | values},
    optional={
        "id": unclean,
        "name": unclean,
        "session": unclean,
        "created_at": unclean | st.datetimes(),
        "metadata": values,
        "tool_calls": values,
    },
)
many = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def guarded(memos: MemOS, database: str) -> Iterator[MemOS]:
    """A memory with a neighbour, who must be as he was at the end."""
    neighbour = memos.at("neighbour")
    cube = neighbour.add("mine", tags=["a"], metadata={"a": {"b": 1}})
    neighbour.ingest([{"id": "m1", "role": "user", "content": "mine too"}])
    before = _rows(database)
    yield memos
    assert _rows(database) == before
    assert neighbour.get(cube.id).text == "mine"


def _rows(dsn: str) -> list[Any]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            """
            SELECT t::text FROM memos.cube AS t WHERE tenant = 'neighbour'
            UNION ALL SELECT t::text FROM memos.message AS t WHERE tenant = 'neighbour'
            UNION ALL SELECT t::text FROM memos.cube_version AS t WHERE tenant = 'neighbour'
            UNION ALL SELECT t::text FROM memos.migration AS t
            UNION ALL SELECT t::text FROM memos.setting AS t WHERE key <> 'embedder'
            ORDER BY 1
            """
        ).fetchall()


def attempted(verb: Callable[[], Any], *others: type[MemOSError]) -> Any:
    """Return the verb's answer, or None where it refused with one of our input errors."""
    refusal = ""
    try:
        answer = verb()
    except (InvalidInput, *others) as error:
        answer, refusal = None, str(error)
    event("refused" if refusal else "accepted")
    assert "PostgreSQL refused" not in refusal, "it is us who must see it"
    return answer


@many
@given(text=unclean, header=headers)
def test_add(guarded: MemOS, text: str, header: dict[str, Any]) -> None:
    view = guarded.at(f"hostile-{uuid4()}")
    cube: MemCube | None = attempted(lambda: view.add(text, **header))
    if cube is None:
        assert view.stats().events == 0
    else:
        stored = view.history(cube.id)
        assert stored == [cube]
        assert cube.text == text
        assert cube.tags == tuple(dict.fromkeys(header.get("tags", ())))


@many
@given(labels=st.lists(unclean, min_size=1, max_size=4), text=anything, user=unclean)
def test_any_label_keeps_what_it_is_given(
    guarded: MemOS, labels: list[str], text: str, user: str
) -> None:
    caller = attempted(lambda: Caller(user=user, context={user: labels}))
    view = attempted(lambda: guarded.at(f"hostile-{uuid4()}", *labels, caller=caller))
    cube: MemCube | None = view and attempted(lambda: view.add(text))
    if view and cube:
        assert cube.namespace == Namespace(*view.namespace)
        assert [hit.cube for hit in view.search(text)] == [cube]
        assert view.events(kind="added")[0].user == (caller.user if caller else None)
        assert view.forget(cube.id).cubes == (cube.id,)


@many
@given(query=unclean, options=questions)
def test_search(guarded: MemOS, query: str, options: dict[str, Any]) -> None:
    view = guarded.at("searched")
    if not view.stats().cubes:
        view.add(INJECTIONS, tags=["a"], metadata={"a": {"b": 1}, "$gt": "x"})
    hits = attempted(lambda: view.search(query, **options))
    if hits is not None:
        assert len(hits) <= options.get("k", 10)
        assert {hit.cube.namespace for hit in hits} <= {Namespace("searched")}


@many
@given(said=st.lists(turns, min_size=1, max_size=3), session=st.none() | unclean)
def test_ingest(guarded: MemOS, said: list[dict[str, Any]], session: str | None) -> None:
    view = guarded.at(f"hostile-{uuid4()}")
    cubes = attempted(lambda: view.ingest(said, session=session))
    logged: list[Message] = view.messages()
    if cubes is None:
        assert logged == []
    else:
        assert 0 < len(logged) <= len(said)
        assert view.stats().cubes == len(cubes)
        assert view.ingest([_as_turn(one) for one in logged]) == []
        assert [replace(one, metadata={}) for one in view.messages()] == [
            replace(one, metadata={}) for one in logged
        ]


def _as_turn(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "role": message.role,
        "content": message.content,
        "session": message.session,
    }


@many
@given(text=st.none() | unclean, header=headers, mode=st.sampled_from(["overwrite", "append", "'"]))
def test_update(guarded: MemOS, text: str | None, header: dict[str, Any], mode: Any) -> None:
    view = guarded.at("updated")
    header.pop("source", None)
    if isinstance(ttl := header.get("ttl"), int | float) and 0 < ttl < SOON:
        header["ttl"] = SOON  # else it expires before the test ends, and rightly
    cube = view.add("as it was", metadata={"a": 1})
    changed = attempted(lambda: view.update(cube.id, text, mode=mode, **header))
    if changed is None:
        assert view.history(cube.id) == [cube]
    else:
        assert [one.version for one in view.history(cube.id)] == [1, 2]
    restored = view.restore(cube.id, version=1)
    assert (restored.text, restored.metadata) == ("as it was", {"a": 1})


@many
@given(id=unclean | values, other=values)
def test_ids(guarded: MemOS, id: Any, other: Any) -> None:
    view = guarded.at("ids")
    verbs: list[Callable[[], Any]] = [
        lambda: view.get(id),
        lambda: view.history(id),
        lambda: view.update(id, "x"),
        lambda: view.restore(id, version=other),
        lambda: view.forget(id),
        lambda: view.forget([id, other]),
        lambda: view.events(cube=id, limit=other),
        lambda: view.messages(session=id, limit=other),
        lambda: view.retire(id),
        lambda: view.events(kind=id, caller=other, since=other),
    ]
    for verb in verbs:
        attempted(verb, CubeNotFound)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["字", "\U00020000", "ж", "a", "ﷺ", "🦜 ", "é", "\U0001d400 "])
def test_the_longest_text_of_any_script_is_stored_and_found(memos: MemOS, unit: str) -> None:
    start = ord(unit[0])
    distinct = "".join(chr(start + number % 1_000) + unit[1:] for number in range(65_536))
    for text in ((unit * 65_536)[:65_536], distinct[:65_536]):
        cube = memos.add(text)
        assert memos.get(cube.id).text == text
        with pytest.raises(InvalidText, match="65,537 characters, over the limit of 65,536"):
            memos.add(text + "x")
    assert len(memos.search(unit * 3)) == 2


@pytest.mark.parametrize("size", [10_000_000, 1_000_001])
def test_texts_of_megabytes_are_refused_at_once(memos: MemOS, size: int) -> None:
    text = "x" * size
    for verb in (
        lambda: memos.add(text),
        lambda: memos.search(text),
        lambda: memos.ingest(text),
        lambda: memos.update(UUID(int=1), text),
    ):
        with pytest.raises(InvalidText, match="split it"):
            verb()
    assert memos.stats().messages == 0


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"tags": [f"tag {n}" for n in range(1_001)]}, "at most 1000 tags"),
        ({"tags": "health"}, r"use \['health'\]"),
        ({"tags": [""]}, "non-empty"),
        ({"tags": ["x" * 513]}, "512 bytes"),
        ({"metadata": ["a"]}, "mapping"),
        ({"metadata": {"a": object()}}, "JSON"),
        ({"metadata": {"a": float("nan")}}, "JSON"),
        ({"metadata": {"a\x00": 1}}, "NUL"),
        ({"metadata": {"a": ["\ud800"]}}, "surrogate"),
        ({"semantic_type": ""}, "semantic_type"),
        ({"source": 7}, "source"),
        ({"priority": 2**31}, "priority"),
        ({"priority": 1.5}, "priority"),
    ],
)
def test_refuses_headers_that_cannot_be_kept(
    memos: MemOS, header: dict[str, Any], error: str
) -> None:
    with pytest.raises(InvalidInput, match=error):
        memos.add("text", **header)
    assert memos.stats().events == 0


def test_a_caller_that_cannot_be_logged_is_refused() -> None:
    for fields in ({"user": ""}, {"user": "a\x00"}, {"user": "a", "roles": "admin"}):
        with pytest.raises(InvalidInput):
            Caller(**fields)
    with pytest.raises(InvalidInput):
        Caller(user="a", context={"x": object()})


def test_metadata_that_is_a_loop_is_refused(memos: MemOS) -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    deep: Any = 1
    for _ in range(10_000):
        deep = [deep]
    for metadata in (loop, {"deep": deep}):
        with pytest.raises(InvalidInput, match="JSON"):
            memos.add("text", metadata=metadata)


def test_metadata_nests_as_deep_as_an_archive_can_hold(ann: View, tmp_path: Path) -> None:
    def nested(depth: int) -> dict[str, Any]:
        deep: Any = {"leaf": 1}
        for _ in range(depth - 1):
            deep = {"in": deep}
        return deep

    deepest, deeper = nested(64), nested(65)
    asking = Caller(user="ann", context=deepest)
    hers = View(ann.engine, ann.namespace, asking)
    cube = hers.add("text", metadata=deepest)
    hers.grant(user="bob", cube=cube.id, condition=deepest)
    turn = {"id": "1", "role": "user", "content": "hello"}
    ann.ingest([turn | {"metadata": deepest, "tool": deepest["in"]}])
    ann.dump(tmp_path / "deep.memos", events=True)
    there = View(ann.engine, type(ann.namespace)("other"))
    assert there.load(tmp_path / "deep.memos").cubes == 2
    assert there.get(cube.id).metadata == deepest
    for attempt in (
        lambda: ann.add("text", metadata=deeper),
        lambda: ann.update(cube.id, metadata=deeper),
        lambda: ann.grant(user="bob", condition=deeper),
        lambda: Caller(user="ann", context=deeper),
        lambda: ann.ingest([turn | {"id": "2", "metadata": deeper}]),
    ):
        with pytest.raises(InvalidInput, match="nests more than 64 deep"):
            attempt()
    (repaired,) = ann.ingest([turn | {"id": "2", "metadata": deeper}], repair=True)
    assert "'leaf': 1" in str(repaired.metadata)


def test_many_texts_in_one_call(database: str) -> None:
    with MemOS.open(database, embedder=WordEmbedder(width=8)) as memos:
        cubes = memos.add([f"line {number}" for number in range(20_000)])
        assert len({cube.id for cube in cubes}) == 20_000
        assert [cube.text for cube in cubes[::5_000]] == [
            f"line {n}" for n in range(0, 20_000, 5_000)
        ]
        assert len(memos.forget([cube.id for cube in cubes]).cubes) == 20_000
