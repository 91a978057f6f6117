"""Statements about who may do what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from memos_core.governance import Grant, Right
from memos_core.namespace import Namespace
from memos_core.store.statement import Row, Statement
from memos_core.store.statements.permission import (
    MAY_GRANT_DERIVE,
    MAY_GRANT_READ,
    MAY_GRANT_WRITE,
    MAY_READ,
    MAY_SHARE,
    STANDS,
)
from memos_core.store.statements.scope import INSIDE, Scope


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """For whom grants are, and about what; all None is everyone, and everything in the view."""

    cube: UUID | None
    tag: str | None
    user: str | None
    role: str | None


# What the log says of a grant.
_TOLD: LiteralString = """
    array_remove(ARRAY[cube], NULL),
    jsonb_strip_nulls(jsonb_build_object(
        'rights', rights, 'user', to_user, 'role', to_role, 'tag', tag, 'grant', id
    ))
    """
# A grant takes the place of an earlier one to the same about the same.
_GRANTED: LiteralString = (
    """, replaced AS (
        DELETE FROM memos.permission USING allowed
        WHERE permission.tenant = %(tenant)s AND permission.namespace = allowed.namespace
            AND (permission.cube, permission.tag, permission.holder, to_user, to_role, granted_by)
                IS NOT DISTINCT FROM (
                    %(cube)s::uuid, %(tag)s::text, allowed.holder, %(to_user)s::text,
                    %(to_role)s::text, %(user)s::text
                )
            AND condition = %(condition)s::jsonb
    ), granted AS (
        INSERT INTO memos.permission (
            tenant, id, namespace, cube, tag, holder, to_user, to_role, rights, condition,
            expires_at, granted_by, granted_at
        )
        SELECT
            %(tenant)s, %(id)s, namespace, %(cube)s, %(tag)s, holder, %(to_user)s, %(to_role)s,
            %(rights)s::text[], %(condition)s::jsonb,
            coalesce(%(until)s, now() + make_interval(secs => %(ttl)s)), %(user)s, now()
        FROM allowed
        RETURNING *
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            tenant, now(), 'granted', namespace, %(caller)s::jsonb, """
    + _TOLD
    + """
        FROM granted
    )
    """
)
# With a cube a caller grants what he may do himself, where he may share it.
_GRANT_CUBE: LiteralString = (
    "WITH there AS (SELECT namespace, NULL::text AS holder, "
    + MAY_SHARE
    + " AND ('read' <> ALL(%(rights)s::text[]) OR "
    + MAY_GRANT_READ
    + ") AND ('write' <> ALL(%(rights)s::text[]) OR "
    + MAY_GRANT_WRITE
    + ") AND ('derive' <> ALL(%(rights)s::text[]) OR "
    + MAY_GRANT_DERIVE
    + ") AS may_grant FROM memos.cube WHERE id = %(cube)s AND "
    + INSIDE
    + " AND (expires_at IS NULL OR expires_at > now()) AND "
    + MAY_READ
    + " AND "
    + STANDS
    + "), allowed AS (SELECT namespace, holder FROM there WHERE may_grant)"
    + _GRANTED
    + """SELECT granted.*, there.may_grant FROM there LEFT JOIN granted ON true"""
)
# With a tag or a place he grants what he may share and do there, and else what is his own there.
_GRANT_PLACE: LiteralString = (
    """
    WITH allowed AS (
        SELECT
            %(namespace)s::text[] COLLATE "C" AS namespace,
            CASE WHEN NOT bool_and(EXISTS (
                SELECT FROM unnest(memos.lasting_places(%(tenant)s, %(caller)s::jsonb, needed))
                WHERE holder_of IS NULL AND (label IS NULL OR label = %(tag)s)
                    AND path = (%(namespace)s::text[])[:cardinality(path)]
            )) THEN %(user)s::text END AS holder
        FROM unnest(%(rights)s::text[] || 'share'::text) AS needed
    )"""
    + _GRANTED
    + "SELECT granted.*, true AS may_grant FROM granted"
)


def grant(
    scope: Scope,
    id: UUID,
    target: Target,
    rights: Sequence[Right],
    *,
    condition: Mapping[str, object],
    until: datetime | None,
    ttl: float | None,
) -> Statement[tuple[bool, Grant | None]]:
    """Grant rights: whether there is something to grant, and what was granted, None if denied."""
    return Statement(
        sql=_GRANT_PLACE if target.cube is None else _GRANT_CUBE,
        parameters=scope.parameters(
            id=id,
            **_who(target),
            rights=list(rights),
            condition=json.dumps(dict(condition), ensure_ascii=False),
            until=until,
            ttl=ttl,
        ),
        read=lambda rows: (bool(rows), _grant(rows[0]) if rows and rows[0]["may_grant"] else None),
    )


def _who(target: Target) -> dict[str, object]:
    fields = asdict(target)
    return {"to_user": fields.pop("user"), "to_role": fields.pop("role"), **fields}


_ABOUT_HIS: LiteralString = """cube IN (
        SELECT id FROM memos.cube WHERE cube.tenant = %(tenant)s AND owner = %(user)s
        UNION ALL
        SELECT id FROM memos.cube_version
        WHERE cube_version.tenant = %(tenant)s AND owner = %(user)s AND state = 'expired'
    )"""
# Who gave a grant may take it, and so may the owner of its cube.
_MAY_REVOKE: LiteralString = (
    " AND (%(user)s::text IS NULL OR granted_by = %(user)s::text OR " + _ABOUT_HIS + ")"
)
_REVOKED: LiteralString = (
    """
    ), revoked AS MATERIALIZED (
        SELECT gone.* FROM memos.revoke(
            %(tenant)s, ARRAY(SELECT id FROM wanted)
        ) AS gone
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            tenant, now(), 'revoked', namespace, %(caller)s::jsonb, """
    + _TOLD
    + """
        FROM revoked
    )
    SELECT * FROM revoked ORDER BY id
    """
)
_REVOKE_ONE: LiteralString = (
    "WITH wanted AS (SELECT id FROM memos.permission WHERE id = %(id)s AND "
    + INSIDE
    + _MAY_REVOKE
    + _REVOKED
)
_REVOKE: LiteralString = (
    """
    WITH wanted AS (
        SELECT id FROM memos.permission
        WHERE (cube, tag, to_user, to_role) IS NOT DISTINCT FROM (
            %(cube)s::uuid, %(tag)s::text, %(to_user)s::text, %(to_role)s::text
        ) AND (%(rights)s::text[] IS NULL OR rights && %(rights)s::text[]) AND """
    + INSIDE
    + _MAY_REVOKE
    + _REVOKED
)


def revoke_one(scope: Scope, grant: UUID) -> Statement[list[Grant]]:
    """Take back a grant; read it, or nothing where the caller may not or there is none."""
    return Statement(sql=_REVOKE_ONE, parameters=scope.parameters(id=grant), read=_grants)


def revoke(scope: Scope, target: Target, rights: Sequence[Right] | None) -> Statement[list[Grant]]:
    """Take back every grant to somebody about something with one of the rights; read them."""
    return Statement(
        sql=_REVOKE,
        parameters=scope.parameters(
            **_who(target), rights=None if rights is None else list(rights)
        ),
        read=_grants,
    )


# A caller sees the grants that he gave, that are for him, and that are about what is his.
MAY_SEE: LiteralString = (
    """(
        %(user)s::text IS NULL OR granted_by = %(user)s::text OR to_user = %(user)s::text
        OR to_user IS NULL AND (to_role IS NULL OR %(caller)s::jsonb -> 'roles' ? to_role)
        OR """
    + _ABOUT_HIS
    + ")"
)
_LIST: LiteralString = (
    "SELECT * FROM memos.permission WHERE (expires_at IS NULL OR expires_at > now()) AND "
    + INSIDE
    + " AND "
    + MAY_SEE
    + " ORDER BY granted_at, id LIMIT %(limit)s OFFSET %(offset)s"
)


def granted(scope: Scope, *, limit: int, offset: int) -> Statement[list[Grant]]:
    """Read the grants in force that the caller gave, that are for him, or about what is his."""
    return Statement(
        sql=_LIST, parameters=scope.parameters(limit=limit, offset=offset), read=_grants
    )


def _grants(rows: Sequence[Row]) -> list[Grant]:
    return [_grant(row) for row in rows]


def _grant(row: Row) -> Grant:
    return Grant(namespace=Namespace(*row["namespace"]), **fields_of(row))


def fields_of(row: Row) -> dict[str, Any]:
    """Return what a row says of a grant but where it holds."""
    return {
        "id": row["id"],
        "cube": row["cube"],
        "tag": row["tag"],
        "owner": row["holder"],
        "user": row["to_user"],
        "role": row["to_role"],
        "rights": tuple(map(Right, row["rights"])),
        "condition": row["condition"],
        "expires_at": row["expires_at"],
        "granted_by": row["granted_by"],
        "granted_at": row["granted_at"],
    }
