"""Statements about which model made the vectors, and about replacing them all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from pgvector import HalfVector

from memos_core.embedder import Vectors
from memos_core.store.statement import Row, Statement, ignored


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """An embedding model as the database knows it: its name and the width of its vectors."""

    name: str
    width: int


def _model(rows: Sequence[Row]) -> Model | None:
    for row in rows:
        return Model(**row["value"])
    return None


_STORED: LiteralString = "SELECT value FROM memos.setting WHERE key = 'embedder'"
_CLAIM: LiteralString = """
    WITH claimed AS (
        INSERT INTO memos.setting (key, value) VALUES (%(key)s, %(model)s::jsonb)
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
    return Statement(sql=_CLAIM, parameters=_parameters("embedder", model), read=_model)


def _parameters(key: str, model: Model) -> dict[str, object]:
    return {"key": key, "model": json.dumps({"name": model.name, "width": model.width})}


# --- replacing every vector ----------------------------------------------------------------------

_BEGIN: LiteralString = """
    WITH other AS (
        SELECT FROM memos.setting WHERE key = 'reembedding' AND value <> %(model)s::jsonb
    ), stale AS (
        DELETE FROM memos.reembedding WHERE EXISTS (SELECT FROM other)
    )
    INSERT INTO memos.setting (key, value) VALUES ('reembedding', %(model)s::jsonb)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value
    RETURNING key
    """


def begin(model: Model) -> Statement[None]:
    """Note the model that is to come; vectors of an unfinished run for another one are dropped."""
    return Statement(sql=_BEGIN, parameters=_parameters("reembedding", model), read=ignored)


_EVERY: LiteralString = """
    SELECT tenant, id, version, text FROM memos.cube
    UNION ALL
    SELECT tenant, id, version, text FROM memos.cube_version
    """
_MISSING: LiteralString = (
    "SELECT tenant, id, version, text FROM ("
    + _EVERY
    + """) AS every
    WHERE NOT EXISTS (
        SELECT FROM memos.reembedding AS done
        WHERE (done.tenant, done.id, done.version) = (every.tenant, every.id, every.version)
    )
    LIMIT %(limit)s
    """
)
_COUNT: LiteralString = (
    "SELECT count(*) AS every, (SELECT count(*) FROM memos.reembedding) AS done FROM ("
    + _EVERY
    + ") AS every"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """One version of one cube whose vector is to be made."""

    tenant: str
    id: UUID
    version: int
    text: str


def missing(limit: int) -> Statement[list[Text]]:
    """Read texts that have no new vector yet, superseded versions too."""
    return Statement(
        sql=_MISSING, parameters={"limit": limit}, read=lambda rows: [Text(**row) for row in rows]
    )


def progress() -> Statement[tuple[int, int]]:
    """Count the versions that have their new vector, and all versions."""
    return Statement(
        sql=_COUNT, parameters={}, read=lambda rows: (rows[0]["done"], rows[0]["every"])
    )


_KEEP: LiteralString = """
    INSERT INTO memos.reembedding (tenant, id, version, embedding)
    SELECT * FROM unnest(
        %(tenants)s::text[], %(ids)s::uuid[], %(versions)s::integer[], %(embeddings)b::halfvec[]
    )
    ON CONFLICT DO NOTHING
    RETURNING id
    """


def keep(texts: Sequence[Text], embeddings: Vectors) -> Statement[None]:
    """Store new vectors beside the ones in use."""
    return Statement(
        sql=_KEEP,
        parameters={
            "tenants": [text.tenant for text in texts],
            "ids": [text.id for text in texts],
            "versions": [text.version for text in texts],
            "embeddings": [HalfVector(vector) for vector in embeddings],
        },
        read=ignored,
    )


_SWAP: LiteralString = "SELECT memos.swap_embeddings() AS swapped"


def swap() -> Statement[bool]:
    """Put all new vectors in place of the old ones, or nothing and False where some are missing."""
    return Statement(sql=_SWAP, parameters={}, read=lambda rows: bool(rows[0]["swapped"]))
