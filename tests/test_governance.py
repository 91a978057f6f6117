"""Who may do what: each verb for each kind of caller, and nothing that he may not read shows."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, cast
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import psycopg
import pytest
from hypothesis import Phase, settings
from hypothesis import given as for_all
from hypothesis import strategies as st

from memos_core import (
    AsyncMemOS,
    AsyncView,
    Caller,
    CubeExists,
    CubeFrozen,
    CubeNotFound,
    Grant,
    Hit,
    InvalidInput,
    MemCube,
    MemOS,
    NotPermitted,
    Right,
    Settings,
    State,
    View,
)
from memos_core.embedder import Vectors
from tests.support import Awaited, WordEmbedder, url

ANN, BOB, CAROL = Caller(user="ann"), Caller(user="bob"), Caller(user="carol")
NURSE = Caller(user="bob", roles=("nurse", "reader"))
ON_WARD = Caller(user="bob", context={"place": "ward", "shift": 2})
PAST, FUTURE = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"
MODES = ("hybrid", "dense", "lexical")
TENANTS = count(1)


def rights(words: str) -> frozenset[Right]:
    return frozenset(map(Right, words.split()))


ALL = "read write share derive"
EVERYTHING = rights(ALL)


@pytest.fixture(scope="module")
def database(server: str, template: str) -> Iterator[str]:
    """One database for all tests here: each has a tenant of its own."""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS governance WITH (FORCE)")
        admin.execute(f"CREATE DATABASE governance TEMPLATE {template} STRATEGY file_copy")
        yield url(server, "governance")
        admin.execute("DROP DATABASE governance WITH (FORCE)")


@pytest.fixture(scope="module", params=[True, False], ids=["both walls", "conditions alone"])
def memos(database: str, request: pytest.FixtureRequest) -> Iterator[MemOS]:
    """A memory behind both walls, and one that only the conditions in the statements govern."""
    settings = Settings(row_security=request.param)
    with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        memos.add("The first text of a database claims it for its embedder.")
        yield memos


@dataclass(frozen=True)
class Tenant:
    """A part of the memory of which nobody else knows."""

    memos: MemOS
    name: str

    def at(self, *labels: str, caller: Caller | None = None) -> View:
        return self.memos.at(self.name, *labels, caller=caller)

    @property
    def app(self) -> View:
        return self.at()

    @property
    def ann(self) -> View:
        return self.at(caller=ANN)

    @property
    def bob(self) -> View:
        return self.at(caller=BOB)

    @property
    def carol(self) -> View:
        return self.at(caller=CAROL)


@pytest.fixture
def here(memos: MemOS) -> Tenant:
    return Tenant(memos, f"tenant {next(TENANTS)}")


def texts(hits: Sequence[Hit]) -> set[str]:
    return {hit.text for hit in hits}


def refused(verb: Callable[[], Any]) -> bool:
    """Tell whether a verb says that there is no such cube."""
    try:
        verb()
    except CubeNotFound:
        return True
    return False


# ------------------------------------------------------------------ every verb, every caller


@dataclass(frozen=True, kw_only=True)
class Given:
    """A grant that was made: where, by whom (None is the application), and the verb's options."""

    about: str = "namespace"  # or "cube", or a tag
    rights: str = ALL
    at: tuple[str, ...] = ("ann",)
    tenant: str = ""
    by: Caller | None = None
    to: Mapping[str, Any] = field(default_factory=lambda: {"user": "bob"})
    revoked: bool = False
    until: str | None = None
    ttl: float | None = None
    condition: Mapping[str, object] | None = None

    def make(self, memos: MemOS, tenant: str, **target: Any) -> None:
        view = memos.at(tenant + self.tenant, *self.at, caller=self.by)
        more = {"until": self.until, "ttl": self.ttl, "condition": self.condition}
        view.grant(**self.to, **target, rights=self.rights.split(), **more)
        if self.revoked:
            assert len(view.revoke(**self.to, **target)) == 1


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Who asks for cubes of Ann's, what was granted before, and what he may do therefore."""

    may: frozenset[Right]
    caller: Caller | None = BOB
    given: tuple[Given, ...] = ()
    owner: Caller | None = ANN
    at: tuple[str, ...] = ("ann",)
    tenant: str = ""
    messages: bool = False  # whether he may read what Ann said, which has no tags

    @property
    def elsewhere(self) -> bool:
        return bool(self.tenant) or self.at != ("ann",)


def may(
    words: str, *given: Given, caller: Caller = BOB, messages: bool = False, tenant: str = ""
) -> Situation:
    return Situation(
        may=rights(words), given=given, caller=caller, messages=messages, tenant=tenant
    )


def a_cube(words: str = ALL, **options: Any) -> Given:
    return Given(about="cube", rights=words, **options)


# How rights are told apart.
SITUATIONS: dict[str, Situation] = {
    "the application": Situation(may=EVERYTHING, caller=None, messages=True),
    "the owner": Situation(may=EVERYTHING, caller=ANN, messages=True),
    "a reader of what nobody owns": Situation(may=rights("read derive"), owner=None, messages=True),
    "a stranger": may(""),
    "granted read": may("read", a_cube("read")),
    "granted write alone": may("write", a_cube("write")),
    "granted share alone": may("share", a_cube("share")),
    "granted derive alone": may("derive", a_cube("derive")),
    "granted read and write": may("read write", a_cube("read write")),
    "granted read and share": may("read share", a_cube("read share")),
    "granted read and derive": may("read derive", a_cube("read derive")),
    "granted all but read": may("write share derive", a_cube("write share derive")),
    "granted all": may(ALL, a_cube(ALL, by=ANN)),
    "granted in two parts": may("read write", a_cube("read"), Given(rights="write")),
    "granted all in another tenant": may("", Given(), a_cube(), tenant="!"),
}
# A right that ends with a role, a time or a context is not granted on.
USE = "read write derive"
# How grants are told apart.
RESOLUTIONS: dict[str, Situation] = {
    "to a role of his": may(USE, a_cube(to={"role": "nurse"}), caller=NURSE),
    "to another role": may("", a_cube(to={"role": "doctor"}), caller=NURSE),
    "to a role named like him": may("", a_cube(to={"role": "bob"}), caller=NURSE),
    "to a user named like a role of his": may("", a_cube(to={"user": "nurse"}), caller=NURSE),
    "to everyone": may(USE, a_cube(to={"everyone": True})),
    "to another": may("", a_cube(to={"user": "carol"})),
    "to one whose name differs in case": may("", a_cube(to={"user": "Bob"})),
    "until long ago": may("", a_cube(until=PAST)),
    "until much later": may(USE, a_cube(until=FUTURE)),
    "for an hour": may(USE, a_cube(ttl=3600)),
    "and revoked": may("", a_cube(revoked=True)),
    "in his context": may(USE, a_cube(condition={"place": "ward"}), caller=ON_WARD),
    "in another context": may("", a_cube(condition={"place": "home"}), caller=ON_WARD),
    "in a narrower one": may("", a_cube(condition={"place": "ward", "shift": 3}), caller=ON_WARD),
    "in one that he has not": may("", a_cube(condition={"place": "ward"})),
    "its tag": may(ALL, Given(about="shared")),
    "its tag, from above": may(ALL, Given(about="shared", at=())),
    "its tag, below": may("", Given(about="shared", at=("ann", "x"))),
    "its tag, elsewhere": may("", Given(about="shared", at=("bob",))),
    "its tag, by the owner": may(ALL, Given(about="shared", by=ANN)),
    "its tag, by a stranger": may("", Given(about="shared", by=CAROL, at=())),
    "its tag, by himself": may("", Given(about="shared", by=BOB, at=())),
    "its tag, in another tenant": may("", Given(about="shared", tenant="!")),
    "another tag": may("", Given(about="share")),
    "its namespace": may(ALL, Given(), messages=True),
    "its namespace, to read": may("read", Given(rights="read"), messages=True),
    "its namespace, from above": may(ALL, Given(at=()), messages=True),
    "its namespace, by the owner": may(ALL, Given(by=ANN), messages=True),
    "its namespace, by a stranger": may("", Given(by=CAROL, at=())),
    "its namespace, by himself": may("", Given(by=BOB, at=())),
    "its namespace, in another tenant": may("", Given(tenant="!"), Given(tenant="!", at=())),
    "another namespace": may("", Given(at=("bob",))),
    "one named alike": may("", *(Given(at=(name,)) for name in ("an", "anna", "ann\x01", "Ann"))),
    "what is below": may("", Given(at=("ann", "x"))),
    "all, but his view is below": Situation(may=frozenset(), at=("ann", "x"), given=(a_cube(),)),
    "all, but his view is beside": Situation(may=frozenset(), at=("bob",), given=(a_cube(),)),
    "all, and his view is above": Situation(may=EVERYTHING, at=(), given=(a_cube(),)),
    "the owner's name in another tenant": may("", caller=ANN, tenant="!"),
    "another tenant's application": Situation(may=frozenset(), caller=None, tenant="!"),
}

Verb = Callable[[View, UUID, UUID], Any]
# What a verb needs beside read, and the verb.
VERBS: dict[str, tuple[str, Verb]] = {
    "get": ("", lambda view, one, _: view.get(one)),
    "get as it stood": ("", lambda view, one, _: view.get(one, as_of=FUTURE)),
    "history": ("", lambda view, one, _: view.history(one)),
    "diff": ("", lambda view, one, _: view.diff(one, 1)),
    "provenance": ("", lambda view, one, _: view.provenance(one)),
    "update": ("write", lambda view, one, _: view.update(one, "changed")),
    "append": ("write", lambda view, one, _: view.update(one, "changed", mode="append")),
    "update the header": ("write", lambda view, one, _: view.update(one, priority=3)),
    "update, with its tags": ("write", lambda view, one, _: view.update(one, tags=["shared", "x"])),
    "put on a tag": (
        "share write",
        lambda view, one, _: view.update(one, tags=["shared", "x", "new"]),
    ),
    "take off a tag": ("share write", lambda view, one, _: view.update(one, "tea", tags=["x"])),
    "restore": ("write", lambda view, one, _: view.restore(one, version=1)),
    "forget": ("write", lambda view, one, _: view.forget(one)),
    "forget both": ("write", lambda view, one, other: view.forget([other, one])),
    "archive": ("write", lambda view, one, _: view.archive(one)),
    "activate": ("write", lambda view, one, _: view.activate(one)),
    "freeze": ("write", lambda view, one, other: view.freeze([one, other])),
    "unfreeze": ("write", lambda view, one, _: view.unfreeze(one)),
    "expire": ("write", lambda view, one, _: view.expire(one)),
    "derive": ("derive", lambda view, one, other: view.derive("both", [one, other])),
    "compose": ("derive", lambda view, one, other: view.compose([one, other], f"all {one}")),
    "fuse": ("derive write", lambda view, one, other: view.fuse([one, other])),
    "relate": ("write", lambda view, one, other: view.relate(one, "contradicts", other)),
    "grant": ("share", lambda view, one, _: view.grant(user="carol", cube=one)),
    "grant write": (
        "share write",
        lambda view, one, _: view.grant(role="r", cube=one, rights=["write", "read"]),
    ),
    "grant derive": (
        "share derive",
        lambda view, one, _: view.grant(everyone=True, cube=one, rights=["derive"]),
    ),
    "grant share": (
        "share",
        lambda view, one, _: view.grant(user="carol", cube=one, rights=["share"]),
    ),
}


