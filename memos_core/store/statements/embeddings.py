"""Statements about which model made the vectors, and about replacing them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from memos_core.embedder import Model, Vectors
from memos_core.store.arrays import HalfVectors
from memos_core.store.statement import Row, Statement, ignored


def _model(rows: Sequence[Row]) -> Model | None:
    for row in rows:
        return Model(**row["value"])
    return None


_STORED: LiteralString = "SELECT value FROM memos.setting WHERE key = 'embedder'"
_CLAIM: LiteralString = """
    WITH claimed AS (
        INSERT INTO memos.setting (key, value) VALUES ('embedder', %(model)s::jsonb)
        ON CONFLICT (key) DO UPDATE SET value = setting.value
        RETURNING value
    )
    SELECT value FROM claimed
    """


def stored() -> Statement[Model | None]:
    """Read which model made this database's vectors, None where it has none yet."""
    return Statement(sql=_STORED, parameters={}, read=_model)


def claim(model: Model) -> Statement[Model | None]:
    """Write down ``model`` as the database's where it has none; read which one it has now."""
    return Statement(sql=_CLAIM, parameters={"model": model.as_json()}, read=_model)


# --- replacing every vector ----------------------------------------------------------------------

_EVERY: LiteralString = """
    SELECT tenant, id, version, text, recorded_at FROM memos.cube
    UNION ALL
    SELECT tenant, id, version, text, recorded_at FROM memos.cube_version
    """
# In the order of the primary keys, so that each batch begins where the last one ended.
_MISSING: LiteralString = (
    "SELECT tenant, id, version, text FROM ("
    + _EVERY
    + """) AS every
    WHERE (%(tenant)s::text IS NULL OR (tenant, id, version)
            > (%(tenant)s::text COLLATE "C", %(id)s::uuid, %(version)s::integer))
        AND (%(until)s::timestamptz IS NULL OR recorded_at <= %(until)s::timestamptz)
        AND NOT EXISTS (
            SELECT FROM memos.reembedding AS done
            WHERE (done.tenant, done.id, done.version) = (every.tenant, every.id, every.version)
                AND model = %(model)s::jsonb
        )
    ORDER BY tenant, id, version
    LIMIT %(limit)s
    """
)
_PROGRESS: LiteralString = (
    """
    SELECT
        count(*) AS every,
        (SELECT count(*) FROM memos.reembedding WHERE model = %(model)s::jsonb) AS done
    FROM ("""
    + _EVERY
    + ") AS every"
)
_COUNT: LiteralString = "SELECT count(*) AS every FROM (" + _EVERY + ") AS every"
_LOCK: LiteralString = "SELECT memos.lock_against_writers()"


def lock() -> Statement[None]:
    """Make every writer wait until the transaction ends; readers go on."""
    return Statement(sql=_LOCK, parameters={}, read=ignored, every_tenant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """One version of one cube whose vector is to be made."""

    tenant: str
    id: UUID
    version: int
    text: str


def moment() -> Statement[datetime]:
    """Read the server's clock."""
    return Statement(sql="SELECT now() AS now", parameters={}, read=lambda rows: rows[0]["now"])


def missing(
    model: Model, *, after: Text | None, until: datetime | None, limit: int
) -> Statement[list[Text]]:
    """Read texts ``after`` the last one that have no vector of ``model``, old versions too.

    With ``until``, only those written by then: writers that never rest would give no end of them.
    """
    return Statement(
        sql=_MISSING,
        parameters={
            "model": model.as_json(),
            "until": until,
            "limit": limit,
            "tenant": after and after.tenant,
            "id": after and after.id,
            "version": after and after.version,
        },
        read=lambda rows: [Text(**row) for row in rows],
        every_tenant=True,
    )


def progress(model: Model) -> Statement[tuple[int, int]]:
    """Count the versions that have their new vector, and all versions."""
    return Statement(
        sql=_PROGRESS,
        parameters={"model": model.as_json()},
        read=lambda rows: (rows[0]["done"], rows[0]["every"]),
        every_tenant=True,
    )


def count() -> Statement[int]:
    """Count all versions of all cubes."""
    return Statement(
        sql=_COUNT,
        parameters={},
        read=lambda rows: int(rows[0]["every"]),
        every_tenant=True,
    )


# The lock makes a `forget` at work elsewhere wait for this, or this for it: no vector of a
# forgotten text stays behind.
_KEEP: LiteralString = """
    WITH live AS (
        SELECT tenant, id FROM memos.cube
        WHERE (tenant, id) IN (SELECT * FROM unnest(%(tenants)s::text[], %(ids)s::uuid[]))
        FOR KEY SHARE
    )
    INSERT INTO memos.reembedding (tenant, id, version, model, embedding)
    SELECT tenant, id, version, %(model)s::jsonb, embedding
    FROM unnest(
        %(tenants)s::text[], %(ids)s::uuid[], %(versions)s::integer[], %(embeddings)s::halfvec[]
    ) AS new (tenant, id, version, embedding)
    JOIN live USING (tenant, id)
    ON CONFLICT DO NOTHING
    RETURNING id
    """


def keep(model: Model, texts: Sequence[Text], embeddings: Vectors) -> Statement[None]:
    """Store new vectors of ``model`` beside the ones in use."""
    return Statement(
        sql=_KEEP,
        parameters={
            "model": model.as_json(),
            "tenants": [text.tenant for text in texts],
            "ids": [text.id for text in texts],
            "versions": [text.version for text in texts],
            "embeddings": HalfVectors(embeddings),
        },
        read=ignored,
        every_tenant=True,
    )


_SWAP: LiteralString = "SELECT memos.swap_embeddings(%(model)s::jsonb)"


def swap(model: Model) -> Statement[None]:
    """Put the vectors of ``model`` in place, under ``lock`` and once every version has one."""
    return Statement(
        sql=_SWAP, parameters={"model": model.as_json()}, read=ignored, every_tenant=True
    )


# --- the passages of cubes, once their cubes have their new vectors ------------------------------

_OUTDATED: LiteralString = """
    SELECT tenant, cube AS id, version, place, text FROM memos.passage
    WHERE model <> %(model)s::jsonb LIMIT %(limit)s
    """
_RENEW: LiteralString = """
    UPDATE memos.passage SET model = %(model)s::jsonb, embedding = new.embedding
    FROM unnest(
        %(tenants)s::text[], %(ids)s::uuid[], %(versions)s::integer[], %(places)s::integer[],
        %(embeddings)s::halfvec[]
    ) AS new (tenant, id, version, place, embedding)
    WHERE (passage.tenant, passage.cube, passage.version, passage.place)
        = (new.tenant, new.id, new.version, new.place)
    RETURNING passage.cube
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class PassageText(Text):
    """One text of several by which a version of a cube is found."""

    place: int


def outdated_passages(model: Model, *, limit: int) -> Statement[list[PassageText]]:
    """Read passages whose vectors are of another model."""
    return Statement(
        sql=_OUTDATED,
        parameters={"model": model.as_json(), "limit": limit},
        read=lambda rows: [PassageText(**row) for row in rows],
        every_tenant=True,
    )


def renew_passages(
    model: Model, texts: Sequence[PassageText], embeddings: Vectors
) -> Statement[None]:
    """Replace the vectors of passages."""
    return Statement(
        sql=_RENEW,
        parameters={
            "model": model.as_json(),
            "tenants": [text.tenant for text in texts],
            "ids": [text.id for text in texts],
            "versions": [text.version for text in texts],
            "places": [text.place for text in texts],
            "embeddings": HalfVectors(embeddings),
        },
        read=ignored,
        every_tenant=True,
    )
