"""What an archive's records may say: what is odd in them is refused, and nothing is loaded."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core import (
    ArchiveInvalid,
    Caller,
    InvalidInput,
    InvalidNamespace,
    MemOS,
    Provenance,
    Settings,
)
from memos_core.archive import ArchiveReader, ArchiveWriter, records
from memos_core.archive.records import CUBES, EVENTS, GRANTS, LINEAGE, MESSAGES, VERSIONS
from tests import archives
from tests.support import WordEmbedder, everything_in, url
from tests.test_archive_hostile import odd, places

Records = dict[Any, list[dict[str, Any]]]
KINDS: dict[str, Any] = {
    "cubes": CUBES,
    "versions": VERSIONS,
    "messages": MESSAGES,
    "lineage": LINEAGE,
    "grants": GRANTS,
    "events": EVENTS,
}


def whole_of(memos: MemOS, folder: Path) -> Path:
    """Write an archive with some of everything."""
    ann = memos.at("acme", "ann")
    one, two = ann.add(["one", "two"], tags=["a"], metadata={"deep": [{"er": None}]})
    ann.update(one.id, "one more")
    three = ann.derive("of both", [one.id, two.id])
    ann.derive("of three", [three.id])
    ann.relate(one.id, "about", two.id)
    gone = ann.add("gone")
    ann.expire(gone.id)
    cold = memos.at("acme", "ann", "below").add("cold", valid_from="2020-01-01", ttl=10**6)
    ann.freeze(cold.id)
    ann.ingest([{"id": "1", "role": "user", "name": "Ann", "content": "hi"}], session="s")
    ann.grant(user="bob", cube=one.id)
    ann.grant(role="doctor", tag="a", condition={"place": "ward"})
    memos.at("acme", "ann", caller=Caller(user="eve", roles=("x",))).add("eve's")
    path = folder / "whole.memos"
    ann.dump(path, events=True)
    return path


def unpacked(path: Path) -> Records:
    with ArchiveReader(path) as archive:
        return {kind: list(archive.records(kind)) for kind in archive.header.contents}


def packed(path: Path, like: Path, contents: Records) -> Path:
    """Write other records with the header of an archive, and vectors that say nothing."""
    with ArchiveReader(like) as archive:
        header = archive.header
    assert header.embedder
    with ArchiveWriter(path, header, overwrite=True) as archive:
        for kind, found in contents.items():
            vectors = None
            if kind in ("cubes", "versions"):
                vectors = np.ones((len(found), header.embedder.width), np.float16)
            archive.write(kind, found, embeddings=vectors)
    return path


def first(contents: Records, kind: str, **fields: Any) -> dict[str, Any]:
    """Return the first record of a kind that has these fields."""
    return next(
        record
        for record in contents[kind]
        if all(record.get(name) == value for name, value in fields.items())
    )


def changed(kind: str, **fields: Any) -> Callable[[Records], None]:
    """Return a change of the first record of a kind: other fields, or none for ``...``."""

    def change(contents: Records) -> None:
        record = contents[kind][0]
        record.update(fields)
        for name in [name for name, value in fields.items() if value is ...]:
            del record[name]

    return change


def again(kind: str) -> Callable[[Records], None]:
    return lambda contents: contents[kind].append(dict(contents[kind][0]))


def without(kind: str, **fields: Any) -> Callable[[Records], None]:
    return lambda contents: contents[kind].remove(first(contents, kind, **fields))


def circle(contents: Records) -> None:
    """Let what was made of another be what that was made of."""
    step = first(contents, "lineage", relation="derived")
    contents["lineage"].append(step | {"child": step["parent"], "parent": step["child"]})
    for kind in ("cubes", "versions"):
        for record in contents[kind]:
            if record["id"] == step["parent"]:
                record["derived"] = True
    for edge in list(contents["lineage"]):  # so that each tells of all
        if edge["child"] == step["child"] and edge["parent"] != step["parent"]:
            contents["lineage"].append(edge | {"child": step["parent"]})


def longer_circle(contents: Records) -> None:
    """As ``circle``, by steps at versions that nothing is at."""
    used = {edge[end] for edge in contents["lineage"] for end in ("child", "parent")}
    ids = [record["id"] for record in contents["cubes"] if record["id"] not in used]
    step = first(contents, "lineage", relation="derived")
    for child, parent in zip(ids, [*ids[1:], ids[0]], strict=True):
        contents["lineage"].append(step | {"child": child, "parent": parent, "version": 9})
    for kind in ("cubes", "versions"):
        for record in contents[kind]:
            if record["id"] in ids:
                record["derived"] = True


def incomplete(contents: Records) -> None:
    contents["lineage"] = [edge for edge in contents["lineage"] if "relation" in edge]


def stranger(contents: Records) -> None:
    step = first(contents, "lineage", relation="derived")
    contents["lineage"].append(step | {"child": str(uuid4())})


def orphan(contents: Records) -> None:
    step = first(contents, "lineage", relation="derived")
    contents["lineage"].append(step | {"parent": str(uuid4())})


def underived(contents: Records) -> None:
    for record in contents["cubes"]:
        record.pop("derived", None)


def about_itself(contents: Records) -> None:
    edge = contents["lineage"][0]
    edge["parent"] = edge["child"]


def in_two_states(contents: Records) -> None:
    contents["cubes"].append(contents["cubes"][0] | {"version": 7})


def unfinished(contents: Records) -> None:
    ids = {record["id"] for record in contents["versions"]}
    contents["cubes"] = [one for one in contents["cubes"] if one["id"] not in ids]


def overlapping(contents: Records) -> None:
    contents["versions"][0]["superseded_at"] = "2026-11-24T00:00:00+00:00"
    contents["versions"][0]["recorded_at"] = "2026-11-23T00:00:00+00:00"


def unthawable(contents: Records) -> None:
    cold = first(contents, "cubes", state="frozen")
    contents["versions"] = [one for one in contents["versions"] if one["id"] != cold["id"]]


def gap(contents: Records) -> None:
    ids = {record["id"] for record in contents["versions"]}
    record = next(one for one in contents["cubes"] if one["id"] in ids)
    record["version"] += 1


HOSTILE: dict[str, tuple[str, Callable[[Records], None]]] = {
    "unknown field": ("no field 'flavour'", changed("cubes", flavour="sweet")),
    "missing field": ("no field 'text'", changed("cubes", text=...)),
    "another type": ("'text' must be a text, not 3", changed("cubes", text=3)),
    "NUL": ("'text' holds a NUL", changed("cubes", text="a\x00b")),
    "NUL within": ("'metadata' holds a NUL", changed("cubes", metadata={"a": [{"b\x00": 1}]})),
    "blank": ("not only spaces", changed("cubes", text=" \n")),
    "too long": ("131072 characters", changed("cubes", text="x" * 131_073)),
    "no UUID": ("lower-case hex", changed("cubes", id="{12345678-1234-5678-1234-567812345678}")),
    "true as a number": ("whole number", changed("cubes", version=True)),
    "too large": ("whole number", changed("cubes", version=2**31)),
    "no time zone": ("time zone", changed("cubes", created_at="2026-11-24T00:00:00")),
    "no time": ("time zone", changed("cubes", valid_to="infinity")),
    "out of time": ("time zone", changed("cubes", valid_to="0001-01-01T00:00:00+12:00")),
    "of the future": ("is of the future", changed("cubes", recorded_at="2999-01-01T00:00:00Z")),
    "unknown state": ("one of generated", changed("cubes", state="alive")),
    "expired and there": ("stands no more", changed("cubes", state="expired")),
    "superseded and there": (
        "no field 'superseded_at'",
        changed("cubes", superseded_at="2026-11-24T00:00:00Z"),
    ),
    "content to come": ("after 'version'", changed("cubes", content_version=99)),
    "tags twice": ("names something twice", changed("cubes", tags=["a", "a"])),
    "a long tag": ("1 to 512 bytes", changed("cubes", tags=["é" * 257])),
    "an empty label": ("none empty", changed("cubes", below=[""])),
    "too deep": ("less than 32 labels", changed("cubes", below=["x"] * 32)),
    "odd provenance": ("no field 'smell'", changed("cubes", provenance={"smell": "sweet"})),
    "odd within it": ("'said_at'", changed("cubes", provenance={"said_at": "yesterday"})),
    "a cube twice": ("told of before", again("cubes")),
    "a version twice": ("told of before", again("versions")),
    "two versions of it stand": ("version|stands at two", in_two_states),
    "a gap": ("lacks version", gap),
    "no last version": ("ends before its last version", unfinished),
    "times that overlap": ("has no time at which", overlapping),
    "frozen for ever": ("no version before it", unthawable),
    "a step twice": ("told of before", again("lineage")),
    "made of itself": ("a cube was made of itself|lineage does not tell", circle),
    "made of itself long ago": ("a cube was made of itself", longer_circle),
    "of half of its sources": ("lineage does not tell of", incomplete),
    "made of what is nowhere": ("neither in the archive nor here", orphan),
    "a stranger's lineage": ("it has no cube", stranger),
    "made of others in secret": ("does not say so", underived),
    "about itself": ("not made of itself", about_itself),
    "an odd relation": ("one of derived", changed("lineage", relation="sibling")),
    "a step without time": ("those of a relation", changed("lineage", recorded_at=...)),
    "a message twice": ("told of before", again("messages")),
    "forgotten and there": (
        "a forgotten message has no content",
        changed("messages", forgotten_at="2026-11-24T00:00:00Z"),
    ),
    "a grant twice": ("told of before", again("grants")),
    "a grant of nothing": ("at least one", changed("grants", rights=[])),
    "an odd right": ("one of read", changed("grants", rights=["fly"])),
    "to two": ("no user and role", changed("grants", user="a", role="b", cube=...)),
    "about what is nowhere": ("what a grant is about", changed("grants", cube=str(uuid4()))),
    "an event twice": ("told of before", again("events")),
    "an event to come": ("is of the future", changed("events", at="9999-01-01T00:00:00Z")),
    "an odd caller": ("no field 'x'", changed("events", caller={"user": "a", "x": 1})),
    "an odd number": ("whole number", changed("events", id=0)),
}


class Example:
    """An archive, and a memory into which one after the other is loaded."""

    def __init__(self, memos: MemOS, dsn: str, folder: Path) -> None:
        self.memos, self.dsn, self.folder = memos, dsn, folder
        self.whole = whole_of(memos, folder)
        self.count = 0
        self.before = everything_in(dsn)

    def load(self, contents: Records) -> Path:
        """Load records, or change nothing, and dump them again."""
        self.count += 1
        path = packed(self.folder / "changed.memos", self.whole, contents)
        there = self.memos.at(f"t{self.count}")
        try:
            there.load(path)
        except (ArchiveInvalid, InvalidNamespace):
            assert everything_in(self.dsn) == self.before
            raise
        again = self.folder / "again.memos"
        there.dump(again, events=True, overwrite=True)
        self.before = everything_in(self.dsn)
        return again


@pytest.fixture(scope="module")
def place(server: str, template: str) -> Iterator[tuple[MemOS, str]]:
    """A database for all examples of one test."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    dsn = url(server, name)
    with MemOS.open(dsn, embedder=WordEmbedder(), settings=Settings(read_events=False)) as memos:
        yield memos, dsn
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def example(place: tuple[MemOS, str], tmp_path_factory: pytest.TempPathFactory) -> Example:
    return Example(*place, tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("which", HOSTILE)
def test_hostile_records_change_nothing(example: Example, which: str) -> None:
    why, change = HOSTILE[which]
    contents = unpacked(example.whole)
    change(contents)
    with pytest.raises(ArchiveInvalid, match=why) as caught:
        example.load(contents)
    assert "changed.memos" in str(caught.value)


def reads(path: Path) -> bool:
    """Tell whether an archive is whole: some bytes of a ZIP file say nothing."""
    try:
        with ArchiveReader(path) as archive:
            archive.verify()
    except ArchiveInvalid:
        return False
    return True


def test_damaged_files_change_nothing(example: Example, tmp_path: Path) -> None:
    data = example.whole.read_bytes()
    path = tmp_path / "damaged.memos"
    for place in range(0, len(data), len(data) // 60):
        for damaged in (data[:place], data[:place] + b"\x00" + data[place + 1 :]):
            path.write_bytes(damaged)
            if not reads(path):
                with pytest.raises(ArchiveInvalid):
                    example.memos.at("other").load(path)
    assert everything_in(example.dsn) == example.before


def test_an_archive_of_something_else_changes_nothing(example: Example, tmp_path: Path) -> None:
    path = archives.write(tmp_path / "else.memos")
    with pytest.raises(ArchiveInvalid, match="must be a UUID in lower-case hex digits, not 'c1'"):
        example.memos.at("other").load(path)
    assert everything_in(example.dsn) == example.before


def test_a_record_says_the_same_as_its_value(example: Example) -> None:
    for kind, found in unpacked(example.whole).items():
        for record in found:
            value = KINDS[kind].value(record, where="here")
            assert KINDS[kind].record(value) == record


def test_the_fields_are_those_of_the_document() -> None:
    text = (Path(__file__).parent.parent / "docs" / "archive-format.md").read_text("utf-8")
    sections = text[text.index("\n### `cubes`") : text.index("## What is checked")].split("\n### ")
    named: dict[str, list[str]] = {}
    for section in sections[1:]:
        rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
        named[section.split("`")[1]] = re.findall("`(\\w+)`", " ".join(rows))
    named["versions"] += named["cubes"]
    for kind, fields in named.items():
        assert sorted(fields) == sorted(KINDS[kind].fields), kind
    assert set(named) == set(KINDS)


def test_a_provenance_is_known_whole() -> None:
    known = {one.name for one in dataclasses.fields(Provenance)} - {"message_ids"}
    assert set(records._PROVENANCE) == known  # noqa: SLF001


def as_stored(value: Any) -> Any:
    """Return JSON values as jsonb gives them back: 1e2 is 100, and fields have no order."""
    if isinstance(value, float) and value.is_integer():
        return int(Decimal(repr(value)))
    if isinstance(value, dict):
        return {key: as_stored(value[key]) for key in sorted(value)}
    return [as_stored(one) for one in value] if isinstance(value, list) else value


def values(contents: Records) -> dict[str, Any]:
    """Return what records stand for, but for what is found again when they are loaded."""
    contents = as_stored(contents)
    found = {
        kind: [KINDS[kind].value(record, where="here") for record in contents[kind]]
        for kind in KINDS
    }
    for kind in ("cubes", "versions"):
        found[kind] = [dataclasses.replace(one, spoken=False) for one in found[kind]]
    found["events"] = [one for one in found["events"] if one.kind not in ("imported", "exported")]
    found["grants"] = [
        one for one in found["grants"] if not one.expires_at or one.expires_at > datetime.now(UTC)
    ]
    return {kind: sorted(map(repr, found[kind])) for kind in found}


@st.composite
def changes(draw: st.DrawFn, contents: Records) -> Records:
    """Records of which some fields say something else, are gone, or are new."""
    new: Records = json.loads(json.dumps(contents))
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from([kind for kind in new if new[kind]]))
        number = draw(st.integers(0, len(new[kind]) - 1))
        record = new[kind][number]
        path = draw(st.sampled_from(places(record)))
        if not path:
            new[kind].append(dict(record)) if draw(st.booleans()) else new[kind].pop(number)
            continue
        holder: Any = record
        for step in path[:-1]:
            holder = holder[step]
        others = [place for place in places(record) if place]
        if draw(st.booleans()):
            value = draw(odd)
        else:  # what stands elsewhere in the record is of the right type more often
            value: Any = record
            for step in draw(st.sampled_from(others)):
                value = value[step]
        if draw(st.integers(0, 4)) == 0 and isinstance(holder, dict):
            del holder[path[-1]]
        else:
            holder[path[-1]] = copy.deepcopy(value)
    return new


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_changed_records_are_loaded_as_they_are_or_not_at_all(
    example: Example, data: st.DataObject
) -> None:
    contents = data.draw(changes(unpacked(example.whole)))
    try:
        loaded = example.load(contents)
    except (ArchiveInvalid, InvalidInput):  # which also is what no JSON can hold
        return
    found, wanted = values(unpacked(loaded)), values(contents)
    for kind in KINDS:
        assert found[kind] == wanted[kind]