def everything_of(dsn: str, tenant: str) -> list[object]:
    """Return every row of a tenant, but the log's and what was read."""
    tables = "cube", "cube_version", "permission", "lineage", "source", "message"
    with psycopg.connect(dsn) as connection:
        return [
            connection.execute(
                f"SELECT t::text FROM memos.{table} t WHERE tenant = %s ORDER BY 1", [tenant]
            ).fetchall()
            for table in tables
        ]


@dataclass(frozen=True, kw_only=True)
class World:
    """A situation that is so: who asks, and the view of him whose cubes it is about."""

    here: Tenant
    situation: Situation
    view: View
    owner: View

    @classmethod
    def of(cls, here: Tenant, situation: Situation, face: Callable[[View], View]) -> World:
        view = here.memos.at(here.name + situation.tenant, *situation.at, caller=situation.caller)
        world = cls(
            here=here,
            situation=situation,
            view=face(view),
            owner=here.at("ann", caller=situation.owner),
        )
        for given in situation.given:
            if given.about == "namespace":
                given.make(here.memos, here.name)
            elif given.about != "cube":
                given.make(here.memos, here.name, tag=given.about)
        return world

    def cubes(self, number: int) -> list[UUID]:
        """Make new cubes, and grant what was granted of single ones."""
        made = self.owner.add([f"tea {place}" for place in range(number)], tags=["shared", "x"])
        for given in self.situation.given:
            for cube in made if given.about == "cube" else ():
                given.make(self.here.memos, self.here.name, cube=cube.id)
        return [cube.id for cube in made]


@pytest.fixture(params=["blocking", "awaited"])
def face(request: pytest.FixtureRequest) -> Iterator[Callable[[View], View]]:
    """What makes of a view the same view, through either face."""
    if request.param == "blocking":
        yield lambda view: view
    else:
        with asyncio.Runner() as runner:
            yield lambda view: cast("View", Awaited(AsyncView(view), runner))


def blocking(view: View) -> View:
    return view


def assert_verbs_obey(world: World, database: str) -> None:
    """Every verb that the caller may not do is refused and does nothing, and the others work."""
    situation, here = world.situation, world.here
    made = world.cubes(2 * len(VERBS))
    pairs = dict(zip(VERBS, zip(made[::2], made[1::2], strict=True), strict=True))
    here.app.freeze(pairs["unfreeze"][0])
    world.owner.update(pairs["restore"][0], "tea once more")
    before = everything_of(database, here.name)
    legal = [name for name in VERBS if situation.may >= rights(f"read {VERBS[name][0]}")]
    illegal = [name for name in VERBS if name not in legal]
    error = NotPermitted if Right.READ in situation.may else CubeNotFound
    for name in illegal:
        act, (one, other), unknown = VERBS[name][1], pairs[name], (uuid4(), uuid4())
        with pytest.raises(error) as denied:
            act(world.view, one, other)
        if error is CubeNotFound:
            with pytest.raises(CubeNotFound) as unseen:
                act(world.view, *unknown)
            said = str(unseen.value)
            for mine, theirs in zip(unknown, (one, other), strict=True):
                said = said.replace(str(mine), str(theirs))
            assert str(denied.value) == said, "as of what never was"
    assert everything_of(database, here.name) == before
    assert_denials_logged(world, {name: pairs[name] for name in illegal})
    for name in legal:
        VERBS[name][1](world.view, *pairs[name])
    assert len(here.app.events(kind="denied")) == (0 if situation.elsewhere else len(illegal))


def assert_denials_logged(world: World, pairs: Mapping[str, tuple[UUID, UUID]]) -> None:
    log = world.here.app.events(kind="denied", limit=1_000)
    assert world.here.memos.at(world.here.name + "!").events(kind="denied") == []
    if world.situation.elsewhere:
        assert log == [], "where he looked nothing is there"
        return
    assert len(log) == len(pairs)
    for name, (one, _) in pairs.items():
        (event,) = [event for event in log if one in event.cube_ids]
        assert world.situation.caller is not None
        assert event.user == world.situation.caller.user
        assert event.details["right"] in {"read", *VERBS[name][0].split()}, name


@pytest.mark.parametrize("name", SITUATIONS | RESOLUTIONS)
def test_each_verb_does_what_its_caller_may_and_is_refused_else(
    here: Tenant, database: str, face: Callable[[View], View], name: str
) -> None:
    assert_verbs_obey(World.of(here, (SITUATIONS | RESOLUTIONS)[name], face), database)


Reader = Callable[[View], Sequence[Hit]]
READERS: dict[str, Reader] = {
    **{mode: lambda view, mode=mode: view.search("tea", mode=mode) for mode in MODES},
    **{
        f"{mode} as it stood": lambda view, mode=mode: view.search("tea", mode=mode, as_of=FUTURE)
        for mode in MODES
    },
    **{
        f"{mode} with context": lambda view, mode=mode: view.search("tea", mode=mode, context=2)
        for mode in MODES
    },
    "by phrase": lambda view: view.search('"tea 0" te*', mode="lexical", states=list(State)),
    "by tag": lambda view: view.search("tea", tags=["shared"]),
    "recall": lambda view: view.recall("tea?").hits,
}


@pytest.mark.parametrize("name", SITUATIONS | RESOLUTIONS)
def test_a_caller_finds_and_counts_what_he_may_read_and_no_more(here: Tenant, name: str) -> None:
    situation = (SITUATIONS | RESOLUTIONS)[name]
    world = World.of(here, situation, blocking)
    cubes = world.cubes(2)
    said = [{"id": "m1", "role": "user", "content": "tea is said"}]
    world.owner.ingest([*said, {"id": "m2", "role": "system", "content": "rules"}], session="s")
    reads, hears = Right.READ in situation.may, situation.messages
    expected = set(cubes) if reads else set[UUID]()
    for way, read in READERS.items():
        hits = read(world.view)
        assert {hit.cube.id for hit in hits if hit.cube.tags} == expected, way
        turns = [hit for hit in hits if not hit.cube.tags]
        assert len(turns) == (hears and way != "by tag"), way
        for hit in turns:
            around = ["m1", "m2"] if "context" in way else []
            assert [message.id for message in hit.context] == around
    counted = world.view.stats()
    assert (counted.cubes, counted.versions) == (2 * reads + hears, 2 * reads + hears)
    assert counted.messages == 2 * hears
    if situation.at == ("ann",):
        heard = [message.id for message in world.view.messages()]
        assert heard == (["m1", "m2"] if hears else [])
    memories = [here.app.get(cube) for cube in cubes]
    assert world.view.stands(memories) == reads
    world.owner.update(cubes[0], "coffee")
    assert not world.view.stands(memories)


WITHOUT_READ = {"granted write alone", "granted in two parts", "granted all but read"}


@pytest.mark.parametrize("name", sorted(SITUATIONS.keys() - WITHOUT_READ))
def test_a_caller_forgets_all_that_he_may_change_and_nothing_else(here: Tenant, name: str) -> None:
    situation = SITUATIONS[name]
    world = World.of(here, situation, blocking)
    cubes = world.cubes(2)
    world.owner.ingest({"id": "m", "role": "user", "content": "tea is said"}, session="s")
    mine = world.view.add("tea of his own")
    world.view.retire("s")
    changes = situation.may >= rights("read write")
    everybodys = situation.caller in (None, ANN)
    assert [message.retired for message in here.at("ann").messages(retired=True)] == [everybodys]
    world.view.forget_all()
    left = {hit.cube.id for hit in here.app.search("tea", k=50)}
    assert mine.id not in left
    assert left & {*cubes} == (set() if changes else {*cubes})
    assert bool(here.at("ann").messages(retired=True)) == (not everybodys)


def test_what_one_may_change_is_left_alone_beside_what_one_may_not(
    here: Tenant, face: Callable[[View], View], database: str
) -> None:
    """All or nothing, whatever the order, and whether the others are unreadable or unwritable."""
    bob = face(here.bob)
    mine, secret = bob.add("bob's"), here.ann.add("ann's secret")
    shown = here.ann.add("ann's")
    here.ann.grant(user="bob", cube=shown.id, rights=["read", "derive"])
    before = everything_of(database, here.name)
    for other, error in ((secret.id, CubeNotFound), (shown.id, NotPermitted)):
        for ids in ([mine.id, other], [other, mine.id]):
            for verb in (bob.forget, bob.archive, bob.freeze, bob.expire, bob.fuse):
                with pytest.raises(error):
                    verb(ids)
    for ids in ([secret.id, shown.id], [shown.id, mine.id, secret.id]):
        for verb in (bob.forget, bob.archive, bob.fuse, lambda ids: bob.derive("all", ids)):
            with pytest.raises(CubeNotFound) as error:
                verb(ids)
            assert str(shown.id) not in str(error.value)
    assert everything_of(database, here.name) == before


@pytest.mark.parametrize("granted", ["", "read", "write", "read write"])
def test_a_sweep_ends_what_its_caller_may_change_and_nothing_else(
    here: Tenant, granted: str
) -> None:
    mine, theirs = (view.add("soon over", ttl=0.001) for view in (here.bob, here.ann))
    if granted:
        here.ann.grant(user="bob", rights=granted.split())
    time.sleep(0.01)
    swept = {mine.id, theirs.id} if granted == "read write" else {mine.id}
    assert set(here.bob.sweep().expired) == swept
    assert set(here.app.sweep().expired) == {mine.id, theirs.id} - swept


def test_nobody_makes_rules_but_the_application(here: Tenant, face: Callable[[View], View]) -> None:
    here.app.grant(everyone=True, rights=ALL.split())
    for view in (here.ann, here.bob, here.at("below", caller=ANN)):
        with pytest.raises(NotPermitted):
            face(view).set_rules(None)
        assert view.rules() == here.app.rules()


def test_a_cube_may_contradict_only_what_its_writer_may_read(here: Tenant) -> None:
    mine, theirs = here.bob.add("so it is"), here.ann.add("so it is not")
    with pytest.raises(CubeNotFound):
        here.bob.relate(mine.id, "contradicts", theirs.id)
    here.ann.grant(user="bob", cube=theirs.id)
    here.bob.relate(mine.id, "contradicts", theirs.id)
    assert [edge.parent for edge in here.bob.provenance(mine.id).edges] == [theirs.id]
    assert here.ann.provenance(theirs.id).edges == (), "she may not read what contradicts her"
    here.ann.revoke(user="bob", cube=theirs.id)
    assert here.bob.provenance(mine.id).cubes.keys() == {mine.id}


