"""What one tenant publishes others take: what matches, masked, with its provenance."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from memos_core import (
    Action,
    AsyncView,
    Caller,
    InvalidInput,
    LimitExceeded,
    MemOS,
    Rules,
    Sensitive,
    SyncReport,
    View,
)
from tests.support import WordEmbedder, everything_in

MAIL = "Ask ann@example.com for the tea recipe."


@pytest.fixture
def acme(memos: MemOS) -> View:
    """The publisher."""
    return memos.at("acme", "kitchen")


@pytest.fixture
def globex(memos: MemOS) -> View:
    """The subscriber."""
    return memos.at("globex", "library")


def texts(view: View, **options: Any) -> list[str]:
    return sorted(hit.text for hit in view.search("tea", k=100, **options))


def test_what_is_published_is_taken(acme: View, globex: View) -> None:
    acme.add("recipe of tea", tags=["recipe"], metadata={"minutes": 5}, semantic_type="recipe")
    acme.add("our secret tea")
    publication = acme.publish("recipes", tags=["recipe"], licence="CC-BY-4.0", watermark="acme-7")
    assert globex.sync() == SyncReport(), "it did not subscribe"
    subscription = globex.subscribe("recipes")
    report = globex.sync()
    assert (len(report.added), report.updated, report.withdrawn) == (1, (), ())
    (hit,) = globex.search("tea")
    copy, origin = hit.cube, hit.cube.provenance
    assert (copy.id, copy.text, copy.tags) == (report.added[0], "recipe of tea", ("recipe",))
    assert (copy.metadata, copy.semantic_type) == ({"minutes": 5}, "recipe")
    assert (origin.publisher, origin.channel) == ("acme", "recipes")
    assert (origin.licence, origin.watermark) == ("CC-BY-4.0", "acme-7")
    assert not globex.sync(), "nothing is new"
    assert [one.id for one in acme.publications()] == [publication.id]
    assert globex.subscriptions() == [subscription]


def test_every_delivery_is_an_event_of_both(acme: View, globex: View) -> None:
    source = acme.add("tea")
    publication = acme.publish("all")
    globex.subscribe("all")
    (copy,) = globex.sync().added
    (delivered,) = acme.events(kind="delivered")
    assert delivered.cube_ids == (source.id,)
    assert delivered.details == {
        "channel": "all",
        "publication": str(publication.id),
        "subscriber": "globex",
        "version": 1,
    }
    (received,) = globex.events(kind="received")
    assert received.cube_ids == (copy,)
    assert received.details["publisher"] == "acme"
    assert received.details["source"] == str(source.id)


def test_changes_are_versions_of_the_copy(acme: View, globex: View) -> None:
    source = acme.add("green tea", tags=["x"])
    acme.publish("all")
    globex.subscribe("all")
    (copy,) = globex.sync().added
    acme.update(source.id, "black tea")
    acme.update(source.id, tags=["y"])
    report = globex.sync()
    assert report.updated == (copy,)
    assert [(one.text, one.tags) for one in globex.history(copy)] == [
        ("green tea", ("x",)),
        ("black tea", ("y",)),
    ]
    acme.update(source.id, priority=5)
    assert not globex.sync(), "that says nothing to others"
    acme.add("white tea")
    assert len(globex.sync().added) == 1


def test_what_matches_no_more_goes(acme: View, globex: View) -> None:
    tagged, archived, lapsed, stays = acme.add(
        ["tea 1", "tea 2", "tea 3", "tea 4"], tags=["recipe"]
    )
    acme.publish("recipes", tags=["recipe"])
    globex.subscribe("recipes")
    globex.sync()
    acme.update(tagged.id, tags=[])
    acme.archive(archived.id)
    acme.expire(lapsed.id)
    assert len(globex.sync().withdrawn) == 3
    assert texts(globex) == ["tea 4"]
    assert stays.text == "tea 4"
    acme.activate(archived.id)
    assert len(globex.sync().added) == 1
    assert texts(globex) == ["tea 2", "tea 4"]


def test_what_the_publisher_forgets_is_forgotten_everywhere_at_once(
    database: str, memos: MemOS, acme: View, globex: View
) -> None:
    source = acme.add("the okapi tea")
    acme.publish("all")
    globex.subscribe("all")
    (copy,) = globex.sync().added
    globex.update(copy, tags=["mine"])
    globex.derive("summary: okapi tea", [copy])
    globex.publish("again")
    third = memos.at("initech")
    third.subscribe("again")
    assert len(third.sync().added) == 2
    acme.forget(source.id)
    assert texts(globex) == texts(third) == []
    assert "okapi" not in everything_in(database)
    assert globex.events(kind="forgot")[0].details["because"] == "publisher"
    assert not globex.sync()
    assert not third.sync()


def test_a_withdrawn_publication_takes_its_copies_along(acme: View, globex: View) -> None:
    acme.add(["tea 1", "tea 2"])
    publication = acme.publish("all")
    globex.subscribe("all")
    globex.sync()
    assert acme.withdraw(publication)
    assert not acme.withdraw(publication), "once"
    assert len(globex.sync().withdrawn) == 2
    assert texts(globex) == []
    assert acme.publications() == []


def test_copies_end_with_the_licence(acme: View, globex: View) -> None:
    acme.add("tea")
    acme.publish("all", ttl=0.6)
    globex.subscribe("all")
    globex.sync()
    assert texts(globex) == ["tea"]
    time.sleep(0.7)
    assert texts(globex) == [], "before any sync"
    globex.sync()
    assert globex.subscriptions() != []


def test_a_copy_ends_with_its_source_and_is_as_sensitive(acme: View, globex: View) -> None:
    acme.set_rules(Rules(sensitive={Sensitive.EMAIL: Action.ALLOW}))
    source = acme.add(MAIL, ttl=3600)
    acme.publish("all", ttl=86_400)
    globex.subscribe("all")
    (copy,) = globex.sync().added
    kept = globex.get(copy).governance
    assert kept.sensitivity == source.governance.sensitivity == ("email",)
    ends = (source.governance.expires_at, kept.expires_at)
    assert ends[0] is not None
    assert ends[1] is not None
    assert abs(ends[1] - ends[0]) < timedelta(hours=1), "not with the publication, a day from now"


def test_an_unsubscriber_keeps_nothing(acme: View, globex: View) -> None:
    acme.add("tea")
    acme.publish("all")
    subscription = globex.subscribe("all")
    globex.sync()
    assert len(globex.unsubscribe(subscription).withdrawn) == 1
    assert globex.unsubscribe(subscription) == SyncReport()
    assert texts(globex) == []
    assert not globex.sync()


def test_both_sides_choose(acme: View, globex: View) -> None:
    acme.add("tea 1", tags=["a", "b"], metadata={"n": 1}, semantic_type="x")
    acme.add("tea 2", tags=["a"], metadata={"n": 2}, semantic_type="x")
    acme.add("tea 3", tags=["a", "b"], metadata={"n": 3}, semantic_type="y")
    acme.publish("all", tags=["a"], filter={"n": {"$gte": 2}})
    acme.publish("x", semantic_type="x")
    globex.subscribe("all", tags=["b"])
    globex.sync()
    assert texts(globex) == ["tea 3"]
    other = globex.subscribe("x", semantic_type="y")
    assert not globex.sync(), "x is not y"
    globex.unsubscribe(other)
    globex.subscribe("x", filter={"n": {"$lt": 2}})
    globex.sync()
    assert texts(globex) == ["tea 1", "tea 3"]


# --- masks and rules ------------------------------------------------------------------------------


def test_copies_are_masked(acme: View, globex: View) -> None:
    acme.add(MAIL, metadata={"by": "ann@example.com"})
    acme.add("Card 4111 1111 1111 1111 pays for tea.")
    acme.publish("all", mask={Sensitive.EMAIL: Action.REDACT, Sensitive.CARD: Action.REFUSE})
    globex.subscribe("all")
    report = globex.sync()
    assert (len(report.added), report.withheld) == (1, 1)
    (hit,) = globex.search("tea")
    assert hit.text == "Ask [email] for the tea recipe."
    assert hit.cube.metadata == {"by": "[email]"}
    assert texts(acme) != texts(globex)


def test_what_is_masked_is_not_in_the_vector_either(memos: MemOS, acme: View, globex: View) -> None:
    acme.add(MAIL)
    acme.publish("all", mask={Sensitive.EMAIL: Action.REDACT})
    globex.subscribe("all")
    globex.sync()
    same = memos.at("initech")
    same.add("Ask [email] for the tea recipe.")
    scores = [view.search(MAIL, mode="dense")[0].score for view in (globex, same)]
    assert scores[0] == pytest.approx(scores[1])


def test_the_namespaces_rules_for_export_are_the_mask(acme: View, globex: View) -> None:
    acme.set_rules(Rules(export={Sensitive.EMAIL: Action.REDACT}))
    source = acme.add(MAIL)
    assert source.text == MAIL
    acme.publish("all")
    globex.subscribe("all")
    globex.sync()
    assert texts(globex) == ["Ask [email] for the tea recipe."]
    acme.update(source.id, "Card 4111 1111 1111 1111 and bob@example.com for tea")
    globex.sync()
    assert texts(globex) == ["Card 4111 1111 1111 1111 and [email] for tea"]


def test_a_copy_that_may_be_shown_no_more_goes(acme: View, globex: View) -> None:
    source = acme.add("tea")
    acme.publish("all", mask={Sensitive.EMAIL: Action.REFUSE})
    globex.subscribe("all")
    globex.sync()
    acme.update(source.id, MAIL)
    report = globex.sync()
    assert (len(report.withdrawn), report.withheld) == (1, 1)
    assert texts(globex) == []


def test_the_subscribers_rules_hold_for_what_comes(acme: View, globex: View) -> None:
    globex.set_rules(Rules(sensitive={Sensitive.EMAIL: Action.REFUSE}, max_cubes=2))
    acme.add([MAIL, "tea 1"])
    acme.publish("all")
    globex.subscribe("all")
    report = globex.sync()
    assert (len(report.added), report.withheld) == (1, 1)
    acme.add(["tea 2", "tea 3"])
    with pytest.raises(LimitExceeded):
        globex.sync()
    assert texts(globex) == ["tea 1"], "a batch comes whole or not at all"


# --- who ------------------------------------------------------------------------------------------


def test_only_who_is_meant_gets_it(memos: MemOS, acme: View, globex: View) -> None:
    acme.add("tea")
    acme.publish("inner", tenants=["globex"])
    acme.publish("ward", condition={"place": "ward"})
    other = memos.at("initech")
    for view in (globex, other):
        view.subscribe("inner")
    assert len(globex.sync().added) == 1
    assert not other.sync()
    nurse = memos.at("globex", caller=Caller(user="nina", context={"place": "ward"}))
    porter = memos.at("globex", caller=Caller(user="paul", context={"place": "gate"}))
    for caller in (nurse, porter):
        caller.subscribe("ward")
    assert not porter.sync()
    (copy,) = nurse.sync().added
    assert nurse.get(copy).governance.owner == "nina"


def test_a_caller_publishes_what_he_may_read(memos: MemOS, globex: View) -> None:
    ann = memos.at("acme", caller=Caller(user="ann"))
    bob = memos.at("acme", caller=Caller(user="bob"))
    ann.add("Ann's tea")
    bob.add("Bob's tea")
    publication = ann.publish("all")
    globex.subscribe("all")
    globex.sync()
    assert texts(globex) == ["Ann's tea"]
    assert not bob.withdraw(publication)
    grant = bob.grant(user="ann")
    globex.sync()
    assert texts(globex) == ["Ann's tea", "Bob's tea"]
    bob.revoke(grant)
    globex.sync()
    assert texts(globex) == ["Ann's tea"]


def test_who_subscribed_takes_that_back_and_nobody_else(memos: MemOS, acme: View) -> None:
    bob, carl = (memos.at("globex", caller=Caller(user=name)) for name in ("bob", "carl"))
    acme.add("tea")
    acme.publish("all")
    subscription = bob.subscribe("all")
    bob.sync()
    assert not carl.unsubscribe(subscription)
    assert bob.subscriptions() == [subscription]
    assert len(bob.unsubscribe(subscription).withdrawn) == 1
    assert bob.subscriptions() == []


def test_one_tenant_is_no_publisher_to_itself(acme: View, memos: MemOS) -> None:
    acme.add("tea")
    acme.publish("all")
    own = memos.at("acme", "other")
    own.subscribe("all")
    assert not own.sync()


def test_a_publisher_is_chosen(memos: MemOS, acme: View, globex: View) -> None:
    other = memos.at("initech")
    for view in (acme, other):
        view.add(f"tea of {view.namespace.tenant}")
        view.publish("all")
    globex.subscribe("all", publisher="initech")
    globex.sync()
    assert texts(globex) == ["tea of initech"]


# --- copies are the subscriber's ------------------------------------------------------------------


def test_a_copy_that_was_forgotten_does_not_come_back(acme: View, globex: View) -> None:
    source = acme.add("tea")
    acme.publish("all")
    globex.subscribe("all")
    globex.forget(globex.sync().added)
    assert not globex.sync()
    acme.update(source.id, "tea, hot")
    assert not globex.sync()
    assert texts(globex) == []


def test_a_frozen_copy_stays_as_it_is(acme: View, globex: View) -> None:
    source = acme.add("tea")
    acme.publish("all")
    globex.subscribe("all")
    (copy,) = globex.sync().added
    globex.freeze(copy)
    acme.update(source.id, "tea, hot")
    assert not globex.sync()
    assert texts(globex) == ["tea"]


def test_what_was_made_of_a_copy_follows_it(acme: View, globex: View) -> None:
    source = acme.add("green tea")
    acme.publish("all")
    globex.subscribe("all")
    (copy,) = globex.sync().added
    globex.derive("a summary of tea", [copy])
    acme.update(source.id, "black tea")
    globex.sync()
    assert texts(globex) == ["black tea"]


def test_many_come_in_batches(acme: View, globex: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memos_core.view.delivering.BATCH", 7)
    acme.add([f"tea {n}" for n in range(30)])
    acme.publish("all")
    globex.subscribe("all")
    assert len(globex.sync().added) == 30
    assert len(texts(globex)) == 30


def test_two_syncs_at_once_bring_each_thing_once(database: str, acme: View, globex: View) -> None:
    acme.add([f"tea {n}" for n in range(60)])
    acme.publish("all")
    globex.subscribe("all")

    def sync() -> None:
        with MemOS.open(database, embedder=WordEmbedder()) as other:
            other.at(*globex.namespace).sync()

    threads = [threading.Thread(target=sync) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts(globex)) == 60


def test_search_finds_a_copy_as_its_source(acme: View, globex: View) -> None:
    acme.add(["green tea from Uji", "black tea from Assam"])
    acme.publish("all")
    globex.subscribe("all")
    globex.sync()
    ours, theirs = globex.search("tea from Uji"), acme.search("tea from Uji")
    assert [(hit.text, hit.score) for hit in ours] == [(hit.text, hit.score) for hit in theirs]


# --- being told -----------------------------------------------------------------------------------


@pytest.fixture
def other(database: str) -> Iterator[MemOS]:
    """Another process's memory of the same database."""
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        yield memos


