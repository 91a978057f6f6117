"""Rules travel in archives, and those of where an archive is loaded hold for what is in it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from memos_core import (
    Action,
    ArchiveInvalid,
    Caller,
    InvalidInput,
    LimitExceeded,
    MemOS,
    Retention,
    Rules,
    RulesChanged,
    Sensitive,
    SensitiveText,
    View,
)
from memos_core.archive import ArchiveReader
from memos_core.namespace import Namespace
from memos_core.rules import enacted, nearest
from memos_core.store.statements import rules as statements
from memos_core.view import loading
from tests.archives import packed, relisted, unpacked
from tests.support import WordEmbedder, everything_in, is_blocked, until

MAIL = "ann@example.org"
HIDING = Rules(sensitive={Sensitive.EMAIL: Action.REDACT})
REFUSING = Rules(sensitive={Sensitive.EMAIL: Action.REFUSE})
STRICT = Rules(
    sensitive={Sensitive.CARD: Action.REFUSE, Sensitive.PHONE: Action.ALLOW},
    export={Sensitive.EMAIL: Action.REDACT},
    region="GB",
    max_cubes=100,
    writes_per_minute=600,
    retention=Retention(floor=0.1),
)


@pytest.fixture
def other(new_database: Callable[[str], str], template: str) -> Iterator[MemOS]:
    """A memory in another database."""
    with MemOS.open(new_database(template), embedder=WordEmbedder()) as memos:
        yield memos


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ann.memos"


@pytest.fixture
def written(ann: View, path: Path) -> Path:
    """An archive that holds an address in everything that can hold one."""
    cube = ann.add(f"Write to {MAIL}.", metadata={"to": [MAIL]})
    ann.update(cube.id, f"Write to {MAIL} today.")
    ann.ingest([{"id": "1", "role": "user", "content": f"I am {MAIL}.", "metadata": {"me": MAIL}}])
    ann.derive(f"Ann is {MAIL}.", cube.id)
    ann.add("Nothing private.")
    ann.dump(path)
    return path


class TestTheyTravel:
    def test_the_same_are_in_force_in_another_database(
        self, memos: MemOS, ann: View, other: MemOS, path: Path
    ) -> None:
        ann.set_rules(STRICT)
        memos.at("acme", "ann", "free").set_rules(Rules())
        memos.at("acme", "ann", "deep", "er").set_rules(HIDING)
        memos.at("acme", "bob").set_rules(REFUSING)
        assert ann.dump(path).rules == 3
        there = other.at("x", "y")
        assert there.load(path).rules == 3
        for below, rules in {
            (): STRICT, ("any",): STRICT, ("free",): Rules(), ("deep",): STRICT,
            ("deep", "er"): HIDING, ("deep", "er", "est"): HIDING,
        }.items():  # fmt: skip
            assert other.at("x", "y", *below).rules() == rules
        assert other.at("x").rules() == Rules()
        (event,) = there.events(kind="imported")
        assert event.details["rules"] == 3
        assert len(there.events(kind="ruled")) == 3
        (event,) = ann.events(kind="exported")
        assert event.details["rules"] == 3

    def test_those_from_above_are_the_views_own(
        self, memos: MemOS, ann: View, other: MemOS, path: Path
    ) -> None:
        memos.at("acme").set_rules(HIDING)
        ann.dump(path)
        other.at("there").load(path)
        assert other.at("there").rules() == HIDING

    def test_they_hold_at_once_for_who_knew_of_none(
        self, ann: View, other: MemOS, path: Path
    ) -> None:
        ann.set_rules(HIDING)
        ann.dump(path)
        there = other.at("there")
        assert there.add(MAIL).text == MAIL  # it is known now that there are no rules
        there.load(path)
        assert there.add(MAIL).text == "[email]"

    def test_they_hold_at_once_for_who_reads(self, ann: View, other: MemOS, path: Path) -> None:
        ann.set_rules(Rules(reads_per_minute=1))
        ann.dump(path)
        there = other.at("there")
        there.search("what is known of the rules is kept for a minute")
        there.load(path)
        with pytest.raises(LimitExceeded, match="reads_per_minute"):
            there.search("one too many")

    def test_what_is_in_force_stays_and_is_replaced_on_request(
        self, ann: View, other: MemOS, path: Path
    ) -> None:
        ann.set_rules(STRICT)
        ann.dump(path)
        other.at("x").set_rules(REFUSING)
        there = other.at("x", "y")
        for conflict in ("skip", "new ids"):
            assert there.load(path, conflict=conflict).rules == 0  # type: ignore[arg-type]
            assert there.rules() == REFUSING
        assert there.load(path, conflict="replace").rules == 1
        assert (there.rules(), other.at("x").rules()) == (STRICT, REFUSING)
        assert there.load(path, conflict="replace").rules == 0

    def test_a_callers_archive_has_none(self, memos: MemOS, ann: View, path: Path) -> None:
        ann.set_rules(HIDING)
        bob = memos.at("acme", "ann", caller=Caller(user="bob"))
        assert bob.dump(path).rules == 0
        assert "rules" not in header(path)

    def test_without_rules_nothing_is_said_of_any(self, ann: View, path: Path) -> None:
        assert ann.dump(path).rules == 0
        assert "rules" not in header(path)

    @pytest.mark.parametrize(
        "rules",
        [
            5, {}, [5], [{}], [{"below": [], "rules": []}], [{"below": [""], "rules": {}}],
            [{"below": [], "rules": {}}] * 2,
            *([{"below": [], "rules": one}] for one in (
                {"smell": 1}, {"sensitive": 5}, {"sensitive": {"email": "smell"}},
                {"export": {"smell": "allow"}}, {"region": "nowhere"}, {"region": []},
                {"max_cubes": -1}, {"max_cubes": "5"}, {"max_cubes": True}, {"retention": 5},
                {"retention": {"idle": "x"}}, {"retention": {"smell": 1}},
                {"retention": {"floor": "x"}}, {"retention": {"floor": 0.5, "idle": 1e300}},
                {"retention": {"floor": 0.5, "idle": -1}}, {"retention": {"floor": 2}},
            )),
        ],
    )  # fmt: skip
    def test_what_is_none_is_refused(
        self, ann: View, path: Path, rules: object, tmp_path: Path
    ) -> None:
        ann.set_rules(HIDING)
        ann.dump(path)
        changed = header(path) | {"rules": rules}
        with pytest.raises(ArchiveInvalid, match=r"memos\.json"):
            ArchiveReader(with_header(path, changed, tmp_path / "hostile.memos"))

    def test_those_of_a_place_too_deep(
        self, memos: MemOS, ann: View, path: Path, tmp_path: Path, database: str
    ) -> None:
        ann.dump(path)
        deep = header(path) | {"rules": [{"below": ["x"] * 31, "rules": {"max_cubes": 5}}]}
        hostile = with_header(path, deep, tmp_path / "hostile.memos")
        before = everything_in(database)
        with pytest.raises(InvalidInput, match="at most 32 labels"):
            memos.at("other", "one").load(hostile)
        assert everything_in(database) == before


def header(path: Path) -> dict[str, Any]:
    return json.loads(unpacked(path)["memos.json"])


def with_header(path: Path, changed: dict[str, Any], to: Path) -> Path:
    members = unpacked(path) | {"memos.json": json.dumps(changed).encode()}
    return packed(to, relisted(members).items())


def test_of_those_that_are_brought_come_into_force_where_there_were_none() -> None:
    a, b = Namespace("a"), Namespace("a", "b")
    c = Namespace("a", "b", "c")
    assert nearest({a: 1, c: 2}, b) == 1
    assert nearest({b: 1}, a) is None
    assert enacted({a: STRICT, b: STRICT}, {}, replace=False) == {a: STRICT, b: STRICT}
    assert enacted({a: STRICT, c: HIDING}, {b: REFUSING}, replace=False) == {a: STRICT}
    assert enacted({a: STRICT, c: HIDING}, {b: REFUSING}, replace=True) == {
        a: STRICT,
        c: HIDING,
    }
    assert enacted({b: STRICT, c: REFUSING}, {a: REFUSING}, replace=True) == {
        b: STRICT,
        c: REFUSING,
    }, "what was in force from above is not, once there are others between"
    assert enacted({b: REFUSING}, {a: REFUSING}, replace=True) == {}


class TestThoseOfThePlace:
    def test_what_they_hide_is_hidden_everywhere(self, written: Path, other: MemOS) -> None:
        there = other.at("there")
        there.set_rules(HIDING)
        there.load(written)
        assert MAIL not in everything_in(other.engine._store._dsn)  # noqa: SLF001
        (hit,) = there.search("today", mode="lexical", k=1)
        assert hit.text == "Write to [email] today."
        assert hit.cube.metadata == {"to": ["[email]"]}
        assert hit.cube.governance.sensitivity == ("email",)
        assert there.history(hit.cube.id)[0].text == "Write to [email]."
        (message,) = there.messages()
        assert (message.content, message.metadata) == ("I am [email].", {"me": "[email]"})
        (exact,) = there.search("Write to [email] today.", mode="dense", k=1)
        assert exact.cube.id == hit.cube.id
        assert round(exact.score, 3) == 1, "its vector is that of what is left"
        (plain,) = there.search("Nothing private.", mode="dense", k=1)
        assert plain.cube.governance.sensitivity == ()

    def test_what_they_allow_is_marked(self, written: Path, other: MemOS) -> None:
        there = other.at("there")
        there.set_rules(Rules(sensitive={Sensitive.EMAIL: Action.ALLOW}))
        there.load(written)
        (hit,) = there.search("today", mode="lexical", k=1)
        assert (MAIL in hit.text, hit.cube.governance.sensitivity) == (True, ("email",))

    def test_what_is_found_is_said_of_all_that_was_made_of_it(
        self, ann: View, other: MemOS, path: Path
    ) -> None:
        one, two = ann.add([f"Write to {MAIL}.", "Nothing."], sensitivity=["private"])
        made = ann.derive("She has an address.", [one.id, two.id])
        further = ann.compose([made.id], "all of it")
        ann.dump(path)
        there = other.at("there")
        there.set_rules(HIDING)
        there.load(path)
        marks = {cube: there.get(cube).governance.sensitivity for cube in (one.id, two.id, made.id)}
        assert marks[one.id] == ("private", "email")
        assert marks[two.id] == ("private",)
        assert "email" in marks[made.id]
        (bundle,) = (hit.cube for hit in there.search("all of it") if "bundle" in hit.cube.metadata)
        assert bundle.id != further.id
        assert "email" in bundle.governance.sensitivity

    def test_what_they_refuse_is_not_loaded_and_that_is_logged(
        self, written: Path, other: MemOS
    ) -> None:
        there, dsn = other.at("there"), other.engine._store._dsn  # noqa: SLF001
        other.at("there", "below").set_rules(HIDING)
        there.set_rules(REFUSING)
        with pytest.raises(
            SensitiveText, match=r"cubes/000000\.jsonl, record 1 holds what the rules of there"
        ):
            there.load(written)
        assert there.stats().cubes == there.stats().messages == 0
        assert MAIL not in everything_in(dsn)
        (denied,) = there.events(kind="denied")
        assert denied.details == {"right": "write", "because": "sensitive", "kinds": ["email"]}

    def test_what_is_here_already_and_stays_is_not_refused(
        self, ann: View, memos: MemOS, path: Path
    ) -> None:
        ann.add(f"Write to {MAIL}.")
        ann.dump(path)
        ann.set_rules(REFUSING)
        assert ann.load(path).skipped == 1
        with pytest.raises(SensitiveText):
            ann.load(path, conflict="replace")
        assert memos.at("other").load(path).cubes == 1

    def test_the_nearest_hold(self, memos: MemOS, ann: View, other: MemOS, path: Path) -> None:
        memos.at("acme", "ann", "free").add(MAIL)
        ann.add(MAIL)
        ann.dump(path)
        other.at("there").set_rules(HIDING)
        other.at("there", "free").set_rules(Rules())
        other.at("there").load(path)
        assert {hit.text for hit in other.at("there").search(MAIL, mode="dense")} == {
            MAIL,
            "[email]",
        }

    @pytest.mark.parametrize("limit", ["max_cubes", "max_characters"])
    def test_no_more_than_they_allow(self, memos: MemOS, ann: View, path: Path, limit: str) -> None:
        cubes = ann.add(["one", "two"])
        memos.at("acme", "ann", "below").add("six")
        ann.dump(path)
        memos.at("full").set_rules(Rules(**{limit: 2 if limit == "max_cubes" else 8}))
        there = memos.at("full", "of")
        with pytest.raises(LimitExceeded, match=f"{limit} is .* 0 and this is .* in full"):
            there.load(path)
        assert there.stats().cubes == 0
        (denied,) = there.events(kind="denied")
        assert denied.details["because"] == "limit"
        memos.at("full").set_rules(Rules(**{limit: 3 if limit == "max_cubes" else 9}))
        assert there.load(path).cubes == 3
        assert there.load(path).skipped == 3, "nothing more is nothing too much"
        assert there.load(path, conflict="replace").replaced == 3
        there.forget(cubes[0].id)
        assert there.load(path).cubes == 1

    def test_a_load_is_one_write(self, memos: MemOS, ann: View, path: Path) -> None:
        ann.add(["one", "two", "three"])
        ann.dump(path)
        there = memos.at("slow")
        there.set_rules(Rules(writes_per_minute=2))  # and this was one
        assert there.load(path).cubes == 3
        with pytest.raises(LimitExceeded, match="writes_per_minute is 2"):
            there.load(path, conflict="new ids")

    def test_who_writes_by_the_same_limits_waits_for_it(
        self, ann: View, database: str, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cube = ann.add("one")
        ann.dump(path)
        ann.set_rules(Rules(max_cubes=1))
        real = loading.deciding.fates
        writing = threading.Thread(target=ann.update, args=(cube.id, "two"))

        def while_written(at: Any) -> Any:
            writing.start()
            until(lambda: is_blocked(database), seconds=20)
            return real(at)

        monkeypatch.setattr(loading.deciding, "fates", while_written)
        assert ann.load(path, conflict="replace").replaced == 1
        writing.join()
        assert [one.text for one in ann.history(cube.id)] == ["one", "two"]

    def test_rules_that_change_meanwhile_hold(
        self, written: Path, other: MemOS, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there = other.at("there")
        seen: list[tuple[int, int]] = []

        def report(done: int, everything: int) -> None:
            seen.append((done, everything))
            if len(seen) == 2:  # a part lies here already
                there.set_rules(HIDING)

        there.load(written, report=report)
        assert sum(done == 0 for done, _ in seen) == 2, "put aside anew"
        assert MAIL not in everything_in(other.engine._store._dsn)  # noqa: SLF001

        def change(done: int, _everything: int) -> None:
            if done == 0:
                there.set_rules(Rules(max_cubes=len(seen)))
                seen.append((0, 0))

        monkeypatch.setattr(loading, "_ATTEMPTS", 2)
        with pytest.raises(RulesChanged, match="try again"):
            there.load(written, conflict="new ids", report=change)
        with psycopg.connect(other.engine._store._dsn) as connection:  # noqa: SLF001
            assert connection.execute("SELECT count(*) FROM memos.staged_part").fetchone() == (0,)

    def test_rules_that_come_at_its_end_hold_and_stay(
        self, ann: View, memos: MemOS, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ann.set_rules(STRICT)
        ann.add(MAIL)
        ann.dump(path)
        there, real = memos.at("there"), loading.loading.grants

        def late(at: Any) -> Any:
            if there.rules() != HIDING:
                there.set_rules(HIDING)  # others do, while all is stored
            return real(at)

        monkeypatch.setattr(loading.loading, "grants", late)
        done = there.load(path)
        assert (done.cubes, done.rules, there.rules()) == (1, 0, HIDING)
        assert [hit.text for hit in there.search(MAIL)] == ["[email]"]

    def test_what_other_rules_put_aside_is_not_taken(self, written: Path, other: MemOS) -> None:
        there = other.at("there")

        def stop(done: int, everything: int) -> None:
            if done == everything:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            there.load(written, report=stop)
        there.set_rules(HIDING)
        there.load(written)
        texts = {hit.text for hit in there.search("Write", mode="lexical", k=9)}
        assert texts
        assert not any(MAIL in text for text in texts)

    def test_without_any_nothing_is_asked_of_limits(
        self, written: Path, other: MemOS, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(statements, "lock", None)
        monkeypatch.setattr(statements, "used", None)
        assert other.at("there").load(written).cubes == 4