def test_a_hit_brings_only_the_turns_that_its_finder_may_read(here: Tenant) -> None:
    turns = [{"id": f"m{n}", "role": "user", "content": f"tea {n}"} for n in range(3)]
    said = here.ann.ingest(turns, session="s")
    here.ann.grant(user="bob", cube=said[1].id)
    for mode in MODES:
        (hit,) = here.bob.search("tea", mode=mode, context=5)
        assert hit.text == "tea 1"
        assert hit.context == (), "the grant is about the cube alone"
    assert here.bob.provenance(said[1].id).messages == ()
    here.ann.grant(user="bob")
    (hit, *_) = here.bob.search('"tea 1"', context=1)
    assert [message.id for message in hit.context] == ["m0", "m1", "m2"]
    assert [message.id for message in here.bob.provenance(said[1].id).messages] == ["m1"]


def test_grants_of_today_are_those_for_the_past(here: Tenant) -> None:
    cube = here.ann.add("tea then")
    then = here.ann.update(cube.id, "tea now").updated_at
    here.ann.grant(user="bob", cube=cube.id)
    assert here.bob.get(cube.id, as_of=cube.updated_at).text == "tea then"
    assert [one.text for one in here.bob.history(cube.id)] == ["tea then", "tea now"]
    assert texts(here.bob.search("tea", as_of=cube.updated_at)) == {"tea then"}
    here.ann.revoke(user="bob", cube=cube.id)
    for moment in (cube.updated_at, then, FUTURE):
        assert refused(lambda moment=moment: here.bob.get(cube.id, as_of=moment))
        assert here.bob.search("tea", as_of=moment) == []
    assert refused(lambda: here.bob.history(cube.id))
    assert here.bob.stats().versions == 0


def test_an_ended_cube_is_for_those_who_might_read_it(here: Tenant) -> None:
    cube = here.ann.add("tea")
    here.ann.grant(user="bob", cube=cube.id)
    here.ann.expire(cube.id)
    for view in (here.ann, here.bob):
        assert [one.state for one in view.history(cube.id)][-1] is State.EXPIRED
        assert view.get(cube.id, as_of=cube.updated_at).text == "tea"
    assert refused(lambda: here.carol.history(cube.id))
    assert refused(lambda: here.carol.get(cube.id, as_of=cube.updated_at))


# ------------------------------------------------------------------------------ granting


def forms(grants: Sequence[Grant]) -> list[tuple[Any, ...]]:
    return [(one.user or one.role, one.tag, one.owner, {*one.rights}) for one in grants]


class TestTags:
    """A grant on a tag is about all that bears it: to put it on is to share."""

    def test_who_may_write_shares_nothing_by_a_tag(self, here: Tenant) -> None:
        here.app.grant(everyone=True, tag="public")
        cube = here.ann.add("tea", tags=["diary"])
        here.ann.grant(user="bob", cube=cube.id, rights=["read", "write"])
        for tags in (["diary", "public"], ["public"], []):
            with pytest.raises(NotPermitted, match="may not share"):
                here.bob.update(cube.id, "coffee", tags=tags)
        assert refused(lambda: here.carol.get(cube.id))
        assert here.bob.update(cube.id, "coffee", tags=["diary"]).tags == ("diary",)
        assert here.bob.update(cube.id, "water").text == "water"
        here.ann.grant(user="bob", cube=cube.id, rights=["read", "write", "share"])
        here.bob.update(cube.id, tags=["public"])
        assert here.carol.get(cube.id).text == "water"

    def test_who_may_share_for_a_while_gives_no_tags(self, here: Tenant) -> None:
        cube = here.ann.add("tea")
        here.ann.grant(user="bob", cube=cube.id, rights=ALL.split(), ttl=3600)
        with pytest.raises(NotPermitted):
            here.bob.update(cube.id, tags=["public"])

    def test_who_may_not_share_brings_back_no_tags(self, here: Tenant) -> None:
        here.app.grant(everyone=True, tag="public")
        cube = here.ann.add("tea", tags=["public"])
        here.ann.update(cube.id, "my tea", tags=["diary"])
        here.ann.grant(user="bob", cube=cube.id, rights=["read", "write"])
        restored = here.bob.restore(cube.id, version=1)
        assert (restored.text, restored.tags) == ("tea", ("diary",))
        assert refused(lambda: here.carol.get(cube.id))
        assert here.ann.restore(cube.id, version=1).tags == ("public",)


