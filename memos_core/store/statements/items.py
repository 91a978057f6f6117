"""Statements that write items: values under keys, each of which is a cube."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from memos_core.cube import Provenance
from memos_core.embedder import Model, Vectors
from memos_core.item import SEMANTIC_TYPE
from memos_core.namespace import Namespace
from memos_core.store.arrays import HalfVectors, SparseVectors, Texts, Uuids
from memos_core.store.statement import Statement, ignored
from memos_core.store.statements.columns import COLUMNS, SEARCHED, provenance_json
from memos_core.store.statements.permission import MAY_WRITE
from memos_core.store.statements.scope import LIES_INSIDE, Scope
from memos_core.words import Words


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDraft:
    """An item to be: its cube's content, and the ``passages`` by which it is found, if several."""

    id: UUID
    namespace: Namespace
    text: str
    words: Words
    metadata: Mapping[str, object]
    sensitivity: tuple[str, ...]
    ttl: float | None
    passages: tuple[str, ...] = ()


_LIVE: LiteralString = "(expires_at IS NULL OR expires_at > now())"

# What is there is locked first, with what was made of it, as in `changes`. What has expired or
# ended under an id is left as it is: it is cleared away first (`cubes.clear_expired`).
_GIVEN: LiteralString = """
    WITH place AS MATERIALIZED (
        SELECT
            ordinal, (one ->> 'rules')::bigint AS rules,
            ARRAY(SELECT jsonb_array_elements_text(one -> 'path')) AS path
        FROM jsonb_array_elements(%(places)s::jsonb) WITH ORDINALITY AS one (one, ordinal)
    ), ruled AS MATERIALIZED (
        SELECT bool_and(memos.ruled_by(%(tenant)s, path, rules)) AS holds FROM place
    ), given AS MATERIALIZED (
        SELECT * FROM unnest(
            %(ids)s::uuid[], %(at)s::bigint[], %(texts)s::text[], %(counts)s::integer[],
            %(words)s::sparsevec[], %(embeddings)s::halfvec[], %(metadata)s::text[],
            %(found)s::text[], %(ttls)s::float8[]
        ) AS given (id, ordinal, text, word_count, words, embedding, metadata, found, ttl)
        JOIN place USING (ordinal)
    ), old AS MATERIALIZED (
        SELECT * FROM memos.cube
        WHERE id = ANY(%(ids)s::uuid[]) AND state <> 'frozen' AND """
_CHANGED: LiteralString = (
    """ AND CASE WHEN EXISTS (
                SELECT FROM memos.source WHERE source.tenant = %(tenant)s AND source.source = id
            ) THEN memos.hold(%(tenant)s, ARRAY[id]) ELSE true END
        ORDER BY id FOR UPDATE
    ), aged AS MATERIALIZED (
        SELECT id, greatest(clock_timestamp(), recorded_at + interval '1 microsecond') AS now
        FROM old
    ), superseded AS (
        INSERT INTO memos.cube_version SELECT aged.now, old.* FROM old JOIN aged USING (id)
    ), changed AS (
        UPDATE memos.cube AS cube SET
            version = cube.version + 1,
            recorded_at = aged.now,
            content_version = cube.version + 1,
            state = CASE WHEN cube.state IN ('merged', 'archived') THEN 'activated'
                ELSE cube.state END,
            text = given.text,
            semantic_type = %(semantic_type)s,
            metadata = given.metadata::jsonb,
            provenance = cube.provenance - 'restored_from',
            sensitivity = cube.sensitivity || ARRAY(
                SELECT label FROM unnest(string_to_array(given.found, ',')) AS label
                WHERE label <> ALL(cube.sensitivity)
            ),
            expires_at = aged.now + make_interval(secs => given.ttl),
            word_count = given.word_count,
            words = given.words,
            embedding = given.embedding
        FROM given JOIN aged USING (id)
        WHERE cube.tenant = %(tenant)s AND cube.id = given.id
            AND memos.embedded_by(%(model)s::jsonb) AND (SELECT holds FROM ruled)
        RETURNING cube.id, cube.version, cube.recorded_at, cube.namespace
    ), outdated AS (
        DELETE FROM memos.passage
        WHERE tenant = %(tenant)s AND cube = ANY(ARRAY(SELECT id FROM changed))
    ), added AS (
        INSERT INTO memos.cube ("""
    + COLUMNS
    + ","
    + SEARCHED
    + """, content_version)
        SELECT
            %(tenant)s, id, path, 'plaintext', 'generated', 1, text,
            %(semantic_type)s, '{}', metadata::jsonb, %(provenance)s::jsonb, '{}', %(user)s::text,
            0, string_to_array(found, ','), NULL, NULL, now(), now(),
            now() + make_interval(secs => ttl), word_count, words, NULL, NULL, embedding, false, 1
        FROM given
        WHERE id NOT IN (SELECT id FROM old) AND memos.embedded_by(%(model)s::jsonb)
            AND (SELECT holds FROM ruled) AND NOT EXISTS (
                SELECT FROM memos.cube_version AS past
                WHERE past.tenant = %(tenant)s AND past.id = given.id
            )
        ON CONFLICT DO NOTHING
        RETURNING id, 1 AS version, namespace
    ), late AS (
        INSERT INTO memos.unindexed (tenant, index, id)
        SELECT %(tenant)s, held.id, added.id FROM memos.search_index AS held JOIN added
            ON held.namespace = added.namespace[:cardinality(held.namespace)]
        WHERE held.tenant = %(tenant)s
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'added', namespace, %(caller)s::jsonb, array_agg(id), '{}'
        FROM added GROUP BY namespace
        UNION ALL
        SELECT
            %(tenant)s, recorded_at, 'updated', namespace, %(caller)s::jsonb,
            ARRAY[id], jsonb_build_object('version', version, 'mode', 'overwrite')
        FROM changed
    ), reached AS (
        SELECT
            memos.invalidate(
                %(tenant)s, array_agg(id), max(recorded_at), %(caller)s::jsonb
            ),
            memos.unindex(%(tenant)s, array_agg(id), namespace)
        FROM changed GROUP BY namespace
    ), written AS MATERIALIZED (
        SELECT id, version FROM changed UNION ALL SELECT id, version FROM added
    )
    SELECT
        ARRAY(SELECT id FROM written ORDER BY id) AS ids,
        ARRAY(SELECT version FROM written ORDER BY id) AS versions,
        (SELECT count(*) FROM reached), memos.announce(%(tenant)s)
    """
)


