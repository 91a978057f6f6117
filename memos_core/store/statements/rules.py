"""Statements about what is allowed in a namespace, and how much of it was used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import LiteralString

from memos_core.namespace import Namespace
from memos_core.rules import Ruled, Rules
from memos_core.store.statement import Row, Statement, ignored
from memos_core.store.statements.scope import INSIDE, Scope

# To be asked in every statement that writes what rules were applied to.
IN_FORCE: LiteralString = (
    "memos.ruled_by(%(tenant)s, %(namespace)s::text[], %(rules_version)s::bigint)"
)
_RULED: LiteralString = """
    SELECT namespace, rules, version FROM memos.rules
    WHERE tenant = %(tenant)s
        AND namespace = (%(namespace)s::text[])[:cardinality(namespace)]
    ORDER BY cardinality(namespace) DESC LIMIT 1
    """


_AROUND: LiteralString = """
    SELECT namespace, rules, version FROM memos.rules
    WHERE tenant = %(tenant)s AND (
        namespace = (%(namespace)s::text[])[:cardinality(namespace)]
        OR namespace[:cardinality(%(namespace)s::text[])] = %(namespace)s::text[]
    )
    """


def in_force(scope: Scope) -> Statement[Ruled]:
    """Read the rules in force in a namespace: the nearest."""
    return Statement(
        sql=_RULED,
        parameters=scope.parameters(),
        read=lambda rows: _ruled(rows[0]) if rows else Ruled(),
    )


def around(scope: Scope) -> Statement[dict[Namespace, Ruled]]:
    """Read the rules of a namespace, of all below it and of all above it."""
    return Statement(
        sql=_AROUND,
        parameters=scope.parameters(),
        read=lambda rows: {Namespace(*row["namespace"]): _ruled(row) for row in rows},
    )


def _ruled(row: Row) -> Ruled:
    return Ruled(
        rules=Rules.from_json(row["rules"]),
        namespace=Namespace(*row["namespace"]),
        version=row["version"],
    )


_SET: LiteralString = """
    WITH ruled AS (
        INSERT INTO memos.rules (tenant, namespace, after, rules)
        VALUES (%(tenant)s, %(namespace)s::text[], %(after)s::text[], %(rules)s::jsonb)
        ON CONFLICT (tenant, namespace) DO UPDATE SET
            rules = excluded.rules, version = nextval('memos.rules_version')
        RETURNING version
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'ruled', %(namespace)s::text[], %(caller)s::jsonb, '{}',
            %(rules)s::jsonb
        FROM ruled
    )
    SELECT version FROM ruled
    """
_CLEAR: LiteralString = """
    WITH gone AS (
        DELETE FROM memos.rules
        WHERE tenant = %(tenant)s AND namespace = %(namespace)s::text[]
        RETURNING version
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'ruled', %(namespace)s::text[], %(caller)s::jsonb, '{}', '{}'
        FROM gone
    )
    SELECT version FROM gone
    """


def establish(scope: Scope, rules: Rules) -> Statement[None]:
    """Put rules in force at a path, in place of its own earlier ones."""
    return Statement(
        sql=_SET, parameters=scope.parameters(rules=json.dumps(rules.as_json())), read=ignored
    )


def abolish(scope: Scope) -> Statement[None]:
    """Take back a path's own rules; those above it are in force there then."""
    return Statement(sql=_CLEAR, parameters=scope.parameters(), read=ignored)


# Before the count, in a statement of its own: what others wrote until then has to be counted.
_LOCK: LiteralString = """
    SELECT pg_advisory_xact_lock(hashtextextended(
        'memos.rules/' || array_to_string(%(namespace)s::text[], '/'), 0
    ))
    """


def lock(scope: Scope) -> Statement[None]:
    """Keep other writers under the same rules out until the transaction ends."""
    return Statement(sql=_LOCK, parameters=scope.parameters(), read=ignored)


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """How much there is under rules, and what was done there in the last minute."""

    cubes: int
    characters: int
    writes: int
    reads: int


_USED: LiteralString = (
    """
    SELECT
        (SELECT count(*) FROM memos.cube WHERE %(count)s AND """
    + INSIDE
    + ") AS cubes, (SELECT coalesce(sum(length(text)), 0) FROM memos.cube WHERE %(measure)s AND "
    + INSIDE
    + """) AS characters,
        coalesce(sum(greatest(cardinality(cube_ids), 1)) FILTER (
            WHERE kind NOT IN ('read', 'searched', 'denied')
        ), 0)::bigint AS writes,
        count(*) FILTER (WHERE kind IN ('read', 'searched')) AS reads
    FROM memos.event WHERE %(rate)s AND at > now() - interval '1 minute' AND """
    + INSIDE
)


def used(scope: Scope, rules: Rules) -> Statement[Used]:
    """Count what ``rules`` limit; the rest is 0."""
    return Statement(
        sql=_USED,
        parameters=scope.parameters(
            count=rules.max_cubes is not None,
            measure=rules.max_characters is not None,
            rate=rules.writes_per_minute is not None or rules.reads_per_minute is not None,
        ),
        read=lambda rows: Used(**rows[0]),
    )