class TestGranting:
    def test_a_caller_grants_what_he_may_share_and_do(self, here: Tenant) -> None:
        cube = here.ann.add("tea")
        here.ann.grant(user="bob", cube=cube.id, rights=["read", "share", "derive"])
        with pytest.raises(NotPermitted):
            here.bob.grant(user="carol", cube=cube.id, rights=["read", "write"])
        assert refused(lambda: here.carol.get(cube.id))
        made = here.bob.grant(user="carol", cube=cube.id, rights=["read", "share"])
        assert (made.cube, made.owner, made.granted_by) == (cube.id, None, "bob")
        assert here.carol.get(cube.id).text == "tea"
        with pytest.raises(NotPermitted):
            here.carol.grant(user="dan", cube=cube.id, rights=["derive"])
        here.carol.grant(everyone=True, cube=cube.id)
        assert here.at(caller=Caller(user="dan")).get(cube.id).text == "tea"

    def test_nobody_shares_what_nobody_owns_but_the_application(self, here: Tenant) -> None:
        cube = here.app.add("tea")
        for right in Right:
            with pytest.raises(NotPermitted):
                here.bob.grant(user="bob", cube=cube.id, rights=[right])
        with pytest.raises(NotPermitted):
            here.bob.update(cube.id, "coffee")
        here.app.grant(user="bob", cube=cube.id, rights=["write"])
        assert here.bob.update(cube.id, "coffee").text == "coffee"

    @pytest.mark.parametrize("target", [{"tag": "x"}, {}])
    def test_a_tag_and_a_namespace_are_granted_of_ones_own_cubes(
        self, here: Tenant, target: dict[str, str]
    ) -> None:
        views = (here.ann, here.carol, here.app)
        anns, carols, nobodys = (view.add("tea", tags=["x"]) for view in views)
        made = here.ann.grant(user="bob", rights=ALL.split(), **target)
        assert (made.owner, made.granted_by, made.namespace) == ("ann", "ann", (here.name,))
        here.bob.update(anns.id, "coffee")
        assert refused(lambda: here.bob.get(carols.id))
        with pytest.raises(NotPermitted):
            here.bob.update(nobodys.id, "coffee")
        later = here.ann.add("later", tags=["x"])
        assert here.bob.get(later.id).text == "later"
        again = here.bob.grant(user="dan", **target)
        assert again.owner == "bob", "what is Ann's there he may share one by one"
        assert refused(lambda: here.at(caller=Caller(user="dan")).get(anns.id))
        here.bob.grant(user="dan", cube=anns.id)

    @pytest.mark.parametrize("target", [{"tag": "x"}, {}])
    def test_who_was_granted_to_share_a_place_shares_all_of_it(
        self, here: Tenant, target: dict[str, str]
    ) -> None:
        deep = here.at("a", "b", caller=ANN).add("tea", tags=["x"])
        beside = here.at("c", caller=ANN).add("tea", tags=["x"])
        here.at("a").grant(user="bob", rights=["read", "share"], **target)
        bob = {labels: here.at(*labels, caller=BOB) for labels in ((), ("a",), ("a", "b"), ("c",))}
        for labels in ((), ("c",)):
            assert bob[labels].grant(user="carol", **target).owner == "bob"
        assert refused(lambda: here.carol.get(deep.id))
        more = bob["a", "b"].grant(user="carol", rights=["read", "write"], **target)
        assert more.owner == "bob", "he may not write there"
        assert bob["a", "b"].grant(user="carol", **target).owner is None
        assert here.carol.get(deep.id).text == "tea"
        assert refused(lambda: here.carol.get(beside.id))
        with pytest.raises(NotPermitted):
            here.carol.update(deep.id, "coffee")

    def test_who_may_share_a_tag_may_not_share_another_or_all(self, here: Tenant) -> None:
        secret = here.ann.add("tea", tags=["y"])
        here.app.grant(user="bob", tag="x", rights=ALL.split())
        for target in ({"tag": "y"}, {"tag": "x\x01"}, {}):
            assert here.bob.grant(everyone=True, **target).owner == "bob"
        assert refused(lambda: here.carol.get(secret.id))

    def test_rights_to_share_of_one_owners_cubes_do_not_make_all_shareable(
        self, here: Tenant
    ) -> None:
        carols = here.carol.add("tea", tags=["x"])
        here.ann.grant(user="bob", tag="x", rights=ALL.split())
        assert here.bob.grant(user="bob", tag="x", rights=ALL.split()).owner == "bob"
        assert refused(lambda: here.bob.get(carols.id))

    def test_the_same_again_replaces_it(self, here: Tenant, face: Callable[[View], View]) -> None:
        ann = face(here.ann)
        cube = ann.add("tea")
        for target in ({"cube": cube.id}, {"tag": "x"}, {}):
            first = ann.grant(user="bob", rights=["read", "write"], **target)
            again = ann.grant(user="bob", rights=["read"], until=FUTURE, **target)
            assert again.id != first.id
            assert ann.revoke(first) == []
            assert ann.grants() == [again]
            others = [
                ann.grant(user="carol", **target),
                ann.grant(role="bob", **target),
                ann.grant(everyone=True, **target),
                ann.grant(user="bob", condition={"place": "ward"}, **target),
                here.app.grant(user="bob", **target),
                here.at("below", caller=ANN).grant(user="bob", tag="x"),
            ]
            assert [one.id for one in here.app.grants()] == [one.id for one in (again, *others)]
            for one in (again, *others):
                assert here.app.revoke(one.id) == [one]

    def test_takes_back_by_id_and_by_target(
        self, here: Tenant, face: Callable[[View], View]
    ) -> None:
        ann = face(here.ann)
        cube = ann.add("tea")
        named = [ann.grant(user="bob", cube=cube.id) for _ in range(3)][-1]
        assert ann.revoke(str(named.id)) == [named]
        assert refused(lambda: here.bob.get(cube.id))
        one = ann.grant(user="bob", cube=cube.id, rights=["read"])
        two = ann.grant(user="bob", cube=cube.id, rights=["read", "write"], condition={"a": 1})
        tag = ann.grant(user="bob", tag="x")
        place = ann.grant(user="bob")
        assert ann.revoke(user="bob", cube=cube.id, rights=["write", "share"]) == [two]
        assert ann.revoke(user="bob", cube=cube.id, rights=["share"]) == []
        assert ann.revoke(user="bob", cube=cube.id, rights=[]) == []
        assert ann.revoke(user="bob", cube=str(cube.id)) == [one]
        assert ann.revoke(role="bob") == []
        assert ann.revoke(everyone=True) == []
        assert ann.revoke(user="bob", tag="x") == [tag]
        assert ann.revoke(user="bob") == [place]
        assert ann.grants() == []

    def test_to_take_back_what_is_not_there_does_nothing(
        self, here: Tenant, face: Callable[[View], View]
    ) -> None:
        ann = face(here.ann)
        for nothing in (
            ann.revoke(uuid4()),
            ann.revoke(user="nobody"),
            ann.revoke(user="bob", cube=uuid4()),
            ann.revoke(role="r", tag="t", rights=["read"]),
        ):
            assert nothing == []
        made = ann.grant(user="bob")
        assert ann.revoke(made) == [made]
        assert ann.revoke(made) == []
        assert [event.kind for event in here.app.events()] == ["revoked", "granted"]

    def test_only_who_gave_takes_back_and_the_owner_and_the_application(self, here: Tenant) -> None:
        cube = here.ann.add("tea")
        here.ann.grant(user="bob", cube=cube.id, rights=["read", "share"])
        for taker in (here.ann, here.bob, here.app):
            made = here.bob.grant(user="carol", cube=cube.id)
            for other in (
                here.carol,
                here.at(caller=Caller(user="dan", roles=("ann", "bob"))),
                here.at("below", caller=BOB),
                here.memos.at(here.name + "!"),
                here.memos.at(here.name + "!", caller=ANN),
            ):
                assert other.revoke(made) == []
                assert other.revoke(user="carol", cube=cube.id) == []
            assert here.carol.get(cube.id).text == "tea"
            assert taker.revoke(made.id) == [made]
            assert refused(lambda: here.carol.get(cube.id))
        from_app = here.app.grant(user="carol", tag="x")
        assert here.bob.revoke(from_app) == []
        assert here.bob.revoke(user="carol", tag="x") == []

    def test_a_view_takes_back_and_tells_what_is_inside_it(self, here: Tenant) -> None:
        high, low = here.app.grant(user="bob"), here.at("a").grant(user="bob")
        assert here.at("a").revoke(high) == []
        assert here.at("a").grants() == [low]
        assert here.app.grants() == [high, low]
        assert here.memos.at(here.name + "!").grants() == []
        assert here.app.revoke(user="bob") == [high, low]

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({}, "for whom"),
            ({"user": "bob", "role": "r"}, "for whom"),
            ({"user": "bob", "everyone": True}, "for whom"),
            ({"user": ""}, "non-empty"),
            ({"user": 7}, "non-empty"),
            ({"role": ""}, "non-empty"),
            ({"user": "x" * 513}, "512 bytes"),
            ({"user": "a\x00b"}, "NUL"),
            ({"role": "\ud800"}, "surrogate"),
            ({"user": "bob", "tag": ""}, "non-empty"),
            ({"user": "bob", "tag": "\x00"}, "NUL"),
            ({"user": "bob", "cube": uuid4(), "tag": "x"}, "not both"),
            ({"user": "bob", "cube": "tea"}, "no cube id"),
            ({"user": "bob", "rights": []}, "at least one right"),
            ({"user": "bob", "rights": "read"}, r"use \['read'\]"),
            ({"user": "bob", "rights": ["READ"]}, "unknown right"),
            ({"user": "bob", "rights": ["read", "own"]}, "unknown right"),
            ({"user": "bob", "until": FUTURE, "ttl": 1}, "not both"),
            ({"user": "bob", "until": "soon"}, "ISO 8601"),
            ({"user": "bob", "ttl": 0}, "ttl"),
            ({"user": "bob", "ttl": float("nan")}, "ttl"),
            ({"user": "bob", "condition": "ward"}, "mapping"),
            ({"user": "bob", "condition": {"place": float("inf")}}, "JSON"),
            ({"user": "bob", "condition": {"a\x00": 1}}, "NUL"),
            ({"user": "bob", "condition": {"a": ["\ud800"]}}, "surrogate"),
        ],
    )
    def test_refuses_grants_that_make_no_sense(
        self, here: Tenant, options: dict[str, Any], error: str
    ) -> None:
        for view in (here.app, here.ann):
            with pytest.raises(InvalidInput, match=error):
                view.grant(**options)
        assert here.app.stats().events == 0

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"user": "bob", "role": "r"},
            {"grant": uuid4(), "user": "bob"},
            {"grant": uuid4(), "rights": ["read"]},
            {"grant": "tea"},
            {"user": "bob", "rights": ["own"]},
            {"user": "a\x00"},
            {"user": "bob", "cube": uuid4(), "tag": "x"},
        ],
    )
    def test_refuses_to_take_back_from_nobody(self, here: Tenant, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput):
            here.app.revoke(**options)

    def test_what_is_not_there_cannot_be_granted(self, here: Tenant) -> None:
        forgotten, ended = here.ann.add(["tea", "cake"])
        here.ann.forget(forgotten.id)
        here.ann.expire(ended.id)
        for view in (here.app, here.ann, here.bob):
            for cube in (uuid4(), forgotten.id, ended.id):
                with pytest.raises(CubeNotFound):
                    view.grant(user="bob", cube=cube)
        assert here.app.grants() == []

    def test_tells_the_grants_that_one_gave_has_or_that_are_about_ones_own(
        self, here: Tenant
    ) -> None:
        anns, carols = here.ann.add("tea"), here.carol.add("cake")
        made = {
            "ann": here.ann.grant(user="bob", cube=anns.id, rights=["read", "share"]),
            "carol": here.carol.grant(user="dan", cube=carols.id),
            "role": here.app.grant(role="nurse", tag="x"),
            "everyone": here.app.grant(everyone=True, tag="y"),
            "bob": here.bob.grant(user="dan", cube=anns.id),
            "past": here.app.grant(everyone=True, tag="z", until=PAST),
        }
        shown = {
            here.app: "ann carol role everyone bob",
            here.ann: "ann everyone bob",
            here.bob: "ann everyone bob",
            here.carol: "carol everyone",
            here.at(caller=NURSE): "ann role everyone bob",
            here.at(caller=Caller(user="dan")): "carol everyone bob",
            here.at(caller=Caller(user="nurse", roles=("bob", "dan"))): "everyone",
        }
        for view, names in shown.items():
            assert view.grants() == [made[name] for name in names.split()]
        assert here.app.grants(limit=2, offset=1) == [made["carol"], made["role"]]
        assert here.app.grants(limit=0) == []

    def test_events_tell_who_granted_what(self, here: Tenant, face: Callable[[View], View]) -> None:
        ann = face(here.ann)
        cube = ann.add("tea")
        made = ann.grant(user="bob", cube=cube.id, rights=["read", "write"])
        place = here.app.grant(role="nurse")
        ann.revoke(made)
        revoked, granted_place, granted_cube, _ = here.app.events()
        assert [revoked.kind, granted_place.kind, granted_cube.kind] == [
            "revoked",
            "granted",
            "granted",
        ]
        for event in (revoked, granted_cube):
            assert (event.user, event.cube_ids) == ("ann", (cube.id,))
            assert event.details["grant"] == str(made.id)
            assert event.details["rights"] == ["read", "write"]
        assert (granted_place.user, granted_place.cube_ids) == (None, ())
        assert granted_place.details["grant"] == str(place.id)

    def test_a_grant_ends_with_its_cube(self, here: Tenant) -> None:
        forgotten, ended = here.ann.add(["tea", "cake"])
        for cube in (forgotten, ended):
            here.ann.grant(user="bob", cube=cube.id, rights=ALL.split())
        here.ann.forget(forgotten.id)
        here.ann.expire(ended.id)
        for cube in (forgotten, ended):
            here.carol.add("secret", id=cube.id) if cube is forgotten else None
            here.ann.add("secret", id=cube.id) if cube is ended else None
            assert refused(lambda cube=cube: here.bob.get(cube.id))
        assert here.app.grants() == []

    def test_a_role_and_a_context_count_while_one_has_them(self, here: Tenant) -> None:
        cube = here.ann.add("tea")
        here.ann.grant(role="nurse", cube=cube.id, condition={"place": "ward"})
        for caller in (
            Caller(user="bob", roles=("nurse",)),
            Caller(user="bob", context={"place": "ward"}),
            Caller(user="nurse", context={"place": "ward"}),
            Caller(user="bob", roles=("nurse",), context={"place": "wards"}),
        ):
            assert refused(lambda caller=caller: here.at(caller=caller).get(cube.id))
        both = Caller(user="bob", roles=("nurse",), context={"place": "ward", "more": [1]})
        assert here.at(caller=both).get(cube.id).text == "tea"

    @pytest.mark.parametrize(
        ("condition", "context", "holds"),
        [
            ({}, {}, True),
            ({}, {"a": 1}, True),
            ({"a": 1}, {"a": 1.0}, True),
            ({"a": 1}, {"a": True}, False),
            ({"a": 1}, {"a": "1"}, False),
            ({"a": None}, {}, False),
            ({"a": None}, {"a": None}, True),
            ({"a": None}, {"a": False}, False),
            ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, True),
            ({"a": {"b": 1}}, {"a": {"b": 2}}, False),
            ({"a": {"b": 1}}, {"b": 1}, False),
            ({"a": [1]}, {"a": [2, 1]}, True),
            ({"a": [1, 3]}, {"a": [2, 1]}, False),
            ({"a": 1}, {"a": [1]}, False),
            ({"a.b": 1}, {"a": {"b": 1}}, False),
            ({"'; --": '"'}, {"'; --": '"', "x": "%s"}, True),
        ],
    )
    def test_a_condition_must_be_contained_in_the_context(
        self, here: Tenant, condition: dict[str, Any], context: dict[str, Any], *, holds: bool
    ) -> None:
        cube = here.ann.add("tea")
        here.ann.grant(user="bob", cube=cube.id, condition=condition)
        bob = here.at(caller=Caller(user="bob", context=context))
        assert refused(lambda: bob.get(cube.id)) is not holds
        assert len(bob.search("tea")) == holds


# ----------------------------------------------------------------- what was made of others