def put(
    scope: Scope,
    drafts: Sequence[ItemDraft],
    embeddings: Vectors,
    *,
    model: str,
    rules: Mapping[Namespace, int],
) -> Statement[dict[UUID, int]]:
    """Store items, each in place of what is under its id; read the versions that were written.

    ``rules`` are the versions of those that were applied, by namespace. What is frozen, may not be
    written, has expired or lies elsewhere under an id is left as it is, and its id is missing from
    the answer.
    """
    provenance = Provenance(source="item", created_by=scope.caller.user if scope.caller else None)
    places = {path: number for number, path in enumerate(rules, 1)}
    return Statement(
        sql=_GIVEN
        + LIES_INSIDE
        + " AND "
        + _LIVE
        + ("" if scope.caller is None else " AND " + MAY_WRITE)
        + _CHANGED,
        parameters=scope.parameters(
            places=json.dumps([{"path": path, "rules": by} for path, by in rules.items()]),
            ids=Uuids([draft.id for draft in drafts]),
            at=[places[draft.namespace] for draft in drafts],
            texts=Texts([draft.text for draft in drafts]),
            counts=[draft.words.count for draft in drafts],
            words=SparseVectors([draft.words.vector for draft in drafts]),
            embeddings=HalfVectors(embeddings),
            metadata=Texts([json.dumps(draft.metadata, ensure_ascii=False) for draft in drafts]),
            found=Texts([",".join(draft.sensitivity) for draft in drafts]),
            ttls=[draft.ttl for draft in drafts],
            provenance=json.dumps(provenance_json(provenance)),
            semantic_type=SEMANTIC_TYPE,
            model=Model(name=model, width=embeddings.shape[1]).as_json(),
        ),
        read=lambda rows: dict(zip(rows[0]["ids"], rows[0]["versions"], strict=True)),
    )


_KEEP_PASSAGES: LiteralString = """
    INSERT INTO memos.passage (tenant, cube, version, place, text, model, embedding)
    SELECT %(tenant)s, cube, version, place, text, %(model)s::jsonb, embedding
    FROM unnest(
        %(cubes)s::uuid[], %(versions)s::integer[], %(places)s::integer[], %(texts)s::text[],
        %(embeddings)s::halfvec[]
    ) AS given (cube, version, place, text, embedding)
    RETURNING cube
    """


def keep_passages(
    scope: Scope,
    drafts: Sequence[ItemDraft],
    versions: Mapping[UUID, int],
    embeddings: Vectors,
    *,
    model: str,
) -> Statement[None]:
    """Store the passages of items that were just put, in their order, with their vectors."""
    every = [
        (draft.id, versions[draft.id], place, text)
        for draft in drafts
        for place, text in enumerate(draft.passages)
    ]
    return Statement(
        sql=_KEEP_PASSAGES,
        parameters=scope.parameters(
            cubes=Uuids([cube for cube, *_ in every]),
            versions=[version for _, version, *_ in every],
            places=[place for *_, place, _ in every],
            texts=Texts([text for *_, text in every]),
            embeddings=HalfVectors(embeddings),
            model=Model(name=model, width=embeddings.shape[1]).as_json(),
        ),
        read=ignored,
    )
