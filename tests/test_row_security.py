"""The second wall: what a statement of ours that forgot its tenant cannot read, change, or make."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from memos_core import (
    CacheRecord,
    Caller,
    CubeNotFound,
    InvalidInput,
    MemOS,
    Namespace,
    PutItem,
    Settings,
    StoreError,
    View,
)
from memos_core.store.migrate import APP_ROLE
from memos_core.store.statement import Row, Statement, Tenant
from memos_core.store.statements.scope import INSIDE, Scope
from tests.support import WordEmbedder

OWNER = "memos_owner"
TENANTS = ("acme", "other", "*", "'; --", "*" * 1021)
OPEN_TO_ALL = {"publication"}  # what every tenant may read is not walled in
UNWALLED = {"setting", "migration"}  # what is of no tenant


@pytest.fixture(params=["embedded", "owner"])
def dsn(request: pytest.FixtureRequest, new_database: Callable[[], str]) -> str:
    """A new database: of a superuser who takes on a role, or of one who owns it and is no more."""
    made = new_database()
    with psycopg.connect(made, autocommit=True) as admin:
        if request.param == "embedded":
            if not _exists(admin, APP_ROLE):
                pytest.skip("this server is none of ours: its superuser has no role to take on")
            return made
        admin.execute("CREATE EXTENSION vector")
        if not _exists(admin, OWNER):
            admin.execute(f"CREATE ROLE {OWNER} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD '{OWNER}'")
        admin.execute(f"ALTER DATABASE {conninfo_to_dict(made)['dbname']} OWNER TO {OWNER}")
    return make_conninfo(made, user=OWNER, password=OWNER)


def _exists(admin: psycopg.Connection[Any], role: str) -> bool:
    return bool(admin.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).rowcount)


@pytest.fixture
def walled(dsn: str) -> Iterator[MemOS]:
    """A memory behind the wall, in which each tenant has something of everything."""
    settings = Settings(pool_size=4, pool_timeout=60)
    with MemOS.open(dsn, embedder=WordEmbedder(), settings=settings) as memos:
        for tenant in TENANTS:
            view = memos.at(tenant, "ann")
            kept, _ = view.add(["tea", "cake"], tags=["food"])
            view.update(kept.id, "green tea")
            view.ingest([{"id": "m", "role": "user", "name": "Ann", "content": f"I am {tenant}"}])
            view.compose([kept.id], name="meal")
            view.keep_cache(
                CacheRecord(
                    members=(kept.id,), fingerprint={"key": "k"}, keys=(tenant,), tokens=(1,)
                )
            )
            view.grant(user="bob")
            view.batch_items(
                [PutItem(namespace=(), key="k", value={}, texts=lambda _: ["tea", "cake"])]
            )
            view.build_index()
            view.add("late")
        yield memos


def run(memos: MemOS, sql: LiteralString, **parameters: object) -> list[Any]:
    """Run what has no conditions of its own, as a verb would be run."""
    return memos.engine.run(Statement(sql=sql, parameters=parameters, read=_values))


def _values(rows: Sequence[Row]) -> list[Any]:
    return [next(iter(row.values())) for row in rows]


def tables(memos: MemOS) -> list[str]:
    """Return the tables with rows of tenants."""
    found = run(
        memos,
        """
        SELECT relname::text FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE relnamespace = 'memos'::regnamespace AND relkind IN ('r', 'p')
            AND NOT relispartition AND attname = 'tenant' AND relname !~ '^staged_'
        """,
    )
    return sorted(set(found) - OPEN_TO_ALL)


def bare(memos: MemOS, sql: str, **parameters: object) -> list[Any]:
    """As ``run``, for SQL that a test puts together."""
    return run(memos, sql, **parameters)  # type: ignore[arg-type]


def test_every_table_of_tenants_is_walled_in(walled: MemOS) -> None:
    rows = run(
        walled,
        """
        SELECT relname::text FROM pg_class
        WHERE relnamespace = 'memos'::regnamespace AND relkind IN ('r', 'p')
            AND NOT relispartition AND NOT (relrowsecurity AND relforcerowsecurity)
        """,
    )
    assert {name for name in rows if not name.startswith("staged_")} == UNWALLED


def test_without_a_tenant_there_is_nothing(walled: MemOS) -> None:
    for name in tables(walled):
        if name == "event" and not _takes_on_a_role(walled):
            continue  # read by its owner: see decision 0012
        assert bare(walled, f"SELECT count(*) FROM memos.{name}") == [0], name


def _takes_on_a_role(memos: MemOS) -> bool:
    return run(memos, "SELECT current_user::text") == [APP_ROLE]


def test_with_a_tenant_there_are_his_rows_alone(walled: MemOS) -> None:
    names = tables(walled)
    filled = set[str]()
    for name in names:
        for tenant in TENANTS:
            sql = f"SELECT DISTINCT tenant FROM memos.{name} WHERE %(tenant)s <> ''"
            seen = bare(walled, sql, tenant=Tenant(tenant))
            if name == "event" and not _takes_on_a_role(walled):
                continue
            assert seen in ([tenant], []), name
            filled |= {name} if seen else set()
    empty = set(names) - filled
    assert empty <= {"activation", "delivery", "event", "reembedding", "rules", "subscription"}


def test_a_broken_statement_changes_nothing_of_others(walled: MemOS) -> None:
    acme = Tenant("acme")
    update = "UPDATE memos.cube SET text = 'mine' WHERE %(tenant)s <> '' RETURNING tenant"
    assert set(run(walled, update, tenant=acme)) == {"acme"}
    delete = "DELETE FROM memos.cube_version WHERE %(tenant)s <> '' RETURNING tenant"
    assert set(run(walled, delete, tenant=acme)) == {"acme"}
    assert run(walled, "UPDATE memos.cube SET text = 'ours' RETURNING tenant") == []
    assert run(walled, "DELETE FROM memos.message RETURNING tenant") == []
    for tenant in TENANTS[1:]:
        view = walled.at(tenant, "ann")
        assert {hit.text for hit in view.search("tea cake late")} >= {"green tea", "cake", "late"}
        assert len(view.messages()) == 1
        found = [hit.cube for hit in view.search("tea") if hit.text == "green tea"]
        assert len(view.history(found[0].id)) == 2


def test_a_broken_statement_makes_nothing_for_others(walled: MemOS) -> None:
    log = """
        INSERT INTO memos.event (tenant, at, kind, namespace, cube_ids, details)
        SELECT 'other', now(), 'added', '{other}', '{}', '{}' WHERE %(tenant)s <> ''
        RETURNING id
        """
    with pytest.raises(StoreError, match="row-level security"):
        run(walled, log, tenant=Tenant("acme"))
    copied = """
        INSERT INTO memos.source (tenant, cube, source, source_version)
        SELECT 'other', gen_random_uuid(), gen_random_uuid(), 1 WHERE %(tenant)s <> ''
        RETURNING cube
        """
    with pytest.raises(StoreError, match="row-level security"):
        run(walled, copied, tenant=Tenant("acme"))
    moved = "UPDATE memos.message SET tenant = 'other' WHERE tenant = %(tenant)s RETURNING id"
    with pytest.raises(StoreError, match="row-level security"):
        run(walled, moved, tenant=Tenant("acme"))
    assert run(walled, log, tenant=Tenant("other")), "but for its own"


def test_a_reading_statement_that_forgot_its_caller(walled: MemOS) -> None:
    """Raw SQL of a statement that reads for a caller gives what he may read, and no more."""
    acme = walled.at("acme")
    hers = walled.at("acme", "shared", caller=Caller(user="ann"))
    secret, shown = hers.add(["a secret", "a recipe"], tags=["mine"])
    hers.update(secret.id, "a better secret")
    hers.ingest([{"id": "s", "role": "user", "content": "said in secret"}])
    hers.grant(user="cem", cube=shown.id)
    hers.grant(role="cook", tag="mine", condition={"place": "kitchen"})
    all_texts: LiteralString = """
        SELECT text FROM memos.cube WHERE namespace[2] = 'shared' AND %(tenant)s <> ''
        UNION SELECT text FROM memos.cube_version WHERE namespace[2] = 'shared'
        UNION SELECT content FROM memos.message WHERE namespace[2] = 'shared'
        """
    asked: LiteralString = all_texts + " AND %(caller)s <> ''"

    def seen(caller: Caller | None, sql: LiteralString = asked) -> set[str]:
        scope = Scope(namespace=Namespace("acme", "shared"), caller=caller)
        return set(walled.engine.run(Statement(sql=sql, parameters=scope.reading(), read=_values)))

    old, new, said = "a secret", "a better secret", "said in secret"
    assert seen(None, all_texts) >= {old, new, said, "a recipe"}, "the application reads all"
    assert seen(Caller(user="ann")) >= {old, new, said, "a recipe"}
    assert seen(Caller(user="bob")) == set()
    assert seen(Caller(user="cem")) == {"a recipe"}
    cook = Caller(user="dan", roles=["cook"], context={"place": "kitchen"})
    assert seen(cook) == {old, new, "a recipe"}
    assert seen(Caller(user="dan", roles=["cook"])) == set()
    assert seen(Caller(user="ann"), all_texts) == set(), "who asks is not said, so nobody is"
    with walled.pipeline() as pipeline:
        pipeline.at("acme", "shared", caller=Caller(user="bob")).search("secret")
        assert len(pipeline.at("acme", "shared").search("secret")) == 3, "not for bob any more"
    assert len(acme.search("secret recipe")) >= 3


def test_nobody_changes_the_log(walled: MemOS) -> None:
    before = walled.at("acme").events(limit=1000)
    for sql in (
        "UPDATE memos.event SET kind = '' WHERE tenant = %(tenant)s RETURNING id",
        "DELETE FROM memos.event WHERE tenant = %(tenant)s RETURNING id",
    ):
        if _takes_on_a_role(walled):
            with pytest.raises(StoreError, match="permission denied"):
                bare(walled, sql, tenant=Tenant("acme"))
        else:
            assert bare(walled, sql, tenant=Tenant("acme")) == []
    assert walled.at("acme").events(limit=1000) == before


def test_a_tenant_ends_with_its_transaction(walled: MemOS) -> None:
    """As behind a pooler, which gives the connection to somebody else then."""
    setting: LiteralString = "SELECT coalesce(current_setting('memos.tenant', true), '')"
    assert run(walled, setting + " WHERE %(tenant)s <> ''", tenant=Tenant("acme")) == ["acme"]
    assert run(walled, setting) == [""]
    with pytest.raises(InvalidInput, match="division"):
        run(walled, "SELECT 1 / 0 WHERE %(tenant)s <> ''", tenant=Tenant("acme"))
    assert run(walled, setting) == [""]
    with pytest.raises(ZeroDivisionError), walled.engine.transaction() as transaction:
        transaction.run(Statement(sql=setting, parameters={}, read=_values))
        scope = Scope(namespace=Namespace("acme"))
        inside: LiteralString = "SELECT count(*) FROM memos.cube WHERE " + INSIDE
        counted = Statement(sql=inside, parameters=scope.parameters(), read=_values)
        assert transaction.run(counted) != [0]
        raise ZeroDivisionError
    assert run(walled, setting) == [""]
    with walled.pipeline() as pipeline:
        for tenant in TENANTS:
            pipeline.at(tenant, "ann").add("piped")
            assert "piped" in {hit.text for hit in pipeline.at(tenant).search("piped")}
            assert pipeline.at(tenant, "bob").search("piped") == []
    for _ in range(8):
        assert run(walled, setting) == [""]


def test_all_tenants_are_no_tenant(walled: MemOS) -> None:
    """The value that means all of them is no label."""
    every = run(walled, "SELECT memos.every_tenant()")[0]
    with pytest.raises(Exception, match="1024 bytes"):
        walled.at(every)
    assert walled.at("*").search("tea")[0].cube.namespace.tenant == "*"


def test_what_reaches_every_tenant_does(dsn: str, walled: MemOS) -> None:
    walled.close()
    other = WordEmbedder(name="other", width=32)
    assert MemOS.reembed(dsn, embedder=other) >= 5 * len(TENANTS)
    with MemOS.open(dsn, embedder=other) as memos:
        for tenant in TENANTS:
            assert memos.at(tenant, "ann").stats().indexed is None, "indexes are dropped"
            assert memos.at(tenant, "ann").search("green tea", k=1)[0].text == "green tea"


def test_threads_share_connections_and_nothing_else(walled: MemOS) -> None:
    """16 threads, 4 connections: each verb of each thread is another tenant's and caller's."""

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for number in range(12):
            tenant, user = rng.choice(TENANTS), rng.choice([None, "ann", "bob"])
            caller = None if user is None else Caller(user=user)
            view = walled.at(tenant, "all", caller=caller)
            word = f"w{seed}x{number}"
            cube = view.add(f"{word} {tenant}")
            assert view.get(cube.id).namespace.tenant == tenant
            _look_around(walled, view, tenant, user)
            view.update(cube.id, f"{word} {tenant} again")
            view.ingest([f"{word} said to {tenant}"], session=word)
            assert len(view.history(cube.id)) == 2
            stranger = walled.at(rng.choice([t for t in TENANTS if t != tenant]), "all")
            with pytest.raises(CubeNotFound):
                stranger.get(cube.id)
            if number % 3 == 0:
                assert view.forget(cube.id).cubes == (cube.id,)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))


def _look_around(memos: MemOS, view: View, tenant: str, user: str | None) -> None:
    hits = view.search("w0 again said", k=100)
    assert {hit.cube.namespace.tenant for hit in hits} <= {tenant}
    owners = {hit.cube.governance.owner for hit in hits}
    assert user is None or owners <= {user, None}
    assert {event.namespace.tenant for event in view.events()} <= {tenant}
    sql: LiteralString = "SELECT DISTINCT tenant FROM memos.cube WHERE %(tenant)s <> ''"
    assert set(run(memos, sql, tenant=Tenant(tenant))) == {tenant}


def test_the_wall_can_be_taken_down(dsn: str, walled: MemOS) -> None:
    walled.close()
    settings = Settings(row_security=False)
    with MemOS.open(dsn, embedder=WordEmbedder(), settings=settings) as memos:
        sql: LiteralString = "SELECT DISTINCT tenant FROM memos.cube WHERE %(tenant)s <> ''"
        assert set(run(memos, sql, tenant=Tenant("acme"))) == set(TENANTS)
        assert memos.at("acme", "ann").search("tea")[0].cube.namespace.tenant == "acme"


def test_a_role_that_walls_do_not_hold_is_told(
    dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memos_core.store.migrate.APP_ROLE", "memos_nobody")
    with caplog.at_level(logging.INFO, "memos_core"):
        MemOS.open(dsn, embedder=WordEmbedder()).close()
    told = "no second wall" in caplog.text
    assert told is (f"user={OWNER}" not in dsn)


PATHS = [
    ("a",),
    ("a", "b"),
    ("a", "b\x01"),
    ("a", "b\x01c"),
    ("a", "b\x02"),
    ("a", "b\x02\x02"),
    ("a", "b\x02\x03"),
    ("a", "b", "\x01"),
    ("a", "b", "\x02"),
    ("a\x01", "b"),
    ("a\x01b",),
    ("ab",),
    ("a", "\U0010ffff"),
    ("москва", "東京"),
]


def test_trails_are_the_same_here_and_there(walled: MemOS) -> None:
    for path in PATHS:
        namespace = Namespace(*path)
        sql: LiteralString = "SELECT memos.trail(%(namespace)s::text[])"
        assert run(walled, sql, namespace=list(path)) == [namespace.trail]
    assert len({Namespace(*path).trail for path in PATHS}) == len(PATHS)


def test_a_range_of_trails_is_a_path_and_what_is_below_it() -> None:
    for path in PATHS:
        above = Namespace(*path)
        inside = {
            other
            for other in PATHS
            if above.trail.encode() <= Namespace(*other).trail.encode() < above.past.encode()
        }
        assert inside == {other for other in PATHS if other[: len(path)] == path}