class TestDerived:
    def test_it_is_read_while_all_its_sources_may_be(self, here: Tenant) -> None:
        one, two = here.ann.add("tea"), here.carol.add("tea and cake")
        for view, cube in ((here.ann, one), (here.carol, two)):
            view.grant(user="bob", cube=cube.id, rights=["read", "derive"])
        made = here.bob.derive("tea, cake", [one.id, two.id])
        again = here.bob.derive("tea cake pie", made.id)
        here.bob.grant(everyone=True, cube=made.id)
        for reader in (here.ann, here.carol, here.at(caller=Caller(user="dan"))):
            assert refused(lambda reader=reader: reader.get(made.id))
            assert made.id not in {hit.cube.id for hit in reader.search("tea")}
            assert not reader.stands([made])
        for cube in (made, again):
            assert here.bob.get(cube.id).id == cube.id
        assert here.bob.stats().cubes == 4
        gone: list[Callable[[], object]] = [
            lambda: here.bob.get(made.id),
            lambda: here.bob.get(again.id),
            lambda: here.bob.get(again.id, as_of=FUTURE),
            lambda: here.bob.history(again.id),
            lambda: here.bob.update(again.id, "mine"),
            lambda: here.bob.derive("more", again.id),
            lambda: here.bob.compose([again.id], "more"),
            lambda: here.bob.relate(one.id, "about", again.id),
        ]
        for view, cube in ((here.ann, one), (here.carol, two)):
            (grant,) = view.revoke(user="bob", cube=cube.id)
            for verb in gone:
                assert refused(verb)
            for mode in MODES:
                for as_of in (None, FUTURE):
                    left = here.bob.search("tea", mode=mode, as_of=as_of, states=list(State))
                    assert {hit.cube.id for hit in left} == {one.id, two.id} - {cube.id}
            assert not here.bob.stands([again])
            assert here.bob.stats().cubes == 1
            view.grant(user="bob", cube=cube.id, rights=grant.rights)
            assert here.bob.get(again.id).text == "tea cake pie"

    def test_it_takes_the_right_to_derive_from_each(self, here: Tenant) -> None:
        free, read = here.app.add("free"), here.ann.add("only to be read")
        here.ann.grant(user="bob", cube=read.id)
        assert here.bob.derive("of it", free.id).governance.owner == "bob"
        for verb in (lambda ids: here.bob.derive("x", ids), lambda ids: here.bob.compose(ids, "x")):
            with pytest.raises(NotPermitted, match="may not derive"):
                verb([free.id, read.id])
        with pytest.raises(NotPermitted):
            here.bob.fuse([free.id, here.app.add("free too").id])

    def test_a_source_that_loses_its_tag_hides_it(self, here: Tenant) -> None:
        source = here.ann.add("tea", tags=["open"])
        here.ann.grant(user="bob", tag="open", rights=["read", "derive"])
        made = here.bob.derive("of tea", source.id)
        here.ann.update(source.id, tags=[])
        assert refused(lambda: here.bob.get(made.id))
        assert here.bob.search("tea") == []
        here.ann.update(source.id, tags=["open"])
        assert here.bob.get(made.id).text == "of tea"

    def test_a_grant_that_ends_by_time_hides_it(self, here: Tenant) -> None:
        source = here.ann.add("tea")
        here.ann.grant(user="bob", cube=source.id, rights=["read", "derive"], ttl=3600)
        made = here.bob.derive("of tea", source.id)
        assert here.bob.get(made.id).text == "of tea"
        here.ann.grant(user="bob", cube=source.id, rights=["read"], until=PAST)
        assert refused(lambda: here.bob.get(made.id))

    def test_what_does_not_stand_now_does_not_stand_as_of_now(self, here: Tenant) -> None:
        source = here.app.add("tea")
        made = here.app.derive("of tea", source.id)
        here.app.freeze(made.id)
        before = here.app.get(made.id).updated_at
        here.app.update(source.id, "coffee")
        for view in (here.app, here.bob):
            assert view.get(made.id, as_of=before).text == "of tea"
            assert refused(lambda view=view: view.get(made.id))
            assert refused(lambda view=view: view.get(made.id, as_of=FUTURE))
            assert "of tea" not in texts(view.search("tea", as_of=FUTURE))

    def test_what_was_merged_is_found_by_those_who_may_not_read_what_it_is_in(
        self, here: Tenant
    ) -> None:
        anns, bobs = here.ann.add("tea of ann"), here.bob.add("tea of bob")
        nobodys = here.app.add("tea of nobody")
        made = here.app.fuse([anns.id, bobs.id, nobodys.id])
        for mode in MODES:
            for as_of in (None, FUTURE):
                found = [
                    texts(view.search("tea", mode=mode, as_of=as_of))
                    for view in (here.app, here.ann, here.bob, here.carol)
                ]
                assert found == [
                    {made.text},
                    {"tea of ann", "tea of nobody"},
                    {"tea of bob", "tea of nobody"},
                    {"tea of nobody"},
                ]
        here.ann.grant(user="bob", cube=anns.id)
        assert texts(here.bob.search("tea")) == {made.text}
        assert texts(here.bob.search("tea", states=["merged"])) == {
            "tea of ann",
            "tea of bob",
            "tea of nobody",
        }
        here.ann.revoke(user="bob", cube=anns.id)
        assert texts(here.bob.search("tea")) == {"tea of bob", "tea of nobody"}
        assert texts(here.bob.recall("tea!").hits) == {"tea of bob", "tea of nobody"}

    def test_what_bob_fused_of_anns_does_not_silence_her(self, here: Tenant) -> None:
        one, two = here.ann.add(["tea", "more tea"])
        here.ann.grant(user="bob", rights=["read", "write", "derive"])
        made = here.bob.fuse([one.id, two.id], chat=lambda _: "tea of bob's making")
        assert made.governance.owner == "bob"
        assert texts(here.bob.search("tea")) == {"tea of bob's making"}
        assert texts(here.ann.search("tea")) == {"tea", "more tea"}
        here.bob.grant(user="ann", cube=made.id)
        assert texts(here.ann.search("tea")) == {"tea of bob's making"}
        here.bob.forget(made.id)
        assert texts(here.ann.search("tea")) == {"tea", "more tea"}


# ---------------------------------------------------- scores as in a memory of his own


@dataclass(frozen=True, kw_only=True)
class Memory:
    owner: str | None
    path: tuple[str, ...]
    tags: tuple[str, ...]
    text: str
    session: str | None  # where it was said in, which has no tags
    role: str


@dataclass(frozen=True, kw_only=True)
class Rule:
    by: str | None
    about: str  # cube, tag, namespace
    cube: int
    tag: str
    path: tuple[str, ...]
    to: tuple[str, str]
    rights: tuple[str, ...]
    condition: Mapping[str, object]
    past: bool

    def covers(self, number: int, memory: Memory, memories: Sequence[Memory]) -> bool:
        """Tell by plain words of Python what the SQL is to find out."""
        whom = ("user", "bob"), ("role", "nurse"), ("everyone", "")
        if self.to not in whom or "read" not in self.rights or self.past:
            return False
        if self.condition not in ({}, {"place": "ward"}):
            return False
        if self.about == "cube":
            return self.cube % len(memories) == number
        if memory.path[: len(self.path)] != self.path:
            return False
        if self.by is not None and self.by != memory.owner:
            return False
        return self.about == "namespace" or self.tag in memory.tags


PATHS = ((), ("a",), ("a", "b"), ("c",))
OWNERS = (None, "ann", "bob", "carol")
WORDS = ("tea", "cake", "milk", "Oslo", "run", "of")
memories = st.builds(
    Memory,
    owner=st.sampled_from(OWNERS),
    path=st.sampled_from(PATHS),
    tags=st.lists(st.sampled_from(["x", "y"]), unique=True, max_size=2).map(tuple),
    text=st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join),
    session=st.sampled_from([None, None, "s", "t"]),
    role=st.sampled_from(["user", "assistant"]),
)
rules = st.builds(
    Rule,
    by=st.sampled_from([None, None, "ann", "carol"]),
    about=st.sampled_from(["cube", "tag", "namespace"]),
    cube=st.integers(0, 20),
    tag=st.sampled_from(["x", "y", "z"]),
    path=st.sampled_from(PATHS),
    to=st.sampled_from(
        [("user", "bob"), ("role", "nurse"), ("everyone", ""), ("user", "dan"), ("role", "cook")]
    ),
    rights=st.sampled_from([("read",), ("read", "write"), ("write", "share"), ("derive",)]),
    condition=st.sampled_from([{}, {}, {"place": "ward"}, {"place": "home"}]),
    past=st.sampled_from([False, False, False, True]),
)
ASKING = Caller(user="bob", roles=("nurse",), context={"place": "ward"})
QUESTIONS = ("tea of Oslo", '"tea cake" mil*', "What did they run?")


def remember(view: View, number: int, memory: Memory) -> UUID:
    about = {"n": number}
    if memory.session is None:
        added = view.add(memory.text, id=UUID(int=number), tags=memory.tags, metadata=about)
        return added.id
    turn = {"role": memory.role, "content": memory.text, "metadata": about}
    (said,) = view.ingest(turn, session=memory.session)
    return said.id


def caller_of(user: str | None) -> Caller | None:
    return None if user is None else Caller(user=user)


def apply(tenant: Tenant, rule: Rule, memories: Sequence[Memory], ids: Sequence[UUID]) -> bool:
    """Make a grant, and tell whether it could be made."""
    target: dict[str, Any] = {"tag": rule.tag} if rule.about == "tag" else {}
    by, path = rule.by, rule.path
    if rule.about == "cube":
        number = rule.cube % len(memories)
        target, path = {"cube": ids[number]}, ()
        if by is not None and memories[number].owner != by:
            return False
    kind, name = rule.to
    target |= {"everyone": True} if kind == "everyone" else {kind: name}
    tenant.at(*path, caller=caller_of(by)).grant(
        **target,
        rights=rule.rights,
        condition=rule.condition,
        until=PAST if rule.past else None,
    )
    return True


def seen(view: View, question: str, mode: Any, as_of: str | None) -> list[object]:
    return [
        (hit.cube.metadata["n"], hit.score, hit.dense_rank, hit.lexical_rank, hit.reasons)
        for hit in view.search(question, k=100, mode=mode, as_of=as_of)
    ]


@pytest.mark.parametrize("made", ["nothing was made of them", "something was made of them"])
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # each example takes a tenth of a second: shrinking takes minutes
)
@for_all(data=st.data())
def test_results_are_those_of_a_memory_of_what_he_may_read(
    memos: MemOS, made: str, data: st.DataObject
) -> None:
    many = data.draw(st.lists(memories, min_size=2, max_size=12))
    some = data.draw(st.lists(rules, max_size=6))
    tenant = Tenant(memos, f"tenant {next(TENANTS)}")
    alone = Tenant(memos, f"tenant {next(TENANTS)}")
    many = [Memory(**{**vars(one), "tags": () if one.session else one.tags}) for one in many]
    ids = [
        remember(tenant.at(*one.path, caller=caller_of(one.owner)), number, one)
        for number, one in enumerate(many)
    ]
    in_force = [rule for rule in some if apply(tenant, rule, many, ids)]

    def reads(number: int, one: Memory) -> bool:
        return one.owner in (None, "bob") or any(
            rule.covers(number, one, many) for rule in in_force
        )

    copies = {
        number: remember(alone.at(*one.path), number, one)
        for number, one in enumerate(many)
        if reads(number, one)
    }
    numbers = st.integers(0, len(many) - 1)
    parts = st.lists(st.lists(numbers, min_size=2, max_size=3, unique=True), max_size=3)
    for place, sources in enumerate(data.draw(parts) if made.startswith("some") else (), 100):
        owners = {many[number].owner for number in sources}
        child = Memory(
            owner=owners.pop() if len(owners) == 1 else None,
            path=(),
            tags=(),
            text=f"tea milk {place}",
            session=None,
            role="",
        )
        about = {"n": place}
        tenant.app.derive(child.text, [ids[number] for number in sources], metadata=about)
        if reads(place, child) and {*sources} <= copies.keys():
            alone.app.derive(child.text, [copies[number] for number in sources], metadata=about)
    for labels in ((), ("a",)):
        for mode in MODES:
            for question in QUESTIONS:
                for as_of in (None, FUTURE):
                    theirs = seen(tenant.at(*labels, caller=ASKING), question, mode, as_of)
                    assert theirs == seen(alone.at(*labels), question, mode, as_of)
    counted, expected = tenant.at(caller=ASKING).stats(), alone.app.stats()
    assert (counted.cubes, counted.versions) == (expected.cubes, expected.versions)