def test_news_is_pushed(acme: View, globex: View, other: MemOS) -> None:
    acme.add("tea 0")
    publication = acme.publish("all")
    globex.subscribe("all")
    pushes = other.at(*globex.namespace).pushes(timeout=60)
    assert len(next(pushes).added) == 1
    source = acme.add("tea 1")
    assert len(next(pushes).added) == 1
    acme.update(source.id, "tea 2")
    assert len(next(pushes).updated) == 1
    acme.ingest("tea, said")
    assert len(next(pushes).added) == 1
    acme.archive(source.id)
    assert len(next(pushes).withdrawn) == 1
    acme.withdraw(publication)
    assert len(next(pushes).withdrawn) == 2
    other.close()
    assert next(pushes, None) is None


def test_no_news_ends_the_wait(globex: View) -> None:
    assert list(globex.pushes(timeout=0.01)) == []


async def test_awaited_news(acme: View, globex: View) -> None:
    acme.add("tea 0")
    acme.publish("all")
    globex.subscribe("all")
    came: list[SyncReport] = []
    async for report in AsyncView(globex).pushes(timeout=30):
        came.append(report)
        if len(came) == 2:
            break
        await asyncio.to_thread(acme.add, "tea 1")
    assert [len(report.added) for report in came] == [1, 1]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"channel": ""},
        {"channel": "c", "tags": "recipe"},
        {"channel": "c", "mask": {"mail": "hide"}},
        {"channel": "c", "filter": {"n": {"$near": 1}}},
        {"channel": "c", "until": datetime.now(UTC), "ttl": 1},
        {"channel": "c", "ttl": -1},
        {"channel": "c", "tenants": "globex"},
        {"channel": "c", "licence": 7},
        {"channel": "c", "condition": {"x": object()}},
    ],
)
def test_refuses_what_cannot_be_published(acme: View, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        acme.publish(**options)
    assert acme.publications() == []


def test_a_pipeline_publishes_and_syncs(memos: MemOS, acme: View, globex: View) -> None:
    globex.subscribe("all")
    with memos.pipeline() as p:
        p.at(*acme.namespace).add("tea")
        p.at(*acme.namespace).publish("all", until=datetime.now(UTC) + timedelta(days=1))
        assert len(p.at(*globex.namespace).sync().added) == 1
        with pytest.raises(InvalidInput, match="pipeline"):
            next(p.pushes())
    assert texts(globex) == ["tea"]