# ------------------------------------------------------- by an index, and many at once


class Interrupted(WordEmbedder):
    """Does something in the middle of a verb, while a text is embedded."""

    meanwhile: Callable[[], object] | None = None

    def embed(self, texts: Sequence[str]) -> Vectors:
        if (act := self.meanwhile) is not None:
            self.meanwhile = None
            act()
        return super().embed(texts)


@pytest.fixture
def interrupted() -> Interrupted:
    return Interrupted()


@pytest.fixture
def slow(database: str, interrupted: Interrupted, here: Tenant) -> Iterator[Tenant]:
    """The same tenant, by an embedder in whose time something else happens."""
    with MemOS.open(database, embedder=interrupted) as memos:
        yield Tenant(memos, here.name)


class TestByIndex:
    @pytest.fixture
    def large(self, database: str, here: Tenant) -> Iterator[Tenant]:
        """The same tenant, searched by its index, once it has one."""
        wanted = Settings(exact_limit=0, read_events=False)
        with MemOS.open(database, embedder=WordEmbedder(), settings=wanted) as memos:
            yield Tenant(memos, here.name)

    def test_finds_only_what_the_caller_may_read(self, here: Tenant, large: Tenant) -> None:
        said = [f"tea {number % 7} cake {number % 11} word{number}" for number in range(300)]
        cubes = here.bob.add(said[:250])
        for start in range(250, 300, 10):
            for view, name in ((here.bob, "bob"), (here.ann, "ann")):
                turns = [
                    {"role": "user", "content": f"{text} by {name}", "id": f"{name} {text}"}
                    for text in said[start : start + 10]
                ]
                cubes += view.ingest(turns, session="s")
        cubes += here.ann.add([f"{text} secret" for text in said[:150]], tags=["open"])
        large.app.build_index()
        late = [view.add("tea cake lately") for view in (here.bob, here.ann)]
        owners = {cube.id: cube.governance.owner for cube in [*cubes, *late]}
        routes: dict[str, set[str]] = {mode: set() for mode in MODES}

        def assert_readable(view: View, readable: set[UUID]) -> None:
            for mode in MODES:
                exact: dict[UUID, Hit] = {}
                for question in ("tea 3 cake secret lately", "word1 word260 secret", "se*"):
                    if mode == "dense":
                        alike = here.memos.at(here.name, caller=view.caller)
                        hits = alike.search(question, k=1_000, mode=mode)
                        exact = {hit.cube.id: hit for hit in hits}
                    for options in ({"k": 60}, {"context": 2}, {"tags": ["open"]}):
                        hits = view.search(question, mode=mode, **cast("Any", options))
                        assert {hit.cube.id for hit in hits} <= readable
                        routes[mode] |= {hit.route for hit in hits}
                        for hit in hits:
                            assert all(one.created_by != "ann" for one in hit.context)
                            if mode == "dense":
                                assert hit.score == exact[hit.cube.id].score

        mine = {cube for cube, owner in owners.items() if owner == "bob"}
        assert_readable(large.bob, mine)
        assert all("index" in ways for ways in routes.values())
        assert_readable(large.carol, set())
        here.ann.grant(user="bob", tag="open")
        opened = {cube.id for cube in cubes if cube.tags}
        assert_readable(large.bob, mine | opened)
        found = {hit.cube.id for hit in large.bob.search("secret tea", k=50)}
        assert found & opened
        here.ann.revoke(user="bob", tag="open")
        assert_readable(large.bob, mine)

    def test_who_may_read_all_finds_what_the_application_finds(
        self, here: Tenant, large: Tenant
    ) -> None:
        here.ann.add([f"tea {number % 7} cake {number % 11}" for number in range(250)])
        large.app.build_index()
        here.ann.grant(user="bob")
        for mode in MODES:
            wanted = large.app.search("tea 3 cake 4", k=50, mode=mode)
            assert large.ann.search("tea 3 cake 4", k=50, mode=mode) == wanted
            assert large.bob.search("tea 3 cake 4", k=50, mode=mode) == wanted
            assert {hit.route for hit in wanted} == {"index"}


class TestAtOnce:
    def test_callers_who_share_few_connections_never_see_each_others(
        self, database: str, here: Tenant
    ) -> None:
        """What is planned and prepared for one caller must not answer another."""
        wanted = Settings(pool_size=4, pool_timeout=60)
        callers = [
            Caller(user=f"user {n}", roles=(f"role {n % 3}",), context={"n": n}) for n in range(8)
        ]
        with MemOS.open(database, embedder=WordEmbedder(), settings=wanted) as memos:
            views = [memos.at(here.name, caller=caller) for caller in callers]
            mine = [{cube.id for cube in view.add(["tea", "tea and cake"])} for view in views]
            dan = memos.at(here.name, caller=Caller(user="dan"))
            shared = [dan.add(f"tea for role {n}") for n in range(3)]
            for n, cube in enumerate(shared):
                dan.grant(role=f"role {n}", cube=cube.id)
            alone = dan.add("tea for the fifth")
            dan.grant(everyone=True, cube=alone.id, condition={"n": 5})
            secret = dan.add("tea for nobody")

            def look(thread: int) -> None:
                for turn in range(thread, thread + 12):
                    n = turn % len(views)
                    expected = {*mine[n], shared[n % 3].id} | ({alone.id} if n == 5 else set())
                    mode = MODES[turn % 3]
                    hits = views[n].search("tea", k=50, mode=cast("Any", mode), context=turn % 2)
                    assert {hit.cube.id for hit in hits} == expected
                    assert views[n].stats().cubes == len(expected)
                    for other in (secret.id, *mine[(n + 1) % len(views)]):
                        assert refused(lambda other=other, n=n: views[n].get(other))
                        assert refused(lambda other=other, n=n: views[n].forget([other]))

            with ThreadPoolExecutor(16) as pool:
                for done in [pool.submit(look, thread) for thread in range(16)]:
                    done.result()
            assert len(memos.at(here.name).search("tea", k=50)) == 21

    async def test_callers_who_await_at_once_never_see_each_others(
        self, memos: MemOS, here: Tenant
    ) -> None:
        awaited = AsyncMemOS(memos)
        views = [awaited.at(here.name, caller=Caller(user=f"user {n}")) for n in range(20)]
        cubes = await asyncio.gather(*(view.add("tea") for view in views))
        for mode in MODES:
            found = await asyncio.gather(*(view.search("tea", mode=mode) for view in views * 3))
            assert [[hit.cube.id for hit in hits] for hits in found] == [
                [cube.id] for cube in cubes
            ] * 3

    def test_what_was_taken_back_is_not_found_by_the_next_statement(
        self, database: str, here: Tenant
    ) -> None:
        cube = here.ann.add("tea")
        moments = iter(range(1_000))
        moment = next(moments)  # even while nothing is granted
        seen = threading.Event()
        stop = threading.Event()
        with MemOS.open(database, embedder=WordEmbedder()) as others:
            bob = others.at(here.name, caller=BOB)

            def look() -> None:
                while not stop.is_set():
                    before = moment
                    hits = bob.search("tea", mode="lexical")
                    if hits:
                        seen.set()
                    assert before % 2 or moment != before or not hits

            with ThreadPoolExecutor(4) as pool:
                watching = [pool.submit(look) for _ in range(4)]
                try:
                    for turn in range(20):
                        about: dict[str, Any] = {"cube": cube.id} if turn % 2 else {}
                        moment = next(moments)
                        here.ann.grant(user="bob", **about)
                        assert bob.get(cube.id).text == "tea"
                        assert len(bob.search("tea")) == 1
                        here.ann.revoke(user="bob", **about)
                        moment = next(moments)
                        assert refused(lambda: bob.get(cube.id))
                        assert all(bob.search("tea", mode=mode) == [] for mode in MODES)
                finally:
                    stop.set()
                for done in watching:
                    done.result()
        assert seen.is_set()

    @pytest.mark.parametrize("left", ["read derive", "read write", "read"])
    def test_a_right_that_is_taken_back_in_the_middle_of_a_verb_is_not_used(
        self, here: Tenant, slow: Tenant, interrupted: Interrupted, database: str, left: str
    ) -> None:
        one, two = here.ann.add(["tea", "cake"])

        def narrow() -> None:
            here.ann.grant(user="bob", rights=left.split())

        verbs: dict[str, tuple[str, Callable[[], object]]] = {
            "update": ("write", lambda: slow.bob.update(one.id, "changed")),
            "derive": ("derive", lambda: slow.bob.derive("both", [one.id, two.id])),
            "compose": ("derive", lambda: slow.bob.compose([one.id, two.id], "both")),
            "fuse": ("derive write", lambda: slow.bob.fuse([one.id, two.id])),
        }
        for name, (needed, act) in verbs.items():
            if not rights(needed) <= rights(left):
                here.ann.grant(user="bob", rights=["read", "write", "derive"])
                before = everything_of(database, here.name)[:2]
                interrupted.meanwhile = narrow
                with pytest.raises(NotPermitted):
                    act()
                assert everything_of(database, here.name)[:2] == before, name

    def test_what_becomes_unreadable_in_the_middle_of_a_verb_was_never_there(
        self, here: Tenant, slow: Tenant, interrupted: Interrupted
    ) -> None:
        one, two = here.ann.add(["tea", "cake"])
        for act in (
            lambda: slow.bob.update(one.id, "changed"),
            lambda: slow.bob.derive("both", [one.id, two.id]),
            lambda: slow.bob.fuse([one.id, two.id]),
        ):
            here.ann.grant(user="bob", rights=["read", "write", "derive"])
            interrupted.meanwhile = lambda: here.ann.revoke(user="bob")
            assert refused(act)
        assert texts(here.app.search("tea cake")) == {"tea", "cake"}


# ------------------------------------------------------------------- names that look like code

NAMES = [
    "' OR '1'='1",
    "'; DROP TABLE memos.permission; --",
    '"; DELETE FROM memos.cube; --',
    '","user":"ann',
    '{"user": "ann"}',
    "{ann,bob}",
    "{}",
    "[]",
    "%",
    "_nn",
    "*",
    "NULL",
    "null",
    "%s %(user)s %%",
    "$1",
    "\\",
    "ann\\",
    "ann ",
    " ann",
    "ANN",
    "ann\n",
    "ann\x01",
    "a\u0301nn",
    "ánn",
    "\u202eann",
    "ａｎｎ",
    "🦜👨‍👩‍👧‍👦",
    "x" * 512,
    "ж" * 256,
]


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_name_is_itself_and_no_other(self, here: Tenant, name: str) -> None:
        anns = here.ann.add("tea", tags=["x"])
        odd = here.at(caller=Caller(user=name, roles=(name,), context={name: name, "x": [name]}))
        assert refused(lambda: odd.get(anns.id))
        assert odd.search("tea") == []
        theirs = odd.add("tea of theirs", tags=[name])
        assert theirs.governance.owner == name
        assert texts(here.ann.search("tea")) == {"tea"}
        assert odd.get(theirs.id).tags == (name,)
        for target in ({"user": name}, {"role": name}, {"everyone": True}):
            made = here.ann.grant(cube=anns.id, condition={name: name}, **cast("Any", target))
            assert odd.get(anns.id).text == "tea"
            assert odd.grants() == [made]
            assert refused(lambda: here.bob.get(anns.id))
            assert here.ann.revoke(cube=anns.id, **cast("Any", target)) == [made]
            assert refused(lambda: odd.get(anns.id))
        odd.grant(user="ann", tag=name)
        assert texts(here.ann.search("tea")) == {"tea", "tea of theirs"}
        assert odd.revoke(user="ann", tag=name)[0].tag == name
        deep = here.at(name, caller=ANN).add("tea below")
        here.at(name).grant(user=name)
        assert texts(odd.search("below", min_score=0.1)) == {"tea below"}
        assert refused(lambda: here.at(name, caller=BOB).get(deep.id))
        assert {event.user for event in odd.events()} == {name}
        assert here.app.events(caller=name, kind="denied")[0].user == name

    def test_no_two_names_are_taken_for_each_other(self, here: Tenant) -> None:
        users = [*NAMES, "ann", "bob", "nn", "user", "ann\\\\"]
        views = {name: here.at(caller=Caller(user=name)) for name in users}
        cubes = {name: view.add(f"tea {n}") for n, (name, view) in enumerate(views.items())}
        for name, view in views.items():
            assert [hit.cube.id for hit in view.search("tea", k=100)] == [cubes[name].id]
            assert view.stats().cubes == 1

    @pytest.mark.parametrize(
        "fields",
        [
            {"user": "ann\x00"},
            {"user": "\ud800"},
            {"user": "x" * 513},
            {"user": "ж" * 257},
            {"user": ""},
            {"user": None},
            {"user": b"ann"},
            {"user": "ann", "roles": ("a\x00",)},
            {"user": "ann", "roles": ("\udfff",)},
            {"user": "ann", "roles": ("",)},
            {"user": "ann", "roles": (None,)},
            {"user": "ann", "roles": "nurse"},
            {"user": "ann", "roles": ("x" * 513,)},
            {"user": "ann", "roles": tuple(map(str, range(1_001)))},
            {"user": "ann", "context": {"a\x00": 1}},
            {"user": "ann", "context": {"a": "\x00"}},
            {"user": "ann", "context": {"a": ["\ud800"]}},
            {"user": "ann", "context": {"a": float("nan")}},
            {"user": "ann", "context": {"a": object()}},
            {"user": "ann", "context": {"a": b"x"}},
            {"user": "ann", "context": "ward"},
        ],
    )
    def test_a_caller_that_no_database_can_hold_is_refused(self, fields: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput):
            Caller(**fields)

    def test_very_much_context_and_very_many_roles_are_nothing_special(self, here: Tenant) -> None:
        cube = here.ann.add("tea")
        here.ann.grant(role="role 999", cube=cube.id, condition={"key 4999": "x" * 500})
        context = {f"key {n}": "x" * 500 for n in range(5_000)}
        roles = tuple(f"role {n}" for n in range(1_000))
        many = here.at(caller=Caller(user="bob", roles=roles, context=context))
        assert many.get(cube.id).text == "tea"
        assert texts(many.search("tea")) == {"tea"}
        few = here.at(caller=Caller(user="bob", roles=roles[:-1], context=context))
        assert refused(lambda: few.get(cube.id))

    @pytest.mark.parametrize("roles", [["nurse"], {"nurse"}, {"nurse": 1}])
    def test_roles_of_another_type_are_taken_or_refused_at_once(
        self, here: Tenant, roles: Any
    ) -> None:
        cube = here.ann.add("tea")
        here.ann.grant(role="nurse", cube=cube.id)
        with suppress(InvalidInput):
            caller = Caller(user="bob", roles=roles)
            assert here.at(caller=caller).get(cube.id).text == "tea"


# ------------------------------------------------------------------------- nothing shows


class TestNothingShows:
    """Ways in which what a caller may not read might tell that it is there, or what it says."""

    def test_the_log_of_what_one_was_refused_does_not_tell_what_is_there(
        self, here: Tenant, tmp_path: Path
    ) -> None:
        cube = here.ann.add("tea")
        asked = [uuid4(), cube.id, uuid4()]
        seen: list[object] = []
        for one in asked:
            assert refused(lambda one=one: here.bob.get(one))
            seen.append((here.bob.events(cube=one), here.bob.stats().events))
        assert here.app.events(kind="denied")[0].cube_ids == (cube.id,)
        there = {id for event in here.bob.events() for id in event.cube_ids}
        assert cube.id not in there
        here.bob.export_events(tmp_path / "log")
        assert str(cube.id) not in (tmp_path / "log").read_text()
        assert [events for events, _ in cast("Any", seen)] == [[], [], []]
        counts = [events for _, events in cast("Any", seen)]
        assert counts[1] - counts[0] == counts[2] - counts[1], "as of what never was"

    def test_the_log_of_ones_own_cube_names_no_cube_of_others(self, here: Tenant) -> None:
        anns, bobs = here.ann.add("tea"), here.bob.add("tea")
        here.ann.grant(user="bob", cube=anns.id)
        assert len(here.bob.search("tea")) == 2
        log = here.ann.events(cube=anns.id)
        assert [event.kind for event in log] == ["searched", "granted", "added"]
        assert bobs.id not in {id for event in log for id in event.cube_ids}

    @pytest.mark.parametrize("verb", ["archive", "activate", "freeze", "unfreeze", "expire"])
    def test_no_step_of_life_shows_what_was_made_of_what_was_taken_back(
        self, here: Tenant, verb: str
    ) -> None:
        source = here.ann.add("secret")
        here.ann.grant(user="bob", cube=source.id, rights=["read", "derive"])
        made = here.bob.derive("she has a secret", source.id)
        if verb == "unfreeze":
            here.bob.freeze(made.id)
        here.ann.revoke(user="bob", cube=source.id)
        assert refused(lambda: here.bob.get(made.id))
        assert refused(lambda: getattr(here.bob, verb)(made.id))

    def test_provenance_shows_nothing_that_was_made_of_what_was_taken_back(
        self, here: Tenant
    ) -> None:
        source = here.ann.add("secret")
        here.ann.grant(user="bob", cube=source.id, rights=["read", "derive"])
        made = here.bob.derive("she has a secret", source.id)
        mine = here.bob.add("of bob's")
        here.bob.relate(mine.id, "about", made.id)
        here.ann.revoke(user="bob", cube=source.id)
        assert made.id not in here.bob.provenance(mine.id).cubes
        assert refused(lambda: here.bob.provenance(made.id))

    def test_what_was_made_of_what_was_taken_back_cannot_be_shared(self, here: Tenant) -> None:
        source = here.ann.add("secret")
        here.ann.grant(user="carol", cube=source.id)
        here.ann.grant(user="bob", cube=source.id, rights=["read", "derive"])
        made = here.bob.derive("she has a secret", source.id)
        here.ann.revoke(user="bob", cube=source.id)
        assert refused(lambda: here.bob.grant(user="carol", cube=made.id))

    def test_what_was_made_of_what_was_taken_back_is_not_counted(self, here: Tenant) -> None:
        source = here.ann.add("secret")
        here.ann.grant(user="bob", cube=source.id, rights=["read", "derive"])
        made = here.bob.derive("she has a secret", source.id)
        here.bob.update(made.id, tags=["x"])
        assert here.bob.stats().versions == 3
        here.ann.revoke(user="bob", cube=source.id)
        assert (here.bob.stats().cubes, here.bob.stats().versions) == (0, 0)

    @pytest.mark.parametrize("mode", ["hybrid", "lexical"])
    def test_words_of_what_was_made_of_hidden_cubes_do_not_weigh(
        self, here: Tenant, mode: Any
    ) -> None:
        here.bob.add(["zebra tea", "okapi milk", "cake"])
        sources = [here.ann.add("secret").id, here.carol.add("secret too").id]
        before = here.bob.search("zebra okapi", mode=mode)
        made = here.app.derive("zebra zebra zebra", sources)
        assert refused(lambda: here.bob.get(made.id))
        after = here.bob.search("zebra okapi", mode=mode)
        assert [(hit.text, hit.score) for hit in after] == [
            (hit.text, hit.score) for hit in before
        ], "else he can ask word by word what it says"

    def test_who_speaks_in_hidden_turns_does_not_change_what_is_asked(
        self, here: Tenant, memos: MemOS
    ) -> None:
        here.bob.add(["Zelda moved to Oslo", "I moved to Oslo", "Oslo"])
        question = "When did Zelda move to Oslo?"
        before = [(hit.text, hit.score) for hit in here.bob.search(question)]
        here.ann.ingest({"role": "user", "name": "Zelda", "content": "a secret"})
        assert [(hit.text, hit.score) for hit in here.bob.search(question)] == before
        here.ann.search(question)  # what is remembered for her is not remembered for him
        assert [(hit.text, hit.score) for hit in here.bob.search(question)] == before
        assert memos.at(here.name).search(question)[0].score > 0

    def test_a_count_of_what_is_indexed_counts_nothing_hidden(
        self, database: str, here: Tenant
    ) -> None:
        here.ann.add([f"tea {number}" for number in range(30)])
        here.bob.add("cake")
        with MemOS.open(database, embedder=WordEmbedder()) as memos:
            bob = memos.at(here.name, caller=BOB)
            with pytest.raises(NotPermitted):
                bob.build_index()
            memos.at(here.name).build_index()
            assert bob.stats().indexed is None

    def test_hidden_turns_take_no_places_around_a_hit(self, here: Tenant) -> None:
        for view, name, text in (
            (here.bob, "m1", "tea"),
            (here.ann, "m2", "secret"),
            (here.bob, "m3", "cake"),
        ):
            view.ingest({"role": "user", "id": name, "content": text}, session="s")
        (hit, *_) = here.bob.search("tea", context=1)
        assert [message.id for message in hit.context] == ["m1", "m3"]

    def test_a_tag_that_was_taken_off_hides_what_the_cube_ever_said(self, here: Tenant) -> None:
        cube = here.ann.add("tea", tags=["open"])
        here.ann.grant(user="bob", tag="open")
        assert here.bob.get(cube.id).text == "tea"
        here.ann.update(cube.id, tags=[])
        assert refused(lambda: here.bob.get(cube.id))
        assert here.bob.search("tea") == []
        assert here.bob.search("tea", as_of=cube.updated_at) == []
        assert refused(lambda: here.bob.get(cube.id, as_of=cube.updated_at))
        assert refused(lambda: here.bob.history(cube.id))
        assert refused(lambda: here.bob.provenance(cube.id))
        assert here.bob.stats().versions == 0

    def test_a_version_that_one_may_not_read_cannot_be_restored_to_be_read(
        self, here: Tenant
    ) -> None:
        cube = here.ann.add("secret")
        here.ann.update(cube.id, "tea", tags=["open"])
        here.ann.grant(user="bob", tag="open", rights=["read", "write"])
        readable = {one.text for one in here.bob.history(cube.id)}
        with suppress(CubeNotFound, NotPermitted):
            assert here.bob.restore(cube.id, version=1).text in readable

    def test_a_readable_old_version_of_a_source_does_not_show_what_was_made_of_a_new_one(
        self, here: Tenant
    ) -> None:
        source = here.ann.add("harmless", tags=["open"])
        here.ann.grant(user="bob", tag="open")
        here.ann.update(source.id, "secret", tags=[])
        made = here.ann.derive("she has a secret", source.id)
        here.ann.grant(user="bob", cube=made.id)
        assert refused(lambda: here.bob.get(made.id))
        assert here.bob.search("secret") == []
        for moment in (made.updated_at, FUTURE):
            assert refused(lambda moment=moment: here.bob.get(made.id, as_of=moment))
            assert "she has a secret" not in texts(here.bob.search("secret", as_of=moment))
        assert refused(lambda: here.bob.history(made.id))
        assert refused(lambda: here.bob.provenance(made.id))

    @pytest.mark.parametrize("frozen", [True, False])
    def test_an_id_that_is_used_again_does_not_show_what_was_made_of_what_had_it(
        self, here: Tenant, *, frozen: bool
    ) -> None:
        secret, open_one = here.ann.add("secret"), here.app.add("open")
        made = here.ann.derive("open, and a secret", [secret.id, open_one.id])
        here.ann.grant(user="bob", cube=made.id)
        if frozen:
            here.ann.freeze(made.id)
        shown: list[Callable[[], object]] = [
            lambda: here.bob.get(made.id),
            lambda: here.bob.get(made.id, as_of=made.updated_at),
            lambda: here.bob.history(made.id),
        ]
        for when in ("while it is there", "after it ended", "after its id was used again"):
            for way in shown:
                assert refused(way), when
            assert "open, and a secret" not in texts(here.bob.search("open", states=list(State)))
            if when.startswith("while"):
                here.ann.expire(secret.id)
            else:
                with suppress(CubeExists):
                    here.ann.add("quite another", id=secret.id)

    def test_what_is_frozen_is_not_served_again_because_an_id_is_used_again(
        self, here: Tenant
    ) -> None:
        secret, open_one = here.ann.add(["secret", "open"])
        made = here.ann.derive("open, and a secret", [secret.id, open_one.id])
        here.ann.freeze(made.id)
        here.ann.expire(secret.id)
        assert refused(lambda: here.ann.get(made.id))
        with suppress(CubeFrozen):
            here.ann.add("quite another", id=secret.id)
        assert refused(lambda: here.ann.get(made.id))

    def test_who_was_granted_for_a_while_cannot_make_it_last(self, here: Tenant) -> None:
        cube = here.ann.add("tea")
        on_ward = here.at(caller=ON_WARD)
        here.ann.grant(
            user="bob",
            cube=cube.id,
            rights=["read", "share"],
            condition={"place": "ward"},
            ttl=3600,
        )
        made = None
        with suppress(NotPermitted):
            made = on_ward.grant(user="bob", cube=cube.id)
        assert refused(lambda: here.bob.get(cube.id)), "he is not on the ward"
        assert made is None or made.expires_at is not None

    def test_what_was_shared_on_ends_with_the_right_to_share_it(self, here: Tenant) -> None:
        cube = here.ann.add("tea")
        mine = here.app.grant(user="bob", rights=["read", "share"])
        here.bob.grant(user="bob")
        here.app.revoke(mine)
        assert refused(lambda: here.bob.get(cube.id)), "he gave it to himself"

    def test_the_owner_of_an_ended_cube_takes_back_what_others_granted_of_it(
        self, here: Tenant
    ) -> None:
        cube = here.ann.add("tea")
        here.ann.grant(user="bob", cube=cube.id, rights=["read", "share"])
        made = here.bob.grant(user="carol", cube=cube.id)
        here.ann.expire(cube.id)
        assert made in here.ann.grants()
        assert here.ann.revoke(user="carol", cube=cube.id) == [made]
        assert refused(lambda: here.carol.history(cube.id))

    def test_what_is_frozen_and_hidden_is_not_named_to_who_forgets_its_source(
        self, here: Tenant
    ) -> None:
        source = here.ann.add("tea")
        here.ann.grant(user="bob", cube=source.id, rights=["read", "derive"])
        made = here.bob.derive("of tea", source.id)
        here.bob.freeze(made.id)
        said = ""
        try:
            here.ann.forget(source.id)
        except CubeFrozen as error:
            said = str(error)
        assert str(made.id) not in said

    def test_nobody_keeps_the_owner_from_forgetting(self, here: Tenant) -> None:
        source = here.ann.add("tea")
        here.ann.grant(user="bob", cube=source.id, rights=["read", "derive"])
        here.bob.freeze(here.bob.derive("of tea", source.id).id)
        here.ann.forget(source.id)
        assert here.app.stats().cubes == 0

    def test_an_unread_message_of_another_is_not_read_to_who_guesses_its_id(
        self, here: Tenant, slow: Tenant, interrupted: Interrupted
    ) -> None:
        def fail() -> None:
            raise ConnectionError

        interrupted.meanwhile = fail
        turn = {"role": "user", "id": "m1"}
        with pytest.raises(ConnectionError):
            slow.ann.ingest({**turn, "content": "a secret"}, session="s")
        made = here.bob.ingest({**turn, "content": "tea"}, session="s")
        assert "a secret" not in {cube.text for cube in made}
        assert {cube.governance.owner for cube in made} <= {"bob"}

    def test_who_makes_up_for_anothers_reading_is_not_told_of_what_cubes(
        self,
        here: Tenant,
        slow: Tenant,
        interrupted: Interrupted,
        database: str,
        age: Callable[[str], None],
    ) -> None:
        def fail() -> None:
            raise ConnectionError

        interrupted.meanwhile = fail
        with pytest.raises(ConnectionError):
            slow.ann.ingest("a secret", session="s")
        age(database)
        here.bob.ingest("tea", session="t")
        assert here.ann.search("secret") == [], "each makes up for his own"
        here.ann.ingest("tea", session="t")
        (hit,) = (hit for hit in here.ann.search("secret") if hit.text == "a secret")
        assert hit.cube.id not in {id for event in here.bob.events() for id in event.cube_ids}

    def test_a_dry_run_does_not_show_what_would_end_with_ones_own(self, database: str) -> None:
        with MemOS.open(database, embedder=WordEmbedder(), caller=BOB) as bob:
            ann = bob.at(*bob.namespace, caller=ANN)
            source = bob.add("tea")
            bob.grant(user="ann", cube=source.id, rights=["read", "derive"])
            made = ann.derive("what she thinks of it", source.id)
            with bob.pipeline(dry_run=True) as trial:
                trial.update(source.id, "coffee")
            effects = {effect.id for effect in trial.effects}
            assert source.id in effects
            assert made.id not in effects

    def test_a_view_shows_no_provenance_from_outside_it(self, here: Tenant) -> None:
        ann, bob = here.at("ann"), here.at("bob")
        anns, bobs = ann.add("tea"), bob.add("a secret")
        here.app.relate(bobs.id, "about", anns.id)
        assert ann.provenance(anns.id).cubes.keys() == {anns.id}
        assert here.app.provenance(anns.id).cubes.keys() == {anns.id, bobs.id}

    def test_what_was_fused_above_a_view_is_found_in_it_as_before(self, here: Tenant) -> None:
        below = here.at("ann")
        made = below.add(["tea", "more tea"])
        here.app.fuse([cube.id for cube in made])
        assert texts(below.search("tea")) == {"tea", "more tea"}


class TestForgetting:
    def test_to_forget_what_nobody_owns_is_not_permitted(self, here: Tenant) -> None:
        cube = here.app.add("tea")
        with pytest.raises(NotPermitted):
            here.bob.forget(cube.id)

    @pytest.mark.parametrize("target", ["cube", "namespace"])
    def test_all_is_forgotten_beside_what_may_be_written_and_not_read(
        self, here: Tenant, target: str
    ) -> None:
        theirs, mine = here.ann.add("hers"), here.bob.add("his")
        here.bob.ingest({"role": "user", "content": "said by him"})
        about: dict[str, Any] = {"cube": theirs.id} if target == "cube" else {}
        here.ann.grant(user="bob", rights=["write"], **about)
        report = here.bob.forget_all()
        left = texts(here.app.search("hers his said", k=50))
        assert left == {"hers"}, "what he may not read is not there for him"
        assert mine.id in report.cubes
        assert theirs.id not in report.cubes
        assert len(report.cubes) == 2

    def test_a_report_of_what_was_forgotten_is_true(self, here: Tenant) -> None:
        theirs = here.ann.add("hers")
        here.bob.add("his")
        here.ann.grant(user="bob", cube=theirs.id, rights=["write"])
        report = here.bob.forget_all()
        for cube in report.cubes:
            assert refused(lambda cube=cube: here.app.get(cube))


class TestBundles:
    def compose(self, view: View, ids: Sequence[UUID], **options: Any) -> MemCube | None:
        """Compose, or be refused because another has the name."""
        try:
            return view.compose(ids, "trip", **options)
        except NotPermitted:
            return None

    @pytest.mark.parametrize("options", [{}, {"tags": ["x"]}, {"priority": 1}])
    def test_a_bundle_that_one_may_not_read_is_neither_returned_nor_replaced(
        self, here: Tenant, options: dict[str, Any]
    ) -> None:
        member = here.app.add("open")
        theirs = here.ann.compose([member.id], "trip")
        assert refused(lambda: here.bob.get(theirs.id))
        made = self.compose(here.bob, [member.id], **options)
        assert made is None or here.bob.get(made.id).governance.owner == "bob"
        assert here.ann.get(theirs.id).version == theirs.version

    def test_that_another_has_a_bundle_of_the_name_does_not_show(self, here: Tenant) -> None:
        member, other = here.app.add(["open", "open too"])
        here.ann.compose([member.id], "trip")
        assert here.bob.compose([other.id], "trip 2").version == 1
        assert here.bob.compose([other.id], "trip").version == 1

    def test_the_history_of_an_ended_bundle_is_its_owners(self, here: Tenant) -> None:
        member = here.app.add("open")
        theirs = here.ann.compose([member.id], "trip")
        here.ann.expire(theirs.id)
        self.compose(here.bob, [member.id])
        assert [one.text for one in here.ann.history(theirs.id)] == ["trip\nopen"] * 2

    def test_who_had_the_id_of_a_bundle_before_has_no_rights_on_it(self, here: Tenant) -> None:
        path = json.dumps([here.name, "trip"])
        guessed = uuid5(NAMESPACE_URL, f"memos:bundle:{path}")
        here.bob.add("in the way", id=guessed)
        here.bob.grant(user="bob", cube=guessed, rights=ALL.split())
        here.bob.expire(guessed)
        member = here.ann.add("a secret")
        made = self.compose(here.ann, [member.id])
        if made is not None:
            for verb in (
                here.bob.get,
                here.bob.history,
                here.bob.provenance,
                here.bob.archive,
                here.bob.freeze,
                here.bob.forget,
            ):
                assert refused(lambda verb=verb: verb(made.id))
            assert here.ann.get(made.id).version == made.version
